"""`python -m standin [host ...]`: serves until it is ended, and prints the URL of each host when it is up.

It takes free ports. Without a host it is 127.0.0.1.
"""

import contextlib
import logging
import os
import sys
import threading
import traceback
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from . import cloudformation, dynamodb, ec2, lag, reset, scheduler, security_hub, sqs, sts
from .front import Front


class Handler(MotoRequestHandler):
    """Keeps connections open, as AWS does. werkzeug's own reads on after an answer, and so into the next request."""

    protocol_version = "HTTP/1.1"

    def run_wsgi(self) -> None:
        begun: list[Any] = []
        self.environ = self.make_environ()
        try:
            body = b"".join(self.server.app(self.environ, lambda *status_and_headers: begun.extend(status_and_headers)))
            status, headers = begun[:2]
        except Exception:
            traceback.print_exc()
            status, headers, body = "500 INTERNAL SERVER ERROR", [], b""
            self.close_connection = True  # perhaps with a request that was not read to its end
        code, _, reason = status.partition(" ")
        with contextlib.suppress(OSError):  # the other side is gone
            self.send_response(int(code), reason)
            for name, value in headers:
                if name.lower() != "content-length":
                    self.send_header(name, value)
            if code != "204":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()


def main(hosts: list[str]) -> None:
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # the transform of SAM asks for one
    for talkative in ("werkzeug", "samtranslator"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    for module in (cloudformation, dynamodb, ec2, lag, reset, scheduler, security_hub, sqs, sts):
        module.install()
    app = Front(DomainDispatcherApplication(create_backend_app))
    servers = [make_server(host, 0, app, threaded=True, request_handler=Handler) for host in hosts]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    for host, server in zip(hosts, servers, strict=True):
        print(f"http://{host}:{server.server_port}", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:] or ["127.0.0.1"])

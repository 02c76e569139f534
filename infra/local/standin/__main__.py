"""`python -m standin [host ...]`: serves until it is ended, and prints the URL of each host when it is up.

It takes free ports. Without a host it is 127.0.0.1.
"""

import logging
import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from . import cloudformation, dynamodb, ec2, lag, reset, scheduler, security_hub, sqs, sts
from .front import Front


class Handler(MotoRequestHandler):
    """Keeps connections open, as AWS does."""

    protocol_version = "HTTP/1.1"


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

"""`python -m standin [host] [port]`: serves until it is ended, and prints its URL when it is up.

Port 0, the default, takes a free one.
"""

import logging
import os
import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from . import cloudformation, ec2, scheduler, security_hub, sqs, sts
from .front import Front


class Handler(MotoRequestHandler):
    """Keeps connections open, as AWS does."""

    protocol_version = "HTTP/1.1"


def main(host: str = "127.0.0.1", port: str = "0") -> None:
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # the transform of SAM asks for one
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for module in (cloudformation, ec2, scheduler, security_hub, sqs, sts):
        module.install()
    app = Front(DomainDispatcherApplication(create_backend_app))
    server = make_server(host, int(port), app, threaded=True, request_handler=Handler)
    server.daemon_threads = True
    print(f"http://{host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])

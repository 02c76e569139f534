"""What stands before moto: it sees every call, and can let it fail as AWS would.

Its own routes, beside moto's `/moto-api/reset`:

- `GET /standin/calls`: the calls since the last reset, in order.
- `POST /standin/faults`: a list of faults, each `{"service", "operation", "region"?, "status"?, "code", "times"?}`.
- `POST /standin/reset`: forgets calls, faults and everything moto holds.
"""

import io
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from moto.moto_api._internal import moto_api_backend
from werkzeug.wrappers import Request, Response

_REST_OPERATIONS = {
    ("securityhub", "POST", "/findings"): "GetFindings",
    ("securityhub", "POST", "/findings/import"): "BatchImportFindings",
    ("securityhub", "POST", "/accounts"): "EnableSecurityHub",
}
_QUERY_SERVICES = {"ec2", "sts"}


class Call:
    """A call, as its signature and target name it."""

    def __init__(self, request: Request, body: bytes):
        # AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...
        scope = request.headers.get("Authorization", "").partition("Credential=")[2].split(",")[0].split("/")
        self.access_key, _, self.region, self.service, _ = scope if len(scope) == 5 else ("", "", "", "", "")
        target = request.headers.get("X-Amz-Target", "")
        if target:
            self.operation = target.rpartition(".")[2]
        elif self.service in _QUERY_SERVICES:
            self.operation = parse_qs(body.decode()).get("Action", [""])[0]
        else:
            self.operation = _REST_OPERATIONS.get((self.service, request.method, request.path), request.path)

    def as_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("service", "operation", "region", "access_key")}


class Front:
    """A WSGI application around moto's."""

    def __init__(self, moto_app: Callable[..., Iterable[bytes]]):
        self._moto = moto_app
        self._lock = threading.Lock()
        self._calls: list[dict[str, str]] = []
        self._faults: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        if request.path.startswith("/standin/"):
            return self._own(request)(environ, start_response)
        if request.path.startswith("/moto-api"):
            return self._moto(environ, start_response)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        call = Call(request, body)
        with self._lock:
            self._calls.append(call.as_dict())
            fault = self._take_fault(call)
        if fault:
            return _error(call, fault["code"], fault.get("status", 400))(environ, start_response)
        if call.service == "sqs" and call.operation.startswith("SendMessage") and _has_illegal_character(body):
            return _error(call, "InvalidMessageContents", 400)(environ, start_response)
        return self._moto(environ, start_response)

    def _own(self, request: Request) -> Response:
        with self._lock:
            match (request.method, request.path):
                case ("GET", "/standin/calls"):
                    return Response(json.dumps(self._calls), mimetype="application/json")
                case ("POST", "/standin/faults"):
                    self._faults = [{"times": 1, **fault} for fault in json.loads(request.get_data())]
                    return Response(status=204)
                case ("POST", "/standin/reset"):
                    self._calls, self._faults = [], []
                    moto_api_backend.reset()
                    return Response(status=204)
                case _:
                    return Response(status=404)

    def _take_fault(self, call: Call) -> dict[str, Any] | None:
        for fault in self._faults:
            wanted = all(
                fault.get(name, getattr(call, name)) == getattr(call, name)
                for name in ("service", "operation", "region")
            )
            if wanted and fault["times"] > 0:
                fault["times"] -= 1
                return fault
        return None


def _has_illegal_character(body: bytes) -> bool:
    """Whether a message or attribute holds a character outside XML 1.0."""

    def texts(value: Any) -> Iterable[str]:
        match value:
            case str():
                yield value
            case dict():
                for member in value.values():
                    yield from texts(member)
            case list():
                for element in value:
                    yield from texts(element)

    def is_legal(c: str) -> bool:
        return c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000"

    return not all(is_legal(c) for text in texts(json.loads(body)) for c in text)


def _error(call: Call, code: str, status: int) -> Response:
    message = f"the stand-in was told to answer {call.operation} with {code}"
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    match call.service:
        case "ec2":
            body = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
            return Response(body, status=status, mimetype="text/xml")
        case "sts":
            body = f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
            return Response(body, status=status, mimetype="text/xml")
    body = json.dumps({"__type": code, "message": message})
    return Response(body, status=status, mimetype="application/json", headers={"x-amzn-errortype": code})

"""What stands before moto: it sees every call, and can let it fail as AWS would.

Its own routes, beside moto's `/moto-api/reset`:

- `GET /standin/calls`: the calls since the last reset, in order. `began` and `ended` are their places in the sequence
  of all beginnings and ends; a call that is under way has not ended.
- `GET /standin/messages`: what was sent to queues since the last reset, and what schedules were told to send, in order:
  `queue`, `body`, `attributes` and the `access_key` of the sender. Also of calls that a fault struck.
- `DELETE /standin/malformed`: what AWS would refuse in the requests since the last time or reset, see `model_check`.
- `POST /standin/faults`: a list of faults, see `Fault`.
- `GET /standin/struck`: the call that a fault with `at` struck, or null. For a fault that hangs, waits for it.
- `GET /standin/idle`: answers when no call is under way.
- `GET /standin/units`: what DynamoDB would charge for the calls since the last reset, see `dynamodb.Consumed`.
- `POST /standin/forget-connections`: what comes over the connections that are open now is not answered any more, as
  where the network has forgotten them.
- `GET /standin/used-rights`: the rights of roles and users that were used since the last reset, see `iam`.
- `POST /standin/lag`: reads of a `service` lag behind its writes from now on, for so many `reads` if given, see `lag`.
- `DELETE /standin/lag`: all services have caught up.
- `POST /standin/ocsf`: a finding of Security Hub (V2), which then is in the default account and `?region`.
- `POST /standin/settings`: an object of fields of `Settings`, here and in `ec2`, `security_hub` and `sts`. Those not
  named go back to their defaults.
- `POST /standin/reset`: forgets calls, faults, settings and everything moto holds.
"""

import contextlib
import io
import itertools
import json
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from moto.core.request import Request
from moto.iam.models import get_account_id_from
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Response

from . import dynamodb, ec2, iam, lag, model_check, reset, security_hub, sts

_REST_OPERATIONS = {
    ("securityhub", "POST", "/findings"): "GetFindings",
    ("securityhub", "POST", "/findings/import"): "BatchImportFindings",
    ("securityhub", "PATCH", "/findings/batchupdate"): "BatchUpdateFindings",
    ("securityhub", "POST", "/findingsv2"): "GetFindingsV2",
    ("securityhub", "PATCH", "/findingsv2/batchupdatev2"): "BatchUpdateFindingsV2",
    ("securityhub", "POST", "/accounts"): "EnableSecurityHub",
    ("scheduler", "POST", "/schedules/*"): "CreateSchedule",
    ("scheduler", "GET", "/schedules/*"): "GetSchedule",
    ("scheduler", "PUT", "/schedules/*"): "UpdateSchedule",
    ("scheduler", "DELETE", "/schedules/*"): "DeleteSchedule",
}
_SENDING = {"SendMessage", "SendMessageBatch", "CreateSchedule", "UpdateSchedule"}
# What a service says to a request of a wrong form; the others say ValidationException.
_MALFORMED = {
    "ec2": "InvalidParameterValue",
    "securityhub": "InvalidInputException",
    "sqs": "InvalidParameterValue",
    "sts": "ValidationError",
}
_QUERY_SERVICES = {"cloudformation", "ec2", "iam", "sts"}
WsgiApp = Callable[..., Iterable[bytes]]


@dataclass
class Settings:
    """How AWS behaves, whatever the service."""

    latency_ms: int = 0
    """Each call waits so long before it is carried out"""


class Call:
    """A call, as its signature and target name it."""

    def __init__(self, request: Request):
        self.body = request.get_data()
        self.path, self.query = request.path, request.args
        # AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...
        scope = request.headers.get("Authorization", "").partition("Credential=")[2].split(",")[0].split("/")
        self.access_key, _, self.region, self.service, _ = scope if len(scope) == 5 else ("", "", "", "", "")
        self.account = get_account_id_from(self.access_key)
        target = request.headers.get("X-Amz-Target", "")
        if target:
            self.operation = target.rpartition(".")[2]
        elif self.service in _QUERY_SERVICES:
            self.operation = parse_qs(self.body.decode()).get("Action", [""])[0]
        else:
            paths = (self.path, self.path.rpartition("/")[0] + "/*")
            names = (_REST_OPERATIONS.get((self.service, request.method, path)) for path in paths)
            self.operation = next(filter(None, names), self.path)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("service", "operation", "region", "access_key", "account")}


@dataclass
class Fault:
    """What is to go wrong, and where.

    It strikes calls by `service`, `operation`, `region` and `account`, as far as given, `times` times, after the first
    `skip` of them; or, with `at`, the at-th call after it was set, whatever that is, and then others like it until it
    has struck `times` times.

    `effect` is one of:
    - `error`: the answer is the error `code` with HTTP `status`, and in a JSON body the further `members`, such as the
      `CancellationReasons` of a transaction
    - `drop`: the connection ends before the call is carried out
    - `lose`: the call is carried out, and the connection ends before the answer
    - `partial`: of a batch the first half is carried out; of anything else, all of it
    - `refuse`: of a SendMessageBatch the entries whose message holds `text` are refused with `code`, for good (a
      `SenderFault`) or not
    - `hang`: the call is not carried out, and there is no answer
    - `hang-after`: the call is carried out, and there is no answer
    """

    effect: str = "error"
    service: str | None = None
    operation: str | None = None
    region: str | None = None
    account: str | None = None
    at: int | None = None
    skip: int = 0
    times: int = 1
    code: str = ""
    status: int = 400
    members: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    for_good: bool = True

    def strikes(self, call: Call) -> bool:
        if self.at is not None:
            self.at -= 1
            if self.at > 0:
                return False
            if self.at == 0:
                self.service, self.operation = call.service, call.operation
        names = ("service", "operation", "region", "account")
        wanted = all(getattr(self, name) in (None, getattr(call, name)) for name in names)
        if not wanted or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Front:
    """A WSGI application around moto's."""

    def __init__(self, moto_app: WsgiApp):
        self._moto = moto_app
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._under_way = 0
        self._calls: list[dict[str, Any]] = []
        self._malformed: list[str] = []
        self._sending: list[Call] = []
        self._moments = itertools.count()
        self._faults: list[Fault] = []
        self._struck: dict[str, Any] | None = None
        self._hanging = threading.Event()
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._forgotten: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.settings = Settings()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        if request.path.startswith("/standin/"):
            return self._own(request)(environ, start_response)
        if request.path.startswith("/moto-api"):
            return self._moto(environ, start_response)
        connection = environ["werkzeug.socket"]
        self._connections.add(connection)
        if connection in self._forgotten:
            _wait_until_left(connection)
            return Response()(environ, start_response)
        call = Call(request)
        environ["wsgi.input"] = io.BytesIO(call.body)
        problems = model_check.problems(call.service, request)
        with self._lock:
            record = {**call.as_dict(), "began": next(self._moments), "ended": None}
            self._calls.append(record)
            self._malformed += [f"{call.service}:{call.operation}: {problem}" for problem in problems]
            if call.operation in _SENDING and not problems:
                self._sending.append(call)
            fault = next((fault for fault in self._faults if fault.strikes(call)), None)
            if fault and fault.at == 0:
                self._struck = {**call.as_dict(), "body": call.body.decode()}
        with self._idle:
            self._under_way += 1
        behind = lag.current.get(call.service)
        token = lag.is_behind.set(behind is not None and not problems and behind.takes(call))
        try:
            time.sleep(self.settings.latency_ms / 1000)
            refusal = problems and _error(call, _MALFORMED.get(call.service, "ValidationException"), 400, problems[0])
            return list((refusal or self._answer(call, fault, environ))(environ, start_response))
        finally:
            lag.is_behind.reset(token)
            with self._lock:
                record["ended"] = next(self._moments)
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _answer(self, call: Call, fault: Fault | None, environ: dict[str, Any]) -> WsgiApp:
        if call.service == "sqs" and call.operation.startswith("SendMessage") and _has_illegal_character(call.body):
            return _error(call, "InvalidMessageContents", 400)
        if denial := iam.denial(call):
            with self._lock:
                self._sending = [other for other in self._sending if other is not call]
            code = {"ec2": "UnauthorizedOperation", "sts": "AccessDenied"}.get(call.service, "AccessDeniedException")
            return _error(call, code, 403, denial)
        match fault and fault.effect:
            case None:
                return self._moto
            case "error":
                return _error(call, fault.code, fault.status, members=fault.members)
            case "partial":
                return self._partial(call, environ)
            case "refuse":
                return self._refuse(call, fault, environ)
            case "drop" | "lose" | "hang" | "hang-after" as effect:
                if effect in ("lose", "hang-after"):
                    run_wsgi_app(self._moto, environ, buffered=True)
                if effect.startswith("hang"):
                    self._hanging.set()
                    _wait_until_left(environ["werkzeug.socket"])
                with contextlib.suppress(OSError):
                    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return Response()
            case other:
                raise ValueError(other)

    def _partial(self, call: Call, environ: dict[str, Any]) -> WsgiApp:
        """Carries out the first half of a batch, and says of the rest what AWS says of what it did not process."""
        request = json.loads(call.body or b"{}")
        rest: dict[str, Any]
        match call.operation:
            case "SendMessageBatch":
                entries = request["Entries"]
                half = (len(entries) + 1) // 2
                request["Entries"] = entries[:half]
                failed = [{"Id": e["Id"], "Code": "InternalError", "SenderFault": False} for e in entries[half:]]
                rest = {"Failed": failed}
            case "BatchWriteItem":
                ((table, writes),) = request["RequestItems"].items()
                half = (len(writes) + 1) // 2
                request["RequestItems"] = {table: writes[:half]}
                rest = {"UnprocessedItems": {table: writes[half:]} if writes[half:] else {}}
            case "BatchGetItem":
                ((table, wanted),) = request["RequestItems"].items()
                keys = wanted["Keys"]
                half = (len(keys) + 1) // 2
                request["RequestItems"] = {table: {**wanted, "Keys": keys[:half]}}
                rest = {"UnprocessedKeys": {table: {**wanted, "Keys": keys[half:]}} if keys[half:] else {}}
            case _:
                return self._moto
        return self._changed(request, rest, environ)

    def _refuse(self, call: Call, fault: Fault, environ: dict[str, Any]) -> WsgiApp:
        request = json.loads(call.body)
        refused = [entry for entry in request["Entries"] if fault.text in entry["MessageBody"]]
        error = {"Code": fault.code, "SenderFault": fault.for_good, "Message": f"refused for {fault.text!r}"}
        rest = {"Failed": [{"Id": entry["Id"], **error} for entry in refused]} if refused else {}
        request["Entries"] = [entry for entry in request["Entries"] if entry not in refused]
        if not request["Entries"]:
            return _json({"Successful": [], **rest})
        return self._changed(request, rest, environ)

    def _changed(self, request: dict[str, Any], rest: dict[str, Any], environ: dict[str, Any]) -> WsgiApp:
        """moto's answer to another request, with more members."""
        body = json.dumps(request).encode()
        environ = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        parts, status, _ = run_wsgi_app(self._moto, environ, buffered=True)
        answer = json.loads(b"".join(parts))
        return Response(json.dumps({**answer, **rest}), status=status, mimetype="application/x-amz-json-1.0")

    def _own(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("GET", "/standin/calls"):
                return _json(self._calls)
            case ("GET", "/standin/messages"):
                return _json([message for call in list(self._sending) for message in _messages(call)])
            case ("GET", "/standin/struck"):
                if any(fault.effect.startswith("hang") for fault in self._faults):
                    self._hanging.wait(timeout=float(request.args["wait"]))
                return _json(self._struck)
            case ("GET", "/standin/idle"):
                with self._idle:
                    is_idle = self._idle.wait_for(lambda: self._under_way == 0, timeout=30)
                return Response(status=204 if is_idle else 500)
            case ("GET", "/standin/units"):
                return _json([asdict(consumed) for consumed in dynamodb.consumed])
            case ("POST", "/standin/forget-connections"):
                self._forgotten.update(list(self._connections))
                return Response(status=204)
            case ("GET", "/standin/used-rights"):
                return _json({"used": sorted(iam.used), "doubly_allowed": sorted(iam.doubly_allowed)})
            case ("DELETE", "/standin/malformed"):
                with self._lock:
                    malformed, self._malformed = self._malformed, []
                return _json(malformed)
            case ("POST", "/standin/faults"):
                with self._lock:
                    self._faults = [Fault(**fault) for fault in json.loads(request.get_data())]
                    self._struck = None
                    self._hanging.clear()
                return Response(status=204)
            case ("POST", "/standin/lag"):
                order = json.loads(request.get_data())
                with self._lock:
                    lag.current[order["service"]] = lag.Lag(**order)
                return Response(status=204)
            case ("DELETE", "/standin/lag"):
                lag.current.clear()
                return Response(status=204)
            case ("POST", "/standin/ocsf"):
                security_hub.put_ocsf(get_account_id_from(""), request.args["region"], request.get_data().decode())
                return Response(status=204)
            case ("POST", "/standin/settings"):
                with self._lock:
                    unknown = self._set(json.loads(request.get_data()))
                return Response(f"no such setting: {', '.join(unknown)}", 400) if unknown else Response(status=204)
            case ("POST", "/standin/reset"):
                with self._lock:
                    self._calls, self._malformed, self._sending, self._faults, self._struck = [], [], [], [], None
                    self._set({})
                    lag.current.clear()
                    dynamodb.consumed.clear()
                    iam.used.clear()
                    iam.doubly_allowed.clear()
                    reset.reset()
                return Response(status=204)
            case _:
                return Response(status=404)

    def _set(self, values: dict[str, Any]) -> set[str]:
        """Gives each module its settings; where a name is unknown, returns it and changes nothing."""
        owners = (self, ec2, security_hub, sts)
        names = [{field.name for field in fields(owner.settings)} for owner in owners]
        unknown = values.keys() - set().union(*names)
        if not unknown:
            for owner, own in zip(owners, names, strict=True):
                owner.settings = type(owner.settings)(**{name: values[name] for name in values.keys() & own})
        return unknown


def _wait_until_left(connection: socket.socket) -> None:
    """Until whoever called has gone away."""
    with contextlib.suppress(OSError):
        connection.recv(1)


def _json(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")


def _messages(call: Call) -> list[dict[str, Any]]:
    """What a call sends, or has a schedule send."""
    request = json.loads(call.body)
    if call.service == "scheduler":
        sent = [(request["Target"]["Arn"], request["Target"]["Input"], {})]
    else:
        entries = request.get("Entries", [request])
        sent = [(request["QueueUrl"], entry["MessageBody"], entry.get("MessageAttributes", {})) for entry in entries]
    return [
        {
            "queue": re.split("[/:]", address)[-1],
            "body": body,
            "attributes": {name: value["StringValue"] for name, value in attributes.items()},
            "access_key": call.access_key,
        }
        for address, body, attributes in sent
    ]


_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _has_illegal_character(body: bytes) -> bool:
    """Whether a message or attribute holds a character outside XML 1.0."""

    def is_illegal(value: Any) -> bool:
        match value:
            case str():
                return _ILLEGAL.search(value) is not None
            case dict():
                return any(map(is_illegal, value.values()))
            case list():
                return any(map(is_illegal, value))
        return False

    return is_illegal(json.loads(body))


def _error(
    call: Call, code: str, status: int, message: str | None = None, members: dict[str, Any] | None = None
) -> Response:
    message = message or f"the stand-in was told to answer {call.operation} with {code}"
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    match call.service:
        case "ec2":
            body = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
            return Response(body, status=status, mimetype="text/xml")
        case "cloudformation" | "iam" | "sts":
            body = f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
            return Response(body, status=status, mimetype="text/xml")
    body = json.dumps({"__type": code, "message": message, **(members or {})})
    return Response(body, status=status, mimetype="application/json", headers={"x-amzn-errortype": code})

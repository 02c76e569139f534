"""The connector on this machine: a stand-in for AWS, and the real functions under Lambda's runtime interface emulator.

Used by the demo and by the integration tests. Everything started here is ended with the process that started it, also
when that one is killed.
"""

import contextlib
import ctypes
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import boto3
import samcli
from botocore.config import Config

LOCAL = Path(__file__).resolve().parent
ROOT = LOCAL.parent.parent
# Ships inside the wheel of the SAM CLI: the program that stands in the place of Lambda in AWS's own images.
EMULATOR = (
    Path(samcli.__file__).parent
    / "local"
    / "rapid"
    / ("aws-lambda-rie-arm64" if platform.machine() in ("aarch64", "arm64") else "aws-lambda-rie-x86_64")
)
TEMPLATE = ROOT / "template.yaml"
ACCOUNT = "123456789012"  # moto's own
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "standin", "AWS_SECRET_ACCESS_KEY": "standin", "AWS_SESSION_TOKEN": "standin"}
TESTS = {"AccessKeyId": "tests"}  # `standin.sts` lets this one assume every role

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[str]:
    # A group of its own, so that Ctrl-C reaches the parent alone, which then ends its children in order.
    return subprocess.Popen(command, preexec_fn=_end_with_parent, start_new_session=True, text=True, **options)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and all that came of it: the emulator puts the function into a group of its own."""
    for pid in [process.pid, *_descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent ...; the name may hold anything
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


class StandIn:
    """AWS on this machine; at other addresses of it as well, if asked to: `urls` are those."""

    def __init__(self, *more_hosts: str) -> None:
        self._process = _spawn(
            [sys.executable, "-m", "standin", "127.0.0.1", *more_hosts],
            cwd=LOCAL,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        self.url, *self.urls = (self._process.stdout.readline().strip() for _ in ["127.0.0.1", *more_hosts])
        if not self.url:
            raise RuntimeError("the stand-in for AWS did not start; what it printed stands above")

    def client(self, service: str, region: str = REGION, credentials: dict[str, str] | None = None) -> Any:
        keys = credentials or {}
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=keys.get("AccessKeyId", "standin"),
            aws_secret_access_key=keys.get("SecretAccessKey", "standin"),
            aws_session_token=keys.get("SessionToken"),
            config=Config(retries={"total_max_attempts": 1}),
        )

    def assume(self, role: str) -> dict[str, str]:
        """Credentials of a role, as the services that it trusts get them. What the policies of one in IAM do not
        allow is denied to them."""
        sts = self.client("sts", credentials=TESTS)
        return sts.assume_role(RoleArn=role, RoleSessionName="tests")["Credentials"]

    def account(self, account: str) -> dict[str, str]:
        """Credentials of another account."""
        return self.assume(f"arn:aws:iam::{account}:role/tests")

    def deploy(self, name: str = "aisoc", **parameters: str) -> "Stack":
        """The template, deployed as a stack. The code of its functions is a placeholder: what runs are the binaries."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket="code")
        s3.put_object(Bucket="code", Key="function.zip", Body=b"placeholder")
        self.client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text().replace("CodeUri: .", "CodeUri: s3://code/function.zip"),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return Stack(self, name)

    def state_table(self, name: str = "state") -> str:
        """The poller's state table, as the template has it."""
        self.client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
        )
        return name

    def import_findings(self, texts: list[str], region: str = REGION) -> None:
        """BatchImportFindings with the findings as they are, whatever they hold; boto3 would write them anew."""
        self._own(
            "POST",
            "/findings/import",
            '{"Findings": [' + ", ".join(texts) + "]}",
            {"Authorization": f"AWS4-HMAC-SHA256 Credential=standin/20261123/{region}/securityhub/aws4_request, "},
        )

    def put_ocsf(self, finding: dict[str, Any], region: str = REGION) -> None:
        """A finding of Security Hub (V2)."""
        self._own("POST", f"/standin/ocsf?region={region}", json.dumps(finding))

    def fire(self, name: str, group: str = "default") -> None:
        """What EventBridge Scheduler does at the time of a one-time schedule whose target is a queue."""
        scheduler = self.client("scheduler")
        schedule = scheduler.get_schedule(Name=name, GroupName=group)
        target = schedule["Target"]
        sqs = self.client("sqs", credentials=self.assume(target["RoleArn"]))
        queue = self.client("sqs").get_queue_url(QueueName=target["Arn"].rpartition(":")[2])["QueueUrl"]
        sqs.send_message(QueueUrl=queue, MessageBody=target["Input"], **target.get("SqsParameters", {}))
        if schedule.get("ActionAfterCompletion") == "DELETE":
            scheduler.delete_schedule(Name=name, GroupName=group)

    def units(self, table: str) -> dict[str, float]:
        """The read and write request units that the calls on a table have taken since the last reset."""
        calls = json.loads(self._own("GET", "/standin/units"))
        calls = [call for call in calls if call["table"] in (table, None)]
        return {kind: sum(call[kind] for call in calls) for kind in ("read", "write")}

    def forget_connections(self) -> None:
        """What comes over the connections that are open now is not answered any more."""
        self._own("POST", "/standin/forget-connections")

    def used_rights(self) -> set[tuple[str, str, str]]:
        """Of the rights of roles and users that were used: whose, the statement's Sid, and the action."""
        return {tuple(right) for right in json.loads(self._own("GET", "/standin/used-rights"))["used"]}

    def doubly_allowed(self) -> list[list[str]]:
        """Calls that more than one statement allowed: whose, the action, and the resource."""
        return json.loads(self._own("GET", "/standin/used-rights"))["doubly_allowed"]

    def calls(self) -> list[dict[str, Any]]:
        return json.loads(self._own("GET", "/standin/calls"))

    def messages(self) -> list[dict[str, Any]]:
        """What was sent to queues since the last reset, and what schedules were told to send."""
        return json.loads(self._own("GET", "/standin/messages"))

    def malformed(self) -> list[str]:
        """What AWS would refuse in the requests since the last time or reset: it is forgotten when it is read."""
        return json.loads(self._own("DELETE", "/standin/malformed"))

    def fail(self, *faults: dict[str, Any]) -> None:
        """Faults in the place of those before: fields of `Fault` in `standin.front`. Such as `{"operation":
        "RevokeSecurityGroupIngress", "skip": 1, "times": 2, "code": "Unavailable", "status": 503}`."""
        self._own("POST", "/standin/faults", json.dumps(faults))

    def lag(self, service: str = "ec2", reads: int | None = None) -> None:
        """From now on reads of EC2 or DynamoDB answer with what is there now, whatever is written: until `catch_up`, or
        for so many reads. Of EC2 every Describe is a read, of DynamoDB every read that is not consistent."""
        self._own("POST", "/standin/lag", json.dumps({"service": service, "reads": reads}))

    def catch_up(self) -> None:
        self._own("DELETE", "/standin/lag")

    def struck(self) -> dict[str, Any] | None:
        """The call that a fault with `at` struck; of a fault that hangs, as soon as there is one."""
        return json.loads(self._own("GET", "/standin/struck?wait=30"))

    def wait_until_idle(self) -> None:
        """Returns when no call is under way."""
        self._own("GET", "/standin/idle")

    def settings(self, **settings: Any) -> None:
        """How AWS behaves: fields of `Settings` in `standin.front`, `ec2`, `security_hub` and `sts`. Sets all of them:
        those not named go back to their defaults."""
        self._own("POST", "/standin/settings", json.dumps(settings))

    def reset(self) -> None:
        self._own("POST", "/standin/reset")

    def _own(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> bytes:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=body.encode() if body is not None else None,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            malformed = self.malformed() if kind is None else []
        finally:
            _end(self._process)
        if malformed:
            raise RuntimeError(f"AWS would refuse: {malformed}")


class Stack:
    """A stack that was deployed from the template."""

    def __init__(self, aws: StandIn, name: str):
        cloudformation = aws.client("cloudformation")
        (described,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        self._aws = aws
        self.name = name
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
        self.resources = {
            r["LogicalResourceId"]: r.get("PhysicalResourceId") for r in resources if "LogicalResourceId" in r
        }

    def configuration(self, function: str) -> dict[str, Any]:
        """Of a function, by its name in the template: as Lambda has it."""
        return self._aws.client("lambda").get_function_configuration(FunctionName=self.resources[function])

    def environment(self, function: str) -> dict[str, str]:
        """The environment variables of a function as deployed, with those that Lambda adds, for this machine."""
        configuration = self.configuration(function)
        return {
            **configuration["Environment"]["Variables"],
            **as_variables(self._aws.assume(configuration["Role"])),
            "AWS_LAMBDA_FUNCTION_NAME": configuration["FunctionName"],
            "AWS_ENDPOINT_URL": self._aws.url,
        }


def as_variables(credentials: dict[str, str]) -> dict[str, str]:
    """Credentials as STS gives them, as environment variables."""
    return {
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
    }


class FunctionError(Exception):
    """The function answered with an error."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(f"{answer.get('errorType')}: {answer.get('errorMessage')}")
        self.type = answer.get("errorType")
        self.message = answer.get("errorMessage", "")


class Function:
    """A function's binary under the runtime interface emulator."""

    def __init__(self, binary: Path, environment: dict[str, str], timeout: int = 60):
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed with the function)
        self.name = binary.name
        self.environment = environment
        env = {
            "PATH": os.environ["PATH"],
            "AWS_REGION": REGION,
            "AWS_LAMBDA_FUNCTION_NAME": binary.name,
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            **CREDENTIALS,
            **environment,
        }
        self._process, self._port = self._start(binary, env)

    def _start(self, binary: Path, env: dict[str, str]) -> tuple[subprocess.Popen[str], int]:
        # The emulator takes no port 0. Between the choice of a free port and its use another process can take it:
        # then the emulator ends, and others are chosen.
        for _ in range(10):
            invoke, runtime = _free_ports(2)
            process = _spawn(
                [
                    str(EMULATOR),
                    "--log-level=error",
                    f"--runtime-interface-emulator-address=127.0.0.1:{invoke}",
                    f"--runtime-api-address=127.0.0.1:{runtime}",
                    str(binary),
                ],
                env=env,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None:
                if _accepts(invoke) and _accepts(runtime):
                    return process, invoke
                time.sleep(0.005)
        raise RuntimeError(f"the runtime interface emulator does not start:\n{self.log()}")

    def invoke(self, event: Any) -> Any:
        """The answer to an event; a string is sent as it is."""
        body = event if isinstance(event, str) else json.dumps(event)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/2015-03-31/functions/function/invocations", data=body.encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        if not text:  # so answers the emulator when the function's process ended before it asked for an event
            raise FunctionError({"errorType": "Runtime.ExitError", "errorMessage": f"{self.name} has ended"})
        answer = json.loads(text)
        if isinstance(answer, dict) and "errorType" in answer:
            raise FunctionError(answer)
        return answer

    def start_invocation(self, event: Any) -> threading.Thread:
        """Invokes, and waits for no answer: for a function that is about to be killed."""

        def invoke() -> None:
            with contextlib.suppress(OSError, FunctionError):
                self.invoke(event)

        thread = threading.Thread(target=invoke)
        thread.start()
        return thread

    def processes(self) -> list[int]:
        """The emulator and, after it, the function."""
        return [self._process.pid, *_descendants(self._process.pid)]

    def kill(self) -> None:
        """Ends the function's process, in the middle of whatever it does."""
        _end(self._process)

    def log(self) -> str:
        """What the function and the emulator printed."""
        self._log.seek(0)
        return self._log.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)
        self._log.close()


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to outgoing connections, any of which could take one before it is used."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            s = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", random.randrange(10_000, max(first_outgoing, 20_000))))
                ports.append(s.getsockname()[1])
        return ports


def _accepts(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def binary(name: str) -> Path:
    """The function's binary, as `cargo build` leaves it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target / "debug" / name).resolve()


def event(name: str) -> str:
    """The text of a file of `events/`."""
    return (ROOT / "events" / f"{name}.json").read_text()


def drain(sqs: Any, url: str) -> list[dict[str, Any]]:
    """Every message of a queue, which is then empty."""
    messages = []
    while True:
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        )
        batch = answer.get("Messages", [])
        if not batch:
            return messages
        messages += batch
        entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(batch)]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)


def as_sqs_event(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The event Lambda makes of received messages."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": {},
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:actions.fifo",
                "awsRegion": REGION,
            }
            for message in messages
        ]
    }

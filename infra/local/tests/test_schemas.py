"""The schemas and the AsyncAPI document, held against the files of events/, the template and the reader of requests."""

import itertools
import json
import random
import re
import subprocess
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

import contract
import local
from conftest import EVENT_GROUP

# What no schema can say: it depends on the function's settings.
REFUSED_BY_POLICY = {
    "bad-region",
    "bad-role",
    "bad-target-everything",
    "bad-target-nat64",
    "bad-target-private",
    "bad-target-protected",
    "bad-target-too-wide",
}
# What a schema could not say, or only at the price of being read by no one: parts of the reader's messages.
ONLY_THE_READER_KNOWS = {
    "bits of the host in a CIDR block": r"target must be a CIDR block without host bits",
    "an order of two numbers": r"params\.aws_from_port must be no greater than",
    "the IPv6 address of a CIDR block": r'target must be an IPv4 or IPv6 address.* not ".*:.*/\d+"$',
    "443.0, which is whole in JSON Schema": r"not -?\d+\.0$",
    "a line feed at the end, which Python's $ passes over": r'not "[^"]*\\n"$',
    "a member that stands twice": r"stands there twice$",
    "two names of one thing": r"must agree (where both stand|with them)$",
}


def names() -> list[str]:
    return sorted(path.stem for path in contract.EVENTS.glob("*.json"))


def is_valid(schema: str, value: Any) -> bool:
    return contract.validator(schema).is_valid(value)


@pytest.mark.parametrize("path", sorted(contract.SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_each_schema_is_one(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:aisoc:aws-security-hub:{path.stem}"
    # What AsyncAPI takes without being told another dialect; `$defs` is a place like any other there.
    Draft7Validator.check_schema({**schema, "$schema": "http://json-schema.org/draft-07/schema#"})


@pytest.mark.parametrize("name", names())
def test_each_event_is_as_its_schema_says(name: str) -> None:
    event = json.loads(local.event(name))
    if name.startswith("sqs-"):
        verdicts = [_is_request(record["body"]) for record in event["Records"]]
        assert verdicts == {"sqs-bad-among-good": [False, True], "sqs-bad-not-json": [False]}.get(
            name, [True] * len(verdicts)
        )
    elif name.startswith("poll-"):
        assert is_valid("poll-input", event) is not name.startswith("poll-bad-")
    elif name in ("audit", "list-blocks", "bad-mode"):
        assert is_valid("audit-input", event) is (name != "bad-mode")
        assert not is_valid("request", event)
    elif name.startswith("bad-"):
        (refusal,) = read([json.dumps(event)])
        accepted = name in REFUSED_BY_POLICY or (refusal is not None and is_only_for_the_reader(refusal))
        assert is_valid("request", event) is accepted
    else:
        assert is_valid("request", event)


def _is_request(body: str) -> bool:
    try:
        return is_valid("request", json.loads(body))
    except json.JSONDecodeError:
        return False


def read(requests: list[str]) -> list[str | None]:
    """Each request as the containment function reads it: None, or why it is refused."""
    command = [local.binary("schemas"), "read"]
    answers = subprocess.run(command, input="\n".join(requests), capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in answers.splitlines()]


def reasons(problem: str) -> set[str]:
    return {reason for reason, pattern in ONLY_THE_READER_KNOWS.items() if re.search(pattern, problem)}


def is_only_for_the_reader(refusal: str) -> bool:
    return all(reasons(problem) for problem in refusal.split("; "))


ACL = "acl-0123456789abcdef0"
ROLE = "arn:aws:iam::111122223333:role/"
GUARDDUTY = "arn:aws:securityhub:us-east-1::product/aws/guardduty"
_KINDS = contract.schema("request")["$defs"]
MEMBERS = [
    *dict.fromkeys([*_KINDS["BlockRequest"]["properties"], *_KINDS["WriteBackRequest"]["properties"]]),
    "mode",
    *(
        f"params.{name}"
        for name in dict.fromkeys(
            [*_KINDS["BlockParams"]["properties"], *_KINDS["WriteBackParams"]["properties"], "aws_secret_access_key"]
        )
    ),
    "params.aws_form_port",
]
VALUES: list[Any] = [
    *(None, True, False, [], {}, [{}], "", " ", "x", "x" * 256, "x" * 257, "é" * 256, "\U0001f512" * 256, "a\0"),
    *("\x9f", "a\tb", "a\n"),
    *(0, 1, -1, 6, 17, 58, 59, 60, 443, 65535, 65536, 31_536_000, 31_536_001, 80.5, 443.0, -1.0, 6.0, 1e3, 1e30),
    10**30,
    *("BLOCK_IP", "block_ip", "ALLOW_IP", "Allow_Ip", "DROP_IP", "BLOCK_IP ", " BLOCK_IP", "BLOCK_IP\n", "BLOCKIP"),
    "BLOCK-IP",
    *("tcp", "TCP", "udp", "Udp", "6", "17", "-1", "icmp", "1", "58", "06", "tcp ", "6.0", "all"),
    *("us-east-1", "us-gov-west-1", "eusc-de-east-1", "us-east-11", "us-east-111", "us-1", "u-east-1", "US-EAST-1"),
    *("us--east-1", "us-east-1\n"),
    *(EVENT_GROUP, "sg-0123abcd", "sg-0123ABCD", "sg-0123abcde", "sg-", ACL, "acl-0123abcd", "default"),
    "sg-0123abcd ",
    *([ACL], [ACL, ACL], [ACL, "acl-1"], [ACL, None], [[ACL]], {"0": ACL}, f"[{ACL}]"),
    *(f"{ROLE}r", f"{ROLE}path/to/n+=,.@_-", f"{ROLE}*", f"{ROLE}path/", ROLE, "arn:aws-cn:iam::111122223333:role/x"),
    *("arn:aws-us-gov:iam::111122223333:role/x", "arn:awsx:iam::111122223333:role/x", "arn:aws:iam::1:role/x"),
    f"{ROLE}r:s",
    *(f"{ROLE}{'r' * (2048 - len(ROLE))}", f"{ROLE}{'r' * (2049 - len(ROLE))}", "arn:aws:iam::111122223333:user/x"),
    *("203.0.113.7", "203.0.113.7/32", "203.0.113.0/24", "203.0.113.7/24", "0.0.0.0/0", "10.0.0.0/33", "10.0.0.0/08"),
    *("300.1.1.1", "203.0.113", "203.0.113.07", "203.0.113.7 ", "0xcb007107", "203.0.113.7:80"),
    *("203.0.113.7,203.0.113.8", "/24", "*"),
    *("2001:db8::7", "2001:DB8:0:0::/64", "::/0", "::", "::1", "2001:db8::/129", "2001:db8::7::"),
    *("2001:db8::7::/64", "2001:db8::/064"),
    *("::ffff:203.0.113.7", "::ffff:cb00:7107", "::ffff:203.0.113.0/120", "::ffff:203.0.113.07", "fe80::1%eth0"),
    "[2001:db8::7]",
    *("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7", "12345::", "g::", "host.example"),
    *("203.0.113.0-203.0.113.9", "٣.0.113.7"),
    *("update_alert_disposition", "ACK_ALERT", "Suppress_Alert", "ack-alert", "aws_security_hub"),
    *("aws_security_groups", "AWS_SECURITY_HUB", "panos"),
    *("false_positive", "False Positive", " FALSE-positive ", "benign", "Benign-True positive", "needs_review"),
    *("true  positive", "escalate", "truepositive", "\x1c", "\u00a0", "x" * 512, "é" * 513, "x" * 100_000),
    *(GUARDDUTY, "arn:aws-us-gov:securityhub:us-gov-west-1:1:product/a:b/c", "arn:aws:securityhub:::product/"),
    *("arn:aws-:securityhub:::product/a", f"{GUARDDUTY}{'x' * 460}", f"{GUARDDUTY} x", "arn:aws:guardduty:::product/a"),
    *(0.5, 1.0000001, -0.0001, 2),
]  # fmt: skip


def changed(request: dict[str, Any], changes: list[tuple[str, Any]]) -> dict[str, Any]:
    """The request with other members. A change of `params` comes first."""
    request = {**request, **{name: value for name, value in changes if "." not in name}}
    params = request.get("params")
    if isinstance(params, dict):
        new = {name.partition(".")[2]: value for name, value in changes if "." in name}
        request["params"] = {**params, **new}
    return request


def without(request: dict[str, Any], member: str) -> dict[str, Any]:
    name, _, inner = member.partition(".")
    if inner:
        return {**request, name: {k: v for k, v in request[name].items() if k != inner}}
    return {k: v for k, v in request.items() if k != name}


def requests() -> Iterator[str]:
    """Good requests; each with one member missing, or of any value; and many with several of any value."""
    kinds = ("block-", "allow-", "update-", "ack-", "suppress-")
    good = [json.loads(local.event(name)) for name in names() if name.startswith(kinds)]
    yield from map(json.dumps, good)
    for request, member in itertools.product(good, MEMBERS):
        yield json.dumps(without(request, member))
    each = ("block-ip", "allow-ip-expiry", "update-alert-disposition", "suppress-alert")
    for name, member, value in itertools.product(each, MEMBERS, VALUES):
        yield json.dumps(changed(json.loads(local.event(name)), [(member, value)]))
    chance = random.Random(20261124)
    # Of more than one change few are right by chance alone: most of these are drawn from what is right for a member.
    usable: dict[str, list[Any]] = {}
    kinds = [json.loads(local.event(name)) for name in ("block-ip", "update-alert-disposition")]
    for member in MEMBERS:
        usable[member] = [
            value
            for value in VALUES
            if any(is_valid("request", changed(request, [(member, value)])) for request in kinds)
        ]
    for _ in range(6000):
        chosen = chance.sample(MEMBERS, chance.randint(2, 6))
        pools = [usable[m] if usable[m] and chance.random() < 0.85 else VALUES for m in chosen]
        changes = [(member, chance.choice(pool)) for member, pool in zip(chosen, pools, strict=True)]
        yield json.dumps(changed(chance.choice(good), changes))
    text = local.event("block-ip").replace("\n", "")
    yield text.replace('"target":', '"target": "203.0.113.9", "target":')
    yield text.replace('"params": {', '"params": {"aws_security_group_id": "sg-0123abcd",')
    yield from ("null", "7", '"BLOCK_IP"', "[]", "{}")


def test_the_schema_takes_what_the_function_takes_and_no_more_than_it_must() -> None:
    texts = list(requests())
    refusals = read(texts)
    assert len(refusals) == len(texts)
    seen: set[str] = set()
    accepted = 0
    for text, refusal in zip(texts, refusals, strict=True):
        is_in_schema = is_valid("request", json.loads(text))
        if refusal is None:
            accepted += 1
            assert is_in_schema, text
        elif is_in_schema:
            assert is_only_for_the_reader(refusal), f"{refusal}\n{text}"
            seen.update(*map(reasons, refusal.split("; ")))
    assert seen == ONLY_THE_READER_KNOWS.keys()
    assert accepted > 500


@pytest.mark.parametrize("protocol", ["udp", "-1"])
def test_what_a_schedule_is_to_send_is_a_request(
    protocol: str, aws: local.StandIn, group: str, actions_queue: str, start_containment: Callable[..., local.Function]
) -> None:
    request = json.loads(local.event("block-ip-expires").replace(EVENT_GROUP, group))
    request["params"]["aws_protocol"] = protocol
    start_containment().invoke(request)
    name = actions_queue.rpartition("/")[2]
    (scheduled,) = [json.loads(message["body"]) for message in aws.messages() if message["queue"] == name]
    assert scheduled["only_if_blocked_by"] == request["request_id"]
    assert is_valid("request", scheduled)


@pytest.mark.parametrize(
    ("queue", "message", "change", "part"),
    [
        ("findings", "event", {"severity": "urgent"}, r"\$.severity"),
        ("findings", "event", {"src_ip": "host.example"}, r"\$.src_ip"),
        ("findings", "event", {"ingested_at": "today"}, "'date-time'"),
        ("findings", "event", {"more": 1}, "'more' was unexpected"),
        ("results", "result", {"details": {}}, r"\$.details"),
        ("results", "result", {"status": "rejected"}, r"\$.status"),
        ("results", "result", {"error": {"code": "busy"}}, r"\$.error"),
        ("results", "result", {"capability": None}, r"\$.capability"),
        ("actions.fifo", "request", {"dry_run": "yes"}, "not valid under any"),
    ],
)
def test_a_message_that_is_not_as_its_schema_says_is_found(
    queue: str, message: str, change: dict[str, Any], part: str
) -> None:
    example = contract.asyncapi()["components"]["messages"][message]["examples"][0]
    sent = {"queue": queue, "attributes": example.get("headers", {})}
    contract.check_messages([{**sent, "body": json.dumps(example["payload"])}])
    with pytest.raises(AssertionError, match=part):
        contract.check_messages([{**sent, "body": json.dumps({**example["payload"], **change})}])


def test_the_asyncapi_document_is_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how pydantic likes names
        from asyncapi3.models.asyncapi import AsyncAPI3
    AsyncAPI3.model_validate(contract.asyncapi())
    manifest = tomllib.loads((local.ROOT / "Cargo.toml").read_text())
    assert contract.asyncapi()["info"]["version"] == manifest["workspace"]["package"]["version"]


def test_every_reference_of_the_asyncapi_document_is_to_something() -> None:
    def references(part: Any) -> Iterator[str]:
        match part:
            case dict():
                yield from [part["$ref"]] if "$ref" in part else []
                yield from itertools.chain.from_iterable(map(references, part.values()))
            case list():
                yield from itertools.chain.from_iterable(map(references, part))

    found = set(references(contract.asyncapi()))
    assert {reference for reference in found if not reference.startswith("#")} == {
        "schemas/event.json",
        "schemas/request.json",
        "schemas/result.json",
    }
    for reference in found:
        file, _, pointer = reference.partition("#")
        place = yaml.safe_load((contract.EVENTS / file).read_text()) if file else contract.asyncapi()
        for step in filter(None, pointer.split("/")):
            place = place[step]


def test_the_channels_are_the_queues_of_the_template() -> None:
    resources = _template()["Resources"]
    queues = {
        name: resource["Properties"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::SQS::Queue" and "DeadLetter" not in name
    }
    channels = {
        channel["bindings"]["sqs"]["queue"]["name"]: channel["bindings"]["sqs"]["queue"]
        for channel in contract.asyncapi()["channels"].values()
    }
    assert channels == {
        name: {
            "name": name,
            "fifoQueue": queue.get("FifoQueue", False),
            "visibilityTimeout": queue["VisibilityTimeout"],
            "messageRetentionPeriod": queue["MessageRetentionPeriod"],
            "redrivePolicy": {
                "deadLetterQueue": {"name": queue["RedrivePolicy"]["deadLetterTargetArn"].partition(".")[0]},
                "maxReceiveCount": queue["RedrivePolicy"]["maxReceiveCount"],
            },
        }
        for name, queue in queues.items()
    }
    assert {f"{name}Queue".casefold() for name in contract.asyncapi()["channels"]} == {q.casefold() for q in queues}


def _template() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Takes CloudFormation's tags for their values."""

    Loader.add_multi_constructor("!", lambda loader, _, node: node.value)
    return yaml.load((local.ROOT / "template.yaml").read_text(), Loader)


@pytest.mark.parametrize("name", ["event", "request", "result"])
def test_the_examples_of_the_asyncapi_document_are_such_messages(name: str) -> None:
    message = contract.asyncapi()["components"]["messages"][name]
    for example in message["examples"]:
        contract.validator(name, only_known=True).validate(example["payload"])
        Draft202012Validator(message.get("headers", True)).validate(example.get("headers", {}))

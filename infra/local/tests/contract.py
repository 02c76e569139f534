"""Holds messages and answers against `events/schemas`, by a validator that shares nothing with the functions."""

import functools
import json
import re
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

import local

EVENTS = local.ROOT / "events"
SCHEMAS = EVENTS / "schemas"
_BY_MEMBER = {"places": "audit-report", "blocks": "block-listing"}  # of the containment function
_SCHEMA_OF_QUEUE = {"findings": "event", "actions": "request", "results": "result"}


@functools.cache
def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


@functools.cache
def asyncapi() -> dict[str, Any]:
    return yaml.safe_load((EVENTS / "asyncapi.yaml").read_text())


@functools.cache
def validator(name: str, *, only_known: bool = False) -> Draft202012Validator:
    """A validator with formats; with `only_known`, members that the schema leaves open but does not name are errors."""
    described = _closed(schema(name)) if only_known else schema(name)
    return Draft202012Validator(described, format_checker=Draft202012Validator.FORMAT_CHECKER)


@functools.cache
def _attributes() -> Draft202012Validator:
    return Draft202012Validator(_closed(asyncapi()["components"]["messages"]["event"]["headers"]))


def _closed(part: Any) -> Any:
    match part:
        case dict():
            closed = {"additionalProperties": False} if "properties" in part and "type" in part else {}
            return {**closed, **{name: _closed(value) for name, value in part.items()}}
        case list():
            return [_closed(value) for value in part]
    return part


def _check(what: str, validator: Draft202012Validator, value: Any) -> None:
    error = best_match(validator.iter_errors(value))
    assert error is None, f"{what}: {error.json_path}: {error.message}"


def _schema_of(queue: str) -> str | None:
    """By the queue's name: as a stack names it, or as a test names one in its place. One of another name is a test's
    own."""
    of_stack = re.fullmatch(r"[\w-]+-(Findings|Actions|Results)Queue-\w+(\.fifo)?", queue)
    return _SCHEMA_OF_QUEUE.get(of_stack[1].lower() if of_stack else queue.removesuffix(".fifo"))


def check_messages(messages: list[dict[str, Any]]) -> None:
    """What was sent to queues."""
    for message in messages:
        name = _schema_of(message["queue"])
        if name:
            what = f"message to {message['queue']}"
            _check(what, validator(name, only_known=True), json.loads(message["body"]))
        if name == "event":
            _check(f"attributes of a {what}", _attributes(), message["attributes"])


def check_answer(function: str, answer: Any) -> None:
    """A report or a result. The answer to an SQS event is Lambda's own."""
    if "batchItemFailures" in answer:
        return
    match function:
        case "poller":
            name = "connection-report" if "success" in answer else "poll-report"
        case _:
            name = next((name for member, name in _BY_MEMBER.items() if member in answer), "result")
    _check(f"answer of {function}", validator(name, only_known=True), answer)

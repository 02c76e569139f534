"""Holds messages and answers against `events/schemas`, by a validator that shares nothing with the functions."""

import functools
import json
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

import local

EVENTS = local.ROOT / "events"
SCHEMAS = EVENTS / "schemas"
_SCHEMA_OF_QUEUE = {"findings": "event", "actions.fifo": "request", "results": "result"}


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


def check_messages(messages: list[dict[str, Any]]) -> None:
    """Of the queues in the template, what was sent; a queue of another name is a test's own."""
    for message in messages:
        name = _SCHEMA_OF_QUEUE.get(message["queue"])
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
            name = "audit-report" if "mode" in answer else "result"
    _check(f"answer of {function}", validator(name, only_known=True), answer)

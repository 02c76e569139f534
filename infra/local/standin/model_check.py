"""Holds requests against AWS's own service models, which botocore has: a request of a form that AWS would refuse is
found here, before moto, which takes nearly everything.

Checked are the operation, required and unknown members, types, lengths, patterns, enumerations and ranges. AWS itself
ignores unknown members of a JSON request; they are an error here, because what they were to say is lost. The services
are those that the connector calls. Some rules the models have in words only, or not at all:

- An attribute value of DynamoDB has exactly one type, and its expressions use what is defined for them, all and only.
- EC2 takes 50 filters with 200 values each (Filter your resources, EC2 user guide), some of its Describes take no
  MaxResults beside ids, and descriptions of rules and tags have their characters and lengths.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import regex
from botocore.utils import parse_timestamp
from moto.core.request import Request, determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.utils import get_service_model
from werkzeug.exceptions import NotFound

SERVICES = {"dynamodb", "ec2", "scheduler", "secretsmanager", "securityhub", "sqs", "sts"}
# Its findings are the tests' own, and some of them are malformed on purpose.
_EXEMPT = {"BatchImportFindings"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "blob": bytes,
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
    "integer": int,
    "list": list,
    "long": int,
    "map": dict,
    "string": str,
    "structure": dict,
    "timestamp": datetime,
}
_DESCRIPTION = r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}"
# Patterns of members, by the shape they are in.
_IN_WORDS = {
    "IpRange": {"Description": _DESCRIPTION},
    "Ipv6Range": {"Description": _DESCRIPTION},
    "Tag": {"Key": "(?!aws:).{1,128}", "Value": ".{0,256}"},
}
_MAX_FILTERS, _MAX_FILTER_VALUES = 50, 200


def problems(service: str, request: Request) -> list[str]:
    """What AWS would refuse in a request, each as a sentence without a subject."""
    if service not in SERVICES:
        return []
    model = get_service_model(service)
    try:
        protocol = determine_request_protocol(model, request.content_type)
        operation, labels = get_service_router(service).match(request)
    except (NotFound, NotImplementedError):
        return [f"no operation of {service}: {request.method} {request.path}"]
    if operation.name in _EXEMPT:
        return []
    shape = operation.input_shape
    try:
        if protocol in ("ec2", "query"):
            form = dict(parse_qsl(request.get_data().decode(), keep_blank_values=True))
            del form["Action"]
            version = form.pop("Version", None)
            given = _from_form(shape, _tree(form), protocol == "ec2")
            found = [] if version == model.api_version else [f"Version: {version} is not {model.api_version}"]
        else:
            body = json.loads(request.get_data() or b"{}")
            if not isinstance(body, dict):
                return ["the body: is no object"]
            given, found = _from_json(shape, body), []
            if protocol == "rest-json":
                given |= _outside_the_body(shape, request, labels, operation.http_trait.query_args)
    except ValueError as error:
        return [f"the body: {error}"]
    return [*found, *_problems(shape, given, "")]


def _tree(form: dict[str, str]) -> dict[str, Any]:
    """A.1.B=x becomes {"A": {"1": {"B": "x"}}}."""
    tree: dict[str, Any] = {}
    for key, value in form.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key} is below a value")
        if last in node:
            raise ValueError(f"{key} is a value, and there are others below it")
        node[last] = value
    return tree


def _from_form(shape: Any, node: Any, is_ec2: bool) -> Any:
    """The value that a part of a form stands for; what does not fit the shape stays as it is. What is no
    member has its name in quotes: no member has."""
    if isinstance(node, str):
        if node == "" and shape.type_name == "list" and not is_ec2:
            return []
        return _scalar(shape, node)
    if shape.type_name == "structure":
        names = {_name_in_form(member, name, is_ec2): name for name, member in shape.members.items()}
        return {
            names.get(key, repr(key)): _from_form(shape.members[names[key]], value, is_ec2) if key in names else value
            for key, value in node.items()
        }
    if shape.type_name == "list":
        if not is_ec2:  # no request of the services here has a flattened list, or a map
            (name,) = node if len(node) == 1 else [""]
            if name != shape.member.serialization.get("name", "member") or not isinstance(node[name], dict):
                return node
            node = node[name]
        if sorted(node) == sorted(str(number) for number in range(1, len(node) + 1)):
            return [_from_form(shape.member, node[str(number)], is_ec2) for number in range(1, len(node) + 1)]
    return node


def _name_in_form(shape: Any, name: str, is_ec2: bool) -> str:
    name = shape.serialization.get("name", name)
    return shape.serialization.get("queryName", name[0].upper() + name[1:]) if is_ec2 else name


def _scalar(shape: Any, text: str) -> Any:
    """What a text of a form, path or query stands for; if it is none of the shape's, the text."""
    try:
        match shape.type_name:
            case "integer" | "long":
                return int(text)
            case "double" | "float":
                return float(text)
            case "boolean":
                return {"true": True, "false": False}[text]
            case "blob":
                return base64.b64decode(text, validate=True)
            case "timestamp":
                return parse_timestamp(text)
    except (ValueError, KeyError):
        pass
    return text


def _from_json(shape: Any, value: Any) -> Any:
    """The value that a part of a JSON body stands for, without members that are null; otherwise as with a form."""
    match shape.type_name, value:
        case "structure", dict() if not shape.is_document_type:
            in_body = {n: m for n, m in shape.members.items() if "location" not in m.serialization}
            names = {member.serialization.get("name", name): name for name, member in in_body.items()}
            return {
                names.get(key, repr(key)): _from_json(shape.members[names[key]], each) if key in names else each
                for key, each in value.items()
                if each is not None
            }
        case "list", list():
            return [_from_json(shape.member, each) for each in value]
        case "map", dict():
            return {key: _from_json(shape.value, each) for key, each in value.items()}
        case "blob", str():
            try:
                return base64.b64decode(value, validate=True)
            except binascii.Error:
                return value
        case "timestamp", _:
            is_number = shape.serialization.get("timestampFormat", "unixTimestamp") == "unixTimestamp"
            if isinstance(value, int | float if is_number else str):
                return _scalar(shape, str(value))
    return value


def _outside_the_body(shape: Any, request: Request, labels: dict[str, str], literals: dict[str, str]) -> dict[str, Any]:
    """The members in the path and the query; the services here have none in headers."""
    query = {key: values for key, values in request.args.lists() if key not in literals}
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        wire_name = member.serialization.get("name", name)
        match member.serialization.get("location"):
            case "uri" if wire_name in labels:
                found[name] = _scalar(member, labels[wire_name])
            case "querystring" if wire_name in query:
                texts = query.pop(wire_name)
                is_list = member.type_name == "list"
                found[name] = [_scalar(member.member, t) for t in texts] if is_list else _scalar(member, texts[-1])
    return found | {repr(key): values for key, values in query.items()}


@lru_cache
def _pattern(text: str) -> Any:
    """A pattern of the models, which are Java's: of characters outside the BMP they name the two halves."""
    return regex.compile(text.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"), regex.DOTALL)


def _problems(shape: Any, value: Any, where: str) -> Iterator[str]:
    """What a value lacks of its shape."""
    at = where or "the request"
    kind = shape.type_name
    if kind == "structure" and shape.is_document_type:
        return
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{at}: {_shown(value)} is no {kind}"
        return
    yield from (f"{at}: {problem}" for problem in _beyond(shape, value))
    match kind:
        case "structure":
            for name, each in value.items():
                if name in shape.members:
                    yield from _problems(shape.members[name], each, f"{where}.{name}".lstrip("."))
                else:
                    yield f"{at}: there is no member {name}"
        case "list":
            for index, each in enumerate(value):
                yield from _problems(shape.member, each, f"{where}[{index}]")
        case "map":
            for key, each in value.items():
                yield from _problems(shape.key, key, f"key of {where}")
                yield from _problems(shape.value, each, f"{where}[{key}]")


def _beyond(shape: Any, value: Any) -> Iterator[str]:
    """How a value of the right type breaks the rules of its shape."""
    rules = shape.metadata
    for name in rules.get("required", []):
        if name not in value:
            yield f"the required member {name} is missing"
    is_one_of = rules.get("union") or shape.name == "AttributeValue"
    if is_one_of and len(value) != 1:
        yield f"has {len(value)} members in place of exactly one"
    if isinstance(value, str):
        if "pattern" in rules and not _pattern(rules["pattern"]).fullmatch(value):
            yield f"{_shown(value)} does not match the pattern {rules['pattern']}"
        if rules.get("enum") and value not in rules["enum"]:
            yield f"{_shown(value)} is not one of {', '.join(rules['enum'])}"
    for name, pattern in _IN_WORDS.get(shape.name, {}).items():
        if isinstance(value.get(name), str) and not _pattern(pattern).fullmatch(value[name]):
            yield f"{name} {_shown(value[name])} does not match {pattern}"
    if "ExpressionAttributeNames" in getattr(shape, "members", {}):
        yield from _in_expressions(value)
    limit = getattr(shape, "members", {}).get("MaxResults")
    if limit and "MaxResults" in value and "cannot specify this parameter and the" in limit.documentation:
        yield from (f"has both MaxResults and {name}" for name in value if name.endswith("Ids"))
    if shape.name == "Filter" and len(value.get("Values", [])) > _MAX_FILTER_VALUES:
        yield f"has more than {_MAX_FILTER_VALUES} values"
    low, high = rules.get("min"), _MAX_FILTERS if shape.name == "FilterList" else rules.get("max")
    if shape.type_name in ("structure", "boolean", "timestamp"):
        return
    size, what = (value, "is") if isinstance(value, int | float) else (len(value), "has a length of")
    if low is not None and size < low:
        yield f"{what} {size}, less than {low}"
    if high is not None and size > high:
        yield f"{what} {size}, more than {high}"


def _in_expressions(value: dict[str, Any]) -> Iterator[str]:
    """Names and values that an operation of DynamoDB defines and does not use, or uses and does not define."""
    expressions = [each for name, each in value.items() if name.endswith("Expression") and isinstance(each, str)]
    used = set(regex.findall(r"[#:][A-Za-z0-9_]+", " ".join(expressions)))
    defined = set()
    for name in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
        match value.get(name):
            case dict(definitions) if definitions:
                defined |= set(definitions)
            case dict():
                yield f"{name} is empty"
    yield from (f"{each} is used and not defined" for each in sorted(used - defined))
    yield from (f"{each} is defined and not used" for each in sorted(defined - used))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."

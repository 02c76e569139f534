"""IAM: who calls with the credentials of a role or user that IAM holds may do what their policies allow, and no more.

moto lets everybody do everything. Here each call is held against the caller's policies and, of SQS, the queue's: by
action, resource and condition ("Policy evaluation logic" in the IAM user guide; which rights an operation takes, by the
Service Authorization Reference). What this module does not know is denied. What was allowed is kept by statement, so
that a test can tell which rights are never used.

Left out, because nothing here has them: boundaries of users, service control policies, session policies, NotAction and
its like. Who calls with any other key, as the tests do, is above all this.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.sqs.models import sqs_backends

Context = dict[str, list[str]]


@dataclass
class Need:
    """A right that a call takes."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@dataclass
class Principal:
    """Who calls."""

    arn: str
    name: str
    policies: list[str]
    boundary: str | None = None
    """The policy beyond which the others allow nothing"""


used: set[tuple[str, str, str]] = set()
"""Of each right that was used: the role or user, the statement's Sid, and the action"""
doubly_allowed: set[tuple[str, str, str]] = set()
"""Where more than one statement of a role or user allowed a call: whose, the action, and the resource"""


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@lru_cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in text), re.DOTALL)


def matches(have: str, want: str) -> bool:
    """`*` stands for any text, `?` for one character."""
    return _pattern(want).fullmatch(have) is not None


def arn_matches(have: str, want: str) -> bool:
    """Part by part: an asterisk does not reach over a colon."""
    haves, wants = have.split(":", 5), want.split(":", 5)
    return len(haves) == len(wants) and all(map(matches, haves, wants))


def _any(compare: Callable[[str, str], bool]) -> Callable[[list[str], list[str]], bool]:
    return lambda have, want: any(compare(h, w) for h in have for w in want)


# By operator, whether the values of a key in the request satisfy those of the policy. A key that the request lacks has
# no values: that satisfies the negated operators, IfExists, ForAllValues, and Null with "true".
_OPERATORS: dict[str, Callable[[list[str], list[str]], bool]] = {
    "StringEquals": _any(str.__eq__),
    "StringEqualsIfExists": lambda have, want: not have or _any(str.__eq__)(have, want),
    "StringLike": _any(matches),
    "ArnEquals": _any(arn_matches),
    "ArnLike": _any(arn_matches),
    "ArnNotEquals": lambda have, want: not _any(arn_matches)(have, want),
    "Bool": _any(str.__eq__),
    "Null": lambda have, want: want == [str(not have).lower()],
    "ForAllValues:StringEquals": lambda have, want: set(have) <= set(want),
}


def conditions_hold(statement: dict[str, Any], context: Context) -> bool | None:
    """None where an operator is not known."""
    values = {key.lower(): value for key, value in context.items()}
    for operator, conditions in statement.get("Condition", {}).items():
        if operator not in _OPERATORS:
            return None
        for key, want in conditions.items():
            have = values.get(key.lower(), [])
            if not _OPERATORS[operator](have, [str(each) for each in as_list(want)]):
                return False
    return True


def _decides(statement: dict[str, Any], need: Need, context: Context) -> bool:
    """Whether the statement is about this. One that is not understood allows nothing, and denies."""
    if not any(matches(need.action.lower(), action.lower()) for action in as_list(statement["Action"])):
        return False
    if not any(matches(need.resource, resource) for resource in as_list(statement["Resource"])):
        return False
    holds = conditions_hold(statement, context)
    return statement["Effect"] == "Deny" if holds is None else holds


def _statements(policy: str) -> Iterator[dict[str, Any]]:
    yield from as_list(json.loads(policy)["Statement"])


def _is_meant(statement: dict[str, Any], principal: Principal) -> bool:
    """Of a resource's policy."""
    meant = statement["Principal"]
    arns = as_list(meant.get("AWS", []) if isinstance(meant, dict) else meant)
    account = principal.arn.split(":")[4]
    return not {"*", principal.arn, account, f"arn:aws:iam::{account}:root"}.isdisjoint(arns)


def principal_of(account: str, access_key: str) -> Principal | None:
    """Who has the key, if IAM holds them."""
    backend = iam_backends[account]["aws"]
    key = backend.access_keys.get(access_key)
    if key is None:
        return None
    holder: Any
    if key.role_arn:
        holder = next((role for role in backend.get_roles() if role.arn == key.role_arn), None)
    else:
        holder = backend.users.get(key.user_name)
    if holder is None:
        return None
    inline = [text if isinstance(text, str) else json.dumps(text) for text in holder.policies.values()]
    managed = [_document(policy) for policy in holder.managed_policies.values()]
    return Principal(holder.arn, holder.name, inline + managed, _boundary(backend, holder))


def _boundary(backend: Any, holder: Any) -> str | None:
    arn = getattr(holder, "permissions_boundary_arn", None)
    if not arn:
        return None
    policy = backend.managed_policies.get(arn)
    if policy is None:  # AWS would not have taken it
        return '{"Statement": []}'
    return _document(policy)


def _document(policy: Any) -> str:
    """Of a managed policy."""
    document = next(version.document for version in policy.versions if version.is_default)
    return document if isinstance(document, str) else json.dumps(document)


def denial(call: Any) -> str | None:
    """What AWS says to a caller who may not do this; None if they may."""
    principal = principal_of(call.account, call.access_key)
    if principal is None:
        return None
    needs = _needs(call)
    if needs is None:
        return f"the stand-in does not know which rights {call.service}:{call.operation} takes"
    for need in needs:
        if not _is_allowed(principal, need, call):
            return f"User: {principal.arn} is not authorized to perform: {need.action} on resource: {need.resource}"
    return None


def _is_allowed(principal: Principal, need: Need, call: Any) -> bool:
    context: Context = {
        "aws:PrincipalArn": [principal.arn],
        "aws:RequestedRegion": [call.region],
        "aws:SecureTransport": ["true"],  # the stand-in has no TLS, and is meant to be taken for AWS
        **need.context,
    }
    of_identity = [s for policy in principal.policies for s in _statements(policy) if _decides(s, need, context)]
    of_resource = [s for s in _queue_statements(need) if _is_meant(s, principal) and _decides(s, need, context)]
    if any(statement["Effect"] == "Deny" for statement in of_identity + of_resource):
        return False
    if principal.boundary is not None:
        within = [s for s in _statements(principal.boundary) if _decides(s, need, context)]
        if not within or any(statement["Effect"] == "Deny" for statement in within):
            return False
    used.update((principal.name, statement.get("Sid", ""), need.action) for statement in of_identity)
    if len(of_identity) > 1:
        # Of two that allow the same, one is needless: its loss would not be noticed.
        doubly_allowed.add((principal.name, need.action, need.resource))
    # A queue of another account has to let in whom their own policy lets out.
    if need.action.startswith("sqs:") and need.resource.split(":")[4] != principal.arn.split(":")[4]:
        return bool(of_identity and of_resource)
    return bool(of_identity or of_resource)


def _queue_statements(need: Need) -> Iterator[dict[str, Any]]:
    queue = _queue(need.resource)
    if queue is not None and queue.policy:
        yield from _statements(queue.policy)


def _queue(arn: str) -> Any:
    parts = arn.split(":")
    if parts[2:3] != ["sqs"] or len(parts) != 6:
        return None
    return sqs_backends[parts[4]][parts[3]].queues.get(parts[5])


def _needs(call: Any) -> list[Need] | None:
    """The rights that a call takes; None where that is not known."""
    of_service = {
        "cloudformation": _of_cloudformation,
        "dynamodb": _of_dynamodb,
        "ec2": _of_ec2,
        "scheduler": _of_scheduler,
        "secretsmanager": lambda call: [Need(f"secretsmanager:{call.operation}", json.loads(call.body)["SecretId"])],
        "securityhub": _of_security_hub,
        "sqs": _of_sqs,
        "sts": _of_sts,
    }.get(call.service)
    return of_service(call) if of_service else None


def _arn(call: Any, resource: str) -> str:
    return f"arn:aws:{call.service}:{call.region}:{call.account}:{resource}"


def _of_cloudformation(call: Any) -> list[Need] | None:
    if call.operation != "DescribeStacks":
        return None
    name = parse_qs(call.body.decode())["StackName"][0]
    return [Need("cloudformation:DescribeStacks", _arn(call, f"stack/{name}/0"))]


def _of_dynamodb(call: Any) -> list[Need]:
    body = json.loads(call.body)

    def need(action: str, resource: str, context: Context | None = None) -> Need:
        return Need(f"dynamodb:{action}", _arn(call, f"table/{resource}"), context or {})

    if "TransactItems" in body:
        # There is no right to a transaction, but to what it does.
        context = {"dynamodb:EnclosingOperation": [call.operation]}
        return [
            need(f"{kind}Item", operation["TableName"], context)
            for item in body["TransactItems"]
            for kind, operation in item.items()
        ]
    if "RequestItems" in body:
        return [need(call.operation, table) for table in body["RequestItems"]]
    index = f"/index/{body['IndexName']}" if "IndexName" in body else ""
    return [need(call.operation, body["TableName"] + index)]


def _of_security_hub(call: Any) -> list[Need]:
    # Operations of V2 are authorised by the rights of their elders (the API reference says so of each).
    action = f"securityhub:{call.operation.removesuffix('V2')}"
    context: Context = {}
    if call.operation.startswith("BatchUpdateFindings"):
        syntax = "OCSF" if call.operation.endswith("V2") else "ASFF"
        for path, value in _leaves(json.loads(call.body)):
            context.setdefault(f"securityhub:{syntax}SyntaxPath/{path}", []).append(value)
    return [Need(action, _arn(call, "hub/default"), context)]


def _leaves(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields that a request sets, and their values, as IAM's condition keys name them."""
    for name, value in request.items():
        if name in ("FindingIdentifiers", "MetadataUids"):
            continue
        if name == "UserDefinedFields":
            for key, text in value.items():
                yield f"{name}.key", key
                yield f"{name}.value", text
        elif isinstance(value, dict):
            yield from ((f"{name}.{inner}", str(leaf)) for inner, leaf in value.items())
        else:
            yield from ((name, str(leaf)) for leaf in as_list(value))


_SQS_ACTIONS = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}


def _of_sqs(call: Any) -> list[Need]:
    body = json.loads(call.body)
    if "QueueUrl" not in body:
        return [Need(f"sqs:{call.operation}", _arn(call, body.get("QueueName", "*")))]
    action = _SQS_ACTIONS.get(call.operation, call.operation)
    account, name = body["QueueUrl"].rsplit("/", 2)[1:]
    arn = f"arn:aws:sqs:{call.region}:{account}:{name}"
    needs = [Need(f"sqs:{action}", arn)]
    queue = _queue(arn)
    key = getattr(queue, "kms_master_key_id", None)
    if key:
        # "Key management" in the SQS developer guide
        rights = {"SendMessage": ["kms:GenerateDataKey", "kms:Decrypt"], "ReceiveMessage": ["kms:Decrypt"]}
        via = {"kms:ViaService": [f"sqs.{call.region}.amazonaws.com"]}
        needs += [Need(right, key, via) for right in rights.get(action, [])]
    return needs


def _of_sts(call: Any) -> list[Need] | None:
    if call.operation == "GetCallerIdentity":
        return []
    if call.operation != "AssumeRole":
        return None
    return [Need("sts:AssumeRole", parse_qs(call.body.decode())["RoleArn"][0])]


def _of_scheduler(call: Any) -> list[Need]:
    body = json.loads(call.body or b"{}")
    name = call.path.rpartition("/")[2]
    group = body.get("GroupName") or call.query.get("groupName", "default")
    needs = [Need(f"scheduler:{call.operation}", _arn(call, f"schedule/{group}/{name}"))]
    if "Target" in body:
        service = {"iam:PassedToService": ["scheduler.amazonaws.com"]}
        needs.append(Need("iam:PassRole", body["Target"]["RoleArn"], service))
    return needs


def _of_ec2(call: Any) -> list[Need] | None:
    form = {key: values[0] for key, values in parse_qs(call.body.decode()).items()}
    action = f"ec2:{call.operation}"
    if call.operation.startswith("Describe"):
        return [Need(action, "*")]  # EC2 knows no resources for Describe
    tag_keys = {"aws:TagKeys": [value for key, value in form.items() if re.search(r"Tag\.\d+\.Key$", key)]}
    match call.operation:
        case "AuthorizeSecurityGroupIngress" | "RevokeSecurityGroupIngress":
            group = form["GroupId"]
            needs = [Need(action, _arn(call, f"security-group/{group}"), _tags(call, group))]
            if tag_keys["aws:TagKeys"]:
                rule = _arn(call, "security-group-rule/*")
                needs += [Need(action, rule, tag_keys), Need("ec2:CreateTags", rule, tag_keys)]
            return needs
        case "CreateTags":
            return [
                Need(action, _arn(call, f"security-group-rule/{value}"), tag_keys)
                for key, value in form.items()
                if key.startswith("ResourceId.") and value.startswith("sgr-")
            ] or None
        case "CreateNetworkAclEntry" | "DeleteNetworkAclEntry":
            acl = form["NetworkAclId"]
            return [Need(action, _arn(call, f"network-acl/{acl}"), _vpc(call, acl))]
    return None


def _vpc(call: Any, acl_id: str) -> Context:
    acl = ec2_backends[call.account][call.region].network_acls.get(acl_id)
    return {"ec2:Vpc": [_arn(call, f"vpc/{acl.vpc_id}")]} if acl else {}


def _tags(call: Any, resource_id: str) -> Context:
    tags = ec2_backends[call.account][call.region].tags.get(resource_id, {})
    return {f"aws:ResourceTag/{key}": [value] for key, value in tags.items()}

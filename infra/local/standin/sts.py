"""STS's AssumeRole, which asks the trust policy of the role. moto lets everybody assume everything.

Where IAM of the role's account holds no role of that name, the role can be assumed all the same, as with moto: most
tests need another account, not its roles. What this stand-in does not know in a trust policy lets nobody in.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from, iam_backends
from moto.sts.exceptions import STSValidationError
from moto.sts.responses import TokenResponse

TESTS_KEY = "tests"  # the access key of the tests themselves, which may assume every role


@dataclass
class Settings:
    """How STS behaves, beyond what it always does."""

    caller_arn: str = "arn:aws:iam::123456789012:role/aisoc-containment-function"
    """Who calls, where the call is not signed with the credentials of an assumed role"""
    roles_must_exist: bool = False
    """A role that IAM does not hold cannot be assumed"""


settings = Settings()


def _caller(access_key: str, partition: str) -> str:
    key = iam_backends[get_account_id_from(access_key)][partition].access_keys.get(access_key)
    return (key and key.role_arn) or settings.caller_arn


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _arn_matches(have: str, want: str) -> bool:
    """Part by part: an asterisk does not reach over a colon."""
    haves, wants = have.split(":", 5), want.split(":", 5)
    return len(haves) == len(wants) and all(map(fnmatchcase, haves, wants))


# By operator: the condition keys known with it, and how it compares. IAM takes the names of keys in any case.
_CONDITIONS: dict[str, tuple[set[str], Callable[[str, str], bool]]] = {
    "StringEquals": ({"sts:externalid", "aws:principalarn"}, str.__eq__),
    "ArnEquals": ({"aws:principalarn"}, _arn_matches),
    "ArnLike": ({"aws:principalarn"}, _arn_matches),
}


def _admits(statement: dict[str, Any], caller: str, external_id: str | None) -> bool:
    account = caller.split(":")[4]
    principal = statement.get("Principal", {})
    principals = _as_list(principal.get("AWS", []) if isinstance(principal, dict) else principal)
    if not {"*", caller, account, f"arn:aws:iam::{account}:root"}.intersection(principals):
        return False
    if not {"*", "sts:*", "sts:AssumeRole"}.intersection(_as_list(statement.get("Action"))):
        return False
    context = {"sts:externalid": external_id, "aws:principalarn": caller}
    for operator, condition in statement.get("Condition", {}).items():
        keys, matches = _CONDITIONS.get(operator, (set(), str.__eq__))
        for key, values in condition.items():
            have = context.get(key.lower())
            if key.lower() not in keys or have is None or not any(matches(have, want) for want in _as_list(values)):
                return False
    return True


def _may_assume(arn: str, caller: str, external_id: str | None) -> bool:
    parts = re.fullmatch(r"arn:([^:]+):iam::(\d{12}):role/(?:.*/)?([^/]+)", arn)
    if parts is None:
        raise STSValidationError(f"{arn} is invalid")
    partition, account, name = parts.groups()
    role = next((role for role in iam_backends[account][partition].get_roles() if role.name == name), None)
    if role is None:
        return not settings.roles_must_exist
    statements = _as_list(json.loads(role.assume_role_policy_document)["Statement"])
    only_allows = all(statement["Effect"] == "Allow" for statement in statements)
    return role.arn == arn and only_allows and any(_admits(s, caller, external_id) for s in statements)


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    assume_role = TokenResponse.assume_role

    def checked(self: TokenResponse) -> Any:
        # moto knows access keys of AWS's form only.
        signed = re.search("Credential=([^/]+)/", self.headers.get("Authorization", ""))
        access_key = signed[1] if signed else ""
        arn = self._get_param("RoleArn")
        caller = _caller(access_key, self.partition)
        if access_key == TESTS_KEY or _may_assume(arn, caller, self._get_param("ExternalId")):
            return assume_role(self)
        message = f"User: {caller} is not authorized to perform: sts:AssumeRole on resource: {arn}"
        error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>"
        body = f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
        return body, {"status": 403, "Content-Type": "text/xml"}

    TokenResponse.assume_role = checked

"""STS's AssumeRole, which asks the trust policy of the role. moto lets everybody assume everything.

Where IAM of the role's account holds no role of that name, the role can be assumed all the same, as with moto: most
tests need another account, not its roles. What this stand-in does not know in a trust policy lets nobody in.
"""

import json
import re
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from, iam_backends
from moto.sts.exceptions import STSValidationError
from moto.sts.responses import TokenResponse

from .iam import as_list, conditions_hold, principal_of

TESTS_KEY = "tests"  # the access key of the tests themselves, which may assume every role


@dataclass
class Settings:
    """How STS behaves, beyond what it always does."""

    caller_arn: str = "arn:aws:iam::123456789012:role/aisoc-containment-function"
    """Who calls, where IAM does not hold who has the key"""
    roles_must_exist: bool = False
    """A role that IAM does not hold cannot be assumed"""


settings = Settings()


def _caller(access_key: str, partition: str) -> str:
    account = get_account_id_from(access_key)
    if principal := principal_of(account, access_key):
        return principal.arn
    key = iam_backends[account][partition].access_keys.get(access_key)
    return (key and key.role_arn) or settings.caller_arn


def _admits(statement: dict[str, Any], caller: str, external_id: str | None) -> bool:
    account = caller.split(":")[4]
    principal = statement.get("Principal", {})
    principals = as_list(principal.get("AWS", []) if isinstance(principal, dict) else principal)
    if not {"*", caller, account, f"arn:aws:iam::{account}:root"}.intersection(principals):
        return False
    if not {"*", "sts:*", "sts:AssumeRole"}.intersection(as_list(statement.get("Action"))):
        return False
    context = {"sts:ExternalId": [external_id] if external_id else [], "aws:PrincipalArn": [caller]}
    return conditions_hold(statement, context) is True


def _may_assume(arn: str, caller: str, external_id: str | None) -> bool:
    parts = re.fullmatch(r"arn:([^:]+):iam::(\d{12}):role/(?:.*/)?([^/]+)", arn)
    if parts is None:
        raise STSValidationError(f"{arn} is invalid")
    partition, account, name = parts.groups()
    role = next((role for role in iam_backends[account][partition].get_roles() if role.name == name), None)
    if role is None:
        return not settings.roles_must_exist
    statements = as_list(json.loads(role.assume_role_policy_document)["Statement"])
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

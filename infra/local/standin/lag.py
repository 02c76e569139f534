"""Reads that lag behind the writes, on demand: both EC2 and DynamoDB are eventually consistent.

While a service lags, its reads answer with what was there when the lag began. Writes work on what is there: what exists
already is refused as a duplicate, though no read shows it. Of EC2 every Describe lags; of DynamoDB every read that is
not consistent.
"""

import copy
import json
import threading
from contextvars import ContextVar
from typing import Any

from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.responses import DynamoHandler
from moto.ec2.models import ec2_backends
from moto.ec2.responses._base_response import EC2BaseResponse

_BACKENDS = {"dynamodb": dynamodb_backends, "ec2": ec2_backends}
_DYNAMODB_READS = {"BatchGetItem", "GetItem", "Query", "Scan"}
is_behind = ContextVar("is_behind", default=False)
"""Whether the call that is under way is a read that lags"""


class Lag:
    """What one service showed when its lag began."""

    def __init__(self, service: str, reads: int | None):
        self._service = service
        self._reads_left = reads
        self._lock = threading.Lock()
        self._shown = {
            (account, region): _copy(backend)
            for account, regions in list(_BACKENDS[service].items())
            for region, backend in list(regions.items())
        }

    def takes(self, call: Any) -> bool:
        """Whether a call is a read that lags; each counts as one of the reads that the lag is to last."""
        if call.service != self._service or not _may_lag(call):
            return False
        with self._lock:
            if self._reads_left is not None:
                self._reads_left -= 1
            return self._reads_left is None or self._reads_left >= 0

    def shown(self, account: str, region: str) -> Any:
        """Where nothing was when the lag began, what is there now."""
        return self._shown.get((account, region)) or _BACKENDS[self._service][account][region]


current: dict[str, Lag] = {}
"""By service"""


def _copy(backend: Any) -> Any:
    copied = copy.deepcopy(backend)
    for groups in getattr(copied, "groups", {}).values():
        for group in groups.values():
            for rule in [*group.ingress_rules, *group.egress_rules]:
                rule.ec2_backend = copied  # of these moto's copies keep the original's, and with it the tags
    return copied


def _may_lag(call: Any) -> bool:
    if call.service == "ec2":
        return call.operation.startswith("Describe")
    if call.operation not in _DYNAMODB_READS:
        return False
    body = json.loads(call.body)
    reads = body["RequestItems"].values() if "RequestItems" in body else [body]
    return not all(read.get("ConsistentRead") for read in reads)


def install() -> None:
    """Lets the responses of moto take the backend that a lagging read sees."""
    for service, response, name in (
        ("dynamodb", DynamoHandler, "dynamodb_backend"),
        ("ec2", EC2BaseResponse, "ec2_backend"),
    ):
        setattr(response, name, _backend_of(service))


def _backend_of(service: str) -> property:
    def backend(self: Any) -> Any:
        lag = current.get(service)
        if lag and is_behind.get():
            return lag.shown(self.current_account, self.region)
        return _BACKENDS[service][self.current_account][self.region]

    return property(backend)

"""DynamoDB's transactions and writes as AWS has them, over moto's, and what AWS would charge for.

moto takes calls at once as they come, so that two conditional writes can both find their condition met, and a cancelled
transaction undoes what others wrote meanwhile. It carries out a transaction again that is repeated with its token,
and cancels one on a table that is not there instead of refusing it.
"""

import base64
import json
import math
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.dynamodb.responses import DynamoHandler

_calls = threading.RLock()
_READS = {"GetItem": "Item", "Query": "Items", "Scan": "Items"}
_WRITES = {"PutItem", "DeleteItem", "UpdateItem"}
_OF_TABLES = re.compile("(Create|Delete|Describe|List|Update)(Table|TimeToLive|ContinuousBackups|TagsOfResource)")


@dataclass
class Consumed:
    """The request units of a call ("Read and write request units" in DynamoDB's developer guide).

    A consistent read takes a unit for each 4 KB of what a GetItem, or all of a Query, reads, and at least one; one that
    is not consistent takes half. A write takes a unit for each KB of the larger of the item before and after it, also
    where its condition is not met. Of other operations nothing is known, and both are null."""

    operation: str
    table: str | None
    read: float | None
    write: float | None


consumed: list[Consumed] = []
"""Since the last reset"""


def size(item: dict[str, Any] | None) -> int:
    """Bytes of an item, by "DynamoDB item sizes and formats" in the developer guide."""
    return sum(len(name.encode()) + _size_of_value(value) for name, value in (item or {}).items())


def _size_of_value(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            digits = content.lstrip("-").replace(".", "").strip("0")
            return math.ceil(len(digits) / 2) + 1 + content.startswith("-")
        case "B":
            return len(content if isinstance(content, bytes) else base64.b64decode(content))
        case "BOOL" | "NULL":
            return 1
        case "L":
            return 3 + sum(1 + _size_of_value(element) for element in content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _size_of_value(member) for name, member in content.items())
        case "SS" | "NS" | "BS":
            return sum(_size_of_value({kind[0]: element}) for element in content)
    raise ValueError(kind)


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    call_action = DynamoHandler.call_action
    transact = DynamoHandler.transact_write_items

    @wraps(call_action)
    def one_at_a_time(self: DynamoHandler) -> Any:
        with _calls:
            operation, request = self._get_action(), json.loads(self.raw_body or "{}")
            before = _stored(self, request) if operation in _WRITES else None
            answer: Any = None
            try:
                answer = call_action(self)
            finally:
                if not _OF_TABLES.match(operation):
                    consumed.append(_consumed(self, operation, request, before, answer))
            return answer

    @wraps(transact)
    def transact_write_items(self: DynamoHandler) -> ActionResult:
        backend, items = self.dynamodb_backend, self.body["TransactItems"]
        # Kept in moto's backend so that moto's reset clears it. AWS forgets a token after 10 minutes.
        done = backend.__dict__.setdefault("standin_transactions", {})
        token = self.body.get("ClientRequestToken")
        if token in done:
            if done[token] != items:
                message = "The request uses the same client token as a previous, but non-identical request."
                raise JsonRESTError("IdempotentParameterMismatchException", message)
            return ActionResult({"ConsumedCapacity": [], "ItemCollectionMetrics": {}})
        for item in items:
            for operation in item.values():
                backend.get_table(operation["TableName"])
        answer = transact(self)
        if token:
            done[token] = items
        return answer

    DynamoHandler.call_action = one_at_a_time
    DynamoHandler.transact_write_items = transact_write_items


def _stored(handler: DynamoHandler, request: dict[str, Any]) -> dict[str, Any] | None:
    """The item that a write is about, as it stands."""
    table = handler.dynamodb_backend.tables.get(request["TableName"])
    key = request.get("Key") or request["Item"]
    if table is None or not set(table.table_key_attrs) <= set(key):
        return None
    item = handler.dynamodb_backend.get_item(table.name, {name: key[name] for name in table.table_key_attrs})
    return item.to_json()["Attributes"] if item else None


def _consumed(
    handler: DynamoHandler, operation: str, request: dict[str, Any], before: dict[str, Any] | None, answer: Any
) -> Consumed:
    table = request.get("TableName")
    if operation in _WRITES:
        largest = max(size(before), size(_stored(handler, request)))
        return Consumed(operation, table, 0, max(1, math.ceil(largest / 1024)))
    if operation in _READS and not {"ProjectionExpression", "FilterExpression"} & request.keys():
        items = _items(json.loads(answer[2]).get(_READS[operation]) if answer else None)
        units = max(1, math.ceil(sum(map(size, items)) / 4096))
        return Consumed(operation, table, units if request.get("ConsistentRead") else units / 2, 0)
    return Consumed(operation, table, None, None)


def _items(found: Any) -> Iterable[dict[str, Any]]:
    return found if isinstance(found, list) else [found] if found else []

"""DynamoDB's transactions and writes as AWS has them, over moto's.

moto takes calls at once as they come, so that two conditional writes can both find their condition met, and a cancelled
transaction undoes what others wrote meanwhile. It carries out a transaction again that is repeated with its token,
and cancels one on a table that is not there instead of refusing it.
"""

import threading
from functools import wraps
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.dynamodb.responses import DynamoHandler

_calls = threading.RLock()


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    call_action = DynamoHandler.call_action
    transact = DynamoHandler.transact_write_items

    @wraps(call_action)
    def one_at_a_time(self: DynamoHandler) -> Any:
        with _calls:
            return call_action(self)

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

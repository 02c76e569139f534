"""SQS's SendMessage in constant time.

moto counts all messages of a queue, three times, for each message that is sent to it: of a long backlog more time goes
into the counting than into all else. The counts are of no use to a send.
"""

from contextvars import ContextVar
from typing import Any

from moto.sqs.models import Queue, SQSBackend

_is_sending = ContextVar("is_sending", default=False)
_COUNTS = (
    "approximate_number_of_messages",
    "approximate_number_of_messages_delayed",
    "approximate_number_of_messages_not_visible",
)


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    send = SQSBackend.send_message

    def send_message(self: SQSBackend, *args: Any, **more: Any) -> Any:
        token = _is_sending.set(True)
        try:
            return send(self, *args, **more)
        finally:
            _is_sending.reset(token)

    SQSBackend.send_message = send_message
    for name in _COUNTS:
        setattr(Queue, name, _counted(getattr(Queue, name).fget))


def _counted(count: Any) -> property:
    return property(lambda queue: 0 if _is_sending.get() else count(queue))

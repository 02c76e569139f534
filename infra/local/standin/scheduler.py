"""EventBridge Scheduler's schedules where moto answers otherwise than AWS.

moto answers a second CreateSchedule of a name with HTTP 400, and fails where there is no such group. Of UpdateSchedule
it ignores ActionAfterCompletion and drops a state that is not named: AWS replaces the whole schedule, defaults and all.
"""

from typing import Any

from moto.scheduler.exceptions import ScheduleExists
from moto.scheduler.models import EventBridgeSchedulerBackend
from moto.scheduler.responses import EventBridgeSchedulerResponse


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    ScheduleExists.code = 409
    create = EventBridgeSchedulerBackend.create_schedule
    update = EventBridgeSchedulerResponse.update_schedule

    def create_schedule(self: EventBridgeSchedulerBackend, *, group_name: str | None, **more: Any) -> Any:
        self.get_schedule_group(group_name)
        return create(self, group_name=group_name, **more)

    def update_schedule(self: EventBridgeSchedulerResponse) -> str:
        answer = update(self)
        name = self.uri.rpartition("/")[2]
        schedule = self.scheduler_backend.get_schedule(self._get_param("GroupName"), name)
        schedule.state = schedule.state or "ENABLED"
        schedule.action_after_completion = self._get_param("ActionAfterCompletion") or "NONE"
        return answer

    EventBridgeSchedulerBackend.create_schedule = create_schedule
    EventBridgeSchedulerResponse.update_schedule = update_schedule

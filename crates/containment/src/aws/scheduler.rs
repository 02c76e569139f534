//! The schedules that end blocks, in EventBridge Scheduler, always in the function's own account and region.

use actions::block::Schedule;
use aws_sdk_scheduler::Client;
use aws_sdk_scheduler::types::{
    ActionAfterCompletion, FlexibleTimeWindow, FlexibleTimeWindowMode, SqsParameters, Target,
};
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::sqs;

use crate::ports::Schedules;

/// `SCHEDULE_GROUP`, `ACTIONS_QUEUE_ARN`, `SCHEDULER_ROLE_ARN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// The schedule group
    pub group: String,
    /// The FIFO queue that requests come from
    pub queue_arn: String,
    /// The role with which EventBridge Scheduler sends to it
    pub role_arn: String,
}

/// Schedules in EventBridge Scheduler; without settings there are none.
#[derive(Clone, Debug)]
pub struct EventBridgeSchedules {
    client: Client,
    settings: Option<ScheduleSettings>,
}

/// The IAM actions.
pub const CREATE_SCHEDULE: &str = "scheduler:CreateSchedule";
/// See [`CREATE_SCHEDULE`].
pub const UPDATE_SCHEDULE: &str = "scheduler:UpdateSchedule";
/// See [`CREATE_SCHEDULE`].
pub const DELETE_SCHEDULE: &str = "scheduler:DeleteSchedule";

/// How often a schedule is created or updated: between the two calls another may create it, or it may end and be deleted.
const ATTEMPTS: usize = 3;

impl EventBridgeSchedules {
    /// Schedules made through `client`.
    #[must_use]
    pub fn new(client: Client, settings: Option<ScheduleSettings>) -> Self {
        Self { client, settings }
    }
}

impl ScheduleSettings {
    fn target(&self, schedule: &Schedule) -> Option<Target> {
        Target::builder()
            .arn(&self.queue_arn)
            .role_arn(&self.role_arn)
            .input(sqs::escape_json(schedule.request.to_string()))
            .sqs_parameters(
                SqsParameters::builder()
                    .message_group_id(schedule.message_group.as_str())
                    .build(),
            )
            .build()
            .ok()
    }
}

/// Once, at a time in UTC: `at(yyyy-mm-ddThh:mm:ss)` ("Schedule types" in the EventBridge Scheduler user guide).
fn expression(schedule: &Schedule) -> String {
    format!("at({})", schedule.at.to_string().trim_end_matches('Z'))
}

/// Right after a deployment EventBridge Scheduler does not yet see that it may assume the role, and has no code of its own
/// for it: that passes, unlike other validation errors.
fn role_too_new(error: AwsError) -> AwsError {
    if error.has_code("ValidationException") && error.message.contains("EventBridge Scheduler to assume the role") {
        AwsError {
            kind: ErrorKind::Unreachable,
            ..error
        }
    } else {
        error
    }
}

impl Schedules for EventBridgeSchedules {
    async fn put(&self, schedule: &Schedule, deadline: &Deadline) -> Result<(), AwsError> {
        let unusable = || {
            let message = "the function has no settings for schedules".to_owned();
            AwsError::new(CREATE_SCHEDULE, ErrorKind::Rejected, message)
        };
        let settings = self.settings.as_ref().ok_or_else(unusable)?;
        let target = settings.target(schedule).ok_or_else(unusable)?;
        let window = FlexibleTimeWindow::builder()
            .mode(FlexibleTimeWindowMode::Off)
            .build()
            .map_err(|_| unusable())?;
        // The two requests are of different types with the same members: an update replaces the whole schedule.
        macro_rules! filled {
            ($request:expr) => {
                $request
                    .name(&schedule.name)
                    .group_name(&settings.group)
                    .schedule_expression(expression(schedule))
                    .flexible_time_window(window.clone())
                    .action_after_completion(ActionAfterCompletion::Delete)
                    .target(target.clone())
            };
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let create = filled!(self.client.create_schedule());
            match call(CREATE_SCHEDULE, deadline, create.send()).await {
                Err(error) if error.has_code("ConflictException") => {}
                outcome => return outcome.map(|_| ()).map_err(role_too_new),
            }
            let update = filled!(self.client.update_schedule());
            match call(UPDATE_SCHEDULE, deadline, update.send()).await {
                Err(error) if error.has_code("ResourceNotFoundException") || error.has_code("ConflictException") => {
                    if attempts == ATTEMPTS {
                        // Another attempt later may find it at rest.
                        return Err(AwsError {
                            kind: ErrorKind::Unreachable,
                            ..error
                        });
                    }
                }
                outcome => return outcome.map(|_| ()),
            }
        }
    }

    async fn delete(&self, name: &str, deadline: &Deadline) -> Result<(), AwsError> {
        let Some(settings) = &self.settings else {
            return Ok(());
        };
        let request = self.client.delete_schedule().name(name).group_name(&settings.group);
        match call(DELETE_SCHEDULE, deadline, request.send()).await {
            Err(error) if !error.has_code("ResourceNotFoundException") => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_scheduler::error::ErrorMetadata;
    use aws_sdk_scheduler::operation::create_schedule::{CreateScheduleError, CreateScheduleOutput};
    use aws_sdk_scheduler::operation::delete_schedule::{DeleteScheduleError, DeleteScheduleOutput};
    use aws_sdk_scheduler::operation::update_schedule::{UpdateScheduleError, UpdateScheduleOutput};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;

    use super::*;
    use crate::testing::mock_client;

    fn schedules(rules: &[&Rule]) -> EventBridgeSchedules {
        let settings = ScheduleSettings {
            group: "aisoc".to_owned(),
            queue_arn: "arn:aws:sqs:us-east-1:111122223333:actions.fifo".to_owned(),
            role_arn: "arn:aws:iam::111122223333:role/scheduler".to_owned(),
        };
        EventBridgeSchedules::new(mock_client!(aws_sdk_scheduler, rules), Some(settings))
    }

    fn schedule() -> Schedule {
        Schedule {
            name: "aisoc-sg-0123abcd-1".to_owned(),
            at: "2026-11-24T11:00:00Z".parse().unwrap(),
            message_group: "sg-0123abcd".parse().unwrap(),
            request: json!({"request_id": "expiry:r"}),
        }
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).build()
    }

    fn created() -> Rule {
        mock!(Client::create_schedule)
            .match_requests(|r| {
                let target = r.target().unwrap();
                r.name() == Some("aisoc-sg-0123abcd-1")
                    && r.group_name() == Some("aisoc")
                    && r.schedule_expression() == Some("at(2026-11-24T11:00:00)")
                    && r.action_after_completion() == Some(&ActionAfterCompletion::Delete)
                    && target.input() == Some(r#"{"request_id":"expiry:r"}"#)
                    && target.sqs_parameters().unwrap().message_group_id() == Some("sg-0123abcd")
            })
            .then_output(|| CreateScheduleOutput::builder().schedule_arn("a").build().unwrap())
    }

    fn conflict() -> Rule {
        mock!(Client::create_schedule).then_error(|| CreateScheduleError::generic(metadata("ConflictException")))
    }

    #[tokio::test]
    async fn a_schedule_is_made_once_and_deletes_itself() {
        let rule = created();
        schedules(&[&rule]).put(&schedule(), &deadline()).await.unwrap();
        assert_eq!(rule.num_calls(), 1);
    }

    #[tokio::test]
    async fn one_that_is_there_is_replaced() {
        let update = mock!(Client::update_schedule)
            .match_requests(|r| {
                r.schedule_expression() == Some("at(2026-11-24T11:00:00)")
                    && r.action_after_completion() == Some(&ActionAfterCompletion::Delete)
            })
            .then_output(|| UpdateScheduleOutput::builder().schedule_arn("a").build().unwrap());
        schedules(&[&conflict(), &update])
            .put(&schedule(), &deadline())
            .await
            .unwrap();
        assert_eq!(update.num_calls(), 1);
    }

    #[tokio::test]
    async fn one_that_comes_and_goes_is_worth_another_attempt_later() {
        let gone = mock!(Client::update_schedule)
            .then_error(|| UpdateScheduleError::generic(metadata("ResourceNotFoundException")));
        let error = schedules(&[&conflict(), &gone])
            .put(&schedule(), &deadline())
            .await
            .unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(gone.num_calls(), ATTEMPTS);
    }

    #[tokio::test]
    async fn a_role_that_is_too_new_is_worth_another_attempt() {
        for (message, is_retryable) in [
            (
                "The execution role you provide must allow AWS EventBridge Scheduler to assume the role.",
                true,
            ),
            ("Invalid ScheduleExpression", false),
        ] {
            let refused = mock!(Client::create_schedule).then_error(move || {
                let metadata = ErrorMetadata::builder().code("ValidationException").message(message);
                CreateScheduleError::generic(metadata.build())
            });
            let error = schedules(&[&refused]).put(&schedule(), &deadline()).await.unwrap_err();
            assert_eq!(error.is_retryable(), is_retryable, "{message}");
        }
    }

    #[tokio::test]
    async fn a_missing_schedule_group_is_an_error_for_good() {
        let missing = mock!(Client::create_schedule)
            .then_error(|| CreateScheduleError::generic(metadata("ResourceNotFoundException")));
        let error = schedules(&[&missing]).put(&schedule(), &deadline()).await.unwrap_err();
        assert!(!error.is_retryable());
    }

    #[tokio::test]
    async fn what_is_gone_is_deleted() {
        let gone = mock!(Client::delete_schedule)
            .then_error(|| DeleteScheduleError::generic(metadata("ResourceNotFoundException")));
        let deleted = mock!(Client::delete_schedule)
            .match_requests(|r| r.name() == Some("n") && r.group_name() == Some("aisoc"))
            .then_output(|| DeleteScheduleOutput::builder().build());
        for rule in [&gone, &deleted] {
            schedules(&[rule]).delete("n", &deadline()).await.unwrap();
            assert_eq!(rule.num_calls(), 1);
        }
        let denied = mock!(Client::delete_schedule)
            .then_error(|| DeleteScheduleError::generic(metadata("AccessDeniedException")));
        let error = schedules(&[&denied]).delete("n", &deadline()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AccessDenied);
    }
}

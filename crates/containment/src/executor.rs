//! One request, from the first check to the fresh look at what was changed.

use std::time::Duration;

use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;
use containment_plan::{Action, Details, ErrorDetail, Outcome, Policy, Request, plan};

use crate::accounts::Accounts;
use crate::ec2::{Change, SecurityGroups};
use crate::failure;

/// Carries out requests.
#[derive(Debug)]
pub struct Executor<A, C> {
    /// The region of a request that names none
    pub region: Region,
    /// What may be asked for
    pub policy: Policy,
    /// Where groups are
    pub accounts: A,
    /// The time
    pub clock: C,
}

/// Whether a request is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is: this is the answer
    Decided(Box<Outcome>),
    /// It is not: the same request may succeed later
    Undecided {
        /// The answer for someone who does not wait
        so_far: Box<Outcome>,
        /// Why
        error: ErrorDetail,
    },
}

/// Looks at a change, before it is said that it does not show. Describes of EC2 can lag behind changes ("Eventual
/// consistency" in the EC2 developer guide).
const LOOKS: u32 = 4;
/// Between the first two looks; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl<A: Accounts, C: Clock> Executor<A, C> {
    /// Carries out one request.
    pub async fn execute(&self, request: &Request, deadline: &Deadline) -> Verdict {
        let mut details = Details {
            security_group_id: Some(request.group.to_string()),
            region: Some(self.region_of(request).to_string()),
            ..Details::default()
        };
        let decided = |outcome| Verdict::Decided(Box::new(outcome));
        match self.carry_out(request, &mut details, deadline).await {
            Ok(done) => decided(match done {
                Done::Simulated(plan) => Outcome::of_dry_run(request, &plan, details, self.clock.stamp()),
                Done::Changed { changed, verified } => {
                    Outcome::of_success(request, changed, verified, details, self.clock.stamp())
                }
            }),
            Err(Stop::Refused(refusal)) => decided(Outcome::of_refusal(request, refusal, details, self.clock.stamp())),
            Err(Stop::Failed(error)) => {
                if let (ErrorKind::ExpiredCredentials, Some(role)) = (error.kind, &request.role) {
                    self.accounts.forget(role).await;
                }
                let error = failure::detail(&error, request);
                let outcome = Outcome::of_failure(request, error.clone(), details, self.clock.stamp());
                if error.retryable {
                    Verdict::Undecided {
                        so_far: Box::new(outcome),
                        error,
                    }
                } else {
                    decided(outcome)
                }
            }
        }
    }

    fn region_of<'a>(&'a self, request: &'a Request) -> &'a Region {
        request.region.as_ref().unwrap_or(&self.region)
    }

    async fn carry_out(&self, request: &Request, details: &mut Details, deadline: &Deadline) -> Result<Done, Stop> {
        self.policy.check(request)?;
        let groups = self
            .accounts
            .groups(request.role.as_ref(), self.region_of(request), deadline)
            .await?;
        let with_interfaces = request.action == Action::BlockIp;
        let state = groups.state(&request.group, with_interfaces, deadline).await?;
        details.vpc_id.clone_from(&state.vpc_id);
        details.account_id.clone_from(&state.owner_id);
        details.security_group_rule_id = state.rules.get(&request.rule).cloned();
        let plan = plan(request, &state, &self.policy)?;
        if request.dry_run {
            for step in &plan.steps {
                groups.ask(step, deadline).await?;
            }
            return Ok(Done::Simulated(plan));
        }
        let mut changed = false;
        for step in &plan.steps {
            tracing::info!(request_id = request.request_id, "{step}");
            changed |= groups.apply(step, deadline).await? == Change::Made;
        }
        let verified = self.look(&groups, request, details, deadline).await;
        Ok(Done::Changed { changed, verified })
    }

    /// Whether a fresh look shows what was asked for. The change has been made: that it cannot be seen, for whatever
    /// reason, does not undo it.
    async fn look(&self, groups: &A::Groups, request: &Request, details: &mut Details, deadline: &Deadline) -> bool {
        let should_be_there = request.action == Action::BlockIp;
        let mut pause = FIRST_PAUSE;
        for look in 1..=LOOKS {
            match groups.rules(&request.group, deadline).await {
                Ok(rules) => {
                    let id = rules.get(&request.rule);
                    if id.is_some() == should_be_there {
                        if let Some(id) = id {
                            details.security_group_rule_id = Some(id.clone());
                        }
                        return true;
                    }
                }
                Err(error) => {
                    tracing::warn!(request_id = request.request_id, %error, "the change cannot be verified");
                    return false;
                }
            }
            if look < LOOKS && deadline.bound(tokio::time::sleep(pause)).await.is_err() {
                break;
            }
            pause *= 2;
        }
        false
    }
}

enum Done {
    Simulated(containment_plan::Plan),
    Changed { changed: bool, verified: bool },
}

enum Stop {
    Refused(containment_plan::Refusal),
    Failed(AwsError),
}

impl From<containment_plan::Refusal> for Stop {
    fn from(refusal: containment_plan::Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<AwsError> for Stop {
    fn from(error: AwsError) -> Self {
        Self::Failed(error)
    }
}

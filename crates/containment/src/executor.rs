//! One request, from the first check to its answer.

use aws_support::{AwsError, Clock, Deadline};
use aws_text::Region;
use containment_plan::outcome::Done;
use containment_plan::{Details, ErrorDetail, Outcome, Policy, Refusal, Request, plan};
use futures::future::try_join_all;

use crate::accounts::Accounts;
use crate::failure;
use crate::network::{Look, Network};
use crate::run::{Run, Stop};
use crate::schedules::Schedules;

/// Carries out requests.
#[derive(Debug)]
pub struct Executor<A, S, C> {
    /// The region of a request that names none
    pub region: Region,
    /// What may be asked for
    pub policy: Policy,
    /// Where networks are
    pub accounts: A,
    /// What ends blocks
    pub schedules: S,
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

impl<A: Accounts, S: Schedules, C: Clock> Executor<A, S, C> {
    /// Carries out one request.
    pub async fn execute(&self, request: &Request, deadline: &Deadline) -> Verdict {
        let mut details = Details {
            security_group_id: Some(request.group.to_string()),
            region: Some(self.region_of(request).to_string()),
            ..Details::default()
        };
        let outcome = match self.carry_out(request, &mut details, deadline).await {
            Ok(End::Simulated(outcome)) => *outcome,
            Ok(End::Done(done)) => Outcome::of_success(request, &done, &self.policy, details, self.clock.stamp()),
            Err(Stop::Refused(refusal)) => Outcome::of_refusal(request, refusal, details, self.clock.stamp()),
            Err(Stop::DoorClosed { refusal, is_enforced }) => {
                self.of_closed_door(request, refusal, is_enforced, details)
            }
            Err(Stop::Failed(error) | Stop::DoorOpen(error)) => {
                if error.fresh_credentials_may_help() {
                    self.accounts.forget(request.role.as_ref()).await;
                }
                let error = failure::detail(&error, request);
                let outcome = Outcome::of_failure(request, error.clone(), details, self.clock.stamp());
                if error.retryable {
                    return Verdict::Undecided {
                        so_far: Box::new(outcome),
                        error,
                    };
                }
                outcome
            }
        };
        Verdict::Decided(Box::new(outcome))
    }

    fn region_of<'a>(&'a self, request: &'a Request) -> &'a Region {
        request.region.as_ref().unwrap_or(&self.region)
    }

    async fn carry_out(&self, request: &Request, details: &mut Details, deadline: &Deadline) -> Result<End, Stop> {
        self.policy.check(request)?;
        let network = self
            .accounts
            .network(request.role.as_ref(), self.region_of(request), deadline)
            .await?;
        let look = Look::of(request, &self.policy);
        let state = network.look(&look, deadline).await?;
        details.vpc_id = Some(state.group.vpc_id.clone());
        details.account_id.clone_from(&state.group.owner_id);
        details.security_group_rule_id = state.group.rules.get(&request.rule).map(|rule| rule.id.clone());
        let now = self.clock.now();
        let run = Run {
            request,
            policy: &self.policy,
            network: &network,
            schedules: &self.schedules,
            now,
            look,
            deadline,
        };
        let plan = match plan(request, &state, &self.policy, now) {
            Ok(plan) => plan,
            Err(refusal) if request.dry_run => return Err(refusal.into()),
            Err(refusal) => return Err(run.refused(refusal, &state).await),
        };
        details.expires_at = plan.expires_at.map(|at| at.to_string());
        if request.dry_run {
            try_join_all(plan.steps().map(|planned| network.ask(&planned.step, deadline))).await?;
            let found = plan::assess(request, &state, &self.policy);
            let details = std::mem::take(details);
            let outcome = Outcome::of_dry_run(request, &plan, &found, details, self.clock.stamp());
            return Ok(End::Simulated(Box::new(outcome)));
        }
        run.carry_out(plan, state, details)
            .await
            .map(|done| End::Done(Box::new(done)))
    }

    /// The group was attached to something while the block was made: its rule is gone again.
    fn of_closed_door(&self, request: &Request, refusal: Refusal, is_enforced: bool, details: Details) -> Outcome {
        Outcome {
            changed: true,
            enforced: is_enforced,
            ..Outcome::of_failure(request, refusal.into(), details, self.clock.stamp())
        }
    }
}

enum End {
    Simulated(Box<Outcome>),
    Done(Box<Done>),
}

impl From<AwsError> for Stop {
    fn from(error: AwsError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

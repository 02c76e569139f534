//! A BLOCK_IP or ALLOW_IP request, from the first check to its answer.

use actions::block::Before;
use actions::result::{self, Flags};
use actions::{Action, Block, Details, Enforcement, ErrorCode, ErrorDetail, Outcome, Policy, Refusal, Request, Step};
use aws_support::credentials::Refresh;
use aws_support::{AwsError, Clock, Deadline};
use aws_text::{Region, SecurityGroupId};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};

use super::failure;
use super::run::{Run, Stop, Work, split};
use crate::ports::{Accounts, Blocks, Lease, Network, Purpose, Read, Schedules, View};

/// Carries out requests.
#[derive(Debug)]
pub struct Executor<A, T, S, C> {
    /// The region of a request that names none
    pub region: Region,
    pub policy: Policy,
    pub accounts: A,
    pub table: T,
    pub schedules: S,
    pub clock: C,
}

/// Whether a request is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is: this is the answer. Once it is sent, the table is to say so too
    Decided {
        outcome: Box<Outcome>,
        close: Option<Close>,
    },
    /// It is not: the same request may succeed later
    Undecided {
        /// The answer for someone who does not wait
        so_far: Box<Outcome>,
        error: ErrorDetail,
    },
}

/// What is written once the result is sent: until then a request that comes again tells the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close(Box<Closing>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Closing {
    lease: Lease,
    /// The block once the result is sent
    sent: Block,
    /// The block where it could not be sent
    unsent: Block,
}

/// How a request arrived.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Unique to the invocation
    pub invocation_id: &'a str,
    /// The message was received before, and may have been carried out then
    pub is_repeated: bool,
    pub deadline: &'a Deadline,
}

/// How a request ended that was carried out.
pub(super) struct Done {
    pub(super) flags: Flags,
    pub(super) summary: String,
}

pub(super) enum End {
    Done(Done, Option<Close>),
    Simulated(Box<Outcome>),
}

/// Why a request was not carried out as asked, with what stands all the same.
pub(super) struct Failure {
    pub(super) stop: Stop,
    pub(super) flags: Flags,
    /// The refusal came before anything was changed
    pub(super) is_untouched: bool,
    /// An earlier delivery may have changed something, and what stands could not be read: nothing can be told yet
    pub(super) is_unknown: bool,
    pub(super) close: Option<Close>,
}

impl<E: Into<Stop>> From<E> for Failure {
    fn from(stop: E) -> Self {
        Self {
            stop: stop.into(),
            flags: Flags::default(),
            is_untouched: true,
            is_unknown: false,
            close: None,
        }
    }
}

impl Failure {
    /// Of a request that may have changed something: these flags say what is so.
    pub(super) fn after(stop: impl Into<Stop>, flags: Flags) -> Self {
        Self {
            stop: stop.into(),
            flags: Flags {
                verified: false,
                ..flags
            },
            is_untouched: false,
            is_unknown: false,
            close: None,
        }
    }
}

impl<A: Accounts, T: Blocks, S: Schedules, C: Clock> Executor<A, T, S, C> {
    /// Carries out one request.
    pub async fn execute(&self, request: &Request, delivery: Delivery<'_>) -> Verdict {
        let region = request.region.as_ref().unwrap_or(&self.region);
        let mut refresh = Refresh::default();
        let (failure, details) = loop {
            let mut details = Details {
                security_group_id: Some(request.group.to_string()),
                region: Some(region.to_string()),
                ..Details::default()
            };
            let may_refresh = !refresh.is_done();
            match self
                .carry_out(request, region, delivery, may_refresh, &mut details)
                .await
            {
                Ok(End::Simulated(outcome)) => return Verdict::Decided { outcome, close: None },
                Ok(End::Done(done, close)) => {
                    let outcome = Outcome::of_success(request, done.flags, done.summary, details, self.clock.stamp());
                    return Verdict::Decided {
                        outcome: Box::new(outcome),
                        close,
                    };
                }
                Err(failure) => {
                    if let Stop::Failed(error) = &failure.stop
                        && refresh.may_help(error)
                    {
                        tracing::info!(request_id = request.request_id, %error, "the credentials are renewed");
                        self.accounts.forget(request.role.as_ref()).await;
                        continue;
                    }
                    break (failure, details);
                }
            }
        };
        self.answer(request, failure, details)
    }

    fn answer(&self, request: &Request, failure: Failure, details: Details) -> Verdict {
        let now = self.clock.stamp();
        let mut error = match failure.stop {
            Stop::Refused(refusal) if failure.is_untouched => {
                let outcome = Outcome {
                    enforced: failure.flags.enforced,
                    ..Outcome::of_refusal(request, refusal, details, now)
                };
                return Verdict::Decided {
                    outcome: Box::new(outcome),
                    close: None,
                };
            }
            Stop::Refused(refusal) => refusal.into(),
            Stop::Failed(error) => failure::detail(&error, request),
            Stop::Busy => result::busy(request.group.as_str()),
        };
        error.retryable |= failure.is_unknown;
        let outcome = Box::new(Outcome::of_failure(request, error.clone(), failure.flags, details, now));
        if error.retryable {
            Verdict::Undecided { so_far: outcome, error }
        } else {
            Verdict::Decided {
                outcome,
                close: failure.close,
            }
        }
    }

    /// Writes what the result says into the table, and releases the lease.
    ///
    /// # Errors
    /// Unless it is confirmed. The result is true all the same: the audit goes on with what the table still says.
    pub async fn close(&self, close: Option<Close>, deadline: &Deadline) -> Result<(), AwsError> {
        match close {
            Some(Close(mut close)) => {
                let Closing { lease, sent, .. } = &mut *close;
                self.table.finish(lease, sent, deadline).await
            }
            None => Ok(()),
        }
    }

    /// The result could not be sent: the request is to come again, and finds the lease free.
    pub async fn abandon(&self, close: Option<Close>, deadline: &Deadline) {
        if let Some(Close(mut close)) = close {
            let Closing { lease, unsent, .. } = &mut *close;
            if let Err(error) = self.table.finish(lease, unsent, deadline).await {
                tracing::warn!(group = %lease.group, %error, "the lease could not be released; it ends with the invocation");
            }
        }
    }

    async fn carry_out(
        &self,
        request: &Request,
        region: &Region,
        delivery: Delivery<'_>,
        may_refresh: bool,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let checked = self.policy.check(request, region);
        if let Err(refusal) = checked {
            // What an earlier delivery did is not denied because a setting has changed since.
            return if delivery.is_repeated && refusal.code != ErrorCode::RoleNotAllowed {
                Err(self.refused_after(request, region, refusal, delivery, details).await?)
            } else {
                Err(refusal.into())
            };
        }
        let network = self.network(request, region, delivery).await?;
        let job = self.job(&network, request, region, delivery, may_refresh);
        match request.action {
            Action::BlockIp => job.block(details).await,
            Action::AllowIp => job.lift(details).await,
        }
    }

    async fn network(
        &self,
        request: &Request,
        region: &Region,
        delivery: Delivery<'_>,
    ) -> Result<A::Network, AwsError> {
        let role = request.role.as_ref();
        self.accounts.network(role, region, delivery.deadline).await
    }

    fn job<'a>(
        &'a self,
        network: &'a A::Network,
        request: &'a Request,
        region: &'a Region,
        delivery: Delivery<'a>,
        may_refresh: bool,
    ) -> Job<'a, A::Network, T, S, C> {
        Job {
            request,
            region,
            run: self.run(network, &request.group, region, delivery, &request.request_id),
            is_repeated: delivery.is_repeated,
            may_refresh,
        }
    }

    /// A run on a block list. It holds the lease until the invocation ends at the latest.
    pub(crate) fn run<'a, N: Network>(
        &'a self,
        network: &'a N,
        group: &SecurityGroupId,
        region: &Region,
        delivery: Delivery<'a>,
        what: &str,
    ) -> Run<'a, N, T, S, C> {
        let left = SignedDuration::try_from(delivery.deadline.left()).unwrap_or_default();
        Run {
            network,
            table: &self.table,
            schedules: &self.schedules,
            clock: &self.clock,
            policy: &self.policy,
            lease: Lease {
                region: region.clone(),
                group: group.clone(),
                holder: format!("{} {what}", delivery.invocation_id),
                until: self.clock.now() + left + LEASE_MARGIN,
            },
            deadline: delivery.deadline,
        }
    }

    /// A request that is refused now, and that an earlier delivery may have carried out.
    async fn refused_after(
        &self,
        request: &Request,
        region: &Region,
        refusal: Refusal,
        delivery: Delivery<'_>,
        details: &mut Details,
    ) -> Result<Failure, Failure> {
        let found = self.table.of_rule(region, &request.rule, delivery.deadline).await?;
        let (existing, others) = split(found, &request.group);
        let Some(block) = existing.filter(|block| is_begun(block, request)) else {
            return Ok(refusal.into());
        };
        let network = self.network(request, region, delivery).await?;
        let job = self.job(&network, request, region, delivery, false);
        Ok(job.refused_now(block, others, refusal, details).await)
    }
}

/// Added to the end of a lease: clocks differ a little.
const LEASE_MARGIN: SignedDuration = SignedDuration::from_secs(2);

/// An earlier delivery of the request changed something, or began to.
pub(super) fn is_begun(block: &Block, request: &Request) -> bool {
    let began = |before: &Before| before.request_id == request.request_id;
    !block.is_lifted() && (block.terms.request_id == request.request_id || block.before.as_ref().is_some_and(began))
}

/// One request at work in one network.
pub(super) struct Job<'a, N, T, S, C> {
    pub(super) request: &'a Request,
    pub(super) region: &'a Region,
    pub(super) run: Run<'a, N, T, S, C>,
    pub(super) is_repeated: bool,
    /// A refusal that fresh credentials may cure decides nothing yet
    pub(super) may_refresh: bool,
}

/// Where the answer to a request begins: what the table and EC2 show.
pub(super) struct Start {
    pub(super) view: View,
    /// When the read of EC2 began
    pub(super) seen_at: Timestamp,
    /// The item of this list and rule
    pub(super) existing: Option<Block>,
    pub(super) others: Vec<Block>,
}

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Job<'_, N, T, S, C> {
    pub(super) async fn start(&self, purpose: Purpose) -> Result<Start, Failure> {
        let read = Read {
            group: self.request.group.clone(),
            rule: self.request.rule,
            vpc_id: None,
            purpose,
            network_acls_if_allowed: self.run.policy.enforcement == Enforcement::None,
        };
        let seen_at = self.run.clock.now();
        let (view, found) = futures::join!(
            self.run.network.read(&read, self.run.deadline),
            self.run
                .table
                .of_rule(self.region, &self.request.rule, self.run.deadline)
        );
        let (existing, others) = split(found?, &self.request.group);
        let unread = |error: AwsError| Failure {
            is_unknown: existing.as_ref().is_some_and(|block| is_begun(block, self.request)),
            ..error.into()
        };
        let mut view = view.map_err(unread)?;
        if view.seen.group.is_none()
            && let Some(block) = existing.as_ref().filter(|block| !block.is_lifted())
        {
            // The list was deleted: its block knows which VPC it was in.
            let vpc_id = Some(block.vpc_id.clone());
            let read = Read { vpc_id, ..read };
            view = self.run.network.read(&read, self.run.deadline).await.map_err(unread)?;
        }
        if let Some(block) = &existing
            && !block.is_lifted()
            && !block.is_reached_by(self.request.role.as_ref())
        {
            return Err(other_account(block).into());
        }
        Ok(Start {
            view,
            seen_at,
            existing,
            others,
        })
    }

    /// The table's last write of the request, for when its result is sent.
    pub(super) fn close(&self, sent: Block, mut work: Work) -> Close {
        self.run.conclude(&mut work);
        Close(Box::new(Closing {
            lease: self.run.lease.clone(),
            sent: Block {
                settled_at: work.block.settled_at,
                ..sent
            },
            unsent: work.block,
        }))
    }

    /// What stands, where an answer is final and something was changed of which no answer told.
    pub(super) async fn settle(&self, work: &mut Work) -> Result<(), Stop> {
        match self.run.settle(work).await {
            Err(stop) if stop.is_final() => {
                tracing::warn!(
                    request_id = self.request.request_id,
                    "what was changed could not be read back"
                );
                Ok(())
            }
            settled => settled,
        }
    }

    pub(super) async fn dry_run(
        &self,
        steps: Vec<Step>,
        nothing_because: Option<String>,
        enforced: bool,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let asked = steps
            .iter()
            .filter(|step| !matches!(step, Step::PutSchedule(_) | Step::DeleteSchedule { .. }))
            .map(|step| self.run.network.dry_run(step, self.run.deadline));
        try_join_all(asked).await?;
        let outcome = Outcome::of_dry_run(
            self.request,
            result::told(&steps),
            nothing_because,
            enforced,
            std::mem::take(details),
            self.run.clock.stamp(),
        );
        Ok(End::Simulated(Box::new(outcome)))
    }
}

fn other_account(block: &Block) -> Refusal {
    let role = block.role.as_ref().map_or("no role", |role| role.as_str());
    Refusal::new(
        ErrorCode::InvalidRequest,
        format!(
            "{} is blocked on {} with {role} in params.aws_assume_role_arn, and this request says otherwise",
            block.rule, block.group
        ),
        "send the request with the params.aws_assume_role_arn that the block was made with",
    )
}

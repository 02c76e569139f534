//! A BLOCK_IP or ALLOW_IP request, from the first check to its answer.

use std::collections::BTreeSet;

use actions::block::compare::{check_list, check_network_acls, equal_entries, in_use, not_found, still_denied};
use actions::block::{DenyEntry, Group, LAG, ListState, Placed, Seen, State, Terms};
use actions::result::{self, Flags, MAX_LISTED, NetworkAclEntry};
use actions::{Action, Block, Details, Enforcement, ErrorCode, ErrorDetail, Outcome, Policy, Refusal, Request, Step};
use aws_support::credentials::Refresh;
use aws_support::{AwsError, Clock, Deadline};
use aws_text::{Region, SecurityGroupId};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};

use super::failure;
use super::run::{Aim, Run, Stop, Work, read_of, split};
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
pub struct Close(Box<(Lease, Block)>);

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
struct Done {
    flags: Flags,
    summary: String,
}

enum End {
    Done(Done, Option<Close>),
    Simulated(Box<Outcome>),
}

/// Why a request was not carried out as asked, with what stands all the same.
struct Failure {
    stop: Stop,
    flags: Flags,
    /// The refusal came before anything was changed
    is_untouched: bool,
    close: Option<Close>,
}

impl<E: Into<Stop>> From<E> for Failure {
    fn from(stop: E) -> Self {
        Self {
            stop: stop.into(),
            flags: Flags::default(),
            is_untouched: true,
            close: None,
        }
    }
}

impl Failure {
    /// Of a request that may have changed something: these flags say what is so.
    fn after(stop: Stop, flags: Flags) -> Self {
        Self {
            stop,
            flags: Flags {
                verified: false,
                ..flags
            },
            is_untouched: false,
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
        let error = match failure.stop {
            Stop::Refused(refusal) if failure.is_untouched => {
                return Verdict::Decided {
                    outcome: Box::new(Outcome::of_refusal(request, refusal, details, now)),
                    close: None,
                };
            }
            Stop::Refused(refusal) => refusal.into(),
            Stop::Failed(error) => failure::detail(&error, request),
            Stop::Busy => result::busy(request.group.as_str()),
        };
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
                let (lease, block) = &mut *close;
                self.table.finish(lease, Some(block), deadline).await
            }
            None => Ok(()),
        }
    }

    /// The result could not be sent: the request is to come again, and finds the lease free.
    pub async fn abandon(&self, close: Option<Close>, deadline: &Deadline) {
        if let Some(Close(close)) = close
            && let Err(error) = self.table.finish(&close.0, None, deadline).await
        {
            tracing::warn!(group = %close.0.group, %error, "the lease could not be released; it ends with the invocation");
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
        let own = found
            .into_iter()
            .find(|block| block.group == request.group && block.terms.request_id == request.request_id);
        let Some(block) = own.filter(|block| !block.is_lifted()) else {
            return Ok(refusal.into());
        };
        let network = self.network(request, region, delivery).await?;
        let job = self.job(&network, request, region, delivery, false);
        Ok(job.refused_now(block, refusal, details).await)
    }
}

/// Added to the end of a lease: clocks differ a little.
const LEASE_MARGIN: SignedDuration = SignedDuration::from_secs(2);

/// One request at work in one network.
struct Job<'a, N, T, S, C> {
    request: &'a Request,
    region: &'a Region,
    run: Run<'a, N, T, S, C>,
    is_repeated: bool,
    /// A refusal that fresh credentials may cure decides nothing yet
    may_refresh: bool,
}

/// Where the answer to a request begins: what the table and EC2 show.
struct Start {
    view: View,
    /// The item of this list and rule
    existing: Option<Block>,
    others: Vec<Block>,
}

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Job<'_, N, T, S, C> {
    async fn start(&self, purpose: Purpose) -> Result<Start, Failure> {
        let read = Read {
            group: self.request.group.clone(),
            rule: self.request.rule,
            vpc_id: None,
            purpose,
            network_acls_if_allowed: self.run.policy.enforcement == Enforcement::None,
        };
        let (view, found) = futures::join!(
            self.run.network.read(&read, self.run.deadline),
            self.run
                .table
                .of_rule(self.region, &self.request.rule, self.run.deadline)
        );
        let (existing, others) = split(found?, &self.request.group);
        let mut view = view?;
        if view.seen.group.is_none()
            && let Some(block) = existing.as_ref().filter(|block| !block.is_lifted())
        {
            // The list was deleted: its block knows which VPC it was in.
            let vpc_id = Some(block.vpc_id.clone());
            view = self
                .run
                .network
                .read(&Read { vpc_id, ..read }, self.run.deadline)
                .await?;
        }
        if let Some(block) = &existing
            && !block.is_lifted()
            && !block.is_reached_by(self.request.role.as_ref())
        {
            return Err(other_account(block).into());
        }
        Ok(Start { view, existing, others })
    }

    async fn block(&self, details: &mut Details) -> Result<End, Failure> {
        let (run, request) = (&self.run, self.request);
        loop {
            let start = self.start(Purpose::Decide(request.rule.source())).await?;
            let now = run.clock.now();
            let view = start.view;
            note_group(details, view.seen.group.as_ref());
            note_rule(details, &view.seen);
            let existing = start.existing.as_ref();
            // What an earlier delivery of this request made, began, or did not roll back whole.
            let own = existing
                .filter(|block| !block.is_lifted() && block.terms.request_id == request.request_id && !request.dry_run);
            let (group, refusal) = match self.check_block(&view) {
                Ok(group) => (group, None),
                Err((Some(group), refusal)) if own.is_some() => (group, Some(refusal)),
                Err((_, refusal)) => {
                    return match own {
                        Some(block) => Err(self.refused_now(block.clone(), refusal, details).await),
                        None => Err(refusal.into()),
                    };
                }
            };
            let block = Block::asked(existing, request, self.region, group, now);
            details.expires_at = block.terms.expires_at.map(|at| at.to_string());
            let mut work = Work::new(block, view.seen, start.others);
            if let Some(refusal) = refusal
                && (refusal.code != ErrorCode::GroupInUse || !shows_anything(&work, now))
            {
                // Nothing of what an earlier delivery began can be gone on with.
                return Err(self.refused_now(work.block, refusal, details).await);
            }
            let comparison = work.compare(Aim::Newest, run.policy);
            if let Some(refusal) = comparison.refused.first() {
                match own {
                    None => return Err(refusal.clone().into()),
                    Some(block) if block.state != State::Pending => {
                        return Err(self.refused_now(block.clone(), refusal.clone(), details).await);
                    }
                    Some(_) => {}
                }
            }
            let schedule = work.block.schedule(&work.block.terms, now);
            if request.dry_run {
                let mut steps = comparison.steps.clone();
                steps.extend(comparison.then.clone());
                steps.extend(schedule);
                return self.dry_run(steps, None, comparison.is_enforced(), details).await;
            }
            if work.block.state == State::InForce && comparison.agrees() {
                let done = self.blocked(&work, false, true, details);
                return match work.attached(run.policy) {
                    None => Ok(End::Done(done, None)),
                    Some(interfaces) => Err(self.attached(&interfaces, None, &work, done.flags, details)),
                };
            }
            let is_renewal = work.block.renews.is_some();
            let was_pending = work.block.state == State::Pending;
            work.is_continued = own.is_some() && was_pending;
            work.block.record(&comparison.entries);
            if !run.begin(&mut work.block).await? {
                continue;
            }
            let (first, then) = match schedule {
                // A schedule that was there ends the older block until this one is in force.
                schedule if is_renewal => (Vec::new(), schedule.into_iter().collect()),
                schedule => (schedule.into_iter().collect(), Vec::new()),
            };
            let converged = run.converge(&mut work, Aim::Newest, first, then).await;
            return self
                .finish_block(work, converged, was_pending, is_renewal, details)
                .await;
        }
    }

    async fn finish_block(
        &self,
        mut work: Work,
        converged: Result<bool, Stop>,
        was_pending: bool,
        is_renewal: bool,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let run = &self.run;
        let comparison = work.compare(Aim::Newest, run.policy);
        let attached = work.attached(run.policy);
        let stop = match converged {
            Ok(verified) => {
                let done = self.blocked(&work, was_pending, verified, details);
                work.tidy(run.clock.now());
                work.block.enforced = comparison.is_enforced();
                work.block = work.block.in_force();
                let close = Some(self.close(work.block.clone()));
                return match attached {
                    None => Ok(End::Done(done, close)),
                    Some(interfaces) => Err(Failure {
                        close,
                        ..self.attached(&interfaces, None, &work, done.flags, details)
                    }),
                };
            }
            Err(stop) => stop,
        };
        let may_pass = matches!(&stop, Stop::Failed(error) if self.may_refresh && error.fresh_credentials_may_help());
        if !stop.is_final() || may_pass {
            let failure = self.failed(stop, &work, was_pending, details);
            run.release(&mut work).await;
            return Err(failure);
        }
        tracing::warn!(request_id = self.request.request_id, "the block cannot be made");
        if let (Some(interfaces), Stop::Failed(_)) = (attached, &stop) {
            // The deny entries that could be placed stay, and what is to be so is in the table: the audit goes on.
            let mut done = self.blocked(&work, was_pending, false, details);
            done.flags.changed |= work.seen.rule.is_some();
            work.tidy(run.clock.now());
            work.block = work.block.in_force();
            work.block.enforced = comparison.is_enforced();
            return Err(Failure {
                close: Some(self.close(work.block.clone())),
                ..self.attached(&interfaces, Some(stop), &work, done.flags, details)
            });
        }
        self.roll_back(work, stop, is_renewal, was_pending, details).await
    }

    fn close(&self, block: Block) -> Close {
        let block = Block {
            attempted_at: self.run.clock.now(),
            ..block
        };
        Close(Box::new((self.run.lease.clone(), block)))
    }

    /// Removes what a block placed that cannot be made, and gives an older one that it renewed back its terms.
    async fn roll_back(
        &self,
        mut work: Work,
        stop: Stop,
        is_renewal: bool,
        was_pending: bool,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let (run, id) = (&self.run, &self.request.request_id);
        let now = run.clock.now();
        if !work.changes.added.is_empty() {
            work.settled_at = now + LAG;
        }
        let schedule = work.block.unschedule();
        work.block = work.block.rolled_back();
        let undone = async {
            // The intention is written before, so that an audit goes on where this stops.
            run.table.save(&mut work.block, run.deadline).await?;
            if is_renewal {
                return self.restore_older(&mut work).await;
            }
            let mut first: Vec<Step> = schedule.into_iter().collect();
            if work.changes.rule_added && work.seen.rule.is_none() {
                first.push(work.block.revoke());
            }
            run.converge(&mut work, Aim::InForce, first, Vec::new())
                .await
                .map(|_| ())
        }
        .await;
        match undone {
            Ok(()) => {
                work.tidy(now);
                if !is_renewal {
                    work.block = work.block.lifted(&format!("roll-back of {id}"), now);
                }
                if let Err(error) = run.finish(&mut work).await {
                    return Err(self.failed(error.into(), &work, was_pending, details));
                }
                details.expires_at = work
                    .block
                    .terms
                    .expires_at
                    .filter(|_| is_renewal)
                    .map(|at| at.to_string());
                if !is_renewal {
                    details.security_group_rule_id = None;
                }
                Err(self.failed_cleanly(stop, &work, details))
            }
            Err(undone) => {
                work.tidy(now);
                let saved = run.finish(&mut work).await;
                let mut failure = self.failed(not_rolled_back(stop, undone), &work, true, details);
                if let Err(error) = saved {
                    failure.stop = error.into();
                }
                Err(failure)
            }
        }
    }

    /// Removes what a renewal placed that failed, and gives the block its older end and tags back.
    async fn restore_older(&self, work: &mut Work) -> Result<(), Stop> {
        let (run, id) = (&self.run, &self.request.request_id);
        let is_unknown = |placed: &Placed| placed.by == *id && !Self::is_there(&placed.entry(work.block.rule), work);
        if work.block.entries.iter().any(is_unknown) {
            run.settle(work).await?;
        }
        run.refresh_others(work).await?;
        let mut steps: Vec<Step> = work
            .block
            .entries
            .iter()
            .filter(|placed| placed.by == *id)
            .map(|placed| placed.entry(work.block.rule))
            .filter(|entry| Self::is_there(entry, work))
            .map(Step::RemoveDeny)
            .collect();
        steps.extend(work.block.schedule(&work.block.terms, run.clock.now()));
        if work.changes.retagged
            && let Some(rule) = &work.seen.rule
        {
            steps.push(Step::Retag {
                rule_id: rule.id.clone(),
                tags: work.block.tags(),
            });
        }
        run.execute(&steps, work).await
    }

    /// The entry shows, or was added by this run and may not show yet; and no other block has it.
    fn is_there(entry: &DenyEntry, work: &Work) -> bool {
        let is_shared = work.others.iter().any(|other| {
            work.block.shares_with(other) && other.entries.iter().any(|held| held.is(&entry.acl, entry.number))
        });
        !is_shared
            && !work.changes.gone.contains(entry)
            && (work.seen.shows(entry) || work.changes.added.contains(entry))
    }

    /// A BLOCK_IP that is refused now, and whose block an earlier delivery made, or began to make.
    async fn refused_now(&self, block: Block, refusal: Refusal, details: &mut Details) -> Failure {
        let read = read_of(&block, Purpose::Stand, self.run.policy);
        let seen = match self.run.network.read(&read, self.run.deadline).await {
            Ok(view) => view.seen,
            Err(error) => return error.into(),
        };
        note_group(details, seen.group.as_ref());
        note_rule(details, &seen);
        let mut work = Work::new(block, seen, Vec::new());
        let is_pending = work.block.state == State::Pending;
        let comparison = work.compare(Aim::Newest, self.run.policy);
        if work.block.state == State::InForce || is_pending && comparison.agrees() {
            details.expires_at = work.block.terms.expires_at.map(|at| at.to_string());
            let done = self.blocked(&work, is_pending, true, details);
            return Self::still_blocked(refusal, &work, done.flags);
        }
        let begun = async {
            let found = self
                .run
                .table
                .of_rule(self.region, &work.block.rule, self.run.deadline)
                .await?;
            (_, work.others) = split(found, &work.block.group);
            self.run.begin(&mut work.block).await
        };
        match begun.await {
            Ok(true) => {}
            Ok(false) => return Stop::Busy.into(),
            Err(stop) => return stop.into(),
        }
        let is_renewal = work.block.renews.is_some();
        if let Err(stop) = self.run.settle(&mut work).await {
            self.run.release(&mut work).await;
            return stop.into();
        }
        match self
            .roll_back(work, Stop::Refused(refusal), is_renewal, true, details)
            .await
        {
            Err(failure) => failure,
            Ok(_) => Stop::Busy.into(),
        }
    }

    /// What must hold before a block is made.
    fn check_block<'s>(&self, view: &'s View) -> Result<&'s Group, (Option<&'s Group>, Refusal)> {
        let (policy, seen) = (self.run.policy, &view.seen);
        let list = ListState::of(seen.group.as_ref(), &policy.tag);
        check_list(&self.request.group, &list, &policy.tag).map_err(|refusal| (seen.group.as_ref(), refusal))?;
        let Some(group) = &seen.group else {
            return Err((None, not_found(&self.request.group)));
        };
        let target = self.request.rule.source();
        let terms = Terms::of(self.request, None);
        Policy::check_vpc(target, &group.vpc_id, &view.vpc_cidrs)
            .and_then(|()| Policy::check_own_addresses(target, &view.own_addresses))
            .and_then(|()| check_network_acls(&terms, seen, group, view.vpc_owner.as_deref(), policy))
            .map_err(|refusal| (None, refusal))?;
        Ok(group)
    }

    async fn dry_run(
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

    async fn lift(&self, details: &mut Details) -> Result<End, Failure> {
        let (run, request) = (&self.run, self.request);
        loop {
            let start = self.start(Purpose::Lift).await?;
            let now = run.clock.now();
            let seen = start.view.seen;
            note_group(details, seen.group.as_ref());
            note_rule(details, &seen);
            let existing = start.existing;
            if let Some(block) = &existing {
                details.vpc_id = Some(block.vpc_id.clone());
                details.account_id.clone_from(&block.account_id);
            }
            let block = match self.to_lift(existing, &seen, &start.others)? {
                Lift::Block(block) => *block,
                Lift::Nothing { block, why } => {
                    let work = Work::new(*block, seen, start.others);
                    if request.dry_run {
                        let enforced = !equal_denies(&work).is_empty();
                        return self.dry_run(Vec::new(), why, enforced, details).await;
                    }
                    let mut done = self.lifted(&work, false, &[], true, details);
                    if let Some(why) = why {
                        done.summary = why;
                    }
                    return Ok(End::Done(done, None));
                }
            };
            // One that is adopted is marked so already, and nothing was attempted yet.
            let was_lifting =
                matches!(block.state, State::Lifting { .. }) && block.attempted_at > Timestamp::UNIX_EPOCH;
            let is_again = was_lifting && matches!(&block.state, State::Lifting { by } if *by == request.request_id);
            let unschedule = block.unschedule();
            let mut work = Work::new(block.lifting(&request.request_id), seen, start.others);
            if !is_again {
                work.tidy(now);
            }
            let comparison = work.compare(Aim::Newest, run.policy);
            let mut first: Vec<Step> = unschedule.into_iter().collect();
            let may_stand = work.block.rule_stands && work.seen.rule.is_none();
            if may_stand && comparison.list.is_enrolled() {
                first.push(work.block.revoke());
            }
            if request.dry_run {
                let mut steps = comparison.steps.clone();
                steps.extend(first);
                return self
                    .dry_run(steps, None, !equal_denies(&work).is_empty(), details)
                    .await;
            }
            let had_rule = work.block.rule_stands;
            if !run.begin(&mut work.block).await? {
                continue;
            }
            // An earlier delivery removed entries, which may show all the same: what shows later is not ours.
            if was_lifting && let Err(stop) = run.settle(&mut work).await {
                run.release(&mut work).await;
                return Err(stop.into());
            }
            let converged = run.converge(&mut work, Aim::Newest, first, Vec::new()).await;
            let earlier = Earlier { is_again, had_rule };
            return self.finish_lift(work, converged, &earlier, details).await;
        }
    }

    async fn finish_lift(
        &self,
        mut work: Work,
        converged: Result<bool, Stop>,
        earlier: &Earlier,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let run = &self.run;
        let removed = earlier.removed(&work, run.policy);
        let changed = earlier.revoked(&work) || !removed.is_empty();
        match converged {
            Ok(verified) => {
                let done = self.lifted(&work, changed, &removed, verified, details);
                let block = work.block.lifted(&self.request.request_id, run.clock.now());
                Ok(End::Done(done, Some(self.close(block))))
            }
            Err(stop) => {
                let done = self.lifted(&work, changed, &removed, false, details);
                if stop.is_final() {
                    tracing::error!(
                        request_id = self.request.request_id,
                        "the block could not be lifted; the audit goes on"
                    );
                }
                run.release(&mut work).await;
                Err(Failure::after(stop, done.flags))
            }
        }
    }

    /// Which block an ALLOW_IP lifts.
    fn to_lift(&self, existing: Option<Block>, seen: &Seen, others: &[Block]) -> Result<Lift, Failure> {
        let request = self.request;
        let is_repeated = |block: &Block| matches!(&block.state, State::Lifted { by, .. } if *by == request.request_id);
        match existing {
            Some(block) if is_repeated(&block) => Ok(Lift::Nothing {
                block: Box::new(block),
                why: None,
            }),
            Some(block) if !block.is_lifted() => match self.bound_to_another(&block) {
                Some(other) => Ok(Lift::Nothing {
                    why: Some(renewed(&other)),
                    block: Box::new(block),
                }),
                None => Ok(Lift::Block(Box::new(block))),
            },
            existing => self.to_adopt(existing.as_ref(), seen, others),
        }
    }

    /// The request that has renewed the block since, where this one is bound to an older one.
    fn bound_to_another(&self, block: &Block) -> Option<String> {
        let bound_to = self.request.only_if_blocked_by.as_deref()?;
        let is_that_end =
            |end: Option<Timestamp>| self.request.only_if_expires_at.is_none_or(|meant| end == Some(meant));
        let is_meant = block.terms.request_id == bound_to && is_that_end(block.terms.expires_at);
        let is_lifting_it = matches!(&block.state, State::Lifting { by } if *by == self.request.request_id);
        (!is_meant && !is_lifting_it).then(|| block.terms.request_id.clone())
    }

    /// What the table knows nothing of: a block of a connector before this one, or of a table that was lost.
    fn to_adopt(&self, existing: Option<&Block>, seen: &Seen, others: &[Block]) -> Result<Lift, Failure> {
        let (request, policy) = (self.request, self.run.policy);
        let list = ListState::of(seen.group.as_ref(), &policy.tag);
        if let (Some(_), Some(block)) = (&request.only_if_blocked_by, existing) {
            // The block was lifted, and its schedule comes late.
            return Ok(Lift::Nothing {
                block: Box::new(block.clone()),
                why: None,
            });
        }
        // Asked of ALLOW_IP too, so that nobody strips another group's rules through us.
        if !list.is_enrolled() {
            check_list(&request.group, &list, &policy.tag)?;
        }
        let Some(group) = &seen.group else {
            return Err(not_found(&request.group).into());
        };
        let adopted = |entries| Block::adopted(request, self.region, group, entries, existing, seen.rule.as_ref());
        let entries = equal_entries(&adopted(Vec::new()), seen, others, policy);
        let nothing = |why| {
            let block = Box::new(adopted(Vec::new()));
            Ok(Lift::Nothing { block, why })
        };
        if let Some(bound_to) = &request.only_if_blocked_by {
            let rule = seen.rule.as_ref();
            let is_meant = rule.is_some_and(|rule| {
                rule.is_of(bound_to)
                    && request
                        .only_if_expires_at
                        .is_none_or(|meant| rule.expires_at() == Some(meant))
            });
            if !is_meant {
                return nothing(rule.and_then(|rule| rule.request_id()).map(renewed));
            }
        }
        if entries.is_empty() && seen.rule.is_none() {
            return nothing(None);
        }
        Ok(Lift::Block(Box::new(adopted(entries))))
    }

    /// How a block stands, for the answer.
    fn blocked(&self, work: &Work, was_pending: bool, verified: bool, details: &mut Details) -> Done {
        let policy = self.run.policy;
        let comparison = work.compare(Aim::Newest, policy);
        note_rule(details, &work.seen);
        let by_request = |entry: &DenyEntry| {
            let placed = |placed: &Placed| placed.is(&entry.acl, entry.number) && placed.by == self.request.request_id;
            was_pending && work.block.entries.iter().any(placed)
        };
        // Beside those that deny, what stands in a network ACL that is not concerned any more.
        let kept = work.block.entries.iter().map(|placed| placed.entry(work.block.rule));
        let kept: Vec<DenyEntry> = kept
            .filter(|entry| !comparison.standing.contains(entry) && work.seen.shows(entry))
            .filter(|entry| !work.changes.gone.contains(entry))
            .collect();
        let standing = comparison
            .standing
            .iter()
            .filter(|entry| !work.changes.gone.contains(*entry));
        let standing = standing.chain(&kept).map(|entry| {
            let is_changed = work.changes.added.contains(entry) || by_request(entry);
            NetworkAclEntry::of(entry, is_changed)
        });
        let mut removed = work.changes.removed.clone();
        if work.is_continued && work.block.is_wanted() {
            // Entries that are no longer meant, and that an earlier attempt removed.
            removed.extend(comparison.unseen.iter().cloned());
        }
        let removed = removed.iter().map(|entry| NetworkAclEntry::of(entry, true));
        let unseen = work
            .changes
            .added
            .iter()
            .filter(|entry| !comparison.standing.contains(entry) && !kept.contains(entry));
        let unseen = unseen.map(|entry| NetworkAclEntry::of(entry, true));
        details.network_acl_entries = standing.chain(unseen).chain(removed).collect();
        let added_rule = was_pending
            && !work.changes.rule_is_gone
            && work
                .seen
                .rule
                .as_ref()
                .is_some_and(|rule| rule.was_added_by(&self.request.request_id));
        let changed = work.changes.any() || added_rule || details.network_acl_entries.iter().any(|entry| entry.changed);
        let enforced = comparison.is_enforced();
        Done {
            flags: Flags {
                changed,
                enforced,
                verified,
            },
            summary: result::blocked_summary(
                self.request,
                changed,
                &comparison.standing,
                &comparison.open,
                policy.enforcement,
                details.expires_at.as_deref(),
            ),
        }
    }

    /// How a lift stands, for the answer.
    fn lifted(&self, work: &Work, changed: bool, removed: &[DenyEntry], verified: bool, details: &mut Details) -> Done {
        note_rule(details, &work.seen);
        let equal: Vec<DenyEntry> = equal_denies(work)
            .into_iter()
            .filter(|entry| !removed.contains(entry))
            .collect();
        details.network_acl_entries = equal
            .iter()
            .map(|entry| NetworkAclEntry::of(entry, false))
            .chain(removed.iter().map(|entry| NetworkAclEntry::of(entry, true)))
            .collect();
        let mut notes = Vec::new();
        if let Some(rule) = work.compare(Aim::Newest, self.run.policy).rule_left {
            notes.push(format!(
                "the rule {rule} stays on {}, which lost its tag: nothing can be changed on it",
                work.block.group
            ));
        }
        if work.seen.network_acls.is_none() {
            notes.push("the network ACLs may not be read".to_owned());
        }
        let holders: Vec<&str> = work
            .others
            .iter()
            .filter(|other| work.block.shares_with(other))
            .map(|other| other.group.as_str())
            .collect();
        if !holders.is_empty() {
            notes.push(format!("still denied, for {} has the same rule", holders.join(", ")));
        }
        let left: Vec<DenyEntry> = still_denied(&work.block, &work.seen)
            .into_iter()
            .filter(|entry| !removed.contains(entry) && !work.changes.gone.contains(entry))
            .collect();
        if !left.is_empty() && holders.is_empty() {
            notes.push(format!(
                "deny entries still stand for it: {}",
                result::named_entries(&left)
            ));
        }
        let knows_all = work.seen.network_acls.is_some();
        Done {
            flags: Flags {
                changed,
                enforced: !equal.is_empty(),
                verified: verified && knows_all,
            },
            summary: result::lifted_summary(&work.block.rule, work.block.group.as_str(), changed, &notes),
        }
    }

    fn failed(&self, stop: Stop, work: &Work, was_pending: bool, details: &mut Details) -> Failure {
        let done = self.blocked(work, was_pending, false, details);
        Failure::after(stop, done.flags)
    }

    /// Of a block that was rolled back: nothing of it is left.
    fn failed_cleanly(&self, stop: Stop, work: &Work, details: &mut Details) -> Failure {
        let comparison = work.compare(Aim::InForce, self.run.policy);
        let stands = work.block.is_wanted();
        // Of what was placed and removed again nothing has changed.
        details.network_acl_entries = comparison
            .standing
            .iter()
            .filter(|_| stands)
            .map(|entry| NetworkAclEntry::of(entry, work.changes.added.contains(entry)))
            .collect();
        let changed = details.network_acl_entries.iter().any(|entry| entry.changed);
        Failure {
            stop,
            flags: Flags {
                changed: changed || stands && work.changes.rule_added,
                enforced: stands && comparison.is_enforced(),
                verified: false,
            },
            is_untouched: !work.changes.any() && !self.is_repeated,
            close: None,
        }
    }

    /// Of a block whose list was found attached while it was made.
    fn attached(
        &self,
        interfaces: &BTreeSet<String>,
        stop: Option<Stop>,
        work: &Work,
        flags: Flags,
        details: &mut Details,
    ) -> Failure {
        let group = &self.request.group;
        let mut refusal = in_use(group, interfaces);
        let rule = match (&work.seen.rule, stop) {
            (Some(rule), Some(Stop::Failed(error))) => {
                format!(
                    "its rule {} could NOT be revoked ({error}), and lets the target in",
                    rule.id
                )
            }
            (Some(rule), _) => format!("its rule {} is revoked, and EC2 does not show it yet", rule.id),
            (None, _) => "its rule does not stand".to_owned(),
        };
        refusal.message = format!(
            "{}; {rule}; the deny entries stay until ALLOW_IP, and the audit restores the rule once {group} is attached to \
             nothing",
            refusal.message
        );
        details.network_interface_ids = Some(interfaces.iter().take(MAX_LISTED).cloned().collect());
        Failure::after(Stop::Refused(refusal), flags)
    }

    /// Of a request that would be refused now, whose block stands.
    fn still_blocked(mut refusal: Refusal, work: &Work, flags: Flags) -> Failure {
        refusal.message = format!(
            "{}; the block that an earlier delivery of this request made on {} stands until ALLOW_IP",
            refusal.message, work.block.group
        );
        Failure::after(Stop::Refused(refusal), flags)
    }
}

/// What an ALLOW_IP is to do.
enum Lift {
    Block(Box<Block>),
    /// There is nothing to lift
    Nothing {
        block: Box<Block>,
        why: Option<String>,
    },
}

/// What is known from before about a lift that is gone on with.
struct Earlier {
    /// An earlier delivery of the same request began it
    is_again: bool,
    had_rule: bool,
}

impl Earlier {
    /// The entries that the request removed, in this delivery or before.
    fn removed(&self, work: &Work, policy: &Policy) -> Vec<DenyEntry> {
        let mut removed = work.changes.removed.clone();
        if self.is_again {
            removed.extend(work.compare(Aim::Newest, policy).unseen);
        }
        removed.into_iter().collect()
    }

    fn revoked(&self, work: &Work) -> bool {
        work.changes.rule_revoked || self.is_again && self.had_rule && work.seen.rule.is_none()
    }
}

fn note_group(details: &mut Details, group: Option<&Group>) {
    if let Some(group) = group {
        details.vpc_id = Some(group.vpc_id.clone());
        details.account_id.clone_from(&group.owner_id);
    }
}

fn note_rule(details: &mut Details, seen: &Seen) {
    if let Some(rule) = &seen.rule {
        details.security_group_rule_id = Some(rule.id.clone());
    }
}

/// Whether something of the block shows, or may be there and not show yet.
fn shows_anything(work: &Work, now: Timestamp) -> bool {
    let is_shown = |placed: &Placed| work.seen.shows(&placed.entry(work.block.rule));
    work.seen.rule.is_some()
        || work.block.entries.iter().any(is_shown)
        || (now < work.settled_at && !work.block.entries.is_empty())
}

/// Deny entries equal to the rule, wherever they are from, that show and were not removed.
fn equal_denies(work: &Work) -> Vec<DenyEntry> {
    still_denied(&work.block, &work.seen)
        .into_iter()
        .filter(|entry| work.seen.shows(entry) && !work.changes.gone.contains(entry))
        .collect()
}

fn renewed(by: &str) -> String {
    format!("nothing changed: the block that was to end has been renewed by request {by}")
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

/// Where the roll-back can be tried again, the whole request is; else the answer says what is left.
fn not_rolled_back(stop: Stop, undone: Stop) -> Stop {
    match undone {
        Stop::Failed(error) if !error.is_retryable() => {
            let why = match stop {
                Stop::Refused(refusal) => refusal.message,
                Stop::Failed(error) => error.to_string(),
                Stop::Busy => String::new(),
            };
            let message = format!(
                "{} (this was to roll back a block that cannot be made: {why}; the audit goes on with it)",
                error.message
            );
            Stop::Failed(AwsError { message, ..error })
        }
        other => other,
    }
}

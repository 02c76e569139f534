//! One block list's lease at work: the steps of a comparison carried out, and what they led to read back.

use std::collections::BTreeSet;
use std::time::Duration;

use actions::block::compare::{Goal, compare, to_restore_for_others};
use actions::block::{Before, Changed, Comparison, DenyEntry, Known, LAG, ListState, Placed, Seen};
use actions::{Block, Enforcement, Policy, Refusal, Step};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::SecurityGroupId;
use futures::future::join_all;
use jiff::Timestamp;

use crate::aws::ec2::{CREATE_ENTRY, ENTRY_LIMIT};
use crate::ports::{Begun, Blocks, Change, Lease, Network, Purpose, Read, Schedules};

/// What a run works with.
pub(crate) struct Run<'a, N, T, S, C> {
    pub(crate) network: &'a N,
    pub(crate) table: &'a T,
    pub(crate) schedules: &'a S,
    pub(crate) clock: &'a C,
    pub(crate) policy: &'a Policy,
    pub(crate) lease: Lease,
    pub(crate) deadline: &'a Deadline,
}

/// Why a run stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is refused
    Refused(Refusal),
    /// An AWS call failed
    Failed(AwsError),
    /// Another holds the lease of the block list
    Busy,
}

impl Stop {
    /// The same would happen again.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Stop::Refused(_) => true,
            Stop::Failed(error) => !error.is_retryable(),
            Stop::Busy => false,
        }
    }
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

/// A block under its list's lease, with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) block: Block,
    /// As last read
    pub(crate) seen: Seen,
    /// When that read began
    seen_at: Timestamp,
    /// The table's other blocks of the same rule
    pub(crate) others: Vec<Block>,
    /// What stood before the first change
    before: Before,
    /// An earlier attempt at the same request may have changed something
    is_continued: bool,
    /// What answers said since
    known: Known,
    /// From when on EC2 shows everything of which no answer told, at the latest
    settled_at: Timestamp,
}

/// Which terms EC2 is to agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Those of the newest request
    Newest,
    /// Those that hold while the newest request is not in force
    InForce,
    /// Those too, and nothing is added: what was added beyond them is removed
    Undo,
}

impl Aim {
    fn goal(self, block: &Block) -> Goal<'_> {
        match self {
            Aim::Newest if block.is_wanted() => Goal::Stands(&block.terms),
            Aim::Newest | Aim::InForce | Aim::Undo => Goal::of(block),
        }
    }
}

/// Between reads that do not yet show what was changed: some 12 seconds in all. EC2's describes may lag behind its
/// changes ("Eventual consistency" in the EC2 developer guide).
const PAUSES: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
    Duration::from_millis(6400),
];

/// Between attempts to take a lease that another holds; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// What must be left to the invocation for another attempt to be worth it.
const ENOUGH: Duration = Duration::from_secs(15);

impl Work {
    /// For a request, or for an audit (without an id). `seen_at` is when the read of EC2 began.
    pub(crate) fn new(block: Block, seen: Seen, seen_at: Timestamp, others: Vec<Block>, request_id: &str) -> Self {
        let continued = block.before.clone().filter(|before| before.request_id == request_id);
        Self {
            is_continued: continued.is_some(),
            known: continued.as_ref().map(Known::of_continued).unwrap_or_default(),
            before: continued.unwrap_or_else(|| Before::of(request_id, &block, &seen, &others)),
            settled_at: block.settled_at,
            block,
            seen,
            seen_at,
            others,
        }
    }

    /// What EC2 shows, with what is known beyond.
    pub(crate) fn view(&self) -> Seen {
        self.known.over(&self.seen)
    }

    pub(crate) fn compare(&self, aim: Aim, policy: &Policy) -> Comparison {
        let goal = aim.goal(&self.block);
        // What was added and does not show yet is removed all the same, and may be added again.
        let seen = if goal == Goal::Gone || aim == Aim::Undo {
            self.view()
        } else {
            self.known.without_gone(&self.seen)
        };
        let mut comparison = compare(&self.block, goal, &seen, &self.others, policy);
        if aim == Aim::Undo {
            let adds = |step: &Step| matches!(step, Step::AddDeny(_) | Step::Authorize { .. });
            comparison.steps.retain(|step| !adds(step));
        }
        comparison
    }

    /// As EC2 shows it, without what is known beyond: what a result may call enforced.
    pub(crate) fn is_shown_enforced(&self, aim: Aim, policy: &Policy) -> bool {
        let goal = aim.goal(&self.block);
        goal != Goal::Gone && compare(&self.block, goal, &self.seen, &self.others, policy).is_enforced()
    }

    /// What has changed since the request's first change.
    pub(crate) fn changed(&self) -> Changed {
        self.known.changed(&self.before, &self.block, &self.seen)
    }

    /// The network interfaces that the block list is attached to, as last read.
    pub(crate) fn attached(&self, policy: &Policy) -> Option<BTreeSet<String>> {
        match ListState::of(self.seen.group.as_ref(), &policy.tag) {
            ListState::Attached(interfaces) => Some(interfaces),
            ListState::Detached | ListState::Deleted | ListState::NotEnrolled | ListState::DefaultGroup => None,
        }
    }

    /// The last read shows everything that was changed and of which no answer told.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled_at <= self.seen_at
    }

    /// Entries that this run removed, or found gone.
    fn gone(&self) -> Vec<DenyEntry> {
        self.known.gone().cloned().collect()
    }

    /// Puts entries on record that are not there yet. Those that stand already are no change of this run's. Gives whether
    /// there were any.
    pub(crate) fn record(&mut self, entries: &[Placed]) -> bool {
        let view = self.view();
        let new = entries.iter().filter(|placed| !self.block.entries.contains(placed));
        let standing = new.filter(|placed| view.shows(&placed.entry(self.block.rule)));
        self.before.entries.extend(standing.cloned().collect::<Vec<_>>());
        self.block.record(entries)
    }

    /// Drops entries from the record that are gone, or that are left to other lists' blocks.
    pub(crate) fn tidy(&mut self, aim: Aim, policy: &Policy) {
        if self.seen.network_acls.is_none() {
            return;
        }
        let (view, is_settled) = (self.view(), self.is_settled());
        let meant = self.compare(aim, policy).entries;
        let (known, rule) = (&self.known, self.block.rule);
        self.block.entries.retain(|placed| {
            let entry = placed.entry(rule);
            if view.shows(&entry) {
                meant.contains(placed)
            } else {
                known.of(&entry) != Some(false) && !is_settled
            }
        });
        self.block.rule_stands = view.rule.is_some() || (!is_settled && self.block.rule_stands);
    }
}

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Run<'_, N, T, S, C> {
    /// Takes the lease and writes the block with it; `is_request`: what stood before belongs to the request, and stays in
    /// the table until its result is sent. `false`: the block was changed since it was read.
    ///
    /// A lease that another holds is waited for while there is time. So is what an earlier run may have changed and EC2
    /// does not show yet: what is done next is decided by what stands.
    ///
    /// # Errors
    /// No lease, or what stands could not be read; the lease is released.
    pub(crate) async fn begin(&self, work: &mut Work, is_request: bool) -> Result<bool, Stop> {
        work.before.touched = None;
        if is_request {
            work.block.before = Some(work.before.clone());
        }
        work.block.settled_at = self.lease.until + LAG;
        let mut wait = FIRST_WAIT;
        loop {
            let now = self.clock.now();
            match self
                .table
                .begin(&self.lease, &mut work.block, now, self.deadline)
                .await?
            {
                Begun::Yes => break,
                Begun::Changed => return Ok(false),
                Begun::Busy(until) => {
                    tracing::info!(group = %self.lease.group, %until, "the block list is in use");
                    if self.deadline.left() < ENOUGH {
                        return Err(Stop::Busy);
                    }
                }
            }
            self.pause(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        if !work.is_settled()
            && let Err(stop) = self.settle_before(work, is_request).await
        {
            self.release(work).await;
            return Err(stop);
        }
        Ok(true)
    }

    /// Waits until what an earlier run changed shows, before the first change of this one.
    async fn settle_before(&self, work: &mut Work, is_request: bool) -> Result<(), Stop> {
        self.settle(work).await?;
        if !work.is_continued {
            work.before = Before::of(&work.before.request_id, &work.block, &work.seen, &work.others);
            if is_request {
                work.block.before = Some(work.before.clone());
                self.table.save(&mut work.block, self.deadline).await?;
            }
        }
        Ok(())
    }

    /// Writes the block and releases the lease.
    pub(crate) async fn finish(&self, work: &mut Work) -> Result<(), AwsError> {
        self.conclude(work);
        self.table.finish(&self.lease, &mut work.block, self.deadline).await
    }

    /// What a later run is to know of this one.
    pub(crate) fn conclude(&self, work: &mut Work) {
        // From when on EC2 shows everything that this run changed.
        work.block.settled_at = if work.known.is_shown_by(&work.seen) {
            work.settled_at
        } else {
            work.settled_at.max(self.clock.now() + LAG)
        };
        if let Some(before) = &mut work.block.before
            && before.request_id == work.before.request_id
        {
            before.clone_from(&work.before);
            before.touched = work.known.touched();
        }
    }

    /// As [`Run::finish`], where something else has failed: if that fails too, the lease ends by itself.
    pub(crate) async fn release(&self, work: &mut Work) {
        if !work.known.is_shown_by(&work.seen) {
            // Where EC2 shows it already, the next attempt has nothing to wait for.
            let _ = self.read_back(work).await;
        }
        if let Err(error) = self.finish(work).await {
            tracing::warn!(group = %self.lease.group, %error, "the lease could not be released; it ends with the invocation");
        }
    }

    /// Carries out what makes EC2 agree with the block, and reads back until EC2 shows it, for some 12 seconds. `first`
    /// is carried out beside the first steps, `then` once every deny entry stands. Gives whether EC2 showed it.
    ///
    /// # Errors
    /// What stopped it. What was changed until then is in the work.
    pub(crate) async fn converge(
        &self,
        work: &mut Work,
        aim: Aim,
        mut first: Vec<Step>,
        mut then: Vec<Step>,
    ) -> Result<bool, Stop> {
        let mut pauses = PAUSES.iter();
        let mut has_changed = false;
        self.refresh_others(work).await?;
        loop {
            let comparison = work.compare(aim, self.policy);
            // Of a block that is in force, the other network ACLs are seen to all the same.
            if let (Aim::Newest, Some(refusal)) = (aim, comparison.refused.first()) {
                return Err(Stop::Refused(refusal.clone()));
            }
            let mut steps = comparison.steps.clone();
            steps.append(&mut first);
            if comparison.steps.is_empty() {
                steps.extend(comparison.then.clone());
                steps.append(&mut then);
            }
            if steps.is_empty() && work.known.is_shown_by(&work.seen) {
                return Ok(true);
            }
            if !steps.is_empty() {
                self.record(work, &comparison).await?;
                self.execute(&steps, work).await?;
            }
            if has_changed {
                let Some(pause) = pauses.next() else {
                    return unverified(work, &comparison);
                };
                self.pause(*pause).await;
            }
            has_changed = true;
            match self.read_back(work).await {
                Ok(()) => {}
                // What was changed is known; that it cannot be read changes nothing about it.
                Err(error) if !error.is_retryable() => {
                    tracing::warn!(group = %self.lease.group, %error, "the change could not be read back");
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes entries that are about to be placed into the table, before they are.
    async fn record(&self, work: &mut Work, comparison: &Comparison) -> Result<(), Stop> {
        if !work.block.is_wanted() || !work.record(&comparison.entries) {
            return Ok(());
        }
        self.table.save(&mut work.block, self.deadline).await?;
        Ok(())
    }

    /// Carries out steps side by side, and notes what each led to, whatever becomes of the others.
    ///
    /// # Errors
    /// One that is final, if there is one: it decides, whatever else could be tried again.
    pub(crate) async fn execute(&self, steps: &[Step], work: &mut Work) -> Result<(), Stop> {
        let done = join_all(steps.iter().map(|step| self.apply(step))).await;
        let mut stop: Option<Stop> = None;
        for (step, outcome) in steps.iter().zip(done) {
            match outcome {
                Ok(change) => self.note(step, change, work),
                Err(error) => {
                    tracing::warn!(group = %self.lease.group, %error, "could not {step}");
                    if may_be_carried_out(error.kind) {
                        work.known.forget(step);
                        work.settled_at = self.clock.now() + LAG;
                    }
                    let error = quota(error, step, &work.seen, self.policy);
                    if stop.as_ref().is_none_or(|stop| !stop.is_final()) {
                        stop = Some(error);
                    }
                }
            }
        }
        stop.map_or(Ok(()), Err)
    }

    fn note(&self, step: &Step, change: Change, work: &mut Work) {
        let was_made = change == Change::Made;
        if let Step::AddDeny(entry) = step
            && !was_made
            && work.known.of(entry) != Some(true)
        {
            // The number is taken, and by what shows later.
            work.settled_at = self.clock.now() + LAG;
        }
        if work.known.is_first_answer(step) {
            work.before.correct(step, was_made);
        }
        work.known.note(step, was_made);
    }

    async fn apply(&self, step: &Step) -> Result<Change, AwsError> {
        tracing::info!(group = %self.lease.group, "{step}");
        match step {
            Step::PutSchedule(schedule) => self.schedules.put(schedule, self.deadline).await.map(|()| Change::Made),
            Step::DeleteSchedule { name } => match self.schedules.delete(name, self.deadline).await {
                // What is left of it changes nothing when it comes: it is bound to its block.
                Err(error) if !error.is_retryable() => {
                    tracing::error!(group = %self.lease.group, %error, "a schedule is left over");
                    Ok(Change::AlreadySo)
                }
                outcome => outcome.map(|()| Change::Made),
            },
            Step::Retag { .. } => match self.network.apply(step, self.deadline).await {
                Err(error) => {
                    tracing::warn!(group = %self.lease.group, %error, "the rule's tags could not be updated");
                    Ok(Change::AlreadySo)
                }
                outcome => outcome,
            },
            Step::Authorize { .. } | Step::Revoke { .. } | Step::AddDeny(_) | Step::RemoveDeny(_) => {
                self.network.apply(step, self.deadline).await
            }
        }
    }

    /// Reads the table again, where other blocks share entries that are to be removed or left to them. The own block is
    /// written by now: of two that come at the same time, one at least sees what the other wants.
    async fn refresh_others(&self, work: &mut Work) -> Result<(), Stop> {
        let block = &work.block;
        let has_entry = |other: &Block, placed: &Placed| other.entries.contains(placed);
        let is_shared = |other: &Block| block.entries.iter().any(|placed| has_entry(other, placed));
        if work
            .others
            .iter()
            .any(|other| block.shares_with(other) && (!block.is_wanted() || is_shared(other)))
        {
            let found = self.table.of_rule(&block.region, &block.rule, self.deadline).await?;
            (_, work.others) = split(found, &block.group);
        }
        Ok(())
    }

    /// Reads EC2 again; and the table, where entries were removed, for what other lists asked for meanwhile.
    async fn read_back(&self, work: &mut Work) -> Result<(), AwsError> {
        let block = &work.block;
        let purpose = if block.is_wanted() {
            Purpose::Stand
        } else {
            Purpose::Lift
        };
        let read = read_of(block, purpose, self.policy);
        let seen_at = self.clock.now();
        let gone = work.gone();
        if gone.is_empty() {
            work.seen = self.network.read(&read, self.deadline).await?.seen;
            work.seen_at = seen_at;
            return Ok(());
        }
        let (view, found) = futures::join!(
            self.network.read(&read, self.deadline),
            self.table.of_rule(&block.region, &block.rule, self.deadline)
        );
        work.seen = view?.seen;
        work.seen_at = seen_at;
        (_, work.others) = split(found?, &block.group);
        let restore = to_restore_for_others(&work.block, &gone, &work.others);
        for (step, outcome) in restore
            .iter()
            .zip(join_all(restore.iter().map(|step| self.apply(step))).await)
        {
            self.note(step, outcome?, work);
        }
        Ok(())
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        // Out of time is found by the next call.
        let _ = self.deadline.bound(tokio::time::sleep(pause)).await;
    }

    /// Waits until everything shows of which no answer told.
    ///
    /// # Errors
    /// Out of time, or EC2 could not be read.
    pub(crate) async fn settle(&self, work: &mut Work) -> Result<(), Stop> {
        while !work.is_settled() {
            let left = work.settled_at.duration_since(self.clock.now());
            self.pause(Duration::try_from(left).unwrap_or_default()).await;
            self.read_back(work).await?;
        }
        Ok(())
    }
}

/// Whether a call that failed so may have been carried out all the same. One that was throttled may have been, by an
/// attempt before the last.
fn may_be_carried_out(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Throttled | ErrorKind::Unreachable | ErrorKind::OutOfTime => true,
        ErrorKind::Rejected
        | ErrorKind::AccessDenied
        | ErrorKind::CredentialsRefused
        | ErrorKind::ExpiredCredentials => false,
    }
}

/// The last read did not show it.
fn unverified(work: &Work, comparison: &Comparison) -> Result<bool, Stop> {
    let is_unknown = |step: &&Step| matches!(step, Step::AddDeny(entry) if work.known.of(entry) != Some(true));
    match comparison.steps.iter().find(is_unknown) {
        Some(step) => {
            let message = format!("EC2 says that the number is taken, and does not show by what, for: {step}");
            Err(AwsError::new(CREATE_ENTRY, ErrorKind::Unreachable, message).into())
        }
        None if work.block.is_wanted() || comparison.steps.is_empty() => Ok(false),
        None => {
            let message = "EC2 shows again what was removed".to_owned();
            Err(AwsError::new(CREATE_ENTRY, ErrorKind::Unreachable, message).into())
        }
    }
}

/// What is read of a block of the table. Its network ACLs need not be readable where no entry is concerned.
pub(crate) fn read_of(block: &Block, purpose: Purpose, policy: &Policy) -> Read {
    Read {
        group: block.group.clone(),
        rule: block.rule,
        vpc_id: Some(block.vpc_id.clone()),
        purpose,
        network_acls_if_allowed: policy.enforcement == Enforcement::None && block.entries.is_empty(),
    }
}

/// Of the blocks of a rule, that of one list and those of the others.
pub(crate) fn split(found: Vec<Block>, group: &SecurityGroupId) -> (Option<Block>, Vec<Block>) {
    let (own, others): (Vec<Block>, Vec<Block>) = found.into_iter().partition(|block| block.group == *group);
    (own.into_iter().next(), others)
}

/// A network ACL whose quota is used up has no room: that is for the requester to solve.
fn quota(error: AwsError, step: &Step, seen: &Seen, policy: &Policy) -> Stop {
    if let Step::AddDeny(entry) = step
        && error.has_code(ENTRY_LIMIT)
        && let Some(acl) = seen.network_acls.iter().flatten().find(|acl| acl.id == entry.acl)
    {
        let why = "its quota of entries is used up";
        return Stop::Refused(acl.full(&entry.rule, policy.rule_numbers, why));
    }
    Stop::Failed(error)
}

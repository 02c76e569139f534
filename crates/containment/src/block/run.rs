//! One block list's lease at work: the steps of a comparison carried out, and what they led to read back.

use std::collections::BTreeSet;
use std::time::Duration;

use actions::block::compare::{Goal, compare, to_restore_for_others};
use actions::block::{Comparison, DenyEntry, ListState, Seen};
use actions::{Block, Enforcement, Policy, Refusal, Step};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::SecurityGroupId;
use futures::future::join_all;

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
    pub(crate) seen: Seen,
    /// The table's other blocks of the same rule
    pub(crate) others: Vec<Block>,
    pub(crate) changes: Changes,
    /// When everything shows that was changed before this run
    pub(crate) settled_at: jiff::Timestamp,
    /// An earlier attempt at the same request began it
    pub(crate) is_continued: bool,
}

/// What a run changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a change of its own")]
pub(crate) struct Changes {
    pub(crate) rule_added: bool,
    pub(crate) rule_revoked: bool,
    /// The rule does not stand, whatever shows
    pub(crate) rule_is_gone: bool,
    /// It was tried, at least
    pub(crate) retagged: bool,
    pub(crate) added: BTreeSet<DenyEntry>,
    /// Entries that do not stand by what this run did, whatever shows
    pub(crate) gone: BTreeSet<DenyEntry>,
    /// Entries that a failed call may have added all the same
    pub(crate) perhaps_added: BTreeSet<DenyEntry>,
    pub(crate) removed: BTreeSet<DenyEntry>,
}

/// Which terms EC2 is to agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Those of the newest request
    Newest,
    /// Those that hold while the newest request is not in force
    InForce,
}

impl Aim {
    fn goal(self, block: &Block) -> Goal<'_> {
        match self {
            Aim::Newest if block.is_wanted() => Goal::Stands(&block.terms),
            Aim::Newest | Aim::InForce => Goal::of(block),
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
    pub(crate) fn new(block: Block, seen: Seen, others: Vec<Block>) -> Self {
        let settled_at = block.attempted_at + actions::block::LAG;
        Self {
            block,
            seen,
            others,
            changes: Changes::default(),
            settled_at,
            is_continued: false,
        }
    }

    pub(crate) fn compare(&self, aim: Aim, policy: &Policy) -> Comparison {
        compare(&self.block, aim.goal(&self.block), &self.seen, &self.others, policy)
    }

    /// The network interfaces that the block list is attached to, as last read.
    pub(crate) fn attached(&self, policy: &Policy) -> Option<BTreeSet<String>> {
        match ListState::of(self.seen.group.as_ref(), &policy.tag) {
            ListState::Attached(interfaces) => Some(interfaces),
            ListState::Detached | ListState::Deleted | ListState::NotEnrolled | ListState::DefaultGroup => None,
        }
    }

    /// Drops entries from the record that were removed, or that do not show although EC2 has had time to show them.
    pub(crate) fn tidy(&mut self, now: jiff::Timestamp) {
        let is_settled = self.settled_at <= now;
        if self.seen.network_acls.is_none() {
            return;
        }
        let (seen, changes, rule) = (&self.seen, &self.changes, self.block.rule);
        self.block.entries.retain(|placed| {
            let entry = placed.entry(rule);
            let may_stand = changes.added.contains(&entry) || changes.perhaps_added.contains(&entry);
            !changes.gone.contains(&entry) && (may_stand || !is_settled || seen.shows(&entry))
        });
        self.block.rule_stands = self.seen.rule.is_some() || (!is_settled && self.block.rule_stands);
    }
}

impl Changes {
    pub(crate) fn any(&self) -> bool {
        self.rule_added || self.rule_revoked || !self.added.is_empty() || !self.removed.is_empty()
    }

    fn note(&mut self, step: &Step, change: Change) {
        self.retagged |= matches!(step, Step::Retag { .. });
        match step {
            Step::Authorize { .. } => self.rule_is_gone = false,
            Step::Revoke { .. } => self.rule_is_gone = true,
            Step::AddDeny(entry) if change == Change::Made => {
                self.gone.remove(entry);
            }
            Step::RemoveDeny(entry) => {
                self.gone.insert(entry.clone());
            }
            Step::AddDeny(_) | Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
        if change == Change::AlreadySo {
            return;
        }
        match step {
            // What is added and removed again is no change.
            Step::Authorize { .. } => {
                self.rule_added = !std::mem::take(&mut self.rule_revoked);
            }
            Step::Revoke { .. } => {
                self.rule_revoked = !std::mem::take(&mut self.rule_added);
            }
            Step::AddDeny(entry) => {
                if !self.removed.remove(entry) {
                    self.added.insert(entry.clone());
                }
            }
            Step::RemoveDeny(entry) => {
                if !self.added.remove(entry) {
                    self.removed.insert(entry.clone());
                }
            }
            Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
    }
}

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Run<'_, N, T, S, C> {
    /// Takes the lease and writes the block with it. `false`: the block was changed since it was read.
    ///
    /// A lease that another holds is waited for while there is time.
    pub(crate) async fn begin(&self, block: &mut Block) -> Result<bool, Stop> {
        let mut wait = FIRST_WAIT;
        block.attempted_at = self.lease.until;
        loop {
            let now = self.clock.now();
            match self.table.begin(&self.lease, Some(block), now, self.deadline).await? {
                Begun::Yes => return Ok(true),
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
    }

    /// Writes the block and releases the lease.
    pub(crate) async fn finish(&self, work: &mut Work) -> Result<(), AwsError> {
        work.block.attempted_at = self.clock.now();
        self.table
            .finish(&self.lease, Some(&mut work.block), self.deadline)
            .await
    }

    /// As [`Run::finish`], where something else has failed: if that fails too, the lease ends by itself.
    pub(crate) async fn release(&self, work: &mut Work) {
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
        first: Vec<Step>,
        then: Vec<Step>,
    ) -> Result<bool, Stop> {
        let (mut first, mut then) = (Some(first), Some(then));
        let mut pauses = PAUSES.iter();
        let mut has_changed = false;
        if !work.block.is_wanted() {
            self.refresh_others(work).await?;
        }
        loop {
            let comparison = work.compare(aim, self.policy);
            // Of a block that is in force, the other network ACLs are seen to all the same.
            if let (Aim::Newest, Some(refusal)) = (aim, comparison.refused.first()) {
                return Err(Stop::Refused(refusal.clone()));
            }
            let mut steps = Self::still_to_do(&comparison.steps, work);
            steps.extend(first.take().unwrap_or_default());
            if comparison.steps.is_empty() {
                steps.extend(Self::still_to_do(&comparison.then, work));
                steps.extend(then.take().unwrap_or_default());
            }
            let shows = comparison.steps.is_empty()
                && comparison.then.iter().all(|step| matches!(step, Step::Retag { .. }))
                && self.is_gone_for_sure(&comparison, work, aim);
            if steps.is_empty() && shows {
                return Ok(true);
            }
            if !steps.is_empty() {
                self.record(work, &comparison).await?;
                self.execute(&steps, work).await?;
            }
            if has_changed {
                let Some(pause) = pauses.next() else {
                    return self.unverified(work, &comparison, aim);
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

    /// Whether entries that do not show are gone, and not merely late.
    fn is_gone_for_sure(&self, comparison: &Comparison, work: &Work, aim: Aim) -> bool {
        aim.goal(&work.block) != Goal::Gone
            || work.settled_at <= self.clock.now()
            || comparison.unseen.iter().all(|entry| work.changes.gone.contains(entry))
    }

    /// Without the removals that were made and do not show yet: a number may be another's by now.
    fn still_to_do(steps: &[Step], work: &Work) -> Vec<Step> {
        steps
            .iter()
            .filter(|step| !Self::is_done(step, work))
            .cloned()
            .collect()
    }

    fn is_done(step: &Step, work: &Work) -> bool {
        match step {
            Step::RemoveDeny(entry) => work.changes.gone.contains(entry),
            // Tags are for the reader: one attempt is enough, and an audit repairs them.
            Step::Retag { .. } => work.changes.retagged,
            _ => false,
        }
    }

    /// The last read did not show it.
    fn unverified(&self, work: &Work, comparison: &Comparison, aim: Aim) -> Result<bool, Stop> {
        let is_unknown = |step: &&Step| matches!(step, Step::AddDeny(entry) if !work.changes.added.contains(entry));
        let message = match comparison.steps.iter().find(is_unknown) {
            Some(step) => format!("EC2 says that the number is taken, and does not show by what, for: {step}"),
            None if !self.is_gone_for_sure(comparison, work, aim) => {
                "EC2 may not show yet all that was placed".to_owned()
            }
            None => return Ok(false),
        };
        Err(AwsError::new(CREATE_ENTRY, ErrorKind::Unreachable, message).into())
    }

    /// Writes entries that are about to be placed into the table, before they are.
    async fn record(&self, work: &mut Work, comparison: &Comparison) -> Result<(), Stop> {
        if !work.block.is_wanted() || !work.block.record(&comparison.entries) {
            return Ok(());
        }
        self.table.save(&mut work.block, self.deadline).await?;
        Ok(())
    }

    /// Carries out steps side by side, and notes what each changed, whatever becomes of the others.
    ///
    /// # Errors
    /// One that is final, if there is one: it decides, whatever else could be tried again.
    pub(crate) async fn execute(&self, steps: &[Step], work: &mut Work) -> Result<(), Stop> {
        let done = join_all(steps.iter().map(|step| self.apply(step))).await;
        let mut stop: Option<Stop> = None;
        for (step, outcome) in steps.iter().zip(done) {
            match outcome {
                Ok(change) => work.changes.note(step, change),
                Err(error) => {
                    tracing::warn!(group = %self.lease.group, %error, "could not {step}");
                    if let Step::AddDeny(entry) = step {
                        work.changes.perhaps_added.insert(entry.clone());
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

    /// Reads the table again, where other blocks share entries that are to be removed. The own block is marked as to be
    /// lifted by now: of two that are lifted at the same time, one at least sees the other marked.
    pub(crate) async fn refresh_others(&self, work: &mut Work) -> Result<(), Stop> {
        let block = &work.block;
        if work.others.iter().any(|other| block.shares_with(other)) {
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
        if work.changes.gone.is_empty() {
            work.seen = self.network.read(&read, self.deadline).await?.seen;
            return Ok(());
        }
        let (view, found) = futures::join!(
            self.network.read(&read, self.deadline),
            self.table.of_rule(&block.region, &block.rule, self.deadline)
        );
        work.seen = view?.seen;
        (_, work.others) = split(found?, &block.group);
        let removed: Vec<DenyEntry> = work.changes.gone.iter().cloned().collect();
        let restore = to_restore_for_others(&work.block, &removed, &work.others);
        if restore.is_empty() {
            return Ok(());
        }
        for (step, outcome) in restore
            .iter()
            .zip(join_all(restore.iter().map(|step| self.apply(step))).await)
        {
            work.changes.note(step, outcome?);
        }
        Ok(())
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        // Out of time is found by the next call.
        let _ = self.deadline.bound(tokio::time::sleep(pause)).await;
    }

    /// Waits until everything shows that was changed before this run.
    pub(crate) async fn settle(&self, work: &mut Work) -> Result<(), Stop> {
        let left = work.settled_at.duration_since(self.clock.now());
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            self.pause(left).await;
            self.read_back(work).await?;
        }
        Ok(())
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

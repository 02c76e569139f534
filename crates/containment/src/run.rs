//! A plan carried out: its steps in order, what a race or a failure makes of them, and the fresh look at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_support::{AwsError, Deadline, ErrorKind};
use aws_text::NetworkAclId;
use containment_plan::outcome::{Done, NetworkAclEntry};
use containment_plan::plan::{self, Assessment, DenyEntry, Planned};
use containment_plan::{
    Action, Details, Enforcement, NetworkAcl, Plan, Policy, Refusal, RefusalCode, Request, State, Step,
};
use futures::future::join_all;
use jiff::Timestamp;

use crate::ec2::{AUTHORIZE, CREATE_ENTRY, ENTRY_LIMIT};
use crate::network::{Change, Look, Network};
use crate::schedules::Schedules;

/// One request on its way.
pub(crate) struct Run<'a, N, S> {
    pub(crate) request: &'a Request,
    pub(crate) policy: &'a Policy,
    pub(crate) network: &'a N,
    pub(crate) schedules: &'a S,
    /// One time for the whole request: a plan made anew has the same end
    pub(crate) now: Timestamp,
    pub(crate) look: Look,
    pub(crate) deadline: &'a Deadline,
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is refused; nothing of it is left
    Refused(Refusal),
    /// An AWS call failed
    Failed(AwsError),
    /// The block list has become attached: its rule was taken back, the deny entries stay
    DoorClosed { refusal: Refusal, is_enforced: bool },
    /// The block list has become attached, and its rule could not be taken back. The deny entries must stay
    DoorOpen(AwsError),
}

impl Stop {
    /// It would be so again.
    fn is_for_good(&self) -> bool {
        match self {
            Stop::Refused(_) | Stop::DoorClosed { .. } => true,
            Stop::Failed(error) | Stop::DoorOpen(error) => !error.is_retryable(),
        }
    }

    /// What the request recorded is taken back: the block will not come to be.
    fn leaves_nothing(&self) -> bool {
        self.is_for_good() && !matches!(self, Stop::DoorClosed { .. } | Stop::DoorOpen(_))
    }
}

/// Looks at a change, before it is said that it does not show. Describes of EC2 can lag behind changes ("Eventual
/// consistency" in the EC2 developer guide).
const LOOKS: u32 = 4;
/// Between the first two looks; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Numbers of one network ACL that are tried, where others are faster each time.
const NUMBERS_TRIED: usize = 10;

/// What the steps did.
#[derive(Default)]
struct Deeds {
    /// A rule or an entry was added or removed
    changed: bool,
    /// The deny entry of each network ACL, and whether this run added it
    placed: BTreeMap<NetworkAclId, (DenyEntry, bool)>,
    /// Deny entries that this run removed
    removed: Vec<DenyEntry>,
}

impl Deeds {
    fn note(&mut self, deed: Deed) {
        match deed {
            Deed::Rule(change) => self.changed |= change == Change::Made,
            Deed::Placed { entry, added } => {
                // An entry that was added and is found there later was added all the same.
                let was_added = self.has_added(&entry);
                self.placed.insert(entry.acl.clone(), (entry, added || was_added));
                self.changed |= added;
            }
            Deed::Removed(entry, Change::Made) => {
                self.removed.push(entry);
                self.changed = true;
            }
            Deed::Removed(_, Change::AlreadySo) | Deed::Aside => {}
        }
    }

    /// Whether the entry is one that this run added.
    fn has_added(&self, entry: &DenyEntry) -> bool {
        self.placed
            .get(&entry.acl)
            .is_some_and(|(placed, added)| *added && placed == entry)
    }
}

enum Deed {
    Rule(Change),
    Placed {
        entry: DenyEntry,
        added: bool,
    },
    Removed(DenyEntry, Change),
    /// Something that is no change of the network
    Aside,
}

impl<N: Network, S: Schedules> Run<'_, N, S> {
    /// Carries out the plan made of the state, and fills the details.
    pub(crate) async fn carry_out(&self, plan: Plan, state: State, details: &mut Details) -> Result<Done, Stop> {
        if let Some(other) = plan.renewed_by {
            let assessment = plan::assess(self.request, &state, self.policy);
            details.network_acl_entries = entries(Some(&assessment), &Deeds::default());
            return Ok(Done {
                changed: false,
                seen: Some((state, assessment)),
                renewed_by: Some(other),
            });
        }
        match self.request.action {
            Action::BlockIp => self.block(plan, state, details).await,
            Action::AllowIp => {
                let mut deeds = Deeds::default();
                self.stages(&plan.stages, &state, &mut deeds).await?;
                self.finish(&state, &mut deeds, details).await
            }
        }
    }

    /// The record first. Where the rest fails for good, what this request recorded is taken back.
    async fn block(&self, mut plan: Plan, mut state: State, details: &mut Details) -> Result<Done, Stop> {
        let mut deeds = Deeds::default();
        let added = match self.record(&mut plan, &mut state).await {
            Err(Stop::Refused(refusal)) => return Err(self.refused(refusal, &state).await),
            recorded => recorded?,
        };
        deeds.changed = added;
        details.expires_at = plan.expires_at.map(|at| at.to_string());
        let stop = match self.stages(&plan.stages[1..], &state, &mut deeds).await {
            Ok(()) => match self.finish(&state, &mut deeds, details).await {
                Ok(done) => return Ok(done),
                Err(stop) => stop,
            },
            Err(stop) => stop,
        };
        if !stop.leaves_nothing() {
            return Err(stop);
        }
        tracing::warn!(request_id = self.request.request_id, "the block cannot be made");
        let undone = if added || self.was_added(&state) {
            // What stood before the rule was added is of an older block, whose rule an audit took.
            let before = if added {
                plan::standing(self.request, &state, self.policy).collect()
            } else {
                Vec::new()
            };
            self.take_back(&deeds, &before).await
        } else {
            let older = plan::plan_restore(self.request, &state, self.policy, self.now);
            self.stages(&older.stages, &state, &mut Deeds::default()).await
        };
        match undone {
            Ok(()) => Err(stop),
            Err(undone) => Err(self.not_taken_back(&stop, undone)),
        }
    }

    /// Whether the rule in the state is one that this request added when it came before.
    fn was_added(&self, state: &State) -> bool {
        let recorded = state.group.rules.get(&self.request.rule);
        recorded.is_some_and(|rule| rule.was_added_by(&self.request.request_id))
    }

    /// A block that is refused now, and whose record may be there from when it came before.
    pub(crate) async fn refused(&self, refusal: Refusal, state: &State) -> Stop {
        if self.request.action == Action::AllowIp || !self.was_added(state) {
            return Stop::Refused(refusal);
        }
        let undone = if refusal.code == RefusalCode::GroupInUse {
            let assessment = plan::assess(self.request, state, self.policy);
            self.check_door(state, &assessment).await
        } else {
            self.take_back(&Deeds::default(), &[]).await
        };
        match undone {
            Ok(()) => Stop::Refused(refusal),
            Err(stop @ (Stop::DoorClosed { .. } | Stop::DoorOpen(_))) => stop,
            Err(undone) => self.not_taken_back(&Stop::Refused(refusal), undone),
        }
    }

    /// Authorizes the rule, and says whether it was not there before. Where EC2 says that it is and the state does not
    /// show it, either the state lags behind or someone was faster: whose rule it is must be seen before it is renewed.
    async fn record(&self, plan: &mut Plan, state: &mut State) -> Result<bool, Stop> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..LOOKS {
            let Some(planned) = plan.stages.first().and_then(|stage| stage.first()) else {
                break;
            };
            self.log(&planned.step);
            match self.network.apply(&planned.step, self.deadline).await? {
                Change::Made => return Ok(true),
                Change::AlreadySo if planned.is_already_so => return Ok(false),
                Change::AlreadySo => {}
            }
            self.pause(&mut pause).await;
            *state = self.network.look_again(&self.look, state, self.deadline).await?;
            *plan = plan::plan(self.request, state, self.policy, self.now)?;
        }
        let message = "EC2 says that the rule is there, and does not show it".to_owned();
        Err(AwsError::new(AUTHORIZE, ErrorKind::Unreachable, message).into())
    }

    /// One stage after the other, the steps of each side by side.
    async fn stages(&self, stages: &[Vec<Planned>], state: &State, deeds: &mut Deeds) -> Result<(), Stop> {
        for stage in stages {
            let done = join_all(stage.iter().map(|planned| self.take(planned, state))).await;
            let mut stop = None;
            for outcome in done {
                match outcome {
                    Ok(deed) => deeds.note(deed),
                    // What fails for good decides the request, whatever else could be tried again.
                    Err(error) if stop.as_ref().is_none_or(|stop: &Stop| !stop.is_for_good()) => stop = Some(error),
                    Err(_) => {}
                }
            }
            if let Some(stop) = stop {
                return Err(stop);
            }
        }
        Ok(())
    }

    async fn take(&self, planned: &Planned, state: &State) -> Result<Deed, Stop> {
        self.log(&planned.step);
        match &planned.step {
            Step::PutSchedule(schedule) => {
                self.schedules.put(schedule, self.deadline).await?;
                Ok(Deed::Aside)
            }
            Step::DeleteSchedule { name } => match self.schedules.delete(name, self.deadline).await {
                // What is left of an older block changes nothing when it comes: it is bound to that block.
                Err(error) if !error.is_retryable() => {
                    tracing::error!(request_id = self.request.request_id, %error, "a schedule is left over");
                    Ok(Deed::Aside)
                }
                outcome => Ok(outcome.map(|()| Deed::Aside)?),
            },
            Step::RenewTags { .. } => {
                self.network.apply(&planned.step, self.deadline).await?;
                Ok(Deed::Aside)
            }
            Step::AuthorizeIngress { .. } | Step::RevokeIngress { .. } => {
                Ok(Deed::Rule(self.network.apply(&planned.step, self.deadline).await?))
            }
            Step::RemoveDeny(entry) => {
                let change = self.network.apply(&planned.step, self.deadline).await?;
                Ok(Deed::Removed(entry.clone(), change))
            }
            Step::AddDeny(entry) => self.deny(entry.clone(), planned.is_already_so, state).await,
        }
    }

    /// Adds a deny entry. Where its number is taken by now, the next one is: two runs that race for a number both get
    /// one.
    async fn deny(&self, mut entry: DenyEntry, is_there: bool, state: &State) -> Result<Deed, Stop> {
        let numbers = self.policy.rule_numbers;
        let mut taken = BTreeSet::new();
        for _ in 0..NUMBERS_TRIED {
            match self.network.apply(&Step::AddDeny(entry.clone()), self.deadline).await {
                Ok(Change::Made) => return Ok(Deed::Placed { entry, added: true }),
                // The state and EC2 agree.
                Ok(Change::AlreadySo) if is_there => return Ok(Deed::Placed { entry, added: false }),
                Ok(Change::AlreadySo) => {}
                Err(error) if error.has_code(ENTRY_LIMIT) => {
                    return Err(match acl_of(state, &entry) {
                        Some(acl) => acl.full(&entry.rule, numbers, "its quota of entries is used up").into(),
                        None => error.into(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
            taken.insert(entry.number);
            let acl = self.network.network_acl(&entry.acl, self.deadline).await?;
            if let Some(number) = acl.denied_at(&entry.rule, numbers) {
                return Ok(Deed::Placed {
                    entry: DenyEntry { number, ..entry },
                    added: false,
                });
            }
            entry.number = acl.free_number(&entry.rule, numbers, &taken)?;
            tracing::info!(
                request_id = self.request.request_id,
                "the number was taken: {}",
                entry.number
            );
        }
        let message = format!("others were faster for every number that was tried in {}", entry.acl);
        Err(AwsError::new(CREATE_ENTRY, ErrorKind::Throttled, message).into())
    }

    /// Removes what this request put there, the effect before the record.
    /// Entries that stood `before` stay, and without enforcement none is touched: this request added none of them.
    async fn take_back(&self, deeds: &Deeds, before: &[DenyEntry]) -> Result<(), Stop> {
        let look = Look::to_lift(self.request, self.policy);
        let state = self.network.look(&look, self.deadline).await?;
        let recorded = state.group.rules.get(&self.request.rule);
        if recorded.is_some_and(|rule| !rule.is_of(&self.request.request_id)) {
            tracing::warn!(
                request_id = self.request.request_id,
                "another request has renewed the block: it stays"
            );
            return Ok(());
        }
        let mut plan = plan::plan_lift(self.request, &state, self.policy);
        let is_added = |planned: &Planned| match &planned.step {
            Step::RemoveDeny(entry) => self.policy.enforcement == Enforcement::NetworkAcl && !before.contains(entry),
            _ => true,
        };
        for stage in &mut plan.stages {
            stage.retain(is_added);
        }
        if state.other_holders.is_empty() {
            // What was added just now may not show yet.
            let added = deeds.placed.values().filter(|(_, added)| *added);
            let removals = added.map(|(entry, _)| Planned {
                step: Step::RemoveDeny(entry.clone()),
                is_already_so: false,
            });
            let unseen: Vec<Planned> = removals
                .filter(|removal| !plan.steps().any(|planned| planned.step == removal.step))
                .collect();
            plan.stages.insert(0, unseen);
        }
        self.stages(&plan.stages, &state, &mut Deeds::default()).await
    }

    /// Where taking back can be tried again, the whole request is; else the answer says what is left.
    fn not_taken_back(&self, stop: &Stop, undone: Stop) -> Stop {
        match undone {
            Stop::Failed(error) if error.is_retryable() => Stop::Failed(error),
            Stop::Failed(error) => {
                let why = match stop {
                    Stop::Refused(refusal) | Stop::DoorClosed { refusal, .. } => refusal.message.clone(),
                    Stop::Failed(error) | Stop::DoorOpen(error) => error.to_string(),
                };
                let message = format!(
                    "{} (this was to take back a block that cannot be made: {why}; its record is still on {})",
                    error.message, self.request.group
                );
                Stop::Failed(AwsError { message, ..error })
            }
            other => other,
        }
    }

    /// The fresh look, and what it asks for.
    async fn finish(&self, state: &State, deeds: &mut Deeds, details: &mut Details) -> Result<Done, Stop> {
        let seen = self.verify(state, deeds).await?;
        details.network_acl_entries = entries(seen.as_ref().map(|(_, assessment)| assessment), deeds);
        if let Some((state, assessment)) = &seen {
            if let Some(rule) = state.group.rules.get(&self.request.rule) {
                details.security_group_rule_id = Some(rule.id.clone());
            }
            self.check_door(state, assessment).await?;
        }
        Ok(Done {
            changed: deeds.changed,
            seen,
            renewed_by: None,
        })
    }

    /// Looks until it is as asked, and puts right what is not. Where no look can be taken for now the request comes
    /// again; where none can be taken at all, that does not undo the change.
    async fn verify(&self, before: &State, deeds: &mut Deeds) -> Result<Option<(State, Assessment)>, Stop> {
        let mut pause = FIRST_PAUSE;
        let mut seen = None;
        for look in 1..=LOOKS {
            let state = match self.network.look_again(&self.look, before, self.deadline).await {
                Ok(state) => state,
                Err(error) if error.is_retryable() && seen.is_none() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(request_id = self.request.request_id, %error, "the change cannot be verified");
                    break;
                }
            };
            let assessment = plan::assess(self.request, &state, self.policy);
            let (state, assessment) = &*seen.insert((state, assessment));
            let is_to_restore = Self::is_to_restore(state, deeds);
            // Two lists that are lifted at once may each see the other for a moment, and leave the entries to it.
            let is_sure = look > 1 || state.other_holders.is_empty();
            let is_done = assessment.is_as_asked && is_sure && !is_to_restore;
            let is_attached = self.request.action == Action::BlockIp && !state.group.interfaces.is_empty();
            // Without a right to look at network ACLs no further look shows more.
            let is_blind = self.request.action == Action::AllowIp
                && state.network_acls.is_none()
                && !state.group.rules.contains_key(&self.request.rule);
            if is_done || is_attached || is_blind || (look == LOOKS && !is_to_restore) {
                break;
            }
            self.put_right(state, deeds).await?;
            self.pause(&mut pause).await;
        }
        Ok(seen)
    }

    /// Another block list of the VPC has got the rule while its deny entries were removed: they are its own now.
    fn is_to_restore(state: &State, deeds: &Deeds) -> bool {
        !state.other_holders.is_empty() && !deeds.removed.is_empty()
    }

    /// Takes again the steps whose effect a look does not show. Adding changes nothing where the look was behind; an
    /// entry that this run removed is not removed again, for its number may be another's by now.
    async fn put_right(&self, state: &State, deeds: &mut Deeds) -> Result<(), Stop> {
        let stages: Vec<Vec<Planned>> = match self.request.action {
            Action::BlockIp => {
                let again = plan::plan(self.request, state, self.policy, self.now)?;
                let missing = again.stages.into_iter().map(|stage| {
                    let missing = stage.into_iter().filter(|planned| !planned.is_already_so);
                    missing
                        .map(|planned| Self::where_it_was(planned, state, deeds))
                        .collect()
                });
                missing.collect()
            }
            Action::AllowIp if Self::is_to_restore(state, deeds) => {
                let restored = deeds.removed.drain(..).map(|entry| Planned {
                    step: Step::AddDeny(entry),
                    is_already_so: false,
                });
                vec![restored.collect()]
            }
            Action::AllowIp => {
                let lift = plan::plan_lift(self.request, state, self.policy);
                let is_to_take = |planned: &Planned| match &planned.step {
                    Step::RemoveDeny(entry) => !deeds.removed.contains(entry),
                    _ => !planned.is_already_so,
                };
                let remaining = lift
                    .stages
                    .into_iter()
                    .map(|stage| stage.into_iter().filter(is_to_take).collect());
                remaining.collect()
            }
        };
        self.stages(&stages, state, deeds).await
    }

    /// An entry that this run added and that does not show is added again with its number, which changes nothing if
    /// the look is behind; with another number it would stand there twice.
    fn where_it_was(planned: Planned, state: &State, deeds: &Deeds) -> Planned {
        let Step::AddDeny(entry) = &planned.step else {
            return planned;
        };
        let limit = acl_of(state, entry).and_then(|acl| acl.first_allow(&entry.rule));
        match deeds.placed.get(&entry.acl) {
            Some((placed, true)) if limit.is_none_or(|limit| placed.number < limit) => Planned {
                step: Step::AddDeny(placed.clone()),
                is_already_so: true,
            },
            _ => planned,
        }
    }

    /// A block list that was attached while the block was made lets the target in: its rule goes at once. The deny
    /// entries stay, as they do after an audit.
    async fn check_door(&self, state: &State, assessment: &Assessment) -> Result<(), Stop> {
        if self.request.action == Action::AllowIp || state.group.interfaces.is_empty() {
            return Ok(());
        }
        let revoke = Step::RevokeIngress {
            group: self.request.group.clone(),
            rule: self.request.rule,
        };
        tracing::error!(
            request_id = self.request.request_id,
            interfaces = ?state.group.interfaces,
            "the block list has become attached, and its rule is revoked"
        );
        self.network
            .apply(&revoke, self.deadline)
            .await
            .map_err(Stop::DoorOpen)?;
        let (interfaces, group) = (state.group.interfaces.join(", "), &self.request.group);
        Err(Stop::DoorClosed {
            refusal: Refusal {
                code: RefusalCode::GroupInUse,
                message: format!(
                    "{group} has been attached to {interfaces} since the block was asked for; its rule was taken back at \
                     once, and deny entries that were added stand until ALLOW_IP"
                ),
                remedy: format!("detach {group} from these interfaces and block again"),
            },
            is_enforced: assessment.is_enforced,
        })
    }

    async fn pause(&self, pause: &mut Duration) {
        // Out of time is found by the next call.
        let _ = self.deadline.bound(tokio::time::sleep(*pause)).await;
        *pause *= 2;
    }

    fn log(&self, step: &Step) {
        tracing::info!(request_id = self.request.request_id, "{step}");
    }
}

/// The network ACL of the entry, as the state has it.
fn acl_of<'s>(state: &'s State, entry: &DenyEntry) -> Option<&'s NetworkAcl> {
    state.network_acls.iter().flatten().find(|acl| acl.id == entry.acl)
}

/// The entries that stand, and those that were removed; without a look, those that were placed.
fn entries(seen: Option<&Assessment>, deeds: &Deeds) -> Vec<NetworkAclEntry> {
    let standing: Vec<&DenyEntry> = match seen {
        Some(seen) => seen.entries.iter().collect(),
        None => deeds.placed.values().map(|(entry, _)| entry).collect(),
    };
    let removed = deeds.removed.iter().filter(|removed| !standing.contains(removed));
    let removed = removed.map(|entry| NetworkAclEntry::of(entry, true));
    let standing = standing
        .iter()
        .map(|entry| NetworkAclEntry::of(entry, deeds.has_added(entry)));
    standing.chain(removed).collect()
}

#[cfg(test)]
mod tests;

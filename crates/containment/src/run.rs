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
    /// Where the deny entry of each network ACL stands, and whether this run added it
    placed: BTreeMap<NetworkAclId, (u16, bool)>,
    /// Deny entries that this run removed
    removed: Vec<DenyEntry>,
}

impl Deeds {
    fn note(&mut self, deed: Deed) {
        match deed {
            Deed::Rule(change) => self.changed |= change == Change::Made,
            Deed::Placed { entry, added } => {
                // An entry that was added and is found there later was added all the same.
                let was_added = self.placed.get(&entry.acl) == Some(&(entry.number, true));
                self.placed.insert(entry.acl, (entry.number, added || was_added));
                self.changed |= added;
            }
            Deed::Removed(entry, Change::Made) => {
                self.removed.push(entry);
                self.changed = true;
            }
            Deed::Removed(_, Change::AlreadySo) | Deed::Aside => {}
        }
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
            details.network_acl_entries = entries(Some(&assessment), &Deeds::default(), self.request);
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
        let mut is_there = is_there;
        for _ in 0..NUMBERS_TRIED {
            match self.network.apply(&Step::AddDeny(entry.clone()), self.deadline).await {
                Ok(Change::Made) => return Ok(Deed::Placed { entry, added: true }),
                // The state and EC2 agree.
                Ok(Change::AlreadySo) if is_there => return Ok(Deed::Placed { entry, added: false }),
                Ok(Change::AlreadySo) => {}
                Err(error) if error.has_code(ENTRY_LIMIT) => {
                    let acls = state.network_acls.iter().flatten();
                    let full = |acl: &NetworkAcl| acl.full(&entry.rule, numbers, "its quota of entries is used up");
                    return Err(match acls.into_iter().find(|acl| acl.id == entry.acl).map(full) {
                        Some(refusal) => Stop::Refused(refusal),
                        None => Stop::Failed(error),
                    });
                }
                Err(error) => return Err(error.into()),
            }
            taken.insert(entry.number);
            let acl = self.network.network_acl(&entry.acl, self.deadline).await?;
            let ours = acl.denied_at(&entry.rule, numbers);
            is_there = ours.is_some();
            entry.number = match ours {
                Some(number) => {
                    return Ok(Deed::Placed {
                        entry: DenyEntry { number, ..entry },
                        added: false,
                    });
                }
                None => acl.free_number(&entry.rule, numbers, &taken)?,
            };
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
            let added = deeds.placed.iter().filter(|(_, (_, added))| *added);
            let removals = added.map(|(acl, (number, _))| Planned {
                step: Step::RemoveDeny(DenyEntry {
                    acl: acl.clone(),
                    number: *number,
                    rule: self.request.rule,
                }),
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
        details.network_acl_entries = entries(seen.as_ref().map(|(_, assessment)| assessment), deeds, self.request);
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
                        .map(|planned| self.where_it_was(planned, state, deeds))
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
    fn where_it_was(&self, planned: Planned, state: &State, deeds: &Deeds) -> Planned {
        let Step::AddDeny(entry) = &planned.step else {
            return planned;
        };
        let acl = state.network_acls.iter().flatten().find(|acl| acl.id == entry.acl);
        let limit = acl.and_then(|acl| acl.first_allow(&self.request.rule));
        match deeds.placed.get(&entry.acl) {
            Some((number, true)) if limit.is_none_or(|limit| *number < limit) => Planned {
                step: Step::AddDeny(DenyEntry {
                    number: *number,
                    ..entry.clone()
                }),
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

/// The entries that stand, and those that were removed; without a look, those that were placed.
fn entries(seen: Option<&Assessment>, deeds: &Deeds, request: &Request) -> Vec<NetworkAclEntry> {
    let placed = || {
        deeds.placed.iter().map(|(acl, (number, _))| DenyEntry {
            acl: acl.clone(),
            number: *number,
            rule: request.rule,
        })
    };
    let standing = seen.map_or_else(|| placed().collect(), |seen| seen.entries.clone());
    let is_added = |entry: &DenyEntry| deeds.placed.get(&entry.acl) == Some(&(entry.number, true));
    let removed = deeds.removed.iter().filter(|removed| !standing.contains(removed));
    let removed: Vec<NetworkAclEntry> = removed.map(|entry| NetworkAclEntry::of(entry, true)).collect();
    let standing = standing.iter().map(|entry| NetworkAclEntry::of(entry, is_added(entry)));
    standing.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, LATENCY, World, body, entry};
    use containment_plan::network_acl::{Effect, Entry};

    const TARGET: &str = "203.0.113.7/32";

    fn block(id: &str) -> Value {
        body(id, "BLOCK_IP", GROUP_A)
    }

    fn allow(id: &str) -> Value {
        body(id, "ALLOW_IP", GROUP_A)
    }

    fn expiring(id: &str, seconds: u32) -> Value {
        let mut request = block(id);
        request["params"]["expires_after_seconds"] = json!(seconds);
        request
    }

    /// What a schedule sends when its time has come, after which it is gone.
    fn fire(world: &World) -> Value {
        let (_, schedule) = world.things.borrow_mut().schedules.pop_first().unwrap();
        schedule.request
    }

    fn at(number: u16) -> Vec<(u16, String)> {
        vec![(number, TARGET.to_owned())]
    }

    fn flags(answer: &Value) -> [&Value; 4] {
        ["status", "changed", "enforced", "verified"].map(|name| &answer[name])
    }

    fn is(answer: &Value, status: &str, changed: bool, enforced: bool, verified: bool) {
        let expected = [json!(status), json!(changed), json!(enforced), json!(verified)];
        assert_eq!(flags(answer), expected.each_ref(), "{answer}");
    }

    /// What is put into a network is on record.
    fn assert_on_record(world: &World) {
        if !world.denied(ACL_A).is_empty() || !world.denied(ACL_B).is_empty() {
            assert!(!world.recorded(GROUP_A).is_empty() || !world.recorded(GROUP_B).is_empty());
        }
    }

    fn assert_nothing_left(world: &World) {
        let untouched = World::default();
        assert_eq!(world.things.borrow().entries, untouched.things.borrow().entries);
        assert!(world.recorded(GROUP_A).is_empty());
        assert!(world.things.borrow().schedules.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_request_again_changes_nothing() {
        let world = World::default();
        for request in [expiring("r-1", 3600), allow("r-2")] {
            let first = world.bare(&request).await;
            assert_eq!(
                (&first["status"], &first["changed"]),
                (&json!("succeeded"), &json!(true))
            );
            let before = world.things.borrow().clone();
            let again = world.bare(&request).await;
            assert_eq!(
                (&again["status"], &again["changed"]),
                (&json!("succeeded"), &json!(false))
            );
            assert_eq!(
                (&again["enforced"], &again["verified"]),
                (&first["enforced"], &json!(true))
            );
            assert_eq!(again["details"]["expires_at"], first["details"]["expires_at"]);
            assert_eq!(*world.things.borrow(), before);
        }
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn block_allow_block_ends_in_a_block() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        world.bare(&allow("r-2")).await;
        is(&world.bare(&block("r-3")).await, "succeeded", true, true, true);
        assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-3".to_owned())]);
        assert_eq!(world.denied(ACL_A), at(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deny_is_in_force_within_four_calls_and_the_result_sent_within_eight() {
        for (request, deny, sent) in [(block("r-1"), 3, 5), (expiring("r-1", 60), 4, 6)] {
            let world = World::default();
            let start = tokio::time::Instant::now();
            world.bare(&request).await;
            let done = |operation: &str| {
                let done_at = world.done_at.borrow();
                let (_, at) = done_at
                    .iter()
                    .rev()
                    .find(|(call, _)| call.starts_with(operation))
                    .unwrap();
                (*at - start).as_millis() / LATENCY.as_millis()
            };
            assert_eq!((done("add"), done("send")), (deny, sent));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_loser_of_a_race_for_a_number_takes_the_next() {
        let world = World::default();
        world.before("add", |world| {
            world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
        });
        let answer = world.bare(&block("r-1")).await;
        is(&answer, "succeeded", true, true, true);
        let ours: Vec<_> = world
            .denied(ACL_A)
            .into_iter()
            .filter(|(_, source)| source == TARGET)
            .collect();
        assert_eq!(ours, at(2));
        assert_eq!(answer["details"]["network_acl_entries"][0]["rule_number"], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn two_blocks_at_once_share_their_entries_and_each_keeps_its_record() {
        let world = World::default();
        let (one, other) = world.both(&block("r-1"), &body("r-2", "BLOCK_IP", GROUP_B)).await;
        is(&one, "succeeded", true, true, true);
        assert_eq!(other["enforced"], true);
        assert_eq!(world.denied(ACL_A), at(1));
        // The first lift leaves the entries to the other block list.
        let first = world.bare(&allow("r-3")).await;
        is(&first, "succeeded", true, true, true);
        assert!(
            first["summary"]
                .as_str()
                .unwrap()
                .contains("still denied, for sg-0000000b")
        );
        assert_eq!(world.denied(ACL_A), at(1));
        is(
            &world.bare(&body("r-4", "ALLOW_IP", GROUP_B)).await,
            "succeeded",
            true,
            false,
            true,
        );
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_block_at_once_in_two_containers_is_one() {
        let world = World::default();
        let (one, other) = world.both(&block("r-1"), &block("r-1")).await;
        for answer in [&one, &other] {
            assert_eq!(answer["status"], "succeeded");
            assert_eq!((&answer["enforced"], &answer["verified"]), (&json!(true), &json!(true)));
        }
        assert_eq!(world.denied(ACL_A), at(1));
        assert_eq!(world.recorded(GROUP_A).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_list_that_gets_the_rule_while_it_is_lifted_elsewhere_gets_its_entries_back() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        // WHEN another function blocks the same on another list, after this one has looked, and sees the entries
        world.before("remove", |world| {
            let mut things = world.things.borrow_mut();
            let rules = things.rules[GROUP_A].clone();
            things.rules.insert(GROUP_B.to_owned(), rules);
        });
        let answer = world.bare(&allow("r-2")).await;
        assert_eq!(world.denied(ACL_A), at(1));
        assert_eq!(world.denied(ACL_B), at(1));
        is(&answer, "succeeded", true, true, true);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_lags_behind_hides_nothing() {
        let world = World::default();
        *world.shown.borrow_mut() = Some(world.things.borrow().clone());
        // Looks show nothing of the block until the third.
        let answer = world.bare(&block("r-1")).await;
        is(&answer, "succeeded", true, false, false);
        assert!(
            answer["summary"]
                .as_str()
                .unwrap()
                .ends_with("a fresh look did not show it so")
        );
        assert_eq!(world.denied(ACL_A), at(1), "no second entry is added");
        assert_eq!(world.calls_of(&["look"]).len(), 5, "one before, four after");
        // It is there all the same, and comes to light.
        *world.shown.borrow_mut() = None;
        is(&world.bare(&block("r-1")).await, "succeeded", false, true, true);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_that_the_state_does_not_show_is_seen_before_it_is_renewed() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        *world.shown.borrow_mut() = Some(World::default().things.borrow().clone());
        world.before("authorize", |world| *world.shown.borrow_mut() = None);
        is(&world.bare(&block("r-2")).await, "succeeded", false, true, true);
        assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_removes_meanwhile_is_put_back() {
        let world = World::default();
        world.before("delete", |world| {
            // after the first look, before the second: the entry of one ACL is gone again
            world.before("look", |world| {
                let mut things = world.things.borrow_mut();
                things.entries.get_mut(ACL_A).unwrap().retain(|entry| entry.number != 1);
            });
        });
        is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
        assert_eq!(world.denied(ACL_A), at(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_allow_that_is_put_before_the_entry_is_beaten() {
        let world = World::default();
        world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
        world.put_entry(ACL_A, entry(2, Effect::Deny, "198.51.100.2/32"));
        // after the entry is added with the number 3, and before the look that is to show it
        world.before("delete", |world| {
            world.before("look", |world| {
                let mut things = world.things.borrow_mut();
                let entries = things.entries.get_mut(ACL_A).unwrap();
                entries.retain(|entry| ![1, 2].contains(&entry.number));
                entries.push(entry(2, Effect::Allow, "203.0.113.0/24"));
            });
        });
        is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
        let ours: Vec<u16> = world.denied(ACL_A).iter().map(|(number, _)| *number).collect();
        assert_eq!(ours, [3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_acl_leaves_nothing_behind() {
        // No room by the numbers: found before anything is changed.
        let by_numbers = World::default();
        by_numbers.put_entry(ACL_B, entry(1, Effect::Allow, "203.0.113.0/24"));
        let answer = by_numbers.bare(&block("r-1")).await;
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!("failed"), &json!("network_acl_full"))
        );
        assert_eq!(by_numbers.writes(), [""; 0]);

        // No room by the quota: found by the call, in one of two.
        let by_quota = World {
            quota: 3,
            ..World::default()
        };
        by_quota.put_entry(ACL_B, entry(5, Effect::Deny, "198.51.100.1/32"));
        let before = by_quota.things.borrow().entries.clone();
        let answer = by_quota.bare(&expiring("r-1", 60)).await;
        is(&answer, "failed", false, false, false);
        assert_eq!(answer["error"]["code"], "network_acl_full");
        assert_eq!(answer["error"]["retryable"], false);
        assert_eq!(by_quota.things.borrow().entries, before);
        assert!(by_quota.recorded(GROUP_A).is_empty());
        assert!(by_quota.things.borrow().schedules.is_empty());
        // The effect is undone before the record.
        let undone = by_quota.calls_of(&["remove", "revoke"]);
        assert_eq!(undone, [format!("remove {ACL_A} 1"), format!("revoke {GROUP_A}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_before_is_not_taken_back() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        world
            .things
            .borrow_mut()
            .entries
            .get_mut(ACL_B)
            .unwrap()
            .retain(|entry| entry.number != 1);
        world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
        world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
        let answer = world.bare(&block("r-2")).await;
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!("failed"), &json!("access_denied"))
        );
        assert_eq!(world.recorded(GROUP_A).len(), 1);
        assert_eq!(world.denied(ACL_A), at(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_came_again_is_taken_back_as_at_first() {
        let world = World::failing("add", ErrorKind::Throttled, "RequestLimitExceeded");
        assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
        assert_on_record(&world);
        assert_eq!(world.recorded(GROUP_A).len(), 1);
        // WHEN it comes again and fails for good
        world.fail("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
        assert_eq!(world.bare(&block("r-1")).await["error"]["code"], "access_denied");
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_request_has_renewed_is_not_taken_back() {
        let world = World::failing("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
        world.before("add", |world| {
            let mut things = world.things.borrow_mut();
            for rule in things.rules.get_mut(GROUP_A).unwrap().values_mut() {
                rule.tags.insert("aisoc:request-id".to_owned(), "r-2".to_owned());
            }
        });
        assert_eq!(world.bare(&block("r-1")).await["status"], "failed");
        assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
        assert_on_record(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn where_taking_back_fails_the_request_is_tried_again_or_says_what_is_left() {
        let denied = || World::failing("add", ErrorKind::AccessDenied, "UnauthorizedOperation");
        let world = denied();
        world.fail("revoke", ErrorKind::Throttled, "RequestLimitExceeded");
        assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
        let world = denied();
        world.fail("revoke", ErrorKind::AccessDenied, "UnauthorizedOperation");
        let answer = world.bare(&block("r-1")).await;
        assert_eq!(
            (&answer["status"], &answer["error"]["retryable"]),
            (&json!("failed"), &json!(false))
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("its record is still on sg-0000000a"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_that_cannot_be_made_makes_no_block_without_end() {
        let world = World::failing("put", ErrorKind::AccessDenied, "AccessDeniedException");
        let answer = world.bare(&expiring("r-1", 60)).await;
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!("failed"), &json!("access_denied"))
        );
        assert_eq!(world.calls_of(&["add"]), [""; 0]);
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_ends_by_itself() {
        let world = World::default();
        let answer = world.bare(&expiring("r-1", 3600)).await;
        assert_eq!(answer["details"]["expires_at"], "2026-11-23T11:00:00Z");
        assert_eq!(world.things.borrow().schedules.len(), 1);
        let order = world.calls_of(&["authorize", "put", "add"]);
        assert!(order[0].starts_with("authorize") && order[1].starts_with("put") && order[2].starts_with("add"));
        is(&world.bare(&fire(&world)).await, "succeeded", true, false, true);
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_block_survives_the_end_of_the_older() {
        let world = World::default();
        world.bare(&expiring("r-1", 60)).await;
        let late = fire(&world);
        // WHEN the older block's end is on its way and a newer block without an end is made
        world.bare(&block("r-2")).await;
        let answer = world.bare(&late).await;
        is(&answer, "succeeded", false, true, true);
        assert!(answer["summary"].as_str().unwrap().contains("renewed by request r-2"));
        assert_eq!(world.denied(ACL_A), at(1));
        // WHEN it was lifted by hand and blocked anew
        world.bare(&allow("r-3")).await;
        world.bare(&block("r-4")).await;
        is(&world.bare(&late).await, "succeeded", false, true, true);
        // WHEN it was lifted by hand and nothing came after
        world.bare(&allow("r-5")).await;
        is(&world.bare(&late).await, "succeeded", false, false, true);
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn blocking_again_replaces_the_end_and_lifting_deletes_it() {
        let world = World::default();
        let end = |world: &World| {
            let things = world.things.borrow();
            things
                .schedules
                .values()
                .map(|schedule| schedule.at.to_string())
                .collect::<Vec<_>>()
        };
        world.bare(&expiring("r-1", 3600)).await;
        world.bare(&expiring("r-2", 7200)).await;
        assert_eq!(end(&world), ["2026-11-23T12:00:00Z"]);
        world.bare(&block("r-3")).await;
        assert_eq!(end(&world), [""; 0]);
        world.bare(&expiring("r-4", 60)).await;
        world.bare(&allow("r-5")).await;
        assert_eq!(end(&world), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_left_over_spoils_nothing() {
        let world = World::failing("delete", ErrorKind::AccessDenied, "AccessDeniedException");
        is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
        // One that could be deleted at the next attempt is worth one.
        world.fail("delete", ErrorKind::Throttled, "ThrottlingException");
        assert_eq!(world.bare(&allow("r-2")).await["error"]["retryable"], true);
        is(&world.bare(&allow("r-2")).await, "succeeded", false, false, true);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_audit_the_entries_alone_are_the_record() {
        for expiry in [true, false] {
            let world = World::default();
            world.bare(&expiring("r-1", 60)).await;
            let late = fire(&world);
            world.things.borrow_mut().rules.clear();
            let lift = if expiry { late } else { allow("r-2") };
            is(&world.bare(&lift).await, "succeeded", true, false, true);
            assert_nothing_left(&world);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn later_settings_make_no_block_permanent() {
        let mut world = World::default();
        world.bare(&block("r-1")).await;
        world.policy.enforcement = containment_plan::Enforcement::None;
        world.policy.protected = vec!["203.0.113.0/24".parse().unwrap()];
        world.policy.expiry_lacks = vec!["ACTIONS_QUEUE_ARN"];
        is(&world.bare(&allow("r-2")).await, "succeeded", true, false, true);
        assert_nothing_left(&world);
        // Not being allowed to look at network ACLs is no error by then.
        world.policy.protected.clear();
        world.bare(&block("r-3")).await;
        for _ in 0..2 {
            world.fail("acls", ErrorKind::AccessDenied, "UnauthorizedOperation");
        }
        let answer = world.bare(&allow("r-4")).await;
        is(&answer, "succeeded", true, false, false);
        assert!(
            answer["summary"]
                .as_str()
                .unwrap()
                .contains("the network ACLs could not be looked at")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_enforcement_a_block_is_a_record_and_says_so() {
        let mut world = World::default();
        world.policy.enforcement = containment_plan::Enforcement::None;
        let answer = world.bare(&block("r-1")).await;
        is(&answer, "succeeded", true, false, true);
        assert!(
            answer["summary"]
                .as_str()
                .unwrap()
                .contains("by itself stops no traffic")
        );
        assert_eq!(world.denied(ACL_A), vec![]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_attached_meanwhile_loses_the_rule_at_once() {
        let world = World::default();
        world.before("add", |world| {
            world
                .interfaces
                .borrow_mut()
                .insert(GROUP_A.to_owned(), vec!["eni-9".to_owned()]);
        });
        let answer = world.bare(&block("r-1")).await;
        is(&answer, "failed", true, true, false);
        assert_eq!(answer["error"]["code"], "group_in_use");
        assert!(answer["error"]["message"].as_str().unwrap().contains("eni-9"));
        assert!(world.recorded(GROUP_A).is_empty());
        assert_eq!(world.denied(ACL_A), at(1), "the deny entries stay, as after an audit");
        world.bare(&allow("r-2")).await;
        assert_nothing_left(&world);
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_entries_are_left_alone() {
        let world = World::default();
        let mut foreign = entry(3, Effect::Deny, TARGET);
        foreign.protocol = Some(17);
        world.put_entry(ACL_A, foreign);
        world.put_entry(ACL_A, entry(200, Effect::Deny, TARGET));
        let before = world.things.borrow().entries.clone();
        world.bare(&block("r-1")).await;
        world.bare(&allow("r-2")).await;
        assert_eq!(world.things.borrow().entries, before);
    }

    #[tokio::test(start_paused = true)]
    async fn at_every_call_a_failure_leaves_all_on_record_and_a_retry_gets_there() {
        for (kind, code) in [
            (ErrorKind::Throttled, "T"),
            (ErrorKind::AccessDenied, "UnauthorizedOperation"),
        ] {
            for operation in [
                "look",
                "authorize",
                "renew",
                "put",
                "add",
                "delete",
                "remove",
                "revoke",
                "send",
            ] {
                let world = World::default();
                for request in [expiring("r-1", 60), expiring("r-2", 600), block("r-3"), allow("r-4")] {
                    world.fail(operation, kind, code);
                    let _ = world.run(&request.to_string()).await;
                    assert_on_record(&world);
                    world.errors.borrow_mut().clear();
                    let answer = world.bare(&request).await;
                    assert_eq!(answer["status"], "succeeded", "{operation} {request}");
                    assert_eq!(answer["verified"], true);
                    assert_on_record(&world);
                }
                assert_nothing_left(&world);
            }
        }
    }

    fn attach(world: &World) {
        let interfaces = vec!["eni-9".to_owned()];
        world.interfaces.borrow_mut().insert(GROUP_A.to_owned(), interfaces);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_comes_again_to_a_list_that_was_attached_meanwhile_loses_its_rule() {
        let world = World::failing("add", ErrorKind::Throttled, "RequestLimitExceeded");
        assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
        attach(&world);
        let answer = world.bare(&block("r-1")).await;
        is(&answer, "failed", true, false, false);
        assert_eq!(answer["error"]["code"], "group_in_use");
        assert!(world.recorded(GROUP_A).is_empty());
        // Another request's rule is the audit's to take.
        let world = World::default();
        world.bare(&block("r-1")).await;
        attach(&world);
        is(&world.bare(&block("r-2")).await, "rejected", false, false, false);
        assert_eq!(world.recorded(GROUP_A).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_comes_again_and_finds_no_room_is_taken_back() {
        let world = World::default();
        // The entry of the one ACL is added, the other is throttled, and full by the time it comes again.
        world.before("add", |world| {
            world.before("add", |world| {
                world.fail("add", ErrorKind::Throttled, "RequestLimitExceeded");
            });
        });
        assert_eq!(world.bare(&expiring("r-1", 600)).await["error"]["retryable"], true);
        let open = if world.denied(ACL_A).is_empty() { ACL_A } else { ACL_B };
        world.put_entry(open, entry(1, Effect::Allow, "203.0.113.0/24"));
        let answer = world.bare(&expiring("r-1", 600)).await;
        assert_eq!(answer["error"]["code"], "network_acl_full");
        assert!(world.recorded(GROUP_A).is_empty() && world.things.borrow().schedules.is_empty());
        assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (vec![], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_leaves_the_older_block_its_end() {
        for (failing, second) in [
            ("add", block("r-2")),
            ("add", expiring("r-2", 60)),
            ("renew", block("r-2")),
            ("put", expiring("r-2", 60)),
        ] {
            let world = World::default();
            world.bare(&expiring("r-1", 3600)).await;
            let before = world.things.borrow().clone();
            world.fail(failing, ErrorKind::AccessDenied, "AccessDenied");
            if failing == "add" {
                world.fail("add", ErrorKind::AccessDenied, "AccessDenied");
            }
            assert_eq!(world.bare(&second).await["status"], "failed");
            let after = world.things.borrow().clone();
            assert_eq!(
                (&after.rules, &after.entries),
                (&before.rules, &before.entries),
                "{failing}"
            );
            let end = |things: &crate::testing::Things| {
                let schedule = things.schedules.values().next().unwrap();
                (schedule.at, schedule.request["only_if_blocked_by"].clone())
            };
            assert_eq!(end(&after), end(&before), "{failing}");
            is(&world.bare(&fire(&world)).await, "succeeded", true, false, true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_door_cannot_be_closed_the_deny_entries_stay() {
        for (kind, code, retryable) in [
            (ErrorKind::AccessDenied, "UnauthorizedOperation", false),
            (ErrorKind::Throttled, "RequestLimitExceeded", true),
        ] {
            let world = World::failing("revoke", kind, code);
            world.before("add", attach);
            let answer = world.bare(&block("r-1")).await;
            assert_eq!(
                (&answer["status"], &answer["error"]["retryable"]),
                (&json!("failed"), &json!(retryable))
            );
            assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
            // Once it can, it is.
            assert_eq!(world.bare(&block("r-1")).await["error"]["code"], "group_in_use");
            assert!(world.recorded(GROUP_A).is_empty());
            assert_eq!(world.denied(ACL_A), at(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn entries_of_an_older_block_survive_a_newer_one_that_fails() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        world.things.borrow_mut().rules.clear(); // an audit's work
        world.fail("put", ErrorKind::AccessDenied, "AccessDenied");
        assert_eq!(world.bare(&expiring("r-2", 60)).await["status"], "failed");
        assert!(world.recorded(GROUP_A).is_empty());
        assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_is_not_deleted_twice() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        // Looks go on showing the entries, while another takes the number.
        world.before("revoke", |world| {
            *world.shown.borrow_mut() = Some({
                let mut shown = world.things.borrow().clone();
                let ours = Entry {
                    protocol: Some(6),
                    ports: Some((0, 65535)),
                    ..entry(1, Effect::Deny, TARGET)
                };
                shown.entries.get_mut(ACL_A).unwrap().push(ours);
                shown.rules.clear();
                shown
            });
            world.put_entry(ACL_A, entry(1, Effect::Deny, "198.51.100.1/32"));
        });
        is(&world.bare(&allow("r-2")).await, "succeeded", true, true, false);
        assert_eq!(world.denied(ACL_A), [(1, "198.51.100.1/32".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_lost_meanwhile_is_made_again() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        // An ALLOW_IP past the queue takes all of it, after the second block has looked.
        world.before("authorize", |world| {
            world.before("add", |world| {
                let mut things = world.things.borrow_mut();
                things.rules.clear();
                things.entries = World::default().things.borrow().entries.clone();
            });
        });
        is(&world.bare(&block("r-2")).await, "succeeded", true, true, true);
        assert_eq!(world.recorded(GROUP_A), [(TARGET.to_owned(), "r-2".to_owned())]);
        assert_eq!((world.denied(ACL_A), world.denied(ACL_B)), (at(1), at(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_another_took_over_is_left_to_it() {
        let world = World::default();
        world.bare(&block("r-1")).await;
        world.before("add", |world| {
            let mut things = world.things.borrow_mut();
            let entries = things.entries.get_mut(ACL_A).unwrap();
            entries.retain(|entry| entry.number != 1);
            entries.push(entry(1, Effect::Deny, "198.51.100.1/32"));
        });
        is(&world.bare(&block("r-1")).await, "succeeded", true, true, true);
        assert_eq!(
            world.denied(ACL_A),
            [(1, "198.51.100.1/32".to_owned()), (2, TARGET.to_owned())]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_throttled_brings_the_request_back() {
        let world = World::default();
        world.before("delete", |world| {
            world.fail("look", ErrorKind::Throttled, "RequestLimitExceeded");
        });
        assert_eq!(world.bare(&block("r-1")).await["error"]["retryable"], true);
        is(&world.bare(&block("r-1")).await, "succeeded", false, true, true);
        // One that is denied for good is answered, with what was placed.
        world.bare(&allow("r-2")).await;
        world.before("delete", |world| {
            world.fail("look", ErrorKind::AccessDenied, "UnauthorizedOperation");
        });
        let answer = world.bare(&block("r-3")).await;
        is(&answer, "succeeded", true, false, false);
        assert_eq!(answer["details"]["network_acl_entries"].as_array().unwrap().len(), 2);
    }
}

//! The audit: every block of the table, in every place where blocks may be, is compared with EC2, and what differs is
//! repaired.

use std::collections::{BTreeMap, BTreeSet};

use actions::block::compare::listed;
use actions::block::fault::{self, Fault, FaultKind, KnownFault};
use actions::block::{Changed, Comparison, DenyEntry, ListState, Seen, State, schedule};
use actions::result::{Flags, MAX_LISTED, NetworkAclEntry};
use actions::{Block, Details, Enforcement, ErrorCode, ErrorDetail, IngressRule, Outcome, Subject};
use aws_support::credentials::Refresh;
use aws_support::{AwsError, Clock};
use aws_text::{Region, RoleArn, SecurityGroupId};
use futures::future::join_all;
use jiff::Timestamp;

use super::failure;
use super::report::{AuditReport, PlaceReport};
use super::request::{Delivery, Executor};
use super::run::{Aim, Stop, Work, read_of, split};
use crate::ports::{Accounts, Blocks, Contents, Network, Purpose, Schedules, Survey};

/// An audit's report, and its results with the faults that they tell of.
#[derive(Debug)]
pub struct Audited {
    pub report: AuditReport,
    pub tellings: Vec<Telling>,
}

/// A result of an audit, and what becomes of the fault in the table once SQS has confirmed the result.
#[derive(Debug)]
pub struct Telling {
    pub outcome: Outcome,
    pub then: Then,
}

/// What becomes of a fault in the table.
#[derive(Debug)]
pub enum Then {
    /// It is told, and stays until it is over
    Keep(KnownFault),
    /// It is over
    Forget(KnownFault),
}

/// One audit.
pub struct Audit<'a, A, T, S, C> {
    pub executor: &'a Executor<A, T, S, C>,
    pub delivery: Delivery<'a>,
    /// Names this audit in its results
    pub id: &'a str,
}

/// What is audited of one place.
struct Place<'a> {
    role: Option<&'a RoleArn>,
    region: &'a Region,
    contents: &'a Contents,
    now: Timestamp,
}

impl Place<'_> {
    /// The blocks of the place that are not merely remembered.
    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.contents
            .blocks
            .iter()
            .filter(|block| !block.is_lifted() && block.role.as_ref() == self.role && block.region == *self.region)
    }

    /// Other blocks of the same rule.
    fn others(&self, block: &Block) -> Vec<Block> {
        let is_other =
            |other: &&Block| other.rule == block.rule && other.region == block.region && other.group != block.group;
        self.contents.blocks.iter().filter(is_other).cloned().collect()
    }

    fn fault(&self, kind: FaultKind, group: &SecurityGroupId, rule: Option<IngressRule>) -> Fault {
        Fault {
            kind,
            role: self.role.cloned(),
            region: self.region.clone(),
            group: group.clone(),
            rule,
        }
    }

    fn known(&self, fault: &Fault) -> Option<&KnownFault> {
        self.contents.faults.iter().find(|known| known.fault == *fault)
    }
}

/// What became of one block list or block.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is told by itself")]
struct Finding {
    /// The fault that it had when the audit came
    before: Option<Fault>,
    /// The fault that it has now
    after: Option<Fault>,
    /// What was done about it, and what stood in the way
    text: String,
    /// What a person can do
    remedy: String,
    changed: bool,
    details: Details,
    enforced: bool,
    target: Option<String>,
    is_restored: bool,
    is_lifted: bool,
    /// All was done that an audit can do about a fault that stays
    is_contained: bool,
}

/// What an audit did to a block.
struct Repair {
    work: Work,
    changed: Changed,
    stop: Option<Stop>,
}

impl<A: Accounts, T: Blocks, S: Schedules, C: Clock> Audit<'_, A, T, S, C> {
    /// Goes everywhere, side by side. One place's failure stops no other.
    pub async fn run(&self) -> Audited {
        let executor = self.executor;
        let now = executor.clock.now();
        // A list that is attached is seen to although the table cannot be read.
        let (contents, unread) = match executor.table.all(self.delivery.deadline).await {
            Ok(contents) => (contents, None),
            Err(error) => (Contents::default(), Some(failure::of_audit(&error, None))),
        };
        let places = executor.policy.places.iter().map(|(role, region)| Place {
            role,
            region,
            contents: &contents,
            now,
        });
        let audited = join_all(places.map(|place| self.place(place))).await;
        let mut tellings = Vec::new();
        let mut places = Vec::new();
        for (mut report, told) in audited {
            if report.error.is_none() {
                report.error.clone_from(&unread);
            }
            places.push(report);
            tellings.extend(told);
        }
        places.extend(self.unaudited(&contents));
        Audited {
            report: AuditReport {
                mode: "audit",
                complete: places.iter().all(|place| place.error.is_none()),
                places,
            },
            tellings,
        }
    }

    /// Blocks in places that are not, or no longer, in the settings.
    fn unaudited(&self, contents: &Contents) -> Vec<PlaceReport> {
        let places = &self.executor.policy.places;
        let mut counts: BTreeMap<(Option<RoleArn>, Region), usize> = BTreeMap::new();
        for block in contents.blocks.iter().filter(|block| !block.is_lifted()) {
            if !places
                .iter()
                .any(|(role, region)| role == block.role.as_ref() && *region == block.region)
            {
                *counts.entry((block.role.clone(), block.region.clone())).or_default() += 1;
            }
        }
        let report = |((role_arn, region), blocks): ((Option<RoleArn>, Region), usize)| {
            let is_role = role_arn.as_ref().is_some_and(|role| !places.roles.contains(role));
            let (code, setting) = if is_role {
                (ErrorCode::RoleNotAllowed, "TARGET_ROLE_ARNS")
            } else {
                (ErrorCode::RegionNotAllowed, "TARGET_REGIONS")
            };
            PlaceReport {
                blocks,
                error: Some(ErrorDetail {
                    code,
                    message: format!(
                        "{blocks} blocks are in a place that is not in {setting}: nothing watches over them"
                    ),
                    remedy: format!("put it back into {setting}, and lift these blocks before it is taken out"),
                    retryable: false,
                }),
                ..PlaceReport::new(role_arn, region)
            }
        };
        counts.into_iter().map(report).collect()
    }

    async fn place(&self, place: Place<'_>) -> (PlaceReport, Vec<Telling>) {
        let mut report = PlaceReport::new(place.role.cloned(), place.region.clone());
        report.blocks = place.blocks().count();
        let mut refresh = Refresh::default();
        let surveyed = loop {
            match self.survey(&place).await {
                Err(error) if refresh.may_help(&error) => self.executor.accounts.forget(place.role).await,
                surveyed => break surveyed,
            }
        };
        let (network, survey) = match surveyed {
            Ok(surveyed) => surveyed,
            Err(error) => {
                report.error = Some(failure::of_audit(&error, place.role));
                return (report, Vec::new());
            }
        };
        let ids: BTreeSet<&SecurityGroupId> = survey
            .groups
            .keys()
            .chain(place.blocks().map(|block| &block.group))
            .collect();
        let lists = join_all(ids.into_iter().map(|id| self.list(&network, &survey, &place, id))).await;
        let mut tellings = Vec::new();
        for list in lists {
            report.add(&list);
            tellings.extend(list.findings.iter().filter_map(|finding| self.telling(finding, &place)));
            if let Some(error) = list.error {
                report.error = Some(error);
            }
        }
        let vpcs: BTreeSet<&str> = survey
            .groups
            .values()
            .map(|group| group.vpc_id.as_str())
            .chain(place.blocks().map(|block| block.vpc_id.as_str()))
            .collect();
        let acls = survey
            .network_acls
            .iter()
            .filter(|(vpc, _)| vpcs.contains(vpc.as_str()));
        report.entries_without_block = acls
            .map(|(_, acls)| fault::entries_without_block(acls, &place.contents.blocks, &self.executor.policy))
            .sum();
        tellings.extend(self.over(&place, &survey));
        (report, tellings)
    }

    async fn survey(&self, place: &Place<'_>) -> Result<(A::Network, Survey), AwsError> {
        let deadline = self.delivery.deadline;
        let network = self
            .executor
            .accounts
            .network(place.role, place.region, deadline)
            .await?;
        let groups: BTreeSet<SecurityGroupId> = place.blocks().map(|block| block.group.clone()).collect();
        let groups: Vec<SecurityGroupId> = groups.into_iter().collect();
        let survey = network.survey(&self.executor.policy.tag, &groups, deadline).await?;
        Ok((network, survey))
    }

    async fn list(&self, network: &A::Network, survey: &Survey, place: &Place<'_>, id: &SecurityGroupId) -> ListAudit {
        let tag = &self.executor.policy.tag;
        let state = ListState::of(survey.groups.get(id), tag);
        let blocks: Vec<&Block> = place.blocks().filter(|block| block.group == *id).collect();
        let kind = fault::of_list(&state, !blocks.is_empty());
        let mut audit = ListAudit {
            is_enrolled: state.is_enrolled(),
            is_in_use: matches!(state, ListState::Attached(_)),
            is_lost: kind == Some(FaultKind::ListLost),
            ..ListAudit::default()
        };
        let fault = kind.map(|kind| place.fault(kind, id, None));
        if let Some(fault) = fault {
            let found = self.list_fault(network, survey, place, &state, fault, &mut audit).await;
            audit.findings.push(found);
        }
        for block in blocks {
            match self.block(network, survey, place, block).await {
                Ok(finding) => audit.findings.extend(finding),
                Err(error) => audit.error = Some(error),
            }
        }
        audit
    }

    /// A list that is attached loses its rules, whoever put them there; one that is lost is named.
    async fn list_fault(
        &self,
        network: &A::Network,
        survey: &Survey,
        place: &Place<'_>,
        state: &ListState,
        fault: Fault,
        audit: &mut ListAudit,
    ) -> Finding {
        let id = &fault.group;
        let mut finding = Finding {
            details: Details {
                security_group_id: Some(id.to_string()),
                region: Some(place.region.to_string()),
                vpc_id: survey.groups.get(id).map(|group| group.vpc_id.clone()),
                account_id: survey.groups.get(id).and_then(|group| group.owner_id.clone()),
                ..Details::default()
            },
            before: Some(fault.clone()),
            after: Some(fault.clone()),
            ..Finding::default()
        };
        if let ListState::Attached(interfaces) = state {
            let mut blocks = place.blocks().filter(|block| block.group == *id).peekable();
            finding.enforced = blocks.peek().is_some() && blocks.all(|block| block.enforced);
            let rules = survey.rules.get(id).map(Vec::as_slice).unwrap_or_default();
            let ids: Vec<String> = rules.iter().map(|rule| rule.recorded.id.clone()).collect();
            let revoked = if ids.is_empty() {
                Ok(Vec::new())
            } else {
                network.revoke_rules(id, &ids, self.delivery.deadline).await
            };
            let done = match revoked {
                Ok(revoked) => {
                    audit.rules_revoked = revoked.len();
                    let texts: Vec<String> = rules
                        .iter()
                        .filter(|rule| revoked.contains(&rule.recorded.id))
                        .map(|rule| format!("{} ({})", rule.recorded.id, rule.text))
                        .collect();
                    finding.changed = !texts.is_empty();
                    finding.is_contained = true;
                    let done = if texts.is_empty() {
                        "it has no rules".to_owned()
                    } else {
                        format!("revoked: {}", listed(&texts))
                    };
                    finding.details.revoked_rules = Some(revoked.into_iter().take(MAX_LISTED).collect());
                    done
                }
                Err(error) => {
                    let detail = failure::of_audit(&error, place.role);
                    let text = format!(
                        "its rules could NOT be revoked, and let their sources in: {}",
                        detail.message
                    );
                    audit.error = Some(detail);
                    text
                }
            };
            finding.details.network_interface_ids = Some(interfaces.iter().take(MAX_LISTED).cloned().collect());
            finding.text = format!(
                "block list {id} is attached to {}, where its rules let in what is to be blocked; {done}; the deny \
                 entries of its blocks stay",
                listed(interfaces)
            );
            finding.remedy = format!(
                "detach {id} from these interfaces and find out who attached it; the rules of its blocks then come back"
            );
        } else {
            let what = match state {
                ListState::Deleted => "was deleted",
                _ => "has lost the block-list tag",
            };
            finding.text = format!(
                "block list {id} {what}, and blocks of it are in force; their deny entries are kept, and end as they were \
                 to end"
            );
            finding.remedy = match state {
                ListState::Deleted => format!("lift the blocks of {id} with ALLOW_IP, and block on another list"),
                _ => format!(
                    "find out who took the tag {}={} off {id} and put it back, or lift its blocks",
                    self.executor.policy.tag.key, self.executor.policy.tag.value
                ),
            };
        }
        finding
    }

    /// One block: compared by what the survey shows, and repaired where it differs.
    async fn block(
        &self,
        network: &A::Network,
        survey: &Survey,
        place: &Place<'_>,
        block: &Block,
    ) -> Result<Option<Finding>, ErrorDetail> {
        let policy = &self.executor.policy;
        if block.has_ended(place.now) && block.is_wanted() && !block.is_overdue(place.now) {
            // Its schedule is lifting it.
            return Ok(None);
        }
        let comparison = self.compared(survey, place, block);
        let kind = fault::of_block(block, &comparison, place.now, policy);
        let is_as_recorded = block.enforced == comparison.is_enforced() || policy.enforcement == Enforcement::None;
        if kind.is_none() && comparison.steps.is_empty() && comparison.then.is_empty() && is_as_recorded {
            return Ok(None);
        }
        let before = kind.map(|kind| place.fault(kind, &block.group, Some(block.rule)));
        if let Some(fault) = &before
            && place.known(fault).is_none()
        {
            let found = KnownFault {
                fault: fault.clone(),
                is_told: false,
            };
            let put = self.executor.table.put_fault(&found, self.delivery.deadline).await;
            put.map_err(|error| failure::of_audit(&error, None))?;
        }
        let mut finding = Finding {
            before,
            target: Some(block.rule.source().to_string()),
            details: Details {
                security_group_id: Some(block.group.to_string()),
                vpc_id: Some(block.vpc_id.clone()),
                account_id: block.account_id.clone(),
                region: Some(block.region.to_string()),
                ..Details::default()
            },
            ..Finding::default()
        };
        match self.repair(network, place, block).await {
            Ok(Some(repaired)) => {
                self.note_repair(&mut finding, repaired, place);
                Ok(Some(finding))
            }
            // Somebody else has lifted it meanwhile.
            Ok(None) => {
                "it has been lifted meanwhile".clone_into(&mut finding.text);
                Ok(Some(finding))
            }
            Err(Stop::Busy) => Err(actions::result::busy(block.group.as_str())),
            Err(Stop::Failed(error)) => Err(failure::of_audit(&error, place.role)),
            Err(Stop::Refused(refusal)) => Err(refusal.into()),
        }
    }

    /// Under the list's lease, everything is read again, and EC2 is made to agree. `None`: there is nothing to repair any
    /// more.
    async fn repair(&self, network: &A::Network, place: &Place<'_>, block: &Block) -> Result<Option<Repair>, Stop> {
        let what = block.rule.to_string();
        let run = self
            .executor
            .run(network, &block.group, place.region, self.delivery, &what);
        loop {
            let read = read_of(block, Purpose::Stand, &self.executor.policy);
            let seen_at = run.clock.now();
            let (view, found) = futures::join!(
                network.read(&read, self.delivery.deadline),
                run.table.of_rule(place.region, &block.rule, self.delivery.deadline)
            );
            let (own, others) = split(found?, &block.group);
            let Some(current) = own.filter(|found| !found.is_lifted()) else {
                return Ok(None);
            };
            let now = run.clock.now();
            let current = if current.is_overdue(now) {
                let by = schedule::lifting_id(&current.terms_in_force().request_id);
                current.lifting(&by)
            } else {
                current
            };
            let first = if current.is_wanted() {
                Vec::new()
            } else {
                current.unschedule().into_iter().collect()
            };
            let mut work = Work::new(current, view?.seen, seen_at, others, "");
            work.record(&work.compare(Aim::InForce, run.policy).entries);
            if !run.begin(&mut work, false).await? {
                continue;
            }
            let converged = run.converge(&mut work, Aim::InForce, first, Vec::new()).await;
            let changed = work.changed();
            work.tidy(Aim::InForce, run.policy);
            let stop = converged.err();
            if stop.is_none() && !work.block.is_wanted() {
                let by = lifted_by(&work.block);
                work.block = work.block.lifted(&by, run.clock.now());
            } else {
                work.block.enforced = work.is_shown_enforced(Aim::InForce, run.policy);
            }
            run.finish(&mut work).await?;
            return Ok(Some(Repair { work, changed, stop }));
        }
    }

    fn note_repair(&self, finding: &mut Finding, repair: Repair, place: &Place<'_>) {
        let policy = &self.executor.policy;
        let Repair { work, changed, stop } = repair;
        let block = &work.block;
        let comparison = work.compare(Aim::InForce, policy);
        let kind = fault::of_block(block, &comparison, place.now, policy);
        finding.after = kind.map(|kind| place.fault(kind, &block.group, Some(block.rule)));
        finding.changed = changed.any();
        finding.enforced = comparison.is_enforced();
        finding.is_lifted = block.is_lifted();
        finding.is_restored = !block.is_lifted()
            && finding.after.is_none()
            && finding.before.is_some()
            && (changed.rule_added || !changed.added.is_empty());
        if let Some(rule) = &work.seen.rule {
            finding.details.security_group_rule_id = Some(rule.id.clone());
        }
        finding.details.expires_at = block.terms_in_force().expires_at.map(|at| at.to_string());
        finding.details.network_acl_entries = entries(&changed, &comparison.standing);
        let (rule, group, request) = (&block.rule, &block.group, &block.terms_in_force().request_id);
        let why = stop.map(|stop| match stop {
            Stop::Refused(refusal) => (refusal.message, refusal.remedy),
            Stop::Failed(error) => {
                let detail = failure::of_audit(&error, place.role);
                (detail.message, detail.remedy)
            }
            Stop::Busy => (String::new(), String::new()),
        });
        let was_attached = place.known(&place.fault(FaultKind::ListInUse, group, None)).is_some()
            && finding
                .before
                .as_ref()
                .is_some_and(|fault| fault.kind == FaultKind::RuleMissing);
        let refused = comparison.refused.first();
        let why = why.or_else(|| refused.map(|refusal| (refusal.message.clone(), refusal.remedy.clone())));
        let (message, remedy) = why.unwrap_or_else(|| {
            (
                "no network ACL concerned has a subnet, or EC2 does not show the change yet".to_owned(),
                "nothing, if the next audit finds it repaired; else check the network ACLs of the VPC".to_owned(),
            )
        });
        finding.text = match (&finding.after, block.is_lifted()) {
            (_, true) => {
                let left = comparison.rule_left.map(|rule| {
                    format!("; the rule {rule} stays on {group}, which lost its tag: nothing can be changed on it")
                });
                format!(
                    "the audit lifted the block of request {request}, which was to be lifted: {rule}, taken off {group}{}",
                    left.unwrap_or_default()
                )
            }
            (None, false) if was_attached => format!(
                "the audit put the rule of the block of request {request} back: {rule} on {group}, which is attached to \
                 nothing any more"
            ),
            (None, false) => format!(
                "the audit restored the block of request {request}: {rule} on {group}; somebody or something else had \
                 removed parts of it"
            ),
            (Some(fault), false) => match fault.kind {
                FaultKind::Overdue | FaultKind::NotLifted => {
                    format!(
                        "the block of request {request} is to be lifted and still stands: {rule} on {group}: {message}"
                    )
                }
                _ => format!("the block of request {request} is not in force: {rule} on {group}: {message}"),
            },
        };
        finding.remedy = remedy;
    }

    /// The result for what was found, where there is one to give now.
    fn telling(&self, finding: &Finding, place: &Place<'_>) -> Option<Telling> {
        let before = finding.before.as_ref()?;
        let is_told = place.known(before).is_some_and(|known| known.is_told);
        let is_same = finding.after.as_ref() == Some(before);
        if is_same && is_told && !finding.changed {
            return None;
        }
        let fault = KnownFault {
            fault: before.clone(),
            is_told: true,
        };
        let error = is_same.then(|| ErrorDetail {
            code: before.kind.code(),
            message: finding.text.clone(),
            remedy: finding.remedy.clone(),
            retryable: false,
        });
        let flags = Flags {
            changed: finding.changed,
            enforced: finding.enforced,
            verified: !is_same || finding.is_contained,
        };
        let outcome = Outcome::of_audit(
            Subject::of_audit(self.id, finding.target.clone()),
            error,
            flags,
            &finding.text,
            finding.details.clone(),
            self.executor.clock.stamp(),
        );
        let then = if is_same {
            Then::Keep(fault)
        } else {
            Then::Forget(fault)
        };
        Some(Telling { outcome, then })
    }

    /// Results for faults of the table that are over by now, without the audit's doing.
    fn over<'p>(&'p self, place: &'p Place<'_>, survey: &'p Survey) -> impl Iterator<Item = Telling> + 'p {
        let tag = &self.executor.policy.tag;
        let is_over = move |known: &&KnownFault| {
            let fault = &known.fault;
            if fault.region != *place.region || fault.role.as_ref() != place.role {
                return false;
            }
            let mut blocks = place.blocks().filter(|block| block.group == fault.group);
            match fault.rule {
                None => {
                    let state = ListState::of(survey.groups.get(&fault.group), tag);
                    fault::of_list(&state, blocks.next().is_some()) != Some(fault.kind)
                }
                Some(rule) => blocks
                    .find(|block| block.rule == rule)
                    .is_none_or(|block| self.is_fine(place, survey, block, fault.kind)),
            }
        };
        place
            .contents
            .faults
            .iter()
            .filter(is_over)
            .map(move |known| self.over_telling(known, place))
    }

    /// By the survey, the block has no such fault.
    fn is_fine(&self, place: &Place<'_>, survey: &Survey, block: &Block, kind: FaultKind) -> bool {
        let comparison = self.compared(survey, place, block);
        fault::of_block(block, &comparison, place.now, &self.executor.policy) != Some(kind)
    }

    /// The block, compared with what the survey shows. The rules of a list that is attached are revoked by now.
    fn compared(&self, survey: &Survey, place: &Place<'_>, block: &Block) -> Comparison {
        let policy = &self.executor.policy;
        let group = survey.groups.get(&block.group);
        let is_attached = matches!(ListState::of(group, &policy.tag), ListState::Attached(_));
        let mut rules = survey.rules.get(&block.group).into_iter().flatten();
        let seen = Seen {
            group: group.cloned(),
            rule: rules
                .find(|listed| listed.rule == Some(block.rule) && !is_attached)
                .map(|listed| listed.recorded.clone()),
            network_acls: Some(survey.network_acls.get(&block.vpc_id).cloned().unwrap_or_default()),
        };
        Work::new(block.clone(), seen, place.now, place.others(block), "").compare(Aim::InForce, policy)
    }

    fn over_telling(&self, known: &KnownFault, place: &Place<'_>) -> Telling {
        let fault = &known.fault;
        let group = &fault.group;
        let text = match (fault.kind, &fault.rule) {
            (FaultKind::ListInUse, _) => {
                format!("block list {group} is attached to nothing any more; the rules of its blocks are put back")
            }
            (FaultKind::ListLost, _) => {
                format!("block list {group} is as it should be again, or has no blocks any more")
            }
            (_, Some(rule)) => format!("the block is as it should be again: {rule} on {group}"),
            (_, None) => format!("{group} is as it should be again"),
        };
        Telling {
            outcome: Outcome::of_audit(
                Subject::of_audit(self.id, fault.rule.map(|rule: IngressRule| rule.source().to_string())),
                None,
                Flags {
                    verified: true,
                    ..Flags::default()
                },
                &text,
                Details {
                    security_group_id: Some(group.to_string()),
                    region: Some(place.region.to_string()),
                    ..Details::default()
                },
                self.executor.clock.stamp(),
            ),
            then: Then::Forget(known.clone()),
        }
    }
}

fn lifted_by(block: &Block) -> String {
    match &block.state {
        State::Lifting { by } | State::Lifted { by, .. } => by.clone(),
        State::Pending | State::InForce => String::new(),
    }
}

fn entries(changed: &Changed, standing: &[DenyEntry]) -> Vec<NetworkAclEntry> {
    let removed = changed.removed.iter().map(|entry| NetworkAclEntry::of(entry, true));
    standing
        .iter()
        .map(|entry| NetworkAclEntry::of(entry, changed.added.contains(entry)))
        .chain(removed)
        .collect()
}

/// What became of one block list and its blocks.
#[derive(Default)]
struct ListAudit {
    is_enrolled: bool,
    is_in_use: bool,
    is_lost: bool,
    rules_revoked: usize,
    findings: Vec<Finding>,
    error: Option<ErrorDetail>,
}

impl PlaceReport {
    fn add(&mut self, list: &ListAudit) {
        self.block_lists += usize::from(list.is_enrolled);
        self.block_lists_in_use += usize::from(list.is_in_use);
        self.block_lists_lost += usize::from(list.is_lost);
        self.rules_revoked += list.rules_revoked;
        for finding in &list.findings {
            self.blocks_restored += usize::from(finding.is_restored);
            self.blocks_lifted += usize::from(finding.is_lifted);
            match finding.after.as_ref().map(|fault| fault.kind) {
                Some(FaultKind::NotEnforced) => self.blocks_not_enforced += 1,
                Some(FaultKind::Overdue | FaultKind::NotLifted) => self.blocks_overdue += 1,
                Some(FaultKind::RuleMissing | FaultKind::ListInUse | FaultKind::ListLost) | None => {}
            }
        }
    }
}

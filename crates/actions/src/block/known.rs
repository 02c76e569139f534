//! What is known of a block beyond what EC2 shows, and what a request changed.
//!
//! EC2's describes lag behind its changes. What the answers to calls said is laid over what it shows, and the result of a
//! request tells how that differs from what stood before the request's first change: so it is true however many attempts
//! the request took, and whatever was undone on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::compare::Seen;
use super::tags::{RecordTags, RecordedRule};
use super::{Block, DenyEntry, Placed, Step};

/// What stood before a request's first change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub request_id: String,
    /// The rule stood on the block list
    pub rule: bool,
    /// Deny entries on record, of this block or of another list's, that stood
    pub entries: Vec<Placed>,
    /// What calls of the request changed, or may have, as of its last attempt that ended; `None` from the beginning of an
    /// attempt until its end
    pub touched: Option<Touched>,
}

/// What calls changed, or may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    pub rule: bool,
    pub entries: BTreeSet<Placed>,
}

impl Before {
    /// What stands as the request comes.
    #[must_use]
    pub fn of(request_id: &str, block: &Block, seen: &Seen, others: &[Block]) -> Self {
        let recorded: BTreeSet<&Placed> = others
            .iter()
            .filter(|other| !other.is_lifted() && other.vpc_id == block.vpc_id)
            .flat_map(|other| &other.entries)
            .chain(&block.entries)
            .collect();
        Self {
            request_id: request_id.to_owned(),
            rule: seen.rule.is_some(),
            touched: None,
            entries: recorded
                .into_iter()
                .filter(|placed| seen.shows(&placed.entry(block.rule)))
                .cloned()
                .collect(),
        }
    }
}

impl Before {
    /// A call that was to change something says how that was before.
    pub fn correct(&mut self, step: &Step, was_made: bool) {
        match step {
            Step::Authorize { .. } => self.rule = !was_made,
            Step::Revoke { .. } => self.rule = was_made,
            Step::AddDeny(entry) if was_made => self.entries.retain(|placed| !placed.is(&entry.acl, entry.number)),
            Step::RemoveDeny(entry) => {
                self.entries.retain(|placed| !placed.is(&entry.acl, entry.number));
                if was_made {
                    self.entries.push(entry.placed());
                }
            }
            // Where a number is taken, it is not said by what.
            Step::AddDeny(_) | Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
    }
}

/// What a request changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Deny entries that stand, and did not
    pub added: BTreeSet<DenyEntry>,
    /// Deny entries that stood, and do not
    pub removed: BTreeSet<DenyEntry>,
    pub rule_added: bool,
    pub rule_removed: bool,
}

impl Changed {
    #[must_use]
    pub fn any(&self) -> bool {
        self.rule_added || self.rule_removed || !self.added.is_empty() || !self.removed.is_empty()
    }
}

/// What answers to calls said of a block's rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum KnownRule {
    /// Nothing: it is as EC2 shows it
    #[default]
    AsShown,
    Added(RecordedRule),
    Revoked,
}

/// What answers to calls said of a block's rule and entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    rule: KnownRule,
    tags: Option<RecordTags>,
    entries: BTreeMap<DenyEntry, bool>,
    touched: Touched,
    /// An earlier attempt at the request did not end: whatever is different now may be its change
    is_unsure: bool,
}

impl Known {
    /// Of a request that an earlier attempt began.
    #[must_use]
    pub fn of_continued(before: &Before) -> Self {
        Self {
            touched: before.touched.clone().unwrap_or_default(),
            is_unsure: before.touched.is_none(),
            ..Self::default()
        }
    }

    /// What is to be kept of it for a later attempt.
    #[must_use]
    pub fn touched(&self) -> Option<Touched> {
        (!self.is_unsure).then(|| self.touched.clone())
    }

    /// The step was carried out; `was_made` unless it was so before.
    pub fn note(&mut self, step: &Step, was_made: bool) {
        if was_made {
            self.touch(step);
        }
        match step {
            Step::Authorize { description, tags, .. } => {
                let pairs = tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned()));
                self.rule = KnownRule::Added(RecordedRule {
                    id: String::new(),
                    description: description.clone(),
                    tags: pairs.into(),
                });
            }
            Step::Revoke { .. } => self.rule = KnownRule::Revoked,
            Step::Retag { tags, .. } => self.tags = Some(tags.clone()),
            Step::AddDeny(entry) if was_made => {
                self.entries.insert(entry.clone(), true);
            }
            // It was added before, and does not show yet.
            Step::AddDeny(entry) if self.of(entry) == Some(true) => {}
            // The number is taken, and the entry's or another's.
            Step::AddDeny(entry) => {
                self.entries.remove(entry);
            }
            Step::RemoveDeny(entry) => {
                self.entries.insert(entry.clone(), false);
            }
            Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
    }

    /// The step failed: whether it was carried out is not known.
    pub fn forget(&mut self, step: &Step) {
        self.touch(step);
        match step {
            Step::Authorize { .. } | Step::Revoke { .. } => self.rule = KnownRule::AsShown,
            Step::AddDeny(entry) | Step::RemoveDeny(entry) => {
                self.entries.remove(entry);
            }
            Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
    }

    fn touch(&mut self, step: &Step) {
        match step {
            Step::Authorize { .. } | Step::Revoke { .. } => self.touched.rule = true,
            Step::AddDeny(entry) | Step::RemoveDeny(entry) => {
                self.touched.entries.insert(entry.placed());
            }
            Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
        }
    }

    /// Whether the request's next answer about what the step changes is its first: it tells what stood before better than
    /// a read that may lag.
    #[must_use]
    pub fn is_first_answer(&self, step: &Step) -> bool {
        let is_known = match step {
            Step::Authorize { .. } | Step::Revoke { .. } => self.rule != KnownRule::AsShown || self.touched.rule,
            Step::AddDeny(entry) | Step::RemoveDeny(entry) => {
                self.of(entry).is_some() || self.touched.entries.contains(&entry.placed())
            }
            Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => true,
        };
        !is_known && !self.is_unsure
    }

    /// Whether the entry stands, where an answer said so.
    #[must_use]
    pub fn of(&self, entry: &DenyEntry) -> Option<bool> {
        self.entries.get(entry).copied()
    }

    /// Entries that were removed, or that were gone when they were to be.
    pub fn gone(&self) -> impl Iterator<Item = &DenyEntry> {
        self.entries
            .iter()
            .filter(|(_, stands)| !**stands)
            .map(|(entry, _)| entry)
    }

    /// What EC2 shows, without what is known to be gone: what is removed twice may be another's by then. What was added
    /// and does not show may be added again: EC2 says then that the number is taken.
    #[must_use]
    pub fn without_gone(&self, seen: &Seen) -> Seen {
        let mut view = seen.clone();
        if self.rule == KnownRule::Revoked {
            view.rule = None;
        }
        if let (Some(rule), Some(tags)) = (&mut view.rule, &self.tags) {
            let pairs = tags.pairs().map(|(key, value)| (key.to_owned(), value.to_owned()));
            rule.tags.extend(pairs);
        }
        for entry in self.gone() {
            let acls = view.network_acls.iter_mut().flatten();
            for acl in acls.filter(|acl| acl.id == entry.acl) {
                acl.remove_deny(entry.number, &entry.rule);
            }
        }
        view
    }

    /// What EC2 shows, with all that the answers said.
    #[must_use]
    pub fn over(&self, seen: &Seen) -> Seen {
        let mut view = self.without_gone(seen);
        if let KnownRule::Added(added) = &self.rule {
            view.rule.get_or_insert_with(|| added.clone());
        }
        for (entry, _) in self.entries.iter().filter(|(_, stands)| **stands) {
            let acls = view.network_acls.iter_mut().flatten();
            for acl in acls.filter(|acl| acl.id == entry.acl) {
                acl.put_deny(entry.number, &entry.rule);
            }
        }
        view
    }

    /// EC2 shows all of it. Tags are for the reader, and are not waited for.
    #[must_use]
    pub fn is_shown_by(&self, seen: &Seen) -> bool {
        let rule = match &self.rule {
            KnownRule::AsShown => true,
            KnownRule::Added(_) => seen.rule.is_some(),
            KnownRule::Revoked => seen.rule.is_none(),
        };
        rule && self
            .entries
            .iter()
            .all(|(entry, stands)| seen.network_acls.is_none() || seen.shows(entry) == *stands)
    }

    /// How a block stands now, compared with before. What differs without a call of ours is another's change.
    #[must_use]
    pub fn changed(&self, before: &Before, block: &Block, seen: &Seen) -> Changed {
        let view = self.over(seen);
        let had: BTreeSet<DenyEntry> = before.entries.iter().map(|placed| placed.entry(block.rule)).collect();
        let stands = |entry: &DenyEntry| {
            let readable = seen.network_acls.is_some();
            self.of(entry).unwrap_or_else(|| {
                if readable {
                    view.shows(entry)
                } else {
                    had.contains(entry)
                }
            })
        };
        let recorded = block.entries.iter().map(|placed| placed.entry(block.rule));
        let candidates: BTreeSet<DenyEntry> = recorded.chain(self.entries.keys().cloned()).collect();
        let is_ours = |entry: &DenyEntry| self.is_unsure || self.touched.entries.contains(&entry.placed());
        let rule = view.rule.is_some();
        let rule_is_ours = self.is_unsure || self.touched.rule;
        let removed = had.iter().filter(|entry| !stands(entry) && is_ours(entry));
        Changed {
            removed: removed.cloned().collect(),
            added: candidates
                .into_iter()
                .filter(|entry| stands(entry) && !had.contains(entry) && is_ours(entry))
                .collect(),
            rule_added: rule && !before.rule && rule_is_ours,
            rule_removed: before.rule && !rule && rule_is_ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::block::network_acl::tests::acl;
    use crate::block::{State, Terms};

    fn entry(number: u16) -> DenyEntry {
        DenyEntry {
            acl: "acl-0000000a".parse().unwrap(),
            number,
            rule: "tcp 0-65535 from 203.0.113.7/32".parse().unwrap(),
        }
    }

    fn block(numbers: &[u16]) -> Block {
        Block {
            region: "us-east-1".parse().unwrap(),
            group: "sg-0123abcd".parse().unwrap(),
            rule: entry(1).rule,
            role: None,
            account_id: None,
            vpc_id: "vpc-1".to_owned(),
            state: State::Pending,
            terms: Terms {
                request_id: "r-1".to_owned(),
                requested_by: None,
                notes: crate::request::Notes::default(),
                network_acl_ids: None,
                expires_at: None,
            },
            renews: None,
            entries: numbers.iter().map(|number| entry(*number).placed()).collect(),
            rule_stands: false,
            enforced: false,
            settled_at: Timestamp::UNIX_EPOCH,
            before: None,
            revision: 0,
        }
    }

    fn seen(rule: bool, numbers: &[u16]) -> Seen {
        let mut acl = acl("acl-0000000a", Vec::new());
        for number in numbers {
            acl.put_deny(*number, &entry(*number).rule);
        }
        Seen {
            group: None,
            rule: rule.then(RecordedRule::default),
            network_acls: Some(vec![acl]),
        }
    }

    fn add(number: u16) -> Step {
        Step::AddDeny(entry(number))
    }

    fn remove(number: u16) -> Step {
        Step::RemoveDeny(entry(number))
    }

    fn authorize() -> Step {
        let block = block(&[]);
        Step::Authorize {
            group: block.group.clone(),
            rule: block.rule,
            description: "d".to_owned(),
            tags: RecordTags::of(&block.terms),
        }
    }

    fn revoke() -> Step {
        block(&[]).revoke()
    }

    fn numbers(entries: &BTreeSet<DenyEntry>) -> Vec<u16> {
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn what_stood_before_is_what_the_table_has_on_record_and_shows() {
        let other = Block {
            group: "sg-0000000b".parse().unwrap(),
            ..block(&[2, 4])
        };
        let lifted = Block {
            entries: vec![entry(5).placed()],
            ..block(&[]).lifted("l-1", Timestamp::UNIX_EPOCH)
        };
        let elsewhere = Block {
            vpc_id: "vpc-2".to_owned(),
            ..block(&[6])
        };
        let others = [other, lifted, elsewhere];
        let before = Before::of("r-1", &block(&[1, 3]), &seen(true, &[1, 2, 5, 6, 7]), &others);
        assert!(before.rule);
        let stood: Vec<u16> = before.entries.iter().map(|placed| placed.number).collect();
        assert_eq!(stood, [1, 2], "3 and 4 do not show, 5 to 7 are nobody's");
    }

    #[test]
    fn answers_count_before_ec2_shows_them() {
        let mut known = Known::default();
        known.note(&add(1), true);
        known.note(&remove(2), true);
        known.note(&authorize(), true);
        let late = seen(false, &[2]);
        assert!(!known.is_shown_by(&late));
        let view = known.over(&late);
        assert!(view.shows(&entry(1)) && !view.shows(&entry(2)) && view.rule.is_some());
        // What does not show may be added again, and is not removed again.
        let steps_from = known.without_gone(&late);
        assert!(!steps_from.shows(&entry(1)) && !steps_from.shows(&entry(2)) && steps_from.rule.is_none());
        assert!(known.is_shown_by(&seen(true, &[1])));
        assert!(!known.is_shown_by(&seen(true, &[])) && !known.is_shown_by(&seen(false, &[1])));
        known.note(&revoke(), true);
        assert!(known.over(&seen(true, &[1])).rule.is_none());
        assert!(known.without_gone(&seen(true, &[1])).rule.is_none());
        assert_eq!(known.gone().map(|entry| entry.number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn each_change_alone_is_one() {
        let entries = || BTreeSet::from([entry(1)]);
        let none = Changed::default;
        let alone = [
            Changed {
                added: entries(),
                ..none()
            },
            Changed {
                removed: entries(),
                ..none()
            },
            Changed {
                rule_added: true,
                ..none()
            },
            Changed {
                rule_removed: true,
                ..none()
            },
        ];
        assert!(alone.iter().all(Changed::any) && !none().any());
    }

    #[test]
    fn a_number_that_is_taken_says_nothing_unless_the_entry_was_added_before() {
        let mut known = Known::default();
        known.note(&add(1), false);
        assert_eq!(known.of(&entry(1)), None);
        known.note(&add(1), true);
        known.note(&add(1), false);
        assert_eq!(known.of(&entry(1)), Some(true));
        known.forget(&add(1));
        assert_eq!(known.of(&entry(1)), None);
        // One that was removed, and whose number is taken again
        known.note(&remove(1), true);
        known.note(&add(1), false);
        assert_eq!(known.of(&entry(1)), None);
    }

    #[test]
    fn the_rule_s_first_answer_is_told_from_later_ones() {
        let mut known = Known::default();
        assert!(known.is_first_answer(&authorize()));
        known.note(&authorize(), false);
        assert!(
            !known.is_first_answer(&revoke()),
            "an answer told of it, though no call changed it"
        );
        let mut failed = Known::default();
        failed.forget(&revoke());
        assert!(!failed.is_first_answer(&authorize()), "a call may have changed it");
        known.note(&remove(1), false);
        assert!(!known.is_first_answer(&add(1)));
    }

    #[test]
    fn a_request_changed_what_is_different_by_its_own_calls() {
        let before = Before::of("r-1", &block(&[1, 2]), &seen(false, &[1, 2]), &[]);
        let mut known = Known::default();
        known.note(&add(3), true);
        known.note(&remove(1), true);
        known.note(&authorize(), true);
        // Somebody deleted 2 and put 4 there.
        let changed = known.changed(&before, &block(&[1, 2, 3, 4]), &seen(true, &[3, 4]));
        assert_eq!((numbers(&changed.added), numbers(&changed.removed)), (vec![3], vec![1]));
        assert!(changed.rule_added && !changed.rule_removed && changed.any());
        // What is undone is no change.
        known.note(&remove(3), true);
        known.note(&add(1), true);
        known.note(&revoke(), true);
        let changed = known.changed(&before, &block(&[1, 2]), &seen(false, &[1, 2]));
        assert_eq!((changed.any(), changed), (false, Changed::default()));
    }

    #[test]
    fn a_rule_that_is_taken_away_and_put_back_is_no_change() {
        let mut known = Known::default();
        known.note(&revoke(), true);
        known.note(&authorize(), true);
        for stood in [true, false] {
            let before = Before::of("r-1", &block(&[]), &seen(stood, &[]), &[]);
            let changed = known.changed(&before, &block(&[]), &seen(true, &[]));
            assert_eq!((changed.rule_added, changed.rule_removed), (!stood, false));
        }
        let untouched = Known::default();
        let before = Before::of("r-1", &block(&[]), &seen(false, &[]), &[]);
        assert!(
            !untouched.changed(&before, &block(&[]), &seen(true, &[])).any(),
            "another's"
        );
    }

    #[test]
    fn after_an_attempt_that_did_not_end_every_difference_may_be_its_change() {
        let before = Before::of("r-1", &block(&[1]), &seen(true, &[1]), &[]);
        assert_eq!(before.touched, None);
        let unsure = Known::of_continued(&before);
        let changed = unsure.changed(&before, &block(&[1, 2]), &seen(false, &[2]));
        assert_eq!((numbers(&changed.added), numbers(&changed.removed)), (vec![2], vec![1]));
        assert!(changed.rule_removed && !changed.rule_added);
        assert!(!unsure.is_first_answer(&add(2)) && unsure.touched().is_none());
        // One that ended says what it touched.
        let mut ended = Known::default();
        ended.forget(&add(2));
        let before = Before {
            touched: ended.touched(),
            ..before
        };
        let later = Known::of_continued(&before);
        let changed = later.changed(&before, &block(&[1, 2]), &seen(false, &[2]));
        assert_eq!((numbers(&changed.added), numbers(&changed.removed)), (vec![2], vec![]));
        assert!(!changed.rule_removed);
        assert!(!later.is_first_answer(&add(2)) && later.is_first_answer(&remove(1)));
        assert!(later.is_first_answer(&authorize()));
    }

    #[test]
    fn the_first_answer_corrects_what_a_late_read_said() {
        let mut before = Before::of("r-1", &block(&[1, 2, 4]), &seen(true, &[1, 2, 4]), &[]);
        before.correct(&add(1), true);
        before.correct(&remove(2), false);
        before.correct(&remove(3), true);
        before.correct(&authorize(), true);
        let stood: Vec<u16> = before.entries.iter().map(|placed| placed.number).collect();
        assert_eq!((stood, before.rule), (vec![4, 3], false));
        before.correct(&add(3), false);
        assert_eq!(before.entries.len(), 2);
        before.correct(&revoke(), true);
        assert!(before.rule);
    }

    #[test]
    fn where_network_acls_cannot_be_read_only_answers_count() {
        let unread = Seen {
            network_acls: None,
            ..seen(false, &[])
        };
        let before = Before::of("r-1", &block(&[1]), &seen(false, &[1]), &[]);
        let mut known = Known::default();
        known.note(&add(2), true);
        assert!(known.is_shown_by(&unread));
        let changed = known.changed(&before, &block(&[1, 2]), &unread);
        assert_eq!((numbers(&changed.added), numbers(&changed.removed)), (vec![2], vec![]));
    }
}

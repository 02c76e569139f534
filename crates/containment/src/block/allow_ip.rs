//! An ALLOW_IP request: a block is lifted.

use actions::block::compare::{check_list, equal_entries, not_found};
use actions::block::{ListState, Seen, State};
use actions::{Block, Details, Step};
use aws_support::Clock;
use jiff::Timestamp;

use super::answer::{equal_denies, note_group, note_rule};
use super::request::{End, Failure, Job};
use super::run::{Aim, Stop, Work};
use crate::ports::{Blocks, Network, Purpose, Schedules};

/// What an ALLOW_IP is to do.
enum Lift {
    Block(Box<Block>),
    /// There is nothing to lift
    Nothing {
        block: Box<Block>,
        why: Option<String>,
    },
}

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Job<'_, N, T, S, C> {
    pub(super) async fn lift(&self, details: &mut Details) -> Result<End, Failure> {
        let (run, request) = (&self.run, self.request);
        loop {
            let start = self.start(Purpose::Lift).await?;
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
                    let work = self.work(*block, seen, start.seen_at, start.others);
                    if request.dry_run {
                        let enforced = !equal_denies(&work).is_empty();
                        return self.dry_run(Vec::new(), why, enforced, details).await;
                    }
                    let mut done = self.lifted(&work, true, details);
                    if let Some(why) = why {
                        done.summary = why;
                    }
                    return Ok(End::Done(done, None));
                }
            };
            let first: Vec<Step> = block.unschedule().into_iter().collect();
            let mut work = self.work(block.lifting(&request.request_id), seen, start.seen_at, start.others);
            if request.dry_run {
                let mut steps = work.compare(Aim::Newest, run.policy).steps;
                steps.extend(first);
                let enforced = !equal_denies(&work).is_empty();
                return self.dry_run(steps, None, enforced, details).await;
            }
            if !run.begin(&mut work, true).await? {
                continue;
            }
            let converged = run.converge(&mut work, Aim::Newest, first, Vec::new()).await;
            return self.finish_lift(work, converged, details).await;
        }
    }

    async fn finish_lift(
        &self,
        mut work: Work,
        converged: Result<bool, Stop>,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let run = &self.run;
        let stop = match converged {
            Ok(verified) => {
                let done = self.lifted(&work, verified, details);
                let block = work.block.clone().lifted(&self.request.request_id, run.clock.now());
                let close = self.close(block, work);
                return Ok(End::Done(done, Some(close)));
            }
            Err(stop) => stop,
        };
        let stop = if stop.is_final() {
            tracing::error!(
                request_id = self.request.request_id,
                "the block could not be lifted; the audit goes on"
            );
            self.settle(&mut work).await.err().unwrap_or(stop)
        } else {
            stop
        };
        let done = self.lifted(&work, false, details);
        run.release(&mut work).await;
        Err(Failure::after(stop, done.flags))
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
}

fn renewed(by: &str) -> String {
    format!("nothing changed: the block that was to end has been renewed by request {by}")
}

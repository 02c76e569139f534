//! A BLOCK_IP request: the block is made, or renewed, or rolled back.

use actions::block::compare::{check_list, check_network_acls, not_found};
use actions::block::{Group, ListState, Placed, State, Terms};
use actions::result::Flags;
use actions::{Block, Details, ErrorCode, Policy, Refusal};
use aws_support::{AwsError, Clock};

use super::answer::{note_group, note_rule};
use super::request::{End, Failure, Job, is_begun};
use super::run::{Aim, Stop, Work, read_of};
use crate::ports::{Blocks, Network, Purpose, Schedules, View};

impl<N: Network, T: Blocks, S: Schedules, C: Clock> Job<'_, N, T, S, C> {
    pub(super) async fn block(&self, details: &mut Details) -> Result<End, Failure> {
        let (run, request) = (&self.run, self.request);
        loop {
            let start = self.start(Purpose::Decide(request.rule.source())).await?;
            let now = run.clock.now();
            let view = start.view;
            note_group(details, view.seen.group.as_ref());
            note_rule(details, &view.seen);
            let existing = start.existing.as_ref();
            // What an earlier delivery of this request made, began, or did not roll back whole.
            let own = existing.filter(|block| is_begun(block, request) && !request.dry_run);
            let (group, refusal) = match self.check_block(&view) {
                Ok(group) => (group, None),
                Err((Some(group), refusal)) if own.is_some() => (group, Some(refusal)),
                Err((_, refusal)) => {
                    return Err(match (own, existing) {
                        (Some(block), _) => self.refused_now(block.clone(), start.others, refusal, details).await,
                        (None, Some(block)) => {
                            let work = self.work(block.clone(), view.seen, start.seen_at, start.others);
                            self.refused(&work, refusal)
                        }
                        (None, None) => refusal.into(),
                    });
                }
            };
            let block = Block::asked(existing, request, self.region, group, now);
            details.expires_at = block.terms.expires_at.map(|at| at.to_string());
            let mut work = self.work(block, view.seen, start.seen_at, start.others);
            if let Some(refusal) = refusal
                && (refusal.code != ErrorCode::GroupInUse || !shows_anything(&work))
                && let Some(block) = own
            {
                // Nothing of what an earlier delivery began can be gone on with.
                return Err(self.refused_now(block.clone(), work.others, refusal, details).await);
            }
            let comparison = work.compare(Aim::Newest, run.policy);
            if let Some(refusal) = comparison.refused.first() {
                match own {
                    None => return Err(self.refused(&work, refusal.clone())),
                    Some(block) if block.state != State::Pending => {
                        let refusal = refusal.clone();
                        return Err(self.refused_now(block.clone(), work.others, refusal, details).await);
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
                let done = self.blocked(&work, true, details);
                return match work.attached(run.policy) {
                    None => Ok(End::Done(done, None)),
                    Some(interfaces) => Err(self.attached(&interfaces, None, &work, done.flags, details)),
                };
            }
            let is_renewal = work.block.renews.is_some();
            work.record(&comparison.entries);
            if !run.begin(&mut work, true).await? {
                continue;
            }
            let (first, then) = match schedule {
                // A schedule that was there ends the older block until this one is in force.
                schedule if is_renewal => (Vec::new(), schedule.into_iter().collect()),
                schedule => (schedule.into_iter().collect(), Vec::new()),
            };
            let converged = run.converge(&mut work, Aim::Newest, first, then).await;
            return self.finish_block(work, converged, details).await;
        }
    }

    async fn finish_block(
        &self,
        mut work: Work,
        converged: Result<bool, Stop>,
        details: &mut Details,
    ) -> Result<End, Failure> {
        let run = &self.run;
        let stop = match converged {
            Ok(verified) => {
                let done = self.blocked(&work, verified, details);
                let attached = work.attached(run.policy);
                let failure = attached.map(|interfaces| self.attached(&interfaces, None, &work, done.flags, details));
                let close = Some(self.close(self.in_force(&work), work));
                return match failure {
                    None => Ok(End::Done(done, close)),
                    Some(failure) => Err(Failure { close, ..failure }),
                };
            }
            Err(stop) => stop,
        };
        let may_pass = matches!(&stop, Stop::Failed(error) if self.may_refresh && error.fresh_credentials_may_help());
        let stop = match stop {
            stop if !stop.is_final() || may_pass => Err(stop),
            stop => self.settle(&mut work).await.map(|()| stop),
        };
        let stop = match stop {
            Ok(stop) => stop,
            Err(stop) => {
                run.release(&mut work).await;
                return Err(Failure::after(stop, self.tell(&work, Aim::Newest, details)));
            }
        };
        tracing::warn!(request_id = self.request.request_id, "the block cannot be made");
        if let (Some(interfaces), Stop::Failed(_)) = (work.attached(run.policy), &stop) {
            // The deny entries that could be placed stay, and what is to be so is in the table: the audit goes on.
            let flags = self.tell(&work, Aim::Newest, details);
            let failure = self.attached(&interfaces, Some(stop), &work, flags, details);
            let close = Some(self.close(self.in_force(&work), work));
            return Err(Failure { close, ..failure });
        }
        self.roll_back(work, stop, details).await
    }

    /// The block as the table is to have it once the result is sent.
    fn in_force(&self, work: &Work) -> Block {
        let mut work = work.clone();
        work.tidy(Aim::Newest, self.run.policy);
        Block {
            enforced: work.is_shown_enforced(Aim::Newest, self.run.policy),
            ..work.block.in_force()
        }
    }

    /// Removes what a block placed that cannot be made, and gives an older one that it renewed back its terms.
    async fn roll_back(&self, mut work: Work, stop: Stop, details: &mut Details) -> Result<End, Failure> {
        let (run, id) = (&self.run, &self.request.request_id);
        let now = run.clock.now();
        let is_renewal = work.block.renews.is_some();
        let unschedule = work.block.unschedule();
        work.block = work.block.rolled_back();
        let schedule = if is_renewal {
            work.block.schedule(&work.block.terms, now)
        } else {
            unschedule
        };
        let undone = async {
            // The intention is written before, so that an audit goes on where this stops.
            run.table.save(&mut work.block, run.deadline).await?;
            let steps = schedule.into_iter().collect();
            run.converge(&mut work, Aim::Undo, steps, Vec::new()).await
        }
        .await;
        let flags = self.tell(&work, Aim::InForce, details);
        let is_untouched = !work.changed().any() && !self.is_repeated;
        details.expires_at = work.block.terms.expires_at.map(|at| at.to_string());
        work.tidy(Aim::InForce, run.policy);
        let stop = match undone {
            Ok(_) if is_renewal => {
                work.block.before = None;
                stop
            }
            Ok(_) => {
                details.expires_at = None;
                work.block = work.block.lifted(&format!("roll-back of {id}"), now);
                stop
            }
            Err(undone) => {
                let saved = run.finish(&mut work).await;
                let stop = saved.map_or_else(Stop::from, |()| not_rolled_back(stop, undone));
                return Err(Failure::after(stop, flags));
            }
        };
        work.block.enforced = work.is_shown_enforced(Aim::InForce, run.policy);
        run.finish(&mut work)
            .await
            .map_err(|error| Failure::after(error, flags))?;
        Err(Failure {
            is_untouched,
            ..Failure::after(stop, flags)
        })
    }

    /// A BLOCK_IP that is refused now, and whose block an earlier delivery made, or began to make.
    pub(super) async fn refused_now(
        &self,
        block: Block,
        others: Vec<Block>,
        refusal: Refusal,
        details: &mut Details,
    ) -> Failure {
        let run = &self.run;
        let read = read_of(&block, Purpose::Stand, run.policy);
        let seen_at = run.clock.now();
        let seen = match run.network.read(&read, run.deadline).await {
            Ok(view) => view.seen,
            Err(error) => {
                return Failure {
                    is_unknown: true,
                    ..error.into()
                };
            }
        };
        note_group(details, seen.group.as_ref());
        note_rule(details, &seen);
        let mut work = self.work(block, seen, seen_at, others);
        if work.block.terms.request_id != self.request.request_id {
            // It was a renewal, and was rolled back: the block that it renewed stands.
            return Failure::after(refusal, self.tell(&work, Aim::InForce, details));
        }
        let is_made = match work.block.state {
            State::InForce => true,
            State::Pending => work.compare(Aim::Newest, run.policy).agrees(),
            State::Lifting { .. } | State::Lifted { .. } => false,
        };
        if is_made {
            details.expires_at = work.block.terms.expires_at.map(|at| at.to_string());
            let flags = self.tell(&work, Aim::Newest, details);
            return Self::still_blocked(refusal, &work, flags);
        }
        match run.begin(&mut work, true).await {
            Ok(true) => {}
            Ok(false) => return Stop::Busy.into(),
            Err(stop) => return stop.into(),
        }
        match self.roll_back(work, Stop::Refused(refusal), details).await {
            Err(failure) => failure,
            Ok(_) => Stop::Busy.into(),
        }
    }

    /// A BLOCK_IP that is refused before it changes anything: what it would have renewed stands as it did.
    fn refused(&self, work: &Work, refusal: Refusal) -> Failure {
        let stood = work.block.renews.is_some() || work.block.state == State::InForce;
        Failure {
            flags: Flags {
                enforced: stood && work.is_shown_enforced(Aim::InForce, self.run.policy),
                ..Flags::default()
            },
            ..refusal.into()
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
}

/// Whether something of the block shows, or may be there and not show yet.
fn shows_anything(work: &Work) -> bool {
    let view = work.view();
    let is_shown = |placed: &Placed| view.shows(&placed.entry(work.block.rule));
    view.rule.is_some()
        || work.block.entries.iter().any(is_shown)
        || (!work.is_settled() && !work.block.entries.is_empty())
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

//! The published rate of `GetFindings`, and a pause where Security Hub asks for fewer requests all the same (the limit is
//! the account's, and others use it too).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

/// `GetFindings` is limited to 3 requests a second, with bursts of 6, for each account and region (API reference).
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// One fewer than the burst that is allowed: requests arrive less evenly than they leave.
const BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();

fn quota() -> Quota {
    Quota::per_second(REQUESTS_PER_SECOND).allow_burst(BURST)
}

/// What every attempt of a region's calls waits for before it is made.
#[derive(Debug)]
pub(super) struct Gate {
    limiter: DefaultDirectRateLimiter,
    pause: Mutex<Pause>,
    throttles: AtomicU64,
}

/// Until when nothing is sent, and how long that was for.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            limiter: RateLimiter::direct(quota()),
            pause: Mutex::new(Pause {
                until: Instant::now(),
                length: Duration::ZERO,
            }),
            throttles: AtomicU64::new(0),
        }
    }

    pub(super) async fn pass(&self) {
        let until = self.pause().until;
        tokio::time::sleep_until(until).await;
        while let Err(not_yet) = self.limiter.check() {
            let wait = not_yet.wait_time_from(self.limiter.clock().now());
            tokio::time::sleep(wait).await;
        }
    }

    /// Each throttle in a row doubles the pause.
    pub(super) fn note_throttle(&self) {
        let mut pause = self.pause();
        self.throttles.fetch_add(1, Ordering::Relaxed);
        pause.length = (pause.length * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        pause.until = Instant::now() + pause.length;
    }

    pub(super) fn note_other_answer(&self) {
        self.pause().length = Duration::ZERO;
    }

    pub(super) fn take_throttles(&self) -> u64 {
        self.throttles.swap(0, Ordering::Relaxed)
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn three_hundred_pages_take_little_more_than_the_limit_itself_and_never_break_it() {
        // GIVEN a limiter, and Security Hub's own with the whole burst, which see time pass in milliseconds
        let clock = FakeRelativeClock::default();
        let ours = RateLimiter::direct_with_clock(quota(), clock.clone());
        let allowed = Quota::per_second(REQUESTS_PER_SECOND).allow_burst(NonZeroU32::new(6).unwrap());
        let theirs = RateLimiter::direct_with_clock(allowed, clock.clone());
        let mut milliseconds = 0;
        for _ in 0..300 {
            while ours.check().is_err() {
                clock.advance(Duration::from_millis(1));
                milliseconds += 1;
            }
            assert!(theirs.check().is_ok());
        }
        // After the burst of six, the others take a third of a second each.
        let limit = (300 - 6) * 1000 / 3;
        assert!(milliseconds <= limit * 11 / 10, "{milliseconds} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn throttles_in_a_row_make_pauses_that_grow_and_end_with_the_first_good_answer() {
        let gate = Gate::new();
        let passing = async || {
            let before = Instant::now();
            gate.pass().await;
            before.elapsed().as_secs()
        };
        let mut pauses = vec![passing().await];
        for is_throttle in [true, true, false, true] {
            if is_throttle {
                gate.note_throttle();
            } else {
                gate.note_other_answer();
            }
            pauses.push(passing().await);
        }
        assert_eq!(pauses, [0, 1, 2, 0, 1]);
        for _ in 0..9 {
            gate.note_throttle();
        }
        assert_eq!(gate.pause().length, LONGEST_PAUSE);
        assert_eq!(gate.take_throttles(), 12);
    }
}

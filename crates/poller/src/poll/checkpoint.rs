//! How far the reading of findings has come: what is kept of it between runs, and what two runs make of each other's.
//!
//! An incremental reading goes window by window. Everything with `UpdatedAt` up to `through` is delivered, as far as it
//! had arrived. The next window starts an overlap before that point, for findings that arrive late, and ends now. A
//! window too large for one run stays open: it keeps its ends, and remembers the position it was read up to, apart from
//! `through` — a position in the overlap must not move it back, nor be forgotten, or the overlap would be read for ever.

use jiff::{SignedDuration, Timestamp};

use crate::config::Lookback;
use crate::query::Range;

/// What is kept of a reading between runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `UpdatedAt` up to which everything is delivered. It never moves back
    pub through: Option<Timestamp>,
    /// The window that is being read
    pub open: Option<Window>,
}

/// A window that is being read, oldest findings first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The window's ends; `None` for all findings, those without `UpdatedAt` included
    pub range: Option<Range>,
    /// `UpdatedAt` of the last finding of the last page that is delivered whole
    pub position: Option<Timestamp>,
    /// Where the next page starts
    pub page: Option<NextPage>,
    /// Something in it could not be delivered: at its end it is to be read again
    pub unclean: bool,
    /// Findings did not come by `UpdatedAt`: there is no position to go on from, only a page token
    pub unordered: bool,
}

/// A page token, and the range it was given for: filters must stay the same from page to page of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPage {
    /// `NextToken`
    pub token: String,
    /// The range of the query that gave it
    pub range: Option<Range>,
}

/// The latest instant a `DateFilter` is given where a window has no end.
const FAR_FUTURE: Timestamp = Timestamp::constant(4_102_444_800, 0); // 2100-01-01T00:00:00Z

impl Window {
    /// A window of which nothing is read yet.
    #[must_use]
    pub fn new(range: Option<Range>) -> Self {
        Self {
            range,
            position: None,
            page: None,
            unclean: false,
            unordered: false,
        }
    }

    /// The window after one more page, whose findings were updated at these times, in their order.
    #[must_use]
    pub fn after(&self, updated: &[Option<Timestamp>], page: Option<NextPage>) -> Self {
        let known = || self.position.iter().chain(updated.iter().flatten());
        let unordered = self.unordered || !known().is_sorted();
        Self {
            position: known().last().copied().filter(|_| !unordered),
            page,
            unordered,
            ..self.clone()
        }
    }

    /// The window as it is kept for a later run.
    ///
    /// That run goes on from the position, with a query of its own. A token may count findings rather than name one,
    /// and would then pass over as many as have left the query by then. It is kept only where the position might not
    /// get on: among findings of one instant, or without one.
    #[must_use]
    pub fn as_kept(&self, is_of_one_instant: bool) -> Self {
        let needs_token = is_of_one_instant || self.position.is_none();
        Self {
            page: self.page.clone().filter(|_| needs_token),
            ..self.clone()
        }
    }

    /// What to ask for where there is no page token: the rest of the window. It starts with the position's own
    /// instant, at which there may be more findings than were read.
    #[must_use]
    pub fn rest(&self) -> Option<Range> {
        match (self.position, self.range) {
            (None, range) => range,
            (Some(position), range) => Some(Range {
                start: range.map_or(position, |range| position.max(range.start)),
                end: range.map_or(FAR_FUTURE, |range| range.end),
            }),
        }
    }
}

impl Reading {
    /// The next window of an incremental reading, to `now`.
    #[must_use]
    pub fn next_window(&self, lookback: Lookback, now: Timestamp) -> Window {
        let before = |instant: Timestamp, by: std::time::Duration| {
            let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
            instant.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        let start = match (self.through, lookback.initial) {
            // Our clock may have been set back since: the overlap is then one before now.
            (Some(through), _) => before(through.min(now), lookback.overlap),
            (None, Some(initial)) => before(now, initial),
            (None, None) => Timestamp::UNIX_EPOCH,
        };
        Window::new(Some(Range {
            start: start.max(Timestamp::UNIX_EPOCH),
            end: now,
        }))
    }

    /// After a window was read to its end. Where not everything in it was delivered, it is to be read again, with all
    /// that has come by then.
    #[must_use]
    pub fn finished(&self, window: &Window) -> Self {
        let end = window.range.map(|range| range.end).filter(|_| !window.unclean);
        Self {
            through: self.through.max(end),
            open: None,
        }
    }

    /// In the middle of a window.
    #[must_use]
    pub fn at(&self, window: &Window) -> Self {
        Self {
            through: self.through,
            open: Some(window.clone()),
        }
    }

    /// What to keep where another run has saved `theirs` while this one wanted to save `self`; `None` to leave theirs.
    ///
    /// Both are true: what either run has read is delivered. So the further point counts, and `through` never moves
    /// back. Of two windows of which neither contains the other's progress, the saved one stays; what is lost with the
    /// other is only the place it had come to.
    #[must_use]
    pub fn over(&self, theirs: &Self) -> Option<Self> {
        let through = self.through.max(theirs.through);
        let end = |window: &Window| window.range.map(|range| range.end);
        let is_done = |window: &Window| end(window).is_some() && end(window) <= through;
        let open = match (&self.open, &theirs.open) {
            (Some(mine), Some(other)) if mine.range == other.range && mine.position > other.position => Some(mine),
            (_, other) => other.as_ref(),
        };
        let merged = Self {
            through,
            open: open.filter(|window| !is_done(window)).cloned(),
        };
        (merged != *theirs).then_some(merged)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(second, 0)
    }

    fn window(start: i64, end: i64, position: Option<i64>) -> Window {
        Window {
            position: position.map(at),
            ..Window::new(Some(Range {
                start: at(start),
                end: at(end),
            }))
        }
    }

    const LOOKBACK: Lookback = Lookback {
        overlap: Duration::from_secs(100),
        initial: Some(Duration::from_secs(1000)),
    };

    fn reading(through: Option<i64>, open: Option<Window>) -> Reading {
        Reading {
            through: through.map(at),
            open,
        }
    }

    #[test]
    fn the_first_window_goes_back_as_far_as_is_set() {
        let none = Reading::default();
        assert_eq!(none.next_window(LOOKBACK, at(5000)), window(4000, 5000, None));
        let everything = Lookback {
            initial: None,
            ..LOOKBACK
        };
        assert_eq!(none.next_window(everything, at(5000)), window(0, 5000, None));
        assert_eq!(none.next_window(LOOKBACK, at(500)), window(0, 500, None));
    }

    #[test]
    fn later_windows_overlap_with_what_was_read() {
        let reading = reading(Some(5000), None);
        assert_eq!(reading.next_window(LOOKBACK, at(5300)), window(4900, 5300, None));
    }

    #[test]
    fn a_clock_set_back_moves_nothing_back() {
        let before = reading(Some(5000), None);
        let window = before.next_window(LOOKBACK, at(3000));
        assert_eq!(window, super::tests::window(2900, 3000, None));
        assert_eq!(before.finished(&window), before);
    }

    #[test]
    fn the_rest_of_a_window_starts_with_the_position_itself() {
        let range = |start, end| {
            Some(Range {
                start: at(start),
                end: at(end),
            })
        };
        assert_eq!(window(10, 90, None).rest(), range(10, 90));
        assert_eq!(window(10, 90, Some(50)).rest(), range(50, 90));
        assert_eq!(Window::new(None).rest(), None);
        let all = Window {
            position: Some(at(50)),
            ..Window::new(None)
        };
        assert_eq!(all.rest().unwrap().start, at(50));
        assert_eq!(all.rest().unwrap().end, FAR_FUTURE);
    }

    #[test]
    fn what_was_not_delivered_is_read_again() {
        let before = reading(Some(10), None);
        let clean = window(0, 90, Some(90));
        let unclean = Window {
            unclean: true,
            ..clean.clone()
        };
        assert_eq!(before.finished(&clean), reading(Some(90), None));
        assert_eq!(before.finished(&unclean), before);
    }

    #[test]
    fn a_position_is_trusted_only_while_findings_come_in_order() {
        let first = window(0, 90, None).after(&[None, Some(at(10)), Some(at(10))], None);
        assert_eq!((first.position, first.unordered), (Some(at(10)), false));
        assert_eq!(first.after(&[], None).position, Some(at(10)));
        for disorder in [[11, 9], [9, 11]] {
            let second = first.after(&disorder.map(|second| Some(at(second))), None);
            assert_eq!((second.position, second.unordered), (None, true));
            // It never becomes trustworthy again.
            let third = second.after(&[Some(at(50))], None);
            assert_eq!((third.position, third.unordered), (None, true));
            assert_eq!(third.rest(), window(0, 90, None).range);
        }
    }

    #[test]
    fn a_token_is_kept_only_where_the_position_might_not_get_on() {
        let page = Some(NextPage {
            token: "t".to_owned(),
            range: None,
        });
        let with = |position| Window {
            page: page.clone(),
            ..window(10, 90, position)
        };
        assert_eq!(with(Some(50)).as_kept(false).page, None);
        assert_eq!(with(Some(50)).as_kept(true).page, page);
        assert_eq!(with(None).as_kept(false).page, page);
        assert_eq!(with(Some(50)).as_kept(false).position, Some(at(50)));
    }

    #[test]
    fn of_two_runs_the_further_counts() {
        // Both completed a window.
        assert_eq!(reading(Some(10), None).over(&reading(Some(20), None)), None);
        assert_eq!(
            reading(Some(20), None).over(&reading(Some(10), None)),
            Some(reading(Some(20), None))
        );
        // Mine is complete and contains theirs.
        assert_eq!(
            reading(Some(90), None).over(&reading(Some(10), Some(window(0, 80, Some(50))))),
            Some(reading(Some(90), None))
        );
        // Mine is complete, theirs goes on beyond it.
        assert_eq!(
            reading(Some(90), None).over(&reading(Some(10), Some(window(0, 95, Some(50))))),
            Some(reading(Some(90), Some(window(0, 95, Some(50)))))
        );
        // One window, two positions.
        let (near, far) = (window(0, 90, Some(30)), window(0, 90, Some(50)));
        assert_eq!(
            reading(None, Some(far.clone())).over(&reading(None, Some(near.clone()))),
            Some(reading(None, Some(far.clone())))
        );
        assert_eq!(reading(None, Some(near.clone())).over(&reading(None, Some(far))), None);
        // They are done with what I am in the middle of.
        assert_eq!(reading(None, Some(near)).over(&reading(Some(90), None)), None);
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        let window = (0i64..50, 0i64..50, prop::option::of(0i64..100))
            .prop_map(|(start, length, position)| window(start, start + length, position));
        (prop::option::of(0i64..100), prop::option::of(window)).prop_map(|(through, open)| reading(through, open))
    }

    proptest! {
        #[test]
        fn merging_never_moves_back(mine in any_reading(), theirs in any_reading()) {
            let kept = mine.over(&theirs).unwrap_or_else(|| theirs.clone());
            prop_assert_eq!(kept.through, mine.through.max(theirs.through));
            // Only what one of the two had is kept.
            prop_assert!(kept.open.is_none() || kept.open == mine.open || kept.open == theirs.open);
        }

        #[test]
        fn windows_leave_no_gap(through in 0i64..10_000, overlap in 0u64..5000, now in 0i64..20_000) {
            let lookback = Lookback { overlap: Duration::from_secs(overlap), ..LOOKBACK };
            let before = reading(Some(through), None);
            let range = before.next_window(lookback, at(now)).range.unwrap();
            prop_assert!(range.start <= at(through) && range.start <= range.end);
            prop_assert_eq!(range.end, at(now));
        }
    }
}

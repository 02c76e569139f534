use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::constant(second, 0)
}

fn window(start: i64, end: i64) -> Window {
    Window::new(Some(at(start)), at(end))
}

fn asked(window: &Window) -> (i64, i64) {
    let range = window.range().unwrap();
    (range.start.as_second(), range.end.as_second())
}

/// The window after a page with these times, of which there are more.
fn after(window: &Window, seconds: &[i64]) -> Window {
    let updated: Vec<Option<Timestamp>> = seconds.iter().map(|second| Some(at(*second))).collect();
    window.after(&updated, Some("t".to_owned())).unwrap()
}

const LOOKBACK: Lookback = Lookback {
    overlap: Duration::from_secs(100),
    initial: Some(Duration::from_secs(1000)),
    settle: Duration::ZERO,
};

fn incremental(through: Option<i64>) -> Incremental {
    Incremental {
        through: through.map(at),
        window: None,
    }
}

#[test]
fn the_first_window_goes_back_as_far_as_is_set() {
    let none = incremental(None);
    assert_eq!(none.next_window(LOOKBACK, at(5000)), window(4000, 5000));
    let everything = Lookback {
        initial: None,
        ..LOOKBACK
    };
    assert_eq!(none.next_window(everything, at(5000)), window(0, 5000));
    assert_eq!(none.next_window(LOOKBACK, at(500)), window(0, 500));
}

#[test]
fn later_windows_overlap_with_what_was_read_and_leave_the_newest_to_the_push() {
    let state = incremental(Some(5000));
    assert_eq!(state.next_window(LOOKBACK, at(5300)), window(4900, 5300));
    let settle = Lookback {
        settle: Duration::from_mins(1),
        ..LOOKBACK
    };
    assert_eq!(state.next_window(settle, at(5300)), window(4900, 5240));
    assert_eq!(state.next_window(settle, at(5030)), window(4870, 4970));
}

#[test]
fn a_clock_that_was_ahead_stops_nothing() {
    // An hour ahead when it was kept: it is read all the same, and the next window is one before now.
    let state = incremental(Some(8600));
    assert_eq!(state.check(at(5000)), Ok(()));
    let window = state.next_window(LOOKBACK, at(5000));
    assert_eq!(window, super::tests::window(4900, 5000));
    let mut after = state.clone();
    after.finish(&window);
    assert_eq!(after.through, Some(at(5000)));
    // A day and more is nobody's clock.
    assert!(incremental(Some(100_000)).check(at(5000)).is_err());
}

#[test]
fn what_was_not_delivered_is_read_again() {
    let mut state = incremental(Some(10));
    let failed = Window {
        has_failures: true,
        ..window(0, 90)
    };
    state.finish(&failed);
    assert_eq!(state.through, Some(at(10)));
    state.finish(&window(0, 90));
    assert_eq!(state.through, Some(at(90)));
}

#[test]
fn after_a_page_in_order_a_new_query_goes_on_shortly_before_its_end() {
    let next = after(&window(0, 90), &[1, 2, 3, 4]);
    assert_eq!((asked(&next), &next.token), ((3, 90), &None));
    // Of a hundred findings two are read again.
    let page: Vec<i64> = (0..100).collect();
    assert_eq!(asked(&after(&window(0, 900), &page)), (97, 900));
    // The last page ends the window.
    assert_eq!(next.after(&[Some(at(5))], None), None);
}

#[test]
fn an_instant_with_more_findings_than_a_page_is_read_by_itself_and_left_behind() {
    let page = [5, 5, 5, 5];
    let first = after(&window(5, 90), &page);
    assert_eq!(first.instant, Some(at(5)));
    let range = first.range().unwrap();
    assert_eq!(range.start, at(5));
    assert_eq!(range.end, at(5) + WITHIN_MILLISECOND);
    // Its own tokens are followed to the end.
    let second = after(&first, &page);
    assert_eq!(second.token.as_deref(), Some("t"));
    let third = second.after(&[Some(at(5))], None).unwrap();
    assert_eq!(third.range().unwrap().start, at(5) + MILLISECOND);
    assert_eq!((third.instant, third.token), (None, None));
    // At the end of the window there is nothing behind it.
    let last = after(&window(90, 90), &[90, 90]);
    assert_eq!(last.after(&[Some(at(90))], None), None);
}

#[test]
fn a_page_out_of_order_gives_no_position_but_a_smaller_range() {
    let next = after(&window(0, 90), &[1, 2, 9, 4, 5]);
    assert_eq!((next.position, next.split_end), (None, Some(at(4))));
    assert_eq!(asked(&next), (0, 4));
    // Once that is read, the rest is asked for.
    let rest = next.after(&[Some(at(1))], None).unwrap();
    assert_eq!(rest.position, Some(at(4) + MILLISECOND));
    assert_eq!((rest.split_end, asked(&rest).1), (None, 90));
}

#[test]
fn times_outside_of_what_was_asked_for_do_not_count() {
    let next = after(&window(10, 90), &[11, 12, 13, 500, 3, 14]);
    assert_eq!((next.position, next.split_end), (Some(at(13)), None));
    // Where none counts, half of the time is asked for.
    let next = after(&window(10, 90), &[500, 600]);
    assert_eq!((next.position, next.split_end), (None, Some(at(50))));
}

#[test]
fn an_empty_page_with_a_token_is_followed_by_the_next() {
    let next = window(0, 90).after(&[], Some("t".to_owned())).unwrap();
    assert_eq!((asked(&next), next.token.as_deref()), ((0, 90), Some("t")));
    assert_eq!(next.as_kept().token, None);
}

#[test]
fn without_a_start_those_without_a_time_are_read_by_token_and_all_others_by_time() {
    let all = Window::new(None, FAR_FUTURE);
    assert_eq!(all.range(), None);
    let undated = all.after(&[None, None], Some("t".to_owned())).unwrap();
    assert_eq!((undated.range(), undated.token.as_deref()), (None, Some("t")));
    assert_eq!(undated.as_kept(), undated);
    let dated = undated
        .after(&[None, Some(at(7)), Some(at(5))], Some("u".to_owned()))
        .unwrap();
    assert_eq!(asked(&dated), (0, FAR_FUTURE.as_second()));
    assert_eq!(dated.token, None);
    assert_eq!(all.after(&[None, Some(at(7))], None), None);
}

#[test]
fn the_sweep_is_due_when_none_began_within_the_time_set() {
    let six = SignedDuration::from_hours(6);
    let swept = |second: Option<i64>| Sweep {
        last_started_at: second.map(at),
        ..Sweep::default()
    };
    assert!(swept(None).is_due(six, at(0)));
    assert!(!swept(Some(10)).is_due(six, at(10 + 21_599)));
    assert!(swept(Some(10)).is_due(six, at(10 + 21_600)));
    assert!(swept(Some(10)).is_due(six, at(9)));
    let mut under_way = swept(Some(10));
    under_way.pass = Some(Pass::new(at(11), false, LOOKBACK));
    assert!(under_way.is_due(six, at(12)));
    assert_eq!(under_way.age(at(30)), Some(20));
    under_way.last_started_at = None;
    assert_eq!(under_way.age(at(30)), Some(19));
}

/// A service that has findings at these times, in this order, and gives `page` of them at a time.
fn read(times: &[i64], page: usize, mut window: Window) -> (Vec<usize>, usize) {
    let mut seen = vec![0; times.len()];
    for queries in 1.. {
        assert!(queries < 20 + 12 * times.len(), "it does not end: {window:?}");
        let range = window.range();
        let skipped: usize = window.token.as_ref().map_or(0, |token| token.parse().unwrap());
        let is_inside = |time: i64| range.is_none_or(|range| (range.start..=range.end).contains(&at(time)));
        let matching: Vec<usize> = (0..times.len()).filter(|index| is_inside(times[*index])).collect();
        let given = &matching[skipped.min(matching.len())..matching.len().min(skipped + page)];
        let updated: Vec<_> = given.iter().map(|index| Some(at(times[*index]))).collect();
        for index in given {
            seen[*index] += 1;
        }
        let token = (skipped + page < matching.len()).then(|| (skipped + page).to_string());
        match window.after(&updated, token) {
            Some(next) => window = next,
            None => return (seen, queries),
        }
        // What is kept can be read, at any time.
        let text = serde_json::to_string(&window.as_kept()).unwrap();
        let kept: Window = serde_json::from_str(&text).unwrap();
        assert_eq!((kept.check(), &kept), (Ok(()), &window.as_kept()));
    }
    unreachable!()
}

proptest! {
    #[test]
    fn findings_in_order_are_all_read(mut times in prop::collection::vec(0i64..40, 0..80), page in 1usize..12) {
        times.sort_unstable();
        let (seen, _) = read(&times, page, window(0, 100));
        prop_assert!(seen.iter().all(|times| *times > 0));
    }

    #[test]
    fn neighbours_out_of_order_are_all_read(count in 0usize..80, page in 3usize..12, swaps in prop::collection::vec(0usize..80, 0..6)) {
        let mut times: Vec<i64> = (0..count).map(|n| i64::try_from(n).unwrap()).collect();
        let mut swapped = std::collections::HashSet::new();
        for swap in swaps {
            if swap + 1 < count && swapped.insert(swap) && swapped.insert(swap + 1) {
                times.swap(swap, swap + 1);
            }
        }
        let (seen, _) = read(&times, page, window(0, 100));
        prop_assert!(seen.iter().all(|times| *times > 0), "{:?} {:?}", times, seen);
    }

    #[test]
    fn any_order_ends(times in prop::collection::vec(0i64..100, 0..60), page in 1usize..12) {
        read(&times, page, window(0, 100));
    }

    #[test]
    fn windows_leave_no_gap(through in 0i64..10_000, overlap in 0u64..5000, now in 0i64..20_000) {
        let lookback = Lookback { overlap: Duration::from_secs(overlap), ..LOOKBACK };
        let window = incremental(Some(through)).next_window(lookback, at(now));
        prop_assert!(window.start <= Some(at(through)) && window.start <= Some(window.end));
        prop_assert_eq!(window.end, at(now));
    }
}

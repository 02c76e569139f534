//! What was delivered, by digests: the table's items, and what this process knows of them.
//!
//! One item holds the digests of what a page delivered, of one UTC day of `UpdatedAt`. Its sort key begins with the
//! latest `UpdatedAt` in it, so a query from an instant on gives every item that may hold a version of that instant or a
//! later one.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use asff::Digest;
use aws_support::{AwsError, Deadline};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The UTC day of an `UpdatedAt`; days are in order, findings without an `UpdatedAt` come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(Option<i64>);

const SECONDS_A_DAY: i64 = 86_400;

impl Day {
    /// The day of an `UpdatedAt`.
    #[must_use]
    pub fn of(updated: Option<Timestamp>) -> Self {
        Self(updated.map(|updated| updated.as_second().div_euclid(SECONDS_A_DAY)))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.and_then(|day| Timestamp::from_second(day * SECONDS_A_DAY).ok());
        match start {
            Some(start) => f.write_str(format!("{start:.3}").split('T').next().unwrap_or_default()),
            None => f.write_str("none"),
        }
    }
}

/// A finding version, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Of its event id
    pub digest: Digest,
    /// Its `UpdatedAt`, to the millisecond
    pub updated: Option<Timestamp>,
}

/// An item of the table: versions of one day that were delivered together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredItem {
    /// The day of all of them
    pub day: Day,
    /// The earliest `UpdatedAt` among them
    pub first: Option<Timestamp>,
    /// The latest
    pub last: Option<Timestamp>,
    /// Which they are
    pub digests: Vec<Digest>,
    /// Seconds since 1970, when it may be forgotten
    pub expires_at: i64,
}

/// Items that a query gave, and the sort key to go on after, where it has more.
pub type ItemPage = (Vec<DeliveredItem>, Option<String>);

/// The table's items of deliveries.
pub trait DeliveredItems {
    /// The items of a day whose last version was updated at `from` or later, by that time; from the one after `after`.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn items(
        &self,
        day: Day,
        from: Option<Timestamp>,
        after: Option<&str>,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<ItemPage, AwsError>>;

    /// Adds an item; `run` and `number` tell it from all others.
    ///
    /// # Errors
    /// Where it may not be in the table.
    fn add(
        &self,
        item: &DeliveredItem,
        run: &str,
        number: u64,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<(), AwsError>>;
}

/// The most digests that are kept for one region in a run.
const MAX_LOADED: usize = 50_000;
/// The most digests that a warm process remembers.
const MAX_REMEMBERED: usize = 100_000;
/// The most that it remembers because they could not be recorded.
const MAX_UNRECORDED: usize = 10_000;
/// A process remembers no longer than this, so that a version that is met again and again is seen in the table too, and
/// its item renewed there.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// For so long what the table does not hold counts as not delivered: only a push adds to it meanwhile.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// An item is written with this much time beyond the setting, and renewed when a version of it is met after most of that:
/// at most one write a month, and a version is remembered for the setting's time from when it was last met.
const EXTRA_TTL: SignedDuration = SignedDuration::from_hours(24 * 30);
const RENEWAL_MARGIN: SignedDuration = SignedDuration::from_hours(24 * 2);

/// Versions that this process knows to be delivered, across invocations. It is never asked what is not delivered.
#[derive(Debug, Default)]
pub struct Memory {
    remembered: Mutex<Remembered>,
    items_added: AtomicU64,
}

#[derive(Debug, Default)]
struct Remembered {
    since: Option<Timestamp>,
    digests: HashSet<Digest>,
    oldest_first: VecDeque<Digest>,
    /// Delivered, and not known to be recorded
    unrecorded: HashSet<Digest>,
}

impl Memory {
    fn lock(&self, now: Timestamp) -> MutexGuard<'_, Remembered> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *remembered.since.get_or_insert(now);
        if now.duration_since(since).abs() > REMEMBERED_FOR {
            *remembered = Remembered {
                since: Some(now),
                ..Remembered::default()
            };
        }
        remembered
    }

    /// How many digests are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let remembered = self.remembered.lock().unwrap();
        assert_eq!(remembered.digests.len(), remembered.oldest_first.len());
        remembered.digests.len()
    }
}

impl Remembered {
    fn insert(&mut self, digest: Digest) {
        if self.digests.insert(digest) {
            self.oldest_first.push_back(digest);
        }
        if self.oldest_first.len() > MAX_REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }
}

/// What is known of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was not delivered
    No,
    /// It was delivered
    Delivered,
    /// It was delivered, and is to be recorded: the record expires, or could not be made
    Unrecorded,
}

/// What the table holds of a day, from an instant on.
#[derive(Debug)]
struct Loaded {
    from: Option<Timestamp>,
    /// Versions updated at or after this are not all here: there were too many
    before: Option<Timestamp>,
    at: Instant,
    /// `true` where the record is to be renewed
    digests: HashMap<Digest, bool>,
}

impl Loaded {
    fn tells_what_is_missing(&self, updated: Option<Timestamp>) -> bool {
        let is_covered = match updated {
            None => self.before.is_none(),
            Some(_) => self.from <= updated && self.before.is_none_or(|before| updated < Some(before)),
        };
        is_covered && self.at.elapsed() <= FRESH_FOR
    }
}

/// The ledger, as one region of a run uses it.
#[derive(Debug)]
pub struct Ledger<'a, T> {
    table: &'a T,
    memory: &'a Memory,
    run: &'a str,
    ttl: SignedDuration,
    days: BTreeMap<Day, Loaded>,
}

impl<'a, T: DeliveredItems> Ledger<'a, T> {
    /// The ledger in `table`; a delivery is remembered for `ttl` after it was last seen.
    #[must_use]
    pub fn new(table: &'a T, memory: &'a Memory, run: &'a str, ttl: Duration) -> Self {
        Self {
            table,
            memory,
            run,
            ttl: SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX),
            days: BTreeMap::new(),
        }
    }

    fn second_after(&self, now: Timestamp, extra: SignedDuration) -> i64 {
        now.as_second()
            .saturating_add(self.ttl.as_secs())
            .saturating_add(extra.as_secs())
    }

    /// What is known of each version.
    ///
    /// # Errors
    /// Where that cannot be told.
    pub async fn known(
        &mut self,
        versions: &[Version],
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<Vec<Known>, AwsError> {
        // What was read of earlier days is of no use any more.
        if let Some(first) = versions.iter().map(|version| Day::of(version.updated)).min() {
            self.days.retain(|day, _| *day >= first);
        }
        let mut known: Vec<Known> = {
            let remembered = self.memory.lock(now);
            let is_remembered = |version: &Version| remembered.digests.contains(&version.digest);
            let loaded = |version: &Version| {
                let loaded = self.days.get(&Day::of(version.updated))?;
                loaded.digests.get(&version.digest).copied()
            };
            let of = |version: &Version| match (is_remembered(version), loaded(version)) {
                _ if remembered.unrecorded.contains(&version.digest) => Known::Unrecorded,
                (true, _) | (_, Some(false)) => Known::Delivered,
                (_, Some(true)) => Known::Unrecorded,
                (_, None) => Known::No,
            };
            versions.iter().map(of).collect()
        };
        let mut unknown: BTreeMap<Day, (Option<Timestamp>, HashSet<Digest>)> = BTreeMap::new();
        for (version, _) in versions.iter().zip(&known).filter(|(_, known)| **known == Known::No) {
            let day = Day::of(version.updated);
            let is_told = |loaded: &Loaded| loaded.tells_what_is_missing(version.updated);
            if !self.days.get(&day).is_some_and(is_told) {
                let (from, digests) = unknown.entry(day).or_insert((version.updated, HashSet::new()));
                *from = version.updated.min(*from);
                digests.insert(version.digest);
            }
        }
        let mut found = HashMap::new();
        for (day, (from, digests)) in unknown {
            self.load(day, from, &digests, &mut found, now, deadline).await?;
        }
        let mut remembered = self.memory.lock(now);
        for (version, known) in versions.iter().zip(&mut known) {
            match found.get(&version.digest) {
                Some(true) => *known = Known::Unrecorded,
                Some(false) => *known = Known::Delivered,
                None => {}
            }
            if *known == Known::Delivered {
                remembered.insert(version.digest);
            }
        }
        Ok(known)
    }

    /// Reads a day from an instant on, for these digests; the others are kept for the pages to come, as many as there is
    /// room for.
    async fn load(
        &mut self,
        day: Day,
        from: Option<Timestamp>,
        wanted: &HashSet<Digest>,
        found: &mut HashMap<Digest, bool>,
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        self.days.remove(&day);
        let room = MAX_LOADED.saturating_sub(self.loaded());
        let renewed_before = self.second_after(now, RENEWAL_MARGIN);
        let mut loaded = Loaded {
            from,
            before: None,
            at: Instant::now(),
            digests: HashMap::new(),
        };
        let mut after: Option<String> = None;
        loop {
            let (items, next) = self.table.items(day, from, after.as_deref(), deadline).await?;
            for item in items {
                let is_expiring = item.expires_at < renewed_before;
                let has_room = loaded.digests.len() + item.digests.len() <= room;
                if !has_room {
                    let first = item.first.unwrap_or(Timestamp::MIN);
                    loaded.before = Some(loaded.before.map_or(first, |before| before.min(first)));
                }
                for digest in item.digests {
                    let keep = |all: &mut HashMap<Digest, bool>| {
                        all.entry(digest)
                            .and_modify(|expiring| *expiring &= is_expiring)
                            .or_insert(is_expiring);
                    };
                    if wanted.contains(&digest) {
                        keep(found);
                    }
                    if has_room {
                        keep(&mut loaded.digests);
                    }
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        self.days.insert(day, loaded);
        Ok(())
    }

    /// Records versions as delivered.
    ///
    /// # Errors
    /// Where some may not be recorded: they may be delivered again.
    pub async fn record(&mut self, versions: &[Version], now: Timestamp, deadline: &Deadline) -> Result<(), AwsError> {
        let mut days: BTreeMap<Day, Vec<Version>> = BTreeMap::new();
        for version in versions {
            days.entry(Day::of(version.updated)).or_default().push(*version);
        }
        let expires_at = self.second_after(now, EXTRA_TTL);
        let items: Vec<DeliveredItem> = days
            .into_iter()
            .map(|(day, versions)| DeliveredItem {
                day,
                first: versions.iter().filter_map(|version| version.updated).min(),
                last: versions.iter().filter_map(|version| version.updated).max(),
                digests: versions.iter().map(|version| version.digest).collect(),
                expires_at,
            })
            .collect();
        {
            let mut remembered = self.memory.lock(now);
            let digests = versions.iter().map(|version| version.digest);
            if remembered.unrecorded.len() + versions.len() <= MAX_UNRECORDED {
                remembered.unrecorded.extend(digests);
            }
        }
        let added = items.iter().map(async |item| {
            let number = self.memory.items_added.fetch_add(1, Ordering::Relaxed);
            self.table.add(item, self.run, number, deadline).await?;
            let mut remembered = self.memory.lock(now);
            for digest in &item.digests {
                remembered.insert(*digest);
                remembered.unrecorded.remove(digest);
            }
            Ok(())
        });
        // All are tried, whatever becomes of one: what is not recorded would be sent again.
        futures::future::join_all(added).await.into_iter().collect()
    }

    /// How many digests are held.
    fn loaded(&self) -> usize {
        self.days.values().map(|loaded| loaded.digests.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryTable;

    const TTL: Duration = Duration::from_hours(24 * 120);
    const DAYS: i64 = 86_400;

    fn version(number: u32, updated: i64) -> Version {
        let mut digest = Digest::default();
        digest[..4].copy_from_slice(&number.to_be_bytes());
        Version {
            digest,
            updated: Some(Timestamp::constant(updated, 0)),
        }
    }

    fn versions(count: u32) -> Vec<Version> {
        (0..count)
            .map(|number| version(number, 100 + i64::from(number / 100)))
            .collect()
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn now() -> Timestamp {
        Timestamp::constant(1_000_000, 0)
    }

    async fn known(table: &MemoryTable, memory: &Memory, versions: &[Version], now: Timestamp) -> Vec<Known> {
        let mut ledger = Ledger::new(table, memory, "run", TTL);
        ledger.known(versions, now, &deadline()).await.unwrap()
    }

    fn queries(table: &MemoryTable) -> u64 {
        table.calls.borrow().get("query delivered").copied().unwrap_or_default()
    }

    async fn record(table: &MemoryTable, memory: &Memory, versions: &[Version]) {
        for page in versions.chunks(100) {
            let mut ledger = Ledger::new(table, memory, "run", TTL);
            ledger.record(page, now(), &deadline()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_recorded_is_known_to_this_process_and_to_another() {
        let (table, memory) = (MemoryTable::default(), Memory::default());
        let mut some = versions(3);
        some.push(version(7, 3 * DAYS));
        some.push(Version {
            updated: None,
            ..version(8, 0)
        });
        record(&table, &memory, &some).await;
        assert_eq!(table.delivered.borrow().len(), 3, "one item a day");
        assert_eq!(known(&table, &memory, &some, now()).await, vec![Known::Delivered; 5]);
        assert_eq!(queries(&table), 0);
        let another = Memory::default();
        some.push(version(9, 100));
        let mut expected = vec![Known::Delivered; 5];
        expected.push(Known::No);
        assert_eq!(known(&table, &another, &some, now()).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_is_read_once_for_all_its_pages() {
        let (table, memory) = (MemoryTable::default(), Memory::default());
        let all = versions(1000);
        record(&table, &memory, &all).await;
        let memory = Memory::default();
        let mut ledger = Ledger::new(&table, &memory, "run", TTL);
        ledger.known(&all[..100], now(), &deadline()).await.unwrap();
        let after_first = queries(&table);
        for page in all.chunks(100).skip(1) {
            let known = ledger.known(page, now(), &deadline()).await.unwrap();
            assert!(known.iter().all(|known| *known == Known::Delivered));
        }
        assert_eq!(queries(&table), after_first);
        // What is not in it is asked for again after some seconds: a push may have added it.
        let new = [version(5000, 109)];
        ledger.known(&new, now(), &deadline()).await.unwrap();
        assert_eq!(queries(&table), after_first);
        record(&table, &Memory::default(), &new).await;
        tokio::time::advance(FRESH_FOR * 2).await;
        assert_eq!(
            ledger.known(&new, now(), &deadline()).await.unwrap(),
            [Known::Delivered]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn memory_stays_bounded_whatever_a_day_holds_and_nothing_is_forgotten_for_it() {
        let (table, memory) = (MemoryTable::default(), Memory::default());
        let all = versions(130_000);
        record(&table, &memory, &all).await;
        assert_eq!(memory.len(), MAX_REMEMBERED);
        let memory = Memory::default();
        let mut ledger = Ledger::new(&table, &memory, "run", TTL);
        for page in all.chunks(100).step_by(50) {
            let known = ledger.known(page, now(), &deadline()).await.unwrap();
            assert!(known.iter().all(|known| *known == Known::Delivered));
            assert!(ledger.loaded() <= MAX_LOADED);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_about_to_expire_is_renewed_when_its_version_is_met() {
        let (table, memory) = (MemoryTable::default(), Memory::default());
        let some = versions(2);
        record(&table, &memory, &some).await;
        let item = table.delivered.borrow().values().next().unwrap().clone();
        assert!(item.expires_at >= now().as_second() + 120 * DAYS);
        for (days, expected) in [
            (27, Known::Delivered),
            (29, Known::Unrecorded),
            (400, Known::Unrecorded),
        ] {
            let later = now() + SignedDuration::from_hours(24 * days);
            assert_eq!(known(&table, &Memory::default(), &some, later).await, [expected; 2]);
        }
        // A process that remembers the version reads the table again after a day.
        let later = now() + SignedDuration::from_hours(24 * 29);
        assert_eq!(known(&table, &memory, &some, later).await, [Known::Unrecorded; 2]);
    }

    #[test]
    fn days_are_of_utc_and_in_order() {
        let day = |time: &str| Day::of(Some(time.parse().unwrap()));
        assert_eq!(day("2026-11-23T23:59:59.999Z").to_string(), "2026-11-23");
        assert_eq!(day("2026-11-23T23:59:59-01:00").to_string(), "2026-11-24");
        assert!(day("1969-12-31T23:59:59Z") < day("1970-01-01T00:00:00Z"));
        assert_eq!(Day::of(None).to_string(), "none");
        assert!(Day::of(None) < day("1969-12-31T23:59:59Z"));
    }
}

//! What is about to be sent, within one run.
//!
//! With cross-region aggregation Security Hub gives the findings of linked regions in the home region too. Regions are
//! polled side by side: without this, two of them could each find the same version unknown to the ledger and send it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use asff::EventId;
use tokio::sync::watch;

/// Event ids that some region of the run is about to send.
#[derive(Debug, Default)]
pub struct InFlight {
    ids: Mutex<HashSet<EventId>>,
    released: watch::Sender<()>,
}

impl InFlight {
    /// Those of `ids` that no other region has claimed, for this one; until the claim is dropped.
    pub fn claim(&self, ids: impl Iterator<Item = EventId>) -> Claim<'_> {
        let mut claimed = self.lock();
        let ids = ids.filter(|id| claimed.insert(*id)).collect();
        Claim { of: self, ids }
    }

    /// Tells of claims that are dropped from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.released.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EventId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Event ids that are one region's to send.
#[derive(Debug)]
pub struct Claim<'f> {
    of: &'f InFlight,
    ids: HashSet<EventId>,
}

impl Claim<'_> {
    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &HashSet<EventId> {
        &self.ids
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Whoever waits is told only of what there is: empty claims would wake each other for ever.
        if self.ids.is_empty() {
            return;
        }
        let mut claimed = self.of.lock();
        for id in &self.ids {
            claimed.remove(id);
        }
        drop(claimed);
        self.of.released.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> EventId {
        EventId::new([number; 32])
    }

    #[tokio::test]
    async fn an_id_is_one_regions_until_its_claim_is_dropped() {
        let in_flight = InFlight::default();
        let ids = [1, 2, 3].map(id);
        let sorted = |claim: &Claim<'_>| {
            let mut ids: Vec<EventId> = claim.ids().iter().copied().collect();
            ids.sort();
            ids
        };
        let first = in_flight.claim(ids[..2].iter().copied());
        assert_eq!(sorted(&first), [id(1), id(2)]);
        let mut released = in_flight.watch();
        let second = in_flight.claim(ids.into_iter());
        assert_eq!(sorted(&second), [id(3)]);
        assert!(!released.has_changed().unwrap());
        // A claim of nothing wakes nobody.
        drop(in_flight.claim(ids.into_iter()));
        assert!(!released.has_changed().unwrap());
        drop(first);
        released.changed().await.unwrap();
        assert_eq!(sorted(&in_flight.claim(ids.into_iter())), [id(1), id(2)]);
    }
}

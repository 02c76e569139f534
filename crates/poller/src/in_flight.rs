//! What is about to be sent, within one run.
//!
//! With cross-region aggregation Security Hub gives the findings of linked regions in the home region too. Regions are
//! polled side by side: without this, two of them could each find the same version unknown to the ledger and send it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Event ids that some region of the run is about to send.
#[derive(Debug, Default)]
pub struct InFlight {
    ids: Mutex<HashSet<String>>,
    released: watch::Sender<()>,
}

impl InFlight {
    /// Those of `ids` that no other region has claimed, for this one; until the claim is dropped.
    pub fn claim<'i>(&self, ids: impl Iterator<Item = &'i String>) -> Claim<'_> {
        let mut claimed = self.lock();
        let ids = ids.filter(|id| claimed.insert((*id).clone())).cloned().collect();
        Claim { of: self, ids }
    }

    /// Tells of claims that are dropped from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.released.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Event ids that are one region's to send.
#[derive(Debug)]
pub struct Claim<'f> {
    of: &'f InFlight,
    ids: HashSet<String>,
}

impl Claim<'_> {
    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &HashSet<String> {
        &self.ids
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
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

    #[tokio::test]
    async fn an_id_is_one_regions_until_its_claim_is_dropped() {
        let in_flight = InFlight::default();
        let ids = ["a", "b", "c"].map(str::to_owned);
        let first = in_flight.claim(ids[..2].iter());
        let sorted = |claim: &Claim<'_>| {
            let mut ids: Vec<String> = claim.ids().iter().cloned().collect();
            ids.sort();
            ids
        };
        assert_eq!(sorted(&first), ["a", "b"]);
        let mut released = in_flight.watch();
        let second = in_flight.claim(ids.iter());
        assert_eq!(sorted(&second), ["c"]);
        assert!(!released.has_changed().unwrap());
        drop(first);
        released.changed().await.unwrap();
        assert_eq!(sorted(&in_flight.claim(ids.iter())), ["a", "b"]);
    }
}

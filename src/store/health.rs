//! The state machine that decides whether the store accepts writes.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ErrorKind, StoreError};

/// State of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Writes are stored and acknowledged.
    Accepting,
    /// The volume is full; no write is tried until a probe succeeds.
    Full(Outage),
    /// The volume or the database fails; no write is tried until a probe succeeds.
    Failing(Outage),
}

/// Why the store does not accept writes, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The error that started it.
    pub reason: String,
    /// Seconds since 1970.
    pub since: i64,
}

impl HealthState {
    /// Returns the outage, if there is one.
    pub const fn outage(&self) -> Option<&Outage> {
        match self {
            Self::Accepting => None,
            Self::Full(outage) | Self::Failing(outage) => Some(outage),
        }
    }
}

/// Health of a store, shared by the store, which changes it, and by everybody who watches it.
///
/// `Accepting` → `Full` or `Failing` by a write that failed; back to `Accepting` only by a [probe](super::Upkeep::probe) whose
/// write was committed.
#[derive(Clone, Debug)]
pub struct StoreHealth(Arc<watch::Sender<HealthState>>);

impl Default for StoreHealth {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HealthState::Accepting)))
    }
}

impl StoreHealth {
    /// Returns whether the store accepts writes.
    pub fn is_accepting(&self) -> bool {
        *self.0.borrow() == HealthState::Accepting
    }

    /// Returns the state.
    pub fn state(&self) -> HealthState {
        self.0.borrow().clone()
    }

    /// Returns a receiver of state changes.
    pub fn subscribe(&self) -> watch::Receiver<HealthState> {
        self.0.subscribe()
    }

    /// Records a failed write at `now`, seconds since 1970. Errors that say nothing about the volume or the database change nothing.
    pub fn failed(&self, error: &StoreError, now: i64) {
        self.0.send_if_modified(|state| {
            // An outage keeps the time at which it began, also where its nature changes.
            let since = state.outage().map_or(now, |outage| outage.since);
            let outage = Outage { reason: error.to_string(), since };
            let next = match error.kind {
                ErrorKind::Full => HealthState::Full(outage),
                ErrorKind::Failing => HealthState::Failing(outage),
                _ => return false,
            };
            if std::mem::discriminant(state) == std::mem::discriminant(&next) {
                return false;
            }
            tracing::warn!(reason = %error, "store stopped accepting writes");
            *state = next;
            true
        });
    }

    /// Records a probe whose write was committed.
    pub fn recovered(&self) {
        self.0.send_if_modified(|state| {
            if *state == HealthState::Accepting {
                return false;
            }
            tracing::info!("store resumed accepting writes");
            *state = HealthState::Accepting;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_the_volume_or_database_stop_writes_and_only_a_probe_resumes_them() {
        let health = StoreHealth::default();
        let failed = |kind| health.failed(&StoreError::new("writing", kind, "cause"), 5);
        for kind in [ErrorKind::Paused, ErrorKind::Rejected, ErrorKind::Damaged, ErrorKind::Exists] {
            failed(kind);
            assert!(health.is_accepting(), "{kind:?}");
        }
        failed(ErrorKind::Full);
        let outage = Outage { reason: "writing: cause".to_owned(), since: 5 };
        assert_eq!(health.state(), HealthState::Full(outage.clone()));
        health.failed(&StoreError::new("writing", ErrorKind::Failing, "cause"), 9);
        assert_eq!(health.state(), HealthState::Failing(outage), "the outage began with its first failure");
        health.recovered();
        assert!(health.is_accepting());
    }
}

//! The latest status of a large fleet, which is not computed again for each request.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Release};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

/// Number of nodes above which a fleet is large. The status of a smaller one takes a few milliseconds, and is always current.
pub(super) const LARGE: usize = 1_000;

/// Age up to which a status is not computed again.
const FRESH: Duration = Duration::from_millis(250);

/// Age up to which a status is returned while a task computes the next one.
const USABLE: Duration = Duration::from_secs(1);

/// The latest value of something that takes long to compute.
#[derive(Debug)]
pub(in crate::aggregator) struct Latest<T> {
    value: ArcSwapOption<(Instant, T)>,
    is_computing: AtomicBool,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { value: ArcSwapOption::empty(), is_computing: AtomicBool::new(false) }
    }
}

/// What to do for a request.
#[derive(Debug)]
pub(super) enum Recent<T> {
    /// Return this value.
    Fresh(T),
    /// Return this value, and compute the next one. Only one caller is told so until [`Latest::set`].
    Renew(T),
    /// Compute it.
    Missing,
}

impl<T: Clone> Latest<T> {
    /// Returns the latest value, if it is recent.
    pub(super) fn get(&self, now: Instant) -> Recent<T> {
        let latest = self.value.load();
        let Some((at, value)) = latest.as_deref() else { return Recent::Missing };
        match now.saturating_duration_since(*at) {
            age if age < FRESH => Recent::Fresh(value.clone()),
            age if age >= USABLE => Recent::Missing,
            _ if self.is_computing.swap(true, AcqRel) => Recent::Fresh(value.clone()),
            _ => Recent::Renew(value.clone()),
        }
    }

    /// Stores a value that was computed at this time.
    pub(super) fn set(&self, at: Instant, value: T) {
        self.value.store(Some(Arc::new((at, value))));
        self.is_computing.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_returned_for_a_second_and_one_caller_renews_it() {
        let latest = Latest::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(matches!(latest.get(at(0)), Recent::Missing));
        latest.set(at(0), 1);
        assert!(matches!(latest.get(at(249)), Recent::Fresh(1)));
        assert!(matches!(latest.get(at(250)), Recent::Renew(1)));
        assert!(matches!(latest.get(at(999)), Recent::Fresh(1)), "two callers compute it");
        assert!(matches!(latest.get(at(1000)), Recent::Missing), "a value is older than a second");
        latest.set(at(1000), 2);
        assert!(matches!(latest.get(at(1001)), Recent::Fresh(2)));
        assert!(matches!(latest.get(at(1300)), Recent::Renew(2)), "nobody renews it a second time");
    }
}

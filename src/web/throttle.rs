//! Rate limit for log events that clients can cause: one event per interval, with the number of events left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Time between two events of the same kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether an event is logged.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Returns the number of events left out since the last logged one, or `None` if this event is to be left out as well.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        let (last, left_out) = *state;
        if last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            state.1 += 1;
            return None;
        }
        *state = (Some(now), 0);
        Some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_per_interval_is_logged_and_all_others_are_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit(start), Some(0));
        for milliseconds in 1..1000 {
            assert_eq!(throttle.admit(start + Duration::from_millis(milliseconds)), None);
        }
        assert_eq!(throttle.admit(start + INTERVAL), Some(999));
        assert_eq!(throttle.admit(start + INTERVAL + INTERVAL), Some(0));
    }
}

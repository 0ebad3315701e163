//! Rate limit for log events that clients can cause: a few events per interval, with the number of events left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Length of an interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether an event is logged.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Events that are logged in an interval.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the interval began.
    since: Option<Instant>,
    /// Events that were logged in the interval.
    admitted: u64,
    /// Events that were left out since the last one that was logged.
    left_out: u64,
}

impl Throttle {
    /// Creates a throttle that admits `most` events per interval.
    pub(super) fn new(most: u64) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Returns the number of events left out since the last logged one, or `None` if this event is to be left out as well.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.since.is_none_or(|since| now.duration_since(since) >= INTERVAL) {
            (state.since, state.admitted) = (Some(now), 0);
        }
        if state.admitted >= self.most {
            state.left_out += 1;
            return None;
        }
        state.admitted += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_events_per_interval_are_logged_and_all_others_are_counted() {
        let throttle = Throttle::new(2);
        let start = Instant::now();
        assert_eq!([throttle.admit(start), throttle.admit(start)], [Some(0); 2]);
        for milliseconds in 1..1000 {
            assert_eq!(throttle.admit(start + Duration::from_millis(milliseconds)), None);
        }
        assert_eq!(throttle.admit(start + INTERVAL), Some(999));
        assert_eq!(throttle.admit(start + INTERVAL + INTERVAL), Some(0));
    }
}

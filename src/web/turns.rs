//! Turns of read requests: fair by caller, and bounded.
//!
//! At most [`MAX_RUNNING`] requests run, of one caller at most [`MAX_RUNNING_EACH`]; the others wait in a queue of their caller. A free turn goes to the
//! caller with the fewest running requests, and among these to the one that has waited longest since its last turn (round-robin). So a caller with many
//! expensive requests delays another caller by the rest of one request at most, as long as a turn is free or one of its own ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use outcrop_proto::Digest;
use tokio::sync::oneshot;

use crate::lock::lock;

/// Maximum number of concurrent read requests. Each holds at most one connection of the store, which has one more for the aggregator itself
/// (`READERS` in `store/sqlite`).
pub(super) const MAX_RUNNING: usize = 6;

/// Maximum number of concurrent read requests of one caller.
pub(super) const MAX_RUNNING_EACH: usize = 2;

/// Maximum number of requests of one caller that wait, and of its large responses that are not sent yet.
pub(super) const MAX_WAITING_EACH: usize = 32;

/// Grants turns.
#[derive(Debug)]
pub(super) struct Turns {
    running: usize,
    running_each: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    callers: HashMap<Digest, Requests>,
    /// Callers that wait for a turn which they may have, in the order in which they get it.
    order: VecDeque<Digest>,
}

/// The requests of one caller.
#[derive(Debug, Default)]
struct Requests {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// Large responses that are not sent yet.
    sending: usize,
}

/// The right to run one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<(Arc<Turns>, Digest)>);

/// A large response that is sent, until it is dropped.
#[derive(Debug)]
pub(super) struct Sending(Option<(Arc<Turns>, Digest)>);

/// The caller already has [`MAX_WAITING_EACH`] waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

impl Turns {
    /// Creates turns for `running` concurrent requests, of one caller at most `running_each`.
    pub(super) fn new(running: usize, running_each: usize) -> Arc<Self> {
        Arc::new(Self { running, running_each, state: Mutex::default() })
    }

    /// Requests a turn for a caller. The receiver gets it; a receiver that is dropped gives up its place.
    pub(super) fn request(self: &Arc<Self>, caller: Digest) -> Result<oneshot::Receiver<Turn>, QueueFull> {
        let mut state = lock(&self.state);
        let of = state.callers.entry(caller).or_default();
        of.waiting.retain(|request| !request.is_closed());
        if of.waiting.len() + of.sending >= MAX_WAITING_EACH {
            return Err(QueueFull);
        }
        let (sender, receiver) = oneshot::channel();
        of.waiting.push_back(sender);
        self.update(&mut state, caller);
        self.grant(&mut state);
        Ok(receiver)
    }

    /// Gives free turns to waiting requests.
    fn grant(self: &Arc<Self>, state: &mut State) {
        while state.running < self.running {
            let running = |caller: &Digest| state.callers.get(caller).map_or(0, |of| of.running);
            let candidates = state.order.iter().enumerate().map(|(place, caller)| (running(caller), place));
            let Some(caller) = candidates.min().and_then(|(_, place)| state.order.remove(place)) else { return };
            let Some(of) = state.callers.get_mut(&caller) else { continue };
            if let Some(request) = of.waiting.pop_front() {
                match request.send(Turn(Some((Arc::clone(self), caller)))) {
                    Ok(()) => {
                        of.running += 1;
                        state.running += 1;
                    }
                    // The request was dropped meanwhile. Its turn is not released: it was never taken, and the state is locked.
                    Err(mut turn) => turn.0 = None,
                }
            }
            self.update(state, caller);
        }
    }

    fn release(self: &Arc<Self>, caller: Digest) {
        let mut state = lock(&self.state);
        state.running -= 1;
        if let Some(of) = state.callers.get_mut(&caller) {
            of.running -= 1;
        }
        self.update(&mut state, caller);
        self.grant(&mut state);
    }

    /// Puts a caller at the end of the order if it may have a turn and is not there, and forgets one without requests.
    fn update(&self, state: &mut State, caller: Digest) {
        let Some(of) = state.callers.get(&caller) else { return };
        if of.waiting.is_empty() {
            if of.running == 0 && of.sending == 0 {
                state.callers.remove(&caller);
            }
        } else if of.running < self.running_each && !state.order.contains(&caller) {
            state.order.push_back(caller);
        }
    }
}

impl Turn {
    /// Ends the turn, and counts the response until the result is dropped.
    pub(super) fn into_sending(mut self) -> Sending {
        let sending = self.0.take().map(|(turns, caller)| {
            if let Some(of) = lock(&turns.state).callers.get_mut(&caller) {
                of.sending += 1;
            }
            turns.release(caller);
            (turns, caller)
        });
        Sending(sending)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some((turns, caller)) = self.0.take() else { return };
        let mut state = lock(&turns.state);
        if let Some(of) = state.callers.get_mut(&caller) {
            of.sending -= 1;
        }
        turns.update(&mut state, caller);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((turns, caller)) = self.0.take() {
            turns.release(caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// Requests in the order in which they were made, each with its caller.
    struct Queue(Vec<(&'static str, oneshot::Receiver<Turn>)>);

    impl Queue {
        fn add(&mut self, turns: &Arc<Turns>, name: &'static str, count: usize) {
            self.0.extend((0..count).map(|_| (name, turns.request(caller(name)).unwrap())));
        }

        /// Returns the requests that have got their turn since the last call.
        fn granted(&mut self) -> Vec<(&'static str, Turn)> {
            let mut granted = Vec::new();
            self.0.retain_mut(|(name, receiver)| match receiver.try_recv() {
                Ok(turn) => {
                    granted.push((*name, turn));
                    false
                }
                Err(_) => true,
            });
            granted
        }
    }

    /// Lets requests run one after the other, always the one that began first, and returns the callers in the order in which they began.
    fn served(queue: &mut Queue) -> String {
        let mut running: VecDeque<(&str, Turn)> = VecDeque::new();
        let mut order = String::new();
        loop {
            let granted = queue.granted();
            order.extend(granted.iter().map(|(name, _)| *name));
            running.extend(granted);
            if running.pop_front().is_none() {
                return order;
            }
        }
    }

    #[test]
    fn a_caller_with_forty_requests_does_not_keep_another_one_waiting_behind_them() {
        let turns = Turns::new(3, 2);
        let mut queue = Queue(Vec::new());
        queue.add(&turns, "a", 34);
        let first = queue.granted();
        assert_eq!(first.len(), 2, "one turn stays free for others");
        queue.add(&turns, "b", 1);
        assert_eq!(queue.granted().iter().map(|(name, _)| *name).collect::<String>(), "b", "it begins at once");
        drop(first);
        assert_eq!(served(&mut queue), "a".repeat(32));
        assert!(lock(&turns.state).callers.is_empty() && lock(&turns.state).order.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_free_turn_goes_to_the_caller_with_the_fewest_running_requests_and_then_round_robin() {
        for (running, each, requests, expected) in [
            (1, 1, &[("a", 4), ("b", 2), ("c", 1)][..], "abcabaa"),
            (1, 1, &[("a", 5), ("b", 1)], "abaaaa"),
            // Each of three callers has all the turns that it may have; the fourth gets the next one that is free.
            (6, 2, &[("a", 9), ("b", 9), ("c", 9), ("d", 1)], "aabbccdaabbccaabbccaabbccabc"),
            (2, 2, &[("a", 4), ("b", 4)], "aabababb"),
        ] {
            let turns = Turns::new(running, each);
            let mut queue = Queue(Vec::new());
            for (name, count) in requests {
                queue.add(&turns, name, *count);
            }
            assert_eq!(served(&mut queue), expected, "{running} {each}");
        }
    }

    #[test]
    fn a_queue_is_bounded_and_a_request_that_goes_away_makes_room_and_takes_no_turn() {
        let turns = Turns::new(1, 1);
        let mut queue = Queue(Vec::new());
        queue.add(&turns, "a", 1 + MAX_WAITING_EACH);
        let running = queue.granted();
        assert_eq!(turns.request(caller("a")).unwrap_err(), QueueFull);
        assert!(turns.request(caller("b")).is_ok(), "the queue of another caller is empty");
        queue.0.truncate(1);
        queue.add(&turns, "a", MAX_WAITING_EACH - 1);
        assert_eq!(turns.request(caller("a")).unwrap_err(), QueueFull);
        queue.0.remove(0);
        drop(running);
        assert_eq!(served(&mut queue).len(), MAX_WAITING_EACH - 1);
        // A turn that was granted and never used goes to the next one.
        queue.add(&turns, "a", 2);
        queue.0.remove(0);
        assert_eq!(served(&mut queue), "a");
        assert!(lock(&turns.state).callers.is_empty());
    }
}

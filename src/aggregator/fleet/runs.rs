//! Who runs which stack, as far as the store has to be told.

use std::collections::{HashMap, HashSet};

use outcrop_proto::Digest;

use super::Container;
use crate::cluster::Workload;
use crate::store::{Run, StackId};

/// A subject runs a stack: an opaque key, and the stack's identity.
type Running = (String, Digest);

/// What is known of it.
#[derive(Clone, Copy, Debug)]
struct State {
    /// How many containers.
    containers: u32,
    /// Since when, in seconds since 1970.
    since: i64,
    /// When the last of them ended.
    until: i64,
    /// The stack's number, where the store knows that it runs.
    recorded: Option<StackId>,
}

/// Who runs what.
#[derive(Debug, Default)]
pub(super) struct Runs {
    running: HashMap<Running, State>,
    /// Those that the store may have to be told of.
    changed: HashSet<Running>,
    /// Those that the store knows of from before the start, by node, until that tells what it has.
    restored: HashMap<String, Vec<Running>>,
}

/// What subjects that are workloads begin with: no node is called so.
const WORKLOAD: char = '@';

/// Who runs a container's stack: a container of a workload, by name, on whatever node; of a container that is in none the node, the pod's
/// namespace or else the runtime's, and its name. New images, re-created containers and pods do not change it.
pub(in crate::aggregator) fn subject(node: &str, runtime_namespace: &str, container: &Container) -> String {
    if let Some(workload) = &container.workload {
        return format!("{}/{}", workload_subject(workload), container.name);
    }
    format!("{node}/{}/{}", container.namespace().unwrap_or(runtime_namespace), container.name)
}

/// What the subjects of a workload's containers begin with.
pub(in crate::aggregator) fn workload_subject(workload: &Workload) -> String {
    let Workload { namespace, group, kind, name, uid: _ } = workload;
    format!("{WORKLOAD}{namespace}/{group}/{kind}/{name}")
}

impl Runs {
    pub(super) fn begin(&mut self, node: &str, namespace: &str, container: &Container, stack: Digest, at: i64) {
        let key = (subject(node, namespace, container), stack);
        let state =
            self.running.entry(key.clone()).or_insert(State { containers: 0, since: at, until: at, recorded: None });
        state.containers += 1;
        if state.recorded.is_none() {
            self.changed.insert(key);
        }
    }

    pub(super) fn end(&mut self, node: &str, namespace: &str, container: &Container, stack: Digest, at: i64) {
        let key = (subject(node, namespace, container), stack);
        if let Some(state) = self.running.get_mut(&key) {
            state.containers = state.containers.saturating_sub(1);
            if state.containers == 0 {
                state.until = at;
                self.changed.insert(key);
            }
        }
    }

    /// Takes up what the store knows to be running.
    pub(super) fn restore(&mut self, runs: impl IntoIterator<Item = (String, Digest, StackId)>) {
        for (subject, stack, number) in runs {
            let key = (subject, stack);
            let node = key.0.split('/').next().unwrap_or_default().to_owned();
            self.running.insert(key.clone(), State { containers: 0, since: 0, until: 0, recorded: Some(number) });
            self.restored.entry(node).or_default().push(key);
        }
    }

    /// A node has told of all that it has: what the store knew and it does not has ended, by now.
    pub(super) fn told_all(&mut self, node: &str, at: i64) {
        for key in self.restored.remove(node).unwrap_or_default() {
            if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                state.until = at;
            }
            self.changed.insert(key);
        }
    }

    /// What the store knows of workloads, and no node has told of: it has ended, by now, but for subjects that are to be told of yet.
    pub(super) fn end_workloads(&mut self, is_awaited: impl Fn(&str) -> bool, at: i64) {
        let is_gone = |(subject, _): &Running| subject.starts_with(WORKLOAD) && !is_awaited(subject);
        for keys in self.restored.values_mut() {
            for key in keys.extract_if(.., |key| is_gone(key)) {
                if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                    state.until = at;
                }
                self.changed.insert(key);
            }
        }
        self.restored.retain(|_, keys| !keys.is_empty());
    }

    /// Of nodes that the store knows of and that never told of anything, everything has ended, by now.
    pub(super) fn forget_absent(&mut self, is_there: impl Fn(&str) -> bool, at: i64) {
        let absent: Vec<String> = self.restored.keys().filter(|node| !is_there(node)).cloned().collect();
        absent.iter().for_each(|node| self.told_all(node, at));
    }

    /// What the store has to be told: begun and ended. What is of a stack that has no number yet waits.
    pub(super) fn take(&mut self, number: impl Fn(&Digest) -> Option<StackId>) -> (Vec<Run>, Vec<Run>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        self.changed.retain(|key| {
            let Some(state) = self.running.get_mut(key) else { return false };
            // What the store knows to run ends there, whatever is thought of the stack by now.
            let Some(stack) = state.recorded.or_else(|| number(&key.1)) else {
                // Nobody runs it, and nobody has to know that somebody did.
                let waits = state.containers > 0;
                if !waits {
                    self.running.remove(key);
                }
                return waits;
            };
            let run = |at| Run { subject: key.0.clone(), stack, at };
            match (state.containers > 0, state.recorded.is_some()) {
                (true, false) => {
                    state.recorded = Some(stack);
                    begun.push(run(state.since));
                }
                (false, true) => {
                    ended.push(run(state.until));
                    self.running.remove(key);
                }
                (false, false) => {
                    // It ran, however short: both are told, and the run has an end.
                    begun.push(run(state.since));
                    ended.push(run(state.until));
                    self.running.remove(key);
                }
                (true, true) => {}
            }
            false
        });
        (begun, ended)
    }
}

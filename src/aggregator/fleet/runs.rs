//! Who runs which stack, as far as the store has to be told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outcrop_proto::Digest;

use super::Container;
use crate::cluster::Workload;
use crate::store::{Run, StackId, SubjectKey, WorkloadKey};

/// A subject runs a stack, by the stack's identity.
type Running = (SubjectKey, Digest);

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
    /// Runs that the store has from before the start, by node, until the node reports; those of workloads under `None`.
    restored: HashMap<Option<Arc<str>>, Vec<Running>>,
}

/// Returns the subject of a container.
pub(in crate::aggregator) fn subject(
    node: &Arc<str>,
    runtime_namespace: &Arc<str>,
    container: &Container,
) -> SubjectKey {
    let name = Arc::clone(&container.name);
    match &container.workload {
        Some(workload) => SubjectKey::WorkloadContainer { workload: workload_key(workload), container: name },
        None => SubjectKey::Container {
            node: Arc::clone(node),
            namespace: container.namespace().map_or_else(|| Arc::clone(runtime_namespace), Arc::from),
            container: name,
        },
    }
}

/// Returns the part of a workload that its subjects are known by.
pub(in crate::aggregator) fn workload_key(workload: &Workload) -> WorkloadKey {
    let Workload { namespace, group, kind, name, uid: _ } = workload;
    WorkloadKey {
        namespace: namespace.as_str().into(),
        group: group.as_str().into(),
        kind: kind.as_str().into(),
        name: name.as_str().into(),
    }
}

impl Runs {
    pub(super) fn begin(
        &mut self,
        node: &Arc<str>,
        namespace: &Arc<str>,
        container: &Container,
        stack: Digest,
        at: i64,
    ) {
        let key = (subject(node, namespace, container), stack);
        let state =
            self.running.entry(key.clone()).or_insert(State { containers: 0, since: at, until: at, recorded: None });
        state.containers += 1;
        if state.recorded.is_none() {
            self.changed.insert(key);
        }
    }

    pub(super) fn end(&mut self, node: &Arc<str>, namespace: &Arc<str>, container: &Container, stack: Digest, at: i64) {
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
    pub(super) fn restore(&mut self, runs: impl IntoIterator<Item = (SubjectKey, Digest, StackId)>) {
        for (subject, stack, number) in runs {
            let key = (subject, stack);
            let node = key.0.node().cloned();
            self.running.insert(key.clone(), State { containers: 0, since: 0, until: 0, recorded: Some(number) });
            self.restored.entry(node).or_default().push(key);
        }
    }

    /// A node has told of all that it has: what the store knew and it does not has ended, by now.
    pub(super) fn told_all(&mut self, node: &str, at: i64) {
        let node = Some(Arc::from(node));
        for key in self.restored.remove(&node).unwrap_or_default() {
            if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                state.until = at;
            }
            self.changed.insert(key);
        }
    }

    /// What the store knows of workloads, and no node has told of: it has ended, by now, but for subjects that are to be told of yet.
    pub(super) fn end_workloads(&mut self, is_awaited: impl Fn(&SubjectKey) -> bool, at: i64) {
        let Some(mut keys) = self.restored.remove(&None) else { return };
        for key in keys.extract_if(.., |(subject, _)| !is_awaited(subject)) {
            if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                state.until = at;
            }
            self.changed.insert(key);
        }
        if !keys.is_empty() {
            self.restored.insert(None, keys);
        }
    }

    /// Of nodes that the store knows of and that never told of anything, everything has ended, by now.
    pub(super) fn forget_absent(&mut self, is_there: impl Fn(&str) -> bool, at: i64) {
        let known = self.restored.keys().flatten();
        let absent: Vec<Arc<str>> = known.filter(|node| !is_there(node)).cloned().collect();
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
            let run = |at| Run { subject: key.0.clone(), package_set: stack, at };
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

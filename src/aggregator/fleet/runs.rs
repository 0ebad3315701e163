//! Runs: which subject runs which stack, and the changes that have to be stored.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outcrop_proto::Digest;

use super::Container;
use crate::cluster::Workload;
use crate::store::{Run, StackId, SubjectKey, WorkloadKey};

/// A subject and the identity of a stack that it runs.
type RunKey = (SubjectKey, Digest);

/// The state of a run.
#[derive(Clone, Copy, Debug)]
struct RunState {
    /// Number of its containers.
    containers: u32,
    /// When the run started, in seconds since 1970.
    since: i64,
    /// When its last container ended, in seconds since 1970.
    until: i64,
    /// The row id of the stack, if the run is in the store.
    recorded: Option<StackId>,
}

/// The runs of all subjects.
#[derive(Debug, Default)]
pub(super) struct Runs {
    running: HashMap<RunKey, RunState>,
    /// Runs whose start or end may have to be stored.
    changed: HashSet<RunKey>,
    /// Runs of stacks that have no row id yet, by stack.
    waiting: HashMap<Digest, HashSet<RunKey>>,
    /// Runs in the store from before the start, by node, until the node reports; runs of workloads under `None`.
    restored: HashMap<Option<Arc<str>>, Vec<RunKey>>,
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

/// Returns the part of a workload that identifies its subjects.
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
            self.running.entry(key.clone()).or_insert(RunState { containers: 0, since: at, until: at, recorded: None });
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

    /// Restores the runs in the store that have not ended.
    pub(super) fn restore(&mut self, runs: impl IntoIterator<Item = (SubjectKey, Digest, StackId)>) {
        for (subject, stack, number) in runs {
            let key = (subject, stack);
            let node = key.0.node().cloned();
            self.running.insert(key.clone(), RunState { containers: 0, since: 0, until: 0, recorded: Some(number) });
            self.restored.entry(node).or_default().push(key);
        }
    }

    /// Ends the restored runs of a node that it does not have any more, after it has reported all its containers.
    pub(super) fn report_completed(&mut self, node: &str, at: i64) {
        let node = Some(Arc::from(node));
        for key in self.restored.remove(&node).unwrap_or_default() {
            if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                state.until = at;
            }
            self.changed.insert(key);
        }
    }

    /// Ends the restored runs of workloads that no node has reported, except for subjects that are still expected.
    pub(super) fn end_workloads(&mut self, is_expected: impl Fn(&SubjectKey) -> bool, at: i64) {
        let Some(mut keys) = self.restored.remove(&None) else { return };
        for key in keys.extract_if(.., |(subject, _)| !is_expected(subject)) {
            if let Some(state) = self.running.get_mut(&key).filter(|state| state.containers == 0) {
                state.until = at;
            }
            self.changed.insert(key);
        }
        if !keys.is_empty() {
            self.restored.insert(None, keys);
        }
    }

    /// Ends the restored runs of nodes that have not attached since the start.
    pub(super) fn forget_absent(&mut self, is_present: impl Fn(&str) -> bool, at: i64) {
        let known = self.restored.keys().flatten();
        let absent: Vec<Arc<str>> = known.filter(|node| !is_present(node)).cloned().collect();
        absent.iter().for_each(|node| self.report_completed(node, at));
    }

    /// Records that a stack has a row id: its runs wait no longer.
    pub(super) fn stack_stored(&mut self, stack: &Digest) {
        self.changed.extend(self.waiting.remove(stack).into_iter().flatten());
    }

    /// Returns the runs whose start, and those whose end, has to be stored. Runs of a stack that has no row id yet wait until
    /// [`Self::stack_stored`]: they are too many to be looked at in every call.
    pub(super) fn take(&mut self, row_id: impl Fn(&Digest) -> Option<StackId>) -> (Vec<Run>, Vec<Run>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.changed) {
            let Some(state) = self.running.get_mut(&key) else { continue };
            // A stored run ends in the store, even if its stack was discarded meanwhile.
            let Some(stack) = state.recorded.or_else(|| row_id(&key.1)) else {
                let waits = state.containers > 0;
                let waiting = self.waiting.entry(key.1).or_default();
                if waits {
                    waiting.insert(key);
                } else {
                    // A run that ended before its stack was stored is not recorded.
                    waiting.remove(&key);
                    self.running.remove(&key);
                    if waiting.is_empty() {
                        self.waiting.remove(&key.1);
                    }
                }
                continue;
            };
            let run = |at| Run { subject: key.0.clone(), package_set: stack, at };
            match (state.containers > 0, state.recorded.is_some()) {
                (true, false) => {
                    state.recorded = Some(stack);
                    begun.push(run(state.since));
                }
                (false, true) => {
                    ended.push(run(state.until));
                    self.running.remove(&key);
                }
                (false, false) => {
                    // The run started and ended since the last call: both are stored.
                    begun.push(run(state.since));
                    ended.push(run(state.until));
                    self.running.remove(&key);
                }
                (true, true) => {}
            }
        }
        (begun, ended)
    }
}

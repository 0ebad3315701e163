//! Inputs and decisions of the policy.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::{Cluster, Touched, Uid};
use crate::cluster::Workload;
use crate::cluster::objects::Marks;

/// A subject of the policy: a workload, or a single pod whose owner is of a kind that is not watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Workload(Arc<Workload>),
    Pod(Uid),
}

/// The policy's decision about a subject.
#[derive(Debug)]
pub(super) struct Decision {
    /// The version of the input that was evaluated: see [`Cluster::input_version`].
    pub(super) version: u64,
    /// Whether the policy selects the subject; `None` where it could not be evaluated.
    pub(super) selected: Option<bool>,
}

/// A snapshot of the policy's input. The policy is evaluated without a lock, because that takes up to 200 ms.
#[derive(Debug)]
pub(in crate::cluster) struct PolicyInput {
    subject: Subject,
    version: u64,
    /// The workload.
    pub(in crate::cluster) workload: Arc<Workload>,
    /// Its labels and annotations.
    pub(in crate::cluster) marks: Marks,
    /// The labels and annotations of its namespace.
    pub(in crate::cluster) namespace_marks: Marks,
}

impl Cluster {
    /// Queues every subject for the policy that replaced the previous one. The previous decisions stay in effect until the new ones are made.
    pub(in crate::cluster) fn policy_replaced(&mut self) {
        self.policy_version += 1;
        self.undecided.extend(self.decisions.keys().cloned());
    }

    /// Returns a number that changes whenever the policy, or its input for a workload, does.
    pub(super) fn input_version(&self, workload: &Workload, marks: &Marks) -> u64 {
        let texts = |marks: &Marks| self.hasher.hash_one((&marks.labels, &marks.annotations));
        let namespace = self.namespaces.get(&workload.namespace).map(texts);
        self.hasher.hash_one((self.policy_version, workload, texts(marks), namespace))
    }

    /// Removes the decision about a workload that has no pods.
    pub(super) fn forget_decision(&mut self, workload: &Arc<Workload>) {
        if !self.workloads.contains_key(workload) && self.selection.policy.is_some() {
            let subject = Subject::Workload(Arc::clone(workload));
            self.decisions.remove(&subject);
            self.undecided.remove(&subject);
        }
    }

    /// Returns whether the policy has to be evaluated for something.
    pub(in crate::cluster) fn has_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Takes at most `limit` inputs from the queue of those for which the policy has to be evaluated.
    pub(in crate::cluster) fn take_undecided(&mut self, limit: usize) -> Vec<PolicyInput> {
        let subjects: Vec<Subject> = self.undecided.iter().take(limit).cloned().collect();
        for subject in &subjects {
            self.undecided.remove(subject);
        }
        subjects.into_iter().filter_map(|subject| self.policy_input(subject)).collect()
    }

    /// Returns the present input of the policy for a subject; `None` where it does not exist anymore.
    fn policy_input(&self, subject: Subject) -> Option<PolicyInput> {
        let (workload, marks) = match &subject {
            Subject::Workload(workload) => {
                let (workload, _) = self.workloads.get_key_value(workload)?;
                (workload, &self.owner(&workload.uid, Some(&workload.namespace))?.marks)
            }
            Subject::Pod(uid) => {
                let pod = self.pods.get(uid)?;
                (&pod.workload, &pod.marks)
            }
        };
        let version = self.input_version(workload, marks);
        let namespace_marks = self.namespaces.get(&workload.namespace).cloned().unwrap_or_default();
        Some(PolicyInput { workload: Arc::clone(workload), marks: marks.clone(), namespace_marks, version, subject })
    }

    /// Applies decisions of the policy. One about a subject that has changed meanwhile is dropped, and the subject is queued again.
    pub(in crate::cluster) fn decide(&mut self, decided: Vec<(PolicyInput, Option<bool>)>) -> Touched {
        let mut touched = Touched::new();
        for (PolicyInput { subject, version, .. }, selected) in decided {
            match self.policy_input(subject.clone()) {
                Some(now) if now.version == version => {}
                Some(_) => {
                    self.undecided.insert(subject);
                    continue;
                }
                None => continue,
            }
            let pods = match &subject {
                Subject::Workload(workload) => {
                    self.workloads.get(workload).map(|of| of.pods.iter().cloned().collect()).unwrap_or_default()
                }
                Subject::Pod(uid) => vec![Arc::clone(uid)],
            };
            self.decisions.insert(subject, Decision { version, selected });
            touched.extend(self.assign_all(pods));
        }
        touched
    }
}

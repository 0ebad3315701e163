//! Checks: nodes decide paths of a stack that its inventories cannot decide.
//!
//! An answer counts for the containers of all nodes. If several nodes have the stack, two of them have to agree before an answer removes
//! packages.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::merge::UNREAD_MARKS;
use outcrop_proto::{Digest, LayerId};

use super::stacks::{Progress, Stack};
use super::{Fleet, LEASE, Now};

/// Pauses until paths that a node could not decide are checked again, after the first check, the second, and each later one. A container that
/// was starting is ready after the first; meanwhile its image is `partial`.
const CHECK_PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(30)];

/// Maximum number of checks of a stack until another container with the stack starts.
const MAX_CHECKS: u32 = 5;

/// The checks of a stack.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    /// Number of checks so far.
    count: u32,
    /// When the next check starts, if the last one left paths undecided (the container that the node examined may have been starting or
    /// ending), or another node has to confirm the answer.
    pub(super) next: Option<Instant>,
    /// Digest of the answer of each node that decided all paths, about the inventories in the store.
    pub(super) claims: BTreeMap<Arc<str>, Digest>,
}

impl Checks {
    /// Returns whether the next check is due.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.next.is_some_and(|next| next <= now.instant)
    }
}

/// A node's answer to a check that was requested from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) struct Answered {
    /// The layers of the stack, newest first.
    pub(in crate::aggregator) layers: Arc<[LayerId]>,
    /// Nodes that gave this answer.
    pub(in crate::aggregator) nodes: Vec<String>,
    /// Whether the answer may take packages away: two nodes agree, or only one node has the stack.
    pub(in crate::aggregator) is_confirmed: bool,
}

impl Stack {
    /// Returns whether checks left paths undecided, and another check may decide them.
    fn is_undecided(&self) -> bool {
        let may_check = self.progress == Progress::Idle && self.checks.count < MAX_CHECKS && self.containers() > 0;
        self.summary().filter(|_| may_check).is_some_and(|summary| summary.coverage.reason.contains(UNREAD_MARKS))
    }

    /// Returns whether `node` is checking paths that the inventories cannot decide.
    pub(super) fn is_checked_by(&self, node: &str) -> bool {
        matches!(&self.progress, Progress::Checking { node: Some(checking), .. } if **checking == *node)
    }

    /// Cancels the check of a node that will not answer.
    pub(super) fn cancel_check(&mut self) {
        self.progress = Progress::Idle;
    }

    /// Records that a container with the stack has started on `node`. Returns whether the stack has to be checked again: only another node has
    /// decided its paths.
    pub(super) fn has_started_on(&mut self, node: &str, now: Now) -> bool {
        self.checks.count = 0;
        let is_alone = self.summary().is_some_and(|summary| match summary.checked_by.as_slice() {
            [other] => other != node,
            _ => false,
        });
        if is_alone && self.checks.next.is_none() {
            self.checks.next = Some(now.instant);
        }
        is_alone
    }
}

impl Fleet {
    /// Schedules another check of stacks whose check timed out or left paths undecided.
    pub(in crate::aggregator) fn retry_checks(&mut self, now: Now) {
        for (_, stack) in self.picture.stacks.select_mut(|_, stack| stack.checks.next.is_none() && stack.is_undecided())
        {
            let checked = stack.checks.count.saturating_sub(1) as usize;
            let pause = CHECK_PAUSES.get(checked).or(CHECK_PAUSES.last()).copied().unwrap_or_default();
            stack.checks.next = Some(now.instant + pause);
        }
        for (digest, stack) in self.picture.stacks.iter() {
            let is_late = matches!(&stack.progress, Progress::Checking { until, .. } if *until <= now.instant);
            if is_late || stack.checks.is_due(now) {
                self.touched.insert(*digest);
            }
        }
    }

    /// Selects an attached node that has the stack, to check paths that the inventories cannot decide. Nodes without an answer come first, and
    /// each check goes to another node, if there is one, because the last node may never answer. If no node is attached, the next check starts
    /// after [`LEASE`].
    pub(in crate::aggregator) fn start_check(&mut self, stack: Digest, now: Now) -> Option<Arc<str>> {
        let holders = self.trusted_holders(&stack);
        let entry = self.picture.stacks.get_mut(&stack)?;
        entry.checks.count = entry.checks.count.wrapping_add(1);
        let tries = entry.checks.count;
        let claims = &entry.checks.claims;
        let order = |name: &Arc<str>| (claims.contains_key(name), self.random.hash_one((name, tries)));
        let node = holders.into_iter().min_by_key(order);
        entry.progress = Progress::Checking { node: node.clone(), until: now.instant + LEASE };
        node
    }

    /// Returns the attached nodes that have the stack and are not distrusted.
    fn trusted_holders(&self, stack: &Digest) -> Vec<Arc<str>> {
        let holders = self.picture.stacks.get(stack).into_iter().flat_map(Stack::nodes);
        holders.filter(|name| self.picture.usable(name).is_some()).cloned().collect()
    }

    /// Returns whether `node` was requested to check the stack and has not answered.
    pub(in crate::aggregator) fn is_checked_by(&self, node: &str, stack: &Digest) -> bool {
        self.picture.stacks.get(stack).is_some_and(|stack| stack.is_checked_by(node))
    }

    /// Records that `node` has answered the check of a stack, which is being merged from now on. `claim` is the digest of the answer, or `None`
    /// if it leaves paths undecided. Returns `None` if the check was not requested from this node.
    pub(in crate::aggregator) fn check_answered(
        &mut self,
        node: &str,
        stack: &Digest,
        claim: Option<Digest>,
        now: Now,
    ) -> Option<Answered> {
        if !self.is_checked_by(node, stack) {
            return None;
        }
        let holders = self.trusted_holders(stack);
        let name = self.intern(node);
        let stack = self.picture.stacks.get_mut(stack)?;
        stack.progress = Progress::Merging;
        let layers = Arc::clone(&stack.layers);
        let Some(claim) = claim else {
            return Some(Answered { layers, nodes: vec![node.to_owned()], is_confirmed: holders.len() < 2 });
        };
        let claims = &mut stack.checks.claims;
        claims.insert(name, claim);
        let agreeing = claims.iter().filter(|(_, other)| **other == claim).map(|(name, _)| name.to_string());
        let nodes: Vec<String> = agreeing.collect();
        let can_ask = holders.iter().any(|holder| !claims.contains_key(holder));
        let is_confirmed = nodes.len() > 1 || claims.len() == 1 && !can_ask;
        if !is_confirmed && can_ask {
            stack.checks.next = Some(now.instant);
        }
        Some(Answered { layers, nodes, is_confirmed })
    }

    /// Discards the answers of a distrusted node, and the summaries of stacks whose paths no other node has decided. Returns these stacks.
    pub(super) fn discard_answers(&mut self, node: &str) -> Vec<Digest> {
        let mut lost = Vec::new();
        let has_answered = |stack: &Stack| {
            let summary = stack.summary().is_some_and(|summary| summary.checked_by.iter().any(|name| name == node));
            summary || stack.checks.claims.contains_key(node)
        };
        for (digest, stack) in self.picture.stacks.select_mut(|_, stack| has_answered(stack)) {
            stack.checks.claims.remove(node);
            if stack.summary().is_some_and(|summary| summary.is_decided_only_by(&self.picture.distrusted)) {
                lost.push(*digest);
            }
        }
        lost
    }
}

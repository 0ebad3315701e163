//! Implements [`Source`](crate::web::Source): builds the responses of the API from snapshots of the fleet and from the store. Every response covers
//! only what the caller may read.

mod deliveries;
mod exports;
mod findings;
mod history;
mod lists;
mod packages;
mod recent;
mod status;
mod workloads;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use outcrop_proto::wire::v1;
use outcrop_proto::{
    AssessedState, CoverageState, Digest, Distribution, LayerId, PackageType, SeverityCounts, UnknownWord, Word,
};
use tracing::{info, warn};

pub(super) use recent::Latest;
pub(super) use workloads::{newest, owner};

use super::advisories::{Current, Refusal};
use super::fleet::{Container, Key, Picture};
use super::joining::Missing;
use super::rematch::Taken;
use super::{Aggregator, discard, now};
use crate::advisory::{self, Assessed};
use crate::image;
use crate::store::{AuditOutcome, RematchRow, StackId, Summary};
use crate::web::{
    AdvisoryItem, ContainerItem, ContainerRef, DeliveryChanged, DeliveryDetail, DeliveryItem, Export, Failure,
    FindingItem, Future, HasPage, ImageItem, IssueItem, LayerItem, List, NodeItem, PackageItem, Page, Pushed, Rematch,
    Scope, Source, Status, TargetItem, TargetTest, WorkloadDetail, WorkloadItem,
};

/// The aggregator as the source of the web module.
#[derive(Debug)]
pub(super) struct Answers(pub(super) Arc<Aggregator>);

impl Source for Answers {
    fn status<'a>(&'a self, scope: &'a Scope) -> Future<'a, Status> {
        Box::pin(async { Ok(self.0.status_now(scope)) })
    }

    fn workloads<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<WorkloadItem>> {
        Box::pin(async { self.0.list_workloads(scope, list) })
    }

    fn workload<'a>(&'a self, scope: &'a Scope, named: [&'a str; 3]) -> Future<'a, WorkloadDetail> {
        Box::pin(async move { self.0.workload_now(scope, named) })
    }

    fn issues<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<IssueItem>> {
        Box::pin(async { self.0.list_issues(scope, list) })
    }

    fn nodes<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<NodeItem>> {
        Box::pin(async { self.0.list_nodes(scope, list) })
    }

    fn containers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ContainerItem>> {
        Box::pin(async { self.0.list_containers(scope, list) })
    }

    fn images<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ImageItem>> {
        Box::pin(async { self.0.list_images(scope, list) })
    }

    fn layers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<LayerItem>> {
        Box::pin(async { self.0.list_layers(scope, list) })
    }

    fn packages<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<PackageItem>> {
        Box::pin(self.0.list_packages(scope, list))
    }

    fn findings<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<FindingItem>> {
        Box::pin(self.0.list_findings(scope, list))
    }

    fn advisory<'a>(&'a self, scope: &'a Scope, id: &'a str) -> Future<'a, AdvisoryItem> {
        Box::pin(self.0.advisory_now(scope, id))
    }

    fn who_has<'a>(&'a self, scope: &'a Scope, question: &'a str, list: &'a List) -> Future<'a, HasPage> {
        Box::pin(self.0.who_has_now(scope, question, list))
    }

    fn push_database<'a>(&'a self, who: &'a str, file: PathBuf, allow_shrink: bool) -> Future<'a, Pushed> {
        Box::pin(async move {
            let taken = self.0.take_database(file, who.to_owned(), allow_shrink).await;
            let refused = |refusal: Refusal| match refusal {
                Refusal::Keep { .. } => Failure::NotStored(refusal.to_string()),
                _ => Failure::Refused(refusal.to_string()),
            };
            match taken.map_err(refused)? {
                Taken::Same(digest) => Ok(Pushed { digest: digest.to_string(), unchanged: true, rematch: None }),
                Taken::Matched(digest, rematch) => {
                    Ok(Pushed { digest: digest.to_string(), unchanged: false, rematch: rematch.map(words) })
                }
                Taken::Failed(digest, reason) => Err(Failure::Unavailable(format!(
                    "database {digest} is in use, but matching stacks against it failed: {reason}; it is retried (see outcrop status)"
                ))),
            }
        })
    }

    fn audit_refused<'a>(&'a self, who: &'a str, action: &'a str, target: &'a str, denied: bool) -> Future<'a, ()> {
        Box::pin(async move {
            let outcome = if denied { AuditOutcome::Denied } else { AuditOutcome::Failed };
            self.0.audit(who, action, target, outcome).await;
            Ok(())
        })
    }

    fn export<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Export> {
        Box::pin(async { self.begin_export(scope, list) })
    }

    fn targets<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<TargetItem>> {
        Box::pin(async { self.0.list_targets(scope, list) })
    }

    fn deliveries<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<DeliveryItem>> {
        Box::pin(self.0.list_deliveries(scope, list))
    }

    fn delivery<'a>(&'a self, scope: &'a Scope, id: i64) -> Future<'a, DeliveryDetail> {
        Box::pin(self.0.delivery_now(scope, id))
    }

    fn settle_delivery<'a>(&'a self, who: &'a str, id: i64, again: bool) -> Future<'a, DeliveryChanged> {
        Box::pin(async move {
            let changed = self.0.settle_delivery(id, again).await?;
            let action = if again { "replay-delivery" } else { "drop-delivery" };
            self.0.audit(who, action, &format!("{} {id}", changed.target), AuditOutcome::Done).await;
            Ok(changed)
        })
    }

    fn resync_target<'a>(&'a self, who: &'a str, name: &'a str) -> Future<'a, DeliveryChanged> {
        Box::pin(async move {
            let changed = self.0.resync_target(name).await?;
            self.0.audit(who, "resync-target", name, AuditOutcome::Done).await;
            Ok(changed)
        })
    }

    fn test_target<'a>(&'a self, who: &'a str, name: &'a str) -> Future<'a, TargetTest> {
        Box::pin(async move {
            let tested = self.0.try_target(name).await?;
            let outcome = if tested.accepted { AuditOutcome::Done } else { AuditOutcome::Failed };
            self.0.audit(who, "test-target", name, outcome).await;
            Ok(tested)
        })
    }

    fn distrust<'a>(&'a self, who: &'a str, node: &'a str, distrusted: bool) -> Future<'a, u64> {
        let aggregator = &self.0;
        Box::pin(async move {
            let name = node.to_owned();
            let is_known =
                aggregator.fleet.call(move |fleet| fleet.node(&name).is_some() || fleet.is_distrusted(&name));
            let is_known = is_known.await;
            if !is_known {
                return Err(Failure::Missing(format!("node {node:?} not found")));
            }
            if !distrusted {
                aggregator.store.distrust(node, false, who, now().unix).await?;
                let name = node.to_owned();
                aggregator.fleet.publish(move |fleet| fleet.trust(&name)).await;
                info!(node, "node trusted");
                aggregator.changed.notify_one();
                return Ok(0);
            }
            // The store records the distrust first: after a crash in between, the node is still distrusted.
            aggregator.store.distrust(node, true, who, now().unix).await?;
            let name = node.to_owned();
            let outcome = aggregator.fleet.publish(move |fleet| fleet.distrust(&name)).await;
            warn!(node, forgotten = outcome.forgotten.len(), "node distrusted");
            discard(&*aggregator.store, node, &outcome).await?;
            for node in &outcome.resync {
                aggregator.send(node, v1::order::Order::Resync(v1::Resync {})).await;
            }
            aggregator.changed.notify_one();
            Ok(outcome.forgotten.len() as u64)
        })
    }
}

/// Formats a time as RFC 3339.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn words(row: RematchRow) -> Rematch {
    let RematchRow { at, seconds, stacks, appeared, went } = row;
    Rematch { at: time(at), seconds, stacks, appeared, went, nodes_rescanned: 0 }
}

/// Returns the identification of a container.
fn container_ref(node: &str, key: &Key, container: &Container) -> ContainerRef {
    let pod = container.pod.as_ref();
    ContainerRef {
        node: node.to_owned(),
        runtime: key.runtime.into(),
        runtime_namespace: key.namespace.to_string(),
        id: key.id.to_string(),
        name: container.name.to_string(),
        namespace: pod.map(|pod| pod.namespace.clone()),
        pod: pod.map(|pod| pod.name.clone()),
        workload: container.workload.as_deref().map(workloads::named),
        image: container.image.to_string(),
        image_id: container.image_id.as_deref().map(ToOwned::to_owned),
        stack: container.stack.map(|stack| stack.to_string()),
    }
}

/// The advisory database in use, and the day on which its age is judged.
struct Judge {
    current: Option<Arc<Current>>,
    today: jiff::civil::Date,
}

impl Aggregator {
    fn judge(&self) -> Judge {
        Judge { current: self.advisories.current(), today: self.config.judged_on() }
    }
}

impl Judge {
    /// Returns against what the packages of a stack are matched; nothing without a database.
    fn assess(&self, distribution: Option<&Distribution>, types: &[PackageType]) -> Vec<Assessed> {
        let sources = self.current.as_ref().map(|current| &current.sources);
        let assess = |sources| advisory::assess(sources, distribution, types.iter().copied(), self.today);
        sources.map(|sources| assess(sources)).unwrap_or_default()
    }

    /// Returns the findings of a stack by severity; `None` if it is not known whether there are any: it has not been matched, or nothing was
    /// found where not everything was read and matched.
    fn findings(&self, summary: Option<&Arc<Summary>>) -> Option<SeverityCounts> {
        let summary = summary.filter(|summary| summary.matched.is_some())?;
        let counts = summary.counts.severities;
        let is_unmatched = |of: &Assessed| of.state == AssessedState::Unmatched;
        let is_complete = || {
            summary.coverage.state == CoverageState::Scanned
                && !self.assess(summary.distribution.as_ref(), &summary.types).iter().any(is_unmatched)
        };
        (counts.total() > 0 || is_complete()).then_some(counts)
    }
}

/// Parses the identity of a stack or a layer in a filter.
fn identity<T: FromStr<Err: Display>>(list: &List, name: &str) -> Result<Option<T>, Failure> {
    let Some(text) = list.filter(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| Failure::Invalid(format!("{name}={text}: {error}")))
}

/// Identities of layers that a filter selects: one, or those that begin as it does, which is how tables show them.
struct LayerPattern(String);

impl LayerPattern {
    /// Minimum number of hexadecimal digits.
    const DIGITS: usize = 12;

    /// Parses the filter `name`: an identity, with or without its kind and algorithm, or its first digits.
    fn parse(list: &List, name: &str) -> Result<Option<Self>, Failure> {
        let Some(text) = list.filter(name) else { return Ok(None) };
        let bare = ["diff:", "chain:"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
        let digits = bare.strip_prefix("sha256:").unwrap_or(bare);
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if (Self::DIGITS..=64).contains(&digits.len()) && digits.bytes().all(is_digit) {
            Ok(Some(Self(text.to_owned())))
        } else {
            Err(Failure::Invalid(format!(
                "{name}={text}: invalid layer identity: expected diff:sha256:… or chain:sha256:…, with at least the first {} digits",
                Self::DIGITS
            )))
        }
    }

    fn matches(&self, id: &LayerId) -> bool {
        let id = id.to_string();
        let mut tails = id.match_indices(':').map(|(at, _)| &id[at + 1..]);
        id.starts_with(&self.0) || tails.any(|tail| tail.starts_with(&self.0))
    }
}

/// Returns the word that the filter `name` selects, in upper or lower case.
fn word<W: Word>(list: &List, name: &str) -> Result<Option<W>, Failure> {
    let parse = |text: &str| {
        let UnknownWord { text, expected } = UnknownWord::new::<W>(text);
        let wrong = || Failure::Invalid(format!("invalid value {text:?} for {name}: expected one of {expected}"));
        W::from_word(&text.to_ascii_lowercase()).ok_or_else(wrong)
    };
    list.filter(name).map(parse).transpose()
}

/// Returns whether a filter is missing or has this value.
fn is(list: &List, name: &str, value: &str) -> bool {
    list.filter(name).is_none_or(|wanted| wanted == value)
}

/// Returns whether the filter `name` is missing or selects this image.
fn is_image(list: &List, name: &str, image: &str, id: Option<&str>) -> bool {
    list.filter(name).is_none_or(|wanted| image::selects(wanted, image, id))
}

/// Returns the identities of the stacks that a node has, by row id.
fn chains(fleet: &Picture) -> HashMap<StackId, Digest> {
    fleet.present().filter_map(|(digest, stack)| Some((stack.summary()?.id, *digest))).collect()
}

/// Filters by container that lists of other objects have.
const OF_CONTAINERS: [&str; 5] = ["node", "namespace", "container", "image", "stack"];

/// The containers of a request: those in `scope` that the filters of `list` select.
struct Chosen<'a> {
    scope: &'a Scope,
    list: &'a List,
    stack: Option<Digest>,
    workloads: Option<HashSet<String>>,
    some: bool,
}

impl<'a> Chosen<'a> {
    fn new(aggregator: &Aggregator, scope: &'a Scope, list: &'a List) -> Result<Self, Failure> {
        let workloads = aggregator.chosen_workloads(list)?;
        let some = list.filters.iter().any(|(name, _)| OF_CONTAINERS.contains(&name.as_str())) || workloads.is_some();
        Ok(Self { scope, list, stack: identity(list, "stack")?, workloads, some })
    }

    fn is(&self, node: &str, container: &Container) -> bool {
        let namespace = container.namespace();
        self.scope.sees(namespace)
            && (!self.some
                || self.stack.is_none_or(|stack| container.stack == Some(stack))
                    && is(self.list, "node", node)
                    && is(self.list, "namespace", namespace.unwrap_or_default())
                    && is(self.list, "container", &container.name)
                    && is_image(self.list, "image", &container.image, container.image_id.as_deref())
                    && self.workloads.as_ref().is_none_or(|wanted| {
                        container.workload.as_ref().is_some_and(|workload| wanted.contains(&workload.uid))
                    }))
    }

    /// Returns whether it selects a container that no node has reported.
    fn is_missing(&self, missing: &Missing<'_>) -> bool {
        let Missing { node, pod, container, .. } = missing;
        self.scope.sees(Some(&pod.name.namespace))
            && self.stack.is_none()
            && is(self.list, "node", node)
            && is(self.list, "namespace", &pod.name.namespace)
            && is(self.list, "container", &container.name)
            && is_image(self.list, "image", &container.image, container.image_id.as_deref())
            && self.workloads.as_ref().is_none_or(|wanted| wanted.contains(&pod.workload.uid))
    }

    /// Returns the containers, sorted by node and key.
    fn containers<'f>(&'f self, fleet: &'f Picture) -> impl Iterator<Item = (&'f str, &'f Key, &'f Container)> {
        let nodes = fleet.nodes().filter(|(name, _)| is(self.list, "node", name));
        let all =
            nodes.flat_map(|(name, node)| node.containers.iter().map(move |(key, container)| (name, key, container)));
        all.filter(|(name, _, container)| self.is(name, container))
    }

    /// Returns the stored stacks of the containers, each with the number of containers.
    fn stacks(&self, fleet: &Picture) -> BTreeMap<StackId, u64> {
        let number = |digest: &Digest| Some(fleet.stack(digest)?.summary()?.id);
        let mut stacks = BTreeMap::new();
        if self.some {
            for (_, _, container) in self.containers(fleet) {
                if let Some(id) = container.stack.as_ref().and_then(number) {
                    *stacks.entry(id).or_default() += 1;
                }
            }
        } else {
            // Without a filter, the counts of the whole scope are used.
            for visible in fleet.visible(self.scope) {
                if let Some(id) = number(visible.digest) {
                    stacks.insert(id, u64::from(visible.containers));
                }
            }
        }
        stacks
    }
}

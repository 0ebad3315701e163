//! Lists of nodes, containers, images and layers, from the fleet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use outcrop_proto::wire::v1;
use outcrop_proto::{
    Coverage, CoverageState, Digest, ImageDetails, LayerId, LayerState, NodeState, SeverityCounts, Step,
};

use super::status::sees_node;
use super::workloads::named;
use super::{Chosen, LayerPattern, container_ref, identity, is, is_image, time, word};
use crate::aggregator::fleet::{Container, Key, Node, Picture, Visible};
use crate::aggregator::joining::{Missing, missing};
use crate::aggregator::{Aggregator, now};
use crate::store::Summary;
use crate::web::list::{CONTAINERS, IMAGES, LAYERS, NODES, page};
use crate::web::{
    AgentItem, AgentProblem, ContainerItem, ContainerRef, Failure, ImageItem, KubernetesNode, LayerItem, List,
    NodeItem, Page, RoleItem, Scope,
};

impl Aggregator {
    pub(super) fn list_nodes(&self, scope: &Scope, list: &List) -> Result<Page<NodeItem>, Failure> {
        let (attached, distrusted) = (list.flag("attached")?, list.flag("distrusted")?);
        let wanted = word::<NodeState>(list, "state")?;
        let state = |node: Option<&Node>| node.map_or(NodeState::WithoutAgent, Node::state);
        let fleet = self.picture();
        let mut read: HashMap<&str, u64> = HashMap::new();
        let layers: HashSet<&LayerId> = fleet.visible(scope).flat_map(|Visible { stack, .. }| stack.layers()).collect();
        for known in layers.into_iter().filter_map(|id| fleet.layer(id)?.read()) {
            *read.entry(&known.node).or_default() += 1;
        }
        let cluster = self.watch.as_ref().map(|watch| watch.cluster());
        let mut untold: BTreeMap<&str, u64> = BTreeMap::new();
        for missing in cluster.iter().flat_map(|cluster| missing(cluster, &fleet, scope)) {
            *untold.entry(missing.node).or_default() += 1;
        }
        let told: BTreeMap<&str, &Node> = fleet.nodes().filter(|(_, node)| sees_node(scope, node)).collect();
        let registered = cluster.iter().flat_map(|cluster| cluster.nodes()).map(|(name, _)| name);
        let registered = registered.filter(|name| *scope == Scope::All || untold.contains_key(name));
        let names: BTreeSet<&str> = told.keys().copied().chain(registered).chain(untold.keys().copied()).collect();
        let nodes = names.into_iter().map(|name| (name, told.get(name).copied())).filter(|(name, node)| {
            is(list, "name", name)
                && wanted.is_none_or(|wanted| wanted == state(*node))
                && attached.is_none_or(|attached| attached == node.is_some_and(|node| node.attached))
                && distrusted.is_none_or(|distrusted| distrusted == fleet.is_distrusted(name))
        });
        let page = page(&NODES, list, nodes.map(|(name, node)| (name.to_owned(), (name, node))))?;
        let at = now().instant;
        Ok(page.map(|(name, node)| {
            let seen = node.map_or(0, |node| {
                node.containers.values().filter(|container| scope.sees(container.namespace())).count() as u64
            });
            let registered = cluster.as_ref().and_then(|cluster| cluster.node(name));
            NodeItem {
                distrusted: fleet.is_distrusted(name),
                layers_read: read.get(name).copied().unwrap_or(0),
                name: name.to_owned(),
                state: state(node).into(),
                problems: node.map(|node| node.problems().iter().map(problem).collect()).unwrap_or_default(),
                agent_version: node.map(|node| node.agent_version.clone()).unwrap_or_default(),
                catalogers: node.map_or(0, |node| node.catalogers),
                cage: node.map(|node| node.cage.clone()).unwrap_or_default(),
                marks: node.is_some_and(|node| node.marks),
                attached: node.is_some_and(|node| node.attached),
                silent_seconds: node.map_or(0, |node| at.saturating_duration_since(node.last_message).as_secs()),
                containers: seen + untold.get(name).copied().unwrap_or(0),
                agent: node.and_then(agent).filter(|_| *scope == Scope::All),
                kubernetes: registered.map(|node| KubernetesNode {
                    kubelet: node.kubelet.clone(),
                    runtime: node.runtime.clone(),
                    system: node.system.clone(),
                    architecture: node.architecture.clone(),
                    image: node.image.clone(),
                    kernel: node.kernel.clone(),
                }),
                blind: registered.and_then(|node| node.blind).map(ToOwned::to_owned),
            }
        }))
    }

    pub(super) fn list_containers(&self, scope: &Scope, list: &List) -> Result<Page<ContainerItem>, Failure> {
        // The filter by container name is `name` for containers, and `container` in other lists.
        let chosen = Chosen::new(self, scope, list)?;
        let fleet = self.picture();
        let cluster = self.watch.as_ref().map(|watch| watch.cluster());
        let wanted = word::<CoverageState>(list, "coverage")?;
        let is_covered = |coverage: &Coverage| wanted.is_none_or(|wanted| wanted == coverage.state);
        let told = chosen.containers(&fleet).filter(|(_, _, container)| {
            is(list, "name", &container.name)
                && is(list, "pod", container.pod.as_ref().map_or("", |pod| &pod.name))
                && (wanted.is_none() || is_covered(&fleet.coverage_of(container)))
        });
        let judge = self.judge();
        let by_findings = list.sort.as_deref() == Some("findings");
        let summary = |container: &Container| container.stack.and_then(|digest| fleet.stack(&digest)?.summary());
        let told = told.map(|(name, key, container)| {
            let rank = by_findings.then(|| severities(summary(container)).worst_first());
            ((rank, name.to_owned(), key.qualified_namespace(), key.id.to_string()), Row::Told(name, key, container))
        });
        let untold = cluster.iter().flat_map(|cluster| missing(cluster, &fleet, scope)).filter(|missing| {
            chosen.is_missing(missing)
                && is(list, "name", &missing.container.name)
                && is(list, "pod", &missing.pod.name.name)
                && is_covered(&missing.coverage)
        });
        let untold = untold.map(|missing| {
            let key = missing_key(&missing);
            let rank = by_findings.then(|| SeverityCounts::default().worst_first());
            ((rank, missing.node.to_owned(), key.qualified_namespace(), key.id.to_string()), Row::Untold(missing))
        });
        Ok(page(&CONTAINERS, list, told.chain(untold))?.map(|row| match row {
            Row::Untold(missing) => self::untold(&missing),
            Row::Told(name, key, container) => {
                let summary = summary(container);
                ContainerItem {
                    storage: container.storage.map(Into::into),
                    unconfirmed: fleet.node(name).is_some_and(|node| node.is_unconfirmed(key)),
                    distribution: summary.and_then(|summary| distribution(summary)),
                    packages: summary.map(|summary| summary.packages),
                    findings: judge.findings(summary),
                    since: time(container.since),
                    ..ContainerItem::new(container_ref(name, key, container), fleet.coverage_of(container))
                }
            }
        }))
    }

    pub(super) fn list_images(&self, scope: &Scope, list: &List) -> Result<Page<ImageItem>, Failure> {
        let stack: Option<Digest> = identity(list, "stack")?;
        let layer = LayerPattern::parse(list, "layer")?;
        let fleet = self.picture();
        let chosen = chosen_stacks(&fleet, scope, list);
        let coverage = word::<CoverageState>(list, "coverage")?;
        let wanted = fleet.visible(scope).filter(|visible| {
            stack.is_none_or(|stack| stack == *visible.digest)
                && layer.as_ref().is_none_or(|layer| visible.stack.layers().iter().any(|id| layer.matches(id)))
                && chosen.as_ref().is_none_or(|chosen| chosen.contains(visible.digest))
                && list.filter("namespace").is_none_or(|wanted| {
                    scope.sees(Some(wanted))
                        && visible.stack.by_namespace().any(|(namespace, _)| namespace == Some(wanted))
                })
                && coverage.is_none_or(|coverage| fleet.coverage(visible.digest).state == coverage)
        });
        let keyed = wanted.map(|visible| {
            let rank = match list.sort.as_deref() {
                Some("findings") => severities(visible.stack.summary()).worst_first().to_vec(),
                Some("containers") => vec![u64::from(visible.containers)],
                _ => Vec::new(),
            };
            ((rank, visible.digest.to_string()), visible)
        });
        let page = page(&IMAGES, list, keyed)?;
        let judge = self.judge();
        // Names and nodes cover only containers in the scope.
        let mut seen: HashMap<Digest, SeenAs<'_>> =
            page.items.iter().map(|visible| (*visible.digest, SeenAs::default())).collect();
        for (name, node) in fleet.nodes() {
            for container in node.containers.values().filter(|container| scope.sees(container.namespace())) {
                if let Some(seen) = container.stack.and_then(|stack| seen.get_mut(&stack)) {
                    seen.names.insert(&container.image);
                    seen.ids.extend(container.image_id.as_deref());
                    seen.nodes.insert(name);
                    if !fleet.is_distrusted(name) {
                        seen.count(container.details());
                    }
                }
            }
        }
        Ok(page.map(|Visible { digest, stack, containers }| {
            let SeenAs { names, ids, nodes, details } = seen.remove(digest).unwrap_or_default();
            let summary = stack.summary();
            let count = |of: fn(&Summary) -> u64| summary.map_or(0, |summary| of(summary));
            let details = details.into_iter().max_by_key(|(_, containers)| *containers).map(|(details, _)| details);
            let user =
                |details: &ImageDetails| if details.user.is_empty() { "root".to_owned() } else { details.user.clone() };
            ImageItem {
                created: details.and_then(|details| (details.created > 0).then(|| time(details.created))),
                platform: details.map(|details| details.platform.clone()).filter(|platform| !platform.is_empty()),
                user: details.map(user),
                size: details.map(|details| details.size).filter(|&size| size > 0),
                labels: details.map(|details| details.labels.clone()).unwrap_or_default(),
                stack: digest.to_string(),
                names: names.into_iter().map(ToOwned::to_owned).collect(),
                ids: ids.into_iter().map(ToOwned::to_owned).collect(),
                coverage: fleet.coverage(digest).into(),
                distribution: summary.and_then(|summary| distribution(summary)),
                layers: stack.layers().len() as u64,
                packages: summary.map(|summary| summary.packages),
                unidentified: count(|summary| summary.unidentified),
                findings: judge.findings(summary),
                withheld: count(|summary| u64::from(summary.counts.withheld)),
                containers: u64::from(containers),
                nodes: nodes.len() as u64,
            }
        }))
    }

    pub(super) fn list_layers(&self, scope: &Scope, list: &List) -> Result<Page<LayerItem>, Failure> {
        let pattern = LayerPattern::parse(list, "id")?;
        let stack: Option<Digest> = identity(list, "stack")?;
        let disputed = list.flag("disputed")?;
        let wanted_state = word::<LayerState>(list, "state")?;
        let fleet = self.picture();
        let chosen = chosen_stacks(&fleet, scope, list);
        let wanted = fleet.visible(scope).filter(|visible| {
            stack.is_none_or(|stack| stack == *visible.digest)
                && chosen.as_ref().is_none_or(|chosen| chosen.contains(visible.digest))
        });
        let mut impacts: HashMap<LayerId, Impact> = HashMap::new();
        for visible in wanted {
            Impact::add(&mut impacts, &visible);
        }
        let items = impacts.into_iter().filter_map(|(id, impact)| {
            let layer = fleet.layer(&id)?;
            let state = layer.state();
            let wanted = pattern.as_ref().is_none_or(|pattern| pattern.matches(&id))
                && wanted_state.is_none_or(|wanted| wanted == state)
                && disputed.is_none_or(|disputed| disputed == layer.is_disputed());
            wanted.then_some((id, impact))
        });
        let by = list.sort.as_deref();
        let keyed = items.map(|(id, impact)| {
            let rank = match by {
                Some("findings") => impact.findings,
                Some("containers") => impact.containers,
                _ => 0,
            };
            ((rank, id.to_string()), (id, impact))
        });
        Ok(page(&LAYERS, list, keyed)?.map(|(id, impact)| item(&fleet, scope, id, impact)))
    }
}

/// A container of a list.
enum Row<'a> {
    /// Reported by a node.
    Told(&'a str, &'a Key, &'a Container),
    /// Known to the API server only.
    Untold(Missing<'a>),
}

/// Converts the metrics of an agent.
fn problem(problem: &v1::Problem) -> AgentProblem {
    AgentProblem { message: problem.message.clone(), began_at: time(problem.since) }
}

fn agent(node: &Node) -> Option<AgentItem> {
    let metrics = node.metrics.as_ref()?;
    let roles = metrics.roles.iter().map(|role| RoleItem {
        name: role.name.clone(),
        resident_bytes: role.resident_bytes,
        cpu_milliseconds: role.cpu_milliseconds,
        starts: role.starts,
    });
    Some(AgentItem {
        roles: roles.collect(),
        layers_read: metrics.layers_read,
        layers_verified: metrics.layers_verified,
        layers_failed: metrics.layers_failed,
        worker_deaths: metrics.worker_deaths,
        gone_before_reading: metrics.gone_before_reading,
        queue: metrics.queue,
    })
}

/// Returns the key that an agent would report for a container that only the API server knows.
fn missing_key(missing: &Missing<'_>) -> Key {
    let runtime = missing.container.runtime;
    let namespace = runtime.kubernetes_namespace().unwrap_or_default().into();
    Key { runtime, namespace, id: missing.container.id.clone().unwrap_or_default() }
}

/// Returns the item of a container that no node has reported.
fn untold(missing: &Missing<'_>) -> ContainerItem {
    let Missing { node, pod, container, coverage } = missing;
    let key = missing_key(missing);
    let of = ContainerRef {
        node: (*node).to_owned(),
        runtime: key.runtime.into(),
        runtime_namespace: key.namespace.to_string(),
        id: key.id.to_string(),
        name: container.name.as_ref().to_owned(),
        namespace: Some(pod.name.namespace.clone()),
        pod: Some(pod.name.name.clone()),
        workload: Some(named(&pod.workload)),
        image: container.image.to_string(),
        image_id: container.image_id.as_deref().map(ToOwned::to_owned),
        stack: None,
    };
    ContainerItem::new(of, coverage.clone())
}

/// Returns the name of a stack's distribution.
fn distribution(summary: &Summary) -> Option<String> {
    summary.distribution.as_ref().map(|distribution| distribution.name.clone())
}

/// Returns the findings of a stack that are known, by severity.
fn severities(summary: Option<&Arc<Summary>>) -> SeverityCounts {
    summary.map(|summary| summary.counts.severities).unwrap_or_default()
}

/// The names and nodes of an image, from the containers in the scope.
#[derive(Debug, Default)]
struct SeenAs<'a> {
    names: BTreeSet<&'a str>,
    ids: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
    /// Properties of the image, with the number of containers for which nodes report them: images with other properties may have the same layers.
    details: Vec<(&'a ImageDetails, u32)>,
}

impl<'a> SeenAs<'a> {
    /// Counts the properties of a container's image.
    fn count(&mut self, details: Option<&'a ImageDetails>) {
        let Some(details) = details else { return };
        let is_full = self.details.len() >= MAX_VARIANTS;
        match self.details.iter_mut().find(|(known, _)| std::ptr::eq(*known, details)) {
            Some((_, containers)) => *containers += 1,
            None if is_full => {}
            None => self.details.push((details, 1)),
        }
    }
}

/// Maximum number of different properties of one image that are counted.
const MAX_VARIANTS: usize = 16;

/// Stacks of containers that `scope` sees, on the node and with the image's name that the filters ask for; `None` where they ask for
/// neither. By what others call an image, and where they run it, nothing is found.
fn chosen_stacks(fleet: &Picture, scope: &Scope, list: &List) -> Option<HashSet<Digest>> {
    if list.filter("node").is_none() && list.filter("name").is_none() {
        return None;
    }
    let nodes = fleet.nodes().filter(|(name, _)| is(list, "node", name));
    let seen = nodes.flat_map(|(_, node)| node.containers.values());
    let is_wanted = |of: &&Container| is_image(list, "name", &of.image, of.image_id.as_deref());
    let seen = seen.filter(|container| scope.sees(container.namespace())).filter(is_wanted);
    Some(seen.filter_map(|container| container.stack).collect())
}

/// Counts of the images and containers with a layer.
#[derive(Clone, Debug, Default)]
struct Impact {
    images: u64,
    containers: u64,
    findings: u64,
    affected: u64,
    /// Name of one of the images.
    stack: Option<Digest>,
    step: Option<Step>,
}

impl Impact {
    /// Adds a stack to the counts of its layers. A finding belongs to the layer that introduced the package.
    fn add(impacts: &mut HashMap<LayerId, Self>, visible: &Visible<'_>) {
        let containers = u64::from(visible.containers);
        let counts = visible.stack.summary().map(|summary| summary.counts.by_layer.as_slice()).unwrap_or_default();
        for (number, id) in visible.stack.layers().iter().enumerate() {
            let findings = u64::from(counts.get(number).copied().unwrap_or(0));
            let impact = impacts.entry(*id).or_default();
            impact.images += 1;
            impact.containers += containers;
            impact.findings += findings * containers;
            impact.affected += if findings > 0 { containers } else { 0 };
            impact.stack.get_or_insert(*visible.digest);
            if impact.step.is_none() {
                impact.step = visible.stack.steps().get(number).cloned();
            }
        }
    }
}

fn item(fleet: &Picture, scope: &Scope, id: LayerId, impact: Impact) -> LayerItem {
    let layer = fleet.layer(&id);
    let read = layer.and_then(|layer| layer.read());
    let disputed = layer.is_some_and(|layer| layer.is_disputed());
    let sees_all = *scope == Scope::All;
    let reason = match layer.and_then(|layer| layer.failed()) {
        Some(_) if sees_all => {
            let failures = layer.into_iter().flat_map(|layer| layer.failures());
            failures.map(|(node, failed)| format!("{node}: {}", failed.reason)).collect::<Vec<_>>().join("; ")
        }
        Some(failed) => failed.reason.clone(),
        None if disputed => "nodes report different contents".to_owned(),
        None => String::new(),
    };
    LayerItem {
        id: id.to_string(),
        state: layer.map_or(LayerState::Waiting, |layer| layer.state()).into(),
        reason,
        disputed,
        read_by: read.map(|read| &read.node).filter(|name| sees_all || sees(fleet, scope, name)).cloned(),
        // These fields would reveal that pods outside of the scope have the layer.
        read_at: read.filter(|_| sees_all).map(|read| time(read.read_at)),
        cage: read.filter(|_| sees_all).map(|read| read.cage.clone()),
        catalogers: read.map(|read| read.catalogers),
        verified_by: read.filter(|_| sees_all).map_or(0, |read| read.verified_by.len() as u64),
        image: impact.stack.and_then(|stack| name_of(fleet, scope, &stack)),
        step: impact.step.map(Into::into),
        images: impact.images,
        containers: impact.containers,
        findings: impact.findings,
        affected_containers: impact.affected,
    }
}

/// Returns whether the caller may read the node of this name.
fn sees(fleet: &Picture, scope: &Scope, name: &str) -> bool {
    fleet.node(name).is_some_and(|node| sees_node(scope, node))
}

/// Returns the name of the stack's image that a container in the scope has.
fn name_of(fleet: &Picture, scope: &Scope, stack: &Digest) -> Option<String> {
    let nodes = fleet.stack(stack)?.nodes().filter_map(|name| fleet.node(name));
    let mut containers = nodes.flat_map(|node| node.containers.values());
    let seen = |of: &&Container| of.stack.as_ref() == Some(stack) && scope.sees(of.namespace());
    containers.find(seen).map(|container| container.image.to_string())
}

//! Workloads, and how they are configured.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, RwLockReadGuard};

use outcrop_proto::{Coverage, CoverageState, Digest, ImageDetails, SeverityCounts};

use super::{is, time, word};
use crate::aggregator::fleet::Picture;
use crate::aggregator::joining::missing_of;
use crate::aggregator::{Aggregator, now};
use crate::cluster::checks::{Issue, Level, NON_ROOT, PodSecurity, level};
use crate::cluster::{Cluster, Labels, Pod, PodContainer, Pods, Workload, is_kind, is_named};
use crate::duration::parse_duration;
use crate::store::Summary;
use crate::web::list::{ISSUES, WORKLOADS, page};
use crate::web::{Failure, IssueItem, List, Page, Scope, WorkloadContainer, WorkloadDetail, WorkloadItem};

/// Filters that choose workloads, wherever they stand.
pub(super) const OF_WORKLOADS: [&str; 5] = ["workload", "kind", "labels", "owner", "older-than"];

/// Workload, as people name it.
pub(super) fn named(workload: &Workload) -> String {
    format!("{}/{}", workload.kind, workload.name)
}

/// The workloads of a request.
struct Wanted<'a> {
    workload: Option<&'a str>,
    kind: Option<&'a str>,
    labels: Option<Labels>,
    owner: Option<&'a str>,
    /// Made before then, in seconds since 1970.
    before: Option<i64>,
    owner_keys: &'a [String],
}

impl<'a> Wanted<'a> {
    fn new(list: &'a List, owner_keys: &'a [String]) -> Result<Self, Failure> {
        let labels = list.filter("labels").map(Labels::parse).transpose();
        let older = list.filter("older-than").map(parse_duration).transpose();
        let older = older.map_err(|error| Failure::Invalid(format!("older-than: {error}")))?;
        let before = older.map(|older| now().unix.saturating_sub_unsigned(older.as_secs()));
        Ok(Self {
            workload: list.filter("workload"),
            kind: list.filter("kind"),
            labels: labels.map_err(|error| Failure::Invalid(format!("labels: {error}")))?,
            owner: list.filter("owner"),
            before,
            owner_keys,
        })
    }

    fn is(&self, cluster: &Cluster, of: &Pods) -> bool {
        let workload = &of.workload;
        let marks = cluster.marks(of);
        self.workload.is_none_or(|name| is_named(name, workload))
            && self.kind.is_none_or(|kind| is_kind(kind, workload))
            && self.labels.as_ref().is_none_or(|labels| marks.is_some_and(|marks| labels.select(&marks.labels)))
            && self.owner.is_none_or(|wanted| owner(cluster, of, self.owner_keys) == Some(wanted))
            && self.before.is_none_or(|before| marks.is_some_and(|marks| marks.created <= before))
    }
}

/// Whose a workload is, by the first of the keys that it has, else that its namespace has.
pub(in crate::aggregator) fn owner<'c>(cluster: &'c Cluster, of: &Pods, keys: &[String]) -> Option<&'c str> {
    let marks = [cluster.marks(of), cluster.namespace_marks(&of.workload.namespace)];
    let values = marks
        .into_iter()
        .flatten()
        .flat_map(|marks| keys.iter().filter_map(|key| marks.labels.get(key).or_else(|| marks.annotations.get(key))));
    values.map(String::as_str).next()
}

/// An image's name, and what the kubelet resolved it to.
type Image<'a> = (&'a str, Option<&'a str>);

/// A container of a workload.
struct Member<'a> {
    node: &'a str,
    container: &'a PodContainer,
    image: &'a str,
    image_id: Option<&'a str>,
    stack: Option<Digest>,
    coverage: Coverage,
    summary: Option<&'a Arc<Summary>>,
}

/// Returns the containers of a pod that are running or that a node has reported.
fn members<'a>(cluster: &'a Cluster, fleet: &'a Picture, pod: &'a Pod) -> impl Iterator<Item = Member<'a>> {
    pod.containers.iter().filter_map(move |container| {
        let node = pod.node.as_deref()?;
        let told = container.id.as_ref().and_then(|id| fleet.container(node, id));
        if let Some(told) = told {
            let stack = told.stack.as_ref().and_then(|digest| fleet.stack(digest));
            return Some(Member {
                node,
                container,
                image: &told.image,
                image_id: told.image_id.as_deref(),
                stack: told.stack,
                coverage: fleet.coverage_of(told),
                summary: stack.and_then(|stack| stack.summary()),
            });
        }
        let coverage = missing_of(cluster, fleet, pod, container)?.coverage;
        let (image, image_id) = (&container.image, container.image_id.as_deref());
        Some(Member { node, container, image, image_id, stack: None, coverage, summary: None })
    })
}

/// The pods of a workload that are not over.
fn living<'a>(cluster: &'a Cluster, of: &'a Pods) -> impl Iterator<Item = &'a Pod> {
    of.pods.iter().filter_map(|uid| cluster.pod(uid)).filter(|pod| !pod.over)
}

/// The pod that shows how a workload is configured now: the newest.
pub(in crate::aggregator) fn newest<'a>(cluster: &'a Cluster, of: &'a Pods) -> Option<&'a Pod> {
    let all = of.pods.iter().filter_map(|uid| cluster.pod(uid));
    all.max_by_key(|pod| (!pod.over, pod.marks.created, &pod.name.name))
}

impl Aggregator {
    /// The state of the API server.
    fn cluster_now(&self) -> Result<RwLockReadGuard<'_, Cluster>, Failure> {
        let none = "this aggregator has no workloads because it is not connected to a Kubernetes API server; start it with --kubernetes";
        Ok(self.watch.as_ref().ok_or_else(|| Failure::Invalid(none.to_owned()))?.cluster())
    }

    pub(in crate::aggregator) fn owner_keys(&self) -> &[String] {
        self.config.kubernetes.as_ref().map_or(&[], |kubernetes| &kubernetes.owner_keys)
    }

    /// Identities of the workloads that a question about something else chooses; `None` where it chooses none.
    pub(super) fn chosen_workloads(&self, list: &List) -> Result<Option<HashSet<String>>, Failure> {
        if !list.filters.iter().any(|(name, _)| OF_WORKLOADS.contains(&name.as_str())) {
            return Ok(None);
        }
        let wanted = Wanted::new(list, self.owner_keys())?;
        let cluster = self.cluster_now()?;
        let chosen = cluster.workloads().filter(|of| wanted.is(&cluster, of));
        Ok(Some(chosen.map(|of| of.workload.uid.clone()).collect()))
    }

    pub(super) fn list_workloads(&self, scope: &Scope, list: &List) -> Result<Page<WorkloadItem>, Failure> {
        let wanted = Wanted::new(list, self.owner_keys())?;
        let coverage = word::<CoverageState>(list, "coverage")?;
        let fleet = self.picture();
        let cluster = self.cluster_now()?;
        let seen = cluster.workloads().filter(|of| {
            let workload = &of.workload;
            scope.sees(Some(&workload.namespace))
                && is(list, "namespace", &workload.namespace)
                && is(list, "name", &workload.name)
                && wanted.is(&cluster, of)
        });
        let by_findings = list.sort.as_deref() == Some("findings");
        let items = seen.map(|of| item(&cluster, &fleet, of, self.owner_keys())).filter(|(item, nodes, images)| {
            list.filter("image")
                .is_none_or(|wanted| images.iter().any(|(image, id)| crate::image::selects(wanted, image, *id)))
                && coverage.is_none_or(|wanted| item.coverage.keys().any(|state| state.known() == Some(wanted)))
                && list.filter("node").is_none_or(|node| nodes.contains(node))
        });
        let keyed = items.map(|(item, ..)| {
            let rank = by_findings.then(|| item.findings.worst_first());
            let WorkloadItem { namespace, kind, group, name, uid, .. } = &item;
            ((rank, [namespace, kind, group, name, uid].map(Clone::clone)), item)
        });
        page(&WORKLOADS, list, keyed)
    }

    pub(super) fn workload_now(
        &self,
        scope: &Scope,
        [namespace, kind, name]: [&str; 3],
    ) -> Result<WorkloadDetail, Failure> {
        let fleet = self.picture();
        let cluster = self.cluster_now()?;
        let found = cluster.workloads().find(|of| {
            let workload = &of.workload;
            workload.namespace == namespace
                && workload.name == name
                && is_kind(kind, workload)
                && scope.sees(Some(namespace))
        });
        // The response is the same for a missing workload and for one that the caller may not read.
        let missing = || Failure::Missing(format!("{kind} {name:?} with pods not found in namespace {namespace:?}"));
        let of = found.ok_or_else(missing)?;
        let (item, ..) = item(&cluster, &fleet, of, self.owner_keys());
        let judge = self.judge();
        let mut groups: BTreeMap<_, WorkloadContainer> = BTreeMap::new();
        for pod in living(&cluster, of) {
            for member in members(&cluster, &fleet, pod) {
                let image = (member.image, member.image_id);
                let key = (member.container.kind, &member.container.name, image, member.stack, member.coverage);
                let summary = member.summary;
                let group = groups.entry(key.clone()).or_insert_with(|| WorkloadContainer {
                    name: member.container.name.as_ref().to_owned(),
                    kind: member.container.kind.as_str().to_owned(),
                    image: member.image.to_owned(),
                    image_id: member.image_id.map(ToOwned::to_owned),
                    stack: member.stack.map(|stack| stack.to_string()),
                    coverage: key.4.into(),
                    replicas: 0,
                    distribution: summary.and_then(|of| of.distribution.as_ref()).map(|of| of.name.clone()),
                    packages: summary.map(|summary| summary.packages),
                    findings: judge.findings(summary),
                });
                group.replicas += 1;
            }
        }
        let newest = newest(&cluster, of);
        let issues = newest.into_iter().flat_map(|pod| pod.issues.list.iter().map(move |issue| (pod, issue)));
        let mut pods: Vec<String> = living(&cluster, of).map(|pod| pod.name.name.clone()).collect();
        pods.sort_unstable();
        Ok(WorkloadDetail {
            containers: groups.into_values().collect(),
            configuration: issues.map(|(pod, issue)| issue_item(&fleet, pod, issue)).collect(),
            pods,
            workload: item,
        })
    }

    pub(super) fn list_issues(&self, scope: &Scope, list: &List) -> Result<Page<IssueItem>, Failure> {
        let wanted = Wanted::new(list, self.owner_keys())?;
        let level = list.filter("level").map(parse_level).transpose()?;
        let cluster = self.cluster_now()?;
        let seen = cluster.workloads().filter(|of| {
            scope.sees(Some(&of.workload.namespace))
                && is(list, "namespace", &of.workload.namespace)
                && wanted.is(&cluster, of)
        });
        let in_view = seen.filter_map(|of| Some((of, newest(&cluster, of).filter(|pod| pod.excluded.is_none())?)));
        let all = in_view.flat_map(|(of, pod)| pod.issues.list.iter().enumerate().map(move |issue| (of, pod, issue)));
        let all = all.filter(|(_, _, (_, issue))| {
            is(list, "rule", issue.rule.id) && level.is_none_or(|level| level == issue.rule.level)
        });
        let keyed = all.map(|(of, pod, (number, issue))| {
            let Workload { namespace, kind, name, uid, .. } = &*of.workload;
            let key = ([namespace, kind, name, uid].map(Clone::clone), number);
            (key, (pod, issue))
        });
        let fleet = self.picture();
        Ok(page(&ISSUES, list, keyed)?.map(|(pod, issue)| issue_item(&fleet, pod, issue)))
    }
}

/// A workload in words, and the nodes that its pods are on.
fn item<'c>(
    cluster: &'c Cluster,
    fleet: &'c Picture,
    of: &'c Pods,
    owner_keys: &[String],
) -> (WorkloadItem, BTreeSet<&'c str>, BTreeSet<Image<'c>>) {
    let mut coverage: BTreeMap<CoverageState, u64> = BTreeMap::new();
    let (mut images, mut nodes, mut counted) = (BTreeSet::new(), BTreeSet::new(), HashSet::new());
    let (mut findings, mut withheld, mut pods) = (SeverityCounts::default(), 0, 0);
    for pod in living(cluster, of) {
        pods += 1;
        for member in members(cluster, fleet, pod) {
            *coverage.entry(member.coverage.state).or_default() += 1;
            images.insert((member.image, member.image_id));
            nodes.insert(member.node);
            let Some(summary) = member.summary else { continue };
            if counted.insert((&member.container.name, member.stack)) {
                findings.add_all(&summary.counts.severities, 1);
                withheld += u64::from(summary.counts.withheld);
            }
        }
    }
    let pod = newest(cluster, of);
    let issues = pod.map(|pod| pod.issues.list.as_slice()).unwrap_or_default();
    let mut by_level: BTreeMap<String, u64> = BTreeMap::new();
    for issue in issues {
        *by_level.entry(level_word(issue.rule.level).to_owned()).or_default() += 1;
    }
    let names: BTreeSet<&str> = images.iter().map(|(name, _)| *name).collect();
    let marks = cluster.marks(of);
    let Workload { namespace, group, kind, name, uid } = &*of.workload;
    let item = WorkloadItem {
        namespace: namespace.clone(),
        group: group.clone(),
        kind: kind.clone(),
        name: name.clone(),
        uid: uid.clone(),
        owner: owner(cluster, of, owner_keys).map(ToOwned::to_owned),
        labels: marks.map(|marks| marks.labels.clone()).unwrap_or_default(),
        dropped_labels: marks.map_or(0, |marks| u64::from(marks.dropped)),
        created: time(marks.map_or(0, |marks| marks.created)),
        excluded: pod.and_then(|pod| pod.excluded.as_deref()).map(ToOwned::to_owned),
        pods,
        containers: coverage.values().sum(),
        coverage: coverage.into_iter().map(|(state, count)| (state.into(), count)).collect(),
        images: names.into_iter().map(ToOwned::to_owned).collect(),
        findings,
        withheld,
        pod_security: match level(issues) {
            PodSecurity::Privileged => "privileged",
            PodSecurity::Baseline => "baseline",
            PodSecurity::Restricted => "restricted",
        }
        .to_owned(),
        issues: by_level,
    };
    (item, nodes, images)
}

fn parse_level(text: &str) -> Result<Level, Failure> {
    const LEVELS: [Level; 3] = [Level::Baseline, Level::Restricted, Level::Recommended];
    let level = LEVELS.into_iter().find(|level| level_word(*level).eq_ignore_ascii_case(text));
    let known = || LEVELS.map(level_word).join(", ");
    level.ok_or_else(|| Failure::Invalid(format!("invalid value {text:?} for level: expected one of {}", known())))
}

const fn level_word(level: Level) -> &'static str {
    match level {
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
        Level::Recommended => "recommended",
    }
}

/// Returns what is known of the image of a pod's container.
fn details_of<'a>(fleet: &'a Picture, pod: &Pod, container: &str) -> Option<&'a ImageDetails> {
    let container = pod.containers.iter().find(|known| &*known.name == container)?;
    fleet.container(pod.node.as_deref()?, container.id.as_ref()?)?.details()
}

fn issue_item(fleet: &Picture, pod: &Pod, issue: &Issue) -> IssueItem {
    let workload = &pod.workload;
    let Issue { rule, path, container, found } = issue;
    let mut found = found.clone();
    if rule.id == NON_ROOT
        && let Some(details) = container.as_deref().and_then(|container| details_of(fleet, pod, container))
    {
        let user = if details.is_root() { "runs as root" } else { "names another user" };
        let name = if details.user.is_empty() { String::new() } else { format!(": {}", details.user) };
        found = format!("{found}; the image {user}{name}");
    }
    IssueItem {
        namespace: workload.namespace.clone(),
        workload: named(workload),
        rule: rule.id.to_owned(),
        level: level_word(rule.level).to_owned(),
        title: rule.title.to_owned(),
        path: path.clone(),
        found,
        why: rule.why.to_owned(),
        fix: rule.fix.to_owned(),
    }
}

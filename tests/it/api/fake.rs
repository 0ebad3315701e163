//! A made-up fleet for tests of the API, with harmless names and with names that an attacker chose.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use outcrop::export::{self, Document, Finding, Package, Read, Rows};
use outcrop::problems::ProblemKind;
use outcrop::web::list::{
    CONTAINERS, DELIVERIES, FINDINGS, IMAGES, ISSUES, LAYERS, NODES, PACKAGES, TARGETS, WHO_HAS, WORKLOADS, page,
};
use outcrop::web::{
    AdvisoryItem, AdvisoryPackage, AgentItem, AgentProblem, AskedVulnerability, AssessedCount, ConnectionCounts,
    ContainerItem, ContainerRef, CoverageCount, DatabaseStatus, DeliveryChanged, DeliveryDetail, DeliveryItem, Export,
    Failure, FindingItem, Future, HasItem, HasPage, ImageItem, IssueItem, KubernetesNode, KubernetesStatus,
    LayerCounts, LayerItem, Lifetimes, List, NodeCounts, NodeItem, OfflineStatus, PackageItem, Page, ProblemItem,
    Pushed, ReasonCount, Rematch, ReportCounts, RoleItem, RowSource, Scope, Source, SourceStatus, Status, StepItem,
    TargetItem, TargetTest, WorkloadContainer, WorkloadDetail, WorkloadItem,
};
use outcrop_proto::{
    AssessedState, Coverage, CoverageState, FindingStatus, LayerState, NodeState, Runtime, Severity, SeverityCounts,
    Storage,
};
use tokio::sync::Semaphore;

/// What an attacker may call anything: it tries every sink at once.
pub(super) const HOSTILE: &str = "=cmd|'/c calc'!A1<script>alert(1)</script><img src=x onerror=alert(1)>\"},{evil=\"1\"} 1\nevil 2\r\n,\u{1b}]0;own\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\\&amp;: - #";

/// A fleet.
#[derive(Debug)]
pub(super) struct Fake {
    /// How many nodes; all but the first are honest.
    pub(super) nodes: usize,
    /// How many containers; all but the first are honest.
    pub(super) containers: usize,
    /// A text in every place that images, agents and feeds choose, and a count, instead of the usual ones.
    pub(super) words: Option<(String, u64)>,
    /// Databases that were pushed.
    pub(super) pushed: Arc<Mutex<Vec<Push>>>,
    /// Requests that changed nothing: caller, action, target, and whether for want of a right.
    pub(super) audited: Arc<Mutex<Vec<String>>>,
    /// Pages of rows of exports that were read.
    pub(super) pages: Arc<AtomicUsize>,
    /// How many pages of rows the findings of an export have; the one after them fails if the text in every place is `broken`.
    pub(super) long: usize,
    /// What the advisory `wait` and a database that begins with `slow` wait for.
    pub(super) gate: Arc<Gate>,
}

/// Who waits, and until when.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) waiting: AtomicUsize,
    pub(super) open: Semaphore,
}

impl Gate {
    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiter = Waiter(&self.waiting);
        self.open.acquire().await.unwrap().forget();
    }
}

/// Somebody who waits, or went away.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A database that was pushed.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) who: String,
    pub(super) size: usize,
    pub(super) allow_shrink: bool,
    pub(super) path: PathBuf,
    pub(super) signature: Option<Vec<u8>>,
}

impl Fake {
    pub(super) fn new(nodes: usize, containers: usize) -> Self {
        let gate = Arc::new(Gate { waiting: AtomicUsize::new(0), open: Semaphore::new(0) });
        Self {
            nodes,
            containers,
            words: None,
            pushed: Arc::default(),
            audited: Arc::default(),
            pages: Arc::default(),
            long: 1,
            gate,
        }
    }

    fn node(&self, number: usize) -> NodeItem {
        let role = |name: &str, resident_bytes| RoleItem {
            name: name.to_owned(),
            resident_bytes,
            cpu_milliseconds: 1500,
            starts: 1,
        };
        let hostile = number == 0;
        NodeItem {
            name: name("node", number),
            state: match number {
                _ if number.is_multiple_of(10) => NodeState::Silent.into(),
                2 => NodeState::Degraded.into(),
                _ => NodeState::Attached.into(),
            },
            problems: match number {
                0 => vec![AgentProblem { message: HOSTILE.to_owned(), began_at: HOSTILE.to_owned() }],
                2 => vec![AgentProblem {
                    message: "listing the tasks of namespace k8s.io: containerd did not respond within 30 s".to_owned(),
                    began_at: "2026-11-01T00:00:00Z".to_owned(),
                }],
                _ => Vec::new(),
            },
            agent_version: if hostile { HOSTILE } else { "0.1.0" }.to_owned(),
            catalogers: 7,
            cage: if hostile { HOSTILE } else { "landlock, seccomp" }.to_owned(),
            marks: !hostile,
            attached: !number.is_multiple_of(10),
            distrusted: hostile,
            silent_seconds: if number.is_multiple_of(10) { 4000 } else { 1 },
            containers: 2,
            layers_read: 3,
            agent: (number != 1).then(|| AgentItem {
                roles: vec![
                    role("runtime", 9 << 20),
                    role(if hostile { HOSTILE } else { "worker" }, 7 << 20),
                    role("worker", 5 << 20),
                ],
                layers_read: 3,
                layers_verified: 1,
                layers_failed: 0,
                worker_deaths: 1,
                gone_before_reading: 2,
                queue: 4,
            }),
            kubernetes: (number < 2).then(|| KubernetesNode {
                kubelet: name("v1.34.4", number),
                runtime: name("containerd://2.1.4", number),
                system: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                image: name("Debian GNU/Linux 12", number),
                kernel: name("6.12", number),
            }),
            blind: (number == 1).then(|| "no agent can run on Windows".to_owned()),
        }
    }

    fn workload(&self, number: usize) -> WorkloadItem {
        WorkloadItem {
            namespace: self_namespace(number).unwrap_or_default().to_owned(),
            group: if number.is_multiple_of(2) { "apps" } else { "" }.to_owned(),
            kind: name("Deployment", number),
            name: name("web", number),
            uid: format!("{number:036}"),
            owner: (number < 2).then(|| name("team", number)),
            labels: BTreeMap::from([(name("app", number), name("web", number))]),
            dropped_labels: 0,
            created: "2026-11-01T00:00:00Z".to_owned(),
            excluded: (number == 1).then(|| "namespace bank is excluded".to_owned()),
            pods: 2,
            containers: 3,
            coverage: BTreeMap::from([(CoverageState::Scanned.into(), 2), (CoverageState::Pending.into(), 1)]),
            images: vec![name("registry.example/app", number)],
            findings: severities(),
            withheld: 1,
            pod_security: "baseline".to_owned(),
            issues: BTreeMap::from([("restricted".to_owned(), 3), ("recommended".to_owned(), 1)]),
        }
    }

    fn issue(&self, number: usize) -> IssueItem {
        let of = self.workload(number);
        IssueItem {
            namespace: of.namespace,
            workload: format!("{}/{}", of.kind, of.name),
            rule: "run-as-non-root".to_owned(),
            level: "restricted".to_owned(),
            title: "May run as root".to_owned(),
            path: format!("spec.containers[{}].securityContext.runAsNonRoot", name("main", number)),
            found: name("unset", number),
            why: "A process that is root has more ways out.".to_owned(),
            fix: "Set runAsNonRoot: true.".to_owned(),
        }
    }

    fn container(&self, number: usize) -> ContainerItem {
        let hostile = number == 0;
        let coverage = if hostile {
            Coverage::new(CoverageState::Partial, HOSTILE)
        } else {
            Coverage::new(CoverageState::Scanned, "")
        };
        ContainerItem {
            storage: Some(Storage::LayerDirectories.into()),
            distribution: hostile.then(|| HOSTILE.to_owned()).or(Some("Debian GNU/Linux 12".to_owned())),
            packages: Some(88),
            findings: Some(severities()),
            since: "2026-11-01T00:00:00Z".to_owned(),
            ..ContainerItem::new(self.place(number), coverage)
        }
    }

    fn place(&self, number: usize) -> ContainerRef {
        ContainerRef {
            node: name("node", number % self.nodes),
            runtime: Runtime::Containerd.into(),
            runtime_namespace: "k8s.io".to_owned(),
            id: format!("{number:064x}"),
            name: name("app", number),
            namespace: Some(if number.is_multiple_of(2) { "shop" } else { "bank" }.to_owned()),
            pod: Some(name("pod", number)),
            workload: Some(format!("Deployment/{}", name("web", number))),
            image: name("registry.example/app", number),
            image_id: Some(format!("{}@sha256:{:064x}", name("registry.example/app", number), number % 3)),
            stack: Some(format!("sha256:{:064x}", number % 3)),
        }
    }

    fn seen(&self, scope: &Scope) -> impl Iterator<Item = usize> {
        let scope = scope.clone();
        (0..self.containers).filter(move |number| scope.sees(self_namespace(*number)))
    }

    fn finding(&self, number: usize) -> FindingItem {
        FindingItem {
            container: self.place(number),
            id: name("CVE-2026", number),
            aliases: vec![name("GHSA-x", number)],
            package: name("bash", number),
            purl: format!("pkg:deb/debian/{}", name("bash", number)),
            installed: name("5.2-1", number),
            evidence: format!("/var/lib/dpkg/status!/{}", name("x", number)),
            status: FindingStatus::Fixed.into(),
            fixed: Some(name("5.2-2", number)),
            severity: Severity::Critical.into(),
            score: Some(9.8),
            layer: Some(layer(0)),
            source: Some(name("https://git.example", number)),
            summary: name("A summary", number),
            first_seen: "2026-11-01T00:00:00Z".to_owned(),
            fixed_on: None,
        }
    }

    fn targets(&self, scope: &Scope) -> Vec<TargetItem> {
        let target = |(name, state, error): (&str, &str, Option<&str>)| TargetItem {
            name: name.to_owned(),
            kind: "http".to_owned(),
            address: format!("https://{name}.example"),
            state: state.to_owned(),
            waiting_events: 1200,
            waiting_deliveries: 1,
            oldest_seconds: Some(7300),
            refused: 2,
            dropped: 3,
            accepted: 40,
            refusals: 5,
            failures: 6,
            records: 40_000,
            bytes: 1_234_567,
            accepted_at: Some("2026-11-01T00:00:00Z".to_owned()),
            error: error.map(ToOwned::to_owned),
            next_attempt_seconds: error.map(|_| 17),
        };
        let targets = [("broken", "failing", Some(HOSTILE)), ("central", "ok", None)];
        targets.into_iter().filter(|_| *scope == Scope::All).map(target).collect()
    }

    fn status(&self, scope: &Scope) -> Status {
        let containers = self.seen(scope).count() as u64;
        let hostile = u64::from(self.seen(scope).any(|number| number == 0));
        let count = |state| match state {
            CoverageState::Scanned => containers - hostile,
            CoverageState::Partial => hostile,
            _ => 0,
        };
        let silent = self.nodes.div_ceil(10) as u64;
        Status {
            version: "0.1.0".to_owned(),
            cluster: HOSTILE.to_owned(),
            targets: self.targets(scope),
            offline: Some(OfflineStatus {
                ports: vec![53, 443],
                allowed: vec![name("target.example", 0)],
                enforced: true,
            }),
            uptime_seconds: 90_000,
            restricted: *scope != Scope::All,
            nodes: NodeCounts {
                known: self.nodes as u64,
                attached: self.nodes as u64 - silent,
                silent,
                degraded: 1,
                weak_cage: 1,
                distrusted: 1,
                without_agent: 2,
            },
            containers,
            coverage: CoverageState::ALL
                .into_iter()
                .map(|state| CoverageCount { state: state.into(), containers: count(state) })
                .collect(),
            reasons: vec![ReasonCount {
                state: CoverageState::Partial.into(),
                reason: HOSTILE.to_owned(),
                containers: hostile,
            }],
            assessed: vec![
                assessed("Debian:12", AssessedState::Matched, "", containers),
                assessed("Debian:12", AssessedState::Stale, HOSTILE, 1),
                assessed(HOSTILE, AssessedState::Unmatched, "no source", 1),
            ],
            kubernetes: Some(KubernetesStatus { synced: true, workloads: 4, pods: 5, untold: 1, strays: 2 }),
            layers: LayerCounts { known: 9, leased: 1, waiting: 2, failed: 3, disputed: 1, outdated: 4 },
            oldest_unscanned_seconds: Some(77),
            lifetimes: Lifetimes {
                seen: containers + 3,
                ended: [(CoverageState::Scanned.into(), 2), (CoverageState::Failed.into(), 1)].into(),
                gone_before_reading: 1,
            },
            reports: ReportCounts {
                inventories: 10,
                verified: 4,
                contradicted: 1,
                unasked: 2,
                refused: 3,
                refused_by_reason: BTreeMap::from([("token".to_owned(), 2), ("wire-version".to_owned(), 1)]),
            },
            connections: ConnectionCounts { open: 12, turned_away: 1, failed: 2, unidentified: 3, surplus: 4 },
            store_error: Some(HOSTILE.to_owned()),
            database: Some(DatabaseStatus {
                digest: "sha256:00".to_owned(),
                brought_by: HOSTILE.to_owned(),
                brought_at: "2026-11-02T00:00:00Z".to_owned(),
                as_of: None,
                signed_by: None,
                sources: vec![
                    SourceStatus {
                        ecosystem: "Debian:12".to_owned(),
                        records: 40_000,
                        newest: "2026-11-01T00:00:00Z".to_owned(),
                        age_days: Some(1),
                    },
                    SourceStatus {
                        ecosystem: HOSTILE.to_owned(),
                        records: 1,
                        newest: HOSTILE.to_owned(),
                        age_days: Some(3),
                    },
                ],
            }),
            database_error: Some(HOSTILE.to_owned()),
            problems: vec![problem(ProblemKind::Tokens, "a token's file \u{1b}[2J")],
            findings: severities(),
            withheld: 5,
            rematch: Some(rematch()),
        }
    }
}

/// Namespaces take turns.
fn self_namespace(number: usize) -> Option<&'static str> {
    Some(if number.is_multiple_of(2) { "shop" } else { "bank" })
}

/// The name of the first is the attacker's.
fn name(kind: &str, number: usize) -> String {
    if number == 0 { HOSTILE.to_owned() } else { format!("{kind}-{number}") }
}

fn layer(number: usize) -> String {
    format!("diff:sha256:{number:064x}")
}

fn assessed(ecosystem: &str, state: AssessedState, reason: &str, containers: u64) -> AssessedCount {
    AssessedCount { ecosystem: ecosystem.to_owned(), state: state.into(), reason: reason.to_owned(), containers }
}

fn problem(kind: ProblemKind, message: &str) -> ProblemItem {
    ProblemItem { kind: kind.into(), subject: message.to_owned(), message: message.to_owned(), since: 1_790_000_000 }
}

fn severities() -> SeverityCounts {
    [(Severity::Low, 4), (Severity::Critical, 1), (Severity::High, 2)].into_iter().collect()
}

fn rematch() -> Rematch {
    Rematch {
        at: "2026-11-02T00:00:01Z".to_owned(),
        seconds: 1.25,
        stacks: 3,
        appeared: 12,
        went: 5,
        nodes_rescanned: 0,
    }
}

/// A delivery: the first one was refused.
fn delivery(id: i64) -> DeliveryItem {
    DeliveryItem {
        id,
        target: "central".to_owned(),
        state: if id == 0 { "refused" } else { "waiting" }.to_owned(),
        key: format!("{id:032x}"),
        sequence: 7,
        made_at: "2026-11-01T00:00:00Z".to_owned(),
        records: 1000,
        bytes: 12_345,
        refused_at: (id == 0).then(|| "2026-11-01T00:01:00Z".to_owned()),
        reason: if id == 0 { HOSTILE } else { "" }.to_owned(),
    }
}

/// An answer that is there already.
fn ready<'a, T: Send + 'a>(answer: Result<T, Failure>) -> Future<'a, T> {
    Box::pin(async { answer })
}

/// Rows of an export.
#[derive(Debug)]
struct FakeRows {
    images: Vec<usize>,
    page: usize,
    long: usize,
    is_broken: bool,
    pages: Arc<AtomicUsize>,
}

impl RowSource for FakeRows {
    fn next(&mut self, read: Read) -> Future<'_, Option<Rows>> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let last = if read == Read::Findings { self.long } else { 1 };
        if self.page >= last {
            self.page = 0;
            return match self.is_broken && read == Read::Findings {
                true => ready(Err(Failure::Store("the store is away".to_owned()))),
                false => ready(Ok(None)),
            };
        }
        self.page += 1;
        let package = |path: &str| Package {
            purl: format!("pkg:deb/debian/{}", "bash"),
            r#type: "deb".to_owned(),
            name: "bash".to_owned(),
            version: "5.2-1".to_owned(),
            licenses: vec![HOSTILE.to_owned(), "MIT".to_owned()],
            evidence: vec![path.to_owned()],
            layer: Some(layer(0)),
        };
        let hostile =
            Package { name: HOSTILE.to_owned(), version: HOSTILE.to_owned(), purl: String::new(), ..package(HOSTILE) };
        let finding = |number: usize| Finding {
            id: format!("CVE-2026-{}", self.page),
            aliases: vec![name("GHSA-x", number)],
            purl: "pkg:deb/debian/bash".to_owned(),
            r#type: "deb".to_owned(),
            package: "bash".to_owned(),
            installed: "5.2-1".to_owned(),
            evidence: vec!["/var/lib/dpkg/status".to_owned()],
            status: FindingStatus::Fixed,
            fixed: Some("5.2-2".to_owned()),
            severity: Severity::Critical,
            score: Some(9.8),
            summary: HOSTILE.to_owned(),
            layer: Some(layer(0)),
        };
        ready(Ok(Some(match read {
            Read::Packages(_) => Rows::Packages(vec![hostile, package("/one"), package("/two"), package("/one")]),
            Read::FindingsOf(number) => Rows::Findings(vec![(number, finding(self.images[number]))]),
            Read::Findings => Rows::Findings(
                self.images.iter().enumerate().map(|(number, image)| (number, finding(*image))).collect(),
            ),
        })))
    }
}

impl Source for Fake {
    fn status<'a>(&'a self, scope: &'a Scope) -> Future<'a, Status> {
        let mut status = self.status(scope);
        if let Some((text, count)) = &self.words {
            status.reasons = (0..*count.min(&9))
                .map(|number| ReasonCount {
                    state: CoverageState::Failed.into(),
                    reason: format!("{text}{number}"),
                    containers: *count,
                })
                .collect();
            let releases = (0..*count.min(&9))
                .map(|number| assessed(&format!("Slackware:{text}{number}"), AssessedState::Stale, text, 1));
            status.assessed =
                [assessed("Slackware:1", AssessedState::Stale, text, 1)].into_iter().chain(releases).collect();
            status.layers.disputed = *count;
            status.withheld = *count;
            status.problems = vec![problem(ProblemKind::Watch, text)];
            status.store_error = Some(text.clone()).filter(|text| !text.is_empty());
            if let Some(database) = &mut status.database {
                (database.digest, database.brought_by) = (text.clone(), text.clone());
            }
        }
        ready(Ok(status))
    }

    fn workloads<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<WorkloadItem>> {
        let named = |item: &WorkloadItem| {
            list.filter("workload").is_none_or(|name| item.name.contains(name.rsplit('/').next().unwrap_or_default()))
        };
        let items = self.seen(scope).take(4).map(|number| (number, self.workload(number)));
        let items = items.filter(|(_, item)| named(item));
        ready(page(&WORKLOADS, list, items))
    }

    fn workload<'a>(&'a self, scope: &'a Scope, [namespace, kind, of]: [&'a str; 3]) -> Future<'a, WorkloadDetail> {
        let is = |number: &usize| self_namespace(*number) == Some(namespace) && name("web", *number) == of;
        let is_kind = kind == "deploy" || kind.starts_with("Deployment");
        let Some(number) = self.seen(scope).find(is).filter(|_| is_kind) else {
            return ready(Err(Failure::Missing(format!("there is no {kind} {of:?} in {namespace:?}"))));
        };
        let container = self.container(number);
        ready(Ok(WorkloadDetail {
            workload: self.workload(number),
            containers: vec![WorkloadContainer {
                name: container.name,
                kind: "main".to_owned(),
                image: container.image,
                image_id: container.image_id,
                stack: container.stack,
                coverage: container.coverage,
                replicas: 2,
                distribution: container.distribution,
                packages: Some(88),
                findings: Some(severities()),
            }],
            configuration: vec![self.issue(number)],
            pods: vec![name("pod", number)],
        }))
    }

    fn issues<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<IssueItem>> {
        let items = self.seen(scope).take(4).map(|number| (number, self.issue(number)));
        ready(page(&ISSUES, list, items))
    }

    fn targets<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<TargetItem>> {
        let items = self.targets(scope).into_iter().filter(|item| {
            list.filter("name").is_none_or(|name| item.name == name)
                && list.filter("state").is_none_or(|state| item.state == state)
        });
        ready(page(&TARGETS, list, items.map(|item| (item.name.clone(), item))))
    }

    fn deliveries<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<DeliveryItem>> {
        let items = (0..3).filter(|_| *scope == Scope::All).map(delivery).filter(|item| {
            list.filter("target").is_none_or(|target| item.target == target)
                && list.filter("state").is_none_or(|state| item.state == state)
        });
        ready(page(&DELIVERIES, list, items.map(|item| (item.id, item))))
    }

    fn delivery<'a>(&'a self, scope: &'a Scope, id: i64) -> Future<'a, DeliveryDetail> {
        if *scope != Scope::All || !(0..3).contains(&id) {
            return ready(Err(Failure::Missing(format!("delivery {id} not found"))));
        }
        ready(Ok(DeliveryDetail { delivery: delivery(id), content: HOSTILE.repeat(2), truncated: true }))
    }

    fn settle_delivery<'a>(&'a self, _: &'a str, id: i64, _: bool) -> Future<'a, DeliveryChanged> {
        match id {
            0 => ready(Ok(DeliveryChanged { target: HOSTILE.to_owned() })),
            1 | 2 => ready(Err(Failure::Refused(format!("delivery {id} waits for its target and was not refused")))),
            _ => ready(Err(Failure::Missing(format!("delivery {id} not found")))),
        }
    }

    fn resync_target<'a>(&'a self, _: &'a str, name: &'a str) -> Future<'a, DeliveryChanged> {
        match name {
            "central" => ready(Ok(DeliveryChanged { target: name.to_owned() })),
            _ => ready(Err(Failure::Missing(format!("target {name:?} not found")))),
        }
    }

    fn test_target<'a>(&'a self, _: &'a str, name: &'a str) -> Future<'a, TargetTest> {
        let test = |accepted: bool, status| TargetTest {
            target: name.to_owned(),
            accepted,
            status,
            answer: HOSTILE.to_owned(),
            milliseconds: 12,
        };
        match name {
            "central" => ready(Ok(test(true, Some(202)))),
            "broken" => ready(Ok(test(false, None))),
            _ => ready(Err(Failure::Missing(format!("target {name:?} not found")))),
        }
    }

    fn nodes<'a>(&'a self, _: &'a Scope, list: &'a List) -> Future<'a, Page<NodeItem>> {
        let flags = list.flag("attached").and_then(|attached| Ok((attached, list.flag("distrusted")?)));
        let (attached, distrusted) = match flags {
            Ok(flags) => flags,
            Err(failure) => return ready(Err(failure)),
        };
        let node = |number| {
            let mut node = self.node(number);
            if let Some((text, count)) = &self.words {
                (node.agent_version, node.cage, node.layers_read) = (text.clone(), text.clone(), *count);
                for role in node.agent.iter_mut().flat_map(|agent| &mut agent.roles).take(1) {
                    role.name = format!("{text}!");
                }
            }
            node
        };
        let nodes = (0..self.nodes).map(|number| (number, node(number))).filter(|(_, node)| {
            list.filter("name").is_none_or(|name| node.name == name)
                && attached.is_none_or(|attached| node.attached == attached)
                && distrusted.is_none_or(|distrusted| node.distrusted == distrusted)
        });
        ready(page(&NODES, list, nodes))
    }

    fn containers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ContainerItem>> {
        let items = self.seen(scope).map(|number| (number, self.container(number))).filter(|(_, item)| {
            list.filter("namespace").is_none_or(|namespace| item.namespace.as_deref() == Some(namespace))
                && list.filter("node").is_none_or(|node| item.node == node)
                && list.filter("image").is_none_or(|image| item.image == image)
        });
        ready(page(&CONTAINERS, list, items))
    }

    fn images<'a>(&'a self, _: &'a Scope, list: &'a List) -> Future<'a, Page<ImageItem>> {
        let image = |number: usize| ImageItem {
            stack: format!("sha256:{number:064x}"),
            names: vec![name("registry.example/app", number), "again".to_owned()],
            ids: vec![format!("{}@sha256:{number:064x}", name("registry.example/app", number))],
            created: (number == 0).then(|| "2026-10-01T00:00:00Z".to_owned()),
            platform: (number == 0).then(|| "linux/arm64/v8".to_owned()),
            user: (number == 0).then(|| HOSTILE.to_owned()),
            size: (number == 0).then_some(215 << 20),
            labels: [("org.opencontainers.image.source".to_owned(), HOSTILE.to_owned())].into(),
            coverage: self.container(number).coverage,
            distribution: None,
            layers: 5,
            packages: Some(88),
            unidentified: 1,
            findings: Some(severities()),
            withheld: 2,
            containers: 3,
            nodes: 2,
        };
        ready(page(&IMAGES, list, (0..3).map(|number| (number, image(number)))))
    }

    fn layers<'a>(&'a self, _: &'a Scope, list: &'a List) -> Future<'a, Page<LayerItem>> {
        let item = |number: usize| LayerItem {
            id: layer(number),
            state: if number == 0 { LayerState::Failed } else { LayerState::Known }.into(),
            reason: if number == 0 { HOSTILE } else { "" }.to_owned(),
            disputed: number == 0,
            read_by: Some(name("node", number)),
            read_at: Some("2026-11-01T00:00:00Z".to_owned()),
            cage: Some(name("cage", number)),
            catalogers: Some(7),
            verified_by: 1,
            step: (number < 2).then(|| StepItem {
                number: 3,
                keyword: if number == 0 { HOSTILE } else { "RUN" }.to_owned(),
                created: 1,
                text: String::new(),
            }),
            images: 2,
            image: Some(name("image", number)),
            containers: 4,
            findings: number as u64 * 10,
            affected_containers: 4,
        };
        let items = (0..4).map(|number| {
            let impact = if list.sort.as_deref() == Some("findings") { item(number).findings } else { 0 };
            ((impact, Cow::Owned::<str>(layer(number))), item(number))
        });
        ready(page(&LAYERS, list, items))
    }

    fn packages<'a>(&'a self, _: &'a Scope, list: &'a List) -> Future<'a, Page<PackageItem>> {
        let item = |number: usize| PackageItem {
            purl: format!("pkg:npm/{}", name("lodash", number)),
            r#type: "npm".to_owned(),
            name: name("lodash", number),
            version: name("4.17", number),
            images: 1,
            containers: 2,
            findings: severities(),
        };
        ready(page(&PACKAGES, list, (0..3).map(|number| (number, item(number)))))
    }

    fn findings<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<FindingItem>> {
        ready(page(&FINDINGS, list, self.seen(scope).map(|number| (number, self.finding(number)))))
    }

    fn export<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Export> {
        let wanted = |number: &usize| list.filter("namespace").is_none_or(|of| self_namespace(*number) == Some(of));
        let images: Vec<usize> = self.seen(scope).filter(wanted).collect();
        let image = |number: &usize| {
            let at = self.place(*number);
            export::Image {
                is_container: true,
                name: at.image,
                digest: (*number > 0).then(|| format!("sha256:{number:064x}")),
                stack: at.stack,
                coverage: Some(if *number == 0 {
                    Coverage::new(CoverageState::Partial, HOSTILE)
                } else {
                    Coverage::new(CoverageState::Scanned, "")
                }),
                distribution: Some(name("Debian", *number)),
                places: vec![export::Place { namespace: at.namespace, workload: at.workload, container: at.name }],
                ..export::Image::default()
            }
        };
        let all = images.iter().map(image).collect();
        let document = Document {
            name: format!("cluster {HOSTILE}"),
            cluster: Some(("uid".to_owned(), HOSTILE.to_owned())),
            database: Some(format!("sha256:{:064x}", 7)),
            made_at: 1_790_000_000,
            seed: vec![7],
        };
        let is_broken = self.words.as_ref().is_some_and(|(text, _)| text == "broken");
        let rows = FakeRows { images, page: 0, long: self.long, is_broken, pages: Arc::clone(&self.pages) };
        ready(Ok(Export { document, images: all, rows: Box::new(rows) }))
    }

    fn advisory<'a>(&'a self, _: &'a Scope, id: &'a str) -> Future<'a, AdvisoryItem> {
        match id {
            "panic" => Box::pin(async { panic!("a defect, as a test of what becomes of one") }),
            "wait" => Box::pin(async {
                self.gate.pass().await;
                Err(Failure::Missing("waited for nothing".to_owned()))
            }),
            "store" => ready(Err(Failure::Store("the store is away".to_owned()))),
            "CVE-2021-44228" => ready(Ok(AdvisoryItem {
                id: id.to_owned(),
                aliases: vec!["GHSA-jfh8-c2jp-5v3q".to_owned(), HOSTILE.to_owned()],
                summary: HOSTILE.to_owned(),
                severity: Severity::Critical.into(),
                packages: vec![AdvisoryPackage {
                    purl: "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1".to_owned(),
                    name: "log4j-core".to_owned(),
                    version: "2.14.1".to_owned(),
                    status: FindingStatus::Fixed.into(),
                    fixed: Some("2.15.0".to_owned()),
                    containers: 7,
                }],
                containers: 7,
                images: 2,
                nodes: 3,
            })),
            other => ready(Err(Failure::Missing(format!("no advisory is known as {other}")))),
        }
    }

    fn who_has<'a>(&'a self, scope: &'a Scope, question: &'a str, list: &'a List) -> Future<'a, HasPage> {
        if question.starts_with('!') {
            return ready(Err(Failure::Invalid(format!("invalid question {question:?}: expected a package"))));
        }
        let item = |number: usize| HasItem {
            container: self.place(number),
            purl: "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1".to_owned(),
            package: question.to_owned(),
            version: "2.14.1".to_owned(),
            evidence: format!("/app.jar!/BOOT-INF/lib/{}", name("log4j-core", number)),
            layer: Some(layer(1)),
            ran_until: (number == 3).then(|| "2026-11-01T00:00:00Z".to_owned()),
        };
        let vulnerability = question.starts_with("CVE-").then(|| AskedVulnerability {
            id: question.to_owned(),
            in_database: question != "CVE-2099-1",
            newest_record: Some("2026-11-01T00:00:00Z".to_owned()).filter(|_| self.nodes > 1),
        });
        let none = question == "nobody" || vulnerability.as_ref().is_some_and(|asked| !asked.in_database);
        let items = self.seen(scope).filter(|_| !none).map(|number| (number, item(number)));
        let page = page(&WHO_HAS, list, items);
        ready(page.map(|Page { items, next }| HasPage { items, next, vulnerability }))
    }

    fn push_database<'a>(&'a self, who: &'a str, file: PathBuf, allow_shrink: bool) -> Future<'a, Pushed> {
        let Ok(bytes) = std::fs::read(&file) else {
            return ready(Err(Failure::Store("the file is not there".to_owned())));
        };
        if bytes.starts_with(b"slow") {
            return Box::pin(async move {
                self.gate.pass().await;
                let still = std::fs::read(&file).unwrap_or_default();
                let push = Push { who: who.to_owned(), size: still.len(), allow_shrink, path: file, signature: None };
                self.pushed.lock().unwrap().push(push);
                Ok(Pushed { digest: "sha256:22".to_owned(), unchanged: true, rematch: None })
            });
        }
        let signature = std::fs::read(file.with_extension("db.minisig")).ok();
        let push = Push { who: who.to_owned(), size: bytes.len(), allow_shrink, path: file, signature };
        self.pushed.lock().unwrap().push(push);
        if bytes.starts_with(b"shrunk") && !allow_shrink {
            return ready(Err(Failure::Refused(format!("{HOSTILE} has far fewer records: --allow-shrink takes it"))));
        }
        let unchanged = bytes.starts_with(b"same");
        ready(Ok(Pushed { digest: "sha256:11".to_owned(), unchanged, rematch: (!unchanged).then(rematch) }))
    }

    fn audit_refused<'a>(&'a self, who: &'a str, action: &'a str, target: &'a str, denied: bool) -> Future<'a, ()> {
        self.audited.lock().unwrap().push(format!("{who} {action} {target:?} {denied}"));
        ready(Ok(()))
    }

    fn distrust<'a>(&'a self, _: &'a str, node: &'a str, distrusted: bool) -> Future<'a, u64> {
        let known = (0..self.nodes).any(|number| name("node", number) == node);
        ready(if known {
            Ok(if distrusted { 3 } else { 0 })
        } else {
            Err(Failure::Missing(format!("no node is called {node}")))
        })
    }
}

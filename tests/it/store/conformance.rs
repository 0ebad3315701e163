//! The guarantees of every store, tested through the trait.

use std::cmp::Ordering::{Greater, Less};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use jiff::civil::date;
use outcrop::store::{
    AuditOutcome, ClusterIdentity, Condition, CorrectedTimes, Counts, DayCount, ErrorKind, FindingName, FindingRow,
    FindingsFilter, FindingsOrder, InventoryRow, IssueEvent, Layer, LayerRow, MergedPackage, MergedStack, Options,
    OutboxEvent, PackageSetFindings, PackageSetId, PackagesFilter, PackagesOrder, RematchRow, Retention, Run, Seen,
    Store, StoreError, SubjectKey, Summary, Verdict, WorkloadKey,
};
use outcrop_proto::{
    Coverage, CoverageState, Digest, Distribution, FindingStatus, LayerId, Owner, Package, PackageType, Severity,
    StackPackage,
};

/// A store under test.
#[async_trait(?Send)]
pub(super) trait Harness {
    /// Opens the store, also again after the last handle was dropped: a restart.
    async fn open(&self, options: Options) -> Result<Arc<dyn Store>, StoreError>;
    /// Fails if the stored data is damaged, or a row refers to a row that does not exist.
    fn check(&self);
    /// Makes every COMMIT of a write of a layer fail, or succeed again.
    fn fail_commits(&self, fail: bool);
}

/// The database that stacks are matched against.
const DATABASE: Digest = Digest([1; 32]);

pub(super) fn options_of(cluster: &str) -> Options {
    let cluster = ClusterIdentity { key: cluster.to_owned(), name: cluster.to_owned() };
    Options { cluster, outbox: false, write_duration: None }
}

pub(super) fn options() -> Options {
    options_of("test")
}

async fn open(harness: &dyn Harness) -> Arc<dyn Store> {
    harness.open(options()).await.unwrap()
}

pub(super) async fn open_with_outbox(harness: &dyn Harness) -> Arc<dyn Store> {
    harness.open(Options { outbox: true, ..options() }).await.unwrap()
}

fn layer(name: &str) -> LayerId {
    LayerId::Diff(Digest::of(name.as_bytes()))
}

pub(super) fn layer_row(name: &str, node: &str, read_at: i64) -> LayerRow {
    let layer = Layer {
        id: layer(name),
        digest: Digest::of(b"inventory"),
        without_marks: Some(Digest::of(b"without marks")),
        size: 9,
        catalogers: 3,
        node: node.to_owned(),
        cage: "landlock+seccomp".to_owned(),
        marks: true,
        read_at,
        verified_by: BTreeSet::new(),
    };
    LayerRow { layer, inventory: b"inventory".to_vec() }
}

fn merged(name: &str, version: &str) -> MergedPackage {
    MergedPackage {
        package: StackPackage {
            package: Package::new(PackageType::Npm, name, version),
            evidence: vec![format!("srv/{name}/package.json").into_bytes()],
            layer: 0,
            owner: None,
        },
        purl: format!("pkg:npm/{name}@{version}"),
        owner_purl: None,
    }
}

/// A stack of a base and a layer of its own, with these packages of npm in the latter.
pub(super) fn stack(name: &str, packages: &[(&str, &str)]) -> MergedStack {
    MergedStack {
        chain: Digest::of(name.as_bytes()),
        layers: vec![layer(name), layer("base")],
        inputs: Digest::of(name.as_bytes()),
        coverage: Coverage::new(CoverageState::Scanned, ""),
        distribution: Some(Distribution {
            id: "debian".to_owned(),
            version_id: "12".to_owned(),
            ..Distribution::default()
        }),
        catalogers: 3,
        packages: packages.iter().map(|(name, version)| merged(name, version)).collect(),
        checked_by: vec!["node-1".to_owned()],
        unidentified: 1,
    }
}

fn verdict(package: i64, vulnerability: &str) -> Verdict {
    Verdict {
        package,
        vulnerability: vulnerability.to_owned(),
        unassessed: false,
        severity: Severity::High,
        score: Some(7.5),
        status: FindingStatus::Fixed,
        fixed: Some("2".to_owned()),
        summary: "a problem".to_owned(),
        aliases: vec![format!("GHSA-{vulnerability}")],
    }
}

/// Stores a stack, and that each of its packages has one vulnerability.
pub(super) async fn put(store: &dyn Store, stack: &MergedStack, vulnerability: &str, at: i64) -> Summary {
    try_put(store, stack, vulnerability, at).await.unwrap()
}

pub(super) async fn try_put(
    store: &dyn Store,
    stack: &MergedStack,
    vulnerability: &str,
    at: i64,
) -> Result<Summary, StoreError> {
    let summary = store.put_stack(stack, at).await?;
    let packages = store.packages_of(summary.id).await?;
    let verdicts: Vec<Verdict> = packages.iter().map(|of| verdict(of.package, vulnerability)).collect();
    find(store, &summary, &verdicts, at).await?;
    Ok(summary)
}

async fn find(store: &dyn Store, summary: &Summary, verdicts: &[Verdict], at: i64) -> Result<(u64, u64), StoreError> {
    let ids = store.put_verdicts(verdicts, at).await?;
    store.put_findings(&findings(summary.id, ids), &DATABASE, at).await
}

fn findings(package_set: PackageSetId, mut verdicts: Vec<i64>) -> PackageSetFindings {
    verdicts.sort_unstable();
    let count = u32::try_from(verdicts.len()).unwrap();
    let severities = [(Severity::High, u64::from(count))].into_iter().collect();
    let counts = Counts { severities, by_layer: vec![count, 0], withheld: 0, dropped: 0 };
    PackageSetFindings { package_set, verdicts, counts }
}

pub(super) fn all(package_sets: &[PackageSetId]) -> FindingsFilter<'_> {
    FindingsFilter {
        package_sets,
        at_least: Severity::Unknown,
        at_most: Severity::Critical,
        vulnerability: None,
        package: None,
        status: None,
        order: FindingsOrder::Severity,
        descending: false,
        after: None,
        inclusive: false,
        limit: 1000,
    }
}

async fn stack_ids(store: &dyn Store) -> Vec<PackageSetId> {
    store.stacks().await.unwrap().into_iter().map(|of| of.id).collect()
}

/// Packages and vulnerabilities of all open findings.
async fn open_findings(store: &dyn Store) -> Vec<(String, String)> {
    let ids = stack_ids(store).await;
    let rows = store.findings(&all(&ids)).await.unwrap();
    rows.into_iter().map(|row| (row.package, row.vulnerability)).collect()
}

pub(super) fn plain(container: &str) -> SubjectKey {
    SubjectKey::Container { node: "node".into(), namespace: "shop".into(), container: container.into() }
}

pub(super) fn workload(name: &str) -> SubjectKey {
    let (namespace, group, kind) = ("shop".into(), "apps".into(), "Deployment".into());
    SubjectKey::WorkloadContainer {
        workload: WorkloadKey { namespace, group, kind, name: name.into() },
        container: "main".into(),
    }
}

pub(super) fn run(subject: SubjectKey, package_set: PackageSetId, at: i64) -> Run {
    Run { subject, package_set, at }
}

/// The findings of a subject: a row for each finding of a run.
pub(super) async fn seen(store: &dyn Store, subject: SubjectKey, vulnerabilities: Option<&[String]>) -> Vec<Seen> {
    let mut rows = Vec::new();
    store.seen(&[subject], vulnerabilities, &mut |row| rows.push(row)).await.unwrap();
    rows
}

/// All runs of a subject, without findings: since, until, package set.
async fn runs_of(store: &dyn Store, subject: SubjectKey) -> Vec<(i64, Option<i64>, PackageSetId)> {
    let seen = seen(store, subject, Some(&[])).await;
    seen.into_iter().map(|seen| (seen.since, seen.until, seen.package_set)).collect()
}

fn retention(runs_since: i64, unused_since: i64) -> Retention {
    Retention { runs_since, unused_since, days_since: date(2026, 1, 1) }
}

pub(super) async fn stored_rows_are_there_after_a_restart(harness: &dyn Harness) {
    let store = open(harness).await;
    store.put_layer(layer_row("app", "node-1", 5)).await.unwrap();
    let digest = Digest::of(b"inventory");
    store.verified(&layer("app"), &digest, "node-2", 6).await.unwrap();
    store.verified(&layer("app"), &Digest::of(b"an earlier inventory"), "node-3", 6).await.unwrap();
    store.verified(&layer("unknown"), &digest, "node-2", 6).await.unwrap();
    store.distrust("node-9", true, "ann", 7).await.unwrap();
    store.distrust("node-8", true, "ann", 7).await.unwrap();
    store.distrust("node-8", false, "ann", 8).await.unwrap();
    let summary = put(&*store, &stack("app", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    let rematch = store.begin_rematch(&DATABASE, 11).await.unwrap();
    assert_eq!(store.last_rematch().await.unwrap(), Some((DATABASE, None)));
    let outcome = RematchRow { at: 11, seconds: 0.5, stacks: 1, appeared: 2, went: 3 };
    store.end_rematch(rematch, &outcome).await.unwrap();
    drop(store);
    let store = open(harness).await;
    let [of] = store.layers().await.unwrap().try_into().unwrap();
    assert_eq!(of.without_marks, Some(Digest::of(b"without marks")));
    assert_eq!(
        (of.id, of.node.as_str(), of.verified_by),
        (layer("app"), "node-1", BTreeSet::from(["node-2".to_owned()]))
    );
    assert_eq!(store.distrusted().await.unwrap(), ["node-9"]);
    let row = InventoryRow { digest, compressed: b"inventory".to_vec(), size: 9, marks: true };
    assert_eq!(store.inventories(&[layer("app")]).await.unwrap().unwrap(), [row]);
    assert_eq!(store.inventories(&[layer("app"), layer("gone")]).await.unwrap(), None);
    let [of] = store.stacks().await.unwrap().try_into().unwrap();
    assert_eq!((of.id, of.chain, of.packages, of.unidentified), (summary.id, summary.chain, 2, 1));
    assert_eq!((of.types, of.distribution.unwrap().id.as_str()), (vec![PackageType::Npm], "debian"));
    assert_eq!((of.counts.severities.get(Severity::High), of.counts.by_layer), (2, vec![2, 0]));
    assert_eq!((of.inputs, of.matched), (Some(Digest::of(b"app")), Some(DATABASE)));
    assert_eq!(of.checked_by, ["node-1"]);
    assert_eq!(store.last_rematch().await.unwrap(), Some((DATABASE, Some(outcome))));
    // A package that is there already is found and not stored twice.
    put(&*store, &stack("other", &[("a", "1"), ("c", "1")]), "CVE-1", 11).await;
    let found = store.findings(&all(&stack_ids(&*store).await)).await.unwrap();
    assert_eq!(found.iter().map(|row| row.package.as_str()).collect::<Vec<_>>(), ["a", "a", "b", "c"]);
    assert_eq!((found[0].evidence.as_str(), found[0].purl.as_str()), ("/srv/a/package.json", "pkg:npm/a@1"));
    assert_eq!(found[0].verdict, found[1].verdict);
}

pub(super) async fn layers_of_a_distrusted_node_are_removed_and_those_that_another_read_since_are_not(
    harness: &dyn Harness,
) {
    let store = open(harness).await;
    for (name, node) in [("app", "liar"), ("base", "liar"), ("tool", "honest")] {
        store.put_layer(layer_row(name, node, 5)).await.unwrap();
    }
    // Another node was faster.
    store.put_layer(layer_row("base", "honest", 6)).await.unwrap();
    store.attribute(&layer("base"), "liar", "third").await.unwrap();
    store.forget_layers(&[layer("app"), layer("base")], "liar").await.unwrap();
    let left = store.layers().await.unwrap().into_iter();
    let left: BTreeSet<(LayerId, String)> = left.map(|layer| (layer.id, layer.node)).collect();
    assert_eq!(left, ["base", "tool"].map(|name| (layer(name), "honest".to_owned())).into());
}

pub(super) async fn a_layer_that_is_read_again_is_verified_again(harness: &dyn Harness) {
    let store = open(harness).await;
    let verified_by = async || store.layers().await.unwrap().remove(0).verified_by;
    store.put_layer(layer_row("app", "node-1", 5)).await.unwrap();
    store.verified(&layer("app"), &Digest::of(b"inventory"), "node-2", 6).await.unwrap();
    store.attribute(&layer("app"), "node-1", "node-2").await.unwrap();
    assert_eq!(verified_by().await, BTreeSet::new(), "a node does not verify what it read itself");
    store.verified(&layer("app"), &Digest::of(b"inventory"), "node-3", 6).await.unwrap();
    assert_eq!(verified_by().await.len(), 1);
    store.put_layer(layer_row("app", "node-4", 7)).await.unwrap();
    assert_eq!(verified_by().await, BTreeSet::new());
}

pub(super) async fn findings_open_and_close_in_generations_and_rows_that_stay_are_not_touched(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let summary = put(store, &stack("app", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    store.record_runs(&[run(plain("web"), summary.id, 1)], &[]).await.unwrap();
    let packages = store.packages_of(summary.id).await.unwrap();
    let of = |vulnerability: &str| packages.iter().map(|of| verdict(of.package, vulnerability)).collect::<Vec<_>>();
    let rows = async || {
        let seen = seen(store, plain("web"), None).await;
        let mut rows: Vec<_> = seen
            .into_iter()
            .map(|seen| seen.finding.unwrap())
            .map(|finding| (finding.vulnerability, finding.opened, finding.closed))
            .collect();
        rows.sort();
        rows
    };
    let row = |vulnerability: &str, opened, closed| (vulnerability.to_owned(), opened, closed);
    assert_eq!(find(store, &summary, &of("CVE-1"), 20).await, Ok((0, 0)));
    assert_eq!(rows().await, [row("CVE-1", 10, None), row("CVE-1", 10, None)]);
    let mixed = [&of("CVE-1")[..1], &of("CVE-2")[1..]].concat();
    assert_eq!(find(store, &summary, &mixed, 30).await, Ok((1, 1)));
    assert_eq!(find(store, &summary, &of("CVE-1"), 40).await, Ok((1, 1)));
    let expected =
        [row("CVE-1", 10, None), row("CVE-1", 10, Some(30)), row("CVE-1", 40, None), row("CVE-2", 30, Some(40))];
    assert_eq!(rows().await, expected);
    assert_eq!(find(store, &summary, &[], 40).await, Ok((0, 2)));
    assert_eq!(find(store, &summary, &of("CVE-1"), 40).await, Ok((2, 0)), "closed and opened within one second");
}

pub(super) async fn findings_stored_twice_at_the_same_time_open_once(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let summary = store.put_stack(&stack("app", &[("a", "1")]), 0).await.unwrap();
    let package = store.packages_of(summary.id).await.unwrap()[0].package;
    let verdicts = store.put_verdicts(&[verdict(package, "CVE-1")], 0).await.unwrap();
    for at in (0..200).step_by(10) {
        let (one, other) = (findings(summary.id, verdicts.clone()), findings(summary.id, verdicts.clone()));
        let (one, other) =
            tokio::join!(store.put_findings(&one, &DATABASE, at), store.put_findings(&other, &DATABASE, at + 1));
        assert_eq!(one.unwrap().0 + other.unwrap().0, 1);
        assert_eq!(store.findings(&all(&[summary.id])).await.unwrap().len(), 1);
        store.put_findings(&findings(summary.id, Vec::new()), &DATABASE, at + 2).await.unwrap();
        assert_eq!(store.findings(&all(&[summary.id])).await.unwrap().len(), 0);
    }
}

pub(super) async fn a_verdict_that_says_something_else_says_it_everywhere(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let summary = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
    let package = store.packages_of(summary.id).await.unwrap()[0].package;
    let worse =
        Verdict { severity: Severity::Critical, aliases: vec!["DSA-1".to_owned()], ..verdict(package, "CVE-1") };
    assert_eq!(find(store, &summary, &[worse], 20).await, Ok((0, 0)), "it is the same finding");
    let found = store.findings(&all(&[summary.id])).await.unwrap();
    assert_eq!((found[0].severity, found[0].aliases.as_slice()), (Severity::Critical, &["DSA-1".to_owned()][..]));
    let sets = [summary.id];
    for (name, rows) in [("DSA-1", 1), ("cve-1", 1), ("GHSA-CVE-1", 0)] {
        let filter = FindingsFilter { vulnerability: Some(name), ..all(&sets) };
        assert_eq!(store.findings(&filter).await.unwrap().len(), rows, "{name}");
        assert_eq!(store.vulnerability(name).await.unwrap().len(), rows, "{name}");
    }
    assert_eq!(store.verdicts(&[found[0].verdict]).await.unwrap()[0].severity, Severity::Critical);
    // Ids come in the order of the verdicts, also where some are there already and one is given twice.
    let [one, two] = ["CVE-1", "CVE-2"].map(|of| verdict(package, of));
    let ids = store.put_verdicts(&[two.clone(), one.clone(), two], 30).await.unwrap();
    assert_eq!((ids[0], ids[1]), (ids[2], found[0].verdict));
}

pub(super) async fn findings_are_paged_in_one_order_and_only_of_the_requested_package_sets(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let mut stacks = Vec::new();
    for number in 0..70 {
        let name = format!("app-{number}");
        let packages = [("shared", "1"), (name.as_str(), "1")];
        stacks.push(put(store, &stack(&name, &packages), "CVE-1", 10).await.id);
    }
    let package = store.packages_of(stacks[3]).await.unwrap()[0].package;
    let mild = Verdict { severity: Severity::Low, ..verdict(package, "CVE-0") };
    let summary = store.stacks().await.unwrap().into_iter().find(|of| of.id == stacks[3]).unwrap();
    let kept: Vec<Verdict> =
        store.packages_of(stacks[3]).await.unwrap().iter().map(|of| verdict(of.package, "CVE-1")).collect();
    find(store, &summary, &[kept, vec![mild]].concat(), 20).await.unwrap();
    type Place = (Severity, String, i64, i64);
    let place = |row: FindingRow| (row.severity, row.vulnerability, row.verdict, row.package_set);
    let compare = |order: FindingsOrder, a: &Place, b: &Place| match order {
        FindingsOrder::Severity => (a.0.rank(), &a.1, a.2, a.3).cmp(&(b.0.rank(), &b.1, b.2, b.3)),
        FindingsOrder::Vulnerability => (&a.1, a.0.rank(), a.2, a.3).cmp(&(&b.1, b.0.rank(), b.2, b.3)),
    };
    // Many package sets and few are read in other ways, and come in the same order.
    for (sets, count) in [(stacks.clone(), 141), (stacks[..10].to_vec(), 21), (Vec::new(), 0)] {
        for (order, descending) in [
            (FindingsOrder::Severity, false),
            (FindingsOrder::Severity, true),
            (FindingsOrder::Vulnerability, false),
            (FindingsOrder::Vulnerability, true),
        ] {
            let ordered = || FindingsFilter { order, descending, ..all(&sets) };
            let whole: Vec<_> = store.findings(&ordered()).await.unwrap().into_iter().map(place).collect();
            assert_eq!(whole.len(), count);
            let is_sorted = |a: &Place, b: &Place| compare(order, a, b) == if descending { Greater } else { Less };
            assert!(
                whole.is_sorted_by(is_sorted) && whole.iter().all(|(.., set)| sets.contains(set)),
                "{order:?} {descending}: {whole:?}"
            );
            let mut paged: Vec<Place> = Vec::new();
            loop {
                let filter = FindingsFilter { after: paged.last().cloned(), limit: 7, ..ordered() };
                let rows = store.findings(&filter).await.unwrap();
                let last = rows.len() < 7;
                paged.extend(rows.into_iter().map(place));
                if last {
                    break;
                }
            }
            assert_eq!(paged, whole, "{order:?} {descending}");
            // The place itself comes again if it is asked for.
            if let Some(third) = whole.get(2) {
                let filter = FindingsFilter { after: Some(third.clone()), inclusive: true, limit: 1, ..ordered() };
                assert_eq!(store.findings(&filter).await.unwrap().into_iter().map(place).next().as_ref(), Some(third));
            }
        }
        let low = FindingsFilter { at_least: Severity::Low, at_most: Severity::Low, ..all(&sets) };
        assert_eq!(store.findings(&low).await.unwrap().len(), usize::from(count > 0), "one severity only");
    }
}

pub(super) async fn findings_are_counted_over_a_scope(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let one = put(store, &stack("one", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    let two = put(store, &stack("two", &[("a", "1")]), "CVE-1", 10).await;
    let package = store.packages_of(two.id).await.unwrap()[0].package;
    let worse = Verdict { severity: Severity::Critical, ..verdict(package, "CVE-2") };
    find(store, &two, &[verdict(package, "CVE-1"), worse], 20).await.unwrap();
    let cases = [
        (vec![], [0, 0]),
        (vec![(one.id, 1)], [0, 2]),
        (vec![(one.id, 3), (two.id, 2)], [2, 8]),
        (vec![(two.id, 150_000), (9_999, 7)], [150_000, 150_000]),
    ];
    for (scope, [critical, high]) in cases {
        assert_eq!(
            store.count_findings(&scope).await.unwrap().worst_first(),
            [critical, high, 0, 0, 0, 0],
            "{scope:?}"
        );
    }
    find(store, &two, &[], 30).await.unwrap();
    assert!(store.count_findings(&[(two.id, 5)]).await.unwrap().is_empty(), "closed findings are not counted");
}

pub(super) async fn packages_are_counted_over_the_requested_package_sets(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let one = put(store, &stack("one", &[("lodash", "4"), ("left-pad", "1")]), "CVE-1", 10).await.id;
    let two = put(store, &stack("two", &[("lodash", "4")]), "CVE-2", 10).await.id;
    let ordered = async |package_sets: &[(i64, u64)], order, descending, name: Option<&'static str>| {
        let filter = PackagesFilter {
            package_sets,
            r#type: None,
            name,
            version: None,
            order,
            descending,
            after: None,
            limit: 10,
        };
        let rows = store.list_packages(&filter).await.unwrap().into_iter();
        rows.map(|row| (row.name, row.stacks, row.containers, row.severities.get(Severity::High))).collect::<Vec<_>>()
    };
    let list = async |package_sets: &[(i64, u64)], by_containers: bool, name: Option<&'static str>| {
        let order = if by_containers { PackagesOrder::Containers } else { PackagesOrder::Name };
        ordered(package_sets, order, by_containers, name).await
    };
    let row = |name: &str, stacks, containers, high| (name.to_owned(), stacks, containers, high);
    let both = [(one, 3), (two, 40)];
    for order in [PackagesOrder::Name, PackagesOrder::Containers, PackagesOrder::Findings] {
        for name in [None, Some("LODASH")] {
            let mut up = ordered(&both, order, false, name).await;
            let down = ordered(&both, order, true, name).await;
            up.reverse();
            assert_eq!((up.len(), up), (if name.is_some() { 1 } else { 2 }, down), "{order:?} {name:?}");
        }
    }
    assert_eq!(ordered(&both, PackagesOrder::Findings, true, None).await[0].0, "lodash", "it has two findings");
    assert_eq!(list(&both, false, None).await, [row("left-pad", 1, 3, 1), row("lodash", 2, 43, 2)]);
    assert_eq!(list(&both, true, None).await, [row("lodash", 2, 43, 2), row("left-pad", 1, 3, 1)]);
    assert_eq!(list(&both, false, Some("LODASH")).await, [row("lodash", 2, 43, 2)]);
    assert_eq!(list(&both, true, Some("LODASH")).await, [row("lodash", 2, 43, 2)]);
    assert_eq!(list(&[(two, 40)], false, None).await, [row("lodash", 1, 40, 1)], "nothing of the other stack");
    for limit in [1, 2, 9] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let place = after.as_ref().map(|(purl, id, place): &(String, i64, i64)| (purl.as_str(), *id, *place));
            let page = store.listed_packages(one, place, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some((last.purl.clone(), last.id, last.place));
            listed.extend(page.into_iter().map(|row| row.name));
        }
        assert_eq!(listed, ["left-pad", "lodash"], "by package URL, nothing twice, in pages of {limit}");
    }
    let has = store.packages_named("Lodash", Some(&[one, two])).await.unwrap();
    assert_eq!(has.iter().map(|row| row.package_set).collect::<Vec<_>>(), [one, two]);
    let shared = [(&has[0].purl, &has[1].purl), (&has[0].evidence, &has[1].evidence)];
    assert!(shared.iter().all(|(one, two)| Arc::ptr_eq(one, two)), "a text that many rows have is in memory once");
    let has = store.packages_with("ghsa-cve-2", Some(&[one, two])).await.unwrap();
    let has: Vec<_> = has.iter().map(|row| (row.package_set, &*row.name)).collect();
    assert_eq!(has, [(two, "lodash")]);
    let rows = store.vulnerability("CVE-1").await.unwrap();
    let found: Vec<_> = rows.iter().map(|row| (row.package.as_str(), row.package_sets.clone())).collect();
    assert_eq!(found, [("left-pad", vec![one]), ("lodash", vec![one])]);
    assert_eq!((rows[0].severity, rows[0].status), (Severity::High, FindingStatus::Fixed));
}

pub(super) async fn a_package_with_several_owners_is_listed_once(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let owner = |name: &str| {
        let owner = Owner { package: Package::new(PackageType::Deb, name, "1") };
        (Some(owner), Some(format!("pkg:deb/debian/{name}@1")))
    };
    let mut app = stack("app", &[("a", "1"), ("a", "1"), ("a", "1"), ("a", "1")]);
    for (package, name) in app.packages.iter_mut().zip(["first", "second", "second"]) {
        (package.package.owner, package.owner_purl) = owner(name);
    }
    let last = &mut app.packages[3].package;
    (last.evidence, last.layer) = (vec![b"opt/a/package.json".to_vec()], 1);
    let summary = put(store, &app, "CVE-1", 10).await;
    let packages = store.packages_of(summary.id).await.unwrap();
    let owners: BTreeSet<Option<i64>> = packages.iter().map(|of| of.owner).collect();
    assert_eq!((packages.len(), owners.len()), (3, 3), "once for each owner, and once without one");
    let ids: Vec<i64> = owners.into_iter().flatten().collect();
    let names: BTreeSet<String> =
        store.packages(&ids).await.unwrap().into_iter().map(|(_, package, _)| package.name).collect();
    assert_eq!(names, ["first", "second"].map(ToOwned::to_owned).into());
    let found = store.findings(&all(&[summary.id])).await.unwrap();
    let shown: Vec<_> = found.iter().map(|row| (row.evidence.as_str(), row.layer)).collect();
    assert_eq!(shown, [("/opt/a/package.json", 1)], "the one without an owner is shown");
    let sets = [(summary.id, 2)];
    let filter = PackagesFilter {
        package_sets: &sets,
        r#type: Some("npm"),
        name: None,
        version: None,
        order: PackagesOrder::Containers,
        descending: true,
        after: None,
        limit: 9,
    };
    let listed = store.list_packages(&filter).await.unwrap();
    assert_eq!(listed.iter().map(|row| (row.stacks, row.containers)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(store.packages_named("a", Some(&[summary.id])).await.unwrap().len(), 3, "who asks who has it sees each");
    let listed = store.listed_packages(summary.id, None, 9).await.unwrap();
    assert_eq!(listed.len(), 3, "an export gets each path");
    assert_eq!(listed.iter().map(|row| row.place).collect::<Vec<_>>(), [0, 1, 2]);
}

pub(super) async fn fixed_findings_are_those_that_a_subject_had_and_does_not_have(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let with = async |name: &str, version: &str, opened| {
        put(store, &stack(&format!("{name}-{version}"), &[(name, version)]), "CVE-1", opened).await
    };
    let begin = async |name: &str, set: &Summary, at| {
        store.record_runs(&[run(plain(name), set.id, at)], &[]).await.unwrap();
    };
    let end = async |name: &str, set: &Summary, at| {
        store.record_runs(&[], &[run(plain(name), set.id, at)]).await.unwrap();
    };
    let clean = put(store, &stack("clean", &[("clean", "1")]), "CVE-9", 1).await;

    let a = with("a", "1", 12).await;
    begin("it runs", &a, 10).await;

    let b = with("b", "1", 10).await;
    begin("an image without it", &b, 10).await;
    end("an image without it", &b, 20).await;
    begin("an image without it", &clean, 20).await;

    let c = with("c", "1", 10).await;
    begin("a database without it", &c, 10).await;
    find(store, &c, &[], 15).await.unwrap();

    let d = with("d", "1", 10).await;
    begin("and it is back", &d, 10).await;
    find(store, &d, &[], 15).await.unwrap();
    let package = store.packages_of(d.id).await.unwrap()[0].package;
    find(store, &d, &[verdict(package, "CVE-1")], 18).await.unwrap();

    let e = with("e", "1", 30).await;
    begin("it was never there in that run", &e, 10).await;
    end("it was never there in that run", &e, 20).await;
    begin("it was never there in that run", &clean, 40).await;

    let [old, new] = [with("f", "1", 10).await, with("f", "2", 12).await];
    begin("another version has it still", &old, 10).await;
    end("another version has it still", &old, 20).await;
    begin("another version has it still", &new, 12).await;

    let h = with("h", "1", 10).await;
    begin("twice", &h, 10).await;
    end("twice", &h, 20).await;
    begin("twice", &h, 90_000).await;
    end("twice", &h, 90_005).await;

    let fixed = async |name: &str, after: Option<&FindingName>, limit| {
        store.fixed(&plain(name), after, 99_999, limit).await.unwrap()
    };
    for (name, expected) in [
        ("it runs", None),
        ("an image without it", Some((10, 20))),
        ("a database without it", Some((10, 15))),
        ("and it is back", None),
        ("it was never there in that run", None),
        ("another version has it still", None),
        ("twice", Some((10, 90_005))),
        ("nobody", None),
    ] {
        let rows = fixed(name, None, 9).await;
        assert_eq!(rows.iter().map(|row| (row.since, row.on)).collect::<Vec<_>>(), Vec::from_iter(expected), "{name}");
    }

    // By name, page by page, each with its verdict.
    let many = put(store, &stack("many", &[("x", "1"), ("y", "1"), ("z", "1")]), "CVE-2", 10).await;
    begin("many", &many, 10).await;
    end("many", &many, 20).await;
    let mut after: Option<FindingName> = None;
    let mut names = Vec::new();
    while let Some(row) = fixed("many", after.as_ref(), 1).await.pop() {
        let of = store.verdicts(&[row.verdict]).await.unwrap().remove(0);
        assert_eq!((of.vulnerability, (of.r#type, of.package)), row.name);
        names.push(row.name.1.1.clone());
        after = Some(row.name);
    }
    assert_eq!(names, ["x", "y", "z"]);
}

pub(super) async fn runs_are_intervals_and_unused_rows_are_removed(harness: &dyn Harness) {
    let store = &*open(harness).await;
    for name in ["old", "new", "base"] {
        store.put_layer(layer_row(name, "node-1", 1)).await.unwrap();
    }
    let old = put(store, &stack("old", &[("a", "1"), ("only-old", "1")]), "CVE-1", 10).await.id;
    let new = put(store, &stack("new", &[("a", "2")]), "CVE-1", 20).await.id;
    let web = || plain("web");
    store.record_runs(&[run(web(), old, 10)], &[]).await.unwrap();
    store.record_runs(&[run(web(), old, 12)], &[]).await.unwrap();
    store.record_runs(&[run(web(), new, 20)], &[run(web(), old, 20)]).await.unwrap();
    assert_eq!(store.open_runs().await.unwrap(), [run(web(), new, 20)]);
    let ended = async |sets: &[i64], namespaces, after| store.ended_runs(sets, namespaces, after, 9).await.unwrap();
    let old_run = ended(&[old, new], None, (0, 0)).await;
    let was: Vec<_> = old_run.iter().map(|run| (run.subject.clone(), run.package_set, run.until)).collect();
    assert_eq!(was, [(web(), old, 20)], "the new one runs");
    assert!(ended(&[old, new], None, (old_run[0].number, old)).await.is_empty(), "behind it is nothing");
    assert!(ended(&[new], None, (0, 0)).await.is_empty());
    assert!(ended(&[old], Some(&["k8s.io".to_owned()][..]), (0, 0)).await.is_empty(), "it is of no workload");
    assert_eq!(store.packages_named("only-old", None).await.unwrap().len(), 1, "also without a container that runs");
    let with = seen(store, web(), Some(&["CVE-1".to_owned()])).await;
    let spans: BTreeSet<(i64, Option<i64>, bool)> =
        with.iter().map(|seen| (seen.since, seen.until, seen.finding.is_some())).collect();
    assert_eq!(spans, BTreeSet::from([(10, Some(20), true), (20, None, true)]));
    let without = seen(store, web(), Some(&["CVE-9".to_owned()])).await;
    assert!(
        without.len() == 2 && without.iter().all(|seen| seen.finding.is_none()),
        "runs without it are returned too"
    );

    let counts = async || {
        let layers = store.layers().await.unwrap().len();
        let stacks = store.stacks().await.unwrap();
        let named = store.packages_named("only-old", Some(&[old])).await.unwrap().len();
        (layers, stacks.iter().map(|of| (of.id, of.catalogers)).collect::<Vec<_>>(), named)
    };
    // Young enough: all stays.
    store.tidy(&retention(5, 15), &[new]).await.unwrap();
    assert_eq!(counts().await, (3, vec![(old, 3), (new, 3)], 1));
    // Nobody has run the old stack for long: its packages and its layer go; its findings stay for the history.
    store.tidy(&retention(5, 30), &[new]).await.unwrap();
    assert_eq!(counts().await, (2, vec![(old, 0), (new, 3)], 0));
    let [of, _] = store.stacks().await.unwrap().try_into().unwrap();
    assert_eq!((of.inputs, of.matched), (None, None));
    assert!(store.stacks_to_match(&DATABASE).await.unwrap().is_empty(), "without packages it is not matched");
    assert_eq!(seen(store, web(), None).await.len(), 3);
    // The history is over as well.
    store.tidy(&retention(30, 30), &[new]).await.unwrap();
    assert_eq!(counts().await, (2, vec![(new, 3)], 0));
    assert_eq!(runs_of(store, web()).await, [(20, None, new)]);
    assert_eq!(store.vulnerability("CVE-1").await.unwrap().len(), 1);
    harness.check();
    // It is run again, and everything about it is as if it were new.
    let again = put(store, &stack("old", &[("only-old", "1")]), "CVE-7", 50).await.id;
    let found = store.findings(&all(&[again])).await.unwrap();
    let found: Vec<_> = found.iter().map(|row| (row.package.as_str(), row.vulnerability.as_str())).collect();
    assert_eq!(found, [("only-old", "CVE-7")]);
}

pub(super) async fn a_container_that_crashes_every_minute_has_one_run(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let crashing = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await.id;
    let other = put(store, &stack("other", &[("b", "1")]), "CVE-1", 10).await.id;
    let web = || plain("web");
    for minute in 0..50 {
        let at = minute * 60;
        store.record_runs(&[run(web(), crashing, at)], &[run(web(), crashing, at + 5)]).await.unwrap();
    }
    store.record_runs(&[run(web(), other, 3_000)], &[run(web(), other, 3_100)]).await.unwrap();
    store.record_runs(&[run(web(), crashing, 3_200)], &[run(web(), crashing, 3_300)]).await.unwrap();
    // A day later it is another run.
    store.record_runs(&[run(web(), crashing, 90_000)], &[]).await.unwrap();
    let expected = [
        (0, Some(2_945), crashing),
        (3_000, Some(3_100), other),
        (3_200, Some(3_300), crashing),
        (90_000, None, crashing),
    ];
    assert_eq!(runs_of(store, web()).await, expected);
}

pub(super) async fn subjects_of_every_kind_survive_a_restart(harness: &dyn Harness) {
    let store = open(harness).await;
    let set = put(&*store, &stack("app", &[("a", "1")]), "CVE-1", 10).await.id;
    // Names that would be one text if they were joined.
    let container = |namespace: &str, container: &str| SubjectKey::Container {
        node: "node".into(),
        namespace: namespace.into(),
        container: container.into(),
    };
    let subjects = [
        workload("web"),
        workload("api"),
        plain("web"),
        container("a", "b/c"),
        container("a/b", "c"),
        SubjectKey::Node { node: "node".into() },
    ];
    let begun: Vec<Run> = subjects.iter().map(|subject| run(subject.clone(), set, 10)).collect();
    store.record_runs(&begun, &[]).await.unwrap();
    store.record_runs(&[run(plain("web"), 99_999, 10)], &[]).await.unwrap();
    drop(store);
    let store = open(harness).await;
    let open: BTreeSet<Run> = store.open_runs().await.unwrap().into_iter().collect();
    assert_eq!(open, begun.into_iter().collect());
    for subject in subjects {
        assert_eq!(runs_of(&*store, subject.clone()).await, [(10, None, set)], "{subject:?}");
        let text = serde_json::to_string(&subject).unwrap();
        assert_eq!(serde_json::from_str::<SubjectKey>(&text).unwrap(), subject);
    }
}

pub(super) async fn a_stack_is_matched_for_one_database_until_it_is_stored_again(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let other = Digest([2; 32]);
    let to_match = async |database: &Digest| {
        let stacks = store.stacks_to_match(database).await.unwrap();
        stacks.into_iter().map(|of| (of.id, of.matched)).collect::<Vec<_>>()
    };
    let summary = store.put_stack(&stack("app", &[("a", "1")]), 0).await.unwrap();
    assert_eq!((summary.inputs, summary.matched), (Some(Digest::of(b"app")), None));
    assert_eq!(to_match(&DATABASE).await, [(summary.id, None)]);
    find(store, &summary, &[], 10).await.unwrap();
    assert_eq!(to_match(&DATABASE).await, []);
    assert_eq!(to_match(&other).await, [(summary.id, Some(DATABASE))]);
    store.put_findings(&findings(summary.id, Vec::new()), &other, 20).await.unwrap();
    assert_eq!(to_match(&DATABASE).await, [(summary.id, Some(other))]);
    let inputs = Digest::of(b"read anew");
    let again = store.put_stack(&MergedStack { inputs, ..stack("app", &[("a", "1")]) }, 0).await.unwrap();
    assert_eq!((again.id, again.inputs, again.matched), (summary.id, Some(inputs), None));
    assert_eq!(to_match(&other).await, [(summary.id, None)]);
}

pub(super) async fn ids_are_never_assigned_again(harness: &dyn Harness) {
    let mut known: BTreeSet<(&str, i64)> = BTreeSet::new();
    for round in 0..4 {
        let store = open(harness).await;
        let name = format!("app-{round}");
        let summary = put(&*store, &stack(&name, &[(name.as_str(), "1")]), "CVE-1", 10).await;
        let row = store.findings(&all(&[summary.id])).await.unwrap().remove(0);
        let package = store.packages_of(summary.id).await.unwrap()[0].package;
        for id in [("stack", summary.id), ("package", package), ("verdict", row.verdict)] {
            assert!(known.insert(id), "{id:?} in round {round}");
        }
        // Everything goes, and what is stored next is something else.
        store.tidy(&retention(100, 100), &[]).await.unwrap();
        assert!(stack_ids(&*store).await.is_empty());
    }
}

pub(super) async fn findings_of_a_removed_package_set_are_rejected_and_writes_go_on(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let summary = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
    let ids: Vec<i64> = store.findings(&all(&[summary.id])).await.unwrap().into_iter().map(|row| row.verdict).collect();
    store.tidy(&retention(100, 100), &[]).await.unwrap();
    let cases = [
        store.put_findings(&findings(summary.id, ids.clone()), &DATABASE, 20).await.map(|_| ()),
        store.put_findings(&findings(summary.id, Vec::new()), &DATABASE, 20).await.map(|_| ()),
        store.put_verdicts(&[verdict(77_777, "CVE-1")], 20).await.map(|_| ()),
    ];
    for refused in cases {
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Rejected);
    }
    let other = put(store, &stack("other", &[("b", "1")]), "CVE-1", 10).await;
    let refused = store.put_findings(&findings(other.id, ids), &DATABASE, 20).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Rejected, "{refused}");
    assert!(store.health().is_accepting());
    assert_eq!(open_findings(store).await, [("b".to_owned(), "CVE-1".to_owned())]);
}

pub(super) async fn days_are_replaced_kept_and_removed(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let count = |day, namespace: Option<&str>, rank, findings| DayCount {
        day,
        namespace: namespace.map(ToOwned::to_owned),
        severity: Severity::from_rank(rank).unwrap(),
        findings,
    };
    let (old, first, second) = (date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 2));
    for day in [old, first] {
        store.record_day(day, &[count(day, None, 0, 9), count(day, Some("gone"), 1, 9)]).await.unwrap();
    }
    let counts = [count(first, None, 0, 1), count(first, Some("shop"), 0, 2), count(first, Some("shop"), 3, 150_000)];
    store.record_day(first, &counts).await.unwrap();
    store.record_day(second, &[count(second, Some("shop"), 1, 4)]).await.unwrap();
    assert_eq!(store.days(second).await.unwrap(), [count(second, Some("shop"), 1, 4)]);
    assert_eq!(store.days(old).await.unwrap().len(), 6);
    store.tidy(&retention(0, 0), &[]).await.unwrap();
    let left = store.days(old).await.unwrap();
    assert_eq!((left.len(), &left[..3]), (4, &counts[..]), "days since the first are kept");
}

fn only(mut events: Vec<OutboxEvent>) -> OutboxEvent {
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

pub(super) async fn times_of_a_clock_that_was_ahead_are_corrected(harness: &dyn Harness) {
    const NOW: i64 = 50_000;
    let store = &*open_with_outbox(harness).await;
    store.put_layer(layer_row("early", "node-1", 5)).await.unwrap();
    store.put_layer(layer_row("late", "node-1", 90_000)).await.unwrap();
    store.verified(&layer("late"), &Digest::of(b"inventory"), "node-2", 95_000).await.unwrap();
    store.distrust("node-9", true, "ann", 96_000).await.unwrap();
    let summary = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10_000).await;
    let packages = store.packages_of(summary.id).await.unwrap();
    let present: Vec<Verdict> = packages.iter().map(|of| verdict(of.package, "CVE-1")).collect();
    let web = || run(plain("web"), summary.id, 0);
    store.record_runs(&[Run { at: 10_000, ..web() }], &[]).await.unwrap();
    for (verdicts, begun, at) in
        [(&[][..], false, 60_000), (&present[..], true, 70_000), (&[], false, 80_000), (&present, true, 90_000)]
    {
        find(store, &summary, verdicts, at).await.unwrap();
        let runs = [Run { at, ..web() }];
        let (begun, ended) = if begun { (&runs[..], &[][..]) } else { (&[][..], &runs[..]) };
        store.record_runs(begun, ended).await.unwrap();
    }
    let rematch = store.begin_rematch(&DATABASE, 90_000).await.unwrap();
    let outcome = RematchRow { at: 90_000, seconds: 0.5, stacks: 1, appeared: 2, went: 3 };
    store.end_rematch(rematch, &outcome).await.unwrap();
    let count = |findings| [DayCount { day: date(1970, 1, 1), namespace: None, severity: Severity::High, findings }];
    store.record_day(date(1970, 1, 1), &count(1)).await.unwrap();
    store.record_day(date(2026, 1, 1), &count(2)).await.unwrap();
    assert_eq!(runs_of(store, plain("web")).await.len(), 3, "pauses are long enough for runs of their own");

    let corrected = store.correct_times(NOW).await.unwrap();
    assert!(corrected.rows > 10 && corrected.latest == 96_000, "{corrected:?}");
    let read: Vec<(LayerId, i64)> =
        store.layers().await.unwrap().iter().map(|layer| (layer.id, layer.read_at)).collect();
    assert_eq!(BTreeSet::from_iter(read), BTreeSet::from([(layer("early"), 5), (layer("late"), NOW)]));
    assert_eq!(
        runs_of(store, plain("web")).await,
        [(10_000, Some(NOW), summary.id), (NOW, None, summary.id)],
        "the last of the runs in the future goes on"
    );
    let seen = seen(store, plain("web"), None).await;
    let findings: BTreeSet<(i64, Option<i64>)> =
        seen.into_iter().filter_map(|seen| seen.finding).map(|finding| (finding.opened, finding.closed)).collect();
    assert_eq!(findings, BTreeSet::from([(10_000, Some(NOW)), (NOW, None)]));
    assert_eq!(store.last_rematch().await.unwrap().unwrap().1.unwrap().at, NOW);
    let events = store.outbox(0, 1_000).await.unwrap();
    assert!(events.len() > 5 && events.iter().all(|event| event.at <= NOW), "{events:?}");
    let days: Vec<_> = store.days(date(1970, 1, 1)).await.unwrap().into_iter().map(|count| count.day).collect();
    assert_eq!(days, [date(1970, 1, 1)], "a day that has not come yet is counted when it comes");
    assert_eq!(store.correct_times(NOW).await.unwrap(), CorrectedTimes::default());
}

pub(super) async fn events_are_stored_with_the_write_that_they_follow_from(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let mut last = 0;
    let mut new = async || {
        let rows = store.outbox(last, 1000).await.unwrap();
        last = rows.last().map_or(last, |row| row.id);
        assert!(rows.iter().all(|row| row.cluster == "test"));
        rows.into_iter().map(|row| row.event).collect::<Vec<_>>()
    };
    let kinds = |events: &[OutboxEvent]| events.iter().map(OutboxEvent::kind).collect::<Vec<_>>();
    let summary = store.put_stack(&stack("app", &[("a", "1")]), 5).await.unwrap();
    assert_eq!(kinds(&new().await), ["inventory-ready", "coverage-changed"]);
    store.put_stack(&stack("app", &[("a", "1")]), 6).await.unwrap();
    assert_eq!(kinds(&new().await), ["inventory-ready"], "the coverage is the same");
    let package = store.packages_of(summary.id).await.unwrap()[0].package;
    let aliases = vec!["with \"quotes\" and \\".to_owned(), "GHSA-1".to_owned()];
    let told = Verdict { aliases: aliases.clone(), ..verdict(package, "CVE-1") };
    find(store, &summary, std::slice::from_ref(&told), 10).await.unwrap();
    let OutboxEvent::FindingOpened(finding) = only(new().await) else { panic!("another event") };
    assert_eq!((finding.package_set, finding.vulnerability.as_str()), (summary.id, "CVE-1"));
    assert_eq!((finding.aliases, finding.severity, finding.score), (aliases, Severity::High, Some(7.5)));
    assert_eq!((finding.status, finding.fixed.as_deref()), (FindingStatus::Fixed, Some("2")));
    assert_eq!((finding.package_type.as_str(), finding.purl.as_str()), ("npm", "pkg:npm/a@1"));
    find(store, &summary, std::slice::from_ref(&told), 11).await.unwrap();
    assert_eq!(new().await, [], "nothing changed");
    let worse = Verdict { severity: Severity::Critical, fixed: None, aliases: Vec::new(), ..told };
    find(store, &summary, std::slice::from_ref(&worse), 12).await.unwrap();
    let OutboxEvent::FindingChanged(finding) = only(new().await) else { panic!("another event") };
    assert_eq!((finding.severity, finding.fixed, finding.aliases), (Severity::Critical, None, Vec::new()));
    find(store, &summary, &[], 13).await.unwrap();
    assert_eq!(kinds(&new().await), ["finding-closed"]);
    find(store, &summary, &[worse], 14).await.unwrap();
    assert_eq!(kinds(&new().await), ["finding-opened"]);

    store.begin_rematch(&DATABASE, 20).await.unwrap();
    store.begin_rematch(&DATABASE, 21).await.unwrap();
    assert_eq!(new().await, [OutboxEvent::DatabaseChanged { database: DATABASE.to_string() }]);

    let other = store.put_stack(&stack("other", &[("a", "2")]), 25).await.unwrap();
    new().await;
    let changed =
        |package_set| OutboxEvent::WorkloadChanged { subject: workload("web"), package_set: Some(package_set) };
    store.record_runs(&[run(workload("web"), summary.id, 30)], &[]).await.unwrap();
    store.record_runs(&[run(workload("web"), summary.id, 31)], &[]).await.unwrap();
    assert_eq!(new().await, [changed(summary.id)]);
    store.record_runs(&[run(workload("web"), other.id, 32)], &[run(workload("web"), summary.id, 32)]).await.unwrap();
    assert_eq!(new().await, [changed(other.id)], "it has another one");
    store.record_runs(&[], &[run(workload("web"), other.id, 33)]).await.unwrap();
    assert_eq!(new().await, [OutboxEvent::WorkloadGone { subject: workload("web") }]);
    store.record_runs(&[run(workload("web"), other.id, 34)], &[]).await.unwrap();
    assert_eq!(new().await, [changed(other.id)], "it is back, in the same run");
    store.record_runs(&[run(workload("web"), summary.id, 34)], &[]).await.unwrap();
    store.record_runs(&[], &[run(workload("web"), summary.id, 35)]).await.unwrap();
    let less = OutboxEvent::WorkloadChanged { subject: workload("web"), package_set: None };
    assert_eq!(new().await, [changed(summary.id), less], "it has one of two no more");

    let workload =
        WorkloadKey { namespace: "shop".into(), group: "apps".into(), kind: "Deployment".into(), name: "web".into() };
    let issue = IssueEvent { workload, rule: "privileged".to_owned(), path: "spec".to_owned() };
    let text = |text: &str| text.to_owned();
    let audit = |action: &str, target: &str, outcome| OutboxEvent::Audit {
        actor: text("ann"),
        action: text(action),
        target: text(target),
        outcome,
    };
    store.distrust("node-1", true, "ann", 35).await.unwrap();
    store.distrust("node-1", false, "ann", 36).await.unwrap();
    let done = AuditOutcome::Done;
    assert_eq!(new().await, [audit("distrust-node", "node-1", done), audit("trust-node", "node-1", done)]);
    let events = [
        OutboxEvent::IssueOpened(issue.clone()),
        OutboxEvent::IssueClosed(issue),
        OutboxEvent::SuppressionChanged { suppression: text("s"), active: true, reason: text("r") },
        OutboxEvent::CoverageChanged {
            package_set: None,
            subject: Some(plain("web")),
            from: None,
            to: text("failed"),
            reason: text("\u{1F600}"),
        },
        OutboxEvent::ProblemRaised { problem: text("database"), message: text("m") },
        OutboxEvent::ProblemCleared { problem: text("database") },
        audit("push-database", "sha256:1", AuditOutcome::Denied),
    ];
    store.append(&events, 40).await.unwrap();
    assert_eq!(new().await, events);
}

pub(super) async fn without_a_target_no_event_is_stored(harness: &dyn Harness) {
    let store = &*open(harness).await;
    let summary = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
    store.record_runs(&[run(plain("web"), summary.id, 10)], &[]).await.unwrap();
    store.begin_rematch(&DATABASE, 20).await.unwrap();
    store.distrust("node-1", true, "ann", 20).await.unwrap();
    let raised = OutboxEvent::ProblemRaised { problem: "x".to_owned(), message: "m".to_owned() };
    store.append(&[raised], 20).await.unwrap();
    assert_eq!(store.outbox(0, 10).await.unwrap(), []);
    assert_eq!(store.open_conditions().await.unwrap(), BTreeSet::new());
}

pub(super) async fn conditions_are_open_from_the_event_that_begins_them_until_the_one_that_ends_them(
    harness: &dyn Harness,
) {
    let workload =
        WorkloadKey { namespace: "shop".into(), group: "apps".into(), kind: "Deployment".into(), name: "web".into() };
    let issue = IssueEvent { workload, rule: "privileged".to_owned(), path: "spec \"quoted\"".to_owned() };
    let problem = |key: &str| Condition::Problem { problem: key.to_owned() };
    let raised = |key: &str| OutboxEvent::ProblemRaised { problem: key.to_owned(), message: "m".to_owned() };
    {
        let store = open_with_outbox(harness).await;
        let events = [OutboxEvent::IssueOpened(issue.clone()), raised("a"), raised("b"), raised("a")];
        store.append(&events, 1).await.unwrap();
        store.append(&[problem("a").ended()], 2).await.unwrap();
        // What begins and ends at once is not open; what ends and begins at once is.
        store.append(&[raised("c"), problem("c").ended(), problem("b").ended(), raised("b")], 3).await.unwrap();
        // Whether the events were delivered does not matter.
        while store.remove_told().await.unwrap() {}
    }
    let store = open_with_outbox(harness).await;
    let open = BTreeSet::from([Condition::Issue(issue.clone()), problem("b")]);
    assert_eq!(store.open_conditions().await.unwrap(), open);
    store.append(&open.into_iter().map(Condition::ended).collect::<Vec<_>>(), 4).await.unwrap();
    assert_eq!(store.open_conditions().await.unwrap(), BTreeSet::new());
    let told: Vec<OutboxEvent> = store.outbox(0, 100).await.unwrap().into_iter().map(|row| row.event).collect();
    assert_eq!(told, [OutboxEvent::IssueClosed(issue), problem("b").ended()]);
}

pub(super) async fn ids_of_events_grow(harness: &dyn Harness) {
    let cleared = |number: usize| OutboxEvent::ProblemCleared { problem: number.to_string() };
    let mut last = 0;
    for round in 0..3 {
        let store = open_with_outbox(harness).await;
        let events: Vec<OutboxEvent> = (0..5).map(cleared).collect();
        store.append(&events, round).await.unwrap();
        let page = store.outbox(last, 2).await.unwrap();
        assert_eq!(page.iter().map(|row| row.event.clone()).collect::<Vec<_>>(), events[..2]);
        assert!(page[0].id > last && page[1].id > page[0].id && page[0].at == round);
        last = store.outbox(0, 10).await.unwrap().last().unwrap().id;
        // No target waits for them. The ids go on.
        while store.remove_told().await.unwrap() {}
        assert_eq!(store.outbox(0, 10).await.unwrap(), []);
    }
}

/// Polls a future at most `polls` times, and drops it if it is not done by then.
async fn poll_at_most<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Drops `write` after 0, 1, 2, … polls until it completes, each time on the store as the last one left it.
async fn interrupt<T>(write: impl AsyncFn() -> Result<T, StoreError>) -> T {
    for polls in 0..1_000 {
        if let Some(outcome) = poll_at_most(polls, write()).await {
            return outcome.unwrap();
        }
        // Other tasks get their turn in between, some times.
        for _ in 0..polls % 3 {
            tokio::task::yield_now().await;
        }
    }
    panic!("a write that does not end");
}

pub(super) async fn a_write_that_is_dropped_at_any_point_is_stored_whole_or_not_at_all(harness: &dyn Harness) {
    let mut expected = Vec::new();
    for round in 0..12 {
        let store = open_with_outbox(harness).await;
        let name = format!("app-{round}");
        let packages = [("shared", "1"), (name.as_str(), "1")];
        let app = stack(&name, &packages);
        interrupt(async || store.put_layer(layer_row(&name, "node-1", 1)).await).await;
        let summary = interrupt(async || store.put_stack(&app, 10).await).await;
        let packages = store.packages_of(summary.id).await.unwrap();
        assert_eq!(packages.len(), 2);
        let vulnerability = format!("CVE-{round}");
        let verdicts: Vec<Verdict> = packages.iter().map(|of| verdict(of.package, &vulnerability)).collect();
        // A write that nobody waits for any more, and another at once: ids are those of the rows.
        drop(poll_at_most(1, store.put_verdicts(&verdicts[..1], 10)).await);
        let ids = interrupt(async || store.put_verdicts(&verdicts, 10).await).await;
        let told = findings(summary.id, ids);
        interrupt(async || store.put_findings(&told, &DATABASE, 10).await).await;
        interrupt(async || store.record_runs(&[run(plain(&name), summary.id, 10)], &[]).await).await;
        interrupt(async || store.tidy(&retention(5, 5), &[summary.id]).await).await;
        for package in ["shared", name.as_str()] {
            expected.push((package.to_owned(), vulnerability.clone()));
        }
        if round % 3 == 2 {
            // A restart while a write is under way.
            drop(poll_at_most(1, store.distrust("node-1", true, "ann", 1)).await);
        }
        drop(store);
        let store = open(harness).await;
        let mut found = open_findings(&*store).await;
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "round {round}");
        assert_eq!(store.layers().await.unwrap().len(), round + 1);
        assert_eq!(store.open_runs().await.unwrap().len(), round + 1);
        assert!(store.stacks().await.unwrap().iter().all(|of| of.matched == Some(DATABASE)));
        assert!(store.health().is_accepting());
        drop(store);
        harness.check();
    }
}

pub(super) async fn a_failing_commit_stores_nothing_and_the_next_write_is_stored(harness: &dyn Harness) {
    let store = open(harness).await;
    store.put_layer(layer_row("before", "node-1", 1)).await.unwrap();
    harness.fail_commits(true);
    for _ in 0..3 {
        let refused = store.put_layer(layer_row("refused", "node-1", 1)).await.unwrap_err();
        assert!(refused.kind.is_transient(), "{refused:?}");
        assert_eq!(store.layers().await.unwrap().len(), 1);
        // Writes that do not fail are not hidden in a transaction that was left open.
        store.distrust("node-2", true, "ann", 1).await.unwrap();
        assert_eq!(store.distrusted().await.unwrap(), ["node-2"]);
    }
    harness.fail_commits(false);
    store.probe().await.unwrap();
    store.put_layer(layer_row("after", "node-1", 1)).await.unwrap();
    drop(store);
    let there: BTreeSet<LayerId> =
        open(harness).await.layers().await.unwrap().into_iter().map(|layer| layer.id).collect();
    assert_eq!(there, ["before", "after"].map(layer).into());
}

pub(super) async fn a_store_of_another_cluster_is_refused(harness: &dyn Harness) {
    let store = harness.open(options_of("one")).await.unwrap();
    assert_eq!(store.cluster().key, "one");
    store.put_layer(layer_row("app", "node-1", 1)).await.unwrap();
    drop(store);
    let refused = harness.open(options_of("two")).await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::OtherCluster);
    let text = refused.to_string();
    assert!(
        text.contains("\"one\"") && text.contains("outcrop store adopt --data ") && text.contains(" --cluster two"),
        "{text}"
    );
    // A new display name of the same cluster is no other cluster.
    let mut renamed = options_of("one");
    renamed.cluster.name = "shown".to_owned();
    let store = harness.open(renamed.clone()).await.unwrap();
    assert_eq!(store.layers().await.unwrap().len(), 1);
    drop(store);
    // The same display name with another key is one.
    renamed.cluster.key = "uid-2".to_owned();
    let text = harness.open(renamed).await.err().unwrap().to_string();
    assert!(text.contains("\"shown\" with UID \"one\", not \"shown\" with UID \"uid-2\""), "{text}");
    assert!(
        text.contains("outcrop store adopt --data ") && text.ends_with(" --cluster shown --cluster-uid uid-2"),
        "{text}"
    );
}

//! The store, by its promises, on real files.

use std::collections::BTreeSet;
use std::path::Path;

use outcrop::store::{
    ClusterIdentity, Counts, ErrorKind, Findings as _, FindingsFilter, History as _, InventoryRow, Layer, LayerRow,
    Layers as _, MergedPackage, MergedStack, Options, PackageSetFindings, PackagesFilter, Questions as _, RANKS,
    Retention, Run, Sqlite, Stacks as _, SubjectKey, Summary, Upkeep as _, Verdict,
};
use outcrop_proto::{Coverage, CoverageState, Digest, Distribution, LayerId, Package, PackageType, StackPackage};

use crate::skip::skip;

fn options() -> Options {
    let cluster = ClusterIdentity { key: "test".to_owned(), name: "test".to_owned() };
    Options { cluster, outbox: false }
}

fn subject() -> SubjectKey {
    SubjectKey::Container { node: "node".into(), namespace: "shop".into(), container: "web".into() }
}

/// Runs a test on a new store.
fn with_store(test: impl AsyncFnOnce(&Sqlite, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcrop.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Sqlite::open(&path, options()).await.unwrap();
        test(&store, &path).await;
    });
}

fn layer(name: &str) -> LayerId {
    LayerId::Diff(Digest::of(name.as_bytes()))
}

fn layer_row(name: &str, node: &str, read_at: i64) -> LayerRow {
    let layer = Layer {
        id: layer(name),
        digest: Digest::of(b"inventory"),
        size: 9,
        cataloguers: 3,
        node: node.to_owned(),
        cage: "landlock+seccomp".to_owned(),
        marks: true,
        read_at,
        verified_by: BTreeSet::new(),
    };
    LayerRow { layer, inventory: b"inventory".to_vec() }
}

/// A stack of a base and a layer of its own, with these packages of npm in the latter.
fn stack(name: &str, packages: &[(&str, &str)]) -> MergedStack {
    let package = |(name, version): &(&str, &str)| MergedPackage {
        package: StackPackage {
            package: Package::new(PackageType::Npm, *name, *version),
            evidence: vec![format!("srv/{name}/package.json").into_bytes()],
            layer: 0,
            owner: None,
        },
        purl: format!("pkg:npm/{name}@{version}"),
        owner_purl: None,
    };
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
        cataloguers: 3,
        packages: packages.iter().map(package).collect(),
        unidentified: 1,
    }
}

fn retention(runs_since: i64, unused_since: i64) -> Retention {
    Retention { runs_since, unused_since, days_since: jiff::civil::date(2026, 1, 1) }
}

fn verdict(package: i64, problem: &str) -> Verdict {
    Verdict {
        package,
        vulnerability: problem.to_owned(),
        unassessed: false,
        rank: 1,
        score: Some(7.5),
        status: "fixed",
        fixed: Some("2".to_owned()),
        summary: "a problem".to_owned(),
        aliases: vec![format!("GHSA-{problem}")],
    }
}

/// Keeps a stack, and that each of its packages has one problem.
async fn put(store: &Sqlite, stack: &MergedStack, problem: &str, at: i64) -> Summary {
    let summary = store.put_stack(stack).await.unwrap();
    let packages = store.packages_of(summary.id).await.unwrap();
    let verdicts: Vec<Verdict> = packages.iter().map(|of| verdict(of.package, problem)).collect();
    find(store, &summary, &verdicts, at).await;
    summary
}

async fn find(store: &Sqlite, summary: &Summary, verdicts: &[Verdict], at: i64) -> (u64, u64) {
    let mut verdicts = store.put_verdicts(verdicts, at).await.unwrap();
    verdicts.sort_unstable();
    let count = u32::try_from(verdicts.len()).unwrap();
    let counts = Counts { severities: [0, count, 0, 0, 0, 0], by_layer: vec![count, 0], withheld: 0 };
    store.put_findings(&PackageSetFindings { package_set: summary.id, verdicts, counts }, &DATABASE, at).await.unwrap()
}

const DATABASE: Digest = Digest([1; 32]);

fn all(package_sets: &[i64]) -> FindingsFilter<'_> {
    FindingsFilter {
        package_sets,
        worst_to: 5,
        vulnerability: None,
        package: None,
        status: None,
        after: None,
        inclusive: false,
        limit: 1000,
    }
}

#[test]
fn what_was_put_is_there_after_it_is_opened_again() {
    with_store(async |store, path| {
        store.put_layer(layer_row("app", "node-1", 5)).await.unwrap();
        let digest = Digest::of(b"inventory");
        store.verified(&layer("app"), &digest, "node-2", 6).await.unwrap();
        store.verified(&layer("app"), &Digest::of(b"what it was before"), "node-3", 6).await.unwrap();
        store.verified(&layer("unknown"), &digest, "node-2", 6).await.unwrap();
        store.distrust("node-9", Some(7)).await.unwrap();
        let summary = put(store, &stack("app", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
        let again = Sqlite::open(path, options()).await.unwrap();
        let [of] = again.layers().await.unwrap().try_into().unwrap();
        assert_eq!(
            (of.id, of.node.as_str(), of.verified_by),
            (layer("app"), "node-1", BTreeSet::from(["node-2".to_owned()]))
        );
        assert_eq!(again.distrusted().await.unwrap(), ["node-9"]);
        let row = InventoryRow { digest, compressed: b"inventory".to_vec(), size: 9, marks: true };
        assert_eq!(again.inventories(&[layer("app")]).await.unwrap().unwrap(), [row]);
        assert_eq!(again.inventories(&[layer("app"), layer("gone")]).await.unwrap(), None);
        let [of] = again.stacks().await.unwrap().try_into().unwrap();
        assert_eq!((of.id, of.chain, of.packages, of.unidentified), (summary.id, summary.chain, 2, 1));
        assert_eq!((of.types, of.distribution.unwrap().id.as_str()), (vec![PackageType::Npm], "debian"));
        assert_eq!((of.counts.severities[1], of.counts.by_layer), (2, vec![2, 0]));
        // Numbers go on where they were: what is there already is found and not written twice.
        put(&again, &stack("other", &[("a", "1"), ("c", "1")]), "CVE-1", 11).await;
        let stacks: Vec<i64> = again.stacks().await.unwrap().into_iter().map(|of| of.id).collect();
        let found = again.findings(&all(&stacks)).await.unwrap();
        assert_eq!(found.iter().map(|row| row.package.as_str()).collect::<Vec<_>>(), ["a", "a", "b", "c"]);
        assert_eq!((found[0].evidence.as_str(), found[0].purl.as_str()), ("/srv/a/package.json", "pkg:npm/a@1"));
    });
}

#[test]
fn what_a_node_read_is_forgotten_and_what_another_read_since_then_is_not() {
    with_store(async |store, _| {
        for (name, node) in [("app", "liar"), ("base", "liar"), ("tool", "honest")] {
            store.put_layer(layer_row(name, node, 5)).await.unwrap();
        }
        // Somebody else was faster.
        store.put_layer(layer_row("base", "honest", 6)).await.unwrap();
        store.attribute(&layer("base"), "liar", "third").await.unwrap();
        store.forget_layers(&[layer("app"), layer("base")], "liar").await.unwrap();
        let left = store.layers().await.unwrap().into_iter();
        let left: BTreeSet<(LayerId, String)> = left.map(|layer| (layer.id, layer.node)).collect();
        assert_eq!(left, ["base", "tool"].map(|name| (layer(name), "honest".to_owned())).into());
    });
}

#[test]
fn a_file_that_is_no_store_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcrop.db");
    std::fs::write(&path, "something else altogether, and long enough to be a page of a database").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(Sqlite::open(&path, options())).is_err());
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("something else"));
}

#[test]
fn findings_open_and_close_in_generations_and_what_stays_is_not_touched() {
    with_store(async |store, path| {
        let summary = put(store, &stack("app", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
        let packages = store.packages_of(summary.id).await.unwrap();
        let of = |problem: &str| packages.iter().map(|of| verdict(of.package, problem)).collect::<Vec<_>>();
        let rows = || {
            let database = rusqlite::Connection::open(path).unwrap();
            let mut rows = database
                .prepare("SELECT vulnerability, opened, closed FROM finding JOIN verdict ON verdict.id = verdict ORDER BY 1, 2, verdict")
                .unwrap();
            let rows = rows.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
            });
            rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        let row = |problem: &str, opened, closed| (problem.to_owned(), opened, closed);
        assert_eq!(find(store, &summary, &of("CVE-1"), 20).await, (0, 0));
        assert_eq!(rows(), [row("CVE-1", 10, None), row("CVE-1", 10, None)]);
        assert_eq!(find(store, &summary, &[&of("CVE-1")[..1], &of("CVE-2")[1..]].concat(), 30).await, (1, 1));
        assert_eq!(find(store, &summary, &of("CVE-1"), 40).await, (1, 1));
        assert_eq!(
            rows(),
            [row("CVE-1", 10, None), row("CVE-1", 10, Some(30)), row("CVE-1", 40, None), row("CVE-2", 30, Some(40))]
        );
        assert_eq!(find(store, &summary, &[], 40).await, (0, 2));
        assert_eq!(
            find(store, &summary, &of("CVE-1"), 40).await,
            (2, 0),
            "within one second it closed and opened again"
        );
    });
}

#[test]
fn who_keeps_the_same_finding_at_the_same_time_opens_it_once() {
    with_store(async |store, path| {
        let summary = store.put_stack(&stack("app", &[("a", "1")])).await.unwrap();
        let package = store.packages_of(summary.id).await.unwrap()[0].package;
        let verdicts = store.put_verdicts(&[verdict(package, "CVE-1")], 0).await.unwrap();
        for round in 0..20 {
            let findings = |verdicts: &[i64]| PackageSetFindings {
                package_set: summary.id,
                verdicts: verdicts.to_vec(),
                counts: Counts { severities: [round, 1, 0, 0, 0, 0], by_layer: vec![1, 0], withheld: 0 },
            };
            let (one, other) = (findings(&verdicts), findings(&verdicts));
            let at = i64::from(round) * 10;
            let (one, other) = tokio::join!(store.put_findings(&one, &DATABASE, at), store.put_findings(&other, &DATABASE, at + 1));
            one.unwrap();
            other.unwrap();
            assert_eq!(store.findings(&all(&[summary.id])).await.unwrap().len(), 1);
            store.put_findings(&findings(&[]), &DATABASE, at + 2).await.unwrap();
        }
        let database = rusqlite::Connection::open(path).unwrap();
        let open = "SELECT count(*) FROM finding WHERE closed IS NULL";
        assert_eq!(database.query_row(open, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    });
}

#[test]
fn a_verdict_that_says_something_else_now_says_it_everywhere() {
    with_store(async |store, _| {
        let summary = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
        let package = store.packages_of(summary.id).await.unwrap()[0].package;
        let worse = Verdict { rank: 0, aliases: vec!["DSA-1".to_owned()], ..verdict(package, "CVE-1") };
        assert_eq!(find(store, &summary, &[worse], 20).await, (0, 0), "it is the same finding");
        let found = store.findings(&all(&[summary.id])).await.unwrap();
        assert_eq!((found[0].rank, found[0].aliases.as_slice()), (0, &["DSA-1".to_owned()][..]));
        let by = |problem: &'static str| async move {
            let wanted = FindingsFilter { vulnerability: Some(problem), ..all(&[1]) };
            store.findings(&wanted).await.unwrap().len()
        };
        assert_eq!((by("DSA-1").await, by("cve-1").await, by("GHSA-CVE-1").await), (1, 1, 0));
    });
}

#[test]
fn findings_are_paged_in_one_order_and_only_of_the_stacks_that_are_asked_about() {
    with_store(async |store, _| {
        let mut stacks = Vec::new();
        for number in 0..70 {
            let name = format!("app-{number}");
            let packages = [("shared", "1"), (name.as_str(), "1")];
            stacks.push(put(store, &stack(&name, &packages), "CVE-1", 10).await.id);
        }
        let one_page = |stacks: Vec<i64>| async move {
            let found = store.findings(&all(&stacks)).await.unwrap();
            found.into_iter().map(|row| (row.rank, row.vulnerability, row.verdict, row.package_set)).collect::<Vec<_>>()
        };
        // Many stacks and few are gone through in other ways, and come in the same order.
        for (some, count) in [(stacks.clone(), 140), (stacks[..10].to_vec(), 20), (Vec::new(), 0)] {
            let whole = one_page(some.clone()).await;
            assert_eq!(whole.len(), count);
            assert!(whole.is_sorted() && whole.iter().all(|(.., stack)| some.contains(stack)));
            let mut paged: Vec<(u8, String, i64, i64)> = Vec::new();
            loop {
                let wanted = FindingsFilter { after: paged.last().cloned(), limit: 7, ..all(&some) };
                let rows = store.findings(&wanted).await.unwrap();
                let last = rows.len() < 7;
                paged.extend(rows.into_iter().map(|row| (row.rank, row.vulnerability, row.verdict, row.package_set)));
                if last {
                    break;
                }
            }
            assert_eq!(paged, whole);
        }
    });
}

#[test]
fn packages_are_counted_over_what_is_asked_about() {
    with_store(async |store, _| {
        let one = put(store, &stack("one", &[("lodash", "4"), ("left-pad", "1")]), "CVE-1", 10).await.id;
        let two = put(store, &stack("two", &[("lodash", "4")]), "CVE-2", 10).await.id;
        let list = |stacks: Vec<(i64, u64)>, by_containers: bool, name: Option<&'static str>| async move {
            let wanted = PackagesFilter {
                package_sets: &stacks,
                r#type: None,
                name,
                version: None,
                by_containers,
                after: None,
                limit: 10,
            };
            let rows = store.list_packages(&wanted).await.unwrap().into_iter();
            rows.map(|row| (row.name, row.stacks, row.containers, row.severities[1])).collect::<Vec<_>>()
        };
        let row = |name: &str, stacks, containers, high| (name.to_owned(), stacks, containers, high);
        let both = vec![(one, 3), (two, 40)];
        assert_eq!(list(both.clone(), false, None).await, [row("left-pad", 1, 3, 1), row("lodash", 2, 43, 2)]);
        assert_eq!(list(both.clone(), true, None).await, [row("lodash", 2, 43, 2), row("left-pad", 1, 3, 1)]);
        assert_eq!(list(both, false, Some("LODASH")).await, [row("lodash", 2, 43, 2)]);
        assert_eq!(list(vec![(two, 40)], false, None).await, [row("lodash", 1, 40, 1)], "no word of the other stack");
        let has = store.packages_named("Lodash", &[one, two]).await.unwrap();
        assert_eq!(has.iter().map(|row| row.package_set).collect::<Vec<_>>(), [one, two]);
        let has = store.packages_with("ghsa-cve-2", &[one, two]).await.unwrap();
        assert_eq!(has.iter().map(|row| (row.package_set, row.name.as_str())).collect::<Vec<_>>(), [(two, "lodash")]);
        let problem = store.vulnerability("CVE-1").await.unwrap();
        assert_eq!(
            problem.iter().map(|row| (row.package.as_str(), row.package_sets.clone())).collect::<Vec<_>>(),
            [("left-pad", vec![one]), ("lodash", vec![one])]
        );
        assert_eq!(RANKS[usize::from(problem[0].rank)], "high");
    });
}

#[test]
fn runs_are_intervals_and_what_nobody_needs_any_more_goes() {
    with_store(async |store, path| {
        for name in ["old", "new", "base"] {
            store.put_layer(layer_row(name, "node-1", 1)).await.unwrap();
        }
        let old = put(store, &stack("old", &[("a", "1"), ("only-old", "1")]), "CVE-1", 10).await.id;
        let new = put(store, &stack("new", &[("a", "2")]), "CVE-1", 20).await.id;
        let run = |package_set, at| Run { subject: subject(), package_set, at };
        store.record_runs(&[run(old, 10)], &[]).await.unwrap();
        store.record_runs(&[run(old, 12)], &[]).await.unwrap();
        store.record_runs(&[run(new, 20)], &[run(old, 20)]).await.unwrap();
        assert_eq!(store.open_runs().await.unwrap(), [run(new, 20)]);
        let subject = [subject()];
        let seen = store.seen(&subject, Some(&["CVE-1".to_owned()])).await.unwrap();
        let spans: BTreeSet<(i64, Option<i64>, bool)> =
            seen.iter().map(|seen| (seen.since, seen.until, seen.finding.is_some())).collect();
        assert_eq!(spans, BTreeSet::from([(10, Some(20), true), (20, None, true)]));
        let seen = store.seen(&subject, Some(&["CVE-9".to_owned()])).await.unwrap();
        assert!(seen.len() == 2 && seen.iter().all(|seen| seen.finding.is_none()), "runs without it are told as well");

        let count = |table: &str| {
            let database = rusqlite::Connection::open(path).unwrap();
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
        };
        // Young enough: all stays.
        store.tidy(&retention(5, 15), &[new]).await.unwrap();
        assert_eq!((count("layer"), count("stack"), count("package"), count("run")), (3, 2, 3, 2));
        // Nobody has run the old stack for long: its packages and layer go, what was found stays for the history.
        store.tidy(&retention(5, 30), &[new]).await.unwrap();
        assert_eq!((count("layer"), count("stack"), count("package_set_package"), count("run")), (2, 2, 1, 2));
        let stacks = store.stacks().await.unwrap();
        assert_eq!(stacks.iter().map(|of| (of.id, of.cataloguers)).collect::<Vec<_>>(), [(old, 0), (new, 3)]);
        assert_eq!(store.seen(&subject, None).await.unwrap().len(), 3);
        // The history is over as well.
        store.tidy(&retention(30, 30), &[new]).await.unwrap();
        assert_eq!(
            (count("stack"), count("package"), count("verdict"), count("finding"), count("run")),
            (1, 1, 1, 1, 1)
        );
        // Numbers that were given back are given anew, and mean what they say.
        let again = put(store, &stack("old", &[("only-old", "1")]), "CVE-7", 50).await.id;
        let found = store.findings(&all(&[again])).await.unwrap();
        assert_eq!(
            found.iter().map(|row| (row.package.as_str(), row.vulnerability.as_str())).collect::<Vec<_>>(),
            [("only-old", "CVE-7")]
        );
    });
}

#[test]
fn a_container_that_crashes_every_minute_has_one_run_and_one_after_another_image_has_its_own() {
    with_store(async |store, path| {
        let crashing = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await.id;
        let other = put(store, &stack("other", &[("b", "1")]), "CVE-1", 10).await.id;
        let run = |package_set, at| Run { subject: subject(), package_set, at };
        for minute in 0..50 {
            let at = minute * 60;
            store.record_runs(&[run(crashing, at)], &[run(crashing, at + 5)]).await.unwrap();
        }
        store.record_runs(&[run(other, 3_000)], &[run(other, 3_100)]).await.unwrap();
        store.record_runs(&[run(crashing, 3_200)], &[run(crashing, 3_300)]).await.unwrap();
        // A day later it is another run.
        store.record_runs(&[run(crashing, 90_000)], &[]).await.unwrap();
        let database = rusqlite::Connection::open(path).unwrap();
        let mut rows = database.prepare("SELECT package_set, since, until FROM run ORDER BY since").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert_eq!(
            rows.map(Result::unwrap).collect::<Vec<(i64, i64, Option<i64>)>>(),
            [
                (crashing, 0, Some(2_945)),
                (other, 3_000, Some(3_100)),
                (crashing, 3_200, Some(3_300)),
                (crashing, 90_000, None)
            ]
        );
    });
}

#[test]
fn a_full_volume_is_said_and_harms_nothing() {
    if !rustix::process::geteuid().is_root() {
        skip("root", "a volume of its own");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "outcrop-test"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skip("root", "a tmpfs cannot be mounted here");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Sqlite::open(&dir.path().join("outcrop.db"), options()).await.unwrap();
        let mut kept = Vec::new();
        let refused = loop {
            let name = kept.len().to_string();
            let row = LayerRow { inventory: vec![7; 100_000], ..layer_row(&name, "node-1", 1) };
            match store.put_layer(row.clone()).await {
                Ok(()) => kept.push(row.layer.id),
                Err(error) => break error,
            }
            assert!(kept.len() < 100);
        };
        assert_eq!(refused.kind, ErrorKind::Full, "{refused:?}");
        let there = |layers: Vec<Layer>| layers.into_iter().map(|layer| layer.id).collect::<BTreeSet<_>>();
        let expected: BTreeSet<LayerId> = kept.iter().copied().collect();
        assert_eq!(there(store.layers().await.unwrap()), expected, "reading goes on");
        // Room is made: it goes on by itself.
        let status = std::process::Command::new("mount").args(["-o", "remount,size=8m"]).arg(dir.path()).status();
        assert!(status.unwrap().success());
        store.probe().await.unwrap();
        store.put_layer(layer_row("one more", "node-1", 1)).await.unwrap();
        assert_eq!(store.layers().await.unwrap().len(), kept.len() + 1);
    });
    let _ = std::process::Command::new("umount").arg("--lazy").arg(dir.path()).status();
}

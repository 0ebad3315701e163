//! Migration of stores of version 1, intact and damaged ones, to this version.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outcrop::store::{
    Findings as _, FindingsFilter, Layers as _, PackagesFilter, Questions as _, Sqlite, Stacks as _, SubjectKey,
    WorkloadKey,
};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::conformance::options;
use super::sqlite::{block_on, check};
use crate::ports::free;
use crate::service_parts::{OUTCROP, Running, request, until};
use crate::skip::skip;

/// A store of version 1 in a directory of its own, with two subjects, a distrusted node and a verification besides what the demo has.
fn version_1(more: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcrop.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch(include_str!("../../data/store-v1.sql")).unwrap();
    database
        .execute_batch(
            "INSERT INTO subject VALUES (91, '@shop/apps/Deployment/web/main'), (92, '@shop//Pod/lone/main'), (93, 'no subject');
             INSERT INTO run VALUES (91, 4, 50, 60), (91, 5, 60, NULL), (92, 5, 70, NULL);
             INSERT INTO distrusted VALUES ('liar', 5);
             INSERT INTO verification SELECT id, 'node-2', 6 FROM layer LIMIT 1;
             UPDATE finding SET closed = 1790000000 WHERE verdict = (SELECT min(verdict) FROM finding WHERE stack = 5);",
        )
        .unwrap();
    database.execute_batch(more).unwrap();
    // The newest rows are in the write-ahead log, as after a kill.
    database
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; UPDATE layer SET read_at = 7;")
        .unwrap();
    let killed = tempfile::tempdir().unwrap();
    for name in ["outcrop.db", "outcrop.db-wal"] {
        std::fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    let path = killed.path().join("outcrop.db");
    (killed, path)
}

/// What version 1 says, as text: open and closed findings, packages with their paths, runs.
const OLD_ANSWERS: [&str; 3] = [
    "SELECT stack, verdict.problem, unassessed, rank, score, status, fixed, aliases, package.name, package.version, purl, opened, closed
     FROM finding JOIN verdict ON verdict.id = verdict JOIN package ON package.id = verdict.package",
    "SELECT stack, of.purl, owner.purl, layer, paths FROM stack_package JOIN package AS of ON of.id = package
     LEFT JOIN package AS owner ON owner.id = owner JOIN evidence ON evidence.id = evidence",
    "SELECT key, stack, since, until FROM run JOIN subject ON subject.id = subject",
];

const NEW_ANSWERS: [&str; 3] = [
    "SELECT package_set, verdict.vulnerability, unassessed, rank, score, status, fixed, aliases, package.name, package.version, purl,
         opened, closed
     FROM finding JOIN verdict ON verdict.id = verdict JOIN package ON package.id = verdict.package",
    "SELECT package_set, of.purl, owner.purl, layer, paths FROM package_set_package JOIN package AS of ON of.id = package
     LEFT JOIN package AS owner ON owner.id = owner JOIN evidence ON evidence.id = evidence",
    "SELECT CASE kind WHEN 'container' THEN node || '/' || namespace || '/' || container
         ELSE '@' || namespace || '/' || workload_group || '/' || workload_kind || '/' || workload || '/' || container END,
         package_set, since, until FROM run JOIN subject ON subject.id = subject",
];

fn answers(path: &Path, questions: [&str; 3]) -> [Vec<String>; 3] {
    let database = Connection::open(path).unwrap();
    questions.map(|sql| {
        let mut statement = database.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values: Vec<rusqlite::types::Value> = (0..columns).map(|of| row.get(of)).collect::<Result<_, _>>()?;
            Ok(format!("{values:?}"))
        });
        let mut rows: Vec<String> = rows.unwrap().map(Result::unwrap).collect();
        rows.sort();
        rows
    })
}

#[test]
fn a_store_of_version_1_keeps_every_row_and_answers_the_same() {
    let (dir, path) = version_1("");
    let before = answers(&path, OLD_ANSWERS);
    let store = block_on(Sqlite::open(&path, options())).unwrap();
    let after = answers(&path, NEW_ANSWERS);
    for (before, after) in before.iter().zip(&after) {
        assert!(!before.is_empty());
        assert_eq!(after, before);
    }
    assert_eq!(answers(&dir.path().join("store.v1.bak"), OLD_ANSWERS), before, "the old file stays");
    block_on(async {
        let stacks = store.stacks().await.unwrap();
        assert_eq!(stacks.iter().map(|of| (of.id, of.packages)).collect::<Vec<_>>(), [(4, 109), (5, 151)]);
        assert!(
            stacks.iter().all(|of| of.inputs.is_none() && of.matched.is_none()),
            "all are merged and matched again"
        );
        assert_eq!(stacks.iter().map(|of| of.counts.severities.total()).collect::<Vec<_>>(), [7, 40]);
        let layers = store.layers().await.unwrap();
        assert!(!layers.is_empty() && layers.iter().all(|layer| layer.read_at == 7), "what the log had is there");
        let verified: Vec<&str> = layers.iter().flat_map(|layer| &layer.verified_by).map(String::as_str).collect();
        assert_eq!((verified, store.distrusted().await.unwrap()), (vec!["node-2"], vec!["liar".to_owned()]));
        let (database, ended) = store.last_rematch().await.unwrap().unwrap();
        assert_eq!(store.stacks_to_match(&database).await.unwrap().len(), 2);
        assert!(ended.is_some());
        let web = SubjectKey::WorkloadContainer {
            workload: WorkloadKey {
                namespace: "shop".into(),
                group: "apps".into(),
                kind: "Deployment".into(),
                name: "web".into(),
            },
            container: "main".into(),
        };
        let seen = super::conformance::seen(&store, web, None).await;
        assert_eq!(seen.iter().filter(|seen| seen.finding.is_some()).count(), 47);
    });
    check(&path);
    drop(store);
    // The next start finds a store of this version.
    let store = block_on(Sqlite::open(&path, options())).unwrap();
    assert_eq!(answers(&path, NEW_ANSWERS), after);
    drop(store);
    assert!(!dir.path().join("store.v1.bak.2").exists());
}

#[test]
fn when_a_finding_opened_survives_that_its_stack_is_stored_and_matched_again() {
    let (_dir, path) = version_1("");
    block_on(async {
        let store = Sqlite::open(&path, options()).await.unwrap();
        let filter = FindingsFilter {
            package_sets: &[4],
            at_least: outcrop_proto::Severity::Unknown,
            at_most: outcrop_proto::Severity::Critical,
            order: outcrop::store::FindingsOrder::Severity,
            descending: false,
            vulnerability: None,
            package: None,
            status: None,
            after: None,
            inclusive: false,
            limit: 99,
        };
        let rows = store.findings(&filter).await.unwrap();
        assert_eq!(rows.len(), 7);
        let opened = answers(&path, NEW_ANSWERS);
        let summary = store.stacks().await.unwrap().remove(0);
        let packages = store.packages_of(4).await.unwrap();
        let details = store.packages(&packages.iter().map(|of| of.package).collect::<Vec<_>>()).await.unwrap();
        let listed = store.packages_of(4).await.unwrap().into_iter().map(|of| of.package).collect::<BTreeSet<_>>();
        // As the merge of the same inventories gives them.
        let sets = [(4, 1)];
        let filter = PackagesFilter {
            package_sets: &sets,
            r#type: None,
            name: None,
            version: None,
            order: outcrop::store::PackagesOrder::Name,
            descending: false,
            after: None,
            limit: 999,
        };
        let purls: std::collections::HashMap<i64, String> =
            store.list_packages(&filter).await.unwrap().into_iter().map(|row| (row.id, row.purl)).collect();
        let merged = outcrop::store::MergedStack {
            chain: summary.chain,
            layers: summary.layers,
            inputs: outcrop_proto::Digest::of(b"inputs"),
            coverage: summary.coverage,
            distribution: summary.distribution,
            catalogers: summary.catalogers,
            packages: details
                .into_iter()
                .map(|(id, package, _)| outcrop::store::MergedPackage {
                    package: outcrop_proto::StackPackage { package, evidence: Vec::new(), layer: 0, owner: None },
                    purl: purls[&id].clone(),
                    owner_purl: None,
                })
                .collect(),
            unidentified: 0,
            checked_by: Vec::new(),
        };
        store.put_stack(&merged, 1_800_000_000).await.unwrap();
        let again = store.packages_of(4).await.unwrap().into_iter().map(|of| of.package).collect::<BTreeSet<_>>();
        assert_eq!(again, listed, "equal packages have the same rows");
        let verdicts: Vec<outcrop::store::Verdict> = rows
            .iter()
            .map(|row| outcrop::store::Verdict {
                package: *purls.iter().find(|(_, purl)| **purl == row.purl).unwrap().0,
                vulnerability: row.vulnerability.clone(),
                unassessed: false,
                severity: row.severity,
                score: row.score,
                status: row.status,
                fixed: row.fixed.clone(),
                summary: row.summary.clone(),
                aliases: row.aliases.clone(),
            })
            .collect();
        let mut ids = store.put_verdicts(&verdicts, 1_800_000_000).await.unwrap();
        ids.sort_unstable();
        let findings = outcrop::store::PackageSetFindings { package_set: 4, verdicts: ids, counts: summary.counts };
        let database = outcrop_proto::Digest::of(b"database");
        assert_eq!(store.put_findings(&findings, &database, 1_800_000_000).await.unwrap(), (0, 0));
        assert_eq!(answers(&path, NEW_ANSWERS)[0], opened[0]);
    });
}

#[test]
fn rows_of_a_damaged_store_that_refer_to_nothing_are_dropped_and_everything_is_matched_again() {
    let damages = [
        ("verdicts", "DELETE FROM verdict WHERE id % 3 = 0"),
        ("packages", "DELETE FROM package WHERE id % 5 = 0"),
        ("evidence", "DELETE FROM evidence WHERE id % 5 = 0"),
        (
            "a verdict twice",
            "INSERT INTO verdict SELECT 9999, package, problem, unassessed + 7, rank, score, status, fixed, summary, aliases FROM verdict LIMIT 1; INSERT INTO finding VALUES (4, 9999, 1, NULL), (4, 8888, 1, NULL)",
        ),
        (
            "a package twice",
            "INSERT INTO package SELECT 9999, type, name, short, version, arch, source, source_version, vendor, module, distribution, purl FROM package LIMIT 1; UPDATE verdict SET package = 9999 WHERE package = (SELECT min(id) FROM package)",
        ),
        ("the distribution", "PRAGMA foreign_keys = OFF; DELETE FROM distribution"),
        ("a stack", "PRAGMA foreign_keys = OFF; DELETE FROM stack WHERE id = 4"),
    ];
    for (what, damage) in damages {
        let (_dir, path) = version_1(damage);
        let store = block_on(Sqlite::open(&path, options())).unwrap();
        check(&path);
        let stacks = block_on(store.stacks()).unwrap();
        assert!(!stacks.is_empty() && stacks.iter().all(|of| of.inputs.is_none() && of.matched.is_none()), "{what}");
    }
}

#[test]
fn a_migration_that_was_interrupted_begins_anew() {
    let (dir, path) = version_1("");
    let before = answers(&path, OLD_ANSWERS);
    // Killed while it built the new file, and after it had named the old one a second time.
    std::fs::write(dir.path().join("outcrop.db.new"), "half a file").unwrap();
    std::fs::write(dir.path().join("outcrop.db.new-wal"), "half a log").unwrap();
    std::fs::hard_link(&path, dir.path().join("store.v1.bak")).unwrap();
    drop(block_on(Sqlite::open(&path, options())).unwrap());
    assert_eq!(answers(&path, NEW_ANSWERS), before);
    assert_eq!(answers(&dir.path().join("store.v1.bak"), OLD_ANSWERS), before);
    let left: BTreeSet<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"))
        .collect();
    assert_eq!(left, ["outcrop.db", "outcrop.db.lock", "store.v1.bak"].map(ToOwned::to_owned).into());
}

/// The store of a whole demo of version 1; skips where it is not there.
fn demo_of_version_1() -> Option<(tempfile::TempDir, PathBuf)> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("OUTCROP_SHARED").map_or_else(beside, PathBuf::from);
    let archive = shared.join("data/stores/good-1258caa.tar.zst");
    let Ok(file) = File::open(&archive) else {
        skip("shared", archive.display());
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(zstd::Decoder::new(file).unwrap()).unpack(dir.path()).unwrap();
    let path = dir.path().join("data/outcrop.db");
    Some((dir, path))
}

#[test]
fn the_store_of_a_whole_demo_of_version_1_answers_the_same() {
    let Some((_dir, path)) = demo_of_version_1() else { return };
    let before = answers(&path, OLD_ANSWERS);
    drop(block_on(Sqlite::open(&path, options())).unwrap());
    assert_eq!(answers(&path, NEW_ANSWERS), before);
    assert_eq!(before.map(|rows| rows.len()), [275, 2713, 6]);
    check(&path);
}

/// Stores whose stacks nobody runs: the program migrates them and merges every stack again.
#[test]
fn probes_are_answered_during_a_migration_and_stacks_that_nobody_runs_are_merged_again_after_it() {
    for damage in ["", "DELETE FROM stack_package WHERE package % 3 = 0"] {
        let Some((dir, path)) = demo_of_version_1() else { return };
        let wanted = answers(&path, OLD_ANSWERS);
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        // Without a database, findings stay as they were.
        let _ = std::fs::remove_dir_all(path.with_file_name("advisories"));
        // The migration waits for the lock.
        let lock = OpenOptions::new().create(true).append(true).open(path.with_file_name("outcrop.db.lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        std::fs::write(dir.path().join("no-tokens"), "").unwrap();
        let api = free();
        let mut command = Command::new(OUTCROP);
        command.args(["aggregator", "--insecure", "--listen", &free().to_string(), "--api", &api.to_string()]);
        command.args(["--probes", "127.0.0.1:0"]);
        command.arg("--data").arg(path.parent().unwrap()).arg("--tokens").arg(dir.path().join("no-tokens"));
        command.stdin(Stdio::null()).stderr(File::create(dir.path().join("aggregator.log")).unwrap());
        let aggregator = Running(command.spawn().unwrap());
        until("/livez", || request(api, "/livez").is_some_and(|(status, _)| status == 200));
        let (status, text) = request(api, "/readyz").unwrap();
        assert!(status == 503 && text.contains("[-]migration failed"), "{status}: {text}");
        assert_eq!(request(api, "/api/v1/status").unwrap().0, 503);
        drop(lock);
        until("readiness", || request(api, "/readyz").is_some_and(|(status, _)| status == 200));

        let unmerged = || {
            let database = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            let sql = "SELECT count(*) FROM stack WHERE inputs IS NULL";
            database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        until("every stack to be merged", || unmerged() == 0);
        drop(aggregator);
        assert_eq!(answers(&path, NEW_ANSWERS), wanted, "damage: {damage:?}");
    }
}

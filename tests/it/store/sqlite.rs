//! SQLite: the conformance suite on real files, and tests of the properties of files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use outcrop::store::{
    ClusterIdentity, ErrorKind, HealthState, LayerRow, Layers as _, Options, Sqlite, Store, StoreError, Upkeep as _,
    adopt, back_up,
};
use outcrop_proto::LayerId;

use super::conformance::{self, Harness, layer_row, options, options_of, put, stack};
use super::{deliveries, documents, notices};
use crate::skip::skip;

/// A store in a directory of its own.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("outcrop.db")
    }

    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

#[async_trait(?Send)]
impl Harness for File {
    async fn open(&self, options: Options) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(Sqlite::open(&self.path(), options).await?))
    }

    fn check(&self) {
        check(&self.path());
    }

    /// A row whose reference is checked at COMMIT, and refers to nothing.
    fn fail_commits(&self, fail: bool) {
        let sql = if fail {
            "CREATE TABLE trap (row INTEGER REFERENCES meta (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER trapped AFTER INSERT ON layer BEGIN INSERT INTO trap VALUES (99); END"
        } else {
            "DROP TRIGGER trapped; DROP TABLE trap"
        };
        self.database().execute_batch(sql).unwrap();
    }
}

/// Fails if a file is damaged, or has a reference to a row that does not exist.
pub(super) fn check(path: &Path) {
    let database = rusqlite::Connection::open(path).unwrap();
    let answer: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
    let mut dangling = database.prepare("PRAGMA foreign_key_check").unwrap();
    assert!(!dangling.exists([]).unwrap(), "a reference to a row that does not exist");
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

macro_rules! conformance {
    ($suite:ident: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let file = File::new();
                block_on($suite::$name(&file));
                file.check();
            }
        )*
    };
}

conformance! { conformance:
    stored_rows_are_there_after_a_restart
    layers_of_a_distrusted_node_are_removed_and_those_that_another_read_since_are_not
    a_layer_that_is_read_again_is_verified_again
    findings_open_and_close_in_generations_and_rows_that_stay_are_not_touched
    findings_stored_twice_at_the_same_time_open_once
    a_verdict_that_says_something_else_says_it_everywhere
    findings_are_paged_in_one_order_and_only_of_the_requested_package_sets
    findings_are_counted_over_a_scope
    packages_are_counted_over_the_requested_package_sets
    a_package_with_several_owners_is_listed_once
    runs_are_intervals_and_unused_rows_are_removed
    fixed_findings_are_those_that_a_subject_had_and_does_not_have
    a_container_that_crashes_every_minute_has_one_run
    subjects_of_every_kind_survive_a_restart
    a_stack_is_matched_for_one_database_until_it_is_stored_again
    ids_are_never_assigned_again
    findings_of_a_removed_package_set_are_rejected_and_writes_go_on
    days_are_replaced_kept_and_removed
    times_of_a_clock_that_was_ahead_are_corrected
    events_are_stored_with_the_write_that_they_follow_from
    without_a_target_no_event_is_stored
    conditions_are_open_from_the_event_that_begins_them_until_the_one_that_ends_them
    ids_of_events_grow
    a_write_that_is_dropped_at_any_point_is_stored_whole_or_not_at_all
    a_failing_commit_stores_nothing_and_the_next_write_is_stored
    a_store_of_another_cluster_is_refused
}

conformance! { deliveries:
    a_new_target_is_told_everything_and_then_what_changes
    of_several_changes_the_sum_is_told
    a_target_is_told_only_what_it_selects
    portions_are_bounded_and_follow_each_other_whatever_is_between_them
    a_target_that_applies_what_it_is_told_knows_the_state
    a_refused_delivery_waits_for_a_person_and_others_go_on
    targets_are_those_that_are_configured
    a_backlog_is_bounded_by_what_the_operator_chose
}

conformance! { notices:
    a_vulnerability_of_a_workload_is_told_once_over_rollouts_rematches_and_restarts
    a_finding_that_closed_before_people_were_told_is_not_told
    a_vulnerability_that_was_gone_for_a_week_is_told_again
    people_are_told_only_of_what_the_filter_selects_and_by_node_where_there_is_no_workload
    containers_that_are_not_scanned_any_more_are_a_problem
    a_problem_is_told_when_it_is_raised_and_when_it_is_over
}

conformance! { documents:
    documents_are_those_that_a_target_accepted_until_it_is_removed
    documents_are_written_from_what_the_target_was_told
}

#[test]
fn a_file_that_is_no_store_is_refused_and_not_touched() {
    let file = File::new();
    std::fs::write(file.path(), "something else altogether, and long enough to be a page of a database").unwrap();
    let refused = block_on(Sqlite::open(&file.path(), options())).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Version, "{refused}");
    assert!(std::fs::read_to_string(file.path()).unwrap().starts_with("something else"));
}

#[test]
fn two_processes_cannot_use_one_store() {
    let file = File::new();
    block_on(async {
        let _store = Sqlite::open(&file.path(), options()).await.unwrap();
        let refused = Sqlite::open(&file.path(), options()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InUse, "{refused}");
        let other = ClusterIdentity { key: "other".to_owned(), name: "other".to_owned() };
        let refused = adopt(&file.path(), &other).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InUse, "{refused}");
    });
}

#[test]
fn an_adopted_store_opens_for_its_new_cluster_only() {
    let file = File::new();
    block_on(async {
        let store = Sqlite::open(&file.path(), options_of("old")).await.unwrap();
        put(&store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
        store.distrust("node", true, "ann", 1).await.unwrap();
        drop(store);
        let cluster = ClusterIdentity { key: "new".to_owned(), name: "shown".to_owned() };
        assert_eq!(adopt(&file.path(), &cluster).unwrap().key, "old");
        let refused = Sqlite::open(&file.path(), options_of("old")).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::OtherCluster);
        let refused = refused.to_string();
        assert!(refused.contains("outcrop store adopt --data ") && refused.contains(" --cluster old"), "{refused}");
        let store = Sqlite::open(&file.path(), options_of("new")).await.unwrap();
        assert_eq!(store.distrusted().await.unwrap(), ["node"]);
    });
    let missing = adopt(&file.0.path().join("nothing.db"), &ClusterIdentity { key: "a".into(), name: "a".into() });
    assert_eq!(missing.unwrap_err().kind, ErrorKind::Version);
}

#[test]
fn a_backup_is_whole_while_the_store_is_written_and_overwrites_nothing() {
    let file = File::new();
    let to = file.0.path().join("backup.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Sqlite::open(&file.path(), options()).await.unwrap();
        put(&store, &stack("first", &[("a", "1")]), "CVE-1", 10).await;
        let writer = store.clone();
        let writing = tokio::spawn(async move {
            for number in 0..100 {
                let name = format!("app-{number}");
                put(&writer, &stack(&name, &[("a", "1"), (name.as_str(), "1")]), "CVE-1", 10).await;
            }
        });
        let (path, copy) = (file.path(), to.clone());
        let size = tokio::task::spawn_blocking(move || back_up(&path, &copy)).await.unwrap().unwrap();
        assert_eq!(size, to.metadata().unwrap().len());
        writing.await.unwrap();
        let refused = back_up(&file.path(), &to).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exists);
        assert_eq!(back_up(&to, &file.0.path().join("missing/backup.db")).unwrap_err().kind, ErrorKind::Failing);
    });
    check(&to);
    let restored = block_on(Sqlite::open(&to, options())).unwrap();
    let stacks = block_on(outcrop::store::Stacks::stacks(&restored)).unwrap();
    assert!(stacks.iter().any(|of| of.chain == stack("first", &[]).chain), "stored before the backup began");
    let left: Vec<_> = std::fs::read_dir(file.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

/// A volume of its own, unmounted in the end.
struct Volume(PathBuf);

impl Volume {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root", "a volume of its own cannot be mounted");
            return None;
        }
        let options = format!("size={size}");
        let status =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "outcrop-test"]).arg(at).status();
        if !status.is_ok_and(|status| status.success()) {
            skip("root", "a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = std::process::Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_volume_nothing_acknowledged_is_lost_and_writes_resume_when_there_is_room() {
    let file = File::new();
    let Some(volume) = Volume::mount(file.0.path(), "3m") else { return };
    block_on(async {
        let store = Sqlite::open(&file.path(), options()).await.unwrap();
        let mut layers: Vec<LayerId> = Vec::new();
        let mut stacks = 0;
        let mut full = async |store: &Sqlite, most: usize| {
            for _ in 0..most {
                let name = format!("layer {}", layers.len());
                let row = LayerRow { inventory: vec![7; 50_000], ..layer_row(&name, "node-1", 1) };
                let id = row.layer.id;
                match store.put_layer(row).await {
                    Ok(()) => layers.push(id),
                    Err(error) => return (layers.clone(), stacks, Some(error)),
                }
                let name = format!("app-{stacks}");
                match conformance::try_put(store, &stack(&name, &[("a", "1"), (name.as_str(), "1")]), "CVE-1", 10).await
                {
                    Ok(_) => stacks += 1,
                    Err(error) => return (layers.clone(), stacks, Some(error)),
                }
            }
            (layers.clone(), stacks, None)
        };
        for (size, round) in [("6m", 0), ("9m", 1), ("12m", 2)] {
            let (acknowledged, matched, error) = full(&store, 1_000).await;
            let error = error.expect("the volume is full at some time");
            assert_eq!(error.kind, ErrorKind::Full, "{error:?}");
            assert!(matches!(store.health().state(), HealthState::Full(_)));
            // Nothing is tried, and nothing is acknowledged, until a write has succeeded.
            let paused = store.put_layer(layer_row("too much", "node-1", 1)).await.unwrap_err();
            assert_eq!(paused.kind, ErrorKind::Paused);
            assert_eq!(store.probe().await.unwrap_err().kind, ErrorKind::Full);
            assert_acknowledged(&store, &acknowledged, matched).await;
            volume.resize(size);
            store.probe().await.unwrap();
            assert!(store.health().is_accepting(), "round {round}");
            let (acknowledged, matched, error) = full(&store, 3).await;
            assert!(error.is_none(), "{error:?}");
            // Another connection sees what was acknowledged: no transaction is open in which it hides.
            let committed: i64 = file.database().query_row("SELECT count(*) FROM layer", [], |row| row.get(0)).unwrap();
            assert_eq!(usize::try_from(committed).unwrap(), acknowledged.len());
            assert_acknowledged(&store, &acknowledged, matched).await;
        }
        let (acknowledged, matched, _) = full(&store, 0).await;
        drop(store);
        file.check();
        let store = Sqlite::open(&file.path(), options()).await.unwrap();
        assert_acknowledged(&store, &acknowledged, matched).await;
    });
}

async fn assert_acknowledged(store: &Sqlite, layers: &[LayerId], matched: usize) {
    use outcrop::store::{Questions as _, Stacks as _};
    let there: std::collections::BTreeSet<LayerId> =
        store.layers().await.unwrap().into_iter().map(|layer| layer.id).collect();
    assert_eq!(there, layers.iter().copied().collect());
    let stacks = store.stacks().await.unwrap();
    let complete: Vec<i64> = stacks.iter().filter(|of| of.matched.is_some()).map(|of| of.id).collect();
    assert!(complete.len() >= matched, "{} of {matched}", complete.len());
    let counts: Vec<(i64, u64)> = complete.iter().map(|id| (*id, 1)).collect();
    let findings: u64 = store.count_findings(&counts).await.unwrap().total();
    assert_eq!(findings, 2 * complete.len() as u64, "whoever is matched has its findings");
}

#[test]
fn a_database_that_another_program_locks_fails_writes_and_recovers() {
    let file = File::new();
    block_on(async {
        let store = Sqlite::open(&file.path(), options()).await.unwrap();
        let other = file.database();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = store.put_layer(layer_row("app", "node-1", 1)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Failing, "{refused}");
        assert!(matches!(store.health().state(), HealthState::Failing(_)));
        other.execute_batch("ROLLBACK").unwrap();
        store.probe().await.unwrap();
        store.put_layer(layer_row("app", "node-1", 1)).await.unwrap();
        let capacity = store.capacity().await.unwrap();
        assert!(capacity.used > 0 && capacity.free.unwrap() > 0, "{capacity:?}");
    });
}

#[test]
fn large_stacks_share_their_packages() {
    let file = File::new();
    block_on(async {
        let store = Sqlite::open(&file.path(), options()).await.unwrap();
        let names: Vec<String> = (0..3_700).map(|number| format!("package-{number}")).collect();
        let packages: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1.0.0")).collect();
        for name in ["first", "second", "third"] {
            let started = std::time::Instant::now();
            let summary = outcrop::store::Stacks::put_stack(&store, &stack(name, &packages), 1).await.unwrap();
            println!("store: {name} stack of 3,700 packages stored in {:?}", started.elapsed());
            assert_eq!(summary.packages, 3_700);
        }
        let rows = |table: &str| -> i64 {
            file.database().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((rows("package"), rows("evidence"), rows("package_set_package")), (3_700, 3_700, 11_100));
    });
}

//! The guarantees of documents of targets, tested through the trait.

use outcrop::store::{DocumentRow, PortionLimit, Store, SubjectKey, Target};
use outcrop_proto::Digest;

use super::conformance::{Harness, open_with_outbox, plain, put, run, stack, workload};
use super::deliveries::{Selection, configure, tell};

const MUCH: PortionLimit = PortionLimit { changes: 1000, bytes: 1 << 20 };

fn row(name: &str, content: &str) -> DocumentRow {
    let digest = Digest::of(content.as_bytes());
    DocumentRow { name: name.to_owned(), digest, size: content.len() as u64, remote: None, stale: false }
}

async fn names(store: &dyn Store, target: &Target, after: &str, limit: usize) -> Vec<(String, bool)> {
    let rows = store.documents(target.id, after, limit).await.unwrap();
    rows.into_iter().map(|row| (row.name, row.stale)).collect()
}

pub(super) async fn documents_are_those_that_a_target_accepted_until_it_is_removed(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store, "files", "all").await;
    let remote = DocumentRow { remote: Some("id".to_owned()), ..row("b", "1") };
    store.record_documents(target.id, &[row("a", "1"), remote.clone(), row("c", "1")], &[]).await.unwrap();
    store.record_documents(target.id, &[row("a", "22")], &["c".to_owned(), "never".to_owned()]).await.unwrap();
    assert_eq!(store.document(target.id, "a").await.unwrap(), Some(row("a", "22")));
    assert_eq!(store.document(target.id, "b").await.unwrap(), Some(remote));
    assert_eq!(store.document(target.id, "c").await.unwrap(), None);
    let both = [("a".to_owned(), false), ("b".to_owned(), false)];
    assert_eq!(names(store, &target, "", 10).await, both);
    assert_eq!(names(store, &target, "", 1).await, both[..1]);
    assert_eq!(names(store, &target, "a", 10).await, both[1..]);

    // A snapshot that begins makes them stale; what is accepted again is not.
    tell(store, &target, &Selection::default(), MUCH).await;
    assert!(store.is_complete(target.id).await.unwrap());
    store.record_documents(target.id, &[row("b", "1")], &[]).await.unwrap();
    assert_eq!(names(store, &target, "", 10).await, [("a".to_owned(), true), ("b".to_owned(), false)]);
    store.resync(target.id).await.unwrap();
    assert!(!store.is_complete(target.id).await.unwrap());

    store.forget_documents(target.id).await.unwrap();
    assert_eq!(names(store, &target, "", 10).await, []);
    store.record_documents(target.id, &[row("a", "1")], &[]).await.unwrap();
    configure(store, "other", "all").await;
    // A write that comes late, for a target that is not there any more, is none.
    store.record_documents(target.id, &[row("late", "1")], &[]).await.unwrap();
    assert_eq!(names(store, &target, "", 10).await, []);
}

pub(super) async fn documents_are_written_from_what_the_target_was_told(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let one = put(store, &stack("one", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    let two = put(store, &stack("two", &[("a", "2")]), "CVE-2", 10).await;
    let runs = [run(workload("web"), one.id, 10), run(workload("web"), two.id, 10), run(plain("job"), two.id, 10)];
    store.record_runs(&runs, &[]).await.unwrap();
    let target = configure(store, "files", "shop").await;
    assert_eq!(store.told_package_set(target.id, &one.chain).await.unwrap(), None, "nothing was told yet");
    assert_eq!(store.told_containers(target.id, &workload("web")).await.unwrap(), []);
    let selects = Selection { namespace: Some("shop"), at_least: None };
    tell(store, &target, &selects, MUCH).await;

    let (id, state) = store.told_package_set(target.id, &one.chain).await.unwrap().unwrap();
    assert_eq!((id, state.identity, state.packages), (one.id, one.chain, 2));
    let findings = store.open_findings(one.id, 0, 10).await.unwrap();
    assert_eq!(findings.len(), 2);
    assert_eq!(store.open_findings(one.id, findings[0].0.verdict, 10).await.unwrap(), findings[1..]);
    assert_eq!((findings[0].0.vulnerability.as_str(), findings[0].1), ("CVE-1", 10));

    let mut sets = vec![one.chain, two.chain];
    sets.sort_unstable();
    let web = [(workload("web"), sets)];
    assert_eq!(store.told_containers(target.id, &workload("web")).await.unwrap(), web);
    let subjects = store.told_subjects(target.id, 0, 10).await.unwrap();
    let told: Vec<(SubjectKey, Vec<Digest>)> =
        subjects.iter().map(|(_, subject, sets)| (subject.clone(), sets.clone())).collect();
    assert_eq!(told, web, "the job is not selected");
    assert_eq!(store.told_subjects(target.id, subjects[0].0, 10).await.unwrap(), []);
    assert_eq!(store.told_containers(target.id, &plain("job")).await.unwrap(), []);
    let known = store.told_package_sets(target.id, 0, 10).await.unwrap();
    assert_eq!(known, [(one.id, one.chain), (two.id, two.chain)]);
    assert_eq!(store.told_package_sets(target.id, one.id, 10).await.unwrap(), known[1..]);

    store.record_runs(&[], &[run(workload("web"), one.id, 20)]).await.unwrap();
    tell(store, &target, &selects, MUCH).await;
    assert_eq!(store.told_containers(target.id, &workload("web")).await.unwrap(), [(workload("web"), vec![two.chain])]);
    assert_eq!(store.told_package_set(target.id, &one.chain).await.unwrap(), None);
}

//! The guarantees of notices, tested through the trait: people are told of each vulnerability of a workload, and of each problem, once.

use outcrop::store::{
    FindingEvent, MergedStack, NewDelivery, NoticeFilter, NoticeRow, NoticeScope, OutboxEvent, PendingNotices,
    PortionLimit, Run, Selects, Store, SubjectKey, Target, TargetSpec,
};
use outcrop_proto::{Coverage, CoverageState, Digest, FindingStatus, Severity};

use super::conformance::{Harness, open_with_outbox, plain, put, run, stack, workload};

/// Selects everything; the severity is the filter's.
struct Everything;

impl Selects for Everything {
    fn subject(&self, _: &SubjectKey) -> bool {
        true
    }

    fn finding(&self, _: &FindingEvent) -> bool {
        true
    }

    fn event(&self, _: &OutboxEvent) -> bool {
        true
    }
}

const DAY: i64 = 24 * 3_600;

const FILTER: NoticeFilter = NoticeFilter { at_least: Severity::High, status: None, fixable: None };

async fn configure(store: &dyn Store) -> Target {
    let spec = TargetSpec { name: "chat".to_owned(), selection: Digest::of(b"all") };
    store.set_targets(&[spec]).await.unwrap().remove(0)
}

/// Notes everything that happened, in small portions.
async fn note(store: &dyn Store, target: &Target, filter: NoticeFilter, at: i64) {
    loop {
        let limit = PortionLimit { changes: 2, bytes: 1 << 20 };
        let portion = store.portion(target.id, &Everything, limit).await.unwrap();
        if portion.progress.is_none() {
            return;
        }
        store.note(portion, filter, at).await.unwrap();
    }
}

/// Returns what waits: vulnerabilities with the names of workloads, and problems.
async fn waiting(store: &dyn Store, target: &Target) -> Vec<String> {
    store.settle_notices(target.id).await.unwrap();
    let pending = store.pending_notices(target.id, i64::MAX).await.unwrap();
    let mut found = read(store, target, NoticeScope::Pending(pending.last)).await;
    for problem in store.problem_notices(target.id, 100).await.unwrap() {
        let word = if problem.is_raised { "raised" } else { "cleared" };
        found.push(format!("{} {word}", problem.problem));
    }
    assert_eq!(pending.oldest.is_none(), found.is_empty() && !pending.summary, "{found:?}");
    found
}

async fn read(store: &dyn Store, target: &Target, scope: NoticeScope) -> Vec<String> {
    let mut found = Vec::new();
    let mut each = |row: NoticeRow| found.push(format!("{} {}", row.vulnerability, row.workload.name));
    store.notices(target.id, scope, 100, &mut each).await.unwrap();
    found.sort();
    found
}

/// Stores a message with everything that waits, which arrives.
async fn tell(store: &dyn Store, target: &Target, at: i64) {
    let last = store.pending_notices(target.id, at).await.unwrap().last;
    let delivery = NewDelivery { key: format!("key {at}"), records: 1, body: b"message".to_vec(), at };
    store.tell_notices(target.id, last, delivery).await.unwrap();
    let (row, body) = store.next_delivery(target.id).await.unwrap().unwrap();
    assert_eq!((row.key, body), (format!("key {at}"), b"message".to_vec()));
    store.delivered(row.id, at).await.unwrap();
    assert_eq!(waiting(store, target).await, [""; 0], "they are told");
}

fn runs(name: &str, package_set: i64, at: i64) -> [Run; 1] {
    [run(workload(name), package_set, at)]
}

pub(super) async fn a_vulnerability_of_a_workload_is_told_once_over_rollouts_rematches_and_restarts(
    harness: &dyn Harness,
) {
    let mut store = open_with_outbox(harness).await;
    let old = put(&*store, &stack("old", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    store.record_runs(&runs("web", old.id, 10), &[]).await.unwrap();
    let target = configure(&*store).await;
    assert_eq!(store.pending_notices(target.id, 10).await.unwrap(), PendingNotices::default());
    // The first snapshot is a summary, and nothing in it waits.
    note(&*store, &target, FILTER, 20).await;
    let pending = store.pending_notices(target.id, 20).await.unwrap();
    assert_eq!((pending.summary, pending.oldest), (true, Some(20)));
    assert_eq!(waiting(&*store, &target).await, [""; 0]);
    assert_eq!(read(&*store, &target, NoticeScope::All).await, ["CVE-1 web"], "two packages are one notice");
    let totals = store.total_notices(target.id, NoticeScope::All).await.unwrap();
    assert_eq!((totals.vulnerabilities, totals.workloads, totals.is_full), (vec![(Severity::High, 1)], 1, false));
    tell(&*store, &target, 21).await;
    assert_eq!(store.pending_notices(target.id, 22).await.unwrap().sent, [21]);

    // A rollout to another stack with the same vulnerability, and a second container of the workload.
    let new = put(&*store, &stack("new", &[("a", "2")]), "CVE-1", 30).await;
    store.record_runs(&runs("web", new.id, 31), &runs("web", old.id, 31)).await.unwrap();
    let SubjectKey::WorkloadContainer { workload: web, .. } = workload("web") else { panic!() };
    let second = SubjectKey::WorkloadContainer { workload: web, container: "second".into() };
    store.record_runs(&[run(second, old.id, 32)], &[]).await.unwrap();
    note(&*store, &target, FILTER, 40).await;
    assert_eq!(waiting(&*store, &target).await, [""; 0]);

    // A rematch opens another one; a new workload has it, too. Both wait through a restart.
    put(&*store, &stack("new", &[("a", "2")]), "CVE-2", 50).await;
    store.record_runs(&runs("api", new.id, 51), &[]).await.unwrap();
    note(&*store, &target, FILTER, 60).await;
    drop(store);
    store = open_with_outbox(harness).await;
    assert_eq!(waiting(&*store, &target).await, ["CVE-2 api", "CVE-2 web"]);
    assert_eq!(store.pending_notices(target.id, 60).await.unwrap().oldest, Some(60));
    tell(&*store, &target, 70).await;
    drop(store);
    store = open_with_outbox(harness).await;
    assert_eq!(waiting(&*store, &target).await, [""; 0]);

    // Rematches that close and open it, a rollout back and forth, and a snapshot.
    for at in [80, 90, 100] {
        put(&*store, &stack("new", &[("a", "2")]), "CVE-1", at).await;
        store.record_runs(&[], &runs("api", new.id, at + 1)).await.unwrap();
        note(&*store, &target, FILTER, at + 2).await;
        put(&*store, &stack("new", &[("a", "2")]), "CVE-2", at + 3).await;
        store.record_runs(&runs("api", new.id, at + 4), &[]).await.unwrap();
        store.resync(target.id).await.unwrap();
        note(&*store, &target, FILTER, at + 5).await;
        store.forget_notices(at + 6).await.unwrap();
    }
    assert_eq!(waiting(&*store, &target).await, [""; 0], "api had CVE-1 while nobody was told of it");
}

pub(super) async fn a_finding_that_closed_before_people_were_told_is_not_told(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store).await;
    note(store, &target, FILTER, 5).await;
    tell(store, &target, 6).await;
    let app = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
    store.record_runs(&[run(workload("web"), app.id, 10), run(workload("api"), app.id, 10)], &[]).await.unwrap();
    note(store, &target, FILTER, 11).await;
    assert_eq!(waiting(store, &target).await, ["CVE-1 api", "CVE-1 web"]);
    store.record_runs(&[], &runs("api", app.id, 12)).await.unwrap();
    note(store, &target, FILTER, 13).await;
    assert_eq!(waiting(store, &target).await, ["CVE-1 web"], "api is gone");
    put(store, &stack("app", &[("a", "1")]), "CVE-2", 20).await;
    note(store, &target, FILTER, 21).await;
    assert_eq!(waiting(store, &target).await, ["CVE-2 web"], "CVE-1 is closed");
}

pub(super) async fn a_vulnerability_that_was_gone_for_a_week_is_told_again(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store).await;
    let app = put(store, &stack("app", &[("a", "1")]), "CVE-1", 10).await;
    store.record_runs(&runs("web", app.id, 10), &[]).await.unwrap();
    note(store, &target, FILTER, 11).await;
    tell(store, &target, 12).await;
    for (begin, gone, expected) in [(100 * DAY, 6 * DAY, vec![]), (200 * DAY, 7 * DAY, vec!["CVE-1 web"])] {
        put(store, &stack("app", &[("a", "1")]), "CVE-2", begin).await;
        note(store, &target, FILTER, begin).await;
        store.settle_notices(target.id).await.unwrap();
        store.forget_notices(begin).await.unwrap();
        store.forget_notices(begin + gone).await.unwrap();
        put(store, &stack("app", &[("a", "1")]), "CVE-1", begin + gone).await;
        note(store, &target, FILTER, begin + gone).await;
        assert_eq!(waiting(store, &target).await, expected);
        store.forget_notices(begin + gone + 1).await.unwrap();
    }
}

pub(super) async fn people_are_told_only_of_what_the_filter_selects_and_by_node_where_there_is_no_workload(
    harness: &dyn Harness,
) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store).await;
    let filters = [
        NoticeFilter { at_least: Severity::Critical, ..FILTER },
        NoticeFilter { status: Some(FindingStatus::Affected), ..FILTER },
        NoticeFilter { fixable: Some(false), ..FILTER },
        NoticeFilter { status: Some(FindingStatus::Fixed), fixable: Some(true), ..FILTER },
    ];
    let expected: [&[&str]; 4] = [&[], &[], &[], &["CVE-3 node", "CVE-3 web"]];
    for (number, (filter, expected)) in (0..).zip(filters.into_iter().zip(expected)) {
        let app = put(store, &stack(&format!("app {number}"), &[("a", "1")]), &format!("CVE-{number}"), 10).await;
        let has = [workload("web"), plain("one"), plain("two")].map(|subject| run(subject, app.id, 10 + number));
        store.record_runs(&has, &[]).await.unwrap();
        note(store, &target, filter, 20).await;
        assert_eq!(read(store, &target, NoticeScope::All).await, expected, "{filter:?}");
        store.record_runs(&[], &has).await.unwrap();
    }
}

pub(super) async fn containers_that_are_not_scanned_any_more_are_a_problem(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store).await;
    let merged = |name: &str, state: CoverageState| MergedStack {
        coverage: Coverage::new(state, "a reason"),
        inputs: Digest::of(state.as_str().as_bytes()),
        ..stack(name, &[("a", "1")])
    };
    // One that never was scanned in full is no loss.
    for (name, state) in [("app", CoverageState::Scanned), ("other", CoverageState::Partial)] {
        let summary = put(store, &merged(name, state), "CVE-1", 10).await;
        store.record_runs(&runs(name, summary.id, 10), &[]).await.unwrap();
    }
    note(store, &target, FILTER, 11).await;
    tell(store, &target, 12).await;
    let problem = format!("coverage {}", &Digest::of(b"app").to_string()[..19]);
    for (name, state, expected) in [
        ("other", CoverageState::Failed, None),
        ("app", CoverageState::Partial, Some("raised")),
        ("app", CoverageState::Failed, None),
        ("app", CoverageState::Scanned, Some("cleared")),
    ] {
        put(store, &merged(name, state), "CVE-1", 20).await;
        note(store, &target, FILTER, 21).await;
        let expected: Vec<String> = expected.iter().map(|word| format!("{problem} {word}")).collect();
        assert_eq!(waiting(store, &target).await, expected, "{name} {state:?}");
        if !expected.is_empty() {
            let message = store.problem_notices(target.id, 1).await.unwrap().remove(0).message;
            assert!(
                message.contains("1 container(s) of workloads were scanned and are partial now: a reason"),
                "{message}"
            );
            tell(store, &target, 22).await;
        }
    }
    // A snapshot changes nothing; one that nobody runs any more is over.
    let lost = put(store, &merged("app", CoverageState::Partial), "CVE-1", 30).await;
    note(store, &target, FILTER, 31).await;
    tell(store, &target, 32).await;
    store.resync(target.id).await.unwrap();
    note(store, &target, FILTER, 33).await;
    assert_eq!(waiting(store, &target).await, [""; 0]);
    store.record_runs(&[], &runs("app", lost.id, 34)).await.unwrap();
    note(store, &target, FILTER, 35).await;
    assert_eq!(waiting(store, &target).await, [format!("{problem} cleared")]);
}

pub(super) async fn a_problem_is_told_when_it_is_raised_and_when_it_is_over(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store).await;
    let raised = |key: &str| OutboxEvent::ProblemRaised { problem: key.to_owned(), message: "m".to_owned() };
    let cleared = |key: &str| OutboxEvent::ProblemCleared { problem: key.to_owned() };
    store.append(&[raised("a")], 1).await.unwrap();
    note(store, &target, FILTER, 2).await;
    assert_eq!(waiting(store, &target).await, ["a raised"], "the summary names it");
    tell(store, &target, 3).await;
    for (events, expected) in [
        (vec![raised("a")], vec![]),
        (vec![raised("b")], vec!["b raised"]),
        (vec![cleared("a")], vec!["b raised", "a cleared"]),
        // Raised again, and over, before people were told.
        (vec![raised("a")], vec!["b raised"]),
        (vec![cleared("b")], vec![]),
        (vec![cleared("a")], vec!["a cleared"]),
    ] {
        store.append(&events, 4).await.unwrap();
        note(store, &target, FILTER, 5).await;
        assert_eq!(waiting(store, &target).await, expected, "{events:?}");
    }
    tell(store, &target, 6).await;
    // What was cleared while events were not collected is cleared at the end of the snapshot.
    store.append(&[raised("c")], 7).await.unwrap();
    note(store, &target, FILTER, 8).await;
    tell(store, &target, 9).await;
    store.append(&[cleared("c"), raised("d")], 10).await.unwrap();
    store.resync(target.id).await.unwrap();
    note(store, &target, FILTER, 11).await;
    assert_eq!(waiting(store, &target).await, ["d raised", "c cleared"]);
    tell(store, &target, 12).await;
    // Only messages of the last hour count.
    assert_eq!(store.pending_notices(target.id, 3_606).await.unwrap().sent, [6, 9, 12]);
    tell(store, &target, 3_610).await;
    assert_eq!(store.pending_notices(target.id, 3_610).await.unwrap().sent, [12, 3_610]);
}

//! The guarantees of deliveries, tested through the trait: a target that applies what it is told knows the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outcrop::store::{
    Backlog, BacklogLimit, Change, Condition, FindingChange, FindingEvent, NewDelivery, OutboxEvent, Portion,
    PortionLimit, Selects, SnapshotPlace, Store, SubjectKey, Target, TargetSpec,
};
use outcrop_proto::{Digest, Severity};

use super::conformance::{Harness, all, open_with_outbox, plain, put, run, stack, workload};

/// The selection of a target.
#[derive(Default)]
pub(super) struct Selection {
    /// The only namespace; all if there is none.
    pub(super) namespace: Option<&'static str>,
    pub(super) at_least: Option<Severity>,
}

impl Selects for Selection {
    fn subject(&self, subject: &SubjectKey) -> bool {
        self.namespace.is_none_or(|namespace| subject.workload().is_some_and(|of| &*of.namespace == namespace))
    }

    fn finding(&self, finding: &FindingEvent) -> bool {
        self.at_least.is_none_or(|least| finding.severity >= least)
    }

    fn event(&self, _: &OutboxEvent) -> bool {
        self.namespace.is_none()
    }
}

const MUCH: PortionLimit = PortionLimit { changes: 1000, bytes: 1 << 20 };

/// What a target knows that applies everything it is told.
#[derive(Debug, Default, PartialEq)]
struct Replica {
    package_sets: BTreeMap<Digest, BTreeSet<(String, String)>>,
    subjects: BTreeMap<SubjectKey, BTreeSet<Digest>>,
    conditions: BTreeSet<Condition>,
}

impl Replica {
    /// Applies a change. What a snapshot does not contain is gone at its end.
    fn apply(&mut self, snapshot: &mut Option<Self>, change: &Change) {
        match change {
            Change::SnapshotBegins { .. } => *snapshot = Some(Self::default()),
            Change::SnapshotEnds => *self = snapshot.take().expect("a snapshot begins before it ends"),
            change => match snapshot {
                Some(snapshot) => snapshot.change(change),
                None => self.change(change),
            },
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::SnapshotBegins { .. } | Change::SnapshotEnds => panic!("{change:?}"),
            Change::PackageSet { package_set, is_new } => {
                let known = self.package_sets.contains_key(&package_set.identity);
                assert_ne!(known, *is_new, "a package set is new once");
                self.package_sets.entry(package_set.identity).or_default();
            }
            Change::PackageSetGone { package_set } => {
                assert!(self.package_sets.remove(package_set).is_some(), "it was known");
                assert!(!self.subjects.values().any(|has| has.contains(package_set)), "nobody has it");
            }
            Change::Finding { change, package_set, finding, .. } => {
                let known = self.package_sets.get_mut(package_set).expect("its package set is known");
                let is_new = known.insert((finding.vulnerability.clone(), finding.purl.clone()));
                assert_eq!(is_new, *change != FindingChange::Changed, "{change:?} of {finding:?}");
            }
            Change::FindingClosed { package_set, finding } => {
                let known = self.package_sets.get_mut(package_set).expect("its package set is known");
                assert!(known.remove(&(finding.vulnerability.clone(), finding.purl.clone())), "{finding:?} was open");
            }
            Change::Subject { subject, package_sets } => {
                let has: BTreeSet<Digest> = package_sets.iter().copied().collect();
                assert!(has.iter().all(|set| self.package_sets.contains_key(set)), "its package sets are known");
                assert_ne!(self.subjects.insert(subject.clone(), has.clone()), Some(has), "something changed");
            }
            Change::SubjectGone { subject } => assert!(self.subjects.remove(subject).is_some(), "it was known"),
            Change::Condition(condition) => {
                self.conditions.insert(condition.clone());
            }
            Change::Event(event) => match event.condition() {
                // One that ended and began again is told to have begun.
                Some((condition, true)) => {
                    self.conditions.insert(condition);
                }
                Some((condition, false)) => assert!(self.conditions.remove(&condition), "it was open"),
                None => {}
            },
        }
    }
}

pub(super) async fn configure(store: &dyn Store, name: &str, selection: &str) -> Target {
    let spec = TargetSpec { name: name.to_owned(), selection: Digest::of(selection.as_bytes()) };
    store.set_targets(&[spec]).await.unwrap().remove(0)
}

/// Stores a portion as a delivery, which is accepted at once.
async fn deliver(store: &dyn Store, portion: Portion, number: &mut u64) {
    let Portion { target, told, progress } = portion;
    let Some(progress) = progress else { return };
    *number += 1;
    let delivery = NewDelivery { key: format!("key {number}"), records: told.len(), body: b"body".to_vec(), at: 7 };
    store.enqueue(&target, progress, (!told.is_empty()).then_some(delivery)).await.unwrap();
    if let Some((delivery, body)) = store.next_delivery(target.id).await.unwrap() {
        assert_eq!((body.as_slice(), delivery.records), (b"body".as_slice(), told.len() as u64));
        store.delivered(delivery.id, 8).await.unwrap();
    }
}

/// Tells a target everything. Returns the changes.
pub(super) async fn tell(store: &dyn Store, target: &Target, selects: &Selection, limit: PortionLimit) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut number = changes_so_far(store, target).await;
    loop {
        let portion = store.portion(target.id, selects, limit).await.unwrap();
        if portion.progress.is_none() {
            return changes;
        }
        assert!(portion.told.len() <= limit.changes, "{} changes at once", portion.told.len());
        changes.extend(portion.told.iter().map(|told| told.change.clone()));
        deliver(store, portion, &mut number).await;
    }
}

/// A number behind the keys of earlier deliveries.
async fn changes_so_far(store: &dyn Store, target: &Target) -> u64 {
    store.portion(target.id, &Selection::default(), MUCH).await.unwrap().target.sequence + 1_000_000
}

fn kinds(changes: &[Change]) -> Vec<&'static str> {
    let kind = |change: &Change| match change {
        Change::SnapshotBegins { .. } => "begins",
        Change::SnapshotEnds => "ends",
        Change::PackageSet { is_new: true, .. } => "new set",
        Change::PackageSet { is_new: false, .. } => "set",
        Change::PackageSetGone { .. } => "set gone",
        Change::Finding { change: FindingChange::Present, .. } => "present",
        Change::Finding { change: FindingChange::Opened, .. } => "opened",
        Change::Finding { change: FindingChange::Changed, .. } => "changed",
        Change::FindingClosed { .. } => "closed",
        Change::Subject { .. } => "subject",
        Change::SubjectGone { .. } => "subject gone",
        Change::Condition(_) => "condition",
        Change::Event(event) => event.kind(),
    };
    changes.iter().map(kind).collect()
}

pub(super) async fn a_new_target_is_told_everything_and_then_what_changes(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let app = put(store, &stack("app", &[("a", "1"), ("b", "1")]), "CVE-1", 10).await;
    store.record_runs(&[run(workload("web"), app.id, 10)], &[]).await.unwrap();
    let raised = OutboxEvent::ProblemRaised { problem: "x".to_owned(), message: "m".to_owned() };
    store.append(&[raised], 10).await.unwrap();
    let target = configure(store, "central", "all").await;
    assert_eq!(target.snapshot, Some(SnapshotPlace::Begin));
    let selects = Selection::default();
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!(kinds(&told), ["begins", "new set", "present", "present", "subject", "condition", "ends"]);
    assert_eq!(tell(store, &target, &selects, MUCH).await, [], "nothing happened since");

    // A package set comes with its findings, before who has it; the one that nobody has any more goes last.
    let next = put(store, &stack("next", &[("a", "2")]), "CVE-2", 20).await;
    store.record_runs(&[run(workload("web"), next.id, 21)], &[run(workload("web"), app.id, 21)]).await.unwrap();
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!(kinds(&told), ["new set", "present", "subject", "set gone"]);
    put(store, &stack("next", &[("a", "2")]), "CVE-3", 30).await;
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!(kinds(&told), ["set", "closed", "opened"]);
    store.record_runs(&[], &[run(workload("web"), next.id, 40)]).await.unwrap();
    assert_eq!(kinds(&tell(store, &target, &selects, MUCH).await), ["subject gone", "set gone"]);
    // Nobody has it, so nobody is told.
    put(store, &stack("next", &[("a", "2")]), "CVE-4", 50).await;
    assert_eq!(tell(store, &target, &selects, MUCH).await, []);
}

pub(super) async fn of_several_changes_the_sum_is_told(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let selects = Selection::default();
    let old = stack("old", &[("a", "1")]);
    let target = configure(store, "central", "all").await;
    let had = put(store, &old, "CVE-1", 10).await;
    store.record_runs(&[run(workload("web"), had.id, 10)], &[]).await.unwrap();
    tell(store, &target, &selects, MUCH).await;

    // Opened and closed; closed and opened.
    put(store, &old, "CVE-2", 20).await;
    put(store, &old, "CVE-1", 21).await;
    assert_eq!(kinds(&tell(store, &target, &selects, MUCH).await), ["set", "changed"]);
    // A rollout of a hundred steps, and back.
    let new = put(store, &stack("new", &[("a", "2")]), "CVE-1", 30).await;
    for at in 30..130 {
        let (web, app) = (workload("web"), workload("app"));
        store.record_runs(&[run(web.clone(), new.id, at), run(app, new.id, at)], &[]).await.unwrap();
        store.record_runs(&[], &[run(web, new.id, at)]).await.unwrap();
    }
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!(kinds(&told), ["new set", "present", "subject"], "{told:#?}");
    let ended = run(workload("app"), new.id, 200);
    store.record_runs(&[], &[ended]).await.unwrap();
    assert_eq!(kinds(&tell(store, &target, &selects, MUCH).await), ["subject gone", "set gone"]);
    // A problem that came and went; one that went and came.
    let raised = |key: &str| OutboxEvent::ProblemRaised { problem: key.to_owned(), message: "m".to_owned() };
    let cleared = |key: &str| OutboxEvent::ProblemCleared { problem: key.to_owned() };
    store.append(&[raised("a"), raised("b"), cleared("a")], 300).await.unwrap();
    assert_eq!(kinds(&tell(store, &target, &selects, MUCH).await), ["problem-raised"]);
    store.append(&[cleared("b"), raised("b"), raised("c"), cleared("c")], 301).await.unwrap();
    assert_eq!(kinds(&tell(store, &target, &selects, MUCH).await), ["problem-raised"]);
}

pub(super) async fn a_target_is_told_only_what_it_selects(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let mine = put(store, &stack("mine", &[("a", "1")]), "CVE-1", 10).await;
    let other = put(store, &stack("other", &[("b", "1")]), "CVE-2", 10).await;
    store.record_runs(&[run(workload("web"), mine.id, 10), run(plain("job"), other.id, 10)], &[]).await.unwrap();
    let selects = Selection { namespace: Some("shop"), at_least: None };
    let target = configure(store, "tenant", "shop").await;
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!(kinds(&told), ["begins", "new set", "present", "subject", "ends"]);
    assert!(!format!("{told:?}").contains("CVE-2"), "{told:?}");
    // What another namespace has is not told when it changes either.
    put(store, &stack("other", &[("b", "1")]), "CVE-3", 20).await;
    store.append(&[OutboxEvent::ProblemRaised { problem: "x".to_owned(), message: "m".to_owned() }], 20).await.unwrap();
    assert_eq!(tell(store, &target, &selects, MUCH).await, []);
    // A finding whose severity leaves the selection is closed for the target.
    let severe = Selection { namespace: Some("shop"), at_least: Some(Severity::Critical) };
    put(store, &stack("mine", &[("a", "1")]), "CVE-4", 30).await;
    assert_eq!(kinds(&tell(store, &target, &severe, MUCH).await), ["set"], "neither is critical");
}

pub(super) async fn portions_are_bounded_and_follow_each_other_whatever_is_between_them(harness: &dyn Harness) {
    let packages: Vec<(String, String)> = (0..40).map(|number| (format!("p{number}"), "1".to_owned())).collect();
    let packages: Vec<(&str, &str)> = packages.iter().map(|(name, version)| (&**name, &**version)).collect();
    let selects = Selection::default();
    let limit = PortionLimit { changes: 3, bytes: 1 << 20 };
    let (mut store, mut number) = (open_with_outbox(harness).await, 0);
    for name in ["one", "two", "three"] {
        let stack = put(&*store, &stack(name, &packages), "CVE-1", 10).await;
        store.record_runs(&[run(workload(name), stack.id, 10)], &[]).await.unwrap();
    }
    let target = configure(&*store, "central", "all").await;
    let (mut replica, mut snapshot, mut rounds) = (Replica::default(), None, 0);
    loop {
        let portion = store.portion(target.id, &selects, limit).await.unwrap();
        if portion.progress.is_none() {
            break;
        }
        rounds += 1;
        // A kill before the portion is stored: it is computed again. A kill after that: the delivery is there.
        if rounds % 3 == 0 {
            drop(store);
            store = open_with_outbox(harness).await;
            continue;
        }
        assert!(portion.told.len() <= 3);
        portion.told.iter().for_each(|told| replica.apply(&mut snapshot, &told.change));
        deliver(&*store, portion, &mut number).await;
    }
    assert!(rounds > 40 && snapshot.is_none(), "{rounds} rounds");
    assert_eq!(replica.package_sets.values().map(BTreeSet::len).collect::<Vec<_>>(), [40; 3]);
    // A portion ends where its texts are too many.
    store.resync(target.id).await.unwrap();
    let portion = store.portion(target.id, &selects, PortionLimit { changes: 1000, bytes: 2000 }).await.unwrap();
    assert!((2..30).contains(&portion.told.len()), "{} changes", portion.told.len());
}

/// Random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// The state that a target is to know.
async fn truth(store: &dyn Store) -> Replica {
    let stacks: BTreeMap<_, _> = store.stacks().await.unwrap().into_iter().map(|of| (of.id, of.chain)).collect();
    let mut truth = Replica { conditions: store.open_conditions().await.unwrap(), ..Replica::default() };
    for run in store.open_runs().await.unwrap() {
        let chain = stacks[&run.package_set];
        truth.subjects.entry(run.subject).or_default().insert(chain);
        let found = store.findings(&all(&[run.package_set])).await.unwrap();
        truth.package_sets.insert(chain, found.into_iter().map(|row| (row.vulnerability, row.purl)).collect());
    }
    truth
}

pub(super) async fn a_target_that_applies_what_it_is_told_knows_the_state(harness: &dyn Harness) {
    let selects = Selection::default();
    let mut dice = Dice(1);
    let (mut store, mut number, mut at) = (open_with_outbox(harness).await, 0, 100);
    let target = configure(&*store, "central", "all").await;
    let (mut replica, mut snapshot) = (Replica::default(), None);
    for round in 0..60 {
        for _ in 0..dice.roll(8) {
            at += 5000;
            let name = format!("stack {}", dice.roll(4));
            let subject = workload(&format!("web {}", dice.roll(3)));
            let summary =
                put(&*store, &stack(&name, &[("a", "1"), ("b", "1")]), &format!("CVE-{}", dice.roll(3)), at).await;
            let runs = [run(subject, summary.id, at)];
            match dice.roll(4) {
                0 | 1 => store.record_runs(&runs, &[]).await.unwrap(),
                2 => store.record_runs(&[], &runs).await.unwrap(),
                _ => {
                    let problem = format!("problem {}", dice.roll(3));
                    let key = Condition::Problem { problem: problem.clone() };
                    let event = match store.open_conditions().await.unwrap().contains(&key) {
                        true => key.ended(),
                        false => OutboxEvent::ProblemRaised { problem, message: "m".to_owned() },
                    };
                    store.append(&[event], at).await.unwrap();
                }
            }
        }
        match dice.roll(12) {
            0 => store.resync(target.id).await.unwrap(),
            1 => {
                drop(store);
                store = open_with_outbox(harness).await;
            }
            2 => {
                let since = at - 20_000;
                let limit = BacklogLimit { events: 5 + dice.roll(30), since, drop_oldest: false };
                store.limit_backlog(target.id, limit).await.unwrap();
            }
            _ => {}
        }
        let limit = PortionLimit { changes: 1 + usize::try_from(dice.roll(9)).unwrap(), bytes: 1 << 20 };
        for _ in 0..dice.roll(30) {
            let portion = store.portion(target.id, &selects, limit).await.unwrap();
            portion.told.iter().for_each(|told| replica.apply(&mut snapshot, &told.change));
            deliver(&*store, portion, &mut number).await;
            while store.remove_told().await.unwrap() {}
        }
        if round % 10 == 9 {
            for change in tell(&*store, &target, &selects, limit).await {
                replica.apply(&mut snapshot, &change);
            }
            assert_eq!(replica, truth(&*store).await, "round {round}");
            while store.remove_told().await.unwrap() {}
            assert_eq!(store.outbox(0, 10).await.unwrap(), [], "every event was told");
        }
    }
}

pub(super) async fn a_refused_delivery_waits_for_a_person_and_others_go_on(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let target = configure(store, "central", "all").await;
    for number in 0..3 {
        let event = OutboxEvent::Audit {
            actor: "ann".to_owned(),
            action: "distrust-node".to_owned(),
            target: number.to_string(),
            outcome: outcrop::store::AuditOutcome::Done,
        };
        if number > 0 {
            store.append(&[event], number).await.unwrap();
        }
        let portion = store.portion(target.id, &Selection::default(), MUCH).await.unwrap();
        let delivery = NewDelivery { key: format!("key {number}"), records: 1, body: vec![0; 10], at: 10 + number };
        store.enqueue(&portion.target, portion.progress.unwrap(), Some(delivery)).await.unwrap();
    }
    let first = store.next_delivery(target.id).await.unwrap().unwrap().0;
    assert_eq!((first.key.as_str(), first.sequence, first.target.as_str()), ("key 0", 1, "central"));
    store.refuse(first.id, "400 Bad Request", 20).await.unwrap();
    let second = store.next_delivery(target.id).await.unwrap().unwrap().0;
    assert_eq!((second.key.as_str(), second.sequence), ("key 1", 2));
    store.delivered(second.id, 21).await.unwrap();
    let waiting = Backlog { events: 0, oldest_event: None, oldest: Some(12), deliveries: 1, refused: 1 };
    assert_eq!(store.backlog(target.id).await.unwrap(), waiting);
    let listed = store.deliveries(0, 10).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["key 0", "key 2"]);
    assert_eq!(listed[0].refused, Some(("400 Bad Request".to_owned(), 20)));
    assert_eq!(store.deliveries(listed[0].id, 10).await.unwrap().len(), 1, "they are paged");
    assert!(!store.settle_refused(listed[1].id, false).await.unwrap(), "it was not refused");
    assert!(store.settle_refused(first.id, true).await.unwrap());
    let again = store.next_delivery(target.id).await.unwrap().unwrap();
    assert_eq!((again.0.key.as_str(), again.1), ("key 0", vec![0; 10]), "the same key and the same bytes");
    store.refuse(first.id, "400 Bad Request", 22).await.unwrap();
    assert!(store.settle_refused(first.id, false).await.unwrap());
    assert_eq!(store.delivery(first.id).await.unwrap(), None);
}

pub(super) async fn targets_are_those_that_are_configured(harness: &dyn Harness) {
    let spec =
        |name: &str, selection: &str| TargetSpec { name: name.to_owned(), selection: Digest::of(selection.as_bytes()) };
    let selects = Selection::default();
    {
        let store = &*open_with_outbox(harness).await;
        let targets = store.set_targets(&[spec("a", "all"), spec("b", "all")]).await.unwrap();
        for target in &targets {
            tell(store, target, &selects, MUCH).await;
        }
        let again = store.set_targets(&[spec("b", "all"), spec("a", "all")]).await.unwrap();
        assert_eq!((again[1].id, &again[1].snapshot), (targets[0].id, &None), "nothing changed for it");
    }
    let store: Arc<dyn Store> = open_with_outbox(harness).await;
    let raised = |key: &str| OutboxEvent::ProblemRaised { problem: key.to_owned(), message: "m".to_owned() };
    store.append(&[raised("a")], 5).await.unwrap();
    let targets = store.set_targets(&[spec("a", "all"), spec("c", "all")]).await.unwrap();
    assert_eq!(targets[0].snapshot, None, "it goes on where it was");
    // A target that has not begun its snapshot holds no event back; one that waits does.
    while store.remove_told().await.unwrap() {}
    assert_eq!(store.outbox(0, 10).await.unwrap().len(), 1);
    assert_eq!(kinds(&tell(&*store, &targets[0], &selects, MUCH).await), ["problem-raised"]);
    while store.remove_told().await.unwrap() {}
    assert_eq!(store.outbox(0, 10).await.unwrap(), []);
    let changed = store.set_targets(&[spec("a", "less"), spec("c", "all")]).await.unwrap();
    assert_eq!((changed[0].id, &changed[0].snapshot), (targets[0].id, &Some(SnapshotPlace::Begin)));
    // Progress from before is void.
    tell(&*store, &changed[1], &selects, MUCH).await;
    store.append(&[raised("b")], 6).await.unwrap();
    let portion = store.portion(changed[1].id, &selects, MUCH).await.unwrap();
    store.resync(changed[1].id).await.unwrap();
    let delivery = NewDelivery { key: "void".to_owned(), records: 1, body: Vec::new(), at: 7 };
    store.enqueue(&portion.target, portion.progress.unwrap(), Some(delivery)).await.unwrap();
    assert_eq!(store.next_delivery(changed[1].id).await.unwrap(), None);
    assert_eq!(store.set_targets(&[]).await.unwrap(), []);
    assert!(store.backlog(changed[0].id).await.is_err(), "it is gone");
}

pub(super) async fn a_backlog_is_bounded_by_what_the_operator_chose(harness: &dyn Harness) {
    let store = &*open_with_outbox(harness).await;
    let selects = Selection::default();
    let target = configure(store, "central", "all").await;
    tell(store, &target, &selects, MUCH).await;
    let raised = |number: i64| OutboxEvent::ProblemRaised { problem: number.to_string(), message: "m".to_owned() };
    for at in 1..=20 {
        store.append(&[raised(at)], at).await.unwrap();
    }
    let limit = |events, since, drop_oldest| BacklogLimit { events, since, drop_oldest };
    assert_eq!(store.limit_backlog(target.id, limit(20, 1, true)).await.unwrap(), 0);
    assert_eq!(store.limit_backlog(target.id, limit(15, 1, true)).await.unwrap(), 5);
    assert_eq!(store.limit_backlog(target.id, limit(15, 9, true)).await.unwrap(), 3, "they are too old");
    let backlog = store.backlog(target.id).await.unwrap();
    assert_eq!((backlog.events, backlog.oldest), (12, Some(9)));
    let portion = store.portion(target.id, &selects, MUCH).await.unwrap();
    assert_eq!((portion.target.dropped, portion.told.len()), (8, 12));
    // Otherwise the target gets a snapshot when it accepts deliveries again, and nothing waits until then.
    assert_eq!(store.limit_backlog(target.id, limit(11, 1, false)).await.unwrap(), 12);
    assert_eq!(store.backlog(target.id).await.unwrap().events, 0);
    while store.remove_told().await.unwrap() {}
    assert_eq!(store.outbox(0, 100).await.unwrap(), []);
    let told = tell(store, &target, &selects, MUCH).await;
    assert_eq!((told.len(), kinds(&told)[0]), (22, "begins"));
}

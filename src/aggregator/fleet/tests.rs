//! The fleet's rules, as rules.

mod unbelieved;

use outcrop_proto::merge::UNREAD_MARKS;
use outcrop_proto::{Pod, Step};

use super::stacks::Ready;
use super::*;
use crate::cluster::{Place, Workload};
use crate::store::{Counts, SubjectKey, WorkloadKey};
use crate::web::{LayerCounts, Scope};

fn id(name: &str) -> LayerId {
    LayerId::Diff(Digest::of(name.as_bytes()))
}

fn stack(layers: &[&str]) -> Digest {
    Digest::of(layers.concat().as_bytes())
}

fn key(id: &str) -> ContainerKey {
    ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id: id.to_owned() }
}

/// A container of an image with these layers, newest first.
fn container(name: &str, layers: &[&str]) -> Seen {
    Seen {
        key: key(name),
        name: name.to_owned(),
        pod: None,
        image: "example.org/image:1".to_owned(),
        storage: None,
        stack: Some((stack(layers), layers.iter().map(|name| id(name)).collect())),
        refused: None,
        steps: Vec::new(),
    }
}

impl Fleet {
    /// A node tells of its containers, and no API server is asked.
    fn tell(
        &mut self,
        name: &str,
        sequence: u64,
        full: bool,
        containers: Vec<Seen>,
        gone: &[ContainerKey],
        now: Now,
    ) -> Result<(), NotTaken> {
        let stream = self.picture.node(name).map_or(1, |node| node.stream);
        let report = Report { stream, sequence, full, containers, gone: gone.to_vec() };
        self.containers(name, report, &|_| Placed::AsTold, now)
    }

    /// A node tells of all that it has, and the API server says where each belongs.
    fn tell_placed(&mut self, name: &str, containers: Vec<Seen>, place: &dyn Fn(&Seen) -> Placed) {
        let report = Report { stream: 1, sequence: 0, full: true, containers, gone: Vec::new() };
        self.containers(name, report, place, at(0)).unwrap();
    }
}

/// The subject of a container of the runtime that belongs to no workload.
fn plain(node: &str, container: &str) -> SubjectKey {
    SubjectKey::Container { node: node.into(), namespace: "k8s.io".into(), container: container.into() }
}

/// The subject of the container `main` of a deployment in `shop`.
fn main_of(name: &str) -> SubjectKey {
    let (namespace, group, kind) = ("shop".into(), "apps".into(), "Deployment".into());
    let workload = WorkloadKey { namespace, group, kind, name: name.into() };
    SubjectKey::WorkloadContainer { workload, container: "main".into() }
}

fn at(seconds: u64) -> Now {
    thread_local!(static START: Instant = Instant::now());
    START.with(|start| Now {
        instant: *start + Duration::from_secs(seconds),
        unix: 1_000_000 + i64::try_from(seconds).unwrap(),
    })
}

fn hello(catalogers: u32) -> v1::Hello {
    v1::Hello { catalogers, agent_version: "0.1.0".to_owned(), ..v1::Hello::default() }
}

/// Two versions of the catalogers are known.
fn rules() -> Rules {
    Rules { verify_share: 0.0, catalogers: 2, ..Rules::default() }
}

fn fleet() -> Fleet {
    Fleet::new(rules(), [], [], [])
}

/// Nodes, of which each runs these images.
fn nodes(nodes: &[(&str, &[&[&str]])]) -> Fleet {
    let mut fleet = fleet();
    for (node, images) in nodes {
        fleet.attach(node, &hello(1), 1, at(0));
        let all = images.iter().map(|layers| container(layers[0], layers)).collect();
        fleet.tell(node, 0, true, all, &[], at(0)).unwrap();
    }
    fleet
}

/// Two nodes, of which each runs one image; both images stand on one base.
fn two_nodes() -> Fleet {
    nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["bank", "base"]])])
}

/// What `node` says that it read.
fn read(fleet: &mut Fleet, node: &str, name: &str, says: &str) {
    assert!(fleet.known(inventory(node, name, says, 1)));
}

fn inventory(node: &str, name: &str, says: &str, catalogers: u32) -> KnownLayer {
    KnownLayer {
        id: id(name),
        digest: Digest::of(says.as_bytes()),
        size: 1,
        catalogers,
        node: node.to_owned(),
        cage: String::new(),
        marks: false,
        read_at: at(0).unix,
        verified_by: BTreeSet::new(),
    }
}

fn summary(chain: Digest, layers: &[LayerId]) -> Summary {
    Summary {
        id: 1,
        chain,
        layers: layers.to_vec(),
        inputs: None,
        matched: None,
        coverage: Coverage::new(CoverageState::Scanned, ""),
        distribution: None,
        types: Vec::new(),
        catalogers: 1,
        packages: 0,
        unidentified: 0,
        counts: Counts::default(),
    }
}

/// Reads and merges everything.
fn all_scanned(fleet: &mut Fleet, names: &[&str]) {
    for name in names {
        let node = fleet.nodes().find(|(_, node)| !node.stacks.is_empty()).map(|(name, _)| name.to_owned()).unwrap();
        read(fleet, &node, name, "honest");
    }
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
}

fn states(fleet: &Fleet) -> Vec<(CoverageState, u64)> {
    let counts = fleet.overview(&Scope::All, at(0)).coverage.into_iter();
    let mut states: BTreeMap<CoverageState, u64> = BTreeMap::new();
    counts.for_each(|(coverage, count)| *states.entry(coverage.state).or_default() += count);
    states.into_iter().collect()
}

#[test]
fn a_layer_on_two_nodes_is_leased_to_one() {
    let mut fleet = two_nodes();
    assert_eq!(fleet.lease("a", at(0)), [id("shop"), id("base")]);
    assert_eq!(fleet.lease("b", at(0)), [id("bank")]);
    assert_eq!(fleet.lease("a", at(0)), [], "what is leased is not leased again");
    assert_eq!(fleet.layer_counts(&Scope::All), LayerCounts { leased: 3, ..LayerCounts::default() });
    assert_eq!((fleet.is_leased("a", &id("base")), fleet.is_leased("b", &id("base"))), (Some(1), None));
}

#[test]
fn a_lease_ends_with_its_time_and_with_its_node() {
    let mut fleet = two_nodes();
    fleet.lease("a", at(0));
    fleet.lease("b", at(0));
    let late = LEASE.as_secs();
    let again = [late, late + 10].map(|seconds| fleet.lease_again(at(seconds)));
    let all: BTreeSet<LayerId> = again.into_iter().flatten().flat_map(|(_, layers)| layers).collect();
    assert_eq!(all.len(), 3, "all of them are leased anew");
    let mut fleet = two_nodes();
    fleet.lease("a", at(0));
    fleet.detach("a", 1);
    assert_eq!(fleet.lease("b", at(0)), [id("bank"), id("base")]);
    assert_eq!(fleet.lease("a", at(0)), [], "a node that is gone is asked nothing");
}

#[test]
fn a_node_has_few_leases_at_a_time_and_gets_more_as_it_reads() {
    let names: Vec<String> = (0..9).map(|number| format!("layer-{number}")).collect();
    let layers: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fleet = nodes(&[("a", &[&layers])]);
    assert_eq!(fleet.lease("a", at(0)).len(), 4);
    read(&mut fleet, "a", "layer-0", "x");
    assert_eq!(fleet.lease("a", at(0)).len(), 1);
}

#[test]
fn a_stack_is_ready_once_when_all_its_layers_are_known() {
    let mut fleet = two_nodes();
    read(&mut fleet, "a", "shop", "x");
    assert_eq!(fleet.ready(at(0)), []);
    read(&mut fleet, "a", "base", "x");
    let ready = fleet.ready(at(0));
    assert_eq!(ready.iter().map(|ready| ready.layers.to_vec()).collect::<Vec<_>>(), [vec![id("shop"), id("base")]]);
    assert_eq!(fleet.ready(at(0)), []);
    let outcome = Ok(summary(ready[0].stack, &ready[0].layers));
    fleet.merged(ready[0].stack, outcome);
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 1), (CoverageState::Pending, 1)]);
}

#[test]
fn stacks_of_a_migrated_store_that_nobody_runs_are_merged_once_if_their_layers_are_known() {
    let stack = |layers: &[&str], inputs, catalogers| {
        let layers: Vec<LayerId> = layers.iter().map(|name| id(name)).collect();
        Summary { inputs, catalogers, ..summary(Digest::of(layers[0].to_string().as_bytes()), &layers) }
    };
    let known = ["one", "two", "three", "base"].map(|name| inventory("a", name, "x", 1));
    let stacks = [
        stack(&["one", "base"], None, 1),
        // Merged before from something else, removed because nobody ran it, and without an inventory.
        stack(&["two", "base"], Some(Digest::of(b"other")), 1),
        stack(&["three", "base"], None, 0),
        stack(&["gone", "base"], None, 1),
    ];
    let wanted = stacks[0].clone();
    let mut fleet = Fleet::new(rules(), known, stacks, []);
    let ready = fleet.next_unmerged(at(0)).unwrap();
    assert_eq!((ready.stack, &*ready.layers), (wanted.chain, wanted.layers.as_slice()));
    assert_eq!(fleet.next_unmerged(at(0)), None);
    assert_eq!(fleet.ready(at(0)), []);
    fleet.merged(ready.stack, Ok(wanted.clone()));
    assert_eq!(fleet.stack(&wanted.chain).unwrap().summary().map(|summary| summary.chain), Some(wanted.chain));
}

#[test]
fn a_layer_that_is_read_again_while_its_stack_is_merged_is_merged_again() {
    let mut fleet = two_nodes();
    read(&mut fleet, "a", "shop", "x");
    read(&mut fleet, "a", "base", "x");
    let ready = fleet.ready(at(0)).remove(0);
    read(&mut fleet, "a", "base", "y");
    fleet.merged(ready.stack, Ok(summary(ready.stack, &ready.layers)));
    assert_eq!(fleet.ready(at(0)), [ready], "what was merged of the old one is not kept");
}

#[test]
fn a_layer_that_cannot_be_read_is_left_alone_longer_each_time_and_in_the_end_for_good() {
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    let mut seconds = 0;
    for failure in 0..6 {
        assert!(fleet.lease("a", at(seconds)).contains(&id("base")), "try {failure}");
        fleet.unreadable("a", &id("base"), Coverage::failed("bad sectors"), false, at(seconds));
        assert!(!fleet.lease("a", at(seconds)).contains(&id("base")));
        seconds += 60 * 2_u64.pow(failure);
    }
    assert!(!fleet.lease("a", at(seconds + 1_000_000)).contains(&id("base")));
    assert_eq!(states(&fleet), [(CoverageState::Failed, 1)]);
    fleet.attach("a", &hello(2), 1, at(seconds));
    assert!(fleet.lease("a", at(seconds)).contains(&id("base")), "better catalogers try again");
}

#[test]
fn what_is_too_large_stays_so_and_what_is_gone_says_nothing_of_the_layer() {
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    fleet.lease("a", at(0));
    fleet.unreadable("a", &id("base"), Coverage::failed("gone"), true, at(0));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 1)]);
    assert_eq!(fleet.lease("a", at(0)), [], "not at once");
    assert_eq!(fleet.lease("a", at(5)), [id("base")]);
    let large = Coverage::new(CoverageState::TooLarge, "more than a million paths");
    fleet.unreadable("a", &id("base"), large, false, at(5));
    assert_eq!(states(&fleet), [(CoverageState::TooLarge, 1)]);
    assert_eq!(fleet.lease("a", at(1_000_000)), []);
}

#[test]
fn better_catalogers_read_again_what_is_known_but_not_before_what_is_not() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    assert_eq!(fleet.lease("a", at(0)), []);
    fleet.attach("a", &hello(2), 1, at(1));
    fleet
        .tell(
            "a",
            1,
            true,
            vec![container("shop", &["shop", "base"]), container("bank", &["bank", "base"])],
            &[],
            at(1),
        )
        .unwrap();
    assert_eq!(fleet.lease_again(at(1)), [(Arc::from("a"), vec![id("bank")])], "what nobody has read comes first");
    read(&mut fleet, "a", "bank", "x");
    let again = fleet.lease_again(at(1));
    assert_eq!((again.len(), again[0].1.len()), (1, 1), "one at a time");
    assert_eq!(fleet.lease_again(at(1)), []);
    assert_eq!(fleet.layer_counts(&Scope::All).outdated, 3);
    assert_eq!(states(&fleet).first(), Some(&(CoverageState::Scanned, 1)), "meanwhile what was known stands");
}

#[test]
fn changes_that_do_not_follow_the_last_report_are_refused() {
    let mut fleet = two_nodes();
    let more = || vec![container("more", &["more", "base"])];
    assert_eq!(fleet.tell("a", 2, false, more(), &[], at(0)), Err(NotTaken::Gap));
    assert_eq!(fleet.tell("a", 1, false, more(), &[], at(0)), Ok(()));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 3)]);
    let gone = [key("shop")];
    assert_eq!(fleet.tell("a", 2, false, Vec::new(), &gone, at(0)), Ok(()));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    fleet.attach("a", &hello(1), 1, at(0));
    assert_eq!(fleet.tell("a", 3, false, more(), &[], at(0)), Err(NotTaken::Gap), "after a new stream all are wanted");
}

#[test]
fn a_report_of_a_stream_that_was_replaced_changes_nothing() {
    let mut fleet = two_nodes();
    fleet.attach("a", &hello(1), 7, at(0));
    fleet.tell("a", 0, true, vec![container("new", &["new", "base"])], &[], at(0)).unwrap();
    let counted = states(&fleet);
    let late = Report { stream: 1, sequence: 0, full: true, containers: Vec::new(), gone: Vec::new() };
    assert_eq!(fleet.containers("a", late, &|_| Placed::AsTold, at(0)), Err(NotTaken::Replaced));
    assert_eq!(states(&fleet), counted);
    assert_eq!(fleet.tell("a", 1, false, Vec::new(), &[], at(0)), Ok(()), "the stream's own reports still follow");
}

#[test]
fn every_container_is_counted_when_it_comes_and_when_it_goes() {
    let mut fleet = two_nodes();
    let short = Seen { stack: None, refused: Some(Coverage::failed(GONE_BEFORE_READING)), ..container("short", &[]) };
    let gone = |name: &str| [key(name)];
    // It is told of and gone in one report; and the same again.
    fleet.tell("a", 1, false, vec![short.clone()], &gone("short"), at(0)).unwrap();
    fleet.tell("a", 2, false, vec![short], &[], at(0)).unwrap();
    fleet.tell("a", 3, false, Vec::new(), &gone("short"), at(0)).unwrap();
    fleet.tell("a", 4, false, Vec::new(), &gone("nobody"), at(0)).unwrap();
    all_scanned(&mut fleet, &["bank", "base"]);
    fleet.tell("b", 1, true, Vec::new(), &[], at(0)).unwrap();
    fleet.tell("a", 5, true, Vec::new(), &[], at(0)).unwrap();
    let lifetimes = fleet.lifetimes();
    assert_eq!((lifetimes.seen, lifetimes.gone_before_reading), (4, 3), "the shop ended before it was read");
    assert_eq!(
        lifetimes.ended,
        BTreeMap::from([(CoverageState::Scanned.into(), 1), (CoverageState::Failed.into(), 3)])
    );
    assert_eq!(states(&fleet), []);
}

#[test]
fn an_open_question_goes_to_a_node_that_has_the_stack_and_to_another_when_that_one_goes() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["shop", "base"]])]);
    ["shop", "base"].into_iter().for_each(|name| read(&mut fleet, "a", name, "x"));
    let stack = fleet.ready(at(0))[0].stack;
    let first = fleet.ask(stack, at(0)).unwrap();
    let second = if *first == *"a" { "b" } else { "a" };
    assert!(fleet.answered(second, &stack).is_none(), "it was not asked");
    assert_eq!(fleet.ready(at(0)), [], "it waits for the answer");
    fleet.detach(&first, 1);
    assert_eq!(fleet.ready(at(0)).len(), 1);
    assert_eq!(fleet.ask(stack, at(0)).as_deref(), Some(second));
    fleet.detach(second, 1);
    fleet.ready(at(0));
    assert_eq!(fleet.ask(stack, at(0)), None);
    fleet.wake(at(1));
    assert_eq!(fleet.ready(at(1)), []);
    fleet.wake(at(LEASE.as_secs()));
    assert_eq!(fleet.ready(at(LEASE.as_secs())).len(), 1, "somebody may have come back");
}

#[test]
fn a_question_whose_answer_left_something_open_is_asked_again_and_not_for_ever() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    ["shop", "base"].into_iter().for_each(|name| read(&mut fleet, "a", name, "x"));
    let (mut time, mut asked) = (0, 0);
    while time < 1_000 {
        for Ready { stack, layers } in fleet.ready(at(time)) {
            assert_eq!(fleet.ask(stack, at(time)).as_deref(), Some("a"));
            assert!(fleet.answered("a", &stack).is_some());
            let coverage = Coverage::new(CoverageState::Partial, format!("{UNREAD_MARKS} and may hide /etc/x"));
            fleet.merged(stack, Ok(Summary { coverage, ..summary(stack, &layers) }));
            asked += 1;
        }
        time += 10;
        fleet.wake(at(time));
    }
    assert_eq!(asked, 5);
    assert_eq!(states(&fleet), [(CoverageState::Partial, 1)]);
}

#[test]
fn two_nodes_that_name_other_layers_for_one_unproved_stack_are_not_both_believed() {
    let mut fleet = two_nodes();
    let unproved = |name: &str, below: &str| {
        let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
        Seen { stack: Some((Digest::of(b"top"), vec![chain("top"), chain(below)])), ..container(name, &[]) }
    };
    fleet.tell("a", 1, true, vec![unproved("honest", "base")], &[], at(0)).unwrap();
    fleet.tell("b", 1, true, vec![unproved("liar", "empty"), unproved("other", "base")], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2), (CoverageState::Failed, 1)]);
    let refused = fleet.overview(&Scope::All, at(0)).coverage;
    assert!(refused.keys().any(|coverage| coverage.reason.starts_with("disputed")));
}

/// Three nodes with one image, and every layer read a second time at once.
fn three_witnesses() -> Fleet {
    let mut fleet = nodes(&[("a", &[&["base"]]), ("b", &[&["base"]]), ("c", &[&["base"]])]);
    fleet.rules = Rules { verify_share: 1.0, verify_within: Duration::ZERO, ..rules() };
    fleet
}

/// Who was asked to read the base for another's word.
fn asked(fleet: &mut Fleet) -> Option<String> {
    fleet.cross_reads(at(0)).first().map(|(name, _)| name.to_string())
}

fn says(fleet: &mut Fleet, node: &str, says: &str) -> Verified {
    fleet.verified(node, &id("base"), Digest::of(says.as_bytes()), 1, false)
}

#[test]
fn another_node_reads_what_one_read_and_agrees() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let witness = asked(&mut fleet).unwrap();
    assert_ne!(witness, "a", "not the one that read it");
    assert_eq!(asked(&mut fleet), None, "one is asked at a time");
    let other = if witness == "b" { "c" } else { "b" };
    assert_eq!(says(&mut fleet, other, "honest"), Verified::Unasked);
    assert_eq!(says(&mut fleet, &witness, "honest"), Verified::Same);
    assert_eq!(asked(&mut fleet), None, "once is enough");
}

#[test]
fn a_lie_about_a_shared_base_is_disputed_settled_by_a_third_and_read_again() {
    let mut fleet = three_witnesses();
    read(&mut fleet, "a", "base", "nothing");
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    let second = asked(&mut fleet).unwrap();
    assert_eq!(says(&mut fleet, &second, "honest"), Verified::Disputed);
    assert_eq!(states(&fleet), [(CoverageState::Partial, 3)], "nobody is told that nothing was found");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 1);
    let third = asked(&mut fleet).unwrap();
    assert!(third != "a" && third != second);
    assert_eq!(says(&mut fleet, &third, "honest"), Verified::Overturned("a".to_owned()));
    assert_eq!(fleet.lease("a", at(0)), [], "the liar is not asked again");
    assert_eq!(fleet.lease(&second, at(0)), [id("base")]);
    let is_settled = |says| fleet.is_settled(&inventory("b", "base", says, 1));
    assert!(is_settled("honest") && !is_settled("nothing"));
    read(&mut fleet, &second, "base", "honest");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 0);
    assert_eq!(fleet.ready(at(0)).len(), 1, "and merged again");
    assert_eq!(asked(&mut fleet), None, "the third has verified it already");
}

#[test]
fn a_lie_about_what_was_read_rightly_is_disputed_and_overruled() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let second = asked(&mut fleet).unwrap();
    assert_eq!(says(&mut fleet, &second, "a lie"), Verified::Disputed);
    let third = asked(&mut fleet).unwrap();
    assert_eq!(says(&mut fleet, &third, "honest"), Verified::Upheld);
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 3)]);
}

#[test]
fn layers_below_many_containers_are_verified_in_any_case_and_others_by_their_share() {
    let mut fleet = three_witnesses();
    fleet.rules = Rules { verify_share: 0.0, verify_containers: 2, verify_within: Duration::ZERO, ..Rules::default() };
    all_scanned(&mut fleet, &["base"]);
    assert!(asked(&mut fleet).is_some(), "three containers stand on it");
    let mut fleet = three_witnesses();
    fleet.rules = Rules { verify_share: 0.0, verify_containers: 3, verify_within: Duration::ZERO, ..Rules::default() };
    all_scanned(&mut fleet, &["base"]);
    assert!(asked(&mut fleet).is_none());
}

#[test]
fn what_a_distrusted_node_read_is_forgotten_unless_another_came_to_the_same() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    fleet.picture.layers.get_mut(&id("base")).unwrap().read_mut().unwrap().verified_by.insert("b".to_owned());
    let outcome = fleet.distrust("a");
    assert_eq!(outcome.forgotten, [id("shop")]);
    assert_eq!(outcome.attributed, [(id("base"), "b".to_owned())]);
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    assert_eq!(fleet.lease("a", at(0)), [], "it is asked nothing");
    assert_eq!(fleet.lease("b", at(0)), [id("shop")]);
    fleet.trust("a");
    fleet.detach("b", 1);
    assert_eq!(fleet.lease("a", at(0)), [id("shop")]);
}

#[test]
fn a_node_that_is_gone_for_long_is_forgotten_with_what_it_alone_had() {
    let mut fleet = two_nodes();
    fleet.detach("a", 1);
    fleet.tidy(at(3600));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)], "for a while it is remembered");
    fleet.tidy(at(25 * 3600));
    assert_eq!(fleet.nodes().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    assert_eq!(fleet.present_layers().count(), 2, "the shop's layer is forgotten, the base is not");
}

#[test]
fn who_sees_a_namespace_sees_its_containers_counted_and_no_others() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let of = |namespace: &str, name: &str, layers: &[&str]| Seen {
        pod: Some(Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }),
        ..container(name, layers)
    };
    let refused = Seen { stack: None, refused: Some(Coverage::unsupported("devmapper")), ..of("bank", "vault", &[]) };
    let all = vec![of("shop", "web", &["web", "base"]), of("bank", "web-2", &["web", "base"]), refused];
    fleet.tell("a", 0, true, all, &[], at(0)).unwrap();
    let count = |namespaces: &[&str]| {
        let scope = Scope::Namespaces(namespaces.iter().map(ToString::to_string).collect());
        let containers: u64 = fleet.overview(&scope, at(9)).coverage.values().sum();
        (containers, fleet.layer_counts(&scope).waiting, fleet.overview(&scope, at(9)).oldest_unscanned)
    };
    assert_eq!(count(&["shop"]), (1, 2, Some(9)));
    assert_eq!(count(&["bank"]), (2, 2, Some(9)));
    assert_eq!(count(&["other"]), (0, 0, None));
}

/// In the API server's pod of this name, of a Deployment in a namespace.
fn in_pod(pod: &str, namespace: &str, excluded: Option<&str>) -> Placed {
    let [group, kind, name, uid] = ["apps", "Deployment", "web", "1"].map(ToOwned::to_owned);
    let workload = Workload { namespace: namespace.to_owned(), group, kind, name, uid };
    let pod = Pod { namespace: namespace.to_owned(), name: pod.to_owned(), uid: pod.to_owned() };
    Placed::In(Place {
        pod: Arc::new(pod),
        name: "main".into(),
        workload: Arc::new(workload),
        excluded: excluded.map(Into::into),
    })
}

#[test]
fn a_container_is_in_the_namespace_that_the_api_server_says_whatever_its_node_says() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let pod = Pod { namespace: "bank".to_owned(), name: "liar".to_owned(), uid: "1".to_owned() };
    let seen = || Seen { pod: Some(pod.clone()), ..container("shop", &["shop", "base"]) };
    let namespaces = |fleet: &Fleet| -> Vec<Option<String>> {
        let containers = fleet.node("a").unwrap().containers.values();
        containers.map(|container| container.namespace().map(ToOwned::to_owned)).collect()
    };
    // The API server does not know of it yet.
    fleet.tell_placed("a", vec![seen()], &|_| Placed::Nowhere);
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![None], 1));
    let touched = || [(Arc::from("a"), Arc::from("shop"))];
    assert!(fleet.place_again(touched(), &|_, _| in_pod("web-1", "shop", None), at(1)).is_empty());
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![Some("shop".to_owned())], 0));
    let container = fleet.node("a").unwrap().containers.values().next().unwrap();
    assert_eq!(subject(&"a".into(), &"k8s.io".into(), container), main_of("web"));
    // Its pod is gone, and the node does not say so.
    fleet.place_again(touched(), &|_, _| Placed::Nowhere, at(2));
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![None], 1));
    fleet.tell("a", 1, true, vec![], &[], at(3)).unwrap();
    assert_eq!((fleet.strays(), fleet.lifetimes().seen), (0, 1), "one container, wherever it belongs");
}

#[test]
fn what_is_out_of_view_is_counted_and_not_read_until_it_comes_into_view() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let all = || vec![container("shop", &["shop", "base"])];
    let touched = || [(Arc::from("a"), Arc::from("shop"))];
    fleet.tell_placed("a", all(), &|_| in_pod("web-1", "shop", Some("excluded")));
    assert_eq!((states(&fleet), fleet.lease("a", at(0)).len()), (vec![(CoverageState::Excluded, 1)], 0));
    // What its node told of its layers was not kept: it has to tell it again.
    let again = fleet.place_again(touched(), &|_, _| in_pod("web-1", "shop", None), at(1));
    assert_eq!(again, [Arc::from("a")].into());
    fleet.tell_placed("a", all(), &|_| in_pod("web-1", "shop", None));
    assert_eq!((states(&fleet), fleet.lease("a", at(1)).len()), (vec![(CoverageState::Pending, 1)], 2));
    assert!(fleet.place_again(touched(), &|_, _| in_pod("web-1", "shop", Some("excluded")), at(2)).is_empty());
    assert_eq!(states(&fleet), [(CoverageState::Excluded, 1)]);
    // So is what lies beyond the namespaces that are watched: nobody misses it, and the API server may know better.
    fleet.tell_placed("a", all(), &|_| Placed::Elsewhere);
    assert_eq!((states(&fleet), fleet.strays()), (vec![(CoverageState::Excluded, 1)], 0));
    assert_eq!(fleet.place_again(touched(), &|_, _| in_pod("web-1", "shop", None), at(3)), [Arc::from("a")].into());
}

#[test]
fn a_workload_that_went_while_nobody_looked_runs_nothing_any_more() {
    let mut fleet = fleet();
    let run = |name: &str| (main_of(name), stack(&["shop"]), 7);
    fleet.restore_runs([run("web"), run("old"), run("late")]);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.tell_placed("a", vec![container("shop", &["shop"])], &|_| in_pod("web-1", "shop", None));
    // Of one no node has told yet.
    fleet.end_workloads(|subject| *subject == main_of("late"), at(1));
    let (begun, ended) = fleet.take_runs();
    assert_eq!((begun.len(), ended.len()), (0, 1));
    assert_eq!(ended[0].subject, main_of("old"));
}

#[test]
fn the_store_is_told_who_ran_what_when_it_knows_the_stack() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    assert_eq!(fleet.take_runs(), (vec![], vec![]), "the stack has no number yet");
    all_scanned(&mut fleet, &["shop", "base"]);
    let run = |at| crate::store::Run { subject: plain("a", "shop"), package_set: 1, at };
    assert_eq!(fleet.take_runs(), (vec![run(at(0).unix)], vec![]));
    assert_eq!(fleet.take_runs(), (vec![], vec![]), "once");
    // Another container of the same name begins before the first one ends: the subject runs on.
    let again = Seen { key: key("again"), ..container("shop", &["shop", "base"]) };
    fleet.tell("a", 1, false, vec![again], &[key("shop")], at(5)).unwrap();
    assert_eq!(fleet.take_runs(), (vec![], vec![]));
    fleet.tell("a", 2, true, vec![], &[], at(7)).unwrap();
    assert_eq!(fleet.take_runs(), (vec![], vec![run(at(7).unix)]));
}

#[test]
fn a_run_that_ended_while_the_aggregator_was_away_ends_when_its_node_tells_of_all() {
    let mut fleet = fleet();
    let chain = stack(&["shop", "base"]);
    fleet.picture.stacks.entry(chain, || Stack::stored(summary(chain, &[id("shop"), id("base")])));
    fleet.restore_runs([(plain("a", "shop"), chain, 1), (plain("a", "gone"), chain, 1)]);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.tell("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(3)).unwrap();
    let (begun, ended) = fleet.take_runs();
    assert_eq!((begun, ended.len(), &ended[0].subject), (vec![], 1, &plain("a", "gone")));
}

#[test]
fn steps_of_the_build_are_kept_for_who_asks_whose_layer_it_is() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let step = |keyword: &str| Step { keyword: keyword.to_owned(), ..Step::default() };
    let seen = Seen { steps: vec![step("RUN"), step("ADD")], ..container("shop", &["shop", "base"]) };
    fleet.tell("a", 0, true, vec![seen], &[], at(0)).unwrap();
    let steps = fleet.stack(&stack(&["shop", "base"])).unwrap().steps();
    assert_eq!(steps.iter().map(|step| step.keyword.as_str()).collect::<Vec<_>>(), ["RUN", "ADD"]);
}

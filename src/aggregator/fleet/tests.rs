//! Tests of leases, merges, verification and counts.

mod checks;
mod faulty_nodes;
mod rights;

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
        details: None,
    }
}

impl Fleet {
    /// Applies a node's report of its containers, without an API server.
    fn report(
        &mut self,
        name: &str,
        sequence: u64,
        full: bool,
        containers: Vec<Seen>,
        gone: &[ContainerKey],
        now: Now,
    ) -> Result<(), RefusedReport> {
        let stream = self.picture.node(name).map_or(1, |node| node.stream);
        let (gone, unconfirmed) = (gone.to_vec(), Vec::new());
        let report = Report { stream, sequence, full, containers, gone, unconfirmed };
        self.containers(name, report, &|_| Placed::AsReported, now)
    }

    /// Applies a node's report of all its containers, with their pods according to the API server.
    fn report_placed(&mut self, name: &str, containers: Vec<Seen>, place: &dyn Fn(&Seen) -> Placed) {
        let (gone, unconfirmed) = (Vec::new(), Vec::new());
        let report = Report { stream: 1, sequence: 0, full: true, containers, gone, unconfirmed };
        self.containers(name, report, place, at(0)).unwrap();
    }
}

/// Returns the subject of a container without a workload.
fn plain(node: &str, container: &str) -> SubjectKey {
    SubjectKey::Container { node: node.into(), namespace: "k8s.io".into(), container: container.into() }
}

/// Returns the subject of the container `main` of a deployment in `shop`.
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

/// Returns rules under which no layer is sampled, for an aggregator with catalogers of version 2.
fn rules() -> Rules {
    Rules { verify_share: 0.0, catalogers: 2, ..Rules::default() }
}

fn fleet() -> Fleet {
    Fleet::new(rules(), [], [], [])
}

/// Returns a fleet of attached nodes with these images, which have all delivered inventories.
fn nodes(nodes: &[(&str, &[&[&str]])]) -> Fleet {
    let mut fleet = fleet();
    for (name, images) in nodes {
        attach(&mut fleet, name, images);
        fleet.picture.nodes.get_mut(*name).unwrap().delivers = true;
    }
    fleet
}

/// Attaches a node with these images.
fn attach(fleet: &mut Fleet, name: &str, images: &[&[&str]]) {
    fleet.attach(name, &hello(1), 1, at(0));
    let all = images.iter().map(|layers| container(layers[0], layers)).collect();
    fleet.report(name, 0, true, all, &[], at(0)).unwrap();
}

/// Returns two nodes with one image each; the images share their base layer.
fn two_nodes() -> Fleet {
    nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["bank", "base"]])])
}

/// Stores the inventory of a layer that `node` has read, with these contents.
fn read(fleet: &mut Fleet, node: &str, name: &str, contents: &str) {
    assert!(fleet.layer_stored(inventory(node, name, contents, 1)));
}

fn inventory(node: &str, name: &str, contents: &str, catalogers: u32) -> KnownLayer {
    KnownLayer {
        id: id(name),
        digest: Digest::of(contents.as_bytes()),
        without_marks: Some(Digest::of(contents.as_bytes())),
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
        catalogers: outcrop_agent::catalog::VERSION,
        packages: 0,
        unidentified: 0,
        counts: Counts::default(),
        checked_by: Vec::new(),
    }
}

/// Stores the inventories of these layers and merges all stacks that are ready.
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
    assert_eq!(fleet.lease("a", at(0)), [], "a leased layer is leased again");
    assert_eq!(fleet.layer_counts(&Scope::All), LayerCounts { leased: 3, ..LayerCounts::default() });
    assert_eq!((fleet.is_leased("a", &id("base")), fleet.is_leased("b", &id("base"))), (Some(1), None));
}

#[test]
fn a_lease_ends_when_it_expires_or_its_node_detaches() {
    let mut fleet = two_nodes();
    fleet.lease("a", at(0));
    fleet.lease("b", at(0));
    let late = LEASE.as_secs();
    let mut all = BTreeSet::new();
    for seconds in [late, late + 10] {
        for (node, layers) in fleet.lease_again(at(seconds)) {
            for layer in layers {
                assert!(fleet.layer_stored(KnownLayer { id: layer, ..inventory(&node, "", "x", 1) }));
                all.insert(layer);
            }
        }
    }
    assert_eq!(all.len(), 3, "not all layers are leased again");
    let mut fleet = two_nodes();
    fleet.lease("a", at(0));
    fleet.detach("a", 1, at(0));
    assert_eq!(fleet.lease("b", at(0)), [id("bank"), id("base")]);
    assert_eq!(fleet.lease("a", at(0)), [], "a detached node gets leases");
}

#[test]
fn a_node_has_at_most_four_leases_at_a_time() {
    let names: Vec<String> = (0..9).map(|number| format!("layer-{number}")).collect();
    let layers: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fleet = nodes(&[("a", &[&layers])]);
    assert_eq!(fleet.lease("a", at(0)).len(), 4);
    read(&mut fleet, "a", "layer-0", "x");
    assert_eq!(fleet.lease("a", at(0)).len(), 1);
}

#[test]
fn a_stack_is_ready_once_after_all_its_layers_were_read() {
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
fn a_stack_is_merged_again_if_a_layer_was_read_again_during_the_merge() {
    let mut fleet = two_nodes();
    read(&mut fleet, "a", "shop", "x");
    read(&mut fleet, "a", "base", "x");
    let ready = fleet.ready(at(0)).remove(0);
    read(&mut fleet, "a", "base", "y");
    fleet.merged(ready.stack, Ok(summary(ready.stack, &ready.layers)));
    assert_eq!(fleet.ready(at(0)), [ready], "the result of the outdated merge was kept");
}

#[test]
fn each_failure_doubles_the_pause_and_the_sixth_is_final() {
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    let mut seconds = 0;
    for failure in 0..6 {
        assert!(fleet.lease("a", at(seconds)).contains(&id("base")), "attempt {failure}");
        fleet.unreadable("a", &id("base"), Coverage::failed("bad sectors"), false, at(seconds));
        assert!(!fleet.lease("a", at(seconds)).contains(&id("base")));
        seconds += 60 * 2_u64.pow(failure);
    }
    assert!(!fleet.lease("a", at(seconds + 1_000_000)).contains(&id("base")));
    assert_eq!(states(&fleet), [(CoverageState::Failed, 1)]);
    fleet.attach("a", &hello(2), 1, at(seconds));
    assert!(fleet.lease("a", at(seconds)).contains(&id("base")), "newer catalogers do not try again");
}

#[test]
fn too_large_is_final_and_a_missing_layer_is_no_failure() {
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    fleet.lease("a", at(0));
    fleet.unreadable("a", &id("base"), Coverage::failed("gone"), true, at(0));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 1)]);
    assert_eq!(fleet.lease("a", at(0)), [], "leased again without a pause");
    assert_eq!(fleet.lease("a", at(5)), [id("base")]);
    let large = Coverage::new(CoverageState::TooLarge, "more than a million paths");
    fleet.unreadable("a", &id("base"), large, false, at(5));
    assert_eq!(states(&fleet), [(CoverageState::TooLarge, 1)]);
    assert_eq!(fleet.lease("a", at(1_000_000)), []);
}

#[test]
fn newer_catalogers_read_layers_again_after_all_unread_layers() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    assert_eq!(fleet.lease("a", at(0)), []);
    fleet.attach("a", &hello(2), 1, at(1));
    fleet
        .report(
            "a",
            1,
            true,
            vec![container("shop", &["shop", "base"]), container("bank", &["bank", "base"])],
            &[],
            at(1),
        )
        .unwrap();
    assert_eq!(fleet.lease_again(at(1)), [(Arc::from("a"), vec![id("bank")])], "an unread layer does not come first");
    read(&mut fleet, "a", "bank", "x");
    let again = fleet.lease_again(at(1));
    assert_eq!((again.len(), again[0].1.len()), (1, 1), "more than one layer is read again at a time");
    assert_eq!(fleet.lease_again(at(1)), []);
    assert_eq!(fleet.layer_counts(&Scope::All).outdated, 3);
    assert_eq!(
        states(&fleet).first(),
        Some(&(CoverageState::Scanned, 1)),
        "the previous result is not in use meanwhile"
    );
}

#[test]
fn a_report_of_changes_is_refused_if_the_previous_report_is_missing() {
    let mut fleet = two_nodes();
    let more = || vec![container("more", &["more", "base"])];
    assert_eq!(fleet.report("a", 2, false, more(), &[], at(0)), Err(RefusedReport::Gap));
    assert_eq!(fleet.report("a", 1, false, more(), &[], at(0)), Ok(()));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 3)]);
    let gone = [key("shop")];
    assert_eq!(fleet.report("a", 2, false, Vec::new(), &gone, at(0)), Ok(()));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    fleet.attach("a", &hello(1), 1, at(0));
    assert_eq!(
        fleet.report("a", 3, false, more(), &[], at(0)),
        Err(RefusedReport::Gap),
        "a new stream does not start with a full report"
    );
}

#[test]
fn a_report_on_a_replaced_stream_changes_nothing() {
    let mut fleet = two_nodes();
    fleet.attach("a", &hello(1), 7, at(0));
    fleet.report("a", 0, true, vec![container("new", &["new", "base"])], &[], at(0)).unwrap();
    let counted = states(&fleet);
    let (gone, unconfirmed) = (Vec::new(), Vec::new());
    let late = Report { stream: 1, sequence: 0, full: true, containers: Vec::new(), gone, unconfirmed };
    assert_eq!(fleet.containers("a", late, &|_| Placed::AsReported, at(0)), Err(RefusedReport::Replaced));
    assert_eq!(states(&fleet), counted);
    assert_eq!(
        fleet.report("a", 1, false, Vec::new(), &[], at(0)),
        Ok(()),
        "a report on the current stream is refused"
    );
}

#[test]
fn every_container_is_counted_once_when_it_starts_and_once_when_it_ends() {
    let mut fleet = two_nodes();
    let short = Seen { stack: None, refused: Some(Coverage::failed(GONE_BEFORE_READING)), ..container("short", &[]) };
    let gone = |name: &str| [key(name)];
    // The container starts and ends within one report, and then once more in two reports.
    fleet.report("a", 1, false, vec![short.clone()], &gone("short"), at(0)).unwrap();
    fleet.report("a", 2, false, vec![short], &[], at(0)).unwrap();
    fleet.report("a", 3, false, Vec::new(), &gone("short"), at(0)).unwrap();
    fleet.report("a", 4, false, Vec::new(), &gone("unknown"), at(0)).unwrap();
    all_scanned(&mut fleet, &["bank", "base"]);
    fleet.report("b", 1, true, Vec::new(), &[], at(0)).unwrap();
    fleet.report("a", 5, true, Vec::new(), &[], at(0)).unwrap();
    let lifetimes = fleet.lifetimes();
    assert_eq!((lifetimes.seen, lifetimes.gone_before_reading), (4, 3), "the shop ended before it was read");
    assert_eq!(
        lifetimes.ended,
        BTreeMap::from([(CoverageState::Scanned.into(), 1), (CoverageState::Failed.into(), 3)])
    );
    assert_eq!(states(&fleet), []);
}

#[test]
fn a_check_goes_to_a_node_with_the_stack_and_to_another_if_that_node_detaches() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["shop", "base"]])]);
    ["shop", "base"].into_iter().for_each(|name| read(&mut fleet, "a", name, "x"));
    let stack = fleet.ready(at(0))[0].stack;
    let first = fleet.start_check(stack, at(0)).unwrap();
    let second = if *first == *"a" { "b" } else { "a" };
    assert!(fleet.check_answered(second, &stack, None, at(0)).is_none(), "an answer of another node is accepted");
    assert_eq!(fleet.ready(at(0)), [], "the stack is merged before the answer");
    fleet.detach(&first, 1, at(0));
    assert_eq!(fleet.ready(at(0)).len(), 1);
    assert_eq!(fleet.start_check(stack, at(0)).as_deref(), Some(second));
    fleet.detach(second, 1, at(0));
    fleet.ready(at(0));
    assert_eq!(fleet.start_check(stack, at(0)), None);
    fleet.retry_checks(at(1));
    assert_eq!(fleet.ready(at(1)), []);
    fleet.retry_checks(at(LEASE.as_secs()));
    assert_eq!(fleet.ready(at(LEASE.as_secs())).len(), 1, "no further check after the lease has expired");
}

#[test]
fn a_check_that_leaves_paths_undecided_is_repeated_at_most_four_times() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    ["shop", "base"].into_iter().for_each(|name| read(&mut fleet, "a", name, "x"));
    let (mut time, mut checks) = (0, 0);
    while time < 1_000 {
        for Ready { stack, layers } in fleet.ready(at(time)) {
            assert_eq!(fleet.start_check(stack, at(time)).as_deref(), Some("a"));
            assert!(fleet.check_answered("a", &stack, None, at(time)).is_some());
            let coverage = Coverage::new(CoverageState::Partial, format!("{UNREAD_MARKS} and may hide /etc/x"));
            fleet.merged(stack, Ok(Summary { coverage, ..summary(stack, &layers) }));
            checks += 1;
        }
        time += 10;
        fleet.retry_checks(at(time));
    }
    assert_eq!(checks, 5);
    assert_eq!(states(&fleet), [(CoverageState::Partial, 1)]);
}

#[test]
fn a_second_list_of_layers_of_an_unproved_stack_is_refused() {
    let mut fleet = two_nodes();
    let unproved = |name: &str, below: &str| {
        let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
        Seen { stack: Some((Digest::of(b"top"), vec![chain("top"), chain(below)])), ..container(name, &[]) }
    };
    fleet.report("a", 1, true, vec![unproved("honest", "base")], &[], at(0)).unwrap();
    fleet.report("b", 1, true, vec![unproved("false", "empty"), unproved("other", "base")], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2), (CoverageState::Failed, 1)]);
    let refused = fleet.overview(&Scope::All, at(0)).coverage;
    assert!(refused.keys().any(|coverage| coverage.reason.starts_with("disputed")));
}

/// Returns three nodes with one image, where every layer is verified immediately.
fn three_witnesses() -> Fleet {
    let mut fleet = nodes(&[("a", &[&["base"]]), ("b", &[&["base"]]), ("c", &[&["base"]])]);
    fleet.rules = Rules { verify_share: 1.0, verify_within: Duration::ZERO, ..rules() };
    fleet
}

/// Returns the node that has to cross-read the base layer next.
fn next_witness(fleet: &mut Fleet) -> Option<String> {
    fleet.cross_reads(at(0)).first().map(|witness| witness.node.to_string())
}

fn cross_read(fleet: &mut Fleet, node: &str, contents: &str) -> Verified {
    fleet.verified(node, &id("base"), Digest::of(contents.as_bytes()), 1, false)
}

#[test]
fn one_other_node_verifies_a_layer() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let witness = next_witness(&mut fleet).unwrap();
    assert_ne!(witness, "a", "the reader verifies its own inventory");
    assert_eq!(next_witness(&mut fleet), None, "two cross-reads at a time");
    let other = if witness == "b" { "c" } else { "b" };
    assert_eq!(cross_read(&mut fleet, other, "honest"), Verified::NotRequested);
    assert_eq!(cross_read(&mut fleet, &witness, "honest"), Verified::Same(Digest::of(b"honest")));
    assert_eq!(next_witness(&mut fleet), None, "a verified layer is verified again");
}

#[test]
fn a_false_inventory_is_disputed_overturned_by_a_third_node_and_read_again() {
    let mut fleet = three_witnesses();
    read(&mut fleet, "a", "base", "nothing");
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    let second = next_witness(&mut fleet).unwrap();
    assert_eq!(cross_read(&mut fleet, &second, "honest"), Verified::Disputed);
    assert_eq!(states(&fleet), [(CoverageState::Partial, 3)], "a disputed layer counts as scanned");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 1);
    let third = next_witness(&mut fleet).unwrap();
    assert!(third != "a" && third != second);
    assert_eq!(cross_read(&mut fleet, &third, "honest"), Verified::Overturned("a".to_owned()));
    assert_eq!(fleet.lease("a", at(0)), [], "the node that reported the false inventory reads it again");
    assert_eq!(fleet.lease(&second, at(0)), [id("base")]);
    let is_settled = |contents| fleet.is_settled(&inventory("b", "base", contents, 1));
    assert!(is_settled("honest") && !is_settled("nothing"));
    read(&mut fleet, &second, "base", "honest");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 0);
    assert_eq!(fleet.ready(at(0)).len(), 1, "the stack is not merged again");
    assert_eq!(next_witness(&mut fleet), None, "the layer is verified once more than necessary");
}

#[test]
fn a_false_cross_read_is_disputed_and_the_inventory_is_upheld() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let second = next_witness(&mut fleet).unwrap();
    assert_eq!(cross_read(&mut fleet, &second, "false"), Verified::Disputed);
    let third = next_witness(&mut fleet).unwrap();
    assert_eq!(cross_read(&mut fleet, &third, "honest"), Verified::Upheld(Digest::of(b"honest")));
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 3)]);
}

#[test]
fn layers_of_many_containers_are_always_verified_and_others_by_share() {
    let mut fleet = three_witnesses();
    fleet.rules = Rules { verify_share: 0.0, verify_containers: 2, verify_within: Duration::ZERO, ..Rules::default() };
    all_scanned(&mut fleet, &["base"]);
    assert!(next_witness(&mut fleet).is_some(), "a layer of three containers is not verified");
    let mut fleet = three_witnesses();
    fleet.rules = Rules { verify_share: 0.0, verify_containers: 3, verify_within: Duration::ZERO, ..Rules::default() };
    all_scanned(&mut fleet, &["base"]);
    assert!(next_witness(&mut fleet).is_none());
}

#[test]
fn inventories_of_a_distrusted_node_are_discarded_unless_another_node_verified_them() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]]), ("b", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    fleet.picture.layers.get_mut(&id("base")).unwrap().read_mut().unwrap().verified_by.insert("b".to_owned());
    let outcome = fleet.distrust("a");
    assert_eq!(outcome.forgotten, [id("shop")]);
    assert_eq!(outcome.attributed, [(id("base"), "b".to_owned())]);
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    assert_eq!(fleet.lease("a", at(0)), [], "a distrusted node gets leases");
    assert_eq!(fleet.lease("b", at(0)), [id("shop")]);
    fleet.trust("a");
    fleet.detach("b", 1, at(0));
    assert_eq!(fleet.lease("a", at(0)), [id("shop")]);
}

#[test]
fn a_node_that_is_silent_for_a_day_is_removed_with_everything_that_only_it_had() {
    let mut fleet = two_nodes();
    fleet.detach("a", 1, at(0));
    fleet.tidy(at(3600));
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)], "a silent node is removed too early");
    fleet.tidy(at(25 * 3600));
    assert_eq!(fleet.nodes().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    assert_eq!(fleet.present_layers().count(), 2, "the layers of the other node are not kept");
}

#[test]
fn counts_in_a_scope_cover_its_namespaces_only() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let in_namespace = |namespace: &str, name: &str, layers: &[&str]| Seen {
        pod: Some(Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }),
        ..container(name, layers)
    };
    let refused =
        Seen { stack: None, refused: Some(Coverage::unsupported("devmapper")), ..in_namespace("bank", "vault", &[]) };
    let all =
        vec![in_namespace("shop", "web", &["web", "base"]), in_namespace("bank", "web-2", &["web", "base"]), refused];
    fleet.report("a", 0, true, all, &[], at(0)).unwrap();
    let count = |namespaces: &[&str]| {
        let scope = Scope::Namespaces(namespaces.iter().map(ToString::to_string).collect());
        let containers: u64 = fleet.overview(&scope, at(9)).coverage.values().sum();
        (containers, fleet.layer_counts(&scope).waiting, fleet.overview(&scope, at(9)).oldest_unscanned)
    };
    assert_eq!(count(&["shop"]), (1, 2, Some(9)));
    assert_eq!(count(&["bank"]), (2, 2, Some(9)));
    assert_eq!(count(&["other"]), (0, 0, None));
}

/// Returns a place in this pod of a Deployment.
fn in_pod(pod: &str, namespace: &str, excluded: Option<&str>) -> Placed {
    let [group, kind, name, uid] = ["apps", "Deployment", "web", "1"].map(ToOwned::to_owned);
    let workload = Workload { namespace: namespace.to_owned(), group, kind, name, uid };
    let pod = Pod { namespace: namespace.to_owned(), name: pod.to_owned(), uid: pod.to_owned() };
    Placed::In(Place {
        pod: Arc::new(pod),
        name: "main".into(),
        image: "registry.example/web:1".into(),
        image_id: Some("registry.example/web@sha256:0".into()),
        workload: Arc::new(workload),
        excluded: excluded.map(Into::into),
    })
}

#[test]
fn the_namespace_of_a_container_comes_from_the_api_server_and_not_from_its_node() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let pod = Pod { namespace: "bank".to_owned(), name: "false".to_owned(), uid: "1".to_owned() };
    let seen = || Seen { pod: Some(pod.clone()), ..container("shop", &["shop", "base"]) };
    let namespaces = |fleet: &Fleet| -> Vec<Option<String>> {
        let containers = fleet.node("a").unwrap().containers.values();
        containers.map(|container| container.namespace().map(ToOwned::to_owned)).collect()
    };
    // The API server does not know the container yet.
    fleet.report_placed("a", vec![seen()], &|_| Placed::Unknown);
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![None], 1));
    let touched = || [(Arc::from("a"), Arc::from("shop"))];
    assert!(fleet.relocate(touched(), &|_, _| in_pod("web-1", "shop", None), at(1)).is_empty());
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![Some("shop".to_owned())], 0));
    let container = fleet.node("a").unwrap().containers.values().next().unwrap();
    assert_eq!(subject(&"a".into(), &"k8s.io".into(), container), main_of("web"));
    // The pod is deleted, and the node has not reported the end of the container.
    fleet.relocate(touched(), &|_, _| Placed::Unknown, at(2));
    assert_eq!((namespaces(&fleet), fleet.strays()), (vec![None], 1));
    fleet.report("a", 1, true, vec![], &[], at(3)).unwrap();
    assert_eq!((fleet.strays(), fleet.lifetimes().seen), (0, 1), "a container that moves is counted twice");
}

#[test]
fn an_excluded_container_is_counted_and_not_read_until_it_is_included() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let all = || vec![container("shop", &["shop", "base"])];
    let touched = || [(Arc::from("a"), Arc::from("shop"))];
    fleet.report_placed("a", all(), &|_| in_pod("web-1", "shop", Some("excluded")));
    assert_eq!((states(&fleet), fleet.lease("a", at(0)).len()), (vec![(CoverageState::Excluded, 1)], 0));
    // Its layers were not recorded, so its node has to report them again.
    let again = fleet.relocate(touched(), &|_, _| in_pod("web-1", "shop", None), at(1));
    assert_eq!(again, [Arc::from("a")].into());
    fleet.report_placed("a", all(), &|_| in_pod("web-1", "shop", None));
    assert_eq!((states(&fleet), fleet.lease("a", at(1)).len()), (vec![(CoverageState::Pending, 1)], 1));
    assert!(fleet.relocate(touched(), &|_, _| in_pod("web-1", "shop", Some("excluded")), at(2)).is_empty());
    assert_eq!(states(&fleet), [(CoverageState::Excluded, 1)]);
    // A container in a namespace that is not watched is excluded as well, and is no stray.
    fleet.report_placed("a", all(), &|_| Placed::NotWatched);
    assert_eq!((states(&fleet), fleet.strays()), (vec![(CoverageState::Excluded, 1)], 0));
    assert_eq!(fleet.relocate(touched(), &|_, _| in_pod("web-1", "shop", None), at(3)), [Arc::from("a")].into());
}

#[test]
fn runs_of_workloads_that_ended_during_a_restart_are_ended() {
    let mut fleet = fleet();
    let run = |name: &str| (main_of(name), stack(&["shop"]), 7);
    fleet.restore_runs([run("web"), run("old"), run("late")]);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.report_placed("a", vec![container("shop", &["shop"])], &|_| in_pod("web-1", "shop", None));
    // One workload is still expected: no node has reported it yet.
    fleet.end_workloads(|subject| *subject == main_of("late"), at(1));
    let (begun, ended) = fleet.take_runs();
    assert_eq!((begun.len(), ended.len()), (0, 1));
    assert_eq!(ended[0].subject, main_of("old"));
}

#[test]
fn runs_are_stored_after_their_stack() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    assert_eq!(fleet.take_runs(), (vec![], vec![]), "a run is stored before its stack");
    all_scanned(&mut fleet, &["shop", "base"]);
    let run = |at| crate::store::Run { subject: plain("a", "shop"), package_set: 1, at };
    assert_eq!(fleet.take_runs(), (vec![run(at(0).unix)], vec![]));
    assert_eq!(fleet.take_runs(), (vec![], vec![]), "a run is stored twice");
    // Another container of the same name starts before the first one ends, so the run continues.
    let again = Seen { key: key("again"), ..container("shop", &["shop", "base"]) };
    fleet.report("a", 1, false, vec![again], &[key("shop")], at(5)).unwrap();
    assert_eq!(fleet.take_runs(), (vec![], vec![]));
    fleet.report("a", 2, true, vec![], &[], at(7)).unwrap();
    assert_eq!(fleet.take_runs(), (vec![], vec![run(at(7).unix)]));
}

#[test]
fn a_run_that_ended_during_a_restart_ends_with_the_first_full_report_of_its_node() {
    let mut fleet = fleet();
    let chain = stack(&["shop", "base"]);
    fleet.picture.stacks.entry(chain, || Stack::stored(summary(chain, &[id("shop"), id("base")])));
    fleet.restore_runs([(plain("a", "shop"), chain, 1), (plain("a", "gone"), chain, 1)]);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.report("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(3)).unwrap();
    let (begun, ended) = fleet.take_runs();
    assert_eq!((begun, ended.len(), &ended[0].subject), (vec![], 1, &plain("a", "gone")));
}

#[test]
fn a_stack_has_the_build_steps_of_its_layers() {
    let mut fleet = fleet();
    fleet.attach("a", &hello(1), 1, at(0));
    let step = |keyword: &str| Step { keyword: keyword.to_owned(), ..Step::default() };
    let seen = Seen { steps: vec![step("RUN"), step("ADD")], ..container("shop", &["shop", "base"]) };
    fleet.report("a", 0, true, vec![seen], &[], at(0)).unwrap();
    let steps = fleet.stack(&stack(&["shop", "base"])).unwrap().steps();
    assert_eq!(steps.iter().map(|step| step.keyword.as_str()).collect::<Vec<_>>(), ["RUN", "ADD"]);
}

#[test]
fn a_deleted_node_is_gone_with_its_leases_unless_it_has_attached_again() {
    let mut fleet = Fleet::new(Rules::default(), [], [], []);
    for (name, stream) in [("a", 1), ("b", 2)] {
        fleet.attach(name, &hello(1), stream, at(0));
        fleet.report(name, 0, true, vec![container(&format!("of {name}"), &["base"])], &[], at(0)).unwrap();
    }
    assert_eq!(fleet.lease("a", at(0)), [id("base")]);
    assert!(fleet.lease("b", at(0)).is_empty(), "it is leased");
    // The stream that was ended for this is not the latest one: the node is back.
    assert_eq!(fleet.delete_node("a", Some(0), at(1)), None);
    assert_eq!(fleet.delete_node("a", None, at(1)), None);
    assert_eq!(fleet.delete_node("a", Some(1), at(1)), Some(1));
    assert!(fleet.node("a").is_none() && fleet.delete_node("a", None, at(1)).is_none());
    assert_eq!(fleet.lease("b", at(1)), [id("base")], "its lease has ended");
    // Its stream reports nothing any more.
    assert_eq!(fleet.report("a", 1, false, Vec::new(), &[], at(2)), Err(RefusedReport::Gap));
    // It comes back as a new one.
    fleet.attach("a", &hello(1), 3, at(3));
    fleet.report("a", 0, true, vec![container("of a", &["base"])], &[], at(3)).unwrap();
    let since: Vec<i64> = fleet.node("a").unwrap().containers.values().map(|container| container.since).collect();
    assert_eq!(since, [at(3).unix]);
    // One that is silent goes at once as well.
    fleet.detach("b", 2, at(0));
    assert_eq!(fleet.delete_node("b", None, at(4)), Some(1));
}

#[test]
fn layers_that_a_node_leaves_out_of_a_stack_are_used_when_another_node_reports_them() {
    let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
    let top = Digest::of(b"top");
    let seen = |name: &str, layers: Vec<LayerId>| Seen { stack: Some((top, layers)), ..container(name, &[]) };
    let mut fleet = nodes(&[("evil", &[]), ("honest", &[]), ("bare", &[])]);
    // The newest layer alone has the identity of the stack, as the only layer of an image has.
    let alone = LayerId::Chain(top);
    fleet.report("evil", 1, true, vec![seen("false", vec![alone])], &[], at(0)).unwrap();
    assert!(fleet.layer_stored(KnownLayer { id: alone, ..inventory("evil", "", "nothing", 1) }));
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 1)]);
    // A node that cannot prove the layers does not rely on a list without them.
    fleet.report("bare", 1, true, vec![seen("bare", vec![alone, chain("base")])], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 1), (CoverageState::Failed, 1)]);
    fleet.report("bare", 2, true, vec![], &[], at(0)).unwrap();
    for layers in [vec![id("app"), chain("middle")], vec![id("app"), id("middle"), chain("base")]] {
        fleet.report("honest", 1, true, vec![seen("app", layers.clone())], &[], at(0)).unwrap();
        let present: HashSet<LayerId> = fleet.present_layers().map(|(id, _)| *id).collect();
        assert_eq!(present, HashSet::from_iter(layers));
        assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    }
    fleet.report("evil", 2, true, vec![seen("false", vec![alone])], &[], at(0)).unwrap();
    assert_eq!(fleet.present_layers().count(), 3, "a shorter list replaces a longer one");
}

//! Nodes that fail, report false data or disappear must not affect other nodes.

use outcrop_proto::NodeState;

use super::super::container::MAX_REASON;
use super::super::*;
use super::*;

#[test]
fn an_expired_lease_goes_to_another_node_first() {
    let mut fleet = nodes(&[("a", &[&["base"]]), ("b", &[&["base"]])]);
    assert_eq!(fleet.lease("a", at(0)), [id("base")]);
    let late = LEASE.as_secs();
    assert_eq!(fleet.lease_again(at(late)), [(Arc::from("b"), vec![id("base")])]);
    // The only node with the layer gets it again after a pause.
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    fleet.lease("a", at(0));
    assert_eq!(fleet.lease_again(at(late)), []);
    assert_eq!(fleet.lease_again(at(late + 10)), [(Arc::from("a"), vec![id("base")])]);
}

#[test]
fn a_new_node_has_one_lease_until_it_has_delivered_an_inventory() {
    let mut fleet = fleet();
    attach(&mut fleet, "a", &[&["one", "two", "three", "four", "five"]]);
    assert_eq!(fleet.lease("a", at(0)), [id("one")]);
    assert_eq!(fleet.lease("a", at(0)), []);
    read(&mut fleet, "a", "one", "x");
    assert_eq!(fleet.lease("a", at(0)).len(), 4);
}

#[test]
fn nodes_that_never_answer_get_no_lease_of_a_layer_that_another_node_reads() {
    let image: &[&str] = &["one", "two", "three", "four", "five"];
    let mut fleet = nodes(&[("honest", &[image])]);
    let silent: Vec<String> = (0..50).map(|number| format!("silent-{number}")).collect();
    silent.iter().for_each(|name| attach(&mut fleet, name, &[image]));
    assert_eq!(silent.iter().map(|name| fleet.lease(name, at(0)).len()).sum::<usize>(), 0);
    for round in 0..image.len().div_ceil(4) {
        let again = fleet.lease_again(at(0));
        let [(node, layers)] = again.as_slice() else { panic!("round {round}: {again:?}") };
        assert_eq!(&**node, "honest");
        layers.iter().for_each(|layer| {
            assert!(fleet.layer_stored(KnownLayer { id: *layer, ..inventory("honest", "", "x", 1) }));
        });
    }
    assert!(image.iter().all(|name| fleet.layer(&id(name)).unwrap().read().is_some()));
}

#[test]
fn a_node_that_did_not_answer_reads_only_what_no_other_node_has_until_its_pause_ends() {
    for ends_by in ["expired lease", "ended stream"] {
        let mut fleet = nodes(&[("late", &[&["own", "shared"]]), ("new", &[&["shared"]])]);
        assert_eq!(fleet.lease("late", at(0)).len(), 2);
        let after = LEASE.as_secs() + 10;
        match ends_by {
            "expired lease" => drop(fleet.lease_again(at(LEASE.as_secs()))),
            _ => {
                fleet.detach("late", 1, at(0));
                attach(&mut fleet, "late", &[&["own", "shared"]]);
            }
        }
        fleet.detach("new", 1, at(after));
        attach(&mut fleet, "another", &[&["shared"]]);
        assert_eq!(fleet.lease("late", at(after)), [id("own")], "{ends_by}");
        read(&mut fleet, "late", "own", "x");
        assert_eq!(fleet.lease("late", at(after)), [], "{ends_by}: its delivery made up for it at once");
        let much_later = after + 3600;
        assert_eq!(fleet.lease("late", at(much_later)), [id("shared")], "{ends_by}");
    }
}

/// Returns a container of a stack with these layers, newest first, of which nothing but the lowest one is proved.
fn unproved(layers: &[&str]) -> Seen {
    let chain = |name: &&str| LayerId::Chain(Digest::of(name.as_bytes()));
    let top = Digest::of(layers[0].as_bytes());
    Seen { stack: Some((top, layers.iter().map(chain).collect())), ..container(layers[0], &["x"]) }
}

#[test]
fn a_node_that_leaves_out_layers_of_a_stack_hides_none_of_them() {
    let top = Digest::of(b"top");
    let (whole, short) = (|| unproved(&["top", "middle", "base"]), || unproved(&["top"]));
    // Behind the others, its own container is disputed.
    let mut fleet = fleet();
    for (node, seen) in [("a", whole()), ("b", whole()), ("evil", short())] {
        fleet.attach(node, &hello(1), 1, at(0));
        fleet.report(node, 0, true, vec![seen], &[], at(0)).unwrap();
    }
    assert_eq!(fleet.stack(&top).unwrap().layers().len(), 3);
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2), (CoverageState::Failed, 1)]);
    // In front of them, theirs are, until it is distrusted and they report again.
    let mut fleet = self::fleet();
    for (node, seen) in [("evil", short()), ("a", whole()), ("b", whole())] {
        fleet.attach(node, &hello(1), 1, at(0));
        fleet.report(node, 0, true, vec![seen], &[], at(0)).unwrap();
    }
    assert_eq!(states(&fleet), [(CoverageState::Pending, 1), (CoverageState::Failed, 2)], "nothing is said");
    let again = fleet.distrust("evil").resync;
    assert_eq!(again, ["a", "b"].map(Arc::from).into());
    for node in &again {
        fleet.report(node, 0, true, vec![whole()], &[], at(1)).unwrap();
    }
    assert_eq!(fleet.stack(&top).unwrap().layers().len(), 3);
    fleet.report("evil", 0, true, vec![short()], &[], at(2)).unwrap();
    assert_eq!(fleet.stack(&top).unwrap().layers().len(), 3, "a distrusted node lists layers");
    let pending = states(&fleet).into_iter().find(|(state, _)| *state == CoverageState::Pending);
    assert_eq!(pending, Some((CoverageState::Pending, 2)));
}

#[test]
fn one_node_with_newer_catalogers_replaces_no_layer_that_others_have() {
    let mut fleet = nodes(&[("a", &[&["base"]]), ("b", &[&["base"]]), ("evil", &[&["base"], &["own"]])]);
    read(&mut fleet, "a", "base", "honest");
    read(&mut fleet, "evil", "own", "x");
    let images: [&[&str]; 2] = [&["base"], &["own"]];
    fleet.attach("evil", &hello(2), 2, at(0));
    fleet.report("evil", 0, true, images.map(|layers| container(layers[0], layers)).into(), &[], at(0)).unwrap();
    assert_eq!(fleet.lease_again(at(0)), [(Arc::from("evil"), vec![id("own")])]);
    assert!(fleet.layer_stored(inventory("evil", "own", "x", 2)));
    assert_eq!(fleet.lease_again(at(1)), []);
    // A second one verifies what the first one reads.
    fleet.attach("b", &hello(2), 2, at(1));
    fleet.report("b", 0, true, vec![container("base", &["base"])], &[], at(1)).unwrap();
    let again: Vec<LayerId> = fleet.lease_again(at(2)).into_iter().flat_map(|(_, layers)| layers).collect();
    assert_eq!(again, [id("base")]);
}

#[test]
fn the_properties_of_an_image_are_those_that_the_containers_own_node_reports() {
    let user = |user: &str| Some(ImageDetails { user: user.to_owned(), ..ImageDetails::default() });
    let mut fleet = fleet();
    for (node, name, details) in [("evil", "one", user("1000")), ("a", "two", user("root")), ("b", "two", user("root"))]
    {
        fleet.attach(node, &hello(1), 1, at(0));
        let seen = Seen { key: key(name), details, ..container("shop", &["shop", "base"]) };
        fleet.report(node, 0, true, vec![seen], &[], at(0)).unwrap();
    }
    let details = |node: &str| fleet.node(node).unwrap().containers.values().next().unwrap().details().unwrap();
    assert_eq!((&*details("evil").user, &*details("a").user), ("1000", "root"));
    assert!(std::ptr::eq(details("a"), details("b")), "equal properties are kept once");
}

#[test]
fn three_nodes_that_fail_to_read_a_layer_make_it_failed_and_fewer_do_not() {
    let all: &[&[&str]] = &[&["base"]];
    let mut fleet = nodes(&[("a", all), ("b", all), ("c", all), ("d", all)]);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(fleet.lease(name, at(0)), [id("base")], "{number} failed before");
        let large = Coverage::new(CoverageState::TooLarge, "more than a million paths");
        fleet.unreadable(name, &id("base"), large, false, at(0));
    }
    assert_eq!(fleet.lease("d", at(0)), [], "a fourth node tries");
    assert_eq!(states(&fleet), [(CoverageState::TooLarge, 4)]);
    fleet.distrust("c");
    assert_eq!(fleet.lease("d", at(0)), [id("base")], "the failure of a distrusted node counts");
}

#[test]
fn a_node_with_an_inconclusive_cross_read_is_selected_again_only_after_a_pause() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let first = next_witness(&mut fleet).unwrap();
    fleet.unreadable(&first, &id("base"), Coverage::failed("gone"), true, at(0));
    let second = next_witness(&mut fleet).unwrap();
    assert_ne!(first, second);
    assert_eq!(fleet.verified(&second, &id("base"), Digest::of(b"honest"), 1, true), Verified::Inconclusive);
    assert_eq!(next_witness(&mut fleet), None, "a node is selected again without a pause");
    assert_eq!(fleet.cross_reads(at(10)).len(), 1, "no node is selected after the pause");
}

#[test]
fn unknown_catalogers_count_as_the_known_version_and_their_inventories_are_read_again() {
    let mut fleet = two_nodes();
    all_scanned(&mut fleet, &["shop", "bank", "base"]);
    fleet.attach("a", &hello(u32::MAX), 1, at(0));
    fleet.report("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(0)).unwrap();
    let again = fleet.lease_again(at(0));
    assert_eq!(again.len(), 1, "a version above the known one is not limited to it");
    // A node with unknown catalogers reads the base first, and no other node can verify that.
    let mut fleet = two_nodes();
    fleet.attach("a", &hello(u32::MAX), 1, at(0));
    assert!(fleet.layer_stored(inventory("a", "base", "nothing", u32::MAX)));
    read(&mut fleet, "b", "bank", "x");
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    let again = fleet.lease_again(at(0));
    assert!(again.contains(&(Arc::from("b"), vec![id("base")])), "{again:?}");
    read(&mut fleet, "b", "base", "honest");
    assert_eq!(fleet.layer(&id("base")).unwrap().read().unwrap().node, "b");
    // The other layer of this stack was read by known catalogers before and after.
    let ready: Vec<Digest> = fleet.ready(at(0)).into_iter().map(|ready| ready.stack).collect();
    assert_eq!(ready, [stack(&["bank", "base"])], "the stack is not merged again");
}

#[test]
fn the_containers_of_one_node_use_limited_memory() {
    let mut fleet = two_nodes();
    let many = |number: usize| {
        let layers = (0..500).map(|layer| id(&format!("{number}-{layer}"))).collect();
        Seen { stack: Some((stack(&["x", &number.to_string()]), layers)), ..container(&number.to_string(), &["x"]) }
    };
    let before = states(&fleet);
    assert_eq!(fleet.report("a", 1, true, (0..100).map(many).collect(), &[], at(0)), Err(RefusedReport::TooMany));
    assert_eq!(states(&fleet), before);
    // The limit also holds for many small reports.
    fleet.report("a", 1, true, Vec::new(), &[], at(0)).unwrap();
    let accepted = (0..100).take_while(|number| {
        let sequence = 2 + u64::try_from(*number).unwrap();
        fleet.report("a", sequence, false, vec![many(*number)], &[], at(0)).is_ok()
    });
    assert!((50..70).contains(&accepted.count()));
    let long_reason =
        Seen { stack: None, refused: Some(Coverage::failed("x".repeat(1 << 20))), ..container("long-reason", &["x"]) };
    fleet.report("b", 1, true, vec![long_reason], &[], at(0)).unwrap();
    assert!(fleet.overview(&Scope::All, at(0)).coverage.keys().all(|coverage| coverage.reason.len() <= MAX_REASON));
}

#[test]
fn a_settled_dispute_stays_settled_after_its_nodes_detach() {
    let all: &[&[&str]] = &[&["base"]];
    let mut fleet = three_witnesses();
    read(&mut fleet, "a", "base", "nothing");
    for node in ["b", "c"] {
        let layer = fleet.picture.layers.get_mut(&id("base")).unwrap();
        layer.cross = Some(verify::CrossRead { node: node.into(), until: at(9).instant, marks: false });
        cross_read(&mut fleet, node, "honest");
    }
    fleet.detach("b", 1, at(0));
    fleet.detach("c", 1, at(0));
    fleet.attach("d", &hello(1), 1, at(0));
    let seen = all.iter().map(|layers| container(layers[0], layers)).collect();
    fleet.report("d", 0, true, seen, &[], at(0)).unwrap();
    assert_eq!(fleet.lease("a", at(0)), [], "the node with the false inventory may read the layer");
    assert_eq!(fleet.lease("d", at(0)), [id("base")], "a node without a claim may not read the layer");
}

#[test]
fn a_dispute_ends_when_the_node_that_started_it_is_distrusted() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let dishonest = next_witness(&mut fleet).unwrap();
    cross_read(&mut fleet, &dishonest, "false");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 1);
    assert_eq!(fleet.distrust(&dishonest), Distrusted::default());
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 0);
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 3)]);
    assert!(
        !fleet.layer_stored(inventory(&dishonest, "base", "false", 1)),
        "an inventory of a distrusted node is accepted"
    );
}

#[test]
fn a_stored_stack_without_one_of_its_layers_is_not_used_after_a_restart() {
    let chain = stack(&["shop", "base"]);
    let layers = [id("shop"), id("base")];
    let known = || inventory("a", "shop", "x", 1);
    let mut fleet = Fleet::new(rules(), [known()], [summary(chain, &layers)], []);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.report("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 1)]);
    assert_eq!(fleet.lease("a", at(0)), [id("base")]);
}

#[test]
fn stored_runs_end_even_if_their_stack_was_discarded_or_their_node_never_returns() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    let chain = stack(&["shop", "base"]);
    fleet.restore_runs([(plain("b", "old"), chain, 7)]);
    all_scanned(&mut fleet, &["shop", "base"]);
    assert_eq!(fleet.take_runs().0.len(), 1);
    fleet.distrust("a");
    fleet.report("a", 1, true, vec![], &[], at(5)).unwrap();
    let run = |subject, package_set, at| crate::store::Run { subject, package_set, at };
    assert_eq!(fleet.take_runs(), (vec![], vec![run(plain("a", "shop"), 1, at(5).unix)]));
    fleet.tidy(at(6));
    assert_eq!(fleet.take_runs(), (vec![], vec![]));
    let day = 25 * 3600;
    fleet.tidy(at(6 + day));
    assert_eq!(fleet.take_runs(), (vec![], vec![run(plain("b", "old"), 7, at(6 + day).unix)]));
}

#[test]
fn a_stack_that_the_store_removed_while_a_node_has_it_is_merged_again() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    fleet.keep_only(&[id("shop"), id("base")].into(), &HashSet::new(), at(9).unix);
    assert_eq!(fleet.ready(at(9)).len(), 1);
}

#[test]
fn containers_of_a_removed_node_are_counted_as_ended() {
    let mut fleet = two_nodes();
    fleet.detach("a", 1, at(0));
    fleet.tidy(at(25 * 3600));
    let lifetimes = fleet.lifetimes();
    let ended: u64 = lifetimes.ended.values().sum();
    let running: u64 = states(&fleet).iter().map(|(_, count)| count).sum();
    assert_eq!(lifetimes.seen, ended + running);
}

#[test]
fn proved_layers_of_a_stack_replace_unproved_ones() {
    let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
    let top = Digest::of(b"top");
    let seen = |name: &str, layers: Vec<LayerId>| Seen { stack: Some((top, layers)), ..container(name, &[]) };
    let proved = || vec![id("app"), chain("base")];
    let mut fleet = nodes(&[("evil", &[]), ("honest", &[]), ("bare", &[])]);
    let false_layers = vec![LayerId::Chain(top), chain("empty")];
    fleet.report("evil", 1, true, vec![seen("false", false_layers.clone())], &[], at(0)).unwrap();
    assert!(fleet.layer_stored(KnownLayer { id: chain("empty"), ..inventory("evil", "", "nothing", 1) }));
    assert!(fleet.layer_stored(KnownLayer { id: LayerId::Chain(top), ..inventory("evil", "", "nothing", 1) }));
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    fleet.report("honest", 1, true, vec![seen("app", proved())], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    let present: HashSet<LayerId> = fleet.present_layers().map(|(id, _)| *id).collect();
    assert_eq!(present, HashSet::from_iter(proved()));
    assert_eq!(fleet.lease("honest", at(0)), proved());
    // A node without the image's configuration reports unproved layers of the same stack, and the proved ones are used.
    fleet.report("bare", 1, true, vec![seen("bare", vec![LayerId::Chain(top), chain("base")])], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 3)]);
    fleet.report("evil", 2, true, vec![], &[], at(0)).unwrap();
    fleet.report("honest", 2, true, vec![], &[], at(0)).unwrap();
    fleet.report("bare", 2, true, vec![], &[], at(0)).unwrap();
    assert_eq!(fleet.present_layers().count(), 0, "layers without containers are still counted");
    assert!(fleet.layers.values().all(|layer| layer.containers == 0));
}

#[test]
fn a_full_report_ends_no_container_of_a_namespace_that_the_node_could_not_list() {
    let all: &[&[&str]] = &[&["shop"], &["bank"]];
    let mut fleet = nodes(&[("a", all)]);
    let mut other = container("tool", &["tool"]);
    other.key.namespace = "other".to_owned();
    let unconfirmed = |unconfirmed: &[&str], containers: Vec<Seen>| Report {
        stream: 1,
        sequence: 0,
        full: true,
        containers,
        gone: Vec::new(),
        unconfirmed: unconfirmed.iter().map(|&namespace| namespace.to_owned()).collect(),
    };
    let ids = |fleet: &Fleet| {
        let containers = &fleet.node("a").unwrap().containers;
        containers.keys().map(|key| key.id.to_string()).collect::<Vec<_>>()
    };
    let place = |_: &Seen| Placed::AsReported;
    // A new agent, which knows nothing of the namespace from before.
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.containers("a", unconfirmed(&["k8s.io"], vec![other.clone()]), &place, at(1)).unwrap();
    assert_eq!(ids(&fleet), ["bank", "shop", "tool"]);
    let node = fleet.node("a").unwrap();
    let marked = node.containers.keys().filter(|key| node.is_unconfirmed(key)).map(|key| &*key.id);
    assert_eq!(marked.collect::<Vec<_>>(), ["bank", "shop"]);
    fleet.containers("a", unconfirmed(&["moby"], vec![other.clone()]), &place, at(2)).unwrap();
    assert_eq!(ids(&fleet), ["tool"]);
    // What a node keeps in this way counts toward its limit.
    let many =
        |from: usize| (from..from + MAX_CONTAINERS / 2 + 1).map(|number| container(&format!("{number}"), &["x"]));
    fleet.containers("a", unconfirmed(&["k8s.io"], many(0).collect()), &place, at(3)).unwrap();
    let more = unconfirmed(&["k8s.io"], many(MAX_CONTAINERS).collect());
    assert_eq!(fleet.containers("a", more, &place, at(4)), Err(RefusedReport::TooMany));
}

#[test]
fn a_node_is_degraded_while_its_agent_reports_problems_within_bounds() {
    let mut fleet = two_nodes();
    let problem = |message: &str| v1::Problem { message: message.to_owned(), since: 7 };
    let report = |problems: Vec<v1::Problem>| v1::Metrics { problems, ..v1::Metrics::default() };
    let state = |fleet: &Fleet| (fleet.node("a").unwrap().state(), fleet.node("b").unwrap().state());
    assert_eq!(state(&fleet), (NodeState::Attached, NodeState::Attached));
    fleet.metrics("a", report(vec![problem("listing tasks: slow")]));
    assert_eq!(state(&fleet), (NodeState::Degraded, NodeState::Attached));
    // Its agent is restarted: what it said before holds until it says more.
    fleet.detach("a", 1, at(0));
    assert_eq!((state(&fleet).0, fleet.node("a").unwrap().problems().len()), (NodeState::Silent, 0));
    fleet.attach("a", &hello(1), 2, at(0));
    assert_eq!(state(&fleet).0, NodeState::Degraded);
    fleet.metrics("a", report(Vec::new()));
    assert_eq!(state(&fleet).0, NodeState::Attached);
    fleet.metrics("a", report(vec![problem(&"ä".repeat(100_000)); 1_000]));
    let problems = fleet.node("a").unwrap().problems();
    assert!(problems.len() == 8 && problems.iter().all(|problem| problem.message.len() <= 512));
}

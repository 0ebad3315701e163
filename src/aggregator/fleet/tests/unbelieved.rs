//! What nodes that fail, lie or vanish can do to others: nothing.

use super::super::container::MAX_REASON;
use super::super::*;
use super::*;

#[test]
fn a_node_that_lets_its_leases_end_comes_after_others() {
    let mut fleet = nodes(&[("a", &[&["base"]]), ("b", &[&["base"]])]);
    assert_eq!(fleet.lease("a", at(0)), [id("base")]);
    let late = LEASE.as_secs();
    assert_eq!(fleet.lease_again(at(late)), [(Arc::from("b"), vec![id("base")])]);
    // A node that is alone with it is asked again in the end.
    let mut fleet = nodes(&[("a", &[&["base"]])]);
    fleet.lease("a", at(0));
    assert_eq!(fleet.lease_again(at(late)), []);
    assert_eq!(fleet.lease_again(at(late + 10)), [(Arc::from("a"), vec![id("base")])]);
}

#[test]
fn a_node_that_says_that_a_layer_cannot_be_read_keeps_no_other_from_it_and_three_do() {
    let all: &[&[&str]] = &[&["base"]];
    let mut fleet = nodes(&[("a", all), ("b", all), ("c", all), ("d", all)]);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(fleet.lease(name, at(0)), [id("base")], "{number} failed before");
        let large = Coverage::new(CoverageState::TooLarge, "more than a million paths");
        fleet.unreadable(name, &id("base"), large, false, at(0));
    }
    assert_eq!(fleet.lease("d", at(0)), [], "three are believed");
    assert_eq!(states(&fleet), [(CoverageState::TooLarge, 4)]);
    fleet.distrust("c");
    assert_eq!(fleet.lease("d", at(0)), [id("base")], "but not one that is distrusted");
}

#[test]
fn a_node_that_gives_no_word_that_counts_is_not_asked_over_and_over() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let first = asked(&mut fleet).unwrap();
    fleet.unreadable(&first, &id("base"), Coverage::failed("gone"), true, at(0));
    let second = asked(&mut fleet).unwrap();
    assert_ne!(first, second);
    assert_eq!(fleet.verified(&second, &id("base"), Digest::of(b"honest"), 1, true), Verified::Inconclusive);
    assert_eq!(asked(&mut fleet), None, "there is nobody else");
    assert_eq!(fleet.cross_reads(at(10)).len(), 1, "after a while they are asked again");
}

#[test]
fn catalogers_that_nobody_knows_are_no_better_and_what_they_read_alone_is_read_again() {
    let mut fleet = two_nodes();
    all_scanned(&mut fleet, &["shop", "bank", "base"]);
    fleet.attach("a", &hello(u32::MAX), 1, at(0));
    fleet.tell("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(0)).unwrap();
    let again = fleet.lease_again(at(0));
    assert_eq!(again.len(), 1, "no better than those that are known, of which there are two");
    // It reads the base first, and nobody could compare that.
    let mut fleet = two_nodes();
    fleet.attach("a", &hello(u32::MAX), 1, at(0));
    assert!(fleet.known(inventory("a", "base", "nothing", u32::MAX)));
    read(&mut fleet, "b", "bank", "x");
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    let again = fleet.lease_again(at(0));
    assert!(again.contains(&(Arc::from("b"), vec![id("base")])), "{again:?}");
    read(&mut fleet, "b", "base", "honest");
    assert_eq!(fleet.layer(&id("base")).unwrap().read().unwrap().node, "b");
}

#[test]
fn what_a_node_tells_of_its_containers_takes_no_more_than_its_share() {
    let mut fleet = two_nodes();
    let many = |number: usize| {
        let layers = (0..500).map(|layer| id(&format!("{number}-{layer}"))).collect();
        Seen { stack: Some((stack(&["x", &number.to_string()]), layers)), ..container(&number.to_string(), &["x"]) }
    };
    let before = states(&fleet);
    assert_eq!(fleet.tell("a", 1, true, (0..100).map(many).collect(), &[], at(0)), Err(NotTaken::TooMany));
    assert_eq!(states(&fleet), before);
    // Neither at once nor bit by bit.
    fleet.tell("a", 1, true, Vec::new(), &[], at(0)).unwrap();
    let taken = (0..100).take_while(|number| {
        let sequence = 2 + u64::try_from(*number).unwrap();
        fleet.tell("a", sequence, false, vec![many(*number)], &[], at(0)).is_ok()
    });
    assert!((50..70).contains(&taken.count()));
    let novel =
        Seen { stack: None, refused: Some(Coverage::failed("x".repeat(1 << 20))), ..container("novel", &["x"]) };
    fleet.tell("b", 1, true, vec![novel], &[], at(0)).unwrap();
    assert!(fleet.overview(&Scope::All, at(0)).coverage.keys().all(|coverage| coverage.reason.len() <= MAX_REASON));
}

#[test]
fn a_settled_dispute_outlives_those_who_settled_it() {
    let all: &[&[&str]] = &[&["base"]];
    let mut fleet = three_witnesses();
    read(&mut fleet, "a", "base", "nothing");
    for node in ["b", "c"] {
        let layer = fleet.picture.layers.get_mut(&id("base")).unwrap();
        layer.cross = Some(verify::CrossRead { node: node.into(), until: at(9).instant });
        says(&mut fleet, node, "honest");
    }
    fleet.detach("b", 1);
    fleet.detach("c", 1);
    fleet.attach("d", &hello(1), 1, at(0));
    let seen = all.iter().map(|layers| container(layers[0], layers)).collect();
    fleet.tell("d", 0, true, seen, &[], at(0)).unwrap();
    assert_eq!(fleet.lease("a", at(0)), [], "the liar is not asked");
    assert_eq!(fleet.lease("d", at(0)), [id("base")], "who came later is");
}

#[test]
fn a_dispute_ends_with_the_belief_in_who_began_it() {
    let mut fleet = three_witnesses();
    all_scanned(&mut fleet, &["base"]);
    let liar = asked(&mut fleet).unwrap();
    says(&mut fleet, &liar, "a lie");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 1);
    assert_eq!(fleet.distrust(&liar), Distrusted::default());
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 0);
    assert_eq!(states(&fleet), [(CoverageState::Scanned, 3)]);
    assert!(!fleet.known(inventory(&liar, "base", "a lie", 1)), "what was on its way comes too late");
}

#[test]
fn what_follows_from_a_layer_that_is_not_believed_any_more_is_not_taken_up_at_the_start() {
    let chain = stack(&["shop", "base"]);
    let layers = [id("shop"), id("base")];
    let known = || inventory("a", "shop", "x", 1);
    let mut fleet = Fleet::new(rules(), [known()], [summary(chain, &layers)], []);
    fleet.attach("a", &hello(1), 1, at(0));
    fleet.tell("a", 0, true, vec![container("shop", &["shop", "base"])], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 1)]);
    assert_eq!(fleet.lease("a", at(0)), [id("base")]);
}

#[test]
fn runs_end_in_the_store_whatever_is_thought_of_their_stack_and_with_nodes_that_never_came_again() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    let chain = stack(&["shop", "base"]);
    fleet.restore_runs([(plain("b", "old"), chain, 7)]);
    all_scanned(&mut fleet, &["shop", "base"]);
    assert_eq!(fleet.take_runs().0.len(), 1);
    fleet.distrust("a");
    fleet.tell("a", 1, true, vec![], &[], at(5)).unwrap();
    let run = |subject, package_set, at| crate::store::Run { subject, package_set, at };
    assert_eq!(fleet.take_runs(), (vec![], vec![run(plain("a", "shop"), 1, at(5).unix)]));
    fleet.tidy(at(6));
    assert_eq!(fleet.take_runs(), (vec![], vec![]));
    let day = 25 * 3600;
    fleet.tidy(at(6 + day));
    assert_eq!(fleet.take_runs(), (vec![], vec![run(plain("b", "old"), 7, at(6 + day).unix)]));
}

#[test]
fn a_stack_that_is_run_again_while_the_store_is_tidied_is_merged_again() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    all_scanned(&mut fleet, &["shop", "base"]);
    fleet.keep_only(&[id("shop"), id("base")].into(), &HashSet::new(), at(9).unix);
    assert_eq!(fleet.ready(at(9)).len(), 1);
}

#[test]
fn containers_of_a_forgotten_node_are_counted_as_ended() {
    let mut fleet = two_nodes();
    fleet.detach("a", 1);
    fleet.tidy(at(25 * 3600));
    let lifetimes = fleet.lifetimes();
    let ended: u64 = lifetimes.ended.values().sum();
    let running: u64 = states(&fleet).iter().map(|(_, count)| count).sum();
    assert_eq!(lifetimes.seen, ended + running);
}

#[test]
fn layers_that_are_proved_take_the_place_of_those_that_somebody_named_before() {
    let chain = |name: &str| LayerId::Chain(Digest::of(name.as_bytes()));
    let top = Digest::of(b"top");
    let named = |name: &str, layers: Vec<LayerId>| Seen { stack: Some((top, layers)), ..container(name, &[]) };
    let proved = || vec![id("app"), chain("base")];
    let mut fleet = nodes(&[("evil", &[]), ("honest", &[]), ("bare", &[])]);
    let lie = vec![LayerId::Chain(top), chain("empty")];
    fleet.tell("evil", 1, true, vec![named("liar", lie.clone())], &[], at(0)).unwrap();
    assert!(fleet.known(KnownLayer { id: chain("empty"), ..inventory("evil", "", "nothing", 1) }));
    assert!(fleet.known(KnownLayer { id: LayerId::Chain(top), ..inventory("evil", "", "nothing", 1) }));
    for Ready { stack, layers } in fleet.ready(at(0)) {
        fleet.merged(stack, Ok(summary(stack, &layers)));
    }
    fleet.tell("honest", 1, true, vec![named("app", proved())], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 2)]);
    let present: HashSet<LayerId> = fleet.present_layers().map(|(id, _)| *id).collect();
    assert_eq!(present, HashSet::from_iter(proved()));
    assert_eq!(fleet.lease("honest", at(0)), proved());
    // Who has no configuration that proves anything has the same stack, and is no liar.
    fleet.tell("bare", 1, true, vec![named("bare", vec![LayerId::Chain(top), chain("base")])], &[], at(0)).unwrap();
    assert_eq!(states(&fleet), [(CoverageState::Pending, 3)]);
    fleet.tell("evil", 2, true, vec![], &[], at(0)).unwrap();
    fleet.tell("honest", 2, true, vec![], &[], at(0)).unwrap();
    fleet.tell("bare", 2, true, vec![], &[], at(0)).unwrap();
    assert_eq!(fleet.present_layers().count(), 0, "the counts come out even");
    assert!(fleet.layers.values().all(|layer| layer.containers == 0));
}

//! The rights that a node reports for itself do not prevent other nodes from verifying its inventories.

use super::super::*;
use super::*;

/// Returns nodes with one image, each of which can or cannot read overlay's marks. The first has read the base layer.
fn nodes_with(marks: &[(&str, bool)]) -> Fleet {
    let mut fleet = Fleet::new(Rules { verify_within: Duration::ZERO, ..rules() }, [], [], []);
    fleet.rules.verify_share = 1.0;
    for (node, marks) in marks {
        fleet.attach(node, &v1::Hello { marks: *marks, ..hello(1) }, 1, at(0));
        fleet.report(node, 0, true, vec![container("base", &["base"])], &[], at(0)).unwrap();
    }
    fleet
}

/// Returns an inventory with these contents and opaque marks; a reader without marks has another digest for it.
fn contents(node: &str, contents: &str, opaque: &str, marks: bool) -> KnownLayer {
    let digest = if marks { with_marks(contents, opaque) } else { without_marks(contents) };
    KnownLayer { marks, digest, without_marks: Some(without_marks(contents)), ..inventory(node, "base", "", 1) }
}

fn with_marks(contents: &str, opaque: &str) -> Digest {
    Digest::of(format!("{contents} {opaque}").as_bytes())
}

fn without_marks(contents: &str) -> Digest {
    Digest::of(contents.as_bytes())
}

/// Lets every node that is asked answer what an honest one does, and returns the names in order, with the last outcome.
fn honest(fleet: &mut Fleet) -> (Vec<String>, Option<Verified>) {
    let (mut asked, mut last) = (Vec::new(), None);
    while let Some(Witness { node, layer, marks }) = fleet.cross_reads(at(0)).pop() {
        let digest = if marks { with_marks("all", "honest") } else { without_marks("all") };
        asked.push(node.to_string());
        last = Some(fleet.verified(&node, &layer, digest, 1, marks));
        assert!(asked.len() < 10, "nodes are asked without end: {asked:?}");
    }
    (asked, last)
}

#[test]
fn an_inventory_of_a_node_that_claims_to_read_no_marks_is_verified_by_nodes_that_read_them() {
    for (contents_of, outcome) in
        [("all", Verified::Same(without_marks("all"))), ("nothing", Verified::Overturned("a".to_owned()))]
    {
        let mut fleet = nodes_with(&[("a", false), ("b", true), ("c", true)]);
        assert!(fleet.layer_stored(contents("a", contents_of, "", false)));
        let (asked, last) = honest(&mut fleet);
        assert_eq!(last, Some(outcome), "{contents_of}: {asked:?}");
    }
}

#[test]
fn nodes_that_cannot_read_marks_verify_everything_but_the_marks() {
    for (contents_of, outcome) in [("all", Verified::Inconclusive), ("nothing", Verified::Overturned("a".to_owned()))] {
        let mut fleet = nodes_with(&[("a", true), ("b", false), ("c", false)]);
        assert!(fleet.layer_stored(contents("a", contents_of, "honest", true)));
        let (asked, last) = honest(&mut fleet);
        assert_eq!(last, Some(outcome), "{contents_of}: {asked:?}");
    }
}

#[test]
fn marks_that_only_one_node_has_reported_take_nothing_away_from_containers_of_others() {
    let base = stack(&["base"]);
    let mut fleet = nodes_with(&[("evil", true)]);
    assert!(fleet.layer_stored(contents("evil", "all", "everything is opaque", true)));
    assert_eq!(fleet.doubted(&base), [], "of its own containers a node may say so");
    let merged = |fleet: &mut Fleet| {
        for Ready { stack, layers } in fleet.ready(at(0)) {
            let doubted = fleet.doubted(&stack);
            let read = fleet.layer(&layers[0]).unwrap().read().unwrap().clone();
            let from = inputs([(&read.digest, read.marks && !doubted.contains(&read.id))]);
            fleet.merged(stack, Ok(Summary { inputs: Some(from), ..summary(stack, &layers) }));
        }
    };
    merged(&mut fleet);
    for node in ["b", "c"] {
        fleet.attach(node, &hello(1), 1, at(0));
        fleet.report(node, 0, true, vec![container("base", &["base"])], &[], at(0)).unwrap();
    }
    assert_eq!(fleet.doubted(&base), [id("base")]);
    assert_eq!(fleet.ready(at(0)).len(), 1, "the stack is not merged again without the marks");
    assert_eq!(states(&fleet), [(CoverageState::Pending, 3)], "what the marks hide counts meanwhile");
    fleet.merged(base, Err(Coverage::failed("not of interest")));
    // Nodes without marks find the same, which confirms no mark and makes nobody answer for them.
    let (asked, last) = honest(&mut fleet);
    assert_eq!((asked.len(), last), (1, Some(Verified::Inconclusive)), "{asked:?}");
    assert_eq!(fleet.doubted(&base), [id("base")]);
    // A node that reads marks disputes them.
    fleet.attach("d", &v1::Hello { marks: true, ..hello(1) }, 1, at(60));
    fleet.report("d", 0, true, vec![container("base", &["base"])], &[], at(60)).unwrap();
    let witness = fleet.cross_reads(at(60)).pop().unwrap();
    assert_eq!((&*witness.node, witness.marks), ("d", true));
    assert_eq!(fleet.verified("d", &id("base"), with_marks("all", "honest"), 1, true), Verified::Disputed);
    let outcome = fleet.distrust("evil");
    assert_eq!((outcome.forgotten, outcome.attributed), (vec![id("base")], Vec::new()));
}

#[test]
fn marks_that_a_second_node_has_read_count_for_all() {
    let mut fleet = nodes_with(&[("a", true), ("b", true), ("c", false)]);
    assert!(fleet.layer_stored(contents("a", "all", "honest", true)));
    assert_eq!(fleet.doubted(&stack(&["base"])), [id("base")]);
    assert_eq!(honest(&mut fleet), (vec!["b".to_owned()], Some(Verified::Same(with_marks("all", "honest")))));
    assert_eq!(fleet.doubted(&stack(&["base"])), []);
    // A layer without marks needs nobody who reads them.
    let mut fleet = nodes_with(&[("a", true), ("b", false)]);
    assert!(fleet.layer_stored(KnownLayer { digest: without_marks("all"), ..contents("a", "all", "", true) }));
    assert_eq!(fleet.doubted(&stack(&["base"])), []);
    assert_eq!(honest(&mut fleet), (vec!["b".to_owned()], Some(Verified::Same(without_marks("all")))));
}

#[test]
fn nodes_without_marks_settle_a_dispute_about_contents_and_not_one_about_marks() {
    let all = [("a", true), ("b", true), ("c", false), ("d", false)];
    let mut fleet = nodes_with(&all);
    assert!(fleet.layer_stored(contents("a", "nothing", "honest", true)));
    let (asked, last) = honest(&mut fleet);
    assert_eq!(last, Some(Verified::Overturned("a".to_owned())), "{asked:?}");
    assert!(fleet.is_settled(&contents("b", "all", "honest", true)), "the inventory with marks of the majority");
    assert!(!fleet.is_settled(&contents("a", "nothing", "honest", true)));
    // Only one of two nodes that read marks is right about them, and nobody else can tell which.
    let mut fleet = nodes_with(&all);
    assert!(fleet.layer_stored(contents("a", "all", "everything is opaque", true)));
    let (asked, last) = honest(&mut fleet);
    // The other node that reads marks is asked once more, without them.
    assert_eq!((asked.len(), last), (4, Some(Verified::Inconclusive)), "{asked:?}");
    assert_eq!(fleet.layer_counts(&Scope::All).disputed, 1);
    assert_eq!(fleet.cross_reads(at(60)), [], "the same nodes are asked again");
    // A third such node settles it.
    fleet.attach("e", &v1::Hello { marks: true, ..hello(1) }, 1, at(60));
    fleet.report("e", 0, true, vec![container("base", &["base"])], &[], at(60)).unwrap();
    let witness = fleet.cross_reads(at(120)).pop().unwrap();
    assert_eq!((&*witness.node, witness.marks), ("e", true));
    let outcome = fleet.verified("e", &id("base"), with_marks("all", "honest"), 1, true);
    assert_eq!(outcome, Verified::Overturned("a".to_owned()));
}

#[test]
fn a_node_that_answers_with_other_rights_than_it_was_asked_to_use_verifies_nothing() {
    let mut fleet = nodes_with(&[("a", true), ("b", true)]);
    assert!(fleet.layer_stored(contents("a", "all", "honest", true)));
    let witness = fleet.cross_reads(at(0)).pop().unwrap();
    assert!(witness.marks);
    assert_eq!(fleet.verified("b", &id("base"), without_marks("all"), 1, false), Verified::Inconclusive);
    assert!(fleet.layer(&id("base")).unwrap().read().unwrap().verified_by.is_empty());
}

#[test]
fn every_layer_that_two_nodes_have_is_verified_within_the_interval_by_default() {
    let mut fleet = nodes(&[("a", &[&["shop", "base"]])]);
    fleet.rules = Rules { catalogers: 2, ..Rules::default() };
    // A node reports the layers of public images before anybody else runs them.
    all_scanned(&mut fleet, &["shop", "base"]);
    let interval = fleet.rules.verify_within.as_secs();
    assert_eq!(fleet.cross_reads(at(interval)), [], "a node verifies itself");
    fleet.attach("b", &hello(1), 1, at(interval));
    fleet.report("b", 0, true, vec![container("bank", &["bank", "base"])], &[], at(interval)).unwrap();
    // After the pause that follows a search without a result.
    let witness = fleet.cross_reads(at(interval + 10)).pop().expect("the layer is verified at once");
    assert_eq!((&*witness.node, witness.layer), ("b", id("base")));
}

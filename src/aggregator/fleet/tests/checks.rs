//! One node's answer to a check removes no packages from the containers of other nodes.

use super::super::*;
use super::*;

/// Returns nodes with one image, whose layers have been read. Its paths have to be checked.
fn nodes_with_image(names: &[&str]) -> (Fleet, Digest) {
    const IMAGE: &[&[&str]] = &[&["base"]];
    let all: Vec<(&str, &[&[&str]])> = names.iter().map(|name| (*name, IMAGE)).collect();
    let mut fleet = nodes(&all);
    read(&mut fleet, "a", "base", "x");
    let stack = fleet.ready(at(0))[0].stack;
    (fleet, stack)
}

/// Lets the node that is asked answer, and merges the stack with its answer. `None` leaves paths undecided.
fn check(fleet: &mut Fleet, stack: Digest, say: impl Fn(&str) -> Option<&'static str>) -> (String, Answered) {
    let node = fleet.start_check(stack, at(0)).unwrap();
    let claim = say(&node).map(|text| Digest::of(text.as_bytes()));
    let answered = fleet.check_answered(&node, &stack, claim, at(0)).unwrap();
    let checked_by = answered.nodes.clone();
    fleet.merged(stack, Ok(Summary { checked_by, ..summary(stack, &answered.layers) }));
    (node.to_string(), answered)
}

/// Returns whether the stack is to be checked again, and marks it as being merged then.
fn is_next(fleet: &mut Fleet) -> bool {
    fleet.retry_checks(at(0));
    !fleet.ready(at(0)).is_empty()
}

#[test]
fn an_answer_counts_when_a_second_node_confirms_it() {
    let (mut fleet, stack) = nodes_with_image(&["a", "b", "c"]);
    let (first, answered) = check(&mut fleet, stack, |_| Some("hidden"));
    assert!(!answered.is_confirmed, "one node decides for three");
    assert!(is_next(&mut fleet), "no other node is asked");
    let (second, answered) = check(&mut fleet, stack, |_| Some("hidden"));
    assert_ne!(first, second);
    assert!(answered.is_confirmed);
    assert_eq!(answered.nodes.len(), 2);
    assert!(!is_next(&mut fleet), "a third node is asked");
}

#[test]
fn a_false_answer_is_outvoted_and_never_counts() {
    for liar in ["a", "b", "c"] {
        let (mut fleet, stack) = nodes_with_image(&["a", "b", "c"]);
        let say = |node: &str| Some(if node == liar { "everything is hidden" } else { "nothing is hidden" });
        let mut confirmed = Vec::new();
        let mut asked = 0;
        loop {
            let (node, answered) = check(&mut fleet, stack, say);
            asked += 1;
            confirmed.extend(answered.is_confirmed.then_some(node));
            if !is_next(&mut fleet) {
                break;
            }
        }
        assert!(asked <= 3 && confirmed.len() == 1 && confirmed[0] != liar, "{liar}: {confirmed:?} of {asked}");
    }
    // Two nodes that disagree confirm nothing.
    let (mut fleet, stack) = nodes_with_image(&["a", "b"]);
    let (_, answered) = check(&mut fleet, stack, |_| Some("hidden"));
    assert!(!answered.is_confirmed && is_next(&mut fleet));
    let (_, answered) = check(&mut fleet, stack, |_| Some("visible"));
    assert!(!answered.is_confirmed && !is_next(&mut fleet));
}

#[test]
fn an_answer_that_leaves_paths_undecided_confirms_nothing() {
    let (mut fleet, stack) = nodes_with_image(&["a", "b"]);
    let (first, answered) = check(&mut fleet, stack, |_| None);
    assert!(!answered.is_confirmed);
    fleet.ready(at(0));
    let (_, answered) = check(&mut fleet, stack, |node| (node != first).then_some("hidden"));
    assert!(!answered.is_confirmed, "an undecided answer confirms another");
}

#[test]
fn the_answer_of_the_only_node_with_the_stack_counts_until_another_node_runs_it() {
    let (mut fleet, stack) = nodes_with_image(&["a"]);
    let (_, answered) = check(&mut fleet, stack, |_| Some("hidden"));
    assert!(answered.is_confirmed && !is_next(&mut fleet));
    // A further container of the same node changes nothing.
    let again = Seen { key: key("again"), ..container("base", &["base"]) };
    fleet.report("a", 1, false, vec![again], &[], at(0)).unwrap();
    assert!(!is_next(&mut fleet));
    fleet.attach("b", &hello(1), 1, at(0));
    fleet.report("b", 0, true, vec![container("base", &["base"])], &[], at(0)).unwrap();
    assert!(is_next(&mut fleet), "another node relies on the answer of the first");
    let (node, answered) = check(&mut fleet, stack, |_| Some("visible"));
    assert_eq!((node.as_str(), answered.is_confirmed), ("b", false));
}

#[test]
fn distrusting_a_node_undoes_its_answers_unless_another_node_gave_them_also_after_a_restart() {
    let (mut fleet, stack) = nodes_with_image(&["a"]);
    check(&mut fleet, stack, |_| Some("hidden"));
    let stored = |fleet: &Fleet| Summary::clone(fleet.stack(&stack).unwrap().summary().unwrap());
    let alone = stored(&fleet);
    fleet.distrust("a");
    assert!(fleet.stack(&stack).unwrap().summary().is_none(), "packages stay as a distrusted node decided");
    let both = Summary { checked_by: vec!["a".to_owned(), "b".to_owned()], ..alone.clone() };
    for (summary, is_kept) in [(alone, false), (both, true)] {
        let known = inventory("b", "base", "x", 1);
        let inputs = Some(inputs([(&known.digest, known.marks)]));
        let summary = Summary { inputs, ..summary };
        let fleet = Fleet::new(rules(), [known], [summary], ["a".to_owned()]);
        assert_eq!(fleet.stack(&stack).is_some(), is_kept);
    }
}

//! The table of hostile messages and sequences, each with its expected outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use outcrop_proto::wire::Refusal;
use outcrop_proto::wire::v1::report::Report;
use tokio::task::JoinHandle;
use tonic::Status;

use super::super::load::settle;
use super::super::node::{endpoint, hello};
use super::super::service::until;
use super::bytes::{RawCall, encoded};
use super::{Place, deliveries, messages, sequences};

/// What an attack leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is refused for this reason, and the log names the node.
    Refused(Refusal),
    /// It is refused for this reason before the node is known.
    Anonymous(Refusal),
    /// Nobody asked for this many of its messages, which are dropped and counted.
    Dropped(u64),
    /// It is accepted, and concerns its sender only.
    Accepted,
}

/// Calls and streams of a node of this name. Returns the statuses with which they were refused.
pub(super) type Sequence = fn(&Place, &str) -> Vec<Status>;

/// A sequence that goes on beside those after it. Its task returns the status with which it was refused.
pub(super) type Waiting = fn(&Place, &str) -> JoinHandle<Option<Status>>;

/// How an attack is made, as a node that has the name alone.
pub(super) enum Kind {
    /// The first message of a stream.
    First(Vec<u8>),
    /// A message after the Hello.
    Later(Vec<u8>),
    /// An inventory, compressed, of a layer that only this node has.
    Inventory(Vec<u8>),
    /// Anything else.
    Run(Sequence),
    /// What takes the aggregator's time-outs: it begins at its turn, and ends after all others.
    Wait(Waiting),
}

/// An attack.
pub(super) struct Attack {
    pub(super) name: String,
    pub(super) effect: Effect,
    pub(super) kind: Kind,
}

pub(super) fn attack(name: impl Into<String>, effect: Effect, kind: Kind) -> Attack {
    Attack { name: name.into(), effect, kind }
}

/// All of them; what waits comes first.
pub(super) fn all() -> Vec<Attack> {
    let mut all = sequences::all();
    all.extend(messages::all());
    all.extend(deliveries::all());
    all
}

/// What the aggregator must have counted after attacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    refused: BTreeMap<String, u64>,
    unasked: u64,
    /// Nodes that its log must name.
    named: BTreeSet<String>,
    /// Attacks that ended in another way than they must.
    wrong: Vec<String>,
}

impl Counted {
    fn add(&mut self, name: &str, effect: Effect, node: &str, ended: &[Status]) {
        let reasons: BTreeSet<_> = ended.iter().map(Refusal::classify).collect();
        let expected: BTreeSet<_> = match effect {
            Effect::Refused(reason) | Effect::Anonymous(reason) => [Some(reason)].into(),
            Effect::Dropped(_) | Effect::Accepted => BTreeSet::new(),
        };
        if reasons != expected {
            self.wrong.push(format!("{name}: {effect:?}, and not {reasons:?}: {ended:#?}"));
        }
        match effect {
            Effect::Refused(reason) | Effect::Anonymous(reason) => {
                *self.refused.entry(reason.as_str().to_owned()).or_default() += ended.len() as u64;
                self.unasked += if reason == Refusal::Unasked { ended.len() as u64 } else { 0 };
            }
            Effect::Dropped(count) => self.unasked += count,
            Effect::Accepted => {}
        }
        if matches!(effect, Effect::Refused(_)) {
            self.named.insert(node.to_owned());
        }
    }
}

impl Place {
    /// Makes these attacks, each as another node, and checks how each ended. Returns what must have been counted.
    pub(super) fn attack(&self, attacks: Vec<Attack>) -> Counted {
        let (mut counted, mut waiting) = (Counted::default(), Vec::new());
        for Attack { name, effect, kind } in attacks {
            let node = self.name();
            let raw = |messages| {
                let call = RawCall::attach(&node, messages);
                self.runtime.block_on(call.run(endpoint(&self.service))).into_iter().collect()
            };
            let ended: Vec<Status> = match kind {
                Kind::First(message) => raw(vec![message]),
                Kind::Later(message) => raw(vec![encoded(Report::Hello(hello(&node))), message]),
                Kind::Inventory(compressed) => {
                    self.deliver_own(&node, std::iter::once(compressed)).err().into_iter().collect()
                }
                Kind::Run(run) => run(self, &node),
                Kind::Wait(run) => {
                    waiting.push((name, effect, run(self, &node), node));
                    continue;
                }
            };
            counted.add(&name, effect, &node, &ended);
        }
        for (name, effect, handle, node) in waiting {
            let ended: Vec<Status> = self.runtime.block_on(handle).unwrap().into_iter().collect();
            counted.add(&name, effect, &node, &ended);
        }
        counted
    }
}

#[test]
fn each_attack_is_refused_and_counted_by_name_or_concerns_its_sender_only() {
    let attacks = all();
    let names: BTreeSet<&String> = attacks.iter().map(|attack| &attack.name).collect();
    println!("  {} messages and sequences", names.len());
    assert_eq!(names.len(), attacks.len(), "each has a name of its own");
    assert!(names.len() >= 60);
    let place = Place::start(&[]);
    place.honest();
    // Nothing of what honest nodes need is left for others to promise.
    settle(&place.service, place.fleet.world.shape, false);
    place.fleet.churn(Duration::from_millis(500));
    let counted = place.attack(attacks);
    assert!(counted.wrong.is_empty(), "{}", counted.wrong.join("\n"));
    let mut last = BTreeMap::new();
    // A stream that its node drops can be refused before that is seen, too.
    let has_at_least = |last: &BTreeMap<String, u64>| {
        counted.refused.iter().all(|(reason, count)| last.get(reason).is_some_and(|counted| counted >= count))
    };
    until(&format!("{:?} to be counted", counted.refused), Duration::from_secs(20), || {
        let reports = place.service.status()["reports"].clone();
        let reasons = reports["refused_by_reason"].as_object().unwrap().iter();
        last = reasons
            .map(|(name, count)| (name.clone(), count.as_u64().unwrap()))
            .filter(|(_, count)| *count > 0)
            .collect();
        (has_at_least(&last) && reports["unasked"] == counted.unasked) || {
            println!("  {last:?}, unasked {} of {}", reports["unasked"], counted.unasked);
            false
        }
    });
    let log = fs::read_to_string(place.service.at("log")).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused") || line.contains("replaced")).collect();
    let unnamed: Vec<_> = counted.named.iter().filter(|node| !lines.iter().any(|line| line.contains(*node))).collect();
    assert!(unnamed.is_empty(), "the log does not name {unnamed:?}:\n{log}");
    place.unharmed();
}

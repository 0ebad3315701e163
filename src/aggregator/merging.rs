//! Merges a stack's inventories and a node's answers into the packages to store. Pure functions.

use std::collections::{BTreeSet, HashSet};

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, decompress};
use outcrop_proto::wire::v1;
use outcrop_proto::{Answers, Budget, Coverage, CoverageState, DecodeError, Digest, Fact, LayerId, OverBudget, merge};

use crate::export::purl;
use crate::store::{InventoryRow, MergedPackage, MergedStack, inputs};

/// A stack to merge.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) id: Digest,
    /// Its layers, newest first.
    pub(super) layers: Vec<LayerId>,
    /// The inventories of the layers, in the same order.
    pub(super) inventories: Vec<InventoryRow>,
    /// The answers of a node, after a check.
    pub(super) answers: Option<Checked>,
}

/// The answers of a node to a check.
#[derive(Debug)]
pub(super) struct Checked {
    /// The answers.
    pub(super) answers: v1::Answers,
    /// Nodes that gave the same.
    pub(super) nodes: Vec<String>,
    /// Whether they may take packages away. Others have to be confirmed by another node first.
    pub(super) is_confirmed: bool,
}

impl Checked {
    /// Returns a digest that equal answers have in common, or `None` if they leave paths undecided. Reasons of errors do not count.
    pub(super) fn claim(answers: &v1::Answers) -> Option<Digest> {
        if !answers.undecided.is_empty() {
            return None;
        }
        let mut facts: Vec<(&[u8], Option<&[u8]>)> = answers
            .answers
            .iter()
            .map(|answer| match &answer.read {
                Some(v1::answer::Read::Fact(fact)) => (answer.path.as_slice(), Some(fact.as_slice())),
                Some(v1::answer::Read::Error(_)) | None => (answer.path.as_slice(), None),
            })
            .collect();
        let mut hidden: Vec<&[u8]> = answers.hidden.iter().map(Vec::as_slice).collect();
        facts.sort_unstable();
        hidden.sort_unstable();
        let mut encoding = Vec::new();
        let mut add = |bytes: &[u8]| {
            encoding.extend((bytes.len() as u64).to_le_bytes());
            encoding.extend(bytes);
        };
        add(&(facts.len() as u64).to_le_bytes());
        for (path, fact) in facts {
            add(path);
            add(&[u8::from(fact.is_some())]);
            add(fact.unwrap_or_default());
        }
        hidden.into_iter().for_each(add);
        Some(Digest::of(&encoding))
    }
}

/// The result of a merge.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A node has to check paths first.
    Check(v1::Check),
    /// The merged stack.
    Done(Box<MergedStack>),
    /// The stack cannot be merged.
    Failed(Coverage),
}

/// Merges a stack.
pub(super) fn merge_stack(stack: Stack) -> Outcome {
    let mut budget = Budget::job();
    let marks = stack.inventories.iter().all(|row| row.marks);
    let inputs = inputs(stack.inventories.iter().map(|row| (&row.digest, row.marks)));
    let decoded = stack.inventories.iter().map(|row| decode(row, &mut budget)).collect();
    let inventories: Vec<Inventory> = match decoded {
        Ok(inventories) => inventories,
        Err(DecodeError::OverBudget(error)) => return too_large(&error),
        Err(error) => return Outcome::Failed(Coverage::failed(error.to_string())),
    };
    let inventories: Vec<&Inventory> = inventories.iter().collect();
    let catalogers = inventories.iter().map(|inventory| inventory.catalogers).min().unwrap_or(catalog::VERSION);
    // The first merge is over before the second one begins.
    let mut first = budget;
    let mut merged = match merge(&inventories, catalog::KNOWN, &Answers::default(), &mut first) {
        Ok(merged) => merged,
        Err(error) => return too_large(&error),
    };
    // A single layer hides nothing below it.
    let doubtful = if marks || inventories.len() < 2 { Vec::new() } else { std::mem::take(&mut merged.doubtful) };
    let mut undecided = Vec::new();
    let mut unconfirmed = None;
    if !merged.unread.is_empty() || !doubtful.is_empty() {
        let Some(checked) = &stack.answers else {
            return Outcome::Check(v1::Check {
                stack: stack.id.0.to_vec(),
                unread: merged.unread.into_iter().map(|unread| unread.path).collect(),
                doubtful,
            });
        };
        // Answers to paths that were not requested are ignored; requested paths without an answer stay undecided.
        let reported = &checked.answers;
        let doubts: HashSet<&Vec<u8>> = doubtful.iter().collect();
        let mut hidden: BTreeSet<Vec<u8>> =
            reported.hidden.iter().filter(|path| doubts.contains(path)).cloned().collect();
        let mut open: HashSet<&Vec<u8>> = reported.undecided.iter().map(|undecided| &undecided.path).collect();
        if !checked.is_confirmed {
            open.extend(&reported.hidden);
            hidden.clear();
        }
        undecided = doubtful.iter().filter(|path| open.contains(path)).cloned().collect();
        unconfirmed = merged.unread.first().map(|unread| unread.path.clone()).filter(|_| !checked.is_confirmed);
        let mut requested: HashSet<&Vec<u8>> = merged.unread.iter().map(|unread| &unread.path).collect();
        // The first answer about a path counts.
        let facts = reported.answers.iter().filter(|answer| requested.remove(&answer.path)).map(|answer| {
            let fact = match &answer.read {
                Some(v1::answer::Read::Fact(bytes)) => {
                    Fact::decode(bytes, &mut budget).map_err(|error| error.to_string())
                }
                Some(v1::answer::Read::Error(error)) => Err(error.clone()),
                None => Err("the node did not report it".to_owned()),
            };
            (answer.path.clone(), fact)
        });
        let answers = Answers { facts: facts.collect(), hidden };
        merged = match merge(&inventories, catalog::KNOWN, &answers, &mut budget) {
            Ok(merged) => merged,
            Err(error) => return too_large(&error),
        };
    }
    let mut coverage = merged.coverage(&undecided);
    if let Some(path) = unconfirmed {
        let path = path.escape_ascii();
        coverage = coverage.but(&format!("only one node has read /{path}, and no other node has confirmed it yet"));
    }
    let unidentified = merged.unidentified.len();
    let distribution = merged.distribution;
    let packages = merged.packages.into_iter().map(|package| MergedPackage {
        purl: purl(&package.package, distribution.as_ref()),
        owner_purl: package.owner.as_ref().map(|owner| purl(&owner.package, distribution.as_ref())),
        package,
    });
    Outcome::Done(Box::new(MergedStack {
        chain: stack.id,
        layers: stack.layers,
        inputs,
        coverage,
        packages: packages.collect(),
        distribution,
        catalogers,
        unidentified,
        checked_by: stack.answers.map(|checked| checked.nodes).unwrap_or_default(),
    }))
}

/// Decodes an inventory. Its encoding is dropped before the next one is decompressed.
fn decode(row: &InventoryRow, budget: &mut Budget) -> Result<Inventory, DecodeError> {
    injected_abort("merge", &row.compressed);
    let encoding = decompress(&row.compressed, budget)?;
    let mut inventory = Inventory::decode(&encoding, budget)?;
    budget.release(encoding.len());
    if !row.marks {
        // Also those of a node that claims to read none.
        inventory.remove_marks(budget)?;
    }
    Ok(inventory)
}

/// Properties of a delivered inventory that are stored with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckedInventory {
    /// Digest of the canonical encoding.
    pub(super) digest: Digest,
    /// Digest of what a node without rights to read overlay's marks would have found, where this one had them.
    pub(super) without_marks: Option<Digest>,
    /// Size of the canonical encoding, in bytes.
    pub(super) size: usize,
    /// The version of the catalogers that read the layer.
    pub(super) catalogers: u32,
}

/// Checks a delivered inventory.
///
/// # Errors
/// When it is not canonical, or takes more than the budget.
pub(super) fn check_inventory(compressed: &[u8], marks: bool) -> Result<CheckedInventory, DecodeError> {
    injected_abort("deliver", compressed);
    let mut budget = Budget::job();
    let encoding = decompress(compressed, &mut budget)?;
    let inventory = Inventory::decode(&encoding, &mut budget)?;
    let (digest, size, catalogers) = (Digest::of(&encoding), encoding.len(), inventory.catalogers);
    // Its memory is that of the encoding that `digest_without_marks` makes.
    drop(encoding);
    let without_marks = marks.then(|| inventory.digest_without_marks(digest, &mut budget).ok()).flatten();
    Ok(CheckedInventory { digest, without_marks, size, catalogers })
}

/// Ends the process as a fault that no budget holds would, in debug builds only, for the inventory that `OUTCROP_ABORT=WORK:DIGEST` names by the
/// digest of its compressed bytes.
fn injected_abort(work: &str, compressed: &[u8]) {
    if cfg!(debug_assertions)
        && let Ok(wanted) = std::env::var("OUTCROP_ABORT")
        && let Some(digest) = wanted.strip_prefix(work).and_then(|rest| rest.strip_prefix(':'))
        && digest == Digest::of(compressed).to_string()
    {
        std::process::abort();
    }
}

fn too_large(error: &OverBudget) -> Outcome {
    let reason = format!("merging the inventories of the layers {error}");
    Outcome::Failed(Coverage::new(CoverageState::TooLarge, reason))
}

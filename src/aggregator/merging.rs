//! Merges a stack's inventories and a node's answers into the packages to store. Pure functions.

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, decompress};
use outcrop_proto::wire::{MAX_INVENTORY, v1};
use outcrop_proto::{Answers, Coverage, CoverageState, Digest, Fact, LayerId, merge};

use crate::export::purl;
use crate::store::{InventoryRow, MergedPackage, MergedStack, inputs};

/// Maximum uncompressed size of all inventories of a stack, in bytes. A table of a million paths has about ten MiB.
const MAX_STACK: usize = 256 << 20;

/// A stack to merge.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) id: Digest,
    /// Its layers, newest first.
    pub(super) layers: Vec<LayerId>,
    /// The inventories of the layers, in the same order.
    pub(super) inventories: Vec<InventoryRow>,
    /// The answers of a node, after a check.
    pub(super) answers: Option<v1::Answers>,
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
    let size: usize = stack.inventories.iter().map(|row| row.size).sum();
    if size > MAX_STACK {
        let reason = format!("the inventories of the layers have {size} bytes, more than the limit of {MAX_STACK}");
        return Outcome::Failed(Coverage::new(CoverageState::TooLarge, reason));
    }
    let marks = stack.inventories.iter().all(|row| row.marks);
    let inputs = inputs(stack.inventories.iter().map(|row| (&row.digest, row.marks)));
    let decode = |row: &InventoryRow| Inventory::decode(&decompress(&row.compressed, MAX_INVENTORY)?);
    let inventories: Vec<Inventory> = match stack.inventories.iter().map(decode).collect() {
        Ok(inventories) => inventories,
        Err(error) => return Outcome::Failed(Coverage::failed(error.to_string())),
    };
    let inventories: Vec<&Inventory> = inventories.iter().collect();
    let catalogers = inventories.iter().map(|inventory| inventory.catalogers).min().unwrap_or(catalog::VERSION);
    let mut merged = merge(&inventories, catalog::KNOWN, &Answers::default());
    // A single layer hides nothing below it.
    let doubtful = if marks || inventories.len() < 2 { Vec::new() } else { std::mem::take(&mut merged.doubtful) };
    let mut undecided = Vec::new();
    if !merged.unread.is_empty() || !doubtful.is_empty() {
        let Some(reported) = &stack.answers else {
            return Outcome::Check(v1::Check {
                stack: stack.id.0.to_vec(),
                unread: merged.unread.into_iter().map(|unread| unread.path).collect(),
                doubtful,
            });
        };
        // Answers to paths that were not requested are ignored; requested paths without an answer stay undecided.
        let hidden = reported.hidden.iter().filter(|path| doubtful.contains(path)).cloned().collect();
        let is_undecided = |path: &&Vec<u8>| reported.undecided.iter().any(|undecided| undecided.path == **path);
        undecided = doubtful.iter().filter(is_undecided).cloned().collect();
        let is_requested = |path: &Vec<u8>| merged.unread.iter().any(|unread| unread.path == *path);
        let facts = reported.answers.iter().filter(|answer| is_requested(&answer.path)).map(|answer| {
            let fact = match &answer.read {
                Some(v1::answer::Read::Fact(bytes)) => Fact::decode(bytes).map_err(|error| error.to_string()),
                Some(v1::answer::Read::Error(error)) => Err(error.clone()),
                None => Err("the node did not report it".to_owned()),
            };
            (answer.path.clone(), fact)
        });
        let answers = Answers { facts: facts.collect(), hidden };
        merged = merge(&inventories, catalog::KNOWN, &answers);
    }
    let coverage = merged.coverage(&undecided);
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
    }))
}

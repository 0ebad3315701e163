//! A stack's inventories and answers → what is kept of it: pure.

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, decompress};
use outcrop_proto::wire::{MAX_INVENTORY, v1};
use outcrop_proto::{Answers, Coverage, CoverageState, Digest, Fact, LayerId, merge};

use crate::export::purl;
use crate::store::{InventoryRow, MergedPackage, MergedStack, inputs};

/// Most bytes of a stack's inventories, not compressed, all layers together. A table of a million paths has some ten MiB.
const MAX_STACK: usize = 256 << 20;

/// A stack to merge.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) id: Digest,
    /// Newest first, as the inventories.
    pub(super) layers: Vec<LayerId>,
    pub(super) inventories: Vec<InventoryRow>,
    /// What a node answered, if one was asked.
    pub(super) answers: Option<v1::Answers>,
}

/// What comes of merging.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A node has to decide something first.
    Ask(v1::Check),
    /// What is kept.
    Done(Box<MergedStack>),
    /// It cannot be merged.
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
        let Some(said) = &stack.answers else {
            return Outcome::Ask(v1::Check {
                stack: stack.id.0.to_vec(),
                unread: merged.unread.into_iter().map(|unread| unread.path).collect(),
                doubtful,
            });
        };
        // What nobody asked is not taken from an answer, and what was not answered stays open.
        let hidden = said.hidden.iter().filter(|path| doubtful.contains(path)).cloned().collect();
        let open = |path: &&Vec<u8>| said.undecided.iter().any(|undecided| undecided.path == **path);
        undecided = doubtful.iter().filter(open).cloned().collect();
        let asked = |path: &Vec<u8>| merged.unread.iter().any(|unread| unread.path == *path);
        let facts = said.answers.iter().filter(|answer| asked(&answer.path)).map(|answer| {
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

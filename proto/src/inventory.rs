//! Everything that was read from one layer, and its canonical encoding.
//!
//! The encoding is the same in the worker's pipe, on the wire and in the store. Its digest is computed before compression and covers the
//! layer's content only: the node that read it, its rights and its cage are recorded beside it.

use std::collections::BTreeMap;

use crate::budget::{Budget, OverBudget};
use crate::codec::{DecodeError, Reader, Writer};
use crate::digest::Digest;
use crate::fact::{Fact, FileDigest, read_file_digest, write_file_digest};
use crate::paths::{PathTable, is_relative};

/// First bytes of an encoded inventory: name and version of the format.
const MAGIC: &[u8] = b"outcrop.inventory.1\n";

/// Compression level of zstd: a third of the default level's time for four percent more bytes.
const ZSTD_LEVEL: i32 = 1;

/// A piece of evidence that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceRecord {
    /// Path in the layer, without a leading slash.
    pub path: Vec<u8>,
    /// The cataloger that read it.
    pub cataloger: String,
    /// Whether it is a package database.
    pub database: bool,
    /// Digest of the encoding of the [`Fact`] that it yielded.
    pub fact: Digest,
    /// Digest of the file's bytes, where a database of the same layer claims the file; by the algorithm of the claim.
    pub digest: Option<FileDigest>,
    /// The other members of its group, each with whether this layer has it. Those that the layer has were read together with it.
    pub companions: Vec<(Vec<u8>, bool)>,
}

/// A path that a cataloger wants and that yielded nothing: it still hides the same path of older layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Path in the layer, without a leading slash.
    pub path: Vec<u8>,
    /// The cataloger that wanted it.
    pub cataloger: String,
    /// Whether it is a package database.
    pub database: bool,
    /// Reason why it yielded nothing; empty where the file names no package.
    pub reason: String,
}

/// Everything that was read from one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Version of the set of catalogers.
    pub catalogers: u32,
    /// Every path of the layer.
    pub paths: PathTable,
    /// Evidence that was read, sorted by path.
    pub evidence: Vec<EvidenceRecord>,
    /// Facts of the evidence, by the digest of their encoding.
    pub facts: BTreeMap<Digest, Fact>,
    /// Wanted paths that yielded nothing, sorted by path.
    pub tombstones: Vec<Tombstone>,
    /// Directories that could not be walked, each with the reason, sorted by path.
    pub unwalked: Vec<(Vec<u8>, String)>,
    /// Number of parts that this version does not know: those of a later version, and packages of a later type. They are skipped. Not
    /// encoded.
    pub unknown: u32,
}

impl Inventory {
    /// Stores a fact under its digest.
    pub fn add_fact(&mut self, mut fact: Fact) -> Digest {
        fact.normalize();
        let digest = Digest::of(&fact.encode());
        self.facts.insert(digest, fact);
        digest
    }

    /// Sorts the lists into their canonical order.
    pub fn normalize(&mut self) {
        self.evidence.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.tombstones.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.unwalked.sort_unstable();
    }

    /// Returns the canonical encoding, not compressed. The inventory must be [normalized](Self::normalize).
    pub fn encode(&self) -> Vec<u8> {
        let Self { catalogers, paths, evidence, facts, tombstones, unwalked, unknown: _ } = self;
        let mut w = Writer(MAGIC.to_vec());
        w.number(u64::from(*catalogers));
        paths.write(&mut w);
        w.list(evidence, |w, record| {
            w.bytes(&record.path);
            w.bytes(record.cataloger.as_bytes());
            w.byte(u8::from(record.database));
            w.0.extend_from_slice(&record.fact.0);
            write_file_digest(w, record.digest.as_ref());
            w.list(&record.companions, |w, (path, present)| {
                w.bytes(path);
                w.byte(u8::from(*present));
            });
        });
        w.number(facts.len() as u64);
        facts.values().for_each(|fact| w.bytes(&fact.encode()));
        w.list(tombstones, |w, tombstone| {
            w.bytes(&tombstone.path);
            w.bytes(tombstone.cataloger.as_bytes());
            w.byte(u8::from(tombstone.database));
            w.bytes(tombstone.reason.as_bytes());
        });
        w.list(unwalked, |w, (path, reason)| {
            w.bytes(path);
            w.bytes(reason.as_bytes());
        });
        w.0
    }

    /// Decodes an encoding by [`Self::encode`], and spends `budget` for it.
    ///
    /// # Errors
    /// When the bytes are truncated, of another version, not canonical, or refer to a fact that they do not contain; and when the inventory
    /// takes more memory or work than the budget has.
    pub fn decode(bytes: &[u8], budget: &mut Budget) -> Result<Self, DecodeError> {
        let encoding = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Format("encoded inventory"))?;
        Reader::spend(encoding, budget, Self::read)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let catalogers = u32::try_from(r.number()?).map_err(|_| r.invalid("cataloger version"))?;
        let paths = PathTable::read(r)?;
        let evidence = r.list(|r| {
            Ok(EvidenceRecord {
                path: r.path()?,
                cataloger: r.string()?,
                database: r.flag()?,
                fact: Digest(r.array()?),
                digest: read_file_digest(r)?,
                companions: r.list(|r| Ok((r.path()?, r.flag()?)))?,
            })
        })?;
        let mut facts = BTreeMap::new();
        let mut last = None;
        let mut unknown = 0_u32;
        for bytes in r.list(Reader::bytes)? {
            let digest = Digest::of(bytes);
            if last.is_some_and(|last| last >= digest) {
                return Err(r.invalid("order of facts"));
            }
            last = Some(digest);
            r.budget.reserve(2 * size_of::<(Digest, Fact)>())?;
            let fact = Fact::decode(bytes, &mut r.budget)?;
            unknown = unknown.saturating_add(fact.unknown);
            facts.insert(digest, fact);
        }
        let tombstones = r.list(|r| {
            Ok(Tombstone { path: r.path()?, cataloger: r.string()?, database: r.flag()?, reason: r.string()? })
        })?;
        let unwalked = r.list(|r| Ok((r.path()?, r.string()?)))?;
        let valid = evidence.is_sorted_by(|a, b| a.path < b.path)
            && evidence.iter().all(|record| is_relative(&record.path) && facts.contains_key(&record.fact))
            && tombstones.is_sorted_by(|a, b| a.path < b.path)
            && unwalked.is_sorted();
        if !valid {
            return Err(r.invalid("order or reference"));
        }
        unknown = unknown.saturating_add(r.unknown_parts()?);
        r.end()?;
        Ok(Self { catalogers, paths, evidence, facts, tombstones, unwalked, unknown })
    }

    /// Returns the digest of the canonical encoding without overlay's opaque marks, which a node gets that cannot read the marks. `digest` is
    /// the digest with them.
    ///
    /// Files that are only by their marks known to be stubs (`metacopy`) or whiteouts are not considered: unpacked images do not have them.
    ///
    /// # Errors
    /// When a second path table exceeds the budget.
    pub fn digest_without_marks(mut self, digest: Digest, budget: &mut Budget) -> Result<Digest, OverBudget> {
        budget.step(self.paths.len())?;
        budget.reserve(self.paths.size())?;
        let Some(paths) = self.paths.without_marks() else { return Ok(digest) };
        self.paths = paths;
        Ok(self.digest())
    }

    /// Removes overlay's opaque marks: all directories are merged with those below them.
    ///
    /// # Errors
    /// When a second path table exceeds the budget.
    pub fn remove_marks(&mut self, budget: &mut Budget) -> Result<(), OverBudget> {
        budget.step(self.paths.len())?;
        if let Some(paths) = self.paths.without_marks() {
            budget.reserve(paths.size())?;
            budget.release(std::mem::replace(&mut self.paths, paths).size());
        }
        Ok(())
    }

    /// Returns the digest of the canonical encoding; two readers of one layer get the same.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

/// Compresses an encoding for the wire or the store.
///
/// # Errors
/// When memory is short.
pub fn compress(encoding: &[u8]) -> Result<Vec<u8>, DecodeError> {
    zstd::bulk::compress(encoding, ZSTD_LEVEL).map_err(|error| DecodeError::Compression(error.to_string()))
}

/// Maximum ratio of the size of an encoding to its compressed size. Path tables, the largest part, reach 10.
const MAX_RATIO: usize = 256;

/// Size up to which every ratio is accepted, bytes.
const ANY_RATIO: usize = 1 << 20;

/// Largest window that a decoder keeps, as a power of two. Encoders of inventories use 19; zstd's own limit of 27 takes 128 MiB.
const WINDOW_LOG: u32 = 23;

/// Undoes [`compress`]. The memory of the encoding is reserved in `budget`; [release](Budget::release) it when the encoding is dropped.
///
/// # Errors
/// When the bytes are not zstd, need a window larger than 8 MiB, decompress to more than 256 times their size, or exceed the budget.
pub fn decompress(bytes: &[u8], budget: &mut Budget) -> Result<Vec<u8>, DecodeError> {
    // The size in the frame's header is not used for reservation: a small message could claim the whole limit.
    use std::io::Read as _;
    let fail = |error: std::io::Error| DecodeError::Compression(error.to_string());
    let by_ratio = bytes.len().saturating_mul(MAX_RATIO).max(ANY_RATIO);
    let limit = by_ratio.min(budget.bytes_left());
    let mut out = Vec::new();
    let mut decoder = zstd::Decoder::new(bytes).map_err(fail)?;
    decoder.window_log_max(WINDOW_LOG).map_err(fail)?;
    decoder.take(limit as u64 + 1).read_to_end(&mut out).map_err(fail)?;
    budget.reserve(out.len())?;
    if out.len() > by_ratio {
        return Err(DecodeError::Compression(format!("more than {MAX_RATIO} times the size of {} bytes", bytes.len())));
    }
    Ok(out)
}

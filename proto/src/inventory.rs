//! What one layer says.
//!
//! The canonical encoding is the same in the pipe, on the wire and in the store. Its digest is taken before compression
//! and covers only what the layer holds: who read it, with which rights and in which cage, lies beside it.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader, Writer};
use crate::digest::Digest;
use crate::fact::{Fact, FileDigest, read_file_digest, write_file_digest};
use crate::paths::{PathTable, is_relative};

/// First bytes of an encoded inventory: name and version of the format.
const MAGIC: &[u8] = b"outcrop.inventory.1\n";

/// Compression level: a third of the time of zstd's default for four per cent more bytes.
const ZSTD_LEVEL: i32 = 1;

/// An evidence that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceRecord {
    /// Where it lies.
    pub path: Vec<u8>,
    /// The cataloguer that read it.
    pub cataloguer: String,
    /// Whether it is a package database.
    pub database: bool,
    /// The [`Fact`] that it yielded, by the digest of its encoding.
    pub fact: Digest,
    /// Digest of the file's own bytes, where a database of the same layer claims the file, by the algorithm claimed.
    pub digest: Option<FileDigest>,
    /// The other members of its group, each with whether this layer has it. Only those that it has were read with it.
    pub companions: Vec<(Vec<u8>, bool)>,
}

/// A path that was wanted and yielded nothing: it still hides what older layers have there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Where it lies.
    pub path: Vec<u8>,
    /// The cataloguer that wanted it.
    pub cataloguer: String,
    /// Whether it is a package database.
    pub database: bool,
    /// Why it yielded nothing; empty when it simply holds no package.
    pub reason: String,
}

/// What one layer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Version of the set of cataloguers.
    pub cataloguers: u32,
    /// Every path of the layer.
    pub paths: PathTable,
    /// What was read, by path.
    pub evidence: Vec<EvidenceRecord>,
    /// What it said.
    pub facts: BTreeMap<Digest, Fact>,
    /// What was wanted and yielded nothing, by path.
    pub tombstones: Vec<Tombstone>,
    /// Directories that could not be walked, with the reason, by path.
    pub unwalked: Vec<(Vec<u8>, String)>,
}

impl Inventory {
    /// Stores a fact under its digest.
    pub fn add_fact(&mut self, mut fact: Fact) -> Digest {
        fact.normalize();
        let digest = Digest::of(&fact.encode());
        self.facts.insert(digest, fact);
        digest
    }

    /// Brings the lists into their one order.
    pub fn normalize(&mut self) {
        self.evidence.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.tombstones.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.unwalked.sort_unstable();
    }

    /// The one encoding of this inventory, not compressed. The inventory has to be [normalized](Self::normalize).
    pub fn encode(&self) -> Vec<u8> {
        let Self { cataloguers, paths, evidence, facts, tombstones, unwalked } = self;
        let mut w = Writer(MAGIC.to_vec());
        w.number(u64::from(*cataloguers));
        paths.write(&mut w);
        w.list(evidence, |w, record| {
            w.bytes(&record.path);
            w.bytes(record.cataloguer.as_bytes());
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
            w.bytes(tombstone.cataloguer.as_bytes());
            w.byte(u8::from(tombstone.database));
            w.bytes(tombstone.reason.as_bytes());
        });
        w.list(unwalked, |w, (path, reason)| {
            w.bytes(path);
            w.bytes(reason.as_bytes());
        });
        w.0
    }

    /// Decodes what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else: cut short, of another version, not canonical, or without a fact that they name.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes.strip_prefix(MAGIC).ok_or(DecodeError::Format("encoded inventory"))?);
        let cataloguers = u32::try_from(r.number()?).map_err(|_| r.invalid("cataloguer version"))?;
        let paths = PathTable::read(&mut r)?;
        let evidence = r.list(|r| {
            Ok(EvidenceRecord {
                path: r.bytes()?.to_vec(),
                cataloguer: r.string()?,
                database: r.flag()?,
                fact: Digest(r.array()?),
                digest: read_file_digest(r)?,
                companions: r.list(|r| Ok((r.bytes()?.to_vec(), r.flag()?)))?,
            })
        })?;
        let mut facts = BTreeMap::new();
        let mut last = None;
        for bytes in r.list(Reader::bytes)? {
            let digest = Digest::of(bytes);
            if last.is_some_and(|last| last >= digest) {
                return Err(r.invalid("order of facts"));
            }
            last = Some(digest);
            facts.insert(digest, Fact::decode(bytes)?);
        }
        let tombstones = r.list(|r| {
            Ok(Tombstone {
                path: r.bytes()?.to_vec(),
                cataloguer: r.string()?,
                database: r.flag()?,
                reason: r.string()?,
            })
        })?;
        let unwalked = r.list(|r| Ok((r.bytes()?.to_vec(), r.string()?)))?;
        let valid = evidence.is_sorted_by(|a, b| a.path < b.path)
            && evidence.iter().all(|record| is_relative(&record.path) && facts.contains_key(&record.fact))
            && tombstones.is_sorted_by(|a, b| a.path < b.path)
            && unwalked.is_sorted();
        if !valid {
            return Err(r.invalid("order or reference"));
        }
        r.end()?;
        Ok(Self { cataloguers, paths, evidence, facts, tombstones, unwalked })
    }

    /// Digest of the canonical encoding: two readers of one layer agree on it.
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

/// Undoes [`compress`], to at most `limit` bytes.
///
/// # Errors
/// When the bytes are not zstd, or hold more than `limit`.
pub fn decompress(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    // The frame's own word on its size is only a hint, so that a small message cannot claim the whole limit at once.
    use std::io::Read as _;
    let fail = |error: std::io::Error| DecodeError::Compression(error.to_string());
    let mut out = Vec::new();
    zstd::Decoder::new(bytes).map_err(fail)?.take(limit as u64 + 1).read_to_end(&mut out).map_err(fail)?;
    if out.len() > limit {
        return Err(DecodeError::Compression(format!("more than {limit} bytes")));
    }
    Ok(out)
}

//! Reads one layer into an inventory, and paths of a stack into facts. Everything here runs in the cage.
//!
//! The walk comes first and looks at names only; it may have the capability to see overlay's marks. The worker drops that capability before
//! it reads the first byte of a file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use outcrop_proto::fact::{Fact, FileDigest};
use outcrop_proto::inventory::{EvidenceRecord, Inventory, Tombstone};
use outcrop_proto::paths::{Node, PathTableBuilder};
use overlayfs_reader::{ErrorKind, Kind, Layer, LayerReader, Options, Stack, Stub};
use rustix::thread::CapabilitySet;

use super::cage;
use super::job::{Caution, Frame, Work};
use super::pipe::Pipe;
use super::politeness::{LayerLimits, Manner, Refusal, Throttle};
use super::source::{self, FileSource};
use crate::catalog::{self, Cataloger, Evidence, Source, Want};

/// Maximum number of files that stay open between the check of their marks and their parsing; further files are opened twice.
const MAX_HELD: usize = 512;

/// A path that a cataloger wants.
struct Candidate {
    path: Vec<u8>,
    cataloger: &'static dyn Cataloger,
    state: State,
}

/// State of a candidate before parsing.
enum State {
    /// Not open yet.
    Closed,
    /// Open.
    Open(File),
    /// Must not be parsed, for this reason.
    Refused(String),
}

/// Returns the cataloger that wants `path`.
fn wanted(path: &[u8]) -> Option<(&'static dyn Cataloger, Want)> {
    catalog::ALL.iter().map(|cataloger| (*cataloger, cataloger.wants(path))).find(|(_, want)| *want != Want::No)
}

/// Reads one layer.
pub(super) fn layer(
    root: OwnedFd,
    mut options: Options,
    caution: &Caution,
    manner: &Manner,
    pipe: &mut Pipe,
) -> Result<Vec<u8>, Refusal> {
    let throttle = Throttle::new(manner.share);
    let limits = &manner.limits;
    options.limits.entries = limits.files;
    options.limits.directory_entries = options.limits.directory_entries.min(limits.files);
    let reader = LayerReader::new(Layer::from_fd(root)?, options);
    let mut inventory = Inventory { catalogers: catalog::VERSION, ..Inventory::default() };
    let (mut candidates, paths) = walk(&reader, &mut inventory, limits, &throttle)?;
    let evidence_files = candidates.len() as u64;
    // Databases first: what they claim decides which digests are taken.
    candidates.sort_by_key(|candidate| !reads_claims(candidate));
    for (number, candidate) in candidates.iter_mut().enumerate() {
        candidate.state = look(&reader, &candidate.path, number < MAX_HELD, caution);
    }
    cage::keep_capabilities(CapabilitySet::DAC_READ_SEARCH)?;

    let mut claimed: HashMap<Vec<u8>, FileDigest> = HashMap::new();
    let mut candidates = candidates.into_iter().peekable();
    while candidates.peek().is_some() {
        let group: Vec<Candidate> = candidates.by_ref().take(caution.group()).collect();
        name(group.iter().map(|candidate| candidate.path.as_slice()), pipe)?;
        for Candidate { path, cataloger, state } in group {
            let read = match state {
                State::Refused(reason) => Err(reason),
                State::Open(file) => read_one(&path, cataloger, file, &|path| reader.open(path)),
                State::Closed => reader
                    .open(&path)
                    .map_err(|error| error.to_string())
                    .and_then(|file| read_one(&path, cataloger, file, &|path| reader.open(path))),
            };
            record(path, cataloger, read, &mut claimed, &mut inventory);
            if source::bytes_read() > limits.evidence_bytes {
                return Err(too_large(limits.evidence_bytes, "bytes would have to be read of its evidence"));
            }
            throttle.pause();
        }
    }
    inventory.normalize();
    Frame::Work(Work { paths, evidence_files, evidence_bytes: source::bytes_read() }).write(pipe)?;
    Ok(inventory.encode())
}

fn too_large(limit: u64, what: &str) -> Refusal {
    Refusal::TooLarge(format!("more than {limit} {what}"))
}

/// Checks a candidate while marks can be read.
fn look(reader: &LayerReader, path: &[u8], hold: bool, caution: &Caution) -> State {
    if caution.skip.iter().any(|skip| skip == path) {
        return State::Refused("the worker died while reading it".to_owned());
    }
    let looked = if hold {
        reader.open(path).map(State::Open)
    } else {
        let refused = |stub: Option<Stub>| stub.map_or(State::Closed, |stub| State::Refused(stub.to_string()));
        reader.stub(path).map(refused)
    };
    looked.unwrap_or_else(|error| State::Refused(error.to_string()))
}

/// Announces the paths that are parsed next, so that the parent knows what killed the worker.
fn name<'a>(paths: impl Iterator<Item = &'a [u8]>, pipe: &mut Pipe) -> Result<(), String> {
    Frame::Paths(paths.map(<[u8]>::to_vec).collect()).write(pipe).map_err(|error| error.to_string())
}

/// Adds the result of a piece of evidence to the inventory.
fn record(
    path: Vec<u8>,
    cataloger: &dyn Cataloger,
    read: Result<Read, String>,
    claimed: &mut HashMap<Vec<u8>, FileDigest>,
    inventory: &mut Inventory,
) {
    let database = cataloger.is_database(&path);
    let cataloger = cataloger.name().to_owned();
    match read {
        Ok(Read { fact, companions, source }) if !fact.is_empty() => {
            for claim in &fact.claims {
                if let Some(digest) = &claim.digest {
                    claimed.insert(claim.path.clone(), digest.clone());
                }
            }
            let claim = claimed.get(&path).or_else(|| claimed.get(path.strip_prefix(b"usr/")?));
            let digest = claim.and_then(|claim| digest_like(claim, &source).ok());
            let fact = inventory.add_fact(fact);
            inventory.evidence.push(EvidenceRecord { path, cataloger, database, fact, digest, companions });
        }
        Ok(_) => inventory.tombstones.push(Tombstone { path, cataloger, database, reason: String::new() }),
        Err(reason) => inventory.tombstones.push(Tombstone { path, cataloger, database, reason }),
    }
}

/// Returns whether a candidate may claim files: then it is read before them.
fn reads_claims(candidate: &Candidate) -> bool {
    matches!(candidate.cataloger.name(), "dpkg" | "apk" | "rpm")
}

/// Walks the layer: every path goes into the table, every path that a cataloger wants into the list. Returns the list and the number of paths.
fn walk(
    reader: &LayerReader,
    inventory: &mut Inventory,
    limits: &LayerLimits,
    throttle: &Throttle,
) -> Result<(Vec<Candidate>, u64), Refusal> {
    /// Reading the clock costs as much as visiting some entries.
    const ENTRIES_BETWEEN_PAUSES: u64 = 512;
    let mut met = 0_u64;
    let mut table = PathTableBuilder::default();
    let mut candidates = Vec::new();
    let mut failure = None;
    let mut errors: Vec<(Vec<u8>, String)> = Vec::new();
    let end = reader.walk(&mut |entry| {
        let path = entry.path();
        if path.is_empty() {
            return ControlFlow::Continue(());
        }
        let target;
        let node = match entry.kind() {
            Kind::File => Node::File,
            Kind::Dir => Node::Dir { opaque: entry.is_opaque() },
            Kind::Whiteout => Node::Whiteout,
            Kind::Symlink => match entry.read_link() {
                Ok(link) => {
                    target = link;
                    Node::Symlink(&target)
                }
                Err(error) => {
                    errors.push((path.to_vec(), error.to_string()));
                    Node::Other
                }
            },
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => Node::Other,
        };
        table.push(path, &node);
        if node == Node::File
            && let Some((cataloger, want)) = wanted(path)
        {
            let executable = || entry.metadata().is_ok_and(|metadata| metadata.mode & 0o111 != 0);
            if want == Want::Yes || executable() {
                candidates.push(Candidate { path: path.to_vec(), cataloger, state: State::Closed });
            }
        }
        if table.size() as u64 > limits.path_bytes {
            failure = Some(too_large(limits.path_bytes, "bytes are its paths"));
        } else if candidates.len() as u64 > limits.evidence_files {
            failure = Some(too_large(limits.evidence_files, "of its files could be evidence"));
        }
        met += 1;
        if met.is_multiple_of(ENTRIES_BETWEEN_PAUSES) {
            throttle.pause();
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let end = end.map_err(|error| match error.kind() {
        ErrorKind::Limit(..) => Refusal::TooLarge(error.to_string()),
        _ => Refusal::from(error),
    })?;
    errors.extend(end.errors.into_iter().map(|error| (error.path().to_vec(), error.to_string())));
    inventory.unwalked = errors;
    inventory.paths = table.finish();
    Ok((candidates, met))
}

/// Result of reading a piece of evidence.
struct Read {
    fact: Fact,
    companions: Vec<(Vec<u8>, bool)>,
    source: FileSource,
}

/// Opens a path.
type Open<'a> = &'a dyn Fn(&[u8]) -> Result<File, overlayfs_reader::Error>;

/// Reads one piece of evidence, open as `file`, with its companions.
fn read_one(path: &[u8], cataloger: &dyn Cataloger, file: File, open: Open<'_>) -> Result<Read, String> {
    let source = FileSource::new(file).map_err(|error| error.to_string())?;
    let mut others = Vec::new();
    let mut companions = Vec::new();
    for companion in cataloger.companions(path) {
        let found = match open(&companion) {
            Ok(file) => Some(FileSource::new(file).map_err(|error| error.to_string())?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.to_string()),
        };
        companions.push((companion.clone(), found.is_some()));
        others.extend(found.map(|found| (companion, found)));
    }
    let group: Vec<(&[u8], &dyn Source)> = others.iter().map(|(path, source)| (path.as_slice(), source as _)).collect();
    let read = cataloger.read(&Evidence { path, source: &source, companions: &group });
    for file in others.iter().map(|(_, other)| other).chain([&source]) {
        if file.was_written().map_err(|error| error.to_string())? {
            return Err("the file changed while it was read".to_owned());
        }
    }
    let mut fact = read.map_err(|error| error.to_string())?;
    fact.normalize();
    Ok(Read { fact, companions, source })
}

/// Returns the digest of a file by the algorithm of `claim`.
fn digest_like(claim: &FileDigest, source: &dyn Source) -> io::Result<FileDigest> {
    fn run<D: sha2::Digest>(source: &dyn Source) -> io::Result<sha2::digest::Output<D>> {
        let mut hasher = D::new();
        let mut buffer = vec![0; 64 << 10];
        let mut offset = 0;
        loop {
            let count = source.read_at(offset, &mut buffer)?;
            hasher.update(&buffer[..count]);
            offset += count as u64;
            if count < buffer.len() {
                return Ok(hasher.finalize());
            }
        }
    }
    Ok(match claim {
        FileDigest::Md5(_) => FileDigest::Md5(run::<md5::Md5>(source)?.into()),
        FileDigest::Sha1(_) => FileDigest::Sha1(run::<sha1::Sha1>(source)?.into()),
        FileDigest::Sha256(_) => FileDigest::Sha256(run::<sha2::Sha256>(source)?.into()),
    })
}

/// Results of reading a stack: for each path the encoded fact, or the reason.
pub(super) type StackAnswer = Vec<(Vec<u8>, Result<Vec<u8>, String>)>;

/// Reads paths in the merged view of a stack.
pub(super) fn stack(
    handles: Vec<OwnedFd>,
    options: Options,
    caution: &Caution,
    manner: &Manner,
    paths: &[Vec<u8>],
    pipe: &mut Pipe,
) -> Result<Vec<u8>, String> {
    let throttle = Throttle::new(manner.share);
    let layers: Result<Vec<Layer>, _> = handles.into_iter().map(Layer::from_fd).collect();
    let stack = Stack::new(layers.map_err(|error| error.to_string())?, None, options);
    // Opened while marks can be seen, parsed when they no longer can.
    let opened: RefCell<HashMap<Vec<u8>, Result<File, overlayfs_reader::Error>>> = RefCell::default();
    let resolve = |path: &[u8]| stack.resolve(path).and_then(|resolved| stack.open(&resolved));
    for path in paths {
        let others = wanted(path).map(|(cataloger, _)| cataloger.companions(path)).unwrap_or_default();
        for path in others.into_iter().chain([path.clone()]) {
            let file = resolve(&path);
            opened.borrow_mut().insert(path, file);
        }
    }
    cage::keep_capabilities(CapabilitySet::DAC_READ_SEARCH).map_err(|error| error.to_string())?;
    let open =
        |path: &[u8]| opened.borrow_mut().remove(path).unwrap_or_else(|| Err(overlayfs_reader::Error::not_found(path)));
    let mut answer: StackAnswer = Vec::new();
    for group in paths.chunks(caution.group()) {
        name(group.iter().map(Vec::as_slice), pipe)?;
        for path in group {
            let read = match wanted(path) {
                None => Err("no cataloger reads this path".to_owned()),
                Some(_) if caution.skip.contains(path) => Err("the worker died while reading it".to_owned()),
                Some((cataloger, _)) => open(path)
                    .map_err(|error| error.to_string())
                    .and_then(|file| read_one(path, cataloger, file, &open))
                    .map(|read| read.fact.encode()),
            };
            answer.push((path.clone(), read));
            throttle.pause();
        }
    }
    postcard::to_stdvec(&answer).map_err(|error| error.to_string())
}

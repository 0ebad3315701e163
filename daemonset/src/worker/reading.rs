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
use std::time::Duration;

use outcrop_proto::fact::{Fact, FileDigest};
use outcrop_proto::inventory::{EvidenceRecord, Inventory, Tombstone};
use outcrop_proto::merge::LAYER_LIMIT;
use outcrop_proto::paths::{Node, PathTableBuilder};
use outcrop_proto::{Digest, MAX_PATH};
use overlayfs_reader::{ErrorKind, Kind, Layer, LayerReader, Options, Stack, Stub};
use rustix::thread::CapabilitySet;

use super::cage;
use super::job::{Caution, Frame, Work};
use super::pipe::Pipe;
use super::politeness::{LayerLimits, Manner, Refusal, Throttle};
use super::source::{self, FileSource};
use crate::catalog::{self, Cataloger, Evidence, Source, Want};
use crate::usage;

/// Maximum number of files that stay open between the check of their marks and their parsing; further files are opened twice.
const MAX_HELD: usize = 512;

/// Memory that the facts of a layer may take together once they are decoded, bytes: some 50,000 packages. Whoever merges the layer keeps
/// more for it; see [`outcrop_proto::Budget`].
const MAX_FACT_BYTES: usize = 32 << 20;

/// Processor time after which a file is slow: it is not read again under another name.
const SLOW: Duration = Duration::from_secs(2);

/// Processor time after which no further evidence of a layer is read. The kernel kills a worker that uses half as much again.
const MAX_LAYER_TIME: Duration = Duration::from_secs(80);

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
    candidates.sort_by_key(|candidate| turn(candidate.cataloger));
    for (number, candidate) in candidates.iter_mut().enumerate() {
        candidate.state = look(&reader, candidate, number < MAX_HELD, caution);
    }
    cage::keep_capabilities(CapabilitySet::DAC_READ_SEARCH)?;

    let mut costs = Costs::new(caution, |path| reader.open(path).ok());
    let mut claimed: HashMap<Vec<u8>, FileDigest> = HashMap::new();
    let mut candidates = candidates.into_iter().peekable();
    while candidates.peek().is_some() {
        let group: Vec<Candidate> = candidates.by_ref().take(caution.group()).collect();
        name(group.iter().map(|candidate| candidate.path.as_slice()), pipe)?;
        for Candidate { path, cataloger, state } in group {
            let file = match state {
                State::Refused(reason) => Err(reason),
                State::Open(file) => Ok(file),
                State::Closed => reader.open(&path).map_err(|error| error.to_string()),
            };
            let read = file.and_then(|file| {
                costs.spend(&path, file, |file| read_one(&path, cataloger, file, &|path| reader.open(path)))
            });
            record(path, cataloger, read, &mut claimed, &mut costs, &mut inventory);
            if source::bytes_read() > limits.evidence_bytes {
                return Err(too_large(limits.evidence_bytes, "bytes of evidence"));
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

/// Cost of the evidence of a layer, or of the paths of a stack, so far. A file that is too expensive is left out under all of its names; the
/// rest is read. Reasons that do not lie in the file itself begin with [`LAYER_LIMIT`].
struct Costs {
    /// Files that are not read under another name, by device and inode, each with the name under which it was read.
    slow: HashMap<(u64, u64), Vec<u8>>,
    /// Memory of the facts, bytes.
    facts: usize,
}

impl Costs {
    fn new(caution: &Caution, open: impl Fn(&[u8]) -> Option<File>) -> Self {
        let identity = |path: &Vec<u8>| Some((identity(&open(path)?).ok()?, path.clone()));
        Self { slow: caution.skip.iter().filter_map(identity).collect(), facts: 0 }
    }

    /// Reads a file unless that would cost too much, and records what it cost.
    fn spend(
        &mut self,
        path: &[u8],
        file: File,
        read: impl FnOnce(File) -> Result<Read, String>,
    ) -> Result<Read, String> {
        let identity = identity(&file).map_err(|error| error.to_string())?;
        if let Some(other) = self.slow.get(&identity) {
            return Err(format!("the same file as /{}, which takes too long to read", other.escape_ascii()));
        }
        let before = usage::cpu();
        if before > MAX_LAYER_TIME {
            return Err(format!("{LAYER_LIMIT} before this file took {} s of processor time", before.as_secs()));
        }
        let read = read(file);
        if usage::cpu().saturating_sub(before) > SLOW {
            self.slow.insert(identity, path.to_vec());
        }
        read
    }

    /// Adds the memory of a fact that no other evidence yielded.
    fn add_fact(&mut self, fact: &Fact) -> Result<(), String> {
        let bytes = fact.decoded_bytes();
        if self.facts + bytes > MAX_FACT_BYTES {
            return Err(format!("{LAYER_LIMIT} would take more than {MAX_FACT_BYTES} bytes"));
        }
        self.facts += bytes;
        Ok(())
    }
}

/// Returns the device and the inode of a file.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Checks a candidate while marks can be read.
fn look(reader: &LayerReader, candidate: &Candidate, hold: bool, caution: &Caution) -> State {
    let path = &candidate.path;
    if let Err(reason) = may_read(path, candidate.cataloger, caution) {
        return State::Refused(reason);
    }
    let looked = if hold {
        reader.open(path).map(State::Open)
    } else {
        let refused = |stub: Option<Stub>| stub.map_or(State::Closed, |stub| State::Refused(stub.to_string()));
        reader.stub(path).map(refused)
    };
    looked.unwrap_or_else(|error| State::Refused(error.to_string()))
}

/// Returns the reason why a path must not be read, after workers that died.
fn may_read(path: &[u8], cataloger: &dyn Cataloger, caution: &Caution) -> Result<(), String> {
    if caution.skip.iter().any(|skip| skip == path) {
        return Err("the worker died while reading it".to_owned());
    }
    if caution.essentials_only && cataloger.name() != OS_RELEASE && !cataloger.is_database(path) {
        return Err(format!("{LAYER_LIMIT} killed {} workers", caution.skip.len()));
    }
    Ok(())
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
    costs: &mut Costs,
    inventory: &mut Inventory,
) {
    let database = cataloger.is_database(&path);
    let cataloger = cataloger.name().to_owned();
    match read {
        Ok(Read { fact, companions, source }) if !fact.is_empty() => {
            let id = Digest::of(&fact.encode());
            if !inventory.facts.contains_key(&id)
                && let Err(reason) = costs.add_fact(&fact)
            {
                return inventory.tombstones.push(Tombstone { path, cataloger, database, reason });
            }
            for claim in &fact.claims {
                if let Some(digest) = &claim.digest {
                    claimed.insert(claim.path.clone(), digest.clone());
                }
            }
            let claim = claimed.get(&path).or_else(|| claimed.get(path.strip_prefix(b"usr/")?));
            let digest = claim.and_then(|claim| digest_like(claim, &source).ok());
            inventory.facts.insert(id, fact);
            inventory.evidence.push(EvidenceRecord { path, cataloger, database, fact: id, digest, companions });
        }
        Ok(_) => inventory.tombstones.push(Tombstone { path, cataloger, database, reason: String::new() }),
        Err(reason) => inventory.tombstones.push(Tombstone { path, cataloger, database, reason }),
    }
}

/// Name of the cataloger of `os-release`.
const OS_RELEASE: &str = "os-release";

/// Returns the place of a cataloger's evidence in the order of reading. `os-release` is first: it costs nothing, and no package is matched
/// without it. Databases are next: what they claim decides which digests are taken.
fn turn(cataloger: &dyn Cataloger) -> u8 {
    match cataloger.name() {
        OS_RELEASE => 0,
        "dpkg" | "apk" | "rpm" => 1,
        _ => 2,
    }
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
    let mut has_long = false;
    let end = reader.walk(&mut |entry| {
        let path = entry.path();
        if path.is_empty() {
            return ControlFlow::Continue(());
        }
        if path.len() > MAX_PATH {
            // One error tells of all of them: a layer may have millions.
            if !std::mem::replace(&mut has_long, true) {
                let reason = format!("paths of more than {MAX_PATH} bytes below it are not read");
                errors.push((cut_path(path), reason));
            }
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
            failure = Some(too_large(limits.path_bytes, "bytes of paths"));
        } else if candidates.len() as u64 > limits.evidence_files {
            failure = Some(too_large(limits.evidence_files, "evidence files"));
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
    errors.extend(end.errors.into_iter().map(|error| (cut_path(error.path()), error.to_string())));
    inventory.unwalked = errors;
    inventory.paths = table.finish();
    Ok((candidates, met))
}

/// Returns the path itself, or its deepest ancestor that is not longer than [`MAX_PATH`].
fn cut_path(path: &[u8]) -> Vec<u8> {
    let end = match path.get(..=MAX_PATH) {
        None => path.len(),
        Some(head) => head.iter().rposition(|byte| *byte == b'/').unwrap_or(0),
    };
    path[..end].to_vec()
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
    let mut costs = Costs::new(caution, |path| resolve(path).ok());
    let mut paths: Vec<&Vec<u8>> = paths.iter().collect();
    paths.sort_by_key(|path| wanted(path).map(|(cataloger, _)| turn(cataloger)));
    for path in paths.iter().copied() {
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
        name(group.iter().map(|path| path.as_slice()), pipe)?;
        for path in group.iter().copied() {
            let read = match wanted(path) {
                None => Err("no cataloger reads this path".to_owned()),
                Some((cataloger, _)) => may_read(path, cataloger, caution)
                    .and_then(|()| open(path).map_err(|error| error.to_string()))
                    .and_then(|file| costs.spend(path, file, |file| read_one(path, cataloger, file, &open)))
                    .and_then(|read| costs.add_fact(&read.fact).map(|()| read.fact.encode())),
            };
            answer.push((path.clone(), read));
            throttle.pause();
        }
    }
    postcard::to_stdvec(&answer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use overlayfs_reader::MarkNamespace;

    use super::*;

    #[test]
    fn after_too_many_deaths_only_databases_and_the_distribution_are_read() {
        let refused = |path: &[u8], caution: &Caution| may_read(path, wanted(path).unwrap().0, caution).err();
        let caution = Caution { skip: vec![b"a.jar".to_vec()], essentials_only: true, one_by_one: true };
        for path in [&b"etc/os-release"[..], b"var/lib/dpkg/status", b"lib/apk/db/installed"] {
            assert_eq!(refused(path, &caution), None);
        }
        for path in [&b"b.jar"[..], b"package.json", b"var/lib/dpkg/info/a.md5sums"] {
            let reason = refused(path, &caution).expect("not essential");
            assert!(reason.starts_with(LAYER_LIMIT), "{reason}");
            assert_eq!(refused(path, &Caution { essentials_only: false, ..caution.clone() }), None);
        }
        assert!(refused(b"a.jar", &Caution { essentials_only: false, ..caution }).is_some());
    }

    #[test]
    fn a_file_that_killed_a_worker_is_not_read_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jar"), "slow").unwrap();
        fs::hard_link(dir.path().join("a.jar"), dir.path().join("b.jar")).unwrap();
        fs::write(dir.path().join("c.jar"), "fast").unwrap();
        let reader = LayerReader::new(Layer::open(dir.path()).unwrap(), Options::detect(MarkNamespace::User));
        let caution = Caution { skip: vec![b"a.jar".to_vec()], ..Caution::default() };
        let mut costs = Costs::new(&caution, |path| reader.open(path).ok());
        let mut read = Vec::new();
        let mut spend = |name: &[u8]| {
            let nothing = |file: File| {
                read.push(name.to_vec());
                let source = FileSource::new(file).map_err(|error| error.to_string())?;
                Ok(Read { fact: Fact::default(), companions: Vec::new(), source })
            };
            costs.spend(name, reader.open(name).unwrap(), nothing).err()
        };
        let refused = spend(b"b.jar").expect("the same file under another name");
        assert!(refused.contains("/a.jar"), "{refused}");
        assert_eq!(spend(b"c.jar"), None);
        assert_eq!(read, [b"c.jar"]);
    }
}

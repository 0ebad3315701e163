//! The advisory database in use: accepts or refuses new files, and stores the accepted one.
//!
//! An accepted file is copied into the data directory under its digest. The copy stays in use if the watched file is damaged, removed or changed, and
//! after a restart. All functions block.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use outcrop_proto::{Digest, clock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::advisory::trust::{
    self, MAX_SHRINK_PERCENT, PublicKey, Regression, Signature, Signed, TrustError, regressions,
};
use crate::advisory::{Database, DatabaseError, SourceInfo};
use crate::lock::lock;
use crate::stamp::Stamp;
use crate::store::check_room;

/// Name of the file that records which copy is in use.
const RECORD: &str = "current.json";

/// Prefix of incomplete copies. Those that a crash has left are removed at the next start.
const INCOMING: &str = ".incoming-";

/// Requirements on a database.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Trusted keys.
    pub keys: Vec<PublicKey>,
    /// Whether a database without a signature is refused.
    pub require_signature: bool,
    /// Maximum size of a file, in bytes.
    pub max_size: u64,
    /// Maximum decrease of a source's number of records, in percent.
    pub max_shrink_percent: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self { keys: Vec::new(), require_signature: false, max_size: 4 << 30, max_shrink_percent: MAX_SHRINK_PERCENT }
    }
}

/// Why databases cannot be stored at all.
#[derive(Debug, thiserror::Error)]
pub enum AdvisoriesError {
    /// The directory could not be created.
    #[error("creating the directory for advisory databases {path}: {source}", path = .path.display())]
    Directory {
        /// The path of the directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A signature is required and no key is trusted.
    #[error("--require-signature is set but no key is trusted; pass --db-key KEY")]
    NoKey,
}

/// Why a database was refused. The previous one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The file could not be read.
    #[error("reading {file}: {source}", file = .file.display())]
    File {
        /// The path of the offered file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{file} is larger than the limit of {limit} bytes", file = .file.display())]
    TooLarge {
        /// The path of the offered file.
        file: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file was written or replaced while it was copied.
    #[error(
        "{file} changed while it was copied; write it under another name in the same directory, then rename it, as outcrop db build does",
        file = .0.display()
    )]
    Changing(PathBuf),
    /// The file is not an advisory database, or is damaged.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The file is not signed, but a signature is required.
    #[error("{file} is not signed, but --require-signature is set; sign it with minisign -S -m FILE, and keep FILE.minisig beside it", file = .0.display())]
    Unsigned(PathBuf),
    /// The signature is invalid or not trusted.
    #[error("verifying {file}: {reason}", file = .file.display())]
    Signature {
        /// The path of the offered file.
        file: PathBuf,
        /// The cause.
        reason: TrustError,
    },
    /// The database has fewer or older records than the one in use.
    #[error("refusing {file}: {}; if this is intended, run outcrop db push --allow-shrink FILE", list(.regressions), file = .file.display())]
    Shrinks {
        /// The path of the offered file.
        file: PathBuf,
        /// The differences; at least one.
        regressions: Vec<Regression>,
    },
    /// The copy could not be stored, for example because the volume is full.
    #[error("storing a copy in {path}: {source}", path = .path.display())]
    Keep {
        /// The directory of copies.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Refusal {
    /// Returns the refusal of a pushed file, whose path nobody outside of the aggregator knows.
    #[must_use]
    pub(super) fn of_pushed(mut self) -> Self {
        if let Self::File { file, .. }
        | Self::TooLarge { file, .. }
        | Self::Changing(file)
        | Self::Unsigned(file)
        | Self::Signature { file, .. }
        | Self::Shrinks { file, .. } = &mut self
        {
            *file = PathBuf::from("the pushed file");
        }
        self
    }
}

/// Returns the first regressions as text, and the number of further ones.
fn list(regressions: &[Regression]) -> String {
    let mut parts: Vec<String> = regressions.iter().take(3).map(ToString::to_string).collect();
    if let Some(more) = regressions.len().checked_sub(3).filter(|more| *more > 0) {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

/// The database in use. Its file exists as long as a clone of this value exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Digest of the file.
    pub digest: Digest,
    /// Path of the copy, which never changes.
    pub path: PathBuf,
    /// The caller who pushed it, or the path of the watched file.
    pub brought_by: String,
    /// When it was loaded.
    pub brought_at: jiff::Timestamp,
    /// ID of the key that signed it, if the signature was verified.
    pub signed_by: Option<Signed>,
    /// Its sources.
    pub sources: Vec<SourceInfo>,
}

impl Current {
    /// Returns the age in days of the newest record of all sources, or `None` if no source has a date.
    pub fn age_days(&self, today: jiff::civil::Date) -> Option<i64> {
        self.sources.iter().filter_map(|source| source.age_days(today)).min()
    }
}

/// An offered database.
struct Offered<'a> {
    file: &'a Path,
    /// Content of its `.minisig` file.
    signature: Option<&'a [u8]>,
    by: &'a str,
    allow_shrink: bool,
    /// Whether it is the watched file.
    watched: bool,
}

/// The result for an offered database that was not refused.
#[derive(Clone, Debug)]
pub enum Offer {
    /// It is in use already, or is a watched file that was loaded before and has been replaced by a pushed database since.
    Same,
    /// It is in use from now on.
    New(Arc<Current>),
}

/// `current.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    digest: String,
    file: String,
    brought_by: String,
    brought_at: jiff::Timestamp,
    signed_by: Option<String>,
    /// Digest of the last loaded watched file, so that a restart does not load it again over a database that was pushed later.
    #[serde(default)]
    watched: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Current>>,
    /// The watched file that was loaded last.
    watched: Option<Digest>,
    /// Earlier databases, which readers may still use.
    former: Vec<Weak<Current>>,
    refused: Option<String>,
    /// Stamps of the watched file and its signature at the last check.
    seen: Option<(PathBuf, Option<Stamp>, Option<Stamp>)>,
}

/// The store of advisory databases.
#[derive(Debug)]
pub struct Advisories {
    directory: PathBuf,
    policy: Policy,
    state: Mutex<State>,
    /// Held while a file is checked, so that one file is checked at a time. Reading the current database does not need it.
    offering: Mutex<()>,
}

/// Which files of the directory are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Copies that a crash left incomplete.
    Incomplete,
    /// Copies that are not in use, too.
    All,
}

/// A copy that is being written. Dropping it removes the file unless it was stored.
struct Incoming {
    copy: tempfile::NamedTempFile,
    digest: Digest,
}

impl Advisories {
    /// Opens the directory, or creates it, and loads the database that was in use. If that database is damaged, or the policy does not allow it any
    /// more, it is not used, and [`Self::refused`] returns the reason.
    ///
    /// # Errors
    /// When the directory cannot be used, or the policy requires signatures without a trusted key.
    pub fn open(directory: &Path, policy: Policy) -> Result<Self, AdvisoriesError> {
        if policy.require_signature && policy.keys.is_empty() {
            return Err(AdvisoriesError::NoKey);
        }
        let wrap = |source| AdvisoriesError::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(wrap)?;
        let opened =
            Self { directory: directory.to_owned(), policy, state: Mutex::default(), offering: Mutex::default() };
        match fs::read(directory.join(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrap(error)),
            Ok(bytes) => {
                let mut state = lock(&opened.state);
                match opened.take_up(&bytes) {
                    Ok((current, watched)) => (state.current, state.watched) = (Some(Arc::new(current)), watched),
                    Err(reason) => state.refused = Some(format!("the stored advisory database is not used: {reason}")),
                }
            }
        }
        // A refused copy stays until the next database is accepted, so that an operator can examine it. Incomplete copies never stay.
        opened.sweep(if opened.current().is_some() { Sweep::All } else { Sweep::Incomplete });
        Ok(opened)
    }

    /// Loads the database of `current.json` with the same checks as an offered one.
    fn take_up(&self, record: &[u8]) -> Result<(Current, Option<Digest>), String> {
        let damaged = |reason: &str| format!("{}: {reason}", self.directory.join(RECORD).display());
        let record: Record = serde_json::from_slice(record).map_err(|error| damaged(&error.to_string()))?;
        let digest: Digest = record.digest.parse().map_err(|_| damaged("no digest"))?;
        if record.file != file_name(&digest) {
            return Err(damaged("the file name does not match the digest"));
        }
        let path = self.directory.join(&record.file);
        let file = |error: io::Error| format!("{}: {error}", path.display());
        let mut hash = Sha256::new();
        let mut reader = File::open(&path).map_err(file)?;
        copy(&mut reader, u64::MAX, |piece| {
            hash.update(piece);
            Ok(())
        })
        .map_err(file)?;
        if Digest(hash.finalize().into()) != digest {
            return Err(file(io::Error::other("the content does not match the digest; the disk may be damaged")));
        }
        let signature = trust::signature_beside(&path).map_err(|error| error.to_string())?;
        let signed_by = self.verify(&path, &path, signature.as_deref()).map_err(|error| error.to_string())?;
        let database = Database::open(&path).map_err(|error| error.to_string())?;
        let sources = database.sources().map_err(|error| error.to_string())?;
        let watched = record.watched.and_then(|digest| digest.parse().ok());
        let Record { brought_by, brought_at, .. } = record;
        // A clock that was ahead may have written it.
        let brought_at = brought_at.min(clock::timestamp());
        Ok((Current { digest, path, brought_by, brought_at, signed_by, sources }, watched))
    }

    /// Returns the database in use.
    pub fn current(&self) -> Option<Arc<Current>> {
        lock(&self.state).current.clone()
    }

    /// Returns why the last offered file was refused, if it was.
    pub fn refused(&self) -> Option<String> {
        lock(&self.state).refused.clone()
    }

    /// Checks and loads `file`, which `by` has pushed. `signature` is the content of its `.minisig` file.
    ///
    /// # Errors
    /// When the file is refused. The previous database stays in use.
    pub fn offer(&self, file: &Path, signature: Option<&[u8]>, by: &str, allow_shrink: bool) -> Result<Offer, Refusal> {
        self.consider(&Offered { file, signature, by, allow_shrink, watched: false })
    }

    /// Looks at the file that the operator named: takes it if it has changed since the last look, and is good. The signature lies beside
    /// it. `None` where nothing has changed, which costs two calls of `stat`, also after it was refused. Only where there was no room for it is it
    /// tried again every time.
    pub fn watch(&self, path: &Path) -> Option<Result<Offer, Refusal>> {
        let now = (path.to_owned(), Stamp::of(path), Stamp::of(&trust::signature_path(path)));
        {
            let mut state = lock(&self.state);
            let is_seen = state.seen.as_ref() == Some(&now);
            state.seen = Some(now);
            if is_seen {
                let is_to_sweep = !state.former.is_empty();
                drop(state);
                // Waits for a check in progress.
                if let Some(_nothing_is_offered) = self.offering.try_lock().ok().filter(|_| is_to_sweep) {
                    self.sweep(Sweep::All);
                }
                return None;
            }
        }
        let refuse = |refusal: Refusal| {
            lock(&self.state).refused = Some(refusal.to_string());
            Err(refusal)
        };
        Some(match trust::signature_beside(path) {
            Ok(signature) => {
                let by = format!("watched file {}", path.display());
                self.consider(&Offered {
                    file: path,
                    signature: signature.as_deref(),
                    by: &by,
                    allow_shrink: false,
                    watched: true,
                })
            }
            Err(reason) => refuse(Refusal::Signature { file: path.to_owned(), reason }),
        })
    }

    fn consider(&self, offered: &Offered<'_>) -> Result<Offer, Refusal> {
        let _one_at_a_time = lock(&self.offering);
        let outcome = self.take(offered);
        let mut state = lock(&self.state);
        state.refused = outcome.as_ref().err().map(ToString::to_string);
        // The file itself is valid, so it is tried again when there is room.
        if offered.watched && matches!(outcome, Err(Refusal::Keep { .. })) {
            state.seen = None;
        }
        drop(state);
        if outcome.is_ok() {
            self.sweep(Sweep::All);
        }
        outcome
    }

    fn take(&self, offered: &Offered<'_>) -> Result<Offer, Refusal> {
        let Offered { file, signature, by, allow_shrink, watched } = *offered;
        let Incoming { copy, digest } = self.copy(file)?;
        let (current, taken_before) = {
            let state = lock(&self.state);
            (state.current.clone(), state.watched)
        };
        let signed_by = self.verify(copy.path(), file, signature)?;
        let watched_last = if watched { Some(digest) } else { taken_before };
        let same = current.as_ref().filter(|current| current.digest == digest);
        let says_no_more = signed_by.is_none() || same.is_some_and(|current| current.signed_by == signed_by);
        if (same.is_some() && says_no_more)
            || (same.is_none() && current.is_some() && watched && taken_before == watched_last)
        {
            lock(&self.state).watched = watched_last;
            return Ok(Offer::Same);
        }
        // The path of a pushed file is one that nobody outside of the aggregator knows.
        let renamed = |error| name_it(error, if watched { file } else { Path::new("the pushed file") });
        let database = Database::open(copy.path()).map_err(renamed)?;
        database.check().map_err(renamed)?;
        let sources = database.sources().map_err(renamed)?;
        drop(database);
        if let Some(current) = current.as_ref().filter(|_| !allow_shrink) {
            let regressions = regressions(&current.sources, &sources, self.policy.max_shrink_percent);
            if !regressions.is_empty() {
                return Err(Refusal::Shrinks { file: file.to_owned(), regressions });
            }
        }
        let taken = Arc::new(Current {
            digest,
            path: self.directory.join(file_name(&digest)),
            brought_by: same.map_or(by, |same| &same.brought_by).to_owned(),
            brought_at: same.map_or_else(clock::timestamp, |same| same.brought_at),
            signed_by,
            sources,
        });
        let signature = signature.filter(|_| taken.signed_by.is_some());
        self.keep(copy, &taken, signature, watched_last)
            .map_err(|source| Refusal::Keep { path: self.directory.clone(), source })?;
        let mut state = lock(&self.state);
        state.watched = watched_last;
        let former = state.current.replace(Arc::clone(&taken));
        state.former.extend(former.iter().map(Arc::downgrade));
        // The same bytes, now with a signature, or by another key: nothing has to be matched again.
        Ok(if same.is_some() { Offer::Same } else { Offer::New(taken) })
    }

    /// Copies a file through one open handle, and checks that it did not change meanwhile.
    fn copy(&self, file: &Path) -> Result<Incoming, Refusal> {
        let unread = |source| Refusal::File { file: file.to_owned(), source };
        let unkept = |source| Refusal::Keep { path: self.directory.clone(), source };
        // Nonblocking, because opening a FIFO would wait for a writer.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let handle = rustix::fs::open(file, flags, rustix::fs::Mode::empty()).map_err(|error| unread(error.into()))?;
        let mut handle = File::from(handle);
        let before = handle.metadata().map_err(unread)?;
        if !before.is_file() {
            return Err(unread(io::Error::other("not a regular file")));
        }
        let limit = self.policy.max_size;
        if before.size() > limit {
            return Err(Refusal::TooLarge { file: file.to_owned(), limit });
        }
        // Checked before the copy, because a copy without room is tried again repeatedly, and because it must not take the room of the store.
        check_room(&self.directory, before.size()).map_err(|error| unkept(error.into()))?;
        let mut copied = tempfile::Builder::new().prefix(INCOMING).tempfile_in(&self.directory).map_err(unkept)?;
        let mut hash = Sha256::new();
        let mut kept = Ok(());
        // A file that grows meanwhile is not copied beyond the room that was checked.
        let length = copy(&mut handle, before.size().saturating_add(1), |piece| {
            hash.update(piece);
            copied.write_all(piece).map_err(|error| {
                let kind = error.kind();
                kept = Err(error);
                kind.into()
            })
        });
        kept.map_err(unkept)?;
        let length = length.map_err(unread)?;
        let after = handle.metadata().map_err(unread)?;
        let is_still = Stamp::from(&after) == Stamp::from(&before) && length == before.size();
        if !is_still || Stamp::of(file) != Some(Stamp::from(&before)) {
            return Err(Refusal::Changing(file.to_owned()));
        }
        Ok(Incoming { copy: copied, digest: Digest(hash.finalize().into()) })
    }

    /// Verifies the signature of the copy as the policy requires; `file` is the path in messages.
    fn verify(&self, copy: &Path, file: &Path, signature: Option<&[u8]>) -> Result<Option<Signed>, Refusal> {
        let refuse = |reason| Refusal::Signature { file: file.to_owned(), reason };
        let signature = match signature {
            None if self.policy.require_signature => return Err(Refusal::Unsigned(file.to_owned())),
            // Without a trusted key, signatures are ignored.
            Some(bytes) if !self.policy.keys.is_empty() => Signature::parse(bytes).map_err(refuse)?,
            _ => return Ok(None),
        };
        let mut reader = File::open(copy).map_err(|error| refuse(TrustError::Read(error)))?;
        signature.verify(&mut reader, &self.policy.keys).map(Some).map_err(refuse)
    }

    /// Writes the copy and its record to disk, in an order that is consistent after a power loss at any point.
    fn keep(
        &self,
        copy: tempfile::NamedTempFile,
        current: &Current,
        signature: Option<&[u8]>,
        watched: Option<Digest>,
    ) -> io::Result<()> {
        copy.as_file().sync_all()?;
        match signature {
            Some(bytes) => self.replace(&trust::signature_path(&current.path), bytes)?,
            None => match fs::remove_file(trust::signature_path(&current.path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        copy.persist(&current.path).map_err(|error| error.error)?;
        let directory = File::open(&self.directory)?;
        directory.sync_all()?;
        let record = Record {
            digest: current.digest.to_string(),
            file: file_name(&current.digest),
            brought_by: current.brought_by.clone(),
            brought_at: current.brought_at,
            signed_by: current.signed_by.as_ref().map(|signed| signed.key.clone()),
            watched: watched.map(|digest| digest.to_string()),
        };
        self.replace(&self.directory.join(RECORD), &serde_json::to_vec_pretty(&record)?)?;
        directory.sync_all()
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(INCOMING).tempfile_in(&self.directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map(|_| ()).map_err(|error| error.error)
    }

    /// Removes incomplete copies, and copies that are neither in use nor being read. A copy that cannot be removed is tried again later.
    fn sweep(&self, sweep: Sweep) {
        let mut state = lock(&self.state);
        state.former.retain(|former| former.strong_count() > 0);
        let in_use: Vec<Arc<Current>> =
            state.former.iter().filter_map(Weak::upgrade).chain(state.current.clone()).collect();
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_copy = name.ends_with(".db") || name.ends_with(".db.minisig");
            let is_ours = sweep == Sweep::All && is_copy && name.len() > 64 || name.starts_with(INCOMING);
            let is_used = in_use.iter().any(|used| path == used.path || path == trust::signature_path(&used.path));
            if is_ours && !is_used {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn file_name(digest: &Digest) -> String {
    let text = digest.to_string();
    format!("{}.db", text.trim_start_matches("sha256:"))
}

/// Passes all bytes of `from`, at most `limit`, to `take` in chunks.
fn copy(from: &mut File, limit: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    let mut from = from.take(limit);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => {
                take(buffer.get(..count).unwrap_or_default())?;
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Replaces the path of the copy in an error by that of the offered file.
fn name_it(error: DatabaseError, file: &Path) -> DatabaseError {
    let path = file.to_owned();
    match error {
        DatabaseError::Missing(_) => DatabaseError::Missing(path),
        DatabaseError::Unreadable { source, .. } => DatabaseError::Unreadable { path, source },
        DatabaseError::NotADatabase { reason, .. } => DatabaseError::NotADatabase { path, reason },
        DatabaseError::Format { found, .. } => DatabaseError::Format { path, found },
        DatabaseError::Damaged { reason, .. } => DatabaseError::Damaged { path, reason },
    }
}

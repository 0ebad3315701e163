//! Token files, one token per line, for nodes and for users of the API.
//!
//! A token is 32 random bytes in hexadecimal. The file contains its SHA-256 only, so a reader of the file cannot authenticate. The file is
//! reloaded when it changes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use outcrop_proto::Digest;
use tracing::info;

use crate::lock::lock;
use crate::private;
use crate::problems::{ProblemKind, Problems};
use crate::stamp::WatchedFile;

/// Maximum size of a token file, bytes: enough for more than 100,000 nodes.
const MAX_FILE: u64 = 64 << 20;

/// Returns whether `name` is valid in a token file, as the name of a node, an API user or a namespace.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed)
}

/// Reads a text file of bounded size.
///
/// # Errors
/// Fails if the file cannot be read, is larger than [`MAX_FILE`] or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        Err(io::Error::other(format!("the file is larger than the limit of {MAX_FILE} bytes")))
    } else {
        Ok(text)
    }
}

/// Returns the lines that are neither empty nor a comment, with their line numbers from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    numbered.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
}

/// Creates a token, appends the line that `line` returns for its hash to the file, and returns the token, which is not stored.
///
/// # Errors
/// Fails if random bytes are not available or the file cannot be written.
pub(crate) fn add(path: &Path, line: impl FnOnce(Digest) -> String) -> io::Result<String> {
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = format!("{}\n", line(Digest::of(token.as_bytes())));
    let mut out = File::options().create(true).append(true).read(true).mode(0o600).open(path)?;
    private::restrict_secret(path);
    if !ends_with_newline(&mut out)? {
        line.insert(0, '\n');
    }
    // A single write: a concurrent reader sees the whole line or nothing.
    out.write_all(line.as_bytes())?;
    out.sync_all()?;
    Ok(token)
}

/// Returns the number of tokens that a file has for a node or a user; 0 if it cannot be read.
pub(crate) fn count(path: &Path, name: &str) -> usize {
    let text = read_text(path).unwrap_or_default();
    lines(&text).filter(|(_, line)| line.split_whitespace().next() == Some(name)).count()
}

/// Returns whether the file is empty or ends with a newline.
fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Content of a token file and its state when it was last read.
#[derive(Debug)]
pub(crate) struct Known<T> {
    /// Tokens of the last valid version.
    pub(crate) tokens: T,
    file: WatchedFile,
}

/// A token file, reloaded when it changes. If the new version is invalid, the tokens stay and a problem is raised.
#[derive(Debug)]
pub(crate) struct Watched<T, E> {
    read: fn(&Path) -> Result<T, E>,
    known: Mutex<Known<T>>,
    problems: Problems,
}

impl<T, E: fmt::Display> Watched<T, E> {
    /// Reads the file with `read`. Later versions that are invalid are raised in `problems`.
    ///
    /// # Errors
    /// Returns the errors of `read`.
    pub(crate) fn open(path: &Path, problems: Problems, read: fn(&Path) -> Result<T, E>) -> Result<Self, E> {
        let (file, tokens) = WatchedFile::open(path, read)?;
        Ok(Self { read, known: Mutex::new(Known { tokens, file }), problems })
    }

    /// Returns the tokens without checking the file.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known<T>> {
        lock(&self.known)
    }

    /// Returns the tokens after reloading the file if it changed; an unchanged file costs one `stat`.
    pub(crate) fn fresh(&self) -> MutexGuard<'_, Known<T>> {
        let mut known = self.known();
        if let Some(read) = known.file.reload(self.read) {
            let path = known.file.path().display().to_string();
            match read {
                Ok(tokens) => {
                    info!(path, "token file reloaded");
                    known.tokens = tokens;
                    self.problems.clear(ProblemKind::Tokens, &path);
                }
                Err(error) => {
                    let message = format!("{error}; the tokens of the last valid version stay in use");
                    self.problems.raise(ProblemKind::Tokens, &path, message);
                }
            }
        }
        known
    }
}

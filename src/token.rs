//! Files of tokens, one a line: what nodes and callers of the API have in common.
//!
//! A token is 32 random bytes, written in hexadecimal; the file holds its SHA-256, so that who reads the file can speak for nobody. A
//! file is read again when it changes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use outcrop_proto::Digest;

use crate::lock::lock;
use crate::stamp::Stamp;

/// Largest file of tokens that is read, bytes: of 100,000 nodes, and more.
const MAX_FILE: u64 = 64 << 20;

/// Whether a name is one word of a line: of a node, of a caller, of a namespace.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed)
}

/// Reads a file of bounded length.
///
/// # Errors
/// When it cannot be read, is too large or no text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE { Err(io::Error::other("too large")) } else { Ok(text) }
}

/// Lines that are neither empty nor a comment, each with its number, from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    numbered.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
}

/// Makes a token, adds to the file the line that `line` makes of its hash, and returns the token. It is nowhere else.
///
/// # Errors
/// When there is no randomness, or the file cannot be written.
pub(crate) fn add(path: &Path, line: impl FnOnce(Digest) -> String) -> io::Result<String> {
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = format!("{}\n", line(Digest::of(token.as_bytes())));
    let mut out = File::options().create(true).append(true).read(true).open(path)?;
    if !ends_with_newline(&mut out)? {
        line.insert(0, '\n');
    }
    // One write, so that who reads meanwhile sees all of the line or nothing.
    out.write_all(line.as_bytes())?;
    out.sync_all()?;
    Ok(token)
}

/// Whether a line may be appended as it is.
fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// What a file says, and how it was when it was looked into.
#[derive(Debug)]
pub(crate) struct Known<T> {
    /// What it said when it was last good.
    pub(crate) tokens: T,
    /// What is wrong with it now, if anything is.
    pub(crate) problem: Option<String>,
    seen: Option<Stamp>,
}

/// A file of tokens, read again when it changes. One that turns bad changes nothing but [`Known::problem`].
#[derive(Debug)]
pub(crate) struct Watched<T, E> {
    path: PathBuf,
    read: fn(&Path) -> Result<T, E>,
    known: Mutex<Known<T>>,
}

impl<T, E: fmt::Display> Watched<T, E> {
    /// Opens the file, which `read` understands.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn open(path: &Path, read: fn(&Path) -> Result<T, E>) -> Result<Self, E> {
        let seen = Stamp::of(path);
        let known = Known { tokens: read(path)?, problem: None, seen };
        Ok(Self { path: path.to_owned(), read, known: Mutex::new(known) })
    }

    /// What is known, from memory.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known<T>> {
        lock(&self.known)
    }

    /// What is known, after a look at the file: one call of `stat`, where it did not change.
    pub(crate) fn fresh(&self) -> MutexGuard<'_, Known<T>> {
        let mut known = self.known();
        let now = Stamp::of(&self.path);
        if known.seen != now {
            let read = (self.read)(&self.path);
            // Written to while it was read: half of it is not all of it, and it is looked into again.
            if Stamp::of(&self.path) != now {
                return known;
            }
            known.seen = now;
            match read {
                Ok(tokens) => (known.tokens, known.problem) = (tokens, None),
                Err(error) => {
                    known.problem = Some(format!("{error}; the tokens that were read before it changed are used"));
                }
            }
        }
        known
    }
}

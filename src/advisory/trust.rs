//! Which advisory database is taken: who signed it, whether its contents are sound, and whether it says less than the one before.
//!
//! Signatures are [minisign's](https://jedisct1.github.io/minisign/), beside the file as `FILE.minisig`, and are verified offline with keys
//! that the operator configured. What is not configured is not asked for: without a key, a signature says nothing.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rusqlite::Connection;

use super::database::{Database, DatabaseError, SourceInfo};
use super::osv::{Range, Severity};

/// Longest key file or signature, bytes; minisign's own comments are shorter.
pub const MAX_TEXT: usize = 16 << 10;

/// Largest file that is verified by a signature over the file itself, as minisign made them before 0.10: it has to be in memory as a
/// whole. A signature over the file's hash has no such bound.
pub const MAX_LEGACY: u64 = 64 << 20;

/// How many per cent fewer records a source may have than the database before.
pub const MAX_SHRINK_PERCENT: u8 = 10;

/// Why a signature or a key is of no use. Each text ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error("reading {path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        source: io::Error,
    },
    /// The signed file could not be read to its end.
    #[error("reading the signed file: {0}")]
    Read(#[source] io::Error),
    /// A text that is no key.
    #[error("invalid minisign public key {0:?}: expected a .pub file, or its base64 line that starts with RW")]
    Key(String),
    /// Bytes that are no signature.
    #[error("not a minisign signature ({0}); sign the file with minisign -S -m FILE")]
    Malformed(&'static str),
    /// A key that the operator did not configure.
    #[error("signed with key {found}, but the trusted keys are {}; sign it with one of these, or add the key with --db-key", keys(.trusted))]
    UnknownKey {
        /// The key that it says it is signed with.
        found: String,
        /// The keys that are trusted.
        trusted: Vec<String>,
    },
    /// The signature is not of this file.
    #[error("the signature with key {0} does not match the file; sign the file again")]
    Wrong(String),
    /// A signature over the file itself, and the file is large.
    #[error(
        "the file is larger than {MAX_LEGACY} bytes, and the signature is in minisign's legacy format; sign it again with minisign -S -H"
    )]
    Legacy,
}

fn keys(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

/// A key that databases may be signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    key: minisign_verify::PublicKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id).finish()
    }
}

impl PublicKey {
    /// Reads a key: the text of a `.pub` file, or its line of base64 alone.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let shown = || format!("{:?}", text.trim().chars().take(80).collect::<String>());
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("untrusted comment:"));
        let line = line.ok_or_else(|| TrustError::Key(shown()))?;
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| TrustError::Key(shown()))?;
        let id = key_id(line).ok_or_else(|| TrustError::Key(shown()))?;
        Ok(Self { id, key })
    }

    /// Reads what an operator writes for a key: a line of base64, or the path of a `.pub` file.
    ///
    /// # Errors
    /// When it is no key, and no file that holds one.
    pub fn from_argument(argument: &str) -> Result<Self, TrustError> {
        if let Ok(key) = Self::parse(argument) {
            return Ok(key);
        }
        let path = Path::new(argument);
        let bytes = read_text(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).map_err(|_| TrustError::Key(format!("{argument:?}")))
    }

    /// Its identity, as minisign prints it: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The key's identity in a line of a key or a signature: two bytes name the algorithm, eight are the identity.
fn key_id(line: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(line.trim()).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

/// Reads a short file.
fn read_text(path: &Path) -> Result<Vec<u8>, TrustError> {
    let file = |source| TrustError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)).map_err(file)?;
    if bytes.len() > MAX_TEXT {
        return Err(file(io::Error::other("the file is too large for a key or a signature")));
    }
    Ok(bytes)
}

/// Where the signature of `file` lies: beside it.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Reads the signature beside `file`; `None` where there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn signature_beside(file: &Path) -> Result<Option<Vec<u8>>, TrustError> {
    match read_text(&signature_path(file)) {
        Err(TrustError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// A signature, not verified yet.
#[derive(Clone)]
pub struct Signature {
    key: String,
    signature: minisign_verify::Signature,
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signature").field(&self.key).finish()
    }
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The identity of its key.
    pub key: String,
    /// What the signer said of it: the time and the file's name, if nothing else. Signed as well, and hostile to a terminal all the same.
    pub comment: String,
}

impl Signature {
    /// Reads the bytes of a `.minisig` file.
    ///
    /// # Errors
    /// When they are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > MAX_TEXT {
            return Err(TrustError::Malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TrustError::Malformed("not text"))?;
        let signature =
            minisign_verify::Signature::decode(text).map_err(|_| TrustError::Malformed("expected four lines"))?;
        let key = text.lines().nth(1).and_then(key_id).ok_or(TrustError::Malformed("the key has no ID"))?;
        Ok(Self { key, signature })
    }

    /// The identity of the key that it says it was made with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Verifies that it is of what `signed` holds and by one of `trusted`. The file is read once, in pieces.
    ///
    /// # Errors
    /// When the key is not trusted, the signature is of something else, or the file cannot be read.
    pub fn verify(&self, signed: &mut impl Read, trusted: &[PublicKey]) -> Result<Signed, TrustError> {
        let key = trusted.iter().find(|key| key.id == self.key).ok_or_else(|| TrustError::UnknownKey {
            found: self.key.clone(),
            trusted: trusted.iter().map(|key| key.id.clone()).collect(),
        })?;
        let wrong = |_| TrustError::Wrong(self.key.clone());
        match key.key.verify_stream(&self.signature) {
            Ok(mut verifier) => {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match signed.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => verifier.update(buffer.get(..count).unwrap_or_default()),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(TrustError::Read(error)),
                    }
                }
                verifier.finalize().map_err(wrong)?;
            }
            Err(minisign_verify::Error::UnsupportedLegacyMode) => {
                let mut bytes = Vec::new();
                signed.take(MAX_LEGACY + 1).read_to_end(&mut bytes).map_err(TrustError::Read)?;
                if bytes.len() as u64 > MAX_LEGACY {
                    return Err(TrustError::Legacy);
                }
                key.key.verify(&bytes, &self.signature, true).map_err(wrong)?;
            }
            Err(error) => return Err(wrong(error)),
        }
        Ok(Signed { key: self.key.clone(), comment: self.signature.trusted_comment().to_owned() })
    }
}

/// A source of which a database says less than the one before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Regression {
    /// It has nothing of it.
    #[error("no records of {ecosystem}, currently {records}")]
    Gone {
        /// The source.
        ecosystem: String,
        /// How many records there are now.
        records: u64,
    },
    /// Its newest record is older.
    #[error("the newest record of {ecosystem} is dated {newest}, older than the current one, dated {current}")]
    Older {
        /// The source.
        ecosystem: String,
        /// The newest record.
        newest: String,
        /// The newest that there is now.
        current: String,
    },
    /// It has many fewer records.
    #[error("only {records} records of {ecosystem}, currently {current}")]
    Fewer {
        /// The source.
        ecosystem: String,
        /// How many.
        records: u64,
        /// How many there are now.
        current: u64,
    },
}

/// In what a database with the sources `candidate` says less than one with the sources `current`: a source is missing, its newest record is older, or
/// it has over `percent` per cent fewer records. Empty where it may take its place.
pub fn regressions(current: &[SourceInfo], candidate: &[SourceInfo], percent: u8) -> Vec<Regression> {
    let mut found = Vec::new();
    for now in current {
        let ecosystem = now.ecosystem.clone();
        let Some(then) = candidate.iter().find(|source| source.ecosystem == now.ecosystem) else {
            found.push(Regression::Gone { ecosystem, records: now.records });
            continue;
        };
        if is_older(&then.newest, &now.newest) {
            let (newest, current) = (then.newest.clone(), now.newest.clone());
            found.push(Regression::Older { ecosystem: ecosystem.clone(), newest, current });
        }
        let least = u128::from(now.records) * u128::from(100_u8.saturating_sub(percent));
        if u128::from(then.records) * 100 < least {
            found.push(Regression::Fewer { ecosystem, records: then.records, current: now.records });
        }
    }
    found
}

/// Whether a time of a record is before another one. A time that is none is before all that are one.
fn is_older(time: &str, than: &str) -> bool {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    parse(time) < parse(than)
}

/// Refuses a file that has more than tables and their indexes: a view or a virtual table would run what the file says when it is read.
pub(super) fn only_tables(connection: &Connection) -> Result<(), String> {
    let other: rusqlite::Result<Option<String>> = connection
        .prepare(
            "SELECT type || ' ' || name FROM sqlite_schema
             WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%' LIMIT 1",
        )
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.next().transpose());
    match other {
        Ok(None) => Ok(()),
        Ok(Some(other)) => Err(format!("the file contains a {other:?}; only tables are allowed")),
        Err(error) => Err(error.to_string()),
    }
}

impl Database {
    /// Reads all of it, as matching will one day read some of it: a file that passes does not fail in the middle of a match.
    ///
    /// # Errors
    /// When a page is damaged, a row cannot be read, or the list of sources does not agree with the records.
    pub fn check(&self) -> Result<(), DatabaseError> {
        let damaged = |reason: String| DatabaseError::Damaged { path: self.path().to_owned(), reason };
        let sqlite = |error: rusqlite::Error| damaged(error.to_string());
        let verdict: String =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
        self.check_lists().map_err(damaged)?;
        let mut statement = self
            .connection
            .prepare(
                "SELECT f.ecosystem, count(DISTINCT a.number), max(a.modified)
                 FROM affected f JOIN advisory a ON a.number = f.number GROUP BY f.ecosystem ORDER BY f.ecosystem",
            )
            .map_err(sqlite)?;
        let counted = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?)));
        let counted: Vec<(String, i64, String)> = counted.and_then(Iterator::collect).map_err(sqlite)?;
        let told = self.sources()?;
        let agrees = told.len() == counted.len()
            && told.iter().zip(&counted).all(|(told, (ecosystem, records, newest))| {
                told.ecosystem == *ecosystem && i64::try_from(told.records) == Ok(*records) && told.newest == *newest
            });
        if agrees { Ok(()) } else { Err(damaged("the list of sources does not match the records".to_owned())) }
    }

    /// Parses every list that is kept as JSON.
    fn check_lists(&self) -> Result<(), String> {
        fn is_list<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> Result<(), String> {
            let text = row.get_ref(column).map_err(|error| error.to_string())?;
            let text = text.as_str().map_err(|error| error.to_string())?;
            if text == "[]" {
                return Ok(());
            }
            serde_json::from_str::<Vec<T>>(text).map(|_| ()).map_err(|error| format!("invalid list: {error}"))
        }
        let each = |query: &str, check: &dyn Fn(&rusqlite::Row<'_>) -> Result<(), String>| {
            let sqlite = |error: rusqlite::Error| error.to_string();
            let mut statement = self.connection.prepare(query).map_err(sqlite)?;
            let mut rows = statement.query([]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                check(row)?;
            }
            Ok::<_, String>(())
        };
        each("SELECT severity, aliases, upstream, related, id, summary FROM advisory", &|row| {
            is_list::<Severity>(row, 0)?;
            (1..4).try_for_each(|column| is_list::<String>(row, column))?;
            (4..6).try_for_each(|column| row.get::<_, String>(column).map(|_| ()).map_err(|error| error.to_string()))
        })?;
        each("SELECT ranges, versions, severity FROM affected", &|row| {
            is_list::<Range>(row, 0)?;
            is_list::<String>(row, 1)?;
            is_list::<Severity>(row, 2)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(ecosystem: &str, records: u64, newest: &str) -> SourceInfo {
        SourceInfo { ecosystem: ecosystem.to_owned(), records, newest: newest.to_owned(), origins: String::new() }
    }

    #[test]
    fn a_database_that_says_less_is_refused_with_the_source_and_the_figures() {
        let now = [source("npm", 100, "2026-11-02T00:00:00Z"), source("Debian:12", 1000, "2026-11-01T00:00:00.5Z")];
        let cases: [(&str, Vec<SourceInfo>, &[&str]); 8] = [
            ("the same", now.to_vec(), &[]),
            (
                "more, and another source",
                vec![
                    source("npm", 101, "2026-11-03T00:00:00Z"),
                    source("Debian:12", 1000, "2026-11-01T00:00:00.5Z"),
                    source("Go", 1, ""),
                ],
                &[],
            ),
            (
                "a tenth fewer",
                vec![source("npm", 90, "2026-11-02T00:00:00Z"), source("Debian:12", 900, "2026-11-02T00:00:00Z")],
                &[],
            ),
            (
                "over a tenth fewer",
                vec![source("npm", 89, "2026-11-02T00:00:00Z"), source("Debian:12", 899, "2026-11-02T00:00:00Z")],
                &["only 89 records of npm, currently 100", "only 899 records of Debian:12, currently 1000"],
            ),
            (
                "a source is missing",
                vec![source("npm", 100, "2026-11-02T00:00:00Z")],
                &["no records of Debian:12, currently 1000"],
            ),
            (
                "older by half a second",
                vec![source("npm", 100, "2026-11-02T00:00:00Z"), source("Debian:12", 1000, "2026-11-01T00:00:00Z")],
                &[
                    "the newest record of Debian:12 is dated 2026-11-01T00:00:00Z, older than the current one, dated 2026-11-01T00:00:00.5Z",
                ],
            ),
            (
                "the same moment in another zone",
                vec![
                    source("npm", 100, "2026-11-02T01:00:00+01:00"),
                    source("Debian:12", 1000, "2026-11-02T00:00:00Z"),
                ],
                &[],
            ),
            (
                "no time at all",
                vec![source("npm", 100, "soon"), source("Debian:12", 1000, "2026-11-02T00:00:00Z")],
                &["the newest record of npm is dated soon, older than the current one, dated 2026-11-02T00:00:00Z"],
            ),
        ];
        for (name, candidate, told) in cases {
            let found: Vec<String> =
                regressions(&now, &candidate, MAX_SHRINK_PERCENT).iter().map(ToString::to_string).collect();
            assert_eq!(found, told, "{name}");
        }
    }

    proptest! {
        /// What takes the place of a database is not older in any source, and holds nine tenths of it or more; and what grows is never refused.
        #[test]
        fn nothing_gets_smaller_by_over_a_tenth_unnoticed(
            now in prop::collection::btree_map("[a-d]", (0_u64..=u64::MAX, 0_i64..1000), 0..4),
            then in prop::collection::btree_map("[a-d]", (0_u64..=u64::MAX, 0_i64..1000), 0..4),
            more in prop::collection::vec((0_u64..1000, 0_i64..1000), 4),
        ) {
            let infos = |map: &std::collections::BTreeMap<String, (u64, i64)>| -> Vec<SourceInfo> {
                map.iter().map(|(name, (records, second))| {
                    source(name, *records, &jiff::Timestamp::from_second(*second).unwrap().to_string())
                }).collect()
            };
            let passes = now.iter().all(|(name, (records, second))| {
                then.get(name).is_some_and(|(other, newer)| {
                    newer >= second && u128::from(*other) * 10 >= u128::from(*records) * 9
                })
            });
            prop_assert_eq!(regressions(&infos(&now), &infos(&then), 10).is_empty(), passes);
            let grown = now.iter().zip(more).map(|((name, (records, second)), (by, later))| {
                (name.clone(), (records.saturating_add(by), second + later))
            }).collect();
            prop_assert_eq!(regressions(&infos(&now), &infos(&grown), 10), vec![]);
        }

        /// Any bytes are a signature or an error.
        #[test]
        fn any_bytes_are_a_signature_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Signature::parse(&bytes);
        }
    }
}

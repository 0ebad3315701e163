//! Checks of an advisory database before it is used: its signature, its contents, and a comparison with the current database.
//!
//! Signatures are those of [minisign](https://jedisct1.github.io/minisign/), in `FILE.minisig` beside the file. They are verified offline with
//! the keys that the operator configured. Without a configured key, signatures are ignored.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rusqlite::Connection;
use serde::Deserializer as _;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};

use super::database::{
    Database, DatabaseError, MAX_ENTRIES, MAX_ID, MAX_IDS, MAX_SUMMARY, MAX_TEXT, MAX_WEIGHT, MAX_WORD, SourceInfo,
    reason, too_many, weight,
};
use super::osv::{Event, Range, Severity};

/// Maximum size of a key file or signature, in bytes.
pub const MAX_SIGNATURE: usize = 16 << 10;

/// Maximum size of a file with a legacy signature, in bytes. Before 0.10, minisign signed the file itself, which therefore has to be in memory;
/// newer versions sign its hash, without such a limit.
pub const MAX_LEGACY: u64 = 64 << 20;

/// Maximum decrease of a source's number of records, in percent.
pub const MAX_SHRINK_PERCENT: u8 = 10;

/// Why a signature or a key cannot be used. Each message ends with a hint.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error("reading {path}: {source}", path = .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The signed file could not be read to its end.
    #[error("reading the signed file: {0}")]
    Read(#[source] io::Error),
    /// The text is not a key.
    #[error("invalid minisign public key {0}: expected a .pub file, or its base64 line that starts with RW")]
    Key(String),
    /// The bytes are not a signature.
    #[error("not a minisign signature ({0}); sign the file with minisign -S -m FILE")]
    Malformed(&'static str),
    /// The signature was made with a key that the operator did not configure.
    #[error("signed with key {found}, but the trusted keys are {}; sign it with one of these, or add the key with --db-key", keys(.trusted))]
    UnknownKey {
        /// The ID of the key according to the signature.
        found: String,
        /// The IDs of the trusted keys.
        trusted: Vec<String>,
    },
    /// The signature does not match the file.
    #[error("the signature with key {0} does not match the file; sign the file again")]
    Wrong(String),
    /// The signature is in the legacy format, and the file is too large for it.
    #[error(
        "the file is larger than {MAX_LEGACY} bytes, and the signature is in minisign's legacy format; sign it again with minisign -S -H"
    )]
    Legacy,
}

fn keys(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

/// A trusted key.
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
    /// Parses a key: the text of a `.pub` file, or only its base64 line.
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

    /// Parses a key given as an argument: a base64 line, or the path of a `.pub` file.
    ///
    /// # Errors
    /// When the argument is neither.
    pub fn from_argument(argument: &str) -> Result<Self, TrustError> {
        if let Ok(key) = Self::parse(argument) {
            return Ok(key);
        }
        let path = Path::new(argument);
        let bytes = read_text(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).map_err(|_| TrustError::Key(format!("{argument:?}")))
    }

    /// Returns the ID as minisign prints it: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Returns the key's ID in the base64 line of a key or a signature: two bytes of algorithm, then eight bytes of ID.
fn key_id(line: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(line.trim()).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

/// Reads a short file.
fn read_text(path: &Path) -> Result<Vec<u8>, TrustError> {
    let file = |source| TrustError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(MAX_SIGNATURE as u64 + 1).read_to_end(&mut bytes)).map_err(file)?;
    if bytes.len() > MAX_SIGNATURE {
        return Err(file(io::Error::other("the file is too large for a key or a signature")));
    }
    Ok(bytes)
}

/// Returns the path of the signature of `file`.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Reads the signature of `file`; `None` if there is none.
///
/// # Errors
/// When it exists and cannot be read.
pub fn signature_beside(file: &Path) -> Result<Option<Vec<u8>>, TrustError> {
    match read_text(&signature_path(file)) {
        Err(TrustError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// A signature that was not verified yet.
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

/// A verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The ID of its key.
    pub key: String,
    /// The signer's comment, by default a time and the name of the file. It is signed, but has to be escaped for a terminal.
    pub comment: String,
}

impl Signature {
    /// Parses the bytes of a `.minisig` file.
    ///
    /// # Errors
    /// When they are malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > MAX_SIGNATURE {
            return Err(TrustError::Malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TrustError::Malformed("not text"))?;
        let signature =
            minisign_verify::Signature::decode(text).map_err(|_| TrustError::Malformed("expected four lines"))?;
        let key = text.lines().nth(1).and_then(key_id).ok_or(TrustError::Malformed("the key has no ID"))?;
        Ok(Self { key, signature })
    }

    /// Returns the ID of the key according to the signature.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Verifies that the signature matches the file `signed` and was made with one of the `trusted` keys. The file is read once, in chunks.
    ///
    /// # Errors
    /// When the key is not trusted, the signature does not match, or the file cannot be read.
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

/// A source of which a new database has fewer or older records than the current one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Regression {
    /// The new database has no records of it.
    #[error("no records of {ecosystem}, currently {records}")]
    Gone {
        /// The source.
        ecosystem: String,
        /// Number of records in the current database.
        records: u64,
    },
    /// Its newest record is older.
    #[error("the newest record of {ecosystem} is dated {newest}, older than the current one, dated {current}")]
    Older {
        /// The source.
        ecosystem: String,
        /// Date of the newest record in the new database.
        newest: String,
        /// Date of the newest record in the current database.
        current: String,
    },
    /// The new database has far fewer records of it.
    #[error("only {records} records of {ecosystem}, currently {current}")]
    Fewer {
        /// The source.
        ecosystem: String,
        /// Number of records in the new database.
        records: u64,
        /// Number of records in the current database.
        current: u64,
    },
}

/// Compares the sources of a new database with those of the current one. Returns the sources that are missing, whose newest record is older, or
/// that have over `percent` percent fewer records.
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

/// Returns whether a record's time is before another one. An invalid time is before every valid one.
fn is_older(time: &str, than: &str) -> bool {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    parse(time) < parse(than)
}

/// Refuses a file that contains more than tables and indexes, because reading a view or a virtual table executes SQL of the file.
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
    /// Reads the whole file, so that a file that passes does not fail later during matching.
    ///
    /// # Errors
    /// When a page is damaged, a row cannot be read, or the table of sources does not agree with the records.
    pub fn check(&self) -> Result<(), DatabaseError> {
        let damaged = |reason: String| DatabaseError::Damaged { path: self.path().to_owned(), reason };
        let sqlite = |error: rusqlite::Error| damaged(reason(&error));
        let verdict: String =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
        self.check_rows().map_err(damaged)?;
        self.check_weights().map_err(damaged)?;
        let mut statement = self
            .connection
            .prepare(
                "SELECT f.ecosystem, count(DISTINCT a.number), max(a.modified)
                 FROM affected f JOIN advisory a ON a.number = f.number GROUP BY f.ecosystem ORDER BY f.ecosystem",
            )
            .map_err(sqlite)?;
        let counted = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?)));
        let counted: Vec<(String, i64, String)> = counted.and_then(Iterator::collect).map_err(sqlite)?;
        let listed = self.sources()?;
        let agrees = listed.len() == counted.len()
            && listed.iter().zip(&counted).all(|(source, (ecosystem, records, newest))| {
                source.ecosystem == *ecosystem
                    && i64::try_from(source.records) == Ok(*records)
                    && source.newest == *newest
            });
        if agrees { Ok(()) } else { Err(damaged("the list of sources does not match the records".to_owned())) }
    }

    /// Parses every JSON list, and checks that no list and no text is longer than a builder writes.
    fn check_rows(&self) -> Result<(), String> {
        let each = |query: &str, check: &dyn Fn(&rusqlite::Row<'_>) -> Result<(), String>| {
            let mut statement = self.connection.prepare(query).map_err(|error| reason(&error))?;
            let mut rows = statement.query([]).map_err(|error| reason(&error))?;
            while let Some(row) = rows.next().map_err(|error| reason(&error))? {
                check(row)?;
            }
            Ok::<_, String>(())
        };
        let has_text = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_TEXT);
        let is_event = |event: &Event| {
            [&event.introduced, &event.fixed, &event.last_affected, &event.limit].into_iter().all(has_text)
        };
        each("SELECT severity, aliases, upstream, related, id, summary, rating FROM advisory", &|row| {
            check_list::<Severity>(row, 0, MAX_ENTRIES, |_| true)?;
            (1..4).try_for_each(|column| check_list(row, column, MAX_IDS, |id: &String| id.len() <= MAX_ID))?;
            check_text(row, 4, MAX_ID)?;
            check_text(row, 5, MAX_SUMMARY + 1)?;
            check_text(row, 6, MAX_WORD)
        })?;
        each("SELECT ranges, versions, severity, status FROM affected", &|row| {
            check_list(row, 0, MAX_ENTRIES, |range: &Range| {
                range.events.len() <= MAX_ENTRIES && range.events.iter().all(is_event)
            })?;
            check_list::<String>(row, 1, MAX_ENTRIES, |_| true)?;
            check_list::<Severity>(row, 2, MAX_ENTRIES, |_| true)?;
            check_text(row, 3, MAX_WORD)
        })
    }

    /// Checks that the advisories about each package can be loaded together.
    fn check_weights(&self) -> Result<(), String> {
        let sqlite = |error: rusqlite::Error| reason(&error);
        let mut statement = self
            .connection
            .prepare(
                "SELECT f.ecosystem, f.package,
                        octet_length(a.summary) + max(octet_length(a.severity), octet_length(f.severity))
                            + octet_length(f.ranges) + octet_length(f.versions),
                        octet_length(a.id) + octet_length(a.aliases) + octet_length(a.upstream) + octet_length(a.related)
                 FROM affected f CROSS JOIN advisory a ON a.number = f.number ORDER BY f.ecosystem, f.package",
            )
            .map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let (mut package, mut total) = ((String::new(), String::new()), 0_u64);
        while let Some(row) = rows.next().map_err(sqlite)? {
            let text = |column: usize| {
                let value = row.get_ref(column).map_err(|error| error.to_string())?;
                value.as_str().map_err(|error| error.to_string())
            };
            let (ecosystem, name) = (text(0)?, text(1)?);
            if (ecosystem, name) != (&package.0, &package.1) {
                (package, total) = ((ecosystem.to_owned(), name.to_owned()), 0);
            }
            let size = |column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs).map_err(sqlite);
            total = total.saturating_add(weight(size(2)?, size(3)?));
            if total > MAX_WEIGHT {
                return Err(too_many(ecosystem, name));
            }
        }
        Ok(())
    }
}

/// Checks that a column is a JSON list of at most `limit` entries, each of which passes `is_good`. Entries are not kept.
fn check_list<T: DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: usize,
    limit: usize,
    is_good: impl Fn(&T) -> bool,
) -> Result<(), String> {
    let text = row.get_ref(column).map_err(|error| reason(&error))?;
    let text = text.as_str().map_err(|error| error.to_string())?;
    if text == "[]" {
        return Ok(());
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let entries = Entries { limit, is_good, entry: PhantomData };
    parser.deserialize_seq(entries).and_then(|()| parser.end()).map_err(|error| format!("invalid list: {error}"))
}

/// Visits the entries of a list one by one.
struct Entries<T, F> {
    limit: usize,
    is_good: F,
    entry: PhantomData<T>,
}

impl<'de, T: DeserializeOwned, F: Fn(&T) -> bool> Visitor<'de> for Entries<T, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut seen = 0;
        while let Some(entry) = list.next_element::<T>()? {
            seen += 1;
            if seen > self.limit {
                return Err(A::Error::custom(format!("more entries than the limit of {}", self.limit)));
            }
            if !(self.is_good)(&entry) {
                return Err(A::Error::custom("an entry is longer than the limit"));
            }
        }
        Ok(())
    }
}

/// Checks that a column is a text of at most `limit` characters, or nothing.
fn check_text(row: &rusqlite::Row<'_>, column: usize, limit: usize) -> Result<(), String> {
    let text = row.get_ref(column).map_err(|error| reason(&error))?;
    match text.as_str_or_null().map_err(|error| error.to_string())? {
        Some(text) if text.chars().nth(limit).is_some() => Err(format!("a text is longer than {limit} characters")),
        _ => Ok(()),
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
    fn missing_older_and_far_fewer_records_of_a_source_are_regressions() {
        let now = [source("npm", 100, "2026-11-02T00:00:00Z"), source("Debian:12", 1000, "2026-11-01T00:00:00.5Z")];
        let cases: [(&str, Vec<SourceInfo>, &[&str]); 8] = [
            ("equal", now.to_vec(), &[]),
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
                "an invalid time",
                vec![source("npm", 100, "soon"), source("Debian:12", 1000, "2026-11-02T00:00:00Z")],
                &["the newest record of npm is dated soon, older than the current one, dated 2026-11-02T00:00:00Z"],
            ),
        ];
        for (name, candidate, expected) in cases {
            let found: Vec<String> =
                regressions(&now, &candidate, MAX_SHRINK_PERCENT).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_decrease_by_over_a_tenth_is_always_a_regression_and_growth_never_is(
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

        #[test]
        fn any_bytes_are_a_signature_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Signature::parse(&bytes);
        }
    }
}

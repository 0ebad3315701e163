//! The database file: a SQLite file that anyone can open with `sqlite3`. Outcrop opens it read-only and immutable.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rusqlite::types::{FromSql, FromSqlResult, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::de::DeserializeOwned;

use super::osv::{Range, Severity};

/// SQLite's `application_id` of advisory databases: `Outc`.
pub(super) const APPLICATION_ID: u32 = 0x4f75_7463;

/// SQLite's `user_version`: the version of this schema.
pub(super) const FORMAT: u32 = 1;

/// The schema. Lists of IDs, ranges, versions and severities are JSON, in OSV's format.
pub(super) const SCHEMA: &str = "
    CREATE TABLE source (ecosystem TEXT PRIMARY KEY, records INTEGER NOT NULL, newest TEXT NOT NULL, origins TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE advisory (number INTEGER PRIMARY KEY, id TEXT NOT NULL, modified TEXT NOT NULL, summary TEXT NOT NULL,
        severity TEXT NOT NULL, rating TEXT, aliases TEXT NOT NULL, upstream TEXT NOT NULL, related TEXT NOT NULL);
    CREATE TABLE affected (ecosystem TEXT, package TEXT, number INTEGER, part INTEGER, ranges TEXT NOT NULL, versions TEXT NOT NULL,
        severity TEXT NOT NULL, status TEXT, PRIMARY KEY (ecosystem, package, number, part)) WITHOUT ROWID;
    CREATE TABLE alias (id TEXT, ecosystem TEXT, number INTEGER, PRIMARY KEY (id, ecosystem, number)) WITHOUT ROWID;";

/// Maximum size of the texts of a row, in bytes. The file is not trusted, like a feed; the largest real row has some ten thousand.
pub(super) const MAX_ROW: usize = 1 << 20;

/// Maximum number of entries of a list, and of events of a range.
pub(super) const MAX_ENTRIES: usize = 100_000;

/// Maximum number of IDs of a list.
pub(super) const MAX_IDS: usize = 1000;

/// Maximum size of an ID, in bytes.
pub(super) const MAX_ID: usize = 256;

/// Maximum size of a package name or a version of a range, in bytes.
pub(super) const MAX_TEXT: usize = 1024;

/// Maximum length of a summary, in characters. An ellipsis follows one that was cut.
pub(super) const MAX_SUMMARY: usize = 300;

/// Maximum length of a rating or a status, in characters.
pub(super) const MAX_WORD: usize = 64;

/// Maximum weight of all advisories about one package, which matching loads at once: about their memory, in bytes. The kernel of a distribution
/// with ten years of advisories needs half of it.
pub(super) const MAX_WEIGHT: u64 = 64 << 20;

/// Returns the weight of one advisory about a package, whose texts have `texts` bytes, and its lists of IDs `ids` bytes: each ID can become a
/// finding of its own.
pub(super) const fn weight(texts: u64, ids: u64) -> u64 {
    512_u64.saturating_add(texts).saturating_add(ids.saturating_mul(32))
}

/// Why a database cannot be used. Each message ends with a hint.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file does not exist.
    #[error("opening advisory database {0:?}: file not found; build it with outcrop db build --from PATH --out {0:?}")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("opening advisory database {path:?}: {source}; check its owner and its permissions")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not an advisory database.
    #[error(
        "opening advisory database {path:?}: not an advisory database ({reason}); build one with outcrop db build --from PATH --out FILE"
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The file has the format of another version of Outcrop.
    #[error(
        "opening advisory database {path:?}: unsupported format {found}, expected {FORMAT}; rebuild it with outcrop db build --from PATH --out FILE"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file is damaged.
    #[error(
        "reading advisory database {path:?}: the file is damaged ({reason}); rebuild it with outcrop db build --from PATH --out FILE"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's message.
        reason: String,
    },
}

/// A source in a database: one ecosystem.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SourceInfo {
    /// OSV's name of the ecosystem, with its release.
    pub ecosystem: String,
    /// Number of records.
    pub records: u64,
    /// When the newest record was last changed (RFC 3339).
    pub newest: String,
    /// The files that contained the records.
    pub origins: String,
}

/// An open advisory database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    pub(super) connection: Connection,
}

/// A list that is stored as JSON. It stays text until it is used, because thousands of advisories about one package are in memory together.
#[derive(Clone, Debug)]
pub(super) struct List<T>(Box<str>, PhantomData<T>);

impl<T: DeserializeOwned> List<T> {
    fn is_empty(&self) -> bool {
        &*self.0 == "[]"
    }

    /// Returns the size of the text, in bytes.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// Parses the list.
    pub(super) fn parse(&self) -> Result<Vec<T>, serde_json::Error> {
        if self.is_empty() { Ok(Vec::new()) } else { serde_json::from_str(&self.0) }
    }
}

impl<T> FromSql for List<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str().map(|text| Self(text.into(), PhantomData))
    }
}

/// A row of `advisory` with one of its rows of `affected`.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub(super) id: String,
    pub(super) summary: String,
    pub(super) severity: List<Severity>,
    pub(super) rating: Option<String>,
    pub(super) aliases: List<String>,
    pub(super) upstream: List<String>,
    pub(super) related: List<String>,
    pub(super) ranges: List<Range>,
    pub(super) versions: List<String>,
    pub(super) status: Option<String>,
}

impl Hit {
    fn weight(&self) -> u64 {
        let texts = self.summary.len() + self.severity.size() + self.ranges.size() + self.versions.size();
        let ids = self.id.len() + self.aliases.size() + self.upstream.size() + self.related.size();
        weight(texts as u64, ids as u64)
    }
}

impl Database {
    /// Opens a database file, read-only.
    ///
    /// # Errors
    /// When the file is missing, is not an advisory database, has another format, or is damaged.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let bad = |reason: String| DatabaseError::NotADatabase { path: path.to_owned(), reason };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DatabaseError::Missing(path.to_owned()));
            }
            Err(error) => return Err(bad(error.to_string())),
        };
        if !metadata.is_file() {
            return Err(bad("not a regular file".to_owned()));
        }
        let mut file =
            std::fs::File::open(path).map_err(|source| DatabaseError::Unreadable { path: path.to_owned(), source })?;
        // Immutable: no lock, no journal is looked for, and no file appears beside it.
        let name = path.canonicalize().map_err(|error| bad(error.to_string()))?;
        let mut uri = String::from("file:");
        for byte in name.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => uri.push(char::from(*byte)),
                byte => uri.push_str(&format!("%{byte:02x}")),
            }
        }
        uri.push_str("?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri, flags).map_err(|error| bad(error.to_string()))?;
        connection
            .set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, MAX_ROW as i32)
            .map_err(|error| bad(error.to_string()))?;
        let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0));
        let application = number("application_id").map_err(|error| bad(error.to_string()))?;
        if application != APPLICATION_ID {
            return Err(bad("an empty SQLite file, or one of another program".to_owned()));
        }
        let found = number("user_version").map_err(|error| bad(error.to_string()))?;
        if found != FORMAT {
            return Err(DatabaseError::Format { path: path.to_owned(), found });
        }
        let database = Self { path: path.to_owned(), connection };
        // SQLite's header contains the number of pages, so that a truncated file is an error here and not in the middle of a scan.
        let pages: u32 =
            database.query(|connection| connection.query_row("PRAGMA page_count", [], |row| row.get(0)))?;
        let size: u32 = database.query(|connection| connection.query_row("PRAGMA page_size", [], |row| row.get(0)))?;
        let header: u32 = {
            let mut header = [0; 32];
            std::io::Read::read_exact(&mut file, &mut header).map_err(|error| bad(error.to_string()))?;
            u32::from_be_bytes([header[28], header[29], header[30], header[31]])
        };
        if u64::from(pages.max(header)) * u64::from(size) > metadata.len() {
            return Err(DatabaseError::Damaged { path: path.to_owned(), reason: "the file is truncated".to_owned() });
        }
        super::trust::only_tables(&database.connection).map_err(bad)?;
        database.sources()?;
        Ok(database)
    }

    fn query<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, DatabaseError> {
        run(&self.connection).map_err(|error| self.damaged(reason(&error)))
    }

    /// Returns the error for contents that cannot be used.
    pub(super) fn damaged(&self, reason: impl Into<String>) -> DatabaseError {
        DatabaseError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the sources, sorted by ecosystem.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn sources(&self) -> Result<Vec<SourceInfo>, DatabaseError> {
        self.query(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT ecosystem, records, newest, origins FROM source ORDER BY ecosystem")?;
            let rows = statement.query_map([], |row| {
                Ok(SourceInfo {
                    ecosystem: row.get(0)?,
                    records: u64::from(row.get::<_, u32>(1)?),
                    newest: row.get(2)?,
                    origins: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Returns the advisories about a package. They are an error where they weigh more than [`MAX_WEIGHT`].
    pub(super) fn advisories(&self, ecosystem: &str, package: &str) -> Result<Vec<Hit>, DatabaseError> {
        let mut total = 0;
        let hits = self.query(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT a.id, a.summary, a.severity, a.rating, a.aliases, a.upstream, a.related,
                        f.ranges, f.versions, f.severity, f.status
                 FROM affected f JOIN advisory a ON a.number = f.number
                 WHERE f.ecosystem = ? AND f.package = ? ORDER BY f.number, f.part",
            )?;
            let rows = statement.query_map(params![ecosystem, package], |row| {
                let own: List<Severity> = row.get(9)?;
                Ok(Hit {
                    id: row.get(0)?,
                    summary: row.get(1)?,
                    severity: if own.is_empty() { row.get(2)? } else { own },
                    rating: row.get(3)?,
                    aliases: row.get(4)?,
                    upstream: row.get(5)?,
                    related: row.get(6)?,
                    ranges: row.get(7)?,
                    versions: row.get(8)?,
                    status: row.get(10)?,
                })
            })?;
            let fitting = rows.take_while(|hit| {
                total += hit.as_ref().map_or(0, Hit::weight);
                total <= MAX_WEIGHT
            });
            fitting.collect()
        })?;
        if total > MAX_WEIGHT { Err(self.damaged(too_many(ecosystem, package))) } else { Ok(hits) }
    }

    /// Returns whether an ecosystem has an advisory about a package.
    pub(super) fn has_package(&self, ecosystem: &str, package: &str) -> Result<bool, DatabaseError> {
        self.query(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT 1 FROM affected WHERE ecosystem = ? AND package = ? LIMIT 1")?;
            statement.exists(params![ecosystem, package])
        })
    }

    /// Returns whether any ecosystem has an advisory with this ID or alias.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn knows(&self, id: &str) -> Result<bool, DatabaseError> {
        self.query(|connection| {
            let mut statement = connection.prepare_cached("SELECT 1 FROM alias WHERE id = ? LIMIT 1")?;
            statement.exists(params![id])
        })
    }

    /// Returns whether an ecosystem has an advisory with this ID or alias.
    pub(super) fn has_id(&self, ecosystem: &str, id: &str) -> Result<bool, DatabaseError> {
        self.query(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT 1 FROM alias WHERE id = ? AND ecosystem = ? LIMIT 1")?;
            statement.query_row(params![id, ecosystem], |_| Ok(())).optional().map(|found| found.is_some())
        })
    }
}

/// Returns the reason why the advisories about a package cannot be used.
pub(super) fn too_many(ecosystem: &str, package: &str) -> String {
    format!(
        "the advisories about the package {package:?} of {ecosystem} take more memory than the limit of {MAX_WEIGHT} bytes"
    )
}

/// Returns SQLite's message, or a clearer one for a row that is too large.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::TooBig) => format!("a row is larger than the limit of {MAX_ROW} bytes"),
        _ => error.to_string(),
    }
}

//! Migrates stores of version 1 (Outcrop 1258caa and earlier) to this version.
//!
//! The new file is built beside the old one and renamed into its place at the end. Until then nothing of the old file changes, so that a
//! crash at any point leaves a store of version 1, and the migration begins anew. The old file stays as `store.v1.bak`.
//!
//! Version 1 had no foreign keys and remembered ids in memory, so rows may refer to rows that do not exist: these are dropped and counted.
//! An id may also have been assigned to another vulnerability, which the file does not show. Every stack is therefore merged and
//! matched again: `inputs` and `matched` stay NULL. When a finding opened is kept, because equal packages and verdicts keep their rows.

use std::io;
use std::path::{Path, PathBuf};

use outcrop_proto::{Distribution, Package, PackageType, SourcePackage};
use rusqlite::{Connection, OpenFlags, Row, params};

use super::StoreError;
use super::keys::{Key, distribution_key, evidence_key, package_key};
use super::lock::{beside, in_use};
use super::offline::{Check, check, database_failed, file_failed, sync_directory_of};
use crate::store::ErrorKind;

const DOING: &str = "migrating the store from version 1";

/// Returns whether the file at `path` is a store of version 1, which [`Sqlite::open`](super::Sqlite::open) migrates: with millions of rows that
/// takes more than half a minute.
///
/// # Errors
/// When the file cannot be opened.
pub fn needs_migration(path: &Path) -> Result<bool, StoreError> {
    if !path.metadata().is_ok_and(|file| file.len() > 0) {
        return Ok(false);
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('stack_package', 'problem', 'run')";
    match connection.query_row(sql, [], |row| row.get::<_, i64>(0)) {
        Ok(tables) => Ok(tables == 3),
        // The error of opening the file is more specific.
        Err(_) => Ok(false),
    }
}

/// Returns the path at which the new file is built, and removes what an earlier attempt left there.
pub(super) fn new_file(path: &Path) -> Result<PathBuf, StoreError> {
    let new = beside(path, ".new");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match std::fs::remove_file(beside(&new, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_failed(DOING, &new, &error)),
            _ => {}
        }
    }
    Ok(new)
}

/// Copies the store of version 1 at `path` into the empty store of this version at `new`, and puts that in its place.
pub(super) fn migrate(path: &Path, new: &Path) -> Result<(), StoreError> {
    let started = std::time::Instant::now();
    settle(path)?;
    let connection = Connection::open_with_flags(new, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let old = path.to_str().ok_or_else(|| StoreError::new(DOING, ErrorKind::Rejected, "the path is not UTF-8"))?;
    // A crash leaves an unused file, so it need not be durable before it is complete.
    connection
        .execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;")
        .map_err(failed)?;
    connection.execute_batch("PRAGMA cache_size = -131072; PRAGMA temp_store = MEMORY;").map_err(failed)?;
    connection.execute("ATTACH ? AS old", [old]).map_err(failed)?;
    connection.execute_batch("BEGIN").map_err(failed)?;
    let indexes = drop_indexes(&connection).map_err(failed)?;
    let dropped = copy(&connection).map_err(failed)?;
    connection.execute_batch(&indexes).map_err(failed)?;
    connection.execute_batch("COMMIT; DETACH old;").map_err(failed)?;
    check(DOING, &connection, Check::Quick)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL;").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    let synced = std::fs::File::open(new).and_then(|file| file.sync_all());
    synced.map_err(|error| file_failed(DOING, new, &error))?;
    let kept = keep_old(path).map_err(|error| file_failed(DOING, path, &error))?;
    std::fs::rename(new, path).map_err(|error| file_failed(DOING, path, &error))?;
    sync_directory_of(path).map_err(|error| file_failed(DOING, path, &error))?;
    tracing::info!(
        seconds = started.elapsed().as_secs_f64(),
        dropped,
        kept = %kept.display(),
        "store migrated; every stack is merged and matched again"
    );
    Ok(())
}

/// Brings everything of the old store into its one file: what its write-ahead log has would be lost otherwise.
fn settle(path: &Path) -> Result<(), StoreError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let mode: String = match connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)) {
        Ok(mode) => mode,
        Err(error) => {
            let error = database_failed(DOING, &error);
            return Err(if error.kind == ErrorKind::InUse { in_use(DOING, path) } else { error });
        }
    };
    if mode != "delete" {
        return Err(in_use(DOING, path));
    }
    connection.close().map_err(|(_, error)| failed(error))
}

/// Gives the old file a second name, under which it stays.
fn keep_old(path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = path.metadata()?.ino();
    for attempt in 1.. {
        let suffix = if attempt == 1 { String::new() } else { format!(".{attempt}") };
        let name = path.with_file_name(format!("store.v1.bak{suffix}"));
        match std::fs::hard_link(path, &name) {
            // A migration that was interrupted has named it already.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if name.symlink_metadata()?.ino() == inode {
                    return Ok(name);
                }
            }
            Err(error) => return Err(error),
            Ok(()) => {
                sync_directory_of(&name)?;
                return Ok(name);
            }
        }
    }
    Err(io::Error::other("no name is left for the old file"))
}

/// Drops the indexes of the largest tables, and returns the statements that create them again: sorting all rows once is ten times faster than
/// inserting each into three indexes.
fn drop_indexes(connection: &Connection) -> rusqlite::Result<String> {
    let mut select = connection.prepare(
        "SELECT name, sql FROM main.sqlite_master
         WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('package_set_package', 'finding')",
    )?;
    let indexes = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let indexes: Vec<(String, String)> = indexes.collect::<rusqlite::Result<_>>()?;
    let mut create = String::new();
    for (name, sql) in indexes {
        connection.execute_batch(&format!("DROP INDEX main.{name}"))?;
        create.push_str(&sql);
        create.push_str(";\n");
    }
    Ok(create)
}

/// Copies all rows whose references exist. Returns the number of those that were dropped.
fn copy(connection: &Connection) -> rusqlite::Result<i64> {
    connection.execute_batch(
        "CREATE TEMP TABLE distribution_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
         CREATE TEMP TABLE package_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
         CREATE TEMP TABLE evidence_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
         CREATE TEMP TABLE verdict_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
         CREATE TEMP TABLE subject_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);",
    )?;
    copy_distributions(connection)?;
    copy_packages(connection)?;
    copy_evidence(connection)?;
    copy_subjects(connection)?;
    connection.execute_batch(COPY)?;
    // Rows that differ in nothing but their id become one, and are not lost.
    connection.query_row(DROPPED, [], |row| row.get(0))
}

fn copy_distributions(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT id, os, version, codename, name FROM old.distribution ORDER BY id")?;
    let mut insert = connection.prepare("INSERT INTO distribution VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")?;
    let mut map = connection.prepare("INSERT INTO distribution_map SELECT ?, id FROM distribution WHERE key = ?")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let of = Distribution {
            id: row.get(1)?,
            version_id: row.get(2)?,
            codename: row.get(3)?,
            name: row.get(4)?,
            ..Distribution::default()
        };
        let Key(key) = distribution_key(&of);
        insert.execute(params![id, key, of.id, of.version_id, of.codename, of.name])?;
        map.execute(params![id, key])?;
    }
    Ok(())
}

fn copy_packages(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare(
        "SELECT package.*, distribution_map.new AS new_distribution, os, of.version AS os_version, codename, of.name AS os_name
         FROM old.package AS package LEFT JOIN old.distribution AS of ON of.id = package.distribution
         LEFT JOIN distribution_map ON distribution_map.old = package.distribution
         WHERE package.distribution IS NULL OR of.id IS NOT NULL ORDER BY package.id",
    )?;
    let mut insert = connection
        .prepare("INSERT INTO package VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")?;
    let mut map = connection.prepare("INSERT INTO package_map SELECT ?, id FROM package WHERE key = ?")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let Some((package, distribution)) = old_package(row)? else { continue };
        let (id, purl): (i64, String) = (row.get("id")?, row.get("purl")?);
        let Key(key) = package_key(&package, distribution.as_ref(), &purl);
        let (source, source_version) = package.source.map(|source| (source.name, source.version)).unzip();
        insert.execute(params![
            id,
            key,
            package.kind.as_str(),
            package.name,
            row.get::<_, String>("short")?,
            package.version,
            package.arch,
            source,
            source_version,
            package.vendor,
            package.module,
            row.get::<_, Option<i64>>("new_distribution")?,
            purl,
        ])?;
        map.execute(params![id, key])?;
    }
    Ok(())
}

/// Returns a package and its distribution; `None` for a type that version 1 did not have.
fn old_package(row: &Row<'_>) -> rusqlite::Result<Option<(Package, Option<Distribution>)>> {
    let Some(kind) = PackageType::from_name(&row.get::<_, String>("type")?) else { return Ok(None) };
    let mut package = Package::new(kind, row.get::<_, String>("name")?, row.get::<_, String>("version")?);
    package.arch = row.get("arch")?;
    let source: Option<String> = row.get("source")?;
    package.source = source.zip(row.get("source_version")?).map(|(name, version)| SourcePackage { name, version });
    package.vendor = row.get("vendor")?;
    package.module = row.get("module")?;
    let Some(id) = row.get("os")? else { return Ok(Some((package, None))) };
    let distribution = Distribution {
        id,
        version_id: row.get("os_version")?,
        codename: row.get("codename")?,
        name: row.get("os_name")?,
        ..Distribution::default()
    };
    Ok(Some((package, Some(distribution))))
}

fn copy_evidence(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT id, paths FROM old.evidence ORDER BY id")?;
    let mut insert = connection.prepare("INSERT INTO evidence VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?;
    let mut map = connection.prepare("INSERT INTO evidence_map SELECT ?, id FROM evidence WHERE key = ?")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (id, paths): (i64, String) = (row.get(0)?, row.get(1)?);
        let Key(key) = evidence_key(&paths);
        insert.execute(params![id, key, paths])?;
        map.execute(params![id, key])?;
    }
    Ok(())
}

/// A subject was one text: `@namespace/group/kind/name/container`, or `node/namespace/container`.
fn copy_subjects(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT id, key FROM old.subject ORDER BY id")?;
    let mut insert = connection.prepare(
        "INSERT INTO subject SELECT ?, cluster, ?, ?, ?, ?, ?, ?, ? FROM meta WHERE true ON CONFLICT DO NOTHING",
    )?;
    let mut map = connection.prepare("INSERT INTO subject_map VALUES (?, ?)")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (id, key): (i64, String) = (row.get(0)?, row.get(1)?);
        let inserted = match key.strip_prefix('@') {
            Some(key) => match key.splitn(5, '/').collect::<Vec<_>>().as_slice() {
                [namespace, group, kind, name, container] => {
                    insert.execute(params![id, "workload-container", namespace, group, kind, name, container, ""])?
                }
                _ => 0,
            },
            None => match key.splitn(3, '/').collect::<Vec<_>>().as_slice() {
                [node, namespace, container] => {
                    insert.execute(params![id, "container", namespace, "", "", "", container, node])?
                }
                _ => 0,
            },
        };
        if inserted > 0 {
            map.execute(params![id, id])?;
        }
    }
    Ok(())
}

/// The rest, where the rows that it refers to were copied.
const COPY: &str = "
INSERT INTO layer SELECT id, digest, size, cataloguers, node, cage, marks, read_at, inventory FROM old.layer;
INSERT INTO verification SELECT layer, node, at FROM old.verification WHERE layer IN (SELECT id FROM layer);
INSERT INTO distrusted SELECT cluster, node, at FROM old.distrusted CROSS JOIN meta;

INSERT INTO package_set (id, kind, distribution, types, packages, unidentified, withheld, severities, by_layer)
    SELECT id, 'stack', new, types, packages, unidentified, withheld, severities, by_layer
    FROM old.stack LEFT JOIN distribution_map ON distribution_map.old = distribution;
INSERT INTO stack (id, chain, layers, state, reason, catalogers)
    SELECT id, chain, layers, state, reason, cataloguers FROM old.stack;

INSERT INTO package_set_package
    SELECT stack, package, row_number() OVER (PARTITION BY stack, package ORDER BY owner IS NOT NULL, owner) - 1, owner, layer,
        evidence
    FROM (SELECT stack, package_map.new AS package, owner_map.new AS owner, min(layer) AS layer,
            min(evidence_map.new) AS evidence
        FROM old.stack_package AS held
        JOIN package_map ON package_map.old = held.package
        LEFT JOIN package_map AS owner_map ON owner_map.old = held.owner
        JOIN evidence_map ON evidence_map.old = held.evidence
        WHERE stack IN (SELECT id FROM stack) AND (held.owner = 0 OR owner_map.new IS NOT NULL)
        GROUP BY 1, 2, 3);

INSERT INTO verdict SELECT id, new, problem, unassessed, rank, score, status, fixed, summary, aliases
    FROM old.verdict JOIN package_map ON package_map.old = package WHERE true ORDER BY id ON CONFLICT DO NOTHING;
INSERT INTO verdict_map SELECT told.id, verdict.id
    FROM old.verdict AS told JOIN package_map ON package_map.old = told.package
    JOIN verdict ON verdict.package = package_map.new AND vulnerability = problem AND verdict.unassessed = told.unassessed;
INSERT OR IGNORE INTO vulnerability_name SELECT name, new FROM old.problem JOIN verdict_map ON verdict_map.old = verdict;

INSERT OR IGNORE INTO finding SELECT stack, new, opened, closed
    FROM old.finding JOIN verdict_map ON verdict_map.old = verdict WHERE stack IN (SELECT id FROM stack);

INSERT INTO run SELECT new, stack, since, until
    FROM old.run JOIN subject_map ON subject_map.old = subject WHERE stack IN (SELECT id FROM stack);

INSERT OR IGNORE INTO advisory_database (digest) SELECT database FROM old.rematch;
INSERT INTO rematch SELECT old.id, advisory_database.id, at, seconds, stacks, appeared, went
    FROM old.rematch AS old JOIN advisory_database ON digest = database;
";

/// Number of rows that were dropped.
const DROPPED: &str = "SELECT (SELECT count(*) FROM old.verification) - (SELECT count(*) FROM verification)
    + (SELECT count(*) FROM old.package) - (SELECT count(*) FROM package_map)
    + (SELECT count(*) FROM old.subject) - (SELECT count(*) FROM subject)
    + (SELECT count(*) FROM old.verdict) - (SELECT count(*) FROM verdict_map)
    + (SELECT count(*) FROM old.stack_package AS held WHERE stack NOT IN (SELECT id FROM stack)
        OR package NOT IN (SELECT old FROM package_map) OR evidence NOT IN (SELECT old FROM evidence_map)
        OR owner <> 0 AND owner NOT IN (SELECT old FROM package_map))
    + (SELECT count(*) FROM old.finding WHERE stack NOT IN (SELECT id FROM stack)
        OR verdict NOT IN (SELECT old FROM verdict_map))
    + (SELECT count(*) FROM old.run) - (SELECT count(*) FROM run)";

fn failed(error: rusqlite::Error) -> StoreError {
    database_failed(DOING, &error)
}

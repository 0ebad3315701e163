//! Builds a database file from OSV records.
//!
//! Builds are reproducible: the same records give the same bytes in any order of input. The file is written atomically.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use outcrop_proto::Ecosystem;
use outcrop_proto::ecosystem::by_osv_name;
use rusqlite::{Connection, params};

use super::database::{
    APPLICATION_ID, FORMAT, MAX_ENTRIES, MAX_ID, MAX_IDS, MAX_ROW, MAX_SUMMARY, MAX_TEXT, MAX_WEIGHT, MAX_WORD, SCHEMA,
    too_many, weight,
};
use super::feed::{self, Sink, Unusable};
use super::osv::{Range, Record};

/// Why a database could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An input could not be read.
    #[error("{0}; nothing was written, because the database would lack its records")]
    Input(String),
    /// The inputs contain no usable record.
    #[error("reading {inputs}: no usable OSV record found{}; nothing was written", first(.unusable))]
    Empty {
        /// The inputs.
        inputs: String,
        /// Records that could not be used, sorted.
        unusable: Vec<Unusable>,
    },
    /// The file could not be written.
    #[error("writing advisory database {path}: {reason}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

/// Returns the first unusable record as text.
fn first(unusable: &[Unusable]) -> String {
    let text = |first: &Unusable| format!(" ({}: {})", first.file, first.reason);
    unusable.first().map(text).unwrap_or_default()
}

/// Counts of a finished build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Records in the database.
    pub records: usize,
    /// Records that were skipped because they are withdrawn.
    pub withdrawn: usize,
    /// Records that were skipped because Outcrop cannot match them: of other ecosystems, or with ranges of commits only.
    pub irrelevant: usize,
    /// Older copies of records that occur several times.
    pub superseded: usize,
    /// Records that could not be used, sorted.
    pub unusable: Vec<Unusable>,
}

/// Counts of a running build, for a progress display.
#[derive(Debug, Default)]
pub struct BuildProgress {
    /// Records that were read.
    pub read: AtomicU64,
    /// Records that were written, out of [`BuildProgress::to_write`].
    pub written: AtomicU64,
    /// Records to write; 0 until all are read.
    pub to_write: AtomicU64,
}

struct Gathered<'a> {
    records: BTreeMap<String, (Record, String)>,
    origin: String,
    report: BuildReport,
    progress: &'a BuildProgress,
}

impl Sink for Gathered<'_> {
    fn record(&mut self, mut record: Record, archive: Option<&str>) {
        self.progress.read.fetch_add(1, Ordering::Relaxed);
        let origin = archive.map_or_else(|| self.origin.clone(), ToOwned::to_owned);
        // All records stay in memory until they are sorted, so only stored fields are kept.
        record.summary = Some(summary(&record));
        record.details = None;
        // Records that were never published anywhere carry Go's zero time.
        if record.modified.starts_with("0001-") {
            record.modified.clear();
        }
        match self.records.get(&record.id) {
            // The newest copy counts. Of two equally new ones, the content decides, so that the order of input does not matter.
            Some((known, from)) if (rank(known), from) >= (rank(&record), &origin) => self.report.superseded += 1,
            known => {
                self.report.superseded += usize::from(known.is_some());
                self.records.insert(record.id.clone(), (record, origin));
            }
        }
    }

    fn unusable(&mut self, unusable: Unusable) {
        self.report.unusable.push(unusable);
    }
}

fn rank(record: &Record) -> (String, String) {
    (record.modified.clone(), format!("{record:?}"))
}

/// Builds the database `out` from the OSV records in `from`.
///
/// # Errors
/// When an input cannot be read, no record is usable, or the file cannot be written. Single unusable records are in the report.
pub fn build(from: &[PathBuf], out: &Path) -> Result<BuildReport, BuildError> {
    build_with(from, out, &BuildProgress::default())
}

/// Builds a database like [`build`], and counts in `progress`.
///
/// # Errors
/// Returns the errors of [`build`].
pub fn build_with(from: &[PathBuf], out: &Path, progress: &BuildProgress) -> Result<BuildReport, BuildError> {
    let fail = |reason: String| BuildError::Write { path: out.to_owned(), reason };
    if out.is_dir() {
        return Err(fail("it is a directory; pass the path of a file".to_owned()));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Checked here, because the error of the temporary file would contain the name of the temporary file.
    let unwritable = |error: &std::io::Error| fail(format!("directory {}: {error}", folder.display()));
    fs::metadata(folder).map_err(|error| unwritable(&error))?;
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).map_err(|error| unwritable(&error.into()))?;
    let (records, report) = (BTreeMap::new(), BuildReport::default());
    let mut gathered = Gathered { records, origin: String::new(), report, progress };
    for path in from {
        gathered.origin =
            path.canonicalize().as_ref().unwrap_or(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        feed::read(path, &mut gathered).map_err(BuildError::Input)?;
    }
    let Gathered { records, mut report, .. } = gathered;
    progress.to_write.store(records.len() as u64, Ordering::Relaxed);
    let temporary = tempfile::Builder::new()
        .prefix(".outcrop-db-")
        .tempfile_in(folder)
        .map_err(|error| fail(error.to_string()))?
        .into_temp_path();
    let written = write(&temporary, records, &mut report, progress).map_err(|error| fail(error.to_string()))?;
    report.unusable.sort();
    if written == 0 {
        let inputs: Vec<String> = from.iter().map(|path| path.display().to_string()).collect();
        return Err(BuildError::Empty { inputs: inputs.join(", "), unusable: report.unusable });
    }
    let sync = || -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = fs::File::open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()
    };
    sync().map_err(|error| fail(error.to_string()))?;
    temporary.persist(out).map_err(|error| fail(error.error.to_string()))?;
    // The rename is durable only after the directory was synced.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| fail(error.to_string()))?;
    Ok(report)
}

/// Counts of a source, which is an ecosystem with its release.
#[derive(Default)]
struct Source {
    records: u64,
    newest: String,
    origins: BTreeSet<String>,
}

fn write(
    path: &Path,
    records: BTreeMap<String, (Record, String)>,
    report: &mut BuildReport,
    progress: &BuildProgress,
) -> Result<usize, rusqlite::Error> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {SCHEMA}"
    ))?;
    let transaction = connection.transaction()?;
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    let mut weights: HashMap<(String, String), u64> = HashMap::new();
    let mut number = 0_i64;
    {
        let mut advisory = transaction.prepare("INSERT INTO advisory VALUES (?,?,?,?,?,?,?,?,?)")?;
        let mut affected = transaction.prepare("INSERT OR IGNORE INTO affected VALUES (?,?,?,?,?,?,?,?)")?;
        let mut alias = transaction.prepare("INSERT OR IGNORE INTO alias VALUES (?,?,?)")?;
        for (record, origin) in records.into_values() {
            progress.written.fetch_add(1, Ordering::Relaxed);
            if record.withdrawn.is_some() {
                report.withdrawn += 1;
                continue;
            }
            let entries = usable(&record);
            if entries.is_empty() {
                report.irrelevant += 1;
                continue;
            }
            let row = Row::new(&record);
            if let Err(reason) = reserve(&mut weights, &row, &entries) {
                report.unusable.push(Unusable { file: format!("{origin}: {}", record.id), reason });
                continue;
            }
            number += 1;
            advisory.execute(params![
                number,
                record.id,
                record.modified,
                record.summary,
                row.severity,
                row.rating,
                row.aliases,
                row.upstream,
                row.related,
            ])?;
            let mut ecosystems = BTreeSet::new();
            for (part, entry) in entries.iter().enumerate() {
                ecosystems.insert(entry.ecosystem.clone());
                affected.execute(params![
                    entry.ecosystem,
                    entry.name,
                    number,
                    part as i64,
                    entry.ranges,
                    entry.versions,
                    entry.severity,
                    entry.status,
                ])?;
            }
            for ecosystem in ecosystems {
                let own = [Some(&vec![record.id.clone()]), record.aliases.as_ref()];
                // In these fields, distributions list the vulnerabilities that a record is about.
                let more = [record.upstream.as_ref(), record.related.as_ref()];
                let more = more.into_iter().filter(|_| by_osv_name(&ecosystem).is_some_and(Ecosystem::is_os));
                for id in own.into_iter().chain(more).flat_map(ids) {
                    alias.execute(params![id, ecosystem, number])?;
                }
                let source = sources.entry(ecosystem).or_default();
                source.records += 1;
                source.newest = source.newest.as_str().max(&record.modified).to_owned();
                source.origins.insert(origin.clone());
            }
        }
        let mut insert = transaction.prepare("INSERT INTO source VALUES (?,?,?,?)")?;
        for (ecosystem, source) in &sources {
            let origins: Vec<&str> = source.origins.iter().map(String::as_str).collect();
            insert.execute(params![ecosystem, source.records as i64, source.newest, origins.join(", ")])?;
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    report.records = usize::try_from(number).unwrap_or_default();
    Ok(report.records)
}

/// The lists of a record, as they are stored.
struct Row {
    severity: String,
    rating: Option<String>,
    aliases: String,
    upstream: String,
    related: String,
    /// Size of its texts, in bytes.
    size: usize,
}

impl Row {
    fn new(record: &Record) -> Self {
        let rating = record.database_specific.as_ref().and_then(|specific| specific.severity.as_ref()?.text());
        let texts = record.id.len() + record.modified.len() + record.summary.as_ref().map_or(0, String::len);
        let mut row = Self {
            severity: json(&record.severity.as_deref().unwrap_or_default()),
            rating: rating.map(|rating| rating.chars().take(MAX_WORD).collect()),
            aliases: json(&ids(record.aliases.as_ref())),
            upstream: json(&ids(record.upstream.as_ref())),
            related: json(&ids(record.related.as_ref())),
            size: texts + MAX_WORD,
        };
        row.size += row.severity.len() + row.ids();
        row
    }

    /// Returns the size of its lists of IDs, in bytes.
    fn ids(&self) -> usize {
        self.aliases.len() + self.upstream.len() + self.related.len()
    }
}

/// An affected entry that can be matched, with its lists as they are stored.
struct Entry {
    ecosystem: String,
    name: String,
    ranges: String,
    versions: String,
    severity: String,
    status: Option<String>,
    /// Set if a list has too many entries.
    is_long: bool,
}

/// Adds a record to the weights of its packages. A record that a reader would refuse is an error, and adds nothing.
fn reserve(weights: &mut HashMap<(String, String), u64>, row: &Row, entries: &[Entry]) -> Result<(), String> {
    let size = |entry: &Entry| entry.ranges.len() + entry.versions.len() + entry.severity.len();
    // The names and the numbers of a row have room beside its lists.
    let fits = |size: usize| size <= MAX_ROW - 4 * MAX_TEXT;
    if !fits(row.size) || !entries.iter().all(|entry| fits(size(entry)) && !entry.is_long) {
        return Err(format!("it lists more than {MAX_ENTRIES} versions, or is larger than {MAX_ROW} bytes"));
    }
    let mut added: HashMap<(String, String), u64> = HashMap::new();
    for entry in entries {
        let weight = weight((row.size + size(entry)) as u64, (MAX_ID + row.ids()) as u64);
        *added.entry((entry.ecosystem.clone(), entry.name.clone())).or_default() += weight;
    }
    let total = |(package, weight): (&(String, String), &u64)| weights.get(package).unwrap_or(&0) + weight;
    if let Some((package, _)) = added.iter().filter(|added| total(*added) > MAX_WEIGHT).min() {
        return Err(too_many(&package.0, &package.1));
    }
    for (package, weight) in added {
        *weights.entry(package).or_default() += weight;
    }
    Ok(())
}

/// Returns the entries of a record that Outcrop can match: of supported ecosystems, with a range of versions or with listed versions.
fn usable(record: &Record) -> Vec<Entry> {
    let mut entries = Vec::new();
    for affected in record.affected.iter().flatten().take(MAX_ENTRIES) {
        let Some(package) = &affected.package else { continue };
        let Some(row) = by_osv_name(&package.ecosystem).filter(|_| package.name.len() <= MAX_TEXT) else { continue };
        let bounded = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_TEXT);
        let ranges: Vec<Range> = affected
            .ranges
            .iter()
            .flatten()
            .filter(|range| range.r#type != "GIT")
            .filter(|range| {
                range.events.iter().all(|event| {
                    [&event.introduced, &event.fixed, &event.last_affected, &event.limit].into_iter().all(bounded)
                })
            })
            .cloned()
            .collect();
        let versions = affected.versions.as_deref().unwrap_or_default();
        if ranges.is_empty() && versions.is_empty() {
            continue;
        }
        let severity = affected.severity.as_deref().unwrap_or_default();
        let counts = [ranges.len(), versions.len(), severity.len()].into_iter();
        let is_long = counts.chain(ranges.iter().map(|range| range.events.len())).any(|count| count > MAX_ENTRIES);
        let specific = [&affected.ecosystem_specific, &affected.database_specific];
        let status = specific
            .into_iter()
            .flatten()
            .find_map(|specific| specific.urgency.as_ref().or(specific.status.as_ref())?.text());
        entries.push(Entry {
            ecosystem: package.ecosystem.clone(),
            name: (row.normalize_name)(&package.name).into_owned(),
            ranges: json(&ranges),
            versions: json(&versions),
            severity: json(&severity),
            status: status.map(|status| status.chars().take(MAX_WORD).collect()),
            is_long,
        });
    }
    entries
}

fn ids(list: Option<&Vec<String>>) -> Vec<String> {
    list.into_iter().flatten().filter(|id| !id.is_empty() && id.len() <= MAX_ID).take(MAX_IDS).cloned().collect()
}

fn summary(record: &Record) -> String {
    let text = [&record.summary, &record.details].into_iter().flatten().find(|text| !text.trim().is_empty());
    let text = text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default();
    match text.char_indices().nth(MAX_SUMMARY) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

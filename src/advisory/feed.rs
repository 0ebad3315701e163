//! Reads OSV records from files, directories and archives.
//!
//! Feeds are not trusted: the sizes of records, archives and decompressed data are limited. An unusable record is reported and skipped. A file that cannot
//! be read, or an archive that is damaged, ends the build, because it would be missing thousands of records.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use outcrop_proto::ecosystem::by_osv_name;

use super::osv::Record;
use super::range;

/// Maximum size of one record, in bytes. The largest real ones, of the Linux kernel, have about two MB.
const MAX_RECORD: u64 = 16 << 20;

/// Maximum number of records of one archive.
const MAX_RECORDS: u64 = 5_000_000;

/// Maximum decompressed size of one archive, in bytes.
const MAX_UNPACKED: u64 = 64 << 30;

/// Maximum depth of nested directories.
const MAX_DEPTH: usize = 16;

/// A record that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unusable {
    /// The path; the entry of an archive follows `!/`.
    pub file: String,
    /// The cause.
    pub reason: String,
}

/// Receives the records of a feed.
pub(super) trait Sink {
    /// Receives a record, and the name of its archive if it is in one.
    fn record(&mut self, record: Record, archive: Option<&str>);
    /// Receives the error of a record that could not be used.
    fn unusable(&mut self, unusable: Unusable);
}

/// The format of a file, determined by its name.
enum Kind {
    Json,
    Yaml,
    Zip,
    TarZstd,
    /// An unsupported format.
    Other,
}

fn kind(name: &str) -> Kind {
    let ends = |end: &str| name.ends_with(end);
    match () {
        () if ends(".json") => Kind::Json,
        () if ends(".yaml") || ends(".yml") => Kind::Yaml,
        () if ends(".zip") => Kind::Zip,
        () if ends(".tar.zst") => Kind::TarZstd,
        () => Kind::Other,
    }
}

/// Reads every record below `path`.
///
/// # Errors
/// When a file or directory cannot be read, an archive is damaged, or `path` has an unsupported format.
pub(super) fn read(path: &Path, sink: &mut dyn Sink) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("reading feed {}: {error}", path.display()))?;
    if metadata.is_dir() {
        return directory(path, 0, sink);
    }
    let name = path.display().to_string();
    match kind(&name) {
        Kind::Other => Err(format!(
            "reading feed {name}: unsupported format: expected a directory, a .json or .yaml file, a .zip from osv.dev, or a .tar.zst"
        )),
        known => file(path, known, sink),
    }
}

/// Reads a directory in the order of names, so that errors have a stable order, too.
fn directory(path: &Path, depth: usize, sink: &mut dyn Sink) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("reading {}: directories are nested more than {MAX_DEPTH} levels deep", path.display()));
    }
    let fail = |error: io::Error| format!("reading feed {}: {error}", path.display());
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .map_err(fail)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    entries.sort();
    for entry in entries {
        // Symbolic links below an input are not followed; an input itself may be one.
        let Ok(metadata) = fs::symlink_metadata(&entry) else { continue };
        if metadata.is_dir() {
            directory(&entry, depth + 1, sink)?;
        } else if metadata.is_file() {
            file(&entry, kind(&entry.display().to_string()), sink)?;
        }
    }
    Ok(())
}

fn file(path: &Path, kind: Kind, sink: &mut dyn Sink) -> Result<(), String> {
    let name = path.display().to_string();
    let own = path.file_name().unwrap_or_default().to_string_lossy();
    let result = File::open(path).map_err(|error| error.to_string()).and_then(|file| match kind {
        Kind::Json | Kind::Yaml => {
            let size = file.metadata().map_err(|error| error.to_string())?.len();
            let read = record(&name, &kind, BufReader::new(file), None, sink);
            if read < size.min(MAX_RECORD) { Err("it could not be read to its end".to_owned()) } else { Ok(()) }
        }
        Kind::Zip => zip(&name, &own, file, sink),
        Kind::TarZstd => tar(&name, &own, file, sink),
        Kind::Other => Ok(()),
    });
    result.map_err(|reason| format!("reading feed {name}: {reason}"))
}

/// Reads one record and passes it, or its error, to the sink. Returns its size in bytes.
fn record(name: &str, kind: &Kind, reader: impl Read, archive: Option<&str>, sink: &mut dyn Sink) -> u64 {
    let mut bytes = Vec::new();
    let parsed = match reader.take(MAX_RECORD + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > MAX_RECORD => Err(format!("larger than {MAX_RECORD} bytes")),
        Ok(_) => parse(kind, &bytes),
        Err(error) => Err(error.to_string()),
    };
    match parsed {
        Ok(record) => sink.record(record, archive),
        Err(reason) => sink.unusable(Unusable { file: name.to_owned(), reason }),
    }
    bytes.len() as u64
}

/// Parses and evaluates `bytes` as an OSV record in YAML or JSON, for a fuzz target.
///
/// # Errors
/// When they are not a usable record.
#[doc(hidden)]
pub fn check_record(yaml: bool, bytes: &[u8]) -> Result<(), String> {
    let record = parse(if yaml { &Kind::Yaml } else { &Kind::Json }, bytes)?;
    for affected in record.affected.iter().flatten() {
        let Some(row) = affected.package.as_ref().and_then(|package| by_osv_name(&package.ecosystem)) else {
            continue;
        };
        let versions = affected.versions.as_deref().unwrap_or_default();
        let version = range::Installed::parse(row.version_order, "1.2.3-4");
        range::evaluate(&version, affected.ranges.as_deref().unwrap_or_default(), versions);
    }
    Ok(())
}

fn parse(kind: &Kind, bytes: &[u8]) -> Result<Record, String> {
    let record: Record = match kind {
        Kind::Yaml => {
            let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
            serde_saphyr::from_str(text).map_err(|error| format!("not an OSV record: {error}"))?
        }
        _ => serde_json::from_slice(bytes).map_err(|error| format!("not an OSV record: {error}"))?,
    };
    if record.id.is_empty() || record.id.len() > 256 {
        return Err("not an OSV record: the id is empty or too long".to_owned());
    }
    Ok(record)
}

/// The work that one archive has caused.
#[derive(Default)]
struct Spent {
    records: u64,
    bytes: u64,
}

impl Spent {
    fn add(&mut self, bytes: u64) -> Result<(), String> {
        self.records += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.records > MAX_RECORDS || self.bytes > MAX_UNPACKED {
            return Err(format!("more than {MAX_RECORDS} records or {MAX_UNPACKED} bytes"));
        }
        Ok(())
    }
}

fn zip(name: &str, own: &str, file: File, sink: &mut dyn Sink) -> Result<(), String> {
    let fail = |error: rawzip::Error| format!("not a usable zip archive: {error}");
    let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let archive = rawzip::ZipArchive::from_file(file, &mut buffer).map_err(fail)?;
    let mut spent = Spent::default();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(fail)? {
        let path = entry.file_path();
        let path = String::from_utf8_lossy(path.as_ref()).into_owned();
        let kind = kind(&path);
        if !matches!(kind, Kind::Json | Kind::Yaml) {
            continue;
        }
        let name = format!("{name}!/{path}");
        let method = entry.compression_method();
        let content = archive.get_entry(entry.wayfinder()).map_err(fail)?;
        match method {
            rawzip::CompressionMethod::STORE => spent.add(record(&name, &kind, content.reader(), Some(own), sink))?,
            rawzip::CompressionMethod::DEFLATE => {
                #[expect(clippy::disallowed_types, reason = "capped: a record reads no more than its own limit")]
                let decoder = flate2::bufread::DeflateDecoder::new(BufReader::new(content.reader()));
                spent.add(record(&name, &kind, decoder, Some(own), sink))?;
            }
            _ => {
                let reason = "unsupported compression: only stored and deflated entries are supported".to_owned();
                sink.unusable(Unusable { file: name, reason });
                spent.add(0)?;
            }
        }
    }
    Ok(())
}

fn tar(name: &str, own: &str, file: File, sink: &mut dyn Sink) -> Result<(), String> {
    let fail = |error: io::Error| format!("not a usable .tar.zst archive: {error}");
    let decoder = zstd::Decoder::new(file).map_err(fail)?.take(MAX_UNPACKED);
    let mut archive = tar::Archive::new(decoder);
    let mut spent = Spent::default();
    for entry in archive.entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // Entries are never written to disk, so their paths need no check.
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = kind(&path);
        if !entry.header().entry_type().is_file() || !matches!(kind, Kind::Json | Kind::Yaml) {
            continue;
        }
        spent.add(record(&format!("{name}!/{path}"), &kind, entry, Some(own), sink))?;
    }
    Ok(())
}

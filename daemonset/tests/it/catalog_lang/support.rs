//! A tree on disk or bytes in memory, given to the catalogers as a scan would.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::DeflateEncoder};
use outcrop_agent::catalog::{ALL, CatalogError, Evidence, Source, Want};
use outcrop_proto::Fact;
use rawzip::{CompressionMethod, ZipArchiveWriter};

/// What the cataloger `name` reads from `source`, which lies at `path`.
pub(crate) fn read(name: &str, path: &str, source: &dyn Source) -> Result<Fact, CatalogError> {
    let cataloger = ALL.iter().find(|cataloger| cataloger.name() == name).expect("a cataloger of that name");
    let path = path.as_bytes();
    assert_ne!(cataloger.wants(path), Want::No, "{}", path.escape_ascii());
    let mut fact = cataloger.read(&Evidence { path, source, companions: &[] })?;
    fact.normalize();
    Ok(fact)
}

/// Every fact below `root`, and every error, by path.
pub(crate) fn catalogue(root: &Path) -> Vec<(String, Result<Fact, CatalogError>)> {
    let mut results = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a file type").is_dir() {
                pending.push(entry.path());
                continue;
            }
            let path = entry.path();
            let path = path.strip_prefix(root).expect("below the root").to_str().expect("a name in UTF-8").to_owned();
            let executable = entry.metadata().expect("metadata").permissions().mode() & 0o111 != 0;
            let wanted = ALL.iter().find(|cataloger| cataloger.wants(path.as_bytes()) != Want::No);
            let Some(cataloger) = wanted else { continue };
            if cataloger.wants(path.as_bytes()) == Want::IfExecutable && !executable {
                continue;
            }
            let bytes = fs::read(entry.path()).expect("a readable file");
            results.push((path.clone(), read(cataloger.name(), &path, &bytes.as_slice())));
        }
    }
    results.sort_by(|one, other| one.0.cmp(&other.0));
    results
}

/// `name version` of every package in `fact`, sorted.
pub(crate) fn listed(fact: &Fact) -> Vec<String> {
    let mut list: Vec<_> =
        fact.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    list.sort();
    list.dedup();
    list
}

/// The folder of fixtures that lies beside the workspace, if it is there.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared"));
    let folder = std::env::var_os("OUTCROP_SHARED").map_or_else(beside, PathBuf::from).join("data/fixtures");
    if folder.is_dir() { Some(folder) } else { None }
}

/// A zip archive of `entries`, deflated or stored.
pub(crate) fn zip(entries: &[(&str, &[u8], Method)]) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes, method) in entries {
        let method = match method {
            Method::Stored => CompressionMethod::STORE,
            Method::Deflated => CompressionMethod::DEFLATE,
        };
        let (mut entry, config) = archive.new_file(name).compression_method(method).start().unwrap();
        let descriptor = if method == CompressionMethod::STORE {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap().1
        } else {
            let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::fast()));
            writer.write_all(bytes).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            descriptor
        };
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

/// How an entry lies in an archive.
#[derive(Clone, Copy)]
pub(crate) enum Method {
    Stored,
    Deflated,
}

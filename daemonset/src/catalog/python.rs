//! Python distributions: installed wheels and eggs.
//!
//! Format: [core metadata](https://packaging.python.org/en/latest/specifications/core-metadata/), mail-style headers, then the readme.
//! Location:
//! [recording installed projects](https://packaging.python.org/en/latest/specifications/recording-installed-packages/)
//! and, for eggs, setuptools' own documentation.

use outcrop_proto::{Fact, Package, PackageType};

use super::field::{field, optional};
use super::zip::{Archive, Work};
use super::{CatalogError, Cataloger, Evidence, Source, Want};

/// Maximum size of headers, bytes. The longest headers of real wheels have 100 KB: they contain the texts of many licenses.
const MAX_HEADERS: usize = 1 << 20;

/// Size of a read of metadata, bytes. Nearly all headers end in the first one.
const CHUNK: usize = 8 << 10;

/// Maximum number of licenses of one distribution.
const MAX_LICENSES: usize = 16;

/// Reads Python distributions.
pub(super) struct Python;

impl Cataloger for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn wants(&self, path: &[u8]) -> Want {
        let wanted = match path {
            [.., b'o'] => path.ends_with(b".egg-info") || is_egg_metadata(path),
            [.., b'O'] => is_egg_metadata(path),
            [.., b'A'] => path
                .strip_suffix(b"/METADATA")
                .is_some_and(|dir| dir.ends_with(b"dist-info") || dir.ends_with(b"DIST-INFO")),
            [.., b'g'] => path.ends_with(b".egg"),
            _ => false,
        };
        if wanted { Want::Yes } else { Want::No }
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let headers = if evidence.path.ends_with(b".egg") {
            match egg_headers(evidence.source)? {
                Some(headers) => headers,
                None => return Ok(Fact::default()),
            }
        } else {
            headers(evidence.source)?
        };
        let mut fact = Fact::default();
        fact.packages.extend(distribution(&headers)?);
        Ok(fact)
    }
}

fn is_egg_metadata(path: &[u8]) -> bool {
    path.strip_suffix(b"/PKG-INFO").is_some_and(|dir| dir.ends_with(b"egg-info") || dir.ends_with(b"EGG-INFO"))
}

/// Returns the bytes up to the first blank line, without reading the readme that follows.
fn headers(source: &dyn Source) -> Result<Vec<u8>, CatalogError> {
    let mut bytes = Vec::new();
    loop {
        let start = bytes.len();
        bytes.resize(start + CHUNK, 0);
        let read = source.read_at(start as u64, &mut bytes[start..])?;
        bytes.truncate(start + read);
        // The blank line (CR LF CR LF) may span two reads.
        if read == 0 || bytes[start.saturating_sub(3)..].windows(2).any(|pair| pair == b"\n\n" || pair == b"\n\r") {
            return Ok(bytes);
        }
        if bytes.len() >= MAX_HEADERS {
            return Err(CatalogError::Limit { what: "bytes of metadata headers", limit: MAX_HEADERS as u64 });
        }
    }
}

/// Returns the metadata inside a zipped egg, if there is any.
fn egg_headers(source: &dyn Source) -> Result<Option<Vec<u8>>, CatalogError> {
    let mut work = Work::new();
    let archive =
        Archive::open(source, &mut work)?.ok_or_else(|| CatalogError::malformed("zipped egg", "not a zip archive"))?;
    let (found, error) = archive.entries(&mut work, |path| (path == b"EGG-INFO/PKG-INFO").then_some(()));
    match (found.first(), error) {
        (Some(((), entry)), _) => archive.head(entry, MAX_HEADERS, &work).map(Some),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}

/// Parses the distribution that the headers describe.
fn distribution(headers: &[u8]) -> Result<Option<Package>, CatalogError> {
    let mut name = None;
    let mut version = None;
    let mut expression = None;
    let mut license = None;
    let mut classifiers = Vec::new();

    for (key, value) in Headers::new(headers) {
        let is = |expected: &str| key.eq_ignore_ascii_case(expected.as_bytes());
        // The first of several counts, as in `importlib.metadata`.
        if is("Name") && name.is_none() {
            name = field(value)?;
        } else if is("Version") && version.is_none() {
            version = field(value)?;
        } else if is("License-Expression") && expression.is_none() {
            expression = optional(value);
        } else if is("License") && license.is_none() {
            license = Some(value);
        } else if is("Classifier") && classifiers.len() < MAX_LICENSES {
            classifiers.extend(license_classifier(value));
        }
    }

    let missing = |what: &str| CatalogError::malformed("Python metadata", format!("no {what}"));
    let name = name.ok_or_else(|| missing("name"))?;
    // Linux distributions write an egg-info for the interpreter itself. It is not a package of the index, and their own databases list it.
    if name == "Python" {
        return Ok(None);
    }
    let version = version.ok_or_else(|| missing("version"))?;

    let mut package = Package::new(PackageType::Pypi, name, version);
    // Before license expressions existed, `License` contained a name, a text of many lines, or nothing useful.
    let named = license.filter(|text| !text.contains(&b'\n') && *text != b"UNKNOWN").and_then(optional);
    package.licenses = match expression.or(named) {
        Some(license) => vec![license],
        None => classifiers,
    };
    Ok(Some(package))
}

/// Returns `MIT License` for `License :: OSI Approved :: MIT License`.
fn license_classifier(value: &[u8]) -> Option<String> {
    let parts = value.strip_prefix(b"License :: ")?;
    let last = parts.windows(4).rposition(|sep| sep == b" :: ").map_or(parts, |at| &parts[at + 4..]);
    if last == b"OSI Approved" { None } else { optional(last) }
}

/// Returns the headers with their continuation lines, up to the first blank line.
struct Headers<'b> {
    rest: &'b [u8],
}

impl<'b> Headers<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        Self { rest: &bytes[start..] }
    }
}

impl<'b> Iterator for Headers<'b> {
    type Item = (&'b [u8], &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut end = line_end(self.rest);
            if self.rest[..end].trim_ascii_end().is_empty() {
                return None;
            }
            // A line that starts with white space continues the previous header.
            while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
                end += line_end(&self.rest[end..]);
            }
            let (header, rest) = self.rest.split_at(end);
            self.rest = rest;
            // A line without a colon is skipped, as in pip.
            if let Some(colon) = header.iter().position(|&byte| byte == b':') {
                return Some((header[..colon].trim_ascii(), header[colon + 1..].trim_ascii()));
            }
        }
    }
}

/// Returns the length of the first line, with its end.
fn line_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &[u8], bytes: &[u8]) -> Result<Fact, CatalogError> {
        Python.read(&Evidence { path, source: &bytes, companions: &[] })
    }

    fn one(metadata: &str) -> Package {
        read(b"a.dist-info/METADATA", metadata.as_bytes()).unwrap().packages.pop().expect("a package")
    }

    #[test]
    fn wants_metadata_of_wheels_and_eggs() {
        for (path, expected) in [
            ("usr/lib/python3/dist-packages/a-1.dist-info/METADATA", Want::Yes),
            ("a.egg-info/PKG-INFO", Want::Yes),
            ("opt/a.egg/EGG-INFO/PKG-INFO", Want::Yes),
            ("opt/DIST-INFO/METADATA", Want::Yes),
            ("opt/a-1-py3.egg-info", Want::Yes),
            ("opt/a-1-py3.egg", Want::Yes),
            ("a.dist-info/RECORD", Want::No),
            ("METADATA", Want::No),
            ("usr/share/METADATA", Want::No),
            ("src/PKG-INFO", Want::No),
            ("a.egg-info/top_level.txt", Want::No),
            ("", Want::No),
        ] {
            assert_eq!(Python.wants(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn headers_end_at_the_blank_line() {
        let package = one("Metadata-Version: 2.1\r\nName: a_B\r\nVersion: 1.0\r\n\r\nName: other\r\n");
        assert_eq!((package.name.as_str(), package.version.as_str()), ("a_B", "1.0"));
        // The readme is not read.
        let mut long = b"Name: a\nVersion: 1\n\n".to_vec();
        long.resize(5 << 20, b'x');
        assert_eq!(read(b"a.egg-info", &long).unwrap().packages.len(), 1);
    }

    #[test]
    fn continuation_lines_are_joined_and_malformed_lines_are_skipped() {
        let package =
            one("\n\nno header\nName:a\nLicense: text\n  more\n\tand more\nDescription: x\n \n y\nVersion: 9\n");
        assert_eq!(package.version, "9", "a blank line inside a folded header is white space");
    }

    #[test]
    fn the_first_of_several_headers_counts() {
        let package = one("Name: a\nVersion: 1\nLicense: MIT\nName: b\nVersion: 2\nLicense: ISC\n");
        assert_eq!((package.name.as_str(), package.version.as_str()), ("a", "1"));
        assert_eq!(package.licenses, ["MIT"]);
    }

    #[test]
    fn licenses_come_from_the_best_field() {
        for (headers, expected) in [
            ("License-Expression: MIT OR ISC\nLicense: x", vec!["MIT OR ISC"]),
            ("License: BSD-3-Clause", vec!["BSD-3-Clause"]),
            ("License: UNKNOWN", vec![]),
            (
                "License: Copyright\n  All rights\nClassifier: License :: OSI Approved :: MIT License",
                vec!["MIT License"],
            ),
            ("Classifier: License :: OSI Approved\nClassifier: License :: Public Domain", vec!["Public Domain"]),
            ("Classifier: Topic :: Utilities", vec![]),
        ] {
            assert_eq!(one(&format!("Name: a\nVersion: 1\n{headers}\n")).licenses, expected, "{headers}");
        }
    }

    #[test]
    fn metadata_without_name_or_version_is_malformed_and_the_interpreter_is_skipped() {
        for metadata in ["", "\n", "Name: a\n", "Version: 1\n", "Name:\nVersion: 1\n", "\u{0}\u{1}"] {
            let result = read(b"a.dist-info/METADATA", metadata.as_bytes());
            assert!(matches!(result, Err(CatalogError::Malformed { .. })), "{metadata:?}");
        }
        assert!(read(b"Python-2.7.egg-info", b"Name: Python\nVersion: 2.7\n").unwrap().is_empty());
    }

    #[test]
    fn a_name_or_version_that_is_too_long_is_reported() {
        let long = "x".repeat(1025);
        for metadata in [format!("Name: {long}\nVersion: 1\n"), format!("Name: a\nVersion: {long}\n")] {
            let result = read(b"a.dist-info/METADATA", metadata.as_bytes());
            assert!(matches!(result, Err(CatalogError::Limit { .. })), "{result:?}");
        }
    }

    #[test]
    fn headers_that_are_too_long_are_refused() {
        let endless = b"Keywords: x\n".repeat(MAX_HEADERS / 8);
        assert!(matches!(read(b"a.egg-info", &endless), Err(CatalogError::Limit { .. })));
    }

    #[test]
    fn a_blank_line_across_two_reads_is_found() {
        for size in CHUNK - 8..CHUNK + 8 {
            for end in ["\n\n", "\r\n\r\n"] {
                let head = format!("Name: a{nl}Version: 1{nl}X: ", nl = &end[..end.len() / 2]);
                let mut bytes = format!("{head}{}{end}", "x".repeat(size - head.len())).into_bytes();
                bytes.resize(4 << 20, b'x');
                assert_eq!(read(b"a.egg-info", &bytes).unwrap().packages.len(), 1, "{size} {end:?}");
            }
        }
    }
}

//! apk's database.
//!
//! One-letter keys, a blank line between packages
//! ([apk specification](https://wiki.alpinelinux.org/wiki/Apk_spec#Install_DB)).

use outcrop_proto::{Claim, Fact, FileDigest, Package, PackageType, SourcePackage};

use super::{CatalogError, Cataloguer, Evidence, MAX_TEXT, Want, could_be_evidence};

/// Longest value of a field that is kept.
const MAX_VALUE: usize = 4096;

/// Reads apk's database.
pub(super) struct Apk;

impl Cataloguer for Apk {
    fn name(&self) -> &'static str {
        "apk"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if matches!(path, b"lib/apk/db/installed" | b"usr/lib/apk/db/installed") { Want::Yes } else { Want::No }
    }

    fn is_database(&self, _path: &[u8]) -> bool {
        true
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let bytes = evidence.source.bytes(MAX_TEXT)?;
        let mut fact = Fact::default();
        let mut entry = Entry::default();
        let mut entries = 0_usize;
        for line in bytes.split(|byte| *byte == b'\n').chain([&b""[..]]) {
            if line.is_empty() {
                let done = std::mem::take(&mut entry);
                entries += usize::from(done.name.is_some());
                done.finish(&mut fact);
            } else if let Some((key, value)) = line.split_first_chunk::<2>() {
                entry.field(key, value.trim_ascii_end());
            }
        }
        if entries == 0 && bytes.iter().any(|byte| !byte.is_ascii_whitespace()) {
            return Err(CatalogError::malformed("apk database", "it has no entry with a P: field"));
        }
        Ok(fact)
    }
}

#[derive(Default)]
struct Entry {
    name: Option<String>,
    version: Option<String>,
    arch: Option<String>,
    origin: Option<String>,
    license: Option<String>,
    dir: Vec<u8>,
    /// Files that could be evidence, each with its digest.
    files: Vec<(Vec<u8>, Option<FileDigest>)>,
    /// Whether the last `R:` was kept, so that a `Z:` belongs to it.
    kept: bool,
}

impl Entry {
    fn field(&mut self, key: &[u8; 2], value: &[u8]) {
        if value.len() > MAX_VALUE {
            return;
        }
        let text = || Some(String::from_utf8_lossy(value).into_owned()).filter(|text| !text.is_empty());
        match key {
            b"P:" => self.name = text(),
            b"V:" => self.version = text(),
            b"A:" => self.arch = text(),
            b"o:" => self.origin = text(),
            b"L:" => self.license = text(),
            b"F:" => self.dir = value.to_vec(),
            b"R:" => {
                let path = if self.dir.is_empty() { value.to_vec() } else { [&self.dir, &b"/"[..], value].concat() };
                self.kept = could_be_evidence(&path);
                if self.kept {
                    self.files.push((path, None));
                }
            }
            b"Z:" if self.kept => {
                if let Some((_, digest)) = self.files.last_mut() {
                    *digest = sha1(value);
                }
            }
            _ => {}
        }
    }

    fn finish(self, fact: &mut Fact) {
        let Self { name: Some(name), version: Some(version), arch, origin, license, files, .. } = self else { return };
        let source = SourcePackage { name: origin.unwrap_or_else(|| name.clone()), version: version.clone() };
        fact.claims.extend(files.into_iter().map(|(path, digest)| Claim { path, package: name.clone(), digest }));
        fact.packages.push(Package {
            arch,
            source: Some(source),
            licenses: license.into_iter().collect(),
            ..Package::new(PackageType::Apk, name, version)
        });
    }
}

/// The digest of a `Z:` field: `Q1` and the base64 of a SHA-1. Other forms are left out: ownership then goes by version.
fn sha1(value: &[u8]) -> Option<FileDigest> {
    let encoded = value.strip_prefix(b"Q1")?;
    let digit = |byte: &u8| -> Option<u32> {
        Some(match byte {
            b'A'..=b'Z' => u32::from(byte - b'A'),
            b'a'..=b'z' => u32::from(byte - b'a') + 26,
            b'0'..=b'9' => u32::from(byte - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => 0,
            _ => return None,
        })
    };
    let mut bytes = Vec::with_capacity(21);
    for group in encoded.chunks(4) {
        let [a, b, c, d] = group else { return None };
        let value = digit(a)? << 18 | digit(b)? << 12 | digit(c)? << 6 | digit(d)?;
        bytes.extend_from_slice(&value.to_be_bytes()[1..]);
    }
    // Twenty bytes are six groups of three and two over, so that one byte of padding comes out.
    bytes.truncate(20);
    Some(FileDigest::Sha1(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_with_origin_licence_and_claims() {
        let database = b"C:Q1x\nP:libcrypto3\nV:3.1.4-r0\nA:x86_64\no:openssl\nL:Apache-2.0\nF:usr/lib/python3/site-packages/x.dist-info\n\
            R:METADATA\na:0:0:644\nZ:Q1AAECAwQFBgcICQoLDA0ODxAREhM=\nR:other\nZ:Q1x\n\nP:bare\nV:1\n";
        let source: &[u8] = database;
        let fact = Apk.read(&Evidence { path: b"lib/apk/db/installed", source: &source, companions: &[] }).unwrap();
        assert_eq!(fact.packages.len(), 2);
        assert_eq!(fact.packages[0].source.as_ref().unwrap().name, "openssl");
        assert_eq!(fact.packages[0].licenses, ["Apache-2.0"]);
        assert_eq!(fact.packages[1].source.as_ref().unwrap().name, "bare");
        let expected: [u8; 20] = std::array::from_fn(|at| at as u8);
        assert_eq!(sha1(b"Q1AAECAwQFBgcICQoLDA0ODxAREhM="), Some(FileDigest::Sha1(expected)));
        assert_eq!(sha1(b"Q2AAECAwQFBgcICQoLDA0ODxAREhM="), None);
    }
}

//! apk's database, `installed`: one record per package, one letter per field
//! ([the format](https://wiki.alpinelinux.org/wiki/Apk_spec#Syntax)).

use outcrop_proto::{Fact, FileDigest, Package, PackageType, SourcePackage};

use super::collect::{Collector, text};
use super::digests::{base64, hex};
use super::lines::Lines;
use super::{CatalogError, Cataloger, Evidence, Want};

/// Reads apk's database.
pub(super) struct Apk;

impl Cataloger for Apk {
    fn name(&self) -> &'static str {
        "apk"
    }

    fn wants(&self, path: &[u8]) -> Want {
        // Below usr/ if the distribution has merged /lib into /usr/lib.
        if matches!(path, b"lib/apk/db/installed" | b"usr/lib/apk/db/installed") { Want::Yes } else { Want::No }
    }

    fn is_database(&self, path: &[u8]) -> bool {
        self.wants(path) == Want::Yes
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let mut lines = Lines::new(evidence.source)?;
        let mut collector = Collector::default();
        let mut record = Record::default();
        let (mut fields, mut strange) = (0_u64, 0_u64);
        while let Some(line) = lines.next_line()? {
            match line.strip_suffix(b"\r").unwrap_or(line) {
                [] => record.finish(&mut collector)?,
                [letter, b':', value @ ..] if letter.is_ascii_alphabetic() => {
                    fields += 1;
                    record.field(*letter, value, &mut collector);
                }
                _ => strange += 1,
            }
        }
        record.finish(&mut collector)?;
        if fields == 0 && strange > 0 {
            return Err(CatalogError::malformed("apk database", "no line is a field"));
        }
        if strange > 0 {
            collector.warn(format!("{strange} lines are not fields"));
        }
        collector.finish_database("apk database")
    }
}

/// The package that is being read, and the file that its last lines describe.
#[derive(Default)]
struct Record {
    /// Set once the record has a field, known or not.
    started: bool,
    name: Option<String>,
    version: Option<String>,
    arch: Option<String>,
    origin: Option<String>,
    license: Option<String>,
    /// Directory of the following files, and the offset in `path` at which their names start.
    path: Vec<u8>,
    folder: usize,
    /// Whether `path` is a file whose digest was not read yet.
    waiting: bool,
    digest: Option<FileDigest>,
}

impl Record {
    fn field(&mut self, letter: u8, value: &[u8], collector: &mut Collector) {
        self.started = true;
        let slot = match letter {
            b'P' => &mut self.name,
            b'V' => &mut self.version,
            b'A' => &mut self.arch,
            b'o' => &mut self.origin,
            b'L' => &mut self.license,
            b'F' => {
                self.claim(collector);
                self.path.clear();
                self.path.extend_from_slice(value);
                if !value.is_empty() {
                    self.path.push(b'/');
                }
                self.folder = self.path.len();
                return;
            }
            b'R' => {
                self.claim(collector);
                self.path.truncate(self.folder);
                self.path.extend_from_slice(value);
                self.waiting = true;
                return;
            }
            b'Z' => {
                self.digest = digest(value);
                return;
            }
            _ => return,
        };
        if slot.is_none() {
            *slot = Some(text(value)).filter(|value| !value.is_empty());
        }
    }

    /// Claims the current file, after its last line.
    fn claim(&mut self, collector: &mut Collector) {
        let digest = self.digest.take();
        if std::mem::take(&mut self.waiting)
            && let Some(name) = &self.name
        {
            collector.claim(&self.path, name, || digest);
        }
    }

    fn finish(&mut self, collector: &mut Collector) -> Result<(), CatalogError> {
        self.claim(collector);
        let Self { started, name, version, arch, origin, license, .. } = std::mem::take(self);
        let Some(name) = name else {
            if started {
                collector.unreadable("a package has no name");
            }
            return Ok(());
        };
        let Some(version) = version else {
            collector.unreadable(format!("package {:?} has no version", name.chars().take(80).collect::<String>()));
            return Ok(());
        };
        let source = SourcePackage { name: origin.unwrap_or_else(|| name.clone()), version: version.clone() };
        let mut package = Package::new(PackageType::Apk, name, version);
        package.arch = arch;
        package.source = Some(source);
        package.licenses = license.into_iter().collect();
        collector.package(package)
    }
}

/// Parses a checksum of apk: `Q` for base64 or `X` for hexadecimal, `1` for SHA-1 or `2` for SHA-256.
///
/// apk 3 also writes SHA-256 cut to 20 bytes under `2`, which cannot be compared with the digests computed here.
fn digest(value: &[u8]) -> Option<FileDigest> {
    match value {
        [b'Q', b'1', text @ ..] => base64(text).map(FileDigest::Sha1),
        [b'Q', b'2', text @ ..] => base64(text).map(FileDigest::Sha256),
        [b'X', b'1', text @ ..] => hex(text).map(FileDigest::Sha1),
        [b'X', b'2', text @ ..] => hex(text).map(FileDigest::Sha256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Fact, CatalogError> {
        Apk.read(&Evidence { path: b"lib/apk/db/installed", source: &bytes, companions: &[] })
    }

    #[test]
    fn only_the_two_databases_at_the_root_are_wanted() {
        for path in [&b"lib/apk/db/installed"[..], b"usr/lib/apk/db/installed"] {
            assert!(Apk.wants(path) == Want::Yes && Apk.is_database(path));
        }
        for path in
            [&b"home/lib/apk/db/installed"[..], b"lib/apk/db/installed/x", b"lib/apk/db/scripts.tar", b"usr/lib"]
        {
            assert!(Apk.wants(path) == Want::No && !Apk.is_database(path));
        }
    }

    #[test]
    fn a_record_is_a_package_with_origin_and_license() {
        let fact = read(
            b"C:Q1v4QhLje3kWlC8DJj+ZfJTjlJRSU=\nP:ssl_client\nV:1.36.1-r15\nA:x86_64\nL:GPL-2.0-only AND MIT\n\
              o:busybox\nF:usr\n\nP:musl\nV:1.2.4-r2\n",
        )
        .unwrap();
        let mut client = Package::new(PackageType::Apk, "ssl_client", "1.36.1-r15");
        client.arch = Some("x86_64".into());
        client.source = Some(SourcePackage { name: "busybox".into(), version: "1.36.1-r15".into() });
        client.licenses = vec!["GPL-2.0-only AND MIT".into()];
        let mut musl = Package::new(PackageType::Apk, "musl", "1.2.4-r2");
        musl.source = Some(SourcePackage { name: "musl".into(), version: "1.2.4-r2".into() });
        assert_eq!(fact.packages, [musl, client]);
        assert_eq!(fact.warnings, [""; 0]);
    }

    #[test]
    fn possible_evidence_is_claimed_with_its_digest() {
        let fact = read(
            b"P:alpine-release\nV:1\nF:\nR:os-release.txt\nF:etc\nM:0:0:755\nR:none.txt\nZ:Q11Q7hNe8QpDS531guqCdrXBzoA/o=\n\
              R:os-release\na:0:0:644\nZ:Q11Q7hNe8QpDS531guqCdrXBzoA/o=\nF:usr/lib\nR:os-release\n\nR:os-release\n",
        )
        .unwrap();
        let claims: Vec<_> = fact.claims.iter().map(|claim| (claim.path.as_slice(), claim.digest.clone())).collect();
        let sha1 = hex(b"d50ee135ef10a434b9df582ea8276b5c1ce803fa").unwrap();
        assert_eq!(claims, [(&b"etc/os-release"[..], Some(FileDigest::Sha1(sha1))), (b"usr/lib/os-release", None)]);
    }

    #[test]
    fn digests_of_apk_2_and_3_are_parsed_and_others_are_ignored() {
        let zeros = |count| "0".repeat(count);
        for (text, expected) in [
            (format!("Q1{}=", "A".repeat(27)), Some(FileDigest::Sha1([0; 20]))),
            (format!("Q2{}=", "A".repeat(43)), Some(FileDigest::Sha256([0; 32]))),
            (format!("X1{}", zeros(40)), Some(FileDigest::Sha1([0; 20]))),
            (format!("X2{}", zeros(64)), Some(FileDigest::Sha256([0; 32]))),
            (format!("Q2{}=", "A".repeat(27)), None),
            (format!("Q9{}=", "A".repeat(27)), None),
            (zeros(40), None),
            (String::new(), None),
        ] {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_lines_are_a_warning_and_a_file_without_packages_is_an_error() {
        let fact = read(b"this is a corrupt db\n\nP:a\xff\nV:1\n\nP:lost\n\n\0\0\0").unwrap();
        assert_eq!(fact.packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["a\u{fffd}"]);
        let expected =
            ["1 of 2 packages could not be read", "2 lines are not fields", "package \"lost\" has no version"];
        assert_eq!(fact.warnings, expected);
        assert!(matches!(read(&b"\xff\0\n".repeat(9)), Err(CatalogError::Malformed { .. })));
        assert!(read(b"").unwrap().is_empty());
        for text in ["x: 1\n", "P:a\n\nP:b\n", "V:1\n\nV:2\n"] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("packages could not be read"), "{text}: {error}");
        }
        assert_eq!(read(b"P:a\nV:1\n\nV:2\nF:x\n").unwrap().warnings[0], "1 of 2 packages could not be read");
    }
}

//! dpkg's databases.
//!
//! The `status` file lists what is installed, `status.d` does so in images that were put together without dpkg
//! (distroless), and `info/*.md5sums` says which file every package brought, with its digest. Format:
//! [deb822(5)](https://manpages.debian.org/deb822.5), [dpkg(1)](https://manpages.debian.org/dpkg.1), `deb-md5sums(5)`.

use outcrop_proto::{Claim, Fact, FileDigest, Package, PackageType, SourcePackage};

use super::{CatalogError, Cataloguer, Evidence, MAX_TEXT, Want, could_be_evidence};

/// Longest value of a field that is kept. The longest real names have some eighty bytes.
const MAX_VALUE: usize = 1024;

/// Reads dpkg's databases.
pub(super) struct Dpkg;

/// What a path of dpkg's is.
enum File<'a> {
    Status,
    StatusD,
    /// The digests of the files of this package.
    Digests(&'a [u8]),
}

fn file(path: &[u8]) -> Option<File<'_>> {
    let name = path.strip_prefix(b"var/lib/dpkg/")?;
    if name == b"status" {
        return Some(File::Status);
    }
    let (in_status_d, name) = match (name.strip_prefix(b"info/"), name.strip_prefix(b"status.d/")) {
        (Some(name), _) => (false, name),
        (_, Some(name)) => (true, name),
        _ => return None,
    };
    if name.contains(&b'/') {
        return None;
    }
    match name.strip_suffix(b".md5sums") {
        Some(package) => Some(File::Digests(package)),
        // Beside the stanzas lie the package's own scripts.
        None if in_status_d
            && ![&b".preinst"[..], b".postinst", b".prerm", b".postrm"].iter().any(|end| name.ends_with(end)) =>
        {
            Some(File::StatusD)
        }
        None => None,
    }
}

impl Cataloguer for Dpkg {
    fn name(&self) -> &'static str {
        "dpkg"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if file(path).is_some() { Want::Yes } else { Want::No }
    }

    fn is_database(&self, path: &[u8]) -> bool {
        matches!(file(path), Some(File::Status | File::StatusD))
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let bytes = evidence.source.bytes(MAX_TEXT)?;
        match file(evidence.path) {
            Some(File::Digests(package)) => Ok(digests(package, &bytes)),
            _ => status(&bytes),
        }
    }
}

/// Reads stanzas of installed packages.
fn status(bytes: &[u8]) -> Result<Fact, CatalogError> {
    let mut fact = Fact::default();
    let mut stanza = Stanza::default();
    let mut stanzas = 0_usize;
    for line in bytes.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let done = std::mem::take(&mut stanza);
            stanzas += usize::from(done.name.is_some());
            fact.packages.extend(done.package());
            continue;
        }
        stanza.field(line);
    }
    if stanzas == 0 && bytes.iter().any(|byte| !byte.is_ascii_whitespace()) {
        return Err(CatalogError::malformed("dpkg status file", "it has no stanza with a Package field"));
    }
    Ok(fact)
}

/// The fields of one stanza that count.
#[derive(Default)]
struct Stanza {
    name: Option<String>,
    version: Option<String>,
    arch: Option<String>,
    source: Option<String>,
    /// `None` where there is no Status field at all, as in `status.d`.
    installed: Option<bool>,
}

impl Stanza {
    fn field(&mut self, line: &[u8]) {
        // Continuation lines begin with a blank: of none of the fields below.
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if value.len() > MAX_VALUE {
            return;
        }
        let text = || Some(String::from_utf8_lossy(value).into_owned()).filter(|text| !text.is_empty());
        match key {
            b"Package" => self.name = text(),
            b"Version" => self.version = text(),
            b"Architecture" => self.arch = text(),
            b"Source" => self.source = text(),
            // Three words: what the user wants, whether there was an error, and how far the package is installed.
            b"Status" => self.installed = Some(value.split(u8::is_ascii_whitespace).next_back() == Some(b"installed")),
            _ => {}
        }
    }

    fn package(self) -> Option<Package> {
        let Self { name: Some(name), version: Some(version), arch, source, installed } = self else { return None };
        if installed == Some(false) {
            return None;
        }
        // `Source: glibc (2.36-9)`: the version is there only where it differs.
        let source = match source.as_deref().map(|source| source.split_once(' ')) {
            Some(Some((name, version))) => {
                SourcePackage { name: name.to_owned(), version: version.trim().trim_matches(['(', ')']).to_owned() }
            }
            _ => SourcePackage { name: source.unwrap_or_else(|| name.clone()), version: version.clone() },
        };
        Some(Package { arch, source: Some(source), ..Package::new(PackageType::Deb, name, version) })
    }
}

/// Reads `md5sums`: 32 hexadecimal digits, two blanks, a path.
fn digests(package: &[u8], bytes: &[u8]) -> Fact {
    // Packages of foreign architectures carry theirs: `libc6:i386.md5sums`.
    let package = package.split(|byte| *byte == b':').next().unwrap_or_default();
    let package = String::from_utf8_lossy(package).into_owned();
    let mut fact = Fact::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((digest, rest)) = line.split_first_chunk::<32>() else { continue };
        let path = rest.trim_ascii_start();
        if !could_be_evidence(path) {
            continue;
        }
        let Some(digest) = hex(digest) else { continue };
        fact.claims.push(Claim {
            path: path.to_vec(),
            package: package.clone(),
            digest: Some(FileDigest::Md5(digest)),
        });
    }
    fact
}

fn hex(digits: &[u8; 32]) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, bytes: &[u8]) -> Result<Fact, CatalogError> {
        Dpkg.read(&Evidence { path: path.as_bytes(), source: &bytes, companions: &[] })
    }

    #[test]
    fn only_installed_packages_are_listed_each_with_its_source() {
        let status = b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\nDescription: x\n Version: 9\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: libc6\nStatus: hold ok installed\nSource: glibc (2.36-9)\nVersion: 2.36-9+b1\n\n\
            Package: perl-base\nStatus: install ok installed\nSource: perl\nVersion: 5.36\n\nPackage: half\nStatus: install ok unpacked\nVersion: 1\n";
        let fact = read("var/lib/dpkg/status", status).unwrap();
        let listed: Vec<_> = fact
            .packages
            .iter()
            .map(|package| {
                let source = package.source.as_ref().unwrap();
                (package.name.as_str(), package.version.as_str(), source.name.as_str(), source.version.as_str())
            })
            .collect();
        assert_eq!(
            listed,
            [
                ("bash", "5.2-1", "bash", "5.2-1"),
                ("libc6", "2.36-9+b1", "glibc", "2.36-9"),
                ("perl-base", "5.36", "perl", "5.36")
            ]
        );
    }

    #[test]
    fn a_status_file_of_garbage_is_an_error_and_an_empty_one_is_not() {
        assert!(read("var/lib/dpkg/status", b"\x00\xff\x7fELF garbage").is_err());
        assert_eq!(read("var/lib/dpkg/status", b"\n\n").unwrap(), Fact::default());
    }

    #[test]
    fn only_dpkgs_own_paths_are_wanted() {
        for (path, wanted) in [
            ("var/lib/dpkg/status", true),
            ("var/lib/dpkg/status-old", false),
            ("home/x/var/lib/dpkg/status", false),
            ("var/lib/dpkg/status.d/base", true),
            ("var/lib/dpkg/status.d/base.md5sums", true),
            ("var/lib/dpkg/status.d/base.preinst", false),
            ("var/lib/dpkg/info/bash.md5sums", true),
            ("var/lib/dpkg/info/bash.list", false),
        ] {
            assert_eq!(Dpkg.wants(path.as_bytes()) == Want::Yes, wanted, "{path}");
        }
    }
}

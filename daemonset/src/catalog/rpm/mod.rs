//! RPM's database: SQLite ([`sqlite`]) with one header ([`header`]) per package, and the text manifest that distroless images have
//! instead. The other formats, NDB and Berkeley DB, are recognized and refused.

mod header;
mod manifest;
mod sqlite;
mod wal;

use outcrop_proto::{Fact, FileDigest, Package, PackageType, SourcePackage};

use self::header::{Header, Tag};
use super::collect::{Collector, text};
use super::digests::hex;
use super::{CatalogError, Cataloger, Evidence, Want};

/// Directories of RPM's database: before RPM 4.16; on Fedora, SUSE and their derivatives; with rpm-ostree.
const HOMES: [&[u8]; 3] = [b"var/lib/rpm/", b"usr/lib/sysimage/rpm/", b"usr/share/rpm/"];

/// Maximum size of a header, in bytes. Real headers have up to 5 MB (kernel sources with 60,000 files).
const MAX_HEADER: usize = 32 << 20;

/// Reads RPM's database.
pub(super) struct Rpm;

/// The format of a database, determined by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sqlite,
    /// NDB, a format in one file that SUSE uses.
    Ndb,
    /// Berkeley DB, as a hash table or a tree.
    Bdb,
    Manifest,
}

fn kind(path: &[u8]) -> Option<Kind> {
    if path == b"var/lib/rpmmanifest/container-manifest-2" {
        return Some(Kind::Manifest);
    }
    match HOMES.iter().find_map(|home| path.strip_prefix(*home))? {
        b"rpmdb.sqlite" => Some(Kind::Sqlite),
        b"Packages.db" => Some(Kind::Ndb),
        b"Packages" => Some(Kind::Bdb),
        _ => None,
    }
}

impl Cataloger for Rpm {
    fn name(&self) -> &'static str {
        "rpm"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if kind(path).is_some() { Want::Yes } else { Want::No }
    }

    fn is_database(&self, path: &[u8]) -> bool {
        kind(path).is_some()
    }

    fn companions(&self, path: &[u8]) -> Vec<Vec<u8>> {
        match kind(path) {
            Some(Kind::Sqlite) => vec![wal_of(path)],
            _ => Vec::new(),
        }
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        match kind(evidence.path) {
            Some(Kind::Sqlite) => read_sqlite(evidence),
            Some(Kind::Manifest) => manifest::read(evidence.source),
            Some(Kind::Ndb) => Err(refuse_ndb(evidence)?),
            Some(Kind::Bdb) => Err(refuse_bdb(evidence)?),
            None => Ok(Fact::default()),
        }
    }
}

fn wal_of(path: &[u8]) -> Vec<u8> {
    [path, b"-wal"].concat()
}

/// Returns the first bytes of the evidence.
fn magic<const N: usize>(evidence: &Evidence<'_>) -> Result<[u8; N], CatalogError> {
    let mut magic = [0; N];
    evidence.source.read_at(0, &mut magic)?;
    Ok(magic)
}

fn refuse_ndb(evidence: &Evidence<'_>) -> Result<CatalogError, CatalogError> {
    Ok(match &magic::<4>(evidence)? {
        b"RpmP" => CatalogError::Unsupported("an NDB database of RPM"),
        _ => CatalogError::malformed("NDB database", "the file does not begin with RpmP"),
    })
}

fn refuse_bdb(evidence: &Evidence<'_>) -> Result<CatalogError, CatalogError> {
    let [.., a, b, c, d] = magic::<16>(evidence)?;
    // Hash table or tree, in the byte order of the machine that wrote the file.
    let known = [0x0006_1561, 0x0005_3162];
    let number = [a, b, c, d];
    Ok(if known.contains(&u32::from_le_bytes(number)) || known.contains(&u32::from_be_bytes(number)) {
        CatalogError::Unsupported("a Berkeley DB database of RPM")
    } else {
        CatalogError::malformed("Berkeley DB database", "the file has no magic number at 12")
    })
}

fn read_sqlite(evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
    let wal_path = wal_of(evidence.path);
    let wal = evidence.companions.iter().find(|(path, _)| *path == wal_path).map(|(_, source)| *source);
    let mut collector = Collector::default();
    let Some(mut database) = sqlite::Database::open(evidence.source, wal)? else {
        return Ok(Fact::default());
    };
    // RPM creates the table when it first opens the database: without it, no package was ever installed.
    let Some(root) = database.table("Packages")? else {
        return Ok(Fact::default());
    };
    database.rows(root, MAX_HEADER, |row| {
        let row = match row {
            Ok(row) => row,
            Err(size) => {
                collector.unreadable(format!("a package's header has {size} bytes, more than the limit"));
                return Ok(());
            }
        };
        // `hnum INTEGER PRIMARY KEY, blob BLOB`: the first is the row's number and stored as NULL.
        match sqlite::column(row, 1).and_then(sqlite::Value::into_blob).and_then(Header::parse) {
            Some(header) => add(&header, &mut collector),
            None => {
                collector.unreadable("a package's header is not valid");
                Ok(())
            }
        }
    })?;
    collector.finish_database("RPM database")
}

/// Adds the package that a header describes, and its claims.
fn add(header: &Header<'_>, collector: &mut Collector) -> Result<(), CatalogError> {
    let string = |tag| header.string(tag).map(text).filter(|text| !text.is_empty() && text != "(none)");
    let (Some(name), Some(version), Some(release)) = (string(Tag::Name), string(Tag::Version), string(Tag::Release))
    else {
        collector.unreadable("a package's header has no name, version or release");
        return Ok(());
    };
    let epoch = header.int32(Tag::Epoch);
    add_files(header, &name, collector);
    let mut package = Package::new(PackageType::Rpm, name, with_epoch(epoch, &format!("{version}-{release}")));
    package.arch = string(Tag::Arch);
    package.source = string(Tag::SourceRpm).and_then(|file| source(&file, epoch));
    package.licenses = string(Tag::License).into_iter().collect();
    package.vendor = string(Tag::Vendor);
    package.module = string(Tag::ModularityLabel);
    collector.package(package)
}

/// Returns `[epoch:]version-release`. RPM treats an epoch of 0 like none, so it is omitted.
fn with_epoch(epoch: Option<u32>, version: &str) -> String {
    match epoch {
        None | Some(0) => version.to_owned(),
        Some(epoch) => format!("{epoch}:{version}"),
    }
}

/// Returns the source package from the name of its file, `name-version-release.src.rpm`.
///
/// The file name has no epoch, so that of the binary package is used: RPM gives a subpackage the epoch of its source unless the spec file sets
/// another one.
fn source(file: &str, epoch: Option<u32>) -> Option<SourcePackage> {
    let stem = file.strip_suffix(".src.rpm").or_else(|| file.strip_suffix(".nosrc.rpm"))?;
    let release = stem.rfind('-')?;
    let version = stem[..release].rfind('-')?;
    let (name, version) = (&stem[..version], &stem[version + 1..]);
    (!name.is_empty()).then(|| SourcePackage { name: name.to_owned(), version: with_epoch(epoch, version) })
}

/// Claims the files of a header, each of which has a base name, the index of its directory, and a digest.
fn add_files(header: &Header<'_>, package: &str, collector: &mut Collector) {
    let Some(directories) = header.strings_at(Tag::DirNames) else {
        return collector.warn("a package has more directories than are read");
    };
    let algorithm = header.int32(Tag::FileDigestAlgorithm);
    let mut digests = header.strings(Tag::FileDigests);
    let mut path = Vec::new();
    for (name, directory) in header.strings(Tag::BaseNames).zip(header.int32s(Tag::DirIndexes)) {
        if collector.claims_are_full() {
            return;
        }
        let digest = digests.next().unwrap_or_default();
        let Some(directory) = usize::try_from(directory).ok().and_then(|index| directories.get(index)) else {
            return collector.warn("a package's file is in no directory");
        };
        path.clear();
        path.extend_from_slice(directory);
        path.extend_from_slice(name);
        collector.claim(&path, package, || file_digest(algorithm, digest));
    }
}

/// Parses a digest by its OpenPGP algorithm number; without a number it is MD5, as before RPM 4.6.
fn file_digest(algorithm: Option<u32>, digits: &[u8]) -> Option<FileDigest> {
    match algorithm.unwrap_or(1) {
        1 => hex(digits).map(FileDigest::Md5),
        2 => hex(digits).map(FileDigest::Sha1),
        8 => hex(digits).map(FileDigest::Sha256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_wanted_from_the_root_only() {
        for (path, expected) in [
            ("var/lib/rpm/rpmdb.sqlite", Some(Kind::Sqlite)),
            ("usr/lib/sysimage/rpm/rpmdb.sqlite", Some(Kind::Sqlite)),
            ("usr/share/rpm/rpmdb.sqlite", Some(Kind::Sqlite)),
            ("var/lib/rpm/Packages", Some(Kind::Bdb)),
            ("usr/lib/sysimage/rpm/Packages.db", Some(Kind::Ndb)),
            ("var/lib/rpmmanifest/container-manifest-2", Some(Kind::Manifest)),
            ("var/lib/rpmmanifest/container-manifest-1", None),
            ("var/lib/rpm/rpmdb.sqlite-wal", None),
            ("var/lib/rpm/Name", None),
            ("home/var/lib/rpm/Packages", None),
            ("/var/lib/rpm/Packages", None),
        ] {
            assert_eq!(kind(path.as_bytes()), expected, "{path}");
            assert_eq!(Rpm.is_database(path.as_bytes()), expected.is_some(), "{path}");
        }
        assert_eq!(Rpm.companions(b"var/lib/rpm/rpmdb.sqlite"), [b"var/lib/rpm/rpmdb.sqlite-wal"]);
        assert!(Rpm.companions(b"var/lib/rpm/Packages").is_empty());
    }

    #[test]
    fn older_databases_are_recognized_in_either_byte_order() {
        let bdb = |magic: [u8; 4]| [&[0; 12][..], &magic, &[0; 512]].concat();
        for (path, bytes, known) in [
            ("var/lib/rpm/Packages", bdb(0x0006_1561_u32.to_le_bytes()), true),
            ("var/lib/rpm/Packages", bdb(0x0006_1561_u32.to_be_bytes()), true),
            ("var/lib/rpm/Packages", bdb(0x0005_3162_u32.to_le_bytes()), true),
            ("var/lib/rpm/Packages", bdb([0; 4]), false),
            ("var/lib/rpm/Packages", vec![], false),
            ("var/lib/rpm/Packages.db", b"RpmP\0\0\0\0".to_vec(), true),
            ("var/lib/rpm/Packages.db", b"Rpm".to_vec(), false),
        ] {
            let evidence = Evidence { path: path.as_bytes(), source: &bytes.as_slice(), companions: &[] };
            match Rpm.read(&evidence) {
                Err(CatalogError::Unsupported(_)) => assert!(known, "{path} {bytes:?}"),
                Err(CatalogError::Malformed { .. }) => assert!(!known, "{path} {bytes:?}"),
                other => panic!("{path} {bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn sources_are_read_from_the_names_of_their_files() {
        for (file, epoch, expected) in [
            ("gcc-13.1.1-2.fc38.src.rpm", None, Some(("gcc", "13.1.1-2.fc38"))),
            ("gcc-13.1.1-2.fc38.src.rpm", Some(0), Some(("gcc", "13.1.1-2.fc38"))),
            ("java-11-openjdk-11.0.1-1.el8.src.rpm", Some(1), Some(("java-11-openjdk", "1:11.0.1-1.el8"))),
            ("sun-1-2.nosrc.rpm", None, Some(("sun", "1-2"))),
            ("gcc-13.src.rpm", None, None),
            ("-13-2.src.rpm", None, None),
            ("gcc-13-2.x86_64.rpm", None, None),
            ("", None, None),
        ] {
            let expected = expected.map(|(name, version)| SourcePackage { name: name.into(), version: version.into() });
            assert_eq!(source(file, epoch), expected, "{file}");
        }
    }
}

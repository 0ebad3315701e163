//! Facts: the results of catalogers.

use crate::budget::{ALLOCATION, Budget};
use crate::codec::{DecodeError, Reader, Writer};
use crate::package::{Package, PackageType, SourcePackage};

/// The distribution that an `os-release` file names
/// ([os-release(5)](https://www.freedesktop.org/software/systemd/man/latest/os-release.html)).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distribution {
    /// `ID`, lower case: `debian`, `ubuntu`, `alpine`, `almalinux`, `rocky`.
    pub id: String,
    /// `VERSION_ID`, empty for rolling and unreleased distributions.
    pub version_id: String,
    /// `VERSION_CODENAME`, or empty.
    pub codename: String,
    /// `PRETTY_NAME`, else `NAME`, else empty.
    pub name: String,
    /// `ID_LIKE`, split at spaces.
    pub id_like: Vec<String>,
}

/// Digest of a file's bytes, by the algorithm of a package database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileDigest {
    /// MD5 (dpkg's `md5sums`, old RPM).
    Md5([u8; 16]),
    /// SHA-1 (apk's `Z:`, RPM).
    Sha1([u8; 20]),
    /// SHA-256 (RPM).
    Sha256([u8; 32]),
}

/// A statement of a package database that one of its packages installed a file.
///
/// Databases list every file; a fact holds only the claims on paths that could be evidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Path from the image's root, without a leading slash.
    pub path: Vec<u8>,
    /// Name of the package that claims the file, without architecture.
    pub package: String,
    /// Digest of the file's bytes that the database recorded, if any.
    pub digest: Option<FileDigest>,
}

/// A package without a name: a jar without coordinates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unidentified {
    /// Path inside the evidence, levels joined by `!/`; empty for the evidence itself.
    pub inner: String,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// The result of a cataloger for **one** piece of evidence, or for a declared group of files.
///
/// [`Fact::normalize`] sorts every list and removes duplicates, so that equal facts have one encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Packages that the evidence lists as installed.
    pub packages: Vec<Package>,
    /// The distribution that the evidence names.
    pub distribution: Option<Distribution>,
    /// Files that packages claim.
    pub claims: Vec<Claim>,
    /// Packages without identity.
    pub unidentified: Vec<Unidentified>,
    /// Parts of the evidence that could not be read, one sentence each. The rest of the fact is valid.
    pub warnings: Vec<String>,
    /// Number of parts that this version does not know: those of a later version, and packages of a later type. They are skipped. Not
    /// encoded.
    pub unknown: u32,
}

impl Fact {
    /// Brings every list into its one order.
    pub fn normalize(&mut self) {
        fn unique<T: Ord>(list: &mut Vec<T>) {
            list.sort_unstable();
            list.dedup();
        }
        unique(&mut self.packages);
        unique(&mut self.claims);
        unique(&mut self.unidentified);
        unique(&mut self.warnings);
    }

    /// Returns what [`Self::decode`] reserves for this fact, bytes.
    pub fn decoded_bytes(&self) -> usize {
        fn text(text: &str) -> usize {
            ALLOCATION + text.len()
        }
        fn list(texts: &[String]) -> usize {
            texts.iter().map(|item| 2 * size_of::<String>() + text(item)).sum()
        }
        let package = |package: &Package| {
            let source = package.source.iter().flat_map(|source| [&source.name, &source.version]);
            let optional = [&package.arch, &package.inner, &package.vendor, &package.module].into_iter().flatten();
            let texts = [&package.name, &package.version].into_iter().chain(source).chain(optional);
            2 * size_of::<Package>() + texts.map(|item| text(item)).sum::<usize>() + list(&package.licenses)
        };
        let claim = |claim: &Claim| 2 * size_of::<Claim>() + ALLOCATION + claim.path.len() + text(&claim.package);
        let unidentified = |jar: &Unidentified| 2 * size_of::<Unidentified>() + text(&jar.inner);
        let distribution = self.distribution.as_ref().map_or(0, |distribution| {
            let Distribution { id, version_id, codename, name, id_like } = distribution;
            [id, version_id, codename, name].map(|item| text(item)).iter().sum::<usize>() + list(id_like)
        });
        self.packages.iter().map(package).sum::<usize>()
            + self.claims.iter().map(claim).sum::<usize>()
            + self.unidentified.iter().map(unidentified).sum::<usize>()
            + list(&self.warnings)
            + distribution
    }

    /// Returns whether the evidence said nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// First bytes of an encoded fact: name and version of the format.
const MAGIC: &[u8] = b"outcrop.fact.1\n";

impl Fact {
    /// The one encoding of this fact. The fact has to be [normalized](Self::normalize).
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(MAGIC.to_vec());
        let text = |w: &mut Writer, text: &String| w.bytes(text.as_bytes());
        w.list(&self.packages, |w, package| {
            let Package { kind, name, version, arch, source, licenses, inner, vendor, module } = package;
            w.byte(*kind as u8);
            text(w, name);
            text(w, version);
            w.option(arch.as_ref(), text);
            w.option(source.as_ref(), |w, source| {
                text(w, &source.name);
                text(w, &source.version);
            });
            w.list(licenses, text);
            w.option(inner.as_ref(), text);
            w.option(vendor.as_ref(), text);
            w.option(module.as_ref(), text);
        });
        w.option(self.distribution.as_ref(), |w, distribution| {
            let Distribution { id, version_id, codename, name, id_like } = distribution;
            [id, version_id, codename, name].into_iter().for_each(|field| text(w, field));
            w.list(id_like, text);
        });
        w.number(self.claims.len() as u64);
        let mut previous: &[u8] = &[];
        for claim in &self.claims {
            w.front_coded(previous, &claim.path);
            previous = &claim.path;
            text(&mut w, &claim.package);
            write_file_digest(&mut w, claim.digest.as_ref());
        }
        w.list(&self.unidentified, |w, unidentified| {
            text(w, &unidentified.inner);
            w.0.extend_from_slice(&unidentified.sha256);
        });
        w.list(&self.warnings, text);
        w.0
    }

    /// Decodes an encoding by [`Self::encode`], and spends `budget` for it. Packages of a type that this version does not know, and parts
    /// that a later version appends, are skipped and counted in [`Self::unknown`].
    ///
    /// # Errors
    /// When the bytes are truncated, of another version, or not canonical; and when the fact takes more memory or work than the budget has.
    pub fn decode(bytes: &[u8], budget: &mut Budget) -> Result<Self, DecodeError> {
        let encoding = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Format("encoded fact"))?;
        Reader::spend(encoding, budget, Self::read)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut packages, mut unknown) = (Vec::new(), 0_u32);
        for _ in 0..r.length()? {
            r.budget.reserve(2 * size_of::<Package>())?;
            r.budget.step(1)?;
            let kind = r.byte()?;
            let kind = PackageType::ALL.into_iter().find(|known| *known as u8 == kind);
            // Every type has the same fields.
            let package = Package {
                kind: kind.unwrap_or(PackageType::Deb),
                name: r.string()?,
                version: r.string()?,
                arch: r.option(Reader::string)?,
                source: r.option(|r| Ok(SourcePackage { name: r.string()?, version: r.string()? }))?,
                licenses: r.list(Reader::string)?,
                inner: r.option(Reader::string)?,
                vendor: r.option(Reader::string)?,
                module: r.option(Reader::string)?,
            };
            match kind {
                Some(_) => packages.push(package),
                None => unknown += 1,
            }
        }
        let distribution = r.option(|r| {
            Ok(Distribution {
                id: r.string()?,
                version_id: r.string()?,
                codename: r.string()?,
                name: r.string()?,
                id_like: r.list(Reader::string)?,
            })
        })?;
        let mut path: Vec<u8> = Vec::new();
        let claims = r.list(|r| {
            r.next_path(&mut path)?;
            r.budget.reserve(ALLOCATION + path.len())?;
            Ok(Claim { path: path.clone(), package: r.string()?, digest: read_file_digest(r)? })
        })?;
        let unidentified = r.list(|r| Ok(Unidentified { inner: r.string()?, sha256: r.array()? }))?;
        let warnings = r.list(Reader::string)?;
        let unknown = unknown.saturating_add(r.unknown_parts()?);
        r.end()?;
        let fact = Self { packages, distribution, claims, unidentified, warnings, unknown };
        let sorted = fact.packages.is_sorted_by(|a, b| a < b)
            && fact.claims.is_sorted_by(|a, b| a < b)
            && fact.unidentified.is_sorted_by(|a, b| a < b)
            && fact.warnings.is_sorted_by(|a, b| a < b);
        if sorted { Ok(fact) } else { Err(DecodeError::Invalid { what: "order", at: 0 }) }
    }
}

pub(crate) fn write_file_digest(w: &mut Writer, digest: Option<&FileDigest>) {
    let (tag, bytes): (u8, &[u8]) = match digest {
        None => (0, &[]),
        Some(FileDigest::Md5(bytes)) => (1, bytes),
        Some(FileDigest::Sha1(bytes)) => (2, bytes),
        Some(FileDigest::Sha256(bytes)) => (3, bytes),
    };
    w.byte(tag);
    w.0.extend_from_slice(bytes);
}

pub(crate) fn read_file_digest(r: &mut Reader<'_>) -> Result<Option<FileDigest>, DecodeError> {
    Ok(match r.byte()? {
        0 => None,
        1 => Some(FileDigest::Md5(r.array()?)),
        2 => Some(FileDigest::Sha1(r.array()?)),
        3 => Some(FileDigest::Sha256(r.array()?)),
        _ => return Err(r.invalid("digest")),
    })
}

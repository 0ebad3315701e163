//! Java archives: jar, war, ear and similar ones, and the archives inside them.
//!
//! The packages of an archive are those of the `pom.properties` files inside it (a shaded jar keeps the files of all jars that it contains),
//! otherwise the one that its manifest and file name describe, as in syft. An archive without name or version is
//! [unidentified](Unidentified), with its digest.

mod file_name;
mod group;
mod manifest;
mod pom;

use outcrop_proto::{Fact, Package, PackageType, Unidentified};
use sha2::{Digest, Sha256};

use self::file_name::FileName;
use self::manifest::Manifest;
use self::pom::Coordinates;
use super::field::{base_name, base_text};
use super::zip::{Archive, Content, Entry, Work};
use super::{CatalogError, Cataloger, Evidence, Source, Want};

/// Maximum depth of nested archives; the evidence itself is level 1.
const MAX_DEPTH: usize = 16;

/// Maximum size of inflated archives in memory, in bytes. Stored archives are read in place.
const MAX_LIVE: u64 = 32 << 20;

/// Maximum number of bytes read of a manifest. Manifests of signed archives contain megabytes of digests.
const MAX_MANIFEST: usize = 256 << 10;

/// Maximum number of bytes read of a `pom.properties`.
const MAX_POM: usize = 16 << 10;

/// Maximum size of the path of a nested archive, in bytes.
const MAX_INNER: usize = 2048;

/// Maximum size of the text of all packages of one piece of evidence, in bytes, with [`PACKAGE_COST`] for each package.
const MAX_TEXT: usize = 16 << 20;

/// Cost of a package without its text, in bytes.
const PACKAGE_COST: usize = size_of::<Package>();

/// Maximum number of warnings of one piece of evidence.
const MAX_WARNINGS: usize = 50;

const TOO_MUCH_TEXT: CatalogError = CatalogError::Limit { what: "bytes of packages in a fact", limit: MAX_TEXT as u64 };

/// Size of a read for a digest, in bytes.
const CHUNK: usize = 64 << 10;

/// Reads Java archives.
pub(super) struct Java;

impl Cataloger for Java {
    fn name(&self) -> &'static str {
        "java"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if file_name::is_archive(path) { Want::Yes } else { Want::No }
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let mut walk = Walk { work: Work::new(), live: 0, text: 0, dropped: 0, fact: Fact::default() };
        walk.archive(evidence.source, &base_text(evidence.path), "", 1)?;
        if walk.dropped > 0 {
            walk.fact.warnings.push(format!("and {} more parts that could not be read", walk.dropped));
        }
        Ok(walk.fact)
    }
}

/// The kind of a selected entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pom,
    Manifest,
    Archive,
}

/// The state of reading one piece of evidence.
struct Walk {
    work: Work,
    /// Current size of inflated archives in memory, in bytes.
    live: u64,
    /// Size of the text in the fact, in bytes.
    text: usize,
    /// Number of warnings beyond the limit.
    dropped: usize,
    fact: Fact,
}

impl Walk {
    /// Reads the archive `source` with the path `inner` (empty for the evidence itself) and the file name `base`.
    fn archive(&mut self, source: &dyn Source, base: &str, inner: &str, depth: usize) -> Result<(), CatalogError> {
        let Some(archive) = Archive::open(source, &mut self.work)? else {
            if file_name::must_be_archive(base.as_bytes()) {
                return Err(CatalogError::malformed("zip archive", "it has no central directory"));
            }
            return Ok(());
        };

        let mut has_content = false;
        let (entries, broken) = archive.entries(&mut self.work, |path| {
            let kind = kind(path);
            has_content |= kind != Some(Kind::Archive) && !path.starts_with(b"META-INF/");
            kind
        });
        if let Some(error) = broken {
            self.warn(inner, "", &error);
        }

        let own = |kind| entries.iter().filter(move |(found, _)| *found == kind).map(|(_, entry)| entry);
        // They are charged again once they are packages; until then, no more of them are kept than could become packages.
        let (mut poms, mut text) = (Vec::new(), self.text);
        for entry in own(Kind::Pom) {
            match archive.head(entry, MAX_POM, &self.work).and_then(|bytes| pom::properties(&bytes)) {
                Ok(None) if entry.size > MAX_POM as u64 => {
                    let error = CatalogError::Limit { what: "bytes of pom.properties", limit: MAX_POM as u64 };
                    self.warn(inner, &entry.name, &error);
                }
                Ok(Some(coordinates)) => {
                    text += PACKAGE_COST + coordinates.text();
                    if text > MAX_TEXT {
                        self.warn(inner, &entry.name, &TOO_MUCH_TEXT);
                        break;
                    }
                    poms.push(coordinates);
                }
                Ok(None) => {}
                Err(error) => self.warn(inner, &entry.name, &error),
            }
        }
        let mut manifest = None;
        if let Some(entry) = own(Kind::Manifest).next() {
            match archive.head(entry, MAX_MANIFEST, &self.work) {
                Ok(bytes) => manifest = Some(Manifest::parse(&bytes)),
                Err(error) => self.warn(inner, &entry.name, &error),
            }
        }
        let identified = self.identify(base, inner, poms, manifest.as_ref());
        if !identified && has_content {
            self.unidentified(source, inner);
        }

        for entry in own(Kind::Archive) {
            self.nested(&archive, entry, inner, depth);
        }
        Ok(())
    }

    /// Adds the packages that an archive describes. Returns whether there is one.
    fn identify(&mut self, base: &str, inner: &str, poms: Vec<Coordinates>, manifest: Option<&Manifest>) -> bool {
        let file = FileName::split(base);
        let licenses = manifest.map(Manifest::licenses).unwrap_or_default();
        let main = main_artifact(&file, &poms, manifest);
        let mut identified = !poms.is_empty();
        for pom in poms {
            let licenses = if main == Main::Pom(pom.artifact.clone()) { licenses.clone() } else { Vec::new() };
            self.package(pom, inner, licenses);
        }
        if let Main::Artifact(artifact) = main {
            let declared = || manifest.and_then(Manifest::version).unwrap_or_default();
            let version = if file.version.is_empty() { declared() } else { file.version };
            if !version.is_empty() {
                let group = group::guess(&artifact, version, manifest);
                self.package(Coordinates { group, artifact, version: version.to_owned() }, inner, licenses);
                identified = true;
            }
        }
        identified
    }

    /// Reads a nested archive. If it is malformed, only its own contents are lost.
    fn nested(&mut self, archive: &Archive<'_>, entry: &Entry, inner: &str, depth: usize) {
        let path = join(inner, &entry.name);
        let base = base_text(entry.name.as_bytes());
        let result = if path.len() > MAX_INNER {
            Err(CatalogError::Limit { what: "bytes in the path of a nested archive", limit: MAX_INNER as u64 })
        } else if depth >= MAX_DEPTH {
            Err(CatalogError::Limit { what: "levels of nested archives", limit: MAX_DEPTH as u64 })
        } else {
            archive.content(entry).and_then(|content| match content {
                Content::Stored(part) => self.archive(&part, &base, &path, depth + 1),
                Content::Deflated => self.inflated(archive, entry, &base, &path, depth),
            })
        };
        if let Err(error) = result {
            self.warn(inner, &entry.name, &error);
            // The name of an archive that cannot be opened may still identify it.
            if path.len() <= MAX_INNER {
                self.identify(&base, &path, Vec::new(), None);
            }
        }
    }

    /// Reads an archive that must be inflated into memory first.
    fn inflated(
        &mut self,
        archive: &Archive<'_>,
        entry: &Entry,
        base: &str,
        path: &str,
        depth: usize,
    ) -> Result<(), CatalogError> {
        if self.live.saturating_add(entry.size) > MAX_LIVE {
            return Err(CatalogError::Limit { what: "bytes of nested archives at once", limit: MAX_LIVE });
        }
        let bytes = archive.whole(entry, &self.work)?;
        self.live += entry.size;
        let result = self.archive(&bytes.as_slice(), base, path, depth + 1);
        self.live -= entry.size;
        result
    }

    /// Adds the archive at `inner` as unidentified, unless its digest would exceed the budget.
    fn unidentified(&mut self, source: &dyn Source, inner: &str) {
        match self.digest(source) {
            Ok(sha256) => self.fact.unidentified.push(Unidentified { inner: inner.to_owned(), sha256 }),
            Err(error) => self.warn(inner, "", &error),
        }
    }

    fn digest(&self, source: &dyn Source) -> Result<[u8; 32], CatalogError> {
        self.work.budget.spend(source.size())?;
        let mut digest = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        while offset < source.size() {
            let read = source.read_at(offset, &mut chunk)?;
            if read == 0 {
                return Err(CatalogError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            digest.update(&chunk[..read]);
            offset += read as u64;
        }
        Ok(digest.finalize().into())
    }

    fn package(&mut self, coordinates: Coordinates, inner: &str, licenses: Vec<String>) {
        let Coordinates { group, artifact, version } = coordinates;
        let mut package = Package::new(PackageType::Maven, format!("{group}:{artifact}"), version);
        package.licenses = licenses;
        package.inner = (!inner.is_empty()).then(|| inner.to_owned());
        let licenses: usize = package.licenses.iter().map(String::len).sum();
        let text = package.name.len() + package.version.len() + licenses + inner.len();
        self.text = self.text.saturating_add(PACKAGE_COST + text);
        if self.text > MAX_TEXT {
            self.warn(inner, "", &TOO_MUCH_TEXT);
        } else {
            self.fact.packages.push(package);
        }
    }

    fn warn(&mut self, inner: &str, entry: &str, error: &CatalogError) {
        if self.fact.warnings.len() >= MAX_WARNINGS {
            self.dropped += 1;
            return;
        }
        let place = if entry.is_empty() { inner.to_owned() } else { join(inner, entry) };
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        self.fact.warnings.push(format!("{place}{error}"));
    }
}

fn join(inner: &str, name: &str) -> String {
    if inner.is_empty() { name.to_owned() } else { format!("{inner}!/{name}") }
}

fn kind(path: &[u8]) -> Option<Kind> {
    if path.ends_with(b"pom.properties") {
        Some(Kind::Pom)
    } else if path.eq_ignore_ascii_case(b"META-INF/MANIFEST.MF") {
        Some(Kind::Manifest)
    } else if file_name::is_archive(base_name(path)) {
        Some(Kind::Archive)
    } else {
        None
    }
}

/// Identity of the archive itself, as opposed to the jars that it contains.
#[derive(Debug, PartialEq, Eq)]
enum Main {
    /// One of its `pom.properties` describes it: the one of this artifact.
    Pom(String),
    /// Its manifest or file name describes it as this artifact.
    Artifact(String),
    /// Nothing describes it.
    Unknown,
}

fn main_artifact(file: &FileName<'_>, poms: &[Coordinates], manifest: Option<&Manifest>) -> Main {
    let pom = |matches: &dyn Fn(&str) -> bool| poms.iter().find(|pom| matches(&pom.artifact));
    // An artifact equal to the file name comes first, then a prefix: `log4j-core` for `log4j-core-patched.jar`, as in syft.
    let by_file = pom(&|artifact| artifact == file.name).or_else(|| {
        pom(&|artifact| !file.name.is_empty() && (artifact.starts_with(file.name) || file.name.ends_with(artifact)))
    });
    if let Some(pom) = by_file {
        return Main::Pom(pom.artifact.clone());
    }
    let Some(manifest) = manifest else {
        // Without a manifest, the file name is used only if no other description exists and a build tool could have written it.
        return if poms.is_empty() && file.dashed { Main::Artifact(file.artifact().to_owned()) } else { Main::Unknown };
    };
    // New Relic's instrumentation modules have the names of the instrumented artifacts.
    if manifest.main("Weave-Classes").is_some() {
        return Main::Unknown;
    }
    let artifact = manifest
        .bundle_artifact()
        .or_else(|| Some(file.artifact()).filter(|artifact| !artifact.is_empty()))
        .or_else(|| manifest.title());
    match artifact {
        Some(artifact) if poms.iter().any(|pom| pom.artifact == artifact) => Main::Pom(artifact.to_owned()),
        Some(artifact) => Main::Artifact(artifact.to_owned()),
        None => Main::Unknown,
    }
}

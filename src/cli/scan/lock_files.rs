//! Lock files and manifests in a directory without installed packages: a source folder. Outcrop reads installed packages only (decision 7), so it
//! must report these files: otherwise such a directory would look like one without packages.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use outcrop_proto::{Coverage, PackageType, StackPackage};

/// Names of lock files and of manifests that are used like them, with the type of the packages that they lead to; `None` for types that Outcrop does not read.
const LOCK_FILES: &[(&str, Option<PackageType>)] = &[
    ("package-lock.json", Some(PackageType::Npm)),
    ("npm-shrinkwrap.json", Some(PackageType::Npm)),
    ("yarn.lock", Some(PackageType::Npm)),
    ("pnpm-lock.yaml", Some(PackageType::Npm)),
    ("bun.lock", Some(PackageType::Npm)),
    ("bun.lockb", Some(PackageType::Npm)),
    ("deno.lock", Some(PackageType::Npm)),
    ("requirements.txt", Some(PackageType::Pypi)),
    ("Pipfile.lock", Some(PackageType::Pypi)),
    ("poetry.lock", Some(PackageType::Pypi)),
    ("pdm.lock", Some(PackageType::Pypi)),
    ("uv.lock", Some(PackageType::Pypi)),
    ("pylock.toml", Some(PackageType::Pypi)),
    ("go.mod", Some(PackageType::Golang)),
    ("go.sum", Some(PackageType::Golang)),
    ("pom.xml", Some(PackageType::Maven)),
    ("gradle.lockfile", Some(PackageType::Maven)),
    ("Cargo.lock", None),
    ("Gemfile.lock", None),
    ("composer.lock", None),
    ("packages.lock.json", None),
    ("mix.lock", None),
    ("pubspec.lock", None),
    ("Podfile.lock", None),
    ("Package.resolved", None),
    ("conan.lock", None),
];

/// Directories that are not searched: the lock files in them belong to other projects, or describe the archive that they are in.
const SKIPPED: &[&str] = &[".git", "META-INF", "node_modules", "vendor"];

/// Maximum number of directory entries that are looked at. The search ends there; the lock files of a project are near its top.
const MAX_ENTRIES: usize = 50_000;

/// Maximum number of lock files that are looked for.
const MAX_FOUND: usize = 1000;

/// Maximum number of lock files that are named.
const MAX_NAMED: usize = 3;

/// A lock file, relative to the searched directory.
#[derive(Debug)]
struct LockFile {
    directory: PathBuf,
    name: &'static str,
    leads_to: Option<PackageType>,
}

/// The evidence of installed packages, sorted, so that a lock file is looked up in it without a search through all of it.
struct Installed<'a>(Vec<(PackageType, &'a [u8])>);

impl<'a> Installed<'a> {
    fn new(packages: &'a [StackPackage]) -> Self {
        let evidence = packages.iter().flat_map(|package| {
            let kind = package.package.kind;
            package.evidence.iter().map(move |path| (kind, path.as_slice()))
        });
        let mut sorted: Vec<_> = evidence.filter(|(kind, path)| is_installation(*kind, path)).collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a package of the lock file's type is installed beneath the lock file's directory.
    fn has(&self, file: &LockFile) -> bool {
        let Some(wanted) = file.leads_to else { return false };
        let mut beneath = file.directory.as_os_str().as_encoded_bytes().to_vec();
        if !beneath.is_empty() {
            beneath.push(b'/');
        }
        let first = self.0.partition_point(|entry| *entry < (wanted, beneath.as_slice()));
        self.0.get(first).is_some_and(|(kind, path)| *kind == wanted && path.starts_with(&beneath))
    }
}

/// Returns whether evidence is of an installed package. A `package.json` elsewhere than below `node_modules` is that of the project itself.
fn is_installation(kind: PackageType, evidence: &[u8]) -> bool {
    const MODULES: &[u8] = b"node_modules/";
    kind != PackageType::Npm || evidence.windows(MODULES.len()).any(|part| part == MODULES)
}

/// Lock files whose packages are not installed.
#[derive(Debug)]
pub(super) struct Unread {
    names: String,
    /// `true` if nothing at all is installed.
    all: bool,
}

impl Unread {
    /// Searches the directories for lock files whose packages are not among `packages`, the result of a scan. Returns `None` if there are none.
    pub(super) fn search(roots: &[PathBuf], packages: &[StackPackage]) -> Option<Self> {
        let mut found = find(roots);
        let installed = Installed::new(packages);
        found.retain(|file| !installed.has(file));
        let first: Vec<String> =
            found.iter().take(MAX_NAMED).map(|file| file.directory.join(file.name).display().to_string()).collect();
        let more = found.len().checked_sub(first.len()).filter(|more| *more > 0);
        let names = match (first.is_empty(), more) {
            (true, _) => return None,
            (false, None) => first.join(", "),
            (false, Some(more)) => format!("{} and {more} more", first.join(", ")),
        };
        Some(Self { names, all: installed.is_empty() })
    }

    /// Returns whether nothing at all is installed.
    pub(super) fn is_all(&self) -> bool {
        self.all
    }

    /// Returns the coverage of the directory: `unsupported` if nothing is installed, otherwise at most `partial`.
    pub(super) fn limit(&self, coverage: Coverage) -> Coverage {
        let reason = format!("lock files and manifests are not read, only installed packages: {}", self.names);
        if self.all { Coverage::unsupported(reason) } else { coverage.but(&reason) }
    }

    /// Returns the line for standard error.
    pub(super) fn hint(&self) -> String {
        format!(
            "lock files and manifests are not read, only installed packages: {}; install the packages and scan the directory again, or scan an SBOM with --sbom FILE",
            self.names
        )
    }
}

/// Finds lock files, those nearest to the roots first. Symbolic links are not followed, and no file is opened. What cannot be listed is skipped.
fn find(roots: &[PathBuf]) -> Vec<LockFile> {
    let mut found = Vec::new();
    let mut left = MAX_ENTRIES;
    let mut directories: VecDeque<(&Path, PathBuf)> =
        roots.iter().map(|root| (root.as_path(), PathBuf::new())).collect();
    while let Some((root, directory)) = directories.pop_front() {
        let Ok(entries) = std::fs::read_dir(root.join(&directory)) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if left == 0 || found.len() == MAX_FOUND {
                directories.clear();
                break;
            }
            left -= 1;
            let name = entry.file_name();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) => {
                    directories.push_back((root, directory.join(&name)));
                }
                Ok(kind) if kind.is_file() => {
                    let known = LOCK_FILES.iter().find(|(known, _)| name == *known);
                    found.extend(known.map(|&(name, leads_to)| LockFile {
                        directory: directory.clone(),
                        name,
                        leads_to,
                    }));
                }
                _ => {}
            }
        }
    }
    // The order of a directory's entries is the file system's.
    found.sort_by_cached_key(|file| (file.directory.components().count(), file.directory.clone(), file.name));
    found
}

#[cfg(test)]
mod tests {
    use outcrop_proto::Package;

    use super::*;

    #[test]
    fn a_lock_file_is_looked_up_among_what_is_installed_beneath_its_directory() {
        let package = |kind, path: &str| StackPackage {
            package: Package::new(kind, "a", "1"),
            evidence: vec![path.as_bytes().to_vec()],
            layer: 0,
            owner: None,
        };
        let packages = [
            package(PackageType::Npm, "web/node_modules/a/package.json"),
            package(PackageType::Npm, "web-two/package.json"),
            package(PackageType::Golang, "bin/tool"),
        ];
        let installed = Installed::new(&packages);
        // The `package.json` of a project is no installation, so it is not even kept.
        assert_eq!(installed.0.len(), 2);
        let has = |directory: &str, leads_to| {
            installed.has(&LockFile { directory: PathBuf::from(directory), name: "lock", leads_to })
        };
        assert!(has("", Some(PackageType::Npm)) && has("web", Some(PackageType::Npm)));
        assert!(has("bin", Some(PackageType::Golang)) && has("", Some(PackageType::Golang)));
        assert!(!has("we", Some(PackageType::Npm)) && !has("web-two", Some(PackageType::Npm)));
        assert!(!has("bin", Some(PackageType::Npm)) && !has("", Some(PackageType::Maven)) && !has("", None));
    }
}

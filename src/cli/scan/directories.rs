//! Scans a directory tree or overlay layers, without a container runtime.

use std::path::{Path, PathBuf};

use outcrop_agent::scan::{LayerPlace, Scanner, StackPlace};
use overlayfs_reader::MarkNamespace;

use super::lock_files::Unread;
use super::matcher::Matcher;
use crate::cli::report::{Subject, Target};
use crate::cli::{Fatal, unreadable};

/// The directories of `--layers`.
#[derive(Clone, Debug)]
pub(super) struct Layers(Vec<PathBuf>);

/// Parses `--layers`, in the syntax of overlay's mount option `lowerdir`.
pub(super) fn layers(value: &str) -> Result<Layers, String> {
    overlayfs_reader::parse_lowerdir(value.as_bytes())
        .map(Layers)
        .map_err(|_| "expected directories separated by colons, without empty or data-only elements".to_owned())
}

/// The directories of `--rootfs` or `--layers`.
pub(super) struct Directories {
    name: String,
    roots: Vec<PathBuf>,
}

/// Returns the directories to scan, if any were given, after checking that each exists.
pub(super) fn chosen(rootfs: Option<PathBuf>, layers: Option<Layers>) -> Result<Option<Directories>, Fatal> {
    let (name, roots) = match (rootfs, layers) {
        (Some(rootfs), _) => (rootfs.display().to_string(), vec![rootfs]),
        (None, Some(Layers(roots))) => {
            let names: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            (names.join(":"), roots)
        }
        (None, None) => return Ok(None),
    };
    roots.iter().try_for_each(|root| check_directory(root))?;
    Ok(Some(Directories { name, roots }))
}

/// Checks that `path` is a readable directory.
fn check_directory(path: &Path) -> Result<(), Fatal> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Fatal::failed(format!("scanning {}: not a directory", path.display()))),
        Err(error) => Err(unreadable("scanning", path, &error)),
    }
}

impl Directories {
    /// Scans the directories. Returns the target, and the lock files that were not read if the directories are no root file system.
    pub(super) fn scan(self, scanner: &mut Scanner, matcher: &Matcher) -> Result<(Target, Option<Unread>), Fatal> {
        let subject = Subject::named(self.name);
        // A path on the command line may be a symbolic link; the root of a layer never is.
        let roots: Vec<PathBuf> = self.roots.into_iter().map(|root| root.canonicalize().unwrap_or(root)).collect();
        let stack = StackPlace {
            layers: roots.iter().map(|root| LayerPlace { id: None, root: root.clone() }).collect(),
            marks: MarkNamespace::Trusted,
            upper: None,
            mounted: None,
        };
        Ok(match scanner.scan(&stack) {
            Ok(mut scanned) => {
                // In the root file system of a distribution, what is installed is complete, and lock files are left over (decision 7).
                let unread = match scanned.merged.distribution {
                    Some(_) => None,
                    None => Unread::search(&roots, &scanned.merged.packages),
                };
                if let Some(unread) = &unread {
                    scanned.coverage = unread.limit(scanned.coverage);
                }
                let matched = matcher.match_packages(scanned.merged.distribution.as_ref(), &scanned.merged.packages)?;
                (Target::scanned(subject, stack.layers.len(), &[], &[], scanned, matched), unread)
            }
            Err(error) => (Target::not_scanned(subject, error.coverage()), None),
        })
    }
}

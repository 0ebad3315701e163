//! Scans a directory tree or overlay layers, without a container runtime.

use std::path::{Path, PathBuf};

use outcrop_agent::scan::{LayerPlace, Scanner, StackPlace};
use overlayfs_reader::MarkNamespace;

use super::matcher::Matcher;
use crate::cli::Fatal;
use crate::cli::report::{Subject, Target};

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
        Err(error) => Err(Fatal::failed(format!("scanning {}: {error}", path.display()))),
    }
}

impl Directories {
    pub(super) fn scan(self, scanner: &mut Scanner, matcher: &Matcher) -> Result<Target, Fatal> {
        let subject = Subject::named(self.name);
        // A path on the command line may be a symbolic link; the root of a layer never is.
        let resolved = self.roots.into_iter().map(|root| root.canonicalize().unwrap_or(root));
        let stack = StackPlace {
            layers: resolved.map(|root| LayerPlace { id: None, root }).collect(),
            marks: MarkNamespace::Trusted,
            upper: None,
            mounted: None,
        };
        Ok(match scanner.scan(&stack) {
            Ok(scanned) => {
                let matched = matcher.match_packages(scanned.merged.distribution.as_ref(), &scanned.merged.packages)?;
                Target::scanned(subject, stack.layers.len(), &[], &[], scanned, matched)
            }
            Err(error) => Target::not_scanned(subject, error.coverage()),
        })
    }
}

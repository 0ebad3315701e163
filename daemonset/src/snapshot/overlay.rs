//! The `overlayfs` snapshotter: one directory per layer, `<root>/snapshots/<number>/fs`.
//!
//! Its mounts (containerd's `plugins/snapshots/overlay`, the same from 1.6 to 2.4 except for the order of options):
//!
//! | snapshot | parents | mount |
//! |---|---|---|
//! | active | 0 | bind of its own `fs`, rw |
//! | active | 1 and more | overlay with `workdir`, `upperdir`, `lowerdir` |
//! | view | 0 | bind of its own, empty `fs`, ro |
//! | view | 1 | bind of the **parent's** `fs`, ro |
//! | view | 2 and more | overlay with `lowerdir` only |

use std::collections::HashSet;
use std::path::Path;

use outcrop_proto::{Coverage, Mount};

use super::{Layer, Stack, bind_is_read_only, host_path, unknown_kind};

/// overlayfs accepts at most 500 lower layers.
const MAX_LAYERS: usize = 500;

/// Finds the layer roots, one per parent of the chain.
pub(super) fn locate(mount: &Mount, chain: &[String], prefix: &Path) -> Result<Stack, Coverage> {
    refuse_remapped(chain)?;
    let stack = match mount.kind.as_str() {
        "overlay" => overlay(mount, chain, prefix)?,
        "bind" => bind(mount, chain, prefix)?,
        _ => return Err(unknown_kind("overlayfs", mount)),
    };
    same_root(&stack)?;
    Ok(stack)
}

/// Refuses a remapped copy. Where the kernel cannot map owners on a mount, pods with user namespaces get a copy of the image with changed
/// owners on top of the chain: full files, or stubs without data (`metacopy`) that read as zeros.
fn refuse_remapped(chain: &[String]) -> Result<(), Coverage> {
    match chain {
        [top, parent, ..] if top.strip_prefix(parent.as_str()).is_some_and(|rest| rest.starts_with('-')) => {
            Err(Coverage::unsupported(REMAPPED))
        }
        _ => Ok(()),
    }
}

const REMAPPED: &str = "it runs on a copy of its image whose owners were changed for a user namespace, \
    and such a copy may hold stubs in place of files";

fn overlay(mount: &Mount, chain: &[String], prefix: &Path) -> Result<Stack, Coverage> {
    let options = Options::parse(&mount.options)?;
    let lower: Vec<&str> = options
        .lowerdir
        .ok_or_else(|| Coverage::unsupported("the overlay mount has no lowerdir"))?
        .split(':')
        .collect();
    if lower.iter().any(|path| path.is_empty()) {
        return Err(Coverage::unsupported("the overlay mount has data-only layers (\"::\"), which hold no names"));
    }
    if lower.len() > MAX_LAYERS {
        return Err(Coverage::unsupported(format!(
            "the overlay mount has {} layers, more than the kernel allows",
            lower.len()
        )));
    }
    if lower.len() == chain.len() + 1 {
        return Err(Coverage::unsupported(format!(
            "the mount has one layer directory more than the snapshot has parents: {REMAPPED}"
        )));
    }
    let layers = pair(&lower, chain, prefix)?;
    let upper = options.upperdir.map(|path| host_path::below(prefix, path)).transpose()?;
    Ok(Stack { layers, upper, userxattr: options.userxattr })
}

fn bind(mount: &Mount, chain: &[String], prefix: &Path) -> Result<Stack, Coverage> {
    let read_only = bind_is_read_only(mount)?;
    let source = mount.source.as_str();
    let (layers, upper) = match (chain.len(), read_only) {
        (0, false) => (Vec::new(), Some(host_path::below(prefix, source)?)),
        // The view's own directory, to which nothing can have been written.
        (0, true) => (Vec::new(), None),
        (_, true) => (pair(&[source], chain, prefix)?, None),
        (parents, false) => {
            return Err(Coverage::unsupported(format!(
                "the mount is a single writable directory, but the snapshot has {parents} parents"
            )));
        }
    };
    Ok(Stack { layers, upper, userxattr: false })
}

/// Pairs layer directories with the chain: both are newest first.
fn pair(paths: &[&str], chain: &[String], prefix: &Path) -> Result<Vec<Layer>, Coverage> {
    if paths.len() != chain.len() {
        return Err(Coverage::unsupported(format!(
            "the mount names {} layers where the snapshot has {} parents",
            paths.len(),
            chain.len()
        )));
    }
    let mut seen = HashSet::new();
    paths
        .iter()
        .zip(chain)
        .map(|(&path, snapshot)| {
            if !seen.insert(path) {
                return Err(Coverage::unsupported(format!("the mount names the layer {path:?} twice")));
            }
            Ok(Layer { snapshot: snapshot.clone(), root: host_path::below(prefix, path)? })
        })
        .collect()
}

/// Checks that every directory is `<root>/snapshots/<number>/fs` below one root. Other forms come from another program.
fn same_root(stack: &Stack) -> Result<(), Coverage> {
    let mut root = None;
    let paths = stack.layers.iter().map(|layer| &layer.root).chain(&stack.upper);
    for path in paths {
        let its = snapshotter_root(path).ok_or_else(|| {
            Coverage::unsupported(format!("the layer directory {path:?} is not laid out as overlayfs snapshots are"))
        })?;
        if **root.get_or_insert(its) != *its {
            return Err(Coverage::unsupported("the layer directories are below different snapshotter roots"));
        }
    }
    Ok(())
}

fn snapshotter_root(path: &Path) -> Option<&Path> {
    let number = path.parent().filter(|_| path.file_name().is_some_and(|name| name == "fs"))?;
    let snapshots = number
        .parent()
        .filter(|_| number.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)))?;
    snapshots.parent().filter(|_| snapshots.file_name().is_some_and(|name| name == "snapshots"))
}

/// Options that name the layers. Their order differs between versions of containerd and has no meaning.
#[derive(Debug, Default)]
struct Options<'a> {
    lowerdir: Option<&'a str>,
    upperdir: Option<&'a str>,
    userxattr: bool,
}

impl<'a> Options<'a> {
    fn parse(options: &'a [String]) -> Result<Self, Coverage> {
        let mut parsed = Self::default();
        for option in options {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option.as_str(), None),
            };
            let place = match (key, value) {
                ("lowerdir", Some(_)) => &mut parsed.lowerdir,
                ("upperdir", Some(_)) => &mut parsed.upperdir,
                ("userxattr", None) => {
                    parsed.userxattr = true;
                    continue;
                }
                _ if HARMLESS.contains(&key) => continue,
                _ => return Err(Coverage::unsupported(format!("the overlay mount has the unknown option {key:?}"))),
            };
            if let Some(value) = value
                && place.replace(value).is_some()
            {
                return Err(Coverage::unsupported(format!("the overlay mount has the option {key} twice")));
            }
        }
        Ok(parsed)
    }
}

/// Options that affect neither the list of layers nor the marks. `metacopy` and `redirect_dir` control what the kernel may write in the
/// writable layer; the reader checks whether a layer has such marks. An operator can add any of them in containerd's configuration.
const HARMLESS: &[&str] = &[
    "workdir",
    "index",
    "nfs_export",
    "xino",
    "uuid",
    "volatile",
    "fsync",
    "metacopy",
    "redirect_dir",
    "uidmap",
    "gidmap",
    "ro",
    "rw",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "defaults",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
    "seclabel",
    "override_creds",
    "nooverride_creds",
];

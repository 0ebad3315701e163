//! The reader shows the same merged tree as the kernel's overlayfs.
//!
//! Random stacks of layers are created on disk, mounted, and compared entry by entry. `STACKS` is their number (2,000), `SEED` the first seed. A
//! difference is reported with its seed. The test needs root and overlayfs, and is skipped without them.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::skip::skip;
use crate::stacks::{Features, NAMES, Random, fill, set_mark};
use overlayfs_reader::{ErrorKind, Kind, Layer, LayerReader, MarkNamespace, Marks, Options, Stack};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

/// The properties of a path that both sides can read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Size of files and links; sizes of directories differ between file systems.
    size: u64,
    rdev: u64,
    content: Vec<u8>,
}

fn kernel_tree(root: &Path) -> io::Result<BTreeMap<Vec<u8>, Seen>> {
    let mut tree = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            // If a directory is not merged, the kernel also lists its whiteouts; only a lookup shows that they do not exist.
            let metadata = match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let (kind, content) = match FileType::from_raw_mode(metadata.mode()) {
                FileType::Directory => {
                    pending.push(path.clone());
                    (Kind::Dir, Vec::new())
                }
                FileType::Symlink => (Kind::Symlink, fs::read_link(&path)?.as_os_str().as_bytes().to_vec()),
                FileType::RegularFile => (Kind::File, fs::read(&path)?),
                FileType::Fifo => (Kind::Fifo, Vec::new()),
                FileType::Socket => (Kind::Socket, Vec::new()),
                FileType::CharacterDevice => (Kind::CharDevice, Vec::new()),
                kind => panic!("{kind:?} at {path:?}"),
            };
            let size = if kind == Kind::Dir { 0 } else { metadata.size() };
            let relative = path.strip_prefix(root).map_err(io::Error::other)?.as_os_str().as_bytes().to_vec();
            let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
            let rdev = if kind == Kind::CharDevice { metadata.rdev() } else { 0 };
            tree.insert(relative, Seen { kind, mode, uid, gid, size, rdev, content });
        }
    }
    Ok(tree)
}

fn reader_tree(stack: &Stack) -> Result<BTreeMap<Vec<u8>, Seen>, overlayfs_reader::Error> {
    let mut paths = Vec::new();
    stack.walk(&mut |entry| {
        paths.push((entry.path.clone(), entry.kind));
        ControlFlow::Continue(())
    })?;
    let mut tree = BTreeMap::new();
    for (path, kind) in paths {
        let metadata = stack.metadata(&path)?;
        assert_eq!(metadata.kind, kind, "walk and lookup disagree on {}", path.escape_ascii());
        let mut content = Vec::new();
        match kind {
            Kind::File => {
                stack.open(&path)?.read_to_end(&mut content).expect("reading");
            }
            Kind::Symlink => content = stack.read_link(&path)?,
            _ => assert!(stack.open(&path).is_err(), "only regular files are opened"),
        }
        let size = if kind == Kind::Dir { 0 } else { metadata.size };
        let rdev = if kind == Kind::CharDevice { metadata.rdev } else { 0 };
        let seen = Seen { kind, mode: metadata.mode, uid: metadata.uid, gid: metadata.gid, size, rdev, content };
        tree.insert(path, seen);
    }
    Ok(tree)
}

/// Returns device and inode of the target of `path`, resolved below the root of the mounted tree; `None` if there is no target.
fn kernel_resolve(mounted: &OwnedFd, path: &[u8]) -> Option<(u64, u64)> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match rustix::fs::openat2(mounted, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
            // A rename or mount elsewhere on the machine disturbs a lookup with `..`; other tests cause both.
            Err(Errno::AGAIN) => {}
            found => break found.ok()?,
        }
    };
    let stat = rustix::fs::fstat(&found).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn compare(seed: u64, base: &Path, features: Features) -> Result<usize, String> {
    let mut random = Random(seed);
    let count = if random.one_in(12) { 20 + random.below(21) } else { 1 + random.below(6) };
    let with_upper = random.one_in(3) && count > 1;
    let mut roots = Vec::new();
    for number in 0..count {
        // The kernel treats marked regular files as whiteouts in lower layers only.
        let upper = with_upper && number == 0;
        let features = Features { xwhiteouts: features.xwhiteouts && !upper, ..features };
        // Layers are created newest first, so the last one is the bottom.
        let root = base.join(format!("l{number}"));
        fs::create_dir(&root).map_err(|error| error.to_string())?;
        if !random.one_in(8) {
            fill(&mut random, &root, 0, features, number + 1 == count).map_err(|error| format!("making: {error}"))?;
        }
        roots.push(root);
    }
    let mounted = base.join("m");
    let work = base.join("w");
    fs::create_dir(&mounted).and_then(|()| fs::create_dir(&work)).map_err(|error| error.to_string())?;
    let (upper, lowers) = if with_upper { (Some(&roots[0]), &roots[1..]) } else { (None, &roots[..]) };
    // Without an upper directory, overlayfs requires two lower ones: an empty one at the bottom changes nothing.
    let empty = base.join("e");
    fs::create_dir(&empty).map_err(|error| error.to_string())?;
    let mut lower: Vec<String> = lowers.iter().map(|root| root.display().to_string()).collect();
    if lower.len() < 2 && upper.is_none() {
        lower.push(empty.display().to_string());
    }
    let mut options = format!("lowerdir={},index=off,xino=off", lower.join(":"));
    if let Some(upper) = upper {
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    if features.namespace == MarkNamespace::User {
        options.push_str(",userxattr");
    }
    let options = CString::new(options).map_err(|error| error.to_string())?;
    rustix::mount::mount("overlay", &mounted, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|errno| format!("mounting {count} layers: {errno}"))?;
    let result = compare_mounted(&mut random, &mounted, upper, lowers, features);
    rustix::mount::unmount(&mounted, UnmountFlags::DETACH).map_err(|errno| errno.to_string())?;
    result
}

fn compare_mounted(
    random: &mut Random,
    mounted: &Path,
    upper: Option<&PathBuf>,
    lowers: &[PathBuf],
    features: Features,
) -> Result<usize, String> {
    let open = |path: &PathBuf| Layer::open(path).map_err(|error| error.to_string());
    let layers: Result<Vec<Layer>, String> = lowers.iter().map(open).collect();
    let options = Options::detect(features.namespace);
    assert_eq!(options.marks, Marks::Readable);
    let stack = Stack::new(layers?, upper.map(open).transpose()?, options);
    let expected = kernel_tree(mounted).map_err(|error| format!("reading the mount: {error}"))?;
    let found = reader_tree(&stack).map_err(|error| error.to_string())?;
    for (path, seen) in &expected {
        let ours = found.get(path);
        if ours != Some(seen) {
            return Err(format!("{}: the kernel shows {seen:?}, the reader {ours:?}", path.escape_ascii()));
        }
    }
    if let Some(path) = found.keys().find(|path| !expected.contains_key(*path)) {
        return Err(format!("{}: the reader alone shows it", path.escape_ascii()));
    }
    let root = rustix::fs::openat(CWD, mounted, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| errno.to_string())?;
    for _ in 0..12 {
        let names = 1 + random.below(5);
        let path: Vec<&[u8]> =
            (0..names).map(|_| if random.one_in(6) { &b".."[..] } else { random.pick(NAMES) }).collect();
        let path = path.join(&b'/');
        let theirs = kernel_resolve(&root, &path);
        let ours = match stack.resolve(&path) {
            Ok(resolved) => {
                let resolved = if resolved.is_empty() { b".".to_vec() } else { resolved };
                let stat = rustix::fs::statat(&root, OsStr::from_bytes(&resolved), AtFlags::SYMLINK_NOFOLLOW);
                stat.ok().map(|stat| (stat.st_dev, stat.st_ino))
            }
            Err(error) if matches!(error.kind(), ErrorKind::System(_) | ErrorKind::InvalidPath) => {
                return Err(format!("resolving {}: {error}", path.escape_ascii()));
            }
            Err(_) => None,
        };
        if theirs != ours {
            return Err(format!("{}: the kernel leads to {theirs:?}, the reader to {ours:?}", path.escape_ascii()));
        }
    }
    Ok(expected.len())
}

/// Returns whether this kernel supports marked regular files as whiteouts.
fn knows_xwhiteouts(base: &Path) -> bool {
    let probe = || -> io::Result<bool> {
        for name in ["new/d", "old/d", "m"] {
            fs::create_dir_all(base.join(name))?;
        }
        fs::write(base.join("old/d/x"), b"x")?;
        fs::write(base.join("new/d/x"), b"")?;
        set_mark(&base.join("new/d/x"), MarkNamespace::Trusted, "whiteout", b"y")?;
        set_mark(&base.join("new/d"), MarkNamespace::Trusted, "opaque", b"x")?;
        set_mark(&base.join("new"), MarkNamespace::Trusted, "opaque", b"x")?;
        let options = format!("lowerdir={0}/new:{0}/old", base.display());
        let options = CString::new(options).map_err(io::Error::other)?;
        let mounted = base.join("m");
        rustix::mount::mount("overlay", &mounted, "overlay", MountFlags::empty(), options.as_c_str())?;
        let hidden = !mounted.join("d/x").exists();
        rustix::mount::unmount(&mounted, UnmountFlags::DETACH)?;
        Ok(hidden)
    };
    probe().unwrap_or(false)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Creates a mount namespace with a file system in memory; `None`, with a message, if that is not possible.
#[allow(unsafe_code)]
fn private_mounts() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().ok()?;
    // SAFETY: only mounts are unshared; no memory of this process depends on them.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    let private = unshared.and_then(|()| {
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None)
    });
    if let Err(errno) = private {
        skip("root", format!("no mount namespace of its own ({errno})"));
        return None;
    }
    Some(dir)
}

#[test]
fn the_reader_shows_what_the_kernel_shows() {
    let Some(dir) = private_mounts() else { return };
    let probe = dir.path().join("probe");
    fs::create_dir(&probe).expect("probe");
    let knows = knows_xwhiteouts(&probe);
    if !knows {
        skip("kernel", "this kernel does not know whiteouts that are marked regular files");
    }
    let (stacks, seed) = (number("STACKS", 2000), number("SEED", 1));
    eprintln!("{stacks} stacks from SEED={seed}");
    let mut entries = 0;
    for seed in seed..seed + stacks {
        let base = dir.path().join(format!("s{seed}"));
        fs::create_dir(&base).expect("base");
        // tmpfs supports user attributes since Linux 6.6; other file systems always do.
        let namespace = if seed % 4 == 0 { MarkNamespace::User } else { MarkNamespace::Trusted };
        let features = Features { namespace, xwhiteouts: knows };
        match compare(seed, &base, features) {
            Ok(count) => entries += count,
            Err(difference) => panic!("a difference; make it again with SEED={seed} STACKS=1: {difference}"),
        }
        fs::remove_dir_all(&base).expect("cleaning up");
    }
    eprintln!("{stacks} stacks, {entries} entries compared, 0 differences");
    rustix::mount::unmount(dir.path(), UnmountFlags::DETACH).expect("unmounting");
}

#[test]
fn a_stub_is_never_read_as_content() {
    let Some(dir) = private_mounts() else { return };
    let file = fs::File::create(dir.path().join("hole")).expect("file");
    file.set_len(4096).expect("length");
    let layer = || Layer::open(dir.path()).expect("layer");
    let unreadable = Options { marks: Marks::Unreadable, ..Options::detect(MarkNamespace::Trusted) };
    let reader = LayerReader::new(layer(), unreadable);
    assert!(matches!(reader.open(b"hole").map(drop).map_err(|error| error.kind()), Err(ErrorKind::Unsupported(_))));
    fs::create_dir(dir.path().join("moved")).expect("dir");
    set_mark(&dir.path().join("moved"), MarkNamespace::Trusted, "redirect", b"/elsewhere").expect("mark");
    let reader = LayerReader::new(layer(), Options::detect(MarkNamespace::Trusted));
    let end = reader.walk(&mut |_| ControlFlow::Continue(())).expect("walk");
    assert_eq!(end.errors.len(), 1);
    assert!(matches!(end.errors[0].kind(), ErrorKind::Unsupported(_)));
    assert!(reader.marks() == Marks::Readable && layer().as_fd().try_clone_to_owned().is_ok());
    rustix::mount::unmount(dir.path(), UnmountFlags::DETACH).expect("unmounting");
}

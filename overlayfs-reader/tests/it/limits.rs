//! Limits on hostile layers. The error of each limit contains its name and the path.

use std::fs;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use overlayfs_reader::{ErrorKind, Kind, Layer, LayerReader, Limits, MarkNamespace, Options, Stack, WalkEnd};
use rustix::fs::{CWD, FileType, Mode, OFlags};

fn reader(root: &Path, limits: Limits) -> LayerReader {
    LayerReader::new(Layer::open(root).unwrap(), Options { limits, ..Options::detect(MarkNamespace::User) })
}

/// Walks the whole layer. Returns the number of entries and the result.
fn walk(reader: &LayerReader) -> (u64, Result<WalkEnd, overlayfs_reader::Error>) {
    let mut met = 0;
    let end = reader.walk(&mut |_| {
        met += 1;
        ControlFlow::Continue(())
    });
    (met, end)
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::fs::openat(CWD, dir.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for number in 0..100_000 {
        rustix::fs::mknodat(&root, format!("{number:07}"), FileType::RegularFile, Mode::RUSR, 0).unwrap();
    }
    let mut names = Vec::new();
    let layer = reader(dir.path(), Limits::default());
    let end = layer.walk(&mut |entry| {
        names.push(entry.path().to_vec());
        ControlFlow::Continue(())
    });
    assert_eq!(end, Ok(WalkEnd::default()));
    assert_eq!(names.len(), 100_000);
    assert!(names.is_sorted());
    let few = Limits { directory_entries: 99_999, ..Limits::default() };
    let error = walk(&reader(dir.path(), few)).1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit("entries of a directory", 99_999));
    let stack = Stack::new(
        vec![Layer::open(dir.path()).unwrap()],
        None,
        Options { limits: few, ..Options::detect(MarkNamespace::User) },
    );
    assert_eq!(stack.read_dir(b"").unwrap_err().kind(), ErrorKind::Limit("entries of a directory", 99_999));
}

/// Creates nested directories whose path exceeds PATH_MAX.
fn deep(root: &Path, name: &str, depth: usize) {
    let mut dir: OwnedFd = rustix::fs::openat(CWD, root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(dir.as_fd(), name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn a_path_beyond_path_max_costs_its_subtree_only() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(255);
    deep(dir.path(), &name, 40);
    deep(dir.path(), "d", 1000);
    fs::write(dir.path().join("zzz"), "").unwrap();
    let mut met = Vec::new();
    let layer = reader(dir.path(), Limits::default());
    let end = layer
        .walk(&mut |entry| {
            met.push(entry.path().to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(met.last().unwrap(), b"zzz", "entries after the failed subtree are missing");
    let errors: Vec<ErrorKind> = end.errors.iter().map(overlayfs_reader::Error::kind).collect();
    assert_eq!(
        errors,
        [ErrorKind::Limit("directories above an entry", 400), ErrorKind::Limit("bytes of a path", 4095)]
    );
    assert!(end.errors.iter().all(|error| error.to_string().len() < 20_000), "an error message is too long");
    // tempfile cannot remove paths beyond PATH_MAX; rm uses directory handles.
    assert!(std::process::Command::new("rm").arg("-r").arg(dir.keep()).status().unwrap().success());
}

#[test]
fn the_error_of_every_limit_contains_its_name_and_the_path() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::write(dir.path().join("a/b/c/file"), "x").unwrap();
    for (from, to) in [("loop", "loop"), ("one", "two"), ("two", "one"), ("far", "a/b/c/file")] {
        symlink(to, dir.path().join(from)).unwrap();
    }
    let cases = [
        (Limits { entries: 3, ..Limits::default() }, ErrorKind::Limit("entries", 3)),
        (Limits { depth: 2, ..Limits::default() }, ErrorKind::Limit("directories above an entry", 2)),
        (Limits { path_bytes: 4, ..Limits::default() }, ErrorKind::Limit("bytes of a path", 4)),
    ];
    for (limits, kind) in cases {
        let (_, end) = walk(&reader(dir.path(), limits));
        let error = end.map_or_else(|error| error, |end| end.errors[0].clone());
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("a/b"), "{error}");
    }
    let stack = |limits| {
        let options = Options { limits, ..Options::detect(MarkNamespace::User) };
        Stack::new(vec![Layer::open(dir.path()).unwrap()], None, options)
    };
    for path in [&b"loop"[..], b"one", b"two/x"] {
        let error = stack(Limits::default()).resolve(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit("symbolic links", 40), "{}", path.escape_ascii());
    }
    assert_eq!(stack(Limits::default()).resolve(b"far").unwrap(), b"a/b/c/file");
    let error = stack(Limits { hops: 0, ..Limits::default() }).resolve(b"far").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit("symbolic links", 0));
    // `b`, `up`, and the four names of its target.
    fs::create_dir(dir.path().join("b")).unwrap();
    symlink("../a/b/c/file", dir.path().join("b/up")).unwrap();
    for (lookups, end) in [(6, Some(&b"a/b/c/file"[..])), (5, None)] {
        let stack = stack(Limits { lookups, ..Limits::default() });
        let kind = ErrorKind::Limit("lookups in a stack of layers", lookups);
        assert_eq!(stack.resolve(b"b/up").map_err(|error| error.kind()), end.map(<[u8]>::to_vec).ok_or(kind));
    }
    for path in [&b"/a"[..], b"a/../b", b".."] {
        assert_eq!(stack(Limits::default()).metadata(path).unwrap_err().kind(), ErrorKind::InvalidPath);
    }
}

#[test]
fn a_chain_of_links_costs_one_lookup_for_each_name_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (hops, depth) = (39, 390);
    let below = |hop: usize| format!("{hop}/{}e", "d/".repeat(depth));
    for hop in 0..hops {
        fs::create_dir_all(dir.path().join(below(hop)).parent().unwrap()).unwrap();
        symlink(format!("/{}", below(hop + 1)), dir.path().join(below(hop))).unwrap();
    }
    fs::create_dir_all(dir.path().join(below(hops)).parent().unwrap()).unwrap();
    fs::write(dir.path().join(below(hops)), "x").unwrap();
    let limits = Limits { lookups: (hops as u64 + 1) * (depth as u64 + 2), ..Limits::default() };
    let options = Options { limits, ..Options::detect(MarkNamespace::User) };
    let stack = Stack::new(vec![Layer::open(dir.path()).unwrap()], None, options);
    let end = stack.resolve(below(0).as_bytes()).unwrap();
    assert_eq!(end, below(hops).as_bytes());
    assert_eq!(stack.metadata(&end).unwrap().size, 1);
    assert_eq!(
        stack.resolve(&end).unwrap_err().kind(),
        ErrorKind::Limit("lookups in a stack of layers", limits.lookups)
    );
}

#[test]
fn nothing_but_regular_files_is_ever_opened() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let mut expected =
        vec![("fifo", Kind::Fifo), ("socket", Kind::Socket), ("link", Kind::Symlink), ("dir", Kind::Dir)];
    let device = rustix::fs::makedev(1, 5);
    if rustix::fs::mknodat(CWD, dir.path().join("zero"), FileType::CharacterDevice, Mode::RUSR, device).is_ok() {
        expected.push(("zero", Kind::CharDevice));
    }
    let layer = reader(dir.path(), Limits::default());
    for (name, kind) in expected {
        assert_eq!(layer.metadata(name.as_bytes()).unwrap().kind, kind);
        // Opening a FIFO without a writer would block forever.
        assert_eq!(layer.open(name.as_bytes()).unwrap_err().kind(), ErrorKind::WrongKind("a regular file"), "{name}");
    }
    assert!(layer.open(b"file").is_ok());
    assert!(Layer::open(&dir.path().join("file")).is_err() && Layer::open(&dir.path().join("link")).is_err());
}

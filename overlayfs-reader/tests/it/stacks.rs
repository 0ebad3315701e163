//! Random layers on disk for the other tests.

#![allow(unreachable_pub, missing_docs, reason = "shared by tests, which have no public")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use overlayfs_reader::MarkNamespace;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// A small random number generator (SplitMix64), so that a seed always creates the same stack.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// A few names, so that layers overlap; some are unusual, one is evidence of a package.
pub const NAMES: &[&[u8]] =
    &[b"a", b"b", b"c", b"d", b"\xff\xfe", b"with space", b"new\nline", b".wh.a", b"back\\slash", b"package.json"];

const TARGETS: &[&[u8]] = &[b"a", b"/a/b", b"../b", b"../../..", b"/", b".", b"b/../c", b"missing", b"/c/d/a", b"a/"];

#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub namespace: MarkNamespace,
    pub xwhiteouts: bool,
}

fn name(namespace: MarkNamespace, mark: &str) -> String {
    match namespace {
        MarkNamespace::Trusted => format!("trusted.overlay.{mark}"),
        MarkNamespace::User => format!("user.overlay.{mark}"),
    }
}

pub fn set_mark(path: &Path, namespace: MarkNamespace, mark: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, name(namespace, mark), value, XattrFlags::empty())?)
}

/// Fills a directory of a layer. `bottom` layers have no whiteouts, like those of images.
pub fn fill(random: &mut Random, dir: &Path, depth: usize, features: Features, bottom: bool) -> io::Result<()> {
    let entries = random.below(if depth == 0 { 7 } else { 5 });
    let xwhiteouts = features.xwhiteouts && !bottom && random.one_in(6);
    if xwhiteouts {
        set_mark(dir, features.namespace, "opaque", b"x")?;
    } else if depth > 0 && !bottom && random.one_in(5) {
        set_mark(dir, features.namespace, "opaque", b"y")?;
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for _ in 0..entries {
        let path = dir.join(OsStr::from_bytes(random.pick(NAMES)));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(14) {
            0..=3 if depth < 5 => {
                fs::create_dir(&path)?;
                fill(random, &path, depth + 1, features, bottom)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(random.pick(&[0o755, 0o700, 0o1777, 0o2750])))?;
            }
            4 | 5 if !bottom => {
                if xwhiteouts && random.one_in(2) {
                    fs::write(&path, b"")?;
                    set_mark(&path, features.namespace, "whiteout", b"y")?;
                } else {
                    rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?;
                }
            }
            6 | 7 => std::os::unix::fs::symlink(OsStr::from_bytes(random.pick(TARGETS)), &path)?,
            8 if !files.is_empty() => fs::hard_link(&files[random.below(files.len())], &path)?,
            9 if random.one_in(3) => {
                let kind = random.pick(&[FileType::Fifo, FileType::Socket, FileType::CharacterDevice]);
                let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 3) } else { 0 };
                rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, device)?;
            }
            _ => {
                fs::write(&path, content(random, &path))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(random.pick(&[0o644, 0o4755, 0o600])))?;
                std::os::unix::fs::chown(&path, Some(random.below(3) as u32), Some(random.below(3) as u32))?;
                files.push(path);
            }
        }
    }
    Ok(())
}

/// Returns random bytes or, if the path is evidence, usually a package.
fn content(random: &mut Random, path: &Path) -> Vec<u8> {
    if path.ends_with("package.json") && !random.one_in(4) {
        return format!(r#"{{"name":"p{}","version":"1.0.{}"}}"#, random.below(3), random.below(3)).into_bytes();
    }
    let size = random.pick(&[0, 1, 10, 5000]);
    vec![random.next() as u8; size]
}

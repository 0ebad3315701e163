//! The volume of a database: whether its file system is suitable, and how much space is free.
//!
//! SQLite's write-ahead log needs memory that all of its processes share, and reliable locks and `fsync`; network file systems guarantee
//! neither ([SQLite: how to corrupt](https://www.sqlite.org/howtocorrupt.html), [WAL](https://www.sqlite.org/wal.html)).

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Why a database cannot lie there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A filesystem of another machine, or of a program.
    #[error(
        "the data directory {path} is on {kind}{mounted}, where locks and fsync are not reliable and a database gets damaged; use a \
         local disk, in Kubernetes a volume of block storage (ReadWriteOnce)",
        path = .path.display(), mounted = in_brackets(.mounted.as_deref())
    )]
    Network {
        /// The data directory.
        path: PathBuf,
        /// The type of the file system.
        kind: &'static str,
        /// Its type in the mount table, if known, for example `fuse.sshfs`.
        mounted: Option<String>,
    },
    /// No file can be written there.
    #[error("the data directory {path} cannot be written: {source}; {hint}", path = .path.display(), hint = writable_hint(.source))]
    NotWritable {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file system could not be checked.
    #[error("checking the file system of {path}: {source}", path = .path.display())]
    Ask {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn in_brackets(kind: Option<&str>) -> String {
    kind.map(|kind| format!(" ({kind})")).unwrap_or_default()
}

fn writable_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount its volume read-write; if it was remounted read-only after an error, check the kernel's log and the disk first"
        }
        io::ErrorKind::PermissionDenied => {
            "let the aggregator's user write there, or choose another directory with --data"
        }
        _ => "check the disk, or choose another directory with --data",
    }
}

/// Prefix of the file that [`check_writable`] writes.
const WRITTEN: &str = ".outcrop-";

/// Writes a file to a data directory and removes it. A full volume passes: then the store reports itself that it accepts no writes.
///
/// # Errors
/// When nothing can be written, for example because the volume is mounted read-only.
pub fn check_writable(path: &Path) -> Result<(), VolumeError> {
    let write = || {
        let mut file = tempfile::Builder::new().prefix(WRITTEN).tempfile_in(path)?;
        file.write_all(&[0])?;
        file.as_file().sync_all()
    };
    match write() {
        Err(source) if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Err(VolumeError::NotWritable { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Returns whether the aggregator has created the entry of this name in its data directory, or the file system has.
pub fn is_own_entry(name: &str) -> bool {
    matches!(name, "advisories" | "in-flight" | "tls" | "uploads" | "lost+found")
        || ["outcrop.db", "store.", WRITTEN].iter().any(|prefix| name.starts_with(prefix))
}

/// The types of `statfs(2)` that are not of a disk of this machine: the kernel's `magic.h`, and those of filesystems outside it.
const NETWORK: [(u32, &str); 22] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "CephFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0x7c7c_6673, "a folder shared by a hypervisor"),
    (0x786f_4256, "a folder shared by a hypervisor"),
    (0xbacb_acbc, "a folder shared by a hypervisor"),
    (0x0187, "an automounter"),
    // sshfs, GlusterFS, S3, virtiofs: whatever a program makes up.
    (0x6573_5546, "FUSE"),
];

/// Returns the name of a file system type that is not a local disk.
fn network(kind: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

/// Refuses a place for a database that is not on a filesystem of this machine's own. What does not exist yet is where its folder is.
///
/// # Errors
/// When it is a network or FUSE file system, or cannot be checked.
pub fn check_local(path: &Path) -> Result<(), VolumeError> {
    let (existing, stat) = nearest(path, |path| rustix::fs::statfs(path))?;
    // The type's width differs between architectures; all of its values have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "32 bits, as said above")]
    match network(stat.f_type as u32) {
        None => Ok(()),
        Some(kind) => Err(VolumeError::Network { path: path.to_owned(), kind, mounted: mounted_as(&existing) }),
    }
}

/// Room that other files leave free for the store, in bytes; on a small volume an eighth of it. The store needs it to write while they lie there,
/// and never less than it needs to resume after the volume was full.
const RESERVE: u64 = 256 << 20;

/// Further files do not fit on the volume of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} bytes are needed, {free} are free, and {reserve} of these are reserved for the store; free some space or enlarge the volume"
)]
pub struct NoRoom {
    /// Size of the files, in bytes.
    pub needed: u64,
    /// Space available to this process, in bytes.
    pub free: u64,
    /// Space that is left to the store, in bytes.
    pub reserve: u64,
}

impl From<NoRoom> for io::Error {
    fn from(error: NoRoom) -> Self {
        Self::new(io::ErrorKind::StorageFull, error)
    }
}

/// Checks that files of `needed` bytes fit on the volume of `path` without the reserve of the store. A volume that cannot be checked passes: then the
/// write itself shows whether there is room.
///
/// # Errors
/// When they do not fit.
pub fn check_room(path: &Path, needed: u64) -> Result<(), NoRoom> {
    let Ok(Space { total, free }) = free(path) else { return Ok(()) };
    let reserve = RESERVE.min(total / 8);
    if needed.saturating_add(reserve) <= free { Ok(()) } else { Err(NoRoom { needed, free, reserve }) }
}

/// The size of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, bytes.
    pub total: u64,
    /// Space available to this process, in bytes.
    pub free: u64,
}

/// Returns the size of the volume of `path`, which need not exist.
///
/// # Errors
/// When the volume cannot be checked.
pub fn free(path: &Path) -> Result<Space, VolumeError> {
    let (_, stat) = nearest(path, |path| rustix::fs::statvfs(path))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

/// Checks `path`, or the nearest existing directory above it.
fn nearest<T>(path: &Path, ask: impl Fn(&Path) -> rustix::io::Result<T>) -> Result<(PathBuf, T), VolumeError> {
    let mut answer = Err(rustix::io::Errno::NOENT);
    for place in path.ancestors() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        answer = ask(place).map(|answer| (place.to_owned(), answer));
        if !matches!(answer, Err(rustix::io::Errno::NOENT)) {
            break;
        }
    }
    answer.map_err(|error| VolumeError::Ask { path: path.to_owned(), source: error.into() })
}

/// The type of the mount that `path` lies on, as the mount table has it. Only for people: it decides nothing.
fn mounted_as(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    mount_type(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The type in a line of `/proc/PID/mountinfo` ([proc(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)); of
/// mounts one above another the last.
fn mount_type(table: &str, path: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), filesystem.split(' ').next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A FUSE mount of the kernel with nobody behind it: a program has one as soon as it has opened `/dev/fuse`. Root may not look into what
    /// another user mounted, and so is answered by the kernel alone.
    struct Fuse(tempfile::TempDir);

    impl Fuse {
        fn mount() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let script = "exec 3<>/dev/fuse && \
                mount -i -t fuse.sshfs -o fd=3,rootmode=40000,user_id=65534,group_id=65534 nobody \"$0\"";
            let output = Command::new("sh").args(["-c", script]).arg(dir.path()).output().unwrap();
            if output.status.success() {
                return Some(Self(dir));
            }
            let reason = String::from_utf8_lossy(&output.stderr);
            let _ = writeln!(io::stderr(), "SKIPPED: a FUSE mount cannot be made here: {}", reason.trim());
            None
        }
    }

    impl Drop for Fuse {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    #[test]
    fn a_database_on_a_real_fuse_mount_is_refused_by_name() {
        let Some(fuse) = Fuse::mount() else { return };
        let told = check_local(fuse.0.path()).unwrap_err().to_string();
        let path = fuse.0.path().display();
        assert!(told.starts_with(&format!("the data directory {path} is on FUSE (fuse.sshfs), ")), "{told}");
        assert!(told.contains("use a local disk"), "{told}");
    }

    #[test]
    fn a_database_on_a_disk_of_this_machine_is_allowed_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for path in
            [dir.path().to_owned(), dir.path().join("not/yet/there.db"), PathBuf::from("not-yet"), "/dev/shm".into()]
        {
            assert!(check_local(&path).is_ok(), "{}: {:?}", path.display(), check_local(&path));
            let space = free(&path).unwrap();
            assert!(space.total > 0 && space.free <= space.total, "{space:?}");
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(check_local(&dir.path().join("file/below")), Err(VolumeError::Ask { .. })));
    }

    #[test]
    fn every_type_that_is_not_local_has_a_name_and_no_local_one_has() {
        for kind in ["NFS", "CIFS", "SMB", "9P", "CephFS", "AFS", "GFS2", "OCFS2", "Lustre", "FUSE"] {
            assert!(NETWORK.iter().any(|(magic, name)| *name == kind && network(*magic) == Some(kind)), "{kind}");
        }
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs, EROFS.
        for local in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x2fc1_2fc1,
            0xf2f5_2010,
            0xca45_1a4e,
            0xe0f5_e1e2,
        ] {
            assert_eq!(network(local), None, "{local:#x}");
        }
    }

    #[test]
    fn the_type_of_a_mount_is_that_of_the_nearest_and_latest_above_it() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 0:40 / /data rw shared:1 - xfs /dev/sdb rw\n\
            41 40 0:41 / /data rw - nfs4 server:/x rw\nnonsense\n";
        for (path, kind) in [("/data/outcrop", "nfs4"), ("/database", "ext4"), ("/", "ext4")] {
            assert_eq!(mount_type(table, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
    }
}

//! Files that only the user of this process may access, whatever the umask.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tracing::{debug, info, warn};

/// Permissions of the group and of all other users.
const OTHERS: u32 = 0o077;

/// Maximum depth of the tree that is restricted. The data directory has two levels.
const MAX_DEPTH: usize = 8;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Other users can access it, and it contains files of others, so that their access may be intended.
    #[error(
        "using the data directory {path}: other users can access it (mode {mode:04o}) and it contains {foreign:?}, which is not a file of the aggregator; run chmod 700 {path}, or choose an empty directory with --data",
        path = .path.display()
    )]
    Shared {
        /// The path of the directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The name of an entry that is not the aggregator's.
        foreign: String,
    },
    /// It cannot be created or examined.
    #[error("creating the data directory {path}: {source}; choose another directory with --data", path = .path.display())]
    File {
        /// The path of the directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Makes every file that this process creates from now on accessible to its user only.
pub(crate) fn restrict_new_files() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Creates the data directory, or takes the permissions of other users from an existing one and from everything in it that `is_own` recognizes by its
/// name. A directory of another user, such as a volume of Kubernetes, stays as it is: then the permissions of the files protect them.
///
/// # Errors
/// When other users can access the directory, and it contains something else.
pub(crate) fn prepare_directory(path: &Path, is_own: impl Fn(&str) -> bool) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::File { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    let (own, foreign): (Vec<PathBuf>, Vec<PathBuf>) = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .map_err(failed)?
        .into_iter()
        .partition(|entry| entry.file_name().is_some_and(|name| is_own(&name.to_string_lossy())));
    if metadata.mode() & OTHERS != 0 && is_ours(&metadata) {
        if let Some(name) = foreign.first().and_then(|entry| entry.file_name()) {
            let mode = metadata.mode() & 0o7777;
            let foreign = name.to_string_lossy().into_owned();
            return Err(DirectoryError::Shared { path: path.to_owned(), mode, foreign });
        }
        restrict(path, &metadata, OTHERS);
    }
    own.iter().for_each(|entry| restrict_tree(entry, MAX_DEPTH));
    Ok(())
}

/// Takes the permissions of other users from a file or directory and everything below it. Symbolic links are not followed.
fn restrict_tree(path: &Path, depth: usize) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    restrict(path, &metadata, OTHERS);
    if metadata.is_dir() && depth > 0 {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| restrict_tree(&entry.path(), depth - 1));
    }
}

/// Takes the permissions of all users but its owner and its group from a secret that an operator has placed, such as a private key: a group may have
/// been chosen on purpose.
pub(crate) fn restrict_secret(path: &Path) {
    // A directory or a device in its place is a mistake, and none of ours.
    if let Some(metadata) = fs::metadata(path).ok().filter(Metadata::is_file) {
        restrict(path, &metadata, OTHERS & 0o007);
    }
}

fn restrict(path: &Path, metadata: &Metadata, permissions: u32) {
    let mode = metadata.mode() & 0o7777;
    if mode & permissions == 0 || metadata.is_symlink() {
        return;
    }
    let name = path.display().to_string();
    let mode = format!("{mode:04o}");
    if !is_ours(metadata) {
        // A volume of Kubernetes belongs to root; who else is in the pod is the operator's decision.
        debug!(path = name, mode, "permissions not restricted: the file belongs to another user");
        return;
    }
    match fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o7777 & !permissions)) {
        Ok(()) => info!(path = name, mode, "permissions restricted"),
        Err(error) => warn!(path = name, mode, %error, hint = "chmod 600", "other users can access a file"),
    }
}

fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Takes the permissions of all users but its owner from standard output if that is a file, because a secret is going to be written to it.
pub(crate) fn restrict_output() {
    let output = io::stdout();
    let Ok(stat) = rustix::fs::fstat(&output) else { return };
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    if is_file && stat.st_mode & OTHERS != 0 {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o700);
        // The file of another user stays as it is; its owner can read it anyway.
        let _ = rustix::fs::fchmod(&output, mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn an_existing_directory_and_its_own_files_are_restricted_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new/data");
        let is_own = |name: &str| name == "store" || name == "tls";
        prepare_directory(&data, is_own).unwrap();
        assert_eq!(mode(&data), 0o700);
        fs::create_dir(data.join("tls")).unwrap();
        for file in ["store", "tls/key"] {
            fs::write(data.join(file), "").unwrap();
            set(&data.join(file), 0o664);
        }
        std::os::unix::fs::symlink("/dev/null", data.join("tls/link")).unwrap();
        set(&data, 0o755);
        prepare_directory(&data, is_own).unwrap();
        for (path, expected) in [("", 0o700), ("store", 0o600), ("tls", 0o700), ("tls/key", 0o600)] {
            assert_eq!(mode(&data.join(path)), expected, "{path}");
        }
        assert_ne!(mode(Path::new("/dev/null")), 0o600, "a link is not followed");
        // With something else in it, nobody knows whose access is intended.
        fs::write(data.join("photos"), "").unwrap();
        prepare_directory(&data, is_own).unwrap();
        set(&data, 0o755);
        let refused = prepare_directory(&data, is_own).unwrap_err().to_string();
        assert!(
            refused.contains("mode 0755") && refused.contains("\"photos\"") && refused.contains("chmod 700"),
            "{refused}"
        );
        assert_eq!((mode(&data), mode(&data.join("photos")) & 0o044), (0o755, 0o044), "nothing has changed");
    }

    #[test]
    fn a_secret_that_an_operator_placed_stays_readable_for_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "").unwrap();
        for (before, after) in [(0o644, 0o640), (0o640, 0o640), (0o600, 0o600), (0o444, 0o440)] {
            set(&key, before);
            restrict_secret(&key);
            assert_eq!(mode(&key), after);
        }
        set(dir.path(), 0o755);
        restrict_secret(dir.path());
        assert_eq!(mode(dir.path()), 0o755, "a directory in place of a secret is a mistake and keeps its mode");
    }
}

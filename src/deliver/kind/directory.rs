//! A directory as a place for files.
//!
//! A file is replaced atomically and durably: it is written to a temporary file beside it, both are flushed to the disk, and then it is renamed. Below the
//! directory no symbolic link is followed, whoever put it there.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;

use serde::{Deserialize, Deserializer};

use crate::deliver::client::{Client, SendError};
use crate::deliver::document::{Place, PlaceError};

/// Name of the temporary file in each folder. One writer has the directory, so that it is left behind by a kill only, and used again.
const TEMPORARY: &str = ".outcrop.tmp";

/// A directory. It has to be there already: that of a volume which is not mounted must not be filled.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// Its absolute path.
    #[serde(deserialize_with = "absolute")]
    path: PathBuf,
    /// For how many days reports are kept; 0 for none.
    #[serde(default = "super::report_days")]
    report_days: u16,
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(serde::de::Error::custom("path: expected an absolute path")),
    }
}

impl Directory {
    /// Returns the path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder of a path below the directory, and returns it with the name in it. Creates folders where `create` is set.
    fn folder<'a>(&self, path: &'a str, create: bool) -> io::Result<(OwnedFd, &'a str)> {
        const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
        let mut at = open(&self.path, FOLDER, Mode::empty())?;
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            let below = FOLDER.union(OFlags::NOFOLLOW);
            at = match openat(&at, folder, below, Mode::empty()) {
                Err(Errno::NOENT) if create => {
                    match mkdirat(&at, folder, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    fsync(&at)?;
                    openat(&at, folder, below, Mode::empty())?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let cause = format!("{folder} is a symbolic link or a file where a folder has to be; remove it");
                    return Err(io::Error::other(cause));
                }
                opened => opened?,
            };
        }
        Ok((at, name))
    }

    fn write(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let (folder, name) = self.folder(path, true)?;
        // Whatever has the temporary name, a link also, is removed and not written to.
        match unlinkat(&folder, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(&folder, TEMPORARY, flags, Mode::from_raw_mode(0o644))?);
        file.write_all(content)?;
        file.sync_all()?;
        renameat(&folder, TEMPORARY, &folder, name)?;
        Ok(fsync(&folder)?)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let (folder, name) = match self.folder(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.is_dir() => return Ok(()),
            opened => opened?,
        };
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => fsync(&folder)?,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        // The folder too, if it was the last file: of thousands of namespaces that come and go nothing remains.
        if let Some((folder, _)) = path.rsplit_once('/') {
            let (above, name) = self.folder(folder, false)?;
            let _ = unlinkat(&above, name, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    fn failed(&self, doing: &str, path: &str, error: &io::Error) -> PlaceError {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; create the directory, or mount its volume",
            io::ErrorKind::PermissionDenied => "; the aggregator's user must be able to write there",
            io::ErrorKind::ReadOnlyFilesystem => "; mount the volume for writing",
            io::ErrorKind::StorageFull => "; free some space",
            _ => "",
        };
        SendError(format!("{doing} {path} in {}: {error}{hint}", self.path.display())).into()
    }
}

impl Place for Directory {
    fn report_days(&self) -> u16 {
        self.report_days
    }

    fn put(&self, _: &Client, path: &str, content: &[u8]) -> Result<(), PlaceError> {
        self.write(path, content).map_err(|error| self.failed("writing", path, &error))
    }

    fn remove(&self, _: &Client, path: &str) -> Result<(), PlaceError> {
        self.delete(path).map_err(|error| self.failed("removing", path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::deliver::connection::Connection;

    fn at(path: &Path) -> (Directory, Client) {
        (Directory { path: path.to_owned(), report_days: 0 }, Client::new(Connection::default()))
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_removed_with_its_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (place, client) = at(dir.path());
        let path = "workloads/shop/web.json";
        place.put(&client, path, b"old and long").unwrap();
        let reader = fs::File::open(dir.path().join(path)).unwrap();
        place.put(&client, path, b"new").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "old and long", "a reader keeps what it opened");
        assert_eq!(fs::read(dir.path().join(path)).unwrap(), b"new");
        assert!(!dir.path().join("workloads/shop").join(TEMPORARY).exists());
        place.remove(&client, path).unwrap();
        assert!(!dir.path().join("workloads/shop").exists());
        place.remove(&client, path).unwrap();
        place.remove(&client, "other/never/there.json").unwrap();
    }

    #[test]
    fn no_symbolic_link_is_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (place, client) = at(dir.path());
        let secret = outside.path().join("file");
        fs::write(&secret, "theirs").unwrap();
        symlink(outside.path(), dir.path().join("workloads")).unwrap();
        for result in [place.put(&client, "workloads/file", b"ours"), place.remove(&client, "workloads/file")] {
            let says = result.unwrap_err().to_string();
            assert!(says.contains("workloads is a symbolic link"), "{says}");
        }
        // Links in the place of the file and of the temporary file are replaced, and what they lead to stays.
        symlink(&secret, dir.path().join("manifest.json")).unwrap();
        symlink(&secret, dir.path().join(TEMPORARY)).unwrap();
        place.put(&client, "manifest.json", b"ours").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("manifest.json")).unwrap(), "ours");
        assert!(dir.path().join("manifest.json").symlink_metadata().unwrap().is_file());
        symlink(&secret, dir.path().join("gone.json")).unwrap();
        place.remove(&client, "gone.json").unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "theirs");
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let (place, client) = at(&dir.path().join("not-mounted"));
        let says = place.put(&client, "a/b", b"").unwrap_err().to_string();
        assert!(says.contains("writing a/b") && says.contains("mount its volume"), "{says}");
        assert!(place.remove(&client, "a/b").is_err());
        assert!(!dir.path().join("not-mounted").exists());
    }
}

//! The socket that connects the two processes of the agent where neither starts the other: two containers of one pod that share a
//! volume in memory.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use super::Error;

/// Maximum time until the other container of the pod has started.
const PATIENCE: Duration = Duration::from_secs(120);

/// Listens on `socket`, accepts the first peer of the same user, and removes the socket.
///
/// # Errors
/// When the socket cannot be created.
pub fn accept(socket: &Path) -> Result<UnixStream, Error> {
    let failed = |error: io::Error| Error::Join(socket.to_owned(), error.to_string());
    // Remove a socket that an earlier process left behind, and nothing else.
    if std::fs::symlink_metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(socket).map_err(failed)?;
    }
    // The mode of the socket admits this user only. The peer's credentials cannot be checked: both containers have their own process IDs,
    // so the peer's ID is 0 here, which rustix's type cannot represent.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(mask);
    let (stream, _) = listener.map_err(failed)?.accept().map_err(failed)?;
    std::fs::remove_file(socket).map_err(failed)?;
    Ok(stream)
}

/// Connects to the sibling that listens on `socket`, which may not have started yet.
///
/// # Errors
/// When the sibling has not started after two minutes, or the socket belongs to another user.
pub fn connect(socket: &Path) -> Result<UnixStream, Error> {
    let failed = |reason: String| Error::Join(socket.to_owned(), reason);
    let start = Instant::now();
    loop {
        let connected = std::fs::symlink_metadata(socket).and_then(|metadata| {
            let ours = metadata.uid() == rustix::process::geteuid().as_raw();
            ours.then(|| UnixStream::connect(socket)).transpose()
        });
        match connected {
            Ok(Some(stream)) => return Ok(stream),
            Ok(None) => return Err(failed("another user owns the socket".to_owned())),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(failed(format!("{error}; check that outcrop-agent runtime --listen is running")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_of_one_user_are_joined_and_the_socket_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("join.sock");
        drop(UnixListener::bind(&socket).unwrap());
        std::thread::scope(|scope| {
            let accepted = scope.spawn(|| accept(&socket).unwrap());
            drop(connect(&socket).unwrap());
            drop(accepted.join().unwrap());
        });
        assert!(!socket.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        std::fs::write(&file, "data").unwrap();
        assert!(accept(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
    }
}

//! containerd's socket: its usual paths, and connecting to it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::runtime::Error;

/// Usual paths of the socket: containerd's default, k3s and RKE2, MicroK8s, k0s, Bottlerocket.
pub const PLACES: &[&str] = &[
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/dockershim.sock",
];

/// Maximum time for connecting, and for the first response.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to containerd over which no byte has been sent.
///
/// Connecting is separate from the first request, so that a process can give up its rights in between, before it starts an async
/// runtime.
#[derive(Debug)]
pub struct Opened {
    pub(super) stream: UnixStream,
    pub(super) path: PathBuf,
}

impl Opened {
    /// Connects to `socket`, or to the first of [`PLACES`] that exists.
    pub fn open(socket: Option<&Path>) -> Result<Self, Error> {
        match socket {
            Some(path) => connect(path),
            None => first_of(&PLACES.iter().map(PathBuf::from).collect::<Vec<_>>()),
        }
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Connects to the first place with a listener. A socket without a listener does not hide a later place, but is reported if no place has a
/// listener.
pub(super) fn first_of(places: &[PathBuf]) -> Result<Opened, Error> {
    let mut first_error = None;
    for place in places {
        match connect(place) {
            Err(Error::NotThere(_)) => {}
            Err(error) => first_error = first_error.or(Some(error)),
            opened => return opened,
        }
    }
    Err(first_error.unwrap_or_else(|| Error::NoSocket(places.to_vec())))
}

fn connect(path: &Path) -> Result<Opened, Error> {
    let other = |errno: Errno| Error::Connect(path.to_owned(), errno.into());
    let address = SocketAddrUnix::new(path).map_err(other)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(other)?;
    let start = Instant::now();
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(Opened { stream: socket.into(), path: path.to_owned() }),
            // The backlog is full: there is a listener, but it does not accept. A unix socket cannot be polled for this.
            Err(Errno::AGAIN) if start.elapsed() < CONNECT_TIMEOUT => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::AGAIN) => return Err(Error::Silent(path.to_owned(), CONNECT_TIMEOUT.as_secs())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(explain(path, errno)),
        }
    }
}

fn explain(path: &Path, errno: Errno) -> Error {
    let path_buf = path.to_owned();
    match errno {
        Errno::NOENT | Errno::NOTDIR => Error::NotThere(path_buf),
        Errno::ACCESS | Errno::PERM => Error::Permission(path_buf),
        // The kernel's error is the same for a regular file and for a socket without a listener.
        Errno::CONNREFUSED if !is_socket(path) => Error::NotASocket(path_buf),
        Errno::CONNREFUSED => Error::Refused(path_buf),
        errno => Error::Connect(path_buf, errno.into()),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    // A process in its cage cannot check; it was connected to this path before.
    std::fs::metadata(path).map_or(true, |metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn without_a_socket_the_places_looked_at_are_named() {
        let error = first_of(&["/nowhere/a.sock".into(), "/nowhere/b.sock".into()]).unwrap_err().to_string();
        for words in ["/nowhere/a.sock", "/nowhere/b.sock", "--containerd SOCKET"] {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn each_way_of_not_connecting_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        let long = dir.path().join("x".repeat(200));
        let cases = [
            (dir.path().join("absent"), "check that containerd is running"),
            (file, "is not a unix socket"),
            (stale, "systemctl start containerd"),
            (long, "connecting to"),
        ];
        for (path, words) in cases {
            let error = Opened::open(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(words), "{path:?}: {error}");
        }
        assert!(explain(Path::new("/run/x"), Errno::ACCESS).to_string().contains("sudo"));
    }

    #[test]
    fn a_socket_left_behind_does_not_hide_a_later_place_that_listens() {
        let dir = tempfile::tempdir().unwrap();
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        let live = dir.path().join("live.sock");
        let _listener = UnixListener::bind(&live).unwrap();
        assert_eq!(first_of(&[stale.clone(), live.clone()]).unwrap().path(), live);
        assert!(matches!(first_of(&[stale]), Err(Error::Refused(_))));
    }
}

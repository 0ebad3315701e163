//! Errors of the connection to containerd. Each text ends with a hint.

use std::io;
use std::path::PathBuf;

use tonic::Code;

/// Error of a request to containerd. Each text ends with a hint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No common location has a socket.
    #[error("no containerd socket found at {}; if containerd listens elsewhere, pass --containerd SOCKET", list(.0))]
    NoSocket(Vec<PathBuf>),
    /// The given socket does not exist.
    #[error(
        "connecting to containerd: no socket at {0:?}; check that containerd is running, or omit --containerd to try the common locations"
    )]
    NotThere(PathBuf),
    /// The path is not a socket.
    #[error(
        "connecting to containerd: {0:?} is not a unix socket; pass the path of containerd's socket with --containerd SOCKET"
    )]
    NotASocket(PathBuf),
    /// The user may not connect.
    #[error(
        "connecting to containerd: no permission to open {0:?}, which belongs to root; run the command as root (sudo)"
    )]
    Permission(PathBuf),
    /// A socket file without a listener.
    #[error("connecting to containerd: nothing listens on {0:?}; start containerd (systemctl start containerd)")]
    Refused(PathBuf),
    /// Connecting, or the first call, took too long.
    #[error("connecting to containerd: {0:?} did not respond within {1} s; check its log (journalctl -u containerd)")]
    Silent(PathBuf, u64),
    /// Another failure to connect.
    #[error("connecting to containerd at {0:?}: {1}")]
    Connect(PathBuf, #[source] io::Error),
    /// Something listens, but it is not containerd.
    #[error(
        "connecting to containerd: the server on {0:?} is not containerd ({1}); pass the path of containerd's socket with --containerd SOCKET"
    )]
    NotContainerd(PathBuf, String),
    /// The connection broke during a request.
    #[error("{0}: containerd closed the connection ({1}); if it was restarted, run the command again")]
    Gone(String, String),
    /// A call took too long.
    #[error("{0}: containerd did not respond within {1} s; check its log (journalctl -u containerd)")]
    Slow(String, u64),
    /// containerd responded with an error.
    #[error("{0}: containerd responded with an error: {1}")]
    Call(String, tonic::Status),
    /// An argument that cannot be sent.
    #[error(
        "invalid containerd namespace {0:?}: expected letters, digits, '.', '_' and '-'; list namespaces with ctr namespaces ls"
    )]
    Namespace(String),
    /// The given namespace does not exist.
    #[error("containerd has no namespace {0:?}: expected one of {existing}", existing = .1.join(", "))]
    NoNamespace(String, Vec<String>),
    /// More containers than the limit.
    #[error("listing containers: more than the limit of {0}; select namespaces with --namespace NS")]
    TooMany(usize),
    /// The socket between the two processes of the agent.
    #[error("connecting to the runtime process at {0:?}: {1}")]
    Join(PathBuf, String),
    /// An error of the process that holds the socket, already with a hint.
    #[error("{0}")]
    Sibling(String),
    /// The process that holds the socket ended, or its pipe broke.
    #[error("the runtime process {0}")]
    SiblingEnded(String),
    /// That process could not be started.
    #[error("starting the runtime process: {0}")]
    Spawn(#[source] io::Error),
    /// A message between the two processes violated the protocol.
    #[error("communicating with the runtime process: {0}")]
    Pipe(#[from] super::frame::FrameError),
}

impl Error {
    /// Classifies an error response; `doing` names the request, as in "listing containers".
    pub(crate) fn call(doing: impl Into<String>, status: tonic::Status) -> Self {
        let doing = doing.into();
        // A broken connection has the transport's error as its source. Without one, containerd itself sent the status: Unavailable for
        // a plugin that does not answer, while everything else works.
        if std::error::Error::source(&status).is_some() {
            return Self::Gone(doing, innermost(&status));
        }
        Self::Call(doing, status)
    }

    /// Returns whether the requested object does not exist (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(_, status) if status.code() == Code::NotFound)
    }

    /// Returns whether the connection is lost, so that further requests are useless.
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Call(..) | Self::Slow(..))
    }
}

/// Returns the last cause: tonic's own text ends with "transport error".
fn innermost(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    // The bound guards against a cyclic chain of causes.
    for _ in 0..16 {
        match cause.source() {
            Some(next) => cause = next,
            None => break,
        }
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_owned() } else { cause.to_string() }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_connection_makes_further_requests_useless() {
        let broken = tonic::Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        for (status, is_fatal) in [
            (broken, true),
            (tonic::Status::unavailable("connection error: the proxy plugin is down"), false),
            (tonic::Status::internal("a shim does not answer"), false),
        ] {
            let error = Error::call("listing containers", status);
            assert_eq!(error.is_fatal(), is_fatal, "{error}");
        }
    }
}

//! What can go wrong between us and containerd, in words that say what to do next.

use std::io;
use std::path::PathBuf;

use tonic::Code;

/// Why containerd could not be asked. Each text ends with what the person can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the known places has a socket.
    #[error("no containerd socket found; looked at {}. If containerd listens elsewhere, name its socket: --containerd SOCKET", list(.0))]
    NoSocket(Vec<PathBuf>),
    /// The named socket is not there.
    #[error(
        "there is no socket at {0:?}; is containerd running, and is the path right? Without --containerd the usual places are tried"
    )]
    NotThere(PathBuf),
    /// The path names something else.
    #[error("{0:?} is not a unix socket; name containerd's socket: --containerd SOCKET")]
    NotASocket(PathBuf),
    /// We may not connect.
    #[error("no permission to connect to {0:?}: containerd's socket belongs to root. Run this as root (sudo)")]
    Permission(PathBuf),
    /// A socket file without a listener.
    #[error(
        "nobody listens on {0:?}: containerd has stopped and left its socket behind. Start it (systemctl start containerd)"
    )]
    Refused(PathBuf),
    /// Connecting, or the first call, took too long.
    #[error(
        "{0:?} did not answer within {1} s: containerd hangs or is starting. Look at its log (journalctl -u containerd)"
    )]
    Silent(PathBuf, u64),
    /// Another failure to connect.
    #[error("connecting to {0:?}: {1}")]
    Connect(PathBuf, #[source] io::Error),
    /// Something listens, but it is not containerd.
    #[error(
        "what listens on {0:?} does not answer as containerd does ({1}). Name containerd's own socket: --containerd SOCKET"
    )]
    NotContainerd(PathBuf, String),
    /// The connection broke while we were asking.
    #[error("containerd went away while {0} ({1}). Is it being restarted? Run this again")]
    Gone(String, String),
    /// A call took too long.
    #[error("containerd did not answer within {1} s while {0}. Look at its log (journalctl -u containerd)")]
    Slow(String, u64),
    /// containerd answered with an error.
    #[error("containerd refused {0}: {1}")]
    Call(String, tonic::Status),
    /// An argument that cannot be sent.
    #[error(
        "{0:?} is not a name of a containerd namespace: letters, digits, '.', '_' and '-' only. List them with: ctr namespaces ls"
    )]
    Namespace(String),
    /// A namespace that was named but is not there.
    #[error("containerd has no namespace {0:?}; it has: {existing}", existing = .1.join(", "))]
    NoNamespace(String, Vec<String>),
    /// More containers than fit.
    #[error("containerd lists more than {0} containers; name the namespaces to look at: --namespace NS")]
    TooMany(usize),
    /// The socket that joins our two processes.
    #[error("the socket {0:?} that joins the agent's two processes: {1}")]
    Join(PathBuf, String),
    /// The process that holds the socket said so, in words that already follow the rules above.
    #[error("{0}")]
    Sibling(String),
    /// The process that holds the socket ended, or its pipe broke.
    #[error("the process that talks to containerd {0}")]
    SiblingEnded(String),
    /// That process could not be started.
    #[error("starting the process that talks to containerd: {0}")]
    Spawn(#[source] io::Error),
    /// A message between our two processes broke the protocol.
    #[error("talking to the process that holds containerd's socket: {0}")]
    Pipe(#[from] super::frame::FrameError),
}

impl Error {
    /// Sorts an answer of containerd: `doing` says what was asked, as in "listing containers".
    pub(crate) fn call(doing: impl Into<String>, status: tonic::Status) -> Self {
        let doing = doing.into();
        // A broken connection comes back as Unavailable, or as Unknown or Internal with the transport's error below it.
        let transport = std::error::Error::source(&status).is_some();
        if transport || status.code() == Code::Unavailable {
            return Self::Gone(doing, innermost(&status));
        }
        Self::Call(doing, status)
    }

    /// Whether containerd says that what we asked for does not exist (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(_, status) if status.code() == Code::NotFound)
    }

    /// Whether asking on is useless: the connection is lost.
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Call(..) | Self::Slow(..))
    }
}

/// The last cause: tonic's own words stop at "transport error".
fn innermost(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    // Chains of causes are a few links long; a bound costs nothing.
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

//! The process that holds containerd's socket.
//!
//! It connects once, gives up its rights, and answers its sibling's questions over the stream it was started with. It
//! ends with that stream, also in the middle of an answer.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::frame::{self, FrameError};
use super::message::{Reply, Request};
use super::{Client, Error, Opened};

/// The stream that [`Sibling::spawn`](super::Sibling::spawn) gives its child as standard input.
pub fn from_stdin() -> io::Result<UnixStream> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    match rustix::net::sockopt::socket_domain(&stdin) {
        Ok(rustix::net::AddressFamily::UNIX) => Ok(stdin.into()),
        _ => Err(io::Error::other("this role is started by outcrop itself, with a socket as its standard input")),
    }
}

/// Serves the sibling at the other end of `stream` until it hangs up.
///
/// `socket` is containerd's, or the known places are tried. `lock_down` takes this process's rights away; it is called
/// after connecting, when nothing but `stream` and the connection is needed any more, before the first byte goes to
/// containerd, and before any thread or async runtime exists. Needed from then on, by what strace shows: `epoll_create1`,
/// `epoll_ctl`, `epoll_wait`, `eventfd2`, `recvfrom`, `sendto`, `write`, `writev`, `read`, `fcntl`, `ioctl(FIONBIO)`, `close`,
/// `shutdown`, `futex`, `getrandom`, clocks and memory, and what ends a process. No file is opened and no socket made.
pub fn serve<E: Display>(
    stream: UnixStream,
    socket: Option<&Path>,
    lock_down: impl FnOnce() -> Result<(), E>,
) -> ExitCode {
    let opened = match Opened::open(socket) {
        Ok(opened) => opened,
        Err(error) => return fail(&stream, &error),
    };
    if let Err(error) = lock_down() {
        return fail(&stream, &format_args!("giving up rights before talking to containerd: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&stream, &format_args!("starting the process that talks to containerd: {error}")),
    };
    match runtime.block_on(run(stream, opened)) {
        // Its sibling hung up while it was answered: the usual end of an interrupted scan.
        Ok(()) | Err(FrameError::Io(_)) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says why before the first question. Nobody listening is no further failure.
fn fail(stream: &UnixStream, error: &dyn Display) -> ExitCode {
    let _ = frame::write(stream, &Reply::Failed(error.to_string()));
    ExitCode::FAILURE
}

async fn run(stream: UnixStream, opened: Opened) -> Result<(), FrameError> {
    stream.set_nonblocking(true)?;
    let (mut questions, mut answers) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let connected = tokio::select! {
        biased;
        connected = Client::over(opened) => connected,
        () = interrupted(&questions) => return Ok(()),
    };
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => return frame::send(&mut answers, &Reply::Failed(error.to_string())).await,
    };
    let socket = client.socket().display().to_string();
    frame::send(&mut answers, &Reply::Ready { socket, version: client.version().to_owned() }).await?;

    let mut events = Events::default();
    loop {
        let mut first = [0];
        // A read of one byte loses nothing when it is given up for an event.
        let read = tokio::select! {
            biased;
            read = questions.read(&mut first) => read?,
            () = events.happen() => {
                frame::send(&mut answers, &Reply::Changed).await?;
                continue;
            }
        };
        let mut stream = (&first[..read]).chain(&mut questions);
        let Some(question) = frame::receive(&mut stream).await? else { return Ok(()) };
        tokio::select! {
            biased;
            answered = answer(&mut client, question, &mut events, &mut answers) => answered?,
            () = interrupted(&questions) => return Ok(()),
        }
    }
}

/// What containerd tells of containers that start and end.
#[derive(Default)]
struct Events {
    /// While it tells.
    told: Option<mpsc::Receiver<()>>,
    /// Something was told, and not passed on yet.
    pending: bool,
}

impl Events {
    /// Waits until something happens, and a moment more: a pod's containers come together. Given up and called again, it has
    /// lost nothing.
    async fn happen(&mut self) {
        const MOMENT: Duration = Duration::from_millis(20);
        if !self.pending {
            let Some(told) = &mut self.told else { return std::future::pending().await };
            if told.recv().await.is_none() {
                // The end of containerd: whoever asks next is told so.
                self.told = None;
            }
            self.pending = true;
        }
        tokio::time::sleep(MOMENT).await;
        self.pending = false;
    }
}

async fn answer(
    client: &mut Client,
    question: Request,
    events: &mut Events,
    answers: &mut OwnedWriteHalf,
) -> Result<(), FrameError> {
    let last = match question {
        Request::List { namespaces } => list(client, &namespaces, answers).await?,
        Request::Recheck(pin) => client.recheck(&pin).await.map(Reply::Same),
        Request::Snapshotters => client.snapshotters().await.map(Reply::Snapshotters),
        Request::Watch => {
            events.told = Some(client.changes());
            // The subscription goes out before any question that follows.
            tokio::task::yield_now().await;
            Ok(Reply::End)
        }
    };
    frame::send(answers, &last.unwrap_or_else(|error| Reply::Failed(error.to_string()))).await
}

/// Containers go out one by one as they are described; what comes back is the last message.
async fn list(
    client: &mut Client,
    namespaces: &[String],
    answers: &mut OwnedWriteHalf,
) -> Result<Result<Reply, Error>, FrameError> {
    let planned = match client.plan(namespaces).await {
        Ok(planned) => planned,
        Err(error) => return Ok(Err(error)),
    };
    for container in planned {
        match client.describe(container).await {
            Ok(Some(container)) => frame::send(answers, &Reply::Container(Box::new(container))).await?,
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(Reply::End))
}

/// Ends when the sibling hangs up, or speaks out of turn, while it is being answered.
async fn interrupted(questions: &OwnedReadHalf) {
    let mut byte = [0];
    while questions.readable().await.is_ok() {
        // Readiness may be left over from the question itself; only a read knows.
        match questions.try_read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

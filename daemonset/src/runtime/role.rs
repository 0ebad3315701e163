//! The process that holds containerd's socket.
//!
//! It connects, gives up its rights, and answers its sibling's questions over the stream it was started with; when containerd
//! was restarted, the next question connects again. It ends with that stream, also in the middle of an answer.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Event, Gathered};
use super::frame::{self, FrameError};
use super::message::{Reply, Request};
use super::{Error, RuntimeClient};
use crate::heartbeat;
use crate::usage::OwnUsage;

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
/// `socket` is containerd's, or the known places are tried. `lock_down` takes this process's rights away and says in words
/// which cage it is in now; it is called after connecting, before the first byte goes to containerd, and before any thread or
/// async runtime exists. Needed from then on, by what strace shows: `epoll_create1`, `epoll_ctl`, `epoll_wait`, `eventfd2`,
/// `recvfrom`, `sendto`, `write`, `writev`, `read`, `pread64`, `fcntl`, `ioctl(FIONBIO)`, `close`, `shutdown`, `futex`,
/// `getrandom`, `prctl(PR_SET_NAME)`, clocks and memory, what ends a process, and, to connect again when containerd was
/// restarted, `socket` and `connect` for unix sockets. No file is opened.
pub fn serve<C: RuntimeClient, E: Display>(
    stream: UnixStream,
    socket: Option<&Path>,
    lock_down: impl FnOnce() -> Result<String, E>,
) -> ExitCode {
    let opened = match C::open(socket) {
        Ok(opened) => opened,
        Err(error) => return fail(&stream, &error),
    };
    let usage = OwnUsage::open();
    let cage = match lock_down() {
        Ok(cage) => cage,
        Err(error) => {
            return fail(&stream, &format_args!("dropping rights before connecting to containerd: {error}"));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&stream, &format_args!("starting the runtime process: {error}")),
    };
    match runtime.block_on(run::<C>(stream, opened, cage, usage)) {
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

async fn run<C: RuntimeClient>(
    stream: UnixStream,
    opened: C::Connection,
    cage: String,
    usage: OwnUsage,
) -> Result<(), FrameError> {
    heartbeat::beat();
    stream.set_nonblocking(true)?;
    let (mut questions, mut answers) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let connected = tokio::select! {
        biased;
        connected = C::start(opened) => connected,
        () = interrupted(&questions) => return Ok(()),
    };
    let client = match connected {
        Ok(client) => client,
        Err(error) => return frame::send(&mut answers, &Reply::Failed(error.to_string())).await,
    };
    let socket = client.socket().to_owned();
    let ready = Reply::Ready { socket: socket.display().to_string(), version: client.version().to_owned(), cage };
    frame::send(&mut answers, &ready).await?;

    let mut holder = Holder { client: Some(client), socket, usage, watching: false, patience: Instant::now() };
    let mut events = Events::default();
    loop {
        heartbeat::beat();
        let mut first = [0];
        // A read of one byte loses nothing when it is given up for an event.
        let read = tokio::select! {
            biased;
            read = questions.read(&mut first) => read?,
            () = events.happen() => {
                frame::send(&mut answers, &Reply::Changed(events.gathered.take())).await?;
                continue;
            }
            () = tokio::time::sleep(heartbeat::BEAT) => continue,
        };
        let mut stream = (&first[..read]).chain(&mut questions);
        let Some(question) = frame::receive(&mut stream).await? else { return Ok(()) };
        tokio::select! {
            biased;
            answered = holder.answer(question, &mut events, &mut answers) => answered?,
            () = interrupted(&questions) => return Ok(()),
        }
    }
}

/// What containerd tells of containers that start and end.
#[derive(Default)]
struct Events {
    /// While it tells.
    told: Option<mpsc::Receiver<Event>>,
    gathered: Gathered,
    /// Something was told, and not passed on yet.
    pending: bool,
    /// When the next may be passed on: what comes at once is passed on together.
    next: Option<Instant>,
}

impl Events {
    /// Waits until there is something to pass on: the first event at once, others of a burst a little later together. Given up
    /// and called again, it has lost nothing.
    async fn happen(&mut self) {
        const APART: Duration = Duration::from_millis(200);
        loop {
            if self.pending {
                let due = self.next.unwrap_or_else(Instant::now);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => {
                        // Whatever else is there already.
                        while let Some(Ok(event)) = self.told.as_mut().map(mpsc::Receiver::try_recv) {
                            self.gathered.add(event);
                        }
                        self.pending = false;
                        self.next = Some(Instant::now() + APART);
                        return;
                    }
                    () = self.wait() => {}
                }
            } else {
                self.wait().await;
            }
        }
    }

    /// Waits for one event.
    async fn wait(&mut self) {
        let Some(told) = &mut self.told else { return std::future::pending().await };
        match told.recv().await {
            Some(event) => self.gathered.add(event),
            // The end of containerd: whoever asks next is told so.
            None => self.told = None,
        }
        self.pending = true;
    }
}

/// Who holds the connection.
struct Holder<C> {
    /// None after containerd went away, until something is asked again.
    client: Option<C>,
    /// Where it was connected to. It is the path that counts: a new containerd makes a new socket there.
    socket: PathBuf,
    usage: OwnUsage,
    watching: bool,
    /// When snapshotters that did not answer in time were given another chance.
    patience: Instant,
}

/// How long a snapshotter that did not answer in time is not asked again: each try keeps all others waiting.
const SLOW_FOR: Duration = Duration::from_secs(600);

impl<C: RuntimeClient> Holder<C> {
    async fn answer(
        &mut self,
        question: Request,
        events: &mut Events,
        answers: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let last = match question {
            Request::Usage => Ok(Reply::Usage(self.usage.now())),
            question => self.ask(question, events, answers).await?,
        };
        if matches!(last, Err(Error::Gone(..))) {
            self.client = None;
        }
        frame::send(answers, &last.unwrap_or_else(|error| Reply::Failed(error.to_string()))).await
    }

    /// Puts a question to containerd. What comes back is the last message of the answer.
    async fn ask(
        &mut self,
        question: Request,
        events: &mut Events,
        answers: &mut OwnedWriteHalf,
    ) -> Result<Result<Reply, Error>, FrameError> {
        self.watching |= question == Request::Watch;
        if self.client.is_none() {
            match connect(&self.socket).await {
                Ok(client) => self.client = Some(client),
                Err(error) => return Ok(Err(error)),
            }
            events.told = None;
        }
        let Some(client) = &mut self.client else { return Ok(Ok(Reply::End)) };
        if self.watching && events.told.is_none() {
            events.told = Some(client.watch());
            // The subscription goes out before any question that follows.
            tokio::task::yield_now().await;
        }
        Ok(match question {
            Request::Plan => {
                if self.patience.elapsed() > SLOW_FOR {
                    self.patience = Instant::now();
                    client.retry_slow();
                }
                let planned = match client.plan(&[]).await {
                    Ok(planned) => planned,
                    Err(error) => return Ok(Err(error)),
                };
                for container in planned {
                    frame::send(answers, &Reply::Container(Box::new(container))).await?;
                }
                Ok(Reply::End)
            }
            Request::List { namespaces } => list(client, &namespaces, answers).await?,
            Request::Describe(container) => {
                let described = client.describe(*container).await;
                described
                    .map(|container| container.map_or(Reply::End, |container| Reply::Container(Box::new(container))))
            }
            Request::Recheck(pin) => client.recheck(&pin).await.map(Reply::Same),
            Request::Stand(pin) => client.stand(&pin).await.map(Reply::Same),
            Request::StorageDrivers => client.storage_drivers().await.map(Reply::StorageDrivers),
            Request::Watch | Request::Usage => Ok(Reply::End),
        })
    }
}

/// Connects to the runtime anew, at the same path.
async fn connect<C: RuntimeClient>(socket: &Path) -> Result<C, Error> {
    C::start(C::open(Some(socket))?).await
}

/// Containers go out one by one as they are described; what comes back is the last message.
async fn list<C: RuntimeClient>(
    client: &mut C,
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

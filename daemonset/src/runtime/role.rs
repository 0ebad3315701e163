//! The process that holds the runtime's socket.
//!
//! It connects, gives up its rights, and serves its sibling's requests over the stream that it was started with. After a restart of the
//! runtime, the next request reconnects. The process ends with its stream, also in the middle of a response.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Event, Gathered};
use super::frame::{self, FrameError};
use super::message::{Gap, Lacks, Plan, Reply, Request};
use super::{Error, RuntimeClient};
use crate::heartbeat;
use crate::logging::safe;
use crate::usage::OwnUsage;

/// Returns the stream that [`Sibling::spawn`](super::Sibling::spawn) passes to its child as standard input.
pub fn from_stdin() -> io::Result<UnixStream> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    match rustix::net::sockopt::socket_domain(&stdin) {
        Ok(rustix::net::AddressFamily::UNIX) => Ok(stdin.into()),
        _ => Err(io::Error::other("this role is started by outcrop itself, with a socket as its standard input")),
    }
}

/// Serves the sibling at the other end of `stream` until the sibling closes it.
///
/// `socket` is the path of the runtime's socket; without it the known places are tried. `lock_down` gives up this process's rights and
/// returns the text form of its cage; it is called after connecting, before the first byte is sent to the runtime, and before any
/// thread or async runtime exists. System calls needed from then on, as strace shows: `epoll_create1`, `epoll_ctl`, `epoll_wait`, `eventfd2`,
/// `recvfrom`, `sendto`, `write`, `writev`, `read`, `pread64`, `fcntl`, `ioctl(FIONBIO)`, `close`, `shutdown`, `futex`,
/// `getrandom`, `prctl(PR_SET_NAME)`, clocks and memory, ending the process, and, to reconnect to a restarted runtime, `socket` and
/// `connect` for unix sockets. No file is opened.
///
/// The stream in `stop` becomes readable when the process should end; the sibling is served for the given time after that.
///
/// # Errors
/// The reason, which was also sent to the sibling where possible.
pub fn serve<C: RuntimeClient, E: Display>(
    stream: UnixStream,
    socket: Option<&Path>,
    stop: Option<(UnixStream, Duration)>,
    lock_down: impl FnOnce() -> Result<String, E>,
) -> Result<End, String> {
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
    let stopped = async {
        match stop {
            None => std::future::pending().await,
            Some((stop, linger)) => {
                if let Ok(stop) = tokio::net::UnixStream::from_std(stop) {
                    let _ = stop.readable().await;
                    tracing::info!(seconds = linger.as_secs(), "stop requested");
                    tokio::time::sleep(linger).await;
                }
                Ok(End::Stopped)
            }
        }
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run::<C>(stream, opened, cage, usage) => ended.map(|()| End::HungUp),
            stopped = stopped => stopped,
        }
    });
    match ended {
        Ok(end) => Ok(end),
        // The sibling closed the stream during a response: the usual end of an interrupted scan.
        Err(FrameError::Io(_)) => Ok(End::HungUp),
        Err(error) => Err(error.to_string()),
    }
}

/// Why [`serve`] ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sibling closed the stream.
    HungUp,
    /// The process was asked to stop.
    Stopped,
}

/// Sends the reason before the first request. A closed stream is no further failure.
fn fail(stream: &UnixStream, error: &dyn Display) -> Result<End, String> {
    let _ = frame::write(stream, &Reply::Failed(error.to_string()));
    Err(error.to_string())
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
        Err(error) => {
            tracing::error!(reason = %safe(&error.to_string()), "runtime connection failed");
            return frame::send(&mut answers, &Reply::Failed(error.to_string())).await;
        }
    };
    connected_event(&client, &cage);
    let socket = client.socket().to_owned();
    let ready = Reply::Ready { socket: socket.display().to_string(), version: client.version().to_owned(), cage };
    frame::send(&mut answers, &ready).await?;

    let mut holder = Holder { client: Some(client), socket, usage, watching: false, patience: Instant::now() };
    let mut events = Events::default();
    loop {
        heartbeat::beat();
        let mut first = [0];
        // Cancelling a read of one byte loses nothing.
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

/// Events of containers that start and end.
#[derive(Default)]
struct Events {
    /// The subscription; `None` when it has ended.
    told: Option<mpsc::Receiver<Event>>,
    /// When a subscription of this connection ended last.
    ended: Option<Instant>,
    gathered: Gathered,
    /// Whether an event waits to be passed on.
    pending: bool,
    /// Earliest time to pass on the next event: events of a burst are passed on together.
    next: Option<Instant>,
}

impl Events {
    /// Waits until there are events to pass on: the first event immediately, further events of a burst together a little later. Cancelling
    /// the future loses no event.
    async fn happen(&mut self) {
        const APART: Duration = Duration::from_millis(200);
        loop {
            if self.pending {
                let due = self.next.unwrap_or_else(Instant::now);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => {
                        // Events that have arrived already.
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
            // Either the runtime has ended, which the next request reports, or the subscription only.
            None => {
                self.told = None;
                self.ended = Some(Instant::now());
            }
        }
        self.pending = true;
    }

    /// Subscribes, if there is no subscription. One that ended is renewed after a pause: each end causes a list.
    fn subscribe(&mut self, client: &impl RuntimeClient) -> bool {
        let is_due = self.told.is_none() && self.ended.is_none_or(|ended| ended.elapsed() >= RESUBSCRIBE);
        if is_due {
            self.told = Some(client.watch());
        }
        is_due
    }

    /// Returns the gap while a subscription that ended has not been replaced by one that lasts.
    fn gap(&self) -> Option<Gap> {
        let reason = "the runtime ended its stream of events; short-lived containers may be missed until a new stream stays open";
        self.ended.filter(|ended| self.told.is_none() || ended.elapsed() < LASTS)?;
        Some(Gap { lacks: Lacks::Events, namespace: String::new(), reason: reason.to_owned() })
    }
}

/// Pause before a subscription that ended is renewed, and time after which the new one counts as lasting: the runtime does not confirm it.
const RESUBSCRIBE: Duration = Duration::from_secs(5);
const LASTS: Duration = Duration::from_secs(30);

/// Holder of the connection.
struct Holder<C> {
    /// `None` after the runtime went away, until the next request.
    client: Option<C>,
    /// Path of the socket. A restarted runtime creates a new socket at the same path.
    socket: PathBuf,
    usage: OwnUsage,
    watching: bool,
    /// Time of the last retry of storage drivers that did not answer in time.
    patience: Instant,
}

/// Pause before a storage driver that did not answer in time is tried again: each try delays all other requests.
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
        if let Err(error @ Error::Gone(..)) = &last
            && self.client.take().is_some()
        {
            tracing::warn!(reason = %safe(&error.to_string()), "runtime lost");
        }
        frame::send(answers, &last.unwrap_or_else(|error| Reply::Failed(error.to_string()))).await
    }

    /// Executes a request and returns the last message of the response.
    async fn ask(
        &mut self,
        question: Request,
        events: &mut Events,
        answers: &mut OwnedWriteHalf,
    ) -> Result<Result<Reply, Error>, FrameError> {
        self.watching |= question == Request::Watch;
        if self.client.is_none() {
            match connect(&self.socket).await {
                Ok(client) => {
                    connected_event(&client, "");
                    self.client = Some(client);
                }
                Err(error) => return Ok(Err(error)),
            }
            (events.told, events.ended) = (None, None);
        }
        let Some(client) = &mut self.client else { return Ok(Ok(Reply::End)) };
        if self.watching && events.subscribe(client) {
            // The subscription is sent before any later request.
            tokio::task::yield_now().await;
        }
        Ok(match question {
            Request::Plan => {
                if self.patience.elapsed() > SLOW_FOR {
                    self.patience = Instant::now();
                    client.retry_slow();
                }
                let Plan { containers, gaps } = match client.plan(&[]).await {
                    Ok(plan) => plan,
                    Err(error) => return Ok(Err(error)),
                };
                for container in containers {
                    frame::send(answers, &Reply::Container(Box::new(container))).await?;
                }
                send_gaps(gaps.into_iter().chain(events.gap()), answers).await?;
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

fn connected_event<C: RuntimeClient>(client: &C, cage: &str) {
    let socket = client.socket().to_string_lossy();
    tracing::info!(version = %safe(client.version()), socket = %safe(&socket), cage, "runtime connected");
}

/// Reconnects to the runtime at the same path.
async fn connect<C: RuntimeClient>(socket: &Path) -> Result<C, Error> {
    C::start(C::open(Some(socket))?).await
}

/// Sends containers one by one as they are described, and returns the last message of the response.
async fn list<C: RuntimeClient>(
    client: &mut C,
    namespaces: &[String],
    answers: &mut OwnedWriteHalf,
) -> Result<Result<Reply, Error>, FrameError> {
    let Plan { containers, gaps } = match client.plan(namespaces).await {
        Ok(plan) => plan,
        Err(error) => return Ok(Err(error)),
    };
    send_gaps(gaps, answers).await?;
    for container in containers {
        match client.describe(container).await {
            Ok(Some(container)) => frame::send(answers, &Reply::Container(Box::new(container))).await?,
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(Reply::End))
}

async fn send_gaps(gaps: impl IntoIterator<Item = Gap>, answers: &mut OwnedWriteHalf) -> Result<(), FrameError> {
    for gap in gaps {
        frame::send(answers, &Reply::Gap(gap)).await?;
    }
    Ok(())
}

/// Returns when the sibling closes the stream, or sends a message out of turn, during a response.
async fn interrupted(questions: &OwnedReadHalf) {
    let mut byte = [0];
    while questions.readable().await.is_ok() {
        // The readiness may be left over from the request itself, so a read has to check.
        match questions.try_read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

//! Connection to [`role`](super::role), for the process that must not hold the runtime's socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use outcrop_proto::Container;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Error;
use super::frame::{self, FrameError};
use super::message::{Pin, Plan, Reply, Request, Start, StorageDriver};
use crate::usage::Usage;

/// Maximum wait for the next message. The child's own timeouts are shorter, and it reports them.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum wait until the child reads a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of noted starts.
const MAX_WAITING: usize = 8192;
/// Time for the child to exit by itself after its stream has ended.
const GRACE: Duration = Duration::from_secs(1);

/// The process that holds the runtime's socket and serves requests. It ends when this is dropped.
#[derive(Debug)]
pub struct Sibling {
    /// The child process; `None` if another process started it.
    child: Option<Child>,
    stream: UnixStream,
    socket: String,
    version: String,
    cage: String,
    /// Set when both sides may disagree about the state of the protocol.
    broken: bool,
    /// Set when containers started or ended.
    changed: bool,
    /// Containers that started.
    started: Vec<Start>,
}

impl Sibling {
    /// Starts `command`, which must call [`role::serve`](super::role::serve) with
    /// [`role::from_stdin`](super::role::from_stdin), and waits until the process has connected and given up its rights.
    pub fn spawn(mut command: Command) -> Result<Self, Error> {
        let (stream, theirs) = UnixStream::pair().map_err(Error::Spawn)?;
        let child = command.stdin(OwnedFd::from(theirs)).spawn().map_err(Error::Spawn)?;
        // The command also holds the child's end: while it exists, the child's death would not end the stream.
        drop(command);
        Self::greet(stream, Some(child))
    }

    /// Greets a process that another process has started, over `stream`.
    pub fn over(stream: UnixStream) -> Result<Self, Error> {
        Self::greet(stream, None)
    }

    fn greet(stream: UnixStream, child: Option<Child>) -> Result<Self, Error> {
        stream.set_read_timeout(Some(READ_TIMEOUT)).map_err(Error::Spawn)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(Error::Spawn)?;
        let mut sibling = Self {
            child,
            stream,
            socket: String::new(),
            version: String::new(),
            cage: String::new(),
            broken: false,
            changed: false,
            started: Vec::new(),
        };
        match sibling.next()? {
            Reply::Ready { socket, version, cage } => {
                sibling.socket = socket;
                sibling.version = version;
                sibling.cage = cage;
                Ok(sibling)
            }
            other => Err(sibling.unexpected(other)),
        }
    }

    /// Returns the path of the runtime's socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Returns the runtime's version, as the runtime reports it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the cage of the process, in the text form of [`Cage`](crate::worker::Cage).
    pub fn cage(&self) -> &str {
        &self.cage
    }

    /// Returns whether the process is lost, and not only the runtime: it will serve no further request.
    pub const fn is_lost(&self) -> bool {
        self.broken
    }

    /// Returns the process ID, if this process started it.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Lists the containers of the given runtime namespaces, of all where none is given, as
    /// [`RuntimeClient::plan`](super::RuntimeClient::plan) lists them, each with its details.
    pub fn list(&mut self, namespaces: &[String]) -> Result<Plan, Error> {
        self.containers(&Request::List { namespaces: namespaces.to_vec() })
    }

    /// Lists the containers of every namespace, as [`RuntimeClient::plan`](super::RuntimeClient::plan) lists them; [`Self::describe`] adds the details.
    pub fn plan(&mut self) -> Result<Plan, Error> {
        self.containers(&Request::Plan)
    }

    /// Returns a planned container with its details; `None` when it is gone.
    pub fn describe(&mut self, container: Container) -> Result<Option<Container>, Error> {
        let mut described = None;
        self.ask(&Request::Describe(Box::new(container)))?;
        match self.next()? {
            Reply::Container(container) => described = Some(*container),
            Reply::End => {}
            other => return Err(self.unexpected(other)),
        }
        Ok(described)
    }

    fn containers(&mut self, question: &Request) -> Result<Plan, Error> {
        self.ask(question)?;
        let mut plan = Plan::default();
        loop {
            match self.next()? {
                Reply::Container(container) => plan.containers.push(*container),
                Reply::Gap(gap) => plan.gaps.push(gap),
                Reply::End => return Ok(plan),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Returns whether a container still has the layers that it was listed with; `false` when it is gone.
    pub fn recheck(&mut self, container: &Container) -> Result<bool, Error> {
        self.recheck_pin(&Pin::from(container))
    }

    /// Like [`Self::recheck`], for a pin.
    pub fn recheck_pin(&mut self, pin: &Pin) -> Result<bool, Error> {
        self.same(&Request::Recheck(pin.clone()))
    }

    /// Returns whether the layers below a container still exist, even if the container is gone.
    pub fn stand(&mut self, pin: &Pin) -> Result<bool, Error> {
        self.same(&Request::Stand(pin.clone()))
    }

    fn same(&mut self, question: &Request) -> Result<bool, Error> {
        self.ask(question)?;
        match self.next()? {
            Reply::Same(same) => Ok(same),
            other => Err(self.unexpected(other)),
        }
    }

    /// Lists the storage drivers that the runtime has loaded, and the directory of each.
    pub fn storage_drivers(&mut self) -> Result<Vec<StorageDriver>, Error> {
        self.ask(&Request::StorageDrivers)?;
        match self.next()? {
            Reply::StorageDrivers(drivers) => Ok(drivers),
            other => Err(self.unexpected(other)),
        }
    }

    /// Returns memory and processor time of the process.
    pub fn usage(&mut self) -> Result<Usage, Error> {
        self.ask(&Request::Usage)?;
        match self.next()? {
            Reply::Usage(usage) => Ok(usage),
            other => Err(self.unexpected(other)),
        }
    }

    /// Returns the containers that started since the last call.
    pub fn take_started(&mut self) -> Vec<Start> {
        std::mem::take(&mut self.started)
    }

    /// Subscribes to starts and ends of containers: then the [file descriptor](Self::as_fd) becomes readable, and
    /// [`Self::has_changed`] returns `true`.
    ///
    /// # Errors
    /// When the runtime refuses the subscription.
    pub fn watch(&mut self) -> Result<(), Error> {
        self.ask(&Request::Watch)?;
        match self.next()? {
            Reply::End => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Returns whether containers started or ended since the last call, without waiting.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn has_changed(&mut self) -> Result<bool, Error> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let readable = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0;
        if readable {
            match self.next_of_any_kind()? {
                Reply::Changed(started) => self.note(started),
                other => return Err(self.unexpected(other)),
            }
        }
        Ok(std::mem::take(&mut self.changed))
    }

    /// Returns whether a change arrived already, between the parts of a response.
    pub const fn knows_of_change(&self) -> bool {
        self.changed
    }

    fn ask(&mut self, question: &Request) -> Result<(), Error> {
        if self.broken {
            return Err(Error::SiblingEnded("accepts no requests after an earlier failure".into()));
        }
        frame::write(&self.stream, question).map_err(|error| self.lost(error))
    }

    /// Returns the next part of a response.
    fn next(&mut self) -> Result<Reply, Error> {
        loop {
            match self.next_of_any_kind()? {
                Reply::Changed(started) => self.note(started),
                reply => return Ok(reply),
            }
        }
    }

    fn note(&mut self, started: Vec<Start>) {
        self.changed = true;
        self.started.extend(started.into_iter().take(MAX_WAITING.saturating_sub(self.started.len())));
    }

    fn next_of_any_kind(&mut self) -> Result<Reply, Error> {
        match frame::read(&self.stream) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.ended()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn unexpected(&mut self, reply: Reply) -> Error {
        match reply {
            Reply::Failed(text) => Error::Sibling(text),
            _ => {
                self.broken = true;
                FrameError::OutOfTurn.into()
            }
        }
    }

    fn lost(&mut self, error: FrameError) -> Error {
        self.broken = true;
        match error {
            FrameError::Io(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Error::SiblingEnded(format!("has not responded for {} s", READ_TIMEOUT.as_secs()))
            }
            FrameError::Io(_) => self.ended(),
            other => other.into(),
        }
    }

    fn ended(&mut self) -> Error {
        self.broken = true;
        Error::SiblingEnded(match self.child.as_mut().and_then(|child| wait(child, GRACE)) {
            Some(status) => format!("has ended: {}", in_words(status)),
            None => "has closed its stream".into(),
        })
    }
}

impl AsFd for Sibling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(child) = &mut self.child
            && wait(child, GRACE).is_none()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    const SIGKILL: i32 = 9;
    const SIGSYS: i32 = 31;
    match (status.signal(), status.code()) {
        (Some(SIGSYS), _) => "the sandbox stopped a system call (signal 31, SIGSYS); please report this".into(),
        (Some(SIGKILL), _) => "killed (signal 9), possibly out of memory".into(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no reason given".into(),
    }
}

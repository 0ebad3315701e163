//! The parent's side: start a worker, pass it a job, receive its frames.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::fact::Fact;
use outcrop_proto::inventory::Inventory;
use outcrop_proto::{Budget, DecodeError};
use overlayfs_reader::MarkNamespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

use super::child::MAX_HANDLES;
use super::config::ImageConfig;
use super::counters::Counters;
use super::job::{Caution, Frame, Job, Started, Work};
use super::politeness::Manner;
use super::reading::StackAnswer;
use super::selftest::Attempt;
use super::survive::Survival;
use crate::logging::safe;
use crate::role;

/// Maximum number of times that a job is repeated without the path that killed its worker. At the next death it is repeated once more, for
/// package databases and `os-release` only.
const MAX_DEATHS: usize = 8;

/// Maximum wall time of a worker; its processor time is limited separately.
const MAX_TIME: Duration = Duration::from_secs(600);

/// Maximum wall time for an image configuration: the main thread waits for it.
const MAX_PARSE: Duration = Duration::from_secs(20);

/// Maximum wall time for a check of a mounted root: an open handle makes the node's umount fail, and containerd's shim gives up after
/// 2.5 s.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// Reason why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The worker process could not be started, or the job could not be sent.
    #[error("starting a worker: {0}")]
    Start(#[source] io::Error),
    /// The worker reported a failure.
    #[error("{0}")]
    Job(String),
    /// The worker ended without an answer.
    #[error("the worker died ({how}) {doing}")]
    Died {
        /// Exit status, or the timeout.
        how: String,
        /// Paths that it announced last.
        doing: String,
    },
    /// The input exceeds a limit.
    #[error("{0}")]
    TooLarge(String),
    /// Too many paths killed a worker.
    #[error("the worker died more than {MAX_DEATHS} times, the last time while reading {0}")]
    DiedTooOften(String),
    /// The answer is malformed.
    #[error("malformed response of a worker: {0}")]
    Answer(String),
}

/// Result of reading one layer.
#[derive(Clone, Debug)]
pub struct LayerReading {
    /// The layer's inventory.
    pub inventory: Inventory,
    /// Cage of the worker, and whether it could see overlay's marks.
    pub started: Started,
}

/// Statistics of reading a layer.
#[derive(Clone, Copy, Debug)]
pub struct ReadStats {
    /// The cage of the worker, and whether it could see overlay's marks.
    pub started: Started,
    /// Wall time, with all workers that the layer took.
    pub elapsed: Duration,
    /// Paths and evidence of the layer.
    pub work: Work,
}

/// Results of reading paths of a stack.
pub type StackReading = Vec<(Vec<u8>, Result<Fact, String>)>;

/// The program that is started as a worker: its `main` must call [`crate::role::enter`] first.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    manner: Manner,
    counters: Arc<Counters>,
}

impl Program {
    /// Returns the program of this process.
    pub fn this() -> Self {
        Self::at("/proc/self/exe")
    }

    /// Returns the program at `path`, for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), manner: Manner::default(), counters: Arc::default() }
    }

    /// Sets limits and priority of reading.
    #[must_use]
    pub fn with(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// Returns the counters of its workers and of its clones' workers.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts a worker to find out the cage of workers, and whether they can see overlay's marks.
    ///
    /// # Errors
    /// When no worker can be started.
    pub fn started(&self) -> Result<Started, WorkerError> {
        let job = Job::Stack {
            marks: MarkNamespace::Trusted.into(),
            caution: Caution::default(),
            manner: self.manner,
            paths: Vec::new(),
        };
        Ok(self.once::<Vec<u8>>(&job, &[])?.done()?.0.started)
    }

    /// Returns the command that starts this program in `role`, with an empty environment.
    pub fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(role::ARGUMENT).arg(role).env_clear();
        command
    }

    /// Reads one layer; `marks` is the namespace of its overlay marks.
    ///
    /// # Errors
    /// When the layer cannot be read at all. Files that could not be read are tombstones in the inventory.
    pub fn read_layer(&self, root: BorrowedFd<'_>, marks: MarkNamespace) -> Result<LayerReading, WorkerError> {
        let (stats, answer) = self.read_layer_into::<Vec<u8>>(root, Some(marks))?;
        let inventory = Inventory::decode(&answer, &mut Budget::job()).map_err(|error| match error {
            DecodeError::OverBudget(_) => WorkerError::TooLarge(format!("the inventory: {error}")),
            _ => WorkerError::Answer(error.to_string()),
        })?;
        Ok(LayerReading { inventory, started: stats.started })
    }

    /// Like [`Self::read_layer`], without decoding: the canonical encoding is written into an `S` as it arrives. The bytes are not
    /// validated. Without `marks` the worker does not read overlay's marks.
    ///
    /// # Errors
    /// When the layer cannot be read.
    pub fn read_layer_into<S: io::Write + Default>(
        &self,
        root: BorrowedFd<'_>,
        marks: Option<MarkNamespace>,
    ) -> Result<(ReadStats, S), WorkerError> {
        let start = Instant::now();
        let job = |caution| Job::Layer { marks: marks.map(Into::into), caution, manner: self.manner };
        let (Finished { started, work }, answer) = self.persevere(&job, &[root])?;
        self.counters.completes_layer();
        Ok((ReadStats { started, elapsed: start.elapsed(), work }, answer))
    }

    /// Reads `paths` in the merged view of `layers`, newest first.
    ///
    /// # Errors
    /// When no path could be read.
    pub fn read_stack(
        &self,
        layers: &[BorrowedFd<'_>],
        marks: MarkNamespace,
        paths: &[Vec<u8>],
    ) -> Result<StackReading, WorkerError> {
        let job = |caution| Job::Stack { marks: marks.into(), caution, manner: self.manner, paths: paths.to_vec() };
        let (_, answer) = self.persevere::<Vec<u8>>(&job, layers)?;
        let answer: StackAnswer = decode(&answer)?;
        let mut budget = Budget::job();
        answer
            .into_iter()
            .map(|(path, read)| match read.map(|bytes| Fact::decode(&bytes, &mut budget)) {
                Ok(Ok(fact)) => Ok((path, Ok(fact))),
                // The worker limits what the facts take together, so this one was tampered with.
                Ok(Err(DecodeError::OverBudget(error))) => Ok((path, Err(error.to_string()))),
                Ok(Err(error)) => Err(WorkerError::Answer(error.to_string())),
                Err(reason) => Ok((path, Err(reason))),
            })
            .collect()
    }

    /// Checks which `paths` a container's mounted root shows; `upper` is its writable layer.
    ///
    /// # Errors
    /// When the worker fails.
    pub fn survives(
        &self,
        root: BorrowedFd<'_>,
        upper: Option<BorrowedFd<'_>>,
        paths: &[Vec<u8>],
    ) -> Result<Vec<Survival>, WorkerError> {
        let handles: Vec<BorrowedFd<'_>> = std::iter::once(root).chain(upper).collect();
        let (_, answer) = self.once::<Vec<u8>>(&Job::Survive { paths: paths.to_vec() }, &handles)?.done()?;
        decode(&answer)
    }

    /// Parses an image configuration; with `texts` the steps of its history keep their texts.
    ///
    /// # Errors
    /// When the bytes are not an image configuration.
    pub fn parse_config(&self, bytes: &[u8], texts: bool) -> Result<ImageConfig, WorkerError> {
        let (_, answer) = self.once::<Vec<u8>>(&Job::Config { bytes: bytes.to_vec(), texts }, &[])?.done()?;
        decode(&answer)
    }

    /// Attempts every forbidden action in a worker that may read `root` only; `outside` are files that must not open.
    ///
    /// # Errors
    /// When the worker could not be started.
    pub fn selftest(
        &self,
        root: BorrowedFd<'_>,
        outside: Vec<(String, Vec<u8>)>,
    ) -> Result<(Started, Vec<Attempt>), WorkerError> {
        let (finished, answer) = self.once::<Vec<u8>>(&Job::Selftest { outside }, &[root])?.done()?;
        Ok((finished.started, decode(&answer)?))
    }

    /// Runs a job, and repeats it without the paths that kill its worker.
    fn persevere<S: io::Write + Default>(
        &self,
        job: &dyn Fn(Caution) -> Job,
        handles: &[BorrowedFd<'_>],
    ) -> Result<(Finished, S), WorkerError> {
        let mut caution = Caution::default();
        loop {
            match self.once(&job(caution.clone()), handles)? {
                Outcome::Died { mut paths, .. } if paths.len() == 1 => {
                    if caution.essentials_only {
                        return Err(WorkerError::DiedTooOften(in_words(&paths)));
                    }
                    caution.essentials_only = caution.skip.len() == MAX_DEATHS;
                    caution.skip.append(&mut paths);
                }
                Outcome::Died { paths, .. } if !paths.is_empty() && !caution.one_by_one => caution.one_by_one = true,
                outcome => return outcome.done(),
            }
        }
    }

    fn once<S: io::Write + Default>(&self, job: &Job, handles: &[BorrowedFd<'_>]) -> Result<Outcome<S>, WorkerError> {
        let mut worker = self.start(job, handles).map_err(WorkerError::Start)?;
        self.counters.starts();
        let limit = match job {
            Job::Survive { .. } => MAX_HOLD,
            Job::Config { .. } => MAX_PARSE,
            _ => MAX_TIME,
        };
        let mut answer = S::default();
        let outcome = worker.hear(&mut answer, limit, &self.counters);
        // The job is over, so the worker is not needed any more.
        let _ = worker.child.kill();
        let status = worker.child.wait().map_err(WorkerError::Start)?;
        Ok(match outcome.map_err(|error| WorkerError::Answer(error.to_string()))? {
            Heard { end: Some(End::Answer), started: Some(started), work, .. } => {
                Outcome::Done(Finished { started, work }, answer)
            }
            Heard { end: Some(End::Refused(error)), .. } => Outcome::Failed(error),
            Heard { paths, late, .. } => {
                self.counters.dies();
                let how = if late { format!("no response after {} s", limit.as_secs()) } else { status.to_string() };
                tracing::warn!(how = %how, paths = paths.len(), last = %safe(&in_words(&paths)), "worker died");
                Outcome::Died { paths, how }
            }
        })
    }

    fn start(&self, job: &Job, handles: &[BorrowedFd<'_>]) -> io::Result<Worker> {
        if handles.len() > MAX_HANDLES {
            return Err(io::Error::other(format!("{} layers, more than the limit of {MAX_HANDLES}", handles.len())));
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mut child = self
            .command(role::WORKER)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let bytes = postcard::to_stdvec(job).map_err(io::Error::other)?;
        let length = (bytes.len() as u64).to_le_bytes();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_HANDLES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !handles.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(handles));
        }
        let sent = sendmsg(&ours, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)
            .map_err(io::Error::from)
            .and_then(|_| io::Write::write_all(&mut Socket(ours.as_fd()), &bytes));
        match sent {
            // A worker that died immediately is detected when its pipe is read.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
            _ => Ok(Worker { child, stdout, _alive: ours }),
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, WorkerError> {
    postcard::from_bytes(answer).map_err(|error| WorkerError::Answer(error.to_string()))
}

/// Decodes `bytes` as each message that a worker may send, and discards the result: an image that has taken over a worker chooses these
/// bytes. For the fuzz target.
#[doc(hidden)]
pub fn check_frames(mut bytes: &[u8]) {
    let mut answer = Vec::new();
    while let Ok(Some(frame)) = Frame::read(&mut bytes, &mut answer) {
        if let Frame::Answer(_) = frame {
            let _ = Inventory::decode(&answer, &mut Budget::job());
            let _ = decode::<StackAnswer>(&answer);
            let _ = decode::<Vec<Survival>>(&answer);
            let _ = decode::<ImageConfig>(&answer);
            let _ = decode::<Vec<Attempt>>(&answer);
            answer.clear();
        }
    }
}

/// The parent's end of the job's socket, as a writer that raises no SIGPIPE.
struct Socket<'a>(BorrowedFd<'a>);

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports of a worker in addition to its answer.
#[derive(Debug)]
struct Finished {
    started: Started,
    work: Work,
}

/// The result of a job.
enum Outcome<S> {
    Done(Finished, S),
    Failed(WorkerError),
    Died { paths: Vec<Vec<u8>>, how: String },
}

impl<S> Outcome<S> {
    fn done(self) -> Result<(Finished, S), WorkerError> {
        match self {
            Self::Done(finished, answer) => Ok((finished, answer)),
            Self::Failed(error) => Err(error),
            Self::Died { paths, how } => {
                let doing = if paths.is_empty() {
                    "before it read anything".to_owned()
                } else {
                    format!("at {}", in_words(&paths))
                };
                Err(WorkerError::Died { how, doing })
            }
        }
    }
}

/// A running worker. It ends when the socket is dropped.
struct Worker {
    child: Child,
    stdout: ChildStdout,
    _alive: OwnedFd,
}

/// Paths in a message.
fn in_words(paths: &[Vec<u8>]) -> String {
    let quoted: Vec<String> = paths.iter().map(|path| format!("\"{}\"", path.escape_ascii())).collect();
    quoted.join(" or ")
}

/// The messages of a worker.
#[derive(Default)]
struct Heard {
    started: Option<Started>,
    work: Work,
    paths: Vec<Vec<u8>>,
    end: Option<End>,
    late: bool,
}

/// The last message of a worker.
enum End {
    Answer,
    Refused(WorkerError),
}

impl Worker {
    fn hear(&mut self, answer: &mut impl io::Write, limit: Duration, counters: &Counters) -> io::Result<Heard> {
        let deadline = Instant::now() + limit;
        let pid = self.child.id();
        let mut answer = Looking { answer, look: || counters.look(pid), looked: false };
        let mut input = io::BufReader::with_capacity(64 << 10, Timed { stdout: &mut self.stdout, deadline });
        let mut heard = Heard::default();
        loop {
            let end = match Frame::read(&mut input, &mut answer) {
                Ok(None) => return Ok(heard),
                Ok(Some(Frame::Caged(started))) => {
                    heard.started = Some(started);
                    continue;
                }
                Ok(Some(Frame::Paths(paths))) => {
                    counters.announces(paths.len());
                    heard.paths = paths;
                    counters.look(pid);
                    continue;
                }
                Ok(Some(Frame::Work(work))) => {
                    heard.work = work;
                    continue;
                }
                Ok(Some(Frame::Answer(_))) => End::Answer,
                Ok(Some(Frame::Failed(message))) => End::Refused(WorkerError::Job(message)),
                Ok(Some(Frame::TooLarge(message))) => End::Refused(WorkerError::TooLarge(message)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    heard.late = true;
                    return Ok(heard);
                }
                // The worker died in the middle of a frame.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(heard),
                Err(error) => return Err(error),
            };
            heard.end = Some(end);
            return Ok(heard);
        }
    }
}

/// A writer that records the worker's memory when the answer starts, because it is highest then.
struct Looking<W, F> {
    answer: W,
    look: F,
    looked: bool,
}

impl<W: io::Write, F: Fn()> io::Write for Looking<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.looked, true) {
            (self.look)();
        }
        self.answer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.answer.flush()
    }
}

/// The worker's pipe, with one deadline for all reads.
struct Timed<'a> {
    stdout: &'a mut ChildStdout,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&timeout))?;
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stdout.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cage::{Cage, Landlock};
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// Creates a program that replaces a worker which an image kills; no such image is known. At its n-th start it stores its job, sends the
    /// frames of the file with that number, and dies if there is a file with the next number.
    fn mortal(dir: &std::path::Path, lives: &[Vec<Frame>]) -> Program {
        for (number, frames) in lives.iter().enumerate() {
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
            fs::write(dir.join(format!("says.{number}")), bytes).unwrap();
        }
        let script = dir.join("worker");
        let text = format!(
            "#!/bin/bash\ncd '{}'\nn=$(ls | grep -c job)\n\
             head -c 8 >length.$n\nhead -c $(od -An -t u8 length.$n | tr -d ' ') >job.$n\n\
             cat says.$n\n[ ! -e says.$((n + 1)) ] || kill -9 $$\n",
            dir.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Program::at(script)
    }

    #[test]
    fn a_path_that_kills_the_worker_is_found_and_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let paths = |names: &[&str]| Frame::Paths(names.iter().map(|name| name.as_bytes().to_vec()).collect());
        let caged = || Frame::Caged(Started { cage: Cage { landlock: Landlock::Full }, marks: true });
        let program = mortal(
            dir.path(),
            &[
                vec![caged(), paths(&["a", "b"]), paths(&["c", "d"])],
                vec![caged(), paths(&["a"]), paths(&["b"]), paths(&["c"])],
                vec![
                    caged(),
                    paths(&["a"]),
                    paths(&["b"]),
                    paths(&["c"]),
                    paths(&["d"]),
                    Frame::Answer(b"done".into()),
                ],
            ],
        );
        let job =
            |caution| Job::Layer { marks: Some(MarkNamespace::Trusted.into()), caution, manner: Manner::default() };
        let (_, answer) = program.persevere::<Vec<u8>>(&job, &[]).unwrap();
        assert_eq!(answer, b"done");
        let cautions: Vec<(bool, Vec<Vec<u8>>)> = (0..3)
            .map(|number| match postcard::from_bytes(&fs::read(dir.path().join(format!("job.{number}"))).unwrap()) {
                Ok(Job::Layer { caution, .. }) => (caution.one_by_one, caution.skip),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(cautions, [(false, vec![]), (true, vec![]), (true, vec![b"c".to_vec()])]);
    }

    #[test]
    fn a_job_is_repeated_after_eight_deaths_and_once_more_for_what_is_essential() {
        for deaths in [MAX_DEATHS, MAX_DEATHS + 1, MAX_DEATHS + 2] {
            let dir = tempfile::tempdir().unwrap();
            let caged = || Frame::Caged(Started { cage: Cage { landlock: Landlock::Full }, marks: true });
            let mut lives: Vec<Vec<Frame>> =
                (0..deaths).map(|death| vec![caged(), Frame::Paths(vec![vec![b'a' + death as u8]])]).collect();
            lives.push(vec![caged(), Frame::Answer(Vec::new())]);
            let job =
                |caution| Job::Layer { marks: Some(MarkNamespace::Trusted.into()), caution, manner: Manner::default() };
            let outcome = mortal(dir.path(), &lives).persevere::<Vec<u8>>(&job, &[]);
            assert_eq!(outcome.is_ok(), deaths <= MAX_DEATHS + 1, "{outcome:?}");
            let last = fs::read(dir.path().join(format!("job.{}", deaths.min(MAX_DEATHS + 1)))).unwrap();
            let Ok(Job::Layer { caution, .. }) = postcard::from_bytes(&last) else { panic!("{last:?}") };
            assert_eq!(
                (caution.skip.len(), caution.essentials_only),
                (deaths.min(MAX_DEATHS + 1), deaths > MAX_DEATHS)
            );
        }
    }
}

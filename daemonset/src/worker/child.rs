//! The worker's side: receive the job, enter the cage, do the job, send the result, exit.

use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc;

use overlayfs_reader::{Limits, MarkNamespace, Marks, Options};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::thread::CapabilitySet;

use super::cage::{self, Cage};
use super::job::{Frame, Job, MAX_JOB, Started};
use super::pipe::Pipe;
use super::politeness::{self, Manner, Refusal};
use super::{config, reading, selftest, survive};

/// Maximum number of handles of a job; the kernel passes at most 253 in one message.
pub(super) const MAX_HANDLES: usize = 250;

/// Entry point of a worker process: the job comes through standard input, the answer goes to standard output.
pub(crate) fn main() -> ExitCode {
    let mut pipe = Pipe::standard_output();
    // The parent reports a panic like any other death. The message must not reach the terminal, since it may quote the image.
    std::panic::set_hook(Box::new(|_| {}));
    match run(&mut pipe) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            let frame = match refusal {
                Refusal::TooLarge(message) => Frame::TooLarge(message),
                Refusal::Failed(message) => Frame::Failed(message),
            };
            // A closed pipe means that the parent is gone.
            let _ = frame.write(&mut pipe);
            ExitCode::FAILURE
        }
    }
}

fn run(pipe: &mut Pipe) -> Result<(), Refusal> {
    let (job, handles) = receive().map_err(|error| format!("reading the job: {error}"))?;
    let visible = match &job {
        Job::Layer { marks, .. } => *marks,
        Job::Stack { marks, .. } => Some(*marks),
        _ => None,
    };
    let may_see_marks = visible.is_some();
    let namespace = visible.map_or(MarkNamespace::Trusted, MarkNamespace::from);
    if let Job::Layer { manner: Manner { polite: true, .. }, .. }
    | Job::Stack { manner: Manner { polite: true, .. }, .. } = &job
    {
        politeness::stand_last();
    }
    crate::usage::warm_up();
    // Asked before Landlock closes /proc.
    let marks = if may_see_marks { Marks::detect(namespace) } else { Marks::Unreadable };
    let cage = enter(&handles, may_see_marks).map_err(|error| format!("entering the sandbox: {error}"))?;
    Frame::Caged(Started { cage, marks: marks == Marks::Readable }).write(pipe)?;
    let options = Options { namespace, marks, limits: Limits::default() };
    let answer = match job {
        Job::Layer { caution, manner, .. } => reading::layer(one(handles)?, options, &caution, &manner, pipe)?,
        Job::Stack { caution, manner, paths, .. } => reading::stack(handles, options, &caution, &manner, &paths, pipe)?,
        Job::Survive { paths } => survive::survive(handles, &paths)?,
        Job::Config { bytes, texts } => postcard::to_stdvec(&config::parse_image_config(&bytes, texts)?)?,
        Job::Selftest { outside } => selftest::try_everything(&one(handles)?, &outside, pipe)?,
    };
    Ok(Frame::Answer(answer).write(pipe)?)
}

fn one(mut handles: Vec<OwnedFd>) -> Result<OwnedFd, String> {
    match (handles.pop(), handles.is_empty()) {
        (Some(handle), true) => Ok(handle),
        _ => Err("the job requires exactly one handle".to_owned()),
    }
}

/// Receives the job and its handles from standard input.
fn receive() -> Result<(Job, Vec<OwnedFd>), String> {
    let stdin = std::io::stdin();
    let mut length = [0; 8];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_HANDLES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stdin.as_fd(), &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| error.to_string())?;
    if received.bytes != length.len() {
        return Err("no job".to_owned());
    }
    let mut handles = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            handles.extend(fds);
        }
    }
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_JOB {
        return Err(format!("{length} bytes exceed the limit"));
    }
    let mut job = vec![0; length];
    stdin.lock().read_exact(&mut job).map_err(|error| error.to_string())?;
    Ok((postcard::from_bytes(&job).map_err(|error| error.to_string())?, handles))
}

fn enter(handles: &[OwnedFd], may_see_marks: bool) -> Result<Cage, cage::CageError> {
    cage::limit()?;
    grow_file_table();
    let readable: Vec<BorrowedFd<'_>> = handles.iter().map(|handle| handle.as_fd()).collect();
    let cage = cage::enter_landlock(&readable)?;
    end_with_the_pipe();
    let marks = if may_see_marks { CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
    cage::keep_capabilities(CapabilitySet::DAC_READ_SEARCH | marks)?;
    cage::enter_worker_seccomp()?;
    Ok(cage)
}

/// Grows the process's table of open files to its maximum while there is one thread only. Later, the kernel would wait for a grace period of
/// all processors at each doubling (`expand_fdtable` in fs/file.c), which takes longer than reading an image.
fn grow_file_table() {
    let last = i32::try_from(cage::MAX_FILES).map_or(i32::MAX, |files| files - 1);
    // Where the limit was lower already, growing is late and not wrong.
    drop(rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), last));
}

/// Ends this process when the other end of standard input closes, even while a parser is busy.
///
/// `PR_SET_PDEATHSIG` would fire when the *thread* that started this process ends, not the process.
fn end_with_the_pipe() {
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let dropped = cage::keep_capabilities(CapabilitySet::empty());
        if dropped.is_err() || ready.send(()).is_err() {
            std::process::exit(1);
        }
        let mut byte = [0];
        // The parent sends nothing more, so this returns at the end of the stream.
        let _ = rustix::io::read(std::io::stdin(), &mut byte);
        std::process::exit(1);
    });
    // This thread drops its capabilities before the first byte is read.
    let _ = is_ready.recv();
}

//! `outcrop-agent selftest`: verifies on this machine that every forbidden action is stopped in every role.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use overlayfs_reader::Layer;
use serde::{Deserialize, Serialize};

use crate::role::{READER_SELFTEST, RUNTIME_SELFTEST};
use crate::scan::mount_points;
use crate::worker::{Attempt, Cage, Caged, Program, attempts, enter_reader_cage, enter_runtime_cage, hide_memory};

/// Maximum size of a child's output, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Output of a role's child.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    cage: Cage,
    attempts: Vec<Attempt>,
    /// Attempts through each given directory, or the reason why the directory could not be opened.
    through: Vec<(PathBuf, Result<Vec<Attempt>, String>)>,
}

/// Attempts every forbidden action in every role, and returns a table of role, action and what stopped it. In the roles with a container of
/// their own, also attempts the actions through every mount below `through`.
///
/// # Errors
/// The table as well, when an action was possible; or the reason why nothing could be attempted.
pub fn run(through: Option<&Path>) -> Result<String, String> {
    hide_memory().map_err(|error| error.to_string())?;
    let program = Program::this();
    let outside = vec![("another directory".to_owned(), b"/etc".to_vec())];
    let (started, worker) =
        program.selftest(directory()?.as_fd(), outside).map_err(|error| format!("worker: {error}"))?;
    let mounts = through.map(mounts_below).transpose()?.unwrap_or_default();
    let roles = [
        ("runtime", ask(&program, RUNTIME_SELFTEST, &mounts)?),
        ("reader", ask(&program, READER_SELFTEST, &mounts)?),
        ("worker", Answer { cage: started.cage, attempts: worker, through: Vec::new() }),
    ];
    let mut text = String::new();
    for (role, answer) in &roles {
        text += &format!("{role:8} {}\n", answer.cage);
    }
    text += &format!("\n{:8} {:42} STOPPED BY\n", "ROLE", "FORBIDDEN ACTION");
    let (mut acts_in_all, mut possible) = (0, 0);
    for (role, answer) in &roles {
        acts_in_all += answer.attempts.len();
        for attempt in &answer.attempts {
            possible += usize::from(attempt.stopped_by.is_none());
            let stopped_by = attempt.stopped_by.as_deref().unwrap_or("NOTHING");
            text += &format!("{role:8} {:42} {stopped_by}\n", attempt.act);
        }
    }
    let through = roles.iter().flat_map(|(role, answer)| answer.through.iter().map(move |tried| (role, tried)));
    for (number, (role, (directory, tried))) in through.enumerate() {
        if number == 0 {
            text += &format!("\n{:8} {:7} {:42} THROUGH\n", "ROLE", "ACTIONS", "STOPPED BY");
        }
        let (acts, stopped_by, not_stopped) = summary(tried);
        acts_in_all += acts;
        possible += not_stopped;
        text += &format!("{role:8} {acts:<7} {stopped_by:42} {}\n", directory.display());
    }
    if possible == 0 {
        text += &format!("\nall {acts_in_all} forbidden actions were stopped");
    }
    if possible > 0 { Err(format!("\n{text}\n{possible} forbidden actions were possible")) } else { Ok(text) }
}

/// Returns a directory and every mount below it, as this process sees them
/// ([proc(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).
fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mounts = mount_points(&mountinfo);
    let below = mounts.filter(|path| path.starts_with(directory) && path != directory && path.is_dir());
    Ok(std::iter::once(directory.to_owned()).chain(below).collect())
}

/// Returns the number of attempts, a summary of what stopped them, and the number of actions that nothing stopped.
fn summary(tried: &Result<Vec<Attempt>, String>) -> (usize, String, usize) {
    let attempts = match tried {
        Ok(attempts) => attempts,
        Err(reason) => return (0, reason.clone(), 0),
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in attempts {
        *counts.entry(attempt.stopped_by.as_deref().unwrap_or("NOTHING")).or_default() += 1;
    }
    let words: Vec<String> = counts.iter().map(|(by, count)| format!("{count} {by}")).collect();
    (attempts.len(), words.join(", "), counts.get("NOTHING").copied().unwrap_or(0))
}

/// Opens any readable directory.
fn directory() -> Result<Layer, String> {
    Layer::open(Path::new("/usr/share")).or_else(|_| Layer::open(Path::new("/"))).map_err(|error| error.to_string())
}

fn ask(program: &Program, role: &str, through: &[PathBuf]) -> Result<Answer, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{role}: {error}");
    let mut command = program.command(role);
    let mut child =
        command.args(through).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).map_err(|error| failed(&error))?;
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    postcard::from_bytes(&answer).map_err(|_| failed(&format_args!("the process ended without a result: {status}")))
}

/// Entry point of a role's child: enters its cage, attempts every action, also through the given directories, and prints the results.
pub(crate) fn child(caged: Caged, through: impl Iterator<Item = PathBuf>) -> ExitCode {
    let tried = directory().and_then(|root| {
        // Opened before the rights are given up, as an agent's handles are.
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        let open = |path: PathBuf| (File::options().read(true).custom_flags(flags).open(&path), path);
        let opened: Vec<_> = through.map(open).collect();
        let cage = match caged {
            Caged::Reader => enter_reader_cage(),
            _ => enter_runtime_cage(),
        };
        let cage = cage.map_err(|error| error.to_string())?;
        let attempts = attempts(caged, root.as_fd(), &mut |_| Ok(()))?;
        let through = opened.into_iter().map(|(opened, path)| {
            let tried = opened.map_err(|error| error.to_string());
            (path, tried.and_then(|directory| self::attempts(caged, directory.as_fd(), &mut |_| Ok(()))))
        });
        let through = through.collect();
        postcard::to_stdvec(&Answer { cage, attempts, through }).map_err(|error| error.to_string())
    });
    match tried.map(|answer| std::io::stdout().write_all(&answer)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

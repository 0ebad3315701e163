//! `outcrop-agent selftest`: are the cages as tight as promised, on this very machine?

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use overlayfs_reader::Layer;
use serde::{Deserialize, Serialize};

use crate::role::{READER_SELFTEST, RUNTIME_SELFTEST};
use crate::worker::{Attempt, Cage, Caged, Program, attempts, enter_reader_cage, enter_runtime_cage, hide_memory};

/// Most bytes of what a child says.
const MAX_ANSWER: u64 = 1 << 20;

/// What a role's child says.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    cage: Cage,
    attempts: Vec<Attempt>,
}

/// Tries every forbidden act in every role: a table of role, act and what stopped it.
///
/// # Errors
/// The table as well, when an act was possible; or why nothing could be tried.
pub fn run() -> Result<String, String> {
    hide_memory().map_err(|error| error.to_string())?;
    let program = Program::this();
    let outside = vec![("another directory".to_owned(), b"/etc".to_vec())];
    let (started, worker) =
        program.selftest(directory()?.as_fd(), outside).map_err(|error| format!("worker: {error}"))?;
    let roles = [
        ("runtime", ask(&program, RUNTIME_SELFTEST)?),
        ("reader", ask(&program, READER_SELFTEST)?),
        ("worker", Answer { cage: started.cage, attempts: worker }),
    ];
    let mut text = String::new();
    for (role, answer) in &roles {
        text += &format!("{role:8} {}\n", answer.cage);
    }
    text += &format!("\n{:8} {:42} STOPPED BY\n", "ROLE", "FORBIDDEN ACT");
    let mut possible = 0;
    for (role, answer) in &roles {
        for attempt in &answer.attempts {
            possible += usize::from(attempt.stopped_by.is_none());
            let stopped_by = attempt.stopped_by.as_deref().unwrap_or("NOTHING");
            text += &format!("{role:8} {:42} {stopped_by}\n", attempt.act);
        }
    }
    if possible > 0 { Err(format!("\n{text}\n{possible} forbidden acts were possible")) } else { Ok(text) }
}

/// Any directory does.
fn directory() -> Result<Layer, String> {
    Layer::open(Path::new("/usr/share")).or_else(|_| Layer::open(Path::new("/"))).map_err(|error| error.to_string())
}

fn ask(program: &Program, role: &str) -> Result<Answer, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{role}: {error}");
    let mut child =
        program.command(role).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).map_err(|error| failed(&error))?;
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    postcard::from_bytes(&answer).map_err(|_| failed(&format_args!("it said nothing and ended: {status}")))
}

/// The child of a role: enters its cage, tries everything, and says what came of it.
pub(crate) fn child(caged: Caged) -> ExitCode {
    let tried = directory().and_then(|root| {
        let cage = match caged {
            Caged::Reader => enter_reader_cage(),
            _ => enter_runtime_cage(),
        };
        let cage = cage.map_err(|error| error.to_string())?;
        let attempts = attempts(caged, root.as_fd(), &mut |_| Ok(()))?;
        postcard::to_stdvec(&Answer { cage, attempts }).map_err(|error| error.to_string())
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

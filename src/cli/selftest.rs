//! `outcrop selftest`: tries every forbidden action in a worker's sandbox on this machine.

use std::os::fd::AsFd as _;
use std::path::Path;

use outcrop_agent::worker::Program;
use overlayfs_reader::Layer;

use super::table::table;
use super::{Exit, Fatal, print};

pub(super) fn run() -> Result<Exit, Fatal> {
    // The worker may read this directory and nothing else; which directory does not matter.
    let root = Layer::open(Path::new("/usr/share")).or_else(|_| Layer::open(Path::new("/")));
    let root = root.map_err(|error| Fatal::failed(error.to_string()))?;
    let outside = vec![("another directory".to_owned(), b"/etc".to_vec())];
    let (started, attempts) =
        Program::this().selftest(root.as_fd(), outside).map_err(|error| Fatal::failed(error.to_string()))?;
    let allowed = attempts.iter().filter(|attempt| attempt.stopped_by.is_none()).count();
    let rows: Vec<Vec<String>> = attempts
        .into_iter()
        .map(|attempt| vec![attempt.act, attempt.stopped_by.unwrap_or_else(|| "NOTHING".to_owned())])
        .collect();
    let total = match allowed {
        0 => format!("\nall {} forbidden actions were stopped\n", rows.len()),
        _ => String::new(),
    };
    print(&format!("sandbox: {}\n\n{}{total}", started.cage, table(&["FORBIDDEN ACTION", "STOPPED BY"], &rows)))?;
    if allowed > 0 {
        return Err(Fatal::failed(format!(
            "{allowed} forbidden actions were possible: the sandbox of this kernel is \"{}\"; see docs/troubleshooting.md",
            started.cage
        )));
    }
    Ok(Exit::Done)
}

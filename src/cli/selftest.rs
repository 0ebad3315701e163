//! `outcrop selftest`: is the cage as tight as promised, on this very machine?

use std::os::fd::AsFd as _;
use std::path::Path;

use outcrop_agent::worker::Program;
use overlayfs_reader::Layer;

use super::table::table;
use super::{Exit, Fatal, print};

pub(super) fn run() -> Result<Exit, Fatal> {
    // Any directory does: the worker may read what lies in it and nothing else.
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
    print(&format!("cage: {}\n\n{}", started.cage, table(&["FORBIDDEN ACT", "STOPPED BY"], &rows)))?;
    if allowed > 0 {
        return Err(Fatal::failed(format!(
            "{allowed} forbidden acts were possible; this kernel's cage is \"{}\"",
            started.cage
        )));
    }
    Ok(Exit::Done)
}

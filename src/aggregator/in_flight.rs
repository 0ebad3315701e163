//! Remembers across the end of the process which inventories it was working on.
//!
//! A budget bounds decoding and merging. Should it fail, the process would end, and end again after every restart, because nodes deliver
//! inventories again and unmerged stacks are merged again. Therefore each piece of this work is a file in the data directory for as long as
//! it runs. Work that an earlier process has left there is suspect: it is tried in a [process of its own](super::trial) first, and set aside if that
//! one ends. The files are not synced, since they have to survive the process and not the machine.

use std::collections::HashSet;
use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use outcrop_proto::{Digest, LayerId};
use tracing::{debug, warn};

use crate::lock::lock;

/// Maximum number of suspects. One end of a process leaves as many as it has jobs, which are few.
const MAX_SUSPECTS: usize = 64;

/// The beginning of the reason why an inventory or a stack was set aside.
pub(super) const SET_ASIDE: &str = "set aside because the aggregator ended while processing it";

/// A piece of work on inventories, by the name of its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Work(String);

impl Work {
    /// The decoding of a layer's inventory.
    pub(super) fn layer(layer: &LayerId) -> Self {
        Self(format!("layer {layer}"))
    }

    /// The merge of a stack.
    pub(super) fn stack(stack: &Digest) -> Self {
        Self(format!("stack {stack}"))
    }
}

/// The work that is under way, and what was when an earlier process ended.
#[derive(Debug)]
pub(super) struct InFlight {
    directory: PathBuf,
    suspects: Mutex<HashSet<Work>>,
}

impl InFlight {
    /// Opens the directory with the files of an earlier process.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let mut suspects = HashSet::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if suspects.len() < MAX_SUSPECTS => _ = suspects.insert(Work(name)),
                _ => fs::remove_file(entry.path())?,
            }
        }
        if !suspects.is_empty() {
            let work: Vec<&str> = suspects.iter().map(|work| &*work.0).collect();
            warn!(?work, "previous process ended during work; retried in a separate process");
        }
        Ok(Self { directory: directory.to_owned(), suspects: Mutex::new(suspects) })
    }

    /// Returns whether an earlier process ended during this work.
    pub(super) fn is_suspect(&self, work: &Work) -> bool {
        lock(&self.suspects).contains(work)
    }

    /// Returns whether there are suspects.
    pub(super) fn has_suspects(&self) -> bool {
        !lock(&self.suspects).is_empty()
    }

    /// Clears work of suspicion, because another process has done it and lives.
    pub(super) fn acquit(&self, work: &Work) {
        lock(&self.suspects).remove(work);
    }

    /// Records that work begins. It ends when the returned value is dropped.
    pub(super) fn begin(&self, work: &Work) -> Mark {
        let mark = Mark(self.directory.join(&work.0));
        // A full volume must not keep work from being done.
        if let Err(error) = fs::write(&mark.0, "") {
            debug!(work = work.0, %error, "work not recorded");
        }
        mark
    }
}

/// The record of work that is under way.
#[derive(Debug)]
#[must_use]
pub(super) struct Mark(PathBuf);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_suspect_after_the_end_of_a_process_that_had_not_done_it() {
        let dir = tempfile::tempdir().unwrap();
        let [done, left, other] = ["done", "left", "other"].map(|name| Work::stack(&Digest::of(name.as_bytes())));
        let first = InFlight::open(dir.path()).unwrap();
        drop(first.begin(&done));
        // The process is killed: nothing is dropped.
        std::mem::forget(first.begin(&left));
        assert!(!first.has_suspects(), "what this process does itself is not suspect");

        let second = InFlight::open(dir.path()).unwrap();
        assert_eq!([&done, &left, &other].map(|work| second.is_suspect(work)), [false, true, false]);
        // A suspect stays one over any number of restarts, until it is acquitted and done.
        let third = InFlight::open(dir.path()).unwrap();
        assert!(third.is_suspect(&left));
        third.acquit(&left);
        drop(third.begin(&left));
        assert!(!third.has_suspects() && !InFlight::open(dir.path()).unwrap().has_suspects());
    }

    #[test]
    fn suspects_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MAX_SUSPECTS + 10 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(lock(&InFlight::open(dir.path()).unwrap().suspects).len(), MAX_SUSPECTS);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_SUSPECTS);
    }
}

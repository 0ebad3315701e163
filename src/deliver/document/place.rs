//! A place for files.

use crate::deliver::client::{Answer, Client, SendError};

/// Why a file was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The place answered, and refused.
    #[error("{}", .0.status)]
    Refused(Answer),
    /// It gave no answer that counts: the same is tried again.
    #[error(transparent)]
    Failed(#[from] SendError),
}

/// A place that keeps files under paths of this module. Its methods block.
pub trait Place: std::fmt::Debug + Send + Sync {
    /// Returns for how many days reports are kept; 0 for none.
    fn report_days(&self) -> u16;

    /// Writes a file, or replaces it as a whole: a reader sees the old content or the new one.
    ///
    /// # Errors
    /// When the place does not have the new content for sure.
    fn put(&self, client: &Client, path: &str, content: &[u8]) -> Result<(), PlaceError>;

    /// Removes a file. One that is not there is removed already.
    ///
    /// # Errors
    /// When the file may still be there.
    fn remove(&self, client: &Client, path: &str) -> Result<(), PlaceError>;
}

/// Returns the media type of a file.
pub(in crate::deliver) fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        _ if path.ends_with(".cdx.json") => "application/vnd.cyclonedx+json",
        Some((_, "json")) => "application/json",
        Some((_, "jsonl")) => "application/x-ndjson",
        Some((_, "gz")) => "application/gzip",
        _ => "text/plain",
    }
}

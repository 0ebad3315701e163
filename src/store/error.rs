//! Errors of the store, in terms that do not depend on the database behind it.

use std::borrow::Cow;

/// Failure of a store operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {cause}{}", suffix(.hint.as_deref()))]
pub struct StoreError {
    /// The operation, as in `storing a layer`.
    pub doing: &'static str,
    /// The class of the failure, which decides what the caller does.
    pub kind: ErrorKind,
    /// The cause.
    pub cause: String,
    /// A command or an action that helps.
    pub hint: Option<Cow<'static, str>>,
}

/// Classes of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The volume is full. Nothing was stored. Writes resume after a successful [probe](super::Upkeep::probe).
    Full,
    /// The volume or the database fails, or another process blocks it. Nothing was stored. Writes resume after a successful probe.
    Failing,
    /// The store does not accept writes since an earlier failure. Nothing was tried.
    Paused,
    /// The write contradicts what is stored, for example it names a row that was removed. Trying again with fresh ids helps.
    Rejected,
    /// A stored row has a value that Outcrop never writes.
    Damaged,
    /// The store belongs to another cluster.
    OtherCluster,
    /// Another process has the store open.
    InUse,
    /// The file is not a store, or a store of another version.
    Version,
    /// A file that must not be overwritten exists.
    Exists,
}

impl ErrorKind {
    /// Returns whether the same call succeeds later, when the store accepts writes again.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Full | Self::Failing | Self::Paused | Self::Rejected)
    }
}

impl StoreError {
    /// Creates an error without a hint.
    pub fn new(doing: &'static str, kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { doing, kind, cause: cause.into(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

fn suffix(hint: Option<&str>) -> String {
    hint.map(|hint| format!("; {hint}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_doing_cause_hint() {
        let error = StoreError::new("storing a layer", ErrorKind::Full, "the volume is full");
        assert_eq!(error.to_string(), "storing a layer: the volume is full");
        let error = error.with_hint("free some space");
        assert_eq!(error.to_string(), "storing a layer: the volume is full; free some space");
    }
}

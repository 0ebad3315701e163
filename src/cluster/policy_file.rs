//! The file of the selection policy, reloaded when it changes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::policy::{Policy, PolicyError};
use crate::lock::lock;
use crate::stamp::WatchedFile;

/// A policy file. If its new version is invalid, the policy of the last valid version stays in use, and [`PolicyFile::problems`] returns the reason.
#[derive(Debug)]
pub struct PolicyFile {
    policy: ArcSwap<Policy>,
    state: Mutex<FileState>,
}

/// The state of the file when it was last read.
#[derive(Debug)]
struct FileState {
    file: WatchedFile,
    /// Why this version is not in use, if it is not.
    error: Option<String>,
}

impl PolicyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When the file cannot be read, is not Rego v0, or lacks the rule.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        let (file, policy) = WatchedFile::open(path, Policy::read)?;
        info!(path = %path.display(), "policy loaded");
        Ok(Self { policy: ArcSwap::from_pointee(policy), state: Mutex::new(FileState { file, error: None }) })
    }

    /// Returns the policy of the last valid version.
    pub(super) fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Reloads the file if it changed, and returns whether another policy is in use now. A changed file is read,
    /// parsed and evaluated once, so the caller must not hold a lock.
    pub(super) fn refresh(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(read) = state.file.reload(Policy::read) else { return false };
        let path = state.file.path().display().to_string();
        match read {
            Ok(policy) => {
                info!(path, "policy reloaded");
                state.error = None;
                self.policy.store(Arc::new(policy));
                true
            }
            Err(error) => {
                warn!(path, %error, "policy not reloaded");
                state.error = Some(format!("{error}; the policy of the last valid version stays in use"));
                false
            }
        }
    }

    /// Returns the current problems, each with a key: the file that was not reloaded, and the last evaluation that failed.
    pub fn problems(&self) -> impl Iterator<Item = (String, String)> {
        let file = lock(&self.state).error.clone().map(|error| ("file".to_owned(), error));
        let evaluation = self.policy.load().problem().map(|error| ("evaluation".to_owned(), error));
        file.into_iter().chain(evaluation)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const VALID: &str = "package snyk\nworkload_events { true }\n";

    /// Puts a file in the place of another, as a mounted ConfigMap does: its size may be the same.
    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn messages(file: &PolicyFile) -> Vec<String> {
        file.problems().map(|(key, message)| format!("{key}: {message}")).collect()
    }

    #[test]
    fn a_broken_file_leaves_the_policy_in_use_until_the_file_is_valid_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workload-events.rego");
        replace(&path, VALID);
        let file = PolicyFile::open(&path).unwrap();
        let first = file.policy();
        assert!(!file.refresh() && messages(&file).is_empty(), "nothing changed");
        let large = format!("{VALID}#{}", "x".repeat(1 << 20));
        for (text, reason) in [
            ("package snyk\nworkload_events {", "not a Rego v0 policy"),
            ("package other\nworkload_events { true }\n", "no rule workload_events"),
            ("", "not a Rego v0 policy"),
            (&large, "larger than the limit"),
        ] {
            replace(&path, text);
            assert!(!file.refresh(), "{reason}");
            assert!(Arc::ptr_eq(&first, &file.policy()), "{reason}");
            let [message] = &messages(&file)[..] else { panic!("{:?}", messages(&file)) };
            assert!(message.starts_with("file: ") && message.contains(reason), "{message}");
            assert!(message.ends_with("the policy of the last valid version stays in use"), "{message}");
            // The file is not read again until it changes.
            assert!(!file.refresh() && messages(&file).len() == 1);
        }
        fs::remove_file(&path).unwrap();
        assert!(!file.refresh() && Arc::ptr_eq(&first, &file.policy()));
        assert!(messages(&file)[0].contains("No such file"), "{:?}", messages(&file));
        replace(&path, VALID);
        assert!(file.refresh() && !Arc::ptr_eq(&first, &file.policy()));
        assert_eq!(messages(&file), Vec::<String>::new());
    }
}

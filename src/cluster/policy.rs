//! Policy files in the format of Snyk's controller: Rego v0, package `snyk`, rule `workload_events`, with the workload's metadata as `input`, and, beyond what
//! that controller has, the labels and annotations of its namespace.
//!
//! ```rego
//! package snyk
//! default workload_events = false
//! workload_events {
//!     input.metadata.namespace == "shop"
//!     input.kind != "Job"
//!     input.namespace.labels.tier == "production"
//! }
//! ```

use std::fs::File;
use std::io::{Error as IoError, Read as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use super::Workload;
use super::objects::Marks;
use crate::lock::lock;

/// The rule that is evaluated.
const RULE: &str = "data.snyk.workload_events";

/// Largest size of a policy file, in bytes.
const MAX_POLICY: u64 = 1 << 20;

/// How long the evaluation for one workload may take. If it takes longer, the workload is not excluded, and a problem is raised.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why a policy cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("reading the policy {path}: {source}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// The file is not Rego v0.
    #[error("reading the policy {path}: not a Rego v0 policy: {reason}")]
    Syntax {
        /// Which file.
        path: String,
        /// The message of the evaluator.
        reason: String,
    },
    /// The policy lacks the rule.
    #[error("reading the policy {path}: package snyk has no rule workload_events")]
    Rule {
        /// Which file.
        path: String,
    },
}

/// A policy, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Policy {
    engine: Mutex<Engine>,
    /// The last workload for which the evaluation failed, and the error.
    problem: Mutex<Option<(Workload, String)>>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// When it cannot be read, is not Rego v0, or lacks the rule.
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let file = |source| PolicyError::File { path: path.to_owned(), source };
        // Opening a pipe would block.
        if !std::fs::metadata(path).map_err(file)?.is_file() {
            return Err(file(IoError::other("it is not a regular file")));
        }
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(MAX_POLICY + 1).read_to_string(&mut text)).map_err(file)?;
        if text.len() as u64 > MAX_POLICY {
            return Err(file(IoError::other(format!("the file is larger than the limit of {MAX_POLICY} bytes"))));
        }
        Self::parse(&path.display().to_string(), &text)
    }

    /// Parses a policy. Errors refer to it as `name`.
    ///
    /// # Errors
    /// When it is not Rego v0, or lacks the rule.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        let mut engine = Engine::new();
        engine.set_rego_v0(true);
        let syntax = |reason: String| PolicyError::Syntax { path: name.to_owned(), reason };
        engine.add_policy(name.to_owned(), text.to_owned()).map_err(|error| syntax(format!("{error:#}")))?;
        if let Some(check_interval) = NonZeroU32::new(64) {
            engine.set_execution_timer_config(ExecutionTimerConfig { limit: PATIENCE, check_interval });
        }
        let policy = Self { engine: Mutex::new(engine), problem: Mutex::default() };
        let [namespace, group, kind, name_of, uid] = ["", "", "Pod", "", ""].map(ToOwned::to_owned);
        let nobody = Workload { namespace, group, kind, name: name_of, uid };
        match policy.ask(&nobody, &Marks::default(), &Marks::default()) {
            // A rule that is not there is said in so many words.
            Err(error) if error.contains("not a valid rule path") => Err(PolicyError::Rule { path: name.to_owned() }),
            Err(error) => Err(syntax(error)),
            Ok(_) => Ok(policy),
        }
    }

    /// Returns whether the policy selects a workload; `None` if the evaluation failed. May take 200 ms: the caller must not hold a lock.
    pub(super) fn selects(&self, workload: &Workload, marks: &Marks, namespace: &Marks) -> Option<bool> {
        match self.ask(workload, marks, namespace) {
            Ok(value) => {
                lock(&self.problem).take_if(|(of, _)| of == workload);
                Some(value == Value::Bool(true))
            }
            Err(error) => {
                *lock(&self.problem) = Some((workload.clone(), error));
                None
            }
        }
    }

    /// Returns the last error of the evaluation, if it has not succeeded for that workload since.
    pub(super) fn problem(&self) -> Option<String> {
        let problem = lock(&self.problem);
        let words = |(of, error): &(Workload, String)| {
            format!("evaluating the policy for {} {}/{}: {error}", of.kind, of.namespace, of.name)
        };
        problem.as_ref().map(words)
    }

    /// Keeps the policy from being evaluated for as long as the guard lives.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    fn ask(&self, workload: &Workload, marks: &Marks, namespace: &Marks) -> Result<Value, String> {
        let input = serde_json::json!({
            "kind": workload.kind,
            "metadata": {
                "name": workload.name,
                "namespace": workload.namespace,
                "labels": marks.labels,
                "annotations": marks.annotations,
            },
            "namespace": { "labels": namespace.labels, "annotations": namespace.annotations },
        });
        let mut engine = lock(&self.engine);
        engine.set_input_json(&input.to_string()).map_err(|error| format!("{error:#}"))?;
        engine.eval_rule(RULE.to_owned()).map_err(|error| format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(policy: &Policy, namespace: &str, kind: &str, annotations: &[(&str, &str)]) -> Option<bool> {
        let [group, name, uid] = ["apps", "web", "1"].map(ToOwned::to_owned);
        let workload = Workload { namespace: namespace.to_owned(), group, kind: kind.to_owned(), name, uid };
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        policy.selects(&workload, &Marks { annotations, ..Marks::default() }, &Marks::default())
    }

    #[test]
    fn a_policy_file_of_snyks_controller_works_as_it_is() {
        // The shape of the chart's default, and of the manual's advanced use.
        let by_kind = "package snyk\norgs := [\"19982df2\"]\ndefault workload_events = false\n\
                       workload_events {\n  input.kind != \"Job\"\n  input.kind != \"Pod\"\n}\n";
        let policy = Policy::parse("workload-events.rego", by_kind).unwrap();
        for (kind, expected) in [("Deployment", true), ("Job", false), ("Pod", false)] {
            assert_eq!(selects(&policy, "shop", kind, &[]), Some(expected), "{kind}");
        }
        let by_annotation = "package snyk\ndefault workload_events = false\n\
                             workload_events {\n  input.metadata.namespace == \"shop\"\n}\n\
                             workload_events {\n  input.metadata.annotations[\"scan\"] == \"yes\"\n}\n";
        let policy = Policy::parse("workload-events.rego", by_annotation).unwrap();
        for (namespace, annotations, expected) in
            [("shop", vec![], true), ("bank", vec![], false), ("bank", vec![("scan", "yes")], true)]
        {
            assert_eq!(selects(&policy, namespace, "Pod", &annotations), Some(expected), "{namespace}");
        }
        // Without a default it is undefined where no rule holds, which is no.
        let bare =
            Policy::parse("p", "package snyk\nworkload_events { startswith(input.metadata.name, \"api\") }").unwrap();
        assert_eq!(selects(&bare, "shop", "Pod", &[]), Some(false));
        assert_eq!(bare.problem(), None);
    }

    #[test]
    fn a_file_that_is_no_such_policy_is_said() {
        for (text, says) in [
            ("package snyk\nworkload_events {", "Rego v0"),
            ("package snyk\nimport rego.v1\nallow if true", "workload_events"),
            ("package other\nworkload_events { true }", "package snyk has no rule workload_events"),
            ("", "Rego v0"),
        ] {
            let error = Policy::parse("workload-events.rego", text).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("workload-events.rego"), "{text}: {error}");
        }
        assert!(Policy::read(Path::new("/nonexistent.rego")).unwrap_err().to_string().contains("/nonexistent.rego"));
    }

    #[test]
    fn a_policy_that_does_not_come_to_an_end_hides_nothing_and_is_told_of() {
        let slow = "package snyk\nworkload_events {\n  input.kind == \"Slow\"\n  a := numbers.range(1, 3000)\n  \
                    count([1 | a[_] + a[_] + a[_] == -1]) > 0\n}\n";
        let policy = Policy::parse("slow.rego", slow).unwrap();
        assert_eq!(selects(&policy, "shop", "Slow", &[]), None);
        assert!(policy.problem().unwrap().contains("Slow shop/web"));
        assert_eq!(selects(&policy, "shop", "Pod", &[]), Some(false));
    }
}

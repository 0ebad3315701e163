//! Checks behind `/livez` and `/readyz`, answered in the manner of the
//! [Kubernetes API server](https://kubernetes.io/docs/reference/using-api/health-checks/).

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use tracing::{info, warn};

use crate::lock::lock;

/// A check: `Err` carries why it failed.
type Function = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The probes that a check is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/livez` and `/readyz`: if it fails, only a restart helps.
    Live,
    /// `/readyz`: if it fails, the process recovers by itself.
    Ready,
}

struct Check {
    name: &'static str,
    probe: Probe,
    function: Function,
}

/// The checks of a process. Clones share one list.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<Check>>>,
    /// Checks that failed the last time, so that only changes are logged.
    failed: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.checks).iter().map(|check| check.name)).finish()
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) passed: bool,
}

impl Health {
    /// Adds a check. It must return immediately, from memory: probes need no token and can be requested at any rate.
    pub fn register(
        &self,
        name: &'static str,
        probe: Probe,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        lock(&self.checks).push(Check { name, probe, function: Arc::new(check) });
    }

    /// Removes a check.
    pub fn remove(&self, name: &str) {
        lock(&self.checks).retain(|check| check.name != name);
    }

    /// Runs the checks of a probe, in the order in which they were registered. Reasons are logged and not returned: probes need no token.
    pub(super) fn run(&self, probe: Probe) -> Vec<Outcome> {
        let checks: Vec<(&'static str, Function)> = lock(&self.checks)
            .iter()
            .filter(|check| probe == Probe::Ready || check.probe == Probe::Live)
            .map(|check| (check.name, Arc::clone(&check.function)))
            .collect();
        // A check may take a lock of its own: the list is not locked meanwhile.
        checks.into_iter().map(|(name, function)| self.note(name, function())).collect()
    }

    /// Logs a check whose outcome has changed.
    pub(super) fn note(&self, name: &'static str, result: Result<(), String>) -> Outcome {
        let passed = result.is_ok();
        let has_changed = match passed {
            true => lock(&self.failed).remove(name),
            false => lock(&self.failed).insert(name),
        };
        if has_changed {
            match result {
                Ok(()) => info!(check = name, "health check passed"),
                Err(reason) => warn!(check = name, reason, "health check failed"),
            }
        }
        Outcome { name, passed }
    }
}

/// Returns the text of a probe: `ok`, or which checks failed; every check where `verbose`.
pub(super) fn text(probe: &str, outcomes: &[Outcome], verbose: bool) -> String {
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    if passed && !verbose {
        return "ok\n".to_owned();
    }
    let mut text = String::new();
    for Outcome { name, passed } in outcomes {
        // Writing to a string does not fail.
        let _ = match passed {
            true => writeln!(text, "[+]{name} ok"),
            false => writeln!(text, "[-]{name} failed: reason withheld, see the log"),
        };
    }
    let _ = writeln!(text, "{probe} check {}", if passed { "passed" } else { "failed" });
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_probe_names_the_checks_that_failed_and_keeps_their_reasons_to_the_log() {
        let health = Health::default();
        let full = Arc::new(AtomicBool::new(false));
        health.register("tasks", Probe::Live, || Ok(()));
        let is_full = Arc::clone(&full);
        health.register("store", Probe::Ready, move || match is_full.load(Ordering::Relaxed) {
            true => Err("/var/lib/outcrop is full".to_owned()),
            false => Ok(()),
        });
        let text = |probe, verbose| {
            let name = if probe == Probe::Live { "livez" } else { "readyz" };
            text(name, &health.run(probe), verbose)
        };
        assert_eq!(text(Probe::Ready, false), "ok\n");
        assert_eq!(text(Probe::Ready, true), "[+]tasks ok\n[+]store ok\nreadyz check passed\n");
        full.store(true, Ordering::Relaxed);
        let failed = "[+]tasks ok\n[-]store failed: reason withheld, see the log\nreadyz check failed\n";
        assert_eq!(text(Probe::Ready, false), failed);
        assert_eq!(text(Probe::Live, true), "[+]tasks ok\nlivez check passed\n", "a full store needs no restart");
    }
}

//! `outcrop-agent doctor`: checks the environment of an agent and reports problems with hints.
//!
//! The checks only read; pure functions evaluate the results. Tokens are never printed.

mod node;
mod uplink;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::agent::Aggregator;
pub use uplink::{judge_clock, skew};

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No problem.
    Ok,
    /// It works with a restriction, or will stop working.
    Warn,
    /// It does not work.
    Fail,
    /// The check was not possible, or does not apply here.
    Skipped,
}

impl Outcome {
    /// Returns the word for the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
        }
    }
}

/// A check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name of the check.
    pub check: String,
    /// Result.
    pub result: Outcome,
    /// Finding, in one line, without secrets.
    pub found: String,
    /// Hint; empty if nothing needs to be done.
    #[serde(rename = "do")]
    pub todo: String,
}

impl Check {
    /// Returns a check without a problem.
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Ok, found, "")
    }

    /// Returns a check with a restriction.
    pub fn warn(check: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Outcome::Warn, found, todo)
    }

    /// Returns a failed check.
    pub fn fail(check: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Outcome::Fail, found, todo)
    }

    /// Returns a check that was skipped, with the reason.
    pub fn skipped(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Skipped, found, "")
    }

    fn new(check: &str, result: Outcome, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check: check.to_owned(), result, found: found.into(), todo: todo.into() }
    }
}

/// Environment of this process, which decides what must be present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A machine, outside of a pod.
    Machine,
    /// The container `runtime` of an agent's pod.
    Runtime,
    /// The container `reader` of an agent's pod.
    Reader,
}

/// Locations to check.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// containerd's socket; default: the one of the agent in this container, then the common locations.
    pub containerd: Option<PathBuf>,
    /// Directory where the host's root is mounted; default: `/host` in an agent's pod, otherwise `/`.
    pub host: Option<PathBuf>,
    /// URL of the aggregator.
    pub aggregator: Option<String>,
    /// CA certificate of the aggregator, PEM.
    pub ca: Option<PathBuf>,
    /// File with this node's token.
    pub token: Option<PathBuf>,
}

/// Directory that both containers of an agent's pod share.
const JOINED: &str = "/run/outcrop";

/// Directory below which the chart mounts parts of the host.
const HOST: &str = "/host";

impl Subject {
    fn standing(&self) -> Standing {
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(JOINED).is_dir();
        match (in_pod, Path::new(HOST).is_dir()) {
            (true, true) => Standing::Reader,
            (true, false) => Standing::Runtime,
            (false, _) => Standing::Machine,
        }
    }
}

/// Returns the value of a flag in a command line from `/proc/PID/cmdline`.
fn value_of(flag: &str, command: &[u8]) -> Option<PathBuf> {
    let mut words = command.split(|byte| *byte == 0);
    words.find_map(|word| {
        let rest = word.strip_prefix(flag.as_bytes())?;
        rest.strip_prefix(b"=").map(|value| PathBuf::from(OsStr::from_bytes(value)))
    })
}

/// Runs all checks that apply to this environment.
pub fn examine(subject: &Subject) -> Vec<Check> {
    let standing = subject.standing();
    // In a container of the pod, the agent is process 1, and its flags contain the locations.
    let agent = match standing {
        Standing::Machine => Vec::new(),
        _ => std::fs::read("/proc/1/cmdline").unwrap_or_default(),
    };
    let usual = if standing == Standing::Reader { HOST } else { "/" };
    let host = subject.host.clone().or_else(|| value_of("--host", &agent)).unwrap_or_else(|| PathBuf::from(usual));
    let containerd = subject.containerd.clone().or_else(|| value_of("--containerd", &agent));
    let mut checks = vec![node::kernel()];
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            checks.push(Check::fail("this process", format!("starting the async runtime: {error}"), ""));
            return checks;
        }
    };
    let (socket, roots) = runtime.block_on(node::socket(standing, containerd.as_deref()));
    checks.push(socket);
    checks.extend(node::storage(standing, &host, &roots));
    checks.push(node::capabilities(standing));
    checks.extend(node::cage(standing));
    checks.push(node::processes(standing));
    match (&subject.aggregator, &subject.token) {
        (Some(address), Some(token)) => {
            let aggregator = Aggregator { address: address.clone(), ca: subject.ca.clone(), token: token.clone() };
            checks.extend(runtime.block_on(uplink::examine(&aggregator)));
        }
        _ => {
            let found = match standing {
                Standing::Runtime => "the container named reader connects to it",
                _ => {
                    "no address given; outcrop-agent doctor with --aggregator, --ca and --token-file checks an agent's connection"
                }
            };
            checks.push(Check::skipped("aggregator", found));
        }
    }
    checks
}

/// Returns the number of failed checks.
pub fn failed(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.result == Outcome::Fail).count()
}

/// Formats the checks as a table.
pub fn table(checks: &[Check]) -> String {
    let plain = |text: &str| text.replace(char::is_control, " ");
    let width = |of: fn(&Check) -> &str, head: &str| {
        let cells = checks.iter().map(|check| plain(of(check)).chars().count());
        cells.chain([head.len()]).max().unwrap_or(0).min(80)
    };
    let (check, found) = (width(|check| &check.check, "CHECK"), width(|check| &check.found, "FOUND"));
    let line = |cells: [&str; 4]| {
        let [one, two, three, four] = cells.map(plain);
        format!("{one:check$}   {two:7}   {three:found$}   {four}").trim_end().to_owned() + "\n"
    };
    let rows = checks.iter().map(|check| line([&check.check, check.result.as_str(), &check.found, &check.todo]));
    line(["CHECK", "RESULT", "FOUND", "HINT"]) + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_was_told_is_in_its_command_line() {
        let command = b"/usr/bin/outcrop-agent\0runtime\0--containerd=/data/c.sock\0--containerdx=/no\0";
        assert_eq!(value_of("--containerd", command), Some("/data/c.sock".into()));
        assert_eq!(value_of("--host", command), None);
        assert_eq!(value_of("--host", b""), None);
    }

    #[test]
    fn a_table_has_a_line_a_check_whatever_was_found() {
        let checks = [Check::ok("one", "fine"), Check::fail("another", "bad\n\u{1b}[2J", "fix it")];
        let text = table(&checks);
        assert_eq!(
            text,
            "CHECK     RESULT    FOUND      HINT\none       ok        fine\nanother   FAIL      bad  [2J   fix it\n"
        );
        assert_eq!(failed(&checks), 1);
        let json = serde_json::to_string(&checks[1]).unwrap();
        assert!(json.contains(r#""result":"fail""#) && json.contains(r#""do":"fix it""#), "{json}");
    }
}

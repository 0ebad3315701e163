//! `outcrop-agent doctor`: what is wrong with an agent's surroundings, and what to do about it.
//!
//! Facts are gathered by looking, and judged by pure functions. Nothing is changed, and no token is ever printed.

mod node;
mod uplink;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::agent::Aggregator;
pub use uplink::{judge_clock, skew};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and something is missing or will be.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at, or is not to be here.
    Skipped,
}

impl Outcome {
    /// The word that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
        }
    }
}

/// A check, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub result: Outcome,
    /// What was found: a line, without a secret.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    #[serde(rename = "do")]
    pub todo: String,
}

impl Check {
    /// Everything is as it should be.
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Ok, found, "")
    }

    /// It works, but.
    pub fn warn(check: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Outcome::Warn, found, todo)
    }

    /// It does not work.
    pub fn fail(check: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Outcome::Fail, found, todo)
    }

    /// It was not looked at, for this reason.
    pub fn skipped(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Skipped, found, "")
    }

    fn new(check: &str, result: Outcome, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check: check.to_owned(), result, found: found.into(), todo: todo.into() }
    }
}

/// Where this process stands: what has to be here depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A machine, with everything at its own place.
    Machine,
    /// The container of an agent's pod that holds the socket.
    Runtime,
    /// The container of an agent's pod that reads.
    Reader,
}

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// containerd's socket; without it where the agent of this container was told, else the usual places.
    pub containerd: Option<PathBuf>,
    /// Where the host's root is seen; without it `/host` in an agent's pod, else `/`.
    pub host: Option<PathBuf>,
    /// The aggregator's address, as the agent is told it.
    pub aggregator: Option<String>,
    /// The authority of its certificate, PEM.
    pub ca: Option<PathBuf>,
    /// The file with this node's token.
    pub token: Option<PathBuf>,
}

/// The directory that both containers of an agent's pod have between them.
const JOINED: &str = "/run/outcrop";

/// Where the chart mounts parts of the host.
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

/// The value of a flag in a command line as `/proc/PID/cmdline` has it.
fn value_of(flag: &str, command: &[u8]) -> Option<PathBuf> {
    let mut words = command.split(|byte| *byte == 0);
    words.find_map(|word| {
        let rest = word.strip_prefix(flag.as_bytes())?;
        rest.strip_prefix(b"=").map(|value| PathBuf::from(OsStr::from_bytes(value)))
    })
}

/// Looks at everything that can be seen from here.
pub fn examine(subject: &Subject) -> Vec<Check> {
    let standing = subject.standing();
    // In a container of the pod the agent is the first process, and was told where things are.
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
            checks.push(Check::fail("this process", format!("it cannot wait for anything: {error}"), ""));
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
                Standing::Runtime => "the container reader speaks to it",
                _ => "not said where it is: --aggregator, --ca, --token-file as the agent has them",
            };
            checks.push(Check::skipped("aggregator", found));
        }
    }
    checks
}

/// Whether something does not work.
pub fn failed(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.result == Outcome::Fail).count()
}

/// The checks as a table for people.
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
    line(["CHECK", "RESULT", "FOUND", "WHAT TO DO"]) + &rows.collect::<String>()
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
        let checks = [Check::ok("one", "fine"), Check::fail("another", "bad\n\u{1b}[2J", "mend it")];
        let text = table(&checks);
        assert_eq!(
            text,
            "CHECK     RESULT    FOUND      WHAT TO DO\none       ok        fine\nanother   FAIL      bad  [2J   mend it\n"
        );
        assert_eq!(failed(&checks), 1);
        let json = serde_json::to_string(&checks[1]).unwrap();
        assert!(json.contains(r#""result":"fail""#) && json.contains(r#""do":"mend it""#), "{json}");
    }
}

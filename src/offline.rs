//! `--offline`: the kernel refuses what an outbound client would do.
//!
//! None of Outcrop's clients goes out of the cluster by itself. This switch does not rely on that: Landlock
//! ([network rules](https://docs.kernel.org/userspace-api/landlock.html), Linux 6.7) lets this process, and what it starts, connect over TCP
//! to the ports of the API server and of DNS only. Addresses it cannot tell apart: the chart's NetworkPolicies do, where something enforces
//! them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use landlock::{
    AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
};

/// Where DNS answers.
const DNS: u16 = 53;

/// A port that nothing is connected to on purpose ([tcpmux](https://www.rfc-editor.org/rfc/rfc1078)): a try shows who refuses.
const NEVER: u16 = 1;

/// What was left to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// TCP ports that may be connected to, ascending.
    pub ports: Vec<u16>,
    /// Whether the kernel refuses all others, as a try has shown.
    pub enforced: bool,
}

/// Leaves this thread, and threads and processes that it starts later, the API server's port and that of DNS to connect to. To be called
/// before there is any other thread.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub fn enter(api_server: Option<u16>) -> Result<Offline, RulesetError> {
    let mut ports: Vec<u16> = api_server.into_iter().chain([DNS]).collect();
    ports.sort_unstable();
    ports.dedup();
    let rules = ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::ConnectTcp)?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(Offline { ports, enforced: is_refused() })
}

/// Whether a connection to this very machine is refused before it is tried.
fn is_refused() -> bool {
    let there = SocketAddr::from((Ipv4Addr::LOCALHOST, NEVER));
    TcpStream::connect_timeout(&there, Duration::from_millis(100))
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    #[allow(clippy::print_stderr, reason = "what is skipped has to be seen")]
    fn nothing_is_connected_to_but_the_api_server() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (api_server, other) = (listen(), listen());
        let [to, elsewhere] = [&api_server, &other].map(|listener| listener.local_addr().unwrap());
        assert!(TcpStream::connect(elsewhere).is_ok());
        // It binds the thread that calls it and what this starts.
        std::thread::spawn(move || {
            let offline = enter(Some(to.port())).unwrap();
            if !offline.enforced {
                eprintln!("SKIPPED: this kernel has no network rules of Landlock");
                return;
            }
            assert_eq!(offline.ports, [DNS, to.port()]);
            assert!(TcpStream::connect(to).is_ok());
            let refused = std::thread::spawn(move || TcpStream::connect(elsewhere).unwrap_err().kind());
            assert_eq!(refused.join().unwrap(), io::ErrorKind::PermissionDenied);
            assert!(TcpListener::bind("127.0.0.1:0").is_ok(), "to listen is not to go out");
        })
        .join()
        .unwrap();
    }
}

//! `--offline`: the kernel refuses outgoing connections.
//!
//! No client in Outcrop connects to an address outside of the cluster unless it is configured to. This switch enforces it: Landlock
//! ([network rules](https://docs.kernel.org/userspace-api/landlock.html), Linux 6.7) allows this process and its descendants to connect
//! over TCP to the ports of the API server and of DNS only. Landlock distinguishes ports, not addresses; the chart's NetworkPolicies
//! restrict addresses if the cluster enforces them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use landlock::{
    AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
};

/// Port of DNS.
const DNS: u16 = 53;

/// A port that Outcrop never connects to ([tcpmux](https://www.rfc-editor.org/rfc/rfc1078)): an attempt shows whether the kernel refuses.
const NEVER: u16 = 1;

/// A host and a port that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Peer {
    /// Parses `HOST:PORT`; an IPv6 address is in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let port = port.parse().ok().filter(|&port| port != 0)?;
        let is_plain = |char: char| !char.is_whitespace() && !char.is_control() && !"/@[]".contains(char);
        (!bare.is_empty() && bare.chars().all(is_plain)).then(|| Self { host: bare.to_ascii_lowercase(), port })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Network access that remains to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// TCP ports that connections are allowed to, ascending.
    pub ports: Vec<u16>,
    /// Hosts that deliveries may go to. The kernel knows their ports only.
    pub allowed: Vec<Peer>,
    /// Whether the kernel refuses all other ports, verified by an attempt.
    pub enforced: bool,
}

/// Restricts outgoing TCP connections of this thread, and of the threads and processes it starts later, to the ports of the API server and
/// of DNS, and those of `allowed`. Must be called before any other thread is started.
///
/// # Errors
/// Fails if the kernel supports Landlock and rejects the rules.
pub fn enter(api_server: Option<u16>, allowed: Vec<Peer>) -> Result<Offline, RulesetError> {
    let mut ports: Vec<u16> = api_server.into_iter().chain([DNS]).chain(allowed.iter().map(|peer| peer.port)).collect();
    ports.sort_unstable();
    ports.dedup();
    let rules = ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::ConnectTcp)?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(Offline { ports, allowed, enforced: is_refused() })
}

/// Returns whether the kernel refuses a connection to loopback before it is attempted.
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
    fn a_peer_is_a_host_and_a_port() {
        for (text, host, port) in
            [("a.example:443", "a.example", 443), ("[fd00::1]:80", "fd00::1", 80), ("10.0.0.1:1", "10.0.0.1", 1)]
        {
            let peer = Peer::parse(text).unwrap();
            assert_eq!((peer.host.as_str(), peer.port, peer.to_string().as_str()), (host, port, text));
        }
        for wrong in
            ["a.example", "a:0", "a:70000", ":1", "fd00::1:80", "[fd00::1:80", "http://a:80", "u@a:80", "a b:80", ""]
        {
            assert_eq!(Peer::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a skipped test must be visible")]
    fn only_the_api_server_is_reachable() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (api_server, other) = (listen(), listen());
        let [to, elsewhere] = [&api_server, &other].map(|listener| listener.local_addr().unwrap());
        assert!(TcpStream::connect(elsewhere).is_ok());
        // The rules apply to the calling thread and its descendants, so use a thread of its own.
        std::thread::spawn(move || {
            let offline = enter(Some(to.port()), vec![Peer::parse("target.example:4443").unwrap()]).unwrap();
            if !offline.enforced {
                eprintln!("SKIPPED: this kernel does not support Landlock network rules");
                return;
            }
            let mut ports = [DNS, 4443, to.port()];
            ports.sort_unstable();
            assert_eq!(offline.ports, ports);
            assert!(TcpStream::connect(to).is_ok());
            let refused = std::thread::spawn(move || TcpStream::connect(elsewhere).unwrap_err().kind());
            assert_eq!(refused.join().unwrap(), io::ErrorKind::PermissionDenied);
            assert!(TcpListener::bind("127.0.0.1:0").is_ok(), "listening is still allowed");
        })
        .join()
        .unwrap();
    }
}

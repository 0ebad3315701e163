//! The test cluster, for the tests that need one.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The script of the running cluster that OUTCROP_CLUSTER names, `tests/cluster/cluster`; where it names none, says so.
#[allow(clippy::print_stderr, reason = "what is skipped has to be seen")]
pub(crate) fn script() -> Option<PathBuf> {
    let script = std::env::var_os("OUTCROP_CLUSTER").map(PathBuf::from);
    if script.is_none() {
        eprintln!("SKIPPED: no cluster: OUTCROP_CLUSTER does not name tests/cluster/cluster of a running one");
    }
    script
}

/// Moves this thread, and what it starts, into a node's network: there the API server is reached, and nothing else.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn enter(node: &str) {
    let namespace = File::open(format!("/var/run/netns/outcrop-{node}")).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

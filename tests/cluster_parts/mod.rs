//! The test cluster, for the tests that need one.

use std::path::PathBuf;

/// The script of the running cluster that OUTCROP_CLUSTER names, `tests/cluster/cluster`; where it names none, says so.
#[allow(clippy::print_stderr, reason = "what is skipped has to be seen")]
pub(crate) fn script() -> Option<PathBuf> {
    let script = std::env::var_os("OUTCROP_CLUSTER").map(PathBuf::from);
    if script.is_none() {
        eprintln!("SKIPPED: no cluster: OUTCROP_CLUSTER does not name tests/cluster/cluster of a running one");
    }
    script
}

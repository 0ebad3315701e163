//! Tests that cannot run here: counted and shown by `tests/run`, or failed where CI must not skip them.

use std::fmt::Display;
use std::io::Write as _;

/// Reports on stderr, past the harness that captures it, that a test or a part of it is skipped because `need` is missing.
///
/// # Panics
/// When `OUTCROP_REQUIRE`, a list with commas, names `need`: `root`, `containerd`, `cluster`, `shared`, `kernel`, `tools`.
pub(crate) fn skip(need: &str, reason: impl Display) {
    let required = std::env::var("OUTCROP_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == need), "OUTCROP_REQUIRE names {need}: {reason}");
    let _ = writeln!(std::io::stderr(), "SKIPPED for want of {need}: {reason}");
}

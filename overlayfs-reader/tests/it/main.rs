//! Integration tests of `overlayfs-reader`, in one program.

#![allow(clippy::unwrap_used, reason = "a step that fails is a failed test, in helpers too")]
#![allow(clippy::print_stderr, reason = "tests print the reason why they skip")]

mod kernel;
mod limits;
mod race;
mod skip;
mod stacks;

//! The store, by its guarantees.
//!
//! `conformance` and `deliveries` are written against the trait alone: every implementation has to pass it unchanged. `sqlite` runs it on real files, and
//! tests the properties of files: full volumes, backups, other clusters. `migration` opens stores of version 1.

mod conformance;
mod deliveries;
mod migration;
mod sqlite;

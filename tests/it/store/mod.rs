//! The store, by its guarantees.
//!
//! `conformance`, `deliveries` and `notices` are written against the trait alone: every implementation has to pass them unchanged. `sqlite`
//! runs them on real files, and tests the properties of files: full volumes, backups, other clusters. `migration` opens stores of version 1.

mod conformance;
mod deliveries;
mod documents;
mod migration;
mod notices;
mod sqlite;

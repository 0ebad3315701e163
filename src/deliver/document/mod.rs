//! Documents: targets that keep the current state as files or as projects, instead of a stream of records.
//!
//! The delivery of such a target is a list of [names](Name): what changed. Each document is written when the delivery is sent, from the state at that
//! time, and only one is in memory. So a document that is out of date is never sent, and one that the target has already is not sent again.
//!
//! A [`Place`] keeps files, in this tree:
//!
//! ```text
//! manifest.json                              all other files with digest and size
//! sboms/sha256/DIGEST.cdx.json               packages of a package set, CycloneDX 1.6
//! findings/sha256/DIGEST.jsonl               findings of a package set, records of the format `outcrop`
//! workloads/NAMESPACE/KIND.GROUP/NAME.json   package sets of a workload, by container
//! containers/NODE/NAMESPACE/NAME.json        package sets of a container without a workload
//! nodes/NODE.json                            package sets of a node
//! reports/DATE/findings.jsonl.gz             all of these on that day, records of the format `outcrop`
//! ```

mod name;
mod path;
mod place;
mod render;

pub use name::{Name, decode, encode, names};
pub use path::{FINDINGS, MANIFEST, REPORTS, findings, report, sbom, subject};
pub(super) use place::media_type;
pub use place::{Place, PlaceError};
pub use render::{Manifest, Report, bill, containers, finding_lines};

//! Advisories: compiles OSV feeds into one database file and matches packages against it, offline.

mod assess;
mod build;
mod database;
mod feed;
mod matching;
mod osv;
mod range;
mod severity;
pub mod trust;
pub mod version;
mod worst;

pub use assess::{Assessed, REBUILD, STALE_AFTER_DAYS, as_of_warning, assess, parse_date};
pub use build::{BuildError, BuildProgress, BuildReport, build, build_with};
pub use database::{Database, DatabaseError, SourceInfo};
pub use feed::{Unusable, check_record};
pub use matching::{Finding, Matched, Matcher, Subject, Withheld, is_at_least, match_packages};
pub use severity::Rating;
pub use worst::{MAX_COMPARED, MAX_FINDINGS, Worst, too_many};

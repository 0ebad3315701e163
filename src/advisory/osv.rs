//! OSV records, reduced to the fields that matching needs ([OSV schema](https://ossf.github.io/osv-schema/)).
//!
//! Some feeds deviate from the schema, so unknown values are kept or ignored and are never an error.

use serde::{Deserialize, Serialize};

/// One advisory.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    #[serde(default)]
    pub(super) modified: String,
    pub(super) withdrawn: Option<String>,
    #[serde(default)]
    pub(super) summary: Option<String>,
    #[serde(default)]
    pub(super) details: Option<String>,
    #[serde(default)]
    pub(super) aliases: Option<Vec<String>>,
    #[serde(default)]
    pub(super) upstream: Option<Vec<String>>,
    #[serde(default)]
    pub(super) related: Option<Vec<String>>,
    #[serde(default)]
    pub(super) severity: Option<Vec<Severity>>,
    #[serde(default)]
    pub(super) affected: Option<Vec<Affected>>,
    #[serde(default)]
    pub(super) database_specific: Option<Specific>,
}

/// A score or rating. `type` is `CVSS_V2`, `CVSS_V3`, `CVSS_V4`, `Ubuntu` or a newer value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Severity {
    pub(super) r#type: String,
    pub(super) score: String,
}

/// A package and the versions of it that are affected.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Affected {
    #[serde(default)]
    pub(super) package: Option<Package>,
    #[serde(default)]
    pub(super) ranges: Option<Vec<Range>>,
    #[serde(default)]
    pub(super) versions: Option<Vec<String>>,
    #[serde(default)]
    pub(super) severity: Option<Vec<Severity>>,
    #[serde(default)]
    pub(super) ecosystem_specific: Option<Specific>,
    #[serde(default)]
    pub(super) database_specific: Option<Specific>,
}

/// The package that an advisory is about.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Package {
    pub(super) ecosystem: String,
    pub(super) name: String,
}

/// A range of versions. Ranges of type `GIT` compare commits and are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

/// One event of a range; exactly one field is set in well-formed records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) introduced: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fixed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_affected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<String>,
}

/// Fields that databases define themselves: only those with a rating or a status.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Specific {
    /// GHSA: `LOW`, `MODERATE`, `HIGH`, `CRITICAL`. Other databases use other types.
    #[serde(default)]
    pub(super) severity: Option<Word>,
    /// Debian: `unimportant`, `end-of-life`, `not yet assigned`, …
    #[serde(default)]
    pub(super) urgency: Option<Word>,
    /// Ubuntu's status in its tracker: `needed`, `deferred`, `ignored`, …
    #[serde(default)]
    pub(super) status: Option<Word>,
}

/// A text, or a value of another type, which is ignored.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Word {
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Word {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }
}

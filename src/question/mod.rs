//! Questions of `who-has`: which containers have a package, a range of its versions, or a vulnerability.
//!
//! [`Question::parse`] is a pure function from text to a typed question. Text that has no defined meaning is an error with a hint, so that it is
//! never answered with "no matches". Ranges of versions have the grammar of their ecosystem (see `range`).

mod advisory;
mod grammar;
mod package;
mod range;
mod vers;

#[cfg(test)]
mod tests;

pub use advisory::{AdvisoryForm, AdvisoryId};
pub use package::PackageQuestion;
pub use range::{MAX_COMPARATORS, Range, RangeError};

/// Maximum length of a question, in bytes.
pub const MAX_LENGTH: usize = 1024;

/// Maximum number of characters of a question that an error repeats.
const MAX_QUOTED: usize = 100;

/// A question. The same text may name a package and an advisory; what is known decides which of the two it is.
#[derive(Clone, Debug)]
pub struct Question {
    /// The package that the text names.
    pub package: PackageQuestion,
    /// The advisory that the text may name; `None` if the text has a package type or a range of versions.
    pub advisory: Option<AdvisoryId>,
}

/// Why a text is not a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid query {question:?}: {reason}")]
pub struct QuestionError {
    /// The beginning of the text.
    pub question: String,
    /// The cause, with a hint.
    pub reason: Reason,
}

/// The cause of a [`QuestionError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text is empty.
    #[error(
        "the query is empty; expected a package (log4j-core), a range of its versions (lodash<4.17.21), a package URL (pkg:npm/lodash@^4) or a vulnerability (CVE-2021-44228)"
    )]
    Empty,
    /// The text is longer than [`MAX_LENGTH`].
    #[error("the query has {0} bytes; the maximum is {MAX_LENGTH}")]
    TooLong(usize),
    /// The name contains a wildcard.
    #[error(
        "wildcards are not supported in names; pass the whole name, or list all packages with outcrop get packages"
    )]
    Wildcard,
    /// The name is missing.
    #[error("the name of the package is missing; expected NAME, NAME@RANGE or pkg:TYPE/NAME@RANGE")]
    NoName,
    /// A character that no name contains.
    #[error(
        "unexpected character {0:?} in the name; pass one package or one vulnerability, as in log4j-core or CVE-2021-44228"
    )]
    Character(char),
    /// The text begins like the ID of an advisory and is none.
    #[error("{0}")]
    Advisory(&'static str),
    /// The type of a package URL is not known.
    #[error("unknown package type {found:?}; expected one of {known}")]
    Type {
        /// The type.
        found: String,
        /// The known types.
        known: String,
    },
    /// A package URL is malformed.
    #[error("malformed package URL: {0}")]
    Purl(&'static str),
    /// A qualifier of a package URL is not recorded for packages.
    #[error("packages have no qualifier {0:?}; omit it, or use one of arch, distro, epoch, vers")]
    Qualifier(String),
    /// A name is followed by a colon and a version.
    #[error("a version follows the name after @; expected {name}@{version}")]
    Colon {
        /// The text in front of the colon.
        name: String,
        /// The text behind the colon.
        version: String,
    },
    /// A part of the name between slashes is empty, or an npm scope has no name.
    #[error("a part of the name is missing; expected NAME, @SCOPE/NAME or HOST/PATH")]
    EmptyPart,
    /// A `vers:` range stands alone.
    #[error("a vers: range has no package; put its name in front, as in lodash@vers:npm/<4.17.21")]
    VersAlone,
    /// The range of versions is malformed.
    #[error("{0}")]
    Range(RangeError),
}

impl Question {
    /// Parses a question: `log4j-core`, `lodash<4.17.21`, `pkg:npm/lodash@^4`, `CVE-2021-44228`.
    ///
    /// # Errors
    /// When the text has no defined meaning, or exceeds a bound.
    pub fn parse(text: &str) -> Result<Self, QuestionError> {
        Self::read(text.trim()).map_err(|reason| error(text, reason))
    }

    fn read(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            return Err(Reason::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(Reason::TooLong(text.len()));
        }
        let is_purl = text.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("pkg:"));
        if let Some(path) = text.get(4..).filter(|_| is_purl) {
            return Ok(Self { package: PackageQuestion::of_purl(path)?, advisory: None });
        }
        let advisory = AdvisoryId::parse(text).map_err(Reason::Advisory)?;
        // Some publishers have a colon in their IDs.
        if advisory.as_ref().is_none_or(|advisory| advisory.form == AdvisoryForm::Any) {
            package::refuse_colon(text)?;
        }
        let package = PackageQuestion::of_name(text)?;
        Ok(Self { advisory: advisory.filter(|_| !package.has_range()), package })
    }
}

/// Returns the error for a question, with the beginning of its text.
fn error(text: &str, reason: Reason) -> QuestionError {
    let mut question: String = text.trim().chars().take(MAX_QUOTED).collect();
    if question.len() < text.trim().len() {
        question.push('…');
    }
    QuestionError { question, reason }
}

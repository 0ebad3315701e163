//! Words of closed sets in responses.

use std::borrow::Cow;
use std::fmt;

use outcrop_proto::{
    AssessedState, CoverageState, FindingStatus, LayerState, NodeState, Runtime, Severity, Storage, Word,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::problems::ProblemKind;

/// A [`Severity`].
pub type SeverityWord = Open<Severity>;
/// A [`FindingStatus`].
pub type StatusWord = Open<FindingStatus>;
/// A [`CoverageState`].
pub type CoverageWord = Open<CoverageState>;
/// An [`AssessedState`].
pub type AssessedWord = Open<AssessedState>;
/// A [`LayerState`].
pub type LayerWord = Open<LayerState>;
/// A [`NodeState`].
pub type NodeStateWord = Open<NodeState>;
/// A [`Runtime`].
pub type RuntimeWord = Open<Runtime>;
/// A [`Storage`].
pub type StorageWord = Open<Storage>;
/// A [`ProblemKind`].
pub type ProblemWord = Open<ProblemKind>;

/// A word of the set `W`, which a newer server may have extended.
///
/// A client reads a word that it does not know as text, so that the rest of the answer stays readable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Open<W: Word> {
    /// A word of the set.
    Known(W),
    /// A word that this version does not know.
    Other(String),
}

impl<W: Word> Open<W> {
    /// Returns the word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(word) => word.word(),
            Self::Other(text) => text,
        }
    }

    /// Returns the variant, if this version knows the word.
    pub const fn known(&self) -> Option<W> {
        match self {
            Self::Known(word) => Some(*word),
            Self::Other(_) => None,
        }
    }
}

/// The word of an older server, which does not send the field.
impl<W: Word> Default for Open<W> {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl<W: Word> From<W> for Open<W> {
    fn from(word: W) -> Self {
        Self::Known(word)
    }
}

impl<W: Word> PartialEq<W> for Open<W> {
    fn eq(&self, other: &W) -> bool {
        self.known() == Some(*other)
    }
}

impl<W: Word> fmt::Display for Open<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<W: Word> Serialize for Open<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, W: Word> Deserialize<'de> for Open<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ok(W::from_word(&text).map_or_else(|| Self::Other(text.into_owned()), Self::Known))
    }
}

impl<W: Word> PartialSchema for Open<W> {
    fn schema() -> RefOr<Schema> {
        let words = W::WORDS.iter().map(|word| word.word());
        let object = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(words));
        RefOr::T(Schema::Object(object.build()))
    }
}

impl<W: Word> ToSchema for Open<W> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed(W::NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_newer_server_is_kept_as_it_is() {
        for (text, known) in [("fixed", Some(FindingStatus::Fixed)), ("fixed-upstream", None)] {
            let word: StatusWord = serde_json::from_value(text.into()).unwrap();
            assert_eq!((word.as_str(), word.known()), (text, known));
            assert_eq!(serde_json::to_value(word).unwrap(), text);
        }
    }
}

//! Enums whose variants are words of the API, the store and the command line.
//!
//! Each word is written once, beside its variant. Serialization, parsing and printing all use it, so that they cannot drift apart.

use std::fmt;

/// A closed set of words, in `kebab-case`.
pub trait Word: Copy + fmt::Debug + Eq + Ord + 'static {
    /// Name of the set, as the API's document shows it.
    const NAME: &'static str;

    /// Every word, in declaration order.
    const WORDS: &'static [Self];

    /// Returns the word.
    fn word(self) -> &'static str;

    /// Returns the variant whose word is `text`.
    fn from_word(text: &str) -> Option<Self> {
        Self::WORDS.iter().copied().find(|known| known.word() == text)
    }
}

/// The text is not one of the words of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {text:?}: expected one of {expected}")]
pub struct UnknownWord {
    /// The text.
    pub text: String,
    /// The words of the set, separated by commas.
    pub expected: String,
}

impl UnknownWord {
    /// Creates the error for `text`, which is not a word of `W`.
    pub fn new<W: Word>(text: &str) -> Self {
        let expected: Vec<&str> = W::WORDS.iter().map(|word| word.word()).collect();
        Self { text: text.to_owned(), expected: expected.join(", ") }
    }
}

/// Declares an enum and its words: `enum Color { Red = "red" }`.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every variant, in declaration order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// Returns the word, as users see it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::word::Word for $name {
            const NAME: &'static str = stringify!($name);
            const WORDS: &'static [Self] = &Self::ALL;

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::word::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <Self as $crate::word::Word>::from_word(text)
                    .ok_or_else(|| $crate::word::UnknownWord::new::<Self>(text))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;
    use crate::{
        AssessedState, CoverageState, FindingState, FindingStatus, LayerState, Runtime, Severity, Storage, SubjectKind,
    };

    fn check<W: Word + for<'de> Deserialize<'de>>() {
        let mut seen = std::collections::BTreeSet::new();
        for word in W::WORDS {
            let text = word.word();
            let kebab = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            assert!(kebab && seen.insert(text), "{}: {text:?} is not a new word in kebab-case", W::NAME);
            assert_eq!(W::from_word(text), Some(*word));
            let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
            assert_eq!(W::deserialize(deserializer), Ok(*word), "{} serializes other words than it prints", W::NAME);
        }
        assert_eq!(W::from_word("of-another-world"), None);
    }

    #[test]
    fn every_set_prints_parses_and_serializes_the_same_words() {
        check::<Severity>();
        check::<FindingState>();
        check::<FindingStatus>();
        check::<AssessedState>();
        check::<LayerState>();
        check::<SubjectKind>();
        check::<CoverageState>();
        check::<Runtime>();
        check::<Storage>();
    }
}

//! Maven's order ([version order specification](https://maven.apache.org/pom.html#version-order-specification), and
//! `ComparableVersion` of Maven 3.9 where the specification is silent).
//!
//! The specification pads the shorter of two versions during the comparison, which is not transitive in corner cases. Here every version ends
//! with [`Token::End`], which sorts where the padding would.

use super::digits::Digits;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<Token>);

/// A token with its prefix. Qualifiers are equal after both prefixes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    /// Before a release: alpha, beta, milestone, rc, snapshot.
    Before(u8),
    /// `ga`, `final` or `release` that was not trimmed.
    Release,
    End,
    ServicePack,
    Qualifier(Box<str>),
    /// `-1`
    Dashed(Digits),
    /// `.1`
    Dotted(Digits),
}

impl Token {
    fn is_null(&self) -> bool {
        match self {
            Self::Release => true,
            Self::Dashed(digits) | Self::Dotted(digits) => digits.is_zero(),
            _ => false,
        }
    }

    fn is_qualifier(&self) -> bool {
        matches!(self, Self::Before(_) | Self::Release | Self::ServicePack | Self::Qualifier(_))
    }
}

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        let text = text.to_lowercase();
        let mut tokens = Vec::new();
        // Null tokens are trimmed at the end, before each hyphen, and before each qualifier.
        let trim = |tokens: &mut Vec<Token>| {
            while tokens.last().is_some_and(Token::is_null) {
                tokens.pop();
            }
        };
        for (dashed, token) in split(&text) {
            if dashed || token.is_qualifier() {
                trim(&mut tokens);
            }
            tokens.push(token);
        }
        trim(&mut tokens);
        tokens.push(Token::End);
        Self(tokens)
    }
}

/// Splits a version at `.`, at `-` and between digits and other characters (`_` is an ordinary character up to Maven 3.9). Returns each token
/// with whether a hyphen, or a transition that counts as one, precedes it.
fn split(text: &str) -> impl Iterator<Item = (bool, Token)> {
    let mut rest = Some(text);
    let mut dashed = false;
    std::iter::from_fn(move || {
        let current = rest?;
        let digits = current.starts_with(|character: char| character.is_ascii_digit());
        let end = current
            .find(|character: char| matches!(character, '.' | '-') || character.is_ascii_digit() != digits)
            .unwrap_or(current.len());
        let (word, after) = current.split_at(end);
        let followed_by_digit = after.starts_with(|character: char| character.is_ascii_digit());
        let this = (dashed, token(word, dashed, followed_by_digit));
        (rest, dashed) = match after.chars().next() {
            None => (None, false),
            Some('.') => (after.get(1..), false),
            Some('-') => (after.get(1..), true),
            Some(_) => (Some(after), true),
        };
        Some(this)
    })
}

fn token(word: &str, dashed: bool, followed_by_digit: bool) -> Token {
    match word {
        "alpha" => Token::Before(0),
        "beta" => Token::Before(1),
        "milestone" => Token::Before(2),
        "a" if followed_by_digit => Token::Before(0),
        "b" if followed_by_digit => Token::Before(1),
        "m" if followed_by_digit => Token::Before(2),
        "rc" | "cr" => Token::Before(3),
        "snapshot" => Token::Before(4),
        "ga" | "final" | "release" => Token::Release,
        "sp" => Token::ServicePack,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            if dashed {
                Token::Dashed(Digits::new(digits))
            } else {
                Token::Dotted(Digits::new(digits))
            }
        }
        other => Token::Qualifier(other.into()),
    }
}

//! Alpine's order (apk-tools 3, `src/version.c`).
//!
//! A version is a sequence of parts, which are compared one by one. If two parts have different kinds, the order of the variants of [`Part`]
//! decides. Text that apk refuses becomes a last part, [`Part::Invalid`], which sorts before all others.

use super::digits::{Digits, split_digits};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Invalid(Box<str>),
    /// `_alpha` and the like: before a version without it.
    Before(u8),
    End,
    /// `-r1`
    Revision(Digits),
    /// `~0123abc`
    Commit(Box<str>),
    /// The number after a suffix.
    SuffixNumber(Digits),
    /// `_p` and the like.
    After(u8),
    Letter(u8),
    /// Number with a leading zero: compared as text, like decimal places, and sorted before numbers without one.
    Fraction(Box<str>),
    Number(Digits),
}

const BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];
const AFTER: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let rest = parse(text, &mut parts);
        parts.push(if rest.is_empty() { Part::End } else { Part::Invalid(rest.into()) });
        Self(parts)
    }
}

/// Parses parts in the order that apk allows, and returns the remaining text.
fn parse<'a>(text: &'a str, parts: &mut Vec<Part>) -> &'a str {
    let (first, mut rest) = split_digits(text);
    if first.is_empty() {
        parts.push(Part::Invalid(text.into()));
        return "";
    }
    parts.push(Part::Number(Digits::new(first)));
    rest = fractions(rest, parts);
    // Numbers may follow a letter: OpenSSH has the version 6.6.2p1.
    while let Some(letter) = rest.bytes().next().filter(u8::is_ascii_lowercase) {
        parts.push(Part::Letter(letter));
        let (digits, after) = split_digits(rest.get(1..).unwrap_or_default());
        if !digits.is_empty() {
            parts.push(Part::Number(Digits::new(digits)));
        }
        rest = fractions(after, parts);
        if digits.is_empty() {
            break;
        }
    }
    while let Some((part, after)) = rest.strip_prefix('_').and_then(suffix) {
        parts.push(part);
        let (digits, after) = split_digits(after);
        if !digits.is_empty() {
            parts.push(Part::SuffixNumber(Digits::new(digits)));
        }
        rest = after;
    }
    if let Some(hash) = rest.strip_prefix('~') {
        let end = hash.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(hash.len());
        let (hash, after) = hash.split_at(end);
        parts.push(Part::Commit(hash.into()));
        rest = after;
    }
    match rest.strip_prefix("-r").map(split_digits) {
        // `-r` without a number is `-r0`.
        Some((digits, after)) if !digits.is_empty() || after.is_empty() => {
            parts.push(Part::Revision(Digits::new(digits)));
            rest = after;
        }
        _ => {}
    }
    rest
}

/// Parses any number of parts like `.1`.
fn fractions<'a>(mut rest: &'a str, parts: &mut Vec<Part>) -> &'a str {
    while let Some((digits, after)) = rest.strip_prefix('.').map(split_digits).filter(|(digits, _)| !digits.is_empty())
    {
        parts.push(match digits.strip_prefix('0') {
            Some(_) => Part::Fraction(digits.into()),
            None => Part::Number(Digits::new(digits)),
        });
        rest = after;
    }
    rest
}

fn suffix(text: &str) -> Option<(Part, &str)> {
    let find = |names: &'static [&'static str]| {
        let mut found = (0_u8..).zip(names).filter_map(|(rank, name)| Some((rank, text.strip_prefix(name)?)));
        // A longer name first: `pre` is not `p`.
        found.next()
    };
    find(&BEFORE)
        .map(|(rank, rest)| (Part::Before(rank), rest))
        .or_else(|| find(&AFTER).map(|(rank, rest)| (Part::After(rank), rest)))
}

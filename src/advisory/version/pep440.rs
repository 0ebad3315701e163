//! Python's order ([PEP 440](https://peps.python.org/pep-0440/)), from the `pep440_rs` crate. Versions that PEP 440 refuses sort before all
//! others, as they did in pip while it accepted them, and among each other as text.

use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Legacy(Box<str>),
    Valid(pep440_rs::Version),
}

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        match parse(text) {
            Some(version) => Self::Valid(version),
            None => Self::Legacy(text.to_lowercase().into()),
        }
    }
}

/// Parses a version. Returns `None` if PEP 440 refuses it.
pub(crate) fn parse(text: &str) -> Option<pep440_rs::Version> {
    clamp(text).parse().ok()
}

/// Replaces numbers beyond 64 bits, which `pep440_rs` refuses, by the largest that it accepts.
fn clamp(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 19;
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while !rest.is_empty() {
        let start = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let (plain, after) = rest.split_at(start);
        let (digits, after) = super::digits::split_digits(after);
        let significant = digits.trim_start_matches('0');
        out.push_str(plain);
        if significant.len() > LONGEST {
            changed = true;
            out.push_str("9999999999999999999");
        } else {
            out.push_str(digits);
        }
        rest = after;
    }
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

//! Debian's order ([Debian Policy 5.6.12](https://www.debian.org/doc/debian-policy/ch-controlfields.html#version), and
//! dpkg's `lib/dpkg/version.c`). Invalid versions are compared in the same way, as dpkg does.

use std::cmp::Ordering;

use super::digits::{Digits, split_digits};

#[derive(Clone, Debug)]
pub(super) struct Version {
    epoch: Digits,
    upstream: Box<str>,
    revision: Box<str>,
}

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => (Digits::new(epoch), rest),
            _ => (Digits::default(), text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch, upstream: upstream.into(), revision: revision.into() }
    }
}

/// dpkg's `verrevcmp`: parts without digits by letters, `~` before the end and anything else after letters; then numbers.
fn compare(mut a: &str, mut b: &str) -> Ordering {
    loop {
        let (left, right) = (plain(&mut a), plain(&mut b));
        let ends = std::iter::once(0);
        let weighed = left.bytes().map(weight).chain(ends.clone()).cmp(right.bytes().map(weight).chain(ends));
        if weighed != Ordering::Equal {
            return weighed;
        }
        if a.is_empty() && b.is_empty() {
            return Ordering::Equal;
        }
        let ((left, left_rest), (right, right_rest)) = (split_digits(a), split_digits(b));
        match Digits::new(left).cmp(&Digits::new(right)) {
            Ordering::Equal => (a, b) = (left_rest, right_rest),
            decided => return decided,
        }
    }
}

/// Removes and returns the text before the next digit.
fn plain<'a>(text: &mut &'a str) -> &'a str {
    let (plain, rest) = text.split_at(text.find(|character: char| character.is_ascii_digit()).unwrap_or(text.len()));
    *text = rest;
    plain
}

fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        letter if letter.is_ascii_alphabetic() => i32::from(letter),
        other => i32::from(other) + 256,
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare(&self.upstream, &other.upstream))
            .then_with(|| compare(&self.revision, &other.revision))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

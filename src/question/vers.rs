//! Ranges in the notation of [VERS](https://github.com/package-url/vers-spec): `vers:npm/>=1.0.0|<1.2.3|!=1.1.0`.

use outcrop_proto::PackageType;
use percent_encoding::percent_decode_str;

use super::range::{Comparator, MAX_COMPARATORS, Operator, Range, RangeError, quoted};
use crate::advisory::version::Version;

/// Comparators, longest first.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::More),
    ("=", Operator::Equal),
];

/// Returns `text` without the scheme `vers:`, or `None` if it has another one.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    let text = text.trim();
    text.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("vers:"))?;
    text.get(5..)
}

/// Parses a range without its scheme.
///
/// # Errors
/// When the type is not known, a constraint is malformed, two constraints have the same version, or there are too many.
pub(super) fn parse(text: &str) -> Result<(PackageType, Range), RangeError> {
    let wrong = |reason: &str| RangeError::Vers(reason.to_owned());
    let (scheme, constraints) = text.split_once('/').ok_or_else(|| wrong("the type is missing"))?;
    let kind = match scheme.trim().to_ascii_lowercase().as_str() {
        // An earlier name.
        "alpine" => Some(PackageType::Apk),
        name => PackageType::from_name(name),
    };
    let kind = kind.ok_or_else(|| {
        RangeError::Vers(format!(
            "unknown type {:?}, expected one of {}",
            quoted(scheme),
            PackageType::ALL.map(PackageType::as_str).join(", ")
        ))
    })?;
    let constraints: String = constraints.chars().filter(|next| !next.is_whitespace()).collect();
    let constraints = constraints.trim_matches('|');
    if constraints == "*" {
        return Ok((kind, Range::of_sets(kind, text, vec![Vec::new()])?));
    }
    let ecosystem = kind.ecosystem();
    let mut read: Vec<(Version, Operator, String)> = Vec::new();
    for constraint in constraints.split('|').take(MAX_COMPARATORS + 1) {
        let (operator, version) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((*operator, constraint.strip_prefix(sign)?)))
            .unwrap_or((Operator::Equal, constraint));
        let version = percent_decode_str(version).decode_utf8().map_err(|_| wrong("invalid percent-encoding"))?;
        let is_version = version.starts_with(|first: char| first.is_ascii_alphanumeric())
            && version.bytes().any(|byte| byte.is_ascii_digit())
            && version.chars().all(|next| next.is_ascii_alphanumeric() || ".+-_~^:!".contains(next));
        if !is_version {
            return Err(RangeError::Vers(format!("{:?} is not a version", quoted(&version))));
        }
        let version = (ecosystem.normalize_version)(&version).to_owned();
        read.push((Version::parse(ecosystem.version_order, &version), operator, version));
    }
    if read.len() > MAX_COMPARATORS {
        return Err(RangeError::TooMany);
    }
    read.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some((_, _, version)) =
        read.iter().zip(read.iter().skip(1)).find(|(a, b)| a.0 == b.0).map(|(first, _)| first)
    {
        return Err(RangeError::Vers(format!("the version {:?} occurs twice", quoted(version))));
    }
    let pairs = read.into_iter().map(|(_, operator, version)| (operator, version)).collect();
    Ok((kind, Range::of_sets(kind, text, sets(kind, pairs))?))
}

/// A bound of an interval.
type Bound<'v> = (Operator, &'v str);

/// Returns sets of comparators for constraints that are sorted by version.
///
/// Of several lower bounds in a row the first counts, and of several upper bounds the last, as in the simplification that VERS defines.
fn sets(kind: PackageType, constraints: Vec<(Operator, String)>) -> Vec<Vec<Comparator>> {
    let mut intervals: Vec<(Option<Bound<'_>>, Option<Bound<'_>>)> = Vec::new();
    let mut from: Option<Bound<'_>> = None;
    let mut is_closed = false;
    let mut excluded = Vec::new();
    let mut equal = Vec::new();
    for (operator, version) in &constraints {
        let bound = (*operator, version.as_str());
        match operator {
            Operator::AtLeast | Operator::More => {
                from = from.or(Some(bound));
                is_closed = false;
            }
            Operator::AtMost | Operator::Less => {
                match intervals.last_mut().filter(|_| is_closed) {
                    Some((_, to)) => *to = Some(bound),
                    None => intervals.push((from.take(), Some(bound))),
                }
                is_closed = true;
            }
            Operator::NotEqual => excluded.push(bound),
            _ => equal.push(bound),
        }
    }
    intervals.extend(from.map(|from| (Some(from), None)));
    let mut sets: Vec<Vec<Bound<'_>>> = equal.into_iter().map(|bound| vec![bound]).collect();
    sets.extend(intervals.into_iter().map(|(from, to)| from.into_iter().chain(to).collect()));
    // Exclusions alone leave every other version.
    if sets.is_empty() {
        sets.push(Vec::new());
    }
    let order = kind.ecosystem().version_order;
    let make = |(operator, version): Bound<'_>| Comparator::new(order, operator, version);
    sets.into_iter().map(|set| set.into_iter().chain(excluded.iter().copied()).map(make).collect()).collect()
}

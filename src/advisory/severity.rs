//! Severities of vulnerabilities.
//!
//! The distribution's own rating takes precedence, because the distribution knows how it builds its packages; otherwise the CVSS score of the
//! highest CVSS version.

use std::str::FromStr as _;

use outcrop_proto::Severity;

use super::osv;

/// Returns the severity of a CVSS base score.
fn by_score(score: f64) -> Severity {
    match score {
        score if score >= 9.0 => Severity::Critical,
        score if score >= 7.0 => Severity::High,
        score if score >= 4.0 => Severity::Medium,
        score if score > 0.0 => Severity::Low,
        _ => Severity::Unknown,
    }
}

/// Returns the severity that a distribution or an advisory database names `word`.
fn by_word(word: &str) -> Option<Severity> {
    Some(match word.to_ascii_lowercase().as_str() {
        "unimportant" | "negligible" => Severity::Negligible,
        "low" | "minor" => Severity::Low,
        "medium" | "moderate" => Severity::Medium,
        "high" | "important" => Severity::High,
        "critical" => Severity::Critical,
        _ => return None,
    })
}

/// A severity, with the score if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rating {
    /// The severity.
    pub severity: Severity,
    /// CVSS base score.
    pub score: Option<f64>,
}

/// Returns the rating of a record; `rating` is the rating of a distribution or database, if the record has one.
pub(super) fn rate(severities: &[osv::Severity], rating: Option<&str>, distribution: bool) -> Rating {
    let scored = severities.iter().filter_map(score).max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, score)| score);
    // Ubuntu's rating is an entry of the list of severities.
    let own =
        severities.iter().filter(|entry| !entry.r#type.starts_with("CVSS")).find_map(|entry| by_word(&entry.score));
    let word = own.or_else(|| rating.and_then(by_word));
    let by_score = scored.map(by_score);
    let severity = if distribution { word.or(by_score) } else { by_score.or(word) };
    Rating { severity: severity.unwrap_or_default(), score: scored }
}

/// Returns version and base score of a CVSS vector.
fn score(entry: &osv::Severity) -> Option<(u8, f64)> {
    if entry.score.len() > 512 {
        return None;
    }
    let version = match entry.r#type.as_str() {
        "CVSS_V4" => 4,
        "CVSS_V3" => 3,
        "CVSS_V2" => 2,
        _ => return None,
    };
    let vector = cvss::Cvss::from_str(&entry.score).ok()?;
    Some((version, vector.score()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rating_of_a_distribution_precedes_scores_and_a_newer_cvss_version_an_older_one() {
        let entry = |kind: &str, score: &str| osv::Severity { r#type: kind.to_owned(), score: score.to_owned() };
        let high = entry("CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H");
        let fourth = entry("CVSS_V4", "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N");
        let broken = entry("CVSS_V3", "CVSS:3.1/AV:X");
        assert_eq!(rate(std::slice::from_ref(&high), Some("LOW"), false).severity, Severity::High);
        assert_eq!(rate(std::slice::from_ref(&high), Some("unimportant"), true).severity, Severity::Negligible);
        assert_eq!(rate(std::slice::from_ref(&high), None, true).score, Some(7.5));
        assert_eq!(rate(&[high, fourth], None, false).severity, Severity::Critical);
        assert_eq!(rate(&[entry("Ubuntu", "medium")], None, true).severity, Severity::Medium);
        assert_eq!(rate(&[broken], Some("MODERATE"), false).severity, Severity::Medium);
    }
}

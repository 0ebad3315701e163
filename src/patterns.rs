//! Patterns of namespaces.

use globset::{GlobBuilder, GlobSet};

/// Namespaces, by names and by globs: `*` stands for any text, `?` for one character, and `[a-z]` for one of several.
#[derive(Clone, Debug, Default)]
pub struct NamespacePatterns(GlobSet);

/// A pattern is not a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a namespace or a glob such as \"team-*\": {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl NamespacePatterns {
    /// Parses patterns.
    ///
    /// # Errors
    /// When one of them is not a glob.
    pub fn parse(patterns: &[String]) -> Result<Self, PatternError> {
        let mut set = GlobSet::builder();
        for pattern in patterns {
            let error = |reason: String| PatternError { pattern: pattern.clone(), reason };
            if pattern.is_empty() {
                return Err(error("it is empty".to_owned()));
            }
            set.add(GlobBuilder::new(pattern).build().map_err(|found| error(found.kind().to_string()))?);
        }
        let error =
            |found: globset::Error| PatternError { pattern: patterns.join(","), reason: found.kind().to_string() };
        set.build().map(Self).map_err(error)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether one of them matches a namespace.
    pub fn matches(&self, namespace: &str) -> bool {
        self.0.is_match(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_or_matched_by_a_glob_as_a_whole() {
        for (pattern, matched, others) in [
            ("shop", &["shop"][..], &["shop-2", "my-shop", ""][..]),
            ("team-*", &["team-a", "team-", "team-a-b"], &["team", "my-team-a"]),
            ("t[0-9]?", &["t1x"], &["t1", "tax", "t1xx"]),
            ("*", &["shop", "kube-system"], &[]),
        ] {
            let patterns = NamespacePatterns::parse(&[pattern.to_owned()]).unwrap();
            assert!(matched.iter().all(|name| patterns.matches(name)), "{pattern}");
            assert!(!others.iter().any(|name| patterns.matches(name)), "{pattern}");
        }
        assert!(!NamespacePatterns::default().matches("shop"));
        for wrong in ["", "[a"] {
            let error = NamespacePatterns::parse(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{wrong:?} is not a namespace or a glob")), "{error}");
        }
    }
}

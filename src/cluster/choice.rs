//! Names and label selectors of workloads, in kubectl's syntax.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector, SelectorExt as _};

use super::{Values, Workload};

/// kubectl's short names of workload kinds, and the kinds.
const SHORT: [(&str, &str); 9] = [
    ("deploy", "deployment"),
    ("ds", "daemonset"),
    ("sts", "statefulset"),
    ("rs", "replicaset"),
    ("rc", "replicationcontroller"),
    ("po", "pod"),
    ("cj", "cronjob"),
    ("dc", "deploymentconfig"),
    ("ro", "rollout"),
];

/// Returns whether `kind` names the kind of a workload, in any form that kubectl accepts: `deploy`, `deployments`, `Deployment`, `deployment.apps`.
pub fn is_kind(kind: &str, workload: &Workload) -> bool {
    let kind = kind.to_ascii_lowercase();
    let (kind, group) = kind.split_once('.').map_or((kind.as_str(), None), |(kind, group)| (kind, Some(group)));
    if group.is_some_and(|group| !group.eq_ignore_ascii_case(&workload.group)) {
        return false;
    }
    let own = workload.kind.to_ascii_lowercase();
    let long = SHORT.iter().find(|(short, _)| *short == kind).map_or(kind, |(_, long)| long);
    long == own || long.strip_suffix('s') == Some(&own) || long.strip_suffix("es") == Some(&own)
}

/// Returns whether `name`, which is `NAME` or `KIND/NAME`, names a workload.
pub fn is_named(name: &str, workload: &Workload) -> bool {
    match name.split_once('/') {
        Some((kind, name)) => name == workload.name && is_kind(kind, workload),
        None => name == workload.name,
    }
}

/// A label selector, in the syntax of kubectl's `-l`.
#[derive(Clone, Debug)]
pub struct Labels(Selector);

/// The text is not a label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid label selector {0:?}: expected terms such as app=web, tier!=test, app in (web,api), app notin (web), app or !app, comma-separated"
)]
pub struct LabelsError(String);

impl Labels {
    /// Parses a selector.
    ///
    /// # Errors
    /// When the text has a syntax error.
    pub fn parse(text: &str) -> Result<Self, LabelsError> {
        let wrong = || LabelsError(text.to_owned());
        let expressions = parts(text).map(|part| expression(part).ok_or_else(wrong));
        Ok(Self(expressions.collect::<Result<Vec<_>, _>>()?.into_iter().collect()))
    }

    /// Returns whether the selector matches `labels`.
    pub fn select(&self, labels: &Values) -> bool {
        self.0.matches(labels)
    }
}

/// Splits a text at commas outside of parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// Returns whether a text can be a label's key or value; a value may be empty.
fn is_word(text: &str) -> bool {
    text.len() <= 317 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte))
}

fn expression(part: &str) -> Option<Expression> {
    let part = part.trim();
    let key = |key: &str| Some(key.trim().to_owned()).filter(|key| !key.is_empty() && is_word(key));
    let value = |value: &str| Some(value.trim().to_owned()).filter(|value| is_word(value));
    if let Some((name, of)) = part.split_once("!=") {
        return Some(Expression::NotEqual(key(name)?, value(of)?));
    }
    if let Some((name, of)) = part.split_once('=') {
        return Some(Expression::Equal(key(name)?, value(of.strip_prefix('=').unwrap_or(of))?));
    }
    if let Some(name) = part.strip_prefix('!') {
        return Some(Expression::DoesNotExist(key(name)?));
    }
    let Some((before, values)) = part.split_once('(') else { return Some(Expression::Exists(key(part)?)) };
    let values: BTreeSet<String> = values.strip_suffix(')')?.split(',').map(value).collect::<Option<_>>()?;
    let (name, operator) = before.trim().split_once(char::is_whitespace)?;
    match operator.trim() {
        "in" => Some(Expression::In(key(name)?, values)),
        "notin" => Some(Expression::NotIn(key(name)?, values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_names_are_understood_as_kubectl_does() {
        let [namespace, group, kind, name, uid] = ["shop", "apps", "Deployment", "web", "1"].map(ToOwned::to_owned);
        let web = Workload { namespace, group, kind, name, uid };
        for (text, is) in [
            ("web", true),
            ("deploy/web", true),
            ("Deployment/web", true),
            ("deployments.apps/web", true),
            ("deployment.apps/web", true),
            ("deployment.extensions/web", false),
            ("sts/web", false),
            ("deploy/other", false),
            ("deploy", false),
            ("/web", false),
            ("", false),
        ] {
            assert_eq!(is_named(text, &web), is, "{text}");
        }
        let [group, kind] = ["example.org", "Process"].map(ToOwned::to_owned);
        assert!(is_kind("processes.example.org", &Workload { group, kind, ..web }));
    }

    #[test]
    fn labels_are_selected_as_kubectl_does() {
        let labels: Values = [("app", "web"), ("tier", "front")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        for (text, selects) in [
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app = web , tier!=back", true),
            ("app in (web, api),tier notin (back)", true),
            ("app,!team", true),
            ("team!=x", true),
            ("app=api", false),
            ("app notin (web)", false),
            ("team", false),
            ("!app", false),
            ("app=", false),
        ] {
            assert_eq!(Labels::parse(text).unwrap().select(&labels), selects, "{text}");
        }
        for text in ["", "=web", "app in web", "app in (web", "app is (web)", "a b", "app=web,", "app=ü", "!"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
    }
}

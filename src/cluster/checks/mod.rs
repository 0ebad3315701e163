//! Configuration issues of a pod or of a pod template: the Pod Security Standards as Kubernetes 1.34 enforces them, and four
//! recommendations beyond them. Pure functions.

mod controls;
pub mod pod;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use pod::PodSpec;
pub use rules::{NON_ROOT, RULES};

/// Maximum number of issues per pod, because any user can write a pod.
pub const MAX_ISSUES: usize = 256;
/// Maximum number of characters of a string quoted from a pod.
pub const MAX_QUOTED: usize = 128;

/// The origin of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Pod Security Standards, "Baseline".
    Baseline,
    /// Pod Security Standards, "Restricted".
    Restricted,
    /// In no standard's level, yet recommended.
    Recommended,
}

/// The most restricted level of the Pod Security Standards that a pod satisfies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodSecurity {
    /// Unrestricted.
    Privileged,
    /// Prevents known privilege escalations.
    Baseline,
    /// Hardened.
    Restricted,
}

/// A check, with its texts.
#[derive(Debug)]
pub struct Rule {
    /// Stable name.
    pub id: &'static str,
    /// The defect, in a few words.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// The fix.
    pub fix: &'static str,
    /// Its origin.
    pub level: Level,
    /// Start of the reason of Pod Security admission (`ForbiddenReason`); `None` if it has no such check.
    pub admission: Option<&'static str>,
    /// Rule of the baseline that admission leaves out where it runs this one.
    pub overrides: Option<&'static str>,
    /// Snyk's controller reports it as well.
    pub snyk: bool,
    check: fn(&mut Findings<'_>),
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Rule {}

/// A violation of a rule in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The rule that is broken.
    pub rule: &'static Rule,
    /// Path of the field, from `spec` or `metadata`, with the name of the container.
    pub path: String,
    /// Name of the container, if the field is a container's.
    pub container: Option<Box<str>>,
    /// Value of the field, at most [`MAX_QUOTED`] characters.
    pub found: String,
}

/// The configuration issues of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issues {
    /// Issues in the order of [`RULES`].
    pub list: Vec<Issue>,
    /// There were more than [`MAX_ISSUES`]; every broken rule is still there at least once.
    pub cut: bool,
}

/// A rule at work on a pod.
struct Findings<'a> {
    annotations: &'a BTreeMap<String, String>,
    pod: &'a PodSpec,
    rule: &'static Rule,
    of_rule: usize,
    /// The container that is being checked; `None` for fields of the pod.
    container: Option<Box<str>>,
    issues: Issues,
}

impl Findings<'_> {
    fn add(&mut self, path: impl Into<String>, found: &str) {
        self.of_rule += 1;
        // The first of each rule is always kept, so that a flood of one hides none of the others, nor changes the level.
        if self.of_rule > 1 && self.issues.list.len() >= MAX_ISSUES - RULES.len() {
            self.issues.cut = true;
            return;
        }
        let path = path.into().chars().take(2 * MAX_QUOTED).collect();
        let found = found.chars().take(MAX_QUOTED).collect();
        self.issues.list.push(Issue { rule: self.rule, path, container: self.container.clone(), found });
    }
}

/// Checks a pod, or a workload's pod template, by its annotations and its specification.
#[must_use]
pub fn check(annotations: &BTreeMap<String, String>, pod: &PodSpec) -> Issues {
    let mut issues = Issues::default();
    for rule in RULES {
        let mut findings = Findings { annotations, pod, rule, of_rule: 0, container: None, issues };
        (rule.check)(&mut findings);
        issues = findings.issues;
    }
    issues
}

/// The level of the Pod Security Standards that a pod with these issues satisfies.
#[must_use]
pub fn level(issues: &[Issue]) -> PodSecurity {
    if !admission_reasons(PodSecurity::Baseline, issues).is_empty() {
        PodSecurity::Privileged
    } else if !admission_reasons(PodSecurity::Restricted, issues).is_empty() {
        PodSecurity::Baseline
    } else {
        PodSecurity::Restricted
    }
}

/// The reasons that Pod Security admission would name at a level.
#[must_use]
pub fn admission_reasons(level: PodSecurity, issues: &[Issue]) -> BTreeSet<&'static str> {
    let overridden = |id| RULES.iter().any(|rule| rule.overrides == Some(id));
    let asked = |rule: &Rule| match (level, rule.level) {
        (PodSecurity::Baseline, Level::Baseline) | (PodSecurity::Restricted, Level::Restricted) => true,
        (PodSecurity::Restricted, Level::Baseline) => !overridden(rule.id),
        _ => false,
    };
    issues.iter().filter(|issue| asked(issue.rule)).filter_map(|issue| issue.rule.admission).collect()
}

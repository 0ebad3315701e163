//! Converts a report to CycloneDX: every target is a container component that contains its packages.

use std::collections::BTreeMap;

use outcrop_proto::Severity;

use super::report::{Report, Target};
use crate::export::cyclonedx::{Affects, Bom, Component, Property, Rating, Vulnerability};

/// Returns the CycloneDX document of a report.
pub(super) fn document(report: &Report) -> Bom {
    let mut vulnerabilities: BTreeMap<String, Vulnerability> = BTreeMap::new();
    let components = report.targets.iter().enumerate().map(|(number, target)| container(number, target)).collect();
    for (number, target) in report.targets.iter().enumerate() {
        for finding in &target.findings {
            let reference = Affects { r#ref: reference(number, &finding.purl) };
            let vulnerability = vulnerabilities.entry(finding.id.clone()).or_insert_with(|| Vulnerability {
                id: finding.id.clone(),
                ratings: vec![Rating { score: finding.score, severity: word(finding.severity) }],
                description: finding.summary.clone(),
                recommendation: finding.fixed.as_ref().map(|fixed| format!("Upgrade to {fixed}")),
                affects: Vec::new(),
            });
            if !vulnerability.affects.iter().any(|known| known.r#ref == reference.r#ref) {
                vulnerability.affects.push(reference);
            }
        }
    }
    Bom::new(components, vulnerabilities.into_values().collect())
}

fn reference(target: usize, purl: &str) -> String {
    format!("{target}/{purl}")
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Negligible => "info",
        other => other.as_str(),
    }
}

fn container(number: usize, target: &Target) -> Component {
    let property = |name: &str, value: String| Property { name: format!("outcrop:{name}"), value };
    let mut properties = vec![property("coverage", target.coverage.state.to_string())];
    if !target.coverage.reason.is_empty() {
        properties.push(property("coverage-reason", target.coverage.reason.clone()));
    }
    properties.extend(
        target
            .assessed
            .iter()
            .map(|assessed| property("assessed", format!("{}: {}", assessed.ecosystem, assessed.state.as_str()))),
    );
    let mut packages: BTreeMap<&str, Component> = BTreeMap::new();
    for package in &target.packages {
        let component = packages.entry(&package.purl).or_insert_with(|| Component {
            r#type: "library",
            bom_ref: reference(number, &package.purl),
            name: package.name.clone(),
            version: Some(package.version.clone()),
            purl: Some(package.purl.clone()),
            ..Component::default()
        });
        component.properties.extend(package.evidence.iter().map(|path| property("evidence", path.clone())));
    }
    Component {
        r#type: "container",
        bom_ref: number.to_string(),
        name: target.subject.image.clone().unwrap_or_else(|| target.subject.name.clone()),
        properties,
        components: packages.into_values().collect(),
        ..Component::default()
    }
}

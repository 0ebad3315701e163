//! Writes SARIF 2.1.0 ([specification](https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html)).
//!
//! A vulnerability is a rule, a finding of an image a result. The artifact is the image; the containers that run it are logical locations. Images that
//! are not scanned completely are notifications of the invocation.

use outcrop_proto::{CoverageState, Digest, Severity};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::document::{Document, Finding, Image};
use super::exporter::{Pass, Writer};
use super::out::Out;

/// The characters of a reference to an image that a relative URI contains as they are; a `:` could end a scheme.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b'@');

/// The writer. Rules come first, and then, in a pass of their own, the results.
#[derive(Debug, Default)]
pub(super) struct Sarif {
    in_results: bool,
    /// The last rule: the findings of a vulnerability follow each other.
    last: String,
    /// What is written after the rules: the artifacts do not depend on rows.
    notifications: Vec<Value>,
    properties: Value,
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Negligible | Severity::Unknown => "note",
    }
}

/// Returns the number by which consumers sort: the score, else one in the middle of the severity's range.
fn security_severity(finding: &Finding) -> String {
    let score = finding.score.unwrap_or(match finding.severity {
        Severity::Critical => 9.5,
        Severity::High => 8.0,
        Severity::Medium => 5.5,
        Severity::Low => 2.0,
        Severity::Negligible | Severity::Unknown => 0.0,
    });
    format!("{score:.1}")
}

fn rule(finding: &Finding) -> Value {
    let summary = if finding.summary.is_empty() { &finding.id } else { &finding.summary };
    json!({
        "id": finding.id,
        "shortDescription": { "text": summary },
        "defaultConfiguration": { "level": level(finding.severity) },
        "properties": { "security-severity": security_severity(finding), "tags": ["security", "vulnerability"] },
    })
}

fn result(image: &Image, finding: &Finding) -> Value {
    let uri = utf8_percent_encode(&image.name, KEPT).to_string();
    let text = format!(
        "{} {} in {}: {} ({}). {}.",
        finding.package,
        finding.installed,
        image.reference(),
        finding.id,
        finding.severity,
        finding.action()
    );
    let mut location = json!({ "physicalLocation": { "artifactLocation": { "uri": uri } } });
    if !image.places.is_empty() {
        let logical = |place: &super::Place| json!({ "fullyQualifiedName": place.path(), "kind": "container" });
        location["logicalLocations"] = image.places.iter().map(logical).collect();
    }
    // Results of two runs are the same if vulnerability, package, path and image are, whatever the tag and the version.
    let name = crate::image::Reference::parse(&image.name);
    let image_name = if image.is_container { name.path } else { &image.name };
    let fingerprint = [&finding.id, &finding.r#type, &finding.package, image_name, &finding.evidence.join("\n")];
    let fingerprint = Digest::of(fingerprint.join("\0").as_bytes()).to_string();
    json!({
        "ruleId": finding.id,
        "level": level(finding.severity),
        "message": { "text": text },
        "locations": [location],
        "partialFingerprints": { "outcrop/v1": fingerprint.trim_start_matches("sha256:") },
        "properties": {
            "severity": finding.severity,
            "score": finding.score,
            "package": finding.package,
            "installed": finding.installed,
            "fixed": finding.fixed,
            "status": finding.status,
            "purl": finding.purl,
            "aliases": finding.aliases,
            "evidence": finding.evidence,
            "image": image.reference(),
            "stack": image.stack,
            "layer": finding.layer,
        },
    })
}

/// Returns the notification about an image that is not scanned completely.
fn notification(image: &Image) -> Option<Value> {
    let coverage = image.coverage.as_ref().filter(|coverage| coverage.state != CoverageState::Scanned)?;
    let text = format!("{}: {}: {}", image.reference(), coverage.state, coverage.reason);
    Some(json!({ "level": "warning", "message": { "text": text }, "descriptor": { "id": "coverage" } }))
}

impl Writer for Sarif {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Findings, Pass::Findings]
    }

    fn begin(&mut self, out: &mut Out, document: &Document, images: &[Image]) {
        self.notifications = images.iter().filter_map(notification).collect();
        let cluster = document.cluster.as_ref();
        self.properties = json!({
            "name": document.name,
            "made_at": document.time(),
            "database": document.database,
            "cluster": cluster.map(|(uid, name)| json!({ "uid": uid, "name": name })),
        });
        out.begin('{');
        out.field("$schema", &"https://json.schemastore.org/sarif-2.1.0.json");
        out.field("version", &"2.1.0");
        out.begin_field("runs", '[');
        out.begin('{');
        out.begin_field("tool", '{');
        out.begin_field("driver", '{');
        out.field("name", &"outcrop");
        out.field("version", &env!("CARGO_PKG_VERSION"));
    }

    fn begin_pass(&mut self, out: &mut Out, pass: usize) {
        self.in_results = pass > 0;
        if self.in_results {
            out.begin_field("results", '[');
        } else {
            out.begin_field("rules", '[');
        }
    }

    fn finding(&mut self, out: &mut Out, image: &Image, finding: &Finding) {
        if self.in_results {
            out.item(&result(image, finding));
        } else if self.last != finding.id {
            out.item(&rule(finding));
            self.last.clone_from(&finding.id);
        }
    }

    fn end_pass(&mut self, out: &mut Out, _: usize) {
        out.end(']');
        if !self.in_results {
            // The driver, and the tool.
            out.end('}');
            out.end('}');
            let invocation = json!({ "executionSuccessful": true, "toolExecutionNotifications": self.notifications });
            out.field("invocations", &[invocation]);
            out.field("properties", &self.properties);
        }
    }

    fn end(&mut self, out: &mut Out) {
        out.end('}');
        out.end(']');
        out.end('}');
    }
}

//! Writes CycloneDX 1.6 ([specification](https://cyclonedx.org/docs/1.6/json/)).
//!
//! Every image is a component that contains its packages. A vulnerability has one entry for each package and statement about it, with all images
//! that contain the package. Of the analysis (VEX) is written what the advisory states; nobody has analyzed the image itself.

use outcrop_proto::{FindingStatus, Severity};
use serde::Serialize;
use serde_json::{Value, json};

use crate::export::document::{Document, Finding, Image, Package};
use crate::export::exporter::{Pass, Writer};
use crate::export::out::Out;

/// The writer.
#[derive(Debug, Default)]
pub(in crate::export) struct CycloneDx {
    /// Whether packages were matched: otherwise nothing is said about vulnerabilities.
    is_matched: bool,
    /// The finding whose entry is open, and the `bom-ref` that it was last written for.
    last: Option<(Finding, String)>,
}

/// A property in Outcrop's namespace.
#[derive(Serialize)]
struct Property {
    name: String,
    value: String,
}

fn property(name: &str, value: impl Into<String>) -> Property {
    Property { name: format!("outcrop:{name}"), value: value.into() }
}

fn reference(image: &Image, package: &str) -> String {
    format!("{}/{package}", image.number)
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Negligible => "info",
        other => other.as_str(),
    }
}

/// Returns the analysis that the vendor's statement is, if CycloneDX has a word for it.
fn analysis(status: FindingStatus) -> Option<Value> {
    match status {
        FindingStatus::UnderInvestigation => Some(json!({ "state": "in_triage" })),
        FindingStatus::Fixed => Some(json!({ "response": ["update"] })),
        FindingStatus::WillNotFix | FindingStatus::EndOfLife => Some(json!({ "response": ["will_not_fix"] })),
        FindingStatus::Affected | FindingStatus::Deferred => None,
    }
}

impl CycloneDx {
    fn close(&mut self, out: &mut Out) {
        if self.last.take().is_some() {
            out.end(']');
            out.end('}');
        }
    }
}

impl Writer for CycloneDx {
    fn passes(&self) -> &'static [Pass] {
        if self.is_matched { &[Pass::Packages, Pass::Findings] } else { &[Pass::Packages] }
    }

    fn begin(&mut self, out: &mut Out, document: &Document, _: &[Image]) {
        self.is_matched = document.database.is_some();
        out.begin('{');
        out.field("$schema", &"http://cyclonedx.org/schema/bom-1.6.schema.json");
        out.field("bomFormat", &"CycloneDX");
        out.field("specVersion", &"1.6");
        out.field("serialNumber", &format!("urn:uuid:{}", document.uuid()));
        out.field("version", &1);
        let tool = json!({ "type": "application", "name": "outcrop", "version": env!("CARGO_PKG_VERSION") });
        let mut properties = Vec::new();
        properties.extend(document.database.as_ref().map(|digest| property("database", digest)));
        if let Some((uid, name)) = &document.cluster {
            properties.extend([property("cluster-uid", uid), property("cluster", name)]);
        }
        let mut metadata = json!({
            "tools": { "components": [tool] },
            "component": { "type": "application", "bom-ref": "document", "name": document.name },
            "properties": properties,
        });
        if document.made_at != 0 {
            metadata["timestamp"] = document.time().into();
        }
        out.field("metadata", &metadata);
    }

    fn begin_pass(&mut self, out: &mut Out, pass: usize) {
        out.begin_field(if pass == 0 { "components" } else { "vulnerabilities" }, '[');
    }

    fn image(&mut self, out: &mut Out, image: &Image) {
        out.begin('{');
        out.field("type", &if image.is_container { "container" } else { "application" });
        out.field("bom-ref", &image.number.to_string());
        out.field("name", &image.name);
        if let Some(digest) = &image.digest {
            out.field("version", digest);
            out.field("purl", &image.purl());
        }
        let mut properties = Vec::new();
        if let Some(coverage) = &image.coverage {
            properties.push(property("coverage", coverage.state.as_str()));
            if !coverage.reason.is_empty() {
                properties.push(property("coverage-reason", &*coverage.reason));
            }
        }
        let assessed = |of: &super::super::Tested| property("assessed", format!("{}: {}", of.ecosystem, of.state));
        properties.extend(image.assessed.iter().map(assessed));
        properties.extend(image.stack.as_ref().map(|stack| property("stack", stack)));
        properties.extend(image.distribution.as_ref().map(|name| property("distribution", name)));
        properties.extend(image.places.iter().map(|place| property("container", place.path())));
        out.field("properties", &properties);
        out.begin_field("components", '[');
    }

    fn package(&mut self, out: &mut Out, image: &Image, package: &Package) {
        out.begin('{');
        out.field("type", &"library");
        out.field("bom-ref", &reference(image, &package.key()));
        out.field("name", &package.name);
        out.field("version", &package.version);
        // Licenses are declared in many spellings: only a name is always true.
        let named = package.licenses.iter().filter(|license| !license.is_empty());
        let licenses: Vec<Value> =
            named.map(|name| json!({ "license": { "name": name, "acknowledgement": "declared" } })).collect();
        if !licenses.is_empty() {
            out.field("licenses", &licenses);
        }
        if !package.purl.is_empty() {
            out.field("purl", &package.purl);
        }
        let mut properties: Vec<Property> =
            package.evidence.iter().map(|path| property("evidence", path.as_str())).collect();
        properties.extend(package.layer.as_ref().map(|layer| property("layer", layer)));
        if !properties.is_empty() {
            out.field("properties", &properties);
        }
        out.end('}');
    }

    fn image_end(&mut self, out: &mut Out, _: &Image) {
        out.end(']');
        out.end('}');
    }

    fn finding(&mut self, out: &mut Out, image: &Image, finding: &Finding) {
        let affected = reference(image, &finding.package_key());
        match &mut self.last {
            Some((last, reference)) if last.is_same(finding) => {
                if *reference == affected {
                    return;
                }
                reference.clone_from(&affected);
            }
            _ => {
                self.close(out);
                out.begin('{');
                out.field("id", &finding.id);
                let references: Vec<Value> = finding
                    .aliases
                    .iter()
                    .filter(|alias| **alias != finding.id)
                    .map(|alias| json!({ "id": alias, "source": { "name": source(alias) } }))
                    .collect();
                if !references.is_empty() {
                    out.field("references", &references);
                }
                let mut rating = json!({ "severity": severity(finding.severity) });
                if let Some(score) = finding.score {
                    rating["score"] = score.into();
                }
                out.field("ratings", &[rating]);
                if !finding.summary.is_empty() {
                    out.field("description", &finding.summary);
                }
                out.field("recommendation", &finding.action());
                if let Some(analysis) = analysis(finding.status) {
                    out.field("analysis", &analysis);
                }
                out.begin_field("affects", '[');
                self.last = Some((finding.clone(), affected.clone()));
            }
        }
        out.item(&json!({ "ref": affected }));
    }

    fn end_pass(&mut self, out: &mut Out, _: usize) {
        self.close(out);
        out.end(']');
    }

    fn end(&mut self, out: &mut Out) {
        out.end('}');
    }
}

/// Returns who assigns IDs of this form: the text before the first `-`.
fn source(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

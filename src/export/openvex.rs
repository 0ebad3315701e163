//! Writes OpenVEX 0.2.0 ([specification](https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md)).
//!
//! A statement is about one vulnerability of one package, in all images that contain it. Its status is what the advisory states: `affected`, or
//! `under_investigation`. `not_affected` would need an analysis of the image, and `fixed` one of the image that was fixed; nobody made them.

use outcrop_proto::FindingStatus;
use serde_json::{Value, json};

use super::document::{Document, Finding, Image};
use super::exporter::{Pass, Writer};
use super::out::Out;

/// The writer.
#[derive(Debug, Default)]
pub(super) struct OpenVex {
    /// The finding whose statement is open, and the image that it was last written for.
    last: Option<(Finding, usize)>,
    time: String,
}

impl OpenVex {
    /// Ends the open statement.
    fn close(&mut self, out: &mut Out) {
        let Some((finding, _)) = self.last.take() else { return };
        out.end(']');
        if finding.status == FindingStatus::UnderInvestigation && finding.fixed.is_none() {
            out.field("status", &"under_investigation");
        } else {
            out.field("status", &"affected");
            out.field("action_statement", &finding.action());
        }
        let notes =
            "matched by version against advisories; nobody has analyzed whether the vulnerable code can be reached";
        out.field("status_notes", &notes);
        out.field("timestamp", &self.time);
        out.end('}');
    }
}

impl Writer for OpenVex {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Findings]
    }

    fn begin(&mut self, out: &mut Out, document: &Document, _: &[Image]) {
        self.time = document.time();
        out.begin('{');
        out.field("@context", &"https://openvex.dev/ns/v0.2.0");
        out.field("@id", &format!("urn:uuid:{}", document.uuid()));
        out.field("author", &format!("Outcrop, {}", document.name));
        out.field("role", &"Vulnerability scanner");
        out.field("timestamp", &self.time);
        out.field("version", &1);
        out.field("tooling", &format!("outcrop {}", env!("CARGO_PKG_VERSION")));
        out.begin_field("statements", '[');
    }

    fn finding(&mut self, out: &mut Out, image: &Image, finding: &Finding) {
        match &mut self.last {
            Some((last, number)) if last.is_same(finding) => {
                if *number == image.number {
                    return;
                }
                *number = image.number;
            }
            _ => {
                self.close(out);
                out.begin('{');
                let mut vulnerability = json!({ "name": finding.id });
                if !finding.aliases.is_empty() {
                    vulnerability["aliases"] = json!(finding.aliases);
                }
                if !finding.summary.is_empty() {
                    vulnerability["description"] = json!(finding.summary);
                }
                out.field("vulnerability", &vulnerability);
                out.begin_field("products", '[');
                self.last = Some((finding.clone(), image.number));
            }
        }
        let purl = image.purl();
        let mut product = json!({ "@id": purl, "identifiers": { "purl": purl } });
        if let Some(digest) = image.digest.as_ref().and_then(|digest| digest.strip_prefix("sha256:")) {
            product["hashes"] = json!({ "sha-256": digest });
        }
        if !finding.purl.is_empty() {
            let component: Value = json!({ "@id": finding.purl, "identifiers": { "purl": finding.purl } });
            product["subcomponents"] = json!([component]);
        }
        out.item(&product);
    }

    fn end_pass(&mut self, out: &mut Out, _: usize) {
        self.close(out);
        out.end(']');
    }

    fn end(&mut self, out: &mut Out) {
        out.end('}');
    }
}

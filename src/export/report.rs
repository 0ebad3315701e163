//! Writes Outcrop's own report: everything that the other formats contain, with coverage. The schema is `docs/report.schema.json`.

use serde_json::json;

use super::document::{Document, Finding, Image, Package};
use super::exporter::{Pass, Writer};
use super::out::Out;

/// Version of the format. Fields are added without a new version.
const VERSION: u32 = 1;

/// The writer.
#[derive(Debug)]
pub(super) struct Report;

impl Writer for Report {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Images]
    }

    fn begin(&mut self, out: &mut Out, document: &Document, _: &[Image]) {
        let cluster = document.cluster.as_ref();
        out.begin('{');
        out.field("version", &VERSION);
        out.field("name", &document.name);
        out.field("made_at", &document.time());
        out.field("outcrop", &env!("CARGO_PKG_VERSION"));
        out.field("cluster", &cluster.map(|(uid, name)| json!({ "uid": uid, "name": name })));
        out.field("database", &document.database);
        out.begin_field("images", '[');
    }

    fn image(&mut self, out: &mut Out, image: &Image) {
        let coverage = image.coverage.as_ref();
        out.begin('{');
        out.field("name", &image.name);
        out.field("digest", &image.digest);
        out.field("stack", &image.stack);
        out.field("distribution", &image.distribution);
        out.field("coverage", &coverage.map(|of| json!({ "state": of.state, "reason": of.reason })));
        out.field("assessed", &image.assessed);
        out.field("containers", &image.places);
        out.begin_field("packages", '[');
    }

    fn package(&mut self, out: &mut Out, _: &Image, package: &Package) {
        out.item(&json!({
            "purl": package.purl,
            "type": package.r#type,
            "name": package.name,
            "version": package.version,
            "licenses": package.licenses,
            "evidence": package.evidence,
            "layer": package.layer,
        }));
    }

    fn packages_end(&mut self, out: &mut Out) {
        out.end(']');
        out.begin_field("findings", '[');
    }

    fn finding(&mut self, out: &mut Out, _: &Image, finding: &Finding) {
        out.item(&json!({
            "id": finding.id,
            "aliases": finding.aliases,
            "package": finding.package,
            "purl": finding.purl,
            "installed": finding.installed,
            "evidence": finding.evidence,
            "status": finding.status,
            "fixed": finding.fixed,
            "severity": finding.severity,
            "score": finding.score,
            "layer": finding.layer,
            "summary": finding.summary,
        }));
    }

    fn image_end(&mut self, out: &mut Out, _: &Image) {
        out.end(']');
        out.end('}');
    }

    fn end_pass(&mut self, out: &mut Out, _: usize) {
        out.end(']');
    }

    fn end(&mut self, out: &mut Out) {
        out.end('}');
    }
}

//! Writes CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)).

use outcrop_proto::escape::escape;

use super::document::{Document, Finding, Image, Package, Place};
use super::exporter::{Pass, Writer};
use super::out::Out;

/// Returns a line. A cell that a spreadsheet would read as a formula gets an apostrophe; characters that could mislead are escaped.
///
/// # Errors
/// None for lines in memory; the type is that of the crate.
pub fn line<'a>(cells: impl IntoIterator<Item = &'a str>) -> Result<String, csv::Error> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let safe = cells.into_iter().map(|cell| {
        let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        format!("{}{}", if is_formula { "'" } else { "" }, escape(cell))
    });
    writer.write_record(safe)?;
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write<'a>(out: &mut Out, cells: impl IntoIterator<Item = &'a str>) {
    // Writing to memory does not fail.
    out.raw(&line(cells).unwrap_or_default());
}

/// CSV with a line for each finding of a container; for a workload, of its container once for all replicas.
#[derive(Debug)]
pub(super) struct FindingsTable;

impl Writer for FindingsTable {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Findings]
    }

    fn begin(&mut self, out: &mut Out, _: &Document, _: &[Image]) {
        const HEAD: [&str; 18] = [
            "severity",
            "id",
            "package",
            "installed",
            "status",
            "fixed",
            "score",
            "namespace",
            "workload",
            "container",
            "image",
            "digest",
            "distribution",
            "coverage",
            "purl",
            "evidence",
            "aliases",
            "summary",
        ];
        write(out, HEAD);
    }

    fn finding(&mut self, out: &mut Out, image: &Image, finding: &Finding) {
        let none = [Place::default()];
        let places = if image.places.is_empty() { none.as_slice() } else { &image.places };
        let score = finding.score.map(|score| score.to_string()).unwrap_or_default();
        let (evidence, aliases) = (finding.evidence.join(" "), finding.aliases.join(" "));
        for place in places {
            let cells = [
                finding.severity.as_str(),
                &finding.id,
                &finding.package,
                &finding.installed,
                finding.status.as_str(),
                finding.fixed.as_deref().unwrap_or_default(),
                &score,
                place.namespace.as_deref().unwrap_or_default(),
                place.workload.as_deref().unwrap_or_default(),
                &place.container,
                &image.name,
                image.digest.as_deref().unwrap_or_default(),
                image.distribution.as_deref().unwrap_or_default(),
                image.coverage.as_ref().map_or("", |coverage| coverage.state.as_str()),
                &finding.purl,
                &evidence,
                &aliases,
                &finding.summary,
            ];
            write(out, cells);
        }
    }

    fn end(&mut self, _: &mut Out) {}
}

/// CSV with a line for each package of an image.
#[derive(Debug)]
pub(super) struct PackagesTable;

impl Writer for PackagesTable {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Packages]
    }

    fn begin(&mut self, out: &mut Out, _: &Document, _: &[Image]) {
        const HEAD: [&str; 10] =
            ["type", "name", "version", "licenses", "image", "digest", "distribution", "coverage", "purl", "evidence"];
        write(out, HEAD);
    }

    fn package(&mut self, out: &mut Out, image: &Image, package: &Package) {
        let (licenses, evidence) = (package.licenses.join("; "), package.evidence.join(" "));
        let cells = [
            package.r#type.as_str(),
            &package.name,
            &package.version,
            &licenses,
            &image.name,
            image.digest.as_deref().unwrap_or_default(),
            image.distribution.as_deref().unwrap_or_default(),
            image.coverage.as_ref().map_or("", |coverage| coverage.state.as_str()),
            &package.purl,
            &evidence,
        ];
        write(out, cells);
    }

    fn end(&mut self, _: &mut Out) {}
}

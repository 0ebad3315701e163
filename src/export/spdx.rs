//! Writes SPDX 2.3 JSON ([specification](https://spdx.github.io/spdx-spec/v2.3/)).
//!
//! Every image is a package of purpose `CONTAINER` that contains its packages. SPDX 2.3 has no place for findings. Declared licenses are not
//! normalized, so that many are no license expressions; they are comments.

use outcrop_proto::Digest;
use serde_json::{Value, json};

use super::document::{Document, Image, Package};
use super::exporter::{Pass, Writer};
use super::out::Out;

/// The writer. Packages come first, and then, in a pass of their own, the relationships between images and packages.
#[derive(Debug, Default)]
pub(super) struct Spdx {
    in_relationships: bool,
}

fn image_id(image: &Image) -> String {
    format!("SPDXRef-Image-{}", image.number)
}

/// Returns the identifier of a package: letters, digits, `.` and `-` only.
fn package_id(image: &Image, package: &Package) -> String {
    let digest = Digest::of(package.key().as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    format!("SPDXRef-Package-{}-{}", image.number, &hex[..32])
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Returns a package as far as all have it.
fn element(id: &str, name: &str, purl: Option<&str>) -> Value {
    let mut element = json!({
        "SPDXID": id,
        "name": one_line(name),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    });
    if let Some(purl) = purl {
        element["externalRefs"] = json!([
            { "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl }
        ]);
    }
    element
}

/// Returns text on one line; names must not be empty.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if line.trim().is_empty() { "unnamed".to_owned() } else { line }
}

impl Writer for Spdx {
    fn passes(&self) -> &'static [Pass] {
        &[Pass::Packages, Pass::Packages]
    }

    fn begin(&mut self, out: &mut Out, document: &Document, _: &[Image]) {
        out.begin('{');
        out.field("spdxVersion", &"SPDX-2.3");
        out.field("dataLicense", &"CC0-1.0");
        out.field("SPDXID", &"SPDXRef-DOCUMENT");
        out.field("name", &one_line(&document.name));
        out.field("documentNamespace", &format!("https://spdx.org/spdxdocs/outcrop-{}", document.uuid()));
        let creators = [format!("Tool: outcrop-{}", env!("CARGO_PKG_VERSION"))];
        out.field("creationInfo", &json!({ "created": document.time(), "creators": creators }));
    }

    fn begin_pass(&mut self, out: &mut Out, pass: usize) {
        self.in_relationships = pass > 0;
        out.begin_field(if self.in_relationships { "relationships" } else { "packages" }, '[');
    }

    fn image(&mut self, out: &mut Out, image: &Image) {
        let id = image_id(image);
        if self.in_relationships {
            out.item(&relationship("SPDXRef-DOCUMENT", "DESCRIBES", &id));
            return;
        }
        let purl = image.digest.as_ref().map(|_| image.purl());
        let mut element = element(&id, &image.name, purl.as_deref());
        element["primaryPackagePurpose"] = json!(if image.is_container { "CONTAINER" } else { "OTHER" });
        if let Some(digest) = &image.digest {
            element["versionInfo"] = json!(digest);
        }
        if let Some(coverage) = &image.coverage {
            let reason = if coverage.reason.is_empty() { String::new() } else { format!(": {}", coverage.reason) };
            element["comment"] = json!(format!("coverage {}{reason}", coverage.state));
        }
        out.item(&element);
    }

    fn package(&mut self, out: &mut Out, image: &Image, package: &Package) {
        let id = package_id(image, package);
        if self.in_relationships {
            out.item(&relationship(&image_id(image), "CONTAINS", &id));
            return;
        }
        let purl = Some(package.purl.as_str()).filter(|purl| !purl.is_empty());
        let mut element = element(&id, &package.name, purl);
        if !package.version.is_empty() {
            element["versionInfo"] = json!(one_line(&package.version));
        }
        let licenses: Vec<&str> =
            package.licenses.iter().map(String::as_str).filter(|license| !license.is_empty()).collect();
        if !licenses.is_empty() {
            element["licenseComments"] = json!(format!("declared: {}", licenses.join(", ")));
        }
        if !package.evidence.is_empty() {
            element["sourceInfo"] = json!(format!("listed by {}", package.evidence.join(", ")));
        }
        out.item(&element);
    }

    fn end_pass(&mut self, out: &mut Out, _: usize) {
        out.end(']');
    }

    fn end(&mut self, out: &mut Out) {
        out.end('}');
    }
}

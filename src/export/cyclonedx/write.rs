//! Writes CycloneDX 1.6: the part of it that a scan needs ([specification](https://cyclonedx.org/docs/1.6/json/)).

use serde::Serialize;

/// A bill of materials.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vulnerabilities: Vec<Vulnerability>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    tools: Tools,
}

#[derive(Debug, Serialize)]
struct Tools {
    components: Vec<Tool>,
}

#[derive(Debug, Serialize)]
struct Tool {
    r#type: &'static str,
    name: &'static str,
    version: &'static str,
}

/// A component: a container with components of its own, or a package.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Component {
    /// `container`, `operating-system`, `library`, `application`.
    pub r#type: &'static str,
    /// Unique in the document.
    #[serde(rename = "bom-ref")]
    pub bom_ref: String,
    /// Name.
    pub name: String,
    /// Version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Package URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purl: Option<String>,
    /// Further properties, in Outcrop's namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<Property>,
    /// Nested components.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Self>,
}

/// A name and a value.
#[derive(Debug, Serialize)]
pub struct Property {
    /// `outcrop:…`
    pub name: String,
    /// The value.
    pub value: String,
}

/// A vulnerability and what it affects.
#[derive(Debug, Serialize)]
pub struct Vulnerability {
    /// CVE or advisory.
    pub id: String,
    /// Ratings.
    pub ratings: Vec<Rating>,
    /// One-line description.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Recommended action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<String>,
    /// References to components.
    pub affects: Vec<Affects>,
}

/// A rating.
#[derive(Debug, Serialize)]
pub struct Rating {
    /// CVSS base score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Severity, as CycloneDX names it.
    pub severity: &'static str,
}

/// A reference to an affected component.
#[derive(Debug, Serialize)]
pub struct Affects {
    /// Its `bom-ref`.
    pub r#ref: String,
}

impl Bom {
    /// Creates a document from `components` and the vulnerabilities that affect them.
    pub fn new(components: Vec<Component>, vulnerabilities: Vec<Vulnerability>) -> Self {
        let tool = Tool { r#type: "application", name: "outcrop", version: env!("CARGO_PKG_VERSION") };
        Self {
            bom_format: "CycloneDX",
            spec_version: "1.6",
            version: 1,
            metadata: Metadata { tools: Tools { components: vec![tool] } },
            components,
            vulnerabilities,
        }
    }
}

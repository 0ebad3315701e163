//! The table of formats.

use super::cyclonedx::CycloneDx;
use super::exporter::Writer;
use super::openvex::OpenVex;
use super::report::Report;
use super::sarif::Sarif;
use super::spdx::Spdx;
use super::table::{FindingsTable, PackagesTable};

/// The content of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A bill of materials.
    Sbom,
    /// Findings.
    Findings,
    /// Packages.
    Packages,
    /// Statements about vulnerabilities.
    Vex,
    /// Everything: images with coverage, packages and findings.
    Report,
}

impl Content {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sbom, Self::Findings, Self::Packages, Self::Vex, Self::Report];

    /// Returns its name in paths and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sbom => "sbom",
            Self::Findings => "findings",
            Self::Packages => "packages",
            Self::Vex => "vex",
            Self::Report => "report",
        }
    }

    /// Returns its formats, the default one first.
    pub const fn formats(self) -> &'static [Format] {
        match self {
            Self::Sbom => &[Format::CycloneDx, Format::Spdx],
            Self::Findings => &[Format::FindingsCsv, Format::Sarif],
            Self::Packages => &[Format::PackagesCsv],
            Self::Vex => &[Format::OpenVex],
            Self::Report => &[Format::Report],
        }
    }
}

/// A format of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CycloneDX 1.6 JSON, with vulnerabilities.
    CycloneDx,
    /// SPDX 2.3 JSON.
    Spdx,
    /// CSV with a line for each finding of a container.
    FindingsCsv,
    /// SARIF 2.1.0.
    Sarif,
    /// CSV with a line for each package of an image.
    PackagesCsv,
    /// OpenVEX 0.2.0.
    OpenVex,
    /// Outcrop's own JSON.
    Report,
}

impl Format {
    /// Returns its name, which is unique among the formats of one content.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CycloneDx => "cyclonedx",
            Self::Spdx => "spdx",
            Self::FindingsCsv | Self::PackagesCsv => "csv",
            Self::Sarif => "sarif",
            Self::OpenVex => "openvex",
            Self::Report => "json",
        }
    }

    /// Returns its registered media type, or the one that its specification names.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::CycloneDx => "application/vnd.cyclonedx+json; version=1.6",
            Self::Spdx => "application/spdx+json",
            Self::FindingsCsv | Self::PackagesCsv => "text/csv; charset=utf-8; header=present",
            Self::Sarif => "application/sarif+json",
            Self::OpenVex | Self::Report => "application/json",
        }
    }

    /// Returns the extension of files, by which other tools recognize the format.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::CycloneDx => "cdx.json",
            Self::Spdx => "spdx.json",
            Self::FindingsCsv | Self::PackagesCsv => "csv",
            Self::Sarif => "sarif",
            Self::OpenVex => "openvex.json",
            Self::Report => "json",
        }
    }

    /// Returns whether it is a JSON object.
    pub const fn is_json(self) -> bool {
        !matches!(self, Self::FindingsCsv | Self::PackagesCsv)
    }

    pub(super) fn writer(self) -> Box<dyn Writer> {
        match self {
            Self::CycloneDx => Box::new(CycloneDx::default()),
            Self::Spdx => Box::new(Spdx::default()),
            Self::FindingsCsv => Box::new(FindingsTable),
            Self::PackagesCsv => Box::new(PackagesTable),
            Self::Sarif => Box::new(Sarif::default()),
            Self::OpenVex => Box::new(OpenVex::default()),
            Self::Report => Box::new(Report),
        }
    }
}

//! The report of a scan as input of the writers of [`crate::export`].

use std::collections::HashMap;

use outcrop_proto::clock;

use crate::cli::report::{self, Layer, Report, Target};
use crate::export::{Document, Exporter, Finding, Format, Image, Package, Place, Read, Rows, Tested};

/// Writes the report in a format; `write` gets the text piece by piece.
pub(super) fn write<E>(report: &Report, format: Format, mut write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let made_at = clock::timestamp().as_second();
    let names: Vec<&str> = report.targets.iter().map(|target| target.subject.name.as_str()).collect();
    let document = Document {
        name: if let [one] = names.as_slice() { (*one).to_owned() } else { "outcrop scan".to_owned() },
        cluster: None,
        database: None,
        made_at,
        seed: format!("{made_at} {} {}", std::process::id(), names.join("\n")).into_bytes(),
    };
    let images = report.targets.iter().map(image).collect();
    let mut all: Option<Vec<(usize, Finding)>> = None;
    let mut exporter = Exporter::new(format, document, images);
    while let Some(read) = exporter.next() {
        write(&exporter.take())?;
        exporter.write(match read {
            Read::Packages(number) => Rows::Packages(packages(&report.targets[number])),
            Read::FindingsOf(number) => Rows::Findings(findings(number, &report.targets[number])),
            Read::Findings => Rows::Findings(all.get_or_insert_with(|| by_vulnerability(&report.targets)).clone()),
        });
        write(&exporter.take())?;
    }
    write(&exporter.take())
}

fn image(target: &Target) -> Image {
    let subject = &target.subject;
    let tested = |of: &crate::advisory::Assessed| Tested {
        ecosystem: of.ecosystem.clone(),
        state: of.state,
        reason: of.reason.clone(),
    };
    let place = || Place {
        namespace: subject.namespace.clone(),
        workload: subject.pod.as_ref().map(|pod| format!("Pod/{pod}")),
        container: subject.name.clone(),
    };
    Image {
        is_container: subject.image.is_some(),
        name: subject.image.clone().unwrap_or_else(|| subject.name.clone()),
        coverage: Some(target.coverage.clone()),
        distribution: target.distro.clone(),
        assessed: target.assessed.iter().map(tested).collect(),
        places: subject.image.iter().map(|_| place()).collect(),
        ..Image::default()
    }
}

fn layer(target: &Target, index: usize) -> Option<String> {
    let Layer { diff_id, chain_id } = target.layers.get(index)?;
    let named = |kind: &str, id: &Option<String>| id.as_ref().map(|id| format!("{kind}:{id}"));
    named("diff", diff_id).or_else(|| named("chain", chain_id))
}

/// Returns the packages, sorted as the exporter needs them.
fn packages(target: &Target) -> Vec<Package> {
    let package = |package: &report::Package| Package {
        purl: package.purl.clone(),
        r#type: package.r#type.to_owned(),
        name: package.name.clone(),
        version: package.version.clone(),
        licenses: package.licenses.clone(),
        evidence: package.evidence.clone(),
        layer: layer(target, package.layer),
    };
    let mut packages: Vec<Package> = target.packages.iter().map(package).collect();
    packages.sort_by(|a, b| (&a.purl, &a.name, &a.version, &a.r#type).cmp(&(&b.purl, &b.name, &b.version, &b.r#type)));
    packages
}

fn findings(number: usize, target: &Target) -> Vec<(usize, Finding)> {
    let mut packages: HashMap<&str, &report::Package> = HashMap::new();
    for package in &target.packages {
        packages.entry(&package.purl).or_insert(package);
    }
    let finding = |finding: &report::Finding| {
        let package = packages.get(finding.purl.as_str());
        let finding = Finding {
            id: finding.id.clone(),
            aliases: finding.aliases.clone(),
            purl: finding.purl.clone(),
            r#type: package.map(|package| package.r#type.to_owned()).unwrap_or_default(),
            package: finding.package.clone(),
            installed: finding.installed.clone(),
            evidence: package.map(|package| package.evidence.clone()).unwrap_or_default(),
            status: finding.status,
            fixed: finding.fixed.clone(),
            severity: finding.severity,
            score: finding.score,
            summary: finding.summary.clone(),
            layer: layer(target, finding.layer),
        };
        (number, finding)
    };
    target.findings.iter().map(finding).collect()
}

/// Returns the findings of all targets, sorted as the exporter needs them.
fn by_vulnerability(targets: &[Target]) -> Vec<(usize, Finding)> {
    let mut all: Vec<(usize, Finding)> =
        targets.iter().enumerate().flat_map(|(number, target)| findings(number, target)).collect();
    let key = |(number, of): &(usize, Finding)| {
        let status = of.status.as_str();
        let severity = std::cmp::Reverse(of.severity);
        let texts = [&of.id, &of.purl, &of.package, &of.installed].map(Clone::clone);
        (texts[0].clone(), severity, texts, status, of.fixed.clone(), *number)
    };
    all.sort_by_cached_key(key);
    all
}

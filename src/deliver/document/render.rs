//! The contents of files. The same state has the same bytes, so that a file is written again only if it is another one.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use outcrop_proto::Digest;
use serde_json::{Value, json};

use super::path;
use crate::deliver::encode::line;
use crate::deliver::record::Record;
use crate::export::{Document, Exporter, Format, Image, Package, Read, Rows};
use crate::store::{
    Change, ClusterIdentity, DocumentRow, FindingChange, FindingRow, ListedPackage, PackageSetState, SubjectKey, Told,
};

/// Version of the tree of files. It grows when a path or a field changes its meaning or goes.
const TREE_VERSION: u32 = 1;

/// Returns the packages of a package set as CycloneDX 1.6.
pub fn bill(state: &PackageSetState, packages: Vec<ListedPackage>) -> Vec<u8> {
    let identity = state.identity.to_string();
    // The same packages are the same file: without a time, and without a database.
    let head = Document { name: identity.clone(), seed: identity.clone().into_bytes(), ..Document::default() };
    let image = Image {
        is_container: true,
        name: identity.clone(),
        stack: Some(identity),
        coverage: Some(state.coverage.clone()),
        distribution: state.distribution.as_ref().map(|distribution| distribution.name.clone()),
        ..Image::default()
    };
    let package = |row: ListedPackage| Package {
        purl: row.purl,
        r#type: row.r#type,
        name: row.name,
        version: row.version,
        evidence: row.evidence.lines().map(ToOwned::to_owned).collect(),
        ..Package::default()
    };
    let mut packages: Vec<Package> = packages.into_iter().map(package).collect();
    let mut exporter = Exporter::new(Format::CycloneDx, head, vec![image]);
    while let Some(read) = exporter.next() {
        if let Read::Packages(_) = read {
            exporter.write(Rows::Packages(std::mem::take(&mut packages)));
        }
    }
    exporter.take().into_bytes()
}

/// Returns the lines of a package set: its record, and one of each finding.
///
/// # Errors
/// When a value cannot be written as JSON, which does not happen.
pub fn finding_lines(state: PackageSetState, findings: Vec<(FindingRow, i64)>) -> std::io::Result<String> {
    let identity = state.identity;
    // Another database that finds the same does not make it another file.
    let state = PackageSetState { matched: None, ..state };
    let mut text = record(Change::PackageSet { package_set: state, is_new: true })?;
    for (finding, opened) in findings {
        let change = FindingChange::Present;
        text.push_str(&record(Change::Finding { change, package_set: identity, finding, opened })?);
    }
    Ok(text)
}

fn record(change: Change) -> std::io::Result<String> {
    Ok(line(&Record::of(&Told { at: None, change }))?)
}

/// Returns the package sets of the containers of a workload, or of another subject; they have the same path.
///
/// # Errors
/// When a value cannot be written as JSON, which does not happen.
pub fn containers(told: &[(SubjectKey, Vec<Digest>)]) -> std::io::Result<Vec<u8>> {
    let package_set = |identity: &Digest| {
        let identity = identity.to_string();
        json!({ "sbom": path::sbom(&identity), "findings": path::findings(&identity), "package_set": identity })
    };
    let mut containers: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (subject, package_sets) in told {
        let name: &str = match subject {
            SubjectKey::WorkloadContainer { container, .. } | SubjectKey::Container { container, .. } => container,
            SubjectKey::Node { .. } => "",
        };
        containers.entry(name).or_default().extend(package_sets.iter().map(package_set));
    }
    let subject = match told.first().map(|(subject, _)| subject) {
        Some(SubjectKey::WorkloadContainer { workload, .. }) => json!({ "kind": "workload", "workload": workload }),
        Some(SubjectKey::Container { node, namespace, .. }) => {
            json!({ "kind": "container", "node": &**node, "namespace": &**namespace })
        }
        Some(SubjectKey::Node { node }) => json!({ "kind": "node", "node": &**node }),
        None => Value::Null,
    };
    let containers: Vec<Value> =
        containers.into_iter().map(|(name, sets)| json!({ "container": name, "package_sets": sets })).collect();
    let document = json!({ "version": TREE_VERSION, "subject": subject, "containers": containers });
    Ok(line(&document)?.into_bytes())
}

/// The report of a day while it is written: records of the format `outcrop`, compressed.
#[derive(Debug)]
pub struct Report(GzEncoder<Vec<u8>>);

impl Report {
    /// Begins a report.
    ///
    /// # Errors
    /// When a value cannot be written as JSON, which does not happen.
    pub fn begin(database: Option<Digest>) -> std::io::Result<Self> {
        let mut report = Self(GzEncoder::new(Vec::new(), Compression::default()));
        report.push(&record(Change::SnapshotBegins { database })?)?;
        Ok(report)
    }

    /// Adds lines.
    ///
    /// # Errors
    /// When they cannot be compressed, which does not happen.
    pub fn push(&mut self, lines: &str) -> std::io::Result<()> {
        self.0.write_all(lines.as_bytes())
    }

    /// Adds a subject.
    ///
    /// # Errors
    /// When a value cannot be written as JSON, which does not happen.
    pub fn subject(&mut self, subject: SubjectKey, package_sets: Vec<Digest>) -> std::io::Result<()> {
        self.push(&record(Change::Subject { subject, package_sets })?)
    }

    /// Returns the content.
    ///
    /// # Errors
    /// When a value cannot be written as JSON, which does not happen.
    pub fn end(mut self) -> std::io::Result<Vec<u8>> {
        self.push(&record(Change::SnapshotEnds)?)?;
        self.0.finish()
    }
}

/// The manifest while it is written. It has no time: the same files have the same manifest.
#[derive(Debug)]
pub struct Manifest {
    text: String,
    is_empty: bool,
}

impl Manifest {
    /// Begins a manifest. One that is not complete names files that are not being replaced at the moment.
    ///
    /// # Errors
    /// When a value cannot be written as JSON, which does not happen.
    pub fn begin(cluster: &ClusterIdentity, complete: bool) -> std::io::Result<Self> {
        let head = json!({
            "version": TREE_VERSION,
            "outcrop": env!("CARGO_PKG_VERSION"),
            "cluster": { "uid": cluster.key, "name": cluster.name },
            "complete": complete,
        });
        let head = line(&head)?;
        Ok(Self { text: format!("{},\"files\":[", head.trim_end().trim_end_matches('}')), is_empty: true })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When a value cannot be written as JSON, which does not happen.
    pub fn push(&mut self, file: &DocumentRow) -> std::io::Result<()> {
        let digest = file.digest.to_string();
        let digest = digest.trim_start_matches("sha256:");
        let entry = line(&json!({ "path": file.name, "sha256": digest, "size": file.size }))?;
        self.text.push_str(if self.is_empty { "\n" } else { ",\n" });
        self.text.push_str(entry.trim_end());
        self.is_empty = false;
        Ok(())
    }

    /// Returns the content.
    pub fn end(mut self) -> Vec<u8> {
        self.text.push_str("\n]}\n");
        self.text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::{Coverage, CoverageState, Distribution};

    use super::*;
    use crate::store::WorkloadKey;

    fn state() -> PackageSetState {
        PackageSetState {
            identity: Digest([0xab; 32]),
            distribution: Some(Distribution {
                id: "debian".into(),
                version_id: "12".into(),
                ..Distribution::default()
            }),
            packages: 1,
            coverage: Coverage::new(CoverageState::Partial, "\u{202e}odd"),
            matched: Some(Digest([1; 32])),
        }
    }

    #[test]
    fn a_bill_has_what_a_reader_of_cyclonedx_needs_and_no_character_that_misleads() {
        let package = ListedPackage {
            id: 1,
            place: 0,
            layer: 0,
            r#type: "deb".into(),
            name: "lib\u{202e}ssl".into(),
            version: "3".into(),
            purl: "pkg:deb/debian/libssl@3?distro=debian-12".into(),
            evidence: "/var/lib/dpkg/status\n/other".into(),
        };
        let content = bill(&state(), vec![package]);
        let text = String::from_utf8(content.clone()).unwrap();
        assert!(text.is_ascii(), "{text}");
        let listed = crate::export::cyclonedx::read(&content).unwrap();
        assert_eq!(listed.packages.len(), 1);
        assert_eq!(listed.distribution.unwrap().version_id, "12");
        let bill: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&bill["specVersion"], &bill["components"][0]["type"]), (&json!("1.6"), &json!("container")));
        assert!(bill.get("vulnerabilities").is_none(), "they are in a file of their own");
        assert_eq!(bill["components"][0]["components"][0]["properties"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn findings_are_the_same_file_after_another_database_that_finds_the_same() {
        let with = |matched| finding_lines(PackageSetState { matched, ..state() }, Vec::new()).unwrap();
        assert_eq!(with(None), with(Some(Digest([2; 32]))));
        assert!(with(None).starts_with("{\"kind\":\"package-set\",\"package_set\":\"sha256:abab"));
    }

    #[test]
    fn a_workload_names_the_files_of_each_container() {
        let workload = WorkloadKey {
            namespace: "shop".into(),
            group: "apps".into(),
            kind: "Deployment".into(),
            name: "web".into(),
        };
        let of = |container: &str, sets: &[u8]| {
            let subject = SubjectKey::WorkloadContainer { workload: workload.clone(), container: container.into() };
            (subject, sets.iter().map(|byte| Digest([*byte; 32])).collect::<Vec<_>>())
        };
        let content = containers(&[of("app", &[1, 2]), of("proxy", &[3])]).unwrap();
        let document: Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(document["subject"]["workload"]["name"], "web");
        let sets = &document["containers"][0]["package_sets"];
        assert_eq!((sets.as_array().unwrap().len(), &document["containers"][1]["container"]), (2, &json!("proxy")));
        assert_eq!(sets[1]["findings"], format!("findings/sha256/{}.jsonl", "02".repeat(32)));
    }

    #[test]
    fn a_manifest_is_json_with_one_file_in_each_line() {
        let cluster = ClusterIdentity { key: "uid".into(), name: "pr\"od".into() };
        let file = |name: &str| DocumentRow {
            name: name.into(),
            digest: Digest::of(b"x"),
            size: 1,
            remote: None,
            stale: false,
        };
        for names in [&[][..], &["a.json"], &["a.json", "b.json"]] {
            let mut manifest = Manifest::begin(&cluster, true).unwrap();
            names.iter().for_each(|name| manifest.push(&file(name)).unwrap());
            let manifest: Value = serde_json::from_slice(&manifest.end()).unwrap();
            let paths: Vec<_> = manifest["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
            assert_eq!(paths, names.iter().collect::<Vec<_>>());
            assert_eq!((&manifest["cluster"]["name"], &manifest["complete"]), (&json!("pr\"od"), &json!(true)));
        }
    }

    #[test]
    fn a_report_is_a_snapshot_in_lines() {
        let mut report = Report::begin(Some(Digest([3; 32]))).unwrap();
        report.push(&finding_lines(state(), Vec::new()).unwrap()).unwrap();
        report.subject(SubjectKey::Node { node: "n".into() }, vec![Digest([0xab; 32])]).unwrap();
        let text = crate::deliver::readable(&report.end().unwrap(), 1 << 20);
        let kinds: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
        assert_eq!(kinds, ["snapshot-begin", "package-set", "subject", "snapshot-end"]);
    }
}

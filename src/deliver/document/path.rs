//! Paths of files. No part of one is more than letters, digits and `-._~%`, and none begins with a dot, whatever an image or a cluster says.

use std::fmt::Write as _;

use outcrop_proto::Digest;

use crate::store::SubjectKey;

/// The file that lists all others.
pub const MANIFEST: &str = "manifest.json";

/// Folder of the reports.
pub const REPORTS: &str = "reports/";

/// Name of a report in the folder of its day.
pub const FINDINGS: &str = "findings.jsonl.gz";

/// Longest part of a path, bytes. File systems have 255.
const LONGEST: usize = 200;

/// Returns the path of the packages of a package set.
pub fn sbom(identity: &str) -> String {
    format!("sboms/{}.cdx.json", identity_parts(identity))
}

/// Returns the path of the findings of a package set.
pub fn findings(identity: &str) -> String {
    format!("findings/{}.jsonl", identity_parts(identity))
}

/// Returns the path of the report of a day.
pub fn report(day: &str) -> String {
    format!("{REPORTS}{}/{FINDINGS}", part(day))
}

/// Returns the path of a subject: containers of one workload have the same.
pub fn subject(subject: &SubjectKey) -> String {
    match subject {
        SubjectKey::WorkloadContainer { workload, .. } => {
            let kind = match workload.group.is_empty() {
                true => part(&workload.kind),
                false => part(&format!("{}.{}", workload.kind, workload.group)),
            };
            format!("workloads/{}/{kind}/{}.json", part(&workload.namespace), part(&workload.name))
        }
        SubjectKey::Container { node, namespace, container } => {
            format!("containers/{}/{}/{}.json", part(node), part(namespace), part(container))
        }
        SubjectKey::Node { node } => format!("nodes/{}.json", part(node)),
    }
}

/// `sha256:DIGEST` as two parts.
fn identity_parts(identity: &str) -> String {
    let (algorithm, digits) = identity.split_once(':').unwrap_or(("", identity));
    format!("{}/{}", part(algorithm), part(digits))
}

/// Returns a text as one part of a path: other texts have other parts, and what a file system or a reader could take for something else is
/// percent-encoded. The end of one that is too long is replaced by a digest of all of it.
fn part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && index > 0;
        if is_plain {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if out.len() > LONGEST {
        let digest = Digest::of(text.as_bytes()).to_string();
        out.truncate(LONGEST - 80);
        // `~` is in no other part.
        let _ = write!(out, "~{}", digest.trim_start_matches("sha256:"));
    }
    match out.is_empty() {
        true => "~".to_owned(),
        false => out,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::WorkloadKey;

    fn workload(namespace: &str, group: &str, kind: &str, name: &str) -> String {
        let [namespace, group, kind, name] = [namespace, group, kind, name].map(Into::into);
        subject(&SubjectKey::WorkloadContainer {
            workload: WorkloadKey { namespace, group, kind, name },
            container: "app".into(),
        })
    }

    fn container(node: &str, namespace: &str, container: &str) -> String {
        let [node, namespace, container] = [node, namespace, container].map(Into::into);
        subject(&SubjectKey::Container { node, namespace, container })
    }

    #[test]
    fn paths_are_readable_where_names_are_ordinary() {
        assert_eq!(workload("shop", "apps", "Deployment", "web"), "workloads/shop/Deployment.apps/web.json");
        assert_eq!(workload("shop", "", "Pod", "web.v1"), "workloads/shop/Pod/web.v1.json");
        assert_eq!(container("n-1", "k8s.io", "app"), "containers/n-1/k8s.io/app.json");
        let identity = Digest([0xab; 32]).to_string();
        assert_eq!(sbom(&identity), format!("sboms/sha256/{}.cdx.json", "ab".repeat(32)));
        assert_eq!(report("2026-11-30"), "reports/2026-11-30/findings.jsonl.gz");
    }

    #[test]
    fn hostile_names_stay_within_their_folder_and_never_meet() {
        let long = "a".repeat(300);
        let longer = "a".repeat(301);
        let hostile = [
            "..",
            ".",
            "",
            "../../etc/passwd",
            "a/b",
            "a\0b",
            "%2E",
            "a\nb",
            "\u{202e}a",
            "~",
            "A",
            "a",
            &long,
            &longer,
        ];
        let mut paths = BTreeSet::new();
        for name in hostile {
            for path in [container("n", "ns", name), container("n", name, "c"), workload(name, "apps", "Job", "w")] {
                let parts: Vec<&str> = path.split('/').collect();
                assert_eq!(parts.len(), 4, "{path}");
                for part in parts {
                    assert!(!part.is_empty() && !part.starts_with('.') && part.len() <= 255, "{path}");
                    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
                    assert!(part.bytes().all(is_safe), "{path}");
                }
                paths.insert(path);
            }
        }
        assert_eq!(paths.len(), hostile.len() * 3, "each has a path of its own");
    }
}

//! Tests of the table of rules.

#![allow(clippy::unwrap_used, reason = "a step that fails is a failed test, in helpers too")]

use std::collections::BTreeMap;

use super::{MAX_ISSUES, PodSecurity, check, level};

fn verdict(spec: &str) -> PodSecurity {
    level(&check(&BTreeMap::new(), &serde_json::from_str(spec).unwrap()).list)
}

#[test]
fn a_pod_has_the_level_that_its_settings_deserve() {
    let hardened = r#"{"volumes":null,"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"a",
        "ports":null,"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}"#;
    for (spec, expected) in [
        (hardened, PodSecurity::Restricted),
        (r#"{"containers":[{"name":"a"}]}"#, PodSecurity::Baseline),
        (r#"{"hostPID":true}"#, PodSecurity::Privileged),
        (r#"{"volumes":[{"name":"v","hostPath":{"path":"/"}}]}"#, PodSecurity::Privileged),
        (r#"{"volumes":[{"name":"v","nfs":{"path":"/"}}]}"#, PodSecurity::Baseline),
        (r#"{"volumes":[{"name":"v","hostPath":null,"emptyDir":{}}]}"#, PodSecurity::Restricted),
    ] {
        assert_eq!(verdict(spec), expected, "{spec}");
    }
}

#[test]
fn a_flood_of_issues_is_cut_and_says_so() {
    let pod = serde_json::json!({ "hostPID": true, "containers": vec![serde_json::json!({ "name": "a" }); 1000] });
    let issues = check(&BTreeMap::new(), &serde_json::from_value(pod).unwrap());
    assert!(issues.cut && issues.list.len() <= MAX_ISSUES);
}

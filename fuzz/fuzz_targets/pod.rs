//! Pods, as anybody may write them who may make one: any JSON is a specification or an error, and its issues are few.

#![no_main]

use outcrop::cluster::checks::{MAX_ISSUES, PodSpec, check, level};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(pod) = serde_json::from_slice::<PodSpec>(data) {
        let issues = check(&[("container.apparmor.security.beta.kubernetes.io/a".to_owned(), "unconfined".to_owned())].into(), &pod);
        assert!(issues.list.len() <= MAX_ISSUES);
        let _ = level(&issues.list);
    }
});

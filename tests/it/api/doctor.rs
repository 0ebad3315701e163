//! `outcrop doctor` with an aggregator: its checks, and the secrets that its archive must not contain.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use super::command_line::golden;
use super::fake::Fake;
use super::server::{Server, certificate};
use super::who::token;

/// What the checks of this name came to.
fn results(document: &Value, name: &str) -> Vec<String> {
    let checks = document["checks"].as_array().unwrap().iter().filter(|check| check["check"] == name);
    checks.map(|check| check["result"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_table_looks_as_it_did_and_fails_where_a_check_does() {
    let server = Server::open(Fake::new(3, 4));
    let output = server.outcrop(&["doctor"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // How far two clocks are apart is the machine's, also where they are one.
    let lines = std::str::from_utf8(&output.stdout).unwrap().split_inclusive('\n');
    golden("doctor.txt", &lines.filter(|line| !line.starts_with("clock ")).collect::<String>());
    let old = server.outcrop(&["doctor", "--max-age", "3650", "-o", "json"]);
    let document: Value = serde_json::from_slice(&old.stdout).unwrap();
    assert_eq!(results(&document, "database age"), ["ok"]);
}

#[test]
fn a_certificate_of_another_authority_is_told_with_what_to_do() {
    let (one, two) = (certificate(), certificate());
    let server = Server::with_tls(Fake::new(2, 2), |dir| {
        fs::write(dir.join("tls.crt"), &one.0).unwrap();
        fs::write(dir.join("tls.key"), &one.1).unwrap();
        fs::write(dir.join("one.pem"), &one.0).unwrap();
        fs::write(dir.join("two.pem"), &two.0).unwrap();
    });
    for (ca, tls, api) in [("one.pem", "ok", "ok"), ("two.pem", "fail", "fail")] {
        let output = server.outcrop(&["doctor", "-o", "json", "--ca", server.at(ca).to_str().unwrap()]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (results(&document, "TLS"), results(&document, "API")),
            (vec![tls.to_owned()], vec![api.to_owned()])
        );
        assert_eq!(document["failed"].as_u64().unwrap() > 0, output.status.code() == Some(1), "{document}");
    }
}

#[test]
fn nobody_there_is_a_failed_check_and_still_an_archive() {
    let server = Server::open(Fake::new(1, 1));
    let bundle = server.at("bundle.tar.gz").display().to_string();
    let output = server.outcrop(&["doctor", "--server", "http://127.0.0.1:1", "--bundle", &bundle]);
    let (told, note) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("check that the aggregator is running") && note.contains("review it before"), "{told}{note}");
    assert_eq!(names(&bytes(Path::new(&bundle))), ["README.txt", "checks.json", "versions.json"]);
    let unwritable = server.outcrop(&["doctor", "--bundle", "/nonexistent/bundle.tar.gz"]);
    let told = String::from_utf8(unwritable.stderr).unwrap();
    assert!(unwritable.status.code() == Some(1) && told.contains("/nonexistent/bundle.tar.gz"), "{told}");
}

#[test]
fn the_token_that_was_shown_is_not_in_the_archive() {
    let server = Server::with_tokens(Fake::new(3, 4));
    let token = token(&server, "me", "read", "");
    fs::write(server.at("token"), &token).unwrap();
    let bundle = server.at("bundle.tar.gz");
    let at = |name: &str| server.at(name).display().to_string();
    let output = server.outcrop(&["doctor", "--token-file", &at("token"), "--bundle", &at("bundle.tar.gz")]);
    let bytes = bytes(&bundle);
    assert_eq!(
        names(&bytes),
        ["README.txt", "checks.json", "versions.json", "api/status.json", "api/nodes.json"],
        "{output:?}"
    );
    assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "the token is in it");
    // Only its owner may read it.
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&bundle).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_aggregator_that_other_commands_find_is_checked_by_doctor_too() {
    if !rustix::process::geteuid().is_root() {
        crate::skip::skip("root", "a network namespace with the default port");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokens"), "").unwrap();
    let script = r#"ip link set lo up
        "$OUTCROP" doctor -o json > without.json
        "$OUTCROP" aggregator --cluster test --insecure --tokens tokens --listen 127.0.0.1:7443 --api 127.0.0.1:7480 --data data 2> log &
        for try in $(seq 600); do "$OUTCROP" status > status 2> error && break; sleep 0.1; done
        "$OUTCROP" doctor -o json > with.json
        kill $!"#;
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "sh", "-c", script]).current_dir(dir.path()).env("OUTCROP", env!("CARGO_BIN_EXE_outcrop"));
    for variable in ["KUBECONFIG", "OUTCROP_KUBECONFIG", "OUTCROP_SERVER", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(variable);
    }
    let output = command.env("HOME", dir.path()).output().unwrap();
    let document = |name: &str| {
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"))
    };
    assert_eq!(results(&document("without.json"), "API"), ["skipped"]);
    assert_eq!(results(&document("with.json"), "API"), ["ok"], "{:#}", document("with.json"));
    assert_eq!(results(&document("with.json"), "nodes"), ["fail"], "no agent has attached");
}

/// The archive's bytes, unpacked.
#[allow(clippy::disallowed_types, reason = "it was packed by what is tested, and is small")]
fn bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
    names.map(|name| name.strip_prefix("outcrop-doctor/").unwrap().to_owned()).collect()
}

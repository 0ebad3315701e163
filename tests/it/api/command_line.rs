//! The output of `outcrop get`, `status` and `who-has`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fake::Fake;
use super::server::Server;

/// Compares `text` with the file of this name; with `UPDATE_GOLDEN=1` the file is written.
pub(super) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cli").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, known,
        "{name} differs; to accept the new output, run UPDATE_GOLDEN=1 cargo test --workspace --test it api::"
    );
}

#[test]
fn tables_equal_the_expected_output() {
    let server = Server::open(Fake::new(3, 4));
    let commands: [(&str, &[&str]); 16] = [
        ("workloads.txt", &["get", "workloads", "-A"]),
        ("workloads-wide.txt", &["get", "wl", "-n", "shop", "-l", "app=web", "-o", "wide"]),
        ("issues.txt", &["get", "issues"]),
        ("describe.txt", &["describe", "deploy/web-2", "-n", "shop"]),
        ("nodes.txt", &["get", "nodes"]),
        ("nodes-wide.txt", &["get", "no", "-o", "wide"]),
        ("containers.txt", &["get", "containers"]),
        ("images.txt", &["get", "image"]),
        ("layers-by-impact.txt", &["get", "layers", "--by-impact"]),
        ("packages.txt", &["get", "pkgs", "--no-headers"]),
        ("findings.txt", &["get", "findings", "--severity", "high"]),
        ("findings.csv", &["get", "findings", "-o", "csv"]),
        ("containers.yaml", &["get", "containers", "-o", "yaml", "--limit", "2"]),
        ("advisory.txt", &["get", "advisory", "CVE-2021-44228"]),
        ("who-has.txt", &["who-has", "log4j-core"]),
        ("status.txt", &["status"]),
    ];
    for (name, arguments) in commands {
        golden(name, &server.told(arguments));
    }
}

#[test]
fn a_list_of_many_pages_is_complete_in_every_format() {
    let server = Server::open(Fake::new(2, 2_345));
    assert_eq!(server.told(&["get", "containers", "--no-headers"]).lines().count(), 2_345);
    assert_eq!(server.told(&["get", "containers", "-o", "csv"]).split("\r\n").count(), 2_345 + 2);
    let json: Value = serde_json::from_str(&server.told(&["get", "containers", "-o", "json"])).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 2_345);
    let yaml: Value =
        serde_saphyr::from_str(&server.told(&["get", "containers", "-o", "yaml", "--limit", "1001"])).unwrap();
    assert_eq!(yaml["items"].as_array().unwrap().len(), 1_001);
    assert_eq!(server.told(&["get", "containers", "-n", "bank", "--no-headers"]).lines().count(), 1_172);
    assert_eq!(
        server
            .told(&["get", "ctr", "--field-selector", "namespace=bank,node=node-1", "--limit", "5", "--no-headers"])
            .lines()
            .count(),
        5
    );
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let server = Server::open(Fake::new(2, 3_000));
    let script = format!(
        "{} get findings -o json --server http://{} | head -c 10; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_outcrop"),
        server.address
    );
    let status = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn an_empty_result_mentions_containers_that_were_not_scanned() {
    let server = Server::open(Fake::new(3, 4));
    assert_eq!(
        server.told(&["who-has", "nobody"]),
        "no matches: 1 partial of 4 containers are not completely scanned; outcrop status shows the reasons\n"
    );
    let output = server.outcrop(&["who-has", "nobody", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["items"], serde_json::json!([]));
    assert!(
        String::from_utf8(output.stderr).unwrap().starts_with("no matches"),
        "the note must not be part of the output"
    );
    let none = server.told(&["get", "containers", "-n", "nowhere"]);
    assert!(none.starts_with("no containers found"), "{none}");
}

#[test]
fn errors_have_an_exit_code_and_a_hint() {
    let server = Server::open(Fake::new(3, 4));
    for (arguments, code, expected) in [
        (&["get", "layers", "-n", "shop"][..], 64, "layers have no filter \"namespace\": expected one of id, state"),
        (&["get", "layers", "--sort-by", "color"], 64, "expected one of id, findings, containers"),
        (&["get", "nodes", "--by-impact"], 64, "applies to layers only"),
        (&["get", "nodes", "--limit", "0"], 64, "invalid value 0 for --limit"),
        (&["get", "nodes", "--field-selector", "attached"], 64, "expected FIELD=VALUE"),
        (&["get", "nodes", "--field-selector", "attached=perhaps"], 64, "expected true or false"),
        (&["get", "images", "-l", "app=web"], 64, "images have no filter \"labels\""),
        (&["get", "workloads", "-A", "-n", "shop"], 64, "cannot be used with"),
        (&["describe", "deploy/none"], 1, "no workload \"deploy/none\" with pods found"),
        (&["describe", "web"], 64, "matches several workloads"),
        (&["describe", "deploy/web-2", "-o", "csv"], 64, "possible values: table, json, yaml"),
        (&["get", "advisory"], 64, "the name of the advisory is missing"),
        (&["get", "advisory", "CVE-1"], 1, "no advisory is known as CVE-1"),
        (&["get", "advisory", "CVE-2021-44228", "-o", "csv"], 64, "-o csv is not available"),
        (&["get", "advisory", "../status"], 1, "no advisory is known as ../status"),
        (&["get", "pods"], 64, "pods"),
        (&["who-has", "!"], 64, "invalid question"),
        (&["node", "trust", "nobody"], 1, "no node is called nobody"),
        (&["db", "push", "/nonexistent"], 1, "/nonexistent"),
        (&["status", "--server", "http://127.0.0.1:1"], 1, "check that the aggregator is running"),
        (&["status", "--server", "https://127.0.0.1:1"], 64, "--ca"),
        (&["status", "--token-file", "/nonexistent"], 1, "/nonexistent"),
        (&["status", "--token-file", "/nonexistent", "--server", "http://192.0.2.1"], 64, "without TLS"),
    ] {
        let output = server.outcrop(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && told.contains(expected), "{arguments:?} {code}: {told}");
    }
}

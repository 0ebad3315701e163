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
    let output = server.outcrop(&["who-has", "nobody"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    let told = String::from_utf8(output.stderr).unwrap();
    let unread = "no matches: 1 partial of 4 containers are not completely scanned; outcrop status shows the reasons\n";
    assert!(told.ends_with(unread), "{told}");
    let output = server.outcrop(&["who-has", "nobody", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["items"], serde_json::json!([]));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("no matches"),
        "the note must not be part of the output"
    );
    let none = server.outcrop(&["get", "containers", "-n", "nowhere", "--no-headers"]);
    let told = String::from_utf8(none.stderr).unwrap();
    assert!(none.stdout.is_empty() && told.contains("no containers found"), "{told}");
}

#[test]
fn a_list_with_a_limit_says_that_there_is_more() {
    let server = Server::open(Fake::new(3, 4));
    for (limit, expected) in [("3", "--limit shows the first 3 items; there are more\n"), ("4", ""), ("5", "")] {
        for format in ["table", "json", "csv"] {
            let output = server.outcrop(&["get", "containers", "--limit", limit, "-o", format]);
            assert_eq!(String::from_utf8(output.stderr).unwrap(), expected, "{limit} {format}");
            assert_eq!(output.status.code(), Some(0));
        }
    }
}

#[test]
fn a_filter_value_that_nothing_has_is_named_on_standard_error() {
    let server = Server::open(Fake::new(3, 4));
    for (arguments, expected) in [
        (&["get", "containers", "-n", "nowhere"][..], "no container runs in namespace \"nowhere\"; list them with"),
        (&["get", "containers", "--node", "nope", "-o", "json"], "no node has the name \"nope\""),
        (&["get", "containers", "-n", "shop", "--node", "node-1"], ""),
    ] {
        let output = server.outcrop(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with("no containers found")).collect();
        assert_eq!(lines.len(), usize::from(!expected.is_empty()), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
}

#[test]
fn a_server_that_is_not_the_api_is_named_with_what_to_do() {
    let (certificate, key) = super::server::certificate();
    let with_tls = Server::with_tls(Fake::new(1, 1), |dir| {
        fs::write(dir.join("tls.crt"), &certificate).unwrap();
        fs::write(dir.join("tls.key"), &key).unwrap();
    });
    let plain = Server::open(Fake::new(1, 1));
    let ca = with_tls.at("tls.crt").display().to_string();
    let (http, https) = (format!("http://{}", with_tls.address), format!("https://{}", plain.address));
    // A server that speaks another protocol.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::Write as _;
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    for (server, expected) in [
        (&http, "if it serves TLS, pass https:// and --ca FILE"),
        (&https, "the server does not speak TLS; pass http://"),
        (&other, "did not answer in HTTP/1.1"),
    ] {
        let output = plain.outcrop(&["status", "--server", server, "--ca", &ca]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{server}: {told}");
        assert!(told.contains(expected) && told.starts_with(&format!("outcrop: requesting {server}: ")), "{told}");
    }
}

#[test]
fn an_api_server_that_is_down_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kubeconfig");
    let text = r#"{ "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{ "name": "a", "cluster": { "server": "https://127.0.0.1:1" } }],
        "users": [{ "name": "a", "user": {} }],
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }] }"#;
    fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outcrop"));
    command.args(["status", "--kubeconfig"]).arg(&config).env_remove("OUTCROP_SERVER");
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("the API server did not respond (Connection refused"), "{told}");
    assert!(told.contains("check the server in the kubeconfig") && !told.contains("client error"), "{told}");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outcrop"));
    command.args(["doctor", "-o", "json", "--kubeconfig"]).arg(&config).env_remove("OUTCROP_SERVER");
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("the API server did not respond: Connection refused"), "{told}");
    assert!(!told.contains("client error") && output.status.code() == Some(1), "{told}");
}

#[test]
fn who_may_read_some_namespaces_only_is_told_so_and_not_that_there_is_no_agent() {
    let server = Server::with_tokens(Fake::new(0, 0));
    for (namespaces, expected, unexpected) in [
        ("shop", "may read some namespaces only", "start outcrop-agent"),
        ("", "no node has attached; start outcrop-agent", "may read some namespaces only"),
    ] {
        fs::write(server.at("token"), super::who::token(&server, &format!("me{namespaces}"), "read", namespaces))
            .unwrap();
        let token = server.at("token").display().to_string();
        let told = server.told(&["status", "--token-file", &token]);
        assert!(told.contains(expected) && !told.contains(unexpected), "{told}");
    }
}

#[test]
fn errors_have_an_exit_code_and_a_hint() {
    let server = Server::open(Fake::new(3, 4));
    for (arguments, code, expected) in [
        (&["get", "layers", "-n", "shop"][..], 64, "layers have no filter \"namespace\": expected one of id, state"),
        (&["get", "layers", "--sort-by", "color"], 64, "expected one of id, findings, containers"),
        (&["get", "findings", "--severity", "UNKNOWN"], 64, "--field-selector severity=unknown"),
        (&["who-has", "CVE-2099-1"], 1, "CVE-2099-1 is not in the advisory database (newest record 2026-11-01)"),
        (&["status", "--server", "127.0.0.1:7480"], 64, "the scheme is missing; pass http://127.0.0.1:7480"),
        (&["status", "--server", "ftp://127.0.0.1"], 64, "expected http://HOST:PORT"),
        (&["status", "--server", "http://"], 64, "expected http://HOST:PORT"),
        (&["status", "--server", "http://does-not-exist.invalid"], 1, "the host name was not found"),
        (&["status", "--server", "http://127.0.0.1:99999"], 64, "the port is not a number from 1 to 65535"),
        (&["status", "--server", "http://127.0.0.1:0"], 64, "the port is not a number from 1 to 65535"),
        (&["status", "--server", "http://me:secret@127.0.0.1:7480"], 64, "for --server: it contains a user name"),
        (&["status", "--server", "http://127.0.0.1:7480/elsewhere"], 64, "it has a path or a query"),
        (&["status", "--server", "http://127.0.0.1:7480?x=1"], 64, "it has a path or a query"),
        (&["status", "--context", "prod"], 64, "--context selects an aggregator in a cluster, and --server"),
        (&["status", "--token-file", "/dev/null"], 1, "the token file /dev/null is empty"),
        (&["get", "nodes", "nobody"], 1, "no node has the name \"nobody\""),
        (&["get", "nodes", "--limit", "-1"], 64, "invalid value '-1' for '--limit"),
        (&["db", "push", "/"], 64, "/ is not a file"),
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
        assert!(!told.contains("secret"), "a password is printed: {told}");
    }
}

//! Documents for other tools, over the API and from the command line.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outcrop::web::is_treacherous;
use serde_json::{Value, json};

use super::fake::{Fake, HOSTILE};
use super::server::Server;
use crate::service_parts::until;

/// Path, parameters, media type, file name.
const DOCUMENTS: [(&str, &str, &str, &str); 7] = [
    ("sbom", "", "application/vnd.cyclonedx+json; version=1.6", "outcrop-sbom.cdx.json"),
    ("sbom", "?format=spdx", "application/spdx+json", "outcrop-sbom.spdx.json"),
    ("findings", "", "text/csv; charset=utf-8; header=present", "outcrop-findings.csv"),
    ("findings", "?format=sarif", "application/sarif+json", "outcrop-findings.sarif"),
    ("packages", "", "text/csv; charset=utf-8; header=present", "outcrop-packages.csv"),
    ("vex", "?format=openvex", "application/json", "outcrop-vex.openvex.json"),
    ("report", "", "application/json", "outcrop-report.json"),
];

/// Every text in a value.
fn texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

#[test]
fn every_document_is_complete_and_no_character_of_it_misleads() {
    let server = Server::open(Fake::new(1, 3));
    for (content, parameters, kind, file) in DOCUMENTS {
        let answer = server.get(&format!("/api/v1/exports/{content}{parameters}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("Content-Type"), kind);
        assert_eq!(answer.header("Content-Disposition"), format!("attachment; filename=\"{file}\""));
        assert_eq!(answer.header("Cache-Control"), "no-store");
        // `tests/export/run` validates them with tools that others wrote.
        if let Some(directory) = std::env::var_os("OUTCROP_EXPORTS").map(PathBuf::from) {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(file), &answer.body).unwrap();
        }
        let misleads = |character: char| !['\n', '\r'].contains(&character) && is_treacherous(character);
        assert!(!answer.body.contains(misleads), "{content}: {}", answer.body);
        if kind.contains("csv") {
            for row in csv_rows(&answer.body) {
                let is_formula = |cell: &String| cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
                assert!(!row.iter().any(is_formula), "{content}: {row:?}");
            }
        } else {
            let mut found = BTreeSet::new();
            texts(&answer.json(), &mut found);
            assert!(found.iter().any(|text| text.contains(HOSTILE)), "{content}: the value stays the same: {found:?}");
        }
    }
}

/// Rows of CSV whose cells contain no line ends.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim_matches('"').replace("\"\"", "\"");
    let row = |line: &str| {
        let (mut cells, mut quoted, mut start) = (Vec::new(), false, 0);
        for (at, character) in line.char_indices() {
            match character {
                '"' => quoted = !quoted,
                ',' if !quoted => {
                    cells.push(cell(&line[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        cells.push(cell(&line[start..]));
        cells
    };
    text.split_terminator("\r\n").map(row).collect()
}

#[test]
fn each_format_says_the_same_of_the_same_images() {
    let server = Server::open(Fake::new(1, 2));
    let get = |path: &str| server.get(&format!("/api/v1/exports/{path}"));
    let bill = get("sbom").json();
    let images = bill["components"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1]["type"], "container");
    let packages = images[1]["components"].as_array().unwrap();
    assert_eq!(packages.len(), 2, "a package that is listed twice is one component: {packages:#?}");
    let paths: Vec<&Value> = packages[1]["properties"].as_array().unwrap().iter().map(|of| &of["value"]).collect();
    assert_eq!(paths[..2], [&json!("/one"), &json!("/two")]);
    let vulnerabilities = bill["vulnerabilities"].as_array().unwrap();
    assert_eq!(vulnerabilities.len(), 1, "one entry for all images: {vulnerabilities:#?}");
    let affected: Vec<&Value> = vulnerabilities[0]["affects"].as_array().unwrap().iter().map(|of| &of["ref"]).collect();
    let references: BTreeSet<&str> = images
        .iter()
        .flat_map(|image| image["components"].as_array().unwrap())
        .map(|package| package["bom-ref"].as_str().unwrap())
        .collect();
    assert_eq!(affected.len(), 2);
    assert!(affected.iter().all(|of| references.contains(of.as_str().unwrap())), "{affected:?} {references:?}");
    assert_eq!(vulnerabilities[0]["analysis"], json!({ "response": ["update"] }));

    let spdx = get("sbom?format=spdx").json();
    let ids: BTreeSet<&str> =
        spdx["packages"].as_array().unwrap().iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 6, "two images and four packages, each with its own ID");
    let relationships = spdx["relationships"].as_array().unwrap();
    let related: BTreeSet<&str> = relationships.iter().map(|of| of["relatedSpdxElement"].as_str().unwrap()).collect();
    assert_eq!(related, ids, "each is described or contained");

    let sarif = get("findings?format=sarif").json();
    let run = &sarif["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 1);
    assert_eq!(run["results"].as_array().unwrap().len(), 2);
    assert_eq!(run["tool"]["driver"]["rules"][0]["properties"]["security-severity"], "9.8");
    let notified = run["invocations"][0]["toolExecutionNotifications"].as_array().unwrap();
    assert_eq!(notified.len(), 1, "the image that is not scanned completely: {notified:#?}");

    let vex = get("vex").json();
    let statements = vex["statements"].as_array().unwrap();
    assert_eq!((statements.len(), statements[0]["products"].as_array().unwrap().len()), (1, 2));
    assert_eq!(statements[0]["status"], "affected");
    assert_eq!(statements[0]["action_statement"], "Upgrade bash to 5.2-2");

    let rows = csv_rows(&get("findings").body);
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
    let report = get("report").json();
    let schema: Value = serde_json::from_str(
        &fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report.schema.json")).unwrap(),
    )
    .unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(report["images"][1]["findings"].as_array().unwrap().len(), 1);
}

#[test]
fn a_caller_gets_documents_about_its_namespaces_only() {
    let server = Server::with_tokens(Fake::new(1, 6));
    let token = server.told(&[
        "token",
        "new",
        "--api",
        "shop",
        "--rights",
        "read",
        "--namespaces",
        "shop",
        "--tokens",
        &server.at("tokens").display().to_string(),
    ]);
    let bearer = format!("Bearer {}", token.trim());
    for (content, parameters, ..) in DOCUMENTS {
        let ask = |parameters: &str| {
            server.ask("GET", &format!("/api/v1/exports/{content}{parameters}"), &[("Authorization", &bearer)], b"")
        };
        let answer = ask(parameters);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("app-2") && !answer.body.contains("app-1"), "{content}: {}", answer.body);
        let more = if parameters.is_empty() { "?" } else { "&" };
        let other = ask(&format!("{parameters}{more}namespace=bank"));
        assert!(other.status == 200 && !other.body.contains("app-"), "{content}: {}", other.body);
    }
}

#[test]
fn a_document_is_read_as_fast_as_its_client_reads_it() {
    let fake = Fake { long: 2_000, ..Fake::new(1, 200) };
    let pages = Arc::clone(&fake.pages);
    let server = Server::open(fake);
    let mut client = server.connect();
    let host = client.peer_addr().unwrap();
    write!(client, "GET /api/v1/exports/findings HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut head = [0; 64];
    client.read_exact(&mut head).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    // Buffers of the kernel and of the connection are full when no more pages are read.
    let mut before = 0;
    until("the document to wait for its client", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = pages.load(Ordering::SeqCst);
        let is_still = now == before && now > 0;
        before = now;
        is_still
    });
    assert!(before < 1_000, "{before} of 2000 pages were read for a client that reads nothing");
    // Others are answered meanwhile.
    assert_eq!(server.get("/api/v1/status").status, 200);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "the document is complete");
    assert!(pages.load(Ordering::SeqCst) > 2_000);
}

#[test]
fn a_document_that_breaks_off_is_an_error_and_never_a_file() {
    let fake = Fake { long: 300, words: Some(("broken".to_owned(), 0)), ..Fake::new(1, 40) };
    let server = Server::open(fake);
    let file = server.at("findings.csv");
    fs::write(&file, "of yesterday").unwrap();
    let output = server.outcrop(&["export", "findings", "-o", &file.display().to_string()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("incomplete") && told.lines().count() == 1, "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of yesterday");
    assert_eq!(
        fs::read_dir(file.parent().unwrap())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp") })
            .count(),
        0,
        "no part of it is left"
    );
    let output = server.outcrop(&["export", "csv"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_command_line_writes_what_the_api_answers() {
    let server = Server::open(Fake::new(1, 4));
    let body = |path: &str| server.get(&format!("/api/v1/exports/{path}")).body;
    for (arguments, path) in [
        (&["export", "sbom"][..], "sbom"),
        (&["export", "sbom", "--format", "spdx"], "sbom?format=spdx"),
        (&["export", "sarif", "-n", "shop"], "findings?format=sarif&namespace=shop"),
        (&["export", "csv"], "findings"),
        (&["export", "findings", "--format", "csv", "-A"], "findings"),
        (&["export", "packages"], "packages"),
        (&["export", "vex"], "vex"),
        (&["export", "report", "-n", "bank"], "report?namespace=bank"),
    ] {
        assert_eq!(server.told(arguments), body(path), "{arguments:?}");
    }
    let file = server.at("bill.json");
    assert_eq!(server.told(&["export", "sbom", "-o", &file.display().to_string()]), "");
    assert_eq!(fs::read_to_string(file).unwrap(), body("sbom"));
    for (arguments, says) in [
        (&["export", "sbom", "--format", "sarif"][..], "cyclonedx or spdx"),
        (&["export", "sarif", "--format", "csv"], "contradicts"),
        (&["export", "everything"], "invalid value"),
    ] {
        let output = server.outcrop(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && told.contains(says), "{arguments:?}: {told}");
    }
}

//! Agents with real containerds and one aggregator: reports, stored data, and distrusted nodes.
//!
//! Needs what `tests/it/containerd.rs` needs; where containerd cannot be started each test says so and passes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::runtime_parts::Containerd;
use crate::runtime_parts::image::{Layer, build_with};
use crate::service_parts::{OUTCROP, Place, until};
use crate::skip::skip;
use outcrop_proto::inventory::{Inventory, compress};
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::{Refusal, Seen, VERSION, v1};
use outcrop_proto::{ContainerKey, Digest, LayerId, Runtime};
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

const BASE: Layer<'static> = &[
    ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"),
    ("var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n"),
];
const SHOP: Layer<'static> = &[("srv/package.json", r#"{"name":"shop","version":"1.0.0"}"#)];
const BANK: Layer<'static> = &[("srv/package.json", r#"{"name":"bank","version":"1.0.0"}"#)];

/// The status of layers that are all known.
fn layers(known: u64) -> Value {
    json!({ "known": known, "leased": 0, "waiting": 0, "failed": 0, "disputed": 0, "outdated": 0 })
}

/// What was accepted from nodes, without the reasons of refusals.
fn reports_of(status: &Value) -> Value {
    let mut reports = status["reports"].clone();
    reports.as_object_mut().unwrap().remove("refused_by_reason");
    reports
}

/// What was taken from nodes where nothing was read a second time.
fn reports(inventories: u64, unasked: u64, refused: usize) -> Value {
    json!({ "inventories": inventories, "verified": 0, "contradicted": 0, "unasked": unasked, "refused": refused })
}

#[test]
fn two_nodes_with_images_on_one_base_read_each_layer_once() {
    let (Some(first), Some(second)) = (Containerd::start(), Containerd::start()) else { return };
    let place = Place::start();
    let images =
        [build_with(first.dir(), "app:shop", &[BASE, SHOP]), build_with(first.dir(), "app:bank", &[BASE, BANK])];
    for (containerd, names) in [(&first, ["a", "b"]), (&second, ["c", "d"])] {
        for (image, name) in images.iter().zip(names) {
            containerd.import("k8s.io", image);
            containerd.run("k8s.io", image, name);
        }
    }
    let _agents = [place.agent("one", &first.socket()), place.agent("two", &second.socket())];
    place.until_scanned(4);
    let status = place.status();
    assert_eq!(status["layers"], layers(3), "{status:#}");
    assert_eq!(reports_of(&status), reports(3, 0, 0));
    assert_eq!(place.findings(), ["a shop CVE-2026-1", "c shop CVE-2026-1"]);
    // What each image tells of itself, without the credentials in it.
    for image in place.json("/api/v1/images")["items"].as_array().unwrap() {
        let platform = image["platform"].as_str().unwrap();
        assert!(platform.starts_with("linux/") && image["user"] == "root", "{image:#}");
        assert_eq!(image["created"], "2026-01-02T03:04:05Z");
        // The blocks of its files and directories.
        let size = image["size"].as_u64().unwrap_or_default();
        assert!((4096..1 << 20).contains(&size), "{image:#}");
        assert_eq!(image["labels"], json!({ "org.opencontainers.image.source": "https://***@git.example/app" }));
    }
    let findings = place.json("/api/v1/findings");
    assert_eq!(findings["items"][0]["source"], "https://***@git.example/app", "{findings:#}");
    let assessed = &status["assessed"];
    assert!(
        assessed.as_array().unwrap().iter().any(|row| row["ecosystem"] == "npm" && row["state"] == "matched"),
        "{assessed}"
    );
    assert!(
        assessed.as_array().unwrap().iter().any(|row| row["state"] == "unmatched"),
        "no silence about Debian: {assessed}"
    );

    // Who has it? By package, version and problem, with the layer that brought it; and a question that is none.
    let ask = |question: &str| {
        let server = format!("http://{}", place.api);
        Command::new(OUTCROP).args(["who-has", question, "--server", &server]).output().unwrap()
    };
    let shop: LayerId = format!("diff:{}", images[0].diff_ids[1]).parse().unwrap();
    for question in ["shop", "pkg:npm/shop@<1.0.1", "shop@1.0.0", "CVE-2026-1"] {
        let answer = String::from_utf8(ask(question).stdout).unwrap();
        let lines: Vec<&str> = answer.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{question}: {answer}");
        assert!(
            lines.iter().all(|line| line.ends_with(&shop.to_string()[..24]) && line.contains("/srv/package.json")),
            "{answer}"
        );
    }
    for question in ["shop@>1.0.0", "pkg:pypi/shop", "nobody"] {
        let (none, told) = (ask(question), String::from_utf8(ask(question).stderr).unwrap());
        assert!(none.stdout.is_empty() && told.contains("no matches"), "{question}: {told}");
        let is_unknown = told.starts_with("no package has the name \"nobody\"");
        assert_eq!(is_unknown, question == "nobody", "{told}");
    }
    let wrong = ask("pkg:cargo/serde");
    assert_eq!(wrong.status.code(), Some(64), "{}", String::from_utf8_lossy(&wrong.stderr));
    let server = format!("http://{}", place.api);
    let told = Command::new(OUTCROP).args(["status", "--server", &server]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    for line in ["scanned    4", "npm         matched", "layers: known 3, leased 0"] {
        assert!(told.contains(line), "{line:?} is not in\n{told}");
    }

    // One more container of what is known, and one that ends: nobody reads anything.
    first.run("k8s.io", &images[0], "e");
    place.until_scanned(5);
    first.remove("k8s.io", "e");
    place.until_scanned(4);
    assert_eq!(place.status()["reports"]["inventories"], 3);
    // What has just ended is not nobody's: it is listed with its end, also for a vulnerability, and --running leaves it out.
    let ended = |question: &str| {
        let items = place.json(&format!("/api/v1/who-has?q={question}"))["items"].take();
        let ended = items.as_array().unwrap().iter().filter(|item| !item["ran_until"].is_null());
        ended.map(|item| item["container"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the end of the container to be stored", || ended("shop") == ["e"]);
    assert_eq!((ended("CVE-2026-1"), ended("shop@1.0.0")), (vec!["e".to_owned()], vec!["e".to_owned()]));
    assert!(ended("shop@2.0.0").is_empty() && ended("shop&running=true").is_empty());
    let metrics = place.get("/metrics");
    assert!(metrics.contains("\noutcrop_containers{coverage=\"scanned\"} 4.0\n"), "{metrics}");
}

#[test]
fn an_export_has_every_row_of_images_that_fill_several_pages() {
    const PACKAGES: usize = 2_500;
    let Some(containerd) = Containerd::start() else { return };
    let place = Place::start();
    let stanzas = (0..PACKAGES).map(|number| {
        format!(
            "Package: package-{number}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.{number}-1\n\n"
        )
    });
    let status = stanzas.collect::<String>();
    let large: Layer<'_> = &[("etc/os-release", BASE[0].1), ("var/lib/dpkg/status", &status)];
    for (tag, layers, names) in
        [("app:large", &[large, SHOP], &["a", "b"][..]), ("app:small", &[BASE, SHOP], &["c"][..])]
    {
        let image = build_with(containerd.dir(), tag, layers);
        containerd.import("k8s.io", &image);
        names.iter().for_each(|name| containerd.run("k8s.io", &image, name));
    }
    let _agent = place.agent("one", &containerd.socket());
    place.until_scanned(3);
    let server = format!("http://{}", place.api);
    let export = |arguments: &[&str]| {
        let output = Command::new(OUTCROP).arg("export").args(arguments).args(["--server", &server]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |arguments: &[&str]| serde_json::from_str::<Value>(&export(arguments)).unwrap();
    let count = |value: &Value| value.as_array().unwrap().len();

    let bill = json(&["sbom"]);
    let counts: Vec<usize> =
        bill["components"].as_array().unwrap().iter().map(|image| count(&image["components"])).collect();
    assert_eq!(counts, [PACKAGES + 1, 2], "by name of the image");
    let [vulnerability] = bill["vulnerabilities"].as_array().unwrap().as_slice() else { panic!("{bill:#}") };
    let affects: BTreeSet<&str> =
        vulnerability["affects"].as_array().unwrap().iter().map(|of| of["ref"].as_str().unwrap()).collect();
    assert_eq!(affects, ["0/pkg:npm/shop@1.0.0", "1/pkg:npm/shop@1.0.0"].into(), "of both images: {vulnerability:#}");
    let spdx = json(&["sbom", "--format", "spdx"]);
    assert_eq!((count(&spdx["packages"]), count(&spdx["relationships"])), (PACKAGES + 5, PACKAGES + 5));
    assert_eq!(export(&["packages"]).lines().count(), 1 + PACKAGES + 3);
    assert_eq!(export(&["findings"]).lines().count(), 1 + 3, "a line for each container");
    let report = json(&["report", "--image", "app:small"]);
    let [image] = report["images"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!((count(&image["packages"]), count(&image["findings"]), count(&image["containers"])), (2, 1, 1));
    assert_eq!(image["coverage"]["state"], "scanned");
    assert!(image["assessed"].as_array().unwrap().iter().any(|of| of["state"] == "unmatched"), "{image:#}");
    assert_eq!(report["cluster"]["name"], json(&["report"])["cluster"]["name"]);
    assert_eq!(count(&json(&["vex"])["statements"]), 1);
    assert_eq!(count(&json(&["sarif", "--severity", "critical", "--image", "nothing"])["runs"][0]["results"]), 0);
    let wrong = Command::new(OUTCROP).args(["export", "csv", "--severity", "awful", "--server", &server]).output();
    assert_eq!(wrong.unwrap().status.code(), Some(64));
}

#[test]
fn what_one_node_read_another_one_reads_as_well_and_a_node_can_be_distrusted() {
    let (Some(first), Some(second)) = (Containerd::start(), Containerd::start()) else { return };
    // Flags for a day in a second: every layer is verified, at once.
    let place = Place::start_with(false, &["--verify-share", "1", "--verify-interval", "0s"]);
    let image = build_with(first.dir(), "app:shop", &[BASE, SHOP]);
    for (containerd, name) in [(&first, "va"), (&second, "vb")] {
        containerd.import("k8s.io", &image);
        containerd.run("k8s.io", &image, name);
    }
    let _one = place.agent("one", &first.socket());
    place.until_scanned(1);
    let two = place.agent("two", &second.socket());
    place.until_scanned(2);
    until("both layers to be verified", || place.status()["reports"]["verified"] == 2);
    assert_eq!(place.status()["reports"]["inventories"], 2, "each was read once, cross-reads counted apart");
    assert_eq!(place.status()["layers"]["disputed"], 0);
    let by = |layer: &Value| (layer["read_by"].clone(), layer["verified_by"].clone(), layer["findings"].clone());
    let expected = [(json!("one"), json!(1), json!(2)), (json!("one"), json!(1), json!(0))];
    // The list shows a change some milliseconds after the counters do.
    until("the list to show who verified, the shop's layer first", || {
        let layers = place.json("/api/v1/layers?sort=-findings");
        layers["items"].as_array().unwrap().iter().map(by).collect::<Vec<_>>() == expected
    });

    // What another one came to the same of is that one's word now; what it alone read is to be read again, by somebody else.
    let more = build_with(first.dir(), "app:bank", &[BASE, BANK]);
    first.import("k8s.io", &more);
    drop(two);
    first.run("k8s.io", &more, "vc");
    place.until_scanned(3);
    let server = format!("http://{}", place.api);
    let node =
        |command: &str| Command::new(OUTCROP).args(["node", command, "one", "--server", &server]).output().unwrap();
    assert!(node("distrust").status.success());
    until("the bank to be read again", || place.count("failed") == 1);
    let containers = place.json("/api/v1/containers?name=vc");
    let reason = containers["items"][0]["coverage"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("outcrop node trust"), "{reason}");
    assert_eq!(place.count("scanned"), 2);
    assert_eq!(place.json("/api/v1/nodes?name=one")["items"][0]["distrusted"], true);
    assert!(node("trust").status.success());
    place.until_scanned(3);
    assert_eq!(place.status()["reports"]["inventories"], 4);
}

#[test]
fn first_seen_survives_new_containers_images_databases_and_restarts() {
    let Some(containerd) = Containerd::start() else { return };
    let mut place = Place::start();
    let image = build_with(containerd.dir(), "app:1", &[BASE, SHOP]);
    let newer: Layer<'_> = &[("srv/package.json", r#"{"name":"shop","version":"0.9.9"}"#)];
    let newer = build_with(containerd.dir(), "app:2", &[BASE, newer]);
    let mended: Layer<'_> = &[("srv/package.json", r#"{"name":"shop","version":"2.0.0"}"#)];
    let mended = build_with(containerd.dir(), "app:3", &[BASE, mended]);
    [&image, &newer, &mended].into_iter().for_each(|image| containerd.import("k8s.io", image));
    containerd.run("k8s.io", &image, "seen");
    let _agent = place.agent("one", &containerd.socket());
    place.until_scanned(1);
    let first_seen = |place: &Place| {
        let findings = place.json("/api/v1/findings")["items"].take();
        let all: Vec<String> =
            findings.as_array().unwrap().iter().map(|of| of["first_seen"].as_str().unwrap().to_owned()).collect();
        all
    };
    let runs = |place: &Place| {
        let database = rusqlite::Connection::open(place.at("data/outcrop.db")).unwrap();
        database.query_row("SELECT count(*) FROM run", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    until("the run to be kept", || runs(&place) == 1);
    let seen = first_seen(&place);
    assert_eq!(seen.len(), 1);
    // So that a time that was taken anew would show.
    std::thread::sleep(Duration::from_millis(1100));
    containerd.remove("k8s.io", "seen");
    until("nothing to run", || place.status()["containers"] == 0);
    containerd.run("k8s.io", &newer, "seen");
    place.until_scanned(1);
    until("the second run to be kept", || runs(&place) == 2);
    assert_eq!(first_seen(&place), seen, "another container of another image that has it too");
    place.restart();
    place.until_scanned(1);
    place.feed("1.5.0");
    until("the new database", || {
        place.status()["rematch"]["appeared"] == 0 && place.status()["rematch"]["stacks"] == 2
    });
    assert_eq!(first_seen(&place), seen, "the aggregator was killed, and the database swapped");
    containerd.remove("k8s.io", "seen");
    containerd.run("k8s.io", &mended, "seen");
    until("it to be mended", || first_seen(&place).is_empty() && place.count("scanned") == 1);
    until("the third run to be kept", || runs(&place) == 3);
    let fixed = place.json("/api/v1/findings?state=fixed&container=seen")["items"].take();
    let fixed: Vec<(String, String)> = fixed
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (of["id"].as_str().unwrap().to_owned(), of["first_seen"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        fixed,
        [("CVE-2026-1".to_owned(), seen[0].clone())],
        "what was fixed is known, and since when it had been"
    );
    containerd.remove("k8s.io", "seen");
    until("nothing to run", || place.status()["containers"] == 0);
    // Runs are kept to the second: within one, nobody knows which came first.
    std::thread::sleep(Duration::from_millis(1100));
    containerd.run("k8s.io", &image, "seen");
    until("it to be there again", || first_seen(&place).len() == 1);
    until("the fourth run to be kept", || runs(&place) == 4);
    assert_ne!(first_seen(&place), seen, "after it was mended it is new");
    assert_eq!(place.status()["lifetimes"]["ended"]["scanned"], 2);
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_a_new_database_needs_no_node() {
    let Some(containerd) = Containerd::start() else { return };
    let mut place = Place::start();
    let image = build_with(containerd.dir(), "shop:1", &[BASE, SHOP]);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "web");
    let agent = place.agent("one", &containerd.socket());
    place.until_scanned(1);
    place.restart();
    // The agent comes back by itself, tells everything, and is asked for nothing.
    place.until_scanned(1);
    assert_eq!(place.status()["reports"]["inventories"], 0);
    assert_eq!(place.findings(), ["web shop CVE-2026-1"]);
    // A database in which the version is mended; then one that is none, which is refused, and the good one kept.
    place.feed("0.9.0");
    until("the finding to go", || place.findings().is_empty());
    fs::write(place.at("broken"), "no database").unwrap();
    fs::rename(place.at("broken"), place.at("advisories.db")).unwrap();
    until("the bad database to be said", || !place.status()["database_error"].is_null());
    assert_eq!(place.count("scanned"), 1);
    assert_eq!(place.status()["reports"]["inventories"], 0);
    // A node that goes is said to be gone; what it had stays known.
    drop(agent);
    until("the node to be gone", || place.json("/api/v1/nodes")["items"][0]["attached"] == false);
    assert_eq!(place.count("scanned"), 1);
}

#[test]
fn agents_speak_tls_and_to_no_aggregator_of_another_authority() {
    let Some(containerd) = Containerd::start() else { return };
    let place = Place::start_with(true, &[]);
    let image = build_with(containerd.dir(), "app:shop", &[BASE, SHOP]);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "web");
    let agent = place.agent("one", &containerd.socket());
    place.until_scanned(1);
    drop(agent);
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(place.at("cert.pem"), other.cert.pem()).unwrap();
    let _agent = place.agent("two", &containerd.socket());
    let log = || fs::read_to_string(place.at("two.log")).unwrap();
    until("the agent to refuse", || log().contains("attach failed"));
    assert!(!log().contains(" attached"), "{}", log());
    assert_eq!(place.status()["nodes"]["known"], 1);
}

#[test]
fn what_an_agent_without_sys_admin_cannot_see_is_decided_where_the_container_is_mounted() {
    let Some(containerd) = Containerd::start() else { return };
    let place = Place::start();
    let below: Layer<'_> = &[("srv/a/package.json", r#"{"name":"gone","version":"1.0.0"}"#)];
    let above: Layer<'_> =
        &[("srv/a/.wh..wh..opq", ""), ("srv/a/b/package.json", r#"{"name":"shop","version":"1.0.0"}"#)];
    let image = build_with(containerd.dir(), "app:opaque", &[BASE, below, above]);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "web");
    let weak = ["setpriv", "--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all"];
    let _agent = place.agent_by(&weak, "one", &containerd.socket());
    place.until_scanned(1);
    assert_eq!(place.findings(), ["web shop CVE-2026-1"]);
    let database = rusqlite::Connection::open(place.at("data/outcrop.db")).unwrap();
    let one = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        one("SELECT packages FROM package_set"),
        2,
        "bash and shop: what the opaque directory hides is not there"
    );
    assert_eq!(one("SELECT count(*) FROM layer WHERE marks = 0"), 3, "nobody could see the mark");
}

#[test]
fn a_restarted_containerd_is_found_again() {
    let Some(mut containerd) = Containerd::start() else { return };
    let place = Place::start();
    let image = build_with(containerd.dir(), "app:shop", &[BASE, SHOP]);
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "before");
    let _agent = place.agent("one", &containerd.socket());
    place.until_scanned(1);
    containerd.restart();
    containerd.run("k8s.io", &image, "after");
    place.until_scanned(2);
}

#[test]
fn agents_and_containerd_killed_at_any_moment_leave_nothing_wrong() {
    let Some(mut containerd) = Containerd::start() else { return };
    let place = Place::start();
    let images: Vec<_> = (0..6)
        .map(|number| {
            let manifest = format!(r#"{{"name":"shop","version":"0.{number}.0"}}"#);
            let layer: Layer<'_> = &[("srv/package.json", manifest.as_str())];
            let image = build_with(containerd.dir(), &format!("app:{number}"), &[BASE, layer]);
            containerd.import("k8s.io", &image);
            image
        })
        .collect();
    for (number, image) in images.iter().enumerate() {
        containerd.run("k8s.io", image, &format!("kill-{number}"));
    }
    // Each agent is killed a little later in its life than the one before: while it lists, reads, delivers.
    for milliseconds in [5, 20, 40, 60, 80, 100, 120, 150, 180, 220, 300, 400] {
        let agent = place.agent("one", &containerd.socket());
        std::thread::sleep(Duration::from_millis(milliseconds));
        drop(agent);
        if milliseconds % 60 == 0 {
            containerd.crash();
        }
    }
    let _agent = place.agent("one", &containerd.socket());
    place.until_scanned(6);
    let status = place.status();
    assert_eq!(status["layers"], layers(7), "{status:#}");
    assert_eq!(status["reports"]["inventories"], 7, "none was taken twice");
    assert_eq!(place.findings().len(), 6);
}

#[test]
fn no_secret_of_a_container_or_image_is_kept_or_told() {
    let Some(containerd) = Containerd::start() else { return };
    let place = Place::start();
    // The image's environment has a password; so have the container's, and its labels.
    let image = build_with(containerd.dir(), "app:shop", &[BASE, SHOP]);
    containerd.import("k8s.io", &image);
    containerd.run_with(&["--env", "TOKEN=hunter2", "--label", "key=hunter2"], "k8s.io", &image, "web", &["/pause"]);
    let _agent = place.agent("one", &containerd.socket());
    place.until_scanned(1);
    for path in ["/api/v1/status", "/api/v1/containers", "/api/v1/findings", "/metrics"] {
        assert!(!place.get(path).contains("hunter2"), "{path}");
    }
    let database = rusqlite::Connection::open(place.at("data/outcrop.db")).unwrap();
    let mut inventories = database.prepare("SELECT inventory FROM layer").unwrap();
    let rows = inventories.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let texts: Vec<Vec<u8>> = rows.map(|row| zstd::decode_all(row.unwrap().as_slice()).unwrap()).collect();
    assert!(!texts.is_empty());
    for bytes in texts {
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"));
    }
}

/// A node that speaks the protocol by hand.
struct Evil {
    client: CollectorClient<tonic::transport::Channel>,
    token: String,
    reports: tokio::sync::mpsc::Sender<v1::Report>,
    orders: tonic::Streaming<v1::Order>,
}

impl Evil {
    async fn attach(place: &Place, token: &str, node: &str, cluster: &str) -> Result<Self, tonic::Status> {
        Self::attach_as(place, token, node, cluster, VERSION).await
    }

    async fn attach_as(
        place: &Place,
        token: &str,
        node: &str,
        cluster: &str,
        version: u32,
    ) -> Result<Self, tonic::Status> {
        let hello = v1::Hello {
            node: node.to_owned(),
            agent_version: "0".to_owned(),
            catalogers: outcrop_agent::catalog::VERSION,
            wire_version: version,
            ..v1::Hello::default()
        };
        Self::attach_with(place, token, cluster, hello).await
    }

    /// Attaches as one of several agents of a node.
    async fn attach_instance(place: &Place, token: &str, node: &str, instance: u64) -> Result<Self, tonic::Status> {
        let hello = v1::Hello {
            node: node.to_owned(),
            catalogers: outcrop_agent::catalog::VERSION,
            wire_version: VERSION,
            instance,
            ..v1::Hello::default()
        };
        Self::attach_with(place, token, "test", hello).await
    }

    async fn attach_with(place: &Place, token: &str, cluster: &str, hello: v1::Hello) -> Result<Self, tonic::Status> {
        let mut client = CollectorClient::connect(format!("http://{}", place.listen)).await.unwrap();
        let (reports, outbox) = tokio::sync::mpsc::channel(16);
        reports.send(report(cluster, v1::report::Report::Hello(hello))).await.unwrap();
        let orders = client.attach(with_token(ReceiverStream::new(outbox), token)).await?.into_inner();
        Ok(Self { client, token: token.to_owned(), reports, orders })
    }

    /// Hands over an inventory, in two pieces.
    async fn deliver(&mut self, layer: LayerId, bytes: &[u8]) -> Result<v1::Stored, tonic::Code> {
        let (one, two) = bytes.split_at(bytes.len() / 2);
        let pieces = [one, two].map(|bytes| v1::Piece {
            cluster: "test".to_owned(),
            layer: Some(layer.into()),
            bytes: bytes.to_vec(),
            cage: String::new(),
            marks: true,
            cost: None,
        });
        let delivered = self.client.deliver(with_token(tokio_stream::iter(pieces), &self.token)).await;
        delivered.map(tonic::Response::into_inner).map_err(|status| status.code())
    }

    async fn say(&self, what: v1::report::Report) {
        self.reports.send(report("test", what)).await.unwrap();
    }

    async fn order(&mut self) -> Result<Option<v1::order::Order>, tonic::Status> {
        Ok(self.orders.message().await?.and_then(|order| order.order))
    }
}

fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn report(cluster: &str, report: v1::report::Report) -> v1::Report {
    v1::Report { cluster: cluster.to_owned(), report: Some(report) }
}

/// The identity of a stack that has one layer.
fn chain_of(layer: LayerId) -> Digest {
    match layer {
        LayerId::Diff(digest) | LayerId::Chain(digest) => digest,
    }
}

/// A report of one container with one layer.
fn containers(layer: LayerId) -> v1::report::Report {
    let seen = Seen {
        key: ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id: "x".to_owned() },
        storage: None,
        name: "x".to_owned(),
        pod: None,
        image: "x".to_owned(),
        stack: Some((chain_of(layer), vec![layer])),
        refused: None,
        steps: Vec::new(),
        details: None,
    };
    v1::report::Report::Containers(v1::Containers {
        sequence: 1,
        full: true,
        containers: vec![(&seen).into()],
        ..v1::Containers::default()
    })
}

#[test]
fn no_inventory_is_acknowledged_that_the_disk_did_not_take() {
    let mut place = Place::start();
    let token = fs::read_to_string(place.at("evil.token")).unwrap().trim().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let layer = LayerId::Chain(Digest::of(b"layer"));
    let inventory =
        compress(&Inventory { catalogers: outcrop_agent::catalog::VERSION, ..Inventory::default() }.encode()).unwrap();
    // Attaches with one layer; whether that is leased to it.
    let attach = async |place: &Place| {
        let mut evil = Evil::attach(place, &token, "evil", "test").await.unwrap();
        evil.say(containers(layer)).await;
        assert!(matches!(evil.order().await, Ok(Some(v1::order::Order::Welcome(_)))));
        let order = tokio::time::timeout(Duration::from_secs(3), evil.order()).await;
        (evil, matches!(order, Ok(Ok(Some(v1::order::Order::Lease(_))))))
    };
    let (mut evil, leased) = runtime.block_on(attach(&place));
    assert!(leased);
    // Every sync of the write-ahead log fails, as on a dying disk.
    let aggregator = place.aggregator.as_ref().unwrap().0.id().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/durability");
    let log = place.at("data/outcrop.db-wal");
    let tracer = Command::new(script).args(["fail", &aggregator]).arg(log).stdout(Stdio::piped()).spawn();
    let mut tracer = tracer.unwrap();
    let mut said = [0; 8];
    if tracer.stdout.as_mut().unwrap().read_exact(&mut said).is_err() {
        let _ = tracer.wait();
        skip("tools", "no strace");
        return;
    }
    let delivered = runtime.block_on(evil.deliver(layer, &inventory));
    assert_eq!(delivered, Err(tonic::Code::Unavailable), "what is not on the disk is not acknowledged");
    assert!(place.status()["store_error"].is_string(), "and it is said why");
    let _ = Command::new("kill").arg(tracer.id().to_string()).status();
    let _ = tracer.wait();
    drop(evil);
    // The disk is well again: it is asked for, acknowledged, and there after a kill.
    until("it to go on by itself", || place.status()["store_error"].is_null());
    let (mut evil, leased) = runtime.block_on(attach(&place));
    if !leased {
        // Not at once after it had failed.
        let order = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), evil.order()).await });
        assert!(matches!(order, Ok(Ok(Some(v1::order::Order::Lease(_))))), "{order:?}");
    }
    assert!(runtime.block_on(evil.deliver(layer, &inventory)).is_ok());
    drop(evil);
    place.restart();
    let (_evil, leased) = runtime.block_on(attach(&place));
    assert!(!leased, "what was acknowledged is not asked for again");
    assert_eq!(place.status()["layers"]["known"], 1);
}

#[test]
fn an_agent_of_another_wire_version_is_refused_with_advice_and_counted() {
    let place = Place::start();
    let token = fs::read_to_string(place.at("evil.token")).unwrap().trim().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (count, (version, advice)) in
        [(0, "upgrade the agent"), (VERSION + 1, "upgrade the aggregator")].into_iter().enumerate()
    {
        let refused = runtime.block_on(Evil::attach_as(&place, &token, "evil", "test", version));
        let status = refused.err().unwrap();
        assert_eq!(Refusal::of(&status), Some(Refusal::WireVersion));
        assert!(status.message().contains(advice), "{}", status.message());
        let reports = &place.status()["reports"];
        assert_eq!(reports["refused_by_reason"]["wire-version"], count + 1);
        assert_eq!(reports["refused"], count + 1);
    }
}

#[test]
fn two_agents_of_one_node_are_a_problem_that_names_the_node() {
    let place = Place::start();
    let token = fs::read_to_string(place.at("evil.token")).unwrap().trim().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let agents = |place: &Place| {
        let problems = place.status()["problems"].take();
        let problems = problems.as_array().unwrap().iter().filter(|problem| problem["kind"] == "agents");
        problems.map(|problem| problem["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let attach = |instance| runtime.block_on(Evil::attach_instance(&place, &token, "evil", instance)).unwrap();
    let mut first = attach(1);
    let _second = attach(2);
    let reason = runtime.block_on(async {
        assert!(matches!(first.order().await, Ok(Some(v1::order::Order::Welcome(_)))));
        first.order().await.unwrap_err()
    });
    assert_eq!(Refusal::of(&reason), Some(Refusal::Replaced), "{reason:?}");
    assert!(reason.message().contains("another agent with this node's name attached"), "{reason:?}");
    // A restarted agent is no second one.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(agents(&place), Vec::<String>::new());
    let _first = attach(1);
    until("the problem", || !agents(&place).is_empty());
    let [problem] = &agents(&place)[..] else { panic!("{:?}", agents(&place)) };
    assert!(problem.contains("node evil") && problem.contains("--node"), "{problem}");
    assert_eq!(place.status()["reports"]["refused_by_reason"]["replaced"], 2);
    let log = fs::read_to_string(place.at("aggregator.log")).unwrap();
    assert!(log.contains("another agent with the node's name attached"), "{log}");
}

#[test]
fn a_node_speaks_for_itself_only_and_says_nothing_unasked() {
    let place = Place::start();
    let token = |node: &str| fs::read_to_string(place.at(&format!("{node}.token"))).unwrap().trim().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (token, node, cluster, code) in [
            ("guess".to_owned(), "evil", "test", tonic::Code::Unauthenticated),
            (token("evil"), "one", "test", tonic::Code::PermissionDenied),
            (token("evil"), "evil", "other", tonic::Code::FailedPrecondition),
        ] {
            let refused = Evil::attach(&place, &token, node, cluster).await;
            assert_eq!(refused.err().map(|status| status.code()), Some(code), "{node} {cluster}");
        }
        let layer = LayerId::Chain(Digest::of(b"layer"));
        let inventory =
            compress(&Inventory { catalogers: outcrop_agent::catalog::VERSION, ..Inventory::default() }.encode())
                .unwrap();
        let mut evil = Evil::attach(&place, &token("evil"), "evil", "test").await.unwrap();
        assert!(matches!(evil.order().await, Ok(Some(v1::order::Order::Welcome(_)))));
        // An inventory that nobody asked for, of a layer that it does not have; and an answer to no question.
        assert_eq!(evil.deliver(layer, &inventory).await, Err(tonic::Code::FailedPrecondition));
        evil.say(v1::report::Report::Answers(v1::Answers { stack: vec![7; 32], ..v1::Answers::default() })).await;
        // Then it has the layer, is asked, and answers; twice.
        evil.say(containers(layer)).await;
        assert!(
            matches!(evil.order().await, Ok(Some(v1::order::Order::Lease(lease))) if lease.layers == [layer.into()])
        );
        let stored = evil.deliver(layer, &inventory).await.unwrap();
        assert_eq!((stored.cluster.as_str(), stored.layer), ("test", Some(layer.into())));
        assert_eq!(evil.deliver(layer, &inventory).await, Err(tonic::Code::FailedPrecondition));
        tokio::task::spawn_blocking({
            let api = Place {
                dir: tempfile::tempdir().unwrap(),
                listen: place.listen,
                api: place.api,
                probes: place.probes,
                tls: false,
                flags: Vec::new(),
                bearer: None,
                aggregator: None,
                interval: "3600",
            };
            move || until("three of four to be counted as unasked", || api.status()["reports"]["unasked"] == 3)
        })
        .await
        .unwrap();
    });
    let status = place.status();
    assert_eq!(reports_of(&status), reports(1, 3, 5), "{status:#}");
}

#[test]
fn bombs_and_nonsense_end_the_stream_of_who_sends_them_and_nothing_else() {
    let place = Place::start();
    let token = fs::read_to_string(place.at("evil.token")).unwrap().trim().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 300 << 20], 1).unwrap();
    let mut wrong =
        compress(&Inventory { catalogers: outcrop_agent::catalog::VERSION, ..Inventory::default() }.encode()).unwrap();
    wrong.push(0);
    let newer = compress(&Inventory { catalogers: 900, ..Inventory::default() }.encode()).unwrap();
    let deliveries = [("a bomb", bomb), ("bytes after the end", wrong), ("other catalogers than were said", newer)];
    for (what, bytes) in deliveries {
        let layer = LayerId::Chain(Digest::of(what.as_bytes()));
        let outcome = runtime.block_on(async {
            let mut evil = Evil::attach(&place, &token, "evil", "test").await.unwrap();
            evil.say(containers(layer)).await;
            // Welcome, then the lease.
            assert!(matches!(evil.order().await, Ok(Some(v1::order::Order::Welcome(_)))), "{what}");
            assert!(matches!(evil.order().await, Ok(Some(v1::order::Order::Lease(_)))), "{what}");
            evil.deliver(layer, &bytes).await
        });
        assert_eq!(outcome, Err(tonic::Code::InvalidArgument), "{what}");
        // It is said, and not asked for again at once.
        until(what, || place.count("failed") == 1);
    }
    let cases = ["a layer without identity", "layers that are not the stack's"];
    for (number, what) in cases.into_iter().enumerate() {
        let layer = LayerId::Chain(Digest::of(what.as_bytes()));
        let ended = runtime.block_on(async {
            let mut evil = Evil::attach(&place, &token, "evil", "test").await.unwrap();
            assert!(matches!(evil.order().await, Ok(Some(v1::order::Order::Welcome(_)))), "{what}");
            evil.say(if number == 0 {
                v1::report::Report::Unreadable(v1::Unreadable::default())
            } else {
                let v1::report::Report::Containers(mut lie) = containers(layer) else { unreachable!() };
                lie.containers[0].stack = vec![7; 32];
                v1::report::Report::Containers(lie)
            })
            .await;
            evil.order().await
        });
        assert!(ended.is_err(), "{what}: {ended:?}");
        until(what, || place.status()["reports"]["refused"] == 4 + number);
    }
    assert_eq!(reports_of(&place.status()), reports(0, 0, 5));
    let peak = fs::read_to_string(format!("/proc/{}/status", place.aggregator.as_ref().unwrap().0.id())).unwrap();
    let peak =
        peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").to_owned();
    assert!(peak.parse::<u64>().unwrap() < 700_000, "the aggregator took {peak} kB");
}

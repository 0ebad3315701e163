//! The command line of `outcrop`: output, exit codes and error messages.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use outcrop_proto::clock;
use serde_json::{Value, json};

use crate::skip::skip;

/// A directory with an image's tree in `root`, a feed and its database.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put("root/etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n");
        place.put(
            "root/var/lib/dpkg/status",
            "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n\
             Package: python3-six\nStatus: install ok installed\nArchitecture: all\nSource: six\nVersion: 1.16.0-4\n",
        );
        // Python's own metadata, as Debian installs it.
        place.put(
            "root/var/lib/dpkg/info/python3-six.md5sums",
            "3106b1726b0ae0ebd1ffc50eb9548c89  usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA\n",
        );
        place.put("root/usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA", "Name: six\nVersion: 1.16.0\n");
        place.put("root/app/node_modules/x/package.json", r#"{"name":"x\u001b[2J","version":"1.0.0"}"#);
        place.put("root/app/node_modules/y/package.json", r#"{"name":"y","version":"1.0.0"}"#);
        place.feed();
        place
    }

    fn feed(&self) {
        let now = clock::timestamp().to_string();
        let record = |id: &str, ecosystem: &str, package: &str, events: Value, score: &str| {
            let severity = if score.is_empty() { json!([]) } else { json!([{ "type": "CVSS_V3", "score": score }]) };
            let text = json!({ "id": id, "modified": now, "severity": severity, "summary": "a\u{1b}[31mred\nline",
                "affected": [{ "package": { "ecosystem": ecosystem, "name": package },
                    "ranges": [{ "type": "ECOSYSTEM", "events": events }] }] });
            self.put(&format!("feed/{id}.json"), text.to_string());
        };
        let critical = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H";
        record("CVE-2026-1", "Debian:12", "bash", json!([{ "introduced": "0" }, { "fixed": "5.2-2" }]), critical);
        record(
            "CVE-2026-2",
            "npm",
            "y",
            json!([{ "introduced": "0" }]),
            "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N",
        );
        record("CVE-2026-3", "npm", "y", json!([{ "introduced": "0" }, { "fixed": "2.0.0" }]), "");
        record("CVE-2026-4", "PyPI", "six", json!([{ "introduced": "0" }]), critical);
        record("CVE-2026-4-deb", "Debian:12", "six", json!([{ "introduced": "0" }, { "fixed": "1.0-1" }]), "");
        let path = self.at("feed/CVE-2026-4-deb.json");
        let with_alias = fs::read_to_string(&path).unwrap().replacen('{', r#"{"aliases":["CVE-2026-4"],"#, 1);
        fs::write(path, with_alias).unwrap();
        let output = self.run(&["db", "build", "--from", "feed", "--out", "db"]);
        assert_eq!(output.code(), 0, "{output:?}");
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.0.path(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert_eq!(output.err(), "", "{arguments:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outcrop"));
    command.args(arguments).current_dir(directory).env_remove("OUTCROP_DB").output().unwrap()
}

trait Told {
    fn code(&self) -> i32;
    fn out(&self) -> &str;
    fn err(&self) -> &str;
}

impl Told for Output {
    fn code(&self) -> i32 {
        self.status.code().unwrap()
    }

    fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    fn err(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap()
    }
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap()).collect()
}

/// Fails where `document` is not what `docs/scan.schema.json` says.
fn assert_schema(document: &Value) {
    let schema = serde_json::from_str(include_str!("../../docs/scan.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn a_directory_is_told_with_its_packages_findings_and_what_they_are_worth() {
    let place = Place::new();
    let report = place.json(&["scan", "--rootfs", "root", "--db", "db"]);
    assert_schema(&report);
    let target = &report["targets"][0];
    assert_eq!(
        (&target["name"], &target["distro"], &target["coverage"]["state"]),
        (&json!("root"), &json!("Debian 12"), &json!("scanned"))
    );
    assert_eq!(strings(&target["packages"], "name"), ["bash", "python3-six", "six", "x\u{1b}[2J", "y"]);
    assert_eq!(strings(&target["findings"], "id"), ["CVE-2026-1", "CVE-2026-2", "CVE-2026-3"]);
    assert_eq!(strings(&target["findings"], "severity"), ["critical", "low", "unknown"]);
    assert_eq!(strings(&target["assessed"], "state"), ["matched", "matched", "matched"]);
    assert_eq!((&target["withheld"], &target["hidden"]), (&json!(1), &json!(0)));
    let bash = &target["findings"][0];
    assert_eq!(bash["fixed"], "5.2-2");
    assert_eq!(bash["purl"], "pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12");
    let owned = place.json(&["scan", "--rootfs", "root", "--db", "db", "--owned"]);
    assert_schema(&owned);
    assert_eq!(owned["targets"][0]["findings"][1]["withheld_for"], "python3-six");
    let packages = place.json(&["scan", "--rootfs", "root", "--packages"]);
    assert_schema(&packages);
    assert_eq!((&packages["database"], &packages["targets"][0]["assessed"]), (&Value::Null, &json!([])));
    // --layers merges as overlay does: the newest first.
    place.put("upper/var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 9\n");
    let layers = place.json(&["scan", "--layers", "upper:root", "--db", "db"]);
    assert_schema(&layers);
    assert_eq!(layers["targets"][0]["layers"].as_array().unwrap().len(), 2);
    assert!(!strings(&layers["targets"][0]["findings"], "id").contains(&"CVE-2026-1"));
}

#[test]
fn a_table_escapes_what_images_and_feeds_say_and_tells_what_it_leaves_out() {
    let place = Place::new();
    let output = place.run(&["scan", "--rootfs", "root", "--db", "db", "--severity", "high"]);
    assert_eq!(output.err(), "");
    assert!(!output.out().contains('\u{1b}'), "{}", output.out());
    assert!(output.out().contains("CVE-2026-1") && !output.out().contains("CVE-2026-3"), "{}", output.out());
    for line in ["assessed: Debian:12: matched", "hidden: 2 more findings", "withheld: 1 findings"] {
        assert!(output.out().contains(line), "{line}: {}", output.out());
    }
    let packages = place.run(&["scan", "--rootfs", "root", "--packages"]);
    assert!(packages.out().contains("x\\u{1b}[2J"), "{}", packages.out());
    assert!(packages.out().contains("pkg:deb/debian/python3-six@1.16.0-4"), "{}", packages.out());
}

#[test]
fn the_code_tells_what_was_found_and_filters_do_not_hide_it() {
    let place = Place::new();
    let scan = ["scan", "--rootfs", "root", "--db", "db"];
    for (more, code) in [
        (&[][..], 0),
        (&["--fail-on", "critical"], 2),
        (&["--fail-on", "low", "--severity", "critical"], 2),
        // What is not shown still counts; what has no fix does not where only fixes are asked for.
        (&["--fail-on", "negligible", "--container", "x"], 64),
        (&["--severity", "awful"], 64),
        (&["--namespace", "k8s.io"], 64),
        (&["--sbom", "x"], 64),
    ] {
        let output = place.run(&[&scan, more].concat());
        assert_eq!(output.code(), code, "{more:?}: {output:?}");
    }
    fs::remove_file(place.at("feed/CVE-2026-1.json")).unwrap();
    place.feed();
    fs::remove_file(place.at("feed/CVE-2026-1.json")).unwrap();
    assert_eq!(place.run(&["db", "build", "--from", "feed", "--out", "db"]).code(), 0);
    for (more, code) in
        [(&["--fail-on", "high"][..], 0), (&["--fail-on", "low"], 2), (&["--fail-on", "low", "--only-fixed"], 0)]
    {
        assert_eq!(place.run(&[&scan, more].concat()).code(), code, "{more:?}");
    }
}

#[test]
fn an_sbom_that_we_wrote_is_matched_as_what_it_was_written_of() {
    let place = Place::new();
    let written = place.run(&["scan", "--rootfs", "root", "--db", "db", "--output", "cyclonedx"]);
    let document: Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&json!("CycloneDX"), &json!("1.6")));
    place.put("sbom.json", &written.stdout);
    let report = place.json(&["scan", "--sbom", "sbom.json", "--db", "db"]);
    assert_schema(&report);
    let target = &report["targets"][0];
    let ids = strings(&target["findings"], "id");
    for id in ["CVE-2026-1", "CVE-2026-2", "CVE-2026-3"] {
        assert!(ids.contains(&id), "{ids:?}");
    }
    for (name, content, said) in [
        ("text.json", "hello", "text.json"),
        ("other.json", "{\"bomFormat\":\"SPDX\"}", "CycloneDX"),
        ("deep.json", &"[".repeat(100_000), "deep.json"),
    ] {
        place.put(name, content);
        let output = place.run(&["scan", "--sbom", name, "--db", "db"]);
        assert_eq!(output.code(), 1, "{name}: {output:?}");
        assert!(output.err().contains(said) && output.err().lines().count() == 1, "{}", output.err());
    }
}

#[test]
fn a_name_with_capitals_is_matched_in_an_sbom_that_we_wrote() {
    let place = Place::new();
    place.put("case/node_modules/JSONStream/package.json", r#"{"name":"JSONStream","version":"1.0.0"}"#);
    let record = json!({ "id": "CVE-2026-9", "modified": "2026-11-01T00:00:00Z",
        "affected": [{ "package": { "ecosystem": "npm", "name": "JSONStream" }, "versions": ["1.0.0"] }] });
    place.put("capitals/1.json", record.to_string());
    assert_eq!(place.run(&["db", "build", "--from", "capitals", "--out", "capitals.db"]).code(), 0);
    let written = place.run(&["scan", "--rootfs", "case", "--db", "capitals.db", "--output", "cyclonedx"]);
    place.put("sbom.json", &written.stdout);
    let output = place.run(&["scan", "--sbom", "sbom.json", "--db", "capitals.db", "--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(strings(&report["targets"][0]["findings"], "id"), ["CVE-2026-9"]);
}

#[test]
fn the_layers_of_a_stack_share_one_budget() {
    let place = Place::new();
    let stanzas = (0..45_000).map(|number| {
        format!("Package: package-number-{number}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.{number}-1\n\n")
    });
    place.put("layer/var/lib/dpkg/status", stanzas.collect::<String>());
    let scan = |layers: usize| {
        let layers = vec!["layer"; layers].join(":");
        let output = place.run(&["scan", "--packages", "--output", "json", "--layers", &layers]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["targets"][0]["coverage"]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(scan(2), "scanned");
    assert_eq!(scan(16), "too-large");
}

/// A directory, its files, its coverage state, the lock files that are named, and the exit code.
type Folder<'f> = (&'f str, &'f [(&'f str, &'f str)], &'f str, &'f str, i32);

#[test]
fn a_source_folder_says_that_its_lock_files_are_not_read() {
    let place = Place::new();
    let installed = r#"{"name":"y","version":"1.0.0"}"#;
    let cases: &[Folder<'_>] = &[
        ("only", &[("package-lock.json", "{}")], "unsupported", "package-lock.json", 1),
        ("deep", &[("a/b/Cargo.lock", ""), ("a/go.mod", "")], "unsupported", "a/go.mod, a/b/Cargo.lock", 1),
        (
            "many",
            &[("a.lock", ""), ("1/yarn.lock", ""), ("1/uv.lock", ""), ("1/go.sum", ""), ("1/Gemfile.lock", "")],
            "unsupported",
            "1/Gemfile.lock, 1/go.sum, 1/uv.lock and 1 more",
            1,
        ),
        // The manifest of the project itself is no installed package.
        (
            "own",
            &[("package.json", r#"{"name":"app","version":"1.0.0"}"#), ("yarn.lock", "")],
            "unsupported",
            "yarn.lock",
            1,
        ),
        ("workspace", &[("yarn.lock", ""), ("packages/a/package.json", installed)], "unsupported", "yarn.lock", 1),
        // Packages that are installed beside their lock file are read.
        ("installed", &[("package-lock.json", "{}"), ("node_modules/y/package.json", installed)], "scanned", "", 0),
        (
            "venv",
            &[("requirements.txt", ""), (".venv/lib/six-1.dist-info/METADATA", "Name: six\nVersion: 1\n")],
            "scanned",
            "",
            0,
        ),
        (
            "half",
            &[("web/package-lock.json", "{}"), ("web/node_modules/y/package.json", installed), ("api/poetry.lock", "")],
            "partial",
            "api/poetry.lock",
            0,
        ),
        // Lock files of other projects, and those of a distribution's files.
        ("modules", &[("node_modules/y/package.json", installed), ("node_modules/y/yarn.lock", "")], "scanned", "", 0),
        ("image", &[("etc/os-release", "ID=debian\nVERSION_ID=12\n"), ("usr/share/x/yarn.lock", "")], "scanned", "", 0),
        ("empty", &[("README", "")], "scanned", "", 0),
    ];
    for (directory, files, state, names, code) in cases {
        for (path, content) in *files {
            place.put(&format!("{directory}/{path}"), content);
        }
        let output = place.run(&["scan", "--rootfs", directory, "--db", "db", "--output", "json"]);
        assert_eq!(output.code(), *code, "{directory}: {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_schema(&report);
        let coverage = &report["targets"][0]["coverage"];
        assert_eq!(coverage["state"], *state, "{directory}: {coverage}");
        let reason = coverage["reason"].as_str().unwrap();
        if *directory == "empty" {
            assert!(reason.is_empty() && output.err().contains("no package was found"), "{}", output.err());
        } else if names.is_empty() {
            assert_eq!((reason, output.err()), ("", ""), "{directory}");
        } else {
            assert_eq!(reason, format!("lock files and manifests are not read, only installed packages: {names}"));
            let line =
                format!("outcrop: lock files and manifests are not read, only installed packages: {names}; install");
            assert!(output.err().starts_with(&line) && output.err().lines().count() == 1, "{}", output.err());
        }
    }
    let table = place.run(&["scan", "--rootfs", "only", "--packages"]);
    assert!(table.out().starts_with("only: 0 packages, unsupported (lock files and"), "{}", table.out());
    // A link out of the directory is not followed.
    place.put("linked/node_modules/y/package.json", installed);
    std::os::unix::fs::symlink(place.at("only"), place.at("linked/only")).unwrap();
    let linked = place.json(&["scan", "--rootfs", "linked", "--db", "db"]);
    assert_eq!(linked["targets"][0]["coverage"]["state"], "scanned");
}

#[test]
fn errors_name_the_cause_and_a_hint() {
    let place = Place::new();
    place.put("plain", "");
    place.put("empty.db", "");
    let _listener = UnixListener::bind(place.at("deaf.sock")).unwrap();
    drop(UnixListener::bind(place.at("left.sock")).unwrap());
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["scan"], 64, &["no advisory database", "--db FILE", "outcrop db build", "--packages"]),
        (&["scan", "--db", "nowhere"], 1, &["file not found", "outcrop db build"]),
        (&["scan", "--db", "empty.db"], 1, &["not an advisory database", "outcrop db build"]),
        (
            &["scan", "--packages", "--containerd", "nowhere.sock"],
            1,
            &["no socket at \"nowhere.sock\"", "omit --containerd"],
        ),
        (&["scan", "--packages", "--containerd", "plain"], 1, &["is not a unix socket", "--containerd SOCKET"]),
        (&["scan", "--packages", "--containerd", "left.sock"], 1, &["nothing listens", "systemctl start containerd"]),
        (&["scan", "--packages", "--rootfs", "nowhere"], 1, &["nowhere: no such file or directory; check the path"]),
        (&["scan", "--packages", "--rootfs", ".", "--fail-on", "low"], 64, &["--packages", "--fail-on"]),
        (&["scan", "--packages", "--sbom", "nowhere"], 1, &["nowhere: no such file or directory; check the path"]),
        (&["scan", "--packages", "--rootfs", "plain"], 1, &["scanning plain: not a directory"]),
        (&["scan", "--packages", "--layers", "root:"], 64, &["--layers"]),
        (&["doctor", "--preflight", "--node"], 64, &["--preflight", "--node"]),
        (&["db", "build", "--from", "nowhere", "--out", "x"], 1, &["nowhere: No such file"]),
        (&["db", "build", "--from", "plain", "--out", "x"], 1, &["unsupported format", ".tar.zst"]),
        (&["db", "build", "--from", "feed", "--out", "no/such/x"], 1, &["writing advisory database no/such/x"]),
        (&["db", "info", "plain"], 1, &["not an advisory database"]),
    ];
    for (arguments, code, said) in cases {
        let output = place.run(arguments);
        assert_eq!(output.code(), *code, "{arguments:?}: {output:?}");
        assert_eq!(output.out(), "", "{arguments:?}");
        for text in *said {
            assert!(output.err().contains(text), "{arguments:?} does not say {text:?}: {}", output.err());
        }
        if *code == 1 {
            assert_eq!(output.err().lines().count(), 1, "{}", output.err());
        }
    }
}

#[test]
fn without_permission_it_says_who_may() {
    if !rustix::process::geteuid().is_root() {
        skip("root", "becoming another user");
        return;
    }
    let place = Place::new();
    let _listener = UnixListener::bind(place.at("c.sock")).unwrap();
    fs::set_permissions(place.at("c.sock"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(place.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A copy: the build's directory may be closed to others.
    // Copied by another process: a program that is open for writing here, or in a child of another test's, cannot be executed.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_outcrop")).arg(place.at("outcrop")).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(place.at("outcrop"));
    let output = command.args(["scan", "--packages", "--containerd"]).arg(place.at("c.sock")).output().unwrap();
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.err().contains("no permission") && output.err().contains("sudo"), "{}", output.err());
}

#[test]
fn an_old_database_is_said_beside_the_result() {
    let place = Place::new();
    place.put(
        "old/x.json",
        json!({ "id": "X", "modified": "2020-01-01T00:00:00Z", "affected": [{ "versions": ["1"],
            "package": { "ecosystem": "Debian:12", "name": "a" } }] })
        .to_string(),
    );
    assert_eq!(place.run(&["db", "build", "--from", "old", "--out", "old.db"]).code(), 0);
    let output = place.run(&["scan", "--rootfs", "root", "--db", "old.db"]);
    assert_eq!(output.code(), 0);
    assert!(output.err().contains("the advisory database is stale"), "{}", output.err());
    assert!(
        output.out().contains("assessed: npm: unmatched (the advisory database has no source for it)"),
        "{}",
        output.out()
    );
}

#[test]
fn the_age_of_the_database_is_judged_on_another_day_only_with_a_word_about_it() {
    let place = Place::new();
    place.put(
        "old/x.json",
        json!({ "id": "X", "modified": "2020-01-01T00:00:00Z", "affected": [{ "versions": ["1"],
            "package": { "ecosystem": "npm", "name": "a" } }] })
        .to_string(),
    );
    assert_eq!(place.run(&["db", "build", "--from", "old", "--out", "old.db"]).code(), 0);
    let scan = ["scan", "--rootfs", "root", "--db", "old.db", "--output", "json", "--db-as-of"];
    for (day, state) in [("2020-01-31", "matched"), ("2020-02-01", "stale")] {
        let output = place.run(&[&scan[..], &[day]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_schema(&report);
        assert_eq!(report["database"]["as_of"], day);
        let assessed = report["targets"][0]["assessed"].as_array().unwrap();
        let npm = assessed.iter().find(|assessed| assessed["ecosystem"] == "npm").unwrap();
        assert_eq!(npm["state"], state, "{day}");
        let word = format!("outcrop: the age of the advisory database is judged on {day} and not today");
        assert!(output.err().starts_with(&word), "{}", output.err());
    }
    let today = place.run(&["scan", "--rootfs", "root", "--db", "old.db", "--output", "json"]);
    let report: Value = serde_json::from_slice(&today.stdout).unwrap();
    assert_eq!(report["database"]["as_of"], Value::Null);
    let wrong = place.run(&[&scan[..], &["yesterday"]].concat());
    assert_eq!(wrong.code(), 64);
    assert!(wrong.err().contains("expected a date, for example"), "{}", wrong.err());
}

#[test]
fn the_selftest_names_a_barrier_for_every_forbidden_act() {
    let place = Place::new();
    let output = place.run(&["selftest"]);
    assert_eq!(output.code(), 0, "{output:?}");
    let table = output.out().lines().skip_while(|line| !line.starts_with("FORBIDDEN ACT")).skip(1);
    let acts: Vec<&str> = table.take_while(|line| !line.is_empty()).collect();
    let total = format!("all {} forbidden actions were stopped", acts.len());
    assert_eq!(output.out().lines().last(), Some(&*total));
    assert!(acts.len() > 45, "{}", output.out());
    let barriers =
        ["seccomp (EPERM)", "Landlock (EACCES)", "capabilities (EPERM)", "lookup beneath the layer's root (EXDEV)"];
    for act in acts {
        assert!(barriers.iter().any(|barrier| act.ends_with(barrier)), "{act}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let script = format!("{} scan --rootfs root --packages --output json | head -c 1", env!("CARGO_BIN_EXE_outcrop"));
    let output =
        Command::new("bash").args(["-c", "-o", "pipefail", &script]).current_dir(place.0.path()).output().unwrap();
    assert_eq!((output.code(), output.err()), (0, ""));
}

//! Targets that keep files, of a whole aggregator: a directory, through kills, and a bucket of a real S3 server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use outcrop_proto::Digest;
use serde_json::{Value, json};

use super::TINY;
use super::load::{advisory, runtime, settle};
use super::node::{Fleet, node_name};
use super::service::{OUTCROP, Running, Service, until};
use super::world::World;
use crate::ports::free;
use crate::skip::skip;

/// Longest wait for a delivery.
const PATIENCE: Duration = Duration::from_secs(120);

/// The files of a place, by path.
type Files = BTreeMap<String, Vec<u8>>;

/// Files below a directory, without temporary ones.
fn files(at: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![at.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() != ".outcrop.tmp" {
                let path = entry.path().strip_prefix(at).unwrap().to_str().unwrap().to_owned();
                // A file may be replaced while this goes on.
                found.extend(fs::read(entry.path()).ok().map(|content| (path, content)));
            }
        }
    }
    found
}

/// The manifest among files, if it is complete.
fn manifest(files: &Files) -> Option<Value> {
    let manifest: Value = serde_json::from_slice(files.get("manifest.json")?).unwrap();
    (manifest["complete"] == true).then_some(manifest)
}

/// Asserts that every file that a manifest names is there and is as it says. Returns their paths.
fn verified(files: &Files) -> BTreeSet<String> {
    let Some(manifest) = files.get("manifest.json") else { return BTreeSet::new() };
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let named = manifest["files"].as_array().unwrap().iter();
    named
        .map(|file| {
            let path = file["path"].as_str().unwrap();
            let content = files.get(path).unwrap_or_else(|| panic!("{path} is named and missing"));
            let digest = Digest::of(content).to_string();
            assert_eq!(digest.trim_start_matches("sha256:"), file["sha256"], "{path}");
            assert_eq!(file["size"], content.len(), "{path}");
            path.to_owned()
        })
        .collect()
}

/// Lines of JSON, each of which the published schema describes.
#[expect(clippy::disallowed_types, reason = "the aggregator of the test wrote it")]
fn lines(content: &[u8]) -> Vec<Value> {
    let content = match content {
        [0x1f, 0x8b, ..] => std::io::read_to_string(flate2::read::GzDecoder::new(content)).unwrap(),
        plain => String::from_utf8(plain.to_vec()).unwrap(),
    };
    let all: Vec<Value> = content.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let wrong =
        all.iter().find_map(|line| Some((line, super::receiver::schema().iter_errors(line).next()?.to_string())));
    assert_eq!(wrong, None, "docs/delivery.schema.json describes every line");
    all
}

/// What files say of a fleet: the number of subjects, and their findings, each counted once for each subject that has it.
fn told(files: &Files) -> (usize, u64) {
    let findings = |path: &str| lines(&files[path]).iter().filter(|line| line["kind"] == "finding").count() as u64;
    let subjects = files.iter().filter(|(path, _)| path.starts_with("workloads/") || path.starts_with("containers/"));
    let mut sums = (0, 0);
    for (_, content) in subjects {
        let document: Value = serde_json::from_slice(content).unwrap();
        for container in document["containers"].as_array().unwrap() {
            sums.0 += 1;
            for set in container["package_sets"].as_array().unwrap() {
                assert!(files.contains_key(set["sbom"].as_str().unwrap()), "{set}");
                sums.1 += findings(set["findings"].as_str().unwrap());
            }
        }
    }
    sums
}

/// Waits until the files say of a fleet what the API shows of it. Returns them.
fn until_told(service: &Service, read: impl Fn() -> Files) -> Files {
    let mut last = String::new();
    for _ in 0..600 {
        let files = read();
        let shown = super::receiver::shown(service);
        // A file may be replaced after it was read, and before the manifest was.
        let is_settled = manifest(&files).is_some() && read() == files;
        let there: BTreeSet<String> = files.keys().filter(|path| *path != "manifest.json").cloned().collect();
        // A new file is there before the manifest names it.
        let is_named = is_settled && verified(&files) == there;
        if is_named && told(&files) == shown {
            return files;
        }
        last = format!("{:?}, shown {shown:?}, all named: {is_named}", is_settled.then(|| told(&files)));
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("subjects and findings of the files: {last}");
}

/// Files without reports: on another day there is another one.
fn without_reports(files: Files) -> Files {
    files.into_iter().filter(|(path, _)| !path.starts_with("reports/") && path != "manifest.json").collect()
}

/// A folder with the configuration of targets.
fn configuration(yaml: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deliver.yaml");
    fs::write(&path, yaml.replace("DIR", &dir.path().display().to_string())).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

fn outcrop(service: &Service, arguments: &[&str]) -> std::process::Output {
    let server = format!("http://{}", service.api);
    Command::new(OUTCROP).args(arguments).args(["--server", &server]).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// What Python has to have for these tests; `None` where it cannot be had.
fn python() -> Option<Command> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/targets/python");
    let found = Command::new(script).output().ok().filter(|found| found.status.success());
    let Some(found) = found else {
        skip("tools", "tests/targets/python found no moto");
        return None;
    };
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", text(&found.stdout).lines().last()?).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(python)
}

/// Has CycloneDX's own library validate all bills, strictly.
fn validate(files: &Files) {
    const VALIDATE: &str = "
import pathlib, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
validator = JsonStrictValidator(SchemaVersion.V1_6)
for path in sys.argv[1:]:
    wrong = validator.validate_str(pathlib.Path(path).read_text())
    if wrong: sys.exit(f'{path}: {wrong}')
";
    let Some(mut python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bills = files.iter().filter(|(path, _)| path.ends_with(".cdx.json")).enumerate();
    let paths: Vec<PathBuf> = bills
        .map(|(number, (_, content))| {
            let path = dir.path().join(number.to_string());
            fs::write(&path, content).unwrap();
            path
        })
        .collect();
    assert!(!paths.is_empty());
    let validated = python.arg("-c").arg(VALIDATE).args(paths).output().unwrap();
    assert!(validated.status.success(), "{}", text(&validated.stderr));
}

#[test]
fn a_directory_has_of_a_fleet_what_the_api_shows_and_only_what_changes_is_written_again() {
    let yaml = "targets:\n- name: files\n  directory: { path: DIR/out }\n  batch: { wait: 0s }\n";
    let (dir, path) = configuration(yaml);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let runtime = runtime();
    let service = Service::start((0..TINY.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(TINY), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, TINY, false);
    until("the report of the day", PATIENCE, || files(&out).keys().any(|path| path.starts_with("reports/")));
    let before = until_told(&service, || files(&out));
    assert_eq!(before.keys().filter(|path| path.starts_with("sboms/")).count(), TINY.images);
    validate(&before);
    let report = before.iter().find(|(path, _)| path.starts_with("reports/")).expect("a report of the day");
    let report = lines(report.1);
    assert_eq!(
        (&report[0]["kind"], &report.last().unwrap()["kind"]),
        (&json!("snapshot-begin"), &json!("snapshot-end"))
    );

    // Another database with one advisory more: of the files, only findings are written again.
    let inodes = |prefix: &str| -> BTreeMap<String, u64> {
        let paths = before.keys().filter(|path| path.starts_with(prefix));
        paths.map(|path| (path.clone(), fs::metadata(out.join(path)).unwrap().ino())).collect()
    };
    let kept = [inodes("sboms/"), inodes("containers/"), inodes("workloads/"), inodes("reports/")];
    assert!(kept.iter().map(BTreeMap::len).sum::<usize>() > TINY.images);
    let rematch = service.status()["rematch"].clone();
    service.build_database(&[advisory()]);
    let has_new = |content: &[u8]| text(content).contains("CVE-2026-99999");
    until("everything to be matched", PATIENCE, || service.status()["rematch"] != rematch);
    until("the new finding", PATIENCE, || {
        files(&out).iter().any(|(path, content)| path.starts_with("findings/") && has_new(content))
    });
    let after = until_told(&service, || files(&out));
    assert_eq!(kept, [inodes("sboms/"), inodes("containers/"), inodes("workloads/"), inodes("reports/")]);
    let changed: Vec<bool> = after
        .iter()
        .filter(|(path, _)| path.starts_with("findings/"))
        .map(|(path, content)| before[path] != *content)
        .collect();
    assert!(changed.contains(&true), "{changed:?}");

    // A file that somebody removed or changed comes back with a snapshot.
    let (some, other) = (out.join(after.keys().next().unwrap()), out.join(after.keys().nth(1).unwrap()));
    fs::remove_file(&some).unwrap();
    fs::write(&other, "vandalized").unwrap();
    assert!(outcrop(&service, &["deliver", "resync", "files"]).status.success());
    until("the files to come back", PATIENCE, || some.exists() && fs::read(&other).unwrap() != b"vandalized");
    let after = without_reports(after);
    assert_eq!(without_reports(until_told(&service, || files(&out))), after);

    let tested = outcrop(&service, &["deliver", "test", "files"]);
    assert!(text(&tested.stdout).contains("was written and removed"), "{tested:?}");
    assert_eq!(without_reports(files(&out)), after);
    let listed = text(&outcrop(&service, &["deliver", "list", "-o", "wide"]).stdout);
    assert!(listed.contains("directory") && listed.contains(&out.display().to_string()), "{listed}");
}

#[test]
fn a_directory_is_right_after_kills_and_whatever_is_planted_in_it_and_its_manifest_never_lies() {
    let yaml =
        "targets:\n- name: files\n  directory: { path: DIR/out, reportDays: 0 }\n  batch: { wait: 0s, records: 7 }\n";
    let (dir, path) = configuration(yaml);
    let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
    fs::create_dir(&out).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "theirs").unwrap();
    // Links where files and temporary files are going to be, and one where a folder has to be.
    symlink(outside.join("file"), out.join("manifest.json")).unwrap();
    symlink(outside.join("file"), out.join(".outcrop.tmp")).unwrap();
    symlink(&outside, out.join("findings")).unwrap();
    let runtime = runtime();
    let mut service = Service::start((0..TINY.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(TINY), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, TINY, false);
    until("the link to be shown", PATIENCE, || {
        service.status()["problems"].to_string().contains("findings is a symbolic link or a file")
    });
    fs::remove_file(out.join("findings")).unwrap();
    for kills in 0..8 {
        // Each life gets a snapshot, and is killed while it writes that.
        let before = files(&out).len();
        let advanced = || files(&out).len() > before || kills > 0;
        until("something to be written", PATIENCE, advanced);
        outcrop(&service, &["deliver", "resync", "files"]);
        std::thread::sleep(Duration::from_millis(17 * kills));
        service.kill();
        verified(&files(&out));
        fleet.next_life();
        service.run();
    }
    settle(&service, TINY, false);
    let all = until_told(&service, || files(&out));
    assert_eq!(all.keys().filter(|path| path.starts_with("sboms/")).count(), TINY.images);
    let untouched: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((untouched.len(), fs::read_to_string(outside.join("file")).unwrap().as_str()), (1, "theirs"));
}

#[test]
fn a_directory_that_is_not_there_is_a_problem_and_no_file_is_written_elsewhere() {
    let (dir, path) = configuration("targets:\n- name: files\n  directory: { path: DIR/out }\n  batch: { wait: 0s }\n");
    // Nothing is contacted: offline allows it.
    let service = Service::start([node_name(0)].into_iter(), &["--deliver", &path, "--offline"]);
    until("the problem to be shown", PATIENCE, || {
        let problems = service.status()["problems"].to_string();
        problems.contains("create the directory, or mount its volume")
    });
    assert!(!dir.path().join("out").exists());
    let tested = outcrop(&service, &["deliver", "test", "files"]);
    assert!(tested.status.code() == Some(1) && text(&tested.stderr).contains("mount its volume"), "{tested:?}");
    fs::create_dir(dir.path().join("out")).unwrap();
    until("the manifest", PATIENCE, || manifest(&files(&dir.path().join("out"))).is_some());
}

/// A real S3 server.
struct Bucket {
    address: SocketAddr,
    _running: Running,
}

impl Bucket {
    /// Starts one with a bucket `results`; `None` where it cannot be had.
    fn start() -> Option<Self> {
        let address = free();
        let mut server = python()?;
        server.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let running = Running(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("moto to listen", PATIENCE, || TcpStream::connect(address).is_ok());
        ureq::put(format!("http://{address}/results")).send_empty().unwrap();
        Some(Self { address, _running: running })
    }

    fn get(&self, path: &str) -> ureq::http::Response<ureq::Body> {
        // moto asks who reads an object, and believes the answer.
        let request = ureq::get(format!("http://{}/results{path}", self.address));
        request.header("Authorization", "AWS4-HMAC-SHA256 Credential=reader/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0").call().unwrap()
    }

    /// All objects below a prefix, without it.
    fn objects(&self, prefix: &str) -> Files {
        let listed = self.get("?list-type=2&max-keys=1000").body_mut().read_to_string().unwrap();
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split_once('<').unwrap().0);
        let content = |key: &str| self.get(&format!("/{}", key.replace('%', "%25"))).body_mut().read_to_vec().unwrap();
        keys.map(|key| (key.strip_prefix(prefix).unwrap_or_else(|| panic!("{key}")).to_owned(), content(key))).collect()
    }
}

#[test]
fn a_bucket_has_the_same_files_with_the_headers_that_the_operator_wants() {
    let Some(bucket) = Bucket::start() else { return };
    let yaml = format!(
        "targets:
- name: files
  s3:
    url: http://{}
    bucket: results
    region: eu-central-1
    prefix: /clusters/a/
    accessKeyIdFile: DIR/id
    secretAccessKeyFile: DIR/secret
    serverSideEncryption: AES256
  batch: {{ wait: 0s }}
- name: wrong
  s3: {{ url: 'http://{}', bucket: other, accessKeyIdFile: DIR/id, secretAccessKeyFile: DIR/secret }}
  batch: {{ wait: 0s }}
",
        bucket.address, bucket.address
    );
    let (dir, path) = configuration(&yaml);
    fs::write(dir.path().join("id"), "AKIDEXAMPLE\n").unwrap();
    fs::write(dir.path().join("secret"), "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n").unwrap();
    let runtime = runtime();
    let service = Service::start((0..TINY.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(TINY), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, TINY, false);
    let objects = without_reports(until_told(&service, || bucket.objects("clusters/a/")));
    let some = objects.keys().find(|path| path.starts_with("sboms/")).unwrap();
    let answer = bucket.get(&format!("/clusters/a/{some}"));
    for (header, value) in
        [("x-amz-server-side-encryption", "AES256"), ("content-type", "application/vnd.cyclonedx+json")]
    {
        assert_eq!(answer.headers()[header], value, "{header}");
    }
    let tested = outcrop(&service, &["deliver", "test", "files"]);
    assert!(text(&tested.stdout).contains("was written and removed"), "{tested:?}");
    assert_eq!(without_reports(bucket.objects("clusters/a/")), objects);

    // A fault of the configuration is retried, and says what the server says; what is in files stays there.
    let tested = outcrop(&service, &["deliver", "test", "wrong"]);
    let says = text(&tested.stderr);
    assert!(tested.status.code() == Some(1) && says.contains("404") && says.contains("NoSuchBucket"), "{says}");
    until("the problem to be shown", PATIENCE, || {
        service.status()["targets"][1]["state"] == "failing" && service.status()["targets"][1]["refused"] == 0
    });
    let log = fs::read_to_string(service.at("log")).unwrap();
    let everything = [log, service.status().to_string(), says].concat();
    for secret in ["wJalrXUtnFEMI", "X-Amz-Signature"] {
        assert!(!everything.contains(secret), "{secret}");
    }
}

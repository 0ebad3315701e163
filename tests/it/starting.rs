//! Checks of the aggregator at its start: its directory, its volume, and the permissions of its files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ports::free;
use crate::service_parts::{OUTCROP, Running, request, until};
use crate::skip::skip;
use crate::volumes::{FileSystem, Volume};

/// The permissions of a file or directory.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Starts an aggregator with its data in `dir/data`, under the umask 022. It logs JSON to `dir/log`.
fn start(dir: &Path, api: std::net::SocketAddr, flags: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 022; exec \"$@\"", "sh", OUTCROP, "aggregator", "--log-format", "json"]);
    for (flag, address) in [("--listen", free()), ("--api", api), ("--probes", free())] {
        command.args([flag, &address.to_string()]);
    }
    fs::write(dir.join("tokens"), "").unwrap();
    command.arg("--data").arg(dir.join("data")).arg("--tokens").arg(dir.join("tokens")).args(flags);
    command.stdin(Stdio::null()).stderr(fs::File::create(dir.join("log")).unwrap()).spawn().unwrap()
}

/// Runs an aggregator until it is ready, and returns it with the address of its API.
fn ready(dir: &Path, flags: &[&str]) -> (Running, std::net::SocketAddr) {
    let api = free();
    let aggregator = Running(start(dir, api, flags));
    let log = || fs::read_to_string(dir.join("log")).unwrap();
    until(&format!("readiness; {}", log()), || request(api, "/readyz").is_some_and(|(status, _)| status == 200));
    (aggregator, api)
}

/// Ends an aggregator as a service manager does.
fn terminate(mut aggregator: Running) {
    let pid = rustix::process::Pid::from_child(&aggregator.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(aggregator.0.wait().unwrap().code(), Some(0));
}

/// Runs an aggregator that does not start, and returns its error.
fn refused(dir: &Path, flags: &[&str]) -> String {
    let status = start(dir, free(), flags).wait().unwrap();
    let log = fs::read_to_string(dir.join("log")).unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    // Another aggregator may write to the same file.
    log.lines().find(|line| line.contains("outcrop: ")).unwrap_or_default().to_owned()
}

#[test]
fn a_directory_that_cannot_be_written_ends_the_start_with_the_reason_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let Some(volume) = Volume::mount(&data, FileSystem::Tmpfs, 64) else {
        skip("root", "mounting a small volume");
        return;
    };
    // Both before anything was stored and after it.
    for round in 0..2 {
        volume.remount("ro");
        let line = refused(dir.path(), &["--insecure"]);
        let path = data.display();
        assert!(
            line.contains(&format!("the data directory {path} cannot be written: Read-only file system"))
                && line.contains("mount its volume read-write"),
            "{round}: {line}"
        );
        volume.remount("rw");
        terminate(ready(dir.path(), &["--insecure"]).0);
    }
    drop(volume);
    fs::remove_dir_all(&data).unwrap();
    fs::write(&data, "a file").unwrap();
    let line = refused(dir.path(), &["--insecure"]);
    assert!(line.contains("creating the data directory") && line.contains("choose another directory"), "{line}");
}

#[test]
fn a_volume_that_is_full_at_the_start_is_a_problem_from_the_start_on_and_goes_when_there_is_room() {
    for kind in [FileSystem::Tmpfs, FileSystem::Ext4] {
        let dir = tempfile::tempdir().unwrap();
        let Some(volume) = Volume::mount(&dir.path().join("data"), kind, 64) else {
            skip("root", "mounting a small volume");
            return;
        };
        let (dir, flags) = (dir.path(), &["--tls-name", "localhost"]);
        let plain = Running(start(dir, free(), flags));
        let log = || fs::read_to_string(dir.join("log")).unwrap();
        until(&format!("{kind:?}: the start: {}", log()), || log().contains("aggregator started"));
        // Killed, as by a lack of memory: what the store needs to open is there.
        drop(plain);
        volume.fill();
        let aggregator = Running(start(dir, free(), flags));
        until(&format!("{kind:?}: the start"), || log().contains("aggregator started"));
        until(&format!("{kind:?}: the problem"), || log().contains("\"problem raised\""));
        let raised: Vec<String> =
            log().lines().filter(|line| line.contains("problem raised")).map(str::to_owned).collect();
        assert!(raised.iter().any(|line| line.contains("\"kind\":\"store\"")), "{raised:?}");
        assert!(raised.iter().any(|line| line.contains("\"kind\":\"certificate\"")), "{raised:?}");
        volume.empty();
        until(&format!("{kind:?}: the store to be right again"), || log().contains("store resumed accepting writes"));
        drop(aggregator);
    }
}

#[test]
fn the_data_directory_and_everything_in_it_is_the_users_alone_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let shared = |path: &Path| -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![path.to_owned()];
        while let Some(path) = left.pop() {
            if mode(&path) & 0o077 != 0 {
                found.push(format!("{} {:o}", path.display(), mode(&path)));
            }
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        found
    };
    let open = |path: &Path| {
        let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(path).status();
        assert!(opened.is_ok_and(|status| status.success()));
    };
    let flags = ["--tls-name", "localhost"];
    let until_started = || {
        let log = || fs::read_to_string(dir.path().join("log")).unwrap();
        until("the start", || log().contains("aggregator started"));
    };
    // A new directory, and one that an earlier version left open.
    for round in 0..2 {
        let aggregator = Running(start(dir.path(), free(), &flags));
        until_started();
        assert_eq!(shared(&data), Vec::<String>::new(), "{round}");
        terminate(aggregator);
        assert!(data.join("tls/ca.key").exists() && data.join("outcrop.db").exists());
        open(&data);
        assert_ne!(shared(&data), Vec::<String>::new());
    }
    // A directory that others can access, with their files in it.
    fs::write(data.join("photos"), "").unwrap();
    let line = refused(dir.path(), &flags);
    assert!(line.contains("photos") && line.contains("chmod 700"), "{line}");
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    terminate(Running(start(dir.path(), free(), &flags)).waited(dir.path()));
}

impl Running {
    /// Waits until the aggregator that logs to `dir/log` has started.
    fn waited(self, dir: &Path) -> Self {
        until("the start", || fs::read_to_string(dir.join("log")).unwrap().contains("aggregator started"));
        self
    }
}

#[test]
fn keys_and_tokens_are_not_readable_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let token = |file: &str, node: &str| {
        let script = "umask 022; \"$0\" token new \"$1\" --tokens \"$2\" >\"$3\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, OUTCROP, node]).arg(at(file)).arg(at(&format!("{node}.token")));
        assert!(command.status().unwrap().success());
    };
    token("node-tokens", "one");
    assert_eq!((mode(&at("node-tokens")), mode(&at("one.token"))), (0o600, 0o600));
    assert_eq!(fs::read_to_string(at("one.token")).unwrap().len(), 65);
    // Files of an earlier version; a group may have been chosen on purpose.
    for file in ["node-tokens", "key.pem"] {
        fs::set_permissions(at(file), Permissions::from_mode(0o644)).unwrap();
    }
    token("node-tokens", "two");
    assert_eq!((mode(&at("node-tokens")), mode(&at("two.token"))), (0o640, 0o600));
    let before = fs::read_to_string(at("node-tokens")).unwrap();
    let of_api = Command::new(OUTCROP)
        .args(["token", "new", "--api", "me", "--tokens"])
        .arg(at("node-tokens"))
        .output()
        .unwrap();
    let said = String::from_utf8(of_api.stderr).unwrap();
    assert!(of_api.stdout.is_empty() && said.contains("line 1: expected \"NAME RIGHT"), "{said}");
    assert_eq!(fs::read_to_string(at("node-tokens")).unwrap(), before, "a token of the API is among those of nodes");
    let again =
        Command::new(OUTCROP).args(["token", "new", "two", "--tokens"]).arg(at("node-tokens")).output().unwrap();
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(again.stdout.len() == 65 && said.starts_with("two has 2 tokens in "), "{said}");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| at(name).display().to_string());
    terminate(Running(start(dir.path(), free(), &["--tls-cert", &cert, "--tls-key", &key])).waited(dir.path()));
    assert_eq!((mode(&at("key.pem")), mode(&at("cert.pem"))), (0o640, 0o644), "a certificate is no secret");
}

#[test]
fn a_second_aggregator_takes_nothing_from_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (_first, _) = ready(dir.path(), &["--insecure"]);
    let spooled = dir.path().join("data/uploads/being-pushed");
    fs::write(&spooled, "").unwrap();
    let line = refused(dir.path(), &["--insecure"]);
    assert!(line.contains("another process has") && spooled.exists(), "{line}");
}

#[test]
fn no_line_of_the_log_moves_the_cursor_or_looks_like_another_event() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data\n2026 INFO forged\u{1b}[2J\u{9b}\r\u{202e}\u{200b}");
        fs::write(dir.path().join("tokens"), "").unwrap();
        let mut command = Command::new(OUTCROP);
        command.args(["aggregator", "--insecure", "--log-format", format, "--cluster", "test\u{202e}\u{9b}\n"]);
        for flag in ["--listen", "--api", "--probes"] {
            command.args([flag, &free().to_string()]);
        }
        command.arg("--data").arg(&data).arg("--tokens").arg(dir.path().join("tokens"));
        command.stdin(Stdio::null()).stderr(fs::File::create(dir.path().join("log")).unwrap());
        let aggregator = Running(command.spawn().unwrap()).waited(dir.path());
        terminate(aggregator);
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        let bad = log.chars().find(|character| *character != '\n' && outcrop::web::is_treacherous(*character));
        assert_eq!(bad, None, "{format}: {log:?}");
        assert!(!log.lines().any(|line| line.starts_with("2026 INFO forged")), "{format}: {log}");
        if format == "json" {
            let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let started = events.iter().find(|event| event["message"] == "aggregator started").unwrap();
            assert_eq!(started["data"].as_str(), data.to_str(), "the value is unchanged");
        }
    }
}

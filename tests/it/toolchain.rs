//! `tests/places` finds the toolchains of the user who called sudo.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Runs `script` after `tests/places`, with root's `PATH` as sudo sets it, for the person `ann`, whose profile has a `PATH` of its own.
fn under_sudo(script: &str) -> String {
    let machine = tempfile::tempdir().unwrap();
    let at = |name: &str| machine.path().join(name).display().to_string();
    let program = |path: &str, text: String| {
        let path = machine.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    fs::create_dir_all(at("ann/.rustup")).unwrap();
    program("bin/id", "echo 0".to_owned());
    program("bin/getent", format!("echo ann:x:1000:1000::{}:/bin/bash", at("ann")));
    // `-l ann -c SCRIPT` is a login; `-u ann -- COMMAND` keeps the environment.
    let login = format!("echo welcome; PATH={} /bin/bash -c \"$4\"", at("ann/go/bin"));
    program("bin/runuser", format!("if [ \"$1\" = -l ]; then {login}; else shift 3; WHO=ann exec \"$@\"; fi"));
    program("ann/.cargo/bin/outcrop-cargo", "echo \"cargo of ${WHO:-root}, home $HOME\"".to_owned());
    program("ann/go/bin/outcrop-go", "echo go".to_owned());
    let places = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/places");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &format!(". {places}; {script}")]).current_dir(machine.path());
    command.env_remove("RUSTUP_HOME").env("PATH", format!("{}:/usr/bin:/bin", at("bin")));
    command.env("SUDO_USER", "ann").env("HOME", at("root")).env("OUTCROP_CACHE", at("cache"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().replace(machine.path().to_str().unwrap(), "")
}

#[test]
fn under_sudo_the_toolchains_of_the_person_are_found() {
    let found = under_sudo("outcrop-go; outcrop-cargo; echo $RUSTUP_HOME");
    assert_eq!(found, "go\ncargo of root, home /root\n/ann/.rustup\n");
    // Scripts that start each other do not repeat it.
    assert_eq!(
        under_sudo(
            "p=$PATH; . $OUTCROP_PLACES; [ \"$p\" = \"$PATH\" ]"
                .replace("$OUTCROP_PLACES", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/places"))
                .as_str()
        ),
        ""
    );
}

#[test]
fn under_sudo_a_build_runs_as_the_person_unless_the_checkout_is_roots() {
    assert_eq!(under_sudo("as_person outcrop-cargo"), "cargo of ann, home /ann\n");
    if rustix::process::geteuid().is_root() {
        // What root has built there, the person could not replace.
        let built = under_sudo("mkdir -p target/debug; as_person outcrop-cargo");
        assert_eq!(built, "cargo of root, home /root\n");
    }
}

//! Lines of README work as typed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::ports::free;
use crate::service_parts::OUTCROP;

/// Returns the first block of commands below a heading of README.
fn commands(heading: &str) -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_aggregator_without_kubernetes_starts_with_tls_and_answers() {
    let lines = commands("On many nodes, without Kubernetes");
    // Up to the first question, without the agent, which would need containerd.
    let end = lines.find("\noutcrop get").unwrap();
    let lines = lines[..end].lines().filter(|line| !line.starts_with("sudo outcrop-agent")).collect::<Vec<_>>();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (listen, api) = (free(), free());
    let script = lines.join("\n").replace("/var/lib/outcrop", &at("data"));
    // A person waits two seconds, a busy machine may need more.
    let listens = format!("until (: </dev/tcp/127.0.0.1/{}) 2>/dev/null; do sleep 0.1; done;", api.port());
    assert!(script.contains("sleep 2;"), "{script}");
    let script = script.replace("sleep 2;", &listens);
    let script = script.replace("0.0.0.0:7443", &listen.to_string()).replace(":7480", &format!(":{}", api.port()));
    let script = format!(
        "trap 'kill $(jobs -p)' EXIT\n\
         outcrop db build --quiet --from {}/data/feed --out outcrop.db\n{script}",
        env!("CARGO_MANIFEST_DIR")
    );
    // A program and no function: the process in the background is then the aggregator itself.
    fs::write(at("sudo"), "#!/bin/sh\nexec \"$@\"\n").unwrap();
    fs::set_permissions(at("sudo"), fs::Permissions::from_mode(0o755)).unwrap();
    let programs = Path::new(OUTCROP).parent().unwrap().display().to_string();
    let mut command = Command::new("bash");
    command.args(["-euc", &script]).current_dir(dir.path());
    command.env("PATH", format!("{}:{programs}:{}", dir.path().display(), std::env::var("PATH").unwrap()));
    command.env("OUTCROP_API", api.to_string()).env("OUTCROP_PROBES", free().to_string()).env_remove("KUBECONFIG");
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}\n{err}");
    assert!(out.contains("in cluster prod") && out.contains("advisory database sha256:"), "{out}\n{err}");
}

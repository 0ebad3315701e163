//! Our verdict on pods beside that of the API server's own Pod Security admission, at both levels of the standards.
//!
//! Needs a running test cluster: OUTCROP_CLUSTER names its script, `tests/cluster/cluster`. Nothing is created there but two namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outcrop::cluster::checks::{PodSecurity, PodSpec, admission_reasons, check};
use serde_json::{Value, json};

/// Puts `patch` into `into` as RFC 7386 (JSON Merge Patch) does, but that a null stays one.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// What is set of a pod: `spec`, `metadata` and `container` are merged into it, `init` is one more container that runs before.
fn patches() -> Vec<Value> {
    let mut patches = vec![json!({})];
    let mut of =
        |name: &str, values: Vec<Value>| patches.extend(values.into_iter().map(|value| json!({ name: value })));
    of(
        "spec",
        vec![
            json!({ "hostNetwork": true }),
            json!({ "hostPID": true }),
            json!({ "hostIPC": true, "hostPID": true }),
            json!({ "hostUsers": false }),
            json!({ "hostUsers": false, "securityContext": { "runAsNonRoot": false } }),
            json!({ "securityContext": null }),
            json!({ "os": { "name": "linux" } }),
            json!({ "securityContext": { "runAsNonRoot": true } }),
            json!({ "securityContext": { "runAsNonRoot": false } }),
            json!({ "securityContext": { "runAsUser": 0 } }),
            json!({ "securityContext": { "runAsUser": 1000 } }),
            json!({ "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } } }),
            json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
            json!({ "securityContext": { "seccompProfile": { "type": "Localhost", "localhostProfile": "a.json" } } }),
            json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined" } } }),
            json!({ "securityContext": { "appArmorProfile": { "type": "RuntimeDefault" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "type": "spc_t" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "type": "container_t", "level": "s0:c1,c2" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "type": "container_init_t" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "type": "container_kvm_t" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "type": "container_engine_t" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "user": "system_u" } } }),
            json!({ "securityContext": { "seLinuxOptions": { "role": "system_r" } } }),
        ],
    );
    for sysctl in [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "kernel.msgmax",
        "net.core.somaxconn",
    ] {
        of("spec", vec![json!({ "securityContext": { "sysctls": [{ "name": sysctl, "value": "1" }] } })]);
    }
    for source in [
        json!({ "hostPath": { "path": "/var" } }),
        json!({ "emptyDir": {} }),
        json!({ "secret": { "secretName": "s" } }),
        json!({ "configMap": { "name": "c" } }),
        json!({ "downwardAPI": {} }),
        json!({ "projected": { "sources": [] } }),
        json!({ "persistentVolumeClaim": { "claimName": "p" } }),
        json!({ "csi": { "driver": "d.example" } }),
        json!({ "nfs": { "server": "s", "path": "/p" } }),
        json!({ "iscsi": { "targetPortal": "127.0.0.1:3260", "iqn": "iqn.2001-04.example:s", "lun": 0 } }),
        json!({ "fc": { "targetWWNs": ["w"], "lun": 0 } }),
        json!({ "rbd": { "monitors": ["m"], "image": "i" } }),
        json!({ "cephfs": { "monitors": ["m"] } }),
        json!({ "glusterfs": { "endpoints": "e", "path": "p" } }),
        json!({ "image": { "reference": "outcrop.example/none:1" } }),
        json!({ "gitRepo": { "repository": "r" } }),
        json!({ "awsElasticBlockStore": { "volumeID": "v" } }),
        json!({ "flexVolume": { "driver": "d/e" } }),
        json!({ "ephemeral": { "volumeClaimTemplate": { "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } } } }),
    ] {
        let mut volume = json!({ "name": "v" });
        merge(&mut volume, &source);
        of("spec", vec![json!({ "volumes": [volume] })]);
    }
    let mut contexts = vec![
        json!({ "privileged": true }),
        json!({ "privileged": false }),
        json!({ "privileged": null }),
        json!({ "allowPrivilegeEscalation": false }),
        json!({ "allowPrivilegeEscalation": true }),
        json!({ "runAsNonRoot": true }),
        json!({ "runAsNonRoot": false }),
        json!({ "runAsUser": 0 }),
        json!({ "runAsUser": 7 }),
        json!({ "procMount": "Default" }),
        json!({ "seccompProfile": { "type": "Unconfined" } }),
        json!({ "seccompProfile": { "type": "RuntimeDefault" } }),
        json!({ "appArmorProfile": { "type": "Unconfined" } }),
        json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": "p" } }),
        json!({ "seLinuxOptions": { "type": "spc_t" } }),
        json!({ "seLinuxOptions": {} }),
        json!({ "seLinuxOptions": { "user": "u" } }),
        json!({ "capabilities": { "drop": ["ALL"] } }),
        json!({ "capabilities": { "drop": ["all"] } }),
        json!({ "capabilities": { "drop": ["NET_RAW"] } }),
        json!({ "capabilities": { "drop": null, "add": null } }),
        json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] } }),
        json!({ "capabilities": { "drop": ["ALL"], "add": ["CHOWN"] } }),
        json!({ "readOnlyRootFilesystem": true }),
    ];
    contexts.extend(
        [
            "AUDIT_WRITE",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
            "NET_RAW",
            "SYS_ADMIN",
            "DAC_READ_SEARCH",
            "CAP_CHOWN",
            "ALL",
        ]
        .map(|name| json!({ "capabilities": { "add": [name] } })),
    );
    for context in contexts {
        of("container", vec![json!({ "securityContext": context })]);
        of("init", vec![json!({ "securityContext": context })]);
    }
    of(
        "container",
        vec![
            json!({ "ports": [{ "containerPort": 80 }] }),
            json!({ "ports": [{ "containerPort": 80, "hostPort": 0 }] }),
            json!({ "ports": [{ "containerPort": 80, "hostPort": 8080 }] }),
            json!({ "livenessProbe": { "httpGet": { "port": 80, "host": "192.0.2.1" } } }),
            json!({ "livenessProbe": { "httpGet": { "port": 80, "host": "127.0.0.1" } } }),
            json!({ "readinessProbe": { "tcpSocket": { "port": 80, "host": "localhost" } } }),
            json!({ "startupProbe": { "tcpSocket": { "port": 80, "host": "" } } }),
            json!({ "lifecycle": { "preStop": { "httpGet": { "port": 80, "host": "h.example" } } } }),
            json!({ "lifecycle": { "postStart": { "tcpSocket": { "port": 80, "host": "h.example" } } } }),
            json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } }),
        ],
    );
    for profile in ["runtime/default", "localhost/p", "unconfined"] {
        of(
            "metadata",
            vec![json!({ "annotations": { "container.apparmor.security.beta.kubernetes.io/main": profile } })],
        );
    }
    patches
}

/// Pods that have nothing but an image, and pods that satisfy the restricted standard; each with every patch. Two of Windows.
fn pods() -> Vec<Value> {
    let plain = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "pod" },
        "spec": { "containers": [{ "name": "main", "image": "outcrop.example/none:1" }] } });
    let context = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let mut hardened = plain.clone();
    merge(
        &mut hardened["spec"],
        &json!({ "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "main", "image": "outcrop.example/none:1", "securityContext": context }] }),
    );
    let mut pods = Vec::new();
    for base in [&plain, &hardened] {
        for patch in patches() {
            let mut pod = base.clone();
            for part in ["metadata", "spec"] {
                merge(&mut pod[part], &patch.get(part).cloned().unwrap_or(json!({})));
            }
            merge(&mut pod["spec"]["containers"][0], &patch.get("container").cloned().unwrap_or(json!({})));
            if let Some(init) = patch.get("init") {
                let mut container = base["spec"]["containers"][0].clone();
                merge(&mut container, init);
                container["name"] = json!("before");
                pod["spec"]["initContainers"] = json!([container]);
            }
            pods.push(pod);
        }
    }
    let mut windows = plain;
    windows["spec"]["os"] = json!({ "name": "windows" });
    pods.push(windows.clone());
    let host = json!({ "hostNetwork": true, "securityContext": { "windowsOptions": { "hostProcess": true, "runAsUserName": "u" } } });
    merge(&mut windows["spec"], &host);
    pods.push(windows);
    pods
}

/// `kubectl proxy` on a unix socket: the API server without a process for each question.
struct Proxy(Child, tempfile::TempDir);

impl Drop for Proxy {
    fn drop(&mut self) {
        // The script's children as well.
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::KILL,
        );
        let _ = self.0.wait();
    }
}

impl Proxy {
    fn start(script: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let mut command = Command::new(script);
        let child = command
            .args(["kubectl", "proxy", "--unix-socket"])
            .arg(&socket)
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self(child, dir);
        for _ in 0..200 {
            if UnixStream::connect(&socket).is_ok() {
                return proxy;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("kubectl proxy does not listen");
    }

    /// The whole answer: head and body.
    fn ask(&self, method: &str, path: &str, body: &Value) -> String {
        let body = body.to_string();
        let mut stream = UnixStream::connect(self.1.path().join("s")).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// The reasons in admission's warning: `would violate PodSecurity "restricted:latest": REASON (detail), REASON (detail)`.
fn warned(answer: &str) -> BTreeSet<String> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let Some(line) = head.lines().find(|line| line.contains("would violate PodSecurity")) else {
        return BTreeSet::new();
    };
    let (_, reasons) = line.trim_end_matches('"').split_once(":latest\\\": ").unwrap();
    let (mut depth, mut reason, mut found) = (0, String::new(), BTreeSet::new());
    for character in format!("{reasons}, ").chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                let name = std::mem::take(&mut reason).trim().to_owned();
                // The one reason that is told in the plural where it is several.
                found.insert(
                    name.strip_suffix("AppArmor profiles")
                        .map_or(name.clone(), |start| format!("{start}AppArmor profile")),
                );
            }
            other if depth == 0 => reason.push(other),
            _ => {}
        }
    }
    found
}

#[test]
#[allow(clippy::print_stdout, reason = "what was compared has to be seen")]
fn every_pod_has_the_verdict_of_pod_security_admission() {
    let Some(script) = super::cluster_parts::script() else { return };
    let proxy = Proxy::start(&script);
    let pods = pods();
    let (mut differences, mut invalid, mut refused) = (Vec::new(), 0, 0);
    for (name, level) in [("baseline", PodSecurity::Baseline), ("restricted", PodSecurity::Restricted)] {
        let namespace = format!("verdicts-{name}");
        let labels =
            json!({ "pod-security.kubernetes.io/warn": name, "pod-security.kubernetes.io/warn-version": "latest" });
        proxy.ask("POST", "/api/v1/namespaces", &json!({ "metadata": { "name": namespace, "labels": labels } }));
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        for _ in 0..600 {
            if proxy.ask("GET", &account, &Value::Null).starts_with("HTTP/1.1 200") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for pod in &pods {
            let answer = proxy.ask("POST", &format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"), pod);
            // What is no pod by the API's own rules (privileged and yet without escalation) has no verdict.
            if answer.starts_with("HTTP/1.1 422") {
                invalid += 1;
                continue;
            }
            assert!(answer.starts_with("HTTP/1.1 201"), "{pod}: {answer}");
            let spec: PodSpec = serde_json::from_value(pod["spec"].clone()).unwrap();
            let annotations: BTreeMap<String, String> =
                serde_json::from_value(pod["metadata"].get("annotations").cloned().unwrap_or(json!({}))).unwrap();
            let ours: BTreeSet<String> =
                admission_reasons(level, &check(&annotations, &spec).list).into_iter().map(String::from).collect();
            let theirs = warned(&answer);
            refused += usize::from(!theirs.is_empty());
            if ours != theirs {
                differences.push(format!("{name}: {pod}\n  ours {ours:?}\n  theirs {theirs:?}"));
            }
        }
        proxy.ask("DELETE", &format!("/api/v1/namespaces/{namespace}"), &Value::Null);
    }
    println!(
        "{} pods at two levels beside Pod Security admission ({invalid} answers: no valid pod): {refused} warned of, {} differences",
        pods.len(),
        differences.len()
    );
    assert!(pods.len() - invalid > 100 && refused > 100 && differences.is_empty(), "{}", differences.join("\n"));
}

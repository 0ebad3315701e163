//! The test cluster, for the tests that need one.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::skip::skip;

/// The script of the running cluster that OUTCROP_CLUSTER names, `tests/cluster/cluster`; where it names none, says so.
pub(crate) fn script() -> Option<PathBuf> {
    let script = std::env::var_os("OUTCROP_CLUSTER").map(PathBuf::from);
    if script.is_none() {
        skip("cluster", "OUTCROP_CLUSTER does not name tests/cluster/cluster of a running one");
    }
    script
}

/// The running cluster's script.
pub(crate) struct Cluster(PathBuf);

impl Cluster {
    /// The cluster that runs, if one does.
    pub(crate) fn running() -> Option<Self> {
        script().map(Self)
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.attempt(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// What a command says, or what it complains about.
    pub(crate) fn attempt(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.0).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.run(&[&["kubectl"], args].concat())
    }

    /// What kubectl answers, as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// Makes the object, as it stands.
    pub(crate) fn create(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        self.kubectl(&["create", "-f", file.path().to_str().unwrap()]);
    }

    pub(crate) fn socket(&self, node: &str) -> PathBuf {
        self.run(&["socket", node]).trim().into()
    }

    pub(crate) fn kubeconfig(&self) -> String {
        self.run(&["kubeconfig"]).trim().to_owned()
    }
}

/// Moves this thread, and what it starts, into a node's network: there the API server is reached, and nothing else.
pub(crate) fn enter(node: &str) {
    let cluster = Cluster::running().expect("a cluster runs");
    let namespace = File::open(cluster.run(&["network", node]).trim()).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A pod that does nothing, of an image that is on the node.
pub(crate) fn pod(namespace: &str, name: &str, node: &str, image: &str, command: &[&str]) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
        "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [
            { "name": "main", "image": image, "imagePullPolicy": "Never", "command": command }] } })
}

pub(crate) const SLEEP: [&str; 2] = ["sleep", "infinity"];

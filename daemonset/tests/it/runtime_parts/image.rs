//! Small images, made here: OCI archives (image-spec 1.1) of uncompressed layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

/// An image as an archive on disk.
pub(crate) struct Image {
    /// Its full reference.
    pub(crate) name: String,
    pub(crate) archive: PathBuf,
    /// Base first, as in its config.
    pub(crate) diff_ids: Vec<String>,
}

impl Image {
    /// Chain IDs newest first, as the image specification defines them.
    pub(crate) fn chain(&self) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        for diff_id in &self.diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => digest(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(next);
        }
        chain.reverse();
        chain
    }
}

/// An image whose layers hold one file each, `/layer-N` with the name of its repository in it; the lowest has `/pause` as well, which
/// sleeps for ever, or ends at once when it is given an argument.
pub(crate) fn build(dir: &Path, name: &str, layers: usize) -> Image {
    let layers: Vec<Layer<'_>> = vec![&[]; layers];
    build_with(dir, name, &layers)
}

/// What a layer holds beside its mark: paths and contents. A whiteout is `.wh.NAME`, an opaque directory has
/// `.wh..wh..opq`.
pub(crate) type Layer<'a> = &'a [(&'a str, &'a str)];

/// The same with more in it, base first.
pub(crate) fn build_with(dir: &Path, name: &str, layers: &[Layer<'_>]) -> Image {
    let full = format!("docker.io/library/{name}");
    let repository = name.split_once(':').map_or(name, |(repository, _)| repository);
    let work = dir.join(name.replace([':', '/'], "_"));
    let blobs = work.join("oci/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        json!({ "digest": digest, "size": bytes.len() })
    };
    let with_type = |mut descriptor: serde_json::Value, media_type: &str| {
        descriptor["mediaType"] = media_type.into();
        descriptor
    };

    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for (number, files) in layers.iter().enumerate() {
        let root = work.join(format!("layer-{number}"));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join(format!("layer-{number}")), repository).unwrap();
        if number == 0 {
            fs::copy(pause(dir), root.join("pause")).unwrap();
        }
        for (path, content) in *files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tar = work.join(format!("layer-{number}.tar"));
        run(Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C"])
            .arg(&root)
            .arg("-cf")
            .arg(&tar)
            .arg("."));
        let bytes = fs::read(&tar).unwrap();
        diff_ids.push(digest(&bytes));
        descriptors.push(with_type(blob(&bytes), "application/vnd.oci.image.layer.v1.tar"));
    }
    // One step a layer, and one that made none, each with a secret in its text.
    let step =
        |number| json!({ "created": "2026-01-02T03:04:05Z", "created_by": format!("RUN /bin/sh -c hunter2 {number}") });
    let empty = json!({ "created_by": "/bin/sh -c #(nop)  ENV PASSWORD=hunter2", "empty_layer": true });
    let history: Vec<_> = std::iter::once(empty).chain((0..layers.len()).map(step)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "created": "2026-01-02T03:04:05Z",
        // Labels that would make it a sandbox of kube-system if labels were believed; a secret that must not come along.
        "config": { "Cmd": ["/pause"], "Env": ["PASSWORD=hunter2"],
            "Labels": { "io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.namespace": "kube-system",
                "org.opencontainers.image.source": "https://hunter2@git.example/app" } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
    });
    let config = with_type(blob(config.to_string().as_bytes()), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors,
    });
    let mut manifest = with_type(blob(manifest.to_string().as_bytes()), "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({ "io.containerd.image.name": full, "org.opencontainers.image.ref.name": full });
    let oci = work.join("oci");
    fs::write(oci.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
    fs::write(oci.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = work.join("image.tar");
    run(Command::new("tar").arg("-C").arg(&oci).arg("-cf").arg(&archive).arg("."));
    Image { name: full, archive, diff_ids }
}

/// A static program: the image has nothing else.
fn pause(dir: &Path) -> PathBuf {
    let program = dir.join("pause");
    if !program.exists() {
        let source = dir.join("pause.c");
        fs::write(&source, "#include <unistd.h>\nint main(int n, char **v) { while (n == 1) pause(); return 0; }\n")
            .unwrap();
        run(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source));
    }
    program
}

/// As Go and OCI name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

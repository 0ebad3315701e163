//! The support archive: the information that support needs, without secrets.

use std::io::{self, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use outcrop_proto::clock;
use outcrop_proto::escape::{escape_json, escape_lines};
use serde::Serialize;
use serde_json::Value;

use super::redact;

/// Maximum size of all files together, bytes, before compression.
const MAX_BYTES: usize = 10 << 20;

/// The directory in the archive.
const DIRECTORY: &str = "outcrop-doctor";

/// The first file of every archive.
const README: &str = "\
A support archive of Outcrop, written by `outcrop doctor --bundle`.

checks.json   the checks, their results and hints
versions.json versions of Outcrop and Kubernetes
api/          responses of the aggregator's API: status, nodes
kubernetes/   Outcrop's own objects, from its own namespace
logs/         the last lines of the logs of Outcrop's own pods

Removed: values of environment variables, annotations, and every string that looks like a token, a key or a password. Secrets and
ConfigMaps are never included. Names of nodes, namespaces, images and hosts are included: review the archive before you share it.
";

/// Files to write into an archive.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    bytes: usize,
    left_out: Vec<String>,
}

impl Bundle {
    /// Adds JSON that is not a Kubernetes object.
    pub(super) fn json(&mut self, name: &str, value: &impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.add(name, format!("{:#}\n", redact::value(value)));
    }

    /// Adds Kubernetes objects.
    pub(super) fn objects(&mut self, name: &str, objects: &impl Serialize) {
        let value = serde_json::to_value(objects).unwrap_or(Value::Null);
        self.add(name, format!("{:#}\n", redact::object(value)));
    }

    /// Adds a log.
    pub(super) fn log(&mut self, name: &str, text: &str) {
        self.add(name, redact::text(text));
    }

    fn add(&mut self, name: &str, text: String) {
        let text = if name.ends_with(".json") { escape_json(&text) } else { escape_lines(&text) }.into_owned();
        if self.bytes + text.len() > MAX_BYTES {
            self.left_out.push(name.to_owned());
        } else {
            self.bytes += text.len();
            self.files.push((name.to_owned(), text.into_bytes()));
        }
    }

    /// Writes the archive to `path`, readable by its owner only, and replaces an existing file. Returns the size in bytes.
    pub(super) fn write(self, path: &Path) -> io::Result<u64> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        let mut packed = GzEncoder::new(&mut file, Compression::default());
        self.pack(&mut packed)?;
        packed.finish()?.flush()?;
        file.as_file().sync_all()?;
        let bytes = file.as_file().metadata()?.len();
        file.persist(path).map_err(|error| error.error)?;
        Ok(bytes)
    }

    fn pack(self, out: impl io::Write) -> io::Result<()> {
        let mut readme = README.to_owned();
        for name in &self.left_out {
            readme.push_str(&format!("Left out because the archive would be too large: {name}\n"));
        }
        let now = u64::try_from(clock::timestamp().as_second()).unwrap_or(0);
        let mut archive = tar::Builder::new(out);
        for (name, bytes) in [("README.txt".to_owned(), readme.into_bytes())].into_iter().chain(self.files) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            archive.append_data(&mut header, format!("{DIRECTORY}/{name}"), bytes.as_slice())?;
        }
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    /// Returns the archive's bytes, decompressed.
    #[allow(clippy::disallowed_types, reason = "the test wrote this small archive itself")]
    fn unpacked(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn archives_contain_no_tokens() {
        let jwt = ["eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiJzeXN0ZW0ifQ", "cGxhbnRlZC1zaWduYXR1cmU"].join(".");
        let planted = ["planted-one", "planted-two", "planted-three", "planted-four", "cGxhbnRlZC1zaWduYXR1cmU"];
        let mut bundle = Bundle::default();
        bundle.json("checks.json", &json!([{ "found": format!("refused Bearer {jwt}") }]));
        bundle.objects(
            "kubernetes/pods.json",
            &json!([{
                "metadata": { "annotations": { "x": planted[0] } },
                "spec": { "containers": [{
                    "env": [{ "name": "HARMLESS", "value": planted[1] }],
                    "args": [format!("--api-token={}", planted[2]), "--password", planted[3], format!("--x={jwt}")],
                }] },
                "status": { "message": format!("at https://me:{}@registry.example/x", planted[0]) },
            }]),
        );
        bundle.log(
            "logs/a.log",
            &format!("1 Authorization: Bearer {}\n2 {jwt}\n3 password={}\n", planted[0], planted[1]),
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar.gz");
        bundle.write(&path).unwrap();
        let bytes = unpacked(&path);
        for planted in planted {
            let found = bytes.windows(planted.len()).any(|window| window == planted.as_bytes());
            assert!(!found, "{planted}: {}", String::from_utf8_lossy(&bytes));
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let expected = ["README.txt", "checks.json", "kubernetes/pods.json", "logs/a.log"];
        assert_eq!(names.collect::<Vec<_>>(), expected.map(|name| format!("{DIRECTORY}/{name}")));
    }

    #[test]
    fn archives_are_bounded_and_list_what_is_left_out() {
        let mut bundle = Bundle::default();
        for number in 0..30 {
            bundle.add(&format!("logs/{number}.log"), "a line of a log\n".repeat(1 << 15));
        }
        assert!(bundle.bytes <= MAX_BYTES && !bundle.left_out.is_empty());
        let mut bytes = Vec::new();
        bundle.pack(&mut bytes).unwrap();
        let readme = String::from_utf8_lossy(&bytes[..4096]).into_owned();
        assert!(readme.contains("too large: logs/29.log"), "{readme}");
        assert!(bytes.len() < MAX_BYTES + (1 << 20));
    }
}

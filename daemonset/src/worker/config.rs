//! Parses an image configuration: the diff IDs of its layers, and the build step of each layer.

use outcrop_proto::Step;
use serde::{Deserialize, Serialize};

/// Maximum number of layers; overlayfs accepts at most 500 lower layers.
const MAX_LAYERS: usize = 1000;

/// Maximum size of a step's text, bytes.
const MAX_TEXT: usize = 1024;

/// Instructions of a Dockerfile. Other words of a history are not reported, since they could be secrets.
const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// An image configuration
/// ([OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Diff IDs of the layers, base first, as the configuration has them.
    pub diff_ids: Vec<String>,
    /// Build steps of the layers, base first, one per layer; empty where the history does not match the layers.
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Document {
    rootfs: RootFs,
    /// A malformed history costs the steps, not the layers.
    #[serde(default)]
    history: serde_json::Value,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct History {
    created: Option<String>,
    created_by: Option<String>,
    empty_layer: Option<bool>,
}

/// Parses a configuration; with `texts` the steps keep their texts, which may contain secrets. Only workers call this.
#[doc(hidden)]
pub fn parse_image_config(bytes: &[u8], texts: bool) -> Result<ImageConfig, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| format!("not an image configuration: {error}"))?;
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() > MAX_LAYERS {
        return Err(format!("the image has {} layers, more than the limit of {MAX_LAYERS}", diff_ids.len()));
    }
    let history: Vec<History> = serde_json::from_value(document.history).unwrap_or_default();
    let made_layers = (0_u32..).zip(history).filter(|(_, entry)| !entry.empty_layer.unwrap_or_default());
    let steps: Vec<Step> = made_layers.map(|(number, entry)| step(number, entry, texts)).collect();
    let steps = if steps.len() == diff_ids.len() { steps } else { Vec::new() };
    Ok(ImageConfig { diff_ids, steps })
}

fn step(number: u32, entry: History, texts: bool) -> Step {
    let mut text = entry.created_by.unwrap_or_default();
    let keyword = keyword(&text).to_owned();
    let created = entry.created.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    // Go writes an unknown time as the year 1.
    let created = created.map_or(0, |time| time.as_second().max(0));
    text.truncate(if texts { text.floor_char_boundary(MAX_TEXT) } else { 0 });
    Step { number, keyword, created, text }
}

/// Returns the instruction of a step. BuildKit writes `RUN /bin/sh -c …`; the older builder writes `/bin/sh -c …` for RUN, after
/// `|2 NAME=value …` where there are build arguments, and `/bin/sh -c #(nop) COPY …` for other instructions.
fn keyword(text: &str) -> &'static str {
    let first = |text: &str| {
        let word = text.split_ascii_whitespace().next().unwrap_or_default();
        KEYWORDS.iter().find(|keyword| **keyword == word).copied()
    };
    if let Some((_, instruction)) = text.split_once("#(nop)") {
        return first(instruction).unwrap_or_default();
    }
    let shell = |text: &str| {
        ["/bin/sh -c", "/bin/bash -c", "cmd /S /C", "powershell"].iter().any(|shell| text.starts_with(shell))
    };
    first(text).unwrap_or(if shell(text) || text.starts_with('|') { "RUN" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_instruction_of_a_step_is_reported() {
        let cases = [
            ("RUN /bin/sh -c echo hunter2 # buildkit", "RUN"),
            ("COPY . /app # buildkit", "COPY"),
            ("/bin/sh -c apt-get update", "RUN"),
            ("|1 TOKEN=hunter2 /bin/sh -c make", "RUN"),
            ("/bin/sh -c #(nop) ADD file:abc in / ", "ADD"),
            ("/bin/sh -c #(nop)  ENV PASSWORD=hunter2", "ENV"),
            ("hunter2 is no instruction", ""),
            ("", ""),
        ];
        for (text, keyword) in cases {
            let history = serde_json::json!({ "rootfs": { "diff_ids": ["sha256:1"] },
                "history": [{ "empty_layer": true }, { "created_by": text, "created": "2026-01-02T03:04:05.678+01:00" }] });
            let parsed = parse_image_config(history.to_string().as_bytes(), false).unwrap();
            let created = 1_767_319_445;
            assert_eq!(parsed.steps, [Step { number: 1, keyword: keyword.to_owned(), created, text: String::new() }]);
            let parsed = parse_image_config(history.to_string().as_bytes(), true).unwrap();
            assert_eq!(parsed.steps[0].text, text);
        }
    }

    #[test]
    fn a_history_that_does_not_match_the_layers_loses_the_steps_only() {
        for history in ["null", "7", "[]", "[{}, {}]", r#"[{"created": 7}]"#, r#"{"a": []}"#] {
            let text = format!(r#"{{"rootfs": {{"diff_ids": ["sha256:1"]}}, "history": {history}}}"#);
            let parsed = parse_image_config(text.as_bytes(), true).unwrap();
            assert_eq!((parsed.diff_ids.len(), parsed.steps.len()), (1, 0), "{history}");
        }
        let unknown = r#"{"rootfs": {"diff_ids": ["sha256:1"]}, "history": [{"created": "0001-01-01T00:00:00Z"}]}"#;
        assert_eq!(parse_image_config(unknown.as_bytes(), true).unwrap().steps, [Step::default()]);
    }
}

//! Parses an image configuration: the diff IDs of its layers, the build step of each layer, and properties of the image for people.

use outcrop_proto::{ImageDetails, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::logging::without_credentials;

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
    /// Properties of the image for people.
    pub details: ImageDetails,
}

#[derive(Deserialize)]
struct Document {
    rootfs: RootFs,
    /// A malformed history costs the steps, not the layers.
    #[serde(default)]
    history: Value,
    /// Malformed details cost themselves.
    #[serde(flatten)]
    details: serde_json::Map<String, Value>,
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
    let details = details(&document.details);
    let history: Vec<History> = serde_json::from_value(document.history).unwrap_or_default();
    let made_layers = (0_u32..).zip(history).filter(|(_, entry)| !entry.empty_layer.unwrap_or_default());
    let steps: Vec<Step> = made_layers.map(|(number, entry)| step(number, entry, texts)).collect();
    let steps = if steps.len() == diff_ids.len() { steps } else { Vec::new() };
    Ok(ImageConfig { diff_ids, steps, details })
}

fn details(of: &serde_json::Map<String, Value>) -> ImageDetails {
    let text = |value: Option<&Value>| -> String {
        let mut text = without_credentials(value.and_then(Value::as_str).unwrap_or_default());
        text.truncate(text.floor_char_boundary(ImageDetails::MAX_TEXT));
        text
    };
    let platform = ["os", "architecture", "variant"].map(|key| text(of.get(key)));
    let platform: Vec<&str> = platform.iter().map(String::as_str).take_while(|part| !part.is_empty()).collect();
    let config = of.get("config");
    let labels = config.and_then(|config| config.get("Labels"));
    let label = |key: &str| {
        let value = text(labels.and_then(|labels| labels.get(key)));
        (!value.is_empty()).then(|| (key.to_owned(), value))
    };
    ImageDetails {
        created: seconds(of.get("created").and_then(Value::as_str)),
        platform: platform.join("/"),
        user: text(config.and_then(|config| config.get("User"))),
        labels: ImageDetails::LABELS.into_iter().filter_map(label).collect(),
        size: 0,
    }
}

/// Returns the seconds since 1970 of a time of RFC 3339; 0 where it is not known, which Go writes as the year 1.
fn seconds(time: Option<&str>) -> i64 {
    let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    time.map_or(0, |time| time.as_second().max(0))
}

fn step(number: u32, entry: History, texts: bool) -> Step {
    let mut text = entry.created_by.unwrap_or_default();
    let keyword = keyword(&text).to_owned();
    let created = seconds(entry.created.as_deref());
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
    fn an_image_tells_its_build_platform_user_and_the_labels_of_the_allow_list() {
        let config = serde_json::json!({
            "created": "2026-01-02T03:04:05.678+01:00", "os": "linux", "architecture": "arm64", "variant": "v8",
            "rootfs": { "diff_ids": ["sha256:1"] },
            "config": { "User": "1000:1000", "Env": ["PASSWORD=hunter2"], "Labels": {
                "org.opencontainers.image.source": "https://user:hunter2@git.example/shop/web",
                "org.opencontainers.image.revision": "r".repeat(1000),
                "org.opencontainers.image.version": "",
                "com.example.password": "hunter2",
            } },
        });
        let parsed = parse_image_config(config.to_string().as_bytes(), true).unwrap();
        let ImageDetails { created, platform, user, labels, size: _ } = &parsed.details;
        assert_eq!((*created, platform.as_str(), user.as_str()), (1_767_319_445, "linux/arm64/v8", "1000:1000"));
        let source = labels["org.opencontainers.image.source"].as_str();
        assert!(source.ends_with("git.example/shop/web") && !format!("{parsed:?}").contains("hunter2"), "{parsed:?}");
        assert_eq!((labels.len(), labels["org.opencontainers.image.revision"].len()), (2, ImageDetails::MAX_TEXT));
        for odd in [
            r#"{"rootfs": {"diff_ids": ["sha256:1"]}}"#,
            r#"{"rootfs": {"diff_ids": ["sha256:1"]}, "created": 7, "os": null, "architecture": [], "config": null}"#,
            r#"{"rootfs": {"diff_ids": ["sha256:1"]}, "config": {"User": 0, "Labels": ["a"]}}"#,
        ] {
            let parsed = parse_image_config(odd.as_bytes(), true).unwrap();
            assert_eq!((parsed.diff_ids.len(), parsed.details), (1, ImageDetails::default()), "{odd}");
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

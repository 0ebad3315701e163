//! The configuration of targets: one YAML file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outcrop_proto::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use ureq::http::Uri;

use super::filter::Filter;
use super::proxy;
use crate::duration::parse_duration;
use crate::offline::Peer;

/// Largest configuration file, bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading the targets of deliveries from {path}: {source}; check the path and its permissions", path = .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Its content is wrong.
    #[error("the targets of deliveries in {path}: {reason}; see docs/deliver.md", path = .path.display())]
    Content {
        /// Its path.
        path: PathBuf,
        /// The fault and its place.
        reason: String,
    },
}

/// The targets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Targets, each with a name of its own.
    #[serde(default)]
    pub targets: Vec<TargetConfig>,
}

/// A target.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetConfig {
    /// Its name: lowercase letters, digits and `-`.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// An HTTP endpoint.
    pub http: Http,
    /// Selects its records; everything by default.
    #[serde(default)]
    pub filter: Filter,
    /// Size of its batches.
    #[serde(default)]
    pub batch: Batch,
    /// How much waits for it at most.
    #[serde(default)]
    pub backlog: Backlog,
}

/// An HTTP endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// Its URL.
    pub url: Url,
    /// Format of the body.
    #[serde(default)]
    pub format: Format,
    /// Compression of the body.
    #[serde(default)]
    pub compression: Compression,
    /// File with the secret of the signature (`whsec_` and base64, or any text).
    #[serde(default)]
    pub signing_secret_file: Option<PathBuf>,
    /// Credentials.
    #[serde(default)]
    pub authorization: Option<Authorization>,
    /// Certificates.
    #[serde(default)]
    pub tls: Tls,
    /// The proxy; by default that of the environment.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// Longest time for one request with its answer.
    #[serde(default = "timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Whether credentials may be sent without TLS to another host.
    #[serde(default)]
    pub insecure: bool,
}

/// Format of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// JSON Lines: an envelope, and one record in each line.
    #[default]
    Outcrop,
    /// One [CloudEvent](https://cloudevents.io) in structured mode for each request.
    Cloudevents,
    /// A batch of CloudEvents.
    CloudeventsBatch,
}

/// Compression of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Zstandard (RFC 8878).
    #[default]
    Zstd,
    /// gzip (RFC 1952).
    Gzip,
    /// None.
    None,
}

/// Credentials, read from files for each request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Authorization {
    /// `Authorization: Bearer` with the text of this file.
    BearerTokenFile(PathBuf),
    /// `Authorization: Basic`.
    #[serde(rename_all = "camelCase")]
    Basic {
        /// The user.
        username: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// A header of another name.
    #[serde(rename_all = "camelCase")]
    Header {
        /// Its name.
        name: String,
        /// File with its value.
        value_file: PathBuf,
    },
}

/// Certificates, PEM.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// File with the CA certificates that the target's certificate is verified with; by default those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// File with the client's certificate chain.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// File with its private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// A proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proxy {
    /// Its URL; empty for none.
    pub url: String,
    /// Hosts that are contacted without it, as in the variable `NO_PROXY`.
    #[serde(default)]
    pub no_proxy: String,
}

/// Size of batches.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Batch {
    /// Maximum number of records.
    pub records: usize,
    /// Size after which no record is added, bytes before compression.
    pub bytes: usize,
    /// Time for which changes are collected.
    #[serde(deserialize_with = "duration")]
    pub wait: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { records: 1000, bytes: 1 << 20, wait: Duration::from_secs(5) }
    }
}

/// How much waits for a target at most.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backlog {
    /// Maximum number of events.
    pub events: u64,
    /// Maximum age of an event.
    #[serde(deserialize_with = "duration")]
    pub age: Duration,
    /// What happens to more.
    pub when_full: WhenFull,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { events: 1_000_000, age: Duration::from_secs(7 * 24 * 3600), when_full: WhenFull::Block }
    }
}

/// What happens when the backlog is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// No more is collected. When the target accepts deliveries again, it gets a snapshot.
    Block,
    /// The oldest events are dropped and counted.
    DropOldest,
}

/// A URL with scheme `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(Uri);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text may contain a password, so the message does not.
        let uri: Uri = text.parse().map_err(|_| "url: not a URL".to_owned())?;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err("url: expected http://HOST/PATH or https://HOST/PATH".to_owned());
        }
        if authority.contains('@') {
            return Err("url: it contains a user name; use authorization.basic with a passwordFile".to_owned());
        }
        Ok(Self(uri))
    }
}

impl Url {
    /// Returns the URL.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns the host without brackets.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port, also where it is that of the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Returns whether TLS is used.
    pub fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let ip = self.host().parse::<std::net::IpAddr>();
        self.host() == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Returns host and port.
    fn peer(&self) -> Peer {
        Peer { host: self.host().to_ascii_lowercase(), port: self.port() }
    }

    /// Returns scheme, host and port: paths and queries of webhooks are secrets.
    pub fn origin(&self) -> String {
        let scheme = self.0.scheme_str().unwrap_or_default();
        format!("{scheme}://{}", self.0.authority().map(|authority| authority.as_str()).unwrap_or_default())
    }
}

impl Http {
    /// Returns the host and the port that are contacted: the proxy's, if there is one.
    ///
    /// # Errors
    /// When the proxy has no URL.
    pub fn peer(&self) -> Result<Peer, String> {
        let Some(proxy) = self.proxy_url() else { return Ok(self.url.peer()) };
        // As the client does where the scheme is missing.
        let text = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
        let uri: Uri = text.parse().map_err(|_| "http.proxy.url: not a URL of a proxy".to_owned())?;
        Ok(Url(uri).peer())
    }

    /// Returns the URL of the proxy, if there is one.
    pub(super) fn proxy_url(&self) -> Option<String> {
        let configured = self.proxy.as_ref().map(|proxy| (proxy.url.as_str(), proxy.no_proxy.as_str()));
        proxy::for_host(configured, self.url.is_secure(), self.url.host(), self.url.port())
    }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or its content is wrong: with line and key.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::File { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_SIZE {
            return Err(failed(std::io::Error::other(format!("it has {size} bytes, more than {MAX_SIZE}"))));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|reason| ConfigError::Content { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let at = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
            let plain = error.without_snippet().to_string();
            format!("{}{}", at.unwrap_or_default(), plain.lines().next().unwrap_or_default())
        })?;
        let mut names = HashSet::new();
        for target in &config.targets {
            let wrong = |reason: &str| format!("target {}: {reason}", target.name);
            if !names.insert(&target.name) {
                return Err(wrong("there are two of this name"));
            }
            let Http { url, authorization, tls, insecure, .. } = &target.http;
            if authorization.is_some() && !url.is_secure() && !url.is_loopback() && !insecure {
                return Err(wrong(
                    "http.url: credentials would be sent without TLS; use https, or set http.insecure: true",
                ));
            }
            if tls.cert_file.is_some() != tls.key_file.is_some() {
                return Err(wrong("http.tls: certFile and keyFile belong together"));
            }
            if !(1..=10_000).contains(&target.batch.records) || !(1 << 10..=16 << 20).contains(&target.batch.bytes) {
                return Err(wrong("batch: records are 1 to 10000, bytes are 1024 to 16777216"));
            }
            target.filter.check().map_err(|reason| wrong(&reason))?;
        }
        Ok(config)
    }
}

impl TargetConfig {
    /// Returns a digest of what selects the records of the target.
    pub fn selection(&self) -> Digest {
        // The filter as it is written: any change of it has the target get a snapshot.
        let filter = serde_json::to_vec(&self.filter).unwrap_or_default();
        Digest::of(&[filter, self.http.url.uri().to_string().into_bytes()].concat())
    }
}

fn timeout() -> Duration {
    Duration::from_secs(30)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_valid = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    match is_valid {
        true => Ok(name),
        false => Err(serde::de::Error::custom("name: expected 1 to 63 lowercase letters, digits and `-`")),
    }
}

/// Reads the word of a closed set.
pub(super) fn word<'de, D: Deserializer<'de>, W: outcrop_proto::Word>(deserializer: D) -> Result<Option<W>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    W::from_word(&text).map(Some).ok_or_else(|| {
        let words: Vec<&str> = W::WORDS.iter().map(|word| word.word()).collect();
        serde::de::Error::custom(format!("{text:?} is none of {}", words.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_needs_a_name_and_a_url_and_the_rest_has_defaults() {
        let config =
            Config::parse("targets:\n- name: central\n  http: { url: 'https://central.example/batches' }\n").unwrap();
        let target = &config.targets[0];
        assert_eq!(
            (target.name.as_str(), target.http.url.host(), target.http.url.port()),
            ("central", "central.example", 443)
        );
        assert_eq!((target.batch.records, target.batch.wait), (1000, Duration::from_secs(5)));
        assert_eq!((target.backlog.when_full, target.backlog.events), (WhenFull::Block, 1_000_000));
        assert_eq!((target.http.format, target.http.compression), (Format::Outcrop, Compression::Zstd));
        assert!(Config::parse("").unwrap().targets.is_empty());
    }

    #[test]
    fn an_error_names_line_and_key() {
        let target = |more: &str| format!("targets:\n- name: a\n  http:\n    url: http://a.example\n{more}");
        for (text, says) in [
            ("targets:\n- name: a\n".to_owned(), "line 2, column 3: missing field `http`"),
            ("targets:\n- name: A_B\n".to_owned(), "line 2, column 9: name: expected"),
            (target("  filter: { minSeverity: bad }\n"), "line 5"),
            (target("  filter: { severity: high }\n"), "unknown field `severity`"),
            (target("  batch: { wait: 5 minutes }\n"), "line 5, column 18: invalid duration"),
            (target("  batch: { records: 0 }\n"), "target a: batch: records"),
            (target("- name: a\n  http: { url: http://b.example }\n"), "target a: there are two"),
            (target("    authorization: { bearerTokenFile: /t }\n"), "target a: http.url: credentials would be sent"),
            (target("    tls: { certFile: /t }\n"), "target a: http.tls: certFile and keyFile"),
            (target("  filter: { namespaces: ['[a'] }\n"), "target a: filter.namespaces: \"[a\""),
            ("targets:\n- name: a\n  http: { url: 'ftp://x' }\n".to_owned(), "line 3"),
            ("targets:\n- name: a\n  http: { url: 'http://u:secret@x' }\n".to_owned(), "user name"),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_change_of_the_filter_changes_the_selection() {
        let selection = |filter: &str| {
            let text =
                format!("targets:\n- name: a\n  http: {{ url: 'http://a.example/x' }}\n  filter: {{ {filter} }}\n");
            Config::parse(&text).unwrap().targets[0].selection()
        };
        let all = selection("");
        assert_eq!(all, selection(""));
        let others =
            ["minSeverity: low", "namespaces: [a]", "fixable: true", "classes: [vulnerability]", "labels: {a: b}"];
        let digests: HashSet<Digest> = others.into_iter().map(selection).chain([all]).collect();
        assert_eq!(digests.len(), others.len() + 1);
    }
}

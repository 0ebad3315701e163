//! The configuration of targets: one YAML file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outcrop_proto::Digest;
use serde::{Deserialize, Deserializer};

use super::connection::{Authorization, Connection, Proxy, Tls};
use super::filter::Filter;
use super::kind::{Alertmanager, Directory, Email, Family, Http, Kind, Otlp, S3, Slack, Teams, Webhook};
use super::notify::Notify;
use crate::duration::deserialize_duration;
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
#[serde(try_from = "Written")]
pub struct TargetConfig {
    /// Its name: lowercase letters, digits and `-`.
    pub name: String,
    /// Its kind, with the settings of that.
    pub kind: Kind,
    /// The settings of its connection.
    pub connection: Connection,
    /// Selects its records; everything by default.
    pub filter: Filter,
    /// Size of its batches.
    pub batch: Batch,
    /// How much waits for it at most.
    pub backlog: Backlog,
    /// When messages go out, where it tells people.
    pub notify: Notify,
}

/// A target as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(default)]
    http: Option<Http>,
    #[serde(default)]
    otlp: Option<Otlp>,
    #[serde(default)]
    slack: Option<Slack>,
    #[serde(default)]
    teams: Option<Teams>,
    #[serde(default)]
    email: Option<Box<Email>>,
    #[serde(default)]
    alertmanager: Option<Alertmanager>,
    #[serde(default)]
    webhook: Option<Webhook>,
    directory: Option<Directory>,
    #[serde(default)]
    s3: Option<S3>,
    #[serde(default)]
    notify: Option<Notify>,
    #[serde(default)]
    authorization: Option<Authorization>,
    #[serde(default)]
    tls: Tls,
    #[serde(default)]
    proxy: Option<Proxy>,
    #[serde(default, deserialize_with = "optional_duration")]
    timeout: Option<Duration>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    filter: Filter,
    #[serde(default)]
    batch: Batch,
    #[serde(default)]
    backlog: Backlog,
}

impl TryFrom<Written> for TargetConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { name, http, otlp, slack, teams, email, alertmanager, webhook, directory, s3, .. } = written;
        let Written { notify, authorization, tls, proxy, timeout, insecure, mut filter, batch, backlog, .. } = written;
        let wrong = |reason: &str| format!("target {name}: {reason}");
        let kinds = [
            http.map(Kind::Http),
            otlp.map(Kind::Otlp),
            slack.map(Kind::Slack),
            teams.map(Kind::Teams),
            email.map(Kind::Email),
            alertmanager.map(Kind::Alertmanager),
            webhook.map(Kind::Webhook),
            directory.map(Kind::Directory),
            s3.map(|s3| Kind::S3(Box::new(s3))),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else {
            return Err(wrong(
                "expected one kind of target: http, otlp, slack, teams, email, alertmanager, webhook, directory or s3",
            ));
        };
        let timeout = timeout.unwrap_or(Connection::default().timeout);
        let connection = Connection { authorization, tls, proxy, timeout, insecure };
        match (kind.family(), &notify) {
            (Family::Notifier(notifier), _) => {
                notifier.check().map_err(|reason| wrong(&reason))?;
                filter.tell_people();
            }
            (_, Some(_)) => return Err(wrong("notify: this kind of target has no such setting")),
            (_, None) => {}
        }
        let notify = notify.unwrap_or_default();
        notify.check().map_err(wrong)?;
        connection.check(&kind).map_err(|reason| wrong(&reason))?;
        if !(1..=10_000).contains(&batch.records) || !(1 << 10..=16 << 20).contains(&batch.bytes) {
            return Err(wrong("batch: records are 1 to 10000, bytes are 1024 to 16777216"));
        }
        filter.check().map_err(|reason| wrong(&reason))?;
        Ok(Self { name, kind, connection, filter, batch, backlog, notify })
    }
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
    #[serde(deserialize_with = "deserialize_duration")]
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
    #[serde(deserialize_with = "deserialize_duration")]
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
            if !names.insert(&target.name) {
                return Err(format!("target {}: there are two of this name", target.name));
            }
        }
        Ok(config)
    }
}

impl TargetConfig {
    /// Returns the host and the port that are contacted: the proxy's, if there is one; `None` if nothing is contacted.
    ///
    /// # Errors
    /// When the URL, or that of the proxy, is wrong or cannot be read.
    pub fn peer(&self) -> Result<Option<Peer>, String> {
        let Some(url) = self.kind.url()? else { return Ok(None) };
        match self.kind.family() {
            Family::Notifier(notifier) if !notifier.has_proxy() => Ok(Some(url.peer())),
            _ => self.connection.peer(&url).map(Some),
        }
    }

    /// Returns a digest of what selects the records of the target.
    pub fn selection(&self) -> Digest {
        // The filter as it is written: any change of it has the target get a snapshot.
        let filter = serde_json::to_vec(&self.filter).unwrap_or_default();
        Digest::of(&[filter, self.kind.identity().into_bytes()].concat())
    }
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize_duration(deserializer).map(Some)
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
    use outcrop_proto::Severity;

    use super::*;
    use crate::deliver::encode::Compression;

    #[test]
    fn a_target_needs_a_name_and_a_url_and_the_rest_has_defaults() {
        let config =
            Config::parse("targets:\n- name: central\n  http: { url: 'https://central.example/batches' }\n").unwrap();
        let target = &config.targets[0];
        assert_eq!(
            (target.name.as_str(), target.peer().unwrap().unwrap().to_string().as_str()),
            ("central", "central.example:443")
        );
        assert_eq!((target.batch.records, target.batch.wait), (1000, Duration::from_secs(5)));
        assert_eq!((target.backlog.when_full, target.backlog.events), (WhenFull::Block, 1_000_000));
        let Kind::Http(http) = &target.kind else { panic!("{:?}", target.kind) };
        assert_eq!(http.compression, Compression::Zstd);
        assert!(Config::parse("").unwrap().targets.is_empty());
    }

    #[test]
    fn an_error_names_line_and_key() {
        let target = |more: &str| format!("targets:\n- name: a\n  http:\n    url: http://a.example\n{more}");
        for (text, says) in [
            (
                "targets:\n- name: a\n".to_owned(),
                "line 2, column 3: target a: expected one kind of target: http, otlp, slack",
            ),
            (target("  otlp: { url: http://a.example }\n"), "target a: expected one kind of target"),
            ("targets:\n- name: a\n  slack: {}\n".to_owned(), "target a: slack: expected either url or urlFile"),
            (
                "targets:\n- name: a\n  slack: { url: 'https://a.example', urlFile: /u }\n".to_owned(),
                "target a: slack:",
            ),
            (
                "targets:\n- name: a\n  teams: { urlFile: /u }\n  notify: { maxPerHour: 0 }\n".to_owned(),
                "notify.maxPerHour",
            ),
            (target("  notify: { wait: 1m }\n"), "target a: notify: this kind of target has no such setting"),
            ("targets:\n- name: A_B\n".to_owned(), "line 2, column 9: name: expected"),
            (target("  filter: { minSeverity: bad }\n"), "line 5"),
            (target("  filter: { severity: high }\n"), "unknown field `severity`"),
            (target("  batch: { wait: 5 minutes }\n"), "line 5, column 18: invalid duration"),
            (target("  batch: { records: 0 }\n"), "target a: batch: records"),
            (target("- name: a\n  http: { url: http://b.example }\n"), "target a: there are two"),
            (target("  authorization: { bearerTokenFile: /t }\n"), "target a: http.url: credentials would be sent"),
            (target("  tls: { certFile: /t }\n"), "target a: tls: certFile and keyFile"),
            (target("  filter: { namespaces: ['[a'] }\n"), "target a: filter.namespaces: \"[a\""),
            ("targets:\n- name: a\n  http: { url: 'ftp://x' }\n".to_owned(), "line 3"),
            ("targets:\n- name: a\n  directory: { path: out }\n".to_owned(), "path: expected an absolute path"),
            (
                "targets:\n- name: a\n  directory: { path: /out }\n  authorization: { bearerTokenFile: /t }\n".to_owned(),
                "target a: authorization: a target of the kind directory does not use it",
            ),
            (
                "targets:\n- name: a\n  s3: { url: 'http://a.example', bucket: results, accessKeyIdFile: /i, secretAccessKeyFile: /s }\n"
                    .to_owned(),
                "target a: s3.url: credentials would be sent without TLS",
            ),
            ("targets:\n- name: a\n  http: { url: 'http://u:secret@x' }\n".to_owned(), "user name"),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_target_that_tells_people_has_an_address_and_selects_critical_findings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        std::fs::write(&file, "https://hooks.example/services/secret\n").unwrap();
        let hook = format!("slack: {{ urlFile: {} }}", file.display());
        let email = "email: { host: Mail.example, from: a@b.example, to: [c@d.example]";
        for (kind, peer, severity) in [
            (hook.clone(), "hooks.example:443", Severity::Critical),
            (hook + "\n  filter: { minSeverity: low }", "hooks.example:443", Severity::Low),
            (format!("{email} }}"), "mail.example:587", Severity::Critical),
            // A proxy of HTTP does not lead to a mail server.
            (
                format!("{email}, security: tls }}\n  proxy: {{ url: 'http://proxy:3128' }}"),
                "mail.example:465",
                Severity::Critical,
            ),
            ("alertmanager: { url: 'http://alerts:9093/x/' }".to_owned(), "alerts:9093", Severity::Critical),
            (
                "teams: { url: 'https://a.example/x' }\n  proxy: { url: 'http://proxy:3128' }".to_owned(),
                "proxy:3128",
                Severity::Critical,
            ),
        ] {
            let config = Config::parse(&format!("targets:\n- name: a\n  {kind}\n")).unwrap();
            let target = &config.targets[0];
            assert_eq!(target.peer().unwrap().unwrap().to_string(), peer, "{kind}");
            assert_eq!(target.filter.notices().at_least, severity, "{kind}");
        }
        let gone = Config::parse("targets:\n- name: a\n  webhook: { urlFile: /nonexistent/url }\n").unwrap();
        assert!(gone.targets[0].peer().unwrap_err().contains("/nonexistent/url"));
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

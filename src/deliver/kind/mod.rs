//! Kinds of targets: one file each, and one row in [`Kind`] and in what reads the configuration.

mod alertmanager;
mod directory;
mod email;
mod hook;
mod http;
mod otlp;
mod s3;
#[cfg(test)]
mod samples;
mod slack;
mod teams;
mod webhook;

pub(super) use alertmanager::Alertmanager;
pub(super) use directory::Directory;
pub(super) use email::Email;
pub(super) use http::Http;
pub(super) use otlp::Otlp;
pub(super) use s3::S3;
pub(super) use slack::Slack;
pub(super) use teams::Teams;
pub(super) use webhook::Webhook;

use super::client::{Answer, Client, SendError};
use super::connection::Url;
use super::document::Place;
use super::encode::{Encoded, Origin};
use super::notification::Notification;
use super::record::Record;
use crate::store::Told;

/// A kind of target with its own settings.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An HTTP endpoint.
    Http(Http),
    /// A collector of logs.
    Otlp(Otlp),
    /// A channel of Slack.
    Slack(Slack),
    /// A channel of Microsoft Teams.
    Teams(Teams),
    /// E-mail.
    Email(Box<Email>),
    /// An Alertmanager.
    Alertmanager(Alertmanager),
    /// An HTTP endpoint with a body by a template.
    Webhook(Webhook),
    /// A directory of this machine.
    Directory(Directory),
    /// A bucket of S3-compatible storage.
    S3(Box<S3>),
}

/// A family of kinds, which are served in one way.
#[derive(Debug)]
pub enum Family<'a> {
    /// It is sent records of everything that changes.
    Stream(&'a dyn Stream),
    /// It tells people what is new.
    Notifier(&'a dyn Notifier),
    /// It keeps files of the current state.
    Files(&'a dyn Place),
}

/// A kind of target that is sent records.
pub trait Stream: std::fmt::Debug + Send + Sync {
    /// Returns the URL.
    fn url(&self) -> &Url;

    /// Returns how many records one delivery contains at most, whatever is configured.
    fn most_records(&self) -> usize {
        usize::MAX
    }

    /// Returns the body of a delivery of these records.
    ///
    /// # Errors
    /// When a value cannot be written or compressed, which does not happen.
    fn encode(&self, origin: Origin<'_>, records: &[Record<'_>]) -> std::io::Result<Encoded>;

    /// Sends a body with its idempotency key. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or no answer comes.
    fn send(&self, client: &Client, key: &str, body: &Encoded) -> Result<Answer, SendError>;
}

/// A kind of target that tells people what is new.
pub trait Notifier: std::fmt::Debug + Send + Sync {
    /// Returns the URL.
    ///
    /// # Errors
    /// When it is in a file that cannot be read, or is none.
    fn url(&self) -> Result<Url, String>;

    /// Returns what is wrong with its settings.
    ///
    /// # Errors
    /// A line for people, if a setting is wrong.
    fn check(&self) -> Result<(), String>;

    /// Returns whether a proxy of HTTP can lead to it.
    fn has_proxy(&self) -> bool {
        true
    }

    /// Sends a message with its idempotency key. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or no answer comes.
    fn send(&self, client: &Client, key: &str, message: &Notification) -> Result<Answer, SendError>;
}

impl Kind {
    /// Returns its key in the configuration.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Otlp(_) => "otlp",
            Self::Slack(_) => "slack",
            Self::Teams(_) => "teams",
            Self::Email(_) => "email",
            Self::Alertmanager(_) => "alertmanager",
            Self::Webhook(_) => "webhook",
            Self::Directory(_) => "directory",
            Self::S3(_) => "s3",
        }
    }

    /// Returns how it is served.
    pub fn family(&self) -> Family<'_> {
        match self {
            Self::Http(http) => Family::Stream(http),
            Self::Otlp(otlp) => Family::Stream(otlp),
            Self::Slack(slack) => Family::Notifier(slack),
            Self::Teams(teams) => Family::Notifier(teams),
            Self::Email(email) => Family::Notifier(&**email),
            Self::Alertmanager(alertmanager) => Family::Notifier(alertmanager),
            Self::Webhook(webhook) => Family::Notifier(webhook),
            Self::Directory(directory) => Family::Files(directory),
            Self::S3(s3) => Family::Files(&**s3),
        }
    }

    /// Returns the URL that is contacted; `None` if nothing is.
    ///
    /// # Errors
    /// When it is in a file that cannot be read, or is none.
    pub fn url(&self) -> Result<Option<Url>, String> {
        match (self, self.family()) {
            (_, Family::Stream(stream)) => Ok(Some(stream.url().clone())),
            (_, Family::Notifier(notifier)) => notifier.url().map(Some),
            (Self::S3(s3), _) => Ok(Some(s3.url().clone())),
            _ => Ok(None),
        }
    }

    /// Sends the body of a delivery of records or of a message, with its idempotency key. Blocks until the answer is there.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used, or no answer comes.
    pub fn send(&self, client: &Client, key: &str, body: &Encoded) -> Result<Answer, SendError> {
        match self.family() {
            Family::Stream(stream) => stream.send(client, key, body),
            Family::Notifier(notifier) => {
                let message = serde_json::from_slice(&body.0);
                let message = message.map_err(|error| SendError(format!("reading the stored message: {error}")))?;
                notifier.send(client, key, &message)
            }
            Family::Files(_) => Err(SendError("files are sent one by one".to_owned())),
        }
    }

    /// Returns the address for people, without secrets.
    pub fn address(&self) -> String {
        match self {
            Self::Directory(directory) => directory.path().display().to_string(),
            Self::S3(s3) => s3.address(),
            // One that is in a file cannot be read in every process.
            _ => self.url().ok().flatten().map(|url| url.origin()).unwrap_or_default(),
        }
    }

    /// Returns what tells this target from another one of the same name: the other one knows nothing.
    pub fn identity(&self) -> String {
        match self {
            Self::Directory(directory) => format!("directory {}", directory.path().display()),
            Self::S3(s3) => format!("s3 {}", s3.identity()),
            _ => match self.family() {
                Family::Stream(stream) => stream.url().uri().to_string(),
                // People know what they were told, wherever they read the next message.
                _ => self.word().to_owned(),
            },
        }
    }

    /// Returns whether it uses the credentials of the connection.
    pub(super) const fn uses_authorization(&self) -> bool {
        !matches!(self, Self::Directory(_) | Self::S3(_))
    }

    /// Returns whether credentials are sent that are part of its own settings.
    pub(super) const fn has_credentials(&self) -> bool {
        matches!(self, Self::S3(_))
    }
}

/// For how many days reports are kept, if nothing else is configured.
const fn report_days() -> u16 {
    90
}

/// Returns the body of a delivery.
///
/// # Errors
/// As [`Stream::encode`].
pub fn encode(origin: Origin<'_>, told: &[Told], stream: &dyn Stream) -> std::io::Result<Encoded> {
    let records: Vec<Record<'_>> = told.iter().map(Record::of).collect();
    stream.encode(origin, &records)
}

/// Returns the body of a delivery that only shows that deliveries arrive.
///
/// # Errors
/// As [`Stream::encode`].
pub fn sample(origin: Origin<'_>, stream: &dyn Stream) -> std::io::Result<Encoded> {
    stream.encode(origin, &[Record::test()])
}

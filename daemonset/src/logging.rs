//! Log set-up for both programs, and the type that makes text from outside safe to log.
//!
//! Events go to standard error. A program calls [`init`] once, before it starts a thread; without a call every event is dropped, so
//! that a command which uses the agent as a library stays quiet. `OUTCROP_LOG` replaces the program's default filter.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use outcrop_proto::escape::{escape, escape_json, is_treacherous};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Environment variable that holds the filter, in the syntax of
/// [`EnvFilter`](https://docs.rs/tracing-subscriber/latest/tracing_subscriber/filter/struct.EnvFilter.html#directives).
pub const FILTER_VARIABLE: &str = "OUTCROP_LOG";

/// Default filter of services: one event per state change.
pub const SERVICE_FILTER: &str = "info";

/// Default filter of commands that a person runs.
pub const COMMAND_FILTER: &str = "warn";

/// Targets of Outcrop's own crates; a filter matches a target by its prefix.
const OWN_TARGETS: [&str; 2] = ["outcrop", "overlayfs_reader"];

/// Maximum size of text from outside in one field, in bytes.
const MAX_TEXT: usize = 1024;

/// Format of log events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event, for people
    #[default]
    Text,
    /// One JSON object per line, for log collectors
    Json,
}

/// A further receiver of events and spans, for example an exporter of traces.
pub type ExtraLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter has a syntax error.
    #[error(
        "invalid {FILTER_VARIABLE} {filter:?}: {reason}; expected a level (\"debug\") or TARGET=LEVEL pairs (\"info,h2=debug\")"
    )]
    Filter {
        /// The filter as the operator wrote it.
        filter: String,
        /// Cause of the syntax error.
        reason: String,
    },
    /// Another part of the process has set up logging before.
    #[error("setting up logging: another logger is already set")]
    Twice,
}

/// Sends events to standard error. `default_filter` ([`SERVICE_FILTER`], [`COMMAND_FILTER`]) holds where `OUTCROP_LOG` is not set.
///
/// A level without a target (`debug`) holds for Outcrop's crates. Events of third-party crates are limited to warnings unless the filter
/// names the crate (`h2=debug`).
///
/// # Errors
/// When `OUTCROP_LOG` has a syntax error, and when logging was set up before.
pub fn init(format: LogFormat, default_filter: &str) -> Result<(), LogError> {
    init_with(format, default_filter, None)
}

/// Like [`init`], and also passes what the filter lets through to `extra`.
///
/// # Errors
/// As [`init`].
pub fn init_with(format: LogFormat, default_filter: &str, extra: Option<ExtraLayer>) -> Result<(), LogError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => filter,
        _ => default_filter.to_owned(),
    };
    let is_colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let events = tracing_subscriber::fmt::layer()
        .with_writer(move || EscapingWriter { format, is_colored })
        .with_ansi(is_colored)
        // Reporting a failed write to standard error would write to standard error, and panic.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(extra).with(parse(&filter)?);
    match format {
        LogFormat::Text => registry.with(events).try_init(),
        LogFormat::Json => registry.with(events.json().flatten_event(true).with_current_span(false)).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// Writes events to standard error. Characters that could mislead are escaped in whatever an event contains, so that no field of any crate can move the
/// cursor or look like another event.
struct EscapingWriter {
    format: LogFormat,
    is_colored: bool,
}

impl io::Write for EscapingWriter {
    /// Writes one event, which arrives whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let event = String::from_utf8_lossy(bytes);
        let line = event.strip_suffix('\n').unwrap_or(&event);
        let line = match self.format {
            LogFormat::Json => escape_json(line),
            LogFormat::Text if self.is_colored => Cow::Owned(escape_but_colors(line)),
            LogFormat::Text => escape(line),
        };
        io::stderr().write_all(format!("{line}\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Escapes a line, except for the sequences that select colors ([ECMA-48, SGR](https://ecma-international.org/publications-and-standards/standards/ecma-48/)).
/// The formatter has escaped those in values.
fn escape_but_colors(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 16);
    let mut parts = line.split("\u{1b}");
    out.push_str(&escape(parts.next().unwrap_or_default()));
    for part in parts {
        let end = part.strip_prefix('[').and_then(|rest| rest.find(|c: char| !c.is_ascii_digit() && c != ';'));
        match end.filter(|end| part.as_bytes().get(1 + *end) == Some(&b'm')) {
            Some(end) => {
                let (color, rest) = part.split_at(end + 2);
                out.push('\u{1b}');
                out.push_str(color);
                out.push_str(&escape(rest));
            }
            None => {
                out.push_str("\\u{1b}");
                out.push_str(&escape(part));
            }
        }
    }
    out
}

/// Logs panics as events, with the thread and the place. The message of a panic may quote text from outside.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(thread = thread.name().unwrap_or_default(), place, message = %safe(message), "thread panicked");
    }));
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let directives = filter.split(',').map(|directive| match directive.trim().parse::<LevelFilter>() {
        Ok(level) if !directive.contains('=') => {
            let own = OWN_TARGETS.map(|target| format!("{target}={level}"));
            format!("{},{}", level.min(LevelFilter::WARN), own.join(","))
        }
        _ => directive.trim().to_owned(),
    });
    EnvFilter::builder()
        .parse(directives.collect::<Vec<_>>().join(","))
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

/// Text from outside that is safe to log: at most 1 KiB, control characters escaped, credentials in URLs removed.
///
/// ```
/// # use outcrop_agent::logging::safe;
/// assert_eq!(safe("get https://me:secret@example.org/\nx").to_string(), "get https://***@example.org/\\nx");
/// ```
pub fn safe(text: &str) -> Safe<'_> {
    Safe(text)
}

/// Displays a text from outside as [`safe`] says.
#[derive(Clone, Copy)]
pub struct Safe<'a>(&'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cut after the credentials are removed: a cut before the `@` would leave them in.
        let text = without_credentials(self.0);
        let end = text.floor_char_boundary(MAX_TEXT);
        for character in text[..end].chars() {
            match character {
                character if character.is_control() => write!(f, "{}", character.escape_default())?,
                character if is_treacherous(character) => write!(f, "{}", character.escape_unicode())?,
                character => f.write_char(character)?,
            }
        }
        if end < text.len() { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Replaces the user information of every URL in a text ([RFC 3986, section 3.2.1](https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1)).
pub(crate) fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str("://");
        let end =
            part.find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace()).unwrap_or(part.len());
        match part[..end].rfind('@') {
            Some(at) => {
                clean.push_str("***");
                clean.push_str(&part[at..]);
            }
            None => clean.push_str(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_short_and_holds_no_control_character_and_no_credential() {
        let long = format!("{}é", "a".repeat(MAX_TEXT - 1));
        let cases = [
            ("plain", "plain"),
            ("a\nb\u{1b}[31m\u{202e}", "a\\nb\\u{1b}[31m\\u{202e}"),
            ("git+https://user:pw@host/x?a=b@c", "git+https://***@host/x?a=b@c"),
            ("a://x@y b://u:p:q@z", "a://***@y b://***@z"),
            ("https://host/a@b", "https://host/a@b"),
            (long.as_str(), &format!("{}…", "a".repeat(MAX_TEXT - 1))),
        ];
        for (text, expected) in cases {
            assert_eq!(safe(text).to_string(), expected);
        }
        let secret = format!("https://{}@host", "s".repeat(2 * MAX_TEXT));
        assert_eq!(safe(&secret).to_string(), "https://***@host");
    }

    #[test]
    fn a_colored_line_keeps_its_colors_and_no_other_sequence() {
        for (line, expected) in [
            (
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m x",
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m x",
            ),
            ("\u{1b}[1;31mred\u{1b}[0m\n\u{202e}", "\u{1b}[1;31mred\u{1b}[0m\\u{a}\\u{202e}"),
            ("a\u{1b}[2J\u{1b}]0;own\u{7}\u{1b}", "a\\u{1b}[2J\\u{1b}]0;own\\u{7}\\u{1b}"),
            ("\u{1b}[\u{e9}m \u{1b}[31", "\\u{1b}[\u{e9}m \\u{1b}[31"),
        ] {
            assert_eq!(escape_but_colors(line), expected);
        }
    }

    #[test]
    fn a_level_without_a_target_leaves_other_crates_at_warnings() {
        for (filter, expected) in [
            ("trace", "outcrop=trace,overlayfs_reader=trace,warn"),
            ("info, h2=debug", "outcrop=info,overlayfs_reader=info,h2=debug,warn"),
            ("off", "outcrop=off,overlayfs_reader=off,off"),
        ] {
            let sorted = |text: &str| {
                let mut directives: Vec<_> = text.split(',').map(str::to_owned).collect();
                directives.sort();
                directives
            };
            assert_eq!(sorted(&parse(filter).unwrap().to_string()), sorted(expected), "{filter}");
        }
        let error = parse("outcrop=loud").unwrap_err().to_string();
        assert!(error.contains("OUTCROP_LOG \"outcrop=loud\""), "{error}");
    }
}

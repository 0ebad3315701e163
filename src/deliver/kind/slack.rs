//! A channel of Slack, by an [incoming webhook](https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks) with
//! [Block Kit](https://docs.slack.dev/reference/block-kit/blocks).

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Notifier, hook};
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::notification::{Entry, Notification, Problem, shorten};

/// Longest text of a header block, in characters.
const HEADER: usize = 150;

/// Longest text of a section or an element of a context, in characters.
const SECTION: usize = 3_000;

/// A channel of Slack.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slack {
    /// Address of the webhook.
    #[serde(default)]
    url: Option<Url>,
    /// File with the address.
    #[serde(default)]
    url_file: Option<PathBuf>,
}

impl Notifier for Slack {
    fn url(&self) -> Result<Url, String> {
        hook::url(self.url.as_ref(), self.url_file.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        hook::check("slack", self.url.as_ref(), self.url_file.as_ref())
    }

    fn send(&self, client: &Client, _: &str, message: &Notification) -> Result<Answer, SendError> {
        let url = self.url().map_err(SendError)?;
        hook::send(client, &Request::post(&url, "application/json", render(message).to_string().as_bytes()))
    }
}

/// Returns the body. A message lists at most 25 vulnerabilities, so that it has fewer than the 50 blocks that Slack allows.
fn render(message: &Notification) -> Value {
    let markdown = |text: &str| json!({ "type": "mrkdwn", "text": shorten_markup(text, SECTION) });
    let section = |text: &str| json!({ "type": "section", "text": markdown(text) });
    let title = json!({ "type": "plain_text", "text": shorten(&message.title, HEADER) });
    let mut blocks = vec![json!({ "type": "header", "text": title })];
    blocks.extend(message.vulnerabilities.iter().map(|entry| section(&lines(entry))));
    if !message.problems.is_empty() {
        let problem = |problem: &Problem| {
            let sign = if problem.is_raised { ":warning:" } else { ":white_check_mark:" };
            format!("{sign} {}", escape(&problem.text()))
        };
        blocks.push(section(&message.problems.iter().map(problem).collect::<Vec<_>>().join("\n")));
    }
    let link = message.link.as_ref().map(|url| link(url, "Outcrop"));
    let remarks: Vec<String> = message.remarks().iter().map(|remark| escape(remark)).chain(link).collect();
    if !remarks.is_empty() {
        blocks.push(json!({ "type": "context", "elements": [markdown(&remarks.join("; "))] }));
    }
    // The text is what a client without blocks and a notification of the system show.
    json!({ "text": shorten_markup(&escape(&message.title), SECTION), "blocks": blocks })
}

fn lines(entry: &Entry) -> String {
    let name = match &entry.link {
        Some(url) => link(url, &entry.vulnerability),
        None => escape(&entry.vulnerability),
    };
    let severity = escape(&entry.severity);
    let mut lines = vec![format!("*{name}* ({severity}), {}", escape(&entry.fixed()))];
    let texts = [&entry.summary, &entry.packages()].map(|text| escape(text));
    lines.extend(texts.into_iter().filter(|text| !text.is_empty()));
    lines.extend(entry.places.iter().map(|place| format!("• {}", escape(&place.text()))));
    lines.join("\n")
}

fn link(url: &str, text: &str) -> String {
    format!("<{}|{}>", escape(url).replace('|', "%7C"), escape(text).replace('|', " "))
}

/// Escapes the three characters that [begin markup](https://docs.slack.dev/messaging/formatting-message-text#escaping): no text from outside
/// mentions a channel or links to another address.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Returns the beginning of a text that is at most this long, without a part of an escaped character or a link at its end.
fn shorten_markup(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(characters.saturating_sub(1)).collect();
    for (opens, closes) in [('<', '>'), ('&', ';')] {
        if let Some(open) = short.rfind(opens)
            && !short[open..].contains(closes)
        {
            short.truncate(open);
        }
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::kind::samples;

    /// Texts that may contain markup.
    fn texts(value: &Value) -> Vec<&str> {
        match value {
            Value::String(text) => vec![text],
            Value::Object(fields) if fields.get("type").is_some_and(|kind| kind == "plain_text") => Vec::new(),
            Value::Array(values) => values.iter().flat_map(texts).collect(),
            Value::Object(fields) => fields.values().flat_map(texts).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_message_keeps_slacks_limits_and_no_text_from_outside_is_markup() {
        for message in samples::all() {
            let body = render(&message);
            let blocks = body["blocks"].as_array().unwrap();
            assert!(blocks.len() <= 50, "{} blocks", blocks.len());
            assert!(blocks[0]["text"]["text"].as_str().unwrap().chars().count() <= HEADER);
            for text in texts(&body) {
                assert!(text.chars().count() <= SECTION, "{} characters", text.len());
                assert!(!text.contains("<!channel>") && !text.contains("<https://evil"), "{text}");
            }
            let section = |block: &&Value| block["type"] == "section";
            assert!(blocks.iter().filter(section).all(|block| !block["text"]["text"].as_str().unwrap().is_empty()));
        }
    }

    #[test]
    fn a_group_says_where_and_fixed_in_which_version_and_links_to_its_page() {
        let body = render(&samples::usual());
        let expected = "*<https://outcrop.example/api/v1/findings?vulnerability=CVE%2D1|CVE-1>* (critical), fixed in log4j-core 2.17.1\n\
            remote code execution\nlog4j-core 2.14.0\n• in 12 workloads of payments";
        assert_eq!(body["blocks"][1]["text"]["text"], expected);
        assert_eq!(
            body["blocks"][2]["text"]["text"],
            ":warning: delivery central: 503\n:white_check_mark: over: store"
        );
        assert_eq!(
            body["blocks"][3]["elements"][0]["text"],
            "and 7 more vulnerabilities; <https://outcrop.example/|Outcrop>"
        );
    }

    #[test]
    fn a_text_is_not_cut_within_an_escaped_character_or_a_link() {
        assert_eq!(shorten_markup("ab&amp;cd", 6), "ab…");
        assert_eq!(shorten_markup("ab&amp;cd", 9), "ab&amp;cd");
        assert_eq!(shorten_markup("a <https://x|y> b", 10), "a …");
    }
}

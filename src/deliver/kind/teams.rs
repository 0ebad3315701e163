//! A channel of Microsoft Teams, by a [webhook of Workflows](https://support.microsoft.com/office/8ae491c7-0394-4861-ba59-055e33f75498) with an
//! [Adaptive Card](https://adaptivecards.io/explorer/AdaptiveCard.html).

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Notifier, hook};
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::notification::{Entry, Notification, Place, shorten};

/// Largest body ([limit](https://learn.microsoft.com/microsoftteams/limits-specifications-teams#chat)), bytes.
const BODY: usize = 28 << 10;

/// Longest text of a line, in characters.
const LINE: usize = 500;

/// A channel of Microsoft Teams.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Teams {
    /// Address of the webhook.
    #[serde(default)]
    url: Option<Url>,
    /// File with the address.
    #[serde(default)]
    url_file: Option<PathBuf>,
}

impl Notifier for Teams {
    fn url(&self) -> Result<Url, String> {
        hook::url(self.url.as_ref(), self.url_file.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        hook::check("teams", self.url.as_ref(), self.url_file.as_ref())
    }

    fn send(&self, client: &Client, _: &str, message: &Notification) -> Result<Answer, SendError> {
        let url = self.url().map_err(SendError)?;
        hook::send(client, &Request::post(&url, "application/json", render(message).as_bytes()))
    }
}

/// Returns the body. Items at the end are left out and counted until it is small enough.
fn render(message: &Notification) -> String {
    let mut message = message.clone();
    loop {
        let body = card(&message).to_string();
        if body.len() <= BODY {
            return body;
        }
        if message.vulnerabilities.pop().is_some() {
            message.more_vulnerabilities += 1;
        } else if message.problems.pop().is_some() {
            message.more_problems += 1;
        } else {
            return body;
        }
    }
}

fn card(message: &Notification) -> Value {
    let mut body = vec![rich(&[run(&message.title, "large", true, None)])];
    body.extend(message.vulnerabilities.iter().flat_map(entry));
    for problem in &message.problems {
        let sign = if problem.is_raised { "⚠ " } else { "✓ " };
        body.push(rich(&[run(&format!("{sign}{}", problem.text()), "default", false, None)]));
    }
    body.extend(message.remarks().iter().map(|remark| rich(&[run(remark, "small", false, None)])));
    let open = |url: &String| json!({ "type": "Action.OpenUrl", "title": "Outcrop", "url": url });
    let actions: Vec<Value> = message.link.iter().map(open).collect();
    json!({ "type": "message", "attachments": [{
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": null,
        "content": {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": { "width": "Full" },
            "body": body,
            "actions": actions,
        },
    }] })
}

fn entry(entry: &Entry) -> [Value; 2] {
    let Entry { vulnerability, severity, summary, link, .. } = entry;
    let head = [
        run(vulnerability, "default", true, link.as_deref()),
        run(&format!(" ({severity}), {}", entry.fixed()), "default", false, None),
    ];
    let places: Vec<String> = entry.places.iter().map(Place::text).collect();
    let lines = [summary.clone(), entry.packages(), places.join("; ")];
    let lines: Vec<String> =
        lines.into_iter().filter(|line| !line.is_empty()).map(|line| shorten(&line, LINE)).collect();
    [rich(&head), rich(&[run(&lines.join("\n"), "small", false, None)])]
}

/// Returns a block of runs: unlike a `TextBlock` it has no Markdown, so that no text from outside is markup.
fn rich(runs: &[Value]) -> Value {
    json!({ "type": "RichTextBlock", "inlines": runs })
}

fn run(text: &str, size: &str, is_bold: bool, link: Option<&str>) -> Value {
    let weight = if is_bold { "bolder" } else { "default" };
    let mut run = json!({ "type": "TextRun", "text": text, "size": size, "weight": weight });
    if let Some(url) = link {
        run["selectAction"] = json!({ "type": "Action.OpenUrl", "url": url });
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::kind::samples;

    #[test]
    fn a_card_is_as_small_as_teams_demands_and_counts_what_it_leaves_out() {
        for message in samples::all() {
            let body = render(&message);
            assert!(body.len() <= BODY, "{} bytes", body.len());
            let body: Value = serde_json::from_str(&body).unwrap();
            let card = &body["attachments"][0]["content"];
            assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
            let blocks = card["body"].as_array().unwrap();
            assert!(blocks.iter().all(|block| block["type"] == "RichTextBlock" && block.get("text").is_none()));
        }
        let large = samples::large();
        let body = render(&large);
        let listed =
            large.vulnerabilities.iter().filter(|entry| body.contains(&entry.vulnerability[..8])).count() as u64;
        let all = large.vulnerabilities.len() as u64 + large.more_vulnerabilities;
        assert!(body.contains(&format!("and {} more vulnerabilities", all - listed)), "{listed} of {all}");
        assert!((1..all).contains(&listed), "{listed} of {all}");
    }

    #[test]
    fn a_group_links_to_its_page() {
        let body: Value = serde_json::from_str(&render(&samples::usual())).unwrap();
        let blocks = &body["attachments"][0]["content"]["body"];
        let run = &blocks[1]["inlines"][0];
        assert_eq!(run["text"], "CVE-1");
        assert_eq!(run["selectAction"]["url"], "https://outcrop.example/api/v1/findings?vulnerability=CVE%2D1");
        assert_eq!(blocks[1]["inlines"][1]["text"], " (critical), fixed in log4j-core 2.17.1");
    }
}

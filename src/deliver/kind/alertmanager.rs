//! An [Alertmanager](https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml): one alert for each vulnerability of an owner,
//! and one for each problem, which is resolved when the problem is.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Notifier;
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::notification::{Entry, Notification, Occasion, Place, PlaceKind, Problem};
use crate::duration::deserialize_duration;

/// Time for which a test fires.
const TEST: Duration = Duration::from_secs(300);

/// An Alertmanager.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alertmanager {
    /// Its address, without `/api/v2/alerts`.
    url: Url,
    /// Time after which an alert of a vulnerability is resolved.
    #[serde(default = "day", deserialize_with = "deserialize_duration")]
    resolve_after: Duration,
    /// Time after which an alert of a problem is resolved that is not cleared before.
    #[serde(default = "week", deserialize_with = "deserialize_duration")]
    resolve_problems_after: Duration,
}

impl Notifier for Alertmanager {
    fn url(&self) -> Result<Url, String> {
        Url::try_from(format!("{}/api/v2/alerts", self.url.uri().to_string().trim_end_matches('/')))
    }

    fn check(&self) -> Result<(), String> {
        self.url().map(|_| ())
    }

    fn send(&self, client: &Client, _: &str, message: &Notification) -> Result<Answer, SendError> {
        let url = self.url().map_err(SendError)?;
        client.send(&Request::post(&url, "application/json", self.render(message).to_string().as_bytes()))
    }
}

impl Alertmanager {
    /// Returns the body.
    fn render(&self, message: &Notification) -> Value {
        let mut alerts = Vec::new();
        for entry in &message.vulnerabilities {
            alerts.extend(entry.places.iter().map(|place| self.vulnerability(message, entry, place)));
        }
        alerts.extend(message.problems.iter().map(|problem| self.problem(message, problem)));
        Value::Array(alerts)
    }

    fn vulnerability(&self, message: &Notification, entry: &Entry, place: &Place) -> Value {
        let is_test = message.occasion == Occasion::Test;
        let mut labels = labels(message, if is_test { "OutcropTest" } else { "OutcropVulnerability" }, &entry.severity);
        labels.insert("vulnerability".to_owned(), json!(entry.vulnerability));
        // A label without a value is no label, so that each place has labels of its own.
        match place.kind {
            PlaceKind::Owner => labels.insert("owner".to_owned(), json!(place.name)),
            PlaceKind::Namespace => labels.insert("namespace".to_owned(), json!(place.name)),
            PlaceKind::Nodes => labels.insert("place".to_owned(), json!("nodes")),
            PlaceKind::Others => labels.insert("place".to_owned(), json!("others")),
        };
        let summary = format!("{} {}, {}", entry.vulnerability, place.text(), entry.fixed());
        let description = [entry.summary.as_str(), &entry.packages(), &place.examples.join(", ")].join("\n");
        let ends = if is_test { TEST } else { self.resolve_after };
        alert(labels, &summary, &description, entry.link.as_ref(), message.at, later(message.at, ends))
    }

    fn problem(&self, message: &Notification, problem: &Problem) -> Value {
        let mut labels = labels(message, "OutcropProblem", "warning");
        labels.insert("problem".to_owned(), json!(problem.problem));
        let (starts, ends) = match problem.is_raised {
            true => (problem.at, later(message.at, self.resolve_problems_after)),
            // Alertmanager refuses an alert that ends before it starts.
            false => (problem.at, problem.at),
        };
        alert(labels, &problem.text(), &problem.message, message.link.as_ref(), starts, ends)
    }
}

fn labels(message: &Notification, name: &str, severity: &str) -> Map<String, Value> {
    let pairs = [("alertname", name), ("cluster", &message.cluster), ("severity", severity)];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

fn alert(
    labels: Map<String, Value>,
    summary: &str,
    description: &str,
    link: Option<&String>,
    starts: i64,
    ends: i64,
) -> Value {
    let time = |at: i64| Timestamp::from_second(at).unwrap_or_default().to_string();
    let annotations = json!({ "summary": summary, "description": description });
    let mut alert =
        json!({ "labels": labels, "annotations": annotations, "startsAt": time(starts), "endsAt": time(ends) });
    if let Some(link) = link {
        alert["generatorURL"] = json!(link);
    }
    alert
}

fn later(at: i64, duration: Duration) -> i64 {
    at.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

fn day() -> Duration {
    Duration::from_secs(24 * 3_600)
}

fn week() -> Duration {
    Duration::from_secs(7 * 24 * 3_600)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::deliver::kind::samples;

    fn target() -> Alertmanager {
        serde_saphyr::from_str("url: http://alertmanager.monitoring:9093/").unwrap()
    }

    #[test]
    fn an_alert_is_known_by_vulnerability_and_place_and_a_problem_resolves_its_own() {
        assert_eq!(target().url().unwrap().uri().path(), "/api/v2/alerts");
        let alerts = target().render(&samples::usual());
        let labels = json!({
            "alertname": "OutcropVulnerability", "cluster": "prod", "severity": "critical", "vulnerability": "CVE-1",
            "owner": "payments",
        });
        assert_eq!(alerts[0]["labels"], labels);
        assert_eq!(
            alerts[0]["annotations"]["summary"],
            "CVE-1 in 12 workloads of payments, fixed in log4j-core 2.17.1"
        );
        assert_eq!(
            (&alerts[0]["startsAt"], &alerts[0]["endsAt"]),
            (&json!("1970-01-01T00:16:40Z"), &json!("1970-01-02T00:16:40Z"))
        );
        let (raised, cleared) = (&alerts[1], &alerts[2]);
        assert_eq!(raised["labels"]["problem"], "delivery central");
        assert!(raised["endsAt"].as_str() > raised["startsAt"].as_str());
        assert_eq!((&cleared["labels"]["problem"], &cleared["endsAt"]), (&json!("store"), &cleared["startsAt"]));
    }

    #[test]
    fn the_number_of_alerts_is_bounded_and_each_has_labels_of_its_own() {
        for message in samples::all() {
            let alerts = target().render(&message);
            let alerts = alerts.as_array().unwrap();
            assert!(alerts.len() <= 25 * 4 + 20, "{} alerts", alerts.len());
            let labels: BTreeSet<String> = alerts.iter().map(|alert| alert["labels"].to_string()).collect();
            assert_eq!(labels.len(), alerts.len());
            let values = alerts.iter().flat_map(|alert| alert["labels"].as_object().unwrap().values());
            assert!(values.clone().all(|value| !value.as_str().unwrap().is_empty()));
        }
    }
}

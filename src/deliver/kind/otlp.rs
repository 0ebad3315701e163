//! A collector of logs: OTLP over HTTP in its JSON encoding, one log record for each record
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Stream;
use crate::deliver::client::{Answer, Client, Request, SendError};
use crate::deliver::connection::Url;
use crate::deliver::encode::{Compression, Encoded, Origin, compress, line};
use crate::deliver::record::Record;
use crate::deliver::retry::Verdict;

/// Severity numbers of the [data model of logs](https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber).
const INFO: u8 = 9;
const WARN: u8 = 13;
const ERROR: u8 = 17;

/// A collector of logs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Otlp {
    /// Its URL, such as `http://collector.monitoring:4318/v1/logs`.
    pub url: Url,
    /// Compression of the body. Every collector understands gzip.
    #[serde(default = "gzip")]
    pub compression: Compression,
}

fn gzip() -> Compression {
    Compression::Gzip
}

impl Stream for Otlp {
    fn url(&self) -> &Url {
        &self.url
    }

    fn encode(&self, origin: Origin<'_>, records: &[Record<'_>]) -> std::io::Result<Encoded> {
        let records = records.iter().enumerate().map(|(index, record)| log_record(&origin, index, record));
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let resource = [
            ("service.name", "outcrop"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("k8s.cluster.uid", &origin.cluster.key),
            ("k8s.cluster.name", &origin.cluster.name),
        ];
        let resource = resource.map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } }));
        let scope = json!({ "name": "outcrop", "version": env!("CARGO_PKG_VERSION") });
        let body = json!({ "resourceLogs": [{
            "resource": { "attributes": resource },
            "scopeLogs": [{ "scope": scope, "logRecords": records }],
        }] });
        compress(line(&body)?.as_bytes(), self.compression).map(Encoded)
    }

    fn send(&self, client: &Client, _: &str, body: &Encoded) -> Result<Answer, SendError> {
        let mut request = Request::post(&self.url, "application/json", &body.0);
        request.compressed(self.compression);
        let mut answer = client.send(&request)?;
        if answer.verdict == Verdict::Accepted
            && let Some(rejected) = rejected(&answer.text)
        {
            // The specification forbids that the batch is sent again.
            (answer.verdict, answer.text) = (Verdict::Refused, rejected);
        }
        Ok(answer)
    }
}

/// Returns what an answer says of log records that the collector rejected
/// (<https://opentelemetry.io/docs/specs/otlp/#partial-success-1>).
fn rejected(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let partial = answer.get("partialSuccess")?;
    let count = partial.get("rejectedLogRecords")?;
    // A 64-bit number is a string in this encoding; some send a number.
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok()).filter(|count| *count > 0)?;
    let message = partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{count} log records were rejected: {message}"))
}

fn log_record(origin: &Origin<'_>, index: usize, record: &Record<'_>) -> Result<Value, serde_json::Error> {
    let Value::Object(mut fields) = serde_json::to_value(record)? else { return Ok(Value::Null) };
    let text = |fields: &Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let (kind, severity) = (record.kind, text(&fields, "severity"));
    let number = match (kind, severity.as_deref()) {
        ("finding-closed", _) => INFO,
        (_, Some("critical")) => ERROR,
        (_, Some("high")) | ("problem-raised" | "issue-opened", _) => WARN,
        _ => INFO,
    };
    let words = ["vulnerability", "severity", "purl", "package_set", "problem", "message", "rule"];
    let words = words.iter().filter_map(|key| text(&fields, key));
    let summary = std::iter::once(kind.to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    fields.remove("kind");
    fields.remove("at");
    let mut attributes = vec![attribute("outcrop.record.id", &json!(format!("{}-{index}", origin.key)))];
    kubernetes(&fields, &mut attributes);
    flatten("outcrop", &Value::Object(fields), &mut attributes);
    let nanoseconds = |at: Timestamp| at.as_nanosecond().to_string();
    let made = nanoseconds(Timestamp::from_second(origin.at).unwrap_or_default());
    let at = record.at.as_ref().and_then(|at| at.parse().ok()).map_or_else(|| made.clone(), nanoseconds);
    Ok(json!({
        "timeUnixNano": at,
        "observedTimeUnixNano": made,
        "severityNumber": number,
        "severityText": severity.unwrap_or_default(),
        "eventName": format!("dev.outcrop.{kind}"),
        "body": { "stringValue": summary },
        "attributes": attributes,
    }))
}

/// Adds the attributes by which logs of one workload are found
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/k8s/>).
fn kubernetes(fields: &Map<String, Value>, attributes: &mut Vec<Value>) {
    let subject = fields.get("subject");
    let workload = fields.get("workload").or_else(|| subject?.get("workload"));
    let of = |value: Option<&Value>, key: &str| value?.get(key).cloned();
    let kind = of(workload, "kind").and_then(|kind| Some(kind.as_str()?.to_ascii_lowercase()));
    let known = ["deployment", "statefulset", "daemonset", "job", "cronjob", "replicaset"];
    let name = kind.filter(|kind| known.contains(&kind.as_str())).map(|kind| format!("k8s.{kind}.name"));
    let pairs = [
        ("k8s.namespace.name", of(workload, "namespace").or_else(|| of(subject, "namespace"))),
        (name.as_deref().unwrap_or_default(), of(workload, "name").filter(|_| name.is_some())),
        ("k8s.container.name", of(subject, "container").filter(|_| workload.is_some())),
        ("k8s.node.name", of(subject, "node")),
    ];
    attributes.extend(pairs.iter().filter_map(|(key, value)| Some(attribute(key, value.as_ref()?))));
}

/// Adds each field of an object as an attribute; names of nested fields are joined by dots.
fn flatten(name: &str, value: &Value, attributes: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&format!("{name}.{key}"), value, attributes);
            }
        }
        Value::Null => {}
        value => attributes.push(attribute(name, value)),
    }
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({ "key": key, "value": any_value(value) })
}

/// Returns a value as OTLP's JSON encoding has it: 64-bit numbers are strings.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Number(value) => match value.as_i64() {
            Some(value) => json!({ "intValue": value.to_string() }),
            None => json!({ "doubleValue": value }),
        },
        Value::String(value) => json!({ "stringValue": value }),
        Value::Array(values) => json!({ "arrayValue": { "values": values.iter().map(any_value).collect::<Vec<_>>() } }),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>();
            json!({ "kvlistValue": { "values": pairs } })
        }
        Value::Null => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as OtlpValue;
    use outcrop_proto::{Digest, FindingStatus, Severity};

    use super::*;
    use crate::deliver::kind::encode;
    use crate::store::{Change, ClusterIdentity, FindingEvent, IssueEvent, OutboxEvent, SubjectKey, Told, WorkloadKey};

    fn told() -> Vec<Told> {
        let workload = WorkloadKey {
            namespace: "shop".into(),
            group: "apps".into(),
            kind: "Deployment".into(),
            name: "web".into(),
        };
        let finding = FindingEvent {
            package_set: 1,
            vulnerability: "CVE-1".to_owned(),
            aliases: vec!["GHSA-1".to_owned()],
            severity: Severity::Critical,
            score: Some(9.8),
            status: FindingStatus::Fixed,
            fixed: Some("2".to_owned()),
            package_type: "npm".to_owned(),
            package: "a".to_owned(),
            version: "1".to_owned(),
            purl: "pkg:npm/a@1".to_owned(),
        };
        let subject = SubjectKey::WorkloadContainer { workload: workload.clone(), container: "app".into() };
        let issue = IssueEvent { workload, rule: "privileged".to_owned(), path: String::new() };
        vec![
            Told { at: Some(60), change: Change::FindingClosed { package_set: Digest([7; 32]), finding } },
            Told { at: None, change: Change::Subject { subject, package_sets: vec![Digest([7; 32])] } },
            Told { at: Some(61), change: Change::Event(OutboxEvent::IssueOpened(issue)) },
        ]
    }

    /// The generated types of the protocol read it, and refuse fields that they do not know.
    #[test]
    fn a_collector_reads_one_log_record_for_each_record() {
        let cluster = ClusterIdentity { key: "uid".to_owned(), name: "prod".to_owned() };
        let origin = Origin { cluster: &cluster, target: "logs", key: "k1", sequence: 1, at: 100 };
        let url = "http://collector:4318/v1/logs".to_owned().try_into().unwrap();
        let body = encode(origin, &told(), &Otlp { url, compression: Compression::None }).unwrap();
        let request: ExportLogsServiceRequest = serde_json::from_slice(&body.0).unwrap();
        let logs = &request.resource_logs[0];
        let text = |value: &Option<OtlpValue>| match value {
            Some(OtlpValue::StringValue(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        let resource: Vec<(&str, String)> = (logs.resource.as_ref().unwrap().attributes.iter())
            .map(|pair| (pair.key.as_str(), text(&pair.value.as_ref().unwrap().value)))
            .collect();
        assert!(resource.contains(&("k8s.cluster.uid", "uid".to_owned())), "{resource:?}");
        let records = &logs.scope_logs[0].log_records;
        let found: Vec<_> = (records.iter())
            .map(|record| (record.event_name.as_str(), record.severity_number, record.time_unix_nano / 1_000_000_000))
            .collect();
        let expected = [
            ("dev.outcrop.finding-closed", 9, 60),
            ("dev.outcrop.subject", 9, 100),
            ("dev.outcrop.issue-opened", 13, 61),
        ];
        assert_eq!(found, expected);
        let attribute = |index: usize, key: &str| {
            let pair = records[index].attributes.iter().find(|pair| pair.key == key);
            pair.and_then(|pair| pair.value.clone()).and_then(|value| value.value)
        };
        for (index, key, value) in [
            (0, "outcrop.record.id", "k1-0"),
            (0, "outcrop.vulnerability", "CVE-1"),
            (0, "outcrop.purl", "pkg:npm/a@1"),
            (1, "k8s.namespace.name", "shop"),
            (1, "k8s.deployment.name", "web"),
            (1, "k8s.container.name", "app"),
            (2, "outcrop.rule", "privileged"),
            (2, "outcrop.record.id", "k1-2"),
        ] {
            assert_eq!(text(&attribute(index, key)), value, "{key}");
        }
        assert_eq!(attribute(0, "outcrop.score"), Some(OtlpValue::DoubleValue(9.8)));
        assert!(matches!(attribute(0, "outcrop.aliases"), Some(OtlpValue::ArrayValue(of)) if of.values.len() == 1));
    }

    #[test]
    fn log_records_that_a_collector_rejects_are_counted() {
        for (answer, expected) in [
            (
                r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#,
                Some("3 log records were rejected: too old"),
            ),
            (r#"{"partialSuccess":{"rejectedLogRecords":3}}"#, Some("3 log records were rejected: ")),
            (r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"a warning"}}"#, None),
            (r#"{"partialSuccess":{}}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(rejected(answer).as_deref(), expected, "{answer}");
        }
    }
}

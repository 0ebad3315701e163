//! `outcrop status` and `outcrop who-has`: questions to an aggregator.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};

/// Most bytes of an answer.
const MAX_ANSWER: u64 = 256 << 20;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// As the API answers
    Json,
}

/// Where to ask.
#[derive(Debug, clap::Args)]
struct Server {
    /// The aggregator's API
    #[arg(long, value_name = "URL", env = "OUTCROP_SERVER", default_value = "http://127.0.0.1:7480")]
    server: String,

    /// How to write the answer
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
pub(super) struct WhoHasArguments {
    /// A package (log4j-core), a package URL ('pkg:npm/lodash@<4.17.21') or a problem (CVE-2021-44228)
    question: String,

    #[command(flatten)]
    server: Server,
}

impl Server {
    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Fatal> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        let fail = |error: ureq::Error| {
            Fatal::failed(format!("asking {}: {error}; is the aggregator there? --server URL says where", self.server))
        };
        let mut answer = agent.get(&url).query_pairs(query.iter().copied()).call().map_err(fail)?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string().map_err(fail)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|_| Fatal::failed(format!("{} answers, and not as an aggregator does ({status})", self.server)))?;
        if !status.is_success() {
            let detail = value["detail"].as_str().map_or_else(|| status.to_string(), ToOwned::to_owned);
            return Err(if status == 400 { Fatal::usage(detail) } else { Fatal::failed(detail) });
        }
        Ok(value)
    }

    fn show(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<Exit, Fatal> {
        match self.output {
            Output::Json => print(&format!("{value:#}\n"))?,
            Output::Table => print(&text(value))?,
        }
        Ok(Exit::Done)
    }
}

/// A value as a table's cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Rows of the list at `value`, with these fields; a field is a path of keys.
fn rows(value: &Value, fields: &[&str]) -> Vec<Vec<String>> {
    let row = |item: &Value| fields.iter().map(|field| item.pointer(field).map(cell).unwrap_or_default()).collect();
    value.as_array().map(|items| items.iter().map(row).collect()).unwrap_or_default()
}

pub(super) fn status(arguments: &StatusArguments) -> Result<Exit, Fatal> {
    let status = arguments.server.get("/api/v1/status", &[])?;
    arguments.server.show(&status, in_words)
}

/// The status for people.
fn in_words(status: &Value) -> String {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let text = |pointer: &str| escape(&status.pointer(pointer).map(cell).unwrap_or_default()).into_owned();
    let mut out = format!(
        "aggregator {} of cluster {}, up {} s; {} containers\n\n",
        text("/version"),
        text("/cluster"),
        number("/uptime_seconds"),
        number("/containers")
    );
    let mut section = |heads: &[&str], rows: Vec<Vec<String>>, none: &str| {
        if rows.is_empty() {
            out.push_str(none);
            out.push('\n');
        } else {
            out.push_str(&table(heads, &rows));
        }
        out.push('\n');
    };
    let nodes = rows(&status["nodes"], &["/name", "/agent_version", "/attached", "/silent_seconds", "/containers"]);
    let heads = ["NODE", "AGENT", "ATTACHED", "SILENT S", "CONTAINERS"];
    section(&heads, nodes, "no node has attached: start outcrop-agent on one");
    let mut coverage = rows(&status["coverage"], &["/state", "/containers"]);
    coverage.retain(|row| row.get(1).is_some_and(|count| count != "0"));
    section(&["COVERAGE", "CONTAINERS"], coverage, "no containers");
    let reasons = rows(&status["reasons"], &["/containers", "/state", "/reason"]);
    if !reasons.is_empty() {
        section(&["CONTAINERS", "COVERAGE", "REASON"], reasons, "");
    }
    let assessed = rows(&status["assessed"], &["/ecosystem", "/state", "/containers", "/reason"]);
    section(
        &["ECOSYSTEM", "ASSESSED", "CONTAINERS", "REASON"],
        assessed,
        "nothing is assessed: no database, or nothing read",
    );
    let findings = status["findings"]
        .as_object()
        .map(|counts| counts.iter().map(|(severity, count)| vec![severity.clone(), cell(count)]).collect::<Vec<_>>());
    section(&["SEVERITY", "FINDINGS"], findings.unwrap_or_default(), "no findings in what is assessed");
    out.push_str(&format!(
        "withheld {}; layers known {}, leased {}, waiting {}, failed {}\n",
        number("/withheld"),
        number("/layers/known"),
        number("/layers/leased"),
        number("/layers/waiting"),
        number("/layers/failed")
    ));
    match &status["database"] {
        Value::Null => out.push_str("no advisory database: start the aggregator with --db FILE\n"),
        database => {
            let sources = database["sources"].as_array().map_or(0, Vec::len);
            out.push_str(&format!("advisory database {}, {sources} sources\n", text("/database/path")));
            if let Some(error) = database["error"].as_str() {
                out.push_str(&format!("its new file is refused: {}\n", escape(error)));
            }
        }
    }
    out
}

pub(super) fn who_has(arguments: &WhoHasArguments) -> Result<Exit, Fatal> {
    let answer = arguments.server.get("/api/v1/who-has", &[("q", &arguments.question)])?;
    arguments.server.show(&answer, |answer| {
        let fields = [
            "/container/node",
            "/container/namespace",
            "/container/name",
            "/container/image",
            "/package/name",
            "/package/version",
            "/package/evidence",
            "/layer_id",
        ];
        let rows = rows(answer, &fields);
        if rows.is_empty() {
            return "nobody, in what has been read: outcrop status tells what has not\n".to_owned();
        }
        table(&["NODE", "NAMESPACE", "CONTAINER", "IMAGE", "PACKAGE", "VERSION", "EVIDENCE", "LAYER"], &rows)
    })
}

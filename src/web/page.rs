//! The web page: the status, the most important items of lists, and links to the API. It has no script and loads nothing.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outcrop_proto::Digest;

use super::access::Caller;
use super::escape::Html;
use super::list::RESOURCES;
use super::model::{LayerItem, NodeItem, Page, ProblemItem, Status};
use super::source::{Failure, List, Source};
use crate::problems::ProblemKind;

/// Maximum number of rows of a table of items.
const MAX_ROWS: usize = 10;

/// Maximum number of reasons; the others are added up.
const MAX_REASONS: usize = 30;

const STYLE: &str = "
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; overflow-wrap: anywhere; }
th { border-bottom: 1px solid; } td { border-bottom: 1px solid #8884; }
.alarm { border-left: .3rem solid #c33; padding-left: .75rem; }
code { font-family: ui-monospace, monospace; }
";

/// Returns the Content-Security-Policy of every response. It allows the style sheet of this page, by its hash, and nothing else.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let hash = STANDARD.encode(Digest::of(STYLE.as_bytes()).0);
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
    });
    POLICY.clone()
}

/// Returns the page for a caller.
pub(super) async fn front(source: &dyn Source, caller: &Caller) -> Result<String, Failure> {
    let status = source.status(&caller.scope).await?;
    let top = |filter: Option<(&str, &str)>, sort: Option<&str>| List {
        filters: filter.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        sort: sort.map(ToOwned::to_owned),
        descending: sort.is_some(),
        limit: MAX_ROWS,
        cursor: None,
    };
    let silent = source.nodes(&caller.scope, &top(Some(("attached", "false")), None)).await?;
    let distrusted = source.nodes(&caller.scope, &top(Some(("distrusted", "true")), None)).await?;
    let layers = source.layers(&caller.scope, &top(None, Some("findings"))).await?;
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">");
    html.raw("<title>Outcrop</title><style>").raw(STYLE).raw("</style></head><body>\n<header><h1>Outcrop: cluster ");
    html.text(&status.cluster).raw("</h1><p>Version ").text(&status.version).raw(", up ");
    html.text(duration(status.uptime_seconds))
        .raw("; signed in as ")
        .text(&caller.name)
        .raw(".</p></header>\n<main>\n");
    alarms(&mut html, &status);
    findings(&mut html, &status);
    coverage(&mut html, &status);
    impact(&mut html, &layers);
    nodes(&mut html, &status, &silent, &distrusted);
    deliveries(&mut html, &status);
    database(&mut html, &status);
    html.raw("</main>\n<footer><h2>API and metrics</h2><p><a href=\"/api/v1/status\">status</a>");
    for resource in RESOURCES {
        html.raw(", <a href=\"/api/v1/").text(resource.name).raw("\">").text(resource.name).raw("</a>");
    }
    html.raw(", <a href=\"/api/v1/openapi.json\">OpenAPI document</a>, <a href=\"/metrics\">metrics</a>; on the command line <code>outcrop get</code> and <code>outcrop who-has</code>.</p></footer>\n</body></html>\n");
    Ok(html.finish())
}

/// Formats a duration with one unit.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn alarms(html: &mut Html, status: &Status) {
    let disputed = (status.layers.disputed > 0)
        .then(|| format!("Disputed layers: {}. Nodes report different contents of them.", status.layers.disputed));
    let store = status.store_error.as_ref().map(|error| format!("Reports of nodes are not accepted: {error}"));
    let database = status.database_error.as_ref().map(|error| format!("An advisory database was refused: {error}"));
    let none = status.database.is_none().then(|| "There is no advisory database, so no package is matched.".to_owned());
    // Problems of the store and of the database are covered by the sentences above.
    let is_other = |of: &&ProblemItem| !matches!(of.kind.known(), Some(ProblemKind::Store | ProblemKind::Database));
    let problems = status.problems.iter().filter(is_other).map(|problem| problem.message.clone());
    for alarm in [store, database, none, disputed].into_iter().flatten().chain(problems) {
        html.raw("<p class=\"alarm\" role=\"alert\">").text(alarm).raw("</p>\n");
    }
}

fn findings(html: &mut Html, status: &Status) {
    html.raw("<section><h2>Findings in containers</h2>\n");
    html.table(
        &["Severity", "Findings"],
        // Most severe first, as in every list.
        status.findings.iter().map(|(severity, count)| vec![severity.to_string(), count.to_string()]),
    );
    html.raw("<p>")
        .text(status.withheld)
        .raw(" more are withheld: an OS package owns these application packages, so the distribution's advisories apply.</p>\n");
    html.raw("<h2>Assessed ecosystems</h2>\n");
    let assessed = status.assessed.iter();
    let rows = assessed
        .map(|of| vec![of.ecosystem.clone(), of.state.to_string(), of.containers.to_string(), of.reason.clone()]);
    html.table(&["Ecosystem", "Assessed", "Containers", "Reason"], rows).raw("</section>\n");
}

fn coverage(html: &mut Html, status: &Status) {
    html.raw("<section><h2>Coverage</h2>\n<p>").text(status.containers).raw(" containers, each with exactly one state");
    if let Some(seconds) = status.oldest_unscanned_seconds {
        html.raw("; the oldest container that is not scanned yet has waited ").text(duration(seconds));
    }
    html.raw(".</p>\n");
    html.table(
        &["Coverage", "Containers"],
        status.coverage.iter().map(|of| vec![of.state.to_string(), of.containers.to_string()]),
    );
    let mut reasons: Vec<_> = status.reasons.iter().collect();
    reasons.sort_by_key(|of| std::cmp::Reverse(of.containers));
    let more: u64 = reasons.iter().skip(MAX_REASONS).map(|of| of.containers).sum();
    let mut rows: Vec<Vec<String>> = reasons
        .iter()
        .take(MAX_REASONS)
        .map(|of| vec![of.containers.to_string(), of.state.to_string(), of.reason.clone()])
        .collect();
    if more > 0 {
        rows.push(vec![more.to_string(), String::new(), format!("{} other reasons", reasons.len() - MAX_REASONS)]);
    }
    if !rows.is_empty() {
        html.raw("<h2>Reasons</h2>\n").table(&["Containers", "Coverage", "Reason"], rows);
    }
    let layers = &status.layers;
    html.raw("<p>Layers: ").text(format_args!(
        "{} known, {} leased, {} waiting, {} failed; {} disputed, {} read by older catalogers",
        layers.known, layers.leased, layers.waiting, layers.failed, layers.disputed, layers.outdated
    ));
    let lives = &status.lifetimes;
    html.raw(". Containers since the start: ").text(lives.seen).raw(" reported, of which ");
    html.text(lives.gone_before_reading).raw(" ended before they could be read.</p></section>\n");
}

/// Targets of deliveries, if there are any.
fn deliveries(html: &mut Html, status: &Status) {
    if status.targets.is_empty() {
        return;
    }
    html.raw("<section><h2>Deliveries</h2>\n");
    let rows = status.targets.iter().map(|target| {
        vec![
            target.name.clone(),
            target.state.clone(),
            (target.waiting_events + target.waiting_deliveries).to_string(),
            target.oldest_seconds.map(duration).unwrap_or_default(),
            target.refused.to_string(),
            target.dropped.to_string(),
            target.error.clone().unwrap_or_default(),
        ]
    });
    html.table(&["Target", "State", "Waiting", "Oldest", "Refused", "Dropped", "Error"], rows).raw("</section>\n");
}

fn impact(html: &mut Html, layers: &Page<LayerItem>) {
    html.raw("<section><h2>Layers by impact</h2>\n<p>Number of findings that replacing one layer would resolve.</p>\n");
    let rows = layers.items.iter().map(|layer| {
        let step = layer.step.as_ref().map(|step| format!("{} {}", step.number, step.keyword)).unwrap_or_default();
        vec![
            layer.findings.to_string(),
            layer.affected_containers.to_string(),
            layer.images.to_string(),
            layer.image.clone().unwrap_or_default(),
            step,
            layer.id.clone(),
        ]
    });
    html.table(&["Findings", "Containers", "Images", "Example image", "Build step", "Layer"], rows);
    html.raw("<p><a href=\"/api/v1/layers?sort=-findings\">All layers by impact</a></p></section>\n");
}

fn nodes(html: &mut Html, status: &Status, silent: &Page<NodeItem>, distrusted: &Page<NodeItem>) {
    let counts = &status.nodes;
    html.raw("<section><h2>Nodes</h2>\n<p>").text(format_args!(
        "{} known: {} attached, {} silent; {} degraded, {} with a weaker sandbox, {} distrusted",
        counts.known, counts.attached, counts.silent, counts.degraded, counts.weak_cage, counts.distrusted
    ));
    html.raw(".</p>\n");
    let mut rows: Vec<&NodeItem> = silent.items.iter().chain(&distrusted.items).collect();
    rows.sort_by(|a, b| (b.silent_seconds, &a.name).cmp(&(a.silent_seconds, &b.name)));
    rows.dedup_by(|a, b| a.name == b.name);
    if !rows.is_empty() {
        let rows = rows.into_iter().map(|node| {
            let state = match node.distrusted {
                true => format!("{}, distrusted", node.state),
                false => node.state.to_string(),
            };
            let silent = duration(node.silent_seconds);
            vec![
                node.name.clone(),
                state,
                silent,
                node.containers.to_string(),
                node.agent_version.clone(),
                node.cage.clone(),
            ]
        });
        html.table(&["Node", "State", "Silent for", "Containers", "Agent", "Sandbox"], rows);
    }
    if silent.next.is_some() || distrusted.next.is_some() {
        html.raw("<p><a href=\"/api/v1/nodes?attached=false\">All silent nodes</a>, <a href=\"/api/v1/nodes?distrusted=true\">all distrusted nodes</a></p>\n");
    }
    html.raw("</section>\n");
}

fn database(html: &mut Html, status: &Status) {
    html.raw("<section><h2>Advisory database</h2>\n");
    if let Some(database) = &status.database {
        let signed =
            database.signed_by.as_ref().map_or_else(|| "not signed".to_owned(), |key| format!("signed by {key}"));
        html.raw("<p><code>").text(&database.digest).raw("</code>, loaded from ").text(&database.brought_by);
        html.raw(" at ").text(&database.brought_at).raw(", ").text(signed).raw(".</p>\n");
        if let Some(day) = &database.as_of {
            html.raw("<p>Its age is judged on ")
                .text(day)
                .raw(" and not today (--db-as-of): it may be out of date.</p>\n");
        }
        let rows = database.sources.iter().map(|source| {
            let age = source.age_days.map(|days| format!("{days} days")).unwrap_or_default();
            vec![source.ecosystem.clone(), source.records.to_string(), source.newest.clone(), age]
        });
        html.table(&["Source", "Records", "Newest", "Age"], rows);
    }
    if let Some(rematch) = &status.rematch {
        html.raw("<p>Last rematch at ").text(&rematch.at).raw(": ").text(format_args!(
            "+{} −{} findings in {} stacks, {:.1} s, {} nodes rescanned",
            rematch.appeared, rematch.went, rematch.stacks, rematch.seconds, rematch.nodes_rescanned
        ));
        html.raw(".</p>\n");
    }
    html.raw("</section>\n");
}

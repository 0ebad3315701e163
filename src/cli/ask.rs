//! `outcrop status` and `outcrop who-has`.

use outcrop_proto::CoverageState;

use super::client::Server;
use super::columns::age;
use super::listing::Listing;
use super::output::{self, Cell as _, Column, Format, ObjectFormat, column, wide};
use super::table::table;
use super::text::escape;
use super::unmatched::{self, describe_unknown};
use super::{Exit, Fatal, print};
use crate::problems::ProblemKind;
use crate::web::{CoverageCount, HasItem, HasPage, Rematch, SourceStatus, Status};

/// Path of the status.
const STATUS: &str = "/api/v1/status";

/// Path of the answer to a question.
const WHO_HAS: &str = "/api/v1/who-has";

#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: ObjectFormat,

    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  outcrop who-has log4j-core
  outcrop who-has 'lodash<4.17.21'
  outcrop who-has 'pkg:maven/org.apache.logging.log4j/log4j-core@[2.0,2.15)'
  outcrop who-has CVE-2021-44228 --running")]
pub(super) struct WhoHasArguments {
    /// Package name (log4j-core), range of its versions ('lodash<4.17.21', 'pkg:npm/lodash@^4'), or vulnerability (CVE-2021-44228)
    question: String,

    /// List only containers that run now; default: also those that ended within the retention of packages (--keep-unused of the aggregator)
    #[arg(long)]
    running: bool,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    listing: Listing,

    #[command(flatten)]
    server: Server,
}

pub(super) fn status(arguments: &StatusArguments) -> Result<Exit, Fatal> {
    let client = arguments.server.connect()?;
    match arguments.output {
        ObjectFormat::Table => print(&describe(&client.get(STATUS, &[])?))?,
        ObjectFormat::Json => print(&output::json_document(&client.get(STATUS, &[])?))?,
        ObjectFormat::Yaml => print(&output::yaml_document(&client.get(STATUS, &[])?)?)?,
    }
    Ok(Exit::Done)
}

/// Returns the status as text.
fn describe(status: &Status) -> String {
    let nodes = &status.nodes;
    let mut out = format!(
        "aggregator {} in cluster {}, up {} s; {} containers\n\
         nodes: known {}, attached {}, silent {}, degraded {}, with a weaker sandbox {}, distrusted {}\n",
        escape(&status.version),
        escape(&status.cluster),
        status.uptime_seconds,
        status.containers,
        nodes.known,
        nodes.attached,
        nodes.silent,
        nodes.degraded,
        nodes.weak_cage,
        nodes.distrusted
    );
    if status.restricted {
        out.push_str(
            "this token or account may read some namespaces only; nodes and containers outside of them are not counted\n",
        );
    } else if nodes.known == 0 {
        out.push_str("no node has attached; start outcrop-agent on a node\n");
    }
    if let Some(kubernetes) = &status.kubernetes {
        out.push_str(&format!(
            "workloads {}, pods {}; nodes without an agent {}; containers not reported by a node {}, unknown to the API server {}\n",
            kubernetes.workloads, kubernetes.pods, nodes.without_agent, kubernetes.untold, kubernetes.strays
        ));
        if !kubernetes.synced {
            out.push_str("the first list of the API server's objects is not complete yet\n");
        }
    }
    if let Some(offline) = &status.offline {
        let ports: Vec<String> = offline.ports.iter().map(ToString::to_string).collect();
        out.push_str(&if offline.enforced {
            format!("offline: the kernel refuses TCP connections except to ports {}\n", ports.join(", "))
        } else {
            "offline: this kernel cannot refuse connections; Linux 6.7 or later is required\n".to_owned()
        });
    }
    if let Some(error) = &status.store_error {
        out.push_str(&format!("NO INVENTORIES ARE ACCEPTED: {}\n", escape(error)));
    }
    out.push('\n');
    describe_containers(status, &mut out);
    let layers = &status.layers;
    out.push_str(&format!(
        "findings withheld {}; layers: known {}, leased {}, waiting {}, failed {}, disputed {}, outdated {}\n",
        status.withheld, layers.known, layers.leased, layers.waiting, layers.failed, layers.disputed, layers.outdated
    ));
    if let Some(seconds) = status.oldest_unscanned_seconds {
        out.push_str(&format!("oldest pending container: {seconds} s\n"));
    }
    out.push_str(&format!(
        "containers since the start: seen {}, ended before a layer was read {}\n",
        status.lifetimes.seen, status.lifetimes.gone_before_reading
    ));
    out.push_str(&describe_database(status));
    let targets = status.targets.iter().map(|target| {
        let waiting = target.waiting_events + target.waiting_deliveries;
        let oldest = target.oldest_seconds.map(age).unwrap_or_default();
        let error = target.error.cell();
        vec![target.name.cell(), target.state.cell(), waiting.cell(), oldest, target.refused.cell(), error]
    });
    let targets: Vec<_> = targets.collect();
    if !targets.is_empty() {
        out.push('\n');
        out.push_str(&table(&["TARGET", "STATE", "WAITING", "OLDEST", "REFUSED", "ERROR"], &targets));
    }
    out
}

/// Appends what the status contains about containers: coverage, matching, findings.
fn describe_containers(status: &Status, out: &mut String) {
    let mut section = |heads: &[&'static str], rows: Vec<Vec<String>>, none: &str| {
        if rows.is_empty() {
            out.push_str(none);
        } else {
            out.push_str(&table(heads, &rows));
        }
        out.push('\n');
    };
    let coverage = status.coverage.iter().filter(|count| count.containers > 0);
    let coverage = coverage.map(|count| vec![count.state.cell(), count.containers.cell()]);
    section(&["COVERAGE", "CONTAINERS"], coverage.collect(), "no containers\n");
    let reasons = status.reasons.iter();
    let reasons: Vec<_> =
        reasons.map(|count| vec![count.containers.cell(), count.state.cell(), count.reason.clone()]).collect();
    if !reasons.is_empty() {
        section(&["CONTAINERS", "COVERAGE", "REASON"], reasons, "");
    }
    let assessed = status
        .assessed
        .iter()
        .map(|count| vec![count.ecosystem.clone(), count.state.cell(), count.containers.cell(), count.reason.clone()]);
    section(
        &["ECOSYSTEM", "ASSESSED", "CONTAINERS", "REASON"],
        assessed.collect(),
        if status.database.is_some() {
            "nothing is assessed: no container is scanned\n"
        } else {
            "nothing is assessed: no advisory database\n"
        },
    );
    let findings = status.findings.iter().map(|(severity, count)| vec![severity.to_string(), count.cell()]);
    section(&["SEVERITY", "FINDINGS"], findings.collect(), "no findings in the assessed ecosystems\n");
}

/// Returns what the status contains about the advisory database.
fn describe_database(status: &Status) -> String {
    let mut out = String::new();
    if let Some(database) = &status.database {
        let signed = database.signed_by.as_deref();
        let signed = signed.map_or_else(|| "not signed".to_owned(), |key| format!("signed by {}", escape(key)));
        out.push_str(&format!(
            "advisory database {}, from {} at {}, {signed}\n",
            escape(&database.digest),
            escape(&database.brought_by),
            escape(&database.brought_at)
        ));
        if let Some(day) = &database.as_of {
            out.push_str(&format!(
                "THE AGE OF THE DATABASE IS JUDGED ON {} AND NOT TODAY (--db-as-of): it may be out of date\n",
                escape(day)
            ));
        }
        // A database may contain every distribution; only the sources of what runs are of interest here.
        let is_used = |source: &&SourceStatus| status.assessed.iter().any(|of| of.ecosystem == source.ecosystem);
        let (used, others): (Vec<_>, Vec<_>) = database.sources.iter().partition(is_used);
        let row = |source: &SourceStatus| {
            vec![source.ecosystem.clone(), source.records.cell(), source.newest.clone(), source.age_days.cell()]
        };
        if !used.is_empty() {
            let rows: Vec<_> = used.into_iter().map(row).collect();
            out.push_str(&format!("\n{}", table(&["SOURCE", "RECORDS", "NEWEST", "AGE DAYS"], &rows)));
        }
        if !others.is_empty() {
            out.push_str(&format!(
                "and {} sources of ecosystems that are not in use; --output json lists all\n",
                others.len()
            ));
        }
    } else {
        out.push_str("no advisory database: outcrop db push FILE, or start the aggregator with --db FILE\n");
    }
    // Those of the store and of the database have lines of their own.
    let is_other = |kind| !matches!(kind, Some(ProblemKind::Store | ProblemKind::Database));
    for problem in status.problems.iter().filter(|problem| is_other(problem.kind.known())) {
        out.push_str(&format!("problem: {}\n", escape(&problem.message)));
    }
    if let Some(error) = &status.database_error {
        out.push_str(&format!("the last offered advisory database was refused: {}\n", escape(error)));
    }
    if let Some(of) = &status.rematch {
        out.push_str(&format!("last rematch {}: {}\n", escape(&of.at), describe_rematch(of)));
    }
    out
}

/// Returns what a rematch changed: `+N −M findings, T s, 0 nodes rescanned`.
pub(super) fn describe_rematch(rematch: &Rematch) -> String {
    let Rematch { appeared, went, seconds, nodes_rescanned, .. } = rematch;
    format!("+{appeared} −{went} findings, {seconds:.1} s, {nodes_rescanned} nodes rescanned")
}

const HAS: &[Column<HasItem>] = &[
    column("NODE", |has| has.container.node.cell()),
    column("NAMESPACE", |has| has.container.namespace.cell()),
    column("CONTAINER", |has| has.container.name.cell()),
    column("IMAGE", |has| has.container.image.cell()),
    column("PACKAGE", |has| has.package.cell()),
    column("VERSION", |has| has.version.cell()),
    column("EVIDENCE", |has| has.evidence.cell()),
    column("RAN UNTIL", |has| has.ran_until.cell()),
    column("LAYER", |has| has.layer.cell()),
    wide("WORKLOAD", |has| has.container.workload.cell()),
    wide("POD", |has| has.container.pod.cell()),
    wide("PURL", |has| has.purl.cell()),
    wide("STACK", |has| has.container.stack.cell()),
    wide("RUNTIME", |has| has.container.runtime.cell()),
    wide("RUNTIME NAMESPACE", |has| has.container.runtime_namespace.cell()),
    wide("ID", |has| has.container.id.cell()),
];

pub(super) fn who_has(arguments: &WhoHasArguments) -> Result<Exit, Fatal> {
    arguments.listing.check()?;
    let client = arguments.server.connect()?;
    let mut query = vec![("q".to_owned(), arguments.question.clone())];
    if arguments.running {
        query.push(("running".to_owned(), "true".to_owned()));
    }
    let count = arguments.listing.write(&client, WHO_HAS, query, HAS, arguments.output)?;
    if count == 0 {
        let query = [("q".to_owned(), arguments.question.clone()), ("limit".to_owned(), "1".to_owned())];
        let page: HasPage = client.get(WHO_HAS, &query)?;
        if let Some(asked) = page.vulnerability.filter(|asked| !asked.in_database) {
            return Err(Fatal::failed(describe_unknown(&asked)));
        }
        let status: Status = client.get(STATUS, &[])?;
        let unread = describe_unread(&status);
        let is_read = |count: &CoverageCount| {
            matches!(count.state.known(), Some(CoverageState::Scanned | CoverageState::Partial)) && count.containers > 0
        };
        if status.containers > 0 && !status.coverage.iter().any(is_read) {
            return Err(Fatal::failed(format!(
                "who has it is unknown, because no container has been scanned: {unread}"
            )));
        }
        if let Some(line) = unmatched::unknown_package(&client, &arguments.question, status.restricted) {
            output::remark(&line);
        }
        output::remark(&format!("no matches: {unread}"));
    }
    Ok(Exit::Done)
}

/// Returns the containers that an empty answer does not cover.
fn describe_unread(status: &Status) -> String {
    let unread = status.coverage.iter().filter(|count| count.state != CoverageState::Scanned && count.containers > 0);
    let parts: Vec<String> = unread.map(|count| format!("{} {}", count.containers, count.state)).collect();
    let which = if status.restricted { "containers of your namespaces" } else { "containers" };
    match (status.containers, parts.is_empty()) {
        (0, _) => format!("no {which} are known; see outcrop status"),
        (all, true) => format!("all {all} {which} are scanned; outcrop status shows what is not matched"),
        (all, false) => {
            format!(
                "{} of {all} {which} are not completely scanned; outcrop status shows the reasons",
                parts.join(", ")
            )
        }
    }
}

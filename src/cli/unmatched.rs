//! Explains an empty list: which of its filters nothing matches at all.

use serde_json::Value;

use super::Fatal;
use super::client::{Client, Parameters};
use crate::question::{AdvisoryForm, Question};
use crate::web::list::{self, Resource};
use crate::web::{AskedVulnerability, HasPage, Page, Status};

/// Where a value of a filter occurs if anything has it: a list, its filter, and the sentence for a value that nothing has.
struct Place {
    list: &'static str,
    filter: &'static str,
    nothing: &'static str,
    hint: &'static str,
}

/// What an aggregator without an API server cannot know.
const WITHOUT_KUBERNETES: &str = "the aggregator runs without --kubernetes: it knows namespaces and pods only from the labels that a kubelet gave containers";

/// Returns the place of a filter's values; `None` for filters with a fixed set of values, which the API validates.
fn place(resource: &Resource, filter: &str) -> Option<Place> {
    let place = |list, filter, nothing, hint| Some(Place { list, filter, nothing, hint });
    let containers = |filter, nothing| place("containers", filter, nothing, "outcrop get containers");
    let workloads = |filter, nothing| place("workloads", filter, nothing, "outcrop get workloads");
    let is = |other: &Resource| resource.name == other.name;
    match filter {
        "namespace" => containers("namespace", "no container runs in namespace"),
        "pod" => containers("pod", "no container runs in pod"),
        "image" => containers("image", "no container runs image"),
        "container" => containers("name", "no container has the name"),
        "name" if is(&list::CONTAINERS) => containers("name", "no container has the name"),
        "name" if is(&list::IMAGES) => containers("image", "no container runs image"),
        "name" if is(&list::WORKLOADS) => workloads("name", "no workload has the name"),
        "node" => place("nodes", "name", "no node has the name", "outcrop get nodes"),
        "name" if is(&list::NODES) => place("nodes", "name", "no node has the name", "outcrop get nodes"),
        "name" if is(&list::PACKAGES) => place("packages", "name", "no package has the name", "outcrop get packages"),
        "package" => place("packages", "name", "no package has the name", "outcrop get packages"),
        "workload" => workloads("workload", "no workload matches"),
        "kind" => workloads("kind", "no workload has the kind"),
        "labels" => workloads("labels", "no workload matches the labels"),
        "owner" => workloads("owner", "no workload has the owner"),
        "rule" => place("issues", "rule", "no workload violates the rule", "outcrop get issues"),
        "stack" => place("images", "stack", "no image has the stack", "outcrop get images -o wide"),
        "layer" => place("layers", "id", "no image has the layer", "outcrop get layers"),
        "id" if is(&list::LAYERS) => place("layers", "id", "no image has the layer", "outcrop get layers"),
        _ => None,
    }
}

/// Returns one line for each filter of an empty list that nothing matches. A filter that cannot be checked, for example for want of a
/// permission, is left out.
///
/// # Errors
/// When the list is of a vulnerability that the advisory database does not contain: then nobody knows what it should list.
pub(super) fn explain(client: &Client, resource: &Resource, filters: &Parameters) -> Result<Vec<String>, Fatal> {
    let mut lines = Vec::new();
    let mut status = None;
    for (name, value) in filters {
        if name == "id" && resource.name == list::FINDINGS.name {
            lines.extend(unknown_advisory(client, value)?);
            continue;
        }
        let Some(place) = place(resource, name) else { continue };
        if place.has_nothing(client, value) {
            let status: &Option<Status> = status.get_or_insert_with(|| client.get("/api/v1/status", &[]).ok());
            let is_restricted = status.as_ref().is_some_and(|status| status.restricted);
            let mut line = place.describe(value, is_restricted);
            let is_placed = status.as_ref().is_none_or(|status| status.kubernetes.is_some());
            if matches!(name.as_str(), "namespace" | "pod") && !is_placed {
                line = format!("{line}; {WITHOUT_KUBERNETES}");
            }
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Returns the line for a package of which nothing that runs has the name, whatever its version.
pub(super) fn unknown_package(client: &Client, question: &str, is_restricted: bool) -> Option<String> {
    let question = Question::parse(question).ok()?;
    let is_advisory = question.advisory.is_some_and(|advisory| advisory.form != AdvisoryForm::Any);
    let place = place(&list::PACKAGES, "name").filter(|_| !is_advisory)?;
    let name = question.package.name();
    place.has_nothing(client, name).then(|| place.describe(name, is_restricted))
}

impl Place {
    /// Returns whether nothing has the value.
    fn has_nothing(&self, client: &Client, value: &str) -> bool {
        let query = [(self.filter.to_owned(), value.to_owned()), ("limit".to_owned(), "1".to_owned())];
        let page = client.get::<Page<Value>>(&format!("/api/v1/{}", self.list), &query);
        page.is_ok_and(|page| page.items.is_empty())
    }

    /// Returns the line for a value that nothing has, in the namespaces that the token may see if it is restricted to some.
    fn describe(&self, value: &str, is_restricted: bool) -> String {
        let seen = if is_restricted { " in your namespaces" } else { "" };
        format!("{} {value:?}{seen}; list them with {}", self.nothing, self.hint)
    }
}

/// Returns the line for an ID of findings that is none of a vulnerability.
fn unknown_advisory(client: &Client, id: &str) -> Result<Option<String>, Fatal> {
    let query = [("q".to_owned(), id.to_owned()), ("limit".to_owned(), "1".to_owned())];
    let Ok(page) = client.get::<HasPage>("/api/v1/who-has", &query) else { return Ok(None) };
    match page.vulnerability {
        Some(asked) if !asked.in_database => Err(Fatal::failed(describe_unknown(&asked))),
        Some(_) => Ok(None),
        None => Ok(Some(format!(
            "{id:?} is not the ID of a vulnerability; the findings of a package are listed with --field-selector package={id}"
        ))),
    }
}

/// Returns why nobody can tell which containers have a vulnerability.
pub(super) fn describe_unknown(asked: &AskedVulnerability) -> String {
    let AskedVulnerability { id, newest_record, .. } = asked;
    match newest_record {
        Some(newest) => {
            let date = newest.split('T').next().unwrap_or_default();
            format!(
                "{id} is not in the advisory database (newest record {date}), so which containers have it is unknown; update the database with outcrop db push FILE"
            )
        }
        None => format!(
            "{id} cannot be looked up because the aggregator has no advisory database; push one with outcrop db push FILE"
        ),
    }
}

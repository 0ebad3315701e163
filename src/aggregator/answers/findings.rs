//! Findings of containers, and the packages and containers that a vulnerability affects.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use outcrop_proto::{FindingStatus, ImageDetails, Severity};

use super::history::Had;
use super::{Chosen, container_ref, time, word};
use crate::aggregator::fleet::{Container, Key, subject};
use crate::aggregator::{Aggregator, now};
use crate::question::AdvisoryId;
use crate::store::{FindingRow, FindingsFilter, FindingsOrder, FixedRow, StackId, SubjectKey, VerdictId};
use crate::web::list::{FINDINGS, after, cut};
use crate::web::{AdvisoryItem, AdvisoryPackage, ContainerRef, Failure, FindingItem, List, Page, Scope};

/// Maximum number of containers whose history one response examines.
const MAX_SUBJECTS: usize = 1000;

/// Sort key of a finding, which is unique: severity, vulnerability, verdict, stack, node and key of the container.
type Place = (Reverse<Severity>, String, VerdictId, StackId, String, String, String);

/// A container that has a finding.
struct Held<'r> {
    row: &'r FindingRow,
    node: Arc<str>,
    key: Key,
    container: Container,
    /// The layer that brought the package.
    layer: Option<String>,
    /// Where the image's source code is.
    source: Option<String>,
}

impl Aggregator {
    pub(super) async fn list_findings(&self, scope: &Scope, list: &List) -> Result<Page<FindingItem>, Failure> {
        match list.filter("state") {
            None | Some("open") => {}
            Some("fixed") => return self.list_fixed(scope, list).await,
            Some(other) => {
                return Err(Failure::Invalid(format!("invalid value {other:?} for state: expected open or fixed")));
            }
        }
        let severities = severities(list)?;
        let vulnerability = list.filter("id").map(spelled).transpose()?;
        let order = match list.sort.as_deref() {
            Some("id") => FindingsOrder::Vulnerability,
            _ => FindingsOrder::Severity,
        };
        let status = word::<FindingStatus>(list, "status")?;
        let chosen = Chosen::new(self, scope, list)?;
        let stacks: Vec<StackId> = chosen.stacks(&self.picture()).into_keys().collect();
        let place: Option<Place> = after(&FINDINGS, list)?;
        let filter = FindingsFilter {
            package_sets: &stacks,
            at_least: *severities.start(),
            at_most: *severities.end(),
            vulnerability: vulnerability.as_deref(),
            package: list.filter("package"),
            status,
            order,
            descending: list.descending,
            after: place.as_ref().map(|place| (place.0.0, place.1.clone(), place.2, place.3)),
            inclusive: true,
            // Each row has at least one container, so that these are enough for a page and one more.
            limit: list.limit + 2,
        };
        let rows = self.store.findings(&filter).await?;
        let is_after =
            |here: &Place| place.as_ref().is_none_or(|place| compare(order, list.descending, here, place).is_gt());
        let held = self.held(&chosen, &rows, is_after, list.limit + 1);
        let items = held.into_iter().map(|held| (key(held.row, &held), held));
        let page = cut(&FINDINGS, list, items)?;
        let of = |held: &Held<'_>| subject(&held.node, &held.key.namespace, &held.container);
        let pairs = page.items.iter().map(|held| (of(held), held.row.vulnerability.clone())).collect();
        let first_seen = self.first_seen(pairs).await?;
        let unix = now().unix;
        Ok(page.map(|held| {
            let row = held.row;
            let had = (of(&held), (row.vulnerability.clone(), (row.r#type.clone(), row.package.clone())));
            // A run that is not stored yet has just started.
            let first_seen = first_seen.get(&had, held.container.since.min(unix));
            let container = container_ref(&held.node, &held.key, &held.container);
            FindingItem { first_seen, source: held.source, ..words(row, container, held.layer) }
        }))
    }

    /// Returns the chosen containers of each row's stack, by node and key: those whose place `is_after` accepts, and no more than `limit`.
    fn held<'r>(
        &self,
        chosen: &Chosen<'_>,
        rows: &'r [FindingRow],
        is_after: impl Fn(&Place) -> bool,
        limit: usize,
    ) -> Vec<Held<'r>> {
        let fleet = self.picture();
        let chains = super::chains(&fleet);
        let mut all = Vec::new();
        for row in rows {
            let Some(chain) = chains.get(&row.package_set) else { continue };
            let Some(stack) = fleet.stack(chain) else { continue };
            let layer = usize::try_from(row.layer).ok().and_then(|layer| stack.layers().get(layer));
            for name in stack.nodes() {
                let Some(node) = fleet.node(name) else { continue };
                let containers = node.containers.iter().filter(|(_, container)| container.stack == Some(*chain));
                for (key, container) in containers.filter(|(_, container)| chosen.is(name, container)) {
                    let held = Held {
                        row,
                        node: Arc::clone(name),
                        key: key.clone(),
                        container: container.clone(),
                        layer: layer.map(ToString::to_string),
                        source: container
                            .details()
                            .and_then(|details| details.labels.get(ImageDetails::SOURCE))
                            .cloned(),
                    };
                    if !is_after(&self::key(row, &held)) {
                        continue;
                    }
                    all.push(held);
                    if all.len() >= limit {
                        return all;
                    }
                }
            }
        }
        all
    }

    /// Findings that the subjects of containers had and have not any more.
    async fn list_fixed(&self, scope: &Scope, list: &List) -> Result<Page<FindingItem>, Failure> {
        if list.sort.is_some() {
            return Err(Failure::Invalid("findings with state=fixed are sorted by container: omit sort".to_owned()));
        }
        let chosen = Chosen::new(self, scope, list)?;
        let known = |name: &str| {
            name == "state" || super::OF_CONTAINERS.contains(&name) || super::workloads::OF_WORKLOADS.contains(&name)
        };
        if let Some((other, _)) = list.filters.iter().find(|(name, _)| !known(name)) {
            return Err(Failure::Invalid(format!(
                "the filter {other} is not available with state=fixed: use filters on containers"
            )));
        }
        let containers: BTreeMap<SubjectKey, ContainerRef> = {
            let fleet = self.picture();
            let all = chosen.containers(&fleet).take(MAX_SUBJECTS + 1);
            all.map(|(node, key, container)| {
                (subject(&Arc::from(node), &key.namespace, container), container_ref(node, key, container))
            })
            .collect()
        };
        if containers.len() > MAX_SUBJECTS {
            let narrow = format!(
                "state=fixed is limited to {MAX_SUBJECTS} containers; add a filter on node, namespace, container or image"
            );
            return Err(Failure::Invalid(narrow));
        }
        // One subject after the other, until the page is full: the history of all of them may be large.
        let place: Option<Had> = after(&FINDINGS, list)?;
        let mut fixed: Vec<(Had, FixedRow)> = Vec::new();
        for subject in containers.keys() {
            let behind = match &place {
                Some((last, _)) if subject < last => continue,
                Some((last, name)) if subject == last => Some(name),
                _ => None,
            };
            let left = (list.limit + 1).saturating_sub(fixed.len());
            let rows = self.store.fixed(subject, behind, now().unix, left).await?;
            fixed.extend(rows.into_iter().map(|row| ((subject.clone(), row.name.clone()), row)));
            if fixed.len() > list.limit {
                break;
            }
        }
        let page = cut(&FINDINGS, list, fixed.into_iter().map(|(had, row)| (had.clone(), (had.0, row))))?;
        let ids: Vec<VerdictId> = page.items.iter().map(|(_, fixed)| fixed.verdict).collect();
        let rows = self.store.verdicts(&ids).await?.into_iter();
        let rows: HashMap<VerdictId, FindingRow> = rows.map(|row| (row.verdict, row)).collect();
        let item = |(subject, fixed): (SubjectKey, FixedRow)| {
            let row = rows.get(&fixed.verdict)?;
            let container = containers.get(&subject)?.clone();
            let (first_seen, fixed_on) = (time(fixed.since), Some(time(fixed.on)));
            Some(FindingItem { first_seen, fixed_on, ..words(row, container, None) })
        };
        Ok(Page { items: page.items.into_iter().filter_map(item).collect(), next: page.next })
    }

    pub(super) async fn advisory_now(&self, scope: &Scope, id: &str) -> Result<AdvisoryItem, Failure> {
        // No advisory has a malformed ID: the object is missing, and the hint tells why.
        let id = &spelled(id).map_err(|failure| match failure {
            Failure::Invalid(detail) => Failure::Missing(detail),
            other => other,
        })?;
        let rows = self.store.vulnerability(id).await?;
        let (containers_of, nodes_of) = {
            let fleet = self.picture();
            let mut containers: BTreeMap<StackId, u64> = BTreeMap::new();
            let mut nodes: HashMap<StackId, BTreeSet<Arc<str>>> = HashMap::new();
            let touched: BTreeSet<StackId> = rows.iter().flat_map(|row| row.package_sets.iter().copied()).collect();
            for visible in fleet.visible(scope) {
                if let Some(id) = visible.stack.summary().map(|summary| summary.id).filter(|id| touched.contains(id)) {
                    containers.insert(id, u64::from(visible.containers));
                }
            }
            for (id, name, _, container) in fleet.running(|id| containers.contains_key(&id)) {
                if scope.sees(container.namespace()) {
                    nodes.entry(id).or_default().insert(Arc::clone(name));
                }
            }
            (containers, nodes)
        };
        let mut touched: BTreeSet<StackId> = BTreeSet::new();
        let mut packages = Vec::new();
        for row in &rows {
            let seen: Vec<StackId> =
                row.package_sets.iter().filter(|id| containers_of.contains_key(id)).copied().collect();
            if seen.is_empty() {
                continue;
            }
            packages.push(AdvisoryPackage {
                purl: row.purl.clone(),
                name: row.package.clone(),
                version: row.version.clone(),
                status: row.status.into(),
                fixed: row.fixed.clone(),
                containers: seen.iter().filter_map(|id| containers_of.get(id)).sum(),
            });
            touched.extend(seen);
        }
        let seen = rows.iter().filter(|row| row.package_sets.iter().any(|id| containers_of.contains_key(id)));
        let Some(worst) = seen.clone().min_by_key(|row| Reverse(row.severity)) else {
            return Err(Failure::Missing(self.not_found(scope, id).await?));
        };
        let aliases: BTreeSet<String> =
            seen.flat_map(|row| row.aliases.iter().chain([&row.vulnerability]).cloned()).collect();
        Ok(AdvisoryItem {
            id: worst.vulnerability.clone(),
            aliases: aliases.into_iter().filter(|alias| *alias != worst.vulnerability).collect(),
            summary: worst.summary.clone(),
            severity: worst.severity.into(),
            packages,
            containers: touched.iter().filter_map(|id| containers_of.get(id)).sum(),
            images: touched.len() as u64,
            nodes: touched.iter().filter_map(|id| nodes_of.get(id)).flatten().collect::<BTreeSet<_>>().len() as u64,
        })
    }
}

/// Returns the ID of an advisory as publishers spell it.
fn spelled(id: &str) -> Result<String, Failure> {
    let parsed = AdvisoryId::parse(id).map_err(|reason| Failure::Invalid(format!("invalid ID {id:?}: {reason}")))?;
    Ok(parsed.map_or_else(|| id.to_owned(), |parsed| parsed.id))
}

/// A finding of a container, but for since when.
fn words(row: &FindingRow, container: ContainerRef, layer: Option<String>) -> FindingItem {
    FindingItem {
        container,
        id: row.vulnerability.clone(),
        aliases: row.aliases.clone(),
        package: row.package.clone(),
        purl: row.purl.clone(),
        installed: row.version.clone(),
        evidence: first_line(&row.evidence),
        status: row.status.into(),
        fixed: row.fixed.clone(),
        severity: row.severity.into(),
        score: row.score,
        layer,
        source: None,
        summary: row.summary.clone(),
        first_seen: String::new(),
        fixed_on: None,
    }
}

fn key(row: &FindingRow, held: &Held<'_>) -> Place {
    let (namespace, id) = (held.key.qualified_namespace(), held.key.id.to_string());
    (
        Reverse(row.severity),
        row.vulnerability.clone(),
        row.verdict,
        row.package_set,
        held.node.to_string(),
        namespace,
        id,
    )
}

/// Compares the places of two findings in an order. Containers with the same finding are not reversed in descending order.
fn compare(order: FindingsOrder, descending: bool, a: &Place, b: &Place) -> Ordering {
    let ordering = match order {
        FindingsOrder::Severity => (&a.0, &a.1).cmp(&(&b.0, &b.1)),
        FindingsOrder::Vulnerability => (&a.1, &a.0).cmp(&(&b.1, &b.0)),
    };
    let ordering = ordering.then_with(|| (a.2, a.3).cmp(&(b.2, b.3)));
    let ordering = if descending { ordering.reverse() } else { ordering };
    ordering.then_with(|| (&a.4, &a.5, &a.6).cmp(&(&b.4, &b.5, &b.6)))
}

/// Returns the severities that the filters select, from the mildest to the worst.
pub(super) fn severities(list: &List) -> Result<RangeInclusive<Severity>, Failure> {
    match (word::<Severity>(list, "severity")?, word::<Severity>(list, "severity-is")?) {
        (None, None) => Ok(Severity::Unknown..=Severity::Critical),
        (None, Some(severity)) => Ok(severity..=severity),
        // Everything is at least unknown: this would select every finding, which nobody means who asks for those without a rating.
        (Some(Severity::Unknown), _) => Err(Failure::Invalid(
            "severity=unknown is not a minimum: omit it to select all findings, or use severity-is=unknown for findings without a rating"
                .to_owned(),
        )),
        (Some(minimum), None) => Ok(minimum..=Severity::Critical),
        (Some(_), Some(_)) => Err(Failure::Invalid("severity and severity-is exclude each other".to_owned())),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

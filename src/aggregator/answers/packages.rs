//! Packages in running containers, and the containers that contain one.

use std::collections::{BTreeSet, HashMap};

use outcrop_proto::{Digest, PackageType};
use serde::{Deserialize, Serialize};

use super::{Chosen, container_ref, time};
use crate::advisory::Database;
use crate::aggregator::Aggregator;
use crate::question::{AdvisoryForm, AdvisoryId, PackageQuestion, Question};
use crate::store::{HasRow, PackageSetId, PackagesFilter, PackagesOrder, StackId, SubjectKey, WorkloadKey};
use crate::web::list::{PACKAGES, WHO_HAS, after, cut};
use crate::web::{AskedVulnerability, ContainerRef, Failure, HasItem, HasPage, List, Open, PackageItem, Page, Scope};

/// Number of ended runs that are read at once.
const RUNS_AT_ONCE: usize = 10_000;

/// Sort key of an item. Containers that run come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Place {
    /// Node and key of the container, package, layer, and index of the path.
    Running(String, String, String, i64, u32, usize),
    /// Row id of the subject, package set, package, layer, and index of the path.
    Ended(i64, PackageSetId, i64, u32, usize),
}

/// What a question looks at.
struct Within {
    /// Stacks of containers in the scope that run, sorted.
    stacks: Vec<StackId>,
    /// Whether only containers that run are asked for.
    running: bool,
    /// Namespaces in the scope; `None` for all.
    namespaces: Option<Vec<String>>,
}

impl Within {
    /// Returns the package sets to look at; `None` for all.
    fn package_sets(&self) -> Option<&[PackageSetId]> {
        self.running.then_some(self.stacks.as_slice())
    }
}

impl Aggregator {
    pub(super) async fn list_packages(&self, scope: &Scope, list: &List) -> Result<Page<PackageItem>, Failure> {
        let order = match list.sort.as_deref() {
            Some("containers") => PackagesOrder::Containers,
            Some("findings") => PackagesOrder::Findings,
            _ => PackagesOrder::Name,
        };
        if let Some(other) = list.filter("type").filter(|name| PackageType::from_name(name).is_none()) {
            let known = PackageType::ALL.map(PackageType::as_str).join(", ");
            return Err(Failure::Invalid(format!("invalid value {other:?} for type: expected one of {known}")));
        }
        let stacks: Vec<(StackId, u64)> = Chosen::new(self, scope, list)?.stacks(&self.picture()).into_iter().collect();
        let filter = PackagesFilter {
            package_sets: &stacks,
            r#type: list.filter("type"),
            name: list.filter("name"),
            version: list.filter("version"),
            order,
            descending: list.descending,
            after: after(&PACKAGES, list)?,
            limit: list.limit + 1,
        };
        let rows = self.store.list_packages(&filter).await?.into_iter();
        let keyed = rows.map(|row| ((order.counts(&row), row.name.clone(), row.version.clone(), row.id), row));
        Ok(cut(&PACKAGES, list, keyed)?.map(|row| PackageItem {
            purl: row.purl,
            r#type: row.r#type,
            name: row.name,
            version: row.version,
            images: row.stacks,
            containers: row.containers,
            findings: row.severities,
        }))
    }

    pub(super) async fn who_has_now(&self, scope: &Scope, question: &str, list: &List) -> Result<HasPage, Failure> {
        let question = Question::parse(question).map_err(|error| Failure::Invalid(error.to_string()))?;
        let place: Option<Place> = after(&WHO_HAS, list)?;
        let chosen = Chosen::new(self, scope, list)?;
        let within = Within {
            stacks: chosen.stacks(&self.picture()).into_keys().collect(),
            running: list.flag("running")? == Some(true),
            namespaces: match scope {
                Scope::All => None,
                Scope::Namespaces(namespaces) => Some(namespaces.iter().cloned().collect()),
            },
        };
        let (mut rows, vulnerability) = self.has(&question, &within).await?;
        // Within a container answers come in the order of their places.
        rows.sort_unstable_by_key(|row| (row.package_set, row.package, row.layer));
        let mut items = match place {
            Some(Place::Ended(..)) => Vec::new(),
            _ => self.running(&chosen, &rows, place.as_ref(), list.limit + 1),
        };
        if items.len() <= list.limit && !within.running {
            self.add_ended(&within, &rows, place.as_ref(), list.limit + 1, &mut items).await?;
        }
        let Page { items, next } = cut(&WHO_HAS, list, items)?;
        Ok(HasPage { items, next, vulnerability })
    }

    /// Returns the containers that run and have one of these packages: those behind `place`, and no more than `limit`.
    fn running(
        &self,
        chosen: &Chosen<'_>,
        rows: &[HasRow],
        place: Option<&Place>,
        limit: usize,
    ) -> Vec<(Place, HasItem)> {
        let fleet = self.picture();
        let mut by_stack: HashMap<Digest, &[HasRow]> = HashMap::new();
        let chains = super::chains(&fleet);
        for rows in rows.chunk_by(|a, b| a.package_set == b.package_set) {
            if let Some(chain) = rows.first().and_then(|row| chains.get(&row.package_set)) {
                by_stack.insert(*chain, rows);
            }
        }
        // Nodes and containers are gone through in the order of the answers, from where the last page ended to where this one does.
        let mut items: Vec<(Place, HasItem)> = Vec::new();
        let first = match place {
            Some(Place::Running(node, ..)) => node,
            _ => "",
        };
        for (name, node) in fleet.nodes_from(first) {
            for (key, container) in &node.containers {
                let Some((chain, rows)) = container.stack.and_then(|chain| Some((chain, by_stack.get(&chain)?))) else {
                    continue;
                };
                if !chosen.is(name, container) {
                    continue;
                }
                // Every path that lists it is an answer of its own: each has to be mended.
                let paths = rows.iter().flat_map(|row| row.evidence.lines().enumerate().map(move |path| (row, path)));
                for (row, (number, path)) in paths {
                    let here = Place::Running(
                        name.to_string(),
                        key.qualified_namespace(),
                        key.id.to_string(),
                        row.package,
                        row.layer,
                        number,
                    );
                    if place.is_some_and(|place| here <= *place) {
                        continue;
                    }
                    let layer = usize::try_from(row.layer).ok();
                    let layers = fleet.stack(&chain).map(|stack| stack.layers()).unwrap_or_default();
                    let item = HasItem {
                        container: container_ref(name, key, container),
                        purl: row.purl.to_string(),
                        package: row.name.to_string(),
                        version: row.version.to_string(),
                        evidence: path.to_owned(),
                        layer: layer.and_then(|layer| layers.get(layer)).map(ToString::to_string),
                        ran_until: None,
                    };
                    items.push((here, item));
                    if items.len() >= limit {
                        return items;
                    }
                }
            }
        }
        items
    }

    /// Adds the subjects that had one of these packages and do not run it any more: those behind `place`, up to `limit` items in all.
    async fn add_ended(
        &self,
        within: &Within,
        rows: &[HasRow],
        place: Option<&Place>,
        limit: usize,
        items: &mut Vec<(Place, HasItem)>,
    ) -> Result<(), Failure> {
        let by_set: HashMap<PackageSetId, &[HasRow]> = rows
            .chunk_by(|a, b| a.package_set == b.package_set)
            .filter_map(|rows| Some((rows.first()?.package_set, rows)))
            .collect();
        let sets: Vec<PackageSetId> = by_set.keys().copied().collect();
        let fleet = self.picture();
        let chains = super::chains(&fleet);
        // The run in which the last page ended may have more rows.
        let mut from = match place {
            Some(Place::Ended(subject, set, ..)) => (*subject, set.saturating_sub(1)),
            _ => (0, 0),
        };
        loop {
            let runs = self.store.ended_runs(&sets, within.namespaces.as_deref(), from, limit).await?;
            let Some(last) = runs.last() else { return Ok(()) };
            from = (last.number, last.package_set);
            let is_last = runs.len() < limit;
            for run in &runs {
                let rows = by_set.get(&run.package_set).copied().unwrap_or_default();
                let paths = rows.iter().flat_map(|row| row.evidence.lines().enumerate().map(move |path| (row, path)));
                for (row, (number, path)) in paths {
                    let here = Place::Ended(run.number, run.package_set, row.package, row.layer, number);
                    if place.is_some_and(|place| here <= *place) {
                        continue;
                    }
                    // Layers are known as long as another container has the stack.
                    let chain = chains.get(&run.package_set);
                    let layers = chain.and_then(|chain| fleet.stack(chain)).map(|stack| stack.layers());
                    let layer = usize::try_from(row.layer).ok().and_then(|layer| layers?.get(layer));
                    let item = HasItem {
                        container: ended_ref(&run.subject, chain.map(ToString::to_string)),
                        purl: row.purl.to_string(),
                        package: row.name.to_string(),
                        version: row.version.to_string(),
                        evidence: path.to_owned(),
                        layer: layer.map(ToString::to_string),
                        ran_until: Some(time(run.until)),
                    };
                    items.push((here, item));
                    if items.len() >= limit {
                        return Ok(());
                    }
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Returns the packages that a question asks for, and the vulnerability if it names one. The result is empty unless a container in the
    /// scope has or had one of the packages.
    async fn has(
        &self,
        question: &Question,
        within: &Within,
    ) -> Result<(Vec<HasRow>, Option<AskedVulnerability>), Failure> {
        let Question { package, advisory } = question;
        let Some(AdvisoryId { id, form }) = advisory else { return Ok((self.with(package, within).await?, None)) };
        let affected = self.store.packages_with(id, within.package_sets()).await?;
        let affected = self.visible(affected, within).await?;
        if !affected.is_empty() {
            return Ok((affected, Some(self.asked(id, true))));
        }
        // An image can call a package as it likes, also like an advisory that everybody asks for.
        if *form != AdvisoryForm::Standard {
            let packages = self.with(package, within).await?;
            if !packages.is_empty() {
                return Ok((packages, None));
            }
        }
        let is_known = self.is_advisory(id.clone()).await?;
        let is_id = is_known || *form != AdvisoryForm::Any;
        Ok((Vec::new(), is_id.then(|| self.asked(id, is_known))))
    }

    /// Returns those of `rows` that a container in the scope has or had. A caller who may read everything gets all of them if there is one.
    async fn visible(&self, mut rows: Vec<HasRow>, within: &Within) -> Result<Vec<HasRow>, Failure> {
        let runs = |row: &HasRow| within.stacks.binary_search(&row.package_set).is_ok();
        let namespaces = within.namespaces.as_deref();
        if namespaces.is_none() && rows.iter().any(runs) {
            return Ok(rows);
        }
        let mut unseen: BTreeSet<PackageSetId> =
            rows.iter().filter(|row| !runs(row)).map(|row| row.package_set).collect();
        let mut ended: BTreeSet<PackageSetId> = BTreeSet::new();
        let limit = if namespaces.is_none() { 1 } else { RUNS_AT_ONCE };
        let mut from = (0, 0);
        while !within.running && !unseen.is_empty() {
            let sets: Vec<PackageSetId> = unseen.iter().copied().collect();
            let page = self.store.ended_runs(&sets, namespaces, from, limit).await?;
            for run in &page {
                unseen.remove(&run.package_set);
                ended.insert(run.package_set);
            }
            match page.last().filter(|_| page.len() == limit) {
                Some(_) if namespaces.is_none() => return Ok(rows),
                Some(last) => from = (last.number, last.package_set),
                None => break,
            }
        }
        // No answer for a namespace depends on the packages of others, nor does an error.
        rows.retain(|row| runs(row) || ended.contains(&row.package_set));
        Ok(rows)
    }

    /// Returns the packages that a question about a package asks for.
    async fn with(&self, question: &PackageQuestion, within: &Within) -> Result<Vec<HasRow>, Failure> {
        let mut rows = Vec::new();
        for name in question.spellings() {
            rows.extend(self.store.packages_named(&name, within.package_sets()).await?);
        }
        let rows = self.visible(rows, within).await?;
        // A package occurs in many stacks; its version is compared once.
        let mut decided: HashMap<i64, bool> = HashMap::new();
        let mut wanted = Vec::new();
        for row in rows {
            let Some(kind) = PackageType::from_name(&row.r#type) else { continue };
            let matches = match decided.get(&row.package) {
                Some(matches) => *matches,
                None => {
                    let matches = question.matches(kind, &row.name, &row.version, &row.purl);
                    matches.map_err(|error| Failure::Invalid(error.to_string()))?
                }
            };
            decided.insert(row.package, matches);
            if matches {
                wanted.push(row);
            }
        }
        Ok(wanted)
    }

    /// Returns why a vulnerability has no findings: no container is affected, or the database does not contain it.
    pub(super) async fn not_found(&self, scope: &Scope, id: &str) -> Result<String, Failure> {
        let is_known = self.is_advisory(id.to_owned()).await?;
        Ok(match self.asked(id, is_known) {
            AskedVulnerability { in_database: true, .. } => {
                let seen = match scope {
                    Scope::All => "",
                    Scope::Namespaces(_) => " in the namespaces that you may read",
                };
                format!("{id:?} affects no scanned container{seen}; outcrop status shows what is not scanned")
            }
            AskedVulnerability { newest_record: Some(newest), .. } => {
                let newest = newest.split('T').next().unwrap_or_default();
                format!(
                    "{id:?} is not in the advisory database (newest record {newest}); update it with outcrop db push FILE"
                )
            }
            AskedVulnerability { newest_record: None, .. } => {
                format!("{id:?} cannot be looked up: no advisory database; push one with outcrop db push FILE")
            }
        })
    }

    /// Returns whether an advisory in the database in use has this ID or alias.
    async fn is_advisory(&self, id: String) -> Result<bool, Failure> {
        let Some(current) = self.advisories.current() else { return Ok(false) };
        let known = tokio::task::spawn_blocking(move || Database::open(&current.path)?.knows(&id)).await;
        let known = known.map_err(|error| Failure::Unavailable(format!("reading the advisory database: {error}")))?;
        known.map_err(|error| Failure::Unavailable(error.to_string()))
    }

    fn asked(&self, id: &str, in_database: bool) -> AskedVulnerability {
        let current = self.advisories.current();
        let newest = current.iter().flat_map(|current| &current.sources).map(|source| source.newest.as_str()).max();
        let newest_record = newest.filter(|newest| !newest.is_empty()).map(ToOwned::to_owned);
        AskedVulnerability { id: id.to_owned(), in_database, newest_record }
    }
}

/// Returns what is known of a container that does not run any more: a subject has no pod, and no container of its own.
fn ended_ref(subject: &SubjectKey, stack: Option<String>) -> ContainerRef {
    let (namespace, workload, name) = match subject {
        SubjectKey::WorkloadContainer { workload: WorkloadKey { namespace, kind, name, .. }, container } => {
            (Some(namespace.to_string()), Some(format!("{kind}/{name}")), container.to_string())
        }
        SubjectKey::Container { namespace, container, .. } => {
            (Some(namespace.to_string()), None, container.to_string())
        }
        SubjectKey::Node { .. } => (None, None, String::new()),
    };
    ContainerRef {
        node: subject.node().map(ToString::to_string).unwrap_or_default(),
        runtime: Open::Other(String::new()),
        runtime_namespace: String::new(),
        id: String::new(),
        name,
        namespace,
        pod: None,
        workload,
        image: String::new(),
        image_id: None,
        stack,
    }
}

//! Packages that run, and who has one.

use std::collections::HashMap;

use outcrop_proto::{Digest, PackageType};

use super::{Chosen, container_ref};
use crate::aggregator::Aggregator;
use crate::aggregator::who_has::{Query, is_within};
use crate::store::{HasRow, PackagesFilter, StackId};
use crate::web::list::{PACKAGES, WHO_HAS, after, cut};
use crate::web::{Failure, HasItem, List, PackageItem, Page, Scope};

/// Sort key of an item: node and key of the container, package, layer, and index of the path.
type Place = (String, String, String, i64, u32, usize);

impl Aggregator {
    pub(super) async fn list_packages(&self, scope: &Scope, list: &List) -> Result<Page<PackageItem>, Failure> {
        let by_containers = match (list.sort.as_deref(), list.descending) {
            (None | Some("purl"), false) => false,
            (Some("containers"), true) => true,
            _ => {
                let known = "packages are sorted by name (the default) or with sort=-containers";
                return Err(Failure::Invalid(known.to_owned()));
            }
        };
        let stacks: Vec<(StackId, u64)> = Chosen::new(self, scope, list)?.stacks(&self.picture()).into_iter().collect();
        let filter = PackagesFilter {
            package_sets: &stacks,
            r#type: list.filter("type"),
            name: list.filter("name"),
            version: list.filter("version"),
            by_containers,
            after: after(&PACKAGES, list)?,
            limit: list.limit + 1,
        };
        let rows = self.store.list_packages(&filter).await?.into_iter();
        let keyed = rows.map(|row| {
            let containers = if by_containers { row.containers } else { 0 };
            ((containers, row.name.clone(), row.version.clone(), row.id), row)
        });
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

    pub(super) async fn who_has_now(
        &self,
        scope: &Scope,
        question: &str,
        list: &List,
    ) -> Result<Page<HasItem>, Failure> {
        let place: Option<Place> = after(&WHO_HAS, list)?;
        let chosen = Chosen::new(self, scope, list)?;
        let stacks: Vec<StackId> = chosen.stacks(&self.picture()).into_keys().collect();
        let mut rows = self.has(question, &stacks).await?;
        // Within a container answers come in the order of their places.
        rows.sort_unstable_by_key(|row| (row.package_set, row.package, row.layer));
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
        let first = place.as_ref().map_or("", |place| &place.0);
        'page: for (name, node) in fleet.nodes_from(first) {
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
                    let here = (
                        name.to_string(),
                        key.qualified_namespace(),
                        key.id.to_string(),
                        row.package,
                        row.layer,
                        number,
                    );
                    if place.as_ref().is_some_and(|place| here <= *place) {
                        continue;
                    }
                    let layer = usize::try_from(row.layer).ok();
                    let layers = fleet.stack(&chain).map(|stack| stack.layers()).unwrap_or_default();
                    let item = HasItem {
                        container: container_ref(name, key, container),
                        purl: row.purl.clone(),
                        package: row.name.clone(),
                        version: row.version.clone(),
                        evidence: path.to_owned(),
                        layer: layer.and_then(|layer| layers.get(layer)).map(ToString::to_string),
                    };
                    items.push((here, item));
                    if items.len() > list.limit {
                        break 'page;
                    }
                }
            }
        }
        cut(&WHO_HAS, list, items)
    }

    /// The packages that a question is about, in these stacks.
    async fn has(&self, question: &str, stacks: &[StackId]) -> Result<Vec<HasRow>, Failure> {
        let query = Query::parse(question).map_err(|error| Failure::Invalid(error.to_string()))?;
        // The store knows which names are those of advisories; sources name them as they like.
        if query.may_be_advisory() {
            let affected = self.store.packages_with(&query.name, stacks).await?;
            if !affected.is_empty() {
                return Ok(affected);
            }
        }
        let Query { kind, name, bound } = query;
        let mut rows = self.store.packages_named(&name, stacks).await?;
        rows.retain(|row| {
            let Some(of) = PackageType::from_name(&row.r#type) else { return false };
            kind.is_none_or(|kind| kind == of) && bound.as_ref().is_none_or(|bound| is_within(of, &row.version, bound))
        });
        Ok(rows)
    }
}

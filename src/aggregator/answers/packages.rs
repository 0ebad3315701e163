//! Packages that run, and who has one.

use outcrop_proto::PackageType;

use super::findings::layer;
use super::{Chosen, by_severity, container_ref};
use crate::aggregator::Aggregator;
use crate::aggregator::who_has::{Query, is_within};
use crate::store::{StackId, WantedPackages};
use crate::web::list::{PACKAGES, WHO_HAS, after, cut, page};
use crate::web::{Failure, HasItem, List, PackageItem, Page, Scope};

impl Aggregator {
    pub(super) async fn list_packages(&self, scope: &Scope, list: &List) -> Result<Page<PackageItem>, Failure> {
        let by_containers = match (list.sort.as_deref(), list.descending) {
            (None | Some("purl"), false) => false,
            (Some("containers"), true) => true,
            _ => {
                let known = "packages are sorted by name, which is the default, or by sort=-containers";
                return Err(Failure::Question(known.to_owned()));
            }
        };
        let stacks: Vec<(StackId, u64)> = Chosen::new(scope, list)?.stacks(&self.fleet()).into_iter().collect();
        let wanted = WantedPackages {
            stacks: &stacks,
            r#type: list.filter("type"),
            name: list.filter("name"),
            version: list.filter("version"),
            by_containers,
            after: after(&PACKAGES, list)?,
            limit: list.limit + 1,
        };
        let rows = self.store.list_packages(&wanted).await?.into_iter();
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
            findings: by_severity(row.severities.map(u64::from)),
        }))
    }

    pub(super) async fn who_has_now(
        &self,
        scope: &Scope,
        question: &str,
        list: &List,
    ) -> Result<Page<HasItem>, Failure> {
        let query = Query::parse(question).map_err(|error| Failure::Question(error.to_string()))?;
        let chosen = Chosen::new(scope, list)?;
        let stacks: Vec<StackId> = chosen.stacks(&self.fleet()).into_keys().collect();
        let mut rows = match &query {
            Query::Problem(name) => self.store.packages_with(name, &stacks).await?,
            Query::Package { name, .. } => self.store.packages_named(name, &stacks).await?,
        };
        if let Query::Package { kind, bound, .. } = &query {
            rows.retain(|row| {
                let Some(of) = PackageType::from_name(&row.r#type) else { return false };
                kind.is_none_or(|kind| kind == of)
                    && bound.as_ref().is_none_or(|bound| is_within(of, &row.version, bound))
            });
        }
        let held = self.held(&chosen, rows.iter().map(|row| row.stack).collect());
        let items = rows.iter().flat_map(|row| {
            let containers = held.get(&row.stack).map(Vec::as_slice).unwrap_or_default();
            // Every path that lists it is an answer of its own: each has to be mended.
            let paths = row.evidence.lines().enumerate();
            paths.flat_map(move |(number, path)| {
                containers.iter().map(move |(node, key, container)| {
                    let place =
                        (node.to_string(), key.0.to_string(), key.1.to_string(), row.package, row.layer, number);
                    (place, (row, path, node, key, container))
                })
            })
        });
        let page = page(&WHO_HAS, list, items)?;
        let layers = self.layers_of(page.items.iter().map(|(row, ..)| row.stack).collect());
        Ok(page.map(|(row, path, node, key, container)| HasItem {
            container: container_ref(node, key, container),
            purl: row.purl.clone(),
            package: row.name.clone(),
            version: row.version.clone(),
            evidence: path.to_owned(),
            layer: layer(&layers, row.stack, row.layer),
        }))
    }
}

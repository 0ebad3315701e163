//! Exports: the images of a request, and pages of their packages and findings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use outcrop_proto::{Coverage, Digest, Severity};

use super::{Answers, Chosen, findings, workloads};
use crate::aggregator::Aggregator;
use crate::aggregator::joining::missing;
use crate::export::{Document, Finding, Image, Package, Place, Read, Rows, Tested};
use crate::image::Reference;
use crate::store::{FindingRow, FindingsFilter, FindingsOrder, ListedPackage, StackId, VerdictId};
use crate::web::{Export, Failure, Future, List, RowSource, Scope};

/// Number of rows that are read at once.
const PAGE: usize = 1000;

/// Stack, name and digest: containers that share them have one image.
type ImageKey = (Option<Digest>, String, Option<String>);

/// The stack of an image.
#[derive(Clone, Copy, Debug)]
struct Stack {
    id: StackId,
    chain: Digest,
}

/// Reads the rows of an export page by page.
#[derive(Debug)]
struct ExportRows {
    aggregator: Arc<Aggregator>,
    /// Of each image its stack; `None` if it is not in the store.
    stacks: Vec<Option<Stack>>,
    /// The images of each stack, by number.
    images: HashMap<StackId, Vec<usize>>,
    severities: RangeInclusive<Severity>,
    place: Progress,
}

/// The place in what is being read.
#[derive(Debug, Default)]
enum Progress {
    #[default]
    Start,
    Package(String, i64, i64),
    Finding(Severity, String, VerdictId, StackId),
    End,
}

impl Answers {
    pub(super) fn begin_export(&self, scope: &Scope, list: &List) -> Result<Export, Failure> {
        let aggregator = &self.0;
        let severities = findings::severities(list)?;
        let chosen = Chosen::new(aggregator, scope, list)?;
        let (images, stacks) = aggregator.images_to_export(&chosen);
        let mut by_stack: HashMap<StackId, Vec<usize>> = HashMap::new();
        for (number, stack) in stacks.iter().enumerate() {
            if let Some(Stack { id, .. }) = stack {
                by_stack.entry(*id).or_default().push(number);
            }
        }
        let document = aggregator.document(scope, list);
        let rows = ExportRows {
            aggregator: Arc::clone(aggregator),
            stacks,
            images: by_stack,
            severities,
            place: Progress::default(),
        };
        Ok(Export { document, images, rows: Box::new(rows) })
    }
}

impl Aggregator {
    /// Returns the head of a document that covers what the scope and the filters select.
    fn document(&self, scope: &Scope, list: &List) -> Document {
        let cluster = self.store.cluster();
        let mut name = format!("cluster {}", cluster.name);
        match scope {
            Scope::Namespaces(namespaces) if list.filter("namespace").is_none() => {
                let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                name.push_str(&format!(", namespaces {}", namespaces.join(" ")));
            }
            _ => {}
        }
        for (field, value) in &list.filters {
            name.push_str(&format!(", {field} {value}"));
        }
        let database = self.advisories.current().map(|current| current.digest.to_string());
        let at = outcrop_proto::clock::timestamp();
        let seed = format!("{}\n{name}\n{database:?}\n{}", cluster.key, at.as_nanosecond());
        let cluster = Some((cluster.key.clone(), cluster.name.clone()));
        Document { name, cluster, database, made_at: at.as_second(), seed: seed.into_bytes() }
    }

    /// Returns the images of the chosen containers by name, and the stack of each.
    fn images_to_export(&self, chosen: &Chosen<'_>) -> (Vec<Image>, Vec<Option<Stack>>) {
        let fleet = self.picture();
        let mut found: BTreeMap<ImageKey, (Coverage, BTreeSet<Place>)> = BTreeMap::new();
        for (_, _, container) in chosen.containers(&fleet) {
            let (name, id) = (&container.image, container.image_id.as_deref());
            let key = (container.stack, name.to_string(), digest(name, id));
            let place = Place {
                namespace: container.namespace().map(ToOwned::to_owned),
                workload: container.workload.as_deref().map(workloads::named),
                container: container.name.to_string(),
            };
            let entry = found.entry(key).or_insert_with(|| (fleet.coverage_of(container), BTreeSet::new()));
            entry.1.insert(place);
        }
        if let Some(watch) = &self.watch {
            let cluster = watch.cluster();
            for missing in missing(&cluster, &fleet, chosen.scope).filter(|missing| chosen.is_missing(missing)) {
                let (name, id) = (&missing.container.image, missing.container.image_id.as_deref());
                let place = Place {
                    namespace: Some(missing.pod.name.namespace.clone()),
                    workload: Some(workloads::named(&missing.pod.workload)),
                    container: missing.container.name.to_string(),
                };
                let key = (None, name.to_string(), digest(name, id));
                found.entry(key).or_insert_with(|| (missing.coverage.clone(), BTreeSet::new())).1.insert(place);
            }
        }
        let judge = self.judge();
        let mut all: Vec<(Image, Option<Stack>)> = Vec::with_capacity(found.len());
        for ((chain, name, digest), (coverage, places)) in found {
            let summary = chain.and_then(|chain| fleet.stack(&chain)?.summary());
            let distribution = summary.and_then(|summary| summary.distribution.as_ref());
            let assessed = summary.map(|summary| judge.assess(distribution, &summary.types)).unwrap_or_default();
            let tested =
                assessed.into_iter().map(|of| Tested { ecosystem: of.ecosystem, state: of.state, reason: of.reason });
            let image = Image {
                number: 0,
                is_container: true,
                name,
                digest,
                stack: chain.map(|chain| chain.to_string()),
                coverage: Some(coverage),
                distribution: distribution.map(|distribution| distribution.name.clone()),
                assessed: tested.collect(),
                places: places.into_iter().collect(),
            };
            all.push((image, chain.zip(summary).map(|(chain, summary)| Stack { id: summary.id, chain })));
        }
        all.sort_by(|(a, _), (b, _)| (&a.name, &a.digest, &a.stack).cmp(&(&b.name, &b.digest, &b.stack)));
        all.into_iter().unzip()
    }

    /// Returns the layer with this index in a stack.
    fn layer_of(&self, chain: &Digest, index: u32) -> Option<String> {
        let index = usize::try_from(index).ok()?;
        Some(self.picture().stack(chain)?.layers().get(index)?.to_string())
    }
}

/// Returns the digest of an image in its registry: that of its name, or of what the kubelet resolved the name to.
fn digest(name: &str, id: Option<&str>) -> Option<String> {
    let of = |text: &str| Reference::parse(text).digest.map(ToOwned::to_owned);
    // The ID of an image that was built on the node is the digest of its configuration, which no registry knows.
    let digest = of(name).or_else(|| of(id?))?;
    digest.parse::<Digest>().is_ok().then_some(digest)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(ToOwned::to_owned).collect()
}

impl RowSource for ExportRows {
    fn next(&mut self, read: Read) -> Future<'_, Option<Rows>> {
        Box::pin(async move {
            if matches!(self.place, Progress::End) {
                self.place = Progress::Start;
                return Ok(None);
            }
            let stack = |number: usize| self.stacks.get(number).copied().flatten();
            match read {
                Read::Packages(number) => match stack(number) {
                    Some(stack) => self.packages(stack).await.map(Some),
                    None => Ok(None),
                },
                Read::FindingsOf(number) => match stack(number) {
                    Some(stack) => self.findings(&[stack.id], Some(number)).await.map(Some),
                    None => Ok(None),
                },
                Read::Findings => {
                    let mut stacks: Vec<StackId> = self.images.keys().copied().collect();
                    stacks.sort_unstable();
                    self.findings(&stacks, None).await.map(Some)
                }
            }
        })
    }
}

impl ExportRows {
    async fn packages(&mut self, stack: Stack) -> Result<Rows, Failure> {
        let after = match &self.place {
            Progress::Package(purl, id, place) => Some((purl.as_str(), *id, *place)),
            _ => None,
        };
        let rows = self.aggregator.store.listed_packages(stack.id, after, PAGE).await?;
        self.place = match rows.last().filter(|_| rows.len() == PAGE) {
            Some(last) => Progress::Package(last.purl.clone(), last.id, last.place),
            None => Progress::End,
        };
        let package = |row: ListedPackage| Package {
            purl: row.purl,
            r#type: row.r#type,
            name: row.name,
            version: row.version,
            licenses: Vec::new(),
            evidence: lines(&row.evidence),
            layer: self.aggregator.layer_of(&stack.chain, row.layer),
        };
        Ok(Rows::Packages(rows.into_iter().map(package).collect()))
    }

    /// Reads findings of stacks for all of their images, or for one.
    async fn findings(&mut self, stacks: &[StackId], only: Option<usize>) -> Result<Rows, Failure> {
        let after = match &self.place {
            Progress::Finding(severity, vulnerability, verdict, stack) => {
                Some((*severity, vulnerability.clone(), *verdict, *stack))
            }
            _ => None,
        };
        let filter = FindingsFilter {
            package_sets: stacks,
            at_least: *self.severities.start(),
            at_most: *self.severities.end(),
            vulnerability: None,
            package: None,
            status: None,
            order: FindingsOrder::Vulnerability,
            descending: false,
            after,
            inclusive: false,
            limit: PAGE,
        };
        let rows = self.aggregator.store.findings(&filter).await?;
        self.place = match rows.last().filter(|_| rows.len() == PAGE) {
            Some(last) => Progress::Finding(last.severity, last.vulnerability.clone(), last.verdict, last.package_set),
            None => Progress::End,
        };
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let images = self.images.get(&row.package_set).map(Vec::as_slice).unwrap_or_default();
            let images = images.iter().filter(|number| only.is_none_or(|only| only == **number));
            let Some(Some(stack)) = images.clone().next().and_then(|number| self.stacks.get(*number)) else { continue };
            let layer = self.aggregator.layer_of(&stack.chain, row.layer);
            let finding = finding(row, layer);
            found.extend(images.map(|number| (*number, finding.clone())));
        }
        Ok(Rows::Findings(found))
    }
}

fn finding(row: FindingRow, layer: Option<String>) -> Finding {
    Finding {
        id: row.vulnerability,
        aliases: row.aliases,
        purl: row.purl,
        r#type: row.r#type,
        package: row.package,
        installed: row.version,
        evidence: lines(&row.evidence),
        status: row.status,
        fixed: row.fixed,
        severity: row.severity,
        score: row.score,
        summary: row.summary,
        layer,
    }
}

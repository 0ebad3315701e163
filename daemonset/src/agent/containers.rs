//! The node's containers, and where their layers can be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outcrop_proto::container::{Container, Coverage, CoverageState, GONE_BEFORE_READING};
use outcrop_proto::wire::Seen;
use outcrop_proto::{ContainerKey, Digest, LayerId, Storage};
use overlayfs_reader::MarkNamespace;

use super::filter::Filter;
use crate::heartbeat;
use crate::runtime::{Error, Gap, Lacks, Pin, Plan, Sibling, Start};
use crate::scan::{Place, Places, StackPlace, mounted};

/// Time for which the layers of an ended container are still read: the image's snapshots outlive the container.
const LINGER: Duration = Duration::from_secs(600);

/// Maximum number of ended containers that are kept.
const MAX_LINGERING: usize = 512;

/// Maximum number of starts that are kept until a list can show whether these containers run.
const MAX_STARTED: usize = 8192;

/// Time after which no further container is described until what is known has been reported.
const DESCRIBING: Duration = Duration::from_secs(60);

/// An event this late belongs to a container that was listed and is gone again.
const LATE: Duration = Duration::from_secs(1);

/// A container, and where it can be read.
#[derive(Debug)]
struct Known {
    /// The container as it was listed, without details.
    planned: Container,
    seen: Seen,
    pin: Pin,
    stack: Option<StackPlace>,
    /// Whether the runtime could not describe it.
    is_undescribed: bool,
}

/// Changes since the last list.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New or changed containers.
    pub(super) changed: Vec<Seen>,
    pub(super) gone: Vec<ContainerKey>,
    /// Containers that started and ended since the last list.
    pub(super) missed: Vec<Seen>,
    /// Whether the [unconfirmed namespaces](Containers::unconfirmed) have changed.
    pub(super) has_other_gaps: bool,
    /// Whether one of them is confirmed again: its containers may have ended unnoticed.
    pub(super) is_confirmed_again: bool,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty() && self.missed.is_empty() && !self.has_other_gaps
    }
}

#[derive(Debug)]
pub(super) struct Containers {
    host: PathBuf,
    filter: Filter,
    places: Places,
    known: BTreeMap<ContainerKey, Known>,
    /// Containers that ended recently, the latest last.
    lingering: VecDeque<(Instant, Known)>,
    /// Containers that started since the last list, as events reported them.
    started: Vec<Start>,
    /// Gaps of the last list; `None` before the first list.
    gaps: Option<Vec<Gap>>,
    /// Number of containers of the last list that were not described for want of time.
    postponed: usize,
}

impl Containers {
    pub(super) fn new(host: &Path, filter: Filter, places: Places) -> Self {
        Self {
            host: host.to_owned(),
            filter,
            places,
            known: BTreeMap::new(),
            lingering: VecDeque::new(),
            started: Vec::new(),
            gaps: None,
            postponed: 0,
        }
    }

    /// Returns all known containers.
    pub(super) fn all(&self) -> impl Iterator<Item = &Seen> {
        self.known.values().map(|known| &known.seen)
    }

    /// Returns whether the containers have been listed.
    pub(super) const fn is_listed(&self) -> bool {
        self.gaps.is_some()
    }

    /// Returns the runtime's namespaces of which not every container is listed, or not which ones run.
    pub(super) fn unconfirmed(&self) -> BTreeSet<String> {
        unconfirmed(self.gaps())
    }

    /// Returns the gaps of the last list.
    pub(super) fn gaps(&self) -> &[Gap] {
        self.gaps.as_deref().unwrap_or_default()
    }

    /// Returns the number of containers that the runtime could not describe.
    pub(super) fn undescribed(&self) -> usize {
        self.known.values().filter(|known| known.is_undescribed).count()
    }

    /// Returns the number of containers that wait to be described.
    pub(super) const fn postponed(&self) -> usize {
        self.postponed
    }

    /// Lists containers; with `again`, containers whose details failed before are described again.
    ///
    /// The containers of a namespace that the runtime did not list keep their last state.
    pub(super) fn update(&mut self, sibling: &mut Sibling, again: bool) -> Result<Changes, Error> {
        // Before the list: a container that starts during the list may be reported by an event and missing in the list.
        self.started.extend(sibling.take_started());
        let Plan { containers: planned, gaps } = sibling.plan()?;
        let is_unlisted = |key: &ContainerKey| {
            gaps.iter().any(|gap| gap.lacks == Lacks::Containers && gap.namespace == key.namespace)
        };
        let unconfirmed = unconfirmed(&gaps);
        let is_unsure = |key: &ContainerKey| unconfirmed.contains(&key.namespace);
        let started = std::mem::take(&mut self.started);
        let listed: BTreeSet<ContainerKey> = planned.iter().map(|container| container.key.clone()).collect();
        let mut changes = Changes::default();
        let mut next = BTreeMap::new();
        let mut failure = None;
        let (began, mut postponed) = (Instant::now(), 0);
        for container in planned.into_iter().filter(|container| !container.sandbox) {
            let key = container.key.clone();
            let old = self.known.remove(&key);
            // A container never changes its snapshots, so known details stay valid.
            let stands =
                |known: &Known| (known.planned == container || is_unsure(&key)) && !(again && is_failed(&known.seen));
            let known = match old {
                Some(known) if stands(&known) || failure.is_some() => Some(known),
                old if began.elapsed() > DESCRIBING => {
                    postponed += 1;
                    old
                }
                old => match self.look_at(container.clone(), sibling) {
                    // A container does not become unreadable: the runtime does not answer.
                    Ok(Some(known))
                        if is_failed(&known.seen) && old.as_ref().is_some_and(|old| !is_failed(&old.seen)) =>
                    {
                        old.map(|old| Known { planned: container, ..old })
                    }
                    Ok(Some(known)) => {
                        if old.is_none_or(|old| old.seen != known.seen) {
                            changes.changed.push(known.seen.clone());
                        }
                        Some(known)
                    }
                    // The container ended between the list and the request.
                    Ok(None) => {
                        match old {
                            Some(old) => self.linger(old, &mut changes),
                            None => changes.missed.push(missed(&container)),
                        }
                        None
                    }
                    Err(error) => {
                        failure = failure.or(Some(error));
                        old
                    }
                },
            };
            next.extend(known.map(|known| (key, known)));
        }
        let mut ended = std::mem::replace(&mut self.known, next);
        if let Some(error) = failure {
            // The runtime went away in between. Containers that were not described are new in the next list.
            self.known.extend(ended);
            self.started = started;
            return Err(error);
        }
        self.known.extend(ended.extract_if(.., |key, _| is_unlisted(key)));
        let now = Instant::now();
        let is_known = |start: &Start| {
            let is = |seen: &Seen| seen.key == start.key;
            let lately = self.lingering.iter().any(|(end, known)| now - *end < LATE && is(&known.seen));
            listed.contains(&start.key) || ended.contains_key(&start.key) || lately || changes.missed.iter().any(is)
        };
        let missed: BTreeSet<Start> = started.into_iter().filter(|start| !is_known(start)).collect();
        // A later list will show if these containers run.
        let (waiting, missed): (Vec<Start>, Vec<Start>) = missed.into_iter().partition(|start| is_unsure(&start.key));
        self.started.extend(waiting.into_iter().take(MAX_STARTED));
        changes.missed.extend(missed.into_iter().map(|start| self.missed_start(start)));
        ended.into_values().for_each(|known| self.linger(known, &mut changes));
        while self.lingering.front().is_some_and(|(end, _)| now - *end > LINGER) || self.lingering.len() > MAX_LINGERING
        {
            self.lingering.pop_front();
        }
        let before = self.unconfirmed();
        changes.has_other_gaps = before != unconfirmed;
        changes.is_confirmed_again = !before.is_subset(&unconfirmed);
        (self.gaps, self.postponed) = (Some(gaps), postponed);
        Ok(changes)
    }

    fn linger(&mut self, known: Known, changes: &mut Changes) {
        changes.gone.push(known.planned.key.clone());
        self.lingering.push_back((Instant::now(), known));
    }

    /// Returns a container that an event reported and no list contains.
    fn missed_start(&self, start: Start) -> Seen {
        let excluded = self.filter.excludes_namespace(&start.key.namespace);
        Seen {
            name: start.key.id.clone(),
            key: start.key,
            pod: None,
            image: start.image,
            storage: None,
            stack: None,
            refused: excluded.or_else(|| Some(Coverage::failed(GONE_BEFORE_READING))),
            steps: Vec::new(),
            details: None,
        }
    }

    /// Describes a container and finds its layers; `None` when it is gone.
    fn look_at(&mut self, planned: Container, sibling: &mut Sibling) -> Result<Option<Known>, Error> {
        if let Some(coverage) = self.filter.excludes(&planned) {
            let seen = seen(&planned, None, Some(coverage));
            return Ok(Some(Known { seen, pin: Pin::from(&planned), stack: None, is_undescribed: false, planned }));
        }
        // Many containers of a slow runtime take longer than a heartbeat may.
        heartbeat::beat();
        let Some(container) = sibling.describe(planned.clone())? else { return Ok(None) };
        let mut seen = seen(&container, None, None);
        let mut stack = None;
        match self.places.find(&container, &self.host) {
            Place::Not(coverage) => seen.refused = Some(coverage),
            Place::Merged { .. } => {
                let reason =
                    "the storage driver keeps one merged tree, which agents do not support yet; outcrop scan does";
                seen.refused = Some(Coverage::unsupported(reason));
                seen.storage = Some(Storage::MergedTree);
            }
            Place::Stack { stack: place, chain, .. } => {
                seen.storage = Some(Storage::LayerDirectories);
                let layers: Option<Vec<LayerId>> = place.layers.iter().map(|layer| layer.id).collect();
                match (layers, chain.first()) {
                    (Some(layers), _) if layers.is_empty() => {
                        seen.refused = Some(Coverage::new(CoverageState::Scanned, ""));
                    }
                    (Some(layers), Some(top)) => {
                        seen.stack = Some((*top, layers));
                        let image = self.places.image(&container);
                        (seen.steps, seen.details) =
                            image.map(|(steps, details)| (steps, Some(details))).unwrap_or_default();
                        // The mounted root is looked up when it is needed: it appears after the start and goes with the end.
                        stack = Some(StackPlace { mounted: None, ..place });
                    }
                    _ => seen.refused = Some(Coverage::unsupported("the snapshots have no names that identify them")),
                }
            }
        }
        let is_undescribed = container.refused.as_ref().is_some_and(|of| of.state == CoverageState::Failed);
        Ok(Some(Known { seen, pin: Pin::from(&container), stack, is_undescribed, planned }))
    }

    /// Returns where a layer can be read, with the pin of its container.
    pub(super) fn layer(&self, id: LayerId) -> Option<(&Pin, &Path, MarkNamespace)> {
        self.readable().find_map(|known| {
            let stack = known.stack.as_ref()?;
            let layer = stack.layers.iter().find(|layer| layer.id == Some(id))?;
            Some((&known.pin, layer.root.as_path(), stack.marks))
        })
    }

    /// Returns a container that has the stack: one whose root is mounted, if there is one, because an ended container decides nothing.
    pub(super) fn stack(&self, id: Digest) -> Option<(&Pin, StackPlace)> {
        let has = |known: &&Known| known.seen.stack.as_ref().is_some_and(|(stack, _)| *stack == id);
        let places = self.known.values().filter(has).filter_map(|known| {
            let mut stack = known.stack.clone()?;
            stack.mounted = mounted(&known.planned, stack.upper.as_deref(), &self.host);
            Some((&known.pin, stack))
        });
        first_that(places, |(_, stack)| stack.mounted.is_some())
    }

    /// Returns the namespaces of the containers that have a layer: Kubernetes', otherwise the runtime's.
    pub(super) fn namespaces(&self, id: LayerId) -> Vec<String> {
        let has = |known: &&Known| has_layer(&known.seen, id);
        let namespace = |known: &Known| {
            let pod = known.seen.pod.as_ref().map(|pod| pod.namespace.clone());
            let key = &known.seen.key;
            pod.unwrap_or_else(|| format!("{} {}", key.runtime, key.namespace))
        };
        let namespaces: BTreeSet<String> = self.readable().filter(has).map(namespace).collect();
        namespaces.into_iter().collect()
    }

    /// Drops the ended containers whose layer was not read in time. Returns their number.
    pub(super) fn forget_unread(&mut self, id: LayerId) -> u64 {
        let before = self.lingering.len();
        self.lingering.retain(|(_, known)| !has_layer(&known.seen, id));
        (before - self.lingering.len()) as u64
    }

    fn readable(&self) -> impl Iterator<Item = &Known> {
        self.known.values().chain(self.lingering.iter().rev().map(|(_, known)| known))
    }
}

/// Returns the first item that is `good`, or else the first one.
fn first_that<T>(mut items: impl Iterator<Item = T>, good: impl Fn(&T) -> bool) -> Option<T> {
    let first = items.next()?;
    if good(&first) { Some(first) } else { items.find(good).or(Some(first)) }
}

fn unconfirmed(gaps: &[Gap]) -> BTreeSet<String> {
    let gaps = gaps.iter().filter(|gap| matches!(gap.lacks, Lacks::Containers | Lacks::States));
    gaps.map(|gap| gap.namespace.clone()).collect()
}

fn has_layer(seen: &Seen, id: LayerId) -> bool {
    seen.stack.as_ref().is_some_and(|(_, layers)| layers.contains(&id))
}

fn is_failed(seen: &Seen) -> bool {
    seen.refused.as_ref().is_some_and(|coverage| coverage.state == CoverageState::Failed)
}

fn missed(container: &Container) -> Seen {
    seen(container, None, Some(Coverage::failed(GONE_BEFORE_READING)))
}

fn seen(container: &Container, stack: Option<(Digest, Vec<LayerId>)>, refused: Option<Coverage>) -> Seen {
    Seen {
        key: container.key.clone(),
        name: container.name.clone(),
        pod: container.pod.clone(),
        image: container.image.clone(),
        storage: None,
        stack,
        refused,
        steps: Vec::new(),
        details: None,
    }
}

#[cfg(test)]
mod tests {
    use super::first_that;

    #[test]
    fn a_check_prefers_a_container_whose_root_is_mounted_over_an_ended_one_before_it() {
        let (ended, running) = (("a-init", false), ("web", true));
        let choose = |containers: &[(&'static str, bool)]| {
            first_that(containers.iter().copied(), |(_, is_mounted)| *is_mounted).map(|(name, _)| name)
        };
        assert_eq!(choose(&[ended, running]), Some("web"));
        assert_eq!(choose(&[running, ended]), Some("web"));
        assert_eq!(choose(&[ended, ("b-init", false)]), Some("a-init"));
        assert_eq!(choose(&[]), None);
    }
}

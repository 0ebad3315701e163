//! Scans the containers of a containerd.
//!
//! This process reads storage and never connects to containerd; its sibling process holds the socket and reads no storage.

use std::path::{Path, PathBuf};

use outcrop_agent::role;
use outcrop_agent::runtime::{Plan, Sibling};
use outcrop_agent::scan::{Place, Places, Scanner};
use outcrop_agent::worker::Program;
use outcrop_proto::container::{Container, Coverage, CoverageState};

use super::matcher::Matcher;
use crate::cli::Fatal;
use crate::cli::progress::Progress;
use crate::cli::report::{Subject, Target};

/// Selection of containers.
pub(super) struct ContainerSelection {
    pub(super) socket: Option<PathBuf>,
    pub(super) namespaces: Vec<String>,
    pub(super) ids: Vec<String>,
}

/// Scans the selected containers.
pub(super) fn scan(
    selection: &ContainerSelection,
    scanner: &mut Scanner,
    matcher: &Matcher,
    progress: &Progress,
) -> Result<Vec<Target>, Fatal> {
    let fail = |error: outcrop_agent::runtime::Error| Fatal::failed(error.to_string());
    let command = role::runtime_command(&Program::this(), selection.socket.as_deref());
    let mut sibling = Sibling::spawn(command).map_err(fail)?;
    let Plan { mut containers, gaps } = sibling.list(&selection.namespaces).map_err(fail)?;
    containers.retain(|container| !container.sandbox);
    if let Some(missing) =
        selection.ids.iter().find(|id| !containers.iter().any(|container| container.key.id.starts_with(*id)))
    {
        return Err(Fatal::failed(format!(
            "container {missing:?} not found; list containers with ctr -n NAMESPACE containers ls"
        )));
    }
    containers.retain(|container| {
        selection.ids.is_empty() || selection.ids.iter().any(|id| container.key.id.starts_with(id))
    });
    containers.sort_by(|a, b| a.key.cmp(&b.key));
    let mut places = Places::new(Program::this());
    let mut targets = Vec::with_capacity(containers.len());
    for (number, container) in containers.iter().enumerate() {
        progress.set_subject(format!("container {} of {}, {}", number + 1, containers.len(), container.name));
        let target = scan_one(container, scanner, &mut places, matcher)?;
        // The result is valid only if the container still uses the same snapshots.
        let same = match sibling.recheck(container) {
            Ok(same) => same,
            Err(error) => return Err(fail(error)),
        };
        targets.push(if same {
            target
        } else {
            let reason = "the container was replaced or removed during the scan; scan again";
            Target::not_scanned(subject(container), Coverage::failed(reason))
        });
    }
    // The result is not about what containerd did not list, and says so.
    targets.extend(
        gaps.into_iter()
            .map(|gap| Target::not_scanned(Subject::named("containerd".to_owned()), Coverage::failed(gap.reason))),
    );
    Ok(targets)
}

fn scan_one(
    container: &Container,
    scanner: &mut Scanner,
    places: &mut Places,
    matcher: &Matcher,
) -> Result<Target, Fatal> {
    let (stack, chain, diff_ids, best) = match places.find(container, Path::new("/")) {
        Place::Not(coverage) => return Ok(Target::not_scanned(subject(container), coverage)),
        Place::Merged { stack, best } => (stack, Vec::new(), None, Some(best)),
        Place::Stack { stack, chain, diff_ids } => (stack, chain, diff_ids, None),
    };
    Ok(match scanner.scan(&stack) {
        Ok(mut scanned) => {
            if let Some(best) = best.filter(|_| scanned.coverage.state == CoverageState::Scanned) {
                scanned.coverage = best;
            }
            let diff_ids = diff_ids.unwrap_or_default();
            let matched = matcher.match_packages(scanned.merged.distribution.as_ref(), &scanned.merged.packages)?;
            Target::scanned(subject(container), stack.layers.len(), &chain, &diff_ids, scanned, matched)
        }
        Err(error) => Target::not_scanned(subject(container), error.coverage()),
    })
}

fn subject(container: &Container) -> Subject {
    Subject {
        id: container.key.id.clone(),
        name: container.name.clone(),
        runtime: Some(container.key.runtime),
        runtime_namespace: Some(container.key.namespace.clone()),
        namespace: container.pod.as_ref().map(|pod| pod.namespace.clone()),
        pod: container.pod.as_ref().map(|pod| pod.name.clone()),
        image: Some(container.image.clone()),
        storage_driver: Some(container.storage_driver.clone()),
    }
}

//! Scanning what a containerd runs.
//!
//! This process reads storage and never speaks to containerd; its sibling holds the socket and reads no storage.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use outcrop_agent::role;
use outcrop_agent::runtime::Sibling;
use outcrop_agent::scan::{LayerPlace, Scanner, StackPlace, mounted_root};
use outcrop_agent::snapshot::{self, Located};
use outcrop_agent::worker::Program;
use outcrop_proto::container::{Container, Coverage, CoverageState, Status};
use outcrop_proto::digest::Digest;
use outcrop_proto::identity::{layer_ids, proves};
use overlayfs_reader::MarkNamespace;

use super::judge::Judge;
use crate::cli::Fatal;
use crate::cli::report::{Subject, Target};

/// What to look at.
pub(super) struct Wanted {
    pub(super) socket: Option<PathBuf>,
    pub(super) namespaces: Vec<String>,
    pub(super) ids: Vec<String>,
}

/// Scans the containers that are wanted.
pub(super) fn scan(wanted: &Wanted, scanner: &mut Scanner, judge: &Judge) -> Result<Vec<Target>, Fatal> {
    let fail = |error: outcrop_agent::runtime::Error| Fatal::failed(error.to_string());
    let command = role::runtime_command(&Program::this(), wanted.socket.as_deref());
    let mut sibling = Sibling::spawn(command).map_err(fail)?;
    let mut containers = sibling.list(&wanted.namespaces).map_err(fail)?;
    containers.retain(|container| !container.sandbox);
    if let Some(missing) =
        wanted.ids.iter().find(|id| !containers.iter().any(|container| container.id.starts_with(*id)))
    {
        return Err(Fatal::failed(format!(
            "no container {missing:?} runs here; list what runs: outcrop scan --packages, or ctr -n NAMESPACE containers ls"
        )));
    }
    containers.retain(|container| wanted.ids.is_empty() || wanted.ids.iter().any(|id| container.id.starts_with(id)));
    containers.sort_by(|a, b| (&a.containerd_namespace, &a.id).cmp(&(&b.containerd_namespace, &b.id)));
    let mut configs = Configs { program: Program::this(), parsed: HashMap::new() };
    let mut targets = Vec::with_capacity(containers.len());
    for container in &containers {
        let target = scan_one(container, scanner, &mut configs, judge)?;
        // What was read counts only if the container still stands on the same snapshots.
        let same = match sibling.recheck(container) {
            Ok(same) => same,
            Err(error) => return Err(fail(error)),
        };
        targets.push(if same {
            target
        } else {
            let reason = "it was replaced or removed while it was read; scan again";
            Target::not_scanned(subject(container), Coverage::failed(reason))
        });
    }
    Ok(targets)
}

fn scan_one(
    container: &Container,
    scanner: &mut Scanner,
    configs: &mut Configs,
    judge: &Judge,
) -> Result<Target, Fatal> {
    let (stack, chain, diff_ids, best) = match snapshot::locate(container, Path::new("/")) {
        Located::Not(coverage) => return Ok(Target::not_scanned(subject(container), coverage)),
        Located::Merged(merged) => {
            let layers = vec![LayerPlace { id: None, root: merged.root }];
            let stack = StackPlace { layers, marks: MarkNamespace::Trusted, upper: None, mounted: None };
            (stack, Vec::new(), None, Some(merged.best))
        }
        Located::Stack(stack) => {
            let chain: Option<Vec<Digest>> = container.chain.iter().map(|name| name.parse().ok()).collect();
            let chain = chain.unwrap_or_default();
            let diff_ids = configs.proved(container, &chain);
            let mut ids = layer_ids(&chain, diff_ids.as_deref()).into_iter();
            let place = |layer: snapshot::Layer| LayerPlace { id: ids.next(), root: layer.root };
            let place = StackPlace {
                layers: stack.layers.into_iter().map(place).collect(),
                marks: if stack.userxattr { MarkNamespace::User } else { MarkNamespace::Trusted },
                upper: stack.upper,
                mounted: mounted(container),
            };
            (place, chain, diff_ids, None)
        }
    };
    Ok(match scanner.scan(&stack) {
        Ok(mut scanned) => {
            if let Some(best) = best.filter(|_| scanned.coverage.state == CoverageState::Scanned) {
                scanned.coverage = best;
            }
            let diff_ids = diff_ids.unwrap_or_default();
            let judged = judge.judge(scanned.merged.distribution.as_ref(), &scanned.merged.packages)?;
            Target::scanned(subject(container), stack.layers.len(), &chain, &diff_ids, scanned, judged)
        }
        Err(error) => Target::not_scanned(subject(container), Coverage::failed(error.to_string())),
    })
}

fn subject(container: &Container) -> Subject {
    Subject {
        id: container.id.clone(),
        name: container.name.clone(),
        containerd_namespace: Some(container.containerd_namespace.clone()),
        namespace: container.pod.as_ref().map(|pod| pod.namespace.clone()),
        pod: container.pod.as_ref().map(|pod| pod.name.clone()),
        image: Some(container.image.clone()),
        snapshotter: Some(container.snapshotter.clone()),
    }
}

/// Where the container's root is mounted, if it runs and this process can see that.
fn mounted(container: &Container) -> Option<PathBuf> {
    if container.status != Status::Running {
        return None;
    }
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    mounted_root(&mountinfo, &container.containerd_namespace, &container.id)
}

/// Image configurations, each parsed once, in a worker.
struct Configs {
    program: Program,
    parsed: HashMap<Digest, Option<Vec<Digest>>>,
}

impl Configs {
    /// The diff IDs, base first, of the configuration that belongs to the container's chain (newest first): names move, so
    /// only a configuration whose chain IDs are the snapshots' own counts.
    fn proved(&mut self, container: &Container, chain: &[Digest]) -> Option<Vec<Digest>> {
        let base_first: Vec<Digest> = chain.iter().rev().copied().collect();
        container.configs.iter().find_map(|bytes| self.parse(bytes).filter(|diff_ids| proves(diff_ids, &base_first)))
    }

    fn parse(&mut self, bytes: &[u8]) -> Option<Vec<Digest>> {
        let program = &self.program;
        self.parsed
            .entry(Digest::of(bytes))
            .or_insert_with(|| {
                let config = program.parse_config(bytes).ok()?;
                config.diff_ids.iter().map(|diff_id| diff_id.parse().ok()).collect()
            })
            .clone()
    }
}

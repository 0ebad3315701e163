//! Details of one container: the chain of its snapshots, its mounts, its image's configuration.

use std::time::Duration;

use containerd_client::services::v1::snapshots::{Info, Kind, MountsRequest, StatSnapshotRequest, UsageRequest};
use containerd_client::services::v1::{GetContainerRequest, ListContentRequest, ReadContentRequest};
use outcrop_proto::{Container, Coverage, CoverageState, Mount};
use tonic::Code;

use super::client::{CALL_TIMEOUT, Client, about, within};
use super::record;
use super::snapshotter::{self, REMOTE_LABEL};
use crate::runtime::{Error, Pin};

/// Maximum size of an image configuration, bytes. Real ones have a few kilobytes.
pub const MAX_CONFIG: usize = 4 << 20;

/// Maximum number of configurations per container. Several match when images differ in their configurations only.
pub const MAX_CONFIGS: usize = 4;

/// Maximum length of a chain of snapshots; overlayfs accepts at most 500 layers.
const MAX_CHAIN: usize = 512;

/// Maximum time of all requests for one container.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time of the requests for the size of one image. It is a convenience, which must not cost a description.
const SIZE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of layers whose size is remembered.
const MAX_SIZES: usize = 4096;

/// Reason why a container was not described: its coverage, or an error that concerns all containers.
enum Stop {
    Refused(Coverage),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Client {
    /// Adds the chain, mounts and configurations of a container of [`Client::plan`], or the reason why it is not read. `None` when it has
    /// been removed meanwhile. An error means that further requests are useless.
    pub async fn describe(&mut self, mut container: Container) -> Result<Option<Container>, Error> {
        if container.sandbox {
            return Ok(Some(container));
        }
        if self.slow.contains(&container.storage_driver) {
            let name = &container.storage_driver;
            container.refused = Some(Coverage::failed(format!("snapshotter {name:?} did not respond in time before")));
            return Ok(Some(container));
        }
        let filled = tokio::time::timeout(DESCRIBE_TIMEOUT, self.fill(&mut container)).await;
        let slow = || {
            Stop::Error(Error::Slow(format!("describing container {:?}", container.key.id), DESCRIBE_TIMEOUT.as_secs()))
        };
        match filled.unwrap_or_else(|_| Err(slow())) {
            Ok(()) => {}
            Err(Stop::Refused(coverage)) => container.refused = Some(coverage),
            Err(Stop::Error(error)) if error.is_fatal() => return Err(error),
            Err(Stop::Error(error)) => {
                if error.is_not_found() && self.current(&container).await?.is_none() {
                    return Ok(None);
                }
                if matches!(error, Error::Slow(..)) {
                    self.slow.insert(container.storage_driver.clone());
                }
                container.refused = Some(Coverage::failed(error.to_string()));
            }
        }
        Ok(Some(container))
    }

    /// Returns whether the container still has the same snapshots as when it was described; `false` when it is gone.
    pub async fn recheck(&mut self, pin: &Pin) -> Result<bool, Error> {
        in_time(pin, self.has_not_changed(pin)).await
    }

    /// Returns whether the container's snapshots still exist, even if the container is gone.
    pub async fn stand(&mut self, pin: &Pin) -> Result<bool, Error> {
        in_time(pin, self.snapshots_exist(pin)).await
    }

    async fn has_not_changed(&self, pin: &Pin) -> Result<bool, Error> {
        let Some((snapshotter, key)) = self.get(&pin.key.namespace, &pin.key.id).await? else {
            return Ok(false);
        };
        if (snapshotter.as_str(), key.as_str()) != (pin.storage_driver.as_str(), pin.storage_id.as_str()) {
            return Ok(false);
        }
        match self.chain(&pin.key.namespace, &snapshotter, &key).await {
            Ok(walk) => Ok(walk.parents == pin.chain),
            Err(Stop::Refused(_)) => Ok(false),
            Err(Stop::Error(error)) if error.is_not_found() => Ok(false),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    async fn snapshots_exist(&self, pin: &Pin) -> Result<bool, Error> {
        let Some((top, below)) = pin.chain.split_first() else { return Ok(false) };
        let info = match self.stat(&pin.key.namespace, &pin.storage_driver, top).await {
            Ok(info) => info,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        let walk = self.parents(&pin.key.namespace, &pin.storage_driver, info.parent).await;
        match walk {
            Ok(walk) => Ok(info.kind == i32::from(Kind::Committed) && walk.parents == below),
            Err(Stop::Refused(_)) => Ok(false),
            Err(Stop::Error(error)) if error.is_not_found() => Ok(false),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    async fn fill(&mut self, container: &mut Container) -> Result<(), Stop> {
        let name = container.storage_driver.clone();
        let refused = snapshotter::may_ask(&name).err();
        if name.is_empty() || container.storage_id.is_empty() {
            return Err(Stop::Refused(
                refused.unwrap_or_else(|| Coverage::unsupported("the record names no snapshot")),
            ));
        }
        // The chain comes from containerd's own tables, so no snapshotter contacts a registry for it.
        let walk = self.chain(&container.key.namespace, &name, &container.storage_id).await;
        let walk = match (refused, walk) {
            (None, walk) => walk?,
            (Some(_), Err(Stop::Error(error))) if error.is_fatal() => return Err(error.into()),
            (Some(coverage), walk) => {
                container.chain = walk.map(|walk| walk.parents).unwrap_or_default();
                return Err(Stop::Refused(coverage));
            }
        };
        container.chain = walk.parents;
        if walk.remote {
            return Err(Stop::Refused(snapshotter::remote(&name)));
        }
        container.mounts = self.mounts(container).await?;
        container.configs = self.configs(container).await?;
        if !self.slow_sizes.contains(&name) {
            let size = tokio::time::timeout(SIZE_TIMEOUT, self.size(container)).await;
            if matches!(size, Err(_) | Ok(Err(Error::Slow(..)))) {
                self.slow_sizes.insert(name);
            }
            container.size = skip_unless_fatal(size.unwrap_or(Ok(0)))?;
        }
        Ok(())
    }

    /// Returns the disk space of the layers below the container's own, bytes. containerd measured each when it was unpacked, so it reads no
    /// layer for it.
    async fn size(&mut self, container: &Container) -> Result<u64, Error> {
        let mut size = 0_u64;
        for layer in &container.chain {
            let known = (container.storage_driver.clone(), layer.clone());
            let own = match self.sizes.get(&known) {
                Some(own) => *own,
                None => {
                    let own = self.usage(&container.key.namespace, &container.storage_driver, layer).await?;
                    if self.sizes.len() >= MAX_SIZES {
                        self.sizes.clear();
                    }
                    self.sizes.insert(known, own);
                    own
                }
            };
            size = size.saturating_add(own);
        }
        Ok(size)
    }

    async fn usage(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<u64, Error> {
        let question = UsageRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let doing = format!("requesting the size of snapshot {key:?} of {snapshotter:?}");
        let request = about(namespace, question)?;
        let answer = within(&doing, SIZE_TIMEOUT, self.snapshots().usage(request)).await?;
        Ok(answer.size.try_into().unwrap_or(0))
    }

    /// Returns the parents of a container's own snapshot, newest first.
    async fn chain(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<Walk, Stop> {
        let own = self.stat(namespace, snapshotter, key).await?;
        if !matches!(own.kind(), Kind::Active | Kind::View) {
            let reason = format!("the container's snapshot {key:?} is {:?}, not active", own.kind());
            return Err(Stop::Refused(Coverage::failed(reason)));
        }
        let mut walk = self.parents(namespace, snapshotter, own.parent).await?;
        walk.remote |= own.labels.contains_key(REMOTE_LABEL);
        Ok(walk)
    }

    /// Returns `parent` and all snapshots below it, newest first.
    async fn parents(&self, namespace: &str, snapshotter: &str, mut parent: String) -> Result<Walk, Stop> {
        let mut walk = Walk { parents: Vec::new(), remote: false };
        while !parent.is_empty() {
            // Snapshots cannot form a cycle; the bound holds even if they did.
            if walk.parents.len() == MAX_CHAIN {
                return Err(Stop::Refused(Coverage::new(
                    CoverageState::TooLarge,
                    format!("the chain has more than {MAX_CHAIN} snapshots"),
                )));
            }
            let info = self.stat(namespace, snapshotter, &parent).await?;
            walk.remote |= info.labels.contains_key(REMOTE_LABEL);
            walk.parents.push(std::mem::replace(&mut parent, info.parent));
        }
        Ok(walk)
    }

    async fn stat(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<Info, Error> {
        let question = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let doing = format!("reading snapshot {key:?} of {snapshotter:?}");
        let request = about(namespace, question)?;
        let answer = within(&doing, CALL_TIMEOUT, self.snapshots().stat(request)).await?;
        Ok(answer.info.unwrap_or_default())
    }

    async fn mounts(&self, container: &Container) -> Result<Vec<Mount>, Error> {
        let Container { key, storage_driver: snapshotter, storage_id: snapshot_key, .. } = container;
        let question = MountsRequest { snapshotter: snapshotter.clone(), key: snapshot_key.clone() };
        let doing = format!("requesting the mounts of {snapshot_key:?} of {snapshotter:?}");
        let request = about(&key.namespace, question)?;
        let answer = within(&doing, CALL_TIMEOUT, self.snapshots().mounts(request)).await?;
        let mount = |wire: containerd_client::types::Mount| Mount {
            kind: wire.r#type,
            source: wire.source,
            target: wire.target,
            options: wire.options,
        };
        Ok(answer.mounts.into_iter().map(mount).collect())
    }

    /// Returns image configurations that may be this container's: those that containerd linked to the top of the chain when it unpacked
    /// them, otherwise the one that the CRI plugin recorded. The image's *name* is not followed, since names move.
    ///
    /// A missing configuration costs the proof of identity only, so only a lost connection is an error.
    async fn configs(&self, container: &Container) -> Result<Vec<Vec<u8>>, Error> {
        let mut digests = match tied(&container.storage_driver, container.chain.first()) {
            Some(filter) => skip_unless_fatal(self.labelled(&container.key.namespace, filter).await)?,
            None => Vec::new(),
        };
        digests.sort();
        if let Some(own) = &container.image_ref {
            match digests.iter().position(|digest| digest == own) {
                Some(at) => digests.swap(0, at),
                None if digests.is_empty() => digests.push(own.clone()),
                None => {}
            }
        }
        let mut configs = Vec::new();
        for digest in digests.iter().take(MAX_CONFIGS) {
            configs.extend(skip_unless_fatal(self.blob(&container.key.namespace, digest).await)?);
        }
        Ok(configs)
    }

    /// Returns the digests of the blobs that match a filter, without those that are too large.
    async fn labelled(&self, namespace: &str, filter: String) -> Result<Vec<String>, Error> {
        let doing = "finding the image's config";
        let failed = |status| Error::call(doing, status);
        let request = about(namespace, ListContentRequest { filters: vec![filter] })?;
        let collect = async {
            let mut stream = self.content().list(request).await.map_err(failed)?.into_inner();
            let mut digests = Vec::new();
            while let Some(message) = stream.message().await.map_err(failed)? {
                let fits =
                    message.info.into_iter().filter(|info| usize::try_from(info.size).is_ok_and(|n| n <= MAX_CONFIG));
                // The container's own configuration is one of several with the same layers.
                digests.extend(fits.map(|info| info.digest).take(1024_usize.saturating_sub(digests.len())));
            }
            Ok(digests)
        };
        tokio::time::timeout(CALL_TIMEOUT, collect)
            .await
            .map_err(|_| Error::Slow(doing.into(), CALL_TIMEOUT.as_secs()))?
    }

    /// Returns a blob's bytes; `None` when it is missing or larger than [`MAX_CONFIG`].
    async fn blob(&self, namespace: &str, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let doing = "reading the image's config";
        let failed = |status| Error::call(doing, status);
        // One byte more than the maximum shows that the blob is larger.
        let question = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: MAX_CONFIG as i64 + 1 };
        let request = about(namespace, question)?;
        let collect = async {
            let mut stream = self.content().read(request).await.map_err(failed)?.into_inner();
            let mut bytes = Vec::new();
            while let Some(message) = stream.message().await.map_err(failed)? {
                if message.data.len() > MAX_CONFIG - bytes.len() {
                    return Ok(None);
                }
                bytes.extend_from_slice(&message.data);
            }
            Ok(Some(bytes))
        };
        tokio::time::timeout(CALL_TIMEOUT, collect)
            .await
            .map_err(|_| Error::Slow(doing.into(), CALL_TIMEOUT.as_secs()))?
    }

    /// Returns the current snapshotter and snapshot key of a container; `None` when it is gone.
    async fn get(&self, namespace: &str, id: &str) -> Result<Option<(String, String)>, Error> {
        let request = about(namespace, GetContainerRequest { id: id.to_owned() })?;
        let doing = format!("reading container {id:?}");
        match within(&doing, CALL_TIMEOUT, self.containers().get(request)).await {
            Ok(answer) => Ok(answer.container.map(|wire| (wire.snapshotter, wire.snapshot_key))),
            Err(Error::Call(_, status)) if status.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn current(&self, container: &Container) -> Result<Option<(String, String)>, Error> {
        self.get(&container.key.namespace, &container.key.id).await
    }
}

/// Limits the time of all requests of a check: a chain has hundreds of snapshots.
async fn in_time(pin: &Pin, check: impl Future<Output = Result<bool, Error>>) -> Result<bool, Error> {
    let slow = || Error::Slow(format!("checking container {:?}", pin.key.id), DESCRIBE_TIMEOUT.as_secs());
    tokio::time::timeout(DESCRIBE_TIMEOUT, check).await.unwrap_or_else(|_| Err(slow()))
}

/// Result of a walk over the parents. Labels are checked for one key and dropped: remote snapshotters store pull secrets there.
struct Walk {
    parents: Vec<String>,
    remote: bool,
}

/// Returns the filter for configurations that containerd linked to the top of a chain; `None` where a name cannot be quoted.
fn tied(snapshotter: &str, top: Option<&String>) -> Option<String> {
    let top = top.filter(|top| record::is_digest(top))?;
    let plain = snapshotter.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    plain.then(|| format!("labels.\"containerd.io/gc.ref.snapshot.{snapshotter}\"==\"{top}\""))
}

fn skip_unless_fatal<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    result.or_else(|error| if error.is_fatal() { Err(error) } else { Ok(T::default()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_can_stand_in_a_filter_are_put_into_one() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let filter = tied("overlayfs", Some(&digest)).unwrap();
        assert_eq!(filter, format!("labels.\"containerd.io/gc.ref.snapshot.overlayfs\"==\"{digest}\""));
        assert_eq!(tied("over\"lay", Some(&digest)), None);
        assert_eq!(tied("overlayfs", Some(&"x\",name==y".to_owned())), None);
        assert_eq!(tied("overlayfs", None), None);
    }
}

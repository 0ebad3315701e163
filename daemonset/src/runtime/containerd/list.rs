//! Lists containers.

use std::collections::{HashMap, HashSet};

use containerd_client::services::v1::{
    Container as Wire, ListContainersRequest, ListNamespacesRequest, ListTasksRequest,
};
use containerd_client::types::v1::Status as TaskStatus;
use outcrop_proto::{Container, Status};
use tonic::Code;

use super::client::{CALL_TIMEOUT, Client, LIST_TIMEOUT, about, within};
use super::record::{self, Record};
use crate::runtime::Error;

/// Maximum number of containers on a node; a kubelet starts 110 pods by default.
const MAX_CONTAINERS: usize = 50_000;

impl Client {
    /// Lists the containers of the given containerd namespaces, of all where none is given, with their details.
    ///
    /// The list contains containers with a task that has not ended, containers that have ended while their sandbox runs, and the
    /// sandboxes themselves (marked, without details). Sorted by key.
    pub async fn list(&mut self, namespaces: &[String]) -> Result<Vec<Container>, Error> {
        let mut described = Vec::new();
        for container in self.plan(namespaces).await? {
            described.extend(self.describe(container).await?);
        }
        Ok(described)
    }

    /// Lists the same containers without details, which [`Client::describe`] adds.
    pub async fn plan(&mut self, namespaces: &[String]) -> Result<Vec<Container>, Error> {
        let mut planned = Vec::new();
        for namespace in self.chosen(namespaces).await? {
            let room = MAX_CONTAINERS.saturating_sub(planned.len());
            // Tasks after containers: a container that ends in between counts as ended, and no running container is missed.
            let records = self.records(&namespace, room).await?;
            let running = self.running(&namespace).await?;
            planned.extend(alive(records, &running));
        }
        planned.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(planned)
    }

    /// Returns the given namespaces, which must exist, or all.
    async fn chosen(&self, named: &[String]) -> Result<Vec<String>, Error> {
        let mut client = self.namespaces();
        let call = client.list(ListNamespacesRequest::default());
        let answer = within("listing namespaces", CALL_TIMEOUT, call).await?;
        let existing: Vec<String> = answer.namespaces.into_iter().map(|namespace| namespace.name).collect();
        if named.is_empty() {
            return Ok(existing);
        }
        if let Some(missing) = named.iter().find(|name| !existing.contains(name)) {
            return Err(Error::NoNamespace(missing.clone(), existing));
        }
        let mut once = named.to_vec();
        once.sort();
        once.dedup();
        Ok(once)
    }

    async fn records(&self, namespace: &str, room: usize) -> Result<Vec<Record>, Error> {
        let doing = format!("listing the containers of namespace {namespace}");
        let streamed = tokio::time::timeout(LIST_TIMEOUT, self.stream(namespace, room, &doing)).await;
        match streamed.map_err(|_| Error::Slow(doing.clone(), LIST_TIMEOUT.as_secs()))? {
            // containerd before 1.2, and compatible servers.
            Err(Error::Call(_, status)) if status.code() == Code::Unimplemented => {}
            records => return records,
        }
        let request = about(namespace, ListContainersRequest::default())?;
        let answer = within(&doing, LIST_TIMEOUT, self.containers().list(request)).await?;
        if answer.containers.len() > room {
            return Err(Error::TooMany(MAX_CONTAINERS));
        }
        Ok(answer.containers.into_iter().map(|wire| record::read(namespace, wire)).collect())
    }

    /// Reads one record at a time and drops its OCI specification before the next one arrives.
    async fn stream(&self, namespace: &str, room: usize, doing: &str) -> Result<Vec<Record>, Error> {
        let failed = |status| Error::call(doing, status);
        let request = about(namespace, ListContainersRequest::default())?;
        let mut stream = self.containers().list_stream(request).await.map_err(failed)?.into_inner();
        let mut records = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            if records.len() == room {
                return Err(Error::TooMany(MAX_CONTAINERS));
            }
            records.extend(message.container.map(|wire: Wire| record::read(namespace, wire)));
        }
        Ok(records)
    }

    /// Returns the IDs of containers whose task has not ended.
    async fn running(&self, namespace: &str) -> Result<HashSet<String>, Error> {
        let request = about(namespace, ListTasksRequest::default())?;
        let doing = format!("listing the tasks of namespace {namespace}");
        let answer = within(&doing, LIST_TIMEOUT, self.tasks().list(request)).await?;
        // containerd reports `unknown` for a shim that does not answer; its processes may run.
        let ended = TaskStatus::Stopped as i32;
        Ok(answer.tasks.into_iter().filter(|task| task.status != ended).map(|task| task.id).collect())
    }
}

/// Drops containers that have ended for good, and sets the status of the others.
fn alive(records: Vec<Record>, running: &HashSet<String>) -> Vec<Container> {
    let known: HashSet<String> = records.iter().map(|record| record.container.key.id.clone()).collect();
    let mut newest: HashMap<(String, String), u32> = HashMap::new();
    for Record { container, sandbox_id, attempt } in &records {
        if let Some(sandbox_id) = sandbox_id {
            let newest = newest.entry((sandbox_id.clone(), container.name.clone())).or_default();
            *newest = (*newest).max(*attempt);
        }
    }
    let mut alive = Vec::new();
    for Record { mut container, sandbox_id, attempt } in records {
        if running.contains(&container.key.id) {
            container.status = Status::Running;
        } else {
            // A sandbox without a container record is kept by another sandbox controller (containerd 2.x, for virtual
            // machines), and its containers are removed with it.
            let Some(sandbox_id) = sandbox_id.filter(|id| running.contains(id) || !known.contains(id)) else {
                continue;
            };
            // A restarted container: the kubelet keeps the old one for its logs.
            if newest.get(&(sandbox_id, container.name.clone())).is_some_and(|newest| *newest > attempt) {
                continue;
            }
        }
        alive.push(container);
    }
    alive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, sandbox: Option<&str>) -> Record {
        let wire = Wire { id: id.into(), ..Default::default() };
        Record { sandbox_id: sandbox.map(String::from), ..record::read("k8s.io", wire) }
    }

    fn attempt(id: &str, sandbox: &str, attempt: u32) -> Record {
        let mut record = Record { attempt, ..record(id, Some(sandbox)) };
        record.container.name = "crash".to_owned();
        record
    }

    #[test]
    fn what_has_ended_counts_while_its_sandbox_lives() {
        let records = vec![
            record("pause-a", None),
            record("init-a", Some("pause-a")),
            record("web-a", Some("pause-a")),
            record("pause-b", None),
            record("job-b", Some("pause-b")),
            record("ctr-run", None),
            record("ctr-ended", None),
            record("in-a-vm", Some("no-record")),
            // Started again twice, and about to be a third time.
            attempt("crash-0", "pause-a", 0),
            attempt("crash-1", "pause-a", 1),
            attempt("crash-2", "pause-a", 2),
        ];
        let running = ["pause-a", "web-a", "ctr-run"].map(String::from).into();
        let alive: Vec<_> = alive(records, &running).into_iter().map(|c| (c.key.id, c.status)).collect();
        let expected = [
            ("pause-a", Status::Running),
            ("init-a", Status::Exited),
            ("web-a", Status::Running),
            ("ctr-run", Status::Running),
            ("in-a-vm", Status::Exited),
            ("crash-2", Status::Exited),
        ];
        assert_eq!(alive, expected.map(|(id, status)| (id.to_owned(), status)));
    }
}

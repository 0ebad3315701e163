//! Lists containers.
//!
//! A list consists of several requests to containerd, some of which may be slow or fail while the others work: containerd asks every
//! shim for its tasks, and one namespace may be far larger than another. Each request has a deadline of its own, and what it does not
//! answer is a [`Gap`] of the list.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use containerd_client::services::v1::{
    Container as Wire, ListContainersRequest, ListNamespacesRequest, ListTasksRequest,
};
use containerd_client::types::v1::Status as TaskStatus;
use outcrop_proto::{Container, Status};
use tonic::Code;

use super::client::{CALL_TIMEOUT, Client, about, within};
use super::record::{self, Record};
use crate::runtime::{Error, Gap, Lacks, Plan};

/// Maximum number of containers on a node; a kubelet starts 110 pods by default.
const MAX_CONTAINERS: usize = 50_000;

/// Maximum time of all lists of containers and tasks for one plan. The sibling waits two minutes for its response.
const PLAN_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause before a list that did not arrive in time is requested again, since everything else waits meanwhile.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// A list that did not arrive in time.
#[derive(Debug)]
pub(super) struct Slow {
    since: Instant,
    reason: String,
}

impl Client {
    /// Lists the containers of the given containerd namespaces, of all where none is given, with their details.
    ///
    /// The list contains containers with a task that has not ended, containers that have ended while their sandbox runs, and the
    /// sandboxes themselves (marked, without details). Sorted by key.
    pub async fn list(&mut self, namespaces: &[String]) -> Result<Plan, Error> {
        let Plan { containers, gaps } = self.plan(namespaces).await?;
        let mut described = Vec::new();
        for container in containers {
            described.extend(self.describe(container).await?);
        }
        Ok(Plan { containers: described, gaps })
    }

    /// Lists the same containers without details, which [`Client::describe`] adds.
    ///
    /// If a namespace's tasks cannot be listed, its containers are listed as running, except for those that had ended before.
    pub async fn plan(&mut self, namespaces: &[String]) -> Result<Plan, Error> {
        let deadline = Instant::now() + PLAN_TIMEOUT;
        let mut plan = Plan::default();
        let mut chosen = self.chosen(namespaces, &mut plan.gaps).await?;
        // A namespace that was slow before cannot take the time of the others.
        chosen.sort_by_key(|namespace| self.slow_lists.keys().any(|(_, slow)| slow == namespace));
        for namespace in chosen {
            let room = MAX_CONTAINERS.saturating_sub(plan.containers.len());
            let mut records = Vec::new();
            let mut gap = self.skip(Lacks::Containers, &namespace, deadline);
            if gap.is_none() {
                let listed = self.records(&namespace, room, deadline, &mut records).await;
                gap = self.conclude(Lacks::Containers, &namespace, listed)?;
            }
            // Tasks after containers: a container that ends in between counts as ended, and no running container is missed.
            let mut running = None;
            if gap.is_none() {
                gap = self.skip(Lacks::States, &namespace, deadline);
            }
            if gap.is_none() {
                let listed = self.running(&namespace, deadline).await.map(|ids| running = Some(ids));
                gap = self.conclude(Lacks::States, &namespace, listed)?;
            }
            plan.containers.extend(self.alive(&namespace, records, running.as_ref()));
            plan.gaps.extend(gap);
        }
        let drivers = self.slow.iter().map(|name| Gap {
            lacks: Lacks::Details,
            namespace: name.clone(),
            reason: format!("snapshotter {name:?} did not respond in time; it is tried again within 10 minutes"),
        });
        plan.gaps.extend(drivers);
        plan.containers.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(plan)
    }

    /// Returns the gap of a list that is not requested now: it was slow a moment ago, or no time is left for it.
    fn skip(&self, lacks: Lacks, namespace: &str, deadline: Instant) -> Option<Gap> {
        let slow = self.slow_lists.get(&(lacks, namespace.to_owned()));
        let reason = match slow.filter(|slow| slow.since.elapsed() < SLOW_PAUSE) {
            Some(slow) => slow.reason.clone(),
            None if Instant::now() < deadline => return None,
            None => format!(
                "listing namespace {namespace}: not requested, since other lists took {} s",
                PLAN_TIMEOUT.as_secs()
            ),
        };
        Some(Gap { lacks, namespace: namespace.to_owned(), reason })
    }

    /// Returns the gap that a failed list leaves; an error that concerns every request is passed on.
    fn conclude(&mut self, lacks: Lacks, namespace: &str, listed: Result<(), Error>) -> Result<Option<Gap>, Error> {
        let key = (lacks, namespace.to_owned());
        self.slow_lists.remove(&key);
        let Err(error) = listed else { return Ok(None) };
        if error.is_fatal() {
            return Err(error);
        }
        let reason = error.to_string();
        if matches!(error, Error::Slow(..)) {
            self.slow_lists.insert(key, Slow { since: Instant::now(), reason: reason.clone() });
        }
        Ok(Some(Gap { lacks, namespace: namespace.to_owned(), reason }))
    }

    /// Returns the given namespaces, which must exist, or all.
    async fn chosen(&mut self, named: &[String], gaps: &mut Vec<Gap>) -> Result<Vec<String>, Error> {
        let mut client = self.namespaces();
        let call = client.list(ListNamespacesRequest::default());
        let existing: Vec<String> = match within("listing namespaces", CALL_TIMEOUT, call).await {
            Ok(answer) => answer.namespaces.into_iter().map(|namespace| namespace.name).collect(),
            // If this smallest of all requests is slow, containerd is: other lists would only take longer to fail.
            Err(error) if error.is_fatal() || matches!(error, Error::Slow(..)) || self.known_namespaces.is_empty() => {
                return Err(error);
            }
            Err(error) => {
                let reason = error.to_string();
                gaps.push(Gap { lacks: Lacks::Namespaces, namespace: String::new(), reason });
                std::mem::take(&mut self.known_namespaces)
            }
        };
        self.known_namespaces.clone_from(&existing);
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

    /// Returns the maximum time of the next list.
    fn limit(&self, deadline: Instant) -> Duration {
        self.list_timeout.min(deadline.saturating_duration_since(Instant::now()))
    }

    /// Appends the records of a namespace's containers to `records`; after an error, those that arrived before.
    async fn records(
        &self,
        namespace: &str,
        room: usize,
        deadline: Instant,
        records: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let doing = format!("listing the containers of namespace {namespace}");
        let limit = self.limit(deadline);
        let streamed = tokio::time::timeout(limit, self.stream(namespace, room, &doing, records)).await;
        match streamed.map_err(|_| Error::Slow(doing.clone(), limit.as_secs()))? {
            // containerd before 1.2, and compatible servers.
            Err(Error::Call(_, status)) if status.code() == Code::Unimplemented => {}
            streamed => return streamed,
        }
        let request = about(namespace, ListContainersRequest::default())?;
        let answer = within(&doing, self.limit(deadline), self.containers().list(request)).await?;
        if answer.containers.len() > room {
            return Err(Error::TooMany(MAX_CONTAINERS));
        }
        records.extend(answer.containers.into_iter().map(|wire| record::read(namespace, wire)));
        Ok(())
    }

    /// Reads one record at a time and drops its OCI specification before the next one arrives.
    async fn stream(&self, namespace: &str, room: usize, doing: &str, records: &mut Vec<Record>) -> Result<(), Error> {
        let failed = |status| Error::call(doing, status);
        let request = about(namespace, ListContainersRequest::default())?;
        let mut stream = self.containers().list_stream(request).await.map_err(failed)?.into_inner();
        while let Some(message) = stream.message().await.map_err(failed)? {
            if records.len() == room {
                return Err(Error::TooMany(MAX_CONTAINERS));
            }
            records.extend(message.container.map(|wire: Wire| record::read(namespace, wire)));
        }
        Ok(())
    }

    /// Returns the IDs of containers whose task has not ended.
    async fn running(&self, namespace: &str, deadline: Instant) -> Result<HashSet<String>, Error> {
        let request = about(namespace, ListTasksRequest::default())?;
        let doing = format!("listing the tasks of namespace {namespace}");
        let answer = within(&doing, self.limit(deadline), self.tasks().list(request)).await?;
        // containerd reports `unknown` for a shim that does not answer; its processes may run.
        let ended = TaskStatus::Stopped as i32;
        Ok(answer.tasks.into_iter().filter(|task| task.status != ended).map(|task| task.id).collect())
    }

    /// Drops containers that have ended for good, and sets the status of the others. Where it is not known which ones run, those run that had
    /// not ended before.
    fn alive(
        &mut self,
        namespace: &str,
        mut records: Vec<Record>,
        running: Option<&HashSet<String>>,
    ) -> Vec<Container> {
        if running.is_none() {
            let ended = self.ended.get(namespace);
            records.retain(|record| ended.is_none_or(|ended| !ended.contains(&record.container.key.id)));
            return alive(records, None);
        }
        let mut ended: HashSet<String> = records.iter().map(|record| record.container.key.id.clone()).collect();
        let alive = alive(records, running);
        for container in &alive {
            ended.remove(&container.key.id);
        }
        self.ended.insert(namespace.to_owned(), ended);
        alive
    }
}

/// Drops containers that have ended for good, and sets the status of the others. If it is not known which ones run, only those that were
/// started again have ended.
fn alive(records: Vec<Record>, running: Option<&HashSet<String>>) -> Vec<Container> {
    let known: HashSet<String> = records.iter().map(|record| record.container.key.id.clone()).collect();
    let mut newest: HashMap<(String, String), u32> = HashMap::new();
    for Record { container, sandbox_id, attempt } in &records {
        if let Some(sandbox_id) = sandbox_id {
            let newest = newest.entry((sandbox_id.clone(), container.name.clone())).or_default();
            *newest = (*newest).max(*attempt);
        }
    }
    // The kubelet keeps the last container that ended for its logs.
    let is_superseded = |sandbox_id: &String, name: &str, attempt: u32| {
        newest.get(&(sandbox_id.clone(), name.to_owned())).is_some_and(|newest| *newest > attempt)
    };
    let mut alive = Vec::new();
    for Record { mut container, sandbox_id, attempt } in records {
        let runs = running.map(|running| running.contains(&container.key.id));
        if runs == Some(false) {
            // A sandbox without a container record is kept by another sandbox controller (containerd 2.x, for virtual
            // machines), and its containers are removed with it.
            let lives = |id: &&String| running.is_some_and(|running| running.contains(*id)) || !known.contains(*id);
            if sandbox_id.as_ref().filter(lives).is_none() {
                continue;
            }
        } else {
            container.status = Status::Running;
        }
        if runs != Some(true) && sandbox_id.is_some_and(|id| is_superseded(&id, &container.name, attempt)) {
            continue;
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
        let alive: Vec<_> = alive(records, Some(&running)).into_iter().map(|c| (c.key.id, c.status)).collect();
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

    #[test]
    fn without_a_list_of_tasks_only_what_was_started_again_has_ended() {
        let records = vec![
            record("pause-a", None),
            record("web-a", Some("pause-a")),
            record("ctr-run", None),
            attempt("crash-0", "pause-a", 0),
            attempt("crash-1", "pause-a", 1),
        ];
        let alive: Vec<_> = alive(records, None).into_iter().map(|c| (c.key.id, c.status)).collect();
        let expected = ["pause-a", "web-a", "ctr-run", "crash-1"];
        assert_eq!(alive, expected.map(|id| (id.to_owned(), Status::Running)));
    }
}

//! Documents of targets that keep files: each is written from the current state when a delivery that names it is sent.
//!
//! A file that the place has already is not written again: the store remembers the digest of each. The manifest is written last. Before a file that the
//! manifest names is replaced or removed, the manifest is replaced by one without it: whatever happens, a file that the manifest names is as it says.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::civil::Date;
use outcrop_proto::Digest;
use tracing::warn;

use super::Aggregator;
use super::delivering::Delivering;
use crate::deliver::document::{self, Manifest, Name, Place, PlaceError, Report};
use crate::deliver::{Answer, Family, SendError, Verdict, Workloads};
use crate::store::{
    DocumentRow, FindingRow, ListedPackage, PackageSetId, PackageSetState, Selects as _, StoreError, TargetId,
};
use crate::supervise::panic_message;

/// Rows that are read at once.
const PAGE: usize = 500;

/// Name of the row that says which place has the documents. No file has it.
const PLACE: &str = "";

/// Why a delivery was not accepted.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("reading the state: {0}; retried")]
    Store(#[from] StoreError),
    #[error("writing a document: {0}")]
    Content(#[from] std::io::Error),
}

/// A delivery of files while it is sent.
struct Sending<'a> {
    aggregator: &'a Aggregator,
    to: &'a Arc<Delivering>,
    target: TargetId,
    /// Paths that this delivery may change: a manifest that is not complete names none of them.
    touched: HashSet<String>,
    is_withdrawn: bool,
    accepted: Vec<DocumentRow>,
    removed: Vec<String>,
    /// Bytes that were written.
    bytes: u64,
}

impl Aggregator {
    /// Brings the files of a delivery up to date. Returns the answer of the place, and how many bytes it accepted.
    pub(super) async fn send_files(&self, to: &Arc<Delivering>, body: &[u8]) -> (Result<Answer, SendError>, u64) {
        let Ok(target) = to.id() else { return (Err(SendError("the target is not stored yet".to_owned())), 0) };
        let names = document::decode(body).unwrap_or_else(|error| {
            // The target was of another kind when this was stored. It gets a snapshot, which contains everything.
            warn!(target = to.config.name, %error, "delivery of another kind of target left out");
            Vec::new()
        });
        let mut sending = Sending {
            aggregator: self,
            to,
            target,
            touched: names.iter().flat_map(paths).collect(),
            is_withdrawn: false,
            accepted: Vec::new(),
            removed: Vec::new(),
            bytes: 0,
        };
        let outcome = match sending.all(&names).await {
            Ok(()) => Ok(Answer { status: 200, verdict: Verdict::Accepted, retry_after: None, text: String::new() }),
            Err(Undelivered::Place(PlaceError::Refused(answer))) => Ok(answer),
            Err(error) => Err(SendError(error.to_string())),
        };
        (outcome, sending.bytes)
    }

    /// Writes a marked file, and removes it.
    pub(super) async fn test_files(&self, to: &Arc<Delivering>, key: &str) -> Result<Answer, SendError> {
        let path = format!("outcrop-test-{key}.txt");
        let content = b"outcrop deliver test wrote this file, and removes it\n".to_vec();
        let tried = async {
            put(to, &path, content).await?;
            remove(to, &path).await
        };
        match tried.await {
            Ok(()) => {
                let text = format!("{path} was written and removed");
                Ok(Answer { status: 200, verdict: Verdict::Accepted, retry_after: None, text })
            }
            Err(PlaceError::Refused(answer)) => Ok(answer),
            Err(PlaceError::Failed(error)) => Err(error),
        }
    }

    /// Returns whether the report of a day has to be written.
    pub(super) async fn is_report_due(&self, to: &Delivering, day: Date) -> Result<bool, StoreError> {
        let Family::Files(place) = to.config.kind.family() else { return Ok(false) };
        if place.report_days() == 0 || to.state().reported == Some(day) {
            return Ok(false);
        }
        let is_there = self.store.document(to.id()?, &document::report(&day.to_string())).await?.is_some();
        if is_there {
            to.state().reported = Some(day);
        }
        Ok(!is_there)
    }
}

/// Returns the paths that a name stands for.
fn paths(name: &Name) -> Vec<String> {
    match name {
        Name::PackageSet(identity) => vec![document::sbom(identity), document::findings(identity)],
        Name::Findings(identity) => vec![document::findings(identity)],
        Name::Subject(subject) => vec![document::subject(subject)],
        Name::Report(day) => vec![document::report(day)],
        Name::Gone => Vec::new(),
    }
}

impl Sending<'_> {
    async fn all(&mut self, names: &[Name]) -> Result<(), Undelivered> {
        self.enter().await?;
        let mut outcome = Ok(());
        for name in names {
            outcome = self.one(name).await;
            if outcome.is_err() {
                break;
            }
        }
        // A failure does not undo this: accepted files are not sent again.
        let (accepted, removed) = (std::mem::take(&mut self.accepted), std::mem::take(&mut self.removed));
        self.aggregator.store.record_documents(self.target, &accepted, &removed).await?;
        outcome?;
        // The manifest of a part of a snapshot would have readers take the rest for gone.
        match self.aggregator.store.is_complete(self.target).await? {
            true => self.finish().await,
            false => Ok(()),
        }
    }

    /// Forgets the documents of another place.
    async fn enter(&mut self) -> Result<(), Undelivered> {
        let store = &self.aggregator.store;
        let digest = Digest::of(self.to.config.kind.identity().as_bytes());
        if store.document(self.target, PLACE).await?.is_some_and(|row| row.digest == digest) {
            return Ok(());
        }
        // One that is there from earlier use names files that are going to be replaced.
        let empty = Manifest::begin(store.cluster(), false)?.end();
        put(self.to, document::MANIFEST, empty).await?;
        store.forget_documents(self.target).await?;
        let row = DocumentRow { name: PLACE.to_owned(), digest, size: 0, remote: None, stale: false };
        Ok(store.record_documents(self.target, &[row], &[]).await?)
    }

    async fn one(&mut self, name: &Name) -> Result<(), Undelivered> {
        match name {
            Name::PackageSet(identity) | Name::Findings(identity) => {
                let digest: Option<Digest> = identity.parse().ok();
                let known = match digest {
                    Some(digest) => self.aggregator.store.told_package_set(self.target, &digest).await?,
                    None => None,
                };
                let Some((id, state)) = known else {
                    self.update(&document::sbom(identity), None).await?;
                    return self.update(&document::findings(identity), None).await;
                };
                if matches!(name, Name::PackageSet(_)) {
                    let bill = document::bill(&state, self.packages(id).await?);
                    self.update(&document::sbom(identity), Some(bill)).await?;
                }
                let lines = self.finding_lines(id, state).await?;
                self.update(&document::findings(identity), Some(lines.into_bytes())).await
            }
            Name::Subject(subject) => {
                let told = self.aggregator.store.told_containers(self.target, subject).await?;
                let content = if told.is_empty() { None } else { Some(document::containers(&told)?) };
                self.update(&document::subject(subject), content).await
            }
            Name::Report(day) => {
                let report = self.report().await?;
                self.update(&document::report(day), Some(report)).await?;
                self.remove_old_reports(day).await
            }
            Name::Gone => self.remove_gone().await,
        }
    }

    /// Returns the packages of a package set.
    async fn packages(&self, id: PackageSetId) -> Result<Vec<ListedPackage>, Undelivered> {
        let mut packages: Vec<ListedPackage> = Vec::new();
        loop {
            let after = packages.last().map(|last| (last.purl.as_str(), last.id, last.place));
            let page = self.aggregator.store.listed_packages(id, after, PAGE).await?;
            if page.is_empty() {
                return Ok(packages);
            }
            packages.extend(page);
        }
    }

    /// Returns the lines of a package set.
    async fn finding_lines(&self, id: PackageSetId, state: PackageSetState) -> Result<String, Undelivered> {
        let workloads = Workloads::new();
        let selection = self.to.config.filter.selection(&workloads);
        let mut findings: Vec<(FindingRow, i64)> = Vec::new();
        let mut after = 0;
        loop {
            let page = self.aggregator.store.open_findings(id, after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.verdict;
            findings.extend(page.into_iter().filter(|(row, _)| selection.finding(&row.event())));
        }
        Ok(document::finding_lines(state, findings)?)
    }

    async fn report(&self) -> Result<Vec<u8>, Undelivered> {
        let store = &self.aggregator.store;
        let database = store.last_rematch().await?.map(|(database, _)| database);
        let mut report = Report::begin(database)?;
        let mut after = 0;
        loop {
            let page = store.told_package_sets(self.target, after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (_, identity) in page {
                if let Some((id, state)) = store.told_package_set(self.target, &identity).await? {
                    report.push(&self.finding_lines(id, state).await?)?;
                }
            }
        }
        let mut after = 0;
        loop {
            let page = store.told_subjects(self.target, after, PAGE).await?;
            let Some((last, ..)) = page.last() else { break };
            after = *last;
            for (_, subject, package_sets) in page {
                report.subject(subject, package_sets)?;
            }
        }
        Ok(report.end()?)
    }

    /// Has the place have this content; `None` for no file.
    async fn update(&mut self, path: &str, content: Option<Vec<u8>>) -> Result<(), Undelivered> {
        let known = self.aggregator.store.document(self.target, path).await?;
        let Some(content) = content else {
            return match known {
                Some(_) => self.remove(path).await,
                None => Ok(()),
            };
        };
        let (digest, size) = (Digest::of(&content), content.len() as u64);
        if known.as_ref().is_some_and(|known| known.digest == digest && !known.stale) {
            return Ok(());
        }
        if known.is_some() {
            self.withdraw(path).await?;
        }
        put(self.to, path, content).await?;
        self.bytes = self.bytes.saturating_add(size);
        self.accepted.push(DocumentRow { name: path.to_owned(), digest, size, remote: None, stale: false });
        Ok(())
    }

    async fn remove(&mut self, path: &str) -> Result<(), Undelivered> {
        self.withdraw(path).await?;
        remove(self.to, path).await?;
        self.removed.push(path.to_owned());
        Ok(())
    }

    /// Replaces the manifest by one without the files that this delivery may change, if that did not happen yet.
    async fn withdraw(&mut self, path: &str) -> Result<(), Undelivered> {
        let is_new = self.touched.insert(path.to_owned());
        if self.is_withdrawn && !is_new {
            return Ok(());
        }
        // The store forgets the manifest first: after a crash in between, it is written again.
        let forgotten = [document::MANIFEST.to_owned()];
        self.aggregator.store.record_documents(self.target, &[], &forgotten).await?;
        let manifest = self.manifest(false).await?;
        put(self.to, document::MANIFEST, manifest).await?;
        self.is_withdrawn = true;
        Ok(())
    }

    /// Writes the manifest of all files.
    async fn finish(&mut self) -> Result<(), Undelivered> {
        let content = self.manifest(true).await?;
        let (digest, size) = (Digest::of(&content), content.len() as u64);
        let known = self.aggregator.store.document(self.target, document::MANIFEST).await?;
        if known.is_some_and(|known| known.digest == digest && !known.stale) {
            return Ok(());
        }
        put(self.to, document::MANIFEST, content).await?;
        self.bytes = self.bytes.saturating_add(size);
        let row = DocumentRow { name: document::MANIFEST.to_owned(), digest, size, remote: None, stale: false };
        Ok(self.aggregator.store.record_documents(self.target, &[row], &[]).await?)
    }

    async fn manifest(&self, complete: bool) -> Result<Vec<u8>, Undelivered> {
        let mut manifest = Manifest::begin(self.aggregator.store.cluster(), complete)?;
        for row in self.documents(PLACE, |row| row.name != document::MANIFEST).await? {
            if complete || !self.touched.contains(&row.name) {
                manifest.push(&row)?;
            }
        }
        Ok(manifest.end())
    }

    /// Returns documents of the target behind a name.
    async fn documents(
        &self,
        after: &str,
        is_wanted: impl Fn(&DocumentRow) -> bool,
    ) -> Result<Vec<DocumentRow>, StoreError> {
        let (mut rows, mut after) = (Vec::new(), after.to_owned());
        loop {
            let page = self.aggregator.store.documents(self.target, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(rows) };
            after.clone_from(&last.name);
            rows.extend(page.into_iter().filter(&is_wanted));
        }
    }

    /// Removes what a snapshot did not contain.
    async fn remove_gone(&mut self) -> Result<(), Undelivered> {
        let store = &self.aggregator.store;
        if !store.is_complete(self.target).await? {
            // It was replayed while another snapshot is being sent, which ends with another one.
            return Ok(());
        }
        let (accepted, removed) = (std::mem::take(&mut self.accepted), std::mem::take(&mut self.removed));
        store.record_documents(self.target, &accepted, &removed).await?;
        let is_file = |name: &str| name != document::MANIFEST && !name.starts_with(document::REPORTS);
        let stale = self.documents(PLACE, |row| row.stale && is_file(&row.name)).await?;
        if stale.is_empty() {
            return Ok(());
        }
        // A document of a delivery that was refused is stale and not gone.
        let mut current: HashSet<String> = HashSet::new();
        let mut after = 0;
        loop {
            let page = store.told_package_sets(self.target, after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            current.extend(page.iter().flat_map(|(_, identity)| paths(&Name::PackageSet(identity.to_string()))));
        }
        let mut after = 0;
        loop {
            let page = store.told_subjects(self.target, after, PAGE).await?;
            let Some((last, ..)) = page.last() else { break };
            after = *last;
            current.extend(page.iter().map(|(_, subject, _)| document::subject(subject)));
        }
        let gone: Vec<String> = stale.into_iter().map(|row| row.name).filter(|name| !current.contains(name)).collect();
        self.touched.extend(gone.iter().cloned());
        for path in gone {
            self.remove(&path).await?;
        }
        Ok(())
    }

    /// Removes reports that are older than the operator wants them.
    async fn remove_old_reports(&mut self, day: &str) -> Result<(), Undelivered> {
        let Family::Files(place) = self.to.config.kind.family() else { return Ok(()) };
        let days = i64::from(place.report_days());
        let Some(oldest) = day.parse::<Date>().ok().and_then(|day| oldest(day, days)) else { return Ok(()) };
        let oldest = document::report(&oldest.to_string());
        let reports = self.documents(PLACE, |row| row.name.starts_with(document::REPORTS) && row.name < oldest).await?;
        self.touched.extend(reports.iter().map(|row| row.name.clone()));
        for report in reports {
            self.remove(&report.name).await?;
        }
        Ok(())
    }
}

/// Returns the first of so many days, of which `day` is the last.
fn oldest(day: Date, days: i64) -> Option<Date> {
    day.checked_sub(jiff::Span::new().try_days(days.saturating_sub(1)).ok()?).ok()
}

/// Writes a file in a thread of its own.
async fn put(to: &Arc<Delivering>, path: &str, content: Vec<u8>) -> Result<(), PlaceError> {
    let path = path.to_owned();
    at_place(to, move |place, to| place.put(&to.client, &path, &content)).await
}

/// Removes a file in a thread of its own.
async fn remove(to: &Arc<Delivering>, path: &str) -> Result<(), PlaceError> {
    let path = path.to_owned();
    at_place(to, move |place, to| place.remove(&to.client, &path)).await
}

async fn at_place(
    to: &Arc<Delivering>,
    work: impl FnOnce(&dyn Place, &Delivering) -> Result<(), PlaceError> + Send + 'static,
) -> Result<(), PlaceError> {
    let to = Arc::clone(to);
    let done = tokio::task::spawn_blocking(move || match to.config.kind.family() {
        Family::Files(place) => work(place, &to),
        Family::Stream(_) | Family::Notifier(_) => Ok(()),
    });
    done.await.unwrap_or_else(|error| Err(SendError(panic_message(error)).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_kept_for_so_many_days_with_the_last_one() {
        let day: Date = "2026-03-01".parse().unwrap();
        let oldest = |days| super::oldest(day, days).unwrap().to_string();
        assert_eq!([1, 2, 90].map(oldest), ["2026-03-01", "2026-02-28", "2025-12-02"]);
    }
}

//! What a target is told next.
//!
//! A portion is computed from events behind the target's cursor, or from the state of everything in a snapshot. Findings are told by package
//! set: all of them before the first subject that has the package set is told of, and single ones after that. Everything is read in one
//! transaction, and nothing is written.

use std::collections::{HashMap, HashSet};

use outcrop_proto::Digest;
use sqlx::{Row as _, SqliteConnection};

use super::history::subject_id;
use super::questions::finding;
use super::stacks::{coverage, distribution};
use super::{Failure, count, digest, integer, json, optional_digest};
use crate::store::{
    Change, FindingChange, FindingRow, OutboxEvent, OutboxId, PackageSetId, PackageSetState, Portion, PortionLimit,
    Progress, Selects, SnapshotPlace, SubjectKey, Target, Told, VerdictId,
};

/// Events, subjects, conditions or findings that are read at once.
const PAGE: usize = 500;

/// Pages of events that one portion covers at most: of thousands of events the sum may be nothing.
const PAGES: usize = 20;

/// Size of a change without its texts, bytes.
const FRAME: usize = 300;

/// Prefix of the item of a finding, before the row ids of package set and verdict.
const FINDING: &str = "finding ";

/// Returns the id of the last event, whether or not it is still stored.
pub(super) async fn head(connection: &mut SqliteConnection) -> Result<OutboxId, Failure> {
    let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Returns what a target is told next.
pub(super) async fn next(
    connection: &mut SqliteConnection,
    target: Target,
    selects: &dyn Selects,
    limit: PortionLimit,
) -> Result<Portion, Failure> {
    let head = head(connection).await?;
    let progress = Progress { cursor: target.cursor, snapshot: target.snapshot.clone(), ..Progress::default() };
    let begins = target.snapshot == Some(SnapshotPlace::Begin);
    let known = if begins { HashMap::new() } else { known(connection, &target).await? };
    let before = progress.clone();
    let mut teller =
        Teller { connection, target: &target, selects, limit, head, known, told: Vec::new(), bytes: 0, progress };
    teller.tell().await?;
    let Teller { told, progress, .. } = teller;
    let progress = (progress != before || !told.is_empty()).then_some(progress);
    Ok(Portion { target, told, progress })
}

/// A package set that the target knows.
#[derive(Clone, Copy, Debug)]
struct Known {
    chain: Digest,
    head: OutboxId,
    /// The last verdict that it was told of; `None` if it was told of all.
    after: Option<VerdictId>,
}

/// Returns the package sets that the target knows.
async fn known(connection: &mut SqliteConnection, target: &Target) -> Result<HashMap<PackageSetId, Known>, Failure> {
    let sql = "SELECT package_set, chain, head, after FROM target_package_set WHERE target = ?";
    let rows = sqlx::query(sql).bind(target.id).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let known =
                Known { chain: digest(row, "chain")?, head: row.try_get("head")?, after: row.try_get("after")? };
            Ok((row.try_get("package_set")?, known))
        })
        .collect()
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Left,
    Full,
}

/// An event as it is stored.
#[derive(Debug)]
struct Stored {
    id: OutboxId,
    at: i64,
    item: Option<String>,
    event: OutboxEvent,
    /// Whether a later event is about the same item.
    is_superseded: bool,
    kind: String,
    /// The kind of the first event of the item that an earlier portion left out.
    first: Option<String>,
}

impl Stored {
    /// Returns package set and verdict of an event about a finding.
    fn finding(&self) -> Option<(PackageSetId, VerdictId)> {
        let (package_set, verdict) = self.item.as_deref()?.strip_prefix(FINDING)?.split_once(' ')?;
        Some((package_set.parse().ok()?, verdict.parse().ok()?))
    }
}

struct Teller<'a> {
    connection: &'a mut SqliteConnection,
    target: &'a Target,
    selects: &'a dyn Selects,
    limit: PortionLimit,
    head: OutboxId,
    known: HashMap<PackageSetId, Known>,
    told: Vec<Told>,
    bytes: usize,
    progress: Progress,
}

impl Teller<'_> {
    async fn tell(&mut self) -> Result<(), Failure> {
        let unfinished = self.known.iter().find_map(|(id, known)| known.after.map(|after| (*id, *known, after)));
        if let Some((id, known, after)) = unfinished
            && self.findings_of(id, known, after).await? == Room::Full
        {
            return Ok(());
        }
        match self.target.snapshot.clone() {
            Some(SnapshotPlace::Begin) => {
                self.begin().await?;
                self.subjects(0).await
            }
            Some(SnapshotPlace::Subjects(after)) => self.subjects(after).await,
            Some(SnapshotPlace::Conditions(after)) => self.conditions(after).await,
            None => {
                let room = self.events().await?;
                match room == Room::Left && self.told.is_empty() {
                    true => self.forget_unused().await,
                    false => Ok(()),
                }
            }
        }
    }

    fn room(&self) -> Room {
        let is_full = self.told.len() >= self.limit.changes || self.bytes >= self.limit.bytes;
        if is_full { Room::Full } else { Room::Left }
    }

    fn push(&mut self, at: Option<i64>, bytes: usize, change: Change) {
        self.bytes = self.bytes.saturating_add(FRAME).saturating_add(bytes);
        self.told.push(Told { at, change });
    }

    /// Begins a snapshot. What happens from now on is told after it.
    async fn begin(&mut self) -> Result<(), Failure> {
        let sql = "SELECT digest FROM rematch JOIN advisory_database ON advisory_database.id = database ORDER BY rematch.id DESC LIMIT 1";
        let row = sqlx::query(sql).fetch_optional(&mut *self.connection).await?;
        let database = row.map(|row| digest(&row, "digest")).transpose()?;
        self.push(None, 0, Change::SnapshotBegins { database });
        self.progress.begins = true;
        self.progress.cursor = self.head;
        Ok(())
    }

    /// Tells of subjects that have package sets, behind a row id.
    async fn subjects(&mut self, mut after: i64) -> Result<(), Failure> {
        loop {
            self.progress.snapshot = Some(SnapshotPlace::Subjects(after));
            let sql = "SELECT * FROM subject WHERE id > ? AND EXISTS
                (SELECT 1 FROM run WHERE run.subject = subject.id AND until IS NULL) ORDER BY id LIMIT ?";
            let rows = sqlx::query(sql).bind(after).bind(integer(PAGE)).fetch_all(&mut *self.connection).await?;
            if rows.is_empty() {
                return self.conditions(String::new()).await;
            }
            for row in &rows {
                let (id, key) = (row.try_get("id")?, super::history::subject(row)?);
                if self.room() == Room::Full || self.subject(Some(id), &key, None).await? == Room::Full {
                    return Ok(());
                }
                after = id;
                self.progress.snapshot = Some(SnapshotPlace::Subjects(after));
            }
        }
    }

    /// Tells of open conditions, and ends the snapshot.
    async fn conditions(&mut self, mut after: String) -> Result<(), Failure> {
        loop {
            self.progress.snapshot = Some(SnapshotPlace::Conditions(after.clone()));
            let sql =
                "SELECT condition FROM open_condition WHERE cluster = (SELECT cluster FROM meta) AND condition > ?
                ORDER BY condition LIMIT ?";
            let rows = sqlx::query(sql).bind(&after).bind(integer(PAGE)).fetch_all(&mut *self.connection).await?;
            if rows.is_empty() {
                self.push(None, 0, Change::SnapshotEnds);
                self.progress.snapshot = None;
                return Ok(());
            }
            for row in &rows {
                if self.room() == Room::Full {
                    return Ok(());
                }
                let text: &str = row.try_get(0)?;
                let condition: crate::store::Condition =
                    serde_json::from_str(text).map_err(|_| Failure::Damaged("a condition"))?;
                if self.selects.event(&condition.clone().ended()) {
                    self.push(None, text.len(), Change::Condition(condition));
                }
                text.clone_into(&mut after);
                self.progress.snapshot = Some(SnapshotPlace::Conditions(after.clone()));
            }
        }
    }

    /// Tells of events behind the cursor.
    async fn events(&mut self) -> Result<Room, Failure> {
        for _ in 0..PAGES {
            let events = self.page().await?;
            if events.is_empty() {
                return Ok(Room::Left);
            }
            let last = |event: &&Stored| !event.is_superseded && self.is_told_of(event);
            let wanted: Vec<_> = events.iter().filter(last).filter_map(Stored::finding).collect();
            let mut open = self.open_findings(&wanted).await?;
            for event in events {
                if self.room() == Room::Full {
                    return Ok(Room::Full);
                }
                let id = event.id;
                if self.event(event, &mut open).await? == Room::Full {
                    return Ok(Room::Full);
                }
                self.progress.cursor = id;
            }
        }
        Ok(Room::Full)
    }

    /// Returns the next events behind the cursor.
    async fn page(&mut self) -> Result<Vec<Stored>, Failure> {
        let sql =
            "SELECT id, at, item, kind, body, EXISTS (SELECT 1 FROM outbox AS later WHERE later.item = outbox.item
                AND later.id > outbox.id) AS superseded,
                (SELECT kind FROM target_pending WHERE target = ?1 AND target_pending.item = outbox.item) AS first
            FROM outbox WHERE id > ?2 ORDER BY id LIMIT ?3";
        let rows = sqlx::query(sql).bind(self.target.id).bind(self.progress.cursor).bind(integer(PAGE));
        let rows = rows.fetch_all(&mut *self.connection).await?;
        rows.iter()
            .map(|row| {
                let item: Option<String> = row.try_get("item")?;
                let event = serde_json::from_str(row.try_get("body")?);
                Ok(Stored {
                    id: row.try_get("id")?,
                    at: row.try_get("at")?,
                    is_superseded: row.try_get("superseded")?,
                    kind: row.try_get("kind")?,
                    first: row.try_get("first")?,
                    item,
                    event: event.map_err(|_| Failure::Damaged("an event"))?,
                })
            })
            .collect()
    }

    /// Returns whether the target knows the package set of an event, if it has one, and the event says something that it was not told.
    fn is_told_of(&self, event: &Stored) -> bool {
        match &event.event {
            OutboxEvent::WorkloadChanged { .. } | OutboxEvent::WorkloadGone { .. } => true,
            of => of.package_set().is_none_or(|set| self.known.get(&set).is_some_and(|known| event.id > known.head)),
        }
    }

    /// Tells of one event. If there is no room for all of it, nothing of it may be skipped.
    async fn event(
        &mut self,
        stored: Stored,
        open: &mut HashMap<(PackageSetId, VerdictId), (FindingRow, i64)>,
    ) -> Result<Room, Failure> {
        if !self.is_told_of(&stored) {
            return Ok(Room::Left);
        }
        let finding = stored.finding();
        let Stored { at, item, event, is_superseded, kind, first, .. } = stored;
        let left_out = item.as_ref().and_then(|item| self.progress.pending.get(item).cloned());
        let first = first.or(left_out).unwrap_or(kind);
        if let Some(item) = item {
            match is_superseded {
                true => {
                    self.progress.pending.entry(item).or_insert(first);
                    return Ok(Room::Left);
                }
                false => self.progress.settled.push(item),
            }
        }
        let is_opened = first == "finding-opened";
        match event {
            OutboxEvent::FindingOpened(last) | OutboxEvent::FindingChanged(last) => {
                let current = finding.and_then(|finding| open.remove(&finding));
                let chain = self.known.get(&last.package_set).map(|known| known.chain);
                if let (Some((row, opened)), Some(chain)) = (current, chain) {
                    let change = if is_opened { FindingChange::Opened } else { FindingChange::Changed };
                    self.finding(Some(at), change, chain, row, opened);
                }
            }
            OutboxEvent::FindingClosed(last) => {
                let chain = self.known.get(&last.package_set).map(|known| known.chain);
                if let Some(chain) = chain.filter(|_| !is_opened && self.selects.finding(&last)) {
                    let bytes = last.purl.len();
                    self.push(Some(at), bytes, Change::FindingClosed { package_set: chain, finding: last });
                }
            }
            OutboxEvent::WorkloadChanged { subject, .. } | OutboxEvent::WorkloadGone { subject } => {
                let id = subject_id(self.connection, &subject).await?;
                return self.subject(id, &subject, Some(at)).await;
            }
            OutboxEvent::InventoryReady { package_set, .. }
            | OutboxEvent::CoverageChanged { package_set: Some(package_set), .. } => {
                if let Some(state) = state(self.connection, package_set).await? {
                    let bytes = state.coverage.reason.len();
                    self.push(Some(at), bytes, Change::PackageSet { package_set: state, is_new: false });
                }
            }
            event => {
                // A condition that began and ended is not told.
                let is_over = event.condition().is_some_and(|(_, begins)| !begins)
                    && matches!(first.as_str(), "issue-opened" | "problem-raised");
                if !is_over && self.selects.event(&event) {
                    self.push(Some(at), FRAME, Change::Event(event));
                }
            }
        }
        Ok(Room::Left)
    }

    /// Tells of a finding that is open, or, if it is not selected, that it is not there.
    fn finding(&mut self, at: Option<i64>, change: FindingChange, chain: Digest, row: FindingRow, opened: i64) {
        let bytes = row.purl.len()
            + row.summary.len()
            + row.evidence.len()
            + row.aliases.iter().map(String::len).sum::<usize>();
        let event = row.event();
        match (self.selects.finding(&event), change) {
            (true, _) => {
                self.push(at, bytes, Change::Finding { change, package_set: chain, finding: row, opened });
            }
            (false, FindingChange::Changed) => {
                self.push(at, bytes, Change::FindingClosed { package_set: chain, finding: event });
            }
            (false, FindingChange::Present | FindingChange::Opened) => {}
        }
    }

    /// Tells of a subject with its package sets, where this is another state than it was told. Package sets that the target does not know come first.
    async fn subject(&mut self, id: Option<i64>, key: &SubjectKey, at: Option<i64>) -> Result<Room, Failure> {
        // One that was removed from the store has no package sets, and the target was told so.
        let Some(id) = id else { return Ok(Room::Left) };
        let has = match self.selects.subject(key) {
            true => self.package_sets_of(id).await?,
            false => Vec::new(),
        };
        let told: HashSet<PackageSetId> = match self.progress.begins {
            true => HashSet::new(),
            false => {
                let sql = "SELECT package_set FROM target_subject WHERE target = ? AND subject = ?";
                let rows = sqlx::query_scalar(sql).bind(self.target.id).bind(id);
                rows.fetch_all(&mut *self.connection).await?.into_iter().collect()
            }
        };
        if has.len() == told.len() && has.iter().all(|(set, _)| told.contains(set)) {
            return Ok(Room::Left);
        }
        for (set, chain) in &has {
            if !self.known.contains_key(set) && self.whole(*set, *chain).await? == Room::Full {
                return Ok(Room::Full);
            }
        }
        let (sets, package_sets): (Vec<PackageSetId>, Vec<Digest>) = has.into_iter().unzip();
        let subject = key.clone();
        let bytes = package_sets.len() * 72;
        let change = match package_sets.is_empty() {
            true => Change::SubjectGone { subject },
            false => Change::Subject { subject, package_sets },
        };
        self.push(at, bytes, change);
        self.progress.subjects.push((id, sets));
        Ok(Room::Left)
    }

    /// Returns the package sets of a subject, with their identities.
    async fn package_sets_of(&mut self, subject: i64) -> Result<Vec<(PackageSetId, Digest)>, Failure> {
        let sql = "SELECT DISTINCT package_set, chain FROM run JOIN stack ON stack.id = package_set
            WHERE subject = ? AND until IS NULL ORDER BY package_set";
        let rows = sqlx::query(sql).bind(subject).fetch_all(&mut *self.connection).await?;
        rows.iter().map(|row| Ok((row.try_get("package_set")?, digest(row, "chain")?))).collect()
    }

    /// Tells of a package set that the target does not know, and of its findings.
    async fn whole(&mut self, id: PackageSetId, chain: Digest) -> Result<Room, Failure> {
        if self.room() == Room::Full {
            return Ok(Room::Full);
        }
        let Some(state) = state(self.connection, id).await? else { return Ok(Room::Left) };
        self.push(None, state.coverage.reason.len(), Change::PackageSet { package_set: state, is_new: true });
        let known = Known { chain, head: self.head, after: Some(0) };
        self.findings_of(id, known, 0).await
    }

    /// Tells of the findings of a package set behind a verdict.
    async fn findings_of(&mut self, id: PackageSetId, known: Known, mut after: VerdictId) -> Result<Room, Failure> {
        let room = 'told: loop {
            let room = self.limit.changes.saturating_sub(self.told.len()).clamp(1, PAGE);
            let rows = open_findings(self.connection, id, after, room).await?;
            if rows.is_empty() {
                break Room::Left;
            }
            for (found, opened) in rows {
                if self.room() == Room::Full {
                    break 'told Room::Full;
                }
                after = found.verdict;
                self.finding(None, FindingChange::Present, known.chain, found, opened);
            }
        };
        let known = Known { after: (room == Room::Full).then_some(after), ..known };
        self.known.insert(id, known);
        self.progress.package_sets.retain(|(other, ..)| *other != id);
        self.progress.package_sets.push((id, known.chain, known.head, known.after));
        Ok(room)
    }

    /// Returns the open findings among these, with the times when they opened.
    async fn open_findings(
        &mut self,
        wanted: &[(PackageSetId, VerdictId)],
    ) -> Result<HashMap<(PackageSetId, VerdictId), (FindingRow, i64)>, Failure> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "{OPEN} JOIN json_each(?) AS wanted ON open.package_set = wanted.value ->> 0 AND open.verdict = wanted.value ->> 1
             WHERE open.closed IS NULL"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(json(&wanted)?).fetch_all(&mut *self.connection).await?;
        rows.iter()
            .map(|row| {
                let found = finding(row)?;
                Ok(((found.package_set, found.verdict), (found, row.try_get("opened")?)))
            })
            .collect()
    }

    /// Tells of package sets that no subject has any more.
    async fn forget_unused(&mut self) -> Result<(), Failure> {
        let sql = "SELECT package_set, chain FROM target_package_set AS known WHERE target = ?1 AND NOT EXISTS
            (SELECT 1 FROM target_subject AS has WHERE has.target = ?1 AND has.package_set = known.package_set) LIMIT ?2";
        let rows = sqlx::query(sql).bind(self.target.id).bind(integer(self.limit.changes));
        for row in rows.fetch_all(&mut *self.connection).await? {
            self.push(None, 0, Change::PackageSetGone { package_set: digest(&row, "chain")? });
            self.progress.gone.push(row.try_get("package_set")?);
        }
        Ok(())
    }
}

/// Returns the state of a package set; `None` if it is gone.
pub(super) async fn state(
    connection: &mut SqliteConnection,
    id: PackageSetId,
) -> Result<Option<PackageSetState>, Failure> {
    let sql = "SELECT chain, state, reason, packages, advisory_database.digest AS matched, os, version, codename,
            distribution.name AS distribution_name
        FROM stack JOIN package_set ON package_set.id = stack.id
        LEFT JOIN distribution ON distribution.id = package_set.distribution
        LEFT JOIN advisory_database ON advisory_database.id = matched WHERE stack.id = ?";
    let Some(row) = sqlx::query(sql).bind(id).fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(PackageSetState {
        identity: digest(&row, "chain")?,
        distribution: distribution(&row, "version")?,
        packages: count(&row, "packages")?,
        coverage: coverage(&row)?,
        matched: optional_digest(&row, "matched")?,
    }))
}

/// Returns open findings of a package set behind a verdict, with the times when they opened.
pub(super) async fn open_findings(
    connection: &mut SqliteConnection,
    id: PackageSetId,
    after: VerdictId,
    limit: usize,
) -> Result<Vec<(FindingRow, i64)>, Failure> {
    let sql = format!(
        "{OPEN} WHERE open.package_set = ? AND open.closed IS NULL AND open.verdict > ? ORDER BY open.verdict LIMIT ?"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).bind(after).bind(integer(limit));
    rows.fetch_all(connection).await?.iter().map(|row| Ok((finding(row)?, row.try_get("opened")?))).collect()
}

/// Findings for [`finding`], and when they opened.
const OPEN: &str = "SELECT open.package_set, verdict.id, rank, vulnerability, aliases, package.type, name, version, purl, paths,
        coalesce(place.layer, 0) AS layer, status, fixed, score, summary, open.opened
    FROM finding AS open JOIN verdict ON verdict.id = open.verdict JOIN package ON package.id = verdict.package
    LEFT JOIN package_set_package AS place ON place.package_set = open.package_set AND place.package = package.id AND place.place = 0
    LEFT JOIN evidence ON evidence.id = place.evidence";

//! A stack's inventories and answers → what is kept of it: pure, but for questions to the advisory database.

use jiff::civil::Date;
use outcrop_agent::catalog;
use outcrop_proto::wire::v1;
use outcrop_proto::{Answers, Digest, Distribution, Fact, Inventory, LayerId, StackPackage, merge};

use crate::advisory::{self, Database, DatabaseError, Subject};
use crate::export::purl;
use crate::store::{FindingRow, PackageRow, StackRow};

/// A stack to merge.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    pub(super) id: Digest,
    /// Newest first, as the inventories.
    pub(super) layers: &'a [LayerId],
    pub(super) inventories: &'a [Inventory],
    /// Whether overlay's marks could be seen in every layer.
    pub(super) marks: bool,
    /// What a node answered, if one was asked.
    pub(super) answers: Option<&'a v1::Answers>,
}

/// What comes of merging.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A node has to decide something first.
    Ask(v1::Check),
    /// What is kept.
    Done(Box<StackRow>),
}

/// Merges a stack and matches what it holds.
pub(super) fn merge_stack(
    stack: &Stack<'_>,
    database: Option<&Database>,
    today: Date,
) -> Result<Outcome, DatabaseError> {
    let inventories: Vec<&Inventory> = stack.inventories.iter().collect();
    let mut merged = merge(&inventories, catalog::KNOWN, &Answers::default());
    // A single layer hides nothing below it.
    let doubtful = if stack.marks || inventories.len() < 2 { Vec::new() } else { std::mem::take(&mut merged.doubtful) };
    let mut undecided = Vec::new();
    if !merged.unread.is_empty() || !doubtful.is_empty() {
        let Some(said) = stack.answers else {
            return Ok(Outcome::Ask(v1::Check {
                stack: stack.id.0.to_vec(),
                unread: merged.unread.into_iter().map(|unread| unread.path).collect(),
                doubtful,
            }));
        };
        // What nobody asked is not taken from an answer, and what was not answered stays open.
        let hidden = said.hidden.iter().filter(|path| doubtful.contains(path)).cloned().collect();
        let open = |path: &&Vec<u8>| said.undecided.iter().any(|undecided| undecided.path == **path);
        undecided = doubtful.iter().filter(open).cloned().collect();
        let asked = |path: &Vec<u8>| merged.unread.iter().any(|unread| unread.path == *path);
        let facts = said.answers.iter().filter(|answer| asked(&answer.path)).map(|answer| {
            let fact = match &answer.read {
                Some(v1::answer::Read::Fact(bytes)) => Fact::decode(bytes).map_err(|error| error.to_string()),
                Some(v1::answer::Read::Error(error)) => Err(error.clone()),
                None => Err("its node said nothing of it".to_owned()),
            };
            (answer.path.clone(), fact)
        });
        let answers = Answers { facts: facts.collect(), hidden };
        merged = merge(&inventories, catalog::KNOWN, &answers);
    }
    let distribution = merged.distribution.as_ref();
    let mut row = StackRow {
        id: stack.id,
        layers: stack.layers.to_vec(),
        answers: stack.answers.map(prost::Message::encode_to_vec),
        coverage: merged.coverage(&undecided),
        distribution: distribution.map(|distribution| distribution.name.clone()),
        packages: merged.packages.iter().map(|package| package_row(package, distribution)).collect(),
        withheld: 0,
        unidentified: merged.unidentified.len(),
        assessed: Vec::new(),
        findings: Vec::new(),
    };
    if let Some(database) = database {
        let packages = merged.packages.iter().map(|package| &package.package);
        let assessed = advisory::assess(database, distribution, packages, today)?;
        let words =
            |assessed: advisory::Assessed| (assessed.ecosystem, assessed.state.as_str().to_owned(), assessed.reason);
        row.assessed = assessed.into_iter().map(words).collect();
        let subjects: Vec<Subject<'_>> = merged.packages.iter().map(Subject::from).collect();
        let matched = advisory::match_packages(database, distribution, &subjects)?;
        row.withheld = matched.withheld.len();
        row.findings = matched
            .findings
            .into_iter()
            .filter_map(|finding| {
                let package = merged.packages.get(finding.package)?;
                Some(FindingRow {
                    id: finding.id,
                    aliases: finding.aliases,
                    package: package.package.name.clone(),
                    purl: purl(&package.package, distribution),
                    installed: package.package.version.clone(),
                    status: finding.status.as_str().to_owned(),
                    fixed: finding.fixed,
                    severity: finding.rating.severity.as_str().to_owned(),
                    score: finding.rating.score,
                    layer: u32::try_from(package.layer).unwrap_or(u32::MAX),
                    summary: finding.summary,
                })
            })
            .collect();
    }
    Ok(Outcome::Done(Box::new(row)))
}

fn package_row(package: &StackPackage, distribution: Option<&Distribution>) -> PackageRow {
    let evidence = package.evidence.first().map(|path| String::from_utf8_lossy(path)).unwrap_or_default();
    PackageRow {
        r#type: package.package.kind.as_str().to_owned(),
        name: package.package.name.clone(),
        version: package.package.version.clone(),
        purl: purl(&package.package, distribution),
        evidence: format!("/{evidence}"),
        layer: u32::try_from(package.layer).unwrap_or(u32::MAX),
    }
}

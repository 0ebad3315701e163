//! Tables as kubectl prints them: headings in upper case, columns as wide as their widest cell.

use unicode_width::UnicodeWidthStr as _;

use super::report::{Report, Target};
use super::text::escape;

/// Number of warnings shown per target.
const MAX_WARNINGS: usize = 10;

/// Maximum width of a column, characters, so that one long name does not widen every row.
const MAX_WIDTH: usize = 80;

/// Blanks between two columns.
const GAP: usize = 3;

/// A table that is written in parts. The first part determines the column widths.
#[derive(Debug)]
pub(super) struct Table {
    heads: Vec<&'static str>,
    /// Whether headers are written.
    with_heads: bool,
    widths: Option<Vec<usize>>,
}

impl Table {
    pub(super) fn new(heads: Vec<&'static str>, with_heads: bool) -> Self {
        Self { heads, with_heads, widths: None }
    }

    /// Formats the next rows, after the headers if they are the first. Cells are escaped.
    pub(super) fn rows(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| escape(cell).into_owned()).collect()).collect();
        let first = self.widths.is_none();
        let with_heads = self.with_heads && first;
        let heads = &self.heads;
        let widths = self.widths.get_or_insert_with(|| {
            let width = |(column, head): (usize, &&str)| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
                cells.chain(with_heads.then_some(head.len())).max().unwrap_or(0).min(MAX_WIDTH)
            };
            heads.iter().enumerate().map(width).collect()
        });
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (cell, width) in cells.zip(&*widths) {
                let pad = width.saturating_sub(cell.width()) + GAP;
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', pad));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        if with_heads {
            line(&mut heads.iter().copied());
        }
        for row in &rows {
            line(&mut row.iter().map(String::as_str));
        }
        out
    }
}

/// Formats headers and rows. Cells are escaped.
pub(super) fn table(heads: &[&'static str], rows: &[Vec<String>]) -> String {
    Table::new(heads.to_vec(), true).rows(rows)
}

/// Formats the packages of every target.
pub(super) fn packages(report: &Report) -> String {
    let mut out = String::new();
    for target in &report.targets {
        out.push_str(&head(target));
        let rows: Vec<Vec<String>> = target
            .packages
            .iter()
            .map(|package| {
                let evidence = package.evidence.first().cloned().unwrap_or_default();
                let owner = package.owner.clone().unwrap_or_default();
                vec![package.r#type.to_owned(), package.name.clone(), package.version.clone(), evidence, owner]
            })
            .collect();
        if !rows.is_empty() {
            out.push_str(&table(&["TYPE", "NAME", "VERSION", "EVIDENCE", "OWNER"], &rows));
        }
        out.push_str(&foot(target));
        out.push('\n');
    }
    out
}

/// Formats the findings of every target and their assessment.
pub(super) fn findings(report: &Report) -> String {
    let mut out = String::new();
    for target in &report.targets {
        out.push_str(&head(target));
        let mut rows: Vec<Vec<String>> = target
            .findings
            .iter()
            .map(|finding| {
                let note = match (&finding.withheld_for, finding.not_assessed_by_distribution) {
                    (Some(owner), _) => format!("withheld: owned by {owner}"),
                    (None, true) => "not assessed by the distribution".to_owned(),
                    (None, false) => finding.summary.chars().take(60).collect(),
                };
                vec![
                    finding.severity.to_string(),
                    finding.id.clone(),
                    finding.package.clone(),
                    finding.installed.clone(),
                    finding.status.as_str().to_owned(),
                    finding.fixed.clone().unwrap_or_default(),
                    note,
                ]
            })
            .collect();
        join_equal(&mut rows);
        if !rows.is_empty() {
            out.push_str(&table(&["SEVERITY", "ID", "PACKAGE", "INSTALLED", "STATUS", "FIXED IN", "SUMMARY"], &rows));
        }
        out.push_str(&foot(target));
        out.push('\n');
    }
    out
}

/// Joins equal rows that follow each other: the same version of a package at several paths, which the table does not show. The last cell counts them.
fn join_equal(rows: &mut Vec<Vec<String>>) {
    let mut joined: Vec<(Vec<String>, usize)> = Vec::new();
    for row in rows.drain(..) {
        match joined.last_mut() {
            Some((last, count)) if *last == row => *count += 1,
            _ => joined.push((row, 1)),
        }
    }
    rows.extend(joined.into_iter().map(|(mut row, count)| {
        if let Some(note) = row.last_mut().filter(|_| count > 1) {
            *note = format!("{count} places: {note}");
        }
        row
    }));
}

/// Formats the assessment of a target and the findings that are not shown.
fn foot(target: &Target) -> String {
    let mut out = String::new();
    for assessed in &target.assessed {
        let reason = match assessed.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        let line = format!("{}: {}{reason}", assessed.ecosystem, assessed.state.as_str());
        out.push_str(&format!("assessed: {}\n", escape(&line)));
    }
    if target.hidden > 0 {
        out.push_str(&format!(
            "hidden: {} more findings that --severity or --only-fixed excludes, including those without a severity\n",
            target.hidden
        ));
    }
    let shows_withheld = target.findings.iter().any(|finding| finding.withheld_for.is_some());
    if target.withheld > 0 && !shows_withheld {
        out.push_str(&format!(
            "withheld: {} findings of application packages owned by OS packages; use --owned to show them\n",
            target.withheld
        ));
    }
    if target.unidentified > 0 {
        out.push_str(&format!(
            "unidentified: {} packages without a name, which cannot be matched\n",
            target.unidentified
        ));
    }
    for warning in target.warnings.iter().take(MAX_WARNINGS) {
        out.push_str(&format!("warning: {}: {}\n", escape(&warning.path), escape(&warning.message)));
    }
    if let Some(more) = target.warnings.len().checked_sub(MAX_WARNINGS).filter(|more| *more > 0) {
        out.push_str(&format!("warning: {more} more; --output json lists them all\n"));
    }
    out
}

/// Formats the name and the coverage of a target in one line.
fn head(target: &Target) -> String {
    let subject = &target.subject;
    let place = [&subject.runtime_namespace, &subject.namespace, &subject.pod].into_iter().flatten();
    let name: Vec<&str> = place.chain([&subject.name]).map(String::as_str).collect();
    let image = subject.image.as_ref().map(|image| format!(", image {image}")).unwrap_or_default();
    let distro = target.distro.as_ref().map(|distro| format!(", {distro}")).unwrap_or_default();
    let reason = match target.coverage.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let (packages, findings) = (target.packages.len(), target.findings.len());
    let found = if target.assessed.is_empty() { String::new() } else { format!("{findings} findings, ") };
    let line =
        format!("{}{image}{distro}: {found}{packages} packages, {}{reason}", name.join("/"), target.coverage.state);
    format!("{}\n", escape(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let rows = [vec!["a\n".to_owned(), "1".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "X"], &rows), "NAME     X\na\\u{a}   1\nlonger\n");
        let mut rows = ["a", "a", "b", "a"].map(|note| vec!["x".to_owned(), note.to_owned()]).to_vec();
        join_equal(&mut rows);
        assert_eq!(rows, [["x", "2 places: a"], ["x", "b"], ["x", "a"]]);
        let wide = [vec!["日本".to_owned(), "1".to_owned()], vec!["abcd".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["A", "X"], &wide), "A      X\n日本   1\nabcd   2\n");
    }
}

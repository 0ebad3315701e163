//! Tables in kubectl's manner: upper-case heads, columns as wide as their widest cell, three blanks between.

use super::report::{Report, Target};
use super::text::escape;

/// Lays out rows below their heads. Cells are escaped.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escape(cell).into_owned()).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut heads.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// The packages of every target.
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
        for warning in &target.warnings {
            out.push_str(&format!("warning: {}: {}\n", escape(&warning.path), escape(&warning.message)));
        }
        out.push('\n');
    }
    out
}

/// What a target is, and how far it was seen: a line.
fn head(target: &Target) -> String {
    let subject = &target.subject;
    let place = [&subject.containerd_namespace, &subject.namespace, &subject.pod].into_iter().flatten();
    let name: Vec<&str> = place.chain([&subject.name]).map(String::as_str).collect();
    let image = subject.image.as_ref().map(|image| format!(", image {image}")).unwrap_or_default();
    let distro = target.distro.as_ref().map(|distro| format!(", {distro}")).unwrap_or_default();
    let reason = match target.coverage.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let count = target.packages.len();
    let line = format!("{}{image}{distro}: {count} packages, {}{reason}", name.join("/"), target.coverage.state);
    format!("{}\n", escape(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let rows = [vec!["a\n".to_owned(), "1".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "X"], &rows), "NAME     X\na\\u{a}   1\nlonger\n");
    }
}

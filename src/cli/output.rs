//! Lists as tables, JSON, YAML and CSV: page by page, so that a list of any length takes little memory. What a list says is data from
//! images; each form makes it harmless in its own way.

use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use serde_json::Value;

use super::table::Table;
use super::{Fatal, text};
use crate::store::RANKS;
use crate::web::is_treacherous;

/// Output format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Table
    Table,
    /// Table with additional columns
    Wide,
    /// JSON, as the API responds
    Json,
    /// The same document as YAML
    Yaml,
    /// CSV with the columns of wide
    Csv,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its head.
    pub(super) head: &'static str,
    /// Where its cell is in an item.
    pub(super) pointer: &'static str,
    /// Whether only wide tables have it.
    pub(super) wide: bool,
}

/// A column that every table has.
pub(super) const fn column(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, wide: false }
}

/// A column of wide tables.
pub(super) const fn wide(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, wide: true }
}

/// A value as a cell. Counts by severity are a map.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(counts) => {
            let known = RANKS.iter().filter_map(|severity| Some((*severity, counts.get(*severity)?)));
            let others = counts.iter().filter(|(key, _)| !RANKS.contains(&key.as_str()));
            let all = known.chain(others.map(|(key, count)| (key.as_str(), count)));
            all.map(|(key, count)| format!("{} {key}", cell(count))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A list that is being written.
#[derive(Debug)]
pub(super) struct List {
    format: Format,
    columns: Vec<Column>,
    table: Table,
    heads: bool,
    written: bool,
}

impl List {
    pub(super) fn new(format: Format, columns: &[Column], heads: bool) -> Self {
        let columns: Vec<Column> =
            columns.iter().filter(|column| !column.wide || format != Format::Table).copied().collect();
        let table = Table::new(columns.iter().map(|column| column.head).collect(), heads);
        Self { format, columns, table, heads, written: false }
    }

    fn cells(&self, item: &Value) -> Vec<String> {
        self.columns.iter().map(|column| item.pointer(column.pointer).map(cell).unwrap_or_default()).collect()
    }

    /// What comes next of the text, with these items.
    fn more(&mut self, items: &[Value]) -> String {
        let mut out = String::new();
        match self.format {
            Format::Table | Format::Wide => {
                let rows: Vec<_> = items.iter().map(|item| self.cells(item)).collect();
                if !rows.is_empty() {
                    out = self.table.rows(&rows);
                }
            }
            Format::Csv => {
                if !self.written && self.heads {
                    out.push_str(&csv(self.columns.iter().map(|column| column.head.to_lowercase().replace(' ', "_"))));
                }
                items.iter().for_each(|item| out.push_str(&csv(self.cells(item))));
            }
            Format::Json => {
                for (number, item) in items.iter().enumerate() {
                    out.push_str(if self.written || number > 0 { ",\n    " } else { "{\n  \"items\": [\n    " });
                    out.push_str(&json(item).replace('\n', "\n    "));
                }
            }
            Format::Yaml => {
                for (number, item) in items.iter().enumerate() {
                    out.push_str(if self.written || number > 0 { "- " } else { "items:\n- " });
                    yaml(item, 1, &mut out);
                }
            }
        }
        self.written |= !items.is_empty() || self.format == Format::Csv;
        out
    }

    fn end(&self) -> &'static str {
        match (self.format, self.written) {
            (Format::Json, true) => "\n  ]\n}\n",
            (Format::Json, false) => "{\n  \"items\": []\n}\n",
            (Format::Yaml, false) => "items: []\n",
            _ => "",
        }
    }

    /// Writes every page. Returns how many items there were; fewer where the reader went away.
    pub(super) fn write(mut self, pages: impl Iterator<Item = Result<Vec<Value>, Fatal>>) -> Result<usize, Fatal> {
        let mut count = 0;
        for page in pages {
            let page = page?;
            count += page.len();
            let text = self.more(&page);
            if !emit(&text)? {
                return Ok(count);
            }
        }
        emit(self.end())?;
        Ok(count)
    }
}

/// Writes to standard output. `false` when its reader went away, as `head` does.
pub(super) fn emit(text: &str) -> Result<bool, Fatal> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Fatal::failed(format!("writing to standard output: {error}"))),
    }
}

/// A line of CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)). A cell that a spreadsheet would take for a formula gets an apostrophe;
/// treacherous characters are escapes, as in a table.
fn csv(cells: impl IntoIterator<Item = String>) -> String {
    let cell = |cell: String| {
        let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let cell = format!("{}{}", if is_formula { "'" } else { "" }, text::escape(&cell));
        if cell.contains(['"', ',']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
    };
    let mut line = cells.into_iter().map(cell).collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

/// An answer that is no list as JSON, with a line's end.
pub(super) fn json_document(value: &Value) -> String {
    json(value) + "\n"
}

/// An answer that is no list as YAML.
pub(super) fn yaml_document(value: &Value) -> String {
    let mut out = String::new();
    yaml(value, 0, &mut out);
    out
}

/// JSON that a terminal can be shown: the same value, with treacherous characters as escapes. They can be in strings only.
fn json(value: &Value) -> String {
    let plain = format!("{value:#}");
    let mut out = String::with_capacity(plain.len());
    let mut units = [0; 2];
    for character in plain.chars() {
        if character != '\n' && is_treacherous(character) {
            character.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(character);
        }
    }
    out
}

/// A value as YAML, behind what stands on the line already; ends with a line's end.
fn yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (number, (key, value)) in map.iter().enumerate() {
                if number > 0 {
                    out.push_str(&indent);
                }
                out.push_str(&scalar(key));
                out.push(':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push_str(&format!("\n{indent}  "));
                        yaml(value, depth + 1, out);
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        out.push('\n');
                        for item in inner {
                            out.push_str(&format!("{indent}- "));
                            yaml(item, depth + 1, out);
                        }
                    }
                    _ => {
                        out.push(' ');
                        yaml(value, depth, out);
                    }
                }
            }
        }
        Value::String(text) => {
            out.push_str(&scalar(text));
            out.push('\n');
        }
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// A string as YAML: as it is where nothing could take it for anything else, else in double quotes with escapes.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|character: char| character.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'));
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            other if is_treacherous(other) => out.push_str(&format!("\\U{:08X}", u32::from(other))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A note beside an answer that a program reads, or below one that a person does.
pub(super) fn note(format: Format, note: &str) -> Result<(), Fatal> {
    let line = format!("{}\n", text::escape(note));
    if matches!(format, Format::Table | Format::Wide) {
        emit(&line)?;
    } else {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "=cmd|'/c calc'!A1\",\r\n\u{1b}[2J\u{202e}\u{e0041}<script>: - ";

    fn all(format: Format, pages: &[Vec<Value>]) -> String {
        let columns = [column("NAME", "/name"), wide("MORE WORDS", "/more")];
        let mut list = List::new(format, &columns, true);
        let text: String = pages.iter().map(|page| list.more(page)).collect();
        text + list.end()
    }

    #[test]
    fn every_form_says_the_same_whatever_an_image_says() {
        let one =
            json!({ "name": HOSTILE, "more": [HOSTILE, null, 1.5, true], "map": { HOSTILE: {}, "b": { "c": [] } } });
        let two = json!({ "name": "no", "more": [], "list": [{ "a": 1, "b": [[1, 2], ["x"]] }] });
        let whole = json!({ "items": [one, two] });
        let pages = [vec![one], vec![], vec![two]];
        let json_text = all(Format::Json, &pages);
        assert_eq!(serde_json::from_str::<Value>(&json_text).unwrap(), whole, "{json_text}");
        let yaml_text = all(Format::Yaml, &pages);
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml_text).unwrap(), whole, "{yaml_text}");
        let csv = all(Format::Csv, &pages);
        assert!(csv.starts_with("name,more_words\r\n\"'=cmd|"), "{csv}");
        let csv = csv.replace("\r\n", "\n");
        for text in [csv, json_text, yaml_text, all(Format::Table, &pages), all(Format::Wide, &pages)] {
            assert!(!text.chars().any(|character| character != '\n' && is_treacherous(character)), "{text:?}");
        }
        assert!(all(Format::Table, &pages).starts_with("NAME\n"));
        assert!(!all(Format::Table, &pages).contains("MORE"), "not wide");
    }

    #[test]
    fn nothing_is_a_list_too() {
        for (format, text) in [
            (Format::Table, ""),
            (Format::Json, "{\n  \"items\": []\n}\n"),
            (Format::Yaml, "items: []\n"),
            (Format::Csv, "name,more_words\r\n"),
        ] {
            assert_eq!(all(format, &[vec![]]), text);
        }
    }

    #[test]
    fn no_cell_of_csv_is_a_formula() {
        for (cell, line) in [
            ("=1", "'=1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\ta", "'\\u{9}a"),
            ("\ra", "'\\u{d}a"),
            ("a=1", "a=1"),
            ("a,\"b\"\n", "\"a,\"\"b\"\"\\u{a}\""),
            ("", ""),
        ] {
            assert_eq!(csv([cell.to_owned()]), format!("{line}\r\n"));
        }
    }

    proptest! {
        #[test]
        fn yaml_and_json_give_back_every_string(text in any::<String>()) {
            let value = json!({ text.clone(): [text] });
            let mut out = String::new();
            yaml(&value, 0, &mut out);
            prop_assert_eq!(serde_saphyr::from_str::<Value>(&out).unwrap(), value.clone(), "{}", out);
            prop_assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
        }
    }
}

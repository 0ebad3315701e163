//! Lists as tables, JSON, YAML and CSV, written page by page so that a list of any length takes little memory.
//!
//! Responses contain text from images. Each format escapes it in its own way, so that no character controls the terminal or becomes a formula.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use outcrop_proto::escape::{escape_json, is_treacherous};
use outcrop_proto::{SeverityCounts, Word};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::client::Pages;
use super::table::Table;
use super::{Fatal, text};
use crate::export::csv_line;
use crate::web::Open;

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

/// Output format of a single object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ObjectFormat {
    /// Table
    Table,
    /// JSON, as the API responds
    Json,
    /// The same document as YAML
    Yaml,
}

/// A column of a table of `T`.
#[derive(Debug)]
pub(super) struct Column<T> {
    /// Heading.
    pub(super) head: &'static str,
    /// Returns the text of the cell for one item.
    pub(super) cell: fn(&T) -> String,
    /// Whether only wide tables contain it.
    pub(super) wide: bool,
}

/// Creates a column that every table contains.
pub(super) const fn column<T>(head: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { head, cell, wide: false }
}

/// Creates a column that only wide tables contain.
pub(super) const fn wide<T>(head: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { head, cell, wide: true }
}

/// A field of an answer as the text of a cell.
pub(super) trait Cell {
    /// Returns the text; empty for a missing value.
    fn cell(&self) -> String;
}

macro_rules! cell_by_display {
    ($($type:ty),+) => {
        $(impl Cell for $type {
            fn cell(&self) -> String {
                self.to_string()
            }
        })+
    };
}

cell_by_display!(bool, f64, i64, u32, u64, str, String);

impl<W: Word> Cell for Open<W> {
    fn cell(&self) -> String {
        self.as_str().to_owned()
    }
}

impl<T: Cell> Cell for Option<T> {
    fn cell(&self) -> String {
        self.as_ref().map(Cell::cell).unwrap_or_default()
    }
}

impl<T: Cell> Cell for Vec<T> {
    fn cell(&self) -> String {
        self.iter().map(Cell::cell).collect::<Vec<_>>().join(", ")
    }
}

impl Cell for SeverityCounts {
    fn cell(&self) -> String {
        counts(self.iter())
    }
}

impl<K: Display> Cell for BTreeMap<K, u64> {
    fn cell(&self) -> String {
        counts(self.iter().map(|(key, count)| (key, *count)))
    }
}

/// Returns counts as text: `2 high, 1 low`.
fn counts<K: Display>(counts: impl Iterator<Item = (K, u64)>) -> String {
    counts.map(|(key, count)| format!("{count} {key}")).collect::<Vec<_>>().join(", ")
}

/// Number of hexadecimal digits that the table shows of a digest, as Docker and crictl do.
const SHORT_DIGEST: usize = 12;

/// Shortens a cell that is an identity, which ends with a digest: `diff:sha256:0123456789ab`. The API finds a layer by this text, too.
fn shortened(mut cell: String) -> String {
    let is_digest = cell.rsplit_once("sha256:").is_some_and(|(kind, digits)| {
        matches!(kind, "" | "diff:" | "chain:")
            && digits.len() == 64
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    if is_digest {
        cell.truncate(cell.len() - (64 - SHORT_DIGEST));
    }
    cell
}

/// Writes a list of `T` as a table or as CSV.
struct Rows<'a, T> {
    columns: Vec<&'a Column<T>>,
    /// The table; `None` for CSV.
    table: Option<Table>,
    /// Whether a line with headings is still to be written, for CSV.
    heads: bool,
    /// Whether digests are shortened.
    short: bool,
}

impl<'a, T> Rows<'a, T> {
    fn new(format: Format, columns: &'a [Column<T>], heads: bool) -> Self {
        let columns: Vec<&Column<T>> =
            columns.iter().filter(|column| !column.wide || format != Format::Table).collect();
        let table = Table::new(columns.iter().map(|column| column.head).collect(), heads);
        Self { columns, table: (format != Format::Csv).then_some(table), heads, short: format == Format::Table }
    }

    /// Returns the text for the next items.
    fn more(&mut self, items: &[T]) -> Result<String, Fatal> {
        let cell = |column: &&Column<T>, item| {
            let cell = (column.cell)(item);
            if self.short { shortened(cell) } else { cell }
        };
        let rows = items.iter().map(|item| self.columns.iter().map(|column| cell(column, item)).collect());
        let rows: Vec<Vec<String>> = rows.collect();
        match &mut self.table {
            Some(_) if rows.is_empty() => Ok(String::new()),
            Some(table) => Ok(table.rows(&rows)),
            None => {
                let head = |column: &&Column<T>| column.head.to_lowercase().replace(' ', "_");
                let heads = std::mem::take(&mut self.heads).then(|| self.columns.iter().map(head).collect());
                csv(heads.into_iter().chain(rows))
            }
        }
    }
}

/// Writes a list as the API sent it, in JSON or YAML.
#[derive(Debug)]
struct Documents {
    yaml: bool,
    /// Whether an item is written.
    written: bool,
}

impl Documents {
    /// Returns the text for the next items.
    fn more(&mut self, items: &[Value]) -> Result<String, Fatal> {
        let mut out = String::new();
        for item in items {
            if self.yaml {
                out.push_str(if self.written { "" } else { "items:\n" });
                // A sequence of one item: its lines continue the sequence below `items`.
                out.push_str(&yaml(&Value::Array(vec![item.clone()]))?);
            } else {
                out.push_str(if self.written { ",\n    " } else { "{\n  \"items\": [\n    " });
                out.push_str(&json(item).replace('\n', "\n    "));
            }
            self.written = true;
        }
        Ok(out)
    }

    /// Returns the text that ends the list.
    const fn end(&self) -> &'static str {
        match (self.yaml, self.written) {
            (false, true) => "\n  ]\n}\n",
            (false, false) => "{\n  \"items\": []\n}\n",
            (true, true) => "",
            (true, false) => "items: []\n",
        }
    }
}

/// Writes every page of the list at `path`. Returns the number of items, or of those written before the reader of standard output
/// went away.
pub(super) fn write_list<T: DeserializeOwned>(
    pages: &Pages<'_>,
    columns: &[Column<T>],
    format: Format,
    heads: bool,
) -> Result<usize, Fatal> {
    match format {
        Format::Json | Format::Yaml => {
            let mut documents = Documents { yaml: format == Format::Yaml, written: false };
            let (count, is_read) = write_pages(pages, |items| documents.more(items))?;
            if is_read {
                emit(documents.end())?;
            }
            Ok(count)
        }
        Format::Table | Format::Wide | Format::Csv => {
            let mut rows = Rows::new(format, columns, heads);
            Ok(write_pages(pages, |items| rows.more(items))?.0)
        }
    }
}

/// Writes each page as `text` formats it. Returns the number of items, and whether standard output still has a reader.
fn write_pages<T: DeserializeOwned>(
    pages: &Pages<'_>,
    mut text: impl FnMut(&[T]) -> Result<String, Fatal>,
) -> Result<(usize, bool), Fatal> {
    let mut count = 0;
    for page in pages.iter::<T>() {
        let page = page?;
        count += page.len();
        if !emit(&text(&page)?)? {
            return Ok((count, false));
        }
    }
    Ok((count, true))
}

/// Writes to standard output. Returns `false` if its reader went away, as `head` does.
pub(super) fn emit(text: &str) -> Result<bool, Fatal> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Fatal::failed(format!("writing to standard output: {error}"))),
    }
}

/// Returns lines of CSV.
fn csv(rows: impl Iterator<Item = Vec<String>>) -> Result<String, Fatal> {
    let line = |row: Vec<String>| csv_line(row.iter().map(String::as_str));
    rows.map(line).collect::<Result<_, _>>().map_err(|error| Fatal::failed(format!("writing CSV: {error}")))
}

/// Returns an answer that is not a list as JSON.
pub(super) fn json_document(value: &Value) -> String {
    json(value) + "\n"
}

/// Returns an answer that is not a list as YAML.
pub(super) fn yaml_document(value: &Value) -> Result<String, Fatal> {
    yaml(value)
}

/// Returns `value` as JSON in which characters that could mislead are escaped.
fn json(value: &Value) -> String {
    escape_json(&format!("{value:#}")).into_owned()
}

/// A value whose strings are double-quoted in YAML where they contain characters that could mislead: only there YAML has escapes.
struct Quoted<'a>(&'a Value);

impl Serialize for Quoted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) if text.contains(is_treacherous) => {
                serde_saphyr::DoubleQuoted(text).serialize(serializer)
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Quoted)),
            Value::Object(map) => {
                serializer.collect_map(map.iter().map(|(key, value)| (text::escape(key), Quoted(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

/// Returns `value` as YAML in which characters that could mislead are escaped.
fn yaml(value: &Value) -> Result<String, Fatal> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let plain = serde_saphyr::to_string_with_options(&Quoted(value), options)
        .map_err(|error| Fatal::failed(format!("writing YAML: {error}")))?;
    let mut out = String::with_capacity(plain.len());
    for character in plain.chars() {
        // The characters that YAML does not escape by itself; they are in double-quoted strings only.
        if character != '\n' && is_treacherous(character) {
            out.push_str(&format!("\\U{:08X}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    Ok(out)
}

/// Writes a line to standard error, beside an answer in any format.
pub(super) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text::escape(text));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "=cmd|'/c calc'!A1\",\r\n\u{1b}[2J\u{202e}\u{e0041}<script>: - ";

    /// An item whose name and whose list of words come from an image.
    #[derive(serde::Deserialize)]
    struct Item {
        name: String,
        more: Vec<Option<String>>,
    }

    fn all(format: Format, pages: &[Vec<Value>]) -> String {
        let columns = [column("NAME", |item: &Item| item.name.cell()), wide("MORE WORDS", |item| item.more.cell())];
        let mut rows = Rows::new(format, &columns, true);
        let mut documents = Documents { yaml: format == Format::Yaml, written: false };
        let page = |page: &Vec<Value>| match format {
            Format::Json | Format::Yaml => documents.more(page).unwrap(),
            _ => rows.more(&serde_json::from_value::<Vec<Item>>(page.clone().into()).unwrap()).unwrap(),
        };
        let text: String = pages.iter().map(page).collect();
        let end = if matches!(format, Format::Json | Format::Yaml) { documents.end() } else { "" };
        text + end
    }

    #[test]
    fn every_format_contains_the_same_whatever_an_image_contains() {
        let one = json!({ "name": HOSTILE, "more": [HOSTILE, null], "map": { "a": {}, "b": { "c": [] } }, "number": 1.5, "flag": true });
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
    fn the_table_shortens_identities_and_nothing_else() {
        let digits = "0123456789abcdef".repeat(4);
        for (cell, short) in [
            (format!("sha256:{digits}"), "sha256:0123456789ab".to_owned()),
            (format!("diff:sha256:{digits}"), "diff:sha256:0123456789ab".to_owned()),
            (format!("example.org/shop@sha256:{digits}"), format!("example.org/shop@sha256:{digits}")),
            (format!("sha256:{digits}0"), format!("sha256:{digits}0")),
            (digits.clone(), digits.clone()),
        ] {
            assert_eq!(shortened(cell.clone()), short);
            let page = vec![json!({ "name": cell, "more": [] })];
            assert!(all(Format::Wide, std::slice::from_ref(&page)).contains(&cell));
            assert!(all(Format::Table, &[page]).ends_with(&format!("{short}\n")));
        }
    }

    #[test]
    fn an_empty_list_is_valid_in_every_format() {
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
            let row = vec![cell.to_owned(), String::new()];
            assert_eq!(csv([row].into_iter()).unwrap(), format!("{line},\r\n"));
        }
    }

    proptest! {
        #[test]
        fn yaml_and_json_give_back_every_string(text in any::<String>()) {
            let value = json!({ "key": [text, { "text": text }] });
            let out = yaml(&value).unwrap();
            prop_assert_eq!(serde_saphyr::from_str::<Value>(&out).unwrap(), value.clone(), "{}", out);
            prop_assert!(!out.chars().any(|character| character != '\n' && is_treacherous(character)), "{:?}", out);
            prop_assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
        }
    }
}

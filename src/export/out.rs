//! The text of a document, written piece by piece.

use outcrop_proto::escape::escape_json;
use serde::Serialize;

/// Text that is written and not yet taken. JSON is written with commas where they belong, one item of a list on each line.
#[derive(Debug, Default)]
pub(super) struct Out {
    text: String,
    /// For each open list or object, whether it has an item.
    open: Vec<bool>,
}

impl Out {
    /// Returns what was written since the last call.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Returns the size of what was written since then, in bytes.
    pub(super) fn size(&self) -> usize {
        self.text.len()
    }

    /// Appends text that is not JSON.
    pub(super) fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Begins an object or a list: `{` or `[`, as an item of the open list or the whole document.
    pub(super) fn begin(&mut self, bracket: char) {
        self.separate();
        self.text.push(bracket);
        self.open.push(false);
    }

    /// Begins a list or an object that is the field `name`.
    pub(super) fn begin_field(&mut self, name: &'static str, bracket: char) {
        self.name(name);
        self.text.push(bracket);
        self.open.push(false);
    }

    /// Ends an object or a list.
    pub(super) fn end(&mut self, bracket: char) {
        self.open.pop();
        self.text.push(bracket);
        if self.open.is_empty() {
            self.text.push('\n');
        }
    }

    /// Writes a field of the open object.
    pub(super) fn field(&mut self, name: &'static str, value: &impl Serialize) {
        self.name(name);
        self.value(value);
    }

    /// Writes an item of the open list.
    pub(super) fn item(&mut self, value: &impl Serialize) {
        self.separate();
        self.value(value);
    }

    fn name(&mut self, name: &'static str) {
        self.separate();
        self.value(&name);
        self.text.push(':');
    }

    fn separate(&mut self) {
        if let Some(has_item) = self.open.last_mut() {
            self.text.push_str(if *has_item { ",\n" } else { "\n" });
            *has_item = true;
        }
    }

    fn value(&mut self, value: &impl Serialize) {
        // Plain data with text as keys is always JSON.
        let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
        self.text.push_str(&escape_json(&json));
    }
}

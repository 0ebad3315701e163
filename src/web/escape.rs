//! HTML, in which untrusted text is escaped.

use outcrop_proto::escape::is_treacherous;

/// A page of HTML. Markup is always a constant of the program, which its type ensures; all other text is escaped.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text between tags or within a quoted attribute, escaped.
    pub(super) fn text(&mut self, text: impl std::fmt::Display) -> &mut Self {
        for character in text.to_string().chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other if is_treacherous(other) => self.0.extend(other.escape_unicode()),
                other => self.0.push(other),
            }
        }
        self
    }

    /// Appends a table.
    pub(super) fn table(
        &mut self,
        headings: &[&'static str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> &mut Self {
        self.raw("<table><thead><tr>");
        for heading in headings {
            self.raw("<th scope=\"col\">").text(heading).raw("</th>");
        }
        self.raw("</tr></thead><tbody>\n");
        for row in rows {
            self.raw("<tr>");
            for cell in row {
                self.raw("<td>").text(cell).raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody></table>\n")
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_becomes_markup_or_leaves_an_attribute(text in any::<String>()) {
            let mut html = Html::default();
            html.text(&text);
            let html = html.finish();
            prop_assert!(!html.contains(['<', '>', '"', '\'']) && !html.contains(is_treacherous), "{html}");
            let plain = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            prop_assert_eq!(plain.replace("&amp;", "&").contains(is_treacherous), false);
            if !text.contains(is_treacherous) {
                prop_assert_eq!(plain.replace("&amp;", "&"), text);
            }
        }
    }
}

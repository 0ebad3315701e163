//! Flags of every command that prints a list.

use serde::de::DeserializeOwned;

use super::Fatal;
use super::client::{Client, Parameters};
use super::output::{Column, Format, remark, write_list};

#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// Maximum number of items; default: all
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    limit: Option<usize>,

    /// Omit the header row of table, wide and csv
    #[arg(long)]
    no_headers: bool,
}

impl Listing {
    /// Rejects `--limit 0` before a request is sent.
    pub(super) fn check(&self) -> Result<(), Fatal> {
        if self.limit == Some(0) {
            Err(Fatal::usage("invalid value 0 for --limit: expected a number greater than 0"))
        } else {
            Ok(())
        }
    }

    /// Prints the list at `path`, page by page. Returns the number of items. If `--limit` leaves items out, a line on standard error says so.
    pub(super) fn write<T: DeserializeOwned>(
        &self,
        client: &Client,
        path: &str,
        query: Parameters,
        columns: &[Column<T>],
        format: Format,
    ) -> Result<usize, Fatal> {
        let pages = client.pages(path, query, self.limit);
        let count = write_list(&pages, columns, format, !self.no_headers)?;
        if pages.has_more() {
            let items = if count == 1 { "item".to_owned() } else { format!("{count} items") };
            remark(&format!("--limit shows the first {items}; there are more"));
        }
        Ok(count)
    }
}

//! Flags shared by the commands that print a list.

use super::Fatal;
use super::client::{Client, Parameters};
use super::output::{Column, Format, List};

#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// Maximum number of items; default: all
    #[arg(long, value_name = "COUNT")]
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

    /// Writes the list at `path` page by page. Returns the number of items.
    pub(super) fn write(
        &self,
        client: &Client,
        path: &str,
        query: Parameters,
        columns: &[Column],
        format: Format,
    ) -> Result<usize, Fatal> {
        List::new(format, columns, !self.no_headers).write(client.pages(path, query, self.limit))
    }
}

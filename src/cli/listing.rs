//! What every command that lists something can be told.

use super::Fatal;
use super::client::{Client, Parameters};
use super::output::{Column, Format, List};

#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,

    /// Leave out the line of heads
    #[arg(long)]
    no_headers: bool,
}

impl Listing {
    /// Refuses what asks for nothing, before anybody is asked.
    pub(super) fn check(&self) -> Result<(), Fatal> {
        if self.limit == Some(0) { Err(Fatal::usage("--limit 0 lists nothing")) } else { Ok(()) }
    }

    /// Writes the list at `path`, page by page. Returns how many items there were.
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

//! `outcrop store`: works on the store in the aggregator's data directory.

use std::path::PathBuf;

use super::text::escape;
use super::{Exit, Fatal, print};
use crate::store::{ClusterIdentity, adopt, back_up};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a checked copy of the store to a new file; the aggregator may run meanwhile
    Backup {
        /// File to create; an existing file is never overwritten
        file: PathBuf,

        #[command(flatten)]
        store: Store,
    },
    /// Assign the store to another cluster, for example after the cluster was replaced; the aggregator must be stopped
    Adopt {
        /// Name of the cluster that the store belongs to from now on
        #[arg(long, value_name = "NAME")]
        cluster: String,

        /// UID of the namespace kube-system of that cluster, for an aggregator with --kubernetes; default: none
        #[arg(long, value_name = "UID")]
        cluster_uid: Option<String>,

        #[command(flatten)]
        store: Store,
    },
}

#[derive(Debug, clap::Args)]
struct Store {
    /// Data directory of the aggregator
    #[arg(long, value_name = "DIR", env = "OUTCROP_DATA")]
    data: PathBuf,
}

impl Store {
    fn path(&self) -> PathBuf {
        self.data.join("outcrop.db")
    }
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    match arguments.command {
        Command::Backup { file, store } => {
            let size = back_up(&store.path(), &file).map_err(|error| Fatal::failed(error.to_string()))?;
            print(&format!("{}: {size} bytes, checked\n", escape(&file.display().to_string())))?;
        }
        Command::Adopt { cluster, cluster_uid, store } => {
            let cluster = ClusterIdentity { key: cluster_uid.unwrap_or_else(|| cluster.clone()), name: cluster };
            let before = adopt(&store.path(), &cluster).map_err(|error| Fatal::failed(error.to_string()))?;
            print(&format!(
                "the store now belongs to {}; before, it belonged to {}\n",
                escape(&cluster.to_string()),
                escape(&before.to_string())
            ))?;
        }
    }
    Ok(Exit::Done)
}

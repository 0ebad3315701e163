//! Workers: one sandboxed process per job, one layer handle in, one inventory out.
//!
//! Bytes from images are parsed here and nowhere else. The parent starts the program again in the worker role, passes a job and the handles
//! that the worker may read, and receives frames through a pipe: the worker's cage, each path before the worker parses it, and the result.
//! A worker that dies costs the path that it announced last: the parent repeats the job without that path.

mod cage;
mod child;
mod config;
mod counters;
mod job;
mod parent;
mod pipe;
mod politeness;
mod reading;
mod selftest;
mod source;
mod survive;

pub use cage::{Cage, CageError, Landlock, enter_read_only, enter_reader_cage, enter_runtime_cage, hide_memory};
pub use config::{ImageConfig, parse_image_config};
pub use counters::{Counters, Counts};
pub use job::{Started, Work};
pub use parent::{LayerReading, Program, ReadStats, StackReading, WorkerError, check_frames};
pub use politeness::{LayerLimits, Manner};
pub use selftest::Attempt;
pub use survive::Survival;

pub(crate) use child::main;
pub(crate) use selftest::{Caged, attempts};

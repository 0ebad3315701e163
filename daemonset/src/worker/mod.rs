//! The cage: a process a job, one layer's handle in, one inventory out.
//!
//! Bytes from images are parsed here and nowhere else. The parent starts the program again in its role of a worker, passes
//! a job and the handles that it may read, and gets frames back through a pipe: the cage that the worker is in, each
//! path before it is parsed, and the answer. A worker that dies costs the path that it named last: the job is done again
//! without it.

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
pub use job::Started;
pub use parent::{LayerReading, Program, StackReading, WorkerError, check_frames};
pub use politeness::{LayerLimits, Manner};
pub use selftest::Attempt;
pub use survive::Survival;

pub(crate) use child::main;
pub(crate) use selftest::{Caged, attempts};

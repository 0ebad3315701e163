//! Deliveries to targets outside: the outbox and the state of everything → batches → targets that the operator configured.
//!
//! The store says what a target is told next (a [portion](crate::store::Portion)); [`encode`] makes one body of it, which is stored before it
//! is sent, so that a delivery that is sent again has the same bytes and the same idempotency key. The [kind](Kind) of the target sends it, and [`Verdict`] says
//! what the answer means. A target is contacted at the configured address only, and no redirect is followed.

mod client;
mod compose;
mod config;
mod connection;
pub mod document;
mod encode;
mod filter;
mod kind;
mod notification;
mod notify;
mod proxy;
mod record;
mod retry;
mod secret;
mod sign;

pub use client::{Answer, Client, SendError};
pub use compose::Composer;
pub use config::{Config, ConfigError, TargetConfig, WhenFull};
pub use encode::{Encoded, Origin, readable};
pub use filter::{Filter, WorkloadFacts, Workloads};
pub use kind::{Family, Kind, Notifier, Stream, encode, sample};
pub use notification::{Notification, Occasion};
pub use retry::{Verdict, pause};

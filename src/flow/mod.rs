//! What travels between actors: parcels, batches of tagged items, and the inboxes they wait in; and what actors stand on: the framework that hosts
//! their work, the threads beside them, the clock, connections.
//!
//! A [`Parcel`] is what one read from a connection brought: one or more whole requests. Its items are spread over shards
//! and come together again in the settlement actor, which sends the parcel back to its session once every outcome is
//! durable. Items carry a small tag instead of a pointer, so that nothing per transfer is shared between threads.
//!
//! # Invariants
//!
//! 1. Each item of a parcel gets exactly one outcome; a second one stops the process.
//! 2. The number of items anywhere inside is bounded by admission ([`Admission`]); the inboxes themselves have no other
//!    bound, because a full inbox between two actors that wait for each other would be a deadlock.
//!
//! # Not here
//!
//! What the items mean ([`crate::ledger`]), who decides ([`crate::shard`]), who answers ([`crate::gateway`]).

mod admission;
mod awake;
mod batch;
mod breather;
mod clock;
mod decided;
mod helpers;
mod inbox;
mod pace;
mod parcel;
mod socket;
mod submission;
mod work;

pub use admission::{Admission, Permit};
pub use awake::Awake;
pub use batch::{Batch, Tagged};
pub use breather::{Breather, REST_MAX};
pub use clock::{Clock, wall_ns};
pub use decided::{AuditReply, Decided};
pub use helpers::{Helper, Helpers, Jobs, Stepper};
pub use inbox::{Drain, Inbox, InboxSender, Stopped, inbox};
pub use pace::Pace;
#[cfg(test)]
pub(crate) use parcel::testing;
pub use parcel::{AnswerSink, Parcel, ParcelTimes, Span};
pub use socket::{set_up, set_up_served};
pub use submission::{Asked, Submission};
pub use work::{Hosted, Work};

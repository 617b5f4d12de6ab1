//! The TCP side: the listener and one task per connection.
//!
//! A session reads frames, authenticates, checks them and hands whole requests on; it answers by request id in whatever order
//! outcomes become durable. It never queues without bound: what is too much is answered *busy*, a peer that does not read its
//! answers is not read from, and one that stays silent in the middle of a frame is closed.
//!
//! # Invariants
//!
//! 1. Nothing but a hello is looked at before authentication.
//! 2. Every whole frame of an authenticated peer gets exactly one answer, or the connection is closed.
//! 3. One connection's faults never reach another.
//!
//! # Not here
//!
//! The bytes ([`crate::protocol`]); deciding ([`crate::router`], [`crate::shard`]).

mod coming;
mod dribble;
mod events;
mod gathered;
mod handshake;
mod incoming;
mod listener;
mod lookup;
mod outgoing;
mod queries;
mod reads;
mod session;
mod tail;

pub use listener::{GatewayContext, GatewayLimits, converse, serve};
pub use lookup::LookupTurns;

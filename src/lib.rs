//! Heng (衡, a balance): an actor-based, high-throughput, durable transaction processor.
//!
//! ```text
//!  gateway ──TCP──► session ──► router ──► shard ──────────► settlement ──► journal ──► answer
//!  (client)         gateway     ids        hosts accounts,   sequence,      one sync    once durable
//!                                          decides           groups         per group
//!                                                                └────────► clearing ──► store
//! ```
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | rules | [`money`], [`ledger`], [`protocol`] | nothing outside this row: no I/O, no clock, no threads |
//! | measuring, carrying | [`telemetry`], [`flow`] | rules |
//! | disk | [`journal`], runs, [`store`] | the rows above, and those before them in this row |
//! | actors | [`settlement`], [`shard`], [`clearing`], [`router`] | the rows above, and those before them in this row |
//! | edges | [`gateway`], [`ops`], [`client`], [`engine`], [`verify`] | the rows above |
//! | process | [`config`], [`server`], [`cli`] | everything |
//!
//! `ARCHITECTURE.md` tells the way of a transfer, what is measured and why things are as they are. A test keeps the layers.

#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::let_underscore_must_use,
        clippy::cast_possible_truncation,
        reason = "tests compute with small numbers, and a panic there is a failed test"
    )
)]

pub mod backoffice;
pub mod backup;
pub mod clearing;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod flow;
pub mod gateway;
pub mod journal;
pub mod ledger;
pub mod money;
pub mod ops;
pub mod planted;
pub mod protocol;
pub mod router;
mod runs;
pub mod server;
pub mod settlement;
pub mod shard;
pub mod store;
pub mod telemetry;
pub mod verify;

//! The public client: speaks the native protocol over TCP.
//!
//! [`Client`] asks one thing at a time and waits for the answer: for tools. A [`Connection`] split into a [`RequestSender`] and an
//! [`AnswerReceiver`] keeps many requests in flight: for gateways and load generators; answers come in any order and carry the
//! request id. A [`BatchingClient`] is shared by many tasks, and what they submit at the same time goes together. Nothing here retries a transfer
//! by itself: after a broken connection send it again with the same id, and the first outcome is the answer.
//!
//! All functions wait without blocking a thread. Those of [`Client`] give up after a time limit; then the outcome is unknown.

mod batch;
mod batching;
mod connection;
mod simple;

pub use batching::{BatchingClient, Submitting};
pub use connection::{Answer, AnswerReceiver, ClientError, Connection, Credentials, RequestSender};
pub use simple::Client;

//! Reads that go to the disk, on threads that may wait, a few at a time.
//!
//! # Invariants
//!
//! 1. No more of them are under way than [`LOOKUPS_MAX`] for a connection and [`ALL_LOOKUPS_MAX`] for all connections: each may look through many
//!    records, and has a group of the journal in memory meanwhile. The others wait in the order in which they came.
//! 2. Nothing is begun for a peer that has gone.
//!
//! # Not here
//!
//! What is looked up ([`super::queries`]).

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::listener::GatewayContext;
use super::outgoing::{Outgoing, error_frame};
use crate::flow::Permit;
use crate::ledger::Code;

/// Lookups under way for a connection.
pub(super) const LOOKUPS_MAX: usize = 4;

/// Lookups under way for all connections.
pub const ALL_LOOKUPS_MAX: usize = 16;

/// A connection's way to look things up.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) context: Arc<GatewayContext>,
    pub(super) outgoing: mpsc::UnboundedSender<Outgoing>,
    /// Of this connection.
    pub(super) turns: Arc<Semaphore>,
    pub(super) runtime: Handle,
}

impl Lookup {
    /// Makes an answer when it is its turn, and sends it.
    pub(super) fn answer(
        self,
        request_id: u64,
        room: Permit,
        work: impl FnOnce(&GatewayContext) -> Vec<u8> + Send + 'static,
    ) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let frame = self.run(work).await.unwrap_or_else(|| error_frame(request_id, Code::Internal));
            // A peer that left gets no answer.
            drop(self.outgoing.send(Outgoing::Frame { frame, room }));
        });
    }

    /// Looks something up when it is its turn. `None`: the peer has gone, or the work has failed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GatewayContext) -> T + Send + 'static,
    ) -> Option<T> {
        // Its own turn first: who waits for that keeps nobody else waiting.
        let own = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.context.lookups).acquire_owned().await.ok()?;
        if self.outgoing.is_closed() {
            return None;
        }
        let context = Arc::clone(&self.context);
        let found = self.runtime.spawn_blocking(move || {
            let found = work(&context);
            drop((own, of_all));
            found
        });
        found.await.ok()
    }
}

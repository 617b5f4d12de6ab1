//! The server's state, which probes ask for and the main task waits on.

use std::sync::Arc;

use tokio::sync::watch;

/// What the server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Recovering; takes no requests yet.
    Starting,
    /// Takes requests.
    Ready,
    /// Finishes what it took; takes nothing new.
    Draining,
    /// Something failed that cannot be repaired in this process; it ends.
    Failed(String),
}

/// The state, shared.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<HealthState>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HealthState::Starting)))
    }
}

impl Health {
    /// The state now.
    pub fn state(&self) -> HealthState {
        self.0.borrow().clone()
    }

    /// Moves to another state. A failure is final.
    pub fn set(&self, state: HealthState) {
        self.0.send_modify(|current| {
            if !matches!(current, HealthState::Failed(_)) {
                *current = state;
            }
        });
    }

    /// Says that the process must end. Logged here, once.
    pub fn fail(&self, reason: &str) {
        if !matches!(self.state(), HealthState::Failed(_)) {
            tracing::error!(reason, "stopping: no more work is taken, unanswered requests stay unanswered");
        }
        self.set(HealthState::Failed(reason.to_owned()));
    }

    /// Returns with the state once it satisfies a condition.
    pub async fn wait_for(&self, condition: impl FnMut(&HealthState) -> bool) -> HealthState {
        let mut receiver = self.0.subscribe();
        // The sender is in `self`, so it cannot be gone.
        let state = receiver.wait_for(condition).await.map(|state| state.clone());
        state.unwrap_or(HealthState::Draining)
    }
}

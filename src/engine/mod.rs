//! The engine: recovery, and the actors wired together.
//!
//! [`recover`] brings a data directory to the state after its last durable record; [`Engine::start`] puts that state into
//! actors, each on a thread of its own. Must run inside an actix `System`.
//!
//! ```text
//! data/LOCK          held while the directory is in use
//! data/journal/      segments (crate::journal)
//! data/store/        sled (crate::store)
//! data/ids/          runs of known transfer ids (crate::router)
//! ```
//!
//! Not here: listening ([`crate::gateway`]), the order of starting and stopping ([`crate::server`]).

mod datadir;
mod recover;
mod start;
mod wire;

pub use datadir::{DataDir, DataDirError};
pub(crate) use recover::Stored;
pub use recover::{RecoverError, RecoverOptions, Recovered, Surroundings, append_offline, recover, recover_with};
pub use start::{Engine, EngineOptions};
pub use wire::{Part, wire};

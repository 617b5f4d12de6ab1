//! What an actor does, apart from the framework and the thread that host it.
//!
//! The server hosts each [`Work`] as an actix actor on a thread of its own ([`Hosted`]). A simulation calls it in whatever order it likes, on one
//! thread and on its own time.

use std::time::Duration;

use actix::prelude::{Actor, AsyncContext, Context, Handler};

use super::awake::Awake;
use super::inbox::Drain;

/// An actor's work.
pub trait Work: Send + std::fmt::Debug + 'static {
    /// Takes what waits in the inbox, and sends on what follows from it. Never blocks for long.
    fn drain(&mut self);

    /// Whether something waits in the inbox; who has nobody waiting for its answers always says so, and is not kept awake.
    fn is_waiting(&self) -> bool {
        true
    }

    /// How often [`Self::tick`] is to be called; none: never.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Time has passed.
    fn tick(&mut self) {}
}

/// Work as an actix actor.
#[derive(Debug)]
pub struct Hosted {
    work: Box<dyn Work>,
    awake: Awake,
}

impl Hosted {
    /// Hosts work; its thread stays awake for a moment for what may come next.
    pub fn new(work: Box<dyn Work>, awake: Awake) -> Self {
        Self { work, awake }
    }
}

impl Actor for Hosted {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(every) = self.work.tick_every() {
            ctx.run_interval(every, |hosted, _| hosted.work.tick());
        }
    }
}

impl Handler<Drain> for Hosted {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {
        self.work.drain();
        let work = &self.work;
        self.awake.look_out(|| work.is_waiting());
    }
}

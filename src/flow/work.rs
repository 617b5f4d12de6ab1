//! What an actor does, apart from the framework and the thread that host it.
//!
//! The server hosts each [`Work`] as an actix actor on a thread of its own ([`Hosted`]). A simulation calls it in whatever order it likes, on one
//! thread and on its own time.

use std::time::Duration;

use actix::prelude::{Actor, AsyncContext, Context, Handler};

use super::inbox::Drain;

/// An actor's work.
pub trait Work: Send + std::fmt::Debug + 'static {
    /// Takes what waits in the inbox, and sends on what follows from it. Never blocks for long.
    fn drain(&mut self);

    /// How often [`Self::tick`] is to be called; none: never.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Time has passed.
    fn tick(&mut self) {}
}

/// Work as an actix actor.
#[derive(Debug)]
pub struct Hosted(pub Box<dyn Work>);

impl Actor for Hosted {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(every) = self.0.tick_every() {
            ctx.run_interval(every, |hosted, _| hosted.0.tick());
        }
    }
}

impl Handler<Drain> for Hosted {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {
        self.0.drain();
    }
}

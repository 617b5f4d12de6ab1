//! A clock that is set back just after a start, which seeds come upon seldom.

use std::sync::atomic::Ordering;

use heng::backoffice::Ports;
use heng::ledger::Record;

use crate::memory;
use crate::plain::SECOND_NS;
use crate::world::World;

/// What a start takes for now, holds run out by: no record may be before it (seed 1149).
#[test]
fn no_record_is_before_what_a_start_took_for_now() {
    let directory = memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(1, directory.path());
        world.faults = false;
        world.start().unwrap();
        world.stop(false);
        let begun_ns = world.now_ns.fetch_add(1_000 * SECOND_NS, Ordering::Relaxed) + 1_000 * SECOND_NS;
        world.start().unwrap();
        world.now_ns.fetch_sub(500 * SECOND_NS, Ordering::Relaxed);
        let server = world.server.as_ref().unwrap();
        let second = u32::try_from(begun_ns / SECOND_NS).unwrap();
        server.ports.record(&[Record::Clock { second }]).unwrap();
        let (last, _) = server.recovered;
        let stored = server.engine.reader.read(last + 1).unwrap().unwrap();
        assert!(stored.time_ns >= begun_ns, "{stored:?} is before {begun_ns}");
    });
}

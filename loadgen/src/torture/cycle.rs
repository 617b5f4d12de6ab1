//! One ledger that is broken again and again: start, check, load, break, verify.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use heng::client::{Client, Credentials};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::ask::{AGAIN, answers, open_accounts, probe, require, verify};
use super::clock::{FAR, FakeClock, Says, draw};
use super::copies::Copies;
use super::damage::{Damage, damage};
use super::desk::{Desk, Errand, POLICY, POLICY_WITH_LIMITS};
use super::errors::{Injected, wait_for_end};
use super::heir::{stop_for_a_while, take_over};
use super::load::{ACCOUNTS, CONNECTIONS, Caller, Order};
use super::log::{Log, Wrong};
use super::proxy::Proxy;
use super::rival::{Rival, challenge};
use super::site::Site;
use super::{Fault, Report, pause};
use crate::spawn::{How, Spawned, Starting};
use crate::workload::ABROAD;

/// Transfers after which a new ledger is begun, so that checking all of one stays quick.
const TRANSFERS_MAX: usize = 400_000;

/// The same of one that is damaged, which is read as a whole several times for each damage.
const TRANSFERS_DAMAGED: usize = 60_000;

/// How often it is damaged after each load.
const DAMAGES: u32 = 8;

/// How often it goes on as it is restored from a backup, before that.
const RESTORED: f64 = 0.5;

/// How long it is driven over a bad network, and how often its clock is set meanwhile.
const BAD_NETWORK: Duration = Duration::from_secs(3);
const CLOCKS: u32 = 8;

/// How late what the server did when its clock was ahead may be looked at.
const LATE: Duration = Duration::from_mins(1);

/// Shards that a start may have.
const SHARDS: u64 = 3;

/// Small segments, many checkpoints and id runs, so that each of them is met by faults.
const SMALL: [&str; 8] = [
    "--segment-bytes",
    "4194304",
    "--group-transfers-max",
    "8190",
    "--checkpoint-transfers",
    "20000",
    "--ids-in-memory",
    "5000",
];

/// How often the start after a crash is broken off too, and how soon.
const BROKEN_RECOVERIES: f64 = 0.3;
const RECOVERY_MS: u64 = 80;

/// How often a process that stands still never goes on.
const DEAD: f64 = 0.3;

/// How long calls fail for a server that lives with it.
const ERRORS: Duration = Duration::from_secs(3);

/// How long a full disk takes to end a server that writes.
const FULL: Duration = Duration::from_mins(1);

/// A ledger and what is known of it.
#[derive(Debug)]
pub(crate) struct Ledger {
    site: Site,
    seed: u64,
    /// Each start has another number of shards than the one before.
    starts: u64,
    clock: Option<FakeClock>,
    /// Answers that came later may be false: the power was gone.
    until: Option<Instant>,
    /// Of the ledger that is there.
    known: Option<(Log, Vec<Caller>)>,
    /// Its back office, unless that is at work.
    desk: Option<Desk>,
}

impl Ledger {
    pub(crate) fn new(site: Site, seed: u64) -> Self {
        let clock = FakeClock::new(&site.root());
        Self { site, seed, starts: 0, clock, until: None, known: None, desk: None }
    }

    /// How it is started next: with limits or without, as it began, and with any number of shards.
    fn how(&mut self) -> How<'static> {
        self.starts = self.starts.wrapping_add(1);
        let shards = self.starts.checked_rem(SHARDS).and_then(|shards| usize::try_from(shards).ok()).unwrap_or(0);
        let policy = if self.seed.is_multiple_of(3) { POLICY_WITH_LIMITS } else { POLICY };
        How { shards: shards.saturating_add(1), policy: Some(policy), more: &SMALL, environment: &[] }
    }

    fn start(&mut self) -> anyhow::Result<Spawned> {
        let how = self.how();
        Spawned::start_with(Some(&self.site.data()), how)
    }

    /// The same, for a fault that begins with the start.
    fn start_for(&mut self, fault: Fault) -> anyhow::Result<Spawned> {
        let how = self.how();
        let Some(clock) = self.clock.as_ref().filter(|_| matches!(fault, Fault::Clock)) else {
            return Spawned::start_with(Some(&self.site.data()), how);
        };
        clock.set(Says::Ahead(0))?;
        Spawned::start_with(Some(&self.site.data()), How { environment: &clock.environment(), ..how })
    }

    /// Breaks it once; answers how long starting took, milliseconds.
    pub(crate) fn cycle(
        &mut self,
        runtime: &Runtime,
        fault: Fault,
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<Option<u64>> {
        let most = if matches!(fault, Fault::Flip) { TRANSFERS_DAMAGED } else { TRANSFERS_MAX };
        if self.known.as_ref().is_some_and(|(log, _)| log.len() > most) {
            self.finish(runtime, rng, report)?;
        }
        let is_new = self.known.is_none();
        if is_new {
            self.site.clear()?;
            std::fs::create_dir_all(self.site.data())?;
        }
        if !is_new && (fault.cuts_power() || matches!(fault, Fault::Kill)) && rng.random_bool(BROKEN_RECOVERIES) {
            self.break_recovery(fault, rng)?;
            report.recoveries_broken = report.recoveries_broken.saturating_add(1);
        }
        let begun = Instant::now();
        let mut server = self.start_for(fault)?;
        let recovery = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if is_new {
            self.seed = self.seed.wrapping_add(1);
            runtime.block_on(open_accounts(&server.address))?;
            self.desk = Some(Desk::open(&server, runtime.handle(), self.seed)?);
            let callers =
                (0..CONNECTIONS).map(|number| Caller::new(self.seed, number)).collect::<anyhow::Result<_>>()?;
            self.known = Some((Log::new(u32::try_from(ACCOUNTS.saturating_add(ABROAD))?), callers));
            if fault.cuts_power() || matches!(fault, Fault::IoError) {
                // The first cut must not find an empty directory.
                Command::new("sync").status()?;
            }
        }
        self.check((runtime, &server), rng, report, false)?;
        probe(runtime, &server, rng, report);
        let mut load = self.call(runtime, &server, (&server.address, false));
        pause(Duration::from_millis(rng.random_range(50..800)));
        match fault {
            Fault::Kill | Fault::Flip => server.signal("KILL")?,
            Fault::Stop => self.stand_still((runtime, &server), &mut load, rng, report)?,
            Fault::TakeOver => take_over(&self.site, &mut server, rng, report)?,
            Fault::Clock => self.set_clock((runtime, &server), rng, report)?,
            Fault::Network => self.disturb((runtime, &server), &mut load, rng, report)?,
            Fault::IoError => self.io_error((runtime, &mut server), &mut load, rng, report)?,
            Fault::Power | Fault::PowerExt4 => self.cut_power(&server, rng)?,
            Fault::DiskFull => self.fill_up((runtime, &mut server), &mut load, rng, report)?,
        }
        self.hear(runtime, &mut load, report);
        drop(server);
        match fault {
            Fault::Power | Fault::PowerExt4 => {
                self.site.power_on()?;
                if rng.random_bool(0.5) {
                    self.boot_again()?;
                }
            }
            Fault::IoError if self.site.has_power() => {
                self.site.power_off()?;
                self.site.power_on()?;
            }
            Fault::DiskFull => self.site.grow()?,
            Fault::Flip => return self.flip(runtime, rng, report).map(|()| (!is_new).then_some(recovery)),
            Fault::Kill | Fault::Stop | Fault::TakeOver | Fault::Clock | Fault::Network | Fault::IoError => {}
        }
        self.verify(report)?;
        Ok((!is_new).then_some(recovery))
    }

    /// Starts the server and ends it while it recovers.
    fn break_recovery(&mut self, fault: Fault, rng: &mut StdRng) -> anyhow::Result<()> {
        let how = self.how();
        let mut server = Starting::new(&self.site.data(), how)?;
        pause(Duration::from_millis(rng.random_range(1..RECOVERY_MS)));
        if fault.cuts_power() {
            server.signal("STOP")?;
            pause(Duration::from_millis(50));
            self.site.power_off()?;
        }
        server.kill();
        if fault.cuts_power() { self.site.power_on() } else { Ok(()) }
    }

    /// The power goes, in every other case while a sync may be under way: one that is may be answered although nothing of it is left, so
    /// what is answered from then on promises nothing.
    fn cut_power(&mut self, server: &Spawned, rng: &mut StdRng) -> anyhow::Result<()> {
        if rng.random_bool(0.5) {
            server.signal("STOP")?;
            pause(Duration::from_millis(50));
        }
        let switch = self.site.switch()?;
        self.until = Some(Instant::now());
        switch.off()?;
        server.signal("KILL")
    }

    /// As if the machine went down with the power: the server ran in another boot than it will start in, and must make its store again. Otherwise it
    /// believes what the cut left of it, which is harder.
    fn boot_again(&self) -> anyhow::Result<()> {
        let note = self.site.data().join("store.used");
        if note.exists() {
            std::fs::write(note, "another boot")?;
        }
        Ok(())
    }

    /// The process stands still for a while, in which a second one is started on its data. Then all goes on as before, or the first is killed as it
    /// stands.
    fn stand_still(
        &mut self,
        (runtime, server): (&Runtime, &Spawned),
        load: &mut Load,
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        stop_for_a_while(server, rng)?;
        match challenge(&self.site.data())? {
            Rival::Refused => report.rivals_refused = report.rivals_refused.saturating_add(1),
            Rival::Came(how) => {
                report.taken_over = report.taken_over.saturating_add(1);
                crate::run::say(&format!("TAKEN OVER: {how}"));
            }
        }
        if rng.random_bool(DEAD) {
            return server.signal("KILL");
        }
        server.signal("CONT")?;
        probe(runtime, server, rng, report);
        load.stop.store(true, Relaxed);
        self.hear(runtime, load, report);
        server.signal("KILL")
    }

    /// The clock goes ahead and back and stops, under load, and the server with it.
    fn set_clock(
        &mut self,
        (runtime, server): (&Runtime, &Spawned),
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let clock = self.clock.as_ref().context("there is no clock to set")?;
        for _ in 0..CLOCKS {
            clock.set(draw(rng))?;
            report.clock_jumps = report.clock_jumps.saturating_add(1);
            probe(runtime, server, rng, report);
            pause(Duration::from_millis(rng.random_range(20..200)));
        }
        clock.set(Says::Ahead(i64::try_from(FAR.as_secs())?))?;
        let decided = runtime.block_on(require(&server.address, rng))?;
        let real = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let ahead = Duration::from_nanos(decided).saturating_sub(real);
        anyhow::ensure!(
            ahead > FAR.saturating_sub(LATE),
            "the server's clock was set {FAR:?} ahead, and it is ahead by {ahead:?}"
        );
        server.signal("KILL")
    }

    /// The clients' network is bad for a while; they connect again and send again, and in the end all goes on as before.
    fn disturb(
        &mut self,
        (runtime, server): (&Runtime, &Spawned),
        load: &mut Load,
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        load.stop.store(true, Relaxed);
        self.hear(runtime, load, report);
        let proxy = runtime.block_on(Proxy::start(&server.address, rng.random()))?;
        *load = self.call(runtime, server, (&proxy.address, true));
        pause(BAD_NETWORK);
        proxy.calm();
        probe(runtime, server, rng, report);
        load.stop.store(true, Relaxed);
        self.hear(runtime, load, report);
        let broken = runtime.block_on(async { proxy.end() });
        report.connections_broken = report.connections_broken.saturating_add(broken);
        server.signal("KILL")
    }

    /// Lets callers write until the disk is full, which ends the server.
    fn fill_up(
        &mut self,
        (runtime, server): (&Runtime, &mut Spawned),
        load: &mut Load,
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !server.has_ended() && !load.calls.is_empty() && begun.elapsed() < FULL {
            self.hear_ended(load, report);
            pause(Duration::from_millis(20));
        }
        // It ends, or it goes on to answer: it does not stand still.
        let has_ended = server.has_ended() || wait_for_end(server, AGAIN);
        report.stuck = report.stuck.saturating_add(u64::from(!has_ended && !answers(runtime, server, rng)));
        load.stop.store(true, Relaxed);
        if server.has_ended() { Ok(()) } else { server.signal("KILL") }
    }

    /// Lets system calls fail until the server ends, or has shown that it lives with it.
    fn io_error(
        &mut self,
        (runtime, server): (&Runtime, &mut Spawned),
        load: &mut Load,
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let injected = Injected::new(server.pid(), rng)?;
        let mut has_ended = wait_for_end(server, ERRORS);
        let what = injected.end();
        // It may be about to end; one that does neither is stuck.
        if !has_ended && !answers(runtime, server, rng) {
            has_ended = wait_for_end(server, FULL);
            if !has_ended {
                crate::run::say(&format!("STUCK after {what}"));
                report.stuck = report.stuck.saturating_add(1);
            }
        }
        if has_ended {
            report.io_errors_ended = report.io_errors_ended.saturating_add(1);
            return Ok(());
        }
        report.io_errors_outlived = report.io_errors_outlived.saturating_add(1);
        server.signal("KILL")?;
        self.hear_ended(load, report);
        Ok(())
    }

    /// Starts all callers, towards an address, where they may stay or leave when a connection breaks, and the back office.
    fn call(&mut self, runtime: &Runtime, server: &Spawned, (address, stays): (&str, bool)) -> Load {
        let mut load = Load { calls: JoinSet::new(), stop: Arc::new(AtomicBool::new(false)), desk: None };
        self.until = None;
        load.desk = self.desk.take().map(|desk| {
            let errand = Errand {
                address: server.address.clone(),
                operations: server.operations.clone(),
                stop: Arc::clone(&load.stop),
                handle: runtime.handle().clone(),
            };
            std::thread::spawn(move || desk.work(&errand))
        });
        let Some((_, callers)) = &mut self.known else { return load };
        for caller in callers.drain(..) {
            let order = Order { address: address.to_owned(), stays, stop: Arc::clone(&load.stop) };
            load.calls.spawn_on(caller.drive(order), runtime.handle());
        }
        load
    }

    /// Waits for all callers and notes what they were told. The back office ends when its server is gone, or with the others.
    fn hear(&mut self, runtime: &Runtime, load: &mut Load, report: &mut Report) {
        if let Some(desk) = load.desk.take() {
            match desk.join() {
                Ok(mut desk) => {
                    desk.hear(self.until);
                    self.desk = Some(desk);
                }
                Err(_panic) => report.failure = Some("the back office's thread ended in a panic".to_owned()),
            }
        }
        while let Some(called) = runtime.block_on(load.calls.join_next()) {
            self.note(called, report);
        }
    }

    /// The same for those that have ended.
    fn hear_ended(&mut self, load: &mut Load, report: &mut Report) {
        while let Some(called) = load.calls.try_join_next() {
            self.note(called, report);
        }
    }

    fn note(&mut self, called: Result<Called, tokio::task::JoinError>, report: &mut Report) {
        let (Some((log, callers)), Ok((back, exchanges))) = (&mut self.known, called) else { return };
        let (mut wrong, before) = (Wrong::default(), log.acknowledged);
        for mut exchange in exchanges {
            if self.until.zip(exchange.answered).is_some_and(|(until, answered)| answered >= until) {
                exchange.outcomes = None;
                report.excused = report.excused.saturating_add(1);
            }
            // A connection that neither breaks nor is answered.
            report.stuck = report.stuck.saturating_add(u64::from(exchange.was_silent));
            log.hear(exchange, &mut wrong);
        }
        callers.push(back);
        report.add(&wrong);
        report.acknowledged = report.acknowledged.saturating_add(log.acknowledged.saturating_sub(before));
    }

    /// Compares what is there with what is known: all answers, or the latest and some of the others.
    fn compare(
        &mut self,
        (runtime, server): (&Runtime, &Spawned),
        rng: &mut StdRng,
        all: bool,
    ) -> anyhow::Result<Wrong> {
        let Some((log, _)) = &mut self.known else { return Ok(Wrong::default()) };
        runtime.block_on(async {
            let mut client = Client::connect(server.address.as_str(), &Credentials::development()).await?;
            log.check(&mut client, rng, all).await
        })
    }

    /// The same, noted in the report.
    fn check(
        &mut self,
        on: (&Runtime, &Spawned),
        rng: &mut StdRng,
        report: &mut Report,
        all: bool,
    ) -> anyhow::Result<Wrong> {
        let acknowledged = |known: &Option<(Log, _)>| known.as_ref().map_or(0, |(log, _)| log.acknowledged);
        let before = acknowledged(&self.known);
        let wrong = self.compare(on, rng, all)?;
        report.add(&wrong);
        if let Some(desk) = &mut self.desk {
            report.add(&desk.check(on.1, &self.site.data(), on.0.handle())?);
        }
        report.acknowledged = report.acknowledged.saturating_add(acknowledged(&self.known).saturating_sub(before));
        Ok(wrong)
    }

    /// Has the data of the stopped server verified, which nobody damaged.
    fn verify(&self, report: &mut Report) -> anyhow::Result<()> {
        let (ok, said) = verify(&self.site.data())?;
        if !ok {
            report.verify_failures = report.verify_failures.saturating_add(1);
            crate::run::say(&said);
        }
        Ok(())
    }

    /// Damages a file of the killed server: it must be found out, or do no harm.
    fn flip(&mut self, runtime: &Runtime, rng: &mut StdRng, report: &mut Report) -> anyhow::Result<()> {
        // What is undone must not be what recovery had still to cut.
        let server = self.start()?;
        self.check((runtime, &server), rng, report, false)?;
        server.signal("KILL")?;
        drop(server);
        let copies = Copies::new(&self.site)?;
        if rng.random_bool(RESTORED) {
            copies.restore()?;
            let server = self.start()?;
            self.check((runtime, &server), rng, report, true)?;
            server.signal("KILL")?;
            drop(server);
            report.restored = report.restored.saturating_add(1);
        }
        for _ in 0..DAMAGES {
            self.damage_once((runtime, &copies), rng, report)?;
        }
        Ok(())
    }

    fn damage_once(
        &mut self,
        (runtime, copies): (&Runtime, &Copies),
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let last = copies.make()?;
        let Some(damage) = damage(&self.site.data(), rng)? else { return Ok(()) };
        let (is_verified, _) = verify(&self.site.data())?;
        if damage.is_of_journal() && !copies.are_refused_or_whole(last)? {
            report.undetected_damage = report.undetected_damage.saturating_add(1);
            crate::run::say(&format!("UNDETECTED by a backup: {}", damage.what));
        }
        if damage.is_beside() {
            return self.mend(runtime, (&damage, is_verified), rng, report);
        }
        let begun = self.start().and_then(|server| {
            let wrong = self.compare((runtime, &server), rng, true)?;
            server.signal("KILL")?;
            Ok(wrong)
        });
        match begun {
            Err(_) => report.damage_refused = report.damage_refused.saturating_add(1),
            Ok(wrong) if !wrong.is_nothing() => {
                report.undetected_damage = report.undetected_damage.saturating_add(1);
                crate::run::say(&format!("UNDETECTED: {}: {wrong:?}", damage.what));
            }
            Ok(_) if !is_verified => report.damage_found_by_verify = report.damage_found_by_verify.saturating_add(1),
            Ok(_) => report.damage_harmless = report.damage_harmless.saturating_add(1),
        }
        if damage.is_of_journal() {
            damage.undo()?;
        } else if damage.is_of_histories() {
            // Of these a start reads the end only; where more is damaged `verify` says that the store is to be made again.
            std::fs::remove_dir_all(self.site.data().join("store"))?;
        }
        let server = self.start().map_err(|err| err.context(damage.what.clone()))?;
        let wrong = self.check((runtime, &server), rng, report, true)?;
        if !wrong.is_nothing() {
            crate::run::say(&format!("after {}: {wrong:?}", damage.what));
        }
        server.signal("KILL")?;
        Ok(())
    }

    /// A file of the back office is damaged: `verify` must have said so, and it must be as before when the server has mended it, or somebody has.
    fn mend(
        &mut self,
        runtime: &Runtime,
        (damage, is_verified): (&Damage, bool),
        rng: &mut StdRng,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let server = self.start()?;
        let (path, whole) = damage.file();
        let (is_mended, is_known) = Desk::mend(&server, path, whole)?;
        if is_mended && !is_known {
            report.damage_harmless = report.damage_harmless.saturating_add(1);
        } else if is_verified || !is_mended {
            report.undetected_damage = report.undetected_damage.saturating_add(1);
            let what = if is_verified { "verify found nothing" } else { "it was not mended" };
            crate::run::say(&format!("UNDETECTED: {}: {what}", damage.what));
        } else {
            report.damage_found_by_verify = report.damage_found_by_verify.saturating_add(1);
        }
        self.check((runtime, &server), rng, report, false)?;
        server.signal("KILL")?;
        drop(server);
        self.verify(report)
    }

    /// Checks everything of the ledger that is there, which ends with it.
    pub(crate) fn finish(&mut self, runtime: &Runtime, rng: &mut StdRng, report: &mut Report) -> anyhow::Result<()> {
        if self.known.is_none() {
            return Ok(());
        }
        let server = self.start()?;
        self.check((runtime, &server), rng, report, true)?;
        server.stop()?;
        self.verify(report)?;
        let (statements, windows) = self.desk.as_ref().map(Desk::counts).unwrap_or_default();
        report.statements = report.statements.saturating_add(statements);
        report.windows = report.windows.saturating_add(windows);
        (self.known, self.desk) = (None, None);
        Ok(())
    }
}

/// A caller, and what it sent and was told.
type Called = (Caller, Vec<super::log::Exchange>);

/// Callers at work.
#[derive(Debug)]
struct Load {
    calls: JoinSet<Called>,
    stop: Arc<AtomicBool>,
    desk: Option<std::thread::JoinHandle<Desk>>,
}

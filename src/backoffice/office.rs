//! The office: looks at the journal's state, does what is due, and again; between, what operators ask for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::oneshot;

use super::calendar::Calendar;
use super::commands::{Answer, Command, Person, Problem};
use super::ports::{Ports, Snapshot, Trouble};
use super::reconciliation::{BankSide, Reconciliation};
use super::settle::{Settling, open_account, return_transfer, settle};
use super::terms::policy_in;
use crate::ledger::{
    GatewayId, PayoutEntry, PayoutState, Policy, Record, Sequence, TransferId, Window, WindowEntry, WindowState,
};
use crate::telemetry::Telemetry;

/// How often the office looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Commands that may wait.
const COMMANDS_MAX: usize = 64;

/// How long to wait before what could not be given back is tried again.
const AGAIN_AFTER_NS: u64 = 60_000_000_000;

/// Time until something may be said again.
const SAY_AGAIN: Duration = Duration::from_hours(1);

/// Different things said before they may be said again.
const SAID_MAX: usize = 1_000;

/// Does the steps, one after the other.
#[derive(Debug)]
pub struct Office<P> {
    pub(super) ports: P,
    /// Where payout files are put.
    pub(super) payouts: PathBuf,
    /// Whether those that were there at the start have been looked at.
    has_seen_files: bool,
    /// Where statements are kept.
    pub(super) statements: PathBuf,
    /// What the ledger expects of banks.
    pub(super) reconciliation: Reconciliation,
    /// Policies of before, by their last records.
    policies: BTreeMap<Sequence, Arc<Policy>>,
    /// When what could not be given back is tried again.
    again_at: BTreeMap<TransferId, u64>,
    telemetry: Option<Telemetry>,
    /// What was said about steps that cannot be done, and when, so that it is not said all the time.
    said: BTreeMap<String, Instant>,
}

impl<P: Ports> Office<P> {
    /// An office over a data directory.
    pub fn new(ports: P, data_dir: &Path) -> Self {
        let reconciliation = Reconciliation::default();
        let (payouts, statements) = (data_dir.join("payouts"), data_dir.join("statements"));
        let (policies, again_at, said) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (has_seen_files, telemetry) = (false, None);
        Self { ports, payouts, has_seen_files, statements, reconciliation, policies, again_at, telemetry, said }
    }

    /// Shows what is open there.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Telemetry) -> Self {
        Self { telemetry: Some(telemetry), ..self }
    }

    fn publish(&self, snapshot: &Snapshot) {
        let Some(telemetry) = &self.telemetry else { return };
        let closed = |window: &&Window| window.state > WindowState::Open && window.state < WindowState::Settled;
        let counters = telemetry.counters();
        let show = |counter: &AtomicU64, count| counter.store(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
        show(&counters.windows_unsettled, snapshot.windows.iter().filter(closed).count());
        show(&counters.payouts_unfinished, snapshot.payouts.len());
        // Not those of the past while the journal is still followed.
        if self.reconciliation.sequence() >= snapshot.sequence {
            show(&counters.breaks_open, self.reconciliation.in_force().map(BankSide::breaks_open).sum());
        }
    }

    /// Does all that is due now; answers whether something was done, so that more may be due. One that is in trouble does not keep the
    /// others from being done.
    pub fn look(&mut self) -> Result<bool, Trouble> {
        let snapshot = self.ports.snapshot()?;
        let policy = Arc::clone(&snapshot.policy);
        if snapshot.windows.is_empty() && policy.bank_accounts().is_empty() && policy.distributions().is_empty() {
            return Ok(false);
        }
        let mut results = vec![self.see_files(&snapshot), self.reconcile(&snapshot)];
        self.publish(&snapshot);
        for window in &snapshot.windows {
            results.push(self.window(&snapshot, window));
        }
        for payout in snapshot.payouts.iter().filter(|payout| payout.state == PayoutState::Rejected) {
            results.push(self.give_back(&snapshot, payout));
        }
        for distribution in policy.distributions() {
            results.push(self.distribute(&snapshot, distribution));
        }
        let mut done = false;
        let mut trouble = None;
        for result in results {
            match result {
                Ok(some) => done |= some,
                Err(Trouble::Stopped) => return Err(Trouble::Stopped),
                Err(other) => trouble = trouble.or(Some(other)),
            }
        }
        match trouble {
            Some(trouble) if !done => Err(trouble),
            _ => Ok(done),
        }
    }

    /// Looks once at the payout files that are there.
    fn see_files(&mut self, snapshot: &Snapshot) -> Result<bool, Trouble> {
        if !self.has_seen_files {
            self.mend_files(snapshot)?;
            self.has_seen_files = true;
        }
        Ok(false)
    }

    /// The scheme of a window: as the policy has it while the window is open, as it was when the window closed from then on.
    pub(super) fn terms(&mut self, snapshot: &Snapshot, key: (u16, u32)) -> Result<Arc<Policy>, Trouble> {
        let window = snapshot.windows.iter().find(|window| window.key() == key);
        let at = if let Some(window) = window {
            window.policy
        } else {
            // It is finished, and one of its payouts came back.
            let find = move |book: &crate::ledger::Book| book.windows().windows().get(&key).map(|known| known.policy);
            self.ports.inspect(find)?.unwrap_or((0, 0))
        };
        self.policy_at(snapshot, at)
    }

    /// The policy whose first and last record these are; none for the one in force.
    pub(super) fn policy_at(&mut self, snapshot: &Snapshot, at: (Sequence, Sequence)) -> Result<Arc<Policy>, Trouble> {
        if at == (0, 0) || at == snapshot.policy_at {
            return Ok(Arc::clone(&snapshot.policy));
        }
        if let Some(known) = self.policies.get(&at.1) {
            return Ok(Arc::clone(known));
        }
        let read = policy_in(|visit| self.ports.scan(at, visit))?;
        let unreadable = || Trouble::Journal(format!("the policy of records {} to {}", at.0, at.1));
        let policy = read.map(Arc::new).ok_or_else(unreadable)?;
        self.policies.insert(at.1, Arc::clone(&policy));
        Ok(policy)
    }

    fn window(&mut self, snapshot: &Snapshot, window: &Window) -> Result<bool, Trouble> {
        let policy = self.terms(snapshot, window.key())?;
        let Some(scheme) = policy.scheme(window.scheme) else { return Ok(false) };
        let calendar = Calendar::of_scheme(scheme).map_err(|err| Trouble::Waits(err.to_string()))?;
        match window.state {
            WindowState::Open => {
                let now_ns = self.ports.now_ns();
                let is_used = snapshot.used.contains(&window.key());
                let every = scheme.close_every_seconds.filter(|_| is_used).map(|seconds| {
                    let at_ns = window.opened_ns.saturating_add(u64::from(seconds).saturating_mul(1_000_000_000));
                    (at_ns, calendar.day_at(now_ns))
                });
                let Some((at_ns, day)) = every.or_else(|| calendar.next(window.opened_ns)) else { return Ok(false) };
                if now_ns < at_ns {
                    return Ok(false);
                }
                // After an outage: what came since belongs to the latest cut-off that was missed, and nothing is settled in the past.
                let latest = calendar.latest(at_ns, now_ns).filter(|_| every.is_none());
                let day = latest.map_or(day, |(_, day)| day);
                let settlement_day = calendar.settlement_day(day).max(calendar.day_at(now_ns));
                self.close(window, day, settlement_day, GatewayId(0))?;
            }
            WindowState::Closing => {
                let digest = window.positions.digest(window.key(), window.last, &snapshot.participants);
                let (sum, count) = (window.positions.sum(), window.positions.count());
                self.enter(WindowEntry { digest, sum, count, ..entry(window, WindowState::Closed) })?;
            }
            WindowState::Closed => {
                if self.ports.now_ns() < calendar.begins(window.settlement_day) {
                    return Ok(false);
                }
                for file in settle(&self.ports, Settling { snapshot, scheme, window }, &self.payouts)? {
                    tracing::info!(path = %file.path.display(), payouts = file.count, "payout file written");
                }
            }
            WindowState::Settled => {
                if snapshot.payouts.iter().any(|payout| payout.window == window.key()) {
                    return Ok(false);
                }
                self.enter(entry(window, WindowState::Reconciled))?;
            }
            WindowState::Reconciled => return Ok(false),
        }
        Ok(true)
    }

    /// Closes a window: what is sequenced from now on belongs to the next one.
    pub(super) fn close(&self, window: &Window, day: i32, settlement_day: i32, by: GatewayId) -> Result<(), Trouble> {
        self.enter(WindowEntry { day, settlement_day, by, ..entry(window, WindowState::Closing) })
    }

    fn enter(&self, entry: WindowEntry) -> Result<(), Trouble> {
        tracing::info!(scheme = entry.scheme, window = entry.number, state = entry.state.name(), "window");
        self.ports.record(&[Record::Window(entry)])
    }

    /// Gives back to a participant what the bank did not pay, or takes back what it did not collect.
    fn give_back(&mut self, snapshot: &Snapshot, payout: &PayoutEntry) -> Result<bool, Trouble> {
        let now_ns = self.ports.now_ns();
        if self.again_at.get(&payout.id).is_some_and(|at| now_ns < *at) {
            return Ok(false);
        }
        let policy = self.terms(snapshot, payout.window)?;
        let Some(scheme) = policy.scheme(payout.window.0) else { return Ok(false) };
        let (id, number, currency) = (payout.id, payout.participant, scheme.currency);
        let (amount, is_collection) = (payout.amount, payout.is_collection);
        let (is_back, account) = self.ports.inspect(move |book| {
            let accounts =
                book.windows().participant_of(number).map(|known| known.accounts.clone()).unwrap_or_default();
            let account = open_account(book, &accounts, currency, is_collection).filter(|account| {
                let available = account.available().and_then(|available| u128::try_from(available).ok());
                !is_collection || account.available().is_none() || available.is_some_and(|has| has >= amount)
            });
            (book.windows().is_returned(id), account.map(|account| account.properties.id))
        })?;
        if !is_back {
            let codes = match account {
                Some(account) => {
                    self.ports.submit(vec![return_transfer(scheme, payout, account, snapshot.sequence)])?
                }
                None => Vec::new(),
            };
            if !codes.iter().any(|code| code.is_accepted()) {
                self.again_at.insert(id, now_ns.saturating_add(AGAIN_AFTER_NS));
                let why = codes.first().map_or("no account of its participant can take part", |code| code.meaning());
                self.say(&format!("payout {id} was refused by the bank and cannot be given back yet: {why}"));
                return Ok(false);
            }
        }
        let entry = PayoutEntry { state: PayoutState::Returned, by: GatewayId(0), ..*payout };
        self.ports.record(&[Record::Payout(entry)])?;
        Ok(true)
    }

    /// Says something, and again after an hour if it is still so.
    pub(super) fn say(&mut self, what: &str) {
        if self.said.len() > SAID_MAX {
            self.said.clear();
        }
        if self.said.get(what).is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said.insert(what.to_owned(), Instant::now());
            tracing::warn!("{what}");
        }
    }
}

fn entry(window: &Window, state: WindowState) -> WindowEntry {
    WindowEntry {
        scheme: window.scheme,
        number: window.number,
        state,
        digest: [0; 32],
        day: window.day,
        settlement_day: window.settlement_day,
        sum: 0,
        count: 0,
        by: GatewayId(0),
    }
}

type Asked = (Command, Person, oneshot::Sender<Result<Answer, Problem>>);

/// How others ask the office for something.
#[derive(Clone, Debug)]
pub struct OfficeHandle(Sender<Asked>);

impl OfficeHandle {
    /// Asks for something in someone's name; the answer comes when it is durable.
    pub async fn ask(&self, command: Command, person: Person) -> Result<Answer, Problem> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send((command, person, reply)).map_err(|_full| Problem::busy())?;
        answer.await.unwrap_or_else(|_stopped| Err(Problem::stopping()))
    }
}

/// Starts the office's thread. It ends when the engine stops, or when the last handle is dropped.
pub fn spawn_office<P: Ports + 'static>(office: Office<P>) -> std::io::Result<(OfficeHandle, JoinHandle<()>)> {
    let (sender, commands) = bounded(COMMANDS_MAX);
    let thread = thread::Builder::new().name("heng-office".to_owned()).spawn(move || run(office, &commands))?;
    Ok((OfficeHandle(sender), thread))
}

fn run<P: Ports>(mut office: Office<P>, commands: &Receiver<Asked>) {
    // Of what is asked one thing comes between two looks, however much there is to do.
    let mut wait = LOOK_EVERY;
    loop {
        match commands.recv_timeout(wait) {
            Ok((command, person, reply)) => {
                let answer = office.perform(command, &person);
                // Who asked may have stopped waiting.
                let _told = reply.send(answer);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        wait = match office.look() {
            Ok(true) => Duration::ZERO,
            Ok(false) => LOOK_EVERY,
            Err(Trouble::Stopped) => return,
            Err(trouble) => {
                office.say(&format!("the back office waits: {trouble}"));
                LOOK_EVERY
            }
        };
    }
}

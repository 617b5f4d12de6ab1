//! The office: looks at the journal's state, does what is due, and again; between, what operators ask for.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::oneshot;

use super::calendar::Calendar;
use super::commands::{Answer, Command, Person, Problem};
use super::ports::{Ports, Snapshot, Trouble};
use super::reconciliation::Reconciliation;
use super::settle::{Settling, return_transfer, settle};
use crate::ledger::{GatewayId, PayoutEntry, PayoutState, Record, Scheme, Window, WindowEntry, WindowState};

/// How often the office looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Commands that may wait.
const COMMANDS_MAX: usize = 64;

/// Attempts at giving back what the bank refused, each after the account could bear it.
const RETURN_ATTEMPTS_MAX: u32 = 1_000;

/// Does the steps, one after the other.
#[derive(Debug)]
pub struct Office<P> {
    pub(super) ports: P,
    /// Where payout files are put.
    payouts: PathBuf,
    /// Where statements are kept.
    pub(super) statements: PathBuf,
    /// What the ledger expects of banks.
    pub(super) reconciliation: Reconciliation,
    /// What was last said about a step that cannot be done, so that it is said once.
    said: Option<String>,
}

impl<P: Ports> Office<P> {
    /// An office over a data directory.
    pub fn new(ports: P, data_dir: &Path) -> Self {
        let reconciliation = Reconciliation::default();
        let (payouts, statements) = (data_dir.join("payouts"), data_dir.join("statements"));
        Self { ports, payouts, statements, reconciliation, said: None }
    }

    /// Does all that is due now; answers whether something was done, so that more may be due.
    pub fn look(&mut self) -> Result<bool, Trouble> {
        let snapshot = self.ports.snapshot()?;
        let mut done = self.reconcile(&snapshot)?;
        for window in &snapshot.windows {
            if let Some(scheme) = snapshot.policy.scheme(window.scheme) {
                done |= self.window(&snapshot, scheme, window)?;
            }
        }
        for payout in snapshot.payouts.iter().filter(|payout| payout.state == PayoutState::Rejected) {
            if let Some(scheme) = snapshot.policy.scheme(payout.window.0) {
                done |= self.give_back(&snapshot, scheme, payout)?;
            }
        }
        Ok(done)
    }

    fn window(&mut self, snapshot: &Snapshot, scheme: &Scheme, window: &Window) -> Result<bool, Trouble> {
        let Ok(calendar) = Calendar::new(scheme) else { return Ok(false) };
        match window.state {
            WindowState::Open => {
                let Some((at_ns, day)) = calendar.next_cut_off(window.opened_ns) else { return Ok(false) };
                if self.ports.now_ns() < at_ns {
                    return Ok(false);
                }
                self.close(window, day, calendar.settlement_day(day), GatewayId(0))?;
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
                let file = settle(&self.ports, Settling { snapshot, scheme, window }, &self.payouts)?;
                if let Some(file) = file {
                    tracing::info!(path = %file.path.display(), payouts = file.count, "payout file written");
                }
            }
            WindowState::Settled => {
                let mut payouts = snapshot.payouts.iter().filter(|payout| payout.window == window.key());
                if !payouts.all(|payout| payout.state.is_final()) {
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
    fn give_back(&mut self, snapshot: &Snapshot, scheme: &Scheme, payout: &PayoutEntry) -> Result<bool, Trouble> {
        let known = snapshot.participants.iter().find(|participant| participant.id == payout.participant);
        let accounts = known.map(|participant| participant.accounts.clone()).unwrap_or_default();
        let (currency, amount) = (scheme.currency, payout.amount);
        let found = self.ports.inspect(move |book| {
            let accounts = accounts.iter().filter_map(|id| book.account(*id));
            let account = accounts.into_iter().find(|account| account.properties.currency == currency)?;
            let enough =
                account.available().is_none_or(|available| u128::try_from(available).is_ok_and(|has| has >= amount));
            Some((account.properties.id, enough))
        })?;
        let Some((account, enough)) = found else { return Ok(false) };
        for attempt in 0..RETURN_ATTEMPTS_MAX {
            let transfer = return_transfer(scheme, payout, account, attempt);
            let settled = self.ports.submit(vec![transfer])?;
            if settled.iter().all(|settled| settled.code.is_accepted()) {
                let entry = PayoutEntry { state: PayoutState::Returned, by: GatewayId(0), ..*payout };
                self.ports.record(&[Record::Payout(entry)])?;
                return Ok(true);
            }
            if payout.is_collection && !enough {
                break;
            }
        }
        self.say(&format!(
            "payout {} was refused by the bank and its account {account} cannot bear the return",
            payout.id
        ));
        Ok(false)
    }

    pub(super) fn say(&mut self, what: &str) {
        if self.said.as_deref() != Some(what) {
            tracing::warn!("{what}");
            self.said = Some(what.to_owned());
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
    loop {
        match commands.recv_timeout(LOOK_EVERY) {
            Ok((command, person, reply)) => {
                let answer = office.perform(command, &person);
                // Who asked may have stopped waiting.
                let _told = reply.send(answer);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            match office.look() {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Stopped) => return,
                Err(trouble) => {
                    office.say(&format!("the back office waits: {trouble}"));
                    break;
                }
            }
        }
    }
}

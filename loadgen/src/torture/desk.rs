//! The back office of a server that is broken: payments of a scheme, windows that are closed, payout files, statements of a bank.
//!
//! What it was told must be there after each start: every statement once and to the byte, every payout of a settled window as it was, in a
//! file that is there, and participants that have received what was paid to them and been paid what their payouts say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use heng::client::{Client, Credentials};
use heng::ledger::{AccountFlags, AccountId, NewAccount, Outcome, Record, Transfer, TransferId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::log::{Wrong, find};
use super::pause;
use crate::office::{Office, amount, items, number, text};
use crate::spawn::Spawned;

/// Its policy, without limits and with them.
pub(super) const POLICY: &str = include_str!("office.toml");
pub(super) const POLICY_WITH_LIMITS: &str = concat!(include_str!("../limits.toml"), include_str!("office.toml"));

/// Whoever pays, the settlement account, and the first participant's.
const CUSTOMERS: u128 = 4_000_000_000;
const BANK: u128 = 4_000_000_001;
const FIRST: u128 = 4_000_000_100;
const PARTICIPANTS: usize = 5;

/// How long anything is waited for: longer than a server stands still.
const PATIENCE: Duration = Duration::from_secs(40);

/// How soon what was closed is settled, and what is damaged written again.
const SOON: Duration = Duration::from_secs(10);

/// The most shown of a list.
const ALL: &str = "limit=20000";

/// A payout as the server shows it: its id, to whom, how much.
type Payout = (String, usize, u128);

/// What was answered.
#[derive(Debug)]
enum Told {
    Paid(Vec<Transfer>, Vec<Outcome>),
    Imported(String),
}

/// What is known of one ledger's back office.
#[derive(Debug)]
pub(super) struct Desk {
    rng: StdRng,
    /// By participant, minor units.
    received: [u128; PARTICIPANTS],
    /// Payments that were not answered.
    unknown: BTreeMap<u128, Transfer>,
    /// Statements by their content, and whether they were answered.
    statements: BTreeMap<String, bool>,
    /// Payouts of windows that were seen to be settled.
    settled: BTreeMap<u64, BTreeSet<Payout>>,
    lines: u64,
    /// What was answered during a load, and when.
    told: Vec<(Instant, Told)>,
}

/// Where a server is, and until when to trouble it.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) address: String,
    pub(super) operations: String,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) handle: Handle,
}

impl Desk {
    /// Opens the accounts and registers the participants.
    pub(super) fn open(server: &Spawned, handle: &Handle, seed: u64) -> anyhow::Result<Self> {
        let ids = [CUSTOMERS, BANK].into_iter().chain(FIRST..).take(PARTICIPANTS.saturating_add(2));
        let accounts: Vec<NewAccount> = ids
            .map(|id| NewAccount {
                id: AccountId::from_raw(id),
                currency: 978,
                code: 1,
                flags: if id < FIRST { AccountFlags::default() } else { AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS },
                ..NewAccount::default()
            })
            .collect();
        handle.block_on(async {
            let mut client = Client::connect(server.address.as_str(), &Credentials::development()).await?;
            anyhow::Ok(client.open_accounts(&accounts).await?)
        })?;
        let office = Office::within(&server.operations, PATIENCE);
        for (participant, account) in (1..=PARTICIPANTS).zip(FIRST..) {
            let body = json!({
                "participant": participant, "account": account.to_string(), "name": format!("Merchant {participant}"),
                "iban": "GB82WEST12345698765432",
            });
            office.post("/clearing/participants", &body)?;
        }
        Ok(Self {
            rng: StdRng::seed_from_u64(seed),
            received: [0; PARTICIPANTS],
            unknown: BTreeMap::new(),
            statements: BTreeMap::new(),
            settled: BTreeMap::new(),
            lines: 0,
            told: Vec::new(),
        })
    }

    /// Pays, closes windows and imports statements until it is told to stop, or the server is gone.
    pub(super) fn work(mut self, errand: &Errand) -> Self {
        let office = Office::within(&errand.operations, PATIENCE);
        let connected = async {
            tokio::time::timeout(PATIENCE, Client::connect(errand.address.as_str(), &Credentials::development())).await
        };
        let Ok(Ok(mut client)) = errand.handle.block_on(connected) else { return self };
        while !errand.stop.load(Relaxed) {
            let payments = self.payments();
            self.unknown.extend(payments.iter().map(|payment| (payment.id.raw(), *payment)));
            let paid = async { tokio::time::timeout(PATIENCE, client.submit(&payments)).await };
            let Ok(Ok(outcomes)) = errand.handle.block_on(paid) else { break };
            self.told.push((Instant::now(), Told::Paid(payments, outcomes)));
            // Refused or not, the window is looked at after the next start.
            let _closed = office.post("/clearing/windows/cards/close", &json!({}));
            let statement = self.statement();
            self.statements.insert(statement.clone(), false);
            if office.post_file("/banks/bank/statements?mapping=bank", statement.as_bytes()).is_ok() {
                self.told.push((Instant::now(), Told::Imported(statement)));
            }
            pause(Duration::from_millis(self.rng.random_range(5..80)));
        }
        self
    }

    fn payments(&mut self) -> Vec<Transfer> {
        let count = self.rng.random_range(1..12);
        let one = |rng: &mut StdRng| Transfer {
            id: TransferId::from_raw(rng.random::<u128>() | 1 << 126),
            debit: AccountId::from_raw(CUSTOMERS),
            credit: AccountId::from_raw(FIRST.saturating_add(rng.random_range(0..PARTICIPANTS) as u128)),
            amount: rng.random_range(1..100_000),
            code: 7,
            ..Transfer::default()
        };
        (0..count).map(|_| one(&mut self.rng)).collect()
    }

    fn statement(&mut self) -> String {
        let count = self.rng.random_range(1..40);
        let mut lines = vec!["day,amount,reference".to_owned()];
        for _ in 0..count {
            self.lines = self.lines.saturating_add(1);
            let (major, minor) = (self.rng.random_range(1..1_000), self.rng.random_range(0..100));
            lines.push(format!("2026-01-05,{major}.{minor:02},line {}", self.lines));
        }
        lines.join("\n")
    }

    /// Takes what was answered for true, if it was before the power went.
    pub(super) fn hear(&mut self, until: Option<Instant>) {
        for (answered, told) in std::mem::take(&mut self.told) {
            if until.is_some_and(|until| answered >= until) {
                continue;
            }
            match told {
                Told::Imported(statement) => {
                    self.statements.insert(statement, true);
                }
                Told::Paid(payments, outcomes) => {
                    for (payment, outcome) in payments.iter().zip(outcomes) {
                        self.decided(payment, outcome.code.is_accepted());
                    }
                }
            }
        }
    }

    fn decided(&mut self, payment: &Transfer, is_accepted: bool) {
        if self.unknown.remove(&payment.id.raw()).is_none() || !is_accepted {
            return;
        }
        let place = usize::try_from(payment.credit.raw().saturating_sub(FIRST)).unwrap_or(usize::MAX);
        if let Some(received) = self.received.get_mut(place) {
            *received = received.saturating_add(payment.amount);
        }
    }

    /// Statements that are known to be imported, and windows that are known to be settled.
    pub(super) fn counts(&self) -> (u64, u64) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        (count(self.statements.values().filter(|is_told| **is_told).count()), count(self.settled.len()))
    }

    /// Compares what is there with what it was told.
    pub(super) fn check(&mut self, server: &Spawned, data: &Path, handle: &Handle) -> anyhow::Result<Wrong> {
        let office = Office::within(&server.operations, PATIENCE);
        let mut wrong = Wrong::default();
        self.check_statements(&office, &data.join("statements"), &mut wrong)?;
        let are_settled = until_settled(&office, &mut wrong)?;
        let paid = self.check_payouts(&office, &data.join("payouts"), &mut wrong)?;
        handle.block_on(self.check_accounts(&server.address, are_settled.then_some(paid), &mut wrong))?;
        Ok(wrong)
    }

    fn check_statements(&mut self, office: &Office, kept: &Path, wrong: &mut Wrong) -> anyhow::Result<()> {
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        let list = office.get("/banks/bank/statements")?;
        for shown in items(list.get("statements").unwrap_or(&list)) {
            let hash = text(shown, "hash")?;
            match std::fs::read_to_string(kept.join(hash)) {
                Ok(content) => {
                    let times = times.entry(content).or_default();
                    *times = times.saturating_add(1);
                }
                Err(err) => Wrong::tell(&mut wrong.lost, &format!("the file of statement {hash}: {err}")),
            }
        }
        for (content, is_told) in &mut self.statements {
            let there = times.remove(content).unwrap_or(0);
            if there == 0 && *is_told {
                Wrong::tell(&mut wrong.lost, &format!("an imported statement is not there: {content}"));
            }
            if there > 1 {
                Wrong::tell(&mut wrong.doubled, &format!("a statement was imported {there} times: {content}"));
            }
            *is_told |= there > 0;
        }
        for content in times.keys() {
            Wrong::tell(&mut wrong.doubled, &format!("a statement that nobody sent is there: {content}"));
        }
        Ok(())
    }

    /// Answers how much was paid to each participant.
    fn check_payouts(
        &mut self,
        office: &Office,
        files: &Path,
        wrong: &mut Wrong,
    ) -> anyhow::Result<[u128; PARTICIPANTS]> {
        let mut by_window: BTreeMap<u64, BTreeSet<Payout>> = BTreeMap::new();
        let mut paid = [0_u128; PARTICIPANTS];
        for payout in items(&office.get(&format!("/clearing/payouts?{ALL}"))?) {
            let participant = usize::try_from(number(payout, "participant")?)?;
            let amount = u128::try_from(amount(payout, "amount")?)?;
            if let Some(paid) = participant.checked_sub(1).and_then(|place| paid.get_mut(place)) {
                *paid = paid.saturating_add(amount);
            }
            let of_window = by_window.entry(number(payout, "window")?).or_default();
            of_window.insert((text(payout, "payout")?.to_owned(), participant, amount));
        }
        let settled = settled_windows(office)?;
        for window in self.settled.keys().filter(|window| !settled.contains(window)) {
            Wrong::tell(&mut wrong.lost, &format!("window {window} was settled and is not"));
        }
        for window in settled {
            let payouts = by_window.remove(&window).unwrap_or_default();
            if !payouts.is_empty() && !is_written(files, window, &payouts)? {
                Wrong::tell(&mut wrong.lost, &format!("window {window} is settled, and its payouts are in no file"));
            }
            let before = self.settled.entry(window).or_insert_with(|| payouts.clone());
            if *before != payouts {
                Wrong::tell(
                    &mut wrong.lost,
                    &format!("payouts of window {window} were {before:?} and are {payouts:?}"),
                );
            }
        }
        Ok(paid)
    }

    async fn check_accounts(
        &mut self,
        address: &str,
        paid: Option<[u128; PARTICIPANTS]>,
        wrong: &mut Wrong,
    ) -> anyhow::Result<()> {
        let mut client = Client::connect(address, &Credentials::development()).await?;
        let ids: Vec<u128> = self.unknown.keys().copied().collect();
        let found = find(&mut client, &ids).await?;
        for stored in ids.iter().filter_map(|id| found.get(id)) {
            let Record::Transfer { transfer, outcome, .. } = &stored.record else { continue };
            self.decided(transfer, outcome.is_accepted());
        }
        self.unknown.clear();
        let ids: Vec<u128> = (FIRST..).take(PARTICIPANTS).collect();
        let (_, accounts) = client.accounts(&ids).await?;
        anyhow::ensure!(accounts.len() == PARTICIPANTS, "{} of the participants' accounts are there", accounts.len());
        for (place, account) in accounts.iter().enumerate() {
            let received = self.received.get(place).copied().unwrap_or(0);
            let paid = paid.and_then(|paid| paid.get(place).copied()).unwrap_or(account.totals.debits_posted);
            let drift = received.abs_diff(account.totals.credits_posted);
            let drift = drift.saturating_add(paid.abs_diff(account.totals.debits_posted));
            if drift > 0 {
                let totals = account.totals;
                crate::run::say(&format!(
                    "participant {place}: received {received}, was paid {paid}, and has {totals:?}"
                ));
                wrong.money_drift = wrong.money_drift.saturating_add(u64::try_from(drift).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// Puts a damaged statement back by importing it again, and waits until a damaged payout file is; answers whether it is as before, and whether the
    /// ledger knew it: an import that was broken off leaves a file that no record names, and nothing follows from it.
    pub(super) fn mend(server: &Spawned, path: &Path, before: &[u8]) -> anyhow::Result<(bool, bool)> {
        let mut is_known = true;
        if path.parent().is_some_and(|directory| directory.ends_with("statements")) {
            let office = Office::within(&server.operations, PATIENCE);
            let list = office.get("/banks/bank/statements")?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hashes = items(list.get("statements").unwrap_or(&list)).iter().map(|shown| text(shown, "hash"));
            is_known = hashes.collect::<anyhow::Result<Vec<_>>>()?.contains(&name);
            office.post_file("/banks/bank/statements?mapping=bank", before)?;
        }
        let begun = Instant::now();
        loop {
            if std::fs::read(path).is_ok_and(|now| now == before) {
                return Ok((true, is_known));
            }
            if begun.elapsed() > SOON {
                return Ok((false, is_known));
            }
            pause(Duration::from_millis(10));
        }
    }
}

fn settled_windows(office: &Office) -> anyhow::Result<BTreeSet<u64>> {
    let list = office.get(&format!("/clearing/windows?{ALL}"))?;
    let settled = items(&list).iter().filter(|window| is_settled(window));
    settled.map(|window| number(window, "window")).collect()
}

fn is_settled(window: &Value) -> bool {
    text(window, "state").is_ok_and(|state| matches!(state, "settled" | "reconciled"))
}

/// Waits until all windows that were closed are settled, but those whose day is still to come because a clock was ahead; answers whether all
/// are.
fn until_settled(office: &Office, wrong: &mut Wrong) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    loop {
        let list = office.get(&format!("/clearing/windows?{ALL}"))?;
        let is_open = |window: &Value| text(window, "state").is_ok_and(|state| state == "open");
        let left: Vec<&Value> = items(&list).iter().filter(|window| !is_settled(window) && !is_open(window)).collect();
        let is_due = |window: &&&Value| text(window, "settlement_day").is_ok_and(|day| day <= today.as_str());
        if left.iter().filter(is_due).count() == 0 {
            return Ok(left.is_empty());
        }
        if begun.elapsed() > SOON {
            Wrong::tell(&mut wrong.unsettled, &format!("not settled within {SOON:?}: {left:?}"));
            return Ok(false);
        }
        pause(Duration::from_millis(20));
    }
}

/// Whether there is a file of a window that has each of its payouts with its amount.
fn is_written(files: &Path, window: u64, payouts: &BTreeSet<Payout>) -> anyhow::Result<bool> {
    let begins = format!("cards-00001-{window:06}-");
    for entry in std::fs::read_dir(files).with_context(|| format!("cannot read {}", files.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(&begins) && path.extension().is_some_and(|extension| extension == "csv") {
            let content = std::fs::read_to_string(&path)?;
            let has = |(id, _, amount): &Payout| {
                let line = content.lines().find(|line| line.starts_with(id.as_str()));
                line.is_some_and(|line| line.contains(&format!(",{amount},")))
            };
            return Ok(payouts.iter().all(has) && content.lines().count() == payouts.len().saturating_add(1));
        }
    }
    Ok(false)
}

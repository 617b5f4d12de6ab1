//! What clients sent and were told, and what that says of the server: independent of anything the server keeps.

use std::collections::HashMap;
use std::time::Instant;

use heng::client::Client;
use heng::ledger::{Code, Outcome, Record, Sequence, StoredRecord, Transfer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::model::Model;
use crate::workload::{Planned, account_id};

/// Ids asked for in one request.
const PAGE: usize = 8_000;

/// Transfers answered in earlier cycles that are looked up again in each.
const OLDER: usize = 2_000;

/// Differences told in full.
const TOLD_MAX: u64 = 10;

/// What was found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Acknowledged, and not there or not as acknowledged.
    pub(crate) lost: u64,
    /// Decided or applied a second time.
    pub(crate) doubled: u64,
    /// Transactions of which only a part is there.
    pub(crate) torn: u64,
    /// Transfers that come after others in the ledger and before them in its time.
    pub(crate) back_in_time: u64,
    /// Minor units by which totals differ from what was accepted, or by which money was made or destroyed.
    pub(crate) money_drift: u64,
    /// Times that windows which were closed were not settled.
    pub(crate) unsettled: u64,
}

impl Wrong {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn tell(count: &mut u64, what: &str) {
        *count = count.saturating_add(1);
        if *count <= TOLD_MAX {
            crate::run::say(what);
        }
    }
}

/// A request and, where it came, its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) planned: Vec<Planned>,
    /// The last so many were sent before.
    pub(crate) repeats: usize,
    pub(crate) outcomes: Option<Vec<Outcome>>,
    /// When it was.
    pub(crate) answered: Option<Instant>,
    /// Nothing came for as long as anyone waits, and the connection was there.
    pub(crate) was_silent: bool,
}

impl Exchange {
    /// The same once more: all of it was sent before.
    pub(crate) fn again(&self) -> Self {
        let (transfers, planned) = (self.transfers.clone(), self.planned.clone());
        Self { repeats: transfers.len(), transfers, planned, outcomes: None, answered: None, was_silent: false }
    }
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    code: u16,
    sequence: Sequence,
    time_ns: u64,
}

impl Told {
    fn of(outcome: &Outcome) -> Self {
        Self { code: outcome.code.number(), sequence: outcome.sequence, time_ns: outcome.time_ns }
    }
}

#[derive(Debug)]
struct Entry {
    transfer: Transfer,
    planned: Planned,
    /// The number of its transaction; 0 when it is alone.
    transaction: u64,
    told: Option<Told>,
}

/// All of one ledger.
#[derive(Debug)]
pub(crate) struct Log {
    entries: HashMap<u128, Entry>,
    unknown: Vec<u128>,
    /// Answered since all answers were last looked up.
    fresh: Vec<u128>,
    older: Vec<u128>,
    model: Model,
    accounts: u32,
    transactions: u64,
    /// Whether a transaction was accepted, by its number.
    verdicts: HashMap<u64, bool>,
    pub(crate) acknowledged: u64,
}

impl Log {
    pub(crate) fn new(accounts: u32) -> Self {
        Self {
            entries: HashMap::new(),
            unknown: Vec::new(),
            fresh: Vec::new(),
            older: Vec::new(),
            model: Model::new(accounts.into()),
            accounts,
            transactions: 0,
            verdicts: HashMap::new(),
            acknowledged: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Notes what a connection sent and was told.
    pub(crate) fn hear(&mut self, exchange: Exchange, wrong: &mut Wrong) {
        let Exchange { transfers, planned, repeats, outcomes, .. } = exchange;
        let new = transfers.len().saturating_sub(repeats);
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mut is_amid = false;
        for (place, (transfer, planned)) in transfers.into_iter().zip(planned).enumerate() {
            // Who cannot read what it stored says so, and promises nothing: as good as no answer.
            let outcome = outcomes.as_mut().and_then(Iterator::next).filter(|outcome| outcome.code != Code::Internal);
            let id = transfer.id.raw();
            if place < new {
                let is_joined = is_amid || transfer.is_linked();
                if is_joined && !is_amid {
                    self.transactions = self.transactions.saturating_add(1);
                }
                is_amid = transfer.is_linked();
                let transaction = if is_joined { self.transactions } else { 0 };
                self.entries.insert(id, Entry { transfer, planned, transaction, told: None });
                if outcome.is_none() {
                    self.unknown.push(id);
                }
                if outcome.is_some_and(|outcome| outcome.repeated) {
                    Wrong::tell(
                        &mut wrong.doubled,
                        &format!("transfer {} is new and was answered as a repeat", transfer.id),
                    );
                }
            }
            // Sent again after it was found not to be there, it is as new.
            if place >= new && !self.entries.contains_key(&id) {
                self.entries.insert(id, Entry { transfer, planned, transaction: 0, told: None });
                if outcome.is_none() {
                    self.unknown.push(id);
                }
            }
            if let Some(outcome) = outcome {
                self.told(id, Told::of(&outcome), outcome.code.is_accepted(), wrong);
            }
        }
    }

    /// Notes an answer, the first one or one like it.
    fn told(&mut self, id: u128, told: Told, accepted: bool, wrong: &mut Wrong) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match entry.told {
            Some(first) if first != told => {
                Wrong::tell(&mut wrong.doubled, &format!("transfer {id:x} was answered {first:?}, now {told:?}"));
            }
            Some(_) => {}
            None => {
                entry.told = Some(told);
                if entry.transaction > 0 && *self.verdicts.entry(entry.transaction).or_insert(accepted) != accepted {
                    Wrong::tell(
                        &mut wrong.torn,
                        &format!("transfer {id:x} and its transaction were not decided alike"),
                    );
                }
                if accepted {
                    self.model.accepted(&entry.planned);
                }
                self.fresh.push(id);
                self.acknowledged = self.acknowledged.saturating_add(1);
            }
        }
    }

    /// Finds out what became of all that was not answered, and checks what was.
    pub(crate) async fn check(&mut self, client: &mut Client, rng: &mut StdRng, all: bool) -> anyhow::Result<Wrong> {
        let mut wrong = Wrong::default();
        self.find_unknown(client, &mut wrong).await?;
        self.find_told(client, rng, all, &mut wrong).await?;
        self.check_totals(client, &mut wrong).await?;
        if all {
            self.check_times(&mut wrong);
        }
        Ok(wrong)
    }

    async fn find_unknown(&mut self, client: &mut Client, wrong: &mut Wrong) -> anyhow::Result<()> {
        let unknown = std::mem::take(&mut self.unknown);
        let found = find(client, &unknown).await?;
        // How many of each transaction are there, and how many are not.
        let mut parts: HashMap<u64, (u64, u64)> = HashMap::new();
        for id in unknown {
            let Some(entry) = self.entries.get(&id) else { continue };
            let transaction = entry.transaction;
            let part = parts.entry(transaction).or_default();
            if let Some(stored) = found.get(&id) {
                part.0 = part.0.saturating_add(1);
                if let Some((told, accepted)) = self.compare(stored, wrong) {
                    self.told(id, told, accepted, wrong);
                }
            } else {
                part.1 = part.1.saturating_add(1);
                // Sent again it may have been answered after all; then it is asked for with the others that were.
                if entry.told.is_none() {
                    self.entries.remove(&id);
                }
            }
        }
        parts.remove(&0);
        for (present, absent) in parts.into_values() {
            if present > 0 && absent > 0 {
                Wrong::tell(
                    &mut wrong.torn,
                    &format!("{present} transfers of a transaction are there, {absent} are not"),
                );
            }
        }
        Ok(())
    }

    async fn find_told(
        &mut self,
        client: &mut Client,
        rng: &mut StdRng,
        all: bool,
        wrong: &mut Wrong,
    ) -> anyhow::Result<()> {
        let mut asked = std::mem::take(&mut self.fresh);
        let sample = if all { self.older.clone() } else { self.older.sample(rng, OLDER).copied().collect() };
        self.older.extend(&asked);
        asked.extend(sample);
        let found = find(client, &asked).await?;
        for id in asked {
            let Some(first) = self.entries.get(&id).and_then(|entry| entry.told) else { continue };
            // An outcome without a record: nothing was kept of it.
            if first.sequence == 0 {
                if found.contains_key(&id) {
                    let what = format!("transfer {id:x} was answered {first:?}, without a record, and there is one");
                    Wrong::tell(&mut wrong.doubled, &what);
                }
                continue;
            }
            let now = found.get(&id).and_then(|stored| self.compare(stored, wrong));
            if now.is_none_or(|(told, _)| told != first) {
                Wrong::tell(&mut wrong.lost, &format!("transfer {id:x} was answered {first:?}, now there is {now:?}"));
            }
        }
        Ok(())
    }

    /// Time goes forward with the places in the ledger, whatever a clock says.
    fn check_times(&self, wrong: &mut Wrong) {
        let told = self.entries.values().filter_map(|entry| entry.told.filter(|told| told.sequence > 0));
        let mut times: Vec<(Sequence, u64)> = told.map(|told| (told.sequence, told.time_ns)).collect();
        times.sort_unstable();
        for pair in times.windows(2) {
            if let [(first, before), (sequence, time_ns)] = pair
                && (time_ns <= before || first == sequence)
            {
                let what = format!("the time of {sequence} is {time_ns}, and {before} was before it");
                Wrong::tell(&mut wrong.back_in_time, &what);
            }
        }
    }

    /// What a record says, if it is what was sent.
    fn compare(&self, stored: &StoredRecord, wrong: &mut Wrong) -> Option<(Told, bool)> {
        let Record::Transfer { transfer, outcome, .. } = &stored.record else { return None };
        let accepted = outcome.is_accepted();
        let sent = self.entries.get(&transfer.id.raw())?;
        if transfer.as_requested(accepted) != sent.transfer {
            Wrong::tell(&mut wrong.lost, &format!("transfer {} is not as it was sent: {transfer:?}", transfer.id));
        }
        Some((Told { code: outcome.number(), sequence: stored.sequence, time_ns: stored.time_ns }, accepted))
    }

    async fn check_totals(&self, client: &mut Client, wrong: &mut Wrong) -> anyhow::Result<()> {
        let indexes: Vec<u32> = (0..self.accounts).collect();
        let mut sum = 0_i128;
        for page in indexes.chunks(PAGE) {
            let ids: Vec<u128> = page.iter().map(|&index| account_id(1, index).raw()).collect();
            let (_, accounts) = client.accounts(&ids).await?;
            if accounts.len() != ids.len() {
                Wrong::tell(&mut wrong.lost, &format!("{} of {} accounts are there", accounts.len(), ids.len()));
                continue;
            }
            for (&index, account) in page.iter().zip(&accounts) {
                sum = sum.saturating_add(account.balance());
                let expected = self.model.totals(usize::try_from(index)?);
                let totals = account.totals;
                let found =
                    [totals.debits_posted, totals.credits_posted, totals.debits_pending, totals.credits_pending];
                let drift: u128 = found.iter().zip(&expected).map(|(found, expected)| found.abs_diff(*expected)).sum();
                if drift > 0 {
                    if wrong.money_drift == 0 {
                        crate::run::say(&format!("account {index}: totals are {found:?}, accepted were {expected:?}"));
                    }
                    wrong.money_drift = wrong.money_drift.saturating_add(u64::try_from(drift).unwrap_or(u64::MAX));
                }
            }
        }
        wrong.money_drift = wrong.money_drift.saturating_add(u64::try_from(sum.unsigned_abs()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The records of some transfers.
pub(super) async fn find(client: &mut Client, ids: &[u128]) -> anyhow::Result<HashMap<u128, StoredRecord>> {
    let mut found = HashMap::new();
    for page in ids.chunks(PAGE) {
        for stored in client.transfers(page).await? {
            if let Record::Transfer { transfer, .. } = &stored.record {
                found.insert(transfer.id.raw(), stored);
            }
        }
    }
    Ok(found)
}

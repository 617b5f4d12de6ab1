//! The book: every account's balance at one ledger sequence, rebuilt from records alone.
//!
//! [`Book::apply`] takes the journal's records in order and checks each against the rules, sharing no code with the
//! account actor and the desk that decided it. The clearing actor keeps a book beside the shards (reads and checkpoints come
//! from it, and the two are compared for ever); recovery and `heng verify` build one from the journal.
//!
//! # Invariants
//!
//! 1. Per currency, the sum of all balances is zero: each accepted record adds the same to debits and credits.
//! 2. `sequence` grows by one per record; an account's `head` is the last record that touched it.
//! 3. An entry loaded from a checkpoint at its head ignores records up to that head, so that replaying from before the
//!    checkpoint gives the same state.
//! 4. An account's pending totals are the sums of what is open on it.
//!
//! # Not here
//!
//! Whether an id was decided twice, and whether a refund exceeds its original: `heng verify` and the [`crate::router`] keep the
//! ids.

mod accounts;
mod ahead;
mod classes;
mod counters;
mod distributions;
mod levels;
mod lives;
mod open;
mod positions;
mod records;
mod rules;
mod shelf;
mod state;
#[cfg(test)]
mod tests;
mod window_store;
#[cfg(test)]
mod window_tests;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::policy::Policy;
use super::table::Slot;
use super::tally::{Counted, Scope};
use super::{
    AccountId, AccountState, Code, GatewayEntry, GatewayId, NewAccount, Operation, PackedAccount, Record, Sequence,
    Transfer, encode_account,
};
use accounts::Accounts;
pub use ahead::Parties;
use classes::ClassSums;
pub use counters::{Counters, TALLIES_PER_BLOCK, Tally};
pub use distributions::{DistributionRun, Distributions};
pub use levels::{FormerLevel, FormerLevels};
pub use lives::Lives;
pub use open::{Open, PENDINGS_PER_BLOCK};
pub use positions::{Position, Positions};
use rules::Effect;
pub use shelf::Shelf;
pub use state::{BookState, Sum};
pub use window_store::{Piece, PieceError, WindowPieces};
pub use windows::{HOUSE, Leg, LegKey, Participant, SettlementPurpose, Window, Windows};

/// An account's sums of entries, minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Posted debits.
    pub debits_posted: u128,
    /// Posted credits.
    pub credits_posted: u128,
    /// Set aside by holds and delayed transfers, as payer.
    pub debits_pending: u128,
    /// Expected from holds and delayed transfers, as payee.
    pub credits_pending: u128,
}

/// An account at the book's sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookAccount {
    /// Its properties, with level and overdraft as they are now.
    pub properties: NewAccount,
    /// What it may take part in.
    pub state: AccountState,
    /// Its totals.
    pub totals: Totals,
    /// When it was opened, nanoseconds since 1970 UTC.
    pub opened_ns: u64,
    /// The last record that touched it.
    pub head: Sequence,
}

impl BookAccount {
    /// An account as it is opened.
    pub fn open(properties: &NewAccount) -> Self {
        Self { properties: *properties, ..Self::default() }
    }

    /// Credits less debits, minor units. Both are below 2^96, so this always fits.
    pub fn balance(&self) -> i128 {
        signed(self.totals.credits_posted).saturating_sub(signed(self.totals.debits_posted))
    }

    /// What may be debited now, minor units: the balance less what is held; `None` when there is no limit.
    pub fn available(&self) -> Option<i128> {
        let limited = self.properties.flags.has(super::AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS);
        let means = self.balance().saturating_add(signed(self.properties.overdraft));
        limited.then(|| means.saturating_sub(signed(self.totals.debits_pending)))
    }

    /// What is there and not held, minor units, below zero when it owes: what may be owed is there to be owed, not to be paid out.
    pub fn own_means(&self) -> i128 {
        self.balance().saturating_sub(signed(self.totals.debits_pending))
    }
}

fn signed(total: u128) -> i128 {
    i128::try_from(total).unwrap_or(i128::MAX)
}

/// What a record touched: slots and, for each, the record that touched it before (0: none). The chain through these is
/// the account's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Slot of the debit account or of the opened account.
    pub debit_slot: Option<Slot>,
    /// Slot of the credit account.
    pub credit_slot: Option<Slot>,
    /// The record before in the debit account's history.
    pub debit_previous: Sequence,
    /// The record before in the credit account's history.
    pub credit_previous: Sequence,
}

/// A record that contradicts the records before it. The text names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence}: {rule}")]
pub struct BookError {
    /// Which record.
    pub sequence: Sequence,
    /// Which rule.
    pub rule: String,
}

/// What a checkpoint says of the whole book.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BookSummary {
    /// Per currency number: sum of the amounts posted, and how many.
    pub turnover: BTreeMap<u16, (u128, u64)>,
    /// The ledger's second.
    pub second: u32,
    /// The first and the last record of the policy in force; 0 when there is none.
    pub policy: (Sequence, Sequence),
    /// All transfers of which something was refunded.
    pub given_back: Sum,
}

/// Balances at one sequence.
#[derive(Debug)]
pub struct Book {
    accounts: Accounts,
    gateways: BTreeMap<GatewayId, GatewayEntry>,
    open: Open,
    windows: Windows,
    distributions: Distributions,
    /// Records up to here are in `windows` already.
    windows_at: Sequence,
    policy: Arc<Policy>,
    policy_parts: Vec<u8>,
    /// First record of the policy that is being read.
    policy_first: Sequence,
    summary: BookSummary,
    /// Records up to here are in `summary` already.
    summary_at: Sequence,
    /// Records up to here may be about things that the checkpoint has forgotten.
    horizon: Sequence,
    classes: ClassSums,
    /// Limits that did not hold.
    notes: Vec<BookError>,
    sequence: Sequence,
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

impl Book {
    /// The book before the first record.
    pub fn new() -> Self {
        Self {
            accounts: Accounts::new(),
            gateways: BTreeMap::new(),
            open: Open::new(),
            windows: Windows::default(),
            distributions: Distributions::default(),
            windows_at: 0,
            policy: Arc::default(),
            policy_parts: Vec::new(),
            policy_first: 0,
            summary: BookSummary::default(),
            summary_at: 0,
            horizon: 0,
            classes: ClassSums::default(),
            notes: Vec::new(),
            sequence: 0,
        }
    }

    /// The last record applied.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Says where the records to come begin: the next one is `sequence + 1`.
    pub fn start_at(&mut self, sequence: Sequence) {
        self.sequence = sequence;
    }

    /// The number of accounts.
    pub fn len(&self) -> usize {
        self.accounts.table.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.accounts.table.is_empty()
    }

    /// All accounts in order of opening.
    pub fn accounts(&self) -> impl Iterator<Item = BookAccount> {
        self.accounts.iter()
    }

    /// The account in a slot.
    pub fn account_at(&self, slot: Slot) -> Option<BookAccount> {
        self.accounts.at(slot)
    }

    /// Some accounts as the store has them, in order of slot.
    pub fn packed(&self, first: Slot, count: u32) -> Vec<u8> {
        let slots = first..first.saturating_add(count);
        slots.map_while(|slot| self.accounts.at(slot)).flat_map(|account| encode_account(&account)).collect()
    }

    /// The gateways in order of number.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayEntry> {
        self.gateways.values()
    }

    /// Limits that did not hold, since the last call.
    pub fn take_notes(&mut self) -> Vec<BookError> {
        std::mem::take(&mut self.notes)
    }

    /// What is open.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// What is open, for checkpoints to ask what changed.
    pub fn open_mut(&mut self) -> &mut Open {
        &mut self.open
    }

    /// Settlement windows, their positions and payouts.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The latest runs of distributions.
    pub fn distributions(&self) -> &Distributions {
        &self.distributions
    }

    /// The policy in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Whether part of a policy was read and part was not.
    pub fn is_amid_policy(&self) -> bool {
        !self.policy_parts.is_empty()
    }

    /// What a checkpoint must know besides accounts and what is open.
    pub fn summary(&self) -> BookSummary {
        BookSummary { given_back: self.open.lives.sum(), ..self.summary.clone() }
    }

    /// The ledger's second.
    pub fn second(&self) -> u32 {
        self.summary.second
    }

    /// Per currency and number of the class: sum of the balances.
    pub fn classes(&self) -> &BTreeMap<(u16, u8), i128> {
        self.classes.sums()
    }

    /// Per currency number: sum of the amounts posted, and how many.
    pub fn turnover(&self) -> &BTreeMap<u16, (u128, u64)> {
        &self.summary.turnover
    }

    /// Adds an account from a checkpoint, in order of slot. The caller has checked that the id is new.
    pub fn load_account(&mut self, account: &BookAccount) {
        self.classes.add((account.properties.currency, account.properties.class), account.balance());
        self.accounts.insert(account);
    }

    /// Adds a gateway from the store.
    pub fn load_gateway(&mut self, gateway: GatewayEntry) {
        self.gateways.insert(gateway.id, gateway);
    }

    /// Takes over what a checkpoint at this sequence says, and the policy that was in force. Entries may be as of any record up to
    /// `horizon`.
    pub fn load_summary(&mut self, at: (Sequence, Sequence), summary: BookSummary, policy: Arc<Policy>) {
        (self.summary_at, self.horizon) = at;
        self.summary = summary;
        self.open.tallies.lay_out(&policy, self.summary.policy.1);
        self.policy = policy;
    }

    /// Takes over where the lives of the checkpoint are; after its summary.
    pub fn load_lives(&mut self, store: Arc<dyn super::LifeStore>) {
        self.open.lives.load(store, self.summary.given_back);
    }

    /// Finds an account.
    pub fn account(&self, id: AccountId) -> Option<BookAccount> {
        self.account_at(self.accounts.find(id)?)
    }

    /// The slot of an account.
    pub fn slot_of(&self, id: AccountId) -> Option<Slot> {
        self.accounts.find(id)
    }

    /// Applies the next record.
    pub fn apply(&mut self, time_ns: u64, record: &Record) -> Result<Applied, BookError> {
        match record {
            Record::Transfer { transfer, outcome, gateway } => {
                let parties = (transfer.debit, transfer.credit);
                let slots = if outcome.is_accepted() { self.find_both(parties) } else { (None, None) };
                self.apply_transfer((transfer, *outcome, *gateway), slots)
            }
            Record::Internal { transfer, gateway } => self.apply_internal(transfer, *gateway),
            Record::Account { account, .. } => self.apply_account(time_ns, account),
            Record::Gateway(entry) => {
                self.next();
                self.gateways.insert(entry.id, *entry);
                Ok(Applied::default())
            }
            Record::Clock { second } => {
                if self.next() > self.summary_at {
                    self.summary.second = *second;
                }
                Ok(Applied::default())
            }
            Record::Policy(part) => self.apply_policy(time_ns, part),
            Record::Participant(..) | Record::Window(_) | Record::Payout(_) | Record::Distribution(_) => {
                self.apply_clearing(time_ns, record)
            }
            // What banks say changes no balance.
            Record::Statement(_) | Record::Break(_) => {
                self.next();
                Ok(Applied::default())
            }
        }
    }

    fn next(&mut self) -> Sequence {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }

    fn broken(&self, transfer: &Transfer, rule: &str) -> BookError {
        let what = transfer.operation().name();
        BookError { sequence: self.sequence, rule: format!("{what} {}: {rule}", transfer.id) }
    }

    /// Applies a client's transfer whose slots are known from [`Self::find_both`].
    #[inline]
    pub fn apply_transfer(
        &mut self,
        (transfer, outcome, gateway): (&Transfer, Code, GatewayId),
        slots: (Option<Slot>, Option<Slot>),
    ) -> Result<Applied, BookError> {
        self.next();
        if !outcome.is_accepted() {
            return Ok(Applied::default());
        }
        if transfer.is_plain() {
            transfer.check().map_err(|code| self.broken(transfer, code.meaning()))?;
        } else if let Err(code) = transfer.as_requested(true).check() {
            return Err(self.broken(transfer, code.meaning()));
        }
        match transfer.operation() {
            Operation::Require => Ok(Applied::default()),
            Operation::Change => self.apply_change(transfer, slots.0),
            _ => self.move_money(transfer, (gateway, true), slots),
        }
    }

    fn apply_internal(&mut self, transfer: &Transfer, gateway: GatewayId) -> Result<Applied, BookError> {
        self.next();
        let slots = self.find_both((transfer.debit, transfer.credit));
        if transfer.amount == 0 {
            return Err(self.broken(transfer, "the ledger itself moved nothing"));
        }
        self.move_money(transfer, (gateway, false), slots)
    }

    /// Applies the one effect of a record that is about money.
    fn move_money(
        &mut self,
        transfer: &Transfer,
        (gateway, by_client): (GatewayId, bool),
        (debit_slot, credit_slot): (Option<Slot>, Option<Slot>),
    ) -> Result<Applied, BookError> {
        let sequence = self.sequence;
        let (Some(debit_slot), Some(credit_slot)) = (debit_slot, credit_slot) else {
            return Err(self.broken(transfer, "accepted between accounts of which one was never opened"));
        };
        let mut applied =
            Applied { debit_slot: Some(debit_slot), credit_slot: Some(credit_slot), ..Applied::default() };
        let table = &self.accounts.table;
        let (Some(debit), Some(credit)) = (table.get(debit_slot), table.get(credit_slot)) else {
            return Err(self.broken(transfer, "a slot is empty"));
        };
        let currency = debit.currency();
        if credit.currency() != currency {
            return Err(self.broken(transfer, "accepted between accounts of different currencies"));
        }
        let level =
            |slot, account: &PackedAccount| self.open.levels.as_of(sequence, slot, (account.level(), account.head()));
        let levels = (level(debit_slot, debit), level(credit_slot, credit));
        rules::check_parties(&self.policy, transfer, by_client, (debit, credit), sequence)
            .map_err(|rule| self.broken(transfer, rule))?;
        let effect = Effect::of(transfer);
        let classes = ((currency, debit.class()), (currency, credit.class()));
        let posted = self.accounts.post(debit_slot, sequence, |totals| effect.on_debit(totals));
        applied.debit_previous = posted.map_err(|rule| self.broken(transfer, rule))?;
        let posted = self.accounts.post(credit_slot, sequence, |totals| effect.on_credit(totals));
        applied.credit_previous = posted.map_err(|rule| self.broken(transfer, rule))?;
        if effect.posts {
            let is_new = (applied.debit_previous < sequence, applied.credit_previous < sequence);
            self.classes.moved(classes, is_new, transfer.amount);
        }
        if effect.posts && sequence > self.summary_at {
            let turnover = self.summary.turnover.entry(currency).or_default();
            *turnover = (turnover.0.saturating_add(transfer.amount), turnover.1.saturating_add(1));
        }
        if effect.posts && sequence > self.windows_at && (self.policy.clears() || gateway.is_ledger()) {
            self.follow_windows(transfer, (gateway, by_client), currency, (debit_slot, credit_slot));
        }
        if !transfer.is_plain() {
            self.follow_open(transfer, gateway, levels).map_err(|rule| self.broken(transfer, rule))?;
        }
        if self.policy.has_limits() {
            let counted = Counted {
                debit: (transfer.debit, levels.0),
                credit: (transfer.credit, levels.1),
                slots: (Some(debit_slot), Some(credit_slot)),
                gateway,
                code: transfer.code,
                currency,
                amount: transfer.amount,
                count: u32::from(transfer.operation() != Operation::Raise),
                second: self.summary.second,
            };
            self.follow_limits(transfer, by_client, counted);
        }
        Ok(applied)
    }

    /// What a record that posts means for windows.
    #[inline]
    fn follow_windows(
        &mut self,
        transfer: &Transfer,
        (gateway, by_client): (GatewayId, bool),
        currency: u16,
        slots: (Slot, Slot),
    ) {
        let by_ledger = by_client && gateway.is_ledger();
        if by_ledger && transfer.user_data_32 == SettlementPurpose::Distribution as u32 {
            self.distributions.transfer(transfer);
        } else if by_ledger {
            return self.windows.settlement(transfer);
        }
        if let Some(scheme) = self.policy.scheme_of(transfer, currency) {
            self.windows.transfer(scheme, transfer, slots);
        }
    }

    /// What a record means for holds and refunds.
    fn follow_open(&mut self, transfer: &Transfer, gateway: GatewayId, levels: (u8, u8)) -> Result<(), &'static str> {
        let (second, sequence) = (self.summary.second, self.sequence);
        match transfer.operation() {
            Operation::Refund | Operation::Reversal => self.open.gave_back(transfer, (sequence, false))?,
            Operation::Raise
            | Operation::Capture
            | Operation::Void
            | Operation::Arrive
            | Operation::Release
            | Operation::Expire => self.acted(transfer, levels)?,
            _ => self.open.opened(transfer, (gateway, second, levels), sequence),
        }
        Ok(())
    }

    /// What a record means for limits.
    #[inline]
    fn follow_limits(&mut self, transfer: &Transfer, by_client: bool, mut counted: Counted) {
        let (operation, sequence) = (transfer.operation(), self.sequence);
        let tallies = &mut self.open.tallies;
        if matches!(operation, Operation::Void | Operation::Release | Operation::Expire) {
            (counted.second, counted.gateway, counted.count) = super::read_counted(transfer.time_ns);
            tallies.uncount(&self.policy, sequence, &counted);
        } else if (by_client || operation == Operation::Raise)
            && Policy::counts(operation)
            && !(by_client && counted.gateway.is_ledger())
            && transfer.amount > 0
            && !tallies.count(&self.policy, sequence, &counted)
        {
            // No money is wrong, so nobody is kept from starting by it.
            self.notes.push(self.broken(transfer, "it exceeds a limit of the policy"));
        }
    }

    fn acted(&mut self, transfer: &Transfer, levels: (u8, u8)) -> Result<(), &'static str> {
        let before = self.open.acted((transfer, levels), self.sequence, self.horizon)?;
        // Of what a checkpoint has forgotten nobody knows any more whether it was a delayed transfer; for a hold it does no harm.
        let cancelled = transfer.operation() == Operation::Void
            && before.is_none_or(|before| before.kind == super::PendingKind::Delayed);
        if cancelled {
            self.open.gave_back(transfer, (self.sequence, before.is_some()))?;
        }
        Ok(())
    }

    /// Per currency number, the sum of all balances; each must be zero.
    pub fn balance_sums(&self) -> BTreeMap<u16, i128> {
        let mut sums = BTreeMap::new();
        for account in self.accounts() {
            let sum: &mut i128 = sums.entry(account.properties.currency).or_default();
            *sum = sum.saturating_add(account.balance());
        }
        sums
    }

    /// Accounts whose pending totals are not the sums of what is open on them.
    pub fn pending_differences(&self) -> Vec<AccountId> {
        let sums = open::pending_sums(&self.open);
        let differ = self.accounts.iter().filter(|account| {
            let expected = sums.get(&account.properties.id).copied().unwrap_or_default();
            (account.totals.debits_pending, account.totals.credits_pending) != expected
        });
        differ.map(|account| account.properties.id).collect()
    }

    /// What limits say of an account as payer: name, what is used of it (sum and count) and the most, as of this second.
    pub fn limits_of(&self, account: &BookAccount, second: u32) -> Vec<LimitUse> {
        let properties = &account.properties;
        let side = (properties.id, properties.level);
        let counted = Counted {
            debit: side,
            credit: side,
            slots: (None, None),
            gateway: GatewayId(0),
            code: 0,
            currency: properties.currency,
            amount: 0,
            count: 0,
            second: second.max(self.summary.second),
        };
        open::used_of(&self.open, &self.policy, &counted, &[Scope::Account, Scope::Level])
    }
}

/// A limit's name, what is used of it, and the most: sums and counts.
pub type LimitUse = (String, (u128, u32), (Option<u128>, Option<u32>));

//! From closed to settled: the settlement transfers, the payouts, their file.
//!
//! A window is settled by the scheme as it was when the window closed. What has been settled is read from the ledger, where each
//! settlement transfer says which position it settles, and is never asked for again; so a repeat after a crash goes on with what is
//! left. Settlement moves what is there: a participant that has spent what it received is paid what it has left, and the rest is
//! carried over. When an account is frozen or closed, its participant is left out and the others are settled without it.

use std::collections::BTreeMap;
use std::path::Path;

use super::netting::{Instruction, instructions};
use super::payout_file::{PayoutFile, write_payouts};
use super::ports::{Ports, Snapshot, Trouble};
use crate::ledger::{
    AccountId, AccountState, Atomicity, BALANCING, Book, BookAccount, Code, GatewayId, LINKED, Leg, LegKey,
    Participant, PayoutEntry, PayoutState, Record, Scheme, SettlementPurpose, Transfer, TransferId, Window,
    WindowEntry, WindowState,
};

/// Attempts at one transaction for all; whoever still stands in the way then is settled alone.
const ATTEMPTS_MAX: u64 = 16;

/// Most transfers of one settlement transaction; a window that needs more is settled in several.
const LEGS_MAX: usize = 1 << 16;

/// One window to settle, or that was settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The scheme as it was when the window closed.
    pub(super) scheme: &'a Scheme,
    pub(super) window: &'a Window,
}

/// An instruction and the account through which it is settled.
type Wanted = (Instruction, AccountId);

/// An id that follows from what it is for.
pub(super) fn derived_id(what: &[u8], parts: &[&[u8]]) -> TransferId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(what);
    for part in parts {
        hasher.update(part);
    }
    let bytes: [u8; 32] = *hasher.finalize().as_bytes();
    let raw = bytes.first_chunk::<16>().map_or(1, |first| u128::from_le_bytes(*first));
    TransferId::from_raw(raw.clamp(1, u128::MAX.wrapping_sub(1)))
}

/// The account of a participant in a currency that may take part in settlement now.
pub(super) fn open_account(book: &Book, accounts: &[AccountId], currency: u16, debits: bool) -> Option<BookAccount> {
    let accounts = accounts.iter().filter_map(|id| book.account(*id));
    accounts.into_iter().find(|account| {
        let takes_part =
            account.state == AccountState::Open || (!debits && account.state == AccountState::DebitsFrozen);
        account.properties.currency == currency && takes_part
    })
}

/// How much of an instruction can be settled now; collections come first and pay for what follows.
fn take(means: &mut i128, instruction: &Instruction) -> u128 {
    let amount = i128::try_from(instruction.amount).unwrap_or(i128::MAX);
    if instruction.is_collection {
        *means = means.saturating_add(amount);
        return instruction.amount;
    }
    let amount = amount.min(*means).max(0);
    *means = means.saturating_sub(amount);
    amount.unsigned_abs()
}

/// The instructions that were not settled in full, each with what is missing.
fn waiting(all: Vec<Instruction>, legs: &BTreeMap<LegKey, Leg>) -> Vec<(Instruction, u128)> {
    let missing = all.into_iter().map(|instruction| {
        let settled = legs.get(&instruction.key()).map_or(0, |leg| leg.amount);
        (instruction, instruction.amount.saturating_sub(settled))
    });
    missing.filter(|(_, missing)| *missing > 0).collect()
}

impl Settling<'_> {
    fn participant(&self, place: u32) -> Option<&Participant> {
        self.snapshot.participants.get(usize::try_from(place).ok()?)
    }

    fn number(&self, place: u32) -> u32 {
        self.participant(place).map_or(0, |participant| participant.id)
    }

    /// What is left to settle, with the accounts as they are now; amounts are what is there.
    fn wanted<P: Ports>(&self, ports: &P, legs: &BTreeMap<LegKey, Leg>) -> Result<Vec<Wanted>, Trouble> {
        let left = instructions(self.scheme, &self.window.positions).into_iter();
        let left: Vec<(Instruction, Vec<AccountId>)> = left
            .filter(|instruction| !legs.contains_key(&instruction.key()))
            .map(|instruction| {
                let accounts = self.participant(instruction.place).map(|participant| participant.accounts.clone());
                (instruction, accounts.unwrap_or_default())
            })
            .collect();
        let (currency, minimum) = (self.scheme.currency, self.scheme.minimum_payout);
        ports.inspect(move |book| {
            let mut means: BTreeMap<u32, i128> = BTreeMap::new();
            let found = left.into_iter().filter_map(|(mut instruction, accounts)| {
                let account = open_account(book, &accounts, currency, !instruction.is_collection)?;
                let means = means.entry(instruction.place).or_insert_with(|| account.own_means());
                instruction.amount = take(means, &instruction);
                let least = if instruction.is_collection { 0 } else { minimum };
                Some((instruction, account.properties.id)).filter(|_| instruction.amount >= least.max(1))
            });
            found.collect()
        })
    }

    /// Says whose part was settled in part or not at all, whatever the reason; the rest waits for the next window.
    fn tell_what_waits(&self, legs: &BTreeMap<LegKey, Leg>) {
        let (scheme, window) = (self.window.scheme, self.window.number);
        for (instruction, missing) in waiting(instructions(self.scheme, &self.window.positions), legs) {
            let (participant, is_collection) = (self.number(instruction.place), instruction.is_collection);
            tracing::warn!(scheme, window, participant, is_collection, %missing, "not settled in full; the rest waits");
        }
    }

    fn transfer(&self, (instruction, account): &Wanted, attempt: u64) -> Transfer {
        let key = self.window.key();
        let (number, other) = (self.number(instruction.place), self.number(instruction.counterparty));
        // Nobody can use up ids that nobody can know: from the second attempt on they depend on where the ledger is.
        let salt = if attempt == 0 { 0 } else { self.snapshot.sequence.saturating_add(attempt) };
        let id = derived_id(
            b"heng settlement 1",
            &[
                &self.window.digest,
                &salt.to_le_bytes(),
                &number.to_le_bytes(),
                &other.to_le_bytes(),
                &[u8::from(instruction.is_collection)],
            ],
        );
        let bank = self.scheme.settlement_account;
        let (debit, credit) = if instruction.is_collection { (bank, *account) } else { (*account, bank) };
        Transfer {
            id,
            debit,
            credit,
            amount: instruction.amount,
            code: self.scheme.settlement_code,
            flags: BALANCING,
            user_data_128: u128::from(other) << 64 | u128::from(number),
            user_data_64: Window::tag(key),
            user_data_32: if instruction.is_collection {
                SettlementPurpose::Collection
            } else {
                SettlementPurpose::Payout
            } as u32,
            ..Transfer::default()
        }
    }

    fn payout(&self, (place, counterparty, is_collection): LegKey, leg: &Leg) -> PayoutEntry {
        PayoutEntry {
            id: leg.id,
            window: self.window.key(),
            state: PayoutState::Issued,
            is_collection,
            participant: self.number(place),
            counterparty: self.number(counterparty),
            amount: leg.amount,
            day: self.window.settlement_day,
            reason: [0; 48],
            by: GatewayId(0),
        }
    }

    /// What has been settled so far.
    fn legs<P: Ports>(&self, ports: &P) -> Result<BTreeMap<LegKey, Leg>, Trouble> {
        let key = self.window.key();
        ports.inspect(move |book| {
            book.windows().windows().get(&key).map(|window| window.legs.as_ref().clone()).unwrap_or_default()
        })
    }

    /// Refuses to begin when nothing can come of it.
    fn check<P: Ports>(&self, ports: &P) -> Result<(), Trouble> {
        let (bank, currency) = (self.scheme.settlement_account, self.scheme.currency);
        let fits = ports.inspect(move |book| {
            let account = book.account(bank);
            account.is_some_and(|known| known.properties.currency == currency && known.state == AccountState::Open)
        })?;
        if fits {
            return Ok(());
        }
        Err(Trouble::Waits(format!(
            "scheme {}: its settlement account {bank} is not open, or in another currency; open it and settlement goes on",
            self.scheme.name
        )))
    }
}

/// Settles a closed window; answers the files of its payouts.
pub(super) fn settle<P: Ports>(
    ports: &P,
    settling: Settling<'_>,
    directory: &Path,
) -> Result<Vec<PayoutFile>, Trouble> {
    settling.check(ports)?;
    let key = settling.window.key();
    let known = ports.inspect(move |book| {
        let issued = book.windows().payouts().values().filter(|payout| payout.window == key);
        issued.map(|payout| payout.id).collect::<std::collections::BTreeSet<TransferId>>()
    })?;
    // Once a payout is issued somebody may have its file, so nobody comes in any more; who was left out is carried over.
    if known.is_empty() {
        let wanted = settling.wanted(ports, &settling.legs(ports)?)?;
        match settling.scheme.atomic {
            Atomicity::Scheme => together(ports, settling, wanted)?,
            Atomicity::Participant => each(ports, settling, &wanted, 0)?,
        }
    }
    let legs = settling.legs(ports)?;
    let payouts: Vec<PayoutEntry> =
        legs.iter().filter(|(_, leg)| leg.amount > 0).map(|(key, leg)| settling.payout(*key, leg)).collect();
    let new: Vec<Record> =
        payouts.iter().filter(|payout| !known.contains(&payout.id)).map(|payout| Record::Payout(*payout)).collect();
    ports.record(&new)?;
    let files = write_payouts(directory, settling, &payouts)?;
    settling.tell_what_waits(&legs);
    let window = settling.window;
    let entry = WindowEntry {
        scheme: window.scheme,
        number: window.number,
        state: WindowState::Settled,
        digest: [0; 32],
        day: window.day,
        settlement_day: window.settlement_day,
        sum: payouts.iter().filter(|payout| !payout.is_collection).map(|payout| payout.amount).sum(),
        count: u64::try_from(payouts.len()).unwrap_or(u64::MAX),
        by: GatewayId(0),
    };
    ports.record(&[Record::Window(entry)])?;
    Ok(files)
}

/// Links transfers into transactions, which end where `ends` says.
pub(super) fn link(transfers: &mut [Transfer], ends: impl Fn(&Transfer, &Transfer) -> bool) {
    let nexts: Vec<Transfer> = transfers.iter().skip(1).copied().collect();
    for (transfer, next) in transfers.iter_mut().zip(&nexts) {
        if !ends(transfer, next) {
            transfer.flags |= LINKED;
        }
    }
}

/// The refusal that is the reason of the others of its transaction.
pub(super) fn stands_in_the_way(codes: &[Code]) -> Option<Code> {
    let refused = codes.iter().copied().filter(|code| !code.is_accepted());
    refused.min_by_key(|code| *code == Code::TransactionFailed)
}

/// Makes transfers; answers their codes.
pub(super) fn submit<P: Ports>(ports: &P, transfers: Vec<Transfer>) -> Result<Vec<Code>, Trouble> {
    let codes = ports.submit(transfers)?;
    // What was decided the first time could not be read: nothing is known, and nothing must be concluded.
    if codes.contains(&Code::Internal) {
        return Err(Trouble::Journal("the first outcome of a settlement transfer cannot be read".to_owned()));
    }
    Ok(codes)
}

/// All in one transaction, without those whose accounts refuse.
fn together<P: Ports>(ports: &P, settling: Settling<'_>, mut left: Vec<Wanted>) -> Result<(), Trouble> {
    for attempt in 0..ATTEMPTS_MAX {
        if left.is_empty() {
            return Ok(());
        }
        let chunk: Vec<Wanted> = left.iter().take(LEGS_MAX).copied().collect();
        let mut transfers: Vec<Transfer> = chunk.iter().map(|wanted| settling.transfer(wanted, attempt)).collect();
        link(&mut transfers, |_, _| false);
        let codes = submit(ports, transfers)?;
        let mut outcomes = chunk.iter().zip(codes);
        left.retain(|wanted| {
            let Some((_, code)) = outcomes.next() else { return true };
            // An id that somebody else used says nothing of the account.
            let stays = matches!(code, Code::TransactionFailed | Code::IdReused);
            if !stays && !code.is_accepted() {
                tracing::warn!(account = %wanted.1, code = code.name(), "left out of settlement");
            }
            stays
        });
    }
    each(ports, settling, &left, ATTEMPTS_MAX)
}

/// Those of participants who bring more than they get, and the others; each participant's together, collections first.
fn by_what_they_bring(wanted: &[Wanted]) -> [Vec<Wanted>; 2] {
    let mut nets: BTreeMap<u32, i128> = BTreeMap::new();
    for (instruction, _) in wanted {
        let amount = i128::try_from(instruction.amount).unwrap_or(i128::MAX);
        let net = nets.entry(instruction.place).or_default();
        *net = net.saturating_add(if instruction.is_collection { amount.saturating_neg() } else { amount });
    }
    let mut sorted = wanted.to_vec();
    sorted.sort_by_key(|(instruction, _)| (instruction.place, !instruction.is_collection, instruction.counterparty));
    let brings = |wanted: &Wanted| nets.get(&wanted.0.place).is_some_and(|net| *net < 0);
    let (bringing, others) = sorted.into_iter().partition(brings);
    [bringing, others]
}

/// Those of each participant in a transaction of its own; those that are refused are left out. What is brought is there before the others are
/// paid, whose transactions may be decided in any order: a mirror may take in no more than was paid out of it.
fn each<P: Ports>(ports: &P, settling: Settling<'_>, wanted: &[Wanted], first: u64) -> Result<(), Trouble> {
    for of_some in by_what_they_bring(wanted) {
        let used = each_of(ports, settling, &of_some, first)?;
        each_of(ports, settling, &used, first.saturating_add(1))?;
    }
    Ok(())
}

/// One attempt; answers what has an id that somebody else used, with all of its transaction: that is tried again.
fn each_of<P: Ports>(ports: &P, settling: Settling<'_>, left: &[Wanted], attempt: u64) -> Result<Vec<Wanted>, Trouble> {
    let mut used = Vec::new();
    for chunk in left.chunks(LEGS_MAX) {
        let mut transfers: Vec<Transfer> = chunk.iter().map(|wanted| settling.transfer(wanted, attempt)).collect();
        let whose = |transfer: &Transfer| transfer.user_data_128 & u128::from(u64::MAX);
        link(&mut transfers, |transfer, next| whose(transfer) != whose(next));
        let codes = submit(ports, transfers)?;
        for (of, codes) in chunk.chunk_by(|a, b| a.0.place == b.0.place).zip(by_participant(chunk, &codes)) {
            if codes.contains(&Code::IdReused) {
                used.extend_from_slice(of);
            } else if let (Some(code), Some((_, account))) = (stands_in_the_way(codes), of.first()) {
                tracing::warn!(%account, code = code.name(), "left out of settlement");
            }
        }
    }
    Ok(used)
}

/// The codes of each participant's transaction.
fn by_participant<'a>(chunk: &'a [Wanted], codes: &'a [Code]) -> impl Iterator<Item = &'a [Code]> {
    let mut from = 0_usize;
    chunk.chunk_by(|a, b| a.0.place == b.0.place).map(move |of| {
        let codes = codes.get(from..from.saturating_add(of.len())).unwrap_or_default();
        from = from.saturating_add(of.len());
        codes
    })
}

/// The transfer that gives back what the bank refused. Which payout it is about stands in it, so that it is not made twice.
pub(super) fn return_transfer(scheme: &Scheme, payout: &PayoutEntry, account: AccountId, sequence: u64) -> Transfer {
    let bank = scheme.settlement_account;
    let (debit, credit) = if payout.is_collection { (account, bank) } else { (bank, account) };
    Transfer {
        id: derived_id(b"heng return 1", &[&payout.id.raw().to_le_bytes(), &sequence.to_le_bytes()]),
        debit,
        credit,
        amount: payout.amount,
        code: scheme.settlement_code,
        user_data_128: payout.id.raw(),
        user_data_64: Window::tag(payout.window),
        user_data_32: SettlementPurpose::Return as u32,
        ..Transfer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_was_not_moved() {
        let all = [(1, false, 100), (2, false, 100), (2, true, 100), (3, false, 100)];
        let all =
            all.map(|(place, is_collection, amount)| Instruction { place, counterparty: 0, is_collection, amount });
        let moved = [(0, 100), (1, 40), (2, 100)]
            .map(|(at, amount): (usize, u128)| (all[at].key(), Leg { id: TransferId::from_raw(1), amount }));
        let found = waiting(all.to_vec(), &BTreeMap::from(moved));
        assert_eq!(found, [(all[1], 60), (all[3], 100)]);
    }
}

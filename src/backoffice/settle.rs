//! From closed to settled: the settlement transfers, the payouts, their file.
//!
//! Settlement moves what is there: a participant that has spent what it received is paid what it has left, and the rest is carried
//! over. When an account is frozen or closed, its participant is left out and the others are settled without it. Which ones are
//! left out follows from recorded outcomes alone, so a repeat after a crash asks for the same transfers with the same ids.

use std::collections::BTreeSet;
use std::path::Path;

use super::netting::{Instruction, instructions};
use super::payout_file::{PayoutFile, write_payouts};
use super::ports::{Ports, Settlement, Snapshot, Trouble};
use crate::ledger::{
    AccountId, Atomicity, BALANCING, Code, GatewayId, LINKED, Participant, PayoutEntry, PayoutState, Record, Scheme,
    SettlementPurpose, Transfer, TransferId, Window, WindowEntry, WindowState,
};

/// Attempts at one transaction for all; whoever still stands in the way then is settled alone.
const ATTEMPTS_MAX: u32 = 64;

/// One window to settle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) scheme: &'a Scheme,
    pub(super) window: &'a Window,
}

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

impl Settling<'_> {
    fn participant(&self, place: u32) -> Option<&Participant> {
        self.snapshot.participants.get(usize::try_from(place).ok()?)
    }

    fn number(&self, place: u32) -> u32 {
        self.participant(place).map_or(0, |participant| participant.id)
    }

    /// The account through which a participant is settled: its first one in the scheme's currency.
    fn account<P: Ports>(&self, ports: &P, place: u32) -> Result<Option<AccountId>, Trouble> {
        let accounts = self.participant(place).map(|participant| participant.accounts.clone()).unwrap_or_default();
        let currency = self.scheme.currency;
        ports.inspect(move |book| {
            let has = |id: &AccountId| book.account(*id).is_some_and(|known| known.properties.currency == currency);
            accounts.into_iter().find(has)
        })
    }

    fn transfer(&self, (instruction, account): (&Instruction, AccountId), attempt: u32) -> Transfer {
        let key = self.window.key();
        let digest = self.window.positions.digest(key, self.window.last, &self.snapshot.participants);
        let (number, other) = (self.number(instruction.place), self.number(instruction.counterparty));
        let id = derived_id(
            b"heng settlement 1",
            &[
                &digest,
                &attempt.to_le_bytes(),
                &number.to_le_bytes(),
                &other.to_le_bytes(),
                &[u8::from(instruction.is_collection)],
            ],
        );
        let bank = self.scheme.settlement_account;
        let (debit, credit) = if instruction.is_collection { (bank, account) } else { (account, bank) };
        Transfer {
            id,
            debit,
            credit,
            amount: instruction.amount,
            code: self.scheme.settlement_code,
            flags: BALANCING,
            user_data_128: u128::from(number),
            user_data_64: Window::tag(key),
            user_data_32: SettlementPurpose::Position as u32,
            ..Transfer::default()
        }
    }

    fn payout(&self, instruction: &Instruction, transfer: &Transfer, amount: u128) -> PayoutEntry {
        PayoutEntry {
            id: transfer.id,
            window: self.window.key(),
            state: PayoutState::Issued,
            is_collection: instruction.is_collection,
            participant: self.number(instruction.place),
            counterparty: self.number(instruction.counterparty),
            amount,
            day: self.window.settlement_day,
            reason: [0; 48],
            by: GatewayId(0),
        }
    }
}

/// Settles a closed window; answers the file of its payouts.
pub(super) fn settle<P: Ports>(
    ports: &P,
    settling: Settling<'_>,
    directory: &Path,
) -> Result<Option<PayoutFile>, Trouble> {
    let Settling { snapshot, scheme, window } = settling;
    let mut wanted = Vec::new();
    for instruction in instructions(scheme, &window.positions) {
        if let Some(account) = settling.account(ports, instruction.place)? {
            wanted.push((instruction, account));
        }
    }
    let done = match scheme.atomic {
        Atomicity::Scheme => together(ports, settling, &wanted)?,
        Atomicity::Participant => each(ports, settling, &wanted)?,
    };
    let payouts: Vec<PayoutEntry> = done
        .iter()
        .filter(|(_, _, settled)| settled.amount > 0)
        .map(|(instruction, transfer, settled)| settling.payout(instruction, transfer, settled.amount))
        .collect();
    let known: BTreeSet<TransferId> = snapshot.payouts.iter().map(|payout| payout.id).collect();
    let new: Vec<Record> =
        payouts.iter().filter(|payout| !known.contains(&payout.id)).map(|payout| Record::Payout(*payout)).collect();
    ports.record(&new)?;
    let file = write_payouts(directory, settling, &payouts)?;
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
    Ok(file)
}

type Done = Vec<(Instruction, Transfer, Settlement)>;

/// All in one transaction, without those whose accounts refuse.
fn together<P: Ports>(ports: &P, settling: Settling<'_>, wanted: &[(Instruction, AccountId)]) -> Result<Done, Trouble> {
    let mut left: Vec<(Instruction, AccountId)> = wanted.to_vec();
    let mut done = Vec::new();
    for attempt in 0..ATTEMPTS_MAX {
        if left.is_empty() {
            return Ok(done);
        }
        let mut transfers: Vec<Transfer> =
            left.iter().map(|(instruction, account)| settling.transfer((instruction, *account), attempt)).collect();
        let last = transfers.len().saturating_sub(1);
        for transfer in transfers.iter_mut().take(last) {
            transfer.flags |= LINKED;
        }
        let settled = ports.submit(transfers.clone())?;
        // Whatever was accepted is never asked for again under another id.
        let mut outcomes = transfers.into_iter().zip(settled);
        left.retain(|(instruction, account)| {
            let Some((transfer, settled)) = outcomes.next() else { return false };
            if settled.code.is_accepted() {
                done.push((*instruction, transfer, settled));
                return false;
            }
            // An id that somebody else used says nothing of the account.
            let stays = matches!(settled.code, Code::TransactionFailed | Code::IdReused);
            if !stays {
                tracing::warn!(%account, code = settled.code.name(), "left out of settlement");
            }
            stays
        });
    }
    done.extend(each(ports, settling, &left)?);
    Ok(done)
}

/// One after the other; those that are refused are left out.
fn each<P: Ports>(ports: &P, settling: Settling<'_>, wanted: &[(Instruction, AccountId)]) -> Result<Done, Trouble> {
    let mut done = Vec::new();
    for attempt in ATTEMPTS_MAX..ATTEMPTS_MAX.saturating_add(2) {
        let left = wanted.iter().filter(|(instruction, _)| {
            let is_done = |(known, ..): &(Instruction, Transfer, Settlement)| known == instruction;
            !done.iter().any(is_done)
        });
        let left: Vec<_> = left.collect();
        let transfers: Vec<Transfer> =
            left.iter().map(|(instruction, account)| settling.transfer((instruction, *account), attempt)).collect();
        if transfers.is_empty() {
            break;
        }
        let settled = ports.submit(transfers.clone())?;
        let reused = settled.iter().any(|settled| settled.code == Code::IdReused);
        let all = left.into_iter().zip(transfers).zip(settled);
        let accepted = all.filter(|(_, settled)| settled.code.is_accepted());
        done.extend(accepted.map(|(((instruction, _), transfer), settled)| (*instruction, transfer, settled)));
        if !reused {
            break;
        }
    }
    Ok(done)
}

/// The transfer that gives back what the bank refused; `attempt` counts from 0.
pub(super) fn return_transfer(scheme: &Scheme, payout: &PayoutEntry, account: AccountId, attempt: u32) -> Transfer {
    let bank = scheme.settlement_account;
    let (debit, credit) = if payout.is_collection { (account, bank) } else { (bank, account) };
    Transfer {
        id: derived_id(b"heng return 1", &[&payout.id.raw().to_le_bytes(), &attempt.to_le_bytes()]),
        debit,
        credit,
        amount: payout.amount,
        code: scheme.settlement_code,
        user_data_128: u128::from(payout.participant),
        user_data_64: Window::tag(payout.window),
        user_data_32: SettlementPurpose::Return as u32,
        ..Transfer::default()
    }
}

//! The judge's part about bank statements: what the journal says of them and of breaks, beside what the bank knows it did.

use std::collections::{BTreeMap, BTreeSet};

use heng::backoffice::BreakView;
use heng::ledger::{BreakAction, BreakEntry, Code, PayoutState, Resolution, StatementEntry, Transfer};

use crate::bank::{Bank, MIRROR, WRITTEN_OFF};
use crate::check::ensure;
use crate::windows::Windows;

/// What a write-off has in its `user_data_32`.
pub(crate) const WRITE_OFF: u32 = 3;

/// A break as it must be: kind, cents, state, how it is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    kind: &'static str,
    amount: i128,
    state: &'static str,
    how: &'static str,
    proposed_by: Option<u32>,
    is_posted: bool,
}

/// Statements so far.
#[derive(Debug)]
pub(crate) struct Statements<'a> {
    bank: &'a Bank,
    taken: BTreeSet<[u8; 32]>,
    lines: BTreeSet<usize>,
    /// Payouts of which a statement shows that they were done.
    shown: BTreeSet<u128>,
    breaks: BTreeMap<String, Known>,
}

impl<'a> Statements<'a> {
    pub(crate) fn new(bank: &'a Bank) -> Self {
        let (taken, lines, shown, breaks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { bank, taken, lines, shown, breaks }
    }

    /// Lines that were taken over, and differences that were written off.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let posted = self.breaks.values().filter(|known| known.is_posted).count();
        (u64::try_from(self.lines.len()).unwrap(), u64::try_from(posted).unwrap())
    }

    pub(crate) fn import(&mut self, entry: &StatementEntry) -> Result<(), String> {
        if entry.number == 0 {
            // What is open was matched again.
            return Ok(());
        }
        let statement = self.bank.statements.iter().find(|statement| statement.hash() == entry.hash);
        let statement = statement.ok_or_else(|| format!("no bank wrote {entry:?}"))?;
        ensure(self.taken.insert(entry.hash), || format!("a statement is imported twice: {entry:?}"))?;
        let is_same = (usize::try_from(entry.number), usize::try_from(entry.lines), entry.sum)
            == (Ok(self.taken.len()), Ok(statement.lines.len()), statement.sum());
        ensure(is_same && entry.wrong == 0, || format!("{entry:?} is not {statement:?}"))?;
        for (place, line) in (1..).zip(&statement.lines) {
            if !self.lines.insert(line.number) {
                continue;
            }
            let (kind, amount) = match line.payout {
                None => ("extra", line.amount),
                Some((_, amount)) if line.amount != amount => ("amount", line.amount - amount),
                Some((payout, _)) if !self.shown.insert(payout) => ("duplicate", line.amount),
                Some(_) => continue,
            };
            let known = Known { kind, amount, state: "open", how: "", proposed_by: None, is_posted: false };
            self.breaks.insert(format!("L{}.{place}", entry.number), known);
        }
        Ok(())
    }

    /// Somebody did something about a break.
    pub(crate) fn act(&mut self, entry: &BreakEntry) -> Result<(), String> {
        let known =
            self.breaks.get_mut(&entry.key.to_string()).ok_or_else(|| format!("{entry:?} is about no break"))?;
        let what = || format!("{entry:?}, and it is {known:?}");
        match (entry.action, entry.resolution) {
            (BreakAction::Propose, Resolution::WriteOff) => {
                ensure(known.state != "resolved", what)?;
                (known.state, known.how, known.proposed_by) = ("proposed", "write-off", Some(entry.by.0));
            }
            (BreakAction::Resolve, Resolution::WriteOff) => {
                ensure(known.is_posted && known.how == "write-off", what)?;
            }
            (BreakAction::Resolve, Resolution::Accept) => {
                ensure(known.state != "resolved", what)?;
                (known.state, known.how) = ("resolved", "accept");
            }
            _ => return Err(what()),
        }
        Ok(())
    }

    /// A difference was posted.
    pub(crate) fn write_off(&mut self, transfer: &Transfer, code: Code) -> Result<(), String> {
        let (statement, place) =
            ((transfer.user_data_128 >> 32) & u128::from(u32::MAX), transfer.user_data_128 & u128::from(u32::MAX));
        let known = self.breaks.get_mut(&format!("L{statement}.{place}"));
        let known = known.ok_or_else(|| format!("{transfer:?} is about no break"))?;
        let (debit, credit) = if known.amount > 0 { (MIRROR, WRITTEN_OFF) } else { (WRITTEN_OFF, MIRROR) };
        let is_right = (transfer.debit.raw(), transfer.credit.raw(), transfer.amount)
            == (debit, credit, known.amount.unsigned_abs());
        let by_another = known.proposed_by.is_some_and(|by| u64::from(by) != transfer.user_data_64);
        ensure(code.is_accepted() && is_right && by_another && known.state == "proposed", || {
            format!("{transfer:?} ({code}) writes off {known:?}")
        })?;
        (known.state, known.how, known.is_posted) = ("resolved", "write-off", true);
        Ok(())
    }

    /// A payout is confirmed: somebody said so, or a statement that was imported before.
    pub(crate) fn confirmed(&self, payout: u128) -> Result<(), String> {
        ensure(self.shown.contains(&payout) || self.bank.by_hand.contains(&payout), || {
            format!("{payout:032x} is confirmed, and nobody says so")
        })
    }

    /// What the office shows is what was found, and what statements show is confirmed.
    pub(crate) fn compare(&self, (views, statements): (&[BreakView], usize), windows: &Windows) -> Result<(), String> {
        let unlike = |view: &&BreakView| {
            self.breaks.get(&view.key).is_none_or(|known| {
                let told = (view.kind.as_str(), view.amount.clone(), view.state.as_str(), view.resolution.as_str());
                told != (known.kind, known.amount.to_string(), known.state, known.how)
            })
        };
        if let Some(view) = views.iter().find(unlike) {
            return Err(format!("the office shows {view:?}, and it is {:?}", self.breaks.get(&view.key)));
        }
        ensure(views.len() == self.breaks.len(), || {
            format!("the office shows {} breaks of {:?}", views.len(), self.breaks)
        })?;
        for statement in self.bank.statements.iter().take(statements) {
            ensure(self.taken.contains(&statement.hash()), || format!("{statement:?} is not in the journal"))?;
        }
        for (payout, state) in windows.payouts() {
            ensure(!self.shown.contains(&payout) || state != Some(PayoutState::Issued), || {
                format!("a statement shows {payout:032x}, and it is not confirmed")
            })?;
        }
        Ok(())
    }
}

//! The judge's part about distributions: each run is due when the schedule says, divides what was there, is paid once and by no other amount, and none
//! is left out.

use heng::ledger::{Code, DistributionEntry, DistributionState, Operation, Transfer};

use crate::check::ensure;
use crate::plain::SECOND_NS;

/// From which account to which: dollars, which no scheme is about.
pub(crate) const FROM: u128 = 8;
const TO: u128 = 7;

/// Cents that stay there.
const KEEP: i128 = 25;

/// Time between two runs.
const EVERY_S: u64 = 1_800;

/// What it is called.
pub(crate) const NAME: &str = "dollars";

/// What a settlement transfer has in its `user_data_32`.
pub(crate) const DISTRIBUTION: u32 = heng::ledger::SettlementPurpose::Distribution as u32;

/// The policy of it.
pub(crate) fn policy() -> String {
    let times: Vec<String> = (0..48).map(|half| format!("\"{:02}:{:02}\"", half / 2, half % 2 * 30)).collect();
    format!(
        "[[distribution]]\nname = \"{NAME}\"\nnumber = 1\naccount = {FROM}\ncurrency = \"USD\"\nkeep = \"0.25\"\ncode = 7\nweekend = []\n\
         times = [{}]\nto = [{{ account = {TO} }}]\n",
        times.join(", ")
    )
}

/// Runs so far.
#[derive(Debug, Default)]
pub(crate) struct Distributions {
    /// Records that may come between the look at the account and that of the plan: what may be inside at once.
    pub(crate) beside: u64,
    run: Option<DistributionEntry>,
    /// What became of the question whether all of it is there, and of its transfer.
    required: Option<Code>,
    paid: Option<Code>,
    /// What there was to divide since the last run ended, and up to which record.
    amounts: Vec<(u128, u64)>,
    done: u64,
    short: u64,
}

impl Distributions {
    /// How many runs moved something.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// How many found less than was planned.
    pub(crate) fn short(&self) -> u64 {
        self.short
    }

    /// What the account has: debits and credits posted, debits held.
    pub(crate) fn has(&mut self, [debits, credits, held, _]: [u128; 4], sequence: u64) {
        let own = credits.cast_signed() - debits.cast_signed() - held.cast_signed();
        let amount = u128::try_from(own).unwrap_or(0).saturating_sub(KEEP.unsigned_abs());
        match self.amounts.last_mut() {
            Some((last, until)) if *last == amount => *until = sequence,
            _ => self.amounts.push((amount, sequence)),
        }
    }

    pub(crate) fn enter(&mut self, entry: &DistributionEntry, (sequence, time_ns): (u64, u64)) -> Result<(), String> {
        let what = || format!("{entry:?} after {:?}, paid {:?}", self.run, self.paid);
        let is_planned = self.run.is_some_and(|run| run.state == DistributionState::Planned);
        if entry.state == DistributionState::Planned {
            let is_later = self.run.is_none_or(|run| entry.due_ns > run.due_ns);
            // One of the schedule that found less than was planned is planned anew.
            let was_short = self.again_ns().is_some_and(|again_ns| entry.due_ns >= again_ns);
            let is_on_time = entry.by.0 != 0 || entry.due_ns.is_multiple_of(EVERY_S * SECOND_NS) || was_short;
            ensure(!is_planned && is_later && is_on_time && entry.due_ns <= time_ns, what)?;
            let is_so = |(amount, until): &(u128, u64)| *amount == entry.amount && until + self.beside >= sequence;
            ensure(self.amounts.iter().any(is_so), || format!("{}, there was {:?}", what(), self.amounts))?;
            (self.run, self.required, self.paid) = (Some(*entry), None, None);
            return Ok(());
        }
        let is_same = self.run.is_some_and(|run| (run.due_ns, run.amount) == (entry.due_ns, entry.amount));
        let is_paid = self.paid.map_or(entry.amount == 0, Code::is_accepted);
        let was_tried = self.paid.is_some() || entry.amount == 0;
        let is_why = is_paid || [self.required, self.paid].contains(&Some(entry.outcome));
        ensure(is_planned && is_same && was_tried && is_paid == (entry.state == DistributionState::Done), what)?;
        ensure(is_why, what)?;
        self.short += u64::from(entry.outcome == Code::RequirementNotMet);
        self.done += u64::from(is_paid && entry.amount > 0);
        self.run = Some(*entry);
        let last = self.amounts.pop();
        self.amounts = last.into_iter().collect();
        Ok(())
    }

    /// When the latest run is planned anew, if it was the schedule's and found less than was planned.
    fn again_ns(&self) -> Option<u64> {
        let short = self.run.filter(|run| run.outcome == Code::RequirementNotMet && run.by.0 == 0);
        short.map(|run| run.due_ns + 60 * SECOND_NS)
    }

    /// A transfer of a run: first it asks whether all of it is there, with what stays, then it pays.
    pub(crate) fn own(&mut self, transfer: &Transfer, code: Code) -> Result<(), String> {
        let asks = transfer.operation() == Operation::Require;
        let (credit, more) = if asks { (0, KEEP.unsigned_abs()) } else { (TO, 0) };
        let run = self.run.filter(|run| run.state == DistributionState::Planned && self.paid.is_none());
        let is_right = (transfer.debit.raw(), transfer.credit.raw()) == (FROM, credit)
            && self.required.is_none() == asks
            && run.is_some_and(|run| (run.amount + more, run.due_ns) == (transfer.amount, transfer.user_data_64));
        ensure(is_right, || format!("{transfer:?} is not what {:?} pays, paid {:?}", self.run, self.paid))?;
        *if asks { &mut self.required } else { &mut self.paid } = Some(code);
        Ok(())
    }

    /// When nothing more is to be done: no run is open, and none of those that were due was left out.
    pub(crate) fn finish(&self, second: u64) -> Result<(), String> {
        let last = second / EVERY_S * EVERY_S;
        let is_done =
            self.run.is_some_and(|run| run.state != DistributionState::Planned && run.due_ns / SECOND_NS >= last);
        let is_done = is_done && self.again_ns().is_none_or(|again_ns| second <= again_ns / SECOND_NS);
        ensure(is_done, || format!("a run was due at {last}, now is {second}, and the last one is {:?}", self.run))
    }
}

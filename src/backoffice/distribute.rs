//! Distributions: when one is due its amount is fixed in the journal, then paid in one atomic transaction, then said to be done.
//!
//! The amount and the policy by which it is divided stand in the journal before anything moves, and the ids of the transfers follow from
//! that record: after a crash at any point the same transfers are asked for again, and the ledger answers what it answered first. Runs that
//! were missed while the server was down are made up for by one: what is distributed is what is there. What was spent between plan and payment
//! is missing then: nothing is paid, neither from what is kept nor from what may be owed, and one of the schedule is planned anew a minute after it was due.

use super::calendar::Calendar;
use super::commands::{Answer, Person, Problem};
use super::office::Office;
use super::ports::{Ports, Snapshot, Trouble};
use super::settle::{derived_id, link, stands_in_the_way, submit};
use crate::ledger::{
    AccountId, Book, Code, Distribution, DistributionEntry, DistributionRun, DistributionState, GatewayId, Operation,
    Record, SettlementPurpose, Transfer,
};
use crate::planted::{self, Bug};

/// What a distribution has to divide now, minor units: what is on its account and not held, beyond what is kept.
fn amount(book: &Book, distribution: &Distribution) -> u128 {
    let Some(account) = book.account(distribution.account) else { return 0 };
    let own = if planted::is(Bug::HeldDistributed) { account.balance() } else { account.own_means() };
    u128::try_from(own).unwrap_or(0).saturating_sub(distribution.keep)
}

/// The transaction of a run: all of it must still be there, with what is kept, then each is paid his part.
fn transaction(distribution: &Distribution, run: &DistributionRun) -> Vec<Transfer> {
    if run.amount == 0 {
        return Vec::new();
    }
    let part = |place: u32, credit: AccountId, amount: u128| Transfer {
        // Nobody can use up ids that nobody can know: they depend on where the run was planned.
        id: derived_id(
            b"heng distribution 1",
            &[&distribution.number.to_le_bytes(), &run.planned.to_le_bytes(), &place.to_le_bytes()],
        ),
        debit: distribution.account,
        credit,
        amount,
        code: distribution.code,
        user_data_128: u128::from(distribution.number),
        user_data_64: run.due_ns,
        user_data_32: SettlementPurpose::Distribution as u32,
        ..Transfer::default()
    };
    let required = run.amount.saturating_add(distribution.keep);
    let flags = Operation::Require as u16;
    let mut transaction = vec![Transfer { flags, ..part(u32::MAX, AccountId::default(), required) }];
    let parts = distribution.parts(run.amount).into_iter().zip(0_u32..).filter(|((_, amount), _)| *amount > 0);
    transaction.extend(parts.map(|((credit, amount), place)| part(place, credit, amount)));
    link(&mut transaction, |_, _| false);
    transaction
}

/// What came of a run's transaction: the parts say whether it was paid, also where it was without the requirement (before there was one).
fn came_of(codes: &[Code]) -> Code {
    let is_paid = codes.len() > 1 && codes.iter().skip(1).all(|code| code.is_accepted());
    if is_paid { Code::Accepted } else { stands_in_the_way(codes).unwrap_or(Code::Accepted) }
}

impl<P: Ports> Office<P> {
    /// Does what is due of a distribution; answers whether something was done.
    pub(super) fn distribute(&mut self, snapshot: &Snapshot, distribution: &Distribution) -> Result<bool, Trouble> {
        let Some(run) = snapshot.distributions.runs().get(&distribution.number).copied() else { return Ok(false) };
        if run.state == DistributionState::Planned {
            return self.carry_out(snapshot, distribution.number, &run).map(|()| true);
        }
        let calendar = Calendar::of_distribution(distribution).map_err(|err| Trouble::Waits(err.to_string()))?;
        let now_ns = self.ports.now_ns();
        let scheduled = calendar.latest(run.due_ns, now_ns).map(|(due_ns, _)| due_ns);
        let again = run.again_ns(snapshot.policy_at).filter(|again_ns| now_ns >= *again_ns).map(|_| now_ns);
        let Some(due_ns) = scheduled.or(again) else { return Ok(false) };
        self.plan(distribution, due_ns, GatewayId(0)).map(|_amount| true)
    }

    /// Fixes the amount of a run.
    fn plan(&self, distribution: &Distribution, due_ns: u64, by: GatewayId) -> Result<u128, Trouble> {
        let asked = distribution.clone();
        let amount = self.ports.inspect(move |book| amount(book, &asked))?;
        let (number, state) = (distribution.number, DistributionState::Planned);
        let entry = DistributionEntry { number, state, due_ns, amount, outcome: Code::Accepted, by };
        tracing::info!(distribution = distribution.name, %amount, "distribution planned");
        self.ports.record(&[Record::Distribution(entry)])?;
        Ok(amount)
    }

    /// Pays a run that is planned, by the policy by which it was planned, and says what came of it.
    fn carry_out(&mut self, snapshot: &Snapshot, number: u16, run: &DistributionRun) -> Result<(), Trouble> {
        let policy = self.policy_at(snapshot, run.policy)?;
        let distribution = policy.distributions().iter().find(|known| known.number == number);
        let outcome = match distribution.map(|distribution| transaction(distribution, run)) {
            Some(transfers) if transfers.is_empty() => Code::Accepted,
            Some(transfers) => came_of(&submit(&self.ports, transfers)?),
            // It went when it was about to be planned, and nothing moves without it.
            None => Code::TransactionFailed,
        };
        let state = if outcome.is_accepted() { DistributionState::Done } else { DistributionState::Failed };
        if state == DistributionState::Failed {
            let why = outcome.meaning();
            tracing::warn!(distribution = number, amount = %run.amount, why, "a distribution failed; nothing moved");
        }
        let entry = DistributionEntry { number, state, due_ns: run.due_ns, amount: run.amount, outcome, by: run.by() };
        self.ports.record(&[Record::Distribution(entry)])
    }

    /// Runs a distribution now, whatever its schedule.
    pub(super) fn distribute_now(&mut self, name: &str, person: &Person) -> Result<Answer, Problem> {
        let snapshot = self.ports.snapshot()?;
        let distribution = snapshot.policy.distributions().iter().find(|known| known.name == name);
        let unknown = || Problem::new(404, "unknown", format!("the policy has no distribution `{name}`"));
        let distribution = distribution.ok_or_else(unknown)?;
        let run = snapshot.distributions.runs().get(&distribution.number).copied().unwrap_or_default();
        let now_ns = self.ports.now_ns();
        if run.state == DistributionState::Planned || now_ns <= run.due_ns {
            return Err(Problem::new(409, "conflict", "a run of it is being paid; see what came of it first"));
        }
        let amount = self.plan(distribution, now_ns, person.id)?;
        Ok(Answer::Distributing { distribution: name.to_owned(), amount: amount.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_say_whether_a_run_was_paid() {
        let (yes, no, short) = (Code::Accepted, Code::TransactionFailed, Code::RequirementNotMet);
        for (codes, came) in [
            (vec![yes, yes, yes], yes),
            (vec![short, no, no], short),
            (vec![short, no], short),
            (vec![short], short),
            (vec![yes, no, Code::CreditAccountFrozen], Code::CreditAccountFrozen),
            // The parts were paid by a program that did not ask; the requirement is new, and refused with what is known.
            (vec![no, yes, yes], yes),
        ] {
            assert_eq!(came_of(&codes), came, "{codes:?}");
        }
    }
}

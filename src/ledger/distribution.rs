//! Distributions: what is on an account beyond a float is divided among others by ratio, on a schedule.
//!
//! The policy says from where, to whom, by which ratios and when; the journal has a record of each run: first the amount, so that the
//! transfers that follow are the same however often they are tried, then what came of it. Parts are rounded down, and what is left over
//! goes, one minor unit each, to the first ones: they add up to the amount.
//!
//! ```toml
//! [[distribution]]               # on the last business day of a month, fees beyond 1,000 euro: 70 % and 30 %
//! name = "profit"
//! number = 1
//! account = 900002
//! currency = "EUR"
//! keep = "1000.00"
//! code = 910
//! times = ["18:00"]
//! time_zone = "Europe/Berlin"
//! on = "month-end"
//! to = [{ account = 900101, ratio = 70 }, { account = 900102, ratio = 30 }]
//! ```
//!
//! ```text
//! place   8       10     12       16            32
//! run     number  state  outcome  due (time)    amount
//! ```
//!
//! All little-endian; the gateway at 4 is who asked, 0 for the schedule. Not here: when a run is due ([`crate::backoffice`]).

use serde::{Deserialize, Serialize};

use super::charge::{ShareText, divide, shares_of};
use super::fields::{get, set};
use super::policy::{IdText, Policy, PolicyError, amount as minor, check_name, invalid, nothing};
use super::schedule::{CalendarText, Recurrence, Schedule, ScheduleText, utc};
use super::{AccountId, Code, GatewayId, RECORD_BYTES};

/// Most distributions in a policy.
const DISTRIBUTIONS_MAX: usize = 64;

/// Most recipients: all are paid in one atomic transaction.
const RECIPIENTS_MAX: usize = 1_000;

/// A distribution as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DistributionText {
    name: String,
    number: u16,
    account: IdText,
    currency: String,
    #[serde(default = "nothing")]
    keep: String,
    code: u16,
    #[serde(default)]
    times: Vec<String>,
    #[serde(default = "utc")]
    time_zone: String,
    #[serde(default)]
    on: Recurrence,
    calendar: Option<String>,
    weekend: Option<Vec<String>>,
    #[serde(default)]
    holidays: Vec<String>,
    to: Vec<ShareText>,
}

/// A distribution of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// What it is called: letters, digits and hyphens.
    pub name: String,
    /// Its number, from 1.
    pub number: u16,
    /// From which account.
    pub account: AccountId,
    /// Number of the currency.
    pub currency: u16,
    /// What stays there, minor units.
    pub keep: u128,
    /// The code of its transfers.
    pub code: u16,
    /// When; never by itself when there are no times.
    pub schedule: Schedule,
    /// To whom, with their ratios.
    pub shares: Vec<(AccountId, u32)>,
}

impl DistributionText {
    fn resolve(self, policy: &Policy, calendars: &[CalendarText]) -> Result<Distribution, PolicyError> {
        let rule = format!("distribution {}", self.name);
        check_name(&self.name, self.number, &rule)?;
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        let account = self.account.resolve(&rule)?;
        let shares = shares_of(&self.to, &rule)?;
        if shares.len() > RECIPIENTS_MAX || shares.iter().any(|(to, _)| *to == account) {
            return Err(invalid(&rule, "at most 1000 recipients, and none is the account itself"));
        }
        let schedule = ScheduleText {
            times: self.times,
            time_zone: self.time_zone,
            on: self.on,
            calendar: self.calendar,
            weekend: self.weekend,
            holidays: self.holidays,
        };
        Ok(Distribution {
            keep: minor(&self.keep, places, &rule)?,
            schedule: schedule.resolve(calendars, &rule)?,
            name: self.name,
            number: self.number,
            account,
            currency,
            code: self.code,
            shares,
        })
    }
}

/// Reads the distributions of a policy, whose assets are known.
pub(super) fn distributions(
    texts: Vec<DistributionText>,
    policy: &Policy,
    calendars: &[CalendarText],
) -> Result<Vec<Distribution>, PolicyError> {
    if texts.len() > DISTRIBUTIONS_MAX {
        return Err(invalid("distribution", "at most 64 distributions"));
    }
    let mut all: Vec<Distribution> = Vec::with_capacity(texts.len());
    for text in texts {
        let one = text.resolve(policy, calendars)?;
        if all.iter().any(|known| known.number == one.number || known.name == one.name) {
            return Err(invalid(&format!("distribution {}", one.name), "its number or name is used twice"));
        }
        all.push(one);
    }
    Ok(all)
}

impl Distribution {
    /// An amount divided among the recipients, in their order; the parts add up to it.
    pub fn parts(&self, amount: u128) -> Vec<(AccountId, u128)> {
        let ratios: Vec<u32> = self.shares.iter().map(|(_, ratio)| *ratio).collect();
        self.shares.iter().zip(divide(amount, &ratios)).map(|((account, _), part)| (*account, part)).collect()
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum DistributionState {
    /// Its amount is fixed; the transfers follow.
    Planned = 1,
    /// All of it was paid.
    #[default]
    Done = 2,
    /// Nothing was paid: a transfer was refused. The next run takes what is there then.
    Failed = 3,
}

impl DistributionState {
    /// All.
    pub const ALL: [Self; 3] = [Self::Planned, Self::Done, Self::Failed];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What the journal says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DistributionEntry {
    /// Of which distribution.
    pub number: u16,
    /// How far it is.
    pub state: DistributionState,
    /// When it was due, nanoseconds since 1970 UTC. It names the run.
    pub due_ns: u64,
    /// Minor units.
    pub amount: u128,
    /// Why it failed.
    pub outcome: Code,
    /// Who asked; 0 for the schedule.
    pub by: GatewayId,
}

impl DistributionEntry {
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], by: GatewayId) -> Option<Self> {
        let [state] = get::<10, 1>(bytes);
        Some(Self {
            number: u16::from_le_bytes(get::<8, 2>(bytes)),
            state: DistributionState::ALL.into_iter().find(|known| *known as u8 == state)?,
            outcome: Code::from_number(u16::from_le_bytes(get::<12, 2>(bytes)))?,
            due_ns: u64::from_le_bytes(get::<16, 8>(bytes)),
            amount: u128::from_le_bytes(get::<32, 16>(bytes)),
            by,
        })
    }

    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        set::<8, 2>(&mut bytes, self.number.to_le_bytes());
        set::<10, 1>(&mut bytes, [self.state as u8]);
        set::<12, 2>(&mut bytes, self.outcome.number().to_le_bytes());
        set::<16, 8>(&mut bytes, self.due_ns.to_le_bytes());
        set::<32, 16>(&mut bytes, self.amount.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Record;

    const PROFIT: &str =
        "[[distribution]]\nname = \"profit\"\nnumber = 1\naccount = 9\ncurrency = \"EUR\"\ncode = 910\n";

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(number in any::<u16>(), due_ns in any::<u64>(), amount in any::<u128>(), state in 0..3_usize) {
            let entry = DistributionEntry {
                number, state: DistributionState::ALL[state], due_ns, amount, outcome: Code::InsufficientFunds, by: GatewayId(7),
            };
            prop_assert_eq!(Record::decode(&Record::Distribution(entry).encode()), Ok(Record::Distribution(entry)));
        }

        #[test]
        fn parts_add_up_to_the_amount(amount in 0..1_u128 << 96, ratios in prop::collection::vec(1..100_000_u32, 1..20)) {
            let to: Vec<String> = ratios.iter().zip(100..).map(|(ratio, id)| format!("{{ account = {id}, ratio = {ratio} }}")).collect();
            let policy = Policy::parse(&format!("{PROFIT}to = [{}]", to.join(", "))).unwrap();
            let parts = policy.distributions()[0].parts(amount);
            prop_assert_eq!(parts.iter().map(|(_, part)| part).sum::<u128>(), amount);
            let whole: u128 = ratios.iter().map(|&ratio| u128::from(ratio)).sum();
            for ((_, part), ratio) in parts.iter().zip(&ratios) {
                let floor = amount * u128::from(*ratio) / whole;
                prop_assert!((floor..=floor + 1).contains(part));
            }
        }
    }

    #[test]
    fn mistakes_in_a_distribution_are_named() {
        for (more, what) in [
            ("to = []", "ratios above zero"),
            ("to = [{ account = 9 }]", "none is the account itself"),
            ("to = [{ account = 8 }]\ntimes = [\"25:00\"]", "local times"),
            ("to = [{ account = 8 }]\ncalendar = \"none\"", "not in the policy"),
            ("to = [{ account = 8 }]\nkeep = \"1.001\"", "amount"),
        ] {
            let error = Policy::parse(&format!("{PROFIT}{more}")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

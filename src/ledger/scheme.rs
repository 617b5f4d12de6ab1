//! Schemes: which transfers are cleared together, when, and how their positions are netted and settled.
//!
//! A scheme is a part of the policy's text. It says what belongs to its windows; that a window closes is a record of its own
//! ([`super::WindowEntry`]), so nothing here depends on a clock or a calendar.
//!
//! ```toml
//! [[scheme]]                     # cards in euro, settled on the next business day
//! name = "cards"
//! number = 1
//! currency = "EUR"
//! codes = [7, 90]                # payments and their fees
//! netting = "multilateral"
//! settlement_account = 900001
//! cut_offs = ["17:00"]
//! time_zone = "Europe/Berlin"
//! settle_after_days = 1
//! ```
//!
//! Not here: calendars and cut-offs in time ([`crate::backoffice`]), windows and positions ([`super::Windows`]).

use serde::Deserialize;

use super::bank::unspaced;
use super::policy::{IdText, Policy, PolicyError, amount as minor, check_name, invalid, nothing};
use super::schedule::{CalendarText, Recurrence, Schedule, ScheduleText, utc};
use super::{AccountId, Transfer};

/// Most schemes in a policy.
const SCHEMES_MAX: usize = 64;

/// How obligations are set off against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Netting {
    /// Not at all: what a participant receives and what it owes are settled separately.
    Gross,
    /// Between each two participants.
    Bilateral,
    /// Between each participant and all others.
    #[default]
    Multilateral,
}

/// How much is settled or not settled at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Atomicity {
    /// All transfers of a window.
    #[default]
    Scheme,
    /// Those of each participant.
    Participant,
}

/// In which format payouts are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PayoutFormat {
    /// ISO 20022 customer credit transfer initiation.
    #[default]
    #[serde(rename = "pain.001")]
    Pain001,
    /// Comma-separated values.
    #[serde(rename = "csv")]
    Csv,
}

/// A scheme as the policy's text has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SchemeText {
    name: String,
    number: u16,
    currency: String,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    netting: Netting,
    settlement_account: IdText,
    #[serde(default = "settlement_code")]
    settlement_code: u16,
    payer: Option<PayerText>,
    #[serde(default)]
    atomic: Atomicity,
    #[serde(default)]
    cut_offs: Vec<String>,
    #[serde(default = "utc")]
    time_zone: String,
    close_every_seconds: Option<u32>,
    #[serde(default)]
    settle_after_days: u8,
    calendar: Option<String>,
    weekend: Option<Vec<String>>,
    #[serde(default)]
    holidays: Vec<String>,
    #[serde(default)]
    payout_format: PayoutFormat,
    #[serde(default = "nothing")]
    minimum_payout: String,
    confirm_above: Option<String>,
}

/// Who pays, as the policy's text has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayerText {
    /// Name of the account's holder.
    pub name: String,
    /// The account from which is paid.
    pub iban: String,
    /// Its bank.
    #[serde(default)]
    pub bic: String,
}

fn settlement_code() -> u16 {
    900
}

/// A scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// What it is called: letters, digits and hyphens.
    pub name: String,
    /// Its number, from 1.
    pub number: u16,
    /// The currency's number.
    pub currency: u16,
    /// Which codes; empty for all.
    pub codes: Vec<u16>,
    /// How positions are netted.
    pub netting: Netting,
    /// The platform's mirror of the bank account through which it settles.
    pub settlement_account: AccountId,
    /// The code of its settlement transfers.
    pub settlement_code: u16,
    /// Who pays, for payout files.
    pub payer: PayerText,
    /// What is settled at once.
    pub atomic: Atomicity,
    /// When a window closes.
    pub schedule: Schedule,
    /// Instead: so many seconds after it opened, on any day, when something is in it.
    pub close_every_seconds: Option<u32>,
    /// Business days from the cut-off to settlement.
    pub settle_after_days: u8,
    /// How payouts are written.
    pub payout_format: PayoutFormat,
    /// Less than this is carried over to the next window; minor units.
    pub minimum_payout: u128,
    /// A payout of more than this needs a second person to confirm it; minor units.
    pub confirm_above: Option<u128>,
}

impl SchemeText {
    fn resolve(self, policy: &Policy, calendars: &[CalendarText]) -> Result<Scheme, PolicyError> {
        let rule = format!("scheme {}", self.name);
        check_name(&self.name, self.number, &rule)?;
        let (currency, places) = policy.currency(&self.currency, &rule)?;
        if self.close_every_seconds.is_some_and(|seconds| seconds == 0 || !self.cut_offs.is_empty()) {
            return Err(invalid(&rule, "close_every_seconds is 1 or more, and stands instead of cut_offs"));
        }
        if self.settle_after_days > 30 {
            return Err(invalid(&rule, "settle_after_days is at most 30"));
        }
        let schedule = ScheduleText {
            times: self.cut_offs,
            time_zone: self.time_zone,
            on: Recurrence::BusinessDays,
            calendar: self.calendar,
            weekend: self.weekend,
            holidays: self.holidays,
        };
        let mut payer = self.payer.unwrap_or_default();
        payer.iban = unspaced(&payer.iban);
        Ok(Scheme {
            currency,
            settlement_account: self.settlement_account.resolve(&rule)?,
            settlement_code: self.settlement_code,
            payer,
            minimum_payout: minor(&self.minimum_payout, places, &rule)?,
            confirm_above: self.confirm_above.as_deref().map(|text| minor(text, places, &rule)).transpose()?,
            name: self.name,
            number: self.number,
            codes: self.codes,
            netting: self.netting,
            atomic: self.atomic,
            schedule: schedule.resolve(calendars, &rule)?,
            close_every_seconds: self.close_every_seconds,
            settle_after_days: self.settle_after_days,
            payout_format: self.payout_format,
        })
    }
}

/// Reads the schemes of a policy, whose assets are known.
pub(super) fn schemes(
    texts: Vec<SchemeText>,
    policy: &Policy,
    calendars: &[CalendarText],
) -> Result<Vec<Scheme>, PolicyError> {
    if texts.len() > SCHEMES_MAX {
        return Err(invalid("scheme", "at most 64 schemes"));
    }
    let mut schemes: Vec<Scheme> = Vec::with_capacity(texts.len());
    for text in texts {
        let scheme = text.resolve(policy, calendars)?;
        if schemes.iter().any(|known| known.number == scheme.number || known.name == scheme.name) {
            return Err(invalid(&format!("scheme {}", scheme.name), "its number or name is used twice"));
        }
        schemes.push(scheme);
    }
    Ok(schemes)
}

impl Policy {
    /// The schemes, in order.
    pub fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    /// A scheme by its number.
    pub fn scheme(&self, number: u16) -> Option<&Scheme> {
        self.schemes.iter().find(|scheme| scheme.number == number)
    }

    /// The scheme to which a transfer belongs: the first that has its currency and code.
    #[inline]
    pub(super) fn scheme_of(&self, transfer: &Transfer, currency: u16) -> Option<&Scheme> {
        self.schemes.iter().find(|scheme| {
            scheme.currency == currency && (scheme.codes.is_empty() || scheme.codes.contains(&transfer.code))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARDS: &str = "[[scheme]]\nname = \"cards\"\nnumber = 1\ncurrency = \"EUR\"\nsettlement_account = 9\n";

    #[test]
    fn a_scheme_takes_its_currency_and_codes_and_the_first_one_wins() {
        let text = format!(
            "{CARDS}codes = [7]\n[[scheme]]\nname = \"rest\"\nnumber = 2\ncurrency = \"EUR\"\nsettlement_account = 9"
        );
        let policy = Policy::parse(&text).unwrap();
        let of = |code, currency| {
            policy.scheme_of(&Transfer { code, ..Transfer::default() }, currency).map(|scheme| scheme.number)
        };
        assert_eq!((of(7, 978), of(8, 978), of(7, 840)), (Some(1), Some(2), None));
        assert_eq!(policy.scheme(1).map(|scheme| scheme.netting), Some(Netting::Multilateral));
    }

    #[test]
    fn mistakes_in_a_scheme_are_named() {
        for (more, what) in [
            ("cut_offs = [\"17:00\", \"09:00\"]", "earliest first"),
            ("cut_offs = [\"24:00\"]", "local times"),
            ("close_every_seconds = 0", "close_every_seconds"),
            ("close_every_seconds = 5\ncut_offs = [\"09:00\"]", "instead of cut_offs"),
            ("calendar = \"none\"", "not in the policy"),
            ("weekend = []\ncalendar = \"x\"\n[[calendar]]\nname = \"x\"", "either a calendar"),
            ("settle_after_days = 31", "at most 30"),
            ("weekend = [\"someday\"]", "weekend"),
            ("minimum_payout = \"1.001\"", "amount"),
            ("[[scheme]]\nname = \"cards\"\nnumber = 2\ncurrency = \"EUR\"\nsettlement_account = 9", "used twice"),
        ] {
            let error = Policy::parse(&format!("{CARDS}{more}")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

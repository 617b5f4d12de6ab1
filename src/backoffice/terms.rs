//! Whether a policy can be put in force: calendars, payers, and what it would do to windows that are not finished.

use jiff::tz::TimeZone;

use super::calendar::{Calendar, CalendarError};
use crate::ledger::{
    Book, DistributionState, Netting, PayoutFormat, Policy, Record, Scheme, Sequence, StoredRecord, WindowState,
};

/// The longest name of a mapping: an import is recorded with it.
const MAPPING_NAME_MAX: usize = 24;

/// Why a policy cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// A calendar.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// A mapping of CSV files.
    #[error("statement_csv {name}: {what}")]
    Mapping {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A distribution.
    #[error("distribution {number}: a run of it is being paid; start once with the policy before, then remove it")]
    Distribution {
        /// Its number.
        number: u16,
    },
    /// A bank account.
    #[error("bank_account {name}: its write_off_account is the mirror of a bank account itself")]
    WriteOff {
        /// Its name.
        name: String,
    },
    /// An asset of one's own.
    #[error("asset {code}: there are accounts in it, so its number and its decimal places stay as they are")]
    Asset {
        /// Its letters.
        code: String,
    },
    /// Something else about a scheme.
    #[error("scheme {scheme}: {what}")]
    Scheme {
        /// Its name.
        scheme: String,
        /// What is wrong and what to do.
        what: String,
    },
}

fn wrong(scheme: &Scheme, what: &str) -> TermsError {
    TermsError::Scheme { scheme: scheme.name.clone(), what: what.to_owned() }
}

/// Whether this is what a bank is called: 8 or 11 capital letters and digits (ISO 9362).
pub(super) fn is_bic(text: &str) -> bool {
    matches!(text.len(), 8 | 11) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// Checks the schemes of a policy by themselves.
pub fn check_schemes(policy: &Policy) -> Result<(), TermsError> {
    for mapping in policy.csv_mappings() {
        let wrong = |what: &str| Err(TermsError::Mapping { name: mapping.name.clone(), what: what.to_owned() });
        if mapping.name.is_empty() || mapping.name.len() > MAPPING_NAME_MAX {
            return wrong("its name has 1 to 24 bytes");
        }
        if !mapping.time_zone.is_empty() && TimeZone::get(&mapping.time_zone).is_err() {
            return wrong("there is no such time_zone");
        }
    }
    for account in policy.bank_accounts() {
        Calendar::of_bank_account(account)?;
        if policy.bank_accounts().iter().any(|mirror| Some(mirror.account) == account.write_off_account) {
            return Err(TermsError::WriteOff { name: account.name.clone() });
        }
    }
    for distribution in policy.distributions() {
        Calendar::of_distribution(distribution)?;
    }
    for scheme in policy.schemes() {
        Calendar::of_scheme(scheme)?;
        let payer = &scheme.payer;
        let named = !payer.name.trim().is_empty() && !payer.name.chars().any(char::is_control);
        if !payer.bic.is_empty() && !is_bic(&payer.bic) {
            return Err(wrong(scheme, "the payer's bic has 8 or 11 capital letters and digits"));
        }
        if scheme.payout_format == PayoutFormat::Pain001 && (!named || payer.iban.parse::<iban::Iban>().is_err()) {
            return Err(wrong(
                scheme,
                "a pain.001 file needs a payer with a name and a valid iban; or choose payout_format = \"csv\"",
            ));
        }
    }
    Ok(())
}

/// The policy in some records, which `scan` hands over in order; `None` where they are no whole one.
pub fn policy_in<E>(scan: impl FnOnce(&mut dyn FnMut(StoredRecord)) -> Result<(), E>) -> Result<Option<Policy>, E> {
    let (mut parts, mut text) = (Vec::new(), None);
    scan(&mut |stored| {
        if let Record::Policy(part) = stored.record {
            text = part.join(&mut parts).ok().flatten();
        }
    })?;
    Ok(text.as_deref().and_then(|text| Policy::parse(text).ok()))
}

/// Checks what another policy would do to windows that take transfers now. Windows that are closed are settled by the policy by which
/// they were closed; `policy_at` reads that, by its first and last record.
pub fn check_change(
    book: &Book,
    after: &Policy,
    policy_at: impl Fn((Sequence, Sequence)) -> Result<Option<Policy>, String>,
) -> Result<(), TermsError> {
    for asset in book.policy().assets() {
        let stays = after.assets().iter().any(|known| (known.number, known.exponent) == (asset.number, asset.exponent));
        // Whatever is said of an amount later would be said with other decimal places.
        if !stays && book.accounts().any(|account| account.properties.currency == asset.number) {
            return Err(TermsError::Asset { code: asset.code.clone() });
        }
    }
    for before in book.policy().schemes() {
        let window = book.windows().open_window(before.number).and_then(|open| book.windows().window(open.key()));
        let is_used = window.is_some_and(|window| {
            window.positions.count() > 0 || window.positions.iter().any(|(_, position)| position.net() != 0)
        });
        let unsettled = |window: &&crate::ledger::Window| {
            window.scheme == before.number && (WindowState::Closing..WindowState::Settled).contains(&window.state)
        };
        let waiting = book.windows().unfinished_payouts().any(|payout| payout.window.0 == before.number)
            || book.unfinished_windows().any(|window| unsettled(&window));
        match after.scheme(before.number) {
            Some(scheme) if scheme.currency != before.currency => {
                return Err(wrong(before, "its number stands for another currency already; use another number"));
            }
            // Who paid whom was not counted so far, and would be settled as if it had not been.
            Some(scheme) if is_used && scheme.netting == Netting::Bilateral && before.netting != Netting::Bilateral => {
                let what = "it has positions already, which bilateral netting would not settle; close its window before its netting is changed";
                return Err(wrong(before, what));
            }
            None if is_used || waiting => {
                let what = "it has positions or payouts that are not finished; close its window and let the bank answer before it is removed";
                return Err(wrong(before, what));
            }
            _ => {}
        }
    }
    // A payout of a scheme that was removed may come back, into the window that its number has then.
    for scheme in after.schemes().iter().filter(|scheme| book.policy().scheme(scheme.number).is_none()) {
        let windows = book.windows().windows().range((scheme.number, 0)..=(scheme.number, u32::MAX));
        let closed_by = windows.rev().map(|(_, window)| window.policy).find(|at| *at != (0, 0));
        let unreadable = || "it is not whole".to_owned();
        let was = closed_by.map(|at| policy_at(at)?.ok_or_else(unreadable)).transpose();
        let was = was.map_err(|err| wrong(scheme, &format!("the policy of its last window cannot be read: {err}")))?;
        let currency = was.as_ref().and_then(|was| was.scheme(scheme.number)).map(|was| was.currency);
        if currency.is_some_and(|currency| currency != scheme.currency) {
            let what = "its number stood for another currency before it was removed, and a payout of that time may still come back; use another number";
            return Err(wrong(scheme, what));
        }
    }
    let runs = book.distributions().runs().iter();
    for (number, _) in runs.filter(|(_, run)| run.state == DistributionState::Planned) {
        if !after.distributions().iter().any(|known| known.number == *number) {
            return Err(TermsError::Distribution { number: *number });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{
        AccountId, Code, GatewayId, NewAccount, ParticipantEntry, PolicyPart, Transfer, TransferId, WindowEntry,
    };

    #[expect(clippy::unnecessary_wraps, reason = "stands for what reads the journal")]
    fn none(_: (Sequence, Sequence)) -> Result<Option<Policy>, String> {
        Ok(None)
    }

    fn policy(more: &str) -> String {
        format!("[[scheme]]\nname = \"x\"\nnumber = 1\nsettlement_account = 9\n{more}")
    }

    #[test]
    fn a_scheme_keeps_its_currency_and_pain_001_needs_a_payer() {
        let mut book = Book::new();
        for part in PolicyPart::split(&policy("currency = \"EUR\"")) {
            book.apply(1, &Record::Policy(part)).unwrap();
        }
        let dollars = Policy::parse(&policy("currency = \"USD\"")).unwrap();
        assert!(check_change(&book, &dollars, none).unwrap_err().to_string().contains("another currency"));
        assert_eq!(check_change(&book, &Policy::default(), none), Ok(()), "nothing is in its window yet");
        let error = check_schemes(book.policy()).unwrap_err().to_string();
        assert!(error.contains("needs a payer"), "{error}");
        let csv = Policy::parse(&policy("currency = \"EUR\"\npayout_format = \"csv\"")).unwrap();
        assert_eq!(check_schemes(&csv), Ok(()));
    }

    #[test]
    fn a_window_that_is_in_use_does_not_become_bilateral() {
        let mut book = Book::new();
        let mut sequence = 0;
        let mut append = |book: &mut Book, record: Record| {
            sequence += 1;
            book.apply(sequence, &record).unwrap();
        };
        let [debtor, creditor] = [1, 2].map(AccountId::from_raw);
        for (id, account) in [(1, debtor), (2, creditor)] {
            let opened = NewAccount { id: account, currency: 978, code: 1, ..NewAccount::default() };
            append(&mut book, Record::Account { account: opened, gateway: GatewayId(1) });
            let (name, iban, bic) = ([0; ParticipantEntry::NAME_BYTES], [0; 34], [0; 11]);
            let participant = ParticipantEntry { id, account, name, iban, bic, is_proposed: false };
            append(&mut book, Record::Participant(participant, GatewayId(1)));
        }
        let with = |netting: &str| policy(&format!("currency = \"EUR\"\nnetting = \"{netting}\""));
        for part in PolicyPart::split(&with("multilateral")) {
            append(&mut book, Record::Policy(part));
        }
        let [bilateral, gross] = ["bilateral", "gross"].map(|netting| Policy::parse(&with(netting)).unwrap());
        assert_eq!(check_change(&book, &bilateral, none), Ok(()), "nothing is in its window yet");
        let paid = Transfer {
            id: TransferId::from_raw(7),
            debit: debtor,
            credit: creditor,
            amount: 100,
            ..Transfer::default()
        };
        append(&mut book, Record::Transfer { transfer: paid, outcome: Code::Accepted, gateway: GatewayId(1) });
        let error = check_change(&book, &bilateral, none).unwrap_err().to_string();
        assert!(error.contains("close its window before its netting is changed"), "{error}");
        assert_eq!(check_change(&book, &gross, none), Ok(()));
    }

    #[test]
    fn the_number_of_a_removed_scheme_keeps_its_currency() {
        let mut book = Book::new();
        let mut put = |text: &str| {
            for part in PolicyPart::split(text) {
                book.apply(1, &Record::Policy(part)).unwrap();
            }
            book.summary().policy
        };
        let with_scheme = put(&policy("currency = \"EUR\""));
        let other = Policy::parse(&policy("currency = \"USD\"")).unwrap();
        let closing = WindowEntry {
            scheme: 1,
            number: 1,
            state: WindowState::Closing,
            digest: [0; 32],
            day: 1,
            settlement_day: 1,
            sum: 0,
            count: 0,
            by: GatewayId(0),
        };
        book.apply(2, &Record::Window(closing)).unwrap();
        for part in PolicyPart::split("# none\n") {
            book.apply(3, &Record::Policy(part)).unwrap();
        }
        let read = |at| {
            assert_eq!(at, with_scheme);
            Policy::parse(&policy("currency = \"EUR\"")).map(Some).map_err(|err| err.to_string())
        };
        let error = check_change(&book, &other, read).unwrap_err().to_string();
        assert!(error.contains("another currency before it was removed"), "{error}");
        let again = Policy::parse(&policy("currency = \"EUR\"\nnetting = \"gross\"")).unwrap();
        assert_eq!(check_change(&book, &again, read), Ok(()));
        for unreadable in [Err("damage".to_owned()), Ok(None)] {
            let error = check_change(&book, &again, |_| unreadable.clone()).unwrap_err().to_string();
            assert!(error.contains("cannot be read: damage") || error.contains("not whole"), "{error}");
        }
    }

    #[test]
    fn an_asset_in_which_there_are_accounts_keeps_its_decimal_places() {
        let asset =
            |code: &str, places: u32| format!("[[asset]]\ncode = \"{code}\"\nnumber = 60001\nexponent = {places}\n");
        let mut book = Book::new();
        for part in PolicyPart::split(&asset("POINTS", 2)) {
            book.apply(1, &Record::Policy(part)).unwrap();
        }
        let other = Policy::parse(&asset("POINTS", 0)).unwrap();
        assert_eq!(check_change(&book, &other, none), Ok(()), "nobody has any");
        let account = NewAccount { id: AccountId::from_raw(7), currency: 60_001, code: 1, ..NewAccount::default() };
        book.apply(2, &Record::Account { account, gateway: GatewayId(1) }).unwrap();
        for after in [&other, &Policy::default()] {
            assert!(check_change(&book, after, none).unwrap_err().to_string().contains("POINTS"));
        }
        assert_eq!(check_change(&book, &Policy::parse(&asset("CREDITS", 2)).unwrap(), none), Ok(()), "another name");
    }

    #[test]
    fn a_payers_iban_may_be_written_in_groups() {
        let with = |iban: &str, bic: &str| {
            let payer = format!("payer = {{ name = \"P\", iban = \"{iban}\", bic = \"{bic}\" }}\n");
            Policy::parse(&policy(&format!("currency = \"EUR\"\n{payer}"))).unwrap()
        };
        let grouped = with("DE89 3704 0044 0532 0130 00", "COBADEFFXXX");
        assert_eq!(check_schemes(&grouped), Ok(()));
        assert_eq!(grouped.schemes()[0].payer.iban, "DE89370400440532013000", "as files have it");
        assert!(check_schemes(&with("DE89370400440532013000", "cobadeff")).unwrap_err().to_string().contains("bic"));
    }

    #[test]
    fn mistakes_in_mappings_and_bank_accounts_are_named() {
        let mapping = "[[statement_csv]]\ndate = \"d\"\namount = \"a\"\n";
        for (text, what) in [
            (format!("{mapping}name = \"payment-provider-settlement\""), "1 to 24 bytes"),
            (format!("{mapping}name = \"a\"\ntime_zone = \"Europe/Berlon\""), "no such time_zone"),
            (
                "[[bank_account]]\nname = \"b\"\naccount = 1\ncurrency = \"EUR\"\ntime_zone = \"X\"".to_owned(),
                "time zone `X`",
            ),
        ] {
            let error = check_schemes(&Policy::parse(&text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_shipped_policy_can_be_put_in_force() {
        let policy = Policy::parse(include_str!("../../config/policy.toml")).unwrap();
        assert_eq!(check_schemes(&policy), Ok(()));
        assert_eq!(check_change(&Book::new(), &policy, none), Ok(()));
    }
}

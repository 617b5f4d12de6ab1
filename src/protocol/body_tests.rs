//! Bodies by round trip, by damaged bytes, and by the test vectors of the reference page.

use proptest::prelude::*;

use super::*;
use crate::ledger::{GatewayId, TransferId};
use crate::protocol::{FRAME_HEADER_BYTES, FrameHeader, Hello, Kind, encode_frame};

fn transfer() -> Transfer {
    Transfer {
        id: TransferId::from_raw(0x0102_0304),
        debit: AccountId::from_raw(1),
        credit: AccountId::from_raw(2),
        amount: 1_234,
        code: 7,
        user_data_32: 8,
        user_data_64: 9,
        user_data_128: 10,
        ..Transfer::default()
    }
}

#[test]
fn a_body_must_have_exactly_the_length_of_its_count() {
    let mut body = Vec::new();
    encode_transfers(&mut body, [transfer(), transfer()].iter());
    let decode = |body: &[u8]| decode_transfers(body, &mut Vec::new());
    assert_eq!(decode(&body), Ok(2));
    assert_eq!(decode(&body[..body.len() - 1]), Err(Code::BodyMalformed));
    assert_eq!(decode(&body[..RECORD_BYTES + 8]), Err(Code::BodyMalformed));
    assert_eq!(decode(&[&body[..], &[0]].concat()), Err(Code::BodyMalformed));
    assert_eq!(decode(&body[..7]), Err(Code::BodyMalformed));
    let with_count = |count: u32| [&count.to_le_bytes()[..], &body[4..]].concat();
    assert_eq!(decode(&with_count(0)), Err(Code::CountZero));
    assert_eq!(decode(&with_count(ITEMS_MAX + 1)), Err(Code::CountTooLarge));
    assert_eq!(decode(&with_count(3)), Err(Code::BodyMalformed));
    let mut stamped = body.clone();
    stamped[8] = 1;
    assert_eq!(decode(&stamped), Err(Code::BodyMalformed), "the place of the outcome is the server's");
}

proptest! {
    #[test]
    fn lists_are_read_as_they_were_written(ids in prop::collection::vec(any::<u128>(), 1..20), numbers in any::<(u64, u64, u32)>()) {
        let mut body = Vec::new();
        encode_ids(&mut body, ids.iter().copied());
        prop_assert_eq!(decode_ids(&body), Ok(ids.clone()));
        let outcomes: Vec<_> = ids.iter().zip(Code::ALL).map(|(&id, &code)| Outcome {
            code, repeated: id % 2 == 0, sequence: numbers.0, time_ns: numbers.1,
        }).collect();
        let mut body = Vec::new();
        encode_outcomes(&mut body, &outcomes);
        prop_assert_eq!(decode_outcomes(&body), Ok(outcomes));
        let accounts: Vec<_> = ids.iter().map(|&id| AccountState {
            properties: NewAccount { id: AccountId::from_raw(id), currency: 978, user_data_32: numbers.2, class: 3, level: 7, overdraft: u128::from(numbers.0), ..NewAccount::default() },
            totals: Totals { debits_posted: id, credits_posted: !id, debits_pending: id ^ 5, credits_pending: id ^ 9 },
            state: State::Frozen, opened_ns: numbers.0, head: numbers.1,
        }).collect();
        let mut body = Vec::new();
        encode_accounts(&mut body, numbers.0, &accounts);
        prop_assert_eq!(decode_accounts(&body), Ok((numbers.0, accounts)));
        let records: Vec<_> = ids.iter().map(|&id| StoredRecord {
            sequence: numbers.0, time_ns: numbers.1,
            record: Record::Transfer { transfer: Transfer { id: TransferId::from_raw(id), ..transfer() }, outcome: Code::Accepted, gateway: GatewayId(numbers.2) },
        }).collect();
        let mut body = Vec::new();
        encode_stored(&mut body, numbers.1, &records);
        prop_assert_eq!(decode_stored(&body), Ok((numbers.1, records)));
        let page = HistoryRequest { account: AccountId::from_raw(ids[0]), from: numbers.0, limit: 5 };
        prop_assert_eq!(HistoryRequest::decode(&page.encode()), Ok(page));
        let page = ListRequest { from: numbers.2, limit: 5 };
        prop_assert_eq!(ListRequest::decode(&page.encode()), Ok(page));
    }

    #[test]
    fn any_bytes_are_a_body_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), count in 0..4_u32) {
        let bytes = if bytes.len() > 4 { [&count.to_le_bytes()[..], &bytes[4..]].concat() } else { bytes };
        let mut transfers = Vec::new();
        if decode_transfers(&bytes, &mut transfers).is_err() {
            prop_assert!(transfers.is_empty(), "a refused body leaves nothing behind");
        }
        let _ = (decode_ids(&bytes), decode_new_accounts(&bytes), decode_outcomes(&bytes), decode_accounts(&bytes));
        let _ = (decode_stored(&bytes), decode_error(&bytes), HistoryRequest::decode(&bytes), ListRequest::decode(&bytes));
        let _ = Hello::decode(&bytes);
    }
}

/// Every vector on the reference page is what this code writes, and the page has every vector listed here.
#[test]
fn the_reference_page_has_the_bytes_that_this_code_writes() {
    let page = include_str!("README.md");
    let hello = Hello { version_min: 1, version_max: 1, gateway: "shop".to_owned(), key: [0x11; 32] };
    let mut submit = Vec::new();
    encode_transfers(&mut submit, [transfer()].iter());
    let account = NewAccount {
        id: AccountId::from_raw(1),
        currency: 978,
        code: 5,
        flags: AccountFlags(1),
        ..NewAccount::default()
    };
    let mut open = Vec::new();
    encode_new_accounts(&mut open, &[account]);
    let mut outcomes = Vec::new();
    encode_outcomes(
        &mut outcomes,
        &[Outcome { code: Code::InsufficientFunds, repeated: true, sequence: 3, time_ns: 4 }],
    );
    let mut error = Vec::new();
    encode_error(&mut error, Code::Busy, "busy");
    let mut ids = Vec::new();
    encode_ids(&mut ids, [2].into_iter());
    for (name, kind, body) in [
        ("hello", Kind::Hello, &hello.encode().unwrap()[..]),
        ("ping", Kind::Ping, &[][..]),
        ("submit", Kind::SubmitTransfers, &submit),
        ("open", Kind::OpenAccounts, &open),
        ("outcomes", Kind::TransferOutcomes, &outcomes),
        ("error", Kind::Error, &error),
        ("get-accounts", Kind::GetAccounts, &ids),
        (
            "history",
            Kind::AccountHistory,
            &HistoryRequest { account: AccountId::from_raw(2), from: 0, limit: 10 }.encode(),
        ),
    ] {
        let mut frame = Vec::new();
        encode_frame(&mut frame, kind, 42, body);
        let hex = frame.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let lines: Vec<&str> = hex.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let vector = format!("vector {name}\n{}\n", lines.join("\n"));
        assert!(page.contains(&vector), "src/protocol/README.md lacks or differs in:\n{vector}");
        let header = FrameHeader::decode(frame.first_chunk::<FRAME_HEADER_BYTES>().unwrap()).unwrap();
        assert!(header.matches(body));
    }
}

#[test]
fn the_reference_page_lists_every_code() {
    let page = include_str!("README.md");
    for code in Code::ALL {
        let row = format!("| {} | `{}` | {} | {} |", code.number(), code.name(), code.meaning(), code.action());
        assert!(page.contains(&row), "src/protocol/README.md lacks: {row}");
    }
}

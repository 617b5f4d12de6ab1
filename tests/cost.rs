//! What a transfer costs in allocations, stage by stage: the same on every machine and in every run, so that a later change which makes the way
//! of a transfer dearer is seen at once. Time is measured by `cargo bench` and `heng-loadgen bench`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use heng::flow::{Admission, AnswerSink, Parcel, Span, Submission};
use heng::journal::PendingGroup;
use heng::ledger::{
    AccountId, Book, BookAccount, Code, GatewayId, Grant, NewAccount, Operation, Policy, Record, Transfer, TransferId,
};
use heng::protocol::{decode_transfers, encode_transfers};
use heng::router::IdIndex;
use heng::shard::{Core, ShardMessage};

const BATCH: u64 = 8_190;
const ACCOUNTS: u64 = 1_000;

const LIMITS: &str = "[[limit]]\nname = \"day\"\ncounted_per = \"account\"\ncurrency = \"EUR\"\nwindow = \"day\"\nsum_max = \"1000000000.00\"\n\
    [[fee]]\nname = \"fee\"\ncurrency = \"EUR\"\npaid_by = \"payee\"\nfee_code = 90\nfixed = \"0.01\"\ncodes = [1]\nto = [{ account = 1 }]\n";

#[derive(Debug)]
struct Nobody;

impl AnswerSink for Nobody {
    fn answer(&self, _: Arc<Parcel>) {}
}

fn properties(id: u64) -> NewAccount {
    NewAccount { id: AccountId::from_raw(id.into()), currency: 978, ..NewAccount::default() }
}

fn transfers(first: u64, flags: u16) -> Vec<Transfer> {
    let spread = |number: u64, factor: u64| u128::from(number * factor % (ACCOUNTS - 2) + 2);
    let make = |number: u64| {
        let (debit, credit) = (spread(number, 7_919), spread(number + 1, 7_919));
        Transfer {
            id: TransferId::from_raw(u128::from(number) + 1),
            debit: AccountId::from_raw(debit),
            credit: AccountId::from_raw(credit),
            amount: u128::from(number % 1_000) + 100,
            code: 1,
            flags,
            ..Transfer::default()
        }
    };
    (first..first + BATCH).map(make).collect()
}

fn batch(transfers: &[Transfer]) -> Submission {
    let count = transfers.len();
    let span = Span { request_id: 1, answer_kind: 0, first: 0, count };
    let permit = Admission::new(count).admit(count).expect("room");
    let parcel = Parcel::new((GatewayId(1), Grant::ALL), vec![span], Arc::new(Nobody), permit);
    let mut submission = Submission::default();
    submission.push_all(&parcel, transfers.to_vec());
    submission
}

/// Allocations and bytes per transfer.
fn per_transfer(of: &AllocationInfo) -> (f64, f64) {
    (of.count_total as f64 / BATCH as f64, of.bytes_total as f64 / BATCH as f64)
}

fn check(stage: &str, of: &AllocationInfo, (count, bytes): (f64, f64)) {
    let (counted, allocated) = per_transfer(of);
    println!("{stage:<28} {counted:>8.4} allocations, {allocated:>7.1} bytes per transfer");
    assert!(
        counted <= count && allocated <= bytes,
        "{stage}: {counted} allocations, {allocated} bytes; at most {count}, {bytes}"
    );
}

fn shard(policy: &str, flags: u16) -> AllocationInfo {
    let mut core = Core::new(0, 1, &Arc::new(Policy::parse(policy).unwrap()));
    for id in 1..=ACCOUNTS {
        core.host(&BookAccount { properties: properties(id), ..BookAccount::default() });
    }
    // The first batches make room that later ones use again.
    for round in 0..4 {
        core.handle(ShardMessage::Submit(batch(&transfers(round * BATCH, flags))));
        let _taken = core.take_output();
    }
    // In some of them a part of a map grows, at places that differ from run to run: the one that cost least tells what all of them do.
    let costs = (4..32).map(|round| {
        let next = batch(&transfers(round * BATCH, flags));
        measure(|| {
            core.handle(ShardMessage::Submit(next));
            let _taken = core.take_output();
        })
    });
    costs.min_by_key(|cost| cost.bytes_total).expect("there are some")
}

#[test]
fn a_transfer_allocates_no_more_than_it_did() {
    let made = transfers(0, 0);
    let mut body = Vec::with_capacity(128 * made.len() + 64);
    check("encode", &measure(|| encode_transfers(&mut body, made.iter())), (0.0, 0.0));
    let mut decoded = Vec::with_capacity(made.len());
    check(
        "decode",
        &measure(|| {
            decode_transfers(&body, &mut decoded).unwrap();
        }),
        (0.0, 0.0),
    );
    check("parcel", &measure(|| drop(batch(&made))), (0.0011, 153.0));
    check("shard, plain", &shard("", 0), (0.0028, 153.0));
    check("shard, limits and fees", &shard(LIMITS, 0), (3.1, 490.0));
    // In hardly any run a part grows in each of them.
    check("shard, holds", &shard("", Operation::Hold as u16), (0.005, 350.0));

    // The server's has its room from the start.
    let mut index = IdIndex::with_room(1 << 18);
    let mut admit = |from: u64| {
        for number in from..from + BATCH {
            let id = TransferId::from_raw(u128::from(number) + 1);
            index.admit(id);
            index.settle(id, number + 1);
        }
    };
    (0..16).for_each(|round| admit(round * BATCH));
    check("router index", &measure(|| admit(16 * BATCH)), (0.0, 0.0));

    let records = made.iter().map(|transfer| Record::Transfer {
        transfer: *transfer,
        outcome: Code::Accepted,
        gateway: GatewayId(1),
    });
    let records: Vec<Record> = records.collect();
    let group = measure(|| {
        let mut group = PendingGroup::new(1, 1);
        for record in &records {
            group.extend(Some(0), &record.encode());
        }
        group.seal(1, &[0; 32]);
    });
    check("group and seal", &group, (0.005, 340.0));

    let mut book = Book::new();
    for id in 1..=ACCOUNTS {
        book.apply(1, &Record::Account { account: properties(id), gateway: GatewayId(1) }).unwrap();
    }
    let apply = measure(|| {
        for record in &records {
            book.apply(2, record).unwrap();
        }
    });
    check("book", &apply, (0.001, 1.0));
}

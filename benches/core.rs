//! Question: what does each piece of the way of a transfer cost alone, per transfer?
//!
//! Expected on a 2-core virtual machine of 2024: account actor 5-20 ns, shard batch 60-150 ns, encode or decode 5-20 ns, router
//! index 60-110 ns, sealing a group (CRC32C and BLAKE3) 30-60 ns, the book 50-80 ns, appending one 1,000-record group 0.2-0.5 ms with its sync, reading
//! an amount 50-150 ns. Throughput is in transfers. `cargo test` runs each once.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a bench that cannot run is to fail"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heng::flow::{Admission, AnswerSink, Helpers, Parcel, Span, Submission};
use heng::journal::{
    Appended, Disk, FileDisk, FileJournal, Journal, JournalOptions, JournalReader, PendingGroup, recover,
};
use heng::ledger::{
    Account, AccountFlags, AccountId, Book, BookAccount, Code, GatewayId, Grant, NewAccount, Outcome, Record, Totals,
    Transfer, TransferId,
};
use heng::money::parse_money;
use heng::protocol::{decode_transfers, encode_outcomes, encode_transfers};
use heng::router::{IDS_IN_MEMORY, IdIndex, KnownIds};
use heng::settlement::Sequencer;
use heng::shard::{Core, ShardMessage};

const BATCH: u64 = 8_190;
const ACCOUNTS: u64 = 10_000;

fn transfers(first: u64) -> Vec<Transfer> {
    // A fixed multiplicative sequence: spread over all accounts, the same in every run.
    let spread = |number: u64, factor: u64| u128::from(number.wrapping_mul(factor) % ACCOUNTS + 1);
    let make = |number: u64| Transfer {
        id: TransferId::from_raw(u128::from(number) + 1),
        debit: AccountId::from_raw(spread(number, 7_919)),
        credit: AccountId::from_raw(spread(number, 104_729)),
        amount: u128::from(number % 1_000) + 1,
        ..Transfer::default()
    };
    (first..first + BATCH).map(make).collect()
}

fn properties(id: u64) -> NewAccount {
    NewAccount { id: AccountId::from_raw(id.into()), currency: 978, ..NewAccount::default() }
}

#[derive(Debug)]
struct Nobody;

impl AnswerSink for Nobody {
    fn answer(&self, _: Arc<Parcel>) {}
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

fn account_actor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("account");
    group.throughput(Throughput::Elements(1));
    let limited = NewAccount { flags: AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS, ..properties(1) };
    let totals = Totals { credits_posted: 1 << 90, ..Totals::default() };
    let mut debit = Account::new(&BookAccount { totals, ..BookAccount::open(&limited) });
    let mut credit = Account::new(&BookAccount::open(&properties(2)));
    group.bench_function("reserve, accept, finish", |bencher| {
        bencher.iter(|| {
            let reserved = debit.reserve(black_box(1));
            let accepted = credit.accept(black_box(1), 978, false);
            debit.finish(1);
            (reserved, accepted)
        });
    });
    group.finish();
}

fn shard_batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Elements(BATCH));
    let mut core = Core::new(0, 1, &Arc::default());
    for id in 1..=ACCOUNTS {
        core.host(&BookAccount { properties: properties(id), ..BookAccount::default() });
    }
    let transfers = transfers(0);
    group.bench_function("submit 8190", |bencher| {
        bencher.iter_batched(
            || batch(&transfers),
            |batch| {
                core.handle(ShardMessage::Submit(batch));
                core.take_output()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn router_index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router");
    group.throughput(Throughput::Elements(BATCH));
    let mut index = IdIndex::new();
    let mut next = 0;
    group.bench_function("admit and settle 8190 new ids", |bencher| {
        bencher.iter(|| {
            for block in transfers(next).chunks(32) {
                index.touch(block.iter().map(|transfer| transfer.id));
                for transfer in block {
                    index.admit(transfer.id);
                    index.settle(transfer.id, 1);
                }
            }
            // Bounded, so that a long bench does not measure an ever larger table.
            next = (next + BATCH) % 4_000_000;
        });
    });
    group.finish();
}

fn known_ids(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router");
    group.sample_size(10).throughput(Throughput::Elements(IDS_IN_MEMORY as u64));
    let directory = tempfile::tempdir().expect("a directory");
    let mut known = KnownIds::open(directory.path(), IDS_IN_MEMORY, &Helpers::threads()).expect("no runs yet");
    let mut number = 0;
    group.bench_function("admit and settle 2097152 new ids, write them as a run", |bencher| {
        bencher.iter(|| {
            for _ in 0..IDS_IN_MEMORY {
                number += 1;
                let id = TransferId::from_raw(u128::from(number));
                known.admit(id);
                known.settle(id, number);
            }
            known.turn_and_wait();
        });
    });
    group.finish();
}

fn settlement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("settlement");
    group.throughput(Throughput::Elements(BATCH));
    let mut sequencer = Sequencer::new((0, 0), 0, BATCH as usize);
    let mut core = Core::new(0, 1, &Arc::default());
    let transfers = transfers(0);
    let mut decided = || {
        core.handle(ShardMessage::Submit(batch(&transfers)));
        core.take_output().decided
    };
    group.bench_function("sequence, group and answer 8190", |bencher| {
        bencher.iter_batched(
            &mut decided,
            |decided| {
                for decided in decided {
                    sequencer.decided(decided, 1);
                }
                let written = sequencer.next_write().expect("a group").into_durable();
                sequencer.durable_group(&written);
                (written, sequencer.next_answer().expect("all of it is durable"))
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn protocol(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    group.throughput(Throughput::Elements(BATCH));
    let transfers = transfers(0);
    let mut body = Vec::new();
    group.bench_function("encode 8190", |bencher| {
        bencher.iter(|| {
            body.clear();
            encode_transfers(&mut body, transfers.iter());
        });
    });
    let mut decoded = Vec::new();
    group.bench_function("decode 8190", |bencher| {
        bencher.iter(|| {
            decoded.clear();
            decode_transfers(black_box(&body), &mut decoded)
        });
    });
    let outcomes = vec![Outcome::unrecorded(Code::Accepted); transfers.len()];
    group.bench_function("answer 8190", |bencher| {
        bencher.iter(|| {
            body.clear();
            encode_outcomes(&mut body, black_box(&outcomes));
        });
    });
    group.finish();
}

fn sealed_group(first: u64, count: u64) -> PendingGroup {
    let mut group = PendingGroup::new(first, first);
    for transfer in transfers(first).iter().take(count as usize) {
        let record = Record::Transfer { transfer: *transfer, outcome: Code::Accepted, gateway: GatewayId(1) };
        group.extend(Some(0), &record.encode());
    }
    group
}

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20);
    let mut unsealed = sealed_group(1, BATCH);
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("seal 8190", |bencher| bencher.iter(|| unsealed.seal(1, &[0; 32])));
    let directory = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(directory.path()).expect("a disk"));
    let reader = JournalReader::new(Arc::clone(&disk));
    let recovered = recover(&disk, &reader, (0, 0), &mut |_, _| Ok(())).expect("an empty journal");
    let options = JournalOptions { segment_bytes: 64 << 20, ahead: true };
    let mut journal = FileJournal::open(disk, options, recovered.tail, reader).expect("a journal");
    let epoch = journal.epoch();
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("append 1000 with sync", |bencher| {
        bencher.iter_batched(
            || sealed_group(1, 1_000),
            |made| {
                let first = journal.tail().next_sequence;
                let mut fresh = PendingGroup::new(first, first);
                fresh.extend(Some(0), &made.bytes()[heng::journal::GROUP_HEADER_BYTES..]);
                assert!(matches!(journal.append(epoch, first, &mut fresh), Appended::Durable));
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn book(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("book");
    group.throughput(Throughput::Elements(BATCH));
    let mut book = Book::new();
    for id in 1..=ACCOUNTS {
        let record = Record::Account { account: properties(id), gateway: GatewayId(1) };
        book.apply(1, &record).expect("a new account");
    }
    let valid: Vec<_> = transfers(0).into_iter().filter(|transfer| transfer.check().is_ok()).collect();
    group.bench_function("apply 8190", |bencher| {
        bencher.iter(|| {
            for transfer in &valid {
                let slots = book.find_both((transfer.debit, transfer.credit));
                book.apply_transfer((transfer, Code::Accepted, GatewayId(1)), slots).expect("accepted");
            }
        });
    });
    group.finish();
}

fn money(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("money");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |bencher| bencher.iter(|| parse_money(black_box("1234567.89 EUR"))));
    group.finish();
}

criterion_group!(
    benches,
    account_actor,
    shard_batch,
    router_index,
    known_ids,
    settlement,
    protocol,
    journal,
    book,
    money
);
criterion_main!(benches);

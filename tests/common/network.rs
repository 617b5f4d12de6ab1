//! Shards without threads: queues between them, delivered in any order, with a book that follows what they decide.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use heng::flow::{Admission, AnswerSink, Batch, Decided, Parcel, Span, Submission};
use heng::ledger::{
    Book, Code, GatewayId, Grant, NewAccount, Order, Original, Policy, PolicyPart, RECORD_BYTES, Record, Transfer,
    is_joined_to_next,
};
use heng::settlement::fill_outcomes;
use heng::shard::{Core, Item, ShardMessage};

#[derive(Debug, Default)]
struct Nobody;

impl AnswerSink for Nobody {
    fn answer(&self, _: Arc<Parcel>) {}
}

/// Shards with queues between them; which queue moves next is up to the test.
pub(crate) struct Network {
    pub(crate) cores: Vec<Core>,
    /// `queues[to][from]`, with the outside world as the last `from`.
    pub(crate) queues: Vec<Vec<VecDeque<ShardMessage>>>,
    pub(crate) book: Book,
    pub(crate) codes: BTreeMap<u128, Code>,
    /// Accepted records by id, as a router would find them.
    pub(crate) records: BTreeMap<u128, Transfer>,
    /// Transactions as they were asked for, in order, where a test notes them.
    #[allow(dead_code, reason = "not every test that has a network looks at it")]
    pub(crate) asked: Vec<Vec<Transfer>>,
    /// All records, in order.
    pub(crate) journal: Vec<Record>,
    pub(crate) grant: Grant,
    pub(crate) gateway: GatewayId,
    pub(crate) now_ns: u64,
}

impl Network {
    pub(crate) fn new(shards: usize, policy: &str) -> Self {
        let parsed = Arc::new(Policy::parse(policy).unwrap());
        let mut network = Self {
            cores: (0..shards).map(|shard| Core::new(shard, shards, &parsed)).collect(),
            queues: (0..shards).map(|_| (0..=shards).map(|_| VecDeque::new()).collect()).collect(),
            book: Book::new(),
            codes: BTreeMap::new(),
            records: BTreeMap::new(),
            asked: Vec::new(),
            journal: Vec::new(),
            grant: Grant::ALL,
            gateway: GatewayId(1),
            now_ns: 0,
        };
        for part in PolicyPart::split(policy) {
            network.append(Record::Policy(part));
        }
        network.tick(1_000_000_000_000);
        network
    }

    pub(crate) fn append(&mut self, record: Record) {
        self.journal.push(record);
        self.book.apply(self.now_ns, &record).unwrap_or_else(|err| panic!("{err}: {record:?}"));
        assert_eq!(self.book.take_notes(), [], "{record:?}");
    }

    fn parcel(&self, count: usize) -> Arc<Parcel> {
        let span = Span { request_id: 1, answer_kind: 0, first: 0, count };
        let permit = Admission::new(count).admit(count).unwrap();
        Parcel::new((self.gateway, self.grant), vec![span], Arc::new(Nobody), permit)
    }

    pub(crate) fn open(&mut self, account: &NewAccount) {
        self.send_open(account);
        self.settle();
    }

    /// Asks for an account to be opened, which waits as everything else does.
    pub(crate) fn send_open(&mut self, account: &NewAccount) {
        let mut batch = Batch::default();
        batch.push(&self.parcel(1), 0, *account);
        let shards = self.cores.len();
        self.queues[account.id.shard(shards)][shards].push_back(ShardMessage::Open(batch));
    }

    /// Sends a transaction as the router would.
    pub(crate) fn submit(&mut self, transfers: &[Transfer]) {
        let parcel = self.parcel(transfers.len());
        let shards = self.cores.len();
        let queue = &mut self.queues[transfers[0].debit.shard(shards)][shards];
        if transfers.iter().any(|transfer| transfer.operation().names_original()) {
            let items = (0..).zip(transfers).map(|(index, transfer)| {
                let known = self.records.get(&transfer.related).map(|first| Original::Known {
                    transfer: *first,
                    accepted: self.codes[&transfer.related].is_accepted(),
                });
                let order = Order {
                    transfer: *transfer,
                    gateway: self.gateway,
                    grant: self.grant,
                    original: known.unwrap_or(Original::Unknown),
                    refused: None,
                };
                Item { parcel: Arc::clone(&parcel), index, order }
            });
            queue.push_back(ShardMessage::Orders(vec![items.collect()]));
        } else {
            let mut submission = Submission::default();
            for (index, transfer) in (0..).zip(transfers) {
                submission.push(&parcel, index, *transfer);
            }
            queue.push_back(ShardMessage::Submit(submission));
        }
    }

    /// Says what time it is, at once.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        let shards = self.cores.len();
        self.queues[0][shards].push_back(ShardMessage::Tick { now_ns });
        self.settle();
    }

    /// Lets one shard handle one waiting message, chosen by `pick`; false when nothing waits.
    pub(crate) fn step(&mut self, pick: usize) -> bool {
        let queues = self.queues.iter().enumerate();
        let waiting: Vec<(usize, usize)> = queues
            .flat_map(|(to, queues)| {
                queues.iter().enumerate().filter(|(_, queue)| !queue.is_empty()).map(move |(from, _)| (to, from))
            })
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (to, from) = waiting[pick % waiting.len()];
        let message = self.queues[to][from].pop_front().unwrap();
        self.cores[to].handle(message);
        self.deliver(to);
        true
    }

    /// Takes what a shard has to send, in the order in which its actor sends it.
    pub(crate) fn deliver(&mut self, from: usize) {
        let output = self.cores[from].take_output();
        for decided in &output.decided {
            self.record(decided);
        }
        for (peer, ended) in output.ended.into_iter().enumerate().filter(|(_, ended)| !ended.is_empty()) {
            self.queues[peer][from].push_back(ShardMessage::Finish { from, ended });
        }
        for (peer, loans) in output.loans.into_iter().enumerate().filter(|(_, loans)| !loans.is_empty()) {
            self.queues[peer][from].push_back(ShardMessage::Loans(loans));
        }
        for (peer, count) in output.probed.into_iter().enumerate() {
            self.queues[peer][from].extend((0..count).map(|_| ShardMessage::Probed { from }));
        }
        for (peer, legs) in output.legs.into_iter().enumerate().filter(|(_, legs)| !legs.is_empty()) {
            self.queues[peer][from].push_back(ShardMessage::Accept { from, legs });
        }
        for (peer, count) in output.probes.into_iter().enumerate() {
            self.queues[peer][from].extend((0..count).map(|_| ShardMessage::Probe { from }));
        }
    }

    /// The book refuses any record that breaks a rule at its place in the stream.
    fn record(&mut self, decided: &Decided) {
        fill_outcomes(decided, 0, decided.recorded.len(), 1, 1);
        if decided.second != 0 && decided.second != self.book.second() {
            self.append(Record::Clock { second: decided.second });
        }
        let mut amid = false;
        for bytes in decided.records.chunks_exact(RECORD_BYTES) {
            let bytes = bytes.first_chunk().unwrap();
            let record = Record::decode(bytes).unwrap();
            self.append(record);
            if let Record::Transfer { transfer, outcome, .. } = record {
                assert_eq!(self.codes.insert(transfer.id.raw(), outcome), None, "decided twice");
                self.records.insert(transfer.id.raw(), transfer);
            }
            amid = is_joined_to_next(bytes);
        }
        assert!(!amid, "an atomic step is handed on whole");
        if let Some(audit) = &decided.audit {
            for (id, totals) in &audit.accounts {
                assert_eq!(self.book.account(*id).map(|account| account.totals), Some(*totals), "{id}");
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        while self.step(0) {}
    }

    /// What the shards hold is what the records say, and nothing waits.
    pub(crate) fn check_agreement(&mut self) {
        let shards = self.cores.len();
        for shard in 0..shards {
            assert!(self.cores[shard].is_idle(), "something still waits at shard {shard}");
            let count = u32::try_from(self.cores[shard].accounts()).unwrap();
            self.queues[shard][shards].push_back(ShardMessage::Audit { first: 0, count });
        }
        self.settle();
        assert!(self.book.balance_sums().values().all(|&sum| sum == 0));
        assert_eq!(self.book.pending_differences(), []);
        let open = self.cores[0].desk_mut().unwrap();
        assert_eq!(open.pendings(), self.book.open().pendings.len());
        for pending in self.book.open().pendings.iter() {
            let known = open.pending(pending.id).unwrap();
            assert_eq!((known.left, known.held, known.captured), (pending.left, pending.held, pending.captured));
        }
    }

    /// Replaying the journal gives the same book.
    pub(crate) fn check_replay(&self) {
        let mut again = Book::new();
        for record in &self.journal {
            again.apply(0, record).unwrap();
        }
        let totals = |book: &Book| {
            book.accounts().map(|account| (account.properties, account.state, account.totals)).collect::<Vec<_>>()
        };
        assert_eq!(totals(&again), totals(&self.book));
        assert!(again.open().pendings.iter().eq(self.book.open().pendings.iter()));
        assert!(again.open().lives.newest().eq(self.book.open().lives.newest()));
        assert_eq!(again.open().lives.sum(), self.book.open().lives.sum());
        assert!(again.open().tallies.iter().eq(self.book.open().tallies.iter()));
        assert_eq!(again.summary(), self.book.summary());
        let windows = |book: &Book| {
            let of = book.windows();
            let windows: Vec<_> = of.windows().keys().filter_map(|key| of.window(*key)).collect();
            (windows, of.payouts().clone(), of.participants().to_vec())
        };
        // Times are not kept here.
        let timeless = |book: &Book| {
            let (mut all, payouts, participants) = windows(book);
            for window in &mut all {
                (window.opened_ns, window.closed_ns) = (0, 0);
            }
            (all, payouts, participants)
        };
        assert_eq!(timeless(&again), timeless(&self.book));
    }
}

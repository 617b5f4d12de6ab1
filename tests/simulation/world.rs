//! The world: one server after the other on one disk, clients, a network, a clock; who does something next is drawn from the seed.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heng::journal::{Disk, JournalReader, TAKEN_OVER};
use heng::ledger::{AccountFlags, AccountId, Code, NewAccount, Record, Sequence, StoredRecord};
use heng::protocol::AccountState;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bank::Bank;
use crate::check::Judge;
use crate::disk::{Fault, SimDisk};
use crate::log::{Balance, Log, Read, Transaction};
use crate::office::Shown;
use crate::peer::{Heard, Link, Waiting};
use crate::plain::{ACCOUNTS, Ask, DAY_S, SECOND_NS};
use crate::policies::{BOUNDS, policy_of};
use crate::server::{Options, Server, gateway_name};
use crate::summary::Summary;
use crate::wishes;

/// Lines of what happened that are kept to be told.
const TOLD_LINES: usize = 60;

/// The year 2027 begins: of years before 2000 a statement in MT940 could not speak.
pub(crate) const EPOCH_S: u64 = 1_798_761_600;

/// Some minutes before a day ends.
const NEARLY_MIDNIGHT_S: u64 = 12 * DAY_S - 200;

/// Requests of one connection without an answer.
const IN_FLIGHT_MAX: usize = 6;

/// Steps from which on a run is no short one.
const SHORT: usize = 1_000;

/// Steps after which everything must have been answered once no fault comes any more.
const PATIENCE: usize = 40_000;

pub(crate) struct Client {
    gateway: u32,
    link: Option<Link>,
}

/// A run.
pub(crate) struct World<'a> {
    pub(crate) rng: StdRng,
    pub(crate) path: &'a Path,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) now_ns: Arc<AtomicU64>,
    pub(crate) server: Option<Server>,
    /// What the store had when its last sync returned: a checkpoint, and how far the index goes.
    pub(crate) stored: (Sequence, Sequence),
    /// Sled's files are to be torn before the next start, with this seed.
    pub(crate) torn: Option<u64>,
    pub(crate) clients: Vec<Client>,
    pub(crate) log: Log,
    pub(crate) bank: Bank,
    /// To be sent, or sent again.
    pub(crate) queue: VecDeque<usize>,
    pub(crate) is_opened: bool,
    pub(crate) faults: bool,
    /// Nothing goes wrong but what was armed.
    pub(crate) is_calm: bool,
    /// How often everybody gets a turn in the end.
    last_rounds: usize,
    /// How much has gone wrong, and which of it does not, by its number.
    pub(crate) faults_so_far: usize,
    pub(crate) spared: BTreeSet<usize>,
    pub(crate) options: Options,
    /// Transactions in one request.
    pub(crate) batch_max: usize,
    pub(crate) summary: Summary,
    pub(crate) told: VecDeque<String>,
}

fn balance(account: &AccountState) -> Balance {
    let all = account.totals;
    let totals = [all.debits_posted, all.credits_posted, all.debits_pending, all.credits_pending];
    let properties = &account.properties;
    (properties.id.raw(), totals, account.state.number(), properties.level, properties.overdraft)
}

/// The records about what a record is about.
fn history(reader: &JournalReader, last: &StoredRecord) -> String {
    let about = |record: &Record| match record {
        Record::Transfer { transfer, .. } | Record::Internal { transfer, .. } => [transfer.id.raw(), transfer.related],
        _ => [0; 2],
    };
    let ids = about(&last.record);
    let earlier = (1..=last.sequence).filter_map(|sequence| reader.read(sequence).ok().flatten());
    let concerned = earlier.filter(|stored| about(&stored.record).iter().any(|id| *id != 0 && ids.contains(id)));
    let line = |stored: StoredRecord| format!("  {} at {}: {:?}", stored.sequence, stored.time_ns, stored.record);
    concerned.map(line).collect::<Vec<_>>().join("\n")
}

/// Records that the ledger makes by itself between two others, at most.
const OWN_RECORDS: u64 = 300;

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, path: &'a Path) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pick = |from: &[u64]| from[rng.random_range(0..from.len())];
        let (rules, clears, policy) = policy_of(seed);
        let options = Options {
            rules,
            clears,
            policy,
            shards: 1,
            items_in_flight_max: usize::try_from(pick(&[30, 200, 10_000])).unwrap(),
            group_records_max: usize::try_from(pick(&[1, 3, 40, 8_190])).unwrap(),
            checkpoint_records: pick(&[40, 100, 400, 100_000]),
            segment_bytes: pick(&[8 << 10, 32 << 10, 256 << 10]),
            ids_in_memory: usize::try_from(pick(&[20, 100, 5_000])).unwrap(),
        };
        let batch_max = usize::try_from(pick(&[4, 4, 60])).unwrap();
        // What is more than there is room for is busy for ever, and a group is never longer than a segment.
        let group_max = if batch_max > 4 { options.group_records_max.min(400) } else { options.group_records_max };
        let begin_s = if rules { NEARLY_MIDNIGHT_S } else { 1_000_000 };
        let options = Options {
            items_in_flight_max: options.items_in_flight_max.max(4 * batch_max),
            group_records_max: group_max,
            segment_bytes: options.segment_bytes.max(if group_max > 40 { 64 << 10 } else { 0 }),
            ..options
        };
        let now_ns = Arc::new(AtomicU64::new((EPOCH_S + begin_s) * SECOND_NS));
        let clients = (0..5).map(|number| Client { gateway: 1 + number % 2, link: None }).collect();
        Self {
            path,
            disk: Arc::new(SimDisk::new(seed, Arc::clone(&now_ns))),
            now_ns,
            server: None,
            stored: (0, 0),
            torn: None,
            clients,
            log: Log { is_ordered: seed.is_multiple_of(3), ..Log::default() },
            bank: Bank::default(),
            queue: VecDeque::new(),
            is_opened: false,
            faults: true,
            is_calm: false,
            last_rounds: 0,
            faults_so_far: 0,
            spared: BTreeSet::new(),
            options,
            batch_max,
            summary: Summary::default(),
            told: VecDeque::new(),
            rng,
        }
    }

    /// What happened last, for people.
    pub(crate) fn story(&self) -> String {
        let Self { summary, options, .. } = self;
        let lines: Vec<&str> = self.told.iter().map(String::as_str).collect();
        format!("{options:?}\n{summary:?}\n  {}", lines.join("\n  "))
    }

    pub(crate) fn tell(&mut self, mut what: String) {
        // Each world has a directory of its own.
        let own = self.path.display().to_string();
        if what.contains(&own) {
            what = what.replace(&own, "the directory");
        }
        for byte in what.bytes() {
            self.summary.trace = (self.summary.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.told.len() == TOLD_LINES {
            self.told.pop_front();
        }
        self.told.push_back(what);
    }

    /// So many steps with faults, then all that is needed to answer everybody; then the judge.
    pub(crate) async fn run(&mut self, steps: usize) -> Result<Summary, String> {
        // Where little has happened, there is not much to wait for in the end.
        self.last_rounds = PATIENCE / if self.is_calm || steps < SHORT { 200 } else { 20 };
        for _ in 0..steps {
            self.step().await?;
        }
        self.faults = false;
        self.summary.calls = self.disk.calls();
        self.disk.mend();
        self.tell("no more faults".to_owned());
        // The office of the server that runs may still be cut off: it goes on in the next one.
        self.stop(false);
        for _ in 0..PATIENCE {
            self.step().await?;
            if self.is_opened && self.log.transactions.iter().all(Transaction::is_answered) {
                return self.finish().await;
            }
        }
        let open = self.log.transactions.iter().filter(|transaction| !transaction.is_answered()).count();
        Err(format!("{open} transactions are not answered {PATIENCE} steps after the last fault"))
    }

    async fn step(&mut self) -> Result<(), String> {
        if self.server.is_none() {
            self.start()?;
        }
        match self.rng.random_range(0..1_000) {
            0..350 => self.actor(),
            350..520 => self.helper(),
            520..800 => self.network().await?,
            800..880 => self.send(),
            880..910 => self.read(),
            910..960 => self.pass_time(),
            960..975 => self.tick(),
            975..985 => self.cut(),
            985..993 => self.office()?,
            993..997 => {
                // Time for what was parked; nothing else.
                tokio::task::yield_now().await;
            }
            _ if self.is_wild() => self.fault()?,
            _ => {}
        }
        tokio::task::yield_now().await;
        let violations = self.server.as_ref().map_or(0, Server::violations);
        if violations > 0 {
            return Err("the server says that an invariant does not hold".to_owned());
        }
        let failure = self.server.as_ref().and_then(Server::failure);
        if let Some(why) = failure {
            self.tell(format!("the server has ended: {why}"));
            let is_taken_over = self.disk.is_taken_over() && why == TAKEN_OVER;
            let is_broken = self.disk.is_down() || why.contains("failed") || why.contains("cannot be written");
            let is_expected = is_taken_over || is_broken;
            if !is_expected {
                return Err(format!("the server has ended: {why}"));
            }
            self.stop(false);
        }
        Ok(())
    }

    fn is_wild(&self) -> bool {
        self.faults && !self.is_calm
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        if let Some(seed) = self.torn.take() {
            self.judge_torn(seed)?;
        }
        self.options.shards = self.rng.random_range(1..=4);
        if self.is_wild() && self.rng.random_bool(0.1) {
            let calls = self.rng.random_range(0..12);
            self.disk.arm(calls, Fault::Power);
            self.tell(format!("the power will go {calls} calls into the start"));
        }
        self.summary.starts += 1;
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let seed = self.rng.random();
        match Server::start(self.path, disk, &self.now_ns, (&self.options, seed, self.is_wild())) {
            Ok(server) => {
                self.stored = server.stored();
                self.tell(format!("started with {} shards, checkpoint {}", self.options.shards, self.stored.0));
                self.server = Some(server);
                self.keep_store();
                self.judge_so_far()
            }
            Err(why) if self.disk.is_down() || self.disk.has_failed() || why.contains("no storage space") => {
                self.tell(format!("did not start: {why}"));
                let with_power = self.disk.is_down() || self.rng.random();
                self.restart_disk(with_power);
                Ok(())
            }
            Err(why) => Err(format!("does not start: {why}")),
        }
    }

    fn actor(&mut self) {
        if let Some(server) = &mut self.server {
            let actor = self.rng.random_range(0..server.actors());
            server.drain(actor);
        }
    }

    fn helper(&mut self) {
        let Some(server) = &self.server else { return };
        let helper = self.rng.random_range(0..server.helpers());
        let has_helped = server.help(helper);
        if !server.is_store(helper) {
            return;
        }
        if !self.note_stored() && has_helped && self.is_wild() && self.rng.random_bool(0.03) {
            self.tell("amid a checkpoint".to_owned());
            self.stop(false);
        }
    }

    /// Keeps what the store has, when more of it has become durable; answers whether a checkpoint has.
    pub(crate) fn note_stored(&mut self) -> bool {
        let before = self.stored;
        let Some(server) = &self.server else { return false };
        self.stored = server.stored();
        if self.stored == before {
            return false;
        }
        self.keep_store();
        if self.stored.0 != before.0 {
            self.tell(format!("checkpoint {}", self.stored.0));
        }
        self.stored.0 != before.0
    }

    fn tick(&mut self) {
        if let Some(server) = &mut self.server {
            (0..server.actors()).for_each(|actor| server.tick(actor));
        }
    }

    fn pass_time(&mut self) {
        let most = [1_000, 1_000_000, SECOND_NS, 20 * SECOND_NS][self.rng.random_range(0..4_usize)];
        let passed = self.rng.random_range(0..most);
        self.now_ns.fetch_add(passed, Ordering::Relaxed);
        self.summary.seconds += passed / SECOND_NS;
        self.tick();
    }

    pub(crate) fn abandon(&mut self, client: usize) {
        let Some(link) = self.clients[client].link.take() else { return };
        for waiting in link.abandoned() {
            if let Waiting::Transactions(numbers) = waiting {
                self.queue.extend(numbers);
            }
        }
    }

    fn cut(&mut self) {
        let client = self.rng.random_range(0..self.clients.len());
        if self.is_wild() && self.clients[client].link.is_some() {
            self.tell(format!("connection {client} is cut"));
            self.abandon(client);
        }
    }

    fn link(&mut self) -> Option<usize> {
        let client = self.rng.random_range(0..self.clients.len());
        if self.clients[client].link.is_none() {
            let server = self.server.as_ref()?;
            let room = [64, 1_000, 100_000][self.rng.random_range(0..3_usize)];
            let gateway = gateway_name(self.clients[client].gateway);
            self.clients[client].link = Some(Link::new(server.connect(room), &gateway));
        }
        Some(client)
    }

    fn send(&mut self) {
        let Some(client) = self.link() else { return };
        let gateway = self.clients[client].gateway;
        if self.clients[client].link.as_ref().is_none_or(|link| link.in_flight() >= IN_FLIGHT_MAX) {
            return;
        }
        if !self.is_opened {
            return self.open(client);
        }
        let second = self.now_ns.load(Ordering::Relaxed) / SECOND_NS;
        let mut numbers = Vec::new();
        for _ in 0..self.rng.random_range(1..=self.batch_max) {
            let again = self.queue.iter().position(|&number| self.log.transactions[number].gateway == gateway);
            let number = match again {
                Some(place) => self.queue.remove(place),
                // Something that was sent before, whether it was answered or not.
                None if self.rng.random_bool(0.15) && !self.log.transactions.is_empty() => {
                    let number = self.rng.random_range(0..self.log.transactions.len());
                    Some(number).filter(|&number| self.log.transactions[number].gateway == gateway)
                }
                None if self.faults => {
                    Some(wishes::transaction(&mut self.rng, &mut self.log, second, (gateway, self.options.rules)))
                }
                None => None,
            };
            numbers.extend(number.filter(|number| !numbers.contains(number)));
        }
        if numbers.is_empty() {
            return;
        }
        self.tell(format!("client {client} sends {numbers:?}"));
        self.submit(client, numbers);
    }

    fn submit(&mut self, client: usize, numbers: Vec<usize>) {
        let told_max = self.log.told_max;
        let mut transfers = Vec::new();
        for &number in &numbers {
            let transaction = &mut self.log.transactions[number];
            transaction.floor.get_or_insert(told_max);
            let count = transaction.asks.len();
            transfers.extend(transaction.asks.iter().enumerate().map(|(place, ask)| ask.encode(place + 1 < count)));
        }
        if let Some(link) = &mut self.clients[client].link {
            link.submit(numbers, &transfers);
        }
    }

    fn open(&mut self, client: usize) {
        let account = |(id, flags, class, level, currency)| NewAccount {
            id: AccountId::from_raw(id),
            currency,
            flags: AccountFlags(flags),
            class,
            level,
            ..NewAccount::default()
        };
        let accounts: Vec<NewAccount> = ACCOUNTS.into_iter().map(account).collect();
        if let Some(link) = &mut self.clients[client].link {
            link.open(&accounts);
        }
    }

    fn read(&mut self) {
        let Some(client) = self.link().filter(|_| self.is_opened) else { return };
        let floor = self.log.told_max;
        if let Some(link) = self.clients[client].link.as_mut().filter(|link| link.in_flight() < IN_FLIGHT_MAX) {
            link.read(ACCOUNTS.into_iter().map(|account| account.0), floor);
        }
    }

    async fn network(&mut self) -> Result<(), String> {
        let client = self.rng.random_range(0..self.clients.len());
        let Some(mut link) = self.clients[client].link.take() else { return Ok(()) };
        let alive = link.carry(&mut self.rng).await;
        let mut heard = Vec::new();
        while let Some(one) = link.hear()? {
            heard.push(one);
        }
        self.clients[client].link = Some(link);
        for one in heard {
            self.hear(client, one)?;
        }
        if !alive {
            self.abandon(client);
        }
        Ok(())
    }

    fn hear(&mut self, client: usize, heard: Heard) -> Result<(), String> {
        match heard {
            Heard::Accounts(floor, sequence, accounts) => {
                self.summary.reads += 1;
                self.tell(format!("client {client} reads as of {sequence}"));
                let balances = accounts.iter().map(balance).collect();
                self.log.reads.push(Read { floor, sequence, balances });
                self.log.told_max = self.log.told_max.max(sequence);
            }
            Heard::Outcomes(Waiting::Transactions(numbers), outcomes) => {
                let asked = numbers.iter().flat_map(|&number| {
                    (0..self.log.transactions[number].asks.len()).map(move |place| (number, place))
                });
                let asked: Vec<_> = asked.collect();
                if asked.len() != outcomes.len() {
                    return Err(format!("{} outcomes for {} transfers", outcomes.len(), asked.len()));
                }
                let first = outcomes.first().map(|outcome| (outcome.code, outcome.sequence, outcome.repeated));
                self.tell(format!("client {client} is told of {numbers:?}: {first:?}"));
                for (place, outcome) in asked.into_iter().zip(&outcomes) {
                    self.summary.answered += u64::from(outcome.sequence > 0);
                    self.log.hear(place, outcome)?;
                }
                let open = |number: &usize| !self.log.transactions[*number].is_answered();
                self.queue.extend(numbers.into_iter().filter(open));
            }
            Heard::Outcomes(_, outcomes) => {
                let is_opened = outcomes.iter().all(|outcome| outcome.code.is_accepted() || outcome.repeated);
                if is_opened && !self.is_opened {
                    self.is_opened = true;
                    self.tell("accounts are open".to_owned());
                    for (debit, credit) in [(1, 2), (1, 3), (5, 4), (7, 8)] {
                        let ask = Ask { id: self.log.new_id(0), debit, credit, amount: 400, ..Ask::default() };
                        let number = self.log.add(vec![ask], 1);
                        self.queue.push_back(number);
                    }
                }
            }
            Heard::Refused(waiting, code) => {
                if !matches!(code, Code::Busy | Code::Draining) {
                    return Err(format!("{waiting:?} is refused: {code}"));
                }
                if let Waiting::Transactions(numbers) = waiting {
                    self.queue.extend(numbers);
                }
            }
        }
        Ok(())
    }

    /// Everybody has an answer: what accounts have is read, nothing overdue is open, and the judge walks the journal.
    async fn finish(&mut self) -> Result<Summary, String> {
        // What is withheld comes back, too.
        let passed = if self.options.rules { DAY_S } else { 0 } + 10_000;
        self.now_ns.fetch_add(passed * SECOND_NS, Ordering::Relaxed);
        let reads = self.log.reads.len();
        for _ in 0..self.last_rounds {
            self.tick();
            for _ in 0..20 {
                self.step().await?;
            }
        }
        let shown = if self.options.clears { self.clear()? } else { Shown::default() };
        let (floor, before) = (self.log.told_max.max(shown.sequence), reads);
        for _ in 0..PATIENCE {
            self.read();
            self.step().await?;
            let last = self.log.reads.get(before..).and_then(|new| new.last());
            if let Some(read) = last.filter(|read| read.sequence >= floor).cloned() {
                return self.judge(&read.balances, read.sequence, &shown).and_then(|()| self.read_again());
            }
        }
        Err("a read is not answered".to_owned())
    }

    /// A judge that has seen the journal up to a record.
    fn walk(&self, until: u64, shown: &Shown) -> Result<Judge<'_>, String> {
        let reader = &self.server.as_ref().ok_or("no server")?.engine.reader;
        let mut judge = Judge::new((&self.log, &self.bank), self.options.rules.then_some(BOUNDS));
        judge.distributions.beside = u64::try_from(self.options.items_in_flight_max).unwrap() + OWN_RECORDS;
        for sequence in 1..=until {
            let stored = reader.read(sequence).map_err(|err| err.to_string())?;
            let stored = stored.ok_or_else(|| format!("record {sequence} is missing"))?;
            judge.record(&stored).map_err(|what| format!("{what}\n{}", history(reader, &stored)))?;
            if sequence == shown.sequence {
                judge.compare_windows(&shown.windows, &shown.participants)?;
                judge.statements.compare((&shown.breaks, shown.statements), &judge.windows)?;
                // Who asks for a run after that may find it open at the end.
                judge.distributions.finish(shown.second)?;
            }
        }
        Ok(judge)
    }

    /// What was recovered is what the journal says, and nothing is missing of what was answered until then.
    fn judge_so_far(&self) -> Result<(), String> {
        let Some((until, balances)) = self.server.as_ref().map(|server| &server.recovered) else { return Ok(()) };
        self.walk(*until, &Shown::default())?.ends_here(balances)
    }

    fn judge(&mut self, balances: &[Balance], until: u64, shown: &Shown) -> Result<(), String> {
        let mut judge = self.walk(until, shown)?;
        judge.finish(balances)?;
        let second = self.now_ns.load(Ordering::Relaxed) / SECOND_NS;
        if let Some(late) = judge.overdue(second) {
            return Err(format!("{late} is overdue at second {second} and still open"));
        }
        let (windows, settled) = (judge.windows.closed(), judge.windows.settled());
        let ((lines, written_off), (limited, charged)) = (judge.statements.counts(), judge.ruled);
        let (came_back, distributed, short) =
            (judge.came_back, judge.distributions.done(), judge.distributions.short());
        self.summary = Summary {
            windows,
            settled,
            lines,
            written_off,
            limited,
            charged,
            came_back,
            distributed,
            short,
            records: until,
            ..self.summary
        };
        Ok(())
    }

    /// After the end: `verify` finds nothing in the files, and a start without store and id runs, with another number of shards, comes to the same.
    fn read_again(&mut self) -> Result<Summary, String> {
        for client in 0..self.clients.len() {
            self.abandon(client);
        }
        self.server = None;
        self.disk.restart(false);
        let journal = self.path.join("journal");
        std::fs::create_dir_all(&journal).unwrap();
        self.disk.copy().export(&journal);
        let report = heng::verify::verify(self.path).map_err(|err| err.to_string())?;
        if !report.ok || report.groups == 0 {
            return Err(format!("verify finds {:?}", report.violations));
        }
        for derived in ["store", "ids"] {
            drop(std::fs::remove_dir_all(self.path.join(derived)));
        }
        self.start()?;
        Ok(self.summary)
    }
}

//! A bank beside the simulation: it does payouts, or does them wrongly, and says so in statements; people import those until that is answered, and
//! decide about breaks.
//!
//! What becomes of a payout follows from its id, so that the judge (`statements.rs`) knows without being told.

use std::collections::BTreeSet;

use heng::backoffice::{
    Answer, BreakOrder, BreakOrderAction, BreakView, Command, Import, Overlap, Person, Ports, Problem,
};
use heng::ledger::{GatewayId, PayoutEntry};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::plain::DAY_S;
use crate::server::{Server, Waiting};
use crate::world::EPOCH_S;

/// The bank account of the policy, and how its statements are read.
pub(crate) const POLICY: &str = "[[bank_account]]\nname = \"house\"\naccount = 6\ncurrency = \"EUR\"\ndue_days = 60\nwrite_off_account = 1\n\
    [[statement_csv]]\nname = \"bank\"\ndate = \"day\"\namount = \"amount\"\nreference = \"reference\"\ntext = \"text\"\n";

/// Its mirror in the ledger, and against which account differences are written off.
pub(crate) const MIRROR: u128 = 6;
pub(crate) const WRITTEN_OFF: u128 = 1;

/// Cents; no sum of transfers comes near to it, so that nothing is taken for such a line by its amount.
const EXTRA: i128 = 1_000_000_000;

/// What becomes of a payout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The bank may refuse it, and never books it.
    Refused,
    Done,
    /// Another amount is booked.
    Different,
    /// It is booked twice.
    Twice,
    /// No statement shows it.
    Untold,
}

pub(crate) fn fate(payout: u128) -> Fate {
    match payout % 10 {
        0..3 => Fate::Refused,
        3..6 => Fate::Done,
        6 => Fate::Different,
        7 => Fate::Twice,
        _ => Fate::Untold,
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    day: u64,
    /// Cents; positive is money in.
    pub(crate) amount: i128,
    /// What it names, and what that should have been.
    pub(crate) payout: Option<(u128, i128)>,
}

/// Amounts without a sign.
fn euros(cents: i128, decimal: char) -> String {
    let cents = cents.unsigned_abs();
    format!("{}{decimal}{:02}", cents / 100, cents % 100)
}

impl Line {
    /// Its day of January 2027, its amount without a sign, what it names.
    fn fields(&self) -> (u64, String, String) {
        let day = self.day - EPOCH_S / DAY_S + 1;
        assert!(day <= 31, "a run ends in January");
        let reference = self.payout.map(|(id, _)| format!("{id:032x}")).unwrap_or_default();
        (day, euros(self.amount, '.'), reference)
    }

    fn csv(&self) -> String {
        let sign = if self.amount < 0 { "-" } else { "" };
        let (day, amount, reference) = self.fields();
        format!("2027-01-{day:02},{sign}{amount},{reference},b{}\n", self.number)
    }

    /// As an entry of a camt.053 file.
    fn camt(&self) -> String {
        let (day, amount, reference) = self.fields();
        let way = if self.amount < 0 { "DBIT" } else { "CRDT" };
        let named = if reference.is_empty() { "NOTPROVIDED" } else { &reference };
        format!(
            "<Ntry><Amt Ccy=\"EUR\">{amount}</Amt><CdtDbtInd>{way}</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>2027-01-{day:02}</Dt></BookgDt>\
             <NtryDtls><TxDtls><Refs><EndToEndId>{named}</EndToEndId></Refs><RmtInf><Ustrd>b{}</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>\n",
            self.number
        )
    }

    /// As an entry of an MT940 file.
    fn mt940(&self) -> String {
        let (day, amount, reference) = self.fields();
        let (way, amount) = (if self.amount < 0 { 'D' } else { 'C' }, amount.replace('.', ","));
        format!(":61:2701{day:02}01{day:02}{way}{amount}NTRF{reference}\n:86:b{}\n", self.number)
    }
}

/// A balance in an MT940 file.
fn mt940_balance(tag: &str, cents: i128) -> String {
    format!(":{tag}:{}270101EUR{}\n", if cents < 0 { 'D' } else { 'C' }, euros(cents, ','))
}

/// A file.
#[derive(Debug)]
pub(crate) struct Statement {
    content: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    /// Whether some of its lines were in an earlier one.
    overlaps: bool,
    is_csv: bool,
    /// How often somebody tried to import it, and whether that was answered.
    tried: u32,
    is_taken: bool,
}

impl Statement {
    pub(crate) fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.content).as_bytes()
    }

    /// Cents.
    pub(crate) fn sum(&self) -> i128 {
        self.lines.iter().map(|line| line.amount).sum()
    }
}

/// All that the bank did.
#[derive(Debug, Default)]
pub(crate) struct Bank {
    lines: Vec<Line>,
    booked: BTreeSet<u128>,
    /// Lines that are in a statement.
    written: usize,
    pub(crate) statements: Vec<Statement>,
    /// Payouts that somebody said were done.
    pub(crate) by_hand: BTreeSet<u128>,
}

fn person(rng: &mut StdRng) -> Person {
    Person { id: GatewayId(rng.random_range(1..=2)), name: "person".to_owned() }
}

/// Whether this only says that the server came to its end.
pub(crate) fn has_ended(problem: &Problem) -> bool {
    ["stopping", "internal", "busy"].contains(&problem.code)
}

/// Whether whatever is asked of the server is answered.
fn is_alive(server: &Server) -> bool {
    server.failure().is_none() && *server.waiting.lock().unwrap() == Waiting::Goes
}

impl Bank {
    /// Something happens at the bank, or is done about what it says. An error is a fault of the server.
    pub(crate) fn turn(&mut self, server: &mut Server, rng: &mut StdRng, day: u64) -> Result<String, String> {
        match rng.random_range(0..10) {
            0..5 => Ok(self.book(server, rng, day)),
            5..8 => self.import(server, rng),
            _ => decide(server, rng),
        }
    }

    fn line(&mut self, day: u64, amount: i128, payout: Option<(u128, i128)>) {
        self.lines.push(Line { number: self.lines.len(), day, amount, payout });
    }

    /// The bank does a payout, or something that nobody told it to do.
    fn book(&mut self, server: &mut Server, rng: &mut StdRng, day: u64) -> String {
        if rng.random_bool(0.1) {
            let cents = i128::try_from(self.lines.len()).unwrap();
            self.line(day, EXTRA + cents, None);
            return "the bank books something else".to_owned();
        }
        let Ok(snapshot) = server.ports.snapshot() else { return "not answered".to_owned() };
        let is_to_do = |payout: &&PayoutEntry| {
            let id = payout.id.raw();
            !matches!(fate(id), Fate::Refused | Fate::Untold) && !self.booked.contains(&id)
        };
        let to_do: Vec<&PayoutEntry> = snapshot.payouts.iter().filter(is_to_do).collect();
        if to_do.is_empty() {
            return "the bank has nothing to do".to_owned();
        }
        let payout = to_do[rng.random_range(0..to_do.len())];
        let id = payout.id.raw();
        let amount = i128::try_from(payout.amount).unwrap() * if payout.is_collection { 1 } else { -1 };
        self.booked.insert(id);
        let off = if fate(id) == Fate::Different { amount.signum() * rng.random_range(1..9) } else { 0 };
        self.line(day, amount + off, Some((id, amount)));
        if fate(id) == Fate::Twice {
            self.line(day, amount, Some((id, amount)));
        }
        format!("the bank books {id:032x}: {:?}", fate(id))
    }

    /// Writes what is new into a statement, sometimes with some of what is not.
    fn write(&mut self, rng: &mut StdRng) {
        let again = if rng.random_bool(0.3) { rng.random_range(0..4) } else { 0 };
        let from = self.written.saturating_sub(again);
        let lines = self.lines[from..].to_vec();
        let form = rng.random_range(0..3);
        let content = match form {
            0 => "day,amount,reference,text\n".to_owned() + &lines.iter().map(Line::csv).collect::<String>(),
            1 => {
                let entries: String = lines.iter().map(Line::camt).collect();
                format!("<Document><BkToCstmrStmt><Stmt><Id>{from}</Id>{entries}</Stmt></BkToCstmrStmt></Document>")
            }
            _ => {
                let balance = |until: usize| self.lines[..until].iter().map(|line| line.amount).sum();
                let entries: String = lines.iter().map(Line::mt940).collect();
                let (opening, closing) =
                    (mt940_balance("60F", balance(from)), mt940_balance("62F", balance(self.lines.len())));
                format!(":20:{from}\n:25:\n{opening}{entries}{closing}-\n")
            }
        };
        let is_csv = form == 0;
        let (overlaps, content) = (from < self.written, content.into_bytes());
        self.written = self.lines.len();
        self.statements.push(Statement { content, lines, overlaps, is_csv, tried: 0, is_taken: false });
    }

    /// Whether there is something to import.
    pub(crate) fn is_behind(&self) -> bool {
        self.written < self.lines.len() || self.statements.last().is_some_and(|last| !last.is_taken)
    }

    /// Somebody imports the last statement, again if that was not answered; or, sometimes, one that was taken.
    pub(crate) fn import(&mut self, server: &mut Server, rng: &mut StdRng) -> Result<String, String> {
        if !self.is_behind() {
            return Ok("there is no new statement".to_owned());
        }
        if self.statements.last().is_none_or(|last| last.is_taken) {
            self.write(rng);
        }
        let last = self.statements.len() - 1;
        let number = if rng.random_bool(0.2) { rng.random_range(0..=last) } else { last };
        let statement = &mut self.statements[number];
        let import = Import {
            account: "house".to_owned(),
            mapping: statement.is_csv.then(|| "bank".to_owned()),
            incomplete: false,
            overlap: (statement.overlaps || statement.is_taken).then_some(Overlap::Skip),
            content: statement.content.clone(),
        };
        let came = server.office.perform(Command::Import(import), &person(rng));
        let told = format!("statement {number} is imported: {came:?}");
        match &came {
            Ok(Answer::Imported { .. }) if !statement.is_taken => statement.is_taken = true,
            // An earlier attempt came through, and was not answered.
            Err(problem) if problem.code == "duplicate" && statement.tried > 0 => statement.is_taken = true,
            Err(problem) if has_ended(problem) && !is_alive(server) => {}
            _ => return Err(told),
        }
        statement.tried += 1;
        Ok(told)
    }
}

/// What the bank says of a payout, as a file: pain.002 or CSV.
pub(crate) fn answer(payout: &str, is_refused: bool, is_csv: bool) -> String {
    if is_csv {
        let status = if is_refused { "rejected" } else { "confirmed" };
        return format!("payout_id,status,reason\n{payout},{status},\n");
    }
    let status = if is_refused { "RJCT" } else { "ACSC" };
    format!(
        "<Document><CstmrPmtStsRpt><OrgnlPmtInfAndSts><TxInfAndSts><OrgnlEndToEndId>{payout}</OrgnlEndToEndId><TxSts>{status}</TxSts>\
         </TxInfAndSts></OrgnlPmtInfAndSts></CstmrPmtStsRpt></Document>"
    )
}

/// All breaks as the office shows them.
pub(crate) fn breaks(server: &mut Server) -> Result<Vec<BreakView>, Problem> {
    let person = Person { id: GatewayId(1), name: "person".to_owned() };
    let command = Command::Breaks { account: "house".to_owned(), state: None, kind: None, limit: usize::MAX };
    match server.office.perform(command, &person)? {
        Answer::Breaks(breaks) => Ok(breaks),
        other => Err(Problem::new(500, "other", format!("{other:?}"))),
    }
}

/// Somebody decides about a break, and another one agrees or does not.
fn decide(server: &mut Server, rng: &mut StdRng) -> Result<String, String> {
    let breaks = match breaks(server) {
        Ok(breaks) => breaks,
        Err(problem) if has_ended(&problem) && !is_alive(server) => return Ok(format!("breaks: {problem:?}")),
        Err(problem) => return Err(format!("breaks: {problem:?}")),
    };
    let open: Vec<&BreakView> = breaks.iter().filter(|known| known.state != "resolved").collect();
    if open.is_empty() {
        return Ok("there are no breaks".to_owned());
    }
    let chosen = open[rng.random_range(0..open.len())];
    let how = if chosen.kind == "extra" || rng.random_bool(0.2) { "accept" } else { "write-off" };
    let order = BreakOrder {
        account: "house".to_owned(),
        key: chosen.key.clone(),
        action: BreakOrderAction::Resolve { how: how.to_owned(), with: None },
        text: String::new(),
    };
    let came = server.office.perform(Command::Break(order), &person(rng));
    let told = format!("{how} of {}: {came:?}", chosen.key);
    match came {
        Err(problem) if has_ended(&problem) && !is_alive(server) => Ok(told),
        Err(problem) if problem.code != "second_person_needed" => Err(told),
        _ => Ok(told),
    }
}

/// Matches once more all that is open.
pub(crate) fn match_again(server: &mut Server) -> Result<(), String> {
    let person = Person { id: GatewayId(1), name: "person".to_owned() };
    let came = server.office.perform(Command::Match { account: "house".to_owned() }, &person);
    came.map(drop).map_err(|problem| format!("matching again: {problem:?}"))
}

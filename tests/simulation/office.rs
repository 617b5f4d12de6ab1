//! The back office in the simulation: participants, windows that close, settlement, a bank that pays or refuses, its statements; cut off anywhere.

use std::sync::atomic::Ordering;

use heng::backoffice::{BreakView, Command, Person, Ports};
use heng::ledger::{GatewayId, PayoutEntry, PayoutState, Sequence, Window};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::bank::{self, Bank, Fate};
use crate::distributions;
use crate::plain::{DAY_S, SECOND_NS};
use crate::server::{Server, Waiting};
use crate::windows::PARTICIPANTS;
use crate::world::World;

/// Turns in which everything that is due is done.
const TURNS_MAX: u32 = 10_000;

/// One turn; what came of it, for people.
fn turn(server: &mut Server, rng: &mut StdRng, bank: &mut Bank) -> String {
    let person = Person { id: GatewayId(rng.random_range(1..=2)), name: "person".to_owned() };
    let Ok(snapshot) = server.ports.snapshot() else { return "not answered".to_owned() };
    // What a statement will show, nobody says besides.
    let payouts: Vec<&PayoutEntry> =
        snapshot.payouts.iter().filter(|payout| bank::fate(payout.id.raw()) != Fate::Done).collect();
    let known = |id: u128| snapshot.participants.iter().any(|known| u128::from(known.id) == id);
    let mut confirmed = None;
    let command = if let Some(id) = PARTICIPANTS.into_iter().find(|id| !known(*id)) {
        Some(Command::AddParticipant {
            participant: u32::try_from(id).unwrap(),
            account: id.to_string(),
            name: format!("participant {id}"),
            iban: String::new(),
            bic: String::new(),
        })
    } else if !payouts.is_empty() && rng.random_bool(0.3) {
        let payout = payouts[rng.random_range(0..payouts.len())];
        let number = format!("{:032x}", payout.id.raw());
        let may_be_refused = bank::fate(payout.id.raw()) == Fate::Refused;
        let is_refused = may_be_refused && payout.state != PayoutState::Proposed && rng.random_bool(0.7);
        if !is_refused {
            confirmed = Some(payout.id.raw());
        }
        Some(match (is_refused, rng.random_range(0..3)) {
            // Somebody says it, or the bank's answer does.
            (true, 0) => Command::RejectPayout { payout: number, reason: "account closed".to_owned() },
            (false, 0) => Command::ConfirmPayout { payout: number },
            (_, form) => Command::BankAnswers { content: bank::answer(&number, is_refused, form == 1) },
        })
    } else if rng.random_bool(0.02) {
        Some(Command::Distribute { distribution: distributions::NAME.to_owned() })
    } else {
        None
    };
    match command {
        Some(command) => {
            let came = server.office.perform(command.clone(), &person);
            if came.as_ref().err().is_none_or(bank::has_ended) {
                bank.by_hand.extend(confirmed);
            }
            format!("{command:?}: {came:?}")
        }
        None => format!("{:?}", server.office.look()),
    }
}

/// The windows of a server as of a sequence, and the numbers of participants by place.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) sequence: Sequence,
    pub(crate) windows: Vec<Window>,
    pub(crate) participants: Vec<u128>,
    pub(crate) breaks: Vec<BreakView>,
    /// How many statements the bank had written.
    pub(crate) statements: usize,
    /// A second at which the office had nothing more to do.
    pub(crate) second: u64,
}

impl World<'_> {
    /// Lets the office do all that is due, and shows what came of it.
    pub(crate) fn clear(&mut self) -> Result<Shown, String> {
        let server = self.server.as_mut().ok_or("no server")?;
        for turn in 0.. {
            if !self.bank.is_behind() {
                break;
            }
            let came = self.bank.import(server, &mut self.rng)?;
            if turn == TURNS_MAX {
                return Err(format!("a statement is never imported: {came}"));
            }
        }
        let statements = self.bank.statements.len();
        bank::match_again(server)?;
        let mut second = 0;
        for turn in 0.. {
            second = self.now_ns.load(Ordering::Relaxed) / SECOND_NS;
            match server.office.look() {
                Ok(false) => break,
                Ok(true) if turn < TURNS_MAX => {}
                other => return Err(format!("the office does not come to an end: {other:?}")),
            }
        }
        let breaks = bank::breaks(server).map_err(|problem| format!("{problem:?}"))?;
        let shown = server.ports.inspect(move |book| {
            let windows = book.windows();
            Shown {
                sequence: book.sequence(),
                windows: windows.windows().keys().filter_map(|key| windows.window(*key)).collect(),
                participants: windows.participants().iter().map(|known| known.id.into()).collect(),
                breaks,
                statements,
                second,
            }
        });
        shown.map_err(|trouble| trouble.to_string())
    }

    /// Lets the office do something, if there is one. It may end with the process amid it.
    pub(crate) fn office(&mut self) -> Result<(), String> {
        let Some(server) = self.server.as_mut().filter(|_| self.is_opened && self.options.clears) else {
            return Ok(());
        };
        let day = self.now_ns.load(Ordering::Relaxed) / SECOND_NS / DAY_S;
        let came = if self.rng.random_bool(0.5) {
            self.bank.turn(server, &mut self.rng, day)?
        } else {
            turn(server, &mut self.rng, &mut self.bank)
        };
        let waiting = *server.waiting.lock().unwrap();
        self.note_stored();
        if came != "Ok(false)" {
            self.tell(format!("office: {came}"));
        }
        match waiting {
            Waiting::Goes => {}
            Waiting::Ends => {
                let with_power = self.rng.random();
                self.stop(with_power);
            }
            Waiting::Stuck => return Err(format!("the office is not answered: {came}")),
        }
        Ok(())
    }
}

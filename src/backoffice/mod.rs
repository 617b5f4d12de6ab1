//! The back office: closes windows, settles them, pays out, and hears what became of it.
//!
//! ```text
//! cut-off ──► Window closing ──► Window closed ──► settlement transfers ──► Payout issued ──► payout file ──► Window settled
//!                (record)       (record, digest)    (one transaction)        (records)        (fsync, rename)   (record)
//! ```
//!
//! One thread does one step after the other; each step can be repeated and then changes nothing: records that come twice have no
//! effect, what is settled stands in the ledger with the position that it settles, and a payout file is written with the same name and
//! bytes. So after a crash at any point the office goes on where the journal says it is, and nothing is paid twice.
//!
//! | file | subject |
//! |---|---|
//! | `bank_answer` | what the bank says of payouts: pain.002, CSV |
//! | `calendar` | cut-offs and business days in time |
//! | `commands` | what an operator asks for |
//! | `distribute` | what is divided by ratio on a schedule |
//! | `kept_files` | whether statements and payout files are as they were written |
//! | `netting` | from positions to who pays whom |
//! | `office` | the steps, one after the other |
//! | `payout_file` | pain.001 and CSV |
//! | `policy_file` | the policy's file, with the calendars it names |
//! | `ports` | what the office needs of the engine |
//! | `reconciliation` | what the ledger expects of banks against what their statements say |
//! | `recon_commands` | what an operator asks for about statements and breaks |
//! | `report` | the end-of-day report |
//! | `settle` | the step from closed to settled |
//! | `statement` | bank statements: camt.053, MT940, CSV |
//! | `terms` | whether a policy can be put in force |
//! | `views` | what an operator is shown |
//!
//! # Invariants
//!
//! 1. A payout is only issued for a settlement transfer that is durable, with that transfer's amount and id.
//! 2. Nothing is done that cannot be told from the journal: the office itself remembers nothing.
//! 3. What a limit says a second person must confirm, two different ones have confirmed.
//!
//! # Not here
//!
//! Which transfers are in a window, and the positions: [`crate::ledger::Windows`].

mod bank_answer;
mod calendar;
mod commands;
mod distribute;
mod kept_files;
mod netting;
mod office;
mod payout_file;
mod policy_file;
mod ports;
mod recon_commands;
mod reconciliation;
mod report;
mod settle;
mod statement;
mod terms;
mod views;

pub use bank_answer::{BankAnswer, BankStatus, read_answers};
pub use calendar::{CalendarError, parse_day};
pub use commands::{Answer, Command, Person, Problem};
pub use kept_files::{KeptFiles, check_files};
pub use netting::{Instruction, instructions};
pub use office::{Office, OfficeHandle, spawn_office};
pub use policy_file::{PolicyFileError, read_policy};
pub use ports::{EnginePorts, Ports, Snapshot, Stepping, Trouble};
pub use recon_commands::{BreakOrder, BreakOrderAction, Import, Overlap};
pub use reconciliation::{
    BankLine, BankSide, Break, BreakKind, BreakState, Expected, LineTrouble, Matched, Matcher, Named, Reason,
    Reconciliation, Tolerance, Tolerated, names_in,
};
pub use report::{
    AccountDay, Balance, BankBreaks, Coverage, DayReport, DayReporter, DistributionDay, Finding, ParticipantDay,
    Participating, ReportOptions, Volume, WindowPosition,
};
pub use statement::{ReadStatements, Statement, StatementLine, read_statements};
pub use terms::{TermsError, check_change, check_schemes, policy_in};
pub use views::{BreakView, DistributionView, FileView, PayoutView, PositionView, StatementView, WindowView};

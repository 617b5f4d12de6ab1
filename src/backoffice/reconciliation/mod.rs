//! External reconciliation: what the ledger expects of a bank against what the bank's statements say.
//!
//! All of it follows from the journal and the statement files, which are kept under the hash that the journal has of them: entries of
//! mirror accounts, imports, what people did with breaks. So it can be made again at any time, and is after a start.
//!
//! # Invariants
//!
//! 1. A file is on disk before its import is recorded; the same file is not imported twice.
//! 2. What moves money (a write-off) needs two persons, and is posted once: its transfer says which break it resolves, and following it
//!    resolves that.
//! 3. The differences of breaks about one entry add up to what the bank has more for it.
//!
//! Not here: reading files ([`super::statement`]).

mod alike;
mod breaks;
mod ledger_side;
mod matching;
mod names;

pub use breaks::{Break, BreakKind, BreakState, Tolerated};
pub use ledger_side::{BankSide, Named, Reconciliation, names_in};
pub(super) use ledger_side::{WRITE_OFF_PURPOSE, break_tag};
pub use matching::{BankLine, Expected, LineTrouble, Matched, Matcher, Reason, Tolerance};

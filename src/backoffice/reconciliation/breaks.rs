//! Breaks: differences between ledger and bank, from the day they are found until someone or something resolves them; and what is none, because it is
//! within the tolerance.

use serde::Serialize;

use crate::ledger::{BreakAction, BreakEntry, BreakKey, GatewayId, Resolution, Sequence, unpadded};

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakKind {
    /// The bank has no line for an entry that is overdue.
    Missing,
    /// The bank has a line that nobody expects.
    Extra,
    /// A line names an entry of another amount.
    Amount,
    /// A line names what was matched before.
    Duplicate,
    /// The line came, but after its due day.
    Late,
    /// The bank gives back what it had shown as done.
    Returned,
}

impl BreakKind {
    /// All.
    pub const ALL: [Self; 6] = [Self::Missing, Self::Extra, Self::Amount, Self::Duplicate, Self::Late, Self::Returned];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Amount => "amount",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Returned => "returned",
        }
    }
}

/// How far a break is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakState {
    /// Nothing was decided.
    Open,
    /// A resolution waits for a second person.
    Proposed,
    /// Done.
    Resolved,
}

impl BreakState {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Proposed => "proposed",
            Self::Resolved => "resolved",
        }
    }
}

/// A break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// What names it.
    pub key: BreakKey,
    /// What is different.
    pub kind: BreakKind,
    /// By how much the bank has more than the ledger, minor units.
    pub amount: i128,
    /// The day of the line or entry, days since 1970-01-01.
    pub day: i32,
    /// The record at which it was found.
    pub found: Sequence,
    /// How far it is.
    pub state: BreakState,
    /// How it is, or is to be, resolved.
    pub resolution: Resolution,
    /// Who proposed or resolved it.
    pub by: GatewayId,
    /// Whose it is.
    pub owner: String,
    /// What was said, by whom.
    pub comments: Vec<(GatewayId, String)>,
}

/// What belongs together although its amounts differ, within `amount_tolerance`. No single one is a break; what they come to is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerated {
    /// How many matches.
    pub count: u64,
    /// By how much the bank has more than the ledger in those where it has, minor units.
    pub more: i128,
    /// By how much it has less in the others.
    pub less: i128,
}

impl Tolerated {
    /// Adds what the bank has more in a match, or less.
    pub(super) fn add(&mut self, more: i128) {
        if more != 0 {
            let sum = if more > 0 { &mut self.more } else { &mut self.less };
            *sum = sum.saturating_add(more.saturating_abs());
            self.count = self.count.saturating_add(1);
        }
    }
}

impl Break {
    /// A break that was just found.
    pub(super) fn new(key: BreakKey, (kind, amount, day): (BreakKind, i128, i32), found: Sequence) -> Self {
        Self {
            key,
            kind,
            amount,
            day,
            found,
            state: BreakState::Open,
            resolution: Resolution::Matched,
            by: GatewayId(0),
            owner: String::new(),
            comments: Vec::new(),
        }
    }

    /// Does what a record says of it.
    pub(super) fn apply(&mut self, entry: &BreakEntry) {
        let text = unpadded(&entry.text);
        match entry.action {
            BreakAction::Assign => self.owner = text,
            BreakAction::Comment => self.comments.push((entry.by, text)),
            BreakAction::Propose => {
                (self.state, self.resolution, self.by) = (BreakState::Proposed, entry.resolution, entry.by);
                self.comment(entry.by, text);
            }
            BreakAction::Resolve => {
                (self.state, self.resolution, self.by) = (BreakState::Resolved, entry.resolution, entry.by);
                self.comment(entry.by, text);
            }
        }
    }

    fn comment(&mut self, by: GatewayId, text: String) {
        if !text.is_empty() {
            self.comments.push((by, text));
        }
    }
}

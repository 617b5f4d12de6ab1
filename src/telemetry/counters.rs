//! Counters and gauges, each a relaxed atomic written per batch.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ledger::{Code, Sequence};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the server counts since its start, and where it stands.
        #[derive(Debug)]
        pub struct Counters {
            outcomes: Vec<AtomicU64>,
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot {
            /// Outcomes by code; only codes that occurred.
            pub outcomes: Vec<(Code, u64)>,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Default for Counters {
            fn default() -> Self {
                Self { outcomes: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(), $($name: AtomicU64::new(0),)* }
            }
        }

        impl Counters {
            /// Reads all counters.
            pub fn snapshot(&self) -> CountersSnapshot {
                let outcomes = Code::ALL.iter().zip(&self.outcomes).map(|(code, count)| (*code, count.load(Relaxed)));
                CountersSnapshot {
                    outcomes: outcomes.filter(|(_, count)| *count > 0).collect(),
                    $($name: self.$name.load(Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections_open,
    /// Connections accepted.
    connections_total,
    /// Request frames received.
    requests_total,
    /// Requests refused before anything was decided, such as busy or malformed.
    requests_refused_total,
    /// Groups written.
    groups_total,
    /// The last durable sequence.
    durable_sequence,
    /// The sequence up to which the clearing actor has followed.
    cleared_sequence,
    /// The sequence of the last checkpoint.
    checkpoint_sequence,
    /// When the last checkpoint was made, seconds since 1970 UTC.
    checkpoint_time_s,
    /// Accounts open.
    accounts,
    /// Holds, delayed transfers and reserves that are open.
    open_pendings,
    /// Transfers of which something was given back that no durable checkpoint has yet.
    given_back_in_memory,
    /// Settlement windows that are closed and not yet settled.
    windows_unsettled,
    /// Payouts and collections of which the bank has not said the last.
    payouts_unfinished,
    /// Differences between ledger and banks that nobody has resolved.
    breaks_open,
    /// Account balances compared between shards and book.
    audited_accounts_total,
    /// The sequence at which shards and book were last compared.
    audited_sequence,
    /// Invariants found broken. Anything but 0 is an emergency.
    invariant_violations_total,
}

impl Counters {
    /// Counts outcomes by code. One atomic operation per run of equal codes.
    pub fn count_outcomes(&self, codes: impl Iterator<Item = Code>) {
        let mut run: Option<(Code, u64)> = None;
        for code in codes {
            run = match run {
                Some((same, count)) if same == code => Some((same, count.saturating_add(1))),
                other => {
                    self.add_outcomes(other);
                    Some((code, 1))
                }
            };
        }
        self.add_outcomes(run);
    }

    fn add_outcomes(&self, run: Option<(Code, u64)>) {
        let Some((code, count)) = run else { return };
        if let Some(counter) = Code::ALL.binary_search(&code).ok().and_then(|place| self.outcomes.get(place)) {
            counter.fetch_add(count, Relaxed);
        }
    }

    /// Notes where the ledger stands at the start.
    pub fn start_at(&self, durable: Sequence, checkpoint: Sequence) {
        self.durable_sequence.store(durable, Relaxed);
        self.checkpoint_sequence.store(checkpoint, Relaxed);
    }

    /// Notes a durable group.
    pub fn durable(&self, sequence: Sequence) {
        self.groups_total.fetch_add(1, Relaxed);
        self.durable_sequence.store(sequence, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_code() {
        let counters = Counters::default();
        let codes = [Code::Accepted, Code::Accepted, Code::IdReused, Code::Accepted];
        counters.count_outcomes(codes.into_iter());
        counters.count_outcomes(std::iter::empty());
        assert_eq!(counters.snapshot().outcomes, [(Code::Accepted, 3), (Code::IdReused, 1)]);
    }
}

//! When a shard sends what it decided of a request that comes in pieces.

use std::sync::Arc;

use super::*;
use crate::flow::inbox;
use crate::flow::testing::parcel;
use crate::ledger::{AccountId, BookAccount, Transfer};

/// A shard of two accounts, and what it sends.
struct Stage {
    shard: ShardActor,
    to_shard: ShardHandle,
    sent: Inbox<SettlementMessage>,
    next_id: u128,
}

impl Stage {
    fn new() -> Self {
        let mut core = Core::new(0, 1, &Arc::default());
        for id in [1, 2] {
            let properties =
                NewAccount { id: AccountId::from_raw(id), currency: 978, code: 1, ..NewAccount::default() };
            core.host(&BookAccount { properties, ..BookAccount::default() });
        }
        let ((sender, own), (settlement, sent)) = (inbox(), inbox());
        let peers = ShardPeers { settlement: SettlementHandle::new(settlement), shards: vec![sender.clone()] };
        Self { shard: ShardActor::new(0, core, own, peers), to_shard: ShardHandle::new(sender), sent, next_id: 1 }
    }

    /// Submits so many transfers, of which so many more follow.
    fn submit(&mut self, count: usize, rest: usize) {
        let transfers = (self.next_id..).take(count).map(|id| Transfer {
            id: TransferId::from_raw(id),
            debit: AccountId::from_raw(1),
            credit: AccountId::from_raw(2),
            amount: 1,
            ..Transfer::default()
        });
        let mut submission = Submission::default();
        if count > 0 {
            submission.push_all(&parcel(count), transfers.collect());
        }
        submission.set_rest(rest);
        self.next_id += u128::try_from(count).unwrap();
        self.to_shard.submit(submission).unwrap();
    }

    /// The numbers of records that it sends together when it looks at what waits.
    fn drain(&mut self) -> Vec<usize> {
        self.shard.drain();
        let records = |message| match message {
            SettlementMessage::Decided(decided) => decided.recorded.len(),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| self.sent.pop()).map(records).collect()
    }
}

#[test]
fn what_is_decided_of_a_request_is_sent_when_the_rest_has_come() {
    let mut stage = Stage::new();
    stage.submit(10, 5);
    assert!(stage.drain().is_empty(), "five more come");
    stage.to_shard.forget(Vec::new()).unwrap();
    assert!(stage.drain().is_empty(), "something else is not the rest");
    stage.submit(5, 0);
    assert_eq!(stage.drain(), [15]);
    // Nothing of the rest was new.
    stage.submit(10, 5);
    assert!(stage.drain().is_empty());
    stage.submit(0, 0);
    assert_eq!(stage.drain(), [10]);
    // Of requests that are whole, those that came together go on together.
    stage.submit(3, 0);
    stage.submit(4, 0);
    assert_eq!(stage.drain(), [7]);
}

#[test]
fn a_request_that_is_whole_does_not_wait_for_the_next() {
    let mut stage = Stage::new();
    stage.submit(10, 5);
    stage.drain();
    stage.submit(5, 0);
    stage.submit(10, 5);
    assert_eq!(stage.drain(), [15]);
    stage.submit(5, 0);
    assert_eq!(stage.drain(), [15]);
}

#[test]
fn an_audit_is_of_its_moment_also_amid_a_request() {
    let mut stage = Stage::new();
    stage.submit(10, 5);
    stage.to_shard.audit(Slot::default(), 2).unwrap();
    assert_eq!(stage.drain(), [10]);
    stage.submit(5, 0);
    assert_eq!(stage.drain(), [5]);
}

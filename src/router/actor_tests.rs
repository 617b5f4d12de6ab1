//! What reaches the shard of a request, whole or in pieces.

use std::collections::BTreeSet;

use crossbeam::channel::bounded;
use proptest::prelude::*;

use super::*;
use crate::flow::testing::parcel;
use crate::flow::{Helpers, inbox};
use crate::shard::ShardMessage;

/// A request for transfers with these ids.
fn request(ids: impl Iterator<Item = u32>) -> RouterMessage {
    let id = |id: u32| Transfer { id: TransferId::from_raw(id.into()), ..Transfer::default() };
    let transfers: Vec<_> = ids.map(id).collect();
    RouterMessage::Transfers(parcel(transfers.len()), Asked::new(transfers))
}

/// What a router in front of one shard sends it for each of these requests, drained one by one or together.
fn submitted(piece: usize, requests: Vec<RouterMessage>, are_together: bool) -> Vec<Submission> {
    let directory = tempfile::tempdir().unwrap();
    let known = KnownIds::open(directory.path(), 1_000, &Helpers::threads()).unwrap();
    let ((sender, own), (settlement, _kept)) = (inbox(), inbox());
    let (shard, of_shard) = inbox();
    let (helpers, _stepper) = Helpers::stepped();
    let (repeats, _helper) = helpers.start("repeats", bounded(1), |_: Lookup| true).unwrap();
    let shards = vec![ShardHandle::new(shard)];
    let mut router = RouterActor::new((known, piece), own, shards, SettlementHandle::new(settlement), repeats);
    for request in requests {
        sender.send(request).unwrap();
        if !are_together {
            router.drain();
        }
    }
    router.drain();
    let submission = |message| match message {
        ShardMessage::Submit(submission) => submission,
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| of_shard.pop()).map(submission).collect()
}

proptest! {
    #[test]
    fn a_shard_is_sent_what_is_new_in_order_and_waits_only_for_what_comes(
        len in 1_u32..60,
        piece in 1_usize..20,
        known in prop::collection::btree_set(0_u32..60, 0..60),
        are_together in any::<bool>(),
    ) {
        // Its transfer `i` has the id `i + 1`; the first request makes some of them known, and 0 is none.
        let ids = (0..len).map(|index| if known.contains(&index) && index % 7 == 0 { 0 } else { index + 1 });
        let before = request(known.iter().map(|index| index + 1));
        let sent = submitted(piece, vec![before, request(ids)], are_together);
        let (mut first, mut then) = (BTreeSet::new(), Vec::new());
        for (parcel, index, transfer) in sent.iter().flat_map(Submission::items) {
            let id = u32::try_from(transfer.id.raw()).unwrap();
            if parcel.spans()[0].count == known.len() && first.len() < known.len() {
                prop_assert!(first.insert(id));
            } else {
                prop_assert_eq!(index + 1, id);
                then.push(index);
            }
        }
        prop_assert!(first.iter().copied().eq(known.iter().map(|index| index + 1)));
        prop_assert!(then.into_iter().eq((0..len).filter(|index| !known.contains(index))));
        // Whoever is told that more comes is sent it, and in the end that nothing more does.
        let mut owed = 0;
        for submission in &sent {
            let rest = submission.rest();
            prop_assert!(owed == 0 || (rest < owed && submission.len() <= owed - rest), "{} and {} of {}", submission.len(), rest, owed);
            owed = rest;
        }
        prop_assert_eq!(owed, 0);
    }
}

#[test]
fn a_large_request_comes_in_pieces_where_nothing_else_waits() {
    let rests = |requests, are_together| -> Vec<(usize, usize)> {
        let sent = submitted(10, requests, are_together);
        sent.iter().map(|submission| (submission.len(), submission.rest())).collect()
    };
    assert_eq!(rests(vec![request(1..20)], false), [(19, 0)]);
    assert_eq!(rests(vec![request(1..26)], false), [(10, 15), (10, 5), (5, 0)]);
    assert_eq!(rests(vec![request(1..26), request(30..55)], true), [(35, 15), (10, 5), (5, 0)]);
    // Nothing of the last piece is new.
    assert_eq!(rests(vec![request(21..26), request(1..26)], false), [(5, 0), (10, 15), (10, 5), (0, 0)]);
}

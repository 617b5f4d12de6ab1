//! The answers of runs with and without their filters.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Ids of the runs, ids that are asked for, of which each block is touched or not, and for each moment which filters are in memory.
type Case = (Vec<Vec<u8>>, Vec<(Vec<u8>, bool)>, Vec<u8>);

fn case() -> impl Strategy<Value = Case> {
    let ids = || prop::collection::vec(0..60_u8, 0..20);
    let asked = prop::collection::vec((ids(), any::<bool>()), 1..8);
    (prop::collection::vec(ids(), 1..5), asked, prop::collection::vec(any::<u8>(), 1..8))
}

fn id(number: u8) -> TransferId {
    TransferId::from_raw(u128::from(number) + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_answered_does_not_depend_on_which_filters_are_in_memory((runs, asked, moments) in case()) {
        let directory = tempfile::tempdir().unwrap();
        let (mut asking, mut model, mut sequence) = (Asking::of(Vec::new()), BTreeMap::new(), 0);
        for ids in runs {
            let after = sequence;
            let new: BTreeSet<_> = ids.into_iter().filter(|number| !model.contains_key(number)).collect();
            for number in &new {
                sequence += 1;
                model.insert(*number, sequence);
            }
            let entries = new.iter().map(|number| (id(*number).raw(), model[number]));
            // Each has a seed of its own.
            let seed = (sequence, 7);
            sequence += 1;
            let records = (after, sequence);
            let run = IdRun::write((directory.path(), seed), (entries, &mut Vec::new()), records, &|_, _| {});
            asking.add(&[], run.unwrap());
        }
        for (ids, is_touched) in asked {
            for moment in &moments {
                let filters = |asking: &mut Asking, are_there: u8| {
                    for (at, kept) in asking.runs.iter_mut().enumerate() {
                        let is_there = are_there >> at & 1 == 1;
                        kept.filter = is_there.then(|| kept.run.filter(&mut || Ok(())).unwrap());
                    }
                };
                filters(&mut asking, *moment);
                asking.asked.forget();
                let block = ids.iter().map(|number| id(*number));
                if is_touched {
                    asking.touch(block.clone(), around(block));
                }
                // Others by the time that they are looked up.
                filters(&mut asking, moment >> 4);
                for number in &ids {
                    prop_assert_eq!(asking.find(id(*number)), model.get(number).copied(), "{}", number);
                }
            }
        }
    }
}

//! What `heng verify` finds in a store that is whole by itself, and not what the journal gives.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::arithmetic_side_effects,
    reason = "a failed expectation is a failed test"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{TestServer, account, copy_directory, runtime, settings, transfer};
use heng::ledger::{AccountChange, AccountFlags, AccountId, Code, Operation, Transfer, TransferId};
use heng::verify::verify;

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// All that a store has in sled, by the names of the trees.
fn trees(store: &Path) -> BTreeMap<Vec<u8>, Tree> {
    let db = sled::open(store).unwrap();
    let read = |name: &sled::IVec| {
        let entries = db.open_tree(name).unwrap().iter().map(Result::unwrap);
        entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    };
    db.tree_names().iter().map(|name| (name.to_vec(), read(name))).collect()
}

fn put(store: &Path, name: &[u8], tree: &Tree) {
    let db = sled::open(store).unwrap();
    let changed = db.open_tree(name).unwrap();
    changed.clear().unwrap();
    for (key, value) in tree {
        changed.insert(key.clone(), value.clone()).unwrap();
    }
    db.flush().unwrap();
}

/// Makes something of every kind, with ids from this one on.
fn use_it(server: &TestServer, first: u128) {
    runtime().block_on(async {
        let mut client = server.client().await;
        if first == 1 {
            let accounts = [1, 2].map(|id| account(id, AccountFlags::default()));
            client.open_accounts(&accounts).await.unwrap();
        }
        let of = |id: u128, operation: Operation, related: u128, amount: u128| Transfer {
            flags: operation as u16,
            related,
            ..transfer(id, 1, 2, amount)
        };
        let change = AccountChange { level: Some(u8::try_from(first % 3).unwrap() + 1), ..AccountChange::default() };
        let change = Transfer { id: TransferId::from_raw(first + 4), ..change.request(AccountId::from_raw(1)) };
        let back = Transfer {
            debit: AccountId::from_raw(2),
            credit: AccountId::from_raw(1),
            ..of(first + 3, Operation::Refund, first, 3)
        };
        let wanted = [of(first, Operation::Transfer, 0, 10), of(first + 2, Operation::Hold, 0, 5), back, change];
        let outcomes = client.submit(&wanted).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.code == Code::Accepted), "{outcomes:?}");
    });
}

/// A disk that brings back an older block, or a checkpoint that left one out: each part is sound, and they do not belong together.
#[test]
fn a_part_of_the_store_that_is_as_of_an_earlier_checkpoint_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut earlier = Vec::new();
    for first in [1, 11, 21] {
        let server = TestServer::start(settings(&path("data")));
        use_it(&server, first);
        server.stop().unwrap();
        let aside = path(&format!("store-{first}"));
        copy_directory(&path("data/store"), &aside);
        earlier.push(trees(&aside));
    }
    assert!(verify(&path("data")).unwrap().ok);
    copy_directory(&path("data/store"), &path("whole"));
    let now = earlier.pop().unwrap();
    let mut found = Vec::new();
    for (name, tree) in &earlier[1] {
        let said = String::from_utf8_lossy(name).into_owned();
        // How far all of it is, who may connect, and levels that accounts had, which nothing after the checkpoint asks for.
        if now[name] == *tree || ["meta", "__sled__default", "gateways", "levels"].contains(&said.as_str()) {
            continue;
        }
        fs::remove_dir_all(path("data/store")).unwrap();
        copy_directory(&path("whole"), &path("data/store"));
        put(&path("data/store"), name, tree);
        let report = verify(&path("data")).unwrap();
        // What a start would not take it tells, and makes again.
        assert!(!report.ok || report.store.contains("cannot be read"), "{said}: {report:?}");
        found.extend(report.violations.first().map(|first| (said, first.clone())));
    }
    let expected = [("accounts", "although it has all up to"), ("pendings", "a start would find other holds")];
    for (name, what) in expected {
        assert!(found.iter().any(|(tree, said)| tree == name && said.contains(what)), "{name}: {found:?}");
    }
}

//! The back office's ports over shards without threads.

use std::sync::{Arc, Mutex};

use heng::backoffice::{Ports, Snapshot, Trouble};
use heng::ledger::{Book, Code, GatewayId, Record, StoredRecord, Transfer};

use super::network::Network;

/// 2026-11-23, a Monday, 12:00 UTC.
pub(crate) const NOON_NS: u64 = 1_795_435_200_000_000_000;

/// The ports of a network; after so many calls every call fails, the last one before or after it was done.
#[derive(Clone)]
pub(crate) struct Fused {
    pub(crate) network: Arc<Mutex<Network>>,
    /// Calls until it stops, and whether the last one is done before it does.
    pub(crate) fuse: Arc<Mutex<Option<(usize, bool)>>>,
}

impl Fused {
    pub(crate) fn new(network: Network) -> Self {
        Self { network: Arc::new(Mutex::new(network)), fuse: Arc::default() }
    }

    fn call<T>(&self, effect: impl FnOnce(&mut Network) -> T) -> Result<T, Trouble> {
        let mut fuse = self.fuse.lock().unwrap();
        match &mut *fuse {
            Some((0, is_done)) => {
                if std::mem::take(is_done) {
                    effect(&mut self.network.lock().unwrap());
                }
                Err(Trouble::Stopped)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(effect(&mut self.network.lock().unwrap()))
            }
            None => Ok(effect(&mut self.network.lock().unwrap())),
        }
    }
}

impl Ports for Fused {
    fn snapshot(&self) -> Result<Snapshot, Trouble> {
        self.call(|network| Snapshot::of(&network.book))
    }

    fn submit(&self, transfers: Vec<Transfer>) -> Result<Vec<Code>, Trouble> {
        self.call(|network| {
            network.gateway = GatewayId(0);
            let mut codes = Vec::new();
            let steps = || transfers.chunk_by(|before, _| before.is_linked());
            let known = |network: &Network, step: &[Transfer]| -> Vec<Transfer> {
                let is_known = |transfer: &&Transfer| network.codes.contains_key(&transfer.id.raw());
                step.iter().filter(is_known).copied().collect()
            };
            let known: Vec<Vec<Transfer>> = steps().map(|step| known(network, step)).collect();
            // They are decided together, in the order in which their accounts are where they are wanted.
            for (step, _) in steps().zip(&known).filter(|(_, known)| known.is_empty()) {
                network.submit(step);
            }
            network.settle();
            for (step, known) in steps().zip(&known) {
                // As the router does: of a transaction of which a part is known, the rest is refused.
                codes.extend(step.iter().map(|transfer| {
                    let id = transfer.id.raw();
                    let first = network.records.get(&id).filter(|_| known.is_empty() || known.contains(transfer));
                    match first {
                        Some(first)
                            if first.as_requested(true) != transfer.as_requested(true) && known.contains(transfer) =>
                        {
                            Code::IdReused
                        }
                        Some(_) => network.codes[&id],
                        None => Code::TransactionFailed,
                    }
                }));
            }
            network.gateway = GatewayId(1);
            codes
        })
    }

    fn record(&self, records: &[Record]) -> Result<(), Trouble> {
        // Each record can be the last one that was written.
        records.iter().try_for_each(|record| self.call(|network| network.append(*record)))
    }

    fn inspect<T: Send + 'static>(&self, read: impl FnOnce(&Book) -> T + Send + 'static) -> Result<T, Trouble> {
        Ok(read(&self.network.lock().unwrap().book))
    }

    fn scan(&self, (from, until): (u64, u64), visit: &mut dyn FnMut(StoredRecord)) -> Result<(), Trouble> {
        let network = self.network.lock().unwrap();
        for (sequence, record) in (1..=until).zip(&network.journal).skip(usize::try_from(from).unwrap() - 1) {
            visit(StoredRecord { sequence, time_ns: NOON_NS + sequence, record: *record });
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.network.lock().unwrap().now_ns
    }
}

//! A session's reads: what is asked of clearing, or read from the disk on a thread that may wait.
//!
//! Every read takes room from admission while it is under way, and is one of the connection's requests in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outgoing::{Outgoing, error_frame};
use super::queries::{account_at, may_have_events, read_history, read_query, read_records};
use super::session::{READING_MAX, Session};
use crate::clearing::{ClearingMessage, ReadAccounts};
use crate::flow::Permit;
use crate::ledger::{AccountId, Code, Order, Original, Record, Sequence, StoredRecord, TransferId};
use crate::protocol::{
    AccountDetail, AccountRequest, HistoryRequest, Kind, ListRequest, Query, QueryKind, begin_frame, decode_transfers,
    encode_detail, encode_explained, encode_stored, end_frame,
};
use crate::router::RouterMessage;

/// How often a waiting session looks whether there are new events.
const EVENTS_EVERY: Duration = Duration::from_millis(5);

/// Transfers explained at once: each may need several accounts, and clearing does nothing else meanwhile.
const EXPLAINED_MAX: usize = 128;

impl Session {
    pub(super) fn get_accounts(&self, request_id: u64, ids: &[u128]) -> Result<(), Code> {
        let room = self.reading.admit(ids.len()).ok_or(Code::Busy)?;
        let ids = ids.iter().map(|&id| AccountId::from_raw(id)).collect();
        let reply = self.accounts_reply(Kind::Accounts, request_id, room);
        self.context.clearing.send(ClearingMessage::Accounts(ids, reply)).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn list_accounts(&self, request_id: u64, request: ListRequest) -> Result<(), Code> {
        let room = self.reading.admit(usize::try_from(request.limit).unwrap_or(usize::MAX)).ok_or(Code::Busy)?;
        let reply = self.accounts_reply(Kind::AccountPage, request_id, room);
        let message = ClearingMessage::List(request.from, request.limit, reply);
        self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
    }

    fn accounts_reply(&self, kind: Kind, request_id: u64, room: Permit) -> Box<dyn FnOnce(ReadAccounts) + Send> {
        let outgoing = self.outgoing.clone();
        // A peer that left gets no answer.
        Box::new(move |read| drop(outgoing.send(Outgoing::Accounts { kind, request_id, read, room })))
    }

    pub(super) fn get_transfers(&self, request_id: u64, ids: &[u128]) -> Result<(), Code> {
        let room = self.reading.admit(ids.len()).ok_or(Code::Busy)?;
        let ids = ids.iter().map(|&id| TransferId::from_raw(id)).collect();
        let (context, outgoing) = (Arc::clone(&self.context), self.outgoing.clone());
        let runtime = tokio::runtime::Handle::current();
        let reply = Box::new(move |sequences: Vec<_>| {
            runtime.spawn_blocking(move || {
                let frame = match read_records(&context, &sequences) {
                    Ok(records) => stored_frame(Kind::Transfers, request_id, 0, &records),
                    Err(code) => error_frame(request_id, code),
                };
                drop(outgoing.send(Outgoing::Frame { frame, room }));
            });
        });
        self.context.router.send(RouterMessage::Find(ids, reply)).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn history(&self, request_id: u64, request: HistoryRequest) -> Result<(), Code> {
        let room = self.reading.admit(usize::try_from(request.limit).unwrap_or(usize::MAX)).ok_or(Code::Busy)?;
        let (context, outgoing) = (Arc::clone(&self.context), self.outgoing.clone());
        let runtime = tokio::runtime::Handle::current();
        let reply = Box::new(move |read: ReadAccounts| {
            // Going on from a cursor needs no head.
            let head = read.accounts.first().map_or(0, |account| account.head);
            let from = if request.from == 0 { head } else { request.from };
            runtime.spawn_blocking(move || {
                let frame = match read_history(&context, request.account, from, request.limit) {
                    Ok((next, records)) => stored_frame(Kind::History, request_id, next, &records),
                    Err(code) => error_frame(request_id, code),
                };
                drop(outgoing.send(Outgoing::Frame { frame, room }));
            });
        });
        self.context
            .clearing
            .send(ClearingMessage::Accounts(vec![request.account], reply))
            .map_err(|_stopped| Code::Draining)
    }

    /// Sends what a thread that may wait makes of some work.
    fn answer_later(
        &self,
        request_id: u64,
        room: Permit,
        work: impl FnOnce() -> Result<Vec<u8>, Code> + Send + 'static,
    ) {
        let outgoing = self.outgoing.clone();
        tokio::task::spawn_blocking(move || {
            let frame = work().unwrap_or_else(|code| error_frame(request_id, code));
            drop(outgoing.send(Outgoing::Frame { frame, room }));
        });
    }

    pub(super) fn query(&mut self, request_id: u64, query: Query) -> Result<(), Code> {
        let (own, _) = self.asker();
        let (context, outgoing) = (Arc::clone(&self.context), self.outgoing.clone());
        let runtime = tokio::runtime::Handle::current();
        let wanted = usize::try_from(query.limit).unwrap_or(usize::MAX);
        // An event that has not happened is not being read.
        let room = match query.kind {
            QueryKind::Events => self.room.admit(1),
            _ => self.reading.admit(wanted),
        };
        let mut room = room.ok_or(Code::Busy)?;
        match query.kind {
            QueryKind::Entries => {
                let reply = Box::new(move |read: ReadAccounts| {
                    let head = read.accounts.first().map_or(0, |account| account.head);
                    runtime.spawn_blocking(move || {
                        let frame = records_frame(request_id, read_query(&context, own, &query, head));
                        drop(outgoing.send(Outgoing::Frame { frame, room }));
                    });
                });
                let message = ClearingMessage::Accounts(vec![AccountId::from_raw(query.id)], reply);
                self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
            }
            QueryKind::Life => {
                let reply = Box::new(move |found: Vec<Option<Sequence>>| {
                    runtime.spawn_blocking(move || {
                        let first = found.first().copied().flatten();
                        let read = first.map_or(Ok((0, Vec::new())), |first| read_query(&context, own, &query, first));
                        drop(outgoing.send(Outgoing::Frame { frame: records_frame(request_id, read), room }));
                    });
                });
                let message = RouterMessage::Find(vec![TransferId::from_raw(query.id)], reply);
                self.context.router.send(message).map_err(|_stopped| Code::Draining)
            }
            QueryKind::Reference => {
                self.answer_later(request_id, room, move || {
                    Ok(records_frame(request_id, read_query(&context, own, &query, 0)))
                });
                Ok(())
            }
            QueryKind::Events => {
                let reading = Arc::clone(&self.reading);
                tokio::spawn(async move {
                    let deadline = Instant::now().checked_add(Duration::from_millis(query.wait_ms.into()));
                    let mut query = query;
                    let read = loop {
                        let may_read = may_have_events(&context, query.from) && reading.inside() < READING_MAX;
                        if let Some(page) = may_read.then(|| reading.admit(wanted)).flatten() {
                            let (context, asked) = (Arc::clone(&context), query);
                            let read = runtime.spawn_blocking(move || read_query(&context, own, &asked, 0)).await;
                            match read.unwrap_or(Err(Code::Internal)) {
                                // What was looked at need not be looked at again.
                                Ok((next, records)) if records.is_empty() => query.from = next,
                                read => {
                                    // Room for what was found, until it is encoded.
                                    room = page;
                                    break read;
                                }
                            }
                        }
                        if outgoing.is_closed() || deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                            break Ok((query.from.max(1), Vec::new()));
                        }
                        if !may_have_events(&context, query.from) || reading.inside() >= READING_MAX {
                            tokio::time::sleep(EVENTS_EVERY).await;
                        }
                    };
                    drop(outgoing.send(Outgoing::Frame { frame: records_frame(request_id, read), room }));
                });
                Ok(())
            }
        }
    }

    pub(super) fn get_account(&self, request_id: u64, request: AccountRequest) -> Result<(), Code> {
        let room = self.reading.admit(1).ok_or(Code::Busy)?;
        let (context, outgoing) = (Arc::clone(&self.context), self.outgoing.clone());
        let runtime = tokio::runtime::Handle::current();
        let reply = Box::new(move |detail: AccountDetail| {
            let is_past = request.sequence != 0 || request.time_ns != 0;
            let Some(account) = detail.account.filter(|_| is_past) else {
                return drop(outgoing.send(Outgoing::Frame { frame: detail_frame(request_id, &detail), room }));
            };
            runtime.spawn_blocking(move || {
                let frame = match account_at(&context, &request, &account) {
                    Ok(then) => {
                        let opened = then.head != 0;
                        let account = Some(then).filter(|_| opened);
                        detail_frame(request_id, &AccountDetail { sequence: then.head, account, limits: Vec::new() })
                    }
                    Err(code) => error_frame(request_id, code),
                };
                drop(outgoing.send(Outgoing::Frame { frame, room }));
            });
        });
        let message = ClearingMessage::Detail(request.account, reply);
        self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn explain(&mut self, request_id: u64, body: &[u8]) -> Result<(), Code> {
        let mut transfers = Vec::new();
        if decode_transfers(body, &mut transfers)? > EXPLAINED_MAX {
            return Err(Code::CountTooLarge);
        }
        let room = self.reading.admit(transfers.len()).ok_or(Code::Busy)?;
        let (gateway, grant) = self.asker();
        let (context, outgoing) = (Arc::clone(&self.context), self.outgoing.clone());
        let runtime = tokio::runtime::Handle::current();
        let about = |transfer: &crate::ledger::Transfer| {
            TransferId::from_raw(if transfer.operation().names_original() { transfer.related } else { 0 })
        };
        let ids = transfers.iter().map(about).collect();
        let reply = Box::new(move |found: Vec<Option<Sequence>>| {
            runtime.spawn_blocking(move || {
                let orders = transfers.into_iter().zip(found).map(|(transfer, sequence)| {
                    let first = sequence.map(|sequence| read_records(&context, &[Some(sequence)])).transpose()?;
                    let original = match first.and_then(|records| records.first().map(|stored| stored.record)) {
                        Some(Record::Transfer { transfer, outcome, .. }) => {
                            Original::Known { transfer, accepted: outcome.is_accepted() }
                        }
                        _ => Original::Unknown,
                    };
                    Ok(Order { transfer, gateway, grant, original, refused: None })
                });
                let orders: Result<Vec<Order>, Code> = orders.collect();
                let orders = match orders {
                    Ok(orders) => orders,
                    Err(code) => {
                        let frame = error_frame(request_id, code);
                        return drop(outgoing.send(Outgoing::Frame { frame, room }));
                    }
                };
                let reply = Box::new(move |explained| {
                    let mut frame = Vec::new();
                    let at = begin_frame(&mut frame);
                    encode_explained(&mut frame, &explained);
                    end_frame(&mut frame, at, Kind::Explained, request_id);
                    drop(outgoing.send(Outgoing::Frame { frame, room }));
                });
                // When clearing has stopped, so will the session.
                let _asked = context.clearing.send(ClearingMessage::Explain(orders, reply));
            });
        });
        self.context.router.send(RouterMessage::Find(ids, reply)).map_err(|_stopped| Code::Draining)
    }
}

fn records_frame(request_id: u64, read: Result<(Sequence, Vec<StoredRecord>), Code>) -> Vec<u8> {
    match read {
        Ok((next, records)) => stored_frame(Kind::Records, request_id, next, &records),
        Err(code) => error_frame(request_id, code),
    }
}

fn detail_frame(request_id: u64, detail: &AccountDetail) -> Vec<u8> {
    let mut frame = Vec::new();
    let at = begin_frame(&mut frame);
    encode_detail(&mut frame, detail);
    end_frame(&mut frame, at, Kind::AccountDetail, request_id);
    frame
}

fn stored_frame(kind: Kind, request_id: u64, cursor: u64, records: &[StoredRecord]) -> Vec<u8> {
    let mut frame = Vec::new();
    let at = begin_frame(&mut frame);
    encode_stored(&mut frame, cursor, records);
    end_frame(&mut frame, at, kind, request_id);
    frame
}

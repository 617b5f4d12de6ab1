//! A session's reads: what is asked of clearing, or looked up on the disk.
//!
//! Every read takes room from admission while it is under way, and is one of the connection's requests in flight.

use std::sync::Arc;

use super::events::EventsRequest;
use super::listener::GatewayContext;
use super::lookup::Lookup;
use super::outgoing::{Outgoing, error_frame};
use super::queries::{account_at, read_history, read_query, read_records};
use super::session::Session;
use crate::clearing::{ClearingMessage, ReadAccounts};
use crate::flow::Permit;
use crate::ledger::{AccountId, Code, GatewayId, Grant, Order, Original, Sequence, StoredRecord, Transfer, TransferId};
use crate::protocol::{
    AccountDetail, AccountRequest, HistoryRequest, Kind, ListRequest, Query, QueryKind, begin_frame, decode_transfers,
    encode_detail, encode_explained, encode_stored, end_frame,
};
use crate::router::RouterMessage;

/// Transfers explained at once: each may need several accounts, and clearing does nothing else meanwhile.
const EXPLAINED_MAX: usize = 128;

impl Session {
    pub(super) fn get_accounts(&mut self, request_id: u64, ids: &[u128]) -> Result<(), Code> {
        let room = self.read_room(ids.len())?;
        let ids = ids.iter().map(|&id| AccountId::from_raw(id)).collect();
        let reply = self.accounts_reply(Kind::Accounts, request_id, room);
        self.context.clearing.send(ClearingMessage::Accounts(ids, reply)).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn list_accounts(&mut self, request_id: u64, request: ListRequest) -> Result<(), Code> {
        let room = self.read_room(usize::try_from(request.limit).unwrap_or(usize::MAX))?;
        let reply = self.accounts_reply(Kind::AccountPage, request_id, room);
        let message = ClearingMessage::List(request.from, request.limit, reply);
        self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
    }

    fn accounts_reply(&self, kind: Kind, request_id: u64, room: Permit) -> Box<dyn FnOnce(ReadAccounts) + Send> {
        let outgoing = self.outgoing.clone();
        // A peer that left gets no answer.
        Box::new(move |read| drop(outgoing.send(Outgoing::accounts((kind, request_id), read, room))))
    }

    fn lookup(&self) -> Lookup {
        Lookup {
            context: Arc::clone(&self.context),
            outgoing: self.outgoing.clone(),
            turns: Arc::clone(&self.lookups),
            is_long: false,
            drain: self.drain.clone(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    pub(super) fn get_transfers(&mut self, request_id: u64, ids: &[u128]) -> Result<(), Code> {
        let room = self.read_room(ids.len())?;
        let ids = ids.iter().map(|&id| TransferId::from_raw(id)).collect();
        let lookup = self.lookup();
        let reply = Box::new(move |sequences: Vec<_>| {
            lookup.answer(request_id, room, move |context| match read_records(context, &sequences) {
                Ok(records) => stored_frame(Kind::Transfers, request_id, 0, &records),
                Err(code) => error_frame(request_id, code),
            });
        });
        self.context.router.send(RouterMessage::Find(ids, reply)).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn history(&mut self, request_id: u64, request: HistoryRequest) -> Result<(), Code> {
        let room = self.read_room(usize::try_from(request.limit).unwrap_or(usize::MAX))?;
        let lookup = self.lookup();
        let reply = Box::new(move |read: ReadAccounts| {
            // Going on from a cursor needs no head.
            let from = if request.from == 0 { head_of(&read) } else { request.from };
            lookup.answer(request_id, room, move |context| {
                match read_history(context, request.account, from, request.limit) {
                    Ok((next, records)) => stored_frame(Kind::History, request_id, next, &records),
                    Err(code) => error_frame(request_id, code),
                }
            });
        });
        let message = ClearingMessage::Accounts(vec![request.account], reply);
        self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
    }

    pub(super) fn query(&mut self, request_id: u64, query: Query) -> Result<(), Code> {
        let (own, _) = self.asker();
        let lookup = Lookup { is_long: true, ..self.lookup() };
        let items = usize::try_from(query.limit).unwrap_or(usize::MAX);
        match query.kind {
            QueryKind::Events => self.events(request_id, own, query),
            QueryKind::Entries => {
                let room = self.read_room(items)?;
                let reply = Box::new(move |read: ReadAccounts| {
                    let head = head_of(&read);
                    lookup.answer(request_id, room, move |context| {
                        records_frame(request_id, read_query(context, own, &query, head))
                    });
                });
                let message = ClearingMessage::Accounts(vec![AccountId::from_raw(query.id)], reply);
                self.context.clearing.send(message).map_err(|_stopped| Code::Draining)
            }
            QueryKind::Life => {
                let room = self.read_room(items)?;
                let reply = Box::new(move |found: Vec<Option<Sequence>>| {
                    let first = found.first().copied().flatten();
                    lookup.answer(request_id, room, move |context| {
                        let read = first.map_or(Ok((0, Vec::new())), |first| read_query(context, own, &query, first));
                        records_frame(request_id, read)
                    });
                });
                let message = RouterMessage::Find(vec![TransferId::from_raw(query.id)], reply);
                self.context.router.send(message).map_err(|_stopped| Code::Draining)
            }
            QueryKind::Reference => {
                lookup.answer(request_id, self.read_room(items)?, move |context| {
                    records_frame(request_id, read_query(context, own, &query, 0))
                });
                Ok(())
            }
        }
    }

    fn events(&self, request_id: u64, own: GatewayId, query: Query) -> Result<(), Code> {
        // An event that has not happened is not being read.
        let place = self.waits.admit(1).ok_or(Code::Busy)?;
        let outgoing = self.outgoing.clone();
        let request = EventsRequest {
            own,
            lookup: Lookup { is_long: true, ..self.lookup() },
            reading: Arc::clone(&self.reading),
            signs: Arc::clone(&self.signs),
        };
        tokio::spawn(async move {
            let (read, page) = request.wait(query).await;
            // Room for what was found, until it is written.
            let room = page.unwrap_or(place);
            drop(outgoing.send(Outgoing::frame(records_frame(request_id, read), room)));
        });
        Ok(())
    }

    pub(super) fn get_account(&mut self, request_id: u64, request: AccountRequest) -> Result<(), Code> {
        let room = self.read_room(1)?;
        let lookup = Lookup { is_long: true, ..self.lookup() };
        let reply = Box::new(move |detail: AccountDetail| {
            let is_past = request.sequence != 0 || request.time_ns != 0;
            let Some(account) = detail.account.filter(|_| is_past) else {
                let frame = detail_frame(request_id, &detail);
                return drop(lookup.outgoing.send(Outgoing::frame(frame, room)));
            };
            lookup.answer(request_id, room, move |context| match account_at(context, &request, &account) {
                Ok(then) => {
                    let opened = then.head != 0;
                    let account = Some(then).filter(|_| opened);
                    detail_frame(request_id, &AccountDetail { sequence: then.head, account, limits: Vec::new() })
                }
                Err(code) => error_frame(request_id, code),
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
        let room = self.read_room(transfers.len())?;
        let asker = self.asker();
        let lookup = self.lookup();
        let about = |transfer: &Transfer| {
            TransferId::from_raw(if transfer.operation().names_original() { transfer.related } else { 0 })
        };
        let ids = transfers.iter().map(about).collect();
        let reply = Box::new(move |found: Vec<Option<Sequence>>| {
            let runtime = lookup.runtime.clone();
            runtime.spawn(async move {
                let orders = lookup.run(move |context| orders(context, asker, (transfers, found))).await;
                let outgoing = lookup.outgoing.clone();
                let orders = match orders.and_then(|orders| orders) {
                    Ok(orders) => orders,
                    Err(code) => {
                        let frame = error_frame(request_id, code);
                        return drop(outgoing.send(Outgoing::frame(frame, room)));
                    }
                };
                let reply = Box::new(move |explained| {
                    let mut frame = Vec::new();
                    let at = begin_frame(&mut frame);
                    encode_explained(&mut frame, &explained);
                    end_frame(&mut frame, at, Kind::Explained, request_id);
                    drop(outgoing.send(Outgoing::frame(frame, room)));
                });
                // When clearing has stopped, so will the session.
                let _asked = lookup.context.clearing.send(ClearingMessage::Explain(orders, reply));
            });
        });
        self.context.router.send(RouterMessage::Find(ids, reply)).map_err(|_stopped| Code::Draining)
    }
}

/// Transfers to explain, each with what its original is. Blocks.
fn orders(
    context: &GatewayContext,
    (gateway, grant): (GatewayId, Grant),
    (transfers, found): (Vec<Transfer>, Vec<Option<Sequence>>),
) -> Result<Vec<Order>, Code> {
    let order = |(transfer, sequence): (Transfer, Option<Sequence>)| {
        let first = sequence.map(|sequence| read_records(context, &[Some(sequence)])).transpose()?;
        let first = first.as_ref().and_then(|records| records.first());
        let original = first.map_or(Original::Unknown, |stored| Original::of(&stored.record, gateway));
        Ok(Order { transfer, gateway, grant, original, refused: None })
    };
    transfers.into_iter().zip(found).map(order).collect()
}

fn head_of(read: &ReadAccounts) -> Sequence {
    read.accounts.first().map_or(0, |account| account.head)
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

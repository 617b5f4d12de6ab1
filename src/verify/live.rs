//! Verification beside a server that serves: the journal is replayed into a second book, and what the server has is compared with it.
//!
//! What the server has is read in pieces, so that clearing never waits long, and the journal is followed until after the last piece: each
//! account is met at the record that last touched it, everything else at one sequence. Up to an earlier sequence, the journal's records are
//! checked by themselves.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use crossbeam::channel::bounded;
use hashbrown::HashMap;

use super::Report;
use super::check::Check;
use crate::clearing::{ClearingHandle, ClearingMessage};
use crate::journal::{FileDisk, walk};
use crate::ledger::{AccountId, Book, BookAccount, BookState, RECORD_BYTES, Record, Sequence};
use crate::telemetry::chain;

/// Lives looked for at a time: each may be a read of the store, on the clearing thread.
const LIVES_AT_ONCE: usize = 64;

/// Accounts read at a time.
const ACCOUNTS_AT_ONCE: u32 = 4_096;

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Another one runs.
    #[error("another check is running; it reads the whole journal, so there is one at a time")]
    Busy,
    /// There is no such record.
    #[error("the ledger is at sequence {0}; a check can be made up to there")]
    Ahead(Sequence),
    /// Ids could not be sorted.
    #[error(
        "the server cannot sort ids in its directory for temporary files, 24 bytes for each transfer ({0}); its TMPDIR names another"
    )]
    Sort(#[from] io::Error),
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
}

/// Checks a server's journal and state.
#[derive(Debug)]
pub struct LiveCheck {
    journal: PathBuf,
    clearing: ClearingHandle,
    one: Mutex<()>,
}

impl LiveCheck {
    /// For the server with this journal and clearing actor.
    pub fn new(journal: PathBuf, clearing: ClearingHandle) -> Self {
        Self { journal, clearing, one: Mutex::new(()) }
    }

    /// Reads something of the server's book. Blocks.
    fn inspect<T: Send + 'static>(&self, read: impl FnOnce(&Book) -> T + Send + 'static) -> Result<T, LiveError> {
        let (reply, answer) = bounded(1);
        let inspection = Box::new(move |book: &Book| {
            // Who asked may have gone.
            let _told = reply.try_send(read(book));
        });
        self.clearing.send(ClearingMessage::Inspect(inspection)).map_err(|_gone| LiveError::Stopping)?;
        answer.recv().map_err(|_gone| LiveError::Stopping)
    }

    /// Replays the journal up to a sequence, or to where the server is and compares the two. Blocks; reads the whole journal, and takes
    /// the memory that [`super::verify`] takes.
    pub fn check(&self, at: Option<Sequence>) -> Result<Report, LiveError> {
        let _one = self.one.try_lock().map_err(|_running| LiveError::Busy)?;
        let reached = self.inspect(Book::sequence)?;
        match at {
            Some(at) if at > reached => Err(LiveError::Ahead(reached)),
            Some(at) => {
                let mut report =
                    Report { store: "not compared: an earlier sequence was asked for".to_owned(), ..Report::default() };
                let check = Check::new("the server", (HashMap::new(), 0), &mut report);
                self.replay(check, at, None)?;
                Ok(finished(report))
            }
            None => {
                let accounts = self.accounts()?;
                let state = self.inspect(Book::state)?;
                let what = format!("not the store but the server's state was compared, at {}", state.sequence);
                let mut report = Report { store: what, ..Report::default() };
                let check = Check::new("the server", (accounts, reached), &mut report);
                self.replay(check, state.sequence, Some(&state))?;
                Ok(finished(report))
            }
        }
    }

    fn accounts(&self) -> Result<HashMap<AccountId, BookAccount>, LiveError> {
        let mut accounts = HashMap::new();
        let mut first = 0_u32;
        loop {
            let slots = first..first.saturating_add(ACCOUNTS_AT_ONCE);
            let read =
                self.inspect(move |book| slots.map_while(|slot| book.account_at(slot)).collect::<Vec<BookAccount>>())?;
            let is_last = u32::try_from(read.len()).is_ok_and(|count| count < ACCOUNTS_AT_ONCE);
            accounts.extend(read.into_iter().map(|account| (account.properties.id, account)));
            if is_last {
                return Ok(accounts);
            }
            first = first.saturating_add(ACCOUNTS_AT_ONCE);
        }
    }

    /// Compares what was given back with what the server finds when it looks for it, in memory or in its store.
    fn lives(&self, check: &mut Check<'_>, until: Sequence) {
        let expected: Vec<_> = check.book.open().lives.newest().collect();
        for part in expected.chunks(LIVES_AT_ONCE) {
            let ids: Vec<_> = part.iter().map(|(id, _)| *id).collect();
            let Ok(found) =
                self.inspect(move |book| ids.iter().map(|id| book.open().lives.get(*id)).collect::<Vec<_>>())
            else {
                return;
            };
            for ((id, expected), found) in part.iter().zip(found) {
                // What came after the last record compared is none of this check's.
                if found.is_none_or(|found| found.head <= until && found != *expected) {
                    check.violate(format!(
                        "transfer {id}: the server finds {found:?} given back, the journal says {expected:?}"
                    ));
                }
            }
        }
    }

    /// Walks the journal up to a sequence and no further: what comes after is being written.
    fn replay(&self, mut check: Check<'_>, until: Sequence, state: Option<&BookState>) -> io::Result<()> {
        let disk = FileDisk::read_only(&self.journal);
        let mut groups = 0_u64;
        let walked = walk(&disk, 1, &mut |header, body| {
            groups = groups.saturating_add(1);
            if check.group(header.time_ns, body, until) { Ok(()) } else { Err("far enough".into()) }
        });
        check.ids(None)?;
        if let Err(err) = walked
            && check.book.sequence() < until
        {
            check.violate(chain(&err));
        }
        if check.has_given_back() {
            let mut left = until;
            // It ends where the first one did.
            let _ended = walk(&disk, 1, &mut |_, body| {
                for bytes in body.as_chunks::<RECORD_BYTES>().0 {
                    if let Ok(record) = Record::decode(bytes) {
                        check.original(&record);
                    }
                    left = left.saturating_sub(1);
                    if left == 0 {
                        return Err("far enough".into());
                    }
                }
                Ok(())
            });
        }
        if let Some(state) = state {
            for what in state.differences(&check.book.state()) {
                check.violate(format!("record {until}: the server has other {what} than the journal gives"));
            }
            self.lives(&mut check, until);
        }
        check.finish_at(groups, state.is_some());
        Ok(())
    }
}

fn finished(mut report: Report) -> Report {
    report.ok = report.violation_count == 0;
    report
}

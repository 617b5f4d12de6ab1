//! What a start found, beside a second book that has read the whole journal: with or without a store, of whatever age, they are alike.

use heng::engine::Recovered;
use heng::ledger::{Book, BookAccount};

/// Accounts, everything besides them, and the histories.
pub(crate) fn compare(recovered: &Recovered) -> Result<(), String> {
    let found = &recovered.book;
    let mut book = Book::new();
    for sequence in 1..=found.sequence() {
        let wrong = |what: String| format!("record {sequence} after a start: {what}");
        let stored = recovered.reader.read(sequence).map_err(|err| wrong(err.to_string()))?;
        let stored = stored.ok_or_else(|| wrong("it is missing".to_owned()))?;
        let applied = book.apply(stored.time_ns, &stored.record).map_err(|err| wrong(err.to_string()))?;
        let link = recovered.links.get(sequence).map_err(|err| wrong(err.to_string()))?;
        let known = link.map(|link| (link.debit_previous, link.credit_previous));
        if known != Some((applied.debit_previous, applied.credit_previous)) {
            return Err(wrong(format!("its accounts' histories go on at {known:?}, and not as {applied:?} says")));
        }
    }
    let differences = found.state().differences(&book.state());
    if !differences.is_empty() {
        return Err(format!("after a start, {differences:?} are not what the journal says at {}", found.sequence()));
    }
    // Their sum is in the checkpoint; what is found of each is read where the store has it.
    for (id, expected) in book.open().lives.newest() {
        let life = found.open().lives.get(id);
        if life != Some(expected) {
            return Err(format!("after a start, {life:?} was given back of {id}, the journal says {expected:?}"));
        }
    }
    // The second book has them in the order of the journal too.
    let differs = |pair: &(BookAccount, BookAccount)| pair.0 != pair.1;
    match found.accounts().zip(book.accounts()).find(differs) {
        Some((found, expected)) => Err(format!("after a start, {found:?} is not {expected:?}")),
        None => Ok(()),
    }
}

//! Files beside the journal: whether statements and payout files are as they were written, and payout files written again.
//!
//! A statement is kept under its hash, which the journal has, so damage shows; only the same file, imported again, puts it right. A payout
//! file follows from the journal, and its manifest has its hash: one that differs from either goes to no bank. When the office starts it is set
//! aside and written again, as long as the bank has not done all that is in it.
//!
//! What is not there is not damaged: whoever hands a file to the bank may take it away, and one that came back by itself might be handed in
//! twice. It is written again when somebody asks for it ([`Command::WriteFiles`](super::Command)), with the message id that it had, which a bank takes once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::commands::{Answer, Problem};
use super::office::Office;
use super::payout_file::{Manifest, PayoutFile, write_payouts};
use super::ports::{Ports, Snapshot, Trouble};
use super::recon_commands::read_kept;
use super::settle::Settling;
use crate::ledger::{PayoutEntry, Window, WindowState, Windows};

/// What was found among the files of a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptFiles {
    /// Statements that are as they were imported.
    pub statements: usize,
    /// Payout files that are as they were written, and say what the journal says.
    pub payouts: usize,
    /// Payout files that somebody has taken away.
    pub taken: usize,
    /// What is not as it was, and what to do.
    pub damaged: Vec<String>,
}

/// A payout file and its manifest, each where it is there.
#[derive(Clone, Debug, Default)]
struct Pair {
    file: Option<PathBuf>,
    manifest: Option<PathBuf>,
}

/// What a pair says, when it is whole.
struct Whole {
    manifest: Manifest,
    bytes: Vec<u8>,
}

/// Looks at the statements with these hashes and at the payout files of these windows. Blocks; reads all of them.
pub fn check_files(data_dir: &Path, statements: &BTreeSet<[u8; 32]>, windows: &Windows) -> io::Result<KeptFiles> {
    let mut found = KeptFiles::default();
    let directory = data_dir.join("statements");
    for hash in statements {
        if read_kept(&directory, hash).is_some() {
            found.statements = found.statements.saturating_add(1);
        } else {
            let path = directory.join(blake3::Hash::from_bytes(*hash).to_hex().as_str());
            let what = "is missing or damaged: import the same file again, or take it from a backup";
            found.damaged.push(format!("the statement {} {what}", path.display()));
        }
    }
    for (name, pair) in pairs(&data_dir.join("payouts"))? {
        let window = window_of(&name).and_then(|key| windows.windows().get(&key));
        // Before that its files are still being written.
        let Some(window) = window.filter(|window| window.state >= WindowState::Settled) else { continue };
        let Some(path) = &pair.file else {
            found.taken = found.taken.saturating_add(1);
            continue;
        };
        let payouts = windows.payouts().values().filter(|payout| payout.window == window.key());
        match pair.check(&name, payouts) {
            Ok(_) => found.payouts = found.payouts.saturating_add(1),
            Err(why) => found.damaged.push(format!(
                "the payout file {} {why}: give it to no bank; `heng clearing files` writes it again",
                path.display()
            )),
        }
    }
    Ok(found)
}

impl Pair {
    /// Reads both; an error says what is wrong with them.
    fn read(&self) -> Result<Whole, &'static str> {
        let path = self.file.as_ref().ok_or("is not there")?;
        let text = self.manifest.as_ref().and_then(|path| fs::read(path).ok()).ok_or("has no manifest")?;
        let manifest = Manifest::read(&text).ok_or("has a damaged manifest")?;
        let bytes = fs::read(path).map_err(|_err| "cannot be read")?;
        let is_its_own = path.file_name().is_some_and(|name| *name == *manifest.file);
        if !is_its_own || blake3::hash(&bytes).to_hex().as_str() != manifest.blake3 {
            return Err("is not what its manifest says");
        }
        Ok(Whole { manifest, bytes })
    }

    /// Reads both, and compares them with the payouts of their window; an error says what is wrong.
    fn check<'a>(&self, name: &str, payouts: impl Iterator<Item = &'a PayoutEntry>) -> Result<Whole, &'static str> {
        let (whole, is_collection) = (self.read()?, is_of_collections(name));
        let says_so = says(&whole, payouts.filter(|payout| payout.is_collection == is_collection));
        if says_so { Ok(whole) } else { Err("and the journal differ in their payouts") }
    }
}

/// All payout files of a directory by their names without endings, in order.
fn pairs(directory: &Path) -> io::Result<BTreeMap<String, Pair>> {
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let entries = match fs::read_dir(directory) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(pairs),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        if let Some(name) = name.strip_suffix(".manifest.json") {
            pairs.entry(name.to_owned()).or_default().manifest = Some(path);
        } else if let Some(name) = name.strip_suffix(".csv").or_else(|| name.strip_suffix(".xml")) {
            pairs.entry(name.to_owned()).or_default().file = Some(path);
        }
    }
    Ok(pairs)
}

/// What a payout file and its manifest have, payouts and their sum, when both are there and are right by the payouts of their window.
pub(super) fn right(path: &Path, payouts: &[PayoutEntry]) -> Option<(usize, u128)> {
    let pair = Pair { file: Some(path.to_owned()), manifest: Some(path.with_extension("manifest.json")) };
    let Whole { manifest, .. } = pair.check(path.file_stem()?.to_str()?, payouts.iter()).ok()?;
    Some((manifest.count, manifest.sum_minor_units.parse().ok()?))
}

fn is_of_collections(name: &str) -> bool {
    name.ends_with("-collections")
}

/// The window in a name like `cards-00001-000007-2026-11-24`; a scheme's name may have such signs itself.
fn window_of(name: &str) -> Option<(u16, u32)> {
    let name = name.strip_suffix("-collections").unwrap_or(name);
    let mut parts = name.rsplitn(6, '-').skip(3);
    let (number, scheme) = (parts.next()?, parts.next()?);
    Some((scheme.parse().ok()?, number.parse().ok()?))
}

/// Whether what a file names are payouts of its window, as many and as much as its manifest says.
fn says<'a>(whole: &Whole, payouts: impl Iterator<Item = &'a PayoutEntry>) -> bool {
    let text = String::from_utf8_lossy(&whole.bytes);
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| word.len() == 32);
    let named: BTreeSet<u128> = words.filter_map(|word| u128::from_str_radix(word, 16).ok()).collect();
    let in_it: Vec<u128> =
        payouts.filter(|payout| named.contains(&payout.id.raw())).map(|payout| payout.amount).collect();
    let sum: u128 = in_it.iter().sum();
    in_it.len() == whole.manifest.count && sum.to_string() == whole.manifest.sum_minor_units
}

impl<P: Ports> Office<P> {
    /// Writes damaged payout files of windows again with which the bank is not done; each is kept beside under another name.
    pub(super) fn mend_files(&mut self, snapshot: &Snapshot) -> Result<(), Trouble> {
        let settled: BTreeMap<(u16, u32), &Window> = snapshot
            .windows
            .iter()
            .filter(|window| window.state == WindowState::Settled)
            .map(|window| (window.key(), window))
            .collect();
        if settled.is_empty() {
            return Ok(());
        }
        let trouble = |path: &Path, source| Trouble::File { path: path.to_owned(), source };
        let found = pairs(&self.payouts).map_err(|err| trouble(&self.payouts, err))?;
        let keys: BTreeSet<(u16, u32)> = settled.keys().copied().collect();
        let payouts: Vec<PayoutEntry> = self.ports.inspect(move |book| {
            book.windows().payouts().values().filter(|payout| keys.contains(&payout.window)).copied().collect()
        })?;
        for (name, pair) in found {
            let (Some(path), Some(window)) = (&pair.file, window_of(&name).and_then(|key| settled.get(&key))) else {
                continue;
            };
            let of_window: Vec<PayoutEntry> =
                payouts.iter().filter(|payout| payout.window == window.key()).copied().collect();
            let Err(why) = pair.check(&name, of_window.iter()) else { continue };
            let both = [Some(path), pair.manifest.as_ref()].into_iter().flatten();
            for path in both.clone() {
                let aside = path.with_added_extension("damaged");
                fs::copy(path, &aside).map_err(|err| trouble(&aside, err))?;
            }
            self.files_of(snapshot, window)?;
            let again = if right(path, &of_window).is_some() {
                "written again from the journal, with the banks that participants have now"
            } else {
                // The bank has refused all of it.
                for path in both {
                    fs::remove_file(path).map_err(|err| trouble(path, err))?;
                }
                "not written again, because nothing in it is still to be paid"
            };
            self.say(&format!("the payout file {} {why}: it is kept beside as .damaged and {again}", path.display()));
        }
        Ok(())
    }

    /// Writes the payout files of a window that is settled; those that are there and right stay as they are.
    fn files_of(&mut self, snapshot: &Snapshot, window: &Window) -> Result<Vec<PayoutFile>, Trouble> {
        let policy = self.terms(snapshot, window.key())?;
        let Some(scheme) = policy.scheme(window.scheme) else { return Ok(Vec::new()) };
        let key = window.key();
        let payouts: Vec<PayoutEntry> = self.ports.inspect(move |book| {
            book.windows().payouts().values().filter(|payout| payout.window == key).copied().collect()
        })?;
        write_payouts(&self.payouts, Settling { snapshot, scheme, window }, &payouts)
    }

    /// Does so because somebody asks for it.
    pub(super) fn write_files(&mut self, (name, number): (&str, u32)) -> Result<Answer, Problem> {
        let snapshot = self.ports.snapshot()?;
        let scheme = snapshot.policy.schemes().iter().find(|scheme| scheme.name == name);
        let unknown = |what: String| Problem::new(404, "unknown", what);
        let scheme = scheme.ok_or_else(|| unknown(format!("the policy has no scheme `{name}`")))?;
        let key = (scheme.number, number);
        let window = self.ports.inspect(move |book| book.windows().window(key))?;
        let window = window.ok_or_else(|| unknown(format!("scheme `{name}` has no window {number}")))?;
        if window.state < WindowState::Settled {
            let what = format!(
                "window {number} of `{name}` is {}; its files are written when it is settled",
                window.state.name()
            );
            return Err(Problem::new(409, "conflict", what));
        }
        let files = self.files_of(&snapshot, &window)?;
        Ok(Answer::Files(files.iter().map(super::views::FileView::of).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_tells_its_window() {
        for (name, key) in [
            ("cards-00001-000007-2026-11-24", Some((1, 7))),
            ("a-b-2-00012-123456-2026-11-24-collections", Some((12, 123_456))),
            ("cards-00001-000007", None),
            ("cards-99999-000007-2026-11-24", None),
            ("notes", None),
        ] {
            assert_eq!(window_of(name), key, "{name}");
        }
    }
}

//! A second server on the data of one that stands still, as whoever takes that one for dead would start it.
//!
//! Two that write one journal would each acknowledge what the other knows nothing of, and the first is not dead: it goes on as soon as it may. So the
//! second must refuse, and leave everything as it is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::pause;
use crate::spawn::server_program;

/// How long it may take to refuse; one that has not by then serves, or waits for its turn.
const REFUSES: Duration = Duration::from_secs(10);

/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// The exit code of a server that was not started as it should be.
const MISUSED: i32 = 2;

/// What became of a second server; anything but a refusal is a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    Refused,
    /// It says what was seen instead.
    Came(String),
}

/// Starts a second server on the data of one that stands still.
pub(crate) fn challenge(data: &Path) -> anyhow::Result<Rival> {
    let before = files(data)?;
    let mut rival = Command::new(server_program()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"])
        .args(["--development-key", "true", "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let Some(ended) = wait(&mut rival)? else {
        rival.kill()?;
        rival.wait()?;
        return Ok(Rival::Came("it did not end".to_owned()));
    };
    let said = rival.stderr.take().map(io::read_to_string).transpose()?.unwrap_or_default();
    let has_refused = ended.code() == Some(MISUSED) && said.contains("in use by another process");
    Ok(match (has_refused, files(data)? == before) {
        (true, true) => Rival::Refused,
        (true, false) => Rival::Came("it refused, but the data is not as before".to_owned()),
        (false, _) => Rival::Came(format!("it ended with {ended} and said: {said}")),
    })
}

fn wait(rival: &mut Child) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        let ended = rival.try_wait()?;
        if ended.is_some() || begun.elapsed() > REFUSES {
            return Ok(ended);
        }
        pause(LOOK);
    }
}

/// All files below, with their lengths and when they were written last.
fn files(directory: &Path) -> io::Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                found.insert(entry.path(), (metadata.len(), metadata.modified()?));
            }
        }
    }
    Ok(found)
}

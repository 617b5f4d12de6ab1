//! A clock that jumps: `libfaketime` tells the server a time that is not the machine's, and another one while it runs.
//!
//! Only the wall clock is concerned; that which measures durations goes on, as it does when somebody sets a machine's clock. Where the library
//! is missing the fault is skipped, and said so.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::RngExt;
use rand::rngs::StdRng;

/// Where distributions put it, with a directory of the processor's name between.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/local/lib/faketime",
];

const LIBRARY: &str = "libfaketimeMT.so.1";

/// The farthest that the clock goes in both directions.
pub(crate) const FAR: Duration = Duration::from_hours(1);

/// How far it goes to and fro.
const NEAR_S: i64 = 600;

/// The clock of a server.
#[derive(Debug)]
pub(crate) struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

/// What a clock says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// The time, and so many seconds more.
    Ahead(i64),
    /// Always what it said when it stopped.
    Stopped,
}

impl FakeClock {
    /// None where the library is not there.
    pub(crate) fn new(directory: &Path) -> Option<Self> {
        let library = PLACES.iter().map(|place| Path::new(place).join(LIBRARY)).find(|path| path.exists())?;
        Some(Self { library, file: directory.join("clock") })
    }

    /// Sets it.
    pub(crate) fn set(&self, says: Says) -> anyhow::Result<()> {
        let text = match says {
            Says::Ahead(seconds) => format!("{seconds:+}"),
            Says::Stopped => Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        };
        // It is read at any moment: whole.
        let new = self.file.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.file))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// What a process that is to look at it needs in its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("TZ", "UTC".to_owned()),
        ]
    }
}

/// What a clock says next.
pub(crate) fn draw(rng: &mut StdRng) -> Says {
    let far = i64::try_from(FAR.as_secs()).unwrap_or(0);
    match rng.random_range(0..6_u8) {
        0 => Says::Ahead(far),
        1 => Says::Ahead(far.saturating_neg()),
        2 | 3 => Says::Ahead(rng.random_range(-NEAR_S..NEAR_S)),
        4 => Says::Stopped,
        _ => Says::Ahead(0),
    }
}

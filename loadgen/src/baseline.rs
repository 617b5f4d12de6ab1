//! What the machine itself takes: a sync of a small write where servers keep their data, and a round trip over loopback.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

/// Syncs and round trips measured.
const COUNT: usize = 1_000;

/// Connections for round trips, one after the other: how two threads come to lie on the processors differs from one to the next.
const CONNECTIONS: usize = 9;

/// Bytes of a small group, and of a small request.
const BYTES: usize = 256;

/// What the machine takes, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each name")]
pub(crate) struct Baseline {
    /// Median of writing 256 bytes into a file that was filled before, with `fdatasync`.
    pub(crate) sync_us: f64,
    /// Its 99th percentile.
    pub(crate) sync_p99_us: f64,
    /// Median of 256 bytes there and back over TCP on loopback, of several connections the one in the middle.
    pub(crate) round_trip_us: f64,
}

fn sorted(mut each: impl FnMut(u64) -> std::io::Result<()>) -> std::io::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(COUNT);
    for number in 0..u64::try_from(COUNT).unwrap_or(0) {
        let begun = Instant::now();
        each(number)?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// A file that was filled before, so that syncing a small write in it changes nothing else.
fn filled(directory: &Path) -> std::io::Result<File> {
    let mut file = tempfile::tempfile_in(directory)?;
    for _ in 0..16 {
        file.write_all(&vec![0; 64 << 10])?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A pace: so often, so many times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    pub(crate) count: u32,
}

/// A percentile, in thousandths, of doing something at a pace, milliseconds from the intended time: what a part of the machine takes alone at the pace of a load.
#[expect(clippy::disallowed_methods, reason = "nothing else runs on this thread meanwhile")]
fn paced_ms(pace: Pace, per_mille: usize, mut each: impl FnMut(u32) -> std::io::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut took = Vec::new();
    for number in 0..pace.count {
        let intended = begun.checked_add(pace.every.saturating_mul(number)).context("a time beyond all clocks")?;
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        each(number)?;
        took.push(intended.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(at(&took, per_mille))
}

/// The disk alone: writing so many bytes with `fdatasync`, in a temporary directory, into a file that was filled before.
pub(crate) fn disk_p99_ms(pace: Pace, bytes: usize) -> anyhow::Result<f64> {
    const PLACES: u32 = 64;
    let mut file = tempfile::tempfile()?;
    let written = vec![7; bytes];
    (0..PLACES).try_for_each(|_| file.write_all(&written))?;
    file.sync_all()?;
    let width = u64::try_from(bytes)?;
    paced_ms(pace, 990, |number| {
        file.write_all_at(&written, u64::from(number.checked_rem(PLACES).unwrap_or(0)).saturating_mul(width))?;
        file.sync_data()
    })
}

/// A processor alone: a computation that takes so long when nothing disturbs it. In a virtual machine it may be slow, or away, for a while.
/// The percentile is in thousandths.
pub(crate) fn processor_ms(pace: Pace, work: Duration, per_mille: usize) -> anyhow::Result<f64> {
    const ROUNDS: u32 = 5_000;
    const TRIES: u32 = 4_000;
    let once = || {
        let begun = Instant::now();
        std::hint::black_box((0..ROUNDS).fold(1_u64, |mixed, round| {
            std::hint::black_box(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(31) ^ u64::from(round)
        }));
        begun.elapsed()
    };
    let undisturbed = (0..TRIES).map(|_| once()).min().unwrap_or_default();
    let times = work.as_nanos().checked_div(undisturbed.as_nanos()).context("a clock that stands still")?;
    paced_ms(pace, per_mille, |_| {
        for _ in 0..times {
            once();
        }
        Ok(())
    })
}

/// Pause between two syncs of a [`Probe`].
const PROBED_EVERY: Duration = Duration::from_millis(200);

/// Places in its file that a [`Probe`] writes to, one after the other.
const PROBED_PLACES: u64 = 4_096;

/// What the disk takes beside a load: one small write with `fdatasync` every fifth of a second.
#[derive(Debug)]
pub(crate) struct Probe {
    took_us: Receiver<u64>,
    /// Its thread ends when this is dropped.
    _running: Sender<()>,
}

impl Probe {
    /// Starts on the file system of a directory.
    pub(crate) fn start(directory: &Path) -> std::io::Result<Self> {
        let file = filled(directory)?;
        let (tell, took_us) = channel();
        let (running, stopped) = channel::<()>();
        let probe = move || {
            let bytes = [7; BYTES];
            let places = (0..PROBED_PLACES).cycle();
            for place in places {
                if !matches!(stopped.recv_timeout(PROBED_EVERY), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
                let begun = Instant::now();
                let offset = place.saturating_mul(u64::try_from(BYTES).unwrap_or(0));
                let synced = file.write_all_at(&bytes, offset).and_then(|()| file.sync_data());
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                if synced.is_err() || tell.send(took).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("disk-probe".to_owned()).spawn(probe)?;
        Ok(Self { took_us, _running: running })
    }

    /// Median and maximum of the syncs since the last call, microseconds; zeros when there was none.
    pub(crate) fn take(&self) -> (u64, u64) {
        let mut took: Vec<u64> = self.took_us.try_iter().collect();
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or(0);
        (median, took.last().copied().unwrap_or(0))
    }
}

/// Measures both, in a temporary directory.
pub(crate) fn baseline() -> anyhow::Result<Baseline> {
    let directory = tempfile::tempdir()?;
    let file = filled(directory.path())?;
    let bytes = [7; BYTES];
    let width = u64::try_from(BYTES)?;
    let syncs = sorted(|number| {
        file.write_all_at(&bytes, number.saturating_mul(width))?;
        file.sync_data()
    })?;
    let mut trips = (0..CONNECTIONS).map(|_| round_trip()).collect::<anyhow::Result<Vec<f64>>>()?;
    trips.sort_by(f64::total_cmp);
    let round_trip_us = trips.get(CONNECTIONS / 2).copied().unwrap_or(0.0);
    Ok(Baseline { sync_us: at(&syncs, 500), sync_p99_us: at(&syncs, 990), round_trip_us })
}

/// The median of a connection.
fn round_trip() -> anyhow::Result<f64> {
    let bytes = [7; BYTES];
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; BYTES];
        while server.read_exact(&mut bytes).and_then(|()| server.write_all(&bytes)).is_ok() {}
    });
    let mut answer = [0; BYTES];
    let trips = sorted(|_| {
        client.write_all(&bytes)?;
        client.read_exact(&mut answer)
    })?;
    drop(client);
    echo.join().map_err(|_panic| anyhow::anyhow!("the echo ended in a panic"))?;
    Ok(at(&trips, 500))
}

fn at(took: &[f64], per_mille: usize) -> f64 {
    took.get(took.len().saturating_mul(per_mille) / 1_000).copied().unwrap_or(0.0)
}

//! What the machine itself takes: a sync of a small write where servers keep their data, and a round trip over loopback.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use serde::Serialize;

/// Syncs and round trips measured.
const COUNT: usize = 1_000;

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
    /// Median of 256 bytes there and back over TCP on loopback.
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

/// Measures both, in a temporary directory.
pub(crate) fn baseline() -> anyhow::Result<Baseline> {
    let directory = tempfile::tempdir()?;
    let file = File::create(directory.path().join("sync"))?;
    for _ in 0..16 {
        (&file).write_all(&vec![0; 64 << 10])?;
    }
    file.sync_all()?;
    let bytes = [7; BYTES];
    let width = u64::try_from(BYTES)?;
    let syncs = sorted(|number| {
        file.write_all_at(&bytes, number.saturating_mul(width))?;
        file.sync_data()
    })?;
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
    let at =
        |took: &[f64], per_mille: usize| took.get(took.len().saturating_mul(per_mille) / 1_000).copied().unwrap_or(0.0);
    Ok(Baseline { sync_us: at(&syncs, 500), sync_p99_us: at(&syncs, 990), round_trip_us: at(&trips, 500) })
}

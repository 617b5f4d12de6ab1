//! A bad network between clients and a server: connections that stand still, dribble, end amid a frame, are closed on one side, or are reset.
//!
//! What arrives is what was sent, in order, or nothing any more: it is TCP that is behind both. Requests arrive twice because who got no
//! answer sends them again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is carried at once.
const CHUNK_BYTES: usize = 4_096;

/// A fault comes at the latest after so many bytes.
const BYTES_MAX: u64 = 60_000;

/// How long a connection stands still at most.
const STILL: Duration = Duration::from_secs(2);

/// Bytes that are carried one by one.
const DRIBBLED: usize = 300;

/// Connections that come and go at once.
const STORM: usize = 40;

/// What becomes of one direction of a connection.
#[derive(Clone, Copy, Debug)]
enum Weather {
    /// It stands still and goes on.
    Still(Duration),
    /// It carries a byte at a time for a while.
    Dribble,
    /// Both directions end at once, whatever is on its way.
    Reset,
    /// Nobody hears any more, and then it is reset.
    Silence(Duration),
    /// This direction is closed in order, the other stays open.
    HalfClosed,
}

/// A proxy; it ends with the runtime's tasks when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    calm: Arc<AtomicBool>,
    /// Connections that were ended amid something.
    broken: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens in front of a server.
    pub(crate) async fn start(server: &str, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (calm, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let (server, own) = (server.parse::<SocketAddr>()?, (Arc::clone(&calm), Arc::clone(&broken)));
        tasks.spawn(async move {
            let mut pairs = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if rng.random_bool(0.05) && !own.0.load(Relaxed) {
                    pairs.spawn(storm(server));
                }
                let seeds = (rng.random(), rng.random());
                pairs.spawn(join(client, server, seeds, (Arc::clone(&own.0), Arc::clone(&own.1))));
            }
        });
        Ok(Self { address, calm, broken, tasks })
    }

    /// From now on everything is carried.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Relaxed);
    }

    /// Ends it; answers how many connections it broke.
    pub(crate) fn end(mut self) -> u64 {
        self.tasks.abort_all();
        self.broken.load(Relaxed)
    }
}

/// Connections without a word.
async fn storm(server: SocketAddr) {
    let mut open = Vec::new();
    for _ in 0..STORM {
        open.extend(TcpStream::connect(server).await);
    }
}

type Flags = (Arc<AtomicBool>, Arc<AtomicU64>);

/// Carries both directions of a connection until it ends, or is ended.
async fn join(client: TcpStream, server: SocketAddr, seeds: (u64, u64), (calm, broken): Flags) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Whatever is on its way is lost when they are dropped.
    let _reset = (client.set_zero_linger(), server.set_zero_linger());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (mut there, mut back) = (StdRng::seed_from_u64(seeds.0), StdRng::seed_from_u64(seeds.1));
    // Whoever is reset first ends the other.
    let was_broken = tokio::select! {
        is_broken = carry(from_client, to_server, &mut there, &calm) => is_broken,
        is_broken = carry(from_server, to_client, &mut back, &calm) => is_broken,
    };
    broken.fetch_add(u64::from(was_broken), Relaxed);
}

/// Carries one direction until its end; whether that was ours.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rng: &mut StdRng, calm: &AtomicBool) -> bool {
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut left = rng.random_range(1..BYTES_MAX);
    loop {
        let room = usize::try_from(left).unwrap_or(CHUNK_BYTES).clamp(1, CHUNK_BYTES);
        let Some(room) = bytes.get_mut(..room) else { return false };
        let read = from.read(room).await.unwrap_or(0);
        let read = room.get(..read).unwrap_or_default();
        if read.is_empty() || to.write_all(read).await.is_err() {
            return false;
        }
        left = left.saturating_sub(u64::try_from(read.len()).unwrap_or(left));
        if left > 0 || calm.load(Relaxed) {
            continue;
        }
        left = rng.random_range(1..BYTES_MAX);
        match draw(rng) {
            Weather::Still(time) => tokio::time::sleep(time).await,
            Weather::Dribble if dribble(&mut from, &mut to).await.is_err() => return false,
            Weather::Dribble => {}
            Weather::Reset => return true,
            Weather::Silence(time) => {
                tokio::time::sleep(time).await;
                return true;
            }
            Weather::HalfClosed => {
                // The other direction goes on for as long as anyone still says something.
                let _closed = to.shutdown().await;
                tokio::time::sleep(STILL).await;
                return true;
            }
        }
    }
}

fn draw(rng: &mut StdRng) -> Weather {
    // Seldom long, so that something gets through.
    let still = STILL.mul_f64(rng.random::<f64>().powi(4));
    match rng.random_range(0..8_u8) {
        0 | 1 => Weather::Reset,
        2 => Weather::HalfClosed,
        3 => Weather::Silence(still),
        4 => Weather::Dribble,
        _ => Weather::Still(still),
    }
}

/// Some bytes, each in a packet of its own.
async fn dribble(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> std::io::Result<()> {
    for _ in 0..DRIBBLED {
        let byte = from.read_u8().await?;
        to.write_u8(byte).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives is the beginning of what was sent, and a calm network carries all of it.
    #[tokio::test]
    async fn what_arrives_is_the_beginning_of_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(&listener.local_addr().unwrap().to_string(), 3).await.unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        let mut ends = Vec::new();
        for number in 0..12 {
            if number == 11 {
                proxy.calm();
            }
            let mut client = TcpStream::connect(&proxy.address).await.unwrap();
            let own = sent.clone();
            let writes = tokio::spawn(async move {
                // It may be broken amid it.
                let _written = client.write_all(&own).await;
                let _closed = client.shutdown().await;
                client
            });
            // Storms are connections too, and say nothing.
            let arrived = loop {
                let (mut server, _) = listener.accept().await.unwrap();
                let mut arrived = Vec::new();
                let _ended = server.read_to_end(&mut arrived).await;
                if !arrived.is_empty() {
                    break arrived;
                }
            };
            drop(writes);
            assert!(sent.starts_with(&arrived), "{number}");
            ends.push(arrived.len());
        }
        assert_eq!(ends.last(), Some(&sent.len()));
        assert!(ends.iter().any(|&end| end < sent.len()), "{ends:?}");
        assert!(proxy.end() > 0);
    }
}

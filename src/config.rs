//! Configuration: a file, the environment and flags, in that order of increasing strength.
//!
//! Every key has one place: the table below gives its flag, its environment variable, its meaning with unit, and its default.
//! `config/heng.toml` documents the same keys; a test compares the two. Unknown keys are errors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::router::IDS_IN_MEMORY;
use crate::telemetry::LogFormat;

macro_rules! settings {
    ($($key:ident: $kind:ty, $env:literal, $help:literal;)*) => {
        /// What was said in one place; what was not said is `None`.
        #[derive(Clone, Debug, Default, serde::Deserialize, clap::Args)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $(
                #[doc = $help]
                #[arg(long, env = $env)]
                pub $key: Option<$kind>,
            )*
        }

        impl Settings {
            /// These settings, and `weaker` where nothing is said.
            #[must_use]
            pub fn or(self, weaker: Self) -> Self {
                Self { $($key: self.$key.or(weaker.$key),)* }
            }

            /// The names of all keys.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key),)*];
        }
    };
}

settings! {
    listen: SocketAddr, "HENG_LISTEN", "Address of the TCP protocol [default: 127.0.0.1:7400]";
    operations_listen: SocketAddr, "HENG_OPERATIONS_LISTEN", "Address of the operations HTTP port; keep it private [default: 127.0.0.1:7401]";
    data_dir: PathBuf, "HENG_DATA_DIR", "Directory of journal and store [default: data]";
    policy_file: PathBuf, "HENG_POLICY_FILE", "Policy to put in force [default: the one in force stays]";
    shards: usize, "HENG_SHARDS", "Number of shards; 0 means one per four processors [default: 0]";
    development_key: bool, "HENG_DEVELOPMENT_KEY", "Accept the publicly known development key; only with loopback addresses [default: false]";
    connections_max: usize, "HENG_CONNECTIONS_MAX", "Connections at once [default: 12000]";
    connection_requests_in_flight_max: u32, "HENG_CONNECTION_REQUESTS_IN_FLIGHT_MAX", "Requests without an answer per connection; more are answered busy [default: 4096]";
    transfers_in_flight_max: usize, "HENG_TRANSFERS_IN_FLIGHT_MAX", "Transfers and account openings inside at once, all connections together [default: 262144]";
    receiving_bytes_max: usize, "HENG_RECEIVING_BYTES_MAX", "Bytes of frames that have begun to arrive, all connections together [default: 536870912]";
    handshake_timeout_ms: u64, "HENG_HANDSHAKE_TIMEOUT_MS", "Time for a hello to arrive, milliseconds [default: 5000]";
    idle_timeout_ms: u64, "HENG_IDLE_TIMEOUT_MS", "Time without a frame until a connection is closed, milliseconds [default: 60000]";
    frame_timeout_ms: u64, "HENG_FRAME_TIMEOUT_MS", "Time from the first byte of a frame to its last, milliseconds [default: 10000]";
    write_timeout_ms: u64, "HENG_WRITE_TIMEOUT_MS", "Time for a peer to take an answer, milliseconds [default: 10000]";
    drain_timeout_ms: u64, "HENG_DRAIN_TIMEOUT_MS", "Time to finish what was taken when stopping, milliseconds [default: 30000]";
    group_transfers_max: usize, "HENG_GROUP_TRANSFERS_MAX", "Records in one journal group [default: 32768]";
    stay_awake_us: u64, "HENG_STAY_AWAKE_US", "How long a thread that has nothing to do stays awake for what usually comes at once, microseconds; 0: not at all [default: 400]";
    segment_bytes: u64, "HENG_SEGMENT_BYTES", "Bytes of a journal segment file [default: 67108864]";
    checkpoint_transfers: u64, "HENG_CHECKPOINT_TRANSFERS", "Records between checkpoints; a start replays about as many [default: 2000000]";
    store_cache_bytes: u64, "HENG_STORE_CACHE_BYTES", "Page cache of the sled store, bytes [default: 33554432]";
    ids_in_memory: usize, "HENG_IDS_IN_MEMORY", "Transfer ids kept in memory; older ones are in runs on disk [default: 2097152]";
    log_format: LogFormat, "HENG_LOG_FORMAT", "Log lines: auto (text on a terminal, else json), text or json [default: auto]";
    log_filter: String, "HENG_LOG_FILTER", "Which log lines, like `info` or `heng=debug` [default: `info,actix_server=warn`]";
}

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in the table above, once")]
pub struct Config {
    pub listen: SocketAddr,
    pub operations_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub policy_file: Option<PathBuf>,
    pub shards: usize,
    pub development_key: bool,
    pub connections_max: usize,
    pub connection_requests_in_flight_max: u32,
    pub transfers_in_flight_max: usize,
    pub receiving_bytes_max: usize,
    pub handshake_timeout: Duration,
    pub idle_timeout: Duration,
    pub frame_timeout: Duration,
    pub write_timeout: Duration,
    pub drain_timeout: Duration,
    pub group_transfers_max: usize,
    pub stay_awake: Duration,
    pub segment_bytes: u64,
    pub checkpoint_transfers: u64,
    pub store_cache_bytes: u64,
    pub ids_in_memory: usize,
    pub log_format: LogFormat,
    pub log_filter: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {path} cannot be used: {source}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{key} = {value} cannot be used: {rule}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl Settings {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
    }

    /// Fills in the defaults and checks every value.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let ms = |value: Option<u64>, default| Duration::from_millis(value.unwrap_or(default));
        let config = Config {
            listen: self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7400))),
            operations_listen: self.operations_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7401))),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("data")),
            policy_file: self.policy_file.filter(|path| !path.as_os_str().is_empty()),
            // One shard decides several million transfers a second; the others need the processors first.
            shards: self.shards.filter(|&shards| shards > 0).unwrap_or((processors / 4).max(1)),
            development_key: self.development_key.unwrap_or(false),
            connections_max: self.connections_max.unwrap_or(12_000),
            connection_requests_in_flight_max: self.connection_requests_in_flight_max.unwrap_or(4_096),
            transfers_in_flight_max: self.transfers_in_flight_max.unwrap_or(262_144),
            receiving_bytes_max: self.receiving_bytes_max.unwrap_or(512 << 20),
            handshake_timeout: ms(self.handshake_timeout_ms, 5_000),
            idle_timeout: ms(self.idle_timeout_ms, 60_000),
            frame_timeout: ms(self.frame_timeout_ms, 10_000),
            write_timeout: ms(self.write_timeout_ms, 10_000),
            drain_timeout: ms(self.drain_timeout_ms, 30_000),
            group_transfers_max: self.group_transfers_max.unwrap_or(32_768),
            stay_awake: Duration::from_micros(self.stay_awake_us.unwrap_or(400)),
            segment_bytes: self.segment_bytes.unwrap_or(64 << 20),
            checkpoint_transfers: self.checkpoint_transfers.unwrap_or(2_000_000),
            store_cache_bytes: self.store_cache_bytes.unwrap_or(32 << 20),
            ids_in_memory: self.ids_in_memory.unwrap_or(IDS_IN_MEMORY),
            log_format: self.log_format.unwrap_or_default(),
            log_filter: self.log_filter.unwrap_or_else(|| "info,actix_server=warn".to_owned()),
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let require = |holds: bool, key, value: &dyn std::fmt::Display, rule| {
            if holds { Ok(()) } else { Err(ConfigError::Value { key, value: value.to_string(), rule }) }
        };
        require(self.shards <= 256, "shards", &self.shards, "at most 256")?;
        require(self.connections_max > 0, "connections_max", &self.connections_max, "at least 1")?;
        let in_flight = self.connection_requests_in_flight_max;
        require(in_flight > 0, "connection_requests_in_flight_max", &in_flight, "at least 1")?;
        let batch = usize::try_from(crate::protocol::ITEMS_MAX).unwrap_or(usize::MAX);
        let inside = self.transfers_in_flight_max;
        require(inside >= batch, "transfers_in_flight_max", &inside, "at least a full batch, 8190")?;
        require(inside <= 1 << 20, "transfers_in_flight_max", &inside, "at most 1048576")?;
        let receiving = self.receiving_bytes_max;
        require(receiving >= 2 << 20, "receiving_bytes_max", &receiving, "at least 2 MiB, room for a few full frames")?;
        for (key, value) in [
            ("handshake_timeout_ms", self.handshake_timeout),
            ("idle_timeout_ms", self.idle_timeout),
            ("frame_timeout_ms", self.frame_timeout),
            ("write_timeout_ms", self.write_timeout),
        ] {
            require(value >= Duration::from_millis(10), key, &value.as_millis(), "at least 10 milliseconds")?;
        }
        let awake = self.stay_awake;
        require(awake <= Duration::from_millis(10), "stay_awake_us", &awake.as_micros(), "at most 10000")?;
        let group = self.group_transfers_max;
        require((1..=1 << 20).contains(&group), "group_transfers_max", &group, "1 to 1048576")?;
        let group_bytes = u64::try_from(group).unwrap_or(u64::MAX).saturating_mul(128).saturating_add(256);
        let segment = self.segment_bytes;
        require(
            segment >= group_bytes,
            "segment_bytes",
            &segment,
            "room for a full group: group_transfers_max * 128 + 256 bytes",
        )?;
        require(segment <= 4 << 30, "segment_bytes", &segment, "at most 4 GiB")?;
        require(self.checkpoint_transfers > 0, "checkpoint_transfers", &self.checkpoint_transfers, "at least 1")?;
        require(self.ids_in_memory >= 1_000, "ids_in_memory", &self.ids_in_memory, "at least 1000")?;
        require(self.store_cache_bytes >= 1 << 20, "store_cache_bytes", &self.store_cache_bytes, "at least 1 MiB")?;
        let is_loopback = self.listen.ip().is_loopback() && self.operations_listen.ip().is_loopback();
        let public = self.development_key && !is_loopback;
        require(
            !public,
            "development_key",
            &true,
            "everybody knows that key, so it is only for loopback addresses (listen and operations_listen); register gateways with `heng gateway add`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_states_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/heng.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let shipped = Settings::read(&path).unwrap().resolve().unwrap();
        let expected = Config { development_key: true, ..Settings::default().resolve().unwrap() };
        assert_eq!(shipped, expected, "the file differs from the defaults in the development key only");
        for key in Settings::KEYS {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "{key} is not in config/heng.toml"
            );
        }
    }

    #[test]
    fn bad_values_are_refused_with_their_rule() {
        for settings in [
            Settings { shards: Some(1_000), ..Settings::default() },
            Settings { segment_bytes: Some(1_000), ..Settings::default() },
            Settings { transfers_in_flight_max: Some(10), ..Settings::default() },
            Settings { idle_timeout_ms: Some(0), ..Settings::default() },
            Settings { development_key: Some(true), listen: Some(([0, 0, 0, 0], 7400).into()), ..Settings::default() },
            Settings {
                development_key: Some(true),
                operations_listen: Some(([0, 0, 0, 0], 7401).into()),
                ..Settings::default()
            },
        ] {
            assert!(matches!(settings.resolve(), Err(ConfigError::Value { .. })));
        }
    }

    #[test]
    fn stronger_settings_win() {
        let flags = Settings { shards: Some(3), ..Settings::default() };
        let file = Settings { shards: Some(5), connections_max: Some(7), ..Settings::default() };
        let both = flags.or(file);
        assert_eq!((both.shards, both.connections_max), (Some(3), Some(7)));
    }
}

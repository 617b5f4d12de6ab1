//! What commands that speak to a server have in common.

use std::future::Future;

use clap::Args;

use super::Failure;
use crate::client::{Client, ClientError, Credentials};
use crate::ledger::parse_id;
use crate::money::Currency;

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The server's address.
    #[arg(long, env = "HENG_SERVER", default_value = "127.0.0.1:7400")]
    server: String,
    /// The gateway to act as [default: the development gateway].
    #[arg(long, env = "HENG_GATEWAY", requires = "key")]
    gateway: Option<String>,
    /// The gateway's key, 64 hexadecimal digits.
    #[arg(long, env = "HENG_KEY", requires = "gateway", hide_env_values = true)]
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Remote {
    async fn connect(&self) -> Result<Client, ClientError> {
        let who = match (&self.gateway, &self.key) {
            (Some(gateway), Some(key)) => Credentials::from_hex(gateway, key)?,
            _ => Credentials::development(),
        };
        Client::connect(self.server.as_str(), &who).await
    }

    /// Connects and does something with the connection.
    pub(super) fn ask<T, F>(&self, work: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { work(self.connect().await?).await })
    }
}

/// An argument that is an id.
pub(super) fn id_argument(text: &str) -> Result<u128, String> {
    parse_id(text).ok_or_else(|| "an id is a number from 1 to 2^128 - 2, decimal or hexadecimal after 0x".to_owned())
}

/// An argument that is a currency.
pub(super) fn currency_argument(text: &str) -> Result<Currency, String> {
    Currency::from_code(text).map_err(|err| err.to_string())
}

/// A new time-ordered id: milliseconds since 1970, then 80 random bits.
pub(super) fn new_id() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_millis() << 80) | (rand::random::<u128>() >> 48).max(1)
}

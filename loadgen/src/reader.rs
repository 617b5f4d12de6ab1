//! Reads beside the load: what reading costs those who post.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use heng::client::{Client, ClientError};
use heng::protocol::AccountRequest;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::workload::account_id;

/// Entries of a page of history.
const PAGE: u32 = 20;

/// Reads accounts at a steady pace until it is aborted: in turn a balance with limits, a balance, and a page of history.
pub(crate) struct Reader {
    pub(crate) client: Client,
    pub(crate) accounts: u64,
    pub(crate) first_account: u128,
    pub(crate) per_second: u32,
    pub(crate) done: Arc<AtomicU64>,
}

impl Reader {
    pub(crate) async fn run(mut self) -> Result<(), ClientError> {
        let mut random = StdRng::seed_from_u64(1);
        let most = u32::try_from(self.accounts).unwrap_or(u32::MAX);
        let mut pace = tokio::time::interval(Duration::from_secs(1).checked_div(self.per_second).unwrap_or_default());
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        for number in 0_u64.. {
            pace.tick().await;
            let account = account_id(self.first_account, random.random_range(0..most));
            match number % 3 {
                0 => drop(self.client.account(&AccountRequest { account, sequence: 0, time_ns: 0 }).await?),
                1 => drop(self.client.accounts(&[account.raw()]).await?),
                _ => drop(self.client.history(account, 0, PAGE).await?),
            }
            self.done.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

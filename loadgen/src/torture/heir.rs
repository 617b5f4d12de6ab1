//! A server is taken over, standing still or in the midst of its work: another directory goes on with its ledger, and it is let go on afterwards.
//!
//! It must find that out and end. Whether it acknowledged anything that its heir does not have is seen from what clients were told, as after any fault.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Report;
use super::errors::wait_for_end;
use super::pause;
use super::site::Site;
use crate::spawn::{Spawned, server_program};

/// How often it stands still; otherwise it works on, and knows nothing.
const STANDS_STILL: f64 = 0.7;

/// How soon it must have ended once it goes on.
const FINDS_OUT: Duration = Duration::from_secs(10);

/// Has a process stand still from now on, and waits.
pub(super) fn stop_for_a_while(server: &Spawned, rng: &mut StdRng) -> anyhow::Result<()> {
    server.signal("STOP")?;
    // Seldom as long as clients wait at most.
    let most = if rng.random_bool(0.9) { 1_500 } else { 20_000 };
    pause(Duration::from_millis(rng.random_range(50..most)));
    Ok(())
}

/// Takes the ledger over; its directory is the heir's then.
pub(super) fn take_over(
    site: &Site,
    server: &mut Spawned,
    rng: &mut StdRng,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (data, heir) = (site.data(), site.root().join("heir"));
    if rng.random_bool(STANDS_STILL) {
        stop_for_a_while(server, rng)?;
    }
    let mut command = Command::new(server_program()?);
    command.arg("take-over").arg("--from").arg(&data).arg("--data-dir").arg(&heir).stdin(Stdio::null());
    let output = command.output().context("cannot take over")?;
    let said = [output.stdout, output.stderr].concat();
    anyhow::ensure!(output.status.success(), "it was not taken over: {}", String::from_utf8_lossy(&said));
    server.signal("CONT")?;
    if !wait_for_end(server, FINDS_OUT) {
        crate::run::say("STUCK: it was taken over and does not find out");
        report.stuck = report.stuck.saturating_add(1);
        server.signal("KILL")?;
        wait_for_end(server, FINDS_OUT);
    }
    report.inherited = report.inherited.saturating_add(1);
    // Payout files stay where they were written until somebody fetches them.
    let payouts = data.join("payouts");
    if payouts.exists() {
        std::fs::rename(payouts, heir.join("payouts"))?;
    }
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&heir, &data)?;
    Ok(())
}

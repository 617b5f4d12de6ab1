//! What the kernel says of this process.

use std::fs;

/// Memory and processor time of this process. Zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessStats {
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Processor time used, user and system, seconds.
    pub cpu_s: f64,
}

#[expect(clippy::cast_precision_loss, reason = "2^53 hundredths of a second are three million years")]
fn real(ticks: u64) -> f64 {
    ticks as f64
}

/// Asks the kernel.
pub fn process_stats() -> ProcessStats {
    let resident_pages =
        fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
    let ticks = f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100));
    let cpu = fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        // The command name is in parentheses and may contain spaces; user and system time are fields 14 and 15.
        let mut fields = text.rsplit(") ").next()?.split(' ').skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(real(user.saturating_add(system)) / ticks)
    });
    ProcessStats { rss_bytes: resident_pages.unwrap_or(0_u64).saturating_mul(page_bytes), cpu_s: cpu.unwrap_or(0.0) }
}

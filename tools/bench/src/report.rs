//! The figures of one run, for people and for scripts.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::server::Spent;

/// Latencies in ns, up to ten minutes, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("bounds are valid")
}

/// What one run gave. Rates count what was acknowledged (or received), over the time from first send to last answer.
#[derive(Serialize, Default, Debug)]
pub struct Report {
    pub what: String,
    pub records: u64,
    pub batches: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    pub mb_per_second: f64,
    pub records_per_batch: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_sync: Option<f64>,
    pub server_cpu_s_per_million: f64,
    pub machine_cpu_s_per_million: f64,
    /// p50, p90, p99, p99.9, max, in µs, corrected for coordinated omission where the load is open-loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<[f64; 5]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
}

/// Readings before and after a run.
pub struct Window {
    pub before: Spent,
    pub after: Spent,
    pub machine_before: f64,
    pub machine_after: f64,
    pub elapsed: Duration,
}

impl Report {
    pub fn new(
        what: impl Into<String>,
        records: u64,
        batches: u64,
        bytes: u64,
        window: &Window,
    ) -> Report {
        let seconds = window.elapsed.as_secs_f64();
        let million = records as f64 / 1e6;
        let syncs = window
            .after
            .syncs
            .zip(window.before.syncs)
            .map(|(a, b)| a - b);
        Report {
            what: what.into(),
            records,
            batches,
            seconds,
            records_per_second: records as f64 / seconds,
            mb_per_second: bytes as f64 / seconds / 1e6,
            records_per_batch: records as f64 / batches.max(1) as f64,
            records_per_sync: syncs.filter(|s| *s > 0.0).map(|s| records as f64 / s),
            server_cpu_s_per_million: (window.after.cpu_seconds - window.before.cpu_seconds)
                / million,
            machine_cpu_s_per_million: (window.machine_after - window.machine_before) / million,
            latency_us: None,
            verified: None,
        }
    }

    pub fn with_latency(mut self, latency: &Histogram<u64>) -> Report {
        if !latency.is_empty() {
            let at = |q: f64| latency.value_at_quantile(q) as f64 / 1e3;
            self.latency_us = Some([
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                latency.max() as f64 / 1e3,
            ]);
        }
        self
    }

    pub fn print(&self, json: bool) {
        if json {
            println!(
                "{}",
                serde_json::to_string(self).expect("a report is plain data")
            );
            return;
        }
        println!("{}", self.what);
        println!(
            "  {} records in {:.2} s: {:.0} records/s, {:.1} MB/s; {:.0} records per batch{}",
            self.records,
            self.seconds,
            self.records_per_second,
            self.mb_per_second,
            self.records_per_batch,
            self.records_per_sync
                .map(|n| format!(", {n:.0} per sync"))
                .unwrap_or_default()
        );
        println!(
            "  CPU seconds per million records: server {:.3}, whole machine {:.3}",
            self.server_cpu_s_per_million, self.machine_cpu_s_per_million
        );
        if let Some([p50, p90, p99, p999, max]) = self.latency_us {
            println!(
                "  latency µs: p50 {p50:.0}, p90 {p90:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0}"
            );
        }
        if let Some(verified) = &self.verified {
            println!("  {verified}");
        }
    }
}

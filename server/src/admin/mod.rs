//! `/metrics` and `/healthz` over HTTP, on core 0.

mod http;
mod metrics;

pub use metrics::{CoreReport, ReportRequest, report};

use bytes::Bytes;
use http::{Parsed, Request, Status};
use std::rc::Rc;
use std::time::Duration;
use trireme_net::{Connection, Segment, Timeouts};
use trireme_runtime::Service;
use trireme_runtime::sync::CancelToken;

/// Connections of the admin door alone: a scraper or two, health checks.
pub const MAX_CONNECTIONS: usize = 64;
pub const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(120),
    frame: Duration::from_secs(10),
    write: Duration::from_secs(10),
    drain: Duration::from_secs(1),
};
/// How long a core may take to tell its numbers before the broker counts as unwell.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

const INDEX: &str =
    "Trireme\n\n/metrics  Prometheus metrics\n/healthz  200 if every core answers\n";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages are made from.
pub struct Admin {
    pub cores: usize,
    pub reports: Rc<Service<ReportRequest, CoreReport>>,
    pub stop: CancelToken,
    pub started: trireme_runtime::Instant,
    pub receive_memory: Vec<std::sync::Arc<std::sync::atomic::AtomicUsize>>,
}

/// Serves one connection to its end.
pub async fn serve(admin: Rc<Admin>, connection: Connection) {
    let (mut reader, mut writer) = connection.into_bytes();
    let mut buffer = Vec::new();
    loop {
        let (answer, keep_alive) = match http::parse(&buffer) {
            Parsed::Request(request) => {
                buffer.drain(..request.len);
                (
                    admin.answer(&request).await,
                    request.keep_alive && !admin.stop.is_canceled(),
                )
            }
            Parsed::Refused(status) => (
                http::answer(status, TEXT, &status.text(), false, false),
                false,
            ),
            Parsed::Incomplete => match reader.read(&mut buffer).await {
                Ok(count) if count > 0 => continue,
                Ok(_) | Err(_) => return,
            },
        };
        let sent = writer
            .write(vec![Segment::Memory(Bytes::from(answer))])
            .await;
        if sent.is_err() || !keep_alive {
            return;
        }
    }
}

impl Admin {
    async fn answer(&self, request: &Request) -> Vec<u8> {
        let (status, content_type, body) = match request.path.as_str() {
            "/" => (Status::Ok, TEXT, INDEX.to_owned()),
            "/metrics" => match self.reports().await {
                Some(reports) => (
                    Status::Ok,
                    OPEN_METRICS,
                    metrics::encode(reports, self).await,
                ),
                None => (
                    Status::Unavailable,
                    TEXT,
                    "a core does not answer\n".to_owned(),
                ),
            },
            "/healthz" => match self.reports().await {
                Some(_) if self.stop.is_canceled() => {
                    (Status::Unavailable, TEXT, "stopping\n".to_owned())
                }
                Some(_) => (Status::Ok, TEXT, "ok\n".to_owned()),
                None => (
                    Status::Unavailable,
                    TEXT,
                    "a core does not answer\n".to_owned(),
                ),
            },
            _ => (Status::NotFound, TEXT, Status::NotFound.text()),
        };
        http::answer(
            status,
            content_type,
            &body,
            request.head_only,
            request.keep_alive && !self.stop.is_canceled(),
        )
    }

    /// Every core's numbers; `None` if one does not answer in time.
    async fn reports(&self) -> Option<Vec<CoreReport>> {
        let calls: Vec<_> = (0..self.cores)
            .map(|core| self.reports.call(core, ReportRequest))
            .collect();
        let all = async {
            let mut reports = Vec::with_capacity(calls.len());
            for call in calls {
                reports.push(call.await);
            }
            reports
        };
        trireme_runtime::timeout(REPORT_TIMEOUT, all).await.ok()
    }
}

//! trireme-fsck on what a crash or a stop has left of a simulated disk.

use trireme_fsck::{Memory, Options, Verdict, verify};
use trireme_runtime::sim::DiskImage;

use crate::broker::DATA_DIR;

/// Findings that a complaint names.
const FINDINGS_MAX: usize = 3;

/// What fsck has to say against a data directory that nothing has damaged: it may be clean, or end torn unless the process
/// ended cleanly.
pub fn complaint(image: &DiskImage, ended_cleanly: bool) -> Option<String> {
    let below = |path: &str| {
        let path = path.strip_prefix(DATA_DIR)?.strip_prefix('/')?;
        Some(path.to_owned())
    };
    let source = Memory {
        files: image
            .files()
            .into_iter()
            .filter_map(|(path, bytes)| Some((below(&path)?, bytes)))
            .collect(),
        directories: image
            .directories()
            .iter()
            .filter_map(|path| below(path))
            .collect(),
    };
    if source.files.is_empty() {
        return None;
    }
    let options = Options::with_threads(Some(1), &|_| {});
    let report = match verify(&source, &options) {
        Ok(report) => report,
        Err(error) => return Some(error.to_string()),
    };
    match report.verdict() {
        Verdict::Clean => None,
        Verdict::TornTail if !ended_cleanly => None,
        verdict => {
            let findings: Vec<String> = report
                .findings
                .iter()
                .take(FINDINGS_MAX)
                .map(|finding| {
                    format!(
                        "{:?} {} at {}: {}",
                        finding.severity, finding.file, finding.position, finding.what
                    )
                })
                .collect();
            Some(format!("{verdict:?}: {}", findings.join("; ")))
        }
    }
}

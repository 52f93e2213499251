//! What a check has to say.

use std::fmt;

use serde::Serialize;

/// The name of the JSON that a report makes; another number means that fields changed their meaning or went.
pub const SCHEMA: &str = "trireme-fsck/verify/1";

/// Findings that one part of a check lists one by one; more are only counted.
const LISTED_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The torn end of an unclean shutdown: never acknowledged, recovery cuts it off.
    Torn,
    /// It could not be read.
    Unchecked,
    /// Something that was durable is broken, missing or contradicts something else.
    Damage,
}

/// Something found, in `len` bytes of `file` from `position` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    pub position: u64,
    pub len: u64,
    pub what: String,
}

/// Numbers of what was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub files: u64,
    pub shards: u64,
    pub shards_cleanly_shut: u64,
    pub log_groups: u64,
    pub log_records: u64,
    /// Bytes of the log that are followed from the checkpoint on.
    pub log_live_bytes: u64,
    /// Bytes of log files behind its end or of a former use: not live, nothing is promised of them.
    pub log_former_bytes: u64,
    pub partitions: u64,
    pub segments: u64,
    pub sealed_segments: u64,
    pub segment_bytes: u64,
    /// Bytes that are durable in the log only, and will be moved to their segments.
    pub unflushed_bytes: u64,
    pub batches: u64,
    pub records: u64,
    pub sums: u64,
    pub index_entries: u64,
    pub producers: u64,
    /// Findings beyond those listed.
    pub unlisted_findings: u64,
}

macro_rules! add_fields {
    ($to:ident, $from:ident, $($field:ident),*) => { $($to.$field += $from.$field;)* };
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        add_fields!(
            self,
            other,
            files,
            shards,
            shards_cleanly_shut,
            log_groups,
            log_records,
            log_live_bytes,
            log_former_bytes,
            partitions,
            segments,
            sealed_segments,
            segment_bytes,
            unflushed_bytes,
            batches,
            records,
            sums,
            index_entries,
            producers,
            unlisted_findings
        );
    }
}

/// The verdict, which is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Clean = 0,
    TornTail = 1,
    Damaged = 2,
    CouldNotCheck = 3,
}

/// A report, of the whole or of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub notes: Vec<String>,
    pub counts: Counts,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None => Verdict::Clean,
            Some(Severity::Torn) => Verdict::TornTail,
            Some(Severity::Unchecked) => Verdict::CouldNotCheck,
            Some(Severity::Damage) => Verdict::Damaged,
        }
    }

    pub fn add(
        &mut self,
        severity: Severity,
        file: impl Into<String>,
        position: u64,
        len: u64,
        what: impl fmt::Display,
    ) {
        if self.findings.len() >= LISTED_MAX {
            self.counts.unlisted_findings += 1;
            return;
        }
        let finding = Finding {
            severity,
            file: file.into(),
            position,
            len,
            what: what.to_string(),
        };
        // One cause is often met twice, as a sum and as a batch; the same place needs one line only.
        self.findings.push(finding);
    }

    pub fn damage(
        &mut self,
        file: impl Into<String>,
        position: u64,
        len: u64,
        what: impl fmt::Display,
    ) {
        self.add(Severity::Damage, file, position, len, what);
    }

    pub fn unreadable(&mut self, file: impl Into<String>, position: u64, error: std::io::Error) {
        if error.kind() == std::io::ErrorKind::NotFound {
            self.damage(file, 0, 0, "missing");
        } else {
            self.add(
                Severity::Unchecked,
                file,
                position,
                0,
                format_args!("cannot be read: {error}"),
            );
        }
    }

    pub fn merge(&mut self, other: Report) {
        self.findings.extend(other.findings);
        self.notes.extend(other.notes);
        self.counts.add(&other.counts);
    }

    /// Machine-readable; the README of this crate describes the fields.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            schema: &'static str,
            verdict: Verdict,
            exit_code: i32,
            findings: &'a [Finding],
            notes: &'a [String],
            counts: &'a Counts,
        }
        let verdict = self.verdict();
        let json = Json {
            schema: SCHEMA,
            verdict,
            exit_code: verdict as i32,
            findings: &self.findings,
            notes: &self.notes,
            counts: &self.counts,
        };
        serde_json::to_string_pretty(&json).expect("plain data")
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let kind = match finding.severity {
                Severity::Damage => "DAMAGE",
                Severity::Torn => "torn",
                Severity::Unchecked => "UNREADABLE",
            };
            writeln!(
                f,
                "{kind}: {} at byte {}: {}",
                finding.file, finding.position, finding.what
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let counts = &self.counts;
        if counts.unlisted_findings > 0 {
            writeln!(f, "and {} more findings", counts.unlisted_findings)?;
        }
        writeln!(
            f,
            "shards {} ({} cleanly shut), commit log: {} groups, {} records, {} live, {} of former use",
            counts.shards,
            counts.shards_cleanly_shut,
            counts.log_groups,
            counts.log_records,
            Bytes(counts.log_live_bytes),
            Bytes(counts.log_former_bytes),
        )?;
        writeln!(
            f,
            "partitions {}, segments {} ({} sealed) with {}, {} more in the log; {} batches, {} records, {} producers",
            counts.partitions,
            counts.segments,
            counts.sealed_segments,
            Bytes(counts.segment_bytes),
            Bytes(counts.unflushed_bytes),
            counts.batches,
            counts.records,
            counts.producers,
        )?;
        writeln!(
            f,
            "{} files, {} sums, {} index entries checked",
            counts.files, counts.sums, counts.index_entries
        )?;
        write!(
            f,
            "{}",
            match self.verdict() {
                Verdict::Clean => "clean",
                Verdict::TornTail =>
                    "torn tail: an unclean shutdown, nothing acknowledged is missing",
                Verdict::Damaged => "DAMAGED",
                Verdict::CouldNotCheck => "could not check everything",
            }
        )
    }
}

/// A number of bytes, readable.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 10 << 10 => write!(f, "{bytes} B"),
            bytes if bytes < 10 << 20 => write!(f, "{} KiB", bytes >> 10),
            bytes if bytes < 10 << 30 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} GiB", bytes >> 30),
        }
    }
}

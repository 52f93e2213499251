//! What a repair has to say, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::partition::Gone;
use crate::report::{Finding, Verdict};

/// How it ended; also the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The directory is sound, and nothing is gone.
    Sound = 0,
    /// The directory is sound, but something is gone: it is said what.
    Lost = 1,
    /// There is still damage.
    Damaged = 2,
}

/// What a repair did, or would do.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub schema: &'static str,
    pub ending: Ending,
    pub dry_run: bool,
    /// A repair that was interrupted and was finished first.
    pub finished: Option<String>,
    /// Where bytes were set aside, below the data directory.
    pub quarantine: Option<String>,
    pub damage: Vec<Finding>,
    pub gone: Vec<Gone>,
    /// Commit log groups that were durable and cannot be read.
    pub gone_groups: Vec<GoneGroups>,
    /// What else is not as it was.
    pub remarks: Vec<String>,
    /// What was done to which file.
    pub steps: Vec<String>,
    /// Of the check afterwards.
    pub verdict: Option<Verdict>,
}

/// Groups of a commit log that cannot be read. What they held of partitions whose later records are there, is in
/// [`Outcome::gone`]; partitions whose last records they held end earlier than they did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GoneGroups {
    pub shard: u16,
    pub from_sequence: u64,
    /// The last one; `None` where nobody knows how many there were.
    pub to_sequence: Option<u64>,
}

/// The name of the JSON that [`Outcome`] makes; another number means that fields changed their meaning or went.
pub const SCHEMA: &str = "trireme-fsck/repair/1";

/// For people.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.finished {
            writeln!(f, "finished {name}, which had been interrupted")?;
        }
        for finding in &self.damage {
            writeln!(
                f,
                "DAMAGE: {} at byte {}: {}",
                finding.file, finding.position, finding.what
            )?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        for gone in &self.gone_groups {
            let to = gone
                .to_sequence
                .map_or_else(String::new, |to| format!(" to {to}"));
            writeln!(
                f,
                "GONE: groups {}{to} of the commit log of shard {}; partitions may end earlier than they did",
                gone.from_sequence, gone.shard
            )?;
        }
        for gone in &self.gone {
            let topic = gone
                .topic
                .as_ref()
                .map(|topic| format!(" ({topic})"))
                .unwrap_or_default();
            writeln!(
                f,
                "GONE: partition {}{topic}: offsets {} to {}",
                gone.partition, gone.from_offset, gone.to_offset
            )?;
        }
        let would = if self.dry_run { "would be " } else { "" };
        match (self.ending, &self.quarantine) {
            (Ending::Damaged, _) => write!(f, "STILL DAMAGED"),
            (Ending::Sound, None) => write!(f, "nothing to repair"),
            (Ending::Sound, Some(place)) => {
                write!(
                    f,
                    "{would}repaired, nothing is gone; what was replaced {would}is in {place}"
                )
            }
            (Ending::Lost, place) => write!(
                f,
                "{would}repaired; what is gone is listed above, its bytes are in {}",
                place.as_deref().unwrap_or("place")
            ),
        }
    }
}

//! The command line: what `--help` and the manual page are made of.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Checks, repairs and shows the data directory of a Trireme broker that is not running.
///
/// Only repair writes. Exit codes of verify: 0 clean; 1 torn tail only: the end of an unclean shutdown, which recovery cuts
/// off, nothing acknowledged is missing; 2 damaged: each finding names file and byte; 3 could not check: no data directory, a
/// broker runs on it, or something could not be read.
#[derive(Parser)]
#[command(name = "trireme-fsck", version, verbatim_doc_comment)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Checks a data directory.
    ///
    /// What is checked: the format file; both checkpoint slots; the commit log from the checkpoint on, group by group, by the
    /// very rules of recovery; every block of every segment against its sum; every batch (CRC, offsets, epochs); sums and
    /// indexes against the batches; producers against the batches; what the log has against what the segments have; exact
    /// lengths after a clean shutdown; missing and unknown files. Bytes of a log file's former use are counted, not checked:
    /// they are not live.
    ///
    /// --json prints one object; its fields are described in the README of trireme-fsck.
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
    /// Makes a damaged data directory one that the broker starts on, with everything that can be trusted.
    ///
    /// Indexes, sums and checkpoints are made anew from what they are of. Bytes that are broken in a segment are taken from
    /// the commit log where that still has them. What cannot be trusted is moved, never deleted, to DIR/quarantine/repair-NNNN,
    /// and every offset that is gone is named. A clean directory, or one with a torn tail only, is left as it is.
    ///
    /// It may be interrupted at any time: the broker then refuses to start, or the directory is as it was, and running repair
    /// again goes on. Exit codes: 0 sound, nothing is gone; 1 sound, but offsets are gone: they are listed; 2 still damaged;
    /// 3 could not repair: a broker runs on it, or something could not be read or written.
    #[command(verbatim_doc_comment)]
    Repair(RepairArgs),
    /// Shows what is in files of a data directory, or in all of it.
    ///
    /// PATH is a data directory, or files in one: *.log (batches), *.wal (groups), checkpoint.0/.1, *.index, *.timeindex,
    /// *.sum, format. A broken file is shown up to where it breaks, and what breaks it.
    #[command(verbatim_doc_comment)]
    Dump(DumpArgs),
    /// Breaks a copy of a cleanly shut data directory in memory in every possible way, and checks that each is found.
    ///
    /// Every live bit flipped, every cut, every removed file. For small directories: some MiB.
    #[command(hide = true, verbatim_doc_comment)]
    Torture(TortureArgs),
}

#[derive(Args)]
pub struct VerifyArgs {
    /// The data directory.
    pub dir: PathBuf,
    /// Print JSON, and no progress.
    #[arg(long)]
    pub json: bool,
    /// Threads; by default two for each core.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Args)]
pub struct RepairArgs {
    /// The data directory.
    pub dir: PathBuf,
    /// Say what would be done, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON, and no progress.
    #[arg(long)]
    pub json: bool,
    /// Threads; by default two for each core.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Args)]
pub struct DumpArgs {
    /// A data directory, or files of one.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Records of batches too, decompressed.
    #[arg(long)]
    pub records: bool,
    /// Of a directory: the commit log's groups and their records.
    #[arg(long)]
    pub groups: bool,
    /// Of a directory: the newest checkpoint.
    #[arg(long)]
    pub checkpoint: bool,
}

#[derive(Args)]
pub struct TortureArgs {
    /// The data directory, cleanly shut.
    pub dir: PathBuf,
    /// Threads; by default two for each core.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Flip every Nth bit only.
    #[arg(long, default_value_t = 1)]
    pub every: usize,
}

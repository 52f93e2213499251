//! `trireme-fsck`: the program around the library.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // no core to stop, no simulator

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use trireme_fsck::report::Bytes;
use trireme_fsck::source::Source;
use trireme_fsck::{Directory, Options, Verdict, dump, torture, verify};

/// Checks and shows the data directory of a Trireme broker that is not running.
///
/// Nothing is ever written. Exit codes: 0 clean; 1 torn tail only: the end of an unclean shutdown, which recovery cuts off,
/// nothing acknowledged is missing; 2 damaged: each finding names file and byte; 3 could not check: no data directory, a
/// broker runs on it, or something could not be read.
#[derive(Parser)]
#[command(name = "trireme-fsck", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a data directory.
    ///
    /// What is checked: the format file; both checkpoint slots; the commit log from the checkpoint on, group by group, by the
    /// very rules of recovery; every block of every segment against its sum; every batch (CRC, offsets, epochs); sums and
    /// indexes against the batches; producers against the batches; what the log has against what the segments have; exact
    /// lengths after a clean shutdown; missing and unknown files. Bytes of a log file's former use are counted, not checked:
    /// they are not live.
    ///
    /// --json prints one object: verdict, exit_code, findings (severity damage | torn | unchecked, file, position, len,
    /// what), notes, counts.
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
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
struct VerifyArgs {
    /// The data directory.
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Args)]
struct DumpArgs {
    /// A data directory, or files of one.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Records of batches too, decompressed.
    #[arg(long)]
    records: bool,
    /// Of a directory: the commit log's groups and their records.
    #[arg(long)]
    groups: bool,
    /// Of a directory: the newest checkpoint.
    #[arg(long)]
    checkpoint: bool,
}

#[derive(Args)]
struct TortureArgs {
    /// The data directory, cleanly shut.
    dir: PathBuf,
    /// Threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Flip every Nth bit only.
    #[arg(long, default_value_t = 1)]
    every: usize,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Verify(args) => run_verify(&args),
        Command::Dump(args) => run_dump(&args),
        Command::Torture(args) => run_torture(&args),
    };
    match result {
        Ok(verdict) => ExitCode::from(verdict as u8),
        Err(error) => {
            eprintln!("trireme-fsck: {error:#}");
            ExitCode::from(Verdict::CouldNotCheck as u8)
        }
    }
}

fn run_verify(args: &VerifyArgs) -> anyhow::Result<Verdict> {
    let _lock = lock(&args.dir)?;
    let source = Directory::new(&args.dir);
    let total = source.list()?.iter().map(|item| item.size).sum();
    let done = AtomicU64::new(0);
    let options = Options {
        progress: &|bytes| {
            done.fetch_add(bytes, Ordering::Relaxed);
        },
        ..Options::default()
    };
    let options = Options {
        threads: args.threads.unwrap_or(options.threads),
        ..options
    };
    let report = with_progress(&done, total, || verify(&source, &options))?;
    if args.json {
        println!("{}", report.to_json())
    } else {
        println!("{report}")
    }
    Ok(report.verdict())
}

fn run_dump(args: &DumpArgs) -> anyhow::Result<Verdict> {
    let what = dump::What {
        records: args.records,
        groups: args.groups,
        checkpoint: args.checkpoint,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut whole = true;
    for path in &args.paths {
        match dump::dump(path, &what, &mut out) {
            // Whoever reads us has seen enough (`| head`).
            Err(error) if is_broken_pipe(&error) => return Ok(Verdict::Clean),
            result => whole &= result?,
        }
    }
    out.flush()?;
    Ok(if whole {
        Verdict::Clean
    } else {
        Verdict::Damaged
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run_torture(args: &TortureArgs) -> anyhow::Result<Verdict> {
    let _lock = lock(&args.dir)?;
    let options = Options::default();
    let threads = args.threads.unwrap_or(options.threads);
    let outcome = torture::torture(&Directory::new(&args.dir), threads, args.every)?;
    println!("{outcome}");
    Ok(if outcome.missed.is_empty() {
        Verdict::Clean
    } else {
        Verdict::Damaged
    })
}

/// Keeps a broker from starting meanwhile; refuses when one runs.
fn lock(dir: &Path) -> anyhow::Result<Option<std::fs::File>> {
    if !dir.is_dir() {
        anyhow::bail!("{}: no such directory", dir.display());
    }
    if !["format", "wal", "partitions"]
        .iter()
        .any(|name| dir.join(name).exists())
    {
        anyhow::bail!("{}: not a data directory", dir.display());
    }
    let Ok(file) = std::fs::File::open(dir.join("LOCK")) else {
        // Missing: the check itself will say so.
        return Ok(None);
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            anyhow::bail!("{}: a broker runs on it", dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            anyhow::bail!("{}: cannot be locked: {error}", dir.display())
        }
    }
}

/// Shows how far `work` is, on a terminal, if it takes long.
fn with_progress<R>(done: &AtomicU64, total: u64, work: impl FnOnce() -> R) -> R {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let shower = scope.spawn(|| {
            let start = Instant::now();
            let mut shown = false;
            while !finished.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(200));
                if start.elapsed() > Duration::from_secs(1) {
                    let done = done.load(Ordering::Relaxed);
                    let rate = Bytes((done as f64 / start.elapsed().as_secs_f64()) as u64);
                    eprint!(
                        "\r{:3} % of {}, {rate}/s ",
                        done * 100 / total.max(1),
                        Bytes(total)
                    );
                    shown = true;
                }
            }
            if shown {
                eprint!("\r\x1b[K");
            }
        });
        let result = work();
        finished.store(true, Ordering::Release);
        shower.thread().unpark();
        result
    })
}

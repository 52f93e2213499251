//! `trireme-fsck`: the program around the library.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // no core to stop, no simulator

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use trireme_fsck::cli::{Cli, Command, DumpArgs, RepairArgs, TortureArgs, VerifyArgs};
use trireme_fsck::progress::Progress;
use trireme_fsck::repair::repair;
use trireme_fsck::source::Source;
use trireme_fsck::{Directory, Options, Verdict, dump, torture, verify};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Verify(args) => run_verify(&args),
        Command::Repair(args) => run_repair(&args),
        Command::Dump(args) => run_dump(&args),
        Command::Torture(args) => run_torture(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("trireme-fsck: {error:#}");
            ExitCode::from(Verdict::CouldNotCheck as u8)
        }
    }
}

fn run_verify(args: &VerifyArgs) -> anyhow::Result<u8> {
    let _lock = lock(&args.dir, false)?;
    let source = Directory::new(&args.dir);
    let total = source.list()?.iter().map(|item| item.size).sum();
    let progress = Progress::new("verify", total, args.json);
    let add = |bytes| progress.add(bytes);
    let options = Options::with_threads(args.threads, &add);
    let report = progress.show(|| verify(&source, &options))?;
    if args.json {
        println!("{}", report.to_json())
    } else {
        println!("{report}")
    }
    Ok(report.verdict() as u8)
}

fn run_repair(args: &RepairArgs) -> anyhow::Result<u8> {
    let _lock = lock(&args.dir, true)?;
    let total = Directory::new(&args.dir)
        .list()?
        .iter()
        .map(|item| item.size)
        .sum();
    let progress = Progress::new("repair", total, args.json);
    let add = |bytes| progress.add(bytes);
    let options = Options::with_threads(args.threads, &add);
    let outcome = progress.show(|| repair(&args.dir, args.dry_run, &options))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?)
    } else {
        println!("{outcome}")
    }
    Ok(outcome.ending as u8)
}

fn run_dump(args: &DumpArgs) -> anyhow::Result<u8> {
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
            Err(error) if is_broken_pipe(&error) => return Ok(Verdict::Clean as u8),
            result => whole &= result?,
        }
    }
    out.flush()?;
    let verdict = if whole {
        Verdict::Clean
    } else {
        Verdict::Damaged
    };
    Ok(verdict as u8)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run_torture(args: &TortureArgs) -> anyhow::Result<u8> {
    let _lock = lock(&args.dir, false)?;
    let options = Options::default();
    let threads = args.threads.unwrap_or(options.threads);
    let outcome = torture::torture(&Directory::new(&args.dir), threads, args.every)?;
    println!("{outcome}");
    let verdict = if outcome.missed.is_empty() {
        Verdict::Clean
    } else {
        Verdict::Damaged
    };
    Ok(verdict as u8)
}

/// Keeps a broker from starting meanwhile; refuses when one runs. A repair also keeps others from checking.
fn lock(dir: &Path, exclusive: bool) -> anyhow::Result<Option<File>> {
    if !dir.is_dir() {
        anyhow::bail!("{}: no such directory", dir.display());
    }
    if !["format", "wal", "partitions"]
        .iter()
        .any(|name| dir.join(name).exists())
    {
        anyhow::bail!("{}: not a data directory", dir.display());
    }
    let path = dir.join("LOCK");
    let file = if exclusive {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?
    } else {
        let Ok(file) = File::open(&path) else {
            // Missing: the check itself will say so.
            return Ok(None);
        };
        file
    };
    let locked = if exclusive {
        file.try_lock()
    } else {
        file.try_lock_shared()
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!(
                "{}: a broker runs on it, or another trireme-fsck",
                dir.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            anyhow::bail!("{}: cannot be locked: {error}", dir.display())
        }
    }
}

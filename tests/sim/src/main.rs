//! trireme-sim: the whole broker, its clients and its disk in one deterministic simulation, seed after seed.
//!
//! Above all the broker is the one that the binary runs; only the backend of its runtime is another one. See
//! docs/reliability.md for what is promised and what is injected.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the simulator's own threads and clock are not the broker's"
)]

mod broker;
mod clients;
mod draw;
mod fsck;
mod history;
mod kept;
mod logs;
#[cfg(feature = "mutations")]
mod mutations;
mod panics;
mod records;
mod runner;
mod stage;
mod storm;
mod trace;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use runner::{COMMIT, Runner};

const ABOUT: &str = "\
Runs Trireme on simulated machines: clock, scheduler, disks and network follow from a seed, so a seed and a commit name a run.
In each run several clients produce, fetch, commit offsets, join groups, make and remove topics, while the broker loses its
power, is killed, stopped and started again, its disk stalls, fills up and fails, and its network loses, delays and cuts.
Checkers that know only what a client was told look for anything acknowledged that is lost, moved, doubled or invented.";

const EXAMPLES: &str = "\
Examples:
  trireme-sim run --seeds 500            what CI runs; exit code 1 if a seed failed, the last line counts
  trireme-sim replay 4711                one seed with everything clients were told and the broker's own log
  trireme-sim forever --first 100000     until Ctrl-C, with a line of counts every ten seconds";

/// Time between two lines of `forever`.
const REPORT_EVERY: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(name = "trireme-sim", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run so many seeds, and those that once showed something; the last line counts.
    Run {
        #[command(flatten)]
        which: Seeds,
        /// Print a failed seed's trace as well.
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
        explain: bool,
    },
    /// Run one seed and print what happened, virtual seconds first; the last line is the hash of the run.
    Replay {
        seed: u64,
        /// Only the verdict and the hash.
        #[arg(long)]
        quiet: bool,
        /// The broker's own log lines: error, warn, info, debug, trace, or per module.
        #[arg(long, default_value = "info")]
        log: String,
    },
    /// Break the broker in one place after the other: each time a checker has to see it within so many seeds. Exit code 1
    /// if one was not seen.
    #[cfg(feature = "mutations")]
    Mutations {
        #[command(flatten)]
        which: Seeds,
        /// Only those whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Only this checker is listened to.
        #[arg(long)]
        checker: Option<history::Checker>,
    },
    /// Run seed after seed until told to stop.
    Forever {
        #[arg(long, default_value_t = 1_000_000)]
        first: u64,
        #[arg(long, default_value_t = jobs())]
        jobs: usize,
    },
}

/// Which seeds to run, and on how many threads.
#[derive(clap::Args)]
struct Seeds {
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Threads; a seed runs on one.
    #[arg(long, default_value_t = jobs())]
    jobs: usize,
}

impl Seeds {
    fn runner(&self) -> Runner {
        Runner {
            jobs: self.jobs,
            ..Runner::new(self.first, Some(self.seeds))
        }
    }

    fn contains(&self, seed: u64) -> bool {
        (self.first..self.first.saturating_add(self.seeds)).contains(&seed)
    }
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { which, explain } => many(Runner {
            explains: explain,
            kept: kept::KEPT
                .iter()
                .map(|(seed, _)| *seed)
                .filter(|seed| !which.contains(*seed))
                .collect(),
            ..which.runner()
        }),
        #[cfg(feature = "mutations")]
        Command::Mutations {
            which,
            only,
            checker,
        } => mutations::run(&which, &only, checker),
        Command::Replay { seed, quiet, log } => replay(seed, quiet, &log),
        Command::Forever { first, jobs } => {
            println!("commit {COMMIT}, from seed {first} on; Ctrl-C ends it");
            many(Runner {
                jobs,
                stop: stop_on_signal(),
                report_every: Some(REPORT_EVERY),
                explains: true,
                ..Runner::new(first, None)
            })
        }
    }
}

fn many(runner: Runner) -> ExitCode {
    let begun = Instant::now();
    let sum = runner.run();
    println!("medians: {}", sum.medians());
    println!("faults: {}", sum.faults);
    if !sum.failed.is_empty() {
        println!("failed seeds: {:?}", sum.failed);
    }
    println!("{}", sum.line(begun.elapsed()));
    match sum.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn replay(seed: u64, quiet: bool, log: &str) -> ExitCode {
    if !quiet {
        logs::start(log);
        trace::echo(true);
    }
    let outcome = runner::run_seed(seed, !quiet);
    if !quiet {
        runner::print_tail("what the simulator did", &outcome.recorded, usize::MAX);
    }
    let verdict = match &outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{}", runner::headline(seed, violation));
            ExitCode::FAILURE
        }
    };
    println!(
        "seed {seed} commit {COMMIT}: {} cores, {} clients, {:?}, {} power cuts, {} kills, {} stops, {:.1} simulated seconds; {}",
        outcome.cores,
        outcome.clients,
        outcome.counts,
        outcome.power_cuts,
        outcome.kills,
        outcome.stops,
        outcome.simulated.as_secs_f64(),
        outcome.faults
    );
    println!("trace hash {:016x}", outcome.hash);
    verdict
}

/// Set by SIGINT or SIGTERM: seeds that run are finished, and then it is told what there was.
fn stop_on_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::SIGINT);
    signals.add(nix::sys::signal::SIGTERM);
    // Before any other thread exists, so that all of them inherit it.
    if signals.thread_block().is_ok() {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let _ = signals.wait();
            stop.store(true, Ordering::Relaxed);
        });
    }
    stop
}

//! Many seeds on several threads, what they add up to, and what is said of one that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use trireme_runtime::sim::FaultCounts;

use crate::history::{Counts, Violation};
use crate::panics;
use crate::storm::{self, Outcome};

/// The build's commit: with a seed it names a run.
pub const COMMIT: &str = env!("TRIREME_SIM_COMMIT");
/// A simulated broker's futures are deep, above all unoptimised.
const STACK_BYTES: usize = 32 << 20;
/// Lines of a trace that a failure prints.
const TAIL_LINES: usize = 60;

/// Runs one seed.
pub fn run_seed(seed: u64, traced: bool) -> Outcome {
    panics::keep();
    storm::run(seed, traced)
}

/// What some seeds added up to.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub failed: Vec<u64>,
    pub first_failure: Option<(u64, Violation)>,
    pub simulated: Duration,
    pub faults: FaultCounts,
    pub counts: Counts,
    clients: Vec<u64>,
    cores: Vec<u64>,
    acknowledged: Vec<u64>,
    power_cuts: Vec<u64>,
    rebalances: Vec<u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        if let Some(violation) = &outcome.violation {
            self.failed.push(outcome.seed);
            // Threads finish out of order: the lowest seed counts.
            if self
                .first_failure
                .as_ref()
                .is_none_or(|(seed, _)| outcome.seed < *seed)
            {
                self.first_failure = Some((outcome.seed, violation.clone()));
            }
        }
        self.simulated += outcome.simulated;
        self.faults.add(&outcome.faults);
        self.counts.add(&outcome.counts);
        self.clients.push(outcome.clients as u64);
        self.cores.push(outcome.cores as u64);
        self.acknowledged.push(outcome.counts.acknowledged);
        self.power_cuts.push(outcome.power_cuts);
        self.rebalances.push(outcome.counts.rebalances);
    }

    /// Medians and least values of what a run is promised to have.
    pub fn medians(&self) -> String {
        let show = |name: &str, values: &[u64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            match values.first() {
                None => String::new(),
                Some(least) => format!("{name} {} (least {least})", values[values.len() / 2]),
            }
        };
        [
            show("cores", &self.cores),
            show("clients", &self.clients),
            show("acknowledged records", &self.acknowledged),
            show("power cuts", &self.power_cuts),
            show("group rebalances", &self.rebalances),
        ]
        .join(", ")
    }

    pub fn line(&self, wall: Duration) -> String {
        format!(
            "{} seeds, {} failed, {:.2} simulated hours, {} records acknowledged, {} read, {} commits, {} rebalances, {:.0} s",
            self.seeds,
            self.failed.len(),
            self.simulated.as_secs_f64() / 3600.0,
            self.counts.acknowledged,
            self.counts.read,
            self.counts.commits,
            self.counts.rebalances,
            wall.as_secs_f64()
        )
    }
}

/// How to go about it.
pub struct Runner {
    pub first: u64,
    /// Run before the others.
    pub kept: Vec<u64>,
    /// `None`: until told to stop.
    pub seeds: Option<u64>,
    pub jobs: usize,
    /// Ends it early.
    pub stop: Arc<AtomicBool>,
    /// Time between two lines of what there is so far.
    pub report_every: Option<Duration>,
    /// A failed seed is run again for its trace.
    pub explains: bool,
    /// No seed after the first one that fails.
    pub until_failed: bool,
    /// Nothing is printed.
    pub quiet: bool,
    /// On each thread, before its first seed.
    pub before: Option<Box<dyn Fn() + Sync>>,
}

impl Runner {
    pub fn new(first: u64, seeds: Option<u64>) -> Runner {
        Runner {
            first,
            kept: Vec::new(),
            seeds,
            jobs: 1,
            stop: Arc::default(),
            report_every: None,
            explains: false,
            until_failed: false,
            quiet: false,
            before: None,
        }
    }

    pub fn run(&self) -> Sum {
        let begun = Instant::now();
        let next = AtomicU64::new(0);
        let (sender, results) = mpsc::channel::<Outcome>();
        let mut sum = Sum::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                let (next, sender) = (&next, sender.clone());
                let worker = move || self.work(next, &sender);
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, worker)
                    .expect("a thread");
            }
            drop(sender);
            let mut reported = Instant::now();
            for outcome in results {
                sum.add(&outcome);
                if outcome.violation.is_some() && self.until_failed {
                    self.stop.store(true, Ordering::Relaxed);
                }
                if self.quiet {
                    continue;
                }
                if let Some(violation) = &outcome.violation {
                    println!("{}", headline(outcome.seed, violation));
                    if self.explains {
                        explain(outcome.seed);
                    }
                }
                if self
                    .report_every
                    .is_some_and(|every| reported.elapsed() >= every)
                {
                    reported = Instant::now();
                    println!("{}\n  {}", sum.line(begun.elapsed()), sum.faults);
                }
            }
        });
        sum
    }

    /// One thread: seeds in order, until there are none or it is told to stop.
    fn work(&self, next: &AtomicU64, outcomes: &mpsc::Sender<Outcome>) {
        if let Some(before) = &self.before {
            before();
        }
        while !self.stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let seed = match self.kept.get(at as usize) {
                Some(seed) => *seed,
                None => match at - self.kept.len() as u64 {
                    at if self.seeds.is_some_and(|seeds| at >= seeds) => return,
                    at => self.first + at,
                },
            };
            if outcomes.send(run_seed(seed, false)).is_err() {
                return;
            }
        }
    }
}

/// What failed, and how to see it again.
pub fn headline(seed: u64, violation: &Violation) -> String {
    format!(
        "FAILED seed {seed} at commit {COMMIT}: {}: {}\n  again: trireme-sim replay {seed}",
        violation.checker, violation.what
    )
}

/// Runs a seed again for its trace, and prints the end of it.
fn explain(seed: u64) {
    let handle = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || run_seed(seed, true))
        .expect("a thread");
    let outcome = handle.join().expect("panics are caught");
    print_tail("what clients were told", &outcome.trace, TAIL_LINES);
    print_tail("what the simulator did", &outcome.recorded, TAIL_LINES / 2);
}

pub fn print_tail(title: &str, lines: &[String], count: usize) {
    let from = lines.len().saturating_sub(count);
    println!("  {title}, the last {} lines:", lines.len() - from);
    lines[from..].iter().for_each(|line| println!("    {line}"));
}

//! Running many cases on all cores, and counting how they went.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use trireme_fsck::{Memory, Options, Report, verify};
use trireme_runtime::sim::{DiskImage, Simulation, Survivors};

use crate::check::Problem;
use crate::knowledge::Knowledge;
use crate::trace::{Client, LifeError, recall, run, use_it};

/// Problems that are printed.
const EXAMPLES_MAX: usize = 20;
/// Cases that a thread takes at a time.
const CASES_AT_A_TIME: usize = 16;
/// Between two lines that say how far it is.
const SAY_AFTER: Duration = Duration::from_secs(20);

/// How many of all cases to try, in percent: TRIREME_EXHAUSTIVE=all (or a number), or what the test says for every day.
pub fn percent(every_day: f64) -> f64 {
    match std::env::var("TRIREME_EXHAUSTIVE") {
        Ok(all) if all == "all" => 100.0,
        Ok(number) => number
            .parse()
            .expect("TRIREME_EXHAUSTIVE is \"all\" or a percentage"),
        Err(_) => every_day,
    }
}

/// Whether the n-th case is among the chosen ones; the same for the same seed.
pub fn is_chosen(seed: u64, n: u64, percent: f64) -> bool {
    let hash = trireme_engine::crc::crc32c(seed as u32, &n.to_le_bytes());
    f64::from(hash) < percent / 100.0 * f64::from(u32::MAX) || percent >= 100.0
}

/// How one case went.
#[derive(Debug)]
pub enum Went {
    /// All is there.
    Well,
    /// A damage was found: by whom, and what they said.
    Found(&'static str, String),
    /// Nobody noticed, and nothing was wrong that could be noticed.
    Badly(Problem),
}

/// What came of all cases.
#[derive(Default)]
pub struct Tally {
    pub tried: u64,
    pub well: u64,
    pub found: BTreeMap<&'static str, u64>,
    pub lost: u64,
    pub invented: u64,
    pub wrong: u64,
    examples: Vec<String>,
}

impl Went {
    /// Where nothing may be damaged, to find a damage is to invent it.
    pub fn or_badly(self) -> Went {
        match self {
            Went::Found(by, why) => Went::Badly(Problem::Wrong(format!("{by}: {why}"))),
            other => other,
        }
    }
}

impl Tally {
    fn add(&mut self, name: impl FnOnce() -> String, went: Went) {
        self.tried += 1;
        let problem = match went {
            Went::Well => {
                self.well += 1;
                return;
            }
            Went::Found(by, _) => {
                *self.found.entry(by).or_default() += 1;
                return;
            }
            Went::Badly(problem) => problem,
        };
        match problem {
            Problem::Lost(_) => self.lost += 1,
            Problem::Invented(_) => self.invented += 1,
            Problem::Wrong(_) | Problem::Damaged(_) => self.wrong += 1,
        }
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{}: {problem}", name()));
        }
    }

    pub fn bad(&self) -> u64 {
        self.lost + self.invented + self.wrong
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tried: {} well", self.tried, self.well)?;
        for (by, count) in &self.found {
            write!(f, ", {count} {by}")?;
        }
        write!(
            f,
            "; lost {}, invented {}, otherwise wrong {}",
            self.lost, self.invented, self.wrong
        )?;
        for example in &self.examples {
            write!(f, "\n  {example}")?;
        }
        Ok(())
    }
}

/// Tries all cases with one thread per core; each thread has what `prepare` makes. With TRIREME_ONLY only those whose name
/// has that in it.
pub fn try_all<C: Sync, P>(
    what: &str,
    cases: &[C],
    prepare: impl Fn() -> P + Sync,
    name: impl Fn(&C) -> String + Sync,
    case: impl Fn(&mut P, &C) -> Went + Sync,
) -> Tally {
    let begun = Instant::now();
    let only = std::env::var("TRIREME_ONLY").unwrap_or_default();
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let said = Mutex::new(begun);
    let say = || {
        let mut said = said.lock().expect("no panic while it is held");
        if said.elapsed() > SAY_AFTER {
            *said = Instant::now();
            let tally = tally.lock().expect("no panic while it is held");
            eprintln!(
                "{what}: {} of {} tried, {} bad",
                tally.tried,
                cases.len(),
                tally.bad()
            );
        }
    };
    let work = || {
        let mut prepared = prepare();
        loop {
            let from = next.fetch_add(CASES_AT_A_TIME, Ordering::Relaxed);
            if from >= cases.len() {
                return;
            }
            say();
            for one in &cases[from..(from + CASES_AT_A_TIME).min(cases.len())] {
                if !only.is_empty() && !name(one).contains(&only) {
                    continue;
                }
                let went = catch_unwind(AssertUnwindSafe(|| case(&mut prepared, one)));
                let went = went.unwrap_or_else(|panic| {
                    let said = panic.downcast_ref::<String>().cloned();
                    let said = said.or(panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
                    Went::Badly(Problem::Wrong(format!(
                        "panic: {}",
                        said.unwrap_or_default()
                    )))
                });
                tally
                    .lock()
                    .expect("no panic while it is held")
                    .add(|| name(one), went);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    let tally = tally.into_inner().expect("no panic while it was held");
    println!("{what}: {tally} ({:.0} s)", begun.elapsed().as_secs_f64());
    tally
}

/// The knowledge behind a prefix of the events; prefixes are asked for in rising order mostly.
pub struct Past<'a> {
    events: &'a [crate::knowledge::Event],
    at: usize,
    knowledge: Knowledge,
}

impl<'a> Past<'a> {
    pub fn new(events: &'a [crate::knowledge::Event]) -> Past<'a> {
        Past {
            events,
            at: 0,
            knowledge: Knowledge::default(),
        }
    }

    pub fn at(&mut self, events: usize) -> &Knowledge {
        if events < self.at {
            *self = Past::new(self.events);
        }
        for event in &self.events[self.at..events] {
            self.knowledge.apply(event);
        }
        self.at = events;
        &self.knowledge
    }
}

/// How far a recovered engine is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Opened, and everything read.
    Read,
    /// And written to, and its power cut with everything lost that may be, and once more.
    Twice,
}

/// Starts an engine on the disk and compares what it has with what is known.
pub fn recover(disk: DiskImage, knowledge: &Knowledge, seed: u64, depth: Depth) -> Went {
    let client = Client::knowing(knowledge.clone());
    let mut disk = disk;
    for round in 0..2 {
        let mut sim = Simulation::new(seed ^ round);
        let told = client.clone();
        let node = sim.node_with_disk(disk, 1, move |_| {
            let client = told.clone();
            async move {
                let result = match recall(&client, 20_000).await {
                    Ok((_dir, engine)) if depth == Depth::Twice && round == 0 => {
                        use_it(&engine, &client).await;
                        // The engine is still there when its power goes.
                        *client.end.borrow_mut() = Some(Ok(()));
                        std::future::pending().await
                    }
                    other => other.map(|_| ()),
                };
                *client.end.borrow_mut() = Some(result);
            }
        });
        *client.end.borrow_mut() = None;
        if let Err(problem) = run(&mut sim, &client) {
            return Went::Badly(problem);
        }
        let end = client.end.borrow_mut().take();
        match end {
            Some(Ok(())) => (),
            Some(Err(LifeError::DoesNotOpen(why))) => {
                return Went::Found("refused by recovery", why);
            }
            Some(Err(LifeError::Problem(Problem::Damaged(why)))) => {
                return Went::Found("found by a read", why);
            }
            Some(Err(LifeError::Problem(problem))) => return Went::Badly(problem),
            None => {
                let why = sim.last_abort().unwrap_or_default();
                return Went::Badly(Problem::Wrong(format!("the engine ended itself: {why}")));
            }
        }
        if depth == Depth::Read {
            break;
        }
        disk = sim.disk_image(node);
        disk.crash(Survivors::Nothing);
    }
    Went::Well
}

/// The disk's data directory for fsck.
pub fn data_dir(disk: &DiskImage) -> Memory {
    let relative = |path: String| path.strip_prefix("/data/").map(str::to_owned);
    let files = disk.files().into_iter();
    Memory {
        files: files
            .filter_map(|(path, bytes)| Some((relative(path)?, bytes)))
            .collect(),
        directories: disk
            .directories()
            .into_iter()
            .filter_map(relative)
            .collect(),
    }
}

pub fn fsck(memory: &Memory) -> Report {
    let options = Options {
        threads: 1,
        ..Options::default()
    };
    verify(memory, &options).expect("memory can be listed")
}

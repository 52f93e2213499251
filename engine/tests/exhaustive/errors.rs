//! EIO and ENOSPC at each disk call of the trace: the process ends or refuses, and what it had acknowledged is there
//! afterwards, and nothing else.

use trireme_runtime::sim::{DiskError, DiskFaults, FailCall, Survivors};

use crate::cases::*;
use crate::check::Problem;
use crate::trace::{Client, LifeError, Trace, run};

/// Of the calls and errors, every day.
const PERCENT_EVERY_DAY: f64 = 1.5;

struct Case {
    life: usize,
    call: u64,
    error: DiskError,
}

pub fn test(trace: &Trace) -> Tally {
    let percent = percent(PERCENT_EVERY_DAY);
    let mut number = 0;
    let mut cases = Vec::new();
    for (life, calls) in trace.calls.iter().enumerate() {
        for call in 1..=*calls {
            for error in [DiskError::Io, DiskError::NoSpace] {
                number += 1;
                if is_chosen(4, number, percent) {
                    cases.push(Case { life, call, error });
                }
            }
        }
    }
    println!("errors: {number} in the trace");
    try_all(
        "EIO and ENOSPC",
        &cases,
        || Past::new(&trace.events),
        |case| {
            format!(
                "{:?} at call {} of life {}",
                case.error, case.call, case.life
            )
        },
        |past, case| {
            let life = &trace.lives[case.life];
            let client = Client::knowing(past.at(life.events).clone());
            let (mut sim, node) = life.start(&client);
            sim.set_disk_faults(
                node,
                DiskFaults {
                    fail: Some(FailCall {
                        call: case.call,
                        error: case.error,
                        lasting: false,
                    }),
                    ..DiskFaults::default()
                },
            );
            if let Err(problem) = run(&mut sim, &client) {
                return Went::Badly(problem);
            }
            let was_injected = sim.fault_counts().total() > 0;
            let end = client.end.borrow_mut().take();
            let category = match end {
                None => "ended the process",
                Some(Ok(())) if !was_injected => "took no space",
                Some(Ok(())) if client.refused.get() > 0 => "refused something",
                Some(Ok(())) => "made no difference",
                Some(Err(LifeError::DoesNotOpen(_))) => "refused to start",
                Some(Err(LifeError::Problem(Problem::Damaged(_)))) => "found by a read",
                Some(Err(LifeError::Problem(problem))) => return Went::Badly(problem),
            };
            if sim.is_running(node) {
                sim.kill(node);
            }
            let mut disk = sim.disk_image(node);
            if case.call % 2 == 0 {
                disk.crash(Survivors::Seeded(case.call));
            }
            let knowledge = client.told.borrow().knowledge.clone();
            match recover(disk, &knowledge, case.call, Depth::Twice).or_badly() {
                Went::Well => Went::Found(category, String::new()),
                badly => badly,
            }
        },
    )
}

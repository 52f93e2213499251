//! The power goes at every write and every sync of the trace, and the engine comes back each time.

use trireme_runtime::sim::Survivors;

use crate::cases::*;
use crate::trace::{Point, Trace};

/// Of the crash points, every day.
const PERCENT_EVERY_DAY: f64 = 5.0;
/// One case of so many goes on with what it recovered, and crashes once more.
const TWICE_ONE_IN: usize = 8;

/// What is left of what was not durable.
#[derive(Clone, Copy, Debug)]
enum Left {
    Nothing,
    Everything,
    Some(u64),
}

struct Case<'a> {
    number: usize,
    point: &'a Point,
    left: Left,
}

pub fn test(trace: &Trace) -> Tally {
    let percent = percent(PERCENT_EVERY_DAY);
    let points = trace.points.iter().enumerate();
    let cases: Vec<Case> = points
        .filter(|(number, _)| is_chosen(1, *number as u64, percent))
        .flat_map(|(number, point)| {
            let seed = number as u64;
            let lefts = [Left::Nothing, Left::Everything, Left::Some(seed)];
            // Where all is durable there is but one outcome.
            let count = match point.disk.is_durable() {
                true => 1,
                false => lefts.len(),
            };
            lefts.into_iter().take(count).map(move |left| Case {
                number,
                point,
                left,
            })
        })
        .collect();
    println!("crash points: {} in the trace", trace.points.len());
    try_all(
        "crash points",
        &cases,
        || Past::new(&trace.events),
        |case| {
            let point = case.point;
            format!(
                "point {} of life {} before {} of {} {:?}, {:?} left",
                case.number, point.life, point.what, point.path, point.range, case.left
            )
        },
        |past, case| {
            let mut disk = case.point.disk.clone();
            disk.crash(match case.left {
                Left::Nothing => Survivors::Nothing,
                Left::Everything => Survivors::Everything,
                Left::Some(seed) => Survivors::Seeded(seed),
            });
            let depth = match case.number % TWICE_ONE_IN {
                0 => Depth::Twice,
                _ => Depth::Read,
            };
            recover(disk, past.at(case.point.events), case.number as u64, depth).or_badly()
        },
    )
}

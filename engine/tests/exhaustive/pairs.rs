//! Pairs of sectors that became durable in the wrong order, at every sync of the trace: the later one is there, the earlier
//! one is not.

use trireme_runtime::sim::Survivors;

use crate::cases::*;
use crate::trace::{Point, Trace};

/// Of the pairs, every day.
const PERCENT_EVERY_DAY: f64 = 0.05;
/// Up to so many sectors under way all their pairs are cases, of more as many.
const SECTORS_MAX: u64 = 40;

/// What becomes of the other sectors.
#[derive(Clone, Copy, Debug)]
enum Others {
    /// Those before the pair are there, those behind its first are not.
    InOrder,
    /// All others are there: the same disk for every later sector, and so tried once for each that is missing.
    All,
}

struct Case<'a> {
    point: &'a Point,
    missing: u64,
    there: u64,
    others: Others,
}

pub fn test(trace: &Trace) -> Tally {
    let percent = percent(PERCENT_EVERY_DAY);
    let mut number = 0;
    let mut cases = Vec::new();
    let syncs = |point: &&Point| matches!(point.what, "durable" | "sync");
    let mut add = |point, missing, there, others| {
        number += 1;
        if is_chosen(2, number, percent) {
            cases.push(Case {
                point,
                missing,
                there,
                others,
            });
        }
    };
    for point in trace.points.iter().filter(syncs) {
        let sectors = point.disk.unsynced_sectors();
        let earlier = sectors.saturating_sub(1);
        let all = sectors * earlier / 2;
        // Of many as many as of few, spread over all.
        let pairs = all.min(SECTORS_MAX * (SECTORS_MAX - 1) / 2);
        for pair in 0..pairs {
            let (missing, there) = nth_pair(pair * all / pairs);
            add(point, missing, there, Others::InOrder);
        }
        let alone = earlier.min(SECTORS_MAX);
        for missing in (0..alone).map(|n| n * earlier / alone) {
            add(point, missing, missing + 1, Others::All);
        }
    }
    println!("pairs of sectors: {number} in the trace");
    try_all(
        "pairs of sectors",
        &cases,
        || Past::new(&trace.events),
        |case| {
            format!(
                "life {} before {} of {} {:?}: sector {} without {}, others {:?}",
                case.point.life,
                case.point.what,
                case.point.path,
                case.point.range,
                case.there,
                case.missing,
                case.others
            )
        },
        |past, case| {
            let mut disk = case.point.disk.clone();
            disk.crash(Survivors::Sectors(&mut |sector| match case.others {
                Others::InOrder => sector < case.missing || sector == case.there,
                Others::All => sector != case.missing,
            }));
            recover(disk, past.at(case.point.events), case.there, Depth::Read).or_badly()
        },
    )
}

/// Pairs in the order (0,1), (0,2), (1,2), (0,3), ...
fn nth_pair(n: u64) -> (u64, u64) {
    let mut later = ((1.0 + (1.0 + 8.0 * n as f64).sqrt()) / 2.0) as u64;
    while later * (later - 1) / 2 > n {
        later -= 1;
    }
    while later * (later + 1) / 2 <= n {
        later += 1;
    }
    (n - later * (later - 1) / 2, later)
}

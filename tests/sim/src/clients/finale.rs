//! The last client: everything is over, the broker runs undisturbed, and whatever was claimed has to be there.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::fetch::{EARLIEST, Fetcher, LATEST, list_offset};
use super::{Client, member, pause};
use crate::history::{Checker, LogId};
use crate::stage::Stage;

const FETCH_BYTES: i32 = 1 << 20;
/// So often something is asked for that rot may have taken.
const ROTTEN_TRIES_MAX: usize = 3;
/// So often a fetch may bring nothing before that counts as a loss.
const EMPTY_FETCHES_MAX: usize = 30;

pub async fn run(stage: Rc<Stage>) {
    let client = Client::new(&stage, "finale");
    let topics: Vec<usize> = (0..stage.mix.topics.len()).collect();
    for log in stage.logs_of(&topics) {
        let Some((start, end)) = bounds(&client, log).await else {
            continue;
        };
        let mut fetcher = Fetcher::new(BTreeMap::from([(log, start)]));
        let mut empty = 0;
        // Retention goes on: the start may move while this reads.
        let mut from = start;
        while fetcher.positions[&log] < end {
            let before = fetcher.positions[&log];
            let count = fetcher.fetch(&client, 10, FETCH_BYTES).await;
            if stage.is_broken() {
                return;
            }
            if fetcher.positions[&log] != before && count == Some(0) {
                from = fetcher.positions[&log];
            }
            empty = if count == Some(0) { empty + 1 } else { 0 };
            if empty > EMPTY_FETCHES_MAX {
                let mut history = stage.history();
                if !history.is_rotten {
                    let what = format!(
                        "{}: nothing comes at {before}, the log ends at {end}",
                        history.log_name(log)
                    );
                    history.broken(Checker::Durability, what);
                }
                break;
            }
        }
        if empty <= EMPTY_FETCHES_MAX {
            stage.history().told_all(log, from, end);
        }
    }
    for group in stage.mix.groups.clone() {
        let logs = stage.logs_of(&group.topics);
        let mut tries = 0;
        while member::fetch_offsets(&client, &group.name, &logs)
            .await
            .is_none()
        {
            tries += 1;
            if gives_up(&stage, tries) {
                break;
            }
            pause(10_000).await;
        }
    }
    stage.finale_done.set(true);
}

/// What is damaged may be refused, for ever; anything else has to come.
fn gives_up(stage: &Stage, tries: usize) -> bool {
    stage.is_broken() || stage.history().is_rotten && tries > ROTTEN_TRIES_MAX
}

/// Log start and high watermark.
async fn bounds(client: &Client, log: LogId) -> Option<(i64, i64)> {
    for tries in 0.. {
        let start = list_offset(client, log, EARLIEST).await;
        let end = list_offset(client, log, LATEST).await;
        if let (Some((start, _)), Some((end, _))) = (start, end) {
            return Some((start, end));
        }
        if gives_up(&client.stage, tries) {
            return None;
        }
        pause(10_000).await;
    }
    unreachable!("it tries until it has them or gives up")
}

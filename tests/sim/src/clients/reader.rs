//! A consumer without a group: reads along, goes back now and then, asks where things are.

use std::collections::BTreeMap;
use std::rc::Rc;

use trireme_runtime::{random_u64, unix_ms};

use super::fetch::{EARLIEST, Fetcher, LATEST, list_offset};
use super::{Client, one_in, pause};
use crate::stage::{Phase, Stage};

const MAX_TIMESTAMP: i64 = -3;

pub async fn run(stage: Rc<Stage>, name: String) {
    while stage.phase.get() == Phase::Setup {
        pause(50_000).await;
    }
    let topics: Vec<usize> = (0..stage.mix.topics.len()).collect();
    let logs = stage.logs_of(&topics);
    let client = Client::new(&stage, name);
    let mut fetcher = Fetcher::new(logs.iter().map(|log| (*log, 0)).collect::<BTreeMap<_, _>>());
    while !stage.is_closing() {
        let max_wait_ms = (random_u64() % 300) as i32;
        let max_bytes = 1 << (11 + random_u64() % 9);
        fetcher.fetch(&client, max_wait_ms, max_bytes).await;
        let log = logs[random_u64() as usize % logs.len()];
        if one_in(10) {
            // Back to somewhere: what was read before has to be the same.
            let position = fetcher.positions[&log];
            let back = random_u64() as i64 & i64::MAX;
            fetcher.positions.insert(log, back % (position + 1));
        }
        if one_in(10) {
            let query = match random_u64() % 4 {
                0 => EARLIEST,
                1 => LATEST,
                2 => MAX_TIMESTAMP,
                _ => unix_ms() - (random_u64() % 3_000) as i64,
            };
            list_offset(&client, log, query).await;
        }
        if one_in(40) {
            client.disconnect();
        }
        pause(20_000).await;
    }
}

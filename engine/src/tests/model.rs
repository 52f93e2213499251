//! What a client knows of an engine's past, and random lives of an engine that are checked against it. The same lives run
//! on real files and on the simulated backend.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::kit::*;
use crate::Engine;
use crate::api::*;

/// xorshift: a seed gives the same life again.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| {
            dice.roll(2);
        });
        dice
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// A partition as its client knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Offsets that were acknowledged or read, and what stands there: never to change.
    pub tags: BTreeMap<Offset, u64>,
    pub log_start: Offset,
}

/// Everything a client knows. Tags up to `next_tag` were sent, no others may ever be read.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub partitions: BTreeMap<u32, Known>,
    pub next_tag: u64,
    pub epoch: i32,
}

pub type SharedModel = Rc<RefCell<Model>>;

/// How large things are.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub partitions: u32,
    pub segment_bytes: u64,
    pub steps: u64,
    pub batch_bytes_max: u64,
    /// Most appends under way at a time.
    pub burst: u64,
}

pub fn partition_config(scale: &Scale) -> PartitionConfig {
    PartitionConfig {
        segment_bytes: scale.segment_bytes,
        max_batch_bytes: 64 << 20,
        retention_ms: None,
        file_delete_delay_ms: 0,
        timestamp_after_max_ms: i64::MAX,
        ..PartitionConfig::default()
    }
}

/// Checks all that is known, and learns what is there beyond it.
pub async fn check(engine: &Engine, model: &SharedModel, read_bytes: u32) {
    let partitions: Vec<u32> = model.borrow().partitions.keys().copied().collect();
    let listed = engine.list().await;
    for index in partitions {
        assert!(
            listed.contains(&partition(index)),
            "partition {index} is gone"
        );
        let info = engine
            .describe(vec![partition(index)])
            .await
            .pop()
            .expect("one")
            .expect("known");
        let known = model.borrow().partitions[&index].clone();
        assert!(
            info.log_start >= known.log_start,
            "a log start that went back: {info:?}"
        );
        if let Some((last, _)) = known.tags.last_key_value() {
            assert!(
                info.high_watermark > *last,
                "partition {index}: acknowledged {last}, there is {info:?}"
            );
        }
        assert_eq!(info.high_watermark, info.log_end, "nothing is under way");
        let tags = read_tags(engine, partition(index), info.log_start, read_bytes).await;
        assert_eq!(tags.len() as i64, info.high_watermark - info.log_start);
        for (offset, tag) in (info.log_start..).zip(tags) {
            match known.tags.get(&offset) {
                Some(known) => assert_eq!(*known, tag, "partition {index} offset {offset}"),
                None => assert!(
                    tag < model.borrow().next_tag,
                    "partition {index} offset {offset}: {tag} was never sent"
                ),
            }
            model
                .borrow_mut()
                .partitions
                .get_mut(&index)
                .expect("known")
                .tags
                .insert(offset, tag);
        }
        model
            .borrow_mut()
            .partitions
            .get_mut(&index)
            .expect("known")
            .log_start = info.log_start;
        let epoch = model.borrow().epoch;
        assert!(info.leader_epoch >= epoch);
        model.borrow_mut().epoch = info.leader_epoch;
    }
}

/// Lives: creates, appends in bursts, deletes records. What is acknowledged goes into the model at once.
pub async fn live(engine: &Engine, model: &SharedModel, scale: Scale, dice: &mut Dice) {
    for _ in 0..scale.steps {
        let index = dice.roll(u64::from(scale.partitions)) as u32;
        if !model.borrow().partitions.contains_key(&index) {
            let created = engine
                .create(vec![(partition(index), partition_config(&scale))])
                .await;
            assert_eq!(created, [Ok(())]);
            model
                .borrow_mut()
                .partitions
                .insert(index, Known::default());
        }
        match dice.roll(40) {
            0 => {
                let end = model.borrow().partitions[&index]
                    .tags
                    .last_key_value()
                    .map_or(0, |(last, _)| last + 1);
                let before = dice.roll(end as u64 + 1) as i64;
                // A log start that was asked for may be there after a crash, acknowledged or not.
                let result = engine
                    .delete_records(vec![(partition(index), before)])
                    .await
                    .pop()
                    .expect("one");
                let log_start = result.expect("within the log");
                assert!(log_start >= before);
                model
                    .borrow_mut()
                    .partitions
                    .get_mut(&index)
                    .expect("known")
                    .log_start = log_start;
            }
            _ => burst(engine, model, scale, dice).await,
        }
    }
}

async fn burst(engine: &Engine, model: &SharedModel, scale: Scale, dice: &mut Dice) {
    let mut under_way = Vec::new();
    let known: Vec<u32> = model.borrow().partitions.keys().copied().collect();
    let focus = dice.roll(2) == 0;
    let first = known[dice.roll(known.len() as u64) as usize];
    for _ in 0..1 + dice.roll(scale.burst) {
        let index = if focus {
            first
        } else {
            known[dice.roll(known.len() as u64) as usize]
        };
        let tag = model.borrow().next_tag;
        model.borrow_mut().next_tag += 1;
        let count = 1 + dice.roll(3) as usize;
        let bytes = match dice.roll(4) {
            0 => dice.roll(scale.batch_bytes_max),
            1 => dice.roll(200),
            _ => dice.roll(scale.batch_bytes_max / 8 + 1),
        };
        let appended = engine.append(vec![append_of(
            partition(index),
            batch(tag, count, bytes as usize / count),
        )]);
        under_way.push((index, tag, count, appended));
    }
    for (index, tag, count, appended) in under_way {
        let appended = match appended.await.pop().expect("one answer") {
            Ok(appended) => appended,
            Err(AppendError::Overloaded) => continue,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            appended.last_offset - appended.base_offset + 1,
            count as i64
        );
        let mut model = model.borrow_mut();
        let known = model.partitions.get_mut(&index).expect("known");
        for offset in appended.base_offset..=appended.last_offset {
            assert_eq!(
                known.tags.insert(offset, tag),
                None,
                "offset {offset} was given twice"
            );
        }
    }
}

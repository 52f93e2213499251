use proptest::prelude::*;
use std::collections::VecDeque;

use super::*;
use crate::batch::HeaderFields;

fn header(producer_id: i64, epoch: i16, sequence: i32, records: i32) -> BatchHeader {
    BatchHeader::from(HeaderFields {
        base_offset: 0,
        batch_length: 0,
        leader_epoch: -1,
        crc: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 0,
        max_timestamp: 1000 + i64::from(sequence),
        producer_id,
        producer_epoch: epoch,
        base_sequence: sequence,
        records_count: records,
    })
}

fn append(producers: &mut Producers, header: &BatchHeader, offset: Offset) {
    assert_eq!(producers.check(header), Verdict::Append);
    producers.apply(header, offset, 0);
}

fn out_of_order(expected: i32, sequence: i32) -> Verdict {
    Verdict::Refused(Refusal::OutOfOrderSequence { expected, sequence })
}

#[test]
fn no_producer_no_state() {
    let mut producers = Producers::new();
    for _ in 0..3 {
        append(&mut producers, &header(-1, -1, -1, 5), 0);
    }
    assert!(producers.is_empty());
}

#[test]
fn a_first_batch_that_found_no_room_comes_first_nevertheless() {
    let mut producers = Producers::new();
    producers.turn_away(&header(7, 0, 0, 3));
    assert_eq!(producers.check(&header(7, 0, 3, 2)), out_of_order(0, 3));
    assert_eq!(producers.check(&header(8, 0, 3, 2)), Verdict::Append);
    // Another epoch is another beginning.
    assert_eq!(producers.check(&header(7, 1, 5, 2)), Verdict::Append);
    append(&mut producers, &header(7, 0, 0, 3), 100);
    append(&mut producers, &header(7, 0, 3, 2), 103);
    // Of a known producer a refusal leaves nothing behind.
    producers.turn_away(&header(7, 0, 5, 1));
    append(&mut producers, &header(7, 0, 5, 1), 105);
    for id in 100..100 + 2 * TURNED_AWAY_MAX as i64 {
        producers.turn_away(&header(id, 0, 0, 1));
    }
    assert_eq!(producers.turned_away.len(), TURNED_AWAY_MAX);
    assert_eq!(producers.check(&header(100, 0, 1, 1)), Verdict::Append);
}

#[test]
fn gaps_and_repetitions() {
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 0, 0, 3), 100);
    assert_eq!(producers.check(&header(7, 0, 4, 1)), out_of_order(3, 4));
    // A refusal moves nothing.
    append(&mut producers, &header(7, 0, 3, 2), 110);
    let duplicate = |base_offset, last_offset, timestamp_ms| Verdict::Duplicate {
        base_offset,
        last_offset,
        timestamp_ms,
    };
    assert_eq!(
        producers.check(&header(7, 0, 0, 3)),
        duplicate(100, 102, 1000)
    );
    assert_eq!(
        producers.check(&header(7, 0, 3, 2)),
        duplicate(110, 111, 1003)
    );
    // Only exactly the same batch is the same.
    assert_eq!(producers.check(&header(7, 0, 3, 1)), out_of_order(5, 3));
    assert_eq!(producers.check(&header(7, 0, 0, 5)), out_of_order(5, 0));
    for sequence in 5..10 {
        append(
            &mut producers,
            &header(7, 0, sequence, 1),
            200 + i64::from(sequence),
        );
    }
    // Six batches later it is forgotten.
    assert_eq!(producers.check(&header(7, 0, 3, 2)), out_of_order(10, 3));
    assert_eq!(
        producers.check(&header(7, 0, 5, 1)),
        duplicate(205, 205, 1005)
    );
}

#[test]
fn an_unknown_producer_begins_where_it_likes() {
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 3, 4711, 2), 0);
    append(&mut producers, &header(7, 3, 4713, 2), 2);
    producers.expire(EXPIRATION_MS, EXPIRATION_MS);
    assert!(producers.is_empty());
    append(&mut producers, &header(7, 0, 99, 1), 4);
}

#[test]
fn epochs_fence() {
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 1, 0, 1), 0);
    assert_eq!(producers.check(&header(7, 2, 1, 1)), out_of_order(0, 1));
    append(&mut producers, &header(7, 2, 0, 1), 1);
    let fenced = Verdict::Refused(Refusal::InvalidProducerEpoch {
        current: 2,
        epoch: 1,
    });
    assert_eq!(producers.check(&header(7, 1, 0, 1)), fenced);
    assert_eq!(producers.check(&header(7, 1, 1, 1)), fenced);
    append(&mut producers, &header(7, 2, 1, 1), 2);
}

#[test]
fn sequences_wrap() {
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 0, i32::MAX - 2, 2), 0);
    assert_eq!(
        producers.check(&header(7, 0, 0, 1)),
        out_of_order(i32::MAX, 0)
    );
    // Across the end, in the middle of a batch.
    append(&mut producers, &header(7, 0, i32::MAX, 3), 2);
    let again = producers.check(&header(7, 0, i32::MAX, 3));
    assert!(matches!(
        again,
        Verdict::Duplicate {
            base_offset: 2,
            last_offset: 4,
            ..
        }
    ));
    append(&mut producers, &header(7, 0, 2, 1), 5);
    // And exactly at the end.
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 0, i32::MAX - 1, 2), 0);
    append(&mut producers, &header(7, 0, 0, 1), 2);
}

#[test]
fn expiry_counts_silence_by_the_brokers_clock() {
    let mut producers = Producers::new();
    producers.apply(&header(1, 0, 0, 1), 0, 1_000);
    producers.apply(&header(2, 0, 0, 1), 1, 5_000);
    producers.apply(&header(1, 0, 1, 1), 2, 4_000);
    producers.expire(8_999, 5_000);
    assert_eq!(producers.len(), 2);
    producers.expire(9_000, 5_000);
    assert_eq!(
        producers
            .snapshot()
            .map(|producer| producer.producer_id)
            .collect::<Vec<_>>(),
        [2]
    );
    // A clock that was set back expires nobody.
    producers.expire(i64::MIN, 5_000);
    assert_eq!(producers.len(), 1);
}

#[test]
fn the_number_of_producers_is_bounded_and_the_silent_go_first() {
    let mut producers = Producers::new();
    let steady = i64::MAX;
    for id in 0..(3 * PRODUCERS_MAX as i64) {
        producers.apply(&header(steady, 0, id as i32, 1), 2 * id, id);
        producers.apply(&header(id, 0, 0, 1), 2 * id + 1, id);
        assert!(producers.len() <= PRODUCERS_MAX);
    }
    assert!(producers.len() > PRODUCERS_MAX - EVICTED_AT_ONCE - 1);
    let ids: Vec<i64> = producers
        .snapshot()
        .map(|producer| producer.producer_id)
        .collect();
    assert!(ids.contains(&steady));
    let oldest = ids[0];
    assert!(
        ids[..ids.len() - 1]
            .iter()
            .copied()
            .eq(oldest..3 * PRODUCERS_MAX as i64)
    );
}

#[test]
fn truncation_forgets_what_was_cut() {
    let mut producers = Producers::new();
    append(&mut producers, &header(7, 0, 0, 10), 0);
    append(&mut producers, &header(7, 0, 10, 10), 10);
    append(&mut producers, &header(8, 0, 0, 1), 20);
    producers.truncate_to(20);
    assert_eq!(producers.len(), 1);
    producers.truncate_to(19);
    append(&mut producers, &header(7, 0, 10, 10), 10);
    producers.truncate_to(0);
    assert!(producers.is_empty());
}

#[test]
fn a_run_is_all_or_nothing() {
    let mut producers = Producers::new();
    let run = [
        header(7, 0, 0, 2),
        header(-1, -1, -1, 1),
        header(7, 0, 2, 1),
        header(8, 0, 5, 1),
    ];
    assert_eq!(producers.check_run(&run), Verdict::Append);
    assert!(producers.is_empty());
    let gap = [header(7, 0, 0, 2), header(7, 0, 3, 1)];
    assert_eq!(producers.check_run(&gap), out_of_order(2, 3));
    for (header, offset) in run.iter().zip([0, 2, 3, 4]) {
        producers.apply(header, offset, 0);
    }
    let again = [header(7, 0, 0, 2), header(7, 0, 2, 1)];
    let duplicate = Verdict::Duplicate {
        base_offset: 0,
        last_offset: 3,
        timestamp_ms: 1002,
    };
    assert_eq!(producers.check_run(&again), duplicate);
    let mixed = [header(7, 0, 2, 1), header(7, 0, 3, 1)];
    assert!(matches!(producers.check_run(&mixed), Verdict::Refused(_)));
    let twice = [header(7, 0, 3, 1), header(7, 0, 3, 1)];
    assert!(matches!(producers.check_run(&twice), Verdict::Refused(_)));
    assert_eq!(producers.check_run(&[]), Verdict::Append);
}

#[test]
fn impossible_snapshots_are_refused() {
    let good = ProducerSnapshot {
        producer_id: 1,
        epoch: 0,
        last_seen_ms: 0,
        batches: vec![
            ProducerBatch {
                first_sequence: 0,
                last_sequence: 4,
                base_offset: 0,
                timestamp_ms: 0,
            },
            ProducerBatch {
                first_sequence: 5,
                last_sequence: 5,
                base_offset: 5,
                timestamp_ms: 0,
            },
        ],
    };
    assert!(Producers::restore([good.clone()]).is_ok());
    type Bend = fn(&mut ProducerSnapshot);
    let bends: [Bend; 6] = [
        |s| s.producer_id = -1,
        |s| s.epoch = -1,
        |s| s.batches[0].first_sequence = -1,
        |s| s.batches[1].base_offset = 4,
        |s| s.batches[0].base_offset = -1,
        |s| s.batches = vec![s.batches[0]; 6],
    ];
    for (at, bend) in bends.iter().enumerate() {
        let mut bad = good.clone();
        bend(&mut bad);
        assert!(Producers::restore([bad]).is_err(), "bend {at}");
    }
    assert!(Producers::restore([good.clone(), good]).is_err());
}

/// Apache Kafka's rules written down a second time, plainly: every batch ever taken, by producer.
#[derive(Default)]
struct Model {
    epoch: Option<i16>,
    batches: VecDeque<(i32, i32, Offset)>,
}

impl Model {
    fn check(&self, epoch: i16, first: i32, last: i32) -> Verdict {
        let Some(current) = self.epoch else {
            return Verdict::Append;
        };
        if epoch < current {
            return Verdict::Refused(Refusal::InvalidProducerEpoch { current, epoch });
        }
        let newest_five = self.batches.iter().rev().take(5);
        for (known_first, known_last, offset) in newest_five {
            if epoch == current && (*known_first, *known_last) == (first, last) {
                let records = (i64::from(last) - i64::from(first)).rem_euclid(1 << 31);
                return Verdict::Duplicate {
                    base_offset: *offset,
                    last_offset: offset + records,
                    timestamp_ms: 1000 + i64::from(first),
                };
            }
        }
        let follows = match self.batches.back() {
            _ if epoch > current => 0,
            Some((_, i32::MAX, _)) => 0,
            Some((_, last, _)) => last + 1,
            None => 0,
        };
        if first == follows {
            Verdict::Append
        } else {
            out_of_order(follows, first)
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_plain_rules(
        steps in prop::collection::vec((0i64..3, 0i16..3, 0u8..6, 1i32..4), 1..120),
        start in prop_oneof![Just(0), Just(i32::MAX - 5)],
    ) {
        let mut producers = Producers::new();
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        let mut next_offset = 0;
        for (id, epoch, what, records) in steps {
            let model = models.entry(id).or_default();
            // Mostly what a client would send: the next batch, or one of the last ones again.
            let next = model.batches.back().map_or(start, |(_, last, _)| sequence_add(*last, 1));
            let epoch = if what == 0 { epoch } else { model.epoch.unwrap_or(epoch) };
            let (first, records) = match what {
                0 => (0, records),
                1 => (sequence_add(next, records), records),
                2 | 3 if !model.batches.is_empty() => {
                    let back = model.batches.len().min(records as usize * 2);
                    let (first, last, _) = model.batches[model.batches.len() - back];
                    (first, (last.wrapping_sub(first) & i32::MAX) + 1)
                }
                _ => (next, records),
            };
            let header = header(id, epoch, first, records);
            let expected = model.check(epoch, first, header.last_sequence());
            let before = producers.clone();
            prop_assert_eq!(producers.check(&header), expected);
            prop_assert_eq!(producers.check_run([&header]), expected);
            prop_assert_eq!(&producers, &before);
            if expected == Verdict::Append {
                producers.apply(&header, next_offset, 0);
                if model.epoch != Some(epoch) {
                    *model = Model { epoch: Some(epoch), batches: VecDeque::new() };
                }
                model.batches.push_back((first, header.last_sequence(), next_offset));
                // Replayed, it changes nothing.
                let once = producers.clone();
                producers.apply(&header, next_offset, 0);
                prop_assert_eq!(&producers, &once);
                next_offset += i64::from(records);
            }
            let restored = Producers::restore(producers.snapshot());
            prop_assert_eq!(restored.as_ref(), Ok(&producers));
        }
    }
}

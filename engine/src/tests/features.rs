//! One test for each promise beside durability: who sees what, producers, time, retention, deletion, waiting.

use std::time::Duration;

use super::kit::*;
use crate::Engine;
use crate::api::*;
use crate::batch::Codec;
use crate::records::Producer;

async fn create(engine: &Engine, index: u32, config: PartitionConfig) {
    assert_eq!(
        engine.create(vec![(partition(index), config)]).await,
        [Ok(())]
    );
}

fn test_config() -> PartitionConfig {
    PartitionConfig {
        retention_ms: None,
        file_delete_delay_ms: 0,
        timestamp_after_max_ms: i64::MAX,
        max_batch_bytes: 1 << 20,
        ..PartitionConfig::default()
    }
}

async fn offset(engine: &Engine, query: OffsetQuery) -> OffsetAnswer {
    engine
        .offsets(vec![(partition(0), query, Isolation::HighWatermark)])
        .await
        .pop()
        .expect("one")
        .expect("known")
}

fn run(body: impl AsyncFnOnce(Engine)) {
    let dir = tempfile::tempdir().expect("a directory");
    with_engine(
        &config(dir.path()),
        |engine| async move { body(engine).await },
    );
}

#[test]
fn a_batch_larger_than_what_may_be_pending_is_taken_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EngineConfig {
        unflushed_max_bytes: 256 << 10,
        ..config(dir.path())
    };
    with_engine(&config, |engine| async move {
        create(&engine, 0, test_config()).await;
        for tag in 0..3 {
            let appended = append(&engine, partition(0), batch(tag, 1, 500_000)).await;
            assert_eq!(appended.expect("appended").base_offset, tag as i64);
        }
        // Together they are too much, and each of them comes through at last.
        let both = engine
            .append(vec![
                append_of(partition(0), batch(3, 1, 500_000)),
                append_of(partition(0), batch(4, 1, 500_000)),
            ])
            .await;
        assert_eq!(both[0].as_ref().expect("the first").base_offset, 3);
        assert_eq!(both[1], Err(AppendError::Overloaded));
        assert_eq!(
            read_tags(&engine, partition(0), 0, 1000).await,
            [0, 1, 2, 3]
        );
    });
}

#[test]
fn nobody_sees_what_is_not_durable() {
    run(async |engine| {
        create(&engine, 0, test_config()).await;
        let appended = engine.append(vec![append_of(partition(0), batch(1, 4, 50))]);
        // The append has its offsets, but its group has not been written: nothing was polled yet.
        let request = ReadRequest {
            partition: partition(0),
            offset: 0,
            max_bytes: 1000,
            at_least_one: true,
            isolation: Isolation::HighWatermark,
            leader_epoch: None,
        };
        let early = engine
            .read(vec![request])
            .await
            .pop()
            .expect("one")
            .expect("in range");
        assert_eq!((early.bytes, early.high_watermark), (0, 0));
        assert_eq!(
            engine.describe(vec![partition(0)]).await[0]
                .as_ref()
                .expect("known")
                .log_end,
            4
        );
        assert_eq!(appended.await[0].as_ref().expect("appended").last_offset, 3);
        assert_eq!(read_tags(&engine, partition(0), 0, 1000).await.len(), 4);
        let beyond = engine
            .read(vec![ReadRequest {
                offset: 5,
                ..request
            }])
            .await
            .pop()
            .expect("one");
        assert_eq!(
            beyond.unwrap_err(),
            ReadError::OffsetOutOfRange {
                log_start: 0,
                high_watermark: 4
            }
        );
        let newer = engine
            .read(vec![ReadRequest {
                leader_epoch: Some(1),
                ..request
            }])
            .await
            .pop()
            .expect("one");
        assert_eq!(
            newer.unwrap_err(),
            ReadError::UnknownLeaderEpoch { current: 0 }
        );
    });
}

#[test]
fn a_producers_batch_is_appended_once_also_across_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let sequenced = |sequence| {
        let producer = Producer {
            id: 7,
            epoch: 0,
            base_sequence: sequence,
        };
        build(sequence as u64, 2, 50, Some(producer), Codec::None)
    };
    for clean in [true, false] {
        let dir = dir.path().join(clean.to_string());
        with_engine(&config(&dir), |engine| async move {
            create(&engine, 0, test_config()).await;
            // Two of the same under way: both are answered, with the same offsets, when it is durable.
            let twice = engine.append(vec![
                append_of(partition(0), sequenced(0)),
                append_of(partition(0), sequenced(0)),
                append_of(partition(0), sequenced(4)),
                append_of(partition(0), sequenced(2)),
            ]);
            let answers = twice.await;
            let (first, again) = (
                answers[0].as_ref().expect("new"),
                answers[1].as_ref().expect("known"),
            );
            assert_eq!(
                (first.base_offset, first.last_offset, first.duplicate),
                (0, 1, false)
            );
            assert_eq!(
                (again.base_offset, again.last_offset, again.duplicate),
                (0, 1, true)
            );
            // The refused one moved nothing.
            assert_eq!(
                answers[2],
                Err(AppendError::OutOfOrderSequence {
                    expected: 2,
                    sequence: 4
                })
            );
            assert_eq!(answers[3].as_ref().expect("new").base_offset, 2);
            if clean {
                engine.shutdown().await;
            }
        });
        with_engine(&config(&dir), |engine| async move {
            let again = append(&engine, partition(0), sequenced(2))
                .await
                .expect("known");
            assert!(again.duplicate && again.base_offset == 2);
            assert!(matches!(
                append(&engine, partition(0), sequenced(6)).await,
                Err(AppendError::OutOfOrderSequence {
                    expected: 4,
                    sequence: 6
                })
            ));
            assert_eq!(
                append(&engine, partition(0), sequenced(4))
                    .await
                    .expect("new")
                    .base_offset,
                4
            );
        });
    }
}

#[test]
fn offsets_are_found_by_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let time = |tag: i64| 1_700_000_000_000 + tag;
    with_engine(&config, |engine| async move {
        create(
            &engine,
            0,
            PartitionConfig {
                segment_bytes: 200_000,
                ..test_config()
            },
        )
        .await;
        assert_eq!(offset(&engine, OffsetQuery::MaxTimestamp).await.offset, -1);
        for tag in 0..300 {
            append(&engine, partition(0), batch(tag * 10, 2, 2000))
                .await
                .expect("appended");
        }
        engine.shutdown().await;
    });
    with_engine(&config, |engine| async move {
        assert_eq!(offset(&engine, OffsetQuery::Earliest).await.offset, 0);
        assert_eq!(offset(&engine, OffsetQuery::Latest).await.offset, 600);
        for (asked, expected) in [
            (-5, 0),
            (0, 0),
            (1, 1),
            (995, 100),
            (1000, 100),
            (2990, 299),
        ] {
            let found = offset(&engine, OffsetQuery::ByTime(time(asked))).await;
            assert_eq!(
                (found.offset, found.timestamp_ms),
                (expected * 2, time(expected * 10)),
                "time {asked}"
            );
        }
        assert_eq!(
            offset(&engine, OffsetQuery::ByTime(time(2991)))
                .await
                .offset,
            -1
        );
        let newest = offset(&engine, OffsetQuery::MaxTimestamp).await;
        assert_eq!((newest.offset, newest.timestamp_ms), (598, time(2990)));
        assert_eq!(offset(&engine, OffsetQuery::EpochEnd(0)).await.offset, 600);
        assert_eq!(offset(&engine, OffsetQuery::EpochEnd(1)).await.offset, -1);
    });
}

#[test]
fn the_oldest_segments_go_and_their_files_with_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EngineConfig {
        retention_check_interval_ms: 20,
        ..config(dir.path())
    };
    let files = || {
        let name = crate::layout::paths::DataPath::Partition(partition(0).id).below(dir.path());
        std::fs::read_dir(name).map_or(0, |entries| entries.count())
    };
    with_engine(&config, |engine| async move {
        let partition_config = PartitionConfig {
            segment_bytes: 100_000,
            retention_bytes: Some(250_000),
            ..test_config()
        };
        create(&engine, 0, partition_config.clone()).await;
        for tag in 0..100 {
            append(&engine, partition(0), batch(tag, 1, 9000))
                .await
                .expect("appended");
        }
        let (mut log_start, mut segments) = (0, 100);
        while log_start == 0 || segments > 4 {
            trireme_runtime::sleep(Duration::from_millis(5)).await;
            let info = engine
                .describe(vec![partition(0)])
                .await
                .pop()
                .expect("one")
                .expect("known");
            (log_start, segments) = (info.log_start, info.segments);
            assert!(info.size_bytes >= 250_000);
        }
        let tags = read_tags(&engine, partition(0), log_start, 50_000).await;
        assert_eq!(tags, (log_start as u64..100).collect::<Vec<_>>());
        // And by request, to the end: the newest segment goes too.
        assert_eq!(
            engine.delete_records(vec![(partition(0), -1)]).await,
            [Ok(100)]
        );
        assert_eq!(
            append(&engine, partition(0), batch(100, 1, 100))
                .await
                .expect("appended")
                .base_offset,
            100
        );
        engine.shutdown().await;
    });
    with_engine(&config, |engine| async move {
        engine.configure(vec![(partition(0), test_config())]).await;
        assert_eq!(read_tags(&engine, partition(0), 100, 1000).await, [100]);
        while files() > 4 {
            trireme_runtime::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(engine.delete(vec![partition(0)]).await, [Ok(())]);
        assert_eq!(engine.list().await, []);
        assert!(matches!(
            append(&engine, partition(0), batch(1, 1, 1)).await,
            Err(AppendError::UnknownPartition)
        ));
        while files() > 0 {
            trireme_runtime::sleep(Duration::from_millis(5)).await;
        }
    });
    with_engine(&config, |engine| async move {
        assert_eq!(engine.list().await, [])
    });
}

#[test]
fn a_reader_waits_for_bytes_and_hears_of_a_deletion() {
    run(async |engine| {
        create(&engine, 0, test_config()).await;
        create(&engine, 1, test_config()).await;
        let far = trireme_runtime::now() + Duration::from_secs(3600);
        let waiter = |min_bytes| {
            let engine = engine.clone();
            trireme_runtime::spawn(async move {
                let positions = vec![(partition(0), 0), (partition(1), 0)];
                engine.wait_readable(positions, min_bytes, far).await;
            })
        };
        let (one, many) = (waiter(1), waiter(600));
        append(&engine, partition(1), batch(1, 1, 100))
            .await
            .expect("appended");
        one.await;
        assert!(!many.is_finished());
        append(&engine, partition(0), batch(2, 1, 700))
            .await
            .expect("appended");
        many.await;
        let gone = waiter(1_000_000);
        trireme_runtime::yield_now().await;
        engine.delete(vec![partition(1)]).await;
        gone.await;
        // And nobody is left behind: a deadline that is over is over.
        engine
            .wait_readable(vec![(partition(0), 1)], 1, trireme_runtime::now())
            .await;
    });
}

#[test]
fn what_does_not_fit_the_configuration_is_refused_and_moves_nothing() {
    run(async |engine| {
        let config = PartitionConfig {
            max_batch_bytes: 1000,
            timestamp_after_max_ms: 1000,
            ..test_config()
        };
        create(
            &engine,
            0,
            PartitionConfig {
                timestamp_before_max_ms: 1000,
                ..config.clone()
            },
        )
        .await;
        assert!(matches!(
            append(&engine, partition(0), batch(1, 1, 2000)).await,
            Err(AppendError::BatchTooLarge { .. })
        ));
        assert!(matches!(
            append(&engine, partition(0), batch(1, 1, 100)).await,
            Err(AppendError::InvalidTimestamp { .. })
        ));
        assert!(matches!(
            append(&engine, partition(0), bytes::Bytes::new()).await,
            Err(AppendError::Invalid(_))
        ));
        assert!(matches!(
            append(&engine, partition(9), batch(1, 1, 100)).await,
            Err(AppendError::UnknownPartition)
        ));
        let stamped = PartitionConfig {
            timestamps: TimestampType::LogAppendTime,
            ..config
        };
        assert_eq!(
            engine.configure(vec![(partition(0), stamped)]).await,
            [Ok(())]
        );
        let appended = append(&engine, partition(0), batch(1, 1, 100))
            .await
            .expect("appended");
        assert_eq!(appended.base_offset, 0);
        assert!(appended.log_append_time_ms > 1_700_000_000_000);
        assert_eq!(
            offset(&engine, OffsetQuery::MaxTimestamp)
                .await
                .timestamp_ms,
            appended.log_append_time_ms
        );
        assert_eq!(read_tags(&engine, partition(0), 0, 1000).await, [1]);
    });
}

#[test]
fn a_thousand_partitions_are_created_with_few_syncs_and_no_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let partitions = dir.path().join("partitions");
    with_engine(&config(dir.path()), |engine| async move {
        let before = engine.stats();
        let all: Vec<_> = (0..1000)
            .map(|index| (partition(index), test_config()))
            .collect();
        assert!(
            engine
                .create(all)
                .await
                .iter()
                .all(|created| *created == Ok(()))
        );
        let appends = (0..1000)
            .map(|index| append_of(partition(index), batch(index.into(), 1, 100)))
            .collect();
        assert!(
            engine
                .append(appends)
                .await
                .iter()
                .all(|appended| appended.is_ok())
        );
        let after = engine.stats();
        assert!(
            after.groups - before.groups < 6,
            "{} groups",
            after.groups - before.groups
        );
        assert_eq!(
            std::fs::read_dir(&partitions).expect("it is there").count(),
            0
        );
    });
    with_engine(&config(dir.path()), |engine| async move {
        for index in [0, 1, 500, 999] {
            assert_eq!(
                read_tags(&engine, partition(index), 0, 1000).await,
                [u64::from(index)]
            );
        }
    });
}

#[test]
fn damage_in_a_segment_is_not_handed_out() {
    let dir = tempfile::tempdir().expect("a directory");
    with_engine(&config(dir.path()), |engine| async move {
        create(&engine, 0, test_config()).await;
        for tag in 0..40 {
            append(&engine, partition(0), batch(tag, 1, 5000))
                .await
                .expect("appended");
        }
        engine.shutdown().await;
    });
    let path = crate::layout::paths::DataPath::Segment {
        partition: partition(0).id,
        base_offset: 0,
        file: crate::layout::paths::SegmentFile::Log,
    };
    let path = path.below(dir.path());
    let mut bytes = std::fs::read(&path).expect("a segment");
    bytes[100_000] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    with_engine(&config(dir.path()), |engine| async move {
        let read = async |offset| {
            let request = ReadRequest {
                partition: partition(0),
                offset,
                max_bytes: 10_000,
                at_least_one: true,
                isolation: Isolation::HighWatermark,
                leader_epoch: None,
            };
            engine.read(vec![request]).await.pop().expect("one")
        };
        assert!(read(0).await.is_ok() && read(39).await.is_ok());
        assert!(matches!(
            read(19).await,
            Err(ReadError::Damaged {
                position: 98_304,
                ..
            })
        ));
    });
}

#[test]
fn a_full_disk_refuses_clients_and_lets_go_on_what_makes_space() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    with_engine(&config, |engine| async move {
        create(&engine, 0, test_config()).await;
        append(&engine, partition(0), batch(0, 1, 1000))
            .await
            .expect("there is space");
        engine.shutdown().await;
    });
    // More than any disk has.
    let config = EngineConfig {
        reserve_bytes: 1 << 60,
        ..config
    };
    with_engine(&config, |engine| async move {
        while append(&engine, partition(0), batch(1, 1, 1000)).await
            != Err(AppendError::StorageFull)
        {
            trireme_runtime::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            read_tags(&engine, partition(0), 0, 100_000)
                .await
                .contains(&0)
        );
        let allowed = Append {
            may_use_reserve: true,
            ..append_of(partition(0), batch(2, 1, 1000))
        };
        let appended = engine.append(vec![allowed]).await.pop().expect("one");
        let offset = appended.expect("it may use the reserve").base_offset;
        assert_eq!(read_tags(&engine, partition(0), offset, 100_000).await, [2]);
        assert_eq!(
            engine.delete_records(vec![(partition(0), -1)]).await,
            [Ok(offset + 1)]
        );
        assert_eq!(engine.delete(vec![partition(0)]).await, [Ok(())]);
    });
}

#[test]
fn a_sealed_segment_keeps_its_length_when_the_room_for_a_run_comes_late() {
    let dir = tempfile::tempdir().expect("a directory");
    let length = || {
        let path = crate::layout::paths::DataPath::Segment {
            partition: partition(0).id,
            base_offset: 0,
            file: crate::layout::paths::SegmentFile::Log,
        }
        .below(dir.path());
        std::fs::metadata(path).map_or(0, |file| file.len())
    };
    with_engine(&config(dir.path()), |engine| async move {
        let small = PartitionConfig {
            segment_bytes: 20_000,
            ..test_config()
        };
        create(&engine, 0, small).await;
        let mut bytes = 0;
        for tag in 0..2 {
            let batch = batch(tag, 1, 15_000);
            bytes = batch.len() as u64;
            append(&engine, partition(0), batch)
                .await
                .expect("appended");
        }
        while length() != bytes {
            trireme_runtime::sleep(Duration::from_millis(5)).await;
        }
        engine.place(partition(0), 0, 20_000).await;
        assert_eq!(length(), bytes);
    });
}

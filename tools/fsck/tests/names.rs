//! A start removes partitions that no topic names. So a repair that cannot keep all of the metadata has to name what lost its
//! name: nothing that can be trusted may be removed for that.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a test, not the broker

mod engine;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use engine::{append, batch, config, served, with_engine};
use trireme_engine::{Engine, PartitionConfig, PartitionRef};
use trireme_fsck::Options;
use trireme_fsck::repair::{Ending, repair};
use trireme_replication::{Metadata, MetadataOptions, NewTopic, metadata_partition_id};
use trireme_runtime::service;

async fn metadata(engine: &Engine, shards: u16) -> Metadata {
    let options = MetadataOptions {
        node_id: 1,
        broker_defaults: BTreeMap::new(),
        to_partition_config: |_, _| PartitionConfig::default(),
        shards,
    };
    let mail = service(1).pop().expect("one core");
    Metadata::open(engine.clone(), 0, 1, mail, options)
        .await
        .expect("it opens")
}

/// Topics with data; what is served of their partitions, and their names.
fn fill(dir: &Path, shards: u16) -> BTreeMap<PartitionRef, (String, engine::Served)> {
    with_engine(&config(dir, shards), |engine| async move {
        let metadata = metadata(&engine, shards).await;
        let mut names = BTreeMap::new();
        for number in 0..12u64 {
            let topic = NewTopic {
                name: format!("topic-{number}"),
                partitions: 3,
                configs: BTreeMap::new(),
            };
            let made = metadata.create_topics(vec![topic]).await;
            let made = made[0].clone().expect("made");
            for partition in &made.partitions {
                names.insert(*partition, made.name.to_string());
                append(&engine, *partition, batch(number, 2, 500, None)).await;
            }
            metadata.allocate_producer_ids(1000).await.expect("given");
        }
        let mut content = served(&engine).await;
        let of_topics = names
            .into_iter()
            .map(|(partition, name)| {
                (
                    partition,
                    (name, content.remove(&partition).expect("served")),
                )
            })
            .collect();
        engine.shutdown().await;
        of_topics
    })
}

fn metadata_log(dir: &Path) -> std::path::PathBuf {
    dir.join(format!(
        "partitions/{}/00000000000000000000.log",
        metadata_partition_id()
    ))
}

#[test]
fn what_lost_its_name_is_named_again() {
    for shards in [1, 2] {
        for what in ["flipped", "cut", "removed", "all removed"] {
            let dir = tempfile::tempdir().unwrap();
            let content = fill(dir.path(), shards);
            let log = metadata_log(dir.path());
            let bytes = fs::read(&log).unwrap();
            match what {
                "flipped" => {
                    let mut bytes = bytes;
                    let at = bytes.len() / 2;
                    bytes[at] ^= 1;
                    fs::write(&log, bytes).unwrap();
                }
                "cut" => fs::write(&log, &bytes[..bytes.len() / 3]).unwrap(),
                "removed" => fs::remove_file(&log).unwrap(),
                // And nobody knows how many shards there are, or whose the partitions are.
                _ => {
                    fs::remove_dir_all(log.parent().unwrap()).unwrap();
                    fs::remove_file(dir.path().join("format")).unwrap();
                    for shard in 0..shards {
                        for slot in 0..2 {
                            fs::remove_file(
                                dir.path().join(format!("wal/{shard:03}/checkpoint.{slot}")),
                            )
                            .unwrap();
                        }
                    }
                }
            }
            let outcome = repair(dir.path(), false, &Options::default()).expect("repaired");
            let case = format!("{shards} shards, metadata {what}: {outcome}");
            assert!(
                matches!(outcome.ending, Ending::Lost | Ending::Sound),
                "{case}"
            );
            let (now, named) = with_engine(&config(dir.path(), shards), |engine| async move {
                let metadata = metadata(&engine, shards).await;
                let image = metadata.image();
                let named: BTreeMap<PartitionRef, String> = image
                    .topics
                    .values()
                    .flat_map(|topic| {
                        topic
                            .partitions
                            .iter()
                            .map(|partition| (*partition, topic.name.to_string()))
                    })
                    .collect();
                let now = served(&engine).await;
                // Ids that were given are not given again.
                let id = metadata.allocate_producer_ids(1).await.expect("given");
                assert!(id >= 12_000, "producer id {id}");
                let more = NewTopic {
                    name: "one-more".to_owned(),
                    partitions: 1,
                    configs: BTreeMap::new(),
                };
                metadata.create_topics(vec![more]).await[0]
                    .as_ref()
                    .expect("made");
                engine.shutdown().await;
                (now, named)
            });
            let by_id: BTreeMap<_, _> = now
                .iter()
                .map(|(partition, served)| (partition.id, served))
                .collect();
            let named: BTreeMap<_, _> = named
                .iter()
                .map(|(partition, name)| (partition.id, name))
                .collect();
            for (partition, (name, served)) in &content {
                let found = by_id.get(&partition.id);
                assert!(found == Some(&served), "{case}: {partition:?} changed");
                let now = named
                    .get(&partition.id)
                    .unwrap_or_else(|| panic!("{case}: no name"));
                let recovered = format!("recovered-{}", partition.id.topic);
                assert!(*now == name || **now == recovered, "{case}: {now}");
            }
            if what == "flipped" {
                let kept = content
                    .iter()
                    .filter(|(partition, (name, _))| named[&partition.id] == name);
                assert!(
                    kept.count() >= content.len() - 3,
                    "{case}: one topic's record is gone, the others are not"
                );
            }
        }
    }
}

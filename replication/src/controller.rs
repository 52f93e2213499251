//! The one writer of cluster metadata, on core 0: a change is made in the engine, then recorded, then shown to every core.
//!
//! Order of a creation: partitions durable in the engine, topic record durable in the table, image on every core, answer.
//! Order of a deletion: tombstone durable, image on every core, partitions removed. A crash between two steps leaves
//! partitions without a topic; they are removed at the next start.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_engine::Engine;
use trireme_engine::api::{EngineError, PartitionConfig, PartitionId, PartitionRef, TopicId};
use trireme_engine::mutations::{Mutation as EngineMutation, on};
use trireme_engine::table::TABLE_BATCH_BYTES_MAX;
use trireme_engine::table_store::{Mutation, TableStore};
use trireme_runtime::mail::Service;
use trireme_runtime::random_bytes;
use trireme_runtime::sync::Semaphore;

use crate::codec::{Record, topic_key};
use crate::image::{
    GROUP_PARTITIONS, MetadataImage, Topic, group_partition_id, metadata_partition_id,
};
use crate::metadata::{ConfigChanges, ConfigTarget, MetadataError, MetadataOptions, NewTopic};
use crate::names::{check_topic_name, names_collide};

/// The core that the controller lives on.
pub(crate) const CORE: usize = 0;

/// Most partitions of one topic, and of this node: each costs memory, and a checkpoint entry, on its core.
pub const MAX_TOPIC_PARTITIONS: u32 = 100_000;
pub const MAX_NODE_PARTITIONS: u32 = 200_000;

/// Segments of internal partitions: small, since only the part behind the last snapshot is of use.
const INTERNAL_SEGMENT_BYTES: u64 = 16 << 20;
const INTERNAL_BATCH_BYTES_MAX: u32 = 2 * TABLE_BATCH_BYTES_MAX as u32;

/// What cores ask of the controller, and what it asks of them.
#[derive(Debug)]
pub enum ControllerRequest {
    CreateTopics(Vec<NewTopic>),
    DeleteTopics(Vec<TopicId>),
    CreatePartitions(TopicId, u32),
    SetConfigs(ConfigTarget, ConfigChanges),
    AllocateProducerIds(u32),
    /// From the controller: here is the next image.
    Install(Arc<MetadataImage>),
}

#[derive(Debug)]
pub enum ControllerReply {
    Topics(Vec<Result<Arc<Topic>, MetadataError>>),
    Done(Vec<Result<(), MetadataError>>),
    ProducerIds(Result<i64, MetadataError>),
    Installed,
}

pub(crate) struct Controller {
    engine: Engine,
    cores: usize,
    options: MetadataOptions,
    store: TableStore,
    image: RefCell<Arc<MetadataImage>>,
    next_producer_id: Cell<i64>,
    /// One change at a time: images leave in order.
    turn: Semaphore,
}

impl Controller {
    pub(crate) async fn open(
        engine: Engine,
        cores: usize,
        options: MetadataOptions,
    ) -> Result<Controller, MetadataError> {
        let home = PartitionRef {
            id: metadata_partition_id(),
            shard: 0,
        };
        create(&engine, vec![(home, internal_config())]).await?;
        let store = TableStore::open(engine.clone(), home).await?;
        let (mut image, next_producer_id) = replay(&store)?;

        let mut first = Vec::new();
        if image.cluster_id.is_empty() {
            image.cluster_id = random_cluster_id();
            image.node_id = options.node_id;
            first.push(Record::Cluster {
                cluster_id: image.cluster_id.clone(),
                node_id: image.node_id,
            });
        }
        if image.group_partitions.is_empty() {
            let homes: Vec<u16> = (0..GROUP_PARTITIONS)
                .map(|i| (i % u32::from(options.shards)) as u16)
                .collect();
            image.group_partitions = group_partitions(&homes);
            first.push(Record::GroupHomes(homes));
        }
        image.version = 1;

        let controller = Controller {
            engine,
            cores,
            options,
            store,
            image: RefCell::new(Arc::new(image)),
            next_producer_id: Cell::new(next_producer_id),
            turn: Semaphore::new(1),
        };
        controller.reconcile().await?;
        if !first.is_empty() {
            controller.record(first).await?;
        }
        Ok(controller)
    }

    pub(crate) fn image(&self) -> Arc<MetadataImage> {
        self.image.borrow().clone()
    }

    /// Makes the engine agree with the table: missing partitions are made, nameless ones removed, the others configured.
    async fn reconcile(&self) -> Result<(), MetadataError> {
        let image = self.image();
        let existing: BTreeSet<PartitionRef> = self.engine.list().await.into_iter().collect();
        let mut wanted: BTreeMap<PartitionRef, PartitionConfig> = BTreeMap::new();
        wanted.insert(
            PartitionRef {
                id: metadata_partition_id(),
                shard: 0,
            },
            internal_config(),
        );
        for home in &image.group_partitions {
            wanted.insert(*home, internal_config());
        }
        for topic in image.topics.values() {
            let config = self.partition_config(&image, &topic.configs);
            wanted.extend(topic.partitions.iter().map(|p| (*p, config.clone())));
        }
        let orphans: Vec<PartitionRef> = existing
            .iter()
            .filter(|p| !wanted.contains_key(p))
            .copied()
            .collect();
        let (present, missing): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(p, _)| existing.contains(p));
        if !orphans.is_empty() {
            tracing::info!(
                count = orphans.len(),
                "removing partitions of unfinished creations and deletions"
            );
            self.remove(orphans).await;
        }
        create(&self.engine, missing).await?;
        for result in self.engine.configure(present).await {
            result.map_err(storage)?;
        }
        Ok(())
    }

    /// Answers one change from any core.
    pub(crate) async fn execute(
        &self,
        request: ControllerRequest,
        mail: &Service<ControllerRequest, ControllerReply>,
    ) -> ControllerReply {
        let _turn = self.turn.acquire(1).await;
        match request {
            ControllerRequest::CreateTopics(topics) => {
                ControllerReply::Topics(self.create_topics(topics, mail).await)
            }
            ControllerRequest::DeleteTopics(ids) => {
                ControllerReply::Done(self.delete_topics(ids, mail).await)
            }
            ControllerRequest::CreatePartitions(id, total) => {
                ControllerReply::Topics(vec![self.create_partitions(id, total, mail).await])
            }
            ControllerRequest::SetConfigs(target, changes) => {
                ControllerReply::Done(vec![self.set_configs(target, changes, mail).await])
            }
            ControllerRequest::AllocateProducerIds(count) => {
                ControllerReply::ProducerIds(self.allocate_producer_ids(count).await)
            }
            ControllerRequest::Install(_) => {
                unreachable!("images are installed before they get here")
            }
        }
    }

    /// Shows the current image to every core; returns when all have it.
    pub(crate) async fn publish(&self, mail: &Service<ControllerRequest, ControllerReply>) {
        // The controller's own core installs at once when it opens, by mail afterwards; core 0's first image is set by the caller.
        let first = self.image().version == 1;
        let replies: Vec<_> = (0..self.cores)
            .filter(|core| !(first && *core == CORE))
            .map(|core| mail.call(core, ControllerRequest::Install(self.image())))
            .collect();
        for reply in replies {
            reply.await;
        }
    }

    async fn change(
        &self,
        mail: &Service<ControllerRequest, ControllerReply>,
        edit: impl FnOnce(&mut MetadataImage),
    ) {
        let mut image = (*self.image()).clone();
        edit(&mut image);
        image.version += 1;
        self.image.replace(Arc::new(image));
        self.publish(mail).await;
    }

    async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        mail: &Service<ControllerRequest, ControllerReply>,
    ) -> Vec<Result<Arc<Topic>, MetadataError>> {
        let image = self.image();
        let mut seen = BTreeSet::new();
        let mut total = image.partition_count();
        let mut next_shard = total;
        let planned: Vec<Result<Topic, MetadataError>> = topics
            .into_iter()
            .map(|new| {
                self.check_new(&image, &new, &seen, total as u32)?;
                seen.insert(new.name.clone());
                let id = random_topic_id();
                let partitions = (0..new.partitions)
                    .map(|index| PartitionRef {
                        id: PartitionId { topic: id, index },
                        shard: self.shard(&mut next_shard),
                    })
                    .collect();
                total += new.partitions as usize;
                Ok(Topic {
                    id,
                    name: new.name.into(),
                    partitions,
                    configs: new.configs,
                })
            })
            .collect();

        let good: Vec<&Topic> = planned.iter().flatten().collect();
        if good.is_empty() {
            return planned.into_iter().map(|t| t.map(Arc::new)).collect();
        }
        let partitions: Vec<_> = good
            .iter()
            .flat_map(|t| {
                let config = self.partition_config(&image, &t.configs);
                t.partitions.iter().map(move |p| (*p, config.clone()))
            })
            .collect();
        let homes: Vec<PartitionRef> = partitions.iter().map(|(p, _)| *p).collect();
        let records: Vec<Record> = good.iter().map(|t| Record::Topic((*t).clone())).collect();
        let done = match create(&self.engine, partitions).await {
            Ok(()) => self.record(records).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.remove(homes).await;
            return planned
                .into_iter()
                .map(|t| t.and_then(|_| Err(error.clone())))
                .collect();
        }
        self.change(mail, |image| {
            good.iter().for_each(|t| image.insert((*t).clone()))
        })
        .await;
        let image = self.image();
        planned
            .into_iter()
            .map(|t| t.map(|t| image.by_id[&t.id].clone()))
            .collect()
    }

    fn check_new(
        &self,
        image: &MetadataImage,
        new: &NewTopic,
        seen: &BTreeSet<String>,
        total: u32,
    ) -> Result<(), MetadataError> {
        check_topic_name(&new.name)?;
        if image.topic(&new.name).is_some() || seen.contains(&new.name) {
            return Err(MetadataError::TopicExists(new.name.clone()));
        }
        if new.name.contains(['.', '_'])
            && let Some(existing) = image
                .topics
                .keys()
                .map(|n| &**n)
                .chain(seen.iter().map(String::as_str))
                .find(|existing| names_collide(existing, &new.name))
        {
            return Err(MetadataError::Collision {
                name: new.name.clone(),
                existing: existing.to_owned(),
            });
        }
        check_partitions(new.partitions, total)
    }

    async fn delete_topics(
        &self,
        ids: Vec<TopicId>,
        mail: &Service<ControllerRequest, ControllerReply>,
    ) -> Vec<Result<(), MetadataError>> {
        let image = self.image();
        let mut gone = BTreeMap::new();
        let results: Vec<Result<(), MetadataError>> = ids
            .iter()
            .map(|id| {
                let topic = image.topic_by_id(id).ok_or(MetadataError::UnknownTopic)?;
                gone.insert(*id, topic.clone());
                Ok(())
            })
            .collect();
        if gone.is_empty() {
            return results;
        }
        let tombstones = gone
            .keys()
            .map(|id| Mutation {
                key: topic_key(id),
                value: None,
            })
            .collect();
        if !on(EngineMutation::DeletionNotRecorded)
            && let Err(error) = self.store.commit(tombstones).await
        {
            let error = MetadataError::from(error);
            return results
                .into_iter()
                .map(|r| r.and_then(|()| Err(error.clone())))
                .collect();
        }
        self.change(mail, |image| {
            gone.keys().for_each(|id| {
                image.remove(id);
            });
        })
        .await;
        self.remove(
            gone.values()
                .flat_map(|t| t.partitions.iter().copied())
                .collect(),
        )
        .await;
        results
    }

    async fn create_partitions(
        &self,
        id: TopicId,
        total: u32,
        mail: &Service<ControllerRequest, ControllerReply>,
    ) -> Result<Arc<Topic>, MetadataError> {
        let image = self.image();
        let mut topic = (**image.topic_by_id(&id).ok_or(MetadataError::UnknownTopic)?).clone();
        let current = topic.partitions.len() as u32;
        if total <= current {
            return Err(MetadataError::NotMorePartitions {
                current,
                asked: total,
            });
        }
        check_partitions(total, image.partition_count() as u32 - current)?;
        let mut next_shard = image.partition_count();
        let config = self.partition_config(&image, &topic.configs);
        let added: Vec<PartitionRef> = (current..total)
            .map(|index| PartitionRef {
                id: PartitionId { topic: id, index },
                shard: self.shard(&mut next_shard),
            })
            .collect();
        topic.partitions.extend(&added);
        let partitions = added.iter().map(|p| (*p, config.clone())).collect();
        let done = match create(&self.engine, partitions).await {
            Ok(()) => self.record(vec![Record::Topic(topic.clone())]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.remove(added).await;
            return Err(error);
        }
        self.change(mail, |image| image.insert(topic)).await;
        Ok(self.image().by_id[&id].clone())
    }

    async fn set_configs(
        &self,
        target: ConfigTarget,
        changes: ConfigChanges,
        mail: &Service<ControllerRequest, ControllerReply>,
    ) -> Result<(), MetadataError> {
        let mut image = (*self.image()).clone();
        let record = match target {
            ConfigTarget::Topic(id) => {
                let mut topic =
                    (**image.topic_by_id(&id).ok_or(MetadataError::UnknownTopic)?).clone();
                edit_configs(&mut topic.configs, changes);
                image.insert(topic.clone());
                Record::Topic(topic)
            }
            ConfigTarget::Broker => {
                edit_configs(&mut image.broker_configs, changes);
                Record::BrokerConfigs(image.broker_configs.clone())
            }
        };
        self.record(vec![record]).await?;
        let affected: Vec<_> = image
            .topics
            .values()
            .filter(|t| target == ConfigTarget::Broker || target == ConfigTarget::Topic(t.id))
            .flat_map(|t| {
                let config = self.partition_config(&image, &t.configs);
                t.partitions.iter().map(move |p| (*p, config.clone()))
            })
            .collect();
        self.change(mail, |current| {
            current.topics = image.topics;
            current.by_id = image.by_id;
            current.broker_configs = image.broker_configs;
        })
        .await;
        for result in self.engine.configure(affected).await {
            result.map_err(storage)?;
        }
        Ok(())
    }

    async fn allocate_producer_ids(&self, count: u32) -> Result<i64, MetadataError> {
        let first = self.next_producer_id.get();
        let next = first + i64::from(count);
        if !on(EngineMutation::ProducerIdsNotRecorded) {
            self.record(vec![Record::NextProducerId(next)]).await?;
        }
        self.next_producer_id.set(next);
        Ok(first)
    }

    async fn record(&self, records: Vec<Record>) -> Result<(), MetadataError> {
        let mutations = records
            .iter()
            .map(|record| {
                let (key, value) = record.encode();
                Mutation {
                    key,
                    value: Some(value),
                }
            })
            .collect();
        Ok(self.store.commit(mutations).await?)
    }

    /// Removes partitions that no topic names any more. What fails is retried at the next start.
    async fn remove(&self, partitions: Vec<PartitionRef>) {
        for error in self
            .engine
            .delete(partitions)
            .await
            .into_iter()
            .filter_map(Result::err)
            // Of a creation that failed half way, some were never made.
            .filter(|error| !matches!(error, EngineError::UnknownPartition))
        {
            tracing::warn!(%error, "a deleted topic's partition stays until the next start");
        }
    }

    fn shard(&self, next: &mut usize) -> u16 {
        let shard = (*next % usize::from(self.options.shards)) as u16;
        *next += 1;
        shard
    }

    fn partition_config(
        &self,
        image: &MetadataImage,
        topic: &BTreeMap<String, String>,
    ) -> PartitionConfig {
        let mut broker = self.options.broker_defaults.clone();
        broker.extend(
            image
                .broker_configs
                .iter()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        (self.options.to_partition_config)(topic, &broker)
    }
}

fn check_partitions(asked: u32, others: u32) -> Result<(), MetadataError> {
    if asked == 0 || asked > MAX_TOPIC_PARTITIONS {
        return Err(MetadataError::InvalidPartitions {
            asked,
            max: MAX_TOPIC_PARTITIONS,
        });
    }
    if asked.saturating_add(others) > MAX_NODE_PARTITIONS {
        return Err(MetadataError::TooManyPartitions {
            limit: MAX_NODE_PARTITIONS,
        });
    }
    Ok(())
}

fn edit_configs(configs: &mut BTreeMap<String, String>, changes: ConfigChanges) {
    for (name, value) in changes {
        match value {
            Some(value) => configs.insert(name, value),
            None => configs.remove(&name),
        };
    }
}

async fn create(
    engine: &Engine,
    partitions: Vec<(PartitionRef, PartitionConfig)>,
) -> Result<(), MetadataError> {
    if partitions.is_empty() {
        return Ok(());
    }
    engine
        .create(partitions)
        .await
        .into_iter()
        .try_for_each(|r| r.map_err(storage))
}

fn storage(error: EngineError) -> MetadataError {
    MetadataError::Storage(error.to_string())
}

/// Internal partitions keep everything behind their log start: the table trims them itself. What clients configure does
/// not concern them.
fn internal_config() -> PartitionConfig {
    PartitionConfig {
        segment_bytes: INTERNAL_SEGMENT_BYTES,
        segment_ms: i64::MAX,
        retention_ms: None,
        retention_bytes: None,
        max_batch_bytes: INTERNAL_BATCH_BYTES_MAX,
        timestamp_after_max_ms: i64::MAX,
        // Nobody reads them but the table at its start.
        file_delete_delay_ms: 0,
        ..PartitionConfig::default()
    }
}

fn group_partitions(homes: &[u16]) -> Vec<PartitionRef> {
    (0..)
        .zip(homes)
        .map(|(index, shard)| PartitionRef {
            id: group_partition_id(index),
            shard: *shard,
        })
        .collect()
}

fn replay(store: &TableStore) -> Result<(MetadataImage, i64), MetadataError> {
    let mut image = MetadataImage::default();
    let mut next_producer_id = 0;
    store.with(|table| {
        for (key, value) in table.iter() {
            match Record::decode(key, value).map_err(|e| MetadataError::Storage(e.to_string()))? {
                Record::Cluster {
                    cluster_id,
                    node_id,
                } => {
                    image.cluster_id = cluster_id;
                    image.node_id = node_id;
                }
                Record::Topic(topic) => image.insert(topic),
                Record::BrokerConfigs(configs) => image.broker_configs = configs,
                Record::NextProducerId(id) => next_producer_id = id,
                Record::GroupHomes(homes) => image.group_partitions = group_partitions(&homes),
            }
        }
        Ok::<_, MetadataError>(())
    })?;
    Ok((image, next_producer_id))
}

/// A random (version 4) id. The doors write it as 22 characters of base64, which must not begin with a dash: the
/// command-line tools would take it for an option.
fn random_topic_id() -> TopicId {
    let mut id = [0; 16];
    loop {
        random_bytes(&mut id);
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        if id[0] >> 2 != 62 && id[0] != 0 {
            return TopicId(id);
        }
    }
}

/// 22 characters of URL-safe base64, as Kafka's tools expect of a cluster id.
fn random_cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let id = random_topic_id().0;
    let bits = u128::from_be_bytes(id);
    (0..22)
        .map(|i| {
            let shift = 122 - 6 * i;
            let six = if shift >= 0 {
                bits >> shift
            } else {
                bits << -shift
            };
            ALPHABET[(six & 63) as usize] as char
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_numbers_are_bounded() {
        assert!(check_partitions(0, 0).is_err());
        assert!(check_partitions(MAX_TOPIC_PARTITIONS, 0).is_ok());
        assert!(check_partitions(MAX_TOPIC_PARTITIONS + 1, 0).is_err());
        assert!(check_partitions(MAX_TOPIC_PARTITIONS, MAX_NODE_PARTITIONS - 1).is_err());
        assert!(check_partitions(1, u32::MAX).is_err());
    }
}

//! The handle that a door holds: reads the image of its own core, sends changes to the controller.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use trireme_engine::api::{PartitionConfig, PartitionRef, TopicId};
use trireme_engine::{Engine, table_store::TableError};
use trireme_runtime::mail::Service;
use trireme_runtime::spawn;
use trireme_runtime::sync::Notify;

use crate::controller::{self, Controller, ControllerReply, ControllerRequest};
use crate::image::{GROUP_PARTITIONS, MetadataImage, Topic};
use crate::names::NameError;

/// Turns a topic's own configuration and the broker's into the engine's. Unknown or invalid values were refused before.
pub type ToPartitionConfig =
    fn(topic: &BTreeMap<String, String>, broker: &BTreeMap<String, String>) -> PartitionConfig;

/// What the controller needs to know at start.
#[derive(Clone)]
pub struct MetadataOptions {
    /// Kept from the first start on; later starts ignore it.
    pub node_id: i32,
    /// Static broker configuration: what `broker_configs` of the image overrides.
    pub broker_defaults: BTreeMap<String, String>,
    pub to_partition_config: ToPartitionConfig,
    /// Shards that new partitions are spread over.
    pub shards: u16,
}

/// A topic to be made. Names and configuration values are checked by the door; the name is checked here once more.
#[derive(Debug, Clone)]
pub struct NewTopic {
    pub name: String,
    pub partitions: u32,
    pub configs: BTreeMap<String, String>,
}

/// Whose configuration changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigTarget {
    Topic(TopicId),
    Broker,
}

/// `None` removes the value, so that the default holds again.
pub type ConfigChanges = Vec<(String, Option<String>)>;

/// Why a change did not happen. Nothing of it is visible then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetadataError {
    #[error("topic '{0}' already exists")]
    TopicExists(String),
    #[error("topic '{name}' collides with existing topic '{existing}'")]
    Collision { name: String, existing: String },
    #[error("topic name is invalid: {0}")]
    InvalidName(#[from] NameError),
    #[error("unknown topic")]
    UnknownTopic,
    #[error("number of partitions must be between 1 and {max}, not {asked}")]
    InvalidPartitions { asked: u32, max: u32 },
    #[error("topic has {current} partitions already, which is not below the requested {asked}")]
    NotMorePartitions { current: u32, asked: u32 },
    #[error("too many partitions on this node: {limit} at most")]
    TooManyPartitions { limit: u32 },
    #[error("storage: {0}")]
    Storage(String),
}

impl From<TableError> for MetadataError {
    fn from(error: TableError) -> Self {
        MetadataError::Storage(error.to_string())
    }
}

/// One core's handle. Cheap to clone.
#[derive(Clone)]
pub struct Metadata {
    inner: Rc<Inner>,
}

struct Inner {
    mail: Rc<Service<ControllerRequest, ControllerReply>>,
    image: RefCell<Arc<MetadataImage>>,
    changed: Notify,
    controller: RefCell<Option<Rc<Controller>>>,
    ready: Notify,
}

impl Metadata {
    /// Opens the metadata on core `core` of `cores`: to be called on every core, with that core's end of one service.
    /// Core 0 reads the table, makes what is missing and removes what no topic names. Returns when this core has an
    /// image, so all cores must be opening.
    pub async fn open(
        engine: Engine,
        core: usize,
        cores: usize,
        mail: Service<ControllerRequest, ControllerReply>,
        options: MetadataOptions,
    ) -> Result<Metadata, MetadataError> {
        let metadata = Metadata {
            inner: Rc::new(Inner {
                mail: Rc::new(mail),
                image: RefCell::new(Arc::new(MetadataImage::default())),
                changed: Notify::new(),
                controller: RefCell::new(None),
                ready: Notify::new(),
            }),
        };
        let server = metadata.clone();
        spawn(async move {
            let mail = server.inner.mail.clone();
            mail.serve(move |_from, request| {
                let server = server.clone();
                async move { server.answer(request).await }
            })
            .await
        })
        .detach();

        if core == 0 {
            let controller = Controller::open(engine, cores, options).await?;
            metadata.inner.image.replace(controller.image());
            controller.publish(&metadata.inner.mail).await;
            metadata.inner.controller.replace(Some(Rc::new(controller)));
            metadata.inner.ready.notify_all();
        } else {
            while metadata.image().version == 0 {
                metadata.inner.changed.notified().await;
            }
        }
        Ok(metadata)
    }

    /// The newest image of this core. Hold it for one request, not longer.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.inner.image.borrow().clone()
    }

    /// Resolves when this core's image has changed since the call.
    pub async fn changed(&self) {
        self.inner.changed.notified().await
    }

    /// Home of the `index`-th group partition.
    pub fn group_partition(&self, index: u32) -> PartitionRef {
        self.inner.image.borrow().group_partitions[(index % GROUP_PARTITIONS) as usize]
    }

    /// Makes topics, each by itself. When this returns, an `Ok` topic is durable, has its partitions, and is in the image of
    /// every core.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
    ) -> Vec<Result<Arc<Topic>, MetadataError>> {
        match self.ask(ControllerRequest::CreateTopics(topics)).await {
            ControllerReply::Topics(results) => results,
            _ => unreachable!("the controller answers a creation with topics"),
        }
    }

    /// Removes topics and their data. Gone from every core's image, durably, when this returns; space is freed after that.
    pub async fn delete_topics(&self, topics: Vec<TopicId>) -> Vec<Result<(), MetadataError>> {
        match self.ask(ControllerRequest::DeleteTopics(topics)).await {
            ControllerReply::Done(results) => results,
            _ => unreachable!("the controller answers a deletion with its results"),
        }
    }

    /// Grows a topic to `total` partitions. Durable and visible when this returns.
    pub async fn create_partitions(
        &self,
        topic: TopicId,
        total: u32,
    ) -> Result<Arc<Topic>, MetadataError> {
        match self
            .ask(ControllerRequest::CreatePartitions(topic, total))
            .await
        {
            ControllerReply::Topics(mut results) if results.len() == 1 => results.swap_remove(0),
            _ => unreachable!("the controller answers with the grown topic"),
        }
    }

    /// Changes configuration. Durable, visible and in effect when this returns.
    pub async fn set_configs(
        &self,
        target: ConfigTarget,
        changes: ConfigChanges,
    ) -> Result<(), MetadataError> {
        match self
            .ask(ControllerRequest::SetConfigs(target, changes))
            .await
        {
            ControllerReply::Done(mut results) if results.len() == 1 => results.swap_remove(0),
            _ => unreachable!("the controller answers with one result"),
        }
    }

    /// Takes `count` producer ids from the cluster's; the first of them. Durable: never given again.
    pub async fn allocate_producer_ids(&self, count: u32) -> Result<i64, MetadataError> {
        match self
            .ask(ControllerRequest::AllocateProducerIds(count))
            .await
        {
            ControllerReply::ProducerIds(result) => result,
            _ => unreachable!("the controller answers with ids"),
        }
    }

    async fn ask(&self, request: ControllerRequest) -> ControllerReply {
        self.inner.mail.call(controller::CORE, request).await
    }

    async fn answer(&self, request: ControllerRequest) -> ControllerReply {
        if let ControllerRequest::Install(image) = request {
            self.install(image);
            return ControllerReply::Installed;
        }
        let controller = loop {
            let ready = self.inner.ready.notified();
            if let Some(controller) = self.inner.controller.borrow().clone() {
                break controller;
            }
            ready.await;
        };
        controller.execute(request, &self.inner.mail).await
    }

    fn install(&self, image: Arc<MetadataImage>) {
        // Changes are made one at a time and each waits for every core, so images arrive in order.
        assert!(
            image.version > self.image().version,
            "an older metadata image after a newer one"
        );
        self.inner.image.replace(image);
        self.inner.changed.notify_all();
    }
}

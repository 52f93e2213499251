//! The engine's handle on one core: it sends each request to the core that serves the partition's shard.

use std::future::Future;

use trireme_runtime::{Instant, Service};

use crate::api::*;

/// A core's handle on the node's engine. Cheap to clone, stays on its core.
#[derive(Clone)]
pub struct Engine(std::rc::Rc<()>);

impl Engine {
    /// Once per start, on one core, before any [`Engine::open`]: creates the data directory if there is none, locks it for
    /// as long as the process lives and checks its format. Returns the number of shards that exist, at least
    /// `config.shards`.
    pub async fn prepare(config: &EngineConfig) -> Result<u16, OpenError> {
        let _ = config;
        unimplemented!()
    }

    /// Recovers the shards that this core serves and starts their tasks. When it returns, everything that was acknowledged
    /// before is readable, and the end of each log is durable: what was cut off never comes back.
    pub async fn open(
        config: EngineConfig,
        core: usize,
        cores: usize,
        mail: Service<ShardRequest, ShardReply>,
    ) -> Result<Engine, OpenError> {
        let _ = (config, core, cores, mail);
        unimplemented!()
    }

    /// Creates partitions. Durable when it returns, all of a shard with one write. Creating what exists is no error (its
    /// configuration is replaced).
    pub async fn create(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        let _ = partitions;
        unimplemented!()
    }

    /// Deletes partitions. That they are gone is durable when it returns; their files go in the background.
    pub async fn delete(&self, partitions: Vec<PartitionRef>) -> Vec<Result<(), EngineError>> {
        let _ = partitions;
        unimplemented!()
    }

    /// Replaces the configuration of living partitions. In memory only, see [`PartitionConfig`].
    pub async fn configure(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        let _ = partitions;
        unimplemented!()
    }

    /// Every partition of the node, in order.
    pub async fn list(&self) -> Vec<PartitionRef> {
        unimplemented!()
    }

    /// Appends. Offsets are assigned in the order of calls on this core, at the call and not when the future is first
    /// polled; dropping the future does not undo it. Resolves when every append of it has reached its `ack`: with
    /// [`Ack::Committed`] an `Ok` means that its batches are durable (in a partition with [`Durability::Relaxed`]: in memory).
    pub fn append(
        &self,
        appends: Vec<Append>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + 'static {
        let _ = appends;
        async { unimplemented!() }
    }

    /// Reads whole batches. Bytes from disk are verified before they are handed out.
    pub async fn read(&self, requests: Vec<ReadRequest>) -> Vec<Result<ReadResult, ReadError>> {
        let _ = requests;
        unimplemented!()
    }

    /// Resolves as soon as at least `min_bytes` are readable in sum behind the given offsets, or something else happened to
    /// one of them (deleted, offset out of range), or at the deadline.
    pub async fn wait_readable(
        &self,
        positions: Vec<(PartitionRef, Offset)>,
        min_bytes: u32,
        deadline: Instant,
    ) {
        let _ = (positions, min_bytes, deadline);
        unimplemented!()
    }

    pub async fn offsets(
        &self,
        queries: Vec<(PartitionRef, OffsetQuery, Isolation)>,
    ) -> Vec<Result<OffsetAnswer, ReadError>> {
        let _ = queries;
        unimplemented!()
    }

    /// Moves log starts forward (-1: to the high watermark). The new log start is durable when it returns; files go in the
    /// background.
    pub async fn delete_records(
        &self,
        partitions: Vec<(PartitionRef, Offset)>,
    ) -> Vec<Result<Offset, ReadError>> {
        let _ = partitions;
        unimplemented!()
    }

    pub async fn describe(
        &self,
        partitions: Vec<PartitionRef>,
    ) -> Vec<Result<PartitionInfo, ReadError>> {
        let _ = partitions;
        unimplemented!()
    }

    /// Numbers of this core's shards.
    pub fn stats(&self) -> ShardStats {
        unimplemented!()
    }

    /// Refuses new appends and waits until those under way are durable; then everything goes to its segment, segments get
    /// their exact length, and a checkpoint says that the end is clean. Only this core's shards: call it on every core.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

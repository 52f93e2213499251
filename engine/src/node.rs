//! The shards of one core: opening them, their tasks, answering requests, and shutting them down.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use trireme_runtime::{Instant, JoinHandle, Share, sleep, spawn, spawn_with, timeout};

use crate::ack::{AppendCall, AppendFuture, Wait};
use crate::api::*;
use crate::data_dir::read_format;
use crate::files::Files;
use crate::read::Now;
use crate::shard::Shard;
use crate::{committer, flush, recovery, retention, scrub};

/// How often the free space of the disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Partitions that are flushed at the same time at shutdown.
const SHUTDOWN_PARALLEL: usize = 16;

/// The shards of a core, by id.
pub(crate) struct Node {
    shards: BTreeMap<u16, Rc<Shard>>,
    tasks: std::cell::RefCell<Vec<JoinHandle<()>>>,
    /// Waits of other cores' readers, by who asked and their number.
    waits: std::cell::RefCell<BTreeMap<(usize, u64), Rc<Wait>>>,
}

impl Node {
    /// Recovers the shards that `core` of `cores` serves, and starts their tasks.
    pub async fn open(
        config: EngineConfig,
        core: usize,
        cores: usize,
    ) -> Result<Rc<Node>, OpenError> {
        let format = read_format(&config).await?.ok_or_else(|| {
            OpenError::Format(config.data_dir.clone(), "it was not prepared".to_owned())
        })?;
        let config = Rc::new(config);
        let files = Files::new(config.fd_cache);
        let mut shards = BTreeMap::new();
        for id in (0..format.shards).filter(|id| usize::from(*id) % cores.max(1) == core) {
            let shard = recovery::open(
                config.clone(),
                format.directory,
                id,
                format.shards,
                files.clone(),
            )
            .await?;
            shards.insert(id, shard);
        }
        let node = Rc::new(Node {
            shards,
            tasks: Default::default(),
            waits: Default::default(),
        });
        for shard in node.shards.values() {
            node.start(shard);
        }
        Ok(node)
    }

    fn start(&self, shard: &Rc<Shard>) {
        let mut tasks = self.tasks.borrow_mut();
        spawn_with(Share::Client, committer::run(shard.clone())).detach();
        tasks.push(spawn_with(
            Share::Background,
            flush::keep_spare(shard.clone()),
        ));
        tasks.push(spawn_with(Share::Background, retention::run(shard.clone())));
        if shard.config.scrub_period_ms > 0 {
            tasks.push(spawn_with(Share::Background, scrub::run(shard.clone())));
        }
        let flusher = spawn_with(Share::Background, flush::run(shard.clone()));
        *shard.flusher.borrow_mut() = Some(flusher);
        let watched = shard.clone();
        tasks.push(spawn_with(Share::Background, async move {
            loop {
                watched.check_space().await;
                // While nothing is written nothing changes, unless the disk is full already.
                let seen = watched.stats.borrow().appended_bytes;
                let _ = timeout(SPACE_INTERVAL, watched.space.notified()).await;
                while watched.stats.borrow().appended_bytes == seen && !watched.full.get() {
                    watched.appended.notified().await;
                }
            }
        }));
        for partition in shard.all_partitions() {
            shard.remove_below_start(&partition);
        }
        shard.flush.notify_one();
    }

    pub fn shard(&self, id: u16) -> Option<&Rc<Shard>> {
        self.shards.get(&id)
    }

    pub fn stats(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        for shard in self.shards.values() {
            let mut stats = shard.stats.borrow_mut();
            stats.partitions = shard.partitions.borrow().len() as u64;
            stats.unflushed_bytes = shard.unflushed.get();
            stats.tail_memory_bytes = shard.tail_memory.get();
            sum.add(&stats);
        }
        sum
    }

    /// Appends, all of them now.
    pub fn append(&self, appends: &[Append]) -> AppendFuture {
        let call = AppendCall::new(appends.len());
        for append in appends {
            match self.shard(append.partition.shard) {
                Some(shard) => shard.append(append, &call),
                None => {
                    call.answer(Err(AppendError::UnknownPartition), None);
                }
            }
        }
        AppendFuture(call)
    }

    pub async fn read(&self, requests: Vec<ReadRequest>) -> Vec<Result<ReadResult, ReadError>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut later = Vec::new();
        for request in requests {
            let Some(shard) = self.shard(request.partition.shard) else {
                results.push(Err(ReadError::UnknownPartition));
                continue;
            };
            match shard.read_now(&request) {
                Err(error) => results.push(Err(error)),
                Ok(Now::Done(result)) => results.push(Ok(result)),
                Ok(Now::InFile(partition, base)) => {
                    let (shard, slot) = (shard.clone(), results.len());
                    // Held open until the read is there.
                    results.push(Err(ReadError::UnknownPartition));
                    later.push((
                        slot,
                        spawn(async move { shard.read_file(&request, &partition, base).await }),
                    ));
                }
            }
        }
        for (slot, read) in later {
            results[slot] = read.await;
        }
        results
    }

    /// Answers a request of this or another core. Appends take place at the call.
    pub fn answer(
        self: &Rc<Self>,
        from: usize,
        request: Request,
    ) -> impl Future<Output = Reply> + use<> {
        let node = self.clone();
        // What must happen in order happens here, before the first poll.
        let request = match request {
            Request::Append(appends) => Started::Append(self.append(&appends)),
            Request::Cancel { id } => {
                if let Some(wait) = self.waits.borrow_mut().remove(&(from, id)) {
                    wait.finish();
                }
                Started::Cancelled
            }
            other => Started::Other(other),
        };
        async move {
            match request {
                Started::Append(appended) => Reply::Append(appended.await),
                Started::Cancelled => Reply::Cancelled,
                Started::Other(request) => node.answer_later(from, request).await,
            }
        }
    }

    async fn answer_later(self: Rc<Self>, from: usize, request: Request) -> Reply {
        match request {
            Request::Append(_) | Request::Cancel { .. } => unreachable!("answered at once"),
            Request::Create(partitions) => Reply::Done(self.create(partitions).await),
            Request::Delete(partitions) => Reply::Done(self.delete(partitions).await),
            Request::Configure(partitions) => Reply::Done(self.configure(partitions)),
            Request::List => Reply::List(
                self.shards
                    .values()
                    .flat_map(|shard| shard.list())
                    .collect(),
            ),
            Request::Read(requests) => Reply::Read(self.read(requests).await),
            Request::Wait {
                id,
                positions,
                bytes,
                deadline,
            } => {
                let key = (from, id);
                let (bytes, changed) = self.wait(positions, bytes, deadline, Some(key)).await;
                self.waits.borrow_mut().remove(&key);
                Reply::Wait { bytes, changed }
            }
            Request::Offsets(queries) => Reply::Offsets(self.offsets(queries).await),
            Request::DeleteRecords(partitions) => {
                Reply::DeleteRecords(self.delete_records(partitions).await)
            }
            Request::Describe(partitions) => Reply::Describe(self.describe(&partitions)),
        }
    }

    pub async fn create(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        self.by_shard(
            partitions,
            |item| item.0.shard,
            EngineError::UnknownShard,
            |shard, items| async move { shard.create(items).await },
        )
        .await
    }

    pub async fn delete(&self, partitions: Vec<PartitionRef>) -> Vec<Result<(), EngineError>> {
        self.by_shard(
            partitions,
            |item| item.shard,
            EngineError::UnknownPartition,
            |shard, items| async move { shard.delete(items).await },
        )
        .await
    }

    pub fn configure(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        let configure = |(reference, config): (PartitionRef, PartitionConfig)| match self
            .shard(reference.shard)
        {
            Some(shard) => shard.configure(reference, config),
            None => Err(EngineError::UnknownPartition),
        };
        partitions.into_iter().map(configure).collect()
    }

    pub async fn delete_records(
        &self,
        partitions: Vec<(PartitionRef, Offset)>,
    ) -> Vec<Result<Offset, ReadError>> {
        let begun: Vec<_> = partitions
            .into_iter()
            .map(|(reference, before)| {
                let shard = self
                    .shard(reference.shard)
                    .cloned()
                    .ok_or(ReadError::UnknownPartition);
                // At the same time, so that one group takes all the new log starts.
                spawn(async move { shard?.delete_records(&reference, before).await })
            })
            .collect();
        let mut results = Vec::with_capacity(begun.len());
        for one in begun {
            results.push(one.await);
        }
        results
    }

    pub async fn offsets(
        &self,
        queries: Vec<(PartitionRef, OffsetQuery, Isolation)>,
    ) -> Vec<Result<OffsetAnswer, ReadError>> {
        let mut results = Vec::with_capacity(queries.len());
        for (reference, query, isolation) in queries {
            results.push(match self.shard(reference.shard) {
                Some(shard) => shard.offset(&reference, query, isolation).await,
                None => Err(ReadError::UnknownPartition),
            });
        }
        results
    }

    pub fn describe(&self, partitions: &[PartitionRef]) -> Vec<Result<PartitionInfo, ReadError>> {
        let describe = |reference: &PartitionRef| match self.shard(reference.shard) {
            Some(shard) => shard.describe(reference),
            None => Err(ReadError::UnknownPartition),
        };
        partitions.iter().map(describe).collect()
    }

    /// Waits for bytes of this core's partitions, which may lie in several of its shards.
    pub async fn wait(
        &self,
        positions: Vec<(PartitionRef, Offset)>,
        bytes: u64,
        deadline: Instant,
        key: Option<(usize, u64)>,
    ) -> (u64, bool) {
        Shard::wait(&self.shards, positions, bytes, deadline, |wait| {
            if let Some(key) = key {
                self.waits.borrow_mut().insert(key, wait.clone());
            }
        })
        .await
    }

    /// Splits items by shard, has each shard answer its own, and puts the answers in order.
    async fn by_shard<T, E, Fut>(
        &self,
        items: Vec<T>,
        shard_of: impl Fn(&T) -> u16,
        unknown: E,
        ask: impl Fn(Rc<Shard>, Vec<T>) -> Fut,
    ) -> Vec<Result<(), E>>
    where
        T: 'static,
        E: Clone + 'static,
        Fut: Future<Output = Vec<Result<(), E>>> + 'static,
    {
        let mut results: Vec<Result<(), E>> = items.iter().map(|_| Err(unknown.clone())).collect();
        let mut parts: BTreeMap<u16, (Vec<usize>, Vec<T>)> = BTreeMap::new();
        for (slot, item) in items.into_iter().enumerate() {
            let (slots, part) = parts.entry(shard_of(&item)).or_default();
            slots.push(slot);
            part.push(item);
        }
        let asked: Vec<_> = parts
            .into_iter()
            .filter_map(|(id, (slots, part))| {
                Some((slots, spawn(ask(self.shard(id)?.clone(), part))))
            })
            .collect();
        for (slots, answer) in asked {
            for (slot, answer) in slots.into_iter().zip(answer.await) {
                results[slot] = answer;
            }
        }
        results
    }

    /// See [`Engine::shutdown`](crate::Engine::shutdown).
    pub async fn shutdown(&self) {
        for shard in self.shards.values() {
            shard.closing.set(true);
            shard.commit.notify_one();
            shard.flush.notify_one();
        }
        for shard in self.shards.values() {
            if let Err(error) = shard.close().await {
                tracing::error!(shard = shard.id, %error, "not cleanly shut; the next start recovers");
            }
        }
        self.tasks.borrow_mut().clear();
    }
}

enum Started {
    Append(AppendFuture),
    Cancelled,
    Other(Request),
}

impl Shard {
    /// Waits for what is under way, brings everything to segments, and writes the closed checkpoints.
    async fn close(self: &Rc<Self>) -> std::io::Result<()> {
        let flusher = self.flusher.borrow_mut().take();
        if let Some(flusher) = flusher {
            flusher.await;
        }
        while !self.committed.get() {
            self.progress.notified().await;
        }
        if self.gave_up.get() {
            return Err(std::io::Error::other("not everything could be logged"));
        }
        let mut partitions = self.all_partitions().into_iter();
        let mut workers: Vec<JoinHandle<std::io::Result<()>>> = Vec::new();
        let queue = Rc::new(std::cell::RefCell::new(
            partitions.by_ref().collect::<Vec<_>>(),
        ));
        for _ in 0..SHUTDOWN_PARALLEL {
            let (shard, queue) = (self.clone(), queue.clone());
            workers.push(spawn(async move {
                loop {
                    let Some(partition) = queue.borrow_mut().pop() else {
                        return Ok(());
                    };
                    shard.settle_partition(&partition).await?;
                }
            }));
        }
        for worker in workers {
            worker.await?;
        }
        self.close_checkpoints().await
    }

    /// Brings everything of a partition to its files, with their exact lengths.
    async fn settle_partition(
        self: &Rc<Self>,
        partition: &Rc<crate::partition::Partition>,
    ) -> std::io::Result<()> {
        if partition.gone.get() {
            return Ok(());
        }
        // An old segment may be in the middle of its removal, or of being prepared.
        while partition
            .state
            .borrow()
            .segments
            .iter()
            .any(|segment| segment.busy || segment.placing || segment.preparing)
        {
            sleep(Duration::from_millis(1)).await;
        }
        // The log start may move on meanwhile: a last answer is still on its way to who asked for that.
        while self.drop_dead_segments(partition).await? {
            self.flush_partition(partition, true).await?;
        }
        let open: Vec<Offset> = {
            let inner = partition.state.borrow();
            let open = |segment: &&crate::segment::Segment| {
                !segment.sealed && !segment.head_on_disk && segment.length > 0
            };
            inner
                .segments
                .iter()
                .filter(open)
                .map(|segment| segment.base)
                .collect()
        };
        for base in open {
            self.close_segment(partition, base).await?;
        }
        Ok(())
    }

    /// Removes segments below the log start that never got to their files. Whether something is left to flush.
    async fn drop_dead_segments(
        self: &Rc<Self>,
        partition: &Rc<crate::partition::Partition>,
    ) -> std::io::Result<bool> {
        loop {
            let base = {
                let inner = partition.state.borrow();
                let dead = |segment: &&crate::segment::Segment| {
                    segment.end <= inner.log_start && !segment.sealed
                };
                match inner.segments.iter().find(dead) {
                    Some(segment) => segment.base,
                    None => return Ok(inner.segments.iter().any(|segment| !segment.is_settled())),
                }
            };
            self.files.forget(partition.id, base);
            self.remove_segment_files(partition, base).await?;
            let mut inner = partition.state.borrow_mut();
            inner.segments.retain(|segment| segment.base != base);
            inner.settle_spans();
        }
    }
}

#[cfg(test)]
impl Node {
    /// What the shards wait for, for a test that stalls.
    pub fn state(&self) -> String {
        let mut said = String::new();
        for shard in self.shards.values() {
            said += &shard.state();
        }
        said
    }

    /// Asks for room in a segment's file, as for a run that may come.
    pub async fn place(&self, partition: PartitionRef, base: crate::ids::Offset, end: u64) {
        let shard = self.shards[&partition.shard].clone();
        let partition = shard.partition(&partition.id).expect("it is there");
        shard.place(&partition, base, end).await.expect("room");
    }
}

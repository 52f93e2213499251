//! The engine's handle on one core: it sends each request to the core that serves the partition's shard, this one included,
//! and puts the answers in order.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use trireme_runtime::{Instant, JoinHandle, Service, spawn};

use crate::api::*;
use crate::data_dir::DataDir;
use crate::mutations::{self, on};
use crate::node::Node;

struct Inner {
    core: usize,
    cores: usize,
    node: Rc<Node>,
    mail: Service<ShardRequest, ShardReply>,
    /// Number of the next wait that is sent to another core.
    next_wait: Cell<u64>,
    /// Answers the other cores; stops with the last handle.
    _server: JoinHandle<()>,
}

/// A core's handle on the node's engine. Cheap to clone, stays on its core.
#[derive(Clone)]
pub struct Engine(Rc<Inner>);

type ReplyFuture = Pin<Box<dyn Future<Output = Reply>>>;

impl Engine {
    /// Once per start, on one core, before any [`Engine::open`]: creates the data directory if there is none, locks it for
    /// as long as the process lives and checks its format. Returns the number of shards that exist, at least
    /// `config.shards`.
    pub async fn prepare(config: &EngineConfig) -> Result<u16, OpenError> {
        let dir = DataDir::open(config).await?;
        let shards = dir.shards;
        // The lock goes with the process.
        std::mem::forget(dir);
        Ok(shards)
    }

    /// Recovers the shards that this core serves and starts their tasks. When it returns, everything that was acknowledged
    /// before is readable, and the end of each log is durable: what was cut off never comes back.
    pub async fn open(
        config: EngineConfig,
        core: usize,
        cores: usize,
        mail: Service<ShardRequest, ShardReply>,
    ) -> Result<Engine, OpenError> {
        let node = Node::open(config, core, cores).await?;
        let (served, ears) = (node.clone(), mail.clone());
        let server = spawn(async move {
            ears.serve(move |from, request: ShardRequest| mailed(served.answer(from, request.0)))
                .await
        });
        let inner = Inner {
            core,
            cores: cores.max(1),
            node,
            mail,
            next_wait: Cell::new(0),
            _server: server,
        };
        Ok(Engine(Rc::new(inner)))
    }

    fn core_of(&self, shard: u16) -> usize {
        usize::from(shard) % self.0.cores
    }

    /// Sends a request; it is under way when this returns.
    fn ask(&self, core: usize, request: Request) -> ReplyFuture {
        if core == self.0.core {
            return Box::pin(self.0.node.answer(core, request));
        }
        let call = self.0.mail.call(core, ShardRequest(request));
        Box::pin(async move { call.await.0 })
    }

    /// Splits items by core and asks each; the answers as they belong to the items.
    fn scatter<T, R>(
        &self,
        items: Vec<T>,
        shard_of: impl Fn(&T) -> u16,
        request: impl Fn(Vec<T>) -> Request,
        answers: fn(Reply) -> Vec<R>,
    ) -> impl Future<Output = Vec<R>> + 'static
    where
        T: 'static,
        R: 'static,
    {
        let count = items.len();
        let mut parts: Vec<(usize, Vec<usize>, Vec<T>)> = Vec::new();
        for (slot, item) in items.into_iter().enumerate() {
            let core = self.core_of(shard_of(&item));
            let index = match parts.iter().position(|part| part.0 == core) {
                Some(index) => index,
                None => {
                    parts.push((core, Vec::new(), Vec::new()));
                    parts.len() - 1
                }
            };
            parts[index].1.push(slot);
            parts[index].2.push(item);
        }
        let asked: Vec<(Vec<usize>, ReplyFuture)> = parts
            .into_iter()
            .map(|(core, slots, part)| (slots, self.ask(core, request(part))))
            .collect();
        async move {
            if asked.len() == 1 {
                let (_, reply) = asked.into_iter().next().expect("one");
                return answers(reply.await);
            }
            let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
            for (slots, reply) in asked {
                for (slot, answer) in slots.into_iter().zip(answers(reply.await)) {
                    results[slot] = Some(answer);
                }
            }
            results
                .into_iter()
                .map(|result| result.expect("every core answers all it was asked"))
                .collect()
        }
    }

    /// Creates partitions. Durable when it returns, all of a shard with one write. Creating what exists is no error (its
    /// configuration is replaced).
    pub async fn create(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        self.scatter(partitions, |item| item.0.shard, Request::Create, done)
            .await
    }

    /// Deletes partitions. That they are gone is durable when it returns; their files go in the background.
    pub async fn delete(&self, partitions: Vec<PartitionRef>) -> Vec<Result<(), EngineError>> {
        self.scatter(partitions, |item| item.shard, Request::Delete, done)
            .await
    }

    /// Replaces the configuration of living partitions. In memory only, see [`PartitionConfig`].
    pub async fn configure(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        self.scatter(partitions, |item| item.0.shard, Request::Configure, done)
            .await
    }

    /// Every partition of the node, in order.
    pub async fn list(&self) -> Vec<PartitionRef> {
        let asked: Vec<ReplyFuture> = (0..self.0.cores)
            .map(|core| self.ask(core, Request::List))
            .collect();
        let mut all = Vec::new();
        for reply in asked {
            match reply.await {
                Reply::List(part) => all.extend(part),
                _ => unreachable!("a list is answered by a list"),
            }
        }
        all.sort_unstable();
        all
    }

    /// Appends. Offsets are assigned in the order of calls on this core, at the call and not when the future is first
    /// polled; dropping the future does not undo it. Resolves when every append of it has reached its `ack`: with
    /// [`Ack::Committed`] an `Ok` means that its batches are durable (in a partition with [`Durability::Relaxed`]: in memory).
    pub fn append(
        &self,
        appends: Vec<Append>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + 'static {
        let is_local = appends
            .iter()
            .all(|append| self.core_of(append.partition.shard) == self.0.core);
        let (local, remote) = if is_local {
            (Some(self.0.node.append(&appends)), None)
        } else {
            let scattered = self.scatter(
                appends,
                |item| item.partition.shard,
                Request::Append,
                |reply| match reply {
                    Reply::Append(results) => results,
                    _ => unreachable!("an append is answered by an append"),
                },
            );
            (None, Some(scattered))
        };
        async move {
            match (local, remote) {
                (Some(local), _) => local.await,
                (None, Some(remote)) => remote.await,
                (None, None) => unreachable!("one of both was made"),
            }
        }
    }

    /// Reads whole batches. Bytes from disk are verified before they are handed out.
    pub async fn read(&self, requests: Vec<ReadRequest>) -> Vec<Result<ReadResult, ReadError>> {
        if requests
            .iter()
            .all(|request| self.core_of(request.partition.shard) == self.0.core)
        {
            return self.0.node.read(requests).await;
        }
        self.scatter(
            requests,
            |item| item.partition.shard,
            Request::Read,
            |reply| match reply {
                Reply::Read(results) => results,
                _ => unreachable!("a read is answered by a read"),
            },
        )
        .await
    }

    /// Resolves as soon as at least `min_bytes` are readable in sum behind the given offsets, or something else happened to
    /// one of them (deleted, offset out of range), or at the deadline.
    pub async fn wait_readable(
        &self,
        positions: Vec<(PartitionRef, Offset)>,
        min_bytes: u32,
        deadline: Instant,
    ) {
        let mut parts: Vec<(usize, Vec<(PartitionRef, Offset)>)> = Vec::new();
        for position in positions {
            let core = self.core_of(position.0.shard);
            match parts.iter_mut().find(|part| part.0 == core) {
                Some(part) => part.1.push(position),
                None => parts.push((core, vec![position])),
            }
        }
        let wanted = u64::from(min_bytes.max(1));
        match parts.len() {
            0 => trireme_runtime::sleep_until(deadline).await,
            1 if parts[0].0 == self.0.core => {
                let (_, positions) = parts.pop().expect("one");
                self.0.node.wait(positions, wanted, deadline, None).await;
            }
            _ => self.wait_on_cores(parts, wanted, deadline).await,
        }
    }

    /// Each core answers when its part has grown by its share of what is missing: then at least one of them does before
    /// the sum is there.
    async fn wait_on_cores(
        &self,
        parts: Vec<(usize, Vec<(PartitionRef, Offset)>)>,
        wanted: u64,
        deadline: Instant,
    ) {
        let mut known = vec![0; parts.len()];
        let mut asked: Vec<Option<Asked>> = parts.iter().map(|_| None).collect();
        // At first only what is there: a question with an old deadline is answered at once.
        for (index, (core, positions)) in parts.iter().enumerate() {
            let mut asked = self.ask_wait(*core, positions, 0, Instant::ZERO);
            let (bytes, changed) = asked.reply.as_mut().await;
            asked.is_answered = true;
            if changed {
                return;
            }
            known[index] = bytes;
        }
        loop {
            let sum: u64 = known.iter().sum();
            if sum >= wanted || trireme_runtime::now() >= deadline {
                return;
            }
            let share = ((wanted - sum) / parts.len() as u64).max(1);
            for (index, (core, positions)) in parts.iter().enumerate() {
                if asked[index].is_none() {
                    asked[index] =
                        Some(self.ask_wait(*core, positions, known[index] + share, deadline));
                }
            }
            let (index, (bytes, changed)) = first_of(&mut asked).await;
            asked[index] = None;
            known[index] = bytes;
            if changed {
                return;
            }
        }
    }

    fn ask_wait(
        &self,
        core: usize,
        positions: &[(PartitionRef, Offset)],
        bytes: u64,
        deadline: Instant,
    ) -> Asked {
        let id = self.0.next_wait.get();
        self.0.next_wait.set(id + 1);
        let request = Request::Wait {
            id,
            positions: positions.to_vec(),
            bytes,
            deadline,
        };
        let reply = self.ask(core, request);
        let reply = Box::pin(async move {
            match reply.await {
                Reply::Wait { bytes, changed } => (bytes, changed),
                _ => unreachable!("a wait is answered by a wait"),
            }
        });
        Asked {
            engine: self.clone(),
            core,
            id,
            reply,
            is_answered: false,
        }
    }

    pub async fn offsets(
        &self,
        queries: Vec<(PartitionRef, OffsetQuery, Isolation)>,
    ) -> Vec<Result<OffsetAnswer, ReadError>> {
        self.scatter(
            queries,
            |item| item.0.shard,
            Request::Offsets,
            |reply| match reply {
                Reply::Offsets(results) => results,
                _ => unreachable!("offsets are answered by offsets"),
            },
        )
        .await
    }

    /// Moves log starts forward (-1: to the high watermark). The new log start is durable when it returns; files go in the
    /// background.
    pub async fn delete_records(
        &self,
        partitions: Vec<(PartitionRef, Offset)>,
    ) -> Vec<Result<Offset, ReadError>> {
        self.scatter(
            partitions,
            |item| item.0.shard,
            Request::DeleteRecords,
            |reply| match reply {
                Reply::DeleteRecords(results) => results,
                _ => unreachable!("log starts are answered by log starts"),
            },
        )
        .await
    }

    pub async fn describe(
        &self,
        partitions: Vec<PartitionRef>,
    ) -> Vec<Result<PartitionInfo, ReadError>> {
        self.scatter(
            partitions,
            |item| item.shard,
            Request::Describe,
            |reply| match reply {
                Reply::Describe(results) => results,
                _ => unreachable!("a description is answered by a description"),
            },
        )
        .await
    }

    /// What this core's shards wait for.
    #[cfg(test)]
    pub fn state(&self) -> String {
        self.0.node.state()
    }

    /// Asks for room in a segment's file, as for a run that may come.
    #[cfg(test)]
    pub async fn place(&self, partition: PartitionRef, base: Offset, end: u64) {
        self.0.node.place(partition, base, end).await;
    }

    /// Numbers of this core's shards.
    pub fn stats(&self) -> ShardStats {
        self.0.node.stats()
    }

    /// Refuses new appends and waits until those under way are durable; then everything goes to its segment, segments get
    /// their exact length, and a checkpoint says that the end is clean. Only this core's shards: call it on every core.
    pub async fn shutdown(&self) {
        if on(mutations::Mutation::StopHangs) {
            std::future::pending::<()>().await;
        }
        self.0.node.shutdown().await;
    }
}

async fn mailed(answer: impl Future<Output = Reply>) -> ShardReply {
    ShardReply(answer.await)
}

fn done(reply: Reply) -> Vec<Result<(), EngineError>> {
    match reply {
        Reply::Done(results) => results,
        _ => unreachable!("done is answered by done"),
    }
}

/// A wait on another core; given up there when this is dropped.
struct Asked {
    engine: Engine,
    core: usize,
    id: u64,
    reply: Pin<Box<dyn Future<Output = (u64, bool)>>>,
    is_answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            drop(self.engine.ask(self.core, Request::Cancel { id: self.id }));
        }
    }
}

/// The first answer of those that are asked.
async fn first_of(asked: &mut [Option<Asked>]) -> (usize, (u64, bool)) {
    std::future::poll_fn(|context| {
        for (index, asked) in asked.iter_mut().enumerate() {
            if let Some(asked) = asked
                && let std::task::Poll::Ready(answer) = asked.reply.as_mut().poll(context)
            {
                asked.is_answered = true;
                return std::task::Poll::Ready((index, answer));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

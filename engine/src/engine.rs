//! The engine's handle on one core: it sends each request to the core that serves the partition's shard.
//!
//! STAND-IN: the shard behind this handle keeps everything in memory, so that the doors can be tried before the real one
//! lands; it is replaced as a whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use trireme_runtime::sync::Notify;
use trireme_runtime::{Instant, Service, sleep_until, spawn};

use crate::api::*;
use crate::batch::{self, Batches};

struct Batch {
    base: Offset,
    last: Offset,
    max_timestamp: i64,
    bytes: Bytes,
}

struct Part {
    config: PartitionConfig,
    batches: Vec<Batch>,
    start: Offset,
    end: Offset,
}

struct Inner {
    core: usize,
    cores: usize,
    mail: Service<ShardRequest, ShardReply>,
    parts: RefCell<BTreeMap<PartitionRef, Part>>,
    changed: Notify,
}

/// A core's handle on the node's engine. Cheap to clone, stays on its core.
#[derive(Clone)]
pub struct Engine(Rc<Inner>);

type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

impl Engine {
    pub async fn prepare(config: &EngineConfig) -> Result<u16, OpenError> {
        Ok(config.shards)
    }

    pub async fn open(
        _config: EngineConfig,
        core: usize,
        cores: usize,
        mail: Service<ShardRequest, ShardReply>,
    ) -> Result<Engine, OpenError> {
        let engine = Engine(Rc::new(Inner {
            core,
            cores,
            mail,
            parts: RefCell::default(),
            changed: Notify::new(),
        }));
        let server = engine.clone();
        spawn(async move {
            let local = server.clone();
            server
                .0
                .mail
                .serve(move |_, request| local.local(request.0))
                .await
        })
        .detach();
        Ok(engine)
    }

    fn at(&self, core: usize, request: Request) -> Pending<Reply> {
        if core == self.0.core {
            let reply = self.local(request);
            return Box::pin(async move { reply.await.0 });
        }
        let call = self.0.mail.call(core, ShardRequest(request));
        Box::pin(async move { call.await.0 })
    }

    fn local(&self, request: Request) -> Pending<ShardReply> {
        let mut parts = self.0.parts.borrow_mut();
        let reply = match request {
            Request::Create(list) => Reply::Done(
                list.into_iter()
                    .map(|(p, config)| {
                        parts.entry(p).or_insert(Part {
                            config,
                            batches: Vec::new(),
                            start: 0,
                            end: 0,
                        });
                        Ok(())
                    })
                    .collect(),
            ),
            Request::Configure(list) => Reply::Done(
                list.into_iter()
                    .map(|(p, config)| {
                        parts
                            .get_mut(&p)
                            .map(|part| part.config = config)
                            .ok_or(EngineError::UnknownPartition)
                    })
                    .collect(),
            ),
            Request::Delete(list) => {
                self.0.changed.notify_all();
                Reply::Done(
                    list.into_iter()
                        .map(|p| {
                            parts
                                .remove(&p)
                                .map(|_| ())
                                .ok_or(EngineError::UnknownPartition)
                        })
                        .collect(),
                )
            }
            Request::List => Reply::List(parts.keys().copied().collect()),
            Request::Append(list) => {
                let results = list.into_iter().map(|a| append(&mut parts, a)).collect();
                self.0.changed.notify_all();
                Reply::Append(results)
            }
            Request::Read(list) => Reply::Read(list.into_iter().map(|r| read(&parts, r)).collect()),
            Request::Offsets(list) => Reply::Offsets(
                list.into_iter()
                    .map(|(p, q, _)| offsets(&parts, p, q))
                    .collect(),
            ),
            Request::DeleteRecords(list) => Reply::DeleteRecords(
                list.into_iter()
                    .map(|(p, offset)| {
                        let part = parts.get_mut(&p).ok_or(ReadError::UnknownPartition)?;
                        let to = if offset == -1 { part.end } else { offset };
                        if to > part.end || to < 0 {
                            return Err(ReadError::OffsetOutOfRange {
                                log_start: part.start,
                                high_watermark: part.end,
                            });
                        }
                        part.start = part.start.max(to);
                        part.batches.retain(|b| b.last >= to);
                        Ok(part.start)
                    })
                    .collect(),
            ),
            Request::Describe(list) => Reply::Describe(
                list.into_iter()
                    .map(|p| {
                        let part = parts.get(&p).ok_or(ReadError::UnknownPartition)?;
                        Ok(PartitionInfo {
                            size_bytes: part.batches.iter().map(|b| b.bytes.len() as u64).sum(),
                            log_start: part.start,
                            high_watermark: part.end,
                            log_end: part.end,
                            leader_epoch: 0,
                            segments: 1,
                            max_timestamp_ms: part
                                .batches
                                .iter()
                                .map(|b| b.max_timestamp)
                                .max()
                                .unwrap_or(-1),
                            producers: Vec::new(),
                        })
                    })
                    .collect(),
            ),
            Request::Wait { .. } | Request::Cancel { .. } => {
                drop(parts);
                let engine = self.clone();
                return Box::pin(async move {
                    let Request::Wait {
                        positions,
                        bytes,
                        deadline,
                        ..
                    } = request
                    else {
                        return ShardReply(Reply::Cancelled);
                    };
                    let late = engine.clone();
                    let timer = spawn(async move {
                        sleep_until(deadline).await;
                        late.0.changed.notify_all();
                    });
                    loop {
                        let mut have = 0u64;
                        let mut changed = false;
                        {
                            let parts = engine.0.parts.borrow();
                            for (p, offset) in &positions {
                                match parts.get(p) {
                                    Some(part) if *offset >= part.start && *offset <= part.end => {
                                        have += part
                                            .batches
                                            .iter()
                                            .rev()
                                            .take_while(|b| b.last >= *offset)
                                            .map(|b| b.bytes.len() as u64)
                                            .sum::<u64>()
                                    }
                                    _ => changed = true,
                                }
                            }
                        }
                        if have >= bytes || changed || trireme_runtime::now() >= deadline {
                            drop(timer);
                            return ShardReply(Reply::Wait {
                                bytes: have,
                                changed,
                            });
                        }
                        engine.0.changed.notified().await;
                    }
                });
            }
        };
        Box::pin(async move { ShardReply(reply) })
    }

    /// Splits by core, asks each, puts the answers back in order.
    fn split<T: 'static, R: 'static>(
        &self,
        items: Vec<T>,
        home: impl Fn(&T) -> PartitionRef,
        make: impl Fn(Vec<T>) -> Request,
        open: impl Fn(Reply) -> Vec<R> + 'static,
    ) -> impl Future<Output = Vec<R>> + 'static {
        let total = items.len();
        let mut by_core: BTreeMap<usize, (Vec<usize>, Vec<T>)> = BTreeMap::new();
        for (i, item) in items.into_iter().enumerate() {
            let entry = by_core
                .entry(usize::from(home(&item).shard) % self.0.cores)
                .or_default();
            entry.0.push(i);
            entry.1.push(item);
        }
        let calls: Vec<_> = by_core
            .into_iter()
            .map(|(core, (places, items))| (places, self.at(core, make(items))))
            .collect();
        async move {
            let mut out: Vec<Option<R>> = (0..total).map(|_| None).collect();
            for (places, call) in calls {
                for (place, r) in places.into_iter().zip(open(call.await)) {
                    out[place] = Some(r);
                }
            }
            out.into_iter()
                .map(|r| r.expect("every item is answered"))
                .collect()
        }
    }

    pub async fn create(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        self.split(partitions, |p| p.0, Request::Create, done).await
    }

    pub async fn delete(&self, partitions: Vec<PartitionRef>) -> Vec<Result<(), EngineError>> {
        self.split(partitions, |p| *p, Request::Delete, done).await
    }

    pub async fn configure(
        &self,
        partitions: Vec<(PartitionRef, PartitionConfig)>,
    ) -> Vec<Result<(), EngineError>> {
        self.split(partitions, |p| p.0, Request::Configure, done)
            .await
    }

    pub async fn list(&self) -> Vec<PartitionRef> {
        let mut all = Vec::new();
        for core in 0..self.0.cores {
            if let Reply::List(list) = self.at(core, Request::List).await {
                all.extend(list);
            }
        }
        all.sort();
        all
    }

    pub fn append(
        &self,
        appends: Vec<Append>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + 'static {
        self.split(
            appends,
            |a| a.partition,
            Request::Append,
            |r| match r {
                Reply::Append(v) => v,
                _ => unreachable!(),
            },
        )
    }

    pub async fn read(&self, requests: Vec<ReadRequest>) -> Vec<Result<ReadResult, ReadError>> {
        self.split(
            requests,
            |r| r.partition,
            Request::Read,
            |r| match r {
                Reply::Read(v) => v,
                _ => unreachable!(),
            },
        )
        .await
    }

    pub async fn wait_readable(
        &self,
        positions: Vec<(PartitionRef, Offset)>,
        min_bytes: u32,
        deadline: Instant,
    ) {
        // Good enough for a stand-in: the first core that has anything new answers.
        let mut by_core: BTreeMap<usize, Vec<(PartitionRef, Offset)>> = BTreeMap::new();
        for p in positions {
            by_core
                .entry(usize::from(p.0.shard) % self.0.cores)
                .or_default()
                .push(p);
        }
        let bytes = if by_core.len() > 1 {
            1
        } else {
            u64::from(min_bytes)
        };
        let mut calls: Vec<_> = by_core
            .into_iter()
            .map(|(core, positions)| {
                self.at(
                    core,
                    Request::Wait {
                        id: 0,
                        positions,
                        bytes,
                        deadline,
                    },
                )
            })
            .collect();
        if calls.is_empty() {
            return sleep_until(deadline).await;
        }
        std::future::poll_fn(|cx| {
            if calls
                .iter_mut()
                .any(|call| call.as_mut().poll(cx).is_ready())
            {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await
    }

    pub async fn offsets(
        &self,
        queries: Vec<(PartitionRef, OffsetQuery, Isolation)>,
    ) -> Vec<Result<OffsetAnswer, ReadError>> {
        self.split(
            queries,
            |q| q.0,
            Request::Offsets,
            |r| match r {
                Reply::Offsets(v) => v,
                _ => unreachable!(),
            },
        )
        .await
    }

    pub async fn delete_records(
        &self,
        partitions: Vec<(PartitionRef, Offset)>,
    ) -> Vec<Result<Offset, ReadError>> {
        self.split(
            partitions,
            |q| q.0,
            Request::DeleteRecords,
            |r| match r {
                Reply::DeleteRecords(v) => v,
                _ => unreachable!(),
            },
        )
        .await
    }

    pub async fn describe(
        &self,
        partitions: Vec<PartitionRef>,
    ) -> Vec<Result<PartitionInfo, ReadError>> {
        self.split(
            partitions,
            |q| *q,
            Request::Describe,
            |r| match r {
                Reply::Describe(v) => v,
                _ => unreachable!(),
            },
        )
        .await
    }

    pub fn stats(&self) -> ShardStats {
        ShardStats::default()
    }

    pub async fn shutdown(&self) {}
}

fn done(reply: Reply) -> Vec<Result<(), EngineError>> {
    match reply {
        Reply::Done(v) => v,
        _ => unreachable!(),
    }
}

fn append(
    parts: &mut BTreeMap<PartitionRef, Part>,
    append: Append,
) -> Result<Appended, AppendError> {
    let part = parts
        .get_mut(&append.partition)
        .ok_or(AppendError::UnknownPartition)?;
    if append.batches.len() > part.config.max_batch_bytes as usize {
        return Err(AppendError::BatchTooLarge {
            bytes: append.batches.len() as u64,
            max: part.config.max_batch_bytes,
        });
    }
    let mut bytes = BytesMut::from(&append.batches[..]);
    let base_offset = part.end;
    while !bytes.is_empty() {
        let one = Batches::new(&bytes)
            .next()
            .expect("not empty")
            .map_err(|_| AppendError::Invalid("batch"))?;
        let len = one.bytes().len();
        let mut one = bytes.split_to(len);
        batch::assign(&mut one, part.end, 0);
        let raw = batch::RawBatch::first(&one).map_err(|_| AppendError::Invalid("batch"))?;
        let (base, last, max_timestamp) = (
            part.end,
            raw.header().last_offset(),
            raw.header().max_timestamp(),
        );
        part.end = last + 1;
        part.batches.push(Batch {
            base,
            last,
            max_timestamp,
            bytes: one.freeze(),
        });
    }
    Ok(Appended {
        base_offset,
        last_offset: part.end - 1,
        log_append_time_ms: -1,
        log_start: part.start,
        duplicate: false,
    })
}

fn read(
    parts: &BTreeMap<PartitionRef, Part>,
    request: ReadRequest,
) -> Result<ReadResult, ReadError> {
    let part = parts
        .get(&request.partition)
        .ok_or(ReadError::UnknownPartition)?;
    if request.offset < part.start || request.offset > part.end {
        return Err(ReadError::OffsetOutOfRange {
            log_start: part.start,
            high_watermark: part.end,
        });
    }
    let mut result = ReadResult {
        parts: Default::default(),
        bytes: 0,
        high_watermark: part.end,
        last_stable_offset: part.end,
        log_start: part.start,
        next_offset: request.offset,
    };
    let first = part.batches.partition_point(|b| b.last < request.offset);
    for batch in &part.batches[first..] {
        let fits = result.bytes + batch.bytes.len() as u32 <= request.max_bytes;
        if !fits && (result.bytes > 0 || !request.at_least_one) {
            break;
        }
        result.bytes += batch.bytes.len() as u32;
        result.parts.push(ReadPart::Memory(batch.bytes.clone()));
        result.next_offset = batch.last + 1;
    }
    Ok(result)
}

fn offsets(
    parts: &BTreeMap<PartitionRef, Part>,
    p: PartitionRef,
    query: OffsetQuery,
) -> Result<OffsetAnswer, ReadError> {
    let part = parts.get(&p).ok_or(ReadError::UnknownPartition)?;
    let none = OffsetAnswer {
        offset: -1,
        timestamp_ms: -1,
        leader_epoch: -1,
    };
    Ok(match query {
        OffsetQuery::Earliest => OffsetAnswer {
            offset: part.start,
            leader_epoch: 0,
            ..none
        },
        OffsetQuery::Latest => OffsetAnswer {
            offset: part.end,
            leader_epoch: 0,
            ..none
        },
        OffsetQuery::MaxTimestamp => {
            part.batches
                .iter()
                .max_by_key(|b| b.max_timestamp)
                .map_or(none, |b| OffsetAnswer {
                    offset: b.last,
                    timestamp_ms: b.max_timestamp,
                    leader_epoch: 0,
                })
        }
        OffsetQuery::ByTime(time) => part
            .batches
            .iter()
            .find(|b| b.max_timestamp >= time)
            .map_or(none, |b| OffsetAnswer {
                offset: b.base,
                timestamp_ms: b.max_timestamp,
                leader_epoch: 0,
            }),
        OffsetQuery::EpochEnd(_) => OffsetAnswer {
            offset: part.end,
            timestamp_ms: -1,
            leader_epoch: 0,
        },
    })
}

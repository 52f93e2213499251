//! The asynchronous shell around the coordinators: routes requests to the core that owns a group, persists mutations,
//! lets time pass.
//!
//! A group lives in group partition `hash(group) % GROUP_PARTITIONS`, its coordinator on the core that serves that
//! partition's shard. Requests from other cores are mailed there with their decoded bodies. A mail is always answered
//! soon: a JoinGroup or SyncGroup that has to wait for other members is answered "parked", which gives its mail credit
//! back, and its reply comes as a mail of its own. So any number of waiting members leaves the way free for the very
//! requests they wait for.
//!
//! Writes: one task per group partition takes what has been mutated, appends it as one batch and, when that is durable,
//! releases the replies. What arrives meanwhile makes the next batch: commits coalesce by themselves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::list_groups_response::ListGroupsResponseData;
use trireme_engine::Engine;
use trireme_engine::api::{AppendError, PartitionRef};
use trireme_engine::mutations::{Mutation, on};
use trireme_engine::table_store::{self, TableError, TableStore};
use trireme_replication::{GROUP_PARTITIONS, Metadata};
use trireme_runtime::mail::Service;
use trireme_runtime::sync::{Notify, OneReceiver, OneSender, oneshot};
use trireme_runtime::{Instant, spawn};

use super::{
    Coordinator, GroupConfig, GroupReply, GroupRequest, InUse, Now, PersistError, Token, error,
    refusal,
};

/// Bytes of mutations that go into one append: well below the largest batch of an internal partition, and more than a
/// thousand commits.
const MAX_WRITE_BYTES: usize = 800 * 1024;

/// A partition that could not be loaded answers COORDINATOR_NOT_AVAILABLE for as long as the broker runs; one that was
/// refused a write tries the next one not before this.
const WRITE_RETRY_MS: u64 = 100;

/// Mail between the shells.
#[derive(Debug)]
pub enum GroupMail {
    /// A request for the group partition `partition`. `token` is the asker's, for an answer that comes later.
    Ask {
        partition: u32,
        token: Token,
        request: GroupRequest,
    },
    /// The answer to an earlier Ask that was parked.
    Answer { token: Token, reply: GroupReply },
}

/// Answers to [`GroupMail`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // lives for a moment; a box would be an allocation per answer
pub enum GroupMailReply {
    Done(GroupReply),
    /// The reply comes in a [`GroupMail::Answer`].
    Parked,
    /// To an Answer.
    Received,
}

/// One core's handle on all groups of the node. Cheap to clone.
#[derive(Clone)]
pub struct Groups(Rc<Shell>);

struct Shell {
    mail: Service<GroupMail, GroupMailReply>,
    /// Which core owns a group partition.
    homes: Vec<usize>,
    /// This core's partitions by index; None for those of other cores.
    local: Vec<Option<Rc<Local>>>,
    /// Asks of this core that another core has parked.
    parked: RefCell<BTreeMap<Token, OneSender<GroupReply>>>,
    tokens: Cell<Token>,
    in_use: InUse,
}

/// A coordinator with its surroundings.
struct Local {
    partition: u32,
    coordinator: RefCell<Coordinator>,
    status: Cell<Status>,
    /// Nobody may begin to wait any more.
    releasing: Cell<bool>,
    waiting: RefCell<BTreeMap<Token, OneSender<GroupReply>>>,
    tokens: Cell<Token>,
    /// There is something to write.
    dirty: Notify,
    /// A deadline moved forward.
    timers: Notify,
    /// What the timer task sleeps for, in monotonic ms.
    sleeping_until_ms: Cell<Option<i64>>,
    /// Everything was written.
    idle: Notify,
    writing: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Loading,
    Ready,
    Failed,
    Stopped,
}

/// Home partition of a group. Part of the data format: a group is looked for where it was written (FNV-1a, 32 bit).
pub fn group_partition(group: &str) -> u32 {
    let hash = group.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash % GROUP_PARTITIONS
}

fn now() -> Now {
    let monotonic_ms = (trireme_runtime::now().as_nanos() / 1_000_000) as i64;
    Now {
        monotonic_ms,
        unix_ms: trireme_runtime::unix_ms(),
    }
}

fn at(monotonic_ms: i64) -> Instant {
    Instant::from_nanos(monotonic_ms.max(0) as u64 * 1_000_000)
}

impl Groups {
    /// On every core, with that core's end of one service. Returns at once; groups are loaded in the background, and until
    /// then their requests are answered with COORDINATOR_LOAD_IN_PROGRESS.
    pub fn open(
        engine: Engine,
        metadata: Metadata,
        mail: Service<GroupMail, GroupMailReply>,
        core: usize,
        cores: usize,
        config: GroupConfig,
    ) -> Groups {
        let partitions: Vec<PartitionRef> = (0..GROUP_PARTITIONS)
            .map(|i| metadata.group_partition(i))
            .collect();
        let homes: Vec<usize> = partitions
            .iter()
            .map(|p| usize::from(p.shard) % cores)
            .collect();
        let local = (0..GROUP_PARTITIONS)
            .map(|i| (homes[i as usize] == core).then(|| Rc::new(Local::new(i, config.clone()))))
            .collect();
        let groups = Groups(Rc::new(Shell {
            mail,
            homes,
            local,
            parked: RefCell::default(),
            tokens: Cell::new(0),
            in_use: config.in_use.clone(),
        }));
        for local in groups.0.local.iter().flatten() {
            let partition = partitions[local.partition as usize];
            spawn(run(
                local.clone(),
                engine.clone(),
                metadata.clone(),
                partition,
                config.clone(),
            ))
            .detach();
        }
        let server = groups.clone();
        spawn(async move { server.serve().await }).detach();
        groups
    }

    /// See [`InUse`].
    pub fn in_use(&self) -> &InUse {
        &self.0.in_use
    }

    /// Asks the coordinator of the request's group. The request is under way when this returns, in the order of calls on
    /// this core. (Lists are asked for with [`list`](Self::list).)
    pub fn ask(&self, request: GroupRequest) -> impl Future<Output = GroupReply> + use<> {
        self.ask_partition(group_partition(request.group()), request)
    }

    fn ask_partition(
        &self,
        partition: u32,
        request: GroupRequest,
    ) -> impl Future<Output = GroupReply> + use<> {
        let shell = self.0.clone();
        let begun = match &shell.local[partition as usize] {
            Some(local) => Begun::Here(local.begin(request)),
            None => {
                let token = shell.tokens.replace(shell.tokens.get() + 1);
                let (sender, receiver) = oneshot();
                shell.parked.borrow_mut().insert(token, sender);
                let mail = GroupMail::Ask {
                    partition,
                    token,
                    request,
                };
                Begun::There(
                    shell.mail.call(shell.homes[partition as usize], mail),
                    token,
                    receiver,
                )
            }
        };
        async move {
            match begun {
                Begun::Here(receiver) => lost(receiver.await),
                Begun::There(call, token, receiver) => match call.await {
                    GroupMailReply::Done(reply) => {
                        shell.parked.borrow_mut().remove(&token);
                        reply
                    }
                    GroupMailReply::Parked => lost(receiver.await),
                    GroupMailReply::Received => {
                        unreachable!("an Ask is answered with Done or Parked")
                    }
                },
            }
        }
    }

    /// All groups of the node that pass the filters.
    pub async fn list(
        &self,
        states: Vec<KafkaString>,
        types: Vec<KafkaString>,
    ) -> ListGroupsResponseData {
        let asks: Vec<_> = (0..GROUP_PARTITIONS)
            .map(|i| {
                self.ask_partition(
                    i,
                    GroupRequest::List {
                        states: states.clone(),
                        types: types.clone(),
                    },
                )
            })
            .collect();
        let mut all = ListGroupsResponseData::default();
        for ask in asks {
            match ask.await {
                GroupReply::List(list) if list.error_code == error::NONE => {
                    all.groups.extend(list.groups)
                }
                GroupReply::List(list) => {
                    return ListGroupsResponseData {
                        error_code: list.error_code,
                        ..list
                    };
                }
                other => unreachable!("ListGroups answered with {other:?}"),
            }
        }
        all
    }

    /// Changes the settings of this core's groups.
    pub fn configure(&self, config: &GroupConfig) {
        for local in self.0.local.iter().flatten() {
            local.coordinator.borrow_mut().configure(config.clone());
        }
    }

    /// Groups and committed offsets of this core.
    pub fn counts(&self) -> (usize, usize) {
        let counts = self
            .0
            .local
            .iter()
            .flatten()
            .map(|local| local.coordinator.borrow().counts());
        counts.fold((0, 0), |(groups, offsets), (g, o)| {
            (groups + g, offsets + o)
        })
    }

    /// Group, topic, partition and offset of at most `limit` commits of this core's groups, for metrics.
    pub fn committed(&self, limit: usize) -> Vec<(String, Arc<str>, i32, i64)> {
        let mut all = Vec::new();
        for local in self.0.local.iter().flatten() {
            let coordinator = local.coordinator.borrow();
            let commits = coordinator.committed().take(limit - all.len());
            all.extend(commits.map(|(group, topic, partition, offset)| {
                (group.to_owned(), topic.clone(), partition, offset)
            }));
        }
        all
    }

    /// The broker is about to stop: members that wait for others are sent to look for another coordinator, and no more
    /// may join. Everything else is still served.
    pub fn release(&self) {
        for local in self.0.local.iter().flatten() {
            local.releasing.set(true);
            local.coordinator.borrow_mut().release();
            local.flush();
        }
    }

    /// Refuses all requests; returns when what was accepted before is durable and answered.
    pub async fn shutdown(&self) {
        self.release();
        for local in self.0.local.iter().flatten() {
            local.status.set(Status::Stopped);
            while local.writing.get() || local.coordinator.borrow().has_batch() {
                local.idle.notified().await;
            }
        }
    }

    async fn serve(&self) {
        let shell = self.0.clone();
        let handler = move |from: usize, mail: GroupMail| {
            let shell = shell.clone();
            let begun = match mail {
                GroupMail::Ask {
                    partition,
                    token,
                    request,
                } => {
                    let parks = matches!(request, GroupRequest::Join(..) | GroupRequest::Sync(..));
                    let local = shell.local.get(partition as usize).and_then(Option::as_ref);
                    let local = local.expect("every core computes the same homes");
                    Some((local.begin(request), token, parks))
                }
                GroupMail::Answer { token, reply } => {
                    if let Some(sender) = shell.parked.borrow_mut().remove(&token) {
                        // The asker's connection may be gone.
                        let _ = sender.send(reply);
                    }
                    None
                }
            };
            async move {
                let Some((mut receiver, token, parks)) = begun else {
                    return GroupMailReply::Received;
                };
                if !parks {
                    return GroupMailReply::Done(lost(receiver.await));
                }
                if let Poll::Ready(reply) =
                    poll_fn(|context| Poll::Ready(Pin::new(&mut receiver).poll(context))).await
                {
                    return GroupMailReply::Done(lost(reply));
                }
                spawn(async move {
                    let reply = lost(receiver.await);
                    shell
                        .mail
                        .call(from, GroupMail::Answer { token, reply })
                        .await;
                })
                .detach();
                GroupMailReply::Parked
            }
        };
        self.0.mail.serve(handler).await;
    }
}

enum Begun {
    Here(OneReceiver<GroupReply>),
    There(
        trireme_runtime::mail::Call<GroupMailReply>,
        Token,
        OneReceiver<GroupReply>,
    ),
}

/// A coordinator answers every token, and lives as long as its core.
fn lost(reply: Result<GroupReply, trireme_runtime::sync::Canceled>) -> GroupReply {
    reply.expect("a coordinator answers every request")
}

impl Local {
    fn new(partition: u32, config: GroupConfig) -> Local {
        Local {
            partition,
            coordinator: RefCell::new(Coordinator::new(config)),
            status: Cell::new(Status::Loading),
            releasing: Cell::new(false),
            waiting: RefCell::default(),
            tokens: Cell::new(0),
            dirty: Notify::new(),
            timers: Notify::new(),
            sleeping_until_ms: Cell::new(None),
            idle: Notify::new(),
            writing: Cell::new(false),
        }
    }

    fn begin(&self, request: GroupRequest) -> OneReceiver<GroupReply> {
        let (sender, receiver) = oneshot();
        let waits = matches!(request, GroupRequest::Join(..) | GroupRequest::Sync(..));
        let code = match self.status.get() {
            _ if waits && self.releasing.get() => error::NOT_COORDINATOR,
            Status::Ready => error::NONE,
            Status::Loading => error::COORDINATOR_LOAD_IN_PROGRESS,
            Status::Failed => error::COORDINATOR_NOT_AVAILABLE,
            Status::Stopped => error::NOT_COORDINATOR,
        };
        if code != error::NONE {
            let _ = sender.send(refusal(&request, code));
            return receiver;
        }
        let mut random = [0; 16];
        if matches!(request, GroupRequest::Join(..)) {
            trireme_runtime::random_bytes(&mut random);
        }
        let token = self.tokens.replace(self.tokens.get() + 1);
        self.waiting.borrow_mut().insert(token, sender);
        self.coordinator
            .borrow_mut()
            .handle(token, request, now(), random);
        self.flush();
        receiver
    }

    /// Sends out what the coordinator has ready, and wakes whoever has to go on.
    fn flush(&self) {
        let mut coordinator = self.coordinator.borrow_mut();
        for (token, reply) in coordinator.take_replies() {
            if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                // The asker's connection may be gone.
                let _ = sender.send(reply);
            }
        }
        if coordinator.has_batch() && !self.writing.get() {
            self.dirty.notify_one();
        }
        let next_ms = coordinator.next_deadline_ms();
        if next_ms.is_some_and(|next| {
            self.sleeping_until_ms
                .get()
                .is_none_or(|sleeping| next < sleeping)
        }) {
            self.timers.notify_one();
        }
    }
}

/// Loads the partition, then keeps it going.
async fn run(
    local: Rc<Local>,
    engine: Engine,
    metadata: Metadata,
    partition: PartitionRef,
    config: GroupConfig,
) {
    let store = match load(&local, engine, partition).await {
        Ok(store) => store,
        Err(problem) => {
            tracing::error!(partition = local.partition, %problem, "groups cannot be loaded; theirs are not served");
            local.status.set(Status::Failed);
            return;
        }
    };
    local.coordinator.borrow_mut().start(now());
    let (groups, offsets) = local.coordinator.borrow().counts();
    if groups > 0 {
        config.in_use.set();
    }
    tracing::debug!(
        partition = local.partition,
        groups,
        offsets,
        "groups loaded"
    );
    if local.status.get() == Status::Loading {
        local.status.set(Status::Ready);
    }
    spawn(let_time_pass(local.clone())).detach();
    spawn(expire_offsets(
        local.clone(),
        config.offsets_retention_check_interval_ms,
    ))
    .detach();
    spawn(forget_deleted_topics(local.clone(), metadata)).detach();
    local.flush();
    write(local, store).await;
}

async fn load(
    local: &Local,
    engine: Engine,
    partition: PartitionRef,
) -> Result<TableStore, String> {
    let store = TableStore::open(engine, partition)
        .await
        .map_err(|e| e.to_string())?;
    store.with(|table| {
        let mut coordinator = local.coordinator.borrow_mut();
        table
            .iter()
            .try_for_each(|(key, value)| coordinator.load(key, value).map_err(|e| e.to_string()))
    })?;
    Ok(store)
}

async fn write(local: Rc<Local>, store: TableStore) {
    loop {
        let batch = local.coordinator.borrow_mut().take_batch(MAX_WRITE_BYTES);
        let Some((number, mutations)) = batch else {
            local.writing.set(false);
            local.idle.notify_all();
            local.dirty.notified().await;
            // Whoever else runs in this turn may have more for this batch.
            trireme_runtime::yield_now().await;
            local.writing.set(true);
            continue;
        };
        let mutations = mutations
            .into_iter()
            .map(|m| table_store::Mutation {
                key: m.key,
                value: m.value,
            })
            .collect();
        let commit = store.commit(mutations);
        let result = match on(Mutation::CommitAtOnce) {
            true => {
                trireme_runtime::spawn(commit).detach();
                Ok(())
            }
            false => commit.await,
        };
        let result = result.map_err(|problem| {
            tracing::warn!(partition = local.partition, %problem, "group changes refused");
            match problem {
                TableError::Append(AppendError::ShuttingDown) => PersistError::ShuttingDown,
                _ => PersistError::Refused,
            }
        });
        local
            .coordinator
            .borrow_mut()
            .written(number, result, now());
        local.flush();
        if result.is_err() {
            trireme_runtime::sleep(Duration::from_millis(WRITE_RETRY_MS)).await;
        }
    }
}

async fn let_time_pass(local: Rc<Local>) {
    loop {
        let next_ms = local.coordinator.borrow().next_deadline_ms();
        local.sleeping_until_ms.set(next_ms);
        let moved = local.timers.notified();
        match next_ms {
            None => moved.await,
            Some(next_ms) => {
                let left = at(next_ms).duration_since(trireme_runtime::now());
                // Either way there is something to look at.
                let _ = trireme_runtime::timeout(left, moved).await;
            }
        }
        if local.status.get() == Status::Stopped {
            return;
        }
        local.coordinator.borrow_mut().tick(now());
        local.flush();
    }
}

async fn expire_offsets(local: Rc<Local>, interval_ms: i64) {
    loop {
        trireme_runtime::sleep(Duration::from_millis(interval_ms.max(1) as u64)).await;
        if local.status.get() == Status::Stopped {
            return;
        }
        local.coordinator.borrow_mut().expire_offsets(now());
        local.flush();
    }
}

/// Offsets are kept by topic name: those of a topic that is gone must not be taken for those of its successor.
async fn forget_deleted_topics(local: Rc<Local>, metadata: Metadata) {
    let mut image = metadata.image();
    local
        .coordinator
        .borrow_mut()
        .retain_topics(|topic| image.topic(topic).is_some(), now());
    local.flush();
    loop {
        metadata.changed().await;
        let newer = metadata.image();
        for (id, topic) in &image.by_id {
            if newer.topic_by_id(id).is_none() {
                local
                    .coordinator
                    .borrow_mut()
                    .topic_deleted(&topic.name, now());
            }
        }
        image = newer;
        local.flush();
    }
}

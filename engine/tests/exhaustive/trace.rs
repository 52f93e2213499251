//! The trace: some thousand operations on an engine in several lives, the same for the same seed, and a life of it again
//! from any disk.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use trireme_engine::*;
use trireme_runtime::service;
use trireme_runtime::sim::{DiskImage, NodeId, Simulation, Survivors};

use crate::check::{Problem, check};
use crate::knowledge::*;

pub const OPERATIONS: u64 = 1000;
/// Operations of a life, and so at most what a fault is followed by.
pub const OPERATIONS_PER_LIFE: u64 = 40;
/// A life that takes more steps stands still.
const STEPS_MAX: u64 = 3_000_000;
const PARTITIONS_MAX: usize = 5;

/// A small engine, so that everything happens often.
pub fn config() -> EngineConfig {
    EngineConfig {
        shards: 1,
        tail_memory_bytes: 1 << 20,
        unflushed_max_bytes: 256 << 10,
        wal_file_bytes: 256 << 10,
        first_wal_file_bytes: 32 << 10,
        direct_min_bytes: 40 << 10,
        retention_check_interval_ms: 200,
        reserve_bytes: 0,
        ..EngineConfig::new("/data")
    }
}

/// xorshift.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| {
            dice.roll(2);
        });
        dice
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// What the client knows, and the events that it knows it from.
#[derive(Default)]
pub struct Told {
    pub knowledge: Knowledge,
    pub events: Vec<Event>,
}

/// Shared by the client inside a simulation and whoever watches from outside.
#[derive(Clone, Default)]
pub struct Client {
    pub told: Rc<RefCell<Told>>,
    pub end: Rc<RefCell<Option<Result<(), LifeError>>>>,
    /// Appends and others that the engine refused.
    pub refused: Rc<Cell<u64>>,
    pub seen: Rc<RefCell<ShardStats>>,
}

/// Why a life ended early.
#[derive(Clone, Debug)]
pub enum LifeError {
    DoesNotOpen(String),
    Problem(Problem),
}

impl Client {
    pub fn knowing(knowledge: Knowledge) -> Client {
        let client = Client::default();
        client.told.borrow_mut().knowledge = knowledge;
        client
    }

    pub fn tell(&self, event: Event) {
        let mut told = self.told.borrow_mut();
        told.knowledge.apply(&event);
        told.events.push(event);
    }

    fn ask<T>(&self, f: impl FnOnce(&Knowledge) -> T) -> T {
        f(&self.told.borrow().knowledge)
    }

    fn refuse(&self) {
        self.refused.set(self.refused.get() + 1);
    }
}

pub async fn open() -> Result<(DataDir, Engine), OpenError> {
    let dir = DataDir::open(&config()).await?;
    let shards = dir.shards;
    let mail = service(1).pop().expect("one");
    let engine = Engine::open(EngineConfig { shards, ..config() }, 0, 1, mail).await?;
    Ok((dir, engine))
}

/// Opens and checks; what was learned is told.
pub async fn recall(client: &Client, read_bytes: u32) -> Result<(DataDir, Engine), LifeError> {
    let (dir, engine) = open()
        .await
        .map_err(|error| LifeError::DoesNotOpen(error.to_string()))?;
    let knowledge = client.told.borrow().knowledge.clone();
    let learned = check(&engine, &knowledge, read_bytes)
        .await
        .map_err(LifeError::Problem)?;
    learned.into_iter().for_each(|event| client.tell(event));
    let configs = client.ask(|knowledge| {
        let living = knowledge
            .partitions
            .iter()
            .filter(|(_, known)| known.lives());
        living
            .map(|(index, _)| (partition(*index), partition_config(*index)))
            .collect()
    });
    engine.configure(configs).await;
    Ok((dir, engine))
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Shutdown,
    Kill,
    PowerCut,
}

/// A part of the trace.
#[derive(Clone)]
pub struct Life {
    pub seed: u64,
    pub operations: Range<u64>,
    pub end: End,
    /// What it starts from; `None` is an empty disk.
    pub disk: Option<DiskImage>,
    /// Events told before.
    pub events: usize,
}

impl Life {
    /// Starts it in a simulation of its own.
    pub fn start(&self, client: &Client) -> (Simulation, NodeId) {
        let mut sim = Simulation::new(self.seed);
        let (life, client) = (self.clone(), client.clone());
        let main = move |_| {
            let (life, client) = (life.clone(), client.clone());
            async move {
                let result = live(&life, &client).await;
                *client.end.borrow_mut() = Some(result);
                if life.end != End::Shutdown {
                    std::future::pending::<()>().await;
                }
            }
        };
        let node = match &self.disk {
            Some(disk) => sim.node_with_disk(disk.clone(), 1, main),
            None => sim.node(1, main),
        };
        (sim, node)
    }
}

/// Runs until the client has come to an end or the node is gone. `Err` if it stands still.
pub fn run(sim: &mut Simulation, client: &Client) -> Result<(), Problem> {
    let mut steps = 0;
    let end = client.end.clone();
    sim.run_until(|| {
        steps += 1;
        end.borrow().is_some() || steps > STEPS_MAX
    });
    match steps > STEPS_MAX {
        true => Err(Problem::Wrong("it stands still".into())),
        false => Ok(()),
    }
}

async fn live(life: &Life, client: &Client) -> Result<(), LifeError> {
    let (_dir, engine) = recall(client, 20_000).await?;
    for operation in life.operations.clone() {
        let mut dice = Dice::new(life.seed << 20 | operation);
        operate(&engine, client, &mut dice).await?;
    }
    *client.seen.borrow_mut() = engine.stats();
    if life.end == End::Shutdown {
        engine.shutdown().await;
    }
    Ok(())
}

/// Numbers of the partitions that live.
fn living(client: &Client) -> Vec<u32> {
    client.ask(|knowledge| {
        let living = knowledge
            .partitions
            .iter()
            .filter(|(_, known)| known.lives());
        living.map(|(index, _)| *index).collect()
    })
}

async fn operate(engine: &Engine, client: &Client, dice: &mut Dice) -> Result<(), LifeError> {
    let living = living(client);
    if living.is_empty() {
        create(engine, client).await;
        return Ok(());
    }
    let index = living[dice.roll(living.len() as u64) as usize];
    match dice.roll(100) {
        0..45 => burst(engine, client, &living, dice).await,
        45..60 => idempotent(engine, client, index, dice).await,
        60..65 => again(engine, client, index).await?,
        65..73 => large(engine, client, index, dice).await,
        73..83 => {
            let pause = Duration::from_millis(1 + dice.roll(300));
            trireme_runtime::sleep(pause).await;
        }
        83..88 => delete_records(engine, client, index, dice).await,
        88..91 if living.len() < PARTITIONS_MAX => create(engine, client).await,
        91..94 if living.len() > 2 => delete(engine, client, index).await,
        _ => {
            let knowledge = client.told.borrow().knowledge.clone();
            match check(engine, &knowledge, 5000 + dice.roll(60_000) as u32).await {
                Ok(learned) => learned.into_iter().for_each(|event| client.tell(event)),
                // A disk that fails is the business of whoever made it fail.
                Err(Problem::Damaged(_)) => client.refuse(),
                Err(problem) => return Err(LifeError::Problem(problem)),
            }
        }
    }
    Ok(())
}

async fn create(engine: &Engine, client: &Client) {
    let index = client.ask(|k| {
        k.partitions
            .last_key_value()
            .map_or(0, |(last, _)| last + 1)
    });
    client.tell(Event::CreateAsked(index));
    let created = engine
        .create(vec![(partition(index), partition_config(index))])
        .await;
    match created[0] {
        Ok(()) => client.tell(Event::Created(index)),
        Err(_) => client.refuse(),
    }
}

async fn delete(engine: &Engine, client: &Client, index: u32) {
    client.tell(Event::DeleteAsked(index));
    match engine.delete(vec![partition(index)]).await[0] {
        Ok(()) => client.tell(Event::Deleted(index)),
        Err(_) => client.refuse(),
    }
}

async fn delete_records(engine: &Engine, client: &Client, index: u32, dice: &mut Dice) {
    let (start, end) = client.ask(|knowledge| {
        let known = &knowledge.partitions[&index];
        (known.log_start, known.end(&knowledge.batches))
    });
    let before = start + dice.roll((end - start).max(0) as u64 + 1) as i64;
    client.tell(Event::LogStartAsked(index, before));
    match engine
        .delete_records(vec![(partition(index), before)])
        .await
        .remove(0)
    {
        Ok(log_start) => client.tell(Event::LogStart(index, log_start)),
        Err(_) => client.refuse(),
    }
}

fn send(
    client: &Client,
    partition: u32,
    records: u32,
    value_bytes: u32,
    sequence: Option<i32>,
) -> Sent {
    let sent = Sent {
        tag: client.ask(Knowledge::next_tag),
        partition,
        records,
        value_bytes: value_bytes.max(VALUE_BYTES_MIN),
        sequence,
    };
    client.tell(Event::Sent(sent));
    sent
}

fn append_of(sent: &Sent) -> Append {
    let bytes: Bytes = sent.bytes().into();
    batch::validate(&bytes, &batch::Limits::client(usize::MAX)).expect("a valid batch");
    Append {
        partition: partition(sent.partition),
        batches: bytes,
        ack: Ack::Committed,
        may_use_reserve: false,
    }
}

fn answered(client: &Client, sent: &Sent, answer: Result<Appended, AppendError>) {
    match answer {
        Ok(appended) => client.tell(Event::Known(sent.tag, appended.base_offset)),
        Err(_) => {
            client.refuse();
            client.tell(Event::Refused(sent.tag));
        }
    }
}

/// Some appends at a time, to one partition or several.
async fn burst(engine: &Engine, client: &Client, living: &[u32], dice: &mut Dice) {
    let mut under_way = Vec::new();
    let only = living[dice.roll(living.len() as u64) as usize];
    let is_focused = dice.roll(2) == 0;
    for _ in 0..1 + dice.roll(4) {
        let index = match is_focused {
            true => only,
            false => living[dice.roll(living.len() as u64) as usize],
        };
        let bytes = match dice.roll(4) {
            0 => dice.roll(6000),
            _ => dice.roll(600),
        };
        let sent = send(client, index, 1 + dice.roll(3) as u32, bytes as u32, None);
        under_way.push((sent, engine.append(vec![append_of(&sent)])));
    }
    for (sent, answer) in under_way {
        let answer = answer.await.remove(0);
        answered(client, &sent, answer);
    }
}

/// A run that is long enough to go to its segment directly.
async fn large(engine: &Engine, client: &Client, index: u32, dice: &mut Dice) {
    // The first one finds its place not ready, and has it made.
    for _ in 0..3 {
        large_run(engine, client, index, dice).await;
        trireme_runtime::sleep(Duration::from_millis(30)).await;
    }
}

async fn large_run(engine: &Engine, client: &Client, index: u32, dice: &mut Dice) {
    let mut under_way = Vec::new();
    for _ in 0..4 + dice.roll(2) {
        let bytes = 11_000 + dice.roll(4_000);
        let sent = send(client, index, 1, bytes as u32, None);
        under_way.push((sent, engine.append(vec![append_of(&sent)])));
    }
    for (sent, answer) in under_way {
        let answer = answer.await.remove(0);
        answered(client, &sent, answer);
    }
}

/// A batch of the partition's idempotent producer; first what it has had no answer for.
async fn idempotent(engine: &Engine, client: &Client, index: u32, dice: &mut Dice) {
    let unanswered = client.ask(|knowledge| {
        let tags = &knowledge.partitions[&index].unanswered;
        let sent = tags.iter().map(|tag| knowledge.batches[tag].sent);
        sent.collect::<Vec<_>>()
    });
    for sent in unanswered {
        let answer = engine.append(vec![append_of(&sent)]).await.remove(0);
        if let Ok(appended) = answer {
            client.tell(Event::Known(sent.tag, appended.base_offset));
        } else {
            // It keeps its place: the next ones depend on it.
            return client.refuse();
        }
    }
    let sequence = client.ask(|knowledge| knowledge.partitions[&index].next_sequence);
    let sent = send(
        client,
        index,
        1 + dice.roll(3) as u32,
        dice.roll(900) as u32,
        Some(sequence),
    );
    let answer = engine.append(vec![append_of(&sent)]).await.remove(0);
    answered(client, &sent, answer);
}

/// The producer's last acknowledged batch once more: it is there already.
async fn again(engine: &Engine, client: &Client, index: u32) -> Result<(), LifeError> {
    let last = client.ask(|knowledge| {
        let known = &knowledge.partitions[&index];
        let mut newest = known.batches.iter().rev();
        let is_idempotent = |tag: &u64| knowledge.batches[tag].sent.sequence.is_some();
        let (base, tag) = newest.find(|(_, tag)| is_idempotent(tag))?;
        let is_last = known.unanswered.is_empty();
        is_last.then_some((*base, knowledge.batches[tag].sent))
    });
    let Some((base, sent)) = last else {
        return Ok(());
    };
    match engine.append(vec![append_of(&sent)]).await.remove(0) {
        Ok(appended) if appended.duplicate && appended.base_offset == base => Ok(()),
        Ok(appended) => Err(LifeError::Problem(Problem::Invented(format!(
            "{} was at {base} and is appended again: {appended:?}",
            sent.tag
        )))),
        Err(_) => {
            client.refuse();
            Ok(())
        }
    }
}

/// Several appends at a time that must go well.
pub async fn send_all(
    engine: &Engine,
    client: &Client,
    partition: u32,
    batches: u32,
    value_bytes: u32,
) {
    let under_way: Vec<_> = (0..batches)
        .map(|_| {
            let sent = send(client, partition, 1, value_bytes, None);
            (sent, engine.append(vec![append_of(&sent)]))
        })
        .collect();
    for (sent, answer) in under_way {
        let answer = answer.await.remove(0);
        answered(client, &sent, Ok(answer.expect("appended")));
    }
}

/// An append that must go well.
pub async fn send_and_await(
    engine: &Engine,
    client: &Client,
    partition: u32,
    records: u32,
    value_bytes: u32,
    sequence: Option<i32>,
) {
    let sent = send(client, partition, records, value_bytes, sequence);
    let answer = engine.append(vec![append_of(&sent)]).await.remove(0);
    answered(client, &sent, Ok(answer.expect("appended")));
}

/// An append to every partition, whatever it answers.
pub async fn use_it(engine: &Engine, client: &Client) {
    let living = living(client);
    let mut dice = Dice::new(1);
    create(engine, client).await;
    for index in living {
        let sent = send(client, index, 2, 100, None);
        let answer = engine.append(vec![append_of(&sent)]).await.remove(0);
        answered(client, &sent, answer);
        idempotent(engine, client, index, &mut dice).await;
    }
}

/// A moment of the trace, just before the disk changes.
pub struct Point {
    pub disk: DiskImage,
    /// Events told before.
    pub events: usize,
    pub life: usize,
    pub what: &'static str,
    pub path: String,
    pub range: Range<u64>,
}

pub struct Trace {
    pub lives: Vec<Life>,
    pub points: Vec<Point>,
    pub events: Vec<Event>,
    /// The disk behind the last life.
    pub last_disk: DiskImage,
    /// Disk calls of each life.
    pub calls: Vec<u64>,
    pub hash: u64,
    pub stats: ShardStats,
}

impl Trace {
    /// Runs the whole trace. `wants` chooses the moments to keep.
    pub fn run(seed: u64, wants: impl Fn(&str, &str) -> bool + Clone + 'static) -> Trace {
        let client = Client::default();
        let mut dice = Dice::new(seed);
        let mut trace = Trace {
            lives: Vec::new(),
            points: Vec::new(),
            events: Vec::new(),
            last_disk: DiskImage::default(),
            calls: Vec::new(),
            hash: 0,
            stats: ShardStats::default(),
        };
        let mut disk = None;
        let mut at = 0;
        while at < OPERATIONS {
            let to = (at + OPERATIONS_PER_LIFE).min(OPERATIONS);
            let end = match dice.roll(4) {
                0 => End::Shutdown,
                1 => End::Kill,
                _ => End::PowerCut,
            };
            let number = trace.lives.len();
            let life = Life {
                seed: seed << 8 | number as u64,
                operations: at..to,
                end,
                disk: disk.take(),
                events: client.told.borrow().events.len(),
            };
            *client.end.borrow_mut() = None;
            let (mut sim, node) = life.start(&client);
            let points: Rc<RefCell<Vec<Point>>> = Rc::default();
            let (kept, told, wants) = (points.clone(), client.told.clone(), wants.clone());
            sim.on_disk_change(node, move |boundary| {
                if wants(boundary.what, boundary.path) {
                    kept.borrow_mut().push(Point {
                        disk: boundary.image(),
                        events: told.borrow().events.len(),
                        life: number,
                        what: boundary.what,
                        path: boundary.path.to_owned(),
                        range: boundary.range.clone(),
                    });
                }
            });
            run(&mut sim, &client).expect("it goes on");
            let result = client.end.borrow_mut().take();
            match result {
                Some(Ok(())) => (),
                Some(Err(LifeError::Problem(problem))) => panic!("life {number}: {problem}"),
                Some(Err(LifeError::DoesNotOpen(why))) => panic!("life {number}: {why}"),
                None => panic!("life {number}: the engine ended itself"),
            }
            if end == End::Shutdown {
                sim.run_until_finished(node);
            } else {
                sim.kill(node);
            }
            let mut after = sim.disk_image(node);
            if end == End::PowerCut {
                after.crash(Survivors::Seeded(life.seed));
            }
            trace.calls.push(sim.disk_calls(node));
            trace.hash = trace.hash.rotate_left(5) ^ sim.trace_hash();
            trace.stats.add(&client.seen.borrow());
            trace.points.append(&mut points.borrow_mut());
            trace.lives.push(life);
            disk = Some(after);
            at = to;
        }
        trace.last_disk = disk.expect("at least one life");
        trace.events = std::mem::take(&mut client.told.borrow_mut().events);
        trace
    }

    /// What was known when so many events had been told.
    pub fn knowledge(&self, events: usize) -> Knowledge {
        let mut knowledge = Knowledge::default();
        self.events[..events]
            .iter()
            .for_each(|event| knowledge.apply(event));
        knowledge
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = &self.stats;
        write!(
            f,
            "trace: {OPERATIONS} operations in {} lives, {} disk calls, {} changes; {} bytes appended, {} groups, {} direct runs, {} flushes, \
             {} checkpoints, {} bytes carried, {} recovered; hash {:x}",
            self.lives.len(),
            self.calls.iter().sum::<u64>(),
            self.points.len(),
            stats.appended_bytes,
            stats.groups,
            stats.direct_runs,
            stats.flushes,
            stats.checkpoints,
            stats.carried_bytes,
            stats.recovered_bytes,
            self.hash
        )
    }
}

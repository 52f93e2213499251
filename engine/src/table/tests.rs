use proptest::prelude::*;

use super::*;
use crate::batch::{BatchHeader, HEADER_BYTES, assign};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A log as the engine keeps one: offsets assigned at the append, all or nothing per append.
#[derive(Default)]
struct Log {
    start: Offset,
    end: Offset,
    batches: Vec<(Offset, Vec<u8>)>,
}

impl Log {
    /// Returns the offset behind them.
    fn append(&mut self, mut batches: Vec<u8>) -> Offset {
        let mut at = 0;
        while at < batches.len() {
            assign(&mut batches[at..at + HEADER_BYTES], self.end, 0);
            let header = BatchHeader::view(&batches[at..]).unwrap();
            let (next, length) = (header.next_offset(), header.total_bytes().unwrap());
            assert!(length <= TABLE_BATCH_BYTES_MAX, "{length}");
            self.batches
                .push((self.end, batches[at..at + length].to_vec()));
            self.end = next;
            at += length;
        }
        self.end
    }

    fn advance(&mut self, start: Offset) {
        assert!(start >= self.start && start <= self.end);
        assert!(
            start == self.end || self.batches.iter().any(|(base, _)| *base == start),
            "starts with a batch"
        );
        self.start = start;
        self.batches.retain(|(base, _)| *base >= start);
    }

    /// A crash: what is not durable is gone.
    fn cut(&mut self, end: Offset) {
        self.end = end;
        self.batches.retain(|(base, _)| *base < end);
    }

    fn bytes(&self) -> u64 {
        self.batches
            .iter()
            .map(|(_, batch)| batch.len() as u64)
            .sum()
    }

    fn recover(&self) -> Table {
        let mut table = Table::new(self.start);
        for (_, batch) in &self.batches {
            table.apply(batch).expect("our own log");
        }
        assert_eq!(table.log_bytes(), self.bytes());
        table
    }
}

fn contents(table: &Table) -> Vec<(Bytes, Bytes)> {
    table
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Appends, and does everything that compaction asks for.
fn commit(table: &mut Table, log: &mut Log, changes: Vec<Change>) {
    let staged = table.stage(changes, 0).unwrap();
    let next = log.append(staged.batches);
    table.committed(staged.ticket, next);
    settle(table, log);
}

fn settle(table: &mut Table, log: &mut Log) {
    while let Some(step) = table.compact(0) {
        match step {
            Step::Append(staged) => {
                let next = log.append(staged.batches);
                table.committed(staged.ticket, next);
            }
            Step::AdvanceLogStart(start) => log.advance(start),
        }
    }
}

#[test]
fn put_get_remove() {
    let (mut table, mut log) = (Table::new(0), Log::default());
    let staged = table
        .stage(
            [
                (bytes("a"), Some(bytes("1"))),
                (bytes("b"), Some(bytes("2"))),
            ],
            0,
        )
        .unwrap();
    assert_eq!(table.get(b"a"), None, "not durable, not visible");
    table.committed(staged.ticket, log.append(staged.batches));
    assert_eq!(table.get(b"a"), Some(&bytes("1")));
    assert_eq!((table.len(), table.applied_to()), (2, 2));
    commit(
        &mut table,
        &mut log,
        vec![
            (bytes("a"), None),
            (bytes("c"), None),
            (bytes("b"), Some(bytes(""))),
        ],
    );
    assert_eq!(contents(&table), [(bytes("b"), bytes(""))]);
    assert_eq!(contents(&log.recover()), contents(&table));
    assert_eq!(log.recover().live_bytes(), table.live_bytes());
    let staged = table.stage([(bytes("b"), None)], 0).unwrap();
    table.refused(staged.ticket);
    assert_eq!(table.len(), 1);
    assert_eq!(table.stage([], 0).err(), Some(TableError::Empty));
}

#[test]
fn ranges_and_prefixes() {
    let (mut table, mut log) = (Table::new(0), Log::default());
    for key in ["a", "b/1", "b/2", "b0", "c"] {
        commit(&mut table, &mut log, vec![(bytes(key), Some(bytes("v")))]);
    }
    let keys = |entries: Vec<(&Bytes, &Bytes)>| -> Vec<String> {
        entries
            .iter()
            .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
            .collect()
    };
    assert_eq!(keys(table.prefix(b"b/").collect()), ["b/1", "b/2"]);
    assert_eq!(keys(table.prefix(b"").collect()).len(), 5);
    assert!(table.prefix(b"d").next().is_none());
    let range = (Bound::Excluded(&b"a"[..]), Bound::Included(&b"b0"[..]));
    assert_eq!(keys(table.range(range).collect()), ["b/1", "b/2", "b0"]);
}

#[test]
fn sizes() {
    let (mut table, mut log) = (Table::new(0), Log::default());
    let large = Bytes::from(vec![7; ENTRY_BYTES_MAX]);
    let refused = table.stage([(bytes("x"), Some(large.clone()))], 0).err();
    let too_large = TableError::EntryTooLarge {
        bytes: ENTRY_BYTES_MAX + 1,
        max: ENTRY_BYTES_MAX,
    };
    assert_eq!(refused, Some(too_large));
    // The largest entry, and a commit that takes several batches (their size is checked by the log).
    commit(
        &mut table,
        &mut log,
        vec![(Bytes::new(), Some(large.clone()))],
    );
    let many = (0..40u8)
        .map(|at| (Bytes::from(vec![at]), Some(large.slice(..100_000))))
        .collect();
    commit(&mut table, &mut log, many);
    assert_eq!(table.len(), 41);
    assert_eq!(contents(&log.recover()), contents(&table));
    table.begin_snapshot();
    settle(&mut table, &mut log);
    let chunks = log
        .batches
        .iter()
        .filter(|(_, batch)| batch.len() <= SNAPSHOT_CHUNK_BYTES)
        .count();
    assert_eq!(
        chunks,
        log.batches.len() - 1,
        "only the large one is above a chunk"
    );
    assert_eq!(contents(&log.recover()), contents(&table));
}

#[test]
fn foreign_records_are_named() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        value: Some(b"v"),
        ..Default::default()
    });
    let mut batch = builder.finish();
    assign(&mut batch, 7, 0);
    assert_eq!(
        Table::new(0).apply(&batch),
        Err(TableError::NoKey { offset: 7 })
    );
    let cut = Table::new(0).apply(&batch[..68]);
    assert!(matches!(cut, Err(TableError::Records { offset: 0, .. })));
    batch[65] ^= 1;
    let bent = Table::new(0).apply(&batch);
    assert!(matches!(bent, Err(TableError::Records { offset: 0, .. })));
}

fn many_commits_of_one_key(count: u32) {
    let (mut table, mut log) = (Table::new(0), Log::default());
    let mut log_bytes_max = 0;
    for at in 0..count {
        let value = Bytes::copy_from_slice(&at.to_le_bytes());
        commit(
            &mut table,
            &mut log,
            vec![(bytes("group/topic/0"), Some(value))],
        );
        if at % 1000 == 0 {
            log_bytes_max = log_bytes_max.max(log.bytes());
            assert_eq!(log.bytes(), table.log_bytes());
        }
    }
    assert!(log_bytes_max <= LOG_BYTES_MIN + 1000, "{log_bytes_max}");
    assert!(table.pending.is_empty() && table.snapshot.is_none());
    let recovered = log.recover();
    assert_eq!(
        contents(&recovered),
        [(
            bytes("group/topic/0"),
            Bytes::copy_from_slice(&(count - 1).to_le_bytes())
        )]
    );
    assert_eq!(recovered.applied_to(), table.applied_to());
}

#[test]
fn many_commits_of_one_key_stay_small() {
    many_commits_of_one_key(100_000);
}

#[test]
#[ignore = "a minute unless optimised; `cargo test --release -- --ignored ten_million`"]
fn ten_million_commits_of_one_key_stay_small() {
    many_commits_of_one_key(10_000_000);
}

#[test]
fn a_growing_table_is_not_compacted_for_nothing() {
    let (mut table, mut log) = (Table::new(0), Log::default());
    let mut written = 0;
    for at in 0..40_000u32 {
        let staged = table
            .stage(
                [(
                    Bytes::copy_from_slice(&at.to_be_bytes()),
                    Some(bytes("0123456789")),
                )],
                0,
            )
            .unwrap();
        written += staged.batches.len() as u64;
        table.committed(staged.ticket, log.append(staged.batches));
        while let Some(step) = table.compact(0) {
            match step {
                Step::Append(staged) => {
                    written += staged.batches.len() as u64;
                    table.committed(staged.ticket, log.append(staged.batches));
                }
                Step::AdvanceLogStart(start) => log.advance(start),
            }
        }
        assert!(table.log_bytes() <= LOG_BYTES_MIN.max(LOG_TO_LIVE_MAX * table.live_bytes()));
    }
    let commits = 40_000 * (HEADER_BYTES as u64 + 21);
    assert!(written < commits * 3 / 2, "{written} for {commits}");
}

#[test]
fn a_refused_snapshot_is_tried_again_later() {
    let (mut table, mut log) = (Table::new(0), Log::default());
    let mut refusals = 0;
    for at in 0..60_000u32 {
        let staged = table
            .stage(
                [(bytes("k"), Some(Bytes::copy_from_slice(&at.to_le_bytes())))],
                0,
            )
            .unwrap();
        table.committed(staged.ticket, log.append(staged.batches));
        while let Some(step) = table.compact(0) {
            match step {
                Step::Append(staged) if refusals < 3 => {
                    refusals += 1;
                    table.refused(staged.ticket);
                }
                Step::Append(staged) => table.committed(staged.ticket, log.append(staged.batches)),
                Step::AdvanceLogStart(start) => log.advance(start),
            }
        }
    }
    assert_eq!(refusals, 3);
    assert!(log.bytes() <= LOG_BYTES_MIN + 1000);
    assert_eq!(contents(&log.recover()), contents(&table));
}

#[derive(Clone, Debug)]
enum Op {
    /// Keys and values; whether the engine will refuse it.
    Stage(Vec<(u8, Option<u8>)>, bool),
    /// Tell the table of one append that is durable by now.
    Report(prop::sample::Index),
    /// Make some more of the log durable.
    Flush(prop::sample::Index),
    BeginSnapshot,
    Compact {
        is_refused: bool,
    },
    Crash(prop::sample::Index),
}

fn any_op() -> impl Strategy<Value = Op> {
    let change = (0u8..12, prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        8 => (prop::collection::vec(change, 1..4), prop::bool::weighted(0.2)).prop_map(|(changes, is_refused)| Op::Stage(changes, is_refused)),
        10 => any::<prop::sample::Index>().prop_map(Op::Report),
        6 => any::<prop::sample::Index>().prop_map(Op::Flush),
        2 => Just(Op::BeginSnapshot),
        6 => prop::bool::weighted(0.1).prop_map(|is_refused| Op::Compact { is_refused }),
        1 => any::<prop::sample::Index>().prop_map(Op::Crash),
    ]
}

fn entry(key: u8, value: Option<u8>) -> Change {
    // Values large enough that a snapshot of the twelve keys takes several chunks.
    (
        Bytes::from(vec![key; 3]),
        value.map(|value| Bytes::from(vec![value; 70_000])),
    )
}

/// A table, its log, and the truth: every change that was appended, by offset.
#[derive(Default)]
struct World {
    table: Table,
    log: Log,
    durable: Offset,
    /// Undecided: ticket, and the offset behind it, or none when it is to be refused.
    undecided: Vec<(Ticket, Option<Offset>)>,
    history: Vec<(Offset, u8, Option<u8>)>,
}

impl World {
    fn truth(&self, end: Offset) -> BTreeMap<Bytes, Bytes> {
        let mut map = BTreeMap::new();
        for (offset, key, value) in &self.history {
            let (key, value) = entry(*key, *value);
            match value {
                _ if *offset >= end => {}
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        map
    }

    fn decide(&mut self, at: usize) {
        match self.undecided.remove(at) {
            (ticket, Some(next)) => self.table.committed(ticket, next),
            (ticket, None) => self.table.refused(ticket),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Stage(changes, is_refused) => {
                let staged = self
                    .table
                    .stage(changes.iter().map(|(key, value)| entry(*key, *value)), 0)
                    .unwrap();
                let next = (!is_refused).then(|| {
                    let base = self.log.end;
                    let offsets = base..;
                    self.history.extend(
                        offsets
                            .zip(&changes)
                            .map(|(at, (key, value))| (at, *key, *value)),
                    );
                    self.log.append(staged.batches)
                });
                self.undecided.push((staged.ticket, next));
            }
            Op::Report(which) => {
                let durable = self.durable;
                let reportable: Vec<usize> = (0..self.undecided.len())
                    .filter(|at| self.undecided[*at].1.is_none_or(|next| next <= durable))
                    .collect();
                if !reportable.is_empty() {
                    self.decide(*which.get(&reportable));
                }
            }
            Op::Flush(which) => {
                let ends: Vec<Offset> = self
                    .undecided
                    .iter()
                    .filter_map(|(_, next)| *next)
                    .collect();
                if !ends.is_empty() {
                    self.durable = self.durable.max(*which.get(&ends));
                }
            }
            Op::BeginSnapshot => self.table.begin_snapshot(),
            Op::Compact { is_refused } => match self.table.compact(0) {
                None => {}
                Some(Step::AdvanceLogStart(start)) => {
                    assert!(start <= self.durable);
                    self.log.advance(start);
                }
                Some(Step::Append(staged)) => {
                    let next = (!is_refused).then(|| self.log.append(staged.batches));
                    self.undecided.push((staged.ticket, next));
                }
            },
            Op::Crash(which) => {
                // The end of the log is somewhere behind what was durable, at an append's end.
                let mut ends: Vec<Offset> = self
                    .undecided
                    .iter()
                    .filter_map(|(_, next)| *next)
                    .collect();
                ends.retain(|end| *end >= self.durable);
                ends.push(self.durable);
                let end = *which.get(&ends);
                self.log.cut(end);
                self.history.retain(|(offset, ..)| *offset < end);
                self.undecided.clear();
                self.durable = end;
                self.table = self.log.recover();
                self.check();
            }
        }
    }

    /// With nothing undecided the table is the truth; and the log always is.
    fn check(&self) {
        let all = |table: &Table| contents(table).into_iter().collect::<BTreeMap<_, _>>();
        if self.undecided.is_empty() {
            assert!(all(&self.table) == self.truth(self.log.end));
            assert_eq!(self.table.log_bytes(), self.log.bytes());
            let live: u64 = self
                .table
                .iter()
                .map(|(key, value)| entry_bytes(key, value))
                .sum();
            assert_eq!(self.table.live_bytes(), live);
        }
        assert!(all(&self.log.recover()) == self.truth(self.log.end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Random histories with refusals, reports out of order, snapshots at random points, commits in the middle of them, and
    /// crashes anywhere: the log always replays to the truth.
    #[test]
    fn the_log_replays_to_the_truth(ops in prop::collection::vec(any_op(), 1..80)) {
        let mut world = World::default();
        for op in ops {
            let changes_log = matches!(op, Op::Compact { .. });
            world.step(op);
            if changes_log {
                world.check();
            }
        }
        while !world.undecided.is_empty() {
            world.durable = world.log.end;
            world.decide(world.undecided.len() - 1);
        }
        world.check();
        settle(&mut world.table, &mut world.log);
        world.check();
    }
}

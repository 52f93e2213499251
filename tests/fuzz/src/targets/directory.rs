//! Whole data directories with changed bytes: the engine's start, and trireme-fsck.
//!
//! An input is a list of edits of nine bytes: which file, where (four bytes), how (cut it there, or put the other four bytes there).

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use trireme_engine::batch::Codec;
use trireme_engine::layout::{BLOCK, reseal};
use trireme_engine::{
    Ack, Append, DataDir, Engine, EngineConfig, Isolation, OffsetQuery, PartitionConfig,
    PartitionId, PartitionRef, ReadRequest, TopicId,
};
use trireme_fsck::dump::What;
use trireme_fsck::repair::{Ending, repair};
use trireme_fsck::{Directory, Options, Verdict, verify};
use trireme_runtime::sim::Simulation;
use trireme_runtime::{service, timeout};

use crate::seeds;

const EDIT_BYTES: usize = 9;
const EDITS_MAX: usize = 8;
/// Longer than any start of so small a directory, in the node's own time.
const START_MAX: Duration = Duration::from_secs(300);

/// A directory of this process, in memory where there is a file system for that.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        tempfile::Builder::new()
            .prefix("trireme-fuzz-")
            .tempdir_in(parent)
            .expect("scratch space")
    };
    SCRATCH.get_or_init(make).path()
}

fn config() -> EngineConfig {
    EngineConfig {
        shards: 1,
        tail_memory_bytes: 8 << 20,
        unflushed_max_bytes: 1 << 20,
        wal_file_bytes: 64 << 10,
        first_wal_file_bytes: 32 << 10,
        direct_min_bytes: 32 << 10,
        reserve_bytes: 0,
        ..EngineConfig::new("/data")
    }
}

fn partition(index: u32) -> PartitionRef {
    let topic = TopicId([7; 16]);
    PartitionRef {
        id: PartitionId { topic, index },
        shard: 0,
    }
}

/// An engine, and the lock of its directory.
async fn engine() -> Option<(DataDir, Engine)> {
    let dir = DataDir::open(&config()).await.ok()?;
    let mail = service(1).pop().expect("one core");
    let config = EngineConfig {
        shards: dir.shards,
        ..config()
    };
    let engine = Engine::open(config, 0, 1, mail).await.ok()?;
    Some((dir, engine))
}

async fn append(engine: &Engine, index: u32, batches: Vec<u8>) {
    let append = Append {
        partition: partition(index),
        batches: batches.into(),
        ack: Ack::Committed,
        may_use_reserve: true,
    };
    let _ = engine.append(vec![append]).await;
}

type PathAndBytes = (String, Vec<u8>);

/// The files of a directory that was killed (`false`) or cleanly shut, made once.
fn sample(clean: bool) -> &'static [PathAndBytes] {
    static SAMPLES: [OnceLock<Vec<PathAndBytes>>; 2] = [OnceLock::new(), OnceLock::new()];
    SAMPLES[usize::from(clean)].get_or_init(|| {
        let mut sim = Simulation::new(7);
        let done = Rc::new(Cell::new(false));
        let said = done.clone();
        let node = sim.node(1, move |_| {
            let said = said.clone();
            async move {
                let (_dir, engine) = engine().await.expect("an empty disk");
                let small = PartitionConfig {
                    segment_bytes: 16 << 10,
                    ..PartitionConfig::default()
                };
                let all = (0..3).map(|index| (partition(index), small.clone()));
                engine.create(all.collect()).await;
                for round in 0..24 {
                    let codec = seeds::CODECS[round % 5];
                    let sequence = 2 * round as i32;
                    append(&engine, 0, seeds::batch_from(codec, sequence, 2, 600)).await;
                    append(&engine, 1, seeds::batch_from(codec, sequence, 2, 20)).await;
                }
                append(&engine, 2, seeds::batch(Codec::None, 1, 40_000)).await;
                if clean {
                    engine.shutdown().await;
                }
                said.set(true);
                std::future::pending::<()>().await
            }
        });
        assert!(sim.run_until(|| done.get()));
        let mut files = sim.disk_image(node).files();
        files.retain(|(path, _)| path.starts_with("/data/"));
        files
    })
}

/// The edits of an input, applied to a sample: its files with their paths below the directory.
fn edited(input: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let (first, edits) = input.split_first()?;
    let mut files: Vec<(String, Vec<u8>)> = sample(first & 1 == 1)
        .iter()
        .map(|(path, bytes)| (path["/data/".len()..].to_owned(), bytes.clone()))
        .collect();
    let count = files.len();
    for edit in edits.chunks_exact(EDIT_BYTES).take(EDITS_MAX) {
        let (path, bytes) = &mut files[usize::from(edit[0]) % count];
        let at = u32::from_le_bytes(edit[1..5].try_into().expect("four bytes")) as usize;
        let at = at % (bytes.len() + 1);
        let how = edit[5];
        if how == 0 {
            bytes.truncate(at);
        } else {
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&edit[5..5 + end - at]);
        }
        // What is wrong under right check sums goes further.
        if how & 1 == 1 {
            reseal_file(path, bytes);
        }
    }
    Some(files)
}

fn reseal_file(path: &str, bytes: &mut [u8]) {
    if path.contains("checkpoint.") {
        reseal::checkpoint(bytes);
    } else if path == "format" {
        reseal::format(bytes);
    } else if let Some((partition, base, kind)) = sidecar_of(path) {
        for block in bytes.chunks_exact_mut(BLOCK) {
            let block = block.try_into().expect("a block's length");
            reseal::sidecar(partition, base, kind, block);
        }
    }
}

fn sidecar_of(path: &str) -> Option<(PartitionId, i64, u16)> {
    use trireme_engine::layout::paths::{DataPath, SegmentFile};
    match DataPath::parse(path)? {
        DataPath::Segment {
            partition,
            base_offset,
            file,
        } => {
            let kind = match file {
                SegmentFile::Log => return None,
                SegmentFile::Sum => 1,
                SegmentFile::Index => 2,
                SegmentFile::TimeIndex => 3,
            };
            Some((partition, base_offset, kind))
        }
        _ => None,
    }
}

/// A start from the edited directory; what starts is read from end to end, appended to and shut.
pub fn recovery(input: &[u8]) {
    let Some(files) = edited(input) else {
        return;
    };
    let mut sim = Simulation::new(3);
    let done = Rc::new(Cell::new(false));
    let (said, files) = (done.clone(), Rc::new(files));
    let node = sim.node(1, move |_| {
        let (said, files) = (said.clone(), files.clone());
        async move {
            for (path, bytes) in files.iter() {
                let path = Path::new("/data").join(path);
                let parent = path.parent().expect("it lies in a directory");
                let _ = trireme_runtime::fs::create_dir_all(parent).await;
                let _ = trireme_runtime::fs::replace_file(&path, bytes.clone()).await;
            }
            let lived = timeout(START_MAX, live()).await;
            assert!(lived.is_ok(), "the engine hangs");
            said.set(true);
            std::future::pending::<()>().await
        }
    });
    // A start that finds the impossible may end its process; it may not panic.
    let _ = sim.run_until(|| done.get());
    // Its tasks hold each other.
    if sim.is_running(node) {
        sim.kill(node);
    }
}

async fn live() {
    let Some((_dir, engine)) = engine().await else {
        return;
    };
    for partition in engine.list().await {
        let query = (partition, OffsetQuery::Earliest, Isolation::HighWatermark);
        let Some(Ok(first)) = engine.offsets(vec![query]).await.pop() else {
            continue;
        };
        let mut offset = first.offset;
        for _ in 0..100 {
            let request = ReadRequest {
                partition,
                offset,
                max_bytes: 64 << 10,
                at_least_one: true,
                isolation: Isolation::HighWatermark,
                leader_epoch: None,
            };
            match engine.read(vec![request]).await.pop() {
                Some(Ok(result)) if result.bytes > 0 => offset = result.next_offset,
                _ => break,
            }
        }
        let by_time = (partition, OffsetQuery::ByTime(0), Isolation::HighWatermark);
        let _ = engine.offsets(vec![by_time]).await;
    }
    append(&engine, 0, seeds::batch(Codec::None, 1, 10)).await;
    engine.shutdown().await;
}

/// Checks the edited directory and repairs it: after that it is sound.
pub fn fsck(input: &[u8]) {
    let Some(files) = edited(input) else {
        return;
    };
    let root = scratch().join("data");
    let _ = std::fs::remove_dir_all(&root);
    for (path, bytes) in &files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("it lies in a directory"))
            .expect("scratch space");
        std::fs::write(path, bytes).expect("scratch space");
    }
    let options = Options::with_threads(Some(1), &|_| {});
    verify(&Directory::new(&root), &options).expect("it can be listed");
    let Ok(outcome) = repair(&root, false, &options) else {
        return;
    };
    let edits = input[1..].chunks_exact(EDIT_BYTES).take(EDITS_MAX);
    if edits.into_iter().any(|edit| edit[5] & 1 == 1) {
        // Lies under right check sums are no damage that a disk does.
        return;
    }
    assert_ne!(outcome.ending, Ending::Damaged, "{outcome}");
    let after = verify(&Directory::new(&root), &options).expect("it can be listed");
    assert!(
        matches!(after.verdict(), Verdict::Clean | Verdict::TornTail),
        "{outcome}\n{after}"
    );
}

/// Whole blocks and small files, each as what it is, all cut to what an input can hold.
pub fn dump_seeds() -> Vec<Vec<u8>> {
    let kinds = NAMES.iter().zip(0u8..);
    let mut inputs = Vec::new();
    for (name, kind) in kinds {
        let suffix = &name[name.rfind(['.', '/']).unwrap_or(0)..];
        let found = sample(true).iter().find(|(path, _)| path.ends_with(suffix));
        if let Some((_, bytes)) = found {
            inputs.push([&[kind], &bytes[..bytes.len().min(8 << 10)]].concat());
        }
    }
    inputs
}

/// Names that `dump` tells the kind of a file by.
const NAMES: [&str; 8] = [
    "partitions/07070707070707070707070707070707-0/00000000000000000000.log",
    "partitions/07070707070707070707070707070707-0/00000000000000000000.sum",
    "partitions/07070707070707070707070707070707-0/00000000000000000000.index",
    "partitions/07070707070707070707070707070707-0/00000000000000000000.timeindex",
    "wal/000/checkpoint.0",
    "wal/000/checkpoint.1",
    "wal/000/000.wal",
    "format",
];

/// First byte: the kind of file; the rest: its bytes.
pub fn dump(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let root = scratch().join("dump");
    let path = root.join(NAMES[usize::from(*kind) % NAMES.len()]);
    std::fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("scratch space");
    std::fs::write(&path, bytes).expect("scratch space");
    let what = What {
        records: true,
        groups: true,
        checkpoint: true,
    };
    let _ = trireme_fsck::dump::dump(&path, &what, &mut std::io::sink());
    let _ = std::fs::remove_file(&path);
}

/// One edit of each kind in each file.
pub fn edit_seeds() -> Vec<Vec<u8>> {
    let mut inputs = vec![vec![0], vec![1]];
    for clean in [0u8, 1] {
        for file in 0..sample(clean == 1).len() as u8 {
            for (at, how) in [(100u32, 0u8), (5000, 2), (40, 3)] {
                let mut input = vec![clean, file];
                input.extend_from_slice(&at.to_le_bytes());
                input.extend_from_slice(&[how, 1, 2, 3]);
                inputs.push(input);
            }
        }
    }
    inputs
}

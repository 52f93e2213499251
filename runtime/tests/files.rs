//! Files over the real kernel.

use std::io::ErrorKind;
use std::time::Duration;

use trireme_runtime::fs::{File, OpenOptions};
use trireme_runtime::*;

/// A directory on a disk, not in memory: O_DIRECT is to be tested.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (((n + seed) * 2_654_435_761_usize) >> 13) as u8)
        .collect()
}

#[test]
fn writes_come_back() {
    let dir = dir();
    block_on(async {
        let path = dir.path().join("file");
        let file = File::open(&path, OpenOptions::CREATE_NEW).await.unwrap();
        let again = File::open(&path, OpenOptions::CREATE_NEW).await;
        assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
        let (result, bytes) = file.write_all_at(pattern(100_000, 1), 10).await;
        result.unwrap();
        assert_eq!(bytes, pattern(100_000, 1));
        assert_eq!(file.size().await.unwrap(), 100_010);
        let (result, buf) = file
            .read_exact_at(Vec::with_capacity(100_000), 10, 100_000)
            .await;
        result.unwrap();
        assert_eq!(buf, bytes);
        let (result, buf) = file
            .read_at(AlignedBuf::with_capacity(100), 100_000, 100)
            .await;
        assert_eq!(result.unwrap(), 10);
        assert_eq!(buf[..], bytes[99_990..]);
        let (result, buf) = file
            .read_exact_at(Vec::with_capacity(100), 100_000, 100)
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(buf, bytes[99_990..]);
        assert_eq!(
            file.read_at(Vec::with_capacity(1), 200_000, 1)
                .await
                .0
                .unwrap(),
            0
        );

        let parts: Vec<Vec<u8>> = (0..3000).map(|n| pattern(10, n)).collect();
        let (result, parts) = file.write_all_vectored_at(parts, 5).await;
        result.unwrap();
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();
        let (result, buf) = file
            .read_exact_at(Vec::with_capacity(30_000), 5, 30_000)
            .await;
        result.unwrap();
        assert_eq!(buf, parts.concat());
        file.truncate(7).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 7);
        assert_eq!(fs::read_file(&path).await.unwrap().len(), 7);
        file.truncate(20).await.unwrap();
        assert_eq!(fs::read_file(&path).await.unwrap()[7..], [0; 13]);
    });
}

#[test]
fn direct_and_durable() {
    let dir = dir();
    block_on(async {
        let file = File::open(dir.path().join("log"), OpenOptions::CREATE_NEW.direct())
            .await
            .unwrap();
        let alignment = file.dio_alignment().await.unwrap().unwrap_or(512) as usize;
        assert!(alignment <= ALIGN && ALIGN.is_multiple_of(alignment));
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 1 << 20);
        let mut chunk = Chunk::with_capacity(64 << 10);
        assert_eq!(chunk.append(&pattern(10_000, 4)), 10_000);
        chunk.pad_zero_to(12_288);
        let (result, _) = file.write_durable_at(chunk.share(0..12_288), 4096).await;
        result.unwrap();
        let (result, _) = file
            .write_durable_vectored_at(vec![chunk.share(0..4096), chunk.share(4096..8192)], 65_536)
            .await;
        result.unwrap();
        let (result, buf) = file
            .read_exact_at(AlignedBuf::with_capacity(8192), 65_536, 8192)
            .await;
        result.unwrap();
        assert_eq!(buf[..], pattern(10_000, 4)[..8192]);
        // Unaligned is refused, and the buffer comes back all the same.
        let (result, buf) = file.write_durable_at(vec![1; 100], 0).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(buf, [1; 100]);
    });
}

#[test]
fn directories() {
    let dir = dir();
    block_on(async {
        let deep = dir.path().join("a/b/c");
        fs::create_dir_all(&deep).await.unwrap();
        fs::create_dir_all(&deep).await.unwrap();
        assert!(fs::metadata(&deep).await.unwrap().is_dir);
        fs::replace_file(deep.join("x"), b"one".as_slice())
            .await
            .unwrap();
        fs::replace_file(deep.join("x"), b"second".to_vec())
            .await
            .unwrap();
        assert_eq!(fs::read_file(deep.join("x")).await.unwrap(), b"second");
        fs::rename(deep.join("x"), deep.join("y")).await.unwrap();
        fs::create_dir_all(deep.join("d")).await.unwrap();
        fs::sync_dir(&deep).await.unwrap();
        let names: Vec<_> = fs::read_dir(&deep)
            .await
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.is_dir, e.size))
            .collect();
        assert_eq!(
            names,
            [("d".to_string(), true, 0), ("y".to_string(), false, 6)]
        );
        assert!(!fs::exists(deep.join("x")).await.unwrap());
        assert!(fs::exists(deep.join("y")).await.unwrap());
        assert!(fs::remove_dir(&deep).await.is_err());
        fs::remove_file(deep.join("y")).await.unwrap();
        fs::remove_dir(deep.join("d")).await.unwrap();
        fs::remove_dir(&deep).await.unwrap();
        assert_eq!(
            fs::read_dir(&deep).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            File::open(deep.join("z"), OpenOptions::CREATE)
                .await
                .err()
                .unwrap()
                .kind(),
            ErrorKind::NotFound
        );
        let zero = std::path::Path::new("a\0b");
        assert_eq!(
            fs::metadata(zero).await.unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let space = fs::statvfs(dir.path()).await.unwrap();
        assert!(0 < space.free_bytes && space.free_bytes < space.total_bytes);
        assert_eq!(
            fs::create_dir_all("/proc/self/no/such")
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound,
            "an error, not an endless climb"
        );
    });
}

/// Each file in a directory of its own; the third one cannot be made.
async fn prepares_many(root: std::path::PathBuf) {
    let wanted = |n: usize| fs::PrepareFile {
        path: match n {
            2 => root.join("none/below/file"),
            _ => root.join(format!("{n}/file")),
        },
        options: OpenOptions::CREATE.direct(),
        with_directory: true,
        allocate_bytes: 8192 * n as u64,
    };
    let count = fs::SYNC_WHOLE_MIN + 2;
    for _ in 0..2 {
        let files = fs::prepare_files((0..count).map(wanted).collect()).await;
        assert_eq!(files.len(), count);
        for (n, file) in files.into_iter().enumerate() {
            match (n, file) {
                (2, file) => assert_eq!(file.err().unwrap().kind(), ErrorKind::NotFound),
                (_, file) => {
                    let file = file.unwrap();
                    assert_eq!(file.size().await.unwrap(), 8192 * n as u64);
                    let (result, _) = file.write_durable_at(AlignedBuf::zeroed(8192), 0).await;
                    result.unwrap();
                    file.truncate(8192 * n as u64).await.unwrap();
                }
            }
        }
    }
    // Few are synced one by one, many with their file system; one that is missing does not matter.
    for count in [3, count] {
        let directories = (0..count).map(|n| root.join(n.to_string())).collect();
        fs::sync_dirs(directories).await.unwrap();
    }
}

#[test]
fn many_files_are_prepared_together() {
    let dir = dir();
    let root = dir.path().to_owned();
    block_on(prepares_many(root));
    let mut sim = sim::Simulation::new(1);
    let node = sim.node(1, |_| async {
        fs::create_dir_all("/data").await.unwrap();
        prepares_many("/data".into()).await;
    });
    assert!(sim.run_until_finished(node));
}

#[test]
fn residency() {
    let dir = dir();
    block_on(async {
        let file = File::open(dir.path().join("cached"), OpenOptions::CREATE)
            .await
            .unwrap();
        file.write_all_at(pattern(1 << 20, 0), 0).await.0.unwrap();
        assert!(file.is_resident(0, 1 << 20).unwrap());
        assert!(file.is_resident(5000, 10_000).unwrap());
        let (result, buf) = file.try_read_resident(Vec::with_capacity(5000), 100, 5000);
        assert_eq!(result.unwrap(), Some(5000));
        assert_eq!(buf, pattern(5000, 100));
        assert!(
            !file.is_resident(0, 2 << 20).unwrap(),
            "what is not there is not resident"
        );

        let direct = File::open(dir.path().join("cold"), OpenOptions::CREATE.direct())
            .await
            .unwrap();
        direct
            .write_durable_at(AlignedBuf::zeroed(1 << 20), 0)
            .await
            .0
            .unwrap();
        assert!(!direct.is_resident(0, 1 << 20).unwrap());
    });
}

#[test]
fn locks_exclude_each_other_and_end_with_the_file() {
    let dir = dir();
    block_on(async {
        let path = dir.path().join("lock");
        let one = File::open(&path, OpenOptions::CREATE).await.unwrap();
        let two = File::open(&path, OpenOptions::CREATE).await.unwrap();
        assert!(one.lock_exclusive().unwrap());
        assert!(!two.lock_exclusive().unwrap());
        drop(one);
        // Closing is asynchronous.
        while !two.lock_exclusive().unwrap() {
            sleep(Duration::from_micros(100)).await;
        }
    });
}

#[test]
fn dropped_reads_and_writes_leave_their_memory_alone() {
    let dir = dir();
    block_on(async {
        let file = File::open(dir.path().join("file"), OpenOptions::CREATE.direct())
            .await
            .unwrap();
        file.write_durable_at(AlignedBuf::zeroed(8 << 20), 0)
            .await
            .0
            .unwrap();
        for round in 0..30 {
            let read = file.read_at(AlignedBuf::with_capacity(8 << 20), 0, 8 << 20);
            assert!(timeout(Duration::ZERO, read).await.is_err());
            let write = file.write_durable_at(AlignedBuf::zeroed(4 << 20), 0);
            assert!(timeout(Duration::ZERO, write).await.is_err());
            let reused: Vec<AlignedBuf> = (0..4)
                .map(|_| {
                    let mut buf = AlignedBuf::zeroed(4 << 20);
                    buf.fill(round as u8 | 1);
                    buf
                })
                .collect();
            sleep(Duration::from_micros(300)).await;
            assert!(
                reused
                    .iter()
                    .flat_map(|buf| buf.iter())
                    .all(|byte| *byte == round as u8 | 1)
            );
        }
        while stats().ops_orphaned > 0 {
            sleep(Duration::from_micros(300)).await;
        }
        // The writes that were given up wrote what they were given, or nothing: zeros either way.
        let (result, buf) = file
            .read_exact_at(AlignedBuf::with_capacity(8 << 20), 0, 8 << 20)
            .await;
        result.unwrap();
        assert!(buf.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_file_outlives_its_core() {
    let dir = dir();
    let path = dir.path().join("file");
    let file = block_on(async { File::open(&path, OpenOptions::CREATE).await.unwrap() });
    drop(file); // closed without a ring
}

#[test]
fn files_go_to_other_cores() {
    let dir = dir();
    let path = dir.path().join("file");
    let ports = PerCore::new(mesh::<fs::SharedFile>(2));
    run_node(
        NodeConfig {
            pin: false,
            ..NodeConfig::with_cores(2)
        },
        move |core| {
            let (port, path) = (ports.take(core), path.clone());
            async move {
                if core == 0 {
                    let file = File::open(&path, OpenOptions::CREATE).await.unwrap();
                    file.write_all_at(b"from core 0".to_vec(), 0)
                        .await
                        .0
                        .unwrap();
                    assert!(port.send(1, file.share().unwrap()).is_ok());
                } else {
                    let (from, shared) = port.recv().await;
                    assert_eq!(from, 0);
                    let file = File::from_shared(shared);
                    assert_eq!(
                        file.read_at(Vec::with_capacity(20), 0, 20).await.1,
                        b"from core 0"
                    );
                }
            }
        },
    )
    .unwrap();
}

#[test]
fn a_core_that_ends_has_closed_its_files() {
    let dir = dir();
    let paths: Vec<_> = (0..64)
        .map(|index| dir.path().join(index.to_string()))
        .collect();
    for _ in 0..20 {
        let paths = &paths;
        block_on(async move {
            // Many at once, so that some closes still wait for a worker of the kernel when the core ends.
            for path in paths {
                let file = File::open(path, OpenOptions::CREATE).await.unwrap();
                assert!(file.lock_exclusive().unwrap(), "the core before holds it");
            }
        });
    }
}

//! Every single bit of a small, cleanly shut data directory turned round, one at a time: recovery refuses it, a read refuses
//! it, or the checker finds it; and nobody is ever served what is wrong.

use trireme_engine::PartitionConfig;
use trireme_fsck::Severity;
use trireme_fsck::Source;
use trireme_fsck::shard::check_shard;
use trireme_fsck::tree::{Tree, check_root};
use trireme_fsck::{Report, Verdict};
use trireme_runtime::sim::{DiskImage, Simulation};

use crate::cases::*;
use crate::knowledge::*;
use crate::trace::{Client, open, send_all, send_and_await};

/// Of the bits, every day.
const PERCENT_EVERY_DAY: f64 = 5.0;

/// A directory with every kind of file, and what its client knows.
fn small() -> (DiskImage, Knowledge) {
    let client = Client::default();
    let told = client.clone();
    let mut sim = Simulation::new(5);
    let node = sim.node(1, move |_| {
        let client = told.clone();
        async move {
            let (_dir, engine) = open().await.expect("it opens");
            for index in 1..3 {
                client.tell(Event::CreateAsked(index));
                let config = PartitionConfig {
                    segment_bytes: 18 << 10,
                    ..partition_config(index)
                };
                let created = engine.create(vec![(partition(index), config)]).await;
                assert_eq!(created, [Ok(())]);
                client.tell(Event::Created(index));
            }
            // One segment that is sealed and one that is not, with index entries; a partition that is hardly there.
            send_all(&engine, &client, 1, 9, 2000).await;
            send_all(&engine, &client, 1, 1, 1000).await;
            for batch in 0..2 {
                send_and_await(&engine, &client, 2, 1, 100, Some(batch)).await;
            }
            engine.shutdown().await;
        }
    });
    assert!(sim.run_until_finished(node));
    let knowledge = client.told.borrow().knowledge.clone();
    (sim.disk_image(node), knowledge)
}

struct Case {
    path: String,
    byte: u64,
    bit: u32,
}

/// The bytes of each file that mean something: of a log only what it is made of.
fn live_bytes(disk: &DiskImage) -> Vec<(String, u64, u64)> {
    use trireme_engine::layout::paths::DataPath;
    let memory = data_dir(disk);
    let tree = Tree::of(memory.list().expect("memory"));
    let mut report = Report::default();
    let format = check_root(&memory, &tree, &mut report).expect("a format file");
    let shard = check_shard(&memory, &tree, &format, 0, &|_| {}, &mut report).expect("a shard");
    let mut live = Vec::new();
    for (path, bytes) in &memory.files {
        match DataPath::parse(path) {
            Some(DataPath::Log { file, .. }) => {
                let of_file = shard.live.iter().filter(|live| live.0 == file);
                live.extend(of_file.map(|(_, from, to)| (path.clone(), *from, *to)));
            }
            _ => live.push((path.clone(), 0, bytes.len() as u64)),
        }
    }
    live
}

pub fn test() -> Tally {
    let (disk, knowledge) = small();
    let memory = data_dir(&disk);
    let report = fsck(&memory);
    assert_eq!(report.verdict(), Verdict::Clean, "{report}");
    let live = live_bytes(&disk);
    let percent = percent(PERCENT_EVERY_DAY);
    let mut cases = Vec::new();
    let mut number = 0;
    for (path, from, to) in &live {
        println!(
            "  {path}: bytes {from} to {to} of {}",
            memory.files[path].len()
        );
        for byte in *from..*to {
            for bit in 0..8 {
                number += 1;
                if is_chosen(3, number, percent) {
                    cases.push(Case {
                        path: path.clone(),
                        byte,
                        bit,
                    });
                }
            }
        }
    }
    println!("bits: {number} live in {} files", memory.files.len());
    try_all(
        "bits",
        &cases,
        || (memory.clone(), disk.clone()),
        |case| format!("bit {} of byte {} of {}", case.bit, case.byte, case.path),
        |(memory, disk), case| {
            let mut broken = disk.clone();
            broken.flip_bit(&format!("/data/{}", case.path), case.byte, case.bit);
            let went = recover(broken, &knowledge, case.byte, Depth::Read);
            if !matches!(went, Went::Well) {
                return went;
            }
            let flip = |memory: &mut trireme_fsck::Memory| {
                memory.files.get_mut(&case.path).expect("known")[case.byte as usize] ^=
                    1 << case.bit;
            };
            flip(memory);
            let report = fsck(memory);
            flip(memory);
            let is_found = report
                .findings
                .iter()
                .any(|f| f.severity == Severity::Damage);
            match is_found {
                true => Went::Found("found by fsck", String::new()),
                false => Went::Badly(crate::check::Problem::Wrong("nobody noticed".into())),
            }
        },
    )
}

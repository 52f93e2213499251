//! What `verify` says of whole directories: sound ones, crashed ones, and ones with one thing wrong.

mod sample;

use sample::{CODECS, Sample, everything};
use trireme_fsck::{Memory, Options, Report, Severity, Verdict, verify};

fn check(memory: &Memory) -> Report {
    verify(
        memory,
        &Options {
            threads: 1,
            ..Options::default()
        },
    )
    .unwrap()
}

#[test]
fn a_clean_directory_is_clean_and_everything_was_looked_at() {
    let mut sample = everything();
    sample.shut_down();
    let report = check(&sample.memory);
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict(), Verdict::Clean);
    let counts = &report.counts;
    assert_eq!(
        (counts.shards, counts.shards_cleanly_shut, counts.partitions),
        (1, 1, 3)
    );
    assert_eq!((counts.segments, counts.sealed_segments), (4, 2));
    assert_eq!(counts.batches, sample.batches as u64);
    assert!(counts.batches >= 200);
    assert_eq!(counts.log_groups, sample.groups.len() as u64);
    assert!(counts.sums >= 10 && counts.index_entries >= 20 && counts.producers == 4);
    assert_eq!(counts.unflushed_bytes, 0);
    assert!(counts.log_former_bytes > 0);
    let parallel = verify(
        &sample.memory,
        &Options {
            threads: 4,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(parallel, report);
}

#[test]
fn a_directory_never_written_to_is_clean() {
    let sample = Sample::new();
    assert_eq!(check(&sample.memory).verdict(), Verdict::Clean);
}

#[test]
fn after_a_crash_what_is_in_the_log_counts() {
    let mut sample = everything();
    let all = sample.batches as u64;
    // Nothing flushed, nothing checkpointed since the start.
    let report = check(&sample.memory);
    assert_eq!(report.findings, []);
    assert_eq!(report.counts.batches, all);
    assert!(report.counts.unflushed_bytes > 50_000);
    // Flushed, then more appended.
    sample.flush(false);
    assert_eq!(check(&sample.memory).findings, []);
    sample.checkpoint();
    assert_eq!(check(&sample.memory).findings, []);
    for index in 0..20 {
        sample.append(0, CODECS[index % 5], 3, 500, Some(1000), index == 10);
        sample.append(1, CODECS[index % 5], 3, 500, None, false);
        sample.commit();
    }
    let report = check(&sample.memory);
    assert_eq!(report.findings, []);
    assert_eq!(report.counts.batches, all + 40);
    // And cleanly shut in the end.
    sample.shut_down();
    let report = check(&sample.memory);
    assert_eq!(report.findings, []);
    assert_eq!(
        (report.counts.batches, report.counts.unflushed_bytes),
        (all + 40, 0)
    );
}

#[test]
fn the_torn_end_of_a_crash_is_no_damage_but_what_was_durable_is() {
    let mut sample = everything();
    let torn_batches = sample.batches as u64;
    sample.append(1, CODECS[0], 5, 2000, None, false);
    sample.commit();
    let (file, position) = sample.groups.last().unwrap().clone();
    let at = position as usize + 5000;
    sample.memory.files.get_mut(&file).unwrap()[at] ^= 4;
    let report = check(&sample.memory);
    assert_eq!(report.verdict(), Verdict::TornTail);
    assert_eq!(
        (
            report.findings[0].file.as_str(),
            report.findings[0].position
        ),
        (file.as_str(), position)
    );
    assert_eq!(report.counts.batches, torn_batches);
    // Once a later group knows it to have been durable, the same is damage.
    sample.memory.files.get_mut(&file).unwrap()[at] ^= 4;
    sample.mark();
    sample.memory.files.get_mut(&file).unwrap()[at] ^= 4;
    let report = check(&sample.memory);
    assert_eq!(report.verdict(), Verdict::Damaged);
    assert_eq!(
        (
            report.findings[0].file.as_str(),
            report.findings[0].position
        ),
        (file.as_str(), position + 4096)
    );
}

#[test]
fn a_direct_run_that_was_not_finished_ends_the_partition() {
    let mut sample = everything();
    let before = sample.batches as u64;
    sample.direct(0, 30, 3000, false, true);
    let report = check(&sample.memory);
    assert_eq!(report.verdict(), Verdict::TornTail, "{report}");
    assert!(report.counts.batches >= before && report.counts.batches < before + 30);
    // Its blocks may not even have made the file longer.
    let mut sample = everything();
    let before = sample.memory.files.clone();
    sample.direct(0, 30, 3000, false, false);
    let longer = |(path, bytes): (&String, &Vec<u8>)| {
        let old = before.get(path).map_or(0, Vec::len);
        (path.ends_with(".log") && bytes.len() > old).then(|| (path.clone(), old))
    };
    let (path, old) = sample.memory.files.iter().find_map(longer).unwrap();
    for cut in [old, old + 4096] {
        let mut memory = sample.memory.clone();
        memory.files.get_mut(&path).unwrap().truncate(cut);
        let report = check(&memory);
        assert_eq!(report.verdict(), Verdict::TornTail, "{cut}: {report}");
    }
    // With its done record, the blocks were durable.
    let mut sample = everything();
    sample.direct(0, 30, 3000, true, true);
    sample.commit();
    assert_eq!(check(&sample.memory).verdict(), Verdict::Damaged);
    let mut sample = everything();
    sample.direct(0, 30, 3000, false, false);
    assert_eq!(check(&sample.memory).verdict(), Verdict::Clean);
}

#[test]
fn a_checkpoint_that_was_being_written_is_no_damage() {
    let mut sample = everything();
    sample.flush(false);
    sample.checkpoint();
    sample.append(0, CODECS[0], 3, 500, None, false);
    sample.commit();
    let before = sample.memory.clone();
    sample.checkpoint();
    let newest = ["wal/000/checkpoint.0", "wal/000/checkpoint.1"]
        .into_iter()
        .find(|path| before.files[*path] != sample.memory.files[*path])
        .unwrap();
    sample.memory.files.get_mut(newest).unwrap()[70] ^= 1;
    let report = check(&sample.memory);
    assert_eq!(report.verdict(), Verdict::TornTail);
    assert_eq!(report.findings[0].file, newest);
}

#[test]
fn unknown_files_are_found() {
    let mut sample = everything();
    sample.shut_down();
    for path in ["wal/000/009.wal", "wal/000/notes.txt", "partitions/junk/x"] {
        let mut memory = sample.memory.clone();
        memory.files.insert(path.into(), vec![1]);
        let report = check(&memory);
        assert_eq!(
            (report.verdict(), report.findings[0].file.as_str()),
            (Verdict::Damaged, path)
        );
    }
    // A start makes a log file before it says so in a checkpoint.
    let mut memory = sample.memory.clone();
    memory
        .files
        .insert("wal/000/009.wal".into(), vec![0; 5 << 20]);
    assert_eq!(check(&memory).verdict(), Verdict::TornTail);
    let segment = sample
        .memory
        .files
        .keys()
        .find(|path| path.ends_with(".log"))
        .unwrap();
    let stray = segment.replace("00000.log", "99999.log");
    let mut memory = sample.memory.clone();
    memory.files.insert(stray.clone(), vec![1]);
    let report = check(&memory);
    assert_eq!(
        (report.verdict(), report.findings[0].file.as_str()),
        (Verdict::Damaged, stray.as_str())
    );
    // In the directory itself a file may be the operator's.
    let mut memory = sample.memory.clone();
    memory.files.insert("README".into(), vec![1]);
    memory.directories.push("lost+found".into());
    let report = check(&memory);
    assert_eq!((report.verdict(), report.notes.len()), (Verdict::Clean, 1));
}

#[test]
fn a_segment_in_the_place_of_another_is_found() {
    let mut sample = everything();
    sample.shut_down();
    let logs: Vec<String> = sample
        .memory
        .files
        .keys()
        .filter(|path| path.ends_with(".log"))
        .cloned()
        .collect();
    for extension in ["log", "sum", "index", "timeindex"] {
        let mut memory = sample.memory.clone();
        let name = |log: &String| log.replace(".log", &format!(".{extension}"));
        let other = memory.files[&name(&logs[1])].clone();
        memory.files.insert(name(&logs[0]), other);
        let report = check(&memory);
        assert_eq!(report.verdict(), Verdict::Damaged);
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.file == name(&logs[0])),
            "{report}"
        );
    }
}

#[test]
fn json_says_the_same() {
    let mut sample = everything();
    sample.shut_down();
    sample.memory.files.remove("LOCK");
    let report = check(&sample.memory);
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["verdict"], "damaged");
    assert_eq!(json["exit_code"], 2);
    assert_eq!(json["findings"][0]["file"], "LOCK");
    assert_eq!(json["findings"][0]["severity"], "damage");
    assert_eq!(json["counts"]["segments"], 4);
    assert_eq!(report.findings[0].severity, Severity::Damage);
}

#[test]
fn a_first_start_that_was_not_finished_is_no_damage_but_a_format_file_that_is_gone_is() {
    let mut fresh = Sample::new().memory;
    fresh
        .files
        .retain(|path, _| path == "LOCK" || path.contains("checkpoint"));
    assert_eq!(check(&fresh).verdict(), Verdict::TornTail);
    let mut used = Sample::new().memory;
    used.files.remove("format");
    assert_eq!(check(&used).verdict(), Verdict::Damaged);
}

#[test]
fn a_start_that_dropped_an_unfinished_direct_run_is_understood() {
    let mut sample = everything();
    sample.drop_direct(0, 30, 3000);
    sample.append(0, CODECS[2], 4, 900, None, false);
    sample.commit();
    let report = check(&sample.memory);
    assert_eq!(report.findings, []);
    assert_eq!(report.counts.batches, sample.batches as u64);
    // The run's record is read all the same where a checkpoint knows what came of it.
    sample.settle();
    assert_eq!(check(&sample.memory).findings, []);
    sample.shut_down();
    assert_eq!(check(&sample.memory).findings, []);
}

#[test]
fn what_the_log_has_must_stand_in_the_segment() {
    // All sums are right, but it is another batch: a writer that mixed something up.
    let mut sample = everything();
    sample.shut_down_with(|segment| {
        let at = segment.len() / 2;
        segment[at] ^= 1;
    });
    let report = check(&sample.memory);
    assert_eq!(report.verdict(), Verdict::Damaged);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.file.ends_with(".log")),
        "{report}"
    );
}

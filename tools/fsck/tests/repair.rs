//! After a repair the engine starts and serves everything that could be trusted, unchanged, and what is gone was named.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a test, not the broker

mod engine;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::{Served, append, batch, config, fill, fill_more, served, with_engine};
use trireme_engine::PartitionRef;
use trireme_fsck::repair::{Ending, Outcome, repair};
use trireme_fsck::{Directory, Options, Report, Verdict, verify};

type Content = BTreeMap<PartitionRef, Served>;

fn check(dir: &Path) -> Report {
    verify(&Directory::new(dir), &Options::default()).expect("the directory can be listed")
}

fn mend(dir: &Path) -> Outcome {
    repair(dir, false, &Options::default()).expect("repaired")
}

/// A directory and what was served from it: cleanly shut, or killed with plenty in the log only.
fn made(clean: bool, shards: u16) -> (tempfile::TempDir, Content) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path(), shards);
    with_engine(&config, |engine| async move {
        fill(&engine, shards, 120, 400).await;
        engine.shutdown().await;
    });
    let content = with_engine(&config, |engine| async move {
        fill_more(&engine, shards, 120, 60, 400).await;
        let content = served(&engine).await;
        if clean {
            engine.shutdown().await;
        }
        content
    });
    (dir, content)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// That the engine serves `content` but for what the outcome names, and goes on from there.
fn assert_serves(dir: &Path, shards: u16, content: &Content, outcome: &Outcome, what: &str) {
    let after = check(dir);
    assert!(
        matches!(after.verdict(), Verdict::Clean | Verdict::TornTail),
        "{what}: {after}\n{outcome}"
    );
    let config = config(dir, shards);
    let (now, more) = with_engine(&config, |engine| async move {
        let now = served(&engine).await;
        // It takes appends, and serves them behind what was there.
        for reference in now.keys() {
            append(&engine, *reference, batch(9999, 1, 300, None)).await;
        }
        let more = served(&engine).await;
        engine.shutdown().await;
        (now, more)
    });
    for (reference, (log_start, end, batches)) in content {
        let name = reference.id.to_string();
        let gone: Vec<_> = outcome
            .gone
            .iter()
            .filter(|gone| gone.partition == name)
            .collect();
        let is_gone = |offset: i64| {
            gone.iter()
                .any(|gone| (gone.from_offset..=gone.to_offset).contains(&offset))
        };
        let Some((log_start_now, end_now, batches_now)) = now.get(reference) else {
            // An empty partition leaves nothing behind; the broker makes it again.
            assert!(
                batches.keys().all(|offset| is_gone(*offset)),
                "{what}: {name} is not there\n{outcome}"
            );
            continue;
        };
        assert!(
            *end_now >= *end || !outcome.gone_groups.is_empty() || batches.is_empty(),
            "{what}: {name} ends at {end_now} instead of {end}\n{outcome}"
        );
        for (offset, bytes) in batches {
            match batches_now.get(offset) {
                Some(found) => assert!(
                    found == bytes,
                    "{what}: {name} offset {offset} changed\n{outcome}"
                ),
                None => assert!(
                    is_gone(*offset) || (*offset >= *end_now && !outcome.gone_groups.is_empty()),
                    "{what}: {name} offset {offset} is gone unsaid\n{outcome}"
                ),
            }
        }
        for offset in batches_now.keys().filter(|offset| **offset >= *log_start) {
            assert!(
                batches.contains_key(offset),
                "{what}: {name} has an offset {offset} that never was\n{outcome}"
            );
        }
        assert!(log_start_now <= end_now);
        let (_, end_more, batches_more) = &more[reference];
        assert_eq!(*end_more, end_now + 1, "{what}: {name}");
        assert!(
            batches_more.contains_key(end_now) && batches_more.len() == batches_now.len() + 1,
            "{what}: {name}"
        );
    }
    let last = check(dir);
    assert_eq!(
        last.verdict(),
        Verdict::Clean,
        "{what}, after one more run: {last}"
    );
}

fn remove(dir: &Path, suffixes: &[&str]) {
    for path in files(dir) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
            fs::remove_file(path).unwrap();
        }
    }
}

const INDEXES_AND_CHECKPOINTS: [&str; 5] = [
    ".index",
    ".timeindex",
    ".sum",
    "checkpoint.0",
    "checkpoint.1",
];

#[test]
fn without_indexes_sums_and_checkpoints_everything_is_served() {
    for (clean, shards) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
        let (dir, content) = made(clean, shards);
        remove(dir.path(), &INDEXES_AND_CHECKPOINTS);
        let what = format!("clean {clean}, {shards} shards");
        let outcome = mend(dir.path());
        assert_eq!(outcome.ending, Ending::Sound, "{what}: {outcome}");
        assert_eq!(outcome.gone, [], "{what}: {outcome}");
        assert_serves(dir.path(), shards, &content, &outcome, &what);
    }
}

#[test]
fn a_sound_directory_is_left_alone() {
    for clean in [true, false] {
        let (dir, content) = made(clean, 1);
        let before: Vec<_> = files(dir.path())
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        let outcome = mend(dir.path());
        assert_eq!(
            (outcome.ending, outcome.quarantine.as_ref()),
            (Ending::Sound, None),
            "{outcome}"
        );
        let after: Vec<_> = files(dir.path())
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        assert!(before == after);
        assert_serves(dir.path(), 1, &content, &outcome, "sound");
    }
}

#[test]
fn a_dry_run_says_it_and_writes_nothing() {
    let (dir, _) = made(false, 1);
    remove(dir.path(), &INDEXES_AND_CHECKPOINTS);
    let state = || -> Vec<_> {
        files(dir.path())
            .iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    };
    let before = state();
    let outcome = repair(dir.path(), true, &Options::default()).expect("possible");
    assert!(outcome.dry_run && !outcome.steps.is_empty(), "{outcome}");
    assert!(before == state());
}

#[test]
fn each_removed_file() {
    for clean in [true, false] {
        let (dir, content) = made(clean, 2);
        for path in files(dir.path()) {
            let copy = tempfile::tempdir().unwrap();
            copy_tree(dir.path(), copy.path());
            let relative = path.strip_prefix(dir.path()).unwrap();
            fs::remove_file(copy.path().join(relative)).unwrap();
            let what = format!("clean {clean}, without {}", relative.display());
            let outcome = mend(copy.path());
            assert_ne!(outcome.ending, Ending::Damaged, "{what}: {outcome}");
            if !relative.to_string_lossy().ends_with(".log")
                && !relative.to_string_lossy().ends_with(".wal")
            {
                assert_eq!(outcome.gone, [], "{what}: {outcome}");
            }
            assert_serves(copy.path(), 2, &content, &outcome, &what);
        }
    }
}

/// A generator of numbers that need not be good.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// One to three bits, runs of garbage, cuts, in any files.
fn damage(dir: &Path, random: &mut Random) -> String {
    let mut what = Vec::new();
    for _ in 0..=random.below(3) {
        let all = files(dir);
        let path = &all[random.below(all.len() as u64) as usize];
        let mut bytes = fs::read(path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let at = random.below(bytes.len() as u64) as usize;
        let kind = random.below(4);
        match kind {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + 1 + random.below(20_000) as usize).min(bytes.len());
                bytes[at..end].fill(0xA5);
            }
            _ => bytes.truncate(at),
        }
        fs::write(path, bytes).unwrap();
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        what.push(format!("{name} at {at} ({kind})"));
    }
    what.join(", ")
}

#[test]
fn any_damage() {
    let rounds = if cfg!(debug_assertions) { 15 } else { 300 };
    let rounds =
        std::env::var("TRIREME_TEST_ROUNDS").map_or(rounds, |rounds| rounds.parse().unwrap());
    for clean in [true, false] {
        let (dir, content) = made(clean, 2);
        for seed in 1..=rounds {
            let copy = tempfile::tempdir().unwrap();
            copy_tree(dir.path(), copy.path());
            let mut random = Random(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
            let what = damage(copy.path(), &mut random);
            let what = format!("clean {clean}, seed {seed}: {what}");
            let outcome = mend(copy.path());
            assert_ne!(outcome.ending, Ending::Damaged, "{what}: {outcome}");
            assert_serves(copy.path(), 2, &content, &outcome, &what);
        }
    }
}

use super::*;
use crate::ids::{PartitionId, TopicId};
use crate::layout::checkpoint::LogFile;
use crate::layout::entry::Entry;
use crate::layout::group::{GroupContext, LogIdentity, PendingRecord, encode_group, group_len};

const FILE_BYTES: usize = 16 * BLOCK;
const SHARD: u16 = 3;

/// A log in memory: files of `FILE_BYTES`, written in a ring.
struct Log {
    files: Vec<Vec<u8>>,
    uses: Vec<u32>,
    identity: LogIdentity,
    first: LogPosition,
    next: LogPosition,
    /// Of the checkpoint.
    durable_through: u64,
    end: Option<LogPosition>,
    /// File and position of each group.
    places: Vec<(u32, u64)>,
}

impl Log {
    fn new(files: usize) -> Log {
        let first = LogPosition {
            file: 0,
            file_use: 1,
            position: 0,
            sequence: 10,
            previous_header_crc: 0,
        };
        let mut uses = vec![0; files];
        uses[0] = 1;
        Log {
            files: vec![vec![0; FILE_BYTES]; files],
            uses,
            identity: LogIdentity {
                shard: SHARD,
                incarnation: 5,
                nonce: 0x1234_5678_9abc_def0,
            },
            first,
            next: first,
            durable_through: 9,
            end: None,
            places: Vec::new(),
        }
    }

    fn write(&mut self, entry: Entry, payload: &[u8], durable_through: u64) {
        let context = GroupContext {
            identity: self.identity,
            file: self.next.file,
            file_use: self.next.file_use,
            position: self.next.position,
            sequence: self.next.sequence,
            previous_header_crc: self.next.previous_header_crc,
            durable_through,
            unix_ms: 0,
        };
        let at = self.next.position as usize;
        let record = if payload.is_empty() {
            PendingRecord::new(entry)
        } else {
            PendingRecord::with_payload(entry, payload)
        };
        let info = encode_group(
            &context,
            &[record],
            &mut self.files[self.next.file as usize][at..],
        );
        self.places.push((self.next.file, self.next.position));
        self.next.position += info.len as u64;
        self.next.sequence += 1;
        self.next.previous_header_crc = info.header_crc;
    }

    fn append(&mut self, payload_len: usize, durable_through: u64) {
        let room = FILE_BYTES - self.next.position as usize;
        if room < group_len(1, payload_len) + BLOCK {
            let next_file = (self.next.file + 1) % self.files.len() as u32;
            self.uses[next_file as usize] += 1;
            let next_file_use = self.uses[next_file as usize];
            let end = FileEnd {
                next_file,
                next_file_use,
            };
            self.write(
                Entry::new(RecordType::FileEnd, PartitionId::default()),
                &end.encode(),
                durable_through,
            );
            self.next.file = next_file;
            self.next.file_use = next_file_use;
            self.next.position = 0;
        }
        let partition = PartitionId {
            topic: TopicId([7; 16]),
            index: 1,
        };
        let entry = Entry {
            len: payload_len as u32,
            batch_count: 1,
            ..Entry::new(RecordType::Append, partition)
        };
        self.write(entry, &vec![0xAB; payload_len], durable_through);
    }

    /// Appends groups, each with the one before known durable.
    fn fill(&mut self, groups: usize) {
        for index in 0..groups {
            let durable = self.next.sequence - 1;
            self.append(100 + 3000 * (index % 4), durable);
        }
    }

    fn checkpoint(&self) -> CheckpointBody {
        CheckpointBody {
            incarnation: self.identity.incarnation,
            nonce: self.identity.nonce,
            clean: self.end.is_some(),
            extents: vec![LogExtent {
                incarnation: self.identity.incarnation,
                nonce: self.identity.nonce,
                first: self.first,
                end: self.end,
                durable_through: self.durable_through,
            }],
            files: (0..self.files.len() as u32)
                .map(|index| LogFile {
                    index,
                    file_use: self.uses[index as usize],
                    size_bytes: FILE_BYTES as u64,
                })
                .collect(),
            ..CheckpointBody::default()
        }
    }

    /// Follows the log; supplies `piece` bytes at first, so that `More` is met.
    fn scan(&self, piece: usize) -> (u64, Result<LogEnd, LogDamage>) {
        let ring = (0..self.files.len())
            .filter(|index| !self.files[*index].is_empty())
            .map(|index| RingFile {
                index: index as u32,
                size_bytes: self.files[index].len() as u64,
            })
            .collect();
        let checkpoint = self.checkpoint();
        checkpoint.check().unwrap();
        let mut scan = LogScan::new(SHARD, &checkpoint, ring);
        let mut groups = 0;
        let mut piece_now = piece;
        loop {
            match scan.want() {
                Want::Group { file, position } => {
                    let rest = &self.files[file as usize][position as usize..];
                    match scan.supply(&rest[..piece_now.min(rest.len())]) {
                        Supplied::Group(group) => {
                            assert_eq!(group.records().count(), 1);
                            groups += 1;
                            piece_now = piece;
                        }
                        Supplied::More => piece_now *= 2,
                        Supplied::Next => {}
                    }
                }
                Want::Probe {
                    file,
                    position,
                    len,
                } => {
                    let len = len.min(3 * BLOCK as u64);
                    scan.supply(&self.files[file as usize][position as usize..][..len as usize]);
                }
                Want::Done => return (groups, scan.finish()),
            }
        }
    }
}

#[test]
fn follows_to_the_end_over_files_and_around_the_ring() {
    let mut log = Log::new(4);
    assert_eq!(log.scan(BLOCK).1.unwrap().end, log.first);
    log.fill(20);
    assert!(log.next.file > 0, "the test must cross files");
    let (groups, end) = log.scan(BLOCK);
    let end = end.unwrap();
    assert_eq!(end.end, log.next);
    assert_eq!(
        (end.torn, end.clean, groups),
        (None, false, log.places.len() as u64)
    );
    assert_eq!(end.durable_through, log.next.sequence - 2);

    // Once around; what the first uses left behind is not read.
    while log.uses[1] < 2 {
        log.fill(1);
    }
    log.first = log.next;
    log.durable_through = log.next.sequence - 1;
    log.places.clear();
    while log.uses[3] < 2 {
        log.fill(1);
    }
    let (groups, end) = log.scan(usize::MAX / 4);
    assert_eq!(end.unwrap().end, log.next);
    assert_eq!(groups, log.places.len() as u64);
}

#[test]
fn a_broken_last_group_is_the_torn_end_until_it_is_marked() {
    let mut log = Log::new(3);
    log.fill(10);
    let (file, position) = *log.places.last().unwrap();
    let at = position as usize + log.next.position as usize - position as usize - 1;
    log.files[file as usize][at] ^= 1;
    let end = log.scan(BLOCK).1.unwrap();
    let torn = end.torn.unwrap();
    assert!(torn.header_intact && torn.dropped == 0);
    assert_eq!((end.end.file, end.end.position), (file, position));

    log.files[file as usize][at] ^= 1;
    let durable = log.next.sequence - 1;
    log.write(
        Entry::new(RecordType::Mark, PartitionId::default()),
        &[],
        durable,
    );
    log.files[file as usize][at] ^= 1;
    let damage = log.scan(BLOCK).1.unwrap_err();
    assert_eq!((damage.file, damage.position), (file, position));
    assert!(matches!(
        damage.kind,
        LogDamageKind::BelowDurable(BreakReason::Group(GroupError::BlockCrc { .. }), _)
    ));
}

#[test]
fn a_file_cut_within_a_block_ends_before_that_block() {
    let mut log = Log::new(3);
    log.fill(10);
    let (file, position) = *log.places.last().unwrap();
    log.files[file as usize].truncate(position as usize + BLOCK / 2);
    let (groups, end) = log.scan(BLOCK);
    let end = end.unwrap();
    assert_eq!((end.end.file, end.end.position), (file, position));
    assert_eq!(groups, end.groups);
}

#[test]
fn intact_groups_behind_the_torn_one_are_dropped() {
    // Several in flight: none of them knows of the others.
    let mut log = Log::new(3);
    log.fill(6);
    let durable = log.next.sequence - 1;
    let torn = log.next;
    (0..3).for_each(|_| log.append(5000, durable));
    log.files[torn.file as usize][torn.position as usize + 10] ^= 1;
    let end = log.scan(BLOCK).1.unwrap();
    assert_eq!(end.end, torn);
    let found = end.torn.unwrap();
    assert!(!found.header_intact && found.dropped == 2);
}

#[test]
fn every_group_but_the_last_is_known_durable_and_so_is_what_the_checkpoint_knew() {
    let mut log = Log::new(4);
    log.fill(20);
    let places = log.places.clone();
    for (file, position) in &places[..places.len() - 1] {
        log.files[*file as usize][*position as usize + 200] ^= 1;
        let damage = log.scan(BLOCK).1.unwrap_err();
        assert_eq!((damage.file, damage.position), (*file, *position));
        log.files[*file as usize][*position as usize + 200] ^= 1;
    }
    let (file, position) = *places.last().unwrap();
    log.files[file as usize][position as usize + 200] ^= 1;
    assert!(log.scan(BLOCK).1.is_ok());
    log.durable_through = log.next.sequence - 1;
    assert!(log.scan(BLOCK).1.is_err());
}

#[test]
fn a_known_end_must_be_reached_exactly() {
    let mut log = Log::new(4);
    log.fill(12);
    log.end = Some(log.next);
    let end = log.scan(BLOCK).1.unwrap();
    assert!(end.clean && end.torn.is_none());
    let (file, position) = *log.places.last().unwrap();
    log.files[file as usize][position as usize + 100] ^= 1;
    assert!(matches!(
        log.scan(BLOCK).1.unwrap_err().kind,
        LogDamageKind::Broken(..)
    ));
    log.files[file as usize][position as usize + 100] ^= 1;
    log.end.as_mut().unwrap().previous_header_crc ^= 1;
    assert_eq!(log.scan(BLOCK).1.unwrap_err().kind, LogDamageKind::WrongEnd);
}

#[test]
fn a_missing_file_is_damage() {
    let mut log = Log::new(4);
    log.fill(20);
    assert!(log.next.file >= 2);
    log.files[1].clear();
    let damage = log.scan(BLOCK).1.unwrap_err();
    assert_eq!(
        (damage.file, damage.position, damage.kind),
        (1, 0, LogDamageKind::FileMissing)
    );
}

#[test]
fn a_payload_that_is_a_copy_of_the_log_is_never_taken_for_groups() {
    let mut log = Log::new(3);
    log.fill(4);
    let copy = log.files[0][..5 * BLOCK].to_vec();
    let durable = log.next.sequence - 1;
    let torn = log.next;
    let partition = PartitionId {
        topic: TopicId([7; 16]),
        index: 1,
    };
    let entry = Entry {
        len: copy.len() as u32,
        batch_count: 1,
        ..Entry::new(RecordType::Append, partition)
    };
    log.write(entry, &copy, durable);
    log.files[torn.file as usize][torn.position as usize] ^= 1;
    let end = log.scan(BLOCK).1.unwrap();
    assert_eq!((end.end, end.torn), (torn, None));
}

/// A file that was cut within a block used to be asked for over and over: found by the fuzzer of recovery.
#[test]
fn a_file_cut_within_a_block_ends_the_scan() {
    for cut in [1, 100, BLOCK - 1, BLOCK + 1, 2 * BLOCK + 77] {
        let mut log = Log::new(2);
        log.fill(6);
        log.durable_through = log.next.sequence - 2;
        log.files[0].truncate(cut);
        let ring = log
            .files
            .iter()
            .zip(0..)
            .map(|(file, index)| RingFile {
                index,
                size_bytes: file.len() as u64,
            })
            .collect();
        let mut scan = LogScan::new(SHARD, &log.checkpoint(), ring);
        for step in 0.. {
            assert!(step < 1000, "cut at {cut}: the scan does not end");
            match scan.want() {
                Want::Done => break,
                // As recovery does: whole blocks, which O_DIRECT can read.
                Want::Group { file, position } | Want::Probe { file, position, .. } => {
                    let bytes = &log.files[file as usize];
                    let whole = bytes.len() / BLOCK * BLOCK;
                    scan.supply(&bytes[(position as usize).min(whole)..whole]);
                }
            }
        }
        assert!(
            scan.finish().is_err(),
            "cut at {cut}: what was durable is gone"
        );
    }
}

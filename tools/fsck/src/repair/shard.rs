//! The checkpoint that ends a repair: that of a shard which was cleanly shut, with every segment sealed. The log is not read
//! any more; its files are used again, or set aside where they are broken.

use std::io;

use trireme_engine::layout::BLOCK;
use trireme_engine::layout::checkpoint::{
    Checkpoint, CheckpointBody, LogExtent, LogFile, LogPosition, PartitionState, encode_checkpoint,
    parse_checkpoint, set_closed, slot_of,
};
use trireme_engine::layout::paths::DataPath;

use super::log::IntactLog;
use super::workshop::Workshop;
use crate::source::{Buffer, Source};
use crate::tree::Tree;

/// The valid checkpoints of a shard, the newest first. The older one is as good a beginning: no log file is used again
/// before it is not needed for that one either.
/// `directory`: of which data directory they must be, where that is known.
pub fn valid_checkpoints(
    source: &dyn Source,
    tree: &Tree,
    shard: u16,
    directory: Option<[u8; 16]>,
) -> Vec<Checkpoint> {
    let mut valid = Vec::new();
    for slot in 0..2u8 {
        let path = DataPath::Checkpoint { shard, slot };
        let Some(size) = tree.size(path) else {
            continue;
        };
        let mut buffer = Buffer::default();
        if let Ok(bytes) = source.read(&path.relative(), 0, size as usize, &mut buffer)
            && let Ok(checkpoint) = parse_checkpoint(shard, slot, bytes)
            && directory.is_none_or(|directory| checkpoint.directory == directory)
        {
            valid.push(checkpoint);
        }
    }
    valid.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.number));
    valid
}

/// What is new of a shard.
pub struct Settled {
    pub shard: u16,
    pub directory: [u8; 16],
    pub node_epoch: u32,
    pub nonce: u64,
    pub unix_ms: i64,
    /// Ascending by id.
    pub partitions: Vec<PartitionState>,
}

/// Places both checkpoints, closed, and decides what becomes of the log files.
pub fn place_checkpoints(
    shop: &Workshop,
    tree: &Tree,
    checkpoints: &[Checkpoint],
    log: &IntactLog,
    settled: Settled,
) -> io::Result<()> {
    let shard = settled.shard;
    let mut files = Vec::new();
    for (index, size_bytes) in tree.log_files(shard) {
        let is_whole = size_bytes >= 2 * BLOCK as u64 && size_bytes.is_multiple_of(BLOCK as u64);
        if !log.is_broken && is_whole {
            files.push(LogFile {
                index,
                file_use: log.uses.get(&index).copied().unwrap_or(0),
                size_bytes,
            });
        } else {
            // Something in it was broken: its bytes are evidence.
            let path = DataPath::Log { shard, file: index };
            shop.move_aside(&path.relative());
        }
    }
    let incarnation = log.incarnation_max + 1;
    let sequence = log.sequence_max + 1;
    let position = LogPosition {
        file: files.first().map_or(0, |file| file.index),
        file_use: files.first().map_or(0, |file| file.file_use),
        position: 0,
        sequence,
        previous_header_crc: 0,
    };
    let extent = LogExtent {
        incarnation,
        nonce: settled.nonce,
        first: position,
        end: Some(position),
        durable_through: sequence - 1,
    };
    let mut partitions = settled.partitions;
    partitions.sort_by_key(|partition| partition.id);
    for partition in &mut partitions {
        partition.replay_from_sequence = sequence;
    }
    let body = CheckpointBody {
        incarnation,
        nonce: settled.nonce,
        node_epoch: settled.node_epoch,
        clean: true,
        unix_ms: settled.unix_ms,
        extents: vec![extent],
        files,
        partitions,
    };
    body.check().map_err(|what| {
        io::Error::other(format!(
            "shard {shard}: the repaired state is impossible: {what}"
        ))
    })?;
    let newest = checkpoints.first().map_or(0, |newest| newest.number);
    for number in [newest + 1, newest + 2] {
        let path = DataPath::Checkpoint {
            shard,
            slot: slot_of(number),
        };
        if tree.size(path).is_some() {
            shop.move_aside(&path.relative());
        }
        let mut bytes = encode_checkpoint(shard, settled.directory, number, &body);
        set_closed(&mut bytes[..BLOCK], true);
        shop.place(&path.relative(), |out| out.write_all(&bytes))?;
    }
    Ok(())
}

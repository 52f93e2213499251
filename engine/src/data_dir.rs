//! The data directory as a whole: its lock, its format file, and the directories of its shards.
//!
//! Invariant: the format file names a shard only when both checkpoint slots of it are durable; so from then on a missing
//! slot is damage.

use std::io;
use std::rc::Rc;

use trireme_runtime::fs::{self, File, OpenOptions};
use trireme_runtime::{AlignedBuf, random_bytes, unix_ms};

use crate::api::{EngineConfig, OpenError};
use crate::checkpoint::write_slot_bytes;
use crate::layout::BLOCK;
use crate::layout::checkpoint::{CheckpointBody, encode_checkpoint, slot_of};
use crate::layout::format_file::Format;
use crate::layout::paths::DataPath;
use crate::recovery::at;

/// A data directory that is locked as long as this lives.
pub struct DataDir {
    /// Shards that exist, at least as many as the configuration wants.
    pub shards: u16,
    _lock: Rc<File>,
}

impl DataDir {
    /// Creates the directory if there is none, locks it, checks its format, and makes the shards that are missing. All of it
    /// is durable when it returns.
    pub async fn open(config: &EngineConfig) -> Result<DataDir, OpenError> {
        let dir = &config.data_dir;
        fs::create_dir_all(dir).await.map_err(at(dir))?;
        let path = DataPath::Lock.below(dir);
        let lock = File::open(&path, OpenOptions::CREATE)
            .await
            .map_err(at(&path))?;
        if !lock.lock_exclusive().map_err(at(&path))? {
            return Err(OpenError::Locked);
        }
        probe_direct(config).await.map_err(at(dir))?;
        let format = match read_format(config).await? {
            Some(format) if format.shards >= config.shards => {
                // A start that was killed may have left the name behind without making it durable.
                fs::sync_dir(dir).await.map_err(at(dir))?;
                format
            }
            old => {
                let mut directory = old.map_or([0; 16], |old| old.directory);
                if old.is_none() {
                    random_bytes(&mut directory);
                }
                let format = Format {
                    directory,
                    shards: config.shards.max(1),
                    created_unix_ms: old.map_or_else(unix_ms, |old| old.created_unix_ms),
                };
                for shard in old.map_or(0, |old| old.shards)..format.shards {
                    make_shard(config, &format, shard)
                        .await
                        .map_err(at(DataPath::Shard(shard).below(dir)))?;
                }
                let path = DataPath::Format.below(dir);
                fs::replace_file(&path, format.encode().to_vec())
                    .await
                    .map_err(at(&path))?;
                format
            }
        };
        Ok(DataDir {
            shards: format.shards,
            _lock: Rc::new(lock),
        })
    }
}

pub(crate) async fn read_format(config: &EngineConfig) -> Result<Option<Format>, OpenError> {
    let path = DataPath::Format.below(&config.data_dir);
    let bytes = match fs::read_file(&path).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A log without a format file is no fresh directory.
            let path = DataPath::PartitionsRoot.below(&config.data_dir);
            let is_used = match fs::read_dir(&path).await {
                Ok(entries) => !entries.is_empty(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(at(path)(error)),
            };
            if is_used {
                return Err(OpenError::Format(
                    config.data_dir.clone(),
                    "the format file is missing".to_owned(),
                ));
            }
            return Ok(None);
        }
        Err(error) => return Err(at(path)(error)),
    };
    let format = Format::parse(&bytes);
    format
        .map(Some)
        .map_err(|error| OpenError::Format(path, error.to_string()))
}

/// Makes a shard's directory and its two first checkpoints, 0 and 1.
async fn make_shard(config: &EngineConfig, format: &Format, shard: u16) -> io::Result<()> {
    let dir = &config.data_dir;
    let shard_dir = DataPath::Shard(shard).below(dir);
    fs::create_dir_all(&shard_dir).await?;
    fs::create_dir_all(DataPath::PartitionsRoot.below(dir)).await?;
    let body = CheckpointBody {
        unix_ms: unix_ms(),
        ..CheckpointBody::default()
    };
    for number in 0..2 {
        let bytes = encode_checkpoint(shard, format.directory, number, &body);
        let path = DataPath::Checkpoint {
            shard,
            slot: slot_of(number),
        }
        .below(dir);
        write_slot_bytes(&path, &bytes).await?;
    }
    fs::sync_dir(&shard_dir).await?;
    fs::sync_dir(DataPath::WalRoot.below(dir)).await?;
    fs::sync_dir(dir).await?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::sync_dir(parent).await?;
    }
    Ok(())
}

/// Says in one line if the file system refuses O_DIRECT; files are then written through the page cache, with DSYNC.
async fn probe_direct(config: &EngineConfig) -> io::Result<()> {
    let path = config.data_dir.join(".probe");
    let refused = match File::open(&path, OpenOptions::CREATE.direct()).await {
        Ok(file) => {
            let (result, _) = file.write_at(AlignedBuf::zeroed(BLOCK), 0).await;
            matches!(result, Err(error) if error.kind() == io::ErrorKind::InvalidInput)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => true,
        Err(error) => return Err(error),
    };
    if fs::exists(&path).await? {
        fs::remove_file(&path).await?;
    }
    if refused {
        tracing::warn!(dir = %config.data_dir.display(), "the file system refuses O_DIRECT: writing through the page cache");
    }
    Ok(())
}

//! A [table](crate::table) kept in one internal partition: the async shell that appends its changes and trims its log.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use trireme_runtime::sync::oneshot;
use trireme_runtime::{spawn, unix_ms};

use crate::Engine;
use crate::api::{
    Ack, Append, AppendError, Isolation, Offset, OffsetQuery, PartitionRef, ReadError, ReadPart,
    ReadRequest,
};
use crate::table::{self, Staged, Step, Table};

/// Bytes of log that are read at a time when a table is opened.
const OPEN_READ_BYTES: u32 = 1 << 20;

/// One change: a new value, or `None` to remove the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// Why a table cannot be opened or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    #[error("append: {0}")]
    Append(#[from] AppendError),
    #[error("read: {0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Table(#[from] table::TableError),
}

/// The table of one partition; lives on one core, and nothing else writes to the partition. Readers see only what is
/// durable.
pub struct TableStore {
    inner: Rc<Inner>,
}

struct Inner {
    engine: Engine,
    partition: PartitionRef,
    table: RefCell<Table>,
}

impl TableStore {
    /// Reads the partition from its log start to its end.
    pub async fn open(engine: Engine, partition: PartitionRef) -> Result<TableStore, TableError> {
        let mut offset = log_start(&engine, partition).await?;
        let mut table = Table::new(offset);
        let mut bytes = Vec::new();
        loop {
            let request = ReadRequest {
                partition,
                offset,
                max_bytes: OPEN_READ_BYTES,
                at_least_one: true,
                isolation: Isolation::HighWatermark,
                leader_epoch: None,
            };
            let result = one(engine.read(vec![request]).await)?;
            if result.bytes == 0 {
                break;
            }
            bytes.clear();
            for part in result.parts {
                read_part(part, partition, &mut bytes).await?;
            }
            table.apply(&bytes)?;
            offset = result.next_offset;
        }
        Ok(TableStore {
            inner: Rc::new(Inner {
                engine,
                partition,
                table: RefCell::new(table),
            }),
        })
    }

    /// Looks at the table.
    pub fn with<R>(&self, look: impl FnOnce(&Table) -> R) -> R {
        look(&self.inner.table.borrow())
    }

    /// Makes changes, all or none as long as they fit [`table::TABLE_BATCH_BYTES_MAX`]. Durable and visible when it
    /// returns; calls take effect in the order in which they are made. Dropping the future does not undo them.
    pub fn commit(
        &self,
        changes: Vec<Mutation>,
    ) -> impl Future<Output = Result<(), TableError>> + 'static {
        let changes = changes.into_iter().map(|change| (change.key, change.value));
        let staged = self.inner.table.borrow_mut().stage(changes, unix_ms());
        let (done, result) = oneshot();
        match staged {
            Err(error) => {
                let _ = done.send(Err(error.into()));
            }
            Ok(staged) => {
                let append = self.inner.clone().append(staged);
                spawn(async move {
                    let _ = done.send(append.await);
                })
                .detach();
            }
        }
        async move {
            result
                .await
                .unwrap_or(Err(AppendError::ShuttingDown.into()))
        }
    }
}

impl Inner {
    /// Appends at the call; the future reports to the table how that went, and then keeps the log short.
    fn append(
        self: Rc<Self>,
        staged: Staged,
    ) -> impl Future<Output = Result<(), TableError>> + 'static {
        // Boxed, so that the future does not count as borrowing the engine.
        let append: Pin<Box<dyn Future<Output = _>>> = Box::pin(self.engine.append(vec![Append {
            partition: self.partition,
            batches: staged.batches.into(),
            ack: Ack::Committed,
            may_use_reserve: true,
        }]));
        async move {
            let result = one(append.await);
            {
                let mut table = self.table.borrow_mut();
                match &result {
                    Ok(appended) => table.committed(staged.ticket, appended.last_offset + 1),
                    Err(_) => table.refused(staged.ticket),
                }
            }
            self.compact();
            result?;
            Ok(())
        }
    }

    fn compact(self: Rc<Self>) {
        loop {
            let step = self.table.borrow_mut().compact(unix_ms());
            match step {
                None => return,
                Some(Step::Append(staged)) => {
                    let append = self.clone().append(staged);
                    spawn(async move {
                        if let Err(error) = append.await {
                            tracing::warn!(%error, "a table's snapshot was refused; a later one will follow");
                        }
                    })
                    .detach();
                }
                Some(Step::AdvanceLogStart(offset)) => {
                    let this = self.clone();
                    spawn(async move { this.advance(offset).await }).detach();
                }
            }
        }
    }

    async fn advance(&self, offset: Offset) {
        let result = self
            .engine
            .delete_records(vec![(self.partition, offset)])
            .await;
        if let Err(error) = one(result) {
            tracing::warn!(%error, "a table's log start stays where it is; the next snapshot moves it");
        }
    }
}

async fn log_start(engine: &Engine, partition: PartitionRef) -> Result<Offset, TableError> {
    let query = (partition, OffsetQuery::Earliest, Isolation::HighWatermark);
    Ok(one(engine.offsets(vec![query]).await)?.offset)
}

async fn read_part(
    part: ReadPart,
    partition: PartitionRef,
    out: &mut Vec<u8>,
) -> Result<(), TableError> {
    match part {
        ReadPart::Memory(bytes) => out.extend_from_slice(&bytes),
        ReadPart::File(range) => {
            let len = range.len as usize;
            let file = trireme_runtime::fs::File::from_shared(range.file);
            let (result, bytes) = file
                .read_exact_at(Vec::with_capacity(len), range.position, len)
                .await;
            result.map_err(|_| ReadError::Damaged {
                file: format!("{partition:?}").into(),
                position: range.position,
            })?;
            out.extend_from_slice(&bytes);
        }
    }
    Ok(())
}

fn one<T, E>(mut results: Vec<Result<T, E>>) -> Result<T, E> {
    assert_eq!(results.len(), 1, "one answer to one question");
    results.pop().expect("just counted")
}

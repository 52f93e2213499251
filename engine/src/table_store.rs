//! A [table](crate::table) kept in one internal partition: the async shell that appends its changes and trims its log.

use bytes::Bytes;

use crate::Engine;
use crate::api::PartitionRef;

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
    Append(#[from] crate::api::AppendError),
    #[error("read: {0}")]
    Read(#[from] crate::api::ReadError),
    #[error("{0}")]
    Format(String),
}

/// The table of one partition; lives on one core. Readers see only what is durable.
pub struct TableStore {}

impl TableStore {
    /// Reads the partition from its log start to its end.
    pub async fn open(_engine: Engine, _partition: PartitionRef) -> Result<TableStore, TableError> {
        unimplemented!()
    }

    /// Looks at the table.
    pub fn with<R>(&self, _look: impl FnOnce(&View) -> R) -> R {
        unimplemented!()
    }

    /// Makes changes, all or none. Durable and visible when it returns; calls take effect in the order they are made (at the call).
    pub fn commit(
        &self,
        _changes: Vec<Mutation>,
    ) -> impl Future<Output = Result<(), TableError>> + 'static {
        async { unimplemented!() }
    }
}

/// What a reader sees.
pub struct View;

impl View {
    pub fn get(&self, _key: &[u8]) -> Option<&Bytes> {
        unimplemented!()
    }
    /// Every key, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        std::iter::empty()
    }
    /// The keys that begin with `prefix`, in order.
    pub fn prefix<'a>(&'a self, _prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        std::iter::empty()
    }
}

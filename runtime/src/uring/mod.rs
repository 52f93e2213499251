//! The production backend: one io_uring per core.

mod bufring;
mod driver;
mod file;
mod listener;
mod op;
pub(crate) mod paths;
mod queue;
mod recv;
mod send;
mod setup;
mod slots;
mod stream;

pub(crate) use driver::{Driver, RingConfig, Wait};
pub(crate) use file::UringFile;
pub(crate) use listener::UringListener;
pub(crate) use op::wait_readable;
pub(crate) use recv::UringRecvBuf;
pub(crate) use stream::UringStream;

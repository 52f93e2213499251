//! Synchronisation between tasks of one core: no atomics, `!Send`, the same in both backends.

mod cancel;
mod channel;
mod notify;
mod oneshot;
mod semaphore;
mod waitgroup;

pub use cancel::CancelToken;
pub use channel::{Receiver, SendError, Sender, TrySendError, bounded, unbounded};
pub use notify::{Notified, Notify};
pub use oneshot::{Canceled, OneReceiver, OneSender, oneshot};
pub use semaphore::{Permit, Semaphore};
pub use waitgroup::{WaitGroup, WaitGroupGuard};

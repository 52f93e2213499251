//! The sending side of a connection: gathered sends and sendfile, one after the other.

use std::io;
use std::os::fd::BorrowedFd;

use io_uring::opcode;

use super::file::{UringFile, iovecs};
use super::slots::{Completion, Leaves};
use super::stream::{UringStream, broken};
use crate::net::SendBufs;
use crate::sync::Permit;

/// Bytes of one sendfile call: a peer that drains fast must not keep the core in the kernel.
const SENDFILE_STEP: usize = 512 * 1024;
/// sendfile steps that go through before other tasks get a turn.
const SENDFILE_STEPS_PER_TURN: u32 = 2;

impl UringStream {
    /// The right to send, in order of asking. Dropped before `done()` it leaves the connection broken.
    async fn send_turn(&self) -> io::Result<Sending<'_>> {
        let turn = self.send_turn.acquire(1).await;
        if self.send_broken.get() {
            return Err(broken("an earlier send was cut off"));
        }
        Ok(Sending {
            stream: self,
            _turn: turn,
            done: false,
        })
    }

    pub(crate) async fn send_all(&self, bufs: SendBufs) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let sending = self.send_turn().await?;
        let mut bufs = bufs;
        let mut sent = 0;
        while sent < total {
            let (completion, back) = if bufs.len() == 1 {
                self.send_one(bufs, sent).await
            } else {
                self.send_message(bufs, sent).await
            };
            bufs = back;
            match completion.result {
                count @ 0.. => {
                    sent += count as usize;
                    self.fd.driver.counters.net_bytes_out.add(count as u64);
                }
                error if error == -libc::EINTR => (),
                error if error == -libc::EAGAIN => self.ready(libc::POLLOUT).await?,
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
        sending.done();
        Ok(())
    }

    async fn send_one(&self, bufs: SendBufs, skip: usize) -> (Completion, SendBufs) {
        let rest = &bufs[0][skip..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(self.fd.target(), rest.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        let op = self
            .fd
            .driver
            .start(Leaves::Nothing, (self.fd.clone(), bufs), entry)
            .cancel_on_drop();
        let (completion, (_fd, bufs)) = op.await;
        (completion, bufs)
    }

    async fn send_message(&self, bufs: SendBufs, skip: usize) -> (Completion, SendBufs) {
        let mut iovecs = iovecs(&bufs, skip);
        // SAFETY: msghdr is plain data for which all zeros mean "nothing".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len();
        let message = vec![message]; // on the heap, where it stays
        let entry = opcode::SendMsg::new(self.fd.target(), message.as_ptr())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        let resources = (self.fd.clone(), bufs, iovecs, message);
        let (completion, (_, bufs, _, _)) = self
            .fd
            .driver
            .start(Leaves::Nothing, resources, entry)
            .cancel_on_drop()
            .await;
        (completion, bufs)
    }

    pub(crate) async fn sendfile(&self, file: &UringFile, pos: u64, len: u64) -> io::Result<()> {
        let sending = self.send_turn().await?;
        let file = file.hold();
        let end = pos.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut offset = i64::try_from(pos).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut steps = 0;
        while (offset as u64) < end {
            let count = (end - offset as u64).min(SENDFILE_STEP as u64) as usize;
            // SAFETY: both descriptors are open as long as `self.fd` and `file` live.
            let (socket, source) = unsafe {
                (
                    BorrowedFd::borrow_raw(self.fd.raw()),
                    BorrowedFd::borrow_raw(file.raw()),
                )
            };
            match nix::sys::sendfile::sendfile64(socket, source, Some(&mut offset), count) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file is shorter",
                    ));
                }
                Ok(count) => {
                    self.fd.driver.counters.net_bytes_out.add(count as u64);
                    steps += 1;
                    if steps % SENDFILE_STEPS_PER_TURN == 0 && (offset as u64) < end {
                        crate::task::yield_now().await;
                    }
                }
                Err(nix::Error::EAGAIN) => self.ready(libc::POLLOUT).await?,
                Err(nix::Error::EINTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        sending.done();
        Ok(())
    }
}

struct Sending<'a> {
    stream: &'a UringStream,
    _turn: Permit,
    done: bool,
}

impl Sending<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.stream.send_broken.set(true);
        }
    }
}

//! One accepted socket: frames in, answers out.

use crate::counters::DoorCounters;
use crate::error::{CloseReason, FrameError, WriteError};
use crate::frame::{Direct, FrameAssembler};
use crate::limits::{WRITE_PIECE_BYTES, WRITE_PIECE_SEGMENTS};
use crate::memory::{Pass, ReceiveMemory};
use crate::segment::{FileRange, Segment};
use crate::sweep::{Reading, Status};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use trireme_runtime::fs::File;
use trireme_runtime::net::{SendBufs, TcpStream};
use trireme_runtime::sync::CancelToken;

/// An accepted socket on its core. The door closes it when the connection's future returns.
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Canceled when the broker stops: finish what was read, answer long polls now, then return.
    pub stop: CancelToken,
    reader: FrameReader,
    writer: Writer,
}

/// What both halves share.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) stream: TcpStream,
    pub(crate) status: Rc<Status>,
    pub(crate) counters: Arc<DoorCounters>,
}

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        stop: CancelToken,
        side: Side,
        memory: &ReceiveMemory,
    ) -> Self {
        let reader = FrameReader {
            side: side.clone(),
            stop: stop.clone(),
            assembler: FrameAssembler::new(memory),
            memory: memory.clone(),
            pass: Pass::default(),
        };
        Connection {
            peer,
            local,
            stop,
            reader,
            writer: Writer { side },
        }
    }

    /// For protocols whose messages have a 4-byte length in front.
    pub fn split(self) -> (FrameReader, Writer) {
        (self.reader, self.writer)
    }

    /// For all others.
    pub fn into_bytes(self) -> (ByteReader, Writer) {
        (ByteReader(self.reader), self.writer)
    }
}

/// The receiving half as a stream of bytes.
pub struct ByteReader(FrameReader);

impl ByteReader {
    /// Adds what has arrived to `into` and says how much that was; 0 at the end of the stream, or when the broker stops and
    /// `into` is empty. What `into` holds already counts as a message that has begun, for the time-outs; how long it may become
    /// is for the caller to limit.
    pub async fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, FrameError> {
        let reader = &mut self.0;
        if reader.stop.is_canceled() && into.is_empty() {
            return Ok(0);
        }
        let status = &reader.side.status;
        status.reading.set(Reading::WaitingForMemory);
        reader.memory.admit(&mut reader.pass).await;
        reader.pass.give_back();
        status.reading.set(if into.is_empty() {
            Reading::Boundary
        } else {
            Reading::InsideFrame
        });
        let received = reader.side.stream.recv().await;
        status.reading.set(Reading::Paused);
        status.mark_received();
        match received {
            Ok(arrived) => {
                into.extend_from_slice(&arrived);
                reader
                    .side
                    .counters
                    .received_bytes
                    .add(arrived.len() as u64);
                Ok(arrived.len())
            }
            Err(error) => Err(reader.side.ended(FrameError::Io(error))),
        }
    }
}

pub struct FrameReader {
    side: Side,
    stop: CancelToken,
    assembler: FrameAssembler,
    memory: ReceiveMemory,
    pass: Pass,
}

impl FrameReader {
    /// The next frame: what follows a 4-byte big-endian length, without that length. `None` when the peer closed between two
    /// frames, or when the broker stops and every whole frame that had arrived was handed out. Waits while the core's memory
    /// for received data is used up, which is given back when the returned `Bytes` (all its slices) are dropped: let go of a
    /// frame as soon as it is decoded, and before a long poll.
    ///
    /// A dropped future leaves the connection unusable if a frame was under way.
    pub async fn read_frame(
        &mut self,
        max_frame_bytes: usize,
    ) -> Result<Option<Bytes>, FrameError> {
        loop {
            match self.assembler.next_frame() {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    self.pass.give_back();
                    self.side.status.reading.set(Reading::Paused);
                    self.side.counters.frames.add(1);
                    return Ok(Some(frame));
                }
                Err(error) => {
                    self.side.counters.bad_frames.add(1);
                    return Err(error);
                }
            }
            if self.stop.is_canceled() && !self.assembler.is_inside_frame() {
                return Ok(None);
            }
            if !self.receive(max_frame_bytes).await? {
                return Ok(None);
            }
        }
    }

    /// Receives once; `false` at the end of the stream between two frames.
    async fn receive(&mut self, max_frame_bytes: usize) -> Result<bool, FrameError> {
        let status = &self.side.status;
        status.reading.set(Reading::WaitingForMemory);
        self.memory.admit(&mut self.pass).await;
        status.reading.set(if self.assembler.is_inside_frame() {
            Reading::InsideFrame
        } else {
            Reading::Boundary
        });
        let received = match self.assembler.direct() {
            Some(Direct { body, from, to }) => {
                let (result, body) = self.side.stream.recv_exact_into(body, from, to).await;
                match result {
                    Ok(()) => {
                        self.assembler.direct_done(body);
                        Ok(to - from)
                    }
                    Err(error) => Err(error),
                }
            }
            None => match self.side.stream.recv().await {
                Ok(arrived) => {
                    self.assembler.feed(&arrived, max_frame_bytes);
                    Ok(arrived.len())
                }
                Err(error) => Err(error),
            },
        };
        let status = &self.side.status;
        status.mark_received();
        status.partial_bytes.set(self.assembler.held_bytes());
        match received {
            Ok(0) if self.assembler.is_inside_frame() => {
                Err(self.side.ended(FrameError::Truncated))
            }
            Ok(0) => match status.closed.get() {
                Some(reason) => Err(FrameError::Closed(reason)),
                None => Ok(false),
            },
            Ok(count) => {
                self.side.counters.received_bytes.add(count as u64);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.side.ended(FrameError::Truncated))
            }
            Err(error) => Err(self.side.ended(FrameError::Io(error))),
        }
    }
}

impl Side {
    /// Our own closing shows as some error of the socket; this says what it was.
    fn ended(&self, otherwise: FrameError) -> FrameError {
        self.status
            .closed
            .get()
            .map_or(otherwise, FrameError::Closed)
    }

    fn close(&self, reason: Option<CloseReason>) {
        if let Some(reason) = reason
            && self.status.closed.replace(Some(reason)).is_none()
        {
            self.counters.count_close(reason);
        }
        self.stream.close();
    }
}

/// The sending half.
pub struct Writer {
    side: Side,
}

impl Writer {
    /// Sends all of it in order. Resolves when the kernel has taken everything; waits for a slow peer, at most the door's write
    /// time-out without progress. One call at a time; an error or a dropped future leaves the stream in the middle of an
    /// answer, so the connection must be closed then.
    pub async fn write(&mut self, segments: Vec<Segment>) -> Result<(), WriteError> {
        self.side.status.writing.set(true);
        // On the heap, so that a connection that is not sending does not carry the state of sending about.
        let result = Box::pin(self.write_all(segments)).await;
        self.side.status.writing.set(false);
        match (result, self.side.status.closed.get()) {
            (Err(_), Some(reason)) => Err(WriteError::Closed(reason)),
            (result, _) => result,
        }
    }

    /// Memory that follows each other goes out together, in pieces of a bounded size.
    async fn write_all(&mut self, segments: Vec<Segment>) -> Result<(), WriteError> {
        let mut piece = SendBufs::new();
        let mut piece_bytes = 0;
        for segment in segments {
            match segment {
                Segment::Memory(mut bytes) => {
                    while !bytes.is_empty() {
                        let part = bytes.split_to(bytes.len().min(WRITE_PIECE_BYTES - piece_bytes));
                        piece_bytes += part.len();
                        piece.push(part);
                        if piece_bytes == WRITE_PIECE_BYTES || piece.len() == WRITE_PIECE_SEGMENTS {
                            self.send(std::mem::take(&mut piece), std::mem::take(&mut piece_bytes))
                                .await?;
                        }
                    }
                }
                Segment::File(range) => {
                    self.send(std::mem::take(&mut piece), std::mem::take(&mut piece_bytes))
                        .await?;
                    self.send_file(range).await?;
                }
            }
        }
        self.send(piece, piece_bytes).await
    }

    async fn send(&self, piece: SendBufs, bytes: usize) -> Result<(), WriteError> {
        if bytes == 0 {
            return Ok(());
        }
        self.side.status.mark_sent();
        self.side.stream.send_all(piece).await?;
        self.side.status.mark_sent();
        self.side.counters.sent_bytes.add(bytes as u64);
        Ok(())
    }

    async fn send_file(&self, range: FileRange) -> Result<(), WriteError> {
        let FileRange {
            file,
            position,
            len,
            lease,
        } = range;
        let file = File::from_shared(file);
        let mut done = 0;
        while done < u64::from(len) {
            let count = (u64::from(len) - done).min(WRITE_PIECE_BYTES as u64);
            self.side.status.mark_sent();
            self.side
                .stream
                .sendfile(&file, position + done, count)
                .await
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => WriteError::File(error),
                    _ => WriteError::Io(error),
                })?;
            self.side.status.mark_sent();
            self.side.counters.sent_bytes.add(count);
            done += count;
        }
        drop(lease);
        Ok(())
    }

    /// Closes both directions now; a read in progress on the other half ends.
    pub fn close(&self) {
        self.side.close(None);
    }
}

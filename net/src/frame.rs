//! Frames from bytes, without I/O: a 4-byte big-endian length, then so many bytes.
//!
//! What arrives whole in one piece is copied once, all its frames together. A frame that arrives in several pieces gets memory
//! that doubles with what has arrived; from [`DIRECT_AFTER_BYTES`] on it has all its memory and takes the rest straight from the
//! socket ([`FrameAssembler::direct`]).

use crate::error::FrameError;
use crate::limits::{DIRECT_AFTER_BYTES, DIRECT_MIN_BYTES, DIRECT_STEP_BYTES, FRAME_START_BYTES};
use crate::memory::{Held, ReceiveMemory};
use bytes::{Buf, Bytes};

const PREFIX: usize = 4;

pub struct FrameAssembler {
    /// Whole frames with their prefixes, or nothing.
    whole: Bytes,
    /// A frame that was put together, without its prefix; it comes before `whole`.
    joined: Option<Bytes>,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// The frame under way, once its prefix is complete.
    body: Vec<u8>,
    wanted: usize,
    held: Held,
    /// What follows the frames that are ready.
    failed: Option<FrameError>,
}

/// A receive straight into a frame's own memory: `body[from..to]`.
pub struct Direct {
    pub body: Vec<u8>,
    pub from: usize,
    pub to: usize,
}

/// Frames' memory together with the count of it.
struct Counted {
    memory: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

fn length(prefix: [u8; PREFIX], max: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    let Ok(announced) = u32::try_from(length) else {
        return Err(FrameError::Negative(length));
    };
    match usize::try_from(announced) {
        Ok(length) if length <= max => Ok(length),
        _ => Err(FrameError::TooLarge { announced, max }),
    }
}

impl FrameAssembler {
    pub fn new(memory: &ReceiveMemory) -> Self {
        FrameAssembler {
            whole: Bytes::new(),
            joined: None,
            prefix: [0; PREFIX],
            prefix_len: 0,
            body: Vec::new(),
            wanted: 0,
            held: memory.hold(),
            failed: None,
        }
    }

    /// The next whole frame, without its prefix. An error stands behind the frames that came before it, and stays.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(frame) = self.joined.take() {
            return Ok(Some(frame));
        }
        if self.whole.has_remaining() {
            let length = self.whole.get_u32() as usize;
            let frame = self.whole.split_to(length);
            if self.whole.is_empty() {
                self.whole = Bytes::new();
            }
            return Ok(Some(frame));
        }
        match self.failed {
            None => Ok(None),
            Some(FrameError::Negative(length)) => Err(FrameError::Negative(length)),
            Some(FrameError::TooLarge { announced, max }) => {
                Err(FrameError::TooLarge { announced, max })
            }
            Some(_) => unreachable!("lengths are all that fails here"),
        }
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_inside_frame(&self) -> bool {
        self.prefix_len > 0
    }

    /// Bytes held by the unfinished frame.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Takes what has arrived. Only when `next_frame` gives no more: so a connection holds one piece's frames at a time.
    pub fn feed(&mut self, mut arrived: &[u8], max: usize) {
        assert!(
            self.joined.is_none() && self.whole.is_empty(),
            "frames are taken before more is fed"
        );
        if self.failed.is_some() {
            return;
        }
        if self.prefix_len > 0 {
            arrived = self.continue_frame(arrived, max);
        }
        if self.failed.is_some() || arrived.is_empty() {
            return;
        }
        let (whole, rest) = self.split_whole(arrived, max);
        if !whole.is_empty() {
            let mut held = self.held.take();
            held.grow(whole.len());
            self.whole = Bytes::from_owner(Counted {
                memory: whole.to_vec(),
                _held: held,
            });
        }
        if self.failed.is_none() && !rest.is_empty() {
            self.continue_frame(rest, max);
        }
    }

    /// The frames that `arrived` holds whole, and what follows them.
    fn split_whole<'a>(&mut self, arrived: &'a [u8], max: usize) -> (&'a [u8], &'a [u8]) {
        let mut end = 0;
        while let Some((prefix, rest)) = arrived[end..].split_first_chunk::<PREFIX>() {
            match length(*prefix, max) {
                Ok(length) if length <= rest.len() => end += PREFIX + length,
                Ok(_) => break,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        arrived.split_at(end)
    }

    /// Adds to the frame under way and gives back what follows it.
    fn continue_frame<'a>(&mut self, mut arrived: &'a [u8], max: usize) -> &'a [u8] {
        if self.prefix_len < PREFIX {
            let taken = arrived.len().min(PREFIX - self.prefix_len);
            self.prefix[self.prefix_len..self.prefix_len + taken]
                .copy_from_slice(&arrived[..taken]);
            self.prefix_len += taken;
            arrived = &arrived[taken..];
            if self.prefix_len < PREFIX {
                return arrived;
            }
            match length(self.prefix, max) {
                Ok(length) => self.wanted = length,
                Err(error) => {
                    self.failed = Some(error);
                    return arrived;
                }
            }
        }
        let (mine, rest) = arrived.split_at(arrived.len().min(self.wanted - self.body.len()));
        let needed = self.body.len() + mine.len();
        if needed > self.body.capacity() {
            let capacity = (2 * needed).max(FRAME_START_BYTES).min(self.wanted);
            self.body.reserve_exact(capacity - self.body.len());
        }
        self.body.extend_from_slice(mine);
        self.held.grow(mine.len());
        self.finish_if_complete();
        rest
    }

    fn finish_if_complete(&mut self) {
        if self.body.len() == self.wanted {
            let memory = std::mem::take(&mut self.body);
            self.joined = Some(Bytes::from_owner(Counted {
                memory,
                _held: self.held.take(),
            }));
            self.prefix_len = 0;
            self.wanted = 0;
        }
    }

    /// The next receive that should go straight into the frame under way; [`FrameAssembler::direct_done`] takes it back.
    /// `None` while too little has arrived, or too little is missing.
    pub fn direct(&mut self) -> Option<Direct> {
        let missing = self.wanted - self.body.len();
        if self.body.len() < DIRECT_AFTER_BYTES || missing < DIRECT_MIN_BYTES {
            return None;
        }
        // All of it now: pages that nothing was written to cost nothing, moving a large frame again would.
        self.body.reserve_exact(missing);
        let from = self.body.len();
        let to = from + missing.min(from).min(DIRECT_STEP_BYTES);
        Some(Direct {
            body: std::mem::take(&mut self.body),
            from,
            to,
        })
    }

    pub fn direct_done(&mut self, body: Vec<u8>) {
        assert!(
            self.body.is_empty() && body.len() <= self.wanted,
            "the body of this frame comes back"
        );
        self.held.grow(body.len() - self.held.bytes());
        self.body = body;
        self.finish_if_complete();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    fn memory() -> ReceiveMemory {
        ReceiveMemory::new(usize::MAX, 0)
    }

    /// Plays the connection's part: direct receives where asked for, pieces of the given sizes else.
    fn read_all(assembler: &mut FrameAssembler, mut bytes: &[u8], pieces: &[usize]) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            while let Some(frame) = assembler.next_frame().unwrap() {
                frames.push(frame);
            }
            if bytes.is_empty() {
                return frames;
            }
            if let Some(mut direct) = assembler.direct() {
                let step = direct.to - direct.from;
                if step > bytes.len() {
                    return frames;
                }
                direct.body.extend_from_slice(&bytes[..step]);
                bytes = &bytes[step..];
                assembler.direct_done(direct.body);
            } else {
                let (piece, rest) = bytes.split_at(pieces.next().unwrap().clamp(1, bytes.len()));
                assembler.feed(piece, MAX);
                bytes = rest;
            }
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_frames(
            sizes in proptest::collection::vec(prop_oneof![0usize..40, 0usize..3000, 60_000usize..400_000], 0..12),
            pieces in proptest::collection::vec(prop_oneof![1usize..9, 1usize..5000, 1usize..70_000], 1..20),
        ) {
            let frames: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(i, n)| (0..*n).map(|j| (i * 31 + j) as u8).collect()).collect();
            let memory = memory();
            let mut assembler = FrameAssembler::new(&memory);
            let got = read_all(&mut assembler, &encode(&frames), &pieces);
            prop_assert_eq!(got.len(), frames.len());
            for (got, sent) in got.iter().zip(&frames) {
                prop_assert_eq!(&got[..], &sent[..]);
            }
            prop_assert!(!assembler.is_inside_frame());
            drop(got);
            prop_assert_eq!(memory.used(), 0);
        }

        #[test]
        fn random_bytes_never_panic_and_hold_no_more_than_arrived(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            pieces in proptest::collection::vec(1usize..100, 1..10),
        ) {
            let memory = memory();
            let mut assembler = FrameAssembler::new(&memory);
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                assembler.feed(now, 1000);
                rest = later;
                prop_assert!(memory.used() <= bytes.len());
                while let Ok(Some(_)) = assembler.next_frame() {}
            }
        }
    }

    #[test]
    fn a_promise_takes_no_memory() {
        let memory = memory();
        let mut assembler = FrameAssembler::new(&memory);
        assembler.feed(&(50u32 << 20).to_be_bytes(), 64 << 20);
        assembler.feed(&[7; 10], 64 << 20);
        assert!(assembler.is_inside_frame());
        assert_eq!(memory.used(), 10);
        assert!(assembler.body.capacity() <= FRAME_START_BYTES);
        assembler.feed(&vec![7; 30_000], 64 << 20);
        assert!(assembler.body.capacity() < 3 * 30_000);
        drop(assembler);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_bad_length_stands_behind_the_good_frames_before_it() {
        for (length, expected) in [
            (-1i32, "negative"),
            (i32::MIN, "negative"),
            (i32::MAX, "allowed"),
            (101, "allowed"),
        ] {
            let memory = memory();
            let mut assembler = FrameAssembler::new(&memory);
            let mut bytes = encode(&[vec![1; 100], vec![], vec![2; 3]]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[9; 50]);
            assembler.feed(&bytes, 100);
            for frame in [100, 0, 3] {
                assert_eq!(assembler.next_frame().unwrap().unwrap().len(), frame);
            }
            for _ in 0..2 {
                let error = assembler.next_frame().unwrap_err().to_string();
                assert!(error.contains(expected), "{length}: {error}");
            }
        }
    }

    #[test]
    fn frames_count_until_they_are_dropped() {
        let memory = memory();
        let mut assembler = FrameAssembler::new(&memory);
        assembler.feed(&encode(&[vec![1; 100], vec![2; 200]]), MAX);
        assert_eq!(memory.used(), 308);
        let first = assembler.next_frame().unwrap().unwrap();
        let second = assembler.next_frame().unwrap().unwrap();
        drop(first);
        assert_eq!(memory.used(), 308, "both lie in one piece of memory");
        let kept = second.slice(5..6);
        drop(second);
        assert_eq!(memory.used(), 308);
        drop(kept);
        assert_eq!(memory.used(), 0);
    }
}

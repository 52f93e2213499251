//! Bytes of a file in pages that copies share until one of them writes: what is durable beside what is written, every version
//! in between, and whole images of a disk cost little more than what differs.

use std::ops::Range;
use std::sync::Arc;

use super::SECTOR;

/// Bytes of a page.
const PAGE: usize = 4096;

type Page = Arc<[u8; PAGE]>;

/// A byte string. What was never written is zero and takes no memory.
#[derive(Clone, Default)]
pub(super) struct Pages {
    /// `None` is a page of zeros, as is what lies behind the vector. Bytes behind `len` are zero.
    pages: Vec<Option<Page>>,
    len: u64,
}

/// The pages that hold a range of bytes, as they were once.
#[derive(Clone, Default)]
pub(super) struct Version {
    first: usize,
    pages: Vec<Option<Page>>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Cuts, or extends with zeros.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let kept = (len as usize).div_ceil(PAGE);
            self.pages.truncate(kept);
            let within = len as usize % PAGE;
            if within > 0
                && let Some(Some(page)) = self.pages.get_mut(kept - 1)
            {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// Appends what is there at `pos` to `out`, at most `len` bytes.
    pub(super) fn read(&self, pos: u64, out: &mut Vec<u8>, len: usize) {
        let end = pos.saturating_add(len as u64).min(self.len) as usize;
        let mut at = pos.min(self.len) as usize;
        out.reserve(end - at);
        while at < end {
            let (page, within) = (at / PAGE, at % PAGE);
            let count = (PAGE - within).min(end - at);
            match self.pages.get(page) {
                Some(Some(bytes)) => out.extend_from_slice(&bytes[within..within + count]),
                _ => out.resize(out.len() + count, 0),
            }
            at += count;
        }
    }

    fn page_mut(&mut self, index: usize) -> &mut [u8; PAGE] {
        if self.pages.len() <= index {
            self.pages.resize(index + 1, None);
        }
        Arc::make_mut(self.pages[index].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    /// Writes, and extends as far as is needed.
    pub(super) fn write(&mut self, pos: u64, mut bytes: &[u8]) {
        let mut at = pos as usize;
        self.len = self.len.max(pos + bytes.len() as u64);
        while !bytes.is_empty() {
            let (page, within) = (at / PAGE, at % PAGE);
            let count = (PAGE - within).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.page_mut(page)[within..within + count].copy_from_slice(now);
            (at, bytes) = (at + count, later);
        }
    }

    pub(super) fn flip_bit(&mut self, byte: u64, bit: u32) {
        assert!(byte < self.len, "a byte of the file");
        self.page_mut(byte as usize / PAGE)[byte as usize % PAGE] ^= 1 << bit;
    }

    /// The range as it is now.
    pub(super) fn version(&self, range: Range<u64>) -> Version {
        let first = range.start as usize / PAGE;
        let last = (range.end as usize).div_ceil(PAGE);
        Version {
            first,
            pages: (first..last)
                .map(|page| self.pages.get(page).cloned().flatten())
                .collect(),
        }
    }

    /// Takes sectors from a version of them, as far as the length reaches.
    pub(super) fn take(&mut self, version: &Version, sectors: Range<u64>) {
        let end = (sectors.end * SECTOR as u64).min(self.len) as usize;
        let mut at = sectors.start as usize * SECTOR;
        while at < end {
            let (page, within) = (at / PAGE, at % PAGE);
            let count = (PAGE - within).min(end - at);
            let from = version.pages[page - version.first].as_ref();
            // Whole pages are shared, unless there is something behind the end that this file must not have.
            if count == PAGE {
                if self.pages.len() <= page {
                    self.pages.resize(page + 1, None);
                }
                self.pages[page] = from.cloned();
            } else if let Some(from) = from {
                self.page_mut(page)[within..within + count]
                    .copy_from_slice(&from[within..within + count]);
            } else if self.pages.get(page).is_some_and(Option::is_some) {
                self.page_mut(page)[within..within + count].fill(0);
            }
            at += count;
        }
    }
}

/// The sectors that a range of bytes touches.
pub(super) fn sectors(range: Range<u64>) -> Range<u64> {
    let sector = SECTOR as u64;
    range.start / sector..range.end.div_ceil(sector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pages: &Pages) -> Vec<u8> {
        let mut out = Vec::new();
        pages.read(0, &mut out, usize::MAX);
        out
    }

    proptest! {
        #[test]
        fn pages_are_a_byte_string(
            steps in prop::collection::vec((0u8..3, 0usize..20_000, 0usize..9_000, any::<u8>()), 1..20),
        ) {
            let (mut pages, mut plain) = (Pages::default(), Vec::new());
            let mut copies = Vec::new();
            for (what, pos, len, byte) in steps {
                match what {
                    0 => {
                        pages.set_len(pos as u64);
                        plain.resize(pos, 0);
                    }
                    1 => copies.push((pages.clone(), plain.clone())),
                    _ => {
                        pages.write(pos as u64, &vec![byte; len]);
                        plain.resize(plain.len().max(pos + len), 0);
                        plain[pos..pos + len].fill(byte);
                    }
                }
                prop_assert_eq!(all(&pages), plain.clone());
                let mut part = Vec::new();
                pages.read(pos as u64, &mut part, len);
                prop_assert_eq!(&part[..], &plain[pos.min(plain.len())..(pos + len).min(plain.len())]);
            }
            for (pages, plain) in copies {
                prop_assert_eq!(all(&pages), plain, "a copy stays as it was");
            }
        }

        #[test]
        fn sectors_are_taken_from_a_version(
            (old_len, new_len, from, to) in (0u64..20_000, 0u64..20_000, 0u64..40, 0u64..40),
        ) {
            let (mut old, mut new) = (Pages::default(), Pages::default());
            old.write(0, &vec![1; old_len as usize]);
            new.write(0, &vec![2; new_len as usize]);
            let range = from.min(to)..from.max(to);
            let bytes = range.start * SECTOR as u64..range.end * SECTOR as u64;
            old.take(&new.version(bytes.clone()), range);
            for (at, byte) in all(&old).into_iter().enumerate() {
                let at = at as u64;
                let expected = match bytes.contains(&at) {
                    true if at < new_len => 2,
                    true => 0,
                    false => 1,
                };
                prop_assert_eq!(byte, expected, "at {}", at);
            }
            prop_assert_eq!(old.len(), old_len);
        }
    }
}

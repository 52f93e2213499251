//! The receive buffers of a core: lent to the kernel in a ring, handed to a receive only when data is there.

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub(crate) const GROUP: u16 = 0;

pub(crate) struct BufRing {
    /// Shared with the kernel: it reads entries up to the tail that we publish.
    entries: Mapping,
    /// `count` buffers of `len` bytes; the system gives memory when a buffer is first written to.
    memory: Mapping,
    count: u16,
    len: usize,
    tail: Cell<u16>,
    out: Cell<u32>,
}

impl BufRing {
    /// Registers `count` (a power of two) buffers with `ring`. The result must outlive the ring's use of them: the driver
    /// drops the ring first.
    pub(crate) fn register(ring: &IoUring, count: u16, len: u32) -> io::Result<BufRing> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let len = (len as usize).next_multiple_of(4096);
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * len)?;
        // SAFETY: `entries` is page-aligned, large enough for `count` entries, and lives as long as the ring (see above).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries.addr() as u64, count, GROUP, 0)?
        };
        let bufs = BufRing {
            entries,
            memory,
            count,
            len,
            tail: Cell::new(0),
            out: Cell::new(u32::from(count)),
        };
        for id in 0..count {
            bufs.give_back(id);
        }
        Ok(bufs)
    }

    /// Lends buffer `id`, which the kernel does not have and nobody reads any more, to the kernel.
    pub(crate) fn give_back(&self, id: u16) {
        let tail = self.tail.get();
        let base = self.entries.addr().cast::<BufRingEntry>();
        // SAFETY: the index is below `count`, inside the mapping. The kernel reads only entries before the published tail,
        // and at most `count` are out at a time, so it does not look at this one now. The mapping is zeroed memory, valid
        // for the plain-integer struct; its first entry holds the tail in a field that the setters leave alone.
        unsafe {
            let entry = &mut *base.add(usize::from(tail & (self.count - 1)));
            entry.set_addr(self.buffer(id) as u64);
            entry.set_len(self.len as u32);
            entry.set_bid(id);
        }
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `tail` gives the address of the aligned 16-bit tail in the first entry; the kernel reads it concurrently,
        // hence the atomic store, with Release so that it sees the entry.
        unsafe {
            let shared = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(shared).store(self.tail.get(), Ordering::Release);
        }
        self.out.set(self.out.get() - 1);
    }

    /// The kernel has put data into buffer `id`.
    pub(crate) fn taken(&self) {
        self.out.set(self.out.get() + 1);
    }

    /// Start of buffer `id`.
    pub(crate) fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "buffer {id} does not exist");
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.memory.addr().add(usize::from(id) * self.len) }
    }

    /// Buffers that the kernel does not have.
    pub(crate) fn out(&self) -> u32 {
        self.out.get()
    }
}

/// Anonymous, zeroed, page-aligned memory.
struct Mapping {
    addr: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let addr = NonNull::new(addr.cast()).expect("mmap does not map page zero");
        Ok(Mapping { addr, len })
    }

    fn addr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the owner drops it after the last use.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), self.len) };
    }
}

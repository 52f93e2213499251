//! What a disk call has in common with all others: its number, its time, and whether it fails.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;

use super::core::SimCore;
use super::disk::Disk;
use super::faults::{DiskError, DiskFaults, Fault};
use super::image::{Boundary, BoundaryHook};
use super::world::{Later, Pending};

/// Size of a simulated disk that has no other.
const DISK_BYTES: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallKind {
    Read,
    Write,
    Allocate,
    Sync,
    /// Names; whether it may take space.
    Names {
        takes_space: bool,
    },
}

/// A call that was submitted, with its fate.
#[derive(Clone, Copy)]
pub(super) struct Call {
    number: u64,
    /// How it ends, if not well.
    pub(super) error: Option<DiskError>,
    delay: u64,
    hangs: bool,
}

impl DiskError {
    pub(super) fn to_io(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            DiskError::Io => libc::EIO,
            DiskError::NoSpace => libc::ENOSPC,
        })
    }
}

impl CallKind {
    fn takes_space(self) -> bool {
        match self {
            CallKind::Write | CallKind::Allocate => true,
            CallKind::Names { takes_space } => takes_space,
            CallKind::Read | CallKind::Sync => false,
        }
    }

    /// How its EIO is counted, and how likely it is.
    fn io_error(self, faults: &DiskFaults) -> (Fault, u64) {
        match self {
            CallKind::Read => (Fault::ReadError, faults.read_error_one_in),
            CallKind::Write | CallKind::Allocate => (Fault::WriteError, faults.write_error_one_in),
            CallKind::Sync => (Fault::SyncError, faults.sync_error_one_in),
            CallKind::Names { .. } => (Fault::NameError, faults.name_error_one_in),
        }
    }
}

impl SimCore {
    /// A call enters the disk's queue; it takes up to `delay_max` ns, if nothing is wrong.
    pub(super) fn submit(&self, kind: CallKind, delay_max: u64) -> Call {
        let machine = self.machine();
        let number = machine.disk_calls.get() + 1;
        machine.disk_calls.set(number);
        let faults = machine.disk_faults.borrow();
        let mut call = Call {
            number,
            error: None,
            delay: self.delay(delay_max),
            hangs: false,
        };
        let world = &self.world;
        if world.chance(faults.stall_one_in) {
            world.count(Fault::DiskStall, self.whose());
            call.delay += world.up_to(faults.stall);
        }
        if world.chance(faults.hang_one_in) {
            world.count(Fault::DiskHang, self.whose());
            call.hangs = true;
        }
        let (io_error, one_in) = kind.io_error(&faults);
        if world.chance(one_in) {
            call.error = Some(DiskError::Io);
        } else if kind.takes_space() && world.chance(faults.no_space_one_in) {
            call.error = Some(DiskError::NoSpace);
        }
        if let Some(fail) = faults.fail {
            let is_meant = number == fail.call || fail.lasting && number > fail.call;
            if is_meant && (fail.error == DiskError::Io || kind.takes_space()) {
                call.error = Some(fail.error);
            }
        }
        match call.error {
            Some(DiskError::Io) => world.count(io_error, self.whose()),
            Some(DiskError::NoSpace) => world.count(Fault::NoSpace, self.whose()),
            None => (),
        }
        call
    }

    /// Does `f` when the call is done.
    pub(super) fn complete<T: 'static>(
        &self,
        call: Call,
        f: impl FnOnce() -> T + 'static,
    ) -> Pending<T> {
        match call.hangs {
            true => Later::new().1,
            false => self.later(call.delay, f),
        }
    }

    /// For a reader: how a call ended.
    pub(super) fn record_call<T>(
        &self,
        call: Call,
        what: fmt::Arguments<'_>,
        result: &io::Result<T>,
    ) {
        match result {
            Ok(_) => self.record(format_args!("disk {}: {what}", call.number)),
            Err(error) => self.record(format_args!("disk {}: {what}: {error}", call.number)),
        }
    }

    /// The disk is about to change.
    pub(super) fn boundary(&self, what: &'static str, path: &str, range: Range<u64>) {
        let machine = self.machine();
        let hook: Option<BoundaryHook> = machine.boundary_hook.borrow_mut().take();
        if let Some(mut hook) = hook {
            hook(&Boundary {
                calls: machine.disk_calls.get(),
                what,
                path,
                range,
                disk: &machine.disk,
            });
            machine.boundary_hook.borrow_mut().get_or_insert(hook);
        }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let capacity = self.machine().disk_faults.borrow().capacity_bytes;
        capacity.unwrap_or(DISK_BYTES)
    }

    /// Whether the disk has room for a file to grow.
    pub(super) fn make_room(&self, disk: &RefCell<Disk>, from: u64, to: u64) -> io::Result<()> {
        let wanted = Disk::taken(to).saturating_sub(Disk::taken(from));
        let capacity = self.machine().disk_faults.borrow().capacity_bytes;
        if let Some(capacity) = capacity
            && wanted > 0
            && disk.borrow().used() + wanted > capacity
        {
            self.world.count(Fault::DiskFull, self.whose());
            return Err(DiskError::NoSpace.to_io());
        }
        Ok(())
    }
}

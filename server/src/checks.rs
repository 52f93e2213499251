//! What the machine must give us, looked at before anything starts.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{self, FsType};
use std::path::Path;

/// Files besides connections and segments: rings, logs, checkpoints, a terminal.
const OTHER_FILES: u64 = 256;
/// What one core's ring and receive buffers may lock, on kernels that count it.
const LOCKED_BYTES_PER_CORE: u64 = 1 << 20;
/// Below this free space the log says so at start.
const LOW_SPACE_BYTES: u64 = 1 << 30;

/// Raises the limit of open files as far as allowed, and says when that is less than the configuration may need.
pub fn raise_open_files(max_connections: usize, open_files_per_core: usize, cores: usize) {
    let wanted = max_connections as u64 + (open_files_per_core * cores) as u64 + OTHER_FILES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // A privileged process may go beyond its hard limit; others go up to it.
    let raised = [(wanted, hard.max(wanted)), (wanted.min(hard), hard)]
        .into_iter()
        .filter(|(to, _)| *to > soft)
        .find(|(to, hard)| setrlimit(Resource::RLIMIT_NOFILE, *to, *hard).is_ok());
    let now = raised.map_or(soft, |(to, _)| to);
    if now < wanted {
        tracing::warn!(
            limit = now,
            wanted,
            "the limit of open files (ulimit -n, LimitNOFILE) is lower than connections and segments may need"
        );
    }
}

pub fn check_locked_memory(cores: usize) {
    let wanted = LOCKED_BYTES_PER_CORE * cores as u64;
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < wanted
        && !nix::unistd::geteuid().is_root()
    {
        tracing::warn!(
            limit = soft,
            wanted,
            "the limit of locked memory (ulimit -l, LimitMEMLOCK) may be too low for the rings of all cores"
        );
    }
}

/// Says what may surprise about the data directory's file system.
pub fn check_file_system(data_dir: &Path) {
    // The directory itself may not exist yet.
    let Some(stat) = data_dir.ancestors().find_map(|dir| {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        statfs::statfs(dir).ok()
    }) else {
        return;
    };
    if let Some(name) = unsupported(stat.filesystem_type()) {
        tracing::warn!(
            file_system = name,
            "the data directory is not on ext4 or xfs: durability is only tested there"
        );
    }
    let free = stat.blocks_available() * stat.block_size() as u64;
    if free < LOW_SPACE_BYTES {
        tracing::warn!(
            free_mib = free >> 20,
            "little free space for the data directory"
        );
    }
}

fn unsupported(kind: FsType) -> Option<&'static str> {
    Some(match kind {
        statfs::EXT4_SUPER_MAGIC | statfs::XFS_SUPER_MAGIC => return None,
        statfs::TMPFS_MAGIC => "tmpfs: its content is gone after a restart of the machine",
        statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs: mount a volume for the data",
        statfs::BTRFS_SUPER_MAGIC => "btrfs",
        statfs::NFS_SUPER_MAGIC => "nfs",
        FsType(0x2fc1_2fc1) => "zfs",
        _ => "another one",
    })
}

/// What to do when the runtime could not start its rings.
pub fn explain_ring_error(error: &std::io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc_errno::EPERM) => match read_sysctl() {
            Some(setting @ ("1" | "2")) => {
                return format!(
                    "io_uring is switched off on this machine: kernel.io_uring_disabled = {setting}; set it to 0 with sysctl"
                );
            }
            _ => {
                "a seccomp profile forbids io_uring: allow io_uring_setup, io_uring_enter and io_uring_register (for a \
                  container: --security-opt seccomp=PROFILE)"
            }
        },
        Some(libc_errno::ENOSYS) => {
            "the kernel has no io_uring, or a seccomp profile hides it: Linux 6.1 or newer is needed"
        }
        Some(libc_errno::EINVAL) => {
            "the kernel's io_uring is too old: Linux 6.1 or newer is needed"
        }
        Some(libc_errno::ENOMEM) => "too little lockable memory: raise ulimit -l (LimitMEMLOCK)",
        Some(libc_errno::EMFILE | libc_errno::ENFILE) => {
            "too few file descriptors: raise ulimit -n (LimitNOFILE)"
        }
        _ => "see the error",
    };
    format!("cannot start the cores: {error}; {advice}")
}

/// Numbers of `errno` on Linux, as `io::Error` gives them.
mod libc_errno {
    pub const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    pub const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;
    pub const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
    pub const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;
    pub const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
    pub const ENOSYS: i32 = nix::errno::Errno::ENOSYS as i32;
}

#[allow(
    clippy::disallowed_methods,
    reason = "when the runtime does not start, there is nothing else"
)]
fn read_sysctl() -> Option<&'static str> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    ["0", "1", "2"]
        .into_iter()
        .find(|value| text.trim() == *value)
}

/// The machine's memory.
#[allow(
    clippy::disallowed_methods,
    reason = "read once, before the runtime starts"
)]
pub fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let machine = kib << 10;
    // A container's limit, if it is lower.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

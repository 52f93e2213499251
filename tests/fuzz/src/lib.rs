//! What bytes from outside can reach, as functions of bytes: none of them may panic, hang, or take more memory than its input
//! deserves.
//!
//! [`TARGETS`] is the list. `cargo test -p trireme-fuzz` runs every target over its seeds, over the corpus (`corpus/TARGET/`, also
//! the inputs that once broke something: `corpus/TARGET/crash-…`) and over some thousand mutations of them. `tests/fuzz/run` searches on
//! with libFuzzer, guided by coverage.

// Never in the broker.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod mutate;
pub mod seeds;
pub mod targets;

use targets::{batches, config, directory, door, layout};

/// Memory that one process of a fuzzer may hold, in bytes: an allocation beyond it ends the process, which is a finding.
pub const MEMORY_MAX: usize = 768 << 20;

/// One thing to be fuzzed.
pub struct Target {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&[u8]),
    /// Inputs made by the encoders of the code itself.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is tried, in bytes.
    pub bytes_max: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "kafka_frame",
        what: "a request frame as it comes from a socket, through the door, the engine and the groups",
        run: door::frame,
        seeds: door::frame_seeds,
        bytes_max: 8 << 10,
    },
    Target {
        name: "kafka_request",
        what: "a request of every API in every version: the header is right, the body is not",
        run: door::request,
        seeds: door::request_seeds,
        bytes_max: 8 << 10,
    },
    Target {
        name: "batch",
        what: "record batches: split, checked, their records read; with their check sums as they are, and made right",
        run: batches::batch,
        seeds: batches::batch_seeds,
        bytes_max: 16 << 10,
    },
    Target {
        name: "batch_payload",
        what: "the payload of a batch of every compression",
        run: batches::payload,
        seeds: batches::payload_seeds,
        bytes_max: 16 << 10,
    },
    Target {
        name: "table",
        what: "batches of a table (metadata, committed offsets), and what their records say",
        run: batches::table,
        seeds: batches::table_seeds,
        bytes_max: 16 << 10,
    },
    Target {
        name: "log_group",
        what: "a group of the commit log and its records",
        run: layout::group,
        seeds: layout::group_seeds,
        bytes_max: 32 << 10,
    },
    Target {
        name: "log_scan",
        what: "a ring of log files, followed to its end",
        run: layout::scan,
        seeds: layout::scan_seeds,
        bytes_max: 64 << 10,
    },
    Target {
        name: "checkpoint",
        what: "the slots of a checkpoint",
        run: layout::checkpoint,
        seeds: layout::checkpoint_seeds,
        bytes_max: 32 << 10,
    },
    Target {
        name: "sidecar",
        what: "blocks of sums and indexes, and the format file",
        run: layout::sidecar,
        seeds: layout::sidecar_seeds,
        bytes_max: 8 << 10,
    },
    Target {
        name: "config",
        what: "the configuration: file, environment, values",
        run: config::config,
        seeds: config::config_seeds,
        bytes_max: 8 << 10,
    },
    Target {
        name: "recovery",
        what: "the engine's start from a directory with changed bytes, and reading all of it",
        run: directory::recovery,
        seeds: directory::edit_seeds,
        bytes_max: 1 << 10,
    },
    Target {
        name: "fsck",
        what: "trireme-fsck verify and repair of a directory with changed bytes",
        run: directory::fsck,
        seeds: directory::edit_seeds,
        bytes_max: 1 << 10,
    },
    Target {
        name: "fsck_dump",
        what: "trireme-fsck dump of any bytes as any kind of file",
        run: directory::dump,
        seeds: directory::dump_seeds,
        bytes_max: 32 << 10,
    },
];

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

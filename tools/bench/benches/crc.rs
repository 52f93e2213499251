//! Which crate computes the check sums, and whether combining them is worth it: `cargo bench -p trireme-bench --bench crc`.
//! The choice and the figures behind it stand in engine/src/crc.rs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trireme_engine::batch::{self, Codec, HEADER_BYTES, Limits};
use trireme_engine::crc;
use trireme_engine::records::{BatchBuilder, NewRecord};

const SIZES: [usize; 4] = [64, 1 << 10, 16 << 10, 1 << 20];

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sum");
    for size in SIZES {
        let bytes = bytes(size);
        group.throughput(Throughput::Bytes(size as u64));
        let mut run = |name: &str, sum: &dyn Fn(&[u8]) -> u32| {
            group.bench_with_input(BenchmarkId::new(name, size), &bytes, |bencher, bytes| {
                bencher.iter(|| sum(black_box(bytes)));
            });
        };
        run("engine crc32c", &|bytes| crc::crc32c(0, bytes));
        run("engine crc32c seeded", &|bytes| crc::crc32c(1, bytes));
        run("crate crc32c", &|bytes| crc32c::crc32c(bytes));
        run("engine crc32", &|bytes| crc::crc32(0, bytes));
        run("crc-fast crc32", &|bytes| crc_fast::crc32_iso_hdlc(bytes));
    }
    group.finish();
}

fn combinations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("combine");
    for size in SIZES {
        group.bench_function(BenchmarkId::new("engine", size), |bencher| {
            bencher
                .iter(|| crc::crc32c_combine(black_box(1), black_box(2), black_box(size as u64)));
        });
        group.bench_function(BenchmarkId::new("crate crc32c", size), |bencher| {
            bencher.iter(|| crc32c::crc32c_combine(black_box(1), black_box(2), black_box(size)));
        });
    }
    group.finish();
}

/// What one produced batch costs before it is logged.
fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for size in SIZES {
        let mut builder = BatchBuilder::new(Codec::None);
        let value = bytes(size);
        builder.push(&NewRecord {
            timestamp_ms: 1,
            value: Some(&value),
            ..Default::default()
        });
        let mut batch = builder.finish();
        let limits = Limits::client(2 << 20);
        group.bench_function(BenchmarkId::new("validate", size), |bencher| {
            bencher.iter(|| batch::validate(black_box(&batch), &limits).is_ok());
        });
        group.bench_function(BenchmarkId::new("log append time", size), |bencher| {
            bencher.iter(|| batch::set_log_append_time(black_box(&mut batch[..HEADER_BYTES]), 7));
        });
    }
    group.finish();
}

criterion_group! {
    name = crcs;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
    targets = sums, combinations, batches
}
criterion_main!(crcs);

"""`tests/fsck-speed`: trireme-fsck verify against bare O_DIRECT reads of the same files, and a repair of a large directory."""
import argparse
import json
import mmap
import multiprocessing
import os
import pathlib
import statistics
import time

from .broker import Trireme
from .core import BIN, Report, expect, need_root, run, say, scratch

RATIO_MIN = 0.70
PIECE = 1 << 20
RECORD_BYTES = 1000
PARTITIONS = 12


def fill(directory, gib):
    """A cleanly shut directory with about `gib` GiB in segments."""
    broker = Trireme(directory, logs=directory.parent)
    with broker:
        run([BIN / "trireme-bench", "produce", "--bootstrap", broker.bootstrap, "--admin", f"127.0.0.1:{broker.admin}", "--fresh",
             "--partitions", PARTITIONS, "--records", (gib << 30) // RECORD_BYTES, "--record-size", RECORD_BYTES, "--batch-bytes", 262144],
            timeout=3600)
        broker.stop(timeout=300)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def read_share(paths):
    """Reads files with O_DIRECT, 1 MiB at a time; the bytes read."""
    buffer, total = mmap.mmap(-1, PIECE), 0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            size, at = os.fstat(descriptor).st_size, 0
            while at < size:
                count = os.preadv(descriptor, [buffer], at)
                if count <= 0:
                    break
                total, at = total + count, at + count
        finally:
            os.close(descriptor)
    return total


def shares(paths, readers):
    """The files dealt out, the largest first, so that the readers end together."""
    dealt = [[0, []] for _ in range(readers)]
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        least = min(dealt, key=lambda share: share[0])
        least[0] += path.stat().st_size
        least[1].append(path)
    return [paths for _, paths in dealt]


def bare(paths, readers):
    """Bytes per second of bare reads."""
    dealt = shares(paths, readers)
    with multiprocessing.Pool(readers) as pool:
        drop_caches()
        began = time.monotonic()
        total = sum(pool.map(read_share, dealt, chunksize=1))
        return total / (time.monotonic() - began)


def verify(directory):
    """Bytes of segments per second of verify, and its report."""
    drop_caches()
    began = time.monotonic()
    report = json.loads(run([BIN / "trireme-fsck", "verify", "--json", directory], timeout=3600, check=False)[1])
    seconds = time.monotonic() - began
    expect(report["exit_code"] == 0, f"verify says {report['verdict']}: {report['findings'][:5]}")
    return report["counts"]["segment_bytes"] / seconds, report


def measure(directory, rounds):
    paths = [path for path in directory.rglob("*.log") if path.stat().st_size > 0]
    readers = os.cpu_count()
    rates = []
    for number in range(rounds):
        drive, (check, report) = bare(paths, readers), verify(directory)
        rates.append((drive, check))
        say(f"  round {number + 1}: O_DIRECT {drive / 1e6:.0f} MB/s with {readers} readers, verify {check / 1e6:.0f} MB/s: {check / drive:.2f}")
    counts = report["counts"]
    say(f"  {counts['segment_bytes'] / 2**30:.2f} GiB in {counts['segments']} segments; CRCs of {counts['batches']} batches and {counts['sums']} sums checked")
    ratio = statistics.median(check for _, check in rates) / statistics.median(drive for drive, _ in rates)
    say(f"  ratio of the medians: {ratio:.2f} (at least {RATIO_MIN:.2f} is wanted)")
    expect(ratio >= RATIO_MIN, f"verify reaches {ratio:.2f} of the drive's throughput")


def repair(directory):
    before = verify(directory)[1]["counts"]
    removed = 0
    for path in list(directory.rglob("*")):
        if path.suffix in (".index", ".timeindex", ".sum") or path.name.startswith("checkpoint."):
            path.unlink()
            removed += 1
    began = time.monotonic()
    outcome = json.loads(run([BIN / "trireme-fsck", "repair", "--json", directory], timeout=3600, check=False)[1])
    seconds = time.monotonic() - began
    after = verify(directory)[1]["counts"]
    say(f"  {removed} indexes, sums and checkpoints removed; repaired in {seconds:.1f} s: {outcome['ending']}, {len(outcome['gone'])} ranges of offsets gone")
    expect(outcome["ending"] == "sound" and not outcome["gone"], f"repair: {outcome['gone'][:5]}")
    same = ("batches", "records", "segments", "segment_bytes")
    expect([before[name] for name in same] == [after[name] for name in same], f"before {before}, after {after}")
    broker = Trireme(directory, logs=directory.parent)
    with broker:
        broker.stop(timeout=300)


def main(arguments, usage):
    parser = argparse.ArgumentParser(prog="tests/fsck-speed", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=pathlib.Path)
    options = parser.parse_args(arguments)
    report = Report()
    with scratch("fsck-speed") as directory:
        with report.check("verify at the speed of the drive"):
            need_root()
            data = options.dir or directory / "data"
            if not options.dir:
                say(f"filling {data} with {options.gib} GiB")
                fill(data, options.gib)
            measure(data, options.rounds)
        if not options.dir and (directory / "data").exists():
            with report.check("repair without indexes, sums and checkpoints"):
                repair(directory / "data")
    return report.finish()

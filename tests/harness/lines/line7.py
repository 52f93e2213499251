"""Acceptance line 7: an idle broker costs nothing, and a crashed one with much data is back at once."""
import time

from ..core import BIN, cpu_seconds, expect, need_root, rss_mib, run, say, scratch
from ..crash import PowerCut
from ..wire import record_batch

IDLE_CPU_PERCENT_MAX, IDLE_RSS_MIB_MAX = 0.5, 40
BACK_SECONDS_MAX = 1.0
PARTITIONS = 12
RECORD_BYTES = 1000


def run_line(context):
    smoke = context.ci
    with context.report.check("line 7: idle"):
        idle(context, 5 if smoke else 60)
    stored = (256 << 20) if smoke else (10 << 30)
    with context.report.check(f"line 7: back after SIGKILL with {stored >> 20} MiB stored"):
        with scratch("line7-kill") as directory:
            broker = context.broker(directory / "data")
            try:
                after_crash(context, broker, stored, lambda: broker.kill())
            finally:
                broker.close()
    with context.report.check(f"line 7: back after a power cut with {stored >> 20} MiB stored"):
        need_root()
        with scratch("line7-cut") as directory:
            disk = PowerCut(directory / "disk", (stored >> 20) * 5 // 4 + 2048, "ext4")
            broker = context.broker(directory / "disk" / "data", logs=directory)
            try:
                after_crash(context, broker, stored, lambda: disk.cut(broker))
            finally:
                broker.close()
                disk.drop()


def idle(context, seconds):
    with scratch("line7-idle") as directory, context.broker(directory / "data") as broker:
        time.sleep(2)  # what starting up leaves behind is done
        before = cpu_seconds(broker.pid)
        time.sleep(seconds)
        percent = (cpu_seconds(broker.pid) - before) / seconds * 100
        rss = rss_mib(broker.pid)
        say(f"  idle for {seconds} s: {percent:.2f} % of a core, RSS {rss:.1f} MiB")
        if not context.ci:
            expect(percent < IDLE_CPU_PERCENT_MAX and rss < IDLE_RSS_MIB_MAX, f"more than {IDLE_CPU_PERCENT_MAX} % or {IDLE_RSS_MIB_MAX} MiB")
        broker.stop()


def after_crash(context, broker, stored, crash):
    """Seconds from exec to an acknowledged produce and a fetch of the last offset on every partition."""
    broker.start()
    records = stored // RECORD_BYTES
    run([BIN / "trireme-bench", "produce", "--json", "--bootstrap", broker.bootstrap, "--topic", "stored", "--partitions", PARTITIONS,
         "--records", records, "--record-size", RECORD_BYTES], timeout=3600)
    with broker.connect() as connection:
        ends = connection.list_offsets("stored", range(PARTITIONS))
    expect(sum(ends.values()) >= records, f"{sum(ends.values())} records stored")
    crash()
    began = time.monotonic()
    broker.start()
    answered = time.monotonic() - began
    batch = record_batch([b"back"])
    with broker.connect() as connection:
        produced = connection.produce("stored", {p: batch for p in range(PARTITIONS)})
        expect(all(error == 0 and offset == ends[p] for p, (error, offset) in produced.items()), f"{produced} after {ends}")
        for p in range(PARTITIONS):
            error, high_watermark, data = connection.fetch("stored", {p: ends[p]})[p]
            expect(error == 0 and high_watermark == ends[p] + 1 and data[61:].endswith(b"back\0"), f"partition {p}: error {error}")
    took = time.monotonic() - began
    say(f"  answers after {answered * 1000:.0f} ms, produced to and fetched from every partition after {took * 1000:.0f} ms")
    if not context.ci:
        expect(took <= BACK_SECONDS_MAX, f"{took:.2f} s")
    broker.stop(120)

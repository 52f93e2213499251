"""`tests/scrub`: what the online scrub finds, and what it costs."""
import argparse
import json
import re
import time

from .broker import Trireme
from .core import BIN, Report, cpu_seconds, expect, run, say, scratch, wait_until

TOPIC, PARTITIONS = "scrubbed", 4
RECORD_BYTES = 1000
KAFKA_STORAGE_ERROR = 56
IDLE_CORE_MAX = 0.005
# The first pass begins so long after a start, unless the period is shorter.
FIRST_PASS_SECONDS = 60
IDLE_SECONDS = 30


def broker_with(directory, *settings):
    arguments = [part for setting in settings for part in ("--set", setting)]
    return Trireme(directory, logs=directory.parent, arguments=arguments)


def produce(broker, topic, *arguments):
    text = run([BIN / "trireme-bench", "produce", "--json", "--bootstrap", broker.bootstrap, "--admin", f"127.0.0.1:{broker.admin}", "--topic", topic,
                "--partitions", PARTITIONS, "--record-size", RECORD_BYTES, *arguments], timeout=3600)
    return json.loads(text.strip().splitlines()[-1])


def fill(directory, gib):
    with broker_with(directory) as broker:
        produce(broker, TOPIC, "--fresh", "--records", (gib << 30) // RECORD_BYTES, "--batch-bytes", 65536, "--config", "segment.bytes=67108864")
        broker.stop(timeout=300)


def read_partition(connection, partition):
    """Offsets that can be read from the start on, and the error that ends that."""
    offset, error, seen = 0, 0, 0
    while True:
        error, end, records = connection.fetch(TOPIC, {partition: offset}, max_wait_ms=0)[partition]
        if error or not records:
            return offset, end, error
        # Whole batches: each says its base offset and, at byte 23, how far its last one is behind.
        at = 0
        while at + 61 <= len(records):
            length = int.from_bytes(records[at + 8:at + 12], "big")
            if at + 12 + length > len(records):
                break
            offset = int.from_bytes(records[at:at + 8], "big") + int.from_bytes(records[at + 23:at + 27], "big") + 1
            at, seen = at + 12 + length, seen + 1


def damage(report, directory):
    with report.check("damage in a sealed segment is found and said, everything else is served"):
        victim = max(directory.rglob("00000000000000000000.log"), key=lambda path: path.stat().st_size)
        position = victim.stat().st_size // 2
        with open(victim, "r+b") as file:
            file.seek(position)
            byte = file.read(1)
            file.seek(position)
            file.write(bytes([byte[0] ^ 4]))
        broker = broker_with(directory, "engine.scrub_period=2s", "engine.scrub_rate=1GiB")
        with broker:
            wait_until(lambda: broker.metric("trireme_scrub_damaged") >= 1, 120, "the metrics tell of the damage", broker.child.alive)
            line = next(line for line in broker.child.log().splitlines() if "scrub: the block does not match" in line)
            say(f"  {line.strip()[:220]}")
            expect(victim.parent.name in line, f"another partition: {line}")
            first, end = map(int, re.search(r"offsets=(\d+)\.\.(\d+)", line).groups())
            with broker.connect() as connection:
                ends = [read_partition(connection, partition) for partition in range(PARTITIONS)]
            broken = [found for found in ends if found[2]]
            expect(len(broken) == 1 and broken[0][2] == KAFKA_STORAGE_ERROR, f"offset, end and error of each partition: {ends}")
            expect(first <= broken[0][0] < end, f"the log says offsets {first} to {end}, reads end at {broken[0][0]}")
            expect(all(offset == high for offset, high, error in ends if not error), f"a sound partition is not served whole: {ends}")
            say(f"  reads of the damaged partition end at offset {broken[0][0]} with error {broken[0][2]}, the others are whole")
            broker.stop()
        with open(victim, "r+b") as file:
            file.seek(position)
            file.write(byte)


def idle(report, directory):
    with report.check("an idle broker stays idle while it scrubs"):
        for settings, what in ((("engine.scrub_period=0s",), "without"), ((), "with the default settings")):
            broker = broker_with(directory, *settings)
            with broker:
                time.sleep(FIRST_PASS_SECONDS + 2)
                began, scrubbed = cpu_seconds(broker.pid), broker.metric("trireme_scrubbed_bytes_total")
                time.sleep(IDLE_SECONDS)
                used = (cpu_seconds(broker.pid) - began) / IDLE_SECONDS
                scrubbed = broker.metric("trireme_scrubbed_bytes_total") - scrubbed
                say(f"  {what}: {used * 100:.2f} % of a core, {scrubbed / IDLE_SECONDS / 1e6:.2f} MB/s scrubbed")
                expect(used < IDLE_CORE_MAX, f"{used * 100:.2f} % of a core")
                expect((scrubbed > 0) == (not settings), f"{scrubbed} bytes were scrubbed {what}")
                broker.stop()


def latency(report, directory):
    with report.check("a scrub at its full rate beside producers"):
        for settings, what in ((("engine.scrub_period=0s",), "without"), (("engine.scrub_period=10s",), "with")):
            broker = broker_with(directory, *settings)
            with broker:
                time.sleep(12)
                before = broker.metric("trireme_scrubbed_bytes_total")
                result = produce(broker, "beside", "--fresh", "--records", 200000, "--rate", 20000, "--batch-bytes", 16384)
                scrubbed = broker.metric("trireme_scrubbed_bytes_total") - before
                p50, p90, p99, p999, most = result["latency_us"]
                say(f"  {what}: produce µs p50 {p50:.0f}, p90 {p90:.0f}, p99 {p99:.0f}, p99.9 {p999:.0f}, max {most:.0f}; {scrubbed / 10e6:.1f} MB/s scrubbed")
                broker.stop()


def main(arguments, usage):
    parser = argparse.ArgumentParser(prog="tests/scrub", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=1)
    options = parser.parse_args(arguments)
    report = Report()
    with scratch("scrub", report) as directory:
        data = directory / "data"
        with report.check(f"a directory with {options.gib} GiB"):
            fill(data, options.gib)
        damage(report, data)
        latency(report, data)
        idle(report, data)
    return report.finish()

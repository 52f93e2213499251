"""Killing a broker under load and checking what it had acknowledged: the machinery of acceptance line 3."""
import array
import contextlib
import json
import pathlib
import random
import struct
import time
import zlib

from .clients import SOURCES, go_program, java_program
from .core import Child, Failure, TESTS, expect, run, say, wait_until

POWERCUT = TESTS / "tools" / "powercut"
TOPICS = ("all", "one")
PARTITIONS = 12
ACK, SEEN = struct.Struct("<qqIIq"), struct.Struct("<qqII")
TURN = 1024


class DidNotComeBack(Failure):
    """A broker that does not serve again after a crash has lost everything."""


class Load:
    """The loader and a reader that follows, both living through all crashes."""

    def __init__(self, broker, data, directory, rate_mb, config=None, settle=lambda: None):
        self.broker, self.data, self.directory = broker, data, pathlib.Path(directory)
        self.followed = self.directory / "followed"
        self.followed.mkdir()
        with broker.connect() as connection:
            for topic in TOPICS:
                connection.create_topic(topic, PARTITIONS, config)
        settle()
        self.loader = Child([go_program(SOURCES / "loader"), "-bootstrap", broker.bootstrap, "-data", data, "-dir", self.directory,
                             "-partitions", PARTITIONS, "-rate", rate_mb],
                            self.directory / "loader.out", self.directory / "loader.err", env={"GOGC": 200})
        self.follower = self.reader("follow", self.followed)

    def reader(self, mode, directory):
        return Child([*java_program(SOURCES / "reader", "Reader"), mode, self.broker.bootstrap, PARTITIONS, directory],
                     directory / "reader.out", directory / "reader.err")

    def acked(self):
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "progress").read_text())
        return 0

    def wait_for_progress(self, records, timeout=120):
        goal = self.acked() + records
        wait_until(lambda: self.acked() >= goal, timeout, f"{records} more acknowledgements", self.loader.alive)

    def finish(self):
        """Every record sent is acknowledged; both programs have ended. The loader's summary."""
        code = self.loader.stop(300)
        expect(code == 0, f"the loader ended with {code}: {self.loader.log()}")
        self.follower.stop(120)
        expect("ENDED" in (self.followed / "reader.out").read_text(), f"the following reader broke: {self.follower.log()}")
        return json.loads((self.directory / "loader.out").read_text())

    def read_back(self):
        directory = self.directory / "final"
        directory.mkdir()
        reader = self.reader("final", directory)
        code = reader.wait(1800)
        expect(code == 0, f"the reader ended with {code}: {reader.log()}")
        return directory

    def close(self):
        self.loader.kill()
        self.follower.kill()


def line_sums(data):
    """CRC-32 and length of each line of the data set."""
    sums, lengths = array.array("I"), array.array("I")
    with open(data, "rb") as file:
        for line in file:
            sums.append(zlib.crc32(line[:-1]))
            lengths.append(len(line) - 1)
    return sums, lengths


def entries(path, form):
    """Whole entries of a file in order."""
    content = path.read_bytes()
    return form.iter_unpack(content[:len(content) // form.size * form.size])


def check(data, directory):
    """Compares what was acknowledged, what a reader saw on the way and what is there in the end.

    Gives (counts, violations): `violations` has a number for each way to break the promise, all zero when it was kept.
    """
    sums, lengths = line_sums(data)
    counts = dict.fromkeys(("acknowledged", "stored", "followed", "bytes"), 0)
    wrong = dict.fromkeys(("lost", "changed", "acknowledged_twice", "order_acknowledged", "order_stored", "gaps",
                           "idempotent_twice", "garbage", "seen_then_gone"), 0)
    examples = {}

    def violation(kind, text):
        wrong[kind] += 1
        examples.setdefault(kind, text)

    for topic in TOPICS:
        for partition in range(PARTITIONS):
            name = f"{topic}-{partition}"
            stored, last_seq = {}, -1
            expected = 0
            for offset, seq, crc, length in entries(directory / "final" / f"{name}.read", SEEN):
                if offset != expected:
                    violation("gaps", f"{name}: offset {offset} follows {expected - 1}")
                expected = offset + 1
                stored[offset] = (seq, crc, length)
                line = seq % len(sums)
                if (sums[line], lengths[line]) != (crc, length) or seq % PARTITIONS != partition or (seq // TURN) % 2 != TOPICS.index(topic):
                    violation("garbage", f"{name}/{offset}: record {seq} is not the line it was")
                if topic == "all":
                    if seq == last_seq:
                        violation("idempotent_twice", f"{name}/{offset}: record {seq} stands there again")
                    elif seq < last_seq:
                        violation("order_stored", f"{name}/{offset}: record {seq} after {last_seq}")
                    last_seq = max(seq, last_seq)
                counts["stored"] += 1
                counts["bytes"] += length
            last_offset, last_seq, seen = -1, -1, set()
            for offset, seq, crc, length, _time in entries(directory / f"{name}.acks", ACK):
                counts["acknowledged"] += 1
                found = stored.get(offset)
                if found is None:
                    violation("lost", f"{name}/{offset}: record {seq} was acknowledged there")
                elif found != (seq, crc, length):
                    violation("changed", f"{name}/{offset}: {found} instead of {(seq, crc, length)}")
                if offset <= last_offset:
                    violation("acknowledged_twice" if offset in seen else "order_acknowledged", f"{name}/{offset}: record {seq} after {last_seq}")
                elif seq <= last_seq:
                    violation("order_acknowledged", f"{name}/{offset}: record {seq} after {last_seq}")
                seen.add(offset)
                last_offset, last_seq = offset, seq
            for offset, seq, crc, length in entries(directory / "followed" / f"{name}.read", SEEN):
                counts["followed"] += 1
                if stored.get(offset) != (seq, crc, length):
                    violation("seen_then_gone", f"{name}/{offset}: a reader got record {seq}, now {stored.get(offset)}")
    out_of_range = (directory / "followed" / "reader.out").read_text().count("OUT_OF_RANGE")
    wrong["seen_then_gone"] += out_of_range
    if out_of_range:
        examples.setdefault("seen_then_gone", f"a reader's position was out of range {out_of_range} times")
    for kind, text in examples.items():
        say(f"  {kind}: {wrong[kind]}, e.g. {text}")
    return counts, wrong


class PowerCut:
    """A disk that forgets what no flush has made durable."""

    def __init__(self, directory, size_mib, file_system):
        self.directory = pathlib.Path(directory)
        run([POWERCUT, "make", self.directory, size_mib, file_system], timeout=300)

    def cut(self, broker):
        child, broker.child = broker.child, None
        run([POWERCUT, "cut", self.directory, child.pid], timeout=600)
        child.kill()

    def flushes(self):
        return int(run([POWERCUT, "flushes", self.directory]))

    def drop(self):
        run([POWERCUT, "drop", self.directory], check=False)


def campaign(broker, data, directory, crashes, crash, after_crash, rate_mb, seed, before_start=lambda: None, before_crash=lambda broker: None, whole=True,
             settle=lambda: None, beside=None):
    """Loads, crashes `crashes` times at random moments, reads everything back and compares. (counts, violations, summary)

    The load goes on until the whole data set was in at least once, unless `whole` is false. `settle` is called between the topics and the load.
    `beside` is a second load that lives through it all.
    """
    chance = random.Random(seed)
    load = None
    try:
        before_start()
        broker.start()
        load = Load(broker, data, directory, rate_mb, settle=settle)
        if beside:
            beside.start()
        for number in range(crashes):
            load.wait_for_progress(1000)
            # The moment itself is random, so this waits for time and not for a condition.
            time.sleep(chance.uniform(0.2, 3.0))
            expect(load.loader.alive(), f"the loader died: {load.loader.log()}")
            expect(not beside or beside.alive(), f"the second load died: {beside and beside.log()}")
            expect(broker.child.alive(), f"the broker died by itself: {broker.child.log()}")
            before_crash(broker)
            crash(broker)
            after_crash(broker, number)
            before_start()
            try:
                took = broker.start(timeout=120)
            except Failure as why:
                raise DidNotComeBack(f"after crash {number + 1}: {why}")
            if beside:
                beside.wait_for_check()
            say(f"  crash {number + 1} of {crashes}: {load.acked():,} records acknowledged, answers {took * 1000:.0f} ms after the start")
        load.wait_for_progress(1000)
        if whole:
            wait_until(lambda: load.acked() >= lines_of(data), 3600, f"the whole data set of {data.stat().st_size >> 20} MiB is in",
                       load.loader.alive, step=0.5)
        if beside:
            beside.finish()
        summary = load.finish()
        load.read_back()
    finally:
        if load:
            load.close()
        if beside:
            beside.close()
    return *check(data, load.directory), summary


def lines_of(data):
    """Lines of the data set, counted once."""
    known = data.with_suffix(".count")
    if not known.exists():
        with open(data, "rb") as file:
            known.write_text(str(sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))))
    return int(known.read_text())


def figures(counts, wrong, summary):
    kept = not any(wrong.values())
    return (f"{counts['acknowledged']:,} acknowledged, {counts['stored']:,} stored, {counts['followed']:,} followed, "
            f"{counts['bytes'] >> 20} MiB, {summary['failed']} refused: "
            + ("all kept" if kept else ", ".join(f"{kind} {number:,}" for kind, number in wrong.items() if number)))

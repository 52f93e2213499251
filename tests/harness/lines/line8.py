"""Acceptance line 8: bad input and connections that promise what they do not send."""
import resource
import socket
import statistics
import struct
import threading
import time

from ..core import expect, rss_mib, say, scratch
from ..hostile import TOPIC, answer_to, corrupt_batches, frames
from ..wire import PRODUCE, Connection, record_batch

SEED = 20260308
# How much a broker's memory may stand above where it was: during the corpus and with 2,000 half-sent frames, and 10 s after those have gone.
MEMORY_GROWTH_MIB_MAX = 64
BACK_GROWTH_MIB_MAX = 8
BACK_SECONDS_MAX = 10
IDLE_CONNECTIONS = 2000
ANNOUNCED_BYTES = 50 << 20
RATE_PER_S, ROUND_SECONDS = 250, 4
# On a machine that has other work a p99 of one round says little: the verdict is on the medians, over more rounds if five leave a doubt.
ROUNDS, ROUNDS_MAX = 5, 15
P99_RATIO_MAX = 1.5


def run_line(context):
    with scratch("line8") as directory, context.broker(directory / "data") as broker:
        corpus(context, broker)
        idle_crowd(context, broker)
        with context.report.check("line 8: the broker shuts down cleanly afterwards"):
            broker.stop()


def corpus(context, broker):
    report, pid = context.report, broker.pid
    with broker.connect() as connection:
        advertised = connection.api_versions()
        connection.create_topic(TOPIC, 3)
        connection.produce(TOPIC, {0: record_batch([b"good"])})
        before = rss_mib(pid)
        with report.check("line 8: every corrupt batch is refused with the protocol's error"):
            taken = []
            for name, batch in corrupt_batches():
                with broker.connect(timeout=10) as one:
                    try:
                        error, offset = one.produce(TOPIC, {1: batch})[1]
                    except (ConnectionError, OSError):
                        continue  # a close is an answer too
                    if not error:
                        taken.append(name)
            ends = connection.list_offsets(TOPIC, range(3))
            expect(ends == {0: 1, 1: 0, 2: 0} and not taken, f"taken: {taken}; log ends {ends}")
        with report.check("line 8: hostile frames: an error or a close, never silence"):
            outcomes, bad, worst = {}, [], 0.0
            for number, (name, content, complete) in enumerate(frames(advertised, SEED, 300)):
                outcome = answer_to(broker.port, content, complete, timeout=20)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                if outcome not in ("answer", "closed"):
                    bad.append((name, outcome))
                if number % 50 == 0:
                    worst = max(worst, rss_mib(pid))
                    expect(broker.child.alive(), f"the broker died at or before: {name}\n{broker.child.log()}")
            say(f"  {sum(outcomes.values())} frames: {outcomes}; RSS {before:.1f} MiB before, {worst:.1f} MiB at most")
            expect(not bad, f"{len(bad)} without an answer, e.g. {bad[:5]}")
        with report.check(f"line 8: memory stays within {MEMORY_GROWTH_MIB_MAX} MiB of where it was, and the broker serves"):
            expect(broker.child.alive() and broker.pid == pid, f"the broker died\n{broker.child.log()}")
            if context.against == "trireme":
                expect(worst - before <= MEMORY_GROWTH_MIB_MAX, f"{before:.1f} -> {worst:.1f} MiB")
            error, offset = connection.produce(TOPIC, {0: record_batch([b"still here"])})[0]
            expect((error, offset) == (0, 1), f"produce gives error {error}, offset {offset}")
            expect(connection.fetch(TOPIC, {0: 0})[0][1] == 2, "the fetch does not see it")


class OpenLoop:
    """Sends one small batch at fixed moments, whatever the answers do, and counts latency from the moment it was due."""

    def __init__(self, broker):
        self.connection = broker.connect()
        self.connection.create_topic("open-loop", 1)
        self.body = self.connection.produce_body("open-loop", {0: record_batch([b"x" * 100])})

    def round(self):
        """Latencies in ms."""
        count, due, latencies = RATE_PER_S * ROUND_SECONDS, {}, []
        first = self.connection.correlation + 1
        start = time.monotonic() + 0.05

        def receive():
            for correlation in range(first, first + count):
                answer = self.connection.receive(correlation)
                latencies.append((time.monotonic() - due[correlation]) * 1000)
                (error, _), = Connection.produced(answer).values()
                expect(error == 0, f"error {error}")
        receiver = threading.Thread(target=receive, daemon=True)
        for n in range(count):
            due[first + n] = start + n / RATE_PER_S
        receiver.start()
        for n in range(count):
            wait = due[first + n] - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self.connection.send(PRODUCE, 7, self.body)
        receiver.join(60)
        expect(len(latencies) == count, f"{len(latencies)} of {count} requests were answered")
        return latencies

    def p99(self):
        return sorted(self.round())[int(RATE_PER_S * ROUND_SECONDS * 0.99)]


def crowd(port, count):
    """Connections that announce 50 MiB each, send ten bytes, and wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 2000), hard))
    members = []
    for _ in range(count):
        member = socket.create_connection(("127.0.0.1", port), 20)
        member.sendall(struct.pack(">i", ANNOUNCED_BYTES) + b"\0\0\0\7\0\0\0\1\0\0")
        members.append(member)
    return members


def seconds_until_back(broker, before):
    """Until memory is where it was before the crowd, but for a little."""
    began = time.monotonic()
    while rss_mib(broker.pid) > before + BACK_GROWTH_MIB_MAX:
        expect(time.monotonic() - began < BACK_SECONDS_MAX,
               f"{rss_mib(broker.pid):.1f} MiB {BACK_SECONDS_MAX} s after they left, {before:.1f} before they came")
        time.sleep(0.1)
    return time.monotonic() - began


def idle_crowd(context, broker):
    report = context.report
    with report.check(f"line 8: {IDLE_CONNECTIONS:,} connections announce 50 MiB each: p99 within {P99_RATIO_MAX}x, memory back within 10 s"):
        load = OpenLoop(broker)
        load.round()
        before = rss_mib(broker.pid)
        alone, beside, backs, most, ratio = [], [], [], 0.0, 0.0
        while len(alone) < ROUNDS or ratio > P99_RATIO_MAX and len(alone) < ROUNDS_MAX:
            alone.append(load.p99())
            members = crowd(broker.port, IDLE_CONNECTIONS)
            beside.append(load.p99())
            most = max(most, rss_mib(broker.pid))
            for member in members:
                member.close()
            if context.against == "trireme":
                backs.append(seconds_until_back(broker, before))
            ratio = statistics.median(beside) / statistics.median(alone)
        after = rss_mib(broker.pid)
        show = lambda values: " ".join(f"{value:.2f}" for value in values)
        say(f"  p99 in ms of {RATE_PER_S}/s open loop, alone: {show(alone)}; beside the crowd: {show(beside)}; ratio of the medians {ratio:.2f}")
        say(f"  RSS: {before:.1f} MiB before, {most:.1f} with them, {after:.1f} after; back in s: {show(backs)}")
        expect(ratio <= P99_RATIO_MAX, f"p99 grew {ratio:.2f}x")
        if context.against == "trireme":
            expect(most - before <= MEMORY_GROWTH_MIB_MAX, f"memory grew from {before:.1f} to {most:.1f} MiB")

"""The client programs of tests/clients: what each can express, how it is built, and how it is called."""
import base64
import fcntl
import hashlib
import json
import pathlib
import random
import sys
import time

from .core import CACHE, Child, TESTS, Failure, expect, find, need, run, wait_until
from .broker import KAFKA_TOOL

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
SOURCES = TESTS / "clients"
# A limit for what hangs, not for what is slow: six members of six clients at once on two busy cores.
RUN_SECONDS = 300
# Timestamps that clients choose lie within the default retention, which would delete older records.
RECENT_MS = int(time.time() * 1000) - 3_600_000


def built(name, sources, build):
    """A directory under the cache that build(directory) fills once for each state of the source files; safe beside a second run."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    directory = CACHE / "clients" / f"{name}-{digest.hexdigest()[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".done").exists():
            build(directory)
            (directory / ".done").touch()
    return directory


def python_venv(requirements):
    """The interpreter of a virtual environment with these packages."""
    def build(directory):
        run([sys.executable, "-m", "venv", "--clear", directory / "venv"])
        run([directory / "venv/bin/python", "-m", "pip", "install", "-q", "-r", requirements], timeout=600)
    return built(f"venv-{requirements.parent.name}", [requirements], build) / "venv/bin/python"


def go_program(folder):
    need("go")
    go = find("go")

    def build(directory):
        run([go, "build", "-o", directory / "program", "."], cwd=folder, timeout=900, env={"CGO_ENABLED": "0"})
    sources = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]
    return built(folder.name, sources, build) / "program"


def java_program(folder, main):
    """The command that runs a class of ours on Apache Kafka's class path."""
    need("java", "javac", "mvn")
    classpath = run([KAFKA_TOOL, "classpath"], timeout=900).strip()

    def build(directory):
        run(["javac", "-cp", classpath, "-d", directory, *folder.glob("*.java")], timeout=300)
    directory = built(folder.name, sorted(folder.glob("*.java")), build)
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{directory}:{classpath}", main]


class Client:
    """`null_headers`: a header without a value can be written and read; `timestamps`, `headers`: the producer can choose them;
    `auto_create`: a producer makes its topic by itself."""
    timestamps, headers, null_headers, auto_create, session_timeout_s = True, True, True, True, 45
    codecs = CODECS

    def __init__(self):
        self.base = self.build()

    def command(self, *arguments):
        return [*self.base, *map(str, arguments)]

    def produce(self, bootstrap, topic, codec, records):
        """Every record is acknowledged when this returns."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        return run(self.command("produce", bootstrap, topic, codec), timeout=RUN_SECONDS, stdin=text)

    def consume(self, bootstrap, topics, group, count):
        out = run(self.command("consume", bootstrap, ",".join(topics), group, count), timeout=RUN_SECONDS)
        return [json.loads(line) for line in out.splitlines()]


class Confluent(Client):
    name = "confluent-kafka-python"

    def build(self):
        return [python_venv(SOURCES / "confluent/requirements.txt"), SOURCES / "confluent/client.py"]


class Aiokafka(Client):
    name, session_timeout_s = "aiokafka", 10

    def build(self):
        return [python_venv(SOURCES / "aiokafka/requirements.txt"), SOURCES / "aiokafka/client.py"]


class FranzGo(Client):
    name, auto_create = "franz-go", False

    def build(self):
        return [go_program(SOURCES / "franz-go")]


class Java(Client):
    name = "java"

    def build(self):
        return java_program(SOURCES / "java", "Client")


class Kafkajs(Client):
    name, null_headers, session_timeout_s = "kafkajs", False, 30

    def build(self):
        need("node", "npm")
        source = SOURCES / "kafkajs"

        def build(directory):
            for file in ("package.json", "package-lock.json", "client.js"):
                (directory / file).write_bytes((source / file).read_bytes())
            run(["npm", "ci", "--no-audit", "--no-fund"], cwd=directory, timeout=600)
        files = [source / "package.json", source / "package-lock.json", source / "client.js"]
        return ["node", built("kafkajs", files, build) / "client.js"]


class Kcat(Client):
    """Prints headers as text, so a header without a value is beyond it; takes no timestamps."""
    name, timestamps, null_headers = "kcat", False, False

    def build(self):
        need("kcat")
        return [sys.executable, SOURCES / "kcat/client.py"]


ALL = (Confluent, Kcat, Java, FranzGo, Kafkajs, Aiokafka)


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def sample_records(client, codec, count=300, null_headers=False):
    """What `client` shall write: every shape of record that it can express, null headers where asked. Deterministic."""
    chance = random.Random(f"{client.name}/{codec}")
    records = []
    for i in range(count):
        words = " ".join(chance.choice(("oar", "hull", "bank", "keel", "mast")) for _ in range(chance.randrange(1, 60)))
        key = f"{client.name}-{i}".encode() if i % 2 else None
        value = words.encode()
        headers = []
        # kcat sends nothing at all for a record without key and value, aiokafka refuses it.
        if client.name in ("kcat", "aiokafka"):
            key = f"{client.name}-{i}".encode() if i % 2 or i % 17 == 3 or i % 19 == 4 else None
        if i % 17 == 3:
            value = None
        elif i % 19 == 4:
            value = b""
        elif i % 23 == 5 and client.name != "kcat":
            value = bytes(range(256)) * 4
        elif i in (50, 51):
            value = (words.encode() + b" ") * (900_000 // (len(words) + 1))
        if client.headers and i % 5 == 0:
            headers = [["trace", b64(str(i % 3).encode())], ["content-type", b64(b"text")]]
            if client.name != "kafkajs":
                headers.append(["trace", b64(b"again")])
        if null_headers and i % 9 == 0:
            headers.append(["nothing", None])
        records.append({"k": b64(key), "v": b64(value), "h": headers,
                        "t": RECENT_MS + i * 1000 if client.timestamps and i % 3 == 0 else None})
    return records


def content(record):
    return record["k"], record["v"], tuple(sorted((name, value) for name, value in record["h"]))


class Worker:
    """A running group member and what it has printed so far."""

    def __init__(self, client, bootstrap, topic, group, directory, name):
        self.out = pathlib.Path(directory) / f"{client.name}-{name}.out"
        self.child = Child(client.command("worker", bootstrap, topic, group), self.out, self.out.with_suffix(".err"))

    def processed(self):
        """(partition, offset, value) of each record, in the order of processing."""
        if not self.out.exists():
            return []
        lines = self.out.read_bytes().split(b"\n")[:-1]
        found = []
        for line in lines:
            if line.startswith(b'{"'):
                record = json.loads(line)
                found.append((record["p"], record["o"], base64.b64decode(record["v"]).decode()))
        return found

    def leave(self):
        code = self.child.stop(60)
        expect(code in (0, 143), f"the worker ended with {code} after SIGTERM: {self.child.log()}")

    def die(self):
        self.child.kill()


def group_scenario(client, broker, directory, partitions=12, per_round=120):
    """Three members over 12 partitions: one joins, one leaves, one dies by SIGKILL. Every record is processed; the figures of the run.

    Gives (topic, group); committed offsets are checked by the caller before and after a restart of the broker.
    """
    topic, group = f"group-{client.name}", f"members-{client.name}"
    with broker.connect() as connection:
        connection.create_topic(topic, partitions)
    workers, expected = {}, set()

    def send(step):
        values = [f"{step}-{i}" for i in range(per_round)]
        client.produce(broker.bootstrap, topic, "none", [
            {"k": b64(value.encode()), "v": b64(value.encode()), "h": []} for value in values])
        expected.update(values)

    def seen():
        return {value for worker in workers.values() for _, _, value in worker.processed()}

    def all_processed(step, seconds):
        try:
            wait_until(lambda: expected <= seen(), seconds, f"{client.name}: every record after {step}", step=0.25)
        except Failure as why:
            missing = sorted(expected - seen())
            logs = "\n".join(worker.child.log() for worker in workers.values())
            raise Failure(f"{why}; {len(missing)} missing, e.g. {missing[:3]}\n{logs}")

    def member(name):
        workers[name] = Worker(client, broker.bootstrap, topic, group, directory, name)

    try:
        member("a")
        member("b")
        send("two")
        all_processed("two started", 90)
        member("c")
        send("joined")
        # The newcomer must get its share: records go out until it has processed one.
        attempt = 0

        def newcomer_works():
            nonlocal attempt
            if workers["c"].processed():
                return True
            attempt += 1
            send(f"joined{attempt}")
            return False
        wait_until(newcomer_works, 90, f"{client.name}: the third member processes records", step=1.0)
        all_processed("one joined", 90)
        workers["b"].leave()
        send("left")
        all_processed("one left", 90)
        workers["c"].die()
        send("died")
        all_processed("one died", client.session_timeout_s + 90)
        workers["a"].leave()
    except BaseException:
        for worker in workers.values():
            worker.child.kill()
        raise
    for name, worker in workers.items():
        order = {}
        for partition, offset, _ in worker.processed():
            order.setdefault(partition, []).append(offset)
        if name != "c":
            # A partition that comes back to a member may start again at its last commit, never go backwards within a run of records.
            for partition, offsets in order.items():
                jumps = [pair for pair in zip(offsets, offsets[1:]) if pair[1] <= pair[0]]
                expect(len(jumps) <= 3, f"{client.name}: partition {partition} went backwards at {jumps[:3]}")
    total = sum(len(worker.processed()) for worker in workers.values())
    return topic, group, len(expected), total


def committed_everything(broker, topic, group, partitions=12):
    """The group's committed offsets when they stand at the end of every partition that has records; otherwise Failure."""
    with broker.connect() as connection:
        ends = wait_until(lambda: all_offsets(connection, topic, partitions), 60, f"every partition of {topic} has a leader", step=0.1)
        committed = wait_until(lambda: connection.committed(group, topic, range(partitions)), 30, "the coordinator answers", step=0.1)
    behind = {p: (committed.get(p), end) for p, end in ends.items() if end and committed.get(p) != end}
    expect(not behind, f"{group}: committed is not the end: {behind}")
    return committed


def all_offsets(connection, topic, partitions):
    ends = connection.list_offsets(topic, range(partitions))
    return ends if len(ends) == partitions else None

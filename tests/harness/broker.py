"""Brokers under test: Trireme, and Apache Kafka as the peer that the tests themselves are tried on."""
import os
import pathlib
import re
import time
import urllib.request

from .core import BIN, TESTS, Child, Failure, expect, free_port, run, wait_until
from .wire import Connection

KAFKA_TOOL = TESTS / "peers" / "kafka"


def answers(port):
    """True when a broker answers ApiVersions on the port."""
    try:
        with Connection(port, timeout=2.0) as connection:
            return bool(connection.api_versions())
    except (OSError, ValueError):
        return False


class Broker:
    """A broker in a directory, with ports that stay the same over restarts."""

    def __init__(self, directory, logs=None):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logs = pathlib.Path(logs or self.directory.parent)
        self.port, self.child, self.starts = free_port(), None, 0
        self.bootstrap = f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.child.pid

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def prepare(self):
        pass

    def start(self, timeout=60):
        """Seconds from exec to the first answer."""
        self.close()  # a check that failed may have left it running
        self.prepare()
        self.starts += 1
        log = self.logs / f"{self.name}-{self.port}.log"
        began = time.monotonic()
        self.child = Child(self.command(), log, env=self.environment())
        try:
            wait_until(lambda: answers(self.port), timeout, f"{self.name} answers on {self.port}", self.child.alive, step=0.001)
        except Failure as why:
            self.child.kill()
            raise Failure(f"{why}\n{self.child.log()}")
        return time.monotonic() - began

    def stop(self, timeout=60):
        """A clean shutdown, which must end with exit code 0 (or, for a JVM, 143)."""
        child, self.child = self.child, None
        code = child.stop(timeout)
        expect(code in self.clean_exits, f"{self.name} ended with {code} after SIGTERM\n{child.log()}")

    def kill(self):
        child, self.child = self.child, None
        child.kill()

    def close(self):
        """For the end of a test: whatever state it is in, the process is gone afterwards."""
        if self.child:
            self.child.kill()
            self.child = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()

    def connect(self, timeout=30.0):
        return Connection(self.port, timeout)

    def log_files(self):
        """The segments' *.log files."""
        return sorted(self.directory.rglob("*.log"))


class Trireme(Broker):
    name, clean_exits = "trireme", (0,)

    def __init__(self, directory, logs=None, binary=None, arguments=(), env=None):
        super().__init__(directory, logs)
        self.binary = pathlib.Path(binary or BIN / "trireme")
        self.admin, self.arguments, self.env = free_port(), list(arguments), dict(env or {})
        self.listen = self.bootstrap

    def command(self):
        return [self.binary, "serve", "--data-dir", self.directory, "--kafka", self.listen,
                "--admin", f"127.0.0.1:{self.admin}", *self.arguments]

    def environment(self):
        return self.env

    def metrics(self):
        """{name with labels: value} of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if match := re.match(r"([a-zA-Z_:][^\s{]*(?:\{.*\})?)\s+(\S+)", line):
                found[match[1]] = float(match[2])
        return found

    def metric(self, name):
        """The sum over all labels."""
        values = [value for key, value in self.metrics().items() if key == name or key.startswith(name + "{")]
        expect(values, f"/metrics has no {name}")
        return sum(values)


class Kafka(Broker):
    name, clean_exits = "kafka", (0, 143)

    def __init__(self, directory, logs=None, config=None):
        super().__init__(directory, logs)
        self.controller, self.config = free_port(), config or {}
        self.classpath = run([KAFKA_TOOL, "classpath"], timeout=600).strip()

    def java(self, *arguments):
        return ["java", "-cp", self.classpath, *arguments]

    def prepare(self):
        properties = self.logs / f"kafka-{self.port}.properties"
        if properties.exists():
            return
        settings = {
            "process.roles": "broker,controller", "node.id": 1, "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller}", "log.dirs": self.directory / "data",
            # Not on the disk whose power is cut: the comparison is about the records, and Kafka does not always start without its metadata.
            "metadata.log.dir": self.logs / f"kafka-{self.port}-metadata",
            "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1, "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1, **self.config}
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        identity = run(self.java("kafka.tools.StorageTool", "random-uuid")).strip()
        run(self.java("kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", properties))
        os.sync()

    def command(self):
        return self.java("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "kafka.Kafka", self.logs / f"kafka-{self.port}.properties")

    def log_files(self):
        return [path for path in sorted((self.directory / "data").rglob("*.log")) if not path.parent.name.startswith("__")]


def kafka_tool(name, *arguments, timeout=300, stdin=None, check=True):
    """Apache Kafka's own tool against any broker: its output."""
    return run([KAFKA_TOOL, "run", name, *arguments], timeout=timeout, stdin=stdin, check=check)


def make(against, directory, logs=None, **options):
    """The broker under test: `against` is trireme or kafka."""
    if against == "kafka":
        return Kafka(directory, logs, options.get("config"))
    return Trireme(directory, logs, binary=options.get("binary"), arguments=options.get("arguments", ()), env=options.get("env"))

"""Acceptance line 1: the README's two commands on a clean machine, and how soon the broker answers."""
import os
import pathlib
import re
import socket
import statistics

from ..broker import answers
from ..core import ROOT, TARGET, Child, Skipped, expect, find, need, need_root, run, say, scratch, wait_until

START_MS_MAX = 200
TRIES = 7
COMMANDS = ("cargo run --release", "tests/run")
DEFAULT_KAFKA_PORT = 9092


def run_line(context):
    report = context.report
    with report.check("line 1: the README names its two commands"):
        text = (ROOT / "README.md").read_text()
        blocks = "\n".join(re.findall(r"```[a-z]*\n(.*?)```", text, re.S))
        for command in COMMANDS:
            expect(re.search(rf"^{re.escape(command)}\b", blocks, re.M), f"README.md has no code block with a line `{command}`")
    with report.check(f"line 1: `{COMMANDS[0]}` in a bare environment"):
        first_command(context)
    with report.check(f"line 1: at most {START_MS_MAX} ms from exec to the first answer, empty directory"):
        times = []
        for _ in range(TRIES):
            with scratch("line1") as directory:
                broker = context.broker(directory / "data")
                try:
                    times.append(broker.start() * 1000)
                    broker.stop()
                finally:
                    broker.close()
        judge(times)
    with scratch("line1-partitions") as directory:
        broker = context.broker(directory / "data")
        try:
            with report.check("line 1: the same with 1,000 partitions"):
                broker.start()
                with broker.connect() as connection:
                    for n in range(10):
                        connection.create_topic(f"topic-{n}", 100)
                broker.stop()
                times = []
                for _ in range(TRIES):
                    times.append(broker.start() * 1000)
                    with broker.connect() as connection:
                        partitions = sum(len(of) for name, of in connection.metadata().items() if not name.startswith("__"))
                        expect(partitions == 1000, f"{partitions} partitions")
                    broker.stop()
                judge(times)
            with report.check("line 1: the same with 1,000 partitions after SIGKILL"):
                times = []
                for _ in range(TRIES):
                    broker.start()
                    broker.kill()
                    times.append(broker.start() * 1000)
                    broker.stop()
                judge(times)
        finally:
            broker.close()
    if context.against == "trireme":
        with report.check("line 1: reached through a second interface, on 0.0.0.0"):
            second_interface(context)


def second_interface(context):
    """A client in a network namespace: what a broker on all interfaces advertises, and that it is reached there."""
    need_root()
    need("ip", "kcat")
    name = f"trireme{os.getpid()}"
    here, there = "198.18.77.1", "198.18.77.2"
    with scratch("line1-interface") as directory:
        broker = context.broker(directory / "data")
        broker.listen = f"0.0.0.0:{broker.port}"
        try:
            for command in (f"ip netns add {name}", f"ip link add {name[:13]}a type veth peer name {name[:13]}b netns {name}",
                            f"ip addr add {here}/30 dev {name[:13]}a", f"ip link set {name[:13]}a up",
                            f"ip -n {name} addr add {there}/30 dev {name[:13]}b", f"ip -n {name} link set {name[:13]}b up"):
                run(command.split())
            broker.start()
            with broker.connect() as connection:
                (host, port), = connection.brokers().values()
            expect(port == broker.port and host in (socket.gethostname(), socket.getfqdn()), f"it advertises {host}:{port}, not the host's name")
            expect(host in broker.child.err.read_text(), f"it does not say that it advertises {host}:\n{broker.child.log()}")
            broker.stop()
            broker.arguments += ["--advertise-kafka", f"{here}:{broker.port}"]
            broker.start()
            inside = ["ip", "netns", "exec", name, "kcat", "-b", f"{here}:{broker.port}", "-t", "interface"]
            run([*inside, "-P"], stdin="from there\n")
            got = run([*inside, "-C", "-e", "-q", "-o", "beginning"])
            expect(got == "from there\n", f"read {got!r}")
            broker.stop()
        finally:
            broker.close()
            run(["ip", "netns", "del", name], check=False)
            run(["ip", "link", "del", f"{name[:13]}a"], check=False)


def judge(times):
    say(f"  ms from exec to the first ApiVersions answer: {' '.join(f'{t:.0f}' for t in times)} (median {statistics.median(times):.0f})")
    expect(statistics.median(times) <= START_MS_MAX, f"median {statistics.median(times):.0f} ms")


def first_command(context):
    """In full: a clean clone with nothing but the tool chain. In CI, whose checkout is a clean clone: that checkout, with an empty environment."""
    if answers(DEFAULT_KAFKA_PORT):
        raise Skipped(f"port {DEFAULT_KAFKA_PORT} is taken")
    cargo = pathlib.Path(find("cargo")).parent
    rustup = os.environ.get("RUSTUP_HOME", pathlib.Path.home() / ".rustup")
    with scratch("line1-clean") as directory:
        home = directory / "home"
        home.mkdir()
        environment = {"HOME": home, "PATH": f"{cargo}:/usr/local/bin:/usr/bin:/bin", "RUSTUP_HOME": rustup}
        if context.ci:
            where = ROOT
            environment.update({"CARGO_HOME": os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"), "CARGO_TARGET_DIR": TARGET})
        else:
            where = directory / "clone"
            run(["git", "clone", "-q", ROOT, where])
        if (where / "data").exists():
            raise Skipped(f"{where / 'data'} exists")
        child = Child(["env", "-i", *(f"{key}={value}" for key, value in environment.items()), *COMMANDS[0].split()],
                      directory / "run.log", cwd=where)
        try:
            wait_until(lambda: answers(DEFAULT_KAFKA_PORT), 1800, f"`{COMMANDS[0]}` answers on {DEFAULT_KAFKA_PORT}", child.alive, step=0.1)
            expect((where / "data").is_dir(), "no ./data")
            health = run(["python3", "-c", "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9644/healthz').status)"])
            expect(health.strip() == "200", f"/healthz: {health}")
        finally:
            child.kill()
            if context.ci:
                run(["rm", "-rf", where / "data"])

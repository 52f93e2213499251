"""What every acceptance line uses: paths, processes with time limits, waiting on conditions, and the tally of checks."""
import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback

TESTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CACHE = pathlib.Path(os.environ.get("TRIREME_TEST_CACHE", pathlib.Path.home() / ".cache" / "trireme-tests"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Where Debian and Go keep tools that are not in everybody's path.
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/go/bin"
# Where trireme, trireme-fsck and trireme-bench are.
BIN = pathlib.Path(os.environ.get("TRIREME_BIN_DIR", TARGET / "release"))
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
START = time.monotonic()


# Processes that run now, so that the end of a test run is the end of all of them.
RUNNING = set()
OVER = threading.Event()


class Failure(Exception):
    """A check that did not hold; its text is what the report says."""


class Skipped(Exception):
    """What a check needs is not on this machine; its text says what."""


def say(text):
    elapsed = int(time.monotonic() - START)
    print(f"[{elapsed // 60:3d}:{elapsed % 60:02d}] {text}", flush=True)


def expect(condition, text):
    if not condition:
        raise Failure(text)


def go_on():
    """Once the test run is over, threads start and await nothing more; the main one cleans up."""
    expect(not OVER.is_set() or threading.current_thread() is threading.main_thread(), "the test run was ended")


class Report:
    """Counts checks. `with report.check("name"):` passes unless the block raises; Skipped is a failure in CI, where everything is installed."""

    def __init__(self):
        self.passed, self.failed, self.skipped = [], [], []

    @contextlib.contextmanager
    def check(self, name):
        began = time.monotonic()
        try:
            yield
        except Skipped as why:
            if IN_CI:
                self.fail(name, f"may not be skipped in CI: {why}")
            else:
                self.skipped.append(name)
                say(f"SKIP {name}: {why}")
        except (Failure, subprocess.TimeoutExpired, TimeoutError) as why:
            self.fail(name, str(why))
        except Exception:
            self.fail(name, traceback.format_exc())
        else:
            self.passed.append(name)
            say(f"PASS {name} ({time.monotonic() - began:.1f} s)")

    def fail(self, name, why):
        self.failed.append(name)
        say(f"FAIL {name}: {why}")

    def finish(self):
        """Prints the failures again and the closing line; the exit code."""
        for name in self.failed:
            say(f"failed: {name}")
        print(f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped", flush=True)
        return 1 if self.failed or not self.passed else 0


def find(tool):
    return shutil.which(tool, path=PATH)


def need(*tools):
    for tool in tools:
        if not find(tool):
            raise Skipped(f"{tool} is not installed")


def need_root():
    if os.geteuid() != 0:
        raise Skipped("needs root")


def run(command, timeout=120, stdin=None, env=None, cwd=None, check=True):
    """Runs a command to its end and gives its standard output as text; its whole process group dies at the time limit."""
    command = [str(part) for part in command]
    go_on()
    process = subprocess.Popen(command, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=full_env(env), cwd=cwd, start_new_session=True)
    RUNNING.add(process)
    try:
        out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise Failure(f"{shorten(command)} took longer than {timeout} s\n{tail(out + err)}")
    finally:
        RUNNING.discard(process)
    if check and process.returncode:
        raise Failure(f"{shorten(command)} exited with {process.returncode}\n{tail(err or out)}")
    result = out.decode(errors="replace")
    return result if check else (process.returncode, result, err.decode(errors="replace"))


def full_env(extra):
    """The tests' own variables are not handed on: the broker refuses TRIREME_* names that it does not know. Scripts keep what they install in CACHE."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TRIREME_")}
    return {**kept, "PATH": PATH, "PEERS_HOME": str(CACHE / "peers"), "SUITES_CACHE": str(CACHE / "suites"), **{key: str(value) for key, value in (extra or {}).items()}}


def shorten(command):
    text = " ".join(command)
    return text if len(text) < 300 else text[:200] + " ... " + text[-90:]


def tail(data, limit=1500):
    """The end of an output, and the sentence of a panic if there was one."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    at = text.rfind("panicked at")
    panic = text[at:at + 400] + "\n...\n" if 0 <= at < len(text) - limit else ""
    return panic + text[-limit:].strip()


def kill_group(process, sig=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sig)


class Child:
    """A process in the background in a group of its own, its standard output and standard error in files."""

    def __init__(self, command, out, err=None, env=None, cwd=None, stdin=None):
        go_on()
        self.command, self.out, self.err = [str(part) for part in command], pathlib.Path(out), pathlib.Path(err or out)
        with open(self.out, "ab") as stdout, open(self.err, "ab") as stderr:
            self.process = subprocess.Popen(self.command, stdin=stdin or subprocess.DEVNULL, stdout=stdout,
                                            stderr=stderr, env=full_env(env), cwd=cwd, start_new_session=True)
        RUNNING.add(self.process)
        self.pid = self.process.pid

    def alive(self):
        return self.process.poll() is None

    def signal(self, sig):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sig)

    def kill(self):
        kill_group(self.process)
        self.process.wait(30)
        RUNNING.discard(self.process)

    def stop(self, timeout=60):
        """SIGTERM and a clean end: the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout):
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{shorten(self.command)} did not end within {timeout} s\n{self.log()}")
        kill_group(self.process)
        RUNNING.discard(self.process)
        return code

    def log(self):
        with contextlib.suppress(OSError):
            return tail(self.err.read_bytes())
        return ""


def wait_until(condition, timeout, what, alive=None, step=0.02):
    """Polls until condition() is true and gives its value; Failure after the time limit, or at once when alive() says it is in vain."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if alive and not alive():
            raise Failure(f"the process ended while waiting: {what}")
        go_on()
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout} s: {what}")
        time.sleep(step)


PORTS_GIVEN = set()
PORTS_LOCK = threading.Lock()


def free_port():
    """A port nobody listens on, never the same one twice; TRIREME_TEST_PORTS=FROM-TO restricts the choice.

    None of those that the kernel gives to outgoing connections: such a one could be taken while a broker restarts on it.
    """
    chosen = os.environ.get("TRIREME_TEST_PORTS")
    if chosen:
        ports = range(*map(int, chosen.split("-")))
    else:
        outgoing = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        ports = random.sample(range(10_000, outgoing if outgoing > 12_000 else 32_768), 1000)
    for port in ports:
        with PORTS_LOCK:
            if port in PORTS_GIVEN:
                continue
            PORTS_GIVEN.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise Failure(f"no free port in {chosen or 'a thousand'}")


@contextlib.contextmanager
def scratch(name, report=None):
    """A directory that is removed after success and kept, with its logs, after a failure: an exception, or a check of `report` that failed meanwhile."""
    base = pathlib.Path(os.environ.get("TRIREME_TEST_TMP", TESTS / ".cache" / "scratch"))
    path = base / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir(parents=True)
    began = len(report.failed) if report else 0
    try:
        yield path
    except BaseException:
        say(f"kept: {path}")
        raise
    if report and len(report.failed) > began:
        say(f"kept: {path}")
    else:
        shutil.rmtree(path, ignore_errors=True)


def cpu_seconds(pid):
    """User and system CPU seconds that the process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds():
    """CPU seconds that the whole machine has worked, kernel threads and interrupts included (not idle, not waiting for I/O, not stolen)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0

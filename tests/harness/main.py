"""The commands behind tests/accept and tests/run."""
import argparse
import importlib
import re
import signal
import sys

from . import broker as brokers
from .core import IN_CI, OVER, ROOT, RUNNING, TARGET, TESTS, Report, Skipped, expect, find, kill_group, need, run, say


class Context:
    """What an acceptance line gets: the tally, its size, and brokers of the kind under test."""

    def __init__(self, report, ci, against="trireme"):
        self.report, self.ci, self.against = report, ci, against

    def with_broker(self, kind):
        """The same with another kind of broker."""
        return Context(self.report, self.ci, kind)

    def broker(self, directory, logs=None, partitions=1, config=None, arguments=(), env=None, binary=None):
        """A broker that is not started yet. Topics appear at first use in both kinds, with `partitions` partitions."""
        settings = {"num.partitions": partitions, **(config or {})}
        return brokers.make(self.against, directory, logs, config=settings, env=env, binary=binary,
                            arguments=["--set", f"kafka.num.partitions={partitions}", *arguments])


def run_line(context, line):
    """`line` is the name of a module in lines/."""
    say(f"acceptance: {line}{' (CI size)' if context.ci else ''}")
    module = importlib.import_module(f".lines.{line}", __package__)
    # What a line cannot do without, or did not foresee, counts as one check.
    began = len(context.report.failed)
    try:
        module.run_line(context)
    except Exception as why:
        with context.report.check(line):
            raise why
    if len(context.report.failed) > began:
        say(f"{line}: {len(context.report.failed) - began} checks failed")


def end_cleanly():
    """SIGTERM ends everything that runs and unwinds like an exception, so that no process and no mount stays behind."""
    def stop(*_):
        OVER.set()
        for process in list(RUNNING):
            kill_group(process)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)


# The acceptance lines that are a number, and those that have a name; the ones that CI runs.
NUMBERED = tuple(f"line{number}" for number in range(1, 9))
NAMED = ("powercuts", "compare")
IN_EVERY_RUN = (*NUMBERED, "powercuts")


def accept(arguments):
    parser = argparse.ArgumentParser(prog="tests/accept", description="Runs one line of the acceptance list and prints its figures.")
    parser.add_argument("line", choices=[*(name[4:] for name in NUMBERED), *NAMED])
    parser.add_argument("--ci", action="store_true", help="the size of the continuous test")
    parser.add_argument("--against", choices=("trireme", "kafka"), default="trireme", help="try the test on Apache Kafka")
    options = parser.parse_args(arguments)
    end_cleanly()
    report = Report()
    run_line(Context(report, options.ci, options.against), options.line if options.line in NAMED else f"line{options.line}")
    return report.finish()


CARGO_SECONDS = 3600

def cargo(*arguments, timeout=CARGO_SECONDS):
    """Standard output and standard error of a cargo command that must succeed."""
    code, out, err = run(["cargo", *arguments], timeout=timeout, check=False, cwd=ROOT)
    expect(code == 0, f"cargo {' '.join(arguments)} exited with {code}\n{(err + out)[-4000:]}")
    return out + err


def fmt(report):
    with report.check("cargo fmt --check"):
        cargo("fmt", "--all", "--check")


def clippy(report):
    with report.check("cargo clippy"):
        cargo("clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings")


def deny(report):
    with report.check("cargo deny check licenses bans sources"):
        if not find("cargo-deny"):
            raise Skipped("cargo-deny is not installed (cargo install cargo-deny)")
        cargo("deny", "--workspace", "check", "licenses", "bans", "sources")
    if not find("cargo-deny"):
        return
    # The list of advisories is a git repository on GitHub, the one thing here that no package registry carries.
    code, out, err = run(["cargo", "deny", "--workspace", "check", "advisories"], timeout=300, check=False, cwd=ROOT)
    if code and "failed to fetch advisory database" in out + err:
        say("note: advisories were NOT checked: https://github.com/RustSec/advisory-db cannot be reached from here")
        return
    with report.check("cargo deny check advisories"):
        expect(code == 0, (out + err)[-4000:])


def unit(report):
    """cargo test; every test counts as one."""
    began = len(report.passed)
    code, out, err = run(["cargo", "test", "--workspace", "--no-fail-fast"], timeout=CARGO_SECONDS, check=False, cwd=ROOT)
    for name, result in re.findall(r"^test (.+?) \.\.\. (ok|FAILED)", out, re.M):
        if result == "ok":
            report.passed.append(name)
        else:
            report.fail(f"cargo test: {name}", "its output is below")
    if code:
        report.fail("cargo test", (out + err)[-6000:])
    say(f"cargo test: {len(report.passed) - began} tests passed")


def build(report):
    with report.check("release build of trireme, trireme-bench, trireme-fsck"):
        cargo("build", "-q", "--release", "-p", "trireme", "-p", "trireme-bench", "-p", "trireme-fsck")


def fuzz(report):
    """Every fuzz target for some seconds, guided by coverage."""
    with report.check("fuzzing"):
        need("c++")
        code, out, err = run([TESTS / "fuzz" / "run", "--seconds", 5], timeout=CARGO_SECONDS, check=False)
        for line in out.strip().splitlines()[-40:]:
            say(f"  {line}")
        expect(code == 0, f"tests/fuzz/run exited with {code}\n{(err + out)[-6000:]}")


SIM_SEEDS = 500
# Of these the debug build has to do the same, event by event.
SIM_SAME_SEEDS = (3, 7, 126)


def sim(report):
    """The whole broker in the simulator, seed after seed; the checkers on broken brokers; the same seed is the same run."""
    simulator = TARGET / "sim" / "trireme-sim"

    def simulate(*arguments):
        code, out, err = run([simulator, *arguments], timeout=CARGO_SECONDS, check=False)
        for line in out.strip().splitlines()[-50:]:
            say(f"  {line}")
        expect(code == 0, f"trireme-sim {arguments[0]} exited with {code}\n{(err + out)[-6000:]}")

    with report.check("builds of trireme-sim"):
        cargo("build", "-q", "--profile", "sim", "-p", "trireme-sim", "--features", "mutations")
        cargo("build", "-q", "-p", "trireme-sim")
    with report.check(f"simulation of {SIM_SEEDS} seeds"):
        simulate("run", "--seeds", SIM_SEEDS)
    with report.check("broken brokers are caught"):
        simulate("mutations", "--seeds", SIM_SEEDS)
    with report.check("the same seed is the same run, in two processes and two builds"):
        for seed in SIM_SAME_SEEDS:
            builds = [simulator, simulator, TARGET / "debug" / "trireme-sim"]
            lines = {run([build, "replay", seed, "--quiet"]).strip().splitlines()[-1] for build in builds}
            say(f"  seed {seed}: {', '.join(sorted(lines))}")
            expect(len(lines) == 1, f"seed {seed} ran in different ways: {lines}")


STEPS = {"fmt": fmt, "clippy": clippy, "deny": deny, "unit": unit, "fuzz": fuzz, "build": build, "sim": sim}


def everything(arguments, usage):
    unknown = [step for step in arguments if step not in STEPS and step not in IN_EVERY_RUN]
    if unknown:
        print(usage.strip() + f"\n\nunknown: {' '.join(unknown)}")
        return 2
    end_cleanly()
    report = Report()
    say("in CI: a skip is a failure" if IN_CI else "what this machine lacks is skipped")
    for step in arguments or [*STEPS, *IN_EVERY_RUN]:
        if step in STEPS:
            say(step)
            STEPS[step](report)
        elif "release build of trireme, trireme-bench, trireme-fsck" in report.failed:
            report.fail(step, "there is no broker to test")
        else:
            run_line(Context(report, ci=True), step)
    return report.finish()

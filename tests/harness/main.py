"""The commands behind tests/accept and tests/run."""
import argparse
import importlib
import signal
import sys

from . import broker as brokers
from .core import Report, say


class Context:
    """What an acceptance line gets: the tally, its size, and brokers of the kind under test."""

    def __init__(self, report, ci, against="trireme"):
        self.report, self.ci, self.against = report, ci, against

    def broker(self, directory, logs=None, auto_create=False, partitions=1, config=None, arguments=(), env=None, binary=None):
        """A broker that is not started yet. Topics appear at first use in both kinds, with `partitions` partitions."""
        settings = {"num.partitions": partitions, **(config or {})}
        variables = {"TRIREME_NUM_PARTITIONS": partitions, **(env or {})} if partitions != 1 else dict(env or {})
        return brokers.make(self.against, directory, logs, config=settings, arguments=arguments, env=variables, binary=binary)


def run_line(context, number):
    say(f"acceptance line {number}{' (CI size)' if context.ci else ''}")
    module = importlib.import_module(f".lines.line{number}", __package__)
    try:
        module.run_line(context)
    except Exception as why:
        context.report.fail(f"line {number}", f"{type(why).__name__}: {why}")


def end_cleanly():
    """SIGTERM unwinds like an exception, so that no broker and no mount stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def accept(arguments):
    parser = argparse.ArgumentParser(prog="tests/accept", description="Runs one line of the acceptance list and prints its figures.")
    parser.add_argument("line", type=int, choices=range(1, 9))
    parser.add_argument("--ci", action="store_true", help="the size of the continuous test")
    parser.add_argument("--against", choices=("trireme", "kafka"), default="trireme", help="try the test on Apache Kafka")
    options = parser.parse_args(arguments)
    end_cleanly()
    report = Report()
    run_line(Context(report, options.ci, options.against), options.line)
    return report.finish()

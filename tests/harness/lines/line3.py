"""Acceptance line 3: a real data set through a broker that is killed, and whose machine loses power, on the way."""
import os
import random

from ..core import BIN, ROOT, TARGET, expect, need, need_root, run, say, scratch
from ..crash import DidNotComeBack, PowerCut, campaign, figures
from ..dataset import data_set

FSCK_CLEAN, FSCK_TORN_TAIL = 0, 1


def run_line(context):
    report = context.report
    need("go", "java", "mvn")
    data = data_set(full=not context.ci)
    seed = int(os.environ.get("TRIREME_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    say(f"  random moments from TRIREME_TEST_SEED={seed}")
    if context.against == "kafka":
        return prove_checker(context, data, seed)
    crashes, rate = (3, 8) if context.ci else (20, 12)
    with report.check(f"line 3: {crashes} kills by SIGKILL under load"):
        with scratch("line3-kill") as directory:
            broker = context.broker(directory / "data")
            with closing(broker):
                counts, wrong, summary = campaign(broker, data, directory, crashes, lambda b: b.kill(), verify, rate, seed)
                say(f"  {figures(counts, wrong, summary)}")
                expect(not any(wrong.values()) and not summary["failed"], f"{wrong}, {summary}")
                broker.stop()
                verify_clean(broker)
    for file_system, cuts in (("ext4", crashes - 1 if context.ci else crashes), ("xfs", 1)):
        with report.check(f"line 3: {cuts} power cuts on {file_system} under load"):
            power_cuts(context, data, file_system, cuts, rate, seed)
    with report.check("line 3: a build without the sync fails the check"):
        unsafe = unsafe_binary()
        try:
            counts, wrong, _ = cut_once(context, data, 3, rate, seed, binary=unsafe)
        except DidNotComeBack as why:
            say(f"  it did not even start again: {str(why).strip().splitlines()[-1]}")
        else:
            expect(any(wrong.values()), f"nothing was lost without a single sync: {counts}")


class closing:
    def __init__(self, broker):
        self.broker = broker

    def __enter__(self):
        return self.broker

    def __exit__(self, *_):
        self.broker.close()


def fsck(broker):
    """The exit code of trireme-fsck and what it printed."""
    code, out, err = run([BIN / "trireme-fsck", "verify", broker.directory], timeout=900, check=False)
    return code, out + err


def verify(broker, number):
    code, text = fsck(broker)
    expect(code in (FSCK_CLEAN, FSCK_TORN_TAIL), f"after crash {number + 1} trireme-fsck says {code}:\n{text[-3000:]}")


def verify_clean(broker):
    code, text = fsck(broker)
    expect(code == FSCK_CLEAN, f"after a clean shutdown trireme-fsck says {code}:\n{text[-3000:]}")


def power_cuts(context, data, file_system, cuts, rate, seed):
    need_root()
    need("losetup", f"mkfs.{file_system}", "mkfs.ext4")
    groups, since = [], []
    with scratch(f"line3-{file_system}") as directory:
        disk = PowerCut(directory / "disk", 1024 if context.ci else 6144, file_system)
        try:
            broker = context.broker(directory / "disk" / "data", logs=directory)

            def note_flushes():
                since.append(disk.flushes())

            def count(broker):
                # In this order: a group that the metric shows has had its flush. Both count from the start of this process.
                committed = broker.metric("trireme_commit_groups_total")
                groups.append((committed, disk.flushes() - since[-1]))

            with closing(broker):
                counts, wrong, summary = campaign(broker, data, directory, cuts, disk.cut, verify, rate, seed, note_flushes, count)
                say(f"  {figures(counts, wrong, summary)}")
                say("  commit groups / flushes of the device from each start to its cut: " + ", ".join(f"{g:.0f}/{f}" for g, f in groups))
                expect(not any(wrong.values()) and not summary["failed"], f"{wrong}, {summary}")
                expect(all(0 < committed <= flushes for committed, flushes in groups), "fewer flushes than commit groups")
                broker.stop()
                verify_clean(broker)
        except BaseException:
            say(f"  the disk stays mounted at {disk.directory} (tests/tools/powercut drop {disk.directory})" if not context.ci else "")
            if context.ci:
                disk.drop()
            raise
        disk.drop()


def cut_once(context, data, cuts, rate, seed, **options):
    """A short campaign whose outcome is the caller's to judge. The topics are on the disk before it begins, so that only records can be lost."""
    need_root()
    with scratch("line3-proof") as directory:
        disk = PowerCut(directory / "disk", 2048, "ext4")
        try:
            broker = context.broker(directory / "disk" / "data", logs=directory, **options)
            with closing(broker):
                counts, wrong, summary = campaign(broker, data, directory, cuts, disk.cut, lambda *_: None, rate, seed, whole=False,
                                                  settle=lambda: run(["sync", "-f", disk.directory]))
        finally:
            disk.drop()
        say(f"  {figures(counts, wrong, summary)}")
        return counts, wrong, summary


def unsafe_binary():
    """The broker built with the cargo feature `unsafe-no-sync`, in the development profile: it shares what cargo test has built.

    It does not stay where cargo puts it: nobody shall take it for the real one.
    """
    run(["cargo", "build", "-q", "-p", "trireme", "--features", "unsafe-no-sync"], cwd=ROOT, timeout=1800)
    return (TARGET / "debug" / "trireme").replace(TARGET / "debug" / "trireme-unsafe-no-sync")


def prove_checker(context, data, seed):
    """On Apache Kafka: with its defaults the check must find losses after power cuts, with a flush for each message none."""
    with context.report.check("line 3 on Apache Kafka: the check sees what its defaults lose in power cuts"):
        _, wrong, _ = cut_once(context, data, 3, 8, seed)
        expect(any(wrong.values()), "no loss seen")
    with context.report.check("line 3 on Apache Kafka: nothing lost with log.flush.interval.messages=1"):
        _, wrong, _ = cut_once(context, data, 3, 8, seed, config={"log.flush.interval.messages": 1})
        expect(not any(wrong.values()), wrong)

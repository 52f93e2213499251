"""Power cuts under several clients at once: records, committed offsets, topics, retention."""
import os
import random

from ..churn import Churn
from ..core import expect, need, need_root, say, scratch
from ..crash import PowerCut, campaign, figures
from ..dataset import data_set
from .line3 import closing, verify, verify_clean

# Cuts of one file system after the other: in full, and in the continuous test.
CUTS = {"ext4": (60, 3), "xfs": (40, 1)}
DISK_MIB = 6144
# Quick, so that there is something of everything between two cuts.
SETTINGS = {"log.retention.check.interval.ms": 500, "group.initial.rebalance.delay.ms": 0}


def run_line(context):
    need("go", "java", "mvn")
    data = data_set(full=False)
    seed = int(os.environ.get("TRIREME_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    say(f"  random moments from TRIREME_TEST_SEED={seed}")
    for file_system, (full, few) in CUTS.items():
        cuts = few if context.ci else full
        with context.report.check(f"powercuts: {cuts} on {file_system} under producers, groups, topics and retention"):
            cut(context, data, file_system, cuts, seed)


def cut(context, data, file_system, cuts, seed):
    need_root()
    need("losetup", f"mkfs.{file_system}", "mkfs.ext4")
    with scratch(f"powercuts-{file_system}") as directory:
        disk = PowerCut(directory / "disk", DISK_MIB, file_system)
        try:
            broker = context.broker(directory / "disk" / "data", logs=directory, config={**SETTINGS, **flush_always(context)},
                                    arguments=[f"--set=kafka.{key}={value}" for key, value in SETTINGS.items()])
            churn = Churn(broker, directory, seed)
            # A peer has no checker for its own directory.
            check = verify if context.against == "trireme" else lambda *_: None
            with closing(broker):
                counts, wrong, summary = campaign(broker, data, directory, cuts, disk.cut, check, 4, seed, whole=False, beside=churn)
                say(f"  {figures(counts, wrong, summary)}")
                expect(not any(wrong.values()) and not summary["failed"], f"{wrong}, {summary}")
                expect(not set(churn.violations) - known_of(context), churn.result)
                idle = [what for what in ("commits", "topics created", "topics deleted", "cuts", "records") if not churn.result["counts"].get(what)]
                expect(not idle, f"the second load had no {', '.join(idle)}")
                broker.stop()
                if context.against == "trireme":
                    verify_clean(broker)
        except BaseException:
            if context.ci:
                disk.drop()
            else:
                say(f"  the disk stays mounted at {disk.directory} (tests/tools/powercut drop {disk.directory})")
            raise
        disk.drop()


def flush_always(context):
    """A peer that is to keep what it acknowledges has to be told so."""
    return {"log.flush.interval.messages": 1} if context.against == "kafka" else {}


def known_of(context):
    """What a peer does not promise: Apache Kafka writes down log starts once a minute and does not sync them."""
    return {"log start gone back"} if context.against == "kafka" else set()

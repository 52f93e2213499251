"""What brokers keep of what they acknowledged when the power goes: the table of docs/reliability.md."""
import os
import random

from ..core import expect, need, say
from ..crash import DidNotComeBack
from ..dataset import data_set
from .line3 import cut_once

CUTS = 3
RATE_MB = 8
BROKERS = (
    ("Trireme", "trireme", {}),
    ("Apache Kafka 4.3.1, its defaults", "kafka", {}),
    ("Apache Kafka 4.3.1, `flush.messages=1`", "kafka", {"log.flush.interval.messages": 1}),
)
COLUMNS = {"lost": "lost", "changed": "another record in its place", "acknowledged_twice": "offset acknowledged twice", "seen_then_gone": "read, then gone"}


def run_line(context):
    need("go", "java", "mvn")
    data = data_set(full=False)
    seed = int(os.environ.get("TRIREME_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    say(f"  the same moments for all, from TRIREME_TEST_SEED={seed}")
    rows = []
    for name, kind, config in BROKERS:
        with context.report.check(f"compare: {CUTS} power cuts of {name}"):
            try:
                counts, wrong, _ = cut_once(context.with_broker(kind), data, CUTS, RATE_MB, seed, config=config)
            except DidNotComeBack as why:
                expect(kind != "trireme", str(why))
                rows.append((name, "?", *["did not start again" for _ in COLUMNS]))
                continue
            rows.append((name, f"{counts['acknowledged']:,}", *[f"{wrong[column]:,}" for column in COLUMNS]))
            expect(kind != "trireme" or not any(wrong.values()), f"{wrong}")
    table = [("", "records acknowledged", *COLUMNS.values()), ("---",) * (2 + len(COLUMNS)), *rows]
    print("\n".join("| " + " | ".join(row) + " |" for row in table), flush=True)

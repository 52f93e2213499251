"""Acceptance line 5: trireme-fsck finds every flipped bit, every cut and every removed file of a data directory."""
import re

from ..clients import CODECS
from ..core import BIN, expect, run, say, scratch
from ..fill import fill
from .line3 import FSCK_CLEAN


def run_line(context):
    report = context.report
    with scratch("line5") as directory:
        data = directory / "data"
        with report.check("line 5: a data directory with every kind of file"):
            fill(data)
            code, out, err = run([BIN / "trireme-fsck", "verify", data], check=False, timeout=120)
            expect(code == FSCK_CLEAN, f"trireme-fsck says {code} of a cleanly shut directory:\n{out}{err}")
            expect(re.search(r" [1-9]\d* producers", out), f"no producer state:\n{out}")
            kinds = {path.suffix or path.name for path in data.rglob("*") if path.is_file()}
            expect({".log", ".index", ".timeindex", ".sum", ".wal"} <= kinds, f"only {sorted(kinds)}")
            logs = [path for path in data.rglob("*.log")]
            per_partition = {}
            for path in logs:
                per_partition.setdefault(path.parent, []).append(path)
            expect(max(map(len, per_partition.values())) >= 3, f"no partition has 2 sealed segments: {sorted(map(str, logs))}")
            codecs = re.findall(r"^batch at .* codec (\w+)", run([BIN / "trireme-fsck", "dump", data]), re.M)
            expect(len(codecs) >= 200 and set(codecs) == set(CODECS), f"{len(codecs)} batches with {set(codecs)}")
        with report.check("line 5: every flipped bit, cut and removed file makes fsck exit 2 and name file and position"):
            code, out, err = run([BIN / "trireme-fsck", "torture", data], check=False, timeout=3600)
            for line in out.strip().splitlines()[-12:]:
                say(f"  {line}")
            expect(code == FSCK_CLEAN, f"torture exits with {code}: {err[-2000:]}")

"""The second load of the power cuts: groups that commit, topics that come and go, logs whose start moves."""
import contextlib
import json

from .clients import SOURCES, go_program
from .core import Child, expect, say, wait_until

# It ends after a last look at everything, which a broker that just came back may keep waiting.
END_SECONDS = 400


class Churn:
    """A program that notes every answer and checks, all the time and in the end, that it still holds."""

    def __init__(self, broker, directory, seed):
        self.broker, self.directory, self.seed = broker, directory, seed
        self.program, self.child, self.result = go_program(SOURCES / "churn"), None, None

    def start(self):
        self.child = Child([self.program, "-bootstrap", self.broker.bootstrap, "-seed", self.seed, "-progress", self.directory / "churn.progress"],
                           self.directory / "churn.out", self.directory / "churn.err")

    def alive(self):
        return self.child.alive()

    def log(self):
        return self.child.log()

    def checks(self):
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "churn.progress").read_text())
        return 0

    def wait_for_check(self, timeout=120):
        """Everything was checked once more, after now."""
        goal = self.checks() + 2
        wait_until(lambda: self.checks() >= goal, timeout, "a whole check", self.alive)

    def finish(self):
        code = self.child.stop(END_SECONDS)
        expect(code == 0, f"it ended with {code}: {self.child.log()}")
        self.result = json.loads((self.directory / "churn.out").read_text().splitlines()[-1])
        say("  beside it: " + ", ".join(f"{number:,} {what}" for what, number in sorted(self.result["counts"].items())))
        for kind, number in self.result["violations"].items():
            say(f"  {kind}: {number}, e.g. {self.result['examples'][kind]}")

    @property
    def violations(self):
        return self.result["violations"]

    def close(self):
        if self.child:
            self.child.kill()

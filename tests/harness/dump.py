"""Apache Kafka's DumpLogSegments on segment files."""
import re

from .broker import kafka_tool
from .core import expect

FIELDS = re.compile(r"(\w+): (\S+)")


def dump(files, deep=True, timeout=1800):
    """{file: [batch]} as dump-log prints them, each batch a dictionary of strings; exit code 0 is demanded. 200 files a call."""
    found = {}
    files = [str(file) for file in files]
    for at in range(0, len(files), 200):
        part = ",".join(files[at:at + 200])
        text = kafka_tool("dump-log", *(["--deep-iteration"] if deep else []), "--files", part, timeout=timeout)
        current = None
        for line in text.splitlines():
            if line.startswith("Dumping "):
                current = found.setdefault(line.split(" ", 1)[1].strip(), [])
            elif line.startswith("baseOffset: "):
                current.append(dict(FIELDS.findall(line)))
            elif line.startswith("| offset: "):
                batch = current[-1]
                batch["records"] = batch.get("records", 0) + 1
            else:
                expect(not re.search(r"[Ff]ound|[Mm]ismatch|[Nn]on-?consecutive|corrupt|[Tt]runcat", line), f"dump-log: {line}")
    return found


def topic_files(broker, topic, identity):
    """{partition: [segment]}: directories are called after the topic's name (Kafka) or its id (Trireme)."""
    found = {}
    for path in broker.log_files():
        if match := re.fullmatch(rf"(?:{re.escape(topic)}|{identity})-(\d+)", path.parent.name):
            found.setdefault(int(match[1]), []).append(path)
    return found


def dump_topic(broker, topic, identity):
    files = [path for paths in topic_files(broker, topic, identity).values() for path in paths if path.stat().st_size]
    return [batch for batches in dump(files, deep=False).values() for batch in batches] if files else []

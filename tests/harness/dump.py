"""Apache Kafka's DumpLogSegments on segment files."""
import base64
import concurrent.futures
import os
import re
import subprocess

from .broker import KAFKA_TOOL, kafka_tool
from .core import RUNNING, expect, full_env, tail

FIELDS = re.compile(r"(\w+): (\S+)")
FILES_PER_CALL = 200
# Lines that do not describe a batch or a record, and are no complaint.
HARMLESS = ("Log starting offset:", "Dumping ", "Snapshot end offset:")


def dump(files, deep=True):
    """{file: [batch]} as dump-log prints them, each batch a dictionary of strings; exit code 0 is demanded. As many calls at a time as CPUs."""
    files = [str(file) for file in files]
    workers = os.cpu_count() or 1
    step = min(FILES_PER_CALL, -(-len(files) // workers)) or 1
    parts = [files[at:at + step] for at in range(0, len(files), step)]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return {file: batches for found in pool.map(lambda part: dump_part(part, deep), parts) for file, batches in found.items()}


def dump_part(files, deep):
    command = [KAFKA_TOOL, "run", "dump-log", *(["--deep-iteration"] if deep else []), "--files", ",".join(files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace",
                               env=full_env(None), start_new_session=True)
    RUNNING.add(process)
    found, current, batch, other = {}, None, None, []
    for line in process.stdout:
        if line.startswith("| offset: "):
            batch["records"] += 1
        elif line.startswith("baseOffset: "):
            batch = dict(FIELDS.findall(line), records=0)
            current.append(batch)
        elif line.startswith("Dumping "):
            current = found.setdefault(line.split(" ", 1)[1].strip(), [])
        elif not line.startswith(HARMLESS):
            other.append(line)
    # The tool calls the first record of every segment but the first non-consecutive: it follows -1.
    other = [line for line in other if not line.startswith("Non-consecutive offsets in ") and not line.startswith("  -1 is followed by ")]
    process.wait()
    RUNNING.discard(process)
    expect(process.returncode == 0 and not other, f"dump-log ended with {process.returncode}: {tail(''.join(other))}")
    return found


def topic_ids(broker):
    """{topic: topic id in hexadecimal} as `topics --describe` prints them."""
    text = kafka_tool("topics", "--bootstrap-server", broker.bootstrap, "--describe")
    return {name: base64.urlsafe_b64decode(identity + "==").hex()
            for name, identity in re.findall(r"^Topic: (\S+)\s+TopicId: (\S+)", text, re.M)}


def topic_files(broker, topic, identity):
    """{partition: [segment]}: directories are called after the topic's name (Kafka) or its id (Trireme)."""
    found = {}
    for path in broker.log_files():
        if match := re.fullmatch(rf"(?:{re.escape(topic)}|{identity})-(\d+)", path.parent.name):
            found.setdefault(int(match[1]), []).append(path)
    return found

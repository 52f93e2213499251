"""Acceptance line 4: Apache Kafka's DumpLogSegments on our segment files."""
import pathlib

from ..core import expect, need, say, scratch, wait_until
from ..crash import ACK, PARTITIONS, TOPICS, Load, entries, lines_of
from ..dataset import data_set
from ..dump import dump, topic_files, topic_ids

SEGMENT_BYTES = 1 << 20
CI_RECORDS = 600_000


def run_line(context):
    need("go", "java", "mvn")
    data = data_set(full=not context.ci)
    with scratch("line4") as directory:
        broker = context.broker(directory / "data", logs=directory)
        load = None
        try:
            broker.start()
            load = Load(broker, data, directory, 20, config={"segment.bytes": SEGMENT_BYTES})
            goal = CI_RECORDS if context.ci else lines_of(data)
            wait_until(lambda: load.acked() >= goal // 2, 3600, "half of the records are in", load.loader.alive, step=0.2)
            with context.report.check("line 4: dump-log on every sealed segment while the broker works"):
                identities = topic_ids(broker)
                sealed = [path for topic in TOPICS for paths in topic_files(broker, topic, identities[topic]).values() for path in paths[:-1]]
                if context.ci:
                    sealed = sealed[:20]
                judge(dump(sealed), len(sealed))
            wait_until(lambda: load.acked() >= goal, 3600, "all records are in", load.loader.alive, step=0.2)
            load.finish()
            with context.report.check("line 4: dump-log on every segment after a clean shutdown; offsets and counts as acknowledged"):
                broker.stop()
                for topic in TOPICS:
                    files = topic_files(broker, topic, identities[topic])
                    expect(len(files) == PARTITIONS, f"{topic}: {len(files)} partitions on disk")
                    dumped = dump([path for paths in files.values() for path in paths if path.stat().st_size])
                    for partition, paths in sorted(files.items()):
                        compare(f"{topic}-{partition}", {str(path): dumped[str(path)] for path in paths if path.stat().st_size}, directory)
                    say(f"  {topic}: {len(dumped)} segments, {sum(len(batches) for batches in dumped.values()):,} batches")
        finally:
            if load:
                load.close()
            broker.close()


def judge(dumped, files):
    batches = [batch for found in dumped.values() for batch in found]
    invalid = [batch for batch in batches if batch["isvalid"] != "true"]
    expect(len(dumped) == files and files and not invalid, f"{len(dumped)} of {files} files, invalid: {invalid[:3]}")
    say(f"  {files} sealed segments, {len(batches):,} batches, {sum(batch['records'] for batch in batches):,} records, every batch valid")


def compare(name, dumped, directory):
    """The batches of a partition follow each other without a gap and hold exactly what was acknowledged."""
    acked = [offset for offset, *_ in entries(pathlib.Path(directory) / f"{name}.acks", ACK)]
    expected, records = 0, 0
    for file in sorted(dumped, key=lambda path: pathlib.Path(path).name):
        expect(dumped[file] and int(dumped[file][0]["baseOffset"]) == int(pathlib.Path(file).stem), f"{file} does not begin with the offset of its name")
        for batch in dumped[file]:
            expect(batch["isvalid"] == "true", f"{file}: {batch}")
            expect(int(batch["baseOffset"]) == expected, f"{file}: {batch['baseOffset']} follows {expected - 1}")
            expect(batch["records"] == int(batch["count"]) == int(batch["lastOffset"]) - int(batch["baseOffset"]) + 1, f"{file}: {batch}")
            expected = int(batch["lastOffset"]) + 1
            records += batch["records"]
    expect(records == len(acked) == expected and acked == list(range(expected)), f"{name}: {records} records stored, {len(acked)} acknowledged, end {expected}")

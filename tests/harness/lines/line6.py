"""Acceptance line 6: speed beside Apache Kafka, on the same two cores, in the same run."""
import json
import re
import shutil
import statistics

from ..broker import Kafka, kafka_tool
from ..core import BIN, cpu_seconds, expect, find, machine_cpu_seconds, need, run, say, scratch

BENCH = BIN / "trireme-bench"
RUNS = 5
# (bytes of a record, records in a run): enough for seconds of work with either broker.
SIZES = {100: 2_000_000, 1000: 400_000}
PARTITIONS = (1, 12, 1000)
BATCH_BYTES = 65536


def run_line(context):
    need("java", "mvn")
    smoke = context.ci
    sizes = {100: 200_000} if smoke else SIZES
    partitions = (12,) if smoke else PARTITIONS
    runs = 1 if smoke else RUNS
    table = {}
    with scratch("line6") as directory:
        kinds = {"trireme": context.broker(directory / "trireme"), "kafka": Kafka(directory / "kafka")}
        flush = "kafka, flush"
        if not smoke:
            kinds[flush] = Kafka(directory / "kafka-flush", config={"log.flush.interval.messages": 1})
        try:
            for size, records in sizes.items():
                for count in partitions:
                    for number in range(runs):
                        # Interleaved: what else the machine does hits all of them.
                        for name, broker in kinds.items():
                            # Kafka syncing every batch is there to compare with once: the aims are set against Kafka as it comes.
                            if name == flush and (count != 12 or number > 0):
                                continue
                            with context.report.check(f"line 6: {name}, {size} B, {count} partitions, run {number + 1}"):
                                broker.start()
                                measure(table, name, broker, size, records, count)
                                broker.stop(120)
                            broker.close()
                            shutil.rmtree(broker.directory, ignore_errors=True)
                            for left in broker.logs.glob(f"kafka-{broker.port}*"):
                                shutil.rmtree(left) if left.is_dir() else left.unlink()
                    show(table, size, count)
            with context.report.check("line 6: the bare engine and the bare machine"):
                bare(context, directory)
            if not smoke:
                with context.report.check("line 6: system calls of the broker"):
                    system_calls(context, directory)
        finally:
            for broker in kinds.values():
                broker.close()


def spent(broker, work):
    """(broker's CPU seconds, machine's CPU seconds, work's value)"""
    own, machine = cpu_seconds(broker.pid), machine_cpu_seconds()
    value = work()
    return cpu_seconds(broker.pid) - own, machine_cpu_seconds() - machine, value


def note(table, key, records, own, machine, rate):
    table.setdefault(key, []).append((own / records * 1e6, machine / records * 1e6, rate))


def measure(table, name, broker, size, records, partitions):
    """Java's producer and consumer, then trireme-bench's, each into a topic of its own."""
    def topic(of):
        title = f"{of}-{size}-{partitions}"
        with broker.connect(timeout=120) as connection:
            connection.create_topic(title, partitions)
        return title
    java = topic("java")
    own, machine, text = spent(broker, lambda: kafka_tool(
        "producer-perf", "--topic", java, "--num-records", records, "--record-size", size, "--throughput", "-1", "--producer-props",
        f"bootstrap.servers={broker.bootstrap}", f"batch.size={BATCH_BYTES}", "linger.ms=10", "acks=all"))
    rate = float(re.search(r"([\d.]+) records/sec", text.splitlines()[-1])[1])
    note(table, (size, partitions, "java produce", name), records, own, machine, rate)
    own, machine, text = spent(broker, lambda: kafka_tool(
        "consumer-perf", "--bootstrap-server", broker.bootstrap, "--topic", java, "--num-records", records, "--timeout", "120000"))
    fields = text.strip().splitlines()[-1].split(", ")
    expect(int(fields[4]) >= records, text)
    note(table, (size, partitions, "java consume", name), records, own, machine, float(fields[5]))
    bench = topic("bench")
    for verb, extra in (("produce", ["--records", records, "--record-size", size, "--batch-bytes", BATCH_BYTES]), ("consume", [])):
        report = json.loads(run([BENCH, verb, "--json", "--bootstrap", broker.bootstrap, "--topic", bench, "--partitions", partitions,
                                 "--server-pid", broker.pid, *extra], timeout=600).strip().splitlines()[-1])
        table.setdefault((size, partitions, f"bench {verb}", name), []).append(
            (report["server_cpu_s_per_million"], report["machine_cpu_s_per_million"], report["records_per_second"]))


def show(table, size, partitions):
    say(f"  {size} B records, {partitions} partitions: medians of broker's CPU s per million · whole machine's · records/s")
    works = dict.fromkeys(work for s, p, work, _ in table if (s, p) == (size, partitions))
    for work in works:
        rows = {name: [statistics.median(column) for column in zip(*values)]
                for (s, p, w, name), values in table.items() if (s, p, w) == (size, partitions, work)}
        for name, (own, machine, rate) in rows.items():
            share = f" = {rows['kafka'][0] / own:.1f}x less than kafka" if name == "trireme" and "kafka" in rows and own else ""
            say(f"    {work:14} {name:14} {own:7.3f} · {machine:7.3f} · {rate:12,.0f}{share}")


def bare(context, directory):
    """The engine without sockets, and the same system calls without an engine; fio's sequential rate beside them in full."""
    records = ["--records", 200_000] if context.ci else []
    runs = [["engine", "--dir", directory / "bare", *records], ["engine", "--dir", directory / "bare", "--no-direct", *records]]
    runs += [["limit", "--dir", directory / "limit", "--record-size", size, *records] for size in SIZES]
    for arguments in runs:
        code, out, err = run([BENCH, *arguments], timeout=900, check=False)
        expect(code == 0, f"trireme-bench {arguments[0]} ended with {code}: {err[-500:]}{out[-500:]}")
        for line in out.rstrip().splitlines():
            say(f"  {line}")
    if not context.ci and find("fio"):
        out = run(["fio", "--name=seq", f"--filename={directory}/fio", "--rw=write", "--bs=1M", "--size=2G", "--direct=1", "--ioengine=io_uring",
                   "--iodepth=4", "--output-format=json"], timeout=300)
        say(f"  fio, sequential O_DIRECT writes of 1 MiB: {json.loads(out)['jobs'][0]['write']['bw_bytes'] / 1e6:,.0f} MB/s")


def system_calls(context, directory):
    """strace -c of the broker while records come in: calls per record."""
    need("strace")
    records = 1_000_000
    with context.broker(directory / "traced") as broker:
        trace = directory / "strace"
        turns = broker.metric("trireme_runtime_turns_total")
        enters = broker.metric("trireme_runtime_enters_total")
        tracer = ["strace", "-f", "-c", "-o", trace, "-p", broker.pid]
        run(["timeout", "-s", "INT", "120", "sh", "-c", f'{" ".join(map(str, tracer))} & tracer=$!; '
             f'{BENCH} produce --bootstrap {broker.bootstrap} --topic traced --partitions 12 --records {records} --record-size 100 --batch-bytes {BATCH_BYTES}; '
             "kill -INT $tracer; wait $tracer"], timeout=150, check=False)
        turns, enters = broker.metric("trireme_runtime_turns_total") - turns, broker.metric("trireme_runtime_enters_total") - enters
        broker.stop()
    text = trace.read_text()
    calls = sum(int(match[1]) for match in re.finditer(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(?!total)\w+$", text, re.M))
    for line in text.splitlines()[:12]:
        say(f"  {line}")
    say(f"  {calls} system calls for {records:,} records ({calls / records:.4f} each); {enters:.0f} enters in {turns:.0f} turns")
    expect(enters <= turns * 1.01 + 10 and calls / records < 0.1, "more than one submit per turn, or a call per record")

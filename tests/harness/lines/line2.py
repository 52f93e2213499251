"""Acceptance line 2: unmodified clients and Apache Kafka's own tools, with their defaults."""
import concurrent.futures
import json
import re

from .. import clients
from ..broker import kafka_tool
from ..core import ROOT, TESTS, expect, need, run, say, scratch, wait_until
from ..dump import dump, topic_files, topic_ids

# suite: (least number of passes, settings of the broker under test, settings that only Kafka needs for it, partitions of a topic made at first
# use, tests that may fail); a test may fail for what the acceptance line names (None), or for an API that the README must name as missing.
SUITES = {
    # The suite assigns new partitions to node 0, and its group members have a session time-out of 3 s.
    "kafka-kafka-python": (40, {"node.id": 0, "group.min.session.timeout.ms": 1000}, {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true"}, 4, {
            r"test_transactional_producer": None, r"test_create_describe_delete_acls": "CreateAcls"}),
    "kafka-franz-go": (1, {}, {}, 1, {
        r"^TestTxnEtl": None, r"^TestShareGroup": None, r"^TestConsumeRegexShareSkipsInternal": None, r"^Test848RegexBrokerResolves": None}),
}
# What runs at a time; the parts of this line wait most of their time.
PARTS_AT_ONCE = 3
CLIENTS_AT_ONCE = 2


def run_line(context):
    report = context.report
    with concurrent.futures.ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        running = {}

        def begin(name, part, *arguments):
            running[name] = pool.submit(part, context, *arguments)
        # The longest first; it needs none of our programs.
        begin("suite kafka-franz-go", one_suite, "kafka-franz-go")
        available = builds(report)
        begin("matrix", matrix, available)
        begin("groups", groups, available)
        begin("tools", tools)
        for name, part in running.items():
            try:
                part.result()
            except Exception as why:
                with report.check(f"line 2: {name}"):
                    raise why
    # Alone: some of its tests give the broker one second.
    one_suite(context, "kafka-kafka-python")


def builds(report):
    """The clients whose programs could be built."""
    def build(kind):
        with report.check(f"line 2: {kind.name} builds"):
            return kind()
    with concurrent.futures.ThreadPoolExecutor(len(clients.ALL)) as pool:
        return [client for client in pool.map(build, clients.ALL) if client]


def matrix(context, available):
    """Everybody writes with every codec; everybody reads what everybody wrote; the codecs are then found on disk."""
    report, written = context.report, {}

    def write(client):
        wanted = [(f"m-{client.name}-{codec}", codec, False) for codec in client.codecs]
        if client.null_headers:
            wanted.append((f"m-{client.name}-nullheaders", "none", True))
        with report.check(f"line 2: {client.name} writes with {', '.join(client.codecs)}"):
            for topic, codec, null_headers in wanted:
                records = clients.sample_records(client, codec, null_headers=null_headers)
                with broker.connect() as connection:
                    if not client.auto_create:
                        connection.create_topic(topic, 1)
                    client.produce(broker.bootstrap, topic, codec, records)
                    ends = connection.list_offsets(topic, range(1))
                expect(ends == {0: len(records)}, f"{topic} ends at {ends} after {len(records)} records")
                written[topic] = records

    def read(client):
        with report.check(f"line 2: {client.name} reads what everybody wrote"):
            topics = {topic: records for topic, records in written.items()
                      if client.null_headers or not topic.endswith("-nullheaders")}
            expect(topics, "nothing to read")
            total = sum(map(len, topics.values()))
            got = client.consume(broker.bootstrap, sorted(topics), f"readers-{client.name}", total)
            for topic, records in topics.items():
                compare(topic, records, [r for r in got if r["topic"] == topic])

    with scratch("line2-matrix", report) as directory, context.broker(directory / "data") as broker:
        with concurrent.futures.ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
            list(pool.map(write, available))
            list(pool.map(read, available))
        with report.check("line 2: clean shutdown"):
            identities = topic_ids(broker)
            broker.stop()
        with report.check("line 2: codecs of the stored batches (dump-log)"):
            stored_codecs(broker, {f"m-{client.name}-{codec}": codec for client in available for codec in client.codecs}, identities)


def compare(topic, sent, got):
    """The same records, byte for byte; timestamps where the writer chose them."""
    expect(len(got) == len(sent), f"{topic}: {len(got)} records instead of {len(sent)}")
    offsets = {(r["p"], r["o"]) for r in got}
    expect(len(offsets) == len(got), f"{topic}: an offset came twice")
    left = {}
    for record in sent:
        left.setdefault(clients.content(record), []).append(record.get("t"))
    for record in got:
        times = left.get(clients.content(record))
        expect(times, f"{topic}: {record['p']}/{record['o']} was not sent like this: {json.dumps(record)[:300]}")
        if record["t"] in times:
            times.remove(record["t"])
        else:
            expect(None in times, f"{topic}: {record['p']}/{record['o']} has timestamp {record['t']} instead of {times}")
            times.remove(None)


def groups(context, available):
    """All clients' scenarios at once: they mostly wait for session time-outs."""
    report, done = context.report, {}

    def scenario(client):
        with report.check(f"line 2: {client.name}: three members over 12 partitions, one joins, one leaves, one dies"):
            topic, group, sent, processed = clients.group_scenario(client, broker, directory)
            clients.committed_everything(broker, topic, group)
            done[client.name] = topic, group
            say(f"  {client.name}: {sent} records sent, {processed} processed (at least once)")

    def goes_on(client):
        if client.name not in done:
            return
        with report.check(f"line 2: {client.name}: committed offsets hold over a restart of the broker"):
            topic, group = done[client.name]
            clients.committed_everything(broker, topic, group)
            record = {"k": None, "v": clients.b64(b"after the restart"), "h": []}
            client.produce(broker.bootstrap, topic, "none", [record])
            got = client.consume(broker.bootstrap, [topic], group, 1)
            expect([r["v"] for r in got] == [record["v"]], f"the group began elsewhere: {got}")

    with scratch("line2-groups", report) as directory, context.broker(directory / "data") as broker:
        with concurrent.futures.ThreadPoolExecutor(len(available) or 1) as pool:
            list(pool.map(scenario, available))
        with report.check("line 2: clean restart"):
            broker.stop()
            broker.start()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
            list(pool.map(goes_on, available))


def stored_codecs(broker, topics, identities):
    files = {topic: [path for paths in topic_files(broker, topic, identities[topic]).values() for path in paths if path.stat().st_size]
             for topic in topics}
    batches = dump([path for paths in files.values() for path in paths], deep=False)
    for topic, codec in topics.items():
        stored = [batch for path in files[topic] for batch in batches[str(path)]]
        expect(stored, f"{topic}: no batch on disk")
        found = {batch["compresscodec"].lower() for batch in stored}
        # A client may send a batch plain that would not get smaller.
        expect(codec in found and found <= {codec, "none"}, f"{topic}: stored with {found}")
        expect(all(batch["isvalid"] == "true" for batch in stored), f"{topic}: an invalid batch")
    say(f"  {len(topics)} topics hold the codec that their client was told to use")


def tools(context):
    with scratch("line2-tools", context.report) as directory, context.broker(directory / "data") as broker:
        every_tool(context.report, broker, directory)


def every_tool(report, broker, directory):
    """Apache Kafka's own tools."""
    at = ("--bootstrap-server", broker.bootstrap)

    with report.check("line 2: tool topics (create, describe, alter, list)"):
        need("java", "mvn")
        kafka_tool("topics", *at, "--create", "--topic", "tooled", "--partitions", "3", "--config", "retention.ms=86400000")
        text = kafka_tool("topics", *at, "--describe", "--topic", "tooled")
        expect("PartitionCount: 3" in text and "retention.ms=86400000" in text, text)
        kafka_tool("topics", *at, "--alter", "--topic", "tooled", "--partitions", "5")
        text = kafka_tool("topics", *at, "--describe", "--topic", "tooled")
        expect("PartitionCount: 5" in text and len(re.findall(r"Partition: \d", text)) == 5, text)
        expect("tooled" in kafka_tool("topics", *at, "--list").split(), "not listed")
        code, out, err = kafka_tool("topics", *at, "--create", "--topic", "tooled", check=False)
        expect(code != 0 and "already exists" in out + err, f"a second creation: {code} {out}{err}")
    with report.check("line 2: tool configs (alter, describe, delete)"):
        need("java", "mvn")
        entity = ("--entity-type", "topics", "--entity-name", "tooled")
        kafka_tool("configs", *at, *entity, "--alter", "--add-config", "segment.bytes=2097152,max.message.bytes=2000000")
        text = kafka_tool("configs", *at, *entity, "--describe")
        expect("segment.bytes=2097152" in text and "max.message.bytes=2000000" in text, text)
        kafka_tool("configs", *at, *entity, "--alter", "--delete-config", "max.message.bytes")
        text = kafka_tool("configs", *at, *entity, "--describe")
        expect("segment.bytes=2097152" in text and "max.message.bytes=2000000" not in text, text)
        text = kafka_tool("configs", *at, *entity, "--describe", "--all")
        expect("max.message.bytes=1048588" in text and "cleanup.policy=delete" in text, text)
        code, out, err = kafka_tool("configs", *at, *entity, "--alter", "--add-config", "retention.ms=soon", check=False)
        expect(code != 0, f"an invalid value was taken: {out}{err}")
        kafka_tool("configs", *at, "--entity-type", "brokers", "--entity-name", broker_id(broker), "--describe", "--all")
    with report.check("line 2: tools producer-perf and consumer-perf"):
        need("java", "mvn")
        text = kafka_tool("producer-perf", "--topic", "tooled", "--num-records", "200000", "--record-size", "100",
                          "--throughput", "-1", "--producer-props", f"bootstrap.servers={broker.bootstrap}")
        expect("200000 records sent" in text, text)
        text = kafka_tool("consumer-perf", *at, "--topic", "tooled", "--num-records", "200000", "--group", "perf", "--timeout", "60000")
        fields = text.strip().splitlines()[-1].split(", ")
        expect(int(fields[4]) == 200000, text)
    with report.check("line 2: tool groups (list, describe, reset-offsets, delete-offsets, delete)"):
        need("java", "mvn")
        expect("perf" in kafka_tool("groups", *at, "--list").split(), "group perf is not listed")
        text = kafka_tool("groups", *at, "--describe", "--group", "perf")
        rows = [line.split() for line in text.splitlines() if line.startswith("perf")]
        expect(len(rows) == 5 and sum(int(row[3]) for row in rows) == 200000 and all(row[5] == "0" for row in rows), text)
        for flags in (("--members",), ("--state",)):
            kafka_tool("groups", *at, "--describe", "--group", "perf", *flags)
        text = kafka_tool("groups", *at, "--group", "perf", "--topic", "tooled", "--reset-offsets", "--to-earliest", "--execute")
        expect(re.findall(r"tooled\s+\d+\s+0\b", text), text)
        text = kafka_tool("groups", *at, "--describe", "--group", "perf")
        rows = [line.split() for line in text.splitlines() if line.startswith("perf")]
        expect(sum(int(row[5]) for row in rows) == 200000, text)
        for way in (("--to-latest",), ("--shift-by", "-10"), ("--to-offset", "5"), ("--to-datetime", "2024-01-01T00:00:00.000"), ("--by-duration", "PT1H")):
            kafka_tool("groups", *at, "--group", "perf", "--topic", "tooled", "--reset-offsets", *way, "--execute")
        kafka_tool("groups", *at, "--group", "perf", "--topic", "tooled:0", "--delete-offsets")
        text = kafka_tool("groups", *at, "--describe", "--group", "perf")
        expect(len([line for line in text.splitlines() if line.startswith("perf") and line.split()[3] != "-"]) == 4, text)
        kafka_tool("groups", *at, "--delete", "--group", "perf")
        expect("perf" not in kafka_tool("groups", *at, "--list").split(), "group perf is still listed")
    with report.check("line 2: tools verify-producer and verify-consumer"):
        need("java", "mvn")
        kafka_tool("topics", *at, "--create", "--topic", "verified", "--partitions", "3")
        text = kafka_tool("verify-producer", *at, "--topic", "verified", "--max-messages", "20000", "--acks", "-1")
        data = json.loads(text.strip().splitlines()[-1])
        expect(data["name"] == "tool_data" and data["acked"] == 20000, data)
        text = kafka_tool("verify-consumer", *at, "--topic", "verified", "--group-id", "verifiers", "--max-messages", "20000",
                          "--reset-policy", "earliest")
        events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        expect(sum(event["count"] for event in events if event["name"] == "records_consumed") == 20000, events[-1])
    with report.check("line 2: console producer and consumer"):
        need("java", "mvn")
        lines = [f"key{i}\tvalue {i}" for i in range(50)]
        kafka_tool("console-producer", *at, "--topic", "consoled", "--reader-property", "parse.key=true", stdin="\n".join(lines) + "\n")
        text = kafka_tool("console-consumer", *at, "--topic", "consoled", "--from-beginning", "--max-messages", "50",
                          "--timeout-ms", "60000", "--formatter-property", "print.key=true")
        expect(sorted(text.split("\n")[:-1]) == sorted(lines), text[:500])
    with report.check("line 2: tool e2e-latency"):
        need("java", "mvn")
        text = kafka_tool("e2e-latency", *at, "--topic", "latency", "--num-records", "2000", "--producer-acks", "all", "--record-size", "100")
        expect("Percentiles" in text, text)
        say("  " + [line for line in text.splitlines() if "Percentiles" in line][-1].strip())
    with report.check("line 2: tool topics (delete)"):
        need("java", "mvn")
        kafka_tool("topics", *at, "--delete", "--topic", "tooled")
        wait_until(lambda: "tooled" not in kafka_tool("topics", *at, "--list").split(), 30, "the topic is gone", step=0.1)
    with report.check("line 2: tools delete-records, log-dirs, get-offsets, broker-api-versions"):
        need("java", "mvn")
        plan = directory / "records.json"
        plan.write_text(json.dumps({"partitions": [{"topic": "consoled", "partition": 0, "offset": 10}], "version": 1}))
        text = kafka_tool("org.apache.kafka.tools.DeleteRecordsCommand", *at, "--offset-json-file", plan)
        expect("low_watermark: 10" in text, text)
        text = kafka_tool("org.apache.kafka.tools.GetOffsetShell", *at, "--topic", "consoled", "--time", "earliest")
        expect(text.strip() == "consoled:0:10", text)
        text = kafka_tool("org.apache.kafka.tools.LogDirsCommand", *at, "--describe", "--topic-list", "verified")
        sizes = [p["size"] for b in json.loads(text[text.index("{"):])["brokers"] for d in b["logDirs"] for p in d["partitions"]]
        expect(len(sizes) == 3 and sum(sizes) > 100_000, text)
        kafka_tool("org.apache.kafka.tools.BrokerApiVersionsCommand", *at)


def broker_id(broker):
    with broker.connect() as connection:
        leaders = [leader for partitions in connection.metadata().values() for leader in partitions.values()]
    return leaders[0]


def one_suite(context, suite):
    """The client authors' own suite on a fresh broker."""
    least, settings, peer_settings, partitions, may_fail = SUITES[suite]
    ours = [argument for name, value in settings.items() for argument in ("--set", f"kafka.{name}={value}")]
    with context.report.check(f"line 2: suite {suite}"):
        if suite == "kafka-franz-go":
            need("go")
        with scratch(suite) as directory, context.broker(directory / "data", config={**settings, **peer_settings}, arguments=ours,
                                                         partitions=partitions) as broker:
            host, port = broker.bootstrap.split(":")
            # What may fail is not waited for.
            hasty = {"HASTY": "TestTxnEtl"} if context.against == "trireme" else {}
            code, out, err = run([TESTS / "suites" / f"{suite}.sh", host, port], timeout=1500, check=False, env=hasty)
            (directory / "results").write_text(out + err)
            lines = out.splitlines()
            expect(lines and re.match(r"\d+ passed", lines[-1]), f"no result\n{out[-800:]}{err[-800:]}")
            passed = int(lines[-1].split()[0])
            failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAIL ", "HANG "))]
            say(f"  {suite}: {lines[-1]}")
            for failure in failed:
                say(f"    failed: {failure[:160]}")
            readme = (ROOT / "README.md").read_text() if failed and (ROOT / "README.md").exists() else ""
            unexcused = [f for f in failed if not any(
                re.search(pattern, f.split(":")[0]) and (api is None or api in readme) for pattern, api in may_fail.items())]
            expect(passed >= least and not unexcused, f"{passed} passed (at least {least} wanted); not excused: {unexcused}")

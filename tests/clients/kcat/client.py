"""kcat (librdkafka's command line). Commands and formats: ../README.md; it prints no acknowledgements.

kcat sets headers for a whole run, so records are sent in one run for each set of headers, null values apart from the others.
Its consumer prints lengths before the bytes, which keeps binary keys and values apart.
"""
import base64
import itertools
import json
import os
import signal
import subprocess
import sys

END, KEY = b"\x01", b"\x02"
FORMAT = r"%t %p %o %T %K %S %h\n%k%s\n"


def raw(text):
    return None if text is None else base64.b64decode(text)


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def produce(bootstrap, topic, codec):
    records = [json.loads(line) for line in sys.stdin]
    kind = lambda record: (json.dumps(record["h"]), record["v"] is None, record["k"] is not None)
    for (headers, is_null, has_key), group in itertools.groupby(sorted(records, key=kind), key=kind):
        command = ["kcat", "-P", "-b", bootstrap, "-t", topic, "-z", codec, "-D", END.decode()]
        for name, value in json.loads(headers):
            command += ["-H", f"{name}={raw(value).decode()}"]
        if has_key:
            command += ["-K", KEY.decode()]
        if is_null:
            command += ["-Z"]
        data = END.join((raw(r["k"]) + KEY if has_key else b"") + (raw(r["v"]) or b"") for r in group)
        subprocess.run(command, input=data + END, check=True)


def entries(stream):
    """Every record of kcat's output as a dictionary in the common format."""
    while line := stream.readline():
        topic, partition, offset, time, key_len, value_len, *headers = line.decode().rstrip("\n").split(" ", 6)
        key, value = (None if int(n) < 0 else stream.read(int(n)) for n in (key_len, value_len))
        stream.read(1)
        pairs = [pair.split("=", 1) for pair in headers[0].split(",") if pair] if headers else []
        yield {"topic": topic, "p": int(partition), "o": int(offset), "t": int(time), "k": b64(key), "v": b64(value),
               "h": [[name, b64(text.encode())] for name, text in pairs]}


def member(bootstrap, topics, group):
    return subprocess.Popen(["kcat", "-b", bootstrap, "-X", "auto.offset.reset=earliest", "-q", "-u", "-f", FORMAT,
                             "-G", group, *topics.split(",")], stdout=subprocess.PIPE)


def consume(bootstrap, topics, group, count):
    kcat = member(bootstrap, topics, group)
    for record in itertools.islice(entries(kcat.stdout), int(count)):
        print(json.dumps(record))
    sys.stdout.flush()
    kcat.terminate()
    for _ in entries(kcat.stdout):
        pass
    kcat.wait()


def worker(bootstrap, topic, group):
    """SIGTERM goes on to kcat, which leaves the group; a SIGKILL of this process takes kcat along through the harness's process group."""
    kcat = member(bootstrap, topic, group)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(kcat.pid, signal.SIGTERM))
    for record in entries(kcat.stdout):
        print(json.dumps(record), flush=True)
    kcat.wait()


{"produce": produce, "consume": consume, "worker": worker}[sys.argv[1]](*sys.argv[2:])

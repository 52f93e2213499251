"""A small Kafka client on plain sockets, for what the tests ask without a library between: start-up, offsets, hostile frames, latency.

Only non-flexible versions that Kafka 4.3 still serves are spoken, so the encoding stays a handful of lines.
"""
import socket
import struct
import time

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_FETCH, FIND_COORDINATOR = 0, 1, 2, 3, 9, 10
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = 18, 19, 20, 22
TOPIC_ALREADY_EXISTS, NOT_COORDINATOR, COORDINATOR_NOT_AVAILABLE = 36, 16, 15
EARLIEST, LATEST = -2, -1


def crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC_TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value & ~0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record_batch(values, timestamp_ms=None, producer=(-1, -1, -1)):
    """A RecordBatch v2, uncompressed, of records without keys; `producer` is (id, epoch, first sequence) of an idempotent one."""
    now = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    records = b""
    for index, value in enumerate(values):
        body = b"\0" + varint(0) + varint(index) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    signed = struct.pack(">hiqqqhii", 0, len(values) - 1, now, now, *producer, len(values)) + records
    return struct.pack(">qiibI", 0, len(signed) + 9, -1, 2, crc32c(signed)) + signed


def string(text):
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text.encode())) + text.encode()


def blob(data):
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


def int16(n): return struct.pack(">h", n)
def int32(n): return struct.pack(">i", n)
def int64(n): return struct.pack(">q", n)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if size < 0 or self.at + size > len(self.data):
            raise ValueError("answer is too short")
        self.at += size
        return self.data[self.at - size:self.at]

    def unpack(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))

    def int16(self): return self.unpack("h")[0]
    def int32(self): return self.unpack("i")[0]
    def int64(self): return self.unpack("q")[0]

    def string(self):
        size = self.int16()
        return None if size < 0 else self.take(size).decode()

    def blob(self):
        size = self.int32()
        return None if size < 0 else self.take(size)

    def array(self, item):
        return [item() for _ in range(self.int32())]


def request_frame(api, version, correlation, body, client_id="wire"):
    header = struct.pack(">hhi", api, version, correlation) + string(client_id)
    return int32(len(header) + len(body)) + header + body


class Connection:
    """One connection. Requests may be pipelined with send() and receive(); call() does both."""

    def __init__(self, port, timeout=30.0, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, api, version, body):
        self.correlation += 1
        self.socket.sendall(request_frame(api, version, self.correlation, body))
        return self.correlation

    def exactly(self, size):
        data = bytearray()
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError("closed by the broker")
            data += part
        return bytes(data)

    def receive(self, correlation):
        size = struct.unpack(">i", self.exactly(4))[0]
        answer = Reader(self.exactly(size))
        got = answer.int32()
        if got != correlation:
            raise ValueError(f"answer to {got} instead of {correlation}")
        return answer

    def call(self, api, version, body):
        return self.receive(self.send(api, version, body))

    def api_versions(self):
        answer = self.call(API_VERSIONS, 0, b"")
        error = answer.int16()
        if error:
            raise ValueError(f"ApiVersions: error {error}")
        return {key: (low, high) for key, low, high in answer.array(lambda: answer.unpack("hhh"))}

    def create_topic(self, name, partitions, config=None):
        configs = array([string(key) + string(str(value)) for key, value in (config or {}).items()])
        topic = string(name) + int32(partitions) + int16(1) + array([]) + configs
        answer = self.call(CREATE_TOPICS, 4, array([topic]) + int32(30000) + b"\0")
        answer.int32()
        (_, error, message), = answer.array(lambda: (answer.string(), answer.int16(), answer.string()))
        if error not in (0, TOPIC_ALREADY_EXISTS):
            raise ValueError(f"CreateTopics {name}: error {error} {message}")
        # A broker may answer before it serves what it has made.
        deadline = time.monotonic() + 30
        while len(self.list_offsets(name, range(partitions))) < partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"CreateTopics {name}: no leaders")
            time.sleep(0.01)

    def delete_topic(self, name):
        answer = self.call(DELETE_TOPICS, 1, array([string(name)]) + int32(30000))
        answer.int32()
        (_, error), = answer.array(lambda: (answer.string(), answer.int16()))
        if error:
            raise ValueError(f"DeleteTopics {name}: error {error}")

    def metadata(self, topics=None):
        """{topic: {partition: leader's node id}}; all topics when none is named. Version 4, without auto-creation."""
        body = int32(-1) if topics is None else array([string(topic) for topic in topics])
        answer = self.call(METADATA, 4, body + b"\0")
        answer.int32()
        answer.array(lambda: (answer.int32(), answer.string(), answer.int32(), answer.string()))
        answer.string(), answer.int32()
        found = {}

        def partition():
            error, index, leader = answer.unpack("hii")
            answer.array(answer.int32), answer.array(answer.int32)
            return index, leader if not error else -1

        def topic():
            error, name = answer.int16(), answer.string()
            answer.take(1)
            partitions = dict(answer.array(partition))
            if not error:
                found[name] = partitions
        answer.array(topic)
        return found

    def brokers(self):
        """{node id: (host, port)} as the broker advertises itself."""
        answer = self.call(METADATA, 4, array([]) + b"\0")
        answer.int32()
        return {node: (host, port) for node, host, port, _ in answer.array(
            lambda: (answer.int32(), answer.string(), answer.int32(), answer.string()))}

    def list_offsets(self, topic, partitions, timestamp=LATEST):
        """{partition: offset} for the partitions that answer without an error."""
        body = int32(-1) + array([string(topic) + array([int32(p) + int64(timestamp) for p in partitions])])
        answer = self.call(LIST_OFFSETS, 1, body)
        found = {}

        def partition():
            index, error, _time, offset = answer.unpack("ihqq")
            if not error:
                found[index] = offset
        answer.array(lambda: (answer.string(), answer.array(partition)))
        return found

    def init_producer_id(self):
        """(id, epoch) of a new idempotent producer."""
        answer = self.call(INIT_PRODUCER_ID, 1, string(None) + int32(60000))
        _, error, identity, epoch = answer.unpack("ihqh")
        if error:
            raise ValueError(f"InitProducerId: error {error}")
        return identity, epoch

    def produce_body(self, topic, batches, acks=-1):
        """Produce version 7; batches is {partition: bytes}."""
        data = array([int32(p) + blob(batch) for p, batch in batches.items()])
        return string(None) + int16(acks) + int32(30000) + array([string(topic) + data])

    def produce(self, topic, batches, acks=-1):
        """{partition: (error, base offset)}"""
        return self.produced(self.call(PRODUCE, 7, self.produce_body(topic, batches, acks)))

    @staticmethod
    def produced(answer):
        found = {}

        def partition():
            index, error, offset, _time, _start = answer.unpack("ihqqq")
            found[index] = (error, offset)
        answer.array(lambda: (answer.string(), answer.array(partition)))
        return found

    def fetch(self, topic, offsets, max_wait_ms=500, min_bytes=1, max_bytes=1 << 20):
        """Fetch version 4: {partition: (error, high watermark, records)}"""
        parts = array([int32(p) + int64(offset) + int32(max_bytes) for p, offset in offsets.items()])
        answer = self.call(FETCH, 4, struct.pack(">iiiib", -1, max_wait_ms, min_bytes, 50 << 20, 0) + array([string(topic) + parts]))
        answer.int32()
        found = {}

        def partition():
            index, error, high_watermark, _stable = answer.unpack("ihqq")
            answer.array(lambda: answer.unpack("qq"))
            found[index] = (error, high_watermark, answer.blob() or b"")
        answer.array(lambda: (answer.string(), answer.array(partition)))
        return found

    def committed(self, group, topic, partitions):
        """{partition: committed offset} of a group; None while its coordinator loads."""
        body = string(group) + array([string(topic) + array([int32(p) for p in partitions])])
        answer = self.call(OFFSET_FETCH, 2, body)
        found = {}

        def partition():
            index, offset = answer.unpack("iq")
            answer.string()
            found[index] = (offset, answer.int16())
        answer.array(lambda: (answer.string(), answer.array(partition)))
        if answer.int16() or any(error for _, error in found.values()):
            return None
        return {index: offset for index, (offset, _) in found.items()}

"""Frames that no client should send: a corpus made from a seed, every entry with what may answer it."""
import random
import struct

from .wire import (API_VERSIONS, CREATE_TOPICS, FETCH, FIND_COORDINATOR, LIST_OFFSETS, METADATA, OFFSET_FETCH, PRODUCE, Connection, array, blob,
                   crc32c, int16, int32, int64, record_batch, request_frame, string, varint)

HUGE = 2**31 - 1
TOPIC = "hostile"


def corrupt_batches():
    """Record batches that a broker must refuse, by name."""
    good = record_batch([b"value %d" % i for i in range(10)])

    def patched(at, data):
        return good[:at] + data + good[at + len(data):]

    def resummed(batch):
        return batch[:17] + struct.pack(">I", crc32c(batch[21:])) + batch[21:]
    yield "wrong CRC", patched(17, b"\0\0\0\0")
    yield "one flipped bit in a record", patched(len(good) - 3, bytes([good[-3] ^ 1]))
    for magic in (0, 1, 3, 127, 255):
        yield f"magic {magic}", patched(16, bytes([magic]))
    for length in (0, -1, 1, 48, len(good) - 13, len(good), HUGE, -HUGE - 1):
        yield f"batch length {length}", patched(8, int32(length))
    for count in (0, -1, 11, HUGE):
        yield f"record count {count}", resummed(patched(57, int32(count)))
    for delta in (-1, HUGE, 0):
        yield f"last offset delta {delta}", resummed(patched(23, int32(delta)))
    yield "transactional", resummed(patched(21, int16(0x10)))
    yield "control batch", resummed(patched(21, int16(0x20)))
    for codec in (5, 6, 7):
        yield f"codec {codec}", resummed(patched(21, int16(codec)))
    yield "cut off in the header", good[:40]
    yield "cut off in the records", good[:-5]
    yield "two batches, the second wrong", good + patched(17, b"\0\0\0\0")
    yield "nothing but zeros", b"\0" * 200


def frames(advertised, seed, random_frames):
    """(name, bytes, complete): what goes over a fresh connection; `complete` frames deserve an answer or a close without more bytes."""
    chance = random.Random(seed)
    for length in (HUGE, HUGE - 1, -1, -HUGE - 1, 0, 1, 3, 7, 101 << 20, 1 << 30):
        yield f"length {length} and nothing", struct.pack(">i", length), length <= 0
        yield f"length {length} and ten bytes", struct.pack(">i", length) + b"0123456789", length <= 10
    yield "another protocol: HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", False
    yield "another protocol: TLS", bytes.fromhex("160301020001000001fc0303") + bytes(range(256)) * 2, False
    for api in (-1, -32768, 32767, 99, 1000):
        yield f"unknown API {api}", request_frame(api, 0, 7, b""), True
    for api in range(0, 95):
        low, high = advertised.get(api, (0, 0))
        for version in sorted({low, high, high + 1, 32767, -1}):
            name = f"API {api} version {version}"
            yield f"{name}, empty body", request_frame(api, version, 7, b""), True
            yield f"{name}, largest numbers", request_frame(api, version, 7, b"\x7f\xff\xff\xff" * 16), True
            yield f"{name}, all ones", request_frame(api, version, 7, b"\xff" * 64), True
            # Flexible versions: a varint that never ends, and one that promises 2 GiB.
            yield f"{name}, endless varint", request_frame(api, version, 7, b"\0" + b"\x80" * 64), True
            yield f"{name}, varint of 2 GiB", request_frame(api, version, 7, b"\0\xff\xff\xff\xff\x07" * 8), True
            yield f"{name}, random bytes", request_frame(api, version, 7, chance.randbytes(chance.randrange(1, 400))), True
    yield "client id longer than the frame", int32(12) + struct.pack(">hhih", API_VERSIONS, 0, 7, 32767) + b"ab", True
    yield "client id of length -2", int32(10) + struct.pack(">hhih", API_VERSIONS, 0, 7, -2), True
    whole = request_frame(METADATA, 4, 7, array([string(TOPIC)]) + b"\0")
    for cut in range(4, len(whole)):
        yield f"Metadata cut off at {cut}", whole[:cut], False
        yield f"Metadata ends inside at {cut}", int32(cut - 4) + whole[4:cut], True
    body = string(None) + int16(-1) + int32(1000) + array([string(TOPIC) + array([int32(0) + blob(record_batch([b"v"]))])])
    for cut in range(0, len(body), 3):
        yield f"Produce ends inside at {cut}", request_frame(PRODUCE, 7, 7, body[:cut]), True
    nested = int32(HUGE) + b"".join(string("t") + int32(HUGE) for _ in range(8))
    for api, version in ((PRODUCE, 7), (FETCH, 11), (LIST_OFFSETS, 1), (OFFSET_FETCH, 2), (CREATE_TOPICS, 4), (FIND_COORDINATOR, 1)):
        yield f"API {api}: nested arrays that promise 2^31-1 elements", request_frame(api, version, 7, nested), True
    fetch = struct.pack(">iiiib", -1, HUGE, HUGE, HUGE, 0) + array([string(TOPIC) + array([int32(p) + int64(-5) + int32(-1) for p in range(-3, 3)])])
    yield "Fetch with limits of 2^31-1 and offsets below zero", request_frame(FETCH, 4, 7, fetch), False
    yield "Fetch of 20,000 partitions that do not exist", request_frame(FETCH, 4, 7, struct.pack(">iiiib", -1, 0, 0, HUGE, 0) + array(
        [string("none") + array([int32(p) + int64(0) + int32(HUGE) for p in range(20000)])])), True
    yield "CreateTopics with 2^31-1 partitions", request_frame(CREATE_TOPICS, 4, 7, array(
        [string("many") + int32(HUGE) + int16(1) + array([]) + array([])]) + int32(1000) + b"\0"), True
    yield "pipelined ApiVersions, then a negative length", b"".join(request_frame(API_VERSIONS, 0, n, b"") for n in range(50)) + int32(-5), True
    for n in range(random_frames):
        content = chance.randbytes(chance.randrange(1, 2000))
        yield f"random frame {n}", int32(len(content)) + content, True
        yield f"random bytes {n}", chance.randbytes(chance.randrange(1, 300)), False
    yield "record varints", request_frame(PRODUCE, 7, 7, varint(-1) * 50), True


def answer_to(port, content, complete, timeout):
    """What came back: `answer` (a whole frame with a plausible length), `closed`, or `silence`. Unfinished frames are followed by a half-close."""
    with Connection(port, timeout=timeout) as connection:
        try:
            connection.socket.sendall(content)
            if not complete:
                connection.socket.shutdown(1)
            size = struct.unpack(">i", connection.exactly(4))[0]
            if not 4 <= size <= 64 << 20:
                return f"an answer of {size} bytes"
            connection.exactly(size)
            return "answer"
        except TimeoutError:
            return "silence"
        except OSError:
            return "closed"

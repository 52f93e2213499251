"""Makes a data directory with every kind of file, small enough to flip every bit of it: `tests/make-data-dir`."""
import pathlib
import time

from . import clients
from .broker import Trireme
from .core import expect, say
from .wire import record_batch

SEGMENT_MS = 400
SEGMENTS = 3


def fill(directory):
    """Starts a broker on the directory, writes, and shuts it down cleanly.

    Topic `codecs` holds every codec in more than 200 batches, most of them by an idempotent producer; `sealed` has at least two sealed segments
    (they are closed by age, so they stay small); a group has committed offsets; a deleted topic has left its marks.
    """
    directory = pathlib.Path(directory)
    broker = Trireme(directory, logs=directory.parent)
    with broker, broker.connect() as connection:
        connection.create_topic("codecs", 2)
        connection.create_topic("sealed", 1, {"segment.ms": SEGMENT_MS})
        connection.create_topic("deleted", 1)
        connection.create_topic("empty", 5)
        for number in range(SEGMENTS):
            connection.produce("sealed", {0: record_batch([b"segment %d record %d" % (number, i) * 20 for i in range(30)])})
            # Segments are closed by their age; nothing tells when that has come.
            time.sleep(SEGMENT_MS / 1000 * 1.5)
        connection.produce("deleted", {0: record_batch([b"gone"])})
        connection.delete_topic("deleted")
        identity, epoch = connection.init_producer_id()
        for partition in range(2):
            sequence = 0
            for number in range(110):
                values = [b"plain %d/%d" % (number, i) for i in range(1 + number % 5)]
                error, _ = connection.produce("codecs", {partition: record_batch(values, producer=(identity, epoch, sequence))})[partition]
                expect(error == 0, f"produce: error {error}")
                sequence += len(values)
        client = clients.Confluent()
        for codec in clients.CODECS:
            records = [{"k": clients.b64(b"key %d" % i), "v": clients.b64(b"value %d of %s " % (i, codec.encode()) * 10), "h": []} for i in range(60)]
            client.produce(broker.bootstrap, "codecs", codec, records)
        client.consume(broker.bootstrap, ["codecs"], "readers", 500)
        broker.stop()
    say(f"  {sum(1 for path in directory.rglob('*') if path.is_file())} files, {sum(p.stat().st_size for p in directory.rglob('*') if p.is_file()) >> 10} KiB")

"""aiokafka (asyncio). Commands and formats: ../README.md."""
import asyncio
import base64
import json
import signal
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def raw(text):
    return None if text is None else base64.b64decode(text)


def show(message):
    return json.dumps({
        "topic": message.topic, "p": message.partition, "o": message.offset, "t": message.timestamp,
        "k": b64(message.key), "v": b64(message.value), "h": [[name, b64(value)] for name, value in message.headers],
    })


async def produce(bootstrap, topic, codec):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec)
    await producer.start()
    sent = []
    for line in sys.stdin:
        record = json.loads(line)
        sent.append(await producer.send(
            topic, value=raw(record["v"]), key=raw(record["k"]), timestamp_ms=record.get("t"),
            headers=[(name, raw(value)) for name, value in record["h"]]))
    for index, future in enumerate(sent):
        meta = await future
        print(json.dumps({"i": index, "p": meta.partition, "o": meta.offset}))
    await producer.stop()


async def member(bootstrap, topics, group):
    consumer = AIOKafkaConsumer(*topics.split(","), bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    await consumer.start()
    return consumer


async def consume(bootstrap, topics, group, count):
    consumer, left = await member(bootstrap, topics, group), int(count)
    while left:
        for batch in (await consumer.getmany(timeout_ms=1000, max_records=left)).values():
            for message in batch:
                print(show(message))
                left -= 1
    await consumer.stop()


async def worker(bootstrap, topic, group):
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    consumer = await member(bootstrap, topic, group)
    while not stopped.is_set():
        for batch in (await consumer.getmany(timeout_ms=200)).values():
            for message in batch:
                print(show(message), flush=True)
    await consumer.stop()


asyncio.run({"produce": produce, "consume": consume, "worker": worker}[sys.argv[1]](*sys.argv[2:]))

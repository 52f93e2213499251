"""confluent-kafka-python (librdkafka). Commands and formats: ../README.md."""
import base64
import json
import signal
import sys

from confluent_kafka import Consumer, Producer, KafkaException


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def raw(text):
    return None if text is None else base64.b64decode(text)


def show(message):
    kind, timestamp = message.timestamp()
    return json.dumps({
        "topic": message.topic(), "p": message.partition(), "o": message.offset(), "t": timestamp if kind else None,
        "k": b64(message.key()), "v": b64(message.value()),
        "h": [[name, b64(value)] for name, value in message.headers() or []],
    })


def produce(bootstrap, topic, codec):
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec})
    failed = []

    def report(index):
        def on_delivery(error, message):
            if error:
                failed.append(error)
            else:
                print(json.dumps({"i": index, "p": message.partition(), "o": message.offset()}))
        return on_delivery

    for index, line in enumerate(sys.stdin):
        record = json.loads(line)
        producer.produce(topic, value=raw(record["v"]), key=raw(record["k"]), on_delivery=report(index),
                         headers=[(name, raw(value)) for name, value in record["h"]], timestamp=record.get("t") or 0)
        producer.poll(0)
    if producer.flush(120) or failed:
        sys.exit(f"not delivered: {failed[:3]}")


def member(bootstrap, topics, group):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe(topics.split(","))
    return consumer


def consume(bootstrap, topics, group, count):
    consumer, left = member(bootstrap, topics, group), int(count)
    while left:
        for message in consumer.consume(min(left, 500), 1.0):
            if message.error():
                raise KafkaException(message.error())
            print(show(message))
            left -= 1
    consumer.close()


def worker(bootstrap, topic, group):
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    consumer = member(bootstrap, topic, group)
    while not stopped:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr)
            continue
        print(show(message), flush=True)
    consumer.close()


{"produce": produce, "consume": consume, "worker": worker}[sys.argv[1]](*sys.argv[2:])

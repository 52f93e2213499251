// kafkajs, which brings gzip and takes the other codecs from packages. Commands and formats: ../README.md.
'use strict'
const readline = require('readline')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})
const TYPES = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }

const b64 = (data) => (data === null || data === undefined ? null : Buffer.from(data).toString('base64'))
const raw = (text) => (text === null ? null : Buffer.from(text, 'base64'))
const client = (bootstrap) => new Kafka({ clientId: 'trireme-tests', brokers: [bootstrap], logLevel: logLevel.ERROR })

function headersIn (pairs) {
  const headers = {}
  for (const [name, value] of pairs) headers[name] = name in headers ? [].concat(headers[name], raw(value)) : raw(value)
  return headers
}

function show (topic, partition, message) {
  const h = []
  for (const [name, value] of Object.entries(message.headers || {})) for (const one of [].concat(value)) h.push([name, b64(one)])
  return JSON.stringify({ topic, p: partition, o: Number(message.offset), t: Number(message.timestamp), k: b64(message.key), v: b64(message.value), h })
}

async function produce (bootstrap, topic, codec) {
  const producer = client(bootstrap).producer()
  await producer.connect()
  let pending = []
  let bytes = 0
  const flush = async () => {
    if (pending.length === 0) return
    for (const { partition, baseOffset } of await producer.send({ topic, compression: TYPES[codec], messages: pending })) {
      console.log(JSON.stringify({ p: partition, base: Number(baseOffset) }))
    }
    pending = []
    bytes = 0
  }
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const record = JSON.parse(line)
    const message = { key: raw(record.k), value: raw(record.v), headers: headersIn(record.h) }
    if (record.t) message.timestamp = String(record.t)
    // One send() is one batch for each partition: stay below the topic's default max.message.bytes.
    if (bytes + line.length > 1000000 || pending.length >= 100) await flush()
    pending.push(message)
    bytes += line.length
  }
  await flush()
  await producer.disconnect()
}

async function run (bootstrap, topics, group, onMessage) {
  const consumer = client(bootstrap).consumer({ groupId: group })
  await consumer.connect()
  await consumer.subscribe({ topics: topics.split(','), fromBeginning: true })
  await consumer.run({ eachMessage: async ({ topic, partition, message }) => onMessage(show(topic, partition, message)) })
  return consumer
}

async function consume (bootstrap, topics, group, count) {
  let left = Number(count)
  let done
  const finished = new Promise((resolve) => { done = resolve })
  const consumer = await run(bootstrap, topics, group, (text) => {
    if (left > 0) console.log(text)
    if (--left === 0) done()
  })
  await finished
  await consumer.disconnect()
}

async function worker (bootstrap, topic, group) {
  const stopped = new Promise((resolve) => process.on('SIGTERM', resolve))
  const consumer = await run(bootstrap, topic, group, (text) => console.log(text))
  await stopped
  await consumer.disconnect()
}

zstd.init().then(() => ({ produce, consume, worker })[process.argv[2]](...process.argv.slice(3))).then(() => process.stdout.write('', () => process.exit(0)), (error) => {
  console.error(error)
  process.exit(1)
})

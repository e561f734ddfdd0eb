// Streams events to eventkit over one bidirectional call: numbered batches out, acknowledgements back. When the stream breaks, what
// was not acknowledged is sent again, with the same message ids, and each event is still one row.
//
//     PROTO_DIR=../../proto node send.mjs localhost:50051 < events.ndjson
//
// Each line is one event: {"userId": "ada", "event": "Order Placed", "properties": {"total": 12.5}}
import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import protobuf from 'protobufjs'

const BATCH_EVENTS = 100 // at most so many in one batch
const LINGER_MS = 20 // so long a batch that is not full waits for more
const WAITING_EVENTS = 10_000 // at most so many not in a batch yet; send() waits then
const STREAM_MS = Number(process.env.STREAM_SECONDS ?? 300) * 1000 // a stream's deadline: the next one may lead to another server
const GIVE_UP_MS = 120_000 // so long without an acknowledgement is a failure

// The request itself is wrong: it will be no better next time. Everything else is worth another try.
const { INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED } = grpc.status
const PERMANENT = [INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED]

const includeDirs = [process.env.PROTO_DIR ?? '../../proto']
const loaded = loadSync('eventkit/v1/ingest_service.proto', { includeDirs, longs: Number, enums: String, oneofs: true, defaults: true })
const { IngestService } = grpc.loadPackageDefinition(loaded).eventkit.v1

/** Takes events. They are delivered when `close()` resolves; after a failure every call rejects with it. */
class Sender {
  #client
  #waiting = [] // events that are in no batch yet
  #unacknowledged = [] // batches, the oldest first
  #closed = false
  #failure
  #changed = new EventEmitter()
  #pump = () => {}
  #timer
  #delivered
  #counts = { accepted: 0, duplicate: 0, rejected: 0 }

  constructor(host) {
    // A server that is gone without a word is noticed after 30 s.
    const options = { 'grpc.keepalive_time_ms': 20_000, 'grpc.keepalive_timeout_ms': 10_000 }
    this.#client = new IngestService(host, grpc.credentials.createInsecure(), options)
    this.#delivered = this.#deliver()
  }

  async send(userId, event, properties) {
    while (!this.#failure && this.#waiting.length >= WAITING_EVENTS) await once(this.#changed, 'room')
    if (this.#failure) throw this.#failure
    this.#waiting.push({
      // Made once, here: every retry carries it, and eventkit stores an id once.
      messageId: randomUUID(),
      type: 'track',
      userId,
      event,
      timestamp: now(),
      propertiesJson: Buffer.from(JSON.stringify(properties)),
    })
    if (this.#waiting.length >= BATCH_EVENTS) this.#pump()
    else this.#timer ??= setTimeout(() => ((this.#timer = undefined), this.#pump()), LINGER_MS)
  }

  /** Waits until everything is durable, and says what became of it. */
  async close() {
    this.#closed = true
    this.#pump()
    await this.#delivered
    clearTimeout(this.#timer)
    this.#client.close()
    if (this.#failure) throw this.#failure
    return this.#counts
  }

  /** One stream after the other, until everything is acknowledged. */
  async #deliver() {
    let [tries, failingSince] = [0, Date.now()]
    for (;;) {
      const { error, progressed } = await this.#stream()
      if (!error) return
      if (progressed || this.#unacknowledged.length === 0) [tries, failingSince] = [0, Date.now()]
      tries += 1
      if (!isWorthARetry(error) || Date.now() - failingSince > GIVE_UP_MS) {
        this.#failure = error
        this.#changed.emit('room')
        return
      }
      const pause = Math.max(retryAfterMs(error), 50 + Math.random() * 100 * 2 ** Math.min(tries, 7))
      console.error(`${grpc.status[error.code]}: ${error.details}; ${this.#unacknowledged.length} batches again in ${Math.round(pause)} ms`)
      await sleep(pause)
    }
  }

  /** One call. What is sent on it stays in `#unacknowledged` until it is acknowledged. */
  #stream() {
    const call = this.#client.CollectBidi({ deadline: Date.now() + STREAM_MS })
    const again = [...this.#unacknowledged]
    let window = 0 // the server says how large it is
    let [sent, acknowledged] = [0, 0]

    this.#pump = () => {
      while (sent - acknowledged < window) {
        const batch = again.shift() ?? this.#nextBatch()
        if (!batch) break
        batch.batchNumber = ++sent // Each stream counts from 1.
        batch.sentAt = now()
        call.write(batch)
      }
      // Ends our side; the server acknowledges the rest and ends its own.
      if (this.#closed && again.length === 0 && this.#waiting.length === 0) call.end()
    }

    call.on('data', ({ hello, ack }) => {
      if (hello) window = hello.windowBatches
      if (ack) {
        // It, and every batch before it, is durable.
        this.#unacknowledged.splice(0, ack.batchNumber - acknowledged)
        acknowledged = ack.batchNumber
        for (const name in this.#counts) this.#counts[name] += ack[name]
        for (const result of ack.results) {
          // It will not be better next time: tell whoever can mend it.
          if (result.status === 'EVENT_STATUS_REJECTED') console.error(`rejected ${result.messageId}: ${result.code}: ${result.reason}`)
        }
      }
      this.#pump()
    })

    return new Promise((resolve) => {
      const ended = (error) => {
        this.#pump = () => {}
        resolve({ error, progressed: acknowledged > 0 })
      }
      call.on('error', ended)
      call.on('end', () => ended()) // After an error it is too late to matter.
    })
  }

  #nextBatch() {
    if (this.#waiting.length === 0) return undefined
    const batch = { events: this.#waiting.splice(0, BATCH_EVENTS) }
    this.#unacknowledged.push(batch)
    this.#changed.emit('room')
    return batch
  }
}

function now() {
  const ms = Date.now()
  return { seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1_000_000 }
}

// What google.rpc says about an error, as much of it as is needed here.
const { root } = protobuf.parse(`syntax = "proto3";
  message Status { repeated Any details = 3; }
  message Any { string type_url = 1; bytes value = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }`)
const [Status, RetryInfo] = ['Status', 'RetryInfo'].map((name) => root.lookupType(name))

/** How many milliseconds the server wants us to wait. */
function retryAfterMs(error) {
  const [status] = error.metadata?.get('grpc-status-details-bin') ?? []
  const info = status && Status.decode(status).details.find((detail) => detail.typeUrl.endsWith('/google.rpc.RetryInfo'))
  if (!info) return 0
  const { seconds, nanos } = RetryInfo.decode(info.value).retryDelay
  return Number(seconds) * 1000 + nanos / 1e6
}

function isWorthARetry(error) {
  // "Too fast" says when to come again; "too large" does not.
  if (error.code === grpc.status.RESOURCE_EXHAUSTED) return retryAfterMs(error) > 0
  return !PERMANENT.includes(error.code)
}

const sender = new Sender(process.argv[2])
for await (const line of createInterface({ input: process.stdin })) {
  const { userId, event, properties = {} } = JSON.parse(line)
  await sender.send(userId, event, properties)
}
const { accepted, duplicate, rejected } = await sender.close()
console.log(`accepted ${accepted} duplicate ${duplicate} rejected ${rejected}`)

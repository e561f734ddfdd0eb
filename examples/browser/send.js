// Sends events from a page to eventkit, which may be on another origin, with gRPC-web. A call that fails is made again with the same
// message ids, and each event is still one row.
import { create, fromBinary } from '@bufbuild/protobuf'
import { DurationSchema, durationMs, timestampNow } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError, createClient } from '@connectrpc/connect'
import { createGrpcWebTransport } from '@connectrpc/connect-web'
import { EventSchema } from './gen/eventkit/v1/event_pb.js'
import { EventStatus, IngestService } from './gen/eventkit/v1/ingest_service_pb.js'

const BATCH_EVENTS = 100 // at most so many in one call
const LINGER_MS = 200 // so long a batch that is not full waits for more
const WAITING_EVENTS = 1_000 // at most so many wait; more are refused
const CALL_MS = 10_000 // a call's deadline
const GIVE_UP_MS = 120_000 // so long without an answer is a failure

// The request itself is wrong: it will be no better next time. Everything else is worth another try.
const PERMANENT = [Code.InvalidArgument, Code.Unauthenticated, Code.PermissionDenied, Code.Unimplemented]

/** Takes events; `send` resolves when the event is durable, and rejects when it will never be. */
export class Sender {
  #client
  #waiting = []
  #running = false

  /** `baseUrl`: eventkit's HTTP port, as in `http://localhost:8000`. */
  constructor(baseUrl) {
    this.#client = createClient(IngestService, createGrpcWebTransport({ baseUrl }))
  }

  send(userId, event, properties = {}) {
    if (this.#waiting.length >= WAITING_EVENTS) return Promise.reject(new Error('too many events wait'))
    const message = create(EventSchema, {
      // Made once, here: every retry carries it, and eventkit stores an id once.
      messageId: newId(),
      type: 'track',
      userId,
      event,
      timestamp: timestampNow(),
      propertiesJson: new TextEncoder().encode(JSON.stringify(properties)),
    })
    return new Promise((resolve, reject) => {
      this.#waiting.push({ message, resolve, reject })
      void this.#run()
    })
  }

  /** One batch after the other: their order is that of the calls to `send`. */
  async #run() {
    if (this.#running) return
    this.#running = true
    await sleep(LINGER_MS)
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, BATCH_EVENTS)
      try {
        const { results } = await this.#collect(batch.map(({ message }) => message))
        results.forEach(({ status, code, reason }, n) => {
          if (status === EventStatus.REJECTED) batch[n].reject(new Error(`${code}: ${reason}`))
          else batch[n].resolve() // Accepted, or a duplicate of what an earlier try stored.
        })
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    this.#running = false
  }

  async #collect(events) {
    const began = Date.now()
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#client.collect({ events, sentAt: timestampNow() }, { timeoutMs: CALL_MS })
      } catch (cause) {
        // A connection that broke arrives here, too, with the code UNKNOWN.
        const error = ConnectError.from(cause)
        if (!isWorthARetry(error) || Date.now() - began > GIVE_UP_MS) throw error
        await sleep(Math.max(retryAfterMs(error), 50 + Math.random() * 100 * 2 ** Math.min(tries, 7)))
      }
    }
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** A UUID. `crypto.randomUUID` is there on pages over https and on localhost alone. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`
}

/** How many milliseconds the server wants us to wait. */
function retryAfterMs(error) {
  const info = error.details.find((detail) => detail.type === 'google.rpc.RetryInfo')
  // A RetryInfo is one field, a Duration, behind two bytes of tag and length.
  return info ? durationMs(fromBinary(DurationSchema, info.value.subarray(2))) : 0
}

function isWorthARetry(error) {
  // "Too fast" says when to come again; "too large" does not.
  if (error.code === Code.ResourceExhausted) return retryAfterMs(error) > 0
  return !PERMANENT.includes(error.code)
}

"""Streams events to eventkit over one bidirectional call: numbered batches out, acknowledgements back. When the stream breaks, what was
not acknowledged is sent again, with the same message ids, and each event is still one row.

    python send.py localhost:50051 < events.ndjson

Each line is one event: {"userId": "ada", "event": "Order Placed", "properties": {"total": 12.5}}
"""

import collections
import json
import os
import random
import sys
import threading
import time
import uuid

import grpc
from google.rpc import error_details_pb2, status_pb2

from eventkit.v1 import event_pb2, ingest_service_pb2, ingest_service_pb2_grpc

BATCH_EVENTS = 100  # at most so many in one batch
LINGER_SECONDS = 0.02  # so long a batch that is not full waits for more
WAITING_EVENTS = 10_000  # at most so many not in a batch yet; send() waits then
STREAM_SECONDS = float(os.environ.get("STREAM_SECONDS", 300))  # a stream's deadline: the next one may lead to another server
GIVE_UP_SECONDS = 120  # so long without an acknowledgement is a failure

# The request itself is wrong: it will be no better next time. Everything else is worth another try.
PERMANENT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


class Sender:
    """Takes events from any thread. They are delivered when close() returns; a failure is raised by whoever calls next."""

    def __init__(self, host):
        # A server that is gone without a word is noticed after 30 s.
        options = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
        self.stub = ingest_service_pb2_grpc.IngestServiceStub(grpc.insecure_channel(host, options))
        self.counts = collections.Counter()
        self.changed = threading.Condition()  # guards everything below
        self.waiting = collections.deque()  # events that are in no batch yet
        self.unacknowledged = collections.deque()  # batches, the oldest first
        self.closed = False
        self.failure = None
        self.thread = threading.Thread(target=self._deliver, daemon=True)
        self.thread.start()

    def send(self, user_id, event, properties):
        message = event_pb2.Event(
            # Made once, here: every retry carries it, and eventkit stores an id once.
            message_id=str(uuid.uuid4()),
            type="track",
            user_id=user_id,
            event=event,
            properties_json=json.dumps(properties).encode(),
        )
        message.timestamp.GetCurrentTime()
        with self.changed:
            self.changed.wait_for(lambda: self.failure or len(self.waiting) < WAITING_EVENTS)
            if self.failure:
                raise self.failure
            self.waiting.append(message)
            self.changed.notify_all()

    def close(self):
        """Waits until everything is durable, and says what became of it."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.thread.join()
        if self.failure:
            raise self.failure
        return self.counts

    def _deliver(self):
        """One stream after the other, until everything is acknowledged."""
        tries, failing_since = 0, time.monotonic()
        while True:
            stream = Stream(self)
            try:
                stream.run()
                return
            except grpc.RpcError as error:
                if stream.acknowledged or not self.unacknowledged:
                    tries, failing_since = 0, time.monotonic()
                tries += 1
                if not is_worth_a_retry(error) or time.monotonic() - failing_since > GIVE_UP_SECONDS:
                    with self.changed:
                        self.failure = error
                        self.changed.notify_all()
                    return
                pause = max(retry_after(error), random.uniform(0.05, 0.1 * 2 ** min(tries, 7)))
                print(f"{error.code().name}: {error.details()}; {len(self.unacknowledged)} batches again in {pause:.1f} s", file=sys.stderr)
                time.sleep(pause)


class Stream:
    """One call. What is sent on it stays in `unacknowledged` until it is acknowledged."""

    def __init__(self, sender):
        self.sender = sender
        self.again = collections.deque(sender.unacknowledged)
        self.window = 0  # the server says how large it is
        self.sent = 0
        self.acknowledged = 0
        self.ended = False

    def run(self):
        try:
            for message in self.sender.stub.CollectBidi(self._batches(), timeout=STREAM_SECONDS):
                self._hear(message)
        finally:
            with self.sender.changed:
                self.ended = True
                self.sender.changed.notify_all()

    def _batches(self):
        """What the library sends; it runs in a thread of the library's."""
        sender = self.sender
        while True:
            with sender.changed:
                sender.changed.wait_for(lambda: self.ended or self._has_next() or self._is_done())
                if not self.again:
                    is_full = lambda: self.ended or sender.closed or len(sender.waiting) >= BATCH_EVENTS
                    sender.changed.wait_for(is_full, LINGER_SECONDS)
                if self.ended or not self._has_next():
                    return  # Ends our side; the server acknowledges the rest and ends its own.
                if self.again:
                    batch = self.again.popleft()
                else:
                    count = min(BATCH_EVENTS, len(sender.waiting))
                    batch = ingest_service_pb2.CollectBidiRequest(events=[sender.waiting.popleft() for _ in range(count)])
                    sender.unacknowledged.append(batch)
                    sender.changed.notify_all()
                self.sent += 1
                batch.batch_number = self.sent  # Each stream counts from 1.
                batch.sent_at.GetCurrentTime()
            yield batch

    def _has_next(self):
        has_room = self.sent - self.acknowledged < self.window
        return has_room and (self.again or self.sender.waiting)

    def _is_done(self):
        return self.sender.closed and not self.again and not self.sender.waiting

    def _hear(self, message):
        sender = self.sender
        with sender.changed:
            if message.HasField("hello"):
                self.window = message.hello.window_batches
            elif message.HasField("ack"):
                ack = message.ack
                # It, and every batch before it, is durable.
                while self.acknowledged < ack.batch_number:
                    sender.unacknowledged.popleft()
                    self.acknowledged += 1
                sender.counts.update(accepted=ack.accepted, duplicate=ack.duplicate, rejected=ack.rejected)
                for result in ack.results:
                    if result.status == ingest_service_pb2.EVENT_STATUS_REJECTED:
                        # It will not be better next time: tell whoever can mend it.
                        print(f"rejected {result.message_id}: {result.code}: {result.reason}", file=sys.stderr)
            sender.changed.notify_all()


def retry_after(error):
    """How many seconds the server wants us to wait."""
    # By hand: grpc_status.rpc_status.from_call raises where the library left the text of the status encoded.
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return 0


def is_worth_a_retry(error):
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        # "Too fast" says when to come again; "too large" does not.
        return retry_after(error) > 0
    return error.code() not in PERMANENT


def main():
    sender = Sender(sys.argv[1])
    for line in sys.stdin:
        fields = json.loads(line)
        sender.send(fields["userId"], fields["event"], fields.get("properties", {}))
    counts = sender.close()
    print(" ".join(f"{name} {counts[name]}" for name in ["accepted", "duplicate", "rejected"]))


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Sends one event. Its open-ended parts are google.protobuf.Struct: written as plain JSON here.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}

grpcurl -plaintext -d @ "$host" eventkit.v1.IngestService/Collect <<'JSON'
{
  "stream": "shop",
  "events": [
    {
      "message_id": "grpcurl-order-1",
      "type": "track",
      "user_id": "ada",
      "event": "Order Placed",
      "timestamp": "2026-11-23T10:00:00Z",
      "properties": { "total": 12.5, "currency": "EUR", "items": [{ "sku": "A-1", "count": 2 }] },
      "context": { "library": { "name": "grpcurl" } }
    }
  ]
}
JSON

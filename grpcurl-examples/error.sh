#!/usr/bin/env bash
# What goes wrong, and how it looks: a bad event beside a good one has an outcome of its own, while a call that
# fails as a whole has a status with details.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}

echo "# the second event gives its properties twice, as Struct and as JSON bytes:"
grpcurl -plaintext -d @ "$host" eventkit.v1.IngestService/Collect <<'JSON'
{
  "events": [
    { "message_id": "grpcurl-good", "type": "track", "user_id": "ada", "event": "Looked" },
    {
      "message_id": "grpcurl-bad", "type": "track", "user_id": "ada", "event": "Looked",
      "properties": { "a": 1 }, "properties_json": "eyJhIjoxfQ=="
    }
  ]
}
JSON

echo "# a stream name that is none:"
grpcurl -plaintext -d '{ "stream": "../shop" }' "$host" eventkit.v1.IngestService/Collect 2>&1 || echo "# grpcurl's exit code: $?"

#!/usr/bin/env bash
# Sends the same kind of event as client libraries do: the open-ended parts are JSON bytes, stored byte for byte.
# A field of type bytes is base64 in grpcurl.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}

base64_of() { printf '%s' "$1" | base64 | tr -d '\n'; }

grpcurl -plaintext -d @ "$host" eventkit.v1.IngestService/Collect <<JSON
{
  "events": [
    {
      "message_id": "grpcurl-json-1",
      "type": "identify",
      "user_id": "ada",
      "traits_json": "$(base64_of '{"plan":"pro","seats":3}')",
      "context_json": "$(base64_of '{"library":{"name":"grpcurl"}}')"
    }
  ]
}
JSON

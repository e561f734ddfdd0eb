#!/usr/bin/env bash
# Streams a file of batches, one JSON message per line, and hears one summary for all of them.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}
file=${1:-$(dirname "$0")/batches.ndjson}

# A client stream has no batch numbers.
sed 's/"batch_number": [0-9]*, //' "$file" |
  grpcurl -plaintext -d @ "$host" eventkit.v1.IngestService/CollectStream

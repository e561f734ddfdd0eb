#!/usr/bin/env bash
# Asks the server what it offers: services, the RPCs of one, the fields of a message, with their documentation.
set -euo pipefail
PATH="$(dirname "$0")/../.tools/bin:$PATH"
host=${EVENTKIT_HOST:-localhost:50051}

grpcurl -plaintext "$host" list
echo
grpcurl -plaintext "$host" describe eventkit.v1.IngestService
echo
grpcurl -plaintext "$host" describe eventkit.v1.Event

#!/usr/bin/env bash
# Makes the stubs that main.go uses: the package eventkitv1, beside it. Needs protoc, and the two plugins of Go's:
#
#     go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
#     go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
#
#     PROTO_DIR=../../proto ./generate.sh
set -euo pipefail
cd "$(dirname "$0")"
proto=${PROTO_DIR:-../../proto}
read -ra protoc <<< "${PROTOC:-protoc}"

module=$(go list -m)
options=(--go_out=. "--go_opt=module=$module" --go-grpc_out=. "--go-grpc_opt=module=$module")
files=(eventkit/v1/event.proto eventkit/v1/ingest_service.proto)
for file in "${files[@]}"; do
  # The files do not say in which package of Go's they belong; that is yours to choose.
  options+=("--go_opt=M$file=$module/eventkitv1" "--go-grpc_opt=M$file=$module/eventkitv1")
done
"${protoc[@]}" -I "$proto" "${options[@]}" "${files[@]}"

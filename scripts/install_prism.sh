#!/usr/bin/env bash
# Builds Prism, Beam's portable runner in Go, into build/bin; does nothing if this version is there already.
# The machine's settings for Go (GOPROXY, GOSUMDB) apply.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Prism runs pipelines of other SDK versions. Earlier releases are not in Go's checksum database.
version=v2.73.0

bin=$PWD/build/bin
if [[ -x $bin/prism && -f $bin/prism.version && $(<"$bin/prism.version") == "$version" ]]; then
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "prism: Go is missing, and Prism is built with it: install Go 1.21 or newer (https://go.dev/doc/install), which fetches the version that Prism asks for." >&2
  exit 2
fi
echo "prism: building $version (a minute or more, the first time)"
mkdir -p "$bin"
rm -f "$bin/prism.version"
if ! GOBIN=$bin go install "github.com/apache/beam/sdks/v2/go/cmd/prism@$version"; then
  echo "prism: Go could not build it: check this machine's access to its module proxy (go env GOPROXY), and the Go version that the message names." >&2
  exit 2
fi
echo "$version" >"$bin/prism.version"
echo "prism: build/bin/prism is ready"

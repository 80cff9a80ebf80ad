#!/usr/bin/env bash
# Resolves the ranges of setup.py into constraints.txt: versions and the hashes of every file of each, nothing of the
# machine that resolved them. Versions already there are kept where they still fit; pass --upgrade for newer ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
resolved=$(mktemp)
trap 'rm -f "$resolved"' EXIT
[[ ! -f constraints.txt ]] || cp constraints.txt "$resolved"
.venv/bin/uv pip compile setup.py --all-extras --generate-hashes --python .venv/bin/python --quiet \
  --no-header --no-annotate --output-file "$resolved" "$@"
{
  echo "# The one tested set of versions (x86-64 Linux, Python 3.10). Made by \`make constraints\`; the ranges are in setup.py."
  grep -v '^#' "$resolved"
} >constraints.txt

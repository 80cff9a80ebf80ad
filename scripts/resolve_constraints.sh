#!/usr/bin/env bash
# Resolves the version ranges of setup.py into constraints.txt, with hashes of all files and without traces of this
# machine. Versions in constraints.txt that still fit are kept; pass --upgrade for newer ones.
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

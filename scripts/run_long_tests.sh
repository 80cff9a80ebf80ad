#!/usr/bin/env bash
# Runs the tests marked `long`, a file at a time, and goes on where an earlier call on the same sources stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Stamps belong to the sources as they lie here, committed or not.
sources=$({ git rev-parse HEAD; git diff HEAD; git ls-files --others --exclude-standard -z | xargs -0 -r cat; } | git hash-object --stdin)
stamps=build/long-tests/$sources
mkdir -p "$stamps"
mapfile -t files < <(git ls-files 'tests/**/test_*.py' | xargs grep -lE 'mark\.long\b' | sort)
failed=0
for place in "${!files[@]}"; do
  file=${files[$place]}
  stamp=$stamps/${file//\//-}.passed
  if [[ -f $stamp ]]; then
    echo "[$((place + 1))/${#files[@]}] $file passed before on these sources"
    continue
  fi
  echo "[$((place + 1))/${#files[@]}] $file"
  if .venv/bin/python -m pytest -q -m long "$file"; then touch "$stamp"; else failed=$((failed + 1)); fi
done
if ((failed)); then
  echo "$failed of ${#files[@]} files failed; \`make test-long\` runs them again." >&2
  exit 1
fi

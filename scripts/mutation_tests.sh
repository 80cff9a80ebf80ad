#!/usr/bin/env bash
# Edits the rooms that decide, one place at a time, and runs their tests: a test must notice each edit. Hours long;
# it continues where it was stopped. Places and tests are in [tool.mutmut] of pyproject.toml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=build/mutation
least=95

if [[ ! -x $work/venv/bin/mutmut ]]; then
  echo "mutation: installing mutmut"
  .venv/bin/python -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet mutmut==3.8.1 toml==0.10.2
  packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  .venv/bin/python -c "$packages" >"$("$work/venv/bin/python" -c "$packages")/project.pth"
fi

# The tool edits a copy. It knows modules by their paths, so links become folders.
mkdir -p "$work/copy"
rm -rf "$work/copy/two_tower" "$work/copy/tests"
cp -rLp two_tower tests "$work/copy/"
cp -p pyproject.toml "$work/copy/"
cd "$work/copy"
# Tests may be new, and reach other places than before.
rm -f mutants/mutmut-stats.json
# A killed run leaves an empty file, which the tool would take for a finished one.
if [[ -d mutants ]]; then find mutants -name '*.py' -size 0 ! -name __init__.py -delete; fi
# Survivors are tried again, as tests may be new; and so is what took too long, as the machine may have been busy.
../venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

for path in Path("mutants").rglob("*.meta"):
    content = json.loads(path.read_text())
    results = content["exit_code_by_key"]
    results.update({name: None for name, code in results.items() if code != 1})
    path.write_text(json.dumps(content))
PYTHON
TF_USE_LEGACY_KERAS=1 ../venv/bin/mutmut run "$@"
../venv/bin/mutmut results >survivors.txt || true
../venv/bin/mutmut export-cicd-stats >/dev/null
../venv/bin/python - "$least" <<'PYTHON'
import json, sys
from pathlib import Path

stats = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text())
killed, survived = stats["killed"] + stats["timeout"], stats["survived"] + stats["no_tests"] + stats["suspicious"]
score = 100 * killed / max(killed + survived, 1)
print(f"mutation: {killed:,} of {killed + survived:,} edits are noticed, {score:.1f}%. The others: build/mutation/copy/survivors.txt")
sys.exit(score < float(sys.argv[1]))
PYTHON

#!/usr/bin/env bash
# Builds .venv from constraints.txt, with hashes; does nothing if .venv is up to date.
# The machine's settings for pip and uv (registry, find-links, certificates) apply.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() {
  echo "setup: $*" >&2
  exit 2
}

# The stamp contains the path, because a moved virtual environment does not work.
stamp=.venv/.built-from
built_from=$({ pwd; cat constraints.txt setup.py; } | git hash-object --stdin) ||
  stop "git is missing or fails: install git."
if [[ -x .venv/bin/two-tower && -f $stamp && $(<"$stamp") == "$built_from" ]]; then
  exit 0
fi

command -v make >/dev/null || stop "make is missing: install make."
compiler=
for candidate in ${CXX:-} c++ g++ clang++; do
  if command -v "$candidate" >/dev/null; then compiler=$candidate && break; fi
done
[[ -n $compiler ]] ||
  stop "a C++ compiler is missing, and two dependencies of TFX build from source: install g++ (Debian, Ubuntu: build-essential)."

# A pyenv shim is on PATH even without the version behind it, so each candidate is executed.
is_python_3_10() { [[ -x $1 ]] && "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null; }
has_headers() {
  "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
can_make_environments() { [[ -n $uv ]] || "$1" -c 'import ensurepip, venv' 2>/dev/null; }

uv=$(command -v uv || true)
if [[ -n $uv ]] && ! "$uv" --version >/dev/null 2>&1; then uv=; fi
python=
complaint="no Python 3.10 was found"
while IFS= read -r candidate; do
  is_python_3_10 "$candidate" || continue
  if ! has_headers "$candidate"; then
    complaint="$candidate has no headers (Python.h)"
  elif ! can_make_environments "$candidate"; then
    complaint="$candidate lacks the venv module"
  else
    python=$candidate && break
  fi
done < <(
  type -ap python3.10 python3 python || true
  printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python3.10 | sort -rV
)
if [[ -z $python && -z $uv ]]; then
  stop "$complaint: install uv (https://docs.astral.sh/uv), which provides one, or Python 3.10 with its headers and venv module (Debian, Ubuntu: python3.10-dev python3.10-venv)."
fi

if ! { is_python_3_10 .venv/bin/python && has_headers .venv/bin/python; }; then
  echo "setup: making .venv with ${python:-a Python 3.10 from uv}"
  rm -rf .venv
  if [[ -n $uv ]]; then
    # Without a suitable Python on the machine, only uv's own is used.
    wanted=(--python "$python")
    [[ -n $python ]] || wanted=(--python 3.10 --python-preference only-managed)
    "$uv" venv --quiet "${wanted[@]}" .venv ||
      stop "uv could not provide a Python 3.10: install one with its headers (Debian, Ubuntu: python3.10-dev)."
  else
    "$python" -m venv .venv
  fi
  has_headers .venv/bin/python ||
    stop "the Python 3.10 that uv provided has no headers (Python.h): install one that does (Debian, Ubuntu: python3.10-dev)."
fi
rm -f "$stamp"

# uv does not read pip's settings, so settings that uv lacks are passed on. As in pip, environment variables
# precede configuration files.
pip_settings=
for candidate in .venv/bin/python "${python:-python3}"; do
  if pip_settings=$("$candidate" -m pip config list 2>/dev/null); then break; fi
done
hand_over() { # hand_over PIP_SETTING UV_VARIABLE
  local variable=PIP_${1//-/_} section value
  [[ -z ${!2:-} ]] || return 0
  variable=${variable^^}
  value=${!variable:-}
  for section in install global; do
    [[ -n $value ]] || value=$(sed -n "s/^$section\.$1='\(.*\)'$/\1/p" <<<"$pip_settings")
  done
  value=${value//\\n/ }
  [[ -z $value ]] || export "$2=${value# }"
}
if [[ -z ${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-}${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-} ]]; then
  for kind in index:UV_DEFAULT_INDEX extra-index:UV_EXTRA_INDEX_URL; do
    hand_over "${kind%%:*}-url" "${kind##*:}"
  done
  hand_over no-index UV_NO_INDEX
  # pip treats all indexes alike; the hashes protect against a wrong package.
  export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
fi
hand_over find-links UV_FIND_LINKS
UV_FIND_LINKS=${UV_FIND_LINKS:-}
export UV_FIND_LINKS=${UV_FIND_LINKS// /,}
[[ -n $UV_FIND_LINKS ]] || unset UV_FIND_LINKS
hand_over trusted-host UV_INSECURE_HOST
hand_over cert SSL_CERT_FILE
hand_over default-timeout UV_HTTP_TIMEOUT
hand_over timeout UV_HTTP_TIMEOUT

if [[ -z $uv ]]; then
  uv=.venv/bin/uv
  pinned=$(mktemp)
  trap 'rm -f "$pinned"' EXIT
  awk '/^uv==/ { found = 1 } found { print } found && !/\\$/ { exit }' constraints.txt >"$pinned"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$pinned" ||
    stop "pip could not install uv: check this machine's access to its package registry."
fi

echo "setup: installing the packages of constraints.txt (3 GB; a minute or more, the first time)"
# Source builds use the setuptools of the same set.
"$uv" pip install --quiet --python .venv/bin/python --require-hashes \
  --build-constraints constraints.txt -r constraints.txt
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$built_from" >"$stamp"
echo "setup: .venv is ready"

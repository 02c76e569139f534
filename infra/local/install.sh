#!/usr/bin/env bash
# install.sh FILE [ENVIRONMENT]: installs a file of pinned requirements into an environment below the checkout, once;
# into .venv if no other is named.
set -euo pipefail
cd "$(dirname "$0")/../.."
requirements=$1
venv=${2:-.venv}
mark=$venv/.installed-$(basename "$requirements")

cmp -s "$requirements" "$mark" && exit 0
if ! [ -x "$venv"/bin/pip ]; then
    rm -rf "$venv"
    # Some distributions keep venv in a package of its own; virtualenv does the same from a wheel.
    python3 -m venv "$venv" 2>/dev/null || {
        rm -rf "$venv"
        bootstrap=$(mktemp -d)
        trap 'rm -rf "$bootstrap"' EXIT
        python3 -m pip install --quiet --target "$bootstrap" virtualenv
        PYTHONPATH=$bootstrap python3 -m virtualenv --quiet "$venv"
    }
fi
echo "installing $requirements into $venv (the first time: about a minute)"
"$venv"/bin/pip install --quiet --disable-pip-version-check --requirement "$requirements"
cp "$requirements" "$mark"

#!/usr/bin/env bash
# Installs this checkout's mambaport into a virtual environment: setup.sh FOLDER
#
# The packages have the versions and digests of .github/packages.txt, which `make packages` renews. mambaport's own
# installation is editable: so the statements of wheels name the checkout's commit.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)

python3 -m venv "$1"
pip=("$1/bin/python" -m pip)
"${pip[@]}" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement "$checkout/.github/packages.txt"
"${pip[@]}" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable "$checkout"
"${pip[@]}" check

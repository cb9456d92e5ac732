#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that are missing: packages.sh PACKAGE...
set -euo pipefail

root=(); [[ $(id -u) == 0 ]] || root=(sudo)
missing=()
for package in "$@"; do
  dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep --quiet 'ok installed' || missing+=("$package")
done
((${#missing[@]})) || exit 0
"${root[@]}" apt-get update --quiet --quiet
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"

#!/usr/bin/env bash
# Install the servers that tests/servers.py starts: packages by name, nothing is left running.
#   tests/install-servers.sh      needs root for apt (Debian, Ubuntu); npm installs into .tools/ of the checkout
# What is there already is left alone, so that a second run costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(radosgw ceph-mon ceph-osd ceph-common nginx libnginx-mod-http-dav-ext libnginx-mod-http-lua nodejs npm)
missing=()
for package in "${packages[@]}"; do
  # A node that came another way than by apt is as good.
  case $package in nodejs) command -v node >/dev/null && continue ;; npm) command -v npm >/dev/null && continue ;; esac
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  # No package may start its service: the tests start their own servers, on ports of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if [ ! -x .tools/node_modules/.bin/azurite-blob ]; then
  npm install --silent --no-audit --no-fund --prefix .tools azurite@3
fi

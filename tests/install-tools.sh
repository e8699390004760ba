#!/usr/bin/env bash
# The ordinary tools that the tests use on mounts, by their Debian names.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/bootstrap.sh rsync tar git sqlite3 vim-tiny unzip zip gdal-bin attr procps iproute2

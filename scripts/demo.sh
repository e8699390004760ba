#!/usr/bin/env bash
# Mount the sample store, look at it with ordinary tools, write to it, unmount it, look again.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

scratch=$(mktemp -d)
store=$scratch/era-interim.zarr.zip
mnt=$scratch/mnt
mkdir "$mnt"
cleanup() {
  mountpoint -q "$mnt" && { zarrmount umount "$mnt" || fusermount3 -u -z "$mnt"; }
  rm -rf "$scratch"
}
trap cleanup EXIT
cp examples/era-interim.zarr.zip "$store"

show() { # print a command as a person would type it, then run it
  printf '\n\033[1m$ %s\033[0m\n' "${*//$scratch\//}"
  "$@"
}

show zarrmount info --tree "$store"
show zarrmount mount "$store" "$mnt"
show ls -l "$mnt" "$mnt/z" "$mnt/z/c/0/0/0"
show python -W ignore -c "
import sys, xarray
data = xarray.open_zarr(sys.argv[1])
print(data.z.sel(month=1, level=500).sel(latitude=[60, 0, -60], longitude=0, method='nearest').compute())" "$mnt"
show python -W ignore -c "
import sys, numpy, xarray
data = xarray.open_zarr(sys.argv[1])
data['speed'] = numpy.hypot(data.u, data.v).astype('f4').assign_attrs(units='m s-1')
data[['speed']].to_zarr(sys.argv[1], mode='a')
print('mean wind speed at 500 hPa: %.1f m/s' % data.speed.mean())" "$mnt"
show ls -l "$mnt/speed/c/0/0/0"
show cp "$mnt/speed/zarr.json" "$mnt/notes.json"
show rm "$mnt/notes.json"
show zarrmount umount "$mnt"
show zarrmount info "$store" speed
show unzip -tq "$store"
echo
echo "The demo is done: the store was mounted, read, written and unmounted."

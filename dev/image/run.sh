#!/bin/sh
# Runs `hotwallet ARGUMENTS` in the tree of an image, as compose.yaml runs a container: as
# the image's user, without privileges, on a read-only root.  It shares the network of
# the host.
#
#   sh dev/image/run.sh TREE HOME ARGUMENTS...
#
# HOME, a folder below /tmp, is writable and has the same path inside.
set -eu
exec unshare --mount --propagation private sh -euc '
  tree=$1 home=$2
  shift 2
  mount --bind "$tree" "$tree"
  mount -o remount,bind,ro,nosuid "$tree"
  mount -t proc proc "$tree/proc"
  mount -t tmpfs tmpfs "$tree/dev"
  for device in null zero random urandom; do
    touch "$tree/dev/$device"
    mount --bind "/dev/$device" "$tree/dev/$device"
  done
  mkdir -m 1777 "$tree/dev/shm"
  mount -t tmpfs tmpfs "$tree/tmp"
  mount -t tmpfs tmpfs "$tree/var/lib/hotwallet"
  mkdir -p "$tree$home"
  mount --bind "$home" "$tree$home"
  chown -R 10001:10001 "$home" "$tree/var/lib/hotwallet"
  exec chroot "$tree" env PATH=/opt/hotwallet/bin:/usr/bin:/bin \
    setpriv --reuid 10001 --regid 10001 --clear-groups \
    --no-new-privs --bounding-set=-all --inh-caps=-all hotwallet "$@"
' sh "$@"

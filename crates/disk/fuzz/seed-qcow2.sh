#!/bin/sh
# Makes the seeds in corpus/qcow2 anew: small images of every kind that the reader knows, as QEMU writes them.
set -eu
cd "$(dirname "$0")/corpus/qcow2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ seq 2000; head -c 20000 /dev/zero; echo end; } >"$work/disk.raw"
truncate -s 40448 "$work/disk.raw"

make() { # NAME OPTIONS [-c]
    qemu-img convert ${3:-} -f raw -O qcow2 -o "$2" "$work/disk.raw" "$1.qcow2"
}
make v2 compat=0.10,cluster_size=512
make v3 cluster_size=512
make v3-4k cluster_size=4k
make zlib cluster_size=4k -c
make zstd cluster_size=4k,compression_type=zstd -c
make metadata cluster_size=4k,preallocation=metadata
qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on extended.qcow2 64k
qemu-io -f qcow2 -c 'write -P 7 0 512' -c 'write -z 1k 1k' -c 'write -P 8 3k 1k' extended.qcow2 >/dev/null
make snapshots cluster_size=512
qemu-img snapshot -c one snapshots.qcow2
qemu-io -f qcow2 -c 'write -P 7 1k 3k' -c 'write -z 4k 4k' snapshots.qcow2 >/dev/null
qemu-img snapshot -c two snapshots.qcow2
qemu-img create -q -u -f qcow2 -o cluster_size=512 -b base.raw -F raw backing.qcow2 1M
qemu-img create -q -f qcow2 -o cluster_size=512 empty.qcow2 0
find . -name '*.qcow2' -size +99k -delete

#!/bin/sh
# Publishes this machine's public SSH host keys through guestinfo, where gpuvm reads them over the
# authenticated vCenter API before it connects for the first time.
#
#     gpuvm-publish-host-keys [FOLDER]        FOLDER is /etc/ssh if left out
#
# Only public keys: guestinfo can be read by every process in the guest and ends up in vCenter.
set -eu

folder=${1:-/etc/ssh}

keys=$(
    for file in "$folder"/ssh_host_*_key.pub; do
        # Type and key; the third field is a comment with a host name that may be the template's.
        if [ -f "$file" ]; then awk 'NF >= 2 { print $1, $2; exit }' "$file"; fi
    done
)
if [ -z "$keys" ]; then
    echo "gpuvm-publish-host-keys: there is no public host key in $folder" >&2
    exit 1
fi

encoded=$(printf '%s' "$keys" | base64 | tr -d '\n')
exec vmware-rpctool "info-set guestinfo.gpuvm.ssh_host_keys $encoded"

#!/bin/sh
# Removes what a clone must not inherit from its VM template, then powers the machine off.
#
#     gpuvm-seal             this machine
#     gpuvm-seal ROOT        a file system mounted at ROOT; nothing is powered off
set -eu

root=${1:-}

# cloud-init must take a clone for a new machine.
if [ -d "$root/var/lib/cloud" ]; then
    find "$root/var/lib/cloud" -mindepth 1 -maxdepth 1 ! -name seed -exec rm -rf {} +
fi
rm -f "$root"/var/log/cloud-init.log "$root"/var/log/cloud-init-output.log

# Two machines with one machine-id get one DHCP lease. The file has to stay, empty.
: >"$root/etc/machine-id"
if [ ! -L "$root/var/lib/dbus/machine-id" ]; then rm -f "$root/var/lib/dbus/machine-id"; fi

# Clones make host keys of their own.
rm -f "$root"/etc/ssh/ssh_host_*

# The network configuration of this machine: cloud-init configures that of the clone.
rm -f "$root"/etc/udev/rules.d/70-persistent-net.rules
rm -f "$root"/etc/NetworkManager/system-connections/*.nmconnection
rm -f "$root"/var/lib/NetworkManager/*.lease "$root"/var/lib/NetworkManager/secret_key
rm -f "$root"/var/lib/dhclient/*
for file in "$root"/etc/sysconfig/network-scripts/ifcfg-*; do
    case $file in
        */ifcfg-lo) ;;
        *) rm -f "$file" ;;
    esac
done

rm -f "$root"/var/lib/systemd/random-seed

if [ -z "$root" ]; then
    vmware-rpctool 'info-set guestinfo.gpuvm.ssh_host_keys ' || true
    sync
    systemctl poweroff
fi

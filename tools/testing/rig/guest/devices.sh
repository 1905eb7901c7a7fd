# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2034
#
# For suites in the guest: a disk, a network card and their drivers, behind VT-d.

# The PCI address below a class device, and the driver that is bound to one.
pci_of() { basename "$(readlink -f "$1/device" | sed 's,/\(virtio\|nvme\)[^/]*.*$,,')"; }
driver_of() { basename "$(readlink -f "/sys/bus/pci/devices/$1/driver")"; }
# scalable: whether VT-d is in scalable mode (SMTS).
scalable() { [ $((0x$(cat /sys/class/iommu/dmar0/intel-iommu/ecap) >> 43 & 1)) = 1 ]; }
# disk NODE: writes random data, reads it back past the cache, compares.
disk()
{
	dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
	dd if=/tmp/data of="$1" bs=64k conv=fsync 2>/dev/null || return 1
	echo 3 >/proc/sys/vm/drop_caches
	dd if="$1" of=/tmp/back bs=64k count=64 2>/dev/null || return 1
	cmp /tmp/data /tmp/back
}
net()
{
	ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || return 1
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ] && break
		sleep 1
	done
	rm -f /tmp/got
	tftp -g -r data -l /tmp/got 10.0.2.2 || return 1
	[ "$(sha256sum </tmp/got)" = "$(sed -n 's/.*vtd.sum=\([0-9a-f]*\).*/\1  -/p' /proc/cmdline)" ]
}
rebind()
{
	driver=$(driver_of "$1")
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		echo "$1" >"/sys/bus/pci/drivers/$driver/unbind" || return 1
		echo "$1" >"/sys/bus/pci/drivers/$driver/bind" || return 1
	done
}
wait_for() { for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1" ] && return 0; sleep 1; done; return 1; }
# How many results there were, and what a suite returns.
N=0
BAD=0
# report STATUS TEXT: a line of TAP.
report()
{
	N=$((N + 1))
	if [ "$1" = 0 ]; then echo "ok $N $2"; else echo "not ok $N $2"; BAD=1; fi
}
# The PCI addresses of the three.
find_devices()
{
	VIRTIO=$(pci_of /sys/class/block/vda)
	NVME=$(pci_of /sys/class/nvme/nvme0)
	NET=$(pci_of /sys/class/net/eth0)
}
# The drivers of the three: six results.
drivers_come_and_go()
{
	rebind "$VIRTIO"; report $? 'virtio-blk: unbound and bound 20 times'
	wait_for /dev/vda && disk /dev/vda; report $? 'virtio-blk: data again'
	rebind "$NVME"; report $? 'nvme: unbound and bound 20 times'
	wait_for /dev/nvme0n1 && disk /dev/nvme0n1; report $? 'nvme: data again'
	rebind "$NET"; report $? 'e1000e: unbound and bound 20 times'
	net; report $? 'e1000e: data again'
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# For suites in the guest: which devices the nested kselftest takes from their drivers, and
# that it gives them back. Needs devices.sh.

TEST=/tests/iommufd_vtd_nested
SYS=/sys/bus/pci/devices

# by_class CLASS NUMBER, by_id DEVICE: the address of one.
by_class() { grep -lx "0x$1" $SYS/*/class | sed -n "$2s,.*/\([^/]*\)/class,\1,p"; }
by_id() { grep -lx "0x$1" $SYS/*/device | sed -n '1s,.*/\([^/]*\)/device,\1,p'; }

# given_back DEVICE: nvme has it, as a disk that can be used, and nobody else may.
given_back()
{
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ "$(driver_of "$1")" = nvme ] && [ "$(cat "$SYS/$1/driver_override")" = '(null)' ] &&
			dd if="$(disk_of "$1")" of=/dev/null bs=64k count=4 2>/dev/null && return 0
		sleep 1
	done
	return 1
}
disk_of() { echo "/dev/$(basename "$(echo $SYS/"$1"/nvme/nvme*)")n1"; }

# refused DEVICE PATTERN TEXT [WORDS...]: it says so, and nothing has changed.
refused()
{
	device=$1 pattern=$2 text=$3
	shift 3
	VTD_DEVICE=$device env -u VTD_YES $TEST -t both_stages "$@" >/tmp/out 2>&1 </dev/null
	[ $? = 4 ] && grep -q "SKIP.*$pattern" /tmp/out && [ "$(driver_of "$device")" = nvme ] &&
		[ "$(cat "$SYS/$device/driver_override")" = '(null)' ]
	status=$?
	[ $status = 0 ] || sed 's/^/# /' /tmp/out
	report $status "refused: $text"
}

# as_if FILE TEXT COMMAND...: while the file reads so.
as_if()
{
	file=$1
	echo "$2" >/tmp/as_if
	shift 2
	mount -o bind /tmp/as_if "$file"
	"$@"
	umount "$file"
}

# child_of PID: of the processes that it has begun.
child_of() { grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3; }
# none_left: no process of the tests.
none_left()
{
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		grep -qs '^iommufd_vtd' /proc/[0-9]*/comm || return 0
		usleep 100000
	done
	return 1
}

# broken_off SIGNAL [WHOM]: the tests end in the middle of it.
broken_off()
{
	VTD_DEVICE=$DISK $TEST -t killed -t replace_while_dma_runs >/tmp/out 2>&1 &
	pid=$!
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		grep -q '^#  RUN' /tmp/out && [ "$(driver_of "$DISK")" = vfio-pci ] && break
		usleep 200000
	done
	usleep 500000
	if [ "${2:-}" = tests ]; then kill "-$1" "$(child_of $pid)"; else kill "-$1" $pid; fi
	# It ends by itself, or it is ended and can give nothing back.
	{ sleep 30; kill -9 $pid; } 2>/dev/null &
	guard=$!
	wait $pid
	status=$?
	kill $guard
	[ $status = 137 ] && given_back "$DISK" && none_left
	report $? "given back after SIG$1 to the ${2:-program}"
}

take_tests()
{
	DISK=$(by_class 010802 1)
	SHARED=$(by_class 010802 2)
	ECAP=$SYS/$DISK/iommu/intel-iommu/ecap

	refused "$DISK" 'say --yes' 'nobody has agreed'
	refused "$SHARED" 'shares IOMMU group' 'another device of the group has a driver' --yes
	hold "$(disk_of "$DISK")" >/tmp/held &
	pid=$!
	while ! [ -s /tmp/held ]; do usleep 100000; done
	refused "$DISK" 'is in use' 'a disk that somebody has' --yes
	kill $pid
	wait $pid 2>/dev/null
	as_if "$ECAP" 0 refused "$DISK" 'is no VT-d' 'an IOMMU that says nothing of VT-d' --yes
	as_if "$ECAP" 4000000 refused "$DISK" 'no scalable mode' 'a unit without scalable mode' --yes
	as_if "$ECAP" 80000000000 refused "$DISK" 'does not nest' 'a unit that does not nest' --yes
	as_if /proc/cmdline intel_iommu=on,sm_off refused "$DISK" 'legacy mode' 'legacy mode' --yes

	VTD_DEVICE=$DISK $TEST -t both_stages >/tmp/out 2>&1 &&
		grep -q "takes $DISK .*from nvme" /tmp/out &&
		grep -q '^ok 1 nested.both_stages$' /tmp/out && given_back "$DISK"
	report $? 'said what is done, done, and given back'
	broken_off INT
	broken_off TERM
	broken_off KILL tests
	$TEST --list >/tmp/out 2>&1
	grep -q "^$DISK .*driver nvme  NVMe: free" /tmp/out && grep -q "^$SHARED .*shares IOMMU" /tmp/out
	report $? 'listed: what is free, and why others are not'
	echo "1..$N"
	return "$BAD"
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2046,SC2086 # words of command lines
#
# For suites in the guest: QEMU, unmodified, as the client of /dev/iommu, with a guest of
# its own that has one of our devices and does DMA with it (client/guest.c). All that is
# waited for has an end.

# Seconds that a guest may take for what is waited for; longer where all is checked.
LIMIT=60
[ ! -e /sys/kernel/debug/kmemleak ] || LIMIT=240
SIZE=512M
MEMORY=memory-backend-memfd,share=on
SWALLOW=
# Then the guest's kernel need not measure it, which goes wrong on a busy machine.
TSC=$(dmesg | sed -n 's/.*tsc: Detected \([0-9]*\)\.\([0-9]*\) MHz.*/tsc_early_khz=\1\2/p' | head -n 1)
N=0
BAD=0

# report STATUS TEXT: a line of TAP.
report()
{
	N=$((N + 1))
	if [ "$1" = 0 ]; then echo "ok $N $2"; else echo "not ok $N $2"; BAD=1; fi
}

# launch NAME WHAT 'KERNEL WORDS' QEMU-WORDS...
launch()
{
	vm=/tmp/vm/$1 words="$3 do=$2"
	shift 3
	mkdir -p "$vm"
	: >"$vm/said"
	mkfifo "$vm/monitor"
	IOCALLS_LOG=$vm/calls IOCALLS_SWALLOW=$SWALLOW LD_PRELOAD=/client/iocalls.so \
		qemu-system-x86_64 -accel kvm -cpu host -nodefaults -no-user-config -display none \
		-machine q35,kernel-irqchip=split,memory-backend=m0 -m "$SIZE" \
		-object "$MEMORY,id=m0,size=$SIZE" \
		-serial "file:$vm/console" -serial "file:$vm/said" -monitor stdio \
		-kernel /client/kernel -initrd /client/initrd \
		-append "console=ttyS0 quiet panic=-1 nokaslr no_timer_check kunit.enable=0 $TSC $words" \
		"$@" <>"$vm/monitor" >"$vm/log" 2>&1 &
	echo $! >"$vm/pid"
}

# start NAME WHAT 'KERNEL WORDS' QEMU-WORDS...: begins a guest, which is to do WHAT. One
# that says nothing, as happens now and then where all is emulated, is begun once more.
start()
{
	launch "$@"
	says "$1" BEGIN 1 && return
	alive "$1" || return
	echo "# $1: the guest says nothing, once more"
	tell "$1" 'info registers'
	usleep 500000
	sed "s/^/# $1 log: /" "/tmp/vm/$1/log"
	end "$1"
	rm -r "/tmp/vm/$1"
	launch "$@"
	says "$1" BEGIN 1
}

end()
{
	kill -9 "$(cat "/tmp/vm/$1/pid")"
	wait "$(cat "/tmp/vm/$1/pid")"
}

# Who has ended is there until it is waited for.
alive()
{
	case $(cut -d' ' -f3 "/proc/$(cat "/tmp/vm/$1/pid")/stat" 2>/dev/null) in
	'' | Z) return 1 ;;
	esac
}
# Read and write, so that nobody waits for one that has ended.
tell() { echo "$2" 1<>"/tmp/vm/$1/monitor"; }
count() { grep -c "^$2" "/tmp/vm/$1/$3"; }

now() { cut -d. -f1 /proc/uptime; }
# Waits: for COUNT lines with WORD of the guest, for as many in QEMU's FILE, for QEMU's end.
until_there()
{
	deadline=$(($(now) + LIMIT))
	while [ "$(count "$1" "$2" "$4")" -lt "$3" ]; do
		[ "$(now)" -lt $deadline ] && alive "$1" || return 1
		usleep 200000
	done
}
says() { until_there "$1" "$2" "$3" said; }
more() { says "$1" RUNS $(($(count "$1" RUNS said) + 2)); }
ends()
{
	deadline=$(($(now) + LIMIT))
	while alive "$1"; do
		[ "$(now)" -lt $deadline ] || return 1
		usleep 200000
	done
	wait "$(cat "/tmp/vm/$1/pid")"
}

# quits NAME: QEMU is told to end, and does.
quits()
{
	tell "$1" quit
	ends "$1"
	check $? "$1" 'QEMU ended well'
}

# over NAME [all]: what a guest that is to be gone by now has left. Its calls are kept for
# qemu_compare: all, in their order, of one that ended by itself. What it said is shown
# where something went wrong.
over()
{
	vm=/tmp/vm/$1
	if alive "$1"; then
		tell "$1" 'info registers'
		usleep 500000
		kill -9 "$(cat "$vm/pid")"
	fi
	wait "$(cat "$vm/pid")" 2>/dev/null
	left=$(client-left nothing "$PINNED")
	check $? "$1" "nothing stays pinned or charged${left:+ ($left)}"
	# Not each of what a guest under load invalidates.
	awk -v name="${2:-some} $1" '!/^HWPT_INVALIDATE .* = 0$/ || n++ < 200 { print "RIG-CALL", name, $0 }' "$vm/calls"
	if [ "$BAD_HERE" = 1 ]; then
		for file in said console log; do
			grep -v '^RUNS' "$vm/$file" | tail -n 40 | sed "s/^/# $1 $file: /"
		done
		tail -n 5 "$vm/calls" | sed "s/^/# $1 calls: /"
	fi
	rm -rf "$vm"
}

# check STATUS NAME TEXT: a result, which decides what over() shows.
check()
{
	[ "$1" = 0 ] || BAD_HERE=1
	report "$1" "$2: $3"
}

# ready: nobody else has guests.
ready()
{
	BAD_HERE=0
	PINNED=$(client-left pinned)
	echo "# $(cut -d' ' -f1 /proc/uptime) s"
}

# fine NAME: the guest has nothing to complain of, and has said something.
fine() { [ "$(count "$1" good said)" -gt 0 ] && [ "$(count "$1" BAD said)" = 0 ]; }

# whole NAME WHAT 'KERNEL WORDS' QEMU-WORDS...: a guest that does something and ends.
whole()
{
	ready
	start "$@"
	says "$1" END 1
	fine "$1"
	check $? "$1" "$(grep -m1 BAD "/tmp/vm/$1/said" || tail -n 2 "/tmp/vm/$1/said" | head -n 1)"
	ends "$1"
	check $? "$1" 'QEMU ended well'
	# Two devices at once have no order.
	case $2 in both) over "$1" ;; *) over "$1" all ;; esac
}

# shows NAME WHAT 'KERNEL WORDS' COMPLAINT CALLS QEMU-WORDS...: the guest must notice when
# such calls never reach the kernel.
shows()
{
	name=$1 what=$2 words=$3 complaint=$4 SWALLOW=$5
	shift 5
	ready
	start "$name" "$what" "$words" "$@"
	says "$name" "BAD $complaint" 1
	check $? "$name" "that no ${SWALLOW%% *} arrives shows: $(grep -m1 BAD "/tmp/vm/$name/said")"
	SWALLOW=
	tell "$name" quit
	ends "$name"
	over "$name"
}

# entry ADDRESS: the words 2, 1 and 0 of the PASID entry for requests without a PASID.
entry()
{
	sed -n "s/^${1#0000:}.*[[:space:]]0[[:space:]]*\(0x[0-9a-f]*\):\(0x[0-9a-f]*\):\(0x[0-9a-f]*\)\$/\1 \2 \3/p" \
		/sys/kernel/debug/iommu/intel/dmar_translation_struct | head -n 1
}

# nested_entry NAME ADDRESS: our entry is nested, with the root that the guest has set in its own.
nested_entry()
{
	guest=$(sed -n 's/^ROOT //p' "/tmp/vm/$1/said")
	asked=$(sed -n 's/^HWPT_ALLOC.* pgtbl_addr=\([^ ]*\) .* = 0$/\1/p' "/tmp/vm/$1/calls" | tail -n 1)
	# shellcheck disable=SC2046 # three words
	set -- $(entry "$2")
	echo "# the guest's root $guest, QEMU asked for $asked, our entry $*"
	[ $# = 3 ] && [ -n "$guest" ] && [ "$guest" = "$asked" ] &&
		[ $(($3 >> 6 & 7)) = 3 ] && [ $(($1 & ~0xfff)) = $((guest)) ]
}

# shellcheck source=tools/testing/rig/guest/vfio.sh
. /tests/vfio.sh
if [ ! -w /dev/kvm ]; then echo 'Bail out! no /dev/kvm'; return 1; fi
EDU=$(take 0x1234 0x11e8)
PDMA=$(take 0x1b36 0x00da)
NVME=$(take 0x1b36 0x0010)
IGB=$(take 0x8086 0x10c9)
IOMMUFD='-object iommufd,id=i0'
NEST='-device intel-iommu,intremap=on,caching-mode=on,scalable-mode=on,fsts=on'
SHADOW='-device intel-iommu,intremap=on,caching-mode=on'
# assigned ADDRESS: the words for a device by iommufd.
assigned() { echo "-device vfio-pci,host=$1,iommufd=i0"; }

# What CI runs.
short()
{
	whole no-viommu phys '' $IOMMUFD $(assigned "$EDU")
	whole legacy phys '' -device "vfio-pci,host=$EDU"
	whole nested vfio '' $NEST $IOMMUFD $(assigned "$EDU")
	whole shadowed vfio '' $SHADOW $IOMMUFD $(assigned "$EDU")

	ready
	start entry root '' $NEST $IOMMUFD $(assigned "$EDU")
	says entry RUNS 1 && nested_entry entry "$EDU"
	check $? entry 'the PASID entry is nested, with the root that the guest has set'
	quits entry
	over entry

	shows stale vfio '' '.* is mapped' 'HWPT_INVALIDATE *' $NEST $IOMMUFD $(assigned "$EDU")

	ready
	start killed vfio-load '' $NEST $IOMMUFD $(assigned "$EDU")
	says killed RUNS 2 && fine killed && kill -9 "$(cat /tmp/vm/killed/pid)"
	check $? killed 'it was killed in mid-DMA'
	over killed
}

# What the guest does with its vIOMMU.
modes()
{
	whole legacy-shadowed vfio '' $SHADOW -device "vfio-pci,host=$EDU"
	whole scalable-shadowed vfio '' $SHADOW,scalable-mode=on $IOMMUFD $(assigned "$EDU")
	shows still-mapped vfio '' '.* is mapped' 'IOAS_UNMAP * length=0x1000' $SHADOW $IOMMUFD $(assigned "$EDU")
	whole pt phys iommu=pt $NEST $IOMMUFD $(assigned "$EDU")
	whole strict vfio iommu.strict=1 $NEST $IOMMUFD $(assigned "$EDU")
	whole off phys intel_iommu=off $NEST $IOMMUFD $(assigned "$EDU")
	whole sm-off phys 'intel_iommu=on,sm_off iommu=pt' $NEST $IOMMUFD $(assigned "$EDU")
	whole pasid pasid '' $NEST,pasid-bits=20 $IOMMUFD $(assigned "$PDMA")
	whole ats ats '' $NEST,device-iotlb=on $IOMMUFD $(assigned "$PDMA"),ats=on
	whole svm vfio '' $NEST,pasid-bits=20,device-iotlb=on,svm=on $IOMMUFD $(assigned "$PDMA")
	whole both both '' -smp 2 $NEST $IOMMUFD $(assigned "$EDU") $(assigned "$PDMA")
}

# Devices that the guest's own drivers drive, by four processes at once.
drivers()
{
	whole disk disk '' $NEST $IOMMUFD $(assigned "$NVME")
	whole disk-strict disk iommu.strict=1 $NEST $IOMMUFD $(assigned "$NVME")
	whole disk-shadowed disk '' $SHADOW $IOMMUFD $(assigned "$NVME")
	# Those of single pages do arrive, as the driver begins with such.
	shows disk-stale disk iommu.strict=1 'the disk' 'HWPT_INVALIDATE * npages=0x[248] *' \
		$NEST $IOMMUFD $(assigned "$NVME")

	# The other end of igb's wire.
	ifconfig eth0 10.0.0.1 netmask 255.255.255.0 up
	nc -ll -p 7 -e cat &
	echo=$!
	whole card card '' $NEST $IOMMUFD $(assigned "$IGB")
	whole card-strict card iommu.strict=1 $NEST $IOMMUFD $(assigned "$IGB")
	whole card-shadowed card '' $SHADOW $IOMMUFD $(assigned "$IGB")
	shows card-stale card iommu.strict=1 'the card' 'HWPT_INVALIDATE * npages=0x[248] *' \
		$NEST $IOMMUFD $(assigned "$IGB")
	kill $echo
}

# What the guest's memory is made of.
memory()
{
	MEMORY=memory-backend-ram,prealloc=on
	whole thp phys '' $IOMMUFD $(assigned "$EDU")
	MEMORY=memory-backend-memfd,share=on,hugetlb=on,prealloc=on
	whole hugetlb phys '' $IOMMUFD $(assigned "$EDU")
	MEMORY=memory-backend-memfd,share=on
	SIZE=4G
	whole large phys '' $IOMMUFD $(assigned "$EDU")
	SIZE=512M
}

# What becomes of a guest while its device does DMA.
resets()
{
	for kind in plain nested; do
		if [ $kind = plain ]; then words='' what=phys-load; else words=$NEST what=vfio-load; fi
		ready
		start "reset-$kind" $what '' $words $IOMMUFD $(assigned "$EDU")
		says "reset-$kind" RUNS 2 && tell "reset-$kind" system_reset &&
			says "reset-$kind" BEGIN 2 && more "reset-$kind" && fine "reset-$kind"
		check $? "reset-$kind" 'it was reset in mid-DMA, and does DMA again'
		quits "reset-$kind"
		over "reset-$kind"
	done
}

PORT='-device pcie-root-port,id=rp1,chassis=1'
unplugs()
{
	ready
	start plugged phys-load '' $PORT $IOMMUFD $(assigned "$EDU"),id=dev,bus=rp1
	says plugged RUNS 2 && tell plugged 'device_del dev' && says plugged GONE 1 && fine plugged
	check $? plugged 'unplugged in mid-DMA'
	# Until QEMU has let go of it.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		client-left nothing "$PINNED" >/dev/null && break
	done
	tell plugged "device_add vfio-pci,host=$EDU,iommufd=i0,id=dev,bus=rp1"
	more plugged && fine plugged
	check $? plugged 'plugged in, and it does DMA again'
	quits plugged
	over plugged

	ready
	start unbound phys-load '' $PORT $IOMMUFD $(assigned "$EDU"),id=dev,bus=rp1
	says unbound RUNS 2 && echo "$EDU" >/sys/bus/pci/drivers/vfio-pci/unbind &&
		says unbound GONE 1 && fine unbound
	check $? unbound 'vfio-pci was unbound below it in mid-DMA'
	quits unbound
	over unbound
	echo "$EDU" >/sys/bus/pci/drivers_probe
}

# One is stopped and killed, the other does not mind.
two()
{
	ready
	start one vfio-load '' $NEST $IOMMUFD $(assigned "$EDU")
	says one RUNS 1
	start other vfio-load '' $NEST $IOMMUFD $(assigned "$PDMA")
	says one RUNS 2 && says other RUNS 2 && kill -STOP "$(cat /tmp/vm/one/pid)" && more other
	check $? other 'it goes on while another one is stopped'
	fine one && kill -9 "$(cat /tmp/vm/one/pid)" && more other && more other && fine other
	check $? other 'it goes on where that one was killed'
	quits other
	over other
	over one
}

# QEMU hands its guest over to another one, which takes the pinned memory, too (cpr-transfer).
# The other one clears the device's command register, so the guest is stopped where it wants
# nothing of it.
transfer()
{
	ready
	mkdir -p /tmp/vm/pass
	socket='{"transport":"socket","type":"unix","path":"/tmp/vm/pass'
	cpr="{\"channel-type\":\"cpr\",\"addr\":$socket/cpr\"}}"
	mkfifo /tmp/vm/pass/qmp.in /tmp/vm/pass/qmp.out
	start old phys-at-times '' -machine aux-ram-share=on $IOMMUFD $(assigned "$EDU") \
		-chardev pipe,id=qmp,path=/tmp/vm/pass/qmp -mon chardev=qmp,mode=control
	says old RUNS 1
	launch new phys-at-times '' -machine aux-ram-share=on $IOMMUFD $(assigned "$EDU") \
		-incoming unix:/tmp/vm/pass/main -incoming "$cpr"
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ ! -e /tmp/vm/pass/cpr ] || break
		sleep 1
	done
	more old && tell old stop && fine old
	check $? old 'it does DMA'
	cat >/tmp/vm/pass/qmp.in <<-EOF
		{"execute":"qmp_capabilities"}
		{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}}
		{"execute":"migrate","arguments":{"channels":[
			{"channel-type":"main","addr":$socket/main"}},$cpr]}}
	EOF
	until_there new 'IOAS_CHANGE_PROCESS = 0$' 2 calls
	check $? new 'the memory is its own now'
	sleep 2
	quits old
	[ "$(client-left pinned)" -gt "$PINNED" ]
	check $? new 'memory stays pinned where the old one has ended'
	tell new cont
	says new RUNS 2 && [ "$(count new BAD said)" = 0 ]
	check $? new 'it does DMA'
	quits new
	over new
	over old
	rm -r /tmp/vm/pass
}

dirty()
{
	ready
	start dirty phys-load '' $IOMMUFD $(assigned "$EDU")
	says dirty RUNS 2 && tell dirty 'calc_dirty_rate -b 30' &&
		until_there dirty HWPT_SET_DIRTY_TRACKING 1 calls && more dirty && fine dirty
	check $? dirty 'it does DMA while its dirty rate is measured'
	# What is unmapped meanwhile is asked for its bits.
	tell dirty system_reset
	until_there dirty HWPT_GET_DIRTY_BITMAP 1 calls && says dirty BEGIN 2 && more dirty &&
		until_there dirty HWPT_SET_DIRTY_TRACKING 2 calls && fine dirty
	check $? dirty 'so it does after a reset, until the end of the measurement'
	! grep -E 'HWPT_(SET|GET)_DIRTY.* = E' /tmp/vm/dirty/calls | head -n 1 | sed 's/^/# /' | grep .
	check $? dirty 'tracking and its bits were had without an error'
	grep -q '^HWPT_GET_DIRTY_BITMAP .* = 0' /tmp/vm/dirty/calls
	check $? dirty 'QEMU asked for the bits'
	quits dirty
	over dirty
}

# demo: the disk of a guest, from its own tables to memory (client/demo.c).
demo()
{
	colour=$(grep -qw rig.colour /proc/cmdline && echo -c)
	SIZE=128M
	PINNED=$(client-left pinned)
	start demo demo 'iommu.strict=1 trace_event=iommu:unmap' $NEST $IOMMUFD $(assigned "$NVME")
	if says demo RUNS 1 && fine demo; then
		client-demo $colour "$NVME" "$(cat /tmp/vm/demo/pid)" /tmp/vm/demo "$PINNED" && return
	else
		grep -v '^UNMAP' /tmp/vm/demo/said
		tail -n 20 /tmp/vm/demo/console /tmp/vm/demo/log
	fi
	! alive demo || end demo
	return 1
}

# scenarios NAME...: the results of these, as a program of TAP.
scenarios()
{
	for scenario; do $scenario; done
	echo "1..$N"
	return "$BAD"
}

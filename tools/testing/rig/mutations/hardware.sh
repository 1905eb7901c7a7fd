# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Mutations of the emulated hardware, and of what the VT-d driver has it forget. Sourced by test.

# Mutations: the emulator with one rule broken at a time. The kselftest must
# fail on each in a test that passes with none broken. (20 and 26, domain-ids and
# PASIDs that are not looked at, are not among them: a driver that flushes what
# it should never lets that be seen. 12, a large page of which 4 KiB are dropped, is
# what hardware may do. So are 14 and 15: that they are caught says that the tests
# look at what is cached.)
MUTATIONS='
1 a page-selective PASID-IOTLB invalidation is lost
2 a PASID-selective PASID-IOTLB invalidation is lost
3 a domain-selective IOTLB invalidation is lost
4 a second-stage page invalidation leaves nested entries
5 a PASID-cache invalidation is lost
6 stage-1 read-only entries can be written
7 the output address does not go through stage 2
8 stage-1 tables do not go through stage 2
9 stage-1 A and D are never set
10 stage-1 D is not set where A is
11 what a read filled is cached as writable
13 the smaller stage-2 page is forgotten
14 an invalidation drops the neighbours too
15 nothing is cached
16 stage-2 D is not set
17 A/D updates leave stage 2 clean
18 stage-2 faults come with a stage-1 reason
19 PASID-IOTLB invalidations with a wide mask are lost
21 stage-1 reserved bits are not looked at
22 stage-1 leaves need not be present
23 supervisor pages are open to users
24 any address is canonical
25 requests with a PASID go as those without
27 Device-TLB invalidations by PASID are lost
28 Device-TLB invalidations without PASID are lost
29 every page response says yes
30 a translation request gets write permission unasked
hard-31 a wait is completed as soon as it is queued
hard-32 a wait does not drain page requests
noats-33 a wait does not drain writes
'

# Mutations of the driver: one class of invalidations that it leaves out, as
# Desc::class() has it, the type in bits 3:0 and the granularity in 5:4. (Not
# among them: 0x31, the context-cache, and 0x12, 0x37, whole caches. No test makes
# a context entry change while a device works, which needs a reset of the unit. P of an
# entry before the rest is seen by KUnit alone, publish_in_order: no device asks in between.)
DROPS='
drop-0x17 PASID-cache invalidations
drop-0x26 PASID-IOTLB invalidations of a PASID
drop-0x36 PASID-IOTLB invalidations of pages
drop-0x22 IOTLB invalidations of a domain
drop-0x32 IOTLB invalidations of pages
drop-3 Device-TLB invalidations
drop-8 Device-TLB invalidations by PASID
drop-0x05 the fence between PASID-IOTLB and Device-TLB invalidations
drop-0x100 submissions in reverse
drop-0x101 the PASID-cache last
noats-drop-0x103 that writes are to be drained
drop-0x102 that tables changed, not only leaves
drop-0x104 another domain-id in IOTLB invalidations
drop-0x105 another domain-id in PASID-IOTLB invalidations
drop-0x106 another domain-id in PASID-cache invalidations
cm-drop-0x107 PASID-cache invalidations of what was absent
drop-0x108 snooped page walks (PWSNP)
cm-drop-0x109 snooped pages (PGSNP)
drop-0x10a one domain-id for all
drop-0x10c half of what IOTLB invalidations are of
'

# failing TAP-LOG: the names of the tests that failed, a line each.
failing() { sed -n 's/^not ok [0-9]* //p' "$1" | tr -d '\r' | sort; }

# mutant NUMBER IMPL: one boot; leaves the names of what failed in NAME.failed. Those of
# the driver, and with a word before the number, run on hardware as of nested_hard.
mutant()
{
	local number=$1 impl=$2 name=mutation-$1-$2 part=-T,fault_reasons,-T,killed drop='' words=()
	local suite=mutation
	# Waiting for the kernel's fault reports takes long.
	[ "$number" != 18 ] || part=-t,fault_reasons
	# Nearly all fail then, and some never end.
	[ "$number" != hard-31 ] || part=-t,switching,-t,stale_until_invalidated,-t,replaced
	[ "$number" != drop-0x108 ] || part=-t,both_stages,-t,own_tables
	case $number in
	*drop-*) drop=rig.drop=${number##*-} ;;
	*) words=(-global "intel-iommu.x-mutate=${number##*-}") ;;
	esac
	case $number-$impl in
	*[a-z]-*-rust | *-lossy)
		words+=(-global intel-iommu.x-hard=0x1fff -global pasid-dma.x-refetch=on
			-global pasid-dma.x-posted=on)
		;;
	esac
	case $number in
	# Nothing but the IOMMU drains writes where there is no ATS.
	noats-*) suite=mutation_noats ;;
	cm-*) words+=(-global intel-iommu.caching-mode=on -global intel-iommu.snoop-control=on) ;;
	esac
	APPEND="rig.args=$part $drop" boot_suite "$RIG/suites/$suite.suite" "$name" "$impl" 300 \
		-- "${words[@]}" >"$BUILD/log/run/$name.log" || true
	{
		failing "$BUILD/log/run/$name/tap.log"
		# What the hardware met that no software may do.
		grep -aom 1 'x-hard:' "$BUILD/log/run/$name/qemu.log" || true
	} | sort >"$BUILD/log/run/$name.failed"
	grep -aq '^RIG-END' "$BUILD/log/run/$name/tap.log"
}

mutations()
{
	mutations_of "$1" "$MUTATIONS"
	[ "$1" = rust ] || return 0
	# The driver as it is, but for the switch.
	copy_build lossy
	prepare lossy
	mutations_of lossy "$DROPS"
}

# mutations_of IMPL LIST
mutations_of()
{
	local impl=$1 number what new sound=$BUILD/log/run/mutation-0-$1.failed
	mkdir -p "$BUILD/log/run"
	mutant 0 "$impl" || die "the suite does not end with nothing broken"
	say "  nothing broken on $impl: $(wc -l <"$sound") fail"
	while read -r number what; do
		[ -n "$number" ] || continue
		[ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $number "* ]] || continue
		new=
		# A guest that hangs says nothing about the mutation.
		if mutant "$number" "$impl"; then
			new=$(comm -13 "$sound" "$BUILD/log/run/mutation-$number-$impl.failed" | paste -sd' ')
		fi
		if [ -n "$new" ]; then
			PASSED=$((PASSED + 1))
			say "  caught: $what ($new)"
		else
			FAILED=$((FAILED + 1))
			say "  NOT caught: $what"
		fi
	done <<<"$2"
	say "[$(elapsed)] mutations on $impl"
}

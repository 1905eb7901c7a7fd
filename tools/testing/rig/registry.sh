# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The suites that there are. Sourced by test.
#
#     name | kernels | seconds | what
#
# A guest suite is suites/NAME.suite. A `host` one is a script, suites/NAME, or what host_suite
# of runner.sh knows.

SUITES='
lint|host|600|rustfmt, clippy, checkpatch, shellcheck, no unsafe in logic
overlay|host|600|apply, unapply, series, and every refusal of bad input
link|host|600|which objects the kernel is made of, and what they export
commits_sample|host|600|each fix applies alone and each commit in order, and one of them builds
package_config|host|600|what make package refuses, and that kernels can be made of its configuration and of Debian'\''s
model|host|120|lookup, destroy, unbind and reuse of objects, interleaved; weakened it fails
compile_fail|host|600|examples of misuse in the documentation of types: none compiles
kunit|rust|120|the pure parts, table by table
tour|rust debug|120|each kind of object once, told step by step
iommufd|rust debug|900|upstream'\''s kselftest of /dev/iommu
fail_nth|rust debug|900|upstream'\''s: every allocation fails once
mock|rust debug|120|what the mock driver refuses and reports, to the bit
hostile|rust|600|a user space that means no good
stalled|rust|300|memory that does not answer: nobody else waits for it
fuzz|rust|600|300,000 ioctls at random
diff|rust|300|40,000 operations at random come out as they do in C
stress|debug|900|eight threads on one context, nothing may be left
regress|rust debug|120|what C got wrong once, seen from user space
dirty|rust|120|dirty bitmaps, bit by bit
file|rust|120|MAP_FILE: which files, how they are pinned, who pays
order|rust|300|what belongs together goes in any order, and nothing is left
memlock|rust|120|what a user is charged for pinned memory
noiommu|rust|120|a device without an IOMMU: the physical address behind an IOVA
nested|rust|900|nested VT-d: DMA through both stages
nested_large|rust|300|dirty bits of 2 MiB and 1 GiB entries of stage 2
nested_pt|rust|300|the same with iommu=pt
nested_hard|rust|300|the same on a VT-d that does all that the specification lets one do
nested_cm|rust|300|the same with caching mode, snoop control and a 5-level stage 1
nested_levels|rust|120|the same where 4 levels of stage 2 are enough and 5 could be walked
nested_narrow|rust|120|the same where 3 levels of stage 2 are enough, for 38 bits
nested_wide|rust|120|the same where stage 2 needs 5 levels, for 57 bits
nested_group|rust|120|PASIDs of two functions that are one group
nested_no_acs|rust|120|a device whose PASIDs stay off
reserved|rust|120|a device for which firmware has reserved memory goes and comes
reserved_legacy|rust|120|the same in legacy mode
legacy_fail_nth|rust|120|a device in legacy mode, what attaches it failing step by step
nested_few_ids|rust|120|domain-ids are used up
nested_viommu|rust|600|a guest that has a VT-d: its devices, its domain-ids, its tables
nested_fail_nth|rust|300|what a VMM does with a vIOMMU, each step failing once
nested_units|rust|300|two units, one of which is unplugged, with a vIOMMU on each
nested_units_levels|rust|120|domains of one of two units that the other one cannot walk
nested_units_snoop|rust|120|the same where one unit snoops and the other cannot
sva|rust|120|a device in the memory of processes: what they unmap, protect and leave behind
nested_silent|rust|300|a device that does not answer the IOMMU, beside one that does
nested_nvme|rust|300|nested with DMA by an NVMe drive, taken from its driver and given back
vfio|rust|120|upstream'\''s kselftests of VFIO behind stock QEMU'\''s VT-d
vfio_driver|rust|600|upstream'\''s kselftest of VFIO with real DMA, by QEMU'\''s igb
qemu_short|rust|600|QEMU itself as the client: its guest'\''s device, with and without a vIOMMU
crates|rust|120|the crates with which cloud-hypervisor opens /dev/iommu: DMA, nesting, PASIDs
'
# Not in CI: by name only.
MORE='
generic_pt|host|900|upstream'\''s KUnit tests of generic page tables, with ours, on user mode Linux
mutations|rust|300|the nested suite fails when a rule of the hardware is broken
mock_mutations|rust|3000|each behaviour of the mock driver broken once: a kselftest must fail
viommu_mutations|rust|3000|each behaviour of VT-d'\''s vIOMMUs broken once: a kselftest must fail
attach_mutations|rust|3000|each step of VT-d'\''s attach left out once: a kselftest must fail
qemu|rust|3000|qemu_short and more: modes of the vIOMMU, memory, what becomes of a guest
nested_igb|rust|300|nested with DMA by igb and by pasid-dma
package|host|5400|the kernel of make package on a Debian: installed, booted, tested, removed
kselftest_package|rust|300|the tarball of make kselftest-package, unpacked and run, and its report
nested_strict|rust|300|nested with iommu.strict=1
nested_hard_pt|rust|300|nested_hard with iommu=pt
nested_hard_strict|rust|300|nested_hard with iommu.strict=1
nested_hard_cm|rust|300|nested_hard with caching mode, snoop control and a 5-level stage 1
vtd|rust|3000|stock QEMU'\''s VT-d in all its modes, devices behind it under load
vfio_all|vfio c-vfio|900|all of upstream'\''s kselftests of VFIO in all modes of a container, second-stage tables
vfio_all_first|vfio c-vfio|900|the same with first-stage tables
vfio_all_legacy|vfio c-vfio|900|the same in legacy mode
vtd_driver|rust|3000|vfio_driver with iommufd in 18 modes of VT-d
lockup|debug|600|most of the memory in pages of 4 KiB: no processor is away for long
nested_fuzz|rust|600|600,000 ioctls at random, a device behind VT-d among the mock ones
fuzz_long|rust|7200|10 million ioctls at random
qemu_compare|rust|3000|the ioctls of QEMU in `qemu` and their answers, the same as on C
diff_long|rust|7200|400,000 of them on both kernels, operation by operation where they differ
commits|host|7200|each commit of the series builds with C and Rust, each fix applies and builds alone
module|module|1800|IOMMUFD=m: load, test, unload, ten times
'

field() { printf '%s%s' "$SUITES" "$MORE" | awk -F'|' -v n="$1" -v f="$2" '$1 == n { print $f }'; }
names() { printf '%s' "$1" | awk -F'|' 'NF { print $1 }'; }

list()
{
	say 'suites of `make test` (SUITE="name name" picks; IMPL= picks the kernel):'
	printf '%s' "$SUITES" | awk -F'|' 'NF { printf "  %-12s %-12s %s\n", $1, $2, $4 }'
	say 'by name only:'
	printf '%s' "$MORE" | awk -F'|' 'NF { printf "  %-12s %-12s %s\n", $1, $2, $4 }'
}

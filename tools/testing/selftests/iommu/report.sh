#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage: report.sh [--yes] [PROGRAM...]
#
# Runs the tests of /dev/iommu and VFIO that lie beside it and writes a report that can be
# attached to a bug report: iommufd-report.txt in the current folder, or REPORT=file. It has
# the kernel's version and the options that matter, cap and ecap of each VT-d unit, the results,
# what was passed over and why, and what the kernel said meanwhile. Not in it: host names,
# addresses of networks or of the kernel, serial numbers, and the rest of the command line.
#
# Programs that want a device say which one they take, and ask; --yes is the answer to all.
# VTD_DEVICE=0000:01:00.0 names it. Upstream's VFIO tests run with the device that
# VFIO_SELFTESTS_BDF names, which has to be bound to vfio-pci. LIMIT is the seconds for a program.

cd "$(dirname "$0")" || exit 1
REPORT=${REPORT:-$OLDPWD/iommufd-report.txt}
LIMIT=${LIMIT:-900}
# In the tarball, or in the kernel's tree.
VFIO=../vfio
OPTIONS='RUST IOMMUFD IOMMUFD_RUST IOMMUFD_TEST IOMMUFD_VFIO_CONTAINER INTEL_IOMMU INTEL_IOMMU_RUST
	INTEL_IOMMU_SVM INTEL_IOMMU_DEFAULT_ON INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON IRQ_REMAP
	IOMMU_DEFAULT_PASSTHROUGH VFIO VFIO_PCI VFIO_DEVICE_CDEV VFIO_GROUP PCI_PASID PCI_ATS
	PCI_PRI DEBUG_FS FAULT_INJECTION KASAN PROVE_LOCKING'

[ "${1:-}" != --yes ] || {
	export VTD_YES=1
	shift
}
[ $# -gt 0 ] || set -- iommufd_vtd_nested iommufd_vtd_pasid iommufd_vtd_pri iommufd \
	iommufd_regress iommufd_mock iommufd_dirty iommufd_file vfio_dma_mapping_test \
	vfio_iommufd_setup_test vfio_pci_device_test vfio_pci_driver_test

[ "$(id -u)" = 0 ] || {
	echo "report.sh: to be run as root" >&2
	exit 1
}
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM

# What says who the user is, or where the kernel lies.
clean()
{
	host=$(uname -n)
	case $host in *[!A-Za-z0-9._-]* | ? | '' | localhost) host=HOST ;; esac
	sed -E -e "s/$host/HOST/g" \
		-e 's/([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}/MAC/g' \
		-e 's/([0-9]{1,3}\.){3}[0-9]{1,3}/IP/g' \
		-e 's/(serial( ?number)?[=: ]+)[^ ,]+/\1SERIAL/Ig' \
		-e 's/\b(0x)?ffff[0-9a-f]{12}\b/POINTER/g'
}

config()
{
	if [ -r /proc/config.gz ]; then
		zcat /proc/config.gz
	else
		cat "/boot/config-$(uname -r)" "/lib/modules/$(uname -r)/build/.config" 2>/dev/null
	fi
}

# What the machine is.
machine()
{
	echo "kernel: $(uname -srm)"
	uname -v
	echo "command line: $(tr ' ' '\n' </proc/cmdline |
		grep -E '^(intel_)?iommu|^iommu\.|^iommufd|^vfio|^pci=|^hugepages' | paste -sd' ')"
	for unit in /sys/class/iommu/*/intel-iommu; do
		[ -d "$unit" ] || continue
		name=${unit%/intel-iommu}
		echo "${name##*/}: cap $(cat "$unit/cap") ecap $(cat "$unit/ecap")"
	done
	[ -d /sys/class/iommu/dmar0 ] || echo 'no VT-d unit is in use'
	config >"$WORK/config"
	[ -s "$WORK/config" ] || {
		echo 'the configuration of the kernel is not known'
		return
	}
	for option in $OPTIONS; do
		grep "^CONFIG_$option=" "$WORK/config" || echo "CONFIG_$option is not set"
	done
}

# one PROGRAM: its results, and where they are few, why. Its status is in rc.
one()
{
	rc=0
	at=./$1
	[ -x "$at" ] || at=$VFIO/$1
	echo "== $1"
	if [ ! -x "$at" ]; then
		echo "1..0 # SKIP it is not here"
		return
	fi
	case $1 in
	vfio_*)
		if [ -z "${VFIO_SELFTESTS_BDF:-}" ]; then
			echo "1..0 # SKIP VFIO_SELFTESTS_BDF names no device"
			return
		fi
		;;
	esac
	# A question needs the terminal, which not each timeout(1) leaves to the program.
	if timeout --foreground 1 true 2>/dev/null; then
		timeout --foreground "$LIMIT" "$at"
	else
		"$at"
	fi
	rc=$?
}

echo "report.sh: begins" >/dev/kmsg
for program; do
	echo "$program ..." >&2
	one "$program" >"$WORK/one" 2>"$WORK/said"
	# 4 is that all was passed over.
	case $rc in
	0 | 4) ;;
	*) grep -q '^not ok' "$WORK/one" || echo "not ok $program ended with $rc" >>"$WORK/one" ;;
	esac
	cat "$WORK/one" >>"$WORK/tap"
	sed 's/^/# /' "$WORK/said" >>"$WORK/tap"
done

count() { grep -cE "$1" "$WORK/tap"; }
skipped=$(count '^ok .*# SKIP|^1\.\.0 # SKIP')
failed=$(count '^not ok')
passed=$(($(count '^ok ') - $(count '^ok .*# SKIP')))
{
	echo "# $passed passed, $failed failed, $skipped skipped"
	machine
	echo
	echo '# failed'
	grep -E '^== |^not ok' "$WORK/tap"
	echo
	echo '# passed over, and why'
	grep -E '^== |# SKIP' "$WORK/tap"
	echo
	echo '# results'
	cat "$WORK/tap"
	echo
	echo '# what the kernel said'
	dmesg | sed '1,/report\.sh: begins/d'
} | clean >"$REPORT"
echo "$passed passed, $failed failed, $skipped skipped; the report is $REPORT"
[ "$failed" = 0 ]

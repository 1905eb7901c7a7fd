# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Suites of many boots: in all modes of an emulator, or beside C's kernel. Sourced by test.

# modes SUITE IMPL: a suite in each mode of QEMU's intel-iommu, a boot each.
modes()
{
	local line log=$BUILD/log/run/$1-$2.sum options=()
	[ "$1" = vtd ] || options=(-d)
	"$RIG/vtd" "${options[@]}" "$2" | tee "$log" || true
	while read -r line; do
		case $line in
		*' passed, '*' skipped'*) count "$(grep -oE '[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' <<<"$line")" ;;
		*) FAILED=$((FAILED + 1)) ;;
		esac
	done <"$log"
}

# What QEMU asked of a kernel and of C's, and the answers.
qemu_compare()
{
	local folder=$BUILD/log/run/qemu_compare-$1
	mkdir -p "$folder"
	prepare c
	client qemu
	guest qemu "$1"
	guest qemu c
	{
		echo 'RIG-PROGRAM qemu_compare'
		"$RIG/client/compare" "$BUILD/log/run/qemu-$1/tap.log" "$BUILD/log/run/qemu-c/tap.log" || true
		echo 'RIG-PROGRAM-END qemu_compare 0'
	} >"$folder/tap.log"
	in_root "$(seen "$RIG/tap")" "$1" "$(seen "$folder/tap.log")" >"$folder/sum.log" || true
	cat "$folder/sum.log"
	count "$(tail -n 1 "$folder/sum.log")"
	say "[$(elapsed)] qemu_compare: the differences are in ${folder#"$TOP"/}/tap.log"
}

# The same operations on a kernel and on C's.
diff_long()
{
	local log=$BUILD/log/run/diff_long-$1.sum
	prepare c
	"$RIG/diff-compare" "$1" | tee "$log" || true
	count "$(tail -n 1 "$log")"
}

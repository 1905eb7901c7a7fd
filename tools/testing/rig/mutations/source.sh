# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Mutations of the drivers' sources, from the lists beside this file. Sourced by test.
#
# Built from a tree with one of them, tested with the suite that the list names, or the one that
# is given. `vtd MODE` is that mode of the script.

# source_mutations LIST FOLDER [SUITE]
source_mutations()
{
	local list=$RIG/mutations/$1.txt folder=$BUILD/linux/$2
	local number=0 path suite args what log=$BUILD/log/run/$1-mutation name failed kept
	mkdir -p "$log"
	exec 8>"$BUILD/.lock-tree"
	flock 8
	copy_build mutant
	cp "$BUILD/guest/initrd-rust.cpio.gz" "$BUILD/guest/initrd-mutant.cpio.gz"
	kept=$(mktemp -d "$BUILD/kept.XXXXXX")
	while IFS='|' read -r path suite args what; do
		number=$((number + 1))
		name=$1-mutation-$number
		[ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $number "* ]] || continue
		cp -a "$folder/$path" "$kept/it"
		# shellcheck disable=SC2064 # the names as they are now
		trap "cp '$kept/it' '$folder/$path'; rm -rf '$kept'" EXIT
		if ! "$RIG/mutations/mutate" "$list" "$folder" "$number" >"$log/$number.log" 2>&1 ||
			! "$RIG/build" mutant >>"$log/$number.log" 2>&1; then
			FAILED=$((FAILED + 1))
			say "  $number does not build: $what (${log#"$TOP"/}/$number.log)"
		else
			failed=
			if [ "$suite" = vtd ]; then
				name=vtd-mutant-$args
				"$RIG/vtd" mutant "$args" >>"$log/$number.log" </dev/null
			else
				APPEND="rig.args=$args" boot_suite "$RIG/suites/${suite:-$3}.suite" \
					"$name" mutant 300 >>"$log/$number.log"
			fi || failed="the boot: $(tail -n 1 "$log/$number.log")"
			failed="$(failing "$BUILD/log/run/$name/tap.log" | paste -sd' ')$failed"
			if [ -n "$failed" ]; then
				PASSED=$((PASSED + 1))
				say "  caught: $what (${failed:0:100})"
			else
				FAILED=$((FAILED + 1))
				say "  NOT caught: $number, $what"
			fi
		fi
		# Newer than what was built of the broken one.
		cp "$kept/it" "$folder/$path"
	done < <("$RIG/mutations/mutate" "$list")
	exec 8>&-
	say "[$(elapsed)] mutations of $1"
}

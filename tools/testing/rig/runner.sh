# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Runs one suite on one kernel, and counts what it says. Sourced by test.

# The crate of the suite `model`.
MODEL=$TOP/tools/testing/model

PASSED=0
FAILED=0
SKIPPED=0

# count LINE: adds an `N passed, N failed, N skipped` up.
count()
{
	local p f s
	read -r p _ f _ s _ <<<"$1"
	PASSED=$((PASSED + p))
	FAILED=$((FAILED + f))
	SKIPPED=$((SKIPPED + s))
}

built=' '

# One build and one guest image for each kernel, when first wanted.
prepare()
{
	case $built in *" $1 "*) return ;; esac
	"$RIG/build" "$1" || exit 1
	steps 1
	step "build the guest image for $1" "$BUILD/log/guest-$1.log" \
		in_root "$(seen "$RIG/guest/make-image")" "$1" "$(kernel_tree)"
	built="$built$1 "
}

# client NAME: what opens /dev/iommu in the guest besides our tests, once: QEMU, with what it
# runs, or the crates of cloud-hypervisor. See client/.
client()
{
	case $built in *" client-$1 "*) return ;; esac
	case $1 in
	qemu)
		prepare rust
		steps 1
		step "build what QEMU in the guest runs" "$BUILD/log/client.log" \
			in_root "$(seen "$RIG/client/make-client")" "$(kernel_tree)"
		;;
	crates) "$RIG/client/make-crates" || exit 1 ;;
	esac
	built="${built}client-$1 "
}

# client_archive NAME: what the guest has of it.
client_archive()
{
	case $1 in
	qemu) printf '%s' "$BUILD/guest/client.cpio" ;;
	crates) "$RIG/client/make-crates" path ;;
	esac
}

# listed IMPL SUITE: known-failures says that the boot fails.
listed() { in_root "$(seen "$RIG/tap")" --known "$1" "$2" '(boot)'; }

# boot_suite SUITE-FILE NAME IMPL SECONDS [QEMU-WORDS...]
#
# A guest that hung is booted once more, and that is said: see boot. What it left
# is kept in NAME-hung. One that is known to hang is not.
boot_suite()
{
	local file=$1 name=$2 impl=$3 limit=$4 words=() said rc try
	shift 4
	read -ra words <<<"$(head_line "$file" qemu)"
	[ -z "$(head_line "$file" faults)" ] || set -- -f "$@"
	[ -z "$(head_line "$file" emulator)" ] || set -- -q "$(head_line "$file" emulator)" "$@"
	[ -z "$(head_line "$file" memory)" ] || set -- -m "$(head_line "$file" memory)" "$@"
	[ -z "$(head_line "$file" client)" ] ||
		set -- -d "$(client_archive "$(head_line "$file" client)")" "$@"
	[ -z "$(head_line "$file" package)" ] || set -- -d "$BUILD/kselftest/guest.cpio" "$@"
	local options=() reserved=()
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	[ "${1:-}" != -- ] || shift
	read -ra reserved <<<"$(head_line "$file" reserved)"
	if [ ${#reserved[@]} -gt 0 ]; then
		"$RIG/reserved" "$name" "$BUILD/log/run/$name.tables" "${reserved[@]}" "$impl" \
			"$(head_line "$file" emulator)" "${words[@]}" || return 1
		options+=(-d "$BUILD/log/run/$name.tables")
	fi
	for try in 1 2; do
		rc=0
		said=$("$RIG/boot" -n "$name" -i "$impl" -t "$limit" \
			-a "$(head_line "$file" kernel) ${APPEND:-}" "${options[@]}" "$file" -- \
			"${words[@]}" "$@") || rc=$?
		case $try$said in
		1*'the guest hung'*)
			! listed "$impl" "$(basename "$file" .suite)" || break
			rm -rf "$BUILD/log/run/$name-hung"
			mv "$BUILD/log/run/$name" "$BUILD/log/run/$name-hung"
			say "  $name: $said, now in $name-hung; once more" >&2
			;;
		*) break ;;
		esac
	done
	[ -z "$said" ] || say "$said"
	return "$rc"
}

# guest SUITE IMPL: boots and counts.
guest()
{
	local suite=$1 impl=$2 name=$1-$2 rc=0 sum start=$SECONDS boot key limit
	key=$(guest_key "$suite" "$impl")
	! known "$key" "$BUILD/log/run/$name" || return 0
	rm -f "$BUILD/log/run/$name/passed"
	limit=$(field "$suite" 3)
	# What checks everything takes its time.
	case $impl in *debug* | kcsan) limit=$((2 * limit)) ;; esac
	boot=$(boot_suite "$RIG/suites/$suite.suite" "$name" "$impl" "$limit") || rc=$?
	sum='0 passed, 1 failed, 0 skipped'
	if [ -f "$BUILD/log/run/$name/tap.log" ]; then
		in_root "$(seen "$RIG/tap")" "$impl" "$(seen "$BUILD/log/run/$name/tap.log")" \
			>"$BUILD/log/run/$name/sum.log" || true
		grep -v '^[0-9]* passed' "$BUILD/log/run/$name/sum.log" | head -n 20 || true
		sum=$(tail -n 1 "$BUILD/log/run/$name/sum.log")
	fi
	count "$sum"
	if [ "$rc" != 0 ] && listed "$impl" "$suite"; then
		say "  $name, as known: $boot"
		rc=0
	elif [ "$rc" != 0 ]; then
		say "FAIL $name: $boot"
		FAILED=$((FAILED + 1))
	fi
	case $rc$sum in *', 0 failed, '*) [ "$rc" != 0 ] || printf '%s\n' "$key" >"$BUILD/log/run/$name/passed" ;; esac
	say "[$(elapsed)] $suite on $impl: $sum ($((SECONDS - start)) s; build/log/run/$name/)"
}

# host_suite NAME: a script that prints TAP, inside the toolchain unless it builds kernels.
host_suite()
{
	local folder=$BUILD/log/run/$1 sum start=$SECONDS key
	key=$({ tree_key; root_key; kernel_tree; [ "$1" != package ] || echo "${IMPL:-rust}"; } | sha256sum)
	! known "$key" "$folder" || return 0
	mkdir -p "$folder"
	rm -f "$folder/passed"
	{
		echo "RIG-PROGRAM $1"
		case $1 in
		commits) "$RIG/commits" 2>&1 || true ;;
		commits_sample) "$RIG/commits" sample 2>&1 || true ;;
		package_config) "$RIG/package-test" config 2>&1 || true ;;
		package) "$RIG/package-test" "${IMPL:-rust}" 2>&1 || true ;;
		model) "$("$RIG/make-crate" path "$MODEL")" 2>&1 || true ;;
		*) in_root "$(seen "$RIG/suites/$1")" "$(kernel_tree)" 2>&1 || true ;;
		esac
		echo "RIG-PROGRAM-END $1 0"
	} >"$folder/tap.log"
	in_root "$(seen "$RIG/tap")" host "$(seen "$folder/tap.log")" >"$folder/sum.log" || true
	grep -v '^[0-9]* passed' "$folder/sum.log" | head -n 20 || true
	sum=$(tail -n 1 "$folder/sum.log")
	count "$sum"
	case $sum in *', 0 failed, '*) printf '%s\n' "$key" >"$folder/passed" ;; esac
	say "[$(elapsed)] $1: $sum ($((SECONDS - start)) s; ${folder#"$TOP"/}/)"
}

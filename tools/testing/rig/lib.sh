# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the rig's scripts share: where things lie, how long work is shown, and
# the toolchain root. Sourced, never run.

set -euo pipefail

TOP=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../..")
RIG=$TOP/tools/testing/rig
BUILD=$TOP/build
CACHE=${IOMMUFD_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/iommufd-rust}
TOOLCHAIN=${TOOLCHAIN:-root}
JOBS=${JOBS:-$(nproc)}
V=${V:-0}

# Inside the root the checkout always lies here, so that a build folder means
# the same in every clone.
SEEN_AS=/iommufd

say() { printf '%s\n' "$*"; }

die()
{
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# need COMMAND PACKAGE: the host must have it.
need()
{
	command -v "$1" >/dev/null 2>&1 ||
		die "the host has no '$1'; on Debian: apt-get install $2"
}

# The steps of a long job: `steps N`, then `step TEXT LOG COMMAND...` each.
STEPS=0
STEP=0
STARTED=$SECONDS

steps()
{
	STEPS=$1
	STEP=0
}

elapsed() { printf '%d:%02d' $(((SECONDS - STARTED) / 60)) $(((SECONDS - STARTED) % 60)); }

# step TEXT LOG COMMAND...: runs it with its output in LOG (and on the terminal
# with V=1); shows the end of the log and fails when it fails.
step()
{
	local text=$1 log=$2 start=$SECONDS rc=0
	shift 2
	STEP=$((STEP + 1))
	mkdir -p "$(dirname "$log")"
	printf '[%s] step %d/%d: %s (log: %s)\n' "$(elapsed)" "$STEP" "$STEPS" "$text" "${log#"$TOP"/}"
	if [ "$V" = 1 ]; then
		{ "$@" 2>&1 || rc=$?; } | tee "$log"
		rc=${PIPESTATUS[0]}
	else
		"$@" >"$log" 2>&1 || rc=$?
	fi
	if [ "$rc" -ne 0 ]; then
		printf -- '--- the last lines of %s\n' "$log" >&2
		tail -n 30 "$log" >&2
		die "step $STEP/$STEPS failed after $((SECONDS - start)) s: $text"
	fi
}

# free_space DIR GIGABYTES
free_space()
{
	local at=$1 have
	while [ ! -d "$at" ]; do at=$(dirname "$at"); done
	have=$(df -Pk "$at" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$have" -ge "$2" ] ||
		die "$1 has ${have} GB free, this needs $2 GB; set XDG_CACHE_HOME or free some"
}

# The folder of the toolchain root: named after what went into it.
root_key() { cat "$RIG/packages" "$RIG/make-root" | sha256sum | cut -c1-12; }
root_dir() { printf '%s/root-%s' "$CACHE" "$(root_key)"; }

# in_root COMMAND...: runs it with the toolchain, the checkout as the current
# folder. The mounts live in a namespace of their own, so that nothing is left
# behind and two runs never meet. With INSTEAD another tree lies where build/linux does,
# or where the folder INSTEAD_OF of it does, so that what was compiled of the one can be
# used for the other.
in_root()
{
	if [ "$TOOLCHAIN" = host ]; then
		(cd "$TOP" && "$@")
		return
	fi
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount --propagation private bash -c '
		root=$1 top=$2 seen=$3 kdir=$4 cache=$5 instead=$6 of=$7
		shift 7
		mount -t proc proc "$root/proc" &&
		mount --rbind /dev "$root/dev" &&
		mount -t tmpfs tmpfs "$root/tmp" &&
		mount --bind "$top" "$root$seen" &&
		mount --bind "$cache" "$root/cache" &&
		{ [ -z "$kdir" ] || mount --bind "$kdir" "$root/kdir"; } &&
		{ [ -z "$instead" ] || mount --bind "$instead" "$root$seen/build/linux/$of"; } &&
		exec chroot "$root" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
			PATH=/usr/sbin:/usr/bin:/sbin:/bin V="$V" JOBS="$JOBS" \
			ACCEL="${ACCEL:-}" NO_COLOR="${NO_COLOR:-}" CI="${CI:-}" \
			sh -c "cd $seen && exec \"\$@\"" sh "$@"
	' in_root "$(root_dir)" "$TOP" "$SEEN_AS" "${KDIR:+$(realpath "$KDIR")}" "$CACHE" \
		"${INSTEAD:-}" "${INSTEAD_OF:-}" "$@"
}

export V JOBS

# Paths as the toolchain sees them.
seen()
{
	if [ "$TOOLCHAIN" = host ]; then
		printf '%s' "$1"
	else
		printf '%s' "${1/#$TOP/$SEEN_AS}"
	fi
}

# build_plugin SOURCE INTO: INTO-stock.so for the root's QEMU, INTO-nest.so for the one that
# make-qemu builds, which have different versions of the interface.
build_plugin()
{
	local whose version
	while read -r whose version; do
		in_root gcc -O2 -Wall -shared -fPIC "-DVERSION=$version" -o "$(seen "$2")-$whose.so" "$(seen "$1")"
	done <<<$'stock 7\nnest 4'
}

# head_line FILE NAME: what a suite's `# NAME: ...` line says.
head_line() { sed -n "s/^# $2: //p" "$1"; }

# archive FOLDER: as an initramfs, on standard output. The same files make the same one.
archive()
{
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . | sort | cpio -o -H newc --quiet --reproducible -R 0:0)
}

# The kernel tree as the toolchain sees it: the user's own or ours.
kernel_tree()
{
	if [ -n "${KDIR:-}" ]; then
		if [ "$TOOLCHAIN" = host ]; then realpath "$KDIR"; else printf /kdir; fi
	else
		seen "$BUILD/linux"
	fi
}

# Which LLVM builds the kernel, in the words of its Makefile.
llvm()
{
	if [ "$TOOLCHAIN" = root ]; then printf -- -22; else printf '%s' "${LLVM:-1}"; fi
}

# kernel_make FOLDER WORDS...: `make` in the kernel tree; what it makes goes to FOLDER.
kernel_make()
{
	local out=$1 env=()
	shift
	# bindgen reads the headers with the libclang of its own package, which it
	# knows; the warnings of a newer clang are none of its business.
	[ "$TOOLCHAIN" != root ] || env=(LIBCLANG_PATH=/usr/lib/llvm-19/lib
		BINDGEN_EXTRA_CLANG_ARGS=-Wno-unknown-warning-option)
	in_root env "${env[@]}" KBUILD_BUILD_TIMESTAMP='1 Jan 2026 UTC' KBUILD_BUILD_USER=iommufd \
		KBUILD_BUILD_HOST=rig make -s -C "$(kernel_tree)" O="$(seen "$out")" \
		LLVM="$(llvm)" V="$V" -j"$JOBS" "$@"
}

# merge_config FOLDER WORDS...: makes FOLDER/.config of fragments, with the kernel's own tool.
merge_config()
{
	local out=$1
	shift
	# Options may move from one fragment to a later one, so -Q.
	in_root env LLVM="$(llvm)" sh -c 'cd "$1" && shift && exec scripts/kconfig/merge_config.sh "$@"' \
		sh "$(kernel_tree)" -Q -O "$(seen "$out")" "$@"
}

# takes CONFIG FRAGMENT...: whether a configuration has what fragments ask for, of which the last
# that names an option decides; says what it has not.
takes()
{
	local config=$1 option value bad=0 f
	local -A asked=()
	shift
	for f; do
		while IFS='=' read -r option value; do
			case $option in CONFIG_*) asked[$option]=$value ;; esac
		done <"$f"
	done
	for option in "${!asked[@]}"; do
		value=${asked[$option]}
		if [ "$value" = n ]; then
			if grep -q "^$option=" "$config"; then
				say "not taken: $option should be off"
				bad=1
			fi
		elif ! grep -qxF "$option=$value" "$config"; then
			say "not taken: $option=$value"
			bad=1
		fi
	done
	return "$bad"
}

# The Debian mirror that the machine itself uses, never one written down here.
mirror()
{
	local site
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null |
		grep -m1 -E '/debian/?$') || true
	[ -n "$site" ] || die "apt knows no Debian mirror (apt-get indextargets lists none)"
	printf '%s' "$site"
}

# copy_build NAME: what was compiled for build/rust need not be again for build/NAME.
# Commands name the folder; where that of objtool is not the same it is built, and all
# objects after it.
copy_build()
{
	[ ! -d "$BUILD/$1" ] || return 0
	cp -a "$BUILD/rust" "$BUILD/$1"
	grep -rlZ --include='.*.cmd' /build/rust/ "$BUILD/$1" |
		xargs -0 sed -i "s,/build/rust/,/build/$1/,g"
}

# locked NAME COMMAND...: one at a time on this checkout; says that it waits.
locked()
{
	local lock=$BUILD/.lock-$1
	shift
	mkdir -p "$BUILD"
	(
		flock -n 9 || {
			say "another run works on ${lock##*.lock-} in this checkout, waiting for it"
			flock 9
		}
		"$@"
	) 9>"$lock"
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What passed is known for as long as all that went into it is the same. Sourced by test.

# Everything in the repository.
tree_key()
{
	(cd "$TOP" && find . \( -path ./build -o -path ./.git \) -prune -o -type f -print0 | sort -z |
		xargs -0 sha256sum)
}

# What goes into a guest suite.
guest_key()
{
	local file=$RIG/suites/$1.suite
	{
		sha256sum <"$BUILD/$2/arch/x86/boot/bzImage"
		sha256sum <"$BUILD/guest/initrd-$2.cpio.gz"
		cat "$file" "$RIG/boot" "$RIG/tap" "$RIG/known-failures"
		printf '%s\n' "${ACCEL:-tcg}" "${APPEND:-}" "${NEST_QEMU:-}" "$(root_key)"
		[ -z "$(head_line "$file" emulator)" ] || "$RIG/make-qemu" path
		[ -z "$(head_line "$file" client)" ] ||
			sha256sum <"$(client_archive "$(head_line "$file" client)")"
		[ -z "$(head_line "$file" package)" ] || sha256sum <"$BUILD/kselftest/guest.cpio"
	} | sha256sum
}

# known KEY FOLDER: counts what passed before with the same key, if it did.
known()
{
	local sum
	[ -z "${AGAIN:-}" ] && [ "$(cat "$2/passed" 2>/dev/null)" = "$1" ] || return 1
	sum=$(tail -n 1 "$2/sum.log")
	count "$sum"
	say "[$(elapsed)] ${2##*/}: $sum (nothing changed since $(date -r "$2/passed" '+%F %H:%M'); AGAIN=1 repeats it)"
}

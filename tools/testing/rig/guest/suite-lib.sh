# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# For suites in the guest. run NAME COMMAND...: one TAP program; the line says
# where its results begin and the next where they end, so that a program that
# dies half way is seen.

run()
{
	_name=$1
	shift
	echo "RIG-PROGRAM $_name"
	"$@"
	_rc=$?
	echo "RIG-PROGRAM-END $_name $_rc"
	return $_rc
}

# The words of `rig.args=-t,name` on the kernel's command line: for the suite's programs.
rig_args() { sed -n 's/.*rig\.args=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '; }

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A TCG plugin: which instructions of the kernel a guest has executed.
 *
 * -plugin executed.so,out=FILE
 *
 * QEMU translates a block when it is about to run for the first time, and a block
 * of Rust runs to its end: what was translated was executed. FILE gets the address
 * of each such instruction, in hexadecimal.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../plugin.h"

/* Where a kernel lies that does not move itself. */
#define TEXT	UINT64_C(0xffffffff81000000)
#define SIZE	(UINT64_C(64) << 20)

static unsigned char executed[SIZE];
static const char *out;

static void translated(TRANSLATED)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		uint64_t at = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i)) - TEXT;

		if (at < SIZE)
			executed[at] = 1;
	}
}

static void finish(AT_EXIT)
{
	FILE *f = fopen(out, "w");

	if (!f) {
		perror(out);
		return;
	}
	for (uint64_t at = 0; at < SIZE; at++)
		if (executed[at])
			fprintf(f, "%" PRIx64 "\n", TEXT + at);
	fclose(f);
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "executed: out= is needed\n");
		return -1;
	}
	out = strdup(argv[0] + 4);
	plugin_watch(id, translated, finish);
	return 0;
}

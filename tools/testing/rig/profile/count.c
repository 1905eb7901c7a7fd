// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A TCG plugin: which instructions a guest executed between two addresses.
 *
 * -plugin count.so,begin=ADDRESS,end=ADDRESS,out=FILE
 *
 * Counting starts whenever the code at `begin` runs, and stops at `end`. FILE
 * gets a line for each translated block that ran meanwhile: its address, how
 * many instructions it has, and how often it ran.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../plugin.h"

struct block {
	struct block *next;
	uint64_t address, runs;
	size_t instructions;
};

static struct block *blocks;
static uint64_t begin, end;
static bool counting;
static const char *out;

/* One processor, one thread: `make bench` runs with -icount. */
static void executed(unsigned int cpu, void *data)
{
	struct block *b = data;

	if (b->address == begin)
		counting = true;
	else if (b->address == end)
		counting = false;
	b->runs += counting;
}

static void translated(TRANSLATED)
{
	struct block *b = calloc(1, sizeof(*b));

	if (!b)
		abort();
	b->address = qemu_plugin_tb_vaddr(tb);
	b->instructions = qemu_plugin_tb_n_insns(tb);
	b->next = blocks;
	blocks = b;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, b);
}

static void finish(AT_EXIT)
{
	FILE *f = fopen(out, "w");

	if (!f) {
		perror(out);
		return;
	}
	for (struct block *b = blocks; b; b = b->next)
		if (b->runs)
			fprintf(f, "%" PRIx64 " %zu %" PRIu64 "\n", b->address, b->instructions,
				b->runs);
	fclose(f);
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "begin=", 6))
			begin = strtoull(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "end=", 4))
			end = strtoull(argv[i] + 4, NULL, 0);
		else if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	}
	if (!begin || !end || !out) {
		fprintf(stderr, "count: begin=, end= and out= are needed\n");
		return -1;
	}
	plugin_watch(id, translated, finish);
	return 0;
}

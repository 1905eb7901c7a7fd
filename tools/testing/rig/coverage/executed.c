// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A TCG plugin: which instructions of the kernel a guest has executed.
 *
 * -plugin executed.so,out=FILE
 *
 * QEMU translates a block when it is about to run for the first time, and a block
 * of Rust runs to its end: what was translated was executed. FILE gets the address
 * of each such instruction, in hexadecimal.
 *
 * VERSION is that of QEMU's plugin interface; 7 leaves out the id that callbacks had
 * until then. The few calls that this needs are declared here, as no package has
 * the header.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if VERSION < 7
#define ID uint64_t id,
#else
#define ID
#endif

struct qemu_plugin_tb;
struct qemu_plugin_insn;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*cb)(ID void *data), void *data);
#if VERSION < 7
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(ID struct qemu_plugin_tb *tb));
#else
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(struct qemu_plugin_tb *tb,
								   void *data), void *data);
#endif

__attribute__((visibility("default"))) int qemu_plugin_version = VERSION;

/* Where a kernel lies that does not move itself. */
#define TEXT	0xffffffff81000000ULL
#define SIZE	(64ULL << 20)

static unsigned char executed[SIZE];
static const char *out;

#if VERSION < 7
static void translated(ID struct qemu_plugin_tb *tb)
#else
static void translated(struct qemu_plugin_tb *tb, void *data)
#endif
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		uint64_t at = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i)) - TEXT;

		if (at < SIZE)
			executed[at] = 1;
	}
}

static void finish(ID void *data)
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
#if VERSION < 7
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
#else
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
#endif
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}

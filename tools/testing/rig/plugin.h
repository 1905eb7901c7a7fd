/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's interface for TCG plugins, as much as ours need of it: no package has its header.
 *
 * VERSION is the interface's; 7 leaves out the id that callbacks had until then.
 */
#ifndef RIG_PLUGIN_H
#define RIG_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;

/* The parameters of callbacks. */
#if VERSION < 7
#define AT_EXIT		uint64_t id, void *data
#define TRANSLATED	uint64_t id, struct qemu_plugin_tb *tb
#define LAST_OF_TRANSLATED
#else
#define AT_EXIT		void *data
#define TRANSLATED	struct qemu_plugin_tb *tb, void *data
#define LAST_OF_TRANSLATED , void *data
#endif

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
					  void (*cb)(unsigned int cpu, void *data), int flags,
					  void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(TRANSLATED) LAST_OF_TRANSLATED);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*cb)(AT_EXIT), void *data);

/* Has @translated called for each block, and @finish when QEMU ends. */
static inline void plugin_watch(uint64_t id, void (*translated)(TRANSLATED),
				void (*finish)(AT_EXIT))
{
#if VERSION < 7
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
#else
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
#endif
	qemu_plugin_register_atexit_cb(id, finish, NULL);
}

__attribute__((visibility("default"))) int qemu_plugin_version = VERSION;

#endif

// SPDX-License-Identifier: GPL-2.0

#include <linux/rwsem.h>

__rust_helper void rust_helper_down_write_nest_lock(struct rw_semaphore *sem,
						    struct rw_semaphore *outer)
{
	down_write_nest_lock(sem, outer);
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Has each step of one thing fail once, as iommufd_fail_nth does: allocations, copies of
 * user memory (FAULT_INJECTION_USERCOPY), and what iommufd itself has fail
 * (IOMMUFD_TEST). After kselftest_harness.h.
 */
#ifndef VTD_SWEEP_H
#define VTD_SWEEP_H

#include "vtd_nested.h"

/* Runs of one thing, in the n-th of which the n-th step fails. */
struct sweep {
	int fd;			/* /proc/self/task/TID/fail-nth */
	unsigned int n;
	bool hit;		/* a step has failed in the last run */
	unsigned int failed;	/* runs with an error */
};

#define DEBUG "/sys/kernel/debug/"

static inline void sweep_begin(struct sweep *s)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%u/fail-nth", getpid());
	*s = (struct sweep){ .fd = open(path, O_RDWR | O_CLOEXEC) };
	sysfs_write(DEBUG "fail_page_alloc/ignore-gfp-wait", "N");
	sysfs_write(DEBUG "fail_page_alloc/ignore-gfp-highmem", "N");
	sysfs_write(DEBUG "fail_page_alloc/min-order", "0");
	sysfs_write(DEBUG "fail_page_alloc/verbose", "0");
	sysfs_write(DEBUG "failslab/verbose", "0");
	sysfs_write(DEBUG "fail_usercopy/verbose", "0");
	s->hit = s->fd >= 0 && !sysfs_write(DEBUG "failslab/ignore-gfp-wait", "N");
}

/* Before a run; false when no step failed in the last one. */
static inline bool sweep_arm(struct sweep *s)
{
	char text[16];

	if (!s->hit)
		return false;
	s->n++;
	snprintf(text, sizeof(text), "%u", s->n);
	return pwrite(s->fd, text, strlen(text), 0) > 0;
}

/* After it: what it returned. */
static inline int sweep_disarm(struct sweep *s, int rc)
{
	char text[16] = "";
	bool asked = pread(s->fd, text, sizeof(text), 0) > 0;

	/* These two fail as well where nothing has failed before. */
	if (pwrite(s->fd, "0", 1, 0) != 1) {
		asked = false;
		pwrite(s->fd, "0", 1, 0);
	}
	s->hit = asked && !strcmp(text, "0\n");
	s->failed += rc != 0;
	return rc;
}

/* In tests: runs @call until nothing fails in it; @rc is what it returned. */
#define FAIL_EACH(s, rc, call)                                                   \
	for ((rc) = -EBADF, sweep_begin(s);                                      \
	     sweep_arm(s) && ((rc) = sweep_disarm(s, call), true);)

/* An id that is not found, and a structure that is no good, are iommufd's own failures. */
static inline bool is_failure(int rc)
{
	return rc == -ENOMEM || rc == -EFAULT || rc == -ENOENT || rc == -EINVAL;
}

/* In their loops: whether it worked, and if not that it says why. */
#define WORKED(s, rc)                                                            \
	({                                                                       \
		EXPECT_TRUE(!(rc) || is_failure(rc))                             \
			TH_LOG("%d in run %u", (rc), (s)->n);                    \
		EXPECT_TRUE((s)->hit || !(rc))                                   \
			TH_LOG("%d in run %u, where nothing failed", (rc), (s)->n); \
		(rc) == 0;                                                       \
	})

/* Behind them: failures were seen, and the last run worked. */
#define SWEPT(s, rc)                                                             \
	({                                                                       \
		EXPECT_EQ(0, (rc));                                              \
		EXPECT_LT(1, (s)->n);                                            \
		EXPECT_LT(0, (s)->failed);                                       \
		TH_LOG("%u steps failed, %u with an error", (s)->n - 1, (s)->failed); \
		close((s)->fd);                                                  \
	})

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Most of a machine's memory, in pages of 4 KiB, goes into and out of page
 * tables in one call each: no processor stays away for 2 s, and who asks for
 * something else meanwhile gets it. Needs CONFIG_IOMMUFD_TEST,
 * CONFIG_SOFTLOCKUP_DETECTOR and no hardware.
 *
 * Kernels that always preempt let the watchdog in by themselves. What is seen
 * there are sections that keep others away: with preemption or interrupts off,
 * of RCU, or with a lock that others want.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_gone.h"

/* The mock hardware translates from 16 MiB to 2 GiB. */
#define IOVA (16UL << 20)
#define MOST ((2UL << 30) - IOVA)
/* So many that a call takes longer than the watchdog waits. */
#define TABLES 12
/* Who asks waits no longer than that, or a half of what is done meanwhile. */
#define PATIENCE_NS 200000000UL

FIXTURE(lockup)
{
	int fd, log;
	__u32 ioas_id, other_id, stdev;
	char *memory;
	unsigned long length;
};

static int set_to(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY), ret;

	if (fd < 0)
		return -1;
	ret = write(fd, value, strlen(value)) == (ssize_t)strlen(value) ? 0 : -1;
	close(fd);
	return ret;
}

FIXTURE_SETUP(lockup)
{
	unsigned long huge;

	/* A report after 2 s where a processor is away, and after 3 s where RCU waits. */
	if (set_to("/proc/sys/kernel/watchdog_thresh", "1"))
		SKIP(return, "the kernel has no watchdog");
	ASSERT_EQ(0, set_to("/proc/sys/kernel/soft_watchdog", "1"));
	ASSERT_EQ(0, set_to("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "3"));
	self->log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, self->log);
	ASSERT_LE(0, lseek(self->log, 0, SEEK_END));

	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	test_ioctl_ioas_alloc(&self->other_id);

	/* As much as there is, but what page tables and others need. */
	self->length = line_of("/proc/meminfo", "MemAvailable:") * 1024 / 100 * 60 / PG * PG;
	if (self->length > MOST)
		self->length = MOST;
	ASSERT_EQ(0, prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	huge = line_of("/proc/vmstat", "thp_fault_alloc ");
	self->memory = mmap(NULL, self->length, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	ASSERT_EQ(huge, line_of("/proc/vmstat", "thp_fault_alloc "));
	TH_LOG("%lu MiB", self->length >> 20);
}

/* Whether the kernel has said since the test began that somebody was kept away. */
static bool has_complained(int log)
{
	static const char *const words[] = { "soft lockup", "rcu_", "blocked for more" };
	char line[8192];
	bool ret = false;

	for (;;) {
		ssize_t len = read(log, line, sizeof(line) - 1);

		if (len < 0 && errno == EPIPE)
			continue;
		if (len < 0)
			return ret;
		line[len] = 0;
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			ret |= !!strstr(line, words[i]);
	}
}

FIXTURE_TEARDOWN(lockup)
{
	munmap(self->memory, self->length);
	if (self->fd >= 0)
		close(self->fd);
	EXPECT_FALSE(has_complained(self->log));
	close(self->log);
	set_to("/proc/sys/kernel/watchdog_thresh", "10");
}

static unsigned long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

/* Somebody who asks for what has nothing to do with the memory, again and again. */
struct asker {
	int fd;
	__u32 ioas;
	atomic_bool stop;
	unsigned long times, longest;
	int error;
};

static void *ask(void *arg)
{
	struct asker *asker = arg;
	struct iommu_iova_range range;
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd), .ioas_id = asker->ioas, .num_iovas = 1,
		.allowed_iovas = (uintptr_t)&range };

	while (!atomic_load(&asker->stop)) {
		unsigned long start = now(), took;

		cmd.num_iovas = 1;
		if (ioctl(asker->fd, IOMMU_IOAS_IOVA_RANGES, &cmd) && errno != EMSGSIZE)
			asker->error = errno;
		took = now() - start;
		asker->times++;
		if (took > asker->longest)
			asker->longest = took;
		usleep(10000);
	}
	return NULL;
}

/* Does something that takes long while somebody asks for the ranges of an IOAS. */
#define WHILE_ASKED(ioas_id_, what, action)                                                  \
	do {                                                                                 \
		struct asker _asker = { .fd = self->fd, .ioas = ioas_id_ };                  \
		unsigned long _start = now(), _took;                                         \
		pthread_t _thread;                                                           \
		ASSERT_EQ(0, pthread_create(&_thread, NULL, ask, &_asker));                  \
		action;                                                                      \
		_took = now() - _start;                                                      \
		atomic_store(&_asker.stop, true);                                            \
		ASSERT_EQ(0, pthread_join(_thread, NULL));                                   \
		TH_LOG("%s: %lu ms, who asked %lu times waited %lu ms at most", what,        \
		       _took / 1000000, _asker.times, _asker.longest / 1000000);             \
		EXPECT_EQ(0, _asker.error);                                                  \
		EXPECT_LE(1, _asker.times);                                                  \
		EXPECT_TRUE(_asker.longest < PATIENCE_NS || _asker.longest < _took / 2);     \
	} while (0)

/* Attaches a device to the IOAS and has as many page tables in it. */
#define ADD_TABLES()                                                                         \
	do {                                                                                 \
		__u32 _stdev, _idev, _hwpt;                                                  \
		test_cmd_mock_domain(self->ioas_id, &_stdev, NULL, &_idev);                  \
		for (int _i = 1; _i < TABLES; _i++)                                          \
			ASSERT_EQ(0, _test_cmd_hwpt_alloc(self->fd, _idev, self->ioas_id, 0, \
							  0, &_hwpt, IOMMU_HWPT_DATA_NONE,   \
							  NULL, 0));                         \
	} while (0)

/* The IOVAs of an IOAS can be seen while others of its are mapped and unmapped. */
TEST_F(lockup, map_and_unmap)
{
	ADD_TABLES();
	for (int i = 0; i < 2; i++) {
		WHILE_ASKED(self->ioas_id, "map",
			    test_ioctl_ioas_map_fixed(self->memory, self->length, IOVA));
		WHILE_ASKED(self->ioas_id, "unmap", test_ioctl_ioas_unmap(IOVA, self->length));
	}
}

/* In mappings of one page each there is an end every 4 KiB. */
TEST_F(lockup, map_and_unmap_page_by_page)
{
	unsigned long unmapped = 0;
	__u32 stdev;

	/* That many mappings take much longer than one of the same size. */
	self->length = self->length / 16 / PG * PG;
	test_cmd_mock_domain(self->ioas_id, &stdev, NULL, NULL);
	for (unsigned long at = 0; at < self->length; at += PG)
		test_ioctl_ioas_map_fixed(self->memory + at, PG, IOVA + at);
	WHILE_ASKED(self->ioas_id, "unmap",
		    ASSERT_EQ(0, _test_ioctl_ioas_unmap(self->fd, self->ioas_id, 0, UINT64_MAX,
							&unmapped)));
	EXPECT_EQ(self->length, unmapped);
}

/* Attaching and detaching hold the IOAS, but no other one. */
TEST_F(lockup, attach_and_detach)
{
	__u32 stdev;

	test_ioctl_ioas_map_fixed(self->memory, self->length, IOVA);
	WHILE_ASKED(self->other_id, "attach",
		    test_cmd_mock_domain(self->ioas_id, &stdev, NULL, NULL));
	WHILE_ASKED(self->other_id, "detach", test_ioctl_destroy(stdev));
}

/* The file is closed with all of it mapped. */
TEST_F(lockup, close)
{
	ADD_TABLES();
	test_ioctl_ioas_map_fixed(self->memory, self->length, IOVA);
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
}

TEST_HARNESS_MAIN

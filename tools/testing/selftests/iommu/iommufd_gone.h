/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether the kernel let go of all that a test had: what stays behind is seen
 * in sysfs, in the reference counts of pages, in what the user is charged for,
 * and by kmemleak. And numbers at random that come again with the same seed.
 */
#ifndef IOMMUFD_GONE_H
#define IOMMUFD_GONE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include "../../../../drivers/iommu/iommufd/iommufd_test.h"

#ifndef PG
#define PG 4096UL
#endif

/* xorshift: no two threads share one. */
struct dice {
	uint64_t state;
};

static inline uint64_t any(struct dice *dice)
{
	uint64_t x = dice->state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	dice->state = x;
	return x * 0x2545f4914f6cdd1dULL;
}

static inline uint64_t below(struct dice *dice, uint64_t limit)
{
	return (any(dice) >> 11) % limit;
}

static inline void seed_dice(struct dice *dice, uint64_t seed, uint64_t stream)
{
	dice->state = (seed + 1) * 0x9e3779b97f4a7c15ULL + (stream + 1) * 0xbf58476d1ce4e5b9ULL;
	if (!dice->state)
		dice->state = 1;
	for (int i = 0; i < 8; i++)
		any(dice);
}

/* A number from the environment. */
static inline uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static inline uint64_t some_seed(const char *name)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return setting(name, (now.tv_sec * 1000000007ULL + now.tv_nsec) & 0xffffffff);
}

static inline double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Entries of a folder, 0 when it is not there. */
static inline int entries(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int count = 0;

	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static inline int mock_devices(void)
{
	return entries("/sys/bus/iommufd_mock/devices");
}

/* The number behind `name` in a file of lines, in whatever unit; -1: not there. */
static inline long line_of(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	size_t length = strlen(name);
	char line[256];
	long number = -1;

	if (!file)
		return -1;
	while (number < 0 && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, name, length))
			number = atol(line + length);
	}
	fclose(file);
	return number;
}

/* Whether the kernel warned or died. */
static inline unsigned long complaints(void)
{
	return line_of("/proc/sys/kernel/tainted", "") & ((1 << 5) | (1 << 7) | (1 << 9));
}

/* What was there at the start, and must be at the end. */
struct before {
	unsigned long complaints;
	int devices, groups;
};

static inline void note(struct before *before)
{
	before->complaints = complaints();
	before->devices = mock_devices();
	before->groups = entries("/sys/kernel/iommu_groups");
}

/* Who may lock what they want is charged for nothing. */
static inline bool may_not_lock(void)
{
	cap_value_t lock = CAP_IPC_LOCK;
	cap_t caps = cap_get_proc();
	bool done = caps && !cap_set_flag(caps, CAP_EFFECTIVE, 1, &lock, CAP_CLEAR) &&
		    !cap_set_proc(caps);

	cap_free(caps);
	return done;
}

static inline int test_op(int fd, struct iommu_test_cmd *cmd, uint32_t op, uint32_t id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return ioctl(fd, IOMMU_TEST_CMD, cmd) < 0 ? -errno : 0;
}

/*
 * Whether the user is charged for nothing: as much as the limit allows can be
 * pinned, to the last page.
 */
static inline bool nothing_charged(void *memory, unsigned long pages)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_ioas_map map = {
		.size = sizeof(map), .flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_FIXED_IOVA,
		.user_va = (uintptr_t)memory, .length = pages * PG, .iova = MOCK_APERTURE_START,
	};
	struct iommu_test_cmd mock = {};
	struct rlimit old, small;
	bool fits = false;
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	if (fd < 0 || getrlimit(RLIMIT_MEMLOCK, &old))
		return false;
	small = old;
	small.rlim_cur = pages * PG;
	if (ioctl(fd, IOMMU_IOAS_ALLOC, &ioas))
		goto out;
	map.ioas_id = ioas.out_ioas_id;
	if (test_op(fd, &mock, IOMMU_TEST_OP_MOCK_DOMAIN, ioas.out_ioas_id) ||
	    setrlimit(RLIMIT_MEMLOCK, &small))
		goto out;
	fits = !ioctl(fd, IOMMU_IOAS_MAP, &map);
	if (fits) {
		/* One more is too much, or nothing is counted at all. */
		map.length = PG;
		map.iova += pages * PG;
		fits = ioctl(fd, IOMMU_IOAS_MAP, &map) && errno == ENOMEM;
	}
	setrlimit(RLIMIT_MEMLOCK, &old);
out:
	close(fd);
	return fits;
}

/* Whether no page of this memory is pinned. */
static inline bool nothing_pinned(void *memory, unsigned long length)
{
	struct iommu_test_cmd refs = {
		.check_refs = { .length = length, .uptr = (uintptr_t)memory } };
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	int rc = fd < 0 ? -errno : test_op(fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0);

	close(fd);
	return !rc;
}

/* What is left of a context that was closed; NULL: nothing. */
static inline const char *left_behind(const struct before *before, void *memory,
				      unsigned long length)
{
	/* Devices go when the last reference to them does, which may be a moment later. */
	for (int i = 0; i < 200 && mock_devices() > before->devices; i++)
		usleep(10000);
	if (mock_devices() != before->devices)
		return "mock devices in sysfs";
	if (entries("/sys/kernel/iommu_groups") != before->groups)
		return "IOMMU groups in sysfs";
	if (!nothing_pinned(memory, length))
		return "pinned pages";
	if (line_of("/proc/self/status", "VmPin:") > 0)
		return "a charge of the process";
	if (!nothing_charged(memory, 8))
		return "a charge of the user";
	if (complaints() != before->complaints)
		return "a complaint of the kernel, see its log";
	return NULL;
}

/* What kmemleak found since `kmemleak_forget()`, in lines; 0 also where there is none. */
static inline int kmemleak_lines(void)
{
	const char *path = "/sys/kernel/debug/kmemleak";
	FILE *file;
	char line[256];
	int count = 0;

	if (access(path, W_OK))
		return 0;
	/* Twice: the first scan may see what RCU is about to free. */
	for (int i = 0; i < 2; i++) {
		file = fopen(path, "w");
		if (!file)
			return 0;
		fputs("scan\n", file);
		fclose(file);
		sleep(6);
	}
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file)) {
		printf("# %s", line);
		count++;
	}
	if (file)
		fclose(file);
	return count;
}

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a user is charged for pinned memory (RLIMIT_MEMLOCK), in both ways of
 * counting: each mapping once, however many page tables it is in, and all of it
 * is given back. Needs CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <sys/mman.h>
#include <sys/wait.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_gone.h"

/* The mock hardware translates from 16 MiB on. */
#define IOVA (16UL << 20)
/* More than are pinned in one go. */
#define PAGES 1500
#define HWPTS 3

FIXTURE(memlock)
{
	struct before before;
	int fd, file;
	__u32 ioas_id, stdev, idev;
	void *memory;
};

FIXTURE_VARIANT(memlock)
{
	/* Charged to the process, as VFIO does it, and not to the user. */
	bool mm;
};

FIXTURE_VARIANT_ADD(memlock, user)
{
	.mm = false,
};

FIXTURE_VARIANT_ADD(memlock, mm)
{
	.mm = true,
};

static int limit_to(unsigned long pages)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return -errno;
	limit.rlim_cur = pages * PG;
	return setrlimit(RLIMIT_MEMLOCK, &limit) ? -errno : 0;
}

static int new_context(bool mm)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd), .option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET, .val64 = mm };
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, IOMMU_OPTION, &cmd)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int map_at(int fd, __u32 ioas, void *memory, __u64 iova, unsigned long pages)
{
	return _test_ioctl_ioas_map(fd, ioas, memory, pages * PG, &iova,
				    IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
				    IOMMU_IOAS_MAP_WRITEABLE);
}

static int map_file_at(int fd, __u32 ioas, int file, __u64 iova, unsigned long pages)
{
	return _test_ioctl_ioas_map_file(fd, ioas, file, 0, pages * PG, &iova,
					 IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
					 IOMMU_IOAS_MAP_WRITEABLE);
}

/* With hwpts an IOAS pins what is mapped in it. */
static int new_pinning_ioas(int fd, __u32 idev, __u32 *ioas, __u32 *hwpt)
{
	return _test_ioctl_ioas_alloc(fd, ioas) ?:
	       _test_cmd_hwpt_alloc(fd, idev, *ioas, 0, 0, hwpt, IOMMU_HWPT_DATA_NONE, NULL, 0);
}

/* Whether a limit of one page more lets one page more be pinned, and no second one. */
static bool one_more(bool mm, unsigned long charged)
{
	int fd = new_context(mm);
	__u32 ioas, stdev;
	void *page = mmap(NULL, 2 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			  0);
	struct rlimit old;
	bool fits;

	getrlimit(RLIMIT_MEMLOCK, &old);
	fits = fd >= 0 && page != MAP_FAILED && !_test_ioctl_ioas_alloc(fd, &ioas) &&
	       !_test_cmd_mock_domain(fd, ioas, &stdev, NULL, NULL) && !limit_to(charged + 1) &&
	       !map_at(fd, ioas, page, IOVA, 1) &&
	       map_at(fd, ioas, page + PG, IOVA + PG, 1) == -1 && errno == ENOMEM;
	setrlimit(RLIMIT_MEMLOCK, &old);
	close(fd);
	munmap(page, 2 * PG);
	return fits;
}

#define EXPECT_CHARGED(pages)						\
	do {								\
		EXPECT_EQ((pages) * 4, line_of("/proc/self/status", "VmPin:"));	\
		EXPECT_EQ(variant->mm ? (pages) * 4 : 0,		\
			  line_of("/proc/self/status", "VmLck:"));	\
		EXPECT_TRUE(one_more(variant->mm, pages));		\
	} while (0)

FIXTURE_SETUP(memlock)
{
	note(&self->before);
	ASSERT_TRUE(may_not_lock());
	self->memory = memfd_mmap(PAGES * PG, PROT_READ | PROT_WRITE, MAP_SHARED, &self->file);
	ASSERT_NE(MAP_FAILED, self->memory);
	self->fd = new_context(variant->mm);
	ASSERT_LE(0, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	test_cmd_mock_domain(self->ioas_id, &self->stdev, NULL, &self->idev);
	/* Pins nothing, so that the hwpts of a test are all there are. */
	test_ioctl_ioas_alloc(&self->ioas_id);
	ASSERT_EQ(0, limit_to(10 * PAGES));
	EXPECT_CHARGED(0);
}

FIXTURE_TEARDOWN(memlock)
{
	const char *left;

	close(self->fd);
	EXPECT_CHARGED(0);
	left = left_behind(&self->before, self->memory, PAGES * PG);
	EXPECT_EQ(NULL, left)
		TH_LOG("left behind: %s", left);
	munmap(self->memory, PAGES * PG);
	close(self->file);
}

/* Once for however many page tables, and as long as there is one. */
TEST_F(memlock, hwpts)
{
	__u32 hwpt[HWPTS];

	for (int mapped_first = 0; mapped_first < 2; mapped_first++) {
		if (mapped_first)
			ASSERT_EQ(0, map_at(self->fd, self->ioas_id, self->memory, IOVA, PAGES));
		EXPECT_CHARGED(0);
		for (int i = 0; i < HWPTS; i++) {
			test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt[i]);
			if (mapped_first)
				EXPECT_CHARGED(PAGES);
		}
		if (!mapped_first)
			ASSERT_EQ(0, map_at(self->fd, self->ioas_id, self->memory, IOVA, PAGES));
		for (int i = 0; i < HWPTS; i++) {
			EXPECT_CHARGED(PAGES);
			/* The first one, the last one, the one between. */
			test_ioctl_destroy(hwpt[i * 2 % HWPTS]);
		}
		EXPECT_CHARGED(0);
		test_ioctl_ioas_unmap(IOVA, PAGES * PG);
	}
}

/* Maps the file in a process that ends: what it was charged is gone then. */
static bool mapped_by_a_child(int fd, __u32 ioas, int file)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(map_file_at(fd, ioas, file, IOVA, PAGES) ? 1 : 0);
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       !WEXITSTATUS(status);
}

/* Who takes over what another one had pinned who has ended pays for it, once. */
TEST_F(memlock, payer_has_ended)
{
	struct iommu_ioas_change_process change = { .size = sizeof(change) };
	__u32 hwpt;

	/* Pinned all the time, and given back and pinned again after its end. */
	for (int again = 0; again < 2; again++) {
		test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
		ASSERT_TRUE(mapped_by_a_child(self->fd, self->ioas_id, self->file));
		EXPECT_EQ(0, line_of("/proc/self/status", "VmPin:"));
		if (again) {
			test_ioctl_destroy(hwpt);
			test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
		}
		EXPECT_EQ(0, ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &change));
		EXPECT_CHARGED(PAGES);
		test_ioctl_ioas_unmap(IOVA, PAGES * PG);
		EXPECT_CHARGED(0);
		test_ioctl_destroy(hwpt);
	}
}

/* A copy has the pages of its original, as long as either of them is there. */
TEST_F(memlock, copies)
{
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE,
		.src_ioas_id = self->ioas_id, .length = PAGES * PG, .src_iova = IOVA };
	__u32 hwpt, other, other_hwpt;

	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
	ASSERT_EQ(0, new_pinning_ioas(self->fd, self->idev, &other, &other_hwpt));
	for (int file = 0; file < 2; file++) {
		ASSERT_EQ(0, file ? map_file_at(self->fd, self->ioas_id, self->file, IOVA, PAGES) :
				    map_at(self->fd, self->ioas_id, self->memory, IOVA, PAGES));
		EXPECT_CHARGED(PAGES);
		copy.dst_ioas_id = self->ioas_id;
		copy.dst_iova = 2 * IOVA;
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy));
		EXPECT_CHARGED(PAGES);
		copy.dst_ioas_id = other;
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_COPY, &copy));
		EXPECT_CHARGED(PAGES);
		test_ioctl_ioas_unmap(IOVA, PAGES * PG);
		test_ioctl_ioas_unmap(2 * IOVA, PAGES * PG);
		EXPECT_CHARGED(PAGES);
		test_ioctl_ioas_unmap_id(other, 2 * IOVA, PAGES * PG);
		EXPECT_CHARGED(0);
	}
}

/* Mapped twice is pinned twice, of the same memory or the same file. */
TEST_F(memlock, twice)
{
	__u32 hwpt, other, other_hwpt;

	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
	ASSERT_EQ(0, new_pinning_ioas(self->fd, self->idev, &other, &other_hwpt));
	ASSERT_EQ(0, map_at(self->fd, self->ioas_id, self->memory, IOVA, PAGES));
	EXPECT_CHARGED(PAGES);
	ASSERT_EQ(0, map_at(self->fd, other, self->memory, IOVA, PAGES));
	EXPECT_CHARGED(2 * PAGES);
	ASSERT_EQ(0, map_file_at(self->fd, self->ioas_id, self->file, 2 * IOVA, PAGES));
	EXPECT_CHARGED(3 * PAGES);
	ASSERT_EQ(0, map_file_at(self->fd, other, self->file, 2 * IOVA, PAGES));
	EXPECT_CHARGED(4 * PAGES);
	test_ioctl_ioas_unmap(IOVA, PAGES * PG);
	test_ioctl_ioas_unmap_id(other, 2 * IOVA, PAGES * PG);
	EXPECT_CHARGED(2 * PAGES);
	/* With the hwpts go the pins. */
	test_ioctl_destroy(hwpt);
	EXPECT_CHARGED(PAGES);
	test_ioctl_destroy(other_hwpt);
	EXPECT_CHARGED(0);
}

/* A dma-buf is whose it is. */
TEST_F(memlock, dmabuf)
{
	__u32 hwpt, other, other_hwpt;
	int dmabuf;

	ASSERT_EQ(0, _test_cmd_get_dmabuf(self->fd, 512 * PG, &dmabuf));
	ASSERT_EQ(0, limit_to(0));
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
	ASSERT_EQ(0, map_file_at(self->fd, self->ioas_id, dmabuf, IOVA, 512));
	ASSERT_EQ(0, new_pinning_ioas(self->fd, self->idev, &other, &other_hwpt));
	ASSERT_EQ(0, map_file_at(self->fd, other, dmabuf, IOVA, 512));
	EXPECT_CHARGED(0);
	test_cmd_revoke_dmabuf(dmabuf, true);
	EXPECT_CHARGED(0);
	close(dmabuf);
}

/* One page too many: nothing is mapped, nothing stays charged, and what fits does. */
TEST_F(memlock, limit)
{
	/* Within the first go, with the second, and at the very end. */
	static const unsigned long limits[] = { 0, 1, 511, 512, 513, 1024, PAGES - 1 };
	__u32 hwpt[2];

	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt[0]);
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt[1]);
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		for (int file = 0; file < 2; file++) {
			unsigned long n = limits[i];

			ASSERT_EQ(0, limit_to(n));
			EXPECT_EQ(-1, file ? map_file_at(self->fd, self->ioas_id, self->file, IOVA,
							 n + 1) :
					     map_at(self->fd, self->ioas_id, self->memory, IOVA,
						    n + 1));
			EXPECT_EQ(ENOMEM, errno);
			EXPECT_CHARGED(0);
			check_refs(self->memory, PAGES * PG, 0);
			if (!n)
				continue;
			ASSERT_EQ(0, file ? map_file_at(self->fd, self->ioas_id, self->file, IOVA,
							n) :
					    map_at(self->fd, self->ioas_id, self->memory, IOVA, n));
			ASSERT_EQ(0, limit_to(10 * PAGES));
			EXPECT_CHARGED(n);
			test_ioctl_ioas_unmap(IOVA, n * PG);
			EXPECT_CHARGED(0);
		}
	}
}

/* The same when it is the hwpt that pins: it is not made, and nothing is left of it. */
TEST_F(memlock, limit_of_a_hwpt)
{
	__u32 hwpt;

	/* Three mappings, of which only two may be pinned. */
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, map_at(self->fd, self->ioas_id, self->memory, IOVA + i * PAGES * PG,
				    PAGES));
	ASSERT_EQ(0, limit_to(3 * PAGES - 1));
	EXPECT_ERRNO(ENOMEM, _test_cmd_hwpt_alloc(self->fd, self->idev, self->ioas_id, 0, 0, &hwpt,
						  IOMMU_HWPT_DATA_NONE, NULL, 0));
	EXPECT_CHARGED(0);
	check_refs(self->memory, PAGES * PG, 0);
	ASSERT_EQ(0, limit_to(3 * PAGES));
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
	EXPECT_CHARGED(3 * PAGES);
}

/* An access pins what no page table has pinned. */
TEST_F(memlock, accesses)
{
	struct iommu_test_cmd pin = { .access_pages = { .iova = IOVA, .length = 600 * PG,
							.uptr = (uintptr_t)self->memory } };
	struct iommu_test_cmd unpin = {};
	__u32 access, hwpt;

	ASSERT_EQ(0, map_at(self->fd, self->ioas_id, self->memory, IOVA, PAGES));
	test_cmd_create_access(self->ioas_id, &access, MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	ASSERT_EQ(0, limit_to(599));
	EXPECT_EQ(-ENOMEM, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	EXPECT_CHARGED(0);
	ASSERT_EQ(0, limit_to(10 * PAGES));
	ASSERT_EQ(0, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	EXPECT_CHARGED(600);
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, 0, &hwpt);
	EXPECT_CHARGED(PAGES);
	test_ioctl_destroy(hwpt);
	EXPECT_CHARGED(600);
	unpin.destroy_access_pages.access_pages_id = pin.access_pages.out_access_pages_id;
	ASSERT_EQ(0, test_op(self->fd, &unpin, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, access));
	EXPECT_CHARGED(0);
	test_cmd_destroy_access(access);
}

TEST_HARNESS_MAIN

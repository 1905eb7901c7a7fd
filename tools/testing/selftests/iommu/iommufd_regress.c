// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the C implementation got wrong at one time or another, seen from user
 * space: each test fails on a kernel that does it again. Needs
 * CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <linux/vfio.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_log.h"

#define PG 4096UL
/* The mock hardware translates from 16 MiB on. */
#define IOVA (16UL << 20)

FIXTURE(regress)
{
	int fd;
	__u32 ioas_id;
	void *memory;
};

FIXTURE_SETUP(regress)
{
	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	self->memory = mmap(NULL, 4 * PG, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
}

FIXTURE_TEARDOWN(regress)
{
	munmap(self->memory, 4 * PG);
	teardown_iommufd(self->fd, _metadata);
}

/*
 * A walk ended at the first hole, so that what is mapped behind it was told clean. What does not
 * lie in a mapping has no dirty bits, and is no error. (iommufd_dirty has the details.)
 */
TEST_F(regress, dirty_bitmap_with_a_hole)
{
	static const __u64 ends = 5;
	__u32 stdev, hwpt, idev, tracked;
	__u64 bitmap = 0, count;

	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	test_cmd_hwpt_alloc(idev, self->ioas_id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
			    &tracked);
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	test_ioctl_ioas_map_fixed(self->memory + 2 * PG, PG, IOVA + 2 * PG);
	test_cmd_set_dirty_tracking(tracked, true);
	test_cmd_mock_domain_set_dirty(self->fd, tracked, 3 * PG, IOVA, PG, (__u64 *)&ends, &count);

	ASSERT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, 3 * PG, IOVA, PG, &bitmap, 0));
	EXPECT_EQ(ends, bitmap);
	/* Nothing is mapped at its end; nothing is mapped at all; and all of it is clean now. */
	bitmap = 0;
	EXPECT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, 2 * PG, IOVA, PG, &bitmap, 0));
	EXPECT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, PG, IOVA + 8 * PG, PG, &bitmap,
						0));
	EXPECT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, 3 * PG, IOVA, PG, &bitmap, 0));
	EXPECT_EQ(0, bitmap);
	test_ioctl_destroy(tracked);
	test_ioctl_destroy(stdev);
}

/* A page of memory with nothing behind it, or NULL where the last one is taken. */
static void *page_at_the_end(bool of_addresses)
{
	/* User addresses of 5 and of 4 levels of page tables, each less a guard page. */
	static const unsigned long ends[] = { (1UL << 56) - PG, (1UL << 47) - PG };
	char *at;

	if (!of_addresses) {
		at = mmap(NULL, 2 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED || munmap(at + PG, PG))
			return NULL;
		return at;
	}
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		at = mmap((void *)(ends[i] - PG), PG, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (at != MAP_FAILED)
			return at;
	}
	return NULL;
}

/*
 * More was pinned than the pages that a bitmap lies in, and no error came of bits
 * that had no place: they were lost.
 */
TEST_F(regress, dirty_bitmap_at_the_end)
{
	static const __u64 both = 3;
	__u32 stdev, hwpt, idev, tracked;

	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	test_cmd_hwpt_alloc(idev, self->ioas_id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &tracked);
	test_ioctl_ioas_map_fixed(self->memory, 2 * PG, IOVA);
	test_cmd_set_dirty_tracking(tracked, true);
	for (int of_addresses = 0; of_addresses < 2; of_addresses++) {
		char *page = page_at_the_end(of_addresses);
		__u64 *last = (__u64 *)(page + PG) - 1, count;

		if (!page) {
			TH_LOG("user addresses end with the stack, which is in use");
			continue;
		}
		test_cmd_mock_domain_set_dirty(self->fd, tracked, 2 * PG, IOVA, PG,
					       (__u64 *)&both, &count);
		ASSERT_EQ(2, count);
		*last = 0;
		EXPECT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, 2 * PG, IOVA, PG, last,
							0));
		EXPECT_EQ(both, *last)
			TH_LOG("at %p", last);
		/* Nothing is behind it. */
		test_cmd_mock_domain_set_dirty(self->fd, tracked, 2 * PG, IOVA, PG,
					       (__u64 *)&both, &count);
		EXPECT_ERRNO(EFAULT, _test_cmd_get_dirty_bitmap(self->fd, tracked, 2 * PG, IOVA,
								PG, last + 1, 0));
		/* They were kept. */
		*last = 0;
		EXPECT_EQ(0, _test_cmd_get_dirty_bitmap(self->fd, tracked, 2 * PG, IOVA, PG, last,
							0));
		EXPECT_EQ(both, *last);
		/* It does not depend on what is dirty. */
		EXPECT_ERRNO(EFAULT, _test_cmd_get_dirty_bitmap(self->fd, tracked, 2 * PG, IOVA,
								PG, last + 1, 0));
		munmap(page, PG);
	}
	test_ioctl_destroy(tracked);
	test_ioctl_destroy(stdev);
}

/* A hwpt is busy while something is attached to it, not longer and not shorter. */
TEST_F(regress, attachment_holds_its_hwpt)
{
	__u32 stdev, automatic, idev, one, two;

	test_cmd_mock_domain(self->ioas_id, &stdev, &automatic, &idev);
	test_cmd_hwpt_alloc(idev, self->ioas_id, 0, &one);
	test_cmd_hwpt_alloc(idev, self->ioas_id, 0, &two);

	test_cmd_mock_domain_replace(stdev, one);
	/* It was made for the attachment, and went with it. */
	EXPECT_ERRNO(ENOENT, _test_ioctl_destroy(self->fd, automatic));
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, one));
	/* To where it is: nothing changes. */
	test_cmd_mock_domain_replace(stdev, one);
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, one));

	test_cmd_mock_domain_replace(stdev, two);
	test_ioctl_destroy(one);
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, two));
	/* One that fails changes nothing. */
	test_err_mock_domain_replace(ENOENT, stdev, one);
	test_err_mock_domain_replace(EINVAL, stdev, idev);
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, two));

	test_ioctl_destroy(stdev);
	test_ioctl_destroy(two);
}

/* The IOAS that an access is on was lost, or its id overwritten, by a failure. */
TEST_F(regress, access_stays_where_it_is)
{
	__u32 access, other;

	test_cmd_create_access(self->ioas_id, &access, MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	test_ioctl_ioas_alloc(&other);
	/* Not aligned to pages, so the access cannot go there. */
	{
		struct iommu_ioas_map map = {
			.size = sizeof(map),
			.flags = IOMMU_IOAS_MAP_FIXED_IOVA |
				 IOMMU_IOAS_MAP_READABLE,
			.ioas_id = other,
			.user_va = (uintptr_t)self->memory + 1,
			.length = 5,
			.iova = IOVA + 1,
		};
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_MAP, &map));
	}
	EXPECT_ERRNO(EADDRINUSE, _test_cmd_access_replace_ioas(self->fd, access, other));
	EXPECT_ERRNO(ENOENT, _test_cmd_access_replace_ioas(self->fd, access, 0x7fffffff));
	/* It is still on the first: that is busy, and the other is not. */
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, self->ioas_id));
	{
		struct iommu_ioas_unmap unmap = {
			.size = sizeof(unmap),
			.ioas_id = other,
			.iova = 0,
			.length = UINT64_MAX,
		};
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_UNMAP, &unmap));
	}
	test_ioctl_destroy(other);
	test_cmd_destroy_access(access);
	test_ioctl_destroy(self->ioas_id);
}

#define ROOM (64UL << 20)

/* A lookup of a device that lasts: what there is no information for is zeroed. */
struct asker {
	int fd;
	__u32 idev;
	void *room;
	int last_errno;
};

static void *ask(void *arg)
{
	struct asker *asker = arg;
	struct iommu_hw_info cmd;

	do {
		cmd = (struct iommu_hw_info){ .size = sizeof(cmd), .dev_id = asker->idev,
					      .data_len = ROOM,
					      .data_uptr = (uintptr_t)asker->room };
	} while (!ioctl(asker->fd, IOMMU_GET_HW_INFO, &cmd));
	asker->last_errno = errno;
	return NULL;
}

/* Who ended the last lookup did not wake who waited for that: it took a minute. */
TEST_F_TIMEOUT(regress, destroy_is_woken, 120)
{
	struct timespec start, end;
	struct asker asker = { .fd = self->fd };
	pthread_t thread;
	__u32 stdev;

	asker.room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, asker.room);
	test_cmd_mock_domain(self->ioas_id, &stdev, NULL, &asker.idev);
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask, &asker));
	usleep(300000);
	clock_gettime(CLOCK_MONOTONIC, &start);
	test_ioctl_destroy(stdev);
	clock_gettime(CLOCK_MONOTONIC, &end);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(ENOENT, asker.last_errno);
	EXPECT_GT(20, end.tv_sec - start.tv_sec);
	munmap(asker.room, ROOM);
}

/* A length that nothing is behind took memory for as many pages, up to all there is. */
TEST_F(regress, queue_of_pages_that_are_not)
{
	__u32 stdev, hwpt, idev, parent, viommu, queue;

	test_ioctl_ioas_map_fixed(self->memory, 4 * PG, IOVA);
	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	test_cmd_hwpt_alloc(idev, self->ioas_id, IOMMU_HWPT_ALLOC_NEST_PARENT, &parent);
	test_cmd_viommu_alloc(idev, parent, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0, &viommu);
	/* The array alone would be 1.5 GiB. */
	test_err_hw_queue_alloc(ENOENT, viommu, IOMMU_HW_QUEUE_TYPE_SELFTEST, 0, IOVA,
				3ULL << 38, &queue);
	test_cmd_hw_queue_alloc(viommu, IOMMU_HW_QUEUE_TYPE_SELFTEST, 0, IOVA, PG, &queue);
	test_ioctl_destroy(queue);
	test_ioctl_destroy(viommu);
	test_ioctl_destroy(parent);
	test_ioctl_destroy(stdev);
}

static int map_somewhere(int fd, __u32 ioas, __u64 from, __u64 length, __u64 *iova)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas,
		.user_va = from,
		.length = length,
	};
	int ret = ioctl(fd, IOMMU_IOAS_MAP, &cmd) ? -errno : 0;

	*iova = cmd.iova;
	return ret;
}

/* Aligning near the end of all addresses came back to 0: CVE-2024-47719, CVE-2025-38688. */
TEST_F(regress, end_of_iovas)
{
	static const __u64 lengths[] = { PG, 2 * PG, 3 * PG, 1UL << 21 };
	void *room = mmap(NULL, 4UL << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	__u64 from = ((__u64)room + (1UL << 21) - 1) & -(1UL << 21);
	unsigned int maps = 0;

	ASSERT_NE(MAP_FAILED, room);
	for (__u64 pages = 1; pages <= 1026; pages += pages < 6 ? 1 : 255) {
		struct iommu_iova_range range = { .start = -(pages * PG), .last = -1 };
		struct iommu_ioas_allow_iovas allow = {
			.size = sizeof(allow),
			.num_iovas = 1,
			.allowed_iovas = (__u64)&range,
		};

		for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
			__u64 iova = 0;
			__u32 ioas;
			int ret;

			test_ioctl_ioas_alloc(&ioas);
			allow.ioas_id = ioas;
			ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_ALLOW_IOVAS, &allow));
			while (!(ret = map_somewhere(self->fd, ioas, from, lengths[i], &iova))) {
				maps++;
				ASSERT_LE(range.start, iova);
				ASSERT_GE(range.last, iova + lengths[i] - 1);
				ASSERT_LT(iova, iova + lengths[i] - 1);
			}
			ASSERT_EQ(-ENOSPC, ret);
			test_ioctl_destroy(ioas);
		}
	}
	/* There was room at times. */
	ASSERT_LT(100, maps);
	munmap(room, 4UL << 20);
}

/* Unmaps the half of all IOVAs that begins there; returns an errno. */
static int unmap_half(int fd, __u32 ioas, bool vfio, __u64 from, __u64 *unmapped)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd), .ioas_id = ioas, .iova = from, .length = 1ULL << 63 };
	struct vfio_iommu_type1_dma_unmap vfio_cmd = {
		.argsz = sizeof(vfio_cmd), .iova = from, .size = 1ULL << 63 };
	int rc = vfio ? ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &vfio_cmd) :
			ioctl(fd, IOMMU_IOAS_UNMAP, &cmd);

	*unmapped = vfio ? vfio_cmd.size : cmd.length;
	return rc ? errno : 0;
}

/* All IOVAs are one more than a length can say, so who unmaps them does it in halves. */
TEST_F(regress, unmap_in_halves)
{
	static const __u64 half = 1ULL << 63;
	static const struct {
		__u64 iova, length;
		bool upper;
	} table[] = {
		{ 0, PG, false },
		{ IOVA, 4 * PG, false },
		{ half - PG, PG, false },
		{ half, PG, true },
		{ half + 3 * PG, PG, true },
		{ -4 * PG, 4 * PG, true },
	};
	struct iommu_vfio_ioas set = {
		.size = sizeof(set),
		.ioas_id = self->ioas_id,
		.op = IOMMU_VFIO_IOAS_SET,
	};

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_VFIO_IOAS, &set));
	/* By iommufd's ioctl, and by VFIO's as of its second version. */
	for (int vfio = 0; vfio < 2; vfio++) {
		__u64 mapped[2] = {};

		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			test_ioctl_ioas_map_fixed(self->memory, table[i].length, table[i].iova);
			mapped[table[i].upper] += table[i].length;
		}
		for (int upper = 0; upper < 2; upper++) {
			__u64 length;

			EXPECT_EQ(0, unmap_half(self->fd, self->ioas_id, vfio, upper ? half : 0,
						&length));
			EXPECT_EQ(mapped[upper], length)
				TH_LOG("%s half, vfio %d", upper ? "upper" : "lower", vfio);
			/* Then there is nothing, which VFIO says in bytes. */
			EXPECT_EQ(vfio ? 0 : ENOENT,
				  unmap_half(self->fd, self->ioas_id, vfio, upper ? half : 0,
					     &length));
			if (vfio)
				EXPECT_EQ(0, length);
		}
		/* A mapping on the border is in neither half. */
		test_ioctl_ioas_map_fixed(self->memory, 2 * PG, half - PG);
		for (int upper = 0; upper < 2; upper++) {
			__u64 length;

			EXPECT_EQ(ENOENT, unmap_half(self->fd, self->ioas_id, vfio,
						     upper ? half : 0, &length));
		}
		test_ioctl_ioas_unmap(half - PG, 2 * PG);
	}
}

/* A user's range that wraps: CVE-2023-54239. */
TEST_F(regress, end_of_user_addresses)
{
	static const struct {
		__u64 from, length;
		int error;
	} table[] = {
		{ -PG, 2 * PG, -EOVERFLOW },
		{ -PG, -PG, -EOVERFLOW },
		{ PG, -PG, -EOVERFLOW },
		{ -1ULL, 1, -EOVERFLOW },
		{ 0, 0, -EINVAL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		__u64 iova;

		EXPECT_EQ(table[i].error, map_somewhere(self->fd, self->ioas_id, table[i].from,
							table[i].length, &iova))
			TH_LOG("row %zu", i);
	}
}

/* What VFIO's unmap had done before it met an error was told as nothing. */
TEST_F(regress, vfio_unmap_on_the_way)
{
	struct iommu_vfio_ioas set = {
		.size = sizeof(set),
		.ioas_id = self->ioas_id,
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = IOVA,
		.size = 2 * PG,
	};
	__u32 stdev, hwpt, idev;

	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_VFIO_IOAS, &set));
	/* Of the second version, which does not cut mappings. */
	ASSERT_EQ(0, ioctl(self->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	test_ioctl_ioas_map_fixed(self->memory + PG, 2 * PG, IOVA + PG);

	EXPECT_ERRNO(ENOENT, ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap));
	EXPECT_EQ(PG, unmap.size);
	/* Only the second mapping is left. */
	unmap.size = 3 * PG;
	EXPECT_EQ(0, ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap));
	EXPECT_EQ(2 * PG, unmap.size);
	/* With the flag that unmaps all, a range is refused and stays as it is. */
	unmap.flags = VFIO_DMA_UNMAP_FLAG_ALL;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_IOMMU_UNMAP_DMA, &unmap));
	EXPECT_EQ(2 * PG, unmap.size);
	test_ioctl_destroy(stdev);
}

/* What can neither be read nor written is not mapped, whether there is a page table or not. */
TEST_F(regress, vfio_map_without_access)
{
	struct iommu_vfio_ioas set = {
		.size = sizeof(set),
		.ioas_id = self->ioas_id,
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.vaddr = (uintptr_t)self->memory,
		.iova = IOVA,
		.size = PG,
	};
	__u32 stdev;

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_VFIO_IOAS, &set));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_IOMMU_MAP_DMA, &map));
	test_cmd_mock_domain(self->ioas_id, &stdev, NULL, NULL);
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_IOMMU_MAP_DMA, &map));
	map.flags = VFIO_DMA_MAP_FLAG_WRITE;
	EXPECT_EQ(0, ioctl(self->fd, VFIO_IOMMU_MAP_DMA, &map));
	test_ioctl_destroy(stdev);
}

/* What cannot be mapped is told first, and then that there is no such fault queue. */
TEST_F(regress, fault_queue_comes_last)
{
	void *gone = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	__u32 stdev, hwpt, idev, other, none;

	ASSERT_NE(MAP_FAILED, gone);
	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	test_ioctl_ioas_alloc(&other);
	test_err_hwpt_alloc_iopf(ENOENT, idev, other, 0x7fffffff, IOMMU_HWPT_FAULT_ID_VALID, &none,
				 IOMMU_HWPT_DATA_NONE, NULL, 0);
	/* Nothing is pinned before there is a hwpt. */
	{
		struct iommu_ioas_map map = {
			.size = sizeof(map),
			.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE,
			.ioas_id = other,
			.user_va = (uintptr_t)gone,
			.length = PG,
			.iova = IOVA,
		};
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_MAP, &map));
	}
	munmap(gone, PG);
	test_err_hwpt_alloc_iopf(EFAULT, idev, other, 0x7fffffff, IOMMU_HWPT_FAULT_ID_VALID, &none,
				 IOMMU_HWPT_DATA_NONE, NULL, 0);
	/* Neither left anything behind. */
	test_ioctl_destroy(other);
	test_ioctl_destroy(stdev);
}

struct reporter {
	int fd;
	__u32 idev;
	bool done;
};

static void *report_faults(void *arg)
{
	struct reporter *reporter = arg;
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_TRIGGER_IOPF,
		.trigger_iopf = {
			.dev_id = reporter->idev,
			.pasid = 1,
			.perm = IOMMU_PGFAULT_PERM_READ,
			.addr = IOVA,
		},
	};

	while (!__atomic_load_n(&reporter->done, __ATOMIC_ACQUIRE))
		ioctl(reporter->fd, _IOMMU_TEST_CMD(IOMMU_TEST_OP_TRIGGER_IOPF), &cmd);
	return NULL;
}

/*
 * A device gave its queue of faults up, with all that waited in it, while one of them was on
 * its way to its handler, who had freed memory then and put a count once more.
 */
TEST_F_TIMEOUT(regress, fault_as_its_source_goes, 120)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	__u32 stdev, parent, hwpt, fault_id, fault_fd;
	struct reporter reporter = { .fd = self->fd };
	struct timespec now, end;
	int log = log_open();
	pthread_t thread;

	test_cmd_mock_domain_flags(self->ioas_id, MOCK_FLAGS_DEVICE_PASID, &stdev, NULL,
				   &reporter.idev);
	test_ioctl_fault_alloc(&fault_id, &fault_fd);
	test_cmd_hwpt_alloc(reporter.idev, self->ioas_id,
			    IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID, &parent);
	test_cmd_hwpt_alloc_iopf(reporter.idev, parent, fault_id,
				 IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID, &hwpt,
				 IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data));
	/* What goes with PASIDs, and has no faults. */
	test_cmd_mock_domain_replace(stdev, parent);
	ASSERT_EQ(0, pthread_create(&thread, NULL, report_faults, &reporter));
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += 5;
	do {
		ASSERT_EQ(0, _test_cmd_pasid_attach(self->fd, stdev, 1, hwpt));
		ASSERT_EQ(0, _test_cmd_pasid_detach(self->fd, stdev, 1));
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	__atomic_store_n(&reporter.done, true, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_FALSE(log_has_warning(log));
	close(fault_fd);
	test_ioctl_destroy(stdev);
	test_ioctl_destroy(hwpt);
	test_ioctl_destroy(parent);
}

/* Shifts by and divisions through what user space says: CVE-2025-21724, CVE-2025-40293. */
TEST_F(regress, dirty_bitmap_bounds)
{
	static const struct {
		__u64 iova, length, page_size;
		int error;
	} table[] = {
		{ IOVA, PG, 0, EINVAL },
		{ IOVA, PG, 2 * PG, EINVAL },
		{ IOVA, PG, 1ULL << 63, EINVAL },
		{ IOVA, PG, -1ULL, EINVAL },
		{ IOVA, PG, 3, EINVAL },
		{ 0, 3 * PG, 3 * PG, EINVAL },
		{ 0, -1ULL, 1ULL << 63, EINVAL },
		{ IOVA, 0, PG, EINVAL },
		{ IOVA, 1, PG, EINVAL },
		{ IOVA, -PG, PG, EOVERFLOW },
		{ -PG, 2 * PG, PG, EOVERFLOW },
		{ IOVA + 1, PG, PG, EINVAL },
	};
	__u32 stdev, hwpt, idev, tracked;

	test_cmd_mock_domain(self->ioas_id, &stdev, &hwpt, &idev);
	test_cmd_hwpt_alloc(idev, self->ioas_id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &tracked);
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct iommu_hwpt_get_dirty_bitmap cmd = {
			.size = sizeof(cmd),
			.hwpt_id = tracked,
			.iova = table[i].iova,
			.length = table[i].length,
			.page_size = table[i].page_size,
			.data = (__u64)self->memory,
		};

		EXPECT_EQ(-1, ioctl(self->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd))
			TH_LOG("row %zu", i);
		EXPECT_EQ(table[i].error, errno)
			TH_LOG("row %zu", i);
	}
	test_ioctl_destroy(tracked);
	test_ioctl_destroy(stdev);
}

TEST_HARNESS_MAIN

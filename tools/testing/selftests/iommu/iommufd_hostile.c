// SPDX-License-Identifier: GPL-2.0-only
/*
 * A user space that means no good, on the mock device: wrong lengths, ids and
 * descriptors, numbers that wrap, objects that go in the wrong order, and
 * requests at random. Whatever it is told, the kernel must neither complain
 * nor lose anything. Needs CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include "kselftest_harness.h"
#include "../../../../drivers/iommu/iommufd/iommufd_test.h"

#define PAGE 4096UL
#define PAGES 64
/* The mock hardware translates from 16 MiB on. */
#define IOVA 0x2000000UL
#define TEST_CMD _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32)

/* Bits of it say that the kernel warned or died. */
static unsigned long taint_bits(void)
{
	unsigned long bits = 0;
	FILE *file = fopen("/proc/sys/kernel/tainted", "r");

	if (file) {
		if (fscanf(file, "%lu", &bits) != 1)
			bits = 0;
		fclose(file);
	}
	return bits & ((1 << 5) | (1 << 7) | (1 << 9));
}

static int test_op(int fd, struct iommu_test_cmd *cmd, uint32_t op, uint32_t id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return ioctl(fd, TEST_CMD, cmd) < 0 ? -errno : 0;
}

static int new_ioas(int fd, uint32_t *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(fd, IOMMU_IOAS_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_ioas_id;
	return 0;
}

static int destroy(int fd, uint32_t id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(fd, IOMMU_DESTROY, &cmd) ? -errno : 0;
}

static int new_hwpt(int fd, uint32_t dev, uint32_t pt, uint32_t flags, uint32_t *id)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd), .flags = flags, .dev_id = dev, .pt_id = pt,
		.data_type = IOMMU_HWPT_DATA_SELFTEST, .data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};

	if (ioctl(fd, IOMMU_HWPT_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_hwpt_id;
	return 0;
}

static int map(int fd, uint32_t ioas, void *memory, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd), .ioas_id = ioas, .user_va = (uintptr_t)memory,
		.iova = iova, .length = length,
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
	};

	return ioctl(fd, IOMMU_IOAS_MAP, &cmd) ? -errno : 0;
}

static int pasid_op(int fd, uint32_t op, uint32_t stdev, uint32_t pasid, uint32_t pt)
{
	struct iommu_test_cmd cmd = { .pasid_attach = { .pasid = pasid, .pt_id = pt } };

	return test_op(fd, &cmd, op, stdev);
}

FIXTURE(hostile)
{
	int fd;
	unsigned long tainted;
	uint32_t ioas, stdev, idev, auto_hwpt;
	/* Can be attached to PASIDs. */
	uint32_t hwpt;
	void *memory;
};

FIXTURE_SETUP(hostile)
{
	struct iommu_test_cmd cmd = {
		.mock_domain_flags = { .dev_flags = MOCK_FLAGS_DEVICE_PASID },
	};
	struct iommu_test_cmd replace = {};

	self->tainted = taint_bits();
	self->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (self->fd < 0)
		SKIP(return, "/dev/iommu does not open: %s", strerror(errno));
	/* Nothing can be read behind its end. */
	self->memory = mmap(NULL, (PAGES + 1) * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	ASSERT_EQ(0, mprotect(self->memory + PAGES * PAGE, PAGE, PROT_NONE));
	ASSERT_EQ(0, new_ioas(self->fd, &self->ioas));
	ASSERT_EQ(0, test_op(self->fd, &cmd, IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, self->ioas));
	self->stdev = cmd.mock_domain_flags.out_stdev_id;
	self->idev = cmd.mock_domain_flags.out_idev_id;
	self->auto_hwpt = cmd.mock_domain_flags.out_hwpt_id;
	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, self->ioas, IOMMU_HWPT_ALLOC_PASID,
			      &self->hwpt));
	/* Where DMA without PASID goes must allow PASIDs, too. */
	replace.mock_domain_replace.pt_id = self->hwpt;
	ASSERT_EQ(0, test_op(self->fd, &replace, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, self->stdev));
}

FIXTURE_TEARDOWN(hostile)
{
	if (self->fd >= 0)
		close(self->fd);
	munmap(self->memory, (PAGES + 1) * PAGE);
	EXPECT_EQ(self->tainted, taint_bits())
		TH_LOG("the kernel complained, see its log");
}

TEST_F(hostile, pasid_attached_at_close)
{
	for (uint32_t pasid = 1; pasid <= 40; pasid++)
		ASSERT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev,
				      pasid * 999, self->hwpt));
	ASSERT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 999, 0));
	/* Closing a context that lost an object leaves nothing for the next. */
	close(self->fd);
	self->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

TEST_F(hostile, pasid_attached_at_destroy)
{
	ASSERT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, 1, self->hwpt));
	ASSERT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, 0xfffff,
			      self->hwpt));
	EXPECT_EQ(-EBUSY, destroy(self->fd, self->hwpt));
	EXPECT_EQ(0, destroy(self->fd, self->stdev));
	/* All that it held is free. */
	EXPECT_EQ(-ENOENT, destroy(self->fd, self->idev));
	EXPECT_EQ(0, destroy(self->fd, self->hwpt));
	EXPECT_EQ(0, destroy(self->fd, self->ioas));
}

TEST_F(hostile, pasid_odd_order)
{
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 7, 0));
	EXPECT_NE(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_REPLACE, self->stdev, 7, self->hwpt));
	ASSERT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, 7, self->hwpt));
	EXPECT_NE(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, 7, self->hwpt));
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_CHECK_HWPT, self->stdev, 7,
			      self->hwpt));
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 7, 0));
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 7, 0));
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_CHECK_HWPT, self->stdev, 7, 0));
	EXPECT_NE(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, 1 << 20,
			      self->hwpt));
	EXPECT_NE(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_ATTACH, self->stdev, UINT32_MAX,
			      self->hwpt));
	/* DMA without PASID is PASID 0: detached twice it is still only detached. */
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 0, 0));
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_DETACH, self->stdev, 0, 0));
	EXPECT_EQ(0, destroy(self->fd, self->stdev));
}

TEST_F(hostile, pasid_no_room_for_the_answer)
{
	struct iommu_test_cmd *cmd = self->memory;

	cmd->pasid_attach.pasid = 5;
	cmd->pasid_attach.pt_id = self->hwpt;
	cmd->size = sizeof(*cmd);
	cmd->op = IOMMU_TEST_OP_PASID_ATTACH;
	cmd->id = self->stdev;
	ASSERT_EQ(0, mprotect(self->memory, PAGE, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->fd, TEST_CMD, cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, pasid_op(self->fd, IOMMU_TEST_OP_PASID_CHECK_HWPT, self->stdev, 5, 0));
}

TEST_F(hostile, own_descriptor)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd), .length = PAGE,
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
	};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), pipes[2], files[4];
	uint32_t ioas[2] = { self->ioas };

	ASSERT_EQ(0, pipe2(pipes, O_CLOEXEC));
	/* Where there is no page table nothing is pinned, so only the mapping itself can fail. */
	ASSERT_EQ(0, new_ioas(self->fd, &ioas[1]));
	/* The context would hold itself, and nobody could ever let go of it. */
	files[0] = self->fd;
	files[1] = pipes[0];
	files[2] = null;
	files[3] = -1;
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 4; j++) {
			cmd.ioas_id = ioas[i];
			cmd.fd = files[j];
			EXPECT_EQ(-1, ioctl(self->fd, IOMMU_IOAS_MAP_FILE, &cmd));
			EXPECT_EQ(files[j] < 0 ? EBADF : EINVAL, errno);
		}
	}
	close(pipes[0]);
	close(pipes[1]);
	close(null);
}

TEST_F(hostile, lengths)
{
	static const struct {
		uint32_t op;
		uint64_t start, length;
		int error, or_error;
	} table[] = {
		{ IOMMU_TEST_OP_ADD_RESERVED, 0, 0, -EINVAL },
		{ IOMMU_TEST_OP_ADD_RESERVED, 1, UINT64_MAX, 0 },
		{ IOMMU_TEST_OP_ADD_RESERVED, 2, UINT64_MAX, -EOVERFLOW },
		{ IOMMU_TEST_OP_ADD_RESERVED, UINT64_MAX, 2, -EOVERFLOW },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct iommu_test_cmd cmd = { .add_reserved = { .start = table[i].start,
								.length = table[i].length } };
		uint32_t ioas = 0;

		ASSERT_EQ(0, new_ioas(self->fd, &ioas));
		EXPECT_EQ(table[i].error, test_op(self->fd, &cmd, table[i].op, ioas))
			TH_LOG("row %zu", i);
	}
	for (size_t shift = 0; shift < 64; shift++) {
		uint64_t length = 1ULL << shift;
		struct iommu_test_cmd dirty = {
			.dirty = { .iova = IOVA, .length = length, .page_size = 1,
				   .uptr = (uintptr_t)self->memory } };
		struct iommu_test_cmd check = {
			.check_map = { .iova = -length, .length = length,
				       .uptr = (uintptr_t)self->memory } };
		struct iommu_test_cmd refs = {
			.check_refs = { .length = length, .uptr = -length, .refs = 1 } };
		struct iommu_test_cmd buffer = { .size = sizeof(buffer),
						 .op = IOMMU_TEST_OP_DMABUF_GET,
						 .dmabuf_get = { .length = length,
								 .open_flags = UINT32_MAX } };
		int fd;

		EXPECT_NE(0, test_op(self->fd, &dirty, IOMMU_TEST_OP_DIRTY, self->hwpt));
		EXPECT_NE(0, test_op(self->fd, &check, IOMMU_TEST_OP_MD_CHECK_MAP, self->hwpt));
		EXPECT_NE(0, test_op(self->fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0));
		/* Up to 512 pages, whatever the flags; it has 32 bits for the length. */
		fd = ioctl(self->fd, TEST_CMD, &buffer);
		EXPECT_EQ(length <= 512 * PAGE, fd >= 0);
		if (fd >= 0)
			close(fd);
	}
}

TEST_F(hostile, entries_out_of_range)
{
	static const uint32_t ids[] = { 4, 5, 1 << 30, 1U << 31, UINT32_MAX };
	uint32_t parent, nested;

	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, self->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT,
			      &parent));
	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, parent, 0, &nested));
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		struct iommu_test_cmd iotlb = { .check_iotlb = {
			.id = ids[i], .iotlb = IOMMU_TEST_IOTLB_DEFAULT } };
		struct iommu_test_cmd cache = { .check_dev_cache = {
			.id = ids[i], .cache = IOMMU_TEST_DEV_CACHE_DEFAULT } };
		struct iommu_hwpt_invalidate_selftest entry = { .iotlb_id = ids[i] };
		struct iommu_hwpt_invalidate inv = {
			.size = sizeof(inv), .hwpt_id = nested,
			.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
			.entry_len = sizeof(entry), .entry_num = 1,
			.data_uptr = (uintptr_t)&entry };

		EXPECT_EQ(-EINVAL, test_op(self->fd, &iotlb, IOMMU_TEST_OP_MD_CHECK_IOTLB, nested));
		EXPECT_EQ(-EINVAL, test_op(self->fd, &cache, IOMMU_TEST_OP_DEV_CHECK_CACHE,
					   self->idev));
		EXPECT_EQ(-1, ioctl(self->fd, IOMMU_HWPT_INVALIDATE, &inv));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(0, inv.entry_num);
	}
}

TEST_F(hostile, invalidate_arrays)
{
	struct iommu_hwpt_invalidate_selftest entry = { .iotlb_id = 1 };
	static const struct {
		uint32_t entry_len, entry_num;
		bool mapped;
		int error;
	} table[] = {
		{ 8, 1 << 19, true, EFAULT },
		{ 8, (1 << 19) + 1, true, EINVAL },
		{ 8, UINT32_MAX, true, EINVAL },
		{ PAGE + 1, 1, true, EINVAL },
		{ UINT32_MAX, 2, true, EINVAL },
		{ UINT32_MAX, UINT32_MAX, true, EINVAL },
		{ 7, 1, true, EINVAL },
		{ 9, 1, true, EINVAL },
		{ 8, 1, false, EFAULT },
	};
	uint32_t parent, nested;

	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, self->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT,
			      &parent));
	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, parent, 0, &nested));
	/* The array ends with the memory. */
	memcpy(self->memory + PAGES * PAGE - sizeof(entry), &entry, sizeof(entry));
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct iommu_hwpt_invalidate inv = {
			.size = sizeof(inv), .hwpt_id = nested,
			.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
			.entry_len = table[i].entry_len, .entry_num = table[i].entry_num,
			.data_uptr = table[i].mapped ?
				(uintptr_t)self->memory + PAGES * PAGE - sizeof(entry) :
				UINT64_MAX - 7 };

		EXPECT_EQ(-1, ioctl(self->fd, IOMMU_HWPT_INVALIDATE, &inv)) TH_LOG("row %zu", i);
		EXPECT_EQ(table[i].error, errno) TH_LOG("row %zu", i);
		EXPECT_GE(1, inv.entry_num) TH_LOG("row %zu", i);
	}
}

TEST_F(hostile, not_an_access)
{
	static const uint32_t ops[] = { IOMMU_TEST_OP_ACCESS_PAGES, IOMMU_TEST_OP_ACCESS_RW,
					IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
					IOMMU_TEST_OP_DESTROY_ACCESS_PAGES };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const uint32_t fds[] = { null, self->fd, UINT32_MAX, 1 << 20 };

	for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
		for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
			struct iommu_test_cmd cmd = {};

			EXPECT_EQ(-EBADFD, test_op(self->fd, &cmd, ops[op], fds[i]));
		}
	}
	close(null);
}

TEST_F(hostile, access_outlives_its_context)
{
	struct iommu_test_cmd cmd = { .create_access = {
		.flags = MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES } };
	struct iommu_test_cmd pin = { .access_pages = { .iova = IOVA, .length = 3 * PAGE - 1 } };
	struct iommu_test_cmd odd = { .access_pages = { .iova = IOVA + 1, .length = PAGE } };
	struct iommu_test_cmd empty = { .access_pages = { .iova = IOVA } };
	struct iommu_test_cmd wraps = { .access_pages = { .iova = -PAGE, .length = PAGE + 1 } };
	struct iommu_test_cmd rw = { .access_rw = { .iova = -1ULL, .length = 2,
						    .uptr = (uintptr_t)self->memory } };
	struct iommu_test_cmd unpin = {};
	int access;

	ASSERT_EQ(0, map(self->fd, self->ioas, self->memory, IOVA, 8 * PAGE));
	ASSERT_EQ(0, test_op(self->fd, &cmd, IOMMU_TEST_OP_CREATE_ACCESS, self->ioas));
	access = cmd.create_access.out_access_fd;
	EXPECT_EQ(-EINVAL, test_op(self->fd, &empty, IOMMU_TEST_OP_ACCESS_PAGES, access));
	EXPECT_EQ(-EINVAL, test_op(self->fd, &odd, IOMMU_TEST_OP_ACCESS_PAGES, access));
	EXPECT_EQ(-EOVERFLOW, test_op(self->fd, &wraps, IOMMU_TEST_OP_ACCESS_PAGES, access));
	EXPECT_EQ(-EOVERFLOW, test_op(self->fd, &rw, IOMMU_TEST_OP_ACCESS_RW, access));
	for (int i = 0; i < 100; i++)
		ASSERT_EQ(0, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	unpin.destroy_access_pages.access_pages_id = pin.access_pages.out_access_pages_id;
	EXPECT_EQ(0, test_op(self->fd, &unpin, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, access));
	EXPECT_EQ(-ENOENT, test_op(self->fd, &unpin, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, access));
	close(self->fd);
	self->fd = -1;
	close(access);
}

/* The list of pins outgrows what the page allocator has in one piece. */
TEST_F_TIMEOUT(hostile, more_pins_than_a_block, 300)
{
	struct iommu_test_cmd create = {
		.create_access = { .flags = MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES } };
	struct iommu_test_cmd pin = { .access_pages = { .iova = IOVA, .length = PAGE } };
	int access;

	ASSERT_EQ(0, map(self->fd, self->ioas, self->memory, IOVA, PAGE));
	ASSERT_EQ(0, test_op(self->fd, &create, IOMMU_TEST_OP_CREATE_ACCESS, self->ioas));
	access = create.create_access.out_access_fd;
	for (int i = 0; i < 131073; i++)
		ASSERT_EQ(0, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	close(access);
}

/*
 * More IOASes than a list of them in one piece of memory has room for. Nothing is
 * mapped, so there is nothing to do.
 */
TEST_F_TIMEOUT(hostile, change_process_of_many, 300)
{
	struct iommu_ioas_change_process change = { .size = sizeof(change) };
	uint32_t id;

	for (int i = 0; i <= 1 << 19; i++)
		ASSERT_EQ(0, new_ioas(self->fd, &id));
	EXPECT_EQ(0, ioctl(self->fd, IOMMU_IOAS_CHANGE_PROCESS, &change));
}

static int new_viommu(int fd, uint32_t dev, uint32_t hwpt, uint32_t *id)
{
	struct iommu_viommu_selftest data = { .in_data = 0x1234 };
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd), .type = IOMMU_VIOMMU_TYPE_SELFTEST, .dev_id = dev,
		.hwpt_id = hwpt, .data_len = sizeof(data), .data_uptr = (uintptr_t)&data,
	};

	if (ioctl(fd, IOMMU_VIOMMU_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_viommu_id;
	return data.out_data == 0x1234 ? 0 : -EBADE;
}

static int new_queue(int fd, uint32_t viommu, uint32_t index, uint32_t *id)
{
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd), .viommu_id = viommu, .type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.index = index, .nesting_parent_iova = IOVA, .length = PAGE,
	};

	if (ioctl(fd, IOMMU_HW_QUEUE_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_hw_queue_id;
	return 0;
}

TEST_F(hostile, viommu_in_the_wrong_order)
{
	uint32_t parent, viommu, nested, queues[2], none;

	ASSERT_EQ(0, map(self->fd, self->ioas, self->memory, IOVA, 8 * PAGE));
	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, self->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT,
			      &parent));
	ASSERT_EQ(0, new_viommu(self->fd, self->idev, parent, &viommu));
	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, viommu, 0, &nested));
	EXPECT_EQ(-EBUSY, destroy(self->fd, viommu));
	EXPECT_EQ(-EBUSY, destroy(self->fd, parent));
	ASSERT_EQ(0, destroy(self->fd, nested));

	EXPECT_EQ(-EIO, new_queue(self->fd, viommu, 1, &none));
	EXPECT_EQ(-EINVAL, new_queue(self->fd, viommu, 2, &none));
	EXPECT_EQ(-EINVAL, new_queue(self->fd, viommu, UINT32_MAX, &none));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, new_queue(self->fd, viommu, i, &queues[i]));
	EXPECT_EQ(-EEXIST, new_queue(self->fd, viommu, 0, &none));
	EXPECT_EQ(-EBUSY, destroy(self->fd, queues[0]));
	EXPECT_EQ(-EBUSY, destroy(self->fd, viommu));
	EXPECT_EQ(0, destroy(self->fd, queues[1]));
	EXPECT_EQ(0, destroy(self->fd, queues[0]));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, new_queue(self->fd, viommu, i, &queues[i]));
	/* The rest goes when the context is closed. */
}

struct maker {
	int fd;
	uint32_t dev, hwpt;
	void *answer;
	int tries, odd_errors;
	bool done;
};

/* Makes vIOMMUs that all fail: there is no room for the driver's answer. */
static void *make_viommus(void *arg)
{
	struct maker *maker = arg;
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd), .type = IOMMU_VIOMMU_TYPE_SELFTEST, .dev_id = maker->dev,
		.hwpt_id = maker->hwpt, .data_len = sizeof(struct iommu_viommu_selftest),
		.data_uptr = (uintptr_t)maker->answer,
	};

	for (int i = 0; i < maker->tries; i++)
		if (!ioctl(maker->fd, IOMMU_VIOMMU_ALLOC, &cmd) || errno != EFAULT)
			maker->odd_errors++;
	__atomic_store_n(&maker->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * A region can be mapped when its vIOMMU is there, not while that is being made: it
 * may fail, and a mapping would keep pages that are free.
 */
TEST_F(hostile, mmap_before_its_viommu)
{
	struct maker maker = { .fd = self->fd, .dev = self->idev, .tries = 5000 };
	size_t length = 2 * PAGE;
	int odd_errors = 0;
	pthread_t thread;
	uint32_t viommu;
	void *region;

	ASSERT_EQ(0, new_hwpt(self->fd, self->idev, self->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT,
			      &maker.hwpt));
	maker.answer = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, maker.answer);
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_viommus, &maker));
	while (!__atomic_load_n(&maker.done, __ATOMIC_ACQUIRE)) {
		/* The first region of a context is always there. */
		region = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, PAGE);
		if (region != MAP_FAILED || errno != ENXIO)
			odd_errors++;
	}
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, maker.odd_errors);
	EXPECT_EQ(0, odd_errors);
	munmap(maker.answer, PAGE);

	/* Of one that is there it can. */
	ASSERT_EQ(0, new_viommu(self->fd, self->idev, maker.hwpt, &viommu));
	region = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, PAGE);
	ASSERT_NE(MAP_FAILED, region);
	EXPECT_EQ(0x1234, *(uint32_t *)region);
	EXPECT_EQ(-EBUSY, destroy(self->fd, viommu));
	munmap(region, length);
	EXPECT_EQ(0, destroy(self->fd, viommu));
}

TEST_F(hostile, dmabuf_goes_first)
{
	struct iommu_test_cmd get = { .size = sizeof(get), .op = IOMMU_TEST_OP_DMABUF_GET,
				      .dmabuf_get = { .length = 4 * PAGE } };
	struct iommu_test_cmd revoke = { .dmabuf_revoke = { .dmabuf_fd = self->fd } };
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd), .ioas_id = self->ioas, .length = 4 * PAGE,
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
	};
	int buffer = ioctl(self->fd, TEST_CMD, &get);

	ASSERT_LT(2, buffer);
	EXPECT_EQ(-EINVAL, test_op(self->fd, &revoke, IOMMU_TEST_OP_DMABUF_REVOKE, 0));
	cmd.fd = buffer;
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_MAP_FILE, &cmd));
	revoke.dmabuf_revoke.dmabuf_fd = buffer;
	revoke.dmabuf_revoke.revoked = 1;
	EXPECT_EQ(0, test_op(self->fd, &revoke, IOMMU_TEST_OP_DMABUF_REVOKE, 0));
	close(buffer);
	EXPECT_EQ(-EBADF, test_op(self->fd, &revoke, IOMMU_TEST_OP_DMABUF_REVOKE, 0));
}

/*
 * Each bit of a field that must be 0, or has few flags, is refused by itself, and by
 * nothing else that is wrong with the structure: without it the answer is another one.
 */
#define MUST_BE_ZERO(number, type, field, taken, ...)				\
	{ #type "." #field, number, sizeof(struct type), offsetof(struct type, field),	\
	  8 * sizeof(((struct type *)0)->field), taken, (void *)&(struct type){ __VA_ARGS__ } }

TEST_F(hostile, must_be_zero)
{
	const struct {
		const char *what;
		unsigned long number;
		uint32_t size, at, bits;
		uint64_t taken;
		const void *rest;
	} table[] = {
		MUST_BE_ZERO(IOMMU_IOAS_ALLOC, iommu_ioas_alloc, flags, 0),
		MUST_BE_ZERO(IOMMU_IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, __reserved, 0),
		MUST_BE_ZERO(IOMMU_IOAS_ALLOW_IOVAS, iommu_ioas_allow_iovas, __reserved, 0),
		MUST_BE_ZERO(IOMMU_IOAS_MAP, iommu_ioas_map, flags, 7),
		MUST_BE_ZERO(IOMMU_IOAS_MAP, iommu_ioas_map, __reserved, 0),
		MUST_BE_ZERO(IOMMU_IOAS_MAP_FILE, iommu_ioas_map_file, flags, 7),
		/* One more is for tests, see iommufd_test.h. */
		MUST_BE_ZERO(IOMMU_IOAS_COPY, iommu_ioas_copy, flags, 7 | MOCK_FLAGS_ACCESS_SYZ),
		MUST_BE_ZERO(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, __reserved, 0),
		MUST_BE_ZERO(IOMMU_OPTION, iommu_option, __reserved, 0),
		MUST_BE_ZERO(IOMMU_VFIO_IOAS, iommu_vfio_ioas, __reserved, 0),
		MUST_BE_ZERO(IOMMU_HWPT_ALLOC, iommu_hwpt_alloc, __reserved, 0),
		MUST_BE_ZERO(IOMMU_GET_HW_INFO, iommu_hw_info, flags,
			     IOMMU_HW_INFO_FLAG_INPUT_TYPE),
		MUST_BE_ZERO(IOMMU_GET_HW_INFO, iommu_hw_info, __reserved, 0),
		MUST_BE_ZERO(IOMMU_HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking, flags,
			     IOMMU_HWPT_DIRTY_TRACKING_ENABLE),
		MUST_BE_ZERO(IOMMU_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, flags,
			     IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR),
		MUST_BE_ZERO(IOMMU_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap,
			     __reserved, 0),
		MUST_BE_ZERO(IOMMU_HWPT_INVALIDATE, iommu_hwpt_invalidate, __reserved, 0),
		MUST_BE_ZERO(IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc, flags, 0),
		MUST_BE_ZERO(IOMMU_VIOMMU_ALLOC, iommu_viommu_alloc, flags, 0,
			     .type = IOMMU_VIOMMU_TYPE_SELFTEST),
		MUST_BE_ZERO(IOMMU_VEVENTQ_ALLOC, iommu_veventq_alloc, flags, 0,
			     .type = IOMMU_VEVENTQ_TYPE_SELFTEST, .veventq_depth = 1),
		MUST_BE_ZERO(IOMMU_VEVENTQ_ALLOC, iommu_veventq_alloc, __reserved, 0,
			     .type = IOMMU_VEVENTQ_TYPE_SELFTEST, .veventq_depth = 1),
		MUST_BE_ZERO(IOMMU_HW_QUEUE_ALLOC, iommu_hw_queue_alloc, flags, 0,
			     .type = IOMMU_HW_QUEUE_TYPE_SELFTEST, .length = PAGE),
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		for (uint32_t bit = 0; bit <= table[i].bits; bit++) {
			bool wrong = bit < table[i].bits && !(table[i].taken >> bit & 1);
			unsigned char cmd[128];
			int got;

			memcpy(cmd, table[i].rest, table[i].size);
			*(uint32_t *)cmd = table[i].size;
			if (bit < table[i].bits)
				cmd[table[i].at + bit / 8] |= 1 << bit % 8;
			got = ioctl(self->fd, table[i].number, cmd) ? errno : 0;
			EXPECT_EQ(wrong, got == EOPNOTSUPP)
				TH_LOG("%s, bit %u: %d", table[i].what, bit, got);
		}
	}
}

/* A fault queue is read and written in whole messages. */
TEST_F(hostile, parts_of_messages)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	char buffer[2 * sizeof(struct iommu_hwpt_pgfault)];
	const size_t message = sizeof(struct iommu_hwpt_pgfault);
	const size_t answer = sizeof(struct iommu_hwpt_page_response);

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd));
	ASSERT_EQ(0, fcntl(cmd.out_fault_fd, F_SETFL, O_NONBLOCK));
	memset(buffer, 0xff, sizeof(buffer));
	for (size_t n = 0; n <= 2 * message; n++) {
		int got = read(cmd.out_fault_fd, buffer, n) < 0 ? errno : 0;

		EXPECT_EQ(n % message ? ESPIPE : 0, got) TH_LOG("%zu read", n);
	}
	for (size_t n = 1; n <= 2 * answer; n++) {
		int got = write(cmd.out_fault_fd, buffer, n) < 0 ? errno : 0;

		EXPECT_EQ(n % answer ? ESPIPE : EINVAL, got) TH_LOG("%zu written", n);
	}
	close(cmd.out_fault_fd);
	EXPECT_EQ(0, destroy(self->fd, cmd.out_fault_id));
}

TEST_F(hostile, unknown)
{
	struct iommu_test_cmd cmd = {};

	for (uint32_t op = 24; op < 64; op++)
		EXPECT_EQ(-EOPNOTSUPP, test_op(self->fd, &cmd, op, 0));
	EXPECT_EQ(-EOPNOTSUPP, test_op(self->fd, &cmd, 0, 0));
	EXPECT_EQ(-EOPNOTSUPP, test_op(self->fd, &cmd, UINT32_MAX, 0));
	cmd.size = offsetof(struct iommu_test_cmd, last);
	cmd.op = IOMMU_TEST_OP_MOCK_DOMAIN;
	EXPECT_EQ(-1, ioctl(self->fd, TEST_CMD, &cmd));
	EXPECT_EQ(EINVAL, errno);
}

/* xorshift: the same requests for the same seed, everywhere. */
static uint64_t state;

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t below(uint64_t limit) { return any() % limit; }

/* Mostly a number that means something, sometimes any. */
static uint32_t some_id(void) { return below(16) ? below(40) : any(); }

static uint64_t some_length(void)
{
	switch (below(6)) {
	case 0: return any();
	case 1: return UINT64_MAX - below(PAGE);
	case 2: return below(3 * PAGE);
	default: return below(8) * PAGE;
	}
}

static uint64_t some_iova(void)
{
	return below(8) ? IOVA + below(16) * PAGE + (below(4) ? 0 : below(PAGE)) : any();
}

static uint64_t some_address(void *memory)
{
	return below(8) ? (uintptr_t)memory + below(PAGES) * PAGE : any();
}

static void random_test_op(int fd, void *memory)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd) };
	uint32_t *args = (uint32_t *)&cmd.add_reserved;

	cmd.op = 1 + below(23);
	cmd.id = below(4) ? some_id() : 3 + below(40);
	/* Ids and flags at first, what an operation has of its own after that. */
	for (int i = 0; i < 12; i++)
		args[i] = below(3) ? some_id() : 1U << below(32);
	switch (cmd.op) {
	case IOMMU_TEST_OP_ADD_RESERVED:
		if (below(8))
			return;
		cmd.add_reserved.start = some_iova();
		cmd.add_reserved.length = some_length();
		break;
	case IOMMU_TEST_OP_MD_CHECK_MAP:
		cmd.check_map.iova = some_iova();
		cmd.check_map.length = some_length();
		cmd.check_map.uptr = some_address(memory);
		break;
	case IOMMU_TEST_OP_MD_CHECK_REFS:
		cmd.check_refs.length = some_length();
		cmd.check_refs.uptr = some_address(memory);
		break;
	case IOMMU_TEST_OP_CREATE_ACCESS:
		cmd.create_access.flags = below(3);
		break;
	case IOMMU_TEST_OP_ACCESS_PAGES:
		cmd.access_pages.flags = (below(2) << 16) | below(2);
		cmd.access_pages.iova = below(2) ? some_iova() : below(4) | below(4) << 44;
		cmd.access_pages.length = some_length();
		cmd.access_pages.uptr = below(2) ? 0 : some_address(memory);
		break;
	case IOMMU_TEST_OP_ACCESS_RW:
		cmd.access_rw.flags = (below(2) << 16) | below(2) | below(2) << 2;
		cmd.access_rw.iova = below(2) ? some_iova() : below(4) | below(4) << 44;
		cmd.access_rw.length = some_length();
		cmd.access_rw.uptr = some_address(memory);
		break;
	case IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS:
		cmd.mock_domain_flags.dev_flags = below(4) ? MOCK_FLAGS_DEVICE_PASID : below(16);
		break;
	case IOMMU_TEST_OP_DIRTY:
		cmd.dirty.iova = some_iova();
		cmd.dirty.length = some_length();
		cmd.dirty.page_size = 1UL << below(20);
		cmd.dirty.uptr = some_address(memory);
		break;
	case IOMMU_TEST_OP_TRIGGER_IOPF:
		cmd.trigger_iopf.pasid = below(2) ? 0 : below(4);
		break;
	case IOMMU_TEST_OP_PASID_ATTACH:
	case IOMMU_TEST_OP_PASID_REPLACE:
	case IOMMU_TEST_OP_PASID_DETACH:
	case IOMMU_TEST_OP_PASID_CHECK_HWPT:
		cmd.pasid_attach.pasid = below(8) ? below(6) : below(2) ? 1024 : any();
		break;
	case IOMMU_TEST_OP_DMABUF_GET:
		cmd.dmabuf_get.length = some_length();
		cmd.dmabuf_get.open_flags = below(4) ? O_CLOEXEC : any();
		break;
	case IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT:
		cmd.memory_limit.limit = below(2) ? 65536 : below(200);
		break;
	}
	ioctl(fd, TEST_CMD, &cmd);
}

static void random_op(int fd, void *memory)
{
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = some_id(),
					  .iova = some_iova(), .length = some_length() };
	struct iommu_vdevice_alloc vdev = { .size = sizeof(vdev), .viommu_id = some_id(),
					    .dev_id = some_id(), .virt_id = below(4) };
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };
	struct iommu_hwpt_selftest data = { .iotlb = 1, .pagetable_type = below(3) };
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt), .flags = below(16), .dev_id = some_id(), .pt_id = some_id(),
		.data_type = below(3) ? IOMMU_HWPT_DATA_SELFTEST : below(2),
		.data_len = below(12), .data_uptr = (uintptr_t)&data, .fault_id = some_id() };
	struct iommu_viommu_invalidate_selftest entry[4] = {};
	struct iommu_hwpt_invalidate inv = {
		.size = sizeof(inv), .hwpt_id = some_id(), .entry_len = below(16),
		.data_type = below(8) ? IOMMU_HWPT_INVALIDATE_DATA_SELFTEST : any(),
		.entry_num = below(5), .data_uptr = below(8) ? (uintptr_t)entry : any() };
	uint32_t id;

	switch (below(14)) {
	case 0:
		new_ioas(fd, &id);
		break;
	case 1:
		map(fd, some_id(), memory, some_iova(), some_length() % (PAGES * PAGE));
		break;
	case 2:
		ioctl(fd, IOMMU_IOAS_UNMAP, &unmap);
		break;
	case 3:
		destroy(fd, some_id());
		break;
	case 4:
		new_viommu(fd, some_id(), some_id(), &id);
		break;
	case 5:
		ioctl(fd, IOMMU_VDEVICE_ALLOC, &vdev);
		break;
	case 6:
		new_queue(fd, some_id(), below(3), &id);
		break;
	case 7:
		ioctl(fd, IOMMU_HWPT_ALLOC, &hwpt);
		break;
	case 8:
		memset(entry, below(4), sizeof(entry));
		ioctl(fd, IOMMU_HWPT_INVALIDATE, &inv);
		break;
	case 9:
		if (!below(4))
			ioctl(fd, IOMMU_FAULT_QUEUE_ALLOC, &fault);
		break;
	default:
		random_test_op(fd, memory);
	}
}

static void restore_memory_limit(int fd)
{
	struct iommu_test_cmd cmd = { .memory_limit = { .limit = 65536 } };

	test_op(fd, &cmd, IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 0);
}

/* HOSTILE_ROUNDS and HOSTILE_SEED make it longer, and another. */
TEST_F_TIMEOUT(hostile, at_random, 3600)
{
	unsigned long rounds = getenv("HOSTILE_ROUNDS") ? atol(getenv("HOSTILE_ROUNDS")) : 60;
	unsigned long seed = getenv("HOSTILE_SEED") ? atol(getenv("HOSTILE_SEED")) : 1;

	for (unsigned long round = 0; round < rounds; round++) {
		int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

		ASSERT_LE(0, fd);
		state = (seed + round) * 0x9e3779b97f4a7c15ULL;
		for (int i = 0; i < 2000; i++) {
			random_op(fd, self->memory);
			/* Each has memory behind it. */
			if (i % 250 == 249)
				syscall(SYS_close_range, fd + 1, ~0U, 0);
		}
		restore_memory_limit(fd);
		/* Which goes first is one more thing at random. */
		if (below(2))
			syscall(SYS_close_range, fd + 1, ~0U, 0);
		close(fd);
		ASSERT_EQ(self->tainted, taint_bits())
			TH_LOG("round %lu of seed %lu", round, seed);
	}
}

TEST_HARNESS_MAIN

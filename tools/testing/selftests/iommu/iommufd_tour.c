// SPDX-License-Identifier: GPL-2.0-only
/*
 * A tour of /dev/iommu on the mock device: each step says what it asks the
 * kernel for and what came back, checks that, and is one TAP result. Needs
 * CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include "kselftest.h"
#include "../../../../drivers/iommu/iommufd/iommufd_test.h"

#define PAGE 4096UL
/* The mock hardware translates from 16 MiB on. */
#define GPA 0x2000000UL

static int fd;

static void __printf(2, 3)
report(bool good, const char *format, ...)
{
	char text[200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	ksft_test_result(good, "%s\n", text);
	if (!good)
		ksft_exit_fail_msg("stopped there: %s\n", strerror(errno));
}

/* What is asked happens before what it is told with is looked at. */
#define step(good, ...)                     \
	do {                                \
		bool _good = (good);        \
		report(_good, __VA_ARGS__); \
	} while (0)

static int test_op(struct iommu_test_cmd *cmd, uint32_t op, uint32_t id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return ioctl(fd, _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32), cmd);
}

static uint32_t iotlb(uint32_t hwpt, uint32_t entry, uint32_t expected)
{
	struct iommu_test_cmd cmd = {
		.check_iotlb = { .id = entry, .iotlb = expected },
	};

	return test_op(&cmd, IOMMU_TEST_OP_MD_CHECK_IOTLB, hwpt) == 0;
}

static int destroy(uint32_t id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(fd, IOMMU_DESTROY, &cmd);
}

int main(void)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_test_cmd mock = {}, replace = {}, check = {};
	struct iommu_test_hw_info reg = {};
	struct iommu_hw_info info = { .size = sizeof(info), .data_len = sizeof(reg),
				      .data_uptr = (uintptr_t)&reg };
	struct iommu_hwpt_alloc parent = { .size = sizeof(parent),
					   .flags = IOMMU_HWPT_ALLOC_NEST_PARENT };
	struct iommu_hwpt_selftest config = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	struct iommu_hwpt_alloc nested = { .size = sizeof(nested),
					   .data_type = IOMMU_HWPT_DATA_SELFTEST,
					   .data_len = sizeof(config),
					   .data_uptr = (uintptr_t)&config };
	struct iommu_hwpt_invalidate_selftest entry = { .iotlb_id = 1 };
	struct iommu_hwpt_invalidate inv = { .size = sizeof(inv),
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(entry), .entry_num = 1,
		.data_uptr = (uintptr_t)&entry };
	struct iommu_ioas_map map = { .size = sizeof(map), .length = 4 * PAGE, .iova = GPA,
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE };
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .iova = GPA,
					  .length = 4 * PAGE };
	uint32_t device;
	void *memory;

	ksft_print_header();
	fd = open("/dev/iommu", O_RDWR);
	if (fd < 0)
		ksft_exit_skip("/dev/iommu does not open: %s\n", strerror(errno));
	memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	memset(memory, 0x5a, 4 * PAGE);
	map.user_va = (uintptr_t)memory;
	ksft_set_plan(14);

	step(!ioctl(fd, IOMMU_IOAS_ALLOC, &ioas),
	     "IOAS_ALLOC: an I/O address space, object %u", ioas.out_ioas_id);
	if (test_op(&mock, IOMMU_TEST_OP_MOCK_DOMAIN, ioas.out_ioas_id))
		ksft_exit_fail_msg("no mock device: is CONFIG_IOMMUFD_TEST on?\n");
	device = mock.mock_domain.out_idev_id;
	step(true, "a mock device (object %u) attached to it; the kernel made hwpt %u for that",
	     device, mock.mock_domain.out_hwpt_id);

	info.dev_id = device;
	step(!ioctl(fd, IOMMU_GET_HW_INFO, &info) && reg.test_reg == IOMMU_HW_INFO_SELFTEST_REGVAL,
	     "GET_HW_INFO: hardware of type %#x, its register reads %#x", info.out_data_type,
	     reg.test_reg);

	map.ioas_id = ioas.out_ioas_id;
	step(!ioctl(fd, IOMMU_IOAS_MAP, &map), "IOAS_MAP: four pages of ours at GPA %#lx", GPA);
	check.check_map.iova = GPA;
	check.check_map.length = 4 * PAGE;
	check.check_map.uptr = (uintptr_t)memory;
	step(!test_op(&check, IOMMU_TEST_OP_MD_CHECK_MAP, mock.mock_domain.out_hwpt_id),
	     "the device's page table leads to exactly those pages");

	parent.dev_id = device;
	parent.pt_id = ioas.out_ioas_id;
	step(!ioctl(fd, IOMMU_HWPT_ALLOC, &parent),
	     "HWPT_ALLOC with NEST_PARENT: kernel-managed second stage, object %u",
	     parent.out_hwpt_id);
	nested.dev_id = device;
	nested.pt_id = parent.out_hwpt_id;
	step(!ioctl(fd, IOMMU_HWPT_ALLOC, &nested),
	     "HWPT_ALLOC on that parent: user-managed first stage, object %u", nested.out_hwpt_id);

	replace.mock_domain_replace.pt_id = nested.out_hwpt_id;
	step(!test_op(&replace, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, mock.mock_domain.out_stdev_id),
	     "the device's table is replaced in place by the nested one");

	step(iotlb(nested.out_hwpt_id, 1, IOMMU_TEST_IOTLB_DEFAULT),
	     "the mock's IOTLB entry 1 holds %#x", IOMMU_TEST_IOTLB_DEFAULT);
	inv.hwpt_id = nested.out_hwpt_id;
	step(!ioctl(fd, IOMMU_HWPT_INVALIDATE, &inv) && inv.entry_num == 1,
	     "HWPT_INVALIDATE of entry 1: the kernel handled %u", inv.entry_num);
	step(iotlb(nested.out_hwpt_id, 1, 0) &&
	     iotlb(nested.out_hwpt_id, 0, IOMMU_TEST_IOTLB_DEFAULT),
	     "entry 1 is gone, its neighbour is not");

	step(destroy(parent.out_hwpt_id) && errno == EBUSY,
	     "DESTROY of the parent under a nested table: EBUSY, as it must");
	memset(&replace, 0, sizeof(replace));
	replace.mock_domain_replace.pt_id = ioas.out_ioas_id;
	step(!test_op(&replace, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, mock.mock_domain.out_stdev_id) &&
	     !destroy(nested.out_hwpt_id) && !destroy(parent.out_hwpt_id),
	     "back to the IOAS; nested table and parent destroyed");
	unmap.ioas_id = ioas.out_ioas_id;
	step(!ioctl(fd, IOMMU_IOAS_UNMAP, &unmap) && unmap.length == 4 * PAGE &&
	     !destroy(mock.mock_domain.out_stdev_id) && !destroy(ioas.out_ioas_id),
	     "unmapped, the device and the IOAS are gone");
	close(fd);
	ksft_finished();
}

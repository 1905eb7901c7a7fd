// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the mock driver refuses, and what it reports to the bit: tests rely on it,
 * and none of upstream's would see it change. Needs CONFIG_IOMMUFD_TEST and no
 * hardware.
 */
#include <sys/mman.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"

#define PG 4096UL
/* The mock hardware translates from 16 MiB on. */
#define IOVA (16UL << 20)
#define PAGES 8

FIXTURE(mock)
{
	int fd;
	__u32 ioas_id, stdev, hwpt, idev;
	void *memory;
};

FIXTURE_SETUP(mock)
{
	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	test_cmd_mock_domain(self->ioas_id, &self->stdev, &self->hwpt, &self->idev);
	self->memory = mmap(NULL, PAGES * PG, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
}

FIXTURE_TEARDOWN(mock)
{
	munmap(self->memory, PAGES * PG);
	teardown_iommufd(self->fd, _metadata);
}

static int test_op(int fd, struct iommu_test_cmd *cmd, __u32 op, __u32 id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return ioctl(fd, _IOMMU_TEST_CMD(op), cmd);
}

/* A parent, a vIOMMU on it, and a nested hwpt on that. */
static int new_viommu(int fd, __u32 idev, __u32 ioas_id, __u32 *parent, __u32 *viommu,
		      __u32 *nested)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };

	return _test_cmd_hwpt_alloc(fd, idev, ioas_id, 0, IOMMU_HWPT_ALLOC_NEST_PARENT,
				    parent, IOMMU_HWPT_DATA_NONE, NULL, 0) ?:
	       _test_cmd_viommu_alloc(fd, idev, *parent, 0, IOMMU_VIOMMU_TYPE_SELFTEST,
				      NULL, 0, viommu) ?:
	       _test_cmd_hwpt_alloc(fd, idev, *viommu, 0, 0, nested,
				    IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data));
}

TEST_F(mock, flags_of_devices)
{
	const __u32 known = MOCK_FLAGS_DEVICE_NO_DIRTY | MOCK_FLAGS_DEVICE_PASID;
	__u32 stdev, hwpt;

	for (int bit = 0; bit < 32; bit++) {
		if (known & (1U << bit))
			continue;
		test_err_mock_domain_flags(EINVAL, self->ioas_id, 1U << bit, &stdev, &hwpt);
		test_err_mock_domain_flags(EINVAL, self->ioas_id, known | 1U << bit, &stdev,
					   &hwpt);
	}
}

TEST_F(mock, width_of_pasids)
{
	__u32 stdev, hwpt, idev;
	__u8 width;

	test_cmd_get_hw_info_pasid(self->idev, &width);
	EXPECT_EQ(0, width);
	test_cmd_mock_domain_flags(self->ioas_id, MOCK_FLAGS_DEVICE_PASID, &stdev, &hwpt, &idev);
	test_cmd_get_hw_info_pasid(idev, &width);
	EXPECT_EQ(MOCK_PASID_WIDTH, width);
}

TEST_F(mock, who_tracks_what_it_writes)
{
	__u32 stdev, hwpt, idev, capabilities;

	test_cmd_get_hw_capabilities(self->idev, capabilities);
	EXPECT_NE(0, capabilities & IOMMU_HW_CAP_DIRTY_TRACKING);
	test_cmd_mock_domain_flags(self->ioas_id, MOCK_FLAGS_DEVICE_NO_DIRTY, &stdev, &hwpt,
				   &idev);
	test_cmd_get_hw_capabilities(idev, capabilities);
	EXPECT_EQ(0, capabilities & IOMMU_HW_CAP_DIRTY_TRACKING);
}

TEST_F(mock, data_of_page_tables)
{
	static const struct {
		__u32 data_type, pagetable_type;
		int error;
	} table[] = {
		{ IOMMU_HWPT_DATA_SELFTEST, MOCK_IOMMUPT_DEFAULT, 0 },
		{ IOMMU_HWPT_DATA_SELFTEST, MOCK_IOMMUPT_HUGE, 0 },
		{ IOMMU_HWPT_DATA_SELFTEST, MOCK_IOMMUPT_HUGE + 1, EOPNOTSUPP },
		{ IOMMU_HWPT_DATA_SELFTEST, UINT32_MAX - 1, EOPNOTSUPP },
		{ IOMMU_HWPT_DATA_VTD_S1, MOCK_IOMMUPT_DEFAULT, EOPNOTSUPP },
		{ IOMMU_HWPT_DATA_SELFTEST + 1, MOCK_IOMMUPT_DEFAULT, EOPNOTSUPP },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct iommu_hwpt_selftest data = { .pagetable_type = table[i].pagetable_type };
		__u32 hwpt;
		int rc;

		rc = _test_cmd_hwpt_alloc(self->fd, self->idev, self->ioas_id, 0, 0, &hwpt,
					  table[i].data_type, &data, sizeof(data));
		EXPECT_EQ(table[i].error, rc ? errno : 0) TH_LOG("row %zu", i);
		if (!rc)
			test_ioctl_destroy(hwpt);
	}
}

/* One page is written to: that page is dirty, and no other. */
TEST_F(mock, the_page_that_is_dirty)
{
	/* Not at the end of the stack: C loses bits there, see iommufd_regress. */
	static __u64 dirty;
	__u32 tracked;

	test_cmd_hwpt_alloc(self->idev, self->ioas_id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
			    &tracked);
	/* A mapping each: neighbours could share an entry of the page table. */
	for (int page = 0; page < PAGES; page++)
		test_ioctl_ioas_map_fixed(self->memory + page * PG, PG, IOVA + page * PG);
	test_cmd_set_dirty_tracking(tracked, true);
	for (int page = 0; page < PAGES; page++) {
		__u64 written = 1ULL << page, count;

		dirty = 0;
		test_cmd_mock_domain_set_dirty(self->fd, tracked, PAGES * PG, IOVA, PG, &written,
					       &count);
		EXPECT_EQ(1, count);
		test_cmd_get_dirty_bitmap(self->fd, tracked, PAGES * PG, IOVA, PG, &dirty, 0);
		EXPECT_EQ(written, dirty);
	}
}

/* What cannot track goes nowhere where tracking is promised, and stays where it is. */
TEST_F(mock, replaced_by_what_tracks)
{
	__u32 stdev, automatic, idev, plain, tracked;

	test_cmd_mock_domain_flags(self->ioas_id, MOCK_FLAGS_DEVICE_NO_DIRTY, &stdev, &automatic,
				   &idev);
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
			    &tracked);
	test_cmd_hwpt_alloc(idev, self->ioas_id, 0, &plain);
	test_err_mock_domain_replace(EINVAL, stdev, tracked);
	test_cmd_mock_domain_replace(stdev, plain);
	test_ioctl_destroy(stdev);
	test_ioctl_destroy(plain);
	test_ioctl_destroy(tracked);
}

/* A type can be asked for with no entries: one that is none is refused even so. */
TEST_F(mock, types_of_invalidations)
{
	static const __u32 wrong[] = { 0, IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
				       IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID, UINT32_MAX };
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	struct iommu_hwpt_invalidate_selftest entry = { .flags = IOMMU_TEST_INVALIDATE_FLAG_ALL };
	__u32 parent, nested, number;

	test_cmd_hwpt_alloc(self->idev, self->ioas_id, IOMMU_HWPT_ALLOC_NEST_PARENT, &parent);
	test_cmd_hwpt_alloc_nested(self->idev, parent, 0, &nested, IOMMU_HWPT_DATA_SELFTEST,
				   &data, sizeof(data));
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		for (int entries = 0; entries < 2; entries++) {
			number = entries;
			test_err_hwpt_invalidate(EINVAL, nested, &entry, wrong[i], sizeof(entry),
						 &number);
			EXPECT_EQ(0, number);
		}
	}
	test_cmd_hwpt_check_iotlb_all(nested, IOMMU_TEST_IOTLB_DEFAULT);
	test_ioctl_destroy(nested);
	test_ioctl_destroy(parent);
}

/* Of a request with more than one fault, the first in this order is reported. */
TEST_F(mock, order_of_refusals)
{
	static const struct {
		__u32 flags, vdev_id, cache_id;
		int error;
	} table[] = {
		{ 0, 7, MOCK_DEV_CACHE_ID_MAX, 0 },
		{ IOMMU_TEST_INVALIDATE_FLAG_ALL, 7, 0, 0 },
		{ 2, 7, 0, EOPNOTSUPP },
		{ 2, 8, 0, EOPNOTSUPP },
		{ 2, 8, MOCK_DEV_CACHE_NUM, EOPNOTSUPP },
		{ 0, 7, MOCK_DEV_CACHE_NUM, EINVAL },
		{ 0, 7, UINT32_MAX, EINVAL },
		{ 0, 8, 0, EINVAL },
	};
	__u32 parent, viommu, nested, vdevice;

	ASSERT_EQ(0, new_viommu(self->fd, self->idev, self->ioas_id, &parent, &viommu, &nested));
	test_cmd_vdevice_alloc(viommu, self->idev, 7, &vdevice);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct iommu_viommu_invalidate_selftest entry = {
			.flags = table[i].flags,
			.vdev_id = table[i].vdev_id,
			.cache_id = table[i].cache_id,
		};
		__u32 number = 1;
		int rc;

		rc = _test_cmd_viommu_invalidate(self->fd, viommu, &entry,
						 IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
						 sizeof(entry), &number);
		EXPECT_EQ(table[i].error, rc ? errno : 0) TH_LOG("row %zu", i);
		EXPECT_EQ(!table[i].error, number) TH_LOG("row %zu", i);
	}
}

/* A vIOMMU's array is read as a whole: no entries, old and new versions of one. */
TEST_F(mock, arrays_of_invalidations)
{
	struct iommu_viommu_invalidate_selftest *entry = self->memory + PG -
							 sizeof(*entry);
	const __u32 size = sizeof(*entry);
	const struct {
		__u32 type, entry_len, entry_num;
		/* Bytes behind the entry: what they are, whether they are there. */
		bool set, readable;
		int error;
	} table[] = {
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size, 0, false, true, 0 },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, 0, 0, false, true, 0 },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID, size, 0, false, true, EINVAL },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID, size, 1, false, true, EINVAL },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size, 1, true, false, 0 },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size + 4, 1, false, true, 0 },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size + 4, 1, true, true, E2BIG },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size + 4, 1, true, false, EFAULT },
		{ IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size - 4, 1, false, true, 0 },
	};
	__u32 parent, viommu, nested, vdevice;

	ASSERT_EQ(0, new_viommu(self->fd, self->idev, self->ioas_id, &parent, &viommu, &nested));
	test_cmd_vdevice_alloc(viommu, self->idev, 7, &vdevice);
	*entry = (struct iommu_viommu_invalidate_selftest){ .vdev_id = 7 };
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		__u32 number = table[i].entry_num;
		int rc;

		memset(self->memory + PG, table[i].set, PG);
		ASSERT_EQ(0, mprotect(self->memory + PG, PG, table[i].readable ?
				      PROT_READ | PROT_WRITE : PROT_NONE));
		rc = _test_cmd_viommu_invalidate(self->fd, viommu, entry, table[i].type,
						 table[i].entry_len, &number);
		ASSERT_EQ(0, mprotect(self->memory + PG, PG, PROT_READ | PROT_WRITE));
		EXPECT_EQ(table[i].error, rc ? errno : 0) TH_LOG("row %zu", i);
		EXPECT_EQ(table[i].error ? 0 : table[i].entry_num, number) TH_LOG("row %zu", i);
	}
}

TEST_F(mock, types_of_queues)
{
	static const __u32 wrong[] = { IOMMU_HW_QUEUE_TYPE_DEFAULT, 1,
				       IOMMU_HW_QUEUE_TYPE_SELFTEST - 1, UINT32_MAX };
	__u32 parent, viommu, nested, queue;

	ASSERT_EQ(0, new_viommu(self->fd, self->idev, self->ioas_id, &parent, &viommu, &nested));
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		test_err_hw_queue_alloc(EOPNOTSUPP, viommu, wrong[i], 0, IOVA, PG, &queue);
	test_cmd_hw_queue_alloc(viommu, IOMMU_HW_QUEUE_TYPE_SELFTEST, 0, IOVA, PG, &queue);
	test_ioctl_destroy(queue);
}

/* The virtual machine could not tell which device an event of number 0 is from. */
TEST_F(mock, events_have_a_sender)
{
	__u32 parent, viommu, nested, vdevice, queue, queue_fd;
	int sequence = -1;

	ASSERT_EQ(0, new_viommu(self->fd, self->idev, self->ioas_id, &parent, &viommu, &nested));
	test_cmd_veventq_alloc(viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 2, &queue, &queue_fd);
	/* In no virtual machine. */
	EXPECT_ERRNO(ENOENT, _test_cmd_trigger_vevents(self->fd, self->idev, 1));
	test_err_mock_domain_replace(ENOENT, self->stdev, nested);

	test_cmd_vdevice_alloc(viommu, self->idev, 0, &vdevice);
	test_cmd_mock_domain_replace(self->stdev, nested);
	EXPECT_ERRNO(ENOENT, _test_cmd_trigger_vevents(self->fd, self->idev, 1));
	test_cmd_mock_domain_replace(self->stdev, self->ioas_id);
	test_ioctl_destroy(vdevice);

	test_cmd_vdevice_alloc(viommu, self->idev, 0x99, &vdevice);
	test_cmd_mock_domain_replace(self->stdev, nested);
	test_cmd_trigger_vevents(self->idev, 1);
	test_cmd_read_vevents(queue_fd, 1, 0x99, &sequence);
	test_cmd_mock_domain_replace(self->stdev, self->ioas_id);
	EXPECT_ERRNO(ENOENT, _test_cmd_trigger_vevents(self->fd, self->idev, 1));
	close(queue_fd);
}

TEST_F(mock, faults_as_they_were)
{
	struct iommu_test_cmd cmd = { .trigger_iopf = {
		.dev_id = self->idev,
		.pasid = 5,
		.grpid = 0x1a5,
		.perm = IOMMU_PGFAULT_PERM_WRITE,
		.addr = 0x123456789000,
	} };
	struct iommu_hwpt_page_response response = { .code = IOMMUFD_PAGE_RESP_INVALID };
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	struct iommu_hwpt_pgfault fault = {};
	__u32 queue, queue_fd, parent, hwpt;

	test_ioctl_fault_alloc(&queue, &queue_fd);
	test_cmd_hwpt_alloc(self->idev, self->ioas_id, IOMMU_HWPT_ALLOC_NEST_PARENT, &parent);
	/* A nested table gets the faults of every PASID: the guest has the PASID table. */
	test_cmd_hwpt_alloc_iopf(self->idev, parent, queue, IOMMU_HWPT_FAULT_ID_VALID, &hwpt,
				 IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data));
	test_cmd_mock_domain_replace(self->stdev, hwpt);
	ASSERT_EQ(0, test_op(self->fd, &cmd, IOMMU_TEST_OP_TRIGGER_IOPF, 0));
	ASSERT_EQ(sizeof(fault), read(queue_fd, &fault, sizeof(fault)));
	EXPECT_EQ(IOMMU_PGFAULT_FLAGS_PASID_VALID | IOMMU_PGFAULT_FLAGS_LAST_PAGE, fault.flags);
	EXPECT_EQ(self->idev, fault.dev_id);
	EXPECT_EQ(5, fault.pasid);
	EXPECT_EQ(0x1a5, fault.grpid);
	EXPECT_EQ(IOMMU_PGFAULT_PERM_WRITE, fault.perm);
	EXPECT_EQ(0x123456789000, fault.addr);
	response.cookie = fault.cookie;
	EXPECT_EQ(sizeof(response), write(queue_fd, &response, sizeof(response)));
	test_cmd_mock_domain_replace(self->stdev, self->ioas_id);
	test_ioctl_destroy(hwpt);
	close(queue_fd);
	test_ioctl_destroy(queue);
}

TEST_F(mock, flags_of_pins)
{
	const __u32 known = MOCK_FLAGS_ACCESS_WRITE | MOCK_FLAGS_ACCESS_SYZ;
	struct iommu_test_cmd pin = { .access_pages = { .iova = IOVA, .length = PG } };
	struct iommu_test_cmd rw = { .access_rw = { .iova = IOVA, .length = 1,
						    .uptr = (uintptr_t)self->memory } };
	__u32 access;

	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	test_cmd_create_access(self->ioas_id, &access, MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	for (int bit = 0; bit < 32; bit++) {
		pin.access_pages.flags = 1U << bit;
		rw.access_rw.flags = 1U << bit;
		if (!(known & (1U << bit)))
			EXPECT_ERRNO(EOPNOTSUPP, test_op(self->fd, &pin,
							 IOMMU_TEST_OP_ACCESS_PAGES, access));
		if (!((known | MOCK_ACCESS_RW_SLOW_PATH) & (1U << bit)))
			EXPECT_ERRNO(EOPNOTSUPP, test_op(self->fd, &rw, IOMMU_TEST_OP_ACCESS_RW,
							 access));
	}
	test_cmd_destroy_access(access);
}

/* Tests rely on what the mock says of memory and PASIDs: no where it is not so. */
TEST_F(mock, checks_say_no)
{
	struct iommu_test_cmd map = { .check_map = { .length = PG } };
	struct iommu_test_cmd refs = { .check_refs = {
		.length = PG, .uptr = (uintptr_t)self->memory } };
	struct iommu_test_cmd pasid = { .pasid_check = { .pasid = 5 } };
	static const struct {
		int iova_page, page, error;
	} table[] = {
		{ 0, 0, 0 }, { 1, 1, 0 }, { 0, 1, EINVAL }, { 1, 0, EINVAL }, { 2, 2, EINVAL },
	};
	__u32 stdev, idev, hwpts[2];

	memset(self->memory, 1, PAGES * PG);
	test_ioctl_ioas_map_fixed(self->memory, 2 * PG, IOVA);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int rc;

		map.check_map.iova = IOVA + table[i].iova_page * PG;
		map.check_map.uptr = (uintptr_t)self->memory + table[i].page * PG;
		rc = test_op(self->fd, &map, IOMMU_TEST_OP_MD_CHECK_MAP, self->hwpt);
		EXPECT_EQ(table[i].error, rc ? errno : 0) TH_LOG("row %zu", i);
	}
	for (int pins = 0; pins < 4; pins++) {
		int rc;

		refs.check_refs.refs = pins;
		rc = test_op(self->fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0);
		EXPECT_EQ(pins == 1 ? 0 : EIO, rc ? errno : 0) TH_LOG("%d pins", pins);
	}

	test_cmd_mock_domain_flags(self->ioas_id, MOCK_FLAGS_DEVICE_PASID, &stdev, NULL, &idev);
	for (int i = 0; i < 2; i++)
		test_cmd_hwpt_alloc(idev, self->ioas_id, IOMMU_HWPT_ALLOC_PASID, &hwpts[i]);
	test_cmd_mock_domain_replace(stdev, hwpts[0]);
	EXPECT_EQ(0, test_op(self->fd, &pasid, IOMMU_TEST_OP_PASID_CHECK_HWPT, stdev));
	pasid.pasid_check.hwpt_id = hwpts[0];
	EXPECT_ERRNO(EINVAL, test_op(self->fd, &pasid, IOMMU_TEST_OP_PASID_CHECK_HWPT, stdev));
	ASSERT_EQ(0, _test_cmd_pasid_attach(self->fd, stdev, 5, hwpts[0]));
	EXPECT_EQ(0, test_op(self->fd, &pasid, IOMMU_TEST_OP_PASID_CHECK_HWPT, stdev));
	pasid.pasid_check.hwpt_id = hwpts[1];
	EXPECT_ERRNO(EINVAL, test_op(self->fd, &pasid, IOMMU_TEST_OP_PASID_CHECK_HWPT, stdev));
	pasid.pasid_check.hwpt_id = 0;
	EXPECT_ERRNO(EINVAL, test_op(self->fd, &pasid, IOMMU_TEST_OP_PASID_CHECK_HWPT, stdev));
}

/* A pin is one pin: the last to go lets the range be unmapped in full. */
TEST_F(mock, pins_are_counted)
{
	struct iommu_test_cmd refs = { .check_refs = {
		.length = PG, .uptr = (uintptr_t)self->memory } };
	struct iommu_test_cmd pin = { .access_pages = { .iova = IOVA, .length = PG } };
	__u32 access, first, second, alone;

	/* An IOAS with no domain: the pins are all there is. */
	test_ioctl_ioas_alloc(&alone);
	test_ioctl_ioas_map_fixed_id(alone, self->memory, PG, IOVA);
	test_cmd_create_access(alone, &access, MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	ASSERT_EQ(0, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	first = pin.access_pages.out_access_pages_id;
	ASSERT_EQ(0, test_op(self->fd, &pin, IOMMU_TEST_OP_ACCESS_PAGES, access));
	second = pin.access_pages.out_access_pages_id;
	EXPECT_NE(first, second);
	refs.check_refs.refs = 1;
	EXPECT_EQ(0, test_op(self->fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0));
	test_cmd_destroy_access_pages(access, first);
	test_err_destroy_access_pages(ENOENT, access, first);
	/* The other still holds the page. */
	EXPECT_EQ(0, test_op(self->fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0));
	test_cmd_destroy_access_pages(access, second);
	refs.check_refs.refs = 0;
	EXPECT_EQ(0, test_op(self->fd, &refs, IOMMU_TEST_OP_MD_CHECK_REFS, 0));
	test_cmd_destroy_access(access);
}

TEST_F(mock, reserved_ranges)
{
	struct iommu_test_cmd reserve = { .add_reserved = { .start = IOVA + PG, .length = PG } };

	ASSERT_EQ(0, test_op(self->fd, &reserve, IOMMU_TEST_OP_ADD_RESERVED, self->ioas_id));
	test_err_ioctl_ioas_map_fixed(EINVAL, self->memory, 2 * PG, IOVA);
	test_err_ioctl_ioas_map_fixed(EINVAL, self->memory, PG, IOVA + PG);
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA + 2 * PG);
}

/* Of the ranges that can be used user space gets as many as it has room for. */
TEST_F(mock, room_for_ranges)
{
	const __u64 mark = 0x5a5a5a5a5a5a5a5a;
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd) };
	struct iommu_iova_range ranges[8];
	unsigned int holes, room, i;

	test_ioctl_ioas_alloc(&cmd.ioas_id);
	cmd.allowed_iovas = (uintptr_t)ranges;
	for (holes = 0; holes < ARRAY_SIZE(ranges) - 1; holes++) {
		if (holes) {
			struct iommu_test_cmd reserve = { .add_reserved = {
				.start = holes * 16 * PG, .length = PG } };

			ASSERT_EQ(0, test_op(self->fd, &reserve, IOMMU_TEST_OP_ADD_RESERVED,
					     cmd.ioas_id));
		}
		for (room = 0; room <= ARRAY_SIZE(ranges); room++) {
			memset(ranges, mark & 0xff, sizeof(ranges));
			cmd.num_iovas = room;
			cmd.out_iova_alignment = 0;
			if (room <= holes)
				EXPECT_ERRNO(EMSGSIZE,
					     ioctl(self->fd, IOMMU_IOAS_IOVA_RANGES, &cmd));
			else
				EXPECT_EQ(0, ioctl(self->fd, IOMMU_IOAS_IOVA_RANGES, &cmd));
			EXPECT_EQ(holes + 1, cmd.num_iovas);
			EXPECT_EQ(1, cmd.out_iova_alignment);
			for (i = 0; i < ARRAY_SIZE(ranges); i++) {
				__u64 start = i ? (i * 16 + 1) * PG : 0;
				__u64 last = i == holes ? UINT64_MAX : (i + 1) * 16 * PG - 1;
				bool given = i < room && i <= holes;

				EXPECT_EQ(given ? start : mark, ranges[i].start)
					TH_LOG("%u holes, room for %u: %u", holes, room, i);
				EXPECT_EQ(given ? last : mark, ranges[i].last)
					TH_LOG("%u holes, room for %u: %u", holes, room, i);
			}
		}
	}
}

TEST_HARNESS_MAIN

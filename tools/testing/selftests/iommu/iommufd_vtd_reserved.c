// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device for which firmware has reserved memory (an RMRR of the DMAR table), on
 * QEMU's VT-d with `pasid-dma`. Such a device is left in pass-through when it is
 * removed; when it is found again, all of that has to be forgotten.
 *
 * VFIO does not take these devices, so this drives it through sysfs, without a
 * driver. What the kernel has mapped for it is the reserved memory and nothing else.
 */
#include "kselftest_harness.h"
#include "vtd_pdma.h"

/* The device with memory reserved for it, and where that is. */
struct reserved {
	struct vtd v;
	uint64_t start, last;
};

/* Whether the group of a device has memory reserved for it ("direct"). */
static bool is_reserved(const struct vtd *v, void *arg)
{
	struct reserved *r = arg;
	char path[128], type[32];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group/reserved_regions",
		 v->bdf);
	f = fopen(path, "r");
	while (f && !found && fscanf(f, "%lx %lx %31s", &r->start, &r->last, type) == 3)
		found = !strcmp(type, "direct");
	if (f)
		fclose(f);
	return found;
}

static int find(struct reserved *r)
{
	return vtd_search(&r->v, PDMA_ID, is_reserved, r) ? 0 : -ENODEV;
}

/* Memory space and bus master on, and its registers mapped. */
static int enable(struct reserved *r)
{
	uint16_t command;
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", r->v.bdf);
	fd = open(path, O_RDWR);
	if (fd < 0 || pread(fd, &command, 2, 4) != 2)
		return -errno;
	command |= 6;
	if (pwrite(fd, &command, 2, 4) != 2)
		return -errno;
	close(fd);
	return pdma_map_registers(&r->v);
}

static int remove_and_rescan(struct reserved *r)
{
	char path[128];
	int rc;

	munmap(r->v.bar, r->v.bar_size);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", r->v.bdf);
	rc = sysfs_write(path, "1");
	return rc ? rc : sysfs_write("/sys/bus/pci/rescan", "1");
}

/* Memory of the kernel's, whose address is mapped for no device. */
#define ELSEWHERE	0x1000000ULL

TEST(found_again)
{
	struct reserved r = {};
	int round;

	if (find(&r))
		SKIP(return, "no pasid-dma with reserved memory");
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, enable(&r));
		EXPECT_EQ(PDMA_DONE, pdma_run(&r.v, PDMA_READ, NO_PASID, r.start, 0));
		EXPECT_EQ(PDMA_DONE, pdma_run(&r.v, PDMA_READ, NO_PASID, r.last & ~7ULL, 0));
		/* In pass-through it would get there. */
		EXPECT_EQ(PDMA_FAULT, pdma_run(&r.v, PDMA_READ, NO_PASID, ELSEWHERE, 0))
			TH_LOG("round %d: an address that is not mapped", round);
		ASSERT_EQ(0, remove_and_rescan(&r));
		ASSERT_EQ(0, find(&r));
	}
}

TEST_HARNESS_MAIN

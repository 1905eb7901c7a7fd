/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * QEMU's `pasid-dma` (tools/testing/qemu): DMA with and without a PASID, by
 * untranslated requests or through the device's own translation cache (ATS),
 * with page requests (PRI) where nothing is mapped.
 */
#ifndef VTD_PDMA_H
#define VTD_PDMA_H

#include "vtd_nested.h"

#define NO_PASID	UINT32_MAX

/* @pasid may be NO_PASID. */
static inline int vtd_attach_at(struct vtd *v, uint32_t pasid, uint32_t pt_id)
{
	return pasid == NO_PASID ? vtd_attach(v, pt_id) : vtd_attach_pasid(v, pasid, pt_id);
}

enum {
	PDMA_READ = 1,
	PDMA_WRITE = 2,
	PDMA_FETCH_ADD = 3,
	PDMA_ATS = 0x100,
	PDMA_PRI = 0x200,
	PDMA_GROUP = 0x400,	/* asks for all pages in one group */
	PDMA_NO_SNOOP = 0x800,	/* reads 0, unless the IOMMU has it snooped */
};

/* What a device can keep to itself. */
enum {
	PDMA_SILENT = 1,		/* answers no Device-TLB invalidation */
	PDMA_SILENT_NAMELESS = 2,	/* and the IOMMU does not say who it was */
	PDMA_SILENT_GONE = 4,		/* nor is there anything on the bus */
};

/* How a transfer ended. */
enum {
	PDMA_IDLE,
	PDMA_DONE,
	PDMA_WAITING,	/* for a page response */
	PDMA_FAULT,
	PDMA_REFUSED,	/* by a page response */
	PDMA_DISABLED,	/* bus master, PASID, ATS or PRI */
	PDMA_BAD,
};

static inline uint64_t *pdma_reg64(struct vtd *v, unsigned int offset)
{
	return (uint64_t *)(v->bar + offset);
}

static inline uint32_t *pdma_reg32(struct vtd *v, unsigned int offset)
{
	return (uint32_t *)(v->bar + offset);
}

static inline unsigned int pdma_status(struct vtd *v)
{
	return __atomic_load_n(pdma_reg32(v, 0x1c), __ATOMIC_SEQ_CST);
}

/* Translations that the device has cached. */
static inline unsigned int pdma_cached(struct vtd *v)
{
	return __atomic_load_n(pdma_reg32(v, 0x20), __ATOMIC_SEQ_CST);
}

/* Page group responses that have come. */
static inline unsigned int pdma_responses(struct vtd *v)
{
	return __atomic_load_n(pdma_reg32(v, 0x30), __ATOMIC_SEQ_CST);
}

static inline void pdma_keep_silent(struct vtd *v, uint32_t how)
{
	__atomic_store_n(pdma_reg32(v, 0x34), how, __ATOMIC_SEQ_CST);
}

static inline uint64_t pdma_buffer(struct vtd *v)
{
	return __atomic_load_n(pdma_reg64(v, 0x1000), __ATOMIC_SEQ_CST);
}

/* Starts a transfer of 8 bytes with the device's buffer. */
static inline void pdma_start(struct vtd *v, uint32_t command, uint32_t pasid, uint64_t addr,
			      uint64_t value)
{
	bool add = (command & 3) == PDMA_FETCH_ADD;

	__atomic_store_n(pdma_reg64(v, 0x08), addr, __ATOMIC_SEQ_CST);
	__atomic_store_n(pdma_reg32(v, 0x10), 8, __ATOMIC_SEQ_CST);
	__atomic_store_n(pdma_reg32(v, 0x14), pasid == NO_PASID ? 0 : pasid | 1U << 31,
			 __ATOMIC_SEQ_CST);
	__atomic_store_n(pdma_reg64(v, add ? 0x28 : 0x1000), value, __ATOMIC_SEQ_CST);
	__atomic_store_n(pdma_reg32(v, 0x18), command, __ATOMIC_SEQ_CST);
}

/* The same, and how it ended. Reading that pushes what the device wrote to memory. */
static inline unsigned int pdma_run(struct vtd *v, uint32_t command, uint32_t pasid, uint64_t addr,
				    uint64_t value)
{
	pdma_start(v, command, pasid, addr, value);
	return pdma_status(v);
}

/* Waits for the end of a transfer with page requests. */
static inline unsigned int pdma_wait(struct vtd *v)
{
	int tries;

	for (tries = 0; tries < 5000 && pdma_status(v) == PDMA_WAITING; tries++)
		usleep(500);
	return pdma_status(v);
}

/*
 * Nested tables for the device's PASIDs: takes the device, with a parent that
 * goes with PASIDs. As vtd_setup_on().
 */
static inline int pdma_setup(struct vtd *v, uint32_t parent_flags)
{
	int rc = vtd_setup_on(v, PDMA_ID, parent_flags | IOMMU_HWPT_ALLOC_PASID);

	if (!rc && !v->pasid_bits) {
		snprintf(v->why, sizeof(v->why), "%s has no PASIDs here", v->bdf);
		return 1;
	}
	/* An IOMMU without PASIDs refuses the parent. */
	if (rc < 0 && v->dev_id && !v->pasid_bits)
		rc = 1;
	return rc;
}

/* The registers of a device that VFIO does not have. */
static inline int pdma_map_registers(struct vtd *v)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", v->bdf);
	fd = open(path, O_RDWR);
	if (fd < 0)
		return -errno;
	v->bar_size = 2 * PG;
	v->bar = mmap(NULL, v->bar_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return v->bar == MAP_FAILED ? -errno : 0;
}

static inline bool pdma_is_another(const struct vtd *v, void *one)
{
	return strcmp(v->bdf, ((struct vtd *)one)->bdf);
}

/* Another device of the kind of @v's, or false. */
static inline bool pdma_find_another(struct vtd *v, struct vtd *other)
{
	return vtd_search(other, v->pci_id, pdma_is_another, v);
}

/* Takes it, too; it shares the memory and all that is in v->iommufd. */
static inline int pdma_take_another(struct vtd *v, struct vtd *other)
{
	int rc;

	other->iommufd = dup(v->iommufd);
	if (other->iommufd < 0)
		return vtd_fail(other, "dup");
	other->mem = v->mem;
	rc = vtd_bind(other);
	return rc ? rc : vtd_map_bar(other);
}

/* A nested hwpt for PASIDs whose table has @iova mapped to @page. */
static inline int pdma_table(struct vtd *v, uint64_t iova, unsigned int page, uint64_t *root,
			     uint32_t fault, uint32_t *hwpt)
{
	struct iommu_hwpt_vtd_s1 s1 = { .addr_width = 48 };
	uint32_t flags = IOMMU_HWPT_ALLOC_PASID;

	*root = vtd_new_table(v);
	if (page)
		vtd_set(v, *root, iova, gpa_of(page), FS_LEAF);
	s1.pgtbl_addr = *root;
	if (fault)
		flags |= IOMMU_HWPT_FAULT_ID_VALID;
	return vtd_alloc_hwpt(v, v->parent, flags, &s1, fault, hwpt);
}

#endif

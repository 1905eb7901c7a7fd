/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VMM's side of a vIOMMU for VT-d: <linux/iommufd_vtd.h>.
 */
#ifndef VTD_VIOMMU_H
#define VTD_VIOMMU_H

#include <linux/iommufd_vtd.h>
#include <poll.h>

#include "vtd_nested.h"

static inline int vtd_alloc_viommu(struct vtd *v, uint32_t dev, uint32_t parent, uint32_t *id)
{
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VTD_VIOMMU_TYPE,
		.dev_id = dev,
		.hwpt_id = parent,
	};
	int rc = ioctl(v->iommufd, IOMMU_VIOMMU_ALLOC, &cmd) ? -errno : 0;

	*id = cmd.out_viommu_id;
	return rc;
}

static inline int vtd_alloc_vdev(struct vtd *v, uint32_t viommu, uint32_t dev, uint64_t sid,
				 uint32_t *id)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.dev_id = dev,
		.virt_id = sid,
	};
	int rc = ioctl(v->iommufd, IOMMU_VDEVICE_ALLOC, &cmd) ? -errno : 0;

	*id = cmd.out_vdevice_id;
	return rc;
}

/* A queue of up to @depth faults of the guest's devices; its descriptor, which does not block. */
static inline int vtd_alloc_faults(struct vtd *v, uint32_t viommu, uint32_t depth, uint32_t *id)
{
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.type = IOMMU_VTD_VEVENTQ_FRCD,
		.veventq_depth = depth,
	};

	if (ioctl(v->iommufd, IOMMU_VEVENTQ_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_veventq_id;
	fcntl(cmd.out_veventq_fd, F_SETFL, O_NONBLOCK);
	return cmd.out_veventq_fd;
}

struct vtd_event {
	struct iommufd_vevent_header header;
	struct iommu_vtd_fault fault;
};

/* Whether there is an event within so many milliseconds. */
static inline bool vtd_next_event(int fd, int ms, struct vtd_event *event)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	memset(event, 0, sizeof(*event));
	return poll(&poll_fd, 1, ms) == 1 && read(fd, event, sizeof(*event)) > 0;
}

static inline unsigned int vtd_reason(const struct vtd_event *event)
{
	return event->fault.frcd[1] >> 32 & 0xff;
}

/* A guest's PASID-table entry: P, a first stage of four levels at @root. */
static inline struct iommu_vtd_pasid_entry vtd_pe(uint64_t root, uint16_t did)
{
	return (struct iommu_vtd_pasid_entry){ .pe = { 1 | 1 << 6, did, root } };
}

static inline int vtd_alloc_nested_pe(struct vtd *v, uint32_t viommu,
				      const struct iommu_vtd_pasid_entry *pe, uint32_t *id)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_HWPT_ALLOC_PASID,
		.dev_id = v->dev_id,
		.pt_id = viommu,
		.data_type = IOMMU_VTD_HWPT_DATA_PE,
		.data_len = sizeof(*pe),
		.data_uptr = (uintptr_t)pe,
	};
	int rc = ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd) ? -errno : 0;

	*id = cmd.out_hwpt_id;
	return rc;
}

/*
 * Has the kernel work off @num descriptors of @len bytes; @num becomes how many it
 * did.
 */
static inline int vtd_queue_of(struct vtd *v, uint32_t viommu, const void *descs, uint32_t len,
			       uint32_t *num)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = viommu,
		.data_uptr = (uintptr_t)descs,
		.data_type = IOMMU_VTD_INVALIDATE_QI,
		.entry_len = len,
		.entry_num = *num,
	};
	int rc = ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd) ? -errno : 0;

	*num = cmd.entry_num;
	return rc;
}

static inline int vtd_queue(struct vtd *v, uint32_t viommu, const struct iommu_vtd_inv_desc *descs,
			    uint32_t *num)
{
	return vtd_queue_of(v, viommu, descs, sizeof(*descs), num);
}

/* One descriptor; -EIO when it was not done and there was no error. */
static inline int vtd_queue_one(struct vtd *v, uint32_t viommu, struct iommu_vtd_inv_desc desc)
{
	uint32_t num = 1;
	int rc = vtd_queue(v, viommu, &desc, &num);

	return rc ? rc : num == 1 ? 0 : -EIO;
}

/* Descriptors (section 6.5.2): IOTLB, PASID-based IOTLB of a page or all, both Device-TLB ones */
static inline struct iommu_vtd_inv_desc vtd_iotlb(uint16_t did, unsigned int granularity)
{
	return (struct iommu_vtd_inv_desc){ .qw = { 2 | granularity << 4 | (uint64_t)did << 16 } };
}

static inline struct iommu_vtd_inv_desc vtd_page(uint16_t did, uint32_t pasid, uint64_t addr)
{
	return (struct iommu_vtd_inv_desc){
		.qw = { 6 | 3 << 4 | (uint64_t)did << 16 | (uint64_t)pasid << 32, addr }
	};
}

static inline struct iommu_vtd_inv_desc vtd_pasid(uint16_t did, uint32_t pasid)
{
	return (struct iommu_vtd_inv_desc){
		.qw = { 6 | 2 << 4 | (uint64_t)did << 16 | (uint64_t)pasid << 32 }
	};
}

static inline struct iommu_vtd_inv_desc vtd_dev_tlb(uint16_t sid, uint64_t addr)
{
	return (struct iommu_vtd_inv_desc){ .qw = { 3 | (uint64_t)sid << 32, addr } };
}

static inline struct iommu_vtd_inv_desc vtd_pasid_dev_tlb(uint16_t sid, uint32_t pasid,
							  uint64_t addr)
{
	return (struct iommu_vtd_inv_desc){
		.qw = { 8 | (uint64_t)sid << 16 | (uint64_t)pasid << 32, addr }
	};
}

/* The unit's domain-id of a hwpt: that of the descriptor for its own invalidation. */
static inline int vtd_did_of(struct vtd *v, uint32_t hwpt)
{
	unsigned long long qw0;
	char line[512], *at;
	int did = -1;
	FILE *f;

	if (trace_start() || vtd_invalidate(v, hwpt, 0, 1))
		return -1;
	sysfs_write(TRACING "tracing_on", "0");
	f = fopen(TRACING "trace", "r");
	while (f && fgets(line, sizeof(line), f)) {
		at = strstr(line, "qi_submit: p_iotlb_inv ");
		at = at ? strstr(at, ": 0x") : NULL;
		if (at && sscanf(at, ": 0x%llx", &qw0) == 1)
			did = qw0 >> 16 & 0xffff;
	}
	if (f)
		fclose(f);
	sysfs_write(TRACING "events/intel_iommu/qi_submit/enable", "0");
	return did;
}

/* A nested hwpt for the table at @root, of the guest's domain @did. */
static inline int vtd_alloc_pe(struct vtd *v, uint32_t viommu, uint64_t root, uint16_t did,
			       uint32_t *id)
{
	struct iommu_vtd_pasid_entry pe = vtd_pe(root, did);

	return vtd_alloc_nested_pe(v, viommu, &pe, id);
}

/* The same for a guest that uses ATS. */
static inline int vtd_alloc_pe_ats(struct vtd *v, uint32_t viommu, uint64_t root, uint16_t did,
				   uint32_t *id)
{
	struct iommu_vtd_pasid_entry pe = vtd_pe(root, did);

	pe.flags = IOMMU_VTD_PE_GUEST_ATS;
	return vtd_alloc_nested_pe(v, viommu, &pe, id);
}

#endif

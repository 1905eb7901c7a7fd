// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded into a VMM: writes each of its ioctls of VFIO and iommufd, with what came of
 * it, to the file IOCALLS_LOG. Those whose line begins as the pattern IOCALLS_SWALLOW has it
 * never reach the kernel, and the VMM believes that they did.
 *
 * Pointers and file descriptors are left out, so that the logs of two runs can be compared.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/capability.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct field {
	const char *name;
	size_t at, size;
};

#define F(type, member) { #member, offsetof(struct type, member), sizeof(((struct type *)0)->member) }

static const struct call {
	unsigned long request;
	const char *name;
	/* Tells apart those that share a number; 0: any. */
	uint32_t argsz;
	struct field field[8];	/* ends with one that has no name */
} calls[] = {
	{ IOMMU_DESTROY, "DESTROY", 0, { F(iommu_destroy, id) } },
	{ IOMMU_IOAS_ALLOC, "IOAS_ALLOC", 0, { F(iommu_ioas_alloc, out_ioas_id) } },
	{ IOMMU_IOAS_ALLOW_IOVAS, "IOAS_ALLOW_IOVAS", 0, { F(iommu_ioas_allow_iovas, ioas_id) } },
	{ IOMMU_IOAS_COPY, "IOAS_COPY", 0,
	  { F(iommu_ioas_copy, flags), F(iommu_ioas_copy, dst_ioas_id),
	    F(iommu_ioas_copy, src_ioas_id), F(iommu_ioas_copy, length),
	    F(iommu_ioas_copy, dst_iova), F(iommu_ioas_copy, src_iova) } },
	{ IOMMU_IOAS_IOVA_RANGES, "IOAS_IOVA_RANGES", 0,
	  { F(iommu_ioas_iova_ranges, ioas_id), F(iommu_ioas_iova_ranges, num_iovas),
	    F(iommu_ioas_iova_ranges, out_iova_alignment) } },
	{ IOMMU_IOAS_MAP, "IOAS_MAP", 0,
	  { F(iommu_ioas_map, flags), F(iommu_ioas_map, ioas_id), F(iommu_ioas_map, length),
	    F(iommu_ioas_map, iova) } },
	{ IOMMU_IOAS_MAP_FILE, "IOAS_MAP_FILE", 0,
	  { F(iommu_ioas_map_file, flags), F(iommu_ioas_map_file, ioas_id),
	    F(iommu_ioas_map_file, start), F(iommu_ioas_map_file, length),
	    F(iommu_ioas_map_file, iova) } },
	{ IOMMU_IOAS_UNMAP, "IOAS_UNMAP", 0,
	  { F(iommu_ioas_unmap, ioas_id), F(iommu_ioas_unmap, iova),
	    F(iommu_ioas_unmap, length) } },
	{ IOMMU_OPTION, "OPTION", 0,
	  { F(iommu_option, option_id), F(iommu_option, op), F(iommu_option, object_id),
	    F(iommu_option, val64) } },
	{ IOMMU_VFIO_IOAS, "VFIO_IOAS", 0,
	  { F(iommu_vfio_ioas, op), F(iommu_vfio_ioas, ioas_id) } },
	{ IOMMU_HWPT_ALLOC, "HWPT_ALLOC", 0,
	  { F(iommu_hwpt_alloc, flags), F(iommu_hwpt_alloc, dev_id), F(iommu_hwpt_alloc, pt_id),
	    F(iommu_hwpt_alloc, data_type), F(iommu_hwpt_alloc, out_hwpt_id) } },
	{ IOMMU_GET_HW_INFO, "GET_HW_INFO", 0,
	  { F(iommu_hw_info, flags), F(iommu_hw_info, dev_id), F(iommu_hw_info, data_len),
	    F(iommu_hw_info, out_data_type), F(iommu_hw_info, out_max_pasid_log2),
	    F(iommu_hw_info, out_capabilities) } },
	{ IOMMU_HWPT_SET_DIRTY_TRACKING, "HWPT_SET_DIRTY_TRACKING", 0,
	  { F(iommu_hwpt_set_dirty_tracking, flags),
	    F(iommu_hwpt_set_dirty_tracking, hwpt_id) } },
	{ IOMMU_HWPT_GET_DIRTY_BITMAP, "HWPT_GET_DIRTY_BITMAP", 0,
	  { F(iommu_hwpt_get_dirty_bitmap, hwpt_id), F(iommu_hwpt_get_dirty_bitmap, flags),
	    F(iommu_hwpt_get_dirty_bitmap, iova), F(iommu_hwpt_get_dirty_bitmap, length),
	    F(iommu_hwpt_get_dirty_bitmap, page_size) } },
	{ IOMMU_HWPT_INVALIDATE, "HWPT_INVALIDATE", 0,
	  { F(iommu_hwpt_invalidate, hwpt_id), F(iommu_hwpt_invalidate, data_type),
	    F(iommu_hwpt_invalidate, entry_len), F(iommu_hwpt_invalidate, entry_num) } },
	{ IOMMU_FAULT_QUEUE_ALLOC, "FAULT_QUEUE_ALLOC", 0,
	  { F(iommu_fault_alloc, flags), F(iommu_fault_alloc, out_fault_id) } },
	{ IOMMU_VIOMMU_ALLOC, "VIOMMU_ALLOC", 0,
	  { F(iommu_viommu_alloc, flags), F(iommu_viommu_alloc, type),
	    F(iommu_viommu_alloc, hwpt_id), F(iommu_viommu_alloc, out_viommu_id) } },
	{ IOMMU_IOAS_CHANGE_PROCESS, "IOAS_CHANGE_PROCESS", 0, {} },
	{ VFIO_DEVICE_BIND_IOMMUFD, "BIND_IOMMUFD", 0,
	  { F(vfio_device_bind_iommufd, flags), F(vfio_device_bind_iommufd, out_devid) } },
	{ VFIO_DEVICE_ATTACH_IOMMUFD_PT, "ATTACH_IOMMUFD_PT", 0,
	  { F(vfio_device_attach_iommufd_pt, flags), F(vfio_device_attach_iommufd_pt, pt_id) } },
	{ VFIO_DEVICE_DETACH_IOMMUFD_PT, "DETACH_IOMMUFD_PT", 0,
	  { F(vfio_device_detach_iommufd_pt, flags) } },
	{ VFIO_DEVICE_GET_INFO, "DEVICE_GET_INFO", 0,
	  { F(vfio_device_info, flags), F(vfio_device_info, num_regions),
	    F(vfio_device_info, num_irqs) } },
	{ VFIO_DEVICE_GET_REGION_INFO, "DEVICE_GET_REGION_INFO", 0,
	  { F(vfio_region_info, flags), F(vfio_region_info, index), F(vfio_region_info, size) } },
	{ VFIO_DEVICE_GET_IRQ_INFO, "DEVICE_GET_IRQ_INFO", 0,
	  { F(vfio_irq_info, flags), F(vfio_irq_info, index), F(vfio_irq_info, count) } },
	{ VFIO_DEVICE_SET_IRQS, "DEVICE_SET_IRQS", 0,
	  { F(vfio_irq_set, flags), F(vfio_irq_set, index), F(vfio_irq_set, start),
	    F(vfio_irq_set, count) } },
	{ VFIO_DEVICE_RESET, "DEVICE_RESET", 0, {} },
	{ VFIO_IOMMU_MAP_DMA, "MAP_DMA", sizeof(struct vfio_iommu_type1_dma_map),
	  { F(vfio_iommu_type1_dma_map, flags), F(vfio_iommu_type1_dma_map, iova),
	    F(vfio_iommu_type1_dma_map, size) } },
	{ VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, "DEVICE_GET_PCI_HOT_RESET_INFO",
	  sizeof(struct vfio_pci_hot_reset_info), {} },
	{ VFIO_DEVICE_PCI_HOT_RESET, "DEVICE_PCI_HOT_RESET", 0, {} },
	{ VFIO_IOMMU_UNMAP_DMA, "UNMAP_DMA", 0,
	  { F(vfio_iommu_type1_dma_unmap, flags), F(vfio_iommu_type1_dma_unmap, iova),
	    F(vfio_iommu_type1_dma_unmap, size) } },
	{ VFIO_DEVICE_FEATURE, "DEVICE_FEATURE", 0, { F(vfio_device_feature, flags) } },
	{ VFIO_GET_API_VERSION, "GET_API_VERSION", 0, {} },
	{ VFIO_CHECK_EXTENSION, "CHECK_EXTENSION", 0, {} },
	{ VFIO_SET_IOMMU, "SET_IOMMU", 0, {} },
	{ VFIO_GROUP_GET_STATUS, "GROUP_GET_STATUS", 0, { F(vfio_group_status, flags) } },
	{ VFIO_GROUP_SET_CONTAINER, "GROUP_SET_CONTAINER", 0, {} },
	{ VFIO_GROUP_UNSET_CONTAINER, "GROUP_UNSET_CONTAINER", 0, {} },
	{ VFIO_GROUP_GET_DEVICE_FD, "GROUP_GET_DEVICE_FD", 0, {} },
};

static int out = -1;

__attribute__((constructor)) static void begin(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	const char *name = getenv("IOCALLS_LOG");

	if (name)
		out = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	/* Who may lock what they want is charged for nothing. */
	if (!syscall(SYS_capget, &header, data)) {
		data[0].effective &= ~(1U << CAP_IPC_LOCK);
		syscall(SYS_capset, &header, data);
	}
}

static const struct call *find(unsigned long request, const void *arg)
{
	size_t i;

	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		const struct call *call = &calls[i];

		if (call->request == request &&
		    (!call->argsz || call->argsz == *(const uint32_t *)arg))
			return call;
	}
	return NULL;
}

/* What lies behind the pointers that matter. */
static void log_data(FILE *line, unsigned long request, const void *arg)
{
	if (request == IOMMU_HWPT_ALLOC) {
		const struct iommu_hwpt_alloc *cmd = arg;
		const struct iommu_hwpt_vtd_s1 *s1 = (void *)(uintptr_t)cmd->data_uptr;

		if (cmd->data_type == IOMMU_HWPT_DATA_VTD_S1)
			fprintf(line, " s1_flags=%#llx pgtbl_addr=%#llx addr_width=%u",
				s1->flags, s1->pgtbl_addr, s1->addr_width);
	} else if (request == IOMMU_HWPT_INVALIDATE) {
		const struct iommu_hwpt_invalidate *cmd = arg;
		const struct iommu_hwpt_vtd_s1_invalidate *inv = (void *)(uintptr_t)cmd->data_uptr;

		if (cmd->data_type == IOMMU_HWPT_INVALIDATE_DATA_VTD_S1)
			fprintf(line, " addr=%#llx npages=%#llx flags=%u", inv->addr,
				inv->npages, inv->flags);
	} else if (request == VFIO_DEVICE_ATTACH_IOMMUFD_PT) {
		const struct vfio_device_attach_iommufd_pt *cmd = arg;

		if (cmd->flags & VFIO_DEVICE_ATTACH_PASID)
			fprintf(line, " pasid=%u", cmd->pasid);
	} else if (request == VFIO_DEVICE_DETACH_IOMMUFD_PT) {
		const struct vfio_device_detach_iommufd_pt *cmd = arg;

		if (cmd->flags & VFIO_DEVICE_DETACH_PASID)
			fprintf(line, " pasid=%u", cmd->pasid);
	}
}

/* A call in words. */
static void describe(char *text, size_t size, const struct call *call, unsigned long request,
		     const void *arg)
{
	FILE *line = fmemopen(text, size, "w");
	const struct field *f;

	if (!line)
		abort();
	if (!call)
		fprintf(line, "%#lx", request);
	else
		fputs(call->name, line);
	for (f = call ? call->field : NULL; f && f->name; f++) {
		uint64_t value = 0;

		memcpy(&value, (const char *)arg + f->at, f->size);
		fprintf(line, " %s=%#llx", f->name, (unsigned long long)value);
	}
	log_data(line, request, arg);
	fclose(line);
}

int ioctl(int fd, unsigned long request, ...)
{
	const char *pattern = getenv("IOCALLS_SWALLOW"), *answer;
	bool swallow = false;
	const struct call *call;
	char text[512] = "";
	int rc = 0, error;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (_IOC_TYPE(request) != IOMMUFD_TYPE)
		return syscall(SYS_ioctl, fd, request, arg);
	call = find(request, arg);
	if (pattern && *pattern) {
		describe(text, sizeof(text), call, request, arg);
		swallow = !fnmatch(pattern, text, 0);
	}
	if (!swallow)
		rc = syscall(SYS_ioctl, fd, request, arg);
	error = errno;
	describe(text, sizeof(text), call, request, arg);
	if (swallow)
		answer = "0 (swallowed)";
	else if (rc < 0)
		answer = strerrorname_np(error);
	else	/* Elsewhere it may be a descriptor. */
		answer = request == VFIO_CHECK_EXTENSION && rc ? "1" : "0";
	if (out >= 0 && dprintf(out, "%s = %s\n", text, answer) < 0)
		abort();
	errno = error;
	return rc;
}

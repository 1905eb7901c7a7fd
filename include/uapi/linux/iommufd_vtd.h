/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * A vIOMMU for a guest that has an Intel VT-d of its own.
 *
 * It adds to <linux/iommufd.h> and has no ioctl of its own. A VMM makes
 *
 *  - a vIOMMU of IOMMU_VTD_VIOMMU_TYPE (IOMMU_VIOMMU_ALLOC) on a nest parent that
 *    maps the guest's memory, one for each unit that its devices are behind;
 *  - a vDEVICE for each device (IOMMU_VDEVICE_ALLOC), whose virt_id is the
 *    source-id that the guest knows the device by;
 *  - a nested hwpt for each entry of the guest's PASID tables that has a first stage
 *    (IOMMU_HWPT_ALLOC with pt_id of the vIOMMU and IOMMU_VTD_HWPT_DATA_PE), and
 *    attaches the device to it, or the PASID of the device, as it would to a nested
 *    hwpt on the parent;
 *  - calls IOMMU_HWPT_INVALIDATE on the vIOMMU with IOMMU_VTD_INVALIDATE_QI for what
 *    the guest has written into its invalidation queue.
 *
 * Formats are those of the hardware, so that a VMM copies what the guest wrote. What
 * the guest names by numbers of its own are its devices (the vDEVICEs) and its
 * domain-ids: nested hwpts on one vIOMMU that name the same domain-id have one of the
 * hardware's in common. PASIDs are the same for guest and host; 0 stands for requests
 * without one. So it must be RID_PASID of the guest's context entries, as it is where the
 * VMM does not offer RID_PASID (RPS in the guest's Extended Capability Register).
 *
 * "Table" and "section" are those of the Intel Virtualization Technology for Directed
 * I/O architecture specification, revision 5.10.
 *
 * The numbers begin with "VTD" in ASCII: those that <linux/iommufd.h> will give out
 * count upwards from zero, and can never be the same.
 */
#ifndef _UAPI_IOMMUFD_VTD_H
#define _UAPI_IOMMUFD_VTD_H

#include <linux/types.h>

/*
 * For iommu_viommu_alloc.type; data_len is 0.
 *
 * EOPNOTSUPP: the device's unit does not nest, or there is data. EINVAL: hwpt_id is no
 * nest parent of this driver's.
 *
 * iommu_vdevice_alloc.virt_id on it is the guest's source-id of the device: its bus,
 * device and function in 16 bits. EINVAL: it has more bits, or the device is behind
 * another unit. EEXIST: another device has it. EOPNOTSUPP: the device does not send its
 * requests with an id of its own, for it is behind a bridge or does DMA in another
 * one's name.
 */
#define IOMMU_VTD_VIOMMU_TYPE		0x56544401

/* For iommu_hwpt_alloc.data_type, where pt_id is a vIOMMU of IOMMU_VTD_VIOMMU_TYPE */
#define IOMMU_VTD_HWPT_DATA_PE		0x56544402

/**
 * enum iommu_vtd_pasid_entry_flags - Flags of &struct iommu_vtd_pasid_entry
 * @IOMMU_VTD_PE_GUEST_ATS: The guest invalidates the Device-TLBs behind this entry
 *                          itself: it uses ATS for the device that the entry is for.
 *                          Without, what it invalidates of the IOTLB is invalidated in
 *                          the devices, too, which it does not know to cache anything
 */
enum iommu_vtd_pasid_entry_flags {
	IOMMU_VTD_PE_GUEST_ATS = 1 << 0,
};

/**
 * struct iommu_vtd_pasid_entry - Entry of a guest's PASID table
 *                                (IOMMU_VTD_HWPT_DATA_PE)
 * @flags: Combination of enum iommu_vtd_pasid_entry_flags
 * @__reserved: Must be 0
 * @pe: The scalable-mode PASID-table entry as it lies in the guest's memory (section
 *      9.6), a first stage: P is set and PGTT is 001b
 *
 * These fields have a meaning: DID, FSPTPTR (a guest-physical address), FSPM, SRE, WPE
 * (with SRE), EAFE, PGSNP (that of the kernel's second stage holds, too). AW, FPD and
 * PWSNP may be set and mean nothing here: the first is that of a second stage, the
 * second a matter between the VMM and the guest, the third the kernel's.
 *
 * EINVAL: another bit is set, FSPM is neither 4 nor 5 levels, or FSPTPTR is beyond what
 * the second stage can map: the guest's unit would report a fault. Also where another
 * nested hwpt on the parent has the table with another FSPM or EAFE, which one unit
 * cannot have at a time (section 6.2.3.1): one of the two goes first. EOPNOTSUPP: P is
 * clear or PGTT another, for which there is no nested hwpt (the VMM detaches the device
 * or attaches the parent), the unit cannot do what a bit asks for, or a flag is unknown.
 * ENOSPC: too many domain-ids are in use.
 *
 * Attaching a device to such a hwpt is refused where the device is behind another unit
 * (EINVAL). It needs no vDEVICE for that.
 */
struct iommu_vtd_pasid_entry {
	__u32 flags;
	__u32 __reserved;
	__aligned_le64 pe[8];
};

/*
 * For iommu_hwpt_invalidate.data_type, where hwpt_id is a vIOMMU of
 * IOMMU_VTD_VIOMMU_TYPE
 */
#define IOMMU_VTD_INVALIDATE_QI		0x56544403

/* The most entries of a call: no invalidation queue has more. */
#define IOMMU_VTD_INVALIDATE_QI_MAX	(1 << 15)

/**
 * struct iommu_vtd_inv_desc - Invalidation descriptor of a guest
 *                             (IOMMU_VTD_INVALIDATE_QI)
 * @qw: The descriptor as it lies in the guest's queue (section 6.5.2)
 *
 * iommu_hwpt_invalidate.entry_len is 32, or 16 for a queue of 128-bit descriptors,
 * whose upper half does not exist. The kernel translates the guest's domain-ids and
 * source-ids, and has the descriptors done in their order:
 *
 *  - PASID-based IOTLB (type 6): as it is. A domain-id that no nested hwpt has stands
 *    for nothing, so there is nothing to be done.
 *  - IOTLB (type 2): all of the domain; where G is global all domains of the vIOMMU,
 *    once in a call. The addresses are those of a second stage, which the guest has
 *    not. DR and DW mean nothing.
 *  - Device-TLB (type 3) and PASID-based Device-TLB (type 8): as it is, whatever the
 *    device is attached to on the vIOMMU or its parent; with GI for all PASIDs. MIP and
 *    PFSID are the kernel's. Nothing is done where the device has no cache in use.
 *
 * When the call returns, what was handled is complete. entry_num says how many that
 * were, and errno what is wrong with the next one, so that the VMM can set the queue's
 * head, and report an error to the guest. Of those behind it some may be done, too.
 *
 *  - EINVAL: a reserved bit or value, an unknown type, or a type that is not in queues
 *    of this width; the guest's Invalidation Queue Error. (Also for the whole call:
 *    entry_len is another, or there are more than IOMMU_VTD_INVALIDATE_QI_MAX.)
 *  - ENODEV: no device has this source-id. ETIMEDOUT: a device did not answer. The
 *    guest's Invalidation Time-out Error.
 *  - EOPNOTSUPP: types 1 (context-cache), 4 (interrupt entry cache), 5 (wait), 7
 *    (PASID-cache) and 9 (page group response). What they ask for the VMM alone can do:
 *    attach, change an interrupt's route, write the status, answer a page request. It
 *    does that and calls again for what follows.
 *  - EFAULT: the entry cannot be read. EINTR: the caller is being killed. EIO: the
 *    hardware failed.
 */
struct iommu_vtd_inv_desc {
	__aligned_le64 qw[4];
};

/* For iommu_veventq_alloc.type on a vIOMMU of IOMMU_VTD_VIOMMU_TYPE */
#define IOMMU_VTD_VEVENTQ_FRCD		0x56544404

/**
 * enum iommu_vtd_fault_flags - Flags of &struct iommu_vtd_fault
 * @IOMMU_VTD_FAULT_OVERFLOW: The unit may have lost faults since the last one that was for
 *                            this queue: the guest's Primary Fault Overflow. A fault that
 *                            the queue had no room for takes the flag with it; such a gap
 *                            is an overflow, too
 */
enum iommu_vtd_fault_flags {
	IOMMU_VTD_FAULT_OVERFLOW = 1 << 0,
};

/**
 * struct iommu_vtd_fault - Fault of a guest's device (IOMMU_VTD_VEVENTQ_FRCD)
 * @flags: Combination of enum iommu_vtd_fault_flags
 * @__reserved: 0
 * @frcd: The Fault Recording Register (section 11.4.7.6), F set, with the source-id
 *        that the guest has for the device
 *
 * It follows a &struct iommufd_vevent_header. Told are faults that a guest can have
 * caused: those of its first-stage tables and addresses (reasons 5Ch, 5Dh, 70h to 77h,
 * 80h, 81h, 85h, 87h, 90h and 91h), and those of PASIDs that nothing is attached to
 * (51h, 59h). All others are the kernel's own, and in its log, as are all of a device or
 * PASID that is attached to no nested hwpt. The VMM's part:
 *
 *  - 51h, 59h: if the guest's PASID-table entry is present, the device used the PASID
 *    while the VMM changed what is attached to it; such a fault is not for the guest.
 *  - 75h to 77h: the kernel's second stage refuses the guest's table, which is 70h or
 *    73h to a guest that is not to know of it.
 *  - 85h: so may the second stage refuse the page, if the VMM maps any read-only.
 *  - FPD of the guest's entries, and what the guest has masked.
 *
 * A unit holds few records, and they are read some milliseconds apart, so of many
 * faults most are lost. Requests for pages are no faults: they come to the fault queue
 * of the hwpt, and of one that was answered with IOMMUFD_PAGE_RESP_INVALID the device
 * knows. In which order the two queues are read says nothing of the order in which it
 * all happened.
 *
 * A fault that no queue takes is in the kernel's log.
 */
struct iommu_vtd_fault {
	__u32 flags;
	__u32 __reserved;
	__aligned_le64 frcd[2];
};

#endif

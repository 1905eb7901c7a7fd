/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers that bindgen reads for /dev/iommu and its mock driver, their private
 * ones included: the Rust and the C parts of one driver share their structures.
 *
 * Sorted alphabetically, public headers first.
 */

#include <linux/anon_inodes.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/hugetlb.h>
#include <linux/iova_bitmap.h>
#include <linux/kthread.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pci-ats.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/vfio_pci_core.h>
#include <uapi/linux/vfio.h>

#include "../../drivers/iommu/iommufd/exports.h"
#include "../../drivers/iommu/iommufd/iommufd_private.h"
#include "../../drivers/iommu/iommufd/iommufd_test.h"

#if IS_ENABLED(CONFIG_IOMMUFD_TEST)
#include <linux/debugfs.h>
#include <linux/fault-inject.h>
#include <linux/generic_pt/iommu.h>
#include <linux/platform_device.h>
#endif

const gfp_t RUST_CONST_HELPER_XA_FLAGS_ACCOUNT = XA_FLAGS_ACCOUNT;
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
const unsigned long RUST_CONST_HELPER_HPAGE_SIZE = HPAGE_SIZE;
#endif

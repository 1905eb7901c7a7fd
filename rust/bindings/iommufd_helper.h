/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers that bindgen reads for /dev/iommu and its mock driver, their private
 * ones included: the Rust and the C parts of one driver share their structures.
 *
 * Sorted alphabetically, public headers first.
 */

#include <linux/anon_inodes.h>
#include <linux/pci-ats.h>
#include <uapi/linux/vfio.h>

#include "../../drivers/iommu/iommufd/exports.h"
#include "../../drivers/iommu/iommufd/io_pagetable.h"
#include "../../drivers/iommu/iommufd/iommufd_test.h"

#if IS_ENABLED(CONFIG_IOMMUFD_TEST)
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/fault-inject.h>
#include <linux/file.h>
#include <linux/generic_pt/iommu.h>
#include <linux/platform_device.h>
#endif

const gfp_t RUST_CONST_HELPER_XA_FLAGS_ACCOUNT = XA_FLAGS_ACCOUNT;

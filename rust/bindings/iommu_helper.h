/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The IOMMU headers that bindgen reads, the drivers' private ones included:
 * the Rust and the C parts of one driver share their structures.
 *
 * Sorted alphabetically, public headers first.
 */

#include <linux/anon_inodes.h>
#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <linux/pci-ats.h>
#include <uapi/linux/iommufd.h>
#include <uapi/linux/vfio.h>

#include "../../drivers/iommu/iommu-pages.h"
#include "../../drivers/iommu/iommu-priv.h"

#if IS_ENABLED(CONFIG_IOMMUFD_RUST)
#include "../../drivers/iommu/iommufd/exports.h"
#include "../../drivers/iommu/iommufd/io_pagetable.h"
#include "../../drivers/iommu/iommufd/iommufd_private.h"
#include "../../drivers/iommu/iommufd/iommufd_test.h"
#endif

#if IS_ENABLED(CONFIG_IOMMUFD_RUST) && IS_ENABLED(CONFIG_IOMMUFD_TEST)
#include <linux/anon_inodes.h>
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/fault-inject.h>
#include <linux/file.h>
#include <linux/generic_pt/iommu.h>
#include <linux/platform_device.h>
#endif

#if IS_ENABLED(CONFIG_INTEL_IOMMU_RUST)
#include "../../drivers/iommu/intel/iommu.h"
#include "../../drivers/iommu/intel/pasid.h"
#include "../../drivers/iommu/intel/vtd_shim.h"
#endif

const gfp_t RUST_CONST_HELPER_XA_FLAGS_ACCOUNT = XA_FLAGS_ACCOUNT;

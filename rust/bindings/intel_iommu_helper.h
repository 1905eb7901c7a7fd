/* SPDX-License-Identifier: GPL-2.0 */
/* The private headers of the VT-d driver, whose structures its Rust and C parts share. */

#include <linux/pci-ats.h>
#include <uapi/linux/iommufd_vtd.h>

#include "../../drivers/iommu/intel/iommu.h"
#include "../../drivers/iommu/intel/pasid.h"
#include "../../drivers/iommu/intel/vtd_shim.h"

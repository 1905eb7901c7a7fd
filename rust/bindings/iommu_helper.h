/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers of the IOMMU core that bindgen reads for rust/kernel/iommu.
 *
 * Sorted alphabetically, public headers first.
 */

#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <uapi/linux/iommufd.h>

#include "../../drivers/iommu/iommu-pages.h"
#include "../../drivers/iommu/iommu-priv.h"

#if IS_ENABLED(CONFIG_IOMMUFD)
#include "../../drivers/iommu/iommufd/iommufd_private.h"
#endif

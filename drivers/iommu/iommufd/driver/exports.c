// SPDX-License-Identifier: GPL-2.0-only
/*
 * What only C can say about the built-in part: its metadata, and which symbols
 * it exports in which namespace. The functions are in ffi/exports.rs and
 * ffi/bitmap.rs.
 */
#include <linux/iommufd.h>
#include <linux/iova_bitmap.h>
#include <linux/module.h>

#include "../iommufd_private.h"

EXPORT_SYMBOL_NS_GPL(_iommufd_alloc_mmap, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(_iommufd_destroy_mmap, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(_iommufd_object_depend, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(_iommufd_object_undepend, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_vdevice_to_device, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_viommu_find_dev, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_viommu_get_vdev_id, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_viommu_report_event, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_alloc, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_for_each, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_for_each_pinned, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_free, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_probe, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iova_bitmap_set, "IOMMUFD");
#ifdef CONFIG_IRQ_MSI_IOMMU
EXPORT_SYMBOL_NS_GPL(iommufd_sw_msi, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_sw_msi_install, "IOMMUFD_INTERNAL");
#endif

MODULE_IMPORT_NS("IOMMUFD_INTERNAL");
MODULE_DESCRIPTION("iommufd code shared with builtin modules");
MODULE_LICENSE("GPL");

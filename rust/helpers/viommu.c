// SPDX-License-Identifier: GPL-2.0

#include <linux/iommufd.h>

#if !IS_ENABLED(CONFIG_IOMMUFD_DRIVER_CORE)
/* Nobody makes a vIOMMU then, and C drivers find these inline. */
__rust_helper int rust_helper__iommufd_alloc_mmap(struct iommufd_ctx *ictx,
						  struct iommufd_object *owner,
						  phys_addr_t mmio_addr, size_t length,
						  unsigned long *offset)
{
	return _iommufd_alloc_mmap(ictx, owner, mmio_addr, length, offset);
}

__rust_helper void rust_helper__iommufd_destroy_mmap(struct iommufd_ctx *ictx,
						     struct iommufd_object *owner,
						     unsigned long offset)
{
	_iommufd_destroy_mmap(ictx, owner, offset);
}

__rust_helper struct device *rust_helper_iommufd_vdevice_to_device(struct iommufd_vdevice *vdev)
{
	return iommufd_vdevice_to_device(vdev);
}

__rust_helper struct device *
rust_helper_iommufd_viommu_find_dev(struct iommufd_viommu *viommu, unsigned long vdev_id)
{
	return iommufd_viommu_find_dev(viommu, vdev_id);
}

__rust_helper int rust_helper_iommufd_viommu_get_vdev_id(struct iommufd_viommu *viommu,
							 struct device *dev,
							 unsigned long *vdev_id)
{
	return iommufd_viommu_get_vdev_id(viommu, dev, vdev_id);
}

__rust_helper int rust_helper_iommufd_viommu_report_event(struct iommufd_viommu *viommu,
							  enum iommu_veventq_type type,
							  void *event_data, size_t data_len)
{
	return iommufd_viommu_report_event(viommu, type, event_data, data_len);
}
#endif

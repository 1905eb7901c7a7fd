// SPDX-License-Identifier: GPL-2.0-only
/*
 * What only C can say about this module: its metadata, and which symbols it
 * exports in which namespace. The functions are in ffi/exports.rs.
 */
#include <linux/iommufd.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "exports.h"
#include "iommufd_private.h"

EXPORT_SYMBOL_NS_GPL(iommufd_ctx_get, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_ctx_from_file, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_ctx_from_fd, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_ctx_put, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_vfio_compat_ioas_create, "IOMMUFD_VFIO");
EXPORT_SYMBOL_NS_GPL(iommufd_vfio_compat_ioas_get_id, "IOMMUFD_VFIO");
EXPORT_SYMBOL_NS_GPL(iommufd_vfio_compat_set_no_iommu, "IOMMUFD_VFIO");

EXPORT_SYMBOL_NS_GPL(iommufd_access_attach, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_create, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_destroy, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_detach, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_pin_pages, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_replace, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_rw, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_access_unpin_pages, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_ctx_has_group, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_attach, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_bind, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_detach, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_replace, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_to_ictx, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_to_id, "IOMMUFD");
EXPORT_SYMBOL_NS_GPL(iommufd_device_unbind, "IOMMUFD");

/* Read by ffi/device.rs when a device is bound. */
bool iommufd_allow_unsafe_interrupts;
module_param_named(allow_unsafe_interrupts, iommufd_allow_unsafe_interrupts, bool, 0644);
MODULE_PARM_DESC(allow_unsafe_interrupts,
		 "Allow IOMMUFD to bind to devices even if the platform cannot isolate the MSI interrupt window. Enabling this is a security weakness.");

static int __init iommufd_init(void)
{
	int ret;

	/* Before /dev/iommu is there, whose test ioctl needs the mock IOMMU. */
	ret = iommufd_test_init();
	if (ret)
		return ret;
	ret = iommufd_rust_init();
	if (ret)
		iommufd_test_exit();
	return ret;
}
module_init(iommufd_init);

static void __exit iommufd_exit(void)
{
	iommufd_rust_exit();
	iommufd_test_exit();
}
module_exit(iommufd_exit);

#if IS_ENABLED(CONFIG_IOMMUFD_VFIO_CONTAINER)
MODULE_ALIAS_MISCDEV(VFIO_MINOR);
MODULE_ALIAS("devname:vfio/vfio");
#endif
MODULE_IMPORT_NS("IOMMUFD_INTERNAL");
MODULE_IMPORT_NS("IOMMUFD");
MODULE_IMPORT_NS("DMA_BUF");
MODULE_IMPORT_NS("GENERIC_PT_IOMMU");
MODULE_DESCRIPTION("I/O Address Space Management for passthrough devices");
MODULE_LICENSE("GPL");

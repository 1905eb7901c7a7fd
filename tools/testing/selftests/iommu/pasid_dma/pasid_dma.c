// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver for QEMU's `pasid-dma` (tools/testing/qemu), for tests of what drivers use
 * of an IOMMU and user space cannot ask for: shared virtual addresses, and the DMA API.
 * User space drives the device's registers itself, by resource0 in sysfs.
 */
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "pasid_dma.h"

#define PASID_DMA_DEVICE 0x00da

/* The first device that is found; others are left alone. */
static struct pci_dev *the_device;

struct pasid_dma_file {
	struct mutex lock;
	struct iommu_sva *bond;
};

static int pasid_dma_open(struct inode *inode, struct file *file)
{
	struct pasid_dma_file *f = kzalloc_obj(*f);

	if (!f)
		return -ENOMEM;
	mutex_init(&f->lock);
	file->private_data = f;
	return 0;
}

static int pasid_dma_release(struct inode *inode, struct file *file)
{
	struct pasid_dma_file *f = file->private_data;

	if (f->bond)
		iommu_sva_unbind_device(f->bond);
	kfree(f);
	return 0;
}

static long pasid_dma_bind(struct pasid_dma_file *f, u32 __user *arg)
{
	struct iommu_sva *bond;
	u32 pasid;

	guard(mutex)(&f->lock);
	if (f->bond)
		return -EBUSY;
	bond = iommu_sva_bind_device(&the_device->dev, current->mm);
	if (IS_ERR(bond))
		return PTR_ERR(bond);
	pasid = iommu_sva_get_pasid(bond);
	if (put_user(pasid, arg)) {
		iommu_sva_unbind_device(bond);
		return -EFAULT;
	}
	f->bond = bond;
	return 0;
}

static int pasid_dma_time(struct pasid_dma_map *map, void *buffer, dma_addr_t *at)
{
	struct device *dev = &the_device->dev;
	u32 done;
	u64 start;

	start = ktime_get_ns();
	for (done = 0; done < map->count; done++) {
		at[done] = dma_map_single(dev, buffer, map->size, DMA_BIDIRECTIONAL);
		if (dma_mapping_error(dev, at[done]))
			break;
	}
	map->map_ns = ktime_get_ns() - start;
	start = ktime_get_ns();
	for (u32 i = 0; i < done; i++)
		dma_unmap_single(dev, at[i], map->size, DMA_BIDIRECTIONAL);
	map->unmap_ns = ktime_get_ns() - start;
	return done == map->count ? 0 : -ENOMEM;
}

static long pasid_dma_map(struct pasid_dma_map __user *arg)
{
	struct pasid_dma_map map;
	dma_addr_t *at;
	void *buffer;
	int ret = -ENOMEM;

	if (copy_from_user(&map, arg, sizeof(map)))
		return -EFAULT;
	if (!map.size || map.size > PASID_DMA_MOST_BYTES ||
	    !map.count || map.count > PASID_DMA_MOST_MAPS)
		return -EINVAL;
	at = kvcalloc(map.count, sizeof(*at), GFP_KERNEL);
	buffer = alloc_pages_exact(map.size, GFP_KERNEL);
	if (at && buffer)
		ret = pasid_dma_time(&map, buffer, at);
	if (buffer)
		free_pages_exact(buffer, map.size);
	kvfree(at);
	if (!ret && copy_to_user(arg, &map, sizeof(map)))
		ret = -EFAULT;
	return ret;
}

static long pasid_dma_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case PASID_DMA_BIND:
		return pasid_dma_bind(file->private_data, (void __user *)arg);
	case PASID_DMA_MAP:
		return pasid_dma_map((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations pasid_dma_fops = {
	.owner = THIS_MODULE,
	.open = pasid_dma_open,
	.release = pasid_dma_release,
	.unlocked_ioctl = pasid_dma_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice pasid_dma_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "pasid_dma",
	.fops = &pasid_dma_fops,
	.mode = 0600,
};

static int pasid_dma_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret;

	if (the_device)
		return -EBUSY;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	pci_set_master(pdev);
	the_device = pdev;
	ret = misc_register(&pasid_dma_misc);
	if (ret)
		the_device = NULL;
	return ret;
}

static void pasid_dma_remove(struct pci_dev *pdev)
{
	misc_deregister(&pasid_dma_misc);
	the_device = NULL;
}

static const struct pci_device_id pasid_dma_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT, PASID_DMA_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, pasid_dma_ids);

/*
 * A file that is open keeps the module, and with that the device, which is not to be
 * unbound before: so only rmmod does that.
 */
static struct pci_driver pasid_dma_driver = {
	.name = "pasid_dma",
	.id_table = pasid_dma_ids,
	.probe = pasid_dma_probe,
	.remove = pasid_dma_remove,
	.driver.suppress_bind_attrs = true,
};
module_pci_driver(pasid_dma_driver);

MODULE_DESCRIPTION("Tests of an IOMMU with QEMU's pasid-dma");
MODULE_LICENSE("GPL");

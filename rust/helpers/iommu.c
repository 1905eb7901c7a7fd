// SPDX-License-Identifier: GPL-2.0

#include <linux/bitmap.h>
#include <linux/cred.h>
#include <linux/dma-buf.h>
#include <linux/generic_pt/iommu.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <linux/list.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/msi.h>
#include <linux/pci-ats.h>
#include <linux/refcount.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio_pci_core.h>
#include <linux/wait_bit.h>
#include <linux/xarray.h>

__rust_helper unsigned long rust_helper_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

/* Of a bitmap in memory of user space, so by no code that takes it for its own. */
__rust_helper void rust_helper_iommu_set_bits(struct page *page, unsigned int first,
					      unsigned int count)
{
	unsigned long *bits = kmap_local_page(page);

	if (count == 1)
		__set_bit(first, bits);
	else
		bitmap_set(bits, first, count);
	kunmap_local(bits);
}

__rust_helper int rust_helper_page_ref_count(const struct page *page)
{
	return page_ref_count(page);
}

#if IS_ENABLED(CONFIG_IOMMUFD_TEST)
#include <linux/fault-inject.h>

__rust_helper void rust_helper_init_fault_attr(struct fault_attr *attr)
{
	*attr = (struct fault_attr)FAULT_ATTR_INITIALIZER;
}

#ifndef CONFIG_FAULT_INJECTION_DEBUG_FS
__rust_helper struct dentry *
rust_helper_fault_create_debugfs_attr(const char *name, struct dentry *parent,
				      struct fault_attr *attr)
{
	return fault_create_debugfs_attr(name, parent, attr);
}
#endif

__rust_helper bool rust_helper_iommu_current_is_killed(void)
{
	return fatal_signal_pending(current);
}

__rust_helper void rust_helper_put_page(struct page *page)
{
	put_page(page);
}

__rust_helper bool rust_helper_PageCompound(const struct page *page)
{
	return PageCompound(page);
}
#endif

__rust_helper bool rust_helper_refcount_inc_not_zero(refcount_t *r)
{
	return refcount_inc_not_zero(r);
}

__rust_helper bool rust_helper_refcount_inc_not_zero_acquire(refcount_t *r)
{
	return refcount_inc_not_zero_acquire(r);
}

__rust_helper void rust_helper_refcount_set_release(refcount_t *r, int n)
{
	refcount_set_release(r, n);
}

/* With a lock class of its own: that of the general helper is everybody's. */
__rust_helper void rust_helper_iommu_xa_init_flags(struct xarray *xa, gfp_t flags)
{
	xa_init_flags(xa, flags);
}

__rust_helper int rust_helper_iommu_get_user(u32 *to, const u32 __user *from)
{
	return get_user(*to, from);
}

__rust_helper int rust_helper_iommu_put_user(u32 value, u32 __user *to)
{
	return put_user(value, to);
}

__rust_helper int rust_helper_iommu_put_user_u64(u64 value, u64 __user *to)
{
	return put_user(value, to);
}

/*
 * Returns what is left of the timeout, or 0 when the count is still not zero.
 * What others did before they gave their counts back has been done afterwards.
 */
__rust_helper long rust_helper_iommu_wait_refcount_zero(refcount_t *r, unsigned long timeout)
{
	return wait_var_event_timeout(r, atomic_read_acquire(&r->refs) == 0, timeout);
}

/* The same where it was one, and this made it zero. */
__rust_helper bool rust_helper_iommu_refcount_dec_if_one(refcount_t *r)
{
	if (!refcount_dec_if_one(r))
		return false;
	smp_acquire__after_ctrl_dep();
	return true;
}

/* For whoever brought the count to zero; it may be gone by now. */
__rust_helper void rust_helper_iommu_wake_refcount(refcount_t *r)
{
	/* Pairs with the barrier of set_current_state() in wait_var_event(). */
	smp_mb__after_atomic();
	wake_up_var(r);
}

__rust_helper void *rust_helper_iommu_xas_reload(struct xa_state *xas)
{
	return xas_reload(xas);
}

/*
 * What is freed may be looked at for a grace period, but for a pointer at freeptr. What ctor sets
 * when the memory is new stays as whoever frees it left it.
 * To who gets it the memory is like that of kmalloc(): as well aligned, and all of
 * it may be copied from and to user space.
 */
__rust_helper struct kmem_cache *
rust_helper_iommu_type_stable_cache(const char *name, unsigned int size, unsigned int freeptr,
				    void (*ctor)(void *object))
{
	struct kmem_cache_args args = {
		.align = max_t(unsigned int, ARCH_KMALLOC_MINALIGN, size & -size),
		.usersize = size,
		.use_freeptr_offset = true,
		.freeptr_offset = freeptr,
		.ctor = ctor,
	};

	return kmem_cache_create(name, size, &args, SLAB_TYPESAFE_BY_RCU);
}

__rust_helper void rust_helper_pt_iommu_deinit(struct pt_iommu *iommu_table)
{
	pt_iommu_deinit(iommu_table);
}

/* Maps the whole of a mapping to physical memory from phys on, uncached. */
__rust_helper int rust_helper_iommu_remap_uncached(struct vm_area_struct *vma, phys_addr_t phys)
{
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return io_remap_pfn_range(vma, vma->vm_start, phys >> PAGE_SHIFT,
				  vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

__rust_helper struct user_struct *rust_helper_iommu_current_user(void)
{
	return current_user();
}

__rust_helper void rust_helper_iommu_get_uid(struct user_struct *user)
{
	get_uid(user);
}

__rust_helper void rust_helper_iommu_list_del(struct list_head *entry)
{
	list_del(entry);
}

/* The object of iommufd's that a domain belongs to. */
__rust_helper struct iommufd_hw_pagetable *
rust_helper_iommu_domain_hwpt(struct iommu_domain *domain)
{
	return domain->iommufd_hwpt;
}

__rust_helper unsigned long rust_helper_clear_user(void __user *to, unsigned long n)
{
	return clear_user(to, n);
}

#ifdef CONFIG_IRQ_MSI_IOMMU
__rust_helper void rust_helper_iommu_group_mutex_assert(struct device *dev)
{
	iommu_group_mutex_assert(dev);
}

__rust_helper void rust_helper_msi_desc_set_iommu_msi_iova(struct msi_desc *desc, u64 msi_iova,
							   unsigned int msi_shift)
{
	msi_desc_set_iommu_msi_iova(desc, msi_iova, msi_shift);
}
#endif

#ifndef CONFIG_PCI_PRI
__rust_helper bool rust_helper_pci_pri_supported(struct pci_dev *pdev)
{
	return pci_pri_supported(pdev);
}
#endif

#ifndef CONFIG_PCI_PASID
__rust_helper int rust_helper_pci_pasid_status(struct pci_dev *pdev)
{
	return pci_pasid_status(pdev);
}
#endif

__rust_helper void rust_helper_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_gather_init(gather);
}

__rust_helper void rust_helper_iommu_iotlb_sync(struct iommu_domain *domain,
						struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_sync(domain, gather);
}

__rust_helper struct page *rust_helper_iommu_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

__rust_helper unsigned long rust_helper_iommu_folio_pfn(struct folio *folio)
{
	return folio_pfn(folio);
}

__rust_helper unsigned long rust_helper_iommu_folio_nr_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

__rust_helper bool rust_helper_iommu_is_huge_mapping(struct mm_struct *mm, unsigned long address)
{
	struct vm_area_struct *vma = vma_lookup(mm, address);

	return vma && is_vm_hugetlb_page(vma);
}

/* How many pages there are from the one that is mapped at address to the end of its huge one. */
__rust_helper unsigned long rust_helper_iommu_huge_rest(struct page *page, unsigned long address)
{
	struct folio *folio = page_folio(page);
	unsigned long nr = folio_nr_pages(folio);
	unsigned long index = folio_page_idx(folio, page);

	if (!folio_test_hugetlb(folio) || index != (address >> PAGE_SHIFT) % nr)
		return 1;
	return nr - index;
}

__rust_helper int rust_helper_iommu_add_pins(struct page *page, unsigned int pins)
{
	return folio_add_pins(page_folio(page), pins);
}

__rust_helper unsigned long rust_helper_iommu_memlock_limit(struct task_struct *task)
{
	return task_rlimit(task, RLIMIT_MEMLOCK) >> PAGE_SHIFT;
}

__rust_helper int rust_helper_iommu_account_locked_vm(struct mm_struct *mm, unsigned long npages,
						      bool inc, struct task_struct *task)
{
	int ret;

	mmap_write_lock(mm);
	ret = __account_locked_vm(mm, npages, inc, task, false);
	mmap_write_unlock(mm);
	return ret;
}

__rust_helper void rust_helper_iommu_cond_resched(void)
{
	cond_resched();
}

__rust_helper bool rust_helper_iommu_is_shmem(struct file *file)
{
	return shmem_file(file);
}

__rust_helper bool rust_helper_iommu_is_hugetlb(struct file *file)
{
	return is_file_hugepages(file);
}

__rust_helper bool rust_helper_iommu_is_append(struct file *file)
{
	return IS_APPEND(file_inode(file));
}

__rust_helper unsigned int rust_helper_iommu_seals(struct file *file)
{
	if (shmem_file(file))
		return SHMEM_I(file_inode(file))->seals;
#ifdef CONFIG_HUGETLBFS
	if (is_file_hugepages(file))
		return HUGETLBFS_I(file_inode(file))->seals;
#endif
	return 0;
}

__rust_helper int rust_helper_iommu_map_writable(struct file *file)
{
	return mapping_map_writable(file->f_mapping);
}

__rust_helper void rust_helper_iommu_unmap_writable(struct file *file)
{
	mapping_unmap_writable(file->f_mapping);
}

#if IS_ENABLED(CONFIG_VFIO_PCI_DMABUF)
/* By symbol_get(), since VFIO uses iommufd, too. */
__rust_helper int rust_helper_iommu_vfio_dma_buf_map(struct dma_buf_attachment *attachment,
						     struct phys_vec *phys)
{
	typeof(&vfio_pci_dma_buf_iommufd_map) fn = symbol_get(vfio_pci_dma_buf_iommufd_map);
	int ret;

	if (!fn)
		return -EOPNOTSUPP;
	ret = fn(attachment, phys);
	symbol_put(vfio_pci_dma_buf_iommufd_map);
	return ret;
}
#endif

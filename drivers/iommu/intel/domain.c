// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright © 2006-2014 Intel Corporation.
 *
 * Domains of VT-d whose page tables are the kernel's, those that have none, and how
 * devices and PASIDs are attached to them.
 */
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <uapi/linux/iommufd.h>

#include "iommu.h"
#include "../iommu-pages.h"
#include "pasid.h"

static int intel_iommu_set_dirty_tracking(struct iommu_domain *domain,
					  bool enable);

static struct device_domain_info *
domain_lookup_dev_info(struct dmar_domain *domain,
		       struct intel_iommu *iommu, u8 bus, u8 devfn)
{
	struct device_domain_info *info;
	unsigned long flags;

	spin_lock_irqsave(&domain->lock, flags);
	list_for_each_entry(info, &domain->devices, link) {
		if (info->iommu == iommu && info->bus == bus &&
		    info->devfn == devfn) {
			spin_unlock_irqrestore(&domain->lock, flags);
			return info;
		}
	}
	spin_unlock_irqrestore(&domain->lock, flags);

	return NULL;
}

static void intel_flush_iotlb_all(struct iommu_domain *domain)
{
	cache_tag_flush_all(to_dmar_domain(domain));
}

static bool iommu_paging_structure_coherency(struct intel_iommu *iommu)
{
	return sm_supported(iommu) ?
			ecap_smpwc(iommu->ecap) : ecap_coherent(iommu->ecap);
}

int domain_attach_iommu(struct dmar_domain *domain, struct intel_iommu *iommu)
{
	struct iommu_domain_info *info, *curr;
	int num, ret = -ENOSPC;

	if (domain->domain.type == IOMMU_DOMAIN_SVA)
		return 0;

	info = kzalloc_obj(*info);
	if (!info)
		return -ENOMEM;

	guard(mutex)(&iommu->did_lock);
	curr = xa_load(&domain->iommu_array, iommu->seq_id);
	if (curr) {
		curr->refcnt++;
		kfree(info);
		return 0;
	}

	num = ida_alloc_range(&iommu->domain_ida, IDA_START_DID,
			      iommu->max_domain_id - 1, GFP_KERNEL);
	if (num < 0) {
		pr_err("%s: No free domain ids\n", iommu->name);
		goto err_unlock;
	}

	info->refcnt	= 1;
	info->did	= num;
	info->iommu	= iommu;
	curr = xa_cmpxchg(&domain->iommu_array, iommu->seq_id,
			  NULL, info, GFP_KERNEL);
	if (curr) {
		ret = xa_err(curr) ? : -EBUSY;
		goto err_clear;
	}

	return 0;

err_clear:
	ida_free(&iommu->domain_ida, info->did);
err_unlock:
	kfree(info);
	return ret;
}

void domain_detach_iommu(struct dmar_domain *domain, struct intel_iommu *iommu)
{
	struct iommu_domain_info *info;

	if (domain->domain.type == IOMMU_DOMAIN_SVA)
		return;

	guard(mutex)(&iommu->did_lock);
	info = xa_load(&domain->iommu_array, iommu->seq_id);
	if (--info->refcnt == 0) {
		ida_free(&iommu->domain_ida, info->did);
		xa_erase(&domain->iommu_array, iommu->seq_id);
		kfree(info);
	}
}

/*
 * For kdump cases, old valid entries may be cached due to the
 * in-flight DMA and copied pgtable, but there is no unmapping
 * behaviour for them, thus we need an explicit cache flush for
 * the newly-mapped device. For kdump, at this point, the device
 * is supposed to finish reset at its driver probe stage, so no
 * in-flight DMA will exist, and we don't need to worry anymore
 * hereafter.
 */
static void copied_context_tear_down(struct intel_iommu *iommu,
				     struct context_entry *context,
				     u8 bus, u8 devfn)
{
	u16 did_old;

	if (!context_copied(iommu, bus, devfn))
		return;

	assert_spin_locked(&iommu->lock);

	did_old = context_domain_id(context);
	context_clear_present(context);
	__iommu_flush_cache(iommu, context, sizeof(*context));

	if (did_old < iommu->max_domain_id) {
		iommu->flush.flush_context(iommu, did_old,
					   PCI_DEVID(bus, devfn),
					   DMA_CCMD_MASK_NOBIT,
					   DMA_CCMD_DEVICE_INVL);
		iommu->flush.flush_iotlb(iommu, did_old, 0, 0,
					 DMA_TLB_DSI_FLUSH);
	}

	context_clear_entry(context);
	__iommu_flush_cache(iommu, context, sizeof(*context));

	clear_context_copied(iommu, bus, devfn);
}

/*
 * It's a non-present to present mapping. If hardware doesn't cache
 * non-present entry we only need to flush the write-buffer. If the
 * _does_ cache non-present entries, then it does so in the special
 * domain #0, which we have to flush:
 */
static void context_present_cache_flush(struct intel_iommu *iommu, u16 did,
					u8 bus, u8 devfn)
{
	if (cap_caching_mode(iommu->cap)) {
		iommu->flush.flush_context(iommu, 0,
					   PCI_DEVID(bus, devfn),
					   DMA_CCMD_MASK_NOBIT,
					   DMA_CCMD_DEVICE_INVL);
		iommu->flush.flush_iotlb(iommu, did, 0, 0, DMA_TLB_DSI_FLUSH);
	} else {
		iommu_flush_write_buffer(iommu);
	}
}

static int domain_context_mapping_one(struct dmar_domain *domain,
				      struct intel_iommu *iommu,
				      u8 bus, u8 devfn)
{
	struct device_domain_info *info =
			domain_lookup_dev_info(domain, iommu, bus, devfn);
	u16 did = domain_id_iommu(domain, iommu);
	int translation = CONTEXT_TT_MULTI_LEVEL;
	struct pt_iommu_vtdss_hw_info pt_info;
	struct context_entry *context;
	int ret;

	if (WARN_ON(!intel_domain_is_ss_paging(domain)))
		return -EINVAL;

	pt_iommu_vtdss_hw_info(&domain->sspt, &pt_info);

	pr_debug("Set context mapping for %02x:%02x.%d\n",
		bus, PCI_SLOT(devfn), PCI_FUNC(devfn));

	spin_lock(&iommu->lock);
	ret = -ENOMEM;
	context = iommu_context_addr(iommu, bus, devfn, 1);
	if (!context)
		goto out_unlock;

	ret = 0;
	if (context_present(context) && !context_copied(iommu, bus, devfn))
		goto out_unlock;

	copied_context_tear_down(iommu, context, bus, devfn);
	context_clear_entry(context);
	context_set_domain_id(context, did);

	if (info && info->ats_supported)
		translation = CONTEXT_TT_DEV_IOTLB;
	else
		translation = CONTEXT_TT_MULTI_LEVEL;

	context_set_address_root(context, pt_info.ssptptr);
	context_set_address_width(context, pt_info.aw);
	context_set_translation_type(context, translation);
	context_set_fault_enable(context);
	context_set_present(context);
	if (!ecap_coherent(iommu->ecap))
		clflush_cache_range(context, sizeof(*context));
	context_present_cache_flush(iommu, did, bus, devfn);
	ret = 0;

out_unlock:
	spin_unlock(&iommu->lock);

	return ret;
}

static int domain_context_mapping_cb(struct pci_dev *pdev,
				     u16 alias, void *opaque)
{
	struct device_domain_info *info = dev_iommu_priv_get(&pdev->dev);
	struct intel_iommu *iommu = info->iommu;
	struct dmar_domain *domain = opaque;

	return domain_context_mapping_one(domain, iommu,
					  PCI_BUS_NUM(alias), alias & 0xff);
}

static int
domain_context_mapping(struct dmar_domain *domain, struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	u8 bus = info->bus, devfn = info->devfn;

	if (!dev_is_pci(dev))
		return domain_context_mapping_one(domain, iommu, bus, devfn);

	return pci_for_each_dma_alias(to_pci_dev(dev),
				      domain_context_mapping_cb, domain);
}

static void domain_context_clear_one(struct device_domain_info *info, u8 bus, u8 devfn)
{
	struct intel_iommu *iommu = info->iommu;
	struct context_entry *context;
	u16 did;

	spin_lock(&iommu->lock);
	context = iommu_context_addr(iommu, bus, devfn, 0);
	if (!context) {
		spin_unlock(&iommu->lock);
		return;
	}

	did = context_domain_id(context);
	context_clear_present(context);
	__iommu_flush_cache(iommu, context, sizeof(*context));
	spin_unlock(&iommu->lock);
	intel_context_flush_no_pasid(info, context, did, PCI_DEVID(bus, devfn));
	context_clear_entry(context);
	__iommu_flush_cache(iommu, context, sizeof(*context));
}

int __domain_setup_first_level(struct intel_iommu *iommu, struct device *dev,
			       ioasid_t pasid, u16 did, phys_addr_t fsptptr,
			       int flags, struct iommu_domain *old)
{
	if (old)
		intel_pasid_tear_down_entry(iommu, dev, pasid, false);

	return intel_pasid_setup_first_level(iommu, dev, fsptptr, pasid, did, flags);
}

static int domain_setup_second_level(struct intel_iommu *iommu,
				     struct dmar_domain *domain,
				     struct device *dev, ioasid_t pasid,
				     struct iommu_domain *old)
{
	if (old)
		intel_pasid_tear_down_entry(iommu, dev, pasid, false);

	return intel_pasid_setup_second_level(iommu, domain, dev, pasid);
}

static int domain_setup_passthrough(struct intel_iommu *iommu,
				    struct device *dev, ioasid_t pasid,
				    struct iommu_domain *old)
{
	if (old)
		intel_pasid_tear_down_entry(iommu, dev, pasid, false);

	return intel_pasid_setup_pass_through(iommu, dev, pasid);
}

static int domain_setup_first_level(struct intel_iommu *iommu,
				    struct dmar_domain *domain,
				    struct device *dev,
				    u32 pasid, struct iommu_domain *old)
{
	struct pt_iommu_x86_64_hw_info pt_info;
	unsigned int flags = 0;

	pt_iommu_x86_64_hw_info(&domain->fspt, &pt_info);
	if (WARN_ON(pt_info.levels != 4 && pt_info.levels != 5))
		return -EINVAL;

	if (pt_info.levels == 5)
		flags |= PASID_FLAG_FL5LP;

	if (domain->force_snooping)
		flags |= PASID_FLAG_PAGE_SNOOP;

	if (!(domain->fspt.x86_64_pt.common.features &
	      BIT(PT_FEAT_DMA_INCOHERENT)))
		flags |= PASID_FLAG_PWSNP;

	return __domain_setup_first_level(iommu, dev, pasid,
					  domain_id_iommu(domain, iommu),
					  pt_info.gcr3_pt, flags, old);
}

static int dmar_domain_attach_device(struct dmar_domain *domain,
				     struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	unsigned long flags;
	int ret;

	ret = domain_attach_iommu(domain, iommu);
	if (ret)
		return ret;

	/*
	 * An unmap invalidates by the tags that it finds: they are there before
	 * anything is cached. Whether there is a device-TLB decides which.
	 */
	if (!dev_is_real_dma_subdevice(dev)) {
		if (!sm_supported(iommu))
			iommu_enable_pci_ats(info);
		ret = cache_tag_assign_domain(domain, dev, IOMMU_NO_PASID);
		if (ret)
			goto out_detach_iommu;
	}

	info->domain = domain;
	info->domain_attached = true;
	spin_lock_irqsave(&domain->lock, flags);
	list_add(&info->link, &domain->devices);
	spin_unlock_irqrestore(&domain->lock, flags);

	if (dev_is_real_dma_subdevice(dev))
		return 0;

	if (!sm_supported(iommu))
		ret = domain_context_mapping(domain, dev);
	else if (intel_domain_is_fs_paging(domain))
		ret = domain_setup_first_level(iommu, domain, dev,
					       IOMMU_NO_PASID, NULL);
	else if (intel_domain_is_ss_paging(domain))
		ret = domain_setup_second_level(iommu, domain, dev,
						IOMMU_NO_PASID, NULL);
	else if (WARN_ON(true))
		ret = -EINVAL;

	if (ret)
		device_block_translation(dev);
	return ret;

out_detach_iommu:
	if (!sm_supported(iommu))
		iommu_disable_pci_ats(info);
	domain_detach_iommu(domain, iommu);
	return ret;
}

static int domain_context_clear_one_cb(struct pci_dev *pdev, u16 alias, void *opaque)
{
	struct device_domain_info *info = opaque;

	domain_context_clear_one(info, PCI_BUS_NUM(alias), alias & 0xff);
	return 0;
}

/*
 * NB - intel-iommu lacks any sort of reference counting for the users of
 * dependent devices.  If multiple endpoints have intersecting dependent
 * devices, unbinding the driver from any one of them will possibly leave
 * the others unable to operate.
 */
static void domain_context_clear(struct device_domain_info *info)
{
	if (!dev_is_pci(info->dev)) {
		domain_context_clear_one(info, info->bus, info->devfn);
		return;
	}

	pci_for_each_dma_alias(to_pci_dev(info->dev),
			       &domain_context_clear_one_cb, info);
}

/*
 * Clear the page table pointer in context or pasid table entries so that
 * all DMA requests without PASID from the device are blocked. If the page
 * table has been set, clean up the data structures.
 */
void device_block_translation(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	unsigned long flags;

	/* Device in DMA blocking state. Noting to do. */
	if (!info->domain_attached)
		return;

	if (!dev_is_real_dma_subdevice(dev)) {
		if (sm_supported(iommu))
			intel_pasid_tear_down_entry(iommu, dev,
						    IOMMU_NO_PASID, false);
		else
			domain_context_clear(info);
		/* Until here an unmap has to find the tags. */
		if (info->domain)
			cache_tag_unassign_domain(info->domain, dev, IOMMU_NO_PASID);
		if (!sm_supported(iommu))
			iommu_disable_pci_ats(info);
	}

	/* Device now in DMA blocking state. */
	info->domain_attached = false;

	if (!info->domain)
		return;

	spin_lock_irqsave(&info->domain->lock, flags);
	list_del(&info->link);
	spin_unlock_irqrestore(&info->domain->lock, flags);

	domain_detach_iommu(info->domain, iommu);
	info->domain = NULL;
}

static int blocking_domain_attach_dev(struct iommu_domain *domain,
				      struct device *dev,
				      struct iommu_domain *old)
{
	/* As long as there can be page requests, there is a queue for them. */
	device_block_translation(dev);
	iopf_for_domain_remove(old, dev);
	return 0;
}

static int blocking_domain_set_dev_pasid(struct iommu_domain *domain,
					 struct device *dev, ioasid_t pasid,
					 struct iommu_domain *old);

static struct iommu_domain blocking_domain = {
	.type = IOMMU_DOMAIN_BLOCKED,
	.ops = &(const struct iommu_domain_ops) {
		.attach_dev	= blocking_domain_attach_dev,
		.set_dev_pasid	= blocking_domain_set_dev_pasid,
	}
};

static struct dmar_domain *paging_domain_alloc(void)
{
	struct dmar_domain *domain;

	domain = kzalloc_obj(*domain);
	if (!domain)
		return ERR_PTR(-ENOMEM);

	INIT_LIST_HEAD(&domain->devices);
	INIT_LIST_HEAD(&domain->dev_pasids);
	INIT_LIST_HEAD(&domain->cache_tags);
	spin_lock_init(&domain->lock);
	spin_lock_init(&domain->cache_lock);
	xa_init(&domain->iommu_array);
	INIT_LIST_HEAD(&domain->s1_domains);
	spin_lock_init(&domain->s1_lock);

	return domain;
}

static unsigned int compute_vasz_lg2_fs(struct intel_iommu *iommu,
					unsigned int *top_level)
{
	unsigned int mgaw = cap_mgaw(iommu->cap);

	/*
	 * Spec 3.6 First-Stage Translation:
	 *
	 * Software must limit addresses to less than the minimum of MGAW
	 * and the lower canonical address width implied by FSPM (i.e.,
	 * 47-bit when FSPM is 4-level and 56-bit when FSPM is 5-level).
	 */
	if (mgaw > 48 && cap_fl5lp_support(iommu->cap)) {
		*top_level = 4;
		return min(57, mgaw);
	}

	/* Four level is always supported */
	*top_level = 3;
	return min(48, mgaw);
}

static struct iommu_domain *
intel_iommu_domain_alloc_first_stage(struct device *dev,
				     struct intel_iommu *iommu, u32 flags)
{
	struct pt_iommu_x86_64_cfg cfg = {};
	struct dmar_domain *dmar_domain;
	int ret;

	if (flags & ~IOMMU_HWPT_ALLOC_PASID)
		return ERR_PTR(-EOPNOTSUPP);

	/* Only SL is available in legacy mode */
	if (!sm_supported(iommu) || !ecap_flts(iommu->ecap))
		return ERR_PTR(-EOPNOTSUPP);

	dmar_domain = paging_domain_alloc();
	if (IS_ERR(dmar_domain))
		return ERR_CAST(dmar_domain);

	cfg.common.hw_max_vasz_lg2 =
		compute_vasz_lg2_fs(iommu, &cfg.top_level);
	cfg.common.hw_max_oasz_lg2 = 52;
	cfg.common.features = BIT(PT_FEAT_SIGN_EXTEND) |
			      BIT(PT_FEAT_FLUSH_RANGE);
	/* First stage always uses scalable mode */
	if (!ecap_smpwc(iommu->ecap))
		cfg.common.features |= BIT(PT_FEAT_DMA_INCOHERENT);
	dmar_domain->iommu.iommu_device = dev;
	dmar_domain->iommu.nid = dev_to_node(dev);
	dmar_domain->domain.ops = &intel_fs_paging_domain_ops;
	/*
	 * iotlb sync for map is only needed for legacy implementations that
	 * explicitly require flushing internal write buffers to ensure memory
	 * coherence.
	 */
	if (rwbf_required(iommu))
		dmar_domain->iotlb_sync_map = true;

	ret = pt_iommu_x86_64_init(&dmar_domain->fspt, &cfg, GFP_KERNEL);
	if (ret) {
		kfree(dmar_domain);
		return ERR_PTR(ret);
	}

	if (!cap_fl1gp_support(iommu->cap))
		dmar_domain->domain.pgsize_bitmap &= ~(u64)SZ_1G;
	if (!intel_iommu_superpage)
		dmar_domain->domain.pgsize_bitmap = SZ_4K;

	return &dmar_domain->domain;
}

static unsigned int compute_vasz_lg2_ss(struct intel_iommu *iommu,
					unsigned int *top_level)
{
	unsigned long sagaw = cap_sagaw(iommu->cap) & (BIT(1) | BIT(2) | BIT(3));
	unsigned int mgaw = cap_mgaw(iommu->cap);
	unsigned int aw, width = 0;

	/*
	 * Find the fewest levels that reach MGAW, or the most that the hardware
	 * can walk where none do. This sets the valid range of IOVA and the top
	 * starting level. Some HW may only support a 4 or 5 level walk but must
	 * limit IOVA to 3 levels.
	 */
	for_each_set_bit(aw, &sagaw, 4) {
		/* From 3 levels, which make 39 bits, on. */
		*top_level = aw + 1;
		width = 30 + aw * LEVEL_STRIDE;
		if (width >= mgaw)
			break;
	}
	return mgaw > 30 ? min(width, mgaw) : 0;
}

static const struct iommu_dirty_ops intel_second_stage_dirty_ops = {
	IOMMU_PT_DIRTY_OPS(vtdss),
	.set_dirty_tracking = intel_iommu_set_dirty_tracking,
};

static struct iommu_domain *
intel_iommu_domain_alloc_second_stage(struct device *dev,
				      struct intel_iommu *iommu, u32 flags)
{
	struct pt_iommu_vtdss_cfg cfg = {};
	struct dmar_domain *dmar_domain;
	unsigned int sslps;
	int ret;

	if (flags &
	    (~(IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING |
	       IOMMU_HWPT_ALLOC_PASID)))
		return ERR_PTR(-EOPNOTSUPP);

	if (((flags & IOMMU_HWPT_ALLOC_NEST_PARENT) &&
	     !nested_supported(iommu)) ||
	    ((flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) &&
	     !ssads_supported(iommu)))
		return ERR_PTR(-EOPNOTSUPP);

	/* Legacy mode always supports second stage */
	if (sm_supported(iommu) && !ecap_slts(iommu->ecap))
		return ERR_PTR(-EOPNOTSUPP);

	dmar_domain = paging_domain_alloc();
	if (IS_ERR(dmar_domain))
		return ERR_CAST(dmar_domain);

	cfg.common.hw_max_vasz_lg2 = compute_vasz_lg2_ss(iommu, &cfg.top_level);
	cfg.common.hw_max_oasz_lg2 = 52;
	cfg.common.features = BIT(PT_FEAT_FLUSH_RANGE);

	/*
	 * Read-only mapping is disallowed on the domain which serves as the
	 * parent in a nested configuration, due to HW errata
	 * (ERRATA_772415_SPR17)
	 */
	if (flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
		cfg.common.features |= BIT(PT_FEAT_VTDSS_FORCE_WRITEABLE);

	if (!iommu_paging_structure_coherency(iommu))
		cfg.common.features |= BIT(PT_FEAT_DMA_INCOHERENT);
	dmar_domain->iommu.iommu_device = dev;
	dmar_domain->iommu.nid = dev_to_node(dev);
	dmar_domain->domain.ops = &intel_ss_paging_domain_ops;
	dmar_domain->nested_parent = flags & IOMMU_HWPT_ALLOC_NEST_PARENT;

	if (flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
		dmar_domain->domain.dirty_ops = &intel_second_stage_dirty_ops;

	ret = pt_iommu_vtdss_init(&dmar_domain->sspt, &cfg, GFP_KERNEL);
	if (ret) {
		kfree(dmar_domain);
		return ERR_PTR(ret);
	}

	/* Adjust the supported page sizes to HW capability */
	sslps = cap_super_page_val(iommu->cap);
	if (!(sslps & BIT(0)))
		dmar_domain->domain.pgsize_bitmap &= ~(u64)SZ_2M;
	if (!(sslps & BIT(1)))
		dmar_domain->domain.pgsize_bitmap &= ~(u64)SZ_1G;
	if (!intel_iommu_superpage)
		dmar_domain->domain.pgsize_bitmap = SZ_4K;

	/*
	 * Besides the internal write buffer flush, the caching mode used for
	 * legacy nested translation (which utilizes shadowing page tables)
	 * also requires iotlb sync on map.
	 */
	if (rwbf_required(iommu) || cap_caching_mode(iommu->cap))
		dmar_domain->iotlb_sync_map = true;

	return &dmar_domain->domain;
}

static struct iommu_domain *
intel_iommu_domain_alloc_paging_flags(struct device *dev, u32 flags,
				      const struct iommu_user_data *user_data)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	struct iommu_domain *domain;

	if (user_data)
		return ERR_PTR(-EOPNOTSUPP);

	/* Prefer first stage if possible by default. */
	domain = intel_iommu_domain_alloc_first_stage(dev, iommu, flags);
	if (domain != ERR_PTR(-EOPNOTSUPP))
		return domain;
	return intel_iommu_domain_alloc_second_stage(dev, iommu, flags);
}

static void intel_iommu_domain_free(struct iommu_domain *domain)
{
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);

	if (WARN_ON(dmar_domain->nested_parent &&
		    !list_empty(&dmar_domain->s1_domains)))
		return;

	if (WARN_ON(!list_empty(&dmar_domain->devices)))
		return;

	pt_iommu_deinit(&dmar_domain->iommu);

	kfree(dmar_domain->qi_batch);
	kfree(dmar_domain);
}

static int paging_domain_compatible_first_stage(struct dmar_domain *dmar_domain,
						struct intel_iommu *iommu)
{
	if (WARN_ON(dmar_domain->domain.dirty_ops ||
		    dmar_domain->nested_parent))
		return -EINVAL;

	/* Only SL is available in legacy mode */
	if (!sm_supported(iommu) || !ecap_flts(iommu->ecap))
		return -EINVAL;

	if (!ecap_smpwc(iommu->ecap) &&
	    !(dmar_domain->fspt.x86_64_pt.common.features &
	      BIT(PT_FEAT_DMA_INCOHERENT)))
		return -EINVAL;

	/* Supports the number of table levels */
	if (!cap_fl5lp_support(iommu->cap) &&
	    dmar_domain->fspt.x86_64_pt.common.max_vasz_lg2 > 48)
		return -EINVAL;

	/* Same page size support */
	if (!cap_fl1gp_support(iommu->cap) &&
	    (dmar_domain->domain.pgsize_bitmap & SZ_1G))
		return -EINVAL;

	/* iotlb sync on map requirement */
	if ((rwbf_required(iommu)) && !dmar_domain->iotlb_sync_map)
		return -EINVAL;

	return 0;
}

static int
paging_domain_compatible_second_stage(struct dmar_domain *dmar_domain,
				      struct intel_iommu *iommu)
{
	unsigned int vasz_lg2 = dmar_domain->sspt.vtdss_pt.common.max_vasz_lg2;
	unsigned int sslps = cap_super_page_val(iommu->cap);
	struct pt_iommu_vtdss_hw_info pt_info;

	pt_iommu_vtdss_hw_info(&dmar_domain->sspt, &pt_info);

	if (dmar_domain->domain.dirty_ops && !ssads_supported(iommu))
		return -EINVAL;
	if (dmar_domain->nested_parent && !nested_supported(iommu))
		return -EINVAL;

	/* Legacy mode always supports second stage */
	if (sm_supported(iommu) && !ecap_slts(iommu->ecap))
		return -EINVAL;

	if (!iommu_paging_structure_coherency(iommu) &&
	    !(dmar_domain->sspt.vtdss_pt.common.features &
	      BIT(PT_FEAT_DMA_INCOHERENT)))
		return -EINVAL;

	/* Address width falls within the capability */
	if (cap_mgaw(iommu->cap) < vasz_lg2)
		return -EINVAL;

	/* Page table level is supported. */
	if (!(cap_sagaw(iommu->cap) & BIT(pt_info.aw)))
		return -EINVAL;

	/* Same page size support */
	if (!(sslps & BIT(0)) && (dmar_domain->domain.pgsize_bitmap & SZ_2M))
		return -EINVAL;
	if (!(sslps & BIT(1)) && (dmar_domain->domain.pgsize_bitmap & SZ_1G))
		return -EINVAL;

	/* iotlb sync on map requirement */
	if ((rwbf_required(iommu) || cap_caching_mode(iommu->cap)) &&
	    !dmar_domain->iotlb_sync_map)
		return -EINVAL;

	/*
	 * FIXME this is locked wrong, it needs to be under the
	 * dmar_domain->lock
	 */
	if ((dmar_domain->sspt.vtdss_pt.common.features &
	     BIT(PT_FEAT_VTDSS_FORCE_COHERENCE)) &&
	    !ecap_sc_support(iommu->ecap))
		return -EINVAL;
	return 0;
}

int paging_domain_compatible(struct iommu_domain *domain, struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	struct intel_iommu *iommu = info->iommu;
	int ret = -EINVAL;

	if (intel_domain_is_fs_paging(dmar_domain))
		ret = paging_domain_compatible_first_stage(dmar_domain, iommu);
	else if (intel_domain_is_ss_paging(dmar_domain))
		ret = paging_domain_compatible_second_stage(dmar_domain, iommu);
	else if (WARN_ON(true))
		ret = -EINVAL;
	if (ret)
		return ret;

	if (sm_supported(iommu) && !dev_is_real_dma_subdevice(dev) &&
	    context_copied(iommu, info->bus, info->devfn))
		return intel_pasid_setup_sm_context(dev);

	return 0;
}

static int intel_iommu_attach_device(struct iommu_domain *domain,
				     struct device *dev,
				     struct iommu_domain *old)
{
	int ret;

	device_block_translation(dev);

	ret = paging_domain_compatible(domain, dev);
	if (ret)
		return ret;

	ret = iopf_for_domain_replace(domain, old, dev);
	if (ret)
		return ret;

	ret = dmar_domain_attach_device(to_dmar_domain(domain), dev);
	if (ret)
		iopf_for_domain_replace(old, domain, dev);

	return ret;
}

static void intel_iommu_tlb_sync(struct iommu_domain *domain,
				 struct iommu_iotlb_gather *gather)
{
	cache_tag_flush_range(to_dmar_domain(domain), gather->start,
			      gather->end,
			      iommu_pages_list_empty(&gather->freelist));
	iommu_put_pages_list(&gather->freelist);
}

static bool domain_support_force_snooping(struct dmar_domain *domain)
{
	struct device_domain_info *info;
	bool support = true;

	assert_spin_locked(&domain->lock);
	list_for_each_entry(info, &domain->devices, link) {
		if (!ecap_sc_support(info->iommu->ecap)) {
			support = false;
			break;
		}
	}

	return support;
}

static bool intel_iommu_enforce_cache_coherency_fs(struct iommu_domain *domain)
{
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	struct device_domain_info *info;

	guard(spinlock_irqsave)(&dmar_domain->lock);

	if (dmar_domain->force_snooping)
		return true;

	if (!domain_support_force_snooping(dmar_domain))
		return false;

	dmar_domain->force_snooping = true;
	list_for_each_entry(info, &dmar_domain->devices, link)
		intel_pasid_setup_page_snoop_control(info->iommu, info->dev,
						     IOMMU_NO_PASID);
	return true;
}

static bool intel_iommu_enforce_cache_coherency_ss(struct iommu_domain *domain)
{
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);

	guard(spinlock_irqsave)(&dmar_domain->lock);
	if (!domain_support_force_snooping(dmar_domain))
		return false;

	/*
	 * Second level page table supports per-PTE snoop control. The
	 * iommu_map() interface will handle this by setting SNP bit.
	 */
	dmar_domain->sspt.vtdss_pt.common.features |=
		BIT(PT_FEAT_VTDSS_FORCE_COHERENCE);
	dmar_domain->force_snooping = true;
	return true;
}

static int intel_iommu_iotlb_sync_map(struct iommu_domain *domain,
				      unsigned long iova, size_t size)
{
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);

	if (dmar_domain->iotlb_sync_map)
		cache_tag_flush_range_np(dmar_domain, iova, iova + size - 1);

	return 0;
}

void domain_remove_dev_pasid(struct iommu_domain *domain,
			     struct device *dev, ioasid_t pasid)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct dev_pasid_info *curr, *dev_pasid = NULL;
	struct intel_iommu *iommu = info->iommu;
	struct dmar_domain *dmar_domain;
	unsigned long flags;

	if (!domain)
		return;

	/* Identity domain and blocked domain have no meta data for pasid. */
	if (domain->type == IOMMU_DOMAIN_IDENTITY || domain->type == IOMMU_DOMAIN_BLOCKED)
		return;

	dmar_domain = to_dmar_domain(domain);
	spin_lock_irqsave(&dmar_domain->lock, flags);
	list_for_each_entry(curr, &dmar_domain->dev_pasids, link_domain) {
		if (curr->dev == dev && curr->pasid == pasid) {
			list_del(&curr->link_domain);
			dev_pasid = curr;
			break;
		}
	}
	spin_unlock_irqrestore(&dmar_domain->lock, flags);

	if (WARN_ON_ONCE(!dev_pasid))
		return;

	cache_tag_unassign_domain(dmar_domain, dev, pasid);
	domain_detach_iommu(dmar_domain, iommu);
	intel_iommu_debugfs_remove_dev_pasid(dev_pasid);
	kfree(dev_pasid);
}

static int blocking_domain_set_dev_pasid(struct iommu_domain *domain,
					 struct device *dev, ioasid_t pasid,
					 struct iommu_domain *old)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);

	intel_pasid_tear_down_entry(info->iommu, dev, pasid, false);
	iopf_for_domain_remove(old, dev);
	domain_remove_dev_pasid(old, dev, pasid);

	return 0;
}

struct dev_pasid_info *
domain_add_dev_pasid(struct iommu_domain *domain,
		     struct device *dev, ioasid_t pasid)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	struct intel_iommu *iommu = info->iommu;
	struct dev_pasid_info *dev_pasid;
	unsigned long flags;
	int ret;

	dev_pasid = kzalloc_obj(*dev_pasid);
	if (!dev_pasid)
		return ERR_PTR(-ENOMEM);

	ret = domain_attach_iommu(dmar_domain, iommu);
	if (ret)
		goto out_free;

	ret = cache_tag_assign_domain(dmar_domain, dev, pasid);
	if (ret)
		goto out_detach_iommu;

	dev_pasid->dev = dev;
	dev_pasid->pasid = pasid;
	spin_lock_irqsave(&dmar_domain->lock, flags);
	list_add(&dev_pasid->link_domain, &dmar_domain->dev_pasids);
	spin_unlock_irqrestore(&dmar_domain->lock, flags);

	return dev_pasid;
out_detach_iommu:
	domain_detach_iommu(dmar_domain, iommu);
out_free:
	kfree(dev_pasid);
	return ERR_PTR(ret);
}

static int intel_iommu_set_dev_pasid(struct iommu_domain *domain,
				     struct device *dev, ioasid_t pasid,
				     struct iommu_domain *old)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	struct intel_iommu *iommu = info->iommu;
	struct dev_pasid_info *dev_pasid;
	int ret;

	if (WARN_ON_ONCE(!(domain->type & __IOMMU_DOMAIN_PAGING)))
		return -EINVAL;

	if (!pasid_supported(iommu) || dev_is_real_dma_subdevice(dev))
		return -EOPNOTSUPP;

	if (context_copied(iommu, info->bus, info->devfn))
		return -EBUSY;

	ret = paging_domain_compatible(domain, dev);
	if (ret)
		return ret;

	dev_pasid = domain_add_dev_pasid(domain, dev, pasid);
	if (IS_ERR(dev_pasid))
		return PTR_ERR(dev_pasid);

	ret = iopf_for_domain_set(domain, dev);
	if (ret)
		goto out_remove_dev_pasid;

	if (intel_domain_is_fs_paging(dmar_domain))
		ret = domain_setup_first_level(iommu, dmar_domain,
					       dev, pasid, old);
	else if (intel_domain_is_ss_paging(dmar_domain))
		ret = domain_setup_second_level(iommu, dmar_domain,
						dev, pasid, old);
	else if (WARN_ON(true))
		ret = -EINVAL;

	if (ret)
		goto out_unwind_iopf;

	iopf_for_domain_remove(old, dev);
	domain_remove_dev_pasid(old, dev, pasid);

	intel_iommu_debugfs_create_dev_pasid(dev_pasid);

	return 0;

out_unwind_iopf:
	iopf_for_domain_remove(domain, dev);
out_remove_dev_pasid:
	domain_remove_dev_pasid(domain, dev, pasid);
	return ret;
}

/* Set dirty tracking for the devices that the domain has been attached. */
static int domain_set_dirty_tracking(struct dmar_domain *domain, bool enable)
{
	struct device_domain_info *info;
	struct dev_pasid_info *dev_pasid;
	int ret = 0;

	lockdep_assert_held(&domain->lock);

	list_for_each_entry(info, &domain->devices, link) {
		ret = intel_pasid_setup_dirty_tracking(info->iommu, domain, info->dev,
						       IOMMU_NO_PASID, enable);
		if (ret)
			return ret;
	}

	list_for_each_entry(dev_pasid, &domain->dev_pasids, link_domain) {
		info = dev_iommu_priv_get(dev_pasid->dev);
		ret = intel_pasid_setup_dirty_tracking(info->iommu, domain, info->dev,
						       dev_pasid->pasid, enable);
		if (ret)
			break;
	}

	return ret;
}

static int parent_domain_set_dirty_tracking(struct dmar_domain *domain,
					    bool enable)
{
	struct dmar_domain *s1_domain;
	unsigned long flags;
	int ret;

	spin_lock(&domain->s1_lock);
	list_for_each_entry(s1_domain, &domain->s1_domains, s2_link) {
		spin_lock_irqsave(&s1_domain->lock, flags);
		ret = domain_set_dirty_tracking(s1_domain, enable);
		spin_unlock_irqrestore(&s1_domain->lock, flags);
		if (ret)
			goto err_unwind;
	}
	spin_unlock(&domain->s1_lock);
	return 0;

err_unwind:
	list_for_each_entry(s1_domain, &domain->s1_domains, s2_link) {
		spin_lock_irqsave(&s1_domain->lock, flags);
		domain_set_dirty_tracking(s1_domain, domain->dirty_tracking);
		spin_unlock_irqrestore(&s1_domain->lock, flags);
	}
	spin_unlock(&domain->s1_lock);
	return ret;
}

static int intel_iommu_set_dirty_tracking(struct iommu_domain *domain,
					  bool enable)
{
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	int ret;

	spin_lock(&dmar_domain->lock);
	if (dmar_domain->dirty_tracking == enable)
		goto out_unlock;

	ret = domain_set_dirty_tracking(dmar_domain, enable);
	if (ret)
		goto err_unwind;

	if (dmar_domain->nested_parent) {
		ret = parent_domain_set_dirty_tracking(dmar_domain, enable);
		if (ret)
			goto err_unwind;
	}

	dmar_domain->dirty_tracking = enable;
out_unlock:
	spin_unlock(&dmar_domain->lock);

	return 0;

err_unwind:
	domain_set_dirty_tracking(dmar_domain, dmar_domain->dirty_tracking);
	spin_unlock(&dmar_domain->lock);
	return ret;
}

static int context_setup_pass_through(struct device *dev, u8 bus, u8 devfn)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	struct context_entry *context;

	spin_lock(&iommu->lock);
	context = iommu_context_addr(iommu, bus, devfn, 1);
	if (!context) {
		spin_unlock(&iommu->lock);
		return -ENOMEM;
	}

	if (context_present(context) && !context_copied(iommu, bus, devfn)) {
		spin_unlock(&iommu->lock);
		return 0;
	}

	copied_context_tear_down(iommu, context, bus, devfn);
	context_clear_entry(context);
	context_set_domain_id(context, FLPT_DEFAULT_DID);

	/*
	 * In pass through mode, AW must be programmed to indicate the largest
	 * AGAW value supported by hardware. And ASR is ignored by hardware.
	 */
	context_set_address_width(context, iommu->msagaw);
	context_set_translation_type(context, CONTEXT_TT_PASS_THROUGH);
	context_set_fault_enable(context);
	context_set_present(context);
	if (!ecap_coherent(iommu->ecap))
		clflush_cache_range(context, sizeof(*context));
	context_present_cache_flush(iommu, FLPT_DEFAULT_DID, bus, devfn);
	spin_unlock(&iommu->lock);

	return 0;
}

static int context_setup_pass_through_cb(struct pci_dev *pdev, u16 alias, void *data)
{
	struct device *dev = data;

	return context_setup_pass_through(dev, PCI_BUS_NUM(alias), alias & 0xff);
}

static int device_setup_pass_through(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);

	if (!dev_is_pci(dev))
		return context_setup_pass_through(dev, info->bus, info->devfn);

	return pci_for_each_dma_alias(to_pci_dev(dev),
				      context_setup_pass_through_cb, dev);
}

static int identity_domain_attach_dev(struct iommu_domain *domain,
				      struct device *dev,
				      struct iommu_domain *old)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	int ret;

	device_block_translation(dev);

	if (dev_is_real_dma_subdevice(dev))
		return 0;

	/*
	 * The identity domain has no iopf_handler, so no IOPF reference is
	 * taken for it.  The reference held by the old domain must still be
	 * released here; putting the device in the blocking state above does
	 * not affect the IOPF reference count.
	 */
	iopf_for_domain_remove(old, dev);

	if (sm_supported(iommu))
		ret = intel_pasid_setup_pass_through(iommu, dev, IOMMU_NO_PASID);
	else
		ret = device_setup_pass_through(dev);

	if (!ret)
		info->domain_attached = true;

	return ret;
}

static int identity_domain_set_dev_pasid(struct iommu_domain *domain,
					 struct device *dev, ioasid_t pasid,
					 struct iommu_domain *old)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	int ret;

	if (!pasid_supported(iommu) || dev_is_real_dma_subdevice(dev))
		return -EOPNOTSUPP;

	ret = domain_setup_passthrough(iommu, dev, pasid, old);
	if (ret)
		return ret;

	iopf_for_domain_remove(old, dev);
	domain_remove_dev_pasid(old, dev, pasid);
	return 0;
}

static struct iommu_domain identity_domain = {
	.type = IOMMU_DOMAIN_IDENTITY,
	.ops = &(const struct iommu_domain_ops) {
		.attach_dev	= identity_domain_attach_dev,
		.set_dev_pasid	= identity_domain_set_dev_pasid,
	},
};

const struct iommu_domain_ops intel_fs_paging_domain_ops = {
	IOMMU_PT_DOMAIN_OPS(x86_64),
	.attach_dev = intel_iommu_attach_device,
	.set_dev_pasid = intel_iommu_set_dev_pasid,
	.iotlb_sync_map = intel_iommu_iotlb_sync_map,
	.flush_iotlb_all = intel_flush_iotlb_all,
	.iotlb_sync = intel_iommu_tlb_sync,
	.free = intel_iommu_domain_free,
	.enforce_cache_coherency = intel_iommu_enforce_cache_coherency_fs,
};

const struct iommu_domain_ops intel_ss_paging_domain_ops = {
	IOMMU_PT_DOMAIN_OPS(vtdss),
	.attach_dev = intel_iommu_attach_device,
	.set_dev_pasid = intel_iommu_set_dev_pasid,
	.iotlb_sync_map = intel_iommu_iotlb_sync_map,
	.flush_iotlb_all = intel_flush_iotlb_all,
	.iotlb_sync = intel_iommu_tlb_sync,
	.free = intel_iommu_domain_free,
	.enforce_cache_coherency = intel_iommu_enforce_cache_coherency_ss,
};

const struct iommu_ops intel_iommu_ops = {
	.blocked_domain		= &blocking_domain,
	.release_domain		= &blocking_domain,
	.identity_domain	= &identity_domain,
	.capable		= intel_iommu_capable,
	.hw_info		= intel_iommu_hw_info,
	.domain_alloc_paging_flags = intel_iommu_domain_alloc_paging_flags,
	.domain_alloc_sva	= intel_svm_domain_alloc,
	.domain_alloc_nested	= intel_iommu_domain_alloc_nested,
	.probe_device		= intel_iommu_probe_device,
	.probe_finalize		= intel_iommu_probe_finalize,
	.release_device		= intel_iommu_release_device,
	.get_resv_regions	= intel_iommu_get_resv_regions,
	.device_group		= intel_iommu_device_group,
	.is_attach_deferred	= intel_iommu_is_attach_deferred,
	.def_domain_type	= intel_iommu_def_domain_type,
	.page_response		= intel_iommu_page_response,
};

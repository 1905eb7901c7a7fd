// SPDX-License-Identifier: GPL-2.0-only
/*
 * One function for each inline function, macro, bit field and trace point that
 * the Rust parts of this driver need and bindgen cannot see. Nothing is decided
 * here.
 */
#include <linux/iommu.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>
#include <linux/preempt.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>

#include "iommu.h"
#include "pasid.h"
#include "trace.h"
#include "vtd_shim.h"
#include "../iommu-pages.h"
#include "../iommu-priv.h"

/* System-wide, lowered by iommu.c to what every unit can do. */
u32 intel_pasid_max_id = PASID_MAX;

void vtd_read_info(struct device_domain_info *info, struct vtd_device *out)
{
	out->sid = PCI_DEVID(info->bus, info->devfn);
	out->pfsid = info->pfsid;
	out->ats_qdep = info->ats_qdep;
	out->bus = info->bus;
	out->devfn = info->devfn;
	out->ats_enabled = info->ats_enabled;
	out->ats_supported = info->ats_supported;
	out->pasid_supported = info->pasid_supported;
	out->pri_supported = info->pri_supported;
	out->extra_inval = info->dtlb_extra_inval;
}

bool vtd_is_pci(struct device *dev)
{
	return dev_is_pci(dev);
}

bool vtd_is_present(struct device *dev)
{
	return pci_device_is_present(to_pci_dev(dev));
}

/* What of it a flush needs, and whether its cache is to be asked at all. */
bool vtd_read_tlb(struct device *dev, struct vtd_tlb *out)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	bool ats;

	/*
	 * Flags that share their bytes with others, which C changes under no lock that
	 * flushes take. READ_ONCE() cannot be said of a bit field.
	 */
	ats = data_race((bool)info->ats_enabled);
	if (!ats || !(READ_ONCE(info->iommu->gcmd) & DMA_GCMD_TE) ||
	    pci_dev_is_disconnected(to_pci_dev(dev)))
		return false;
	out->sid = PCI_DEVID(info->bus, info->devfn);
	out->pfsid = info->pfsid;
	out->ats_qdep = info->ats_qdep;
	/* As above, but this one is set before anybody is attached. */
	out->extra_inval = data_race((bool)info->dtlb_extra_inval);
	return true;
}

bool vtd_is_real_dma_subdevice(struct device *dev)
{
	return dev_is_real_dma_subdevice(dev);
}

unsigned int vtd_max_pasids(struct device *dev)
{
	int max = pci_max_pasids(to_pci_dev(dev));

	/* A negative one is huge as u32, and the system's limit holds. */
	return min_t(u32, max, intel_pasid_max_id);
}

bool vtd_is_bridge(struct device *dev)
{
	return pci_is_bridge(to_pci_dev(dev));
}

int vtd_for_each_alias(struct device *dev, int (*fn)(struct pci_dev *pdev, u16 alias, void *data),
		       void *data)
{
	return pci_for_each_dma_alias(to_pci_dev(dev), fn, data);
}

/*
 * Each other PCI device of the group, whose mutex is held, so that these stay probed. One
 * that is being probed is known to be in the group before that is taken.
 */
int vtd_for_each_in_group(struct device *dev, int (*fn)(struct device *other, void *data),
			  void *data)
{
	struct pci_dev *pdev = NULL;
	int ret = 0;

	for_each_pci_dev(pdev) {
		if (&pdev->dev == dev || READ_ONCE(pdev->dev.iommu_group) != dev->iommu_group)
			continue;
		ret = fn(&pdev->dev, data);
		if (ret) {
			pci_dev_put(pdev);
			break;
		}
	}
	return ret;
}

void vtd_dev_err_ratelimited(struct device *dev, const char *what)
{
	dev_err_ratelimited(dev, "%s\n", what);
}

void vtd_preempt_disable(void)
{
	preempt_disable();
}

void vtd_preempt_enable(void)
{
	preempt_enable();
}

bool vtd_preemptible(void)
{
	return preemptible();
}

/* Lets others run. Whether to go on: the task is not being killed. */
bool vtd_pause(void)
{
	cond_resched();
	return !fatal_signal_pending(current);
}

/* Devices that guests have names for, by unit and source-id. */
static DEFINE_XARRAY(vtd_named);
static DEFINE_MUTEX(vtd_named_mutex);

static unsigned long vtd_named_index(struct intel_iommu *iommu, u16 sid)
{
	return (unsigned long)iommu->seq_id << 16 | sid;
}

void vtd_named_lock(void)
{
	mutex_lock(&vtd_named_mutex);
}

void vtd_named_unlock(void)
{
	mutex_unlock(&vtd_named_mutex);
}

int vtd_named_add(struct intel_iommu *iommu, u16 sid, void *named)
{
	return xa_insert(&vtd_named, vtd_named_index(iommu, sid), named, GFP_KERNEL_ACCOUNT);
}

void *vtd_named_find(struct intel_iommu *iommu, u16 sid)
{
	return xa_load(&vtd_named, vtd_named_index(iommu, sid));
}

void *vtd_named_remove(struct intel_iommu *iommu, u16 sid)
{
	return xa_erase(&vtd_named, vtd_named_index(iommu, sid));
}

void vtd_lock(struct intel_iommu *iommu)
{
	spin_lock(&iommu->lock);
}

void vtd_unlock(struct intel_iommu *iommu)
{
	spin_unlock(&iommu->lock);
}

void vtd_write_back(void *addr, unsigned int size)
{
	clflush_cache_range(addr, size);
}

bool vtd_context_copied(struct intel_iommu *iommu, u8 bus, u8 devfn)
{
	return context_copied(iommu, bus, devfn);
}

void vtd_clear_context_copied(struct intel_iommu *iommu, u8 bus, u8 devfn)
{
	clear_context_copied(iommu, bus, devfn);
}

void *vtd_alloc_table(struct intel_iommu *iommu, size_t size, bool atomic)
{
	return iommu_alloc_pages_node_sz(iommu->node, atomic ? GFP_ATOMIC : GFP_KERNEL, size);
}

void vtd_free_table(void *table)
{
	iommu_free_pages(table);
}

u64 vtd_phys(void *table)
{
	return virt_to_phys(table);
}

void *vtd_virt(u64 phys)
{
	return phys_to_virt(phys);
}

bool vtd_cmpxchg(u64 *at, u64 old, u64 new)
{
	return try_cmpxchg64(at, &old, new);
}

u16 vtd_domain_id(struct dmar_domain *domain, struct intel_iommu *iommu)
{
	return iommu_domain_did(&domain->domain, iommu);
}

void vtd_domain_lock(struct dmar_domain *domain)
{
	spin_lock(&domain->lock);
}

void vtd_domain_unlock(struct dmar_domain *domain)
{
	spin_unlock(&domain->lock);
}

unsigned long vtd_tags_lock(struct dmar_domain *domain)
{
	unsigned long flags;

	spin_lock_irqsave(&domain->cache_lock, flags);
	return flags;
}

void vtd_tags_unlock(struct dmar_domain *domain, unsigned long flags)
{
	spin_unlock_irqrestore(&domain->cache_lock, flags);
}

void vtd_tag_link(struct dmar_domain *domain, struct cache_tag *after, struct cache_tag *tag)
{
	list_add_rcu(&tag->node, after ? &after->node : &domain->cache_tags);
}

void vtd_tag_unlink(struct cache_tag *tag)
{
	list_del_rcu(&tag->node);
}

struct cache_tag *vtd_tag_alloc(void)
{
	return kzalloc_obj(struct cache_tag);
}

void vtd_tag_free(struct cache_tag *tag)
{
	kfree(tag);
}

/* Returns when no flush uses a tag that was unlinked before. */
void vtd_tags_settle(void)
{
	synchronize_rcu_expedited();
}

void vtd_trace_assign(struct cache_tag *tag)
{
	trace_cache_tag_assign(tag);
}

void vtd_trace_unassign(struct cache_tag *tag)
{
	trace_cache_tag_unassign(tag);
}

/* Whether somebody may want to know of flushes. */
bool vtd_flushes_traced(void)
{
	return trace_cache_tag_flush_range_enabled() || trace_cache_tag_flush_range_np_enabled();
}

void vtd_trace_flush(struct cache_tag *tag, unsigned long start, unsigned long end,
		     unsigned long addr, unsigned long mask)
{
	trace_cache_tag_flush_range(tag, start, end, addr, mask);
}

void vtd_trace_flush_np(struct cache_tag *tag, unsigned long start, unsigned long end,
			unsigned long addr, unsigned long mask)
{
	trace_cache_tag_flush_range_np(tag, start, end, addr, mask);
}

void vtd_trace_guest_queue(struct intel_iommu *iommu, u32 asked, u32 done, int ret)
{
	trace_viommu_invalidate(iommu, asked, done, ret);
}

void vtd_trace_guest_fault(struct intel_iommu *iommu, u16 sid, u64 qw0, u64 qw1, u32 flags,
			   int ret)
{
	trace_viommu_fault(iommu, sid, qw0, qw1, flags, ret);
}

/* Keeps the unit from being unplugged. */
void vtd_unit_get(struct intel_iommu *iommu)
{
	atomic_inc(&iommu->viommus);
}

void vtd_unit_put(struct intel_iommu *iommu)
{
	atomic_dec(&iommu->viommus);
}

/* The mutex under which a unit's domain-ids change, and what domains know of them. */
void vtd_ids_lock(struct intel_iommu *iommu)
{
	mutex_lock(&iommu->did_lock);
}

void vtd_ids_unlock(struct intel_iommu *iommu)
{
	mutex_unlock(&iommu->did_lock);
}

/* Those of guests are in the lower half, so that nobody can have all. */
int vtd_did_alloc(struct intel_iommu *iommu, bool of_guest)
{
	unsigned int end = of_guest ? iommu->max_domain_id / 2 : iommu->max_domain_id;

	return ida_alloc_range(&iommu->domain_ida, IDA_START_DID, end - 1, GFP_KERNEL);
}

void vtd_did_free(struct intel_iommu *iommu, u16 did)
{
	ida_free(&iommu->domain_ida, did);
}

int vtd_domain_info_add(struct dmar_domain *domain, struct iommu_domain_info *info)
{
	return xa_insert(&domain->iommu_array, info->iommu->seq_id, info, GFP_KERNEL);
}

/* What every domain has. */
void vtd_domain_init(struct dmar_domain *domain)
{
	INIT_LIST_HEAD(&domain->devices);
	INIT_LIST_HEAD(&domain->dev_pasids);
	INIT_LIST_HEAD(&domain->cache_tags);
	spin_lock_init(&domain->lock);
	spin_lock_init(&domain->cache_lock);
	xa_init(&domain->iommu_array);
}

/* What one has that others may be nested on. */
void vtd_parent_init(struct dmar_domain *domain)
{
	INIT_LIST_HEAD(&domain->s1_domains);
	spin_lock_init(&domain->s1_lock);
}

int vtd_node(struct device *dev)
{
	return dev_to_node(dev);
}

/*
 * Whether the hardware may have both in use: a stage-1 table on one parent has one
 * number of levels, and extended accessed flags or not (section 6.2.3.1).
 */
static bool agree(const struct iommu_hwpt_vtd_s1 *a, const struct iommu_hwpt_vtd_s1 *b)
{
	return a->pgtbl_addr != b->pgtbl_addr ||
	       (a->addr_width == b->addr_width &&
		!((a->flags ^ b->flags) & IOMMU_VTD_S1_EAFE));
}

/* Lists it with its parent, unless another one of that does not agree. */
int vtd_nested_init(struct dmar_domain *domain, struct dmar_domain *s2,
		    const struct iommu_hwpt_vtd_s1 *s1)
{
	static struct lock_class_key nested_lock;
	struct dmar_domain *other;
	int ret = 0;

	/* It is taken while the parent's is held. */
	lockdep_set_class(&domain->lock, &nested_lock);
	domain->s2_domain = s2;
	domain->s1_cfg = *s1;
	spin_lock(&s2->s1_lock);
	list_for_each_entry(other, &s2->s1_domains, s2_link) {
		if (!agree(s1, &other->s1_cfg)) {
			ret = -EINVAL;
			break;
		}
	}
	if (!ret)
		list_add(&domain->s2_link, &s2->s1_domains);
	spin_unlock(&s2->s1_lock);
	return ret;
}

/*
 * Gives the domain an id on a unit that is not its own. The domain counts as a user
 * of it, so that who detaches the last device does not free it.
 */
int vtd_nested_set_did(struct dmar_domain *domain, struct intel_iommu *iommu, u16 did)
{
	struct iommu_domain_info *info = kzalloc_obj(*info, GFP_KERNEL_ACCOUNT);
	int ret;

	if (!info)
		return -ENOMEM;
	info->iommu = iommu;
	info->refcnt = 1;
	info->did = did;
	ret = xa_insert(&domain->iommu_array, iommu->seq_id, info, GFP_KERNEL);
	if (ret)
		kfree(info);
	return ret;
}

void vtd_nested_deinit(struct dmar_domain *domain)
{
	struct dmar_domain *s2 = domain->s2_domain;
	struct iommu_domain_info *info;
	unsigned long index;

	/* All devices are detached: what is left is what vtd_nested_set_did() gave it. */
	if (!xa_empty(&domain->iommu_array)) {
		xa_for_each(&domain->iommu_array, index, info)
			kfree(info);
		xa_destroy(&domain->iommu_array);
	}

	spin_lock(&s2->s1_lock);
	list_del(&domain->s2_link);
	spin_unlock(&s2->s1_lock);
}

/* The lists of who uses a domain, under its lock. The next one, and NULL at the end. */
void vtd_list_device(struct dmar_domain *domain, struct device_domain_info *info)
{
	list_add_tail(&info->link, &domain->devices);
}

void vtd_unlist_device(struct device_domain_info *info)
{
	list_del(&info->link);
}

struct device_domain_info *vtd_next_device(struct dmar_domain *domain,
					   struct device_domain_info *info)
{
	struct list_head *next = info ? info->link.next : domain->devices.next;

	return next == &domain->devices ? NULL : list_entry(next, struct device_domain_info, link);
}

void vtd_list_pasid(struct dmar_domain *domain, struct dev_pasid_info *info)
{
	list_add_tail(&info->link_domain, &domain->dev_pasids);
}

void vtd_unlist_pasid(struct dev_pasid_info *info)
{
	list_del(&info->link_domain);
}

struct dev_pasid_info *vtd_next_pasid(struct dmar_domain *domain, struct dev_pasid_info *info)
{
	struct list_head *next = info ? info->link_domain.next : domain->dev_pasids.next;

	return next == &domain->dev_pasids ? NULL :
	       list_entry(next, struct dev_pasid_info, link_domain);
}

/* What is nested on a domain, under a lock of its own. */
void vtd_nested_lock(struct dmar_domain *domain)
{
	spin_lock(&domain->s1_lock);
}

void vtd_nested_unlock(struct dmar_domain *domain)
{
	spin_unlock(&domain->s1_lock);
}

struct dmar_domain *vtd_next_nested(struct dmar_domain *domain, struct dmar_domain *nested)
{
	struct list_head *next = nested ? nested->s2_link.next : domain->s1_domains.next;

	return next == &domain->s1_domains ? NULL : list_entry(next, struct dmar_domain, s2_link);
}

void vtd_debugfs_add_pasid(struct dev_pasid_info *info)
{
	intel_iommu_debugfs_create_dev_pasid(info);
}

void vtd_debugfs_remove_pasid(struct dev_pasid_info *info)
{
	intel_iommu_debugfs_remove_dev_pasid(info);
}

int vtd_iopf_set(struct iommu_domain *domain, struct device *dev)
{
	return iopf_for_domain_set(domain, dev);
}

void vtd_iopf_remove(struct iommu_domain *domain, struct device *dev)
{
	iopf_for_domain_remove(domain, dev);
}

#ifdef CONFIG_INTEL_IOMMU_SVM
/* Of the page table of a domain's process. */
u64 vtd_process_root(struct iommu_domain *domain)
{
	return __pa(domain->mm->pgd);
}

bool vtd_maps_1gib(void)
{
	return cpu_feature_enabled(X86_FEATURE_GBPAGES);
}

bool vtd_five_levels(void)
{
	return cpu_feature_enabled(X86_FEATURE_LA57);
}
#endif

bool vtd_pasid_supported(struct intel_iommu *iommu)
{
	return pasid_supported(iommu);
}

/* Whether the device is served by this driver, and its driver data are ours. */
bool vtd_serves(struct device *dev)
{
	return dev->iommu && dev->iommu->iommu_dev && dev_iommu_ops(dev) == &intel_iommu_ops;
}

/* Whether the domain was made by this driver, or is one of those that nobody owns. */
bool vtd_is_own_domain(struct iommu_domain *domain)
{
	return domain->owner == &intel_iommu_ops ||
	       domain->type == IOMMU_DOMAIN_IDENTITY || domain->type == IOMMU_DOMAIN_BLOCKED;
}

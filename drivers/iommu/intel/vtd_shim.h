/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust parts of this driver need of its headers that bindgen cannot
 * see: inline functions, macros, bit fields, trace points.
 */
#ifndef __INTEL_VTD_SHIM_H
#define __INTEL_VTD_SHIM_H

#include <linux/types.h>

struct cache_tag;
struct context_entry;
struct dev_pasid_info;
struct device;
struct device_domain_info;
struct dmar_domain;
struct intel_iommu;
struct iommu_domain;
struct iommu_domain_info;
struct mm_struct;
struct pci_dev;

/* A device as descriptors and context entries name it. */
struct vtd_device {
	u16 sid;
	u16 pfsid;
	u16 ats_qdep;
	u8 bus;
	u8 devfn;
	bool ats_enabled;
	bool ats_supported;
	bool pasid_supported;
	bool pri_supported;
	bool extra_inval;
};

/* The cache in a device as descriptors name it. */
struct vtd_tlb {
	u16 sid;
	u16 pfsid;
	u8 ats_qdep;
	bool extra_inval;
};

void vtd_read_info(struct device_domain_info *info, struct vtd_device *out);
bool vtd_read_tlb(struct device *dev, struct vtd_tlb *out);
bool vtd_is_pci(struct device *dev);
bool vtd_is_present(struct device *dev);
bool vtd_is_real_dma_subdevice(struct device *dev);
unsigned int vtd_max_pasids(struct device *dev);
bool vtd_is_bridge(struct device *dev);
int vtd_for_each_alias(struct device *dev, int (*fn)(struct pci_dev *pdev, u16 alias, void *data),
		       void *data);
int vtd_for_each_in_group(struct device *dev, int (*fn)(struct device *other, void *data),
			  void *data);
void vtd_dev_err_ratelimited(struct device *dev, const char *what);

void vtd_preempt_disable(void);
void vtd_preempt_enable(void);
bool vtd_preemptible(void);
bool vtd_pause(void);

void vtd_named_lock(void);
void vtd_named_unlock(void);
int vtd_named_add(struct intel_iommu *iommu, u16 sid, void *named);
void *vtd_named_find(struct intel_iommu *iommu, u16 sid);
void *vtd_named_remove(struct intel_iommu *iommu, u16 sid);

void vtd_lock(struct intel_iommu *iommu);
void vtd_unlock(struct intel_iommu *iommu);
void vtd_write_back(void *addr, unsigned int size);
bool vtd_context_copied(struct intel_iommu *iommu, u8 bus, u8 devfn);
void vtd_clear_context_copied(struct intel_iommu *iommu, u8 bus, u8 devfn);

void *vtd_alloc_table(struct intel_iommu *iommu, size_t size, bool atomic);
void vtd_free_table(void *table);
u64 vtd_phys(void *table);
void *vtd_virt(u64 phys);
bool vtd_cmpxchg(u64 *at, u64 old, u64 new);

u16 vtd_domain_id(struct dmar_domain *domain, struct intel_iommu *iommu);
void vtd_domain_lock(struct dmar_domain *domain);
void vtd_domain_unlock(struct dmar_domain *domain);

unsigned long vtd_tags_lock(struct dmar_domain *domain);
void vtd_tags_unlock(struct dmar_domain *domain, unsigned long flags);
void vtd_tag_link(struct dmar_domain *domain, struct cache_tag *after, struct cache_tag *tag);
void vtd_tag_unlink(struct cache_tag *tag);
struct cache_tag *vtd_tag_alloc(void);
void vtd_tag_free(struct cache_tag *tag);
void vtd_tags_settle(void);
void vtd_trace_assign(struct cache_tag *tag);
void vtd_trace_unassign(struct cache_tag *tag);
bool vtd_flushes_traced(void);
void vtd_trace_flush(struct cache_tag *tag, unsigned long start, unsigned long end,
		     unsigned long addr, unsigned long mask);
void vtd_trace_flush_np(struct cache_tag *tag, unsigned long start, unsigned long end,
			unsigned long addr, unsigned long mask);

void vtd_trace_guest_queue(struct intel_iommu *iommu, u32 asked, u32 done, int ret);
void vtd_trace_guest_fault(struct intel_iommu *iommu, u16 sid, u64 qw0, u64 qw1, u32 flags,
			   int ret);
void vtd_unit_get(struct intel_iommu *iommu);
void vtd_unit_put(struct intel_iommu *iommu);
void vtd_ids_lock(struct intel_iommu *iommu);
void vtd_ids_unlock(struct intel_iommu *iommu);
int vtd_did_alloc(struct intel_iommu *iommu, bool of_guest);
void vtd_did_free(struct intel_iommu *iommu, u16 did);

int vtd_domain_info_add(struct dmar_domain *domain, struct iommu_domain_info *info);
void vtd_domain_init(struct dmar_domain *domain);
void vtd_parent_init(struct dmar_domain *domain);
int vtd_node(struct device *dev);

void vtd_list_device(struct dmar_domain *domain, struct device_domain_info *info);
void vtd_unlist_device(struct device_domain_info *info);
struct device_domain_info *vtd_next_device(struct dmar_domain *domain,
					   struct device_domain_info *info);
void vtd_list_pasid(struct dmar_domain *domain, struct dev_pasid_info *info);
void vtd_unlist_pasid(struct dev_pasid_info *info);
struct dev_pasid_info *vtd_next_pasid(struct dmar_domain *domain, struct dev_pasid_info *info);
void vtd_nested_lock(struct dmar_domain *domain);
void vtd_nested_unlock(struct dmar_domain *domain);
struct dmar_domain *vtd_next_nested(struct dmar_domain *domain, struct dmar_domain *nested);
void vtd_debugfs_add_pasid(struct dev_pasid_info *info);
void vtd_debugfs_remove_pasid(struct dev_pasid_info *info);

int vtd_nested_init(struct dmar_domain *domain, struct dmar_domain *s2,
		    const struct iommu_hwpt_vtd_s1 *s1);
int vtd_nested_set_did(struct dmar_domain *domain, struct intel_iommu *iommu, u16 did);
void vtd_nested_deinit(struct dmar_domain *domain);
int vtd_iopf_set(struct iommu_domain *domain, struct device *dev);
void vtd_iopf_remove(struct iommu_domain *domain, struct device *dev);
u64 vtd_process_root(struct iommu_domain *domain);
bool vtd_maps_1gib(void);
bool vtd_five_levels(void);
bool vtd_pasid_supported(struct intel_iommu *iommu);
bool vtd_serves(struct device *dev);
bool vtd_is_own_domain(struct iommu_domain *domain);

#endif

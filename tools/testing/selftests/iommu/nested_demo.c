// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nested translation, told step by step on the running system: the machine,
 * the objects, the PASID entry that the kernel programmed, the walk of one
 * address with the entries that are really in memory, DMA, and what a stale
 * translation looks like. nested_demo [-c]: with colours. Fails when anything
 * is not as told. `make run` shows it.
 */
#include "nested_draw.h"
#include "vtd_engine.h"

#define IOVA	0x7fe000200000ULL
#define FIRST	(DATA_PAGE + 10)
#define SECOND	(DATA_PAGE + 20)

static const char *kept(const struct vtd *v, uint64_t value)
{
	if (value == TOKEN(FIRST))
		return "page 1";
	if (value == TOKEN(SECOND))
		return "page 2";
	return refused(v, value) ? "nothing" : "something else";
}

static void show_objects(struct vtd *v, uint32_t hwpt)
{
	printf("   device    id %u   %s, bound through vfio-pci\n", v->dev_id, v->bdf);
	printf("   IOAS      id %u   %llu MiB of this program's memory at %sGPA %#llx%s\n", v->ioas,
	       MEM_PAGES * PG >> 20, ink(GPA), GPA_BASE, ink(PLAIN));
	printf("   HWPT      id %u   nest parent: stage 2, tables by the kernel (GPA -> HPA)\n",
	       v->parent);
	printf("   HWPT      id %u   nested: stage 1, tables by the guest (GIOVA -> GPA)\n", hwpt);
	printf("   the device is attached to %u, which holds on to %u, which holds on to %u\n",
	       hwpt,
	       v->parent, v->ioas);
}

int main(int argc, char **argv)
{
	uint64_t root, ss_root = 0, value, before;
	struct vtd demo, *v = &demo;
	uint64_t *leaf;
	uint32_t hwpt;
	int rc;

	colours = argc > 1 && !strcmp(argv[1], "-c");
	rc = vtd_setup(v, 0);
	if (rc) {
		printf("%s\n", v->why);
		return rc > 0 ? KSFT_SKIP : 1;
	}
	if (!vtd_is_edu(v)) {
		printf("the demonstration needs QEMU's edu device\n");
		return KSFT_SKIP;
	}

	printf("\nThree kinds of address: a device sends %sGIOVAs%s, which a guest gave it. The\n"
	       "guest's tables (stage 1) make them %sGPAs%s, what the guest believes to be memory.\n"
	       "The host's tables (stage 2) make those %sHPAs%s: memory. The IOMMU walks both.\n",
	       ink(GIOVA), ink(PLAIN), ink(GPA), ink(PLAIN), ink(HPA), ink(PLAIN));

	head("The machine");
	printf("   cap %016llx  ecap %016llx\n", (unsigned long long)v->hw.cap_reg,
	       (unsigned long long)v->hw.ecap_reg);
	printf("   stage 1 %s, stage 2 %s, nested %s, dirty tracking %s, 5-level stage 1 %s\n",
	       v->hw.ecap_reg & ECAP_FLTS ? "yes" : "no", v->hw.ecap_reg & ECAP_SLTS ? "yes" : "no",
	       v->hw.ecap_reg & ECAP_NEST ? "yes" : "no",
	       v->hw_caps & IOMMU_HW_CAP_DIRTY_TRACKING ? "yes" : "no",
	       v->hw.cap_reg & CAP_FL5LP ? "yes" : "no");

	head("The objects of /dev/iommu");
	root = vtd_new_root(v);
	vtd_set(v, root, IOVA, gpa_of(FIRST), FS_LEAF);
	must(vtd_alloc_nested(v, v->parent, root, 48, &hwpt), "nested hwpt");
	must(vtd_attach(v, hwpt), "attach");
	show_objects(v, hwpt);

	head("What the kernel programmed: PASID entry 0 of the device");
	show_pasid_entry(v, root, &ss_root);

	head("The walk of %sGIOVA %#llx%s", ink(GIOVA), IOVA, ink(PLAIN));
	printf("   Each stage-1 entry lies at a GPA, so stage 2 is walked to find it.\n");
	draw_walk(v, root, ss_root, IOVA);

	head("DMA through both stages");
	value = dev_read(v, IOVA);
	printf("   the device reads  8 bytes at GIOVA %#llx: %016llx (%s)\n", IOVA,
	       (unsigned long long)value, kept(v, value));
	check(value == TOKEN(FIRST), "that is what lies in page 1");
	dev_write(v, IOVA + 8, 0x6f6c6c6548ULL);
	printf("   the device writes 8 bytes at GIOVA %#llx: \"%s\" is in memory\n", IOVA + 8,
	       (char *)host_of(v, FIRST) + 8);
	check(!strcmp((char *)host_of(v, FIRST) + 8, "Hello"), "it arrived in page 1");
	leaf = vtd_entry(v, root, 4, IOVA, 1);
	printf("   the guest's entry is %016llx now\n", (unsigned long long)*leaf);
	check((*leaf & (FS_A | FS_D)) == (FS_A | FS_D), "the IOMMU set Accessed and Dirty in it");

	head("The guest maps page 2 at the same GIOVA");
	vtd_set(v, root, IOVA, gpa_of(SECOND), FS_LEAF);
	printf("   its entry becomes %016llx\n", (unsigned long long)*leaf);
	before = dev_read(v, IOVA);
	printf("   the device reads  %016llx: %s\n", (unsigned long long)before, kept(v, before));
	check(before == TOKEN(FIRST), "still page 1: the IOMMU remembers the old translation");
	must(vtd_invalidate(v, hwpt, IOVA, 1), "HWPT_INVALIDATE");
	printf("   IOMMU_HWPT_INVALIDATE of one page, as a VMM does it for its guest\n");
	value = dev_read(v, IOVA);
	printf("   the device reads  %016llx: %s\n", (unsigned long long)value, kept(v, value));
	check(value == TOKEN(SECOND), "page 2, at once");

	head("The host takes the page away");
	must(vtd_unmap_gpa(v, v->ioas, gpa_of(SECOND), PG), "IOAS_UNMAP");
	value = dev_read(v, IOVA);
	printf("   the guest's tables are as before; the device reads %s\n", kept(v, value));
	check(refused(v, value), "stage 2 refuses, without any help of the guest");

	vtd_end(v);
	if (failures)
		printf("\n%s%d of the claims above did not hold.%s\n", ink(BAD), failures,
		       ink(PLAIN));
	else
		printf("\n%sAll of it held.%s\n", ink(GOOD), ink(PLAIN));
	return failures ? 1 : 0;
}

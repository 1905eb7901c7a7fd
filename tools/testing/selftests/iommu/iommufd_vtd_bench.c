// SPDX-License-Identifier: GPL-2.0-only
/*
 * What nested translation costs on VT-d: attaching, invalidating, unmapping below
 * nested page tables, and a guest's invalidation queue. That goes to the kernel in one
 * call (vtd_queue_*) or descriptor by descriptor (vtd_queue_*_by_one), where there is
 * no vIOMMU always so.
 *
 * usage: iommufd_vtd_bench [NAME...]     nanoseconds for each operation
 *        iommufd_vtd_bench -q [NAME...]  descriptors, and waits for the hardware
 *        iommufd_vtd_bench -l            the names
 *
 * One line each, as of iommufd_bench. VTD_DEVICE=bdf names the device; by
 * default it is QEMU's `pasid-dma`. No DMA is done. `-q` needs kprobe events.
 */
#include "kselftest.h"
#include "iommufd_bench.h"
#include "vtd_pdma.h"
#include "vtd_viommu.h"

#define IOVA	0x200000ULL
#define MOST	64

struct ctx {
	struct vtd v;
	uint32_t hwpt[2];
	unsigned int n;		/* entries of an array, or children of the parent */
	struct iommu_hwpt_vtd_s1_invalidate *entries;
	uint32_t viommu;
	struct iommu_vtd_inv_desc *descs;
};

struct bench {
	const char *name, *unit;
	void (*setup)(struct ctx *c);
	void (*run)(void *ctx);
	unsigned int count;	/* runs that are measured */
	unsigned int per;	/* operations in a run */
	unsigned int n;
};

static void nested_on_parent(struct ctx *c, uint32_t *id)
{
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = GPA_BASE, .addr_width = 48 };

	must(vtd_alloc_hwpt(&c->v, c->v.parent, IOMMU_HWPT_ALLOC_PASID, &s1, 0, id));
}

/* Set-ups */

static void with_two(struct ctx *c)
{
	nested_on_parent(c, &c->hwpt[0]);
	nested_on_parent(c, &c->hwpt[1]);
	must(vtd_attach(&c->v, c->hwpt[0]));
}

/* Two of the kernel's second stages. */
static void with_parents(struct ctx *c)
{
	uint32_t flags = IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID;

	c->hwpt[0] = c->v.parent;
	must(vtd_alloc_hwpt(&c->v, c->v.ioas, flags, NULL, 0, &c->hwpt[1]));
	must(vtd_attach(&c->v, c->hwpt[0]));
}

/* Two of its first stages. */
static void with_first_stages(struct ctx *c)
{
	unsigned int i;

	for (i = 0; i < 2; i++)
		must(vtd_alloc_hwpt(&c->v, c->v.ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0,
				    &c->hwpt[i]));
	must(vtd_attach(&c->v, c->hwpt[0]));
}

/* Every other page, so that no entry touches the one before it. */
static void with_array(struct ctx *c)
{
	with_two(c);
	c->entries = calloc(c->n, sizeof(*c->entries));
	must(!c->entries);
	for (unsigned int i = 0; i < c->n; i++) {
		c->entries[i].addr = IOVA + 2 * i * PG;
		c->entries[i].npages = 1;
	}
}

/* One is the device's own, the others its PASIDs'. */
static void with_children(struct ctx *c)
{
	uint32_t id;

	with_two(c);
	for (unsigned int pasid = 1; pasid < c->n; pasid++) {
		nested_on_parent(c, &id);
		must(vtd_attach_pasid(&c->v, pasid, id));
	}
}

#define SID	0x0010

/* What the guest changes: mostly pages, of two PASIDs under two domain-ids. */
static struct iommu_vtd_inv_desc guest_desc(unsigned int i)
{
	uint64_t page = IOVA + 2 * i * PG;

	switch (i % 8) {
	case 5:
		return vtd_pasid(i & 1, i & 1);
	case 6:
		return vtd_iotlb(i & 1, 2);
	default:
		return vtd_page(i & 1, i & 1, page);
	}
}

static void with_descs(struct ctx *c, int (*alloc)(struct vtd *v, uint32_t viommu, uint64_t root,
						   uint16_t did, uint32_t *id))
{
	uint32_t vdev;
	int rc;

	rc = vtd_alloc_viommu(&c->v, c->v.dev_id, c->v.parent, &c->viommu);
	if (rc) {
		must(rc != -EOPNOTSUPP);
		c->viommu = 0;
		nested_on_parent(c, &c->hwpt[0]);
		nested_on_parent(c, &c->hwpt[1]);
	} else {
		must(vtd_alloc_vdev(&c->v, c->viommu, c->v.dev_id, SID, &vdev));
		must(alloc(&c->v, c->viommu, GPA_BASE, 0, &c->hwpt[0]));
		must(alloc(&c->v, c->viommu, GPA_BASE, 1, &c->hwpt[1]));
	}
	must(vtd_attach(&c->v, c->hwpt[0]));
	must(vtd_attach_pasid(&c->v, 1, c->hwpt[1]));
	c->descs = calloc(c->n, sizeof(*c->descs));
	must(!c->descs);
}

/* A guest without ATS: the device's cache is the kernel's business. */
static void with_queue(struct ctx *c)
{
	with_descs(c, vtd_alloc_pe);
	for (unsigned int i = 0; i < c->n; i++)
		c->descs[i] = guest_desc(i);
}

/* One with ATS: each change of its tables is a pair of descriptors. */
static void with_queue_ats(struct ctx *c)
{
	with_descs(c, vtd_alloc_pe_ats);
	for (unsigned int i = 0; i < c->n; i += 2) {
		uint32_t pasid = i / 2 & 1;
		uint64_t page = IOVA + 2 * i * PG;

		c->descs[i] = vtd_page(pasid, pasid, page);
		c->descs[i + 1] = pasid ? vtd_pasid_dev_tlb(SID, pasid, page) :
					  vtd_dev_tlb(SID, page);
	}
}

/* What is measured */

static void run_attach(void *ctx)
{
	struct ctx *c = ctx;

	must(vtd_detach(&c->v));
	must(vtd_attach(&c->v, c->hwpt[0]));
}

static void run_replace_nested(void *ctx)
{
	struct ctx *c = ctx;

	must(vtd_attach(&c->v, c->hwpt[1]));
	must(vtd_attach(&c->v, c->hwpt[0]));
}

static void run_replace_parent(void *ctx)
{
	struct ctx *c = ctx;

	must(vtd_attach(&c->v, c->v.parent));
	must(vtd_attach(&c->v, c->hwpt[0]));
}

static void run_pasid(void *ctx)
{
	struct ctx *c = ctx;

	must(vtd_attach_pasid(&c->v, 1, c->hwpt[0]));
	must(vtd_attach_pasid(&c->v, 1, c->hwpt[1]));
	must(vtd_detach_pasid(&c->v, 1));
}

static void run_alloc(void *ctx)
{
	struct ctx *c = ctx;
	uint32_t id;

	nested_on_parent(c, &id);
	must(vtd_destroy(&c->v, id));
}

static void run_invalidate(void *ctx)
{
	struct ctx *c = ctx;
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = c->hwpt[0],
		.data_uptr = (uintptr_t)c->entries,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
		.entry_len = sizeof(c->entries[0]),
		.entry_num = c->n,
	};

	must(ioctl(c->v.iommufd, IOMMU_HWPT_INVALIDATE, &cmd) || cmd.entry_num != c->n);
}

/*
 * As a VMM has to do it without a vIOMMU, which finds the hwpt of each. Of devices'
 * caches the kernel thinks itself.
 */
static void run_queue_by_one(void *ctx)
{
	struct ctx *c = ctx;

	for (unsigned int i = 0; i < c->n; i++) {
		const __le64 *qw = c->descs[i].qw;
		uint32_t hwpt = c->hwpt[qw[0] >> 16 & 1];

		switch (qw[0] & 0x3f) {
		case 6 | 3 << 4:
			must(vtd_invalidate(&c->v, hwpt, qw[1], 1));
			break;
		case 6 | 2 << 4:
		case 2 | 2 << 4:
			must(vtd_invalidate(&c->v, hwpt, 0, UINT64_MAX));
		}
	}
}

static void run_queue(void *ctx)
{
	struct ctx *c = ctx;
	uint32_t num = c->n;

	if (c->viommu)
		must(vtd_queue(&c->v, c->viommu, c->descs, &num) || num != c->n);
	else
		run_queue_by_one(c);
}

/* A page moves: it is unmapped, and mapped again. */
static void run_unmap(void *ctx)
{
	struct ctx *c = ctx;

	must(vtd_unmap_gpa(&c->v, c->v.ioas, gpa_of(DATA_PAGE), PG));
	must(vtd_map_gpa(&c->v, c->v.ioas, gpa_of(DATA_PAGE), host_of(&c->v, DATA_PAGE), PG));
}

static const struct bench benches[] = {
	{ "vtd_nested_alloc_destroy", "op", with_two, run_alloc, 500, 1 },
	{ "vtd_nested_detach_attach", "op", with_two, run_attach, 200, 1 },
	{ "vtd_replace_nested_nested", "op", with_two, run_replace_nested, 200, 2 },
	{ "vtd_replace_nested_parent", "op", with_two, run_replace_parent, 200, 2 },
	{ "vtd_pasid_attach_replace_detach", "op", with_two, run_pasid, 200, 1 },
	{ "vtd_parent_detach_attach", "op", with_parents, run_attach, 200, 1 },
	{ "vtd_parent_replace", "op", with_parents, run_replace_nested, 200, 2 },
	{ "vtd_parent_pasid", "op", with_parents, run_pasid, 200, 1 },
	{ "vtd_first_stage_detach_attach", "op", with_first_stages, run_attach, 200, 1 },
	{ "vtd_first_stage_replace", "op", with_first_stages, run_replace_nested, 200, 2 },
	{ "vtd_first_stage_pasid", "op", with_first_stages, run_pasid, 200, 1 },
	{ "vtd_invalidate_1", "op", with_array, run_invalidate, 1000, 1, 1 },
	{ "vtd_invalidate_16", "op", with_array, run_invalidate, 200, 1, 16 },
	{ "vtd_invalidate_512", "op", with_array, run_invalidate, 20, 1, 512 },
	{ "vtd_queue_1", "descriptor", with_queue, run_queue, 1000, 1, 1 },
	{ "vtd_queue_1_by_one", "descriptor", with_queue, run_queue_by_one, 1000, 1, 1 },
	{ "vtd_queue_16", "descriptor", with_queue, run_queue, 200, 16, 16 },
	{ "vtd_queue_16_by_one", "descriptor", with_queue, run_queue_by_one, 200, 16, 16 },
	{ "vtd_queue_256", "descriptor", with_queue, run_queue, 20, 256, 256 },
	{ "vtd_queue_256_by_one", "descriptor", with_queue, run_queue_by_one, 20, 256, 256 },
	{ "vtd_queue_16_ats", "descriptor", with_queue_ats, run_queue, 200, 16, 16 },
	{ "vtd_queue_16_ats_by_one", "descriptor", with_queue_ats, run_queue_by_one, 200, 16, 16 },
	{ "vtd_queue_256_ats", "descriptor", with_queue_ats, run_queue, 20, 256, 256 },
	{ "vtd_unmap_map_1_child", "op", with_children, run_unmap, 200, 1, 1 },
	{ "vtd_unmap_map_8_children", "op", with_children, run_unmap, 200, 1, 8 },
	{ "vtd_unmap_map_64_children", "op", with_children, run_unmap, 50, 1, MOST },
};

static void open_ctx(struct ctx *c, const struct bench *b)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->n = b->n;
	rc = pdma_setup(&c->v, 0);
	if (rc) {
		fprintf(stderr, "%s\n", c->v.why);
		exit(rc > 0 ? 4 : 1);
	}
	b->setup(c);
}

static void close_ctx(struct ctx *c)
{
	free(c->entries);
	free(c->descs);
	vtd_release(&c->v);
}

/* Each submission to the invalidation queue ends with one wait. */
static const struct traced submissions = { { "kprobes/iommufd_bench" }, "descs=" };

static void probe(void)
{
	/* The third argument. */
	put(TRACING "kprobe_events", "p:kprobes/iommufd_bench qi_submit_sync descs=$arg3:s32\n");
	trace_begin();
}

static void count_descriptors(const struct bench *b, struct ctx *c)
{
	long waits, descriptors;

	b->run(c);
	trace_run(&submissions, b->run, c, &waits, &descriptors);
	printf("BENCH,%s,descriptors,%.1f\nBENCH,%s,waits,%.1f\n", b->name,
	       (double)descriptors / b->per, b->name, (double)waits / b->per);
}

int main(int argc, char **argv)
{
	bool queue = false, list = false;
	int option;

	while ((option = getopt(argc, argv, "lq")) != -1) {
		switch (option) {
		case 'l':
			list = true;
			break;
		case 'q':
			queue = true;
			break;
		default:
			return 2;
		}
	}
	if (queue)
		probe();
	for (unsigned int i = 0; i < ARRAY_SIZE(benches); i++) {
		const struct bench *b = &benches[i];
		bool wanted = optind == argc;
		struct ctx c;

		for (int j = optind; j < argc; j++)
			wanted |= !strcmp(argv[j], b->name);
		if (!wanted)
			continue;
		if (list) {
			puts(b->name);
			continue;
		}
		open_ctx(&c, b);
		if (queue)
			count_descriptors(b, &c);
		else
			printf("BENCH,%s,%s,%.2f\n", b->name, b->unit,
			       bench_run(b->run, &c, b->count) / b->per);
		close_ctx(&c);
		fflush(stdout);
	}
	return 0;
}

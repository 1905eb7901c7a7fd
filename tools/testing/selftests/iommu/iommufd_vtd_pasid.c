// SPDX-License-Identifier: GPL-2.0-only
/*
 * PASIDs on VT-d, with real DMA: nested hwpts attached to PASIDs of a device,
 * each variant by untranslated requests and through the device's translation
 * cache. VTD_DEVICE=bdf names the device; by default it is QEMU's `pasid-dma`.
 * For another device, which has to be bound to vfio-pci, only the checks that need no
 * DMA run.
 */
#include <pthread.h>

#include "kselftest_harness.h"
#include "vtd_pdma.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)
#define C	(DATA_PAGE + 30)
#define D	(DATA_PAGE + 40)

/* What comes back for a transfer that was not done. */
#define REFUSED	0xdeadULL

FIXTURE(pasid)
{
	struct vtd v;
	uint32_t how;
	uint64_t root, root1, root2;
	uint32_t hwpt, hwpt1, hwpt2;
};

FIXTURE_VARIANT(pasid)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(pasid, untranslated)
{
	.how = 0,
};

FIXTURE_VARIANT_ADD(pasid, ats)
{
	.how = PDMA_ATS,
};

/* Three tables for a fixture's variant: one with A, one with B, one with C. */
#define SET_UP_TABLES(statement, v)								\
	({											\
		if (variant->how && ((v)->hw_caps & IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED))	\
			SKIP(statement, "%s has no ATS here", (v)->bdf);			\
		self->how = variant->how;							\
		ASSERT_EQ(0, pdma_table(v, IOVA, A, &self->root, 0, &self->hwpt));		\
		ASSERT_EQ(0, pdma_table(v, IOVA, B, &self->root1, 0, &self->hwpt1));		\
		ASSERT_EQ(0, pdma_table(v, IOVA, C, &self->root2, 0, &self->hwpt2));		\
	})

/* No PASID has A, PASID 1 has B and PASID 2 has C, all at the same address. */
FIXTURE_SETUP(pasid)
{
	struct vtd *v = &self->v;

	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	SET_UP_TABLES(return, v);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(v, 2, self->hwpt2));
}

FIXTURE_TEARDOWN(pasid)
{
	vtd_release(&self->v);
}

#define NO_DMA	"no way to make %s do DMA from here"

static uint64_t get_by(struct vtd *v, uint32_t how, uint32_t pasid, uint64_t iova)
{
	if (pdma_run(v, how | PDMA_READ, pasid, iova, SENTINEL) != PDMA_DONE)
		return REFUSED;
	return pdma_buffer(v);
}

/* In the tests: what the device reads with @pasid, and whether it can write. */
#define GET(pasid, iova)	get_by(&self->v, self->how, pasid, iova)
#define PUT(pasid, iova, value)	\
	(pdma_run(&self->v, self->how | PDMA_WRITE, pasid, iova, value) == PDMA_DONE)

TEST_F(pasid, own_tables)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_EQ(TOKEN(C), GET(2, IOVA));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_TRUE(PUT(1, IOVA + 8, 0x1111));
	EXPECT_TRUE(PUT(2, IOVA + 8, 0x2222));
	EXPECT_EQ(0x1111, ((uint64_t *)host_of(v, B))[1]);
	EXPECT_EQ(0x2222, ((uint64_t *)host_of(v, C))[1]);
	EXPECT_EQ(0, ((uint64_t *)host_of(v, A))[1]);
	/* A GPA is no IOVA for any of them. */
	EXPECT_EQ(REFUSED, GET(1, gpa_of(B)));
}

TEST_F(pasid, fetch_and_add)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	((uint64_t *)host_of(v, B))[1] = 40;
	EXPECT_EQ(PDMA_DONE, pdma_run(v, self->how | PDMA_FETCH_ADD, 1, IOVA + 8, 2));
	EXPECT_EQ(40, pdma_buffer(v));
	EXPECT_EQ(42, ((uint64_t *)host_of(v, B))[1]);
}

TEST_F(pasid, not_attached)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	EXPECT_EQ(REFUSED, GET(3, IOVA));
	EXPECT_FALSE(PUT(3, IOVA, 1));
	EXPECT_EQ(REFUSED, GET((1U << v->pasid_bits) - 1, IOVA));
	/* PASID 0 is what requests without one have: no device sends it here. */
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
}

TEST_F(pasid, detached)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(TOKEN(C), GET(2, IOVA));
	EXPECT_EQ(-EBUSY, vtd_destroy(v, self->hwpt1));
	ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	EXPECT_EQ(REFUSED, GET(1, IOVA));
	EXPECT_FALSE(PUT(1, IOVA, 1));
	EXPECT_EQ(TOKEN(B), *(uint64_t *)host_of(v, B));
	EXPECT_EQ(TOKEN(C), GET(2, IOVA));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt1));
	/* Back with another table: nothing of the first one is left. */
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt2));
	EXPECT_EQ(TOKEN(C), GET(1, IOVA));
}

TEST_F(pasid, replaced)
{
	struct vtd *v = &self->v;
	int round;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	for (round = 0; round < 3; round++) {
		EXPECT_EQ(TOKEN(B), GET(1, IOVA));
		ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt2));
		EXPECT_EQ(TOKEN(C), GET(1, IOVA));
		EXPECT_EQ(TOKEN(C), GET(2, IOVA));
		EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		/* The parent alone: a GPA is the address. */
		ASSERT_EQ(0, vtd_attach_pasid(v, 1, v->parent));
		EXPECT_EQ(TOKEN(D), GET(1, gpa_of(D)));
		EXPECT_EQ(REFUSED, GET(1, IOVA));
		ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
		EXPECT_EQ(REFUSED, GET(1, gpa_of(D)));
	}
	/* The device's own table changes below its PASIDs. */
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt2));
	EXPECT_EQ(TOKEN(C), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
}

TEST_F(pasid, stale_until_invalidated)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(TOKEN(C), GET(2, IOVA));
	vtd_set(v, self->root, IOVA, gpa_of(D), FS_LEAF);
	vtd_set(v, self->root1, IOVA, gpa_of(D + 1), FS_LEAF);
	vtd_set(v, self->root2, IOVA, gpa_of(D + 2), FS_LEAF);
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	/* Each invalidation is for the PASID of its hwpt, and no other. */
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt2, IOVA, 1));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_EQ(TOKEN(D + 2), GET(2, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt1, 0, UINT64_MAX));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(D + 1), GET(1, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(D), GET(NO_PASID, IOVA));
}

TEST_F(pasid, neighbour_stays)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	vtd_set(v, self->root1, IOVA + PG, gpa_of(B + 1), FS_LEAF);
	ASSERT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(TOKEN(B + 1), GET(1, IOVA + PG));
	vtd_set(v, self->root1, IOVA, gpa_of(D), FS_LEAF);
	vtd_set(v, self->root1, IOVA + PG, gpa_of(D + 1), FS_LEAF);
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt1, IOVA + PG, 1));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_EQ(TOKEN(D + 1), GET(1, IOVA + PG));
}

/* One hwpt everywhere: an invalidation reaches all who use it. */
TEST_F(pasid, shared_hwpt)
{
	static const uint32_t who[] = { NO_PASID, 1, 2, 77 };
	struct vtd *v = &self->v;
	unsigned int i;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(v, 2, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(v, 77, self->hwpt1));
	for (i = 0; i < ARRAY_SIZE(who); i++)
		ASSERT_EQ(TOKEN(B), GET(who[i], IOVA));
	vtd_set(v, self->root1, IOVA, gpa_of(D), FS_LEAF);
	for (i = 0; i < ARRAY_SIZE(who); i++)
		EXPECT_EQ(TOKEN(B), GET(who[i], IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt1, IOVA, 1));
	for (i = 0; i < ARRAY_SIZE(who); i++)
		EXPECT_EQ(TOKEN(D), GET(who[i], IOVA))
			TH_LOG("PASID %d", (int)who[i]);
	ASSERT_EQ(0, vtd_detach_pasid(v, 77));
	EXPECT_EQ(REFUSED, GET(77, IOVA));
	EXPECT_EQ(TOKEN(D), GET(2, IOVA));
}

TEST_F(pasid, parent_changes)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(B), PG));
	EXPECT_EQ(REFUSED, GET(1, IOVA));
	EXPECT_EQ(TOKEN(C), GET(2, IOVA));
	ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa_of(B), host_of(v, D), PG));
	EXPECT_EQ(TOKEN(D), GET(1, IOVA));
}

/*
 * What a device wrote is in memory, or never will be, when the page is not the
 * device's any more: it was unmapped from the parent, the PASID is detached, or the
 * device's own table is another. Nothing is read from the device meanwhile, which
 * would push the write.
 */
TEST_F(pasid, writes_are_drained)
{
	struct vtd *v = &self->v;
	uint64_t *a = host_of(v, A), *b = host_of(v, B), *c = host_of(v, C), seen;
	uint32_t plain;
	int round;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0, &plain));
	for (round = 1; round <= 5; round++) {
		ASSERT_TRUE(PUT(1, IOVA + 8, 0) && PUT(2, IOVA + 8, 0));
		ASSERT_TRUE(PUT(NO_PASID, IOVA + 8, 0));
		pdma_start(v, self->how | PDMA_WRITE, 1, IOVA + 8, round);
		ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(B), PG));
		seen = __atomic_load_n(&b[1], __ATOMIC_RELAXED);
		EXPECT_EQ(PDMA_DONE, pdma_status(v));
		EXPECT_EQ(seen, __atomic_load_n(&b[1], __ATOMIC_RELAXED));
		ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa_of(B), b, PG));

		pdma_start(v, self->how | PDMA_WRITE, 2, IOVA + 8, round);
		ASSERT_EQ(0, vtd_detach_pasid(v, 2));
		seen = __atomic_load_n(&c[1], __ATOMIC_RELAXED);
		EXPECT_EQ(PDMA_DONE, pdma_status(v));
		EXPECT_EQ(seen, __atomic_load_n(&c[1], __ATOMIC_RELAXED));
		ASSERT_EQ(0, vtd_attach_pasid(v, 2, self->hwpt2));

		pdma_start(v, self->how | PDMA_WRITE, NO_PASID, IOVA + 8, round);
		ASSERT_EQ(0, vtd_attach(v, plain));
		seen = __atomic_load_n(&a[1], __ATOMIC_RELAXED);
		EXPECT_EQ(PDMA_DONE, pdma_status(v));
		EXPECT_EQ(seen, __atomic_load_n(&a[1], __ATOMIC_RELAXED));

		/* By a table of the kernel's own. */
		pdma_start(v, self->how | PDMA_WRITE, NO_PASID, gpa_of(A) + 8, 100 + round);
		ASSERT_EQ(0, vtd_attach(v, self->hwpt));
		seen = __atomic_load_n(&a[1], __ATOMIC_RELAXED);
		EXPECT_EQ(PDMA_DONE, pdma_status(v));
		EXPECT_EQ(seen, __atomic_load_n(&a[1], __ATOMIC_RELAXED));
	}
}

/* A device that wants no snooping is snooped: by PGSNP, or by SNP of stage 2. */
TEST_F(pasid, no_snoop)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	if (!(v->hw.ecap_reg & ECAP_SC))
		SKIP(return, "the IOMMU does not control snooping");
	self->how |= PDMA_NO_SNOOP;
	/* A stage 1 on stage 2. */
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	/* Stage 2, and a stage 1 of the kernel's. */
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, v->parent));
	EXPECT_EQ(TOKEN(B), GET(1, gpa_of(B)));
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, gpa_of(A)));
	ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	ASSERT_EQ(0, vtd_detach_pasid(v, 2));
	ASSERT_EQ(0, vtd_attach(v, v->ioas));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, gpa_of(A)));
}

TEST_F(pasid, read_only_entry)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	vtd_set(v, self->root1, IOVA, gpa_of(B), FS_P | FS_US);
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_FALSE(PUT(1, IOVA, 1));
	EXPECT_EQ(TOKEN(B), *(uint64_t *)host_of(v, B));
	EXPECT_TRUE(PUT(2, IOVA, 1));
}

/* Fault events so far, of all units, or -1. */
static long fault_events(void)
{
	FILE *f = fopen("/proc/interrupts", "r");
	char line[1024], *at, *end;
	long sum = -1;

	while (f && fgets(line, sizeof(line), f)) {
		at = strchr(line, ':');
		if (!at || !strstr(at, "dmar") || strstr(at, "prq"))
			continue;
		for (at++; ; at = end) {
			unsigned long n = strtoul(at, &end, 10);

			if (at == end || *end != ' ')
				break;
			sum = (sum < 0 ? 0 : sum) + n;
		}
	}
	if (f)
		fclose(f);
	return sum;
}

/* A device that faults again and again does not get an interrupt for each. */
TEST_F_TIMEOUT(pasid, storm_of_faults, SLOW)
{
	enum { FAULTS = 20000 };
	struct vtd *v = &self->v;
	long before, n;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	if (variant->how)
		SKIP(return, "a device that asks before sees no faults");
	before = fault_events();
	if (before < 0)
		SKIP(return, "/proc/interrupts does not tell of fault events");
	for (n = 0; n < FAULTS; n++)
		EXPECT_EQ(REFUSED, GET(3, IOVA));
	EXPECT_GT(FAULTS / 10, fault_events() - before);
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	/* Nor is it left without: what comes later is heard of, and said of no more than some. */
	usleep(100000);
	before = fault_events();
	EXPECT_EQ(REFUSED, GET(3, IOVA));
	for (n = 0; n < 200 && fault_events() == before; n++)
		usleep(5000);
	EXPECT_EQ(before + 1, fault_events());
}

TEST_F_TIMEOUT(pasid, many, SLOW)
{
	enum { FIRST = 100, MANY = 150 };
	struct vtd *v = &self->v;
	uint32_t pasid;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	for (pasid = FIRST; pasid < FIRST + MANY; pasid++)
		ASSERT_EQ(0, vtd_attach_pasid(v, pasid, pasid & 1 ? self->hwpt1 : self->hwpt2));
	for (pasid = FIRST; pasid < FIRST + MANY; pasid++)
		EXPECT_EQ(TOKEN(pasid & 1 ? B : C), GET(pasid, IOVA));
	for (pasid = FIRST; pasid < FIRST + MANY; pasid += 2)
		ASSERT_EQ(0, vtd_detach_pasid(v, pasid));
	for (pasid = FIRST; pasid < FIRST + MANY; pasid++)
		EXPECT_EQ(pasid & 1 ? TOKEN(B) : REFUSED, GET(pasid, IOVA));
}

/* A unit with no more can have all in use. */
#define FEW_IDS	32

static unsigned int domain_ids(struct vtd *v, const char *which)
{
	unsigned int value = 0;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu/intel-iommu/domains_%s",
		 v->bdf, which);
	f = fopen(path, "r");
	if (f && fscanf(f, "%u", &value) != 1)
		value = 0;
	if (f)
		fclose(f);
	return value;
}

/* The domain-ids are used up: what is attached stays so, and each that goes makes room. */
TEST_F(pasid, domain_ids_used_up)
{
	static const uint32_t kernels[] = {
		IOMMU_HWPT_ALLOC_PASID, IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_ALLOC_NEST_PARENT,
	};
	unsigned int all = domain_ids(&self->v, "supported"), used = domain_ids(&self->v, "used");
	uint32_t hwpt[FEW_IDS], more[3], last, pasid;
	struct vtd *v = &self->v;
	unsigned int i, round;
	uint64_t root;
	int rc;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	if (!all || all > FEW_IDS)
		SKIP(return, "%u domain-ids are too many", all);
	/* 0 and 1 are no domain's. */
	all -= 2;
	ASSERT_EQ(0, pdma_table(v, IOVA, D, &root, 0, &more[0]));
	for (i = 0; i < ARRAY_SIZE(kernels); i++)
		ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, kernels[i], NULL, 0, &more[1 + i]));
	for (i = 0; i < all; i++)
		ASSERT_EQ(0, pdma_table(v, IOVA, D + 1 + i, &root, 0, &hwpt[i]));
	for (round = 0; round < 2; round++) {
		/* 1 and 2 are in use. */
		for (pasid = 3; ; pasid++) {
			rc = vtd_attach_pasid(v, pasid, hwpt[pasid]);
			if (rc)
				break;
			ASSERT_GT(all - 1, pasid);
		}
		last = pasid - 1;
		EXPECT_EQ(-ENOSPC, rc);
		EXPECT_EQ(all, used + last - 2);
		EXPECT_EQ(all, domain_ids(v, "used"));
		EXPECT_EQ(REFUSED, GET(pasid, IOVA));
		for (i = 0; i < ARRAY_SIZE(more); i++) {
			EXPECT_EQ(-ENOSPC, vtd_attach_pasid(v, pasid, more[i]));
			EXPECT_EQ(-ENOSPC, vtd_attach_pasid(v, 1, more[i]));
			EXPECT_EQ(-ENOSPC, vtd_attach(v, more[i]));
		}
		EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		EXPECT_EQ(TOKEN(B), GET(1, IOVA));
		EXPECT_EQ(TOKEN(C), GET(2, IOVA));
		for (i = 3; i <= last; i++)
			EXPECT_EQ(TOKEN(D + 1 + i), GET(i, IOVA));
		/* What is attached already needs no other one. */
		EXPECT_EQ(0, vtd_attach_pasid(v, pasid, self->hwpt1));
		EXPECT_EQ(TOKEN(B), GET(pasid, IOVA));
		EXPECT_EQ(0, vtd_detach_pasid(v, pasid));
		EXPECT_EQ(all, domain_ids(v, "used"));
		EXPECT_EQ(0, vtd_detach_pasid(v, last));
		for (i = 0; i < ARRAY_SIZE(more); i++) {
			EXPECT_EQ(0, vtd_attach_pasid(v, last, more[i]));
			EXPECT_EQ(i ? TOKEN(A) : TOKEN(D), GET(last, i ? gpa_of(A) : IOVA));
			EXPECT_EQ(0, vtd_detach_pasid(v, last));
		}
		for (i = 3; i < last; i++)
			EXPECT_EQ(0, vtd_detach_pasid(v, i));
		EXPECT_EQ(used, domain_ids(v, "used"));
	}
}

/* The function is reset below its attachments: they are there afterwards. */
TEST_F(pasid, reset)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(TOKEN(B), GET(1, IOVA));
	ASSERT_EQ(0, ioctl(v->dev, VFIO_DEVICE_RESET));
	ASSERT_EQ(0, vtd_enable(v));
	EXPECT_EQ(0, pdma_cached(v));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_EQ(TOKEN(C), GET(2, IOVA));
	ASSERT_EQ(0, vtd_detach_pasid(v, 2));
	EXPECT_EQ(REFUSED, GET(2, IOVA));
}

TEST_F(pasid, what_goes_together)
{
	struct vtd *v = &self->v;
	uint64_t root;
	uint32_t plain;

	root = vtd_new_table(v);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, root, 48, &plain));
	/* Made without IOMMU_HWPT_ALLOC_PASID: nowhere beside a PASID. */
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(v, 5, plain));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(v, 1, plain));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(v, 5, v->ioas));
	EXPECT_EQ(-EINVAL, vtd_attach(v, plain));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(v, 1U << v->pasid_bits, self->hwpt1));
	EXPECT_EQ(-ENOENT, vtd_attach_pasid(v, 5, 0x7fffffff));
	if (vtd_is_pdma(v)) {
		EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	}
	/* Without PASIDs it can be the device's, and then there are none. */
	ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	ASSERT_EQ(0, vtd_detach_pasid(v, 2));
	ASSERT_EQ(0, vtd_attach(v, plain));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(v, 1, self->hwpt1));
}

FIXTURE(dirty)
{
	struct vtd v;
	uint64_t root;
	uint32_t hwpt;
};

FIXTURE_SETUP(dirty)
{
	struct vtd *v = &self->v;

	ASSERT_SET_UP(return, vtd_tracks(pdma_setup(v, DIRTY_TRACKING), v), v);
	ASSERT_EQ(0, pdma_table(v, IOVA, A, &self->root, 0, &self->hwpt));
	vtd_set(v, self->root, IOVA + PG, gpa_of(B), FS_LEAF);
}

FIXTURE_TEARDOWN(dirty)
{
	vtd_release(&self->v);
}

static uint64_t bitmap[MEM_PAGES / 64];

static int dirty_set_of(struct vtd *v, uint32_t parent, bool on)
{
	struct iommu_hwpt_set_dirty_tracking cmd = {
		.size = sizeof(cmd),
		.flags = on ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
		.hwpt_id = parent,
	};

	return ioctl(v->iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd) ? -errno : 0;
}

static int dirty_set(struct vtd *v, bool on)
{
	return dirty_set_of(v, v->parent, on);
}

/* Reads and clears; 1 when @page is the only dirty one of the data area. */
static int dirty_only(struct vtd *v, unsigned int page)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = v->parent,
		.iova = GPA_BASE,
		.length = MEM_PAGES * PG,
		.page_size = PG,
		.data = (uintptr_t)bitmap,
	};
	unsigned int i, found = 0;

	memset(bitmap, 0, sizeof(bitmap));
	if (ioctl(v->iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd))
		return -errno;
	for (i = DATA_PAGE; i < MEM_PAGES; i++)
		if (bitmap[i / 64] >> (i % 64) & 1)
			found = found || i != page ? MEM_PAGES : page;
	return found == page;
}

/* Tracking begins with the PASID attached, or the PASID comes later. */
TEST_F(dirty, by_pasid)
{
	struct vtd *v = &self->v;
	int later, round;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	for (later = 0; later < 2; later++) {
		if (!later)
			ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
		ASSERT_EQ(0, dirty_set(v, true));
		if (later)
			ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
		dirty_only(v, 0);
		for (round = 0; round < 3; round++) {
			EXPECT_EQ(TOKEN(B), get_by(v, 0, 1, IOVA + PG));
			EXPECT_EQ(PDMA_DONE, pdma_run(v, PDMA_WRITE, 1, IOVA + 8, round + 1));
			EXPECT_EQ(round + 1, ((uint64_t *)host_of(v, A))[1]);
			EXPECT_EQ(1, dirty_only(v, A))
				TH_LOG("round %d, attached %s", round, later ? "later" : "before");
		}
		EXPECT_EQ(1, dirty_only(v, 0));
		ASSERT_EQ(0, dirty_set(v, false));
		ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	}
}

struct toggler {
	struct vtd *v;
	uint32_t parent;
	unsigned long rounds;
	bool stop;
	int rc;
};

static void *toggle(void *arg)
{
	struct toggler *t = arg;

	while (!t->rc && !__atomic_load_n(&t->stop, __ATOMIC_RELAXED))
		t->rc = dirty_set_of(t->v, t->parent, ++t->rounds & 1);
	return NULL;
}

/* Whenever tracking changes, it does, for those as well that come or go just then. */
TEST_F_TIMEOUT(dirty, changes_while_attaching, SLOW)
{
	struct vtd *v = &self->v;
	struct toggler toggler = { .v = v, .parent = v->parent };
	pthread_t thread;
	uint32_t other;
	uint64_t root;
	int i;

	ASSERT_EQ(0, pdma_table(v, IOVA, C, &root, 0, &other));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, pthread_create(&thread, NULL, toggle, &toggler));
	/* Until each has met the other often enough, whichever is the faster. */
	for (i = 0; i < 300 || (i < 30000 &&
	     __atomic_load_n(&toggler.rounds, __ATOMIC_RELAXED) <= 100); i++) {
		EXPECT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
		EXPECT_EQ(0, vtd_attach(v, i % 2 ? self->hwpt : other));
		EXPECT_EQ(0, vtd_attach_pasid(v, 1, other));
		EXPECT_EQ(0, vtd_detach_pasid(v, 1));
	}
	__atomic_store_n(&toggler.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, toggler.rc);
	EXPECT_LT(100, toggler.rounds);

	if (!vtd_is_pdma(v))
		return;
	ASSERT_EQ(0, dirty_set(v, true));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	dirty_only(v, 0);
	EXPECT_EQ(PDMA_DONE, pdma_run(v, PDMA_WRITE, 1, IOVA + 8, 1));
	EXPECT_EQ(1, dirty_only(v, A));
}

/* Of attaching while tracking begins. */
#define ROUNDS 400

struct enabler {
	struct vtd *v;
	/* The round that may begin, and the one that is over. */
	int go, done;
	/* Each 100th of the time that an attach takes. */
	int step;
	int rc;
};

static void *enable(void *arg)
{
	struct enabler *e = arg;
	int round, i;

	for (round = 1; round <= ROUNDS; round++) {
		while (__atomic_load_n(&e->go, __ATOMIC_ACQUIRE) < round)
			;
		/* At each moment of an attach. */
		for (i = 0; i < round % 100 * e->step; i++)
			asm volatile("");
		e->rc = e->rc ?: dirty_set(e->v, true);
		__atomic_store_n(&e->done, round, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* How often what was written was not recorded, where tracking began with the attach. */
static int missed_writes(struct vtd *v, uint32_t pasid, uint32_t hwpt, uint64_t iova)
{
	struct enabler e = { .v = v, .step = pasid == NO_PASID ? 1000 : 200 };
	int round, missed = 0, rc = 0;
	pthread_t thread;

	if (pthread_create(&thread, NULL, enable, &e))
		return -1;
	for (round = 1; round <= ROUNDS; round++) {
		rc = rc ?: dirty_set(v, false);
		__atomic_store_n(&e.go, round, __ATOMIC_RELEASE);
		rc = rc ?: vtd_attach_at(v, pasid, hwpt);
		while (__atomic_load_n(&e.done, __ATOMIC_ACQUIRE) < round)
			;
		dirty_only(v, 0);
		missed += pdma_run(v, PDMA_WRITE, pasid, iova + 8, round) != PDMA_DONE ||
			  dirty_only(v, A) != 1;
		rc = rc ?: pasid == NO_PASID ? vtd_detach(v) : vtd_detach_pasid(v, pasid);
	}
	pthread_join(thread, NULL);
	return rc || e.rc ? -1 : missed;
}

/* Who attaches sees that tracking begins, or is seen by who begins it. */
TEST_F_TIMEOUT(dirty, begins_while_nesting, SLOW)
{
	struct vtd *v = &self->v;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	EXPECT_EQ(0, missed_writes(v, 1, self->hwpt, IOVA));
	EXPECT_EQ(0, missed_writes(v, NO_PASID, self->hwpt, IOVA));
}

/*
 * A PASID moves to another parent, and what becomes of the tracking of the old one
 * is no matter. That one maps nothing, so its tracking changes quickly.
 */
TEST_F_TIMEOUT(dirty, the_other_parent, SLOW)
{
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = self->root, .addr_width = 48 };
	struct vtd *v = &self->v;
	struct toggler toggler = { .v = v };
	uint32_t ioas, old;
	pthread_t thread;
	int i, missed = 0;

	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	ASSERT_EQ(0, vtd_alloc_ioas(v, &ioas));
	ASSERT_EQ(0, vtd_alloc_hwpt(v, ioas, IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID |
				    IOMMU_HWPT_ALLOC_DIRTY_TRACKING, NULL, 0, &toggler.parent));
	ASSERT_EQ(0, vtd_alloc_hwpt(v, toggler.parent, IOMMU_HWPT_ALLOC_PASID, &s1, 0, &old));
	ASSERT_EQ(0, dirty_set(v, true));
	ASSERT_EQ(0, pthread_create(&thread, NULL, toggle, &toggler));
	for (i = 0; i < 500; i++) {
		EXPECT_EQ(0, vtd_attach_pasid(v, 1, old));
		EXPECT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
		dirty_only(v, 0);
		EXPECT_EQ(PDMA_DONE, pdma_run(v, PDMA_WRITE, 1, IOVA + 8, i + 1));
		missed += dirty_only(v, A) != 1;
	}
	EXPECT_EQ(0, missed);
	__atomic_store_n(&toggler.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, toggler.rc);
	EXPECT_LT(100, toggler.rounds);
}

static int use(int ready, unsigned int round)
{
	uint64_t root[4];
	uint32_t hwpt[4], i;
	struct vtd v;

	if (pdma_setup(&v, 0))
		return 1;
	for (i = 0; i < 4; i++) {
		if (pdma_table(&v, IOVA, A + i, &root[i], 0, &hwpt[i]) ||
		    (i ? vtd_attach_pasid(&v, i, hwpt[i]) : vtd_attach(&v, hwpt[i])))
			return 1;
	}
	if (get_by(&v, 0, 3, IOVA) != TOKEN(A + 3) || write(ready, "", 1) != 1)
		return 1;
	/* Attached, detached, replaced and used until the end comes. */
	for (i = 0;; i++) {
		get_by(&v, 0, i % 4 ? i % 4 : NO_PASID, IOVA);
		vtd_attach_pasid(&v, 1 + i % 3, hwpt[1 + i % 2]);
		if (i % 5 == 0)
			vtd_detach_pasid(&v, 1 + i % 3);
	}
}

/*
 * Two devices with translation caches. One does not answer when it is to forget a
 * translation, and the IOMMU gives up. That is nobody else's affair.
 */
FIXTURE(silent)
{
	struct vtd v, other;
	uint64_t root, root2;
	uint32_t hwpt, hwpt2;
};

FIXTURE_VARIANT(silent)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(silent, present)
{
	.how = PDMA_SILENT,
};

FIXTURE_VARIANT_ADD(silent, gone)
{
	.how = PDMA_SILENT | PDMA_SILENT_GONE,
};

FIXTURE_VARIANT_ADD(silent, nameless)
{
	.how = PDMA_SILENT | PDMA_SILENT_NAMELESS,
};

/* The number of a device's group, or -1. */
static int group_of(const struct vtd *v)
{
	char path[128], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", v->bdf);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -1;
	target[n] = 0;
	return atoi(strrchr(target, '/') + 1);
}

FIXTURE_SETUP(silent)
{
	struct vtd *v = &self->v, *other = &self->other;

	vtd_none(other);
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v) || (v->hw_caps & IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED))
		SKIP(return, "no way to keep %s from answering", v->bdf);
	if (!pdma_find_another(v, other))
		SKIP(return, "there is one device of this kind only");
	if (group_of(v) == group_of(other))
		SKIP(return, "they are one group, which has one table");
	ASSERT_EQ(0, pdma_take_another(v, other))
		TH_LOG("%s", other->why);
	ASSERT_EQ(0, pdma_table(v, IOVA, A, &self->root, 0, &self->hwpt));
	ASSERT_EQ(0, pdma_table(v, IOVA, B, &self->root2, 0, &self->hwpt2));
}

FIXTURE_TEARDOWN(silent)
{
	if (self->v.bar)
		pdma_keep_silent(&self->v, 0);
	vtd_release(&self->other);
	vtd_release(&self->v);
}

struct nuisance {
	struct vtd *v;
	uint32_t hwpt;
	int unexpected;		/* results that are not ETIMEDOUT */
	bool done;
};

static void *be_a_nuisance(void *arg)
{
	struct nuisance *n = arg;
	int round;

	for (round = 0; round < 20; round++)
		n->unexpected += vtd_invalidate(n->v, n->hwpt, IOVA, 1) != -ETIMEDOUT;
	__atomic_store_n(&n->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

TEST_F_TIMEOUT(silent, others_are_served, SLOW)
{
	struct vtd *v = &self->v, *other = &self->other;
	struct nuisance n = { .v = v, .hwpt = self->hwpt };
	unsigned int round, page, errors = 0, stale = 0;
	pthread_t thread;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, self->hwpt2));
	pdma_keep_silent(v, variant->how);
	ASSERT_EQ(0, pthread_create(&thread, NULL, be_a_nuisance, &n));
	for (round = 0; !__atomic_load_n(&n.done, __ATOMIC_SEQ_CST); round++) {
		page = round & 1 ? C : D;
		vtd_set(v, self->root2, IOVA, gpa_of(page), FS_LEAF);
		if (vtd_invalidate(v, self->hwpt2, IOVA, 1))
			errors++;
		else if (get_by(other, PDMA_ATS, NO_PASID, IOVA) != TOKEN(page))
			stale++;
	}
	pthread_join(thread, NULL);
	EXPECT_EQ(0, n.unexpected);
	/* Where the IOMMU does not say who it was, it could have been this one. */
	if (!(variant->how & PDMA_SILENT_NAMELESS))
		EXPECT_EQ(0, errors);
	EXPECT_EQ(0, stale);
	EXPECT_LT(1, round);
	/* It speaks again. */
	pdma_keep_silent(v, 0);
	EXPECT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(A), get_by(v, PDMA_ATS, NO_PASID, IOVA));
}

/* Both in the domain of a page that goes, the silent one attached first or last. */
TEST_F_TIMEOUT(silent, in_one_domain, SLOW)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint64_t gpa = gpa_of(A);
	int order;

	for (order = 0; order < 2; order++) {
		ASSERT_EQ(0, vtd_attach(order ? other : v, v->parent));
		ASSERT_EQ(0, vtd_attach(order ? v : other, v->parent));
		ASSERT_EQ(TOKEN(A), get_by(v, PDMA_ATS, NO_PASID, gpa));
		ASSERT_EQ(TOKEN(A), get_by(other, PDMA_ATS, NO_PASID, gpa));
		pdma_keep_silent(v, variant->how);
		EXPECT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa, PG));
		EXPECT_EQ(REFUSED, get_by(other, PDMA_ATS, NO_PASID, gpa));
		EXPECT_EQ(REFUSED, get_by(other, 0, NO_PASID, gpa));
		/* Detaching has to be told to it, too. */
		ASSERT_EQ(0, vtd_attach(v, self->hwpt));
		ASSERT_EQ(0, vtd_attach(other, self->hwpt2));
		EXPECT_EQ(TOKEN(B), get_by(other, PDMA_ATS, NO_PASID, IOVA));
		pdma_keep_silent(v, 0);
		ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa, host_of(v, A), PG));
	}
}

/* Two functions of one group, which has one table for each PASID. */
FIXTURE(group)
{
	struct vtd v, other;
	uint32_t how;
	uint64_t root, root1, root2;
	uint32_t hwpt, hwpt1, hwpt2;
};

FIXTURE_VARIANT(group)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(group, untranslated)
{
	.how = 0,
};

FIXTURE_VARIANT_ADD(group, ats)
{
	.how = PDMA_ATS,
};

FIXTURE_SETUP(group)
{
	struct vtd *v = &self->v, *other = &self->other;

	vtd_none(other);
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v))
		SKIP(return, NO_DMA, v->bdf);
	if (!pdma_find_another(v, other) || group_of(v) != group_of(other))
		SKIP(return, "no two functions of one group");
	SET_UP_TABLES(return, v);
	ASSERT_EQ(0, pdma_take_another(v, other))
		TH_LOG("%s", other->why);
	/* The device's own table, for both. */
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, self->hwpt));
}

FIXTURE_TEARDOWN(group)
{
	vtd_release(&self->other);
	vtd_release(&self->v);
}

/* What both functions read with @pasid, or that they differ. */
#define DIFFERENT	0xd1ffUL

static uint64_t both_get(struct vtd *v, struct vtd *other, uint32_t how, uint32_t pasid,
			 uint64_t iova)
{
	uint64_t value = get_by(v, how, pasid, iova);

	return get_by(other, how, pasid, iova) == value ? value : DIFFERENT;
}

#define BOTH(pasid, iova)	both_get(&self->v, &self->other, self->how, pasid, iova)

/* What one attaches is the other's as well, who may attach that and nothing else. */
TEST_F(group, one_table)
{
	struct vtd *v = &self->v, *other = &self->other;

	EXPECT_EQ(TOKEN(A), BOTH(NO_PASID, IOVA));
	EXPECT_EQ(REFUSED, BOTH(1, IOVA));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
	EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
	EXPECT_EQ(-EINVAL, vtd_attach_pasid(other, 1, self->hwpt2));
	EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
	ASSERT_EQ(0, vtd_attach_pasid(other, 1, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(other, 2, self->hwpt2));
	EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
	EXPECT_EQ(TOKEN(C), BOTH(2, IOVA));
	EXPECT_EQ(TOKEN(A), BOTH(NO_PASID, IOVA));
	EXPECT_EQ(REFUSED, BOTH(3, IOVA));
	/* Each by itself: the functions' requests are not the same. */
	EXPECT_EQ(PDMA_DONE, pdma_run(v, self->how | PDMA_WRITE, 1, IOVA + 8, 0x1111));
	EXPECT_EQ(PDMA_DONE, pdma_run(other, self->how | PDMA_WRITE, 2, IOVA + 8, 0x2222));
	EXPECT_EQ(0x1111, ((uint64_t *)host_of(v, B))[1]);
	EXPECT_EQ(0x2222, ((uint64_t *)host_of(v, C))[1]);
}

/* Either replaces it for both. */
TEST_F(group, replaced)
{
	struct vtd *v = &self->v, *other = &self->other;
	int round;

	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(other, 1, self->hwpt1));
	for (round = 0; round < 4; round++) {
		struct vtd *one = round & 1 ? other : v, *two = round & 1 ? v : other;

		EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
		ASSERT_EQ(0, vtd_attach_pasid(one, 1, self->hwpt2));
		EXPECT_EQ(TOKEN(C), BOTH(1, IOVA));
		/* Nobody has it any more. */
		EXPECT_EQ(0, vtd_destroy(v, self->hwpt1));
		ASSERT_EQ(0, pdma_table(v, IOVA, B, &self->root1, 0, &self->hwpt1));
		ASSERT_EQ(0, vtd_attach_pasid(two, 1, v->parent));
		EXPECT_EQ(TOKEN(D), BOTH(1, gpa_of(D)));
		EXPECT_EQ(REFUSED, BOTH(1, IOVA));
		ASSERT_EQ(0, vtd_attach_pasid(two, 1, self->hwpt1));
		EXPECT_EQ(-EBUSY, vtd_destroy(v, self->hwpt1));
		/* The own table of both, too. */
		ASSERT_EQ(0, vtd_attach(one, self->hwpt2));
		EXPECT_EQ(TOKEN(C), BOTH(NO_PASID, IOVA));
		EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
		ASSERT_EQ(0, vtd_attach(two, self->hwpt));
		EXPECT_EQ(TOKEN(A), BOTH(NO_PASID, IOVA));
	}
}

/* It is theirs until both have detached it, whoever is the first. */
TEST_F(group, detached)
{
	struct vtd *v = &self->v, *other = &self->other;
	int round;

	for (round = 0; round < 4; round++) {
		struct vtd *one = round & 1 ? other : v, *two = round & 1 ? v : other;

		ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
		ASSERT_EQ(0, vtd_attach_pasid(other, 1, self->hwpt1));
		ASSERT_EQ(0, vtd_attach_pasid(round & 2 ? other : v, 2, self->hwpt2));
		ASSERT_EQ(TOKEN(B), BOTH(1, IOVA));
		ASSERT_EQ(0, vtd_detach_pasid(one, 1));
		EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
		/* The one has none to replace. */
		EXPECT_EQ(-EINVAL, vtd_attach_pasid(one, 1, self->hwpt2));
		EXPECT_EQ(-EBUSY, vtd_destroy(v, self->hwpt1));
		ASSERT_EQ(0, vtd_detach_pasid(two, 1));
		EXPECT_EQ(REFUSED, BOTH(1, IOVA));
		EXPECT_EQ(TOKEN(C), BOTH(2, IOVA));
		EXPECT_EQ(TOKEN(A), BOTH(NO_PASID, IOVA));
		ASSERT_EQ(0, vtd_detach_pasid(round & 2 ? other : v, 2));
		EXPECT_EQ(REFUSED, BOTH(2, IOVA));
	}
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt1));
}

/* Invalidations, and changes of the parent, reach both. */
TEST_F(group, stale_until_invalidated)
{
	struct vtd *v = &self->v, *other = &self->other;

	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(other, 1, self->hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(other, 2, self->hwpt2));
	ASSERT_EQ(TOKEN(B), BOTH(1, IOVA));
	ASSERT_EQ(TOKEN(C), BOTH(2, IOVA));
	vtd_set(v, self->root1, IOVA, gpa_of(D), FS_LEAF);
	vtd_set(v, self->root2, IOVA, gpa_of(D + 1), FS_LEAF);
	EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt1, IOVA, 1));
	EXPECT_EQ(TOKEN(D), BOTH(1, IOVA));
	EXPECT_EQ(TOKEN(C), BOTH(2, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt2, 0, UINT64_MAX));
	EXPECT_EQ(TOKEN(D + 1), BOTH(2, IOVA));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(D), PG));
	EXPECT_EQ(REFUSED, BOTH(1, IOVA));
	EXPECT_EQ(TOKEN(D + 1), BOTH(2, IOVA));
}

/* One is closed with all attached, and comes back; then the other. */
TEST_F(group, closed)
{
	struct vtd *v = &self->v, *other = &self->other;
	int round;

	for (round = 0; round < 4; round++) {
		struct vtd *one = round & 1 ? other : v, *two = round & 1 ? v : other;

		ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt1));
		ASSERT_EQ(0, vtd_attach_pasid(other, 1, self->hwpt1));
		ASSERT_EQ(0, vtd_attach_pasid(one, 2, self->hwpt2));
		ASSERT_EQ(TOKEN(B), BOTH(1, IOVA));
		ASSERT_EQ(TOKEN(C), BOTH(2, IOVA));
		vtd_close_device(one);
		/* What it alone had attached goes with it, for both. */
		EXPECT_EQ(TOKEN(B), get_by(two, self->how, 1, IOVA));
		EXPECT_EQ(REFUSED, get_by(two, self->how, 2, IOVA));
		EXPECT_EQ(TOKEN(A), get_by(two, self->how, NO_PASID, IOVA));
		ASSERT_EQ(0, vtd_bind(one));
		ASSERT_EQ(0, vtd_map_bar(one));
		EXPECT_EQ(TOKEN(B), BOTH(1, IOVA));
		EXPECT_EQ(REFUSED, BOTH(2, IOVA));
		EXPECT_EQ(-EINVAL, vtd_attach(one, self->hwpt2));
		ASSERT_EQ(0, vtd_attach(one, self->hwpt));
		EXPECT_EQ(TOKEN(A), BOTH(NO_PASID, IOVA));
		ASSERT_EQ(0, vtd_detach_pasid(two, 1));
		EXPECT_EQ(REFUSED, BOTH(1, IOVA));
	}
}

#define PCI_EXT_CAP_ID_PASID	0x1b

/* The control register of a device's PASID capability, or -1. */
static int pasid_control(const struct vtd *v)
{
	unsigned int at = 0x100, control = -1;
	char path[128];
	uint32_t head;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", v->bdf);
	fd = open(path, O_RDONLY);
	while (at && pread(fd, &head, 4, at) == 4 && (head & 0xffff) != PCI_EXT_CAP_ID_PASID)
		at = head >> 20;
	if (at && pread(fd, &head, 4, at + 4) == 4)
		control = head >> 16;
	close(fd);
	return control;
}

/* PASIDs need ACS on the way to the IOMMU. Nobody is told of those that are off. */
TEST(pasids_that_are_off)
{
	struct vtd v;
	int rc = vtd_setup_on(&v, PDMA_ID, 0), control = pasid_control(&v);

	vtd_release(&v);
	if (rc > 0)
		SKIP(return, "%s", v.why);
	ASSERT_EQ(0, rc)
		TH_LOG("%s", v.why);
	if (control < 0 || (control & 1))
		SKIP(return, "PASIDs of %s are on, or it has none", v.bdf);
	EXPECT_EQ(0, v.pasid_bits);
	EXPECT_EQ(0, v.hw_caps & (IOMMU_HW_CAP_PCI_PASID_EXEC | IOMMU_HW_CAP_PCI_PASID_PRIV));
}

/* Processes that end in the middle; no device of their own. */
FIXTURE(process)
{
};

FIXTURE_SETUP(process)
{
}

FIXTURE_TEARDOWN(process)
{
}

/* Killed with PASIDs attached: nothing stays pinned, the device is free. */
TEST_F_TIMEOUT(process, killed, SLOW)
{
	unsigned long pinned;
	unsigned int round;
	struct vtd v;
	pid_t pid;

	ASSERT_SET_UP(return, pdma_setup(&v, 0), &v);
	vtd_release(&v);
	if (!vtd_is_pdma(&v))
		SKIP(return, NO_DMA, v.bdf);
	pinned = vtd_pinned();
	for (round = 0; round < 10; round++) {
		pid = vtd_begin_user(use, round);
		ASSERT_NE(0, pid);
		usleep(round * 700);
		EXPECT_TRUE(vtd_kill_user(pid));
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
}

TEST_HARNESS_MAIN

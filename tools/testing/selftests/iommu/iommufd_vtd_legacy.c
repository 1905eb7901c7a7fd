// SPDX-License-Identifier: GPL-2.0-only
/*
 * VT-d in legacy mode (intel_iommu=on,sm_off) with real DMA: there a device is attached
 * by its context entry, and may cache translations only as long as it is. For QEMU's
 * `pasid-dma` (tools/testing/qemu), by untranslated requests and through the device's
 * translation cache.
 */
#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "vtd_sweep.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)

FIXTURE(legacy)
{
	struct vtd v;
	uint32_t how;
	uint32_t ioas_a, ioas_b;	/* where IOVA is page A, and B */
	uint32_t hwpt_a, hwpt_b;
};

FIXTURE_VARIANT(legacy)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(legacy, untranslated)
{
	.how = 0,
};

FIXTURE_VARIANT_ADD(legacy, ats)
{
	.how = PDMA_ATS,
};

static int make_hwpt(struct vtd *v, unsigned int page, uint32_t *ioas, uint32_t *hwpt)
{
	int rc = vtd_alloc_ioas(v, ioas);

	rc = rc ?: vtd_map_gpa(v, *ioas, IOVA, host_of(v, page), PG);
	return rc ?: vtd_alloc_hwpt(v, *ioas, 0, NULL, 0, hwpt);
}

FIXTURE_SETUP(legacy)
{
	struct vtd *v = &self->v;
	int rc;

	vtd_none(v);
	if (!vtd_legacy_by_request())
		SKIP(return, "not asked for legacy mode (intel_iommu=on,sm_off)");
	self->how = variant->how;
	rc = vtd_take_device(v, PDMA_ID);
	rc = rc ?: vtd_make_memory(v);
	rc = rc ?: vtd_map_bar(v);
	ASSERT_SET_UP(return, rc, v);
	if (!vtd_is_pdma(v))
		SKIP(return, "no way to make %s do DMA from here", v->bdf);
	if (variant->how && (v->hw_caps & IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED))
		SKIP(return, "%s has no ATS here", v->bdf);
	ASSERT_EQ(0, make_hwpt(v, A, &self->ioas_a, &self->hwpt_a));
	ASSERT_EQ(0, make_hwpt(v, B, &self->ioas_b, &self->hwpt_b));
}

FIXTURE_TEARDOWN(legacy)
{
	vtd_release(&self->v);
}

/* What the device reads at IOVA; if nothing, how that ended, which is no TOKEN(). */
static uint64_t get(struct vtd *v, uint32_t how)
{
	unsigned int status = pdma_run(v, how | PDMA_READ, NO_PASID, IOVA, SENTINEL);

	return status == PDMA_DONE ? pdma_buffer(v) : status;
}

/* How it ends where nothing is attached: there is no ATS either. */
#define NOT_ATTACHED	(self->how ? PDMA_DISABLED : PDMA_FAULT)

TEST_F(legacy, attached)
{
	struct vtd *v = &self->v;
	int round;

	EXPECT_EQ(NOT_ATTACHED, get(v, self->how));
	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, vtd_attach(v, self->hwpt_a));
		EXPECT_EQ(TOKEN(A), get(v, self->how));
		EXPECT_EQ(PDMA_DONE, pdma_run(v, self->how | PDMA_WRITE, NO_PASID, IOVA + 8,
					      round + 1));
		EXPECT_EQ(round + 1, ((uint64_t *)host_of(v, A))[1]);
		EXPECT_EQ(PDMA_FAULT, pdma_run(v, self->how | PDMA_READ, NO_PASID, IOVA + PG,
					       SENTINEL));
		ASSERT_EQ(0, vtd_detach(v));
		EXPECT_EQ(NOT_ATTACHED, get(v, self->how));
	}
}

/* Nothing of the one is left with the other. */
TEST_F(legacy, replaced)
{
	struct vtd *v = &self->v;
	int round;

	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, vtd_attach(v, self->hwpt_a));
		EXPECT_EQ(TOKEN(A), get(v, self->how));
		ASSERT_EQ(0, vtd_attach(v, self->hwpt_b));
		EXPECT_EQ(TOKEN(B), get(v, self->how));
	}
	ASSERT_EQ(0, vtd_detach(v));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt_a));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt_b));
	EXPECT_EQ(NOT_ATTACHED, get(v, self->how));
}

TEST_F(legacy, unmapped)
{
	struct vtd *v = &self->v;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt_a));
	EXPECT_EQ(TOKEN(A), get(v, self->how));
	ASSERT_EQ(0, vtd_unmap_gpa(v, self->ioas_a, IOVA, PG));
	EXPECT_EQ(PDMA_FAULT, get(v, self->how));
	ASSERT_EQ(0, vtd_map_gpa(v, self->ioas_a, IOVA, host_of(v, B), PG));
	EXPECT_EQ(TOKEN(B), get(v, self->how));
}

/* Legacy mode has no PASIDs, no first stage and no dirty tracking. */
TEST_F(legacy, what_there_is_not)
{
	struct iommu_hwpt_vtd_s1 s1 = { .addr_width = 48 };
	static const uint32_t flags[] = {
		IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
		IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
	};
	struct vtd *v = &self->v;
	unsigned int i;
	uint32_t id;

	for (i = 0; i < ARRAY_SIZE(flags); i++)
		EXPECT_EQ(-EOPNOTSUPP, vtd_alloc_hwpt(v, self->ioas_a, flags[i], NULL, 0, &id));
	EXPECT_NE(0, vtd_alloc_hwpt(v, self->hwpt_a, 0, &s1, 0, &id));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt_a));
	EXPECT_NE(0, vtd_attach_pasid(v, 1, self->hwpt_b));
	EXPECT_EQ(TOKEN(A), get(v, self->how));
}

/*
 * With each step failing once that can: the device does what it did before, or nothing
 * where VFIO could not say that it was attached and has detached it.
 */
TEST_F(legacy, fails)
{
	struct vtd *v = &self->v;
	int attached, rc;
	struct sweep s;
	uint64_t now, want;

	if (access("/proc/self/fail-nth", F_OK))
		SKIP(return, "fault injection is not enabled in the kernel");
	for (attached = 0; attached < 2; attached++) {
		if (attached)
			ASSERT_EQ(0, vtd_attach(v, self->hwpt_b));
		FAIL_EACH(&s, rc, vtd_attach(v, self->hwpt_a)) {
			now = get(v, self->how);
			if (WORKED(&s, rc))
				want = TOKEN(A);
			else if (attached && !(rc == -EFAULT && now == NOT_ATTACHED))
				want = TOKEN(B);
			else
				want = NOT_ATTACHED;
			EXPECT_EQ(want, now)
				TH_LOG("%d in run %u", rc, s.n);
			EXPECT_EQ(0, vtd_attach(v, self->hwpt_a));
			EXPECT_EQ(TOKEN(A), get(v, self->how));
			EXPECT_EQ(0, attached ? vtd_attach(v, self->hwpt_b) : vtd_detach(v));
		}
		SWEPT(&s, rc);
	}
	ASSERT_EQ(0, vtd_detach(v));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt_a));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt_b));
}

TEST_HARNESS_MAIN

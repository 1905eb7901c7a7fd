// SPDX-License-Identifier: GPL-2.0-only
/*
 * vIOMMUs on VT-d, with real DMA: a guest's names for its devices and domains,
 * and nested hwpts made of entries of its PASID tables. The devices are two of
 * QEMU's `pasid-dma`; without a second one the tests of two are skipped.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "vtd_viommu.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)
#define C	(DATA_PAGE + 30)

/* The guest's names of the two devices, and of its domains. */
#define SID	0x0010U
#define SID2	0x0118U
#define DID	5U
#define DID2	6U

/* What comes back for a transfer that was not done. */
#define REFUSED	0xdeadULL

FIXTURE(viommu)
{
	struct vtd v, other;
	bool two;
	uint32_t how;
	uint64_t root;
	uint32_t viommu, vdev, hwpt;
};

FIXTURE_VARIANT(viommu)
{
	uint32_t how;
};

FIXTURE_VARIANT_ADD(viommu, untranslated)
{
	.how = 0,
};

FIXTURE_VARIANT_ADD(viommu, ats)
{
	.how = PDMA_ATS,
};

/* The first device has a name, and a table of domain DID that maps IOVA to A. */
FIXTURE_SETUP(viommu)
{
	struct vtd *v = &self->v, *other = &self->other;
	int rc;

	vtd_none(other);
	ASSERT_SET_UP(return, pdma_setup(v, 0), v);
	if (!vtd_is_pdma(v))
		SKIP(return, "no way to make %s do DMA from here", v->bdf);
	if (variant->how && (v->hw_caps & IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED))
		SKIP(return, "%s has no ATS here", v->bdf);
	self->how = variant->how;
	rc = vtd_alloc_viommu(v, v->dev_id, v->parent, &self->viommu);
	if (rc == -EOPNOTSUPP)
		SKIP(return, "this kernel has no vIOMMU for VT-d");
	ASSERT_EQ(0, rc);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
	self->root = vtd_new_table(v);
	vtd_set(v, self->root, IOVA, gpa_of(A), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID, &self->hwpt));

	if (!pdma_find_another(v, other))
		return;
	ASSERT_EQ(0, pdma_take_another(v, other))
		TH_LOG("%s", other->why);
	self->two = true;
}

FIXTURE_TEARDOWN(viommu)
{
	if (self->v.bar)
		pdma_keep_silent(&self->v, 0);
	vtd_release(&self->other);
	vtd_release(&self->v);
}

#define ONE_ONLY	"there is one device of this kind only"

static uint64_t get_by(struct vtd *v, uint32_t how, uint32_t pasid, uint64_t iova)
{
	if (pdma_run(v, how | PDMA_READ, pasid, iova, SENTINEL) != PDMA_DONE)
		return REFUSED;
	return pdma_buffer(v);
}

/* In the tests: what a device reads with @pasid. */
#define GET(pasid, iova)	get_by(&self->v, self->how, pasid, iova)
#define GET2(pasid, iova)	get_by(&self->other, self->how, pasid, iova)

TEST_F(viommu, what_is_none)
{
	struct vtd *v = &self->v;
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VTD_VIOMMU_TYPE,
		.dev_id = v->dev_id,
		.hwpt_id = v->parent,
	};
	static const uint32_t types[] = {
		IOMMU_VIOMMU_TYPE_DEFAULT, IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
		IOMMU_VTD_VIOMMU_TYPE - 1, IOMMU_VTD_VIOMMU_TYPE + 1, UINT32_MAX,
	};
	unsigned int i;
	uint32_t id;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		cmd.type = types[i];
		EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_VIOMMU_ALLOC, &cmd));
		EXPECT_EQ(EOPNOTSUPP, errno);
	}
	cmd.type = IOMMU_VTD_VIOMMU_TYPE;
	cmd.data_len = 8;
	cmd.data_uptr = (uintptr_t)&id;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_VIOMMU_ALLOC, &cmd));
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* Only a nest parent can be below. */
	ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, 0, NULL, 0, &id));
	EXPECT_EQ(-EINVAL, vtd_alloc_viommu(v, v->dev_id, id, &id));
	EXPECT_NE(0, vtd_alloc_viommu(v, v->dev_id, v->ioas, &id));
	EXPECT_NE(0, vtd_alloc_viommu(v, v->dev_id, self->hwpt, &id));
	EXPECT_EQ(-ENOENT, vtd_alloc_viommu(v, v->dev_id, 0x7fffffff, &id));
	EXPECT_EQ(-ENOENT, vtd_alloc_viommu(v, 0x7fffffff, v->parent, &id));
}

TEST_F(viommu, names_of_devices)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint32_t id, id2;

	/* It has one, and needs no other. */
	EXPECT_EQ(-EEXIST, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID2, &id));
	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	EXPECT_EQ(-EINVAL, vtd_alloc_vdev(v, self->viommu, v->dev_id, 0x10000, &id));
	EXPECT_EQ(-EINVAL, vtd_alloc_vdev(v, self->viommu, v->dev_id, 1ULL << 32, &id));
	EXPECT_EQ(-EINVAL, vtd_alloc_vdev(v, self->viommu, v->dev_id, UINT64_MAX, &id));
	/* What was refused has left nothing behind. */
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, 0xffff, &id));
	ASSERT_EQ(0, vtd_destroy(v, id));
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, 0, &id));
	if (!self->two)
		SKIP(return, ONE_ONLY);
	EXPECT_EQ(-EEXIST, vtd_alloc_vdev(v, self->viommu, other->dev_id, 0, &id2));
	EXPECT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID2, &id2));
	ASSERT_EQ(0, vtd_destroy(v, id2));
	/* A name goes with its device. */
	ASSERT_EQ(0, vtd_destroy(v, id));
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID2, &id2));
	vtd_close_device(other);
	EXPECT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID2, &id));
}

/* Each bit of an entry by itself, on top of what makes it a first stage. */
TEST_F(viommu, bits_of_an_entry)
{
	struct vtd *v = &self->v;
	uint64_t root = vtd_new_table(v);
	unsigned int bit;
	uint32_t id;

	for (bit = 0; bit < 512; bit++) {
		struct iommu_vtd_pasid_entry pe = vtd_pe(root, DID);
		int want = -EINVAL, rc;

		pe.pe[bit / 64] ^= 1ULL << (bit % 64);
		switch (bit) {
		case 1 ... 4:			/* FPD, AW */
		case 64 ... 79:			/* DID */
		case 87:			/* PWSNP */
		case 132:			/* WPE */
			want = 0;
			break;
		case 0:				/* P */
		case 6 ... 8:			/* PGTT */
			want = -EOPNOTSUPP;
			break;
		case 88:			/* PGSNP */
			want = v->hw.ecap_reg & 1 << 7 ? 0 : -EOPNOTSUPP;
			break;
		case 128:			/* SRE */
			want = v->hw.ecap_reg & ECAP_SRS ? 0 : -EOPNOTSUPP;
			break;
		case 130:			/* FSPM: five levels */
			want = v->hw.cap_reg & CAP_FL5LP ? 0 : -EOPNOTSUPP;
			break;
		case 135:			/* EAFE */
			want = v->hw.ecap_reg & ECAP_EAFS ? 0 : -EOPNOTSUPP;
			break;
		case 140 ... 166:		/* FSPTPTR, less than 39 bits */
			want = 0;
			break;
		case 167 ... 184:		/* may be beyond stage 2 */
			continue;
		}
		rc = vtd_alloc_nested_pe(v, self->viommu, &pe, &id);
		EXPECT_EQ(want, rc)
			TH_LOG("bit %u", bit);
		if (!rc)
			EXPECT_EQ(0, vtd_destroy(v, id));
	}
}

/* What one guest's entry says of a table no other one on the parent may contradict. */
TEST_F(viommu, one_mode_of_a_table)
{
	struct iommu_vtd_pasid_entry pe = vtd_pe(self->root, DID2);
	struct vtd *v = &self->v;
	uint32_t id, viommu;

	if (!(v->hw.cap_reg & CAP_FL5LP))
		SKIP(return, "no five levels here");
	pe.pe[2] |= 1 << 2;
	EXPECT_EQ(-EINVAL, vtd_alloc_nested_pe(v, self->viommu, &pe, &id));
	EXPECT_EQ(-EINVAL, vtd_alloc_nested(v, v->parent, self->root, 57, &id));
	ASSERT_EQ(0, vtd_alloc_viommu(v, v->dev_id, v->parent, &viommu));
	EXPECT_EQ(-EINVAL, vtd_alloc_nested_pe(v, viommu, &pe, &id));
	ASSERT_EQ(0, vtd_destroy(v, self->hwpt));
	ASSERT_EQ(0, vtd_alloc_nested_pe(v, viommu, &pe, &id));
	EXPECT_EQ(-EINVAL, vtd_alloc_pe(v, self->viommu, self->root, DID, &id));
}

TEST_F(viommu, structures)
{
	struct vtd *v = &self->v;
	struct iommu_vtd_pasid_entry pe = vtd_pe(self->root, DID);
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = self->root, .addr_width = 48 };
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.dev_id = v->dev_id,
		.pt_id = self->viommu,
		.data_type = IOMMU_VTD_HWPT_DATA_PE,
		.data_uptr = (uintptr_t)&pe,
	};
	uint32_t id;

	pe.flags = 2;
	EXPECT_EQ(-EOPNOTSUPP, vtd_alloc_nested_pe(v, self->viommu, &pe, &id));
	pe.flags = 0;
	pe.__reserved = 1;
	EXPECT_EQ(-EOPNOTSUPP, vtd_alloc_nested_pe(v, self->viommu, &pe, &id));
	pe.__reserved = 0;
	cmd.data_len = sizeof(pe) - 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EINVAL, errno);
	cmd.data_len = sizeof(pe) + 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EINVAL, errno);
	cmd.data_len = sizeof(pe);
	cmd.data_uptr = 8;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EFAULT, errno);
	cmd.data_uptr = (uintptr_t)&pe;
	cmd.flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd));
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* Each of the two kinds of data is for one kind of parent. */
	EXPECT_EQ(-EOPNOTSUPP, vtd_alloc_nested_pe(v, v->parent, &pe, &id));
	EXPECT_EQ(-EOPNOTSUPP, vtd_alloc_hwpt(v, self->viommu, 0, &s1, 0, &id));
}

TEST_F(viommu, dma)
{
	struct vtd *v = &self->v;
	uint64_t root1 = vtd_new_table(v);
	uint32_t hwpt1;

	vtd_set(v, root1, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, root1, DID2, &hwpt1));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, hwpt1));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	/* Replaced, and the way that there was before. */
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
	ASSERT_EQ(0, vtd_detach_pasid(v, 1));
	EXPECT_EQ(REFUSED, GET(1, IOVA));
	/* That was of the same domain, all of which may be forgotten. */
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	vtd_set(v, self->root, IOVA, gpa_of(C), FS_LEAF);
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, vtd_invalidate(v, self->hwpt, IOVA, 1));
	EXPECT_EQ(TOKEN(C), GET(NO_PASID, IOVA));
	/* To one on the parent and back. */
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, gpa_of(A)));
	ASSERT_EQ(0, vtd_attach(v, hwpt1));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
}

TEST_F(viommu, attach_without_a_name)
{
	struct vtd *v = &self->v;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	/* It stays attached when its name goes. */
	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	/* It needs none to be attached: a reset of the device does that again. */
	EXPECT_EQ(0, vtd_attach(v, self->hwpt));
	EXPECT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
}

/* One of the unit's for each of the guest's, and the same number of another guest is another. */
TEST_F(viommu, domain_ids)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint32_t same, differs, viommu, vdev, foreign, on_parent;
	int did, did2;

	if (!self->two)
		SKIP(return, ONE_ONLY);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID, &same));
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID2, &differs));
	ASSERT_EQ(0, vtd_alloc_viommu(v, other->dev_id, v->parent, &viommu));
	ASSERT_EQ(0, vtd_alloc_vdev(v, viommu, other->dev_id, SID, &vdev));
	ASSERT_EQ(0, vtd_alloc_pe(v, viommu, self->root, DID, &foreign));
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, self->root, 48, &on_parent));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	did = vtd_did_of(v, self->hwpt);
	if (did < 0)
		SKIP(return, "descriptors are not traced");
	ASSERT_EQ(0, vtd_attach(v, same));
	EXPECT_EQ(did, vtd_did_of(v, same));
	ASSERT_EQ(0, vtd_attach(v, differs));
	did2 = vtd_did_of(v, differs);
	EXPECT_LT(1, did2);
	EXPECT_NE(did, did2);
	ASSERT_EQ(0, vtd_attach(other, foreign));
	EXPECT_LT(1, vtd_did_of(v, foreign));
	EXPECT_NE(did, vtd_did_of(v, foreign));
	EXPECT_NE(did2, vtd_did_of(v, foreign));
	/* It keeps its meaning while somebody uses it, and is free afterwards. */
	ASSERT_EQ(0, vtd_destroy(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(v, on_parent));
	EXPECT_NE(did, vtd_did_of(v, on_parent));
	ASSERT_EQ(0, vtd_attach(v, same));
	EXPECT_EQ(did, vtd_did_of(v, same));
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	ASSERT_EQ(0, vtd_destroy(v, same));
	ASSERT_EQ(0, vtd_attach(v, on_parent));
	EXPECT_EQ(did, vtd_did_of(v, on_parent));
}

/* Two devices under one domain-id, with one table or two. */
TEST_F(viommu, two_devices_of_a_domain)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint64_t root2 = vtd_new_table(v);
	uint32_t vdev2, hwpt2;

	if (!self->two)
		SKIP(return, ONE_ONLY);
	vtd_set(v, root2, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID2, &vdev2));
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, root2, DID, &hwpt2));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, self->hwpt));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	/* With one table for a PASID of each, so that no cache is in doubt. */
	ASSERT_EQ(0, vtd_attach(other, v->parent));
	ASSERT_EQ(0, vtd_attach_pasid(other, 3, hwpt2));
	EXPECT_EQ(TOKEN(B), GET2(3, IOVA));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	/* One leaves, the other stays. */
	ASSERT_EQ(0, vtd_attach(v, v->parent));
	ASSERT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(TOKEN(B), GET2(3, IOVA));
	vtd_set(v, root2, IOVA, gpa_of(C), FS_LEAF);
	ASSERT_EQ(0, vtd_invalidate(v, hwpt2, IOVA, 1));
	EXPECT_EQ(TOKEN(C), GET2(3, IOVA));
}

/* A page that leaves the parent is gone for all, whatever domain-ids they have. */
TEST_F(viommu, parent_unmapped)
{
	struct vtd *v = &self->v;
	uint32_t hwpt1;

	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID2, &hwpt1));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, hwpt1));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(A), GET(1, IOVA));
	ASSERT_EQ(0, vtd_unmap_gpa(v, v->ioas, gpa_of(A), PG));
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_EQ(REFUSED, GET(1, IOVA));
	ASSERT_EQ(0, vtd_map_gpa(v, v->ioas, gpa_of(A), host_of(v, A), PG));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
}

/* A guest cannot have all domain-ids of the unit. */
TEST_F_TIMEOUT(viommu, too_many_domain_ids, SLOW)
{
	struct vtd *v = &self->v;
	unsigned int did;
	uint32_t id, last = 0;
	int rc;

	/* One is in use. */
	for (did = DID + 1; ; did++) {
		rc = vtd_alloc_pe(v, self->viommu, self->root, did, &id);
		if (rc)
			break;
		last = id;
		ASSERT_GT(2048, did);
	}
	EXPECT_EQ(-ENOSPC, rc);
	EXPECT_EQ(DID + 1024, did);
	/* Those that are there can be used again, and one that is free makes room. */
	EXPECT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID, &id));
	ASSERT_EQ(0, vtd_destroy(v, last));
	EXPECT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, did, &id));
	EXPECT_EQ(-ENOSPC, vtd_alloc_pe(v, self->viommu, self->root, did + 1, &id));
}

/* Nor can many guests: there are some for whoever attaches anything else. */
TEST_F_TIMEOUT(viommu, domain_ids_of_many_guests, SLOW)
{
	unsigned int guests, did, most = 0;
	struct vtd *v = &self->v;
	uint32_t parent, viommu, id;
	int rc = 0;

	if (variant->how)
		SKIP(return, "the same with ATS");
	for (guests = 0; !rc; guests++) {
		ASSERT_GT(128, guests);
		ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT |
					    IOMMU_HWPT_ALLOC_PASID, NULL, 0, &parent));
		ASSERT_EQ(0, vtd_alloc_viommu(v, v->dev_id, parent, &viommu));
		for (did = 0; did < 1024; did++) {
			rc = vtd_alloc_pe(v, viommu, self->root, did, &id);
			if (rc)
				break;
		}
		/* So many may be what one guest can have. */
		if (did && (!most || did == most))
			rc = 0;
		if (!most)
			most = did;
	}
	EXPECT_EQ(-ENOSPC, rc)
		TH_LOG("guest %u, domain-id %u", guests, did);
	EXPECT_EQ(0, vtd_attach(v, v->ioas));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, gpa_of(A)));
}

/* What is on something keeps it. */
TEST_F(viommu, what_is_in_use)
{
	struct vtd *v = &self->v;

	EXPECT_EQ(-EBUSY, vtd_destroy(v, v->parent));
	EXPECT_EQ(-EBUSY, vtd_destroy(v, self->viommu));
	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	EXPECT_EQ(-EBUSY, vtd_destroy(v, self->viommu));
	ASSERT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(-EBUSY, vtd_destroy(v, v->parent));
	EXPECT_EQ(0, vtd_destroy(v, self->viommu));
	EXPECT_EQ(0, vtd_destroy(v, v->parent));
}

/* The device goes first: its name with it, the rest stays until it is destroyed. */
TEST_F(viommu, without_its_device)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint32_t vdev2, id;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	vtd_close_device(v);
	EXPECT_EQ(-ENOENT, vtd_destroy(v, self->vdev));
	/* The vIOMMU is as good for another device. */
	if (self->two) {
		ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID, &vdev2));
		ASSERT_EQ(0, vtd_attach(other, self->hwpt));
		EXPECT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
		EXPECT_EQ(-ENOENT, vtd_alloc_pe(v, self->viommu, self->root, DID, &id));
		ASSERT_EQ(0, vtd_attach(other, v->ioas));
		ASSERT_EQ(0, vtd_destroy(v, vdev2));
	}
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(0, vtd_destroy(v, self->viommu));
	EXPECT_EQ(0, vtd_destroy(v, v->parent));
}

#define QUEUE_ONE(desc)	vtd_queue_one(&self->v, self->viommu, desc)

/* The table's entry for @iova becomes @page, of which no cache is told. */
#define MOVE(root, iova, page)	vtd_set(&self->v, root, iova, gpa_of(page), FS_LEAF)

TEST_F(viommu, queue_page)
{
	struct vtd *v = &self->v;

	MOVE(self->root, IOVA + PG, A + 1);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(A + 1), GET(NO_PASID, IOVA + PG));
	MOVE(self->root, IOVA, B);
	MOVE(self->root, IOVA + PG, B + 1);
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, QUEUE_ONE(vtd_page(DID, 0, IOVA)));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A + 1), GET(NO_PASID, IOVA + PG));
	/* Domains that are not there have nothing cached, and are no mistake. */
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID2, 0)));
	ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(DID2, 2)));
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 1)));
	EXPECT_EQ(TOKEN(A + 1), GET(NO_PASID, IOVA + PG));
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 0)));
	EXPECT_EQ(TOKEN(B + 1), GET(NO_PASID, IOVA + PG));
}

/* Two PASIDs of one domain, one of another, and a guest that has the same numbers. */
TEST_F(viommu, queue_domains)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint64_t root1 = vtd_new_table(v), root2 = vtd_new_table(v), root3 = vtd_new_table(v);
	uint32_t hwpt1, hwpt2, viommu, vdev, hwpt3;

	if (!self->two)
		SKIP(return, ONE_ONLY);
	MOVE(root1, IOVA, A);
	MOVE(root2, IOVA, A);
	MOVE(root3, IOVA, A);
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, root1, DID, &hwpt1));
	ASSERT_EQ(0, vtd_alloc_pe(v, self->viommu, root2, DID2, &hwpt2));
	ASSERT_EQ(0, vtd_alloc_viommu(v, other->dev_id, v->parent, &viommu));
	ASSERT_EQ(0, vtd_alloc_vdev(v, viommu, other->dev_id, SID, &vdev));
	ASSERT_EQ(0, vtd_alloc_pe(v, viommu, root3, DID, &hwpt3));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, hwpt1));
	ASSERT_EQ(0, vtd_attach_pasid(v, 2, hwpt2));
	ASSERT_EQ(0, vtd_attach(other, hwpt3));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(A), GET(1, IOVA));
	ASSERT_EQ(TOKEN(A), GET(2, IOVA));
	ASSERT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	MOVE(self->root, IOVA, B);
	MOVE(root1, IOVA, B);
	MOVE(root2, IOVA, B);
	MOVE(root3, IOVA, B);
	/* A PASID. */
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 1)));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	EXPECT_EQ(TOKEN(A), GET(2, IOVA));
	/* A domain: page-selective is no less, as there is no second stage. */
	MOVE(root1, IOVA, C);
	ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(DID, 3)));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(C), GET(1, IOVA));
	EXPECT_EQ(TOKEN(A), GET(2, IOVA));
	MOVE(root1, IOVA, A);
	ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(DID, 2)));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
	EXPECT_EQ(TOKEN(A), GET(2, IOVA));
	/* All domains of this guest. */
	MOVE(self->root, IOVA, C);
	ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(0, 1)));
	EXPECT_EQ(TOKEN(C), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET(2, IOVA));
	EXPECT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	ASSERT_EQ(0, vtd_queue_one(v, viommu, vtd_page(DID, 0, IOVA)));
	EXPECT_EQ(TOKEN(B), GET2(NO_PASID, IOVA));
}

/* One descriptor for all devices of a domain. */
TEST_F(viommu, queue_for_two_devices)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint32_t vdev2;

	if (!self->two)
		SKIP(return, ONE_ONLY);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID2, &vdev2));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	MOVE(self->root, IOVA, B);
	ASSERT_EQ(0, QUEUE_ONE(vtd_page(DID, 0, IOVA)));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(B), GET2(NO_PASID, IOVA));
}

/* A guest that uses ATS says itself what devices are to forget, and nobody else does. */
TEST_F(viommu, queue_device_tlb)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint64_t root1 = vtd_new_table(v);
	struct iommu_vtd_inv_desc desc, both[] = {
		vtd_page(DID, 1, IOVA), vtd_pasid_dev_tlb(SID, 1, IOVA),
		vtd_page(DID, 0, IOVA), vtd_dev_tlb(SID, IOVA),
	};
	uint32_t hwpt, hwpt1, vdev2, num = ARRAY_SIZE(both);

	if (!variant->how)
		SKIP(return, "the device's cache is not used");
	if (!self->two)
		SKIP(return, ONE_ONLY);
	MOVE(root1, IOVA, A);
	ASSERT_EQ(0, vtd_alloc_vdev(v, self->viommu, other->dev_id, SID2, &vdev2));
	ASSERT_EQ(0, vtd_alloc_pe_ats(v, self->viommu, self->root, DID, &hwpt));
	ASSERT_EQ(0, vtd_alloc_pe_ats(v, self->viommu, root1, DID, &hwpt1));
	ASSERT_EQ(0, vtd_attach(v, hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, hwpt1));
	ASSERT_EQ(0, vtd_attach(other, hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(TOKEN(A), GET(1, IOVA));
	ASSERT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	MOVE(self->root, IOVA, B);
	MOVE(root1, IOVA, B);
	ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(DID, 2)));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
	/* The IOTLB has forgotten. */
	EXPECT_EQ(TOKEN(B), get_by(v, 0, NO_PASID, IOVA));
	ASSERT_EQ(0, QUEUE_ONE(vtd_dev_tlb(SID, IOVA + PG)));
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid_dev_tlb(SID, 2, IOVA)));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, QUEUE_ONE(vtd_dev_tlb(SID, IOVA)));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
	EXPECT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid_dev_tlb(SID, 1, IOVA)));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	/* A block of two pages (S): bit 12 is clear. */
	ASSERT_EQ(0, QUEUE_ONE(vtd_dev_tlb(SID2, IOVA | 1)));
	EXPECT_EQ(TOKEN(B), GET2(NO_PASID, IOVA));
	/* All PASIDs (GI), all of it. */
	MOVE(root1, IOVA, C);
	ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 1)));
	EXPECT_EQ(TOKEN(B), GET(1, IOVA));
	desc = vtd_pasid_dev_tlb(SID, 0, 0x7ffffffffffff000ULL | 1 << 11 | 1);
	ASSERT_EQ(0, QUEUE_ONE(desc));
	EXPECT_EQ(TOKEN(C), GET(1, IOVA));
	/* In the guest's order in one call. */
	MOVE(self->root, IOVA, A);
	MOVE(root1, IOVA, A);
	ASSERT_EQ(0, vtd_queue(v, self->viommu, both, &num));
	EXPECT_EQ(ARRAY_SIZE(both), num);
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET(1, IOVA));
	/* Devices of others, and names that are none. */
	EXPECT_EQ(-ENODEV, QUEUE_ONE(vtd_dev_tlb(SID + 1, IOVA)));
	ASSERT_EQ(0, vtd_destroy(v, vdev2));
	EXPECT_EQ(-ENODEV, QUEUE_ONE(vtd_dev_tlb(SID2, IOVA)));
}

/* What is refused, and that what is before it is done and what is behind it is not. */
TEST_F(viommu, queue_refuses)
{
	static const struct {
		uint64_t low, high;
		int want;
	} cases[] = {
		{ 0, 0, -EINVAL },			/* no type */
		{ 1 | 1 << 4, 0, -EOPNOTSUPP },		/* context-cache */
		{ 2, 0, -EINVAL },			/* IOTLB without granularity */
		{ 2 | 2 << 4 | 1 << 8, 0, -EINVAL },	/* a reserved bit */
		{ 2 | 2 << 4 | 1 << 9, 0, -EINVAL },	/* type 12h */
		{ 4, 0, -EOPNOTSUPP },			/* interrupt entry cache */
		{ 5 | 1 << 5, 0, -EOPNOTSUPP },		/* wait */
		{ 6 | 1 << 4, 0, -EINVAL },		/* no such granularity */
		{ 6 | 3 << 4, 1 << 7, -EINVAL },	/* a reserved bit */
		{ 7 | 3 << 4, 0, -EOPNOTSUPP },		/* PASID-cache */
		{ 8 | (uint64_t)SID << 16, 2, -EINVAL },	/* a reserved bit */
		{ 8 | (uint64_t)(SID + 1) << 16, 0, -ENODEV },	/* no such device */
		{ 9, 0, -EOPNOTSUPP },			/* page group response */
		{ 10, 0, -EINVAL },			/* HPT cache */
		{ 15, 0, -EINVAL },
	};
	static const uint32_t places[] = { 0, 1, 31, 32, 33, 69 };
	struct iommu_vtd_inv_desc descs[70];
	struct vtd *v = &self->v;
	unsigned int i, n;
	uint32_t num;

	MOVE(self->root, IOVA + PG, A + 1);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct iommu_vtd_inv_desc bad = { .qw = { cases[i].low, cases[i].high } };

		EXPECT_EQ(cases[i].want, QUEUE_ONE(bad))
			TH_LOG("type %u", (unsigned int)(cases[i].low & 15));
	}
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		uint32_t bad = places[i];

		MOVE(self->root, IOVA, A);
		MOVE(self->root, IOVA + PG, A + 1);
		ASSERT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 0)));
		ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		ASSERT_EQ(TOKEN(A + 1), GET(NO_PASID, IOVA + PG));
		MOVE(self->root, IOVA, B);
		MOVE(self->root, IOVA + PG, B + 1);
		for (n = 0; n < ARRAY_SIZE(descs); n++)
			descs[n] = n + 1 == bad ? vtd_page(DID, 0, IOVA) :
				   n > bad ? vtd_page(DID, 0, IOVA + PG) :
				   vtd_page(DID, 0, 0x10000000 + n * PG);
		descs[bad].qw[0] = 7;
		num = ARRAY_SIZE(descs);
		EXPECT_EQ(-EOPNOTSUPP, vtd_queue(v, self->viommu, descs, &num));
		EXPECT_EQ(bad, num);
		EXPECT_EQ(bad ? TOKEN(B) : TOKEN(A), GET(NO_PASID, IOVA));
		EXPECT_EQ(TOKEN(A + 1), GET(NO_PASID, IOVA + PG));
	}
}

/* The hardware refuses one that nobody else would. */
TEST_F(viommu, queue_refused_by_hardware)
{
	const char *refuses = getenv("VTD_REFUSES");
	struct iommu_vtd_inv_desc descs[40];
	struct vtd *v = &self->v;
	unsigned int n;
	uint32_t num, bad;

	if (!refuses)
		SKIP(return, "VTD_REFUSES does not say which address the hardware refuses");
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	for (bad = 0; bad < ARRAY_SIZE(descs); bad += 13) {
		for (n = 0; n < ARRAY_SIZE(descs); n++)
			descs[n] = vtd_page(DID, 0, IOVA + n * PG);
		descs[bad].qw[1] = strtoull(refuses, NULL, 0);
		num = ARRAY_SIZE(descs);
		EXPECT_EQ(-EINVAL, vtd_queue(v, self->viommu, descs, &num));
		EXPECT_EQ(bad, num);
	}
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
}

/* A device that does not answer: the array ends at the descriptor for it. */
TEST_F(viommu, queue_for_a_silent_device)
{
	static const uint32_t places[] = { 0, 1, 31, 32, 39 };
	struct iommu_vtd_inv_desc descs[40];
	struct vtd *v = &self->v;
	unsigned int i, n;
	uint32_t num;

	if (!variant->how)
		SKIP(return, "the device's cache is not used");
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		for (n = 0; n < ARRAY_SIZE(descs); n++)
			descs[n] = vtd_page(DID2, 0, IOVA + n * PG);
		descs[places[i]] = vtd_dev_tlb(SID, IOVA);
		MOVE(self->root, IOVA, A);
		ASSERT_EQ(0, QUEUE_ONE(vtd_page(DID, 0, IOVA)));
		ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		MOVE(self->root, IOVA, B);
		pdma_keep_silent(v, PDMA_SILENT);
		num = ARRAY_SIZE(descs);
		EXPECT_EQ(-ETIMEDOUT, vtd_queue(v, self->viommu, descs, &num));
		EXPECT_EQ(places[i], num);
		/* Where the guest knows of no such cache it is asked, too. */
		EXPECT_EQ(-ETIMEDOUT, QUEUE_ONE(vtd_page(DID, 0, IOVA)));
		pdma_keep_silent(v, 0);
		num = ARRAY_SIZE(descs);
		EXPECT_EQ(0, vtd_queue(v, self->viommu, descs, &num));
		ASSERT_EQ(0, QUEUE_ONE(vtd_page(DID, 0, IOVA)));
		EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	}
}

static uint64_t noise(void)
{
	return (uint64_t)random() << 42 ^ (uint64_t)random() << 21 ^ random();
}

/* Whatever a guest writes there: the hardware takes it, and it is the guest's own. */
TEST_F_TIMEOUT(viommu, queue_of_noise, SLOW)
{
	/* Types, where the guest's names lie in them, and the bits that are not reserved. */
	static const struct {
		unsigned int type, name, at;
		uint64_t low, high;
	} kinds[] = {
		{ 2, DID, 16, 0x00000000ffff00f0, ~0xf80ULL },
		{ 3, SID, 32, 0xfff0ffff001ff000, ~0xffeULL },
		{ 6, DID, 16, 0x000fffffffff0030, ~0xf80ULL },
		{ 8, SID, 16, 0xfffffffffffff1f0, ~0x7feULL },
	};
	struct vtd *v = &self->v, *other = &self->other;
	uint64_t root2 = vtd_new_table(v);
	struct iommu_vtd_inv_desc descs[256];
	unsigned int round, n, done = 0;
	uint32_t viommu, vdev, hwpt2, num;
	char line[1024];
	ssize_t len;
	int rc, log;

	if (!self->two)
		SKIP(return, ONE_ONLY);
	log = log_open();
	ASSERT_LE(0, log);
	ASSERT_EQ(0, vtd_alloc_viommu(v, other->dev_id, v->parent, &viommu));
	ASSERT_EQ(0, vtd_alloc_vdev(v, viommu, other->dev_id, SID2, &vdev));
	MOVE(root2, IOVA, A);
	ASSERT_EQ(0, vtd_alloc_pe(v, viommu, root2, DID, &hwpt2));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, hwpt2));
	ASSERT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	MOVE(root2, IOVA, B);
	srandom(1);
	for (round = 0; round < 100; round++) {
		for (n = 0; n < ARRAY_SIZE(descs); n++) {
			unsigned int kind = random() % ARRAY_SIZE(kinds);
			uint64_t low = noise(), high = noise();

			memset(&descs[n], 0, sizeof(descs[n]));
			if (random() % 200) {
				low &= kinds[kind].low;
				high &= kinds[kind].high;
				low &= ~(0xffffULL << kinds[kind].at);
				low |= (uint64_t)kinds[kind].name << kinds[kind].at;
				low |= kinds[kind].type;
				if (!(kind & 1))
					low |= 2 << 4;
			}
			descs[n].qw[0] = low;
			descs[n].qw[1] = high;
		}
		num = ARRAY_SIZE(descs);
		rc = vtd_queue(v, self->viommu, descs, &num);
		EXPECT_TRUE(!rc || rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ENODEV)
			TH_LOG("errno %d", -rc);
		EXPECT_EQ(!rc, num == ARRAY_SIZE(descs));
		done += num;
	}
	EXPECT_LT(100 * ARRAY_SIZE(descs) / 4, done);
	EXPECT_EQ(TOKEN(A), GET2(NO_PASID, IOVA));
	EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	while ((len = read(log, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		EXPECT_EQ(NULL, strstr(line, "Invalidation"));
	}
	close(log);
}

TEST_F(viommu, queue_of_128_bits)
{
	struct vtd *v = &self->v;
	uint64_t narrow[][2] = {
		{ 2 | 2 << 4 | DID << 16 },
		{ 6 | 2 << 4 | DID << 16 },
	};
	uint32_t num = 2;

	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	MOVE(self->root, IOVA, B);
	/* Type 6 is for queues of 256 bits. */
	EXPECT_EQ(-EINVAL, vtd_queue_of(v, self->viommu, narrow, sizeof(narrow[0]), &num));
	EXPECT_EQ(1, num);
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
}

TEST_F(viommu, queue_limits)
{
	static const uint32_t lengths[] = { 1, 8, 24, 31, 33, 64, 4096 };
	const uint32_t most = IOMMU_VTD_INVALIDATE_QI_MAX;
	struct iommu_vtd_inv_desc *descs, desc;
	struct vtd *v = &self->v;
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = self->viommu,
		.data_type = IOMMU_VTD_INVALIDATE_QI,
		.entry_len = sizeof(desc),
	};
	unsigned int i;
	uint32_t num;

	/* Whether the type is known. */
	EXPECT_EQ(0, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	cmd.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(EINVAL, errno);
	cmd.data_type = IOMMU_VTD_INVALIDATE_QI;
	cmd.hwpt_id = self->hwpt;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(EINVAL, errno);
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		num = 1;
		EXPECT_EQ(-EINVAL, vtd_queue_of(v, self->viommu, v->mem, lengths[i], &num));
		EXPECT_EQ(0, num);
	}

	descs = mmap(NULL, (most + 128) * sizeof(*descs), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)descs);
	for (num = 0; num < most + 128; num++)
		descs[num] = vtd_page(DID, 0, IOVA);
	num = most + 1;
	EXPECT_EQ(-EINVAL, vtd_queue(v, self->viommu, descs, &num));
	EXPECT_EQ(0, num);
	num = most;
	EXPECT_EQ(0, vtd_queue(v, self->viommu, descs, &num));
	EXPECT_EQ(most, num);
	/* Where the memory ends the array does; 126 of them are before. */
	ASSERT_EQ(0, munmap((void *)descs + PG, PG));
	num = 200;
	EXPECT_EQ(-EFAULT, vtd_queue(v, self->viommu, descs + 2, &num));
	EXPECT_EQ(126, num);
	munmap(descs, (most + 128) * sizeof(*descs));
}

struct pest {
	struct vtd *v;
	uint32_t viommu;
	struct iommu_vtd_inv_desc *descs;
	uint32_t num, done;
	int rc;
};

static void *be_a_pest(void *arg)
{
	struct pest *p = arg;

	do {
		p->done = p->num;
		p->rc = vtd_queue(p->v, p->viommu, p->descs, &p->done);
	} while (!p->rc);
	return NULL;
}

/* A device leaves while it is asked: after that it has no name. */
TEST_F_TIMEOUT(viommu, queue_while_the_device_leaves, SLOW)
{
	struct vtd *v = &self->v;
	struct pest p = { .v = v, .viommu = self->viommu, .num = 4096 };
	pthread_t thread;
	uint32_t n;

	p.descs = calloc(p.num, sizeof(*p.descs));
	ASSERT_NE(NULL, p.descs);
	for (n = 0; n < p.num; n++)
		p.descs[n] = n & 1 ? vtd_dev_tlb(SID, IOVA) : vtd_page(DID, 0, IOVA);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, pthread_create(&thread, NULL, be_a_pest, &p));
	usleep(100000);
	vtd_close_device(v);
	pthread_join(thread, NULL);
	EXPECT_EQ(-ENODEV, p.rc);
	/* The next one is for the device that left. */
	EXPECT_EQ(1, p.done & 1);
	free(p.descs);
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(0, vtd_destroy(v, self->viommu));
}

/* Each bit of a descriptor by itself, on top of a type and its granularity. */
TEST_F(viommu, bits_of_a_descriptor)
{
	static const uint64_t types[] = { 2 | 2 << 4, 3, 6 | 2 << 4, 8 };
	struct vtd *v = &self->v;
	unsigned int i, bit, len;

	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	for (i = 0; i < ARRAY_SIZE(types); i++) {
		for (bit = 0; bit < 256; bit++) {
			struct iommu_vtd_inv_desc desc = { .qw = { types[i] } };
			bool good;

			/* The type, and the last bit of the granularity. */
			if (bit < 4 || (bit >= 9 && bit < 12) || (desc.qw[0] & 2 && bit == 5))
				continue;
			desc.qw[bit / 64] |= 1ULL << (bit % 64);
			switch (types[i] & 15) {
			case 2:		/* DW, DR; DID; AM, IH, ADDR */
				good = (bit >= 4 && bit < 8) || (bit >= 16 && bit < 32) ||
				       (bit >= 64 && bit < 71) || (bit >= 76 && bit < 128);
				break;
			case 3:		/* PFSID, MIP, SID; S, ADDR */
				good = (bit >= 12 && bit < 21) || (bit >= 32 && bit < 48) ||
				       (bit >= 52 && bit < 65) || (bit >= 76 && bit < 128);
				break;
			case 6:		/* DID, PASID; AM, IH, ADDR */
				good = bit == 4 || (bit >= 16 && bit < 52) ||
				       (bit >= 64 && bit < 71) || (bit >= 76 && bit < 128);
				break;
			default:	/* MIP, PFSID, SID, PASID; GI, S, ADDR */
				good = bit < 9 || (bit >= 12 && bit < 65) ||
				       (bit >= 75 && bit < 128);
			}
			for (len = 16; len <= 32; len += 16) {
				bool fits = len == 32 || (types[i] & 15) < 4;
				uint32_t num = 1;
				int rc;

				if (len * 8 <= bit)
					continue;
				rc = vtd_queue_of(v, self->viommu, &desc, len, &num);
				/* Where it could be done there is no device of this name. */
				EXPECT_EQ(!good || !fits ? -EINVAL :
					  (types[i] & 15) % 5 == 3 ? -ENODEV : 0, rc)
					TH_LOG("type %u, bit %u, %u bytes",
					       (unsigned int)types[i] & 15, bit, len);
				EXPECT_EQ(!rc, num);
			}
		}
	}
}

/* Arrays that are nowhere, that wrap, and that are too much of anything. */
TEST_F(viommu, queue_nowhere)
{
	static const uint64_t places[] = {
		8, 1ULL << 47, (1ULL << 47) - 16, 0xffff888000000000ULL, 1ULL << 63,
		UINT64_MAX, UINT64_MAX - 31, UINT64_MAX - 63,
	};
	static const uint32_t lengths[] = { 0, 1, 15, UINT32_MAX, 1U << 31, 1U << 20 };
	struct iommu_vtd_inv_desc descs[2] = { vtd_page(DID, 0, IOVA), vtd_page(DID, 0, IOVA) };
	struct vtd *v = &self->v;
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = self->viommu,
		.data_type = IOMMU_VTD_INVALIDATE_QI,
	};
	unsigned int i;
	uint32_t num;

	for (i = 0; i < ARRAY_SIZE(places); i++) {
		num = 2;
		EXPECT_EQ(-EFAULT, vtd_queue(v, self->viommu, (void *)places[i], &num))
			TH_LOG("%#llx", (unsigned long long)places[i]);
		EXPECT_EQ(0, num);
	}
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		num = 2;
		EXPECT_EQ(-EINVAL, vtd_queue_of(v, self->viommu, descs, lengths[i], &num))
			TH_LOG("%u", lengths[i]);
		EXPECT_EQ(0, num);
	}
	for (i = 0; i < 2; i++) {
		num = i ? UINT32_MAX : 1U << 27;
		EXPECT_EQ(-EINVAL, vtd_queue(v, self->viommu, descs, &num));
		EXPECT_EQ(0, num);
	}
	cmd.data_uptr = (uintptr_t)descs;
	cmd.entry_len = sizeof(descs[0]);
	cmd.entry_num = 1;
	cmd.__reserved = 1;
	EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd));
	EXPECT_EQ(EOPNOTSUPP, errno);
}

TEST_F(viommu, queues_of_faults_that_are_none)
{
	struct vtd *v = &self->v;
	const struct {
		uint32_t viommu, type, depth, flags;
		int want;
	} cases[] = {
		{ self->viommu, IOMMU_VTD_VEVENTQ_FRCD, 0, 0, EINVAL },
		{ self->viommu, IOMMU_VTD_VEVENTQ_FRCD, (1 << 19) + 1, 0, EINVAL },
		{ self->viommu, IOMMU_VTD_VEVENTQ_FRCD, 1, 1, EOPNOTSUPP },
		{ self->viommu, IOMMU_VEVENTQ_TYPE_DEFAULT, 1, 0, EOPNOTSUPP },
		{ self->hwpt, IOMMU_VTD_VEVENTQ_FRCD, 1, 0, ENOENT },
	};
	unsigned int i;
	uint32_t id;
	int fd;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct iommu_veventq_alloc cmd = {
			.size = sizeof(cmd),
			.viommu_id = cases[i].viommu,
			.type = cases[i].type,
			.veventq_depth = cases[i].depth,
			.flags = cases[i].flags,
		};

		EXPECT_EQ(-1, ioctl(v->iommufd, IOMMU_VEVENTQ_ALLOC, &cmd));
		EXPECT_EQ(cases[i].want, errno)
			TH_LOG("case %u", i);
	}
	fd = vtd_alloc_faults(v, self->viommu, 1 << 19, &id);
	EXPECT_LE(0, fd);
	close(fd);
}

#define VANDAL_DESCS 4096

struct vandal {
	struct pest pest;
	bool stop;
	unsigned long wrong;
};

/* Sends the array again and again; how far it came is where the error is. */
static void *send_and_check(void *arg)
{
	struct vandal *it = arg;
	struct pest *p = &it->pest;

	while (!__atomic_load_n(&it->stop, __ATOMIC_SEQ_CST)) {
		p->done = VANDAL_DESCS;
		p->rc = vtd_queue(p->v, p->viommu, p->descs, &p->done);
		if (p->rc == -ENOENT)
			break;
		usleep(100);
		it->wrong += p->rc ? p->rc != -ENODEV || !(p->done & 1) : p->done != VANDAL_DESCS;
	}
	return NULL;
}

/* Names come and go while the guest uses them; the vIOMMU itself goes in the end. */
TEST_F_TIMEOUT(viommu, queue_while_names_change, SLOW)
{
	struct vtd *v = &self->v;
	struct vandal vandal = { .pest = { .v = v, .viommu = self->viommu } };
	pthread_t thread;
	unsigned int n;
	uint32_t id;
	int rc;

	vandal.pest.descs = calloc(VANDAL_DESCS, sizeof(*vandal.pest.descs));
	ASSERT_NE(NULL, vandal.pest.descs);
	for (n = 0; n < VANDAL_DESCS; n++)
		vandal.pest.descs[n] = n & 1 ? vtd_dev_tlb(SID, IOVA) : vtd_page(DID, 0, IOVA);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, pthread_create(&thread, NULL, send_and_check, &vandal));
	for (n = 0; n < 200; n++) {
		EXPECT_EQ(0, vtd_destroy(v, self->vdev));
		usleep(n * 10);
		EXPECT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
		EXPECT_EQ(0, vtd_alloc_pe(v, self->viommu, self->root, DID + n % 2, &id));
		EXPECT_EQ(0, vtd_attach(v, n & 1 ? id : self->hwpt));
		EXPECT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
		EXPECT_EQ(0, vtd_attach(v, v->parent));
		EXPECT_EQ(0, vtd_destroy(v, id));
	}
	EXPECT_EQ(0, vandal.wrong);
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(0, vtd_destroy(v, self->vdev));
	/* It is busy while a call is under way. */
	for (n = 0; n < 10000; n++) {
		rc = vtd_destroy(v, self->viommu);
		if (rc != -EBUSY)
			break;
		usleep(10);
	}
	EXPECT_EQ(0, rc);
	if (rc)
		vandal.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(-ENOENT, vandal.pest.rc);
	EXPECT_EQ(0, vandal.wrong);
	free(vandal.pest.descs);
}

static void *rewrite(void *arg)
{
	struct vandal *it = arg;
	unsigned int n = 0;

	while (!__atomic_load_n(&it->stop, __ATOMIC_SEQ_CST)) {
		__le64 *qw = it->pest.descs[n++ % VANDAL_DESCS].qw;

		/* Another type, another device, a reserved bit. */
		__atomic_fetch_xor(&qw[0], n % 3 ? 0xe : 1ULL << 32, __ATOMIC_RELAXED);
		__atomic_fetch_xor(&qw[1], n % 5 ? 0 : 1 << 8, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* What is read is what is checked: an array that changes meanwhile does no harm. */
TEST_F_TIMEOUT(viommu, queue_that_is_rewritten, SLOW)
{
	struct vtd *v = &self->v;
	struct vandal vandal = { .pest = { .v = v, .viommu = self->viommu } };
	unsigned int n, refused = 0, done = 0;
	pthread_t thread;
	uint32_t num;
	int rc;

	vandal.pest.descs = calloc(VANDAL_DESCS, sizeof(*vandal.pest.descs));
	ASSERT_NE(NULL, vandal.pest.descs);
	for (n = 0; n < VANDAL_DESCS; n++)
		vandal.pest.descs[n] = vtd_page(DID, 0, IOVA);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(TOKEN(A), GET(NO_PASID, IOVA));
	ASSERT_EQ(0, pthread_create(&thread, NULL, rewrite, &vandal));
	for (n = 0; n < 2000; n++) {
		num = 64;
		rc = vtd_queue(v, self->viommu, vandal.pest.descs + n % 64 * 64, &num);
		EXPECT_TRUE(!rc || rc == -EINVAL || rc == -EOPNOTSUPP || rc == -ENODEV)
			TH_LOG("%d", rc);
		EXPECT_EQ(!rc, num == 64);
		refused += rc != 0;
		done += num;
	}
	vandal.stop = true;
	pthread_join(thread, NULL);
	EXPECT_LT(0, refused);
	EXPECT_LT(0, done);
	MOVE(self->root, IOVA, B);
	EXPECT_EQ(0, QUEUE_ONE(vtd_pasid(DID, 0)));
	EXPECT_EQ(TOKEN(B), GET(NO_PASID, IOVA));
	free(vandal.pest.descs);
}

/* The vIOMMU goes while its queue is worked off, and all that is on it before. */
TEST_F_TIMEOUT(viommu, queue_while_the_viommu_goes, SLOW)
{
	struct vtd *v = &self->v;
	struct pest p = { .v = v, .viommu = self->viommu, .num = IOMMU_VTD_INVALIDATE_QI_MAX };
	unsigned int busy = 0;
	pthread_t thread;
	uint32_t n;
	int rc;

	p.descs = calloc(p.num, sizeof(*p.descs));
	ASSERT_NE(NULL, p.descs);
	for (n = 0; n < p.num; n++)
		p.descs[n] = vtd_page(DID, 0, IOVA);
	ASSERT_EQ(0, pthread_create(&thread, NULL, be_a_pest, &p));
	usleep(100000);
	EXPECT_EQ(-EBUSY, vtd_destroy(v, self->viommu));
	EXPECT_EQ(0, vtd_destroy(v, self->vdev));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
	while ((rc = vtd_destroy(v, self->viommu)) == -EBUSY)
		busy++;
	EXPECT_EQ(0, rc);
	EXPECT_LT(0, busy);
	pthread_join(thread, NULL);
	EXPECT_EQ(-ENOENT, p.rc);
	EXPECT_EQ(0, vtd_destroy(v, v->parent));
	free(p.descs);
}

/*
 * Faults, of which the kernel's log has no more than ten in five seconds: each test
 * waits so long before it looks there.
 */
#define LOG_TIME	5500000

/* The entry of IOVA for both PASIDs. */
#define SET_LEAF(leaf)                                                        \
	({                                                                    \
		*vtd_entry(&self->v, self->root, 4, IOVA, 1) = (leaf);        \
		ASSERT_EQ(0, QUEUE_ONE(vtd_iotlb(DID, 2)));                   \
	})

static unsigned int run_by(struct vtd *v, uint32_t pasid, uint64_t iova, bool write)
{
	return pdma_run(v, write ? PDMA_WRITE : PDMA_READ, pasid, iova, SENTINEL);
}

/* The guest is told what it can have caused, in its own names, and the log is not. */
TEST_F_TIMEOUT(viommu, faults, SLOW)
{
	static const struct {
		const char *what;
		uint64_t leaf, iova;
		bool write;
		unsigned int reason;
	} cases[] = {
		{ "absent", 0, IOVA + 0x123, false, 0x71 },
		{ "absent, to write", 0, IOVA, true, 0x71 },
		{ "reserved bit", GPA_BASE + A * PG + FS_LEAF + (1ULL << 51), IOVA, false, 0x72 },
		{ "read-only", GPA_BASE + A * PG + FS_P + FS_US, IOVA, true, 0x85 },
		{ "supervisor", GPA_BASE + A * PG + FS_P + FS_RW, IOVA, false, 0x81 },
		{ "not canonical", GPA_BASE + A * PG + FS_LEAF, IOVA | 1ULL << 48, false, 0x80 },
	};
	static const uint32_t pasids[] = { NO_PASID, 1, 7 };
	struct vtd *v = &self->v;
	unsigned int i, n, seq = 0;
	struct vtd_event e;
	uint32_t queue;
	int fd, log;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	log = log_open();
	ASSERT_LE(0, log);
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach_pasid(v, 1, self->hwpt));
	fd = vtd_alloc_faults(v, self->viommu, 64, &queue);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EEXIST, vtd_alloc_faults(v, self->viommu, 64, &queue));
	usleep(LOG_TIME);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		SET_LEAF(cases[i].leaf);
		for (n = 0; n < ARRAY_SIZE(pasids); n++) {
			bool with = pasids[n] != NO_PASID;
			/* Nothing is attached to PASID 7. */
			unsigned int reason = pasids[n] == 7 ? 0x59 : cases[i].reason;
			uint64_t high = (uint64_t)reason << 32 | SID | 1ULL << 63;

			if (with)
				high |= 1ULL << 31 | (uint64_t)pasids[n] << 40;
			if (!cases[i].write)
				high |= 1ULL << 62;
			EXPECT_EQ(PDMA_FAULT, run_by(v, pasids[n], cases[i].iova, cases[i].write));
			ASSERT_TRUE(vtd_next_event(fd, 1000, &e))
				TH_LOG("%s, PASID %d", cases[i].what, pasids[n]);
			EXPECT_EQ(seq++, e.header.sequence);
			EXPECT_EQ(0, e.header.flags);
			EXPECT_EQ(0, e.fault.flags);
			EXPECT_EQ(0, e.fault.__reserved);
			EXPECT_EQ(cases[i].iova & ~0xfffULL, e.fault.frcd[0] & ~0xfffULL);
			EXPECT_EQ(high, e.fault.frcd[1])
				TH_LOG("%s, PASID %d", cases[i].what, pasids[n]);
		}
	}
	EXPECT_EQ(-1, log_fault(log));
	/* A page that the kernel does not give to the guest is the kernel's business. */
	SET_LEAF(GPA_BASE + (MEM_PAGES + 5) * PG + FS_LEAF);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_EQ(0x79, log_fault(log));
	EXPECT_FALSE(vtd_next_event(fd, 100, &e));
	close(fd);
	close(log);
}

/* Whether there is a line in the trace with both. */
static bool traced(const char *event, const char *text)
{
	bool found = false;
	char line[512];
	FILE *f;

	f = fopen(TRACING "trace", "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, event) && strstr(line, text);
	if (f)
		fclose(f);
	return found;
}

#define TRACED(event)	TRACING "events/intel_iommu/" event "/enable"

/* The administrator sees each call, how far it came, and each fault of a guest's device. */
TEST_F(viommu, traced)
{
	struct iommu_vtd_inv_desc descs[] = {
		vtd_page(DID, 0, IOVA), vtd_page(DID, 0, IOVA),
		{ .qw = { 7 } }, vtd_page(DID, 0, IOVA),
	};
	struct vtd *v = &self->v;
	uint32_t queue, num = ARRAY_SIZE(descs);
	struct vtd_event e;
	char text[128];
	int fd;

	if (access(TRACING "events/intel_iommu", F_OK))
		SKIP(return, "nothing is traced here");
	ASSERT_EQ(0, sysfs_write(TRACED("viommu_invalidate"), "1"));
	ASSERT_EQ(0, sysfs_write(TRACED("viommu_fault"), "1"));
	ASSERT_EQ(0, trace_start());
	EXPECT_EQ(-EOPNOTSUPP, vtd_queue(v, self->viommu, descs, &num));
	EXPECT_TRUE(traced("viommu_invalidate: dmar", "done 2 of 4 ret -95"));
	ASSERT_EQ(0, QUEUE_ONE(descs[0]));
	EXPECT_TRUE(traced("viommu_invalidate: dmar", "done 1 of 1 ret 0"));
	num = IOMMU_VTD_INVALIDATE_QI_MAX + 1;
	EXPECT_EQ(-EINVAL, vtd_queue(v, self->viommu, descs, &num));
	EXPECT_TRUE(traced("viommu_invalidate: dmar", "done 0 of 32769 ret -22"));

	/* There is no queue, and then there is one. */
	EXPECT_EQ(REFUSED, get_by(v, 0, 7, IOVA));
	usleep(100000);
	snprintf(text, sizeof(text), "/%s 0x%llx 0x", v->bdf + 5, IOVA);
	EXPECT_TRUE(traced("viommu_fault: dmar", text));
	EXPECT_TRUE(traced("viommu_fault: dmar", "flags 0 ret -95"));
	fd = vtd_alloc_faults(v, self->viommu, 4, &queue);
	ASSERT_LE(0, fd);
	EXPECT_EQ(REFUSED, get_by(v, 0, 7, IOVA));
	ASSERT_TRUE(vtd_next_event(fd, 1000, &e));
	snprintf(text, sizeof(text), "/%s 0x%llx 0x%llx flags 0 ret 0", v->bdf + 5,
		 (unsigned long long)e.fault.frcd[0], (unsigned long long)e.fault.frcd[1]);
	EXPECT_TRUE(traced("viommu_fault: dmar", text))
		TH_LOG("%s", text);
	close(fd);
	trace_stop("", "");
	sysfs_write(TRACED("viommu_invalidate"), "0");
	sysfs_write(TRACED("viommu_fault"), "0");
}

/* Faults that there is nobody to tell of are in the log. */
TEST_F_TIMEOUT(viommu, faults_of_nobody, SLOW)
{
	struct vtd *v = &self->v, *other = &self->other;
	uint32_t queue, viommu, queue2 = 0, hwpt2;
	struct vtd_event e;
	int fd, fd2, log;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	if (!self->two)
		SKIP(return, ONE_ONLY);
	log = log_open();
	ASSERT_LE(0, log);
	ASSERT_EQ(0, vtd_alloc_viommu(v, other->dev_id, v->parent, &viommu));
	ASSERT_EQ(0, vtd_alloc_pe(v, viommu, self->root, DID, &hwpt2));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, hwpt2));
	SET_LEAF(0);
	usleep(LOG_TIME);
	/* There is no queue. */
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_EQ(0x71, log_fault(log));
	fd = vtd_alloc_faults(v, self->viommu, 4, &queue);
	ASSERT_LE(0, fd);
	fd2 = vtd_alloc_faults(v, viommu, 4, &queue2);
	ASSERT_LE(0, fd2);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_TRUE(vtd_next_event(fd, 1000, &e));
	EXPECT_FALSE(vtd_next_event(fd2, 100, &e));
	/* No guest has a name for the other one. */
	EXPECT_EQ(REFUSED, GET2(NO_PASID, IOVA));
	EXPECT_EQ(0x71, log_fault(log));
	EXPECT_FALSE(vtd_next_event(fd, 100, &e));
	EXPECT_FALSE(vtd_next_event(fd2, 100, &e));
	/* Nor for this one, any more. */
	ASSERT_EQ(0, vtd_destroy(v, self->vdev));
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_EQ(0x71, log_fault(log));
	EXPECT_FALSE(vtd_next_event(fd, 100, &e));
	/* Another guest has one, the same as the first for the other. */
	ASSERT_EQ(0, vtd_alloc_vdev(v, viommu, v->dev_id, SID2, &self->vdev));
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	ASSERT_TRUE(vtd_next_event(fd2, 1000, &e));
	EXPECT_EQ(SID2, e.fault.frcd[1] & 0xffff);
	EXPECT_FALSE(vtd_next_event(fd, 100, &e));
	/* The queue goes. */
	close(fd2);
	ASSERT_EQ(0, vtd_destroy(v, queue2));
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_EQ(0x71, log_fault(log));
	close(fd);
	close(log);
}

/* What the kernel's own tables refuse is the kernel's business, whatever the reason. */
TEST_F_TIMEOUT(viommu, faults_of_the_kernel, SLOW)
{
	static const uint32_t pasids[] = { NO_PASID, 1 };
	struct vtd *v = &self->v;
	unsigned int i, reason;
	struct vtd_event e;
	uint32_t queue;
	int fd, log;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	log = log_open();
	ASSERT_LE(0, log);
	fd = vtd_alloc_faults(v, self->viommu, 4, &queue);
	ASSERT_LE(0, fd);
	usleep(LOG_TIME);
	SET_LEAF(0);
	for (i = 0; i < ARRAY_SIZE(pasids); i++) {
		uint32_t plain;

		/* Where units have one this is a first stage, too. */
		ASSERT_EQ(0, vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_PASID, NULL, 0, &plain));
		ASSERT_EQ(0, vtd_attach_at(v, pasids[i], plain));
		EXPECT_EQ(TOKEN(A), GET(pasids[i], gpa_of(A)));
		EXPECT_EQ(REFUSED, GET(pasids[i], IOVA));
		EXPECT_FALSE(vtd_next_event(fd, 100, &e))
			TH_LOG("reason %x", vtd_reason(&e));
		reason = log_fault(log);
		EXPECT_TRUE(reason == 0x71 || reason == 0x79)
			TH_LOG("reason %x", reason);
		/* Its guest's is the guest's again. */
		ASSERT_EQ(0, vtd_attach_at(v, pasids[i], self->hwpt));
		EXPECT_EQ(REFUSED, GET(pasids[i], IOVA));
		ASSERT_TRUE(vtd_next_event(fd, 1000, &e));
		EXPECT_EQ(0x71, vtd_reason(&e));
	}
	close(fd);
	close(log);
}

/* Attaches both devices to a table of the guest's; a queue of their faults, or an error. */
static int attach_both(struct vtd *v, struct vtd *other, uint32_t viommu, uint32_t hwpt)
{
	uint32_t queue, vdev2;
	int rc;

	rc = vtd_alloc_vdev(v, viommu, other->dev_id, SID2, &vdev2) ?: vtd_attach(v, hwpt) ?:
	     vtd_attach(other, hwpt);
	return rc ?: vtd_alloc_faults(v, viommu, 1000, &queue);
}

/* The unit has room for few faults, and of those that it lost the guest knows. */
TEST_F_TIMEOUT(viommu, faults_lost_by_the_unit, SLOW)
{
	unsigned int tries, round, overflows = 0;
	struct vtd_event e;
	int fd;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	if (!self->two)
		SKIP(return, ONE_ONLY);
	fd = attach_both(&self->v, &self->other, self->viommu, self->hwpt);
	ASSERT_LE(0, fd);
	SET_LEAF(0);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	ASSERT_TRUE(vtd_next_event(fd, 1000, &e));
	/* Those that other tests have lost are none of this guest's. */
	EXPECT_EQ(0, e.fault.flags);
	for (tries = 0; tries < 100 && !overflows; tries++) {
		/* The second round finds a record in use until the next tick. */
		for (round = 0; round < 2; round++) {
			EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
			EXPECT_EQ(REFUSED, GET2(NO_PASID, IOVA));
		}
		while (vtd_next_event(fd, 20, &e))
			overflows += e.fault.flags & IOMMU_VTD_FAULT_OVERFLOW;
	}
	EXPECT_EQ(1, overflows);
	usleep(20000);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	ASSERT_TRUE(vtd_next_event(fd, 1000, &e));
	EXPECT_EQ(0, e.fault.flags);
	close(fd);
}

/*
 * What is lost while records are read is no secret either: of a device that faults once,
 * at any time after the other one, there is a fault, or the next event says that there may
 * have been some.
 */
TEST_F_TIMEOUT(viommu, faults_lost_while_read, SLOW)
{
	unsigned int round, tries, spin, secret = 0, lost = 0, delay = 1000;
	struct vtd_event e;
	cpu_set_t cpus = { };
	int fd;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	if (!self->two)
		SKIP(return, ONE_ONLY);
	fd = attach_both(&self->v, &self->other, self->viommu, self->hwpt);
	ASSERT_LE(0, fd);
	SET_LEAF(0);
	/* Not where the records are read. */
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	for (round = 0; round < 2000; round++) {
		bool told = false, said = false;

		EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
		for (spin = 0; spin < delay; spin++)
			__asm__ volatile("");
		EXPECT_EQ(REFUSED, GET2(NO_PASID, IOVA));
		while (vtd_next_event(fd, 12, &e)) {
			told |= (e.fault.frcd[1] & 0xffff) == SID2;
			said |= e.fault.flags & IOMMU_VTD_FAULT_OVERFLOW;
		}
		/* To where the first one is just being read. */
		if (told) {
			delay -= delay / 16;
			continue;
		}
		delay += delay / 16 + 16;
		lost++;
		/* The next event tells, or comes behind one of the two that was late. */
		for (tries = 0; !said && tries < 10; tries++) {
			EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
			while (vtd_next_event(fd, said ? 0 : 200, &e)) {
				said |= e.fault.flags & IOMMU_VTD_FAULT_OVERFLOW;
				said |= (e.fault.frcd[1] & 0xffff) == SID2;
				tries = 10;
			}
		}
		secret += !said;
	}
	EXPECT_LT(0, lost);
	EXPECT_EQ(0, secret)
		TH_LOG("%u lost, of which %u in secret", lost, secret);
	close(fd);
}

struct storm {
	struct vtd *v;
	unsigned int count;
	bool stop;
};

static void *make_a_storm(void *arg)
{
	struct storm *s = arg;
	unsigned int n;

	for (n = 0; n < s->count && !__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST); n++)
		run_by(s->v, NO_PASID, IOVA, false);
	__atomic_store_n(&s->stop, true, __ATOMIC_SEQ_CST);
	return NULL;
}

#define DEPTH	16

/* A device that does nothing but fault costs a queue, and no one else anything. */
TEST_F_TIMEOUT(viommu, storm_of_faults, SLOW)
{
	struct vtd *v = &self->v, *other = &self->other;
	struct storm storm = { .v = v, .count = 100000 };
	uint64_t root2 = vtd_new_table(v);
	unsigned int served = 0, wrong = 0, events = 0, lines = 0, last = 0;
	uint32_t queue, hwpt2;
	struct vtd_event e;
	pthread_t thread;
	bool lost = false;
	char line[1024];
	int fd, log;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	if (!self->two)
		SKIP(return, ONE_ONLY);
	MOVE(root2, IOVA, B);
	ASSERT_EQ(0, vtd_alloc_nested(v, v->parent, root2, 48, &hwpt2));
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	ASSERT_EQ(0, vtd_attach(other, hwpt2));
	SET_LEAF(0);
	fd = vtd_alloc_faults(v, self->viommu, DEPTH, &queue);
	ASSERT_LE(0, fd);
	usleep(LOG_TIME);
	log = log_open();
	ASSERT_LE(0, log);
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_a_storm, &storm));
	while (!__atomic_load_n(&storm.stop, __ATOMIC_SEQ_CST)) {
		MOVE(root2, IOVA, served & 1 ? A : B);
		wrong += vtd_invalidate(v, hwpt2, IOVA, 1) != 0;
		wrong += GET2(NO_PASID, IOVA) != (served & 1 ? TOKEN(A) : TOKEN(B));
		served++;
	}
	pthread_join(thread, NULL);
	EXPECT_LT(100, served);
	EXPECT_EQ(0, wrong);
	usleep(100000);
	while (vtd_next_event(fd, 100, &e)) {
		if (events++)
			EXPECT_LT(last, e.header.sequence);
		last = e.header.sequence;
		if (e.header.flags & IOMMU_VEVENTQ_FLAG_LOST_EVENTS)
			lost = true;
		else
			EXPECT_EQ(0x71, vtd_reason(&e));
	}
	/* One more for what was lost at the end. */
	EXPECT_EQ(DEPTH + 1, events);
	EXPECT_TRUE(lost);
	while (read(log, line, sizeof(line)) > 0)
		lines++;
	EXPECT_EQ(0, lines);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	ASSERT_TRUE(vtd_next_event(fd, 1000, &e));
	EXPECT_EQ(last + 1, e.header.sequence);
	EXPECT_EQ(0x71, vtd_reason(&e));
	close(fd);
	close(log);
}

/* The name of a device and the queue come and go while it faults. */
TEST_F_TIMEOUT(viommu, storm_while_all_goes, SLOW)
{
	struct vtd *v = &self->v;
	struct storm storm = { .v = v, .count = UINT32_MAX };
	uint32_t queue = 0, round;
	struct vtd_event e;
	pthread_t thread;
	int fd = -1;

	if (variant->how)
		SKIP(return, "devices that ask before see no faults");
	ASSERT_EQ(0, vtd_attach(v, self->hwpt));
	SET_LEAF(0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_a_storm, &storm));
	for (round = 0; round < 200; round++) {
		fd = vtd_alloc_faults(v, self->viommu, 2, &queue);
		EXPECT_LE(0, fd);
		usleep(round * 100);
		EXPECT_EQ(0, vtd_destroy(v, self->vdev));
		if (round & 1)
			usleep(2000);
		close(fd);
		EXPECT_EQ(0, vtd_destroy(v, queue));
		EXPECT_EQ(0, vtd_alloc_vdev(v, self->viommu, v->dev_id, SID, &self->vdev));
	}
	__atomic_store_n(&storm.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	fd = vtd_alloc_faults(v, self->viommu, 2, &queue);
	ASSERT_LE(0, fd);
	EXPECT_EQ(REFUSED, GET(NO_PASID, IOVA));
	EXPECT_TRUE(vtd_next_event(fd, 1000, &e));
	/* The device itself, in the end. */
	storm.stop = false;
	storm.count = 20000;
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_a_storm, &storm));
	pthread_join(thread, NULL);
	vtd_close_device(v);
	EXPECT_EQ(-ENOENT, vtd_destroy(v, self->vdev));
	close(fd);
	EXPECT_EQ(0, vtd_destroy(v, queue));
	EXPECT_EQ(0, vtd_destroy(v, self->hwpt));
	EXPECT_EQ(0, vtd_destroy(v, self->viommu));
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

/* Makes and attaches until it is killed. */
static int child(int ready)
{
	static struct iommu_vtd_inv_desc queue[1000];
	uint32_t viommu, vdev, hwpt[3], num;
	unsigned int i;
	struct vtd v;
	char byte = 0;

	if (pdma_setup(&v, 0) || vtd_alloc_viommu(&v, v.dev_id, v.parent, &viommu))
		return 1;
	if (write(ready, &byte, 1) != 1)
		return 1;
	for (i = 0; i < ARRAY_SIZE(queue); i++)
		queue[i] = i & 1 ? vtd_iotlb(0, 1) : vtd_dev_tlb(SID, IOVA);
	for (;;) {
		if (vtd_alloc_vdev(&v, viommu, v.dev_id, SID, &vdev))
			return 1;
		for (i = 0; i < 3; i++) {
			if (vtd_alloc_pe(&v, viommu, vtd_new_table(&v), i / 2, &hwpt[i]))
				return 1;
			v.next_table--;
		}
		vtd_attach(&v, hwpt[0]);
		num = ARRAY_SIZE(queue);
		vtd_queue(&v, viommu, queue, &num);
		vtd_attach_pasid(&v, 1, hwpt[1]);
		vtd_attach_pasid(&v, 2, hwpt[2]);
		vtd_destroy(&v, vdev);
		vtd_detach_pasid(&v, 2);
		vtd_detach_pasid(&v, 1);
		vtd_attach(&v, v.ioas);
		for (i = 0; i < 3; i++)
			vtd_destroy(&v, hwpt[i]);
	}
}

/* Killed at any time: nothing stays pinned, the device is free. */
TEST_F_TIMEOUT(process, killed, SLOW)
{
	unsigned long pinned;
	uint32_t viommu;
	struct vtd v;
	int rc, round;

	rc = pdma_setup(&v, 0);
	if (!rc)
		rc = vtd_alloc_viommu(&v, v.dev_id, v.parent, &viommu);
	vtd_release(&v);
	if (rc > 0 || rc == -EOPNOTSUPP)
		SKIP(return, "no vIOMMU here");
	ASSERT_EQ(0, rc);
	pinned = vtd_pinned();
	for (round = 0; round < 10; round++) {
		int ready[2], status;
		char byte;
		pid_t pid;

		ASSERT_EQ(0, pipe(ready));
		pid = fork();
		if (!pid)
			_exit(child(ready[1]));
		close(ready[1]);
		EXPECT_EQ(1, read(ready[0], &byte, 1));
		close(ready[0]);
		usleep(round * 900);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
}

/* What a guest's VMM has, and can give back in any order. */
enum { VDEV, HWPT, EVENTS, DEVICE, VIOMMU, THINGS };

struct guest {
	struct vtd v;
	uint32_t viommu, vdev, hwpt, queue;
	bool gone[THINGS];
	int fd;
};

/* All of it, with a device attached, and a fault in the queue. */
static int make_guest(struct guest *g)
{
	uint64_t root;
	int rc;

	memset(g->gone, 0, sizeof(g->gone));
	rc = pdma_setup(&g->v, 0);
	if (rc)
		return rc;
	root = vtd_new_table(&g->v);
	rc = vtd_alloc_viommu(&g->v, g->v.dev_id, g->v.parent, &g->viommu);
	if (!rc)
		rc = vtd_alloc_vdev(&g->v, g->viommu, g->v.dev_id, SID, &g->vdev);
	if (!rc)
		rc = vtd_alloc_pe(&g->v, g->viommu, root, DID, &g->hwpt);
	if (!rc)
		rc = vtd_attach(&g->v, g->hwpt);
	if (rc)
		return rc;
	g->fd = vtd_alloc_faults(&g->v, g->viommu, 4, &g->queue);
	if (g->fd < 0)
		return g->fd;
	pdma_run(&g->v, PDMA_READ, NO_PASID, IOVA, SENTINEL);
	return 0;
}

/* What comes of giving one back. */
static int outcome(const struct guest *g, unsigned int thing)
{
	bool vdev = !g->gone[VDEV] && !g->gone[DEVICE];

	if (thing == VDEV)
		return vdev ? 0 : -ENOENT;
	if (thing == HWPT)
		return g->gone[DEVICE] ? 0 : -EBUSY;
	if (thing == VIOMMU)
		return vdev || !g->gone[HWPT] || !g->gone[EVENTS] ? -EBUSY : 0;
	return 0;
}

static int give_back(struct guest *g, unsigned int thing)
{
	struct vtd *v = &g->v;

	switch (thing) {
	case VDEV:
		return vtd_destroy(v, g->vdev);
	case HWPT:
		return vtd_destroy(v, g->hwpt);
	case EVENTS:
		close(g->fd);
		return vtd_destroy(v, g->queue);
	case VIOMMU:
		return vtd_destroy(v, g->viommu);
	}
	vtd_close_device(v);
	return 0;
}

/* The n-th order of them. */
static void order_of(unsigned int n, unsigned int order[THINGS])
{
	unsigned int i, at, rest = THINGS;

	for (i = 0; i < THINGS; i++)
		order[i] = i;
	for (i = 0; i < THINGS; i++, n /= rest--) {
		unsigned int it = order[i + n % rest];

		for (at = i + n % rest; at > i; at--)
			order[at] = order[at - 1];
		order[i] = it;
	}
}

#define ORDERS	120
#define PARTS	15

/*
 * Each order, again and again until all is gone; and some orders up to some point, where
 * the context or the device is closed first.
 */
TEST_F_TIMEOUT(process, gives_back_in_any_order, SLOW)
{
	static const char * const names[] = {
		"vDEVICE", "hwpt", "vEVENTQ", "device", "vIOMMU",
	};
	unsigned int round, order[THINGS], i, left;
	unsigned long pinned = vtd_pinned();
	struct guest g;
	bool parent;
	int rc;

	mapped_pages = DATA_PAGE;
	for (round = 0; round < ORDERS + PARTS; round++) {
		rc = make_guest(&g);
		if (!round && (rc > 0 || rc == -EOPNOTSUPP)) {
			vtd_release(&g.v);
			SKIP(return, "no vIOMMU here");
		}
		ASSERT_EQ(0, rc);
		order_of(round < ORDERS ? round : (round - ORDERS) * (ORDERS / PARTS), order);
		left = round < ORDERS ? UINT_MAX : round % THINGS;
		parent = true;
		for (i = 0; left && memchr(g.gone, false, THINGS); i++, left--) {
			unsigned int thing = order[i % THINGS];
			int want = outcome(&g, thing);

			ASSERT_GT(THINGS * THINGS, i);
			if (g.gone[thing])
				continue;
			rc = give_back(&g, thing);
			EXPECT_EQ(want, rc)
				TH_LOG("order %u, step %u: %s", round, i, names[thing]);
			g.gone[thing] = rc != -EBUSY;
			want = !g.gone[VIOMMU] ? -EBUSY : parent ? 0 : -ENOENT;
			rc = vtd_destroy(&g.v, g.v.parent);
			EXPECT_EQ(want, rc)
				TH_LOG("order %u, step %u: parent", round, i);
			parent = rc == -EBUSY;
		}
		if (round & 1) {
			close(g.v.iommufd);
			g.v.iommufd = -1;
		}
		vtd_release(&g.v);
		if (!g.gone[EVENTS])
			close(g.fd);
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
}

/* The longest queue that there is, again and again. */
static int child_with_a_queue(int ready)
{
	const uint32_t most = IOMMU_VTD_INVALIDATE_QI_MAX;
	struct iommu_vtd_inv_desc *descs = calloc(most, sizeof(*descs));
	struct guest g;
	uint32_t num;

	if (!descs || make_guest(&g))
		return 1;
	for (num = 0; num < most; num++)
		descs[num] = num & 7 ? vtd_page(DID, 0, IOVA) : vtd_dev_tlb(SID, IOVA);
	for (;;) {
		num = most;
		if (vtd_queue(&g.v, g.viommu, descs, &num) || write(ready, "", 1) != 1)
			return 1;
	}
}

/* One who is killed does not wait for the end of the queue, which the trace tells. */
TEST_F_TIMEOUT(process, killed_with_a_queue, SLOW)
{
	int rc, ready[2], status, tries;
	bool ended = false;
	struct guest g;
	char byte;
	pid_t pid;

	rc = make_guest(&g);
	vtd_release(&g.v);
	if (rc > 0 || rc == -EOPNOTSUPP)
		SKIP(return, "no vIOMMU here");
	ASSERT_EQ(0, rc);
	close(g.fd);
	if (access(TRACING "events/intel_iommu", F_OK))
		SKIP(return, "nothing is traced here");
	/* It may just be between two calls. */
	for (tries = 0; tries < 20 && !ended; tries++) {
		ASSERT_EQ(0, pipe(ready));
		pid = fork();
		if (!pid)
			_exit(child_with_a_queue(ready[1]));
		close(ready[1]);
		ASSERT_EQ(1, read(ready[0], &byte, 1));
		ASSERT_EQ(0, sysfs_write(TRACED("viommu_invalidate"), "1"));
		ASSERT_EQ(0, trace_start());
		usleep(5000 * tries);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		ended = traced("viommu_invalidate: dmar", "of 32768 ret -4");
		sysfs_write(TRACED("viommu_invalidate"), "0");
		trace_stop("", "");
		close(ready[0]);
	}
	EXPECT_TRUE(ended);
}

TEST_HARNESS_MAIN

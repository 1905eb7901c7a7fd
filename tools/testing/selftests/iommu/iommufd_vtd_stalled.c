// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO's ioctls that bind and attach a device, while the memory of the user who
 * calls them does not answer: whoever needs other devices of the same set, or the
 * same one, does not wait for it. And what cannot be told is undone. VTD_DEVICE as
 * for iommufd_vtd_pasid.
 */
#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "iommufd_stall.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)

FIXTURE(stalled)
{
	struct vtd v;
	struct memory memory;
	struct call asked;
	uint64_t root, root1;
	uint32_t hwpt, hwpt1;
	/* The device once more. */
	int again;
};

FIXTURE_VARIANT(stalled)
{
	/* Whether the device is bound before. */
	bool bound;
	/* Whether it is the token that does not answer, not the structure. */
	bool token;
	uint32_t pasid;
	/* What another BIND is meanwhile, and what becomes of this call then. */
	int other, error;
};

FIXTURE_VARIANT_ADD(stalled, bind)
{
	.other = EINVAL,
};

/* This device has no token, so it is refused. */
FIXTURE_VARIANT_ADD(stalled, token)
{
	.token = true, .error = EINVAL,
};

FIXTURE_VARIANT_ADD(stalled, attach)
{
	.bound = true, .pasid = NO_PASID, .other = EINVAL,
};

FIXTURE_VARIANT_ADD(stalled, attach_pasid)
{
	.bound = true, .pasid = 1, .other = EINVAL,
};

/* The device, with A for itself and B for PASID 1. */
static int take(struct vtd *v, uint32_t *hwpt, uint64_t *root, uint32_t *hwpt1, uint64_t *root1)
{
	int rc = pdma_setup(v, 0);

	if (rc)
		return rc;
	errno = -pdma_table(v, IOVA, A, root, 0, hwpt);
	if (errno)
		return vtd_fail(v, "table");
	errno = -pdma_table(v, IOVA, B, root1, 0, hwpt1);
	if (errno)
		return vtd_fail(v, "another table");
	return 0;
}

FIXTURE_SETUP(stalled)
{
	struct vtd *v = &self->v;

	self->again = -1;
	ASSERT_SET_UP(return, take(v, &self->hwpt, &self->root, &self->hwpt1, &self->root1), v);
	ASSERT_TRUE(get_memory(&self->memory));
	self->asked.arg = self->memory.answer;
	self->asked.make = make_ioctl;
	if (variant->bound) {
		struct vfio_device_attach_iommufd_pt *attach = self->memory.answer;

		*attach = (struct vfio_device_attach_iommufd_pt){
			.argsz = sizeof(*attach), .pt_id = self->hwpt,
		};
		if (variant->pasid != NO_PASID) {
			ASSERT_EQ(0, vtd_attach(v, self->hwpt));
			attach->flags = VFIO_DEVICE_ATTACH_PASID;
			attach->pasid = variant->pasid;
			attach->pt_id = self->hwpt1;
		}
		self->asked.cmd = VFIO_DEVICE_ATTACH_IOMMUFD_PT;
	} else {
		struct vfio_device_bind_iommufd *bind = self->memory.answer;

		vtd_close_device(v);
		v->dev = vtd_open_device(v);
		ASSERT_LE(0, v->dev);
		*bind = (struct vfio_device_bind_iommufd){
			.argsz = sizeof(*bind), .iommufd = v->iommufd,
		};
		if (variant->token) {
			bind->flags = VFIO_DEVICE_BIND_FLAG_TOKEN;
			bind->token_uuid_ptr = (uintptr_t)self->memory.absent;
		}
		self->asked.cmd = VFIO_DEVICE_BIND_IOMMUFD;
	}
	self->asked.fd = v->dev;
	self->again = vtd_open_device(v);
	ASSERT_LE(0, self->again);
}

FIXTURE_TEARDOWN(stalled)
{
	if (self->again >= 0)
		close(self->again);
	vtd_release(&self->v);
}

static uint64_t get(struct vtd *v, uint32_t pasid)
{
	return pdma_run(v, PDMA_READ, pasid, IOVA, SENTINEL) == PDMA_DONE ? pdma_buffer(v) : 0;
}

/* All devices of a set have one lock, so another file of this one is as good as another device. */
TEST_F_TIMEOUT(stalled, bind_another, 120)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind), .iommufd = self->v.iommufd,
	};
	struct call call = {
		.fd = self->again, .cmd = VFIO_DEVICE_BIND_IOMMUFD, .arg = &bind,
		.make = make_ioctl,
	};

	stall_it();
	meanwhile(&call);
	EXPECT_EQ(variant->other, call.error);
	EXPECT_EQ(variant->error, self->asked.error);
}

/* Nobody uses a device whose id has not been told, nor binds it once more. */
TEST_F_TIMEOUT(stalled, use_it, 120)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind), .iommufd = self->v.iommufd,
	}, *told = self->memory.answer;
	struct call call = {
		.fd = self->v.dev, .cmd = VFIO_DEVICE_BIND_IOMMUFD, .arg = &bind,
		.make = make_ioctl,
	};

	if (variant->bound || variant->token)
		SKIP(return, "it can be used");
	stall_it();
	EXPECT_EQ(-1, ioctl(self->v.dev, VFIO_DEVICE_GET_INFO, &info));
	EXPECT_EQ(EINVAL, errno);
	meanwhile(&call);
	EXPECT_EQ(EINVAL, call.error);
	EXPECT_EQ(0, self->asked.error);
	EXPECT_EQ(0, ioctl(self->v.dev, VFIO_DEVICE_GET_INFO, &info));
	self->v.dev_id = told->out_devid;
	EXPECT_EQ(0, vtd_attach(&self->v, self->v.ioas));
}

/* What cannot be told is undone, that and no more, and can be done again. */
TEST_F(stalled, untold)
{
	struct vtd *v = &self->v;

	if (variant->token)
		SKIP(return, "the structure is not what stalls");
	ASSERT_EQ(0, mprotect(self->memory.answer, PG, PROT_READ));
	EXPECT_EQ(-1, ioctl(v->dev, self->asked.cmd, self->asked.arg));
	EXPECT_EQ(EFAULT, errno);
	ASSERT_EQ(0, mprotect(self->memory.answer, PG, PROT_READ | PROT_WRITE));
	if (variant->bound && vtd_is_pdma(v)) {
		EXPECT_EQ(variant->pasid == NO_PASID ? 0 : TOKEN(A), get(v, NO_PASID));
		EXPECT_EQ(0, get(v, 1));
	}
	EXPECT_EQ(0, ioctl(v->dev, self->asked.cmd, self->asked.arg));
	if (variant->bound && vtd_is_pdma(v)) {
		EXPECT_EQ(TOKEN(A), get(v, NO_PASID));
		EXPECT_EQ(variant->pasid == NO_PASID ? 0 : TOKEN(B), get(v, 1));
	}
}

TEST_HARNESS_MAIN

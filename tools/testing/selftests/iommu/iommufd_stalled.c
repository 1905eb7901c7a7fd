// SPDX-License-Identifier: GPL-2.0-only
/*
 * User memory that does not answer: while an ioctl waits for a page that nobody
 * supplies, everything else goes on. Unbinding a device, attaching another one,
 * mapping and events of a virtual machine must not wait for it. (Closing never
 * does: an ioctl and the files of faults and events keep their context.) Needs
 * CONFIG_IOMMUFD_TEST, CONFIG_USERFAULTFD and no hardware.
 */
#include <linux/vfio.h>
#include <sys/mman.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-function"
#include "iommufd_utils.h"
#include "iommufd_gone.h"
#include "iommufd_stall.h"

/* The mock hardware translates from 16 MiB on. */
#define IOVA (16UL << 20)
/* What there is to ask about: the first device has no vDEVICE, the second has one. */
struct objects {
	int fd;
	__u32 ioas, other_ioas;
	__u32 stdev, idev, stdev2, idev2;
	__u32 parent, viommu;
};

/* Fills in a structure of which, or of what it names, not all answers; returns the ioctl. */
typedef unsigned long ask_fn(struct objects *with, struct memory *memory, void **arg);

static unsigned long hw_info(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hw_info *cmd = *arg = memory->answer;

	*cmd = (struct iommu_hw_info){ .size = sizeof(*cmd), .dev_id = with->idev };
	return IOMMU_GET_HW_INFO;
}

static unsigned long hw_info_data(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hw_info *cmd = memory->answer;
	unsigned long number = hw_info(with, memory, arg);

	cmd->data_uptr = (uintptr_t)memory->absent;
	cmd->data_len = 64;
	return number;
}

static unsigned long hwpt_paging(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hwpt_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_hwpt_alloc){
		.size = sizeof(*cmd), .dev_id = with->idev, .pt_id = with->ioas,
	};
	return IOMMU_HWPT_ALLOC;
}

/* What is mapped where there is no domain yet is pinned for the first. */
static unsigned long hwpt_pins(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hwpt_alloc *cmd = memory->answer;
	unsigned long number = hwpt_paging(with, memory, arg);
	__u64 iova = IOVA;

	cmd->pt_id = with->other_ioas;
	if (_test_ioctl_ioas_map(with->fd, with->other_ioas, memory->absent, PG, &iova,
				 IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
				 IOMMU_IOAS_MAP_READABLE))
		return 0;
	return number;
}

static unsigned long hwpt_nested(struct objects *with, struct memory *memory, void **arg)
{
	static const struct iommu_hwpt_selftest data = { .iotlb = 0x1234 };
	struct iommu_hwpt_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_hwpt_alloc){
		.size = sizeof(*cmd), .dev_id = with->idev, .pt_id = with->parent,
		.data_type = IOMMU_HWPT_DATA_SELFTEST, .data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};
	return IOMMU_HWPT_ALLOC;
}

static unsigned long hwpt_nested_data(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hwpt_alloc *cmd = memory->answer;
	unsigned long number = hwpt_nested(with, memory, arg);

	cmd->data_uptr = (uintptr_t)memory->absent;
	return number;
}

static unsigned long hwpt_viommu(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hwpt_alloc *cmd = memory->answer;
	unsigned long number = hwpt_nested(with, memory, arg);

	cmd->pt_id = with->viommu;
	return number;
}

static unsigned long hwpt_viommu_data(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hwpt_alloc *cmd = memory->answer;
	unsigned long number = hwpt_nested_data(with, memory, arg);

	cmd->pt_id = with->viommu;
	return number;
}

static unsigned long viommu(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_viommu_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_viommu_alloc){
		.size = sizeof(*cmd), .type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = with->idev, .hwpt_id = with->parent,
	};
	return IOMMU_VIOMMU_ALLOC;
}

static unsigned long viommu_data(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_viommu_alloc *cmd = memory->answer;
	unsigned long number = viommu(with, memory, arg);

	cmd->data_uptr = (uintptr_t)memory->absent;
	cmd->data_len = sizeof(struct iommu_viommu_selftest);
	return number;
}

static unsigned long vdevice(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_vdevice_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_vdevice_alloc){
		.size = sizeof(*cmd), .viommu_id = with->viommu, .dev_id = with->idev,
		.virt_id = 1,
	};
	return IOMMU_VDEVICE_ALLOC;
}

static unsigned long veventq(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_veventq_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_veventq_alloc){
		.size = sizeof(*cmd), .viommu_id = with->viommu,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST, .veventq_depth = 4,
	};
	return IOMMU_VEVENTQ_ALLOC;
}

static unsigned long hw_queue(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_hw_queue_alloc *cmd = *arg = memory->answer;
	__u64 iova = IOVA;

	*cmd = (struct iommu_hw_queue_alloc){
		.size = sizeof(*cmd), .viommu_id = with->viommu,
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.nesting_parent_iova = IOVA, .length = PG,
	};
	if (_test_ioctl_ioas_map(with->fd, with->ioas, memory->usual, PG, &iova,
				 IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
				 IOMMU_IOAS_MAP_READABLE))
		return 0;
	return IOMMU_HW_QUEUE_ALLOC;
}

static unsigned long fault_queue(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_fault_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_fault_alloc){ .size = sizeof(*cmd) };
	return IOMMU_FAULT_QUEUE_ALLOC;
}

static unsigned long ioas_alloc(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_ioas_alloc *cmd = *arg = memory->answer;

	*cmd = (struct iommu_ioas_alloc){ .size = sizeof(*cmd) };
	return IOMMU_IOAS_ALLOC;
}

static unsigned long iova_ranges(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_ioas_iova_ranges *cmd = *arg = memory->answer;

	*cmd = (struct iommu_ioas_iova_ranges){
		.size = sizeof(*cmd), .ioas_id = with->ioas, .num_iovas = 16,
		.allowed_iovas = (uintptr_t)memory->absent,
	};
	return IOMMU_IOAS_IOVA_RANGES;
}

/* VFIO's structure, with its capabilities behind it. */
static unsigned long vfio_info(struct objects *with, struct memory *memory, void **arg)
{
	struct iommu_vfio_ioas set = {
		.size = sizeof(set), .op = IOMMU_VFIO_IOAS_SET, .ioas_id = with->ioas,
	};
	struct vfio_iommu_type1_info *cmd = memory->absent - sizeof(*cmd);

	*arg = cmd;
	*cmd = (struct vfio_iommu_type1_info){ .argsz = 1024 };
	if (ioctl(with->fd, IOMMU_VFIO_IOAS, &set))
		return 0;
	return VFIO_IOMMU_GET_INFO;
}

/* The bitmap of what is mapped, which is told whether it is dirty or not. */
static unsigned long dirty(struct objects *with, struct memory *memory, void **arg)
{
	static struct iommu_hwpt_get_dirty_bitmap cmd;
	__u64 iova = IOVA;
	__u32 hwpt;

	*arg = &cmd;
	cmd = (struct iommu_hwpt_get_dirty_bitmap){
		.size = sizeof(cmd), .iova = IOVA, .length = PG, .page_size = PG,
		.data = (uintptr_t)memory->absent,
	};
	if (_test_cmd_hwpt_alloc(with->fd, with->idev, with->ioas, 0,
				 IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &hwpt, IOMMU_HWPT_DATA_NONE,
				 NULL, 0) ||
	    _test_ioctl_ioas_map(with->fd, with->ioas, memory->usual, PG, &iova,
				 IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
				 IOMMU_IOAS_MAP_READABLE))
		return 0;
	cmd.hwpt_id = hwpt;
	return IOMMU_HWPT_GET_DIRTY_BITMAP;
}

FIXTURE(stalled)
{
	struct objects objects;
	struct memory memory;
	struct before before;
	struct call asked;
	int fd;
};

FIXTURE_VARIANT(stalled)
{
	ask_fn *ask;
	/* Whether it is the structure itself that cannot be written. */
	bool answer;
	/* What becomes of it when its device is unbound meanwhile. */
	int unbound;
	/* Where in the structure the new descriptor is, if there is one. */
	size_t out_fd;
};

FIXTURE_VARIANT_ADD(stalled, hw_info)
{
	.ask = hw_info, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, hw_info_data)
{
	.ask = hw_info_data,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_paging)
{
	.ask = hwpt_paging, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_pins)
{
	.ask = hwpt_pins,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_nested)
{
	.ask = hwpt_nested, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_nested_data)
{
	.ask = hwpt_nested_data, .unbound = ENOENT,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_viommu)
{
	.ask = hwpt_viommu, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, hwpt_viommu_data)
{
	.ask = hwpt_viommu_data, .unbound = ENOENT,
};

FIXTURE_VARIANT_ADD(stalled, viommu)
{
	.ask = viommu, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, viommu_data)
{
	.ask = viommu_data,
};

FIXTURE_VARIANT_ADD(stalled, vdevice)
{
	.ask = vdevice, .answer = true, .unbound = ENOENT,
};

FIXTURE_VARIANT_ADD(stalled, veventq)
{
	.ask = veventq, .answer = true,
	.out_fd = offsetof(struct iommu_veventq_alloc, out_veventq_fd),
};

FIXTURE_VARIANT_ADD(stalled, hw_queue)
{
	.ask = hw_queue, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, fault_queue)
{
	.ask = fault_queue, .answer = true,
	.out_fd = offsetof(struct iommu_fault_alloc, out_fault_fd),
};

FIXTURE_VARIANT_ADD(stalled, ioas_alloc)
{
	.ask = ioas_alloc, .answer = true,
};

FIXTURE_VARIANT_ADD(stalled, iova_ranges)
{
	.ask = iova_ranges,
};

FIXTURE_VARIANT_ADD(stalled, vfio_info)
{
	.ask = vfio_info,
};

FIXTURE_VARIANT_ADD(stalled, dirty)
{
	.ask = dirty,
};

FIXTURE_SETUP(stalled)
{
	struct objects *with = &self->objects;
	struct iommu_hwpt_selftest data = {};
	__u32 hwpt, vdev;

	note(&self->before);
	self->fd = open("/dev/iommu", O_RDWR);
	with->fd = self->fd;
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&with->ioas);
	test_ioctl_ioas_alloc(&with->other_ioas);
	test_cmd_mock_domain(with->ioas, &with->stdev, &hwpt, &with->idev);
	test_cmd_mock_domain(with->ioas, &with->stdev2, &hwpt, &with->idev2);
	test_cmd_hwpt_alloc(with->idev, with->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT, &with->parent);
	test_cmd_viommu_alloc(with->idev, with->parent, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0,
			      &with->viommu);
	test_cmd_vdevice_alloc(with->viommu, with->idev2, 2, &vdev);
	/* Its events are the vIOMMU's. */
	test_cmd_hwpt_alloc_nested(with->idev2, with->viommu, 0, &hwpt, IOMMU_HWPT_DATA_SELFTEST,
				   &data, sizeof(data));
	test_cmd_mock_domain_replace(with->stdev2, hwpt);
	ASSERT_TRUE(get_memory(&self->memory));
	self->asked.fd = self->fd;
	self->asked.make = make_ioctl;
	self->asked.cmd = variant->ask(with, &self->memory, &self->asked.arg);
	ASSERT_NE(0, self->asked.cmd);
}

FIXTURE_TEARDOWN(stalled)
{
	if (variant->out_fd && *(int *)(self->memory.answer + variant->out_fd))
		close(*(int *)(self->memory.answer + variant->out_fd));
	if (self->fd >= 0)
		close(self->fd);
	for (int i = 0; i < 200 && mock_devices() > self->before.devices; i++)
		usleep(10000);
	EXPECT_EQ(self->before.devices, mock_devices());
	EXPECT_EQ(self->before.complaints, complaints());
}

TEST_F_TIMEOUT(stalled, unbind, 120)
{
	struct objects *with = &self->objects;
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = with->stdev };
	struct call call = {
		.fd = self->fd, .cmd = IOMMU_DESTROY, .arg = &destroy, .make = make_ioctl,
	};

	stall_it();
	meanwhile(&call);
	EXPECT_EQ(0, call.error);
	EXPECT_EQ(variant->unbound, self->asked.error);
	/* Nothing is left of it. */
	EXPECT_ERRNO(ENOENT, _test_ioctl_destroy(self->fd, with->idev));
}

TEST_F_TIMEOUT(stalled, attach, 120)
{
	struct iommu_test_cmd mock = {
		.size = sizeof(mock), .op = IOMMU_TEST_OP_MOCK_DOMAIN, .id = self->objects.ioas,
	};
	struct call call = {
		.fd = self->fd, .cmd = IOMMU_TEST_CMD, .arg = &mock, .make = make_ioctl,
	};

	stall_it();
	meanwhile(&call);
	EXPECT_EQ(0, call.error);
	EXPECT_EQ(0, self->asked.error);
}

TEST_F_TIMEOUT(stalled, map, 120)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map), .ioas_id = self->objects.ioas,
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE,
		.user_va = (uintptr_t)self->memory.usual, .length = PG, .iova = IOVA + PG,
	};
	struct call call = {
		.fd = self->fd, .cmd = IOMMU_IOAS_MAP, .arg = &map, .make = make_ioctl,
	};

	stall_it();
	meanwhile(&call);
	EXPECT_EQ(0, call.error);
	EXPECT_EQ(0, self->asked.error);
}

TEST_F_TIMEOUT(stalled, event, 120)
{
	struct iommu_test_cmd event = {
		.size = sizeof(event), .op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent = { .dev_id = self->objects.idev2 },
	};
	struct call call = {
		.fd = self->fd, .cmd = IOMMU_TEST_CMD, .arg = &event, .make = make_ioctl,
	};

	stall_it();
	meanwhile(&call);
	/* There may be no queue for it. */
	if (call.error != EOPNOTSUPP)
		EXPECT_EQ(0, call.error);
	EXPECT_EQ(0, self->asked.error);
}

/* What user space cannot be told of is undone. */
TEST_F(stalled, untold)
{
	__u32 id, again;

	if (!variant->answer)
		SKIP(return, "the structure is not what stalls");

	test_ioctl_ioas_alloc(&id);
	test_ioctl_destroy(id);
	ASSERT_EQ(0, mprotect(self->memory.answer, PG, PROT_READ));
	EXPECT_ERRNO(EFAULT, ioctl(self->asked.fd, self->asked.cmd, self->asked.arg));
	ASSERT_EQ(0, mprotect(self->memory.answer, PG, PROT_READ | PROT_WRITE));
	/* Ids that are free are given again, the lowest first. */
	test_ioctl_ioas_alloc(&again);
	EXPECT_EQ(id, again);
	/* Nothing is in the way of doing it again. */
	EXPECT_EQ(0, ioctl(self->asked.fd, self->asked.cmd, self->asked.arg));
	test_ioctl_destroy(self->objects.stdev);
}

/* A device whose page faults and events go to user space. */
FIXTURE(queues)
{
	struct memory memory;
	struct before before;
	struct call asked;
	int fd, fault_fd, event_fd;
	__u32 ioas, stdev, idev;
};

FIXTURE_SETUP(queues)
{
	struct iommu_hwpt_selftest data = {};
	__u32 parent, viommu, vdev, fault, queue, hwpt;

	note(&self->before);
	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas);
	test_cmd_mock_domain(self->ioas, &self->stdev, &hwpt, &self->idev);
	test_cmd_hwpt_alloc(self->idev, self->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT, &parent);
	test_cmd_viommu_alloc(self->idev, parent, IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0, &viommu);
	test_cmd_vdevice_alloc(viommu, self->idev, 1, &vdev);
	test_cmd_veventq_alloc(viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 4, &queue,
			       (__u32 *)&self->event_fd);
	test_ioctl_fault_alloc(&fault, (__u32 *)&self->fault_fd);
	test_cmd_hwpt_alloc_iopf(self->idev, viommu, fault, IOMMU_HWPT_FAULT_ID_VALID, &hwpt,
				 IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data));
	test_cmd_mock_domain_replace(self->stdev, hwpt);
	ASSERT_TRUE(get_memory(&self->memory));
	self->asked.arg = self->memory.absent;
}

FIXTURE_TEARDOWN(queues)
{
	close(self->event_fd);
	close(self->fault_fd);
	close(self->fd);
	for (int i = 0; i < 200 && mock_devices() > self->before.devices; i++)
		usleep(10000);
	EXPECT_EQ(self->before.devices, mock_devices());
	EXPECT_EQ(self->before.complaints, complaints());
}

#define trigger_fault(group)                                                        \
	({                                                                          \
		struct iommu_test_cmd fault = {                                     \
			.size = sizeof(fault), .op = IOMMU_TEST_OP_TRIGGER_IOPF,    \
			.trigger_iopf = {                                           \
				.dev_id = self->idev, .pasid = 0,     \
				.grpid = group, .perm = IOMMU_PGFAULT_PERM_READ,    \
			},                                                          \
		};                                                                  \
		ASSERT_EQ(0, ioctl(self->fd, IOMMU_TEST_CMD, &fault));              \
	})

static struct iommu_test_cmd replace_cmd(__u32 stdev, __u32 pt_id)
{
	return (struct iommu_test_cmd){
		.size = sizeof(struct iommu_test_cmd), .op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = stdev, .mock_domain_replace = { .pt_id = pt_id },
	};
}

/* The fault that is being read is answered with its attachment. */
TEST_F_TIMEOUT(queues, read_fault_detach, 120)
{
	struct iommu_test_cmd replace = replace_cmd(self->stdev, self->ioas);
	struct call detach = {
		.fd = self->fd, .cmd = IOMMU_TEST_CMD, .arg = &replace, .make = make_ioctl,
	};

	trigger_fault(1);
	self->asked.fd = self->fault_fd;
	self->asked.make = make_read;
	self->asked.size = sizeof(struct iommu_hwpt_pgfault);
	stall_it();
	meanwhile(&detach);
	EXPECT_EQ(0, detach.error);
	EXPECT_EQ(0, self->asked.result);
}

/* Without that all are read, in order, and can be answered. */
TEST_F_TIMEOUT(queues, read_faults, 120)
{
	struct iommu_hwpt_pgfault *faults = self->memory.absent;
	struct iommu_hwpt_page_response answers[2] = {};

	trigger_fault(1);
	self->asked.fd = self->fault_fd;
	self->asked.make = make_read;
	self->asked.size = 3 * sizeof(*faults);
	stall_it();
	trigger_fault(2);
	answer(&self->memory);
	ASSERT_TRUE(ended(&self->asked, AT_LAST));
	ASSERT_EQ(2 * sizeof(*faults), self->asked.result);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(i + 1, faults[i].grpid);
		EXPECT_EQ(self->idev, faults[i].dev_id);
		answers[i].cookie = faults[i].cookie;
		answers[i].code = IOMMUFD_PAGE_RESP_SUCCESS;
	}
	EXPECT_NE(answers[0].cookie, answers[1].cookie);
	EXPECT_EQ(sizeof(answers), write(self->fault_fd, answers, sizeof(answers)));
}

/* Where only the first of two pages can be written, what fits there is read. */
TEST_F(queues, read_faults_halfway)
{
	struct iommu_hwpt_pgfault *first = self->memory.absent - sizeof(*first), again;

	trigger_fault(1);
	trigger_fault(2);
	ASSERT_EQ(0, mprotect(self->memory.absent, PG, PROT_NONE));
	EXPECT_EQ(sizeof(*first), read(self->fault_fd, first, 2 * sizeof(*first)));
	EXPECT_EQ(1, first->grpid);
	EXPECT_ERRNO(EFAULT, read(self->fault_fd, self->memory.absent, sizeof(*first)));
	EXPECT_EQ(sizeof(again), read(self->fault_fd, &again, sizeof(again)));
	EXPECT_EQ(2, again.grpid);
}

TEST_F_TIMEOUT(queues, write_answer_detach, 120)
{
	struct iommu_hwpt_pgfault fault;
	struct iommu_test_cmd replace = replace_cmd(self->stdev, self->ioas);
	struct call detach = {
		.fd = self->fd, .cmd = IOMMU_TEST_CMD, .arg = &replace, .make = make_ioctl,
	};

	trigger_fault(1);
	ASSERT_EQ(sizeof(fault), read(self->fault_fd, &fault, sizeof(fault)));
	self->asked.fd = self->fault_fd;
	self->asked.make = make_write;
	self->asked.size = sizeof(struct iommu_hwpt_page_response);
	stall_it();
	meanwhile(&detach);
	EXPECT_EQ(0, detach.error);
	/* Nothing waits for an answer any more. */
	EXPECT_EQ(EINVAL, self->asked.error);
}

TEST_F_TIMEOUT(queues, read_event, 120)
{
	struct iommu_test_cmd event = {
		.size = sizeof(event), .op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent = { .dev_id = self->idev },
	};
	struct call call = {
		.fd = self->fd, .cmd = IOMMU_TEST_CMD, .arg = &event, .make = make_ioctl,
	};

	ASSERT_EQ(0, ioctl(self->fd, IOMMU_TEST_CMD, &event));
	self->asked.fd = self->event_fd;
	self->asked.make = make_read;
	self->asked.size = sizeof(struct iommufd_vevent_header) +
			   sizeof(struct iommu_viommu_event_selftest);
	stall_it();
	meanwhile(&call);
	EXPECT_EQ(0, call.error);
	EXPECT_EQ(self->asked.size, self->asked.result);
}

TEST_HARNESS_MAIN

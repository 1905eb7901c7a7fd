// SPDX-License-Identifier: GPL-2.0-only
/*
 * What belongs together goes in any order: dma-bufs and the hwpts that they are
 * mapped in, fault queues with faults in them, and descriptors of queues when
 * nothing else of the context is left. Needs CONFIG_IOMMUFD_TEST and no hardware.
 */
#include <sys/mman.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "iommufd_gone.h"

/* The mock hardware translates from 16 MiB on. */
#define IOVA (16UL << 20)
#define LENGTH (4 * PG)

static void swap(unsigned int *order, int i, int j)
{
	unsigned int kept = order[i];

	order[i] = order[j];
	order[j] = kept;
}

/* The next permutation, from a sorted one on; false after the last. */
static bool next_order(unsigned int *order, int n)
{
	int i = n - 2, j = n - 1;

	while (i >= 0 && order[i] > order[i + 1])
		i--;
	if (i < 0)
		return false;
	while (order[j] < order[i])
		j--;
	swap(order, i, j);
	for (i++, j = n - 1; i < j; i++, j--)
		swap(order, i, j);
	return true;
}

static const char *written(const unsigned int *order, int n, const char *letters)
{
	static char text[16];

	for (int i = 0; i < n; i++)
		text[i] = letters[order[i]];
	text[n] = 0;
	return text;
}

/* Nothing of its own: what a test leaves behind is seen when it has closed all. */
FIXTURE(order)
{
	struct before before;
	void *memory;
};

FIXTURE_SETUP(order)
{
	note(&self->before);
	self->memory = mmap(NULL, 8 * PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			    0);
	ASSERT_NE(MAP_FAILED, self->memory);
	ASSERT_TRUE(may_not_lock());
}

FIXTURE_TEARDOWN(order)
{
	const char *left = left_behind(&self->before, self->memory, 8 * PG);

	EXPECT_EQ(NULL, left)
		TH_LOG("left behind: %s", left);
	EXPECT_EQ(0, kmemleak_lines());
	munmap(self->memory, 8 * PG);
}

/* Whether a write by the device to what is mapped here arrives anywhere. */
static bool mapped(int fd, __u32 hwpt, __u64 iova)
{
	static __u64 bitmap;
	__u64 first = 1;

	bitmap = 0;
	_test_cmd_mock_domain_set_dirty(fd, hwpt, LENGTH, iova, PG, &first, NULL);
	/* Where there is no mapping at all this may be refused. */
	_test_cmd_get_dirty_bitmap(fd, hwpt, LENGTH, iova, PG, &bitmap, 0);
	return bitmap;
}

static int new_tracked(int fd, __u32 idev, __u32 ioas, __u32 *hwpt)
{
	return _test_cmd_hwpt_alloc(fd, idev, ioas, 0, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, hwpt,
				    IOMMU_HWPT_DATA_NONE, NULL, 0) ?:
	       _test_cmd_set_dirty_tracking(fd, *hwpt, true);
}

static int map_dmabuf(int fd, __u32 ioas, int dmabuf, __u64 iova)
{
	return _test_ioctl_ioas_map_file(fd, ioas, dmabuf, 0, LENGTH, &iova,
					 IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
					 IOMMU_IOAS_MAP_WRITEABLE);
}

static int unmap(int fd, __u32 ioas, __u64 iova)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd), .ioas_id = ioas, .iova = iova, .length = LENGTH };

	return ioctl(fd, IOMMU_IOAS_UNMAP, &cmd);
}

/* The two hwpts, the buffer's memory and the mapping. */
enum { ONE, TWO, REVOKE, UNMAP, EVENTS };

/* A dma-buf in two hwpts: whatever goes, what is left is mapped as it should be. */
TEST_F_TIMEOUT(order, dmabuf_in_two_hwpts, 120)
{
	for (int mapped_first = 0; mapped_first < 2; mapped_first++) {
		unsigned int order[EVENTS] = { ONE, TWO, REVOKE, UNMAP };

		do {
			bool is[EVENTS] = { true, true, true, true };
			__u32 ioas, stdev, idev, hwpt[2], third;
			int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC), dmabuf;

			ASSERT_LE(0, fd);
			ASSERT_EQ(0, _test_ioctl_ioas_alloc(fd, &ioas));
			ASSERT_EQ(0, _test_cmd_mock_domain(fd, ioas, &stdev, NULL, &idev));
			ASSERT_EQ(0, _test_cmd_get_dmabuf(fd, LENGTH, &dmabuf));
			if (mapped_first)
				ASSERT_EQ(0, map_dmabuf(fd, ioas, dmabuf, IOVA));
			for (int i = 0; i < 2; i++)
				ASSERT_EQ(0, new_tracked(fd, idev, ioas, &hwpt[i]));
			if (!mapped_first)
				ASSERT_EQ(0, map_dmabuf(fd, ioas, dmabuf, IOVA));

			for (int i = 0; i <= EVENTS; i++) {
				for (int h = 0; h < 2; h++) {
					if (!is[h])
						continue;
					EXPECT_EQ(is[REVOKE] && is[UNMAP],
						  mapped(fd, hwpt[h], IOVA))
						TH_LOG("%s, mapped %s, hwpt %d after %d",
						       written(order, EVENTS, "12ru"),
						       mapped_first ? "first" : "later", h + 1, i);
				}
				if (i == EVENTS)
					break;
				is[order[i]] = false;
				switch (order[i]) {
				case ONE:
				case TWO:
					ASSERT_EQ(0, _test_ioctl_destroy(fd, hwpt[order[i]]));
					break;
				case REVOKE:
					ASSERT_EQ(0, _test_cmd_revoke_dmabuf(fd, dmabuf, true));
					/* Nobody maps it now, and who comes finds nothing. */
					EXPECT_EQ(-1, map_dmabuf(fd, ioas, dmabuf, 2 * IOVA));
					EXPECT_EQ(ENODEV, errno);
					ASSERT_EQ(0, new_tracked(fd, idev, ioas, &third));
					EXPECT_FALSE(mapped(fd, third, IOVA));
					ASSERT_EQ(0, _test_ioctl_destroy(fd, third));
					break;
				case UNMAP:
					ASSERT_EQ(0, unmap(fd, ioas, IOVA));
					break;
				}
			}
			/* It is back, and mapped anew; the device's own hwpt is there still. */
			ASSERT_EQ(0, _test_cmd_revoke_dmabuf(fd, dmabuf, false));
			ASSERT_EQ(0, new_tracked(fd, idev, ioas, &third));
			ASSERT_EQ(0, map_dmabuf(fd, ioas, dmabuf, IOVA));
			EXPECT_TRUE(mapped(fd, third, IOVA));
			/* Its file goes before its mapping, or with it. */
			if (order[0] & 1)
				close(dmabuf);
			close(fd);
			if (!(order[0] & 1))
				close(dmabuf);
		} while (next_order(order, EVENTS));
	}
}

struct queue {
	int fd, fault;
	__u32 ioas, stdev, idev, fault_id, hwpt;
};

/* A device whose faults go to a queue. */
static int new_queue(struct queue *q)
{
	__u32 fault_fd;

	q->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (q->fd < 0 || _test_ioctl_ioas_alloc(q->fd, &q->ioas) ||
	    _test_cmd_mock_domain(q->fd, q->ioas, &q->stdev, NULL, &q->idev) ||
	    _test_ioctl_fault_alloc(q->fd, &q->fault_id, &fault_fd))
		return -1;
	q->fault = fault_fd;
	return _test_cmd_hwpt_alloc(q->fd, q->idev, q->ioas, q->fault_id,
				    IOMMU_HWPT_FAULT_ID_VALID, &q->hwpt, IOMMU_HWPT_DATA_NONE,
				    NULL, 0) ?:
	       _test_cmd_mock_domain_replace(q->fd, q->stdev, q->hwpt, NULL);
}

static int raise_fault(struct queue *q, __u64 addr)
{
	struct iommu_test_cmd cmd = { .trigger_iopf = {
		.dev_id = q->idev, .pasid = 0, .grpid = 2, .perm = IOMMU_PGFAULT_PERM_READ,
		.addr = addr } };

	return test_op(q->fd, &cmd, IOMMU_TEST_OP_TRIGGER_IOPF, 0);
}

static int answer(int fault, __u32 cookie)
{
	struct iommu_hwpt_page_response response = {
		.cookie = cookie, .code = IOMMUFD_PAGE_RESP_SUCCESS };

	return write(fault, &response, sizeof(response)) < 0 ? -errno : 0;
}

static bool readable(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	return poll(&wait, 1, 0) == 1 && wait.revents & POLLIN;
}

/* Faults that wait, and how many of them are read and not answered. */
#define WAITING 100
#define READ 40

/* The device, its hwpt, the queue, the queue's descriptor, the context's. */
enum { DEVICE, HWPT, QUEUE, DESCRIPTOR, CONTEXT, PARTS };

/* A queue goes with faults in it: each is answered once, by whoever gives up on it. */
TEST_F_TIMEOUT(order, queue_of_faults, 120)
{
	unsigned int order[PARTS] = { DEVICE, HWPT, QUEUE, DESCRIPTOR, CONTEXT };

	do {
		struct iommu_hwpt_pgfault faults[READ];
		bool is[PARTS] = { true, true, true, true, true };
		struct queue q;

		ASSERT_EQ(0, new_queue(&q));
		for (int i = 0; i < WAITING; i++)
			ASSERT_EQ(0, raise_fault(&q, i * PG));
		ASSERT_EQ(sizeof(faults), read(q.fault, faults, sizeof(faults)));
		for (int i = 0; i < READ; i++)
			ASSERT_EQ(i * PG, faults[i].addr);

		for (int i = 0; i < PARTS; i++) {
			int rc = 0, expected = 0;

			/* Without the context's descriptor there are no ioctls. */
			if (!is[CONTEXT] && order[i] != DESCRIPTOR)
				continue;
			switch (order[i]) {
			case DEVICE:
				rc = _test_ioctl_destroy(q.fd, q.stdev);
				break;
			case HWPT:
				rc = _test_ioctl_destroy(q.fd, q.hwpt);
				expected = is[DEVICE] ? EBUSY : 0;
				break;
			case QUEUE:
				rc = _test_ioctl_destroy(q.fd, q.fault_id);
				expected = is[HWPT] || is[DESCRIPTOR] ? EBUSY : 0;
				break;
			case DESCRIPTOR:
				close(q.fault);
				break;
			case CONTEXT:
				close(q.fd);
				break;
			}
			EXPECT_EQ(expected, rc ? errno : 0)
				TH_LOG("%s, %d", written(order, PARTS, "dhqfc"), i);
			is[order[i]] = rc != 0;

			if (!is[DESCRIPTOR])
				continue;
			/* With the attachment go its faults, read or not. */
			EXPECT_EQ(is[DEVICE], readable(q.fault))
				TH_LOG("%s, %d", written(order, PARTS, "dhqfc"), i);
			EXPECT_EQ(is[DEVICE] ? 0 : -EINVAL, answer(q.fault, faults[i].cookie));
			EXPECT_EQ(-EINVAL, answer(q.fault, faults[i].cookie + WAITING));
		}
		if (is[DESCRIPTOR])
			close(q.fault);
		if (is[CONTEXT])
			close(q.fd);
	} while (next_order(order, PARTS));
}

/* A context is closed when the last descriptor goes that leads to it. */
TEST_F(order, fault_queue_holds_its_context)
{
	struct iommu_hwpt_pgfault faults[WAITING];
	int devices = mock_devices(), other;
	struct queue q;

	ASSERT_EQ(0, new_queue(&q));
	for (int i = 0; i < WAITING; i++)
		ASSERT_EQ(0, raise_fault(&q, i * PG));
	other = dup(q.fault);
	ASSERT_LE(0, other);
	close(q.fd);
	/* The device is there, its faults come, and are answered. */
	EXPECT_EQ(devices + 1, mock_devices());
	ASSERT_EQ(sizeof(faults), read(q.fault, faults, sizeof(faults)));
	EXPECT_FALSE(readable(q.fault));
	for (int i = 0; i < READ; i++)
		EXPECT_EQ(0, answer(q.fault, faults[i].cookie));
	close(q.fault);
	EXPECT_EQ(0, answer(other, faults[READ].cookie));
	EXPECT_EQ(devices + 1, mock_devices());
	close(other);
}

TEST_F(order, event_queues_hold_their_context)
{
	int devices = mock_devices(), sequence = -1;

	/* Which of the two is the last, and whether there is a fault queue as well. */
	for (int way = 0; way < 4; way++) {
		__u32 parent, viommu, nested, vdev, queue, queue_fd[2];
		struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
		struct queue q;
		int events;

		ASSERT_EQ(0, new_queue(&q));
		ASSERT_EQ(0, _test_cmd_hwpt_alloc(q.fd, q.idev, q.ioas, 0,
						  IOMMU_HWPT_ALLOC_NEST_PARENT, &parent,
						  IOMMU_HWPT_DATA_NONE, NULL, 0));
		ASSERT_EQ(0, _test_cmd_viommu_alloc(q.fd, q.idev, parent, 0,
						    IOMMU_VIOMMU_TYPE_SELFTEST, NULL, 0, &viommu));
		ASSERT_EQ(0, _test_cmd_vdevice_alloc(q.fd, viommu, q.idev, 0x99, &vdev));
		ASSERT_EQ(0, _test_cmd_veventq_alloc(q.fd, viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, 4,
						     &queue, &queue_fd[0]));
		queue_fd[1] = dup(queue_fd[0]);
		ASSERT_EQ(0, _test_cmd_hwpt_alloc(q.fd, q.idev, viommu, 0, 0, &nested,
						  IOMMU_HWPT_DATA_SELFTEST, &data, sizeof(data)));
		ASSERT_EQ(0, _test_cmd_mock_domain_replace(q.fd, q.stdev, nested, NULL));
		ASSERT_EQ(0, _test_cmd_trigger_vevents(q.fd, q.idev, 3));
		if (way & 2)
			close(q.fault);
		close(q.fd);
		EXPECT_EQ(devices + 1, mock_devices());
		events = queue_fd[way & 1];
		close(queue_fd[!(way & 1)]);
		sequence = -1;
		EXPECT_EQ(0, _test_cmd_read_vevents(q.fd, events, 3, 0x99, &sequence));
		EXPECT_FALSE(readable(events));
		EXPECT_EQ(devices + 1, mock_devices());
		close(events);
		if (!(way & 2)) {
			EXPECT_EQ(devices + 1, mock_devices());
			EXPECT_FALSE(readable(q.fault));
			close(q.fault);
		}
		for (int i = 0; i < 200 && mock_devices() > devices; i++)
			usleep(10000);
		EXPECT_EQ(devices, mock_devices());
	}
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page requests on VT-d, with real DMA: a device asks for a page that is not in
 * a user's stage-1 table, the request comes out of a fault queue, user space
 * maps the page and answers, and the DMA is done. VTD_DEVICE as for
 * iommufd_vtd_pasid; without QEMU's `pasid-dma` there is nothing to do.
 */
#include <poll.h>
#include <pthread.h>

#include "kselftest_harness.h"
#include "vtd_pdma.h"

#define IOVA	0x200000ULL
#define A	(DATA_PAGE + 10)
#define B	(DATA_PAGE + 20)

struct pri {
	struct vtd v;
	uint32_t pasid;
	uint32_t fault_id, hwpt;
	int fault;
	uint64_t root;
};

static int attach(struct pri *p, uint32_t hwpt)
{
	return vtd_attach_at(&p->v, p->pasid, hwpt);
}

static int detach(struct pri *p)
{
	if (p->pasid != NO_PASID)
		return vtd_detach_pasid(&p->v, p->pasid);
	return vtd_detach(&p->v);
}

/* An empty table with a fault queue, attached. 1: not here. */
static int pri_open(struct pri *p, uint32_t pasid)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int rc = pdma_setup(&p->v, 0);

	p->pasid = pasid;
	p->fault = -1;
	if (rc)
		return rc;
	if (!vtd_is_pdma(&p->v)) {
		snprintf(p->v.why, sizeof(p->v.why), "no way to make %s send a page request",
			 p->v.bdf);
		return 1;
	}
	if (!(p->v.hw.ecap_reg & ECAP_PRS)) {
		snprintf(p->v.why, sizeof(p->v.why), "the IOMMU takes no page requests");
		return 1;
	}
	if (ioctl(p->v.iommufd, IOMMU_FAULT_QUEUE_ALLOC, &cmd))
		return vtd_fail(&p->v, "FAULT_QUEUE_ALLOC");
	p->fault_id = cmd.out_fault_id;
	p->fault = cmd.out_fault_fd;
	errno = -pdma_table(&p->v, IOVA, 0, &p->root, p->fault_id, &p->hwpt);
	if (errno)
		return vtd_fail(&p->v, "nested hwpt with a fault queue");
	errno = -attach(p, p->hwpt);
	if (errno)
		return vtd_fail(&p->v, "attach");
	return 0;
}

static void pri_close(struct pri *p)
{
	if (p->fault >= 0)
		close(p->fault);
	p->fault = -1;
	vtd_release(&p->v);
}

static unsigned int start(struct pri *p, uint32_t op, uint64_t iova, uint64_t value)
{
	return pdma_run(&p->v, op | PDMA_ATS | PDMA_PRI, p->pasid, iova, value);
}

/* The next fault; 0 when none comes. */
static int next_fault(struct pri *p, struct iommu_hwpt_pgfault *fault)
{
	struct pollfd wait = { .fd = p->fault, .events = POLLIN };

	if (poll(&wait, 1, 3000) != 1)
		return 0;
	return read(p->fault, fault, sizeof(*fault)) == sizeof(*fault);
}

static int answer(struct pri *p, uint32_t cookie, uint32_t code)
{
	struct iommu_hwpt_page_response response = { .cookie = cookie, .code = code };

	return write(p->fault, &response, sizeof(response)) < 0 ? -errno : 0;
}

FIXTURE(pri)
{
	struct pri p;
};

FIXTURE_VARIANT(pri)
{
	uint32_t pasid;
};

FIXTURE_VARIANT_ADD(pri, no_pasid)
{
	.pasid = NO_PASID,
};

FIXTURE_VARIANT_ADD(pri, pasid)
{
	.pasid = 9,
};

FIXTURE_SETUP(pri)
{
	ASSERT_SET_UP(return, pri_open(&self->p, variant->pasid), &self->p.v);
}

FIXTURE_TEARDOWN(pri)
{
	pri_close(&self->p);
}

TEST_F(pri, answered)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;

	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA + 0x10, SENTINEL));
	ASSERT_EQ(1, next_fault(p, &fault));
	EXPECT_EQ(p->v.dev_id, fault.dev_id);
	EXPECT_EQ(IOVA, fault.addr);
	EXPECT_EQ(IOMMU_PGFAULT_PERM_READ, fault.perm);
	EXPECT_NE(0, fault.flags & IOMMU_PGFAULT_FLAGS_LAST_PAGE);
	if (p->pasid == NO_PASID) {
		EXPECT_EQ(0, fault.flags & IOMMU_PGFAULT_FLAGS_PASID_VALID);
	} else {
		EXPECT_NE(0, fault.flags & IOMMU_PGFAULT_FLAGS_PASID_VALID);
		EXPECT_EQ(p->pasid, fault.pasid);
	}
	EXPECT_EQ(PDMA_WAITING, pdma_status(&p->v));
	((uint64_t *)host_of(&p->v, A))[2] = 0xabcdef;
	vtd_set(&p->v, p->root, IOVA, gpa_of(A), FS_LEAF);
	ASSERT_EQ(0, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	EXPECT_EQ(PDMA_DONE, pdma_wait(&p->v));
	EXPECT_EQ(0xabcdef, pdma_buffer(&p->v));
	/* An answer is good once. */
	EXPECT_EQ(-EINVAL, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	/* What is there needs no request. */
	EXPECT_EQ(PDMA_DONE, start(p, PDMA_READ, IOVA, SENTINEL));
	EXPECT_EQ(TOKEN(A), pdma_buffer(&p->v));
}

TEST_F(pri, refused)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;

	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	ASSERT_EQ(1, next_fault(p, &fault));
	ASSERT_EQ(0, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_INVALID));
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	EXPECT_EQ(SENTINEL, pdma_buffer(&p->v));
}

/* "Success" without the page: the device asks again. */
TEST_F(pri, asked_again)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;
	int round;

	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	for (round = 0; round < 4; round++) {
		ASSERT_EQ(1, next_fault(p, &fault));
		EXPECT_EQ(IOVA, fault.addr);
		if (round == 3)
			vtd_set(&p->v, p->root, IOVA, gpa_of(A), FS_LEAF);
		ASSERT_EQ(0, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	}
	EXPECT_EQ(PDMA_DONE, pdma_wait(&p->v));
	EXPECT_EQ(TOKEN(A), pdma_buffer(&p->v));
}

/* A page to be written, there for reading: copy on write, as a guest does it. */
TEST_F(pri, write_to_read_only)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;

	vtd_set(&p->v, p->root, IOVA, gpa_of(A), FS_P | FS_US);
	ASSERT_EQ(PDMA_DONE, start(p, PDMA_READ, IOVA, SENTINEL));
	EXPECT_EQ(TOKEN(A), pdma_buffer(&p->v));
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_WRITE, IOVA + 8, 0x77));
	ASSERT_EQ(1, next_fault(p, &fault));
	EXPECT_EQ(IOMMU_PGFAULT_PERM_WRITE, fault.perm);
	vtd_set(&p->v, p->root, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, vtd_invalidate(&p->v, p->hwpt, IOVA, 1));
	ASSERT_EQ(0, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	EXPECT_EQ(PDMA_DONE, pdma_wait(&p->v));
	EXPECT_EQ(0x77, ((uint64_t *)host_of(&p->v, B))[1]);
	EXPECT_EQ(0, ((uint64_t *)host_of(&p->v, A))[1]);
}

/* Nobody will answer any more: the kernel does. */
TEST_F(pri, detached_while_waiting)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;

	/* Not read, and then read but not answered. */
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	usleep(20000);
	ASSERT_EQ(0, detach(p));
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	ASSERT_EQ(0, attach(p, p->hwpt));
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	ASSERT_EQ(1, next_fault(p, &fault));
	ASSERT_EQ(0, detach(p));
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	EXPECT_EQ(-EINVAL, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	/* And all is well with it afterwards. */
	ASSERT_EQ(0, attach(p, p->hwpt));
	vtd_set(&p->v, p->root, IOVA, gpa_of(A), FS_LEAF);
	EXPECT_EQ(PDMA_DONE, start(p, PDMA_READ, IOVA, SENTINEL));
	EXPECT_EQ(TOKEN(A), pdma_buffer(&p->v));
}

struct asker {
	struct pri *p;
	pthread_barrier_t round;
};

#define ASK_ROUNDS	200

static void *ask(void *arg)
{
	struct asker *a = arg;
	int round, wait;

	for (round = 0; round < ASK_ROUNDS; round++) {
		pthread_barrier_wait(&a->round);
		for (wait = 0; wait < round * 50; wait++)
			__asm__ volatile("pause");
		start(a->p, PDMA_READ, IOVA, SENTINEL);
		pthread_barrier_wait(&a->round);
	}
	return NULL;
}

/*
 * Has the device ask at the moment in which it leaves @hwpt, for another one or (0)
 * for none, again and again. What it asked for is refused, or just @answered. Nothing
 * is complained of in @log.
 */
static void ask_while_leaving(struct __test_metadata *_metadata, struct pri *p, uint32_t hwpt,
			      uint32_t other, bool answered, int log)
{
	struct asker a = { .p = p };
	int round, got;
	pthread_t thread;

	pthread_barrier_init(&a.round, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, ask, &a));
	for (round = 0; round < ASK_ROUNDS; round++) {
		pthread_barrier_wait(&a.round);
		EXPECT_EQ(0, other ? attach(p, other) : detach(p));
		pthread_barrier_wait(&a.round);
		got = pdma_wait(&p->v);
		EXPECT_TRUE(answered ? got != PDMA_WAITING : got == PDMA_REFUSED)
			TH_LOG("%d", got);
		EXPECT_EQ(0, attach(p, hwpt));
	}
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&a.round);
	EXPECT_FALSE(log_has_warning(log));
}

/* What is asked for at the moment of the detaching is answered, too. */
TEST_F_TIMEOUT(pri, asks_while_detached, SLOW)
{
	ask_while_leaving(_metadata, &self->p, self->p.hwpt, 0, true, log_open());
}

/* Nor is what is asked for at the moment in which the last queue goes freed twice. */
TEST_F_TIMEOUT(pri, asks_while_replaced, SLOW)
{
	struct pri *p = &self->p;
	int log = log_open();
	uint32_t deaf;
	uint64_t root;

	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, 0, &deaf));
	ask_while_leaving(_metadata, p, p->hwpt, deaf, false, log);
}

/* Nor does who asks for what has no queue follow something that was freed. */
TEST_F_TIMEOUT(pri, asks_without_a_queue, SLOW)
{
	struct pri *p = &self->p;
	int log = log_open();
	uint32_t deaf;
	uint64_t root;

	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, 0, &deaf));
	ASSERT_EQ(0, attach(p, deaf));
	/* The device has a queue all the same. */
	ASSERT_EQ(0, p->pasid == NO_PASID ? vtd_attach_pasid(&p->v, 1, p->hwpt) :
					    vtd_attach(&p->v, p->hwpt));
	ask_while_leaving(_metadata, p, deaf, 0, false, log);
}

/* Two pages in one group: one answer, to the last, whoever gives it. */
TEST_F(pri, group_of_two)
{
	struct iommu_hwpt_pgfault fault[2];
	struct pri *p = &self->p;
	uint32_t deaf;
	uint64_t root;

	((uint32_t *)host_of(&p->v, A))[PG / 4 - 1] = 0x1234;
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ | PDMA_GROUP, IOVA + PG - 4, SENTINEL));
	ASSERT_EQ(1, poll(&(struct pollfd){ .fd = p->fault, .events = POLLIN }, 1, 3000));
	ASSERT_EQ(sizeof(fault), read(p->fault, fault, sizeof(fault)));
	EXPECT_EQ(IOVA, fault[0].addr);
	EXPECT_EQ(0, fault[0].flags & IOMMU_PGFAULT_FLAGS_LAST_PAGE);
	EXPECT_EQ(IOVA + PG, fault[1].addr);
	EXPECT_NE(0, fault[1].flags & IOMMU_PGFAULT_FLAGS_LAST_PAGE);
	EXPECT_EQ(fault[0].cookie, fault[1].cookie);
	vtd_set(&p->v, p->root, IOVA, gpa_of(A), FS_LEAF);
	vtd_set(&p->v, p->root, IOVA + PG, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, answer(p, fault[0].cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	EXPECT_EQ(PDMA_DONE, pdma_wait(&p->v));
	EXPECT_EQ((TOKEN(B) << 32) | 0x1234, pdma_buffer(&p->v));
	EXPECT_EQ(1, pdma_responses(&p->v));

	/* Nobody there to handle it. */
	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, 0, &deaf));
	ASSERT_EQ(0, attach(p, deaf));
	start(p, PDMA_READ | PDMA_GROUP, IOVA + PG - 4, SENTINEL);
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	usleep(20000);
	EXPECT_EQ(2, pdma_responses(&p->v));
}

TEST_F(pri, replaced_while_waiting)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;
	uint32_t deaf, other;
	uint64_t root, root2;

	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, 0, &deaf));
	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root2, p->fault_id, &other));
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	ASSERT_EQ(1, next_fault(p, &fault));
	ASSERT_EQ(0, attach(p, other));
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	EXPECT_EQ(-EINVAL, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	/* The other one's faults come by the same queue. */
	ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
	ASSERT_EQ(1, next_fault(p, &fault));
	vtd_set(&p->v, root2, IOVA, gpa_of(B), FS_LEAF);
	ASSERT_EQ(0, answer(p, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS));
	EXPECT_EQ(PDMA_DONE, pdma_wait(&p->v));
	EXPECT_EQ(TOKEN(B), pdma_buffer(&p->v));
	/* Without a queue a request is refused. */
	ASSERT_EQ(0, attach(p, deaf));
	start(p, PDMA_READ, IOVA, SENTINEL);
	EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
}

/*
 * What was asked of a domain that goes is drained when nothing of it is cached,
 * before it is the next one's. 0x200000045: a wait with nothing but a fence, with
 * which draining begins.
 */
TEST_F(pri, drained_when_replaced)
{
	struct iommu_hwpt_pgfault fault;
	struct pri *p = &self->p;
	uint32_t next[2];
	unsigned int i;
	uint64_t root;

	if (p->pasid == NO_PASID)
		SKIP(return, "a device without PASIDs is blocked in between");
	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, 0, &next[0]));
	next[1] = p->v.parent;
	for (i = 0; i < ARRAY_SIZE(next); i++) {
		ASSERT_EQ(0, attach(p, p->hwpt));
		ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
		ASSERT_EQ(1, next_fault(p, &fault));
		if (trace_start())
			SKIP(return, "no trace events of VT-d");
		ASSERT_EQ(0, attach(p, next[i]));
		EXPECT_TRUE(trace_stop(" pc_inv ", " 0x200000045 "))
			TH_LOG("by %s", i ? "the parent" : "a nested hwpt");
		EXPECT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	}
}

/*
 * A request that is on its way when the domain goes is not the next one's: it comes
 * before that is there, and is refused when the old one goes.
 */
TEST_F(pri, in_flight_when_replaced)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	struct pollfd next = { .events = POLLIN };
	struct pri *p = &self->p;
	uint32_t other;
	uint64_t root;
	int round;

	ASSERT_EQ(0, ioctl(p->v.iommufd, IOMMU_FAULT_QUEUE_ALLOC, &cmd));
	next.fd = cmd.out_fault_fd;
	ASSERT_EQ(0, pdma_table(&p->v, IOVA, 0, &root, cmd.out_fault_id, &other));
	for (round = 0; round < 10; round++) {
		ASSERT_EQ(0, attach(p, p->hwpt));
		ASSERT_EQ(PDMA_WAITING, start(p, PDMA_READ, IOVA, SENTINEL));
		ASSERT_EQ(0, attach(p, other));
		ASSERT_EQ(0, poll(&next, 1, 20))
			TH_LOG("round %d", round);
		ASSERT_EQ(PDMA_REFUSED, pdma_wait(&p->v));
	}
	close(next.fd);
}

/*
 * A queue of page requests is the device's for as long as something is attached
 * that has one: the kernel warns when it is not given back, or once too often.
 */
TEST(queue_is_given_back)
{
	static const unsigned int order[] = { 0, 1, 2, 0, 2, 2, 1, 0, 1 };
	uint32_t hwpt[3], pasids[] = { NO_PASID, 9 };
	int log = log_open();
	unsigned int i, n;
	struct pri p;

	ASSERT_SET_UP(return, pri_open(&p, NO_PASID), &p.v);
	hwpt[0] = p.hwpt;
	ASSERT_EQ(0, pdma_table(&p.v, IOVA, A, &p.root, p.fault_id, &hwpt[1]));
	/* Without one. */
	ASSERT_EQ(0, pdma_table(&p.v, IOVA, A, &p.root, 0, &hwpt[2]));
	for (i = 0; i < ARRAY_SIZE(pasids); i++) {
		p.pasid = pasids[i];
		for (n = 0; n < ARRAY_SIZE(order); n++)
			ASSERT_EQ(0, attach(&p, hwpt[order[n]]));
		ASSERT_EQ(0, detach(&p));
		if (p.pasid == NO_PASID)
			ASSERT_EQ(0, attach(&p, hwpt[2]));
	}
	p.pasid = NO_PASID;
	ASSERT_EQ(0, vtd_attach(&p.v, p.v.parent));
	ASSERT_EQ(0, vtd_attach(&p.v, hwpt[1]));
	ASSERT_EQ(0, vtd_attach(&p.v, p.v.ioas));
	pri_close(&p);

	/* For who is next. */
	ASSERT_EQ(0, vtd_replug(&p.v));
	EXPECT_FALSE(log_has_warning(log));
	EXPECT_EQ(0, pri_open(&p, NO_PASID))
		TH_LOG("%s", p.v.why);
	pri_close(&p);
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

/* An attach that fails half way gives its queue back. */
TEST_F_TIMEOUT(process, queue_is_given_back_after_failures, SLOW)
{
	int rc, nth, fail, failed = 0, log = log_open();
	char text[16];
	struct pri p;

	ASSERT_SET_UP(return, pri_open(&p, NO_PASID), &p.v);
	fail = open("/proc/thread-self/fail-nth", O_RDWR);
	if (fail < 0 || sysfs_write("/sys/kernel/debug/failslab/ignore-gfp-wait", "N"))
		SKIP(return, "allocations cannot be made to fail here");
	sysfs_write("/sys/kernel/debug/failslab/verbose", "0");
	for (nth = 1; nth < 100; nth++) {
		uint32_t plain;

		ASSERT_EQ(0, vtd_alloc_hwpt(&p.v, p.v.ioas, 0, NULL, 0, &plain));
		snprintf(text, sizeof(text), "%d", nth);
		ASSERT_EQ(strlen(text), pwrite(fail, text, strlen(text), 0));
		rc = vtd_attach(&p.v, plain);
		memset(text, 0, sizeof(text));
		ASSERT_LT(0, pread(fail, text, sizeof(text) - 1, 0));
		ASSERT_EQ(1, pwrite(fail, "0", 1, 0));
		failed += rc != 0;
		ASSERT_EQ(0, detach(&p));
		ASSERT_EQ(0, vtd_destroy(&p.v, plain));
		ASSERT_EQ(0, attach(&p, p.hwpt));
		/* Less allocations than that. */
		if (atoi(text))
			break;
	}
	EXPECT_LT(0, failed);
	close(fail);
	pri_close(&p);

	ASSERT_EQ(0, vtd_replug(&p.v));
	EXPECT_FALSE(log_has_warning(log));
}

/* With a PASID or without, the request read or not. */
static int ask_and_wait(int ready, unsigned int round)
{
	struct iommu_hwpt_pgfault fault;
	struct pri p;

	if (pri_open(&p, round & 1 ? 9 : NO_PASID) ||
	    start(&p, PDMA_READ, IOVA, 0) != PDMA_WAITING)
		return 1;
	if (round & 2)
		next_fault(&p, &fault);
	if (write(ready, "", 1) != 1)
		return 1;
	for (;;)
		pause();
}

/* Killed with a request under way: the device is free for the next. */
TEST_F_TIMEOUT(process, killed, SLOW)
{
	unsigned long pinned;
	unsigned int round;
	struct pri p;
	pid_t pid;

	ASSERT_SET_UP(return, pri_open(&p, 9), &p.v);
	pri_close(&p);
	pinned = vtd_pinned();
	for (round = 0; round < 10; round++) {
		pid = vtd_begin_user(ask_and_wait, round);
		ASSERT_NE(0, pid);
		EXPECT_TRUE(vtd_kill_user(pid));
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
}

/* What a user of the device can have attached at one time, with a request that waits. */
static int use_it_all(int ready, unsigned int round)
{
	uint32_t hwpt, pasid;
	uint64_t root;
	struct pri p;
	int i;

	/* Without PASID by a fault queue; by PASIDs with it and without. */
	if (pri_open(&p, NO_PASID))
		return 1;
	for (pasid = 1; pasid <= 40; pasid++) {
		if (pdma_table(&p.v, IOVA, A, &root, pasid & 1 ? p.fault_id : 0, &hwpt) ||
		    vtd_attach_pasid(&p.v, pasid, pasid % 3 ? hwpt : p.v.parent))
			return 1;
	}
	if (start(&p, PDMA_READ, IOVA, 0) != PDMA_WAITING || write(ready, "", 1) != 1)
		return 1;
	for (i = 0;; i++) {
		pasid = 1 + i % 40;
		vtd_attach_pasid(&p.v, pasid, i & 1 ? p.v.parent : hwpt);
		vtd_attach(&p.v, i % 3 ? p.hwpt : p.v.ioas);
	}
}

struct remover {
	char path[128];
	int rc;
	bool done;
};

static void *remove_device(void *arg)
{
	struct remover *remover = arg;

	remover->rc = sysfs_write(remover->path, "1");
	__atomic_store_n(&remover->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* The device is removed while its user, who has everything attached, is killed. */
TEST_F_TIMEOUT(process, killed_as_the_device_goes, SLOW)
{
	int round, log = log_open();
	unsigned long pinned;
	struct pri p;

	ASSERT_SET_UP(return, pri_open(&p, NO_PASID), &p.v);
	pri_close(&p);
	pinned = vtd_pinned();
	for (round = 0; round < 10; round++) {
		struct remover remover = {};
		pthread_t thread;
		pid_t pid;

		pid = vtd_begin_user(use_it_all, round);
		ASSERT_NE(0, pid);
		snprintf(remover.path, sizeof(remover.path), "/sys/bus/pci/devices/%s/remove",
			 p.v.bdf);
		/* Long before the user ends, at about the same time, and after that. */
		if (round % 3 == 2)
			kill(pid, SIGKILL);
		ASSERT_EQ(0, pthread_create(&thread, NULL, remove_device, &remover));
		if (round % 3 == 0) {
			usleep(200000);
			/* Nobody takes it away from who has it open. */
			EXPECT_FALSE(__atomic_load_n(&remover.done, __ATOMIC_ACQUIRE));
		}
		usleep(round * 300);
		EXPECT_TRUE(vtd_kill_user(pid));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		EXPECT_EQ(0, remover.rc);
		EXPECT_NE(0, access(remover.path, F_OK));
		ASSERT_EQ(0, sysfs_write("/sys/bus/pci/rescan", "1"));
	}
	EXPECT_EQ(pinned, vtd_unpinned(pinned));
	EXPECT_FALSE(log_has_warning(log));
	/* The next one finds nothing of it. */
	ASSERT_EQ(0, pri_open(&p, 9))
		TH_LOG("%s", p.v.why);
	vtd_set(&p.v, p.root, IOVA, gpa_of(A), FS_LEAF);
	EXPECT_EQ(PDMA_DONE, start(&p, PDMA_READ, IOVA, SENTINEL));
	EXPECT_EQ(TOKEN(A), pdma_buffer(&p.v));
	pri_close(&p);
}

TEST_HARNESS_MAIN

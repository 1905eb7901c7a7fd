// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shared virtual addresses on VT-d, with real DMA: a device uses the page table of a
 * process, asks for pages that are not there, and loses what the process unmaps,
 * protects, or takes with it when it ends. For QEMU's `pasid-dma` with the driver
 * pasid_dma/ beside this; nothing here is /dev/iommu's, but cache tags and PASID
 * entries are those that nested domains have.
 */
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "kselftest_harness.h"
#include "vtd_pdma.h"
#include "vtd_sweep.h"
#include "pasid_dma/pasid_dma.h"

#define HUGE	(2UL << 20)
#define OLD	0x01d01d01d01d01dULL
#define NEW	0x4e574e574e574e57ULL

struct sva {
	struct vtd v;
	int fd;
	uint32_t pasid;
	uint32_t how;		/* the device's translations: PDMA_ATS | PDMA_PRI or 0 */
};

/* Lets the device into this process, without taking over its registers. */
static int bind_process(struct sva *s)
{
	s->fd = open("/dev/pasid_dma", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	return ioctl(s->fd, PASID_DMA_BIND, &s->pasid) ? -errno : 0;
}

static void unbind_process(struct sva *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* A transfer of 8 bytes, with all the page requests that it takes. */
static unsigned int transfer(struct sva *s, uint32_t op, void *at, uint64_t value)
{
	pdma_start(&s->v, op | s->how, s->pasid, (uintptr_t)at, value);
	return pdma_wait(&s->v);
}

/* How a transfer ends that nothing allows. */
static unsigned int no(struct sva *s)
{
	return s->how ? PDMA_REFUSED : PDMA_FAULT;
}

static uint64_t *new_memory(size_t size, int prot)
{
	void *at = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

FIXTURE(sva)
{
	struct sva s;
	uint64_t *page;	/* there, holds OLD */
};

FIXTURE_VARIANT(sva)
{
	uint32_t how;
};

/* What the device has translated it keeps, until it is told. */
FIXTURE_VARIANT_ADD(sva, ats)
{
	.how = PDMA_ATS | PDMA_PRI,
};

/* The IOMMU translates, and keeps it in the IOTLB. */
FIXTURE_VARIANT_ADD(sva, untranslated)
{
	.how = 0,
};

FIXTURE_SETUP(sva)
{
	int rc;

	self->s.how = variant->how;
	self->s.fd = -1;
	if (!vtd_find(&self->s.v, PDMA_ID))
		SKIP(return, "no pasid-dma");
	if (access("/dev/pasid_dma", F_OK))
		SKIP(return, "the driver pasid_dma is not loaded");
	ASSERT_EQ(0, pdma_map_registers(&self->s.v));
	rc = bind_process(&self->s);
	if (rc == -EOPNOTSUPP || rc == -ENODEV)
		SKIP(return, "no shared virtual addresses here: %s", strerror(-rc));
	ASSERT_EQ(0, rc);
	self->page = new_memory(PG, PROT_READ | PROT_WRITE);
	ASSERT_NE(NULL, self->page);
	*self->page = OLD;
}

FIXTURE_TEARDOWN(sva)
{
	unbind_process(&self->s);
}

TEST_F(sva, reads_and_writes)
{
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page + 1, NEW));
	EXPECT_EQ(NEW, self->page[1]);
	EXPECT_EQ(OLD, self->page[0]);
	/* Without a PASID it is not in this process. */
	EXPECT_NE(PDMA_DONE, pdma_run(&self->s.v, PDMA_READ, NO_PASID, (uintptr_t)self->page, 0));
}

/* Pages that come when they are asked for, to read and to write. */
TEST_F(sva, absent)
{
	uint64_t *fresh = new_memory(4 * PG, PROT_READ | PROT_WRITE);
	unsigned int before = pdma_responses(&self->s.v);

	ASSERT_NE(NULL, fresh);
	if (!self->s.how) {
		EXPECT_EQ(PDMA_FAULT, transfer(&self->s, PDMA_READ, fresh, 0));
		EXPECT_EQ(PDMA_FAULT, transfer(&self->s, PDMA_WRITE, fresh + 512, NEW));
		EXPECT_EQ(before, pdma_responses(&self->s.v));
		EXPECT_EQ(0, fresh[512]);
		return;
	}
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, fresh, 0));
	EXPECT_EQ(0, pdma_buffer(&self->s.v));
	EXPECT_EQ(before + 1, pdma_responses(&self->s.v));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, fresh + 512, NEW));
	EXPECT_EQ(NEW, fresh[512]);
	/* First to read, which is no page of its own yet, then to write. */
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, fresh, NEW));
	EXPECT_EQ(NEW, fresh[0]);
}

TEST_F(sva, refused)
{
	uint64_t *none = new_memory(2 * PG, PROT_NONE);
	uint64_t *fixed = new_memory(PG, PROT_READ);

	ASSERT_NE(NULL, none);
	ASSERT_NE(NULL, fixed);
	ASSERT_EQ(0, munmap(none + 512, PG));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, none, 0));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, none + 512, 0));
	EXPECT_EQ(0, fixed[0]);
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, fixed, 0));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_WRITE, fixed, NEW));
	EXPECT_EQ(0, fixed[0]);
	/* The kernel's half, and no canonical address at all. */
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, (void *)0xffff888000001000UL, 0));
	EXPECT_NE(PDMA_DONE, transfer(&self->s, PDMA_READ, (void *)(1UL << 60), 0));
	/* That was nobody's end. */
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
}

/* What is unmapped is not reached any more, and what comes there next is. */
TEST_F(sva, unmapped)
{
	void *at = self->page;
	uint64_t *file;
	int fd;

	fd = memfd_create("sva", MFD_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PG));
	file = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, file);
	ASSERT_EQ(at, mmap(at, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0));
	*self->page = OLD;
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page + 1, OLD));
	EXPECT_EQ(OLD, file[1]);

	ASSERT_EQ(0, munmap(at, PG));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_WRITE, self->page + 1, NEW));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, file[1]);

	ASSERT_EQ(at, mmap(at, PG, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	*self->page = NEW;
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(NEW, pdma_buffer(&self->s.v));
}

/* The same by mapping another page over it, in one step. */
TEST_F(sva, replaced)
{
	void *at = self->page;
	uint64_t *other = new_memory(PG, PROT_READ | PROT_WRITE);

	ASSERT_NE(NULL, other);
	*other = NEW;
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
	ASSERT_EQ(at, mremap(other, PG, PG, MREMAP_MAYMOVE | MREMAP_FIXED, at));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(NEW, pdma_buffer(&self->s.v));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, other, 0));
}

TEST_F(sva, protected)
{
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page + 1, OLD));
	ASSERT_EQ(0, mprotect(self->page, PG, PROT_READ));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_WRITE, self->page + 1, NEW));
	EXPECT_EQ(OLD, self->page[1]);
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	ASSERT_EQ(0, mprotect(self->page, PG, PROT_NONE));
	EXPECT_EQ(no(&self->s), transfer(&self->s, PDMA_READ, self->page, 0));
	ASSERT_EQ(0, mprotect(self->page, PG, PROT_READ | PROT_WRITE));
	*self->page = NEW;
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(NEW, pdma_buffer(&self->s.v));
}

/* Many pages at a time, small ones and, where the kernel has made one, a huge one. */
static void range_unmapped(struct __test_metadata *_metadata, struct sva *s, bool huge)
{
	char *all = (char *)new_memory(3 * HUGE, PROT_READ | PROT_WRITE), *at;
	uint64_t off;

	ASSERT_NE(NULL, all);
	at = (char *)(((uintptr_t)all + HUGE - 1) & ~(HUGE - 1));
	ASSERT_EQ(0, madvise(at, HUGE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	for (off = 0; off < HUGE; off += PG)
		*(uint64_t *)(at + off) = OLD + off;
	for (off = 0; off < HUGE; off += HUGE / 16) {
		EXPECT_EQ(PDMA_DONE, transfer(s, PDMA_READ, at + off, 0));
		EXPECT_EQ(OLD + off, pdma_buffer(&s->v));
	}
	/* One page of it first, by which a huge page is broken up. */
	ASSERT_EQ(0, munmap(at + HUGE / 16, PG));
	EXPECT_EQ(no(s), transfer(s, PDMA_READ, at + HUGE / 16, 0));
	EXPECT_EQ(PDMA_DONE, transfer(s, PDMA_READ, at, 0));
	ASSERT_EQ(0, munmap(at, HUGE));
	for (off = 0; off < HUGE; off += HUGE / 16)
		EXPECT_EQ(no(s), transfer(s, PDMA_READ, at + off, 0))
			TH_LOG("offset %lx", off);
}

TEST_F(sva, range_unmapped)
{
	range_unmapped(_metadata, &self->s, false);
}

TEST_F(sva, huge_page_unmapped)
{
	range_unmapped(_metadata, &self->s, true);
}

/* What a device writes after fork() is the process's own. */
TEST_F(sva, forked)
{
	int ready[2], go[2], status;
	char byte = 0;
	pid_t child;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page + 1, OLD));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		byte = self->page[1] != OLD;
		if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(2);
		_exit(self->page[1] != OLD);
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, byte);
	if (self->s.how) {
		EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page + 1, NEW));
		EXPECT_EQ(NEW, self->page[1]);
	} else {
		/* Nobody can make it a page of its own. */
		EXPECT_EQ(PDMA_FAULT, transfer(&self->s, PDMA_WRITE, self->page + 1, NEW));
		EXPECT_EQ(OLD, self->page[1]);
	}
	ASSERT_EQ(1, write(go[1], &byte, 1));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status) TH_LOG("the child sees what was written after it had left");
}

/* A process is bound once; what is asked for twice stays until both have done. */
TEST_F(sva, bound_twice)
{
	struct sva second = self->s;

	ASSERT_EQ(0, bind_process(&second));
	EXPECT_EQ(self->s.pasid, second.pasid);
	EXPECT_EQ(-1, ioctl(second.fd, PASID_DMA_BIND, &second.pasid));
	EXPECT_EQ(EBUSY, errno);
	unbind_process(&self->s);
	EXPECT_EQ(PDMA_DONE, transfer(&second, PDMA_READ, self->page, 0));
	unbind_process(&second);
	EXPECT_NE(PDMA_DONE, transfer(&second, PDMA_READ, self->page, 0));
	/* And from the beginning. */
	ASSERT_EQ(0, bind_process(&self->s));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
}

struct told {
	uint32_t pasid, error, bound;
	int fd;
};

static struct told *shared_memory(void)
{
	void *at = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* A process that binds itself, says so, and waits; its page at @at holds NEW. */
static pid_t another_process(struct told *told, void *at)
{
	pid_t child = fork();

	if (!child) {
		struct sva s = { .fd = -1 };

		if (mmap(at, PG, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
			_exit(1);
		*(uint64_t *)at = NEW;
		told->error = -bind_process(&s);
		told->pasid = s.pasid;
		told->fd = s.fd;
		__atomic_store_n(&told->bound, 1, __ATOMIC_SEQ_CST);
		for (;;)
			pause();
	}
	while (child > 0 && !__atomic_load_n(&told->bound, __ATOMIC_SEQ_CST))
		usleep(1000);
	return child;
}

/* Each in its own memory, at the same address. */
TEST_F(sva, two_processes)
{
	struct told *told = shared_memory();
	struct sva other = self->s;
	pid_t child;

	ASSERT_NE(NULL, told);
	child = another_process(told, self->page);
	ASSERT_LT(0, child);
	ASSERT_EQ(0, told->error);
	other.pasid = told->pasid;
	EXPECT_NE(self->s.pasid, other.pasid);
	for (int round = 0; round < 2; round++) {
		EXPECT_EQ(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
		EXPECT_EQ(NEW, pdma_buffer(&self->s.v));
		EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
		EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
	}
	/* What ends takes its own along, and nothing else. */
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, NULL, 0));
	EXPECT_NE(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
}

/*
 * A process ends while the device is at work in its memory, with and without page
 * requests: transfers end one way or the other, and from then on none gets there.
 */
TEST_F(sva, ends_in_mid_dma)
{
	struct told *told = shared_memory();
	struct sva other = self->s;
	unsigned int status, round, done;
	pid_t child;

	ASSERT_NE(NULL, told);
	for (round = 0; round < 8; round++) {
		time_t end;

		told->bound = 0;
		child = another_process(told, self->page);
		ASSERT_LT(0, child);
		ASSERT_EQ(0, told->error);
		other.pasid = told->pasid;
		for (done = 0; done < 3 + round; done++)
			EXPECT_EQ(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
		ASSERT_EQ(0, kill(child, SIGKILL));
		end = time(NULL) + 30;
		do {
			status = transfer(&other, done++ & 1 ? PDMA_WRITE : PDMA_READ,
					  self->page, NEW);
			ASSERT_NE(PDMA_WAITING, status) TH_LOG("no answer");
		} while (status == PDMA_DONE && time(NULL) < end);
		EXPECT_NE(PDMA_DONE, status) TH_LOG("after its end there is memory");
		ASSERT_EQ(child, waitpid(child, NULL, 0));
		EXPECT_NE(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
		EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
		EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
	}
}

/* A process ends, and another one still has the file by which it was bound. */
TEST_F(sva, outlived)
{
	struct told *told = shared_memory();
	struct sva other = self->s;
	bool traced;
	int pidfd;
	pid_t child;

	ASSERT_NE(NULL, told);
	child = another_process(told, self->page);
	ASSERT_LT(0, child);
	ASSERT_EQ(0, told->error);
	pidfd = syscall(SYS_pidfd_open, child, 0);
	ASSERT_LE(0, pidfd);
	other.fd = syscall(SYS_pidfd_getfd, pidfd, told->fd, 0);
	ASSERT_LE(0, other.fd);
	other.pasid = told->pasid;
	EXPECT_EQ(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
	EXPECT_EQ(NEW, pdma_buffer(&self->s.v));
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, NULL, 0));
	/* Its page table is gone, and what lies there now is somebody else's. */
	EXPECT_NE(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
	EXPECT_NE(PDMA_DONE, transfer(&other, PDMA_WRITE, self->page, NEW));
	/*
	 * Only now is what it asked for drained, which begins with a wait with nothing but
	 * a fence and ends with the caches.
	 */
	traced = !trace_start();
	unbind_process(&other);
	if (traced)
		EXPECT_TRUE(trace_stop(" 0x200000045 ", " p_iotlb_inv "));
	EXPECT_NE(PDMA_DONE, transfer(&other, PDMA_READ, self->page, 0));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
	close(pidfd);
}

/* A process unbinds, and its page requests are on their way. */
TEST_F(sva, unbound_in_mid_dma)
{
	uint64_t *fresh;
	unsigned int round;

	for (round = 0; round < 8; round++) {
		fresh = new_memory(16 * PG, PROT_READ | PROT_WRITE);
		ASSERT_NE(NULL, fresh);
		pdma_start(&self->s.v, PDMA_WRITE | self->s.how, self->s.pasid,
			   (uintptr_t)fresh, NEW);
		unbind_process(&self->s);
		EXPECT_NE(PDMA_WAITING, pdma_wait(&self->s.v)) TH_LOG("no answer");
		EXPECT_NE(PDMA_DONE, transfer(&self->s, PDMA_WRITE, self->page, NEW));
		EXPECT_EQ(OLD, *self->page);
		ASSERT_EQ(0, bind_process(&self->s));
		EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
		ASSERT_EQ(0, munmap(fresh, 16 * PG));
	}
}

/* One run of a sweep, by a process that nothing was bound to before. */
struct run {
	struct sweep s;
	int rc, again;		/* of the bind in which a step fails, and of the next one */
	uint32_t pasid;
	unsigned int bound, unbound;	/* how transfers ended then */
	uint64_t read;
};

static int run_of_bind(struct run *r, struct sva s, uint64_t *page)
{
	unsigned int n = r->s.n;

	*page = NEW;
	s.fd = open("/dev/pasid_dma", O_RDWR | O_CLOEXEC);
	if (s.fd < 0)
		return 1;
	sweep_begin(&r->s);
	r->s.n = n;
	if (!sweep_arm(&r->s))
		return 1;
	r->rc = sweep_disarm(&r->s, ioctl(s.fd, PASID_DMA_BIND, &s.pasid) ? -errno : 0);
	if (r->rc)
		r->again = ioctl(s.fd, PASID_DMA_BIND, &s.pasid) ? -errno : 0;
	r->pasid = s.pasid;
	r->bound = transfer(&s, PDMA_READ, page, 0);
	r->read = pdma_buffer(&s.v);
	unbind_process(&s);
	r->unbound = transfer(&s, PDMA_READ, page, 0);
	return 0;
}

/*
 * Whether a process that binds now gets a PASID of at most this one: they are given from the
 * lowest on. One is free again when the last has let go of the memory of the process that had
 * it, and that may be a processor that has run nothing since.
 */
static bool comes_to(uint32_t pasid, struct run *r, struct sva s)
{
	cpu_set_t all, one;
	unsigned int i, tries;
	pid_t child;

	if (sched_getaffinity(0, sizeof(all), &all))
		return false;
	for (tries = 0; tries < 5000; tries++) {
		child = fork();
		if (!child) {
			r->pasid = bind_process(&s) ? UINT32_MAX : s.pasid;
			_exit(0);
		}
		if (child < 0 || waitpid(child, NULL, 0) != child)
			return false;
		if (r->pasid <= pasid)
			return true;
		for (i = 0; i < CPU_SETSIZE; i++) {
			if (!CPU_ISSET(i, &all))
				continue;
			CPU_ZERO(&one);
			CPU_SET(i, &one);
			sched_setaffinity(0, sizeof(one), &one);
		}
		sched_setaffinity(0, sizeof(all), &all);
		usleep(1000);
	}
	return false;
}

/* Each step of a bind fails once: it says so, leaves nothing behind, and the next works. */
TEST_F_TIMEOUT(sva, bind_fails, 120)
{
	struct run *r = (void *)shared_memory();
	unsigned int failed = 0;
	uint32_t first = 0;
	int status;
	pid_t child;

	if (access("/proc/self/fail-nth", F_OK))
		SKIP(return, "fault injection is not enabled in the kernel");
	ASSERT_NE(NULL, r);
	/* What the device has as long as anybody is bound comes and goes, too. */
	unbind_process(&self->s);
	do {
		child = fork();
		ASSERT_LE(0, child);
		if (!child)
			_exit(run_of_bind(r, self->s, self->page));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_EQ(0, status);
		/* The last one is of a PASID that cannot be had. */
		EXPECT_TRUE(!r->rc || r->rc == -ENOMEM || r->rc == -EFAULT || r->rc == -ENOSPC)
			TH_LOG("%d in run %u", r->rc, r->s.n);
		EXPECT_TRUE(r->s.hit || !r->rc)
			TH_LOG("%d in run %u, where nothing failed", r->rc, r->s.n);
		EXPECT_EQ(0, r->again)
			TH_LOG("after %d in run %u", r->rc, r->s.n);
		EXPECT_EQ(PDMA_DONE, r->bound);
		EXPECT_EQ(NEW, r->read);
		EXPECT_NE(PDMA_DONE, r->unbound);
		failed += r->rc != 0;
		/* The PASID of the first is free again. */
		first = first ?: r->pasid;
		ASSERT_TRUE(comes_to(first, r, self->s))
			TH_LOG("after run %u: %u, not %u", r->s.n, r->pasid, first);
	} while (r->s.hit);
	TH_LOG("%u steps failed, %u with an error", r->s.n - 1, failed);
	EXPECT_LT(4, failed);
	ASSERT_EQ(0, bind_process(&self->s));
	EXPECT_EQ(PDMA_DONE, transfer(&self->s, PDMA_READ, self->page, 0));
	EXPECT_EQ(OLD, pdma_buffer(&self->s.v));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOMMU_IOAS_MAP_FILE: which files may be mapped and how, what is pinned when it
 * fails, and which process pays. Needs CONFIG_IOMMUFD_TEST, a tmpfs in /tmp and
 * no hardware.
 */
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"

#define PG 4096UL
#define MB (1UL << 20)
#define KB_OF(pages) ((long)(pages) * 4)
/* The mock hardware translates from 16 MiB on. */
#define IOVA (32 * MB)

#define R IOMMU_IOAS_MAP_READABLE
#define W IOMMU_IOAS_MAP_WRITEABLE

FIXTURE(file)
{
	int fd, file;
	__u32 ioas_id;
};

FIXTURE_SETUP(file)
{
	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	self->file = memfd_create("file", MFD_ALLOW_SEALING);
	ASSERT_NE(-1, self->file);
	ASSERT_EQ(0, ftruncate(self->file, 64 * PG));
}

FIXTURE_TEARDOWN(file)
{
	close(self->file);
	teardown_iommufd(self->fd, _metadata);
}

static int map_file(int fd, __u32 ioas, int file, __u64 length, __u64 iova, unsigned int flags)
{
	return _test_ioctl_ioas_map_file(fd, ioas, file, 0, length, &iova,
					 flags | IOMMU_IOAS_MAP_FIXED_IOVA) ?
		       errno :
		       0;
}

static int copy(int fd, __u32 to, __u32 from, __u64 length, unsigned int flags)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = flags | IOMMU_IOAS_MAP_FIXED_IOVA,
		.dst_ioas_id = to,
		.src_ioas_id = from,
		.length = length,
		.dst_iova = IOVA,
		.src_iova = IOVA,
	};

	return ioctl(fd, IOMMU_IOAS_COPY, &cmd) ? errno : 0;
}

/* What mmap() says to the same. */
static int map_shared(int file, unsigned int flags)
{
	int prot = (flags & R ? PROT_READ : 0) | (flags & W ? PROT_WRITE : 0);
	void *at = mmap(NULL, PG, prot, MAP_SHARED, file, 0);

	if (at == MAP_FAILED)
		return errno;
	munmap(at, PG);
	return 0;
}

static int add_seal(int file, int seal)
{
	return fcntl(file, F_ADD_SEALS, seal) ? errno : 0;
}

static int reopen(int file, int mode)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	return open(path, mode);
}

/* A file that was open for reading could be written to, one open for writing be read. */
TEST_F(file, by_mode)
{
	static const unsigned int kinds[] = { R, W, R | W };
	static const struct {
		int mode;
		/* For reading, for writing, for both. */
		int errors[3];
	} table[] = {
		{ O_RDWR, { 0, 0, 0 } },
		{ O_RDONLY, { 0, EACCES, EACCES } },
		{ O_WRONLY, { EACCES, EACCES, EACCES } },
	};
	int files[3] = { self->file, open("/tmp/file", O_RDWR | O_CREAT, 0600),
			 memfd_create("huge", MFD_HUGETLB) };

	for (size_t f = 0; f < ARRAY_SIZE(files); f++) {
		ASSERT_NE(-1, files[f]);
		ASSERT_EQ(0, ftruncate(files[f], 2 * MB));
		for (size_t m = 0; m < ARRAY_SIZE(table); m++) {
			int file = reopen(files[f], table[m].mode);

			ASSERT_NE(-1, file);
			for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
				int ret = map_file(self->fd, self->ioas_id, file, 2 * MB, IOVA,
						   kinds[k]);

				EXPECT_EQ(table[m].errors[k], ret)
					TH_LOG("file %zu, mode %d, flags %x", f, table[m].mode,
					       kinds[k]);
				/* hugetlbfs wants a length of its own. */
				if (f != 2) {
					EXPECT_EQ(map_shared(file, kinds[k]), ret)
						TH_LOG("mmap() of file %zu, mode %d, flags %x", f,
						       table[m].mode, kinds[k]);
				}
				if (!ret)
					test_ioctl_ioas_unmap(IOVA, 2 * MB);
			}
			close(file);
		}
	}
	unlink("/tmp/file");
	close(files[1]);
	close(files[2]);
}

/* What is for appending only can be mapped by who opened it for reading only. */
TEST_F(file, for_appending)
{
	int file = open("/tmp/log", O_RDWR | O_CREAT, 0600), flags = FS_APPEND_FL, reader;

	ASSERT_NE(-1, file);
	ASSERT_EQ(0, ftruncate(file, PG));
	reader = open("/tmp/log", O_RDONLY);
	ASSERT_NE(-1, reader);
	if (ioctl(file, FS_IOC_SETFLAGS, &flags))
		SKIP(return, "this tmpfs has no such flag");
	EXPECT_EQ(EACCES, map_shared(file, R));
	EXPECT_EQ(EACCES, map_file(self->fd, self->ioas_id, file, PG, IOVA, R));
	EXPECT_EQ(EACCES, map_file(self->fd, self->ioas_id, file, PG, IOVA, R | W));
	EXPECT_EQ(0, map_file(self->fd, self->ioas_id, reader, PG, IOVA, R));
	flags = 0;
	EXPECT_EQ(0, ioctl(file, FS_IOC_SETFLAGS, &flags));
	unlink("/tmp/log");
	close(reader);
	close(file);
}

/* A memfd that was sealed against writing could be written to. */
TEST_F(file, by_seals)
{
	static const int seals[] = { F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
				     F_SEAL_WRITE | F_SEAL_FUTURE_WRITE };

	for (unsigned int huge = 0; huge < 2; huge++) {
		for (size_t i = 0; i < ARRAY_SIZE(seals); i++) {
			int file = memfd_create("sealed",
						MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0));
			int reader;

			ASSERT_NE(-1, file);
			ASSERT_EQ(0, ftruncate(file, 2 * MB));
			reader = reopen(file, O_RDONLY);
			ASSERT_EQ(0, add_seal(file, seals[i]));
			EXPECT_EQ(EPERM, map_file(self->fd, self->ioas_id, file, 2 * MB, IOVA, W))
				TH_LOG("seals %x, huge %u", seals[i], huge);
			EXPECT_EQ(EPERM, map_file(self->fd, self->ioas_id, file, 2 * MB, IOVA,
						  R | W))
				TH_LOG("seals %x, huge %u", seals[i], huge);
			EXPECT_EQ(EACCES,
				  map_file(self->fd, self->ioas_id, reader, 2 * MB, IOVA, R | W));
			EXPECT_EQ(0, map_file(self->fd, self->ioas_id, file, 2 * MB, IOVA, R));
			test_ioctl_ioas_unmap(IOVA, 2 * MB);
			EXPECT_EQ(0, map_file(self->fd, self->ioas_id, reader, 2 * MB, IOVA, R));
			test_ioctl_ioas_unmap(IOVA, 2 * MB);
			close(reader);
			close(file);
		}
	}
}

/* What cannot be written through the descriptor is not written by an access or by way of a copy. */
TEST_F(file, read_only_stays_read_only)
{
	struct iommu_test_cmd rw = {
		.size = sizeof(rw),
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.access_rw = { .iova = IOVA, .length = 7, .uptr = (uintptr_t)"CHANGED" },
	};
	int reader = reopen(self->file, O_RDONLY);
	__u32 access, other;
	char seen[8] = "";

	ASSERT_NE(-1, reader);
	ASSERT_EQ(7, pwrite(self->file, "theirs.", 7, 0));
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, reader, PG, IOVA, R));
	test_cmd_create_access(self->ioas_id, &access, 0);
	rw.id = access;
	rw.access_rw.flags = MOCK_ACCESS_RW_WRITE;
	EXPECT_ERRNO(EPERM, ioctl(self->fd, _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_RW), &rw));
	rw.access_rw.flags = 0;
	rw.access_rw.uptr = (uintptr_t)seen;
	EXPECT_EQ(0, ioctl(self->fd, _IOMMU_TEST_CMD(IOMMU_TEST_OP_ACCESS_RW), &rw));
	EXPECT_STREQ("theirs.", seen);
	test_ioctl_ioas_alloc(&other);
	EXPECT_EQ(EPERM, copy(self->fd, other, self->ioas_id, PG, R | W));
	EXPECT_EQ(EPERM, copy(self->fd, other, self->ioas_id, PG, W));
	EXPECT_EQ(0, copy(self->fd, other, self->ioas_id, PG, R));
	test_cmd_destroy_access(access);
	close(reader);
}

/*
 * As long as memory of a file may be written through a mapping, there can be no seal against
 * writing, whether it is pinned or not; when the last such mapping went there can.
 */
TEST_F(file, a_mapping_keeps_the_seal_away)
{
	enum { UNMAP, DESTROY, CLOSE, COPIED, NR_ENDS };

	for (unsigned int pinned = 0; pinned < 2; pinned++) {
		for (unsigned int end = 0; end < NR_ENDS; end++) {
			int fd = open("/dev/iommu", O_RDWR);
			int file = memfd_create("sealed", MFD_ALLOW_SEALING);
			__u32 ioas, other, stdev = 0;
			__u64 iova = IOVA;

			ASSERT_NE(-1, fd);
			ASSERT_NE(-1, file);
			ASSERT_EQ(0, ftruncate(file, PG));
			ASSERT_EQ(0, _test_ioctl_ioas_alloc(fd, &ioas));
			ASSERT_EQ(0, _test_ioctl_ioas_alloc(fd, &other));
			if (pinned)
				ASSERT_EQ(0, _test_cmd_mock_domain(fd, ioas, &stdev, NULL, NULL));
			ASSERT_EQ(0, map_file(fd, ioas, file, PG, IOVA, R | W));
			EXPECT_EQ(EBUSY, add_seal(file, F_SEAL_WRITE))
				TH_LOG("pinned %u, end %u", pinned, end);
			switch (end) {
			case COPIED:
				/* The copy may be made writable again. */
				ASSERT_EQ(0, copy(fd, other, ioas, PG, R));
				ASSERT_EQ(0, _test_ioctl_ioas_unmap(fd, ioas, IOVA, PG, NULL));
				EXPECT_EQ(EBUSY, add_seal(file, F_SEAL_WRITE));
				ASSERT_EQ(0, copy(fd, ioas, other, PG, R | W));
				ASSERT_EQ(0, _test_ioctl_ioas_unmap(fd, other, IOVA, PG, NULL));
				EXPECT_EQ(EBUSY, add_seal(file, F_SEAL_WRITE));
				ASSERT_EQ(0, _test_ioctl_ioas_unmap(fd, ioas, IOVA, PG, NULL));
				break;
			case UNMAP:
				ASSERT_EQ(0, _test_ioctl_ioas_unmap(fd, ioas, IOVA, PG, NULL));
				break;
			case DESTROY:
				if (stdev)
					ASSERT_EQ(0, _test_ioctl_destroy(fd, stdev));
				ASSERT_EQ(0, _test_ioctl_destroy(fd, ioas));
				break;
			case CLOSE:
				close(fd);
				fd = -1;
				break;
			}
			EXPECT_EQ(0, add_seal(file, F_SEAL_WRITE))
				TH_LOG("pinned %u, end %u", pinned, end);
			close(fd);
			close(file);
		}
	}
}

/* A mapping that was not made, or that may only be read, keeps no seal away. */
TEST_F(file, what_failed_keeps_no_seal_away)
{
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PG, IOVA, R));
	EXPECT_EQ(EEXIST, map_file(self->fd, self->ioas_id, self->file, PG, IOVA, R | W));
	EXPECT_EQ(ENOENT, map_file(self->fd, 0x7fffffff, self->file, PG, IOVA + PG, R | W));
	EXPECT_EQ(EINVAL, map_file(self->fd, self->ioas_id, self->file, -PG, IOVA + PG, R | W));
	EXPECT_EQ(0, add_seal(self->file, F_SEAL_WRITE));
	EXPECT_EQ(EPERM, map_file(self->fd, self->ioas_id, self->file, PG, IOVA + PG, R | W));
}

/* What was mapped before the seal against new mappings stays as it is. */
TEST_F(file, future_writes)
{
	__u32 other;

	test_ioctl_ioas_alloc(&other);
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PG, IOVA, R | W));
	ASSERT_EQ(0, add_seal(self->file, F_SEAL_FUTURE_WRITE));
	EXPECT_EQ(EPERM, map_file(self->fd, other, self->file, PG, IOVA, R | W));
	EXPECT_EQ(0, copy(self->fd, other, self->ioas_id, PG, R | W));
	EXPECT_EQ(EBUSY, add_seal(self->file, F_SEAL_WRITE));
	test_ioctl_ioas_unmap(IOVA, PG);
	EXPECT_EQ(EBUSY, add_seal(self->file, F_SEAL_WRITE));
	test_ioctl_ioas_unmap_id(other, IOVA, PG);
	EXPECT_EQ(0, add_seal(self->file, F_SEAL_WRITE));
}

/* In kB; -1 if it is not told. */
static long vm_pin(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long kb = -1;

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmPin: %ld", &kb) == 1)
			break;
	if (status)
		fclose(status);
	return kb;
}

static int change_process(int fd)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return ioctl(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd) ? errno : 0;
}

/* Becomes a user who may pin that many pages. */
static int become(uid_t user, unsigned long pages)
{
	struct rlimit limit = { pages * PG, pages * PG };

	return setrlimit(RLIMIT_MEMLOCK, &limit) || setresuid(user, user, user) ? errno : 0;
}

#define PAGES 32

/* The child takes over what the parent pinned, and ends it. Returns what went wrong there. */
static int taken_over_by_child(int fd, __u32 ioas)
{
	int status;
	pid_t child = fork();

	if (!child) {
		int wrong = change_process(fd);

		if (wrong)
			_exit(wrong);
		if (vm_pin() != KB_OF(PAGES))
			_exit(201);
		/* Once more changes nothing. */
		if (change_process(fd) || vm_pin() != KB_OF(PAGES))
			_exit(202);
		if (_test_ioctl_ioas_unmap(fd, ioas, IOVA, PAGES * PG, NULL))
			_exit(203);
		_exit(vm_pin() ? 204 : 0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Of what was mapped with CAP_IPC_LOCK the new process paid back what it had never paid. */
TEST_F(file, another_process_pays)
{
	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
	ASSERT_EQ(KB_OF(PAGES), vm_pin());
	EXPECT_EQ(0, taken_over_by_child(self->fd, self->ioas_id));
	EXPECT_EQ(0, vm_pin());
	/* And the seal is possible, as the mapping went. */
	EXPECT_EQ(0, add_seal(self->file, F_SEAL_WRITE));
}

/* The same without the capability. The user pays twice while the change is made. */
TEST_F(file, another_process_of_the_user_pays)
{
	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	ASSERT_EQ(0, become(2001, 2 * PAGES));
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
	ASSERT_EQ(KB_OF(PAGES), vm_pin());
	EXPECT_EQ(0, taken_over_by_child(self->fd, self->ioas_id));
	EXPECT_EQ(0, vm_pin());
	/* All of the limit is there again. */
	EXPECT_EQ(0, map_file(self->fd, self->ioas_id, self->file, 2 * PAGES * PG, IOVA, R | W));
	EXPECT_EQ(KB_OF(2 * PAGES), vm_pin());
	/* What exceeds it changes nothing. */
	EXPECT_EQ(ENOMEM, taken_over_by_child(self->fd, self->ioas_id));
	EXPECT_EQ(KB_OF(2 * PAGES), vm_pin());
	test_ioctl_ioas_unmap(IOVA, 2 * PAGES * PG);
	EXPECT_EQ(0, vm_pin());
}

/* One page too many gives all back. */
TEST_F(file, limit_of_pins)
{
	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	ASSERT_EQ(0, become(2002, PAGES));
	for (unsigned int i = 0; i < 3; i++) {
		EXPECT_EQ(ENOMEM, map_file(self->fd, self->ioas_id, self->file, (PAGES + 1) * PG,
					   IOVA, R | W));
		EXPECT_EQ(0, vm_pin());
	}
	EXPECT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
	EXPECT_EQ(KB_OF(PAGES), vm_pin());
	EXPECT_EQ(ENOMEM, map_file(self->fd, self->ioas_id, self->file, PG, IOVA + MB, R | W));
	test_ioctl_ioas_unmap(IOVA, PAGES * PG);
	EXPECT_EQ(0, vm_pin());
	EXPECT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
}

/* Pages are paid for once, however many page tables and IOASes share them by copies. */
TEST_F(file, shared_pins_are_paid_once)
{
	__u32 stdev, idev, hwpt, other, other_stdev;

	test_cmd_mock_domain(self->ioas_id, &stdev, NULL, &idev);
	test_ioctl_ioas_alloc(&other);
	test_cmd_mock_domain(other, &other_stdev, NULL, NULL);
	ASSERT_EQ(0, become(2003, PAGES));
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
	for (unsigned int i = 0; i < 4; i++) {
		test_cmd_hwpt_alloc(idev, self->ioas_id, 0, &hwpt);
		EXPECT_EQ(KB_OF(PAGES), vm_pin());
	}
	EXPECT_EQ(0, copy(self->fd, other, self->ioas_id, PAGES * PG, R | W));
	EXPECT_EQ(KB_OF(PAGES), vm_pin());
	/* The copy pays on when the first mapping went. */
	test_ioctl_ioas_unmap(IOVA, PAGES * PG);
	EXPECT_EQ(KB_OF(PAGES), vm_pin());
	test_ioctl_ioas_unmap_id(other, IOVA, PAGES * PG);
	EXPECT_EQ(0, vm_pin());
}

/* A file that is mapped twice is pinned twice. */
TEST_F(file, mapped_twice_is_paid_twice)
{
	__u32 other, other_stdev;

	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	test_ioctl_ioas_alloc(&other);
	test_cmd_mock_domain(other, &other_stdev, NULL, NULL);
	ASSERT_EQ(0, become(2004, 2 * PAGES - 1));
	ASSERT_EQ(0, map_file(self->fd, self->ioas_id, self->file, PAGES * PG, IOVA, R | W));
	EXPECT_EQ(ENOMEM, map_file(self->fd, other, self->file, PAGES * PG, IOVA, R | W));
	EXPECT_EQ(KB_OF(PAGES), vm_pin());
	EXPECT_EQ(0, map_file(self->fd, other, self->file, (PAGES - 1) * PG, IOVA, R | W));
	EXPECT_EQ(KB_OF(2 * PAGES - 1), vm_pin());
}

/* Memory of a device is nobody's memory. */
TEST_F(file, dmabufs_are_free)
{
	int dmabuf;

	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	test_cmd_get_dmabuf(PAGES * PG, &dmabuf);
	ASSERT_EQ(0, become(2005, 0));
	EXPECT_EQ(0, map_file(self->fd, self->ioas_id, dmabuf, PAGES * PG, IOVA, R | W));
	EXPECT_EQ(0, vm_pin());
	EXPECT_EQ(ENOMEM, map_file(self->fd, self->ioas_id, self->file, PG, IOVA + MB, R | W));
	close(dmabuf);
}

static bool write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return ok;
}

#define SCATTERED 7

/*
 * Unpinning took the array of folios for full, so that folios of an earlier chunk were unpinned
 * once more when a shorter last chunk was mapped in part. Pages are pinned by fours here and
 * mapped by twos; the fifth needs a new table, which cannot be had.
 */
TEST_F(file, failing_unpins_once)
{
	/* No page lies right behind the one before it. */
	static const unsigned int order[SCATTERED] = { 3, 0, 5, 2, 6, 1, 4 };
	char *memory = mmap(NULL, SCATTERED * PG, PROT_READ | PROT_WRITE, MAP_SHARED,
			    self->file, 0);
	int nth = open("/proc/thread-self/fail-nth", O_RDWR), failed = 0, ret;
	__u64 iova = IOVA - 4 * PG;

	if (!write_to("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N") ||
	    !write_to("/sys/kernel/debug/fail_page_alloc/min-order", "0") ||
	    !write_to("/sys/kernel/debug/fail_page_alloc/verbose", "0") || nth < 0)
		SKIP(return, "needs CONFIG_FAIL_PAGE_ALLOC");
	ASSERT_NE(MAP_FAILED, memory);
	for (unsigned int i = 0; i < SCATTERED; i++)
		memory[order[i] * PG] = 1;
	test_cmd_mock_domain(self->ioas_id, NULL, NULL, NULL);
	test_ioctl_set_temp_memory_limit(32);
	for (unsigned int n = 1;; n++) {
		char text[16], left[16] = "";

		snprintf(text, sizeof(text), "%u", n);
		ASSERT_EQ(strlen(text), pwrite(nth, text, strlen(text), 0));
		ret = map_file(self->fd, self->ioas_id, self->file, SCATTERED * PG, iova, R | W);
		ASSERT_LT(0, pread(nth, left, sizeof(left), 0));
		ASSERT_EQ(1, pwrite(nth, "0", 1, 0));
		if (ret) {
			/* Each kind of failure has its own error. */
			failed++;
			check_refs(memory, SCATTERED * PG, 0);
		} else {
			check_refs(memory, SCATTERED * PG, 1);
			test_ioctl_ioas_unmap(iova, SCATTERED * PG);
			check_refs(memory, SCATTERED * PG, 0);
		}
		/* All that could fail did. */
		if (atoi(left))
			break;
		ASSERT_GT(1000, n);
	}
	EXPECT_LT(3, failed);
	test_ioctl_set_default_memory_limit();
	munmap(memory, SCATTERED * PG);
	close(nth);
}

TEST_HARNESS_MAIN

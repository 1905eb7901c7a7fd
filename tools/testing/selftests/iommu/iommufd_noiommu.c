// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices without an IOMMU: user space maps as usual, asks for the physical
 * address behind an IOVA, and programs its device with that.
 *
 * Needs CONFIG_VFIO_NOIOMMU, CONFIG_IOMMUFD_TEST, huge pages, and a PCI device
 * that no IOMMU translates: the first `edu` of QEMU's, or VTD_DEVICE=bdf. Taints
 * the kernel.
 */
#include <sys/mman.h>
#include <sys/wait.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"
#include "vtd_engine.h"

#define ALLOW	"/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
#define IOVA	0x10000000ULL
#define HUGE	MIB2
#define PAGES	64U

/* Opens the character device of a PCI device that has no IOMMU. */
static int open_noiommu(struct vtd *v)
{
	char path[300];
	struct dirent *e;
	int fd = -1;
	DIR *dir;

	/* Binds it to vfio-pci; there is none with the usual name. */
	fd = vtd_open_device(v);
	if (fd >= 0) {
		close(fd);
		return -1;
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", v->bdf);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (strncmp(e->d_name, "noiommu-vfio", 12))
			continue;
		snprintf(path, sizeof(path), "/dev/vfio/devices/%s", e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		break;
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* Lets the device do DMA, and user space see its registers. */
static int start_device(struct vtd *v)
{
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	struct vfio_region_info cfg = {
		.argsz = sizeof(cfg),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	uint16_t command;

	if (ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &bar) ||
	    ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &cfg) ||
	    pread(v->dev, &command, 2, cfg.offset + 4) != 2)
		return -1;
	command |= 0x6;
	if (pwrite(v->dev, &command, 2, cfg.offset + 4) != 2)
		return -1;
	v->bar_size = bar.size;
	v->bar = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, v->dev, bar.offset);
	return v->bar == MAP_FAILED ? -1 : 0;
}

static int get_pa(int fd, uint32_t ioas, uint64_t iova, uint64_t *length, uint64_t *phys)
{
	struct iommu_ioas_noiommu_get_pa cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.iova = iova,
		.length = *length,
	};

	if (ioctl(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd))
		return -1;
	*length = cmd.length;
	*phys = cmd.out_phys;
	return 0;
}

FIXTURE(noiommu)
{
	struct vtd v;
	int fd;
	uint32_t ioas_id, hwpt_id;
	unsigned char *memory;
};

static int attach(struct vtd *v, uint32_t *pt_id)
{
	struct vfio_device_attach_iommufd_pt cmd = { .argsz = sizeof(cmd), .pt_id = *pt_id };

	if (ioctl(v->dev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd))
		return -1;
	*pt_id = cmd.pt_id;
	return 0;
}

static int detach(struct vtd *v)
{
	struct vfio_device_detach_iommufd_pt cmd = { .argsz = sizeof(cmd) };

	return ioctl(v->dev, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd);
}

FIXTURE_SETUP(noiommu)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vtd *v = &self->v;
	unsigned int page;

	memset(v, 0, sizeof(*v));
	v->dev = -1;
	if (access(ALLOW, F_OK))
		SKIP(return, "this kernel has no VFIO_NOIOMMU");
	ASSERT_EQ(0, sysfs_write(ALLOW, "1"));
	if (!vtd_find(v, EDU_ID))
		SKIP(return, "no device: name one with VTD_DEVICE=0000:01:00.0");
	self->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	v->dev = open_noiommu(v);
	if (v->dev < 0)
		SKIP(return, "the device has an IOMMU");
	bind.iommufd = self->fd;
	ASSERT_EQ(0, ioctl(v->dev, VFIO_DEVICE_BIND_IOMMUFD, &bind));
	v->dev_id = bind.out_devid;
	test_ioctl_ioas_alloc(&self->ioas_id);
	self->hwpt_id = self->ioas_id;
	ASSERT_EQ(0, attach(v, &self->hwpt_id));

	/* Touched backwards, so that neighbours may be none in memory. */
	self->memory = mmap(NULL, PAGES * PG, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	for (page = PAGES; page--;)
		*(uint64_t *)(self->memory + page * PG) = TOKEN(page);
}

FIXTURE_TEARDOWN(noiommu)
{
	vtd_close_device(&self->v);
	if (self->memory)
		munmap(self->memory, PAGES * PG);
	if (self->fd > 0)
		teardown_iommufd(self->fd, _metadata);
}

/* The physical address is one that the device finds the memory at. */
TEST_F(noiommu, dma)
{
	uint64_t from, to, length = 8;

	if (!vtd_is_edu(&self->v))
		SKIP(return, "no edu");
	ASSERT_EQ(0, start_device(&self->v));
	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + 3 * PG, &length, &from));
	EXPECT_EQ(8, length);
	ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + 9 * PG + 0x18, &length, &to));
	EXPECT_EQ(0x18, to % PG);
	ASSERT_EQ(0, vtd_edu.dma(&self->v, false, from));
	ASSERT_EQ(0, vtd_edu.dma(&self->v, true, to));
	EXPECT_EQ(TOKEN(3), *(uint64_t *)(self->memory + 9 * PG + 0x18));
	EXPECT_EQ(TOKEN(9), *(uint64_t *)(self->memory + 9 * PG));
}

/* A length ends where the memory is not contiguous, or where the caller said. */
TEST_F(noiommu, runs)
{
	uint64_t pa[PAGES], length, phys, run;
	unsigned int page, next;

	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	for (page = 0; page < PAGES; page++) {
		length = PG;
		ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + page * PG, &length, &pa[page]));
		ASSERT_EQ(PG, length);
		ASSERT_EQ(0, pa[page] % PG);
	}
	for (page = 0; page < PAGES; page++) {
		for (next = page + 1; next < PAGES && pa[next] == pa[next - 1] + PG;)
			next++;
		run = (next - page) * PG;
		length = UINT64_MAX;
		ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + page * PG, &length, &phys));
		EXPECT_EQ(run, length);
		EXPECT_EQ(pa[page], phys);
		length = run + 1;
		ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + page * PG, &length, &phys));
		EXPECT_EQ(run, length);
		length = run - 1;
		ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + page * PG, &length, &phys));
		EXPECT_EQ(run - 1, length);
		length = UINT64_MAX;
		ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + page * PG + 0x123, &length,
				    &phys));
		EXPECT_EQ(run - 0x123, length);
		EXPECT_EQ(pa[page] + 0x123, phys);
	}
}

TEST_F(noiommu, huge_page)
{
	uint64_t length = 2 * HUGE, phys;
	void *huge;

	huge = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (huge == MAP_FAILED)
		SKIP(return, "no huge pages");
	test_ioctl_ioas_map_fixed(huge, HUGE, IOVA);
	ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA, &length, &phys));
	EXPECT_EQ(HUGE, length);
	EXPECT_EQ(0, phys % HUGE);
	length = 1;
	ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA + HUGE - 1, &length, &phys));
	EXPECT_EQ(1, length);
	EXPECT_EQ(HUGE - 1, phys % HUGE);
	test_ioctl_ioas_unmap(IOVA, HUGE);
	EXPECT_ERRNO(ENOENT, get_pa(self->fd, self->ioas_id, IOVA, &length, &phys));
	munmap(huge, HUGE);
}

TEST_F(noiommu, refused)
{
	struct iommu_ioas_noiommu_get_pa cmd = {
		.size = sizeof(cmd),
		.ioas_id = self->ioas_id,
		.iova = IOVA,
		.length = PG,
	};

	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	ASSERT_EQ(0, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.length = PG;
	cmd.flags = 1;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.flags = 0;
	cmd.__reserved = 1;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.__reserved = 0;
	cmd.length = 0;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.length = PG;
	cmd.iova = UINT64_MAX;
	EXPECT_ERRNO(EOVERFLOW, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.iova = IOVA + PAGES * PG;
	EXPECT_ERRNO(ENOENT, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.iova = IOVA - 1;
	EXPECT_ERRNO(ENOENT, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	cmd.iova = IOVA;
	cmd.ioas_id = self->hwpt_id;
	EXPECT_ERRNO(ENOENT, ioctl(self->fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
}

/* Only who may touch hardware may know. */
TEST_F(noiommu, privilege)
{
	uint64_t length = PG, phys;
	int status;
	pid_t pid;

	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setuid(65534))
			_exit(2);
		_exit(get_pa(self->fd, self->ioas_id, IOVA, &length, &phys) == -1 &&
		      errno == EPERM ? 0 : 1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/* Where hardware translates, or nothing has asked for pages, there is nothing to know. */
TEST_F(noiommu, other_domains)
{
	uint32_t other, stdev, hwpt, idev;
	uint64_t length = PG, phys;

	test_ioctl_ioas_alloc(&other);
	test_ioctl_ioas_map_fixed_id(other, self->memory, PG, IOVA);
	EXPECT_ERRNO(EOPNOTSUPP, get_pa(self->fd, other, IOVA, &length, &phys));
	test_cmd_mock_domain(other, &stdev, &hwpt, &idev);
	test_ioctl_ioas_map_fixed_id(other, self->memory, PG, IOVA + PG);
	EXPECT_ERRNO(EOPNOTSUPP, get_pa(self->fd, other, IOVA + PG, &length, &phys));
	test_ioctl_destroy(stdev);
	test_ioctl_destroy(other);
}

/* What maps before the device is attached is there afterwards too. */
TEST_F(noiommu, attach_late)
{
	uint64_t length = PG, phys;
	uint32_t other, hwpt;

	test_ioctl_ioas_alloc(&other);
	self->ioas_id = other;
	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	EXPECT_ERRNO(EOPNOTSUPP, get_pa(self->fd, other, IOVA, &length, &phys));
	/* To VFIO that is a replace. */
	hwpt = other;
	ASSERT_EQ(0, attach(&self->v, &hwpt));
	EXPECT_NE(self->hwpt_id, hwpt);
	ASSERT_EQ(0, get_pa(self->fd, other, IOVA, &length, &phys));
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, other));
	ASSERT_EQ(0, detach(&self->v));
	EXPECT_ERRNO(EOPNOTSUPP, get_pa(self->fd, other, IOVA, &length, &phys));
	test_ioctl_destroy(other);
}

/* A page table that user space asked for, and what there is none of. */
TEST_F(noiommu, objects)
{
	struct iommu_hw_info info = { .size = sizeof(info), .dev_id = self->v.dev_id };
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = self->v.dev_id,
	};
	uint64_t length = PG, phys;
	uint32_t hwpt, flags;

	for (flags = 1; flags; flags <<= 1) {
		struct iommu_hwpt_alloc cmd = {
			.size = sizeof(cmd),
			.flags = flags,
			.dev_id = self->v.dev_id,
			.pt_id = self->ioas_id,
		};

		/* A fault queue has to be there first. */
		EXPECT_EQ(-1, ioctl(self->fd, IOMMU_HWPT_ALLOC, &cmd));
		EXPECT_EQ(flags == IOMMU_HWPT_FAULT_ID_VALID ? ENOENT : EOPNOTSUPP, errno);
	}
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_GET_HW_INFO, &info));

	test_cmd_hwpt_alloc(self->v.dev_id, self->ioas_id, 0, &hwpt);
	viommu.hwpt_id = hwpt;
	EXPECT_ERRNO(EOPNOTSUPP, ioctl(self->fd, IOMMU_VIOMMU_ALLOC, &viommu));
	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	ASSERT_EQ(0, attach(&self->v, &hwpt));
	ASSERT_EQ(0, get_pa(self->fd, self->ioas_id, IOVA, &length, &phys));
	EXPECT_ERRNO(EBUSY, _test_ioctl_destroy(self->fd, hwpt));
	ASSERT_EQ(0, detach(&self->v));
	test_ioctl_destroy(hwpt);
}

/* Closing either file first is fine. */
TEST_F(noiommu, close)
{
	test_ioctl_ioas_map_fixed(self->memory, PAGES * PG, IOVA);
	close(self->fd);
	close(self->v.dev);
	self->v.dev = -1;
	self->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

TEST_HARNESS_MAIN

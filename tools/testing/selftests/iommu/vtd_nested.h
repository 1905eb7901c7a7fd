/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the nested-translation kselftest and its demonstration share: a PCI
 * device taken over through VFIO, guest-like memory behind an IOAS, and stage-1
 * tables in that memory. How the device does DMA: vtd_engine.h.
 *
 * Addresses: a GIOVA is what the device puts on the bus; stage 1 (tables in
 * the memory below, written by this program as a guest would) turns it into a
 * GPA; stage 2 (the IOAS) turns that into the host's memory. The memory lies at
 * GPA_BASE; GPA page n is page (n ^ SCATTER) of the mapping in the data area, so
 * that neighbours in GPA are none in memory.
 */
#ifndef VTD_NESTED_H
#define VTD_NESTED_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "iommufd_log.h"

#define PG		4096ULL
#define MIB2		(2ULL << 20)
#define GPA_BASE	0x40000000ULL
#define MEM_PAGES	1536U		/* 6 MiB, each page mapped by itself */
#define TABLE_PAGES	256U		/* the first ones hold stage-1 tables */
#define STAGE_PAGE	256U		/* the device's buffer goes through it */
#define ENGINE_PAGE	257U		/* the device's queues, at their GPA in all tables */
#define DATA_PAGE	512U		/* 2 MiB aligned: free for the tests */
#define SCATTER		3U
/* Seconds for a test that needs many set-ups, on an emulated and busy machine. */
#define SLOW		(8 * TEST_TIMEOUT_DEFAULT)

#define STAGE_IOVA	0x10000ULL	/* of STAGE_PAGE in every table */

#define FS_P		(1ULL << 0)
#define FS_RW		(1ULL << 1)
#define FS_US		(1ULL << 2)
#define FS_A		(1ULL << 5)
#define FS_D		(1ULL << 6)
#define FS_PS		(1ULL << 7)
#define FS_ADDR		0x000ffffffffff000ULL
#define FS_LEAF		(FS_P | FS_RW | FS_US)

/* Where MSIs are written to; ends before MSI_END. */
#define MSI_START	0xfee00000ULL
#define MSI_END		0xfef00000ULL

#define CAP_FL5LP	(1ULL << 60)
#define ECAP_SC		(1ULL << 7)
#define ECAP_NEST	(1ULL << 26)
#define ECAP_SRS	(1ULL << 31)
#define ECAP_EAFS	(1ULL << 34)
#define ECAP_SLADS	(1ULL << 45)
#define ECAP_SLTS	(1ULL << 46)
#define ECAP_FLTS	(1ULL << 47)

#define ECAP_SMTS	(1ULL << 43)
#define ECAP_PRS	(1ULL << 29)
#define ECAP_PASID	(1ULL << 40)

#define EDU_ID		0x11e81234U
#define PDMA_ID		0x00da1b36U	/* see vtd_pdma.h */
#define SENTINEL	0x5e5e5e5e5e5e5e5eULL
/* Not each engine shows all 64 bits, see vtd_engine.h. */
#define TOKEN(page)	(0x70ce000000000000ULL | (uint64_t)(page) << 24)

struct vtd_engine;

struct vtd {
	char bdf[32];
	char why[256];		/* what went wrong in setup, or why there is no engine */
	uint32_t pci_id;
	int iommufd, dev;
	uint32_t dev_id, ioas, parent;
	struct iommu_hw_info_vtd hw;
	uint64_t hw_caps;
	unsigned int pasid_bits;
	unsigned char *mem;
	unsigned char *bar;
	void *mem_map;
	size_t bar_size;
	unsigned int next_table;	/* first unused page for tables */
	const struct vtd_engine *engine;
	void *engine_state;
	uint64_t engine_table;		/* maps its pages: an entry of level 3 is to point to it */
};

static inline uint64_t gpa_of(unsigned int page)
{
	return GPA_BASE + page * PG;
}

/* The host page behind a GPA page: scattered in the data area. */
static inline unsigned int host_page(unsigned int page)
{
	return page >= DATA_PAGE ? page ^ SCATTER : page;
}

static inline void *host_of(struct vtd *v, unsigned int page)
{
	return v->mem + host_page(page) * PG;
}

static inline uint64_t *entry_of(struct vtd *v, uint64_t table, unsigned int index)
{
	return (uint64_t *)(v->mem + (table - GPA_BASE)) + index;
}

static inline int sysfs_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), rc;

	if (fd < 0)
		return -errno;
	rc = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static inline unsigned int sysfs_hex(const char *bdf, const char *name)
{
	char path[128];
	unsigned int value = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%x", &value) != 1)
			value = 0;
		fclose(f);
	}
	return value;
}

/* As EDU_ID. */
static inline uint32_t pci_id_of(const char *bdf)
{
	return sysfs_hex(bdf, "vendor") | sysfs_hex(bdf, "device") << 16;
}

static inline bool vtd_is_edu(const struct vtd *v)
{
	return v->pci_id == EDU_ID;
}

static inline bool vtd_is_pdma(const struct vtd *v)
{
	return v->pci_id == PDMA_ID;
}

/* The first device with @id that @wanted, if given, says yes to, in @v; or false. */
static inline bool vtd_search(struct vtd *v, uint32_t id,
			      bool (*wanted)(const struct vtd *v, void *arg), void *arg)
{
	struct dirent *e;
	bool found = false;
	DIR *dir;

	dir = opendir("/sys/bus/pci/devices");
	while (dir && !found && (e = readdir(dir))) {
		snprintf(v->bdf, sizeof(v->bdf), "%.31s", e->d_name);
		v->pci_id = pci_id_of(v->bdf);
		found = v->pci_id == id && (!wanted || wanted(v, arg));
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Whether the kernel was told not to use scalable mode. */
static inline bool vtd_legacy_by_request(void)
{
	char line[4096] = "";
	FILE *f = fopen("/proc/cmdline", "r");

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	return strstr(line, "sm_off");
}

/* The device to use: VTD_DEVICE=bdf, or the first one with @id. */
static inline bool vtd_find(struct vtd *v, uint32_t id)
{
	const char *given = getenv("VTD_DEVICE");

	if (!given)
		return vtd_search(v, id, NULL, NULL);
	snprintf(v->bdf, sizeof(v->bdf), "%s", given);
	v->pci_id = pci_id_of(v->bdf);
	return true;
}

/*
 * Opens the VFIO character device of the PCI device. QEMU's devices for tests are
 * bound to vfio-pci if they are not; others are somebody's, see vtd_take.c.
 */
static inline int vtd_open_device(struct vtd *v)
{
	char path[300];
	struct dirent *e;
	int fd = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", v->bdf);
	if (access(path, F_OK) && (vtd_is_edu(v) || vtd_is_pdma(v))) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver/unbind", v->bdf);
		sysfs_write(path, v->bdf);
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", v->bdf);
		sysfs_write(path, "vfio-pci");
		sysfs_write("/sys/bus/pci/drivers_probe", v->bdf);
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", v->bdf);
	}
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (strncmp(e->d_name, "vfio", 4))
			continue;
		snprintf(path, sizeof(path), "/dev/vfio/devices/%s", e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		break;
	}
	if (dir)
		closedir(dir);
	return fd;
}

static inline int vtd_map_gpa(struct vtd *v, uint32_t ioas, uint64_t gpa, void *host, uint64_t len)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)host,
		.length = len,
		.iova = gpa,
	};

	return ioctl(v->iommufd, IOMMU_IOAS_MAP, &map) ? -errno : 0;
}

static inline int vtd_unmap_gpa(struct vtd *v, uint32_t ioas, uint64_t gpa, uint64_t len)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = ioas,
		.iova = gpa,
		.length = len,
	};

	return ioctl(v->iommufd, IOMMU_IOAS_UNMAP, &unmap) ? -errno : 0;
}

/* How many pages a set-up maps; fewer in a test with many set-ups. */
static unsigned int mapped_pages = MEM_PAGES;

/* So much of the memory page by page, the data area in scattered order. */
static inline int vtd_map_memory(struct vtd *v, uint32_t ioas)
{
	unsigned int page;
	int rc = 0;

	for (page = 0; !rc && page < mapped_pages; page++)
		rc = vtd_map_gpa(v, ioas, gpa_of(page), host_of(v, page), PG);
	return rc;
}

static inline int vtd_alloc_ioas(struct vtd *v, uint32_t *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	int rc = ioctl(v->iommufd, IOMMU_IOAS_ALLOC, &cmd) ? -errno : 0;

	*id = cmd.out_ioas_id;
	return rc;
}

static inline int vtd_alloc_hwpt(struct vtd *v, uint32_t pt_id, uint32_t flags,
				 const struct iommu_hwpt_vtd_s1 *s1, uint32_t fault, uint32_t *id)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = v->dev_id,
		.pt_id = pt_id,
		.data_type = s1 ? IOMMU_HWPT_DATA_VTD_S1 : IOMMU_HWPT_DATA_NONE,
		.data_len = s1 ? sizeof(*s1) : 0,
		.data_uptr = (uintptr_t)s1,
		.fault_id = fault,
	};

	int rc = ioctl(v->iommufd, IOMMU_HWPT_ALLOC, &cmd) ? -errno : 0;

	*id = cmd.out_hwpt_id;
	return rc;
}

static inline int vtd_alloc_nested(struct vtd *v, uint32_t parent, uint64_t root, uint32_t width,
				   uint32_t *id)
{
	struct iommu_hwpt_vtd_s1 s1 = { .pgtbl_addr = root, .addr_width = width };

	return vtd_alloc_hwpt(v, parent, 0, &s1, 0, id);
}

static inline int vtd_destroy(struct vtd *v, uint32_t id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(v->iommufd, IOMMU_DESTROY, &cmd) ? -errno : 0;
}

static inline int vtd_attach(struct vtd *v, uint32_t pt_id)
{
	struct vfio_device_attach_iommufd_pt cmd = { .argsz = sizeof(cmd), .pt_id = pt_id };

	return ioctl(v->dev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

static inline int vtd_detach(struct vtd *v)
{
	struct vfio_device_detach_iommufd_pt cmd = { .argsz = sizeof(cmd) };

	return ioctl(v->dev, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

/*
 * Attaches @pt_id by way of the IOAS: after an attach that failed the kernel
 * may believe that nothing has changed.
 */
static inline int vtd_reattach(struct vtd *v, uint32_t pt_id)
{
	int rc = vtd_attach(v, v->ioas);

	return rc ? rc : vtd_attach(v, pt_id);
}

static inline int vtd_invalidate(struct vtd *v, uint32_t hwpt, uint64_t addr, uint64_t npages)
{
	struct iommu_hwpt_vtd_s1_invalidate inv = { .addr = addr, .npages = npages };
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = hwpt,
		.data_uptr = (uintptr_t)&inv,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
		.entry_len = sizeof(inv),
		.entry_num = 1,
	};

	return ioctl(v->iommufd, IOMMU_HWPT_INVALIDATE, &cmd) ? -errno : 0;
}

static inline int vtd_attach_pasid(struct vtd *v, uint32_t pasid, uint32_t pt_id)
{
	struct vfio_device_attach_iommufd_pt cmd = {
		.argsz = sizeof(cmd),
		.flags = VFIO_DEVICE_ATTACH_PASID,
		.pt_id = pt_id,
		.pasid = pasid,
	};

	return ioctl(v->dev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

static inline int vtd_detach_pasid(struct vtd *v, uint32_t pasid)
{
	struct vfio_device_detach_iommufd_pt cmd = {
		.argsz = sizeof(cmd),
		.flags = VFIO_DEVICE_DETACH_PASID,
		.pasid = pasid,
	};

	return ioctl(v->dev, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

/* An empty stage-1 table; its GPA. */
static inline uint64_t vtd_new_table(struct vtd *v)
{
	unsigned int page = v->next_table++;

	if (page >= TABLE_PAGES)
		abort();
	memset(v->mem + page * PG, 0, PG);
	return gpa_of(page);
}

/* The stage-1 entry for @iova at @level, making the tables above it. */
static inline uint64_t *vtd_entry(struct vtd *v, uint64_t root, unsigned int levels,
				  uint64_t iova, unsigned int level)
{
	uint64_t table = root;
	unsigned int at;

	for (at = levels; at > level; at--) {
		uint64_t *e = entry_of(v, table, (iova >> (12 + 9 * (at - 1))) & 511);

		if (!(*e & FS_P))
			*e = vtd_new_table(v) | FS_LEAF;
		table = *e & FS_ADDR;
	}
	return entry_of(v, table, (iova >> (12 + 9 * (level - 1))) & 511);
}

static inline void vtd_set(struct vtd *v, uint64_t root, uint64_t iova, uint64_t gpa, uint64_t bits)
{
	*vtd_entry(v, root, 4, iova, 1) = gpa | bits;
}

/* Maps the staging page and what the engine needs. */
static inline void vtd_set_engine(struct vtd *v, uint64_t root, unsigned int levels)
{
	*vtd_entry(v, root, levels, STAGE_IOVA, 1) = gpa_of(STAGE_PAGE) | FS_LEAF;
	if (v->engine_table)
		*vtd_entry(v, root, levels, GPA_BASE, 3) = v->engine_table | FS_LEAF;
}

/* A root table with these. */
static inline uint64_t vtd_new_root(struct vtd *v)
{
	uint64_t root = vtd_new_table(v);

	vtd_set_engine(v, root, 4);
	return root;
}

static inline uint64_t *vtd_stage(struct vtd *v)
{
	return host_of(v, STAGE_PAGE);
}

static inline int vtd_fail(struct vtd *v, const char *what)
{
	snprintf(v->why, sizeof(v->why), "%s: %s", what, strerror(errno));
	return -1;
}

static inline void vtd_fill(struct vtd *v)
{
	unsigned int page;

	for (page = DATA_PAGE; page < MEM_PAGES; page++)
		*(uint64_t *)host_of(v, page) = TOKEN(page);
}

/* Memory space and bus master, which a reset takes away. */
static inline int vtd_enable(struct vtd *v)
{
	struct vfio_region_info cfg = {
		.argsz = sizeof(cfg),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	uint16_t command;

	if (ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &cfg) ||
	    pread(v->dev, &command, 2, cfg.offset + 4) != 2)
		return -1;
	command |= 0x6;
	return pwrite(v->dev, &command, 2, cfg.offset + 4) == 2 ? 0 : -1;
}

/* Pages pinned, all told. */
static inline unsigned long vtd_pinned(void)
{
	unsigned long value, pinned = 0;
	char word[64];
	FILE *f;

	/* The processors' own counts are added up first. */
	sysfs_write("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "r");
	while (f && fscanf(f, "%63s %lu", word, &value) == 2) {
		if (!strcmp(word, "nr_foll_pin_acquired"))
			pinned += value;
		else if (!strcmp(word, "nr_foll_pin_released"))
			pinned -= value;
	}
	if (f)
		fclose(f);
	return pinned;
}

/* Waits until no more than @pinned pages are; what there are then. */
static inline unsigned long vtd_unpinned(unsigned long pinned)
{
	int tries;

	for (tries = 0; tries < 100 && vtd_pinned() != pinned; tries++)
		usleep(20000);
	return vtd_pinned();
}

/* How much of this program's memory is huge pages, as `smaps_rollup` says it. */
static inline unsigned long vtd_huge_pages(void)
{
	unsigned long kib = 0;
	char line[256];
	FILE *f;

	f = fopen("/proc/self/smaps_rollup", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			break;
	}
	if (f)
		fclose(f);
	return kib;
}

/*
 * A process of its own for a user of the device, which writes to the descriptor
 * when it is ready, and never ends by itself. 0: it did not come so far.
 */
static inline pid_t vtd_begin_user(int (*user)(int ready, unsigned int round), unsigned int round)
{
	int ready[2];
	pid_t pid;
	char byte;

	if (pipe(ready))
		return 0;
	pid = fork();
	if (!pid) {
		/* Not one to outlive a test that was given up. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		_exit(user(ready[1], round));
	}
	close(ready[1]);
	if (pid > 0 && read(ready[0], &byte, 1) != 1) {
		waitpid(pid, NULL, 0);
		pid = 0;
	}
	close(ready[0]);
	return pid < 0 ? 0 : pid;
}

/* Kills it. Whether that is how it ended. */
static inline bool vtd_kill_user(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status);
}

/* The device goes, and comes back. */
static inline int vtd_replug(struct vtd *v)
{
	char path[128];
	int rc;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", v->bdf);
	rc = sysfs_write(path, "1");
	return rc ? rc : sysfs_write("/sys/bus/pci/rescan", "1");
}

/* Takes the device that was found into v->iommufd. */
static inline int vtd_bind(struct vtd *v)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = v->iommufd,
	};
	struct iommu_hw_info info = {
		.size = sizeof(info),
		.data_len = sizeof(v->hw),
		.data_uptr = (uintptr_t)&v->hw,
	};

	v->dev = vtd_open_device(v);
	if (v->dev < 0 && !vtd_is_edu(v) && !vtd_is_pdma(v)) {
		snprintf(v->why, sizeof(v->why), "%s is not bound to vfio-pci, or not ours to open",
			 v->bdf);
		return 1;
	}
	if (v->dev < 0)
		return vtd_fail(v, "no VFIO device; is there an IOMMU, and vfio-pci?");
	if (ioctl(v->dev, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return vtd_fail(v, "bind");
	v->dev_id = bind.out_devid;
	info.dev_id = v->dev_id;
	if (ioctl(v->iommufd, IOMMU_GET_HW_INFO, &info))
		return vtd_fail(v, "GET_HW_INFO");
	v->hw_caps = info.out_capabilities;
	v->pasid_bits = info.out_max_pasid_log2;
	if (info.out_data_type != IOMMU_HW_INFO_TYPE_INTEL_VTD || !(v->hw.ecap_reg & ECAP_NEST)) {
		snprintf(v->why, sizeof(v->why), "the IOMMU of %s is no VT-d that nests", v->bdf);
		return 1;
	}
	return 0;
}

/* The registers of a device that can be told to do DMA. */
static inline int vtd_map_bar(struct vtd *v)
{
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	void *at;

	if (ioctl(v->dev, VFIO_DEVICE_GET_REGION_INFO, &bar))
		return vtd_fail(v, "regions");
	at = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, v->dev, bar.offset);
	if (at == MAP_FAILED)
		return vtd_fail(v, "BAR 0");
	v->bar = at;
	v->bar_size = bar.size;
	if (vtd_enable(v))
		return vtd_fail(v, "config space");
	return 0;
}

/* Nothing is held of this one. */
static inline void vtd_none(struct vtd *v)
{
	memset(v, 0, sizeof(*v));
	v->iommufd = v->dev = -1;
}

/* Takes the device with @id. Returns as vtd_setup_on(). */
static inline int vtd_take_device(struct vtd *v, uint32_t id)
{
	vtd_none(v);
	if (!vtd_find(v, id)) {
		snprintf(v->why, sizeof(v->why),
			 "no device: name one with VTD_DEVICE=0000:01:00.0");
		return 1;
	}
	v->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (v->iommufd < 0)
		return vtd_fail(v, "/dev/iommu");
	return vtd_bind(v);
}

/* 2 MiB aligned, of 4 KiB pages: so are the entries of stage 2 then. */
static inline int vtd_make_memory(struct vtd *v)
{
	void *at;

	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		return vtd_fail(v, "PR_SET_THP_DISABLE");
	at = mmap(NULL, MEM_PAGES * PG + MIB2, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return vtd_fail(v, "memory");
	v->mem_map = at;
	v->mem = (void *)(((uintptr_t)at + MIB2 - 1) & ~(MIB2 - 1));
	vtd_fill(v);
	if (vtd_huge_pages()) {
		snprintf(v->why, sizeof(v->why), "memory comes in huge pages");
		return -1;
	}
	v->next_table = 1;
	return 0;
}

/*
 * Takes the device with @id and makes an IOAS with a nest parent over all the
 * memory. Returns 0; 1 when this machine cannot (v->why says what is missing);
 * -1.
 */
static inline int vtd_setup_on(struct vtd *v, uint32_t id, uint32_t parent_flags)
{
	int rc;

	rc = vtd_take_device(v, id);
	rc = rc ?: vtd_make_memory(v);
	if (rc)
		return rc;
	errno = -vtd_alloc_ioas(v, &v->ioas);
	if (errno)
		return vtd_fail(v, "IOAS_ALLOC");
	errno = -vtd_map_memory(v, v->ioas);
	if (errno)
		return vtd_fail(v, "IOAS_MAP");
	errno = -vtd_alloc_hwpt(v, v->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT | parent_flags, NULL, 0,
				&v->parent);
	if (errno)
		return vtd_fail(v, "nest parent (is VT-d in scalable mode?)");

	return vtd_is_edu(v) || vtd_is_pdma(v) ? vtd_map_bar(v) : 0;
}

#define DIRTY_TRACKING	IOMMU_HWPT_ALLOC_DIRTY_TRACKING

/* What a setup with DIRTY_TRACKING returned; a unit without it refuses the parent. */
static inline int vtd_tracks(int rc, struct vtd *v)
{
	if (rc >= 0 || !v->dev_id || v->hw_caps & IOMMU_HW_CAP_DIRTY_TRACKING)
		return rc;
	snprintf(v->why, sizeof(v->why), "no second-stage dirty tracking");
	return 1;
}

/*
 * In tests: what a setup of @v returned. Where a machine cannot, the test is passed
 * over with @statement, as SKIP() has it.
 */
#define ASSERT_SET_UP(statement, rc, v)                  \
	({                                               \
		int _rc = (rc);                          \
		if (_rc > 0) {                           \
			vtd_release(v);                  \
			SKIP(statement, "%s", (v)->why); \
		}                                        \
		ASSERT_EQ(0, _rc)                        \
			TH_LOG("%s", (v)->why);          \
	})

/* The device leaves; a mapping of the BAR would keep it open. */
static inline void vtd_close_device(struct vtd *v)
{
	if (v->bar)
		munmap(v->bar, v->bar_size);
	v->bar = NULL;
	if (v->dev >= 0)
		close(v->dev);
	v->dev = -1;
}

static inline void vtd_release(struct vtd *v)
{
	vtd_close_device(v);
	if (v->mem_map)
		munmap(v->mem_map, MEM_PAGES * PG + MIB2);
	v->mem_map = NULL;
	if (v->iommufd >= 0)
		close(v->iommufd);
	v->iommufd = -1;
}

/* The PASID entry of the device for requests without PASID: three of its eight words. */
static inline bool vtd_pasid_entry(struct vtd *v, uint64_t word[3])
{
	char line[512];
	bool found = false;
	FILE *f = fopen("/sys/kernel/debug/iommu/intel/dmar_translation_struct", "r");

	while (f && !found && fgets(line, sizeof(line), f)) {
		unsigned long long w[7];
		int pasid;

		if (strncmp(line, v->bdf + 5, 7))
			continue;
		found = sscanf(line + 7, " %llx:%llx %llx:%llx %d %llx:%llx:%llx", &w[0], &w[1],
			       &w[2], &w[3], &pasid, &w[4], &w[5], &w[6]) == 8 && pasid == 0;
		word[2] = w[4];
		word[1] = w[5];
		word[0] = w[6];
	}
	if (f)
		fclose(f);
	return found;
}

/* The reason of the first DMA fault since, or -1. The report needs a moment. */
static inline int log_fault(int fd)
{
	char line[1024], *at;
	int tries;
	ssize_t n;

	for (tries = 0; tries < 200; tries++) {
		while ((n = read(fd, line, sizeof(line) - 1)) > 0) {
			line[n] = 0;
			at = strstr(line, "[fault reason 0x");
			if (at)
				return strtol(at + 14, NULL, 16);
		}
		usleep(5000);
	}
	return -1;
}

#define TRACING		"/sys/kernel/tracing/"
#define QUEUE		"/sys/kernel/debug/iommu/intel/invalidation_queue"

/* Traces the invalidation descriptors from now on. */
static inline int trace_start(void)
{
	int fd, rc = sysfs_write(TRACING "events/intel_iommu/qi_submit/enable", "1");

	fd = open(TRACING "trace", O_WRONLY | O_TRUNC);
	if (rc || fd < 0)
		return -1;
	close(fd);
	return sysfs_write(TRACING "tracing_on", "1");
}

/* Ends it. Whether there was a descriptor with @first, and later one with @then. */
static inline bool trace_stop(const char *first, const char *then)
{
	const char *want = first;
	bool found = false;
	char line[512];
	FILE *f;

	sysfs_write(TRACING "tracing_on", "0");
	f = fopen(TRACING "trace", "r");
	while (f && !found && fgets(line, sizeof(line), f)) {
		if (!strstr(line, "qi_submit:") || !strstr(line, want))
			continue;
		found = want == then;
		want = then;
	}
	if (f)
		fclose(f);
	sysfs_write(TRACING "events/intel_iommu/qi_submit/enable", "0");
	return found;
}

/* Whether the invalidation queue's memory has a descriptor with this first word. */
static inline bool queue_has(uint64_t qw0)
{
	bool found = false;
	char line[512];
	uint64_t word;
	FILE *f;

	f = fopen(QUEUE, "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*u %lx", &word) == 1 && word == qw0;
	if (f)
		fclose(f);
	return found;
}

#endif

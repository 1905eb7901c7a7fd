// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA by the controller of an NVMe drive, with its admin queue alone. It keeps a time of
 * 48 bits: Set Features reads it from memory and Get Features writes it there. There are no
 * commands to the drive's medium here, and no queue by which one could be given. Linux's
 * driver sets the time anew when it has the drive back.
 */
#include "vtd_engine.h"

#define NVME_CLASS	0x010802

/* Registers, and what is in them. */
#define NVME_CAP	0x00
#define NVME_CC		0x14
#define NVME_CSTS	0x1c
#define NVME_AQA	0x24
#define NVME_ASQ	0x28
#define NVME_ACQ	0x30
#define NVME_DOORBELLS	0x1000
/* Pages of 4 KiB, entries of 64 and 16 bytes. */
#define CC_ENABLE	(1U | 6 << 16 | 4 << 20)
#define CSTS_RDY	1U
#define CSTS_CFS	2U

#define IDENTIFY	0x06
#define SET_FEATURES	0x09
#define GET_FEATURES	0x0a
#define TIMESTAMP	0x0e
#define ONCS_AT		520
#define ONCS_TIMESTAMP	(1U << 6)

/* Pages: each queue has one. */
#define SQ_PAGE		ENGINE_PAGE
#define CQ_PAGE		(ENGINE_PAGE + 1)
#define DATA		(ENGINE_PAGE + 2)
#define ENTRIES		16U

struct command {
	uint8_t opcode, flags;
	uint16_t id;
	uint32_t nsid;
	uint64_t reserved, metadata, prp1, prp2;
	uint32_t dw10, dw11, dw12, dw13, dw14, dw15;
};

struct completion {
	uint32_t result, reserved;
	uint16_t sq_head, sq_id, id, status;
};

struct nvme {
	bool ready;
	unsigned int stride, patience;	/* bytes, milliseconds */
	unsigned int tail, head, phase;
};

static uint32_t get32(struct vtd *v, unsigned int reg)
{
	return __atomic_load_n((uint32_t *)(v->bar + reg), __ATOMIC_SEQ_CST);
}

static void set32(struct vtd *v, unsigned int reg, uint32_t value)
{
	__atomic_store_n((uint32_t *)(v->bar + reg), value, __ATOMIC_SEQ_CST);
}

/* In halves, as some controllers want it. */
static uint64_t get64(struct vtd *v, unsigned int reg)
{
	return get32(v, reg) | (uint64_t)get32(v, reg + 4) << 32;
}

static void set64(struct vtd *v, unsigned int reg, uint64_t value)
{
	set32(v, reg, value);
	set32(v, reg + 4, value >> 32);
}

static bool becomes(struct vtd *v, uint32_t ready)
{
	struct nvme *nvme = v->engine_state;
	unsigned int waited;

	for (waited = 0; waited <= nvme->patience; waited++) {
		if ((get32(v, NVME_CSTS) & CSTS_RDY) == ready)
			return true;
		usleep(1000);
	}
	return false;
}

/* Takes the controller from any state to one with empty queues. */
static int reset(struct vtd *v)
{
	struct nvme *nvme = v->engine_state;

	set32(v, NVME_CC, 0);
	if (!becomes(v, 0))
		return -ETIMEDOUT;
	memset(host_of(v, SQ_PAGE), 0, PG);
	memset(host_of(v, CQ_PAGE), 0, PG);
	nvme->tail = 0;
	nvme->head = 0;
	nvme->phase = 1;
	set32(v, NVME_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	set64(v, NVME_ASQ, gpa_of(SQ_PAGE));
	set64(v, NVME_ACQ, gpa_of(CQ_PAGE));
	set32(v, NVME_CC, CC_ENABLE);
	nvme->ready = becomes(v, CSTS_RDY);
	return nvme->ready ? 0 : -ETIMEDOUT;
}

/*
 * A controller that cannot reach its queues says so (CFS), or says nothing; either way it is
 * reset before the next command.
 */
static int run(struct vtd *v, const struct command *command)
{
	struct nvme *nvme = v->engine_state;
	struct completion *done;
	unsigned int waited;
	uint16_t status;

	if (!nvme->ready && reset(v))
		return -EIO;
	((struct command *)host_of(v, SQ_PAGE))[nvme->tail] = *command;
	nvme->tail = (nvme->tail + 1) % ENTRIES;
	set32(v, NVME_DOORBELLS, nvme->tail);
	done = (struct completion *)host_of(v, CQ_PAGE) + nvme->head;
	for (waited = 0; waited < 5000; waited++) {
		status = __atomic_load_n(&done->status, __ATOMIC_ACQUIRE);
		if ((status & 1) == nvme->phase) {
			nvme->head = (nvme->head + 1) % ENTRIES;
			if (!nvme->head)
				nvme->phase ^= 1;
			set32(v, NVME_DOORBELLS + nvme->stride, nvme->head);
			return status >> 1 ? -EIO : 0;
		}
		if (get32(v, NVME_CSTS) & CSTS_CFS)
			break;
		usleep(200);
	}
	nvme->ready = false;
	return -EIO;
}

static int nvme_dma(struct vtd *v, bool to_memory, uint64_t iova)
{
	struct command command = {
		.opcode = to_memory ? GET_FEATURES : SET_FEATURES,
		.prp1 = iova,
		.dw10 = TIMESTAMP,
	};

	return run(v, &command);
}

static int nvme_start(struct vtd *v)
{
	struct command identify = { .opcode = IDENTIFY, .prp1 = gpa_of(DATA), .dw10 = 1 };
	uint64_t cap = get64(v, NVME_CAP);
	struct nvme *nvme = calloc(1, sizeof(*nvme));
	unsigned char *data = host_of(v, DATA);

	if (!nvme)
		return vtd_fail(v, "memory");
	v->engine_state = nvme;
	nvme->stride = 4U << (cap >> 32 & 0xf);
	nvme->patience = 500 * (cap >> 24 & 0xff);
	errno = ENODATA;
	if (cap >> 48 & 0xf || reset(v) || run(v, &identify))
		return vtd_fail(v, "the NVMe controller does not answer");
	if (!((data[ONCS_AT] | data[ONCS_AT + 1] << 8) & ONCS_TIMESTAMP)) {
		snprintf(v->why, sizeof(v->why),
			 "%s has no timestamp, so what it reads does not show", v->bdf);
		return 1;
	}
	return 0;
}

static void nvme_stop(struct vtd *v)
{
	set32(v, NVME_CC, 0);
	becomes(v, 0);
	free(v->engine_state);
}

static bool nvme_knows(const char *bdf)
{
	return sysfs_hex(bdf, "class") == NVME_CLASS;
}

/* Who has mounted it, swaps to it or has built on it has it open exclusively. */
static bool held(struct vtd *v, const char *name)
{
	char path[64];
	int fd;

	if (strncmp(name, "nvme", 4) || !strchr(name + 4, 'n'))
		return false;
	snprintf(path, sizeof(path), "/dev/%.50s", name);
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	/* Paths of a drive with more than one have no node. */
	if (fd < 0 && errno != ENOENT) {
		snprintf(v->why, sizeof(v->why), "%s of %s is in use (%s)", path, v->bdf,
			 strerror(errno));
		return true;
	}
	if (fd >= 0)
		close(fd);
	return false;
}

/* Whether one of the disks in the folder @path is held. */
static bool holds_one(struct vtd *v, const char *path)
{
	struct dirent *e;
	bool found = false;
	DIR *dir = opendir(path);

	while (dir && !found && (e = readdir(dir)))
		found = held(v, e->d_name);
	if (dir)
		closedir(dir);
	return found;
}

/* The disks of a controller, and those of all subsystems it belongs to. */
static bool nvme_in_use(struct vtd *v)
{
	static const char top[] = "/sys/class/nvme-subsystem";
	char path[300], controller[64] = "";
	struct dirent *e;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/nvme", v->bdf);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (!strncmp(e->d_name, "nvme", 4))
			snprintf(controller, sizeof(controller), "%.60s", e->d_name);
	}
	if (dir)
		closedir(dir);
	if (!controller[0])
		return false;
	snprintf(path, sizeof(path), "/sys/class/nvme/%s", controller);
	found = holds_one(v, path);
	dir = opendir(top);
	while (dir && !found && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%.60s/%s", top, e->d_name, controller);
		if (e->d_name[0] == '.' || access(path, F_OK))
			continue;
		snprintf(path, sizeof(path), "%s/%.60s", top, e->d_name);
		found = holds_one(v, path);
	}
	if (dir)
		closedir(dir);
	return found;
}

const struct vtd_engine vtd_nvme = {
	.name = "NVMe",
	.does = "sets the time that it keeps and reads that (nothing on the drive is touched)",
	.knows = nvme_knows,
	.in_use = nvme_in_use,
	.start = nvme_start,
	.stop = nvme_stop,
	.dma = nvme_dma,
	.shows = 0x0000ffffff000000ULL,
};

// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOMMU_HWPT_GET_DIRTY_BITMAP, bit by bit: what lies in the range that is asked
 * for is told, nothing else is written, and an entry of the page table is clean
 * afterwards only if all of it was told. Needs CONFIG_IOMMUFD_TEST, huge pages
 * and no hardware.
 */
#include <sys/mman.h>
#include <string.h>

/* Made for the harness's fixtures. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#include "iommufd_utils.h"

#define PG 4096UL
#define MB (1UL << 20)
/* The mock hardware translates from 16 MiB on. */
#define IOVA (64 * MB)
/* The mock driver's large entries. */
#define ENTRY MB
#define ENTRY_PAGES (ENTRY / PG)
/* As much bitmap as is pinned at a time. */
#define WINDOW (512 * PG)
#define NO_CLEAR IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR

FIXTURE(dirty)
{
	int fd;
	__u32 ioas_id, stdev, tracked;
	/* 4 MiB that can be mapped as large entries. */
	char *memory;
	/* With room before and behind every bitmap. */
	unsigned char *room;
};

FIXTURE_SETUP(dirty)
{
	struct iommu_hwpt_selftest huge = { .pagetable_type = MOCK_IOMMUPT_HUGE };
	__u32 hwpt, idev;

	self->fd = open("/dev/iommu", O_RDWR);
	ASSERT_NE(-1, self->fd);
	test_ioctl_ioas_alloc(&self->ioas_id);
	test_cmd_mock_domain(self->ioas_id, &self->stdev, &hwpt, &idev);
	ASSERT_EQ(0, _test_cmd_hwpt_alloc(self->fd, idev, self->ioas_id, 0,
					  IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &self->tracked,
					  IOMMU_HWPT_DATA_SELFTEST, &huge, sizeof(huge)));
	self->memory = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory)
		TH_LOG("two huge pages are needed");
	self->room = mmap(NULL, 8 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->room);
	test_cmd_set_dirty_tracking(self->tracked, true);
}

FIXTURE_TEARDOWN(dirty)
{
	munmap(self->memory, 4 * MB);
	munmap(self->room, 8 * PG);
	teardown_iommufd(self->fd, _metadata);
}

/* The device writes to the page at `iova`. */
static int device_writes(int fd, __u32 hwpt, __u64 iova)
{
	__u64 one = 1, count = 0;
	int ret = _test_cmd_mock_domain_set_dirty(fd, hwpt, PG, iova, PG, &one, &count);

	return ret ?: (count == 1 ? 0 : -1);
}
#define device_writes(iova) ASSERT_EQ(0, device_writes(self->fd, self->tracked, iova))

static int get_dirty(int fd, __u32 hwpt, __u64 iova, __u64 length, __u64 page_size, void *bitmap,
		     __u32 flags)
{
	return _test_cmd_get_dirty_bitmap(fd, hwpt, length, iova, page_size, bitmap, flags) ?
		       errno : 0;
}
#define get_dirty(iova, length, page_size, bitmap, flags) \
	get_dirty(self->fd, self->tracked, iova, length, page_size, bitmap, flags)

static bool bit(const unsigned char *bitmap, unsigned int nr)
{
	return bitmap[nr / 8] & 1 << nr % 8;
}

/* How many of the bits from `first` on are set. */
static unsigned int count_bits(const unsigned char *bitmap, unsigned int first, unsigned int nr)
{
	unsigned int set = 0;

	for (unsigned int i = first; i < first + nr; i++)
		set += bit(bitmap, i);
	return set;
}

/*
 * Asks for `nr` pages from page `first` of the mapping on, with the bitmap at `at` in the room,
 * and wants nothing else to change there. Returns the number of dirty pages.
 */
#define ask(first, nr, at, flags)                                                               \
	({                                                                                      \
		unsigned int _set;                                                              \
		memset(self->room, 0, 8 * PG);                                                  \
		ASSERT_EQ(0, get_dirty(IOVA + (first) * PG, (nr) * PG, PG, self->room + (at),   \
				       flags));                                                 \
		_set = count_bits(self->room + (at), 0, nr);                                    \
		EXPECT_EQ(_set, count_bits(self->room, 0, 8 * PG * 8))                          \
			TH_LOG("bits are set outside of %lu pages from %lu on, bitmap at %lu",  \
			       (unsigned long)(nr), (unsigned long)(first), (unsigned long)(at)); \
		_set;                                                                           \
	})

/* Bits of an entry that reaches past what was asked for went behind the bitmap. */
TEST_F(dirty, nothing_outside_of_the_bitmap)
{
	static const struct {
		unsigned long first, nr, at;
	} table[] = {
		{ 0, 8, 64 },
		{ 0, 1, 64 },
		{ 128, 8, 64 },
		{ 248, 8, 64 },
		/* The bitmap ends with a page, so the next one would have been written. */
		{ 0, 8, PG - 1 },
		{ 128, 120, 2 * PG - 15 },
		/* More than one entry, of which the last is not asked for to its end. */
		{ 0, 264, 64 },
		{ 100, 300, PG - 8 },
		{ 0, 1024, PG - 64 },
	};

	test_ioctl_ioas_map_fixed(self->memory, 4 * MB, IOVA);
	for (unsigned int i = 0; i < 4; i++)
		device_writes(IOVA + i * ENTRY);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		EXPECT_EQ(table[i].nr, ask(table[i].first, table[i].nr, table[i].at, NO_CLEAR))
			TH_LOG("row %zu", i);
	}
}

/* A range that begins inside of a dirty entry was told clean, and the entry cleaned. */
TEST_F(dirty, begins_inside_of_an_entry)
{
	test_ioctl_ioas_map_fixed(self->memory, 4 * MB, IOVA);
	device_writes(IOVA + 130 * PG);
	EXPECT_EQ(ENTRY_PAGES, ask(0, 512, 64, NO_CLEAR));
	EXPECT_EQ(8, ask(128, 8, 64, NO_CLEAR));
	EXPECT_EQ(8, ask(128, 8, 64, 0));
	EXPECT_EQ(ENTRY_PAGES, ask(0, 512, 64, 0));
	EXPECT_EQ(0, ask(0, 512, 64, 0));
}

/* Reading one part of an entry took the news of the other part away. */
TEST_F(dirty, part_of_an_entry_keeps_it_dirty)
{
	test_ioctl_ioas_map_fixed(self->memory, 4 * MB, IOVA);
	device_writes(IOVA + 255 * PG);
	EXPECT_EQ(128, ask(0, 128, 64, 0));
	EXPECT_EQ(128, ask(128, 128, 64, 0));
	EXPECT_EQ(255, ask(0, 255, 64, 0));
	EXPECT_EQ(255, ask(1, 255, 64, 0));
	/* The whole of it, and more than it. */
	EXPECT_EQ(ENTRY_PAGES, ask(0, ENTRY_PAGES, 64, 0));
	EXPECT_EQ(0, ask(0, ENTRY_PAGES, 64, 0));
}

/* Only the entry in the middle is asked for to both its ends. */
TEST_F(dirty, cleans_what_was_told_in_whole)
{
	test_ioctl_ioas_map_fixed(self->memory, 4 * MB, IOVA);
	for (unsigned int i = 0; i < 3; i++)
		device_writes(IOVA + i * ENTRY);
	EXPECT_EQ(2 * ENTRY_PAGES, ask(ENTRY_PAGES / 2, 2 * ENTRY_PAGES, 64, 0));
	ASSERT_EQ(2 * ENTRY_PAGES, ask(0, 4 * ENTRY_PAGES, 64, NO_CLEAR));
	EXPECT_EQ(ENTRY_PAGES, count_bits(self->room + 64, 0, ENTRY_PAGES));
	EXPECT_EQ(0, count_bits(self->room + 64, ENTRY_PAGES, ENTRY_PAGES));
	EXPECT_EQ(ENTRY_PAGES, count_bits(self->room + 64, 2 * ENTRY_PAGES, ENTRY_PAGES));
}

/*
 * A walk ended at the first hole: what is mapped behind it was not told, or the caller got an
 * error after bits had been cleared.
 */
TEST_F(dirty, holes_are_passed_over)
{
	static const unsigned int mapped[] = { 2, 3, 8, 15 }, holes[] = { 0, 1, 4, 7, 9, 14, 16 };

	for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
		test_ioctl_ioas_map_fixed(self->memory + i * PG, PG, IOVA + mapped[i] * PG);
		device_writes(IOVA + mapped[i] * PG);
	}
	/* Without and then with clearing. */
	for (unsigned int flags = NO_CLEAR + 1; flags--;) {
		EXPECT_EQ(ARRAY_SIZE(mapped), ask(0, 24, 64, flags));
		for (size_t i = 0; i < ARRAY_SIZE(mapped); i++) {
			EXPECT_TRUE(bit(self->room + 64, mapped[i]))
				TH_LOG("page %u", mapped[i]);
		}
	}
	EXPECT_EQ(0, ask(0, 24, 64, 0));
	for (size_t i = 0; i < ARRAY_SIZE(holes); i++)
		EXPECT_EQ(0, ask(holes[i], 1, 64, 0));
	/* From a hole, into a hole, and where nothing is mapped any more. */
	device_writes(IOVA + 8 * PG);
	EXPECT_EQ(1, ask(4, 5, 64, NO_CLEAR));
	EXPECT_EQ(1, ask(8, 7, 64, NO_CLEAR));
	test_ioctl_ioas_unmap(IOVA + 8 * PG, PG);
	EXPECT_EQ(0, ask(0, 24, 64, 0));
}

/* As it is asked for by who shadows a guest's tables: all addresses, and little is mapped. */
TEST_F(dirty, all_addresses)
{
	__u64 word = 0;

	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	device_writes(IOVA);
	/* Two bits; then as many as fit a word. */
	EXPECT_EQ(0, get_dirty(0, 1UL << 63, 1UL << 62, &word, NO_CLEAR));
	EXPECT_EQ(1, word);
	word = 0;
	EXPECT_EQ(0, get_dirty(0, 1UL << 63, 1UL << 63, &word, NO_CLEAR));
	EXPECT_EQ(1, word);
	word = 0;
	EXPECT_EQ(0, get_dirty(1UL << 63, 1UL << 63, 1UL << 63, &word, NO_CLEAR));
	EXPECT_EQ(0, word);
	EXPECT_EQ(0, get_dirty(0, 64 * IOVA, IOVA, &word, 0));
	EXPECT_EQ(2, word);
	word = 0;
	EXPECT_EQ(0, get_dirty(0, 1UL << 63, 1UL << 62, &word, 0));
	EXPECT_EQ(0, word);
	/* The last page that there is. */
	EXPECT_EQ(0, get_dirty(-PG, PG, PG, &word, 0));
	EXPECT_EQ(0, word);
}

/*
 * A bitmap of more than what is pinned at a time, one bit for each byte: pages on both sides of
 * the border, and one that has its bits on both sides.
 */
TEST_F(dirty, more_than_a_window)
{
	static const unsigned long odd[] = { 0, 8, PG - 8, 5 };
	__u64 border = IOVA + WINDOW * 8;

	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		unsigned char *all = mmap(NULL, 2 * WINDOW + 2 * PG, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		unsigned char *bitmap = all + PG + odd[i];
		/* Where a window ends that begins with the bitmap. */
		__u64 cut = border - 8 * (__u64)odd[i];
		unsigned long wrong = 0, set = 0;

		ASSERT_NE(MAP_FAILED, all);
		cut &= -PG;
		for (int n = -1; n <= 1; n++) {
			test_ioctl_ioas_map_fixed(self->memory + (n + 1) * PG, PG,
						  cut + n * (__s64)PG);
			device_writes(cut + n * (__s64)PG);
		}
		ASSERT_EQ(0, get_dirty(IOVA, 2 * WINDOW * 8 - 8 * PG, 1, bitmap, 0));
		for (unsigned char *at = all; at < all + 2 * WINDOW + 2 * PG; at++) {
			long byte = at - bitmap;
			__u64 iova = IOVA + 8 * byte;
			bool want = byte >= 0 && iova >= cut - PG && iova < cut + 2 * PG;

			set += want;
			wrong += *at != (want ? 0xff : 0);
		}
		EXPECT_EQ(3 * PG / 8, set);
		EXPECT_EQ(0, wrong)
			TH_LOG("bitmap at %lu in its page", odd[i]);
		test_ioctl_ioas_unmap(cut - PG, 3 * PG);
		munmap(all, 2 * WINDOW + 2 * PG);
	}
}

/* One dirty bit with its bits on both sides of the border, wherever that is in the entry. */
TEST_F(dirty, entry_in_two_windows)
{
	static const unsigned long odd[] = { 1, 2048, PG - 1 };
	__u64 border = IOVA + WINDOW * 8, entry = border - ENTRY;

	test_ioctl_ioas_map_fixed(self->memory, 2 * MB, entry);
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		unsigned char *all = mmap(NULL, 2 * WINDOW, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		unsigned char *bitmap = all + odd[i];

		ASSERT_NE(MAP_FAILED, all);
		device_writes(entry);
		/* Without and then with clearing; then it is clean. */
		for (unsigned int flags = NO_CLEAR + 1; flags--;) {
			memset(all, 0, 2 * WINDOW);
			ASSERT_EQ(0, get_dirty(IOVA, WINDOW * 8 + 8 * PG, 1, bitmap, flags));
			EXPECT_EQ(ENTRY, count_bits(bitmap, WINDOW * 8 - ENTRY, ENTRY));
			EXPECT_EQ(ENTRY, count_bits(all, 0, 2 * WINDOW * 8))
				TH_LOG("bitmap at %lu in its page", odd[i]);
		}
		memset(all, 0, 2 * WINDOW);
		ASSERT_EQ(0, get_dirty(IOVA, WINDOW * 8 + 8 * PG, 1, bitmap, 0));
		EXPECT_EQ(0, count_bits(all, 0, 2 * WINDOW * 8))
			TH_LOG("it is not clean, bitmap at %lu in its page", odd[i]);
		munmap(all, 2 * WINDOW);
	}
}

/*
 * Bits that had no place were lost: those of the pages before the one that cannot be written,
 * too, as a caller does not look into the bitmap after an error.
 */
TEST_F(dirty, no_place_for_the_bits)
{
	/* With a bit for a byte, a page of the bitmap is for eight pages of the mapping. */
	static const int protections[] = { PROT_NONE, PROT_READ };
	unsigned char *bitmap = self->room + 2 * PG;

	test_ioctl_ioas_map_fixed(self->memory, 32 * PG, IOVA);
	device_writes(IOVA);
	device_writes(IOVA + 8 * PG);
	device_writes(IOVA + 31 * PG);
	for (size_t i = 0; i < ARRAY_SIZE(protections); i++) {
		for (unsigned int page = 0; page < 4; page++) {
			ASSERT_EQ(0, mprotect(bitmap + page * PG, PG, protections[i]));
			EXPECT_EQ(EFAULT, get_dirty(IOVA, 32 * PG, 1, bitmap, 0))
				TH_LOG("page %u of the bitmap, protection %d", page,
				       protections[i]);
			ASSERT_EQ(0, mprotect(bitmap + page * PG, PG, PROT_READ | PROT_WRITE));
			EXPECT_EQ(3, ask(0, 32, 64, NO_CLEAR));
		}
	}
	/* Nothing is mapped where the bitmap should be. */
	EXPECT_EQ(EFAULT, get_dirty(IOVA, 32 * PG, PG, (void *)8, 0));
	EXPECT_EQ(3, ask(0, 32, 64, NO_CLEAR));
	/* What belongs to holes only is not looked at. */
	test_ioctl_ioas_unmap(IOVA, 32 * PG);
	test_ioctl_ioas_map_fixed(self->memory, PG, IOVA);
	test_ioctl_ioas_map_fixed(self->memory + PG, PG, IOVA + 24 * PG);
	device_writes(IOVA + 24 * PG);
	ASSERT_EQ(0, mprotect(bitmap + PG, 2 * PG, PROT_NONE));
	EXPECT_EQ(0, get_dirty(IOVA, 32 * PG, 1, bitmap, 0));
	EXPECT_EQ(PG, count_bits(bitmap + 3 * PG, 0, 8 * PG));
	ASSERT_EQ(0, mprotect(bitmap + PG, 2 * PG, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, ask(0, 32, 64, 0));
}

/* What is refused clears nothing; page sizes were taken for their lowest bit. */
TEST_F(dirty, refused_calls_clear_nothing)
{
	static const struct {
		__u64 iova, length, page_size;
		__u32 flags;
		int error;
	} table[] = {
		{ IOVA, 8 * PG, 3, 0, EINVAL },
		{ IOVA, 8 * PG, 6144, 0, EINVAL },
		{ 0, 3 * IOVA, 3 * PG, 0, EINVAL },
		{ IOVA, 8 * PG, 0, 0, EINVAL },
		{ IOVA, 8 * PG, 16 * PG, 0, EINVAL },
		{ IOVA + 1, 8 * PG, PG, 0, EINVAL },
		{ IOVA, 8 * PG + 1, PG, 0, EINVAL },
		{ IOVA, 0, PG, 0, EINVAL },
		{ IOVA, -PG, PG, 0, EOVERFLOW },
		{ IOVA, 8 * PG, PG, 2, EOPNOTSUPP },
	};

	test_ioctl_ioas_map_fixed(self->memory, 8 * PG, IOVA);
	device_writes(IOVA);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		memset(self->room, 0, 8 * PG);
		EXPECT_EQ(table[i].error, get_dirty(table[i].iova, table[i].length,
						    table[i].page_size, self->room, table[i].flags))
			TH_LOG("row %zu", i);
		EXPECT_EQ(0, count_bits(self->room, 0, 8 * PG * 8))
			TH_LOG("row %zu", i);
		EXPECT_EQ(1, ask(0, 8, 64, NO_CLEAR))
			TH_LOG("row %zu", i);
	}
	EXPECT_EQ(1, ask(0, 8, 64, 0));
}

/* Bits for more or for less than a page. */
TEST_F(dirty, other_page_sizes)
{
	test_ioctl_ioas_map_fixed(self->memory, 16 * PG, IOVA);
	device_writes(IOVA + 5 * PG);
	memset(self->room, 0, 8 * PG);
	EXPECT_EQ(0, get_dirty(IOVA, 16 * PG, 4 * PG, self->room, NO_CLEAR));
	EXPECT_EQ(2, self->room[0]);
	memset(self->room, 0, 8 * PG);
	EXPECT_EQ(0, get_dirty(IOVA, 16 * PG, PG / 4, self->room, NO_CLEAR));
	EXPECT_EQ(4, count_bits(self->room, 20, 4));
	EXPECT_EQ(4, count_bits(self->room, 0, 8 * PG * 8));
	/* Bits that were set before stay. */
	self->room[0] = 1;
	EXPECT_EQ(0, get_dirty(IOVA, 16 * PG, 4 * PG, self->room, 0));
	EXPECT_EQ(3, self->room[0]);
	EXPECT_EQ(0, ask(0, 16, 64, 0));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0-only

//! VFIO's type 1 container on top of one IOAS: `/dev/vfio/vfio`, and VFIO's ioctls on
//! `/dev/iommu`.
//!
//! VFIO's ioctls name no IOAS, so a context has one that they work on. VFIO makes it when the
//! first group is attached; user space may name another with `IOMMU_VFIO_IOAS`.
//!
//! UAPI: [`include/uapi/linux/vfio.h`](srctree/include/uapi/linux/vfio.h)

use crate::{
    ffi::{
        context::Ctx,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                VfioCapHeader,
                VfioDmaAvail,
                VfioDmaMap,
                VfioDmaUnmap,
                VfioInfo,
                VfioIoas,
                VfioIovaCap,
                VfioIovaRange, //
            }, //
        },
        ucmd::{
            read_struct,
            write_bytes,
            write_struct,
            Ucmd, //
        }, //
    },
    io_pagetable::{
        Access,
        Place, //
    },
    ioas::Ioas,
    ioctl::{
        Ioctl,
        Respond, //
    },
    object::{
        lend,
        Head,
        Loan, //
    }, //
};
use core::mem::{
    offset_of,
    size_of, //
};
use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Lends the container's IOAS.
///
/// # Errors
///
/// `ENODEV` when there is none.
fn compat_ioas(ctx: &Ctx) -> Result<Loan<'_, Ioas>> {
    let locked = ctx.objects().lock();
    ctx.lend_vfio_ioas(&locked).ok_or(ENODEV)
}

/// The id of the container's IOAS.
///
/// # Errors
///
/// `ENODEV` when there is none.
pub(crate) fn ioas_id(ctx: &Ctx) -> Result<u32> {
    Ok(compat_ioas(ctx)?.id())
}

/// Makes the container one for devices without an IOMMU.
///
/// # Errors
///
/// `EINVAL` when it has an IOAS already.
pub(crate) fn set_no_iommu(ctx: &Ctx) -> Result {
    let locked = ctx.objects().lock();
    if ctx.has_vfio_ioas(&locked) {
        return Err(EINVAL);
    }
    ctx.set_no_iommu(&locked);
    Ok(())
}

/// Makes the container's IOAS unless there is one. User space may find and destroy it like any
/// other; if it does not, it goes with the context.
///
/// # Errors
///
/// `EINVAL` for a container without an IOMMU; `ENOMEM`.
pub(crate) fn create_ioas(ctx: &Ctx) -> Result {
    // Made before the locks are taken, and dropped after they are given back.
    let ioas = Ioas::reserve(ctx)?;
    let _creation = ctx.ioas_creation_lock().read();
    let locked = ctx.objects().lock();
    if ctx.no_iommu() {
        return Err(EINVAL);
    }
    if ctx.lend_vfio_ioas(&locked).is_some() {
        return Ok(());
    }
    ctx.set_vfio_ioas(Some(&ioas), &locked);
    ioas.publish();
    Ok(())
}

impl Ioctl for VfioIoas {
    const NUMBER: u32 = handlers::number(uapi::CMD_VFIO_IOAS);
    const MIN_SIZE: usize = end_of!(VfioIoas, __reserved);
    type Answer<'a> = Option<Respond>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Option<Respond>> {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        match ucmd.op.into() {
            uapi::VFIO_IOAS_GET => {
                ucmd.ioas_id = ioas_id(ctx)?;
                Ok(Some(Respond))
            }
            uapi::VFIO_IOAS_SET => {
                let ioas = lend::<Ioas>(ctx, ucmd.ioas_id)?;
                ctx.set_vfio_ioas(Some(&ioas), &ctx.objects().lock());
                Ok(None)
            }
            uapi::VFIO_IOAS_CLEAR => {
                ctx.set_vfio_ioas(None, &ctx.objects().lock());
                Ok(None)
            }
            _ => Err(EOPNOTSUPP),
        }
    }
}

/// Runs one of VFIO's container ioctls.
///
/// # Errors
///
/// `ENOIOCTLCMD` for another one; what the ioctl says.
#[cold]
#[inline(never)]
pub(crate) fn ioctl(ctx: &Ctx, number: u32, arg: usize) -> Result<isize> {
    match number {
        uapi::VFIO_GET_API_VERSION => return Ok(uapi::VFIO_API_VERSION as isize),
        uapi::VFIO_CHECK_EXTENSION => return check_extension(ctx, arg).map(isize::from),
        uapi::VFIO_SET_IOMMU => set_iommu(ctx, arg)?,
        uapi::VFIO_IOMMU_GET_INFO => get_info(ctx, arg)?,
        uapi::VFIO_IOMMU_MAP_DMA => map_dma(ctx, arg)?,
        uapi::VFIO_IOMMU_UNMAP_DMA => unmap_dma(ctx, arg)?,
        // Dirty pages are told by IOMMU_HWPT_GET_DIRTY_BITMAP only.
        _ => return Err(ENOIOCTLCMD),
    }
    Ok(0)
}

/// `VFIO_CHECK_EXTENSION`: of what is not listed, nested type 1 and moving of addresses were never
/// to be had here.
///
/// # Errors
///
/// `ENODEV` when the answer depends on an IOAS and there is none.
fn check_extension(ctx: &Ctx, extension: usize) -> Result<bool> {
    Ok(match u32::try_from(extension) {
        Ok(uapi::VFIO_TYPE1_IOMMU | uapi::VFIO_TYPE1V2_IOMMU | uapi::VFIO_UNMAP_ALL) => {
            !ctx.no_iommu()
        }
        Ok(uapi::VFIO_NOIOMMU_IOMMU) => cfg!(CONFIG_VFIO_NOIOMMU),
        Ok(uapi::VFIO_DMA_CC_IOMMU) => compat_ioas(ctx)?.is_coherent(),
        _ => false,
    })
}

/// `VFIO_SET_IOMMU`.
///
/// # Errors
///
/// `EINVAL` for another type, one that does not go with the devices, and type 1 after the first
/// mapping; `EADDRINUSE` for type 1 where something is mapped that is not aligned well enough;
/// `ENODEV` without a group; `EPERM`.
fn set_iommu(ctx: &Ctx, type_: usize) -> Result {
    let type_ = u32::try_from(type_).map_err(|_| EINVAL)?;
    let no_iommu = ctx.no_iommu();
    if cfg!(CONFIG_VFIO_NOIOMMU) && type_ == uapi::VFIO_NOIOMMU_IOMMU && no_iommu {
        // The ioctls on mappings are not blocked, as VFIO does; without an IOAS they fail.
        return handlers::may_see_physical().then_some(()).ok_or(EPERM);
    }
    let first_version = match type_ {
        uapi::VFIO_TYPE1_IOMMU => true,
        uapi::VFIO_TYPE1V2_IOMMU => false,
        _ => return Err(EINVAL),
    };
    if no_iommu {
        return Err(EINVAL);
    }
    let ioas = compat_ioas(ctx)?;
    if first_version {
        // The first version can unmap the middle of a mapping. An IOMMU's large entry cannot be
        // split, so there must be none.
        ioas.iopt().set_large_pages(false)?;
    }
    Ok(())
}

/// `VFIO_IOMMU_MAP_DMA`. Accounting is as the context has it, see `IOMMU_OPTION_RLIMIT_MODE`.
///
/// # Errors
///
/// `EFAULT`; `EINVAL` for a structure that is too short, for unknown flags and for none; `ENODEV`;
/// those of mapping.
fn map_dma(ctx: &Ctx, arg: usize) -> Result {
    let map: VfioDmaMap = read_struct(arg)?;
    let known = uapi::VFIO_DMA_MAP_FLAG_READ | uapi::VFIO_DMA_MAP_FLAG_WRITE;
    let short = (map.argsz as usize) < size_of::<VfioDmaMap>();
    // VFIO's own type 1 maps nothing that can neither be read nor written; page tables warn.
    if short || map.flags == 0 || map.flags & !known != 0 {
        return Err(EINVAL);
    }
    let access = Access {
        read: map.flags & uapi::VFIO_DMA_MAP_FLAG_READ != 0,
        write: map.flags & uapi::VFIO_DMA_MAP_FLAG_WRITE != 0,
    };
    let place = Place::At(map.iova as usize);
    let ioas = compat_ioas(ctx)?;
    ioas.iopt()
        .map_user(ctx, place, map.vaddr, map.size as usize, access)?;
    Ok(())
}

/// `VFIO_IOMMU_UNMAP_DMA`. How much was unmapped is told even when it fails on the way.
///
/// # Errors
///
/// `EFAULT`; `EINVAL` for a structure that is too short, for flags, and for a range where all is
/// to go; `ENODEV`; those of unmapping.
fn unmap_dma(ctx: &Ctx, arg: usize) -> Result {
    let mut unmap: VfioDmaUnmap = read_struct(arg)?;
    let short = (unmap.argsz as usize) < size_of::<VfioDmaUnmap>();
    if short || unmap.flags & !uapi::VFIO_DMA_UNMAP_FLAG_ALL != 0 {
        return Err(EINVAL);
    }
    let ioas = compat_ioas(ctx)?;
    let iopt = ioas.iopt();
    let (iova, size) = (unmap.iova as usize, unmap.size as usize);
    let (unmapped, result) = if unmap.flags & uapi::VFIO_DMA_UNMAP_FLAG_ALL != 0 {
        if iova != 0 || size != 0 {
            return Err(EINVAL);
        }
        iopt.unmap_all()
    } else {
        if !iopt.large_pages() {
            iopt.cut(edges(iova, size).get())?;
        }
        iopt.unmap(iova, size)
    };
    drop(ioas);
    unmap.size = unmapped as u64;
    write_struct(arg, &unmap)?;
    result
}

/// The IOVAs at which mappings must end so that a range can be unmapped.
struct Edges([usize; 2], usize);

/// The last IOVA of the range, and the one before it, if there is one.
fn edges(iova: usize, size: usize) -> Edges {
    let last = iova.wrapping_add(size).wrapping_sub(1);
    Edges([last, iova.wrapping_sub(1)], if iova == 0 { 1 } else { 2 })
}

impl Edges {
    fn get(&self) -> &[usize] {
        let Self(iovas, count) = self;
        iovas.split_at(*count).0
    }
}

/// Page sizes as VFIO tells them: what is smaller than a page of the processor's can only be had
/// in whole ones.
fn vfio_page_sizes(sizes: usize, alignment: usize) -> usize {
    let whole = if sizes & !PAGE_MASK != 0 {
        sizes & PAGE_MASK | PAGE_SIZE
    } else {
        sizes
    };
    whole.max(alignment)
}

/// `VFIO_IOMMU_GET_INFO`: a structure, and behind it a chain of capabilities as far as they fit.
///
/// # Errors
///
/// `EFAULT`; `EINVAL` for a structure that is too short; `ENODEV`; `ENOMEM`.
fn get_info(ctx: &Ctx, arg: usize) -> Result {
    // The first version of the structure ended there.
    const MIN_SIZE: usize = end_of!(VfioInfo, iova_pgsizes);
    let [argsz, ..]: [u32; MIN_SIZE / 4] = read_struct(arg)?;
    let room = argsz as usize;
    if room < MIN_SIZE {
        return Err(EINVAL);
    }
    let (sizes, alignment, usable) = {
        let ioas = compat_ioas(ctx)?;
        let (sizes, alignment) = ioas.iopt().page_sizes();
        let range = |(start, last)| VfioIovaRange {
            start: start as u64,
            end: last as u64,
        };
        let usable = ioas.iopt().read().collect(0, usize::MAX, range)?;
        (sizes, alignment, usable)
    };

    let avail = size_of::<VfioInfo>();
    let iovas = avail + put_dma_avail(arg.wrapping_add(avail), room.saturating_sub(avail))?;
    if room >= iovas {
        link(arg.wrapping_add(avail), iovas)?;
    }
    let end =
        iovas + put_iova_ranges(arg.wrapping_add(iovas), room.saturating_sub(iovas), &usable)?;

    let info = VfioInfo {
        argsz: end as u32,
        flags: uapi::VFIO_IOMMU_INFO_PGSIZES | uapi::VFIO_IOMMU_INFO_CAPS,
        iova_pgsizes: vfio_page_sizes(sizes, alignment) as u64,
        // With too little room the size says how much there is to be had.
        cap_offset: if room >= end { avail as u32 } else { 0 },
        ..VfioInfo::default()
    };
    write_bytes(arg, handlers::head_of(&info, room))
}

/// Lets the capability at `at` name the next one's offset.
fn link(at: usize, next: usize) -> Result {
    let next = (next as u32).to_ne_bytes();
    write_bytes(at.wrapping_add(offset_of!(VfioCapHeader, next)), &next)
}

/// Writes how many mappings there may be, if that fits; returns the size it takes, in bytes.
fn put_dma_avail(to: usize, room: usize) -> Result<usize> {
    let cap = VfioDmaAvail {
        header: VfioCapHeader {
            id: uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL as u16,
            version: 1,
            next: 0,
        },
        // What limits them is memory. VFIO's own limit is 65535, but user space on s390 asks for
        // more than that.
        avail: u32::MAX,
    };
    if room >= size_of::<VfioDmaAvail>() {
        write_struct(to, &cap)?;
    }
    Ok(size_of::<VfioDmaAvail>().next_multiple_of(size_of::<u64>()))
}

/// Writes which IOVAs are usable, as many ranges as fit; returns the size all take, in bytes.
fn put_iova_ranges(to: usize, room: usize, usable: &[VfioIovaRange]) -> Result<usize> {
    let mut count = 0;
    let mut end = size_of::<VfioIovaCap>();
    for range in usable {
        let at = end;
        end += size_of::<VfioIovaRange>();
        count += 1;
        if room >= end {
            write_struct(to.wrapping_add(at), range)?;
        }
    }
    let cap = VfioIovaCap {
        header: VfioCapHeader {
            id: uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE as u16,
            version: 1,
            next: 0,
        },
        nr_iovas: count,
        ..VfioIovaCap::default()
    };
    if room >= end {
        write_struct(to, &cap)?;
    }
    Ok(end)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_vfio)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes() {
        for (sizes, alignment, expected) in [
            (0x1000, 1, 0x1000),
            (0x4020_1000, 0x1000, 0x4020_1000),
            // Half pages become whole ones.
            (0x800, 0x1000, 0x1000),
            (0x20_0800, 0x800, 0x20_1000),
            (0, 0x1000, 0x1000),
            (usize::MAX, 1, usize::MAX & PAGE_MASK),
        ] {
            assert_eq!(vfio_page_sizes(sizes, alignment), expected);
        }
    }

    #[test]
    fn where_to_cut() {
        assert!(edges(0, 0x1000).get() == [0xfff]);
        assert!(edges(0x1000, 0x1000).get() == [0x1fff, 0xfff]);
        assert!(edges(usize::MAX, 1).get() == [usize::MAX, usize::MAX - 1]);
        // Nothing to unmap is refused by the core; here it must only not overflow.
        assert!(edges(0, 0).get() == [usize::MAX]);
        assert!(edges(usize::MAX, usize::MAX).get().len() == 2);
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls of an I/O address space.
//!
//! What they map is the page core's business; here user space's numbers are checked.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use crate::{
    ffi::{
        context::Ctx,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                IoasAlloc,
                IoasAllowIovas,
                IoasCopy,
                IoasIovaRanges,
                IoasMap,
                IoasMapFile,
                IoasNoiommuGetPa,
                IoasUnmap,
                IovaRange,
                OptionCmd, //
            }, //
        },
        ucmd::{
            read_struct,
            write_structs,
            Reply,
            Ucmd, //
        }, //
    },
    io_pagetable::{
        Access,
        Allowed,
        IoPagetable,
        Place, //
    },
    ioctl::{
        Answer,
        Ioctl,
        New,
        Publish,
        Respond, //
    },
    object::{
        begins_with_head,
        lend,
        Head,
        Loan,
        Object,
        Reserved, //
    }, //
};
use core::{
    mem::{
        offset_of,
        size_of, //
    },
    pin::Pin, //
};
use kernel::{
    interop::list::CListHead,
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// An I/O address space.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Ioas {
    #[pin]
    object: Object,
    #[pin]
    hwpts: Mutex<CListHead>,
    #[pin]
    iopt: IoPagetable,
}

begins_with_head!(Ioas, object);

impl Ioas {
    /// Its hwpts. The mutex also guards what automatic attachment does.
    pub(crate) fn hwpts(&self) -> &Mutex<CListHead> {
        &self.hwpts
    }

    /// Its IOVAs.
    pub(crate) fn iopt(&self) -> &IoPagetable {
        &self.iopt
    }

    /// Makes one that is complete, but not visible.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve(ctx: &Ctx) -> Result<Reserved<'_, Self>> {
        let init = pin_init!(Self {
            object <- Object::new(),
            hwpts <- new_mutex!(CListHead::new(), "ioas->mutex"),
            iopt <- IoPagetable::new(),
        });
        Reserved::new(ctx, init)
    }
}

#[pinned_drop]
impl PinnedDrop for Ioas {
    fn drop(self: Pin<&mut Self>) {
        match self.iopt.unmap_all().1 {
            Ok(()) | Err(ENOENT) => (),
            // Nobody can hold pages any more: who could was a user of the IOAS.
            Err(_) => {
                kernel::warn_on!(true);
            }
        }
    }
}

/// An IOAS that is complete, and not to be found.
pub(crate) struct NewIoas<'a> {
    ctx: &'a Ctx,
    ioas: Reserved<'a, Ioas>,
}

impl Publish for NewIoas<'_> {
    fn publish(self) -> Result {
        let _lock = self.ctx.ioas_creation_lock().read();
        self.ioas.publish();
        Ok(())
    }
}

impl Ioctl for IoasAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_ALLOC);
    const MIN_SIZE: usize = end_of!(IoasAlloc, out_ioas_id);
    type Answer<'a> = New<NewIoas<'a>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        if ucmd.flags != 0 {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        let ioas = Ioas::reserve(ctx)?;
        ucmd.out_ioas_id = ioas.id();
        Ok(New(NewIoas { ctx, ioas }))
    }
}

/// As many ranges need no memory.
const FEW: usize = 2;

/// Usable ranges, as many as user space has room for.
pub(crate) struct Found {
    few: [IovaRange; FEW],
    more: Option<KVVec<IovaRange>>,
    /// How many there are in all.
    count: u32,
    /// What IOVAs must be multiples of, in bytes.
    alignment: usize,
}

impl Answer<IoasIovaRanges> for Found {
    fn give(self, reply: Reply<'_, IoasIovaRanges>) -> Result {
        let given = reply.num_iovas.min(self.count) as usize;
        let few = self.few.get(..given).unwrap_or(&self.few);
        write_structs(element(reply.allowed_iovas, 0), few)?;
        if let Some(more) = &self.more {
            write_structs(element(reply.allowed_iovas, FEW as u32), more)?;
        }
        reply.put_u32(offset_of!(IoasIovaRanges, num_iovas), self.count)?;
        reply.put_u64(
            offset_of!(IoasIovaRanges, out_iova_alignment),
            self.alignment as u64,
        )?;
        if self.count > reply.num_iovas {
            return Err(EMSGSIZE);
        }
        Ok(())
    }
}

impl Ioctl for IoasIovaRanges {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_IOVA_RANGES);
    const MIN_SIZE: usize = end_of!(IoasIovaRanges, out_iova_alignment);
    type Answer<'a> = Found;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Found> {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let ioas = lend::<Ioas>(ucmd.ctx(), ucmd.ioas_id)?;
        let iovas = ioas.iopt().read();
        let range = |(start, last)| IovaRange {
            start: start as u64,
            last: last as u64,
        };
        let mut few = [range((0, 0)); FEW];
        let mut count = 0;
        for usable in iovas.usable() {
            if let Some(place) = few.get_mut(count) {
                *place = range(usable);
            }
            count += 1;
        }
        let more = match count.min(ucmd.num_iovas as usize).saturating_sub(FEW) {
            0 => None,
            more => Some(iovas.collect(FEW, more, range)?),
        };
        Ok(Found {
            few,
            more,
            count: u32::try_from(count)?,
            alignment: iovas.alignment(),
        })
    }
}

/// The user address of a range in user space's array. It may wrap, and then faults.
fn element(array: u64, index: u32) -> usize {
    (array as usize).wrapping_add(index as usize * size_of::<IovaRange>())
}

impl Ioctl for IoasAllowIovas {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_ALLOW_IOVAS);
    const MIN_SIZE: usize = end_of!(IoasAllowIovas, allowed_iovas);
    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let ioas = lend::<Ioas>(ucmd.ctx(), ucmd.ioas_id)?;
        let mut allowed = Allowed::new();
        for i in 0..ucmd.num_iovas {
            let range: IovaRange = read_struct(element(ucmd.allowed_iovas, i))?;
            allowed.insert(range.start, range.last)?;
        }
        ioas.iopt().set_allowed(&mut allowed)
    }
}

/// Where and how to map, from the flags that MAP, MAP_FILE and COPY have in common.
///
/// # Errors
///
/// `EOPNOTSUPP` for a flag that is none; `EOVERFLOW` for a number that is too large for any
/// address; `EINVAL` when neither reading nor writing is wanted.
fn mapping(flags: u32, iova: u64, numbers: &[u64]) -> Result<(Place, Access)> {
    let known = uapi::MAP_FIXED_IOVA | uapi::MAP_WRITEABLE | uapi::MAP_READABLE;
    if flags & !known != 0 {
        return Err(EOPNOTSUPP);
    }
    if too_large(iova) || numbers.iter().any(|&n| too_large(n)) {
        return Err(EOVERFLOW);
    }
    let access = Access {
        read: flags & uapi::MAP_READABLE != 0,
        write: flags & uapi::MAP_WRITEABLE != 0,
    };
    if !access.read && !access.write {
        return Err(EINVAL);
    }
    let place = if flags & uapi::MAP_FIXED_IOVA != 0 {
        Place::At(iova as usize)
    } else {
        Place::Anywhere
    };
    Ok((place, access))
}

/// No address and no length is `ULONG_MAX`.
fn too_large(number: u64) -> bool {
    !usize::try_from(number).is_ok_and(|n| n != usize::MAX)
}

impl Ioctl for IoasMap {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_MAP);
    const MIN_SIZE: usize = end_of!(IoasMap, iova);
    type Answer<'a> = Respond;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Respond> {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let (place, access) = mapping(ucmd.flags, ucmd.iova, &[ucmd.length])?;
        let ctx = ucmd.ctx();
        let ioas = lend::<Ioas>(ctx, ucmd.ioas_id)?;
        let length = ucmd.length as usize;
        let iova = ioas
            .iopt()
            .map_user(ctx, place, ucmd.user_va, length, access)?;
        ucmd.iova = iova as u64;
        Ok(Respond)
    }
}

impl Ioctl for IoasMapFile {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_MAP_FILE);
    const MIN_SIZE: usize = end_of!(IoasMapFile, iova);
    type Answer<'a> = Respond;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Respond> {
        let (place, access) = mapping(ucmd.flags, ucmd.iova, &[ucmd.length])?;
        let ctx = ucmd.ctx();
        let ioas = lend::<Ioas>(ctx, ucmd.ioas_id)?;
        let (start, length) = (ucmd.start as usize, ucmd.length as usize);
        let iova = ioas
            .iopt()
            .map_file(ctx, place, ucmd.fd, start, length, access)?;
        ucmd.iova = iova as u64;
        Ok(Respond)
    }
}

impl Ioctl for IoasCopy {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_COPY);
    const MIN_SIZE: usize = end_of!(IoasCopy, src_iova);
    type Answer<'a> = Respond;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Respond> {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        crate::selftest::test_ioctl::convert_iova(ucmd);
        let (place, access) = mapping(ucmd.flags, ucmd.dst_iova, &[ucmd.length, ucmd.src_iova])?;
        let ctx = ucmd.ctx();
        let (from, length) = (ucmd.src_iova as usize, ucmd.length as usize);
        let mut parts = lend::<Ioas>(ctx, ucmd.src_ioas_id)?
            .iopt()
            .get_pages(from, length)?;
        let target = lend::<Ioas>(ctx, ucmd.dst_ioas_id)?;
        let iova = target.iopt().map(place, &mut parts, length, access)?;
        ucmd.dst_iova = iova as u64;
        Ok(Respond)
    }
}

impl Ioctl for IoasUnmap {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_UNMAP);
    const MIN_SIZE: usize = end_of!(IoasUnmap, length);
    type Answer<'a> = Respond;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Respond> {
        let ioas = lend::<Ioas>(ucmd.ctx(), ucmd.ioas_id)?;
        let (unmapped, result) = match (ucmd.iova, ucmd.length) {
            (0, u64::MAX) => ioas.iopt().unmap_all(),
            (iova, length) if too_large(iova) || too_large(length) => return Err(EOVERFLOW),
            (iova, length) => match ioas.iopt().unmap(iova as usize, length as usize) {
                (0, Ok(())) => return Err(ENOENT),
                unmapped => unmapped,
            },
        };
        result?;
        ucmd.length = unmapped as u64;
        Ok(Respond)
    }
}

impl Ioctl for IoasNoiommuGetPa {
    const NUMBER: u32 = handlers::number(uapi::CMD_IOAS_NOIOMMU_GET_PA);
    const MIN_SIZE: usize = end_of!(IoasNoiommuGetPa, out_phys);
    type Answer<'a> = Respond;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Respond> {
        if !cfg!(CONFIG_IOMMUFD_NOIOMMU) {
            return Err(EOPNOTSUPP);
        }
        if !handlers::may_see_physical() {
            return Err(EPERM);
        }
        if ucmd.flags != 0 || ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        if ucmd.length == 0 {
            return Err(EINVAL);
        }
        if too_large(ucmd.iova) {
            return Err(EOVERFLOW);
        }
        let ioas: Loan<'_, Ioas> = lend(ucmd.ctx(), ucmd.ioas_id)?;
        (ucmd.out_phys, ucmd.length) = ioas.iopt().physical(ucmd.iova as usize, ucmd.length)?;
        Ok(Respond)
    }
}

/// `IOMMU_OPTION_HUGE_PAGES` of an IOAS.
///
/// # Errors
///
/// `ENOENT` for no IOAS; `EINVAL` for another value than 0 and 1, and when a domain has something
/// mapped already; `EADDRINUSE` when something is mapped that is not aligned well enough.
pub(crate) fn huge_pages(ucmd: &mut Ucmd<'_, OptionCmd>) -> Result {
    let ioas = lend::<Ioas>(ucmd.ctx(), ucmd.object_id)?;
    match ucmd.op.into() {
        uapi::OPTION_OP_GET => {
            ucmd.val64 = u64::from(ioas.iopt().large_pages());
            Ok(())
        }
        uapi::OPTION_OP_SET => match ucmd.val64 {
            0 => ioas.iopt().set_large_pages(false),
            1 => ioas.iopt().set_large_pages(true),
            _ => Err(EINVAL),
        },
        _ => Err(EOPNOTSUPP),
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_ioas)]
mod tests {
    use super::*;

    const R: u32 = uapi::MAP_READABLE;
    const W: u32 = uapi::MAP_WRITEABLE;
    const FIXED: u32 = uapi::MAP_FIXED_IOVA;
    const MAX: u64 = u64::MAX;

    #[test]
    fn flags() {
        for bit in 0..32 {
            let flag = 1 << bit;
            let known = flag & (R | W | FIXED) != 0;
            assert_eq!(
                mapping(flag | R, 0, &[]).err(),
                (!known).then_some(EOPNOTSUPP)
            );
        }
        for flags in [0, FIXED] {
            assert_eq!(mapping(flags, 0, &[]).err(), Some(EINVAL));
        }
        for (flags, read, write) in [(R, true, false), (W, false, true), (R | W, true, true)] {
            let wanted = Access { read, write };
            assert!(mapping(flags, 5, &[]) == Ok((Place::Anywhere, wanted)));
            assert!(mapping(flags | FIXED, 5, &[]) == Ok((Place::At(5), wanted)));
        }
    }

    #[test]
    fn limits() {
        for (number, expected) in [
            (0, None),
            (1, None),
            (MAX - 1, None),
            (MAX, Some(EOVERFLOW)),
        ] {
            assert_eq!(mapping(R, number, &[]).err(), expected);
            assert_eq!(mapping(R, 0, &[number]).err(), expected);
            assert_eq!(mapping(R, 0, &[0, number]).err(), expected);
        }
        // An unknown flag is told before a bad number, a missing permission after it.
        assert_eq!(mapping(1 << 31, MAX, &[]).err(), Some(EOPNOTSUPP));
        assert_eq!(mapping(0, MAX, &[]).err(), Some(EOVERFLOW));
    }

    #[test]
    fn elements() {
        assert_eq!(element(0x1000, 0), 0x1000);
        assert_eq!(element(0x1000, 3), 0x1030);
        assert_eq!(element(u64::MAX - 15, 1), 0);
    }
}

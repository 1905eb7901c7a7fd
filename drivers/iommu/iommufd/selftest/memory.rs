// SPDX-License-Identifier: GPL-2.0-only

//! Looking at memory: whether what is mapped, and what is pinned, is what a test thinks; and
//! dma-bufs to map.

use super::{
    domain::Paging,
    uapi::{
        CheckMap,
        CheckRefs,
        DmabufGet,
        DmabufRevoke, //
    },
    IOMMU,
};
use crate::{
    ffi::selftest::{
        dmabuf,
        object::{
            self,
            PagingExt,
            Ucmd, //
        },
        page::{
            is_killed,
            UserPage, //
        }, //
    },
    hwpt::PagingHwpt,
    object::lend, //
};
use kernel::{
    iommu::{
        domain::{
            Domain,
            Kind, //
        },
        pages::ContiguousPages, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// The most memory of a dma-buf, in bytes.
const MAX_DMABUF: usize = 512 * PAGE_SIZE;

/// The mock page table of a hwpt.
///
/// # Errors
///
/// `EINVAL`: it is another driver's, or not one that the kernel manages.
pub(super) fn paging(hwpt: &PagingHwpt) -> Result<&Domain<Paging>> {
    let domain = object::domain(hwpt.common());
    if domain.kind() != Kind::Unmanaged || !domain.is_of(&IOMMU) {
        return Err(EINVAL);
    }
    domain.downcast().ok_or(EINVAL)
}

/// Addresses of pages from `addr` on, for `length` bytes. The size of a page is a power of two.
///
/// # Errors
///
/// `EINVAL`: not whole pages, or it wraps.
fn steps(addr: usize, length: usize, page: usize) -> Result<impl Iterator<Item = usize>> {
    if (addr | length) & (page - 1) != 0 {
        return Err(EINVAL);
    }
    let end = addr.checked_add(length).ok_or(EINVAL)?;
    Ok((addr..end).step_by(page))
}

/// Whoever is killed need not wait for a check that goes on for hours.
///
/// # Errors
///
/// `EINTR`: the caller was killed. Other signals wait, as they do in C.
pub(super) fn go_on() -> Result {
    if is_killed() {
        return Err(EINTR);
    }
    Ok(())
}

/// `MD_CHECK_MAP`: whether each page is mapped to what the caller has at its address.
///
/// # Errors
///
/// `ENOENT`: no such page table. `EINVAL`: it is not, or the range is odd. `EFAULT`: the caller
/// has nothing there. `EINTR`: the caller was killed.
pub(super) fn check_map(ucmd: &mut Ucmd<'_>) -> Result {
    let args: CheckMap = ucmd.cmd().args()?;
    let hwpt = lend::<PagingHwpt>(ucmd.ctx(), ucmd.cmd().id)?;
    let domain = paging(&hwpt)?.as_any();
    let page = domain.min_page_size().ok_or(EINVAL)?;
    let mut iova = usize::try_from(args.iova)?;
    if iova & (page - 1) != 0 {
        return Err(EINVAL);
    }
    let uptr = usize::try_from(args.uptr)?;
    let length = usize::try_from(args.length)?;
    for addr in steps(uptr, length, page)? {
        go_on()?;
        let inside = addr % PAGE_SIZE;
        // Before the mapping is kept: see `Mapped`.
        let expected = UserPage::at(addr - inside)?.phys() + inside as u64;
        let phys = hwpt.while_mapped(iova, |mapped| mapped.phys(iova));
        if phys.flatten() != Some(expected) {
            return Err(EINVAL);
        }
        iova = iova.wrapping_add(page);
    }
    Ok(())
}

/// `MD_CHECK_REFS`: whether each page of the caller is pinned so many times.
///
/// # Errors
///
/// `EIO`: it is not. `EINVAL`: the range is odd. `EFAULT`: the caller has nothing there. `EINTR`:
/// the caller was killed.
pub(super) fn check_refs(ucmd: &mut Ucmd<'_>) -> Result {
    let args: CheckRefs = ucmd.cmd().args()?;
    let uptr = usize::try_from(args.uptr)?;
    let length = usize::try_from(args.length)?;
    for addr in steps(uptr, length, PAGE_SIZE)? {
        go_on()?;
        if UserPage::at(addr)?
            .pins()
            .is_some_and(|pins| pins != args.refs)
        {
            return Err(EIO);
        }
    }
    Ok(())
}

/// `DMABUF_GET`: makes a dma-buf; gives its descriptor.
///
/// # Errors
///
/// `EINVAL`: nothing, or too much. `ENOMEM`, `EMFILE`: no memory, no descriptor.
pub(super) fn dmabuf_get(ucmd: &mut Ucmd<'_>) -> Result<i32> {
    let args: DmabufGet = ucmd.cmd().args()?;
    let length = (args.length as usize).next_multiple_of(PAGE_SIZE);
    if length > MAX_DMABUF {
        return Err(EINVAL);
    }
    // CAST: any flags will do: of those that it does not know the core of dma-buf takes no notice.
    dmabuf::export(ContiguousPages::new(length)?, args.open_flags as i32)
}

/// `DMABUF_REVOKE`: takes the memory of a dma-buf away, or gives it back.
///
/// # Errors
///
/// See [`dmabuf::revoke`].
pub(super) fn dmabuf_revoke(ucmd: &mut Ucmd<'_>) -> Result {
    let args: DmabufRevoke = ucmd.cmd().args()?;
    dmabuf::revoke(args.dmabuf_fd, args.revoked != 0)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_mock_memory)]
mod tests {
    use super::*;

    #[test]
    fn steps_over_pages() {
        // (address, length, page size, number of steps)
        let table = [
            (0, 0, 4096, Ok(0)),
            (4096, 8192, 4096, Ok(2)),
            (4096, 8192, 2048, Ok(4)),
            (4097, 8192, 4096, Err(EINVAL)),
            (4096, 8191, 4096, Err(EINVAL)),
            (usize::MAX - 4095, 4096, 4096, Err(EINVAL)),
        ];
        for (addr, length, page, count) in table {
            assert_eq!(steps(addr, length, page).map(|all| all.count()), count);
        }
    }
}

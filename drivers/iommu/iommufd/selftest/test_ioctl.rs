// SPDX-License-Identifier: GPL-2.0-only

//! The test ioctl: its commands, and which function does each.
//!
//! The commands that are about memory, accesses and dirty bits are in their own files; here are
//! those about devices.

use super::{
    access,
    binding::Binding,
    device,
    dirty,
    memory,
    nested::Nested,
    uapi::{
        self,
        op,
        AddReserved,
        CheckEntry,
        MockDomain,
        PasidPt,
        TriggerIopf, //
    }, //
};
use crate::{
    ffi::{
        device::Device as IdDevice,
        handlers::uapi::IoasCopy,
        selftest::{
            object::{
                domain,
                physical,
                IoasExt,
                SelftestObject,
                Ucmd, //
            },
            registration::{
                report_fault,
                PageFault, //
            }, //
        },
        ucmd, //
    },
    hwpt::{
        Hwpt,
        NestedHwpt, //
    },
    ioas::Ioas,
    object::{
        lend,
        Head,
        Object, //
    }, //
};
use kernel::{
    iommu::ops::NO_PASID,
    prelude::*,
    sync::atomic::Relaxed, //
};
use zerocopy_derive::{
    Immutable,
    KnownLayout, //
};

/// `struct iommu_test_cmd`; the arguments are a union, which [`TestCmd::args`] reads.
#[repr(C)]
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout)]
pub(crate) struct TestCmd {
    size: u32,
    op: u32,
    /// What the command is about: an object, or a descriptor.
    pub(super) id: u32,
    reserved: u32,
    args: [u64; 6],
    last: u32,
    pad: u32,
}

impl TestCmd {
    /// The arguments, as those of one command.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no command has that many.
    pub(super) fn args<T: FromBytes>(&self) -> Result<T> {
        let (args, _) = T::read_from_prefix(self.args.as_bytes()).map_err(|_| EINVAL)?;
        Ok(args)
    }

    /// Changes the arguments, for user space to see.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no command has that many.
    pub(super) fn set_args<T: IntoBytes + zerocopy::Immutable>(&mut self, args: &T) -> Result {
        args.write_to_prefix(self.args.as_mut_bytes())
            .map_err(|_| EINVAL)
    }
}

/// Does one command. All give 0, but for the one that makes a descriptor.
///
/// # Errors
///
/// `EOPNOTSUPP`: there is no such command. Otherwise see the function of the command.
pub(crate) fn run(ucmd: &mut Ucmd<'_>) -> Result<i32> {
    match ucmd.cmd().op {
        op::ADD_RESERVED => add_reserved(ucmd),
        op::MOCK_DOMAIN => mock_domain(ucmd, 0),
        op::MOCK_DOMAIN_FLAGS => {
            let args: MockDomain = ucmd.cmd().args()?;
            mock_domain(ucmd, args.dev_flags)
        }
        op::MOCK_DOMAIN_REPLACE => mock_domain_replace(ucmd),
        op::MD_CHECK_MAP => memory::check_map(ucmd),
        op::MD_CHECK_REFS => memory::check_refs(ucmd),
        op::MD_CHECK_IOTLB => check_iotlb(ucmd),
        op::DEV_CHECK_CACHE => check_cache(ucmd),
        op::CREATE_ACCESS => access::create(ucmd),
        op::ACCESS_REPLACE_IOAS => access::replace_ioas(ucmd),
        op::ACCESS_PAGES => access::pin(ucmd),
        op::ACCESS_RW => access::rw(ucmd),
        op::DESTROY_ACCESS_PAGES => access::unpin(ucmd),
        op::SET_TEMP_MEMORY_LIMIT => memory_limit(ucmd),
        op::DIRTY => dirty::mark(ucmd),
        op::TRIGGER_IOPF => trigger_iopf(ucmd),
        op::TRIGGER_VEVENT => trigger_vevent(ucmd),
        op::PASID_ATTACH => pasid_attach(ucmd),
        op::PASID_REPLACE => pasid_replace(ucmd),
        op::PASID_DETACH => pasid_detach(ucmd),
        op::PASID_CHECK_HWPT => pasid_check_hwpt(ucmd),
        op::DMABUF_GET => return memory::dmabuf_get(ucmd),
        op::DMABUF_REVOKE => memory::dmabuf_revoke(ucmd),
        _ => Err(EOPNOTSUPP),
    }
    .map(|()| 0)
}

/// The number of a mapping and an offset in it, from an IOVA that a fuzzer made up.
pub(super) fn area_number(iova: u64) -> (u32, usize) {
    // CAST: the halves of the number, as the memory of a little-endian machine has them.
    (iova as u32, (iova >> 32) as usize)
}

/// Makes a number that a fuzzer made up an IOVA, if the flags say that it is one; clears that flag.
pub(crate) fn convert_iova(copy: &mut ucmd::Ucmd<'_, IoasCopy>) {
    if copy.flags & uapi::ACCESS_SYZ == 0 {
        return;
    }
    copy.flags &= !uapi::ACCESS_SYZ;
    if let Ok(ioas) = lend::<Ioas>(copy.ctx(), copy.src_ioas_id) {
        let (nth, offset) = area_number(copy.src_iova);
        let start = ioas.nth_area(nth);
        copy.src_iova = start.map_or(0, |start| start.wrapping_add(offset)) as u64;
    }
}

/// `ADD_RESERVED`: keeps a range of an IOAS from being mapped.
///
/// # Errors
///
/// `EINVAL`: it is empty. `EOVERFLOW`: it wraps. See also [`Ioas::reserve`].
fn add_reserved(ucmd: &mut Ucmd<'_>) -> Result {
    let args: AddReserved = ucmd.cmd().args()?;
    let first = usize::try_from(args.start)?;
    let more = usize::try_from(args.length)?.checked_sub(1).ok_or(EINVAL)?;
    let last = first.checked_add(more).ok_or(EOVERFLOW)?;
    lend::<Ioas>(ucmd.ctx(), ucmd.cmd().id)?.reserve(first, last)
}

/// `MOCK_DOMAIN`, `MOCK_DOMAIN_FLAGS`: makes a device and attaches it.
///
/// # Errors
///
/// See [`Binding::new`] and [`Binding::attach`].
fn mock_domain(ucmd: &mut Ucmd<'_>, flags: u32) -> Result {
    let object = SelftestObject::reserve(ucmd.ctx())?;
    let (binding, idev_id) = Binding::new(ucmd.ctx(), flags)?;
    let hwpt_id = binding.attach(NO_PASID, ucmd.cmd().id)?;
    // Three of four members: what MOCK_DOMAIN does not have stays as it was.
    ucmd.cmd().set_args(&[object.id(), hwpt_id, idev_id])?;
    ucmd.respond()?;
    object.set(binding);
    object.publish();
    Ok(())
}

/// `MOCK_DOMAIN_REPLACE`: moves a device to another IOAS or page table.
///
/// # Errors
///
/// `ENOENT`: no such device. See also [`Binding::replace`].
fn mock_domain_replace(ucmd: &mut Ucmd<'_>) -> Result {
    let pt_id: u32 = ucmd.cmd().args()?;
    let object = lend::<SelftestObject>(ucmd.ctx(), ucmd.cmd().id)?;
    let hwpt_id = object.replace(NO_PASID, pt_id)?;
    ucmd.cmd().set_args(&hwpt_id)?;
    ucmd.respond()
}

/// `SET_TEMP_MEMORY_LIMIT`: makes the page core work in small pieces.
///
/// # Errors
///
/// `EINVAL`: less than a piece of one element.
fn memory_limit(ucmd: &mut Ucmd<'_>) -> Result {
    let limit: u32 = ucmd.cmd().args()?;
    let limit = limit as usize;
    if limit < size_of::<usize>() + size_of::<u32>() {
        return Err(EINVAL);
    }
    super::MEMORY_LIMIT.store(limit, Relaxed);
    Ok(())
}

/// `MD_CHECK_IOTLB`: whether the software IOTLB of a nested domain holds a value.
///
/// # Errors
///
/// `ENOENT`: no such domain. `EINVAL`: it does not, or there is no such entry.
fn check_iotlb(ucmd: &mut Ucmd<'_>) -> Result {
    let args: CheckEntry = ucmd.cmd().args()?;
    let hwpt = lend::<NestedHwpt>(ucmd.ctx(), ucmd.cmd().id)?;
    let hwpt = Hwpt::of(hwpt.object()).ok_or(EINVAL)?;
    let nested = domain(hwpt).downcast::<Nested>().ok_or(EINVAL)?;
    if nested.iotlb(args.id) != Some(args.value) {
        return Err(EINVAL);
    }
    Ok(())
}

/// `DEV_CHECK_CACHE`: whether the cache of a device holds a value.
///
/// # Errors
///
/// `ENOENT`: no such device. `EINVAL`: it does not, or it is not a mock device.
fn check_cache(ucmd: &mut Ucmd<'_>) -> Result {
    let args: CheckEntry = ucmd.cmd().args()?;
    let bound = lend::<IdDevice>(ucmd.ctx(), ucmd.cmd().id)?;
    let mock = device::of(physical(&bound)).map_err(|_| EINVAL)?;
    if mock.cache(args.id) != Some(args.value) {
        return Err(EINVAL);
    }
    Ok(())
}

/// `TRIGGER_IOPF`: a device reports a page fault.
///
/// # Errors
///
/// `ENOENT`: no such device. `EINVAL`: it is not a mock device.
fn trigger_iopf(ucmd: &mut Ucmd<'_>) -> Result {
    let args: TriggerIopf = ucmd.cmd().args()?;
    let bound = lend::<IdDevice>(ucmd.ctx(), args.dev_id)?;
    let dev = physical(&bound);
    let fault = PageFault {
        pasid: args.pasid,
        group: args.grpid,
        perm: args.perm,
        addr: args.addr,
    };
    device::of(dev).map_err(|_| EINVAL)?;
    report_fault(dev, &fault);
    Ok(())
}

/// `TRIGGER_VEVENT`: a device reports an event to its virtual machine.
///
/// # Errors
///
/// `ENOENT`: no such device, or it is with no virtual machine. `EINVAL`: it is not a mock device.
fn trigger_vevent(ucmd: &mut Ucmd<'_>) -> Result {
    let dev_id: u32 = ucmd.cmd().args()?;
    let bound = lend::<IdDevice>(ucmd.ctx(), dev_id)?;
    device::of(physical(&bound)).map_err(|_| EINVAL)?.event()
}

/// `PASID_ATTACH`: attaches a PASID of a device.
///
/// # Errors
///
/// `ENOENT`: no such device. See also [`Binding::attach`].
fn pasid_attach(ucmd: &mut Ucmd<'_>) -> Result {
    let mut args: PasidPt = ucmd.cmd().args()?;
    let object = lend::<SelftestObject>(ucmd.ctx(), ucmd.cmd().id)?;
    args.pt_id = object.attach(args.pasid, args.pt_id)?;
    ucmd.cmd().set_args(&args)?;
    ucmd.respond().inspect_err(|_| object.detach(args.pasid))
}

/// `PASID_REPLACE`: moves a PASID of a device to another IOAS or page table.
///
/// # Errors
///
/// `ENOENT`: no such device. See also [`Binding::replace`].
fn pasid_replace(ucmd: &mut Ucmd<'_>) -> Result {
    let mut args: PasidPt = ucmd.cmd().args()?;
    let object = lend::<SelftestObject>(ucmd.ctx(), ucmd.cmd().id)?;
    args.pt_id = object.replace(args.pasid, args.pt_id)?;
    ucmd.cmd().set_args(&args)?;
    ucmd.respond()
}

/// `PASID_DETACH`: detaches a PASID of a device, if it is attached.
///
/// # Errors
///
/// `ENOENT`: no such device.
fn pasid_detach(ucmd: &mut Ucmd<'_>) -> Result {
    let pasid = ucmd.cmd().args()?;
    lend::<SelftestObject>(ucmd.ctx(), ucmd.cmd().id)?.detach(pasid);
    Ok(())
}

/// `PASID_CHECK_HWPT`: whether a PASID is attached to a page table, or with id 0 to none.
///
/// # Errors
///
/// `ENOENT`: no such device or page table. `EINVAL`: it is not.
fn pasid_check_hwpt(ucmd: &mut Ucmd<'_>) -> Result {
    let args: PasidPt = ucmd.cmd().args()?;
    let object = lend::<SelftestObject>(ucmd.ctx(), ucmd.cmd().id)?;
    let hwpt = match args.pt_id {
        0 => None,
        id => Some(lend::<Object>(ucmd.ctx(), id)?),
    };
    let expected = match &hwpt {
        None => None,
        Some(hwpt) => Some(domain(Hwpt::of(hwpt).ok_or(EINVAL)?)),
    };
    if !object.is_attached_to(args.pasid, expected) {
        return Err(EINVAL);
    }
    Ok(())
}

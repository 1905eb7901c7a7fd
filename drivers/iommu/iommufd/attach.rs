// SPDX-License-Identifier: GPL-2.0-only

//! What the devices of a group are attached to.
//!
//! DMA without a PASID is the whole group's: its devices share one attachment, and each that joins
//! only adds its own reserved ranges. An [`Attachment`] owns one hold on its hwpt and one on each
//! of its devices, so that none of them can be destroyed; counts are never added or subtracted,
//! they move with the values.
//!
//! Everything here runs under the group's mutex. A hold on a hwpt that was given up comes back to
//! the caller, who lets go of it without any lock: it may be the last one on an automatic hwpt.

use crate::{
    ffi::{
        attach_handle::{
            Handle,
            Pasid,
            NO_PASID, //
        },
        context::Ctx,
        device::Device,
        group::Locked, //
    },
    hwpt::{
        Hwpt,
        PagingHwpt, //
    },
    ioas::Ioas,
    object::Hold, //
};
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};

/// What a group, or a PASID of a device in it, is attached to.
pub(crate) struct Attachment {
    handle: Handle,
    devices: KVec<Hold<Device>>,
}

impl Attachment {
    fn find(&self, device: &Device) -> Option<usize> {
        self.devices
            .iter()
            .position(|it| core::ptr::eq(&raw const **it, device))
    }

    fn is_on(&self, hwpt: &Hwpt) -> bool {
        core::ptr::eq(self.hwpt(), hwpt)
    }

    fn hwpt(&self) -> &Hwpt {
        self.handle.hwpt()
    }
}

/// All attachments of a group.
pub(crate) struct Attachments(RBTree<Pasid, Attachment>);

impl Attachments {
    /// None.
    pub(crate) fn new() -> Self {
        Self(RBTree::new())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `hwpt` may be attached here, as far as PASIDs go.
    fn check_pasid(&self, hwpt: &Hwpt, pasid: Pasid) -> Result {
        let plain = self.0.get(&NO_PASID);
        let plain = plain.map(|it| it.hwpt().is_pasid_compat());
        let has_pasids = self.0.cursor_lower_bound(&(NO_PASID + 1)).is_some();
        check_pasid(pasid, hwpt.is_pasid_compat(), plain, has_pasids)
    }
}

/// Hwpts that are not made for it do not go with PASIDs on one device. `plain` is whether that of
/// DMA without a PASID is, if there is one; `has_pasids` whether a PASID is attached.
///
/// # Errors
///
/// `EINVAL`: they do not go together.
fn check_pasid(pasid: Pasid, is_compat: bool, plain: Option<bool>, has_pasids: bool) -> Result {
    let is_good = match pasid {
        NO_PASID => is_compat || !has_pasids,
        _ => is_compat && plain != Some(false),
    };
    is_good.then_some(()).ok_or(EINVAL)
}

/// Whether the device can have its faults answered by user space. The page request interface of a
/// virtual function is its physical function's: a failure would reach others.
///
/// # Errors
///
/// `EINVAL`: it cannot.
fn check_faults(hwpt: &Hwpt, device: &Device) -> Result {
    if hwpt.has_fault_queue() && device.dev().shares_page_requests() {
        return Err(EINVAL);
    }
    Ok(())
}

/// A range that is reserved in an IOAS for a device; given back unless it is kept.
struct Reserved<'a> {
    ioas: &'a Ioas,
    device: &'a Device,
}

impl<'a> Reserved<'a> {
    fn new(group: &mut Locked<'_>, ioas: &'a Ioas, device: &'a Device) -> Result<Self> {
        group.reserve_for(ioas, device.dev())?;
        Ok(Self { ioas, device })
    }

    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.ioas.unreserve_for(self.device.dev());
    }
}

/// The paging hwpt whose IOAS has to respect the device's reserved ranges.
fn restricted<'a>(hwpt: &'a Hwpt, device: &Device, pasid: Pasid) -> Option<&'a PagingHwpt> {
    if pasid != NO_PASID || device.is_noiommu() {
        return None;
    }
    hwpt.stage2()
}

/// Attaches a device, or one of its PASIDs.
///
/// # Errors
///
/// `EBUSY`: it is attached already; `EINVAL`: its group is attached to something else, or the
/// hwpt does not fit the device; `EADDRINUSE`: something is mapped where the device cannot go;
/// `ENOMEM`.
pub(crate) fn attach(device: &Device, pasid: Pasid, hwpt: &Hwpt) -> Result {
    let mut group = device.group().lock();
    if group.0.get(&pasid).is_some() {
        join(&mut group, device, pasid, hwpt)
    } else {
        start(&mut group, device, pasid, hwpt)
    }
}

/// Attaches the first device: the hardware begins to use the hwpt.
fn start(group: &mut Locked<'_>, device: &Device, pasid: Pasid, hwpt: &Hwpt) -> Result {
    let mut devices = KVec::new();
    devices.push(Hold::new(device)?, GFP_KERNEL)?;
    let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
    let mut reserved = None;
    if let Some(paging) = restricted(hwpt, device, pasid) {
        reserved = Some(Reserved::new(group, paging.ioas(), device)?);
        group.map_sw_msi(paging)?;
    }
    check_faults(hwpt, device)?;
    group.check_pasid(hwpt, pasid)?;
    let handle = Handle::attach(hwpt, device, pasid)?;
    // From here on nothing can fail.
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    let attachment = Attachment { handle, devices };
    group.0.insert(node.into_node(pasid, attachment));
    Ok(())
}

/// Attaches a device to what the rest of its group is attached to.
fn join(group: &mut Locked<'_>, device: &Device, pasid: Pasid, hwpt: &Hwpt) -> Result {
    let attachment = group.0.get_mut(&pasid).ok_or(EINVAL)?;
    if attachment.find(device).is_some() {
        return Err(EBUSY);
    }
    attachment.devices.reserve(1, GFP_KERNEL)?;
    if !attachment.is_on(hwpt) {
        return Err(EINVAL);
    }
    let mut reserved = None;
    if let Some(paging) = restricted(hwpt, device, pasid) {
        reserved = Some(Reserved::new(group, paging.ioas(), device)?);
    }
    let attachment = group.0.get_mut(&pasid).ok_or(EINVAL)?;
    attachment.devices.push(Hold::new(device)?, GFP_KERNEL)?;
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    Ok(())
}

/// Detaches a device, or one of its PASIDs. When it is the last one, the hold on the hwpt is given
/// to the caller, who lets go of it without locks: see [`release`].
pub(crate) fn detach(device: &Device, pasid: Pasid) -> Option<Hold<Hwpt>> {
    // Let go of last, when the mutex of the device's group is not held any more.
    let _left;
    let mut group = device.group().lock();
    let attachment = group.0.get_mut(&pasid)?;
    let index = attachment.find(device)?;
    _left = attachment.devices.remove(index).ok()?;
    if let Some(next) = attachment.devices.first() {
        attachment.handle.lead_to(next);
        unreserve(attachment.hwpt(), device, pasid);
        return None;
    }
    let hwpt = group.0.remove(&pasid)?.handle.detach(device, pasid);
    unreserve(&hwpt, device, pasid);
    Some(hwpt)
}

/// Gives the ranges back that are reserved for a device which left a hwpt.
fn unreserve(hwpt: &Hwpt, device: &Device, pasid: Pasid) {
    if let Some(paging) = restricted(hwpt, device, pasid) {
        paging.ioas().unreserve_for(device.dev());
    }
}

/// Moves a device's group, or one of its PASIDs, to another hwpt, without a moment in which the
/// DMA goes nowhere. The hold on the old hwpt is given to the caller, who lets go of it without
/// locks: see [`release`]. `None`: it was there already.
///
/// # Errors
///
/// `EINVAL`: the device is not attached, or the hwpt does not fit it; `EADDRINUSE`: something is
/// mapped where a device of the group cannot go; `ENOMEM`. Nothing has changed then.
pub(crate) fn replace(device: &Device, pasid: Pasid, hwpt: &Hwpt) -> Result<Option<Hold<Hwpt>>> {
    let mut group = device.group().lock();
    let attachment = group.0.get(&pasid).ok_or(EINVAL)?;
    attachment.find(device).ok_or(EINVAL)?;
    if attachment.is_on(hwpt) {
        return Ok(None);
    }
    let old_ioas = restricted(attachment.hwpt(), device, pasid).map(PagingHwpt::ioas);
    let paging = restricted(hwpt, device, pasid);
    // Moving within an IOAS leaves its reserved ranges alone, also when it fails.
    let entered = paging
        .map(PagingHwpt::ioas)
        .filter(|new| !old_ioas.is_some_and(|old| core::ptr::eq(old, *new)));
    if let Some(ioas) = entered {
        enter(attachment, ioas)?;
    }
    match exchange(&mut group, device, pasid, hwpt, paging) {
        Ok(old) => {
            let new_ioas = paging.map(PagingHwpt::ioas);
            let left = restricted(&old, device, pasid)
                .map(PagingHwpt::ioas)
                .filter(|old| !new_ioas.is_some_and(|new| core::ptr::eq(*old, new)));
            if let (Some(ioas), Some(attachment)) = (left, group.0.get(&pasid)) {
                leave(&attachment.devices, ioas);
            }
            Ok(Some(old))
        }
        Err(e) => {
            if let (Some(ioas), Some(attachment)) = (entered, group.0.get(&pasid)) {
                leave(&attachment.devices, ioas);
            }
            Err(e)
        }
    }
}

/// Reserves the ranges of all devices in an IOAS, or of none.
fn enter(attachment: &Attachment, ioas: &Ioas) -> Result {
    for (index, device) in attachment.devices.iter().enumerate() {
        if let Err(e) = ioas.reserve_for(device.dev()) {
            leave(attachment.devices.get(..index).unwrap_or_default(), ioas);
            return Err(e);
        }
    }
    Ok(())
}

/// Gives the ranges of all devices in an IOAS back.
fn leave(devices: &[Hold<Device>], ioas: &Ioas) {
    for device in devices {
        ioas.unreserve_for(device.dev());
    }
}

/// Has the hardware use `hwpt`, and returns the hold on what it used.
fn exchange(
    group: &mut Locked<'_>,
    device: &Device,
    pasid: Pasid,
    hwpt: &Hwpt,
    paging: Option<&PagingHwpt>,
) -> Result<Hold<Hwpt>> {
    if let Some(paging) = paging {
        group.map_sw_msi(paging)?;
    }
    check_faults(hwpt, device)?;
    group.check_pasid(hwpt, pasid)?;
    let attachment = group.0.get_mut(&pasid).ok_or(EINVAL)?;
    attachment.handle.replace(hwpt, device, pasid)
}

/// Lets go of a hwpt that nothing is attached to any more by the caller's doing. One that the
/// kernel made for attachments is destroyed after the last. No lock may be held.
pub(crate) fn release(ctx: &Ctx, hwpt: Hold<Hwpt>) {
    if hwpt.is_auto_domain() {
        hwpt.put_and_try_destroy(ctx);
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_attach)]
mod tests {
    use super::*;

    #[test]
    fn pasids() {
        let (ok, no) = (Ok(()), Err(EINVAL));
        for (pasid, is_compat, plain, has_pasids, expected) in [
            // Without a PASID all that matters is whether there are some.
            (NO_PASID, false, None, false, ok),
            (NO_PASID, true, None, false, ok),
            (NO_PASID, false, None, true, no),
            (NO_PASID, true, None, true, ok),
            (NO_PASID, false, Some(true), true, no),
            (NO_PASID, true, Some(false), true, ok),
            // With one, both this and what is there without must be made for it.
            (1, false, None, false, no),
            (1, false, Some(true), true, no),
            (1, true, None, false, ok),
            (1, true, None, true, ok),
            (1, true, Some(true), false, ok),
            (1, true, Some(false), false, no),
            (Pasid::MAX, true, Some(true), true, ok),
            (Pasid::MAX, true, Some(false), true, no),
        ] {
            assert_eq!(check_pasid(pasid, is_compat, plain, has_pasids), expected);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! What a device is told to be attached to: a hwpt, or an IOAS.
//!
//! On an IOAS the kernel picks a hwpt: the first automatic one that fits, or a new one, which is
//! destroyed with its last attachment. A hwpt that user space made is never picked. The IOAS's
//! mutex is held meanwhile, so that two devices do not make one each.

use crate::{
    attach::{
        attach,
        detach,
        release,
        replace, //
    },
    ffi::{
        attach_handle::Pasid,
        context::Ctx,
        device::Device, //
    },
    hwpt::{
        new_paging,
        Hwpt,
        NewPaging,
        PagingHwpt,
        PagingRequest, //
    },
    ioas::Ioas,
    object::{
        downcast,
        lend,
        Head,
        Hold,
        Loan,
        Object, //
    }, //
};
use kernel::prelude::*;

/// Whether the device is attached already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// No.
    Attach,
    /// Yes, and moves without a gap.
    Replace,
}

impl How {
    /// Does it. What is given up comes back, to be released without locks.
    fn apply(self, device: &Device, pasid: Pasid, hwpt: &Hwpt) -> Result<Option<Hold<Hwpt>>> {
        match self {
            Self::Attach => attach(device, pasid, hwpt).map(|()| None),
            Self::Replace => replace(device, pasid, hwpt),
        }
    }
}

/// Attaches a device, or one of its PASIDs, to the hwpt or IOAS `id`; returns the hwpt's id.
///
/// # Errors
///
/// `ENOENT`: no such object; `EINVAL`: another kind, or it does not fit the device; what
/// [`attach`], [`replace`] and making a hwpt say.
pub(crate) fn change_pt(device: &Device, pasid: Pasid, id: u32, how: How) -> Result<u32> {
    let ctx = device.ctx();
    let (id, given_up) = {
        let to: Loan<'_, Object> = lend(ctx, id)?;
        if let Some(hwpt) = Hwpt::of(&to) {
            (id, how.apply(device, pasid, hwpt)?)
        } else if let Some(ioas) = downcast::<Ioas>(&to) {
            auto_get_domain(ctx, device, pasid, ioas, how)?
        } else {
            return Err(EINVAL);
        }
    };
    if let Some(hwpt) = given_up {
        release(ctx, hwpt);
    }
    Ok(id)
}

/// Attaches to an automatic hwpt of an IOAS.
fn auto_get_domain(
    ctx: &Ctx,
    device: &Device,
    pasid: Pasid,
    ioas: &Ioas,
    how: How,
) -> Result<(u32, Option<Hold<Hwpt>>)> {
    let ioas = ioas.lock();
    for hwpt in ioas.hwpts().filter(|hwpt| hwpt.is_auto_domain()) {
        // One that is being destroyed is as good as gone.
        let Some(hwpt) = Loan::<'_, PagingHwpt>::of(ctx, hwpt.object()) else {
            continue;
        };
        match how.apply(device, pasid, hwpt.common()) {
            // It does not fit the device; another may.
            Err(e) if e == EINVAL => continue,
            result => return Ok((hwpt.id(), result?)),
        }
    }
    let request = PagingRequest {
        auto_domain: true,
        ..Default::default()
    };
    let new = new_paging(ctx, &ioas, device, &request)?;
    let given_up = match how {
        How::Attach => {
            attach_and_fill(device, pasid, &new)?;
            None
        }
        How::Replace => {
            new.fill()?;
            replace(device, pasid, new.hwpt().common())?
        }
    };
    let id = new.hwpt().id();
    new.publish();
    Ok((id, given_up))
}

/// Some drivers finish a domain only when it is attached, so nothing is mapped before.
fn attach_and_fill(device: &Device, pasid: Pasid, new: &NewPaging<'_, '_>) -> Result {
    attach(device, pasid, new.hwpt().common())?;
    new.fill().inspect_err(|_| {
        // It is not published: giving the hold back is all.
        drop(detach(device, pasid));
    })
}

// SPDX-License-Identifier: GPL-2.0-only

//! An object of a driver's that needs another one: user space cannot destroy that one first.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use crate::ffi::object::Object;
use kernel::prelude::*;

/// Only siblings depend on each other, and none on itself: its own count would keep it for ever.
fn may_depend(dependent: &Object, depended: &Object) -> bool {
    !dependent.is(depended) && dependent.kind() == depended.kind()
}

/// Keeps `depended` until [`undepend`].
///
/// # Errors
///
/// `EINVAL`: both are the same object, or not of the same kind.
pub(crate) fn depend(dependent: &Object, depended: &Object) -> Result {
    if !may_depend(dependent, depended) {
        return Err(EINVAL);
    }
    depended.hold();
    Ok(())
}

/// Lets go of `depended`.
pub(crate) fn undepend(dependent: &Object, depended: &Object) {
    if kernel::warn_on_once!(!may_depend(dependent, depended)) {
        return;
    }
    depended.release();
}

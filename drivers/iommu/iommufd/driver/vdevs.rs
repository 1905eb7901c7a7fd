// SPDX-License-Identifier: GPL-2.0-only

//! Which device of the machine is which one of the virtual machine.

use crate::ffi::viommu::{
    Dev,
    Vdevs, //
};
use kernel::prelude::*;

/// The id that the virtual machine knows a device by.
///
/// # Errors
///
/// `ENOENT`: the device is not in this vIOMMU.
pub(crate) fn id_of(vdevs: &Vdevs<'_>, dev: Dev) -> Result<usize> {
    vdevs
        .iter()
        .find(|vdev| vdev.dev() == dev)
        .map(|vdev| vdev.virt_id())
        .ok_or(ENOENT)
}

// SPDX-License-Identifier: GPL-2.0-only

//! Events of a vIOMMU on their way to user space.
//!
//! Each event has a number. One that is lost, because the queue is full or there is no memory,
//! uses up a number too, and the queue's own entry for lost events says so at the end of the queue.
//!
//! Reporting never waits for memory and allocates outside the queue's spinlock.

use crate::ffi::{
    events::Event,
    viommu::Viommu, //
};
use kernel::prelude::*;

/// Appends an event to the vIOMMU's queue of a type. May sleep on the semaphore of its queues.
///
/// # Errors
///
/// `EOPNOTSUPP`: user space has no queue of that type; `ENOMEM`: the event is lost, which user
/// space learns as it does where the queue is full.
pub(crate) fn report(viommu: &Viommu, type_: u32, data: &[u8]) -> Result {
    let queues = viommu.queues();
    let queue = queues.find(type_).ok_or(EOPNOTSUPP)?;
    let event = Event::new(data);
    let mut queue = queue.lock();
    match event {
        Ok(event) if !queue.is_full() => queue.push(event),
        Ok(_) => queue.lose(),
        Err(e) => {
            queue.lose();
            return Err(e);
        }
    }
    Ok(())
}

/// The number after this one: they have 31 bits.
pub(crate) fn next_number(number: u32) -> u32 {
    number.wrapping_add(1) & (u32::MAX >> 1)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_driver_events)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, expected) in [
            (0, 1),
            (1, 2),
            (0x7fff_fffe, 0x7fff_ffff),
            (0x7fff_ffff, 0),
            (0x8000_0000, 1),
            (0xffff_ffff, 0),
        ] {
            assert_eq!(next_number(number), expected);
        }
    }
}

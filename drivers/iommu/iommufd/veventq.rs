// SPDX-License-Identifier: GPL-2.0-only

//! vEVENTQs: what happens on a vIOMMU, to user space.

use crate::{
    ffi::{
        driver_objects::Viommu,
        eventq::NewQueue,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                VeventHeader,
                VeventqAlloc, //
            }, //
        },
        ucmd::{
            write_bytes,
            write_struct,
            Ucmd, //
        },
        vevent::{
            Taken,
            VeventQ, //
        }, //
    },
    ioctl::{
        Ioctl,
        New, //
    },
    object::lend, //
};
use core::mem::size_of;
use kernel::prelude::*;

/// More than any hardware reports between two reads; a bound for the memory of a queue.
const MAX_DEPTH: u32 = 1 << 19;

impl Ioctl for VeventqAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VEVENTQ_ALLOC);
    const MIN_SIZE: usize = end_of!(VeventqAlloc, out_veventq_fd);
    type Answer<'a> = New<NewQueue<'a, VeventQ>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        check(ucmd)?;
        let ctx = ucmd.ctx();
        let viommu = lend::<Viommu>(ctx, ucmd.viommu_id)?;
        let queues = viommu.queues();
        if queues.has(ucmd.type_) {
            return Err(EEXIST);
        }
        let queue = NewQueue::new(queues.reserve(ctx, ucmd.type_, ucmd.veventq_depth)?)?;
        ucmd.out_veventq_id = queue.id();
        ucmd.out_veventq_fd = queue.descriptor();
        Ok(New(queue))
    }
}

/// # Errors
///
/// `EOPNOTSUPP` for flags, reserved bits, and no type; `EINVAL` for a depth out of bounds.
fn check(cmd: &VeventqAlloc) -> Result {
    if cmd.flags != 0 || cmd.__reserved != 0 || cmd.type_ == uapi::VEVENTQ_TYPE_DEFAULT {
        return Err(EOPNOTSUPP);
    }
    if !(1..=MAX_DEPTH).contains(&cmd.veventq_depth) {
        return Err(EINVAL);
    }
    Ok(())
}

/// The size of what precedes each event's data, in bytes.
const HEADER: usize = size_of::<VeventHeader>();

/// Reads as many whole events as fit.
///
/// # Errors
///
/// `EINVAL` when `count` has no room for a header, or the first event does not fit; `EFAULT`.
pub(crate) fn read(queue: &VeventQ, to: usize, count: usize) -> Result<usize> {
    if count < HEADER {
        return Err(EINVAL);
    }
    let mut done = 0;
    while let Some(taken) = queue.pop() {
        match copy(&taken, to.wrapping_add(done), count - done) {
            Ok(bytes) => {
                if let Taken::Event(_) = taken {
                    queue.delivered();
                }
                done += bytes;
            }
            Err(e) => {
                queue.put_back(taken);
                return if done == 0 { Err(e) } else { Ok(done) };
            }
        }
    }
    Ok(done)
}

/// Copies one entry if there is room; returns its size.
fn copy(taken: &Taken, to: usize, room: usize) -> Result<usize> {
    let (header, data) = match taken {
        Taken::Event(event) => (event.header(), event.data()),
        Taken::Lost(header) => (*header, [].as_slice()),
    };
    let size = HEADER + data.len();
    if size > room {
        return Err(EINVAL);
    }
    write_struct(to, &header)?;
    write_bytes(to.wrapping_add(HEADER), data)?;
    Ok(size)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_veventq)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let good = VeventqAlloc {
            type_: 1,
            veventq_depth: 1,
            ..Default::default()
        };
        assert_eq!(check(&good), Ok(()));
        for (depth, expected) in [
            (0, Err(EINVAL)),
            (1, Ok(())),
            (MAX_DEPTH, Ok(())),
            (MAX_DEPTH + 1, Err(EINVAL)),
            (u32::MAX, Err(EINVAL)),
        ] {
            let cmd = VeventqAlloc {
                veventq_depth: depth,
                ..good
            };
            assert_eq!(check(&cmd), expected);
        }
        for bit in 0..32 {
            let flags = VeventqAlloc {
                flags: 1 << bit,
                ..good
            };
            let reserved = VeventqAlloc {
                __reserved: 1 << bit,
                ..good
            };
            assert_eq!(check(&flags), Err(EOPNOTSUPP));
            assert_eq!(check(&reserved), Err(EOPNOTSUPP));
        }
        assert_eq!(check(&VeventqAlloc { type_: 0, ..good }), Err(EOPNOTSUPP));
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Fault queues: page faults to user space, and its answers back.
//!
//! A fault comes in a group, is read as one or several messages with a cookie, and is answered by
//! that cookie. A group whose attachment or queue goes is answered by the kernel.

use crate::{
    ffi::{
        eventq::{
            EventQ,
            Fops,
            NewQueue,
            Queue, //
        },
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                FaultAlloc,
                HwptPageResponse,
                HwptPgfault, //
            }, //
        },
        iopf::{
            Group,
            GroupList,
            Handle,
            Responses,
            Waiting, //
        },
        ucmd::{
            fault_in,
            read_struct,
            write_resident,
            Ucmd, //
        }, //
    },
    ioctl::{
        Ioctl,
        New, //
    },
    object::{
        begins_with_head,
        Reserved, //
    }, //
};
use core::mem::size_of;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Mutex,
        MutexGuard, //
    }, //
};

/// A fault queue.
///
/// Both lists answer what is left in them when they go.
#[pin_data]
#[repr(C)]
pub(crate) struct FaultQueue {
    #[pin]
    common: EventQ<GroupList>,
    /// Serialises reading and answering, too.
    #[pin]
    responses: Mutex<Responses>,
}

begins_with_head!(FaultQueue, common);

static FOPS: Fops = Fops::new::<FaultQueue>();

impl Queue for FaultQueue {
    type List = GroupList;
    const NAME: &'static CStr = c"[iommufd-pgfault]";
    const FOPS: &'static Fops = &FOPS;
    const WRITABLE: bool = true;

    fn common(&self) -> &EventQ<GroupList> {
        &self.common
    }

    fn is_empty(&self) -> bool {
        self.common.lock().is_empty()
    }

    fn read(&self, to: usize, count: usize) -> Result<usize> {
        read(self, to, count)
    }

    fn write(&self, from: usize, count: usize) -> Result<usize> {
        write(self, from, count)
    }
}

impl FaultQueue {
    /// Serialises reading and answering. May sleep.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Responses> {
        self.responses.lock()
    }
}

impl Ioctl for FaultAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_FAULT_QUEUE_ALLOC);
    const MIN_SIZE: usize = end_of!(FaultAlloc, out_fault_fd);
    type Answer<'a> = New<NewQueue<'a, FaultQueue>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        if ucmd.flags != 0 {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        let init = pin_init!(FaultQueue {
            common <- EventQ::new(ctx, GroupList::new()),
            responses <- new_mutex!(Responses::new(), "fault->mutex"),
        });
        let fault = NewQueue::new(Reserved::new(ctx, init)?)?;
        ucmd.out_fault_id = fault.id();
        ucmd.out_fault_fd = fault.descriptor();
        Ok(New(fault))
    }
}

/// The size of a message, in bytes.
const MESSAGE: usize = size_of::<HwptPgfault>();
/// The size of an answer, in bytes.
const ANSWER: usize = size_of::<HwptPageResponse>();

/// Queues a group for user space.
pub(crate) fn deliver(fault: &FaultQueue, group: Group) {
    fault.common.lock().as_mut().push_back(group);
    fault.common.wake();
}

/// Reads as many whole groups as fit.
///
/// What ends an attachment waits for the mutex of the answers, so user memory is written under it
/// only as far as it is there, and brought in without it.
///
/// # Errors
///
/// `ESPIPE` when `count` is no multiple of a message; `EINVAL` when the first group does not fit;
/// `EFAULT`, `ENOMEM`.
pub(crate) fn read(fault: &FaultQueue, to: usize, count: usize) -> Result<usize> {
    if count % MESSAGE != 0 {
        return Err(ESPIPE);
    }
    let mut done = 0;
    loop {
        let result = match read_resident(fault, to, count, &mut done) {
            Ok(()) => Ok(()),
            Err(Stop::For(e)) => Err(e),
            // What is there now may be gone again, but another process can only delay itself so.
            Err(Stop::Absent(length)) => match fault_in(to.wrapping_add(done), length) {
                Ok(()) => continue,
                Err(e) => Err(e),
            },
        };
        return match result {
            Err(e) if done == 0 => Err(e),
            _ => Ok(done),
        };
    }
}

/// Why no more groups are read.
enum Stop {
    /// There is another reason.
    For(Error),
    /// So many bytes of user memory are wanted that are not all there.
    Absent(usize),
}

/// Reads groups as far as they fit and user memory is there; adds their bytes to `done`.
fn read_resident(
    fault: &FaultQueue,
    to: usize,
    count: usize,
    done: &mut usize,
) -> Result<(), Stop> {
    let mut responses = fault.lock();
    while let Some(group) = pop(fault) {
        let length = group.count() * MESSAGE;
        let (stop, group) = if length > count - *done {
            // More fits another time, but a buffer too small for one group never will.
            (Stop::For(EINVAL), Some(group))
        } else {
            match responses.as_mut().insert(group) {
                Ok(waiting) => match hand_out(&waiting, to.wrapping_add(*done)) {
                    Ok(()) => {
                        *done += length;
                        continue;
                    }
                    Err(_) => (Stop::Absent(length), waiting.take_back()),
                },
                Err((e, group)) => (Stop::For(e), Some(group)),
            }
        };
        if let Some(group) = group {
            fault.common.lock().as_mut().push_front(group);
        }
        return Err(stop);
    }
    Ok(())
}

/// Takes the first group of what is to be read.
fn pop(fault: &FaultQueue) -> Option<Group> {
    fault.common.lock().as_mut().pop_front()
}

/// Copies a group's messages.
fn hand_out(waiting: &Waiting<'_>, mut to: usize) -> Result {
    waiting.each(|message| {
        write_resident(to, message)?;
        to = to.wrapping_add(MESSAGE);
        Ok(())
    })
}

/// Takes answers.
///
/// # Errors
///
/// `ESPIPE` when `count` is no multiple of an answer; `EINVAL` for a cookie that nothing waits
/// with, or a code that is none; `EFAULT`. After the first answer the number of bytes that were
/// taken is returned instead.
pub(crate) fn write(fault: &FaultQueue, from: usize, count: usize) -> Result<usize> {
    if count % ANSWER != 0 {
        return Err(ESPIPE);
    }
    let mut done = 0;
    while done < count {
        match answer(fault, from.wrapping_add(done)) {
            Ok(()) => done += ANSWER,
            Err(e) => return if done == 0 { Err(e) } else { Ok(done) },
        }
    }
    Ok(done)
}

fn answer(fault: &FaultQueue, from: usize) -> Result {
    let response: HwptPageResponse = read_struct(from)?;
    if !is_code(response.code) {
        return Err(EINVAL);
    }
    // Who ends the attachment waits for the mutex, and with it until this group is answered.
    let mut responses = fault.lock();
    let group = responses.as_mut().take(response.cookie).ok_or(EINVAL)?;
    group.respond(response.code);
    Ok(())
}

/// User space may say that a page is there now, or that there is none; not that it failed.
fn is_code(code: u32) -> bool {
    code == uapi::PAGE_RESP_SUCCESS || code == uapi::PAGE_RESP_INVALID
}

/// Answers all groups of one attachment, read or not: invalid.
pub(crate) fn answer_all(fault: &FaultQueue, handle: Handle) {
    let mut responses = fault.lock();
    let unread = fault.common.lock().as_mut().take_all(Some(handle));
    drop(unread);
    drop(responses.as_mut().take_all(Some(handle)));
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_fault)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (code, valid) in [
            (0, true),
            (1, true),
            (2, false),
            (3, false),
            (u32::MAX, false),
        ] {
            assert_eq!(is_code(code), valid);
        }
    }

    #[test]
    fn sizes() {
        // As the UAPI header has them: a reader in user space counts on it.
        assert_eq!(MESSAGE, 40);
        assert_eq!(ANSWER, 8);
    }
}

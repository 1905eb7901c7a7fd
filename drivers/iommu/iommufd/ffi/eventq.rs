// SPDX-License-Identifier: GPL-2.0-only

//! Event queues as files: what fault queues and vEVENTQs have in common.
//!
//! A queue is an object with an anonymous file. The file holds the object and the context.
//!
//! Lock order: the queue's spinlock is a leaf.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use super::{
    context::{
        Ctx,
        CtxRef, //
    },
    file::LocalModule, //
};
use crate::{
    ioctl::Publish,
    object::{
        Head,
        Hold,
        Kind,
        Object,
        Reserved, //
    }, //
};
use core::{
    mem::{
        self,
        offset_of,
        size_of, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    c_str,
    error::from_err_ptr,
    fs::file::{
        File,
        FileDescriptorReservation, //
    },
    interop::list::CListHead,
    new_spinlock,
    prelude::*,
    static_assert,
    static_lock_class,
    sync::{
        aref::ARef,
        SpinLock,
        SpinLockGuard, //
    },
    types::Opaque,
    ModuleMetadata, //
};

/// A `wait_queue_head_t` that files are polled by, as long as what it is in.
#[pin_data]
#[repr(transparent)]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head_t>,
}

// SAFETY: It has a lock.
unsafe impl Send for WaitQueue {}
// SAFETY: It has a lock.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|head| {
                let name = c_str!("eventq->wait_queue").as_char_ptr();
                // SAFETY: Memory for one, which does not move; the name and the class are static.
                unsafe {
                    bindings::__init_waitqueue_head(head, name, static_lock_class!().as_ptr())
                }
            }),
        })
    }

    /// Wakes who polls.
    fn wake(&self) {
        let (head, state) = (self.head.get(), bindings::TASK_INTERRUPTIBLE);
        // SAFETY: It is initialised.
        unsafe { bindings::__wake_up(head, state, 1, ptr::null_mut()) };
    }
}

/// What both kinds of queue begin with. `L` is the list of what is to be read.
///
/// As `struct iommufd_eventq` has it, where `L` is a `list_head`: `iommufd_driver` appends events.
///
/// # Invariants
///
/// The queue's file has a reference to `ctx`.
#[pin_data]
#[repr(C)]
pub(crate) struct EventQ<L> {
    #[pin]
    object: Object,
    ctx: NonNull<Ctx>,
    _file: usize,
    #[pin]
    deliver: SpinLock<L>,
    #[pin]
    wait: WaitQueue,
}

static_assert!(size_of::<EventQ<CListHead>>() == size_of::<bindings::iommufd_eventq>());
static_assert!(
    offset_of!(EventQ<CListHead>, deliver) == offset_of!(bindings::iommufd_eventq, lock)
);
static_assert!(
    offset_of!(EventQ<CListHead>, wait) == offset_of!(bindings::iommufd_eventq, wait_queue)
);

// SAFETY: It begins with one.
unsafe impl<L> Head for EventQ<L> {}
// SAFETY: Contexts are `Sync`, and the list has a lock.
unsafe impl<L: Send> Send for EventQ<L> {}
// SAFETY: Contexts are `Sync`, and the list has a lock.
unsafe impl<L: Send> Sync for EventQ<L> {}

impl<L> EventQ<L> {
    /// A queue of a context, whose list is `deliver`.
    pub(crate) fn new<I: PinInit<L>>(ctx: &Ctx, deliver: I) -> impl PinInit<Self> + use<I, L> {
        let ctx = NonNull::from(ctx);
        pin_init!(Self {
            object <- Object::new(),
            ctx,
            _file: 0,
            deliver <- new_spinlock!(deliver, "eventq->lock"),
            wait <- WaitQueue::new(),
        })
    }

    /// Locks the list of what is to be read. Nothing may sleep.
    pub(crate) fn lock(&self) -> SpinLockGuard<'_, L> {
        self.deliver.lock()
    }

    /// Wakes who polls.
    pub(crate) fn wake(&self) {
        self.wait.wake();
    }
}

/// A queue that is complete, and not to be found, with its file. Dropping it undoes both.
pub(crate) struct NewQueue<'a, T: Queue> {
    // In drop order.
    descriptor: Descriptor,
    queue: Reserved<'a, T>,
}

impl<'a, T: Queue> NewQueue<'a, T> {
    /// Makes the file and reserves a descriptor for it.
    ///
    /// # Errors
    ///
    /// `ENFILE`, `EMFILE`, `ENOMEM`.
    pub(crate) fn new(queue: Reserved<'a, T>) -> Result<Self> {
        // SAFETY: The name and the operations are static; the queue stays while the file has its
        // count on it, which it gets below.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                T::NAME.as_char_ptr(),
                &raw const T::FOPS.0,
                ptr::from_ref::<T>(&queue).cast_mut().cast(),
                bindings::O_RDWR as c_int,
            )
        })?;
        // INVARIANT: Made just now.
        let file = NewFile(file);
        // SAFETY: The ioctl that makes the queue is one of the context, which is open.
        let ctx = unsafe { queue.common().ctx.as_ref() };
        // The file's references, which `release` gives back.
        mem::forget((CtxRef::new(ctx), queue.hold()));
        let fd = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
        Ok(Self {
            descriptor: Descriptor { fd, file },
            queue,
        })
    }

    /// The number that user space will know it by.
    pub(crate) fn id(&self) -> u32 {
        self.queue.id()
    }

    /// The number of its descriptor.
    pub(crate) fn descriptor(&self) -> u32 {
        self.descriptor.number()
    }
}

impl<T: Queue> Publish for NewQueue<'_, T> {
    fn publish(self) -> Result {
        self.queue.publish();
        self.descriptor.install();
        Ok(())
    }
}

/// A file that nobody else has yet.
///
/// # Invariants
///
/// This owns the only reference.
struct NewFile(*mut bindings::file);

impl Drop for NewFile {
    fn drop(&mut self) {
        // Its release gives the hold on the queue's object back, so it has to run before the object
        // is freed, not whenever the work queue comes to it.
        //
        // SAFETY: By the type invariant; this is no atomic context.
        unsafe { bindings::__fput_sync(self.0) };
    }
}

/// A descriptor that is reserved for a queue's file, but not yet open.
#[must_use]
struct Descriptor {
    fd: FileDescriptorReservation,
    file: NewFile,
}

impl Descriptor {
    /// Its number.
    fn number(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Opens it: from here on user space has the file. The object must have been published, or be
    /// sure to be.
    fn install(self) {
        let file = mem::ManuallyDrop::new(self.file);
        // SAFETY: It was made by `make_file`, and is not null.
        let file = unsafe { ptr::NonNull::new_unchecked(file.0.cast::<File>()) };
        // SAFETY: The reference that was `self.file`'s.
        self.fd.fd_install(unsafe { ARef::from_raw(file) });
    }
}

/// A kind of queue as a file.
pub(crate) trait Queue: Kind {
    /// What is to be read.
    type List: 'static;
    /// The file's name, as `/proc` shows it.
    const NAME: &'static CStr;
    /// The one static that tells such files from others.
    const FOPS: &'static Fops;
    /// Whether it can be written to.
    const WRITABLE: bool;

    /// What both kinds have.
    fn common(&self) -> &EventQ<Self::List>;

    /// Whether there is nothing to be read.
    fn is_empty(&self) -> bool;

    /// Copies events to the user address `to`; returns how many of `count` bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::fault`] and [`crate::veventq`] say.
    fn read(&self, to: usize, count: usize) -> Result<usize>;

    /// Takes answers from the user address `from`; returns how many of `count` bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::fault`] says.
    fn write(&self, from: usize, count: usize) -> Result<usize>;
}

/// File operations in a static, which lies where nobody can write.
#[repr(transparent)]
pub(crate) struct Fops(bindings::file_operations);

// SAFETY: Nobody changes them, and what they point to are functions and the module.
unsafe impl Sync for Fops {}

impl Fops {
    pub(crate) const fn new<T: Queue>() -> Self {
        Self(bindings::file_operations {
            owner: LocalModule::THIS_MODULE.as_ptr(),
            open: Some(bindings::nonseekable_open),
            read: Some(read::<T>),
            write: if T::WRITABLE { Some(write::<T>) } else { None },
            poll: Some(poll::<T>),
            release: Some(release::<T>),
            // SAFETY: Null function pointers are absent operations.
            ..unsafe { mem::zeroed() }
        })
    }
}

/// # Safety
///
/// `file` must be an open file of a queue of kind `T`.
unsafe fn queue_of<'a, T: Queue>(file: *mut bindings::file) -> &'a T {
    // SAFETY: Such files have their queue there, for good, and a count on it.
    unsafe { &*(*file).private_data.cast() }
}

fn transferred(result: Result<usize>) -> isize {
    match result {
        Ok(bytes) => bytes as isize,
        Err(e) => e.to_errno() as isize,
    }
}

/// # Safety
///
/// The VFS calls it on an open file of a queue.
unsafe extern "C" fn read<T: Queue>(
    file: *mut bindings::file,
    to: *mut c_char,
    count: usize,
    position: *mut bindings::loff_t,
) -> isize {
    // SAFETY: Null or the caller's; such files have no position but 0.
    if !position.is_null() && unsafe { *position } != 0 {
        return ESPIPE.to_errno() as isize;
    }
    // SAFETY: By the contract of the function.
    transferred(unsafe { queue_of::<T>(file) }.read(to.addr(), count))
}

/// # Safety
///
/// The VFS calls it on an open file of a queue.
unsafe extern "C" fn write<T: Queue>(
    file: *mut bindings::file,
    from: *const c_char,
    count: usize,
    position: *mut bindings::loff_t,
) -> isize {
    // SAFETY: Null or the caller's; such files have no position but 0.
    if !position.is_null() && unsafe { *position } != 0 {
        return ESPIPE.to_errno() as isize;
    }
    // SAFETY: By the contract of the function.
    transferred(unsafe { queue_of::<T>(file) }.write(from.addr(), count))
}

/// # Safety
///
/// The VFS calls it on an open file of a queue.
unsafe extern "C" fn poll<T: Queue>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: By the contract of the function.
    let queue = unsafe { queue_of::<T>(file) };
    // SAFETY: The wait queue lives as long as the queue, which the file holds.
    unsafe { bindings::poll_wait(file, queue.common().wait.head.get(), table) };
    let mut events = if T::WRITABLE { bindings::POLLOUT } else { 0 };
    if !queue.is_empty() {
        events |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    events
}

/// # Safety
///
/// The VFS calls it once, when the last reference to a queue's file is gone.
unsafe extern "C" fn release<T: Queue>(
    _: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the contract of the function.
    let queue = unsafe { queue_of::<T>(file) };
    // SAFETY: By the type invariant the file has one.
    let _ctx = unsafe { CtxRef::adopt(queue.common().ctx) };
    // SAFETY: `NewQueue::new` gave the file one. Without it the queue may go at any time.
    drop(unsafe { Hold::adopt(queue) });
    0
}

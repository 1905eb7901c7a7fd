// SPDX-License-Identifier: GPL-2.0-only

//! Event queues as files: what fault queues and vEVENTQs have in common.
//!
//! A queue is an object with an anonymous file. The file holds the object (one `users`) and the
//! context; the object knows the file only until user space has it.
//!
//! Lock order: the queue's spinlock is a leaf.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use super::{
    context::Ctx,
    file::LocalModule,
    object::{
        Built,
        Object, //
    }, //
};
use crate::ioctl::Publish;
use core::{
    marker::PhantomData,
    mem,
    ptr, //
};
use kernel::{
    bindings,
    c_str,
    error::{
        from_err_ptr,
        from_result, //
    },
    fs::file::{
        File,
        FileDescriptorReservation, //
    },
    prelude::*,
    static_lock_class,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    },
    ModuleMetadata, //
};

/// `struct iommufd_eventq`, the head of both kinds of queue.
#[repr(transparent)]
pub(crate) struct EventQ(Opaque<bindings::iommufd_eventq>);

// SAFETY: Its list has a lock.
unsafe impl Sync for EventQ {}

/// The queue's list is locked. Nothing may sleep.
#[must_use]
pub(crate) struct Locked<'a>(&'a EventQ, PhantomData<NotThreadSafe>);

impl EventQ {
    /// # Safety
    ///
    /// `ptr` must be an initialised queue that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_eventq) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    fn as_raw(&self) -> *mut bindings::iommufd_eventq {
        self.0.get()
    }

    fn object(&self) -> &Object {
        // SAFETY: The head is as valid as the whole.
        unsafe { Object::from_raw(&raw mut (*self.as_raw()).obj) }
    }

    /// Locks the list of what is to be read.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: Initialised in `init`.
        unsafe { bindings::spin_lock(&raw mut (*self.as_raw()).lock) };
        Locked(self, PhantomData)
    }

    /// Wakes who polls.
    pub(crate) fn wake(&self) {
        // SAFETY: Initialised in `init`.
        unsafe {
            bindings::__wake_up(
                &raw mut (*self.as_raw()).wait_queue,
                bindings::TASK_INTERRUPTIBLE,
                1,
                ptr::null_mut(),
            )
        };
    }

    /// Initialises everything but the file.
    ///
    /// # Safety
    ///
    /// `raw` must be the zeroed queue of an object that nobody else knows yet.
    pub(super) unsafe fn init(raw: *mut bindings::iommufd_eventq) {
        // SAFETY: By the caller; it stays where it is. The name and the class are static.
        unsafe {
            bindings::__spin_lock_init(
                &raw mut (*raw).lock,
                c_str!("eventq->lock").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: As above.
        unsafe { bindings::INIT_LIST_HEAD(&raw mut (*raw).deliver) };
        // SAFETY: As above.
        unsafe {
            bindings::__init_waitqueue_head(
                &raw mut (*raw).wait_queue,
                c_str!("eventq->wait_queue").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
    }

    /// Makes the file and reserves a descriptor for it. Until [`Descriptor::install`] the queue's
    /// object owns the file, so that dropping the object drops the file first.
    ///
    /// # Errors
    ///
    /// `ENFILE`, `EMFILE`, `ENOMEM`.
    pub(super) fn make_file<O: Ops>(&self, ctx: &Ctx) -> Result<Descriptor> {
        // SAFETY: The name and the operations are static; the queue stays while the file has its
        // count on it, which it gets below.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                O::NAME.as_char_ptr(),
                &raw const O::FOPS.0,
                self.as_raw().cast(),
                bindings::O_RDWR as c_int,
            )
        })?;
        // SAFETY: The queue is ours alone until it is published.
        unsafe { (*self.as_raw()).ictx = ctx.as_raw() };
        // SAFETY: As above.
        unsafe { (*self.as_raw()).filep = file };
        // The file's reference to the context.
        //
        // SAFETY: The context is open; the callee gives the reference back in `release`.
        unsafe { bindings::iommufd_ctx_get(ctx.as_raw()) };
        self.object().users().inc();
        Ok(Descriptor {
            fd: FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?,
            file,
        })
    }
}

impl Locked<'_> {
    /// The head of the list.
    pub(super) fn list(&mut self) -> *mut bindings::list_head {
        // SAFETY: Initialised in `init`; only the address is taken.
        unsafe { &raw mut (*self.0.as_raw()).deliver }
    }

    /// The first entry.
    pub(super) fn first(&mut self) -> Option<*mut bindings::list_head> {
        let head = self.list();
        // SAFETY: The list is initialised and locked.
        let first = unsafe { (*head).next };
        (!ptr::eq(first, head)).then_some(first)
    }

    pub(crate) fn is_empty(&mut self) -> bool {
        self.first().is_none()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that it is held.
        unsafe { bindings::spin_unlock(&raw mut (*self.0.as_raw()).lock) }
    }
}

/// A queue that is complete, and not to be found, with its file. Dropping it undoes both.
pub(crate) struct NewQueue<'a> {
    // In drop order.
    pub(super) descriptor: Descriptor,
    pub(super) queue: Built<'a>,
}

impl NewQueue<'_> {
    /// The number that user space will know it by.
    pub(crate) fn id(&self) -> u32 {
        self.queue.id()
    }

    /// The number of its descriptor.
    pub(crate) fn descriptor(&self) -> u32 {
        self.descriptor.number()
    }
}

impl Publish for NewQueue<'_> {
    fn publish(self) -> Result {
        self.queue.publish();
        self.descriptor.install();
        Ok(())
    }
}

/// A descriptor that is reserved for a queue's file, but not yet open.
#[must_use]
pub(super) struct Descriptor {
    fd: FileDescriptorReservation,
    file: *mut bindings::file,
}

impl Descriptor {
    /// Its number.
    fn number(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Opens it: from here on user space has the file. The object must have been published, or be
    /// sure to be.
    fn install(self) {
        // SAFETY: It was made by `make_file`, and is not null.
        let file = unsafe { ptr::NonNull::new_unchecked(self.file.cast::<File>()) };
        // SAFETY: The reference that the queue's object had until now.
        self.fd.fd_install(unsafe { ARef::from_raw(file) });
    }
}

/// A kind of queue as a file.
pub(super) trait Ops: 'static {
    /// The file's name, as `/proc` shows it.
    const NAME: &'static CStr;
    /// The one static that tells such files from others.
    const FOPS: &'static Fops;
    /// Whether it can be written to.
    const WRITABLE: bool;

    /// Copies events to the user address `to`; returns how many of `count` bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::fault`] and [`crate::veventq`] say.
    fn read(queue: &EventQ, to: usize, count: usize) -> Result<usize>;

    /// Takes answers from the user address `from`; returns how many of `count` bytes.
    ///
    /// # Errors
    ///
    /// As [`crate::fault`] says.
    fn write(queue: &EventQ, from: usize, count: usize) -> Result<usize>;
}

/// File operations in a static, which lies where nobody can write.
#[repr(transparent)]
pub(super) struct Fops(bindings::file_operations);

// SAFETY: Nobody changes them, and what they point to are functions and the module.
unsafe impl Sync for Fops {}

impl Fops {
    pub(super) const fn new<O: Ops>() -> Self {
        Self(bindings::file_operations {
            owner: LocalModule::THIS_MODULE.as_ptr(),
            open: Some(bindings::nonseekable_open),
            read: Some(read::<O>),
            write: if O::WRITABLE { Some(write::<O>) } else { None },
            poll: Some(poll::<O>),
            release: Some(release),
            // SAFETY: Null function pointers are absent operations.
            ..unsafe { mem::zeroed() }
        })
    }
}

/// # Safety
///
/// `file` must be an open file of a queue.
unsafe fn queue_of<'a>(file: *mut bindings::file) -> &'a EventQ {
    // SAFETY: By the caller; it does not change.
    let queue = unsafe { (*file).private_data }.cast();
    // SAFETY: Such files have their queue there, and a count on it.
    unsafe { EventQ::from_raw(queue) }
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
unsafe extern "C" fn read<O: Ops>(
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
    transferred(O::read(unsafe { queue_of(file) }, to.addr(), count))
}

/// # Safety
///
/// The VFS calls it on an open file of a queue.
unsafe extern "C" fn write<O: Ops>(
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
    transferred(O::write(unsafe { queue_of(file) }, from.addr(), count))
}

/// # Safety
///
/// The VFS calls it on an open file of a queue.
unsafe extern "C" fn poll<O: Ops>(
    file: *mut bindings::file,
    wait: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: By the contract of the function.
    let queue = unsafe { queue_of(file) };
    // SAFETY: As above; the wait queue lives as long as the queue, which the file holds.
    unsafe { bindings::poll_wait(file, &raw mut (*queue.as_raw()).wait_queue, wait) };
    let mut events = if O::WRITABLE { bindings::POLLOUT } else { 0 };
    if !queue.lock().is_empty() {
        events |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    events
}

/// # Safety
///
/// The VFS calls it once, when the last reference to a queue's file is gone.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    from_result(|| {
        // SAFETY: By the contract of the function.
        let queue = unsafe { queue_of(file) };
        // SAFETY: Set in `make_file`.
        let ctx = unsafe { (*queue.as_raw()).ictx };
        // Without this count the queue may go at any time.
        queue.object().users().dec();
        // SAFETY: The file's reference to the context, taken in `make_file`.
        unsafe { bindings::iommufd_ctx_put(ctx) };
        Ok(0)
    })
}

// SPDX-License-Identifier: GPL-2.0

//! What two or three threads do at the same time, and what must be so. loom goes through the ways
//! in which they can meet.

use crate::object::{Head, Kind, World, EBUSY, ENOENT};
use loom::thread;
use std::rc::Rc;

/// Their names, and what they say.
pub const ALL: &[(&str, fn(), &str)] = &[
    ("publish", publish, "who finds an object finds it complete"),
    (
        "find",
        find,
        "and so does who has the lock of the table, without a count",
    ),
    (
        "destroy",
        destroy,
        "an object is destroyed when nobody uses it any more",
    ),
    (
        "reuse",
        reuse,
        "whoever finds an object finds the one that has the id",
    ),
    (
        "abandon",
        abandon,
        "the same where one that was never complete was there before",
    ),
    (
        "again",
        again,
        "the same where the next one in its memory has its id, too",
    ),
    (
        "hold",
        hold,
        "what was done under a hold is seen by who destroys",
    ),
    (
        "holds",
        holds,
        "of two who let go the last one destroys, and nobody looks later",
    ),
    (
        "unbind",
        unbind,
        "a driver is not refused because of loans, and user space does not help",
    ),
    ("revoke", revoke, "a loan that lasts ends with the device"),
    (
        "revoked",
        revoked,
        "and so it does where user space destroys the vDEVICE at that time",
    ),
    ("wake", wake, "who waits for a loan hears of its end"),
    (
        "slab",
        slab,
        "memory goes back when nobody looks at it any more",
    ),
];

fn object(world: &World, table: usize, kind: Kind) -> usize {
    let at = world.reserve(table, kind);
    world.memory[at].write();
    world.publish(at);
    at
}

/// Looks the object with the id 1 up, and at it. Returns whether it was there.
fn look(world: &World, table: usize) -> bool {
    let Some(loan) = world.lookup(table, 1) else {
        return false;
    };
    let right = Head {
        kind: Kind::Any,
        id: 1,
        table,
    };
    assert_eq!(loan.memory.head(), right, "another object");
    assert_ne!(loan.memory.read(), 0);
    true
}

/// IOMMU_DESTROY of id 1, which loans may refuse as long as `user` goes on.
fn destroy_beside<T>(world: &World, user: thread::JoinHandle<T>) -> T {
    let first = world.destroy(0, 1);
    let result = user.join().unwrap();
    if first.is_err() {
        assert_eq!(first, Err(EBUSY));
        assert_eq!(world.destroy(0, 1), Ok(()));
    }
    assert!(!look(world, 0));
    result
}

fn beside<T: 'static>(
    world: &Rc<World>,
    f: impl FnOnce(&World) -> T + 'static,
) -> thread::JoinHandle<T> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

fn publish() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let user = beside(&world, |world| look(world, 0));
    object(&world, 0, Kind::Any);
    user.join().unwrap();
    assert!(look(&world, 0));
}

fn find() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let user = beside(&world, |world| {
        if let Some((head, body)) = world.find(0, 1) {
            assert_eq!(
                head,
                Head {
                    kind: Kind::Any,
                    id: 1,
                    table: 0
                }
            );
            assert_ne!(body, 0);
        }
    });
    object(&world, 0, Kind::Any);
    user.join().unwrap();
    assert!(world.find(0, 1).is_some());
}

fn destroy() {
    let world = Rc::new(World::new(1, 1, 1, false));
    object(&world, 0, Kind::Any);
    let user = beside(&world, |world| look(world, 0));
    destroy_beside(&world, user);
}

fn reuse() {
    let world = Rc::new(World::new(1, 2, 1, false));
    object(&world, 0, Kind::Any);
    let user = beside(&world, |world| look(world, 0));
    let first = world.destroy(0, 1);
    if first.is_ok() {
        // Another context's, at the same place.
        object(&world, 1, Kind::Any);
        assert!(look(&world, 1));
        // That the lookup has counted for a moment does not matter.
        assert_eq!(world.destroy(1, 1), Ok(()));
    }
    user.join().unwrap();
}

fn abandon() {
    let world = Rc::new(World::new(1, 2, 1, false));
    let user = beside(&world, |world| look(world, 0));
    let at = world.reserve(0, Kind::Any);
    world.take_back(at);
    object(&world, 1, Kind::Any);
    assert!(look(&world, 1));
    assert_eq!(world.destroy(1, 1), Ok(()));
    assert!(!user.join().unwrap());
}

fn again() {
    let world = Rc::new(World::new(1, 1, 1, false));
    object(&world, 0, Kind::Any);
    let user = beside(&world, |world| look(world, 0));
    if world.destroy(0, 1).is_ok() {
        object(&world, 0, Kind::Any);
    }
    destroy_beside(&world, user);
}

fn hold() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let at = object(&world, 0, Kind::Any);
    world.memory[at].users().inc();
    let holder = beside(&world, move |world| {
        world.memory[at].write();
        world.memory[at].users().dec();
    });
    // With a loan at that time whoever destroys waits, and has no other ordering with the holder.
    let user = beside(&world, |world| world.lookup(0, 1).is_some());
    let first = world.destroy(0, 1);
    holder.join().unwrap();
    user.join().unwrap();
    assert!(first.is_ok() || world.destroy(0, 1).is_ok());
}

fn holds() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let at = object(&world, 0, Kind::Any);
    world.memory[at].users().inc();
    world.memory[at].users().inc();
    let other = beside(&world, move |world| world.put_and_try_destroy(at));
    let mine = world.put_and_try_destroy(at);
    let other = other.join().unwrap();
    assert!(mine.is_ok() != other.is_ok());
}

fn unbind() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let at = object(&world, 0, Kind::Any);
    world.memory[at].users().inc();
    let user = beside(&world, |world| look(world, 0));
    let other = beside(&world, |world| world.destroy(0, 1));
    world.destroy_held(at, false);
    user.join().unwrap();
    assert!(matches!(other.join().unwrap(), Err(EBUSY | ENOENT)));
}

/// Unbinds a device that has a vDEVICE, with the id 2. Returns what `user` does at that time.
fn unbind_beside<T: 'static>(user: fn(&World) -> T) -> T {
    let world = Rc::new(World::new(2, 1, 2, false));
    let device = object(&world, 0, Kind::Device);
    world.memory[device].users().inc();
    let vdev = world.reserve(0, Kind::Vdevice { device });
    *world.group.lock().unwrap() = Some(vdev);
    world.publish(vdev);
    world.lookup(0, 1).unwrap().leave();
    let user = beside(&world, user);
    world.destroy_held(device, false);
    let result = user.join().unwrap();
    assert!(world.group.lock().unwrap().is_none());
    result
}

fn revoke() {
    unbind_beside(|world| world.lookup(0, 2).is_some());
}

fn revoked() {
    let result = unbind_beside(|world| world.destroy(0, 2));
    assert!(matches!(result, Ok(()) | Err(EBUSY | ENOENT)));
}

fn wake() {
    let world = Rc::new(World::new(1, 1, 1, false));
    let at = object(&world, 0, Kind::Any);
    world.memory[at].users().inc();
    let user = beside(&world, |world| look(world, 0));
    world.destroy_held(at, false);
    user.join().unwrap();
}

fn slab() {
    let world = Rc::new(World::new(1, 1, 1, true));
    object(&world, 0, Kind::Any);
    let user = beside(&world, |world| look(world, 0));
    if world.destroy(0, 1).is_ok() {
        world.shrink();
    }
    user.join().unwrap();
}

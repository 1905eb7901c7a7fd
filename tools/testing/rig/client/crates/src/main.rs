// SPDX-License-Identifier: GPL-2.0
//! What cloud-hypervisor opens `/dev/iommu` with (the crates `iommufd-ioctls`,
//! `iommufd-bindings` and `vfio-ioctls`), on QEMU's `edu` and `pasid-dma` behind a VT-d that
//! nests: mappings, DMA, nested tables, PASIDs, and the old container. Prints TAP.
//!
//! usage: client-crates EDU PASID-DMA   (PCI addresses that vfio-pci has)

use std::error::Error;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use iommufd_bindings::iommufd::*;
use iommufd_ioctls::{IommuFd, IommufdError, IommufdIoas, IommufdVIommu};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};
use vmm_sys_util::errno::Error as SysError;

const PAGE: u64 = 4096;
/// Present, writable, for users: an entry of a stage-1 table.
const ENTRY: u64 = 7;
/// Where the device is given its memory, or what takes the place of a guest's.
const BASE: u64 = 0x4000_0000;
/// What a read may leave, besides 0 and all bits, that the IOMMU refused.
const NOTHING: u64 = 0x5e5e_5e5e_5e5e_5e5e;
/// Pages of [`Memory`]: the one that edu's buffer goes through, two of data, four tables.
const STAGE: u64 = 0;
const FIRST: u64 = 1;
const SECOND: u64 = 2;
const TABLES: u64 = 4;
const PAGES: u64 = 16;

type Outcome = Result<(), Box<dyn Error>>;

/// The number of the error behind `error`.
fn errno(error: &(dyn Error + 'static)) -> i32 {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<SysError>() {
            return error.errno();
        }
        if let Some(number) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return number;
        }
        at = error.source();
    }
    0
}

/// Fails, and says with what, unless `what` was refused with `wanted`.
fn refused<T, E: Error + 'static>(what: &str, got: Result<T, E>, wanted: i32) -> Outcome {
    match got {
        Err(e) if errno(&e) == wanted => Ok(()),
        Err(e) => Err(format!("{what}: {e}, not errno {wanted}").into()),
        Ok(_) => Err(format!("{what}: it is allowed").into()),
    }
}

fn same(what: &str, got: u64, wanted: u64) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: {got:#x}, not {wanted:#x}").into())
}

/// The IOMMU refused what a read gave `got`.
fn nothing(what: &str, got: u64) -> Outcome {
    match got {
        NOTHING | 0 | u64::MAX => Ok(()),
        _ => Err(format!("{what}: {got:#x} is read").into()),
    }
}

/// Some pages of a memfd, whose first words can be looked at.
struct Memory {
    at: *mut u64,
    file: OwnedFd,
}

impl Memory {
    fn new() -> Result<Self, Box<dyn Error>> {
        let length = (PAGES * PAGE) as usize;
        // SAFETY: the name ends with a NUL; the result is checked.
        let fd = unsafe { libc::memfd_create(c"crates".as_ptr(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: it is a descriptor, and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        fs::File::from(file.try_clone()?).set_len(length as u64)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let memory = Memory {
            at: at.cast(),
            file,
        };
        memory.set(FIRST, 0, token(FIRST));
        memory.set(SECOND, 0, token(SECOND));
        Ok(memory)
    }

    fn word(&self, page: u64, index: u64) -> *mut u64 {
        assert!(page < PAGES && index < PAGE / 8);
        // SAFETY: it lies within the mapping.
        unsafe { self.at.add((page * PAGE / 8 + index) as usize) }
    }

    fn set(&self, page: u64, index: u64, value: u64) {
        // SAFETY: the word lies within the mapping, which lives as long as this; devices and
        // this program alone touch it, none by a reference.
        unsafe { self.word(page, index).write_volatile(value) }
    }

    fn get(&self, page: u64, index: u64) -> u64 {
        // SAFETY: as for `set`: within the mapping, and no reference to it exists.
        unsafe { self.word(page, index).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and its last use.
        unsafe { libc::munmap(self.at.cast(), (PAGES * PAGE) as usize) };
    }
}

fn token(page: u64) -> u64 {
    0x70ce_0000_0000_0000 | page
}

/// The device, and where it finds the page `STAGE`.
struct Edu {
    device: VfioDevice,
    stage: u64,
}

fn path(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}

/// Memory space and bus master.
fn enable(device: &VfioDevice) {
    const CONFIG: u32 = 7;
    device.region_write(CONFIG, &6u16.to_le_bytes(), 4);
}

impl Edu {
    const BUFFER: u64 = 0x40000;

    fn new(device: VfioDevice, stage: u64) -> Self {
        enable(&device);
        Edu { device, stage }
    }

    fn dma(&self, from: u64, to: u64, command: u64) -> Outcome {
        for (register, value) in [(0x80, from), (0x88, to), (0x90, 8), (0x98, command)] {
            self.device.region_write(0, &value.to_le_bytes(), register);
        }
        for _ in 0..50_000 {
            let mut status = [0; 8];
            self.device.region_read(0, &mut status, 0x98);
            if status[0] & 1 == 0 {
                return Ok(());
            }
            sleep(Duration::from_micros(200));
        }
        Err("the device does not come to an end".into())
    }

    /// What it finds at `iova`.
    fn reads(&self, memory: &Memory, iova: u64) -> Result<u64, Box<dyn Error>> {
        memory.set(STAGE, 0, NOTHING);
        self.dma(self.stage, Self::BUFFER, 1)?;
        self.dma(iova, Self::BUFFER, 1)?;
        self.dma(Self::BUFFER, self.stage, 3)?;
        Ok(memory.get(STAGE, 0))
    }

    fn writes(&self, memory: &Memory, iova: u64, value: u64) -> Outcome {
        memory.set(STAGE, 0, value);
        self.dma(self.stage, Self::BUFFER, 1)?;
        self.dma(Self::BUFFER, iova, 3)
    }
}

/// Maps, does DMA, unmaps; another page at the same address.
fn moves_data(edu: &Edu, ops: &dyn VfioOps, memory: &Memory) -> Outcome {
    let iova = BASE + 0x10_0000;
    for round in 0..4 {
        for page in [FIRST, SECOND] {
            let at = memory.word(page, 0).cast();
            // SAFETY: the memory outlives the mapping, and is only read and written by
            // volatile accesses.
            unsafe { ops.vfio_dma_map(iova, PAGE as usize, at)? };
            same("what is read", edu.reads(memory, iova)?, token(page))?;
            edu.writes(memory, iova + 8, token(page) + round)?;
            same("what is written", memory.get(page, 1), token(page) + round)?;
            ops.vfio_dma_unmap(iova, PAGE as usize)?;
            edu.writes(memory, iova + 8, 0xbad)?;
            same("after the unmap", memory.get(page, 1), token(page) + round)?;
            nothing("without a mapping", edu.reads(memory, iova)?)?;
        }
    }
    Ok(())
}

fn ioas(_: &[String]) -> Outcome {
    let memory = Memory::new()?;
    let iommufd = Arc::new(IommuFd::new()?);
    let ioas = IommufdIoas::new(iommufd.clone())?;
    let file = memory.file.as_raw_fd();

    ioas.map_file(file, 0, PAGES * PAGE, BASE, true)?;
    refused(
        "twice",
        ioas.map_file(file, 0, PAGE, BASE + PAGE, true),
        libc::EEXIST,
    )?;
    refused("half of it", ioas.unmap(BASE, PAGE), libc::ENOENT)?;
    ioas.unmap(BASE, PAGES * PAGE)?;
    refused("again", ioas.unmap(BASE, PAGES * PAGE), libc::ENOENT)?;
    refused(
        "nothing",
        ioas.map_file(file, 0, 0, BASE, true),
        libc::EINVAL,
    )?;

    let id = ioas.id();
    drop(ioas);
    refused("gone", iommufd.destroy_iommu_object(id), libc::ENOENT)
}

/// edu in an address space where the page `STAGE` is mapped.
fn take(address: &str, memory: &Memory) -> Result<(Arc<VfioIommufd>, Edu), Box<dyn Error>> {
    let iommufd = Arc::new(IommuFd::new()?);
    let ops = Arc::new(VfioIommufd::new(iommufd, None, None)?);
    // SAFETY: the memory outlives the device, and is only read and written by volatile
    // accesses.
    unsafe { ops.vfio_dma_map(BASE, PAGE as usize, memory.word(STAGE, 0).cast())? };
    let device = VfioDevice::new(&path(address), ops.clone(), true)?;
    Ok((ops, Edu::new(device, BASE)))
}

fn dma(addresses: &[String]) -> Outcome {
    let memory = Memory::new()?;
    let (ops, edu) = take(&addresses[0], &memory)?;
    moves_data(&edu, &*ops, &memory)?;
    edu.device.detach_hwpt()?;
    nothing("detached", edu.reads(&memory, BASE)?)
}

fn old_container(addresses: &[String]) -> Outcome {
    let memory = Memory::new()?;
    let container = Arc::new(VfioContainer::new(None)?);
    let device = VfioDevice::new(&path(&addresses[0]), container.clone(), false)?;
    // SAFETY: the memory outlives the device, and is only read and written by volatile
    // accesses.
    unsafe { container.vfio_dma_map(BASE, PAGE as usize, memory.word(STAGE, 0).cast())? };
    moves_data(&Edu::new(device, BASE), &*container, &memory)
}

fn hwpt(dev_id: u32, pt_id: u32, flags: u32) -> iommu_hwpt_alloc {
    iommu_hwpt_alloc {
        size: size_of::<iommu_hwpt_alloc>() as u32,
        flags,
        dev_id,
        pt_id,
        ..Default::default()
    }
}

/// Pages of a guest at `BASE`, tables of its own in them, one page behind the other.
fn nested(addresses: &[String]) -> Outcome {
    // PGD, PUD, PMD and PTE of stage 1 lie in TABLES and after; the last entry of the walk is
    // that of `leaf`, the one before it of STAGE.
    const STAGE_IOVA: u64 = 0x1000;
    const IOVA: u64 = 0x2000;
    let gpa = |page| BASE + page * PAGE;
    let memory = Memory::new()?;
    for level in 0..3 {
        memory.set(TABLES + level, 0, gpa(TABLES + level + 1) | ENTRY);
    }
    let map = |iova, page| memory.set(TABLES + 3, iova / PAGE, gpa(page) | ENTRY);
    map(STAGE_IOVA, STAGE);
    map(IOVA, FIRST);

    let iommufd = Arc::new(IommuFd::new()?);
    let ioas = Arc::new(IommufdIoas::new(iommufd.clone())?);
    ioas.map_file(memory.file.as_raw_fd(), 0, PAGES * PAGE, BASE, true)?;
    let ops = Arc::new(VfioIommufd::new(iommufd.clone(), Some(ioas.clone()), None)?);
    let edu = Edu::new(
        VfioDevice::new(&path(&addresses[0]), ops, false)?,
        STAGE_IOVA,
    );
    let dev_id = edu.device.iommufd_dev_id().ok_or("no id")?;

    let mut vtd = iommu_hw_info_vtd::default();
    let mut info = iommu_hw_info {
        size: size_of::<iommu_hw_info>() as u32,
        dev_id,
        data_len: size_of::<iommu_hw_info_vtd>() as u32,
        data_uptr: &mut vtd as *mut _ as u64,
        ..Default::default()
    };
    iommufd.get_hw_info(&mut info)?;
    if vtd.ecap_reg >> 26 & 1 == 0 {
        return Err("a VT-d that does not nest".into());
    }
    // It knows Arm's only, and gives up before it has made anything.
    match IommufdVIommu::new(ioas.clone(), dev_id, false) {
        Err(IommufdError::UnsupportedIommu(kind)) => same(
            "the kind of IOMMU",
            kind.into(),
            iommu_hw_info_type_IOMMU_HW_INFO_TYPE_INTEL_VTD.into(),
        )?,
        Err(e) => return Err(format!("a vIOMMU: {e}").into()),
        Ok(_) => return Err("a vIOMMU of Arm's on VT-d".into()),
    }

    let mut parent = hwpt(
        dev_id,
        ioas.id(),
        iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT,
    );
    iommufd.alloc_iommu_hwpt(&mut parent)?;
    let stage_1 = iommu_hwpt_vtd_s1 {
        pgtbl_addr: gpa(TABLES),
        addr_width: 48,
        ..Default::default()
    };
    let mut nested = iommu_hwpt_alloc {
        data_type: iommu_hwpt_data_type_IOMMU_HWPT_DATA_VTD_S1,
        data_len: size_of::<iommu_hwpt_vtd_s1>() as u32,
        data_uptr: &stage_1 as *const _ as u64,
        ..hwpt(dev_id, parent.out_hwpt_id, 0)
    };
    iommufd.alloc_iommu_hwpt(&mut nested)?;
    edu.device.attach_hwpt(nested.out_hwpt_id)?;
    same(
        "through both stages",
        edu.reads(&memory, IOVA)?,
        token(FIRST),
    )?;

    map(IOVA, SECOND);
    same("remembered", edu.reads(&memory, IOVA)?, token(FIRST))?;
    let mut range = iommu_hwpt_vtd_s1_invalidate {
        addr: IOVA,
        npages: 1,
        ..Default::default()
    };
    let mut invalidate = iommu_hwpt_invalidate {
        size: size_of::<iommu_hwpt_invalidate>() as u32,
        hwpt_id: nested.out_hwpt_id,
        data_uptr: &mut range as *mut _ as u64,
        data_type: iommu_hwpt_invalidate_data_type_IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
        entry_len: size_of::<iommu_hwpt_vtd_s1_invalidate>() as u32,
        entry_num: 1,
        ..Default::default()
    };
    iommufd.invalidate_hwpt(&mut invalidate)?;
    same("invalidated", invalidate.entry_num.into(), 1)?;
    same("the other page", edu.reads(&memory, IOVA)?, token(SECOND))?;
    edu.writes(&memory, IOVA + 8, 42)?;
    same("what is written", memory.get(SECOND, 1), 42)?;

    ioas.unmap(BASE, PAGES * PAGE)?;
    memory.set(STAGE, 0, NOTHING);
    edu.dma(Edu::BUFFER, STAGE_IOVA, 3)?;
    same("stage 2 is empty", memory.get(STAGE, 0), NOTHING)?;

    refused(
        "attached",
        iommufd.destroy_iommu_object(nested.out_hwpt_id),
        libc::EBUSY,
    )?;
    refused(
        "a parent",
        iommufd.destroy_iommu_object(parent.out_hwpt_id),
        libc::EBUSY,
    )?;
    edu.device.detach_hwpt()?;
    iommufd.destroy_iommu_object(nested.out_hwpt_id)?;
    Ok(iommufd.destroy_iommu_object(parent.out_hwpt_id)?)
}

/// A read of `pasid-dma` with a PASID: what it found, or how it ended.
fn pasid_reads(device: &VfioDevice, pasid: u32, iova: u64) -> Result<u64, u32> {
    device.region_write(0, &iova.to_le_bytes(), 0x08);
    device.region_write(0, &8u32.to_le_bytes(), 0x10);
    device.region_write(0, &(pasid | 1 << 31).to_le_bytes(), 0x14);
    device.region_write(0, &NOTHING.to_le_bytes(), 0x1000);
    device.region_write(0, &1u32.to_le_bytes(), 0x18);
    let (mut status, mut buffer) = ([0; 4], [0; 8]);
    device.region_read(0, &mut status, 0x1c);
    device.region_read(0, &mut buffer, 0x1000);
    match u32::from_le_bytes(status) {
        1 => Ok(u64::from_le_bytes(buffer)),
        other => Err(other),
    }
}

fn pasids(addresses: &[String]) -> Outcome {
    const PASID: u32 = 7;
    let memory = Memory::new()?;
    let iommufd = Arc::new(IommuFd::new()?);
    let ops = Arc::new(VfioIommufd::new(iommufd.clone(), None, None)?);
    let other = IommufdIoas::new(iommufd.clone())?;
    // The same address is the one page without, the other with the PASID.
    let file = memory.file.as_raw_fd();
    ops.ioas().map_file(file, FIRST * PAGE, PAGE, BASE, true)?;
    other.map_file(file, SECOND * PAGE, PAGE, BASE, true)?;
    let device = VfioDevice::new(&path(&addresses[1]), ops.clone(), false)?;
    enable(&device);
    let dev_id = device.iommufd_dev_id().ok_or("no id")?;
    let flags = iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID;
    let mut plain = hwpt(dev_id, ops.ioas().id(), flags);
    let mut with = hwpt(dev_id, other.id(), flags);
    iommufd.alloc_iommu_hwpt(&mut plain)?;
    iommufd.alloc_iommu_hwpt(&mut with)?;
    device.attach_hwpt(plain.out_hwpt_id)?;
    device.attach_iommufd_pt_pasid(with.out_hwpt_id, PASID)?;
    if pasid_reads(&device, PASID, BASE) != Ok(token(SECOND)) {
        return Err(format!("with it: {:x?}", pasid_reads(&device, PASID, BASE)).into());
    }
    if let Ok(found) = pasid_reads(&device, PASID + 1, BASE) {
        return Err(format!("with another one: {found:#x}").into());
    }
    device.detach_iommufd_pt_pasid(PASID)?;
    if let Ok(found) = pasid_reads(&device, PASID, BASE) {
        return Err(format!("after it was detached: {found:#x}").into());
    }
    device.detach_hwpt()?;
    iommufd.destroy_iommu_object(with.out_hwpt_id)?;
    Ok(iommufd.destroy_iommu_object(plain.out_hwpt_id)?)
}

/// Pages that are pinned, all told.
fn pinned() -> Result<i64, Box<dyn Error>> {
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let mut pinned = 0;
    for line in fs::read_to_string("/proc/vmstat")?.lines() {
        match line.split_once(' ') {
            Some(("nr_foll_pin_acquired", n)) => pinned += n.parse::<i64>()?,
            Some(("nr_foll_pin_released", n)) => pinned -= n.parse::<i64>()?,
            _ => (),
        }
    }
    Ok(pinned)
}

fn main() -> ExitCode {
    type Test = fn(&[String]) -> Outcome;
    let tests: [(&str, Test); 5] = [
        ("an IOAS of iommufd-ioctls, and what it refuses", ioas),
        ("vfio-ioctls by cdev: DMA", dma),
        ("vfio-ioctls by the old container: DMA", old_container),
        ("nested tables by iommufd-bindings", nested),
        ("PASIDs by vfio-ioctls", pasids),
    ];
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let mut code = ExitCode::SUCCESS;
    println!("TAP version 13\n1..{}", tests.len());
    for (number, (name, test)) in tests.iter().enumerate() {
        let outcome = pinned().and_then(|before| {
            test(&addresses)?;
            same("pages that stay pinned", pinned()? as u64, before as u64)
        });
        match outcome {
            Ok(()) => println!("ok {} {name}", number + 1),
            Err(e) => {
                println!("# {e}\nnot ok {} {name}", number + 1);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

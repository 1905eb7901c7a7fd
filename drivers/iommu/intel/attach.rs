// SPDX-License-Identifier: GPL-2.0-only

//! Attaching: all kinds of domains go onto a device, or onto a PASID of one, by the same steps.
//!
//! | step | undone by |
//! |---|---|
//! | is the domain for this device? | |
//! | room for the entry | stays |
//! | a domain-id on the unit | dropping it |
//! | cache tags, by which an unmapping finds the unit and the device | dropping them |
//! | a queue for page requests, if the domain handles them | dropping it |
//! | the old entry goes: its caches are cold, its page requests drained | |
//! | the new entry comes, and the domain lists who uses it | |
//! | what the old one had goes | |
//!
//! What can fail comes first, and leaves everything as it was. Only the hardware can fail later,
//! and then the DMA is blocked.
//!
//! The mutex of the device's group is held in all of this, which sleeps.

use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Bare,
            Domain as OfCore,
            Kind,
            StaticDomain, //
        },
        ops::{
            DomainOps,
            DomainTable,
            Pasid,
            Served,
            NO_PASID, //
        }, //
    },
    prelude::*,
    warn_on, //
};

use crate::{
    cache::Tags,
    context,
    entries,
    ffi::{
        device::Device,
        domain::{
            Domain,
            FirstStageDomain,
            Guard,
            Iopf,
            NestedDomain,
            OnUnit,
            Replaced,
            SecondStageDomain, //
        },
        steps::{
            Attached,
            Attachment,
            ListedPasid,
            Use, //
        }, //
    },
    pasid_entry::{
        FirstStage,
        UserStage, //
    }, //
};

/// What DMA is attached to.
pub(crate) enum Target<'a> {
    /// Nothing gets through.
    Blocked,
    /// Addresses are physical ones.
    Identity,
    /// A first stage of the kernel's.
    First(FirstStageDomain<'a>),
    /// A second stage of the kernel's.
    Second(SecondStageDomain<'a>),
    /// A user's first stage on such a one.
    Nested(NestedDomain<'a>, UserStage),
    /// The page table of a process, for PASIDs of devices that can work with it.
    #[cfg_attr(not(CONFIG_INTEL_IOMMU_SVM), expect(dead_code))]
    Process(Domain<'a>, FirstStage),
}

impl<'a> Target<'a> {
    /// The domain, unless it is a static one.
    fn domain(&self) -> Option<Domain<'a>> {
        match self {
            Self::Blocked | Self::Identity => None,
            Self::First(domain) => Some(domain.any()),
            Self::Second(domain) => Some(domain.any()),
            Self::Nested(domain, _) => Some(**domain),
            Self::Process(domain, _) => Some(*domain),
        }
    }

    /// The one by whose flags an entry is made: a nested domain's are its parent's.
    fn flagged(&self) -> Option<Domain<'a>> {
        match self {
            Self::Nested(domain, _) => Some(domain.parent().any()),
            _ => self.domain(),
        }
    }

    /// Takes the lock under which these flags change.
    fn lock(&self) -> Option<Guard<'a>> {
        self.flagged().map(|domain| domain.lock())
    }

    /// Whether it is for this device, as of now.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is not.
    fn compatible(&self, dev: &Device<'_>) -> Result {
        let snoop = self.flagged().is_some_and(|domain| domain.forces_snoop());
        match self {
            Self::Blocked | Self::Identity | Self::Process(..) => Ok(()),
            Self::First(domain) => domain.compatible(dev, snoop),
            Self::Second(domain) => domain.compatible(dev, snoop),
            Self::Nested(domain, _) => domain.parent().compatible(dev, snoop),
        }
    }

    /// Makes the entry of a PASID say so. It is absent, its domain has this id, and the lock of
    /// [`Self::lock`] is held.
    ///
    /// # Errors
    ///
    /// Those of [`entries`], with the entry absent.
    fn publish(&self, dev: &Device<'_>, pasid: Pasid, on: Option<OnUnit<'_>>) -> Result {
        let did = on.map_or(0, |on| on.did());
        match self {
            Self::Blocked => Ok(()),
            Self::Identity => entries::set_up_pass_through(dev, pasid),
            Self::First(domain) => {
                entries::set_up_first_stage(dev, &domain.table(&dev.unit()), pasid, did)
            }
            Self::Second(domain) => entries::set_up_second_stage(dev, &domain.table(), pasid, did),
            Self::Nested(domain, user) => {
                let parent = domain.parent().table();
                entries::set_up_nested(dev, &parent, user, pasid, did)
            }
            Self::Process(_, table) => entries::set_up_first_stage(dev, table, pasid, did),
        }
    }

    /// Makes the context entries of a device say so, in legacy mode.
    ///
    /// # Errors
    ///
    /// Those of [`context`].
    fn map(&self, dev: &Device<'_>, on: Option<OnUnit<'_>>) -> Result {
        match (self, on) {
            (Self::Second(domain), Some(on)) => context::map(dev, &domain.table(), on.did()),
            (Self::Identity, _) => context::pass_through(dev),
            // Legacy mode has nothing else.
            (Self::Blocked, _) => Ok(()),
            _ => Err(EINVAL),
        }
    }
}

/// Attaches the DMA of a device that has no PASID, whatever it was attached to before.
///
/// # Errors
///
/// `ENODEV` for a nested domain and a device that does its DMA in another's name, `EINVAL` when the
/// domain does not suit the unit; `ENOMEM`, `ENOSPC` when domain-ids are used up, those of
/// page-request set-up: with the device attached as it was. Those of the invalidation queue: with
/// the device blocked.
pub(crate) fn device<'a>(dev: &Device<'a>, to: &Target<'a>) -> Result {
    if dev.real_dma_subdevice() {
        return subdevice(dev, to);
    }
    to.compatible(dev)?;
    if !matches!(to, Target::Blocked) {
        make_room(dev)?;
    }
    let mut new = attachment(dev, to)?;
    let on = new.as_ref().map(Attachment::on);
    let tags = on.map(|on| Tags::assign(on, dev, NO_PASID)).transpose()?;
    // The tables of a crashed kernel give way. In legacy mode the new entry takes their place.
    if dev.inherited() && (dev.unit().scalable() || matches!(to, Target::Blocked)) {
        context::take_over(dev)?;
    }
    detach(dev);
    enter(dev, to, &mut new)?;
    if let Some(tags) = tags {
        tags.keep();
    }
    Ok(())
}

/// The same for a device that does its DMA in another one's name: it has no entry, and no caches.
fn subdevice<'a>(dev: &Device<'a>, to: &Target<'a>) -> Result {
    if matches!(to, Target::Nested(..)) {
        return Err(ENODEV);
    }
    to.compatible(dev)?;
    let new = attachment(dev, to)?;
    detach(dev);
    if let (Some(new), Some(guard)) = (new, to.lock()) {
        dev.give(new, &guard);
    }
    Ok(())
}

/// What it takes to attach a device, but for an entry and cache tags: nothing where there is no
/// domain to speak of.
fn attachment<'a>(dev: &Device<'a>, to: &Target<'a>) -> Result<Option<Attachment<'a>>> {
    let new = to.domain().map(|domain| Attachment::new(domain, dev));
    new.transpose()
}

/// Makes the entry of a device that is attached to nothing, and has the domain list the device,
/// which takes `new`.
///
/// # Errors
///
/// Those of the invalidation queue, and `EINVAL` when the domain does not suit the unit any more.
fn enter<'a>(dev: &Device<'a>, to: &Target<'a>, new: &mut Option<Attachment<'a>>) -> Result {
    let on = new.as_ref().map(Attachment::on);
    let scalable = dev.unit().scalable();
    if !scalable && on.is_some() {
        dev.enable_ats();
    }
    let guard = to.lock();
    let mut done = still_snooped(guard.as_ref(), dev);
    if done.is_ok() {
        done = if scalable {
            to.publish(dev, NO_PASID, on)
        } else {
            to.map(dev, on)
        };
    }
    if done.is_err() {
        drop(guard);
        if !scalable {
            clear(dev, || on);
            dev.disable_ats();
        }
        return done;
    }
    match (to, new.take(), guard) {
        (Target::Identity, ..) => dev.give_identity(),
        // The parent's lock is held until its lists have the device.
        (Target::Nested(domain, _), Some(new), _parent) => dev.give(new, &domain.lock()),
        (_, Some(new), Some(guard)) => dev.give(new, &guard),
        _ => {}
    }
    Ok(())
}

/// What may have changed since the domain was asked whether it is for a device: that all accesses
/// are to be snooped. From here on who changes that finds the device in the domain's lists.
///
/// # Errors
///
/// `EINVAL`: the unit cannot see to that.
fn still_snooped(guard: Option<&Guard<'_>>, dev: &Device<'_>) -> Result {
    let snoop = guard.is_some_and(|guard| guard.forces_snoop());
    if snoop && !dev.unit().caps().ecap.snoop_control().into_bool() {
        return Err(EINVAL);
    }
    Ok(())
}

/// Makes sure that there is a place for the entry of a device.
///
/// # Errors
///
/// `ENOMEM`, `ENODEV`.
fn make_room(dev: &Device<'_>) -> Result {
    if dev.unit().scalable() {
        entries::make_room(dev)
    } else {
        context::make_room(dev)
    }
}

/// Clears the entry of a device for its DMA without PASID, or those that say that it is in `domain`
/// in legacy mode, or passed through.
fn clear<'a>(dev: &Device<'a>, domain: impl FnOnce() -> Option<OnUnit<'a>>) {
    let cleared = if dev.unit().scalable() {
        entries::tear_down(dev, NO_PASID, false)
    } else {
        context::unmap(dev, domain())
    };
    if cleared.is_err() {
        dev.complain(c"entry of a device: invalidation failed");
    }
}

/// Takes the DMA of a device that has no PASID off what it is attached to.
pub(crate) fn detach(dev: &Device<'_>) {
    if !dev.attached() {
        return;
    }
    let has_entry = !dev.real_dma_subdevice();
    if has_entry {
        clear(dev, || dev.on());
    }
    if let Some(Attached::To(old)) = dev.take() {
        if has_entry {
            // Until here an unmapping has to find them.
            drop(Tags::kept(old.on(), dev, NO_PASID));
        }
        drop(old);
    }
    if has_entry && !dev.unit().scalable() {
        dev.disable_ats();
    }
}

/// Attaches a PASID of a device in place of `old`, if any.
///
/// # Errors
///
/// `EOPNOTSUPP` where there are no PASIDs, `EBUSY` while the device uses the tables of a crashed
/// kernel, and those of [`device`]. After those of the invalidation queue the PASID is attached to
/// nothing.
pub(crate) fn pasid<'a>(
    dev: &Device<'a>,
    pasid: Pasid,
    to: &Target<'a>,
    old: Option<&AnyDomain>,
) -> Result {
    let old = old.map(Replaced::of).transpose()?;
    if !matches!(to, Target::Blocked) {
        if !dev.unit().pasid_supported() || dev.real_dma_subdevice() {
            return Err(EOPNOTSUPP);
        }
        if dev.inherited() {
            return Err(EBUSY);
        }
        to.compatible(dev)?;
    }
    let new = to.domain().map(|domain| add_pasid(domain, dev, pasid));
    let new = new.transpose()?;
    let iopf = to.domain().map(|domain| Iopf::set(domain, *dev));
    let iopf = iopf.transpose()?;
    // Page requests end with the old entry, and are drained while there is a queue for them.
    if old.is_some() && entries::tear_down(dev, pasid, false).is_err() {
        dev.complain(c"PASID entry: invalidation failed");
    }
    let guard = to.lock();
    still_snooped(guard.as_ref(), dev)?;
    to.publish(dev, pasid, new.as_ref().map(|new| new.listed.on()))?;
    drop(guard);
    if let Some(iopf) = iopf {
        iopf.keep();
    }
    // Static domains handle no page requests, and list nothing.
    if let Some(domain) = old.and_then(|old| old.domain()) {
        drop(Iopf::kept(domain, *dev));
        remove_pasid(domain, dev, pasid);
    }
    // Debugfs calls both by the PASID, so this is last.
    if let Some(new) = new {
        let of_kernel = matches!(to, Target::First(_) | Target::Second(_));
        new.keep(of_kernel);
    }
    Ok(())
}

/// What a PASID of a device takes in a domain, but for an entry and page requests. Dropping it
/// gives it back.
#[must_use]
struct NewPasid<'a> {
    tags: Tags<'a>,
    listed: ListedPasid<'a>,
}

impl NewPasid<'_> {
    /// The attachment is made. Of a page table of the kernel's debugfs shows it.
    fn keep(self, show: bool) {
        self.tags.keep();
        if show {
            self.listed.show();
        }
        self.listed.keep();
    }
}

/// Gets what it takes.
///
/// # Errors
///
/// `ENOMEM`, `ENOSPC` when domain-ids are used up.
fn add_pasid<'a>(domain: Domain<'a>, dev: &Device<'a>, pasid: Pasid) -> Result<NewPasid<'a>> {
    let listed = Use::new(domain, dev.unit())?.list_pasid(dev, pasid)?;
    let tags = Tags::assign(listed.on(), dev, pasid)?;
    Ok(NewPasid { tags, listed })
}

/// Gives it back.
fn remove_pasid<'a>(domain: Domain<'a>, dev: &Device<'a>, pasid: Pasid) {
    let listed = ListedPasid::find(domain, dev, pasid);
    warn_on!(listed.is_none());
    if let Some(listed) = listed {
        let tags = Tags::kept(listed.on(), dev, pasid);
        drop(NewPasid { tags, listed });
    }
}

/// A domain that exists once.
pub(crate) enum Fixed {
    /// Nothing gets through.
    Blocked,
    /// Addresses are physical ones.
    Identity,
}

static FIXED: DomainTable<Fixed> = DomainTable::of_static();

/// Where devices are that must not do any DMA.
pub(crate) static BLOCKED: StaticDomain<Fixed> =
    StaticDomain::new(Kind::Blocked, &FIXED, Fixed::Blocked);

/// Where devices are that are trusted.
pub(crate) static IDENTITY: StaticDomain<Fixed> =
    StaticDomain::new(Kind::Identity, &FIXED, Fixed::Identity);

impl Fixed {
    fn target(&self) -> Target<'static> {
        match self {
            Self::Blocked => Target::Blocked,
            Self::Identity => Target::Identity,
        }
    }
}

#[vtable]
impl DomainOps for Fixed {
    type Head = Bare;

    fn table() -> &'static DomainTable<Self> {
        &FIXED
    }

    fn attach_dev(domain: &OfCore<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        device(&Device::of(dev)?, &domain.target())
    }

    fn set_dev_pasid(
        domain: &OfCore<Self>,
        dev: &Served,
        id: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        pasid(&Device::of(dev)?, id, &domain.target(), old)
    }
}

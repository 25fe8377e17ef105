//! The images of a store: the layers of each, their size, their history, and the snapshots that need them.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::oci::config::{ConfigSummary, HistoryEntry};
use crate::snapshotter::{Info, Kind, Snapshotter as _};
use crate::store::{Image, Store};

/// An image and the space that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The image.
    pub image: Image,
    /// The nearest image below this one. The topmost layer of the base is one of this image's lower layers.
    pub base: Option<String>,
    /// How many layers the image has.
    pub layers: usize,
    /// Bytes of the layers that no other image has: the space that the removal of all names of the image frees.
    pub alone_bytes: u64,
    /// Bytes of the layers that other images have, too.
    pub shared_bytes: u64,
}

/// One step in the making of an image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    /// The command of the step, from the config.
    pub created_by: Option<String>,
    /// The time of the step, from the config.
    pub created: Option<String>,
    /// The comment on the step.
    pub comment: Option<String>,
    /// The snapshot of the layer that the step made; `None` if the step changed no file.
    pub layer: Option<String>,
    /// Bytes of that layer, without the layers below.
    pub size_bytes: u64,
}

/// The snapshots of a store.
struct Snapshots(BTreeMap<String, Info>);

impl Snapshots {
    fn read(store: &Store) -> Result<Self> {
        let mut all = BTreeMap::new();
        store.walk(&[], &mut |info| {
            all.insert(info.name.clone(), info.clone());
            Ok(())
        })?;
        Ok(Self(all))
    }

    /// Returns `name` and its ancestors, nearest first.
    fn chain<'s>(&'s self, name: Option<&'s str>) -> impl Iterator<Item = &'s str> {
        let below = |name: &&str| self.0.get(*name).map(|info| info.parent.as_str());
        std::iter::successors(name, below).take_while(|name| !name.is_empty())
    }
}

/// The images of `store`, by name.
///
/// # Errors
/// Errors of the store.
pub fn summaries(store: &Store) -> Result<Vec<Summary>> {
    let (images, snapshots) = (store.images()?, Snapshots::read(store)?);
    // Several names of one image count as one, because they have the same topmost layer.
    let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for image in &images {
        let top = image.top.as_deref();
        for layer in snapshots.chain(top) {
            users.entry(layer).or_default().extend(top);
        }
    }
    let summary = |image: &Image| {
        let layers: Vec<&str> = snapshots.chain(image.top.as_deref()).collect();
        let (mut alone_bytes, mut shared_bytes) = (0, 0);
        for layer in &layers {
            let counted =
                if users.get(layer).is_some_and(|tops| tops.len() > 1) { &mut shared_bytes } else { &mut alone_bytes };
            *counted += store.usage(layer)?.size_bytes;
        }
        let base = layers.iter().skip(1).find_map(|layer| named(&images, layer)).map(str::to_owned);
        Ok(Summary { image: image.clone(), base, layers: layers.len(), alone_bytes, shared_bytes })
    };
    images.iter().map(summary).collect()
}

/// The image whose topmost layer is `layer`.
fn named<'i>(images: &'i [Image], layer: &str) -> Option<&'i str> {
    images.iter().find(|image| image.top.as_deref() == Some(layer)).map(|image| image.name.as_str())
}

/// Returns the steps that made the image `name`, the first step first. The history in the config may not match the
/// layers: a layer without a step gets an empty step at the end, and a step may be left without a layer.
///
/// # Errors
/// `NotFound`; `DataLoss` for a damaged config.
pub fn history(store: &Store, name: &str) -> Result<Vec<Made>> {
    let image = store.image(name)?;
    let snapshots = Snapshots::read(store)?;
    let mut layers: Vec<&str> = snapshots.chain(image.top.as_deref()).collect();
    let config = ConfigSummary::parse(&store.document(image.config)?, layers.len())?;
    let mut steps = config.history;
    let told = steps.iter().filter(|step| !step.empty_layer).count();
    steps.extend(vec![HistoryEntry::default(); layers.len().saturating_sub(told)]);
    let made = |step: HistoryEntry| {
        let layer = if step.empty_layer { None } else { layers.pop() };
        let size_bytes = layer.map_or(Ok(0), |layer| store.usage(layer).map(|usage| usage.size_bytes))?;
        let HistoryEntry { created, created_by, comment, .. } = step;
        Ok(Made { created_by, created, comment, layer: layer.map(str::to_owned), size_bytes })
    };
    steps.into_iter().map(made).collect()
}

/// Removes the image `name`. [`Store::gc`] removes layers that are no longer used.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` with the name of a snapshot or a child image that needs the image, unless the image
/// has another name.
pub fn remove(store: &Store, name: &str) -> Result<()> {
    // Unused layers are collected first, so that they do not count as snapshots that need the image.
    store.collect()?;
    let (image, images) = (store.image(name)?, store.images()?);
    let has_other_name = images.iter().any(|other| other.name != name && other.top == image.top);
    if let (Some(top), false) = (image.top.as_deref(), has_other_name) {
        check_unused(&Snapshots::read(store)?, &images, name, top)?;
    }
    store.remove_image(name)
}

fn check_unused(snapshots: &Snapshots, images: &[Image], name: &str, top: &str) -> Result<()> {
    let stands_on = |other: Option<&str>| snapshots.chain(other).skip(1).any(|layer| layer == top);
    let needed = |what: &str, by: &str| {
        Err(Error::precondition(format!(
            "cannot remove the image {name:?}: the {what} {by:?} needs it; remove that first"
        )))
    };
    if let Some(child) = images.iter().find(|image| stands_on(image.top.as_deref())) {
        return needed("image", &child.name);
    }
    match snapshots.0.values().find(|info| stands_on(Some(&info.name))) {
        Some(info) if info.kind == Kind::Committed => needed("snapshot", &info.name),
        Some(info) => needed("container", &info.name),
        None => Ok(()),
    }
}

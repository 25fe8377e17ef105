//! Commands on the images that a store has.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::image::short;
use super::interrupt::Interrupt;
use super::names;
use super::output::{shown, size, table, time};
use super::session::Session;
use super::{Done, FREE_LIMIT, Failures};
use crate::error::Result;
use crate::id::Digest;
use crate::image::{self, Made, Summary};
use crate::store::{Freed, Store};

/// List images
///
/// BASE is the nearest image that one was built on. ALONE is what its layers take that no other image has, SHARED what
/// those take that others have, too. The last column is the snapshot of the topmost layer, which prepare and view take
/// by the image's name, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata images --json | jq -r '.[].top'")]
pub(super) struct Images {}

/// Tell how an image was made
///
/// One line for each step, the first one first: the layer that it made, if it changed a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata history alpine")]
pub(super) struct History {
    /// The image's name, or the beginning of its ID
    image: String,
}

/// Remove images
///
/// Layers that nothing else uses go with them. An image that a snapshot or another image stands on stays, unless it has
/// a second name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata rmi alpine")]
pub(super) struct Rmi {
    /// The images' names, or the beginnings of their IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// An image as JSON has it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: Digest,
    manifest: Digest,
    top: Option<&'a str>,
    created: String,
    base: Option<&'a str>,
    layers: usize,
    alone_bytes: u64,
    shared_bytes: u64,
}

fn listed(summary: &Summary) -> Listed<'_> {
    let Summary { image, base, layers, alone_bytes, shared_bytes } = summary;
    Listed {
        name: &image.name,
        id: image.config,
        manifest: image.manifest,
        top: image.top.as_deref(),
        created: time(image.created),
        base: base.as_deref(),
        layers: *layers,
        alone_bytes: *alone_bytes,
        shared_bytes: *shared_bytes,
    }
}

impl Images {
    pub fn run(&self, session: &Session) -> Done {
        let summaries = session.find_store()?.map_or_else(|| Ok(Vec::new()), |store| image::summaries(&store))?;
        let all: Vec<_> = summaries.iter().map(listed).collect();
        Ok(session.output.either(&all, || {
            let row = |image: &Listed<'_>| {
                let (alone, shared) = (size(image.alone_bytes), size(image.shared_bytes));
                let [base, top] = [image.base, image.top].map(|name| name.unwrap_or_default().to_owned());
                let (name, id, layers) =
                    (image.name.to_owned(), short(&image.id.to_string()), image.layers.to_string());
                vec![name, id, base, layers, alone, shared, top]
            };
            let headings = ["NAME", "IMAGE ID", "BASE", "LAYERS", "ALONE", "SHARED", "TOPMOST LAYER"];
            table(&headings, all.iter().map(row).collect())
        })?)
    }
}

impl History {
    pub fn run(&self, session: &Session) -> Done {
        let store = session.store()?;
        let steps = image::history(&store, &names::image(&store, &self.image)?)?;
        Ok(session.output.either(&steps, || {
            let row = |step: &Made| {
                let layer = step.layer.as_deref().map_or_else(|| "none: no file changed".to_owned(), short);
                let taken = if step.layer.is_some() { size(step.size_bytes) } else { String::new() };
                let what = step.created_by.as_ref().or(step.comment.as_ref()).cloned().unwrap_or_default();
                vec![step.created.clone().unwrap_or_default(), layer, taken, what]
            };
            table(&["CREATED", "LAYER", "SIZE", "STEP"], steps.iter().map(row).collect())
        })?)
    }
}

impl Rmi {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store_to_change()?;
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        for word in &self.images {
            let named = interrupt.check().and_then(|()| names::image(&store, word));
            match named.and_then(|name| image::remove(&store, &name).map(|()| name)) {
                Ok(name) => removed.push(name),
                Err(error) => failures.push(error),
            }
        }
        let Freed { snapshots, waiting } = free(&store, &interrupt);
        if session.output.is_json() {
            if failures.is_empty() || !removed.is_empty() {
                session.output.document(&json!({"removed": removed, "freed": snapshots, "waiting": waiting}))?;
            }
        } else {
            session.output.text(&removed.iter().map(|name| format!("{}\n", shown(name))).collect::<String>())?;
        }
        if failures.is_empty() { Ok(()) } else { Err(Failures(failures)) }
    }
}

/// Removes what nothing uses any more. The images are gone as asked, whatever becomes of the space.
fn free(store: &Store, interrupt: &Interrupt) -> Freed {
    let drain = |()| store.drain(Some(FREE_LIMIT), Some(interrupt.cancel()));
    store.collect().and_then(drain).unwrap_or_else(|error| {
        tracing::warn!(why = error.chain(), "space was not freed");
        Freed::default()
    })
}

/// The names of images by the snapshot of their topmost layer.
pub(super) fn names_by_top(store: &Store) -> Result<BTreeMap<String, Vec<String>>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in store.images()? {
        if let Some(top) = image.top {
            names.entry(top).or_default().push(image.name);
        }
    }
    Ok(names)
}

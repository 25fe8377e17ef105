//! `RUN --mount`: what a command sees that is in no layer.
//!
//! A cache is a directory of the store that any build may use by its id, until `gc` frees it. Whoever uses one has a
//! shared lock on it, so that `gc` leaves it alone.
//!
//! # References
//! Dockerfile reference, "RUN --mount"; `flock(2)`.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, flock, mkdir};
use rustix::io::Errno;

use super::context::{Origin, Selected};
use super::parse::Position;
use crate::container::Bind;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::id::Digest;
use crate::mount::Access;
use crate::store::Store;
use crate::tree::{Dir, walk};

/// How often a cache is opened that `gc` removes meanwhile.
const OPEN_TRIES_MAX: u32 = 16;

/// The kinds of mounts, and what can be said of each.
const KINDS: [(&str, &str); 3] =
    [("tmpfs", "target"), ("cache", "target, id and sharing=shared"), ("bind", "target, source and ro")];

/// A mount of a command.
#[derive(Clone, Debug)]
pub(super) enum RunMount {
    /// A directory in memory.
    Tmpfs { target: String },
    /// A directory that other builds left something in.
    Cache { id: String, target: String },
    /// Something of the build context, read-only.
    Bind { selected: Box<Selected>, bind: Bind },
}

impl RunMount {
    /// Reads the value of `--mount`; `absolute` makes a target absolute.
    pub(super) fn parse(
        at: &Position,
        text: &str,
        context: Option<&mut Origin>,
        absolute: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let options = || text.split(',').map(|option| option.split_once('=').unwrap_or((option, "")));
        let kind = options().rfind(|(name, _)| *name == "type").map_or("bind", |(_, kind)| kind);
        let Some((_, known)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            return Err(at.error(ErrorKind::Unsupported, format!("--mount=type={kind} is not supported")));
        };
        let (mut target, mut id, mut source) = (None, None, "");
        for (name, value) in options() {
            match (kind, name, value) {
                (_, "type", _) | ("cache", "sharing", "shared") | ("bind", "ro" | "readonly", "" | "true") => {}
                (_, "target" | "dst" | "destination", value) => target = Some(absolute(value)),
                ("cache", "id", value) => id = Some(value.to_owned()),
                ("bind", "source" | "src", value) => source = value,
                _ => {
                    let option = if value.is_empty() { name.to_owned() } else { format!("{name}={value}") };
                    let message = format!("--mount=type={kind} with {option:?} is not supported: it knows {known}");
                    return Err(at.error(ErrorKind::Unsupported, message));
                }
            }
        }
        let target = target.filter(|target| target != "/");
        let target = target.ok_or_else(|| at.wrong("--mount needs a target that is not /"))?;
        match kind {
            "tmpfs" => Ok(Self::Tmpfs { target }),
            "cache" => Ok(Self::Cache { id: id.unwrap_or_else(|| target.clone()), target }),
            _ => {
                let context = context.ok_or_else(|| at.wrong("there is no build context to mount from"))?;
                let selected = context.select(source).map_err(|error| at.error(error.kind(), error.chain()))?;
                match <[Selected; 1]>::try_from(selected) {
                    Ok([selected]) => Self::bind(context, selected, target),
                    Err(_) => Err(at.wrong(format!("--mount: {source:?} is more than one"))),
                }
            }
        }
    }
}

impl RunMount {
    /// Opens what was selected: from here on an exchange in the context changes nothing.
    fn bind(context: &Origin, selected: Selected, target: String) -> Result<Self> {
        let (source, shown) = context.open(&selected)?;
        let bind = Bind::new(source, &shown, target, Access::ReadOnly)?;
        Ok(Self::Bind { selected: Box::new(selected), bind })
    }
}

/// A cache in use.
#[derive(Debug)]
pub(super) struct Cache {
    /// With a shared lock on it.
    dir: Dir,
}

fn caches(store: &Store) -> PathBuf {
    store.root().join("cache")
}

impl Cache {
    /// Opens the cache `id`, made if it is not there.
    pub(super) fn open(store: &Store, id: &str) -> Result<Self> {
        let above = caches(store);
        let path = above.join(Digest::of(id.as_bytes()).hex());
        for _ in 0..OPEN_TRIES_MAX {
            for (dir, mode) in [(&above, 0o700), (&path, 0o755)] {
                match mkdir(dir, Mode::from_raw_mode(mode)) {
                    Err(Errno::EXIST) => {}
                    made => made.at("make directory", dir)?,
                }
            }
            let Ok(dir) = Dir::open(&path) else { continue };
            flock(&dir, FlockOperation::LockShared).at("lock", &path)?;
            // It may have gone before the lock was there.
            let ours = dir.stat("")?.ino;
            if Dir::open(&above)?
                .stat_if_any(path.file_name().unwrap_or_default())?
                .is_some_and(|stat| stat.ino == ours)
            {
                return Ok(Self { dir });
            }
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the cache {id:?} is removed again and again")))
    }
}

impl Cache {
    /// The cache as a container sees it at `target`.
    pub(super) fn bind(&self, target: String) -> Result<Bind> {
        Bind::new(self.dir.as_fd(), self.dir.shown(), target, Access::ReadWrite)
    }
}

/// Removes the caches of builds that no build uses at the moment; answers how many.
///
/// # Errors
/// What the file system reports.
pub fn free_caches(store: &Store) -> Result<u64> {
    let path = caches(store);
    if !path.try_exists().at("look for", &path)? {
        return Ok(0);
    }
    let above = Dir::open(&path)?;
    let mut freed = 0;
    for entry in above.names()? {
        let dir = above.open_dir(&entry.name)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            locked => locked.at("lock", above.shown_at(&entry.name))?,
        }
        walk::remove_all(&above, &entry.name)?;
        freed += 1;
    }
    Ok(freed)
}

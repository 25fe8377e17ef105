//! The second pass: turns what the first one noted into the stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::compare::look;
use super::dir_stack::{DirStack, Inode, inode};
use super::plan::{Mark, MarkedPath, MarkedPaths};
use super::same::shrank;
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::tree::{Dir, FileType, IntoNames, Name, Node, Stat};

/// Sends `steps`, which are in stream order, to `sink`.
pub(super) fn emit(old: Option<&Dir>, new: &Dir, steps: &MarkedPaths, sink: &mut dyn Sink) -> Result<()> {
    let mut emitter = Emitter {
        old: old.map(DirStack::new),
        new: DirStack::new(new),
        sink,
        path: PathBuf::new(),
        first: HashMap::new(),
    };
    steps.iter().try_for_each(|step| emitter.step(step))
}

struct Emitter<'a> {
    old: Option<DirStack<'a>>,
    new: DirStack<'a>,
    sink: &'a mut dyn Sink,
    /// The path that is being emitted.
    path: PathBuf,
    /// The path at which a hard-linked inode was emitted first.
    first: HashMap<Inode, PathBuf>,
}

/// A directory that is emitted as a whole.
struct EmittedDir {
    names: IntoNames,
    /// Whether the old tree has a directory here, too.
    in_old: bool,
}

impl Emitter<'_> {
    fn step(&mut self, MarkedPath { path, mark }: MarkedPath) -> Result<()> {
        if mark == Mark::Remove {
            return self.sink.change(&Change::Remove { path }, &mut io::empty());
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        self.new.seek(path.parent().unwrap_or(Path::new("")))?;
        self.path = path;
        match mark {
            Mark::Remove => Ok(()),
            Mark::Put { existed } => self.put(&name, existed).map(drop),
            Mark::Whole { existed } => self.whole(&name, existed),
            Mark::Opaque => self.opaque(&name),
        }
    }

    fn whole(&mut self, name: &OsStr, existed: bool) -> Result<()> {
        self.put(name, existed)?;
        self.new.enter(name)?;
        self.below(false)
    }

    fn opaque(&mut self, name: &OsStr) -> Result<()> {
        self.put(name, true)?;
        self.sink.change(&Change::Opaque { path: self.path.clone() }, &mut io::empty())?;
        self.new.enter(name)?;
        if let Some(old) = &mut self.old {
            old.seek(&self.path)?;
        }
        self.below(true)
    }

    /// Emits all that is below the directory in which the walk stands, and leaves it.
    fn below(&mut self, in_old: bool) -> Result<()> {
        let mut frames = vec![self.frame(in_old)?];
        while let Some(frame) = frames.last_mut() {
            let in_old = frame.in_old;
            let Some(Name { name, .. }) = frame.names.next() else {
                frames.pop();
                self.leave(in_old)?;
                continue;
            };
            self.path.push(&name);
            let before = match &self.old {
                Some(old) if in_old => look(old.dir(), &name)?,
                _ => None,
            };
            if self.put(&name, before.is_some())? != Some(FileType::Dir) {
                self.path.pop();
                continue;
            }
            self.new.enter(&name)?;
            let in_old = before.is_some_and(|before| before.file_type == FileType::Dir);
            if let Some(old) = &mut self.old
                && in_old
            {
                old.enter(&name)?;
            }
            frames.push(self.frame(in_old)?);
        }
        Ok(())
    }

    fn frame(&self, in_old: bool) -> Result<EmittedDir> {
        Ok(EmittedDir { names: self.new.dir().names()?.into_iter(), in_old })
    }

    fn leave(&mut self, in_old: bool) -> Result<()> {
        self.path.pop();
        self.new.leave()?;
        match &mut self.old {
            Some(old) if in_old => old.leave(),
            _ => Ok(()),
        }
    }

    /// Emits the inode at `name` alone, and says what it is: nothing if it is a socket.
    fn put(&mut self, name: &OsStr, existed: bool) -> Result<Option<FileType>> {
        let dir = self.new.dir();
        let Some(stat) = look(dir, name)? else { return Ok(None) };
        let path = self.path.clone();
        if let Some(target) = earlier(&mut self.first, &stat, &path) {
            self.sink.change(&Change::Link { path, target, existed }, &mut io::empty())?;
        } else {
            let meta = dir.meta(name, &stat)?;
            let mut data = LazyFile { dir, name, file: None, left: content_size(&meta.node) };
            self.sink.change(&Change::Put { path, existed, meta }, &mut data)?;
        }
        Ok(Some(stat.file_type))
    }
}

/// How many bytes follow an inode in the stream.
fn content_size(node: &Node) -> u64 {
    match node {
        Node::File { size } => *size,
        _ => 0,
    }
}

/// Where the inode was emitted before; if it was not and has other names, this is the place.
fn earlier(first: &mut HashMap<Inode, PathBuf>, stat: &Stat, path: &Path) -> Option<PathBuf> {
    if stat.nlink < 2 || stat.file_type == FileType::Dir {
        return None;
    }
    match first.entry(inode(stat)) {
        Entry::Occupied(first) => Some(first.get().clone()),
        Entry::Vacant(place) => {
            place.insert(path.to_owned());
            None
        }
    }
}

/// The bytes of a file, opened when the first of them is wanted.
struct LazyFile<'a> {
    dir: &'a Dir,
    name: &'a OsStr,
    file: Option<File>,
    left: u64,
}

impl Read for LazyFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let file = match &mut self.file {
            Some(file) => file,
            unopened => unopened.insert(self.dir.open_file(self.name)?),
        };
        let length = file.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(shrank(&self.dir.shown_at(self.name)).into());
        }
        self.left -= length as u64;
        Ok(length)
    }
}

//! Settings of a comparison: which method is measured on which file system.

use std::fmt;
use std::path::Path;

use crate::backend::{Strategy, Variant};
use crate::backends::{Setting, Strategies};
use crate::compare::{Label, Role};
use crate::error::{Error, Result};
use crate::fs_type::FsMagic;
use crate::mount::scratch::FsType;

/// Method of making snapshots: a variant of a strategy, or a plain directory, the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// A store of this strategy.
    Store(Strategy, Variant),
    /// A plain directory without snapshots.
    Directory,
}

impl Method {
    /// Returns the methods that `named` names, or all if it is empty.
    pub fn all(table: &Strategies, named: &[String]) -> Vec<Self> {
        let is_wanted = |variant: &Variant| named.is_empty() || named.iter().any(|name| name == variant.name);
        let variants = table.variants().into_iter().filter(|(_, variant)| is_wanted(variant));
        variants.map(|(strategy, variant)| Self::Store(strategy, variant)).collect()
    }

    /// Returns its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store(_, variant) => variant.name,
            Self::Directory => "plain directory",
        }
    }

    /// Returns true if each snapshot holds all bytes of its parent.
    pub fn copies(self) -> bool {
        matches!(self, Self::Store(_, variant) if variant.copies_all_bytes)
    }

    /// Returns true if people use it on `fs`.
    fn is_usual_on(self, fs: FsType) -> bool {
        matches!(self, Self::Store(strategy, variant) if Setting { strategy, variant, fs }.is_usual())
    }

    /// Returns true if `fs` is the file system on which a short run measures it.
    fn is_quick_on(self, fs: FsType) -> bool {
        matches!(self, Self::Store(_, variant) if variant.usual_file_systems.first() == Some(&fs.as_str()))
    }
}

/// Parses the name of a file system on the command line.
///
/// # Errors
/// `InvalidArgument` that lists the known names.
pub(super) fn parse_fs(name: &str) -> Result<FsType> {
    FsType::ALL.into_iter().find(|fs| fs.as_str() == name).ok_or_else(|| {
        Error::invalid(format!("{name:?} is no file system: {}", FsType::ALL.map(FsType::as_str).join(", ")))
    })
}

/// Returns the kernel's name for the file system of `dir`.
///
/// # Errors
/// Errors of the system call.
pub(super) fn fs_of(dir: &Path) -> Result<String> {
    FsMagic::of_path(dir).map(FsMagic::name)
}

/// A method on a file system: a [`Setting`](crate::backends::Setting), the floor, or a variant in a directory of the
/// user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MeasuredSetting {
    pub method: Method,
    /// Type of the file system to create; `None` for a directory of the user.
    pub fresh: Option<FsType>,
    /// Name of the file system.
    pub fs: String,
}

impl MeasuredSetting {
    /// Returns true if the file system has what the method needs.
    pub fn can_be(&self) -> bool {
        match self.method {
            Method::Store(_, variant) => variant.impossible_on(&self.fs).is_none(),
            Method::Directory => true,
        }
    }

    /// Returns the label of the results.
    pub fn label(&self) -> Label {
        let role = if self.method == Method::Directory { Role::Floor } else { Role::Strategy };
        Label::new(self.method.name(), &self.fs, role)
    }
}

impl fmt::Display for MeasuredSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.method.name(), self.fs)
    }
}

/// Returns those of `methods` on those of `fs` (all if none is named), with the floor of each file system.
///
/// A method on a file system on which nobody would use it is left out, unless `named` says that the user named methods
/// or file systems, or `full` asks for all.
pub(super) fn settings(
    methods: &[Method],
    fs: &[FsType],
    named: bool,
    quick: bool,
    full: bool,
) -> Vec<MeasuredSetting> {
    let is_wanted = |method: Method, kind: FsType| match quick {
        _ if named => true,
        true => method.is_quick_on(kind),
        false => full || method.is_usual_on(kind) || !can_be_on(method, kind),
    };
    let mut all = Vec::new();
    for kind in FsType::ALL.into_iter().filter(|kind| fs.is_empty() || fs.contains(kind)) {
        let on_kind = |method: Method| MeasuredSetting { method, fresh: Some(kind), fs: kind.to_string() };
        let before = all.len();
        all.extend(methods.iter().filter(|method| is_wanted(**method, kind)).map(|method| on_kind(*method)));
        if all.len() > before {
            all.push(on_kind(Method::Directory));
        }
    }
    // Settings of one method stand together; the floors come last.
    all.sort_by_key(|setting| methods.iter().position(|method| *method == setting.method).unwrap_or(methods.len()));
    all
}

/// Returns true if `method` can live on `fs`; a report lists those that cannot, with the reason.
fn can_be_on(method: Method, fs: FsType) -> bool {
    MeasuredSetting { method, fresh: Some(fs), fs: fs.to_string() }.can_be()
}

/// Returns `methods` and the floor in a directory of the user's, on the file system `fs`.
pub(super) fn settings_on(methods: &[Method], fs: &str) -> Vec<MeasuredSetting> {
    let all = methods.iter().copied().chain([Method::Directory]);
    all.map(|method| MeasuredSetting { method, fresh: None, fs: fs.to_owned() }).collect()
}

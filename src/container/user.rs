//! Users of an image: `/etc/passwd` and `/etc/group` of the image give the numbers of a name.
//!
//! Both files come from strangers: they are opened with the image's root as `/`, so that no link leads out of it, and
//! their length is limited.
//!
//! # References
//! OCI image specification, `config.md`, "User"; `passwd(5)`, `group(5)`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::Dir;

/// Maximum length of each file, in bytes: some tens of thousands of users.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The user, group and supplementary groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user number.
    pub uid: u32,
    /// The group number.
    pub gid: u32,
    /// The numbers of all groups, `gid` first. With `gid` in this list, a process that changes its group is still a
    /// member: a file that refuses the members of `gid` stays closed to the process.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

/// A line of `/etc/passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// A line of `/etc/group`.
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Looks `user` up in the tree `root`: a name or number, with `:group` (a name or number) or without; empty for root. A
/// number need not be in the files.
///
/// # Errors
/// `NotFound` for a name that the tree does not know; `InvalidArgument` if a file is no regular file or too long.
pub fn find_user(root: &Dir, user: &str) -> Result<User> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let accounts = accounts(&text(root, "etc/passwd")?);
    let number = name.parse::<u32>().ok();
    let found = accounts.iter().find(|account| account.name == name).or_else(|| {
        let number = number?;
        accounts.iter().find(|account| account.uid == number)
    });
    let (uid, gid, home) = match (found, number) {
        (Some(account), _) => (account.uid, account.gid, account.home.clone()),
        (None, Some(uid)) => (uid, 0, String::new()),
        (None, None) => return Err(unknown("user", name, "etc/passwd")),
    };
    let known = groups(&text(root, "etc/group")?);
    let (gid, groups) = match group {
        Some(group) => (group_number(&known, group)?, Vec::new()),
        None => (gid, memberships(&known, found.map(|account| account.name.as_str()), gid)),
    };
    let groups = [vec![gid], groups].concat();
    Ok(User { uid, gid, groups, home: if home.is_empty() { "/".to_owned() } else { home } })
}

/// Returns the number of the group `name` in `known`; `name` may also be a number.
fn group_number(known: &[Group], name: &str) -> Result<u32> {
    match (known.iter().find(|group| group.name == name), name.parse()) {
        (Some(group), _) => Ok(group.gid),
        (None, Ok(number)) => Ok(number),
        (None, Err(_)) => Err(unknown("group", name, "etc/group")),
    }
}

fn memberships(known: &[Group], name: Option<&str>, own: u32) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let is_member = |group: &&Group| group.gid != own && group.members.iter().any(|member| member == name);
    known.iter().filter(is_member).map(|group| group.gid).collect()
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::not_found(format!("the image has no {what} {name:?}: /{file} does not name it, and it is no number"))
}

fn accounts(text: &str) -> Vec<Account> {
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned() })
    };
    text.lines().filter_map(account).collect()
}

fn groups(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        let members = members.split(',').map(|member| member.trim().to_owned()).collect();
        Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
    };
    text.lines().filter_map(group).collect()
}

/// Returns the text of the file `path` in the tree; an empty text if the file does not exist.
fn text(root: &Dir, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let shown = root.shown_at(path);
    let file = match root.open_within(Path::new(path), flags, resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        file => File::from(file.at("open", &shown)?),
    };
    let stat = file.metadata().at("stat", &shown)?;
    if !stat.is_file() || stat.len() > FILE_BYTES_MAX {
        let message = format!("the image's /{path} is no regular file of at most {FILE_BYTES_MAX} bytes");
        return Err(Error::invalid(message));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).at("read", &shown)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

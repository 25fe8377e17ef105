//! Commands that show a snapshot's files: as mounts to make, as a mount, not any more.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Done;
use super::names;
use super::session::Session;
use crate::error::Context as _;
use crate::mount;
use crate::snapshotter::Snapshotter;

/// Print how to mount a snapshot
///
/// One line for each mount: a mount command that lacks only the directory to mount at. With --json: type, source and
/// options in containerd's form.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eval \"$(strata mounts work) /mnt\"")]
pub(super) struct Mounts {
    /// The key of a writable snapshot or a view
    key: String,
}

/// Mount a snapshot
///
/// In the caller's mount namespace, where it stays after the command. Mounts in other mount namespaces are seen by no
/// command: unmount there before the snapshot is committed or removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata mount work /mnt")]
pub(super) struct Mount {
    /// The key of a writable snapshot or a view
    key: String,
    /// The directory to mount at
    dir: PathBuf,
}

/// Unmount what is mounted at a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata umount /mnt")]
pub(super) struct Umount {
    /// The directory
    dir: PathBuf,
}

/// A mount in containerd's form.
#[derive(Debug, Serialize)]
struct Described {
    #[serde(rename = "type")]
    fstype: String,
    source: String,
    options: Vec<String>,
}

fn describe(mounts: &[mount::Mount]) -> Vec<Described> {
    let one = |mount: &mount::Mount| Described {
        fstype: mount.fstype().to_owned(),
        source: mount.source(),
        options: mount.options(),
    };
    mounts.iter().map(one).collect()
}

/// The `mount(8)` command for one mount, without its target: `mount` knows binds as an option, not as a type.
fn command(mount: &mount::Mount) -> String {
    let kind = if mount.fstype() == "bind" { String::new() } else { format!(" -t {}", quoted(mount.fstype())) };
    let options = mount.options().join(",");
    format!("mount{kind} -o {} {}\n", quoted(&options), quoted(&mount.source()))
}

/// `word` as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl Mounts {
    pub fn run(&self, session: &Session) -> Done {
        let store = session.store()?;
        let mounts = store.mounts(&names::key(&store, &self.key)?)?;
        Ok(session.output.either(&describe(&mounts), || mounts.iter().map(command).collect())?)
    }
}

impl Mount {
    pub fn run(&self, session: &Session) -> Done {
        let store = session.store()?;
        let key = names::key(&store, &self.key)?;
        let mounts = store.mounts(&key)?;
        store.check_mountable(&key, &mounts)?;
        mount::attach(&mounts, &self.dir)?;
        if session.output.is_json() {
            session.output.document(&json!({"key": key, "target": self.dir.to_string_lossy()}))?;
        }
        Ok(())
    }
}

impl Umount {
    pub fn run(&self, session: &Session) -> Done {
        // As umount(8) does; the library follows no link.
        mount::unmount(&self.dir.canonicalize().at("find", &self.dir)?)?;
        if session.output.is_json() {
            session.output.document(&json!({"target": self.dir.to_string_lossy()}))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Access;

    #[test]
    fn commands_survive_a_shell() {
        let bind = |source: &str| mount::Mount::Bind { source: source.into(), access: Access::ReadOnly };
        assert_eq!(command(&bind("/s/1/fs")), "mount -o rbind,ro /s/1/fs\n");
        assert_eq!(command(&bind("/it's a\n")), "mount -o rbind,ro '/it'\\''s a\n'\n");
        let overlay = mount::Mount::Overlay { lower: vec!["/a".into(), "/b".into()], upper: None, userxattr: false };
        assert_eq!(command(&overlay), "mount -t overlay -o lowerdir=/a:/b,index=off,redirect_dir=nofollow overlay\n");
    }
}

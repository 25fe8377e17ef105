//! The unix socket that a daemon listens on: one daemon for each path, and no connections of other users.
//!
//! # What is made
//! The directory with mode 0700 if it is missing; the socket with mode 0600 from its first moment. A directory that is
//! there is left as it is, unless others may write to it: they could put a socket of their own in the place.
//!
//! # What is in the way
//! A socket without a listener was left by a daemon that died, and is removed. Anything else stays, and the error names
//! it. Daemons that start at the same time take turns by a lock on the directory.
//!
//! # References
//! `unix(7)` (the mode of a socket is that of its descriptor at `bind`; a path has at most 107 bytes), `flock(2)`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::error::{Context, Error, Result};

/// The longest path of a socket, in bytes: `sun_path`, less the final NUL.
const PATH_BYTES_MAX: usize = 107;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Mode bits that let the group or others write to a directory.
const OTHERS_WRITE: u32 = 0o022;

/// A socket that is listened on. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

/// Listens at `path`, which is absolute, without blocking.
///
/// # Errors
/// `InvalidArgument` for a path that is too long; `FailedPrecondition` if a process listens there (the message names
/// it), if something else is there, or if others may write to the directory.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, Socket)> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        let shown = path.display();
        return Err(Error::invalid(format!(
            "the socket path {shown} has {bytes} bytes, and the kernel takes {PATH_BYTES_MAX}: choose a shorter one"
        )));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir_fd = open_dir(dir)?;
    rustix::fs::flock(&dir_fd, FlockOperation::LockExclusive).at("lock the directory", dir)?;
    clear(path)?;
    let listener = bind(path)?;
    let stat = std::fs::symlink_metadata(path).at("stat the socket", path)?;
    Ok((listener, Socket { path: path.to_owned(), identity: (stat.dev(), stat.ino()) }))
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at("make the directory", dir)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty()).at("open the directory", dir)?;
    let stat = rustix::fs::fstat(&opened).at("stat the directory", dir)?;
    let own = rustix::process::geteuid().as_raw();
    if stat.st_mode & OTHERS_WRITE != 0 || (stat.st_uid != own && stat.st_uid != 0) {
        return Err(Error::precondition(format!(
            "others than user {own} may write to {}: put the socket into a directory of its own, which strata makes",
            dir.display()
        )));
    }
    Ok(opened)
}

/// Removes a stale socket at the path.
fn clear(path: &Path) -> Result<()> {
    let stat = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        stat => stat.at("look for a socket at", path)?,
    };
    let shown = path.display();
    if !stat.file_type().is_socket() || stat.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::precondition(format!("{shown} is no socket of this user: choose another path")));
    }
    match UnixStream::connect(path) {
        Ok(other) => {
            let holder = sockopt::socket_peercred(other.as_fd()).at("ask who listens at", path)?;
            let pid = holder.pid.as_raw_nonzero();
            Err(Error::precondition(format!("process {pid} listens at {shown}: stop it, or choose another path")))
        }
        Err(error) if error.raw_os_error() == Some(Errno::CONNREFUSED.raw_os_error()) => {
            tracing::info!(socket = %shown, "a socket that nobody listens on goes");
            std::fs::remove_file(path).at("remove the stale socket", path)
        }
        Err(error) => Err(error).at("find out who listens at", path),
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.at("make a socket for", path)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).at("make private the socket for", path)?;
    let address = SocketAddrUnix::new(path).at("make the address of", path)?;
    rustix::net::bind(&socket, &address).at("make the socket", path)?;
    rustix::net::listen(&socket, BACKLOG).at("listen at", path)?;
    Ok(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another socket at the path is not removed. A socket that stays is stale, and the next start removes it.
        let own = |stat: std::fs::Metadata| (stat.dev(), stat.ino()) == self.identity;
        if std::fs::symlink_metadata(&self.path).is_ok_and(own) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::ErrorKind;

    fn refused(path: &Path) -> Error {
        listen(path).map(drop).expect_err("it must be refused")
    }

    #[test]
    fn a_socket_is_its_users_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/strata/strata.sock");
        let (_listener, socket) = listen(&path).expect("listen");
        let mode = |path: &Path| fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().expect("its directory"))), (0o600, 0o700));
        let error = refused(&path);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_daemon_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let (listener, socket) = listen(&path).expect("listen");
        std::mem::forget(socket);
        drop(listener);
        assert!(path.exists());
        let (_listener, _socket) = listen(&path).expect("the next one listens");
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "text").expect("write");
        assert_eq!(refused(&path).kind(), ErrorKind::FailedPrecondition);
        assert_eq!(fs::read_to_string(&path).expect("read"), "text");
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).expect("chmod");
        assert_eq!(refused(&dir.path().join("s")).kind(), ErrorKind::FailedPrecondition);
        assert_eq!(fs::metadata(dir.path()).expect("stat").permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn a_path_has_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = refused(&dir.path().join("x".repeat(108)));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("107"), "{error}");
    }
}

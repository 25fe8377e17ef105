//! Sockets of SSH agents in containers: each connection to one is passed on to an agent of the machine.
//!
//! The socket lies in the workplace, in memory, with the owner and mode that the container needs. So the agent's own
//! socket keeps its permissions, and no file is left when the container ends.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmodat, chownat};

use crate::error::{Context as _, Result};
use crate::tree::Dir;

/// A socket that a container sees in place of an agent's.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The agent's socket, as an absolute path of the machine.
    pub socket: PathBuf,
    /// The path of the socket in the container, absolute.
    pub target: String,
    /// The owner and group of the socket in the container.
    pub owner: (u32, u32),
    /// The mode of the socket in the container.
    pub mode: u32,
}

/// A socket that passes connections on to an agent. Dropping the value ends this.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) path: PathBuf,
    ended: Arc<AtomicBool>,
}

impl Forwarder {
    /// Makes the socket `name` in the directory `place`.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(super) fn new(agent: &Agent, place: &Path, name: &str) -> Result<Self> {
        let path = place.join(name);
        // The whole path may be too long for the address of a socket.
        let dir = Dir::open(place)?.into_fd();
        let short = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let listener = UnixListener::bind(short).at("make the socket", &path)?;
        let (uid, gid) = agent.owner;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(CWD, &path, owner.0, owner.1, AtFlags::empty()).at("set the owner of", &path)?;
        chmodat(CWD, &path, Mode::from_raw_mode(agent.mode), AtFlags::empty()).at("set the mode of", &path)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (socket, stop) = (agent.socket.clone(), ended.clone());
        thread::Builder::new()
            .name("ssh agent".to_owned())
            .spawn(move || forward(&listener, &socket, &stop))
            .at("start a thread for", &path)?;
        Ok(Self { path, ended })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let (Some(place), Some(name)) = (self.path.parent(), self.path.file_name())
            && let Ok(dir) = Dir::open(place)
        {
            // A connection wakes the thread. If it fails, the thread ends with the process.
            let dir = dir.into_fd();
            let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
            drop(UnixStream::connect(short));
        }
    }
}

fn forward(listener: &UnixListener, socket: &Path, ended: &AtomicBool) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        if ended.load(Ordering::Relaxed) {
            return;
        }
        // If there is no agent, the connection of the container is closed.
        let Ok(agent) = UnixStream::connect(socket) else { continue };
        let (Ok(from), Ok(to)) = (stream.try_clone(), agent.try_clone()) else { continue };
        thread::spawn(move || pass(from, agent));
        thread::spawn(move || pass(to, stream));
    }
}

/// Copies the bytes of `from` to `to`, until `from` ends.
fn pass(mut from: UnixStream, mut to: UnixStream) {
    // An error ends the connection like the end of `from`.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A forwarder passes questions and answers on, even at a path that is too long for the address of a socket.
    #[test]
    fn what_is_asked_is_answered() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).expect("bind");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut asked = String::new();
                let read = stream.read_to_string(&mut asked);
                let _ = read.and_then(|_| stream.write_all(asked.to_uppercase().as_bytes()));
            }
        });
        let place = dir.path().join("x".repeat(120));
        std::fs::create_dir(&place).expect("mkdir");
        let agent = Agent { socket, target: String::new(), owner: (7, 8), mode: 0o640 };
        let forwarder = Forwarder::new(&agent, &place, "a").expect("a socket");
        let stat = Dir::open(&place).and_then(|dir| dir.stat("a")).expect("stat");
        assert_eq!((stat.uid, stat.gid, stat.mode), (7, 8, 0o640));
        for text in ["hello", "again"] {
            let dir = Dir::open(&place).expect("open").into_fd();
            let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/a", dir.as_raw_fd())).expect("connect");
            stream.write_all(text.as_bytes()).expect("ask");
            stream.shutdown(Shutdown::Write).expect("shut down");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert_eq!(answer, text.to_uppercase());
        }
        drop(forwarder);
    }
}

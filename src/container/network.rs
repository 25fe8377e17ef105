//! The network of a container: the machine's, none, or one of its own with outgoing connections.
//!
//! The connections of a private network go through pasta, a program that needs no privilege in the machine's network:
//! it forwards the connections of the container through sockets of its own. The container reaches what the machine
//! reaches, but neither the machine's loopback services nor its abstract sockets.
//!
//! The kernel kills pasta when the thread that started it ends. pasta leaves nothing on the machine.
//!
//! # References
//! `passt(1)`; `network_namespaces(7)`; OCI runtime specification, `config-linux.md`, "Namespaces".

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::Control;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// The network of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// A network of its own, with outgoing connections if pasta is installed, else with the loopback device only.
    #[default]
    Private,
    /// The machine's network.
    Host,
    /// A network of its own, with the loopback device only.
    None,
}

/// The network namespace in which the runtime starts the container.
#[derive(Debug)]
pub(super) enum NetworkNamespace {
    /// The network namespace of the machine.
    Host,
    /// A new network namespace, which the runtime makes.
    New,
    /// The network namespace at this path, which pasta connects.
    Connected(PathBuf),
}

/// Address at which pasta takes queries for the machine's resolver. A link-local address belongs to no network of the
/// machine.
const RESOLVER: &str = "169.254.1.1";

/// Time limit for the start of pasta.
const START: Duration = Duration::from_secs(10);

/// The pause between two checks whether pasta has started.
const POLL: Duration = Duration::from_millis(1);

/// Starts `pasta` for a container whose workplace is `place`. Returns `None`, and warns `control`, if pasta is not
/// installed or cannot be started.
pub(super) fn connect(pasta: Option<&Path>, place: &Path, control: &mut dyn Control) -> Option<Connection> {
    let started = match pasta {
        Some(pasta) => Connection::start(pasta, place).map_err(|error| error.chain()),
        None => Err("pasta is not installed (package passt)".to_owned()),
    };
    started.inspect_err(|why| control.warn(&without(why))).ok()
}

/// Returns the warning that a private network has no connections.
fn without(why: &str) -> String {
    format!("the container has no network: {why}; --network host gives it the machine's")
}

/// A running pasta that connects a network namespace. Dropping the value kills it.
#[derive(Debug)]
pub(super) struct Connection {
    child: Child,
    namespace: PathBuf,
    ready: PathBuf,
    log: PathBuf,
}

impl Connection {
    /// Makes a network namespace in `place`, a directory of the workplace, and starts `pasta` for it.
    fn start(pasta: &Path, place: &Path) -> Result<Self> {
        let (namespace, ready, log) = (place.join("network"), place.join("pasta.pid"), place.join("pasta.log"));
        File::create(&namespace).at("create", &namespace)?;
        let to = namespace.clone();
        let made = thread::Builder::new().name("network".to_owned()).spawn(move || make_namespace(&to));
        let made = made.at("start a thread for", "a network namespace")?;
        made.join().map_err(|_| Error::new(ErrorKind::Io, "a thread ended early"))??;
        let mut command = Command::new(pasta);
        // No port of the container is opened on the machine, and none of the machine's in the container.
        command.args(["--quiet", "--foreground", "--config-net", "--no-map-gw", "--runas", "0:0"]);
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
        command.args(["--dns-forward", RESOLVER]);
        command.arg("--pid").arg(&ready).arg("--netns").arg(&namespace);
        // pasta gets a process group of its own, so that Ctrl-C in the terminal reaches the container and not pasta.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).at("create", &log)?)
            .process_group(0);
        let child = sys::process::spawn_until_thread_ends(&mut command).at("run", pasta)?;
        Ok(Self { child, namespace, ready, log })
    }

    /// Waits until pasta has set the namespace up, and returns it. If pasta fails, the container gets a network without
    /// connections, and `control` a warning.
    pub(super) fn namespace(&mut self, control: &mut dyn Control) -> NetworkNamespace {
        match self.wait() {
            Ok(()) => NetworkNamespace::Connected(self.namespace.clone()),
            Err(error) => {
                control.warn(&without(&error.chain()));
                NetworkNamespace::New
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if fs::metadata(&self.ready).is_ok_and(|file| file.len() > 0) {
                return Ok(());
            }
            let ended = self.child.try_wait().at("wait for", "pasta")?;
            if ended.is_some() || began.elapsed() > START {
                return Err(self.failure());
            }
            thread::sleep(POLL);
        }
    }

    fn failure(&self) -> Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let said = said.lines().rfind(|line| !line.contains("to syslog")).unwrap_or("it said nothing").to_owned();
        Error::new(ErrorKind::FailedPrecondition, "pasta failed").with_source(said)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Both calls do nothing if pasta has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves the calling thread into a new network namespace and binds it at `path`.
fn make_namespace(path: &Path) -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .at("make a network namespace for", path)?;
    mount_bind("/proc/thread-self/ns/net", path).at("bind the network namespace at", path)
}

/// Returns the `resolv.conf` of a container with a private network; `text` is that of the machine.
///
/// pasta takes the place of the name servers, because the container cannot reach a server on the machine's loopback
/// device. The other lines stay.
pub(super) fn resolv_conf(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let others = text.lines().filter(|line| line.split_whitespace().next() != Some("nameserver"));
    let lines = [format!("nameserver {RESOLVER}")].into_iter().chain(others.map(str::to_owned));
    lines.flat_map(|line| [line, "\n".to_owned()]).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_asks_pasta_for_names() {
        for (machine, expected) in [
            ("nameserver 9.9.9.9\nsearch a.b\n", "nameserver 169.254.1.1\nsearch a.b\n"),
            ("nameserver 127.0.0.53\nnameserver ::1\noptions edns0", "nameserver 169.254.1.1\noptions edns0\n"),
            ("", "nameserver 169.254.1.1\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&resolv_conf(machine.as_bytes())), expected, "{machine}");
        }
    }
}

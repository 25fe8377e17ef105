//! Cases about devices, pipes and sockets.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;

use super::fixture::NULL;
use super::{Case, same};
use crate::conformance::case::{Fault, Verdict, ensure, refuses};
use crate::conformance::location::NO_DEVICES;
use crate::error::{Context as _, ErrorKind};
use crate::tree::{Device, Dir, FileType};

/// All cases of this module.
pub(super) const CASES: [Case; 7] = [
    Case {
        name: "devices-below",
        source: "mknod(2); kernel overlayfs.rst: whiteouts are devices 0:0",
        meaning: "device nodes of an image are missing or are others",
        run: devices_below,
    },
    Case {
        name: "devices-are-made",
        source: "mknod(2)",
        meaning: "images with device nodes cannot be built",
        run: devices_are_made,
    },
    Case {
        name: "pipe-connects",
        source: "POSIX fifo; fifo(7)",
        meaning: "programs on the two ends of a named pipe never meet",
        run: pipe_connects,
    },
    Case {
        name: "pipe-connects-across-copy-up",
        source: "fifo(7); kernel overlayfs.rst: Non-directories",
        meaning: "a named pipe of an image breaks when its mode is changed",
        run: pipe_across_copy_up,
    },
    Case {
        name: "socket-connects",
        source: "unix(7); moby#12080: UnixDomainSockets",
        meaning: "daemons in containers cannot be called",
        run: socket_connects,
    },
    Case {
        name: "socket-connects-when-renamed",
        source: "unix(7); POSIX rename",
        meaning: "daemons that move their socket into place cannot be called",
        run: socket_renamed,
    },
    Case {
        name: "pipe-is-removed",
        source: "POSIX unlink",
        meaning: "special files of an image cannot be removed",
        run: pipe_is_removed,
    },
];

const MESSAGE: &[u8] = b"through";

fn devices_below(root: &Dir) -> Verdict {
    let null = || root.stat("null").map(|stat| (stat.file_type, stat.device));
    if null()?.0 == FileType::Fifo {
        return Err(Fault::Skip(NO_DEVICES.to_owned()));
    }
    same("what it is", null()?, (FileType::Char, NULL))?;
    root.set_mode("null", 0o666)?;
    same("what it is then", null()?, (FileType::Char, NULL))?;
    same("its mode", root.stat("null")?.mode, 0o666)
}

fn devices_are_made(root: &Dir) -> Verdict {
    for (name, file_type, device) in [
        ("zero", FileType::Char, Device { major: 1, minor: 5 }),
        ("dir/disk", FileType::Block, Device { major: 259, minor: 70_000 }),
    ] {
        match root.make_node(file_type, device, name) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Fault::Skip(NO_DEVICES.to_owned()));
            }
            made => made?,
        }
        let stat = root.stat(name)?;
        same(name, (stat.file_type, stat.device), (file_type, device))?;
    }
    Ok(())
}

fn end(root: &Dir, flags: OFlags) -> Verdict<std::fs::File> {
    let opened = openat(root, "fifo", flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    Ok(opened.at("open", "fifo")?.into())
}

fn pass(mut writer: impl std::io::Write, mut reader: impl std::io::Read) -> Verdict {
    let mut bytes = [0; MESSAGE.len()];
    writer.write_all(MESSAGE).and_then(|()| reader.read_exact(&mut bytes)).at("send a message through", "a pipe")?;
    same("what arrives", &bytes[..], MESSAGE)
}

fn pipe_connects(root: &Dir) -> Verdict {
    let alone = openat(root, "fifo", OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
    refuses("writing to a pipe that nobody reads", alone, Errno::NXIO)?;
    let reader = end(root, OFlags::RDONLY)?;
    pass(end(root, OFlags::WRONLY)?, reader)
}

fn pipe_across_copy_up(root: &Dir) -> Verdict {
    let reader = end(root, OFlags::RDONLY)?;
    root.set_mode("fifo", 0o622)?;
    pass(end(root, OFlags::WRONLY)?, reader)
}

/// Returns a short path to `name` through `/proc/self/fd`, because a socket address has room for few bytes.
fn path(root: &Dir, name: &str) -> String {
    use std::os::fd::AsFd as _;
    format!("/proc/self/fd/{}/{name}", root.as_fd().as_raw_fd())
}

fn socket_connects(root: &Dir) -> Verdict {
    let listener = UnixListener::bind(path(root, "dir/socket")).at("bind", "dir/socket")?;
    same("what it is", root.stat("dir/socket")?.file_type, FileType::Socket)?;
    talk(root, "dir/socket", &listener)?;
    drop(listener);
    let refused = UnixStream::connect(path(root, "dir/socket"));
    ensure(refused.is_err(), || "somebody answers although nobody listens".to_owned())
}

fn talk(root: &Dir, name: &str, listener: &UnixListener) -> Verdict {
    let mut client = UnixStream::connect(path(root, name)).at("connect to", name)?;
    let (mut server, _) = listener.accept().at("accept at", name)?;
    let mut bytes = [0; MESSAGE.len()];
    client.write_all(MESSAGE).and_then(|()| server.read_exact(&mut bytes)).at("send a message through", name)?;
    same("what arrives", &bytes[..], MESSAGE)
}

fn socket_renamed(root: &Dir) -> Verdict {
    let listener = UnixListener::bind(path(root, "socket")).at("bind", "socket")?;
    renameat(root, "socket", root, "opaque/socket").at("rename", "socket")?;
    root.set_mode("opaque/socket", 0o777)?;
    talk(root, "opaque/socket", &listener)
}

fn pipe_is_removed(root: &Dir) -> Verdict {
    for name in ["fifo", "null"] {
        root.unlink(name)?;
        ensure(root.stat_if_any(name)?.is_none(), || format!("{name} is there"))?;
    }
    root.make_node(FileType::Fifo, Device::default(), "null")?;
    same("what it is then", root.stat("null")?.file_type, FileType::Fifo)
}

//! Docker, unpacked by `vagrant/provision.sh`, on sockets and directories of its own and without a network.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support;

/// How long a daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that is killed when it is dropped, or when the thread that started it ends.
#[derive(Debug)]
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = self.0.id().try_into() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// Docker's daemon, with its containerd. The field order is the order in which they end.
#[derive(Debug)]
pub(crate) struct Docker {
    _dockerd: Daemon,
    _containerd: Daemon,
    dir: PathBuf,
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/docker/usr")
}

/// One of Docker's programs.
fn program(name: &str) -> Command {
    let mut command = Command::new(programs().join(name));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs().join("bin").display()));
    command.stdin(Stdio::null());
    command
}

fn start(name: &str, arguments: &[&str], log: &Path) -> Daemon {
    let file = fs::File::create(log).expect("a log");
    let mut bound = Command::new("setpriv");
    let wanted = program(name);
    bound.args(["--pdeathsig", "KILL", "--"]).arg(wanted.get_program()).args(arguments);
    bound.envs(wanted.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound.stdin(Stdio::null()).stdout(file.try_clone().expect("dup")).stderr(file).process_group(0);
    Daemon(bound.spawn().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn wait_for(socket: &Path, log: &Path) {
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        let said = fs::read_to_string(log).unwrap_or_default();
        assert!(began.elapsed() < PATIENCE, "{} does not start: {said}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The output of a program that succeeded, or what it wrote to its standard error.
fn said(output: &Output) -> Result<String, String> {
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

impl Docker {
    /// Starts it below `dir`; `None` where it was not unpacked.
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let there = programs().join("sbin/dockerd").exists();
        let found = if there { Ok(()) } else { Err("vagrant/provision.sh did not unpack it".to_owned()) };
        support::require("docker", found).then(|| Self::start_in(dir))
    }

    fn start_in(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("config")).expect("mkdir");
        let file = |name: &str| dir.join(name).display().to_string();
        // The store of images that Docker 29 has by default. With the older one, `COPY --link` is a plain copy.
        fs::write(dir.join("daemon.json"), r#"{"features": {"containerd-snapshotter": true}}"#).expect("write");
        let cri = r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]"#;
        let settings = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {cri}\n[grpc]\naddress = {:?}\n",
            file("containerd"),
            file("containerd-state"),
            file("containerd.sock"),
        );
        fs::write(dir.join("containerd.toml"), settings).expect("write");
        let log = dir.join("containerd.log");
        let containerd = start("bin/containerd", &["-c", &file("containerd.toml")], &log);
        wait_for(&dir.join("containerd.sock"), &log);
        let socket = format!("unix://{}", file("docker.sock"));
        let (settings, address) = (file("daemon.json"), file("containerd.sock"));
        let (data, state, pid) = (file("data"), file("state"), file("docker.pid"));
        let arguments = [
            ["--config-file", &settings, "--containerd", &address, "--host", &socket],
            ["--data-root", &data, "--exec-root", &state, "--pidfile", &pid],
            // Nothing of the machine's network is touched, and no program is needed for that.
            [
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--userland-proxy=false",
                "--log-level=warn",
            ],
        ];
        let log = dir.join("docker.log");
        let dockerd = start("sbin/dockerd", &arguments.concat(), &log);
        wait_for(&dir.join("docker.sock"), &log);
        Self { _dockerd: dockerd, _containerd: containerd, dir: dir.to_owned() }
    }

    fn client(&self, name: &str) -> Command {
        let mut command = program(name);
        command.env("DOCKER_HOST", format!("unix://{}", self.dir.join("docker.sock").display()));
        command.env("DOCKER_CONFIG", self.dir.join("config"));
        command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        command
    }

    /// The version of the daemon.
    pub(crate) fn version(&self) -> String {
        let output = self.client("bin/docker").args(["version", "--format", "{{.Server.Version}}"]).output();
        said(&output.expect("run docker")).expect("a version").trim().to_owned()
    }

    /// Brings the images of an archive into it.
    pub(crate) fn load(&self, archive: &Path) {
        let output = self.client("bin/docker").args(["load", "--quiet", "--input"]).arg(archive).output();
        said(&output.expect("run docker")).unwrap_or_else(|said| panic!("{said}"));
    }

    /// Builds an image.
    pub(crate) fn build(&self, name: &str, dockerfile: &Path, context: &Path) -> Result<(), String> {
        let mut command = self.client("libexec/docker/cli-plugins/docker-buildx");
        command.args(["build", "--network=none", "--progress=plain", "--tag", name, "--file"]).arg(dockerfile);
        said(&command.arg(context).output().expect("run docker-buildx")).map(drop)
    }

    /// Writes images to an archive.
    pub(crate) fn save(&self, names: &[String], archive: &Path) {
        let output = self.client("bin/docker").args(["save", "--output"]).arg(archive).args(names).output();
        said(&output.expect("run docker")).unwrap_or_else(|said| panic!("{said}"));
    }
}

//! Pulling from registries and pushing to them: Debian's docker-registry on loopback, and one that is faulty.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::faulty::{Fault, Registry};
use super::{Bench, support, text};

/// The password `secret`, by bcrypt.
const HTPASSWD: &str = "me:$2b$05$0MT01V3vPUfO8XU9Q.uZPOs/tDHeQIy3YfDZl9M7lkNdRUhPka8sy\n";

/// A registry of Debian's package, which ends with the test.
struct Docker {
    host: String,
    dir: PathBuf,
    child: Child,
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Docker {
    /// Starts one in `dir`; `None` where the package is not installed.
    fn start(dir: &Path, tls: bool, login: bool) -> Option<Self> {
        let program = Command::new("docker-registry").arg("--help").output();
        let missing = program.map(drop).map_err(|_| "docker-registry is not installed".to_owned());
        if !support::require("docker-registry", missing) {
            return None;
        }
        fs::create_dir_all(dir).expect("mkdir");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port();
        let (host, shown) = (format!("127.0.0.1:{port}"), dir.display());
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {shown}/data}}}}\nhttp:\n  addr: {host}\n"
        );
        if tls {
            certificate(dir);
            config += &format!("  tls: {{certificate: {shown}/own.crt, key: {shown}/own.key}}\n");
        }
        if login {
            fs::write(dir.join("htpasswd"), HTPASSWD).expect("write");
            config += &format!("auth: {{htpasswd: {{realm: x, path: {shown}/htpasswd}}}}\n");
        }
        fs::write(dir.join("config.yml"), config).expect("write");
        let log = fs::File::create(dir.join("log")).expect("log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).env_remove("OTEL_TRACES_EXPORTER");
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log).spawn();
        let registry = Self { host, dir: dir.to_owned(), child: child.expect("start the registry") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&registry.host).is_err() {
            let log = || fs::read_to_string(registry.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the registry does not start: {}", log());
            thread::sleep(Duration::from_millis(50));
        }
        Some(registry)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }
}

/// A certificate for 127.0.0.1, and that of an authority which vouches for it.
fn certificate(dir: &Path) {
    fs::write(dir.join("extensions"), "subjectAltName=IP:127.0.0.1\n").expect("write");
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for words in [
        format!("req -x509 {curve} -days 2 -subj /CN=authority -keyout authority.key -out authority.crt"),
        format!("req -new {curve} -subj /CN=x -keyout own.key -out own.csr"),
        "x509 -req -in own.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out own.crt"
            .to_owned(),
    ] {
        let made = Command::new("openssl").current_dir(dir).args(words.split(' ')).output().expect("openssl");
        assert!(made.status.success(), "{words}: {}", text(&made.stderr));
    }
}

impl Bench {
    /// Builds an image of three layers, one of them of megabytes that do not compress.
    fn image(&self, name: &str) {
        let context = self.path("context");
        fs::create_dir_all(&context).expect("mkdir");
        let mut bytes = vec![0_u8; 3 << 20];
        fastrand_like(&mut bytes);
        fs::write(context.join("random"), bytes).expect("write");
        fs::write(context.join("one"), "1").expect("write");
        fs::write(context.join("zeros"), vec![0; 2 << 20]).expect("write");
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY one /\nCOPY random /\nCOPY zeros /\nCMD [\"/x\"]\n")
            .expect("write");
        let output = self.command(&["build", "-q", "-t", name]).arg(&context).output().expect("build");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// A command that finds no settings of the machine, only a home of its own.
    fn at_home(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"]
        {
            command.env_remove(name);
        }
        for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CONTAINERS_REGISTRIES_CONF"] {
            command.env_remove(name);
        }
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        command
    }

    #[track_caller]
    fn does(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.at_home(&[arguments, &["--json"]].concat()).output().expect("run strata");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The one line with which a command fails that must leave no active snapshot and no image.
    #[track_caller]
    fn does_not(&self, arguments: &[&str]) -> String {
        let output = self.at_home(arguments).output().expect("run strata");
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {line}");
        assert_eq!(line.matches('\n').count(), 1, "{arguments:?}: {line}");
        assert_eq!(self.json(&["images"]), serde_json::json!([]), "{line}");
        assert_eq!(self.names(&["kind==active"]), Vec::<String>::new(), "{line}");
        line
    }

    /// Keeps `me` and `secret` for a registry, without asking it.
    fn knows(&self, host: &str) {
        let dir = self.path("home/.docker");
        fs::create_dir_all(&dir).expect("mkdir");
        let config = serde_json::json!({"auths": {host: {"auth": "bWU6c2VjcmV0"}}});
        fs::write(dir.join("config.json"), config.to_string()).expect("write");
    }

    fn gone(&self) {
        fs::remove_dir_all(self.path("store")).expect("remove the store");
    }
}

/// Bytes that do not compress, always the same.
fn fastrand_like(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn there_and_back() {
    let (Some(here), Some(there)) = (Bench::new(), Bench::new()) else { return };
    let Some(registry) = Docker::start(&here.path("registry"), false, false) else { return };
    here.image("app:1");
    let (name, id) = (registry.name("team/app:1"), here.json(&["images"])[0]["id"].clone());
    let pushed = here.does(&["push", "app:1", &name]);
    assert_eq!((&pushed["id"], &pushed["uploaded"]), (&id, &3.into()));
    let pulled = there.does(&["pull", &name]);
    assert_eq!((&pulled["id"], &pulled["unpacked"], &pulled["name"]), (&id, &3.into(), &name.as_str().into()));
    assert_eq!(pulled["manifest"], pushed["manifest"]);
    let tree = |bench: &Bench, image: &str| bench.ok(&["tree", image, "--digest"]);
    assert_eq!(tree(&here, "app:1"), tree(&there, &name));
    // Layers that are there are not transferred, and an image that came from a registry keeps its manifest.
    assert_eq!(there.does(&["pull", &name])["unpacked"], 0);
    let again = there.does(&["push", &name, &registry.name("other/app:2")]);
    assert_eq!((&again["uploaded"], &again["manifest"]), (&0.into(), &pushed["manifest"]));
    let by_digest = format!("{}@{}", registry.name("other/app"), pushed["manifest"].as_str().expect("digest"));
    assert_eq!(there.does(&["pull", &by_digest, "--name", "by-digest"])["id"], id);
    // A mirror is asked first, under the name of the registry that it mirrors.
    let conf = there.path("registries.conf");
    let mirror = format!("[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n", registry.host);
    fs::write(&conf, format!("[[registry]]\nprefix = \"registry.invalid\"\n{mirror}")).expect("write");
    let mut mirrored = there.at_home(&["pull", "-q", "registry.invalid/team/app:1"]);
    let mirrored = mirrored.env("CONTAINERS_REGISTRIES_CONF", &conf).output().expect("pull");
    assert!(text(&mirrored.stdout).contains(id.as_str().expect("ID")), "{}", text(&mirrored.stderr));
    // Others read what was pushed, and write what is pulled.
    let layout = here.path("by-skopeo").display().to_string();
    let by_skopeo = format!("docker://{}", registry.name("by/skopeo:1"));
    for (from, to) in [(format!("docker://{name}"), format!("oci:{layout}:x")), (format!("oci:{layout}:x"), by_skopeo)]
    {
        run("skopeo", &["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    }
    there.gone();
    assert_eq!(there.does(&["pull", &registry.name("by/skopeo:1")])["id"], id);
    assert_eq!(tree(&here, "app:1"), tree(&there, &registry.name("by/skopeo:1")));
}

#[test]
fn logins_and_certificates() {
    let (Some(here), Some(there)) = (Bench::new(), Bench::new()) else { return };
    let Some(registry) = Docker::start(&here.path("registry"), true, true) else { return };
    let name = registry.name("app:1");
    let untrusted = there.does_not(&["pull", &name]);
    assert!(untrusted.contains("vouches for") && untrusted.contains(&registry.host), "{untrusted}");
    let certificate = here.path("registry/authority.crt");
    let trusting = |bench: &Bench, arguments: &[&str]| {
        let mut command = bench.at_home(arguments);
        command.env("SSL_CERT_FILE", &certificate);
        command
    };
    let says = |command: &mut Command| {
        let output = command.output().expect("run strata");
        (output.status.success(), text(&output.stderr))
    };
    let (_, unknown) = says(&mut trusting(&there, &["pull", &name]));
    assert!(unknown.contains(&format!("strata login {}", registry.host)), "{unknown}");
    let login = |password: &str| {
        let mut command = trusting(&here, &["login", &registry.host, "--username", "me"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("login");
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), password.as_bytes()).expect("write");
        let output = child.wait_with_output().expect("wait");
        (output.status.success(), text(&output.stderr))
    };
    let (done, wrong) = login("wrong\n");
    assert!(!done && wrong.contains("does not accept"), "{wrong}");
    assert!(!here.path("home/.docker/config.json").exists());
    assert_eq!(login("secret\n"), (true, String::new()));
    here.image("app:1");
    assert_eq!(says(&mut trusting(&here, &["push", "app:1", &name, "-q"])), (true, String::new()));
    there.knows(&registry.host);
    assert_eq!(says(&mut trusting(&there, &["pull", &name, "-q"])), (true, String::new()));
    assert_eq!(says(&mut here.at_home(&["logout", &registry.host])), (true, String::new()));
    let (done, again) = says(&mut here.at_home(&["logout", &registry.host]));
    assert!(!done && again.contains("no login is kept"), "{again}");
    let (_, forgotten) = says(&mut trusting(&here, &["push", "app:1", &name]));
    assert!(forgotten.contains("strata login"), "{forgotten}");
}

#[test]
fn builds_pull_what_the_store_lacks() {
    let (Some(here), Some(there)) = (Bench::new(), Bench::new()) else { return };
    let Some(registry) = Docker::start(&here.path("registry"), false, false) else { return };
    here.image("app:1");
    let name = registry.name("app:1");
    let first = here.does(&["push", "app:1", &name])["manifest"].clone();
    let context = there.path("context");
    fs::create_dir(&context).expect("mkdir");
    fs::write(context.join("Dockerfile"), format!("FROM {name}\nCOPY Dockerfile /\n")).expect("write");
    let context = context.display().to_string();
    let build = |when: &[&str]| {
        there.at_home(&[&["build", "-q", "-t", "child:1", &context], when].concat()).output().expect("build")
    };
    let never = build(&["--pull=never"]);
    assert!(!never.status.success() && text(&never.stderr).contains("there is no image"), "{}", text(&never.stderr));
    let missing = build(&[]);
    assert!(missing.status.success(), "{}", text(&missing.stderr));
    let manifest = |bench: &Bench| {
        let images = bench.json(&["images"]);
        images.as_array().expect("list").iter().find(|image| image["name"] == name.as_str()).expect("image")["manifest"]
            .clone()
    };
    assert_eq!(manifest(&there), first);
    // Layers that came from the registry stay there as they are, also below a child and in another repository.
    for repository in ["child:1", "app:child"] {
        let pushed = there.does(&["push", "child:1", &registry.name(repository)]);
        assert_eq!((&pushed["layers"], &pushed["uploaded"]), (&4.into(), &1.into()), "{repository}");
    }
    // Another image gets the tag.
    fs::write(here.path("context/Dockerfile"), "FROM scratch\nCOPY one /other\n").expect("write");
    here.ok(&["build", "-q", "-t", "app:1", &here.path("context").display().to_string()]);
    let second = here.does(&["push", "app:1", &name])["manifest"].clone();
    assert!(build(&["--pull=missing"]).status.success() && manifest(&there) == first);
    assert!(build(&["--pull=always"]).status.success() && manifest(&there) == second);
}

/// The image of every test with the faulty registry, as a layout, and its ID.
fn layout(bench: &Bench) -> (PathBuf, serde_json::Value) {
    bench.image("app:1");
    let (layout, id) = (bench.path("layout"), bench.json(&["images"])[0]["id"].clone());
    bench.ok(&["export", "-q", "app:1", &format!("oci:{}", layout.display())]);
    bench.gone();
    (layout, id)
}

#[test]
fn a_faulty_registry_is_survived() {
    let Some(bench) = Bench::new() else { return };
    let (layout, id) = layout(&bench);
    for fault in [
        Fault::None,
        Fault::Cut(700_000),
        Fault::CutWithoutRanges(1_000_000),
        Fault::Busy(429),
        Fault::Busy(503),
        Fault::Elsewhere,
        Fault::Token,
    ] {
        let registry = Registry::serve(&layout, fault);
        bench.knows(&registry.host);
        let pulled = bench.does(&["pull", &format!("{}/x:1", registry.host)]);
        assert_eq!((&pulled["id"], &pulled["unpacked"]), (&id, &3.into()), "{fault:?}");
        let requests = registry.requests();
        let elsewhere: Vec<_> = requests.iter().filter(|(host, ..)| *host != registry.host).collect();
        assert_eq!(elsewhere.is_empty(), fault != Fault::Elsewhere, "{requests:?}");
        assert!(elsewhere.iter().all(|(_, _, has_password)| !has_password), "credentials follow: {requests:?}");
        bench.gone();
    }
}

#[test]
fn a_pull_of_a_silent_registry_can_be_interrupted() {
    let Some(bench) = Bench::new() else { return };
    let (layout, _) = layout(&bench);
    let registry = Registry::serve(&layout, Fault::Silent);
    bench.knows(&registry.host);
    bench.ok(&["prepare", "k"]);
    bench.ok(&["rm", "k"]);
    let mut command = bench.at_home(&["pull", &format!("{}/x:1", registry.host)]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pull");
    while !registry.requests().iter().any(|(_, path, _)| path.contains("/blobs/") && registry.is_layer(path)) {
        thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupt");
    let output = child.wait_with_output().expect("wait");
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("interrupted"), "{said}");
    assert!(!said.contains("did not stop"), "{said}");
    assert_eq!((bench.json(&["images"]), bench.names(&["kind==active"])), (serde_json::json!([]), Vec::new()));
}

#[test]
fn a_faulty_registry_is_found_out() {
    let Some(bench) = Bench::new() else { return };
    let (layout, _) = layout(&bench);
    for (fault, words) in [
        (Fault::OtherByte, "is damaged"),
        (Fault::Longer, "the manifest says"),
        (Fault::Shorter, "the manifest says"),
        (Fault::OtherRange, "was asked for byte"),
        (Fault::AlwaysCut, "again and again"),
        (Fault::AlwaysBusy, "is busy (503)"),
        (Fault::Forbidden, "does not allow this user"),
        (Fault::Missing, "no such image or tag"),
        (Fault::Other, "which is no image's"),
    ] {
        let registry = Registry::serve(&layout, fault);
        bench.knows(&registry.host);
        // An earlier pull may have left whole layers.
        bench.ok(&["prepare", "k"]);
        bench.ok(&["rm", "k"]);
        let said = bench.does_not(&["pull", &format!("{}/x:1", registry.host)]);
        assert!(said.contains(words), "{fault:?}: {said}");
        bench.gone();
    }
    bench.ok(&["prepare", "k"]);
    bench.ok(&["rm", "k"]);
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let said = bench.does_not(&["pull", &format!("{nobody}/x:1")]);
    assert!(said.contains("cannot speak with"), "{said}");
    let said = bench.does_not(&["pull", "registry.invalid/x:1"]);
    assert!(said.contains("cannot be resolved") || said.contains("cannot speak with"), "{said}");
    bench.does_not(&["pull", "Upper/x y"]);
}

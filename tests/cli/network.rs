//! The network of containers: private by default, with outgoing connections by pasta and nothing of the machine's
//! loopback device.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use super::containers::containers;
use super::{Bench, support, text};

/// Returns the gateway of the machine's default route, which pasta needs.
fn gateway() -> Result<String, String> {
    let routes = fs::read_to_string("/proc/net/route").map_err(|error| error.to_string())?;
    let default = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let hex = default.filter(|fields| fields.get(1) == Some(&"00000000")).find_map(|fields| fields.get(2).copied());
    let number = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).ok_or("the machine has no default route")?;
    Ok(std::net::Ipv4Addr::from(number.swap_bytes()).to_string())
}

/// `None` where the machine lacks pasta or a network.
fn bench() -> Option<(Bench, String)> {
    let pasta = Command::new("pasta").arg("--version").output().map(drop).map_err(|error| error.to_string());
    if !support::require("pasta", pasta) {
        return None;
    }
    let gateway = support::gate("default-route", gateway().map_err(strata::Error::unsupported))?;
    Some((containers()?, gateway))
}

#[test]
fn a_private_network_leads_out_but_not_to_the_machines_loopback_device() {
    let Some((bench, gateway)) = bench() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    // It ends with the process; each connection is closed at once.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for runtime in ["crun", "runc"] {
        let script = format!(
            "ip route | grep -q ^default && echo routed; cat /etc/resolv.conf | head -1
             for to in 127.0.0.1 {gateway} 169.254.1.1; do
               timeout 3 nc -w 1 $to {port} < /dev/null > /dev/null 2>&1 && echo reached $to; done; true"
        );
        let output = bench.run(&["run", "--rm", "--runtime", runtime, "base", "sh", "-c", &script]);
        let told = (text(&output.stdout), text(&output.stderr));
        assert_eq!(told, ("routed\nnameserver 169.254.1.1\n".to_owned(), String::new()), "{runtime}");
        let host = ["run", "--rm", "--runtime", runtime, "--network", "host", "base", "sh", "-c"];
        let reach = format!("timeout 3 nc -w 1 127.0.0.1 {port} < /dev/null && echo reached");
        let output = bench.run(&[&host[..], &[&reach]].concat());
        assert_eq!(text(&output.stdout), "reached\n", "{runtime}: the service answers");
    }
    assert_eq!(of_this_test(&bench), 0, "pasta outlives its container");
}

#[test]
fn nothing_of_a_network_outlives_a_kill() {
    let Some((bench, _)) = bench() else { return };
    let mut child = bench.command(&["run", "--rm", "base", "sleep", "60"]).spawn().expect("spawn");
    wait(&|| of_this_test(&bench) == 1);
    child.kill().expect("kill");
    child.wait().expect("wait");
    wait(&|| of_this_test(&bench) == 0);
}

#[test]
fn a_build_gets_the_machines_network_only_if_its_caller_says_so() {
    let Some(bench) = containers() else { return };
    let dockerfile = "FROM base\nRUN --network=host true\n";
    let refused = bench.build("it", dockerfile, &["-q"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--network host"), "{}", text(&refused.stderr));
    let given = bench.build("it", dockerfile, &["-q", "--network", "host"]);
    assert!(given.status.success(), "{}", text(&given.stderr));
}

/// Returns how many pasta processes serve a container of this bench's store.
fn of_this_test(bench: &Bench) -> usize {
    let dir = bench.dir.path().to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").expect("read /proc").filter_map(Result::ok);
    let command = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let is_ours = |line: &Vec<u8>| line.starts_with(b"pasta\0") || text(line).contains("/pasta\0");
    processes.map(command).filter(is_ours).filter(|line| text(line).contains(&dir)).count()
}

fn wait(done: &dyn Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come to be");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! ADD of files that a server of this machine has.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use strata::ErrorKind;
use strata::id::Digest;

use super::{Bench, Heard, Wish};

/// Serves `files` on the loopback interface; returns its address, and how often it was asked.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            let mut lines = BufReader::new(stream.try_clone().expect("duplicate")).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let path = request.split(' ').nth(1).unwrap_or_default();
            let found = files.iter().find(|(name, _)| path == *name);
            let (status, body) = found.map_or(("404 Not Found", &b""[..]), |(_, body)| ("200 OK", body));
            let status = if path == "/moved" { "302 Found\r\nLocation: /f" } else { status };
            let date = "Last-Modified: Fri, 13 Feb 2009 23:31:30 GMT";
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{date}\r\nConnection: close\r\n\r\n", body.len());
            let mut stream = stream;
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (address, asked)
}

#[test]
fn files_of_urls() {
    let Some(bench) = Bench::overlay() else { return };
    let tar = bench.scratch.path().join("a.tar");
    let status =
        std::process::Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(bench.context()).arg("passwd").status();
    assert!(status.expect("tar").success());
    let (server, asked) = serve(vec![("/f", b"of a server".to_vec()), ("/a.tar", fs::read(&tar).expect("read"))]);
    let digest = Digest::of(b"of a server");
    let dockerfile = format!(
        "FROM base\nARG S={server}\nADD $S/f /d/\nADD $S/f /named\nADD --chmod=644 --chown=alice $S/f /q/\n\
         ADD --checksum={digest} $S/f /sum\nADD $S/a.tar /whole/\nADD --unpack $S/a.tar /parts/\nADD $S/moved /moved\n"
    );
    bench.build("it", &dockerfile);
    let tree = bench.tree("it");
    let shown = |path: &str| {
        let meta = &tree.get(path).unwrap_or_else(|| panic!("{path} is missing")).inode.meta;
        format!("{:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime.seconds)
    };
    for (path, expected) in [
        ("d/f", "600 0:0 1234567890"),
        ("named", "600 0:0 1234567890"),
        ("q/f", "644 1000:100 1234567890"),
        ("sum", "600 0:0 1234567890"),
        ("whole/a.tar", "600 0:0 1234567890"),
        ("moved", "600 0:0 1234567890"),
    ] {
        assert_eq!(shown(path), expected, "{path}");
    }
    assert!(tree.get("parts/passwd").is_some());

    // With a checksum nobody is asked again.
    let summed = format!("FROM base\nADD --checksum={digest} {server}/f /once\n");
    bench.build("it", &summed);
    let before = asked.load(Ordering::Relaxed);
    let (_, heard) = bench.build("it", &summed);
    assert!(heard.layers().iter().all(|(_, _, cached)| *cached));
    assert_eq!(asked.load(Ordering::Relaxed), before);

    let other = Digest::of(b"other");
    for (line, kind, what) in [
        (format!("ADD --checksum={other} {server}/f /x"), ErrorKind::DataLoss, "--checksum says"),
        (format!("ADD {server}/none /x"), ErrorKind::Unavailable, "404"),
        ("ADD http://127.0.0.1:1/x /x".to_owned(), ErrorKind::Unavailable, "fetching http://127.0.0.1:1/x"),
    ] {
        let dockerfile = format!("FROM base\n{line}\n");
        let error = bench.build_with("x", &dockerfile, &Wish::default(), &Heard::default()).expect_err(&line);
        assert!(error.kind() == kind && error.chain().contains(what), "{line}: {}", error.chain());
        assert!(error.chain().starts_with("Dockerfile:2:"), "{}", error.chain());
        bench.assert_clean();
    }
}

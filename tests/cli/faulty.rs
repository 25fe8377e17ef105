//! A small registry in this process that serves one image wrongly: it cuts, waits, lies and redirects.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use serde_json::Value;

/// The type of layers, which alone are served wrongly.
const LAYER: &str = "application/octet-stream";

/// A fault of the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every answer with a blob breaks after so many bytes.
    Cut(usize),
    /// The first answer with a blob breaks, and ranges are not known.
    CutWithoutRanges(usize),
    /// Every answer with a blob breaks before its first byte.
    AlwaysCut,
    /// The first requests for a blob are answered with this status, and a time to wait.
    Busy(u16),
    /// Every request for a blob is answered so.
    AlwaysBusy,
    /// One byte of each blob is another.
    OtherByte,
    /// A blob is longer than it should be.
    Longer,
    /// A blob is shorter than it should be.
    Shorter,
    /// Blobs are at another host.
    Elsewhere,
    /// The answer is for another part than was asked for.
    OtherRange,
    /// Nothing is allowed.
    Forbidden,
    /// There is no image.
    Missing,
    /// Answers are for those with a token only, which a server of tokens gives for a password. Each token is good for
    /// four requests.
    Token,
    /// Blobs stop in the middle, and the connection stays.
    Silent,
    /// It is no registry.
    Other,
}

/// Requests as they came: the host that was asked, the path, and whether a password came with it.
type Log = Arc<Mutex<Vec<(String, String, bool)>>>;

#[derive(Clone)]
struct Shared {
    files: Arc<BTreeMap<String, (String, Vec<u8>)>>,
    fault: Fault,
    log: Log,
    elsewhere: u16,
}

/// The registry. It serves until the process ends.
pub(super) struct Registry {
    /// `127.0.0.1:PORT`.
    pub(super) host: String,
    layers: Vec<String>,
    log: Log,
}

impl Registry {
    /// Serves the image of the OCI layout in `layout` as `x:1`, to those who come with a password.
    pub(super) fn serve(layout: &Path, fault: Fault) -> Self {
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).expect("index")).expect("JSON");
        let mut files = BTreeMap::new();
        let path = |digest: &Value| layout.join("blobs").join(digest.as_str().expect("digest").replace(':', "/"));
        let manifest = fs::read(path(&index["manifests"][0]["digest"])).expect("manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        for blob in fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
            let path = blob.expect("blob").path();
            let digest = format!("sha256:{}", path.file_name().expect("name").to_string_lossy());
            let bytes = fs::read(path).expect("blob");
            if index["manifests"][0]["digest"] == digest.as_str() {
                let media_type = index["manifests"][0]["mediaType"].as_str().expect("type").to_owned();
                files.insert("/v2/x/manifests/1".to_owned(), (media_type.clone(), bytes.clone()));
                files.insert(format!("/v2/x/manifests/{digest}"), (media_type, bytes));
            } else {
                let is_config = manifest["config"]["digest"] == digest.as_str();
                let media_type = if is_config { "application/json" } else { LAYER };
                files.insert(format!("/v2/x/blobs/{digest}"), (media_type.to_owned(), bytes));
            }
        }
        let layers = files.iter().filter(|(_, (media_type, _))| media_type == LAYER).map(|(path, _)| path.clone());
        let layers = layers.collect();
        let log = Log::default();
        let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let port = |listener: &TcpListener| listener.local_addr().expect("address").port();
        let elsewhere = port(&second);
        let host = format!("127.0.0.1:{}", port(&first));
        let shared = Shared { files: Arc::new(files), fault, log: Arc::clone(&log), elsewhere };
        for listener in [first, second] {
            let shared = shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (shared, stream) = (shared.clone(), stream.expect("a connection"));
                    // A client that goes away is no failure of the test.
                    thread::spawn(move || drop(shared.answer(stream)));
                }
            });
        }
        Self { host, layers, log }
    }

    /// Whether a layer is served at `path`.
    pub(super) fn is_layer(&self, path: &str) -> bool {
        self.layers.iter().any(|layer| layer == path)
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<(String, String, bool)> {
        self.log.lock().expect("lock").clone()
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut host, mut shown, mut from) = (String::new(), String::new(), None);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header == "\r\n" {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or((&header, ""));
            match name.to_ascii_lowercase().as_str() {
                "host" => host = value.trim().to_owned(),
                "authorization" => value.trim().clone_into(&mut shown),
                "range" => from = value.trim().trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().ok(),
                _ => {}
            }
        }
        let has_password = !shown.is_empty();
        let (asked, tokens, uses) = {
            let mut log = self.log.lock().expect("lock");
            log.push((host.clone(), path.clone(), has_password));
            let tokens =
                log.iter().filter(|(_, other, has_password)| other.starts_with("/token") && *has_password).count();
            let last = log.iter().rposition(|(_, other, _)| other.starts_with("/token")).unwrap_or(0);
            (log.iter().filter(|(_, other, _)| *other == path).count(), tokens, log.len() - last - 1)
        };
        let is_elsewhere = host.ends_with(&format!(":{}", self.elsewhere));
        let is_blob = self.files.get(&path).is_some_and(|(media_type, _)| media_type == LAYER);
        let answer = |status: &str, headers: &str, body: &[u8]| {
            [format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
        };
        let empty = |status: &str, headers: &str| answer(status, &format!("{headers}Content-Length: 0\r\n"), b"");
        let whole = match self.fault {
            Fault::Other => {
                return stream.write_all(&answer(
                    "200 OK",
                    "Content-Type: text/html\r\nContent-Length: 4\r\n",
                    b"<p/>",
                ));
            }
            Fault::Token if path.starts_with("/token") => {
                let is_right =
                    shown == "Basic bWU6c2VjcmV0" && path == "/token?service=own%20service&scope=repository:x:pull";
                let body = format!("{{\"access_token\":\"{tokens}\"}}");
                let headers = format!("Content-Length: {}\r\n", body.len());
                if is_right { answer("200 OK", &headers, body.as_bytes()) } else { empty("401 Unauthorized", "") }
            }
            Fault::Token if shown != format!("Bearer {tokens}") || tokens == 0 || uses > 4 => {
                let realm = format!("http://{host}/token");
                empty(
                    "401 Unauthorized",
                    &format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"own service\"\r\n"),
                )
            }
            _ if !is_elsewhere && !has_password => empty("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"),
            Fault::Forbidden => empty("403 Forbidden", ""),
            Fault::Missing => empty("404 Not Found", ""),
            Fault::AlwaysBusy if is_blob => empty("503 Service Unavailable", "Retry-After: 0\r\n"),
            Fault::Busy(status) if is_blob && asked <= 2 => empty(&format!("{status} Busy"), "Retry-After: 1\r\n"),
            Fault::Elsewhere if is_blob && !is_elsewhere => {
                empty("307 Temporary Redirect", &format!("Location: http://localhost:{}{path}\r\n", self.elsewhere))
            }
            _ => return self.file(&mut stream, &path, from, asked),
        };
        stream.write_all(&whole)
    }

    fn file(&self, stream: &mut TcpStream, path: &str, from: Option<usize>, asked: usize) -> std::io::Result<()> {
        let Some((media_type, bytes)) = self.files.get(path) else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        };
        let is_blob = media_type == LAYER;
        let mut bytes = bytes.clone();
        match self.fault {
            Fault::OtherByte if is_blob => *bytes.last_mut().expect("a byte") ^= 1,
            Fault::Longer if is_blob => bytes.push(0),
            Fault::Shorter if is_blob => drop(bytes.pop()),
            _ => {}
        }
        let has_ranges = !matches!(self.fault, Fault::CutWithoutRanges(_));
        let from = from.filter(|_| has_ranges);
        let begin = from.unwrap_or(0);
        let said = if self.fault == Fault::OtherRange { begin + 1 } else { begin };
        let status = match from {
            Some(_) => {
                format!("206 Partial Content\r\nContent-Range: bytes {said}-{}/{}", bytes.len() - 1, bytes.len())
            }
            None => "200 OK".to_owned(),
        };
        let rest = &bytes[begin..];
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            rest.len()
        );
        stream.write_all(head.as_bytes())?;
        let sent = match self.fault {
            Fault::Cut(count) if is_blob => count.min(rest.len()),
            Fault::CutWithoutRanges(count) if is_blob && asked == 1 => count.min(rest.len()),
            Fault::OtherRange if is_blob && asked == 1 => rest.len() / 2,
            Fault::AlwaysCut if is_blob => 0,
            Fault::Silent if is_blob => rest.len() / 2,
            _ => rest.len(),
        };
        stream.write_all(&rest[..sent])?;
        if self.fault == Fault::Silent && is_blob {
            loop {
                thread::park();
            }
        }
        Ok(())
    }
}

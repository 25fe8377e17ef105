//! Sources of `ADD` that are URLs.
//!
//! A file is fetched by HTTP or HTTPS into an unnamed file of the store, so that a crash leaves nothing. A file with
//! `--checksum` is fetched only if the step is not in the cache, because the cache key needs the digest only.
//!
//! # References
//! Dockerfile reference, "ADD", "ADD --checksum"; RFC 9110.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::time::Duration;

use jiff::fmt::rfc2822;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use ureq::Agent;

use super::Options;
use super::position::Position;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::id::Digest;
use crate::store::Store;
use crate::task::Cancellable;
use crate::tree::Timestamp;

/// Maximum length of a fetched file, in bytes.
const REMOTE_BYTES_MAX: u64 = 16 << 30;

/// Time limit of the connection to a server, and of its response.
const ANSWER: Duration = Duration::from_secs(60);

/// The size of the buffer for reading, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// A source of `ADD` that is a URL.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) at: Position,
    pub(super) url: String,
    /// The last component of the URL's path.
    pub(super) name: String,
    /// The digest that the file must have.
    pub(super) checksum: Option<Digest>,
}

/// A file that was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
}

impl Remote {
    /// Reads the URL of a source.
    ///
    /// # Errors
    /// `InvalidArgument` if `checksum` is not `sha256:HEX`.
    pub(super) fn new(at: &Position, url: &str, checksum: Option<&str>) -> Result<Self> {
        let wrong = |text: &str| at.wrong(format!("--checksum={text}: only sha256:HEX is a checksum"));
        let checksum = checksum.map(|text| text.parse().map_err(|_| wrong(text))).transpose()?;
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let (_, path) = path.split_once("://").unwrap_or_default();
        let name = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default());
        Ok(Self { at: at.clone(), url: url.to_owned(), name: name.to_owned(), checksum })
    }

    /// Fetches the file.
    ///
    /// # Errors
    /// `Unavailable` if the server does not answer with the file; `DataLoss` if the file has another digest than
    /// `checksum`; `ResourceExhausted` if the file is too long; `Cancelled`.
    pub(super) fn fetch(&self, store: &Store, options: &Options<'_>) -> Result<Fetched> {
        self.try_fetch(store, options).map_err(|error| error.context(format!("{}: fetching {}", self.at, self.url)))
    }

    fn try_fetch(&self, store: &Store, options: &Options<'_>) -> Result<Fetched> {
        // Without a proxy, because the library would find it in the environment, which belongs to the caller.
        let config =
            Agent::config_builder().proxy(None).timeout_connect(Some(ANSWER)).timeout_recv_response(Some(ANSWER));
        let agent = config.user_agent(concat!("strata/", env!("CARGO_PKG_VERSION"))).build().new_agent();
        let failed =
            |error: ureq::Error| Error::new(ErrorKind::Unavailable, "the server has no answer").with_source(error);
        let mut response = agent.get(&self.url).call().map_err(failed)?;
        let modified = response.headers().get("last-modified").and_then(|value| value.to_str().ok());
        let mtime = modified.and_then(time).unwrap_or(Timestamp::EPOCH);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(store.root(), flags, Mode::RUSR | Mode::WUSR).at("make a file in", store.root())?;
        let mut file = File::from(file);
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let (digest, size) = save(Cancellable::new(body, &options.ingest.cancel), &mut file)?;
        match self.checksum {
            Some(expected) if expected != digest => {
                Err(Error::data_loss(format!("its file has the digest {digest}, and --checksum says {expected}")))
            }
            _ => Ok(Fetched { name: self.name.clone(), digest, file, size, mtime }),
        }
    }
}

/// Writes the bytes of `body` into `file`, and rewinds it.
fn save(mut body: impl Read, file: &mut File) -> Result<(Digest, u64)> {
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        let count = match body.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.at("read", "the answer")?,
        };
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        size += count as u64;
        if size > REMOTE_BYTES_MAX {
            let message = format!("its file is longer than {REMOTE_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        hasher.update(bytes);
        file.write_all(bytes).at("write", "the fetched file")?;
    }
    file.rewind().at("read", "the fetched file")?;
    Ok((Digest::finish(hasher), size))
}

/// Reads a time in the format of HTTP headers.
fn time(text: &str) -> Option<Timestamp> {
    let moment = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp { seconds: moment.as_second(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::position::Lines;

    #[test]
    fn names_and_times() {
        let at = Lines::new("D", "").at(0);
        for (url, name) in [
            ("http://h/a/b.tar?x=/y", "b.tar"),
            ("https://h/b#c", "b"),
            ("http://h/", ""),
            ("http://h", ""),
            ("http://h/a/", ""),
        ] {
            assert_eq!(Remote::new(&at, url, None).expect(url).name, name, "{url}");
        }
        assert!(Remote::new(&at, "http://h/a", Some("sha256:x")).is_err());
        assert_eq!(time("Fri, 13 Feb 2009 23:31:30 GMT").map(|time| time.seconds), Some(1_234_567_890));
        assert_eq!(time("yesterday"), None);
    }
}

//! Blobs from a registry as streams. Downloads run side by side, are delivered in order, and are resumed after a broken
//! connection.
//!
//! ```text
//! socket -> queue of a layer (at most 8 MiB) -> digest, decompress, write
//! ```
//!
//! # Invariants
//! - No blob is written to disk. Memory is bounded: at most [`AHEAD`] layers have a queue with bytes in it.
//! - Downloads begin in the order in which layers are read, so the layer that is read never waits for a later one.
//! - A reader gets every byte of a blob exactly once, even if the bytes come from several answers. Digests are computed
//!   from the bytes that the reader returns.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ureq::http::{Method, Response, StatusCode, header};
use ureq::{Body, BodyReader};

use super::http::{Call, Client};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{BlobDigest, Layer};
use crate::task::Cancel;

/// Maximum number of layers that are downloaded, or wait in memory, at once.
const AHEAD: usize = 4;

/// Length of one piece of a queue.
const PIECE_BYTES: usize = 256 << 10;

/// Number of pieces that a queue holds: 8 MiB.
const QUEUE: usize = 32;

/// Time between two looks of a reader at its cancellation.
const POLL: Duration = Duration::from_millis(100);

/// Maximum number of breaks of a download in a row, without a byte in between.
const BREAKS_MAX: u32 = 5;

/// The first pause after a break.
const PAUSE: Duration = Duration::from_millis(200);

/// A blob that is read from a registry, over several connections if one breaks.
pub(super) struct Download {
    client: Arc<Client>,
    digest: BlobDigest,
    size: u64,
    at: u64,
    body: Option<BodyReader<'static>>,
    breaks: u32,
}

impl Download {
    pub(super) fn new(client: Arc<Client>, digest: BlobDigest, size: u64) -> Self {
        Self { client, digest, size, at: 0, body: None, breaks: 0 }
    }

    /// Requests the blob from the byte `at` on.
    fn open(&mut self) -> Result<BodyReader<'static>> {
        let url = self.client.url(&format!("blobs/{}", self.digest));
        let mut call = Call::new(Method::GET, url, "pull");
        if self.at > 0 {
            call = call.with(header::RANGE, format!("bytes={}-", self.at));
        }
        let answer =
            self.client.succeed(&call).map_err(|error| error.context(format!("downloading {}", self.digest)))?;
        let skip = self.check(&answer)?;
        let mut body = answer.into_body().into_reader();
        // A registry without ranges sends the blob from its start, so the known bytes are skipped.
        let skipped =
            io::copy(&mut body.by_ref().take(skip), &mut io::sink()).at("download", self.digest.to_string())?;
        if skipped < skip {
            return Err(Error::new(ErrorKind::Unavailable, "the connection broke before the place to resume at"));
        }
        Ok(body)
    }

    /// Checks the length and range in the answer. Returns how many of the answer's bytes are known already.
    fn check(&self, answer: &Response<Body>) -> Result<u64> {
        let (is_part, at) = (answer.status() == StatusCode::PARTIAL_CONTENT, self.at);
        let begins = if is_part { at } else { 0 };
        if let Some(length) = answer.body().content_length()
            && length != self.size - begins
        {
            let (host, digest, size) = (self.client.host(), self.digest, self.size);
            let found = begins.saturating_add(length);
            return Err(Error::data_loss(format!("{host} has {found} bytes of {digest}, the manifest says {size}")));
        }
        if !is_part {
            return Ok(at);
        }
        let range = answer.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        if range.is_none_or(|range| !range.trim_start().starts_with(&format!("bytes {at}-"))) {
            let host = self.client.host();
            return Err(Error::data_loss(format!("{host} was asked for byte {at} on, and answers with {range:?}")));
        }
        Ok(0)
    }

    /// Waits a little longer after each break.
    fn pause(&mut self, why: Error) -> Result<()> {
        if self.breaks == BREAKS_MAX {
            let (digest, at, size) = (self.digest, self.at, self.size);
            return Err(why.context(format!("downloading {digest}: it broke at byte {at} of {size} again and again")));
        }
        tracing::debug!(why = why.chain(), at = self.at, "resuming a download");
        self.client.pause(PAUSE * 2_u32.pow(self.breaks))?;
        self.breaks += 1;
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            self.client.check_stop()?;
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.open()?,
            };
            let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX).min(buffer.len());
            let why = match body.read(&mut buffer[..left]) {
                Ok(0) => Error::new(ErrorKind::Unavailable, "the connection ended early"),
                Ok(count) => {
                    (self.at, self.breaks, self.body) = (self.at + count as u64, 0, Some(body));
                    return Ok(count);
                }
                Err(error) => Error::new(ErrorKind::Unavailable, "the connection broke").with_source(error),
            };
            self.pause(why)?;
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.size || buffer.is_empty() {
            return Ok(0);
        }
        Ok(self.read_some(buffer)?)
    }
}

/// The downloads of the layers of an image.
pub(super) struct Downloads {
    queues: Mutex<HashMap<usize, Receiver<Result<Vec<u8>>>>>,
    window: Arc<Window>,
    cancel: Cancel,
}

/// Limits downloads to [`AHEAD`] layers, counted from the layer that is read.
#[derive(Default)]
struct Window {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// The index, among the layers to download, of the layer that is read.
    reading: usize,
    /// The index of the next layer whose download has not begun.
    next: usize,
    is_over: bool,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next layer may be downloaded. Returns `None` if no layer is left or the downloads were dropped.
    fn take(&self, count: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.next == count {
                return None;
            }
            if state.next < state.reading + AHEAD {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }
}

impl Downloads {
    /// Begins to download `layers`. The threads are never joined, so that a silent connection does not delay the end of
    /// a command.
    pub(super) fn start(client: &Arc<Client>, layers: &[&Layer], cancel: &Cancel) -> Result<Self> {
        let window = Arc::new(Window::default());
        let (mut queues, mut work) = (HashMap::new(), Vec::new());
        for layer in layers {
            let (give, take) = sync_channel(QUEUE);
            queues.insert(layer.number, take);
            work.push((layer.digest, layer.size_bytes, give));
        }
        let work = Arc::new(work);
        let downloads = Self { queues: Mutex::new(queues), window: Arc::clone(&window), cancel: cancel.clone() };
        for _ in 0..AHEAD.min(layers.len()) {
            let (client, work, window) = (Arc::clone(client), Arc::clone(&work), Arc::clone(&window));
            let lane = move || {
                while let Some(at) = window.take(work.len()) {
                    let (digest, size, queue) = &work[at];
                    deliver(Download::new(Arc::clone(&client), *digest, *size), queue);
                }
            };
            let started = thread::Builder::new().name("download".to_owned()).spawn(lane);
            started.at("start a thread for", "downloads")?;
        }
        Ok(downloads)
    }

    /// Returns the bytes of a layer. Layers have to be opened in their order.
    pub(super) fn open(&self, place: usize, layer: &Layer) -> Result<Queue> {
        self.window.change(|state| state.reading = place);
        let queue = self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(&layer.number);
        let queue = queue.ok_or_else(|| Error::data_loss("a layer can be downloaded only once"))?;
        Ok(Queue { queue, piece: Vec::new(), at: 0, left: layer.size_bytes, cancel: self.cancel.clone() })
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.window.change(|state| state.is_over = true);
    }
}

fn deliver(mut download: Download, queue: &SyncSender<Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let mut filled = 0;
        let ended = loop {
            match download.read(&mut piece[filled..]) {
                Ok(0) => break Ok(()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let is_last = download.at == download.size;
        piece.truncate(filled);
        // The send fails if the reader was dropped. Then the download ends.
        if !piece.is_empty() && queue.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = ended {
            let own = error.downcast::<Error>();
            let _ =
                queue.send(Err(own.unwrap_or_else(|error| Error::new(ErrorKind::Io, "download").with_source(error))));
            return;
        }
        if is_last {
            return;
        }
    }
}

/// The bytes of one layer, as they are downloaded.
pub(super) struct Queue {
    queue: Receiver<Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
    cancel: Cancel,
}

impl Queue {
    fn next_piece(&mut self) -> Result<()> {
        loop {
            self.cancel.check()?;
            match self.queue.recv_timeout(POLL) {
                Ok(piece) => {
                    (self.piece, self.at) = (piece?, 0);
                    self.left -= self.piece.len() as u64;
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Unavailable, "the download ended early"));
                }
            }
        }
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            if self.left == 0 || buffer.is_empty() {
                return Ok(0);
            }
            self.next_piece()?;
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

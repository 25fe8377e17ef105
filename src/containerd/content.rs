//! Blobs in containerd's content store, read and written by the synchronous core.
//!
//! A call that comes with a namespace and a lease is answered in them, so that what is read is the caller's, and what
//! is written is not collected before the caller has a use for it. Debian's containerd 1.7.24 passes neither on to a
//! differ. Then the namespace is the one that containerd's metadata put in front of the snapshot's key, and what is
//! written is held by a lease of strata's own, which expires.
//!
//! # References
//! containerd, `docs/garbage-collection.md`; containerd issue 12328.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::convert;
use super::names;
use super::proto::content::content_client::ContentClient;
use super::proto::content::{
    AbortRequest, Info, ReadContentRequest, ReadContentResponse, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use super::proto::leases::leases_client::LeasesClient;
use super::proto::leases::{AddResourceRequest, CreateRequest, Resource};
use super::proto::types::Descriptor;
use crate::error::{Error, Result};
use crate::id::{Digest, unique_key};
use crate::task::Cancel;

/// The header that says in whose name a call is made.
const NAMESPACE: &str = "containerd-namespace";

/// The header that says what keeps the results from being collected.
const LEASE: &str = "containerd-lease";

/// How long a lease of strata's own holds a blob. The lease begins when every byte is written, and a client names the
/// layer in the manifest of an image at once. Until the lease has expired, no removal of the image frees the blob.
const HELD: Duration = Duration::from_secs(600);

/// The purpose in the names of uploads and leases that strata gives.
pub(super) const PURPOSE: &str = "strata-diff";

/// How much is sent at a time: far below what a message may hold, far above what one costs.
const CHUNK_BYTES: usize = 1 << 20;

/// Messages that wait to be sent.
const AHEAD: usize = 2;

/// The longest message that is read.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The label that says what a compressed layer is when decompressed: containerd looks it up instead of reading.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The label that says when a lease ends.
const EXPIRES: &str = "containerd.io/gc.expire";

/// The label of a lease that holds what it names, and nothing else.
const FLAT: &str = "containerd.io/gc.flat";

/// containerd's content store, as one call may use it. Its methods wait: they run on threads that may block.
#[derive(Clone, Debug)]
pub(super) struct Content {
    channel: Channel,
    stub: ContentClient<Channel>,
    headers: MetadataMap,
    handle: Handle,
}

/// A connection that is made when it is needed, and again when it was lost. Call it within a runtime.
pub(super) fn connect(containerd: &Path) -> Result<Channel> {
    let shown = containerd.display();
    let endpoint = Endpoint::from_shared(format!("unix://{shown}"));
    let wrong = |error| Error::invalid(format!("{shown} cannot be an address of containerd")).with_source(error);
    Ok(endpoint.map_err(wrong)?.connect_lazy())
}

impl Content {
    /// For a call that came with `headers`. Call it within a runtime.
    pub fn new(channel: &Channel, headers: &MetadataMap) -> Self {
        let mut own = MetadataMap::new();
        for name in [NAMESPACE, LEASE] {
            if let Some(value) = headers.get(name) {
                own.insert(name, value.clone());
            }
        }
        let stub = ContentClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { channel: channel.clone(), stub, headers: own, handle: Handle::current() }
    }

    /// As the owner of the snapshot `key` sees it, where the call did not say: keys are `namespace/number/name`.
    ///
    /// # Errors
    /// `InvalidArgument` if the key does not say either.
    pub fn seen_by(mut self, key: &str) -> Result<Self> {
        if self.headers.get(NAMESPACE).is_none() {
            let namespace = names::namespace(key).and_then(|namespace| namespace.parse().ok());
            let unknown = || Error::invalid(format!("neither the call nor the key {key:?} says in which namespace"));
            self.headers.insert(NAMESPACE, namespace.ok_or_else(unknown)?);
        }
        Ok(self)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    /// Reads the blob `digest` from its beginning, until `cancel` says that nobody waits any more.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if containerd does not answer.
    pub fn read(&self, digest: &str, cancel: &Cancel) -> Result<Reader> {
        let request = self.request(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let mut stub = self.stub.clone();
        let answer = self.handle.block_on(stub.read(request)).map_err(|status| failure(&status, "read", digest))?;
        let blob = digest.to_owned();
        Ok(Reader {
            stream: answer.into_inner(),
            handle: self.handle.clone(),
            left: Vec::new(),
            at: 0,
            blob,
            cancel: cancel.clone(),
        })
    }

    /// Begins to write a blob under the name `reference`; what an earlier attempt wrote goes.
    ///
    /// # Errors
    /// `Unavailable` if containerd does not answer, or if somebody writes under that name.
    pub fn write(&self, reference: &str) -> Result<Writer> {
        let mut stub = self.stub.clone();
        let abort = self.request(AbortRequest { r#ref: reference.to_owned() });
        match self.handle.block_on(stub.abort(abort)) {
            Err(status) if status.code() != Code::NotFound => return Err(failure(&status, "begin", reference)),
            _ => {}
        }
        let (sender, messages) = mpsc::channel(AHEAD);
        let request = self.request(ReceiverStream::new(messages));
        let answers = self.handle.spawn(async move { last_answer(stub.write(request).await?.into_inner()).await });
        let (reference, handle) = (reference.to_owned(), self.handle.clone());
        Ok(Writer { sender, answers, handle, reference, chunk: Vec::with_capacity(CHUNK_BYTES), offset: 0 })
    }

    /// Ends a write: the blob is in the store, now or since before, and has `labels` and one that says what it is
    /// uncompressed.
    ///
    /// # Errors
    /// `DataLoss` if what arrived is not what was sent; what containerd reports.
    pub fn commit(
        &self,
        writer: Writer,
        media_type: &str,
        digest: Digest,
        uncompressed: Digest,
        mut labels: HashMap<String, String>,
    ) -> Result<Descriptor> {
        labels.insert(UNCOMPRESSED.to_owned(), uncompressed.to_string());
        let (digest, size) = (digest.to_string(), writer.bytes());
        // Before it is there: nothing collects it in between. One that was there gets no lease by being written again.
        self.hold(&digest)?;
        match writer.commit(&digest, labels.clone()) {
            Err(status) if status.code() == Code::AlreadyExists => self.label(&digest, size, labels)?,
            Err(status) => return Err(failure(&status, "commit", &digest)),
            Ok(()) => {}
        }
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: HashMap::new() })
    }

    /// Keeps the blob `digest`, which need not be there yet, from being collected: by the lease of the call, or by one
    /// of strata's own. containerd removes that when it has expired.
    fn hold(&self, digest: &str) -> Result<()> {
        let mut leases = LeasesClient::new(self.channel.clone());
        let failed = |status| failure(&status, "hold", digest);
        let id = match self.headers.get(LEASE).and_then(|lease| lease.to_str().ok()) {
            Some(lease) => lease.to_owned(),
            None => {
                // Flat: the blob alone is held, and nothing that its labels refer to.
                let labels = [(EXPIRES, (jiff::Timestamp::now() + HELD).to_string()), (FLAT, "true".to_owned())];
                let labels = labels.map(|(label, value)| (label.to_owned(), value)).into();
                let request = self.request(CreateRequest { id: unique_key(PURPOSE), labels });
                let created = self.handle.block_on(leases.create(request)).map_err(failed)?;
                created.into_inner().lease.unwrap_or_default().id
            }
        };
        let resource = Some(Resource { id: digest.to_owned(), r#type: "content".to_owned() });
        let request = self.request(AddResourceRequest { id, resource });
        self.handle.block_on(leases.add_resource(request)).map(drop).map_err(failed)
    }

    /// Gives a blob that was there already the labels that it would have got.
    fn label(&self, digest: &str, size: i64, labels: HashMap<String, String>) -> Result<()> {
        let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
        let request = self.request(UpdateRequest {
            info: Some(Info { digest: digest.to_owned(), size, labels }),
            update_mask: Some(prost_types::FieldMask { paths }),
        });
        let mut stub = self.stub.clone();
        let updated = self.handle.block_on(stub.update(request));
        updated.map(drop).map_err(|status| failure(&status, "label", digest))
    }
}

fn failure(status: &Status, doing: &str, what: &str) -> Error {
    convert::error(status).context(format!("cannot {doing} {what} in containerd's content store"))
}

/// The bytes of a blob.
pub(super) struct Reader {
    stream: Streaming<ReadContentResponse>,
    handle: Handle,
    left: Vec<u8>,
    at: usize,
    blob: String,
    cancel: Cancel,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check()?;
        while self.at == self.left.len() {
            match self.handle.block_on(self.stream.message()) {
                Ok(Some(message)) => (self.left, self.at) = (message.data, 0),
                Ok(None) => return Ok(0),
                Err(status) => return Err(failure(&status, "read", &self.blob).into()),
            }
        }
        let count = buffer.len().min(self.left.len() - self.at);
        buffer[..count].copy_from_slice(&self.left[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// A blob under construction. Dropped without [`Content::commit`], containerd collects what was written.
pub(super) struct Writer {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: JoinHandle<Result<WriteContentResponse, Status>>,
    handle: Handle,
    reference: String,
    chunk: Vec<u8>,
    /// How much was sent.
    offset: i64,
}

/// Every message is answered: the answers must be read, or nothing more is taken.
async fn last_answer(mut answers: Streaming<WriteContentResponse>) -> Result<WriteContentResponse, Status> {
    let mut last = WriteContentResponse::default();
    while let Some(answer) = answers.message().await? {
        last = answer;
    }
    Ok(last)
}

fn stopped(_: JoinError) -> Status {
    Status::internal("the connection to containerd ended")
}

impl Writer {
    /// How many bytes were written.
    fn bytes(&self) -> i64 {
        self.offset + i64::try_from(self.chunk.len()).unwrap_or(i64::MAX)
    }

    /// Sends what was gathered. After an error nothing may be called.
    fn send(&mut self, action: WriteAction, more: WriteContentRequest) -> Result<(), Status> {
        let data = std::mem::take(&mut self.chunk);
        let length = data.len();
        let message = WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            offset: self.offset,
            data,
            ..more
        };
        if self.sender.blocking_send(message).is_err() {
            // Why nobody takes it is known to who reads the answers.
            let answer = self.handle.block_on(&mut self.answers).map_err(stopped)?;
            return Err(answer.err().unwrap_or_else(|| Status::internal("containerd ended the write")));
        }
        self.offset += i64::try_from(length).unwrap_or(i64::MAX);
        Ok(())
    }

    fn commit(mut self, digest: &str, labels: HashMap<String, String>) -> Result<(), Status> {
        let total = self.bytes();
        let end = WriteContentRequest { total, expected: digest.to_owned(), labels, ..WriteContentRequest::default() };
        self.send(WriteAction::Commit, end)?;
        let Self { sender, answers, handle, .. } = self;
        drop(sender);
        let answer = handle.block_on(answers).map_err(stopped)??;
        if answer.action() == WriteAction::Commit {
            return Ok(());
        }
        Err(Status::data_loss("containerd did not commit the blob"))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
        let count = room.min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK_BYTES {
            let sent = self.send(WriteAction::Write, WriteContentRequest::default());
            sent.map_err(|status| failure(&status, "write", &self.reference))?;
            self.chunk.reserve(CHUNK_BYTES);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Blobs in containerd's content store, read and written by the synchronous core.
//!
//! A call that comes with a namespace and a lease is answered in them: the caller's blobs are read, and containerd does
//! not collect a written blob before the caller uses it. Debian's containerd 1.7.24 passes neither on to a differ. Then
//! the namespace is that in the snapshot's key, where containerd's metadata puts it, and a lease of strata's own holds
//! the written blobs until it expires.
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

/// The header with the namespace of a call.
const NAMESPACE: &str = "containerd-namespace";

/// The header with the lease that keeps the results from being collected.
const LEASE: &str = "containerd-lease";

/// How long a lease of strata's own holds a blob. The lease begins when every byte is written, and a client names the
/// layer in the manifest of an image at once. Until the lease has expired, no removal of the image frees the blob.
const HELD: Duration = Duration::from_secs(600);

/// The purpose in the names of uploads and leases that strata gives.
pub(super) const PURPOSE: &str = "strata-diff";

/// Number of bytes sent in one message: far below the limit of a message, and large beside its overhead.
const CHUNK_BYTES: usize = 1 << 20;

/// Messages that wait to be sent.
const AHEAD: usize = 2;

/// The longest message that is read.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The label with the DiffID of a compressed layer. containerd reads the label instead of the blob.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The label with the end of a lease.
const EXPIRES: &str = "containerd.io/gc.expire";

/// The label of a lease that holds only the blobs it names, and none that these refer to.
const FLAT: &str = "containerd.io/gc.flat";

/// containerd's content store, as one call may use it. The methods block, so they run on threads that may block.
#[derive(Clone, Debug)]
pub(super) struct ContentStore {
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

impl ContentStore {
    /// Returns the content store for a call that came with `headers`. Call it within a runtime.
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

    /// Returns the content store in the namespace of the snapshot `key`, if the call named none. Keys are
    /// `namespace/number/name`.
    ///
    /// # Errors
    /// `InvalidArgument` if the key names none either.
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

    /// Reads the blob `digest` from its beginning, until `cancel` is requested.
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

    /// Begins to write a blob under the name `reference`. Data of an earlier attempt is discarded.
    ///
    /// # Errors
    /// `Unavailable` if containerd does not answer, or if another client writes under that name.
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

    /// Ends a write. Afterwards the blob is in the content store, even if it was there before, and has `labels` and a
    /// label with its DiffID.
    ///
    /// # Errors
    /// `DataLoss` if other bytes arrived than were sent; errors of containerd.
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
        // The lease comes before the blob, so that the blob is not collected in between. A blob that was there before
        // gets no lease by being written again.
        self.hold(&digest)?;
        match writer.commit(&digest, labels.clone()) {
            Err(status) if status.code() == Code::AlreadyExists => self.label(&digest, size, labels)?,
            Err(status) => return Err(failure(&status, "commit", &digest)),
            Ok(()) => {}
        }
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: HashMap::new() })
    }

    /// Keeps the blob `digest`, which need not be there yet, from being collected: by the lease of the call, or by a
    /// lease of strata's own, which containerd removes when it has expired.
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

    /// Gives the labels to a blob that was there already.
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

/// A blob under construction. Dropped without [`ContentStore::commit`], containerd collects what was written.
pub(super) struct Writer {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: JoinHandle<Result<WriteContentResponse, Status>>,
    handle: Handle,
    reference: String,
    chunk: Vec<u8>,
    /// Number of bytes that were sent.
    offset: i64,
}

/// containerd answers every message. The answers must be read, or containerd takes no more messages.
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
    /// Returns the number of bytes that were written.
    fn bytes(&self) -> i64 {
        self.offset + i64::try_from(self.chunk.len()).unwrap_or(i64::MAX)
    }

    /// Sends the bytes that were gathered. After an error no method may be called.
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
            // The reader of the answers gets the reason why the message was not taken.
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

//! Calls as bytes: what no client that keeps to the protocol sends, and what one sends that gives up.

use std::path::Path;

use prost::bytes::{Buf as _, BufMut as _};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// The service of containerd's snapshotters.
pub(crate) const SNAPSHOTS: &str = "containerd.services.snapshots.v1.Snapshots";

/// The service of containerd's differs.
pub(crate) const DIFF: &str = "containerd.services.diff.v1.Diff";

/// A connection to a daemon, which ends with the value, and with it what is under way.
pub(crate) struct Wire {
    runtime: Runtime,
    channel: Channel,
}

/// A call under way.
pub(crate) type Pending = JoinHandle<Result<Vec<u8>, Code>>;

impl Wire {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
        let channel = runtime.block_on(endpoint.connect()).expect("connect");
        Self { runtime, channel }
    }

    /// Begins a call of `service/method` with `headers`.
    pub(crate) fn begin(&self, call: &str, message: &[u8], headers: &[(&'static str, &str)]) -> Pending {
        let path = format!("/{call}").parse().expect("a path");
        let mut request = Request::new(message.to_vec());
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().expect("a header"));
        }
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.spawn(async move {
            grpc.ready().await.map_err(|_| Code::Unavailable)?;
            let answer = grpc.unary(request, path, Raw).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.code())
        })
    }

    /// Begins a call whose request never ends.
    pub(crate) fn begin_endless(&self, call: &str) -> Pending {
        let path = format!("/{call}").parse().expect("a path");
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.spawn(async move {
            grpc.ready().await.map_err(|_| Code::Unavailable)?;
            let answer = grpc.client_streaming(Request::new(tokio_stream::pending::<Vec<u8>>()), path, Raw).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.code())
        })
    }

    /// Waits for the answer of a pending call.
    pub(crate) fn end(&self, pending: Pending) -> Result<Vec<u8>, Code> {
        self.runtime.block_on(pending).expect("the thread of a client")
    }

    pub(crate) fn call(&self, call: &str, message: &[u8]) -> Result<Vec<u8>, Code> {
        self.end(self.begin(call, message, &[]))
    }

    /// A call of the service of snapshotters.
    pub(crate) fn snapshots(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Code> {
        self.call(&format!("{SNAPSHOTS}/{method}"), message)
    }
}

/// A field of a message with a length: a string, bytes, or another message.
pub(crate) fn field(number: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(value);
    bytes
}

/// Several fields.
pub(crate) fn fields<const N: usize>(values: [(u8, &str); N]) -> Vec<u8> {
    values.into_iter().flat_map(|(number, value)| field(number, value)).collect()
}

/// A message is its bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

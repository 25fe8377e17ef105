//! The layer that every call of every service passes on its way in and out.
//!
//! The layer keeps the deadline of the caller (`grpc-timeout`), and answers its own code when the deadline passes. It
//! also logs the calls that reach no service: a body that is no message or too long, and an unknown method.
//!
//! # References
//! gRPC, `doc/PROTOCOL-HTTP2.md` ("Timeout", "Responses"), `doc/statuscodes.md`.

use std::error::Error as _;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::connections::Caller;

/// The header that says how long the caller waits.
const DEADLINE: &str = "grpc-timeout";

/// The most digits of a deadline, by gRPC.
const DIGITS_MAX: usize = 8;

/// How much earlier than asked for the answer is: tonic watches the same header, and would say `Cancelled`.
const MARGIN: Duration = Duration::from_millis(1);

/// The longest message that is read: what containerd's own servers take.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The most bytes of a request: one message, and the five bytes that say how long it is.
const REQUEST_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 5;

/// How long a request may take to arrive. It comes from the same machine.
const RECEIVE: Duration = Duration::from_secs(10);

/// Bytes of all requests that are being read or answered: four of the longest, and all that anybody sends in earnest.
const ROOM_BYTES: usize = 4 * REQUEST_BYTES_MAX;

static ROOM: Semaphore = Semaphore::const_new(ROOM_BYTES);

/// Passes `request` on. What is under way when its deadline comes is dropped; see [`super::pool`] for what becomes of
/// it.
pub(super) async fn pass(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let answer = match deadline(request.headers()) {
        None => receive(request, next).await,
        Some(limit) => match tokio::time::timeout(limit.saturating_sub(MARGIN), receive(request, next)).await {
            Ok(answer) => answer,
            // The service's own future is dropped here, which tells the call that nobody waits for it.
            Err(_) => return Status::deadline_exceeded(format!("not done within {limit:?}")).into_http(),
        },
    };
    if let Some(status) = Status::from_header_map(answer.headers())
        && status.code() != Code::Ok
        && !is_told(&answer)
    {
        tracing::info!(call = path, code = ?status.code(), why = status.message(), "refused");
    }
    answer
}

/// Passes `request` on when it is there as a whole: half of one keeps no thread, and its connection no place.
async fn receive(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (bytes, _room) = match tokio::time::timeout(RECEIVE, collect(body)).await {
        Ok(Ok(received)) => received,
        Ok(Err(status)) => return status.into_http(),
        Err(_) => return Status::deadline_exceeded(format!("the request did not end within {RECEIVE:?}")).into_http(),
    };
    let _call = parts.extensions.get::<Caller>().map(Caller::begin);
    next.run(Request::from_parts(parts, bytes.into())).await
}

/// The bytes of a request, and the room that they take.
async fn collect(body: Body) -> Result<(Vec<u8>, Option<SemaphorePermit<'static>>), Status> {
    let (mut bytes, mut room): (Vec<u8>, Option<SemaphorePermit<'static>>) = (Vec::new(), None);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Status::cancelled("the request ended before its end"))?;
        if bytes.len() + chunk.len() > REQUEST_BYTES_MAX {
            return Err(Status::out_of_range(format!("a request of more than {REQUEST_BYTES_MAX} bytes")));
        }
        let wanted = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let more = ROOM.try_acquire_many(wanted).map_err(|_| {
            Status::resource_exhausted(format!("requests of {ROOM_BYTES} bytes are being read: try again"))
        })?;
        match &mut room {
            Some(room) => room.merge(more),
            none => *none = Some(more),
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, room))
}

/// Whether the failure is in the log: then the error that was logged is the source of the status.
fn is_told(answer: &Response) -> bool {
    answer.extensions().get::<Status>().is_some_and(|status| status.source().is_some())
}

/// How long the caller waits. What is no deadline is none: so do others.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(DEADLINE)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > DIGITS_MAX {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderValue;
    use axum::routing::post;
    use tonic::codegen::Service as _;

    use super::*;

    fn headers(text: &str) -> HeaderMap {
        [(DEADLINE.parse().expect("a name"), HeaderValue::from_str(text).expect("a value"))].into_iter().collect()
    }

    #[test]
    fn deadlines() {
        for (text, nanos) in [
            ("2H", 7_200_000_000_000),
            ("3M", 180_000_000_000),
            ("4S", 4_000_000_000),
            ("5m", 5_000_000),
            ("6u", 6000),
            ("7n", 7),
        ] {
            assert_eq!(deadline(&headers(text)).map(|limit| limit.as_nanos()), Some(nanos), "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "5 S"] {
            assert_eq!(deadline(&headers(text)), None, "{text:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    /// The code of a call of what never answers, and of what answers at once.
    fn code(path: &str, limit: &str) -> Option<Code> {
        let router = Router::new().route("/never", post(std::future::pending::<()>)).route("/now", post(async || {}));
        let mut router = router.layer(axum::middleware::from_fn(pass));
        let mut request = Request::post(path).body(Body::empty()).expect("a request");
        *request.headers_mut() = headers(limit);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let answer = runtime.block_on(router.as_service::<Body>().call(request)).expect("an answer");
        answer.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
    }

    #[test]
    fn long_and_broken_requests_are_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let code = |body: Body| {
            let mut router = Router::new().route("/now", post(async || {})).layer(axum::middleware::from_fn(pass));
            let request = Request::post("/now").body(body).expect("a request");
            let answer = async move { router.as_service::<Body>().call(request).await };
            let answer = runtime.as_ref().expect("a runtime").block_on(answer).expect("an answer");
            answer.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
        };
        let chunks = |count: usize, length: usize| {
            tokio_stream::iter(0..count).map(move |_| Ok::<_, std::io::Error>(vec![0_u8; length]))
        };
        assert_eq!(code(Body::from_stream(chunks(17, 1 << 20))), Some(Code::OutOfRange));
        assert_eq!(code(Body::from_stream(chunks(16, 1 << 20))), None);
        let broken = tokio_stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("gone"))]);
        assert_eq!(code(Body::from_stream(broken)), Some(Code::Cancelled));
        assert_eq!(ROOM.available_permits(), ROOM_BYTES, "the room is free again");
    }

    #[test]
    fn a_deadline_is_kept_and_has_its_own_code() {
        for limit in ["5m", "100u", "0n"] {
            assert_eq!(code("/never", limit), Some(Code::DeadlineExceeded), "{limit}");
        }
        assert_eq!(code("/now", "1H"), None);
    }
}

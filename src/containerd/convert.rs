//! Between the values of the core and those of the protocols.

use std::collections::HashMap;

use tonic::{Code, Status};

use super::proto::{snapshots, types};
use crate::backend::Usage;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::Mount;
use crate::snapshotter::{Info, Kind, Labels};
use crate::store::{LABELS_BYTES_MAX, check_labels};
use crate::tree::Timestamp;

/// The kinds of errors and the codes that they travel as. The first of several with one code is what comes back.
const CODES: [(ErrorKind, Code); 11] = [
    (ErrorKind::NotFound, Code::NotFound),
    (ErrorKind::AlreadyExists, Code::AlreadyExists),
    (ErrorKind::InvalidArgument, Code::InvalidArgument),
    (ErrorKind::FailedPrecondition, Code::FailedPrecondition),
    (ErrorKind::PermissionDenied, Code::PermissionDenied),
    (ErrorKind::ResourceExhausted, Code::ResourceExhausted),
    (ErrorKind::DataLoss, Code::DataLoss),
    (ErrorKind::Unsupported, Code::Unimplemented),
    (ErrorKind::Unavailable, Code::Unavailable),
    (ErrorKind::Cancelled, Code::Cancelled),
    (ErrorKind::Io, Code::Internal),
];

/// The code that `kind` travels as.
pub(super) fn code(kind: ErrorKind) -> Code {
    CODES.iter().find(|(known, _)| *known == kind).map_or(Code::Unknown, |(_, code)| *code)
}

/// The status for an error: its code, and the whole chain of causes on one line.
pub(super) fn status(error: &Error) -> Status {
    Status::new(code(error.kind()), error.chain())
}

/// The error for a status of a server. A code that strata does not send is `Io`.
pub(super) fn error(status: &Status) -> Error {
    let kind = CODES.iter().find(|(_, code)| *code == status.code()).map_or(ErrorKind::Io, |(kind, _)| *kind);
    let said = match status.message() {
        "" => status.code().description(),
        said => said,
    };
    Error::new(kind, said)
}

/// The labels of a request.
///
/// # Errors
/// `InvalidArgument` for labels that are longer than [`check_labels`] allows.
pub(super) fn labels(given: HashMap<String, String>) -> Result<Labels> {
    let labels = given.into_iter().collect();
    check_labels(&labels).map(|()| labels)
}

/// The labels of a snapshot, as they go to containerd: at most [`LABELS_BYTES_MAX`] of them, so that a message has room
/// for a snapshot of a store of an earlier release, which may have more. `containerd.io/` labels come first, because
/// garbage collection needs them.
fn labels_to_send(labels: &Labels) -> HashMap<String, String> {
    let (first, others): (Vec<_>, Vec<_>) = labels.iter().partition(|(name, _)| name.starts_with("containerd.io/"));
    let mut room = LABELS_BYTES_MAX;
    let fits = |(name, value): &(&String, &String)| {
        let left = room.checked_sub(name.len() + value.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    first.into_iter().chain(others).filter(fits).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Mounts, as they go to containerd.
pub(super) fn mounts(mounts: &[Mount]) -> Vec<types::Mount> {
    let mount = |mount: &Mount| types::Mount {
        r#type: mount.fstype().to_owned(),
        source: mount.source(),
        target: String::new(),
        options: mount.options(),
    };
    mounts.iter().map(mount).collect()
}

/// Mounts, as they come from a server.
///
/// # Errors
/// `Unsupported` for one that does not go to the place where the snapshot goes.
pub(super) fn mounts_of(mounts: Vec<types::Mount>) -> Result<Vec<Mount>> {
    let mount = |types::Mount { r#type, source, target, options }: types::Mount| {
        if target.is_empty() {
            return Ok(Mount::Other { fstype: r#type, source, options });
        }
        Err(Error::unsupported(format!("a mount of {source} below the snapshot, at {target}")))
    };
    mounts.into_iter().map(mount).collect()
}

/// The information about a snapshot as containerd's message.
pub(super) fn info(info: &Info) -> snapshots::Info {
    let kind = match info.kind {
        Kind::View => snapshots::Kind::View,
        Kind::Active => snapshots::Kind::Active,
        Kind::Committed => snapshots::Kind::Committed,
    };
    snapshots::Info {
        name: info.name.clone(),
        parent: info.parent.clone(),
        kind: kind.into(),
        created_at: Some(timestamp(info.created)),
        updated_at: Some(timestamp(info.updated)),
        labels: labels_to_send(&info.labels),
    }
}

/// The information about a snapshot from containerd's message. A missing kind means committed, as containerd reads it.
pub(super) fn info_of(info: snapshots::Info) -> Info {
    let kind = match info.kind() {
        snapshots::Kind::View => Kind::View,
        snapshots::Kind::Active => Kind::Active,
        snapshots::Kind::Committed | snapshots::Kind::Unknown => Kind::Committed,
    };
    Info {
        kind,
        name: info.name,
        parent: info.parent,
        labels: info.labels.into_iter().collect(),
        created: timestamp_of(info.created_at.unwrap_or_default()),
        updated: timestamp_of(info.updated_at.unwrap_or_default()),
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos.try_into().unwrap_or_default() }
}

/// A time, as it comes.
pub(super) fn timestamp_of(time: prost_types::Timestamp) -> Timestamp {
    Timestamp { seconds: time.seconds, nanos: time.nanos.try_into().unwrap_or_default() }
}

/// Usage, as it goes to containerd.
pub(super) fn usage(usage: Usage) -> snapshots::UsageResponse {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    snapshots::UsageResponse { size: signed(usage.size_bytes), inodes: signed(usage.inodes) }
}

/// Usage, as it comes.
pub(super) fn usage_of(usage: snapshots::UsageResponse) -> Usage {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    Usage { size_bytes: unsigned(usage.size), inodes: unsigned(usage.inodes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LABEL_BYTES_MAX;

    /// The numbers are gRPC's, and what containerd's errdefs understands.
    #[test]
    fn errors_keep_their_kind_and_their_text() {
        for (kind, wire) in CODES {
            let sent = status(&Error::new(kind, "committing \"a\"").context("outer"));
            assert_eq!((sent.code(), sent.message()), (wire, "outer: committing \"a\""));
            assert_eq!(error(&sent).kind(), kind);
        }
        let numbers = [ErrorKind::NotFound, ErrorKind::AlreadyExists, ErrorKind::FailedPrecondition];
        assert_eq!(numbers.map(|kind| code(kind) as i32), [5, 6, 9]);
        assert_eq!(error(&Status::new(Code::Unknown, "x")).kind(), ErrorKind::Io);
        assert!(!error(&Status::new(Code::Internal, "")).to_string().is_empty());
    }

    #[test]
    fn what_is_known_survives_the_way_there_and_back() {
        for kind in [Kind::View, Kind::Active, Kind::Committed] {
            let known = Info {
                kind,
                name: "default/3/extract-440725399-7oAi sha256:a".into(),
                parent: "p".into(),
                labels: [("containerd.io/snapshot.ref".to_owned(), "x".to_owned())].into(),
                created: Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 },
                updated: Timestamp { seconds: -1, nanos: 999_999_999 },
            };
            assert_eq!(info_of(info(&known)), known);
        }
        assert_eq!(info_of(snapshots::Info::default()).kind, Kind::Committed, "a kind of 0");
    }

    #[test]
    fn a_label_has_an_end() {
        let label = |bytes: usize| labels([("name".to_owned(), "v".repeat(bytes - 4))].into());
        assert!(label(LABEL_BYTES_MAX).is_ok());
        let error = label(LABEL_BYTES_MAX + 1).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    /// A store of an earlier release may hold them.
    #[test]
    fn labels_without_end_leave_room_in_a_message() {
        let mut labels: Labels = (0..5000).map(|number| (format!("a{number}"), "v".repeat(4000))).collect();
        labels.insert("containerd.io/gc.root".into(), "now".into());
        let sent = labels_to_send(&labels);
        let bytes: usize = sent.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!((LABELS_BYTES_MAX - LABEL_BYTES_MAX..=LABELS_BYTES_MAX).contains(&bytes), "{bytes}");
        assert!(sent.contains_key("containerd.io/gc.root"));
    }

    /// containerd mounts by one page of options; BuildKit and runc do so without its ways to shorten them.
    #[test]
    fn as_many_layers_as_docker_has_fit_into_a_page() {
        let dir = |id: u32, name: &str| format!("/var/lib/strata/s/{id}/{name}").into();
        let lower = (90_000..90_128).map(|id| dir(id, "fs")).collect();
        let upper = Some(crate::mount::Upper { dir: dir(99_999, "fs"), work: dir(99_999, "work") });
        let mount = &mounts(&[Mount::Overlay { lower, upper, userxattr: true }])[0];
        let known = ["workdir=", "upperdir=", "lowerdir=", "index=off", "userxattr", "redirect_dir="];
        assert!(mount.options.iter().all(|option| known.iter().any(|known| option.starts_with(known))), "{mount:?}");
        assert!(mount.options.join(",").len() < 4096, "{} bytes", mount.options.join(",").len());
    }

    #[test]
    fn a_mount_elsewhere_is_refused() {
        let mount = types::Mount { target: "etc".into(), ..types::Mount::default() };
        assert_eq!(mounts_of(vec![mount]).expect_err("a target").kind(), ErrorKind::Unsupported);
    }
}

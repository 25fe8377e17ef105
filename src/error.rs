//! The error type of the library.
//!
//! An [`Error`] has an [`ErrorKind`] to match on, one sentence that says what failed and on which object, and a cause
//! if there is one. The kinds are gRPC's status classes under their usual names, so that a daemon can map them one to
//! one (containerd's snapshot service returns the same classes).
//!
//! Invariants: `Display` is one line and never repeats the cause. The command line prints the chain of causes, once.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Result type of all functions of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Class of an [`Error`], on which a caller may base a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// The name is in use.
    AlreadyExists,
    /// The request can never succeed in this form.
    InvalidArgument,
    /// The request is valid, but the state does not permit it: busy, has children, wrong kind of snapshot.
    FailedPrecondition,
    /// The caller lacks a privilege.
    PermissionDenied,
    /// Disk, inodes, quota, descriptors or a limit of strata are used up.
    ResourceExhausted,
    /// Stored or given data is damaged: a wrong digest, a truncated archive, a broken database.
    DataLoss,
    /// This kernel, file system or strategy does not support the request.
    Unsupported,
    /// Another process or call holds the object at the moment; a retry may succeed.
    Unavailable,
    /// The caller cancelled the request.
    Cancelled,
    /// Any other error of the operating system.
    Io,
}

impl ErrorKind {
    /// Returns the stable name of the kind, as printed by `--json` and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::InvalidArgument => "invalid_argument",
            Self::FailedPrecondition => "failed_precondition",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::DataLoss => "data_loss",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Io => "io",
        }
    }

    fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::AlreadyExists,
            Errno::PERM | Errno::ACCESS => Self::PermissionDenied,
            Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::MLINK => {
                Self::ResourceExhausted
            }
            Errno::OPNOTSUPP | Errno::NOSYS => Self::Unsupported,
            Errno::BUSY => Self::FailedPrecondition,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure: its kind, a message, and its cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind`; `message` says what failed, on which object, and the cure if there is one.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds a message about the caller's operation: the kind stays, and this error becomes the cause.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self(Box::new(Inner { kind: self.0.kind, message: doing.to_string(), source: Some(Box::new(self)) }))
    }

    /// Returns the class.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the system call error at the end of the chain, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(errno) = error.downcast_ref::<Errno>() {
                return Some(*errno);
            }
            if let Some(errno) = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error) {
                return Some(errno);
            }
            next = error.source();
        }
        None
    }

    /// Returns the whole chain on one line, outermost error first, for messages to people.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// Creates an [`ErrorKind::NotFound`] error.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Creates an [`ErrorKind::AlreadyExists`] error.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    /// Creates an [`ErrorKind::InvalidArgument`] error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Creates an [`ErrorKind::FailedPrecondition`] error.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    /// Creates an [`ErrorKind::DataLoss`] error.
    pub fn data_loss(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DataLoss, message)
    }

    /// Creates an [`ErrorKind::Unsupported`] error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Lets library code run inside an implementation of [`io::Read`] or [`io::Write`]; [`Context`] extracts the error
/// again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Adds the operation and its object to the error of a system call.
pub trait Context<T> {
    /// Returns an error with the message `operation path`; its kind follows from the errno.
    ///
    /// # Errors
    /// The error of `self`, with operation and path.
    fn at(self, operation: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn at(self, operation: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|errno| Error::new(ErrorKind::of_errno(errno), place(operation, path.as_ref())).with_source(errno))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, operation: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => own.context(place(operation, path.as_ref())),
            Err(error) => {
                let kind = Errno::from_io_error(&error).map_or_else(|| kind_of_io(&error), ErrorKind::of_errno);
                Error::new(kind, place(operation, path.as_ref())).with_source(error)
            }
        })
    }
}

fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::DataLoss,
        io::ErrorKind::Interrupted => ErrorKind::Cancelled,
        _ => ErrorKind::Io,
    }
}

fn place(operation: &str, path: &Path) -> String {
    format!("{operation} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_and_kind_survive_context() {
        let error = Err::<(), _>(Errno::NOSPC).at("write", "/x").unwrap_err().context("committing \"a\"");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        assert_eq!(error.to_string(), "committing \"a\"");
        assert!(error.chain().starts_with("committing \"a\": write /x: "), "{}", error.chain());
    }

    #[test]
    fn own_error_survives_a_reader() {
        let inner: io::Error = Error::data_loss("wrong digest").into();
        let error = Err::<(), _>(inner).at("read", "layer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert_eq!(error.chain(), "read layer: wrong digest");
    }
}

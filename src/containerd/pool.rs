//! Synchronous work on threads that may block, at most so many at a time, with a line in the log for each call.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tonic::Status;

use super::convert;
use super::metrics::Metrics;
use crate::error::{Error, ErrorKind, Result};

/// The threads that calls run on.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Pool {
    /// At most `threads` at a time; calls are counted in `metrics`.
    pub fn new(threads: usize, metrics: &Arc<Metrics>) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads)), metrics: Arc::clone(metrics) }
    }

    /// Runs `work` when there is a thread for it. If the caller is gone before that, it is not run.
    pub async fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        self.metrics.begin(call.name);
        let call = Unanswered { call: Some(call), metrics: &self.metrics };
        let stopping = |_| Status::unavailable("strata is stopping");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(stopping)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        let done = done.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "the thread of this call stopped")));
        call.answer(&done);
        done.map_err(told)
    }
}

/// The status for an error that is in the log already. The error is the source of the status, which stays in this
/// process.
fn told(error: Error) -> Status {
    let mut status = convert::status(&error);
    status.set_source(Arc::new(error));
    status
}

/// The line of the log about a call.
#[derive(Debug)]
pub(super) struct Call {
    name: &'static str,
    key: String,
    began: Instant,
}

impl Call {
    /// The method `name`, about `key`.
    pub fn new(name: &'static str, key: &str) -> Self {
        Self { name, key: key.to_owned(), began: Instant::now() }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A call whose caller waits.
struct Unanswered<'a> {
    call: Option<Call>,
    metrics: &'a Metrics,
}

impl Unanswered<'_> {
    fn answer<T>(mut self, done: &Result<T>) {
        let Some(call) = self.call.take() else { return };
        let code = done.as_ref().map_or_else(|error| error.kind().as_str(), |_| "ok");
        self.metrics.end(call.name, code, call.began.elapsed());
        let (name, key, micros) = (call.name, &call.key, call.micros());
        match done {
            Ok(_) => tracing::info!(call = name, key, micros, "done"),
            Err(error) => {
                let (kind, why) = (error.kind().as_str(), error.chain());
                if is_for_the_operator(error.kind()) {
                    tracing::error!(call = name, key, micros, kind, why, "failed");
                } else {
                    tracing::info!(call = name, key, micros, kind, why, "refused");
                }
            }
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            self.metrics.end(call.name, ErrorKind::Cancelled.as_str(), call.began.elapsed());
            tracing::info!(call = call.name, key = call.key, micros = call.micros(), "the caller did not wait");
        }
    }
}

/// Whether something is wrong with the machine rather than with the call: containerd asks for what may be missing, for
/// what may be there, and for layers of other snapshotters, which the differ leaves to others.
fn is_for_the_operator(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, Cancelled, FailedPrecondition, InvalidArgument, NotFound, Unsupported};
    !matches!(kind, AlreadyExists | Cancelled | FailedPrecondition | InvalidArgument | NotFound | Unsupported)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    /// Lets other tasks run until `done`.
    async fn until(done: impl Fn() -> bool) {
        while !done() {
            tokio::task::yield_now().await;
        }
    }

    /// A call that was begun is finished. A call that waits for a thread is dropped with its caller.
    #[test]
    fn who_goes_away_takes_along_what_was_not_begun() {
        let (begun, done, never) = <(Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (go, wait) = mpsc::channel::<()>();
        let pool = Pool::new(1, &Arc::new(Metrics::new()));
        runtime().block_on(async {
            let first = tokio::spawn({
                let (pool, begun, done) = (pool.clone(), Arc::clone(&begun), Arc::clone(&done));
                async move {
                    let work = move || {
                        begun.store(true, Ordering::SeqCst);
                        let _ = wait.recv();
                        done.store(true, Ordering::SeqCst);
                        Ok(())
                    };
                    pool.run(Call::new("Prepare", "first"), work).await
                }
            });
            until(|| begun.load(Ordering::SeqCst)).await;
            let second = tokio::spawn({
                let (pool, never) = (pool.clone(), Arc::clone(&never));
                let work = move || {
                    never.store(true, Ordering::SeqCst);
                    Ok(())
                };
                async move { pool.run(Call::new("Prepare", "second"), work).await }
            });
            tokio::task::yield_now().await;
            for call in [first, second] {
                call.abort();
                assert!(call.await.expect_err("it was dropped").is_cancelled());
            }
            assert!(!done.load(Ordering::SeqCst));
            go.send(()).expect("the first call waits");
            until(|| done.load(Ordering::SeqCst)).await;
            pool.run(Call::new("Stat", "third"), || Ok(())).await.expect("there is a thread again");
        });
        assert!(!never.load(Ordering::SeqCst), "nobody waits for it");
    }

    /// The log has it already: see [`super::super::middleware`].
    #[test]
    fn a_failure_carries_its_error() {
        use std::error::Error as _;
        let pool = Pool::new(1, &Arc::new(Metrics::new()));
        let failing = pool.run(Call::new("Stat", "a"), || Err::<(), _>(Error::not_found("no a")));
        let status = runtime().block_on(failing).expect_err("it fails");
        assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "no a"));
        assert!(status.source().is_some());
    }
}

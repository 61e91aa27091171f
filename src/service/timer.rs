//! A thread that repeats some work, survives its failures, and ends when it is stopped or dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::Result;

pub(crate) struct Timer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    last_error: Option<String>,
}

impl Timer {
    /// Starts the thread; `work` is done for the first time after one interval.
    pub(crate) fn start(interval: Duration, work: impl Fn() -> Result<()> + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        let thread = thread::Builder::new().name("state-checkpoint".into()).spawn(move || {
            while for_thread.wait(interval) {
                let error = match catch_unwind(AssertUnwindSafe(&work)) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("the checkpoint panicked".to_owned()),
                };
                if let Some(error) = &error {
                    tracing::error!(%error, "the periodic checkpoint failed; it will be tried again");
                }
                for_thread.state().last_error = error;
            }
        });
        let thread = thread.map_err(|error| {
            tracing::error!(%error, "no thread for the periodic checkpoint");
            shared.state().last_error = Some(format!("no thread for the periodic checkpoint: {error}"));
        });
        Self { shared, thread: thread.ok() }
    }

    /// Stops the thread without waiting for the work in progress.
    pub(crate) fn stop_soon(mut self) {
        // A thread that nobody holds is not waited for.
        self.thread = None;
    }

    /// Why `work` failed the last time; `None` where it succeeded.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.shared.state().last_error.clone()
    }
}

impl Drop for Timer {
    /// Stops the thread, after the work in progress.
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it was already reported.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the interval; `false` where the timer was stopped.
    fn wait(&self, interval: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), interval, |state| !state.stopped);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }
}

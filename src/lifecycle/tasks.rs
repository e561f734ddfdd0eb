//! Named, supervised tasks: one that ends by a panic brings the program down instead of vanishing.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Spawns tasks and remembers the first that died.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    died: watch::Sender<Option<&'static str>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            tracker: TaskTracker::new(),
            died: watch::Sender::new(None),
        }
    }
}

impl Tasks {
    /// Runs a future to its end in the background. A panic in it is reported by [`Tasks::died`].
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the supervised spawn that others call"
    )]
    pub fn spawn<F>(
        &self,
        name: &'static str,
        future: F,
    ) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let died = self.died.clone();
        tokio::spawn(self.tracker.track_future(async move {
            let ended = AssertUnwindSafe(future).catch_unwind().await;
            if ended.is_err() {
                tracing::error!(task = name, "task_panicked");
                died.send_if_modified(|first| first.is_none() && first.replace(name).is_none());
            }
            ended.ok()
        }))
    }

    /// Resolves with a task's name when one has panicked.
    pub async fn died(&self) -> &'static str {
        let mut died = self.died.subscribe();
        loop {
            if let Some(name) = *died.borrow_and_update() {
                return name;
            }
            if died.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when every task has ended. No task may be spawned afterwards.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

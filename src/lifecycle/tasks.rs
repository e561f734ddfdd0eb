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
        self.spawn_with(name, future, move || {
            died.send_if_modified(|first| first.is_none() && first.replace(name).is_none());
        })
    }

    /// The same for work on behalf of one peer: a panic in it ends that work and nothing else.
    pub fn spawn_isolated<F>(
        &self,
        name: &'static str,
        future: F,
    ) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_with(name, future, || {})
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the supervised spawn that others call"
    )]
    fn spawn_with<F>(
        &self,
        name: &'static str,
        future: F,
        on_panic: impl FnOnce() + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(async move {
            let ended = AssertUnwindSafe(future).catch_unwind().await;
            if ended.is_err() {
                tracing::error!(task = name, "task_panicked");
                on_panic();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_part_is_reported_and_one_for_a_peer_is_not() {
        let tasks = Tasks::default();
        let peer = tasks.spawn_isolated("connection", async { panic!("a peer's fault") });
        assert_eq!(peer.await.unwrap(), None::<()>);
        assert!(tasks.died.borrow().is_none());
        let part = tasks.spawn("publisher", async { panic!("a part's fault") });
        assert_eq!(part.await.unwrap(), None::<()>);
        assert_eq!(tasks.died().await, "publisher");
        tasks.join().await;
    }
}

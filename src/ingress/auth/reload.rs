//! Follows a file that people change under a running gateway: looked at once a second, taken in when it is another one and good.
//!
//! It is looked at rather than watched, since a mounted secret changes by a renamed link somewhere above it.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What a file looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look(Vec<Option<[i128; 5]>>);

impl Look {
    /// Of all of them; `None` for one that cannot be looked at.
    fn at(paths: &[PathBuf]) -> Self {
        let look = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some([
                found.ino().into(),
                found.dev().into(),
                found.size().into(),
                i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
                i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec()),
            ])
        };
        Self(paths.iter().map(look).collect())
    }
}

/// Files, and what they looked like.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    known: Look,
}

impl Watched {
    /// Files as they are now: made before they are read, so that no change is missed.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let known = Look::at(&paths);
        Self { paths, known }
    }

    /// Calls `take` beside the runtime each time that one of them has changed, until `stop`.
    ///
    /// # Panics
    ///
    /// When `take` does: nobody would hear of a change any more.
    pub(crate) async fn follow(
        self,
        mut take: impl FnMut() + Send + 'static,
        stop: CancellationToken,
    ) {
        let Self {
            mut paths,
            mut known,
        } = self;
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        loop {
            // Cancel safe: a token stays cancelled, and an interval keeps its next tick.
            tokio::select! {
                () = stop.cancelled() => return,
                _tick = ticks.tick() => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                let look = Look::at(&paths);
                if look != known {
                    take();
                }
                (paths, take, look)
            });
            (paths, take, known) = looked.await.expect("what is taken in does not panic");
        }
    }
}

//! What one commit covers: the first command that comes, and everything that waits behind it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Reply;
use crate::telemetry::trace::{Contexts, count};
use crate::telemetry::{Span, Tracing, names};
use crate::wal::{Append, Checkpoint, Command, Seal};

/// A group takes further appends until it holds so many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// A commit takes so many commands at most.
const COMMIT_COMMANDS_MAX: usize = 4_096;

/// Everything that one commit covers.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) appends: Vec<(Append, Reply)>,
    pub(super) append_bytes: usize,
    pub(super) seals: Vec<(Vec<Seal>, oneshot::Sender<()>)>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) close: bool,
    /// Nothing came: look after what only time changes.
    pub(super) idle: bool,
}

impl Work {
    fn take(&mut self, command: Command) {
        match command {
            Command::Append(append, reply) => {
                self.append_bytes += append.bytes();
                self.appends.push((append, reply));
            }
            Command::Seal(seals, reply) => self.seals.push((seals, reply)),
            Command::Checkpoint(checkpoint) => self.checkpoint = Some(checkpoint),
            Command::Close => self.close = true,
        }
    }

    /// Of work that makes events durable.
    pub(super) fn span(&self, tracing: &Tracing) -> Span {
        if self.appends.is_empty() || !tracing.is_on() {
            return Span::none();
        }
        let mut contexts = Contexts::default();
        let (mut events, mut oldest) = (0, None::<Instant>);
        for (append, _) in &self.appends {
            events += append.len();
            oldest = [oldest, append.queued_at].into_iter().flatten().min();
            contexts.extend(append.contexts.kept().iter().copied());
            contexts.leave_out(append.contexts.left_out());
        }
        let span = tracing.span(names::WAL_APPEND).linked_to(&contexts).start();
        span.set(names::EVENT_COUNT, count(events));
        span.set(names::APPENDS, count(self.appends.len()));
        if let Some(oldest) = oldest {
            span.set(names::WAIT_SECONDS, oldest.elapsed().as_secs_f64());
        }
        span
    }
}

/// Waits for the first command, then takes everything that is there.
pub(super) fn gather(commands: &Receiver<Command>, wait: Duration) -> Work {
    let mut work = Work::default();
    match commands.recv_timeout(wait) {
        Ok(command) => work.take(command),
        Err(RecvTimeoutError::Timeout) => work.idle = true,
        Err(RecvTimeoutError::Disconnected) => work.close = true,
    }
    let mut taken = 1;
    while !work.close && work.append_bytes < GROUP_BYTES && taken < COMMIT_COMMANDS_MAX {
        let Ok(command) = commands.try_recv() else {
            break;
        };
        work.take(command);
        taken += 1;
    }
    work
}

//! When the queue is asked whether it owns what it took, and what each question is about.
//!
//! What it promises:
//!
//! 1. A batch is held under the number of a question that was not asked yet when the queue took it: the answer to that
//!    question, and only that one or a later one, is about it.
//! 2. There is one question at a time, and at least a second between two, however often the publisher is in a hurry.
//! 3. A queue that owns what it takes is never asked.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::queue::{Producer, Verdict};

/// The shortest time between two questions.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// See the module's page.
#[derive(Debug)]
pub(super) struct Verifier {
    producer: Arc<dyn Producer>,
    /// The question under way, if there is one, with its number.
    asked: FuturesUnordered<BoxFuture<'static, (u64, Verdict)>>,
    /// The number of the next question.
    round: u64,
    /// When to ask next, while the queue holds something.
    at: Option<Instant>,
    last_asked: Option<Instant>,
}

impl Verifier {
    pub(super) fn new(producer: Arc<dyn Producer>) -> Self {
        Self {
            producer,
            asked: FuturesUnordered::new(),
            round: 0,
            at: None,
            last_asked: None,
        }
    }

    /// Whether the queue owns whatever it takes.
    pub(super) fn is_never_asked(&self) -> bool {
        self.producer.verify_every().is_none()
    }

    /// The number of the next question: what the queue takes now is held under it.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// The queue took a batch.
    pub(super) fn took(&mut self, now: Instant) {
        if self.at.is_none() && self.asked.is_empty() {
            self.at = self.in_time(now);
        }
    }

    /// Asks about everything that the queue took so far, if it is time to; in a hurry, as soon as another question is allowed.
    pub(super) fn ask(&mut self, now: Instant, hurry: bool) {
        let is_due = hurry || self.at.is_some_and(|at| at <= now);
        if !is_due || !self.asked.is_empty() {
            return;
        }
        let allowed = self.last_asked.map(|asked| asked + EVERY_MIN);
        if allowed.is_some_and(|allowed| now < allowed) {
            self.at = allowed;
            return;
        }
        let (round, producer) = (self.round, Arc::clone(&self.producer));
        self.round += 1;
        self.at = None;
        self.last_asked = Some(now);
        self.asked
            .push(Box::pin(async move { (round, producer.verify().await) }));
    }

    /// When [`Verifier::ask`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.at.filter(|_| self.asked.is_empty())
    }

    /// The answer to the question under way, with its number; `None` at once if there is none. Cancel safe.
    pub(super) async fn answer(&mut self) -> Option<(u64, Verdict)> {
        self.asked.next().await
    }

    /// The answer was heard, and `holds` says whether the queue still holds anything.
    pub(super) fn answered(&mut self, verdict: Verdict, holds: bool, now: Instant) {
        self.at = match holds {
            // What was asked about and is still not known is asked about soon.
            true if verdict == Verdict::Unknown => Some(now + EVERY_MIN),
            true => self.in_time(now),
            false => None,
        };
    }

    fn in_time(&self, now: Instant) -> Option<Instant> {
        self.producer.verify_every().map(|every| now + every)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::queue::{Batch, SendError};

    const EVERY: Duration = Duration::from_secs(30);

    /// A queue that owns what it took by the time it is asked; or that owns everything at once.
    #[derive(Debug)]
    struct Queue(Option<Duration>);

    #[async_trait]
    impl Producer for Queue {
        async fn send(&self, _: Arc<Batch>) -> Result<(), SendError> {
            Ok(())
        }

        fn verify_every(&self) -> Option<Duration> {
            self.0
        }
    }

    #[tokio::test]
    async fn what_is_taken_while_a_question_is_under_way_waits_for_the_next() {
        let (mut verifier, now) = (Verifier::new(Arc::new(Queue(Some(EVERY)))), Instant::now());
        let before = verifier.round();
        verifier.took(now);
        assert_eq!(verifier.due(), Some(now + EVERY));
        verifier.ask(now, false);
        assert_eq!(verifier.round(), before, "it is not time yet");

        verifier.ask(now + EVERY, false);
        assert!(verifier.round() > before);
        verifier.took(now + EVERY);
        assert_eq!(verifier.due(), None, "one question at a time");
        verifier.ask(now + 2 * EVERY, true);
        assert_eq!(verifier.answer().await, Some((before, Verdict::Owned)));
        verifier.answered(Verdict::Owned, true, now + EVERY);
        assert_eq!(verifier.due(), Some(now + 2 * EVERY));
        assert_eq!(verifier.answer().await, None);
    }

    #[tokio::test]
    async fn a_hurry_asks_once_a_second_and_what_is_unknown_is_asked_again_as_soon() {
        let (mut verifier, now) = (Verifier::new(Arc::new(Queue(Some(EVERY)))), Instant::now());
        verifier.ask(now, true);
        assert!(verifier.answer().await.is_some());
        verifier.answered(Verdict::Unknown, true, now);
        assert_eq!(verifier.due(), Some(now + EVERY_MIN));
        let half = now + EVERY_MIN / 2;
        verifier.ask(half, true);
        assert_eq!(verifier.answer().await, None);
        assert_eq!(verifier.due(), Some(now + EVERY_MIN));
        verifier.ask(now + EVERY_MIN, false);
        assert!(verifier.answer().await.is_some());
        verifier.answered(Verdict::Owned, false, now + EVERY_MIN);
        assert_eq!(verifier.due(), None, "nothing is held");
    }

    #[test]
    fn a_queue_that_owns_what_it_takes_is_never_asked() {
        let mut verifier = Verifier::new(Arc::new(Queue(None)));
        assert!(verifier.is_never_asked());
        verifier.took(Instant::now());
        assert_eq!(verifier.due(), None);
    }
}

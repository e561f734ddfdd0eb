//! Where the events come from: lines of a file or of standard input, or made up; cut into batches, at a rate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep_until};

use crate::cli::generate::Generator;
use crate::client::Event;
use crate::clock::{self, Clock};

/// The longest line that is read; a longer one is skipped with a report.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A batch is complete when it holds so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// How long an incomplete batch waits for the next line.
const LINGER: Duration = Duration::from_millis(100);

/// How far a rate that could not be held is caught up with.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The byte order mark that some editors begin a file with.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How much, in which pieces, how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most events, if there is a limit.
    pub(super) events: Option<u64>,
    /// The most per batch.
    pub(super) batch: usize,
    /// The most per second.
    pub(super) rate: Option<u32>,
}

/// The input cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be opened", path.display())]
pub(super) struct OpenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Events that are sent together, and what was found between them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The events.
    pub(super) events: Vec<Event>,
    /// Where each comes from: its line, or its number, from 1.
    pub(super) places: Vec<u64>,
    /// Lines that are no event, and why.
    pub(super) invalid: Vec<(u64, String)>,
    /// Why the input ended before its end.
    pub(super) broken: Option<io::Error>,
    bytes: usize,
}

impl Batch {
    fn len(&self) -> usize {
        self.events.len() + self.invalid.len()
    }

    fn push(&mut self, place: u64, event: Result<Event, String>) {
        match event {
            Ok(event) => {
                self.bytes += event.json().len();
                self.events.push(event);
                self.places.push(place);
            }
            Err(reason) => self.invalid.push((place, reason)),
        }
    }
}

/// Where the events come from.
pub(super) struct Source {
    input: Input,
    limits: Limits,
    /// Events and bad lines that were taken.
    taken: u64,
    ended: bool,
    next_at: Instant,
}

enum Input {
    Lines(Lines),
    MadeUp(Box<Generator>),
}

impl Source {
    /// The lines of a file, or of standard input for `-`.
    pub(super) async fn lines(path: &Path, limits: Limits) -> Result<Self, OpenError> {
        let reader: Box<dyn AsyncBufRead + Unpin> = if path == Path::new("-") {
            Box::new(BufReader::with_capacity(64 * 1024, tokio::io::stdin()))
        } else {
            let opened = open(path).await.map_err(|source| OpenError {
                path: path.to_owned(),
                source,
            })?;
            Box::new(BufReader::with_capacity(64 * 1024, opened))
        };
        Ok(Self::new(Input::Lines(Lines::new(reader)), limits))
    }

    /// Made-up events.
    pub(super) fn made_up(seed: u64, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let generator = Generator::new(seed, clock);
        Self::new(Input::MadeUp(Box::new(generator)), limits)
    }

    fn new(input: Input, mut limits: Limits) -> Self {
        // A slow rate is not served in large lumps.
        if let Some(rate) = limits.rate {
            let tenth = usize::try_from(rate / 10).unwrap_or(usize::MAX);
            limits.batch = limits.batch.min(tenth.max(1));
        }
        Self {
            input,
            limits,
            taken: 0,
            ended: false,
            next_at: Instant::now(),
        }
    }

    /// How many events there will be, if that is known.
    pub(super) fn total(&self) -> Option<u64> {
        match self.input {
            // There may be fewer lines than asked for.
            Input::Lines(_) => None,
            Input::MadeUp(_) => self.limits.events,
        }
    }

    /// What an event is called by: its line or its number.
    pub(super) fn unit(&self) -> &'static str {
        match self.input {
            Input::Lines(_) => "line",
            Input::MadeUp(_) => "event",
        }
    }

    /// The next batch, when its time has come; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut linger = None;
        while !self.ended && batch.len() < self.limits.batch && batch.bytes < BATCH_BYTES {
            if self
                .limits
                .events
                .is_some_and(|events| self.taken >= events)
            {
                self.ended = true;
                break;
            }
            let taken = match &mut self.input {
                Input::MadeUp(generator) => Ok(Some((self.taken + 1, Ok(generator.event())))),
                Input::Lines(lines) => tokio::select! {
                    // Cancel safe: a line that was read in part is kept.
                    line = lines.next() => line,
                    // Cancel safe: the moment stays the same.
                    () = clock::sleep_until(linger) => break,
                },
            };
            match taken {
                Ok(Some((place, event))) => {
                    self.taken += 1;
                    batch.push(place, event);
                    linger.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    batch.broken = Some(error);
                    self.ended = true;
                }
            }
        }
        if batch.len() == 0 && batch.broken.is_none() {
            return None;
        }
        self.pace(batch.events.len()).await;
        Some(batch)
    }

    /// Waits until so many events may be sent.
    async fn pace(&mut self, events: usize) {
        let Some(rate) = self.limits.rate else { return };
        sleep_until(self.next_at).await;
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let share = Duration::from_secs(1).saturating_mul(events) / rate;
        let behind = Instant::now().checked_sub(CATCH_UP);
        let from = behind.map_or(self.next_at, |behind| self.next_at.max(behind));
        self.next_at = from + share;
    }
}

async fn open(path: &Path) -> io::Result<tokio::fs::File> {
    let file = tokio::fs::File::open(path).await?;
    if file.metadata().await?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

/// Lines of bounded length.
struct Lines {
    reader: Box<dyn AsyncBufRead + Unpin>,
    partial: Vec<u8>,
    too_long: bool,
    number: u64,
}

type Line = (u64, Result<Event, String>);

impl Lines {
    fn new(reader: Box<dyn AsyncBufRead + Unpin>) -> Self {
        Self {
            reader,
            partial: Vec::new(),
            too_long: false,
            number: 0,
        }
    }

    /// The next line that is not blank. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            let at_end = chunk.is_empty();
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let (used, part) = match newline {
                Some(at) => (at + 1, chunk.get(..at).unwrap_or_default()),
                None => (chunk.len(), chunk),
            };
            if self.partial.len() + part.len() > LINE_BYTES_MAX {
                self.too_long = true;
                self.partial = Vec::new();
            }
            if !self.too_long {
                self.partial.extend_from_slice(part);
            }
            self.reader.consume(used);
            if newline.is_some() || at_end {
                let line = self.take();
                if line.is_some() || at_end {
                    return Ok(line);
                }
            }
        }
    }

    /// What was gathered, as an event; `None` for a blank line.
    fn take(&mut self) -> Option<Line> {
        self.number += 1;
        let bytes = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.too_long) {
            let reason = format!("longer than {LINE_BYTES_MAX} bytes");
            return Some((self.number, Err(reason)));
        }
        let text = bytes.strip_prefix(BOM).filter(|_| self.number == 1);
        let text = text.unwrap_or(&bytes).trim_ascii();
        if text.is_empty() {
            return None;
        }
        let event = Event::from_json(text.to_vec()).map_err(|error| error.to_string());
        Some((self.number, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            events: None,
            batch: 2,
            rate: None,
        }
    }

    fn source(text: &'static [u8], limits: Limits) -> Source {
        // A buffer of a few bytes: lines come in pieces.
        let reader = Box::new(BufReader::with_capacity(3, text));
        Source::new(Input::Lines(Lines::new(reader)), limits)
    }

    async fn all(mut source: Source) -> Vec<(Vec<u64>, Vec<u64>)> {
        let mut batches = Vec::new();
        while let Some(batch) = source.next().await {
            assert!(batch.broken.is_none());
            let invalid = batch.invalid.iter().map(|(line, _)| *line).collect();
            batches.push((batch.places, invalid));
        }
        batches
    }

    #[tokio::test]
    async fn lines_become_batches_and_bad_ones_are_named() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \nnope\n{\"messageId\":\"m\"}\n[]\n{}";
        let found = all(source(text, limits())).await;
        let expected = [(vec![1], vec![4]), (vec![5], vec![6]), (vec![7], vec![])];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_count_ends_the_input_early() {
        let three = Limits {
            events: Some(3),
            ..limits()
        };
        let found = all(source(b"{}\n{}\n{}\n{}\n{}\n", three)).await;
        assert_eq!(found, [(vec![1, 2], vec![]), (vec![3], vec![])]);
        assert!(all(source(b"", limits())).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_end_costs_no_memory() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 10];
        text.extend_from_slice(b"\n{}\n");
        let reader = Box::new(BufReader::new(io::Cursor::new(text)));
        let mut lines = Lines::new(reader);
        let (line, event) = lines.next().await.unwrap().unwrap();
        assert_eq!(line, 1);
        assert!(event.unwrap_err().contains("longer than"));
        assert!(lines.partial.capacity() == 0);
        let (line, event) = lines.next().await.unwrap().unwrap();
        assert!(line == 2 && event.is_ok());
        assert!(lines.next().await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_held() {
        let started = Instant::now();
        let limits = Limits {
            events: Some(50),
            batch: 100,
            rate: Some(10),
        };
        let clock = Arc::new(crate::clock::SystemClock);
        let mut source = Source::made_up(1, clock, limits);
        let mut events = 0;
        while let Some(batch) = source.next().await {
            events += batch.events.len();
        }
        assert_eq!(events, 50);
        let took = started.elapsed();
        assert!((4_800..5_000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_input_is_sent_as_it_comes() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut source = Source::new(
            Input::Lines(Lines::new(Box::new(BufReader::new(reader)))),
            limits(),
        );
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"{}\n{\"hal")
            .await
            .unwrap();
        assert_eq!(source.next().await.unwrap().places, [1]);
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"f\":1}\n")
            .await
            .unwrap();
        drop(writer);
        let batch = source.next().await.unwrap();
        assert_eq!(batch.places, [2]);
        assert!(batch.events[0].json().starts_with(b"{\"half\":1,"));
    }
}

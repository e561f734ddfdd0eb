//! The body of a gRPC call: counted against the budget, held to its pace, and with one message where one is due.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::Ingress;
use super::outcome::RequestError;
use super::pace::{Pace, PaceLimits};
use super::rpc_status::status;
use super::shed::Held;
use crate::status::Code;

/// Bytes of the header before each message.
const HEADER_BYTES: usize = 5;

/// A request's body on its way to tonic. It fails with a status when it is too slow, too much for the budget, or carries
/// a second message where one is due.
///
/// A stream may be quiet for as long as it likes between two messages, and not within one: half a message keeps its place
/// in the budget.
pub(crate) struct MeteredBody {
    inner: Body,
    ingress: Ingress,
    held: Arc<Held>,
    shape: Shape,
    pace: Option<Pace>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum Shape {
    /// One message; counted as a whole.
    Unary { bytes: usize, message: OneMessage },
    /// Any number; the reader of the stream gives back what became a message.
    Stream,
}

impl MeteredBody {
    pub(crate) fn unary(inner: Body, ingress: Ingress, held: Arc<Held>) -> Self {
        let pace = Pace::begin(PaceLimits::of(ingress.config()), Instant::now());
        let shape = Shape::Unary {
            bytes: 0,
            message: OneMessage::default(),
        };
        Self {
            pace: Some(pace),
            ..Self::new(inner, ingress, held, shape)
        }
    }

    pub(crate) fn stream(inner: Body, ingress: Ingress, held: Arc<Held>) -> Self {
        Self::new(inner, ingress, held, Shape::Stream)
    }

    fn new(inner: Body, ingress: Ingress, held: Arc<Held>, shape: Shape) -> Self {
        Self {
            inner,
            ingress,
            held,
            shape,
            pace: None,
            timer: None,
        }
    }

    /// Takes in what came.
    fn take(&mut self, data: &[u8]) -> Result<(), RequestError> {
        // There is room for the largest message; what stands before it on the wire is not held against it.
        let max = self.ingress.config().body_bytes_max;
        let is_held = match &mut self.shape {
            Shape::Unary { bytes, message } => {
                if !message.take(data) {
                    let text =
                        "the call takes one message and got more; nothing was stored; do not retry";
                    return Err(RequestError::new(Code::MalformedRequest, text));
                }
                *bytes += data.len();
                self.held.grow_to((*bytes).min(max))
            }
            Shape::Stream => {
                if self.pace.is_none() || self.held.bytes() == 0 {
                    let limits = PaceLimits::of(self.ingress.config());
                    self.pace = Some(Pace::begin(limits, Instant::now()));
                }
                self.held.grow_to((self.held.bytes() + data.len()).min(max))
            }
        };
        if let Some(pace) = &mut self.pace {
            pace.came(data.len(), Instant::now());
        }
        if is_held {
            return Ok(());
        }
        self.ingress.shed(Code::Overloaded);
        Err(Code::Overloaded.into())
    }

    /// Ready when what is awaited should have come by now.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_quiet = matches!(self.shape, Shape::Stream) && self.held.bytes() == 0;
        let due = match &self.pace {
            Some(pace) if !is_quiet => pace.due(),
            Some(_) | None => return Poll::Pending,
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            std::task::ready!(this.poll_late(cx));
            return Poll::Ready(Some(Err(status(&Code::RequestTimeout.into()))));
        };
        let data = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref());
        match data.map_or(Ok(()), |data| this.take(data)) {
            Ok(()) => Poll::Ready(frame),
            Err(error) => Poll::Ready(Some(Err(status(&error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where in its one message a unary request is. tonic itself passes over a second one: its sender would hear "OK" for
/// events that nobody has read.
#[derive(Debug, Default)]
struct OneMessage {
    header_bytes: usize,
    /// What is left of the message, by its own header.
    left: usize,
}

impl OneMessage {
    /// False when there is more than one message.
    fn take(&mut self, data: &[u8]) -> bool {
        let in_header = (HEADER_BYTES - self.header_bytes).min(data.len());
        let (header, rest) = data.split_at(in_header);
        for byte in header {
            // The first says whether the message is compressed, the others how long it is.
            if self.header_bytes > 0 {
                self.left = (self.left << 8) | usize::from(*byte);
            }
            self.header_bytes += 1;
        }
        match self.left.checked_sub(rest.len()) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_one_however_it_is_cut() {
        let cases: &[(&[u8], bool)] = &[
            (&[], true),
            (&[0, 0, 0], true),
            (&[0, 0, 0, 0, 0], true),
            (&[1, 0, 0, 0, 2, 7], true),
            (&[0, 0, 0, 0, 2, 7, 7], true),
            (&[0, 0, 0, 0, 0, 0], false),
            (&[0, 0, 0, 0, 2, 7, 7, 0], false),
            (&[0, 0xff, 0xff, 0xff, 0xff, 7, 7, 0], true),
        ];
        for (bytes, expected) in cases {
            for size in 1..=8 {
                let mut message = OneMessage::default();
                let taken = bytes.chunks(size).all(|part| message.take(part));
                assert_eq!(taken, *expected, "{bytes:?} by {size}");
            }
        }
    }
}

//! Request bodies: read within limits, drained when nobody wants them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::EXPECT;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::outcome::RequestError;
use super::pace::{Pace, PaceLimits};
use super::shed::Held;
use super::unpack::{Encoding, Unpack};
use crate::lifecycle::Tasks;
use crate::status::Code;

/// How much of an unwanted body is read and thrown away, and for how long.
const DRAIN_BYTES_MAX: usize = 256 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// A body off the wire. Dropped before its end, a bounded rest of it is still read in the background: a client that is
/// in the middle of sending when an early answer comes would otherwise see a reset instead of the answer.
#[derive(Debug)]
pub(crate) struct WireBody {
    inner: Option<Incoming>,
    tasks: Tasks,
    /// The client waits for a word before it sends anything.
    awaits_continue: bool,
}

impl WireBody {
    /// Puts a wire body in the place of a request's own.
    pub(crate) fn wrap(request: Request<Incoming>, tasks: &Tasks) -> Request<Body> {
        let awaits_continue = request.headers().contains_key(EXPECT);
        request.map(|inner| {
            if inner.is_end_stream() {
                return Body::empty();
            }
            Body::new(Self {
                inner: Some(inner),
                tasks: tasks.clone(),
                awaits_continue,
            })
        })
    }
}

impl HttpBody for WireBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.awaits_continue = false;
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for WireBody {
    fn drop(&mut self) {
        let unread = self.inner.take().filter(|inner| !inner.is_end_stream());
        if let Some(inner) = unread
            && !self.awaits_continue
            && tokio::runtime::Handle::try_current().is_ok()
        {
            drop(self.tasks.spawn("body drain", drain(inner)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let discard = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whether it came to its end or to the limit is all the same: nobody wants it.
    drop(tokio::time::timeout(DRAIN_TIME_MAX, discard).await);
}

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// The most bytes, after decompression.
    pub(crate) bytes_max: usize,
    /// How fast they have to come.
    pub(crate) pace: PaceLimits,
}

/// The whole body of a request, decompressed if it is packed.
///
/// # Errors
///
/// [`RequestError`]: too large, too slow, not what its encoding says, ended early, or more than the gateway holds at once.
pub(crate) async fn read(
    request: Request<Body>,
    encoding: Option<Encoding>,
    held: &Held,
    limits: BodyLimits,
) -> Result<Bytes, RequestError> {
    let bytes_max = limits.bytes_max;
    let mut body = request.into_body();
    let mut whole = match encoding {
        Some(encoding) => Whole::Packed(Unpack::new(encoding, bytes_max)?),
        None => Whole::One(Bytes::new()),
    };
    let mut came = 0usize;
    let mut pace = Pace::begin(limits.pace, Instant::now());
    while let Some(frame) = tokio::time::timeout_at(pace.due(), body.frame())
        .await
        .map_err(|_elapsed| Code::RequestTimeout)?
    {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        pace.came(data.len(), Instant::now());
        // Packed bytes count too: some become nothing.
        came = came.saturating_add(data.len());
        if came > bytes_max {
            return Err(RequestError::body_too_large(bytes_max));
        }
        // What unpacking needs beside the body is no reason to refuse the largest one, for which there is room.
        if !held.grow_to(whole.add(data)?.min(bytes_max)) {
            return Err(Code::Overloaded.into());
        }
    }
    whole.finish()
}

/// What is said about bytes that are no HTTP body.
fn broken(_error: axum::Error) -> RequestError {
    let text = "the body is cut off or wrongly framed; nothing was stored; do not retry";
    RequestError::new(Code::MalformedRequest, text)
}

/// A body as far as it has come.
enum Whole {
    /// The usual case, which is not copied.
    One(Bytes),
    Joined(BytesMut),
    Packed(Unpack),
}

impl Whole {
    /// Adds what came; how many bytes of memory it all takes now.
    fn add(&mut self, data: Bytes) -> Result<usize, RequestError> {
        Ok(match self {
            Self::One(start) if start.is_empty() => {
                *start = data;
                start.len()
            }
            Self::One(start) => {
                let mut joined = BytesMut::with_capacity((start.len() + data.len()) * 2);
                joined.extend_from_slice(start);
                joined.extend_from_slice(&data);
                let length = joined.len();
                *self = Self::Joined(joined);
                length
            }
            Self::Joined(joined) => {
                joined.extend_from_slice(&data);
                joined.len()
            }
            Self::Packed(unpack) => unpack.add(&data)?,
        })
    }

    fn finish(self) -> Result<Bytes, RequestError> {
        match self {
            Self::One(bytes) => Ok(bytes),
            Self::Joined(joined) => Ok(joined.freeze()),
            Self::Packed(unpack) => unpack.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shed::Budget;
    use super::*;

    fn chunks(parts: &'static [&'static str]) -> Request<Body> {
        let parts = parts
            .iter()
            .map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
        Request::new(Body::from_stream(futures::stream::iter(parts)))
    }

    const LIMITS: BodyLimits = BodyLimits {
        bytes_max: 8,
        pace: PaceLimits {
            pause_max: Duration::from_secs(5),
            rate_min: 1,
        },
    };

    #[tokio::test]
    async fn bodies_are_joined_and_counted() {
        let cases: &[(&'static [&'static str], Result<&str, Code>)] = &[
            (&[], Ok("")),
            (&["abc"], Ok("abc")),
            (&["ab", "c", "", "de"], Ok("abcde")),
            (&["1234", "5678"], Ok("12345678")),
            (&["1234", "56789"], Err(Code::BodyTooLarge)),
        ];
        for (parts, expected) in cases {
            let budget = Budget::new(100);
            let held = budget.take(0).unwrap();
            let read = read(chunks(parts), None, &held, LIMITS).await;
            let found = read.as_deref().map_err(|error| error.code);
            assert_eq!(found, expected.map(str::as_bytes), "{parts:?}");
            assert!(expected.is_err() || budget.used() == expected.unwrap().len());
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_shed_on_the_way() {
        let budget = Budget::new(5);
        let held = budget.take(0).unwrap();
        let read = read(chunks(&["1234", "56"]), None, &held, LIMITS).await;
        assert_eq!(read.unwrap_err().code, Code::Overloaded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_too_long_is_a_timeout() {
        let held = Budget::new(5).take(0).unwrap();
        let endless = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let request = Request::new(Body::from_stream(endless));
        let read = read(request, None, &held, LIMITS).await;
        assert_eq!(read.unwrap_err().code, Code::RequestTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_has_the_time_that_its_bytes_earn() {
        let drip = |seconds, size| {
            let parts = futures::stream::unfold((), move |()| async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; size])), ()))
            });
            Request::new(Body::from_stream(parts))
        };
        let limits = BodyLimits {
            bytes_max: 1_000,
            pace: PaceLimits {
                pause_max: Duration::from_secs(5),
                rate_min: 10,
            },
        };
        let held = Budget::new(10_000).take(0).unwrap();
        let began = Instant::now();
        let slow = read(drip(1, 1), None, &held, limits).await;
        assert_eq!(slow.unwrap_err().code, Code::RequestTimeout);
        assert!(began.elapsed() < Duration::from_secs(7));
        let steady = read(drip(1, 10), None, &held, limits).await;
        assert_eq!(steady.unwrap_err().code, Code::BodyTooLarge);
    }
}

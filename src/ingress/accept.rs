//! Connections: one accept loop for every protocol, and the time that each connection is given.
//!
//! hyper's own header timeout closes half a header, a dripped header and an idle HTTP/1.1 connection (so between two
//! requests of one HTTP/1.1 connection the shorter of header and idle timeout counts). It does not close a connection
//! that says nothing, or half a preface, or an idle HTTP/2 connection, or one whose client does not take its answers: these are
//! timed here. A connection that is old takes nothing new (GOAWAY, `Connection: close`) and ends with what is under way. A
//! connection's first byte says whether it is TLS, so that who comes to the wrong port is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;

use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpConnectInfo;

use super::Tls;
use super::activity::{self, Activity, InFlight};
use super::body::WireBody;
use super::pace::PaceLimits;
use super::places::Place;
use super::route::Front;
use super::server::{Door, Stop};
use super::shed::Share;
use super::tls;
use crate::clock::sleep_until;
use crate::config::IngressConfig;
use crate::lifecycle::Tasks;
use crate::telemetry::metrics::Count;

/// How much a client may send ahead, per HTTP/2 stream and connection: 1 MiB carries 40 MB/s over 20 ms.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// The most bytes of one request's headers over HTTP/2.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// The same over HTTP/1.1, where it is also what one read of a body takes. hyper's own 400 KiB would let ten thousand
/// headers that never end fill the memory.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long a closing connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The connection that a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    close: CancellationToken,
    share: Option<Share>,
}

impl Via {
    /// Closes the connection: for a peer that leaves no other way to end its stream.
    pub(crate) fn close(&self) {
        self.close.cancel();
    }

    /// What its address may have under way; `None`: as much as there is.
    pub(crate) fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }
}

/// What every connection of a listener shares. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pub(crate) front: Front,
    pub(crate) door: Door,
    pub(crate) builder: Builder<TokioExecutor>,
    pub(crate) tasks: Tasks,
    pub(crate) stop: Stop,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// How fast a client has to take its answers.
    pub(crate) answer_pace: PaceLimits,
    /// How long a connection takes new requests, about.
    pub(crate) age_max: Option<Duration>,
    /// Connections that were closed before their first request.
    pub(crate) refused: Count,
    /// `None`: in clear.
    pub(crate) tls: Option<Tls>,
}

/// Both ends of a connection, when it began, and what its address may have under way.
#[derive(Debug)]
struct Ends {
    local: Option<SocketAddr>,
    peer: SocketAddr,
    opened: Instant,
    share: Option<Share>,
}

impl Ends {
    /// Says by which connection a request came.
    fn introduce<B>(&self, request: &mut Request<B>, close: &CancellationToken) {
        let about = request.extensions_mut();
        about.insert(ConnectInfo(self.peer));
        about.insert(TcpConnectInfo {
            local_addr: self.local,
            remote_addr: Some(self.peer),
        });
        about.insert(Via {
            close: close.clone(),
            share: self.share.clone(),
        });
    }
}

/// The protocol settings of every connection.
pub(crate) fn builder(config: &IngressConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX)
        // Who has said everything may close that side and still hear what became of it.
        .half_close(true)
        .header_read_timeout(config.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.concurrent_streams_max)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(config.guard.keepalive_interval)
        .keep_alive_timeout(config.guard.keepalive_timeout);
    builder
}

/// A connection that can be spoken on.
enum Opened {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connections {
    /// One connection from its first byte to its end.
    pub(super) async fn serve(self, stream: TcpStream, peer: SocketAddr, place: &Place) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay_refused");
        }
        let ends = Ends {
            local: stream.local_addr().ok(),
            peer,
            opened: Instant::now(),
            share: place.share().cloned(),
        };
        // Nothing was asked yet, so that nothing is lost when it is dropped.
        let opened = tokio::select! {
            biased;
            () = self.stop.drain.cancelled() => return,
            opened = tokio::time::timeout(self.header_timeout, self.open(stream)) => opened,
        };
        match opened.ok().flatten() {
            Some(Opened::Clear(stream)) => self.speak(stream, ends).await,
            Some(Opened::Tls(stream)) => self.speak(stream, ends).await,
            None => {}
        }
    }

    /// Counts a connection that is closed before its first request.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// What the port speaks, once the client has said anything; `None`: it is over.
    async fn open(&self, stream: TcpStream) -> Option<Opened> {
        let mut first = [0];
        // It stays where it is, for whoever reads the connection.
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        match (&self.tls, first == [tls::HANDSHAKE]) {
            (None, false) => Some(Opened::Clear(stream)),
            (Some(tls), true) => match tls.accept(stream).await {
                Ok(stream) => Some(Opened::Tls(Box::new(stream))),
                Err(error) => {
                    tracing::debug!(%error, "tls_handshake_failed");
                    self.refuse("handshake");
                    None
                }
            },
            (Some(_), false) => {
                tracing::debug!("clear_text_on_tls_port");
                self.refuse("not_tls");
                tls::say_that_it_is_tls(stream).await;
                None
            }
            (None, true) => {
                tracing::info!(door = ?self.door, "tls_on_clear_text_port");
                self.refuse("tls");
                tls::say_that_it_is_not(stream).await;
                None
            }
        }
    }

    /// HTTP in one of its versions, from the first request to the end.
    async fn speak<S>(self, stream: S, ends: Ends)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = ends.opened;
        let activity = Arc::new(Activity::new(opened, self.answer_pace));
        let close = CancellationToken::new();
        let service = {
            let (this, activity) = (self.clone(), Arc::clone(&activity));
            let close = close.clone();
            hyper::service::service_fn(move |request: Request<Incoming>| {
                let guard = InFlight::begin(&activity);
                let this = this.clone();
                let mut request = WireBody::wrap(request, &this.tasks);
                ends.introduce(&mut request, &close);
                async move {
                    let response = this.front.handle(this.door, request).await;
                    Ok::<_, Infallible>(activity::guarded(response, guard))
                }
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut closing: Option<Instant> = None;
        let mut old_at = self.age_max.map(|age| opened + jittered(age));
        loop {
            let wake = closing.unwrap_or_else(|| self.wakes_at(&activity));
            // Every arm is cancel safe: the connection is pinned outside, the rest is only waited for. The connection comes last: one
            // that is flooded uses up all that the runtime gives a task at a time, and no timer behind it would ever be heard.
            tokio::select! {
                biased;
                () = self.stop.drain.cancelled(), if closing.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    closing = Some(Instant::now() + self.stop.grace);
                }
                () = close.cancelled(), if closing.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    closing = Some(Instant::now() + GOODBYE);
                }
                // What is under way has its own limits of time.
                () = sleep_until(old_at), if closing.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    old_at = None;
                }
                () = tokio::time::sleep_until(wake) => {
                    let closes_at = self.closes_at(&activity);
                    let due = closes_at.is_some_and(|at| at <= Instant::now());
                    if closing.is_some() || (due && !activity.has_begun()) {
                        return;
                    }
                    if due {
                        connection.as_mut().graceful_shutdown();
                        closing = Some(Instant::now() + GOODBYE);
                    }
                }
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection_failed");
                    }
                    return;
                }
            }
        }
    }

    /// When to look whether the connection has to close. It sleeps no longer than things may change meanwhile.
    fn wakes_at(&self, activity: &Activity) -> Instant {
        let look_again = Instant::now() + self.answer_pace.pause_max;
        let closes_at = self.closes_at(activity);
        closes_at.map_or(look_again, |at| at.min(look_again))
    }

    /// When the connection has to close, as things stand.
    fn closes_at(&self, activity: &Activity) -> Option<Instant> {
        activity.closes_at(self.header_timeout, self.idle_timeout)
    }
}

/// A tenth less to a tenth more: connections that were opened together are not all opened again together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_moment_do_not_end_in_one() {
        let age = Duration::from_secs(3_600);
        let ages: std::collections::HashSet<_> = (0..100).map(|_| jittered(age)).collect();
        assert!(ages.len() > 50);
        assert!(
            ages.iter()
                .all(|at| *at >= age * 9 / 10 && *at <= age * 11 / 10)
        );
    }
}

//! The way in: who sends a request, asked before its body is read where its head can say so, and whether he may send now.
//!
//! Some SDKs have their key in the body alone, so that it has to be read first: within its limits, like any other.

use std::borrow::Cow;
use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use http::header::ORIGIN;
use http::{HeaderValue, Request};

use super::accept::Via;
use super::auth::presented::{self, Found};
use super::auth::{Caller, Strangers};
use super::outcome::{Quota, RequestError};
use super::quota::{Exceeded, Moment};
use super::shed::Held;
use super::{Ingress, Submission, sender};
use crate::status::Code;
use crate::telemetry::metrics::labels;

/// Someone at the door.
#[derive(Debug)]
pub(super) struct Entrant {
    caller: Caller,
    origin: Option<HeaderValue>,
    asked: Asked,
}

/// Whether the question who it is has an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Answered,
    /// The body may have a key; the error if it has none.
    Body(Option<Code>),
}

impl Entrant {
    /// Who it is, as far as that is known.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether what he calls a stream is a name that may be shown: he is known, and it is no key in the wrong place.
    pub(super) fn may_name(&self, ingress: &Ingress, stream: &str) -> bool {
        let keys = ingress.keys();
        !matches!(self.asked, Asked::Body(Some(_)))
            && (keys.strangers() == Strangers::Open || keys.holder(stream.as_bytes()).is_none())
    }

    /// Who it is, by its body if need be.
    pub(super) fn named<'b>(
        mut self,
        ingress: &Ingress,
        held: &Held,
        key: impl FnOnce() -> Option<Cow<'b, str>>,
    ) -> Result<Caller, RequestError> {
        let Asked::Body(nothing) = self.asked else {
            return Ok(self.caller);
        };
        match key().filter(|key| !key.is_empty()) {
            None => match nothing {
                Some(code) => Err(ingress.refused(code.into())),
                None => Ok(self.caller),
            },
            Some(key) => {
                let holder = ingress.keys().holder(key.as_bytes());
                let Some(holder) = holder else {
                    return Err(ingress.refused(Code::WriteKeyUnknown.into()));
                };
                self.caller = holder.at(self.caller.address);
                ingress.check_origin(&self.caller, self.origin.as_ref())?;
                ingress.check_rate(&self.caller)?;
                if !held.share(self.caller.share()) {
                    ingress.shed(Code::Overloaded);
                    return Err(Code::Overloaded.into());
                }
                Ok(self.caller)
            }
        }
    }
}

impl Ingress {
    /// Asks for a request's key where that can be without its body.
    ///
    /// # Errors
    ///
    /// It has one that is not known, or one that pages of its origin may not use.
    pub(super) fn enter<B>(&self, request: &Request<B>) -> Result<Entrant, RequestError> {
        let (keys, stranger) = (self.keys(), self.passer_by(request));
        let entrant = |caller, asked| Entrant {
            caller,
            origin: request.headers().get(ORIGIN).cloned(),
            asked,
        };
        let strangers = keys.strangers();
        if strangers == Strangers::Open {
            return Ok(entrant(stranger, Asked::Answered));
        }
        let missing = |code| (strangers == Strangers::Refused).then_some(code);
        let query = request.uri().query();
        match presented::find(request.headers(), query, |key| keys.holder(key)) {
            Found::Known(holder) => {
                let caller = holder.at(stranger.address);
                self.check_origin(&caller, request.headers().get(ORIGIN))?;
                Ok(entrant(caller, Asked::Answered))
            }
            Found::Unknown => Err(self.refused(Code::WriteKeyUnknown.into())),
            Found::Foreign => {
                let nothing = missing(Code::WriteKeyUnknown);
                Ok(entrant(stranger, Asked::Body(nothing)))
            }
            Found::Nothing => {
                let nothing = missing(Code::WriteKeyMissing);
                Ok(entrant(stranger, Asked::Body(nothing)))
            }
        }
    }

    /// The same for a call, whose body has no key.
    pub(super) fn enter_call<B>(&self, request: &Request<B>) -> Result<Caller, RequestError> {
        let entrant = self.enter(request)?;
        match entrant.asked {
            Asked::Body(Some(code)) => Err(self.refused(code.into())),
            Asked::Body(None) | Asked::Answered => Ok(entrant.caller),
        }
    }

    /// The caller of a stream as the keys are now; `None`: as they were.
    pub(super) fn renewed(&self, caller: &Caller) -> Result<Option<Caller>, RequestError> {
        let renewed = self.keys().renewed(caller);
        renewed.map_err(|error| self.refused(error))
    }

    /// Someone who needs no key for what he asks.
    pub(super) fn passer_by<B>(&self, request: &Request<B>) -> Caller {
        let via = request.extensions().get::<Via>();
        let share = via.and_then(Via::share).cloned();
        let limits = self.addresses();
        let buckets = limits.and_then(|limits| {
            let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
            let trusted = &self.config().trusted_proxies;
            let address = sender::behind(peer.ip(), request.headers(), trusted);
            Some(limits.of(address))
        });
        Caller::stranger(buckets, share)
    }

    /// Whether what a key loads before it sends is there for this one.
    pub(super) fn check_key(&self, key: &str) -> Result<(), RequestError> {
        let keys = self.keys();
        if keys.strangers() != Strangers::Refused || keys.holder(key.as_bytes()).is_some() {
            return Ok(());
        }
        Err(self.refused(Code::WriteKeyUnknown.into()))
    }

    fn check_origin(
        &self,
        caller: &Caller,
        origin: Option<&HeaderValue>,
    ) -> Result<(), RequestError> {
        match origin {
            Some(origin) if !caller.may_come_from(origin.as_bytes()) => {
                Err(self.refused(Code::OriginNotAllowed.into()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the caller may write to a stream.
    pub(super) fn check_stream(&self, caller: &Caller, stream: &str) -> Result<(), RequestError> {
        if caller.may_write(stream) {
            return Ok(());
        }
        Err(self.refused(Code::StreamNotAllowed.into()))
    }

    /// Whether the caller may send anything now.
    pub(super) fn check_rate(&self, caller: &Caller) -> Result<(), RequestError> {
        self.check_rate_at(caller, || self.moment())
    }

    fn check_rate_at(&self, caller: &Caller, now: impl Fn() -> Moment) -> Result<(), RequestError> {
        for (subject, buckets) in caller.buckets() {
            if let Err(exceeded) = buckets.check(now()) {
                return Err(self.refused(too_fast(subject, exceeded)));
            }
        }
        Ok(())
    }

    /// What a request will take from the limits of who sent it; `None`: he has none.
    ///
    /// # Errors
    ///
    /// He is too fast.
    pub(super) fn charge<'a>(
        &self,
        submission: &Submission<'a>,
    ) -> Result<Option<Charge<'a>>, RequestError> {
        let caller = submission.caller;
        if caller.buckets().next().is_none() {
            return Ok(None);
        }
        let now = self.moment();
        self.check_rate_at(caller, || now)?;
        let bytes: usize = submission.inputs.iter().map(super::Input::bytes).sum();
        Ok(Some(Charge {
            caller,
            // A request without an event is work, too.
            events: submission.inputs.len().max(1) as u64,
            bytes: bytes as u64,
            now,
        }))
    }

    /// Counts a request that its sender may not send, or not now.
    pub(super) fn refused(&self, error: RequestError) -> RequestError {
        let refused = &self.metrics().requests_refused;
        refused.add(1, labels::code(error.code));
        error
    }
}

/// What a request takes from the limits of who sent it. One that has to come again because the log did not take it takes nothing.
#[derive(Debug)]
#[must_use = "nothing is taken before `pay`"]
pub(super) struct Charge<'a> {
    caller: &'a Caller,
    events: u64,
    bytes: u64,
    now: Moment,
}

impl Charge<'_> {
    pub(super) fn pay(self) {
        for (_subject, buckets) in self.caller.buckets() {
            buckets.take(self.events, self.bytes, self.now);
        }
    }
}

fn too_fast(subject: &'static str, exceeded: Exceeded) -> RequestError {
    let Exceeded {
        what,
        per_second,
        wait,
    } = exceeded;
    let text = format!(
        "more than {per_second} {what} a second from this {subject}; nothing was stored; slow down and retry with the same message ids"
    );
    let mut error = RequestError::new(Code::RateLimited, text);
    error.quota = Some(Quota { subject, wait });
    error
}

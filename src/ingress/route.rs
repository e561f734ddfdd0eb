//! One request to its door: gRPC by its content type, everything else to HTTP; CORS around both.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::ServiceExt as _;
use tower_layer::Layer as _;

use super::grpc_layer::{self, GrpcLayer};
use super::outcome::RequestError;
use super::server::Door;
use super::{Ingress, cors, http as door, spans};
use crate::status::Code;

/// Both doors, behind one front. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Front(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Router,
    grpc: GrpcWebService<GrpcLayer>,
    ingress: Ingress,
}

/// What a request's content type asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
    GrpcWeb,
}

impl Front {
    pub(crate) fn new(http: Router, grpc: GrpcLayer) -> Self {
        Self(Arc::new(Inner {
            http,
            ingress: grpc.ingress.clone(),
            grpc: GrpcWebLayer::new().layer(grpc),
        }))
    }

    /// Answers one request.
    pub(crate) async fn handle(&self, door: Door, mut request: Request<Body>) -> Response<Body> {
        if request.method() == Method::OPTIONS && door == Door::Public {
            return cors::preflight(request.headers());
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let kind = kind(request.headers());
        let span = spans::begin(&self.0.ingress, kind, &mut request);
        let mut response = span.around(self.dispatch(door, kind, request)).await;
        spans::answered(&span, kind, &response);
        if door == Door::Public {
            cors::allow(origin.as_ref(), response.headers_mut());
        }
        response
    }

    async fn dispatch(&self, door: Door, kind: Kind, mut request: Request<Body>) -> Response<Body> {
        let http2 = request.version() == Version::HTTP_2;
        let answered = match (kind, door) {
            (Kind::Grpc, _) if http2 => Ok(self.0.grpc.clone().oneshot(request).await),
            (Kind::Grpc, _) => {
                let text = "gRPC needs HTTP/2, over HTTP/1.1 use gRPC-web; do not retry here";
                let error = RequestError::new(Code::NotFound, text);
                return self.refuse(request, error).await;
            }
            (_, Door::GrpcOnly) => {
                let text = "this port speaks gRPC alone, HTTP and gRPC-web are on the public port; do not retry here";
                let error = RequestError::new(Code::NotFound, text);
                return self.refuse(request, error).await;
            }
            (Kind::GrpcWeb, Door::Public) => match web_type(&request) {
                Ok(name) => {
                    let name = HeaderValue::from_static(name);
                    request.headers_mut().insert(CONTENT_TYPE, name);
                    Ok(self.0.grpc.clone().oneshot(request).await)
                }
                Err(error) => return self.refuse(request, error).await,
            },
            (Kind::Http, Door::Public) => Err(self.0.http.clone().oneshot(request).await),
        };
        match answered {
            Ok(Ok(response)) => response.map(Body::new),
            Err(Ok(response)) => response,
            Ok(Err(never)) | Err(Err(never)) => match never {},
        }
    }

    /// The wrong protocol gets an answer that people can read.
    async fn refuse(&self, request: Request<Body>, error: RequestError) -> Response<Body> {
        let (head, _unread) = request.into_parts();
        door::refuse(&self.0.ingress, &head.method, &head.headers, error).await
    }
}

/// How the layer that speaks gRPC-web spells a request's content type: it knows one spelling, and has no words for who has another.
fn web_type<B>(request: &Request<B>) -> Result<&'static str, RequestError> {
    const NAMES: [&str; 4] = [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc-web-text+proto",
    ];
    if request.method() != Method::POST {
        return Err(Code::MethodNotAllowed.into());
    }
    let essence = grpc_layer::essence(request.headers().get(CONTENT_TYPE));
    let name = NAMES
        .into_iter()
        .find(|name| essence.eq_ignore_ascii_case(name.as_bytes()));
    name.ok_or_else(|| {
        let text = "gRPC-web has protobuf here: send application/grpc-web or application/grpc-web-text, with or without +proto; do not retry";
        RequestError::new(Code::UnsupportedEncoding, text)
    })
}

fn kind(headers: &HeaderMap) -> Kind {
    const GRPC: &[u8] = b"application/grpc";
    let value = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], http::HeaderValue::as_bytes);
    let Some((name, rest)) = value.split_at_checked(GRPC.len()) else {
        return Kind::Http;
    };
    if !name.eq_ignore_ascii_case(GRPC) {
        return Kind::Http;
    }
    match rest.first() {
        None | Some(b'+' | b';' | b' ') => Kind::Grpc,
        Some(b'-') => Kind::GrpcWeb,
        Some(_) => Kind::Http,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_decides() {
        let cases = [
            ("application/grpc", Kind::Grpc),
            ("Application/gRPC+proto", Kind::Grpc),
            ("application/grpc;x=y", Kind::Grpc),
            ("application/grpc ", Kind::Grpc),
            ("application/grpc+json", Kind::Grpc),
            ("application/grpc-web+proto", Kind::GrpcWeb),
            ("application/grpc-web-text", Kind::GrpcWeb),
            ("application/grpcx", Kind::Http),
            ("application/json", Kind::Http),
            ("", Kind::Http),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(kind(&headers), expected, "{value}");
        }
        assert_eq!(kind(&HeaderMap::new()), Kind::Http);
    }
}

//! Clients as other people write them: JSON over HTTP, and the generated gRPC client.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tonic::transport::Channel;

use super::gateway::Endpoints;

/// The largest answer that a client reads.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a client waits for an answer, on a busy machine.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that was idle for so long is not used again: gateways of some tests close one after two seconds, and a client that stood
/// still would ask on one that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// An HTTP client of one gateway. It never repeats a request by itself.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Http {
    /// A client; connects when it is used.
    pub(crate) fn new(endpoints: &Endpoints) -> Self {
        Self::at(&endpoints.http)
    }

    /// The same of any port.
    pub(crate) fn at(address: &str) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .pool_idle_timeout(IDLE_MAX)
            .build_http();
        Self {
            client,
            base: format!("http://{address}"),
        }
    }

    /// GET; the status and the body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.request(http::Method::GET, path, Bytes::new()).await
    }

    /// POST with a JSON body; the status and the body of the answer.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<(u16, Value)> {
        self.request(http::Method::POST, path, body.into()).await
    }

    async fn request(&self, method: http::Method, path: &str, body: Bytes) -> Result<(u16, Value)> {
        let response = self.exchange(method, path, body).await?;
        let (status, body) = (response.status().as_u16(), response.into_body());
        let body = serde_json::from_slice(&body)
            .with_context(|| format!("the answer {status} is not JSON: {body:?}"))?;
        Ok((status, body))
    }

    /// One request with a JSON body; the whole answer, headers included.
    pub(crate) async fn exchange(
        &self,
        method: http::Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Bytes>> {
        self.exchange_with(method, path, &[], body).await
    }

    /// The same with further headers.
    pub(crate) async fn exchange_with(
        &self,
        method: http::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<http::Response<Bytes>> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(http::header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| anyhow!(error))?
                .to_bytes();
            Ok(http::Response::from_parts(head, body))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .context("no answer in time")?
    }
}

/// A gRPC client of one gateway; connects when it is used.
pub(crate) fn grpc(endpoints: &Endpoints) -> Result<IngestServiceClient<Channel>> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", endpoints.grpc))?
        .timeout(ANSWER_TIMEOUT)
        .connect_lazy();
    Ok(IngestServiceClient::new(channel))
}

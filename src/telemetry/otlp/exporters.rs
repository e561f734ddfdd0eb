//! OpenTelemetry's exporters, each for the collector of its signal. Headers and compression they read from the environment
//! themselves.

use std::path::Path;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    ExporterBuildError, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};

use super::OtlpError;
use crate::config::{Collector, Protocol, Roots};

macro_rules! exporter {
    ($name:ident, $kind:ident) => {
        /// For one signal. Over gRPC it must be made where what drives it has been entered.
        pub(super) fn $name(to: &Collector) -> Result<opentelemetry_otlp::$kind, OtlpError> {
            let builder = opentelemetry_otlp::$kind::builder();
            let built = match to.protocol {
                Protocol::Grpc => {
                    let builder = builder.with_tonic().with_endpoint(&to.url);
                    let builder = builder.with_timeout(to.timeout);
                    match grpc_tls(to)? {
                        Some(tls) => builder.with_tls_config(tls).build(),
                        None => builder.build(),
                    }
                }
                Protocol::Http => builder
                    .with_http()
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_endpoint(&to.url)
                    .with_timeout(to.timeout)
                    .with_http_client(http_client(to)?)
                    .build(),
            };
            built.map_err(OtlpError::Exporter)
        }
    };
}

exporter!(spans, SpanExporter);
exporter!(metrics, MetricExporter);
exporter!(records, LogExporter);

fn read(path: &Path) -> Result<Vec<u8>, OtlpError> {
    std::fs::read(path).map_err(|error| OtlpError::File(path.to_owned(), error))
}

fn grpc_tls(to: &Collector) -> Result<Option<ClientTlsConfig>, OtlpError> {
    if !to.is_tls() {
        return Ok(None);
    }
    let tls = ClientTlsConfig::new().timeout(to.timeout);
    let tls = match &to.roots.certificate {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    Ok(Some(match &to.roots.client {
        Some((certificate, key)) => {
            tls.identity(Identity::from_pem(read(certificate)?, read(key)?))
        }
        None => tls,
    }))
}

fn http_client(to: &Collector) -> Result<reqwest::blocking::Client, OtlpError> {
    let mut builder = reqwest::blocking::Client::builder().timeout(to.timeout);
    let Roots {
        certificate,
        client,
    } = &to.roots;
    if let Some(path) = certificate.as_ref().filter(|_| to.is_tls()) {
        let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?);
        builder = builder.tls_certs_only(authorities.map_err(OtlpError::Client)?);
    }
    if let Some((certificate, key)) = client.as_ref().filter(|_| to.is_tls()) {
        let mut pem = read(certificate)?;
        pem.push(b'\n');
        pem.append(&mut read(key)?);
        let identity = reqwest::Identity::from_pem(&pem).map_err(OtlpError::Client)?;
        builder = builder.identity(identity);
    }
    // It has a runtime of its own, which may not be made inside another.
    let built = std::thread::scope(|scope| scope.spawn(|| builder.build()).join());
    let failed = || ExporterBuildError::InternalFailure("the HTTP client panicked".into());
    built
        .map_err(|_panic| OtlpError::Exporter(failed()))?
        .map_err(OtlpError::Client)
}

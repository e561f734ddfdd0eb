//! Health and reflection.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::grpc::{channel, error};
use super::*;

#[tokio::test]
async fn health_follows_readiness() {
    let gateway = gateway().await;
    let mut client = HealthClient::new(channel(gateway.grpc).await);
    for name in ["", "eventkit.v1.IngestService"] {
        let request = HealthCheckRequest {
            service: name.into(),
        };
        let mut watch = client.watch(request.clone()).await.unwrap().into_inner();
        let next = async |watch: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>| {
            within(watch.message()).await.unwrap().unwrap().status()
        };
        assert_eq!(next(&mut watch).await, ServingStatus::Serving);
        gateway.health.not_ready("log", Some("full".into()));
        assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
        gateway.health.not_ready("log", None);
        assert_eq!(next(&mut watch).await, ServingStatus::Serving);
        let check = client.check(request).await.unwrap();
        assert_eq!(check.into_inner().status(), ServingStatus::Serving);
    }
    let request = HealthCheckRequest {
        service: "other".into(),
    };
    assert_eq!(
        client.check(request).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_open_stream_ends_with_a_status_when_the_server_drains() {
    let gateway = gateway().await;
    let mut client = HealthClient::new(channel(gateway.grpc).await);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    within(watch.message()).await.unwrap().unwrap();
    gateway.drain.cancel();
    let status = loop {
        match within(watch.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(error(&status), (Code::Unavailable, "DRAINING".into(), true));
    within(gateway.tasks.join()).await;
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services_and_the_details() {
    use tonic_reflection::pb::{v1, v1alpha};
    let gateway = gateway().await;
    macro_rules! ask {
        ($version:ident, $question:ident($text:expr)) => {{
            use $version::server_reflection_request::MessageRequest;
            let channel = channel(gateway.grpc).await;
            let mut client =
                $version::server_reflection_client::ServerReflectionClient::new(channel);
            let request = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::$question($text.into())),
            };
            let requests = futures::stream::iter([request]);
            let mut answers = client
                .server_reflection_info(requests)
                .await
                .unwrap()
                .into_inner();
            format!(
                "{:?}",
                answers
                    .message()
                    .await
                    .unwrap()
                    .unwrap()
                    .message_response
                    .unwrap()
            )
        }};
    }
    for services in [ask!(v1, ListServices("")), ask!(v1alpha, ListServices(""))] {
        for name in [
            "eventkit.v1.IngestService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ] {
            assert!(services.contains(name), "{name} in {services}");
        }
    }
    for symbol in ["google.rpc.RetryInfo", "eventkit.v1.Event"] {
        let found = ask!(v1, FileContainingSymbol(symbol));
        assert!(
            found.starts_with("FileDescriptorResponse"),
            "{symbol}: {found}"
        );
    }

    let silent = gateway_with(IngressConfig {
        reflection: false,
        ..config()
    })
    .await;
    let channel = channel(silent.grpc).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let requests = futures::stream::iter([v1::ServerReflectionRequest::default()]);
    let status = client.server_reflection_info(requests).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_question_has_its_size_and_its_time() {
    let gateway = gateway_with(IngressConfig {
        body_timeout: Duration::from_secs(1),
        ..config()
    })
    .await;
    let large = HealthCheckRequest {
        service: "x".repeat(5_000),
    };
    let too_large = (Code::ResourceExhausted, "BODY_TOO_LARGE".into(), false);
    let mut client = HealthClient::new(channel(gateway.grpc).await);
    let status = client.check(large.clone()).await.unwrap_err();
    assert_eq!(error(&status), too_large);
    assert!(status.message().contains("4096 bytes"), "{status:?}");
    let status = client.watch(large).await.unwrap_err();
    assert_eq!(error(&status), too_large);

    // Half a question, and no more of it.
    let head = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Content-Type: application/grpc-web+proto\r\nContent-Length: 105\r\n\r\n\0\0\0\0\x64half";
    let answer = gateway.send(head).await;
    assert_eq!(answer.header("grpc-status"), Some("4"), "{answer:?}");
}

#[tokio::test]
async fn streams_of_questions_end_when_they_are_old() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let mut config = config();
    config.guard.stream_age_max = Some(Duration::from_secs(1));
    let gateway = gateway_with(config).await;
    let mut client = HealthClient::new(channel(gateway.grpc).await);
    let watch = client.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.unwrap().into_inner();
    within(watch.message()).await.unwrap().unwrap();
    let watched = within(watch.message()).await.unwrap_err();

    let mut client = ServerReflectionClient::new(channel(gateway.grpc).await);
    let quiet = client.server_reflection_info(futures::stream::pending());
    let mut quiet = within(quiet).await.unwrap().into_inner();
    let asked = within(quiet.message()).await.unwrap_err();
    for status in [watched, asked] {
        assert_eq!(error(&status), (Code::Unavailable, "DRAINING".into(), true));
        assert!(status.message().contains(" 1 s old"), "{status:?}");
    }
}

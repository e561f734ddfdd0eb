use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use google_cloud_auth::credentials::user_account;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// What a token endpoint does before it grants.
#[derive(Clone, Copy)]
enum First {
    Refuse(usize),
    Hang,
}

/// A token endpoint; how many times it was asked.
async fn endpoint(first: First) -> (String, Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let answer = move || async move {
        match (count.fetch_add(1, Ordering::SeqCst), first) {
            (before, First::Refuse(times)) if before < times => {
                return (StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#);
            }
            (0, First::Hang) => std::future::pending().await,
            _ => {}
        }
        let token = r#"{"access_token":"granted","expires_in":3600,"token_type":"Bearer"}"#;
        (StatusCode::OK, token)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let app = Router::new().route("/token", post(answer));
    #[expect(clippy::disallowed_methods, reason = "a test ends its own task")]
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, asked, AbortOnDropHandle::new(server))
}

fn user(token_uri: String) -> Make {
    Box::new(move || {
        let account = serde_json::json!({
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "no secret",
            "refresh_token": "no token",
            "token_uri": token_uri,
        });
        user_account::Builder::new(account).build_access_token_credentials()
    })
}

#[tokio::test]
async fn a_right_that_comes_back_is_used_by_the_same_process() {
    let (url, asked, _server) = endpoint(First::Refuse(2)).await;
    // Alone the library asks once and never again: without that this module would not be needed.
    let alone = user(url.clone())().unwrap();
    for _ in 0..3 {
        assert!(!alone.access_token().await.unwrap_err().is_transient());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let lasting = Lasting::new(user(url), Duration::ZERO, LIMIT).unwrap();
    assert!(lasting.access_token().await.is_err());
    assert_eq!(lasting.access_token().await.unwrap().token, "granted");
    let headers = lasting.headers(Extensions::new()).await.unwrap();
    let CacheableResource::New { data, .. } = headers else {
        panic!("headers for somebody who has none");
    };
    assert_eq!(data["authorization"], "Bearer granted");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn who_is_refused_is_asked_once_in_a_pause() {
    let (url, asked, _server) = endpoint(First::Refuse(usize::MAX)).await;
    let lasting = Lasting::new(user(url), PAUSE, LIMIT).unwrap();
    for _ in 0..20 {
        assert!(lasting.access_token().await.is_err());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn credentials_that_cannot_be_made_anew_stay_as_they_are() {
    let (url, asked, _server) = endpoint(First::Refuse(1)).await;
    let (make, calls) = (user(url), AtomicUsize::new(0));
    let once_broken = move || match calls.fetch_add(1, Ordering::SeqCst) {
        1 => user_account::Builder::new(serde_json::json!({})).build_access_token_credentials(),
        _ => make(),
    };
    let lasting = Lasting::new(Box::new(once_broken), Duration::ZERO, LIMIT).unwrap();
    for _ in 0..2 {
        assert!(lasting.access_token().await.is_err());
    }
    assert_eq!(lasting.access_token().await.unwrap().token, "granted");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_asked_anew() {
    let (url, asked, _server) = endpoint(First::Hang).await;
    let mut lasting = Lasting::new(user(url), Duration::ZERO, LIMIT).unwrap();
    lasting.limit = Duration::from_millis(50);
    assert!(lasting.access_token().await.unwrap_err().is_transient());
    lasting.limit = LIMIT;
    assert_eq!(lasting.access_token().await.unwrap().token, "granted");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

//! Lists and removals: the JSON API, with the credentials of the client library.

use google_cloud_auth::credentials::{CacheableResource, Credentials};
use reqwest::{Client, Method, Response, Url, header::HeaderMap, redirect};
use serde::Deserialize;

use super::failure::Failure;
use crate::config::Endpoint;

/// Where the service answers.
const GOOGLE: &str = "https://storage.googleapis.com";

/// The calls for one bucket's objects.
#[derive(Debug)]
pub(super) struct JsonApi {
    client: Client,
    credentials: Credentials,
    /// `…/storage/v1/b/<bucket>/o`.
    objects: Url,
}

/// One answer to a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Names, ascending.
    pub(super) names: Vec<String>,
    /// How to ask for more; the service may give one with an empty page.
    pub(super) next: Option<String>,
}

impl JsonApi {
    pub(super) fn new(
        endpoint: &Endpoint,
        bucket: &str,
        credentials: Credentials,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut client = Client::builder()
            .user_agent(concat!("eventkit/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none());
        if endpoint.url().is_some() {
            // An emulator is a neighbour.
            client = client.no_proxy();
        }
        let mut objects = Url::parse(endpoint.url().unwrap_or(GOOGLE))?;
        objects
            .path_segments_mut()
            .map_err(|()| "the endpoint has no path")?
            .pop_if_empty()
            .extend(["storage", "v1", "b", bucket, "o"]);
        Ok(Self {
            client: client.build()?,
            credentials,
            objects,
        })
    }

    /// At most `size` names that begin with `prefix`, from `start` on, that one included.
    pub(super) async fn list(
        &self,
        prefix: &str,
        start: Option<&str>,
        token: Option<&str>,
        size: usize,
    ) -> Result<Page, Failure> {
        let mut url = self.objects.clone();
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("prefix", prefix)
                .append_pair("maxResults", &size.to_string())
                .append_pair("fields", "items(name),nextPageToken");
            if let Some(start) = start {
                query.append_pair("startOffset", start);
            }
            if let Some(token) = token {
                query.append_pair("pageToken", token);
            }
        }
        let answer = self.send(Method::GET, url).await?;
        let body = answer.bytes().await?;
        page(&body)
    }

    /// Removes an object, or only that generation of it; success when there is none.
    pub(super) async fn delete(&self, name: &str, generation: Option<i64>) -> Result<(), Failure> {
        let mut url = self.object(name);
        if let Some(generation) = generation {
            url.query_pairs_mut()
                .append_pair("ifGenerationMatch", &generation.to_string());
        }
        match self.send(Method::DELETE, url).await {
            // 412: what is there now is not what was to be removed.
            Err(failure) if matches!(failure.status(), Some(404 | 412)) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Names may hold slashes; in the path they are one segment.
    fn object(&self, name: &str) -> Url {
        let mut url = self.objects.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(name);
        }
        url
    }

    async fn send(&self, method: Method, url: Url) -> Result<Response, Failure> {
        let headers = self.headers().await?;
        let answer = self
            .client
            .request(method, url)
            .headers(headers)
            .send()
            .await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let headers = answer.headers().clone();
        // Without a body the status alone must do.
        let body = answer.bytes().await.unwrap_or_default();
        Err(Failure::answered(status.as_u16(), &headers, &body))
    }

    async fn headers(&self) -> Result<HeaderMap, Failure> {
        let headers = self.credentials.headers(http::Extensions::new()).await;
        Ok(match headers.map_err(Failure::unauthenticated)? {
            CacheableResource::New { data, .. } => data,
            // Only said to those who name what they have.
            CacheableResource::NotModified => HeaderMap::new(),
        })
    }
}

fn page(body: &[u8]) -> Result<Page, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        items: Vec<Item>,
        next_page_token: Option<String>,
    }
    #[derive(Deserialize)]
    struct Item {
        name: String,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(Failure::unreadable)?;
    Ok(Page {
        names: answer.items.into_iter().map(|item| item.name).collect(),
        next: answer.next_page_token.filter(|token| !token.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use google_cloud_auth::credentials::anonymous;

    use super::*;

    fn api(endpoint: Endpoint) -> JsonApi {
        JsonApi::new(&endpoint, "a-bucket", anonymous::Builder::new().build()).unwrap()
    }

    #[test]
    fn a_name_is_one_segment_of_the_path_whatever_is_in_it() {
        let google = api(Endpoint::Google);
        for (name, path) in [
            (
                "inbox/a.json",
                "https://storage.googleapis.com/storage/v1/b/a-bucket/o/inbox%2Fa.json",
            ),
            (
                "events/dt=2024-05-01/a?b#c%2F d+é",
                "https://storage.googleapis.com/storage/v1/b/a-bucket/o/events%2Fdt=2024-05-01%2Fa%3Fb%23c%252F%20d+%C3%A9",
            ),
        ] {
            assert_eq!(google.object(name).as_str(), path);
        }
        let emulator = api(Endpoint::emulator("127.0.0.1:9023"));
        assert_eq!(
            emulator.object("a/b").as_str(),
            "http://127.0.0.1:9023/storage/v1/b/a-bucket/o/a%2Fb"
        );
    }

    #[test]
    fn a_page_may_be_empty_and_may_have_a_next_one() {
        let names = |names: &[&str], next: Option<&str>| Page {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            next: next.map(str::to_owned),
        };
        for (body, expected) in [
            ("{}", names(&[], None)),
            (
                r#"{"kind":"storage#objects","items":[{"name":"a","size":"1"},{"name":"b"}]}"#,
                names(&["a", "b"], None),
            ),
            (r#"{"nextPageToken":"t"}"#, names(&[], Some("t"))),
            (
                r#"{"items":[{"name":"a"}],"nextPageToken":""}"#,
                names(&["a"], None),
            ),
        ] {
            assert_eq!(page(body.as_bytes()).unwrap(), expected, "{body}");
        }
        assert!(page(b"<html>").unwrap_err().is_passing());
    }
}

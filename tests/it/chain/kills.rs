//! The same story through kills: each process at a moment when what it holds is in the middle of its way.

use std::path::{Path, PathBuf};

use super::{OVER_GRPC, OVER_HTTP, Parent, Story, Told, collect, post, start, trace_of, track};
#[cfg(feature = "cloud")]
use crate::support::emulators;
use crate::support::gateway::Endpoints;

/// A store that is out, or a part of it: a file lies where its folder is.
pub(super) struct Outage {
    store: PathBuf,
    /// Where its folder is meanwhile, if there was one.
    away: Option<PathBuf>,
}

impl Outage {
    pub(super) fn of_the_store(data_dir: &Path) -> Self {
        Self::of(data_dir.join("store"), data_dir.join("away"))
    }

    /// Nothing can be loaded: there is no place for manifests.
    fn of_manifests(data_dir: &Path) -> Self {
        let store = data_dir.join("store");
        Self::of(store.join("manifests"), data_dir.join("manifests-away"))
    }

    fn of(store: PathBuf, away: PathBuf) -> Self {
        let away = store.exists().then_some(away);
        if let Some(away) = &away {
            std::fs::rename(&store, away).unwrap();
        }
        std::fs::write(&store, "not a folder").unwrap();
        Self { store, away }
    }

    pub(super) fn end(self) {
        std::fs::remove_file(&self.store).unwrap();
        if let Some(away) = &self.away {
            std::fs::rename(away, &self.store).unwrap();
        }
    }
}

/// A request of each kind.
struct Sent {
    over_http: Parent,
    over_grpc: Parent,
}

impl Sent {
    async fn through_both_doors(endpoints: &Endpoints) -> Self {
        let (over_http, over_grpc) = (Parent::new(), Parent::new());
        let traceparent = over_http.header(true);
        post(endpoints, &[("traceparent", &traceparent)], track("kh")).await;
        collect(endpoints, &over_grpc, "kg").await;
        Self {
            over_http,
            over_grpc,
        }
    }

    /// Each of them, and what its span is called.
    fn each(&self) -> [(&Parent, &'static str); 2] {
        [(&self.over_http, OVER_HTTP), (&self.over_grpc, OVER_GRPC)]
    }
}

#[tokio::test]
async fn after_kills_before_the_store_and_before_the_load_it_still_leads_to_the_request() {
    let story = Story::begin().await;
    let (dir, settings) = (tempfile::tempdir().unwrap(), story.settings());
    let dir = dir.path();
    let (gateway, endpoints) = start("dev", dir, &settings, &[]).await;
    // Nothing is stored before the next start.
    let no_store = Outage::of_the_store(dir);
    let sent = Sent::through_both_doors(&endpoints).await;
    story
        .until(|told| {
            for (parent, request) in sent.each() {
                told.linked(parent.trace_id, "seal")?;
                told.one(parent.trace_id, request)?;
            }
            Ok(())
        })
        .await;
    gateway.kill().await.unwrap();
    no_store.end();

    // And nothing is loaded before the one after that.
    let no_manifests = Outage::of_manifests(dir);
    let (gateway, _) = start("dev", dir, &settings, &[]).await;
    let told = story
        .until(|told| {
            for (parent, _) in sent.each() {
                told.one(parent.trace_id, "stored")?;
                let batch = trace_of(told.linked(parent.trace_id, "send")?);
                told.one(batch, "settle")?;
            }
            Ok(())
        })
        .await;
    let is_loaded = |told: &Told| told.0.iter().any(|span| span.name == "loaded");
    assert!(!is_loaded(&told), "{}", told.list());
    gateway.kill().await.unwrap();
    no_manifests.end();

    let (gateway, _) = start("dev", dir, &settings, &[]).await;
    for (parent, request) in sent.each() {
        story.whole(parent, request, "send").await;
    }
    drop(gateway);
}

#[cfg(feature = "cloud")]
#[tokio::test]
async fn a_request_is_followed_through_three_processes_and_a_kill_of_each() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let story = Story::begin().await;
    let mut settings = story.settings();
    settings.extend(crate::roles::settings(&url));
    let (front, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let role = |role: &'static str| [("EVENTKIT_ROLE", role)];
    let (gateway, endpoints) = start("serve", front.path(), &settings, &role("gateway")).await;
    let (worker, _) = start("serve", back.path(), &settings, &role("worker")).await;
    let (loader, _) = start("serve", back.path(), &settings, &role("loader")).await;

    let whole = Parent::new();
    post(
        &endpoints,
        &[("traceparent", &whole.header(true))],
        track("p"),
    )
    .await;
    story.whole(&whole, OVER_HTTP, "seal").await;
    let over_grpc = Parent::new();
    collect(&endpoints, &over_grpc, "q").await;
    story.whole(&over_grpc, OVER_GRPC, "seal").await;

    // Nobody is there to store it when it comes, and then others do.
    worker.kill().await.unwrap();
    loader.kill().await.unwrap();
    let sent = Sent::through_both_doors(&endpoints).await;
    // What a process told nobody goes with it.
    story
        .until(|told| {
            for (Parent { trace_id, .. }, request) in sent.each() {
                told.one(*trace_id, request)?;
                told.linked(*trace_id, "wal append")?;
                let batch = trace_of(told.linked(*trace_id, "seal")?);
                told.one(batch, "send")?;
            }
            Ok(())
        })
        .await;
    gateway.kill().await.unwrap();
    let (gateway, _) = start("serve", front.path(), &settings, &role("gateway")).await;
    let (worker, _) = start("serve", back.path(), &settings, &role("worker")).await;
    let (loader, _) = start("serve", back.path(), &settings, &role("loader")).await;
    for (parent, request) in sent.each() {
        story.whole(parent, request, "seal").await;
    }
    drop((gateway, worker, loader));
}

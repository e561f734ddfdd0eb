//! Stands between the warehouse and the emulator and makes calls go wrong, so that every answer is a real one but for its fault.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use eventkit::lifecycle::Tasks;
use futures::stream;
use serde_json::{Value, json};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 503, and nobody was asked.
    Unavailable,
    /// 403, and nobody was asked.
    Denied,
    /// It was done, and the answer breaks off.
    Lost,
    /// It was done twice, and the second answer is heard: 409 for a job.
    Twice,
}

/// What a job is made to look like, or to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Runs for so many looks.
    RunsFor(u32),
    /// Ends as failed, for reasons of BigQuery's own.
    Breaks,
    /// Is a script that fails.
    Raises,
}

#[derive(Debug, Default)]
struct Plan {
    calls: usize,
    fault: Option<(usize, Fault)>,
    /// The next job whose id holds the text.
    job: Option<(&'static str, Job)>,
    broken: HashSet<String>,
    /// What was asked of the jobs with our own ids: method and id.
    jobs: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    target: String,
    pub(crate) url: String,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    /// A proxy before this address, for as long as the runtime lives.
    pub(crate) async fn before(target: &str, tasks: &Tasks) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let proxy = Self {
            target: target.to_owned(),
            url: format!("http://{}", listener.local_addr().expect("an address")),
            plan: Arc::default(),
        };
        let app = Router::new().fallback(pass).with_state(proxy.clone());
        // Ends with the test's runtime.
        drop(tasks.spawn("proxy", async move {
            axum::serve(listener, app).await.expect("it serves");
        }));
        proxy
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn calls(&self) -> usize {
        self.plan().calls
    }

    /// Plans a fault at a call, counted from 0.
    pub(crate) fn fault_at(&self, call: usize, fault: Fault) {
        self.plan().fault = Some((call, fault));
    }

    /// Plans what becomes of the next job whose id holds a text.
    pub(crate) fn job(&self, of: &'static str, job: Job) {
        self.plan().job = Some((of, job));
    }

    /// The ids of the jobs that were sent, in order.
    pub(crate) fn sent(&self) -> Vec<String> {
        let plan = self.plan();
        let sent = plan.jobs.iter().filter(|(method, _)| method == "POST");
        sent.map(|(_, id)| id.clone()).collect()
    }

    /// The ids of the jobs that were asked for, in order, each once as long as it was asked for.
    pub(crate) fn looked(&self) -> Vec<String> {
        let plan = self.plan();
        let looked = plan.jobs.iter().filter(|(method, _)| method == "GET");
        let mut looked: Vec<String> = looked.map(|(_, id)| id.clone()).collect();
        looked.dedup();
        looked
    }

    async fn forward(&self, method: &Method, path: &str, body: Bytes) -> (u16, Bytes) {
        let request = reqwest::Client::new()
            .request(method.clone(), format!("{}{path}", self.target))
            .header("content-type", "application/json")
            .body(body);
        let answer = request.send().await.expect("the emulator answers");
        let status = answer.status().as_u16();
        (status, answer.bytes().await.expect("a body"))
    }

    /// What is planned for the job that a call is about; may change what it is to do.
    fn job_planned(&self, id: &str, body: &mut Bytes) -> Option<Job> {
        let mut plan = self.plan();
        let (of, job) = plan.job.filter(|(of, _)| id.contains(of))?;
        match job {
            Job::RunsFor(0) => plan.job = None,
            Job::RunsFor(looks) => plan.job = Some((of, Job::RunsFor(looks - 1))),
            Job::Breaks => {
                plan.job = None;
                plan.broken.insert(id.to_owned());
            }
            // Only what is sent can be changed.
            Job::Raises if body.is_empty() => return None,
            Job::Raises => {
                plan.job = None;
                let mut sent: Value = serde_json::from_slice(body).expect("a job");
                sent["configuration"]["query"]["query"] =
                    json!("BEGIN TRANSACTION; SELECT ERROR('planned'); COMMIT TRANSACTION;");
                *body = sent.to_string().into();
            }
        }
        Some(job)
    }

    fn change(&self, id: &str, planned: Option<Job>, answer: Bytes) -> Bytes {
        let status = if self.plan().broken.contains(id) {
            let error = json!({ "reason": "backendError", "message": "Error encountered during execution. Retrying may solve the problem." });
            json!({ "state": "DONE", "errorResult": error, "errors": [error] })
        } else if matches!(planned, Some(Job::RunsFor(1..))) {
            json!({ "state": "RUNNING" })
        } else {
            return answer;
        };
        let Ok(mut job) = serde_json::from_slice::<Value>(&answer) else {
            return answer;
        };
        if job.get("status").is_some() {
            job["status"] = status;
        }
        job.to_string().into()
    }
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let mut body = body.expect("a whole request");
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let id = job_id(&parts.method, path, &body);
    let fault = {
        let mut plan = proxy.plan();
        let call = plan.calls;
        plan.calls += 1;
        if let Some(id) = &id {
            plan.jobs.push((parts.method.to_string(), id.clone()));
        }
        plan.fault.filter(|(at, _)| *at == call).map(|(_, f)| f)
    };
    match fault {
        Some(Fault::Unavailable) => return refuse(503, "backendError"),
        Some(Fault::Denied) => return refuse(403, "accessDenied"),
        Some(Fault::Twice) => {
            proxy.forward(&parts.method, path, body.clone()).await;
        }
        Some(Fault::Lost) | None => {}
    }
    let planned = id
        .as_deref()
        .and_then(|id| proxy.job_planned(id, &mut body));
    let (status, answer) = proxy.forward(&parts.method, path, body).await;
    let answer = match &id {
        Some(id) => proxy.change(id, planned, answer),
        None => answer,
    };
    let answer = if fault == Some(Fault::Lost) {
        let broken = stream::iter([Ok(Bytes::from("{")), Err(io::Error::other("lost"))]);
        Body::from_stream(broken)
    } else {
        Body::from(answer)
    };
    let status = axum::http::StatusCode::from_u16(status).expect("a status");
    (status, [("content-type", "application/json")], answer).into_response()
}

/// The id of the job that a call is about, if it is one of ours.
fn job_id(method: &Method, path: &str, body: &Bytes) -> Option<String> {
    let id = if method == Method::POST && path.ends_with("/jobs") {
        let job: Value = serde_json::from_slice(body).ok()?;
        job["jobReference"]["jobId"].as_str()?.to_owned()
    } else {
        let (_, id) = path.split_once("/jobs/")?;
        id.split('?').next()?.to_owned()
    };
    id.starts_with("eventkit-").then_some(id)
}

fn refuse(code: u16, reason: &str) -> Response {
    let error = json!({ "reason": reason, "message": "planned" });
    let body = json!({ "error": { "code": code, "message": "planned", "errors": [error] } });
    let status = axum::http::StatusCode::from_u16(code).expect("a status");
    (
        status,
        [("content-type", "application/json")],
        body.to_string(),
    )
        .into_response()
}

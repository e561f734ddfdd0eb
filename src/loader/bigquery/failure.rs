//! What went wrong, and what that means for the one who waits.
//!
//! BigQuery says why in one word (`reason`) and in a text. The word decides. The text is for people: it names tables, columns and
//! files. It may quote what a file holds, and it gets into a log: what stands in quotes and is no name of ours is left out, and the whole is cut.

use std::fmt;
use std::time::Duration;

use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::error_proto::ErrorProto;
use gcp_bigquery_client::model::job::Job;

use super::super::manifest::ManifestObject;
use super::super::warehouse::{LoadError, WarehouseError};
use super::schema::columns;
use crate::store::Table;

/// Characters of BigQuery's own text that are kept.
const TEXT_MAX: usize = 300;

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobError {
    pub(super) reason: String,
    pub(super) location: String,
    pub(super) message: String,
    /// The texts of all errors, in which names of objects are looked for.
    all: Vec<String>,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.location.is_empty() {
            write!(f, " at {}", cut(&self.location))?;
        }
        write!(f, ": {}", cut(&self.message))
    }
}

fn cut(text: &str) -> String {
    without_quotes(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect()
}

/// The same without what stands in quotes, unless that is a column's name or an object's.
fn without_quotes(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    let mut after_a_word = false;
    while let Some(at) = rest.find(['\'', '"']) {
        let (before, quoted) = rest.split_at(at);
        after_a_word = before
            .chars()
            .next_back()
            .map_or(after_a_word, char::is_alphanumeric);
        let (quote, inside) = quoted.split_at(1);
        kept.push_str(before);
        kept.push_str(quote);
        if quote == "'" && after_a_word {
            // An apostrophe.
            rest = inside;
            continue;
        }
        let (inside, after) = inside.split_once(quote).unwrap_or((inside, ""));
        kept.push_str(if is_ours(inside) { inside } else { "\u{2026}" });
        kept.push_str(quote);
        (rest, after_a_word) = (after, false);
    }
    kept.push_str(rest);
    kept
}

/// Whether a word is a name that this program gave: of a column, or of an object.
fn is_ours(name: &str) -> bool {
    let tables = [Table::Events, Table::Errors].into_iter();
    let mut columns = tables.flat_map(columns);
    let is_object = name.starts_with("gs://") && !name.contains(char::is_whitespace);
    is_object || columns.any(|column| column.name == name)
}

impl JobError {
    /// Why an ended job failed; `None` when it did not.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let status = job.status.as_ref()?;
        let error = status.error_result.as_ref()?;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let others = status.errors.iter().flatten();
        let all = std::iter::once(error).chain(others);
        Some(Self {
            reason: text(&error.reason),
            location: text(&error.location),
            message: text(&error.message),
            all: all.map(places).collect(),
        })
    }

    /// Whether a table or the dataset of the job is not there; the objects may be.
    pub(super) fn lacks_a_table(&self) -> bool {
        self.reason == "notFound"
            && !self.message.contains("gs://")
            && !self.message.contains("URI")
    }

    /// Whether the account may not do it.
    pub(super) fn is_denied(&self) -> bool {
        self.reason == "accessDenied"
    }

    /// What a failed load job means. Only what BigQuery says of a file is held against an object: `invalid` is also a bucket in
    /// another region than the dataset, or a table that does not fit, and then it is no object's fault.
    pub(super) fn of_load(&self, objects: &[&ManifestObject]) -> LoadError {
        let reason = self.to_string();
        let is_about_a_file = match self.reason.as_str() {
            "invalid" => self.names_a_file(objects),
            "notFound" => !self.lacks_a_table(),
            _ => false,
        };
        if !is_about_a_file {
            return LoadError::Attempt { reason };
        }
        let object = match objects {
            [one] => Some(one.object.clone()),
            many => self.names_one_of(many),
        };
        LoadError::Object { object, reason }
    }

    /// Whether an error says that a file could not be read, whichever it was.
    fn names_a_file(&self, objects: &[&ManifestObject]) -> bool {
        self.all.iter().any(|text| {
            let is_named = objects.iter().any(|o| text.contains(&o.object));
            is_named || text.contains("gs://") || text.contains("while reading data")
        })
    }

    /// The one object that an error names. One that names several compares them.
    fn names_one_of(&self, objects: &[&ManifestObject]) -> Option<String> {
        self.all.iter().find_map(|text| {
            let mut named = objects.iter().filter(|o| text.contains(&o.object));
            let first = named.next()?;
            named.next().is_none().then(|| first.object.clone())
        })
    }
}

fn places(error: &ErrorProto) -> String {
    let parts = [&error.location, &error.message];
    let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    parts.join(" ")
}

/// Why a call, or the wait for a job, did not end as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// No answer that could be read.
    #[error("no usable answer")]
    Transport(#[source] Box<BQError>),
    /// A refusal, or an outage that has a name.
    #[error("HTTP {code} {reason}: {message}")]
    Answer {
        code: i64,
        reason: String,
        message: String,
    },
    /// The job takes its time.
    #[error("job {id} is still running after {} s", patience.as_secs())]
    Running { id: String, patience: Duration },
    /// The job failed.
    #[error("job {id} failed, {error}")]
    Job { id: String, error: JobError },
    /// An answer without what it should have.
    #[error("BigQuery's answer has no {0}")]
    Lacks(&'static str),
    /// A load job ended well, and its table does not hold what it loaded.
    #[error("staging table {0} does not hold what was loaded")]
    StagingLost(String),
}

impl From<BQError> for Failure {
    fn from(error: BQError) -> Self {
        match error {
            BQError::ResponseError { error } => {
                let error = error.error;
                let reason = error.errors.first().and_then(|first| first.get("reason"));
                Self::Answer {
                    code: error.code,
                    reason: reason.cloned().unwrap_or(error.status),
                    message: cut(&error.message),
                }
            }
            other => Self::Transport(Box::new(other)),
        }
    }
}

impl Failure {
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            Self::Answer { code, .. } => *code == 404,
            Self::Job { error, .. } => error.lacks_a_table(),
            _ => false,
        }
    }

    pub(super) fn is_there(&self) -> bool {
        matches!(self, Self::Answer { code: 409, .. })
    }

    /// 403 is also the answer to whoever is too quick.
    fn is_denied(&self) -> bool {
        match self {
            Self::Answer { code: 401, .. } => true,
            Self::Answer {
                code: 403, reason, ..
            } => {
                let passes = ["quota", "rate", "backend", "internal"];
                let reason = reason.to_lowercase();
                !passes.iter().any(|word| reason.contains(word))
            }
            Self::Job { error, .. } => error.is_denied(),
            _ => false,
        }
    }

    pub(super) fn of_warehouse(self, name: String) -> WarehouseError {
        if self.is_not_found() {
            WarehouseError::Gone { name }
        } else if self.is_denied() {
            WarehouseError::Denied {
                name,
                source: Box::new(self),
            }
        } else {
            WarehouseError::Unavailable {
                name,
                source: Box::new(self),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gcp_bigquery_client::error::{NestedResponseError, ResponseError};
    use gcp_bigquery_client::model::job_status::JobStatus;

    use super::*;
    use crate::store::Traces;

    fn object(name: &str) -> ManifestObject {
        ManifestObject {
            table: Table::Events,
            object: name.to_owned(),
            day: "2026-01-31".into(),
            rows: 1,
            bytes: 1,
            marker: "m".into(),
            traces: Traces::default(),
        }
    }

    fn failed(errors: &[(&str, &str)]) -> JobError {
        let errors: Vec<ErrorProto> = errors
            .iter()
            .map(|(reason, message)| ErrorProto {
                reason: Some((*reason).to_owned()),
                message: Some((*message).to_owned()),
                ..ErrorProto::default()
            })
            .collect();
        let job = Job {
            status: Some(JobStatus {
                error_result: errors.first().cloned(),
                errors: Some(errors),
                state: Some("DONE".into()),
            }),
            ..Job::default()
        };
        JobError::of(&job).unwrap()
    }

    #[test]
    fn only_errors_about_content_are_held_against_an_object() {
        let (a, b) = (object("events/a.parquet"), object("events/b.parquet"));
        for (errors, expected) in [
            (
                &[("invalid", "bad file gs://x/events/b.parquet")] as &[_],
                Some(Some("events/b.parquet")),
            ),
            (
                &[("invalid", "Error while reading data, error message: bad")],
                Some(None),
            ),
            // As it says of a bucket in another region, at the level of the job.
            (
                &[(
                    "invalid",
                    "Cannot read and write in different locations: source: EU, destination: US",
                )],
                None,
            ),
            (
                &[("invalid", "events/a.parquet differs from events/b.parquet")],
                Some(None),
            ),
            (
                &[
                    ("invalid", "2 errors"),
                    ("invalid", "gs://x/events/a.parquet"),
                ],
                Some(Some("events/a.parquet")),
            ),
            (
                &[("notFound", "Not found: URI gs://x/events/a.parquet")],
                Some(Some("events/a.parquet")),
            ),
            (&[("notFound", "Not found: Table p:d.t_staging")], None),
            (&[("backendError", "events/a.parquet")], None),
            (&[("internalError", "")], None),
            (&[("quotaExceeded", "")], None),
            (&[("stopped", "")], None),
        ] {
            let found = match failed(errors).of_load(&[&a, &b]) {
                LoadError::Object { object, .. } => Some(object),
                LoadError::Attempt { .. } => None,
                other => panic!("{other:?}"),
            };
            let found = found.as_ref().map(|object| object.as_deref());
            assert_eq!(found, expected, "{errors:?}");
        }
        let alone = failed(&[("invalid", "bad file gs://x/y")]).of_load(&[&a]);
        assert!(
            matches!(&alone, LoadError::Object { object: Some(name), .. } if *name == a.object),
            "{alone:?}"
        );
    }

    #[test]
    fn a_jobs_own_text_is_kept_short_and_on_one_line() {
        let error = failed(&[("invalid", &format!("a\nb{}", "x".repeat(9_999)))]);
        let text = error.to_string();
        assert!(
            text.starts_with("invalid: a b") && text.len() < 400,
            "{text}"
        );
    }

    #[test]
    fn what_a_text_quotes_of_a_file_is_left_out_and_what_is_named_stays() {
        for (text, shown) in [
            ("plain", "plain"),
            (
                "Could not parse 'ada@example.org' as TIMESTAMP for field 'received_at'",
                "Could not parse '\u{2026}' as TIMESTAMP for field 'received_at'",
            ),
            (
                "Error in \"gs://b/events/a.parquet\": it's \"Ada's\" value",
                "Error in \"gs://b/events/a.parquet\": it's \"\u{2026}\" value",
            ),
            ("last read: 'ada", "last read: '\u{2026}'"),
            ("'ada''bob'", "'\u{2026}''\u{2026}'"),
        ] {
            let error = failed(&[("invalid", text)]);
            assert_eq!(error.to_string(), format!("invalid: {shown}"));
        }
    }

    fn answer(code: i64, reason: &str) -> WarehouseError {
        let error = BQError::ResponseError {
            error: ResponseError {
                error: NestedResponseError {
                    code,
                    errors: vec![[("reason".to_owned(), reason.to_owned())].into()],
                    message: "m".into(),
                    status: String::new(),
                },
            },
        };
        Failure::from(error).of_warehouse("w".into())
    }

    #[test]
    fn refusals_call_for_a_person_and_everything_else_passes() {
        for (code, reason, word) in [
            (401, "authError", "denied"),
            (403, "accessDenied", "denied"),
            (403, "billingNotEnabled", "denied"),
            (403, "rateLimitExceeded", "passes"),
            (403, "quotaExceeded", "passes"),
            (404, "notFound", "gone"),
            // Also what a transaction hears that met another one.
            (400, "invalidQuery", "passes"),
            (429, "", "passes"),
            (500, "backendError", "passes"),
            (503, "backendError", "passes"),
        ] {
            let found = match answer(code, reason) {
                WarehouseError::Denied { .. } => "denied",
                WarehouseError::Gone { .. } => "gone",
                WarehouseError::Unavailable { .. } => "passes",
                other => panic!("{other:?}"),
            };
            assert_eq!(found, word, "{code} {reason}");
        }
        let late = Failure::Late(Duration::from_secs(1)).of_warehouse("w".into());
        assert!(matches!(late, WarehouseError::Unavailable { .. }));
    }
}

//! The streaming doors: one request of the load is one stream.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use eventkit::proto::v1;
use eventkit::proto::v1::collect_bidi_response::Message;
use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::client::{Heard, Outcomes, answer_of, broken, protos};
use crate::events::Made;
use crate::support::clients::ANSWER_TIMEOUT;
use crate::support::ledger::Answer;

/// How many events a message of a stream carries.
const EVENTS_PER_MESSAGE: usize = 4;

/// The outcomes of some events, of which only those that are not "accepted" are told.
fn told(request: &[Made], told: &BTreeMap<usize, (Answer, String)>) -> Outcomes {
    let one = |(index, made): (usize, &Made)| match told.get(&index) {
        Some(outcome) => outcome.clone(),
        None => (Answer::Accepted, made.sent.message_id.clone()),
    };
    request.iter().enumerate().map(one).collect()
}

/// Whether the counts are those of the outcomes.
fn check_counts(outcomes: &Outcomes, counts: [u64; 3]) -> Result<()> {
    let kinds = [Answer::Accepted, Answer::Duplicate, Answer::Rejected];
    for (kind, count) in kinds.into_iter().zip(counts) {
        let found = outcomes.iter().filter(|(answer, _)| *answer == kind);
        let found = u64::try_from(found.count())?;
        ensure!(found == count, "{count} {kind:?} counted, {found} told");
    }
    Ok(())
}

/// A client stream: everything or nothing is answered.
pub(super) async fn over_client_stream(
    grpc: &mut IngestServiceClient<Channel>,
    request: &[Made],
) -> Result<Heard> {
    let messages: Vec<_> = request
        .chunks(EVENTS_PER_MESSAGE)
        .map(|part| v1::CollectStreamRequest {
            events: protos(part),
            ..v1::CollectStreamRequest::default()
        })
        .collect();
    let summary = match grpc.collect_stream(tokio_stream::iter(messages)).await {
        Ok(summary) => summary.into_inner(),
        Err(status) => return broken(&status).map(|()| Heard::Nothing),
    };
    let mut listed = BTreeMap::new();
    for line in summary.results {
        let message = usize::try_from(line.message_index)?;
        let result = line.result.context("a line without a result")?;
        let index = message * EVENTS_PER_MESSAGE + usize::try_from(result.index)?;
        listed.insert(index, (answer_of(&result)?, result.message_id));
    }
    let outcomes = told(request, &listed);
    let counts = [summary.accepted, summary.duplicate, summary.rejected];
    check_counts(&outcomes, counts)?;
    Ok(Heard::Outcomes(outcomes))
}

/// A stream in both directions: when it breaks off, what was acknowledged until then is owed all the same.
pub(super) async fn over_bidi(
    grpc: &mut IngestServiceClient<Channel>,
    request: &[Made],
) -> Result<Heard> {
    let parts: Vec<_> = request.chunks(EVENTS_PER_MESSAGE).collect();
    let batches: Vec<_> = (1u64..)
        .zip(&parts)
        .map(|(batch_number, part)| v1::CollectBidiRequest {
            batch_number,
            events: protos(part),
            ..v1::CollectBidiRequest::default()
        })
        .collect();
    let mut answers = match grpc.collect_bidi(tokio_stream::iter(batches)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return broken(&status).map(|()| Heard::Nothing),
    };
    let mut outcomes: Outcomes = Vec::with_capacity(request.len());
    let mut expected = (1u64..).zip(&parts);
    let mut greeted = false;
    loop {
        let Ok(answer) = timeout(ANSWER_TIMEOUT, answers.message()).await else {
            break;
        };
        let answer = match answer {
            Ok(Some(answer)) => answer.message.context("an answer without a message")?,
            Ok(None) => {
                ensure!(
                    outcomes.len() == request.len(),
                    "OK before the last acknowledgement"
                );
                break;
            }
            Err(status) => {
                broken(&status)?;
                break;
            }
        };
        match answer {
            Message::Hello(_) => {
                ensure!(!greeted, "a second hello");
                greeted = true;
            }
            Message::Draining(_) => {}
            Message::Ack(ack) => {
                ensure!(greeted, "an acknowledgement before the hello");
                let Some((number, part)) = expected.next() else {
                    bail!("an acknowledgement too many: {}", ack.batch_number);
                };
                ensure!(
                    ack.batch_number == number,
                    "{} for {number}",
                    ack.batch_number
                );
                outcomes.extend(acknowledged(part, ack)?);
            }
        }
    }
    Ok(if outcomes.is_empty() {
        Heard::Nothing
    } else {
        Heard::Outcomes(outcomes)
    })
}

fn acknowledged(part: &[Made], ack: v1::BatchAck) -> Result<Outcomes> {
    let mut listed = BTreeMap::new();
    for result in ack.results {
        let index = usize::try_from(result.index)?;
        listed.insert(index, (answer_of(&result)?, result.message_id));
    }
    let outcomes = told(part, &listed);
    let counts = [ack.accepted, ack.duplicate, ack.rejected].map(u64::from);
    check_counts(&outcomes, counts)?;
    Ok(outcomes)
}

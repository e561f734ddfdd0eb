//! From a client's bytes to the columns of a row. Pure.
//!
//! An adapter reads what is there and gives each part its type; whether the parts make an event of their type is
//! [`super::validate`]'s to say. What holds for every [`Draft`], whatever the protocol:
//!
//! - A text column is absent, never empty: `null`, `""` and a missing field are the same. Ids given as numbers are text,
//!   digit for digit.
//! - The five JSON columns hold one JSON object each, byte for byte as the client wrote it; a protobuf `Struct` becomes
//!   canonical JSON. The batch's shared context and integrations lie under the event's own: where both have a top-level
//!   key, the event wins. Below both lie address and user agent of the client, where a client itself was the sender.
//! - Times are in the years 1 to 9999.
//!
//! No reason that is given for a refusal holds a value of the event.

use crate::event::{Event, Micros, PayloadFormat};
use crate::ingress::decode::DecodeError;
use crate::status::Code;

use super::{Rejected, Stage};

mod client;
mod json;
mod merge;
mod protobuf;
pub mod time;

/// The columns that come from the client. The rest of a row is what the gateway decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `Row`")]
pub struct Draft {
    pub kind: Option<String>,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
    pub event: Option<String>,
    pub name: Option<String>,
    pub category: Option<String>,
    pub group_id: Option<String>,
    pub previous_id: Option<String>,
    pub properties: Option<String>,
    pub traits: Option<String>,
    pub context: Option<String>,
    pub integrations: Option<String>,
    pub extra: Option<String>,
    pub timestamp: Micros,
    pub original_timestamp: Option<Micros>,
    pub sent_at: Option<Micros>,
}

/// Reads an event's payload.
///
/// # Errors
///
/// [`Rejected`]: the payload is not what its format says, or a part of it has a type or value that no column holds.
pub fn adapt(event: &Event<'_>) -> Result<Draft, Rejected> {
    let mut draft = match event.format {
        PayloadFormat::Json => json::adapt(event)?,
        PayloadFormat::Event => protobuf::adapt(event)?,
    };
    // The path says what it is; a body that says otherwise does not change that.
    if let Some(kind) = event.kind.filter(|kind| !kind.is_empty()) {
        draft.kind = Some(kind.to_owned());
    }
    draft.context = merge::under(draft.context, event.batch_context)
        .map_err(|_invalid| rejected(Code::InvalidField, "the batch's context is not an object"))?;
    draft.integrations =
        merge::under(draft.integrations, event.batch_integrations).map_err(|_invalid| {
            rejected(
                Code::InvalidField,
                "the batch's integrations are not an object",
            )
        })?;
    // The client may say itself who it is; what the gateway saw comes last.
    let seen = client::context(event.client);
    draft.context = merge::under(draft.context, seen.as_bytes())
        .map_err(|_invalid| rejected(Code::InvalidField, "context must be an object"))?;
    Ok(draft)
}

impl From<DecodeError> for Rejected {
    fn from(error: DecodeError) -> Self {
        rejected(error.code(), error.to_string())
    }
}

/// A refusal by an adapter.
fn rejected(code: Code, reason: impl Into<String>) -> Rejected {
    Rejected {
        stage: Stage::Adapt,
        code,
        reason: reason.into(),
    }
}

/// A text column's value: an empty text is none.
fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;

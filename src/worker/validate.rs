//! Whether a draft makes an event of its type. Pure.
//!
//! | type | needs |
//! |---|---|
//! | `identify`, `page`, `screen` | `user_id` or `anonymous_id` |
//! | `track` | the same, and `event` |
//! | `group` | the same, and `group_id` |
//! | `alias` | `previous_id` and `user_id` |
//! | any other, at most [`TYPE_BYTES_MAX`] | nothing else |
//!
//! Ids and names hold at most [`TEXT_BYTES_MAX`]. Types are told apart by their exact spelling. Reasons name the column
//! and never hold a value of the event.

use super::adapt::Draft;
use super::{Rejected, Stage};
use crate::status::Code;

/// The longest type in bytes.
pub const TYPE_BYTES_MAX: usize = 256;

/// The longest id or name in bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Judges a draft.
///
/// # Errors
///
/// [`Rejected`]: the first rule that it breaks.
pub fn validate(draft: &Draft) -> Result<(), Rejected> {
    let Some(kind) = draft.kind.as_deref() else {
        return Err(missing("type is required"));
    };
    short("type", Some(kind), TYPE_BYTES_MAX)?;
    let texts = [
        ("user_id", &draft.user_id),
        ("anonymous_id", &draft.anonymous_id),
        ("event", &draft.event),
        ("name", &draft.name),
        ("category", &draft.category),
        ("group_id", &draft.group_id),
        ("previous_id", &draft.previous_id),
    ];
    for (column, text) in texts {
        short(column, text.as_deref(), TEXT_BYTES_MAX)?;
    }
    required(kind, draft)
}

fn required(kind: &str, draft: &Draft) -> Result<(), Rejected> {
    let somebody = draft.user_id.is_some() || draft.anonymous_id.is_some();
    let need = |there: bool, reason: &str| if there { Ok(()) } else { Err(missing(reason)) };
    match kind {
        "identify" | "track" | "page" | "screen" | "group" => {
            need(somebody, "user_id or anonymous_id is required")?;
        }
        "alias" => {
            need(
                draft.previous_id.is_some(),
                "previous_id is required for alias",
            )?;
            need(draft.user_id.is_some(), "user_id is required for alias")?;
        }
        _ => {}
    }
    match kind {
        "track" => need(draft.event.is_some(), "event is required for track"),
        "group" => need(draft.group_id.is_some(), "group_id is required for group"),
        _ => Ok(()),
    }
}

fn short(column: &str, text: Option<&str>, bytes_max: usize) -> Result<(), Rejected> {
    if text.is_some_and(|text| text.len() > bytes_max) {
        return Err(Rejected {
            stage: Stage::Validate,
            code: Code::FieldTooLong,
            reason: format!("{column} is longer than {bytes_max} bytes"),
        });
    }
    Ok(())
}

fn missing(reason: &str) -> Rejected {
    Rejected {
        stage: Stage::Validate,
        code: Code::MissingField,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;

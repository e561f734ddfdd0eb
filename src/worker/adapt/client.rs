//! What the gateway saw of a client, as a part of the event's context.

use serde::Serialize;

use crate::event::Client;

/// One JSON object; empty where nothing was seen.
pub(super) fn context(client: Client<'_>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Seen<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        ip: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_agent: Option<&'a str>,
    }
    let Client { ip, user_agent } = client;
    if ip.is_none() && user_agent.is_none() {
        return String::new();
    }
    serde_json::to_string(&Seen { ip, user_agent }).unwrap_or_default()
}

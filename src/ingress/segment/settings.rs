//! What SDKs load before they start. Without an answer some of them never send anything.

use serde_json::{Value, json};

/// For Segment's, in browsers and on telephones. They look for the entry `Segment.io` and its key, which is the one they
/// asked with.
pub(super) fn of_project(key: &str) -> Value {
    let all = || json!({ "__default": { "enabled": true } });
    json!({
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "versionSettings": { "version": "4.4.7", "componentTypes": ["browser"] },
            },
        },
        "plan": { "track": all(), "identify": all(), "group": all() },
        "analyticsNextEnabled": true,
    })
}

/// For RudderStack's: a source that is switched on and has no destinations but this.
pub(super) fn of_source() -> Value {
    json!({
        "source": {
            "id": "eventkit",
            "name": "eventkit",
            "enabled": true,
            "workspaceId": "eventkit",
            "config": {
                "statsCollection": { "errors": { "enabled": false }, "metrics": { "enabled": false } },
            },
            "destinations": [],
            "connections": [],
            "dataplanes": {},
        },
    })
}

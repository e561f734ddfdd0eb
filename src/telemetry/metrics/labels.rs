//! Label sets, made once. Every value is of a closed list: nothing that a client sends can become one.

use std::sync::{LazyLock, OnceLock};

use opentelemetry::KeyValue;

use crate::status::Code;

/// `protocol="http"`.
pub static HTTP: LazyLock<[KeyValue; 1]> = LazyLock::new(|| [KeyValue::new("protocol", "http")]);
/// `protocol="grpc"`.
pub static GRPC: LazyLock<[KeyValue; 1]> = LazyLock::new(|| [KeyValue::new("protocol", "grpc")]);

/// `outcome="taken"`, of a file that was changed.
pub static RELOAD_TAKEN: LazyLock<[KeyValue; 1]> =
    LazyLock::new(|| [KeyValue::new("outcome", "taken")]);
/// `outcome="refused"`, of one that cannot be used.
pub static RELOAD_REFUSED: LazyLock<[KeyValue; 1]> =
    LazyLock::new(|| [KeyValue::new("outcome", "refused")]);

/// What stands for a code that is none of ours.
pub const OTHER: &str = "other";

/// For each code its label set; the last one stands for what is none.
static CODES: LazyLock<Vec<[KeyValue; 1]>> = LazyLock::new(|| {
    let words = Code::ALL.iter().map(|code| code.as_str()).chain([OTHER]);
    words.map(|word| [KeyValue::new("code", word)]).collect()
});

/// One more than the highest status of HTTP.
const HTTP_STATUSES: usize = 600;
/// So many codes has gRPC.
const GRPC_CODES: usize = 17;

type Pair = OnceLock<[KeyValue; 2]>;

/// A code of the closed list.
#[must_use]
pub fn code(code: Code) -> &'static [KeyValue] {
    // The list has them in the order of their declaration.
    at(&CODES, code as usize)
}

/// A code by its word, as error rows have it.
#[must_use]
pub fn code_word(word: &str) -> &'static [KeyValue] {
    let known = Code::ALL.iter().position(|code| code.as_str() == word);
    at(&CODES, known.unwrap_or(Code::ALL.len()))
}

/// Protocol and status of an HTTP request.
#[must_use]
pub fn http_request(status: u16) -> &'static [KeyValue] {
    static PAIRS: [Pair; HTTP_STATUSES] = [const { OnceLock::new() }; HTTP_STATUSES];
    request(&PAIRS, "http", usize::from(status))
}

/// Protocol and status of a call.
#[must_use]
pub fn grpc_request(code: tonic::Code) -> &'static [KeyValue] {
    static PAIRS: [Pair; GRPC_CODES] = [const { OnceLock::new() }; GRPC_CODES];
    request(&PAIRS, "grpc", code as usize)
}

fn request(pairs: &'static [Pair], protocol: &'static str, status: usize) -> &'static [KeyValue] {
    let Some(pair) = pairs.get(status) else {
        return &[];
    };
    pair.get_or_init(|| {
        let status = i64::try_from(status).unwrap_or(i64::MAX);
        [
            KeyValue::new("protocol", protocol),
            KeyValue::new("status", status),
        ]
    })
}

fn at(sets: &'static [[KeyValue; 1]], place: usize) -> &'static [KeyValue] {
    sets.get(place).map_or(&[], |set| set)
}

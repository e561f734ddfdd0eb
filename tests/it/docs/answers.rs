//! The table of answers in `docs/protocol.md` against the closed list of codes: whatever a client can hear stands there, with what to do.

use std::collections::BTreeSet;

use super::*;

/// One row: what came back over HTTP and over gRPC, and what a client does.
struct Row<'a> {
    line: &'a str,
    http: &'a str,
    grpc: &'a str,
    then: &'a str,
}

fn rows(page: &str) -> Vec<Row<'_>> {
    let (_before, rest) = page.split_once("\n| what came back |").unwrap();
    let (table, _after) = rest.split_once("\n\n").unwrap();
    let rows = table.lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [_what, http, grpc, then] = cells[..] else {
            panic!("not four cells: {line}");
        };
        Row {
            line,
            http,
            grpc,
            then,
        }
    });
    rows.collect()
}

/// The statuses of errors in a cell.
fn statuses(cell: &str) -> impl Iterator<Item = u16> {
    let words = cell.split(|c: char| !c.is_ascii_alphanumeric());
    let numbers = words.filter_map(|word| word.parse().ok());
    numbers.filter(|status| (400..600).contains(status))
}

/// The names of gRPC's codes in a cell.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    let is_name =
        |word: &&str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    cell.split('`').skip(1).step_by(2).filter(is_name)
}

/// What a client can hear of a request as a whole. The list ends with the codes of error rows, the admin port is none of its business.
fn heard() -> impl Iterator<Item = Code> {
    let all = Code::ALL.iter().copied();
    let heard = all.take_while(|code| *code != Code::InvalidPayload);
    heard.filter(|code| *code != Code::AdminTokenNeeded)
}

#[test]
fn every_code_that_a_client_hears_has_its_answer() {
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let rows = rows(&page);
    let ours = |row: &&Row<'_>| !row.grpc.contains("made by the client's library");
    for code in heard() {
        let is_of = |row: &&Row<'_>| {
            let mut of_http = statuses(row.http);
            let is_status = match code {
                // A deadline is gRPC's alone.
                Code::DeadlineExceeded => of_http.next().is_none(),
                _ => of_http.any(|status| status == code.http()),
            };
            is_status && names(row.grpc).any(|name| name == grpc_name(code))
        };
        let found: Vec<_> = rows.iter().filter(ours).filter(is_of).collect();
        assert_eq!(found.len(), 1, "{code}");
        let Row {
            line,
            http,
            grpc,
            then,
        } = found[0];
        let again = then.contains("sends again with the same ids");
        assert_eq!(again, code.retry() == Retry::SameIds, "{code}: {line}");
        let wait = RequestError::from(code).retry_after().is_some();
        assert_eq!(http.contains("with `Retry-After`"), wait, "{code}: {line}");
        assert_eq!(grpc.contains("with `RetryInfo`"), wait, "{code}: {line}");
    }
}

#[test]
fn every_answer_is_one_that_a_client_can_hear() {
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let mut known: BTreeSet<String> = heard().map(grpc_name).collect();
    // Success, and what only a client's own library says.
    known.extend(["OK", "CANCELLED"].map(str::to_owned));
    let known_statuses: BTreeSet<u16> = heard().map(Code::http).collect();
    for row in rows(&page) {
        for status in statuses(row.http) {
            assert!(known_statuses.contains(&status), "{status}: {}", row.line);
        }
        for name in names(row.grpc) {
            assert!(known.contains(name), "{name}: {}", row.line);
        }
    }
}

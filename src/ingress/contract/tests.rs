use std::collections::BTreeSet;

use axum::Router;
use axum::routing::get;

use super::super::http;
use super::*;
use crate::config::{Inputs, Profile, validate};
use crate::status::Code;

/// As `dev` has it.
fn config() -> IngressConfig {
    let inputs = Inputs {
        profile: Profile::Dev,
        env: BTreeMap::new(),
        flags: BTreeMap::new(),
        host_name: "host".into(),
    };
    validate(&inputs).unwrap().config.ingress
}

/// Every path and method of a router, read off what it shows of itself.
fn routed(router: &Router<Ingress>) -> BTreeSet<(String, String)> {
    let shown = format!("{router:?}");
    let (routes, names) = shown
        .split_once("node: Node { paths: ")
        .expect("the router shows its paths");
    let mut found = BTreeSet::new();
    for named in names.split("RouteId(").skip(1) {
        let (id, rest) = named.split_once("): \"").unwrap_or_default();
        let Some((path, rest)) = rest.split_once('"') else {
            break;
        };
        let mark = format!("RouteId({id}): MethodRouter(MethodRouter {{ ");
        let (_, methods) = routes.split_once(&mark).expect("each path has methods");
        let (methods, _) = methods.split_once("fallback:").unwrap();
        for method in methods.split(", ").filter(|method| !method.is_empty()) {
            let (method, handler) = method.split_once(": ").unwrap();
            if handler != "None" {
                found.insert((path.to_owned(), method.to_owned()));
            }
        }
        if rest.starts_with('}') {
            break;
        }
    }
    found
}

fn document(strangers: Strangers) -> Value {
    of(&config(), strangers)
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(to) => document.pointer(to.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

fn described() -> BTreeSet<(String, String)> {
    let document = document(Strangers::Open);
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = resolved(&document, item).as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.clone()))
        })
        .collect()
}

#[test]
fn every_path_and_method_of_the_router_is_in_the_document_and_no_other() {
    let described = described();
    assert!(described.len() > 190, "{}", described.len());
    assert_eq!(described, routed(&http::routes("")));
}

#[test]
fn a_path_that_nobody_described_is_noticed() {
    let handler = || async {};
    let router = http::routes("").route("/more", get(handler).put(handler));
    let undescribed: Vec<_> = routed(&router).difference(&described()).cloned().collect();
    let more = |method: &str| ("/more".to_owned(), method.to_owned());
    assert_eq!(undescribed, [more("get"), more("put")]);
}

#[test]
fn nothing_is_referred_to_that_is_not_there_and_nothing_is_there_for_nobody() {
    let document = document(Strangers::Refused);
    let text = document.to_string();
    let mut referred = BTreeSet::new();
    for rest in text.split("\"$ref\":\"#").skip(1) {
        let to = rest.split('"').next().unwrap();
        assert!(document.pointer(to).is_some(), "{to}");
        referred.insert(to.to_owned());
    }
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            let place = format!("/components/{kind}/{name}");
            let is_used = kind == "securitySchemes" || referred.contains(&place);
            assert!(is_used, "{place}");
        }
    }
}

#[test]
fn every_code_that_http_can_carry_is_somewhere() {
    let document = document(Strangers::Open);
    let told: BTreeSet<&str> = document["components"]["responses"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(|answer| {
            answer
                .pointer("/content/application~1json/schema/allOf/1/properties/code/enum")?
                .as_array()
        })
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // Of calls, of the admin port, of rows; and the two that no path answers with.
    let others = [
        Code::InvalidProtobuf,
        Code::PayloadConflict,
        Code::DeadlineExceeded,
        Code::OutcomeUnknown,
        Code::Unimplemented,
        Code::Forbidden,
        Code::AdminTokenNeeded,
        Code::Internal,
        Code::MethodNotAllowed,
    ];
    let of_rows = Code::ALL
        .iter()
        .skip_while(|code| **code != Code::InvalidPayload);
    let left_out: BTreeSet<&str> = others
        .iter()
        .chain(of_rows)
        .map(|code| code.as_str())
        .collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(
        all.difference(&told).copied().collect::<BTreeSet<_>>(),
        left_out
    );
}

#[test]
fn a_key_is_asked_for_where_strangers_are_refused() {
    let needs = |strangers, path: &str| {
        let document = document(strangers);
        let item = resolved(&document, &document["paths"][path]).clone();
        let (_method, operation) = item.as_object().unwrap().iter().next().unwrap();
        let ways = operation["security"].as_array().unwrap().clone();
        !ways.is_empty() && !ways.contains(&json!({}))
    };
    for path in [
        "/collect",
        "/collect/{stream}",
        "/t",
        "/v1/batch",
        "/pixel/page",
    ] {
        assert!(needs(Strangers::Refused, path), "{path}");
        assert!(!needs(Strangers::Welcome, path), "{path}");
        assert!(!needs(Strangers::Open, path), "{path}");
    }
    for path in ["/health", "/ready", "/openapi.json", "/m", "/sourceConfig"] {
        assert!(!needs(Strangers::Refused, path), "{path}");
    }
}

#[test]
fn the_prefix_is_one_more_place_of_all_paths() {
    let mut config = config();
    config.http_prefix = "/first/party".into();
    let servers = &of(&config, Strangers::Open)["servers"];
    assert_eq!(servers[1]["url"], "/first/party");
    assert_eq!(servers.as_array().unwrap().len(), 2);
}

#[test]
fn operations_have_names_of_their_own() {
    let document = document(Strangers::Open);
    let paths = document["paths"].as_object().unwrap();
    let ids: Vec<&str> = paths
        .values()
        .filter_map(Value::as_object)
        .flat_map(|item| item.values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    for id in ["collect", "collectStream", "track", "batch", "sourceConfig"] {
        assert!(distinct.contains(&id), "{ids:?}");
    }
}

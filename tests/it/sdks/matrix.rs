//! Each SDK, and whatever may happen to its requests on their way.

use std::slice;

use futures::future::join_all;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::columns::assert_all_six;
use super::*;

const WELL: &[Fault] = &[];
const BUSY: &[Fault] = &[Fault::Status(503)];
const TOO_FAST: &[Fault] = &[Fault::Status(429)];
const CUT_OFF: &[Fault] = &[Fault::DropAnswer];

/// An SDK that took an answer for a failure comes again within this time.
const AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// How many requests so many calls are.
fn requests(sdk: Sdk, calls: usize) -> usize {
    // Where nothing is gathered, each call has a request of its own.
    if sdk == STANDARD { calls } else { 1 }
}

/// Every request came as the SDK sends it.
fn assert_requests(sdk: Sdk, left: &Left) {
    // `wk-SECRET:`
    const BASIC: &str = "Basic d2stU0VDUkVUOg==";
    type Way = (
        &'static [&'static str],
        &'static str,
        Option<&'static str>,
        Option<&'static str>,
    );
    const SHORT: &[&str] = &["/v1/i", "/v1/t", "/v1/p", "/v1/s", "/v1/g", "/v1/a"];
    let (paths, kind, key, packing): Way = match sdk {
        Sdk::Node => (&["/v1/batch"], "application/json", Some(BASIC), None),
        Sdk::Python { gzip } => (
            &["/v1/batch"],
            "application/json",
            None,
            gzip.then_some("gzip"),
        ),
        STANDARD => (SHORT, "text/plain", Some(BASIC), None),
        BEACON => (&["/beacon/v1/batch"], "text/plain", None, None),
        Sdk::Browser(_) => (&["/v1/b"], "text/plain", Some(BASIC), None),
    };
    for seen in &left.seen {
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
        assert!(paths.contains(&seen.path.as_str()), "{seen:?}");
        assert!(
            header("content-type").is_some_and(|found| found.starts_with(kind)),
            "{seen:?}"
        );
        assert_eq!(header("authorization"), key, "{seen:?}");
        assert_eq!(header("content-encoding"), packing, "{seen:?}");
    }
    // A browser asks before it sends a key in a header.
    let asks = matches!(sdk, Sdk::Browser(_)) && key.is_some();
    assert_eq!(!left.asked.is_empty(), asks, "{:?}", left.asked);
}

/// How often each status was answered; `None`: the answer was lost.
fn statuses(left: &Left) -> Vec<Option<u16>> {
    let mut statuses: Vec<_> = left.seen.iter().map(Seen::status).collect();
    statuses.sort_unstable();
    statuses
}

/// All six calls, and one row of each, whatever is done to their first request.
async fn six_rows(cases: &[(Sdk, &[Fault])]) {
    let scenes = join_all(cases.iter().map(|(_, faults)| Scene::set(faults))).await;
    let of_case = |((sdk, _), scene): (&(Sdk, _), &Scene)| scene.app(*sdk, "all");
    let apps: Vec<App> = cases.iter().zip(&scenes).map(of_case).collect();
    let Some(driver) = Driver::start(&apps) else {
        return;
    };
    let scenes = scenes.into_iter().map(|scene| (scene, 6)).collect();
    let (left, said) = ended(scenes, driver).await;
    assert_eq!(said.matches("done\n").count(), apps.len(), "{said}");
    for ((app, (sdk, faults)), left) in apps.iter().zip(cases).zip(&left) {
        assert_all_six(app, "default", &left.rows);
        assert_requests(*sdk, left);
        let refused = faults.iter().map(|fault| match fault {
            Fault::Status(status) => Some(*status),
            Fault::DropAnswer | Fault::DropAnswerAndHold => None,
        });
        if matches!(*sdk, UNLOAD | BEACON) && *faults == CUT_OFF {
            // Nobody is left to send it again, unless the browser does on its own.
            let (lost, again): (Vec<_>, Vec<_>) =
                statuses(left).into_iter().partition(Option::is_none);
            assert_eq!(lost.len(), 1, "{app:?} {:?}", left.seen);
            assert!(
                again.iter().all(|status| *status == Some(200)),
                "{:?}",
                left.seen
            );
            continue;
        }
        let taken = std::iter::repeat_n(Some(200), requests(*sdk, 6));
        let mut expected: Vec<_> = refused.chain(taken).collect();
        expected.sort_unstable();
        assert_eq!(statuses(left), expected, "{app:?} {:?}", left.seen);
    }
}

/// The gateway is killed after it has stored what came first and before anyone heard of it.
async fn six_rows_over_a_restart(sdks: &[Sdk]) {
    let fault = Fault::DropAnswerAndHold;
    let scenes = sdks.iter().map(|_| Scene::set(slice::from_ref(&fault)));
    let scenes = join_all(scenes).await;
    let apps = sdks
        .iter()
        .zip(&scenes)
        .map(|(sdk, scene)| scene.app(*sdk, "all"));
    let apps: Vec<App> = apps.collect();
    let Some(driver) = Driver::start(&apps) else {
        return;
    };
    let held = scenes.iter().map(|scene| scene.front.faults_done(1));
    timeout(ROWS_WITHIN, join_all(held))
        .await
        .unwrap_or_else(|_elapsed| panic!("nothing was sent:\n{}", driver.said()));
    let scenes = join_all(scenes.into_iter().map(Scene::restarted)).await;
    // What was stored before the kill is a row without its answer: the SDK has to come for that, too.
    for (app, scene) in apps.iter().zip(&scenes) {
        let seen = || scene.front.seen();
        let answered = || seen().iter().filter(|seen| seen.status().is_some()).count();
        let instead = || format!("{app:?} {:?}\n{}", seen(), driver.said());
        until(|| answered() >= requests(app.sdk, 6), instead).await;
    }
    let scenes = scenes.into_iter().map(|scene| (scene, 6)).collect();
    let (left, said) = ended(scenes, driver).await;
    assert_eq!(said.matches("done\n").count(), apps.len(), "{said}");
    for (app, left) in apps.iter().zip(&left) {
        assert_all_six(app, "default", &left.rows);
        let (lost, answered): (Vec<_>, Vec<_>) =
            statuses(left).into_iter().partition(Option::is_none);
        assert!(!lost.is_empty(), "{app:?} {:?}", left.seen);
        let expected = vec![Some(200); requests(app.sdk, 6)];
        assert_eq!(answered, expected, "{app:?} {:?}", left.seen);
    }
}

/// A bad event is told and not sent again, and its neighbours are rows.
async fn two_rows_of_three(sdks: &[Sdk]) {
    let scenes = join_all(sdks.iter().map(|_| Scene::set(WELL))).await;
    // What pages with an SDK do first.
    let identified = |sdk: Sdk| usize::from(matches!(sdk, Sdk::Browser(_)) && sdk != BEACON);
    let apps = sdks
        .iter()
        .zip(&scenes)
        .map(|(sdk, scene)| scene.app(*sdk, "bad"));
    let apps: Vec<App> = apps.collect();
    let Some(driver) = Driver::start(&apps) else {
        return;
    };
    let rows = sdks.iter().map(|sdk| 2 + identified(*sdk) as u64);
    let scenes: Vec<_> = scenes.into_iter().zip(rows).collect();
    join_all(scenes.iter().map(|(scene, rows)| scene.has(*rows, &driver))).await;
    // The others end when they have nothing left to send; a page is there for as long as somebody looks at it.
    if sdks.iter().any(|sdk| matches!(sdk, Sdk::Browser(_))) {
        sleep(AGAIN_WITHIN).await;
    }
    let (left, said) = ended(scenes, driver).await;
    assert_eq!(said.matches("done\n").count(), apps.len(), "{said}");
    for (sdk, left) in sdks.iter().zip(&left) {
        let calls = 3 + identified(*sdk);
        let expected = vec![Some(200); requests(*sdk, calls)];
        assert_eq!(statuses(left), expected, "{sdk:?} {:?}", left.seen);
        let told: Vec<Value> = left.seen.iter().map(Seen::told).collect();
        let results = told
            .iter()
            .flat_map(|told| told["results"].as_array().unwrap());
        let codes: Vec<_> = results
            .filter_map(|result| result["code"].as_str())
            .collect();
        assert_eq!(codes, ["too_deep"], "{sdk:?} {told:?}");
        let mut events: Vec<_> = left
            .rows
            .iter()
            .filter_map(|row| row["event"].as_str())
            .collect();
        if *sdk == STANDARD {
            // Requests race.
            events.sort_unstable_by_key(|event| *event == "after");
        }
        assert_eq!(events, ["before", "after"], "{sdk:?}");
    }
}

/// Each of the SDKs with each of what may happen.
fn each(sdks: &[Sdk]) -> Vec<(Sdk, &'static [Fault])> {
    let faults = [WELL, BUSY, TOO_FAST, CUT_OFF];
    let each = |sdk: &Sdk| faults.map(|faults| (*sdk, faults));
    sdks.iter().flat_map(each).collect()
}

#[tokio::test]
async fn node_makes_one_row_of_each_call_refused_or_answered_in_vain() {
    six_rows(&each(&[NODE])).await;
}

#[tokio::test]
async fn node_makes_one_row_of_each_call_over_a_restart() {
    six_rows_over_a_restart(&[NODE]).await;
}

#[tokio::test]
async fn node_does_not_send_a_batch_with_a_bad_event_again() {
    two_rows_of_three(&[NODE]).await;
}

#[tokio::test]
async fn python_makes_one_row_of_each_call_refused_or_answered_in_vain() {
    six_rows(&each(&[PYTHON, PYTHON_GZIP])).await;
}

#[tokio::test]
async fn python_makes_one_row_of_each_call_over_a_restart() {
    six_rows_over_a_restart(&[PYTHON, PYTHON_GZIP]).await;
}

#[tokio::test]
async fn python_does_not_send_a_batch_with_a_bad_event_again() {
    two_rows_of_three(&[PYTHON, PYTHON_GZIP]).await;
}

#[tokio::test]
async fn a_page_makes_one_row_of_each_call_refused_or_answered_in_vain() {
    // What is sent when a page goes is sent once: whatever is refused is lost.
    let going = [
        (UNLOAD, WELL),
        (UNLOAD, CUT_OFF),
        (BEACON, WELL),
        (BEACON, CUT_OFF),
    ];
    let staying = each(&[STANDARD, BATCHING]);
    six_rows(&[&going, staying.as_slice()].concat()).await;
}

#[tokio::test]
async fn a_page_makes_one_row_of_each_call_over_a_restart() {
    six_rows_over_a_restart(&[STANDARD, BATCHING]).await;
}

#[tokio::test]
async fn a_page_does_not_send_a_bad_event_again() {
    two_rows_of_three(&[STANDARD, BATCHING, UNLOAD, BEACON]).await;
}

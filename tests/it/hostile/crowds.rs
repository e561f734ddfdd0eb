//! Clients in numbers: connections that say nothing, begin something, stay, or vanish; and more of them than there are descriptors.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::bad_input::Running;
use crate::doors::{read_to_end, within};
use crate::support::emulators::list_not_run;
use crate::support::gateway::{DEBUG, Gateway, SQLITE};

/// How many connections are opened at a time.
const AT_ONCE: usize = 64;
/// What an idle connection may cost, measured with a build that is not optimised.
const IDLE_KIB_MAX: u64 = 64;
/// The crowd may have every place that there is.
const ALL_OF_IT: (&str, &str) = ("EVENTKIT_MAX_ADDRESS_CONNECTIONS", "10000");
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

/// Opens so many connections, so many at a time, and does the same on each.
async fn crowd<T, F: Future<Output = T>>(
    subject: &Subject,
    (count, at_once): (usize, usize),
    each: impl Fn(TcpStream, usize) -> F,
) -> Vec<T> {
    let addr = subject.http_addr();
    let each = &each;
    stream::iter(0..count)
        .map(|number| async move {
            let connected = within(TcpStream::connect(addr)).await;
            each(connected.unwrap(), number).await
        })
        .buffer_unordered(at_once)
        .collect()
        .await
}

/// Heads and bodies that never end, 300 of each kind at a time, some as large as a head may be.
async fn slow_loris(subject: &Subject) {
    let large = format!("X: {}", "y".repeat(60_000));
    let starts: [&[u8]; 6] = [
        b"",
        b"POST /collect HTT",
        b"POST /collect HTTP/1.1\r\nHost: x\r\nX: ",
        large.as_bytes(),
        b"POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ];
    let starts = &starts;
    crowd(subject, (300, 300), |mut client, number| async move {
        drop(client.write_all(starts[number % starts.len()]).await);
        let (mut from, mut to) = client.split();
        let dripping = async {
            while to.write_all(b"z").await.is_ok() {
                sleep(BREATH).await;
            }
            std::future::pending().await
        };
        let mut said = Vec::new();
        tokio::select! {
            _ended = within(from.read_to_end(&mut said)) => {}
            () = dripping => {}
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    })
    .await;
}

/// Connections that are there and gone: closed, reset, in the middle of a request.
async fn vanishing(subject: &Subject) {
    crowd(subject, (3_000, AT_ONCE), |mut client, number| async move {
        if number % 3 != 0 {
            drop(
                client
                    .write_all(b"POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
                    .await,
            );
        }
        if number % 2 == 0 {
            client.set_zero_linger().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn clients_that_come_in_numbers_are_ended_and_good_events_are_rows_meanwhile_and_afterwards()
{
    let subject = Subject::start(IMPATIENT).await;
    let attacks = [
        Attack::new("slow loris, 300 at a time", |subject| {
            Box::pin(slow_loris(subject))
        }),
        Attack::new("3,000 that vanish", |subject| Box::pin(vanishing(subject))),
    ];
    withstand(&subject, &attacks).await;
    subject.finish().await;
}

/// Asks for something on so many connections, and keeps them.
async fn stay(subject: &Subject, count: usize) -> Vec<TcpStream> {
    crowd(subject, (count, AT_ONCE), |mut client, _| async move {
        client.write_all(HEALTH).await.unwrap();
        let mut answer = [0; 15];
        within(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        client
    })
    .await
}

/// As many descriptors for this process as it may have; whether that is enough.
fn can_hold(count: usize) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let needed = u64::try_from(count + 500).unwrap();
    limit.maximum.is_none_or(|maximum| maximum >= needed)
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_little_and_are_in_nobodys_way() {
    let count = if is_long() { 10_000 } else { 2_000 };
    if !can_hold(count) {
        assert_ne!(
            setting("CI").as_deref(),
            Some("true"),
            "more open files are needed"
        );
        list_not_run(
            "descriptors",
            "idle connections (the limit of open files is too small)",
        );
        return;
    }
    let room = (count + 100).to_string();
    let mut subject = Subject::start(&[
        ("EVENTKIT_MAX_CONNECTIONS", room.as_str()),
        ("EVENTKIT_MAX_ADDRESS_CONNECTIONS", room.as_str()),
    ])
    .await;
    let (before, held) = (subject.usage(), idle_crowd(&subject, count).await);
    let each = held.saturating_sub(before.rss_kib) / u64::try_from(count).unwrap();
    assert!(each <= IDLE_KIB_MAX, "{each} KiB for each connection");
    // The system gets little of it back: what comes next finds it there.
    subject.before.rss_kib = held;
    subject.finish().await;
}

/// Good clients beside so many that do nothing, until these go; how much memory it took.
async fn idle_crowd(subject: &Subject, count: usize) -> u64 {
    let before = subject.usage();
    let began = Instant::now();
    let clients = stay(subject, count).await;
    let opened = began.elapsed();
    let cpu = subject.gateway.cpu().unwrap();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let asked = Instant::now();
        subject.good("idle connections").await;
        slowest = slowest.max(asked.elapsed());
        sleep(BREATH).await;
    }
    let (held, busy) = (subject.usage(), subject.gateway.cpu().unwrap() - cpu);
    say(&format!(
        "hostile: {count} idle connections: opened in {opened:.1?}, {} KiB each, {} descriptors; 20 good events of each door beside \
         them took {busy:.1?} of a processor in {:.1?}, the slowest two {slowest:.0?}",
        held.rss_kib.saturating_sub(before.rss_kib) / u64::try_from(count).unwrap(),
        held.descriptors,
        began.elapsed()
    ));
    // They are all open; files come and go.
    assert!(held.descriptors + DESCRIPTORS_GROWTH_MAX >= before.descriptors + count);
    drop(clients);
    until("descriptors are given back", async || {
        subject.usage().descriptors <= before.descriptors + DESCRIPTORS_GROWTH_MAX
    })
    .await;
    subject.good("idle connections").await;
    held.rss_kib
}

/// What is said when there is no descriptor for who comes.
const PAUSED: &str = "accept_paused";

/// How often the gateway has said something.
fn said(subject: &Subject, word: &str) -> usize {
    let heard = subject.gateway.heard();
    heard.iter().filter(|line| line.contains(word)).count()
}

/// Takes the descriptors away from a gateway that runs, and lets a crowd come: who is in is served, who comes waits, and nothing
/// spins or falls over. Then the crowd goes.
async fn run_out(subject: &Subject) {
    let pid = Some(subject.gateway.pid().unwrap());
    let open = u64::try_from(subject.usage().descriptors).unwrap();
    let few = Rlimit {
        current: Some(open + 40),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let said_before = said(subject, PAUSED);
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let clients: Vec<_> = stream::iter(0..200)
        .map(|_| TcpStream::connect(subject.http_addr()))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    until("it has no descriptors left", async || {
        said(subject, PAUSED) > said_before
    })
    .await;
    let (began, cpu) = (Instant::now(), subject.gateway.cpu().unwrap());
    // Those who are in already are served.
    while began.elapsed() < Duration::from_secs(2) {
        subject.good("descriptors that ran out").await;
        sleep(BREATH * 2).await;
    }
    let (took, busy) = (began.elapsed(), subject.gateway.cpu().unwrap() - cpu);
    say(&format!(
        "hostile: no descriptors left: {busy:.1?} of a processor in {took:.1?}, {} lines about it",
        said(subject, PAUSED) - said_before
    ));
    assert!(busy < took / 2, "it spins: {busy:?} in {took:?}");
    assert!(
        said(subject, PAUSED) - said_before < 20,
        "it says so over and over"
    );
    drop(clients);
    let mut next = within(TcpStream::connect(subject.http_addr()))
        .await
        .unwrap();
    next.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut next).await.starts_with(b"HTTP/1.1 200"));
    prlimit(pid, Resource::Nofile, before).unwrap();
}

#[tokio::test]
async fn without_descriptors_accepting_pauses_and_everyone_is_served_in_the_end() {
    // sled needs a descriptor for each sync: what a limit from the start keeps for it is looked at below.
    let settings = [IMPATIENT, &[DEBUG, SQLITE]].concat();
    let subject = Subject::start(&settings).await;
    for round in 0..2 {
        run_out(&subject).await;
        subject
            .good(&format!("descriptors that ran out, round {round}"))
            .await;
    }
    until("it goes on", async || said(&subject, "accept_resumed") > 0).await;
    subject.finish().await;
}

/// A limit that is there from the start: there are never more connections than leave descriptors for the files, so that nothing
/// but the door notices.
#[tokio::test]
async fn a_limit_of_descriptors_leaves_enough_for_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_owned();
    let settings = [IMPATIENT, &[DEBUG, ALL_OF_IT]].concat();
    let mut gateway = Gateway::spawn_within(256, &data, &settings).unwrap();
    let endpoints = gateway.ready(Duration::from_secs(30)).await.unwrap();
    let subject = Subject::of(Running {
        dir,
        data,
        gateway,
        entrance: endpoints.clone(),
        endpoints,
        key: None,
    })
    .await;
    assert_eq!(said(&subject, "connections_limited_by_descriptors"), 1);
    let come = Arc::new(tokio::sync::Semaphore::new(0));
    let crowd = crowd(&subject, (400, 400), |mut client, _| {
        let come = Arc::clone(&come);
        async move {
            drop(client.write_all(HEALTH).await);
            drop(come.acquire().await.unwrap());
            // Who came too late was answered late, or not before its time was over.
            let mut answer = [0; 15];
            client.read_exact(&mut answer).await.is_ok()
        }
    });
    let (began, cpu) = (Instant::now(), subject.gateway.cpu().unwrap());
    let beside = async {
        for _ in 0..30 {
            subject.good("a crowd beyond the limit").await;
            assert!(subject.usage().descriptors < 256);
            sleep(BREATH).await;
        }
        let (took, busy) = (began.elapsed(), subject.gateway.cpu().unwrap() - cpu);
        assert!(busy < took / 2, "it spins: {busy:?} in {took:?}");
        come.add_permits(400);
    };
    let (answered, ()) = futures::join!(crowd, beside);
    let answered = answered
        .into_iter()
        .filter(|is_answered| *is_answered)
        .count();
    say(&format!(
        "hostile: 256 descriptors: {answered} of 400 answered, {} open",
        subject.usage().descriptors
    ));
    assert!(answered >= 100, "{answered}");
    assert_eq!(said(&subject, PAUSED), 0);
    subject.good("a crowd beyond the limit").await;
    subject.finish().await;
}

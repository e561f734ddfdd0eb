//! A hostile network, against the real binary. Each attack runs beside good clients of both doors, and is held against the same
//! five things: it is answered or its connection is closed, within a time; the server's memory has a limit meanwhile; its
//! descriptors come back; the good clients are served, meanwhile and afterwards; and what was acknowledged, whenever that was, is
//! one row each in the end.
//!
//! What is wrong with single requests is in `bad_input`, with the same subject; here it comes in numbers, or means harm. With
//! `EVENTKIT_CHAOS=long` there are more of them.

use std::cell::Cell;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::time::{Instant, sleep, timeout};

use crate::bad_input::{DESCRIPTORS_GROWTH_MAX, Subject, until};
use crate::e2e::say;
use crate::support::gateway::setting;

mod answers;
mod crowds;
mod floods;
mod frames;
mod keys;
mod packed;
mod paths;
mod shapes;
mod tls;
mod web;

/// Short limits, and long enough for a machine that is busy with other things.
const IMPATIENT: &[(&str, &str)] = &[
    ("EVENTKIT_HEADER_TIMEOUT", "2"),
    ("EVENTKIT_BODY_TIMEOUT", "2"),
    ("EVENTKIT_IDLE_TIMEOUT", "3"),
];
/// Between two good events while an attack lasts.
const BREATH: Duration = Duration::from_millis(50);
/// How long an attack may last at the most: far longer than any limit of [`IMPATIENT`], on a busy machine.
const OVER_WITHIN: Duration = Duration::from_secs(30);
/// How much memory an attack may cost at any moment: about what may be under way (`EVENTKIT_MAX_IN_FLIGHT_BYTES`), and less than what
/// the attacks would take from a server without limits.
const RSS_GROWTH_KIB_MAX: u64 = 128 << 10;

/// One attack. It ends when everything of it was answered or closed, and fails when something was answered that should not be.
struct Attack {
    name: &'static str,
    run: for<'s> fn(&'s Subject) -> LocalBoxFuture<'s, ()>,
    /// Whether good clients may be told to come again while it lasts: it is as much as the gateway holds at once.
    sheds: bool,
}

impl Attack {
    fn new(name: &'static str, run: for<'s> fn(&'s Subject) -> LocalBoxFuture<'s, ()>) -> Self {
        Self {
            name,
            run,
            sheds: false,
        }
    }

    fn that_sheds(self) -> Self {
        Self {
            sheds: true,
            ..self
        }
    }
}

/// What good clients saw of an attack.
#[derive(Debug, Default)]
struct Seen {
    served: u32,
    shed: u32,
    slowest: Duration,
}

/// Whether the long form is asked for.
fn is_long() -> bool {
    setting("EVENTKIT_CHAOS").as_deref() == Some("long")
}

/// Lets the subject stand one attack after the other, and looks at all of it.
async fn withstand(subject: &Subject, attacks: &[Attack]) {
    for attack in attacks {
        let name = attack.name;
        let before = subject.usage();
        subject.gateway.forget_peak().unwrap();
        let began = Instant::now();
        let is_over = Cell::new(false);
        let attacking = async {
            let over = timeout(OVER_WITHIN, (attack.run)(subject)).await;
            assert!(over.is_ok(), "{name}: it is neither answered nor closed");
            is_over.set(true);
        };
        let ((), seen) = futures::join!(attacking, serve_beside(subject, attack, &is_over));
        let took = began.elapsed();
        subject.good(name).await;
        until(&format!("{name}: descriptors are given back"), async || {
            subject.usage().descriptors <= before.descriptors + DESCRIPTORS_GROWTH_MAX
        })
        .await;
        let grown = subject.usage().peak_kib.saturating_sub(before.rss_kib);
        let Seen {
            served,
            shed,
            slowest,
        } = seen;
        say(&format!(
            "hostile: {name}: {took:.1?}, RSS {grown} KiB more at the most, {served} good events beside it ({shed} told to come \
             again), the slowest two in {slowest:.0?}"
        ));
        assert!(
            grown <= RSS_GROWTH_KIB_MAX,
            "{name}: RSS {} KiB, and {grown} KiB more",
            before.rss_kib
        );
        assert!(served > 0, "{name}: nobody was served");
    }
}

/// Good events through both doors until the attack is over.
async fn serve_beside(subject: &Subject, attack: &Attack, is_over: &Cell<bool>) -> Seen {
    let mut seen = Seen::default();
    while !is_over.get() {
        let asked = Instant::now();
        let taken = subject.try_good(attack.name).await;
        assert!(
            attack.sheds || taken == 2,
            "{}: a good client was told to come again",
            attack.name
        );
        seen.served += taken;
        seen.shed += 2 - taken;
        seen.slowest = seen.slowest.max(asked.elapsed());
        sleep(BREATH).await;
    }
    seen
}

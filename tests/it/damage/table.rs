//! The table of damages, and the sweep over random ones.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Case, ENGINES, EVENTS, End, GROUP, Template, change, fs, live_end, setting};

type Hurt = fn(&Case);
type Expected = fn(End) -> bool;

fn whole(end: End) -> bool {
    end == End::Whole
}

fn repaired(end: End) -> bool {
    end == End::Repaired
}

/// Some, and not nearly all, is lost.
fn few_lost(end: End) -> bool {
    matches!(end, End::Named(lost) if lost > 0 && lost < EVENTS / 2)
}

fn any(_: End) -> bool {
    true
}

fn all_lost(end: End) -> bool {
    matches!(end, End::Named(lost) if lost > EVENTS / 2)
}

fn refused(end: End) -> bool {
    end != End::Whole
}

fn cut(bytes: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |file| file.truncate(live_end(file).saturating_sub(bytes))
}

fn zero(bytes: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |file| {
        let from = live_end(file).saturating_sub(bytes);
        file[from..].fill(0);
    }
}

fn flip(file: &mut [u8], at: usize) {
    file.iter_mut()
        .skip(at)
        .take(4)
        .for_each(|byte| *byte ^= 0x5a);
}

const BOTH: &[(&str, Hurt, Expected)] = &[
    ("nothing", |_| {}, whole),
    (
        "a cut tail",
        |case| change(&case.file(), cut(9_000)),
        few_lost,
    ),
    (
        "a zeroed tail",
        |case| change(&case.file(), zero(9_000)),
        few_lost,
    ),
    (
        "a byte flipped in the middle",
        |case| {
            change(&case.file(), |file| {
                let at = live_end(file) / 2;
                flip(file, at);
            });
        },
        any,
    ),
    (
        "no mark",
        |case| fs::remove_file(case.mark()).unwrap(),
        repaired,
    ),
    (
        "an empty mark",
        |case| fs::write(case.mark(), b"").unwrap(),
        repaired,
    ),
    (
        "a mark of zeros",
        |case| fs::write(case.mark(), [0; 128]).unwrap(),
        repaired,
    ),
    (
        "no directory",
        |case| fs::remove_dir_all(case.log()).unwrap(),
        all_lost,
    ),
    (
        "an empty directory",
        |case| {
            fs::remove_dir_all(case.log()).unwrap();
            fs::create_dir(case.log()).unwrap();
        },
        all_lost,
    ),
];

const SLED: &[(&str, Hurt, Expected)] = &[
    (
        "no db",
        |case| fs::remove_file(case.log().join("db")).unwrap(),
        all_lost,
    ),
    (
        "an empty db",
        |case| fs::write(case.log().join("db"), b"").unwrap(),
        all_lost,
    ),
    (
        "no conf",
        |case| fs::remove_file(case.log().join("conf")).unwrap(),
        any,
    ),
    (
        "an empty conf",
        |case| fs::write(case.log().join("conf"), b"").unwrap(),
        any,
    ),
    (
        "empty snapshots",
        |case| snapshots(case, |_| Vec::new()),
        whole,
    ),
    (
        "corrupt snapshots",
        |case| {
            snapshots(case, |mut bytes| {
                flip(&mut bytes, 10);
                bytes
            });
        },
        whole,
    ),
    (
        "a snapshot that was being generated",
        |case| fs::write(case.log().join("snap.00000000000FFFFF.generating"), b"half").unwrap(),
        whole,
    ),
];

const SQLITE: &[(&str, Hurt, Expected)] = &[
    (
        "no log.db",
        |case| fs::remove_file(case.log().join("log.db")).unwrap(),
        refused,
    ),
    (
        "an empty log.db",
        |case| fs::write(case.log().join("log.db"), b"").unwrap(),
        refused,
    ),
    (
        "no log.db-wal",
        |case| fs::remove_file(case.file()).unwrap(),
        refused,
    ),
    (
        "a damaged header of log.db",
        |case| change(&case.log().join("log.db"), |file| flip(file, 2)),
        repaired,
    ),
    (
        "a damaged header of log.db-wal",
        |case| change(&case.file(), |file| flip(file, 9)),
        repaired,
    ),
];

fn snapshots(case: &Case, hurt: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut found = 0;
    for entry in fs::read_dir(case.log()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("snap.")
        {
            fs::write(&path, hurt(fs::read(&path).unwrap())).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "the second start left a snapshot");
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture, or when the test fails"
)]
fn say(text: &str) {
    println!("{text}");
}

#[tokio::test]
async fn every_damage_ends_in_recovery_or_in_a_refusal_whose_command_leaves_no_silent_loss() {
    for engine in ENGINES {
        let template = Template::make(engine).await;
        let own = if engine == "sled" { SLED } else { SQLITE };
        for (what, hurt, expected) in BOTH.iter().chain(own) {
            let case = template.copy();
            hurt(&case);
            let end = case.judge(what).await;
            say(&format!("{engine}: {what}: {end:?}"));
            assert!(expected(end), "{engine}: {what}: {end:?}");
        }
    }
}

/// `EVENTKIT_CHAOS=long` tries more places; `EVENTKIT_DAMAGE_SEED` repeats a run.
#[tokio::test]
async fn flipped_bytes_anywhere_never_lose_anything_silently() {
    let long = setting("EVENTKIT_CHAOS").is_some_and(|value| value == "long");
    let flips = if long { 400 } else { 20 };
    let seed = setting("EVENTKIT_DAMAGE_SEED").map_or_else(rand::random, |seed| {
        seed.parse().expect("EVENTKIT_DAMAGE_SEED is a number")
    });
    say(&format!("EVENTKIT_DAMAGE_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    for engine in ENGINES {
        let template = Template::make(engine).await;
        let (mut refusals, mut lost) = (0, 0);
        for _ in 0..flips {
            let case = template.copy();
            let mut place = String::new();
            change(&case.file(), |file| {
                let at = random.random_range(0..live_end(file));
                place = format!("seed {seed}: flipped at {at} of {}", file.len());
                flip(file, at);
            });
            match case.judge(&place).await {
                End::Whole => {}
                End::Repaired => refusals += 1,
                End::Named(events) => {
                    refusals += 1;
                    lost += events;
                }
            }
        }
        say(&format!(
            "{engine}: {flips} flips, {refusals} refusals, {lost} events lost, all of them named"
        ));
        assert!(
            refusals > 0,
            "{engine}: the flips hit live bytes (seed {seed})"
        );
        assert!(
            lost <= refusals * 2 * GROUP * 4,
            "{engine}: {refusals} repairs lost {lost} events: what lies behind damage is not saved"
        );
    }
}

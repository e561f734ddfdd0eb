//! Damage to the files of a log on sled: it comes back whole or is refused. Silent loss fails the test.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use eventkit::clock::SystemClock;
use eventkit::config::Engine;
use eventkit::wal::repair::{Outcome, Request, repair};
use eventkit::wal::{Checkpoint, Damage, OpenError, Seal};

use super::{
    ENGINES, Sent, append, assert_holds, beside, checkpoint, close, copy_dir, copy_log, durable,
    events, first_held, open_on, read_from, seal, settle_lanes, wait,
};

/// A log as it lay on the disk at several moments, and what it held.
pub(super) struct Template {
    engine: Engine,
    pub(super) dir: tempfile::TempDir,
    pub(super) sent: Vec<Sent>,
    /// The one that is settled.
    first_seal: Seal,
    seals: Vec<Seal>,
    checkpoint: Checkpoint,
    refusals: Cell<usize>,
}

/// While it was open, after it was closed, and after it was opened and closed once more: the last one has a snapshot.
pub(super) const STATES: [&str; 3] = ["killed", "closed", "reopened"];
const SETTLED: u64 = 100;
/// How many events there were when "yesterday" was copied.
const YESTERDAY: u64 = 320;

impl Template {
    fn make() -> Self {
        Self::on(Engine::Sled)
    }

    pub(super) fn on(engine: Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("live");
        let (wal, _) = open_on(engine, &path).unwrap();
        let first_seal = seal(&wal, 0, 0, 0, 99);
        let mut sent = Vec::new();
        for n in 0..60 {
            let batch = events(&format!("g{n}"), 8, 1_500);
            append(&wal, &batch);
            sent.extend(batch);
            if n == 20 {
                let mut settled = checkpoint(SETTLED);
                settled.lanes[0].next_number = 1;
                assert!(wait(wal.seal(vec![first_seal])));
                settle_lanes(&wal, settled);
            }
            if sent.len() as u64 == YESTERDAY {
                copy_log(&path, &dir.path().join("yesterday"));
            }
        }
        let seals = vec![seal(&wal, 0, 1, 100, 150), seal(&wal, 3, 0, 110, 170)];
        assert!(wait(wal.seal(seals.clone())));
        let mut settled = checkpoint(SETTLED);
        settled.lanes[0].next_number = 1;
        copy_log(&path, &dir.path().join("killed"));
        close(wal);
        copy_log(&path, &dir.path().join("closed"));
        // sled writes a snapshot when it opens.
        close(open_on(engine, &path).unwrap().0);
        copy_log(&path, &dir.path().join("reopened"));
        Self {
            engine,
            dir,
            sent,
            first_seal,
            seals,
            checkpoint: settled,
            refusals: Cell::new(0),
        }
    }

    /// A copy of one of the states, to be damaged.
    pub(super) fn copy(&self, state: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        copy_log(&self.dir.path().join(state), &path);
        (dir, path)
    }

    /// Opens a damaged log and says what became of it; panics at silent loss.
    #[track_caller]
    pub(super) fn judge(&self, path: &Path, case: &str) -> Verdict {
        let verdict = self.judge_open(path, case);
        if !matches!(verdict, Verdict::Whole | Verdict::Replays) {
            // A third of the many is enough, and every one of the few.
            let refusals = self.refusals.replace(self.refusals.get() + 1);
            if refusals < 5 || refusals.is_multiple_of(3) {
                self.repair(path, case);
            }
        }
        verdict
    }

    /// The same, and a refused log is left as the refusals leave it.
    #[track_caller]
    pub(super) fn judge_open(&self, path: &Path, case: &str) -> Verdict {
        let verdict = match open_on(self.engine, path) {
            Ok((wal, unsettled)) => {
                assert_eq!(
                    durable(&wal),
                    self.sent.len() as u64,
                    "{case}: records lost"
                );
                let settled = usize::try_from(SETTLED).unwrap();
                assert_holds(&wal, SETTLED, &self.sent[settled..]);
                let exact =
                    unsettled.checkpoint == self.checkpoint && unsettled.seals == self.seals;
                let known = |seal| self.seals.contains(seal) || *seal == self.first_seal;
                assert!(
                    unsettled.seals.iter().all(known),
                    "{case}: a seal out of nowhere"
                );
                assert!(unsettled.checkpoint.offset <= SETTLED, "{case}: ahead");
                let again = append(&wal, &self.sent[settled..]);
                assert_eq!(again.duplicates.len(), self.sent.len() - settled, "{case}");
                append(&wal, &events("after", 3, 1_000));
                close(wal);
                let (wal, _) = open_on(self.engine, path).unwrap();
                assert_eq!(
                    durable(&wal),
                    self.sent.len() as u64 + 3,
                    "{case}: used and reopened"
                );
                close(wal);
                if exact {
                    Verdict::Whole
                } else {
                    Verdict::Replays
                }
            }
            Err(OpenError::Damaged { damage, .. }) => Verdict::Damaged(damage),
            Err(OpenError::Engine { .. }) => Verdict::Storage,
            Err(OpenError::Io { source, .. }) => panic!("{case}: {source}"),
            Err(other) => panic!("{case}: {other}"),
        };
        if !matches!(verdict, Verdict::Whole | Verdict::Replays) {
            // A refusal must not repair itself into a loss.
            let again = open_on(self.engine, path);
            assert!(
                again.is_err(),
                "{case}: refused as {verdict:?}, then opened"
            );
        }
        verdict
    }

    /// Repairs a refused log: every event is in the fresh one or in a range that the report names, and nothing is gone.
    #[track_caller]
    fn repair(&self, path: &Path, case: &str) {
        let before = contents(path);
        let request = Request {
            path: path.to_owned(),
            engine: self.engine,
            lanes: 4,
            dry_run: false,
            accept_loss: true,
            new_id: false,
        };
        let report = repair(&request, &SystemClock, &mut |_| {});
        let report = report.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(report.outcome, Outcome::Repaired, "{case}: {report:?}");
        if let Some(before) = before {
            let aside = report.set_aside.as_ref().unwrap();
            assert!(contents(aside).as_ref() == Some(&before), "{case}: kept");
        }
        let (wal, unsettled) = open_on(self.engine, path)
            .unwrap_or_else(|error| panic!("{case}: repaired as {report:?}, and then {error}"));
        assert_ne!(wal.log_id(), self.first_seal.batch.log_id, "{case}");
        assert!(unsettled.seals.is_empty());
        let first = first_held(&wal);
        let by_bytes: HashMap<Vec<u8>, u64> = (0u64..)
            .zip(&self.sent)
            .map(|(offset, sent)| (sent.record(), offset))
            .collect();
        let held: Vec<u64> = read_from(&wal, first)
            .into_iter()
            .map(|(_, bytes)| {
                *by_bytes
                    .get(&bytes)
                    .unwrap_or_else(|| panic!("{case}: invented"))
            })
            .collect();
        assert!(
            held.is_sorted_by(|a, b| a < b),
            "{case}: in order, each once"
        );
        assert_eq!(durable(&wal), report.records, "{case}");
        let named = |offset: u64| {
            report
                .lost
                .iter()
                .any(|lost| (lost.from..=lost.to).contains(&offset))
        };
        let end = held.last().map_or(0, |last| last + 1);
        for offset in SETTLED..self.sent.len() as u64 {
            let beyond = !report.end_known && offset >= end;
            assert!(
                held.binary_search(&offset).is_ok() || named(offset) || beyond,
                "{case}: offset {offset} is lost silently: {report:?}"
            );
        }
        let settled = usize::try_from(unsettled.checkpoint.offset - first).unwrap();
        assert!(
            held.iter().take(settled).all(|&offset| offset < SETTLED),
            "{case}: taken for settled: {report:?}"
        );
        let kept: Vec<_> = held
            .iter()
            .map(|&at| self.sent[usize::try_from(at).unwrap()].clone())
            .collect();
        assert_eq!(append(&wal, &kept).duplicates.len(), kept.len(), "{case}");
        append(&wal, &events("after the repair", 3, 1_000));
        close(wal);
        close(open_on(self.engine, path).unwrap().0);
    }
}

/// Every file below a directory with its bytes; `None` when there is no directory.
fn contents(path: &Path) -> Option<BTreeMap<PathBuf, Vec<u8>>> {
    fn collect(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    path.is_dir().then(|| collect(path, path, &mut found))?;
    Some(found)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// Every event is there, the newest seals or the newest checkpoint are not: batches are made and settled once more,
    /// and the merge removes what is then stored twice.
    Replays,
    Damaged(Damage),
    /// The engine does not open, or its own checks fail.
    Storage,
}

pub(super) fn lost(from: u64, to: u64) -> impl Fn(&Verdict) -> bool {
    move |verdict| matches!(verdict, Verdict::Damaged(Damage::Lost { from: f, to: t, .. }) if (*f, *t) == (from, to))
}

pub(super) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn snapshots(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("snap.")
        })
        .collect()
}

#[test]
fn an_undamaged_copy_of_every_state_is_whole() {
    for engine in ENGINES {
        let template = Template::on(engine);
        for state in STATES {
            let (_dir, path) = template.copy(state);
            assert_eq!(template.judge(&path, state), Verdict::Whole);
        }
    }
}

#[test]
fn a_cut_or_zeroed_tail_is_never_a_silent_loss() {
    let template = Template::make();
    let mut named = 0;
    for state in STATES {
        for bytes in [1usize, 137, 4_096, 20_000, 60_000, 300_000, 700_000] {
            for zeroed in [false, true] {
                let case = format!("{state}: the last {bytes} bytes (zeroed: {zeroed})");
                let (_dir, path) = template.copy(state);
                change(&path.join("db"), |db| {
                    let end = db.iter().rposition(|&byte| byte != 0).unwrap() + 1;
                    let at = end.saturating_sub(bytes);
                    if zeroed {
                        db[at..].fill(0);
                    } else {
                        db.truncate(at);
                    }
                });
                if let Verdict::Damaged(Damage::Lost { from, to, .. }) =
                    template.judge(&path, &case)
                {
                    assert!(from <= to && to < template.sent.len() as u64, "{case}");
                    named += 1;
                }
            }
        }
    }
    assert!(
        named > 3,
        "the cuts reach records: {named} refusals name offsets"
    );
}

#[test]
fn flipped_bytes_are_never_a_silent_loss() {
    let template = Template::make();
    let mut refused = 0;
    for state in STATES {
        let length = fs::metadata(template.dir.path().join(state).join("db"))
            .unwrap()
            .len();
        let length = usize::try_from(length).unwrap();
        for n in 0..40 {
            let at = length * n / 40 + n * 7;
            let case = format!("{state}: flipped at {at} of {length}");
            let (_dir, path) = template.copy(state);
            change(&path.join("db"), |db| {
                db.iter_mut()
                    .skip(at)
                    .take(4)
                    .for_each(|byte| *byte ^= 0x5a);
            });
            let verdict = template.judge(&path, &case);
            refused += usize::from(!matches!(verdict, Verdict::Whole | Verdict::Replays));
        }
    }
    assert!(refused > 5, "the flips hit live bytes: {refused} refusals");
}

#[test]
fn damaged_snapshots_cost_nothing() {
    let template = Template::make();
    type Hurt = fn(&Path);
    let hurts: [(&str, Hurt); 5] = [
        ("deleted", |snapshot| fs::remove_file(snapshot).unwrap()),
        ("empty", |snapshot| fs::write(snapshot, b"").unwrap()),
        ("cut", |snapshot| {
            change(snapshot, |bytes| bytes.truncate(bytes.len() / 2))
        }),
        ("flipped", |snapshot| {
            change(snapshot, |bytes| bytes[10] ^= 0x5a)
        }),
        ("zeroed", |snapshot| change(snapshot, |bytes| bytes.fill(0))),
    ];
    for (name, hurt) in hurts {
        let (_dir, path) = template.copy("reopened");
        let found = snapshots(&path);
        assert!(!found.is_empty(), "an open leaves a snapshot");
        found.iter().for_each(|snapshot| hurt(snapshot));
        assert_eq!(template.judge(&path, name), Verdict::Whole, "{name}");
    }
    for state in STATES {
        for content in [&b""[..], b"half ", &[0; 5_000]] {
            let (_dir, path) = template.copy(state);
            fs::write(path.join("snap.00000000000FFFFF.generating"), content).unwrap();
            let verdict = template.judge(&path, state);
            assert_eq!(
                verdict,
                Verdict::Whole,
                "{state}: {} bytes left over",
                content.len()
            );
        }
    }
}

#[test]
fn a_missing_or_damaged_conf_is_never_a_silent_loss() {
    let template = Template::make();
    for state in STATES {
        let (_dir, path) = template.copy(state);
        fs::remove_file(path.join("conf")).unwrap();
        template.judge(&path, "conf deleted");
        let length = fs::metadata(template.dir.path().join(state).join("conf"))
            .unwrap()
            .len();
        for at in (0..usize::try_from(length).unwrap()).step_by(5) {
            let (_dir, path) = template.copy(state);
            change(&path.join("conf"), |bytes| bytes[at] ^= 0x5a);
            template.judge(&path, &format!("{state}: conf flipped at {at}"));
        }
        let (_dir, path) = template.copy(state);
        fs::write(path.join("conf"), b"").unwrap();
        template.judge(&path, "conf empty");
    }
}

#[test]
fn a_missing_foreign_or_damaged_mark_is_refused() {
    for engine in ENGINES {
        let template = Template::on(engine);
        let other = Template::on(engine);
        let mark = |path: &Path| beside(path, ".mark");

        let (_dir, path) = template.copy("killed");
        fs::remove_file(mark(&path)).unwrap();
        assert_eq!(
            template.judge(&path, "no mark"),
            Verdict::Damaged(Damage::NoMark)
        );

        for content in [vec![], vec![0; 128], vec![0xff; 200]] {
            let (_dir, path) = template.copy("killed");
            fs::write(mark(&path), content).unwrap();
            assert_eq!(
                template.judge(&path, "bad mark"),
                Verdict::Damaged(Damage::NoMark)
            );
        }

        let (_dir, path) = template.copy("killed");
        fs::copy(mark(&other.dir.path().join("killed")), mark(&path)).unwrap();
        assert_eq!(
            template.judge(&path, "other mark"),
            Verdict::Damaged(Damage::OtherMark)
        );

        // One slot torn, the other one older or newer: the log itself says the rest.
        for at in [0, 30, 63, 64, 100] {
            let (_dir, path) = template.copy("killed");
            change(&mark(&path), |bytes| bytes[at] ^= 0x5a);
            assert_eq!(
                template.judge(&path, "torn mark"),
                Verdict::Whole,
                "slot byte {at}"
            );
        }

        // After a power cut the mark may be older than the log.
        let (_dir, path) = template.copy("killed");
        fs::copy(mark(&template.dir.path().join("yesterday")), mark(&path)).unwrap();
        assert_eq!(template.judge(&path, "older mark"), Verdict::Whole);
    }
}

#[test]
fn a_restored_older_copy_is_refused_with_the_offsets_it_lacks() {
    for engine in ENGINES {
        let template = Template::on(engine);
        let last = template.sent.len() as u64 - 1;
        let (_dir, path) = template.copy("killed");
        fs::remove_dir_all(&path).unwrap();
        copy_dir(&template.dir.path().join("yesterday"), &path);
        let verdict = template.judge(&path, "yesterday's copy, today's mark");
        assert!(lost(YESTERDAY, last)(&verdict), "{verdict:?}");

        // With its own mark the copy opens: it is a whole log, of yesterday.
        let (_dir, path) = template.copy("yesterday");
        let (wal, _) = open_on(engine, &path).unwrap();
        assert_eq!(durable(&wal), YESTERDAY);
        close(wal);
    }
}

#[test]
fn a_log_whose_files_are_gone_is_not_begun_anew() {
    let template = Template::make();
    let last = template.sent.len() as u64 - 1;
    type Take = fn(&Path);
    let takes: [(&str, Take); 4] = [
        ("the directory", |path| fs::remove_dir_all(path).unwrap()),
        ("all files in it", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("db and its snapshots", |path| {
            fs::remove_file(path.join("db")).unwrap();
            snapshots(path)
                .iter()
                .for_each(|snapshot| fs::remove_file(snapshot).unwrap());
        }),
        ("what is in db", |path| {
            fs::write(path.join("db"), b"").unwrap();
            snapshots(path)
                .iter()
                .for_each(|snapshot| fs::remove_file(snapshot).unwrap());
        }),
    ];
    for state in STATES {
        for (name, take) in takes {
            let (_dir, path) = template.copy(state);
            take(&path);
            let verdict = template.judge(&path, name);
            assert!(lost(0, last)(&verdict), "{state}, {name}: {verdict:?}");
        }
        // With the snapshots left, sled itself may notice.
        let (_dir, path) = template.copy(state);
        fs::remove_file(path.join("db")).unwrap();
        assert_ne!(template.judge(&path, "db"), Verdict::Whole);
    }
}

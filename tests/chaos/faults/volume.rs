//! A full disk for real: the data directory lies on a small file system of its own, which another program fills up. Needs root
//! for the mount; elsewhere it is listed as not run.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use tokio::time::Instant;

use super::script::{Heard, Script};
use super::syncs::flood;
use super::{SOON, log_not_ready, readiness, until};
use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{Endpoints, Gateway, START_TIMEOUT, setting};

/// The size of the volume. A twentieth of it is what the log keeps free.
const VOLUME_BYTES: u64 = 192 << 20;
/// Less than the log keeps free.
const LITTLE_BYTES: u64 = 4 << 20;

pub(super) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("faults::a_volume_that_fills_up", |stage| full(stage, false)),
        Scenario::on_both("faults::a_volume_that_is_full_at_once", |stage| {
            full(stage, true)
        }),
    ];
    family.into_iter().flatten().collect()
}

/// The volume is filled to the brim, at once or with a last bit left first. New work is shed with a time to come back; the
/// gateway is killed and starts again on the full volume; with room everything goes on and nothing is lost.
async fn full(mut stage: Stage, at_once: bool) -> Result<()> {
    let Some(volume) = Volume::mount(&stage)? else {
        return Ok(());
    };
    stage.dir = volume.mounted.join("data");
    // Less than the log keeps free, as on a volume of common size.
    stage.set("EVENTKIT_WAL_BALLAST_BYTES", "4MiB");
    let mut script = Script::new(&stage, "after-all");
    let mut load = Load::start(&stage);
    for alarm in [
        "log_failed",
        "shutdown_after_failure",
        "publisher_failed",
        "store_lane_stuck",
    ] {
        load.allow_alarm(alarm);
    }
    for round in 0..stage.pick(1, 3) {
        let (gateway, endpoints) = stage
            .start()
            .await
            .with_context(|| format!("start {round}"))?;
        load.up(&endpoints);
        load.grows(Load::answers, 300, SOON).await?;
        volume.fill(if at_once { 0 } else { LITTLE_BYTES })?;
        let still_there = press_until_shed(&stage, &endpoints, round, &load).await?;
        let sheds = still_there && sheds_for_a_while(&endpoints, &mut script, &load).await?;
        volume.fill(0)?;
        let end = if sheds {
            // Filled up under it, it may end even now.
            load.down(gateway.kill().await.unwrap_or_default());
            "was killed"
        } else {
            load.down(gateway.ended(SOON).await?.alarms);
            "ended by itself"
        };

        let (gateway, what) = starts_full(&stage, &mut script).await?;
        let free = volume.free()?;
        stage.figure(&format!(
            "full: it {end}, started on {free} free bytes, {what}"
        ))?;
        with_room(gateway, &volume, &mut load).await?;
    }
    load.adopt(script.into_ledger());
    let (gateway, endpoints) = stage.start().await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// Sends until the gateway sheds, or has ended (`false`). sled's file has room in itself, which has to be used up first.
async fn press_until_shed(
    stage: &Stage,
    endpoints: &Endpoints,
    round: usize,
    load: &Load,
) -> Result<bool> {
    let began = Instant::now();
    for more in 0.. {
        match readiness(endpoints).await {
            None => return Ok(false),
            Some((_, ready)) if log_not_ready(&ready) == Some("full") => return Ok(true),
            // Or it has failed, and is about to end.
            Some(_) => ensure!(began.elapsed() < SOON, "it neither sheds nor ends"),
        }
        let length = Duration::from_millis(500);
        let (_, ledgers) = flood(stage, endpoints, (round * 1_000 + more, length)).await?;
        for ledger in ledgers {
            load.adopt(ledger);
        }
    }
    bail!("it neither sheds nor ends")
}

/// Sheds some requests; `false` if it ends meanwhile, since what it writes for itself finds no room.
async fn sheds_for_a_while(
    endpoints: &Endpoints,
    script: &mut Script,
    load: &Load,
) -> Result<bool> {
    let from = load.shed();
    let refused = sheds(endpoints, script).await;
    let mut there = true;
    until("it sheds or ends", async || {
        there = readiness(endpoints).await.is_some();
        Ok(!there || (refused.is_ok() && load.shed() >= from + 20))
    })
    .await?;
    Ok(there)
}

/// Starts on the full volume; it sheds there, unless its own files or the ballast give it room.
async fn starts_full(stage: &Stage, script: &mut Script) -> Result<(Gateway, String)> {
    let mut gateway = stage.spawn()?;
    let endpoints = gateway
        .listening(START_TIMEOUT)
        .await
        .context("a start on the full volume")?;
    until("an answer from the full volume", async || {
        Ok(readiness(&endpoints).await.is_some())
    })
    .await?;
    let ready = readiness(&endpoints).await;
    let serves = ready.is_some_and(|(status, _)| status == 200);
    if !serves {
        sheds(&endpoints, script).await?;
    }
    let ballast = if gateway.tail().contains("ballast_dropped") {
        "gave up its ballast"
    } else {
        "needed no ballast"
    };
    let what = format!("{ballast} and {}", if serves { "serves" } else { "sheds" });
    Ok((gateway, what))
}

/// With room again it takes work by itself.
async fn with_room(mut gateway: Gateway, volume: &Volume, load: &mut Load) -> Result<()> {
    volume.make_room()?;
    let endpoints = gateway.ready(SOON).await.context("with room again")?;
    load.up(&endpoints);
    load.grows(Load::answers, 100, SOON).await?;
    load.down(gateway.kill().await?);
    Ok(())
}

/// It says that it is not ready since the log is full, and both doors refuse with a time to come back.
async fn sheds(endpoints: &Endpoints, script: &mut Script) -> Result<()> {
    until("the log is full", async || {
        let ready = readiness(endpoints).await;
        Ok(ready
            .is_some_and(|(status, ready)| status == 503 && log_not_ready(&ready) == Some("full")))
    })
    .await?;
    // What was stored meanwhile may have left room for a few.
    until("both doors refuse", async || {
        let heard = [
            script.http(endpoints, 2).await?,
            script.grpc(endpoints, 2).await?,
        ];
        for heard in heard {
            ensure!(
                matches!(heard, Heard::Refused(Some(_)) | Heard::Outcomes),
                "a full log answered {heard:?}"
            );
        }
        Ok(!heard.contains(&Heard::Outcomes))
    })
    .await
}

/// A small file system in a file, mounted until it is dropped.
#[derive(Debug)]
struct Volume {
    mounted: PathBuf,
}

impl Volume {
    /// `None` where that is not possible, which is then said.
    fn mount(stage: &Stage) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return not_run(stage, "mounting a volume needs root");
        }
        let image = stage.dir.join("image");
        let mounted = stage.dir.join("volume");
        std::fs::create_dir_all(&mounted)?;
        File::create(&image)?.set_len(VOLUME_BYTES)?;
        let made = run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&image));
        let made = made.and_then(|()| {
            run(Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &mounted]))
        });
        match made {
            Ok(()) => Ok(Some(Self { mounted })),
            Err(error) if setting("CI").as_deref() == Some("true") => Err(error),
            Err(error) => not_run(stage, &format!("{error:#}")),
        }
    }

    /// Another program takes all but so many bytes.
    fn fill(&self, leave: u64) -> Result<()> {
        let path = self.mounted.join(format!("filler-{leave}"));
        let mut file = File::create(path)?;
        let block = vec![0x5a; 64 << 10];
        while self.free()? > leave {
            let left = self.free()?.saturating_sub(leave);
            let left = usize::try_from(left)?.clamp(1, block.len());
            match file.write_all(block.get(..left).unwrap_or(&block)) {
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                written => written?,
            }
        }
        match file.sync_all() {
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn make_room(&self) -> Result<()> {
        for leave in [0, LITTLE_BYTES] {
            super::remove(&self.mounted.join(format!("filler-{leave}")))?;
        }
        Ok(())
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mounted)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A process that is being killed may still hold it.
        let unmounted = run(Command::new("umount").arg(&self.mounted))
            .or_else(|_| run(Command::new("umount").arg("-l").arg(&self.mounted)));
        if let Err(error) = unmounted {
            crate::scenario::say("volume", &format!("STILL MOUNTED: {error:#}"));
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", command.get_program().display(), said.trim());
    }
    Ok(())
}

/// Adds to the list that `make test` shows at its end.
fn not_run(stage: &Stage, why: &str) -> Result<Option<Volume>> {
    let line = format!("the gateway on a volume that is really full ({why})");
    stage.say(&format!("NOT RUN: {line}"));
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("not-run.txt");
    let known = std::fs::read_to_string(&list).unwrap_or_default();
    if !known.lines().any(|known| known == line) {
        std::fs::write(list, format!("{known}{line}\n"))?;
    }
    Ok(None)
}

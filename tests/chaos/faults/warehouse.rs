//! The warehouse's file is locked, deleted or damaged: what was accepted waits in the store, work is taken all the same, the
//! operator is told what to do, and that helps.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{SOON, beside, degraded, remove, until, warehouse_file, well_again};
use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{Endpoints, Gateway};
use crate::support::warehouse;

pub(super) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("faults::a_locked_warehouse", locked),
        Scenario::on_both("faults::a_deleted_warehouse", deleted),
        Scenario::on_both("faults::a_damaged_warehouse", damaged),
    ];
    family.into_iter().flatten().collect()
}

/// What is done to the file; the number is a seed.
type Damage = fn(&Path, u64) -> Result<()>;

/// A gateway under load, with some rows in the warehouse.
async fn with_rows(stage: &Stage, load: &Load) -> Result<(Gateway, Endpoints)> {
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    let (before, _) = warehouse::counts(&stage.dir);
    load.grows(Load::answers, 300, SOON).await?;
    until("rows arrive", async || {
        Ok(warehouse::counts(&stage.dir).0 > before + 100)
    })
    .await?;
    Ok((gateway, endpoints))
}

/// Another program holds a lock for longer than the loader waits.
async fn locked(stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let load = Load::start(&stage);
    let (gateway, endpoints) = with_rows(&stage, &load).await?;
    let other = warehouse::open(&stage.dir)?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    degraded(&endpoints, "warehouse", "locked by another program").await?;
    load.grows(Load::answers, stage.pick(200, 10_000), SOON * 4)
        .await
        .context("answers while the warehouse is locked")?;
    other.execute_batch("ROLLBACK")?;
    drop(other);
    well_again(&endpoints).await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// The file goes while it is in use, and once more before a start, then with the loader's own notes in the store as well: it
/// is made again and filled from the store.
async fn deleted(stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let mut load = Load::start(&stage);
    load.expect_alarm("loader_round_failed");
    let (gateway, endpoints) = with_rows(&stage, &load).await?;
    let file = warehouse_file(&stage);
    remove(&file)?;
    degraded(&endpoints, "warehouse", "restart eventkit").await?;
    load.grows(Load::answers, stage.pick(200, 5_000), SOON * 4)
        .await
        .context("answers while the warehouse is gone")?;
    ensure!(!file.exists(), "the file was quietly made again");
    load.down(gateway.kill().await?);

    let (gateway, endpoints) = with_rows(&stage, &load)
        .await
        .context("a start without it")?;
    well_again(&endpoints).await?;
    load.down(gateway.kill().await?);
    for suffix in ["", "-wal", "-shm"] {
        remove(&beside(&file, suffix))?;
    }
    std::fs::remove_dir_all(stage.dir.join("store/manifests"))?;

    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 300, SOON).await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// The file is damaged between two lives, in each of three ways. What `/ready` says is done, and helps.
async fn damaged(stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let mut load = Load::start(&stage);
    load.expect_alarm("loader_round_failed");
    let file = warehouse_file(&stage);
    let ways: [(&str, Damage); 3] = [
        ("garbage", garbage),
        ("cut in half", halve),
        ("no database", overwrite),
    ];
    let some = usize::try_from(stage.settings.seed)? % ways.len();
    let count = stage.pick(1, ways.len());
    for (way, damage) in ways.into_iter().cycle().skip(some).take(count) {
        let (gateway, _) = with_rows(&stage, &load).await?;
        // In the middle of everything, but with all of its rows in one file.
        load.down(gateway.kill().await?);
        warehouse::open(&stage.dir)?.query_row(
            "PRAGMA wal_checkpoint(TRUNCATE)",
            [],
            |_| Ok(()),
        )?;
        damage(&file, stage.settings.seed).with_context(|| way.to_owned())?;

        let (gateway, endpoints) = stage.start().await?;
        load.up(&endpoints);
        degraded(
            &endpoints,
            "warehouse",
            "move the file away with its -wal and -shm",
        )
        .await
        .with_context(|| way.to_owned())?;
        load.grows(Load::answers, stage.pick(200, 5_000), SOON * 4)
            .await
            .context("answers while the warehouse is damaged")?;
        load.down(gateway.kill().await?);
        for suffix in ["", "-wal", "-shm"] {
            let aside = beside(&file, &format!(".{}{suffix}", way.replace(' ', "-")));
            match std::fs::rename(beside(&file, suffix), aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
    }
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    well_again(&endpoints).await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// All pages but the first are noise.
fn garbage(file: &Path, seed: u64) -> Result<()> {
    let bytes = usize::try_from(std::fs::metadata(file)?.len().saturating_sub(4_096))?;
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut noise);
    let mut file = std::fs::File::options().write(true).open(file)?;
    file.seek(SeekFrom::Start(4_096))?;
    file.write_all(&noise)?;
    Ok(())
}

/// The second half is missing.
fn halve(file: &Path, _seed: u64) -> Result<()> {
    let file = std::fs::File::options().write(true).open(file)?;
    file.set_len(file.metadata()?.len() / 2 / 4_096 * 4_096)?;
    Ok(())
}

/// Something else stands at its beginning.
fn overwrite(file: &Path, _seed: u64) -> Result<()> {
    let mut file = std::fs::File::options().write(true).open(file)?;
    file.write_all(&b"this is no database any more".repeat(40))?;
    Ok(())
}

//! A damaged copy of the database put into a state that can be read: its first page replaced where it says nothing, and the
//! frames of `log.db-wal` put into place one by one.
//!
//! SQLite believes a frame only if all before it are whole, since each checksum goes on from the one before. The one before is
//! written in its own frame's header, though: so each frame can be judged by itself, and those behind a damaged one be
//! used. A page that is then older than its neighbours may hide or repeat some keys; what is read is checked by the log's own
//! checksums.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{FILE, beside, create, refuse_unknown};
use crate::wal::storage::StorageError;

const WAL_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const PAGE_BYTES: usize = 4_096;
/// Where the database's header names the writer whose other numbers are to be believed.
const VALID_FOR: u64 = 92;

type Sums = (u32, u32);

/// Does it, in a directory that nobody else uses.
pub(super) fn replay(directory: &Path) -> Result<(), StorageError> {
    let file = directory.join(FILE);
    let unknown = !file.try_exists()? || refuse_unknown(&file).is_err();
    let database = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&file)?;
    if unknown {
        graft(directory, &database)?;
    }
    let journal = beside(&file, "-wal");
    match fs::read(&journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        frames => put_in_place(&frames?, &database)?,
    }
    // The number of pages in the header is that of one writer; the file's own length counts.
    database.write_all_at(&u32::MAX.to_be_bytes(), VALID_FOR)?;
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(&file, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The first page says what the database is and where its one table begins: it is the same in every log.
fn graft(directory: &Path, database: &File) -> Result<(), StorageError> {
    let fresh = directory.with_extension("fresh");
    create(&fresh)?;
    let mut pages = fs::read(fresh.join(FILE))?;
    if database.metadata()?.len() > PAGE_BYTES as u64 {
        pages.truncate(PAGE_BYTES);
    }
    Ok(database.write_all_at(&pages, 0)?)
}

/// Writes the pages of all frames that are whole, in order, up to the last that ended a commit.
fn put_in_place(journal: &[u8], database: &File) -> io::Result<()> {
    let seed = journal.get(24..WAL_HEADER_BYTES).and_then(sums);
    let mut before = seed;
    let mut whole = Vec::new();
    let frames = journal.get(WAL_HEADER_BYTES..).unwrap_or_default();
    for frame in frames.chunks_exact(FRAME_HEADER_BYTES + PAGE_BYTES) {
        let Some((header, page)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            break;
        };
        let (named, rest) = header.split_at(8);
        let (salt, sum) = rest.split_at(8);
        let said = sums(sum);
        let is_whole = before.is_some_and(|before| said == Some(add(add(before, named), page)));
        before = said;
        if !is_whole {
            continue;
        }
        let number = |bytes: Option<&[u8]>| {
            bytes
                .and_then(|b| b.try_into().ok())
                .map(u32::from_be_bytes)
        };
        let (page_number, commit) = (number(named.get(..4)), number(named.get(4..)));
        whole.push((salt, page_number.unwrap_or(0), page, commit != Some(0)));
    }
    // Frames of other salts were written before the file was begun anew. The salts have no checksum: those of the file's header
    // count if any frame has them.
    let named = journal.get(16..24).unwrap_or_default();
    let first = whole.first().map(|(salt, ..)| *salt);
    let salts = if whole.iter().any(|(salt, ..)| *salt == named) {
        Some(named)
    } else {
        first
    };
    whole.retain(|(salt, ..)| Some(*salt) == salts);
    let committed = whole.iter().rposition(|(.., commits)| *commits);
    for (_, number, page, _) in whole.iter().take(committed.map_or(0, |last| last + 1)) {
        if let Some(index) = number.checked_sub(1) {
            database.write_all_at(page, u64::from(index) * PAGE_BYTES as u64)?;
        }
    }
    Ok(())
}

fn sums(bytes: &[u8]) -> Option<Sums> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    let second: &[u8; 4] = rest.try_into().ok()?;
    Some((u32::from_be_bytes(*first), u32::from_be_bytes(*second)))
}

/// SQLite's checksum, over words in the order of the machine that wrote them.
fn add((mut a, mut b): Sums, bytes: &[u8]) -> Sums {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = pair.get(at..at + 4).and_then(|word| word.try_into().ok());
            u32::from_ne_bytes(word.unwrap_or_default())
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

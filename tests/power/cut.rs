//! A power cut: what is safe stays, and of what is open a random part.
//!
//! Each page (4 KiB; in some images each sector of 512 B) of a file, each file's length and each name goes its own way: it
//! keeps everything that was done to it, or nothing, or what was done up to some moment, as a page that was written back
//! in between. Names that change together in one call stay together.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::disk::{Change, Disk, File, HEARD, Image, Node, copy_at, parent};

const PAGE: usize = 4_096;
const SECTOR: usize = 512;

/// How a cut treats what is open.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Nothing,
    Everything,
    /// What was done before a moment: the caches were written back in order.
    Until(u64),
    /// Each piece with this likelihood.
    Some(f64),
}

impl Keep {
    fn random(rng: &mut StdRng, now: u64, oldest: u64) -> Self {
        match rng.random_range(0..10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Until(rng.random_range(oldest..=now + 1)),
            3 => Self::Some(0.97),
            _ => Self::Some(rng.random_range(0.05..0.95)),
        }
    }

    /// Of one piece, whatever was done before the moment that is returned stays.
    fn until(self, rng: &mut StdRng, moments: &[u64]) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Everything => u64::MAX,
            Self::Until(moment) => moment,
            Self::Some(likelihood) if !rng.random_bool(likelihood) => 0,
            Self::Some(_) if rng.random_bool(0.75) => u64::MAX,
            Self::Some(_) => moments
                .get(rng.random_range(0..moments.len().max(1)))
                .copied()
                .unwrap_or(0),
        }
    }
}

/// One of the many images that a cut at this moment can leave.
pub(crate) fn cut(disk: &Disk, rng: &mut StdRng) -> Image {
    let oldest_byte = disk
        .files
        .iter()
        .filter_map(|file| file.open.first().map(|(at, _)| *at))
        .min();
    let keep = Keep::random(rng, disk.now, oldest_byte.unwrap_or(disk.now));
    let piece = if rng.random_bool(0.2) { SECTOR } else { PAGE };
    let mut image = Image {
        heard: disk.heard.clone(),
        ..Image::default()
    };
    let mut names = disk.safe_names.clone();
    let mut dropped: HashSet<&str> = HashSet::new();
    for naming in &disk.open_names {
        let lost = naming
            .changes
            .iter()
            .any(|(path, _)| dropped.contains(path.as_str()))
            || keep.until(rng, &[naming.at]) <= naming.at;
        if lost {
            dropped.extend(naming.changes.iter().map(|(path, _)| path.as_str()));
        } else {
            naming.carry_out(&mut names);
        }
    }
    let mut cut_files: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut folders: HashSet<&str> = HashSet::from([""]);
    // Ascending: a folder comes before what is in it.
    for (path, node) in &names {
        if !folders.contains(parent(path)) {
            continue;
        }
        match node {
            Node::Heard => {}
            Node::Folder => {
                folders.insert(path);
                image.folders.push(path.clone());
            }
            Node::File(id) => {
                let Some(file) = disk.files.get(*id) else {
                    continue;
                };
                // Two names of one file show the same.
                let bytes = cut_files
                    .entry(*id)
                    .or_insert_with(|| cut_file(file, keep, piece, rng));
                image.files.insert(path.clone(), bytes.clone());
            }
        }
    }
    image
}

fn cut_file(file: &File, keep: Keep, piece: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = file.safe.clone();
    if file.open.is_empty() {
        return bytes;
    }
    let moments: Vec<u64> = file.open.iter().map(|(at, _)| at + 1).collect();
    let length_until = keep.until(rng, &moments);
    let mut length = bytes.len();
    let mut until: HashMap<usize, u64> = HashMap::new();
    for (at, change) in &file.open {
        match change {
            Change::Write { offset, data } => {
                let mut from = *offset;
                let mut rest = data.as_slice();
                while !rest.is_empty() {
                    let upto = (from / piece + 1) * piece;
                    let (now, later) = rest.split_at(rest.len().min(upto - from));
                    let kept = *until
                        .entry(from / piece)
                        .or_insert_with(|| keep.until(rng, &moments));
                    if *at < kept {
                        copy_at(&mut bytes, from, now);
                    }
                    from += now.len();
                    rest = later;
                }
                if *at < length_until {
                    length = length.max(offset + data.len());
                }
            }
            Change::Truncate(to) if *at < length_until => {
                bytes.truncate(*to);
                length = *to;
            }
            Change::Allocate(to) if *at < length_until => length = length.max(*to),
            Change::Truncate(_) | Change::Allocate(_) => {}
        }
    }
    bytes.resize(length, 0);
    bytes
}

impl Image {
    /// Puts the image where a program can open it.
    pub(crate) fn write(&self, into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        for folder in &self.folders {
            fs::create_dir_all(into.join(folder))?;
        }
        for (path, bytes) in &self.files {
            fs::write(into.join(path), bytes)?;
        }
        Ok(fs::write(into.join(HEARD), &self.heard)?)
    }

    /// Reads a directory.
    pub(crate) fn read(from: &Path) -> Result<Self> {
        let mut image = Self::default();
        image.read_folder(from, "")?;
        image.heard = image.files.remove(HEARD).unwrap_or_default();
        image.folders.sort_unstable();
        Ok(image)
    }

    fn read_folder(&mut self, root: &Path, below: &str) -> Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            if entry.file_type()?.is_dir() {
                self.read_folder(root, &path)?;
                self.folders.push(path);
            } else {
                self.files.insert(path, fs::read(entry.path())?);
            }
        }
        Ok(())
    }
}

//! What the files under a directory are, and what of them a power cut cannot take any more.
//!
//! A file's bytes and its length are safe when an `fsync` or `fdatasync` of it, begun after they were written, has ended.
//! A name is safe when the same holds of its folder: that a sync of the file makes its name safe too, as some file systems
//! do, is not relied upon. Whatever else was done is *open*: a power cut may keep it, drop it or tear it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};

use crate::journal::Record;

/// The file in which a child says what was promised to it. It is no part of the disk: what is heard is heard.
pub(crate) const HEARD: &str = "heard";

/// Which syncs count. The program under test is always the same; what its syncs are worth is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// All of them.
    All,
    /// No `fdatasync` of sled's file: sled's own flush, as it is without any measure of ours.
    SledFlushAlone,
    /// Not the `fdatasync` that replaces sled's `sync_file_range` (it comes through the handle that sled writes by), but the
    /// one that the log calls itself after each flush, through a handle of its own.
    SledWithoutBarrier,
    /// No sync of sled's folder: the names of its snapshots are not safe when it acts on them.
    SledWithoutSnapshotName,
    /// No sync of SQLite's write-ahead file.
    SqliteWithoutJournal,
    /// No sync of a file, only of folders.
    NamesAlone,
    /// No sync of a folder, only of files.
    BytesAlone,
}

impl Worth {
    fn counts(self, handle: &Handle, data_only: bool) -> bool {
        let sled = data_only && handle.path.ends_with("/db");
        let folder = matches!(handle.node, Node::Folder);
        match self {
            Self::All => true,
            Self::SledWithoutSnapshotName => !(folder && handle.path == "wal"),
            Self::SledFlushAlone => !sled,
            Self::SledWithoutBarrier => !(sled && handle.wrote),
            Self::SqliteWithoutJournal => !handle.path.ends_with("-wal"),
            Self::NamesAlone => folder,
            Self::BytesAlone => !folder,
        }
    }
}

/// How much stays open where syncs do not count: the system writes old pages back by itself.
const OPEN_BYTES_MAX: usize = 8 << 20;
const OPEN_NAMES_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Folder,
    File(usize),
    Heard,
}

/// A change of a file that is still open.
#[derive(Debug)]
pub(crate) enum Change {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Truncate(usize),
    /// At least so long.
    Allocate(usize),
}

#[derive(Debug, Default)]
pub(crate) struct File {
    /// What no power cut takes.
    pub(crate) safe: Vec<u8>,
    /// What was done since, each with its moment.
    pub(crate) open: Vec<(u64, Change)>,
    open_bytes: usize,
}

/// Names that change together.
#[derive(Debug)]
pub(crate) struct Naming {
    pub(crate) at: u64,
    pub(crate) changes: Vec<(String, Option<Node>)>,
    /// A folder that gets another name, with all that is in it.
    pub(crate) moved: Option<(String, String)>,
}

impl Naming {
    pub(crate) fn carry_out(&self, names: &mut Names) {
        for (path, node) in &self.changes {
            match node {
                Some(node) => names.insert(path.clone(), *node),
                None => names.remove(path),
            };
        }
        if let Some((from, to)) = &self.moved {
            let inside = |path: &str| {
                path.strip_prefix(from)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            let found: Vec<String> = names.keys().filter(|path| inside(path)).cloned().collect();
            for path in found {
                if let (Some(node), Some(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                    names.insert(format!("{to}{rest}"), node);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Handle {
    node: Node,
    path: String,
    wrote: bool,
}

#[derive(Debug)]
struct Sync {
    node: Node,
    path: String,
    began: u64,
}

/// Files by name, and what of it is a folder.
pub(crate) type Names = BTreeMap<String, Node>;

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Disk {
    worth: Worth,
    /// Counts the records: the time.
    pub(crate) now: u64,
    pub(crate) files: Vec<File>,
    names: Names,
    pub(crate) safe_names: Names,
    pub(crate) open_names: Vec<Naming>,
    handles: HashMap<i32, Handle>,
    syncs: HashMap<u64, Sync>,
    pub(crate) heard: Vec<u8>,
}

/// A directory's content as a program finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) folders: Vec<String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) heard: Vec<u8>,
}

impl Disk {
    /// A disk that holds this and nothing else.
    pub(crate) fn of(image: Image, worth: Worth) -> Self {
        let mut disk = Self {
            worth,
            now: 0,
            files: Vec::new(),
            names: Names::new(),
            safe_names: Names::new(),
            open_names: Vec::new(),
            handles: HashMap::new(),
            syncs: HashMap::new(),
            heard: image.heard,
        };
        for path in image.folders {
            disk.names.insert(path, Node::Folder);
        }
        for (path, safe) in image.files {
            disk.names.insert(path, Node::File(disk.files.len()));
            disk.files.push(File {
                safe,
                ..File::default()
            });
        }
        disk.safe_names = disk.names.clone();
        disk
    }

    /// What is open of the largest file, in bytes.
    pub(crate) fn open_bytes(&self) -> usize {
        self.files
            .iter()
            .map(|file| file.open_bytes)
            .max()
            .unwrap_or(0)
    }

    /// The directory as the running program sees it.
    pub(crate) fn live(&self) -> Image {
        let mut image = Image {
            heard: self.heard.clone(),
            ..Image::default()
        };
        for (path, node) in &self.names {
            match node {
                Node::Folder => image.folders.push(path.clone()),
                Node::Heard => {}
                Node::File(id) => {
                    let mut bytes = Vec::new();
                    if let Some(file) = self.files.get(*id) {
                        bytes.clone_from(&file.safe);
                        for (_, change) in &file.open {
                            change.carry_out(&mut bytes);
                        }
                    }
                    image.files.insert(path.clone(), bytes);
                }
            }
        }
        image
    }

    /// Takes the next record.
    pub(crate) fn apply(&mut self, record: Record) -> Result<()> {
        self.now += 1;
        match record {
            Record::Open { fd, flags, path } => self.opened(fd, flags, path)?,
            Record::Close { fd } => drop(self.handles.remove(&fd)),
            Record::Duplicate { from, to } => {
                let handle = self.handle(from)?.clone();
                self.handles.insert(to, handle);
            }
            Record::Write { fd, offset, data } => {
                let offset = usize::try_from(offset)?;
                let handle = self.handle(fd)?;
                handle.wrote = true;
                let node = handle.node;
                if node == Node::Heard {
                    self.heard.extend(data);
                } else {
                    self.change(node, Change::Write { offset, data })?;
                }
            }
            Record::Truncate { fd, bytes } => {
                let node = self.handle(fd)?.node;
                self.change(node, Change::Truncate(usize::try_from(bytes)?))?;
            }
            Record::Allocate { fd, mode, end } => {
                ensure!(
                    mode & !1 == 0,
                    "fallocate with the mode {mode} is not modelled"
                );
                let node = self.handle(fd)?.node;
                if mode == 0 {
                    self.change(node, Change::Allocate(usize::try_from(end)?))?;
                }
            }
            Record::SyncBegin { fd, id, data_only } => {
                let handle = self.handle(fd)?.clone();
                if self.worth.counts(&handle, data_only) {
                    let Handle { node, path, .. } = handle;
                    let began = self.now;
                    self.syncs.insert(id, Sync { node, path, began });
                }
            }
            Record::SyncEnd { id } => {
                if let Some(sync) = self.syncs.remove(&id) {
                    self.synced(&sync);
                }
            }
            Record::Rename { from, to, flags } => self.renamed(from, to, flags)?,
            Record::Link { from, to } => {
                let node = self.node(&from)?;
                self.name(vec![(to, Some(node))]);
            }
            Record::Remove { path } => self.name(vec![(path, None)]),
            Record::MakeFolder { path } => self.name(vec![(path, Some(Node::Folder))]),
        }
        Ok(())
    }

    fn handle(&mut self, fd: i32) -> Result<&mut Handle> {
        self.handles
            .get_mut(&fd)
            .with_context(|| format!("a call on the unknown descriptor {fd}"))
    }

    fn node(&self, path: &str) -> Result<Node> {
        if path.is_empty() {
            return Ok(Node::Folder);
        }
        let node = self.names.get(path).copied();
        node.with_context(|| format!("{path} was used, but nothing in the journal made it"))
    }

    fn opened(&mut self, fd: i32, flags: i32, path: String) -> Result<()> {
        let node = if path == HEARD {
            Node::Heard
        } else if flags & libc::O_CREAT != 0 && !self.names.contains_key(&path) {
            let node = Node::File(self.files.len());
            self.files.push(File::default());
            self.name(vec![(path.clone(), Some(node))]);
            node
        } else {
            self.node(&path)?
        };
        if flags & libc::O_TRUNC != 0 {
            self.change(node, Change::Truncate(0))?;
        }
        self.handles.insert(
            fd,
            Handle {
                node,
                path,
                wrote: false,
            },
        );
        Ok(())
    }

    fn change(&mut self, node: Node, change: Change) -> Result<()> {
        let Node::File(id) = node else {
            bail!("bytes of something that is no file were changed");
        };
        let (now, limited) = (self.now, self.worth != Worth::All);
        let file = self.files.get_mut(id).context("no such file")?;
        file.open_bytes += change.bytes();
        file.open.push((now, change));
        if limited && file.open_bytes > OPEN_BYTES_MAX {
            // In steps: each moves what follows.
            let count = file.open.len() / 4 + 1;
            file.settle(count);
        }
        Ok(())
    }

    fn renamed(&mut self, from: String, to: String, flags: i32) -> Result<()> {
        ensure!(flags == 0, "renameat2 with flags is not modelled");
        let node = self.node(&from)?;
        let moved = (node == Node::Folder).then(|| (from.clone(), to.clone()));
        if moved.is_some() {
            let inside = |naming: &Naming| {
                naming
                    .changes
                    .iter()
                    .any(|(path, _)| path.starts_with(&format!("{from}/")))
            };
            ensure!(
                !self.open_names.iter().any(inside),
                "{from} is renamed with names in it that are not safe"
            );
        }
        self.take(Naming {
            at: self.now,
            changes: vec![(from, None), (to, Some(node))],
            moved,
        });
        Ok(())
    }

    fn name(&mut self, changes: Vec<(String, Option<Node>)>) {
        self.take(Naming {
            at: self.now,
            changes,
            moved: None,
        });
    }

    fn take(&mut self, naming: Naming) {
        naming.carry_out(&mut self.names);
        self.open_names.push(naming);
        if self.worth != Worth::All && self.open_names.len() > OPEN_NAMES_MAX {
            self.open_names.remove(0).carry_out(&mut self.safe_names);
        }
    }

    fn synced(&mut self, sync: &Sync) {
        match sync.node {
            Node::Heard => {}
            Node::File(id) => {
                if let Some(file) = self.files.get_mut(id) {
                    let count = file.open.partition_point(|(at, _)| *at < sync.began);
                    file.settle(count);
                }
            }
            Node::Folder => {
                let (safe, open) = std::mem::take(&mut self.open_names)
                    .into_iter()
                    .partition::<Vec<_>, _>(|naming| {
                        let folder = naming.changes.last().map(|(path, _)| parent(path));
                        naming.at < sync.began && folder == Some(&sync.path)
                    });
                self.open_names = open;
                for naming in safe {
                    naming.carry_out(&mut self.safe_names);
                }
            }
        }
    }
}

impl File {
    /// The first so many changes are safe from now on.
    fn settle(&mut self, count: usize) {
        for (_, change) in self.open.drain(..count) {
            self.open_bytes -= change.bytes();
            change.carry_out(&mut self.safe);
        }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Write { data, .. } => data.len(),
            Self::Truncate(_) | Self::Allocate(_) => 0,
        }
    }

    fn carry_out(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => copy_at(bytes, *offset, data),
            Self::Truncate(length) => bytes.resize(*length, 0),
            Self::Allocate(length) => bytes.resize(bytes.len().max(*length), 0),
        }
    }
}

/// Writes into bytes, which grow where needed.
pub(crate) fn copy_at(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(offset..end) {
        place.copy_from_slice(data);
    }
}

/// The folder that a name lies in; the root's is empty.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

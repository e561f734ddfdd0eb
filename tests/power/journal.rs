//! The records that `tests/shim/journal.c` writes.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// Bytes before the paths and the data.
const HEADER_BYTES: usize = 40;

/// One call that succeeded.
#[derive(Debug)]
pub(crate) enum Record {
    Open {
        fd: i32,
        flags: i32,
        path: String,
    },
    Close {
        fd: i32,
    },
    Duplicate {
        from: i32,
        to: i32,
    },
    Write {
        fd: i32,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        fd: i32,
        bytes: u64,
    },
    Allocate {
        fd: i32,
        mode: i32,
        end: u64,
    },
    SyncBegin {
        fd: i32,
        id: u64,
        data_only: bool,
    },
    SyncEnd {
        id: u64,
    },
    Rename {
        from: String,
        to: String,
        flags: i32,
    },
    Link {
        from: String,
        to: String,
    },
    /// A file or an empty directory.
    Remove {
        path: String,
    },
    MakeFolder {
        path: String,
    },
}

/// Reads a journal from its beginning.
#[derive(Debug)]
pub(crate) struct Journal(BufReader<File>);

impl Journal {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self(BufReader::with_capacity(1 << 20, file)))
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
        let mut header = [0; HEADER_BYTES];
        match self.0.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let word = |at: usize| {
            let bytes = header
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (first, second) = (word(32) as usize, word(36) as usize);
        let rest = (word(0) as usize).checked_sub(HEADER_BYTES + first + second);
        let first = self.text(first)?;
        let second = self.text(second)?;
        let data = self.bytes(rest.context("a record is shorter than its parts")?)?;
        let (fd, flags) = (word(8).cast_signed(), word(12).cast_signed());
        Ok(Some(match word(4) {
            1 => Record::Open {
                fd,
                flags,
                path: first,
            },
            2 => Record::Close { fd },
            3 => Record::Duplicate {
                from: fd,
                to: i32::try_from(long(16))?,
            },
            4 => Record::Write {
                fd,
                offset: long(16),
                data,
            },
            5 => Record::Truncate {
                fd,
                bytes: long(16),
            },
            6 => Record::Allocate {
                fd,
                mode: flags,
                end: long(16) + long(24),
            },
            7 => Record::SyncBegin {
                fd,
                id: long(16),
                data_only: flags != 0,
            },
            8 => Record::SyncEnd { id: long(16) },
            9 => Record::Rename {
                from: first,
                to: second,
                flags,
            },
            10 => Record::Link {
                from: first,
                to: second,
            },
            11 | 13 => Record::Remove { path: first },
            12 => Record::MakeFolder { path: first },
            other => bail!("a record of the unknown kind {other}"),
        }))
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0
            .read_exact(&mut bytes)
            .context("the journal ends within a record")?;
        Ok(bytes)
    }

    fn text(&mut self, count: usize) -> Result<String> {
        let text = String::from_utf8(self.bytes(count)?).context("a path is not UTF-8")?;
        ensure!(
            !text.contains("//") && !text.contains("/../"),
            "a path that is not plain: {text}"
        );
        Ok(text)
    }
}

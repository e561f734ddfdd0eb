//! What a refusal tells: which offsets are concerned, and the command that helps.

use std::fmt;
use std::path::Path;

use crate::event::Offset;

/// The acknowledged offsets of which some cannot be read, as far as checkpoint, seals and mark tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concerned {
    /// The first; everything below is settled.
    pub from: Offset,
    /// One past the last, if the mark tells it.
    pub end: Option<Offset>,
}

impl fmt::Display for Concerned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) if end > self.from => write!(
                f,
                "acknowledged offsets {} to {} are concerned",
                self.from,
                end - 1
            ),
            Some(end) => write!(
                f,
                "no acknowledged offset is concerned: all below {end} are delivered"
            ),
            None => write!(
                f,
                "acknowledged offsets from {} on are concerned; the last one is not known without the mark",
                self.from
            ),
        }
    }
}

/// The command that saves what can be read, ready to be typed.
#[must_use]
pub fn repair_command(log: &Path) -> String {
    format!("eventkit wal repair {}", quoted(log))
}

/// A path as a shell takes it.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_typed_whatever_the_path() {
        for (path, expected) in [
            ("./eventkit-data/wal", "./eventkit-data/wal"),
            ("/var/lib/my events/wal", "'/var/lib/my events/wal'"),
            ("it's $HOME", r"'it'\''s $HOME'"),
        ] {
            let command = repair_command(Path::new(path));
            assert_eq!(command, format!("eventkit wal repair {expected}"));
        }
    }

    #[test]
    fn offsets_are_named_as_far_as_they_are_known() {
        let text = |from, end| Concerned { from, end }.to_string();
        assert_eq!(
            text(100, Some(480)),
            "acknowledged offsets 100 to 479 are concerned"
        );
        assert!(text(100, None).starts_with("acknowledged offsets from 100 on"));
        assert!(text(100, Some(100)).starts_with("no acknowledged offset"));
    }
}

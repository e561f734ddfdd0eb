//! A folder of the store, page after page.

use crate::store::{Objects, WriteError};

/// Names that are listed at a time.
const PAGE: usize = 1_000;

/// Goes over the names in a folder, ascending.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    folder: &'a str,
    after: Option<String>,
}

impl<'a> Pages<'a> {
    /// All names.
    pub(super) fn of(folder: &'a str) -> Self {
        Self {
            folder,
            after: None,
        }
    }

    /// The names that come after this one.
    pub(super) fn after(folder: &'a str, after: String) -> Self {
        Self {
            folder,
            after: Some(after),
        }
    }

    /// The next names; `None` when there are no more.
    pub(super) async fn next(
        &mut self,
        objects: &dyn Objects,
    ) -> Result<Option<Vec<String>>, WriteError> {
        let after = self.after.as_deref();
        let names = objects.list(self.folder, after, PAGE).await?;
        let Some(last) = names.last() else {
            return Ok(None);
        };
        self.after = Some(last.clone());
        Ok(Some(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fake::MemoryObjects;

    #[tokio::test]
    async fn every_name_of_a_folder_comes_once_and_in_order() {
        let objects = MemoryObjects::default();
        let names: Vec<String> = (0..2 * PAGE + 1).map(|n| format!("a/{n:05}")).collect();
        for name in names.iter().rev().chain(&["b/0".to_owned()]) {
            objects.put_if_absent(name, "x".into()).await.unwrap();
        }
        let (mut pages, mut found) = (Pages::of("a/"), Vec::new());
        while let Some(page) = pages.next(&objects).await.unwrap() {
            assert!(page.len() <= PAGE);
            found.extend(page);
        }
        assert_eq!(found, names);

        let mut pages = Pages::after("a/", names[2 * PAGE - 1].clone());
        let page = pages.next(&objects).await.unwrap();
        assert_eq!(page.as_deref(), names.get(2 * PAGE..));
        assert_eq!(pages.next(&objects).await.unwrap(), None);
    }
}

//! A copy of a tree that was written here, byte for byte: the tree that an agent gets where the original stays.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Tree, system, told};
use crate::link::check_target;
use crate::look::{Found, Unseen, look, names};
use crate::path::RelativePath;
use crate::refusal::{Error, Refusal};

/// Bytes of the names of one folder: those of a million entries are as long on average.
const NAMES_BYTES_MAX: usize = 64 << 20;

impl Tree {
    /// Writes everything that `original` holds, a `.git` folder too: what stands there was judged when it was written.
    ///
    /// # Errors
    /// Refuses what no [`Tree`] writes and what exceeds a limit, and tells what the system says.
    pub fn copy(&mut self, original: BorrowedFd<'_>) -> Result<(), Error> {
        self.copy_folder(original, "")
    }

    fn copy_folder(&mut self, folder: BorrowedFd<'_>, within: &str) -> Result<(), Error> {
        let names = names(folder, self.limits.entries_max, NAMES_BYTES_MAX);
        let names = names.map_err(|errno| system("read the folder", within, errno))?;
        let refused = |reason| Error::from(Refusal::new(within.as_bytes(), reason));
        for name in names.map_err(refused)? {
            let path = [within.as_bytes(), &name].join(&b'/');
            let path = RelativePath::parse(path.strip_prefix(b"/").unwrap_or(&path))?;
            let found = match look(folder, &name) {
                Ok(found) => found,
                Err(Unseen::Refused(reason)) => {
                    return Err(Refusal::new(path.as_str().as_bytes(), reason).into());
                }
                Err(Unseen::Failed(errno)) => return Err(told("read", &path, errno)),
            };
            if let Some(found) = found {
                self.copy_entry(&path, found)?;
            }
        }
        Ok(())
    }

    fn copy_entry(&mut self, path: &RelativePath, found: Found) -> Result<(), Error> {
        self.begin_any(path)?;
        let done = match found {
            Found::Folder(folder) => {
                let made = self.ensure(path.as_str(), path);
                self.end(made)?;
                return self.copy_folder(folder.as_fd(), path.as_str());
            }
            Found::File { mut file, is_executable, modified, .. } => {
                self.write(path, is_executable, Some(modified), &mut file).map(|_| ())
            }
            Found::Link(target) => self.link(path, |folder, name| {
                check_target(path, &target)?;
                rustix::fs::symlinkat(&*target, folder, name).map_err(|errno| told("link", path, errno))
            }),
        };
        self.end(done)
    }
}
